"""From the end of a caller-ID frame on the wire to call.caller_id at a subscriber."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from drivers.virtual import fsk
from drivers.virtual.sound import AUDIO_DELAY_MS, RATE_HZ, VirtualSound
from firmware.settings import LineSettings, RecordingSettings
from tests.bench.lift import live
from tests.bench.report import Progress, Table, quantile

_BUFFERS = (160, 320, 480, 640, 800, 1600)
_IN_USE = RecordingSettings().buffer_frames
_FRAMES = 100  # at the buffer in use, a fifth of it at the others
_AIM_MS = 150
_LEAD_S = 0.2
_LAST_MARK_NS = 4 * 1_000_000_000 // 1200  # that the virtual line sends behind the last octet


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    buffers = (_IN_USE,) if quick else _BUFFERS
    rows: list[tuple[str, ...]] = []
    figures: dict[str, float] = {}
    for number, buffer in enumerate(buffers):
        count = 8 if quick else _FRAMES if buffer == _IN_USE else _FRAMES // 5
        told_ms = _frames(work / f"buffer-{buffer}", buffer, count, _part_of(progress, number, len(buffers), buffer))
        figure = {"p50": quantile(told_ms, 0.5), "p99": quantile(told_ms, 0.99), "max": max(told_ms)}
        rows.append((f"{buffer} ({buffer / 8:g} ms)", str(count), *(f"{value:.1f}" for value in figure.values())))
        figures |= {f"caller_id_{buffer}_{kind}_ms": round(value, 2) for kind, value in figure.items()}
    return Table(
        title="End of the caller-ID frame on the wire to call.caller_id at a subscriber",
        how=(
            "Between two rings a Bell 202 frame is played on the simulated line; from its last bit to the arrival of "
            "the event at a paho subscriber, through codec, listener, journal, store and Mosquitto; milliseconds. "
            f"Aim: {_AIM_MS} ms at p99 with {_IN_USE} frames."
        ),
        columns=("buffer in frames", "times", "p50", "p99", "max"),
        rows=tuple(rows),
        figures=figures,
    )


def _part_of(progress: Progress, number: int, of: int, buffer: int) -> Callable[[float], None]:
    return lambda part: progress(f"Caller ID, {buffer} frames a buffer", (number + part) / of)


def _frames(work: Path, buffer: int, count: int, progress: Callable[[float], None]) -> list[float]:
    work.mkdir()
    line = LineSettings(number=1, codec=VirtualSound.device, country="us", number_display=False, ring_over_ms=3000)
    recording = RecordingSettings(buffer_frames=buffer, audio_delay_ms=AUDIO_DELAY_MS)
    with live(work, work / "data", line, recording) as (sound, pins, subscriber):
        told_ms = []
        for number in range(count):
            progress(number / count)
            for _ in range(8):
                pins.set(1, "ring", True)
                time.sleep(0.031)
                pins.set(1, "ring", False)
                time.sleep(0.031)
            subscriber.wait("call.ringing")
            path, length_s = _wire(work / "frame.s16le", number)
            ended_ns = sound.play(path) + round(length_s * 1e9)
            told_ms.append((subscriber.wait("call.caller_id") - ended_ns) / 1e6)
            subscriber.wait("call.missed")
    return told_ms


def _wire(path: Path, number: int) -> tuple[Path, float]:
    """A frame at -16 dBm0 in a little noise, and where its last bit ends."""
    caller = fsk.Caller(number=f"212555{100 + number:04d}", reason=None, name="MAPLE", date="11240900")
    frame = fsk.Frame("bell202", fsk.mdmf(caller), seizure_bits=300, mark_bits=180)
    lead_s = _LEAD_S + random.uniform(0, 0.2)
    at_ns = np.arange(round((lead_s + frame.length_ns / 1e9 + 0.5) * RATE_HZ)) * (1e9 / RATE_HZ) - lead_s * 1e9
    on = (at_ns >= 0) & (at_ns < frame.length_ns)
    samples = np.where(on, frame.at(at_ns), 0.0) * 0.078
    samples += np.random.default_rng(number).standard_normal(len(samples)) * 0.0005
    path.write_bytes(np.rint(samples * 32767).astype("<i2").tobytes())
    return path, lead_s + (frame.length_ns - _LAST_MARK_NS) / 1e9
