"""A sink that takes one delivery at a time, by a call that blocks: a thread of its own makes the call.

What is to be delivered is chosen on the loop's thread when the call before it is settled, so that nothing but the
present delivery is in memory. What became of it comes back to the loop as facts; the outbox's cursor is its only trace.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, TypeVar

from firmware.core.facts import DeliveryFact, EventAccepted, EventRefused, SinkConnected, SinkLost
from firmware.core.outbox import Outbox, Stream
from firmware.delivery.keys import Unready

_log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 60
_MUCH_LONGER_WAIT_S = 600
_PATIENT = 10  # failures in succession, some 5 minutes of them; then it is asked more rarely
_CLOSE_S = 1.8
_STUCK_S = 300  # a call that takes longer is left to itself: an answer may come a byte at a time
_MOST_STUCK = 3

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Delivery(Generic[_T]):
    """What goes out at once. events: those that it tells of, which may be none."""

    events: tuple[tuple[Stream, int], ...]
    content: _T


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a delivery.

    held: it is tried again, after wait_s or later. code: of HTTP, 0 where there was none. wrong: one sentence that
    tells what must be mended; None where the sink itself works.
    """

    verdict: Literal["accepted", "parked", "held"]
    code: int = 0
    wrong: str | None = None
    wait_s: float = 0.0


