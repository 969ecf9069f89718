"""A bank's call centre, 17,456 arrivals of February 1999, one after the other on one line: edges only, exact to the ns.

A record becomes a call by this mapping; the line sees less than the centre's computer did:

- It rings for q_time, the wait for an agent, and for 1 s at least (7,419 records waited less): bursts of 1 s every 3 s,
  at 16 Hz. vru_time, the voice menu before it, is left out, and the outcome AGENT, HANG or PHANTOM is not looked at.
- ser_time above 0 (14,557 records): somebody lifts when the wait is over and the loop is closed for ser_time. That is
  `answered`, or `too_short` below the 2 s that a call has to last (90 records).
- ser_time 0 (2,899 records): nobody lifts: `missed`. Such a call ends with its last burst, since the line cannot know
  when in the silence after it the caller gave up.
- Calls stand in the order of their entry, at the time of their entry, or where the line is not free then 2 s after the
  hang-up of the one before; after ringing that nobody answered 7 s after its last burst, since an exchange that rings
  again within 6 s is, to the line, still ringing.
"""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drivers.signals import LoopEdge, RingEdge
from firmware.core.call import Call, ClockRead
from firmware.core.facts import Input
from firmware.core.line import Command, Line, SaveCall, StopRecording
from firmware.engine.journal import Journal, JournalledReads, replay
from firmware.engine.loop import Engine
from tests.test_line import Reads, config, ready

ARRIVALS = Path(__file__).parents[2] / "shared/data/cdr/anonymous_bank_1999_02_first_half.tsv"
S = 1_000_000_000
CYCLE_NS = 62_500_000  # 16 Hz
LAST_EDGE_NS = 15 * CYCLE_NS  # of a burst of 1 s, from its first


@dataclass(frozen=True, slots=True)
class Mapped:
    """One record as the line should see it."""

    opened_ns: int
    ring_s: int
    talk_s: int

    @property
    def lifted_ns(self) -> int:
        return self.opened_ns + self.ring_s * S

    @property
    def bursts(self) -> range:
        """Where each begins. In whole seconds no lift cuts one short."""
        return range(self.opened_ns, self.lifted_ns, 3 * S)

    @property
    def ended_ns(self) -> int:
        return self.lifted_ns + self.talk_s * S if self.talk_s else self.bursts[-1] + LAST_EDGE_NS

    @property
    def free_ns(self) -> int:
        return self.ended_ns + (2 * S if self.talk_s else 7 * S)

    @property
    def outcome(self) -> str:
        return "missed" if not self.talk_s else "answered" if self.talk_s >= 2 else "too_short"


def arrivals() -> Iterator[Mapped]:
    with ARRIVALS.open(encoding="ascii", newline="") as file:
        records = [(_entry_ns(row), row) for row in csv.DictReader(file, delimiter="\t")]
    records.sort(key=lambda record: record[0])
    first_ns, free_ns = records[0][0], 0
    for entry_ns, row in records:
        opened_ns = max(entry_ns - first_ns + 10 * S, free_ns)
        call = Mapped(opened_ns, max(1, int(row["q_time"])), int(row["ser_time"]))
        free_ns = call.free_ns
        yield call


def _entry_ns(row: dict[str, str]) -> int:
    hour, minute, second = map(int, row["vru_entry"].split(":"))
    day = datetime.strptime(row["date"], "%y%m%d").replace(tzinfo=UTC)
    return round(day.timestamp() + hour * 3600 + minute * 60 + second) * S


def edges(call: Mapped) -> Iterator[RingEdge | LoopEdge]:
    """Rising edges of the ringing; a falling one says nothing more."""
    for began in call.bursts:
        for at_ns in range(began, began + LAST_EDGE_NS + 1, CYCLE_NS):
            yield RingEdge(at_ns=at_ns, line=1, active=True)
    if call.talk_s:
        yield LoopEdge(at_ns=call.lifted_ns, line=1, closed=True)
        yield LoopEdge(at_ns=call.ended_ns, line=1, closed=False)


