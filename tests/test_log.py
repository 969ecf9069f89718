"""The log on the disk: what a line is, what is left of a damaged segment, and what becomes of a write that fails."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from firmware.records import log
from firmware.records.database import LogDB, LogStorage, Put, Remove, StoreError
from firmware.records.log import (
    ORIGIN,
    Bad,
    Line,
    Writer,
    erased,
    free_name,
    line_bytes,
    lines,
    link_of,
    segments,
    write_anew,
)

ROOT = Path(__file__).parents[1]


def chain(*bodies: bytes) -> list[bytes]:
    """Lines as they lie in a store's first segment."""
    made, link = [], ORIGIN
    for seq, body in enumerate(bodies, 1):
        made.append(line_bytes(seq, link, body))
        link = link_of(seq, link, hashlib.sha256(body).hexdigest())
    return made


def put(storage: LogStorage, *numbers: int) -> None:
    for number in numbers:
        storage.commit([Put("t", number, {"n": number})])


def numbers(directory: Path) -> list[int]:
    """What a reader finds, each document read and checked."""
    with LogDB(directory, writable=False) as db:
        docs = db.table("t").all()
        assert all(doc.doc_id == doc["n"] for doc in docs)
        return [doc["n"] for doc in docs]


def problems(directory: Path) -> list[tuple[str, str]]:
    """What a reader that scans everything finds wrong: kinds and files."""
    for hint in directory.glob("*.hint"):
        hint.unlink()
    storage = LogStorage(directory, writable=False)
    storage.close()
    return [(problem.kind, problem.where.split()[0]) for problem in storage.problems]


# -- the format


def test_a_line_is_what_the_documentation_says() -> None:
    body = b'{"do":[["t",1,9]]}\t{"n":"\xe3\x81\x82"}'
    prev = "ab" * 32
    rest = f"{len(body):08x} {7:012d} {prev} ".encode() + body
    assert line_bytes(7, prev, body) == f"{zlib.crc32(rest):08x} ".encode() + rest + b"\n"
    (line,) = lines(line_bytes(7, prev, body))
    assert isinstance(line, Line)
    assert (line.seq, line.prev, line.offset, line.body) == (7, prev, 0, body)
    assert line.link == hashlib.sha256(f"{7:012d} {prev} {hashlib.sha256(body).hexdigest()}".encode()).hexdigest()


def test_an_erased_body_leaves_the_chain_as_it_was() -> None:
    whole = b'{"do":[]}'
    digest = hashlib.sha256(whole).hexdigest()
    (before,) = lines(line_bytes(1, ORIGIN, whole))
    (after,) = lines(line_bytes(1, ORIGIN, erased(digest)))
    assert isinstance(before, Line) and isinstance(after, Line)
    assert after.body is None and after.body_hash == digest and after.link == before.link


BODIES = (b'{"do":[["t",1,7]]}\t{"n":1}', b'{"do":[]}', b"", '{"do":[["表",2,7]]}\t{"n":2}'.encode())
ZEROS = bytes(700)


def test_of_a_segment_cut_anywhere_all_whole_lines_are_there() -> None:
    made = chain(*BODIES)
    data = b"".join(made)
    ends = [sum(map(len, made[: n + 1])) for n in range(len(made))]
    for cut in range(len(data) + 1):
        found = list(lines(data[:cut] + ZEROS))
        whole = sum(end - 1 <= cut for end in ends)  # the LF is not needed
        assert [line.body for line in found if isinstance(line, Line)] == list(BODIES[:whole]), cut
        rest = [line for line in found if isinstance(line, Bad)]
        begun = ends[whole - 1] if whole else 0
        assert rest == ([Bad(begun, cut - begun, True)] if cut > begun else []), cut


