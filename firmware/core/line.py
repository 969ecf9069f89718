"""One line's call state machine: facts in, commands out, one literal transition table. Pure.

The table holds every (state, fact) pair; ARCHITECTURE.md's diagram is generated from it. `Line` ties it to hook and
ring timing and is all that the engine and `tsuroku replay` know.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from drivers.signals import (
    ButtonPressed,
    CallerIdReceived,
    CasHeard,
    Country,
    DeviceLost,
    DeviceReady,
    KeyHeard,
    LinePresentEdge,
    LoopEdge,
    LoopReport,
    ModemRing,
    PolarityEdge,
    RingEdge,
    ToneHeard,
    VoiceHeard,
)
from firmware.core.call import (
    AnswerEvidence,
    Call,
    ClockRead,
    Ender,
    EnderEvidence,
    Heard,
    Mark,
    Outcome,
    Recording,
    event,
    heard,
    told,
)
from firmware.core.caller import Caller, listed, merge
from firmware.core.country import PROFILES
from firmware.core.facts import CallLeftOpen, Input, RecordingFailed, RecordingReady, RecordingSwitched
from firmware.core.hook import (
    DialPulses,
    Hook,
    HookFact,
    HookTimer,
    HookTiming,
    LineBack,
    LineCut,
    LoopBroken,
    LoopMended,
    OffHook,
    OnHook,
    RingBurst,
    RingBurstOver,
)
from firmware.core.numbers import Dialled, as_dialled, kind
from firmware.core.outbox import Event

_MS = 1_000_000
# A modem says RING when the burst is over, and some take their time.
_LATE_RING_NS = 3000 * _MS
# A block that a modem reports this soon after the lift was sent before it.
_LATE_ID_NS = 3000 * _MS
# Polarity turns at the seizure too; an answer cannot come this soon after the lift.
_SOONEST_ANSWER_NS = 1000 * _MS
# The start signal goes on for 6 s, with pauses of 0.5 s; both with a tolerance of its bursts' 20 %.
_START_SIGNAL_NS = 6200 * _MS
_START_PAUSE_NS = 1000 * _MS
# A start signal that ended this early was given up, and so long a pause in it is none of its own.
_START_CUT_NS = 4000 * _MS
_START_OVER_NS = 2000 * _MS
# Dial tone begins this soon after a lift; found where a caller was expected, he had given up before.
_DIAL_TONE_NS = 2500 * _MS
# Speech and music hold no dial tone this long: it tells even where the next ring was not due yet.
_SURE_DIAL_TONE_NS = 2000 * _MS
_MOST_MARKS = 200  # evidence is bounded: a chattering contact must not grow a record without end
_MOST_HEARD = 8
_MOST_ANNOUNCED = 4
_MOST_DIGITS = 40
# The dialled number is complete when no digit has followed for so long; what is keyed later is the call's own.
_NUMBER_OVER_NS = 8000 * _MS
_WHOLE_NUMBER_NS = 3000 * _MS  # where the plan says that it is whole
_WHOLE_NUMBER = 10  # digits; a voice behind so many ends the number at once
# The alert of a waiting call, the modem's report and the frame heard on the line belong together within this.
_ONE_WAITING_NS = 10_000 * _MS
# The exchange sends one frame a call: another one so much later is the next caller's. It follows the first ring within
# the second time, or comes before it.
_ONE_FRAME_NS = 3000 * _MS
_RING_TO_FRAME_NS = 2000 * _MS
# Polarity turns before the start signal; what turned this long before the first ring belongs to the call.
_REVERSAL_BEFORE_RING_NS = 3000 * _MS
# The first ring, or the start signal, follows a reversal or an alert (CAS) on an idle line within this: a lift that
# comes before it meets a caller. Not so soon behind a call: its release turns the polarity back.
_ANNOUNCED_NS = 3000 * _MS
_RELEASED_NS = 2000 * _MS
# The exchange's busy tone for so many cycles: the far end has hung up.
_BUSY_CYCLES = 4


# Why a call that is over has no recording although nothing has failed.
_ON_PURPOSE = ("not_answered", "switched_off", "do_not_record")

_Told = TypeVar("_Told", CallerIdReceived, Heard)


class State(enum.Enum):
    IDLE = "idle"
    RINGING = "ringing"
    CID_HANDSHAKE = "cid_handshake"
    DIALLING = "dialling"
    IN_CALL = "in_call"
    FLASH = "flash"
    HELD_OPEN = "held_open"
    LINE_CUT = "line_cut"


@dataclass(frozen=True, slots=True)
class RingingOver:
    """No ring burst for the set time; at_ns is when that became known."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class HandshakeOver:
    """The loop is still closed when the longest primary answer is over; at_ns is when that became known."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class NumberOver:
    """No digit has followed the last one for so long that the number is complete."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class Unused:
    """The loop is closed, and for the set time nobody has spoken or dialled; at_ns is when that became known."""

    at_ns: int


