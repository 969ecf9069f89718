"""The store of calls: all or nothing, on the disk when commit() returns, and nothing acknowledged is ever lost."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture
from tinydb import Query, TinyDB

from firmware.core.call import Call, ClockRead, ClockState
from firmware.core.caller import Caller
from firmware.core.numbers import Dialled
from firmware.core.outbox import Event, Sink
from firmware.records.database import LogDB, Remove
from firmware.records.log import Line, Segment, lines, segments
from firmware.records.store import CallReader, CallStore, StoreError, read_table, unit_runs
from firmware.records.upkeep import backup, export, verify
from tests.test_log import ROOT, no_file_longer_than, with_a_file_system

S = 1_000_000_000
DAY_NS = 86_400 * S
WALL_NS = 1_767_225_600 * S  # 2026-01-01T00:00:00Z


def call(number: int, **changes: object) -> Call:
    read = ClockRead(mono_ns=0, wall_ns=0, state="ntp")
    made = Call(call_id=f"id-{number}", line=1, direction="incoming", boot_id="b", clock=read, opened_ns=number)
    return replace(made, **changes)  # type: ignore[arg-type]


def told(number: int) -> Event:
    return Event(type="call.ringing", subject=f"id-{number}", time="2026-11-24T00:00:00.000Z", data={"line": 1})


@dataclass
class Clock:
    """A boot's two clocks, by hand."""

    wall_ns: int
    state: ClockState = "ntp"
    mono_ns: int = 0

    def __call__(self) -> ClockRead:
        return ClockRead(mono_ns=self.mono_ns, wall_ns=self.wall_ns, state=self.state)

    def passes(self, ns: int) -> None:
        self.mono_ns += ns
        self.wall_ns += ns


def ids(path: Path) -> list[str]:
    return [call["call_id"] for call in read_table(path, "calls")]


def whole_lines(path: Path) -> list[Line]:
    found = [line for segment in segments(path) for line in lines(segment.path.read_bytes())]
    return [line for line in found if isinstance(line, Line)]


def as_killed(store: CallStore) -> None:
    """Let go of everything as the end of the process would, with nothing written."""
    store.storage._written = False
    store.storage.close()


# -- what is written


def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = CallStore(path, "/tsuroku/s/u")
    store.commit(call(1), [told(1)])
    store.commit(call(2), [told(2), told(2)])
    store.commit(call(1, outcome="missed"), [])
    store_id = store.store_id
    store.close()
    again = CallStore(path, "/tsuroku/s/u")
    assert again.store_id == store_id and len(again) == 2
    assert again.get("id-1") == call(1, outcome="missed")
    assert again.get("id-3") is None
    assert [e.sequence for e in again.pending(10)] == [1, 2, 3]
    body = again.pending(10)[0].body
    assert (body["id"], body["source"], body["subject"]) == (f"{store_id}-call-1", "/tsuroku/s/u", "id-1")
    assert [event["sequence"] for event in read_table(path, "events")] == [1, 2, 3]
    assert path.stat().st_mode & 0o777 == 0o700
    assert all(each.path.stat().st_mode & 0o777 == 0o600 for each in segments(path))
    again.close()


def test_a_commit_is_one_line_and_one_sync(tmp_path: Path, mocker: MockerFixture) -> None:
    store = CallStore(tmp_path / "store", "s")
    store.commit(call(1), [told(1)])
    store.mark("call", 1, "accepted")
    before = len(whole_lines(tmp_path / "store"))
    data, other = mocker.spy(os, "fdatasync"), mocker.spy(os, "fsync")
    writes = mocker.spy(os, "pwrite")
    store.commit(call(1, outcome="missed", no_recording="not_answered"), [told(1), told(1)])
    assert (data.call_count, other.call_count, writes.call_count) == (1, 0, 1)
    added = whole_lines(tmp_path / "store")[before:]
    assert len(added) == 1
    text = (added[0].body or b"").decode()
    tables = [done[0] for done in json.loads(text.split("\t")[0])["do"]]
    assert tables == ["calls", "events.call", "events.call", "cursors"]
    as_killed(store)


def test_tinydb_reads_and_changes_the_store(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "store", "s")
    store.commit(call(1), [told(1)])
    store.commit(call(2), [])
    with LogDB(tmp_path / "store", writable=False) as beside:
        assert beside.table("calls").search(Query().call_id == "id-1")[0]["schema"] == 2
    store.close()
    with LogDB(tmp_path / "store") as db:
        db.table("calls").remove(Query().call_id == "id-2")
        db.table("notes").insert({"text": "a table of somebody else"})
    store = CallStore(tmp_path / "store", "s")
    store.commit(call(3), [])
    with (tmp_path / "all.json").open("w", encoding="utf-8") as file:
        export(store.storage, file)
    store.close()
    with TinyDB(tmp_path / "all.json") as stock:
        assert [(doc.doc_id, doc["call_id"]) for doc in stock.table("calls")] == [(1, "id-1"), (3, "id-3")]
        assert stock.table("events.call").get(doc_id=1)["subject"] == "id-1"
        assert len(stock.table("notes")) == 1


def test_a_lone_surrogate_is_kept_and_stops_no_commit(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "store", "s")
    caller = Caller(presentation="allowed", reason=None, number="+81300000001", name="\udc80")
    store.commit(call(1, answer_evidence="\udc80", caller=caller), [])
    assert [c["call_id"] for c in store.with_number("+81300000001")] == ["id-1"]
    store.close()
    found = read_table(tmp_path / "store", "calls")[0]
    assert found["answer_evidence"] == found["caller"]["name"] == "\udc80"


