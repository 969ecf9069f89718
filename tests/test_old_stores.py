"""Stores of every format that a version of this wrote are opened by this one; nothing in them is lost or changed.

tests/stores: schema-1-calls-N.json as the versions with the store of schema 1 and calls of schema N wrote them, and
schema-2, a folder. `python -m tests.test_old_stores` writes the folder of the present format, where there is none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firmware.core.call import Call, ClockRead, ClockState, event
from firmware.core.caller import Caller
from firmware.core.numbers import Dialled
from firmware.core.outbox import Sink
from firmware.records.database import LogStorage
from firmware.records.log import Line, lines, segments
from firmware.records.store import SCHEMA, CallReader, CallStore
from firmware.records.upkeep import verify

STORES = Path(__file__).parent / "stores"
S = 1_000_000_000


@pytest.mark.parametrize("schema", [1, 2])
def test_a_store_of_schema_1_is_taken_over_whole(tmp_path: Path, schema: int) -> None:
    text = (STORES / f"schema-1-calls-{schema}.json").read_bytes()
    old: dict[str, Any] = json.loads(text)
    assert {call["schema"] for call in old["calls"].values()} == {schema}
    (tmp_path / "calls.json").write_bytes(text)
    entries = sorted(old["outbox"].values(), key=lambda entry: entry["sequence"])
    pending = [entry["sequence"] for entry in entries if entry["state"] == "pending"]
    for _ in range(2):  # taken over, and opened again
        store = CallStore(tmp_path / "store", "s")
        assert (tmp_path / "calls.json.migrated").read_bytes() == text and not (tmp_path / "calls.json").exists()
        assert (store.wrong, store.problems) == (None, [])
        assert store.store_id == old["meta"]["1"]["store_id"]
        assert [store.get(call["call_id"]) for call in old["calls"].values()] == [
            Call.from_dict(call) for call in old["calls"].values()
        ]
        assert [store.storage.doc("calls", int(number)) for number in old["calls"]] == [*old["calls"].values()]
        assert list(store.events()) == [entry["body"] for entry in entries]
        assert [entry.sequence for entry in store.pending(99)] == pending
        assert store.outbox_state()["outbox_depth"] == len(pending)
        open_ids = [call["call_id"] for call in old["calls"].values() if call["outcome"] is None]
        assert [call.call_id for call in store.left_open()] == open_ids
        store.close()
    numbers = {call["caller"]["number"] for call in old["calls"].values()} - {None}
    assert numbers
    reader = CallReader(tmp_path / "store")
    for number in numbers:
        assert [call["caller"]["number"] for call in reader.with_number(number)] == [number]
    assert len(reader.between("2026-01-01", "2026-01-02")) == sum(
        call["opened"].startswith("2026") for call in old["calls"].values()
    )
    reader.close()
    store = CallStore(tmp_path / "store", "s")
    made = Call.from_dict(next(iter(old["calls"].values())))
    store.commit(replace(made, call_id="new"), [event("call.ringing", made, made.opened_ns)])
    assert [entry.sequence for entry in store.pending(99)] == [*pending, entries[-1]["sequence"] + 1]
    store.close()


def clock(wall_s: int, mono_s: int, state: ClockState = "ntp") -> Callable[[], ClockRead]:
    return lambda: ClockRead(mono_ns=mono_s * S, wall_ns=wall_s * S, state=state)


SINKS = (Sink(name="shop"), Sink(name="office"))


def write(path: Path, key: Path) -> None:
    """A store with something of everything in it, in three segments, the last of them as a kill leaves it."""
    set_, unset = clock(1_767_225_600, 5), clock(1_000_000_000, 5, "unsynced")
    store = CallStore(path, "/tsuroku/shop/u1", sinks=SINKS, boot_id="b1", read_clock=set_, key=key)
    caller = Caller(
        presentation="allowed", reason=None, number="+81300000021", raw="0300000021", name="\udc80", source="modem"
    )
    made = Call(
        call_id="c-1", line=1, direction="incoming", boot_id="b1", clock=set_(), opened_ns=10 * S, caller=caller
    )
    store.commit(made, [event("call.ringing", made, 10 * S)])
    made = replace(made, outcome="missed", ended_ns=20 * S, no_recording="not_answered")
    store.commit(made, [event("call.missed", made, 20 * S)])
    made = replace(made, call_id="c-2", direction="outgoing", caller=Caller())
    dialled = Dialled(raw="1840300000022", digits="0300000022", number="+81300000022", caller_id="withhold")
    store.commit(replace(made, dialled=dialled), [event("call.ended", made, 20 * S)])
    store.commit(replace(made, call_id="c-3"), [event("call.ended", replace(made, call_id="c-3"), 20 * S)])
    store.mark("call", 1, "accepted", "shop")
    store.mark("call", 2, "parked", "office")
    store.hold("c-2", "a dispute", "staff")
    store.remove(["c-3"], "asked for", "staff")
    list(store.purge_steps())
    store.close()
    store = CallStore(path, "/tsuroku/shop/u1", sinks=SINKS, boot_id="b2", read_clock=unset, key=key)
    store.storage.seal()
    late = Call(call_id="c-4", line=1, direction="incoming", boot_id="b2", clock=unset(), opened_ns=7 * S)
    store.commit(late, [event("call.ringing", late, 7 * S)])
    store.anchor(clock(1_767_312_000, 65)())
    store.storage._written = False
    store.storage.close()
    last = segments(path)[-1].path
    last.write_bytes(last.read_bytes().rstrip(b"\0"))


def test_a_store_of_schema_2_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(STORES / "schema-2", path)
    assert [each.generation for each in segments(path)][:2] == [1, 0], "with a segment that was written anew"
    before = _lines(path)
    for _ in range(2):
        store = CallStore(path, "/tsuroku/shop/u1", sinks=SINKS, boot_id="b2")
        assert (store.wrong, store.problems) == (None, [])
        assert [call["call_id"] for call in store.calls()] == ["c-1", "c-2", "c-4"]
        assert [call["opened"] for call in store.calls()] == [
            "2026-01-01T00:00:05.000Z",
            "2026-01-01T00:00:05.000Z",
            "2026-01-01T23:59:02.000Z",
        ]
        assert store.get("c-1") is not None and [call.call_id for call in store.left_open()] == ["c-4"]
        assert [call["call_id"] for call in store.with_number("+81300000021")] == ["c-1"]
        assert [call["call_id"] for call in store.with_number("+81300000022")] == ["c-2"]
        assert [entry.sequence for entry in store.pending(9, "shop")] == [2, 3, 5]
        assert [entry.sequence for entry in store.pending(9, "office")] == [1, 3, 5]
        assert list(store.holds()) == ["c-2"]
        store.close()
    found = verify(path)
    assert found.problems == [] and found.signatures >= 2 and found.erased >= 1
    assert _lines(path)[: len(before)] == before, "what was written stays as it is"


def _lines(path: Path) -> list[tuple[int, str, bytes | None]]:
    found = [line for segment in segments(path) for line in lines(segment.path.read_bytes())]
    return [(line.seq, line.link, line.body) for line in found if isinstance(line, Line)]


def test_the_present_format_is_among_them(tmp_path: Path) -> None:
    """A version that writes another format adds a store of it, and leaves the others as they are."""
    assert (STORES / f"schema-{SCHEMA}").is_dir()
    write(tmp_path / "store", tmp_path / "key.pem")
    storage = LogStorage(tmp_path / "store", writable=False)
    kept = LogStorage(STORES / f"schema-{SCHEMA}", writable=False)
    assert storage.tables.keys() == kept.tables.keys()
    for name in storage.tables:
        assert [*storage.read()[name]] == [*kept.read()[name]], name  # type: ignore[index]
    storage.close()
    kept.close()


if __name__ == "__main__":
    where = STORES / f"schema-{SCHEMA}"
    if not where.exists():
        write(where, Path("/dev/shm/tsuroku-fixture-key.pem"))
        Path("/dev/shm/tsuroku-fixture-key.pem").unlink()
        for other in (where / "lock", *where.glob("*.hint")):
            other.unlink()
