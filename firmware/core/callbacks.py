"""Who was missed and not spoken to since. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from firmware.core.call import Call, ClockRead, told
from firmware.core.outbox import Event

_MOST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """One caller who waits to be called back. call_id: of his last missed call; since: UTC, of his first."""

    call_id: str
    number: str
    since: str
    times: int

    def to_kept(self) -> dict[str, Any]:
        """Without the number: it stands in the call, and is erased with it."""
        return {"call_id": self.call_id, "since": self.since, "times": self.times}


def restored(kept: Sequence[Mapping[str, Any]], numbers: Mapping[str, str]) -> tuple[Callback, ...]:
    """kept: of to_kept(). numbers: by call, of those calls that are still there."""
    return tuple(
        Callback(number=numbers[each["call_id"]], **each) for each in kept if numbers.get(each["call_id"]) is not None
    )


def after(
    waiting: tuple[Callback, ...], call: Call, told_of: Sequence[Event]
) -> tuple[tuple[Callback, ...], list[Event]]:
    """Who waits after a call's events, and the events of that. The withheld cannot be called back."""
    events: list[Event] = []
    for each in told_of:
        if each.type == "call.missed" and call.caller.number:
            same = _of(waiting, call.caller.number)
            since, times = (same.since, same.times + 1) if same else (each.time, 1)
            due = Callback(call_id=call.call_id, number=call.caller.number, since=since, times=times)
            waiting = (*(other for other in waiting if other is not same), due)
            events.append(_event("callback.due", due, call, each.time))
        elif each.type == "call.ended" and (number := _spoken_to(call)) and (done := _of(waiting, number)):
            waiting = tuple(other for other in waiting if other is not done)
            events.append(_event("callback.done", done, call, each.time, by="call"))
    return waiting[-_MOST:], events


def done(
    waiting: tuple[Callback, ...], call: Call, by: str, now: ClockRead
) -> tuple[tuple[Callback, ...], list[Event]]:
    """Somebody says that the caller of this call needs no call back. No event: nobody waits for one."""
    found = _of(waiting, call.caller.number)
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
