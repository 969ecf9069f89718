"""Hook and ring timing: comparator edges become facts of the line. Pure: time comes in with the signals and timers.

A loop comparator chatters during ringing and contacts bounce, so no single edge means anything; durations do.
Times and names are those of the analog line: off-hook, hook flash, ring burst, line cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drivers.signals import LinePresentEdge, LoopEdge, RingEdge

_MS = 1_000_000
# A break this short is a dial pulse (10 pps: 53-78 ms), and its make may be as short as 12 ms (20 pps), so a short
# closure ends it. After a longer break only a full off-hook time does: ringing closes the loop 26 ms a cycle.
_PULSE_NS = (20 * _MS, 100 * _MS)
_CONTACT_NS = 10 * _MS
# Pulses of one digit follow each other within 50 ms; the next digit begins 450 ms (20 pps) or 600 ms (10 pps) later.
_DIGIT_OVER_NS = 250 * _MS
# Ringing: crossings at 14 to 30 Hz; three of them make a burst; a burst is over when two cycles stay away.
_CYCLE_NS = (33 * _MS, 72 * _MS)
_CROSSINGS = 3
_BURST_OVER_NS = 150 * _MS


@dataclass(frozen=True, slots=True)
class OffHook:
    """The loop has been closed long enough; at_ns is the closing edge. joined: nobody saw it close."""

    at_ns: int
    joined: bool


@dataclass(frozen=True, slots=True)
class LoopBroken:
    """The loop has been open for the shortest flash: flash or hang-up, not yet known. at_ns: the opening edge."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class DialPulses:
    """A train of breaks as short as dial pulses is over: a digit, or a disturbance."""

    at_ns: int
    until_ns: int
    count: int


@dataclass(frozen=True, slots=True)
class LoopMended:
    """A break ended that was no hang-up and no dial pulse. Shorter than a flash: a disturbance."""

    at_ns: int
    until_ns: int
    flash: bool


@dataclass(frozen=True, slots=True)
class OnHook:
    """The loop has been open long enough for a hang-up; at_ns is where the break began, known since known_ns."""

    at_ns: int
    known_ns: int


@dataclass(frozen=True, slots=True)
class RingBurst:
    """Ringing voltage has begun; at_ns is its first crossing, known since known_ns."""

    at_ns: int
    known_ns: int


@dataclass(frozen=True, slots=True)
class RingBurstOver:
    at_ns: int  # where the burst began
    until_ns: int


@dataclass(frozen=True, slots=True)
class LineCut:
    """No voltage on the line since at_ns, known since known_ns."""

    at_ns: int
    known_ns: int


@dataclass(frozen=True, slots=True)
class LineBack:
    at_ns: int


