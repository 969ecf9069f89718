"""A store with the calls of years in it, made from the calls of a stepped scenario, and that scenario."""

from __future__ import annotations

import tempfile
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from drivers.virtual.scenario import Scenario, parse
from firmware.app import STORE
from firmware.records.database import LogStorage, Put
from firmware.records.store import INDEXES, SCHEMA, read_table
from firmware.simulate import stepped

CALLS_FILLED = 10_000
# Five calls in five minutes; then the next five.
_FIVE_CALLS = """\
+8      call from 03-0000-1234 name "YAMADA"
+8      lift
+0.5    shop says greeting
+5      caller says order
+20     shop says confirm
+20     hang up
+20     call from 090-0000-5678
+15     give up
+20     call withheld
+8      lift
+0.5    shop says greeting
+20     far hangs up
+3      hang up
+20     lift
+1.2    dial 090-0000-5678
+9      far answers
+1      caller says order
+30     hang up
+20     call payphone
+8      lift
+0.5    shop says greeting
+60     hang up
"""


def busy_line(calls: int) -> Scenario:
    text = "title   A busy line\nnumber display\nstart   2026-11-24 09:00:00 +09:00\n" + _FIVE_CALLS * (calls // 5)
    return parse(text, Path("busy-line.txt"))


@cache
def _template() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Calls and events."""
    with tempfile.TemporaryDirectory() as work:
        stepped(busy_line(50), Path(work) / "data")
        store = Path(work) / "data" / STORE
        return [dict(call) for call in read_table(store, "calls")], [dict(told) for told in read_table(store, "events")]


def fill(data: Path, calls: int) -> None:
    """Put a store with so many calls, and a thousand accepted events, into an empty data folder."""
    calls_, events = _template()
    storage = LogStorage(data / STORE, indexes=INDEXES, sync=False)
    storage.commit([Put("meta", 1, {"schema": SCHEMA, "store_id": str(uuid.uuid4())})])
    for number in range(1, calls + 1):
        storage.commit([Put("calls", number, {**calls_[number % len(calls_)], "call_id": str(uuid.uuid4())})])
    for number in range(1, 1001):
        storage.commit([Put("events.call", number, {**events[number % len(events)], "sequence": number})])
    done = {"call": {"done": 1000, "settled": [], "parked": []}}
    storage.commit([Put("cursors", 1, {"sink": "main", "streams": done})])
    storage.close()
