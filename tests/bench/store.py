"""The store beside sqlite3 and stock TinyDB: the same calls and events, the same codec, the same directory."""

from __future__ import annotations

import gc
import json
import math
import os
import random
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson
from tinydb import Query, TinyDB
from tinydb.table import Document

from firmware.app import STORE
from firmware.records.database import LogDB, LogStorage, Put, parts
from firmware.records.log import Line, lines, segments
from firmware.records.store import INDEXES
from firmware.simulate import stepped
from tests.bench.filled import busy_line
from tests.bench.report import Progress, Table, median

_ROUNDS = 5
_TURNS = 10  # of a round, so that what else the machine does falls on both
_EVERY_S = 150  # between two calls: a week has 4,032
_WEEK_S = 7 * 86_400
_FIRST_S = 1_600_000_000
_CALLS_A_NUMBER = 25  # of which some are withheld or go out: ten are found by their caller's number
_WRITTEN_CALLS = 200  # in a count of bytes and flushes
_COUNTS = 5
_OPENS = 5
_STOCK_AT = 100_000
_FLUSHES = "trace=fsync,fdatasync,msync,sync_file_range"
_OPERATIONS = {"insert": 200, "get": 2000, "number": 300, "range": 5}  # a round
_NAMES = {
    "insert": "insert, durable",
    "get": "get by id",
    "number": "by number",
    "range": "7-day range",
    "bytes": "bytes to the device for a call",
    "flushes": "flushes for a transaction",
}
_MUST = {"insert": 1.1, "get": 0.75, "number": 1.25, "range": 1.0, "bytes": 0.5, "flushes": 1.0}
_AIM = {"insert": 0.9, "get": 0.5, "number": 1.0, "range": 0.8, "bytes": 0.35, "flushes": 1.0}

Doc = dict[str, Any]


