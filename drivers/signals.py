"""Signals: what drivers tell the centre. Facts about the line and the devices, with the time they were captured.

A driver posts a signal and does nothing else with it. `at_ns` is CLOCK_MONOTONIC in nanoseconds, taken as near to the
capture as the source allows (kernel edge time, sample counter, first byte), never the time of posting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Presentation = Literal["allowed", "withheld", "unavailable", "payphone", "service_conflict", "not_received", "corrupt"]
Device = Literal["gpio", "modem", "codec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopEdge:
    """The off-hook comparator changed: closed is True while the line voltage is under its threshold."""

    at_ns: int
    line: int
    closed: bool
    initial: bool = False  # the level found at start, not an edge that was seen


@dataclass(frozen=True, slots=True, kw_only=True)
class RingEdge:
    """The ring comparator changed: one pulse a cycle of the ringing voltage (16 Hz in Japan)."""

    at_ns: int
    line: int
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LinePresentEdge:
    """The line-present comparator changed: present is False below 3 V."""

    at_ns: int
    line: int
    present: bool
    initial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolarityEdge:
    """The polarity comparator changed. Its level has no absolute meaning: wiring may be swapped."""

    at_ns: int
    line: int
    reversed: bool
    initial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerIdReceived:
    """A caller-ID block was understood. number is digits as received, None unless presentation is "allowed"."""

    at_ns: int
    line: int
    source: Literal["modem"]
    presentation: Presentation
    number: str | None
    name: str | None
    date_raw: str | None  # as the exchange sent it; never used as a clock
    raw: str  # the bytes it came from, latin-1, kept as evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class ModemRing:
    """The modem reported a ring; pattern is the distinctive-ring suffix ("A", "1") where one was given."""

    at_ns: int
    line: int
    pattern: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ButtonPressed:
    """The unit's button was pressed and let go."""

    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLost:
    """A device does not work now. reason is one sentence for people: what, where, how to mend it."""

    at_ns: int
    device: Device
    line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReady:
    """A device works (again). detail tells what it is: modem identity, codec name and rate."""

    at_ns: int
    device: Device
    line: int
    detail: str


Signal = (
    LoopEdge
    | RingEdge
    | LinePresentEdge
    | PolarityEdge
    | CallerIdReceived
    | ModemRing
    | ButtonPressed
    | DeviceLost
    | DeviceReady
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioBlock:
    """A block of sound, in a lane of its own beside the signals.

    at_ns: CLOCK_MONOTONIC of the first frame, from the codec's sample counter (smooth: no scheduling jitter).
    pcm: mono S16LE frames.
    lost_frames: frames that went missing right before this block (overflow, device away): to be filled with silence.
    """

    at_ns: int
    pcm: bytes
    lost_frames: int = 0