def test_a_flipped_bit_loses_at_most_its_own_line() -> None:
    made = chain(*BODIES)
    data = b"".join(made) + ZEROS
    begins = [sum(map(len, made[:n])) for n in range(len(made) + 1)]
    lost = 0
    for bit in range(len(data) * 8):
        hurt = bytearray(data)
        hurt[bit // 8] ^= 1 << bit % 8
        hit = max(n for n, begin in enumerate(begins) if begin <= bit // 8)  # len(made): the zeros behind
        found = list(lines(bytes(hurt)))
        others = [body for n, body in enumerate(BODIES) if n != hit]
        got = [line.body for line in found if isinstance(line, Line)]
        bad = [line for line in found if isinstance(line, Bad)]
        if hit == len(made):
            assert got == list(BODIES) and len(bad) == 1 and bad[0].last, bit
        elif got == list(BODIES):
            assert (bit // 8 + 1 == begins[hit + 1]) and not bad, "only the LF can be done without"
        else:
            lost += 1
            assert got == others, bit
            assert bad == [Bad(begins[hit], len(made[hit]), hit == len(made) - 1)], bit
    assert lost == (sum(map(len, made)) - len(made)) * 8


@given(st.lists(st.binary(max_size=40).map(lambda body: body.replace(b"\n", b"")), max_size=6), st.data())
def test_whatever_a_line_holds_no_damage_makes_another_of_it(bodies: list[bytes], data: st.DataObject) -> None:
    bodies = [body.rstrip(b"\0") + b"." for body in bodies]  # a body ends in text
    whole = b"".join(chain(*bodies))
    at = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.binary(max_size=300))
    found = [line.body for line in lines(whole[:at] + junk + whole[at + len(junk) :]) if isinstance(line, Line)]
    assert all(body in bodies for body in found)
    assert list(lines(whole)) == list(lines(whole + ZEROS))


def test_a_line_that_somebody_says_within_a_line_is_none() -> None:
    """A caller's name, say: it must not be taken for a line where the real one's head is damaged."""
    said = line_bytes(2, ORIGIN, b'{"do":[["t",1,true]]}').rstrip(b"\n")
    real = bytearray(b"".join(chain(b'{"do":[]}\t' + said, b'{"do":[]}')))
    real[3] ^= 1
    first, second = lines(bytes(real))
    assert isinstance(first, Bad) and isinstance(second, Line)
    assert second.seq == 2 and second.body == b'{"do":[]}'


# -- opening again


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.97])
def test_a_torn_tail_is_told_and_written_over_with_zeros(tmp_path: Path, kept: float) -> None:
    storage = LogStorage(tmp_path)
    put(storage, 1, 2)
    ended = storage._writer.end
    put(storage, 3)
    torn = ended + int((storage._writer.end - ended) * kept) + 1
    storage._writer.failed = "killed"  # no closing line is written
    storage.close()
    (segment,) = segments(tmp_path)
    with segment.path.open("r+b") as file:
        file.seek(torn)
        file.write(bytes(1000))
    assert numbers(tmp_path) == [1, 2]
    again = LogStorage(tmp_path)
    assert [(p.kind, p.where) for p in again.problems] == [("torn", f"{segment.path.name} at byte {ended}")]
    assert segment.path.read_bytes()[ended:].strip(b"\0") == b""
    put(again, 4)
    again.close()
    assert numbers(tmp_path) == [1, 2, 4] and problems(tmp_path) == []


def test_after_an_orderly_end_a_last_line_that_is_not_whole_is_rot(tmp_path: Path) -> None:
    storage = LogStorage(tmp_path)
    put(storage, 1, 2)
    at = storage._writer.end - 3
    storage.close()
    (segment,) = segments(tmp_path)
    data = bytearray(segment.path.read_bytes())
    data[at] ^= 4
    segment.path.write_bytes(data)
    assert numbers(tmp_path) == [1] and problems(tmp_path) == [("rot", segment.path.name)]


def test_a_closed_store_that_nobody_wrote_to_grows_by_nothing(tmp_path: Path) -> None:
    LogStorage(tmp_path).close()
    assert segments(tmp_path) == []
    storage = LogStorage(tmp_path)
    put(storage, 1)
    storage.close()
    seq = storage.seq
    again = LogStorage(tmp_path)
    again.close()
    assert again.seq == seq


