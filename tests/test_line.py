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
    LinePresentEdge,
    LoopEdge,
    ModemRing,
    PolarityEdge,
    RingEdge,
)
from firmware.core.call import Call, ClockRead, e164
from firmware.core.facts import CallLeftOpen, Input, RecordingFailed, RecordingReady
from firmware.core.hook import HookFact, HookTiming
from firmware.core.line import (
    TABLE,
    Command,
    HandshakeOver,
    Line,
    LineConfig,
    RingingOver,
    SaveCall,
    ShowLine,
    StartRecording,
    State,
    StopRecording,
)

MS = 1_000_000
FACTS = [
    *typing.get_args(HookFact),
    RingingOver,
    HandshakeOver,
    PolarityEdge,
    CallerIdReceived,
    ModemRing,
    ButtonPressed,
]


class Reads:
    def __init__(self) -> None:
        self.count = itertools.count(1)

    def call_id(self) -> str:
        return f"00000000-0000-7000-8000-{next(self.count):012d}"

    def clock(self) -> ClockRead:
        return ClockRead(mono_ns=0, wall_ns=1_764_000_000_000_000_000, state="ntp")


def config(number_display: bool = False) -> LineConfig:
    return LineConfig(
        number=1,
        boot_id="boot",
        country="jp",
        number_display=number_display,
        ring_over_ms=6000,
        handshake_ms=7000,
        shortest_call_ms=2000,
        pre_roll_ms=5000,
        hook=HookTiming(),
    )


class Bench:
    """A line with a clock and a recorder that answers at once. Times in ms."""

    def __init__(self, number_display: bool = False) -> None:
        self.line = Line(config(number_display), Reads())
        self.commands: list[Command] = []

    def to(self, ms: float) -> None:
        while (due := self.line.due()) and due[0] <= ms * MS:
            self._did(self.line.fire(due[1]))

    def give(self, given_: Input) -> None:
        self.to(given_.at_ns / MS)
        self._did(self.line.handle(given_))

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

    def start_signal(self, ms: float, bursts: int = 2) -> None:
        for n in range(bursts):
            self.ring(ms + n * 1000, 500)

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
    assert bench.line.state is State.IN_CALL
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
    assert bench.line.state is State.CID_HANDSHAKE
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
    assert bench.line.state is State.FLASH
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
    assert again.events == ["call.ended", "recording.ready"]


def test_a_record_survives_the_way_to_json_and_back() -> None:
    bench = Bench()
    bench.ring(1000)
    bench.modem(1600)
    bench.loop(3000, True)
    bench.loop(9000, False)
    bench.to(60_000)
    assert Call.from_dict(bench.calls[0].to_dict()) == bench.calls[0]


@pytest.mark.parametrize(
    ("digits", "country", "expected"),
    [
        ("0300001234", "jp", "+81300001234"),
        ("09000001234", "jp", "+819000001234"),
        ("0120", "jp", None),
        ("00112345678901", "jp", None),
        ("2025550123", "us", "+12025550123"),
        ("12025550123", "us", "+12025550123"),
        ("5550123", "us", None),
        (None, "jp", None),
    ],
)
def test_e164_only_where_the_plan_leaves_no_doubt(digits: str | None, country: str, expected: str | None) -> None:
    assert e164(digits, typing.cast(typing.Any, country)) == expected


# -- any sequence

_GIVEN = st.one_of(
    st.booleans().map(lambda c: LoopEdge(at_ns=0, line=1, closed=c)),
    st.just("ring"),
    st.just("long_ring"),
    st.just("half"),
    st.booleans().map(lambda p: LinePresentEdge(at_ns=0, line=1, present=p)),
    st.booleans().map(lambda r: PolarityEdge(at_ns=0, line=1, reversed=r)),
    st.just(ModemRing(at_ns=0, line=1)),
    st.sampled_from([caller_id(0), caller_id(0, None)]),
    st.just(ButtonPressed(at_ns=0)),
)
_GAP_MS = st.sampled_from([1, 5, 12, 40, 99, 120, 280, 400, 1000, 1300, 2500, 6500, 8000])


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
    assert bench.line.state is State.IDLE
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
    ended = [e.call_id for c in bench.commands if isinstance(c, SaveCall) for e in c.events if e.type in ENDS]
    assert sorted(ended) == sorted(call.call_id for call in calls), "each call ends once"
    spans = sorted((call.opened_ns, call.ended_ns or 0) for call in calls)
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert end <= begin, "two calls on one line at a time"
    for call in calls:
        assert call.ended_ns is not None and call.ended_ns >= call.opened_ns
        assert call.answered_ns is None or call.opened_ns <= call.answered_ns <= call.ended_ns
        assert len(call.marks) <= 200 and len(call.bursts) <= 200 and len(call.modem_raw) <= 8
    shown = [c.state for c in bench.commands if isinstance(c, ShowLine)]
    assert all(a is not b for a, b in itertools.pairwise(shown))
    return bench


ENDS = ("call.ended", "call.missed")
