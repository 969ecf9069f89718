"""What a store holds in memory: where each document lies, and keys to find it by; and the hints that spare a scan.

A key is 32 bits of what is looked for (a hash of a text, or seconds of a time) over the document's number, in one
sorted array of 64-bit integers: 8 bytes a document. Keys only narrow a search: whoever finds a document by one checks
it. A key that has gone stale does no harm, so none is taken out of the big array.
"""

from __future__ import annotations

import bisect
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from firmware.records.log import OFFSET_BITS, OFFSETS

Keypath = tuple[str, ...]
Doc = dict[str, Any]
_MERGE = 8192  # keys in the small list before they go into the big array
_ID_BITS = 32
IDS = (1 << _ID_BITS) - 1
_SPARSE = 65536  # a number this far beyond the count of documents is kept apart
_HINT_FORMAT = 2
_HINT_MAGIC = b"tsuroku hint\n"
_LAST_SECOND = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Index:
    """A key of a table's documents.

    path: where its value stands; "equal" finds a text by ==, "time" a UTC time in ISO 8601 by <, <=, >, >=.
    of: gives the value where it does not stand in the document; then only find() uses the index.
    """

    path: Keypath
    kind: str = "equal"
    of: Callable[[Doc], str | None] | None = None

    def key(self, doc: Doc) -> int | None:
        """32 bits; None: no query of this kind can find the document by this index."""
        value: Any = doc
        if self.of:
            value = self.of(doc)
        else:
            for part in self.path:
                value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, str):
            return None
        return second(value) if self.kind == "time" else text_key(value)


def text_key(text: str) -> int:
    return zlib.crc32(text.encode(errors="surrogatepass"))


def second(text: str) -> int | None:
    """Seconds since 1970 of a UTC time like 2026-11-24T00:00:00.000Z, or of a day; None for any other text.

    Texts of these forms are in the order of their times, so that bounds of one can be bounds of the other.
    """
    day = len(text) == 10
    if not day and not (len(text) >= 20 and text[10] == "T" and text[-1] == "Z" and text[19] in ".Z"):
        return None
    if text[4] != "-" or text[7] != "-" or (not day and (text[13] != ":" or text[16] != ":")):
        return None
    try:
        at = datetime.fromisoformat(text + "T00:00:00Z" if day else text)
    except ValueError:
        return None
    seconds = int(at.timestamp())
    return seconds if 0 <= seconds < _LAST_SECOND else None


def names(indexes: Sequence[Index]) -> list[str]:
    """What a hint calls the indexes that it holds keys of."""
    return [f"{index.kind} {'.'.join(index.path)}" for index in indexes]


class Place(NamedTuple):
    segment: int
    offset: int
    size: int
    checksum: int


class Keys:
    """One index: a big sorted array, and a small sorted list of what is newer."""

    def __init__(self) -> None:
        self._big = array("Q")
        self._small: list[int] = []
        self._pending: list[NDArray[np.uint64]] = []

    def pend(self, entries: NDArray[np.uint64]) -> None:
        """Many, to be merged at once by settle()."""
        self._pending.append(entries)

    def settle(self) -> None:
        if self._pending:
            self._merge(np.concatenate(self._pending))
            self._pending = []

    def add(self, key: int, doc_id: int) -> None:
        bisect.insort(self._small, key << _ID_BITS | doc_id)
        if len(self._small) >= _MERGE:
            self._merge(np.array(self._small, np.uint64))
            self._small = []

    def forget(self, key: int, doc_id: int) -> None:
        """Take out a key that is of no use any more, where that is cheap."""
        at = bisect.bisect_left(self._small, key << _ID_BITS | doc_id)
        if at < len(self._small) and self._small[at] == key << _ID_BITS | doc_id:
            del self._small[at]

    def _merge(self, entries: NDArray[np.uint64]) -> None:
        if not len(entries):
            return
        big = np.frombuffer(self._big, np.uint64) if self._big else np.empty(0, np.uint64)
        both = np.concatenate((big, entries))
        both.sort()
        if len(both) > 1:
            both = both[np.concatenate(([True], both[1:] != both[:-1]))]
        self._big = array("Q")
        self._big.frombytes(both.tobytes())

    def find(self, low: int, high: int) -> list[int]:
        """The documents with a key from low to high, both included, in order of key."""
        first, behind = low << _ID_BITS, (high + 1) << _ID_BITS
        big, small = self._big, self._small
        found = big[bisect.bisect_left(big, first) : bisect.bisect_left(big, behind)].tolist()
        found += small[bisect.bisect_left(small, first) : bisect.bisect_left(small, behind)]
        return [entry & IDS for entry in found]