def test_segments_roll_and_a_hint_says_what_a_scan_finds(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("firmware.records.log.SEGMENT_BYTES", 1000)
    storage = LogStorage(tmp_path, sync=False)
    put(storage, *range(1, 40))
    storage.commit([Remove("t", 3, 3), Remove("t", 10, 20), Put("other", 1, {})])
    put(storage, 15, 40)
    storage.close()
    known = segments(tmp_path)
    assert [each.number for each in known] == list(range(1, len(known) + 1)) and len(known) > 5
    assert all(each.path.stat().st_size <= 1000 and each.path.read_bytes()[-1:] == b"\n" for each in known[:-1])
    scanned = numbers(tmp_path)
    assert scanned == [n for n in range(1, 41) if n not in (3, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20)]
    LogStorage(tmp_path).close()
    assert all(each.hint.exists() for each in known[:-1]) and not known[-1].hint.exists()
    assert all(each.path.stat().st_mode & 0o777 == each.hint.stat().st_mode & 0o777 == 0o600 for each in known[:-1])
    reads = mocker.spy(Path, "read_bytes")
    assert numbers(tmp_path) == scanned
    assert not [each for each in known[:-1] if mocker.call(each.path) in reads.call_args_list], "a hint spares the scan"
    for each in known[:-1]:
        hint = bytearray(each.hint.read_bytes())
        hint[len(hint) // 2] ^= 1
        each.hint.write_bytes(hint)
    assert numbers(tmp_path) == scanned and problems(tmp_path) == []


@pytest.mark.parametrize("before", [0, 1])
def test_a_line_longer_than_a_segment_has_one_of_its_own(tmp_path: Path, mocker: MockerFixture, before: int) -> None:
    mocker.patch("firmware.records.log.SEGMENT_BYTES", 1000)
    storage = LogStorage(tmp_path)
    put(storage, *range(1, before + 1))
    storage.commit([Put("t", 2, {"n": 2, "long": "x" * 3_000_000})])  # and longer than the zeros made ahead
    put(storage, 3)
    storage.close()
    assert len(segments(tmp_path)) == 2 + before
    assert numbers(tmp_path) == [*range(1, before + 1), 2, 3] and problems(tmp_path) == []


def test_a_segment_written_anew_takes_the_place_of_the_old_one(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("firmware.records.log.SEGMENT_BYTES", 500)
    storage = LogStorage(tmp_path)
    put(storage, *range(1, 9))
    storage.close()
    first = segments(tmp_path)[0]
    old = [line for line in lines(first.path.read_bytes()) if isinstance(line, Line)]
    bodies = ((line, erased(line.body_hash) if line.seq == 2 else line.body or b"") for line in old)
    new = write_anew(first, bodies)
    assert new.path.name == "00000001.1.log" and not first.path.exists()
    assert segments(tmp_path)[0] == new
    assert numbers(tmp_path) == [1, 3, 4, 5, 6, 7, 8] and problems(tmp_path) == [], "the chain holds"
    shutil.copy(new.path, first.path)  # as a power cut right after the rename leaves it
    assert segments(tmp_path)[0] == new


# -- what is missing


@pytest.fixture
def rolled(tmp_path: Path, mocker: MockerFixture) -> Path:
    """A store of several segments, closed."""
    mocker.patch("firmware.records.log.SEGMENT_BYTES", 500)
    storage = LogStorage(tmp_path / "store")
    put(storage, *range(1, 19))
    storage.close()
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ([1], "segment 1 is missing"),
        ([1, 2], "segments 1 to 2 are missing"),
        ([3], "segment 3 is missing"),
        ([2, 3], "segments 2 to 3 are missing"),
        ([5], "segment 5 is missing"),
        ([4, 5], "segment 4 is missing"),
    ],
)
def test_a_missing_segment_is_named(rolled: Path, gone: list[int], says: str) -> None:
    known = segments(rolled)
    assert len(known) == 5
    LogStorage(rolled).close()  # writes hints
    for number in gone:
        known[number - 1].path.unlink()
    left = [segment for segment in known if segment.number not in gone]
    here = {line.seq for each in left for line in lines(each.path.read_bytes()) if isinstance(line, Line)}
    assert here & set(range(1, 19))
    for _ in range(3):  # for its owner too, whatever is written behind it, and not once only
        assert numbers(rolled) == sorted(here & set(range(1, 19))) + ([99] if 99 in here else []), "all else is there"
        owner = LogStorage(rolled)
        assert any(problem.kind == "missing" and says in problem.says for problem in owner.problems), owner.problems
        put(owner, 99)
        owner.close()
        here.add(99)


def test_no_segment_is_missed_that_was_never_there(tmp_path: Path, mocker: MockerFixture) -> None:
    """A reader whose list ends with a segment that the writer is just leaving."""
    mocker.patch("firmware.records.log.SEGMENT_BYTES", 500)
    storage = LogStorage(tmp_path)
    for number in range(1, 30):
        put(storage, number)
        assert problems(tmp_path) == []
    storage.close()
    LogStorage(tmp_path).close()  # writes hints
    real, lists = segments, iter([segments(tmp_path)[:-1]])
    mocker.patch("firmware.records.database.segments", side_effect=lambda path: next(lists, None) or real(path))
    reader = LogStorage(tmp_path, writable=False)
    reader.close()
    assert next(lists, None) is None and reader.problems == []


def test_a_changed_line_breaks_the_chain(rolled: Path) -> None:
    """Whoever changes a line and mends its checksum is found out by the line after it."""
    for segment in segments(rolled)[1:3]:
        data = segment.path.read_bytes()
        changed = [line for line in lines(data) if isinstance(line, Line)][-1 if segment.number == 2 else 0]
        body = (changed.body or b"").replace(b'"n":', b'"m":')
        new = line_bytes(changed.seq, changed.prev, body)
        assert len(new) == changed.size
        segment.path.write_bytes(data[: changed.offset] + new + data[changed.offset + changed.size :])
    assert problems(rolled) == [("chain", "00000003.0.log")] * 2


# -- writes that fail


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """The system refuses to write behind this byte, and writes what is before it: a line that is really torn."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_breaks_off_is_refused_and_its_half_line_is_no_rot(tmp_path: Path) -> None:
    storage = LogStorage(tmp_path)
    put(storage, 1, 2)
    with (
        no_file_longer_than(storage._writer.end + 60),
        pytest.raises(StoreError, match=r"cannot be written \(File too large\); free space or mend the card"),
    ):
        put(storage, 3)
    assert storage.failed and storage.doc("t", 3) is None
    with pytest.raises(StoreError):
        put(storage, 4)  # nothing is believed of this segment's end any more
    storage.revive()
    assert storage.failed is None
    put(storage, 5)
    storage.close()
    assert numbers(tmp_path) == [1, 2, 5]
    first, _ = segments(tmp_path)
    assert lines_in(first.path)[1] == 1, "half of the line is on the disk"
    assert problems(tmp_path) == []


def lines_in(path: Path) -> tuple[int, int]:
    """Whole lines, and stretches that are none."""
    found = list(lines(path.read_bytes()))
    return sum(isinstance(line, Line) for line in found), sum(isinstance(line, Bad) for line in found)


@pytest.mark.parametrize("call", ["fdatasync", "pwrite"])
def test_after_a_failed_sync_nothing_is_believed_until_a_new_segment(
    tmp_path: Path, mocker: MockerFixture, call: str
) -> None:
    storage = LogStorage(tmp_path)
    put(storage, 1, 2)
    broken = mocker.patch(f"os.{call}", side_effect=OSError(errno.EIO, "Input/output error"))
    with pytest.raises(StoreError, match=r"cannot be written \(Input/output error\)"):
        put(storage, 3)
    mocker.stop(broken)
    assert storage.doc("t", 3) is None and storage.doc("t", 2) == {"n": 2}
    with pytest.raises(StoreError, match=r"\(Input/output error in 00000001\.0\.log\)"):
        put(storage, 3)  # the card writes again, but what it did before is not known
    storage.revive()
    put(storage, 4)
    storage.close()
    first, second = segments(tmp_path)
    assert lines_in(first.path) == (3 if call == "fdatasync" else 2, 0)
    assert lines_in(second.path) == (2, 0)
    assert numbers(tmp_path) == [1, 2, 4], "the line that was refused is no part of the chain"
    assert problems(tmp_path) == []
    again = LogStorage(tmp_path)
    assert [again.doc("t", n) for n in (3, 4)] == [None, {"n": 4}]
    put(again, 5)
    again.close()
    assert numbers(tmp_path) == [1, 2, 4, 5] and problems(tmp_path) == []


def test_a_line_that_was_refused_stays_out_behind_an_empty_segment(tmp_path: Path, mocker: MockerFixture) -> None:
    storage = LogStorage(tmp_path)
    put(storage, 1)
    for refused in (["fdatasync"], ["pwrite"], ["fdatasync"]):
        broken = [mocker.patch(f"os.{call}", side_effect=OSError(errno.EIO, "bad")) for call in refused]
        with pytest.raises(StoreError):
            put(storage, 9)
        for each in broken:
            mocker.stop(each)
        storage.revive()
    put(storage, 2)
    storage.close()
    assert [lines_in(each.path) for each in segments(tmp_path)] == [(2, 0), (0, 0), (1, 0), (2, 0)]
    assert numbers(tmp_path) == [1, 2] and problems(tmp_path) == []
    LogStorage(tmp_path).close()  # writes hints
    assert numbers(tmp_path) == [1, 2]


def test_a_failed_write_and_then_the_end_leaves_what_was_acknowledged(tmp_path: Path, mocker: MockerFixture) -> None:
    """Killed between the failure and the next line: the refused line may be there or not, all others are."""
    storage = LogStorage(tmp_path)
    put(storage, 1)
    with no_file_longer_than(storage._writer.end + 60), pytest.raises(StoreError):
        put(storage, 2)
    storage.revive()
    storage._writer.failed = "killed"
    storage.close()
    assert [lines_in(each.path) for each in segments(tmp_path)] == [(1, 1), (0, 0)]
    again = LogStorage(tmp_path)
    assert [problem for problem in again.problems if problem.kind != "torn"] == []
    put(again, 3)
    again.close()
    assert numbers(tmp_path) == [1, 3] and problems(tmp_path) == []


def test_zeros_whose_sync_failed_are_not_believed_either(tmp_path: Path, mocker: MockerFixture) -> None:
    storage = LogStorage(tmp_path)
    put(storage, 1)
    broken = mocker.patch("os.fsync", side_effect=OSError(errno.EIO, "Input/output error"))
    with pytest.raises(StoreError):
        storage.commit([Put("t", 2, {"n": 2, "long": "x" * (1 << 20)})])
    with pytest.raises(StoreError):
        storage.revive()
    mocker.stop(broken)
    with pytest.raises(StoreError):
        put(storage, 2)
    storage.revive()
    put(storage, 2)
    storage.close()
    assert numbers(tmp_path) == [1, 2] and problems(tmp_path) == []


def test_a_failing_end_gives_everything_free(tmp_path: Path, mocker: MockerFixture) -> None:
    storage = LogStorage(tmp_path)
    put(storage, 1)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  names are enough
    broken = mocker.patch("os.fdatasync", side_effect=OSError(errno.EIO, "Input/output error"))
    with pytest.raises(StoreError):
        storage.close()
    mocker.stop(broken)
    assert len(os.listdir("/proc/self/fd")) <= before - 2, "the lock and the segment"  # noqa: PTH208
    LogStorage(tmp_path).close()
    assert numbers(tmp_path) == [1]


def with_a_file_system(tmp_path: Path, test: Callable[[Path], None]) -> None:
    """Run a test module's function in a process that has a file system of 4 MiB of its own: test(its path)."""
    private = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(tmp_path)]
    able = subprocess.run([*private, *mount], capture_output=True, text=True, check=False)
    if able.returncode:
        pytest.skip(f"no file system can be mounted here: {able.stderr.strip()}")
    code = f"import sys, pathlib, {test.__module__} as module; module.{test.__name__}(pathlib.Path(sys.argv[1]))"
    script = f'{" ".join(mount[:-1])} "$1" && exec "$2" -c "$3" "$1"'
    subprocess.run([*private, "sh", "-c", script, "sh", tmp_path, sys.executable, code], check=True, cwd=ROOT)


