"""The call state machine: the whole table, the sequences of a line, and any sequence at all."""

from __future__ import annotations

import itertools
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.signals import (
    ButtonPressed,
    CallerIdReceived,
    CasHeard,
    Country,
    DeviceLost,
    KeyHeard,
    LinePresentEdge,
    LoopEdge,
    LoopReport,
    ModemRing,
    PolarityEdge,
    RingEdge,
    Tone,
    ToneHeard,
    VoiceHeard,
)
from firmware.core.call import Call, ClockRead
from firmware.core.caller import parse_list
from firmware.core.facts import CallLeftOpen, Input, RecordingFailed, RecordingReady
from firmware.core.hook import HookFact, HookTiming
from firmware.core.line import (
    TABLE,
    Command,
    HandshakeOver,
    Line,
    LineConfig,
    NumberOver,
    RingingOver,
    SaveCall,
    ShowLine,
    StartRecording,
    State,
    StopRecording,
    Unused,
)

MS = 1_000_000
FACTS = [
    *typing.get_args(HookFact),
    RingingOver,
    HandshakeOver,
    NumberOver,
    Unused,
    PolarityEdge,
    CallerIdReceived,
    ModemRing,
    LoopReport,
    KeyHeard,
    ToneHeard,
    CasHeard,
    VoiceHeard,
    ButtonPressed,
]


class Reads:
    def __init__(self) -> None:
        self.count = itertools.count(1)
        self.contacts: set[str] = set()  # that want no recording

    def call_id(self) -> str:
        return f"00000000-0000-7000-8000-{next(self.count):012d}"

    def clock(self) -> ClockRead:
        return ClockRead(mono_ns=0, wall_ns=1_764_000_000_000_000_000, state="ntp")

    def unwanted(self, number: str) -> bool:
        return number in self.contacts


def config(number_display: bool = False, country: Country = "jp", unwanted: tuple[str, ...] = ()) -> LineConfig:
    return LineConfig(
        number=1,
        boot_id="boot",
        country=country,
        number_display=number_display,
        ring_over_ms=6000,
        handshake_ms=7000,
        shortest_call_ms=2000,
        held_open_ms=1_800_000,
        pre_roll_ms=5000,
        do_not_record=unwanted,
        hook=HookTiming(),
    )


class Bench:
    """A line with a clock and a recorder that answers at once. Times in ms."""

    def __init__(
        self, number_display: bool = False, *, country: Country = "jp", unwanted: tuple[str, ...] = ()
    ) -> None:
        self.reads = Reads()
        self.line = Line(config(number_display, country, unwanted), self.reads)
        self.commands: list[Command] = []

    def to(self, ms: float) -> None:
        while (due := self.line.due()) and due[0] <= ms * MS:
            self._did(self.line.fire(due[1]))

    def give(self, given_: Input) -> None:
        self.to(given_.at_ns / MS)
        self._did(self.line.handle(self.line.mask(given_)))

    def _did(self, commands: list[Command]) -> None:
        self.commands += commands
        for command in commands:
            if isinstance(command, StopRecording) and command.keep:
                self._did(self.line.handle(ready(command.call_id, command.until_ns)))

    def loop(self, ms: float, closed: bool, initial: bool = False) -> None:
        self.give(LoopEdge(at_ns=round(ms * MS), line=1, closed=closed, initial=initial))

    def ring(self, ms: float, for_ms: float = 1000) -> None:
        at = ms
        while at < ms + for_ms:
            self.give(RingEdge(at_ns=round(at * MS), line=1, active=True))
            at += 62.5

    def modem(self, ms: float, number: str = "0300001234") -> None:
        self.give(caller_id(ms, number))

    def keys(self, ms: float, keys: str) -> None:
        for n, key in enumerate(keys):
            at = round((ms + 150 * n) * MS)
            self.give(KeyHeard(at_ns=at, line=1, key=key, until_ns=at + 80 * MS))

    def tone(self, ms: float, tone: Tone, until: float, cycles: int = 1, over: bool = True) -> None:
        """Told at its end, or so far."""
        self.to(until)
        told = ToneHeard(at_ns=round(ms * MS), line=1, tone=tone, until_ns=round(until * MS), cycles=cycles, over=over)
        self.give(told)

    def voice(self, *ms: float) -> None:
        for at in ms:
            self.give(VoiceHeard(at_ns=round(at * MS), line=1))

    def pulses(self, ms: float, digits: str, pps: int = 10) -> float:
        period = 1000 / pps
        for digit in digits:
            for _ in range(int(digit) or 10):
                self.loop(ms, False)
                self.loop(ms + 0.67 * period, True)
                ms += period
            ms += 650 if pps == 10 else 480
        return ms

    def start_signal(self, ms: float, bursts: int = 2) -> None:
        for n in range(bursts):
            self.ring(ms + n * 1000, 500)

    def now_in(self, state: State) -> bool:
        return self.line.state is state

    @property
    def calls(self) -> list[Call]:
        latest = {c.call.call_id: c.call for c in self.commands if isinstance(c, SaveCall)}
        return list(latest.values())

    @property
    def events(self) -> list[str]:
        return [e.type for c in self.commands if isinstance(c, SaveCall) for e in c.events]

    @property
    def starts(self) -> list[StartRecording]:
        return [c for c in self.commands if isinstance(c, StartRecording)]

    @property
    def stops(self) -> list[StopRecording]:
        return [c for c in self.commands if isinstance(c, StopRecording)]


def caller_id(ms: float, number: str | None = "0300001234") -> CallerIdReceived:
    return CallerIdReceived(
        at_ns=round(ms * MS),
        line=1,
        source="modem",
        presentation="allowed" if number else "withheld",
        number=number,
        name=None,
        date_raw=None,
        raw="NMBR",
    )


def heard_on_line(ms: float, until: float, number: str | None, call_waiting: bool = False) -> CallerIdReceived:
    return CallerIdReceived(
        at_ns=round(ms * MS),
        line=1,
        source="line_fsk",
        presentation="allowed" if number else "corrupt",
        number=number,
        name=None,
        date_raw=None,
        raw="9081",
        standard="jp",
        until_ns=round(until * MS),
        call_waiting=call_waiting,
    )


