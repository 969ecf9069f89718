"""The loop, its journal and the unit around them: order, rotation, and a disk that fails and comes back."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from drivers.signals import AudioBlock, ButtonPressed, CallerIdReceived, DeviceLost, DeviceReady, LoopEdge, RingEdge
from drivers.virtual import scenario as story
from firmware.app import HEALTH_FILE, STORE, Unit
from firmware.core.call import ClockRead
from firmware.core.explain import accounts
from firmware.core.facts import Input, RecordingSwitched, SinkConnected
from firmware.core.line import Command, Line, SaveCall, StartRecording, State, StopRecording
from firmware.engine.journal import Journal, JournalError, JournalledReads, replay, steps
from firmware.engine.loop import Engine
from firmware.records.store import CallStore, StoreError, read_table
from firmware.simulate import stepped, virtual_settings
from hw import board
from tests.test_line import config, ready

MS = 1_000_000
S = 1_000_000_000


class Bench:
    """An engine with one line and a clock that is set by hand."""

    def __init__(self, directory: Path) -> None:
        self.now = 0
        self.commands: list[Command] = []
        self.seen: list[Input] = []
        ids = itertools.count(1)
        self.journal = Journal(directory / "journal", [config()])
        reads = JournalledReads(
            self.journal,
            lambda: f"019abcde-0000-7000-8000-{next(ids):012d}",
            lambda: ClockRead(mono_ns=self.now, wall_ns=self.now, state="ntp"),
        )
        self.line = Line(config(), reads)
        self.engine = Engine({1: self.line}, self.journal, self.commands.append, self.seen.append, lambda: self.now)

    def call(self, at_ns: int, length_ns: int = 10 * S) -> None:
        self.engine.take(LoopEdge(at_ns=at_ns, line=1, closed=True))
        self.engine.take(LoopEdge(at_ns=at_ns + length_ns, line=1, closed=False))
        self.engine.advance(at_ns + length_ns + 2 * S)
        stop = next(c for c in reversed(self.commands) if isinstance(c, StopRecording))
        self.engine.take(ready(stop.call_id, at_ns + length_ns + 3 * S))


def test_whom_the_contacts_do_not_want_recorded_is_so_in_a_replay_too(tmp_path: Path) -> None:
    journal, ids = Journal(tmp_path, [config()]), itertools.count(1)
    read = ClockRead(mono_ns=0, wall_ns=0, state="ntp")
    saved: list[Command] = []
    reads = JournalledReads(
        journal,
        lambda: f"019abcde-0000-7000-8000-{next(ids):012d}",
        lambda: read,
        lambda number: number == "+81300001234",
    )
    engine = Engine({1: Line(config(), reads)}, journal, saved.append, lambda given: None, lambda: 0)
    for number, who in enumerate(("0300001234", "0300005678", "0300001234")):
        at = number * 100 * S
        caller = CallerIdReceived(
            at_ns=at,
            line=1,
            source="modem",
            presentation="allowed",
            number=who,
            name=None,
            date_raw=None,
            raw="x",
        )
        engine.take(caller)
        engine.take(LoopEdge(at_ns=at + S, line=1, closed=True))
        engine.take(LoopEdge(at_ns=at + 9 * S, line=1, closed=False))
        engine.advance(at + 50 * S)
    journal.close()
    calls = {save.call.call_id: save.call for save in saved if isinstance(save, SaveCall)}
    assert [call.no_recording for call in calls.values()] == ["do_not_record", "not_closed_yet", "do_not_record"]
    again = {save.call.call_id: save.call for save in replay(tmp_path / "00000001.jsonl")}
    assert again == calls and "unwanted" in (tmp_path / "00000001.jsonl").read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.journal.close()


def test_an_edge_that_comes_late_is_heard_before_the_timer_it_precedes(bench: Bench) -> None:
    bench.now = 1000 * MS
    bench.engine.post(LoopEdge(at_ns=950 * MS, line=1, closed=False))  # its thread was late, and out of order
    bench.engine.post(LoopEdge(at_ns=800 * MS, line=1, closed=True))
    bench.engine.stop()
    bench.engine.run()
    assert [type(g).__name__ for g in bench.seen] == ["LoopEdge", "LoopEdge"]
    assert [g.at_ns for g in bench.seen] == [800 * MS, 950 * MS]
    assert bench.line.state is State.DIALLING


def test_edges_of_a_time_when_the_process_stood_still_are_heard_before_its_timers(bench: Bench) -> None:
    def ring(from_ms: int, to_ms: int, give: Callable[[Input], None]) -> None:
        for at_ms in range(from_ms, to_ms, 62):  # 16 Hz
            give(RingEdge(at_ns=at_ms * MS, line=1, active=True))
            give(RingEdge(at_ns=(at_ms + 20) * MS, line=1, active=False))

    def driver() -> None:  # its thread wakes behind the loop's, and gives what the kernel has stamped
        for from_ms in (1248, 1496):
            time.sleep(0.02)
            ring(from_ms, from_ms + 248, bench.engine.post)
        bench.engine.stop()

    ring(1000, 1248, bench.engine.take)
    assert bench.line.state is State.RINGING
    bench.now = 1800 * MS
    threading.Thread(target=driver).start()
    bench.engine.run()
    bench.engine.advance(20 * S)  # missed
    call = [command.call for command in bench.commands if isinstance(command, SaveCall)][-1]
    assert [(began // MS, until // MS) for began, until in call.bursts] == [(1000, 1682)]


def test_chatter_in_one_batch_is_no_lift(bench: Bench) -> None:
    bench.now = 2000 * MS
    for cycle in range(16):
        bench.engine.post(LoopEdge(at_ns=1000 * MS + cycle * 62 * MS, line=1, closed=True))
        bench.engine.post(LoopEdge(at_ns=1026 * MS + cycle * 62 * MS, line=1, closed=False))
    bench.engine.stop()
    bench.engine.run()
    assert bench.line.state is State.IDLE and bench.commands == []


def test_periodic_work_goes_on_between_signals(bench: Bench) -> None:
    done: list[int] = []
    bench.engine.every(1.0, lambda: done.append(bench.now))
    for bench.now in range(0, 5 * S, 100 * MS):
        bench.engine.advance(bench.now)
    assert done == [1 * S, 2 * S, 3 * S, 4 * S]


def test_a_broker_s_fact_reaches_no_line_and_no_journal(bench: Bench, tmp_path: Path) -> None:
    bench.engine.take(SinkConnected(at_ns=1, sink="main"))
    assert len(bench.seen) == 1
    assert len(next((tmp_path / "journal").iterdir()).read_text().splitlines()) == 1


def test_journals_rotate_only_while_idle_and_each_stands_alone(
    bench: Bench, tmp_path: Path, mocker: MockerFixture
) -> None:
    mocker.patch("firmware.engine.journal._FILE_BYTES", 900)
    mocker.patch("firmware.engine.journal._MOST_BYTES", 100_000)
    mocker.patch("firmware.engine.journal._BLOCK_BYTES", 0)
    mocker.patch("firmware.engine.journal._ALL_BYTES", 103_000)
    for n in range(1, 6):
        bench.call(n * 1000 * S)
        bench.engine.advance(n * 1000 * S + 900 * S)
    files = sorted((tmp_path / "journal").iterdir())
    assert files[0].name != "00000001.jsonl" and len(files) > 2
    assert sum(path.stat().st_size for path in files) <= 103_000
    replayed = [save.call for path in files for save in replay(path)]
    saved = [c.call for c in bench.commands if isinstance(c, SaveCall)]
    assert replayed == saved[-len(replayed) :]
    assert len(replayed) >= 4


def test_restarts_do_not_push_old_journals_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.call(1000 * S)
    bench.journal.close()
    for _ in range(50):
        Journal(tmp_path / "journal", [config()]).close()
    assert len(list((tmp_path / "journal").iterdir())) == 51
    assert len(list(replay(tmp_path / "journal/00000001.jsonl"))) == 3


def in_the_way(directory: Path) -> Path:
    """Makes the journal's folder unusable, whoever runs the test."""
    (directory / "journal").rename(directory / "gone")
    (directory / "journal").write_text("")
    return directory / "journal"


