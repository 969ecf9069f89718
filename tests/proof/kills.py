"""kill -9 of whoever writes a store, 1,000 times: what was acknowledged is there, and of the rest all or nothing."""

from __future__ import annotations

import json
import os
import random
import secrets
import select
import signal
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, cast

from tinydb.table import Document

from firmware.records import log
from firmware.records.database import LogDB, LogStorage
from firmware.records.index import Index
from firmware.records.upkeep import backup, verify
from tests.proof.report import Report

KILLS = 1000
_STORES = 20  # begun anew so often, so that none gets long
_SEGMENT_BYTES = 20_000
_INDEXES = {"t": (Index(("number",)),)}
_WORK = {"insert": 10, "update": 10, "remove": 4, "compact": 3, "tidy": 1, "backup": 1}

State = dict[int, dict[str, Any]]


def _open(path: Path) -> LogDB:
    return LogDB(path, indexes=_INDEXES)


def _held(db: LogDB) -> State:
    return {doc.doc_id: dict(doc) for doc in db.table("t")}


def _plan(dice: random.Random, ids: list[int], next_id: int) -> list[Any]:
    """What to do next: a name, the numbers of documents, and what they get."""
    name = dice.choices(list(_WORK), list(_WORK.values()))[0]
    some = dice.sample(ids, min(len(ids), dice.randint(1, 4)))
    value = {"number": str(dice.randrange(20)), "text": "x" * dice.choice([0, 10, 600, 3000])}
    match name:
        case "insert":
            return [name, [next_id + each for each in range(dice.randint(1, 3))], value]
        case "update" | "remove" if some:
            return [name, some, value]
        case "update" | "remove":
            return ["insert", [next_id], value]
    return [name, [], {}]


def _do(db: LogDB, work: Path, step: list[Any]) -> None:
    name, ids, value = step
    table, storage = db.table("t"), cast(LogStorage, db.storage)
    match name:
        case "insert":
            table.insert_multiple(Document(value, doc_id) for doc_id in ids)
        case "update":
            table.update(value, doc_ids=ids)
        case "remove":
            table.remove(doc_ids=ids)
        case "compact":
            storage.seal()
            for segment in storage.sealed():
                storage.compact(segment, least=0.1)
        case "tidy":
            while storage.tidy():
                pass
        case "backup":
            backup(storage.directory, work / "backup")


def _after(state: State, step: list[Any]) -> State:
    name, ids, value = step
    state = {doc_id: dict(doc) for doc_id, doc in state.items()}
    for doc_id in ids:
        match name:
            case "insert" | "update":
                state[doc_id] = value
            case "remove":
                del state[doc_id]
    return state


def _write(work: Path, seed: int, pipe: int) -> None:
    """Until it is killed: say what comes, do it, say that it is done."""
    dice = random.Random(seed)
    db = _open(work / "store")
    docs = cast(LogStorage, db.storage).tables.get("t")
    next_id = (docs.last_id if docs else 0) + 1
    while True:
        step = _plan(dice, sorted(_held(db)), next_id)
        os.write(pipe, json.dumps(step).encode() + b"\n")
        _do(db, work, step)
        os.write(pipe, b"done\n")
        if step[0] == "insert":
            next_id = step[1][-1] + 1


def _killed(work: Path, dice: random.Random) -> list[list[Any]]:
    """Let a process write, and kill it at some moment. The steps that were done, and last the one that was not."""
    reading, writing = os.pipe()
    seed, wanted, wait_s = dice.randrange(1 << 30), dice.randint(1, 12), dice.choice([0, 0.002, 0.02]) * dice.random()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that a fork loses: the child uses none
        child = os.fork()
    if not child:
        try:
            os.close(reading)
            _write(work, seed, writing)
        finally:  # an error of the child ends it, and is seen as its having ended by itself
            os._exit(1)
    os.close(writing)
    said = b""
    while said.count(b"done\n") < wanted and (more := os.read(reading, 65536)):
        said += more
    select.select([reading], [], [], 0.05)  # the next step has begun
    time.sleep(wait_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    while more := os.read(reading, 65536):
        said += more
    os.close(reading)
    assert os.WIFSIGNALED(status), f"the writer ended by itself (seed {seed})"
    told = said[: said.rfind(b"\n") + 1].decode().splitlines()
    steps = [json.loads(line) for line in told if line != "done"]
    return steps if told and told[-1] != "done" else [*steps, ["none", [], {}]]


def run(work: Path, kills: int, seed: int, report: Report | None = None) -> dict[str, int]:
    """So many kills of one store after the other. Returns how many met each kind of step. Raises AssertionError."""
    dice = random.Random(seed)
    met: dict[str, int] = {}
    at_once = max(1, min(kills, -(-kills // _STORES) if kills > _STORES else kills))
    segment_bytes, log.SEGMENT_BYTES = log.SEGMENT_BYTES, _SEGMENT_BYTES
    try:
        for number in range(kills):
            place = work / str(number // at_once)
            place.mkdir(exist_ok=True)
            if number % at_once == 0:
                state: State = {}
            state = _one(place, state, dice, met)
            if number % at_once == at_once - 1 or number == kills - 1:
                _the_end_is_whole(place, state)
            if report:
                report.progress((number + 1) / kills)
    except AssertionError as wrong:
        wrong.add_note(f"seed {seed}")
        raise
    finally:
        log.SEGMENT_BYTES = segment_bytes
    return met


def _one(place: Path, state: State, dice: random.Random, met: dict[str, int]) -> State:
    *done, open_step = _killed(place, dice)
    for step in done:
        state = _after(state, step)
    either = _after(state, open_step)
    met[open_step[0]] = met.get(open_step[0], 0) + 1
    if dice.random() < 0.3:
        for hint in (place / "store").glob("*.hint"):
            hint.unlink()
    with LogDB(place / "store", indexes=_INDEXES, writable=False) as reader:
        beside = _held(reader)
    with _open(place / "store") as db:
        found = _held(db)
        assert found == beside, "a reader finds something else than the owner"
        assert found in (state, either), (
            f"after {open_step[0]}: something acknowledged is lost, or half of a step is there"
        )
        wrong = [problem for problem in cast(LogStorage, db.storage).problems if problem.kind != "torn"]
        assert not wrong, wrong
    return found


def _the_end_is_whole(place: Path, state: State) -> None:
    found = verify(place / "store").problems
    assert not found, found
    backup(place / "store", place / "backup")
    with LogDB(place / "backup", indexes=_INDEXES, writable=False) as copy:
        assert _held(copy) == state, "the backup, whose making was killed too, is another one"


def prove(report: Report) -> None:
    seed = secrets.randbelow(1_000_000)
    report.figure("seed", seed)
    with tempfile.TemporaryDirectory(prefix="tsuroku-") as work:
        met = run(Path(work), KILLS, seed, report)
    report.figure("kills", f"{KILLS}; nothing acknowledged lost, no step done by half")
    report.figure("in the middle of", ", ".join(f"{name} {count}" for name, count in sorted(met.items())))
