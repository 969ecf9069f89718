"""The log on the disk: append-only segment files of checksummed, hash-chained lines; one transaction a line, one sync.

A line is text:  CRC LEN SEQ PREV BODY LF
    CRC   8 hexadecimal digits: CRC-32 of everything from LEN to the end of BODY
    LEN   8 hexadecimal digits: bytes of BODY
    SEQ   12 digits: the line's number, counted from 1 through all segments
    PREV  64 hexadecimal digits: the link of the line before; zeros for the first
    BODY  what is kept; no LF in it. "~" and a SHA-256 in place of one that was erased
The link of a line is SHA-256 of "SEQ PREV HASH", HASH being SHA-256 of BODY in hexadecimal, so that the chain can still
be followed where a body is gone.

A segment is NUMBER.GENERATION.log. Room is made ahead by writing zeros, a mebibyte at a time, so that a sync has no
metadata to write. A segment is never used again: erasing writes it anew under the next generation. The first line of a
segment says where the chain goes on: lines of the segment before that claim its number, or a later one, were never
acknowledged.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

OLD_FILE = "calls.json"  # beside the store's folder: what version 0.1 kept
SEGMENT_BYTES = 8 << 20  # a longer line gets a segment of its own
_AHEAD_BYTES = 1 << 20
_ZEROS = bytes(_AHEAD_BYTES)
_HEAD = re.compile(rb"([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9]{12}) ([0-9a-f]{64}) ")
_HEAD_BYTES = 96
_QUOTED = re.compile(rb" ([0-9]{12} [0-9a-f]{64}) ")  # it begins with a space: quickly not found in JSON
# Where to look for the next line behind damage: not within a body, which can hold what somebody says, a line too.
_NEXT_HEAD = re.compile(rb"(?<=[\n\0])" + _HEAD.pattern)
_NAME = re.compile(r"([0-9]{8})\.([0-9]{1,6})\.log")
OFFSET_BITS = 40
OFFSETS = (1 << OFFSET_BITS) - 1
_LOOKS = 5  # at a segment that has a hole
_MOST_OPEN = 512  # files held open for reading
ORIGIN = "0" * 64  # PREV of the first line


class Line(NamedTuple):
    """One whole line. offset: of its first byte in the segment; body: None where it was erased."""

    seq: int
    prev: str
    offset: int
    size: int
    body: bytes | None
    body_hash: str

    @property
    def link(self) -> str:
        return link_of(self.seq, self.prev, self.body_hash)

    @property
    def body_offset(self) -> int:
        return self.offset + _HEAD_BYTES


class Bad(NamedTuple):
    """Bytes that are no line. last: nothing whole follows in this segment."""

    offset: int
    size: int
    last: bool


class Segment(NamedTuple):
    number: int
    generation: int
    path: Path

    @property
    def hint(self) -> Path:
        return self.path.with_suffix(".hint")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the store that is not as it was written; one sentence for people."""

    kind: str  # "rot", "torn", "missing", "chain", "signature", "failed"
    where: str
    says: str


def link_of(seq: int, prev: str, body_hash: str) -> str:
    return hashlib.sha256(f"{seq:012d} {prev} {body_hash}".encode()).hexdigest()


def line_bytes(seq: int, prev: str, body: bytes) -> bytes:
    checked = b"%08x %012d %s %s" % (len(body), seq, prev.encode(), body)
    return b"%08x %s\n" % (zlib.crc32(checked), checked)


def unlike_a_line(body: bytes) -> bytes:
    """JSON that reads the same and holds no line's beginning, whatever somebody has said in it.

    A body that is torn must not leave a line that stands in it, as what a document quotes.
    """
    return _QUOTED.sub(rb" \1\\u0020", body)


def erased(body_hash: str) -> bytes:
    """The body that stands where one was."""
    return b"~" + body_hash.encode()


def lines(data: bytes) -> Iterator[Line | Bad]:
    """All that is in a segment, in order; the zeros behind the last line are left out."""
    at, end = 0, len(data.rstrip(b"\0"))
    while at < end:
        line = _line_at(data, at)
        if line:
            yield line
            at += line.size
            continue
        following = next((m.start() for m in _NEXT_HEAD.finditer(data, at + 1, end) if _line_at(data, m.start())), None)
        yield Bad(at, (end if following is None else following) - at, following is None)
        if following is None:
            return
        at = following


