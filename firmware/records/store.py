"""The record of all calls and of the events that tell of them: the only owner of its folder.

Tables: `calls` by order of filing; `remarks` on them, by the same numbers; `events.STREAM` by sequence; `cursors`, how
far each sink has got; `meta`, `boots`, `anchors` (what the clock turned out to be), `checkpoint` (the last signature),
`timestamps` (an authority's), `holds`, `tombstones`; `contacts` and `forgotten`, what is left of those that were
removed; `acks`, how far each consumer has confirmed; `unit`, what else it must know after a restart, each by its name.
A change of a call, its events and whatever else belongs to it are one line of the log, and one sync.
"""

from __future__ import annotations

import fcntl
import itertools
import uuid
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from firmware.core import remarks
from firmware.core.call import Call, ClockRead, upgraded
from firmware.core.call import event as call_event
from firmware.core.contacts import Contact
from firmware.core.outbox import STREAMS, Event, OutboxEntry, Sink, Stream
from firmware.core.remarks import NOTHING
from firmware.records.database import Change, LogStorage, Put, Remove, StoreError, View
from firmware.records.evidence import Signer
from firmware.records.index import Index, second, text_key
from firmware.records.log import OLD_FILE, Problem, make_directory
from firmware.records.migrate import migrate
from firmware.records.upkeep import purge

__all__ = ["CallReader", "CallStore", "StoreError", "read_table", "unit_runs"]

SCHEMA = 2  # of the store; 1 was one JSON file
_NONE: Mapping[str, Any] = {}
_MAIN = "main"
_ALWAYS_KEPT = 1000  # events of a stream that stay for a replay, however old
_LOOKED_AT = 500  # old events, at one flush
_MOST_UNDATED = 20_000  # events of a stream whose age is not known
_MOST_GAPS = 1000
_COMPACT_NS = 86_400_000_000_000  # what has become free is looked for once a day
_DAY_NS = 86_400_000_000_000
_PURGE_AGAIN_NS = 3_600_000_000_000  # each try begins a new segment


def _open_state(call: Mapping[str, Any]) -> str | None:
    left = call["outcome"] is None or call["no_recording"] in ("not_ended", "not_closed_yet")
    return "open" if left else None


def _unsynced_boot(call: Mapping[str, Any]) -> str | None:
    return None if call["clock"]["state"] == "ntp" else str(call["boot_id"])


_CALL_ID, _OPEN, _UNSYNCED = 0, 4, 5
_REMOVED = ("tombstones", "forgotten")
INDEXES: Mapping[str, Sequence[Index]] = {
    "calls": (
        Index(("call_id",)),
        Index(("caller", "number")),
        Index(("dialled", "number")),
        Index(("opened",), "time"),
        Index(("is open",), of=_open_state),
        Index(("unsynced boot",), of=_unsynced_boot),
    ),
    "contacts": (Index(("number",)), Index(("contact_id",))),
}


@dataclass(slots=True)
class _Cursor:
    """How far a sink has got in one stream: all up to `done`, and of what is behind it `settled`."""

    done: int = 0
    settled: set[int] = field(default_factory=set)
    parked: set[int] = field(default_factory=set)

    def has(self, sequence: int) -> bool:
        return sequence <= self.done or sequence in self.settled

    def settle(self, sequence: int) -> None:
        if sequence > self.done:
            self.settled.add(sequence)
        while self.done + 1 in self.settled:
            self.done += 1
            self.settled.discard(self.done)


