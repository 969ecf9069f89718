"""One line's call state machine: facts in, commands out, one literal transition table. Pure.

The table holds every (state, fact) pair; ARCHITECTURE.md's diagram is generated from it. `Line` ties it to hook and
ring timing and is all that the engine and `tsuroku replay` know.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

from drivers.signals import (
    ButtonPressed,
    CallerIdReceived,
    DeviceLost,
    DeviceReady,
    LinePresentEdge,
    LoopEdge,
    ModemRing,
    PolarityEdge,
    RingEdge,
)
from firmware.core.call import Call, CallEvent, ClockRead, Country, Mark, Outcome, Recording, caller_of, event
from firmware.core.facts import CallLeftOpen, Input, RecordingFailed, RecordingReady
from firmware.core.hook import (
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

_MS = 1_000_000
# NTT's start signal rings 0.5 s on, 0.5 s off; an ordinary burst lasts 1 s (+-20 %).
_START_SIGNAL_NS = 750 * _MS
# A modem says RING when the burst is over, and some take their time.
_LATE_RING_NS = 3000 * _MS
# A block that a modem reports this soon after the lift was sent before it.
_LATE_ID_NS = 3000 * _MS
# Polarity turns at the seizure too; an answer cannot come this soon after the lift.
_SOONEST_ANSWER_NS = 1000 * _MS
_MOST_MARKS = 200  # evidence is bounded: a chattering contact must not grow a record without end


class State(enum.Enum):
    IDLE = "idle"
    RINGING = "ringing"
    CID_HANDSHAKE = "cid_handshake"
    DIALLING = "dialling"
    IN_CALL = "in_call"
    FLASH = "flash"
    LINE_CUT = "line_cut"


@dataclass(frozen=True, slots=True)
class RingingOver:
    """No ring burst for the set time; at_ns is when that became known."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class HandshakeOver:
    """The loop is still closed when the longest primary answer is over; at_ns is when that became known."""

    at_ns: int


