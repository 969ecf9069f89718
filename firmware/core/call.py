"""The record of one call, and the events that tell of it. Pure data: how a call is written down, schema version 2.

Version 1 knew no caller's evidence, no dialled number and nobody who hung up; it is read, and those are then null.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from drivers.signals import CallerIdReceived
from firmware.core.caller import Caller
from firmware.core.facts import Gap, Levels
from firmware.core.numbers import Dialled, national
from firmware.core.outbox import Event, EventType

SCHEMA = 2
_NOBODY = Caller()

Direction = Literal["incoming", "outgoing"]
Outcome = Literal[
    "answered",
    "missed",
    "outgoing_answered",
    "outgoing_unanswered",
    "outgoing_unknown",
    "joined_late",
    "too_short",
    "fax",
    "interrupted",
    "imported",  # something else has recorded it
]
EndReason = Literal["hung_up", "caller_gave_up", "line_cut", "held_open", "unit_stopped"]
AnswerEvidence = Literal["loop", "polarity", "ringback_then_voice"]
# Who hung up first, and what that rests on. A far end that cleared in the last 2 s before a hang-up cannot be told
# from one that did not: the exchange's busy tone is known after two of its cycles.
Ender = Literal["near", "far"]
EnderEvidence = Literal["busy_tone", "polarity", "no_busy_tone"]
ClockState = Literal["unsynced", "rtc", "ntp"]
_LAST_MS = 253_402_300_799_999  # of the year 9999


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockRead:
    """One reading of both clocks. What ties monotonic time to the wall, and how far it can be trusted."""

    mono_ns: int
    wall_ns: int
    state: ClockState

    def iso(self, at_ns: int) -> str:
        """The UTC wall time of a monotonic instant of the same boot, to the millisecond."""
        ms = (self.wall_ns + at_ns - self.mono_ns) // 1_000_000
        ms = min(max(ms, 0), _LAST_MS)  # an unset clock may stand anywhere, and is told as what it is
        at = datetime.fromtimestamp(ms // 1000, tz=UTC).replace(microsecond=ms % 1000 * 1000)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A caller-ID message as it came: what the caller's number rests on. raw: see CallerIdReceived."""

    source: str
    at_ns: int
    raw: str
    presentation: str
    standard: str | None = None
    until_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened in a call, with what it rests on."""

    kind: Literal[
        "flash",
        "loop_break",
        "polarity",
        "button",
        "call_waiting",
        "handshake",
        "modem_ring",
        "modem_loop",
        "tone",
        "cas",
        "key",  # keyed after the answer: that it was, never which
    ]
    at_ns: int
    until_ns: int | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """That a recording is there no more. why: age, size, space (retention), or what was asked for. at: UTC."""

    at: str
    why: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recording that is on the disk. Times are those of the sound in it, the pre-roll included."""

    path: str  # relative to the data directory
    from_ns: int
    frames: int
    rate_hz: int
    size_bytes: int
    sha256: str
    root: str | None = None  # of the hash tree of its sound; None: made by a version that had none
    gaps: tuple[Gap, ...] = ()
    muted: tuple[Gap, ...] = ()
    cut_short: str | None = None  # why it ends before the call does
    levels: Levels | None = None  # None: nobody could measure it, or a version made it that did not
    drift_ppm: int | None = None  # as in RecordingReady
    deleted: Deleted | None = None

    @property
    def duration_s(self) -> float:
        return self.frames / self.rate_hz


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """That something else has recorded the call: all that is told of it is the file's word.

    file: its name; sha256: of it as it came; at: UTC, when it was taken in. time_from, number_from: what tells the time
    and the number; file: its own date.
    """

    file: str
    sha256: str
    at: str
    time_from: Literal["name", "tags", "file"]
    number_from: Literal["name", "tags"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, first ring or lift to end. Open while outcome is None. Times are monotonic ns of boot_id.

    An imported one is of line 0, which is none; where it does not tell the direction, caller is the other end.
    """

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
    caller: Caller = _NOBODY
    dialled: Dialled | None = None
    dialled_by: Literal["dtmf", "pulse"] | None = None
    no_dialled: str | None = None  # of an ended outgoing call: why dialled is None
    answer_evidence: AnswerEvidence | None = None
    ended_by: Ender | None = None
    ended_by_evidence: EnderEvidence | None = None
    keyed: int = 0  # keys after the answer: their number, never which
    marks: tuple[Mark, ...] = ()
    bursts: tuple[tuple[int, int], ...] = ()  # (began, ended) of each ring burst
    heard: tuple[Heard, ...] = ()
    recording: Recording | None = None
    no_recording: str | None = "not_ended"  # why recording is None; None when it is not
    imported: Imported | None = None

    @property
    def duration_s(self) -> float | None:
        """Answer to end; lift to end where nobody can tell the answer; None while open or when it was never up."""
        if self.answered_ns is None and self.direction == "incoming" and self.imported is None:
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
        out["marks"], out["heard"] = list(out["marks"]), list(out["heard"])
        for key in ("sources", "disagreement"):
            out["caller"][key] = list(out["caller"][key])
        if self.recording:
            for key in ("gaps", "muted"):
                out["recording"][key] = list(out["recording"][key])
            out["recording"]["duration_s"] = self.recording.duration_s
        return out

    @staticmethod
    def from_dict(doc: dict[str, Any]) -> Call:
        """The call that to_dict() of this version or of 1 wrote. Raises ValueError for another schema."""
        doc = upgraded(doc)
        if doc.get("schema") != SCHEMA:
            raise ValueError(f"call record has schema {doc.get('schema')}, this version reads 1 and {SCHEMA}")
        own = {f.name: doc[f.name] for f in dataclasses.fields(Call) if f.name != "imported"}
        recording = own["recording"]
        if recording:
            recording = {k: v for k, v in recording.items() if k != "duration_s"}
            stretches = {key: tuple(Gap(**each) for each in recording.get(key, ())) for key in ("gaps", "muted")}
            gone = Deleted(**recording["deleted"]) if recording.get("deleted") else None
            levels = Levels(**recording["levels"]) if recording.get("levels") else None
            recording = Recording(**recording | stretches | {"deleted": gone, "levels": levels})
        return Call(
            **own
            | {
                "clock": ClockRead(**own["clock"]),
                "caller": Caller.from_dict(own["caller"]),
                "dialled": Dialled(**own["dialled"]) if own["dialled"] else None,
                "marks": tuple(Mark(**m) for m in own["marks"]),
                "bursts": tuple((b[0], b[1]) for b in own["bursts"]),
                "heard": tuple(Heard(**h) for h in own["heard"]),
                "recording": recording,
                "imported": Imported(**doc["imported"]) if doc.get("imported") else None,
            }
        )


def upgraded(doc: dict[str, Any]) -> dict[str, Any]:
    """A stored record as this version writes it; what schema 1 did not know is null."""
    if doc.get("schema") != 1:
        return doc
    caller = doc["caller"]
    source = caller["source"]
    later = Caller(
        presentation=caller["presentation"],
        reason=None if caller["presentation"] == "allowed" else caller["presentation"],
        number=caller["number"],
        raw=caller["raw"],
        name=caller["name"],
        source=source,
        sources=(source,) if source else (),
    )
    heard = [
        {"source": "modem", "at_ns": doc["opened_ns"], "raw": raw, "presentation": caller["presentation"]}
        for raw in doc["modem_raw"]
    ]
    outgoing = doc["direction"] == "outgoing"
    return doc | {
        "schema": SCHEMA,
        "caller": dataclasses.asdict(later),
        "heard": heard,
        "dialled": None,
        "dialled_by": None,
        "no_dialled": "not_decoded" if outgoing else None,
        "ended_by": None,
        "ended_by_evidence": None,
        "keyed": 0,
    }


def event(type_: EventType, call: Call, at_ns: int, **extra: Any) -> Event:
    """What the management system is told of a call at one moment."""
    data: dict[str, Any] = {
        "line": call.line,
        "direction": call.direction,
        "caller": told(call.caller) if call.direction != "outgoing" else None,
        "dialled": told(call.dialled) if call.dialled else None,
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
            "ended_by": call.ended_by,
            "ended_by_evidence": call.ended_by_evidence,
            "no_dialled": call.no_dialled,
        }
    if type_ == "call.imported":
        data |= {"opened": call.iso(call.opened_ns), "ended": call.iso(call.ended_ns), "duration_s": call.duration_s}
    if type_ in ("recording.ready", "recording.deleted", "call.imported") and call.recording:
        data["recording"] = {
            "path": call.recording.path,
            "started": call.iso(call.recording.from_ns),
            "duration_s": call.recording.duration_s,
            "bytes": call.recording.size_bytes,
            "sha256": call.recording.sha256,
            "root": call.recording.root,
            "filled_s": round(sum(g.duration_s for g in call.recording.gaps), 3),
            "muted_s": round(sum(g.duration_s for g in call.recording.muted), 3),
        }
    return Event(type=type_, subject=call.call_id, time=call.clock.iso(at_ns), data=data | extra)


def told(who: Caller | Dialled) -> dict[str, Any]:
    """Somebody as an event tells of him. display: the number as people of the country write it."""
    out = dataclasses.asdict(who)
    out["display"] = out.pop("national") if isinstance(who, Caller) else national(who.number)
    return out


def heard(signal: CallerIdReceived) -> Heard:
    return Heard(
        source=signal.source,
        at_ns=signal.at_ns,
        raw=signal.raw,
        presentation=signal.presentation,
        standard=signal.standard,
        until_ns=signal.until_ns,
    )