class Filed(NamedTuple):
    """What one transaction writes."""

    number: int
    call: Doc
    event: Doc


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls as the firmware writes them: five kinds, over and over, with ids, times and callers of their own."""

    kinds: list[list[tuple[Doc, Doc]]]  # of each: the call and the event of every transaction, as it grows
    count: int  # so many are in the store at first

    def caller(self, number: int) -> str:
        # 03-00xx-xxxx is given to nobody. Multiplied, so that the calls of a number lie far apart.
        return f"+81300{number * 2_654_435_761 // 128 % max(1, self.count // _CALLS_A_NUMBER):06d}"

    def steps(self, number: int) -> list[Filed]:
        """The five transactions of a call that is answered and recorded."""
        return [self._filed(number, call, event) for call, event in self.kinds[0]]

    def whole(self, number: int) -> Filed:
        """A call that has ended, and its last event."""
        return self._filed(number, *self.kinds[number % len(self.kinds)][-1])

    def _filed(self, number: int, call: Doc, event: Doc) -> Filed:
        call_id = f"{number:08x}-0000-7000-8000-{number:012x}"
        opened = _iso(_FIRST_S + number * _EVERY_S)
        caller = call["caller"]
        if caller["number"]:
            caller = {**caller, "number": self.caller(number)}
        return Filed(
            number,
            {**call, "call_id": call_id, "opened": opened, "caller": caller},
            {**event, "subject": call_id, "time": opened},
        )


def _iso(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _kinds(work: Path) -> list[list[tuple[Doc, Doc]]]:
    """The transactions of five calls, out of the log of a unit that had them."""
    stepped(busy_line(5), work)
    kinds: dict[int, list[tuple[Doc, Doc]]] = defaultdict(list)
    for segment in segments(work / STORE):
        for line in lines(segment.path.read_bytes()):
            assert isinstance(line, Line)
            assert line.body is not None
            head, at = parts(line.body)
            put: dict[str, tuple[int, Doc]] = {}
            for table, doc_id, size in head["do"]:
                put[table] = doc_id, orjson.loads(line.body[at : at + size])
                at += size + 1
            if "calls" in put and "events.call" in put:
                kinds[put["calls"][0]].append((put["calls"][1], put["events.call"][1]))
    return list(kinds.values())


class Store(Protocol):
    def write(self, filed: Filed, sequence: int) -> None:
        """A call, new or changed, and an event, in one transaction."""

    def get(self, number: int) -> object:
        """A document with its id."""

    def with_number(self, caller: str) -> Sequence[object]:
        """Documents with their ids."""

    def between(self, since: str, until: str) -> Sequence[object]: ...

    def close(self) -> None: ...


class Ours:
    def __init__(self, directory: Path, *, sync: bool = True) -> None:
        stamp: Callable[[], object] = lambda: [1, time.monotonic_ns(), time.time_ns(), "ntp"]  # noqa: E731
        self._db = LogDB(directory, indexes=INDEXES, sync=sync, stamp=stamp)
        self._storage = self._db.storage
        assert isinstance(self._storage, LogStorage)
        self._commit = self._storage.commit
        self._calls = self._db.table("calls", cache_size=0)
        self._call = Query()

    def write(self, filed: Filed, sequence: int) -> None:
        self._commit([Put("calls", filed.number, filed.call), Put("events.call", sequence, filed.event)])

    def get(self, number: int) -> object:
        return self._calls.get(doc_id=number)

    def with_number(self, caller: str) -> Sequence[object]:
        return self._calls.search(self._call.caller.number == caller)

    def between(self, since: str, until: str) -> Sequence[object]:
        return self._calls.search((self._call.opened >= since) & (self._call.opened < until))

    def close(self) -> None:
        self._db.close()


class Sqlite:
    _TABLES = (
        "create table if not exists call (id integer primary key, number text, opened text, json blob)",
        "create index if not exists call_number on call (number)",
        "create index if not exists call_opened on call (opened)",
        "create table if not exists event (sequence integer primary key, json blob)",
    )

    def __init__(self, path: Path, *, sync: bool = True) -> None:
        # The statements stay prepared: sqlite3 keeps the last 128.
        self._connection = sqlite3.connect(path, isolation_level=None)
        own = ("journal_mode=wal", "synchronous=full") if sync else ("journal_mode=off", "synchronous=off")
        for pragma in own if sync else (*own, "cache_size=-500000"):
            self._connection.execute(f"pragma {pragma}")
        for table in self._TABLES:
            self._connection.execute(table)
        self.execute = self._connection.execute

    def write(self, filed: Filed, sequence: int) -> None:
        self.execute("begin")
        self.put(filed, sequence)
        self.execute("commit")

    def put(self, filed: Filed, sequence: int) -> None:
        number, call, event = filed
        self.execute(
            "insert into call values (?, ?, ?, ?) on conflict (id) do update "
            "set number = excluded.number, opened = excluded.opened, json = excluded.json",
            (number, call["caller"]["number"], call["opened"], orjson.dumps(call)),
        )
        self.execute("insert into event values (?, ?)", (sequence, orjson.dumps(event)))

    def get(self, number: int) -> object:
        row = self.execute("select json from call where id = ?", (number,)).fetchone()
        return None if row is None else (number, orjson.loads(row[0]))

    def with_number(self, caller: str) -> Sequence[object]:
        rows = self.execute("select id, json from call where number = ?", (caller,))
        return [(number, orjson.loads(json_)) for number, json_ in rows]

    def between(self, since: str, until: str) -> Sequence[object]:
        rows = self.execute("select id, json from call where opened >= ? and opened < ?", (since, until))
        return [(number, orjson.loads(json_)) for number, json_ in rows]

    def close(self) -> None:
        self._connection.close()


def _write_all(store: Store, filed: Iterable[tuple[Filed, int]]) -> list[int]:
    for each, sequence in filed:
        store.write(each, sequence)
    return []


_OURS, _SQLITE = "store", "sqlite.db"
_OPENED: dict[str, Callable[[Path], Store]] = {_OURS: Ours, _SQLITE: Sqlite}


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    sizes = (1_000, 10_000) if quick else (1_000, 100_000, 1_000_000)
    stock_at = 10_000 if quick else _STOCK_AT
    progress("Store, making calls", 0.0)
    kinds = _kinds(work / "unit")
    (work / "kinds.json").write_bytes(orjson.dumps(kinds))
    shelves = [_Shelf(work / str(size), Calls(kinds, size)) for size in sizes]
    filled = 0
    for shelf in shelves:
        progress(f"Store, filling {shelf.calls.count:,} calls", 0.5 * filled / sum(sizes))
        shelf.fill()
        filled += shelf.calls.count
    for number in range(_ROUNDS):
        for shelf in shelves:
            progress(f"Store, round {number + 1}, {shelf.calls.count:,} calls", 0.5 + 0.3 * number / _ROUNDS)
            shelf.round(number)
    for shelf in shelves:
        progress(f"Store, opening and writing, {shelf.calls.count:,} calls", 0.85)
        shelf.close()
        shelf.count_writes(work / "kinds.json")
        shelf.open_anew()
    progress(f"Store, stock TinyDB with {stock_at:,} calls", 0.9)
    stock = _stock(work / "tinydb.json", Calls(kinds, stock_at))
    compared = next(shelf for shelf in shelves if shelf.calls.count == stock_at)
    table = _table(shelves, {name: stock[name] / median(compared.own(name)) for name in stock}, stock_at)
    for shelf in shelves:
        shutil.rmtree(shelf.directory)
    return table


def _plain(document: Document) -> tuple[int, Doc]:
    return document.doc_id, dict(document)


class _Shelf:
    """Both stores, with so many calls in each, and what was measured of them."""

    def __init__(self, directory: Path, calls: Calls) -> None:
        self.directory, self.calls = directory, calls
        self.stores: dict[str, Store] = {}
        self.spent: dict[tuple[str, str], list[float]] = defaultdict(list)  # (measure, which): of each round
        self.open_s, self.open_mb = 0.0, 0.0
        self._last = calls.count

    def fill(self) -> None:
        self.directory.mkdir()
        ours = Ours(self.directory / _OURS, sync=False)
        peer = Sqlite(self.directory / _SQLITE, sync=False)
        peer.execute("begin")
        for number in range(1, self.calls.count + 1):
            filed = self.calls.whole(number)
            ours.write(filed, number)
            peer.put(filed, number)
        peer.execute("commit")
        ours.close()
        peer.close()
        # The first to open it makes the hints, as a unit's start does for what was written since the last.
        Ours(self.directory / _OURS).close()
        os.sync()
        self.stores = {name: opened(self.directory / name) for name, opened in _OPENED.items()}

    def round(self, number: int) -> None:
        dice = random.Random(number)
        count = self.calls.count
        new = [self.calls.whole(self._last + each) for each in range(1, _OPERATIONS["insert"] + 1)]
        self._last += len(new)
        ids = [dice.randint(1, count) for _ in range(_OPERATIONS["get"])]
        callers = [self.calls.caller(dice.randint(1, count)) for _ in range(_OPERATIONS["number"])]
        weeks = []
        for _ in range(_OPERATIONS["range"]):
            since = _FIRST_S + dice.randrange(max(1, count * _EVERY_S - _WEEK_S))
            weeks.append((_iso(since), _iso(since + _WEEK_S)))
        for measure, method, calls in (
            ("insert", "write", [(filed, filed.number) for filed in new]),
            ("get", "get", [(each,) for each in ids]),
            ("number", "with_number", [(each,) for each in callers]),
            ("range", "between", weeks),
        ):
            for name, lasted_s in self._in_turns(method, calls).items():
                self.spent[measure, name].append(lasted_s / len(calls))

    def _in_turns(self, method: str, calls: Sequence[tuple[Any, ...]]) -> dict[str, float]:
        """Seconds that each store needs for all calls of a method."""
        spent = dict.fromkeys(_OPENED, 0.0)
        names = list(_OPENED)
        size = math.ceil(len(calls) / _TURNS)
        gc.collect()
        for first in range(0, len(calls), size):
            told = []
            for name in names:
                called = getattr(self.stores[name], method)
                began_s = time.perf_counter()
                found = [called(*each) for each in calls[first : first + size]]
                spent[name] += time.perf_counter() - began_s
                told.append(orjson.dumps(found, default=_plain, option=orjson.OPT_PASSTHROUGH_SUBCLASS))
                del found
            if told[0] != told[1]:
                raise RuntimeError(f"{method}: the stores do not find the same.")
            names.reverse()
        return spent

    def own(self, measure: str) -> list[float]:
        return self.spent[measure, _OURS]

    def ratio(self, measure: str) -> float:
        return median([a / b for a, b in zip(self.own(measure), self.spent[measure, _SQLITE], strict=True)])

    def close(self) -> None:
        for store in self.stores.values():
            store.close()

    def count_writes(self, kinds: Path) -> None:
        """What calls of five transactions each write and flush, in a process of each store's own."""
        first = self._last + 1
        for number in range(_COUNTS + 1):
            for name in _OPENED:
                arguments = (str(self.directory / name), str(kinds), str(first), str(self.calls.count))
                if number < _COUNTS:
                    told = _child("write", *arguments)
                    if told["bytes"] is not None:
                        self.spent["bytes", name].append(told["bytes"] / _WRITTEN_CALLS)
                elif strace := shutil.which("strace"):
                    counted = self.directory / "strace"
                    told = _child("write", *arguments, under=(strace, "-f", "-o", str(counted), "-e", _FLUSHES))
                    flushes = len(re.findall(r"\b(?:fsync|fdatasync|msync|sync_file_range)\(", counted.read_text()))
                    self.spent["flushes", name].append(flushes / told["transactions"])
            first += _WRITTEN_CALLS

    def open_anew(self) -> None:
        opened = [_child("open", str(self.directory / _OURS)) for _ in range(_OPENS)]
        self.open_s = median([each["open_s"] for each in opened])
        self.open_mb = median([each["added_mb"] for each in opened])


