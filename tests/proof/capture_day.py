"""A counter in the sound of 4 lines for 24 hours, on one a call of 26: each frame is in its file, and no other."""

from __future__ import annotations

import secrets
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.proof.capture import LINES, stepped
from tests.proof.report import Report

HOURS = 24
LONG_H = 26  # the call that fills the first line


def prove(report: Report) -> None:
    seed = str(secrets.randbelow(1_000_000))
    report.figure("seed", seed)
    with tempfile.TemporaryDirectory(prefix="tsuroku-") as work, ProcessPoolExecutor(2) as pool:
        hours = [LONG_H] + [HOURS] * (LINES - 1)
        done = list(pool.map(stepped, range(1, LINES + 1), hours, [seed] * LINES, [Path(work)] * LINES))
    report.figure("stepped time", f"{LINES} lines, {HOURS} h, one of them a call of {LONG_H} h: every frame equal")
    report.figure("calls", sum(each["calls"] for each in done))
    report.figure("memory a line grew by, from 5 % to 95 % of it", [f"{each['growth_mb']} MB" for each in done])