Fact = HookFact | RingingOver | HandshakeOver | PolarityEdge | CallerIdReceived | ModemRing | ButtonPressed


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveCall:
    """Write the call and its events in one transaction."""

    call: Call
    events: tuple[CallEvent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRecording:
    """Record the line's sound from a time in the past on."""

    line: int
    call_id: str
    from_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRecording:
    """End the recording with the frame before until_ns. keep False: it was no call's, or too short; remove it."""

    line: int
    call_id: str
    until_ns: int
    keep: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowLine:
    """The line's state changed."""

    line: int
    state: State
    since_ns: int
    call_id: str | None


Command = SaveCall | StartRecording | StopRecording | ShowLine


class Reads(Protocol):
    """What the machine cannot know by itself. The engine journals every answer, so that a replay gets the same."""

    def call_id(self) -> str: ...
    def clock(self) -> ClockRead: ...


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
    pre_roll_ms: int
    hook: HookTiming


Timer = HookTimer | Literal["ringing_over", "handshake_over"]


class Line:
    """One line. handle() takes inputs in order; due() and fire() are the timers. Both return commands."""

    def __init__(self, config: LineConfig, reads: Reads) -> None:
        self.config = config
        self.state = State.IDLE
        self._reads = reads
        self._hook = Hook(config.hook)
        self._timers: dict[Literal["ringing_over", "handshake_over"], int] = {}
        self._out: list[Command] = []
        self._call: Call | None = None
        self._ended_ns = -_LATE_RING_NS  # when the last call ended
        self._unfiled: dict[str, Call] = {}  # ended, their recordings not yet reported
        self._burst_ns: int | None = None
        self._handshaken = False
        self._loop_closed_ns = 0
        self._quiet_ns = 0  # no recording begins before this: the end of the last one or of a handshake
        self._before_flash = State.IN_CALL

    # -- what the engine calls

    def due(self) -> tuple[int, Timer] | None:
        """The next timer as (time, name)."""
        pending: dict[Any, int] = {**self._hook.timers, **self._timers}
        return min(((at, name) for name, at in pending.items()), default=None)

    def fire(self, timer: Timer) -> list[Command]:
        """The timer is due: facts follow as of its own time."""
        if timer == "ringing_over":
            self._step(RingingOver(self._timers.pop(timer)))
        elif timer == "handshake_over":
            self._step(HandshakeOver(self._timers.pop(timer)))
        else:
            for fact in self._hook.fire(timer):
                self._step(fact)
        return self._take()

    def handle(self, given: Input) -> list[Command]:
        match given:
            case LoopEdge() | RingEdge() | LinePresentEdge():
                for fact in self._hook.edge(given):
                    self._step(fact)
            case PolarityEdge() if not given.initial:
                self._step(given)
            case CallerIdReceived() | ModemRing() | ButtonPressed():
                self._step(given)
            case RecordingReady() | RecordingFailed():
                self._recorded(given)
            case CallLeftOpen():
                self._left_open(given)
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
            call_id = self._call.call_id if self._call else None
            self._out.append(ShowLine(line=self.config.number, state=after, since_ns=_at(fact), call_id=call_id))

    def _take(self) -> list[Command]:
        out, self._out = self._out, []
        return out

    def _save(self, call: Call, *events: CallEvent) -> None:
        self._out.append(SaveCall(call=call, events=events))

    def _open(self, at_ns: int, direction: Literal["incoming", "outgoing"] | None) -> Call:
        self._burst_ns, self._handshaken = None, False
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

    def _record(self, from_ns: int) -> None:
        from_ns = max(from_ns, self._quiet_ns)
        call_id = self._the_call().call_id
        self._out.append(StartRecording(line=self.config.number, call_id=call_id, from_ns=from_ns))

    def _stop(self, until_ns: int, *, keep: bool) -> None:
        call_id, self._quiet_ns = self._the_call().call_id, until_ns
        stop = StopRecording(line=self.config.number, call_id=call_id, until_ns=until_ns, keep=keep)
        self._out.append(stop)

    def _end(self, ended_ns: int, known_ns: int, reason: Literal["hung_up", "line_cut"]) -> None:
        """End a call that was up. ended_ns: where the loop broke; known_ns: now, the end of the recording."""
        call = self._the_call()
        lifted_ns = self._loop_closed_ns
        ended_ns = max(ended_ns, lifted_ns, call.opened_ns)
        if call.answered_ns and call.answered_ns > ended_ns and call.direction == "outgoing":
            call = replace(call, answered_ns=None, answer_evidence=None)  # the reversal was the release's
        outcome: Outcome
        if ended_ns - lifted_ns < self.config.shortest_call_ms * _MS and call.direction is not None:
            outcome = "too_short"
        elif call.direction == "incoming":
            outcome = "answered"
        elif call.direction == "outgoing":
            outcome = "outgoing_answered" if call.answered_ns else "outgoing_unknown"
        else:
            outcome = "joined_late"
        keep = outcome != "too_short"
        failed = call.no_recording != "not_ended"
        call = replace(call, ended_ns=ended_ns, outcome=outcome, end_reason=reason)
        if not failed:
            call = replace(call, no_recording="not_closed_yet" if keep else "too_short")
        self._stop(known_ns, keep=keep)
        if keep and not failed:
            self._unfiled[call.call_id] = call
        self._save(call, event("call.ended", call, ended_ns))
        self._call, self._ended_ns = None, ended_ns

    def _miss(self, ended_ns: int, reason: Literal["caller_gave_up", "line_cut"]) -> None:
        call = replace(
            self._the_call(),
            ended_ns=max(ended_ns, self._the_call().opened_ns),
            outcome="missed",
            end_reason=reason,
            no_recording="not_answered",
        )
        self._timers.pop("ringing_over", None)
        self._save(call, event("call.missed", call, ended_ns))
        self._call, self._ended_ns = None, call.ended_ns or ended_ns

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
        events: tuple[CallEvent, ...] = ()
        if call.outcome is None:
            ended_ns = None if recording is None else recording.from_ns + round(recording.duration_s * 1e9)
            call = replace(call, outcome="interrupted", end_reason="unit_stopped", ended_ns=ended_ns)
            last_ns = ended_ns or call.answered_ns or call.opened_ns
            events = (event("call.ended", call, last_ns),)
        call = replace(call, recording=recording, no_recording=None if recording else fact.no_recording)
        end_ns = call.ended_ns or call.opened_ns
        if recording and not told:
            events = (*events, event("recording.ready", call, end_ns, repaired=fact.repaired))
        elif not recording and fact.no_recording != "not_answered":
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
        gaps=fact.gaps,
        cut_short=fact.cut_short,
    )


