"""The store: all or nothing, on the disk when commit() returns, and plain TinyDB to everybody else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_mock import MockerFixture
from tinydb import Query, TinyDB

from firmware.core.call import Call, CallEvent, ClockRead
from firmware.records.store import CallStore, StoreError, read_table


def call(number: int, **changes: object) -> Call:
    read = ClockRead(mono_ns=0, wall_ns=0, state="ntp")
    made = Call(call_id=f"id-{number}", line=1, direction="incoming", boot_id="b", clock=read, opened_ns=number)
    return replace(made, **changes)  # type: ignore[arg-type]


def told(number: int) -> CallEvent:
    return CallEvent(type="call.ringing", call_id=f"id-{number}", time="2026-11-24T00:00:00.000Z", data={"line": 1})


def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "calls.json"
    store = CallStore(path, "/tsuroku/s/u")
    store.commit(call(1), [told(1)])
    store.commit(call(2), [told(2), told(2)])
    store.commit(call(1, outcome="missed"), [])
    store_id = store.store_id
    store.close()
    again = CallStore(path, "/tsuroku/s/u")
    assert again.store_id == store_id
    assert again.get("id-1") == call(1, outcome="missed")
    assert again.get("id-3") is None
    assert [e.sequence for e in again.pending(10)] == [1, 2, 3]
    assert again.pending(10)[0].body["id"] == f"{store_id}-call-1"
    assert path.stat().st_mode & 0o777 == 0o600
    again.close()


def test_stock_tinydb_opens_the_file(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "calls.json", "s")
    store.commit(call(1), [told(1)])
    store.close()
    with TinyDB(tmp_path / "calls.json") as stock:
        found = stock.table("calls").search(Query().call_id == "id-1")
    assert found[0]["line"] == 1 and found[0]["schema"] == 2


def test_marks_leave_the_pending_ones_in_order(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "calls.json", "s")
    store.commit(call(1), [told(1)] * 5)
    store.mark("call", 2, "accepted")
    store.mark("call", 4, "parked")
    store.mark("call", 99, "accepted")
    assert [e.sequence for e in store.pending(10)] == [1, 3, 5]
    assert store.outbox_state() == {"outbox_depth": 3, "streams": {"call": {"oldest_seq": 1, "last_seq": 5}}}
    store.close()
    again = CallStore(tmp_path / "calls.json", "s")
    assert [e.sequence for e in again.pending(2)] == [1, 3]
    again.close()


def test_old_accepted_events_go_and_the_sequence_goes_on(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("firmware.records.store._ACCEPTED_KEPT", 3)
    store = CallStore(tmp_path / "calls.json", "s")
    store.commit(call(1), [told(1)] * 10)
    for sequence in range(1, 10):
        store.mark("call", sequence, "accepted")
    store.flush()
    assert store.outbox_state()["streams"]["call"] == {"oldest_seq": 7, "last_seq": 10}
    store.commit(call(1), [told(1)])
    assert [e.sequence for e in store.pending(9)] == [10, 11]
    store.close()


def test_a_full_disk_takes_back_the_whole_commit(tmp_path: Path, mocker: MockerFixture) -> None:
    store = CallStore(tmp_path / "calls.json", "s")
    store.commit(call(1), [told(1)])
    full = mocker.patch("os.fsync", side_effect=OSError(28, "No space left on device"))
    with pytest.raises(StoreError, match=r"calls\.json: cannot be written \(No space left on device\); free space"):
        store.commit(call(2), [told(2)])
    assert store.get("id-2") is None
    assert [e.sequence for e in store.pending(9)] == [1]
    mocker.stop(full)
    store.commit(call(2), [told(2)])
    store.close()
    assert [c["call_id"] for c in read_table(tmp_path / "calls.json", "calls")] == ["id-1", "id-2"]


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "calls.json", "s")
    with pytest.raises(StoreError, match="another unit is running on this data"):
        CallStore(tmp_path / "calls.json", "s")
    store.close()


ENTRY = '{"stream":"call","sequence":1,"state":"pending","body":{}}'
WHOLE = '"meta":{"1":{"schema":1,"store_id":"s"}}'


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"meta":{"1":{"schema":1}}}',
        f'{{{WHOLE},"calls":[]}}'.encode(),
        f'{{{WHOLE},"calls":{{"1":{{"schema":1}}}}}}'.encode(),
        f'{{{WHOLE},"outbox":{{"1":{{"stream":"call"}}}}}}'.encode(),
        f'{{{WHOLE},"outbox":{{"x":{ENTRY}}}}}'.encode(),
        f'{{{WHOLE},"outbox":{{"1":{ENTRY.replace(":1", ":null")}}}}}'.encode(),
        f'{{{WHOLE},"outbox":"none"}}'.encode(),
        b'{"meta":{"1":{"schema":"x","store_id":"s"}}}',
        b'{"meta":{"1":{"schema":1,"store_id":7}}}',
        b"[" * 100_000,
        b"",
    ],
)
def test_a_damaged_store_is_set_aside_and_calls_go_on(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "calls.json"
    path.write_bytes(text)
    with pytest.raises(StoreError, match="is damaged"):
        read_table(path, "calls")
    store = CallStore(path, "s")
    assert store.set_aside is not None and store.set_aside.read_bytes() == text
    store.commit(call(1), [told(1)])
    store.close()
    assert len(read_table(path, "calls")) == 1
    again = CallStore(path, "s")  # it stays a fault until somebody has taken the file away
    assert again.set_aside == store.set_aside and len(again.pending(9)) == 1
    again.close()


def test_one_that_was_set_aside_is_never_written_over(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("firmware.records.store.time.strftime", return_value="20251123-120000")
    path = tmp_path / "calls.json"
    for text in ("{1", "{2", "{3"):
        path.write_text(text)
        CallStore(path, "s").close()
    aside = sorted(each for each in tmp_path.iterdir() if "damaged" in each.name)
    assert [each.read_text() for each in aside] == ["{1", "{2", "{3"]


@pytest.mark.parametrize("change", [{"call_id": ["x"]}, {"line": []}, {"opened_ns": "x"}, {"clock": 1}, {"marks": 1}])
def test_a_call_that_cannot_be_read_is_damage_and_is_not_quoted(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "calls.json"
    made = {**call(1, dialled="0300001234").to_dict(), **change}
    path.write_text(f'{{{WHOLE},"calls":{{"1":{json.dumps(made)}}}}}')
    with pytest.raises(StoreError, match="is damaged") as found:
        read_table(path, "calls")
    assert "0300001234" not in str(found.value)
    store = CallStore(path, "s")
    assert store.set_aside is not None
    store.close()


def test_a_bad_block_of_the_card_is_damage(tmp_path: Path, mocker: MockerFixture) -> None:
    path = tmp_path / "calls.json"
    CallStore(path, "s").close()
    mocker.patch.object(Path, "read_bytes", side_effect=[OSError(5, "Input/output error"), FileNotFoundError()])
    store = CallStore(path, "s")
    assert store.set_aside is not None and store.set_aside.exists()
    store.close()


def test_a_record_of_a_newer_version_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "calls.json"
    path.write_text(f'{{{WHOLE},"calls":{{"1":{{"schema":3}}}}}}')
    with pytest.raises(StoreError, match="has schema 3, this version reads 1"):
        CallStore(path, "s")
    assert path.exists()


def test_a_lone_surrogate_is_kept_and_stops_no_commit(tmp_path: Path) -> None:
    path = tmp_path / "calls.json"
    store = CallStore(path, "s")
    store.commit(call(1, answer_evidence="\udc80"), [])
    store.close()
    assert read_table(path, "calls")[0]["answer_evidence"] == "\udc80"


def test_a_call_that_somebody_removed_gives_its_place_to_no_other(tmp_path: Path) -> None:
    path = tmp_path / "calls.json"
    store = CallStore(path, "s")
    for number in (1, 2, 3):
        store.commit(call(number), [])
    store.close()
    with TinyDB(path) as stock:
        stock.table("calls").remove(Query().call_id == "id-1")
    store = CallStore(path, "s")
    store.commit(call(4), [])
    store.close()
    assert [c["call_id"] for c in read_table(path, "calls")] == ["id-2", "id-3", "id-4"]


def test_marks_outlive_a_commit_and_a_flush_that_fail(tmp_path: Path, mocker: MockerFixture) -> None:
    path = tmp_path / "calls.json"
    store = CallStore(path, "s")
    store.commit(call(1), [told(1)] * 3)
    store.commit(call(2), [])
    store.mark("call", 1, "accepted")
    full = mocker.patch("os.fsync", side_effect=OSError(28, "No space left on device"))
    with pytest.raises(StoreError):
        store.commit(call(1, outcome="missed"), [told(1)])
    with pytest.raises(StoreError):
        store.flush()
    mocker.stop(full)
    path.unlink()
    store.flush()
    assert [e["state"] for e in read_table(path, "outbox")] == ["accepted", "pending", "pending"]
    assert [c["call_id"] for c in read_table(path, "calls")] == ["id-1", "id-2"]  # in the order of filing
    store.close()
    CallStore(path, "s").close()


def test_a_newer_store_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "calls.json"
    path.write_text('{"meta":{"1":{"schema":99}}}')
    with pytest.raises(StoreError, match="has schema 99, this version reads 1"):
        CallStore(path, "s")
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".json"] == ["calls.json"]


def test_a_card_that_vanishes_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "card" / "calls.json"
    store = CallStore(path, "s")
    store.commit(call(1), [told(1)])
    path.parent.rename(tmp_path / "away")
    (tmp_path / "card").write_text("in the way")
    with pytest.raises(StoreError):
        store.commit(call(2), [told(2)])
    (tmp_path / "card").unlink()
    store.commit(call(2), [told(2)])
    store.close()
    assert [c["call_id"] for c in read_table(path, "calls")] == ["id-1", "id-2"]
    assert [e["sequence"] for e in read_table(path, "outbox")] == [1, 2]


def test_a_refused_change_leaves_the_call_as_it_was(tmp_path: Path, mocker: MockerFixture) -> None:
    store = CallStore(tmp_path / "calls.json", "s")
    store.commit(call(1), [told(1)])
    full = mocker.patch("os.fsync", side_effect=OSError(28, "No space left on device"))
    with pytest.raises(StoreError):
        store.commit(call(1, outcome="missed"), [told(1)])
    assert store.get("id-1") == call(1)
    mocker.stop(full)
    store.mark("call", 1, "accepted")
    store.close()
    assert [c["outcome"] for c in read_table(tmp_path / "calls.json", "calls")] == [None]


def test_readers_have_a_sentence_before_the_first_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store here yet"):
        read_table(tmp_path / "none.json", "calls")


def test_what_a_crash_left_open_is_found(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "calls.json", "s")
    store.commit(call(1), [])
    store.commit(call(2, outcome="missed", no_recording="not_answered"), [])
    store.commit(call(3, outcome="answered", no_recording="not_closed_yet"), [])
    assert [c.call_id for c in store.left_open()] == ["id-1", "id-3"]
    store.close()


CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.test_store import call, told
from firmware.records.store import CallStore
store = CallStore(Path(sys.argv[1]), "s")
for n in range(1, 10_000):
    store.commit(call(n), [told(n)])
    print(n, flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "calls.json"
    for wanted in (1, 7, 23):
        path.unlink(missing_ok=True)
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(wanted):
            said = int(child.stdout.readline())
        child.kill()
        said = max([said, *(int(line) for line in child.stdout)])
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        data = json.loads(path.read_text())
        assert said <= len(data["calls"]) == len(data["outbox"]) <= said + 1
