"""The broker is stopped for a minute while calls go on; a consumer with a lasting session then has every event."""

from __future__ import annotations

import tempfile
from pathlib import Path

from drivers.virtual import scenario as story
from firmware.simulate import check, results
from tests.proof.consumer import the_consumer_has_all
from tests.proof.live import Played, play, processes
from tests.proof.report import Report

_CALL_S = 12.0
_STOPPED_S = 6.0  # in the first call


def scenario_text(away_s: float) -> str:
    """Calls before, during and after the broker's absence."""
    calls = int((_STOPPED_S + away_s) // _CALL_S) + 2
    steps = [(_STOPPED_S, "stop broker"), (_STOPPED_S + away_s, "start broker")]
    for number in range(calls):
        at_s = 2.0 + number * _CALL_S
        steps += [
            (at_s, f"call from 03-0000-{1000 + number}"),
            (at_s + 3.3, "lift"),
            (at_s + 3.8, "shop says greeting"),
            (at_s + 9, "hang up"),
        ]
    lines = ["title The broker is away while calls go on"]
    lines += [f"{at_s:.1f} {what}" for at_s, what in sorted(steps)]
    lines += [f"end {steps[-1][0] + 3:.1f}", f"expect calls {calls}"]
    return "\n".join(lines) + "\n"


def the_broker_was_away(path: Path, data: Path, played: Played) -> int:
    """Every call is filed as expected and every event came, in order; the number of repeats."""
    assert check(story.load(path), data, base_ns=played.base_ns, tolerance_s=0.1) == []
    return the_consumer_has_all(played.events, results(data)[1])


def prove(report: Report) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path, data = Path(directory) / "broker-away.txt", Path(directory) / "data"
        path.write_text(scenario_text(60), encoding="utf-8")
        with processes(1) as pool:
            played = pool.submit(play, path, data).result()
        repeats = the_broker_was_away(path, data, played)
        calls, events = results(data)
    report.figure("away", "60 s")
    report.figure("calls", len(calls))
    report.figure("events", len(events))
    report.figure("missing or out of order", 0)
    report.figure("delivered twice", repeats)
    report.figure("last one here after the scenario's end", f"{played.delivered_s:.1f} s")
