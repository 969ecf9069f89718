"""Whom the shop knows by name. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from firmware.core.call import Call, told
from firmware.core.outbox import Event

Flag = Literal["vip", "nuisance", "do_not_record"]
_WHO_CALLS = ("call.ringing", "call.caller_id", "call.dialled", "call.answered", "call.ended", "call.missed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """One number and who has it. number: E.164. reading: the name in kana. by: who has told it; updated: UTC.

    Several numbers of one person have one contact_id, and all else in common.
    """

    contact_id: str
    number: str
    name: str
    reading: str | None = None
    flags: tuple[Flag, ...] = ()
    note: str | None = None
    by: str
    updated: str

    def to_doc(self) -> dict[str, Any]:
        return asdict(self) | {"flags": list(self.flags)}

    @staticmethod
    def from_doc(doc: Mapping[str, Any]) -> Contact:
        return Contact(**{**doc, "flags": tuple(doc["flags"])})


def number_of(call: Call) -> str | None:
    """Of the other side, as E.164."""
    if call.direction == "outgoing":
        return call.dialled.number if call.dialled else None
    return call.caller.number


def enriched(
    call: Call, told_of: Sequence[Event], known: Callable[[str], Contact | None], before: str | None
) -> Event | None:
    """What the contacts add to a call's events. before: the contact that was told last of this call."""
    number = number_of(call)
    at = next((each for each in told_of if each.type in _WHO_CALLS), None)
    if number is None or at is None or (contact := known(number)) is None or contact.contact_id == before:
        return None
    data = {
        "line": call.line,
        "direction": call.direction,
        "caller": told(call.caller) if call.direction != "outgoing" else None,
        "dialled": told(call.dialled) if call.dialled else None,
        "contact": {
            "contact_id": contact.contact_id,
            "name": contact.name,
            "reading": contact.reading,
            "flags": list(contact.flags),
        },
        "correction": before is not None,
        "clock": call.clock.state,
    }
    return Event(type="call.enriched", subject=call.call_id, time=at.time, data=data)
