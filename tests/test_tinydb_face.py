"""To its users the store is TinyDB: TinyDB's own tests run on it, an extension works on it, and it is compared with it.

Both TinyDBs get the same operations in a random order; what each returns, raises and holds must be the same.
"""

from __future__ import annotations

import copy
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from pytest_mock import MockerFixture
from tinydb import Query, TinyDB, operations, where
from tinydb.queries import QueryInstance
from tinydb.storages import Storage
from tinydb.table import Document, Table
from tinyrecord import abort, transaction

from firmware.records import log
from firmware.records.database import LogDB, LogStorage, Put, Remove, StoreError, candidates
from firmware.records.index import Index
from firmware.records.log import Line, lines, segments
from tests.test_log import ROOT

INDEXES = {"calls": (Index(("number",)), Index(("caller", "name")), Index(("at",), "time"))}

# -- TinyDB's own tests

DIFFERENCES = {
    "test_repr": "it shows the class, and ours has another name",
    "test_table_repr": "it shows the class, and ours has another name",
    "test_empty_write": "it opens the same path with JSONStorage, and ours is a folder",
}
CONFTEST = '''
"""TinyDB's fixture, of our classes; and where its tests ask for no other storage, TinyDB() is ours."""

import tempfile

import pytest
import tinydb
from firmware.records.database import LogDB
from tinydb.middlewares import CachingMiddleware
from tinydb.storages import MemoryStorage

stock = tinydb.TinyDB


class Ours(LogDB):
    def __new__(cls, *args, **options):
        return stock(*args, **options) if options else super().__new__(cls)


tinydb.TinyDB = Ours


@pytest.fixture
def db(tmp_path):
    with LogDB(tmp_path / "store") as db:
        db.drop_tables()
        db.insert_multiple({"int": 1, "char": c} for c in "abc")
        yield db


@pytest.fixture
def storage():
    return CachingMiddleware(MemoryStorage)()
'''