class Effect:
    """What one segment does to one table: clears it, removes ranges, then puts and removes documents.

    Filled one by one while the segment is read; a hint holds it as it is.
    """

    def __init__(self, indexes: Sequence[Index]) -> None:
        self._indexes = indexes
        self.exists = True  # False: dropped, and not written to since
        self.last_id = 0
        self.clear(cleared=False)

    def clear(self, *, cleared: bool = True) -> None:
        self.cleared = cleared
        self.ranges: list[tuple[int, int]] = []
        self.places: dict[int, tuple[int, int, int]] = {}  # document: offset, size, CRC; size 0: removed
        self.keys: list[dict[int, int]] = [{} for _ in self._indexes]
        self.loose: list[set[int]] = [set() for _ in self._indexes]
        if cleared:
            self.last_id = 0

    def put(self, doc_id: int, offset: int, size: int, checksum: int, doc: Doc) -> None:
        self.exists, self.last_id = True, max(self.last_id, doc_id)
        self._forget(doc_id)
        self.places[doc_id] = (offset, size, checksum)
        for number, index in enumerate(self._indexes):
            key = index.key(doc)
            if key is not None and 0 <= doc_id <= IDS:
                self.keys[number][doc_id] = key
            elif index.kind == "time":
                self.loose[number].add(doc_id)

    def remove(self, low: int, high: int) -> None:
        self.last_id = max(self.last_id, high)  # it was given, also where the line that gave it has been erased
        if low == high:
            self._forget(low)
            self.places[low] = (0, 0, 0)
            return
        for doc_id in [doc_id for doc_id in self.places if low <= doc_id <= high]:
            self._forget(doc_id)
            del self.places[doc_id]
        self.ranges.append((low, high))

    def _forget(self, doc_id: int) -> None:
        for keys, loose in zip(self.keys, self.loose, strict=True):
            keys.pop(doc_id, None)
            loose.discard(doc_id)

    def encode(self) -> tuple[Doc, list[bytes]]:
        """A JSON header, and the columns that stand behind it."""
        columns = [np.array(list(self.places), np.int64).tobytes()]
        columns += [np.array([p[n] for p in self.places.values()], np.uint64).tobytes() for n in range(3)]
        columns += [
            np.array([key << _ID_BITS | doc_id for doc_id, key in keys.items()], np.uint64).tobytes()
            for keys in self.keys
        ]
        head = {
            "indexes": names(self._indexes),
            "cleared": self.cleared,
            "exists": self.exists,
            "last_id": self.last_id,
            "ranges": self.ranges,
            "loose": [sorted(loose) for loose in self.loose],
            "sizes": [len(column) for column in columns],
        }
        return head, columns