def _stock(path: Path, calls: Calls) -> dict[str, float]:
    """Seconds of an insert and a get of stock TinyDB, in a process of its own: it needs gigabytes."""
    with path.open("wb") as file:
        file.write(b'{"calls": {')
        for number in range(1, calls.count + 1):
            file.write(b'%s"%d": %s' % (b", " * (number > 1), number, orjson.dumps(calls.whole(number).call)))
        file.write(b"}}")
    told = _child("stock", str(path))
    path.unlink()
    return told


def _table(shelves: list[_Shelf], stock: dict[str, float], stock_at: int) -> Table:
    rows: list[tuple[str, ...]] = []
    figures: dict[str, float] = {}
    for measure, name in _NAMES.items():
        cells: list[str] = []
        for shelf in shelves:
            if not shelf.own(measure):
                cells.append("not counted")
                continue
            # Others write to the device too: the least is what the store writes.
            middle = min if measure == "bytes" else median
            ours, peer = (middle(shelf.spent[measure, which]) for which in (_OURS, _SQLITE))
            ratio = ours / peer if measure == "bytes" else shelf.ratio(measure)
            cells.append(f"{ratio:.2f} ({_said(measure, ours)} : {_said(measure, peer)})")
            figures[f"store_{measure}_ratio_{shelf.calls.count}"] = round(ratio, 3)
        rows.append((name, f"{_MUST[measure]:g}", f"{_AIM[measure]:g}", *cells))
    rows.append(("open, s", "0.5 at 1 M", "0.2", *(f"{shelf.open_s:.3f}" for shelf in shelves)))
    rows.append(("memory added by that, MB", "60 at 1 M", "45", *(f"{shelf.open_mb:.1f}" for shelf in shelves)))
    first, last = shelves[0], shelves[-1]
    growth = [
        median([a / b for a, b in zip(shelf.own("insert"), first.own("insert"), strict=True)]) for shelf in shelves
    ]
    rows.append(("insert, against that with 1 k", "1.3", "1.1", *(f"{each:.2f}" for each in growth)))
    for name, must in (("insert", "5,000"), ("get", "100,000")):
        cells = [f"{stock[name]:,.0f}" if shelf.calls.count == stock_at else "" for shelf in shelves]
        rows.append((f"stock TinyDB's {name}, times ours", f"{must} at 100 k", "", *cells))
        figures[f"store_stock_{name}_ratio_{stock_at}"] = round(stock[name])
    figures[f"store_open_s_{last.calls.count}"] = round(last.open_s, 3)
    figures[f"store_added_mb_{last.calls.count}"] = round(last.open_mb, 1)
    figures[f"store_insert_growth_{last.calls.count}"] = round(growth[-1], 3)
    return Table(
        title="The store, beside sqlite3",
        how=(
            "The store by its TinyDB face with the product's six indexes and no query cache, over sqlite3 "
            f"{sqlite3.sqlite_version} (WAL, synchronous=FULL, the rest as it comes; call and event in two tables, "
            "indexes on number and time, statements prepared), in the same directory: the same calls of five kinds "
            "as the firmware writes them, 2 kB with an event of 1 kB, JSON by orjson. Times in brackets: ours : "
            f"sqlite3. {_ROUNDS} rounds, in each {_TURNS} turns; the median of their ratios. A number finds ten calls, "
            "a week 4,032 of a store that has more. Bytes: what the kernel counts of the whole device, the file "
            "system's journal, checkpoints and zeros made ahead included, from opening to closing, for "
            f"{_WRITTEN_CALLS} calls of five transactions in which the call grows; the least of {_COUNTS} counts. "
            "Flushes: as strace counts them. Memory: private pages of a new process that opens the store. Stock TinyDB "
            "inserts the call alone."
        ),
        columns=("measure", "must", "aim", *(f"{shelf.calls.count:,} calls" for shelf in shelves)),
        rows=tuple(rows),
        figures=figures,
    )


