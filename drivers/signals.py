"""Signals: what drivers tell the centre. Facts about the line and the devices, with the time they were captured.

A driver posts a signal and does nothing else with it. `at_ns` is CLOCK_MONOTONIC in nanoseconds, taken as near to the
capture as the source allows (kernel edge time, sample counter, first byte), never the time of posting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Presentation = Literal["allowed", "withheld", "unavailable", "payphone", "service_conflict", "not_received", "corrupt"]
Country = Literal["jp", "us", "uk", "etsi"]
Device = Literal["gpio", "modem", "codec", "listener"]
CallerIdSource = Literal["line_fsk", "modem", "line_dtmf"]  # best first
CallerIdStandard = Literal["bell202", "v23", "jp", "dtmf"]
Tone = Literal["dial", "second_dial", "ringback", "busy", "call_waiting", "cng", "ced"]


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
    """A caller-ID message was received. number is digits as received, None unless presentation is "allowed".

    at_ns: its first bit or byte; until_ns: its last bit on the line (sources "line_fsk" and "line_dtmf"), else None.
    A message whose checksum failed is presentation "corrupt" with no number and no name; raw keeps what came.
    """

    at_ns: int
    line: int
    source: CallerIdSource
    presentation: Presentation
    number: str | None
    name: str | None
    date_raw: str | None  # as the exchange sent it; never used as a clock
    raw: str  # the bytes it came from, kept as evidence: a modem's as latin-1, a frame heard on the line as hex
    standard: CallerIdStandard | None = None  # None: the modem did not say
    until_ns: int | None = None
    called: str | None = None  # which of the subscriber's numbers was dialled (modem dial-in, MDMF 03)
    redirecting: str | None = None  # who forwarded the call
    call_waiting: bool = False  # the frame itself says that it is of a second call (service 41)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModemRing:
    """The modem reported a ring; pattern is the distinctive-ring suffix ("A", "1") where one was given."""

    at_ns: int
    line: int
    pattern: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopReport:
    """The modem reported the line current: a second source of evidence, sometimes fake. Never a decision's only one.

    what: "broken" and "restored" (DLE h and H), "extension" (DLE P: another phone was picked up).
    """

    at_ns: int
    line: int
    what: Literal["broken", "restored", "extension"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHeard:
    """A DTMF key was heard on the line, or reported by the modem. key is one of 0-9 A-D * #.

    key "?": keyed after the answer, masked before it was written anywhere. at_ns, until_ns: the tone's beginning, end.
    """

    at_ns: int
    line: int
    key: str
    until_ns: int
    source: Literal["line", "modem"] = "line"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToneHeard:
    """A signalling tone was heard. Told when it is recognised, at its second and fourth cycle, and at its end.

    at_ns: where its first cycle began; until_ns: where what was heard of it ends; cycles: on-periods heard so far (a
    continuous tone: 1); over: the tone has ended.
    """

    at_ns: int
    line: int
    tone: Tone
    until_ns: int
    cycles: int
    over: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CasHeard:
    """The dual-tone alerting signal 2130 + 2750 Hz was heard (CAS, DT-AS): caller-ID signalling follows."""

    at_ns: int
    line: int
    until_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceHeard:
    """Sound that is speech or music, no tone and no key, was heard. Told at its beginning after 2 s or more without,
    and again every 10 s while it goes on.
    """

    at_ns: int
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ButtonPressed:
    """The unit's button was pressed and let go."""

    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ButtonHeld:
    """The unit's button was held down for a second and a half or more, and let go."""

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
    | LoopReport
    | KeyHeard
    | ToneHeard
    | CasHeard
    | VoiceHeard
    | ButtonPressed
    | ButtonHeld
    | DeviceLost
    | DeviceReady
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioBlock:
    """A block of sound, in a lane of its own beside the signals.

    at_ns: CLOCK_MONOTONIC of the first frame, from the codec's sample counter (smooth: no scheduling jitter).
    pcm: mono S16LE frames.
    lost_frames: frames that went missing right before this block (overflow, device away): to be filled with silence.
    drift_ppm: by how much the codec's frames are longer than nominal, as measured so far.
    """

    at_ns: int
    pcm: bytes
    lost_frames: int = 0
    drift_ppm: int | None = None
