"""A reader that follows the unit that writes: it sees what a new reader would see, and what changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from firmware.records.database import Change, LogStorage, Put, Remove, View
from firmware.records.index import Index

INDEXES = {"calls": (Index(("who",)),)}


def shown(storage: LogStorage) -> str:
    return json.dumps({name: dict(View(storage, name).documents()) for name in sorted(storage.tables)}, sort_keys=True)


def test_it_sees_what_was_written_and_tells_what_changed(tmp_path: Path) -> None:
    writer = LogStorage(tmp_path / "s", indexes=INDEXES)
    writer.commit([Put("calls", 1, {"who": "a"}), Put("notes", 1, {"x": 1})])
    reader = LogStorage(tmp_path / "s", indexes=INDEXES, writable=False)
    assert reader.follow() == set()
    writer.commit([Put("calls", 2, {"who": "b"}), Remove("notes", 1, 1)])
    writer.commit([Put("calls", 1, {"who": "c"})])
    assert reader.follow() == {("calls", 1), ("calls", 2), ("notes", 1)}
    assert shown(reader) == shown(writer) and reader.seq == writer.seq and reader.link == writer.link
    assert reader.doc("calls", 1) == {"who": "c"} and reader.doc("notes", 1) is None
    writer.seal()
    writer.commit([Put("calls", 3, {"who": "d"})])
    assert reader.follow() == {("calls", 3)} and shown(reader) == shown(writer)
    for storage in (reader, writer):
        storage.close()


def test_a_line_that_is_being_written_is_taken_later(tmp_path: Path) -> None:
    writer = LogStorage(tmp_path / "s", indexes=INDEXES)
    writer.commit([Put("calls", 1, {"who": "a"})])
    reader = LogStorage(tmp_path / "s", indexes=INDEXES, writable=False)
    path = writer.sealed()[0].path if writer.sealed() else next((tmp_path / "s").glob("*.log"))
    end = len(path.read_bytes().rstrip(b"\0"))
    writer.commit([Put("calls", 2, {"who": "b"})])
    whole = path.read_bytes()
    last = len(whole.rstrip(b"\0"))
    for cut in range(end, last, 7):
        path.write_bytes(whole[:cut] + bytes(len(whole) - cut))
        assert reader.follow() in (set(), {("calls", 2)})
    path.write_bytes(whole)
    reader.follow()
    assert shown(reader) == shown(writer)
    for storage in (reader, writer):
        storage.close()


def test_a_line_that_comes_while_the_segment_is_read_leaves_no_hole(tmp_path: Path, mocker: MockerFixture) -> None:
    writer = LogStorage(tmp_path / "s", indexes=INDEXES)
    ends = []
    for number in range(1, 5):
        writer.commit([Put("calls", number, {"who": str(number)})])
        (path,) = (tmp_path / "s").glob("*.log")
        ends.append(len(path.read_bytes().rstrip(b"\0")))
    whole = path.read_bytes()
    hole = whole[: ends[1]] + bytes(ends[2] - ends[1]) + whole[ends[2] :]  # the fourth line is there, the third not yet
    mocker.patch.object(Path, "read_bytes", side_effect=[hole, hole, whole])
    reader = LogStorage(tmp_path / "s", indexes=INDEXES, writable=False)
    mocker.stopall()
    assert shown(reader) == shown(writer) and reader.problems == []
    path.write_bytes(hole)  # what stays so has rotted
    again = LogStorage(tmp_path / "s", indexes=INDEXES, writable=False)
    assert [problem.kind for problem in again.problems] == ["rot"] and again.doc("calls", 4) == {"who": "4"}
    for storage in (reader, again, writer):
        storage.close()


def test_segments_that_were_written_anew_are_read_anew(tmp_path: Path) -> None:
    writer = LogStorage(tmp_path / "s", indexes=INDEXES)
    for number in range(1, 60):
        writer.commit([Put("calls", number % 3 + 1, {"who": str(number) * 20})])
    reader = LogStorage(tmp_path / "s", indexes=INDEXES, writable=False)
    writer.seal()
    assert reader.follow() == set()
    writer.commit([Put("calls", 9, {"who": "z"})])
    for segment in writer.sealed():
        writer.compact(segment)
    assert reader.follow() in ({("calls", 9)}, None) and shown(reader) == shown(writer)
    for storage in (reader, writer):
        storage.close()


def test_a_store_that_is_not_there_for_a_while_is_read_anew_later(tmp_path: Path) -> None:
    writer = LogStorage(tmp_path / "s", indexes=INDEXES)
    writer.commit([Put("calls", 1, {"who": "a"})])
    writer.close()
    reader = LogStorage(tmp_path / "s", indexes=INDEXES, writable=False)
    (tmp_path / "s").rename(tmp_path / "away")
    assert reader.follow() is None and not reader.tables
    (tmp_path / "s").write_text("no folder")
    assert reader.follow() is None
    (tmp_path / "s").unlink()
    (tmp_path / "away").rename(tmp_path / "s")
    assert reader.follow() is None and reader.doc("calls", 1) == {"who": "a"}
    reader.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 9), st.text(max_size=8)),
        st.tuples(st.just("remove"), st.integers(1, 9), st.integers(1, 9)),
        st.tuples(st.sampled_from(["seal", "compact", "follow"]), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_however_it_is_written_it_is_followed(tmp_path_factory: Any, steps: list[tuple[str, int, Any]]) -> None:
    folder = tmp_path_factory.mktemp("follow")
    writer = LogStorage(folder / "s", indexes=INDEXES)
    writer.commit([Put("calls", 1, {"who": "first"})])
    reader = LogStorage(folder / "s", indexes=INDEXES, writable=False)
    for what, number, more in steps:
        changes: list[Change] = []
        match what:
            case "put":
                changes = [Put("calls", number, {"who": more})]
            case "remove":
                changes = [Remove("calls", min(number, more), max(number, more))]
            case "seal":
                writer.seal()
            case "compact":
                for segment in writer.sealed():
                    writer.compact(segment, least=0.0)
            case "follow":
                reader.follow()
        if changes:
            writer.commit(changes)
    reader.follow()
    assert shown(reader) == shown(writer) and reader.link == writer.link
    for storage in (reader, writer):
        storage.close()