def test_a_journal_that_cannot_be_written_stops_nothing(bench: Bench, tmp_path: Path) -> None:
    in_the_way(tmp_path)
    bench.journal.start_file([])
    bench.call(1000 * S)
    assert sum(isinstance(c, SaveCall) for c in bench.commands) == 3


def test_a_journal_that_failed_begins_again_when_the_disk_is_back(
    bench: Bench, tmp_path: Path, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    clock = mocker.patch("firmware.engine.journal.time.monotonic", return_value=0.0)
    obstacle = in_the_way(tmp_path)
    bench.journal.start_file([])
    bench.engine.advance(1000 * S)
    obstacle.unlink()
    bench.engine.advance(1001 * S)  # not every moment
    assert not obstacle.exists()
    clock.return_value = 61.0
    bench.engine.advance(1062 * S)
    bench.call(2000 * S)
    assert [save.call for save in replay(obstacle / "00000001.jsonl")] == [
        c.call for c in bench.commands if isinstance(c, SaveCall)
    ]
    assert [r.getMessage().split()[0] for r in caplog.records] == ["event=journal_stopped", "event=journal_works_again"]


def test_a_full_disk_does_not_fill_with_empty_journals(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "journal").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        opened = os.open

        def full(path: Path, flags: int, mode: int) -> int:
            os.close(opened(path, flags, mode))
            return opened("/dev/full", os.O_WRONLY)

        patch.setattr("firmware.engine.journal.os.open", full)
        journal = Journal(tmp_path / "journal", [config()])
    journal.call_id("not written")
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_hum_that_never_stops_fills_one_file_and_the_next_begins_when_it_is_over(
    bench: Bench, tmp_path: Path, mocker: MockerFixture
) -> None:
    mocker.patch("firmware.engine.journal._MOST_BYTES", 20_000)
    bench.call(1000 * S)
    for n in range(4000):
        bench.engine.take(RingEdge(at_ns=2000 * S + n * 10 * MS, line=1, active=n % 2 == 0))
        bench.engine.advance(2000 * S + n * 10 * MS)
    (full,) = (tmp_path / "journal").iterdir()
    assert full.stat().st_size <= 20_100
    assert full.read_text().splitlines()[-1] == '{"full":true}'
    saved = [c.call for c in bench.commands if isinstance(c, SaveCall)]
    assert [save.call for save in replay(full)] == saved[: len(list(replay(full)))]
    assert len(list(replay(full))) >= 3
    bench.engine.advance(3000 * S)
    bench.call(4000 * S)
    assert len(list(replay(tmp_path / "journal/00000002.jsonl"))) == 3


def test_a_full_file_ends_between_any_two_lines(bench: Bench, tmp_path: Path) -> None:
    bench.call(1000 * S)
    (path,) = (tmp_path / "journal").iterdir()
    lines = path.read_text().splitlines(keepends=True)
    whole = list(replay(path))
    for kept in range(1, len(lines)):
        path.write_text("".join([*lines[:kept], '{"full":true}\n']))
        found = list(replay(path))
        assert found == whole[: len(found)]


def test_a_foreign_file_among_the_journals_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal/notes.jsonl").write_text("mine")
    Journal(tmp_path / "journal", [config()]).close()
    assert sorted(p.name for p in (tmp_path / "journal").iterdir()) == ["00000001.jsonl", "notes.jsonl"]


@pytest.mark.parametrize(
    "head",
    [
        "",
        '{"journal":1}',
        '{"journal":1,"lines":[{}]}',
        '{"journal":1,"lines":[7]}',
        '{"journal":1,"lines":null}',
        '{"journal":1,"lines":[{"number":1,"hook":{}}]}',
    ],
)
def test_a_malformed_head_is_a_sentence(tmp_path: Path, head: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(head + "\n")
    with pytest.raises(JournalError, match=r"j\.jsonl:1: "):
        list(replay(path))


@pytest.mark.parametrize(
    "line",
    [
        '{"in":"CallLeftOpen","at_ns":0,"line":1,"call":{"schema":99},"recording":null,"repaired":false,'
        '"no_recording":null}',
        '{"in":"CallLeftOpen","line":1}',
        '{"in":"LoopEdge","at_ns":"x","line":1,"closed":true}',
        '{"in":["x"]}',
        '{"timer":"none","line":1}',
        "[" * 100_000,
    ],
)
def test_a_malformed_line_is_a_sentence(bench: Bench, tmp_path: Path, line: str) -> None:
    (path,) = (tmp_path / "journal").iterdir()
    path.write_text(path.read_text() + '{"in":"LoopEdge","at_ns":1,"line":1,"closed":false}\n' * 2 + line + "\n")
    with pytest.raises(JournalError, match=r"jsonl:4: "):
        list(replay(path))


# -- the unit


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    scenario = story.parse("title T\n1.0 lift\n9.0 hang up\n", tmp_path / "t.txt")
    made = Unit(virtual_settings(scenario, tmp_path / "data"), board.load("line-tap-1"), live=False, now=lambda: 0)
    yield made
    made.close()


def test_what_a_full_disk_refused_is_kept_and_written_later_in_order(unit: Unit, mocker: MockerFixture) -> None:
    disk = mocker.patch.object(CallStore, "commit", side_effect=StoreError("full"))
    for n in (1, 2):
        unit.engine.take(LoopEdge(at_ns=n * 100 * S, line=1, closed=True))
        unit.engine.take(LoopEdge(at_ns=n * 100 * S + 10 * S, line=1, closed=False))
        unit.engine.advance(n * 100 * S + 15 * S)
        unit.engine.drain()
    data = unit.settings.unit.data_dir
    assert read_table(data / STORE, "calls") == []
    mocker.stop(disk)
    unit._save()
    assert len(read_table(data / STORE, "calls")) == 2
    assert [told["type"] for told in read_table(data / STORE, "events")] == [
        "call.dialled",
        "call.ended",
        "recording.failed",
    ] * 2


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Path]:
    """Where the unit's calls are after it was closed."""
    yield tmp_path / "data" / STORE


@pytest.mark.parametrize("back", [True, False])
def test_what_is_unsaved_at_the_end_is_written_or_counted(
    unit: Unit, stored: Path, back: bool, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    unit.engine.take(LoopEdge(at_ns=100 * S, line=1, closed=True))
    unit.engine.advance(101 * S)  # on the disk, and open
    disk = mocker.patch.object(CallStore, "commit", side_effect=StoreError("full"))
    unit.engine.take(LoopEdge(at_ns=110 * S, line=1, closed=False))
    unit.engine.advance(115 * S)
    if back:
        mocker.stop(disk)
    unit.close()
    (call,) = read_table(stored, "calls")
    lost = [r.getMessage() for r in caplog.records if "calls_lost" in r.getMessage()]
    if back:
        assert call["outcome"] == "outgoing_unknown" and lost == []
    else:
        assert call["outcome"] is None and lost == ["event=calls_lost count=1"]


def test_a_data_folder_that_vanishes_stops_nothing(unit: Unit, stored: Path, tmp_path: Path) -> None:
    (tmp_path / "data").rename(tmp_path / "away")
    assert unit._recorder_state()["disk_free_mb"] is None
    unit.engine.take(LoopEdge(at_ns=100 * S, line=1, closed=True))
    unit.engine.advance(101 * S)
    assert len(read_table(tmp_path / "away" / STORE, "calls")) == 1


def test_a_damaged_store_is_a_fault_of_a_unit_that_records(
    tmp_path: Path, stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored.parent.mkdir()
    (stored.parent / "calls.json").write_text("{")
    scenario = story.parse("title T\n1.0 lift\n9.0 hang up\n", tmp_path / "t.txt")
    unit = Unit(virtual_settings(scenario, tmp_path / "data"), board.load("line-tap-1"), live=False, now=lambda: 0)
    assert [fault.split("/")[0] for fault in unit._recorder_state()["faults"]] == ["store"]
    assert any(r.levelname == "ERROR" and "damaged" in r.getMessage() for r in caplog.records)
    unit.engine.take(LoopEdge(at_ns=100 * S, line=1, closed=True))
    unit.engine.advance(101 * S)
    unit.close()
    assert len(read_table(stored, "calls")) == 1


def test_a_device_that_is_lost_is_known_to_doctor_until_it_is_back(unit: Unit) -> None:
    health = unit.settings.unit.data_dir / HEALTH_FILE
    unit.engine.take(DeviceLost(at_ns=1, device="codec", line=1, reason="Unplugged; plug it in."))
    assert json.loads(health.read_text()) == {"codec/1": "Unplugged; plug it in."}
    unit.engine.take(DeviceReady(at_ns=2, device="codec", line=1, detail="here"))
    assert json.loads(health.read_text()) == {"codec/1": None}


def test_the_button_marks_the_call(unit: Unit) -> None:
    unit.engine.take(ButtonPressed(at_ns=1 * S))  # nobody is on the line: nothing to mark
    unit.engine.take(LoopEdge(at_ns=10 * S, line=1, closed=True))
    unit.engine.take(ButtonPressed(at_ns=15 * S))
    (call,) = read_table(unit.settings.unit.data_dir / STORE, "calls")
    assert [(mark["kind"], mark["at_ns"]) for mark in call["marks"]] == [("button", 15 * S)]


def test_no_number_is_in_a_retained_message_or_a_log(
    tmp_path: Path, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    shown: list[tuple[str, object]] = []
    mocker.patch.object(Unit, "show", lambda self, topic, payload: shown.append((topic, payload)))
    with caplog.at_level("DEBUG"):
        stepped(story.load(Path(__file__).parent / "scenarios/shop-day.txt"), tmp_path / "data")
    text = json.dumps(shown) + caplog.text
    assert len(shown) > 20
    for number in ("0300001234", "+81300001234", "09000005678", "9000005678", "0300009012", "YAMADA"):
        assert number not in text


def test_two_threads_may_post_at_once(bench: Bench) -> None:
    bench.now = 10**15

    def post(which: int) -> None:
        for n in range(500):
            bench.engine.post(RingEdge(at_ns=which + n * 10 * S, line=1, active=True))

    threads = [threading.Thread(target=post, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bench.engine.stop()
    bench.engine.run()
    assert len(bench.seen) == 1000


def test_a_recorder_takes_blocks_while_nothing_is_recorded(unit: Unit) -> None:
    for n in range(100):
        unit.recorders[1].take(AudioBlock(at_ns=n * 100 * MS, pcm=bytes(1600)))
    assert not list(unit.settings.unit.data_dir.rglob("*.flac"))


def test_no_recording_begins_while_it_is_switched_off_and_a_replay_says_the_same(bench: Bench, tmp_path: Path) -> None:
    bench.engine.take(RecordingSwitched(at_ns=1 * S, line=1, enabled=False))
    bench.engine.take(LoopEdge(at_ns=10 * S, line=1, closed=True))
    bench.engine.take(LoopEdge(at_ns=20 * S, line=1, closed=False))
    bench.engine.advance(25 * S)
    assert not any(isinstance(c, StartRecording) for c in bench.commands)
    last = [c.call for c in bench.commands if isinstance(c, SaveCall)][-1]
    assert (last.outcome, last.no_recording, last.recording) == ("outgoing_unknown", "switched_off", None)
    assert not bench.line.busy, "nobody waits for a recording"
    bench.journal.start_file(list(bench.engine._levels.values()))
    bench.engine.take(LoopEdge(at_ns=100 * S, line=1, closed=True))
    bench.engine.take(RecordingSwitched(at_ns=105 * S, line=1, enabled=True))
    bench.engine.take(LoopEdge(at_ns=110 * S, line=1, closed=False))
    bench.engine.advance(115 * S)
    assert not any(isinstance(c, StartRecording) for c in bench.commands), "a call that began so stays so"
    bench.call(200 * S)
    assert sum(isinstance(c, StartRecording) for c in bench.commands) == 1
    saved = [c.call for c in bench.commands if isinstance(c, SaveCall)]
    files = sorted((tmp_path / "journal").iterdir())
    assert [save.call for path in files for save in replay(path)] == saved
    assert accounts(steps(files[0]))