def ready(call_id: str, at_ns: int) -> RecordingReady:
    return RecordingReady(
        at_ns=at_ns,
        line=1,
        call_id=call_id,
        path="x",
        from_ns=0,
        frames=8000,
        rate_hz=8000,
        size_bytes=1,
        sha256="0",
    )


# -- the table


def test_every_state_has_a_rule_for_every_fact() -> None:
    assert set(TABLE) == set(itertools.product(State, FACTS))


def test_every_state_is_reached_and_left() -> None:
    arrows = {(state, to) for (state, _), rule in TABLE.items() for to in rule.to if to is not state}
    assert {to for _, to in arrows} == set(State) == {state for state, _ in arrows}


# -- sequences


def test_answered() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.ring(4000)
    bench.modem(4500)
    bench.loop(6000, True)
    bench.to(6100)
    assert bench.now_in(State.IN_CALL)
    bench.loop(30_000, False)
    bench.to(40_000)
    (call,) = bench.calls
    assert (call.direction, call.outcome, call.rings, call.caller.number) == ("incoming", "answered", 2, "+81300001234")
    assert (call.opened_ns, call.answered_ns, call.ended_ns) == (1000 * MS, 6000 * MS, 30_000 * MS)
    assert call.duration_s == 24.0
    assert bench.events == ["call.ringing", "call.caller_id", "call.answered", "call.ended", "recording.ready"]
    assert [s.from_ns for s in bench.starts] == [1000 * MS]
    assert [(s.until_ns, s.keep) for s in bench.stops] == [(31_250 * MS, True)]


def test_missed_keeps_the_number_of_rings_and_ends_with_the_last_burst() -> None:
    bench = Bench()
    for n in range(4):
        bench.ring(1000 + 3000 * n)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.rings, call.end_reason) == ("missed", 4, "caller_gave_up")
    assert call.caller.presentation == "not_received"
    assert bench.events == ["call.ringing", "call.missed"]
    assert call.ended_ns is not None and 10_900 * MS <= call.ended_ns <= 11_000 * MS
    assert not bench.starts


def test_number_display_is_one_call_not_two() -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000)
    bench.loop(2700, True)  # the phone's primary answer
    bench.to(3000)
    assert bench.now_in(State.CID_HANDSHAKE)
    bench.loop(4300, False)
    bench.modem(4400)
    bench.ring(5800)
    bench.ring(8800)
    bench.loop(10_000, True)
    bench.loop(20_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.rings, call.answered_ns) == ("answered", 2, 10_000 * MS)
    assert [m.kind for m in call.marks] == ["handshake"]
    assert bench.events == ["call.ringing", "call.caller_id", "call.answered", "call.ended", "recording.ready"]
    # Nothing of the frame is in the recording: it begins after the terminal opened the loop.
    assert [s.keep for s in bench.stops] == [False, True]
    assert bench.starts[-1].from_ns == 5000 * MS


def test_a_pre_roll_never_reaches_into_the_handshake() -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000)
    bench.loop(2700, True)
    bench.loop(4300, False)
    bench.ring(5800)
    bench.loop(6500, True)
    bench.to(9000)
    assert bench.starts[-1].from_ns == 4300 * MS


def test_a_lift_in_the_start_signal_that_stays_up_was_the_answer() -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000)
    bench.loop(2700, True)
    bench.to(9000)
    assert "call.answered" not in bench.events
    bench.loop(30_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.answered_ns, call.rings) == ("answered", 2700 * MS, 0)
    assert bench.starts[0].from_ns == 2700 * MS
    assert [s.keep for s in bench.stops] == [True]


def test_number_display_missed() -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000)
    bench.loop(2700, True)
    bench.loop(4300, False)
    bench.modem(4400)
    bench.ring(5800)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.rings, call.caller.raw) == ("missed", 1, "0300001234")


def test_nobody_answers_the_start_signal() -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000, bursts=6)
    bench.ring(8000)
    bench.loop(9500, True)
    bench.loop(20_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.rings, call.caller.presentation) == ("answered", 1, "not_received")


def test_outgoing() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.loop(31_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.direction, call.outcome, call.duration_s) == ("outgoing", "outgoing_unknown", 30.0)
    assert bench.events == ["call.dialled", "call.ended", "recording.ready"]


def test_outgoing_answer_by_polarity() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.give(PolarityEdge(at_ns=12_000 * MS, line=1, reversed=True))
    bench.loop(31_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.answer_evidence, call.duration_s) == ("outgoing_answered", "polarity", 19.0)


def test_a_flash_stays_in_the_call() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.loop(10_000, False)
    bench.to(10_350)
    assert bench.now_in(State.FLASH)
    bench.loop(10_600, True)
    bench.loop(31_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert [(m.kind, m.at_ns, m.until_ns) for m in call.marks] == [("flash", 10_000 * MS, 10_600 * MS)]
    assert call.ended_ns == 31_000 * MS


def test_too_short_is_filed_without_a_recording() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.loop(2500, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.recording, call.no_recording) == ("too_short", None, "too_short")
    assert [s.keep for s in bench.stops] == [False]


def test_joined_late_claims_no_direction() -> None:
    bench = Bench()
    bench.loop(1000, True, initial=True)
    bench.loop(1500, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.direction, call.outcome) == (None, "joined_late")


def test_line_cut_ends_a_call_and_is_a_state() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.give(LinePresentEdge(at_ns=9000 * MS, line=1, present=False))
    bench.to(12_000)
    bench.give(LinePresentEdge(at_ns=20_000 * MS, line=1, present=True))
    bench.loop(20_000, False)
    bench.to(60_000)
    assert [c.state for c in bench.commands if isinstance(c, ShowLine)][-2:] == [State.LINE_CUT, State.IDLE]
    assert (bench.calls[0].end_reason, bench.calls[0].ended_ns) == ("line_cut", 9000 * MS)


def test_two_calls_2_s_apart_share_no_second() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.loop(10_000, False)
    bench.loop(12_000, True)
    bench.loop(20_000, False)
    bench.to(60_000)
    assert len(bench.calls) == 2
    assert bench.starts[1].from_ns == bench.stops[0].until_ns == 11_250 * MS


def test_a_modem_alone_can_tell_of_a_call() -> None:
    bench = Bench()
    for at in (1000, 4000):
        bench.give(ModemRing(at_ns=at * MS, line=1))
    bench.modem(4500)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.rings, call.caller.raw) == ("missed", 2, "0300001234")