def _ranges(numbers: set[int]) -> list[list[int]]:
    """Sorted numbers as [first, last]: one event that is refused again and again has all later ones behind it."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def _numbers(ranges: Sequence[int | list[int]]) -> set[int]:
    """Of _ranges(); earlier versions wrote the numbers themselves."""
    return {n for each in ranges for n in (range(each[0], each[1] + 1) if isinstance(each, list) else (each,))}


class CallReader:
    """The calls of a store, beside a running unit or for its owner. Raises StoreError."""

    def __init__(self, path: Path, storage: LogStorage | None = None) -> None:
        if storage is None:
            try:
                held = any(entry.suffix == ".log" for entry in path.iterdir())
            except FileNotFoundError:
                held = False
            except OSError as error:
                raise StoreError(f"{path}: cannot be read ({error.strerror}); run this as the user tsuroku.") from error
            if not held:
                old = path.with_name(OLD_FILE)
                if old.exists():
                    raise StoreError(f"{old}: is of an older version; it is taken over when the unit next starts.")
                raise StoreError(f"{path}: there is no store here yet; it is made when the unit first runs.")
            storage = LogStorage(path, indexes=INDEXES, writable=False)
        self.storage = storage

    def __len__(self) -> int:
        docs = self.storage.tables.get("calls")
        return docs.count if docs else 0

    @property
    def problems(self) -> list[Problem]:
        return self.storage.problems

    def _doc_id(self, call_id: str) -> int | None:
        for doc_id in self._find(_CALL_ID, call_id):
            doc = self.storage.doc("calls", doc_id)
            if doc and doc["call_id"] == call_id:
                return doc_id
        return None

    def _find(self, index: int, text: str) -> list[int]:
        docs = self.storage.tables.get("calls")
        key = text_key(text)
        return docs.find(index, key, key) if docs else []

    def has(self, call_id: str) -> bool:
        """Whether there is such a call, told without reading the disk."""
        return bool(self._find(_CALL_ID, call_id))

    def get(self, call_id: str) -> Call | None:
        doc_id = self._doc_id(call_id)
        doc = None if doc_id is None else self._call(doc_id)
        return None if doc is None else Call.from_dict(doc)

    def _call(self, doc_id: int) -> dict[str, Any] | None:
        doc = self.storage.doc("calls", doc_id)
        return None if doc is None else self.timed(upgraded(doc))

    def timed(self, call: dict[str, Any]) -> dict[str, Any]:
        """The call with its wall times as the clock turned out to be; `clock_then` is what it said."""
        clock = call["clock"]
        if clock["state"] == "ntp":
            return call
        anchor = self._anchors().get(call["boot_id"])
        if anchor is None:
            return call
        timed = Call.from_dict(call | {"clock": anchor}).to_dict()
        return call | {key: timed[key] for key in ("clock", "opened", "answered", "ended")} | {"clock_then": clock}

    def _anchors(self) -> dict[str, dict[str, Any]]:
        return {doc["boot_id"]: doc["clock"] for doc in View(self.storage, "anchors").values()}

    def holds(self) -> dict[str, dict[str, Any]]:
        """Calls that nothing may remove, with why, by whom and since when."""
        return {doc["call_id"]: doc for doc in View(self.storage, "holds").values()}

    def remarks(self, call_id: str) -> dict[str, Any]:
        """What people have written down about a call (core/remarks.py)."""
        doc_id = self._doc_id(call_id)
        doc = None if doc_id is None else self.storage.doc("remarks", doc_id)
        return {key: (doc or NOTHING)[key] for key in NOTHING}

    def remarks_by_number(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """All, with the numbers of their calls (numbered())."""
        return iter(View(self.storage, "remarks").documents())

    def is_held(self, call_id: str) -> bool:
        return any(doc["call_id"] == call_id for doc in View(self.storage, "holds").values())

    def timestamps(self) -> list[dict[str, Any]]:
        """Those of an authority, in the order of the lines that they are of."""
        return list(View(self.storage, "timestamps").values())

    def tombstones(self) -> list[dict[str, Any]]:
        """What is left of the calls that were removed: which, why, by whom, when, and whether the log is free of it."""
        return list(View(self.storage, "tombstones").values())

    def calls(self) -> Iterator[dict[str, Any]]:
        """All, in the order of filing."""
        return (call for _, call in self.numbered())

    def numbered(self, after: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Calls with their numbers, in the order of filing; after: from the one behind this number on."""
        docs = self.storage.tables.get("calls")
        for doc_id in docs.ids(after + 1) if docs else ():
            if (call := self._call(doc_id)) is not None:
                yield doc_id, call

    def call(self, number: int) -> dict[str, Any] | None:
        """One of numbered(), by its number."""
        return self._call(number)

    def newest(self) -> Iterator[dict[str, Any]]:
        """All, the last filed first."""
        docs = self.storage.tables.get("calls")
        for doc_id in range(docs.highest() or 0 if docs else 0, 0, -1):
            if (call := self._call(doc_id)) is not None:
                yield call

    def _contact_id(self, number: str) -> int | None:
        docs, key = self.storage.tables.get("contacts"), text_key(number)
        for doc_id in docs.find(0, key, key) if docs else ():
            doc = self.storage.doc("contacts", doc_id)
            if doc and doc["number"] == number:
                return doc_id
        return None

    def contact(self, number: str) -> Contact | None:
        """Who has a number, given as E.164."""
        doc_id = self._contact_id(number)
        doc = None if doc_id is None else self.storage.doc("contacts", doc_id)
        return None if doc is None else Contact.from_doc(doc)

    def numbers_of(self, contact_id: str) -> list[Contact]:
        """One contact for each number of somebody."""
        docs, key = self.storage.tables.get("contacts"), text_key(contact_id)
        found = (self.storage.doc("contacts", doc_id) for doc_id in (docs.find(1, key, key) if docs else ()))
        return [Contact.from_doc(doc) for doc in found if doc and doc["contact_id"] == contact_id]

    def contacts(self) -> list[Contact]:
        return [contact for _, contact in self.numbered_contacts()]

    def numbered_contacts(self) -> Iterator[tuple[int, Contact]]:
        return ((number, Contact.from_doc(doc)) for number, doc in View(self.storage, "contacts").documents())

    def contact_numbered(self, number: int) -> Contact | None:
        doc = self.storage.doc("contacts", number)
        return None if doc is None else Contact.from_doc(doc)

    def unpurged(self) -> bool:
        """Whether the log still holds something that was removed."""
        return any(not doc["purged"] for table in _REMOVED for doc in View(self.storage, table).values())

    def with_number(self, number: str) -> list[dict[str, Any]]:
        """The calls from or to a number given as E.164, in the order of filing."""
        found = sorted({*self._find(1, number), *self._find(2, number)})
        calls = (self._call(doc_id) for doc_id in found)
        return [
            call
            for call in calls
            if call and number in (call["caller"]["number"], (call["dialled"] or {}).get("number"))
        ]

    def between(self, since: str, until: str) -> list[dict[str, Any]]:
        """The calls that began at or after one UTC time and before another (ISO 8601), in the order of filing."""
        docs = self.storage.tables.get("calls")
        low, high = second(since), second(until)
        if docs is None:
            return []
        if low is None or high is None:
            raise ValueError(f"{since if low is None else until!r} is no UTC time like 2026-11-24T00:00:00.000Z")
        found = set(docs.find(3, low, high))
        for boot_id in self._anchors():
            found |= set(self._find(_UNSYNCED, boot_id))
        calls = (self._call(doc_id) for doc_id in sorted(found))
        return [call for call in calls if call and since <= call["opened"] < until]

    def note(self, name: str) -> Any:
        """What the unit has written down by this name; None if nothing was."""
        return next((doc["value"] for doc in View(self.storage, "unit").values() if doc["name"] == name), None)

    def events(self, streams: Sequence[Stream] = STREAMS) -> Iterator[dict[str, Any]]:
        """The events that are kept, stream by stream, in the order of their sequence."""
        for stream in streams:
            yield from View(self.storage, f"events.{stream}").values()

    def newest_events(self, stream: Stream) -> Iterator[dict[str, Any]]:
        """Of one stream, the last first."""
        docs = self.storage.tables.get(f"events.{stream}")
        for sequence in range(docs.highest() or 0 if docs else 0, 0, -1):
            if (event := self.storage.doc(f"events.{stream}", sequence)) is not None:
                yield event

    def follow(self) -> set[tuple[str, int]] | None:
        """Take in what the unit has written since this was opened, or followed last.

        Returns the tables and numbers of the documents that changed; None: what changed cannot be told.
        """
        return self.storage.follow()

    def close(self) -> None:
        self.storage.close()


