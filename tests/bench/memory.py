"""Memory that the unit holds: after its start, over hundreds of calls, in a long one, with the calls of years."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from drivers.virtual.broker import VirtualBroker
from drivers.virtual.modem import VirtualModem
from tests.bench.filled import CALLS_FILLED, fill
from tests.bench.processes import UnitProcess, Wire, minimal
from tests.bench.report import Progress, Table

_AIM_MB = 90
# Hook times at their shortest, so that a call takes a second; every call is kept and its recording filed.
_FAST = "flash_min_ms = 150\nhang_up_ms = 300\nshortest_call_ms = 0"


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    calls, long_s, filled = (18, 5.0, 0) if quick else (300, 60.0, CALLS_FILLED)
    rows: list[tuple[str, str]] = []
    figures: dict[str, float] = {}

    def note(name: str, key: str, resident_mb: float) -> None:
        rows.append((name, f"{resident_mb:.1f}"))
        figures[f"resident_mb_{key}"] = round(resident_mb, 2)

    with ExitStack() as stack:
        wire = stack.enter_context(Wire(work / "wire-memory"))
        broker = VirtualBroker(work / "broker-memory")
        broker.start()
        stack.callback(broker.close)
        modem = VirtualModem(work / "modem")
        stack.callback(modem.close)
        with UnitProcess(work / "unit", wire, line=_FAST, broker_port=broker.port, modem=modem.port) as unit:
            time.sleep(5)
            note("unit, after its start", "start", unit.resident_mb())
            for number in range(1, calls + 1):
                progress(f"Memory, call {number}", 0.9 * number / calls)
                _short_call(unit, modem, incoming=number % 2 == 0)
                if number % max(calls // 6, 1) == 0:
                    note(f"unit, after {number} calls", f"calls_{number}", unit.resident_mb())
            wire.speak(long_s + 5)
            unit.set("loop", True)
            time.sleep(long_s)
            note(f"unit, in a call of {long_s:g} s", "long_call", unit.resident_mb())
            unit.set("loop", False)
            time.sleep(2)
            recorded = len(list(unit.data_dir.glob("recordings/*/*.flac")))
            if recorded != calls + 1:
                raise RuntimeError(f"The unit recorded {recorded} of {calls + 1} calls.")
        first, last = figures[f"resident_mb_calls_{calls // 6}"], figures[f"resident_mb_calls_{calls}"]
        growth_kb = (last - first) * 1000 / (calls - calls // 6)
        rows.append(("growth for each call, kB", f"{growth_kb:.1f}"))
        figures["growth_kb_per_call"] = round(growth_kb, 2)
        if filled:
            progress("Memory, filled store", 0.92)
            fill(work / "filled" / "data", filled)
            with UnitProcess(work / "filled", wire, broker_port=broker.port, modem=modem.port) as unit:
                time.sleep(5)
                note(f"unit, started with {filled:,} calls in its store", f"filled_{filled}", unit.resident_mb())
        with minimal(wire, work / "minimal.flac", 800) as peer:
            time.sleep(5)
            note("minimal script", "minimal", peer.resident_mb())
    return Table(
        title="Resident memory",
        how=(
            "VmRSS of the unit in a process of its own with modem, codec and broker; the simulation runs outside it. "
            "Every call is recorded, filed and published, every second one rings and has a caller ID. "
            f"Aim: below {_AIM_MB} MB, and flat."
        ),
        columns=("process", "resident MB"),
        rows=tuple(rows),
        figures=figures,
    )


def _short_call(unit: UnitProcess, modem: VirtualModem, *, incoming: bool) -> None:
    if incoming:
        unit.ring()
        modem.caller_id("0300001234", "allowed", "YAMADA", "")
    unit.set("loop", True)
    time.sleep(0.3)
    unit.set("loop", False)
    time.sleep(0.5)
