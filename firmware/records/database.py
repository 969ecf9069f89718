"""TinyDB over the log: a Storage that appends, a Table that looks up instead of reading everything, a TinyDB of both.

To a user of TinyDB it is TinyDB. What differs: numbers of documents are integers, documents come in order of their
numbers, and a document is what JSON makes of it (a tuple comes back as a list, NaN as None).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson
from tinydb import TinyDB
from tinydb.queries import QueryInstance, QueryLike
from tinydb.storages import Storage
from tinydb.table import Document, Table
from xxhash import xxh3_64_intdigest

from firmware.records.index import (
    Doc,
    Docs,
    Effect,
    Index,
    Place,
    names,
    read_hint,
    second,
    text_key,
    write_hint,
)
from firmware.records.log import (
    OFFSET_BITS,
    OFFSETS,
    ORIGIN,
    Bad,
    Line,
    Problem,
    Reader,
    Segment,
    Writer,
    erased,
    first_seq,
    lines,
    make_directory,
    read_whole,
    remove_leftovers,
    segments,
    unlike_a_line,
    write_anew,
)

_LAST_KEY = (1 << 32) - 1
_MOST_PROBLEMS = 1000
_CLOSE = 8192  # bytes between two documents
_AHEAD = 65536  # bytes that are read at once
_32_BITS = 0xFFFF_FFFF
_TRIES = 10  # of a reader whose segments are written anew under its hands
_SPACE = ord(" ")  # before a document that orjson refuses


# What reading a line raises that is whole, and that somebody else has made.
NOTHING_OF_A_STORE = (ValueError, LookupError, TypeError, AttributeError)


class StoreError(OSError):
    """The store cannot be opened or written: one sentence that says what, where and how to mend it."""


class Put(NamedTuple):
    table: str
    doc_id: int
    doc: Mapping[str, Any]


class Remove(NamedTuple):
    """Documents from low to high, both included."""

    table: str
    low: int
    high: int


class Clear(NamedTuple):
    """Remove all documents, and begin to number them anew; drop: the table too."""

    table: str
    drop: bool = False


Change = Put | Remove | Clear


def checksum(data: bytes) -> int:
    """Of a document: 32 bits of XXH3. A line has a CRC-32 and a hash besides."""
    return xxh3_64_intdigest(data) & _32_BITS


def encode(doc: Mapping[str, Any]) -> bytes:
    """JSON. What orjson refuses (a lone surrogate, a huge number, a key that is no text) is written as json does it."""
    try:
        data = orjson.dumps(doc, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError:
        data = b" " + json.dumps(doc, separators=(",", ":")).encode()
    return unlike_a_line(data)


def decode(data: bytes | memoryview) -> Any:
    return json.loads(bytes(data)) if data[0] == _SPACE else orjson.loads(data)


def compose(changes: Sequence[Change], stamp: object = None) -> tuple[bytes, list[bytes]]:
    """The body of a line, and the documents in it: what is done as JSON, then each document behind a tab."""
    docs = [encode(change.doc) for change in changes if isinstance(change, Put)]
    sizes = iter(docs)
    done: list[list[object]] = []
    for change in changes:
        match change:
            case Put():
                done.append([change.table, change.doc_id, len(next(sizes))])
            case Remove():
                done.append([change.table, change.low, change.high, 0])
            case Clear():
                done.append([change.table, change.drop])
    head = {"do": done} if stamp is None else {"at": stamp, "do": done}
    return b"\t".join((unlike_a_line(orjson.dumps(head)), *docs)), docs


def parts(body: bytes) -> tuple[dict[str, Any], int]:
    """The JSON head of a body, and where its first document begins."""
    end = body.find(b"\t")
    head: dict[str, Any] = orjson.loads(body if end < 0 else body[:end])
    return head, len(body) + 1 if end < 0 else end + 1


class LogStorage(Storage):
    """All tables of a directory. indexes: by table. stamp: what is written down with every line (its time).

    One writer (flock); readers, also beside it, see what was whole when they opened. Raises StoreError.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        indexes: Mapping[str, Sequence[Index]] | None = None,
        writable: bool = True,
        sync: bool = True,
        stamp: Callable[[], object] | None = None,
    ) -> None:
        self.directory, self.writable = Path(directory), writable
        self._indexes, self._stamp = dict(indexes or {}), stamp
        self.problems: list[Problem] = []
        self._written = False
        self._rotten: set[tuple[str, int]] = set()  # documents whose checksum failed
        self._no_hint: set[str] = set()  # segments that are not whole, and are scanned at every start
        self.last_at: Any = None  # the stamp of the last line
        self._lock: Any = None
        self._writer = Writer(self.directory, sync=sync)
        self._reader = Reader([])
        self.tables: dict[str, Docs] = {}
        self._known: list[Segment] = []  # a reader's: what it has read, the last one up to _end
        self._end = 0
        try:
            if writable:
                self._take_lock()
            self._open()
        except OSError as error:
            self.close()
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{error.filename or self.directory}: cannot be used ({error.strerror}).") from error

    # -- opening

    def _take_lock(self) -> None:
        make_directory(self.directory)
        self._lock = (self.directory / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"{self.directory}: another unit is running on this data; stop it first.", error.errno
            ) from error

    def _open(self) -> None:
        for again in range(_TRIES, -1, -1):
            try:
                self._open_now()
                return
            except FileNotFoundError:
                if self.writable or not again:
                    raise  # else a segment was written anew between looking and reading

    def _open_now(self) -> None:
        known = segments(self.directory)
        if self.writable:
            remove_leftovers(self.directory, known)
        self._reader.close()
        self.tables, self._reader = {}, Reader(known)
        self.seq, self.link, self.last_at = 0, ORIGIN, None
        expected, end = 1, 0
        for at, segment in enumerate(known):
            if segment.number != expected:
                self._missing(segment, expected, segment.number - 1)
            expected = segment.number + 1
            end = self._load(segment, known[at + 1 :])
        # A hint is written when another segment has been begun, so that the last one has none.
        cut_off = bool(known) and known[-1].hint.exists() and segments(self.directory)[-1] == known[-1]
        if cut_off:
            self._missing(known[-1], expected, expected)
        for docs in self.tables.values():
            docs.settle()
        self._known, self._end = known, end
        give_back()
        if self.writable and cut_off:
            self._writer.leave_out(expected, self.seq, self.link)
        elif self.writable and known:
            self._writer.go_on(known[-1], end, self.seq, self.link)

    def follow(self) -> set[tuple[str, int]] | None:
        """A reader: take in what was written since. Returns which documents changed, by table and number.

        None: all was read anew, since the segments were written anew, or are damaged; what changed cannot be told.
        """
        try:
            known = segments(self.directory)
            if not self._known or self._known[-1] not in known:
                raise LookupError("other segments")
            changed: set[tuple[str, int]] = set()
            for segment in known[known.index(self._known[-1]) :]:
                changed |= self._follow(segment)
            if [each.path for each in known[: len(self._known)]] != [each.path for each in self._known]:
                self._open()  # the same documents, elsewhere
        except (FileNotFoundError, *NOTHING_OF_A_STORE):
            self._open_again()
            return None
        except OSError as error:
            raise StoreError(f"{self.directory}: cannot be read ({error.strerror}).") from error
        self._known = known
        return changed

    def _open_again(self) -> None:
        try:
            self._open()
        except OSError as error:
            raise StoreError(f"{error.filename or self.directory}: cannot be read ({error.strerror}).") from error

    def _follow(self, segment: Segment) -> set[tuple[str, int]]:
        """The rest of a segment. Raises LookupError where a line does not follow the one before it."""
        self._end = self._end if segment == self._known[-1] else 0
        self._reader.segments[segment.number] = segment
        with segment.path.open("rb") as file:
            file.seek(self._end)
            data = file.read()
        changed: set[tuple[str, int]] = set()
        begins = self._end
        for line in lines(data):
            if isinstance(line, Bad):
                break  # it is being written
            if (line.seq, line.prev) != (self.seq + 1, self.link):
                raise LookupError(f"line {line.seq} does not follow line {self.seq}")
            if line.body is not None:
                changed |= self._followed(segment.number, begins + line.body_offset, line.body)
            self.seq, self.link, self._end = line.seq, line.link, begins + line.offset + line.size
        return changed

    def _followed(self, segment: int, offset: int, body: bytes) -> set[tuple[str, int]]:
        """Do what a line says that the unit has written. offset: of its body in the segment."""
        changed: set[tuple[str, int]] = set()
        head, at = parts(body)
        for done in head["do"]:
            name = done[0]
            match done[1:]:
                case [bool(drop)]:
                    raise LookupError(f"table {name} was cleared ({drop})")
                case [low, high, _]:
                    self._docs(name).remove_range(low, high)
                    changed |= {(name, low), (name, high)}
                case [doc_id, size]:
                    data = body[at : at + size]
                    self._put(Put(name, doc_id, decode(data)), Place(segment, offset + at, size, checksum(data)))
                    changed.add((name, doc_id))
                    at += size + 1
        self.last_at = head.get("at") or self.last_at
        return changed

    def _missing(self, beside: Segment, low: int, high: int) -> None:
        which = f"segment {low} is" if low == high else f"segments {low} to {high} are"
        self._found(Problem("missing", beside.path.name, f"{which} missing beside it; put back a backup."))

    def _load(self, segment: Segment, following: Sequence[Segment]) -> int:
        """Apply a segment. Returns where its last line ends."""
        found = read_hint(segment.hint) if following else None
        size = segment.path.stat().st_size
        if found is None or found[0]["bytes"] != size or not self._has_keys(found[1]):
            head, effects = self._scan(segment, following, self.seq)
            if following and self.writable and not head["problems"]:
                with contextlib.suppress(OSError):  # it is scanned again next time
                    write_hint(segment.hint, head, effects)
            own = {name: effect.encode() for name, effect in effects.items()}
        else:
            head, own = found
        self._chain(segment, head)
        self.last_at = head["last_at"] or self.last_at
        for name, (of_table, columns) in own.items():
            if not of_table["exists"]:
                self.tables.pop(name, None)
                continue
            self._docs(name).apply(segment.number, of_table, columns)
        return int(head["end"])

    def _has_keys(self, tables: Mapping[str, tuple[Doc, list[bytes]]]) -> bool:
        """Whether a hint holds the keys of our indexes; those of other ones are of no use."""
        wanted = {name: names(self._indexes.get(name, ())) for name in tables}
        return all(not wanted[name] or wanted[name] == own["indexes"] for name, (own, _) in tables.items())

    def _chain(self, segment: Segment, head: Doc) -> None:
        """The segment's first line must follow the last one of the segment before."""
        if head["first_seq"] is not None:
            if head["first_seq"] != self.seq + 1:
                says = f"line {head['first_seq']} stands where line {self.seq + 1} belongs."
                self._found(Problem("chain", segment.path.name, says))
            elif head["first_prev"] != self.link:
                self._found(
                    Problem("chain", segment.path.name, "does not follow the line before it: that one was changed.")
                )
            self.seq, self.link = head["last_seq"], head["last_link"]

    def _scan(
        self, segment: Segment, following: Sequence[Segment], last_seq: int | None = None
    ) -> tuple[Doc, dict[str, Effect]]:
        """Read a whole segment. last_seq: of the segment before, where it is known."""
        data = read_whole(segment.path)
        limit = first_seq(following)
        effects: dict[str, Effect] = {}
        before: Line | None = None
        first: Line | None = None
        end, at, rotten = 0, None, False
        wrong: list[Problem] = []
        for line in lines(data):
            where = f"{segment.path.name} at byte {line.offset}"
            if isinstance(line, Bad):
                last_seq = before.seq if before else last_seq
                seq = limit if last_seq is None else last_seq + 1
                if line.last and limit is None:
                    wrong.append(
                        Problem("torn", where, f"{line.size} bytes are no whole line: it was being written at the end.")
                    )
                elif not (line.last and limit == seq):  # else it broke off and was refused, and the next one took on
                    wrong.append(Problem("rot", where, f"line {seq} can no longer be read."))
                rotten = True
                continue
            if limit is not None and line.seq >= limit:
                break  # was never acknowledged
            if before and line.seq == before.seq + 1 and line.prev != before.link:
                wrong.append(Problem("chain", where, "does not follow the line before it."))
            elif before and line.seq != before.seq + 1 and not rotten:
                wrong.append(Problem("chain", where, f"line {line.seq} stands where line {before.seq + 1} belongs."))
            rotten = False
            first = first or line
            before, end = line, line.offset + line.size
            if line.body is not None:
                try:
                    at = self._effect(line, effects) or at
                except NOTHING_OF_A_STORE:
                    wrong.append(Problem("chain", where, f"line {line.seq} holds nothing that a store writes."))
        for problem in wrong:
            self._found(problem)
        head = {
            "bytes": len(data),
            "end": end,
            "first_seq": first.seq if first else None,
            "first_prev": first.prev if first else None,
            "last_seq": before.seq if before else None,
            "last_link": before.link if before else None,
            "last_at": at,
            "problems": len(wrong),
        }
        return head, effects

    def _effect(self, line: Line, effects: dict[str, Effect]) -> Any:
        """Apply a line. Returns its stamp."""
        body = cast(bytes, line.body)
        head, at = parts(body)
        for done in head["do"]:
            name = done[0]
            effect = effects.setdefault(name, Effect(self._indexes.get(name, ())))
            match done[1:]:
                case [bool(drop)]:
                    effect.clear()
                    effect.exists = not drop
                case [low, high, _]:
                    effect.remove(low, high)
                case [doc_id, size]:
                    data = body[at : at + size]
                    effect.put(doc_id, line.body_offset + at, size, checksum(data), decode(data))
                    at += size + 1
        return head.get("at")

    def _found(self, problem: Problem) -> None:
        if len(self.problems) < _MOST_PROBLEMS and problem not in self.problems:
            self.problems.append(problem)

    def _docs(self, name: str) -> Docs:
        if name not in self.tables:
            self.tables[name] = Docs(self._indexes.get(name, ()))
        return self.tables[name]

    # -- reading

    def read(self) -> dict[str, Any] | None:
        """The tables as TinyDB expects them; their documents are read when they are asked for."""
        return {name: View(self, name) for name in self.tables} or None

    def doc(self, name: str, doc_id: int) -> Doc | None:
        data = self.raw(name, doc_id)
        return None if data is None else cast(Doc, decode(data))

    def raw(self, name: str, doc_id: int) -> bytes | None:
        """A document's JSON, as it lies on the disk; None also for one that can no longer be read."""
        docs = self.tables.get(name)
        where = docs.where(doc_id) if docs else None
        if where is None:
            return None
        start, size, expected = where
        for again in range(_TRIES, -1, -1):
            try:
                data = self._reader.read(start, size)
                break
            except OSError as error:
                if self.writable or not again or not isinstance(error, FileNotFoundError):
                    self._lost(name, doc_id, start, error.strerror or str(error))
                    return None
            where = self._again(name, doc_id)
            if where is None:
                return None  # removed, since this reader opened
            start, size, expected = where
        if checksum(data) != expected:
            self._rotten.add((name, doc_id))
            self._lost(name, doc_id, start, "its checksum fails")
            return None
        return data

    def _again(self, name: str, doc_id: int) -> tuple[int, int, int] | None:
        """Where a document lies now that its segment was written anew, since this reader opened."""
        self._open()
        return self.tables[name].where(doc_id) if name in self.tables else None

    def documents(self, name: str, ids: Iterable[int]) -> Iterator[tuple[int, Doc]]:
        """Those of these documents that can be read. Where one lies close behind the other, many are read at once."""
        docs = self.tables.get(name)
        if docs is None:
            return
        loads, digest = orjson.loads, xxh3_64_intdigest
        ahead, ahead_start, end = b"", 0, 0
        moves = -1
        for doc_id in ids:
            if moves != docs.moves:  # somebody who works on what this yields can have moved them
                moves, first, (starts, sizes, checksums) = docs.moves, docs.first, docs.columns
            # What Docs.where() does, without a call for each document.
            row = doc_id - first
            if 0 <= row < len(sizes) and (size := sizes[row]):
                start, expected = starts[row], checksums[row]
            elif found := docs.where(doc_id):
                start, size, expected = found
            else:
                continue
            at = start - ahead_start
            if not 0 <= at <= len(ahead) - size:
                close = 0 <= start - end <= _CLOSE
                ahead_start, at = start, 0
                try:
                    ahead = self._reader.read(start, max(size, _AHEAD) if close else size)
                except OSError:
                    ahead = b""
            end = start + size
            data = ahead[at : at + size]
            # What is not as it was written is looked for once more by itself, which also tells of its loss.
            if digest(data) & _32_BITS != expected:
                doc = self.doc(name, doc_id)
                if doc is not None:
                    yield doc_id, doc
            else:
                yield doc_id, loads(data) if data[0] != _SPACE else decode(data)

    def is_gone(self, name: str, doc_id: int) -> bool:
        """Whether there is no such document, or it has rotted. Not so for one that the disk does not give just now."""
        docs = self.tables.get(name)
        return docs is None or docs.where(doc_id) is None or (name, doc_id) in self._rotten

    def _lost(self, name: str, doc_id: int, start: int, why: str) -> None:
        where = f"{self._reader.segments[start >> OFFSET_BITS].path.name} at byte {start & OFFSETS}"
        says = f"{name} {doc_id} can no longer be read ({why})."
        if not any(problem.where == where for problem in self.problems):
            self._found(Problem("rot", where, says))

    # -- writing

    def commit(self, changes: Sequence[Change]) -> None:
        """All or nothing, in one line. On return it is on the disk. Raises StoreError, and then nothing is changed."""
        if not self.writable:
            raise StoreError(f"{self.directory}: is open for reading only; the unit that owns it writes to it.")
        stamp = self._stamp() if self._stamp else None
        body, docs = compose(changes, stamp)
        writer = self._writer
        try:
            if writer.failed or not writer.fits(body):
                if writer.failed:
                    raise OSError(None, writer.failed)
                self._new_segment()
            at = writer.append(body)
        except OSError as error:
            raise StoreError(
                f"{self.directory}: cannot be written ({error.strerror}); free space or mend the card."
            ) from error
        self.seq, self.link, self.last_at = writer.seq, writer.link, stamp
        self._written = True
        offset = at + len(body) - sum(map(len, docs)) - len(docs) + 1
        datas = iter(docs)
        for change in changes:
            match change:
                case Put():
                    data = next(datas)
                    self._put(change, Place(writer.segment.number, offset, len(data), checksum(data)))
                    offset += len(data) + 1
                case Remove():
                    table = self._docs(change.table)
                    if change.low == change.high:
                        table.remove(change.low)
                    else:
                        table.remove_range(change.low, change.high)
                case Clear():
                    if change.drop:
                        self.tables.pop(change.table, None)
                    else:
                        self._docs(change.table).clear()

    def _put(self, change: Put, place: Place) -> None:
        docs = self._docs(change.table)
        if docs.indexes:
            before = self.doc(change.table, change.doc_id)
            docs.key(change.doc_id, cast(Doc, change.doc), before)
        docs.put(change.doc_id, place)

    def _new_segment(self) -> None:
        self._writer.new_segment()
        self._reader.replaced(self._writer.segment)

    def revive(self) -> None:
        """After a failed write: go on in a new segment. Raises StoreError while the disk refuses that too."""
        if self._writer.failed:
            where = self._writer.segment.path.name
            self._in_words(self._new_segment)
            self._found(Problem("failed", where, "the disk refused a write: what had been acknowledged is there."))

    # -- upkeep: never in a hurry, a segment at a time

    def sealed(self) -> list[Segment]:
        """The segments that nothing is appended to any more."""
        return [
            segment
            for number, segment in sorted(self._reader.segments.items())
            if number != self._writer.segment.number
        ]

    def _behind(self, segment: Segment) -> list[Segment]:
        return [each for number, each in sorted(self._reader.segments.items()) if number > segment.number]

    def seal(self) -> None:
        """Begin a new segment, so that what was written up to now can be compacted. Raises StoreError."""
        self.revive()
        if self._writer.end:
            self._in_words(self._new_segment)

    def tidy(self) -> bool:
        """Write one hint that is missing. Returns whether there was one to write."""
        for segment in self.sealed():
            if segment.path.name not in self._no_hint and not segment.hint.exists():
                self._no_hint.add(segment.path.name)  # whatever goes wrong: it is scanned at the next start
                with self._reading(segment):
                    head, effects = self._scan(segment, self._behind(segment))
                if not head["problems"]:
                    self._in_words(lambda: write_hint(segment.hint, head, effects))  # noqa: B023 - called at once
                    return True
        return False

    @contextlib.contextmanager
    def _reading(self, segment: Segment) -> Iterator[None]:
        """A segment that cannot be read is an alarm, and stops the unit's loop no more than a full disk does."""
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            why = error.strerror or str(error)
            self._found(Problem("failed", segment.path.name, f"cannot be read ({why})."))
            raise StoreError(
                f"{segment.path}: cannot be read ({why}); copy the store away and change the card."
            ) from error

    def compact(self, segment: Segment, doomed: Callable[[Line], bool] | None = None, *, least: float = 0.25) -> int:
        """Take the bodies out of a sealed segment's lines whose documents have all been replaced or removed since.

        doomed: lines whose bodies go whatever else is in them; what is alive there is written again first. Nothing is
        done for less than this part of the segment, unless a line is doomed. The chain stays whole. Returns the bytes
        that were freed. Raises StoreError.
        """
        with self._reading(segment):
            return self._compact(segment, doomed, least)

    def _compact(self, segment: Segment, doomed: Callable[[Line], bool] | None, least: float) -> int:
        size = segment.path.stat().st_size
        if doomed is None and sum(docs.bytes_in(segment.number) for docs in self.tables.values()) > (1 - least) * size:
            return 0
        data = segment.path.read_bytes()
        everything = list(lines(data))
        found = [line for line in everything if isinstance(line, Line)]
        limit = first_seq(self._behind(segment))
        found = [line for line in found if limit is None or line.seq < limit]  # the others were never acknowledged
        gone = {line.seq for line in found if line.body is not None and doomed is not None and doomed(line)}
        if rescued := [put for line in found if line.seq in gone for put in self._alive(segment, line)]:
            self.commit(rescued)
        dead = gone | {line.seq for line in found if self._is_dead(segment, line)}
        freed = sum(line.size for line in found if line.seq in dead and line.body is not None) - 162 * len(dead)
        if not gone and (freed < least * len(data) or len(found) < len(everything)):
            return 0  # what has rotted stays for whoever may read it yet
        bodies = (
            (line, erased(line.body_hash) if line.body is None or line.seq in dead else line.body) for line in found
        )
        self._in_words(lambda: self._replace(segment, bodies))
        return freed

    def _replace(self, segment: Segment, bodies: Iterator[tuple[Line, bytes]]) -> None:
        new = write_anew(segment, bodies)
        old = {name: docs.live_in(segment.number) for name, docs in self.tables.items()}
        self._reader.replaced(new)
        head, effects = self._scan(new, self._behind(new))
        if not head["problems"]:
            with contextlib.suppress(OSError):  # tidy() tries again; where the documents lie now must be known
                write_hint(new.hint, head, effects)
        for name, ids in old.items():
            for doc_id in ids:
                place = effects[name].places.get(doc_id) if name in effects else None
                if place is None:  # its line had rotted
                    self._found(Problem("rot", new.path.name, f"{name} {doc_id} can no longer be read."))
                    self.tables[name].remove(doc_id)
                else:
                    self.tables[name].put(doc_id, Place(new.number, *place))

    def _puts(self, line: Line) -> Iterator[tuple[str, int, int, int]]:
        """Table, document, offset in the segment and size of what a line puts."""
        body = cast(bytes, line.body)
        head, at = parts(body)
        for done in head["do"]:
            if len(done) == 3:
                yield done[0], done[1], line.body_offset + at, done[2]
                at += done[2] + 1

    def _lives(self, segment: Segment, name: str, doc_id: int, offset: int) -> bool:
        place = self.tables[name].place(doc_id) if name in self.tables else None
        return place is not None and (place.segment, place.offset) == (segment.number, offset)

    def _is_dead(self, segment: Segment, line: Line) -> bool:
        if line.body is None:
            return False
        head, _ = parts(line.body)
        if not head["do"] or any(len(done) != 3 for done in head["do"]):
            return False  # what removes must go on to do so
        return not any(self._lives(segment, name, doc_id, offset) for name, doc_id, offset, _ in self._puts(line))

    def _alive(self, segment: Segment, line: Line) -> Iterator[Put]:
        for name, doc_id, offset, _ in self._puts(line):
            if self._lives(segment, name, doc_id, offset):
                doc = self.doc(name, doc_id)
                if doc is not None:
                    yield Put(name, doc_id, doc)

    def _in_words(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            raise StoreError(
                f"{self.directory}: cannot be written ({error.strerror}); free space or mend the card."
            ) from error

    @property
    def failed(self) -> str | None:
        """Why nothing can be written any more; None while all is well."""
        return self._writer.failed

    def write(self, data: Mapping[str, Mapping[Any, Mapping[str, Any]]]) -> None:
        """Whatever TinyDB, or a middleware, wants the whole to be: what differs is written, in one line."""
        changes: list[Change] = [Clear(name, drop=True) for name in self.tables if name not in data]
        for name, table in data.items():
            if not (isinstance(table, View) and table.of(self, name)):
                changes += self._difference(name, table)
        if changes:
            self.commit(changes)

    def _difference(self, name: str, table: Mapping[Any, Mapping[str, Any]]) -> Iterator[Change]:
        wanted = {int(doc_id): doc for doc_id, doc in table.items()}
        docs = self.tables.get(name)
        if docs is None or (not wanted and docs.count):
            yield Clear(name)
        elif docs is not None:
            yield from (Remove(name, doc_id, doc_id) for doc_id in docs.ids() if doc_id not in wanted)
        for doc_id, doc in wanted.items():
            if docs is None or not docs.count or encode(doc) != self.raw(name, doc_id):
                yield Put(name, doc_id, doc)

    def close(self) -> None:
        """With a line that says so: from then on a last line that is not whole is rot, and no write that was cut off.

        Raises OSError if what was not synced cannot be.
        """
        try:
            try:
                if self._written and self._writer.failed is None:
                    self._written = False
                    self.commit([])
                    with contextlib.suppress(StoreError):  # a hint only spares a scan
                        while self.tidy():
                            pass
            finally:
                self._writer.close()
        finally:
            self._reader.close()
            if self._lock:
                self._lock.close()
                self._lock = None


def give_back() -> None:
    """Let the system have the memory that only opening needed; glibc keeps half as much again as what is in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


class View(Mapping[str, Any]):
    """A table as TinyDB's storages give it: documents by their numbers as text. Each look reads the disk."""

    def __init__(self, storage: LogStorage, name: str) -> None:
        self._storage, self._name = storage, name

    def of(self, storage: LogStorage, name: str) -> bool:
        return storage is self._storage and name == self._name

    def _ids(self) -> Iterable[int]:
        docs = self._storage.tables.get(self._name)
        return docs.ids() if docs else ()

    def __getitem__(self, key: str) -> Doc:
        doc = self._storage.doc(self._name, int(key)) if key.lstrip("-").isdecimal() else None
        if doc is None:
            raise KeyError(key)
        return doc

    def __iter__(self) -> Iterator[str]:
        return map(str, self._ids())

    def __len__(self) -> int:
        docs = self._storage.tables.get(self._name)
        return docs.count if docs else 0

    def documents(self) -> Iterator[tuple[int, Doc]]:
        """In order of their numbers; what can no longer be read is left out."""
        return self._storage.documents(self._name, self._ids())

    def items(self) -> Any:
        return ((str(doc_id), doc) for doc_id, doc in self.documents())

    def values(self) -> Any:
        return (doc for _, doc in self.documents())


class _Changed(MutableMapping[int, Any]):
    """A table while an update works on it: what it takes in its hands is compared afterwards with what was there."""

    def __init__(self, storage: LogStorage, name: str) -> None:
        self._storage, self._name = storage, name
        self._docs = storage.tables.get(name)
        self._held: dict[int, Any] = {}
        self._gone: set[int] = set()
        self._cleared = False

    def __getitem__(self, doc_id: int) -> Any:
        if doc_id in self._held:
            return self._held[doc_id]
        if doc_id not in self:
            raise KeyError(doc_id)
        doc = self._storage.doc(self._name, doc_id)
        if doc is None:
            raise KeyError(doc_id)
        self._held[doc_id] = doc
        return doc

    def __setitem__(self, doc_id: int, doc: Any) -> None:
        self._held[int(doc_id)] = doc
        self._gone.discard(doc_id)

    def __delitem__(self, doc_id: int) -> None:
        if doc_id not in self:
            raise KeyError(doc_id)
        self._held.pop(doc_id, None)
        self._gone.add(doc_id)

    def __contains__(self, doc_id: object) -> bool:
        if doc_id in self._held:
            return True
        return self._was(doc_id) and doc_id not in self._gone

    def _was(self, doc_id: object) -> bool:
        return not self._cleared and self._docs is not None and self._docs.place(cast(int, doc_id)) is not None

    def __iter__(self) -> Iterator[int]:
        stored = () if self._docs is None or self._cleared else self._docs.ids()
        yield from (doc_id for doc_id in stored if doc_id not in self._gone)
        yield from [doc_id for doc_id in self._held if not self._was(doc_id)]

    def __len__(self) -> int:
        new = sum(not self._was(doc_id) for doc_id in self._held)
        stored = 0 if self._docs is None or self._cleared else self._docs.count
        return stored - sum(self._was(doc_id) for doc_id in self._gone) + new

    def clear(self) -> None:
        self._held, self._gone, self._cleared = {}, set(), True

    def changes(self) -> Iterator[Change]:
        if self._cleared or self._docs is None:
            yield Clear(self._name)
        yield from (Remove(self._name, doc_id, doc_id) for doc_id in self._gone if self._was(doc_id))
        for doc_id, doc in self._held.items():
            if not self._was(doc_id) or encode(doc) != self._storage.raw(self._name, doc_id):
                yield Put(self._name, doc_id, doc)


def _document(doc: Doc, doc_id: int) -> Document:
    """What Document(doc, doc_id) does, in half the time."""
    document = Document.__new__(Document)
    document.update(doc)
    document.doc_id = doc_id
    return document


class LogTable(Table):
    """TinyDB's Table that reads only what a query can match. Over any storage but LogStorage it is TinyDB's own."""

    @property
    def _log(self) -> LogStorage | None:
        return self._storage if isinstance(self._storage, LogStorage) else None

    # the doors that all of TinyDB goes through

    def _read_table(self) -> Any:
        log = self._log
        return super()._read_table() if log is None else View(log, self.name)

    def _update_table(self, updater: Callable[[Any], None]) -> None:
        log = self._log
        if log is None:
            super()._update_table(updater)
            return
        table = _Changed(log, self.name)
        updater(table)
        if changes := list(table.changes()):
            log.commit(changes)
        self.clear_cache()

    def _get_next_id(self) -> int:
        log = self._log
        if log is None or self._next_id is not None:
            return cast(int, super()._get_next_id())  # type: ignore[no-untyped-call]
        docs = log.tables.get(self.name)
        next_id = (docs.last_id if docs else 0) + 1
        self._next_id = cast(Any, next_id + 1)
        return next_id

    # what would read everything

    def __len__(self) -> int:
        return len(self._read_table())

    def _possible(self, cond: QueryLike) -> Iterator[tuple[int, Doc]]:
        """The documents that a query may match, in order of their numbers; it must be asked of each."""
        log, name = cast(LogStorage, self._log), self.name
        docs = log.tables.get(name)
        ids = candidates(docs, cond._hash) if docs and isinstance(cond, QueryInstance) else None
        return log.documents(name, ids if ids is not None else docs.ids() if docs else ())

    def _maker(self) -> Callable[[Doc, int], Document]:
        if self.document_class is Document and self.document_id_class is int:
            return _document
        return lambda doc, doc_id: self.document_class(doc, self.document_id_class(doc_id))

    def search(self, cond: QueryLike) -> list[Document]:
        if self._log is None or self._read_table.__func__ is not LogTable._read_table:  # type: ignore[attr-defined]
            return super().search(cond)
        cached = self._query_cache.get(cond)
        if cached is not None:
            return cached[:]
        document, matches = self._maker(), _asked(cond)
        docs = [document(doc, doc_id) for doc_id, doc in self._possible(cond) if matches(doc)]
        is_cacheable: Callable[[], bool] = getattr(cond, "is_cacheable", lambda: True)
        if is_cacheable() and len(docs) <= _MOST_CACHED:
            self._query_cache[cond] = docs[:]
        return docs

    def get(self, cond: Any = None, doc_id: Any = None, doc_ids: Any = None) -> Any:
        log = self._storage
        if not isinstance(log, LogStorage):
            return super().get(cond, doc_id, doc_ids)
        if doc_id is not None:
            doc = log.doc(self._name, doc_id)
            return None if doc is None else self._maker()(doc, doc_id)
        if doc_ids is not None:
            document, found = self._maker(), log.documents(self.name, sorted(set(map(int, doc_ids))))
            return [document(doc, each) for each, doc in found]
        if cond is not None:
            document, found = self._maker(), self._possible(cond)
            return next((document(doc, each) for each, doc in found if cond(doc)), None)
        raise RuntimeError("You have to pass either cond or doc_id or doc_ids")

    def update(self, fields: Any, cond: Any = None, doc_ids: Any = None) -> list[int]:
        if cond is not None and doc_ids is None and self._log is not None:
            doc_ids = [doc_id for doc_id, doc in self._possible(cond) if cond(doc)]
        return super().update(fields, None if doc_ids is not None else cond, doc_ids)

    def remove(self, cond: Any = None, doc_ids: Any = None) -> list[int]:
        if cond is not None and doc_ids is None and self._log is not None:
            doc_ids = [doc_id for doc_id, doc in self._possible(cond) if cond(doc)]
        return super().remove(None if doc_ids is not None else cond, doc_ids)


_MOST_CACHED = 1000  # documents of one query that its cache keeps


class LogDB(TinyDB):
    """TinyDB over a directory: LogDB(path), with LogStorage's options."""

    table_class = LogTable
    default_storage_class = LogStorage  # type: ignore[assignment]


_COMPARED: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _asked(cond: QueryLike) -> Callable[[Doc], Any]:
    """The query; or, where its hash says that it compares one value with texts, the same without its many calls."""
    query = cond._hash if isinstance(cond, QueryInstance) else None
    match query:
        case ("and", frozenset() as all_of):
            asked = list(_flat("and", all_of))
        case _:
            asked = [query]
    path: tuple[str, ...] | None = None
    compared: list[tuple[Callable[[Any, Any], Any], str]] = []
    for each in asked:
        match each:
            case (str() as sign, tuple() as own, str() as value) if sign in _COMPARED and path in (None, own):
                path = own
                compared.append((_COMPARED[sign], value))
            case _:
                return cond
    if path is None or not all(isinstance(part, str) for part in path) or len(compared) > 2:
        return cond
    (first, one), (second_, other) = compared[0], compared[1] if len(compared) > 1 else (operator.ge, "")
    *outer, name = path

    def matches(doc: Doc) -> Any:
        value: Any = doc
        try:
            for part in outer:
                value = value[part]
            value = value[name]
        except (KeyError, TypeError):
            return False
        return first(value, one) and second_(value, other)

    return matches


def candidates(docs: Docs | None, query: object) -> list[int] | None:
    """The documents that can match a query, by its structural hash; None: any can. The query must be asked too."""
    if docs is None:
        return []
    match query:
        case ("and", frozenset() as all_of):
            return _narrowest(docs, list(_flat("and", all_of)))
        case ("or", frozenset() as any_of):
            found = [candidates(docs, each) for each in any_of]
            if any(each is None for each in found):
                return None
            return sorted({doc_id for each in found if each is not None for doc_id in each})
        case _:
            return _narrowest(docs, [query])


def _flat(joined: str, parts_: frozenset[Any]) -> Iterator[Any]:
    for each in parts_:
        match each:
            case (str() as own, frozenset() as inner) if own == joined:
                yield from _flat(joined, inner)
            case _:
                yield each


def _narrowest(docs: Docs, all_of: Sequence[object]) -> list[int] | None:
    """The smallest set that one of the conditions, or a range that several of them make, leaves."""
    best: list[int] | None = None
    ranges: dict[tuple[str, ...], tuple[int, int]] = {}
    for condition in all_of:
        found: list[int] | None = None
        match condition:
            case ("==", tuple() as path, str() as value):
                found = _equal(docs, path, value)
            case ("one_of", tuple() as path, tuple() as values) if all(isinstance(value, str) for value in values):
                found = _equal(docs, path, *values)
            case ("or", frozenset()):
                found = candidates(docs, condition)
            case (("<" | "<="), tuple() as path, str() as value) if (at := second(value)) is not None:
                low, high = ranges.get(path, (0, _LAST_KEY))
                ranges[path] = (low, min(high, at))
            case ((">" | ">="), tuple() as path, str() as value) if (at := second(value)) is not None:
                low, high = ranges.get(path, (0, _LAST_KEY))
                ranges[path] = (max(low, at), high)
            case _:
                pass
        if found is not None and (best is None or len(found) < len(best)):
            best = found
    for path, (low, high) in ranges.items():
        number = docs.numbers.get(("time", path))
        if number is not None and (best is None or len(best) > _FEW):
            found = docs.find(number, low, high)
            best = found if best is None or len(found) < len(best) else best
    return best


_FEW = 64  # so few documents are read sooner than narrowed down


def _equal(docs: Docs, path: tuple[str, ...], *values: str) -> list[int] | None:
    number = docs.numbers.get(("equal", path))
    if number is None:
        return None
    keys = [text_key(value) for value in values]
    if len(keys) == 1:
        return docs.find(number, keys[0], keys[0])
    return sorted({doc_id for key in keys for doc_id in docs.find(number, key, key)})
