"""The loop, its journal and the unit around them: order, rotation, and a disk that fails and comes back."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from drivers.signals import AudioBlock, ButtonPressed, DeviceLost, DeviceReady, LoopEdge, RingEdge
from drivers.virtual import scenario as story
from firmware.app import HEALTH_FILE, STORE_FILE, Unit
from firmware.core.call import ClockRead
from firmware.core.facts import BrokerConnected, Input
from firmware.core.line import Command, Line, SaveCall, State, StopRecording
from firmware.engine.journal import Journal, JournalledReads, replay
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
    bench.engine.take(BrokerConnected(at_ns=1, broker="main"))
    assert len(bench.seen) == 1
    assert len(next((tmp_path / "journal").iterdir()).read_text().splitlines()) == 1


def test_journals_rotate_only_while_idle_and_each_stands_alone(
    bench: Bench, tmp_path: Path, mocker: MockerFixture
) -> None:
    mocker.patch("firmware.engine.journal._FILE_BYTES", 900)
    mocker.patch("firmware.engine.journal._FILES", 3)
    for n in range(1, 6):
        bench.call(n * 1000 * S)
        bench.engine.advance(n * 1000 * S + 900 * S)
    files = sorted((tmp_path / "journal").iterdir())
    assert len(files) == 3
    replayed = [save.call for path in files for save in replay(path)]
    saved = [c.call for c in bench.commands if isinstance(c, SaveCall)]
    assert replayed == saved[-len(replayed) :]
    assert len(replayed) >= 4


def test_a_journal_that_cannot_be_written_stops_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.journal.close()
    (tmp_path / "journal").rename(tmp_path / "gone")
    bench.journal.start_file([])
    bench.call(1000 * S)
    assert sum(isinstance(c, SaveCall) for c in bench.commands) == 3


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
    assert read_table(data / STORE_FILE, "calls") == []
    mocker.stop(disk)
    unit._save()
    assert len(read_table(data / STORE_FILE, "calls")) == 2
    events = sorted(read_table(data / STORE_FILE, "outbox"), key=lambda e: int(e["sequence"]))
    assert [e["body"]["type"] for e in events] == ["call.dialled", "call.ended", "recording.failed"] * 2


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
    (call,) = read_table(unit.settings.unit.data_dir / STORE_FILE, "calls")
    assert [(mark["kind"], mark["at_ns"]) for mark in call["marks"]] == [("button", 15 * S)]


def test_no_number_is_in_a_retained_message_or_a_log(
    tmp_path: Path, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    shown: list[tuple[str, object]] = []
    mocker.patch.object(Unit, "_show", lambda self, topic, payload: shown.append((topic, payload)))
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