HookFact = OffHook | LoopBroken | LoopMended | DialPulses | OnHook | RingBurst | RingBurstOver | LineCut | LineBack
HookTimer = Literal["off_hook", "flash", "hang_up", "mended", "digit", "burst_over", "cut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HookTiming:
    """The line's timing, in ms (see the settings). ring_from_loop: the board has no ring comparator."""

    off_hook_ms: int = 100
    flash_min_ms: int = 300
    hang_up_ms: int = 1250
    line_cut_ms: int = 500
    ring_from_loop: bool = False


class Hook:
    """Turns edges into facts. Feed edges and due timers in order of time; each call returns the facts that follow."""

    def __init__(self, timing: HookTiming) -> None:
        self._t = timing
        self.timers: dict[HookTimer, int] = {}
        self.off_hook = False
        self._closed = False
        self._present = True
        self._joined = False
        self._cut = False
        self._closed_ns = 0
        self._broken_ns: int | None = None
        self._lost_ns = 0
        self._burst_ns = 0
        self._crossing_ns: int | None = None
        self._crossings = 0
        self._pulses: tuple[int, int, int] | None = None  # first break, last make, how many

    @property
    def broken(self) -> bool:
        """Off-hook, and the loop is open for the moment: a pulse, a flash or a hang-up."""
        return self._broken_ns is not None

    def edge(self, edge: LoopEdge | RingEdge | LinePresentEdge) -> list[HookFact]:
        match edge:
            case LoopEdge():
                facts = self._loop(edge)
                if self._t.ring_from_loop and edge.closed and not edge.initial and not self.off_hook:
                    facts += self._crossing(edge.at_ns)
                return facts
            case RingEdge():
                return self._crossing(edge.at_ns) if edge.active else []
            case LinePresentEdge():
                return self._line_present(edge)

    def fire(self, timer: HookTimer) -> list[HookFact]:
        """A timer of self.timers is due: its time is the present."""
        now = self.timers.pop(timer)
        match timer:
            case "off_hook":
                if not self._present:  # a dead line looks like a closed loop
                    return []
                self.off_hook, self._broken_ns = True, None
                return [OffHook(self._closed_ns, self._joined)]
            case "flash":
                if self._closed or self._broken_ns is None:
                    return []
                return [*self._train_over(), LoopBroken(self._broken_ns)]
            case "hang_up":
                # A closure under way may yet turn out to be a flash: "mended" or the next opening edge decides.
                return [] if self._closed or self._broken_ns is None else self._hung_up(now)
            case "mended":
                return self._mend()
            case "digit":
                return self._train_over()
            case "burst_over":
                began, self._crossings, last = self._burst_ns, 0, self._crossing_ns
                self._crossing_ns = None
                return [RingBurstOver(began, last or began)]
            case "cut":
                train = self._train_over()
                self._cut, self.off_hook, self._broken_ns = True, False, None
                for name in ("off_hook", "flash", "hang_up", "mended"):
                    self.timers.pop(name, None)
                return [*train, LineCut(self._lost_ns, now)]

    def _loop(self, edge: LoopEdge) -> list[HookFact]:
        at, self._closed = edge.at_ns, edge.closed
        if not self.off_hook:
            if edge.closed:
                self._wait_off_hook(at, joined=edge.initial)
            else:
                self.timers.pop("off_hook", None)
        elif edge.closed:
            if self._broken_ns is not None:
                short = at - self._broken_ns < _PULSE_NS[1]
                self._closed_ns = at
                self.timers["mended"] = at + (_CONTACT_NS if short else self._t.off_hook_ms * _MS)
        else:
            self.timers.pop("mended", None)
            if self._broken_ns is None:
                self.timers.pop("digit", None)
                self._broken_ns = at
                self.timers["flash"] = at + self._t.flash_min_ms * _MS
                self.timers["hang_up"] = at + self._t.hang_up_ms * _MS
            elif "hang_up" not in self.timers:
                return self._hung_up(at)
        return []

    def _wait_off_hook(self, at_ns: int, *, joined: bool) -> None:
        self._closed_ns, self._joined = at_ns, joined
        self.timers["off_hook"] = at_ns + self._t.off_hook_ms * _MS

    def _mend(self) -> list[HookFact]:
        began, self._broken_ns = self._broken_ns, None
        self.timers.pop("flash", None)
        self.timers.pop("hang_up", None)
        if began is None:
            return []
        broken_ns = self._closed_ns - began
        if _PULSE_NS[0] <= broken_ns < _PULSE_NS[1]:
            first, _, count = self._pulses or (began, 0, 0)
            self._pulses = (first, self._closed_ns, count + 1)
            self.timers["digit"] = self._closed_ns + _DIGIT_OVER_NS
            return []
        return [*self._train_over(), LoopMended(began, self._closed_ns, flash=broken_ns >= self._t.flash_min_ms * _MS)]

    def _train_over(self) -> list[HookFact]:
        self.timers.pop("digit", None)
        train, self._pulses = self._pulses, None
        return [DialPulses(*train)] if train else []

    def _hung_up(self, now_ns: int) -> list[HookFact]:
        train = self._train_over()
        began, self._broken_ns, self.off_hook = self._broken_ns, None, False
        for name in ("flash", "hang_up", "mended"):
            self.timers.pop(name, None)
        return train if began is None else [*train, OnHook(began, now_ns)]

    def _crossing(self, at_ns: int) -> list[HookFact]:
        last, self._crossing_ns = self._crossing_ns, at_ns
        if "burst_over" in self.timers:  # the burst goes on
            self.timers["burst_over"] = at_ns + _BURST_OVER_NS
            return []
        if last is None or not _CYCLE_NS[0] <= at_ns - last <= _CYCLE_NS[1]:
            self._crossings, self._burst_ns = 1, at_ns
            return []
        self._crossings += 1
        if self._crossings < _CROSSINGS:
            return []
        if self.off_hook and (self._broken_ns is None or at_ns - self._broken_ns < _PULSE_NS[1]):
            self._crossings, self._burst_ns = 1, at_ns
            return []  # an exchange does not ring a closed loop: dial pulses (20 pps crosses like ringing), noise
        # Ringing proves that a broken loop is open, before the hang-up time has passed.
        facts: list[HookFact] = []
        if self.off_hook:
            self._burst_ns = max(self._burst_ns, self._broken_ns or 0)
            facts = self._hung_up(at_ns)
        self.timers["burst_over"] = at_ns + _BURST_OVER_NS
        return [*facts, RingBurst(self._burst_ns, at_ns)]

    def _line_present(self, edge: LinePresentEdge) -> list[HookFact]:
        self._present = edge.present
        if not edge.present:
            self._lost_ns = edge.at_ns
            self.timers["cut"] = edge.at_ns + self._t.line_cut_ms * _MS
            return []
        self.timers.pop("cut", None)
        back: list[HookFact] = [LineBack(edge.at_ns)] if self._cut else []
        if not self.off_hook and self._closed:
            if self._cut:
                self._wait_off_hook(edge.at_ns, joined=True)
            elif "off_hook" not in self.timers:  # it came due in a dip of the ringing voltage
                self.timers["off_hook"] = edge.at_ns
        self._cut = False
        return back