Fact = (
    HookFact
    | RingingOver
    | HandshakeOver
    | NumberOver
    | Unused
    | PolarityEdge
    | CallerIdReceived
    | ModemRing
    | LoopReport
    | KeyHeard
    | ToneHeard
    | CasHeard
    | VoiceHeard
    | ButtonPressed
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveCall:
    """Write the call and its events in one transaction."""

    call: Call
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRecording:
    """Record the line's sound from a time in the past on.

    up_ns: when the handset was lifted; before it the line may ring, which is louder than any call.
    """

    line: int
    call_id: str
    from_ns: int
    up_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRecording:
    """End the recording with the frame before until_ns. keep False: it was no call's, or too short; remove it."""

    line: int
    call_id: str
    until_ns: int
    keep: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Mute:
    """Until told otherwise: sound from from_ns to until_ns (None: without end) goes into files as silence.

    Of no call's machine: what was muted comes back with the recording. None from_ns: no more muting.
    """

    from_ns: int | None
    until_ns: int | None = None
    at_ns: int = 0  # now
    by: str | None = None  # who has asked for it


@dataclass(frozen=True, slots=True, kw_only=True)
class MuteKey:
    """A key that was keyed in a call: its tone goes into the file as silence. Times are those of the tone."""

    line: int
    from_ns: int
    until_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowLine:
    """The line's state changed."""

    line: int
    state: State
    since_ns: int
    call_id: str | None


Command = SaveCall | StartRecording | StopRecording | MuteKey | ShowLine


class Reads(Protocol):
    """What the machine cannot know by itself. The engine journals every answer, so that a replay gets the same."""

    def call_id(self) -> str: ...
    def clock(self) -> ClockRead: ...
    def unwanted(self, number: str) -> bool:
        """Whether the contacts say that calls with this number (E.164) are not recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineConfig:
    """What a line's behaviour depends on; it stands at the head of every journal."""

    number: int
    boot_id: str
    country: Country
    number_display: bool
    ring_over_ms: int
    handshake_ms: int
    shortest_call_ms: int
    held_open_ms: int
    pre_roll_ms: int
    do_not_record: tuple[str, ...]  # E.164, or the digits of a short number
    hook: HookTiming
    mute_keys: bool = False  # what is keyed after the answer is silence in the recording


LineTimer = Literal["ringing_over", "handshake_over", "number_over", "unused"]
Timer = HookTimer | LineTimer
_TIMER_FACTS: Mapping[LineTimer, Callable[[int], RingingOver | HandshakeOver | NumberOver | Unused]] = {
    "ringing_over": RingingOver,
    "handshake_over": HandshakeOver,
    "number_over": NumberOver,
    "unused": Unused,
}


@dataclass(slots=True)
class _Sound:
    """What the listener has told of the sound since the loop closed."""

    listening: bool = False  # it has told something, and was not lost since
    voice: bool = False  # anybody spoke
    voice_ns: tuple[int, ...] = ()  # the last times, oldest first
    ringback_ns: int | None = None  # the far end was rung: where the last heard of it ends
    ringback_over: bool = False
    busy_ns: int | None = None  # where a busy tone began that nobody spoke after
    busy_cycles: int = 0
    cng_cycles: int = 0
    ced: bool = False


class Line:
    """One line. handle() takes inputs in order; due() and fire() are the timers. Both return commands."""

    def __init__(self, config: LineConfig, reads: Reads) -> None:
        self.config = config
        self.state = State.IDLE
        self._reads = reads
        self._hook = Hook(config.hook)
        self._profile = PROFILES[config.country]
        self._timers: dict[LineTimer, int] = {}
        self._out: list[Command] = []
        self._call: Call | None = None
        self._ended_ns = -_LATE_RING_NS  # when the last call ended
        self._unfiled: dict[str, Call] = {}  # ended, their recordings not yet reported
        self._burst_ns: int | None = None
        self._handshaken = False
        self._loop_closed_ns = 0
        self._quiet_ns = 0  # no recording begins before this: the end of the last one or of a handshake
        self._before_flash = State.IN_CALL
        self._recording = False
        self._enabled = True  # the owner's switch: no recording begins while it is off
        self._evidence: tuple[CallerIdReceived, ...] = ()  # of the call's own caller
        self._waiting: tuple[CallerIdReceived, ...] = ()  # of the caller who waits
        self._waiting_ns = -_ONE_WAITING_NS
        self._reversal_ns = -_REVERSAL_BEFORE_RING_NS  # of the idle line
        self._idle_ns = -_RELEASED_NS  # since when the line is idle
        self._announced: tuple[Mark, ...] = ()  # what the idle line has told of a caller who has not rung yet
        self._digits = ""  # dialled so far
        self._dialling_by: Literal["dtmf", "pulse"] | None = None
        self._last_digit_ns = 0
        self._number_open = False  # digits heard now belong to the dialled number
        self._number_whole = False  # the plan says that no more digits follow
        self._sound = _Sound()
        self._held: Call | None = None  # the call that was held open
        self._parked = False  # held open, and the exchange has said that nobody is there

    # -- what the engine calls

    def due(self) -> tuple[int, Timer] | None:
        """The next timer as (time, name)."""
        pending: dict[Any, int] = {**self._hook.timers, **self._timers}
        return min(((at, name) for name, at in pending.items()), default=None)

    def fire(self, timer: Timer) -> list[Command]:
        """The timer is due: facts follow as of its own time."""
        match timer:
            case "ringing_over" | "handshake_over" | "number_over" | "unused":
                self._step(_TIMER_FACTS[timer](self._timers.pop(timer)))
            case _:
                for fact in self._hook.fire(timer):
                    self._step(fact)
        return self._take()

    def mask(self, given: Input) -> Input:
        """The input without digits that are nobody's business: keyed after the answer they are menu choices, PINs and
        card numbers. To be called before anything writes the input down.
        """
        match given:
            case KeyHeard() if not (
                self._number_open and self.state is State.DIALLING and given.at_ns >= self._loop_closed_ns
            ):
                return replace(given, key="?")
            case CallerIdReceived(source="line_dtmf") if self.state not in _BEFORE_ANSWER:
                return replace(given, presentation="corrupt", number=None, name=None, redirecting=None, raw="")
        return given

    def handle(self, given: Input) -> list[Command]:
        match given:
            case LoopEdge() | RingEdge() | LinePresentEdge():
                for fact in self._hook.edge(given):
                    self._step(fact)
            case PolarityEdge() if not given.initial:
                self._step(given)
            case CallerIdReceived(source="line_dtmf") if self.state not in _BEFORE_ANSWER:
                pass  # keys that look like one
            case CallerIdReceived(source="line_fsk" | "line_dtmf") if (given.until_ns or given.at_ns) <= self._ended_ns:
                pass  # told late: it belongs to a call that is over
            case KeyHeard() | ToneHeard() | CasHeard() | VoiceHeard() if (
                given.at_ns < self._loop_closed_ns and self.state not in _BEFORE_ANSWER
            ):
                pass  # of before this call
            case KeyHeard(source="modem"):
                if not self._sound.listening:  # else the listener tells of the same key
                    self._step(given)
            case KeyHeard() | ToneHeard() | CasHeard() | VoiceHeard():
                if not self._sound.listening and "unused" in self._timers:
                    self._used(given.at_ns)  # nobody knows of a silence that nobody listened to
                self._sound.listening = True
                self._step(given)
            case CallerIdReceived() | ModemRing() | LoopReport() | ButtonPressed():
                self._step(given)
            case DeviceLost(device="listener" | "codec"):
                self._sound.listening = False
            case RecordingReady() | RecordingFailed():
                self._recorded(given)
            case CallLeftOpen():
                self._left_open(given)
            case RecordingSwitched():
                self._enabled = given.enabled
            case DeviceLost() | DeviceReady() | PolarityEdge():
                pass
            case _:
                pass  # a broker's facts do not concern a line
        return self._take()

    @property
    def busy(self) -> bool:
        """A call or its recording is under way."""
        return self._call is not None or bool(self._unfiled)

    # -- the machine

    def _step(self, fact: Fact) -> None:
        rule = TABLE[self.state, type(fact)]
        before = self.state
        after = rule.do(self, fact)
        if after not in rule.to:
            raise RuntimeError(f"{before.value} x {type(fact).__name__} went to {after.value}, not in the table")
        self.state = after
        if after is not before:
            self._idle_ns = fact.known_ns if isinstance(fact, OnHook) else _at(fact)
            self._announced = ()
            call_id = self._call.call_id if self._call else None
            self._out.append(ShowLine(line=self.config.number, state=after, since_ns=_at(fact), call_id=call_id))

    def _take(self) -> list[Command]:
        out, self._out = self._out, []
        return out

    def _save(self, call: Call, *events: Event) -> None:
        self._out.append(SaveCall(call=call, events=events))

    def _open(self, at_ns: int, direction: Literal["incoming", "outgoing"] | None) -> Call:
        self._burst_ns, self._handshaken, self._evidence, self._sound = None, False, (), _Sound()
        self._digits, self._dialling_by, self._number_open, self._number_whole = "", None, False, False
        return Call(
            call_id=self._reads.call_id(),
            line=self.config.number,
            direction=direction,
            boot_id=self.config.boot_id,
            clock=self._reads.clock(),
            opened_ns=at_ns,
        )

    def _the_call(self) -> Call:
        if self._call is None:
            raise RuntimeError(f"no call in state {self.state.value}")
        return self._call

    def _mark(self, mark: Mark) -> None:
        call = self._the_call()
        if len(call.marks) < _MOST_MARKS:
            self._call = replace(call, marks=(*call.marks, mark))

    def _record(self, up_ns: int, pre_roll: bool = False) -> None:
        call = self._the_call()
        if not self._enabled:
            self._call = replace(call, no_recording="switched_off")
            return
        if any(who and self._unwanted(who) for who in (call.caller, call.dialled)):
            self._call = replace(call, no_recording="do_not_record")
            return
        if call.no_recording in ("do_not_record", "switched_off"):  # better evidence says somebody else; it is on again
            self._call = replace(self._the_call(), no_recording="not_ended")
        from_ns = max(up_ns - self.config.pre_roll_ms * _MS * pre_roll, self._quiet_ns)
        call_id = self._the_call().call_id
        self._recording = True
        self._out.append(StartRecording(line=self.config.number, call_id=call_id, from_ns=from_ns, up_ns=up_ns))

    def _stop(self, until_ns: int, *, keep: bool) -> None:
        self._quiet_ns = max(self._quiet_ns, until_ns)
        if not self._recording:
            return
        self._recording = False
        call_id = self._the_call().call_id
        stop = StopRecording(line=self.config.number, call_id=call_id, until_ns=until_ns, keep=keep)
        self._out.append(stop)

    def _unwanted(self, who: Caller | Dialled) -> bool:
        if listed(who, self.config.do_not_record):
            return True
        return who.number is not None and self._reads.unwanted(who.number)

    def _do_not_record(self, now_ns: int) -> None:
        """The one who calls, or is called, turns out to be on the list."""
        self._stop(now_ns, keep=False)
        self._call = replace(self._the_call(), recording=None, no_recording="do_not_record")

    def _end(self, ended_ns: int, known_ns: int, reason: Literal["hung_up", "line_cut", "held_open"]) -> None:
        """End a call that was up. ended_ns: where the loop broke; known_ns: now, the end of the recording."""
        self._number_is_over(ended_ns)
        call = self._the_call()
        lifted_ns = self._loop_closed_ns
        ended_ns = max(ended_ns, lifted_ns, call.opened_ns)
        if call.answered_ns and call.answered_ns > ended_ns and call.direction == "outgoing":
            call = replace(call, answered_ns=None, answer_evidence=None)  # the reversal was the release's
        outcome = self._outcome(call, ended_ns - lifted_ns, reason)
        keep = outcome != "too_short"
        ender, rests_on = self._ender(call, ended_ns) if reason != "line_cut" else (None, None)
        call = replace(
            call,
            ended_ns=ended_ns,
            outcome=outcome,
            end_reason=reason,
            ended_by=ender,
            ended_by_evidence=rests_on,
        )
        if call.direction == "outgoing" and call.dialled is None:
            call = replace(call, no_dialled="no_digits_heard" if self._sound.listening else "not_listening")
        if call.no_recording == "not_ended":
            call = replace(call, no_recording="not_closed_yet" if keep else "too_short")
        self._stop(known_ns, keep=keep)
        if call.no_recording == "not_closed_yet":
            self._unfiled[call.call_id] = call
        self._save(call, event("call.ended", call, ended_ns))
        self._close(ended_ns)

    def _outcome(self, call: Call, loop_ns: int, reason: str) -> Outcome:
        sound = self._sound
        short = loop_ns < self.config.shortest_call_ms * _MS and reason != "held_open"
        if short and call.direction is not None:
            return "too_short"
        if sound.ced or sound.cng_cycles >= 2:
            return "fax"
        if call.direction is None:
            return "joined_late"
        if call.direction == "incoming":
            return "answered"
        if call.answered_ns is not None:
            return "outgoing_answered"
        rung = sound.ringback_ns is not None or sound.busy_ns is not None
        return "outgoing_unanswered" if rung and sound.listening else "outgoing_unknown"

    def _ender(self, call: Call, ended_ns: int) -> tuple[Ender | None, EnderEvidence | None]:
        """Who hung up first; nobody where there was no conversation, or nothing tells."""
        sound = self._sound
        if call.answered_ns is None and call.direction is not None:
            return None, None
        if sound.busy_ns is not None and sound.busy_cycles >= _BUSY_CYCLES:
            return "far", "busy_tone"
        turned = [m.at_ns for m in call.marks if m.kind == "polarity"]
        if call.answer_evidence == "polarity" and any(
            (call.answered_ns or 0) < at < ended_ns - self.config.hook.flash_min_ms * _MS for at in turned
        ):
            return "far", "polarity"
        if sound.listening and sound.busy_ns is None:
            return "near", "no_busy_tone"
        return None, None

    def _close(self, ended_ns: int) -> None:
        self._timers.clear()
        self._number_open = False
        self._call, self._ended_ns = None, ended_ns

    def _miss(self, ended_ns: int, reason: Literal["caller_gave_up", "line_cut"]) -> None:
        call = replace(
            self._the_call(),
            ended_ns=max(ended_ns, self._the_call().opened_ns),
            outcome="missed",
            end_reason=reason,
            no_recording="not_answered",
        )
        self._save(call, event("call.missed", call, ended_ns))
        self._close(call.ended_ns or ended_ns)

    # -- who calls, and who is called

    def _learn(self, fact: CallerIdReceived) -> None:
        """One more piece of evidence of who calls."""
        call = self._the_call()
        call = replace(call, heard=_few((*call.heard, heard(fact))))
        self._evidence = _few((*self._evidence, fact))
        known, caller = call.caller, merge(self._evidence, self.config.country)
        self._call = call = replace(call, caller=caller)
        if fact.until_ns is not None:
            self._quiet_ns = max(self._quiet_ns, fact.until_ns)  # no frame in a recording
        if _who(caller) != _who(known):
            self._save(call, event("call.caller_id", call, fact.at_ns, correction=known.presentation != "not_received"))
        if self._recording and self._unwanted(caller):
            self._do_not_record(fact.at_ns)
        elif call.no_recording == "do_not_record" and call.answered_ns is not None:
            self._record(call.answered_ns, pre_roll=True)  # it is somebody else

    def _digit(self, digit: str, at_ns: int, until_ns: int, by: Literal["dtmf", "pulse"]) -> None:
        """One more digit of the dialled number."""
        if self._dialling_by not in (None, by):
            return  # the loop was disturbed in a number keyed as DTMF
        self._dialling_by, self._last_digit_ns = by, until_ns
        self._digits = (self._digits + digit)[:_MOST_DIGITS]
        dialled, code = as_dialled(self._digits, self.config.country), self._profile.fixed_length
        number = dialled.number
        whole = code is not None and number is not None and number.startswith(code) and kind(number) != "unknown"
        self._number_whole = whole or re.fullmatch(self._profile.short, dialled.digits) is not None
        wait_ns = _WHOLE_NUMBER_NS if self._number_whole else _NUMBER_OVER_NS
        self._timers["number_over"] = max(until_ns, at_ns) + wait_ns

    def _number_is_over(self, at_ns: int) -> None:
        """Digits heard from now on are not the dialled number's."""
        self._timers.pop("number_over", None)
        was_open, self._number_open = self._number_open, False
        if not was_open or not self._digits:
            return
        dialled = as_dialled(self._digits, self.config.country)
        self._call = call = replace(self._the_call(), dialled=dialled, dialled_by=self._dialling_by)
        self._save(call, event("call.dialled", call, max(at_ns, call.opened_ns), correction=True))
        if self._unwanted(dialled):
            self._do_not_record(max(at_ns, call.opened_ns))

    def _used(self, at_ns: int) -> None:
        """Somebody uses the line: it is not held open by mistake."""
        self._timers["unused"] = at_ns + self.config.held_open_ms * _MS

    # -- filing what came late

    def _recorded(self, fact: RecordingReady | RecordingFailed) -> None:
        call = self._unfiled.pop(fact.call_id, None)
        going_on = call is None and self._call is not None and self._call.call_id == fact.call_id
        if going_on:
            call = self._call
        if call is None:
            return  # of a call that is not kept, and said so
        if isinstance(fact, RecordingFailed):
            call = replace(call, no_recording=fact.reason)
            said = event("recording.failed", call, fact.at_ns, reason=fact.reason)
        else:
            call = replace(call, recording=recording_of(fact), no_recording=None)
            said = event("recording.ready", call, fact.at_ns)
        if going_on:
            self._call = call
        self._save(call, said)

    def _left_open(self, fact: CallLeftOpen) -> None:
        """A call that the unit's end cut off. Its clock is that of the boot it was made in."""
        call = Call.from_dict(fact.call)
        told = call.recording is not None  # closed and told of before the unit stopped
        recording = recording_of(fact.recording) if fact.recording else call.recording
        events: tuple[Event, ...] = ()
        if call.outcome is None:
            last_ns, ended_ns = call.answered_ns or call.opened_ns, None
            if recording:  # its last sound on the disk can be older than the lift
                last_ns = ended_ns = max(last_ns, recording.from_ns + round(recording.duration_s * 1e9))
            call = replace(call, outcome="interrupted", end_reason="unit_stopped", ended_ns=ended_ns)
            events = (event("call.ended", call, last_ns),)
        call = replace(call, recording=recording, no_recording=None if recording else fact.no_recording)
        end_ns = call.ended_ns or call.opened_ns
        if recording and not told:
            events = (*events, event("recording.ready", call, end_ns, repaired=fact.repaired))
        elif not recording and fact.no_recording not in _ON_PURPOSE:
            events = (*events, event("recording.failed", call, end_ns, reason=fact.no_recording))
        self._save(call, *events)


def recording_of(fact: RecordingReady) -> Recording:
    return Recording(
        path=fact.path,
        from_ns=fact.from_ns,
        frames=fact.frames,
        rate_hz=fact.rate_hz,
        size_bytes=fact.size_bytes,
        sha256=fact.sha256,
        root=fact.root,
        gaps=fact.gaps,
        muted=fact.muted,
        cut_short=fact.cut_short,
        levels=fact.levels,
        drift_ppm=fact.drift_ppm,
    )


def _at(fact: Fact) -> int:
    return fact.at_ns


def _few(told: tuple[_Told, ...]) -> tuple[_Told, ...]:
    """A bounded amount of evidence: what is corrupt goes first, then the oldest."""
    if len(told) <= _MOST_HEARD:
        return told
    worst = next((n for n, each in enumerate(told) if each.presentation == "corrupt"), 0)
    return told[:worst] + told[worst + 1 :]


def _who(caller: Caller) -> tuple[object, ...]:
    """What a management system is told again when it changes."""
    return caller.presentation, caller.number, caller.raw, caller.name, caller.redirecting, caller.called


# -- transitions: each does its work on the line and says where it goes


def _ring_opens_call(line: Line, fact: RingBurst) -> State:
    call = line._open(fact.at_ns, "incoming")
    line._call = call
    line._burst_ns = fact.at_ns
    if fact.at_ns - line._reversal_ns < _REVERSAL_BEFORE_RING_NS:
        line._mark(Mark(kind="polarity", at_ns=line._reversal_ns))
        call = line._the_call()
    line._save(call, event("call.ringing", call, fact.at_ns))
    return State.RINGING


def _ring_goes_on(line: Line, fact: RingBurst) -> State:
    call = line._the_call()
    if call.direction is None:
        _was_a_handshake(line, fact.at_ns)
    elif call.bursts and _is_rung_again(line, fact.at_ns):
        _next_caller(line, call.bursts[-1][0])
    line._burst_ns = fact.at_ns
    line._timers.pop("ringing_over", None)
    return State.RINGING


def _was_a_handshake(line: Line, at_ns: int) -> None:
    """The loop that was closed when the unit started was a primary answer's: it rings now."""
    line._stop(at_ns, keep=False)
    line._call = call = replace(line._the_call(), direction="incoming", no_recording="not_ended")
    line._save(call, event("call.ringing", call, call.opened_ns))


def _burst_over(line: Line, fact: RingBurstOver) -> State:
    if _is_next_caller_s(line, fact.at_ns, fact.until_ns):
        _next_caller(line, fact.at_ns)
    call = line._the_call()
    line._burst_ns = None
    ordinary = line._handshaken or not _is_start_signal(line, fact.until_ns - fact.at_ns)
    same_ring = _is_same_ring(line, call.bursts, fact.at_ns)
    bursts = (*call.bursts, (fact.at_ns, fact.until_ns))[-_MOST_MARKS:]
    line._call = replace(call, bursts=bursts, rings=call.rings + (ordinary and not same_ring))
    if line.state is State.RINGING:
        line._timers["ringing_over"] = fact.until_ns + line.config.ring_over_ms * _MS
    return line.state


def _is_next_caller_s(line: Line, at_ns: int, until_ns: int) -> bool:
    """A start signal behind an ordinary ring or a handshake: the polarity has turned since, and the burst is short. Or
    behind a start signal that was cut short, and a pause.
    """
    call = line._the_call()
    if not _is_start_signal(line, until_ns - at_ns):
        return False
    last_ns = max((until for _, until in call.bursts), default=at_ns)
    if not line._handshaken and not call.rings and call.bursts:
        # Turned once is turned back, before an ordinary ring; never: the line tells nothing by it.
        turned = sum(m.kind == "polarity" and m.at_ns > last_ns for m in call.marks)
        cut = last_ns - call.bursts[0][0] < _START_CUT_NS and at_ns - last_ns > _START_OVER_NS
        return cut and turned != 1
    if line._handshaken and not call.rings:  # the handshake's own reversal comes back once
        turned = sum(m.kind == "polarity" and m.at_ns > _handshake_ns(call) for m in call.marks) - 1
    else:
        turned = sum(m.kind == "polarity" and m.at_ns > last_ns for m in call.marks)
    return (line._handshaken or call.rings > 0) and turned > 0


def _is_rung_again(line: Line, at_ns: int) -> bool:
    """The last burst was short, and so is the pause behind it: a start signal behind a ring or a handshake."""
    call = line._the_call()
    began_ns, until_ns = call.bursts[-1]
    rung = began_ns > _handshake_ns(call) if line._handshaken else call.rings > 0
    short = _is_start_signal(line, until_ns - began_ns)
    return rung and short and at_ns - until_ns < _START_PAUSE_NS


def _handshake_ns(call: Call) -> int:
    """When the terminal opened the loop; the call's beginning where it did not."""
    return max((m.until_ns or 0 for m in call.marks if m.kind == "handshake"), default=call.opened_ns)


def _next_caller(line: Line, from_ns: int) -> None:
    """What rang from from_ns on is another caller's: the one before gave up."""
    call, burst_ns = line._the_call(), line._burst_ns
    before = tuple(b for b in call.bursts if b[0] < from_ns)
    theirs = tuple(b for b in call.bursts if b[0] >= from_ns)
    rings = call.rings - _rings(line, theirs, handshaken=line._handshaken)
    marks = tuple(mark for mark in call.marks if mark.at_ns < from_ns)
    line._call = replace(call, bursts=before, rings=rings, marks=marks)
    ended_ns = max([_handshake_ns(call), *(until for _, until in before)])
    line._miss(min(ended_ns, from_ns), "caller_gave_up")  # a terminal may be late to let go of the line
    opened = line._open(from_ns, "incoming")
    line._burst_ns = burst_ns
    rings = _rings(line, theirs, handshaken=False)
    line._call = call = replace(opened, bursts=theirs, rings=rings, marks=call.marks[len(marks) :])
    line._save(call, event("call.ringing", call, from_ns))
    line._out.append(ShowLine(line=line.config.number, state=State.RINGING, since_ns=from_ns, call_id=call.call_id))


def _rings(line: Line, bursts: tuple[tuple[int, int], ...], *, handshaken: bool) -> int:
    """How many ordinary rings the bursts are; after a handshake each counts."""
    return sum(
        (handshaken or not _is_start_signal(line, until - began)) and not _is_same_ring(line, bursts[:n], began)
        for n, (began, until) in enumerate(bursts)
    )


def _is_same_ring(line: Line, before: tuple[tuple[int, int], ...], began_ns: int) -> bool:
    """Several bursts can make one ring (UK: 0.4 s twice)."""
    return bool(before) and began_ns - before[-1][1] < line._profile.ring_gap_ms * _MS


def _is_start_signal(line: Line, length_ns: int) -> bool:
    longest_ms = line._profile.start_signal_ms
    return line.config.number_display and longest_ms is not None and length_ns < longest_ms * _MS


def _lift(line: Line, fact: OffHook) -> State:
    """The loop closes while it rings: the answer, or the primary answer to Number Display's start signal."""
    call = line._the_call()
    if call.direction is None:  # no ring came after the loop that was closed at the start
        _ringing_over(line, RingingOver(fact.at_ns))
        return _lift_to_dial(line, fact)
    line._timers.pop("ringing_over", None)
    line._loop_closed_ns = fact.at_ns
    if line._burst_ns is not None and _is_next_caller_s(line, line._burst_ns, fact.at_ns):
        _next_caller(line, line._burst_ns)
        call = line._the_call()
    bursts = call.bursts if line._burst_ns is None else (*call.bursts, (line._burst_ns, fact.at_ns))
    short = bool(bursts) and all(_is_start_signal(line, until - began) for began, until in bursts)
    # The exchange sends its start signal for 6 s, with pauses of 0.5 s: later, and behind it, a lift is an answer.
    in_time = bool(bursts) and fact.at_ns - bursts[0][0] < _START_SIGNAL_NS
    in_time = in_time and fact.at_ns - bursts[-1][1] < _START_PAUSE_NS
    if short and in_time and not line._handshaken:
        return _handshake_begins(line, fact)
    line._record(fact.at_ns, pre_roll=True)
    return _answered(line, fact.at_ns)


def _handshake_begins(line: Line, fact: OffHook) -> State:
    line._timers["handshake_over"] = fact.at_ns + (line.config.handshake_ms + line.config.hook.flash_min_ms) * _MS
    line._record(fact.at_ns)  # kept from the closing on, should it prove to be an answer
    return State.CID_HANDSHAKE


def _answered(line: Line, at_ns: int) -> State:
    call = line._the_call()
    if line._burst_ns is not None:  # the burst that the lift cut off was a ring as well
        same_ring = _is_same_ring(line, call.bursts, line._burst_ns)
        bursts = (*call.bursts, (line._burst_ns, at_ns))[-_MOST_MARKS:]
        line._call = call = replace(call, rings=call.rings + (not same_ring), bursts=bursts)
        line._burst_ns = None
    # A modem can tell of the ring within the 100 ms that a lift takes to be one.
    line._sound = _Sound(listening=line._sound.listening)
    line._call = call = replace(call, answered_ns=max(at_ns, call.opened_ns), answer_evidence="loop")
    line._save(call, event("call.answered", call, at_ns))
    line._used(at_ns)
    return State.IN_CALL


def _handshake_was_answer(line: Line, fact: HandshakeOver) -> State:
    line._burst_ns = None
    if line._the_call().direction is None:  # joined late: too long for a primary answer
        line._used(fact.at_ns)
        return State.IN_CALL
    if line._quiet_ns > line._loop_closed_ns and line._recording:  # a frame was heard meanwhile: begin behind it
        frame_ns = line._quiet_ns
        line._stop(fact.at_ns, keep=False)
        line._quiet_ns = frame_ns
        line._record(frame_ns)
    return _answered(line, line._loop_closed_ns)


def _handshake_breaks(line: Line, fact: LoopBroken) -> State:
    line._timers.pop("handshake_over", None)
    return State.CID_HANDSHAKE


def _handshake_mended(line: Line, fact: LoopMended) -> State:
    line._mark(Mark(kind="flash" if fact.flash else "loop_break", at_ns=fact.at_ns, until_ns=fact.until_ns))
    limit = line._loop_closed_ns + (line.config.handshake_ms + line.config.hook.flash_min_ms) * _MS
    line._timers["handshake_over"] = max(limit, fact.until_ns + line.config.hook.off_hook_ms * _MS)
    return State.CID_HANDSHAKE


def _tone_in_handshake(line: Line, fact: ToneHeard) -> State:
    """The exchange is silent before its frame: dial tone says that the caller had given up."""
    soon = 0 <= fact.at_ns - line._loop_closed_ns < _DIAL_TONE_NS
    if fact.tone == "dial" and soon and line._the_call().direction is not None:
        return _lifted_too_late(line, fact)
    return line.state


def _key_in_handshake(line: Line, fact: KeyHeard) -> State:
    return _keyed(line, fact) if fact.at_ns >= line._loop_closed_ns else line.state


def _handshake_done(line: Line, fact: OnHook) -> State:
    """Receive complete: the terminal opens the loop, ordinary ringing follows."""
    line._timers.pop("handshake_over", None)
    line._mark(Mark(kind="handshake", at_ns=line._loop_closed_ns, until_ns=fact.at_ns))
    if line._the_call().direction is not None:  # else a ring must first tell that it was one
        line._stop(fact.known_ns, keep=False)
        line._quiet_ns = fact.at_ns
        if line._the_call().no_recording != "do_not_record":
            line._call = replace(line._the_call(), no_recording="not_ended")  # whatever became of the handshake's
    line._handshaken, line._burst_ns = True, None
    line._timers["ringing_over"] = fact.at_ns + line.config.ring_over_ms * _MS
    return State.RINGING


def _ringing_over(line: Line, fact: RingingOver) -> State:
    call = line._the_call()
    if call.direction is None:  # no ring: the end of a call that was joined late
        opened = next(m.until_ns for m in call.marks if m.kind == "handshake" and m.until_ns is not None)
        line._call = replace(call, marks=tuple(m for m in call.marks if m.kind != "handshake"))
        line._end(opened, fact.at_ns, "hung_up")
    else:
        line._miss(fact.at_ns - line.config.ring_over_ms * _MS, "caller_gave_up")
    return State.IDLE


def _lift_to_dial(line: Line, fact: OffHook) -> State:
    line._loop_closed_ns = fact.at_ns
    announced = [mark for mark in line._announced if 0 < fact.at_ns - mark.at_ns < _ANNOUNCED_NS]
    if announced and not fact.joined:
        return _lift_meets_caller(line, fact, announced)
    if fact.joined:
        line._call = line._open(fact.at_ns, None)
        line._save(line._call)
        if line.config.number_display and line._profile.start_signal_ms is not None:
            return _handshake_begins(line, fact)  # a call under way, or a primary answer
        line._record(fact.at_ns)
        line._used(fact.at_ns)
        return State.IN_CALL
    line._call = line._open(fact.at_ns, "outgoing")
    line._number_open = True
    line._record(fact.at_ns, pre_roll=True)
    line._save(line._call, event("call.dialled", line._call, fact.at_ns, correction=False))
    line._used(fact.at_ns)
    return State.DIALLING


def _lift_meets_caller(line: Line, fact: OffHook, announced: list[Mark]) -> State:
    """A call had begun, and nothing had rung yet: whoever lifts is connected with the caller."""
    line._call = call = replace(line._open(announced[0].at_ns, "incoming"), marks=tuple(announced))
    line._save(call, event("call.ringing", call, call.opened_ns))
    if line.config.number_display and line._profile.start_signal_ms is not None:
        return _handshake_begins(line, fact)  # the exchange takes the lift for the primary answer
    line._record(fact.at_ns)  # what was sent before it is caller ID
    return _answered(line, fact.at_ns)


def _far_end_answers(line: Line, fact: PolarityEdge) -> State:
    line._mark(Mark(kind="polarity", at_ns=fact.at_ns))
    if fact.at_ns - line._loop_closed_ns < _SOONEST_ANSWER_NS or line._hook.broken:
        return State.DIALLING  # of the seizure, or of a release that is under way
    return _far_answered(line, fact.at_ns, "polarity")


def _far_answered(line: Line, at_ns: int, rests_on: AnswerEvidence) -> State:
    line._number_is_over(at_ns)
    line._call = call = replace(line._the_call(), answered_ns=at_ns, answer_evidence=rests_on)
    line._save(call, event("call.answered", call, at_ns))
    line._used(at_ns)
    return State.IN_CALL


def _may_be_flash(line: Line, fact: LoopBroken) -> State:
    line._before_flash = line.state
    return State.FLASH


def _mended(line: Line, fact: LoopMended) -> State:
    line._mark(Mark(kind="flash" if fact.flash else "loop_break", at_ns=fact.at_ns, until_ns=fact.until_ns))
    if fact.flash:
        line._number_is_over(fact.at_ns)  # what is dialled now goes to the exchange's services, or to a third party
    return line._before_flash if line.state is State.FLASH else line.state


def _pulses_dial(line: Line, fact: DialPulses) -> State:
    if line._number_open and fact.count <= 10 and line._dialling_by != "dtmf":
        line._digit(str(fact.count % 10), fact.at_ns, fact.until_ns, "pulse")
        line._used(fact.until_ns)
        return line.state
    return _pulses_disturb(line, fact)


def _pulses_disturb(line: Line, fact: DialPulses) -> State:
    line._mark(Mark(kind="loop_break", at_ns=fact.at_ns))  # its length would spell a digit
    return line.state


def _number_over(line: Line, fact: NumberOver) -> State:
    line._number_is_over(fact.at_ns)
    return line.state


def _key_dials(line: Line, fact: KeyHeard) -> State:
    if not line._number_open:
        return _keyed(line, fact)
    if fact.key in "0123456789*#":
        line._digit(fact.key, fact.at_ns, fact.until_ns, "dtmf")
    line._used(fact.until_ns)
    return line.state


def _keyed(line: Line, fact: KeyHeard) -> State:
    line._call = replace(line._the_call(), keyed=line._the_call().keyed + 1)
    line._mark(Mark(kind="key", at_ns=fact.at_ns, until_ns=fact.until_ns))
    if line.config.mute_keys and fact.source == "line":  # the modem tells of a key, not when its tone was
        line._out.append(MuteKey(line=line.config.number, from_ns=fact.at_ns, until_ns=fact.until_ns))
    line._used(fact.until_ns)
    return line.state


def _voice_while_dialling(line: Line, fact: VoiceHeard) -> State:
    if (line._number_whole or len(line._digits) >= _WHOLE_NUMBER) and fact.at_ns > line._last_digit_ns:
        line._number_is_over(fact.at_ns)  # it may be the far end's menu: what is keyed now is not the number
    _voice(line, fact)
    return _answered_by_tones(line)


def _answered_by_tones(line: Line) -> State:
    """Ringback has ended, and then somebody spoke: the far end has answered."""
    sound = line._sound
    if sound.ringback_ns is None or not sound.ringback_over or sound.busy_ns is not None:
        return line.state
    spoke = [at for at in sound.voice_ns if at >= sound.ringback_ns]
    return _far_answered(line, spoke[0], "ringback_then_voice") if spoke else line.state


def _voice(line: Line, fact: VoiceHeard) -> State:
    sound = line._sound
    sound.voice, sound.voice_ns = True, (*sound.voice_ns, fact.at_ns)[-4:]
    if sound.busy_ns is not None and sound.busy_cycles < _BUSY_CYCLES:
        sound.busy_ns = None  # no exchange's busy tone: somebody speaks after it
    line._used(fact.at_ns)
    return line.state


def _tone_while_dialling(line: Line, fact: ToneHeard) -> State:
    sound = line._sound
    if fact.tone in ("ringback", "busy") and fact.at_ns >= line._last_digit_ns:
        line._number_is_over(fact.at_ns)
    _tone(line, fact)
    if fact.tone == "ringback":
        sound.ringback_ns, sound.ringback_over = fact.until_ns, fact.over
        return _answered_by_tones(line)
    return line.state


def _tone(line: Line, fact: ToneHeard) -> State:
    """A tone in a call: a mark from its beginning to its end, and what it tells."""
    sound, call = line._sound, line._the_call()
    mark = Mark(kind="tone", at_ns=fact.at_ns, until_ns=fact.until_ns, detail=fact.tone)
    known = [n for n, m in enumerate(call.marks) if (m.kind, m.at_ns, m.detail) == ("tone", mark.at_ns, mark.detail)]
    if known:
        marks = list(call.marks)
        marks[known[-1]] = mark
        line._call = replace(call, marks=tuple(marks))
    else:
        line._mark(mark)
    match fact.tone:
        case "dial" if line.state is State.IN_CALL and _rang_out(line, fact):
            return _lifted_too_late(line, fact)
        case "ringback" if line.state is State.IN_CALL and _rings_on(call, fact.until_ns):
            # It rings on: who spoke was at this end.
            line._call = replace(line._the_call(), answered_ns=None, answer_evidence=None)
            sound.ringback_ns, sound.ringback_over, sound.voice_ns = fact.until_ns, fact.over, ()
            return State.DIALLING
        case "busy" if line.state is not State.DIALLING or fact.at_ns >= line._last_digit_ns:
            if sound.busy_ns is None or fact.at_ns > sound.busy_ns:
                sound.busy_ns = fact.at_ns
            sound.busy_cycles = max(sound.busy_cycles, fact.cycles)
        case "cng":
            sound.cng_cycles = max(sound.cng_cycles, fact.cycles)
        case "ced":
            sound.ced = True
        case "call_waiting" if fact.cycles >= 2 and line.state is not State.DIALLING:
            _alerted(line, fact.at_ns)  # speech can hold one such tone by chance
        case _:
            pass
    return line.state


def _rings_on(call: Call, until_ns: int) -> bool:
    return call.answer_evidence == "ringback_then_voice" and until_ns > (call.answered_ns or 0)


def _rang_out(line: Line, fact: ToneHeard) -> bool:
    """Dial tone right behind the lift, and the last ring was over, or none had come: nobody was there any more."""
    call = line._the_call()
    rung_ns = [until for _, until in call.bursts] or [m.at_ns for m in call.marks if m.kind == "modem_ring"]
    return (
        call.direction == "incoming"
        and fact.at_ns - line._loop_closed_ns < _DIAL_TONE_NS
        and (
            not rung_ns
            or line._loop_closed_ns - max(rung_ns) > line._profile.ring_pause_ms * _MS
            or fact.until_ns - fact.at_ns >= _SURE_DIAL_TONE_NS
        )
    )


def _lifted_too_late(line: Line, fact: ToneHeard) -> State:
    """What was told as answered was missed, and the lift is that of an outgoing call."""
    call, lifted_ns = line._the_call(), line._loop_closed_ns
    known = call.keyed > 0  # digits that came before the tone was recognised are masked
    line._stop(fact.until_ns, keep=False)
    # A burst goes on for a moment behind the lift.
    line._quiet_ns = min(lifted_ns, max((until for _, until in call.bursts), default=call.opened_ns))
    line._call = replace(call, answered_ns=None, answer_evidence=None, marks=_without_tones(call), keyed=0)
    line._miss(line._quiet_ns, "caller_gave_up")
    # What told of the caller can have come in the 100 ms that a lift takes to be one.
    line._call = call = line._open(max(lifted_ns, line._ended_ns), "outgoing")
    line._number_open, line._sound.listening = not known, True
    line._record(lifted_ns, pre_roll=True)
    call = line._the_call()
    line._save(call, event("call.dialled", call, call.opened_ns, correction=False))
    line._mark(Mark(kind="tone", at_ns=fact.at_ns, until_ns=fact.until_ns, detail=fact.tone))
    line._used(fact.until_ns)
    return State.DIALLING


def _without_tones(call: Call) -> tuple[Mark, ...]:
    return tuple(mark for mark in call.marks if mark.kind not in ("tone", "key"))


def _alerted(line: Line, at_ns: int) -> None:
    """The call-waiting tone; a frame has told who waits, or has not."""
    if abs(at_ns - line._waiting_ns) < _ONE_WAITING_NS:
        return
    line._waiting, line._waiting_ns = (), at_ns
    _tell_waiting(line, at_ns, correction=False)


def _tell_waiting(line: Line, at_ns: int, *, correction: bool) -> None:
    caller = merge(line._waiting, line.config.country)
    detail = caller.raw or caller.presentation
    call = line._the_call()
    marks = list(call.marks)
    at = next((n for n, m in reversed(list(enumerate(marks))) if m.kind == "call_waiting"), None)
    if correction and at is not None:
        marks[at] = replace(marks[at], detail=detail)
        line._call = replace(call, marks=tuple(marks))
    else:
        line._mark(Mark(kind="call_waiting", at_ns=at_ns, detail=detail))
    call = line._the_call()
    line._save(call, event("call.waiting", call, at_ns, waiting=told(caller), correction=correction))


def _cas(line: Line, fact: CasHeard) -> State:
    line._mark(Mark(kind="cas", at_ns=fact.at_ns, until_ns=fact.until_ns))
    return line.state


def _hang_up(line: Line, fact: OnHook) -> State:
    line._end(fact.at_ns, fact.known_ns, "hung_up")
    return State.IDLE


def _unused(line: Line, fact: Unused) -> State:
    """Nobody has spoken or dialled for half an hour: the handset lies beside the phone. Only who listens can tell."""
    if not line._sound.listening:
        line._used(fact.at_ns)
        return line.state
    sound = line._sound
    line._parked, line._held = sound.busy_ns is not None or not sound.voice, line._the_call()
    last_ns = fact.at_ns - line.config.held_open_ms * _MS
    line._end(sound.busy_ns if sound.busy_ns is not None else last_ns, fact.at_ns, "held_open")
    return State.HELD_OPEN


def _later(line: Line, fact: Unused) -> State:
    line._used(fact.at_ns)
    return line.state


def _voice_held_open(line: Line, fact: VoiceHeard) -> State:
    """Somebody speaks again: a call that was on hold in silence. Not where the exchange has long let go."""
    if line._parked:
        return State.HELD_OPEN
    line._call = line._open(fact.at_ns, None)
    if held := line._held:  # the same people, as far as anybody knows
        line._call = replace(line._call, caller=held.caller, dialled=held.dialled, dialled_by=held.dialled_by)
    line._loop_closed_ns = fact.at_ns
    line._sound.listening = True
    line._record(fact.at_ns, pre_roll=True)
    line._save(line._call)
    _voice(line, fact)
    return State.IN_CALL


def _put_down(line: Line, fact: OnHook | LineBack) -> State:
    return State.IDLE


def _cut_idle(line: Line, fact: LineCut) -> State:
    return State.LINE_CUT


def _cut_ringing(line: Line, fact: LineCut) -> State:
    if line._the_call().direction is None:
        _ringing_over(line, RingingOver(fact.at_ns))
    else:
        line._miss(fact.at_ns, "line_cut")
    return State.LINE_CUT


def _cut_in_call(line: Line, fact: LineCut) -> State:
    line._end(fact.at_ns, fact.known_ns, "line_cut")
    return State.LINE_CUT


def _cut_in_handshake(line: Line, fact: LineCut) -> State:
    if line._the_call().direction is None:
        return _cut_in_call(line, fact)
    line._stop(fact.known_ns, keep=False)
    line._miss(fact.at_ns, "line_cut")
    return State.LINE_CUT


def _caller(line: Line, fact: CallerIdReceived) -> State:
    """Who calls, told before, between or after the rings, by the modem or by what is heard on the line."""
    if line._the_call().direction is None:  # nobody calls a closed loop: it is a primary answer's
        if fact.presentation == "corrupt" or fact.call_waiting:
            return line.state  # or of a talk that was joined late
        _was_a_handshake(line, fact.at_ns)
        if line.state is State.CID_HANDSHAKE:
            line._record(fact.at_ns)
    line._learn(fact)
    return line.state


def _caller_while_ringing(line: Line, fact: CallerIdReceived) -> State:
    if _is_another_frame(line, fact):
        call = line._the_call()
        announced = [m.at_ns for m in call.marks if m.kind in ("polarity", "cas") and _may_announce(call, m, fact)]
        _next_caller(line, min(announced) if announced else _ring_before(line, fact.at_ns))
        until_ns = max(fact.at_ns, fact.until_ns or 0)
        line._timers["ringing_over"] = until_ns + line.config.ring_over_ms * _MS
    return _caller(line, fact)


def _is_another_frame(line: Line, fact: CallerIdReceived) -> bool:
    """One more whole frame on the line, or from the modem another one than before."""
    if fact.presentation == "corrupt" or line._the_call().direction is None:
        return False
    known = [one for one in line._evidence if one.source == fact.source and one.presentation != "corrupt"]
    if fact.source == "modem":
        known = [one for one in known if (one.presentation, one.number) != (fact.presentation, fact.number)]
    return bool(known) and all(fact.at_ns - one.at_ns > _ONE_FRAME_NS for one in known)


def _ring_before(line: Line, frame_ns: int) -> int:
    """Where the ring that a frame follows has begun, all its bursts; the frame's own time where it follows none."""
    ring_ns, gap_ns = frame_ns, _RING_TO_FRAME_NS
    for began_ns, until_ns in reversed(line._the_call().bursts):
        if not 0 < ring_ns - until_ns < gap_ns:
            break
        ring_ns, gap_ns = began_ns, line._profile.ring_gap_ms * _MS
    return ring_ns


def _may_announce(call: Call, mark: Mark, fact: CallerIdReceived) -> bool:
    """A reversal or an alert right before a frame, and behind the last burst and handshake."""
    last_ns = max([_handshake_ns(call), *(until for _, until in call.bursts)])
    return last_ns < mark.at_ns < fact.at_ns < mark.at_ns + _ANNOUNCED_NS


def _caller_before_ring(line: Line, fact: CallerIdReceived) -> State:
    """No ring yet: the block of a call that is about to ring. A frame is sent to an idle line only, so it cannot be
    the late report of a call that was up.
    """
    until_ns = max(fact.at_ns, fact.until_ns or 0)
    if fact.presentation == "corrupt" or fact.call_waiting or until_ns <= line._ended_ns:
        return State.IDLE  # noise can look like the beginning of a frame; a call of it rings
    line._call = call = line._open(max(fact.at_ns, line._ended_ns), "incoming")
    line._save(call, event("call.ringing", call, call.opened_ns))
    line._timers["ringing_over"] = until_ns + line.config.ring_over_ms * _MS
    line.state = State.RINGING
    return _caller(line, fact)


def _caller_in_call(line: Line, fact: CallerIdReceived) -> State:
    """Late for this call, or call waiting."""
    call = line._the_call()
    # Number Display says itself whether it is of a waiting call; of others only the time tells.
    late = (fact.standard == "jp" and fact.source == "line_fsk") or _sent_before_lift(line, fact)
    if call.direction == "incoming" and late and not fact.call_waiting:
        return _caller(line, fact)
    if fact.presentation == "corrupt":
        return line.state  # speech can look like the beginning of a frame; the alert tone tells of a waiting call
    same = abs(fact.at_ns - line._waiting_ns) < _ONE_WAITING_NS
    known = merge(line._waiting, line.config.country)
    line._waiting = _few((*(line._waiting if same else ()), fact))
    line._call = replace(call, heard=_few((*call.heard, heard(fact))))
    if not same or _who(merge(line._waiting, line.config.country)) != _who(known):
        line._waiting_ns = line._waiting_ns if same else fact.at_ns
        _tell_waiting(line, fact.at_ns, correction=same)
    return line.state


def _sent_before_lift(line: Line, fact: CallerIdReceived) -> bool:
    return fact.at_ns - line._loop_closed_ns < (_LATE_ID_NS if fact.source == "modem" else 0)


def _caller_while_dialling(line: Line, fact: CallerIdReceived) -> State:
    """A frame that was sent before the lift, and is told behind it: the lift has met its caller."""
    call = line._the_call()
    untouched = not line._digits and not call.keyed and not any(mark.kind == "tone" for mark in call.marks)
    if not (untouched and _sent_before_lift(line, fact)) or fact.presentation == "corrupt" or fact.call_waiting:
        return _caller_in_call(line, fact)
    line._number_open, line._call = False, replace(call, direction="incoming")
    after = _answered(line, line._loop_closed_ns)
    line._stop(fact.at_ns, keep=False)  # no frame in a recording
    line._quiet_ns = line._loop_closed_ns
    line._learn(fact)
    line._record(line._loop_closed_ns)
    return after


def _modem_ring_opens_call(line: Line, fact: ModemRing) -> State:
    """A ring that only the modem heard, unless it is the late report of the call that just ended."""
    if fact.at_ns - line._ended_ns < _LATE_RING_NS:
        return State.IDLE
    line._call = line._open(fact.at_ns, "incoming")
    line._save(line._call, event("call.ringing", line._call, fact.at_ns))
    return _modem_ring(line, fact)


def _modem_ring(line: Line, fact: ModemRing) -> State:
    line._mark(Mark(kind="modem_ring", at_ns=fact.at_ns, detail=fact.pattern))
    call = line._the_call()
    if not call.bursts and line._burst_ns is None and call.direction is not None:
        # The comparator hears nothing: count the modem's rings.
        line._call = replace(call, rings=sum(m.kind == "modem_ring" for m in call.marks))
        line._timers["ringing_over"] = fact.at_ns + line.config.ring_over_ms * _MS
    return State.RINGING


def _modem_loop(line: Line, fact: LoopReport) -> State:
    line._mark(Mark(kind="modem_loop", at_ns=fact.at_ns, detail=fact.what))
    return line.state


def _button(line: Line, fact: ButtonPressed) -> State:
    line._mark(Mark(kind="button", at_ns=fact.at_ns))
    line._save(line._the_call())
    return line.state


def _polarity(line: Line, fact: PolarityEdge) -> State:
    line._mark(Mark(kind="polarity", at_ns=fact.at_ns))
    return line.state


def _polarity_idle(line: Line, fact: PolarityEdge) -> State:
    line._reversal_ns = fact.at_ns
    if fact.at_ns - line._idle_ns > _RELEASED_NS:
        line._announced = (*line._announced, Mark(kind="polarity", at_ns=fact.at_ns))[-_MOST_ANNOUNCED:]
    return line.state


def _cas_idle(line: Line, fact: CasHeard) -> State:
    if line._profile.alerts and fact.at_ns > line._idle_ns:
        alert = Mark(kind="cas", at_ns=fact.at_ns, until_ns=fact.until_ns)
        line._announced = (*line._announced, alert)[-_MOST_ANNOUNCED:]
    return line.state


def _ignore(line: Line, fact: Fact) -> State:
    return line.state


class Rule(NamedTuple):
    do: Callable[[Line, Any], State]
    to: tuple[State, ...]
    label: str  # for people; empty: the fact changes no state. With " / " a part for each of `to`, else one for all

    def label_to(self, state: State) -> str:
        """What the way to this state is called."""
        parts = self.label.split(" / ")
        return parts[self.to.index(state)] if len(parts) > 1 else self.label


def _stay(state: State, do: Callable[[Line, Any], State]) -> Rule:
    return Rule(do, (state,), "")


_BEFORE_ANSWER = (State.IDLE, State.RINGING, State.CID_HANDSHAKE)


def _table() -> Mapping[tuple[State, type], Rule]:
    s = State
    up = (s.IN_CALL, s.DIALLING)
    rules: dict[tuple[State, type], Rule] = {
        (s.IDLE, RingBurst): Rule(_ring_opens_call, (s.RINGING,), "ring burst"),
        (s.IDLE, ModemRing): Rule(_modem_ring_opens_call, (s.RINGING, s.IDLE), "modem says RING / late report"),
        (s.IDLE, CallerIdReceived): Rule(
            _caller_before_ring, (s.RINGING, s.IDLE), "caller ID before ring / a frame of no call"
        ),
        (s.IDLE, OffHook): Rule(
            _lift_to_dial,
            (s.DIALLING, s.IN_CALL, s.CID_HANDSHAKE),
            "off-hook / off-hook, joined or announced / off-hook, joined or announced: call or primary answer",
        ),
        (s.IDLE, LineCut): Rule(_cut_idle, (s.LINE_CUT,), "line cut"),
        (s.IDLE, PolarityEdge): _stay(s.IDLE, _polarity_idle),
        (s.IDLE, CasHeard): _stay(s.IDLE, _cas_idle),
        (s.RINGING, RingBurst): _stay(s.RINGING, _ring_goes_on),
        (s.RINGING, RingBurstOver): _stay(s.RINGING, _burst_over),
        (s.RINGING, RingingOver): Rule(_ringing_over, (s.IDLE,), "no burst for 6 s: missed"),
        (s.RINGING, OffHook): Rule(
            _lift,
            (s.IN_CALL, s.CID_HANDSHAKE, s.DIALLING),
            "off-hook: answered / off-hook in the start signal / off-hook, and no ring had come",
        ),
        (s.RINGING, LineCut): Rule(_cut_ringing, (s.LINE_CUT,), "line cut: missed"),
        (s.RINGING, CallerIdReceived): _stay(s.RINGING, _caller_while_ringing),
        (s.RINGING, CasHeard): _stay(s.RINGING, _cas),
        (s.RINGING, ModemRing): _stay(s.RINGING, _modem_ring),
        (s.CID_HANDSHAKE, RingBurstOver): _stay(s.CID_HANDSHAKE, _burst_over),
        (s.CID_HANDSHAKE, LoopBroken): _stay(s.CID_HANDSHAKE, _handshake_breaks),
        (s.CID_HANDSHAKE, LoopMended): _stay(s.CID_HANDSHAKE, _handshake_mended),
        (s.CID_HANDSHAKE, DialPulses): _stay(s.CID_HANDSHAKE, _pulses_disturb),
        (s.CID_HANDSHAKE, OnHook): Rule(_handshake_done, (s.RINGING,), "receive complete"),
        (s.CID_HANDSHAKE, HandshakeOver): Rule(_handshake_was_answer, (s.IN_CALL,), "still closed: answered"),
        (s.CID_HANDSHAKE, LineCut): Rule(_cut_in_handshake, (s.LINE_CUT,), "line cut: missed"),
        (s.CID_HANDSHAKE, CallerIdReceived): _stay(s.CID_HANDSHAKE, _caller),
        (s.CID_HANDSHAKE, KeyHeard): _stay(s.CID_HANDSHAKE, _key_in_handshake),
        (s.CID_HANDSHAKE, ToneHeard): Rule(
            _tone_in_handshake, (s.DIALLING, s.CID_HANDSHAKE), "dial tone: caller had given up / tone"
        ),
        (s.DIALLING, PolarityEdge): Rule(
            _far_end_answers, (s.IN_CALL, s.DIALLING), "polarity reversal: answered / reversal of seizure or release"
        ),
        (s.DIALLING, VoiceHeard): Rule(
            _voice_while_dialling, (s.IN_CALL, s.DIALLING), "voice after ringback: answered / voice"
        ),
        (s.DIALLING, ToneHeard): Rule(
            _tone_while_dialling, (s.IN_CALL, s.DIALLING), "ringback over, voice heard: answered / tone"
        ),
        (s.DIALLING, CallerIdReceived): Rule(
            _caller_while_dialling, (s.IN_CALL, s.DIALLING), "caller ID of before the lift: answered / caller who waits"
        ),
        (s.DIALLING, DialPulses): _stay(s.DIALLING, _pulses_dial),
        (s.DIALLING, KeyHeard): _stay(s.DIALLING, _key_dials),
        (s.DIALLING, NumberOver): _stay(s.DIALLING, _number_over),
        (s.IN_CALL, DialPulses): _stay(s.IN_CALL, _pulses_disturb),
        (s.FLASH, LoopMended): Rule(_mended, up, "closed again: flash"),
        (s.FLASH, NumberOver): _stay(s.FLASH, _number_over),
        (s.FLASH, Unused): _stay(s.FLASH, _later),
        (s.HELD_OPEN, OnHook): Rule(_put_down, (s.IDLE,), "put down at last"),
        (s.HELD_OPEN, LineCut): Rule(_cut_idle, (s.LINE_CUT,), "line cut"),
        (s.HELD_OPEN, VoiceHeard): Rule(_voice_held_open, (s.IN_CALL, s.HELD_OPEN), "voice again / voice in the room"),
        (s.LINE_CUT, LineBack): Rule(_put_down, (s.IDLE,), "line back"),
    }
    for state in up:
        rules[state, LoopBroken] = Rule(_may_be_flash, (s.FLASH,), "loop open 300 ms")
        rules[state, LoopMended] = _stay(state, _mended)
        rules[state, Unused] = Rule(_unused, (s.HELD_OPEN, state), "30 min without voice / nobody listens")
    for state in (*up, s.FLASH):
        rules[state, OnHook] = Rule(_hang_up, (s.IDLE,), "loop open 1.25 s: hang-up")
        rules[state, LineCut] = Rule(_cut_in_call, (s.LINE_CUT,), "line cut")
        rules.setdefault((state, CallerIdReceived), _stay(state, _caller_in_call))
        rules[state, CasHeard] = _stay(state, _cas)
    for state in (s.IN_CALL, s.FLASH):
        rules[state, KeyHeard] = _stay(state, _keyed)
        rules[state, ToneHeard] = _stay(state, _tone)
        rules[state, VoiceHeard] = _stay(state, _voice)
    rules[s.IN_CALL, ToneHeard] = Rule(_tone, (s.IN_CALL, s.DIALLING), "tone / dial tone or ringback: no answer")
    for state in (s.RINGING, s.CID_HANDSHAKE, s.IN_CALL, s.FLASH):
        rules[state, PolarityEdge] = _stay(state, _polarity)
    for state in (s.RINGING, s.CID_HANDSHAKE, *up, s.FLASH):
        rules[state, ButtonPressed] = _stay(state, _button)
        rules[state, LoopReport] = _stay(state, _modem_loop)
    # What cannot follow from the hook's own rules in a state, or says nothing new there, is taken note of nowhere:
    for state, facts in {
        s.IDLE: (
            RingBurstOver, RingingOver, HandshakeOver, NumberOver, Unused, LoopBroken, LoopMended, DialPulses, OnHook,
            LineBack, LoopReport, KeyHeard, ToneHeard, VoiceHeard, ButtonPressed,
        ),
        s.RINGING: (
            HandshakeOver, NumberOver, Unused, LoopBroken, LoopMended, DialPulses, OnHook, LineBack, KeyHeard,
            ToneHeard, VoiceHeard,
        ),
        s.CID_HANDSHAKE: (
            RingBurst, RingingOver, NumberOver, Unused, OffHook, LineBack, ModemRing, CasHeard, VoiceHeard,
        ),
        s.DIALLING: (RingBurst, RingBurstOver, RingingOver, HandshakeOver, OffHook, LineBack, ModemRing),
        s.IN_CALL: (RingBurst, RingBurstOver, RingingOver, HandshakeOver, NumberOver, OffHook, LineBack, ModemRing),
        s.FLASH: (
            RingBurst, RingBurstOver, RingingOver, HandshakeOver, LoopBroken, DialPulses, OffHook, LineBack,
            ModemRing,
        ),
        s.HELD_OPEN: (
            RingBurst, RingBurstOver, RingingOver, HandshakeOver, NumberOver, Unused, LoopBroken, LoopMended,
            DialPulses, OffHook, LineBack, PolarityEdge, CallerIdReceived, ModemRing, LoopReport, KeyHeard, ToneHeard,
            CasHeard, ButtonPressed,
        ),
        s.LINE_CUT: (
            RingBurst, RingBurstOver, RingingOver, HandshakeOver, NumberOver, Unused, OffHook, OnHook, LoopBroken,
            LoopMended, DialPulses, LineCut, PolarityEdge, CallerIdReceived, ModemRing, LoopReport, KeyHeard, ToneHeard,
            CasHeard, VoiceHeard, ButtonPressed,
        ),
    }.items():  # fmt: skip
        for fact in facts:
            if (state, fact) in rules:
                raise RuntimeError(f"{state.value} x {fact.__name__} stands twice")
            rules[state, fact] = _stay(state, _ignore)
    return rules


TABLE = _table()
