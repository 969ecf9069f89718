"""Compares a recording with what was on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from drivers.virtual.line import VirtualLine

_LOUD = 600.0  # rms of 32768: speech and tones, not noise
_CLIPPED = 32000
_FARTHEST_MS = 250


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of sound found again. lag_ms: positive where the recording says it is later than it was."""

    at_s: float  # of the recording
    correlation: float
    lag_ms: float


def samples(path: Path) -> Any:
    """A whole recording as numpy int16."""
    pcm, _ = soundfile.read(path, dtype="int16")
    return pcm


def stretches(path: Path, from_ns: int, line: VirtualLine, base_ns: int, length_s: float = 1.0) -> list[Stretch]:
    """Find each loud, unclipped stretch of a recording on the wire around the time that the recording gives it.

    from_ns: of the recording's first frame; base_ns: of the wire's. Silence that fills a gap is passed over.
    """
    heard = samples(path)
    rate_hz = line.rate_hz
    length, margin = round(length_s * rate_hz), rate_hz * _FARTHEST_MS // 1000
    first = round((from_ns - base_ns) * rate_hz / 1e9)
    found = []
    for at in range(0, len(heard) - length + 1, length):
        part = heard[at : at + length].astype(np.float64)
        if np.sqrt(np.mean(part**2)) < _LOUD or np.abs(part).max() > _CLIPPED or not np.abs(part[:80]).max():
            continue
        wire = np.frombuffer(line.pcm(first + at - margin, length + 2 * margin), dtype="<i2").astype(np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(wire, length)
        # Against each window's own strength: the click of a hook nearby is far louder than speech.
        likeness = windows @ part / (np.sqrt(np.einsum("ij,ij->i", windows, windows)) * np.linalg.norm(part) + 1.0)
        shift = int(np.argmax(likeness))
        correlation = float(likeness[shift])
        found.append(Stretch(at / rate_hz, correlation, (margin - shift) / rate_hz * 1000))
    return found