def test_a_late_ring_report_invents_no_call() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.loop(1500, True)
    bench.loop(4000, False)
    bench.give(ModemRing(at_ns=5500 * MS, line=1))
    bench.to(60_000)
    assert len(bench.calls) == 1


def test_a_number_just_after_the_end_is_the_next_caller_s() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.modem(1600)
    bench.loop(2500, True)
    bench.loop(10_000, False)
    bench.to(11_600)
    bench.modem(11_700, "0300005678")
    bench.ring(12_600)
    bench.loop(13_800, True)
    bench.loop(20_000, False)
    bench.to(60_000)
    assert [(call.outcome, call.caller.raw) for call in bench.calls] == [
        ("answered", "0300001234"),
        ("answered", "0300005678"),
    ]


@pytest.mark.parametrize("what", ["hang_up", "line_cut"])
def test_a_reversal_at_the_release_is_no_answer(what: str) -> None:
    bench = Bench()
    bench.loop(1000, True)
    if what == "hang_up":
        bench.loop(9000, False)
    else:
        bench.give(LinePresentEdge(at_ns=9000 * MS, line=1, present=False))
    bench.give(PolarityEdge(at_ns=9050 * MS, line=1, reversed=True))
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.answered_ns, call.duration_s) == ("outgoing_unknown", None, 8.0)