def test_a_call_that_somebody_removed_gives_its_place_to_no_other(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = CallStore(path, "s")
    for number in (1, 2, 3):
        store.commit(call(number), [])
    store.close()
    with LogDB(path) as db:
        db.table("calls").remove(Query().call_id.one_of(["id-1", "id-3"]))
    store = CallStore(path, "s")
    store.commit(call(4), [])
    assert [int(n) for n in store.storage.read()["calls"]] == [2, 4]  # type: ignore[index]
    store.close()
    assert ids(path) == ["id-2", "id-4"]


def test_what_was_erased_gives_its_numbers_to_no_other(tmp_path: Path) -> None:
    """A consumer takes an event with a number that it has for a repeat, and would drop it."""
    path = tmp_path / "store"
    store = CallStore(path, "s")
    store.commit(call(1, outcome="missed", no_recording="not_answered"), [told(1)])
    store.commit(call(2, outcome="missed", no_recording="not_answered"), [told(2), told(2)])
    assert store.remove(["id-2"], "asked for", "staff") == []
    assert sum(store.purge_steps()) > 0
    store.close()
    assert not [line for line in whole_lines(path) if b'"call_id":"id-2","line"' in (line.body or b"")]
    store = CallStore(path, "s")
    store.commit(call(3), [told(3)])
    assert [e.sequence for e in store.pending(9)] == [1, 4]
    assert list(store.storage.read()["calls"]) == ["1", "3"]  # type: ignore[index]
    assert store.wrong is None
    store.close()
    assert verify(path).problems == []


def test_an_erasure_passes_by_what_has_rotted(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = CallStore(path, "s")
    for number in (1, 2, 3):
        store.commit(call(number, outcome="missed", no_recording="not_answered"), [told(number)])
    damage(path, b'"call_id":"id-2","line"')
    store.remove(["id-1"], "asked for", "staff")
    assert sum(store.purge_steps()) > 0
    assert [c["call_id"] for c in store.calls()] == ["id-3"]
    assert any("calls 2 can no longer be read" in problem.says for problem in store.problems)
    store.close()
    assert ids(path) == ["id-3"]
    again = CallStore(path, "s")
    assert again.wrong and "line 4 stands where line 3 belongs" in again.wrong
    again.close()


@pytest.mark.parametrize(
    "body",
    [b"garbage", b"[]", b"{}", b'{"do":[["checkpoint",1,2]]}\t{}', b'{"do":[["x",1,9]]}'],
)
def test_a_line_that_somebody_else_has_made_is_named_and_stops_nothing(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "store"
    store = CallStore(path, "s")
    store.commit(call(1), [told(1)])
    store.storage._writer.append(body)
    as_killed(store)
    assert ids(path) == ["id-1"]
    again = CallStore(path, "s")
    again.close()
    said = [again.wrong or "", *(problem.says for problem in verify(path).problems)]
    assert any("holds nothing that a store writes" in each for each in said)


def damage(path: Path, text: bytes) -> None:
    """Flip a bit of the last place where this stands in the store."""
    for segment in reversed(segments(path)):
        data = bytearray(segment.path.read_bytes())
        at = data.rfind(text)
        if at >= 0:
            with segment.path.open("r+b") as file:
                file.seek(at + len(text) // 2)
                file.write(bytes([data[at + len(text) // 2] ^ 1]))
            return
    raise AssertionError(f"{text!r} is not in the store")


def test_the_chain_is_signed_at_each_end_of_a_call_once_a_day_and_at_the_end(tmp_path: Path) -> None:
    path, clock = tmp_path / "store", Clock(WALL_NS)
    store = CallStore(path, "s", boot_id="b", read_clock=clock, key=tmp_path / "key.pem")
    store.commit(call(1), [told(1)])
    assert verify(path).signatures == 1  # of the start
    store.commit(call(1, outcome="missed"), [told(1)])
    assert verify(path).signatures == 2
    clock.passes(DAY_NS - 1)
    store.flush()
    assert verify(path).signatures == 2
    clock.passes(2)
    store.flush()
    assert verify(path).signatures == 3
    store.close()
    found = verify(path)
    assert (found.signatures, found.problems) == (4, []) and found.signed_seq == found.seq - 2
    state = CallStore(path, "s", boot_id="b", read_clock=clock, key=tmp_path / "key.pem")
    assert state.outbox_state()["chain"] == {"seq": found.seq + 1, "head": verify(path).link}
    state.close()


# -- the outbox


def test_marks_leave_the_pending_ones_in_order(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "store", "s")
    store.commit(call(1), [told(1)] * 5)
    store.mark("call", 2, "accepted")
    store.mark("call", 4, "parked")
    store.mark("call", 99, "accepted")
    assert [e.sequence for e in store.pending(10)] == [1, 3, 5]
    state = store.outbox_state()
    assert state["outbox_depth"] == 3 and state["streams"] == {"call": {"oldest_seq": 1, "last_seq": 5}}
    assert state["chain"] == {"seq": store.storage.seq, "head": whole_lines(tmp_path / "store")[-1].link}
    store.close()
    again = CallStore(tmp_path / "store", "s")
    assert [e.sequence for e in again.pending(2)] == [1, 3]
    again.mark("call", 1, "accepted")
    assert [e.sequence for e in again.pending(9)] == [3, 5]
    again.commit(call(1), [told(1)])  # carries the mark
    as_killed(again)
    last = CallStore(tmp_path / "store", "s")
    assert [e.sequence for e in last.pending(9)] == [3, 5, 6]
    last.close()


def test_each_sink_has_its_own_place(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "store", "s", sinks=(Sink(name="shop"), Sink(name="office")))
    store.commit(call(1), [told(1)] * 4)
    shop, office = store.outbox("shop"), store.outbox("office")
    for sequence in (1, 2, 3):
        shop.mark("call", sequence, "accepted")
    office.mark("call", 2, "parked")
    assert [e.sequence for e in shop.pending(9)] == [4]
    assert [e.sequence for e in office.pending(9)] == [1, 3, 4]
    assert store.outbox_state()["outbox_depth"] == 3, "what the slowest has not got"
    store.close()
    again = CallStore(tmp_path / "store", "s", sinks=(Sink(name="office"), Sink(name="shop")))
    assert [e.sequence for e in again.outbox("shop").pending(9)] == [4]
    assert [e.sequence for e in again.outbox("office").pending(9)] == [1, 3, 4]
    again.close()


def test_old_accepted_events_go_and_the_sequence_goes_on(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("firmware.records.store._ALWAYS_KEPT", 3)
    later = Clock(wall_ns=WALL_NS + 400 * DAY_NS)
    path = tmp_path / "store"
    store = CallStore(path, "s", sinks=(Sink(name="fast"), Sink(name="slow")), read_clock=later)
    store.commit(call(1), [told(1)] * 10)
    for sequence in range(1, 10):
        store.mark("call", sequence, "accepted", "fast")
    store.flush()
    assert store.outbox_state()["streams"]["call"] == {"oldest_seq": 1, "last_seq": 10}, "one sink has nothing yet"
    for sequence in range(1, 10):
        store.mark("call", sequence, "accepted", "slow")
    store.flush()
    assert store.outbox_state()["streams"]["call"] == {"oldest_seq": 8, "last_seq": 10}
    store.mark("call", 10, "accepted", "fast")
    store.mark("call", 10, "accepted", "slow")
    store.flush()
    store.close()
    store = CallStore(path, "s", sinks=(Sink(name="fast"), Sink(name="slow"), Sink(name="new")))
    assert [e.sequence for e in store.pending(9, "new")] == [8, 9, 10], "a new sink gets what is kept"
    assert store.outbox_state()["outbox_depth"] == 3
    store.commit(call(1), [told(1)])
    assert [e.sequence for e in store.pending(9, "fast")] == [11]
    store.close()


def test_what_a_sink_has_is_not_pending_behind_an_event_that_is_gone(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "store", "s")
    store.commit(call(1, outcome="missed", no_recording="not_answered"), [told(1)])
    store.commit(call(2), [told(2)] * 3)
    for sequence in (2, 3):
        store.mark("call", sequence, "accepted")
    assert [e.sequence for e in store.pending(9)] == [1, 4]
    cursor = store._cursors["main"]["call"]
    store.storage.commit([Remove("events.call", 1, 1)])
    assert cursor.done == 0
    assert [e.sequence for e in store.pending(9)] == [4]
    assert cursor.done == 3
    store.close()


def test_no_sequence_is_given_twice_where_the_last_event_has_rotted(tmp_path: Path) -> None:
    path = tmp_path / "store"
    sinks = (Sink(name="main", consumers=("crm",)),)
    store = CallStore(path, "s", sinks=sinks)
    for number in (1, 2, 3):
        store.commit(call(number), [told(number)])
        store.mark("call", number, "accepted")
    store.flush()  # the marks
    store.tell([], {"recording": {"enabled": True}})
    assert store.confirm("main", "crm", "call", 3) == 3
    store.close()
    damage(path, f"{store.store_id}-call-3".encode())
    damage(path, b'{"enabled":true}')
    again = CallStore(path, "s", sinks=sinks)
    again.commit(call(4), [told(4)])
    again.tell([], {"retained": {}})
    again.tell([], {"recording": {"enabled": False}})
    assert [entry.body["id"] for entry in again.pending(9)] == [f"{store.store_id}-call-4"]
    assert again.waiting()["main"] == {"waiting": 1, "parked": 0, "unconfirmed": 1, "done": 3, "confirmed": 3}
    assert again.gaps("call", 1, 4) == [[3, 3]]
    again.close()
    last = CallStore(path, "s", sinks=sinks)
    assert (last.note("recording"), last.note("retained")) == ({"enabled": False}, {}), "no note is in another's place"
    last.close()


def test_an_event_that_the_disk_does_not_give_now_still_waits(tmp_path: Path, mocker: MockerFixture) -> None:
    store = CallStore(tmp_path / "store", "s")
    store.commit(call(1), [told(1)] * 3)
    mocker.patch("firmware.records.log.os.pread", side_effect=OSError(errno.EIO, "Input/output error"))
    assert store.pending(9) == []
    mocker.stopall()
    assert [e.sequence for e in store.pending(9)] == [1, 2, 3]
    store.close()


def test_the_space_of_old_events_is_freed_while_the_unit_runs(tmp_path: Path, mocker: MockerFixture) -> None:
    for name, size in (("SEGMENT_BYTES", 40_000), ("_AHEAD_BYTES", 8192), ("_ZEROS", bytes(8192))):
        mocker.patch(f"firmware.records.log.{name}", size)
    mocker.patch("firmware.records.store._ALWAYS_KEPT", 10)
    clock = Clock(wall_ns=WALL_NS + 330 * DAY_NS)  # the day of the events
    store = CallStore(tmp_path / "store", "s", read_clock=clock)
    for number in range(1, 300):
        store.commit(call(1, rings=number), [told(1)])
        store.mark("call", number, "accepted")
        store.upkeep()
    clock.passes(30 * DAY_NS)
    for _ in range(200):
        store.flush()
        store.upkeep()
    assert store.kept("call") == (290, 299)
    assert sum(segment.path.stat().st_size for segment in segments(tmp_path / "store")) < 150_000
    store.close()


def test_events_of_an_unset_clock_do_not_stay_for_ever(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("firmware.records.store._ALWAYS_KEPT", 5)
    mocker.patch("firmware.records.store._LOOKED_AT", 7)
    clock = Clock(wall_ns=WALL_NS + 400 * DAY_NS)
    store = CallStore(tmp_path / "store", "s", read_clock=clock)
    undated = replace(told(1), data={"line": 1, "clock": "unsynced"})
    store.commit(call(1), [*[undated] * 50, *[told(1)] * 20])
    for sequence in range(1, 71):
        store.mark("call", sequence, "accepted")
    store.flush()
    assert store.kept("call") == (1, 70), "nobody knows yet how old they are"
    for _ in range(10):
        store.flush()
    assert store.kept("call") == (66, 70)
    mocker.patch("firmware.records.store._MOST_UNDATED", 8)
    clock.state = "unsynced"
    store.commit(call(1), [undated] * 40)
    for sequence in range(71, 111):
        store.mark("call", sequence, "accepted")
    store.flush()
    assert store.kept("call") == (98, 110), "where no clock ever tells, so many stay"
    store.close()


def test_an_event_that_has_rotted_holds_nothing_up(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("firmware.records.store._ALWAYS_KEPT", 1)
    path = tmp_path / "store"
    store = CallStore(path, "s", read_clock=Clock(wall_ns=WALL_NS + 400 * DAY_NS))
    for number in (1, 2, 3):
        store.commit(call(number), [told(number)])
    damage(path, f"{store.store_id}-call-2".encode())
    assert store.wrong is None
    assert [e.sequence for e in store.pending(9)] == [1, 3]
    assert store.wrong == (
        f"{store.problems[0].where}: events.call 2 can no longer be read (its checksum fails). "
        "`tsuroku store doctor` tells what to do."
    )
    store.mark("call", 1, "accepted")
    store.mark("call", 3, "accepted")
    store.flush()
    assert store.outbox_state()["outbox_depth"] == 0
    assert store.outbox_state()["streams"]["call"]["oldest_seq"] == 3
    store.close()


# -- writes that fail


def test_a_write_that_fails_takes_back_the_whole_commit(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = CallStore(path, "s")
    store.commit(call(1), [told(1)])
    store.mark("call", 1, "accepted")
    for torn in (0, 50, 500):  # bytes of the line that get onto the disk
        with (
            no_file_longer_than(store.storage._writer.end + torn),
            pytest.raises(
                StoreError, match=r"store: cannot be written \(File too large\); free space or mend the card"
            ),
        ):
            store.commit(call(1, outcome="missed"), [told(1), told(1)])
        with no_file_longer_than(store.storage._writer.end + torn), pytest.raises(StoreError):
            store.flush()
        assert store.get("id-1") == call(1) and store.pending(9) == []
    store.commit(call(2), [told(2)])  # in a new segment
    assert [e.sequence for e in store.pending(9)] == [2]
    assert len(whole_lines(path)) == store.storage.seq
    store.close()
    again = CallStore(path, "s")
    assert (again.wrong, again.problems) == (None, [])
    assert [e.sequence for e in again.pending(9)] == [2], "the mark outlived the commit that failed"
    assert [again.get(f"id-{n}") for n in (1, 2)] == [call(1), call(2)]
    again.close()
    assert verify(path).problems == []


def test_an_erasure_that_fails_takes_no_event_from_anybody(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "store", "s")
    store.commit(call(1, outcome="missed", no_recording="not_answered"), [told(1)])
    with no_file_longer_than(store.storage._writer.end), pytest.raises(StoreError):
        store.remove(["id-1"], "asked for", "staff")
    assert store.get("id-1") and [e.sequence for e in store.pending(9)] == [1]
    assert store.remove(["id-1"], "asked for", "staff") == []
    assert store.get("id-1") is None and store.pending(9) == []
    store.close()


def test_a_segment_that_the_disk_does_not_give_is_an_alarm_and_stops_no_upkeep(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    mocker.patch("firmware.records.log.SEGMENT_BYTES", 20_000)
    clock = Clock(WALL_NS)
    store = CallStore(tmp_path / "store", "s", read_clock=clock)
    for number in range(1, 60):
        store.commit(call(number, outcome="missed", no_recording="not_answered"), [told(number)])
    read = Path.read_bytes

    def broken(path: Path) -> bytes:
        if path.name.startswith("00000001."):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path)

    mocker.patch.object(Path, "read_bytes", broken)
    store.remove([f"id-{number}" for number in (1, 30)], "asked for", "staff")
    for _ in range(30):
        try:
            store.upkeep()
        except StoreError as error:
            assert "00000001.0.log: cannot be read (Input/output error); copy the store away" in str(error)
    assert len(store.storage.sealed()) < 6, "a purge that fails begins a segment each time"
    left = b"".join(read(path) for path in (tmp_path / "store").glob("*.log"))
    assert b'"id-30","line"' not in left and b'"id-1","line"' in left
    assert store.wrong and "00000001.0.log: cannot be read (Input/output error)." in store.wrong
    mocker.stopall()
    clock.passes(3_600 * S)
    while store.unpurged():
        store.upkeep()
    assert b'"id-1","line"' not in b"".join(read(path) for path in (tmp_path / "store").glob("*.log"))
    store.close()


def test_a_hint_that_finds_no_room_loses_no_document(tmp_path: Path, mocker: MockerFixture) -> None:
    store = CallStore(tmp_path / "store", "s")
    for number in (1, 2, 3):
        store.commit(call(number, outcome="missed", no_recording="not_answered"), [told(number)])
    full = OSError(errno.ENOSPC, "No space left on device")
    mocker.patch("firmware.records.database.write_hint", side_effect=full)
    store.remove(["id-1"], "asked for", "staff")
    assert sum(store.purge_steps()) > 0
    assert [c["call_id"] for c in store.calls()] == ["id-2", "id-3"] and store.wrong is None
    store.close()


def test_a_line_whose_sync_failed_is_dropped(tmp_path: Path, mocker: MockerFixture) -> None:
    """It is whole on the disk, as far as one can read; but it was refused, and told again under the same number."""
    path = tmp_path / "store"
    store = CallStore(path, "s")
    store.commit(call(1), [told(1)])
    broken = mocker.patch("os.fdatasync", side_effect=OSError(errno.EIO, "Input/output error"))
    with pytest.raises(StoreError, match=r"\(Input/output error\)"):
        store.commit(call(2), [told(2)])
    assert store.get("id-2") is None
    mocker.stop(broken)
    store.commit(call(3), [told(3)])
    assert [e.body["subject"] for e in store.pending(9)] == ["id-1", "id-3"]
    for _ in range(2):
        assert ids(path) == ["id-1", "id-3"]
        store.close()
        store = CallStore(path, "s")
        assert [(e.sequence, e.body["subject"]) for e in store.pending(9)] == [(1, "id-1"), (2, "id-3")]
        assert store.problems == []
    store.close()
    assert verify(path).problems == []


def fills_up(path: Path) -> None:
    """Calls on a full card are refused, all that were not are there, and with room again it goes on."""
    other = path / "other"
    other.write_bytes(bytes(2 << 20))
    store = CallStore(path / "store", "s")
    written, name = 0, "x" * 20_000
    try:
        for number in count(1):
            store.commit(call(number, caller=Caller(name=name)), [told(number)])
            store.mark("call", number, "accepted")
            written = number
    except StoreError as error:
        assert "(No space left on device); free space or mend the card." in str(error), error
    assert written > 20 and store.get(f"id-{written + 1}") is None and store.pending(9) == []
    assert len(ids(path / "store")) == written
    other.unlink()
    store.commit(call(written + 1), [told(1)])
    assert [e.sequence for e in store.pending(9)] == [written + 1]
    store.close()
    again = CallStore(path / "store", "s")
    assert len(again) == written + 1 and again.problems == [] and len(again.pending(9)) == 1
    again.close()


def test_a_full_card(tmp_path: Path) -> None:
    with_a_file_system(tmp_path, fills_up)


def test_a_folder_that_vanishes_and_comes_back_loses_nothing(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("firmware.records.log.SEGMENT_BYTES", 4000)
    path = tmp_path / "card" / "store"
    store = CallStore(path, "s")
    path.parent.rename(tmp_path / "away")
    written = 0
    with pytest.raises(StoreError, match=r"cannot be written \(No such file or directory\)"):
        for number in count(1):
            store.commit(call(number), [told(number)])
            written = number
    (tmp_path / "away").rename(path.parent)
    store.commit(call(written + 1), [told(written + 1)])
    store.close()
    assert ids(path) == [f"id-{n}" for n in range(1, written + 2)] and written
    assert [e["sequence"] for e in read_table(path, "events")] == list(range(1, written + 2))


# -- owners and readers


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    assert not unit_runs(tmp_path / "store")
    store = CallStore(tmp_path / "store", "s")
    assert unit_runs(tmp_path / "store")
    with pytest.raises(StoreError, match="another unit is running on this data"):
        CallStore(tmp_path / "store", "s")
    store.commit(call(1), [])
    store.close()
    assert not unit_runs(tmp_path / "store")
    CallStore(tmp_path / "store", "s").close()


def test_a_reader_beside_the_unit_has_what_was_whole_when_it_opened(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = CallStore(path, "s")
    store.commit(call(1), [told(1)])
    reader = CallReader(path)
    store.commit(call(1, outcome="missed"), [told(1)])
    store.commit(call(2), [told(2)])
    assert [c["outcome"] for c in reader.calls()] == [None] and len(list(reader.events())) == 1
    later = CallReader(path)
    assert [c["outcome"] for c in later.calls()] == ["missed", None] and len(list(later.events())) == 3
    assert [c["call_id"] for c in later.newest()] == ["id-2", "id-1"]
    assert len(later) == 2 and later.problems == []
    for each in (reader, later, store):
        each.close()


def test_a_reader_keeps_reading_while_segments_are_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = CallStore(path, "s")
    for number in (1, 2, 3):
        store.commit(call(number, outcome="missed", no_recording="not_answered"), [told(number)])
    reader = CallReader(path)
    store.remove(["id-2"], "asked for", "staff")
    assert sum(store.purge_steps()) > 0
    assert [c["call_id"] for c in reader.calls()] == ["id-1", "id-3"], "what is erased is erased here too"
    assert reader.get("id-3") is not None and reader.problems == []
    reader.close()
    store.close()


def test_readers_beside_upkeep_miss_no_segment_that_is_written_anew(tmp_path: Path, mocker: MockerFixture) -> None:
    """Each time that one looks which segments there are, all of them are written anew before it reads one."""
    mocker.patch("firmware.records.log.SEGMENT_BYTES", 4000)
    path = tmp_path / "store"
    store = CallStore(path, "s")
    for number in range(1, 40):
        store.commit(call(number, outcome="missed", no_recording="not_answered"), [told(number)])
    doomed = [f"id-{number}" for number in range(1, 30, 3)]
    kept = [f"id-{number}" for number in range(1, 40) if f"id-{number}" not in doomed]
    reader, looked = CallReader(path), 0
    calls = reader.calls()
    next(calls)

    def looking(directory: Path) -> list[Segment]:
        nonlocal looked
        known = segments(directory)
        looked += 1
        if looked in (1, 3, 5, 7):
            store.remove([doomed.pop()], "asked for", "staff")
            for _ in store.purge_steps():
                pass
        return known

    for module in ("database", "upkeep"):
        mocker.patch(f"firmware.records.{module}.segments", looking)
    another = CallReader(path)
    assert len(list(another.calls())) == len(kept) + len(doomed)
    another.close()
    assert verify(path).problems == []
    backup(path, tmp_path / "usb")
    assert ids(tmp_path / "usb") == [f"id-{n}" for n in range(1, 40) if f"id-{n}" in {*kept, *doomed}]
    assert {*kept, *doomed} - {"id-1"} <= {c["call_id"] for c in calls}
    assert looked > 4 and reader.problems == [] and len(doomed) < 8
    reader.close()
    store.close()


def test_readers_have_a_sentence_before_the_first_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store here yet"):
        read_table(tmp_path / "store", "calls")
    (tmp_path / "calls.json").write_text("{}")
    with pytest.raises(StoreError, match="is of an older version; it is taken over when the unit next starts"):
        read_table(tmp_path / "store", "calls")


def test_a_folder_that_may_not_be_read_is_not_called_empty(tmp_path: Path, mocker: MockerFixture) -> None:
    CallStore(tmp_path / "store", "s").close()
    mocker.patch("os.listdir", side_effect=PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(StoreError, match=r"store: cannot be read \(Permission denied\); run this as the user tsuroku"):
        CallReader(tmp_path / "store")


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store"
    CallStore(path, "s").close()
    with LogDB(path) as db:
        db.table("meta").update({"schema": 3})
    before = {each.name: each.read_bytes() for each in path.iterdir()}
    with pytest.raises(StoreError, match=r"has schema 3, this version reads 2; install the version that wrote it"):
        CallStore(path, "s")
    assert {each.name: each.read_bytes() for each in path.iterdir()} == before
    with LogDB(path) as db:  # and nobody holds it
        db.table("meta").update({"schema": 2})
    CallStore(path, "s").close()


# -- what is found


def test_what_a_crash_left_open_is_found(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "store", "s")
    store.commit(call(1), [])
    store.commit(call(2, outcome="missed", no_recording="not_answered"), [])
    store.commit(call(3, outcome="answered", no_recording="not_closed_yet"), [])
    store.commit(call(4), [])
    store.commit(call(4, outcome="missed", no_recording="not_answered"), [])
    assert [c.call_id for c in store.left_open()] == ["id-1", "id-3"]
    as_killed(store)
    again = CallStore(tmp_path / "store", "s")
    assert again.left_open() == [call(1), call(3, outcome="answered", no_recording="not_closed_yet")]
    again.commit(call(1, outcome="interrupted", no_recording="no_sound"), [])
    assert [c.call_id for c in again.left_open()] == ["id-3"]
    again.close()


def with_numbers(*numbers: str) -> Sequence[Call]:
    heard = (Caller(presentation="allowed", reason=None, number=number) for number in numbers)
    return [call(n, caller=caller) for n, caller in enumerate(heard, 1)]


def test_calls_are_found_by_the_number_that_called_or_was_called(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "store", "s")
    for made in with_numbers("+81300000001", "+81300000002", "+81300000001", "+81300000003"):
        store.commit(made, [])
    dialled = Dialled(raw="0300000001", digits="0300000001", number="+81300000001")
    store.commit(call(5, direction="outgoing", dialled=dialled), [])
    store.commit(with_numbers("+81300000009")[0], [])  # the first call's number turns out to be another
    for reader in (store, CallReader(tmp_path / "store")):
        assert [c["call_id"] for c in reader.with_number("+81300000001")] == ["id-3", "id-5"]
        assert [c["call_id"] for c in reader.with_number("+81300000009")] == ["id-1"]
        assert reader.with_number("+81300000008") == []
        reader.close()


def test_numbers_with_the_same_key_are_told_apart(tmp_path: Path) -> None:
    seen: dict[int, str] = {}
    for number in (f"+81{n * 2_654_435_761 % 10**10:010d}" for n in count()):
        other = seen.setdefault(zlib.crc32(number.encode()), number)
        if other != number:
            break
    store = CallStore(tmp_path / "store", "s")
    for made in with_numbers(number, other):
        store.commit(made, [])
    assert [c["call_id"] for c in store.with_number(number)] == ["id-1"]
    assert [c["call_id"] for c in store.with_number(other)] == ["id-2"]
    store.close()


def at(boot_id: str, clock: Clock, number: int, **changes: object) -> Call:
    return call(number, boot_id=boot_id, clock=clock(), opened_ns=clock.mono_ns, **changes)


def opened(calls: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {call["call_id"]: call["opened"] for call in calls}


@pytest.mark.parametrize("state", ["unsynced", "rtc"])
def test_times_of_an_unset_clock_are_put_right_once_it_is_set(tmp_path: Path, state: ClockState) -> None:
    path, clock = tmp_path / "store", Clock(WALL_NS)
    store = CallStore(path, "s", boot_id="first", read_clock=clock)
    store.commit(at("first", clock, 1), [])
    store.anchor(clock())
    assert "anchors" not in store.storage.tables, "all times of this boot were right"
    store.close()
    clock = Clock(1_000_000_000 * S, state, mono_ns=5 * S)  # 2001
    store = CallStore(path, "s", boot_id="second", read_clock=clock)
    made = at("second", clock, 2, answered_ns=8 * S, ended_ns=20 * S, outcome="answered")
    store.commit(made, [])
    assert opened(list(store.calls())) == {"id-1": "2026-01-01T00:00:00.000Z", "id-2": "2001-09-09T01:46:40.000Z"}
    assert [c["call_id"] for c in store.between("2001-09-09", "2001-09-10")] == ["id-2"]
    clock.passes(3600 * S)
    clock.wall_ns, clock.state = WALL_NS + DAY_NS, "ntp"
    store.anchor(clock())
    seq = store.storage.seq
    clock.passes(S)
    store.anchor(clock())
    assert store.storage.seq == seq, "once a boot is enough"
    store.commit(at("second", clock, 3), [])
    right = {"id-1": "2026-01-01T00:00:00.000Z", "id-2": "2026-01-01T23:00:00.000Z", "id-3": "2026-01-02T00:00:01.000Z"}
    for reader in (store, CallReader(path)):
        assert opened(list(reader.calls())) == right
        assert opened(list(reader.newest())) == right
        assert opened(reader.between("2026-01-01T23:00:00.000Z", "2026-01-02")) == {"id-2": right["id-2"]}
        assert opened(reader.between("2026-01-01", "2026-01-01T23:00:00.000Z")) == {"id-1": right["id-1"]}
        assert reader.between("2001-09-09", "2001-09-10") == []
        found = next(c for c in reader.calls() if c["call_id"] == "id-2")
        assert (found["answered"], found["ended"]) == ("2026-01-01T23:00:03.000Z", "2026-01-01T23:00:15.000Z")
        assert found["clock"]["state"] == "ntp" and found["clock_then"]["state"] == state
        assert found["opened_ns"] == 5 * S
        told_of = reader.get("id-2")
        assert told_of is not None and told_of.iso(told_of.opened_ns) == right["id-2"]
        reader.close()
    with LogDB(path, writable=False) as db:
        assert db.table("calls").get(doc_id=2)["opened"] == "2001-09-09T01:46:40.000Z", "what was written stays"


def test_an_unset_clock_never_goes_behind_the_last_time_in_the_store(tmp_path: Path) -> None:
    path, clock = tmp_path / "store", Clock(WALL_NS)
    store = CallStore(path, "s", boot_id="first", read_clock=clock)
    clock.passes(60 * S)
    store.commit(call(1), [])
    as_killed(store)
    clock = Clock(0, "unsynced", mono_ns=7)
    store = CallStore(path, "s", boot_id="second", read_clock=clock)
    assert store.read_clock() == ClockRead(mono_ns=7, wall_ns=WALL_NS + 60 * S, state="unsynced")
    clock.passes(5 * S)
    assert store.read_clock().wall_ns == WALL_NS + 65 * S
    store.commit(call(2), [])
    as_killed(store)
    clock = Clock(DAY_NS, "rtc", mono_ns=7)
    store = CallStore(path, "s", boot_id="third", read_clock=clock)
    assert store.read_clock().wall_ns == WALL_NS + 65 * S, "nor behind one that was itself such a time"
    clock.wall_ns, clock.state = WALL_NS - DAY_NS, "ntp"
    assert store.read_clock().wall_ns == WALL_NS - DAY_NS, "one that is set is believed"
    store.close()
    clock = Clock(WALL_NS + 2 * DAY_NS, "unsynced")
    store = CallStore(path, "s", boot_id="fourth", read_clock=clock)
    assert store.read_clock().wall_ns == WALL_NS + 2 * DAY_NS, "one that is ahead is left as it is"
    store.close()


def test_between_wants_times_and_takes_days(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "store", "s")
    assert store.between("2026-01-01", "2026-01-02") == []
    clock = Clock(WALL_NS)
    for number in range(1, 8):
        store.commit(at("b", clock, number), [])
        clock.passes(DAY_NS // 2)
    assert list(opened(store.between("2026-01-02", "2026-01-03"))) == ["id-3", "id-4"]
    assert list(opened(store.between("2026-01-02T00:00:00.001Z", "2026-01-03T00:00:00.001Z"))) == ["id-4", "id-5"]
    assert store.between("2026-01-03", "2026-01-02") == []
    for wrong in ("yesterday", "2026-13-01", "2026-01-01 00:00:00", "2026-01-01T00:00:00+09:00", ""):
        with pytest.raises(ValueError, match=re.escape(f"'{wrong}' is no UTC time")):
            store.between("2026-01-01", wrong)
    store.close()


# -- the store of schema 1

ENTRY = '{"stream":"call","sequence":1,"state":"pending","body":{}}'
WHOLE = '"meta":{"1":{"schema":1,"store_id":"s"}}'


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"meta":{"1":{"schema":1}}}',
        f'{{{WHOLE},"calls":[]}}'.encode(),
        f'{{{WHOLE},"calls":{{"1":{{"schema":1}}}}}}'.encode(),
        f'{{{WHOLE},"outbox":{{"1":{{"stream":"call"}}}}}}'.encode(),
        f'{{{WHOLE},"outbox":{{"x":{ENTRY}}}}}'.encode(),
        f'{{{WHOLE},"outbox":{{"1":{ENTRY.replace(":1", ":null")}}}}}'.encode(),
        f'{{{WHOLE},"outbox":"none"}}'.encode(),
        b'{"meta":{"1":{"schema":"x","store_id":"s"}}}',
        b'{"meta":{"1":{"schema":1,"store_id":7}}}',
        b"[" * 100_000,
        b"",
    ],
)
def test_a_damaged_store_is_set_aside_and_calls_go_on(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "store"
    (tmp_path / "calls.json").write_bytes(text)
    store = CallStore(path, "s")
    assert store.set_aside is not None and store.set_aside.read_bytes() == text
    assert store.wrong and f"is kept as {store.set_aside}; put back a backup" in store.wrong
    store.commit(call(1), [told(1)])
    store.close()
    assert ids(path) == ["id-1"]
    again = CallStore(path, "s")  # it stays a fault until somebody has taken the file away
    assert again.set_aside == store.set_aside and len(again.pending(9)) == 1
    again.close()
    store.set_aside.unlink()
    last = CallStore(path, "s")
    assert last.wrong is None
    last.close()


def test_one_that_was_set_aside_is_never_written_over(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("firmware.records.migrate.time.strftime", return_value="20251123-120000")
    for number, text in enumerate(("{1", "{2", "{3")):
        (tmp_path / "calls.json").write_text(text)
        CallStore(tmp_path / f"store{number}", "s").close()
    aside = sorted(each for each in tmp_path.iterdir() if "damaged" in each.name)
    assert [each.read_text() for each in aside] == ["{1", "{2", "{3"]


def old_store(path: Path, *calls: Call, events: int = 0) -> Path:
    """As the version before this one wrote it, beside where the new one will be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {"meta": {"1": {"schema": 1, "store_id": "old"}}}
    data["calls"] = {str(n): each.to_dict() for n, each in enumerate(calls, 1)}
    data["outbox"] = {
        str(n): {"stream": "call", "sequence": n, "state": "pending", "body": {"sequence": n, "subject": "id-1"}}
        for n in range(1, events + 1)
    }
    old = path.with_name("calls.json")
    old.write_text(json.dumps(data))
    return old


@pytest.mark.parametrize("change", [{"call_id": ["x"]}, {"line": []}, {"opened_ns": "x"}, {"clock": 1}, {"marks": 1}])
def test_a_call_that_cannot_be_read_is_damage_and_is_not_quoted(tmp_path: Path, change: dict[str, object]) -> None:
    made = {**call(1, caller=Caller(raw="0300001234")).to_dict(), **change}
    (tmp_path / "calls.json").write_text(f'{{{WHOLE},"calls":{{"1":{json.dumps(made)}}}}}')
    store = CallStore(tmp_path / "store", "s")
    assert store.set_aside is not None and store.wrong and "0300001234" not in store.wrong
    store.close()


def test_a_bad_block_of_the_card_is_damage(tmp_path: Path, mocker: MockerFixture) -> None:
    old_store(tmp_path / "store", call(1))
    broken = mocker.patch.object(Path, "read_bytes", side_effect=OSError(errno.EIO, "Input/output error"))
    store = CallStore(tmp_path / "store", "s")
    mocker.stop(broken)
    assert store.set_aside is not None and store.set_aside.exists()
    store.close()


@pytest.mark.parametrize(
    "text", ['{"meta":{"1":{"schema":99}}}', f'{{{WHOLE},"calls":{{"1":{{"schema":3}}}}}}'], ids=["store", "call"]
)
def test_an_old_store_of_another_version_is_no_damage_and_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "calls.json").write_text(text)
    with pytest.raises(StoreError, match=r"has schema (99|3), this version reads 1 \(calls up to 2\); install the"):
        CallStore(tmp_path / "store", "s")
    assert (tmp_path / "calls.json").read_text() == text and not (tmp_path / "store").exists()


def test_an_old_store_that_somebody_uses_is_not_taken_over(tmp_path: Path) -> None:
    old_store(tmp_path / "store", call(1))
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "calls.lock"], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None and owner.stdout.readline()
        with pytest.raises(StoreError, match=r"calls\.json: another unit is running on this data"):
            CallStore(tmp_path / "store", "s")
        owner.kill()
    store = CallStore(tmp_path / "store", "s")
    assert len(store) == 1
    store.close()


def test_a_take_over_that_fails_changes_nothing(tmp_path: Path) -> None:
    old = old_store(tmp_path / "store", *map(call, range(1, 50)), events=20)
    text = old.read_text()
    with no_file_longer_than(20_000), pytest.raises(StoreError, match=r"cannot be written \(File too large\)"):
        CallStore(tmp_path / "store", "s")
    assert old.read_text() == text and not (tmp_path / "store").exists()
    store = CallStore(tmp_path / "store", "s")
    assert len(store) == 49 and [e.sequence for e in store.pending(99)] == list(range(1, 21))
    store.close()


def test_a_take_over_that_was_cut_off_at_its_end_is_done(tmp_path: Path) -> None:
    old = old_store(tmp_path / "store", call(1), events=1)
    text = old.read_text()
    CallStore(tmp_path / "store", "s").close()
    assert not old.exists() and (tmp_path / "calls.json.migrated").read_text() == text
    (tmp_path / "calls.json.migrated").rename(old)  # the new store is in its place, the old one not yet put away
    store = CallStore(tmp_path / "store", "s")
    assert len(store) == 1 and store.store_id == "old" and store.wrong is None
    store.close()
    assert not old.exists() and (tmp_path / "calls.json.migrated").read_text() == text


# -- kill -9

CHILD = """
import itertools
import sys
from pathlib import Path
from tests.test_store import call, told
from firmware.records.store import CallStore
store = CallStore(Path(sys.argv[1]), "s")
for n in itertools.count(1):  # until it is killed, however long the reader beside it takes
    store.commit(call(n), [told(n)])
    print(n, flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged_and_readers_beside_it_see_whole_calls(tmp_path: Path) -> None:
    path = tmp_path / "store"
    child = subprocess.Popen([sys.executable, "-c", CHILD, path], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    said = int(child.stdout.readline())
    until = time.monotonic() + 1
    before = 0
    while time.monotonic() < until:
        reader = CallReader(path)
        made, events = [c["call_id"] for c in reader.calls()], list(reader.events())
        assert made == [f"id-{n}" for n in range(1, len(made) + 1)] and len(events) == len(made) >= before
        assert [problem for problem in reader.problems if problem.kind != "torn"] == []
        before = len(made)
        reader.close()
    child.kill()
    said = max([said, *(int(line) for line in child.stdout)])
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    assert said + 1 >= before > 3  # the last one may not have been acknowledged yet
    store = CallStore(path, "s")
    assert said <= len(store) == len(list(store.events())) <= said + 1
    assert store.wrong is None
    store.close()
