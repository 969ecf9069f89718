"""Events, and the outbox as delivery sees it: all that it knows of the store."""

from __future__ import annotations

import typing
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Stream = Literal["call", "system", "audit"]
STREAMS: tuple[Stream, ...] = ("call", "system", "audit")
EventType = Literal[
    "call.ringing",
    "call.caller_id",
    "call.answered",
    "call.dialled",
    "call.waiting",
    "call.ended",
    "call.missed",
    "call.imported",
    "recording.ready",
    "recording.failed",
    "recording.deleted",
]
CALL_EVENTS = (*typing.get_args(EventType), "call.enriched", "callback.due", "callback.done")  # of the stream call
SYSTEM_EVENTS = (
    "retention.warning",
    "alarm.raised",
    "alarm.cleared",
    "alarm.acknowledged",
    "unit.started",
    "selftest.done",
)
EVENT_TYPES = CALL_EVENTS + SYSTEM_EVENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event before the store numbers it. subject: the call's id, or an alarm's name; time: UTC, when it happened.

    data is the CloudEvents data object; "clock" in it says how far the time can be trusted.
    """

    type: str
    subject: str
    time: str
    data: dict[str, Any]
    stream: Stream = "call"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """Somebody who must get every event of some streams: a broker, a webhook, the owner's telephone.

    consumers: who must also confirm them (`events.ack`) before they may go. new: whether it begins with the oldest
    event that is kept or with the next one, where the store does not know it yet.
    """

    name: str
    streams: tuple[Stream, ...] = ("call", "system")
    consumers: tuple[str, ...] = ()
    new: Literal["oldest", "next"] = "oldest"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """One event as it was written with its call. body is the CloudEvents JSON object, complete."""

    stream: Stream
    sequence: int
    body: dict[str, Any]


class Outbox(Protocol):
    """The events of one sink. Thread: loop only."""

    def pending(self, limit: int, but: Container[tuple[Stream, int]] = ()) -> Sequence[OutboxEntry]:
        """Up to limit entries that are neither accepted nor parked, in order of sequence within each stream."""

    def read(self, stream: Stream, sequence: int) -> OutboxEntry | None:
        """An event that is kept, whatever its state; None for any other."""

    def parked(self) -> Sequence[tuple[Stream, int]]:
        """The events that the sink refused for good."""

    def mark(self, stream: Stream, sequence: int, state: Literal["accepted", "parked"]) -> None:
        """Set an entry's state. Written with the next commit or flush(): a lost mark only means a repeat."""