def _at(fact: Fact) -> int:
    return fact.at_ns


# -- transitions: each does its work on the line and says where it goes


def _ring_opens_call(line: Line, fact: RingBurst) -> State:
    call = line._open(fact.at_ns, "incoming")
    line._call = call
    line._burst_ns = fact.at_ns
    line._save(call, event("call.ringing", call, fact.at_ns))
    return State.RINGING


def _ring_goes_on(line: Line, fact: RingBurst) -> State:
    line._burst_ns = fact.at_ns
    line._timers.pop("ringing_over", None)
    return State.RINGING


def _burst_over(line: Line, fact: RingBurstOver) -> State:
    call = line._the_call()
    line._burst_ns = None
    bursts = (*call.bursts, (fact.at_ns, fact.until_ns))
    ordinary = line._handshaken or not _is_start_signal(line, fact.until_ns - fact.at_ns)
    line._call = replace(call, bursts=bursts[:_MOST_MARKS], rings=call.rings + ordinary)
    if line.state is State.RINGING:
        line._timers["ringing_over"] = fact.until_ns + line.config.ring_over_ms * _MS
    return line.state


def _is_start_signal(line: Line, length_ns: int) -> bool:
    return line.config.number_display and length_ns < _START_SIGNAL_NS


def _lift(line: Line, fact: OffHook) -> State:
    """The loop closes while it rings: the answer, or the primary answer to Number Display's start signal."""
    call = line._the_call()
    line._timers.pop("ringing_over", None)
    line._loop_closed_ns = fact.at_ns
    short = all(_is_start_signal(line, until - began) for began, until in call.bursts)
    if line._burst_ns is not None:
        short = short and _is_start_signal(line, fact.at_ns - line._burst_ns)
    if line.config.number_display and short and not line._handshaken and (call.bursts or line._burst_ns is not None):
        line._timers["handshake_over"] = fact.at_ns + (line.config.handshake_ms + line.config.hook.flash_min_ms) * _MS
        line._record(fact.at_ns)  # kept from the closing on, should it prove to be an answer
        return State.CID_HANDSHAKE
    line._record(fact.at_ns - line.config.pre_roll_ms * _MS)
    return _answered(line, fact.at_ns)


def _answered(line: Line, at_ns: int) -> State:
    if line._burst_ns is not None:  # the burst that the lift cut off was a ring as well
        call = line._the_call()
        line._call = replace(call, rings=call.rings + 1, bursts=(*call.bursts, (line._burst_ns, at_ns)))
        line._burst_ns = None
    call = line._the_call()
    # A modem can tell of the ring within the 100 ms that a lift takes to be one.
    line._call = call = replace(call, answered_ns=max(at_ns, call.opened_ns), answer_evidence="loop")
    line._save(call, event("call.answered", call, at_ns))
    return State.IN_CALL


def _handshake_was_answer(line: Line, fact: HandshakeOver) -> State:
    line._burst_ns = None
    return _answered(line, line._loop_closed_ns)


def _handshake_breaks(line: Line, fact: LoopBroken) -> State:
    line._timers.pop("handshake_over", None)
    return State.CID_HANDSHAKE


