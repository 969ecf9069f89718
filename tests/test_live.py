"""The whole unit in real time: gpiozero on mock pins, pyserial on a pty, PyAudio, Mosquitto, paho at the other end.

All scenarios play at the same time, each in a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivers.virtual import scenario as story
from drivers.virtual.line import VirtualLine
from firmware.simulate import check, results
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
Run = tuple[Path, Path, Played]  # scenario, data directory, what came of it


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Run]]:
    work = tmp_path_factory.mktemp("live")
    names = ("answered-number-display", "codec-lost-mid-call")
    texts = {name: (SCENARIOS / f"{name}.txt").read_text(encoding="utf-8") for name in names}
    texts |= {"modem-back": MODEM_BACK, "broker-away": broker.scenario_text(15)}
    for name, text in texts.items():
        (work / f"{name}.txt").write_text(text, encoding="utf-8")
    with processes(len(texts)) as pool:
        futures = {name: pool.submit(play, work / f"{name}.txt", work / name) for name in texts}
        yield lambda name: (work / f"{name}.txt", work / name, futures[name].result())


@pytest.mark.parametrize("name", ["answered-number-display", "modem-back"])
def test_a_scenario_live(played: Callable[[str], Run], name: str) -> None:
    path, data, run = played(name)
    assert check(story.load(path), data, base_ns=run.base_ns, tolerance_s=0.1) == []
    assert the_consumer_has_all(run.events, results(data)[1]) == 0
    the_states_are_retained(run, data)
    the_sound_is_on_time(path, data, run)
    the_journals_give_the_same_calls(data)


def the_states_are_retained(run: Played, data: Path) -> None:
    calls, events = results(data)
    states = {topic: json.loads(text) for topic, text in run.states.items() if topic != "status"}
    assert run.states["status"] == "online"
    assert set(states) == {"info", "state/line/1", "state/recorder", "state/last_call"}
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
    assert any(stretch.correlation > 0.999 and abs(stretch.lag_ms) < 60 for stretch in found)
    the_journals_give_the_same_calls(data)


def test_the_broker_is_away_while_calls_go_on(played: Callable[[str], Run]) -> None:
    path, data, run = played("broker-away")
    broker.the_broker_was_away(path, data, run)
    the_states_are_retained(run, data)
    the_sound_is_on_time(path, data, run)
    the_journals_give_the_same_calls(data)
