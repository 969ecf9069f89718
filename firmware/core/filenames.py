"""What the name of a recording tells that a telephone's recorder app has made: when, with whom, which way. Pure.

Names as the apps give them: `Call recording 0300001234_261127_101500` (Samsung; a time of two-digit year behind the
number), `2026-11-27 10-15-00 (phone) Shop (0300001234) ↙` (Cube ACR), `20261127_101500.123+0900_in_0300001234` (BCR),
`Shop(0300001234)_20261127101500` (Xiaomi), `20261127T101500 0300001234 ↓`, `Call_20261127_101500_INCOMING_0300001234`.
What fits more than one reading, or none, is unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Literal

_DATE = r"(?P<year>(?:19|20)\d\d)(?P<s>[-._ ]?)(?P<month>\d\d)(?P=s)(?P<day>\d\d)"
_TIME = (
    r"(?P<hour>\d\d)(?P<t>[-.:_h]?)(?P<minute>\d\d)(?P=t)(?P<second>\d\d)(?:[.,]\d{1,6})?(?P<zone>[+-]\d\d:?\d\d|Z)?"
)
_WHOLE = re.compile(rf"(?<!\d){_DATE}[ _T-]{{0,3}}{_TIME}(?!\d)")
_SHORT = re.compile(
    r"(?<=_)(?P<year>\d\d)(?P<month>\d\d)(?P<day>\d\d)_(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)(?!\d)"
)
# A number, with what people put between its digits; behind a bracket it may be written in any way.
_NUMBER = re.compile(r"(?<![\dA-Za-z])\+?\d(?:[ ()-]{0,2}\d){8,14}(?![\dA-Za-z])")
_IN = re.compile(r"(?<![a-z])(?:in|incoming|inbound|received)(?![a-z])|着信|受信|[↓↙]", re.IGNORECASE)
_OUT = re.compile(r"(?<![a-z])(?:out|outgoing|outbound|dialed|dialled)(?![a-z])|発信|[↑↗]", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """None: the name does not tell it. at: without a zone where the name has none; digits: with + where it is there."""

    at: datetime | None = None
    digits: str | None = None
    direction: Literal["incoming", "outgoing"] | None = None


def told(name: str) -> Told:
    """Of a file's name without its ending, or of a title."""
    times = [found for pattern in (_WHOLE, _SHORT) for found in pattern.finditer(name)]
    dated = [(found, at) for found in times if (at := _datetime(found))]
    rest = name
    for found, _ in dated:
        rest = rest[: found.start()] + "\0" * (found.end() - found.start()) + rest[found.end() :]
    numbers = {re.sub(r"[ ()-]", "", found[0]) for found in _NUMBER.finditer(rest)}
    ways = [way for way, pattern in (("incoming", _IN), ("outgoing", _OUT)) if pattern.search(rest)]
    return Told(
        at=dated[0][1] if len(dated) == 1 else None,
        digits=next(iter(numbers)) if len(numbers) == 1 else None,
        direction=ways[0] if len(ways) == 1 else None,  # type: ignore[arg-type]
    )


def _datetime(found: re.Match[str]) -> datetime | None:
    """None: no day or time of the calendar."""
    part = found.groupdict()
    year = int(part["year"]) + (2000 if len(part["year"]) == 2 else 0)
    try:
        month, day, hour, minute, second = (int(part[key]) for key in ("month", "day", "hour", "minute", "second"))
        at = datetime(year, month, day, hour, minute, second)  # noqa: DTZ001 - most names have no zone
    except ValueError:
        return None
    zone = part.get("zone")
    if not zone:
        return at
    if zone == "Z":
        return at.replace(tzinfo=UTC)
    minutes = int(zone[1:3]) * 60 + int(zone[-2:])
    if minutes >= 24 * 60:
        return None
    return at.replace(tzinfo=timezone(timedelta(minutes=-minutes if zone[0] == "-" else minutes)))
