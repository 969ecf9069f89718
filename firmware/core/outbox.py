"""The outbox as delivery sees it: all that it knows of the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from firmware.core.facts import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """One event as it was written with its call. body is the CloudEvents JSON object, complete."""

    stream: Stream
    sequence: int
    body: dict[str, Any]
    state: Literal["pending", "accepted", "parked"]


class Outbox(Protocol):
    """Thread: loop only."""

    def pending(self, limit: int) -> Sequence[OutboxEntry]:
        """Up to limit entries in state pending, in order of sequence within each stream."""

    def mark(self, stream: Stream, sequence: int, state: Literal["accepted", "parked"]) -> None:
        """Set an entry's state. Written with the next commit or flush(): a lost mark only means a repeat."""
