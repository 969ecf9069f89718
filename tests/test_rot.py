"""One flipped bit anywhere in a store of 100,000 calls: at most that one line is lost, and it is named."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from firmware.core.call import Call, ClockRead
from firmware.records.database import Put, compose
from firmware.records.log import Bad, Line, Segment, Writer, lines, segments
from firmware.records.store import SCHEMA, CallReader, CallStore
from firmware.records.upkeep import verify

CALLS = 100_000
S = 1_000_000_000


def call_of(number: int, template: dict[str, Any]) -> dict[str, Any]:
    caller = template["caller"] | {"number": f"+8130000{number % 10_000:04d}"}
    return template | {"call_id": f"call-{number:06d}", "caller": caller, "opened_ns": number * S}


@dataclass(frozen=True)
class Store:
    path: Path
    template: dict[str, Any]
    segments: list[Segment]

    def whole(self, reader: CallReader, number: int) -> bool:
        """Whether a call is there, as it was written; one that is not must not be there at all."""
        found = reader.storage.doc("calls", number)
        assert found is None or found == call_of(number, self.template), number
        return found is not None

    @contextmanager
    def flipped(self, path: Path, bit: int) -> Iterator[None]:
        with path.open("r+b") as file:
            file.seek(bit // 8)
            byte = file.read(1)
            file.seek(bit // 8)
            file.write(bytes([byte[0] ^ 1 << bit % 8]))
        try:
            yield
        finally:
            with path.open("r+b") as file:
                file.seek(bit // 8)
                file.write(byte)

    @contextmanager
    def without_hint(self, segment: Segment) -> Iterator[None]:
        """So that the segment is scanned."""
        aside = segment.hint.with_suffix(".aside")
        segment.hint.rename(aside)
        try:
            yield
        finally:
            aside.rename(segment.hint)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A call a line, closed in an orderly way. Line n + 1 holds call n."""
    path = tmp_path_factory.mktemp("rot") / "store"
    path.mkdir()
    clock = ClockRead(mono_ns=0, wall_ns=1_767_225_600 * S, state="ntp")
    made = Call(call_id="", line=1, direction="incoming", boot_id="b", clock=clock, opened_ns=0, outcome="missed")
    template = made.to_dict() | {"no_recording": "not_answered"}
    writer = Writer(path, sync=False)
    bodies = (compose([Put("calls", n, call_of(n, template))], [1, n, n, "ntp"])[0] for n in range(1, CALLS + 1))
    for body in [compose([Put("meta", 1, {"schema": SCHEMA, "store_id": "s"})])[0], *bodies]:
        if not writer.fits(body):
            writer.new_segment()
        writer.append(body)
    writer.close()
    CallStore(path, "s").close()  # writes hints, and a last line that says that this is the end
    known = segments(path)
    assert len(known) > 5 and all(each.hint.exists() for each in known[:-1])
    return Store(path, template, known)


def lines_of(segment: Segment) -> list[Line]:
    found = list(lines(segment.path.read_bytes()))
    assert not [line for line in found if isinstance(line, Bad)]
    return [line for line in found if isinstance(line, Line)]


def opened(store: Store) -> CallReader:
    return CallReader(store.path)


def test_a_bit_of_a_line_that_is_found_when_everything_is_scanned(store: Store) -> None:
    """The first line, the last and one in between, of the first segment, the last and some in between."""
    dice = random.Random(1)
    for segment in (store.segments[0], dice.choice(store.segments[1:-1]), store.segments[-1]):
        own = lines_of(segment)
        last = own[-1]
        if segment is store.segments[-1]:
            own = [line for line in own if line.seq - 1 <= CALLS]  # without what the owner wrote
        for line in {store.segments[0]: (own[0], own[1]), store.segments[-1]: (own[0], own[-1])}.get(
            segment, (own[0], dice.choice(own), own[-1])
        ):
            number = line.seq - 1
            bit = (line.offset + dice.randrange(line.size - 1)) * 8 + dice.randrange(8)
            with store.flipped(segment.path, bit):
                if segment is store.segments[-1]:
                    reader = opened(store)
                else:
                    with store.without_hint(segment):
                        reader = opened(store)
                said = [problem.says for problem in reader.problems if problem.kind == "rot"]
                assert said == [f"line {line.seq} can no longer be read."], (segment.path.name, bit)
                assert reader.problems[0].where == f"{segment.path.name} at byte {line.offset}"
                if number:  # line 1 says what the store is
                    assert not store.whole(reader, number) and len(reader) == CALLS - 1
                    assert reader.get(f"call-{number:06d}") is None
                near = {number - 1, number + 1, 1, CALLS, own[0].seq - 1, min(last.seq - 1, CALLS)} - {number, 0}
                assert all(store.whole(reader, each) for each in near if 0 < each <= CALLS)
                reader.close()