def test_a_failed_handshake_recording_does_not_hide_the_answer_s() -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000)
    bench.loop(2700, True)
    bench.to(3000)
    bench.give(RecordingFailed(at_ns=3000 * MS, line=1, call_id=bench.starts[0].call_id, reason="card busy"))
    bench.loop(4300, False)
    bench.ring(5800)
    bench.loop(7000, True)
    bench.loop(20_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert call.recording is not None and call.no_recording is None


def test_caller_id_in_a_call_is_call_waiting() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.modem(1500)
    bench.loop(3000, True)
    bench.modem(15_000, "0300005678")
    bench.loop(30_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert call.caller.raw == "0300001234"
    assert [(m.kind, m.detail) for m in call.marks] == [("call_waiting", "0300005678")]
    assert "call.waiting" in bench.events


def test_a_failed_recording_is_said_once_and_the_call_filed() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.to(1200)
    call_id = bench.starts[0].call_id
    bench.give(RecordingFailed(at_ns=1300 * MS, line=1, call_id=call_id, reason="disk full"))
    bench.loop(31_000, False)
    bench.to(60_000)
    assert bench.events.count("recording.failed") == 1
    assert bench.calls[0].no_recording == "disk full"


def test_what_a_crash_left_is_filed_as_interrupted() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.loop(3000, True)
    bench.to(9000)
    left = bench.calls[0]
    again = Bench()
    found = ready(left.call_id, 0)
    again.give(CallLeftOpen(at_ns=0, line=1, call=left.to_dict(), recording=found, repaired=True, no_recording=None))
    (call,) = again.calls
    assert (call.outcome, call.end_reason, call.call_id) == ("interrupted", "unit_stopped", left.call_id)
    assert call.duration_s == 0, "the sound on the disk ended before the lift"
    assert again.events == ["call.ended", "recording.ready"]


def test_a_record_survives_the_way_to_json_and_back() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.modem(1600)
    bench.loop(3000, True)
    bench.loop(9000, False)
    bench.to(60_000)
    assert Call.from_dict(bench.calls[0].to_dict()) == bench.calls[0]


# -- what the line's sound tells


def test_the_dialled_number_is_what_was_keyed_before_the_answer() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.tone(1300, "dial", 2500)
    bench.keys(3000, "0300005678")
    bench.tone(6000, "ringback", 9000, cycles=2, over=False)
    bench.tone(6000, "ringback", 10_000, cycles=2)
    bench.voice(11_000, 21_000)
    bench.keys(23_000, "1234#")  # a PIN
    bench.loop(31_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert call.dialled is not None
    assert (call.dialled.raw, call.dialled.number, call.dialled_by) == ("0300005678", "+81300005678", "dtmf")
    assert (call.outcome, call.answer_evidence, call.answered_ns) == (
        "outgoing_answered",
        "ringback_then_voice",
        11_000 * MS,
    )
    assert (call.ended_by, call.ended_by_evidence, call.keyed) == ("near", "no_busy_tone", 5)
    assert [m.detail for m in call.marks if m.kind == "key"] == [None] * 5
    assert bench.events[:3] == ["call.dialled", "call.dialled", "call.answered"]


def test_what_is_keyed_behind_a_voice_is_not_the_number() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.keys(3000, "0300005678")
    bench.voice(6000)  # a menu, and no ringback was heard
    bench.keys(7000, "98765")
    bench.loop(31_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert call.dialled is not None and (call.dialled.raw, call.keyed) == ("0300005678", 5)


@pytest.mark.parametrize("pps", [10, 20])
def test_pulses_dial(pps: int) -> None:
    bench = Bench()
    bench.loop(1000, True)
    end = bench.pulses(3000, "0300001290", pps)
    bench.to(end + 9000)
    bench.pulses(end + 9000, "12", pps)  # later ones are disturbances
    bench.loop(end + 20_000, False)
    bench.to(end + 60_000)
    (call,) = bench.calls
    assert call.dialled is not None and call.dialled.raw == "0300001290" and call.dialled_by == "pulse"
    assert [m.kind for m in call.marks] == ["loop_break"] * 2
    assert call.outcome == "outgoing_unknown" and len(bench.starts) == 1


def test_ringback_alone_is_no_answer() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.keys(3000, "0300005678")
    bench.voice(7000)  # the shop talks while it rings
    bench.tone(6000, "ringback", 40_000, cycles=12)
    bench.loop(41_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.answered_ns, call.ended_by) == ("outgoing_unanswered", None, None)


def test_ringback_that_was_only_disturbed_goes_on() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.tone(6000, "ringback", 10_000, cycles=2)
    bench.tone(12_000, "ringback", 13_000, over=False)
    bench.voice(12_900)
    assert bench.now_in(State.DIALLING)
    bench.tone(12_000, "ringback", 16_000, cycles=2)
    bench.voice(17_000)
    assert bench.now_in(State.IN_CALL)


def test_a_busy_number_is_not_answered() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.keys(3000, "0300005678")
    bench.tone(6000, "busy", 12_000, cycles=6)
    bench.loop(13_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.ended_by) == ("outgoing_unanswered", None)
    assert call.dialled is not None


@pytest.mark.parametrize(("cycles", "ender"), [(2, (None, None)), (4, ("far", "busy_tone"))])
def test_four_cycles_of_busy_tone_tell_that_the_far_end_hung_up(cycles: int, ender: object) -> None:
    bench = Bench()
    bench.ring(1000)
    bench.loop(3000, True)
    bench.voice(4000, 14_000)
    bench.tone(20_000, "busy", 20_000 + cycles * 1000, cycles=cycles, over=False)
    bench.loop(30_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.ended_by, call.ended_by_evidence) == ender


def test_without_a_listener_nobody_hung_up_first() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.loop(3000, True)
    bench.voice(4000)
    bench.give(DeviceLost(at_ns=5000 * MS, device="listener", line=1, reason="It died."))
    bench.loop(30_000, False)
    bench.to(60_000)
    assert (bench.calls[0].ended_by, bench.calls[0].ended_by_evidence) == (None, None)


@pytest.mark.parametrize(("tone", "cycles"), [("cng", 2), ("ced", 1)])
def test_fax(tone: Tone, cycles: int) -> None:
    bench = Bench()
    bench.ring(1000)
    bench.loop(3000, True)
    bench.tone(5000, tone, 8000, cycles=cycles)
    bench.loop(30_000, False)
    bench.to(60_000)
    assert (bench.calls[0].outcome, bench.calls[0].answered_ns) == ("fax", 3000 * MS)


def test_a_handset_beside_the_phone_is_held_open() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.tone(1300, "dial", 21_000)
    bench.tone(21_000, "busy", 60_000, cycles=40)
    bench.to(1_802_000)
    assert bench.now_in(State.HELD_OPEN)
    bench.voice(1_900_000)  # somebody in the room
    assert bench.now_in(State.HELD_OPEN)
    bench.loop(2_000_000, False)
    bench.to(2_010_000)
    assert bench.now_in(State.IDLE)
    (call,) = bench.calls
    assert (call.outcome, call.end_reason, call.ended_ns) == ("outgoing_unanswered", "held_open", 21_000 * MS)
    assert [s.keep for s in bench.stops] == [True]


def test_a_call_that_was_not_hung_up_ends_with_the_busy_tone() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.loop(3000, True)
    bench.voice(4000, 14_000)
    bench.tone(20_000, "busy", 60_000, cycles=40)
    bench.to(1_900_000)
    (call,) = bench.calls
    assert (call.outcome, call.ended_ns, call.ended_by) == ("answered", 20_000 * MS, "far")
    assert bench.now_in(State.HELD_OPEN)


def test_a_call_on_silent_hold_is_taken_up_again() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.loop(3000, True)
    bench.voice(4000)
    bench.to(1_900_000)
    assert bench.now_in(State.HELD_OPEN)
    bench.voice(2_000_000)
    assert bench.now_in(State.IN_CALL)
    bench.loop(2_100_000, False)
    bench.to(2_200_000)
    assert [call.outcome for call in bench.calls] == ["answered", "joined_late"]
    assert all(call.recording for call in bench.calls)


def test_nobody_claims_an_unused_line_without_a_listener() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.loop(3000, True)
    bench.to(10_000_000)
    assert bench.now_in(State.IN_CALL)


def test_a_listener_that_is_back_has_heard_no_silence_before() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.loop(3000, True)
    bench.voice(4000)
    bench.give(DeviceLost(at_ns=10_000 * MS, device="listener", line=1, reason="It died."))
    bench.tone(1_700_000, "cng", 1_700_500)
    bench.to(1_900_000)
    assert bench.now_in(State.IN_CALL)
    bench.to(3_501_000)
    assert bench.now_in(State.HELD_OPEN)


def test_call_waiting_is_told_once() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.modem(1500)
    bench.loop(3000, True)
    bench.tone(15_000, "call_waiting", 15_500, over=False)
    bench.give(heard_on_line(15_900, 16_400, "0300005678", call_waiting=True))
    bench.modem(16_600, "0300005678")
    bench.tone(15_000, "call_waiting", 24_000, cycles=2, over=False)
    bench.tone(15_000, "call_waiting", 32_000, cycles=3)
    bench.loop(50_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert call.caller.raw == "0300001234"
    assert [(m.kind, m.detail) for m in call.marks if m.kind == "call_waiting"] == [("call_waiting", "0300005678")]
    assert bench.events.count("call.waiting") == 1


@pytest.mark.parametrize(("cycles", "told"), [(1, 0), (2, 1)])
def test_a_waiting_call_without_number_is_told_at_the_second_tone(cycles: int, told: int) -> None:
    bench = Bench()
    bench.ring(1000)
    bench.loop(3000, True)
    bench.tone(15_000, "call_waiting", 15_500 + 8500 * (cycles - 1), cycles=cycles)
    bench.loop(50_000, False)
    bench.to(60_000)
    assert bench.events.count("call.waiting") == told


# -- what the first look got wrong


def test_the_next_number_display_caller_right_after_a_missed_one() -> None:
    for reversal in (True, False):  # with it one burst tells, without it two
        bench = Bench(number_display=True)
        bench.start_signal(1000)
        bench.loop(2700, True)
        bench.give(heard_on_line(3700, 4100, "0300001234"))
        bench.loop(4300, False)
        bench.give(PolarityEdge(at_ns=4400 * MS, line=1, reversed=False))
        bench.ring(5800)
        bench.ring(8800)
        if reversal:
            bench.give(PolarityEdge(at_ns=12_200 * MS, line=1, reversed=True))
        bench.start_signal(13_000)
        bench.loop(14_700, True)
        bench.give(heard_on_line(15_700, 16_100, "0300005678"))
        bench.loop(16_300, False)
        bench.ring(17_800)
        bench.loop(19_000, True)
        bench.loop(30_000, False)
        bench.to(60_000)
        first, second = bench.calls
        assert (first.outcome, first.rings, first.caller.raw) == ("missed", 2, "0300001234")
        assert first.ended_ns is not None and 9_700 * MS <= first.ended_ns <= 9_800 * MS
        assert (second.outcome, second.rings, second.caller.raw) == ("answered", 1, "0300005678")
        assert second.opened_ns == 13_000 * MS and second.answered_ns == 19_000 * MS
        assert "call.waiting" not in bench.events


def test_a_caller_who_gives_up_in_a_ring_is_one_call() -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000)
    bench.loop(2700, True)
    bench.loop(4300, False)
    bench.give(PolarityEdge(at_ns=4400 * MS, line=1, reversed=False))
    bench.ring(5800)
    bench.ring(8800, 400)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.rings) == ("missed", 2)


def test_dial_tone_behind_a_late_lift_tells_that_the_caller_had_given_up() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.ring(4000)
    bench.loop(9000, True)
    bench.tone(9300, "dial", 10_500, over=False)
    assert bench.now_in(State.DIALLING)
    bench.keys(11_000, "0300005678")
    bench.tone(14_000, "ringback", 20_000, cycles=2)
    bench.loop(31_000, False)
    bench.to(60_000)
    missed, made = bench.calls
    assert (missed.outcome, missed.answered_ns, missed.rings) == ("missed", None, 2)
    assert missed.ended_ns is not None and missed.ended_ns < 5000 * MS
    assert (made.direction, made.outcome, made.opened_ns) == ("outgoing", "outgoing_unanswered", 9000 * MS)
    assert made.dialled is not None and made.dialled.raw == "0300005678"
    assert [(s.call_id == made.call_id, s.keep) for s in bench.stops] == [(False, False), (True, True)]


def test_a_tone_like_dial_tone_in_an_answered_call_changes_nothing() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.ring(4000)
    bench.loop(6000, True)  # within the pause of the cadence
    bench.tone(6500, "dial", 8000)
    bench.loop(31_000, False)
    bench.to(60_000)
    assert [call.outcome for call in bench.calls] == ["answered"]


@pytest.mark.parametrize("lift", [7_700, 8_900, 9_300])
def test_a_lift_behind_the_start_signal_is_an_answer(lift: int) -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000, bursts=6)
    if lift > 8_700:
        bench.ring(8_700, min(1000, lift - 8_700))
    bench.loop(lift, True)
    bench.to(lift + 200)
    assert bench.now_in(State.IN_CALL)
    bench.loop(lift + 5000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.answered_ns) == ("answered", lift * MS) and call.recording is not None


def test_speech_over_ringback_is_no_answer_when_it_rings_on() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.keys(2000, "0300005678")
    bench.tone(6000, "ringback", 10_000, cycles=2)
    bench.voice(10_500)
    assert bench.now_in(State.IN_CALL)
    bench.tone(18_000, "ringback", 19_000, over=False)
    assert bench.now_in(State.DIALLING)
    bench.loop(31_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.answered_ns) == ("outgoing_unanswered", None)


def test_a_number_that_is_whole_waits_for_no_more() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.keys(2000, "0300005678")
    bench.to(7000)
    bench.keys(7500, "4321")
    bench.loop(31_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert call.dialled is not None and (call.dialled.raw, call.keyed) == ("0300005678", 4)


def test_the_modem_s_keys_count_where_nobody_listens() -> None:
    bench = Bench()
    bench.loop(1000, True)
    for n, key in enumerate("117"):
        at = (3000 + 300 * n) * MS
        bench.give(KeyHeard(at_ns=at, line=1, key=key, until_ns=at, source="modem"))
    bench.to(1_900_000)
    assert bench.now_in(State.DIALLING), "nobody listens, nobody can tell that nobody speaks"
    bench.loop(1_900_000, False)
    bench.to(2_000_000)
    (call,) = bench.calls
    assert call.dialled is not None and call.dialled.raw == "117" and call.ended_by is None
    both = Bench()
    both.loop(1000, True)
    for n, key in enumerate("117"):
        both.keys(3000 + 300 * n, key)
        at = (3090 + 300 * n) * MS
        both.give(KeyHeard(at_ns=at, line=1, key=key, until_ns=at, source="modem"))
    both.loop(30_000, False)
    both.to(60_000)
    assert both.calls[0].dialled is not None and both.calls[0].dialled.raw == "117"


def test_whoever_is_on_the_list_stays_there_after_a_silent_hold() -> None:
    bench = Bench(unwanted=parse_list(["03-0000-1234"], "jp"))
    bench.ring(1000)
    bench.modem(1500)
    bench.loop(3000, True)
    bench.voice(4000)
    bench.voice(1_900_000)
    bench.loop(2_000_000, False)
    bench.to(2_100_000)
    assert [call.no_recording for call in bench.calls] == ["do_not_record"] * 2 and not bench.starts


def test_a_correction_in_the_call_begins_the_recording() -> None:
    bench = Bench(unwanted=parse_list(["202-555-0123"], "us"), country="us")
    bench.ring(1000, 2000)
    bench.modem(3500, "2025550123")
    bench.loop(4500, True)
    bench.to(4700)
    assert not bench.starts
    bench.give(heard_on_line(3600, 4100, "2025550145"))
    bench.loop(30_000, False)
    bench.to(60_000)
    assert bench.calls[0].recording is not None and bench.calls[0].no_recording is None


def test_a_late_frame_of_this_call_is_no_waiting_call() -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000)
    bench.loop(2700, True)
    bench.to(10_100)
    assert bench.now_in(State.IN_CALL)
    bench.give(heard_on_line(9500, 9990, "0300001234"))
    bench.loop(30_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert call.caller.raw == "0300001234" and "call.waiting" not in bench.events


def test_a_good_frame_behind_many_bad_ones_counts() -> None:
    bench = Bench()
    bench.ring(1000)
    for n in range(12):
        bench.give(heard_on_line(2100 + n, 2105 + n, None))
    bench.give(heard_on_line(2200, 2600, "0300001234"))
    bench.to(60_000)
    assert bench.calls[0].caller.raw == "0300001234"


def test_a_burst_that_nobody_saw_makes_no_two_callers_of_one_start_signal() -> None:
    bench = Bench(number_display=True)
    for at in (1000, 3000, 4000):
        bench.ring(at, 500)
    bench.loop(4700, True)
    bench.give(heard_on_line(5700, 6100, "0300001234"))
    bench.loop(6300, False)
    bench.ring(7800)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.rings, call.caller.raw) == ("missed", 1, "0300001234")


@pytest.mark.parametrize(("turns", "callers"), [((), 2), ((2600,), 1), ((2600, 5700), 2)])
def test_a_start_signal_that_was_cut_short_and_a_short_burst(turns: tuple[int, ...], callers: int) -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000)
    for at in turns:
        bench.give(turned(at))
    bench.ring(6500, 400)
    bench.loop(6850, True)
    bench.loop(20_000, False)
    bench.to(60_000)
    assert [call.outcome for call in bench.calls] == ["missed", "answered"][2 - callers :]
    assert bench.calls[-1].answered_ns == 6850 * MS


def test_a_frame_that_is_told_twice_is_one_caller_s() -> None:
    bench = Bench(country="us")
    bench.ring(1000, 2000)
    bench.give(heard_on_line(3500, 4000, "2025550123"))
    bench.modem(4600, "2025550123")
    bench.ring(7000, 2000)
    bench.modem(9600, "2025550123")
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.rings, call.caller.raw) == ("missed", 2, "2025550123")