def agrees(call: Call, mapped: Mapped) -> bool:
    answered = None if mapped.outcome == "missed" else mapped.lifted_ns
    return (
        call.direction == "incoming"
        and call.outcome == mapped.outcome
        and call.opened_ns == mapped.opened_ns
        and call.answered_ns == answered
        and call.ended_ns == mapped.ended_ns
        and call.duration_s == (mapped.talk_s or None)
        and call.rings == len(mapped.bursts)
        and (call.recording is not None) == (mapped.outcome == "answered")
    )


@pytest.fixture(scope="module")
def mapped() -> list[Mapped]:
    if not ARRIVALS.exists():
        pytest.skip(f"{ARRIVALS.name} is not here: the data of ../shared is not part of the project")
    return list(arrivals())


def test_the_mapping_takes_every_record_and_none_overlaps(mapped: list[Mapped]) -> None:
    assert Counter(call.outcome for call in mapped) == {"answered": 14_467, "missed": 2_899, "too_short": 90}
    gaps = [after.opened_ns - before.ended_ns for before, after in itertools.pairwise(mapped)]
    assert min(gaps) == 2 * S
    assert gaps.count(2 * S) > 10_000, "a busy line: most calls come right after the one before"


def test_every_arrival_is_one_call_with_its_outcome_and_times(mapped: list[Mapped]) -> None:
    line = Line(config(), Reads())
    found: dict[str, Call] = {}

    def did(commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, SaveCall):
                found[command.call.call_id] = command.call
        for command in commands:
            if isinstance(command, StopRecording) and command.keep:
                did(line.handle(ready(command.call_id, command.until_ns)))

    def to(at_ns: int) -> None:
        while (due := line.due()) and due[0] <= at_ns:
            did(line.fire(due[1]))

    last_ns = 0
    for call in mapped:
        for edge in edges(call):
            if edge.at_ns - last_ns != CYCLE_NS:  # no timer runs out within a burst
                to(edge.at_ns)
            last_ns = edge.at_ns
            if commands := line.handle(edge):
                did(commands)
    to(last_ns + 60 * S)
    assert len(found) == len(mapped) == 17_456
    wrong = [(call, of) for call, of in zip(found.values(), mapped, strict=True) if not agrees(call, of)]
    assert wrong == []
    assert sum(call.duration_s or 0 for call in found.values()) == sum(of.talk_s for of in mapped)


def test_the_engine_and_a_replay_of_its_journals_agree(mapped: list[Mapped], tmp_path: Path) -> None:
    """The first 200 arrivals through the engine, as the unit takes them."""
    ids, found, kept = itertools.count(1), dict[str, Call](), list[Input]()

    def execute(command: Command) -> None:
        if isinstance(command, SaveCall):
            found[command.call.call_id] = command.call
        elif isinstance(command, StopRecording) and command.keep:
            kept.append(ready(command.call_id, command.until_ns))

    journal = Journal(tmp_path, [config()])
    reads = JournalledReads(
        journal, lambda: f"{next(ids):08d}", lambda: ClockRead(mono_ns=0, wall_ns=10**18, state="ntp")
    )
    engine = Engine({1: Line(config(), reads)}, journal, execute, lambda given: None, lambda: 0)
    for call in mapped[:200]:
        for edge in edges(call):
            engine.take(edge)
        engine.advance(call.ended_ns + 3 * S // 2)
        while kept:
            engine.take(kept.pop())
    engine.advance(mapped[200].opened_ns - 1)
    journal.close()
    assert all(agrees(call, of) for call, of in zip(found.values(), mapped[:200], strict=True))
    replayed = {save.call.call_id: save.call for path in sorted(tmp_path.iterdir()) for save in replay(path)}
    assert replayed == found