def fills_up(path: Path) -> None:
    """4 MiB hold a store of 2, and then the disk is full until something is taken away."""
    other = path / "other"
    other.write_bytes(bytes(1 << 20))
    storage = LogStorage(path / "store")
    written = 0
    try:
        while True:
            storage.commit([Put("t", written + 1, {"n": written + 1, "long": "x" * 10_000})])
            written += 1
    except StoreError as error:
        assert "No space left on device); free space" in str(error), error
    assert written > 100
    assert storage.failed is None, "nothing of the line was written: the segment's end is known"
    assert numbers(path / "store") == list(range(1, written + 1))
    try:
        storage.commit([Put("t", written + 1, {"n": written + 1, "long": "x" * 10_000})])
        raise AssertionError("the disk is still full")
    except StoreError:
        pass
    other.unlink()
    put(storage, written + 1)
    storage.close()
    assert numbers(path / "store") == list(range(1, written + 2))
    assert problems(path / "store") == []
    LogStorage(path / "store").close()


def has_no_room_for_a_segment(path: Path) -> None:
    log.SEGMENT_BYTES = 1000
    storage = LogStorage(path / "store")
    written = 0
    (path / "other").write_bytes(bytes((3 << 20) - 200_000))
    try:
        while True:
            put(storage, written + 1)
            written += 1
    except StoreError as error:
        assert "No space left on device" in str(error), error
    assert written and not storage.failed
    names = {each.path.name for each in segments(path / "store")}
    assert len(names) == 1, "the segment that could not be made is gone"
    try:
        storage.close()
    except StoreError as error:
        assert "No space left on device" in str(error), error
    assert numbers(path / "store") == list(range(1, written + 1))
    (path / "other").unlink()
    again = LogStorage(path / "store")
    put(again, written + 1)
    again.close()
    assert numbers(path / "store") == list(range(1, written + 2)) and problems(path / "store") == []


