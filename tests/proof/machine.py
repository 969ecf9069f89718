"""A million random steps through the call machine: no call lost, none twice, no recording without end."""

from __future__ import annotations

import random
import secrets
from typing import Any

from drivers.signals import ButtonPressed, LinePresentEdge, LoopEdge, ModemRing, PolarityEdge
from firmware.core.call import Call
from tests.proof.report import Report
from tests.test_line import caller_id, check_sequence

STEPS = 1_000_000
_GIVEN: list[Any] = [
    *(LoopEdge(at_ns=0, line=1, closed=closed) for closed in (True, False)),
    *(LinePresentEdge(at_ns=0, line=1, present=present) for present in (True, False)),
    *(PolarityEdge(at_ns=0, line=1, reversed=turned) for turned in (True, False)),
    ModemRing(at_ns=0, line=1),
    caller_id(0),
    caller_id(0, None),
    ButtonPressed(at_ns=0),
    "ring",
    "long_ring",
    "half",
]
_GAPS_MS = (1, 5, 12, 40, 99, 120, 280, 400, 1000, 1300, 2500, 6500, 8000)


def prove(report: Report) -> None:
    seed = secrets.randbelow(1_000_000)
    report.figure("seed", seed)
    dice = random.Random(seed)
    steps = sequences = 0
    outcomes: dict[str, int] = {}
    while steps < STEPS:
        length = dice.randint(5, 400)
        # Some sequences favour a few inputs and gaps: an even mix of all seldom lets a call live long.
        given = dice.choices(_GIVEN, k=dice.randint(2, 8)) if dice.random() < 0.7 else _GIVEN
        gaps = dice.choices(_GAPS_MS, k=dice.randint(1, 4)) if dice.random() < 0.7 else _GAPS_MS
        sequence = [(dice.choice(gaps), dice.choice(given)) for _ in range(length)]
        bench = check_sequence(sequence, dice.random() < 0.5)
        for call in bench.calls:
            outcomes[_outcome(call)] = outcomes.get(_outcome(call), 0) + 1
        steps, sequences = steps + length, sequences + 1
        report.progress(min(1.0, steps / STEPS))
    report.figure("steps", f"{steps:,} in {sequences:,} sequences")
    report.figure("calls", ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items())))


def _outcome(call: Call) -> str:
    return str(call.outcome)
