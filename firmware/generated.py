"""Years of calls that nobody made, to see how the unit does with a full store: `simulate --calls`, the benches."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drivers.signals import CallerIdReceived
from firmware.clock import uuid7
from firmware.core.call import Call, ClockRead, Outcome
from firmware.core.caller import Caller, merge
from firmware.core.numbers import as_dialled
from firmware.records.database import LogStorage, Put
from firmware.records.store import INDEXES, SCHEMA

_DAY_S = 86400
_A_DAY = 55  # calls of a busy shop
_CUSTOMERS = 4000
_OPEN_H, _SHUT_H = 0, 10  # UTC: 9 to 19 o'clock in Japan
_KINDS: tuple[tuple[Outcome, int], ...] = (
    ("answered", 55),
    ("missed", 15),
    ("outgoing_answered", 25),
    ("too_short", 5),
)


def generate(store: Path, calls: int, *, until: datetime, seed: int = 1, progress: Callable[[float], None]) -> None:
    """Make a store with so many calls before a time. Nobody's numbers (03-0000-xxxx, 090-0000-xxxx), no recordings."""
    storage = LogStorage(store, indexes=INDEXES, sync=False)
    try:
        storage.commit([Put("meta", 1, {"schema": SCHEMA, "store_id": str(uuid.uuid4())})])
        for number, call in enumerate(records(calls, until=until, seed=seed), 1):
            storage.commit([Put("calls", number, call)])
            if number % 1000 == 0:
                progress(number / calls)
    finally:
        storage.close()


def records(calls: int, *, until: datetime, seed: int = 1) -> Iterator[dict[str, Any]]:
    """The records of so many calls, oldest first."""
    dice = random.Random(seed)
    numbers = [f"{dice.choice(('03', '090'))}0000{n:04d}" for n in range(_CUSTOMERS)]
    people = [asdict(_caller(number)) for number in numbers]
    dialled = [asdict(as_dialled(number, "jp")) for number in numbers]
    for person in people:
        person["sources"], person["disagreement"] = list(person["sources"]), []
    patterns = {outcome: _pattern(outcome) for outcome, _ in _KINDS}
    outcomes, weights = zip(*_KINDS, strict=True)
    days = -(-calls // _A_DAY)
    first = int(until.timestamp()) // _DAY_S * _DAY_S - days * _DAY_S
    for day in range(days):
        today = min(_A_DAY, calls - day * _A_DAY)
        seconds = sorted(dice.randrange(_OPEN_H * 3600, _SHUT_H * 3600) for _ in range(today))
        for second in seconds:
            who = min(dice.randrange(_CUSTOMERS), dice.randrange(_CUSTOMERS))  # some call more often than others
            outcome = dice.choices(outcomes, weights)[0]
            outgoing = outcome.startswith("outgoing")
            opened_ns = (first + day * _DAY_S + second) * 1_000_000_000
            talk_s = 0.0 if outcome == "missed" else round(2 + dice.expovariate(1 / 90), 3)
            yield _record(
                patterns[outcome],
                call_id=uuid7(opened_ns // 1_000_000, dice.randbytes(10)),
                opened_ns=opened_ns,
                ring_s=dice.randrange(3, 20),
                talk_s=1.2 if outcome == "too_short" else talk_s,
                who={"dialled": dialled[who]} if outgoing else {"caller": people[who]},
            )


def _caller(number: str) -> Caller:
    said = CallerIdReceived(
        at_ns=0, line=1, source="modem", presentation="allowed", number=number, name=None, date_raw=None, raw=""
    )
    return merge([said], "jp")


def _pattern(outcome: Outcome) -> dict[str, Any]:
    outgoing = outcome.startswith("outgoing")
    call = Call(
        call_id="",
        line=1,
        direction="outgoing" if outgoing else "incoming",
        boot_id="00000000-0000-4000-8000-000000000000",
        clock=ClockRead(mono_ns=0, wall_ns=0, state="ntp"),
        opened_ns=0,
        outcome=outcome,
        end_reason="caller_gave_up" if outcome == "missed" else "hung_up",
        dialled_by="dtmf" if outgoing else None,
        answer_evidence=None if outcome == "missed" else "ringback_then_voice" if outgoing else "loop",
        no_recording={"missed": "not_answered", "too_short": "too_short"}.get(outcome, "generated"),
    )
    return replace(call, rings=0 if outgoing else 3).to_dict()


def _record(
    pattern: dict[str, Any], *, call_id: str, opened_ns: int, ring_s: int, talk_s: float, who: dict[str, Any]
) -> dict[str, Any]:
    answered_ns = opened_ns + ring_s * 1_000_000_000 if talk_s else None
    ended_ns = opened_ns + round((ring_s + talk_s) * 1e9)
    clock = {"mono_ns": 0, "wall_ns": 0, "state": "ntp"}  # this boot began in 1970
    return {
        **pattern,
        **who,
        "call_id": call_id,
        "clock": clock,
        "opened_ns": opened_ns,
        "answered_ns": answered_ns,
        "ended_ns": ended_ns,
        "opened": _iso(opened_ns),
        "answered": None if answered_ns is None else _iso(answered_ns),
        "ended": _iso(ended_ns),
        "duration_s": talk_s if talk_s else None,
    }


def _iso(at_ns: int) -> str:
    at = datetime.fromtimestamp(at_ns // 1_000_000_000, tz=UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at_ns // 1_000_000 % 1000:03d}Z"