def becomes_read_only(path: Path) -> None:
    """As a card does that has worn out; its owner is told in a sentence, readers read."""
    storage = LogStorage(path / "store")
    put(storage, 1)
    storage.close()
    subprocess.run(["mount", "-o", "remount,ro", path], check=True)
    assert numbers(path / "store") == [1]
    try:
        LogStorage(path / "store")
        raise AssertionError("nobody can own it")
    except StoreError as error:
        assert str(error) == f"{path / 'store' / 'lock'}: cannot be used (Read-only file system)."
    reader = LogStorage(path / "store", writable=False)
    try:
        put(reader, 2)
        raise AssertionError("a reader writes nothing")
    except StoreError as error:
        assert "is open for reading only" in str(error)
    reader.close()


@pytest.mark.parametrize(
    "test", [fills_up, has_no_room_for_a_segment, becomes_read_only], ids=lambda test: test.__name__
)
def test_a_file_system_that(tmp_path: Path, test: Callable[[Path], None]) -> None:
    with_a_file_system(tmp_path, test)


def test_a_writer_that_syncs_nothing_before_the_end_syncs_all_of_it_then(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("firmware.records.log.SEGMENT_BYTES", 500)
    sync, data = mocker.spy(os, "fsync"), mocker.spy(os, "fdatasync")
    writer = Writer(tmp_path, sync=False)
    for _ in range(12):
        if not writer.fits(b"x" * 30):
            writer.new_segment()
        writer.append(b"x" * 30)
    writer.close()
    assert data.call_count == 0 and sync.call_count == len(segments(tmp_path)) > 1


def test_a_free_name_is_one_that_is_not_taken(tmp_path: Path) -> None:
    for wanted in ("x", "x-2", "x-3"):
        found = free_name(str(tmp_path / "x"))
        assert found.name == wanted
        found.touch()
