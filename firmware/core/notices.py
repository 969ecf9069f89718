"""What the owner is told on his telephone, and when: quiet hours, the month's budget, the daily digest. Pure.

Words are in `words`. All datetimes are aware, in the unit's zone where nothing else is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from typing import Any, Literal

Hours = tuple[time, time]
Kind = Literal["missed", "alarm"]

_WARN = 0.9  # of the budget
_OF_SINKS = ("outbox", "parked", "unconfirmed")  # kinds of alarms


def time_of(text: str) -> time | None:
    """A time of day, as "19:00"; None: the text is none."""
    found = re.fullmatch(r"(\d{1,2}):(\d\d)", text)
    if not found or int(found[1]) > 23 or int(found[2]) > 59:
        return None
    return time(int(found[1]), int(found[2]))


def hours_of(text: str) -> Hours | None:
    """A stretch of the day, as "22:00-07:00"; it may go over midnight. None: the text is none."""
    begin, _, end = text.partition("-")
    first, last = time_of(begin.strip()), time_of(end.strip())
    return None if first is None or last is None or first == last else (first, last)


def is_within(now: datetime, hours: Hours | None) -> bool:
    """Whether it is within a stretch of the day; its end is not."""
    if hours is None:
        return False
    begin, end = hours
    at = now.time().replace(tzinfo=None)
    return begin <= at < end if begin < end else at >= begin or at < end


def latest(now: datetime, at: time) -> datetime:
    """When it was last this time of day."""
    today = now.replace(hour=at.hour, minute=at.minute, second=0, microsecond=0)
    return today if today <= now else today - timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The messages of a calendar month. limit 0: as many as there are.

    Ordinary messages go up to the limit; alarms a tenth further, since they matter more; then nothing goes.
    """

    limit: int
    month: str = ""
    sent: int = 0
    warned: bool = False

    def at(self, now: datetime) -> Budget:
        """As it stands now: a new month begins at nothing."""
        month = f"{now:%Y-%m}"
        return self if month == self.month else replace(self, month=month, sent=0, warned=False)

    def allows(self, kind: Kind | None, cost: int) -> bool:
        """Whether so many messages of this kind may go. kind None: of no event, as the digest."""
        most = self.limit + max(1, self.limit // 10) if kind == "alarm" else self.limit
        return not self.limit or self.sent + cost <= most

    def spent(self, cost: int) -> Budget:
        return replace(self, sent=self.sent + cost)

    @property
    def is_short(self) -> bool:
        """Nine tenths are gone, and nobody was told."""
        return bool(self.limit) and not self.warned and self.sent >= _WARN * self.limit


def kind_of(event: Mapping[str, Any], *, missed: bool, alarms: bool, but: str) -> Kind | None:
    """What of a notification an event makes; None: nothing. but: alarms about this sink cannot be told by it."""
    if missed and event["type"] == "call.missed":
        return "missed"
    of = str(event["subject"]).partition("/")[2]
    if alarms and event["type"] == "alarm.raised" and not (event["data"]["kind"] in _OF_SINKS and of == but):
        return "alarm"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What appears on the telephone."""

    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """Incoming calls of some time, and how many callers wait to be called back."""

    since: datetime
    answered: int = 0
    missed: int = 0
    waiting: int = 0

    @property
    def incoming(self) -> int:
        return self.answered + self.missed


def day(calls: Iterable[Mapping[str, Any]], since: datetime, waiting: int) -> Day:
    """calls: records of the time since then. A call that is going on counts as nothing yet."""
    ended = [call for call in calls if call["direction"] == "incoming" and call["outcome"] not in (None, "imported")]
    missed = sum(call["outcome"] == "missed" for call in ended)
    return Day(since=since, answered=len(ended) - missed, missed=missed, waiting=waiting)