def _said(measure: str, value: float) -> str:
    if measure == "flushes":
        return f"{value:.2f}"
    if measure == "bytes":
        return f"{value / 1000:.0f} kB"
    return f"{value * 1e6:.0f} µs" if value < 1e-3 else f"{value * 1e3:.1f} ms"


# -- what is measured in a process of its own


def _child(action: str, *arguments: str, under: Sequence[str] = ()) -> dict[str, Any]:
    command = [*under, sys.executable, "-m", "tests.bench.store", action, *arguments]
    told: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return told


def _write(path: str, kinds: str, first: str, count: str) -> dict[str, Any]:
    calls = Calls(orjson.loads(Path(kinds).read_bytes()), int(count))
    store = _OPENED[Path(path).name](Path(path))
    numbers = range(int(first), int(first) + _WRITTEN_CALLS)
    steps = [filed for number in numbers for filed in calls.steps(number)]
    os.sync()
    before = _device_bytes(Path(path))
    _write_all(store, ((filed, numbers[0] * 10 + number) for number, filed in enumerate(steps)))
    store.close()
    after = _device_bytes(Path(path))
    return {"bytes": None if before is None or after is None else after - before, "transactions": len(steps)}


def _device_bytes(path: Path) -> int | None:
    """Bytes written to the device below a path, by whomever; None where there is no such device."""
    device = path.stat().st_dev
    try:
        stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text()
    except FileNotFoundError:
        return None
    return int(stat.split()[6]) * 512


