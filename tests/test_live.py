"""The whole unit in real time: gpiozero on mock pins, pyserial on a pty, PyAudio, Mosquitto, paho at the other end.

All scenarios play at the same time, each in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivers.virtual import scenario as story
from drivers.virtual.line import VirtualLine
from drivers.virtual.sound import SoundError
from firmware.simulate import LiveUnit, check, results
from tests.proof import broker
from tests.proof.consumer import the_consumer_has_all
from tests.proof.live import Played, play, processes
from tests.proof.wire import stretches
from tests.test_scenarios import the_journals_give_the_same_calls

pytestmark = pytest.mark.realtime

SCENARIOS = Path(__file__).parent / "scenarios"
MODEM_BACK = """\
title The modem is pulled out and put back before a call
number display
1.0 unplug modem
2.5 plug modem
8.0 call from 090-0000-5678
14.5 lift
15.0 shop says greeting
20.0 hang up
end 23
expect calls 1
expect call 1 outcome=answered number=09000005678 presentation=allowed answered=14.5 ended=20.0 recording=yes
"""
STOOD_STILL = """\
title The unit's process stands still while caller ID is announced, and again when the phone is lifted
number display
3.0 call from 03-0000-9012
10.5 lift
11.0 shop says greeting
18.0 hang up
20.0 call from 090-0000-5678
27.5 lift
28.0 shop says greeting
33.0 hang up
end 37
expect calls 2
expect call 1 outcome=answered number=0300009012 rings=1 answered=10.5 ended=18.0 recording=yes
expect call 2 outcome=answered number=09000005678 rings=1 answered=27.5 ended=33.0 recording=yes
"""
STOPS = ((4.0, 0.4), (10.3, 0.6), (22.1, 0.6), (32.8, 0.5))
Run = tuple[Path, Path, Played]  # scenario, data directory, what came of it


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Run]]:
    work = tmp_path_factory.mktemp("live")
    names = ("answered-number-display", "codec-lost-mid-call")
    texts = {name: (SCENARIOS / f"{name}.txt").read_text(encoding="utf-8") for name in names}
    texts |= {"modem-back": MODEM_BACK, "broker-away": broker.scenario_text(15), "stood-still": STOOD_STILL}
    stops = {"stood-still": STOPS}
    for name, text in texts.items():
        (work / f"{name}.txt").write_text(text, encoding="utf-8")
    with processes(len(texts)) as pool:
        futures = {
            name: pool.submit(play, work / f"{name}.txt", work / name, stops=stops.get(name, ())) for name in texts
        }
        yield lambda name: (work / f"{name}.txt", work / name, futures[name].result())


@pytest.mark.parametrize("name", ["answered-number-display", "modem-back"])
def test_a_scenario_live(played: Callable[[str], Run], name: str) -> None:
    path, data, run = played(name)
    assert check(story.load(path), data, base_ns=run.base_ns, tolerance_s=0.1) == []
    assert the_consumer_has_all(run.events, results(data)[1]) == 0
    the_states_are_retained(run, data)
    the_sound_is_on_time(path, data, run)
    the_journals_give_the_same_calls(data)


def test_a_process_that_stood_still_invents_no_call(played: Callable[[str], Run]) -> None:
    path, data, run = played("stood-still")
    assert check(story.load(path), data, base_ns=run.base_ns, tolerance_s=0.1) == []
    assert the_consumer_has_all(run.events, results(data)[1]) == 0
    the_journals_give_the_same_calls(data)


TWO_LINES = (
    """\
title The first of two lines, on the left channel
number display
2.0 call from 03-0000-1234
9.0 lift
9.5 shop says greeting
17.0 hang up
end 22
expect calls 1
expect call 1 outcome=answered number=0300001234 answered=9.0 ended=17.0 recording=yes
""",
    """\