def _line_at(data: bytes, at: int) -> Line | None:
    head = _HEAD.match(data, at)
    if head is None:
        return None
    size = _HEAD_BYTES + int(head[2], 16)
    checked = data[at + 9 : at + size]
    if len(checked) != size - 9 or zlib.crc32(checked) != int(head[1], 16):
        return None
    body = checked[_HEAD_BYTES - 9 :]
    gone = len(body) == 65 and body.startswith(b"~")
    body_hash = body[1:].decode() if gone else hashlib.sha256(body).hexdigest()
    # The LF may have rotted: the length tells where the next line begins.
    return Line(int(head[3]), head[4].decode(), at, size + 1, None if gone else body, body_hash)


def segments(directory: Path) -> list[Segment]:
    """The newest generation of each segment, in order."""
    newest: dict[int, Segment] = {}
    for path in directory.glob("*.log"):
        if name := _NAME.fullmatch(path.name):
            found = Segment(int(name[1]), int(name[2]), path)
            if found.number not in newest or found.generation > newest[found.number].generation:
                newest[found.number] = found
    return [newest[number] for number in sorted(newest)]


def read_whole(path: Path) -> bytes:
    """A segment's bytes. Raises OSError.

    While the unit writes to it, a reader can get what was there before a line came, and behind that the line after it:
    nothing of ours holds a zero, so that such a hole is known, and read again. One that stays has rotted.
    """
    for again in range(_LOOKS, -1, -1):
        data = path.read_bytes()
        if not again or b"\0" not in data.rstrip(b"\0"):
            break
    return data


def read_segment(segment: Segment) -> tuple[Segment, bytes]:
    """All of a segment; where it was written anew meanwhile, of the new generation, which holds the same chain."""
    while True:
        try:
            return segment, read_whole(segment.path)
        except FileNotFoundError:
            known = segments(segment.path.parent)
            newer = next((each for each in known if each.number == segment.number), segment)
            if newer == segment:
                raise
            segment = newer


def first_seq(following: Sequence[Segment]) -> int | None:
    """The number of the first line in these segments; the first ones may hold none."""
    for segment in following:
        try:
            with segment.path.open("rb") as file:
                data = file.read(1 << 16)
        except FileNotFoundError:
            segment, data = read_segment(segment)
        first = next((line for line in lines(data) if isinstance(line, Line)), None)
        if first is None and data.strip(b"\0"):
            first = next((line for line in lines(read_segment(segment)[1]) if isinstance(line, Line)), None)
        if first is not None:
            return first.seq
    return None


class Reader:
    """Reads segments by number. Holds few files open. Raises OSError; FileNotFoundError where one was written anew."""

    def __init__(self, known: list[Segment]) -> None:
        self.segments = {segment.number: segment for segment in known}
        self._open: dict[int, int] = {}

    def read(self, start: int, size: int) -> bytes:
        """start: segment << OFFSET_BITS | offset."""
        number = start >> OFFSET_BITS
        descriptor = self._open.get(number)
        if descriptor is None:
            descriptor = self._opened(number)
        return os.pread(descriptor, size, start & OFFSETS)

    def _opened(self, number: int) -> int:
        if len(self._open) >= _MOST_OPEN:
            oldest = next(iter(self._open))
            os.close(self._open.pop(oldest))
        self._open[number] = os.open(self.segments[number].path, os.O_RDONLY)
        return self._open[number]

    def replaced(self, segment: Segment) -> None:
        """A new segment, or a new generation of one."""
        self.segments[segment.number] = segment
        if segment.number in self._open:
            os.close(self._open.pop(segment.number))

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


