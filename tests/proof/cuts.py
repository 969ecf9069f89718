"""Power cuts: 20,000 states that a cut can leave of the store, and 300 of a real ext4; what was acknowledged is there.

A process changes a store under strace; at each of its writes, syncs, renames and acknowledgements the states that a cut
may leave are made (tests/proof/cut_trace.py has the model), opened, and must hold all that was acknowledged, or that
and the one change in flight. Some are worked on and cut again. Then the same on a real ext4, cut at the disk below it
(tests/proof/cut_disk.py). Controls: sqlite3 passes, and the store fails without its syncs, and without its checksums.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import random
import secrets
import shutil
import subprocess
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from firmware.records import log, store
from firmware.records.index import Index
from firmware.records.upkeep import verify
from tests.proof import cut_disk
from tests.proof import cut_work as work
from tests.proof.cut_trace import MODES, Image, Replay, python, record, write_image
from tests.proof.report import Report

ROOT = Path(__file__).parents[2]
STATE = ROOT / "var" / "cuts.json"
Kind = Literal["tables", "calls", "sqlite"]
Mutant = Literal["nosync", "nochecksum"]
STATES = 20_000
CONTROL_STATES = 1_000  # of each control
_KINDS: tuple[Kind, Kind] = ("tables", "calls")
_STEPS: dict[Kind, int] = {"tables": 36, "calls": 36, "sqlite": 24}
_PER_TRACE = 250  # states, spread over all its moments
_SHARD = 1_000  # states; what a run that was stopped does not do again
EXT4_CUTS = 300
_EXT4_SHARD = 50


@dataclass(slots=True)
class Outcome:
    states: int = 0
    failed: int = 0
    first: str | None = None  # failure
    in_flight: int = 0  # states that hold the change that was in flight
    torn: int = 0  # states of which the store said that a line was torn
    checked: int = 0  # states of ext4 that the kernel mounted only after e2fsck
    kinds: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)

    def add(self, other: Outcome) -> None:
        self.states += other.states
        self.failed += other.failed
        self.first = self.first or other.first
        self.in_flight += other.in_flight
        self.torn += other.torn
        self.checked += other.checked
        self.kinds.update(other.kinds)
        self.moments.update(other.moments)


@dataclass(frozen=True, slots=True)
class Found:
    """What a state turned out to hold."""

    state: str  # digest
    torn: bool = False
    backup: str | None = None  # digest
    files: bytes = b""  # all there is in the store's folder, right after it was opened

    def keeps(self, promises: Sequence[work.Promise]) -> bool:
        """Whether it holds the change in flight, the second of the promises, if that changes anything.

        Raises AssertionError where it does not hold the first, which was acknowledged.
        """
        now = promises[0]
        assert any(self.state == promise.state for promise in promises), "holds neither what was acknowledged nor more"
        if all(promise.what != "backup" for promise in promises[1:]):
            assert self.backup == now.backup, "the backup does not hold what it held"
        for text in now.erased:
            assert text.encode() not in self.files, f"{text!r} was erased and is there again"
        return self.state != now.state


def look(kind: Kind, root: Path) -> Found:
    """Open what a cut left, write on, and open it again. Raises whatever the store raises; AssertionError."""
    match kind:
        case "sqlite":
            return _look_at_sqlite(root)
        case "tables":
            return _look_at_tables(root)
        case "calls":
            return _look_at_calls(root)


def _look_at_sqlite(root: Path) -> Found:
    peer = work.Peer(root)
    peer.check()
    before = peer.state()
    [doc_id] = peer.insert("after", [{"n": 1}])
    peer.close()
    again = work.Peer(root)
    assert again.state() == before | {"after": {str(doc_id): {"n": 1}}}, "what was written after the cut is not there"
    again.close()
    return Found(work.digest(before))


def _look_at_tables(root: Path) -> Found:
    seen = _read_only(root, work.INDEXES, work.Ours.state)
    ours = work.Ours(root)
    try:
        before, torn = ours.state(), _only_torn(ours.storage.problems)
        assert seen is None or seen == before, "a reader saw something else before the writer opened it"
        [doc_id] = ours.insert("after", [{"n": 1}])
    finally:
        ours.close()
    again = work.Ours(root)
    try:
        _nothing_wrong(again.storage.problems)
        assert again.state() == before | {"after": {str(doc_id): {"n": 1}}}, (
            "what was written after the cut is not there"
        )
    finally:
        again.close()
    assert not (wrong := verify(root / "store").problems), wrong
    return Found(work.digest(before), torn)


def _read_only(
    root: Path, indexes: Mapping[str, Sequence[Index]], read: Callable[[work.Ours], work.State | None]
) -> work.State | None:
    """What a reader finds before the writer has opened it; None: no store."""
    if not (root / "store").exists():
        return None
    reader = work.Ours(root, writable=False, indexes=indexes)
    try:
        _only_torn(reader.storage.problems)
        return read(reader)
    finally:
        reader.close()


def _look_at_calls(root: Path) -> Found:
    meta = _read_only(root, store.INDEXES, lambda reader: reader.storage.doc("meta", 1))
    calls = work.open_calls(root, "after")
    try:
        before, torn = work.calls_state(calls), _only_torn(calls.problems)
        files = b"".join(path.read_bytes() for path in (root / "store").iterdir())
        public_key = (calls.storage.doc("meta", 1) or {})["public_key"]
        if meta and "public_key" in meta:
            assert calls.storage.doc("meta", 1) == meta, "the store has another key, or another name, than before"
        call, event = work.a_call(1, "after")
        calls.commit(call, [event])
    finally:
        calls.close()
    again = work.open_calls(root, "again")
    try:
        _nothing_wrong(again.problems)
        after = work.calls_state(again)
        found, events = after["calls"].pop(call.call_id, None), after["events"]
        assert found == json.loads(json.dumps(call.to_dict())), "what was written after the cut is not there"
        number = after["last"]
        after["last"] -= 1
        assert events.pop(str(number))[0] == call.call_id and after["pending"].pop() == number
        assert after == before, "what was there after the cut has changed"
    finally:
        again.close()
    assert not (wrong := verify(root / "store", public_key).problems), wrong
    copies = tuple((path.name, path.read_bytes()) for path in sorted((root / "backup").glob("*")))
    return Found(work.digest(before), torn, _in_backup(copies), files)


@functools.lru_cache(maxsize=64)  # most states of a trace have one of few backups
def _in_backup(copies: tuple[tuple[str, bytes], ...]) -> str | None:
    with tempfile.TemporaryDirectory(prefix="cuts-") as directory:
        for name, data in copies:
            (Path(directory) / name).write_bytes(data)
        return work.backup_digest(Path(directory))


def _only_torn(problems: list[log.Problem]) -> bool:
    wrong = [problem for problem in problems if problem.kind != "torn"]
    assert not wrong, f"a mere power cut is reported as {wrong[0].kind}: {wrong[0].where}: {wrong[0].says}"
    return bool(problems)


def _nothing_wrong(problems: list[log.Problem]) -> None:
    assert not problems, f"after the repair there is still: {problems[0].where}: {problems[0].says}"


class _Any(int):
    """A checksum that is right whatever it is compared with."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


