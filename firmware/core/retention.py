"""How long recordings stay: which one goes next, and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Why = Literal["age", "size", "space"]
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """0 switches one off; all are off where the owner has not chosen any: then nothing is ever deleted."""

    keep_days: int = 0  # from the call's end
    total_mb: int = 0  # of all recordings
    free_mb: int = 0  # so much stays free on the disk

    @property
    def any(self) -> bool:
        return bool(self.keep_days or self.total_mb or self.free_mb)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the disk holds now. None: it cannot be told."""

    recordings_mb: float | None
    free_mb: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A call with a recording. ended_s: Unix seconds; None: no clock has told it."""

    call_id: str
    ended_s: float | None
    held: bool
    open: bool
    undelivered: bool

    @property
    def must_stay(self) -> bool:
        return self.held or self.open or self.undelivered


def why(candidate: Candidate, limits: Limits, room: Room, now_s: float | None) -> Why | None:
    """Whether the oldest recording that may go has to go. now_s None: the clock is not set, and nothing has an age."""
    if candidate.must_stay:
        return None
    if room.free_mb is not None and limits.free_mb and room.free_mb < limits.free_mb:
        return "space"
    if room.recordings_mb is not None and limits.total_mb and room.recordings_mb > limits.total_mb:
        return "size"
    if limits.keep_days and now_s is not None and candidate.ended_s is not None:
        return "age" if now_s - candidate.ended_s > limits.keep_days * _DAY_S else None
    return None


def days_left(free_mb: float | None, recorded_mb_a_day: float | None, reserve_mb: float) -> int | None:
    """How long the disk lasts as it has been filling lately. None: that cannot be told, or it is not filling."""
    if free_mb is None or not recorded_mb_a_day:
        return None
    return max(0, int((free_mb - reserve_mb) / recorded_mb_a_day))