class Writer:
    """Appends to the last segment. One writer a directory (its owner sees to that). Raises OSError.

    What append() returned from is on the disk. After a failed write or sync nothing is believed of that segment's end:
    `failed` says why, and append() refuses until revive() has begun a new segment.
    sync False: nothing is synced before close(); for a store that is put in its place when it is whole.
    """

    def __init__(self, directory: Path, *, sync: bool = True) -> None:
        self._directory, self._sync = directory, sync
        self._descriptor = -1
        self._ahead = 0  # zeros are on the disk up to here
        self.segment = Segment(0, 0, directory)
        self.end = 0
        self.seq, self.link = 0, ORIGIN
        self.failed: str | None = None

    def go_on(self, segment: Segment, end: int, seq: int, link: str) -> None:
        """Append behind the last whole line, which ends at `end`. What lies behind it is overwritten by zeros."""
        descriptor = os.open(segment.path, os.O_RDWR)
        try:
            size = os.fstat(descriptor).st_size
            tail = os.pread(descriptor, size - end, end) if size > end else b""
            torn = len(tail.rstrip(b"\0"))
            if torn:
                os.pwrite(descriptor, bytes(torn), end)
                os.fsync(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor, self._ahead = descriptor, size
        self.segment, self.end, self.seq, self.link = segment, end, seq, link

    def leave_out(self, number: int, seq: int, link: str) -> None:
        """Append to the segment behind this one, which is missing: its number stays free, so that it stays missed."""
        self.segment, self.end, self.seq, self.link = Segment(number, 0, self._directory), 0, seq, link

    def fits(self, body: bytes) -> bool:
        """Whether the body goes into this segment; if not, new_segment() comes first."""
        return self._descriptor >= 0 and (not self.end or self.end + _HEAD_BYTES + len(body) + 1 <= SEGMENT_BYTES)

    def new_segment(self) -> None:
        """Begin the next segment; the one before keeps no zeros."""
        number = self.segment.number + 1
        path = self._directory / f"{number:08d}.0.log"
        path.unlink(missing_ok=True)  # what an earlier try left
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            self._write(descriptor, _ZEROS, 0)
            if self._sync:
                os.fsync(descriptor)
                sync_directory(self._directory)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        if self._descriptor >= 0:
            if self.failed is None:
                os.ftruncate(self._descriptor, self.end)
            self._close_file()
        self._descriptor, self._ahead, self.end, self.failed = descriptor, _AHEAD_BYTES, 0, None
        self.segment = Segment(number, 0, path)

    def append(self, body: bytes) -> int:
        """One line. Returns the offset of its body in the segment. The body must fit (fits())."""
        if self.failed:
            raise OSError(None, self.failed)
        line = line_bytes(self.seq + 1, self.link, body)
        while self.end + len(line) > self._ahead:
            # A full disk is found out here, before anything of the line is written.
            self._write(self._descriptor, _ZEROS, self._ahead)
            self._synced(os.fsync)
            self._ahead += _AHEAD_BYTES
        try:
            self._write(self._descriptor, line, self.end)
        except OSError as error:
            self._fail(error)
            raise
        self._synced(os.fdatasync)
        body_offset = self.end + _HEAD_BYTES
        self.seq += 1
        self.link = link_of(self.seq, self.link, hashlib.sha256(body).hexdigest())
        self.end += len(line)
        return body_offset

    def _synced(self, sync: Callable[[int], None]) -> None:
        if not self._sync:
            return
        try:
            sync(self._descriptor)
        except OSError as error:
            self._fail(error)
            raise

    def _fail(self, error: OSError) -> None:
        self.failed = f"{error.strerror} in {self.segment.path.name}"

    @staticmethod
    def _write(descriptor: int, data: bytes, at: int) -> None:
        written = os.pwrite(descriptor, data, at)
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], at + written)

    def _close_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if not self._sync:
            os.fsync(descriptor)
        os.close(descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            self._close_file()


def write_anew(segment: Segment, bodies: Iterator[tuple[Line, bytes]]) -> Segment:
    """The next generation of a sealed segment: the same lines with these bodies. Synced, and the old one gone."""
    new = Segment(
        segment.number,
        segment.generation + 1,
        segment.path.with_name(f"{segment.number:08d}.{segment.generation + 1}.log"),
    )
    part = new.path.with_suffix(".part")
    with part.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        for line, body in bodies:
            file.write(line_bytes(line.seq, line.prev, body))
        file.flush()
        os.fsync(file.fileno())
    part.rename(new.path)
    sync_directory(segment.path.parent)
    segment.path.unlink()
    segment.hint.unlink(missing_ok=True)
    sync_directory(segment.path.parent)  # what was erased does not come back
    return new


def remove_leftovers(directory: Path, known: list[Segment]) -> None:
    """What a power cut has left of write_anew(): generations that have a newer one, and files that are not whole."""
    newest = {segment.path for segment in known}
    left = [path for path in directory.glob("*.log") if _NAME.fullmatch(path.name) and path not in newest]
    left += [path.with_suffix(".hint") for path in left]
    left += [*directory.glob("*.part"), *directory.glob("*.newhint")]
    for path in left:
        path.unlink(missing_ok=True)
    if left:
        sync_directory(directory)


def make_directory(path: Path, mode: int = 0o700) -> None:
    """With its name on the disk: what is synced in a folder is lost if the folder's own name is."""
    if path.is_dir():
        return
    make_directory(path.parent, 0o777)
    path.mkdir(mode, exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_name(name: str) -> Path:
    """A path that is not taken: name, or name-2, name-3."""
    tries = (Path(name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(path for path in tries if not path.exists())