@dataclass(frozen=True, slots=True)
class SinkOutbox:
    """The outbox as one sink sees it (firmware.core.outbox.Outbox)."""

    store: CallStore
    sink: str

    def pending(self, limit: int, but: Container[tuple[Stream, int]] = ()) -> list[OutboxEntry]:
        return self.store.pending(limit, self.sink, but)

    def read(self, stream: Stream, sequence: int) -> OutboxEntry | None:
        return self.store.event(stream, sequence)

    def parked(self) -> list[tuple[Stream, int]]:
        return self.store.parked(self.sink)

    def mark(self, stream: Stream, sequence: int, state: Literal["accepted", "parked"]) -> None:
        self.store.mark(stream, sequence, state, self.sink)


class CallStore(CallReader):
    """The only owner of the call records and the outbox. Thread: the loop. Raises StoreError.

    source: what the events' CloudEvents `source` says, e.g. /tsuroku/SITE/UNIT. sinks: those who must get the events.
    keep_days: so long an event stays for a replay when every sink has it; None: for ever. boot_id and read_clock: what
    each line's time is. key: where the unit's signing key is, or is made.
    """

    def __init__(
        self,
        path: Path,
        source: str,
        *,
        sinks: Sequence[Sink] = (Sink(name=_MAIN),),
        keep_days: float | None = 14,
        boot_id: str = "",
        read_clock: Callable[[], ClockRead] = lambda: ClockRead(mono_ns=0, wall_ns=0, state="unsynced"),
        key: Path | None = None,
    ) -> None:
        self._source, self._boot_id = source, boot_id
        self._keep_ns = None if keep_days is None else round(keep_days * _DAY_NS)
        self._raw_clock = read_clock
        self._shift_ns = 0  # what an unset clock is behind the last time that is written here
        make_directory(path.parent)
        # The old store that was found damaged here and not taken away since; a new one was begun in its place.
        self.set_aside = migrate(path, INDEXES)
        self._boot = 0
        super().__init__(path, LogStorage(path, indexes=INDEXES, stamp=self._stamp))
        try:
            self._begin(sinks, key)
        except BaseException:
            self.storage.close()
            raise

    def _begin(self, sinks: Sequence[Sink], key: Path | None) -> None:
        storage = self.storage
        if storage.last_at:
            self._shift_ns = max(0, storage.last_at[2] - self._raw_clock().wall_ns)
        meta = storage.doc("meta", 1)
        changes: list[Change] = []
        if meta is None:
            meta = {"schema": SCHEMA, "store_id": str(uuid.uuid4())}
            changes.append(Put("meta", 1, meta))
        if meta["schema"] != SCHEMA:
            raise StoreError(
                f"{storage.directory}: has schema {meta['schema']}, this version reads {SCHEMA}; "
                "install the version that wrote it."
            )
        self.store_id: str = meta["store_id"]
        self._begins: dict[Stream, int] = meta.get("begins", {})  # of a restored one: the first events of its own id
        boots = storage.tables.get("boots")
        last = storage.doc("boots", boots.last_id) if boots else None
        self._boot = boots.last_id if boots else 0
        if last is None or last["boot_id"] != self._boot_id:
            self._boot += 1
            changes.append(Put("boots", self._boot, {"boot_id": self._boot_id}))
            changes.append(Put("meta", 1, meta))  # in more than one line: without it the store has another id
        self._last: dict[Stream, int] = {}
        for stream in STREAMS:
            docs = storage.tables.get(f"events.{stream}")
            self._last[stream] = docs.last_id if docs else 0
        self._sinks = {sink.name: sink for sink in sinks}
        self._cursors: dict[str, dict[Stream, _Cursor]] = {}
        for doc in View(storage, "cursors").values():
            self._cursors[doc["sink"]] = {
                stream: _Cursor(own["done"], _numbers(own["settled"]), _numbers(own["parked"]))
                for stream, own in doc["streams"].items()
            }
        # Where a new sink begins is written with the first line: a restart before its first mark would skip events.
        self._dirty = False
        for sink in sinks:
            own = self._cursors.setdefault(sink.name, {})
            for stream in sink.streams:
                if stream not in own:
                    own[stream] = _Cursor(done=self._last[stream] if sink.new == "next" else 0)
                    self._dirty = True
        self._acks: dict[str, dict[Stream, int]] = {
            doc["consumer"]: {stream: int(seq) for stream, seq in doc["streams"].items()}
            for doc in View(storage, "acks").values()
        }
        for stream in STREAMS:  # the last events can have rotted: no number is given twice
            cursors = [own[stream] for own in self._cursors.values() if stream in own]
            known = [max([c.done, *c.settled, *c.parked]) for c in cursors]
            known += [acked.get(stream, 0) for acked in self._acks.values()]
            self._last[stream] = max([self._last[stream], self._begins.get(stream, 1) - 1, *known])
        self._notes = {doc["name"]: (n, doc["value"]) for n, doc in View(storage, "unit").documents()}
        self._purging: Iterator[int] | None = None
        self._purge_from_ns = 0
        self._to_purge = True  # tombstones are looked through at the start, and when there are new ones
        self._compacted = 0  # segments up to this one were looked at in this pass
        self._passed_ns = 0
        self._looked: dict[Stream, int] = {}  # by stream, how far the age of events is known
        self._open_ids: dict[str, int] = {}  # calls that may still change
        self._signer = self._signer_of(key)
        self._signed_ns = 0
        if self._signer and meta.get("public_key") != self._signer.public_key:
            changes.append(Put("meta", 1, meta | {"public_key": self._signer.public_key}))
        changes += self._checkpoint()
        if changes:
            storage.commit(changes)

    def _signer_of(self, key: Path | None) -> Signer | None:
        """None also for a key that is of no use: calls are kept all the same, and `wrong` says that none is signed."""
        try:
            return Signer(key) if key else None
        except ValueError as error:
            says = str(error).removeprefix(f"{key}: ")
        except OSError as error:
            says = f"cannot be used ({error.strerror}); give it to the user that the unit runs as, with rights 0600."
        self.storage.problems.append(Problem("key", str(key), f"{says} Until then nothing is signed."))
        return None

    @property
    def public_key(self) -> str | None:
        """What the signatures of this unit can be checked with; None while nothing is signed."""
        return self._signer.public_key if self._signer else None

    def read_clock(self) -> ClockRead:
        """Both clocks; an unset one is never before the last time that is written in the store."""
        read = self._raw_clock()
        return read if read.state == "ntp" else replace(read, wall_ns=read.wall_ns + self._shift_ns)

    def _stamp(self) -> list[object]:
        read = self.read_clock()
        return [self._boot, read.mono_ns, read.wall_ns, read.state]

    def _checkpoint(self) -> list[Change]:
        """A signature over the chain up to now, to be written with whatever is written next."""
        if self._signer is None:
            return []
        read = self.read_clock()
        self._signed_ns = read.mono_ns
        signed = self._signer.checkpoint(
            self.store_id, self.storage.seq, self.storage.link, len(self), read.iso(read.mono_ns)
        )
        return [Put("checkpoint", 1, signed)]

    # -- writing

    def commit(self, call: Call, events: Sequence[Event], notes: Mapping[str, Any] = _NONE) -> None:
        """Write a call (new or changed), its events and notes, all or nothing. On return they are on the disk."""
        known = self._open_ids.get(call.call_id) or self._doc_id(call.call_id)
        docs = self.storage.tables.get("calls")
        doc_id = known or (docs.last_id if docs else 0) + 1
        doc = call.to_dict()
        self._tell([Put("calls", doc_id, doc)], events, notes, sign=call.outcome is not None)
        if _open_state(doc):
            self._open_ids[call.call_id] = doc_id
        else:
            self._open_ids.pop(call.call_id, None)

    def tell(self, events: Sequence[Event], notes: Mapping[str, Any] = _NONE) -> None:
        """Write events that are no call's, and notes, all or nothing. On return they are on the disk."""
        self._tell([], events, notes)

    def note(self, name: str) -> Any:
        """What was written down by this name; None if nothing was."""
        return self._notes.get(name, (0, None))[1]

    def _tell(
        self, changes: list[Change], events: Sequence[Event], notes: Mapping[str, Any], *, sign: bool = False
    ) -> None:
        last, written = dict(self._last), dict(self._notes)
        for event in events:
            last[event.stream] += 1
            sequence = last[event.stream]
            changes.append(Put(f"events.{event.stream}", sequence, self._body(event, sequence)))
        for name, value in notes.items():
            numbers = [number for number, _ in written.values()]
            number = written[name][0] if name in written else max([*numbers, *self._given("unit")], default=0) + 1
            written[name] = number, value
            changes.append(Put("unit", number, {"name": name, "value": value}))
        if sign:
            changes += self._checkpoint()
        self._write(changes)
        self._last, self._notes = last, written

    def _write(self, changes: list[Change]) -> None:
        """With the cursors, where they have moved. After a failed write it goes on in a new segment."""
        self.storage.revive()
        self.storage.commit([*changes, *self._moved_cursors()])
        self._dirty = False

    def _moved_cursors(self) -> list[Change]:
        if not self._dirty:
            return []
        changes: list[Change] = []
        for number, (sink, own) in enumerate(sorted(self._cursors.items()), 1):
            streams = {
                stream: {"done": c.done, "settled": _ranges(c.settled), "parked": _ranges(c.parked)}
                for stream, c in own.items()
            }
            changes.append(Put("cursors", number, {"sink": sink, "streams": streams}))
        return changes

    def _body(self, event: Event, sequence: int) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": f"{self.store_id}-{event.stream}-{sequence}",
            "source": self._source,
            "type": event.type,
            "subject": event.subject,
            "time": event.time,
            "datacontenttype": "application/json",
            "sequence": sequence,
            "replayed": False,
            "data": event.data,
        }

    def flush(self) -> None:
        """Write what no commit has carried yet: cursors, the day's signature; let the oldest accepted events go."""
        changes: list[Change] = []
        for stream in STREAMS:
            oldest, kept_from = self._oldest(stream), self._kept_from(stream)
            if oldest < kept_from:
                changes.append(Remove(f"events.{stream}", oldest, kept_from - 1))
        if self._signer and self.read_clock().mono_ns - self._signed_ns > _DAY_NS:
            changes += self._checkpoint()
        if changes or self._dirty:
            self._write(changes)

    def _oldest(self, stream: Stream) -> int:
        """The first event that is still here; the next one's sequence where none is."""
        docs = self.storage.tables.get(f"events.{stream}")
        return (docs.lowest() if docs else None) or self._last[stream] + 1

    def _kept_from(self, stream: Stream) -> int:
        """The first event that must stay: somebody waits for it, or it is one of the last, or not old enough."""
        done = [self._cursors[name][stream].done for name, sink in self._sinks.items() if stream in sink.streams]
        done += [
            self._acks.get(consumer, {}).get(stream, 0)
            for sink in self._sinks.values()
            if stream in sink.streams
            for consumer in sink.consumers
        ]
        oldest = kept_from = self._oldest(stream)
        end = min([*done, self._last[stream] - _ALWAYS_KEPT]) + 1
        if self._keep_ns is None or end <= oldest:
            return oldest
        kept_from = max(oldest, end - _MOST_UNDATED)  # where no clock ever tells how old they are
        now = self.read_clock()
        if now.state == "unsynced":
            return kept_from
        limit = now.iso(now.mono_ns - self._keep_ns)
        looked = max(oldest, self._looked.get(stream, 0))
        for sequence in range(looked, min(end, looked + _LOOKED_AT)):
            event = self.storage.doc(f"events.{stream}", sequence)
            looked = sequence + 1
            if event is None:
                kept_from = looked if kept_from == sequence else kept_from
                continue
            if event["data"].get("clock") == "unsynced":
                continue  # as old as the next one that can tell
            if event["time"] >= limit:
                looked = sequence
                break
            kept_from = max(kept_from, looked)
        self._looked[stream] = looked
        return kept_from

    def _given(self, table: str) -> list[int]:
        """The highest number that a table has given."""
        docs = self.storage.tables.get(table)
        return [docs.last_id] if docs else []

    # -- what must stay, and what must go

    def hold(self, call_id: str, reason: str, who: str, told: Sequence[Event] = ()) -> None:
        """Keep a call whatever retention or an erasure says, and write an event. Raises KeyError for no such call."""
        doc_id = self._doc_id(call_id)
        if doc_id is None:
            raise KeyError(call_id)
        at = self.read_clock()
        held = {"call_id": call_id, "reason": reason, "who": who, "at": at.iso(at.mono_ns)}
        self._tell([Put("holds", doc_id, held)], told, {}, sign=True)

    def keep_timestamp(self, stamp: Mapping[str, Any]) -> None:
        """What an authority said of the chain's link behind line `seq` (timestamp.py)."""
        docs = self.storage.tables.get("timestamps")
        number = (docs.last_id if docs else 0) + 1
        self._tell([Put("timestamps", number, dict(stamp))], (), {"timestamp": {"wall_ns": self.read_clock().wall_ns}})

    def take_in(self, call: Call, told: Sequence[Event] = ()) -> str | None:
        """File a call that something else has recorded, with its event, once. Why not, in a sentence."""
        if self.has(call.call_id) and self.get(call.call_id):
            return "is there already."
        if any(stone["call_id"] == call.call_id for stone in self.tombstones()):
            return "was erased from this unit before; it is not taken in again."
        assert call.imported is not None
        about = {"at": call.imported.at, "time_from": call.imported.time_from, "number_from": call.imported.number_from}
        now = self.read_clock()
        # It happens now, whenever the call was.
        said = replace(call_event("call.imported", call, 0, imported=about), time=now.iso(now.mono_ns))
        self.commit(call, [said])
        if told:  # in a line of their own: a bundle holds the lines of a call whole
            self.tell(told)
        return None

    def release(self, call_id: str, told: Sequence[Event] = ()) -> None:
        """Raises KeyError for a call that is not held."""
        held = [doc_id for doc_id, doc in View(self.storage, "holds").documents() if doc["call_id"] == call_id]
        if not held:
            raise KeyError(call_id)
        self._tell([Remove("holds", doc_id, doc_id) for doc_id in held], told, {}, sign=True)

    def remove(
        self,
        call_ids: Collection[str],
        reason: str,
        who: str,
        audit: Sequence[Event] = (),
        notes: Mapping[str, Any] = _NONE,
    ) -> list[str]:
        """Take calls and their events out, each with a tombstone. Returns those that stay: they are held, or open.

        Of each that had a recording, `recording.deleted` tells. The files are the caller's to remove.

        Their lines are still in the log until purge_steps() has been through it.
        """
        held = self.holds()
        gone = {}
        for call_id in call_ids:
            doc_id = self._doc_id(call_id)
            if doc_id is not None and call_id not in held and call_id not in self._open_ids:
                gone[call_id] = doc_id
        if gone:
            at = self.read_clock()
            docs = self.storage.tables.get("tombstones")
            changes: list[Change] = [Remove("calls", doc_id, doc_id) for doc_id in gone.values()]
            changes += [Remove("remarks", n, n) for n in gone.values() if self.storage.doc("remarks", n)]
            told: list[tuple[Stream, int]] = []
            for stream in STREAMS:
                events = View(self.storage, f"events.{stream}").documents()
                told += [(stream, sequence) for sequence, event in events if event["subject"] in gone]
            changes += [Remove(f"events.{stream}", sequence, sequence) for stream, sequence in told]
            for number, (call_id, doc_id) in enumerate(gone.items(), (docs.last_id if docs else 0) + 1):
                call = self.storage.doc("calls", doc_id) or {}
                tombstone = {
                    "call_id": call_id,
                    **{name: call.get(name) for name in ("boot_id", "opened_ns", "ended_ns")},  # to find its journal
                    "reason": reason,
                    "who": who,
                    "at": at.iso(at.mono_ns),
                    "purged": False,
                }
                changes.append(Put("tombstones", number, tombstone))
            going = [each for call_id in gone if (each := self.get(call_id))]
            recorded = [each for each in going if each.recording and not each.recording.deleted]
            deleted = [_deleted(each, at.iso(at.mono_ns), at, reason, who) for each in recorded]
            self._tell(changes, [*audit, *deleted], notes, sign=True)
            self._to_purge = True
            for stream, sequence in told:  # nobody waits for them any more
                for sink, own in self._cursors.items():
                    if stream in own:
                        self.mark(stream, sequence, "accepted", sink)
        return [call_id for call_id in call_ids if call_id in held or call_id in self._open_ids]

    def delete_recording(self, call_id: str, why: str, by: str, notes: Mapping[str, Any] = _NONE) -> bool:
        """Write down that a call's recording goes; the caller then removes the file. False: there is none to remove."""
        doc_id = self._doc_id(call_id)
        doc = None if doc_id is None else self.storage.doc("calls", doc_id)
        if doc is None or doc_id is None or not doc["recording"] or doc["recording"].get("deleted"):
            return False
        now = self.read_clock()
        at = now.iso(now.mono_ns)
        doc = upgraded(doc)
        changed = {**doc, "recording": {**doc["recording"], "deleted": {"at": at, "why": why, "by": by}}}
        told = _deleted(Call.from_dict(self.timed(changed)), at, now, why, by)
        self._tell([Put("calls", doc_id, changed)], [told], notes, sign=True)
        return True

    def oldest_undelivered(self) -> str | None:
        """When the oldest event happened that some sink has not got, or has refused; None: all have everything."""
        times = []
        for name, sink in self._sinks.items():
            entries = self.pending(1, name)
            parked = [self.event(stream, min(own.parked)) for stream, own in self._cursors[name].items() if own.parked]
            times += [each.body["time"] for each in [*entries, *parked] if each and each.stream in sink.streams]
        return min(times, default=None)

    def obey(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What `tsuroku store` asks for, here or over the unit's local socket. The answer, or why not as `error`."""
        at = self.read_clock()
        method = f"store.{request.get('do')}"
        data = {"method": method, "src": str(request.get("who")), "by_way_of": "local", "clock": at.state}
        audit = [Event(stream="audit", type="command.done", subject=method, time=at.iso(at.mono_ns), data=data)]
        try:
            match request:
                case {"do": "hold", "call_id": str(call_id), "reason": str(reason), "who": str(who)}:
                    self.hold(call_id, reason, who, audit)
                    return {}
                case {"do": "release", "call_id": str(call_id), "who": str()}:
                    self.release(call_id, audit)
                    return {}
                case {"do": "erase", "call_ids": list(call_ids), "reason": str(reason), "who": str(who)} if all(
                    isinstance(call_id, str) for call_id in call_ids
                ):
                    return {"kept": self.remove(call_ids, reason, who, audit)}
                case {"do": "import", "call": dict(doc)} if doc.get("imported"):
                    return {"refused": self.take_in(Call.from_dict(doc), audit)}
                case {"do": "sign"}:
                    self._write(self._checkpoint())
                    return {}
                case {"do": "forget", "numbers": list(numbers), "who": str(who)}:
                    return {"forgotten": sum(self.forget_contact(str(number), who, audit) for number in numbers)}
                case _:
                    return {"error": f"This version knows no request {request.get('do')!r}; update the unit."}
        except KeyError as error:
            return {"error": f"Call {error.args[0]} is not there, or not held; `tsuroku calls list` shows the calls."}
        except StoreError as error:
            return {"error": str(error)}

    # -- contacts

    def put_contacts(self, contacts: Sequence[Contact], told: Sequence[Event] = ()) -> None:
        """Keep contacts, all or none; those of the same numbers are replaced."""
        docs = self.storage.tables.get("contacts")
        free = itertools.count((docs.last_id if docs else 0) + 1)
        puts = [Put("contacts", self._contact_id(each.number) or next(free), each.to_doc()) for each in contacts]
        self._tell([*puts], told, {})

    def remark(self, call_id: str, change: Mapping[str, Any], who: str, told: Sequence[Event] = ()) -> dict[str, Any]:
        """Write down what somebody says of a call. Raises KeyError for no such call; RemarkError."""
        doc_id = self._doc_id(call_id)
        if doc_id is None:
            raise KeyError(call_id)
        now = self.read_clock()
        after = remarks.changed(self.remarks(call_id), change, who, now.iso(now.mono_ns))
        self._tell([Put("remarks", doc_id, {"call_id": call_id, **after})], told, {})
        return after

    def forget_contact(self, number: str, who: str, told: Sequence[Event] = ()) -> bool:
        """Take a contact out. False: there is none. The log holds it until purge_steps() has been through it."""
        contact, doc_id = self.contact(number), self._contact_id(number)
        if contact is None or doc_id is None:
            return False
        at, docs = self.read_clock(), self.storage.tables.get("forgotten")
        left = {"contact_id": contact.contact_id, "who": who, "at": at.iso(at.mono_ns), "purged": False}
        changes: list[Change] = [
            Remove("contacts", doc_id, doc_id),
            Put("forgotten", (docs.last_id if docs else 0) + 1, left),
        ]
        self._tell(changes, told, {}, sign=True)
        self._to_purge = True
        return True

    # -- freeing the log

    def purge_steps(self) -> Iterator[int]:
        """Free the log of what was removed, a segment at a time; yields the bytes that each step freed."""
        waiting = [
            (table, n, doc)
            for table in _REMOVED
            for n, doc in View(self.storage, table).documents()
            if not doc["purged"]
        ]
        if not waiting:
            return
        # The last signature stands in a line of its own now: one that was written again elsewhere would not be good.
        self._write(self._checkpoint())
        yield from purge(
            self.storage, [doc["call_id" if table == "tombstones" else "contact_id"] for table, _, doc in waiting]
        )
        self._write([Put(table, n, {**doc, "purged": True}) for table, n, doc in waiting])

    def upkeep(self) -> None:
        """A step of what is never urgent: a hint, a removal, a segment's dead lines. For an idle moment."""
        if self.storage.tidy():
            return
        now_ns = self.read_clock().mono_ns
        if self._purging is None and self._to_purge and now_ns >= self._purge_from_ns:
            self._purging, self._to_purge = self.purge_steps(), False
        if self._purging is not None:
            try:
                if next(self._purging, None) is None:
                    self._purging = None
            except StoreError:
                self._purging, self._to_purge, self._purge_from_ns = None, True, now_ns + _PURGE_AGAIN_NS
                raise
            return
        compacted = next((s for s in self.storage.sealed() if s.number > self._compacted), None)
        if compacted:
            self._compacted = compacted.number
            self.storage.compact(compacted)
        elif now_ns - self._passed_ns > _COMPACT_NS:
            self._compacted, self._passed_ns = 0, now_ns

    def anchor(self, read: ClockRead) -> None:
        """The clock has been set: from now on the times of this boot's calls are told by it. Once a boot is enough."""
        if not self._find(_UNSYNCED, self._boot_id) or self._boot_id in self._anchors():
            return
        clock = {"mono_ns": read.mono_ns, "wall_ns": read.wall_ns, "state": read.state}
        self._write([Put("anchors", self._boot, {"boot_id": self._boot_id, "clock": clock})])

    # -- reading

    def left_open(self) -> list[Call]:
        """Calls that have no outcome, or whose recording was still open: what a crash left."""
        calls = (self._call(doc_id) for doc_id in self._find(_OPEN, "open"))
        return [Call.from_dict(call) for call in calls if call and _open_state(call)]

    @property
    def wrong(self) -> str | None:
        """What has become of the store that somebody must look at; None while all is well."""
        if self.set_aside:
            return f"The call list was damaged and is kept as {self.set_aside}; put back a backup of it."
        found = [problem for problem in self.problems if problem.kind != "torn"]
        if not found:
            return None
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return f"{found[0].where}: {found[0].says}{more} `tsuroku store doctor` tells what to do."

    # -- the outbox

    def outbox(self, sink: str) -> SinkOutbox:
        return SinkOutbox(self, sink)

    def pending(self, limit: int, sink: str = _MAIN, but: Container[tuple[Stream, int]] = ()) -> list[OutboxEntry]:
        entries: list[OutboxEntry] = []
        for stream in self._sinks[sink].streams:
            cursor = self._cursors[sink][stream]
            waiting = (
                sequence
                for sequence in range(cursor.done + 1, self._last[stream] + 1)
                if not cursor.has(sequence) and (stream, sequence) not in but
            )
            while wanted := list(islice(waiting, limit - len(entries))):
                bodies = dict(self.storage.documents(f"events.{stream}", wanted))
                for sequence in wanted:
                    if sequence in bodies:
                        entries.append(OutboxEntry(stream=stream, sequence=sequence, body=bodies[sequence]))
                    elif self.storage.is_gone(f"events.{stream}", sequence):  # has rotted, or was erased
                        cursor.settle(sequence)
                        self._dirty = True
        return entries

    def event(self, stream: Stream, sequence: int) -> OutboxEntry | None:
        body = self.storage.doc(f"events.{stream}", sequence)
        return None if body is None else OutboxEntry(stream=stream, sequence=sequence, body=body)

    def parked(self, sink: str = _MAIN) -> list[tuple[Stream, int]]:
        own = self._cursors[sink]
        return [(stream, sequence) for stream in self._sinks[sink].streams for sequence in sorted(own[stream].parked)]

    def mark(self, stream: Stream, sequence: int, state: Literal["accepted", "parked"], sink: str = _MAIN) -> None:
        cursor = self._cursors[sink][stream]
        if sequence > self._last[stream]:
            return
        if state == "parked":
            cursor.parked.add(sequence)
        else:
            cursor.parked.discard(sequence)  # a replay has brought it
        cursor.settle(sequence)
        self._dirty = True

    def streams_of(self, sink: str) -> Sequence[Stream]:
        return self._sinks[sink].streams

    def kept(self, stream: Stream) -> tuple[int, int]:
        """The oldest event of this store's id that is still here (last + 1 where none is), and the last."""
        return max(self._oldest(stream), self._begins.get(stream, 1)), self._last[stream]

    def gaps(self, stream: Stream, low: int, high: int) -> list[list[int]]:
        """The events between two of a stream that are gone (erased, rotten), as [first, last]; the first thousand."""
        found: list[list[int]] = []
        for sequence in range(low, high + 1):
            if self.storage.is_gone(f"events.{stream}", sequence):
                if found and found[-1][1] == sequence - 1:
                    found[-1][1] = sequence
                elif len(found) < _MOST_GAPS:
                    found.append([sequence, sequence])
        return found

    def confirm(self, sink: str, consumer: str, stream: Stream, sequence: int) -> int:
        """A consumer has every event of a stream up to this one. Returns the last that it has confirmed.

        Raises ValueError, a sentence, for a consumer that the settings do not list, or an event that is yet to come.
        """
        if consumer not in self._sinks[sink].consumers:
            raise ValueError(f"consumer {consumer!r} is not listed in the settings of this broker (consumers)")
        if sequence > self._last[stream]:
            raise ValueError(f"the last event of stream {stream} is {self._last[stream]}")
        streams = self._acks.get(consumer, {})
        if sequence > streams.get(stream, 0):
            streams = {**streams, stream: sequence}
            known = sorted({*self._acks, consumer})
            acks = {**self._acks, consumer: streams}
            self._write([Put("acks", n, {"consumer": each, "streams": acks[each]}) for n, each in enumerate(known, 1)])
            self._acks = acks
        return streams.get(stream, 0)

    def waiting(self) -> dict[str, dict[str, int]]:
        """By sink: how many events it has not got, are parked, and its consumers must yet confirm; and how far it is
        without a gap (done), and they (confirmed).
        """
        return {name: self._waiting(sink) for name, sink in self._sinks.items()}

    def _waiting(self, sink: Sink) -> dict[str, int]:
        told = {"waiting": 0, "parked": 0, "unconfirmed": 0, "done": 0, "confirmed": 0}
        for stream in sink.streams:
            last, cursor = self._last[stream], self._cursors[sink.name][stream]
            confirmed = min((self._acks.get(each, {}).get(stream, 0) for each in sink.consumers), default=last)
            told["waiting"] += last - cursor.done - len(cursor.settled)
            told["parked"] += len(cursor.parked)
            told["unconfirmed"] += last - confirmed
            told["done"] += cursor.done
            told["confirmed"] += confirmed
        return told

    def outbox_state(self) -> dict[str, Any]:
        """How many events some sink has not got, the first and last sequence of each stream, the chain's head."""
        return {
            "store_id": self.store_id,
            "outbox_depth": max((each["waiting"] for each in self.waiting().values()), default=0),
            "streams": {
                stream: {"oldest_seq": self.kept(stream)[0], "last_seq": last}
                for stream, last in self._last.items()
                if last
            },
            "chain": {"seq": self.storage.seq, "head": self.storage.link},
        }

    def close(self) -> None:
        """Write what is left, sign, and give the folder free."""
        try:
            changes = self._checkpoint()
            self.flush()
            if changes:
                self._write(self._checkpoint())
        finally:
            self.storage.close()


def _deleted(call: Call, at: str, now: ClockRead, why: str, by: str) -> Event:
    """Without whose call it was: that may be why it goes."""
    told = call_event("recording.deleted", call, call.opened_ns, reason=why, by=by)
    return replace(told, time=at, data={**told.data, "caller": None, "dialled": None, "clock": now.state})


def read_table(path: Path, table: Literal["calls", "events"]) -> list[Mapping[str, Any]]:
    """All calls, or all events that are kept, read beside a running unit. Raises StoreError."""
    reader = CallReader(path)
    try:
        return list(reader.calls() if table == "calls" else reader.events())
    finally:
        reader.close()


def unit_runs(path: Path) -> bool:
    """Whether a unit has this store open."""
    try:
        with (path / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
