"""Facts that the firmware's own parts post to the centre, beside the signals of drivers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drivers.signals import Signal
from firmware.core.outbox import Stream

KEYS = "keys"  # Gap.by: the tone of a key was in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A stretch of a recording that is silence of the true length instead of what was on the line."""

    at_s: float  # from the start of the recording
    duration_s: float
    by: str | None = None  # who has had it muted


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """How loud a recording is, in dB against full scale; None: there is nothing but zeros in it.

    Seconds of nothing but zeros (gaps, pauses) are left out of all of it.
    """

    peak_dbfs: float | None
    rms_dbfs: float | None
    loudest_dbfs: float | None  # the loudest second
    clipped: float  # the part of the frames that stand at full scale, three or more in succession
    hum_hz: int | None  # 50 or 60; None: no steady hum of -60 dBFS or more, or less than 3 s to find it in
    hum_dbfs: float | None

    @property
    def silent(self) -> bool:
        """Nobody speaks so low: a cable is out, or the tap is dead."""
        return self.loudest_dbfs is None or self.loudest_dbfs < -55

    @property
    def overdriven(self) -> bool:
        return self.clipped > 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingReady:
    """A recording is synced to the disk and closed."""

    at_ns: int
    line: int
    call_id: str
    path: str  # relative to the data directory
    from_ns: int
    frames: int
    rate_hz: int
    size_bytes: int
    sha256: str
    root: str | None = None  # hexadecimal: of the hash tree of its sound (firmware.recording.leaves)
    gaps: tuple[Gap, ...] = ()
    muted: tuple[Gap, ...] = ()  # silence because recording was paused or switched off
    cut_short: str | None = None  # why it ends before the call does
    levels: Levels | None = None  # None: of a sealed recording that was cut, nobody could measure it
    drift_ppm: int | None = None  # by how much the codec's frames are longer than nominal; None: not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingFailed:
    """A recording could not be made or kept. reason is one sentence for people."""

    at_ns: int
    line: int
    call_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLeftOpen:
    """Found at start: a call that was open, or whose recording was, when the unit stopped without closing it."""

    at_ns: int
    line: int
    call: dict[str, Any]
    recording: RecordingReady | None
    repaired: bool  # recording is a repaired copy; the cut original stands beside it
    no_recording: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingSwitched:
    """Recording was switched on or off for a line. initial: as it was where the journal's file begins."""

    at_ns: int
    line: int
    enabled: bool
    initial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkConnected:
    """sink: its name in the settings, as everywhere below."""

    at_ns: int
    sink: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkLost:
    """reason: one sentence for people, told once until it is connected again."""

    at_ns: int
    sink: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventAccepted:
    """The sink answered an event with a success code."""

    at_ns: int
    sink: str
    stream: Stream
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRefused:
    """The sink answered with a failure code. retry False: it would refuse again, so the entry is parked."""

    at_ns: int
    sink: str
    stream: Stream
    sequence: int
    code: int
    retry: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived:
    """What somebody published to the unit. topic: below the unit's branch, or whole where it is not the unit's."""

    at_ns: int
    sink: str
    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAsked:
    """Somebody on this machine waits for an answer at the local socket."""

    at_ns: int


DeliveryFact = SinkConnected | SinkLost | EventAccepted | EventRefused | MessageReceived
Input = Signal | RecordingReady | RecordingFailed | CallLeftOpen | RecordingSwitched | DeliveryFact | LocalAsked