@contextlib.contextmanager
def small(mutant: Mutant | None = None) -> Iterator[None]:
    """The store's small segments, in this process; "nochecksum": a store that believes every checksum of a line."""
    with contextlib.ExitStack() as stack:
        for name in ("SEGMENT_BYTES", "_AHEAD_BYTES", "_ZEROS"):
            stack.enter_context(mock.patch.object(log, name, getattr(log, name)))
        work.make_small()
        if mutant == "nochecksum":
            believed = mock.Mock(crc32=lambda data: _Any(zlib.crc32(data)))
            stack.enter_context(mock.patch.object(log, "zlib", believed))
        yield


@contextlib.contextmanager
def _in_memory() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="cuts-", dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


def cut(kind: Kind, seed: str, most: int, mutant: Mutant | None = None) -> Outcome:
    """So many states of one kind of work. Raises AssertionError at the first failure, but of a mutant."""
    outcome = Outcome()
    with _in_memory() as shop, small(mutant):
        for number in itertools.count():
            _cut_one_run(_Run(kind, f"{seed}-{number}", most, mutant, shop, outcome))
            if outcome.states >= most:
                return outcome
    return outcome


@dataclass(frozen=True, slots=True)
class _Run:
    kind: Kind
    seed: str
    most: int
    mutant: Mutant | None
    shop: Path
    outcome: Outcome

    @property
    def root(self) -> Path:
        return self.shop / "root"

    @property
    def trace(self) -> Path:
        return self.shop / "trace"


def _cut_one_run(run: _Run) -> None:
    """Two traces: of work that begins with nothing, and of work that begins with what a cut left of the first."""
    dice = random.Random(run.seed)
    image: Image = {}
    begin = _nothing(run.kind)
    for again in range(2):
        seed = f"{run.seed}-{again}"
        _fresh(run.root)
        write_image(image, run.root)
        options = ["nosync"] if run.mutant == "nosync" else []
        record(python("tests.proof.cut_work", run.kind, run.root, seed, _STEPS[run.kind], *options), run.trace)
        left = _cut_one_trace(run, seed, image, begin, dice)
        if not left or run.outcome.states >= run.most or run.mutant:
            return
        image, begin = dice.choice(left)


