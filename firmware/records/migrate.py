"""A store of schema 1, one JSON file, is taken over into the log: all of it, or nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from firmware.core.call import SCHEMA as CALL_SCHEMA
from firmware.core.call import Call
from firmware.records.database import LogStorage, Put, StoreError
from firmware.records.index import Index
from firmware.records.log import OLD_FILE, free_name, sync_directory

_READS = f"1 (calls up to {CALL_SCHEMA})"


class _Damaged(Exception):
    """The file is there and is no whole store."""


class _OtherSchema(Exception):
    """The store, or a record in it, is of another version."""


def migrate(path: Path, indexes: Mapping[str, Sequence[Index]]) -> Path | None:
    """Make a store at path of the old one beside it, which then is calls.json.migrated.

    Returns where a damaged old one was set aside and still is. Raises StoreError; then nothing has changed.
    """
    old = path.with_name(OLD_FILE)
    if old.exists() and not any(path.glob("*.log")):
        with path.with_name("calls.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreError(f"{old}: another unit is running on this data; stop it first.") from error
            try:
                _take_over(_load(old), path, indexes)
            except _Damaged:
                # Calls must be recorded whatever became of the old ones; they stay for whoever can mend them.
                _set_aside(old)
            except StoreError:
                raise
            except OSError as error:
                raise StoreError(
                    f"{path}: the old store cannot be taken over ({error.strerror}); free space or mend the card."
                ) from error
    if old.exists():
        old.rename(free_name(f"{old}.migrated"))
    return max(path.parent.glob(f"{OLD_FILE}.damaged-*"), default=None)


def _set_aside(old: Path) -> None:
    try:
        old.rename(free_name(f"{old}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"))
    except OSError as error:
        raise StoreError(f"{old}: is damaged and cannot be set aside ({error.strerror}); mend the card.") from error


def _take_over(data: dict[str, Any], path: Path, indexes: Mapping[str, Sequence[Index]]) -> None:
    made = path.with_name(path.name + ".new")
    shutil.rmtree(made, ignore_errors=True)
    storage = LogStorage(made, indexes=indexes, sync=False)
    try:
        meta = data["meta"]["1"]
        storage.commit([Put("meta", 1, {"schema": 2, "store_id": meta["store_id"]})])
        for doc_id, call in sorted(data.get("calls", {}).items(), key=lambda item: int(item[0])):
            storage.commit([Put("calls", int(doc_id), call)])
        entries = sorted(data.get("outbox", {}).values(), key=lambda entry: (entry["stream"], entry["sequence"]))
        for entry in entries:
            storage.commit([Put(f"events.{entry['stream']}", entry["sequence"], entry["body"])])
        storage.commit([Put("cursors", 1, {"sink": "main", "streams": _cursors(entries)})])
    finally:
        storage.close()
    sync_directory(made)
    shutil.rmtree(path, ignore_errors=True)  # without a segment in it
    made.rename(path)
    sync_directory(path.parent)


def _cursors(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    streams: dict[str, Any] = {}
    for stream in {entry["stream"] for entry in entries}:
        own = [entry for entry in entries if entry["stream"] == stream]
        pending = [entry["sequence"] for entry in own if entry["state"] == "pending"]
        last = max(entry["sequence"] for entry in own)
        done = min(pending) - 1 if pending else last
        settled = [entry["sequence"] for entry in own if entry["sequence"] > done and entry["state"] != "pending"]
        parked = [entry["sequence"] for entry in own if entry["state"] == "parked"]
        streams[stream] = {"done": done, "settled": settled, "parked": parked}
    return streams


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except OSError as error:
        if error.errno == errno.EIO:  # a bad block of the card
            raise _Damaged from error
        raise StoreError(f"{path}: cannot be read ({error.strerror}); check its rights and the card.") from error
    try:
        data: dict[str, Any] = json.loads(text)
        _check(data)
    except _OtherSchema as error:
        raise StoreError(
            f"{path}: has schema {error}, this version reads {_READS}; install the version that wrote it."
        ) from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise _Damaged from error
    return data


def _check(data: Any) -> None:
    """Raises _OtherSchema, and for anything that is no whole store what comes."""
    _check_schema(data["meta"]["1"], (1,))
    _check_is(str, data["meta"]["1"]["store_id"])
    for doc_id, call in data.get("calls", {}).items():
        _check_schema(call, (1, CALL_SCHEMA))
        _check_is(int, int(doc_id), call["line"])
        _check_is(str, Call.from_dict(call).to_dict()["call_id"])
    for doc_id, entry in data.get("outbox", {}).items():
        _check_is(int, int(doc_id), entry["sequence"])
        _check_is(str, entry["stream"], entry["state"])
        _check_is(dict, entry["body"])


def _check_schema(record: Any, known: tuple[int, ...]) -> None:
    _check_is(int, record["schema"])
    if record["schema"] not in known:
        raise _OtherSchema(record["schema"])


def _check_is(kind: type, *values: Any) -> None:
    if not all(isinstance(value, kind) for value in values):
        raise TypeError
