"""What is done with a whole store: checked, copied away, put back, written as plain TinyDB, freed of what must go."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from firmware.core.outbox import STREAMS
from firmware.records.database import NOTHING_OF_A_STORE, LogStorage, Put, StoreError, View, decode, parts
from firmware.records.evidence import is_signed
from firmware.records.log import (
    OLD_FILE,
    ORIGIN,
    Bad,
    Line,
    Problem,
    Segment,
    first_seq,
    lines,
    make_directory,
    read_segment,
    segments,
    sync_directory,
)

Progress = Callable[[float], None]


@dataclass(slots=True)
class Verdict:
    """What following the whole chain has shown."""

    lines: int = 0
    erased: int = 0  # their bodies are gone, their place in the chain is not
    seq: int = 0
    link: str = ORIGIN
    signatures: int = 0  # good ones
    signed_seq: int = 0  # the last line that a good signature stands behind
    public_key: str | None = None
    other_keys: list[str] = field(default_factory=list)  # signed before it: of a store that was restored, or a lost key
    problems: list[Problem] = field(default_factory=list)


def verify(directory: Path, public_key: str | None = None, progress: Progress = lambda part: None) -> Verdict:
    """Follow the chain from the first line to the last, and check every signature on the way.

    public_key: the unit's, known from elsewhere; else the first one that signed is taken for it. What another key has
    signed counts where a signature of the unit's stands behind it, since that covers all before it. Raises OSError.
    """
    verdict = Verdict(public_key=public_key)
    others: list[Problem] = []  # the first signature of another key that none of the unit's stands behind
    known = segments(directory)
    unknown = False  # the link of the last line that was met
    for number, segment in enumerate(known):
        limit = first_seq(known[number + 1 :])
        if segment.number != (known[number - 1].number + 1 if number else 1):
            verdict.problems.append(Problem("missing", segment.path.name, "a segment before it is missing."))
        segment, data = read_segment(segment)
        for line in lines(data):
            where = f"{segment.path.name} at byte {line.offset}"
            if isinstance(line, Line) and limit is not None and line.seq >= limit:
                break  # was never acknowledged
            if isinstance(line, Bad):
                if line.last and limit == verdict.seq + 1:
                    continue  # it broke off and was refused, and the next segment has its place
                if line.last and limit is None:
                    says = f"{line.size} bytes are no whole line: it was being written when the unit stopped."
                    verdict.problems.append(Problem("torn", where, says))
                else:
                    verdict.problems.append(Problem("rot", where, f"line {verdict.seq + 1} can no longer be read."))
                    unknown = True
                continue
            if line.seq != verdict.seq + 1 and not (unknown and line.seq > verdict.seq):
                verdict.problems.append(Problem("chain", where, f"is line {line.seq} and not {verdict.seq + 1}."))
            elif line.prev != verdict.link and not unknown:
                verdict.problems.append(Problem("chain", where, f"line {line.seq} does not follow the one before it."))
            if line.body is not None:
                try:
                    _check_signature(verdict, others, line, where)
                except NOTHING_OF_A_STORE:
                    says = f"line {line.seq} holds nothing that a store writes."
                    verdict.problems.append(Problem("chain", where, says))
            unknown = False
            verdict.lines += 1
            verdict.erased += line.body is None
            verdict.seq, verdict.link = line.seq, line.link
        progress((number + 1) / len(known))
    verdict.problems += others
    return verdict


def _check_signature(verdict: Verdict, others: list[Problem], line: Line, where: str) -> None:
    body = line.body or b""
    head, at = parts(body)
    for done in head["do"]:
        if len(done) != 3:
            continue
        name, _, size = done
        if name == "checkpoint":
            signed: dict[str, Any] = decode(body[at : at + size])
            own = str(signed.get("key"))
            key = verdict.public_key = verdict.public_key or own
            fits = (signed["seq"], signed["link"]) == (line.seq - 1, line.prev)
            if fits and is_signed(signed, key):
                verdict.signatures += 1
                verdict.signed_seq = signed["seq"]
                others.clear()
            elif fits and is_signed(signed, own):
                if own not in verdict.other_keys:
                    verdict.other_keys.append(own)
                says = f"from line {line.seq} on it is signed with another key ({own[:16]}...) than the unit's."
                if not others:
                    others.append(Problem("signature", where, says))
            else:
                says = f"the signature in line {line.seq} is not the unit's over what stands before it."
                verdict.problems.append(Problem("signature", where, says))
        at += size + 1


def export(storage: LogStorage, file: IO[str]) -> None:
    """All tables as one JSON file that stock TinyDB opens; written a document at a time."""
    file.write("{")
    for number, name in enumerate(storage.tables):
        file.write(f"{', ' if number else ''}{json.dumps(name)}: {{")
        for position, (doc_id, doc) in enumerate(View(storage, name).documents()):
            file.write(f'{", " if position else ""}"{doc_id}": {json.dumps(doc)}')
        file.write("}")
    file.write("}\n")


def backup(directory: Path, target: Path, progress: Progress = lambda part: None) -> int:
    """Copy a store, also one in use, to another path. What is there already is not copied again. Returns bytes copied.

    The copy is a store: restore() puts it back. Raises OSError; StoreError where target holds another store.
    """
    make_directory(target)
    source = LogStorage(directory, writable=False)
    ours = source.doc("meta", 1)
    source.close()
    theirs = None
    if any(target.glob("*.log")):
        held = LogStorage(target, writable=False)
        theirs = held.doc("meta", 1)
        held.close()
    if theirs and ours and theirs.get("store_id") != ours.get("store_id"):
        raise StoreError(f"{target}: holds a backup of another store; give an empty folder.")
    copied = 0
    known = segments(directory)
    for number, segment in enumerate(known):
        last = number + 1 == len(known)
        copy = target / segment.path.name
        if last or not copy.exists() or copy.stat().st_size != _size(segment):
            segment, data = read_segment(segment)
            copy = target / segment.path.name
            if last:  # up to where it is whole; the unit may be writing the next line
                data = data[
                    : max((line.offset + line.size for line in lines(data) if isinstance(line, Line)), default=0)
                ]
            # A segment only grows: what is less, or other, than the copy has been damaged since.
            if copy.exists() and not data.startswith(copy.read_bytes()):
                raise StoreError(
                    f"{segment.path}: is not any more what was copied before, and the copy in {target} is left alone; "
                    "`tsuroku store doctor` tells what is wrong. Give an empty folder for another copy."
                )
            _put(copy, data)
            copied += len(data)
        for other in target.glob(f"{segment.number:08d}.*.log"):
            if other != copy:
                other.unlink()  # of an earlier generation: what was erased is erased here too
        progress((number + 1) / len(known))
    sync_directory(target)
    return copied


def _size(segment: Segment) -> int | None:
    """None for one that was written anew meanwhile."""
    try:
        return segment.path.stat().st_size
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place when it is whole, for its owner only. A USB disk's FAT knows no rights to change."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


def _put(path: Path, data: bytes) -> None:
    with _whole(path) as file:
        file.write(data)


def copy_recordings(source: Path, target: Path, erased: Collection[str] = ()) -> int:
    """Copy what is not there yet from one recordings folder to another; those of erased calls go there too.

    Returns how many were copied. Raises OSError.
    """
    for copy in target.glob("*/*"):
        if copy.name.split(".")[0] in erased:
            copy.unlink()
    copied = 0
    for recording in sorted(path for path in source.glob("*/*") if path.suffix != ".part"):
        copy = target / recording.relative_to(source)
        if not copy.exists() or copy.stat().st_size != recording.stat().st_size:
            make_directory(copy.parent)
            with recording.open("rb") as sound, _whole(copy) as file:
                shutil.copyfileobj(sound, file)
            copied += 1
    return copied


def restore(source: Path, directory: Path) -> str:
    """Make a store of a backup, where there is none, and put the recordings back. It gets an id of its own, so that
    what it tells from now on is not taken for what the lost one told. Returns the id. Raises StoreError, OSError.
    """
    for held in (directory, directory.with_name(OLD_FILE)):
        if held.is_file() or any(held.glob("*.log")):
            raise StoreError(f"{held}: holds a store; move it away first.")
    if not any(source.glob("*.log")):
        raise StoreError(f"{source}: holds no backup; give the folder that `tsuroku store backup` wrote.")
    copy_recordings(source.with_name("recordings"), directory.with_name("recordings"))  # first: a store ends a restore
    made = directory.with_name(directory.name + ".new")
    shutil.rmtree(made, ignore_errors=True)
    make_directory(made)
    for segment in segments(source):
        _put(made / segment.path.name, segment.path.read_bytes())
    storage = LogStorage(made)
    try:
        meta = storage.doc("meta", 1)
        if meta is None:
            raise StoreError(f"{source}: is no backup of a unit's store.")
        tables = {stream: storage.tables.get(f"events.{stream}") for stream in STREAMS}
        begins = {stream: docs.last_id + 1 for stream, docs in tables.items() if docs}
        new = {**meta, "store_id": str(uuid.uuid4()), "restored_from": meta["store_id"], "begins": begins}
        storage.commit([Put("meta", 1, new)])
    finally:
        storage.close()
    sync_directory(made)
    shutil.rmtree(directory, ignore_errors=True)  # without a segment in it
    made.rename(directory)
    sync_directory(directory.parent)
    return str(new["store_id"])


def purge(storage: LogStorage, ids: Collection[str]) -> Iterator[int]:
    """Take every line out of the log's segments that holds a document of these calls or contacts, all removed by now.

    Yields after each segment: the bytes that were freed. Raises StoreError, at the end: a segment that cannot be read
    keeps no other one from being freed.
    """
    storage.seal()
    texts = [each.encode() for each in ids]

    def doomed(line: Line) -> bool:
        body = line.body or b""
        if not any(text in body for text in texts):
            return False
        head, _ = parts(body)
        return any(len(done) == 3 and _tells_of_people(done[0]) for done in head["do"])

    failed: StoreError | None = None
    for segment in storage.sealed():
        freed = 0
        try:
            freed = storage.compact(segment, doomed)
        except StoreError as error:
            failed = failed or error
        yield freed
    if failed:
        raise failed


def _tells_of_people(table: str) -> bool:
    return table in ("calls", "contacts", "remarks") or table.startswith("events.")


def mentions(call: Mapping[str, Any], spellings: Collection[str]) -> bool:
    """Whether a call's record holds one of these spellings (digits) of a number, wherever in it.

    A whole number is also found behind a prefix; a short one (110, an extension) must be all that was sent or keyed.
    """
    caller, dialled = call["caller"], call["dialled"] or {}
    kept = [caller[name] for name in ("raw", "number", "national", "redirecting", "called")]
    kept += [dialled.get(name) for name in ("raw", "digits", "number")]
    kept += [mark["detail"] for mark in call["marks"] if mark["kind"] == "call_waiting"]
    kept += [each["raw"] for each in caller["disagreement"]]
    texts = {"".join(c for c in text if c.isdigit()) for text in kept if text}
    return any(
        spelling == text or (len(spelling) >= _WHOLE and spelling in text) for spelling in spellings for text in texts
    )


_WHOLE = 9  # digits that no part of another number is taken for


def rotten_with(directory: Path, spellings: Collection[str]) -> list[Path]:
    """The segments that hold one of these spellings where they have rotted: no call is found there to be erased."""
    found = []
    for segment in segments(directory):
        segment, data = read_segment(segment)
        rotten = (data[bad.offset : bad.offset + bad.size] for bad in lines(data) if isinstance(bad, Bad))
        if any(tells_of(text, spellings) for text in rotten):
            found.append(segment.path)
    return found


def tells_of(text: bytes, spellings: Collection[str]) -> bool:
    """Whether a file's octets hold one of these spellings: as text, or as the hexadecimal of a caller ID frame."""
    for spelling in spellings:
        digits = spelling.encode()
        if len(digits) < _WHOLE:
            if b'"%s"' % digits in text:
                return True
            continue
        even = bytes(octet | 0x80 if octet.bit_count() % 2 else octet for octet in digits)  # Japan's parity
        hexadecimal = digits.hex(), even.hex(), digits.hex().upper(), even.hex().upper()
        if digits in text or any(form.encode() in text for form in hexadecimal):
            return True
    return False


def journal_of(path: Path, removed: Mapping[str, Any]) -> bool:
    """Whether a journal goes over the time of a call that was removed (its tombstone): it gives the call again."""
    text = path.read_bytes()
    if not removed.get("boot_id") or f'"boot_id":"{removed["boot_id"]}"'.encode() not in text[:65536]:
        return False
    times = [int(at) for at in re.findall(rb'"at_ns":(\d+)', text)]
    ends = removed["ended_ns"]
    return bool(times) and times[0] <= (times[-1] if ends is None else ends) and removed["opened_ns"] <= times[-1]