class Courier(ABC, Generic[_T]):
    """Delivers the events of one outbox, at least once.

    post: takes the facts, from the courier's thread. Thread: all methods on the loop's, but check() and deliver().
    After each fact: settle(), then pump().
    """

    def __init__(self, name: str, outbox: Outbox, post: Callable[[DeliveryFact], None]) -> None:
        self.name = name
        self._outbox = outbox
        self._post = post
        self._todo: queue.SimpleQueue[Delivery[_T] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Delivery[_T], Answer]] = queue.SimpleQueue()
        self._under_way: Delivery[_T] | None = None
        self._began_ns = 0
        self._stuck: list[threading.Thread] = []
        self._unsettled: set[tuple[Stream, int]] = set()  # told of by what is under way, the fact not back yet
        self._failures = 0
        self._hold_until_ns = 0
        self._closed = True  # until start(), and from close() on
        self._works = False  # the courier's thread, like the next one
        self._told: set[str] = set()  # sentences told since it last worked
        # What it logs can hold whole addresses, and those hold secrets.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._thread = self._new_thread()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._work, args=(self._todo,), name=f"sink-{self.name}", daemon=True)

    # -- what a sink is

    @abstractmethod
    def next(self) -> Delivery[_T] | None:
        """What is to go out now. Asked about once a second, and never while something is under way."""

    @abstractmethod
    def check(self) -> None:
        """Whether it could deliver. Raises Unready. Thread: the courier's."""

    @abstractmethod
    def deliver(self, delivery: Delivery[_T]) -> Answer:
        """Deliver, and wait for the answer. May raise Unready. Thread: the courier's."""

    @abstractmethod
    def done(self, delivery: Delivery[_T], answer: Answer) -> None:
        """A delivery is settled: its events are marked in the outbox, unless it is held."""

    @property
    def patient(self) -> bool:
        """Whether it keeps events back on purpose now."""
        return False

    # -- what the unit does with it

    def start(self) -> None:
        """Begin to deliver. Never blocks for the network, never raises for the receiver."""
        self._closed = False
        self._thread.start()

    def pump(self) -> None:
        """Hand over what is due. Call it after each settle(), each new event, and once a second.

        Before start() it does nothing: a long recovery would be taken for a receiver that does not answer.
        """
        if self._closed:
            return
        now_ns = time.monotonic_ns()
        if self._under_way and not self._unsettled and not self._answers.empty():
            delivery, answer = self._answers.get()
            if delivery is self._under_way:  # or else of a thread that was left alone in the very moment
                self._finish(delivery, answer)
        elif self._under_way and now_ns - self._began_ns > _STUCK_S * 1e9 and self._answers.empty():
            self._leave(self._under_way)
        if self._under_way or now_ns < self._hold_until_ns:
            return
        following = self.next()
        if following is not None:
            self._under_way, self._unsettled, self._began_ns = following, set(following.events), now_ns
            self._todo.put(following)

    def _leave(self, delivery: Delivery[_T]) -> None:
        """Leave a thread alone that does not come back, and go on with another."""
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        if len(self._stuck) >= _MOST_STUCK:
            return
        self._stuck.append(self._thread)
        self._todo = queue.SimpleQueue()
        self._thread = self._new_thread()
        self._thread.start()
        self._unsettled.clear()
        wrong = f"Sink {self.name}: the answer does not come to an end; look at the receiver. It is tried again."
        self._lose(wrong)
        self._finish(delivery, Answer(verdict="held", wrong=wrong))

    def settle(self, fact: DeliveryFact) -> None:
        """Take a fact back that post got, in the order of posting, after its event was marked in the outbox."""
        if fact.sink == self.name and isinstance(fact, EventAccepted | EventRefused):
            self._unsettled.discard((fact.stream, fact.sequence))

    def close(self) -> None:
        """At most 2 s. What is under way then may come again after the next start. Nothing is posted after it."""
        self._closed = True
        self._todo.put(None)
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)
        while not self._answers.empty():  # answers whose facts the loop has not seen
            delivery, answer = self._answers.get()
            if answer.verdict == "accepted":
                for stream, sequence in delivery.events:
                    self._outbox.mark(stream, sequence, "accepted")
                self.done(delivery, answer)

    def _finish(self, delivery: Delivery[_T], answer: Answer) -> None:
        self._under_way = None
        if answer.verdict == "held":
            self._failures += 1
            wait_s = max(answer.wait_s, _wait_s(self._failures))
            self._hold_until_ns = time.monotonic_ns() + round(wait_s * 1e9)
        else:
            self._failures = 0
        self.done(delivery, answer)

    # -- the courier's thread

    def _work(self, todo: queue.SimpleQueue[Delivery[_T] | None]) -> None:
        if wrong := self._tried(self.check).wrong:
            self._lose(wrong)
        while (delivery := todo.get()) is not None:
            answer = self._tried(partial(self.deliver, delivery))
            if todo is not self._todo:
                return  # this thread was left alone meanwhile
            self._answers.put((delivery, answer))  # before its facts: they make the loop look for it
            self._tell(delivery, answer)

    def _tried(self, work: Callable[[], Answer | None]) -> Answer:
        try:
            return work() or Answer(verdict="accepted")
        except Unready as unready:
            return Answer(verdict="held", wrong=str(unready))
        except Exception as error:  # noqa: BLE001  whatever a library raises: the next delivery must have a thread
            # Its name only: what it says could hold a number or a secret.
            return Answer(
                verdict="held",
                wrong=f"Sink {self.name}: a fault in this program ({type(error).__name__}); it is tried again by "
                "itself, send the log to the maker.",
            )

    def _tell(self, delivery: Delivery[_T], answer: Answer) -> None:
        if answer.wrong is not None:
            self._lose(answer.wrong)
        elif not self._works and answer.verdict == "accepted":
            self._works = True
            self._told.clear()
            _log.info("sink=%s state=works", self.name)
            self._tell_fact(SinkConnected(at_ns=time.monotonic_ns(), sink=self.name))
        at_ns = time.monotonic_ns()
        for stream, sequence in delivery.events:
            if answer.verdict == "accepted":
                self._tell_fact(EventAccepted(at_ns=at_ns, sink=self.name, stream=stream, sequence=sequence))
            else:
                self._tell_fact(
                    EventRefused(
                        at_ns=at_ns,
                        sink=self.name,
                        stream=stream,
                        sequence=sequence,
                        code=answer.code,
                        retry=answer.verdict == "held",
                    )
                )

    def _lose(self, reason: str) -> None:
        """Told once until it works again; repeats at debug."""
        first = reason not in self._told
        self._works = False
        self._told.add(reason)
        _log.log(logging.WARNING if first else logging.DEBUG, 'sink=%s reason="%s"', self.name, reason)
        if first:
            self._tell_fact(SinkLost(at_ns=time.monotonic_ns(), sink=self.name, reason=reason))

    def _tell_fact(self, fact: DeliveryFact) -> None:
        if not self._closed:
            self._post(fact)


def _wait_s(failures: int) -> float:
    """The back-off before the next attempt, longer with each failure, at random within."""
    longest = _LONGEST_WAIT_S if failures <= _PATIENT else _MUCH_LONGER_WAIT_S
    return random.uniform(1, min(longest, 2 ** min(failures, 10)))
