"""A store with the calls of years in it, made from the calls of a stepped scenario, and that scenario."""

from __future__ import annotations

import copy
import json
import tempfile
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from drivers.virtual.scenario import Scenario, parse
from firmware.app import STORE_FILE
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
def _template() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as work:
        stepped(busy_line(50), Path(work) / "data")
        store: dict[str, Any] = json.loads((Path(work) / "data" / STORE_FILE).read_text())
    return store


def fill(data: Path, calls: int) -> None:
    """Put a store with so many calls, and a thousand accepted events, into an empty data folder."""
    data.mkdir(mode=0o700, parents=True)
    store = copy.deepcopy(_template())
    patterns = list(store["calls"].values())
    store["calls"] = {
        str(number): {**patterns[number % len(patterns)], "call_id": str(uuid.uuid4())}
        for number in range(1, calls + 1)
    }
    events = list(store["outbox"].values())
    store["outbox"] = {
        str(number): {**events[number % len(events)], "sequence": number, "state": "accepted"}
        for number in range(1, 1001)
    }
    (data / STORE_FILE).write_text(json.dumps(store, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
