"""The record of all calls and the outbox of their events: a TinyDB file that is replaced as a whole, never half.

One process owns it (flock). A commit writes a call and its events in one step: a new file, synced, then renamed over
the old one. What commit() returned from is on the disk. The file is plain TinyDB JSON: stock TinyDB opens it.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from tinydb import TinyDB
from tinydb.storages import Storage
from tinydb.table import Document

from firmware.core.call import SCHEMA as CALL_SCHEMA
from firmware.core.call import Call, CallEvent
from firmware.core.facts import Stream
from firmware.core.outbox import OutboxEntry

SCHEMA = 1  # of the file
READS = f"{SCHEMA} (calls up to {CALL_SCHEMA})"
_ACCEPTED_KEPT = 1000  # accepted events that stay for a replay


class StoreError(OSError):
    """The store cannot be opened or written: one sentence that says what, where and how to mend it."""


class Damaged(StoreError):
    """The file is there and is no whole store."""


class _WholeFile(Storage):
    """TinyDB storage that holds the data in memory and replaces the file in one step when told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, dict[str, Any]] | None = _load(path)
        self.dirty = False

    def read(self) -> dict[str, dict[str, Any]] | None:
        return self.data

    def write(self, data: dict[str, dict[str, Any]]) -> None:
        self.data, self.dirty = data, True

    def flush(self) -> None:
        """Make the memory durable. Raises OSError; then the file is as it was, and the memory still to be written."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".new")
        text = json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))
        descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self.dirty = False


class _Snapshot(Storage):
    """TinyDB storage over one reading of the file; never writes. For readers beside the running unit."""

    def __init__(self, path: Path) -> None:
        self._data = _load(path)

    def read(self) -> dict[str, dict[str, Any]] | None:
        return self._data

    def write(self, data: dict[str, dict[str, Any]]) -> None:
        raise StoreError("This is a reader's snapshot of the store; only the unit writes to it.")


def _load(path: Path) -> dict[str, dict[str, Any]] | None:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        kind = Damaged if error.errno == errno.EIO else StoreError  # a bad block of the card
        raise kind(f"{path}: cannot be read ({error.strerror}); check its rights and the card.") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one
        raise Damaged(f"{path}: is damaged ({error}); keep a copy of it and put back a backup.") from error
    try:
        _check(data)
    except _OtherSchema as error:
        raise StoreError(
            f"{path}: has schema {error}, this version reads {READS}; install the version that wrote it."
        ) from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        # What the error says may hold a number of a caller, so it is not told.
        raise Damaged(f"{path}: is damaged (a record in it is not whole); put back a backup.") from error
    return cast(dict[str, dict[str, Any]], data)


class _OtherSchema(Exception):
    """The store, or a record in it, is of another version."""


def _check(data: Any) -> None:
    """Raises _OtherSchema, and for anything that is no whole store what comes."""
    _check_schema(data["meta"]["1"])
    _check_is(str, data["meta"]["1"]["store_id"])
    for doc_id, call in data.get("calls", {}).items():
        _check_schema(call, (1, CALL_SCHEMA))
        _check_is(int, int(doc_id), call["line"])
        _check_is(str, Call.from_dict(call).to_dict()["call_id"])
    for doc_id, entry in data.get("outbox", {}).items():
        _check_is(int, int(doc_id), entry["sequence"])
        _check_is(str, entry["stream"], entry["state"])
        _check_is(dict, entry["body"])


def _check_schema(record: Any, known: tuple[int, ...] = (SCHEMA,)) -> None:
    _check_is(int, record["schema"])
    if record["schema"] not in known:
        raise _OtherSchema(record["schema"])


def _check_is(kind: type, *values: Any) -> None:
    if not all(isinstance(value, kind) for value in values):
        raise TypeError


def _free_name(name: str) -> Path:
    """A path that is not taken: name, or name-2, name-3."""
    tries = (Path(name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(path for path in tries if not path.exists())


class CallStore:
    """The only owner of the call records and the outbox. Thread: the loop. Raises StoreError.

    source: what the events' CloudEvents `source` says, e.g. /tsuroku/SITE/UNIT.
    """

    def __init__(self, path: Path, source: str) -> None:
        self._source = source
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = path.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise StoreError(f"{path}: another unit is running on this data; stop it first.") from error
        try:
            try:
                self._storage = _WholeFile(path)
            except Damaged:
                # Calls must be recorded whatever became of the old ones; they stay for whoever can mend them.
                path.rename(_free_name(f"{path}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"))
                self._storage = _WholeFile(path)
        except StoreError:
            self._lock.close()
            raise
        except OSError as error:
            self._lock.close()
            raise StoreError(
                f"{path}: is damaged and cannot be set aside ({error.strerror}); mend the card."
            ) from error
        # The last damaged store that was found here and not taken away since; a new one was begun in its place.
        self.set_aside = max(path.parent.glob(f"{path.name}.damaged-*"), default=None)
        self._db = TinyDB(storage=lambda: self._storage)
        self._calls, self._outbox, self._meta = (self._db.table(name) for name in ("calls", "outbox", "meta"))
        if self._storage.data is None:
            self._meta.insert(Document({"schema": SCHEMA, "store_id": str(uuid.uuid4())}, doc_id=1))
            self._flush()
        self.store_id: str = cast(Document, self._meta.get(doc_id=1))["store_id"]
        self._index()

    def _index(self) -> None:
        """What is looked up on every commit."""
        self._call_ids = {call["call_id"]: call.doc_id for call in self._calls}
        self._events = {(e["stream"], e["sequence"]): e.doc_id for e in self._outbox}
        self._last_event = max(self._events.values(), default=0)
        self._last: dict[Stream, int] = {"call": 0, "system": 0, "audit": 0}
        for stream, sequence in self._events:
            self._last[stream] = max(self._last[stream], sequence)
        self._pending = sorted((e["stream"], e["sequence"]) for e in self._outbox if e["state"] == "pending")

    def commit(self, call: Call, events: Sequence[CallEvent]) -> None:
        """Write a call (new or changed) and its events, all or nothing. On return they are on the disk."""
        doc_id = self._call_ids.get(call.call_id) or max(self._call_ids.values(), default=0) + 1
        before = self._calls.get(doc_id=doc_id)
        self._calls.upsert(Document(call.to_dict(), doc_id=doc_id))
        first = self._last_event + 1
        for number, event in enumerate(events):
            sequence = self._last["call"] + 1 + number
            entry = {"stream": "call", "sequence": sequence, "state": "pending", "body": self._body(event, sequence)}
            self._outbox.insert(Document(entry, doc_id=first + number))
        try:
            self._flush()
        except StoreError:
            if isinstance(before, Document):
                self._calls.upsert(before)  # in its old place
            else:
                self._calls.remove(doc_ids=[doc_id])
            self._outbox.remove(doc_ids=[first + number for number in range(len(events))])
            raise
        self._call_ids[call.call_id] = doc_id
        for number in range(len(events)):
            self._last["call"] += 1
            self._events["call", self._last["call"]] = self._last_event = first + number
            self._pending.append(("call", self._last["call"]))

    def _body(self, event: CallEvent, sequence: int) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": f"{self.store_id}-call-{sequence}",
            "source": self._source,
            "type": event.type,
            "subject": event.call_id,
            "time": event.time,
            "datacontenttype": "application/json",
            "sequence": sequence,
            "replayed": False,
            "data": event.data,
        }

    def _flush(self) -> None:
        try:
            self._storage.flush()
        except OSError as error:
            raise StoreError(
                f"{self._storage.path}: cannot be written ({error.strerror}); free space or mend the card."
            ) from error

    def flush(self) -> None:
        """Write marks of the outbox that no commit has carried yet, and let the oldest accepted events go."""
        if not self._storage.dirty:
            return
        done = sorted(set(self._events) - set(self._pending))
        old = [key for key in done[:-_ACCEPTED_KEPT] if self._entry(key)["state"] == "accepted"]
        if old:
            self._outbox.remove(doc_ids=[self._events.pop(key) for key in old])
        self._flush()

    # -- reading

    def get(self, call_id: str) -> Call | None:
        doc_id = self._call_ids.get(call_id)
        return None if doc_id is None else Call.from_dict(cast(Document, self._calls.get(doc_id=doc_id)))

    def left_open(self) -> list[Call]:
        """Calls that have no outcome, or whose recording was still open: what a crash left."""
        return [
            Call.from_dict(call)
            for call in self._calls
            if call["outcome"] is None or call["no_recording"] in ("not_ended", "not_closed_yet")
        ]

    # -- the outbox

    def pending(self, limit: int) -> list[OutboxEntry]:
        entries = (self._entry(key) for key in self._pending[:limit])
        return [OutboxEntry(**{k: e[k] for k in ("stream", "sequence", "body", "state")}) for e in entries]

    def mark(self, stream: Stream, sequence: int, state: Literal["accepted", "parked"]) -> None:
        doc_id = self._events.get((stream, sequence))
        if doc_id is None:
            return
        self._outbox.update({"state": state}, doc_ids=[doc_id])
        if (stream, sequence) in self._pending:
            self._pending.remove((stream, sequence))

    def _entry(self, key: tuple[Stream, int]) -> Document:
        return cast(Document, self._outbox.get(doc_id=self._events[key]))

    def outbox_state(self) -> dict[str, Any]:
        """Depth, and the first and last sequence of each stream that has any."""
        streams = {s: [seq for stream, seq in self._events if stream == s] for s, last in self._last.items() if last}
        return {
            "outbox_depth": len(self._pending),
            "streams": {s: {"oldest_seq": min(seqs), "last_seq": max(seqs)} for s, seqs in streams.items() if seqs},
        }

    def close(self) -> None:
        """Write what is left and give the file free."""
        try:
            self.flush()
        finally:
            self._lock.close()


def read_table(path: Path, table: Literal["calls", "outbox"]) -> list[Mapping[str, Any]]:
    """A table of the store, read beside a running unit. Raises StoreError."""
    if not path.exists():
        raise StoreError(f"{path}: there is no store here yet; it is made when the unit first runs.")
    return list(TinyDB(storage=lambda: _Snapshot(path)).table(table))


def unit_runs(path: Path) -> bool:
    """Whether a unit has this store open."""
    try:
        with path.with_suffix(".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
