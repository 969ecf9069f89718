"""Facts that the firmware's own parts post to the centre, beside the signals of drivers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from drivers.signals import Signal

Stream = Literal["call", "system", "audit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A stretch of a recording that was not captured and is silence of the true length."""

    at_s: float  # from the start of the recording
    duration_s: float


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
    gaps: tuple[Gap, ...] = ()
    cut_short: str | None = None  # why it ends before the call does


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
class BrokerConnected:
    at_ns: int
    broker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLost:
    at_ns: int
    broker: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventAccepted:
    """A broker answered a published event with a success code."""

    at_ns: int
    broker: str
    stream: Stream
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRefused:
    """A broker answered with a failure code. retry False: it would refuse again, so the entry is parked."""

    at_ns: int
    broker: str
    stream: Stream
    sequence: int
    code: int
    retry: bool


DeliveryFact = BrokerConnected | BrokerLost | EventAccepted | EventRefused
Input = Signal | RecordingReady | RecordingFailed | CallLeftOpen | DeliveryFact