def test_another_number_from_the_modem_is_the_next_caller_s() -> None:
    bench = Bench(country="us")
    bench.ring(1000, 2000)
    bench.modem(4000, "2025550123")
    bench.ring(7000, 2000)
    bench.ring(11_500, 800)  # their second number's ring
    bench.ring(12_700, 800)
    bench.modem(14_500, "2025550145")
    bench.to(60_000)
    assert [(call.opened_ns, call.rings, call.caller.raw) for call in bench.calls] == [
        (1000 * MS, 2, "2025550123"),
        (11_500 * MS, 1, "2025550145"),
    ]
    assert bench.events == ["call.ringing", "call.caller_id", "call.missed"] * 2


def test_polarity_that_turns_back_at_the_end_of_a_handshake_announces_nobody() -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000)
    bench.loop(2800, True)
    bench.give(heard_on_line(4000, 4500, "0300001234"))
    bench.give(PolarityEdge(at_ns=8040 * MS, line=1, reversed=False))
    bench.loop(8100, False)
    bench.give(heard_on_line(9900, 10_400, "0300005678"))
    bench.to(60_000)
    first, second = bench.calls
    assert (first.caller.raw, first.ended_ns) == ("0300001234", 8100 * MS)
    assert (second.caller.raw, second.opened_ns) == ("0300005678", 9900 * MS)