def test_a_bit_of_a_line_that_a_hint_spares_the_scan_of(store: Store) -> None:
    """It is found when the call is read. One outside of the call's own JSON is found when the chain is followed."""
    dice = random.Random(2)
    for _ in range(4):
        segment = dice.choice(store.segments[1:-1])
        line = dice.choice(lines_of(segment))
        number, at = line.seq - 1, dice.randrange(line.size - 1)
        body = line.body or b""
        in_call = at >= line.body_offset - line.offset + body.index(b"\t") + 1
        with store.flipped(segment.path, (line.offset + at) * 8 + dice.randrange(8)):
            reader = opened(store)
            assert reader.problems == [] and len(reader) == CALLS
            assert store.whole(reader, number) == (not in_call)
            assert store.whole(reader, number - 1) and store.whole(reader, number + 1)
            found = [problem.kind for problem in reader.problems]
            assert found == (["rot"] if in_call else []) and (
                not in_call or f"calls {number} " in reader.problems[0].says
            )
            reader.close()
            assert [(p.kind, p.where) for p in _verified(store, segment)] == [
                ("rot", f"{segment.path.name} at byte {line.offset}")
            ]


def _verified(store: Store, segment: Segment) -> list[Any]:
    """What following the chain finds in one segment."""
    alone = store.path.with_name("alone")
    alone.mkdir()
    try:
        for each in store.segments:
            if each.number in (segment.number, segment.number + 1):
                (alone / each.path.name).symlink_to(each.path)
        found = verify(alone).problems
    finally:
        for each_path in alone.iterdir():
            each_path.unlink()
        alone.rmdir()
    return [problem for problem in found if problem.kind == "rot"]


def test_a_bit_of_a_hint_costs_a_scan_and_nothing_else(store: Store) -> None:
    dice = random.Random(3)
    for segment in dice.sample(store.segments[:-1], 2):
        bit = dice.randrange(segment.hint.stat().st_size * 8)
        with store.flipped(segment.hint, bit):
            reader = opened(store)
            own = lines_of(segment)
            assert reader.problems == [] and len(reader) == CALLS
            assert all(store.whole(reader, line.seq - 1) for line in dice.sample(own[1:], 20))
            reader.close()


def test_a_bit_of_the_room_behind_the_last_line_costs_nothing(store: Store) -> None:
    last = store.segments[-1]
    end, size = (line := lines_of(last)[-1]).offset + line.size, last.path.stat().st_size
    assert size > end
    for byte in (end, (end + size) // 2, size - 1):
        with store.flipped(last.path, byte * 8 + 3):
            reader = opened(store)
            assert [problem.kind for problem in reader.problems] == ["torn"] and len(reader) == CALLS
            assert store.whole(reader, CALLS)
            reader.close()


def test_all_else_is_there_and_an_alarm_is_raised(store: Store) -> None:
    """In full, and for the store's owner; the chain is followed to its end."""
    dice = random.Random(4)
    segment = dice.choice(store.segments[1:-1])
    line = dice.choice(lines_of(segment)[1:-1])
    lost = line.seq - 1
    with store.flipped(segment.path, (line.body_offset + 100) * 8):
        with store.without_hint(segment):
            owner = CallStore(store.path, "s")
            assert owner.wrong == (
                f"{segment.path.name} at byte {line.offset}: line {line.seq} can no longer be read. "
                "`tsuroku store doctor` tells what to do."
            )
            there = [number for number in range(1, CALLS + 1) if store.whole(owner, number)]
            assert there == [*range(1, lost), *range(lost + 1, CALLS + 1)]
            owner.storage._written = False  # leave it as it is for who comes after
            owner.storage.close()
        found = verify(store.path)
        assert [(problem.kind, problem.where) for problem in found.problems] == [
            ("rot", f"{segment.path.name} at byte {line.offset}")
        ]
