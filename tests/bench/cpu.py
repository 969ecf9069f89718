"""CPU of one recorded hour on one line: the unit, the minimal script, arecord with flac."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from drivers.virtual.broker import VirtualBroker
from firmware.settings import RecordingSettings
from tests.bench.processes import Measured, UnitProcess, Wire, arecord_flac, minimal
from tests.bench.report import Progress, Table, median

_BUFFERS = (160, RecordingSettings().buffer_frames, 1600)
_IN_USE = RecordingSettings().buffer_frames
_WARM_UP_S = 5.0
_AIM = 1.3


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    buffers = (_IN_USE,) if quick else _BUFFERS
    rounds, stretch_s = (1, 20.0) if quick else (3, 40.0)
    spent: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(work / f"wire-{number}")) for number in range(4)]
        broker = VirtualBroker(work / "broker")
        broker.start()
        stack.callback(broker.close)
        steps = [buffer for number in range(rounds) for buffer in (buffers if number % 2 == 0 else buffers[::-1])]
        for number, buffer in enumerate(steps):
            progress(f"CPU, {buffer} frames a buffer", number / len(steps))
            for name, cpu_s in _step(work / f"step-{number}", wires, broker.port, buffer, stretch_s).items():
                spent.setdefault((name, buffer), []).append(cpu_s)
    return _table(spent, buffers, rounds, stretch_s)


def _step(work: Path, wires: list[Wire], port: int, buffer: int, stretch_s: float) -> dict[str, float]:
    """CPU s an hour of each, in the middle of a call."""
    work.mkdir()
    with ExitStack() as stack:
        setting = f"buffer_frames = {buffer}"
        unit = stack.enter_context(UnitProcess(work / "unit", wires[0], recording=setting))
        running: dict[str, Measured] = {"unit": unit}
        running["minimal"] = stack.enter_context(minimal(wires[1], work / "minimal.flac", buffer))
        units = [unit]
        if buffer == _IN_USE:
            with_broker = UnitProcess(work / "publishing", wires[2], recording=setting, broker_port=port)
            units.append(stack.enter_context(with_broker))
            running["unit with broker"] = with_broker
            running["arecord and flac"] = stack.enter_context(arecord_flac(wires[3], work / "arecord.flac"))
        for wire in wires:
            wire.speak(_WARM_UP_S + stretch_s + 20)
        for each in units:
            each.set("loop", True)
        time.sleep(_WARM_UP_S)
        written = [each.recorded_bytes() for each in units]
        began_s, before = time.monotonic(), {name: each.cpu_s() for name, each in running.items()}
        time.sleep(stretch_s)
        lasted_s = time.monotonic() - began_s
        after = {name: each.cpu_s() for name, each in running.items()}
        if any(each.recorded_bytes() - size < 1000 * stretch_s for each, size in zip(units, written, strict=True)):
            raise RuntimeError(f"A unit did not record at {buffer} frames a buffer; see the logs below {work}.")
    return {name: (after[name] - before[name]) / lasted_s * 3600 for name in running}


def _table(spent: dict[tuple[str, int], list[float]], buffers: tuple[int, ...], rounds: int, stretch_s: float) -> Table:
    rows, figures = [], {}
    for buffer in buffers:
        for name in ("unit", "unit with broker", "minimal", "arecord and flac"):
            values = spent.get((name, buffer))
            if values is None:
                continue
            ratios = [mine / peer for mine, peer in zip(values, spent["minimal", buffer], strict=True)]
            own = name == "arecord and flac"  # arecord chooses its buffer itself
            rows.append(
                (
                    name,
                    "its own" if own else f"{buffer} ({buffer / 8:g} ms)",
                    f"{median(values):.1f}",
                    f"{min(values):.1f} to {max(values):.1f}",
                    f"{median(ratios):.2f}",
                )
            )
            key = name.replace(" ", "_") + ("" if own else f"_{buffer}")
            figures[f"cpu_s_per_hour_{key}"] = round(median(values), 2)
            figures[f"cpu_ratio_{key}"] = round(median(ratios), 3)
    return Table(
        title="CPU of one recorded hour",
        how=(
            "User and system time of each process (and its threads) in the middle of a call with speech, "
            f"{stretch_s:g} s, {rounds} round{'s' * (rounds > 1)}, medians, scaled to an hour. All of one buffer size "
            "run at the same time, each on a simulated line of its own: on one line the smallest buffer would set the "
            "pace for all. The sound server's own time is left out. "
            "The minimal script: a loop of PyAudio's read() and soundfile's buffer_write(). "
            f"Aim: the unit at most {_AIM} times that at {_IN_USE} frames."
        ),
        columns=("recorder", "buffer in frames", "CPU s an hour", "of all rounds", "times the minimal script"),
        rows=tuple(rows),
        figures=figures,
    )