@pytest.mark.parametrize("source", ["modem", "line"])
def test_a_frame_of_before_the_lift_that_is_told_behind_it_is_the_caller_s(source: str) -> None:
    for unwanted in ((), parse_list(["020-7946-0123"], "uk")):
        bench = Bench(country="uk", unwanted=unwanted)
        bench.loop(10_000, True)
        bench.to(10_300)
        assert bench.now_in(State.DIALLING)
        if source == "modem":
            bench.modem(10_900, "02079460123")
        else:
            bench.give(heard_on_line(9200, 9990, "02079460123"))
        bench.keys(15_000, "12")
        bench.loop(30_000, False)
        bench.to(60_000)
        (call,) = bench.calls
        assert (call.direction, call.outcome, call.answered_ns) == ("incoming", "answered", 10_000 * MS)
        assert (call.caller.raw, call.dialled, call.keyed) == ("02079460123", None, 2)
        assert "call.waiting" not in bench.events
        assert (call.no_recording == "do_not_record") is bool(unwanted)
        assert [s.from_ns for s in bench.starts][1:] == ([] if unwanted else [10_000 * MS])


def test_a_report_behind_dial_tone_is_no_answer() -> None:
    bench = Bench(country="us")
    bench.loop(10_000, True)
    bench.tone(10_300, "dial", 11_500)
    bench.modem(12_000, "2025550123")
    bench.loop(30_000, False)
    bench.to(60_000)
    assert [(call.direction, call.answered_ns) for call in bench.calls] == [("outgoing", None)]


def turned(ms: float) -> PolarityEdge:
    return PolarityEdge(at_ns=round(ms * MS), line=1, reversed=True)


@pytest.mark.parametrize("number_display", [False, True])
def test_a_lift_behind_a_reversal_of_the_idle_line_meets_a_caller(number_display: bool) -> None:
    bench = Bench(number_display)
    bench.give(turned(10_000))
    bench.loop(10_500, True)
    bench.give(turned(10_520))
    bench.loop(30_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.direction, call.outcome, call.opened_ns) == ("incoming", "answered", 10_000 * MS)
    assert (call.answered_ns, call.rings) == (10_500 * MS, 0)
    assert [s.from_ns for s in bench.starts] == [10_500 * MS]


@pytest.mark.parametrize(("country", "direction"), [("jp", "outgoing"), ("us", "outgoing"), ("uk", "incoming")])
def test_an_alert_on_the_idle_line_tells_of_a_caller_where_calls_begin_so(country: Country, direction: str) -> None:
    bench = Bench(country=country)
    bench.give(CasHeard(at_ns=9900 * MS, line=1, until_ns=9980 * MS))
    bench.loop(10_500, True)
    bench.loop(30_000, False)
    bench.to(60_000)
    assert [call.direction for call in bench.calls] == [direction]


@pytest.mark.parametrize("number_display", [False, True])
def test_dial_tone_tells_that_nobody_is_behind_a_reversal(number_display: bool) -> None:
    bench = Bench(number_display)
    bench.give(turned(10_000))
    bench.loop(10_500, True)
    bench.tone(10_800, "dial", 12_000, over=False)
    bench.keys(12_500, "0300005678")
    bench.loop(30_000, False)
    bench.to(60_000)
    missed, made = bench.calls
    assert (missed.outcome, missed.answered_ns) == ("missed", None)
    assert (made.direction, made.opened_ns) == ("outgoing", 10_500 * MS) and made.recording is not None
    assert made.dialled is not None and made.dialled.raw == "0300005678"


