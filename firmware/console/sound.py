"""What the player draws of a recording: its waveform, where nothing is said, and what happened when."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from firmware.recording.levels import peaks_of

COLUMNS = 400  # of a waveform
_PARTS_S, _MOST_PARTS = 0.25, 28_800
_QUIET = 184  # of 32768: -45 dB of full scale
_QUIET_S = 2.0  # shorter pauses belong to the talk
_FULL = 32_760


class Wave(NamedTuple):
    """levels: 0 to 100 by column, of a decibel scale. quiet, clipped: stretches in seconds."""

    levels: tuple[int, ...]
    quiet: tuple[tuple[float, float], ...]
    clipped: tuple[tuple[float, float], ...]
    length_s: float


def wave_of(path: Path, seconds: float) -> Wave:
    """Read once; a recording never changes. Raises OSError, soundfile.SoundFileError."""
    return _wave(path, path.stat().st_mtime_ns, seconds)


@lru_cache(maxsize=128)
def _wave(path: Path, _changed_ns: int, seconds: float) -> Wave:
    parts = min(_MOST_PARTS, max(COLUMNS, int(seconds / _PARTS_S)))
    found, length_s = peaks_of(path, parts)
    peaks = np.array(found)
    edges = np.linspace(0, parts, COLUMNS + 1).astype(int)
    loudest = np.maximum.reduceat(peaks, edges[:-1])
    db = 20 * np.log10(np.maximum(loudest, 1) / 32768)
    part_s = length_s / parts
    quiet = [each for each in _stretches(peaks < _QUIET, part_s) if each[1] - each[0] >= _QUIET_S]
    clipped = _stretches(peaks >= _FULL, part_s)[:200]
    levels = tuple(int(level) for level in np.clip((db + 50) * 2, 0, 100))
    return Wave(levels, tuple(quiet[:2000]), tuple(clipped), length_s)


def _stretches(is_so: Any, part_s: float) -> list[tuple[float, float]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], is_so.astype(np.int8), [0]))))
    return [(round(a * part_s, 2), round(b * part_s, 2)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def happened(call: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the line did in a call, in seconds of its recording: at_s, kind; until_s where it lasted."""
    recording = call["recording"]
    begins_ns = recording["from_ns"]
    told: list[dict[str, Any]] = []

    def add(kind: str, at_ns: int | None, until_ns: int | None = None) -> None:
        if at_ns is not None:
            lasts = None if until_ns is None else round((until_ns - begins_ns) / 1e9, 2)
            told.append({"kind": kind, "at_s": round((at_ns - begins_ns) / 1e9, 2), "until_s": lasts})

    for began_ns, ended_ns in call["bursts"]:
        add("ring", began_ns, ended_ns)
    add("lift", call["answered_ns"] if call["direction"] == "incoming" else call["opened_ns"])
    if call["direction"] == "outgoing":
        add("far_answers", call["answered_ns"])
    add("hang_up", call["ended_ns"])
    for mark in call["marks"]:
        if mark["kind"] in ("flash", "button", "call_waiting", "polarity"):
            add(mark["kind"], mark["at_ns"], mark["until_ns"])
    for kind in ("muted", "gaps"):
        for gap in recording.get(kind, ()):
            ends_s = round(gap["at_s"] + gap["duration_s"], 2)
            told.append({"kind": kind, "at_s": round(gap["at_s"], 2), "until_s": ends_s})
    return sorted(told, key=lambda each: float(each["at_s"]))
