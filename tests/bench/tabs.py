"""What open tabs cost: CPU of the recorder and of the console, and whether a sample is lost."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests

from firmware.app import STORE
from firmware.console.people import People
from firmware.records.store import CallReader
from tests.bench.processes import Measured, UnitProcess, Wire
from tests.bench.report import Progress, Table, median
from tests.test_console import PASSWORD, free_port, wait_for

_TABS, _OF_THE_UNIT = 20, 4  # the last ones show the levels, and ask four times a second
_WARM_UP_S = 5.0


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    rounds, stretch_s = (1, 10.0) if quick else (4, 30.0)
    spent: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        wire = stack.enter_context(Wire(work / "wire"))
        unit = stack.enter_context(UnitProcess(work / "unit", wire))
        People(unit.data_dir / "console").add("owner", PASSWORD, "owner")
        port = free_port()
        command = [sys.executable, "-m", "firmware", "console", "run", "--data", str(unit.data_dir)]
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL, text=True
        )
        console = stack.enter_context(Measured(process))
        wait_for(process, port)
        wire.speak(_WARM_UP_S + rounds * 2 * (stretch_s + 2) + 30)
        unit.set("loop", True)
        time.sleep(_WARM_UP_S)
        for number in range(2 * rounds):
            tabs = _TABS * (number % 2)
            progress(f"{tabs} tabs", number / rounds / 2)
            with _open(unit.data_dir, port, tabs):
                time.sleep(1.0)
                began_s, before = time.monotonic(), (unit.cpu_s(), console.cpu_s())
                time.sleep(stretch_s)
                lasted_s = time.monotonic() - began_s
                for name, each, was in (("recorder", unit, before[0]), ("console", console, before[1])):
                    spent.setdefault((name, tabs), []).append((each.cpu_s() - was) / lasted_s * 100)
        unit.set("loop", False)
        lost = _lost(unit.data_dir)
    rows = [
        (name, *(f"{median(spent[name, tabs]):.2f}" for tabs in (0, _TABS)), f"{_more(spent, name):+.2f}")
        for name in ("recorder", "console")
    ]
    rows.append(("samples lost by the recorder", f"{lost:.0f}", "", ""))
    return Table(
        title="Open tabs",
        how=f"CPU in percent of one core in the middle of a call, without a tab and with {_TABS}, of which "
        f"{_OF_THE_UNIT} show the levels; stretches of {stretch_s:g} s in turn, {rounds} of each, medians. "
        "Aim: at most 2 points, and no sample.",
        columns=("", "0 tabs", f"{_TABS} tabs", "points"),
        rows=tuple(rows),
        figures={"tabs_recorder_points": round(_more(spent, "recorder"), 2), "tabs_lost_samples": lost},
    )


def _more(spent: dict[tuple[str, int], list[float]], name: str) -> float:
    return median([b - a for a, b in zip(spent[name, 0], spent[name, _TABS], strict=True)])


@contextmanager
def _open(data: Path, port: int, tabs: int) -> Iterator[None]:
    """So many tabs, as the pages' scripts ask."""
    over, url = threading.Event(), f"https://localhost:{port}"
    session = requests.Session()
    session.trust_env, session.verify = False, str(data / "console" / "certificate.pem")
    session.post(url + "/login", data={"name": "owner", "password": PASSWORD}, timeout=20).raise_for_status()

    def tab(number: int) -> None:
        own = requests.Session()
        own.trust_env, own.verify, own.cookies = False, session.verify, session.cookies
        with contextlib.suppress(requests.RequestException), own.get(url + "/live", stream=True, timeout=60) as feed:
            lines = feed.iter_lines()
            next(lines)
            while not over.wait(0.25):
                if number < _OF_THE_UNIT:
                    session.get(url + "/system/peaks", timeout=20).raise_for_status()

    threads = [threading.Thread(target=tab, args=(number,), daemon=True) for number in range(tabs)]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        over.set()
        for each in threads:
            each.join(10)


def _lost(data: Path) -> float:
    """Samples of the call's recording that are silence in place of sound, once it is there."""
    end = time.monotonic() + 30
    while True:
        reader = CallReader(data / STORE)
        call = next(reader.newest(), None)
        reader.close()
        if call and call["recording"]:
            recording = call["recording"]
            return float(sum(gap["duration_s"] for gap in recording["gaps"]) * recording["rate_hz"])
        if time.monotonic() > end:
            raise RuntimeError(f"The call was not recorded; see {data}.")
        time.sleep(0.2)