def test_a_key_before_the_dial_tone_was_told_leaves_no_half_of_a_number() -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000)
    bench.loop(2700, True)
    bench.keys(3500, "03")
    bench.tone(3000, "dial", 3800)
    bench.keys(4000, "00005678")
    bench.loop(30_000, False)
    bench.to(60_000)
    missed, made = bench.calls
    assert (missed.outcome, missed.keyed) == ("missed", 0)
    assert (made.direction, made.dialled, made.keyed) == ("outgoing", None, 8)


@pytest.mark.parametrize(("hung_up", "reversal", "lift"), [(9000, 10_300, 11_000), (0, 3000, 7000), (0, 5080, 5000)])
def test_a_reversal_of_a_release_or_long_before_or_behind_the_lift_is_no_caller(
    hung_up: int, reversal: int, lift: int
) -> None:
    bench = Bench()
    if hung_up:
        bench.loop(1000, True)
        bench.loop(hung_up, False)
    for at, given_ in sorted([(reversal, turned(reversal)), (lift, None)], key=lambda each: each[0]):
        if given_:
            bench.give(given_)
        else:
            bench.loop(at, True)
    bench.loop(30_000, False)
    bench.to(60_000)
    assert [call.direction for call in bench.calls] == ["outgoing"] * (2 if hung_up else 1)


def test_the_modem_s_rings_tell_that_the_caller_is_still_there() -> None:
    bench = Bench()
    for at in (2000, 5000):
        bench.give(ModemRing(at_ns=at * MS, line=1))
    bench.loop(6000, True)
    bench.tone(6500, "dial", 8000)
    bench.loop(31_000, False)
    bench.to(60_000)
    assert [call.outcome for call in bench.calls] == ["answered"]


# -- who calls


def test_a_frame_on_the_line_beats_the_modem() -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000)
    bench.loop(2700, True)
    bench.give(heard_on_line(3700, 4100, "0300001234"))
    bench.loop(4300, False)
    bench.modem(4400, "0300005678")
    bench.ring(5800)
    bench.loop(7000, True)
    bench.loop(20_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.caller.raw, call.caller.source) == ("0300001234", "line_fsk")
    assert [d.raw for d in call.caller.disagreement] == ["0300005678"]
    assert [h.source for h in call.heard] == ["line_fsk", "modem"]
    assert bench.events.count("call.caller_id") == 1


def test_no_frame_stands_in_a_recording() -> None:
    bench = Bench(number_display=True)
    bench.start_signal(1000)
    bench.loop(2700, True)  # a real answer in the start signal, and the exchange sends its frame all the same
    bench.give(heard_on_line(3700, 4100, "0300001234"))
    bench.loop(30_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.answered_ns, call.caller.raw) == ("answered", 2700 * MS, "0300001234")
    assert bench.starts[-1].from_ns == 4100 * MS
    us = Bench(country="us")
    us.ring(1000, 2000)
    us.give(heard_on_line(3500, 4000, "2025550123"))
    us.loop(4500, True)
    us.to(9000)
    assert us.starts[0].from_ns == 4000 * MS


def test_a_uk_ring_is_two_bursts() -> None:
    bench = Bench(country="uk")
    for at in (1000, 4000, 7000):
        bench.ring(at, 400)
        bench.ring(at + 600, 400)
    bench.to(60_000)
    assert bench.calls[0].rings == 3


def test_noise_that_looks_like_a_frame_invents_no_call() -> None:
    bench = Bench()
    bench.give(heard_on_line(1000, 1400, None))
    bench.to(60_000)
    assert not bench.calls


def test_keys_of_a_call_are_no_caller_id() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.loop(3000, True)
    secret = CallerIdReceived(
        at_ns=9000 * MS,
        line=1,
        source="line_dtmf",
        presentation="allowed",
        number="1234",
        name=None,
        date_raw=None,
        raw="D1234C",
        standard="dtmf",
        until_ns=9500 * MS,
    )
    bench.to(9000)
    masked = bench.line.mask(secret)
    assert isinstance(masked, CallerIdReceived) and masked.number is None and masked.raw == ""
    bench.give(secret)
    bench.loop(30_000, False)
    bench.to(60_000)
    assert "1234" not in repr(bench.calls) and not bench.calls[0].heard


def test_what_is_told_late_is_of_the_call_before() -> None:
    bench = Bench()
    bench.loop(1000, True)
    bench.loop(10_000, False)
    bench.loop(12_000, True)
    bench.to(12_500)
    late = KeyHeard(at_ns=9000 * MS, line=1, key="4", until_ns=9080 * MS)
    masked = bench.line.mask(late)
    assert isinstance(masked, KeyHeard) and masked.key == "?"
    bench.give(late)
    bench.keys(13_000, "0300005678")
    bench.loop(30_000, False)
    bench.to(60_000)
    dialled = bench.calls[1].dialled
    assert dialled is not None and dialled.raw == "0300005678"


@pytest.mark.parametrize(("number", "waiting"), [(None, False), ("0300005678", True)])
def test_a_frame_in_a_talk_that_was_joined_names_no_caller(number: str | None, waiting: bool) -> None:
    bench = Bench(number_display=True)
    bench.loop(1000, True, initial=True)
    bench.give(heard_on_line(3000, 3500, number, call_waiting=waiting))
    bench.loop(30_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.direction, call.outcome, call.caller.raw) == (None, "joined_late", None)
    assert [s.keep for s in bench.stops] == [True]


def test_a_caller_who_proves_to_be_another_is_recorded() -> None:
    bench = Bench(number_display=True, unwanted=parse_list(["03-0000-5678"], "jp"))
    bench.start_signal(1000)
    bench.loop(2700, True)
    bench.modem(3600, "0300005678")
    bench.give(heard_on_line(3700, 4100, "0300001234"))
    bench.loop(4300, False)
    bench.ring(5800)
    bench.loop(7000, True)
    bench.loop(20_000, False)
    bench.to(60_000)
    assert bench.calls[0].recording is not None and bench.calls[0].no_recording is None


def test_the_unit_starts_in_the_middle_of_a_handshake() -> None:
    bench = Bench(number_display=True)
    bench.loop(1000, True, initial=True)
    bench.loop(3000, False)
    bench.ring(4500)
    bench.ring(7500)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.direction, call.outcome, call.rings) == ("incoming", "missed", 2)
    assert [s.keep for s in bench.stops] == [False]


