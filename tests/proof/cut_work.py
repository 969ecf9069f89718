"""The work that power is cut in, as a process of its own: changes to a store, and a line on stdout after each.

    python -m tests.proof.cut_work KIND DIRECTORY SEED STEPS [nosync] [wait]

KIND is "tables" (TinyDB's face), "calls" (CallStore) or "sqlite" (the peer: WAL, synchronous=FULL). After each call
that returned comes a line, a Promise in JSON: what must be on the disk from now on. It is worked out here and not read
from the store. nosync: a mutant that syncs nothing. wait: go on after each line only when told to.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import string
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from firmware.core.call import Call, ClockRead
from firmware.core.outbox import Event
from firmware.records import log, store, upkeep
from firmware.records.database import LogDB, LogStorage, View
from firmware.records.index import Index
from firmware.records.store import CallStore

State = dict[str, Any]
NAMES = ("calls", "notes", "events")
INDEXES = {"calls": (Index(("number",)), Index(("at",), "time"))}
_KEPT = 20  # accepted events, so that flush() has some to remove


def make_small() -> None:
    """Segments so small that a few dozen changes fill some."""
    log.SEGMENT_BYTES, log._AHEAD_BYTES, log._ZEROS = 24 << 10, 8 << 10, bytes(8 << 10)


@dataclass(frozen=True, slots=True)
class Promise:
    state: str  # digest of all that is in the store
    what: str  # the call that made it
    backup: str | None = None  # digest of what is in the backup; None: there is none
    erased: tuple[str, ...] = ()  # texts that are nowhere in the store's files any more

    @staticmethod
    def read(line: bytes) -> Promise:
        told = json.loads(line)
        return Promise(**told | {"erased": tuple(told["erased"])})


def digest(state: State) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


# -- one face for the engine and the peer


class Tables(Protocol):
    def insert(self, table: str, docs: Sequence[State]) -> list[int]: ...
    def update(self, table: str, ids: Sequence[int], fields: State) -> None: ...
    def remove(self, table: str, ids: Sequence[int]) -> None: ...
    def clear(self, table: str) -> None: ...
    def compact(self) -> None: ...
    def state(self) -> State: ...
    def close(self) -> None: ...


class Ours:
    def __init__(self, root: Path, *, writable: bool = True, indexes: Mapping[str, Sequence[Index]] = INDEXES) -> None:
        self.db = LogDB(root / "store", indexes=indexes, writable=writable)
        self.storage: LogStorage = self.db.storage  # type: ignore[assignment]

    def insert(self, table: str, docs: Sequence[State]) -> list[int]:
        if len(docs) == 1:
            return [self.db.table(table).insert(docs[0])]
        return self.db.table(table).insert_multiple(docs)

    def update(self, table: str, ids: Sequence[int], fields: State) -> None:
        self.db.table(table).update(fields, doc_ids=list(ids))

    def remove(self, table: str, ids: Sequence[int]) -> None:
        self.db.table(table).remove(doc_ids=list(ids))

    def clear(self, table: str) -> None:
        self.db.drop_table(table)

    def compact(self) -> None:
        self.storage.seal()
        for segment in self.storage.sealed():
            if segment.generation < 2:
                self.storage.compact(segment, least=0.1)
        self.storage.tidy()

    def state(self) -> State:
        return {name: docs for name in self.storage.tables if (docs := dict(View(self.storage, name).items()))}

    def close(self) -> None:
        self.db.close()


class Peer:
    def __init__(self, root: Path) -> None:
        self._db = sqlite3.connect(root / "store.sqlite", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA wal_autocheckpoint=16")
        self._db.execute("CREATE TABLE IF NOT EXISTS docs (name TEXT, id INTEGER, doc TEXT, PRIMARY KEY (name, id))")

    def _change(self, text: str, rows: Sequence[Sequence[object]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(text, rows)
        self._db.execute("COMMIT")

    def insert(self, table: str, docs: Sequence[State]) -> list[int]:
        last = self._db.execute("SELECT coalesce(max(id), 0) FROM docs WHERE name = ?", (table,)).fetchone()[0]
        rows = [(table, doc_id, json.dumps(doc)) for doc_id, doc in enumerate(docs, last + 1)]
        self._change("INSERT INTO docs VALUES (?, ?, ?)", rows)
        return [row[1] for row in rows]

    def update(self, table: str, ids: Sequence[int], fields: State) -> None:
        held = self.state()[table]
        rows = [(json.dumps(held[str(doc_id)] | fields), table, doc_id) for doc_id in ids]
        self._change("UPDATE docs SET doc = ? WHERE name = ? AND id = ?", rows)

    def remove(self, table: str, ids: Sequence[int]) -> None:
        self._change("DELETE FROM docs WHERE name = ? AND id = ?", [(table, doc_id) for doc_id in ids])

    def clear(self, table: str) -> None:
        self._change("DELETE FROM docs WHERE name = ?", [(table,)])

    def compact(self) -> None:
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.execute("VACUUM")

    def state(self) -> State:
        state: State = {}
        for name, doc_id, doc in self._db.execute("SELECT name, id, doc FROM docs"):
            state.setdefault(name, {})[str(doc_id)] = json.loads(doc)
        return state

    def check(self) -> None:
        assert self._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def close(self) -> None:
        self._db.close()


# -- what is done


Ack = Callable[[Promise], None]


# A whole line of the log, as a document may hold it that tells of one.
_QUOTED = log.line_bytes(7, "ab" * 32, log.erased("cd" * 32)).decode()


def _doc(dice: random.Random, number: int) -> State:
    """100 bytes to 6 kB, so that lines cross sectors; none like another."""
    size = int(100 * 60 ** dice.random())
    return {
        "number": f"0900000{dice.randrange(1000, 1020)}",
        "at": f"2026-11-{dice.randrange(1, 29):02d}T00:00:00.000Z",
        "n": number,
        "text": "".join(dice.choices(string.ascii_letters + ' "\\\n電話', k=size)),
        "quoted": _QUOTED * dice.choice((0, 0, 0, 0, 0, 16)),
    }


def change_tables(open_: Callable[[], Tables], dice: random.Random, steps: int, ack: Ack) -> None:
    tables = open_()
    state = tables.state()
    ack(Promise(digest(state), "open"))
    reopen_at, compact_at = {steps // 3, 2 * steps // 3}, {steps // 2, 5 * steps // 6}
    for number in range(steps):
        if number in reopen_at:
            tables.close()
            tables = open_()
        if number in compact_at:
            tables.compact()
            ack(Promise(digest(state), "compact"))
        name = dice.choice(NAMES)
        held = state.setdefault(name, {})
        ids = sorted(map(int, held))
        some = dice.sample(ids, min(len(ids), dice.choice((1, 1, 2, 4))))
        kind = dice.choices(("insert", "insert_multiple", "update", "remove", "clear"), (40, 15, 25, 15, 2))[0]
        if kind in ("insert", "insert_multiple") or not some:
            docs = [_doc(dice, number) for _ in range(1 if kind != "insert_multiple" else dice.randrange(2, 5))]
            new = tables.insert(name, docs)
            held.update((str(doc_id), doc) for doc_id, doc in zip(new, docs, strict=True))
        elif kind == "update":
            fields = _doc(dice, number)
            tables.update(name, some, fields)
            for doc_id in some:
                held[str(doc_id)] = held[str(doc_id)] | fields
        elif kind == "remove":
            tables.remove(name, some)
            for doc_id in some:
                del held[str(doc_id)]
        else:
            tables.clear(name)
            held.clear()
        if not held:
            del state[name]
        ack(Promise(digest(state), kind))
    tables.close()
    ack(Promise(digest(state), "close"))


def open_calls(root: Path, boot_id: str) -> CallStore:
    return CallStore(
        root / "store",
        "/tsuroku/s/u",
        boot_id=boot_id,
        # Years after the events, so that all but the last may go once they are accepted.
        read_clock=lambda: ClockRead(mono_ns=1, wall_ns=1_900_000_000_000_000_000, state="ntp"),
        key=root / "key.pem",
    )


def calls_state(calls: CallStore) -> State:
    events = {f"{body['sequence']}": [body["subject"], body["type"], body["data"]] for body in calls.events()}
    found = {call["call_id"]: call for call in calls.calls()}
    pending = [entry.sequence for entry in calls.pending(100_000)]
    last = calls.outbox_state()["streams"].get("call", {"last_seq": 0})["last_seq"]
    state = {"calls": found, "events": events, "pending": pending, "last": last}
    return json.loads(json.dumps(state))  # type: ignore[no-any-return]


def backup_digest(path: Path) -> str | None:
    """Of the calls and events in a backup; None: there is none."""
    if not any(path.glob("*.log")):
        return None
    reader = store.CallReader(path)
    try:
        found = {call["call_id"]: call for call in reader.calls()}
        numbers = [body["sequence"] for body in reader.events()]
        return digest(json.loads(json.dumps({"calls": found, "events": numbers})))
    finally:
        reader.close()


def a_call(number: int, boot_id: str = "boot") -> tuple[Call, Event]:
    read = ClockRead(mono_ns=0, wall_ns=1_764_000_000_000_000_000 + number * 1_000_000_000, state="ntp")
    call_id = f"{boot_id}-{number}"
    call = Call(call_id=call_id, line=1, direction="incoming", boot_id=boot_id, clock=read, opened_ns=number)
    event = Event(type="call.ringing", subject=call_id, time="2026-11-24T00:00:00.000Z", data={"line": 1})
    return call, event


class _Expected:
    """What a CallStore must hold: calls and events at once, marks only once something has carried them."""

    def __init__(self, state: State, backup: str | None) -> None:
        self.calls, self.events, self.last = state["calls"], state["events"], state["last"]
        self.settled = {*range(1, self.last + 1)} - {*state["pending"]}
        self.marked: set[int] = set()
        self.backup = backup
        self.removed: list[str] = []  # texts of what was removed, and is in the log until it is purged
        self.erased: list[str] = []

    def commit(self, call: Call, events: Sequence[Event]) -> None:
        self.calls[call.call_id] = json.loads(json.dumps(call.to_dict()))
        for event in events:
            self.last += 1
            self.events[str(self.last)] = [event.subject, event.type, event.data]
        self.carry()

    def carry(self) -> None:
        self.settled |= self.marked
        self.marked = set()

    def flush(self) -> None:
        both = self.settled | self.marked
        done = next(number for number in range(1, self.last + 2) if number not in both) - 1
        for number in [number for number in self.events if int(number) <= min(done, self.last - _KEPT)]:
            del self.events[number]
        self.carry()

    def remove(self, call_ids: Sequence[str]) -> None:
        for call_id in call_ids:
            del self.calls[call_id]
            self.removed.append(_secret(call_id))
        for number in [number for number, event in self.events.items() if event[0] in call_ids]:
            del self.events[number]
            self.settled.add(int(number))  # nobody waits for it any more
        self.carry()

    def promise(self, what: str) -> Promise:
        pending = [number for number in range(1, self.last + 1) if number not in self.settled]
        state = {"calls": self.calls, "events": self.events, "pending": pending, "last": self.last}
        return Promise(digest(state), what, self.backup, tuple(self.erased))


def _secret(call_id: str) -> str:
    return f"secret of {call_id}."


def change_calls(root: Path, dice: random.Random, steps: int, ack: Ack) -> None:
    boot = f"boot-{dice.randrange(10**9)}"
    calls = open_calls(root, boot)
    expected = _Expected(calls_state(calls), backup_digest(root / "backup"))
    tombstones = View(calls.storage, "tombstones").values()
    expected.removed = [_secret(doc["call_id"]) for doc in tombstones if not doc["purged"]]
    ack(expected.promise("open"))
    reopen_at = {steps // 3, 2 * steps // 3}
    open_ones: list[Call] = []
    closed: list[str] = []
    for number in range(steps):
        if number in reopen_at:
            expected.flush()
            calls.close()
            ack(expected.promise("close"))
            calls = open_calls(root, f"{boot}-{number}")
        call, event = a_call(number, boot)
        if open_ones and dice.random() < 0.6:
            call = open_ones.pop(dice.randrange(len(open_ones)))
            why = _secret(call.call_id) + "x" * dice.choice((10, 500, 3000))
            call = replace(call, outcome="missed", ended_ns=number, no_recording=why)
            closed.append(call.call_id)
        else:
            call = replace(call, rings=dice.randrange(9))
            open_ones.append(call)
        data = {"n": number, "secret": _secret(call.call_id)}
        events = [replace(event, subject=call.call_id, data=data) for _ in range(dice.randrange(4))]
        calls.commit(call, events)
        expected.commit(call, events)
        ack(expected.promise("commit"))
        for body in [body for body in calls.pending(1000) if dice.random() < 0.7]:
            calls.mark("call", body.sequence, "accepted")
            expected.marked.add(body.sequence)
        doing = dice.choices(("", "flush", "remove", "purge", "upkeep", "backup"), (50, 15, 12, 4, 20, 7))[0]
        match doing:
            case "flush":
                calls.flush()
                expected.flush()
                ack(expected.promise("flush"))
            case "remove" if closed:
                gone = [closed.pop()]  # the newest, with the newest events
                if closed and dice.random() < 0.5:
                    gone.append(closed.pop(dice.randrange(len(closed))))
                assert not calls.remove(gone, "asked for", "proof")
                expected.remove(gone)
                ack(expected.promise("remove"))
            case "upkeep":
                for _ in range(0 if expected.removed else 3):  # purging, and what it carries, is "purge"
                    calls.upkeep()
                ack(expected.promise("upkeep"))
            case "backup":
                upkeep.backup(root / "store", root / "backup")
                numbers = sorted(map(int, expected.events))
                expected.backup = digest({"calls": expected.calls, "events": numbers})
                ack(expected.promise("backup"))
        if expected.removed and (doing == "purge" or (doing == "remove" and dice.random() < 0.5)):
            expected.carry()
            for _ in calls.purge_steps():
                ack(expected.promise("purge step"))
            expected.erased, expected.removed = [*expected.erased, *expected.removed], []
            ack(expected.promise("purge"))
    expected.flush()
    calls.close()
    ack(expected.promise("close"))


def main(kind: str, root: Path, seed: str, steps: int, *options: str) -> None:
    make_small()
    store._ALWAYS_KEPT = _KEPT
    if "nosync" in options:
        for name in ("fsync", "fdatasync"):
            setattr(os, name, lambda descriptor: None)

    def ack(promise: Promise) -> None:
        os.write(1, json.dumps(asdict(promise)).encode() + b"\n")
        if "wait" in options:
            sys.stdin.readline()

    dice = random.Random(seed)
    if kind == "calls":
        change_calls(root, dice, steps, ack)
    else:
        change_tables(lambda: Peer(root) if kind == "sqlite" else Ours(root), dice, steps, ack)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
