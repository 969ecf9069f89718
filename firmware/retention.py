"""Lets recordings go as the owner has chosen: the oldest first, one at a time, each written down before it goes."""

from __future__ import annotations

import itertools
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from firmware.core.call import ClockRead
from firmware.core.outbox import Event
from firmware.core.retention import Candidate, Limits, Room, Why, days_left, why
from firmware.records.store import CallStore
from firmware.settings import RetentionSettings
from firmware.vitals import disk_free_mb

log = logging.getLogger(__name__)

_LOOKED_AT = 50  # calls, in one go
_AGAIN_NS = 3_600_000_000_000  # what had to stay is looked at once more
_WARN_NS = 86_400_000_000_000
_MOST_COUNTED = 5000
_RECENT_S = 7 * 86_400
_DAY_S = 86_400
_BY = "retention"


class Retention:
    """Thread: the loop. Nothing is deleted where no limit is set."""

    def __init__(self, settings: RetentionSettings, data: Path, store: CallStore) -> None:
        self._settings, self._data, self._store = settings, data, store
        self.limits = Limits(keep_days=settings.keep_days, total_mb=settings.total_mb, free_mb=settings.free_mb)
        self._sizes = _Sizes(data / "recordings")
        self._settled = 0  # number of the last call that was looked at
        self._again_ns = 0
        self._warned_ns: int | None = None

    def start(self) -> None:
        """Remove the files of which the last run had written down that they go."""
        going = self._store.note("deleting")
        if going:
            self._remove_files(going["call_id"])

    def tick(self) -> None:
        """Once a second, while nobody is calling. Raises StoreError."""
        now = self._store.read_clock()
        now_s = None if now.state == "unsynced" else now.wall_ns / 1e9
        self._sizes.step(now_s)
        if not self.limits.any:
            return
        if now.mono_ns > self._again_ns:  # held, open and undelivered ones may be free to go by now
            self._settled, self._again_ns = 0, now.mono_ns + _AGAIN_NS
        self._warn(now, now_s)
        limit = self._store.oldest_undelivered()
        room = Room(recordings_mb=self._sizes.mb, free_mb=disk_free_mb(self._data))
        for doc_id, doc in itertools.islice(self._store.numbered(self._settled), _LOOKED_AT):
            if doc["recording"] and not doc["recording"].get("deleted"):
                candidate = self._candidate(doc, limit)
                reason = why(candidate, self.limits, room, now_s)
                if reason:
                    self._delete(doc["call_id"], reason)
                    return  # one a second: the room is measured anew
                if not candidate.must_stay and candidate.ended_s is not None:
                    return  # the oldest that could go may stay, and so may all behind it
            self._settled = doc_id

    @property
    def days_left(self) -> int | None:
        """How long the disk lasts; None also where the owner has chosen that the oldest make room."""
        if self.limits.free_mb or self.limits.total_mb:
            return None
        return days_left(disk_free_mb(self._data), self._sizes.mb_a_day, reserve_mb=50)

    def _candidate(self, doc: dict[str, Any], undelivered: str | None) -> Candidate:
        # One that was imported is as old as it has been here: whoever brings old calls wants to keep them.
        imported = doc.get("imported")
        ended = imported["at"] if imported else doc["ended"] or doc["opened"]
        told = imported or doc["clock"]["state"] != "unsynced"
        return Candidate(
            call_id=doc["call_id"],
            ended_s=datetime.fromisoformat(ended).timestamp() if told else None,
            held=self._store.is_held(doc["call_id"]),
            open=doc["outcome"] is None,
            undelivered=undelivered is not None and ended >= undelivered,
        )

    def _delete(self, call_id: str, reason: Why) -> None:
        """First the word, then the deed: a power cut between them is made good at the next start."""
        size = self._sizes.of(call_id)
        if self._settings.records:
            self._store.remove([call_id], reason, _BY, notes={"deleting": {"call_id": call_id}})
        elif not self._store.delete_recording(call_id, reason, _BY, {"deleting": {"call_id": call_id}}):
            return
        self._remove_files(call_id)
        self._sizes.less(size)
        log.info("event=recording_deleted call=%s reason=%s", call_id, reason)

    def _remove_files(self, call_id: str) -> None:
        for path in (self._data / "recordings").glob(f"*/{call_id}.*"):
            try:
                path.unlink()
            except OSError as error:
                log.error("event=delete_failed call=%s reason=%s", call_id, error.strerror)

    def _warn(self, now: ClockRead, now_s: float | None) -> None:
        """Once a day: how many recordings are about to go by their age."""
        if not (self.limits.keep_days and self._settings.warn_days) or now_s is None:
            return
        if self._warned_ns is not None and now.mono_ns - self._warned_ns < _WARN_NS:
            return
        self._warned_ns = now.mono_ns
        before_s = now_s - (self.limits.keep_days - self._settings.warn_days) * _DAY_S
        count = 0
        for number, doc in enumerate(self._store.calls()):
            ended_s = datetime.fromisoformat(doc["ended"] or doc["opened"]).timestamp()
            if number >= _MOST_COUNTED or (doc["clock"]["state"] != "unsynced" and ended_s > before_s):
                break
            if doc["recording"] and not doc["recording"].get("deleted"):
                count += not self._store.is_held(doc["call_id"])
        if count:
            data = {
                "recordings": count,
                "within_days": self._settings.warn_days,
                "keep_days": self.limits.keep_days,
                "clock": now.state,
            }
            at = now.iso(now.mono_ns)
            self._store.tell([Event(stream="system", type="retention.warning", subject=_BY, time=at, data=data)])


class _Sizes:
    """How much the recordings take, and how fast that grows: a month's folder at each step, all of them in turn."""

    def __init__(self, recordings: Path) -> None:
        self._recordings = recordings
        self._months: dict[str, tuple[int, int]] = {}  # bytes, and bytes of the last days
        self._todo: list[str] | None = None
        self._whole = False

    @property
    def mb(self) -> float | None:
        """None until every folder was seen."""
        return sum(own for own, _ in self._months.values()) / 1e6 if self._whole else None

    @property
    def mb_a_day(self) -> float | None:
        return sum(recent for _, recent in self._months.values()) / 1e6 / 7 if self._whole else None

    def step(self, now_s: float | None) -> None:
        if not self._todo:
            self._whole = self._todo is not None
            try:
                self._todo = sorted(path.name for path in self._recordings.iterdir() if path.is_dir())
            except OSError:
                self._todo = []  # nothing was recorded yet
            self._months = {month: size for month, size in self._months.items() if month in self._todo}
            if not self._todo:
                self._whole = True
                return
        month = self._todo.pop()
        own = recent = 0
        for path in (self._recordings / month).glob("*"):
            try:
                found = path.stat()
            except OSError:
                continue  # it has just gone
            own += found.st_size
            recent += found.st_size if now_s is not None and now_s - found.st_mtime < _RECENT_S else 0
        self._months[month] = own, recent

    def of(self, call_id: str) -> tuple[str, int]:
        paths = [*self._recordings.glob(f"*/{call_id}.*")]
        return (paths[0].parent.name if paths else ""), sum(path.stat().st_size for path in paths)

    def less(self, size: tuple[str, int]) -> None:
        month, octets = size
        if month in self._months:
            own, recent = self._months[month]
            self._months[month] = max(0, own - octets), recent