def _open(path: str) -> dict[str, Any]:
    gc.collect()
    before_mb = _private_mb()
    began_s = time.perf_counter()
    storage = LogStorage(path, indexes=INDEXES)
    open_s = time.perf_counter() - began_s
    gc.collect()
    told = {"open_s": open_s, "added_mb": _private_mb() - before_mb}
    storage.close()
    return told


def _private_mb() -> float:
    rollup = Path("/proc/self/smaps_rollup")
    return sum(int(_field(rollup, field)) for field in ("Private_Clean:", "Private_Dirty:")) * 1.024 / 1000


def _field(path: Path, name: str) -> str:
    return next(line.split()[1] for line in path.read_text().splitlines() if line.startswith(name))


def _stock_times(path: str) -> dict[str, Any]:
    table = TinyDB(path).table("calls", cache_size=0)
    template = dict(table.get(doc_id=1) or {})
    inserts, gets = [], []
    for number in range(3):
        began_s = time.perf_counter()
        table.insert(template)
        inserted_s = time.perf_counter()
        table.get(doc_id=number + 1)
        inserts.append(inserted_s - began_s)
        gets.append(time.perf_counter() - inserted_s)
    return {"insert": statistics.median(inserts), "get": statistics.median(gets)}


if __name__ == "__main__":
    _ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {"write": _write, "open": _open, "stock": _stock_times}
    print(json.dumps(_ACTIONS[sys.argv[1]](*sys.argv[2:])))
