"""The command line as people and programs use it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from firmware.cli import doctor
from firmware.cli.calls import print_calls
from firmware.cli.main import main
from firmware.cli.show import event_text, terminal
from firmware.core.call import told
from firmware.core.caller import Caller
from firmware.records.store import CallStore, read_table
from firmware.simulate import results
from tests.test_store import call as made_call

ROOT = Path(__file__).parent.parent
SCENARIO = ROOT / "tests/scenarios/answered-number-display.txt"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("cli") / "data"
    assert main(["simulate", str(SCENARIO), "--data", str(data), "--json"]) == 0
    return data


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_simulate_tells_programs_all_of_a_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "simulate", str(SCENARIO), "--data", str(tmp_path / "d"), "--json")
    (call,) = (json.loads(line) for line in out.splitlines())
    assert code == 0
    assert (call["direction"], call["outcome"], call["number"], call["reason"]) == (
        "incoming", "answered", "+81300001234", None,
    )  # fmt: skip
    assert call["scenario_s"]["answered"] == pytest.approx(8.5, abs=0.02)
    assert Path(call["recording"]["path"]).stat().st_size == call["recording"]["size_bytes"]


def test_a_shop_s_day_says_who_or_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    day = str(ROOT / "tests/scenarios/shop-day.txt")
    _, out, _ = run(capsys, "simulate", day, "--data", str(tmp_path / "d"), "--json")
    calls = [json.loads(line) for line in out.splitlines()]
    assert len(calls) == 8
    assert all((call["number"] is None) != (call["reason"] is None) for call in calls)
    assert {call["reason"] for call in calls} == {None, "withheld", "unavailable", "payphone"}


def test_an_unmet_expectation_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("title Wrong\n2.0 call from 03-0000-1234\n+9 give up\nexpect calls 7\n")
    code, out, _ = run(capsys, "simulate", str(wrong), "--data", str(tmp_path / "d"))
    assert code == 1
    assert "expected 7 calls, the unit filed 1." in " ".join(out.split())


def test_a_picture_of_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg = tmp_path / "t.svg"
    run(capsys, "simulate", str(SCENARIO), "--data", str(tmp_path / "d"), "--svg", str(svg))
    assert "03-0000-1234" in svg.read_text()


def test_calls_are_listed_shown_and_exported(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "calls", "list", "--data", str(played), "--json")
    (call,) = (json.loads(line) for line in out.splitlines())
    assert code == 0 and call["caller"]["number"] == "+81300001234"
    assert run(capsys, "calls", "list", "--data", str(played), "--missed", "--json")[1] == ""
    assert run(capsys, "calls", "list", "--data", str(played), "--number", "0000-12", "--json")[1] == out
    assert run(capsys, "calls", "list", "--data", str(played), "--number", "99", "--json")[1] == ""
    code, shown, _ = run(capsys, "calls", "show", call["call_id"][-6:], "--data", str(played))
    assert code == 0 and call["recording"]["sha256"] in "".join(shown.split()) and "▇" in shown
    code, paths, _ = run(capsys, "calls", "export", call["call_id"], "--data", str(played), "--out", str(tmp_path))
    record, sound = paths.split()
    assert json.loads(Path(record).read_text()) == call
    assert Path(sound).read_bytes() == (played / call["recording"]["path"]).read_bytes()


def test_a_replay_gives_the_stored_calls(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (journal,) = (played / "journal").iterdir()
    code, out, _ = run(capsys, "replay", str(journal))
    assert code == 0
    assert out == run(capsys, "calls", "list", "--data", str(played), "--json")[1]


@pytest.fixture
def odd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    """A folder of calls whose names look like markup, and what `simulate` printed of them."""
    text = tmp_path / "odd.txt"
    text.write_text(
        'title Names [/b] {0} [x]\nnumber display\n2 call from 03-0000-1234 name "[/A] CO"\n+9 give up\n'
        '+20 call from 03-0000-5678 name "[red] :cat:"\n+9 lift\n+3 hang up\nexpect call 2 name="[/x] else"\n'
    )
    code, out, _ = run(capsys, "simulate", str(text), "--data", str(tmp_path / "d"))
    assert code == 1
    return tmp_path / "d", out


def test_a_name_is_no_markup(odd: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    data, simulated = odd
    assert "expected name=[/x] else, found [red] :cat:." in simulated
    listed = run(capsys, "calls", "list", "--data", str(data))[1]
    for out in (simulated, listed):
        assert "03-0000-1234 [/A] CO (Tokyo)" in out and "03-0000-5678 [red] :cat: (Tokyo)" in out
    for call in read_table(data / "store", "calls"):
        shown = run(capsys, "calls", "show", str(call["call_id"]), "--data", str(data))[1]
        assert f"{call['caller']['national']} {call['caller']['name']}" in shown


def test_an_event_is_a_line_that_says_something(odd: tuple[Path, str]) -> None:
    lines = [event_text(event).plain for event in results(odd[0])[1]]
    said = {line.split()[3]: " ".join(line.split()[4:]) for line in lines}
    assert said["call.ringing"] == "incoming call"
    assert said["call.caller_id"] == said["call.answered"] == "03-0000-5678 [red] :cat: (Tokyo)"
    assert said["call.missed"].endswith("03-0000-1234 [/A] CO (Tokyo)")
    time_line = {"time": "2026-11-24T00:00:00Z", "type": "call.dialled"}
    data = {"line": 1, "direction": "outgoing", "caller": None, "dialled": None}
    assert event_text({**time_line, "data": data}).plain.endswith("  outgoing call")
    waiting = told(Caller(presentation="withheld", reason="withheld"))
    line = event_text({**time_line, "type": "call.waiting", "data": {**data, "waiting": waiting}})
    assert line.plain.endswith("  number withheld")


def test_a_finding_is_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "[x] [/x]"
    path = settings_file(tmp_path)
    path.write_text(path.read_text().replace(f'"{tmp_path}"', f'"{data}"'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "_devices", lambda *_: [])
        code, out, err = run(capsys, "doctor", "--settings", str(path))
    assert (code, err) == (1, "")
    assert f"{data} is not there; run install.sh again, or mend [unit] data_dir." in out


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_list_shows_direction_and_id_at_any_width(odd: tuple[Path, str], width: int) -> None:
    calls = read_table(odd[0] / "store", "calls")
    long = {**calls[0], "outcome": "outgoing_answered", "opened": "2026-11-24T00:00:00Z"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        patch.setattr("sys.stdout", Tty())
        console = terminal()
        with console.capture() as capture:
            print_calls([*calls, long], console)
        with console.capture() as two_lines:
            print_calls([*calls, {**long, "line": 2}], console)
    rows = capture.get().splitlines()
    for call in calls:
        assert any(" in " in row and row.rstrip().endswith(call["call_id"][-8:]) for row in rows)
    assert "…" not in capture.get()
    assert "line" not in rows[0] and "line" in two_lines.get().splitlines()[0]


def test_calls_are_listed_in_the_order_of_filing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids hold wall time, and a clock can be put back."""
    store = CallStore(tmp_path / "store", "s")
    for name in "cab":
        store.commit(replace(made_call(1), call_id=name), [])
    store.close()
    out = run(capsys, "calls", "list", "--data", str(tmp_path), "--json")[1]
    assert [json.loads(line)["call_id"] for line in out.splitlines()] == [*"cab"]
    assert [each["call_id"] for each in results(tmp_path)[0]] == [*"cab"]


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["simulate", "none.txt"], "none.txt: cannot be read"),
        (["simulate", str(SCENARIO), "--data", "/proc/x"], "/proc/x: cannot be used"),
        (["simulate", str(SCENARIO), "--calls", "-1"], "--calls -1: is no number of calls; give 0 or more."),
        (["simulate", str(SCENARIO), "--data", str(ROOT)], "is there already; give a new folder"),
        (["calls", "list", "--data", "/nowhere"], "/nowhere/store: there is no store here yet"),
        (["calls", "list", "--settings", "/none.toml"], "/none.toml: cannot be read"),
        (["replay", str(ROOT / "README.md")], "README.md:1: is not a journal line"),
        (["replay", "/none"], "/none: cannot be read"),
        (["settings", "check", "--settings", "/none.toml"], "/none.toml: cannot be read"),
        (["run", "--settings", "/none.toml"], "/none.toml: cannot be read"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert sentence in err and len(err.splitlines()) == 1


def test_a_call_that_is_not_there(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "calls", "show", "zzz", "--data", str(played))
    assert code == 2 and "no call has an id that ends in 'zzz'" in err


@pytest.mark.parametrize("cut", range(0, 3000, 171))
def test_a_journal_cut_anywhere_replays_what_is_whole(
    played: Path, tmp_path: Path, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (journal,) = (played / "journal").iterdir()
    copy = tmp_path / "j.jsonl"
    copy.write_bytes(journal.read_bytes()[:cut])
    code, _, err = run(capsys, "replay", str(copy))
    assert code == 0 or (code == 2 and len(err.splitlines()) == 1)


def settings_file(tmp_path: Path, **line: str) -> Path:
    extra = "".join(f"{key} = {value!r}\n" for key, value in line.items())
    path = tmp_path / "settings.toml"
    path.write_text(
        f'[unit]\nsite = "s"\nunit = "u"\ndata_dir = "{tmp_path}"\n[[line]]\nnumber = 1\ncodec = "no such codec"\n'
        f"{extra}"
        '[[broker]]\nhost = "127.0.0.1"\nport = 1\ntls = false\n'
    )
    return path


def test_settings_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = settings_file(tmp_path)
    assert run(capsys, "settings", "check", "--settings", str(path))[:2] == (
        0, f"{path}: in order; 1 line on board line-tap-1.\n",
    )  # fmt: skip
    path.write_text(path.read_text() + "[[line]]\nnumber = 2\ncodec = 'x'\n")
    assert (
        "2 lines are set, the board line-tap-1 has 1." in run(capsys, "settings", "check", "--settings", str(path))[2]
    )


@pytest.mark.realtime
def test_doctor_says_what_is_wrong_and_how_to_mend_it(tmp_path: Path) -> None:
    """In a process of its own: PortAudio and the GPIO chip of this machine are opened."""
    path = settings_file(tmp_path, modem="/dev/none")
    path.write_text(
        f'{path.read_text()}password_file = "/none.password"\n'
        f'[[notify]]\nname = "owner"\nurls_file = "{tmp_path}/settings.toml"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "firmware", "doctor", "--settings", str(path), "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    found = {finding["what"]: finding for finding in map(json.loads, done.stdout.splitlines())}
    assert found["broker/main"]["says"] == (
        "password_file /none.password is not there; put it there and let the user tsuroku read it."
    )
    assert "notify/owner" not in found, "its file is there"
    assert (done.returncode, ours(done.stderr)) == (1, [])
    assert found["disk"]["state"] in ("good", "wrong")
    assert found["store"]["says"] == "no call has been filed yet."
    for what in ("codec/1", "modem/1", "broker"):
        assert found[what]["state"] == "wrong", what
    assert "no such codec" in found["codec/1"]["says"]
    assert "/dev/none" in found["modem/1"]["says"]
    assert "127.0.0.1:1 does not answer" in found["broker"]["says"]


def test_a_terminal_without_japanese() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "firmware", "--help"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Tsuroku (??) records" in done.stdout


@pytest.mark.parametrize("command", ["modem-log", "replay"])
def test_a_reader_that_goes_away_is_no_fault(command: str, tmp_path: Path) -> None:
    """`| head`: tables too, and what tells of files that cannot be read must not take the output for one."""
    path = tmp_path / "in"
    journal = (ROOT / "tests/captures/number-display-answered.jsonl").read_bytes()
    path.write_bytes(journal if command == "replay" else b"RING\r\n")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-u", "-m", "firmware", command, path],
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_play_without_a_loudspeaker_is_one_sentence(played: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "asound.conf"
    nothing.write_text("pcm.!default { type hw card 99 }\n")
    call = read_table(played / "store", "calls")[0]
    done = subprocess.run(
        [sys.executable, "-m", "firmware", "calls", "play", str(call["call_id"]), "--data", str(played)],
        env={**os.environ, "ALSA_CONFIG_PATH": str(nothing)},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = ours(done.stderr)
    assert "no loudspeaker can be opened" in sentence


def ours(stderr: str) -> list[str]:
    """Without libdb's line, which JACK's library prints where the files of another version lie in /dev/shm."""
    return [line for line in stderr.splitlines() if not line.startswith("BDB")]


def test_help_loads_no_audio_stack() -> None:
    code = (
        "import sys\nfrom firmware.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'pyaudio', 'soundfile', 'numpy', 'gpiozero', 'serial', 'paho', 'tinydb', 'rich'}\n"
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
