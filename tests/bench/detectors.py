"""CPU and memory of the listener: all detectors of one line, in their process."""

from __future__ import annotations

import queue
import time
from pathlib import Path

import numpy as np

from drivers.listener import Listener
from drivers.signals import AudioBlock, DeviceReady, Signal
from drivers.virtual import speech
from firmware.settings import RecordingSettings
from tests.bench.processes import cpu_s, resident_mb
from tests.bench.report import Progress, Table

_RATE_HZ = 8000
_BUFFER = RecordingSettings().buffer_frames
_FASTER = 10  # than real time; every block is a block of its own all the same
_AIM_PERCENT = 1.0
_FULL_SCALE_DBM0 = 6.15  # of a mean square of 1

Samples = np.ndarray[tuple[int], np.dtype[np.float64]]


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    length_s = 30 if quick else 300
    heard: queue.SimpleQueue[Signal] = queue.SimpleQueue()
    listener = Listener({1: "jp"}, _RATE_HZ, heard.put)
    listener.start()
    rows: list[tuple[str, ...]] = []
    figures: dict[str, float] = {}
    try:
        ready = heard.get(timeout=30)
        assert isinstance(ready, DeviceReady)
        pid = int(ready.detail.rpartition(" ")[2])
        for number, (name, samples) in enumerate(_sounds(length_s).items()):
            progress(f"Listening to {name}", number / 4)
            before_s = cpu_s(pid)
            _feed(listener, samples, number * length_s)
            percent = (cpu_s(pid) - before_s) / length_s * 100
            rows.append((name, f"{percent:.2f}"))
            figures[f"listener_percent_{name.split(',')[0].replace(' ', '_')}"] = round(percent, 3)
        rows.append(("resident memory, MB", f"{resident_mb(pid):.1f}"))
        figures["listener_resident_mb"] = round(resident_mb(pid), 1)
    finally:
        listener.close()
    return Table(
        title="CPU of all detectors of one line",
        how=(
            f"User and system time of the listener's process for {length_s} s of each sound in blocks of {_BUFFER} "
            f"frames, {_FASTER} times as fast as on a line; percent of one core. "
            f"Aim: at most {_AIM_PERCENT:g}."
        ),
        columns=("sound", "percent of one core"),
        rows=tuple(rows),
        figures=figures,
    )


def _sounds(length_s: int) -> dict[str, Samples]:
    frames = length_s * _RATE_HZ
    voices = np.concatenate([speech.read(path)[0][:, 0] for path in sorted(speech.VOICES.glob("*.flac"))])
    dice = np.random.default_rng(1)

    def noise(dbm0: float) -> Samples:
        return dice.standard_normal(frames) * 10 ** ((dbm0 - _FULL_SCALE_DBM0) / 20)

    at_s = np.arange(frames) / _RATE_HZ
    return {
        "speech": np.resize(voices, frames) + noise(-60),
        "noise, -40 dBm0": noise(-40),
        "dial tone": 0.1 * np.sin(2 * np.pi * 400 * at_s) + noise(-60),
        "idle line, -60 dBm0 of noise": noise(-60),
    }


def _feed(listener: Listener, samples: Samples, from_s: int) -> None:
    pcm = np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    began_s = time.monotonic()
    for first in range(0, len(pcm) // 2, _BUFFER):
        at_s = first / _RATE_HZ
        time.sleep(max(0.0, began_s + at_s / _FASTER - time.monotonic()))
        at_ns = round((from_s + at_s) * 1e9)
        listener.take(1, AudioBlock(at_ns=at_ns, pcm=pcm[first * 2 : (first + _BUFFER) * 2]))
    time.sleep(0.5)
