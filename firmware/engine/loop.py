"""The event loop: one thread that takes every input in order, fires the lines' timers, and hands commands on."""

from __future__ import annotations

import queue
import typing
from collections.abc import Callable
from dataclasses import dataclass

from drivers.signals import ButtonHeld, ButtonPressed, LinePresentEdge, LoopEdge
from firmware.core.facts import DeliveryFact, Input, LocalAsked, RecordingSwitched
from firmware.core.line import Command, Line
from firmware.engine.journal import Journal

_NO_LINES = (*typing.get_args(DeliveryFact), LocalAsked, ButtonHeld)  # what goes past the lines, and is in no journal
# A timer waits this long past its time for edges that a driver's thread is late with: an edge stamped before the timer
# must be heard before it.
_LATENESS_NS = 5_000_000
# A timer found later than this says that the process stood still, or was starved. Edges of that time, which the kernel
# has stamped, are then yet to come from the drivers' threads: a burst without its last edges would be another signal.
_STOOD_STILL_NS = 20_000_000
_CATCH_UP_NS = 50_000_000  # nothing of then for so long: all has come
_ROTATE_IDLE_NS = 60_000_000_000


@dataclass(slots=True)
class _Periodic:
    due_ns: int
    period_ns: int
    work: Callable[[], None]


class Engine:
    """post() from any thread; everything else from the thread that runs the loop.

    execute carries out a line's command, observe sees every input after the lines did, settled is called once all that
    was waiting is taken; now gives monotonic ns, which is virtual in stepped mode.
    """

    def __init__(
        self,
        lines: dict[int, Line],
        journal: Journal,
        execute: Callable[[Command], None],
        observe: Callable[[Input], None],
        now: Callable[[], int],
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        self._lines, self._journal, self._execute, self._observe, self._now = lines, journal, execute, observe, now
        self._settled = settled
        self._inbox: queue.SimpleQueue[Input | None] = queue.SimpleQueue()
        self._periodic: list[_Periodic] = []
        self._levels: dict[tuple[type, int], LoopEdge | LinePresentEdge | RecordingSwitched] = {}
        self._last_ns = now()

    def post(self, given: Input) -> None:
        """Hand an input to the loop. Thread: any."""
        self._inbox.put(given)

    def stop(self) -> None:
        """Let run() return after what is already posted. Thread: any; safe in a signal handler."""
        self._inbox.put(None)

    def every(self, period_s: float, work: Callable[[], None]) -> None:
        """Call work on the loop's thread about every period_s."""
        period_ns = round(period_s * 1e9)
        self._periodic.append(_Periodic((self._now() // period_ns + 1) * period_ns, period_ns, work))

    def run(self) -> None:
        """Live mode: until stop()."""
        while True:
            batch = self._wait()
            stopping = None in batch
            # Threads post in the order they wake up; edges mean something in the order they happened.
            inputs = sorted((given for given in batch if given is not None), key=lambda given: given.at_ns)
            for given in inputs:
                self.take(given)
            self._settled()
            self.advance(self._now() - _LATENESS_NS)
            if stopping:
                return

    def take(self, given: Input) -> None:
        """One input, after the timers that are due before it."""
        if isinstance(given, _NO_LINES):
            self._observe(given)
            return
        self._fire_lines(given.at_ns)
        on = self._lines.values() if isinstance(given, ButtonPressed) else [self._lines[given.line]]  # type: ignore[union-attr]
        for line in on:
            given = line.mask(given)  # before anything writes it down
        self._journal.given(given)
        if isinstance(given, LoopEdge | LinePresentEdge | RecordingSwitched):
            self._levels[type(given), given.line] = given
        self._last_ns = max(self._last_ns, given.at_ns)
        for line in on:
            for command in line.handle(given):
                self._execute(command)
        self._observe(given)

    def drain(self) -> None:
        """Take what is posted now, without waiting."""
        while True:
            try:
                given = self._inbox.get_nowait()
            except queue.Empty:
                return
            if given is not None:
                self.take(given)

    def advance(self, to_ns: int) -> None:
        """Fire every timer and periodic work due by to_ns."""
        self._fire_lines(to_ns)
        for each in self._periodic:
            if each.due_ns <= to_ns:
                each.due_ns = (to_ns // each.period_ns + 1) * each.period_ns  # all of one period at once: one waking
                each.work()
        if self._journal.full and to_ns - self._last_ns > _ROTATE_IDLE_NS and not self.busy:
            self._journal.start_file(list(self._levels.values()))

    @property
    def busy(self) -> bool:
        return any(line.busy for line in self._lines.values())

    def due_ns(self) -> int:
        """When advance() is next needed; far away if never."""
        timers = [due[0] for line in self._lines.values() if (due := line.due())]
        return min([*timers, *(each.due_ns for each in self._periodic)], default=1 << 62)

    def _fire_lines(self, to_ns: int) -> None:
        while True:
            pending = [(due[0], number, due[1]) for number, line in self._lines.items() if (due := line.due())]
            if not pending:
                return
            due_ns, number, timer = min(pending)
            if due_ns > to_ns:
                return
            self._journal.timer(number, timer, due_ns)
            for command in self._lines[number].fire(timer):
                self._execute(command)

    def _wait(self) -> list[Input | None]:
        """What has come, as soon as something has or a timer is due."""
        due_ns = self.due_ns() + _LATENESS_NS
        batch = self._collect(min(max(0, due_ns - self._now()), 3_600_000_000_000))
        if self._now() - due_ns > _STOOD_STILL_NS:
            until_ns = self._now() + _CATCH_UP_NS
            while more := self._collect(max(0, until_ns - self._now())):
                batch += more
                if any(given and self._now() - given.at_ns > _CATCH_UP_NS for given in more):
                    until_ns = self._now() + _CATCH_UP_NS
        return batch

    def _collect(self, within_ns: int) -> list[Input | None]:
        """All that has come, once something has; nothing if nothing comes within that time."""
        batch: list[Input | None] = []
        try:
            batch.append(self._inbox.get(timeout=within_ns / 1e9))
            while True:
                batch.append(self._inbox.get_nowait())
        except queue.Empty:
            return batch