title The second, on the right channel, at the same time
number display
1.0 call from 03-0000-5678
10.0 lift
10.2 caller says greeting
14.0 shop says order
18.0 hang up
end 22
expect calls 1
expect call 1 outcome=answered number=0300005678 answered=10.0 ended=18.0 recording=yes
""",
)


def test_two_lines_on_one_codec_are_kept_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "left.txt", tmp_path / "right.txt"]
    for path, text in zip(paths, TWO_LINES, strict=True):
        path.write_text(text, encoding="utf-8")
    data = tmp_path / "data"
    with processes(1) as pool:
        run = pool.submit(play, paths[0], data, *paths[1:]).result()
    assert {"state/line/1", "state/line/2"} <= set(run.states)
    calls = results(data)[0]
    for number, path in enumerate(paths, 1):
        assert check(story.load(path), data, base_ns=run.base_ns, tolerance_s=0.1, line=number) == []
        (call,) = [call for call in calls if call["line"] == number]
        recording, line = call["recording"], VirtualLine(story.load(path))
        found = stretches(data / recording["path"], recording["from_ns"], line, run.base_ns, length_s=0.4)
        assert recording["gaps"] == [] and len(found) >= 2
        assert all(each.correlation > 0.999 and abs(each.lag_ms) < 60 for each in found), found
    the_journals_give_the_same_calls(data)


def the_states_are_retained(run: Played, data: Path) -> None:
    calls, events = results(data)
    states = {topic: json.loads(text) for topic, text in run.states.items() if topic != "status"}
    assert run.states["status"] == "online"
    assert set(states) == {"info", "state/line/1", "state/recorder", "state/last_call", "state/health"}
    assert states["info"]["store_id"] in events[0]["id"]
    assert states["state/line/1"]["state"] == "idle"
    recorder = states["state/recorder"]
    assert (recorder["recording"], recorder["outbox_depth"], recorder["faults"]) == (False, 0, [])
    assert recorder["streams"]["call"] == {"oldest_seq": 1, "last_seq": len(events)}
    assert states["state/last_call"]["call_id"] == calls[-1]["call_id"]
    digits = [call["caller"]["raw"] for call in calls if call["caller"]["raw"]]
    assert not any(number[-8:] in text for number in digits for text in run.states.values())


def the_sound_is_on_time(path: Path, data: Path, run: Played) -> None:
    """Every recording is the wire's sound, and its time is the edges' time within 60 ms."""
    line = VirtualLine(story.load(path))
    found = []
    for call in results(data)[0]:
        recording = call["recording"]
        assert recording["gaps"] == []
        found += stretches(data / recording["path"], recording["from_ns"], line, run.base_ns)
    assert len(found) >= 4
    print(f"lag {min(s.lag_ms for s in found):.1f} to {max(s.lag_ms for s in found):.1f} ms")
    for stretch in found:
        assert stretch.correlation > 0.999, stretch
        assert abs(stretch.lag_ms) < 60, stretch


def test_the_codec_is_lost_in_a_call_and_comes_back(played: Callable[[str], Run]) -> None:
    """As stepped, but the gap is longer than the loss: a real codec needs time to be found and opened."""
    path, data, run = played("codec-lost-mid-call")
    sentences = check(story.load(path), data, base_ns=run.base_ns, tolerance_s=0.1)
    assert all("expected filled=" in sentence for sentence in sentences)
    assert the_consumer_has_all(run.events, results(data)[1]) == 0
    call = results(data)[0][0]
    recording = call["recording"]
    (gap,) = recording["gaps"]
    assert recording["from_ns"] / 1e9 + gap["at_s"] == pytest.approx(run.base_ns / 1e9 + 9.0, abs=0.2)
    assert 3.0 < gap["duration_s"] < 8.0
    lasted_s = (call["ended_ns"] - recording["from_ns"]) / 1e9 + 1.25
    assert recording["duration_s"] == pytest.approx(lasted_s, abs=0.1), "the gap moved what follows"
    found = stretches(data / recording["path"], recording["from_ns"], VirtualLine(story.load(path)), run.base_ns)
    heard = [stretch for stretch in found if stretch.correlation > 0.999 and abs(stretch.lag_ms) < 60]
    assert any(stretch.at_s < gap["at_s"] for stretch in heard)
    assert any(stretch.at_s > gap["at_s"] + gap["duration_s"] for stretch in heard), "the line is dead after the gap"
    the_journals_give_the_same_calls(data)


def descendants(root: int) -> dict[int, str]:
    """Processes below one, with their names."""
    children: dict[int, list[int]] = {}
    names = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = stat.read_text().rpartition(")")
        except OSError:
            continue  # it ended meanwhile
        pid, name = head.split(" (", 1)
        names[int(pid)] = name
        children.setdefault(int(tail.split()[1]), []).append(int(pid))
    look = [root]
    for parent in look:
        look += children.get(parent, [])
    return {pid: names[pid] for pid in look[1:]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_simulation(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "tmp").mkdir()
    simulation = subprocess.Popen(
        [sys.executable, "-m", "firmware", "simulate", str(SCENARIOS / "shop-day.txt"), "--live", "--data", "d"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SCENARIOS.parent.parent), "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert simulation.stdout is not None
    try:
        assert any("call.ringing" in line for line in iter(simulation.stdout.readline, ""))
        started = descendants(simulation.pid)
        assert {"mosquitto", "pulseaudio", "pacat"} <= set(started.values())
    finally:
        simulation.send_signal(number)
        said = simulation.communicate(timeout=30)[0]
    assert simulation.returncode == (130 if number == signal.SIGTERM else -number), said
    until = time.monotonic() + 10
    while (left := [pid for pid in started if runs(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left
    if number == signal.SIGTERM:
        assert "Ending; a call that goes on is closed and kept." in said and "interrupted" in said
        assert not list((tmp_path / "tmp").iterdir())


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""  # ended meanwhile


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_missing_program_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mosquitto runs already when PulseAudio turns out to be missing."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("setpriv", "mosquitto"):
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
        assert found
        (programs / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    live = LiveUnit(story.load(SCENARIOS / "missed-number-display.txt"), tmp_path / "d")
    with pytest.raises(SoundError, match="install the Debian package pulseaudio"), live:
        pass
    assert not [pid for pid in descendants(os.getpid()) if str(tmp_path) in command_line(pid)]
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_the_broker_is_away_while_calls_go_on(played: Callable[[str], Run]) -> None:
    path, data, run = played("broker-away")
    broker.the_broker_was_away(path, data, run)
    the_states_are_retained(run, data)
    the_sound_is_on_time(path, data, run)
    the_journals_give_the_same_calls(data)