@pytest.fixture(scope="module")
def upstream_tests() -> Path:
    """The tests in TinyDB's source distribution of the version we run on; fetched once for an environment."""
    version = importlib.metadata.version("tinydb")
    kept = Path(sys.prefix) / "cache" / f"tinydb-{version}-tests"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as made:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps"]
            wanted = ["--no-binary", ":all:", "--dest", made, f"tinydb=={version}"]
            done = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False, timeout=120)
            if done.returncode:
                pytest.skip(f"TinyDB's source cannot be had here: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
            with tarfile.open(Path(made) / f"tinydb-{version}.tar.gz") as source:
                source.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
                source.extractall(made)
            (Path(made) / f"tinydb-{version}" / "tests").rename(kept)
    return kept


def test_tinydbs_own_tests_pass_but_for_what_is_meant_to_differ(upstream_tests: Path, tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    shutil.copytree(upstream_tests, tests, ignore=shutil.ignore_patterns("__pycache__"))
    (tests / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    modules = [f"tests/test_{name}.py" for name in ("tables", "tinydb", "operations", "queries")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", "result.xml", *modules],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]
    cases = list(ElementTree.parse(tmp_path / "result.xml").iter("testcase"))
    failed = {case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None}
    assert failed == set(DIFFERENCES), done.stdout[-5000:]
    assert len(cases) - len(failed) > 100 and not [case for case in cases if case.find("skipped") is not None]


# -- an extension of somebody else


def whole_lines(directory: Path) -> int:
    found = [line for segment in segments(directory) for line in lines(segment.path.read_bytes())]
    return sum(isinstance(line, Line) for line in found)


def test_tinyrecords_transactions_are_one_line_or_none(tmp_path: Path) -> None:
    with LogDB(tmp_path, indexes=INDEXES) as db:
        table = db.table("calls")
        with transaction(table) as change:
            change.insert({"number": "1"})
            change.insert_multiple({"number": number} for number in "234")
        assert whole_lines(tmp_path) == 1
        with transaction(table) as change:
            change.update({"seen": True}, where("number") == "2")
            change.update(operations.set("number", "9"), doc_ids=[3])
            change.remove(where("number") == "1")
            change.insert({"number": "5"})
        assert whole_lines(tmp_path) == 2
        with transaction(table) as change:
            change.remove(where("number").exists())
            abort()
        with pytest.raises(KeyError), transaction(table) as change:
            change.update({"number": "6"}, where("number") == "5")
            change.remove(doc_ids=[99])
        assert whole_lines(tmp_path) == 2
        wanted = {2: {"number": "2", "seen": True}, 3: {"number": "9"}, 4: {"number": "4"}, 5: {"number": "5"}}
        assert {doc.doc_id: dict(doc) for doc in table} == wanted
        assert [doc.doc_id for doc in table.search(where("number") == "9")] == [3]
        assert table.insert({}) == 6
        table.remove(doc_ids=[6])
    with LogDB(tmp_path, indexes=INDEXES) as db:
        assert {doc.doc_id: dict(doc) for doc in db.table("calls")} == wanted


# -- what a query says of itself


def test_a_query_is_told_by_its_hash() -> None:
    """TinyDB keeps this to itself: where a version of it changes the shape, queries would read everything."""
    number, at, name = where("number"), where("at"), Query().caller.name

    def shape(query: QueryInstance) -> object:
        return query._hash

    assert shape(number == "1") == ("==", ("number",), "1")
    assert shape(name == "x") == ("==", ("caller", "name"), "x")
    assert shape(at < "1") == ("<", ("at",), "1")
    assert shape(at <= "1") == ("<=", ("at",), "1")
    assert shape(at > "1") == (">", ("at",), "1")
    assert shape(at >= "1") == (">=", ("at",), "1")
    assert shape(number.one_of(["1", "2"])) == ("one_of", ("number",), ("1", "2"))
    either = (number == "1") | (at < "2")
    assert shape(either) == ("or", frozenset([("==", ("number",), "1"), ("<", ("at",), "2")]))
    assert shape((name == "x") & either) == ("and", frozenset([("==", ("caller", "name"), "x"), shape(either)]))
    assert shape(~(number == "1")) == ("not", ("==", ("number",), "1"))
    assert shape(Query().number.map(str) == "1") is None
    for other in (number != "1", number.any(["1"]), number.exists(), Query().noop(), number.search("1")):
        assert cast(tuple[str, ...], shape(other))[:1] not in {
            (each,) for each in ("==", "<", "<=", ">", ">=", "one_of", "and", "or")
        }


@pytest.mark.parametrize(
    ("query", "reads"),
    [
        (where("number") == "3", 10),
        (Query().caller.name == "n7", 10),
        (where("number").one_of(["3", "4"]), 20),
        (where("at") >= "2026-01-01T00:01:35.000Z", 5),
        ((where("at") >= "2026-01-01T00:00:10.000Z") & (where("at") < "2026-01-01T00:00:15.000Z"), 6),
        ((where("number") == "3") & (where("at") < "2026-01-01"), 10),
        ((where("number") == "3") | (Query().caller.name == "n4"), 20),
        ((where("number") == "3") & ~(where("at") == "x") & Query().n.exists(), 10),
        (where("number") == "none", 0),
        ((where("number") == "3") | (where("n") == 1), 100),
        (where("number") != "3", 100),
        (~(where("number") == "3"), 100),
        (where("number") == 3, 100),
    ],
)
def test_a_query_reads_what_it_can_match(
    tmp_path: Path, mocker: MockerFixture, query: QueryInstance, reads: int
) -> None:
    docs = [
        {"number": str(n % 10), "caller": {"name": f"n{n % 10}"}, "at": f"2026-01-01T00:{n // 60:02}:{n % 60:02}.000Z"}
        for n in range(100)
    ]
    with LogDB(tmp_path, indexes=INDEXES, sync=False) as db:
        db.table("calls").insert_multiple({**doc, "n": n} for n, doc in enumerate(docs))
        read: list[int] = []
        documents = LogStorage.documents

        def counting(storage: LogStorage, name: str, ids: Iterable[int]) -> Iterator[tuple[int, dict[str, Any]]]:
            for doc_id, doc in documents(storage, name, ids):
                read.append(doc_id)
                yield doc_id, doc

        mocker.patch.object(LogStorage, "documents", counting)
        found = db.table("calls").search(query)
        assert len(read) == reads
        assert [doc["n"] for doc in found] == [n for n, doc in enumerate(docs) if query({**doc, "n": n})]


# -- what differs on purpose


def test_what_json_makes_of_a_document_is_what_comes_back(tmp_path: Path) -> None:
    with LogDB(tmp_path) as db:
        made = {"tuple": (1, 2), "nan": float("nan"), "big": 1 << 70, "text": "\udc80", "map": {"a": None}}
        db.insert({"nan": float("nan"), "tuple": (1, 2)})
        assert db.all() == [{"nan": None, "tuple": [1, 2]}]
        del made["nan"]
        assert db.get(doc_id=db.insert(made)) == {**made, "tuple": [1, 2]}
        for wrong in (object(), {1, 2}, b"bytes"):
            with pytest.raises(TypeError):
                db.insert({"x": wrong})
        assert len(db) == 2


def test_a_number_is_given_once_and_documents_come_in_their_order(tmp_path: Path) -> None:
    with LogDB(tmp_path) as db:
        db.insert_multiple({"n": n} for n in range(3))
        db.remove(doc_ids=[3])
    with LogDB(tmp_path) as db:
        assert db.insert({}) == 4, "TinyDB would give 3 again"
        db.insert(Document({}, doc_id=9))
        db.insert(Document({}, doc_id=7))
        assert [doc.doc_id for doc in db] == [1, 2, 4, 7, 9]
        db.truncate()
        assert db.insert({}) == 1, "as TinyDB does"


def test_a_document_far_from_all_others_is_found_and_moved_too(tmp_path: Path) -> None:
    with LogDB(tmp_path, indexes=INDEXES) as db:
        far = Document({"number": "1", "at": TIMES[0]}, doc_id=1 << 33)
        db.table("calls").insert(far)
        assert db.table("calls").search(where("number") == "1") == [far]
        assert db.table("calls").search(where("at") < TIMES[1]) == [far]
        db.insert({})
        db.insert({"n": 1, "long": "x" * 500})
        db.table("far").insert(Document({"n": 2}, doc_id=1 << 33))
        db.update(operations.delete("long"), doc_ids=[2])
        storage = cast(LogStorage, db.storage)
        storage.seal()
        assert storage.compact(storage.sealed()[0], least=0.0) > 0
        assert db.table("far").all() == [{"n": 2}] and db.all() == [{}, {"n": 1}]


def test_who_changes_a_table_while_going_through_it_gets_each_document_once(tmp_path: Path) -> None:
    with LogDB(tmp_path, sync=False) as db:
        db.insert_multiple({"n": n} for n in range(5, 45))
        storage = cast(LogStorage, db.storage)
        seen = []
        for doc in db:
            assert doc["n"] == doc.doc_id + 4
            seen.append(doc.doc_id)
            storage.commit([Remove("_default", 1, doc.doc_id), Put("_default", doc.doc_id + 100, {"n": 0})])
        assert seen == list(range(1, 41)) and [doc.doc_id for doc in db] == list(range(101, 141))
        for doc in db:
            db.truncate()
            assert doc.doc_id == 101
            break
        assert db.all() == []


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    with LogDB(tmp_path) as db:
        db.insert({"n": 1})
        with LogDB(tmp_path, writable=False) as reader:
            for change in (
                lambda: reader.insert({}),
                lambda: reader.update({"n": 2}),
                lambda: reader.remove(where("n") == 1),
                reader.truncate,
                reader.drop_tables,
            ):
                with pytest.raises(StoreError, match="is open for reading only"):
                    cast(Callable[[], object], change)()
            assert reader.all() == db.all() == [{"n": 1}]


# -- the same as TinyDB, whatever is done


class _Copies(Storage):
    """TinyDB's memory, which nobody else holds a part of: what an operation that fails did to it is undone."""

    def __init__(self) -> None:
        self._memory: dict[str, dict[str, Any]] | None = None

    def read(self) -> dict[str, dict[str, Any]] | None:
        return copy.deepcopy(self._memory)

    def write(self, data: dict[str, dict[str, Any]]) -> None:
        self._memory = copy.deepcopy(data)


NUMBERS = ["+81300000001", "+81300000002", "+81300000003", "0300000001", ""]
TIMES = [
    "2025-12-31T23:59:59.999Z",
    "2026-01-01T00:00:00.000Z",
    "2026-01-01T00:00:00Z",
    "2026-01-01",
    "2026-01-01T00:00:00.500Z",
    "2026-01-02T12:00:00.000Z",
    "1969-12-31T23:59:59.500Z",
    "2200-01-01T00:00:00.000Z",
    "2026-01-01 00:00",
    "yesterday",
    "",
]
TABLES = ["calls", "notes", TinyDB.default_table_name]
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=5)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "number": st.sampled_from(NUMBERS) | scalars,
        "at": st.sampled_from(TIMES),
        "caller": st.fixed_dictionaries({}, optional={"name": st.sampled_from("abc")}) | scalars,
        "n": st.integers(0, 3),
        "tags": st.lists(st.sampled_from("xyz"), max_size=3),
        "more": values,
    },
)
doc_ids = st.integers(1, 12) | st.sampled_from([0, 300, 70_000, 1 << 33])
times = st.sampled_from(TIMES)
leaves = st.one_of(
    st.sampled_from(NUMBERS).map(lambda v: where("number") == v),
    st.sampled_from(NUMBERS).map(lambda v: where("number") != v),
    st.lists(st.sampled_from(NUMBERS), max_size=3).map(where("number").one_of),
    times.map(lambda v: where("at") < v),
    times.map(lambda v: where("at") <= v),
    times.map(lambda v: where("at") > v),
    times.map(lambda v: where("at") >= v),
    times.map(lambda v: where("at") == v),
    st.tuples(times, times).map(lambda v: (where("at") >= v[0]) & (where("at") < v[1])),
    st.sampled_from("abc").map(lambda v: Query().caller.name == v),
    st.integers(0, 3).map(lambda v: where("n") == v),
    st.lists(st.sampled_from("xyz"), max_size=2).map(where("tags").any),
    st.lists(st.sampled_from("xyz"), max_size=2).map(where("tags").all),
    st.sampled_from(["number", "at", "n"]).map(lambda name: where(name).exists()),
    st.just(where("at").search("^2026")),
    st.just(Query().fragment({"n": 1})),
    st.just(where("n").map(lambda n: n % 2) == 1),
)
queries = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda both: both[0] & both[1]),
        st.tuples(inner, inner).map(lambda both: both[0] | both[1]),
        inner.map(lambda one: ~one),
    ),
    max_leaves=4,
)
tables = st.sampled_from(TABLES)
changes = st.one_of(
    documents,
    st.sampled_from(
        [
            operations.increment("n"),
            operations.delete("n"),
            operations.set("number", NUMBERS[0]),
            operations.set("at", TIMES[1]),
            operations.subtract("n", 1),
        ]
    ),
)


