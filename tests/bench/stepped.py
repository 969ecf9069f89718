"""How fast virtual time runs."""

from __future__ import annotations

import time
from pathlib import Path

from firmware import simulate
from firmware.simulate import results
from tests.bench.filled import busy_line
from tests.bench.report import Progress, Table


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    calls = 50 if quick else 500
    scenario = busy_line(calls)
    began_s = time.monotonic()
    simulate.stepped(scenario, work / "stepped", progress=lambda part: progress("Stepped time", part))
    took_s = time.monotonic() - began_s
    filed = len(results(work / "stepped")[0])
    if filed != calls:
        raise RuntimeError(f"The unit filed {filed} of {calls} calls.")
    hours = scenario.end_ns / 3.6e12
    rate = hours / took_s
    return Table(
        title="Stepped time",
        how="A busy line on virtual time, with its sound, recordings and store: `tsuroku simulate` without --live.",
        columns=("calls", "hours of the line", "took s", "hours a second"),
        rows=((str(calls), f"{hours:.2f}", f"{took_s:.1f}", f"{rate:.2f}"),),
        figures={"stepped_hours_per_second": round(rate, 3)},
    )