def test_the_unit_starts_at_the_end_of_a_call() -> None:
    bench = Bench(number_display=True)
    bench.loop(1000, True, initial=True)
    bench.loop(5000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.direction, call.outcome, call.ended_ns) == (None, "joined_late", 5000 * MS)
    assert [s.keep for s in bench.stops] == [True]


@pytest.mark.parametrize("known", ["before the lift", "in the call"])
def test_whoever_is_on_the_list_is_listed_and_not_recorded(known: str) -> None:
    bench = Bench(unwanted=parse_list(["03-0000-1234"], "jp"))
    bench.ring(1000)
    if known == "before the lift":
        bench.modem(1500)
    bench.loop(3000, True)
    if known == "in the call":
        bench.modem(5000)
    bench.loop(30_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.outcome, call.recording, call.no_recording) == ("answered", None, "do_not_record")
    assert not any(stop.keep for stop in bench.stops)


def test_whom_a_contact_s_flag_names_is_listed_and_not_recorded_from_then_on() -> None:
    bench = Bench()
    for minute, flagged in enumerate((False, True, False)):
        bench.reads.contacts = {"+81300001234"} if flagged else set()
        bench.ring(minute * 60_000 + 1000)
        bench.modem(minute * 60_000 + 1500)
        bench.loop(minute * 60_000 + 3000, True)
        bench.loop(minute * 60_000 + 30_000, False)
        bench.to(minute * 60_000 + 55_000)
    assert [call.no_recording == "do_not_record" for call in bench.calls] == [False, True, False]


def test_calling_somebody_on_the_list_is_not_recorded() -> None:
    bench = Bench(unwanted=parse_list(["03-0000-5678"], "jp"))
    bench.loop(1000, True)
    bench.keys(3000, "1840300005678")
    bench.loop(30_000, False)
    bench.to(60_000)
    (call,) = bench.calls
    assert (call.recording, call.no_recording) == (None, "do_not_record")
    assert call.dialled is not None and call.dialled.caller_id == "withhold"


# -- any sequence

_GIVEN = st.one_of(
    st.booleans().map(lambda c: LoopEdge(at_ns=0, line=1, closed=c)),
    st.just("ring"),
    st.just("long_ring"),
    st.just("half"),
    st.booleans().map(lambda p: LinePresentEdge(at_ns=0, line=1, present=p)),
    st.booleans().map(lambda r: PolarityEdge(at_ns=0, line=1, reversed=r)),
    st.just(ModemRing(at_ns=0, line=1)),
    st.sampled_from([caller_id(0), caller_id(0, None), heard_on_line(0, 400, "0300005678"), heard_on_line(0, 9, None)]),
    st.sampled_from("09*#A").map(lambda key: KeyHeard(at_ns=0, line=1, key=key, until_ns=0)),
    st.builds(
        lambda tone, cycles, over: ToneHeard(at_ns=0, line=1, tone=tone, until_ns=0, cycles=cycles, over=over),
        st.sampled_from(typing.get_args(Tone)),
        st.integers(1, 5),
        st.booleans(),
    ),
    st.just(VoiceHeard(at_ns=0, line=1)),
    st.just(CasHeard(at_ns=0, line=1, until_ns=0)),
    st.just(LoopReport(at_ns=0, line=1, what="broken")),
    st.just(DeviceLost(at_ns=0, device="listener", line=1, reason="gone")),
    st.just(ButtonPressed(at_ns=0)),
)
_GAP_MS = st.sampled_from([1, 5, 12, 40, 99, 120, 280, 400, 1000, 1300, 2500, 6500, 8000, 2_000_000])


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(_GAP_MS, _GIVEN), min_size=5, max_size=100), st.booleans())
def test_any_sequence_keeps_the_invariants(steps: list[tuple[int, typing.Any]], number_display: bool) -> None:
    """50,000 steps: started once means stopped once, no call filed twice, none overlap, the record stays bounded."""
    check_sequence(steps, number_display)


def check_sequence(steps: list[tuple[int, typing.Any]], number_display: bool) -> Bench:
    bench = Bench(number_display)
    now = 0.0
    for gap, what in steps:
        now += gap
        if what == "ring":
            bench.ring(now, 500)
            now += 500
        elif what == "long_ring":
            bench.ring(now)
            now += 1000
        elif what == "half":
            bench.loop(now, True)
            bench.loop(now + 3, False)
            bench.loop(now + 5, True)
            now += 5
        else:
            bench.give(type(what)(**{f: getattr(what, f) for f in what.__slots__} | {"at_ns": round(now * MS)}))
    # Everybody hangs up and goes home.
    bench.give(LinePresentEdge(at_ns=round((now + 10) * MS), line=1, present=True))
    bench.loop(now + 20, False)
    bench.to(now + 60_000)
    assert bench.now_in(State.IDLE)
    assert not bench.line.busy
    recording: str | None = None
    for command in bench.commands:
        if isinstance(command, StartRecording):
            assert recording is None, "two recordings at a time"
            recording = command.call_id
        elif isinstance(command, StopRecording):
            assert recording == command.call_id, "stopped what was not started"
            recording = None
    assert recording is None, "a recording went on for ever"
    calls = bench.calls
    assert all(call.outcome is not None for call in calls)
    ended = [e.subject for c in bench.commands if isinstance(c, SaveCall) for e in c.events if e.type in ENDS]
    assert sorted(ended) == sorted(call.call_id for call in calls), "each call ends once"
    spans = sorted((call.opened_ns, call.ended_ns or 0) for call in calls)
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert end <= begin, "two calls on one line at a time"
    for call in calls:
        assert call.ended_ns is not None and call.ended_ns >= call.opened_ns
        assert call.answered_ns is None or call.opened_ns <= call.answered_ns <= call.ended_ns
        assert len(call.marks) <= 200 and len(call.bursts) <= 200 and len(call.heard) <= 8
    shown = [(c.state, c.call_id) for c in bench.commands if isinstance(c, ShowLine)]
    assert all(a != b for a, b in itertools.pairwise(shown))
    return bench


ENDS = ("call.ended", "call.missed")
