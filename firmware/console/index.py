"""All calls by number and kind, in memory: what is searched as somebody types must not read every call."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from firmware.records.store import CallReader


class CallIndex:
    """Of one store, in the order of filing. Thread: any; one at a time gets in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: list[int] = []
        self._digits: list[str] = []  # every spelling of who was at the other end
        self._kinds: list[str | None] = []  # outcome; None: it goes on
        self._open: list[int] = []  # places of those

    def find(self, reader: CallReader, digits: str, kind: str, start: int, count: int) -> list[dict[str, Any]]:
        """So many calls from the start-th on that fit, newest first. What was filed since is taken in before."""
        with self._lock:
            self._take_in(reader)
            places = [n for n in reversed(range(len(self._ids))) if self._fits(n, digits, kind)]
            numbers = [self._ids[n] for n in places]
        return list(islice(self._read(reader, numbers[start:]), count))

    def _fits(self, place: int, digits: str, kind: str) -> bool:
        return (not kind or self._kinds[place] == kind) and digits in self._digits[place]

    def _take_in(self, reader: CallReader) -> None:
        again, self._open = self._open, []
        for place in again:
            call = reader.call(self._ids[place])
            if call is not None:
                self._put(place, call)
        for number, call in reader.numbered(self._ids[-1] if self._ids else 0):
            self._ids.append(number)
            self._digits.append("")
            self._kinds.append(None)
            self._put(len(self._ids) - 1, call)

    def _put(self, place: int, call: Mapping[str, Any]) -> None:
        self._digits[place], self._kinds[place] = digits_of(call), call["outcome"]
        if call["outcome"] is None:
            self._open.append(place)

    @staticmethod
    def _read(reader: CallReader, numbers: list[int]) -> Iterator[dict[str, Any]]:
        """One that was erased meanwhile is passed over."""
        for number in numbers:
            call = reader.call(number)
            if call is not None:
                yield call


def digits_of(call: Mapping[str, Any]) -> str:
    """Every spelling of who was at the other end, digits alone."""
    caller, dialled = call["caller"], call["dialled"] or {}
    told = (caller["raw"], caller["number"], caller["national"], dialled.get("digits"), dialled.get("number"))
    return " ".join({"".join(c for c in each if c.isdigit()) for each in told if each})