def _handshake_mended(line: Line, fact: LoopMended) -> State:
    line._mark(Mark(kind="flash" if fact.flash else "loop_break", at_ns=fact.at_ns, until_ns=fact.until_ns))
    limit = line._loop_closed_ns + (line.config.handshake_ms + line.config.hook.flash_min_ms) * _MS
    line._timers["handshake_over"] = max(limit, fact.until_ns + line.config.hook.off_hook_ms * _MS)
    return State.CID_HANDSHAKE


def _handshake_done(line: Line, fact: OnHook) -> State:
    """Receive complete: the terminal opens the loop, ordinary ringing follows."""
    line._timers.pop("handshake_over", None)
    line._mark(Mark(kind="handshake", at_ns=line._loop_closed_ns, until_ns=fact.at_ns))
    line._stop(fact.known_ns, keep=False)
    line._quiet_ns, line._handshaken, line._burst_ns = fact.at_ns, True, None
    line._call = replace(line._the_call(), no_recording="not_ended")  # whatever became of the handshake's
    line._timers["ringing_over"] = fact.at_ns + line.config.ring_over_ms * _MS
    return State.RINGING


def _ringing_over(line: Line, fact: RingingOver) -> State:
    ended = fact.at_ns - line.config.ring_over_ms * _MS
    line._miss(ended, "caller_gave_up")
    return State.IDLE


def _lift_to_dial(line: Line, fact: OffHook) -> State:
    line._loop_closed_ns = fact.at_ns
    if fact.joined:
        line._call = line._open(fact.at_ns, None)
        line._record(fact.at_ns)
        line._save(line._call)
        return State.IN_CALL
    line._call = line._open(fact.at_ns, "outgoing")
    line._record(fact.at_ns - line.config.pre_roll_ms * _MS)
    line._save(line._call, event("call.dialled", line._call, fact.at_ns))
    return State.DIALLING


def _far_end_answers(line: Line, fact: PolarityEdge) -> State:
    line._mark(Mark(kind="polarity", at_ns=fact.at_ns))
    if fact.at_ns - line._loop_closed_ns < _SOONEST_ANSWER_NS or line._hook.broken:
        return State.DIALLING  # of the seizure, or of a release that is under way
    line._call = replace(line._the_call(), answered_ns=fact.at_ns, answer_evidence="polarity")
    line._save(line._call, event("call.answered", line._call, fact.at_ns))
    return State.IN_CALL


def _may_be_flash(line: Line, fact: LoopBroken) -> State:
    line._before_flash = line.state
    return State.FLASH


def _mended(line: Line, fact: LoopMended) -> State:
    line._mark(Mark(kind="flash" if fact.flash else "loop_break", at_ns=fact.at_ns, until_ns=fact.until_ns))
    return line._before_flash if line.state is State.FLASH else line.state


def _hang_up(line: Line, fact: OnHook) -> State:
    line._end(fact.at_ns, fact.known_ns, "hung_up")
    return State.IDLE


def _cut_idle(line: Line, fact: LineCut) -> State:
    return State.LINE_CUT


def _cut_ringing(line: Line, fact: LineCut) -> State:
    line._miss(fact.at_ns, "line_cut")
    return State.LINE_CUT


def _cut_in_call(line: Line, fact: LineCut) -> State:
    line._timers.pop("handshake_over", None)
    line._end(fact.at_ns, fact.known_ns, "line_cut")
    return State.LINE_CUT


def _cut_in_handshake(line: Line, fact: LineCut) -> State:
    line._timers.pop("handshake_over", None)
    line._stop(fact.known_ns, keep=False)
    line._miss(fact.at_ns, "line_cut")
    return State.LINE_CUT


def _line_back(line: Line, fact: LineBack) -> State:
    return State.IDLE