class Docs:
    """One table: where each document lies. Numbers that do not fit the arrays are kept in a dictionary.

    The arrays begin at the number `first`, so that a table whose oldest documents go (events) stays small.
    """

    def __init__(self, indexes: Sequence[Index]) -> None:
        self.indexes = tuple(indexes)
        # Which index a query can use.
        self.numbers = {(index.kind, index.path): n for n, index in enumerate(self.indexes) if index.of is None}
        self.moves = 0  # how often the arrays have got another beginning
        self.clear()

    def clear(self) -> None:
        self.first = 1
        self.moves += 1
        self._start, self._size, self._checksum = array("Q"), array("I"), array("I")
        self._odd: dict[int, Place] = {}
        self.keys = [Keys() for _ in self.indexes]
        self.loose: list[set[int]] = [set() for _ in self.indexes]  # their value has no key of this kind
        self.count = 0
        self.last_id = 0  # the highest number ever given, since the table was cleared

    @property
    def columns(self) -> tuple[array[int], array[int], array[int]]:
        """Start, size (0: none), checksum of the documents from `first` on; where() finds those of odd numbers too."""
        return self._start, self._size, self._checksum

    def where(self, doc_id: int) -> tuple[int, int, int] | None:
        """Its start, size and checksum. A start is `segment << OFFSET_BITS | offset`."""
        at = doc_id - self.first
        try:
            size = self._size[at] if at >= 0 else 0
        except (IndexError, TypeError):
            size = 0
        if size:
            return self._start[at], size, self._checksum[at]
        odd = self._odd.get(doc_id) if self._odd else None
        return None if odd is None else (odd.segment << OFFSET_BITS | odd.offset, odd.size, odd.checksum)

    def place(self, doc_id: int) -> Place | None:
        where = self.where(doc_id)
        return None if where is None else Place(where[0] >> OFFSET_BITS, where[0] & OFFSETS, where[1], where[2])

    def put(self, doc_id: int, place: Place) -> None:
        if self.where(doc_id) is None:
            self.count += 1
        self.last_id = max(self.last_id, doc_id)
        if not self._has_room(doc_id, doc_id):
            self._odd[doc_id] = place
            return
        self._set(doc_id, place)

    def _has_room(self, low: int, high: int) -> bool:
        """Make room in the arrays for these numbers, unless most of it would stay empty."""
        if not self._size and low >= 0:
            self.first = low
            self.moves += 1
        behind = self.first + len(self._size)
        if low < self.first or high > IDS or high - behind > self.count + _SPARSE:
            return False
        if high >= behind:
            for column in (self._start, self._size, self._checksum):
                column.frombytes(bytes(column.itemsize * (high + 1 - behind)))
            for odd in [odd for odd in self._odd if self.first <= odd <= high]:
                self._set(odd, self._odd.pop(odd))
        return True

    def _set(self, doc_id: int, place: Place) -> None:
        at = doc_id - self.first
        self._start[at] = place.segment << OFFSET_BITS | place.offset
        self._size[at], self._checksum[at] = place.size, place.checksum

    def remove(self, doc_id: int) -> None:
        if self.where(doc_id) is None:
            return
        self.count -= 1
        if self._odd.pop(doc_id, None) is None:
            self._size[doc_id - self.first] = 0

    def remove_range(self, low: int, high: int) -> None:
        first, behind = max(low - self.first, 0), min(high + 1 - self.first, len(self._size))
        if first < behind:
            sizes = np.frombuffer(self._size, np.uint32)[first:behind]
            self.count -= int(np.count_nonzero(sizes))
            sizes[:] = 0
            del sizes  # an array that is looked into cannot change its length
        for odd in [odd for odd in self._odd if low <= odd <= high]:
            self.remove(odd)
        self._forget_the_front()

    def _forget_the_front(self) -> None:
        """The arrays need not hold what was before the oldest document."""
        used = np.flatnonzero(np.frombuffer(self._size, np.uint32)) if self._size else np.empty(0, np.int64)
        gone = int(used[0]) if len(used) else len(self._size)
        for column in (self._start, self._size, self._checksum):
            del column[:gone]
        self.first += gone
        self.moves += 1

    def key(self, doc_id: int, doc: Doc, before: Doc | None = None) -> None:
        """Enter the document's keys; before: what it was, so that keys of no use go."""
        for index, keys, loose in zip(self.indexes, self.keys, self.loose, strict=True):
            key = index.key(doc)
            old = index.key(before) if before is not None else None
            if old is not None and old != key and 0 <= doc_id <= IDS:
                keys.forget(old, doc_id)
            if key is None or not 0 <= doc_id <= IDS:
                if index.kind == "time":
                    loose.add(doc_id)
            elif old != key or before is None:
                keys.add(key, doc_id)

    def ids(self, first: int | None = None) -> Iterator[int]:
        """In ascending order; first: from this number on."""
        size = self._size
        if self._odd:
            dense = (self.first + at for at, size in enumerate(self._size) if size)
            yield from (each for each in sorted((*dense, *self._odd)) if first is None or each >= first)
            return
        for doc_id in range(max(first or 0, self.first), self.first + len(size)):
            at = doc_id - self.first  # which can move while somebody removes
            if 0 <= at < len(size) and size[at]:
                yield doc_id

    def lowest(self) -> int | None:
        """The lowest number in use."""
        return next(self.ids(), None)

    def highest(self) -> int | None:
        """The highest number in use."""
        used = np.flatnonzero(np.frombuffer(self._size, np.uint32)) if self._size else np.empty(0, np.int64)
        top = [self.first + int(used[-1])] if len(used) else []
        return max([*top, *self._odd], default=None)

    def find(self, number: int, low: int, high: int) -> list[int]:
        """Documents that index `number` may hold between two keys; every one that does is among them. Ascending.

        Some may be there no more.
        """
        return sorted({*self.keys[number].find(low, high), *self.loose[number], *self._odd})

    def _in_segment(self, segment: int) -> NDArray[np.bool_]:
        starts = np.frombuffer(self._start, np.uint64) >> np.uint64(OFFSET_BITS)
        there: NDArray[np.bool_] = (starts == np.uint64(segment)) & (np.frombuffer(self._size, np.uint32) > 0)
        return there

    def live_in(self, segment: int) -> list[int]:
        """The documents that lie in a segment."""
        there = np.flatnonzero(self._in_segment(segment)) + self.first if self._size else np.empty(0, np.int64)
        return [*there.tolist(), *(odd for odd, place in self._odd.items() if place.segment == segment)]

    def bytes_in(self, segment: int) -> int:
        """How many bytes the documents that lie in a segment have."""
        dense = 0
        if self._size:
            dense = int(np.frombuffer(self._size, np.uint32)[self._in_segment(segment)].sum(dtype=np.int64))
        return dense + sum(place.size for place in self._odd.values() if place.segment == segment)

    # -- many at once, from a hint

    def apply(self, segment: int, head: Doc, columns: Sequence[bytes]) -> None:
        """What Effect.encode() gave. settle() must follow before anything is looked for."""
        if head["cleared"]:
            self.clear()
        for low, high in head["ranges"]:
            self.remove_range(low, high)
        self.last_id = max(self.last_id, head["last_id"])
        ids = np.frombuffer(columns[0], np.int64)
        offsets, sizes, checksums = (np.frombuffer(column, np.uint64) for column in columns[1:4])
        if len(ids) and self._has_room(int(ids.min()), int(ids.max())):
            at = ids - self.first
            view = np.frombuffer(self._size, np.uint32)
            self.count += int(np.count_nonzero(sizes)) - int(np.count_nonzero(view[at]))
            view[at] = sizes
            np.frombuffer(self._start, np.uint64)[at] = np.uint64(segment << OFFSET_BITS) | offsets
            np.frombuffer(self._checksum, np.uint32)[at] = checksums
        else:
            for doc_id, offset, size, checksum in zip(
                ids.tolist(), offsets.tolist(), sizes.tolist(), checksums.tolist(), strict=True
            ):
                if size:
                    self.put(doc_id, Place(segment, offset, size, checksum))
                else:
                    self.remove(doc_id)
        if not self.indexes:
            return  # whoever looks for nothing needs no keys
        for keys, loose, own, entries in zip(self.keys, self.loose, head["loose"], columns[4:], strict=True):
            loose.update(own)
            keys.pend(np.frombuffer(entries, np.uint64))

    def settle(self) -> None:
        for keys in self.keys:
            keys.settle()


