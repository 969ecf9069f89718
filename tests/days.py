"""Whole days of a line as scenarios, with what the unit must make of them."""

from __future__ import annotations

import random

_KINDS = ("answered", "missed", "in_start_signal", "withheld", "payphone", "no_terminal")
_WEIGHTS = (40, 20, 12, 10, 8, 10)
# The phone answers the start signal 1.7 s after its beginning, 2.5 s after the call; ordinary ringing begins 1 s and a
# frame and 1.7 s later: 5.5 to 5.6 s after the call. Where no terminal answers, 8.3 s after it.
_FIRST_RING_S = 5.56
_FIRST_RING_WITHOUT_S = 8.3
_RING_S = 3.0


def number_display_day(seed: int, calls: int = 200) -> str:
    """The text of a scenario: so many calls on a line with Number Display, 20 to 40 s each."""
    dice = random.Random(seed)
    lines = [f"title   A day of {calls} calls", "number display", "", "0       primary answer 1.7"]
    expects = [f"expect  calls {calls}"]
    # Every kind stands in any day that is long enough.
    kinds = [*_KINDS, *dice.choices(_KINDS, _WEIGHTS, k=max(0, calls - len(_KINDS)))][:calls]
    dice.shuffle(kinds)
    at = 5.0
    for number, kind in enumerate(kinds, 1):
        said, caller = _caller(kind, dice)
        if kind == "no_terminal":
            lines.append(f"{at - 1:.1f}  primary answer none")
        lines.append(f"{at:.1f}  call {said}")
        rings = dice.randint(1, 4)
        begins = at + (_FIRST_RING_WITHOUT_S if kind == "no_terminal" else _FIRST_RING_S)
        if kind == "missed":
            over = begins + (rings - 1) * _RING_S + 1.6
            lines.append(f"{over:.2f}  give up")
            expects.append(f"expect  call {number} outcome=missed rings={rings} answered=none recording=no {caller}")
            at = round(over + dice.uniform(7, 12), 1)  # the next burst must be 6 s from the last
            continue
        if kind == "in_start_signal":
            rings, lifted = 0, round(at + dice.uniform(1.4, 1.7), 2)  # between two bursts of the signal
            over = lifted + dice.uniform(11, 16)
        else:
            lifted = round(begins + (rings - 1) * _RING_S + dice.uniform(1.3, 2.6), 2)  # between two bursts
            over = lifted + dice.uniform(5, 14)
        over = round(over, 2)
        lines.append(f"{lifted:.2f}  lift")
        if kind == "no_terminal":
            lines.append("+0  primary answer 1.7")
        lines += [f"{over - 4:.2f}  shop says thanks", f"{over:.2f}  hang up"]
        expects.append(
            f"expect  call {number} outcome=answered rings={rings} answered={lifted} ended={over} recording=yes"
            f" {caller}"
        )
        at = round(over + dice.uniform(2, 6), 1)
    return "\n".join([*lines, "", *expects, ""])


def _caller(kind: str, dice: random.Random) -> tuple[str, str]:
    """What the call's line says of the caller, and what the unit must know of it."""
    if kind in ("withheld", "payphone"):
        return kind, f"number=none presentation={kind}"
    digits = f"{dice.choice(('030000', '0900000'))}{dice.randrange(10_000):04}"
    if kind == "no_terminal":
        return f"from {digits}", "number=none presentation=not_received"
    return f"from {digits}", f"number={digits} presentation=allowed"