def _caller(line: Line, fact: CallerIdReceived) -> State:
    """The modem tells who calls, before, between or after the rings."""
    call = line._the_call()
    raw = (*call.modem_raw, fact.raw)[:8]
    known = call.caller.presentation != "not_received"
    caller = caller_of(fact, line.config.country)
    if known and caller == call.caller:
        line._call = replace(call, modem_raw=raw)
        return line.state
    line._call = call = replace(call, caller=caller, modem_raw=raw)
    line._save(call, event("call.caller_id", call, fact.at_ns, correction=known))
    return line.state


def _caller_before_ring(line: Line, fact: CallerIdReceived) -> State:
    """No ring yet: the block of a call that is about to ring. A frame is sent to an idle line only, so it cannot be
    the late report of a call that was up.
    """
    line._call = call = line._open(fact.at_ns, "incoming")
    line._save(call, event("call.ringing", call, fact.at_ns))
    line._timers["ringing_over"] = fact.at_ns + line.config.ring_over_ms * _MS
    line.state = State.RINGING
    return _caller(line, fact)


def _caller_in_call(line: Line, fact: CallerIdReceived) -> State:
    """Late for this call, or call waiting."""
    call = line._the_call()
    late = fact.at_ns - line._loop_closed_ns < _LATE_ID_NS
    if call.direction == "incoming" and late and call.caller.presentation == "not_received":
        return _caller(line, fact)
    caller = caller_of(fact, line.config.country)
    line._mark(Mark(kind="call_waiting", at_ns=fact.at_ns, detail=caller.raw or caller.presentation))
    line._call = call = replace(line._the_call(), modem_raw=(*call.modem_raw, fact.raw)[:8])
    waiting = {"presentation": caller.presentation, "number": caller.number, "raw": caller.raw, "name": caller.name}
    line._save(call, event("call.waiting", call, fact.at_ns, waiting=waiting))
    return line.state


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
    if not call.bursts and line._burst_ns is None:  # the comparator hears nothing: count the modem's rings
        line._call = replace(call, rings=sum(m.kind == "modem_ring" for m in call.marks))
        line._timers["ringing_over"] = fact.at_ns + line.config.ring_over_ms * _MS
    return State.RINGING


def _button(line: Line, fact: ButtonPressed) -> State:
    line._mark(Mark(kind="button", at_ns=fact.at_ns))
    line._save(line._the_call())
    return line.state


def _polarity(line: Line, fact: PolarityEdge) -> State:
    line._mark(Mark(kind="polarity", at_ns=fact.at_ns))
    return line.state


def _ignore(line: Line, fact: Fact) -> State:
    return line.state


class Rule(NamedTuple):
    do: Callable[[Line, Any], State]
    to: tuple[State, ...]
    label: str  # for the diagram; empty: the fact changes no state and is not drawn


def _stay(state: State, do: Callable[[Line, Any], State]) -> Rule:
    return Rule(do, (state,), "")