def _fresh(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()


def _cut_one_trace(
    run: _Run, seed: str, image: Image, begin: work.Promise, dice: random.Random
) -> list[tuple[Image, work.Promise]]:
    """Returns some of the states with what they hold."""
    outcome = run.outcome
    replay = Replay(run.root, image)
    moments = sum(1 for _ in replay.moments(run.trace))
    promised = [begin, *map(work.Promise.read, replay.acks)]
    _fresh(run.root)
    write_image(replay.disk.after_cut("all", dice), run.root)
    assert not look(run.kind, run.root).keeps(promised[-1:]), f"{seed}: the trace does not lead to what the work left"
    replay = Replay(run.root, image)
    seen: set[bytes] = set()
    left: list[tuple[Image, work.Promise]] = []
    for moment in replay.moments(run.trace):
        acked = len(replay.acks)
        allowed = promised[acked : acked + 2]
        # As some states are met again, and where nothing is pending there is one only, more are tried than are wanted.
        for _ in range(int(2 * _PER_TRACE / moments + dice.random()) if replay.disk.pending else 1):
            mode = dice.choice(MODES)
            state = replay.disk.after_cut(mode, dice)
            key = _key(acked, state)
            if key in seen:
                continue
            seen.add(key)
            _fresh(run.root)
            write_image(state, run.root)
            outcome.states += 1
            outcome.kinds[run.kind] += 1
            outcome.moments[moment.call] += 1
            try:
                found = look(run.kind, run.root)
                in_flight = found.keeps(allowed)
            except Exception as wrong:  # whatever a state makes the store raise is its failure
                steps = " to ".join(promise.what for promise in allowed)
                says = f"{type(wrong).__name__}: {wrong} (seed {seed}, at {moment.call}, {mode}, ack {acked}: {steps})"
                outcome.failed += 1
                outcome.first = outcome.first or says
                if run.mutant is None:
                    raise AssertionError(f"{run.kind}: {says}") from wrong
            else:
                outcome.torn += found.torn
                outcome.in_flight += in_flight
                if dice.random() < 0.2:
                    left.append((state, replace(allowed[0], state=found.state, backup=found.backup)))
            if outcome.states >= run.most:
                return left
    return left


def _key(acked: int, state: Image) -> bytes:
    key = hashlib.sha256(b"%d" % acked)
    for path, data in state.items():
        key.update(b"%s %d " % (path.encode(), -1 if data is None else len(data)) + (data or b""))
    return key.digest()


def controls(states: int, seed: str) -> dict[str, Outcome]:
    """sqlite3 passes; the mutants fail. Raises AssertionError where one behaves otherwise."""
    done = {"sqlite3 FULL": cut("sqlite", seed, states)}
    for mutant, name in (("nosync", "without fsync"), ("nochecksum", "without checksum")):
        done[name] = cut("tables", seed, states, mutant)  # type: ignore[arg-type]
        assert done[name].failed, f"the store {name} passes: this proof does not see what it is for"
    return done


# -- a real ext4


def cut_ext4(kind: Kind, seed: str, cuts: int, mutant: Literal["nosync"] | None = None) -> Outcome:
    """The same on a real ext4, cut at the disk below it; cut_disk.missing() tells whether that can be had here.

    Raises AssertionError at the first failure, but of a mutant.
    """
    outcome = Outcome()
    dice = random.Random(seed)
    with _in_memory() as directory, small():
        rig = cut_disk.Rig(directory)
        stable = bytearray(rig.make())
        promised, since = [_nothing(kind)], [0]  # since: where in the disk's log each promise was made
        options = ["wait", *([mutant] if mutant else [])]
        with rig.running():
            command = python("tests.proof.cut_work", kind, rig.root, seed, _STEPS[kind], *options)
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
                assert child.stdin and child.stdout
                for line in child.stdout:
                    promised.append(work.Promise.read(line))
                    since.append(rig.log.stat().st_size)
                    child.stdin.write(b"\n")
                    child.stdin.flush()
            assert child.returncode == 0
        done = list(rig.writes())  # the last of them are of unmounting
        chosen = Counter(dice.choices(range(len(done)), k=cuts))
        pending: list[cut_disk.Write] = []
        for number, (at, write) in enumerate(done):
            flush = write.data is None
            # A flush that is cut has not returned: nothing has been acknowledged by it.
            acked = sum(1 for made in since if made < at + (not flush)) - 1
            if not flush:
                pending.append(write)
            for _ in range(chosen[number]):
                rig.image.write_bytes(cut_disk.after_cut(stable, pending, dice))
                try:
                    _look_at_ext4(kind, rig, promised[acked : acked + 2], outcome)
                except Exception as wrong:
                    outcome.failed += 1
                    says = f"seed {seed}, write {number} of {len(done)}, after {promised[acked].what}"
                    if mutant is None:
                        raise AssertionError(f"ext4, {kind}: {type(wrong).__name__}: {wrong} ({says})") from wrong
            if flush:
                for each in pending:
                    stable[each.offset : each.offset + len(each.data or b"")] = each.data or b""
                pending = []
    return outcome


def _look_at_ext4(kind: Kind, rig: cut_disk.Rig, promised: list[work.Promise], outcome: Outcome) -> None:
    outcome.states += 1
    outcome.kinds[kind] += 1
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(cut_disk.mounted(rig.image, rig.root))
        except subprocess.CalledProcessError:
            outcome.checked += 1
            cut_disk.repaired(rig.image)
            stack.enter_context(cut_disk.mounted(rig.image, rig.root))
        found = look(kind, rig.root)
    outcome.in_flight += found.keeps(promised)
    outcome.torn += found.torn


def _nothing(kind: Kind) -> work.Promise:
    empty: work.State = {"calls": {}, "events": {}, "pending": [], "last": 0} if kind == "calls" else {}
    return work.Promise(work.digest(empty), "nothing")


# -- the proof


def _code() -> str:
    """Of the store and of this proof: states of another code prove nothing about this one."""
    files = [*sorted((ROOT / "firmware" / "records").glob("*.py")), *sorted(Path(__file__).parent.glob("cut*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _resumed() -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        kept: dict[str, Any] = json.loads(STATE.read_text(encoding="utf-8"))
        if kept["code"] == _code() and not kept["whole"]:
            return kept
    return {"code": _code(), "seed": secrets.randbelow(1_000_000), "whole": False, "shards": {}}


def _keep(kept: dict[str, Any]) -> None:
    STATE.parent.mkdir(exist_ok=True)
    part = STATE.with_suffix(".part")
    part.write_text(json.dumps(kept), encoding="utf-8")
    part.replace(STATE)


def prove(report: Report) -> None:
    kept = _resumed()
    seed = kept["seed"]
    report.figure("seed", seed)
    total = _sharded(kept, "states", STATES // _SHARD, report, (0.0, 0.8))
    report.figure("states", f"{total.states:,}: {_counted(total.kinds)}; {total.failed} failed")
    report.figure("cut at", _counted(total.moments))
    report.figure("with the change in flight", f"{total.in_flight:,}; a torn line was seen in {total.torn:,}")
    for name, outcome in controls(CONTROL_STATES, str(seed)).items():
        report.figure(name, f"{outcome.failed:,} of {outcome.states:,} states fail")
    if why := cut_disk.missing():
        report.figure("a real ext4", f"left out, it {why}")
    else:
        total = _sharded(kept, "ext4", EXT4_CUTS // _EXT4_SHARD, report, (0.85, 0.95))
        report.figure("a real ext4", f"{total.states:,} cuts: {_counted(total.kinds)}; {total.failed} failed")
        report.figure("mounted only after e2fsck", total.checked)
        outcome = cut_ext4("tables", f"{seed}-mutant", _EXT4_SHARD, "nosync")
        report.figure("a real ext4 without fsync", f"{outcome.failed:,} of {outcome.states:,} cuts fail")
        assert outcome.failed, "the store without fsync passes on ext4: this proof does not see what it is for"
    kept["whole"] = True
    _keep(kept)


def _sharded(kept: dict[str, Any], part: str, shards: int, report: Report, span: tuple[float, float]) -> Outcome:
    """Half of the shards are work through TinyDB's face, half is the call store's."""
    total = Outcome()
    for shard in range(shards):
        name, kind = f"{part}-{shard}", _KINDS[shard % 2]
        own = kept["shards"].get(name)
        if own is None:
            seed = f"{kept['seed']}-{name}"
            done = cut(kind, seed, _SHARD) if part == "states" else cut_ext4(kind, seed, _EXT4_SHARD)
            # asdict() makes no Counter of a Counter before Python 3.12.
            own = {each.name: getattr(done, each.name) for each in fields(done)}
            kept["shards"][name] = own
            _keep(kept)
        total.add(Outcome(**own | {"kinds": Counter(own["kinds"]), "moments": Counter(own["moments"])}))
        report.progress(span[0] + (span[1] - span[0]) * (shard + 1) / shards)
    return total


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counter.most_common())
