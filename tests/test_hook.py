"""Hook and ring timing: the durations of the analog line, one by one."""

from __future__ import annotations

import pytest

from drivers.signals import LinePresentEdge, LoopEdge, RingEdge
from firmware.core.hook import (
    DialPulses,
    Hook,
    HookFact,
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

MS = 1_000_000


class Bench:
    """A Hook with a clock: edges and timers in order of time. Times in ms."""

    def __init__(self, timing: HookTiming | None = None) -> None:
        self.hook = Hook(timing or HookTiming())
        self.facts: list[HookFact] = []

    def to(self, ms: float) -> None:
        while self.hook.timers:
            name = min(self.hook.timers, key=lambda n: self.hook.timers[n])
            if self.hook.timers[name] > ms * MS:
                return
            self.facts += self.hook.fire(name)

    def loop(self, ms: float, closed: bool, initial: bool = False) -> None:
        self.to(ms)
        self.facts += self.hook.edge(LoopEdge(at_ns=round(ms * MS), line=1, closed=closed, initial=initial))

    def present(self, ms: float, present: bool) -> None:
        self.to(ms)
        self.facts += self.hook.edge(LinePresentEdge(at_ns=round(ms * MS), line=1, present=present))

    def ring(self, ms: float, for_ms: float, hz: float = 16, chatter: bool = False) -> None:
        at = ms
        while at < ms + for_ms:
            self.to(at)
            if chatter:
                self.loop(at, True)
                self.loop(at + 26, False)
            self.facts += self.hook.edge(RingEdge(at_ns=round(at * MS), line=1, active=True))
            self.facts += self.hook.edge(RingEdge(at_ns=round((at + 20) * MS), line=1, active=False))
            at += 1000 / hz

    def lifted(self) -> Bench:
        self.loop(0, True)
        self.to(1000)
        self.facts.clear()
        return self


def test_off_hook_needs_100_ms_of_closed_loop_and_carries_the_edge() -> None:
    bench = Bench()
    bench.loop(50, True)
    bench.to(149.9)
    assert bench.facts == []
    bench.to(150)
    assert bench.facts == [OffHook(50 * MS, joined=False)]


def test_contact_bounce_is_no_lift_and_the_last_closing_counts() -> None:
    bench = Bench()
    for at, closed in ((0, True), (1, False), (3, True), (4, False), (7, True)):
        bench.loop(at, closed)
    bench.to(500)
    assert bench.facts == [OffHook(7 * MS, joined=False)]


@pytest.mark.parametrize("hz", [15, 16, 20, 25])
def test_ringing_chatters_the_loop_but_nobody_lifts(hz: float) -> None:
    bench = Bench()
    bench.ring(0, 1000, hz, chatter=True)
    bench.to(5000)
    assert [type(f) for f in bench.facts] == [RingBurst, RingBurstOver]
    over = bench.facts[1]
    assert isinstance(over, RingBurstOver) and over.at_ns == 0 and over.until_ns >= 900 * MS


def test_a_board_without_ring_comparator_hears_ringing_in_the_chatter() -> None:
    bench = Bench(HookTiming(ring_from_loop=True))
    for cycle in range(16):
        bench.loop(cycle * 62.5, True)
        bench.loop(cycle * 62.5 + 26, False)
    bench.to(5000)
    assert [type(f) for f in bench.facts] == [RingBurst, RingBurstOver]


@pytest.mark.parametrize("hz", [10, 12, 40, 50])
def test_other_frequencies_are_no_ringing(hz: float) -> None:
    bench = Bench()
    bench.ring(0, 1000, hz)
    bench.to(5000)
    assert bench.facts == []


@pytest.mark.parametrize(
    ("broken_ms", "expected"),
    [
        (15, [LoopMended(1000 * MS, 1015 * MS, flash=False)]),
        (30, [DialPulses(1000 * MS, 1030 * MS, 1)]),
        (78, [DialPulses(1000 * MS, 1078 * MS, 1)]),
        (100, [LoopMended(1000 * MS, 1100 * MS, flash=False)]),
        (200, [LoopMended(1000 * MS, 1200 * MS, flash=False)]),
        (300, [LoopBroken(1000 * MS), LoopMended(1000 * MS, 1300 * MS, flash=True)]),
        (1240, [LoopBroken(1000 * MS), LoopMended(1000 * MS, 2240 * MS, flash=True)]),
        (1251, [LoopBroken(1000 * MS), OnHook(1000 * MS, 2250 * MS), OffHook(2251 * MS, joined=False)]),
    ],
)
def test_a_loop_break_is_judged_by_its_length(broken_ms: int, expected: list[HookFact]) -> None:
    bench = Bench().lifted()
    bench.loop(1000, False)
    bench.loop(1000 + broken_ms, True)
    bench.to(10_000)
    assert bench.facts == expected


def test_a_hang_up_with_bounce_ends_where_the_break_began() -> None:
    bench = Bench().lifted()
    for at, closed in ((1000, False), (1002, True), (1003, False), (1007, True), (1008, False)):
        bench.loop(at, closed)
    bench.to(10_000)
    assert bench.facts == [LoopBroken(1000 * MS), OnHook(1000 * MS, 2250 * MS)]


@pytest.mark.parametrize(
    ("pps", "break_ms", "gap_ms"),
    [(10, 53, 600), (10, 67, 600), (10, 78, 600), (20, 30, 450), (20, 38, 450)],
)
def test_dial_pulses_count_and_do_not_hang_up(pps: int, break_ms: int, gap_ms: int) -> None:
    bench = Bench().lifted()
    at = 1000.0
    for digit in (10, 3, 1):
        for _ in range(digit):
            bench.loop(at, False)
            bench.loop(at + break_ms, True)
            at += 1000 / pps
        at += gap_ms
    bench.to(10_000)
    assert [f.count for f in bench.facts if isinstance(f, DialPulses)] == [10, 3, 1]
    assert len(bench.facts) == 3


def test_a_hang_up_after_pulses_keeps_the_digit() -> None:
    bench = Bench().lifted()
    for at, closed in ((1000, False), (1060, True), (1150, False)):
        bench.loop(at, closed)
    bench.to(10_000)
    assert bench.facts == [
        DialPulses(1000 * MS, 1060 * MS, 1),
        LoopBroken(1150 * MS),
        OnHook(1150 * MS, 2400 * MS),
    ]


def test_ringing_proves_a_break_to_be_a_hang_up_at_once() -> None:
    bench = Bench().lifted()
    bench.loop(1000, False)
    bench.ring(1600, 1000, chatter=True)
    bench.to(10_000)
    assert [type(f) for f in bench.facts] == [LoopBroken, OnHook, RingBurst, RingBurstOver]
    assert bench.facts[1] == OnHook(1000 * MS, 1725 * MS)


def test_a_closed_loop_is_never_rung() -> None:
    bench = Bench().lifted()
    bench.ring(1000, 500, 20)
    bench.to(10_000)
    assert bench.facts == []


def test_a_dead_line_looks_closed_and_is_no_lift() -> None:
    bench = Bench()
    bench.loop(0, True)
    bench.present(0.01, False)
    bench.to(10_000)
    assert bench.facts == [LineCut(10_000, 500 * MS + 10_000)]
    bench.present(20_000, True)
    bench.loop(20_000.1, False)
    bench.to(30_000)
    assert bench.facts[1:] == [LineBack(20_000 * MS)]


def test_a_handset_that_is_up_when_the_line_comes_back_joined_late() -> None:
    bench = Bench().lifted()
    bench.present(2000, False)
    bench.present(3000, True)
    bench.to(10_000)
    assert bench.facts == [LineCut(2000 * MS, 2500 * MS), LineBack(3000 * MS), OffHook(3000 * MS, joined=True)]


def test_a_short_dip_is_no_line_cut() -> None:
    bench = Bench().lifted()
    bench.present(2000, False)
    bench.present(2400, True)
    bench.to(10_000)
    assert bench.facts == []


def test_the_level_at_start_is_joined_late() -> None:
    bench = Bench()
    bench.loop(0, True, initial=True)
    bench.to(1000)
    assert bench.facts == [OffHook(0, joined=True)]


def test_pulses_that_the_ring_comparator_sees_too_are_no_ringing() -> None:
    bench = Bench().lifted()
    for pulse in range(10):
        bench.loop(1000 + pulse * 50, False)
        bench.facts += bench.hook.edge(RingEdge(at_ns=(1003 + pulse * 50) * MS, line=1, active=True))
        bench.loop(1000 + pulse * 50 + 33, True)
    bench.to(10_000)
    assert [type(fact) for fact in bench.facts] == [DialPulses]