def _table() -> Mapping[tuple[State, type], Rule]:
    s = State
    up = (s.IN_CALL, s.DIALLING)
    rules: dict[tuple[State, type], Rule] = {
        (s.IDLE, RingBurst): Rule(_ring_opens_call, (s.RINGING,), "ring burst"),
        (s.IDLE, ModemRing): Rule(_modem_ring_opens_call, (s.RINGING, s.IDLE), "modem says RING"),
        (s.IDLE, CallerIdReceived): Rule(_caller_before_ring, (s.RINGING,), "caller ID before ring"),
        (s.IDLE, OffHook): Rule(_lift_to_dial, (s.DIALLING, s.IN_CALL), "off-hook / joined late"),
        (s.IDLE, LineCut): Rule(_cut_idle, (s.LINE_CUT,), "line cut"),
        (s.RINGING, RingBurst): _stay(s.RINGING, _ring_goes_on),
        (s.RINGING, RingBurstOver): _stay(s.RINGING, _burst_over),
        (s.RINGING, RingingOver): Rule(_ringing_over, (s.IDLE,), "no burst for 6 s: missed"),
        (s.RINGING, OffHook): Rule(_lift, (s.IN_CALL, s.CID_HANDSHAKE), "off-hook / in the start signal"),
        (s.RINGING, LineCut): Rule(_cut_ringing, (s.LINE_CUT,), "line cut: missed"),
        (s.RINGING, CallerIdReceived): _stay(s.RINGING, _caller),
        (s.RINGING, ModemRing): _stay(s.RINGING, _modem_ring),
        (s.CID_HANDSHAKE, RingBurstOver): _stay(s.CID_HANDSHAKE, _burst_over),
        (s.CID_HANDSHAKE, LoopBroken): _stay(s.CID_HANDSHAKE, _handshake_breaks),
        (s.CID_HANDSHAKE, LoopMended): _stay(s.CID_HANDSHAKE, _handshake_mended),
        (s.CID_HANDSHAKE, OnHook): Rule(_handshake_done, (s.RINGING,), "receive complete"),
        (s.CID_HANDSHAKE, HandshakeOver): Rule(_handshake_was_answer, (s.IN_CALL,), "still closed: answered"),
        (s.CID_HANDSHAKE, LineCut): Rule(_cut_in_handshake, (s.LINE_CUT,), "line cut: missed"),
        (s.CID_HANDSHAKE, CallerIdReceived): _stay(s.CID_HANDSHAKE, _caller),
        (s.DIALLING, PolarityEdge): Rule(_far_end_answers, (s.IN_CALL, s.DIALLING), "polarity reversal: answered"),
        (s.FLASH, LoopMended): Rule(_mended, up, "closed again: flash"),
        (s.LINE_CUT, LineBack): Rule(_line_back, (s.IDLE,), "line back"),
    }
    for state in up:
        rules[state, LoopBroken] = Rule(_may_be_flash, (s.FLASH,), "loop open 300 ms")
        rules[state, LoopMended] = _stay(state, _mended)
    for state in (*up, s.FLASH):
        rules[state, OnHook] = Rule(_hang_up, (s.IDLE,), "loop open 1.25 s: hang-up")
        rules[state, LineCut] = Rule(_cut_in_call, (s.LINE_CUT,), "line cut")
        rules[state, CallerIdReceived] = _stay(state, _caller_in_call)
    for state in (s.RINGING, s.CID_HANDSHAKE, s.IN_CALL, s.FLASH):
        rules[state, PolarityEdge] = _stay(state, _polarity)
    for state in (s.RINGING, s.CID_HANDSHAKE, *up, s.FLASH):
        rules[state, ButtonPressed] = _stay(state, _button)
    # What cannot follow from the hook's own rules in a state, or says nothing new there, is taken note of nowhere:
    for state, facts in {
        s.IDLE: (
            RingBurstOver, RingingOver, HandshakeOver, LoopBroken, LoopMended, OnHook, LineBack, PolarityEdge,
            ButtonPressed,
        ),
        s.RINGING: (HandshakeOver, LoopBroken, LoopMended, OnHook, LineBack),
        s.CID_HANDSHAKE: (RingBurst, RingingOver, OffHook, LineBack, ModemRing),
        s.DIALLING: (RingBurst, RingBurstOver, RingingOver, HandshakeOver, OffHook, LineBack, ModemRing),
        s.IN_CALL: (RingBurst, RingBurstOver, RingingOver, HandshakeOver, OffHook, LineBack, ModemRing),
        s.FLASH: (RingBurst, RingBurstOver, RingingOver, HandshakeOver, LoopBroken, OffHook, LineBack, ModemRing),
        s.LINE_CUT: (
            RingBurst, RingBurstOver, RingingOver, HandshakeOver, OffHook, OnHook, LoopBroken, LoopMended, LineCut,
            PolarityEdge, CallerIdReceived, ModemRing, ButtonPressed,
        ),
    }.items():  # fmt: skip
        for fact in facts:
            if (state, fact) in rules:
                raise RuntimeError(f"{state.value} x {fact.__name__} stands twice")
            rules[state, fact] = _stay(state, _ignore)
    return rules


TABLE = _table()