def write_hint(path: Path, head: Doc, effects: Mapping[str, Effect]) -> None:
    """What a segment does to the tables, so that nobody has to read it. It need not be synced: its checksum tells.

    head: facts of the segment itself. Raises OSError.
    """
    encoded = {name: effect.encode() for name, effect in effects.items()}
    tables = {name: own for name, (own, _) in encoded.items()}
    text = orjson.dumps({**head, "format": _HINT_FORMAT, "tables": tables})
    parts = [_HINT_MAGIC, b"%d\n" % len(text), text, *(column for _, columns in encoded.values() for column in columns)]
    data = b"".join(parts)
    temporary = path.with_suffix(".newhint")
    temporary.write_bytes(data + b"%08x" % zlib.crc32(data))
    temporary.chmod(0o600)
    temporary.rename(path)


def read_hint(path: Path) -> tuple[Doc, dict[str, tuple[Doc, list[bytes]]]] | None:
    """What write_hint() wrote: its head, and for each table its own head and columns. None: not there, or not whole."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if not data.startswith(_HINT_MAGIC) or data[-8:] != b"%08x" % zlib.crc32(data[:-8]):
        return None
    length, at = data[len(_HINT_MAGIC) :].split(b"\n", 1)[0], 0
    at = len(_HINT_MAGIC) + len(length) + 1
    head = orjson.loads(data[at : at + int(length)])
    if head["format"] != _HINT_FORMAT:
        return None
    at += int(length)
    tables: dict[str, tuple[Doc, list[bytes]]] = {}
    for name, own in head["tables"].items():
        columns = []
        for size in own["sizes"]:
            columns.append(data[at : at + size])
            at += size
        tables[name] = own, columns
    return head, tables
