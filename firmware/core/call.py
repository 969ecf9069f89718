"""The record of one call, and the events that tell of it. Pure data: how a call is written down, schema version 1."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from drivers.signals import CallerIdReceived, Presentation
from firmware.core.facts import Gap

SCHEMA = 1

Direction = Literal["incoming", "outgoing"]
Outcome = Literal[
    "answered", "missed", "outgoing_answered", "outgoing_unknown", "joined_late", "too_short", "interrupted"
]
EndReason = Literal["hung_up", "caller_gave_up", "line_cut", "unit_stopped"]
ClockState = Literal["unsynced", "rtc", "ntp"]
Country = Literal["jp", "us", "uk", "etsi"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockRead:
    """One reading of both clocks. What ties monotonic time to the wall, and how far it can be trusted."""

    mono_ns: int
    wall_ns: int
    state: ClockState

    def iso(self, at_ns: int) -> str:
        """The UTC wall time of a monotonic instant of the same boot, to the millisecond."""
        ms = (self.wall_ns + at_ns - self.mono_ns) // 1_000_000
        at = datetime.fromtimestamp(ms // 1000, tz=UTC).replace(microsecond=ms % 1000 * 1000)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who called. number is E.164, raw the digits as received; both None unless presentation is "allowed"."""

    presentation: Presentation = "not_received"
    number: str | None = None
    raw: str | None = None
    name: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened in a call, with what it rests on."""

    kind: Literal["flash", "loop_break", "polarity", "button", "call_waiting", "handshake", "modem_ring"]
    at_ns: int
    until_ns: int | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recording that is on the disk. Times are those of the sound in it, the pre-roll included."""

    path: str  # relative to the data directory
    from_ns: int
    frames: int
    rate_hz: int
    size_bytes: int
    sha256: str
    gaps: tuple[Gap, ...] = ()
    cut_short: str | None = None  # why it ends before the call does

    @property
    def duration_s(self) -> float:
        return self.frames / self.rate_hz


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, first ring or lift to end. Open while outcome is None. Times are monotonic ns of boot_id."""

    call_id: str
    line: int
    direction: Direction | None
    boot_id: str
    clock: ClockRead
    opened_ns: int
    outcome: Outcome | None = None
    end_reason: EndReason | None = None
    answered_ns: int | None = None
    ended_ns: int | None = None
    rings: int = 0
    caller: Caller = Caller()
    dialled: str | None = None
    answer_evidence: str | None = None
    marks: tuple[Mark, ...] = ()
    bursts: tuple[tuple[int, int], ...] = ()  # (began, ended) of each ring burst
    modem_raw: tuple[str, ...] = ()
    recording: Recording | None = None
    no_recording: str | None = "not_ended"  # why recording is None; None when it is not

    @property
    def duration_s(self) -> float | None:
        """Answer to end; lift to end where nobody can tell the answer; None while open or when it was never up."""
        if self.answered_ns is None and self.direction == "incoming":
            return None
        began = self.answered_ns if self.answered_ns is not None else self.opened_ns
        return None if self.ended_ns is None else (self.ended_ns - began) / 1e9

    def iso(self, at_ns: int | None) -> str | None:
        return None if at_ns is None else self.clock.iso(at_ns)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the schema version, UTC times and seconds beside the raw nanoseconds."""
        out = dataclasses.asdict(self)
        out["schema"] = SCHEMA
        out["opened"], out["answered"], out["ended"] = map(self.iso, (self.opened_ns, self.answered_ns, self.ended_ns))
        out["duration_s"] = self.duration_s
        out["bursts"] = [list(b) for b in self.bursts]
        out["marks"], out["modem_raw"] = list(out["marks"]), list(out["modem_raw"])
        if self.recording:
            out["recording"]["gaps"] = list(out["recording"]["gaps"])
            out["recording"]["duration_s"] = self.recording.duration_s
        return out

    @staticmethod
    def from_dict(doc: dict[str, Any]) -> Call:
        """The call that to_dict() wrote. Raises ValueError for another schema."""
        if doc.get("schema") != SCHEMA:
            raise ValueError(f"call record has schema {doc.get('schema')}, this version reads {SCHEMA}")
        own = {f.name: doc[f.name] for f in dataclasses.fields(Call)}
        recording = own["recording"]
        if recording:
            recording = {k: v for k, v in recording.items() if k != "duration_s"}
            recording = Recording(**recording | {"gaps": tuple(Gap(**g) for g in recording["gaps"])})
        return Call(
            **own
            | {
                "clock": ClockRead(**own["clock"]),
                "caller": Caller(**own["caller"]),
                "marks": tuple(Mark(**m) for m in own["marks"]),
                "bursts": tuple((b[0], b[1]) for b in own["bursts"]),
                "modem_raw": tuple(own["modem_raw"]),
                "recording": recording,
            }
        )


EventType = Literal[
    "call.ringing",
    "call.caller_id",
    "call.answered",
    "call.dialled",
    "call.waiting",
    "call.ended",
    "call.missed",
    "recording.ready",
    "recording.failed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent:
    """One event of the stream `call`, before the store numbers it. data is the CloudEvents data object."""

    type: EventType
    call_id: str
    time: str  # UTC, when it happened
    data: dict[str, Any]


def event(type_: EventType, call: Call, at_ns: int, **extra: Any) -> CallEvent:
    """What the management system is told of a call at one moment."""
    data: dict[str, Any] = {
        "line": call.line,
        "direction": call.direction,
        "caller": dataclasses.asdict(call.caller) if call.direction != "outgoing" else None,
        "dialled": call.dialled,
        "clock": call.clock.state,
    }
    if type_ in ("call.ended", "call.missed"):
        data |= {
            "outcome": call.outcome,
            "end_reason": call.end_reason,
            "opened": call.iso(call.opened_ns),
            "answered": call.iso(call.answered_ns),
            "ended": call.iso(call.ended_ns),
            "duration_s": call.duration_s,
            "rings": call.rings,
            "answer_evidence": call.answer_evidence,
        }
    if type_ == "recording.ready" and call.recording:
        data["recording"] = {
            "path": call.recording.path,
            "started": call.iso(call.recording.from_ns),
            "duration_s": call.recording.duration_s,
            "bytes": call.recording.size_bytes,
            "sha256": call.recording.sha256,
            "filled_s": round(sum(g.duration_s for g in call.recording.gaps), 3),
        }
    return CallEvent(type=type_, call_id=call.call_id, time=call.clock.iso(at_ns), data=data | extra)


def caller_of(signal: CallerIdReceived, country: Country) -> Caller:
    return Caller(
        presentation=signal.presentation,
        number=e164(signal.number, country),
        raw=signal.number,
        name=signal.name,
        source=signal.source,
    )


def e164(digits: str | None, country: Country) -> str | None:
    """National digits as E.164, where the numbering plan leaves no doubt; None otherwise (raw keeps the digits)."""
    if digits is None:
        return None
    if country == "jp" and len(digits) in (10, 11) and digits[0] == "0" and digits[1] != "0":
        return "+81" + digits[1:]
    if country == "us" and len(digits) == 10 and digits[0] not in "01":
        return "+1" + digits
    if country == "us" and len(digits) == 11 and digits[0] == "1" and digits[1] not in "01":
        return "+" + digits
    return None
