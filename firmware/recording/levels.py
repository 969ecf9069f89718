"""How loud a recording is, whether it clips and hums: measured a second at a time, as it is written."""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from firmware.core.facts import Levels

_FULL = 32768.0
_READ = 65_536  # frames
_MAINS_HZ = (50, 60)
_HARMONICS = 4
_BESIDE_HZ = 7  # so far off a harmonic there is no hum; what is there is the noise or voice around it
_ABOVE = 6.0  # hum is so many times as strong: noise is that once in a hundred seconds, and _QUIET of them are asked
_QUIET = 10  # the quietest seconds: hum is in all of them, and nobody speaks
_STEADY_S = 3  # too few seconds say nothing
_NO_HUM_DBFS = -60.0
_RUN = 3  # frames at full scale in succession: a loud one alone is no clipping


class Meter:
    """Feed it with mono 16-bit frames; a second that is nothing but zeros (a gap, a pause) is not measured."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._second = bytearray()
        self._frames, self._energy, self._peak, self._clipped = 0, 0.0, 0, 0
        self._loudest = 0.0  # mean square of the loudest second
        self._whole = 0
        # The quietest seconds, the loudest of them first: minus their energy, what each mains and its harmonics have of
        # it, and what is beside them.
        self._quiet: list[tuple[float, tuple[float, ...], tuple[float, ...]]] = []

    def feed(self, pcm: bytes | bytearray | memoryview) -> None:
        self._second += pcm
        while len(self._second) >= 2 * self._rate_hz:
            self._measure(self._second[: 2 * self._rate_hz])
            del self._second[: 2 * self._rate_hz]

    def levels(self) -> Levels:
        """Of all that was fed. No more may follow."""
        if self._second:
            self._measure(self._second)
            self._second = bytearray()
        hum_hz, hum_dbfs = self._hum()
        return Levels(
            peak_dbfs=_dbfs((self._peak / _FULL) ** 2),
            rms_dbfs=_dbfs(self._energy / self._frames) if self._frames else None,
            loudest_dbfs=_dbfs(self._loudest),
            clipped=round(self._clipped / self._frames, 6) if self._frames else 0.0,
            hum_hz=hum_hz,
            hum_dbfs=hum_dbfs,
        )

    def _hum(self) -> tuple[int | None, float | None]:
        if len(self._quiet) < _STEADY_S:
            return None, None
        found = []
        for n, mains in enumerate(_MAINS_HZ):
            if all(power[n] > _ABOVE * beside[n] for _, power, beside in self._quiet):
                found.append((_dbfs(statistics.median(power[n] for _, power, _ in self._quiet)), mains))
        told, mains = max(((level, mains) for level, mains in found if level is not None), default=(-math.inf, 0))
        return (mains, told) if told >= _NO_HUM_DBFS else (None, None)

    def _measure(self, pcm: bytearray) -> None:
        frames = np.frombuffer(bytes(pcm), "<i2")
        low, high = int(frames.min()), int(frames.max())
        if low == high == 0:
            return
        sound = frames.astype(np.float32) / np.float32(_FULL)
        energy = float(sound @ sound)
        self._frames, self._energy = self._frames + len(frames), self._energy + energy
        self._peak = max(self._peak, high, -low)
        if high == 32767 or low == -32768:
            self._clipped += _clipped(frames)
        # The last second may be a few frames: they say little of how loud the call was.
        if len(frames) * 2 >= self._rate_hz or not self._whole:
            self._loudest = max(self._loudest, energy / len(frames))
        if len(frames) < self._rate_hz:
            return
        self._whole += 1
        if len(self._quiet) == _QUIET and energy >= -self._quiet[0][0]:
            return
        parts = _waves(self._rate_hz) @ sound
        power, beside = 2 * (parts**2).reshape(2, len(_MAINS_HZ), -1).sum(axis=2)
        (heapq.heappush if len(self._quiet) < _QUIET else heapq.heapreplace)(
            self._quiet, (-energy, tuple(map(float, power)), tuple(map(float, beside)))
        )


def levels_of(path: Path, first: int = 0) -> Levels | None:
    """Of a whole file from a frame on; None if it cannot be read."""
    try:
        with soundfile.SoundFile(path) as file:
            meter = Meter(file.samplerate)
            file.seek(min(first, file.frames))
            while len(pcm := file.buffer_read(_READ, "int16")):
                meter.feed(pcm)
    except soundfile.SoundFileError:
        return None
    return meter.levels()


def peaks_of(sound: Path, columns: int) -> tuple[list[int], float]:
    """The greatest amplitude of each of so many equal parts, and the length in s. It is read a part at a time."""
    with soundfile.SoundFile(sound) as file:
        frames, rate = file.frames, file.samplerate
        edges = np.linspace(0, frames, columns + 1).astype(int)
        peaks = []
        for low, high in itertools.pairwise(edges):
            pcm = file.read(high - low, dtype="int16", always_2d=True)
            peaks.append(int(np.abs(pcm.astype(np.int32)).max()) if len(pcm) else 0)
    return peaks, frames / rate


def _clipped(frames: np.ndarray[Any, Any]) -> int:
    """Frames that stand at full scale in runs."""
    full = np.concatenate(([False], (frames == 32767) | (frames == -32768), [False]))
    edges = np.flatnonzero(full[1:] != full[:-1])
    lengths = edges[1::2] - edges[::2]
    return int(lengths[lengths >= _RUN].sum())


@functools.cache
def _waves(rate_hz: int) -> np.ndarray[Any, Any]:
    """Cosine and sine of each mains frequency and its harmonics, then of what is beside them; a second, Hann window."""
    at = np.arange(rate_hz) / rate_hz
    window = (1 - np.cos(2 * np.pi * at)) / rate_hz  # of mean 1
    times = range(1, _HARMONICS + 1)
    waves = [mains * n + off for off in (0, _BESIDE_HZ) for mains in _MAINS_HZ for n in times]
    return np.array([w(2 * np.pi * hz * at) * window for hz in waves for w in (np.cos, np.sin)], dtype=np.float32)


def _dbfs(mean_square: float) -> float | None:
    """Against full scale; a sine at full scale has -3.0. None: nothing at all."""
    return round(10 * math.log10(mean_square), 1) if mean_square > 0 else None
