"""Who was missed and not spoken to since. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from firmware.core.call import Call, ClockRead, told
from firmware.core.contacts import number_of
from firmware.core.outbox import Event

_MOST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """One caller who waits to be called back. call_id: of his last missed call, or of the one that somebody has chosen.

    since: UTC, of his first. due: UTC, when at the latest; who: is to call him; None: nobody has said. by: who has put
    him there by hand, times is 1 then; None: he was missed.
    """

    call_id: str
    number: str
    since: str
    times: int
    due: str | None = None
    who: str | None = None
    by: str | None = None

    def to_kept(self) -> dict[str, Any]:
        """Without the number: it stands in the call, and is erased with it."""
        kept = dataclasses.asdict(self)
        del kept["number"]
        return kept


def restored(kept: Sequence[Mapping[str, Any]], numbers: Mapping[str, str]) -> tuple[Callback, ...]:
    """kept: of to_kept(). numbers: by call, of those calls that are still there."""
    return tuple(
        Callback(number=numbers[each["call_id"]], **each) for each in kept if numbers.get(each["call_id"]) is not None
    )


def after(
    waiting: tuple[Callback, ...],
    call: Call,
    told_of: Sequence[Event],
    wanted: Callable[[str], bool] = lambda time: True,
    due: Callable[[str], str | None] = lambda time: None,
) -> tuple[tuple[Callback, ...], list[Event]]:
    """Who waits after a call's events, and the events of that. The withheld cannot be called back.

    wanted: whether who is missed at a UTC time comes onto the list; due: until when he is to be called.
    """
    events: list[Event] = []
    for each in told_of:
        if each.type == "call.missed" and call.caller.number:
            same = _of(waiting, call.caller.number)
            if same is None and not wanted(each.time):
                continue
            new = Callback(
                call_id=call.call_id, number=call.caller.number, since=each.time, times=0, due=due(each.time)
            )
            same = replace(same or new, call_id=call.call_id, times=(same or new).times + 1)
            waiting = (*(other for other in waiting if other.number != same.number), same)
            events.append(_event("callback.due", same, call, each.time))
        elif each.type == "call.ended" and (number := _spoken_to(call)) and (done := _of(waiting, number)):
            waiting = tuple(other for other in waiting if other is not done)
            events.append(_event("callback.done", done, call, each.time, by="call"))
    return waiting[-_MOST:], events


def put(
    waiting: tuple[Callback, ...], call: Call, due: str | None, who: str | None, by: str, now: ClockRead
) -> tuple[tuple[Callback, ...], list[Event]]:
    """Somebody says when, or by whom, the other side of this call is to be called. Raises ValueError, a sentence."""
    number = number_of(call)
    if number is None:
        raise ValueError("The number of this call is not known; nobody can be called back.")
    known = _of(waiting, number)
    time = now.iso(now.mono_ns)
    one = replace(known or Callback(call_id=call.call_id, number=number, since=time, times=1, by=by), due=due, who=who)
    waiting = tuple(one if other is known else other for other in waiting) if known else (*waiting, one)
    if known:
        return waiting, []
    event = _event("callback.due", one, call, time, by=by)
    return waiting[-_MOST:], [replace(event, data={**event.data, "clock": now.state})]


def done(
    waiting: tuple[Callback, ...], call: Call, by: str, now: ClockRead
) -> tuple[tuple[Callback, ...], list[Event]]:
    """Somebody says that the caller of this call needs no call back. No event: nobody waits for one."""
    found = _of(waiting, number_of(call))
    if found is None:
        return waiting, []
    left = tuple(other for other in waiting if other is not found)
    event = _event("callback.done", found, call, now.iso(now.mono_ns), by=by)
    return left, [replace(event, data={**event.data, "clock": now.state})]


def _of(waiting: tuple[Callback, ...], number: str | None) -> Callback | None:
    return next((each for each in waiting if each.number == number), None)


def _spoken_to(call: Call) -> str | None:
    if call.outcome == "answered":
        return call.caller.number
    return call.dialled.number if call.outcome == "outgoing_answered" and call.dialled else None


def _event(
    type_: Literal["callback.due", "callback.done"], callback: Callback, call: Call, time: str, **extra: str
) -> Event:
    """caller: who waits, as the call that tells of him knew him; of the shop's own call, as `dialled`."""
    data = {
        "line": call.line,
        "caller": told(call.caller) if call.direction != "outgoing" else None,
        "dialled": told(call.dialled) if call.dialled else None,
        "since": callback.since,
        "times": callback.times,
        "call_id": call.call_id,
        "clock": call.clock.state,
    }
    return Event(type=type_, subject=callback.call_id, time=time, data=data | extra)