def _number(doc: Document) -> int:
    return doc.doc_id


class Twins(RuleBasedStateMachine):
    """LogDB in segments of 3 kB, with indexes, and TinyDB in memory."""

    segment_bytes = 3000

    def __init__(self) -> None:
        super().__init__()
        self._made = tempfile.TemporaryDirectory()
        self.path = Path(self._made.name) / "store"
        self._segment_bytes = log.SEGMENT_BYTES
        log.SEGMENT_BYTES = self.segment_bytes
        self.ours = self._open()
        self.stock = TinyDB(storage=_Copies)
        self.highest: dict[str, int] = {}

    def _open(self) -> LogDB:
        return LogDB(self.path, indexes=INDEXES, sync=False)

    def teardown(self) -> None:
        self.reopened(hints=False, killed=False)
        self.everything_is_the_same()
        self.ours.close()
        log.SEGMENT_BYTES = self._segment_bytes
        self._made.cleanup()

    def both(self, table: str, work: Callable[[Table], Any]) -> Any:
        """Do it to both. Their results, or how both failed, must be the same."""
        stock = self.stock.table(table)
        stock._next_id = cast(Any, self.highest.get(table, 0) + 1)  # ours never gives a number twice
        results = []
        for own in (self.ours.table(table), stock):
            try:
                results.append(work(own))
            except (KeyError, TypeError, ValueError) as error:
                results.append(type(error))
        assert results[0] == results[1]
        return results[0]

    def given_out(self, table: str, *numbers: int) -> None:
        self.highest[table] = max([self.highest.get(table, 0), *numbers])

    @rule(table=tables, doc=documents)
    def insert(self, table: str, doc: Mapping[str, Any]) -> None:
        self.given_out(table, self.both(table, lambda t: t.insert(copy.deepcopy(doc))))

    @rule(table=tables, docs=st.lists(documents, max_size=12))
    def insert_multiple(self, table: str, docs: list[Mapping[str, Any]]) -> None:
        self.given_out(table, *self.both(table, lambda t: t.insert_multiple(copy.deepcopy(docs))))

    @rule(table=tables, doc=documents, doc_id=doc_ids)
    def insert_at(self, table: str, doc: Mapping[str, Any], doc_id: int) -> None:
        done = self.both(table, lambda t: t.insert(Document(copy.deepcopy(doc), doc_id)))
        if done is not ValueError:
            self.given_out(table, done)

    @rule(table=tables, change=changes, cond=queries)
    def update(self, table: str, change: Any, cond: QueryInstance) -> None:
        self.both(table, lambda t: sorted(t.update(copy.deepcopy(change), cond)))

    @rule(table=tables, change=changes, chosen=st.lists(doc_ids, max_size=3))
    def update_some(self, table: str, change: Any, chosen: list[int]) -> None:
        self.both(table, lambda t: t.update(copy.deepcopy(change), doc_ids=chosen))

    @rule(table=tables, change=changes)
    def update_all(self, table: str, change: Any) -> None:
        self.both(table, lambda t: sorted(t.update(copy.deepcopy(change))))

    @rule(table=tables, pairs=st.lists(st.tuples(documents, queries), max_size=2))
    def update_multiple(self, table: str, pairs: list[tuple[Any, QueryInstance]]) -> None:
        self.both(table, lambda t: sorted(t.update_multiple(copy.deepcopy(pairs))))

    @rule(table=tables, doc=documents, cond=queries)
    def upsert(self, table: str, doc: Mapping[str, Any], cond: QueryInstance) -> None:
        self.given_out(table, *self.both(table, lambda t: sorted(t.upsert(copy.deepcopy(doc), cond))))

    @rule(table=tables, doc=documents, doc_id=doc_ids)
    def upsert_at(self, table: str, doc: Mapping[str, Any], doc_id: int) -> None:
        self.given_out(table, *self.both(table, lambda t: t.upsert(Document(copy.deepcopy(doc), doc_id))))

    @rule(table=tables, cond=queries)
    def remove(self, table: str, cond: QueryInstance) -> None:
        self.both(table, lambda t: sorted(t.remove(cond)))

    @rule(table=tables, chosen=st.lists(doc_ids, max_size=3, unique=True))
    def remove_some(self, table: str, chosen: list[int]) -> None:
        self.both(table, lambda t: t.remove(doc_ids=chosen))

    @rule(table=tables)
    def truncate(self, table: str) -> None:
        self.both(table, lambda t: t.truncate())
        self.highest[table] = 0

    @rule(table=tables)
    def drop_table(self, table: str) -> None:
        for db in (self.ours, self.stock):
            db.drop_table(table)
        self.highest[table] = 0

    @rule(table=tables, cond=queries, doc_id=doc_ids, chosen=st.lists(doc_ids, max_size=3))
    def looked_for(self, table: str, cond: QueryInstance, doc_id: int, chosen: list[int]) -> None:
        def same(work: Callable[[Table], Any]) -> Any:
            return self.both(table, work)

        found = same(lambda t: sorted((doc.doc_id, dict(doc)) for doc in t.search(cond)))
        same(lambda t: [doc.doc_id for doc in sorted(t.search(cond), key=_number)])  # out of the cache
        same(lambda t: t.count(cond))
        same(lambda t: t.contains(cond))
        same(lambda t: t.contains(doc_id=doc_id))
        same(lambda t: t.get(doc_id=doc_id))
        same(lambda t: sorted(doc.doc_id for doc in t.get(doc_ids=chosen)))
        first = self.ours.table(table).get(cond)
        assert (None if first is None else first.doc_id) == (found[0][0] if found else None)

    @rule(hints=st.booleans(), killed=st.booleans())
    def reopened(self, hints: bool, killed: bool) -> None:
        """hints: without them everything is scanned. killed: without a closing line."""
        if killed:
            cast(LogStorage, self.ours.storage)._written = False
        self.ours.close()
        if not hints:
            for hint in self.path.glob("*.hint"):
                hint.unlink()
        self.ours = self._open()

    @rule(least=st.sampled_from([0.0, 0.25]))
    def compacted(self, least: float) -> None:
        storage = cast(LogStorage, self.ours.storage)
        storage.seal()
        for segment in storage.sealed():
            storage.compact(segment, least=least)

    @rule()
    def read_beside(self) -> None:
        with LogDB(self.path, indexes=INDEXES, writable=False) as reader:
            self._same(reader)
            assert cast(LogStorage, reader.storage).problems == []

    @invariant()
    def everything_is_the_same(self) -> None:
        self._same(self.ours)

    def _same(self, db: LogDB) -> None:
        assert db.tables() == self.stock.tables()
        for name in TABLES:
            own, stock = db.table(name), self.stock.table(name)
            assert {doc.doc_id: dict(doc) for doc in own} == {doc.doc_id: dict(doc) for doc in stock}
            assert len(own) == len(stock)
        assert cast(LogStorage, db.storage).problems == []


def test_it_does_what_tinydb_does() -> None:
    run_state_machine_as_test(
        Twins,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.reuse, Phase.generate, Phase.shrink],
        ),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(documents, max_size=40), queries)
def test_a_query_finds_what_a_look_at_everything_finds(docs: list[dict[str, Any]], query: QueryInstance) -> None:
    with tempfile.TemporaryDirectory() as made, LogDB(Path(made), indexes=INDEXES, sync=False) as db:
        table = db.table("calls")
        table.insert_multiple(docs)
        wanted = [n for n, doc in enumerate(docs, 1) if query(doc)]
        assert [doc.doc_id for doc in table.search(query)] == wanted
        chosen = candidates(cast(LogStorage, db.storage).tables.get("calls"), query._hash)
        assert chosen is None or set(wanted) <= set(chosen)
