"""How much of a telephone number an event tells outside the unit. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Literal

Privacy = Literal["full", "last4", "hmac", "none"]

# Keys below which an event holds a person: who called, who waits, who was dialled.
_PEOPLE = ("caller", "waiting", "dialled")
# What of a person is, or holds, a number or a name. The rest (presentation, sources, kind ...) stays.
_NUMBERS = ("number", "display", "raw", "digits", "called", "redirecting")
_AREA = ("region_ja", "region_en")


def masked(body: dict[str, Any], level: Privacy, key: bytes) -> dict[str, Any]:
    """The event with its numbers as a sink may see them; the event itself is not changed.

    last4 adds `last4`; hmac adds `number_hmac`, HMAC-SHA-256 in hexadecimal of the E.164 number (of the digits as
    received where there is none), by which the same caller can be joined at all units that have the key. `name` and the
    numbers are null, with either; `none` takes the area too. Of a contact the flags stay, and with hmac its id.
    data.privacy tells the level.
    """
    data = body["data"]
    if level == "full" or not any(data.get(name) for name in _PEOPLE):
        return body
    people = {name: _person(data[name], level, key) for name in _PEOPLE if data.get(name)}
    if contact := data.get("contact"):
        kept = {"flags", "contact_id"} if level == "hmac" else {"flags"}
        people["contact"] = {name: value if name in kept else None for name, value in contact.items()}
    return {**body, "data": {**data, **people, "privacy": level}}


def _person(person: Mapping[str, Any], level: Privacy, key: bytes) -> dict[str, Any]:
    hidden = [*_NUMBERS, "name", *(_AREA if level == "none" else ())]
    known = str(person.get("number") or person.get("digits") or person.get("raw") or "")
    out: dict[str, Any] = {name: None if name in hidden else value for name, value in person.items()}
    if "disagreement" in person:
        out["disagreement"] = [{**each, "raw": None} for each in person["disagreement"]]
    if level == "last4":
        out["last4"] = known[-4:] if len(known) > 4 else None
    elif level == "hmac":
        out["number_hmac"] = hmac.new(key, known.encode(), hashlib.sha256).hexdigest() if known else None
    return out
