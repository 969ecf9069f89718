"""tsuroku store, beside a running unit and without one: checked, found, held, erased, copied and put back."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_mock import MockerFixture
from tinydb import TinyDB

from drivers.virtual import scenario as story
from firmware.app import STORE, Unit
from firmware.cli.main import main
from firmware.core.contacts import Contact
from firmware.core.outbox import Sink
from firmware.local_api import LocalError, ask
from firmware.records.store import CallReader, CallStore
from firmware.simulate import stepped, virtual_settings
from hw import board

DAY = """title T
number display
0.5    call from 03-0000-1234
+8     lift
+5     hang up
+12    call from 090-0000-5678
+9     give up
+12    lift
+1.2   dial 03-0000-1234
+6     hang up
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What a unit left after three calls, two of them with 03-0000-1234."""
    stepped(story.parse(DAY, tmp_path / "day.txt"), tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def running(data: Path) -> Iterator[Unit]:
    """A unit on that folder, its loop answering."""
    scenario = story.parse("title T\n1.0 lift\n9.0 hang up\n", data.parent / "t.txt")
    unit = Unit(virtual_settings(scenario, data), board.load("line-tap-1"), live=False)
    unit.local.start()
    done = threading.Event()

    def loop() -> None:
        while not done.wait(0.01):
            unit.local.answer_all(unit.store.obey)

    thread = threading.Thread(target=loop)
    thread.start()
    yield unit
    done.set()
    thread.join()
    unit.close()


def run(capsys: pytest.CaptureFixture[str], data: Path, *argv: str) -> tuple[int, str]:
    code = main(["store", argv[0], "--data", str(data), *argv[1:]])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def ids(data: Path) -> list[str]:
    reader = CallReader(data / STORE)
    try:
        return [call["call_id"] for call in reader.calls()]
    finally:
        reader.close()


def everything(data: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file())


def test_a_whole_store_verifies_and_is_signed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(capsys, data, "verify")
    assert code == 0 and "lines follow one another" in said and "signatures are good" in said
    code, said = run(capsys, data, "verify", "--json")
    verdict = json.loads(said)
    assert verdict["good"] and verdict["signatures"] >= 4 and verdict["problems"] == []
    assert run(capsys, data, "doctor")[0] == 0


def test_a_changed_line_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segment = data / STORE / "00000001.0.log"
    text = segment.read_bytes()
    segment.write_bytes(text.replace(b'"outcome":"missed"', b'"outcome":"answer"', 1))
    code, said = run(capsys, data, "verify")
    assert code == 1 and "00000001.0.log at byte" in said and "can no longer be read" in said
    code, said = run(capsys, data, "doctor")
    assert code == 1 and "put the segment back from a backup" in said


def test_a_chain_that_was_written_anew_fails_against_the_key_known_from_elsewhere(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stepped(story.parse(DAY, tmp_path / "day.txt"), tmp_path / "other")  # the same calls, another unit's key
    key = json.loads(run(capsys, data, "verify", "--json")[1])["public_key"]
    assert run(capsys, data, "verify", "--key", key)[0] == 0
    code, said = run(capsys, tmp_path / "other", "verify", "--key", key)
    assert code == 1 and "is signed with another key" in said


def test_a_key_that_was_lost_is_told_and_is_no_fault(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = json.loads(run(capsys, data, "verify", "--json")[1])["public_key"]
    (data / "unit-key.pem").unlink()
    code, said = run(capsys, data, "verify")
    assert code == 0 and "another key" not in said
    Unit(virtual_settings(story.parse("title T\n", data.parent / "t.txt"), data), board.load("line-tap-1")).close()
    code, said = run(capsys, data, "verify")
    assert code == 0 and "earlier lines were signed with another key" in said
    assert run(capsys, data, "doctor")[0] == 0
    code, said = run(capsys, data, "verify", "--key", key)
    assert code == 1 and said.count("is signed with another key") == 1
    code, said = run(capsys, data, "verify", "--key", "x")
    assert code == 2 and "--key 'x' is no public key" in said


@pytest.mark.parametrize("text", [b"garbage", b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_unit_whose_key_is_of_no_use_keeps_calls_and_says_so(
    data: Path, capsys: pytest.CaptureFixture[str], text: bytes
) -> None:
    (data / "unit-key.pem").write_bytes(text)
    unit = Unit(virtual_settings(story.parse("title T\n", data.parent / "t.txt"), data), board.load("line-tap-1"))
    assert unit.store.public_key is None and unit._faults == ["store/1"]
    assert unit.store.wrong and "unit-key.pem: holds no Ed25519 key; put the unit's own back" in unit.store.wrong
    unit.close()
    assert run(capsys, data, "hold", ids(data)[0], "--reason", "r")[0] == 0
    assert (data / "unit-key.pem").read_bytes() == text


def test_stock_tinydb_opens_an_export(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "all.json"
    assert run(capsys, data, "export", "--json", str(out))[0] == 0
    assert out.stat().st_mode & 0o777 == 0o600
    with TinyDB(out) as stock:
        assert [call["call_id"] for call in stock.table("calls")] == ids(data)
        assert len(stock.table("events.call")) > 5
    code, said = run(capsys, data, "export", "--json", str(out))
    assert code == 2 and "all.json: cannot be used (File exists)" in said


def test_find_shows_both_ways_of_a_call(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(capsys, data, "find", "03-0000-1234", "--json")
    assert code == 0 and [json.loads(line)["direction"] for line in said.splitlines()] == ["incoming", "outgoing"]
    assert run(capsys, data, "find", "+81300001234", "--json")[1] == said
    code, said = run(capsys, data, "find", "x")
    assert code == 2 and "is no telephone number" in said


def test_disclosure_copies_records_and_recordings(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, data, "find", "0300001234", "--out", str(tmp_path / "out"))[0] == 0
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".flac", ".flac", ".json", ".json"]


def test_erased_is_nowhere_any_more(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (incoming, missed, outgoing) = ids(data)
    code, said = run(capsys, data, "erase", "0300001234", "--yes")
    assert code == 0 and "2 calls are erased" in said
    assert ids(data) == [missed]
    left = everything(data)
    assert b"0300001234" not in left and b"+81300001234" not in left and b"09000005678" in left
    assert not list((data / "recordings").rglob(f"{incoming}*"))
    code, said = run(capsys, data, "verify", "--json")
    assert code == 0 and json.loads(said)["erased"] > 0
    assert outgoing not in said


def test_what_an_erasure_beside_the_unit_left_goes_when_it_is_done_again(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (incoming, missed, outgoing) = ids(data)
    unit = Unit(virtual_settings(story.parse("title T\n", data.parent / "t.txt"), data), board.load("line-tap-1"))
    unit.store.remove([incoming, outgoing], "asked for", "staff")  # what erase does there; then it was cut short
    code, said = run(capsys, data, "erase", "0300001234")
    assert code == 1 and "stop the unit and erase again" in said
    unit.close()
    code, said = run(capsys, data, "erase", "03-0000-1234")
    assert code == 0 and "00000001.jsonl: told of the number, and is removed." in said
    left = everything(data)
    assert b"0300001234" not in left and b"0300001234".hex().encode() not in left
    assert ids(data) == [missed] and not list((data / "recordings").rglob("*.flac"))
    assert run(capsys, data, "verify")[0] == 0
    assert run(capsys, data, "erase", "0300001234") == (0, "No call of that number is kept.\n")


def test_the_journal_of_an_erased_call_goes_where_the_number_stands_key_by_key(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dialled = ids(data)[2]
    unit = Unit(virtual_settings(story.parse("title T\n", data.parent / "t.txt"), data), board.load("line-tap-1"))
    assert unit.store.remove([dialled], "asked for", "staff") == []
    unit.close()
    keyed, other = data / "journal" / "00000001.jsonl", data / "journal" / "00000002.jsonl"
    keyed.write_text("\n".join(line for line in keyed.read_text().splitlines() if "CallerId" not in line))
    assert b"0300001234" not in keyed.read_bytes()
    run(capsys, data, "erase", "0300001234", "--yes")
    assert not keyed.exists() and other.exists()


def test_a_number_in_a_line_that_has_rotted_is_told(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segment = data / STORE / "00000001.0.log"
    before = segment.read_bytes()
    segment.write_bytes(before.replace(b'"raw":"09000005678"', b'"raw";"09000005678"'))  # in all that tells of it
    code, said = run(capsys, data, "erase", "09000005678", "--yes")
    assert code == 1 and "00000001.0.log: holds the number still, in a line that has rotted" in said
    segment.write_bytes(before)
    assert run(capsys, data, "erase", "09000005678", "--yes")[0] == 0
    assert b"09000005678" not in everything(data)


@pytest.mark.parametrize("number", ["000", "0000", "12345", "30000123"])
def test_a_part_of_a_number_is_not_that_number(data: Path, capsys: pytest.CaptureFixture[str], number: str) -> None:
    assert run(capsys, data, "find", number) == (0, "No call of that number is kept.\n")
    assert run(capsys, data, "erase", number, "--yes") == (0, "No call of that number is kept.\n")
    assert len(ids(data)) == 3 and (data / "journal" / "00000001.jsonl").exists()


def test_full_width_digits_are_digits(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, data, "find", "０３−００００−１２３４", "--json")[1]
    assert len(said.splitlines()) == 2 and run(capsys, data, "find", "+81 3 0000 1234", "--json")[1] == said


def test_a_recording_that_is_gone_keeps_no_other_from_being_disclosed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next((data / "recordings").rglob(f"{ids(data)[0]}.flac")).unlink()
    code, said = run(capsys, data, "find", "0300001234", "--out", str(tmp_path / "out"))
    assert code == 1 and "is not there any more" in said
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".flac", ".json", ".json"]


def test_a_command_without_the_unit_takes_no_event_from_a_sink(
    data: Path, capsys: pytest.CaptureFixture[str], mocker: MockerFixture
) -> None:
    mocker.patch("firmware.records.store._ALWAYS_KEPT", 0)
    store = CallStore(data / STORE, "s", sinks=(Sink(name="main"),))
    for entry in store.pending(100):
        store.mark(entry.stream, entry.sequence, "accepted")
    store.storage._written = False
    store._write([])  # the cursors, and none of the events that another sink has not got
    store.storage.close()
    held = ids(data)[0]
    assert run(capsys, data, "hold", held, "--reason", "r")[0] == 0
    store = CallStore(data / STORE, "s", sinks=(Sink(name="crm"),))
    assert [entry.sequence for entry in store.pending(3, "crm")] == [1, 2, 3]
    store.close()


def test_root_writes_nothing_that_the_unit_could_not_read(
    data: Path, capsys: pytest.CaptureFixture[str], mocker: MockerFixture
) -> None:
    mocker.patch("os.geteuid", return_value=data.stat().st_uid + 1)
    code, said = run(capsys, data, "hold", ids(data)[0], "--reason", "r")
    assert code == 2 and "is another user's; run this as the user tsuroku" in said


def test_an_erasure_wants_a_yes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(capsys, data, "erase", "0300001234")
    assert code == 2 and "nothing was erased" in said
    assert len(ids(data)) == 3


def test_a_held_call_stays_and_says_so(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held, _, gone = ids(data)
    assert run(capsys, data, "hold", held[-8:], "--reason", "the court asks")[0] == 0
    code, said = run(capsys, data, "erase", "0300001234", "--yes")
    assert code == 1 and f"{held}: stays, since it is held" in said
    assert held in ids(data) and gone not in ids(data)
    assert run(capsys, data, "release", held[-8:])[0] == 0
    assert run(capsys, data, "erase", "0300001234", "--yes")[0] == 0
    assert held not in ids(data)
    code, said = run(capsys, data, "release", ids(data)[0])
    assert code == 2 and "is not there, or not held" in said


def test_the_running_unit_does_it(running: Unit, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held, _, gone = ids(data)
    assert run(capsys, data, "hold", held, "--reason", "the court asks")[0] == 0
    code, said = run(capsys, data, "erase", "0300001234", "--yes")
    assert code == 1 and "stays, since it is held" in said and "stop the unit and erase again" in said
    assert gone not in ids(data) and held in ids(data)
    assert running.store.holds()[held]["reason"] == "the court asks"
    while any(not doc["purged"] for doc in running.store.storage.read()["tombstones"].values()):  # type: ignore[index]
        running.store.upkeep()
    log = (data / STORE / "00000001.1.log").read_text()
    assert f'"{held}","line"' in log and f'"{gone}","line"' not in log


def test_a_unit_that_does_not_answer_is_a_sentence(data: Path) -> None:
    with pytest.raises(LocalError, match=r"The running unit cannot be asked \(No such file or directory\)"):
        ask(data, {"do": "hold"})


def test_an_unknown_request_is_answered(running: Unit, data: Path) -> None:
    with pytest.raises(LocalError, match="knows no request 'fly'"):
        ask(data, {"do": "fly"})
    assert (data / "unit.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "erase", "call_ids": [1, {}, None], "reason": "r", "who": "w"},
        {"do": "erase", "call_ids": "x", "reason": "r", "who": "w"},
        {"do": "hold", "call_id": 1, "reason": "r", "who": "w"},
        {"do": ["erase"]},
        {},
    ],
)
def test_a_request_of_the_wrong_form_is_refused_and_the_unit_goes_on(
    running: Unit, data: Path, request_: dict[str, object]
) -> None:
    with pytest.raises(LocalError, match="knows no request"):
        ask(data, request_)
    assert ask(data, {"do": "erase", "call_ids": [], "reason": "r", "who": "w"}) == {"kept": []}


def test_who_sends_garbage_or_half_a_line_stops_nobody_else(running: Unit, data: Path) -> None:
    """One who sends a byte now and then is sent away too."""
    slow, done = socket.socket(socket.AF_UNIX), threading.Event()
    for garbage in (b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"1" * (2 << 20), b"null\n", b""):
        with socket.socket(socket.AF_UNIX) as hostile:
            hostile.connect(str(data / "unit.sock"))
            with contextlib.suppress(OSError):
                hostile.sendall(garbage)
    slow.connect(str(data / "unit.sock"))

    def drip() -> None:
        with contextlib.suppress(OSError):
            while not done.wait(0.3):
                slow.sendall(b" ")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        began = time.monotonic()
        assert ask(data, {"do": "erase", "call_ids": [], "reason": "r", "who": "w"}) == {"kept": []}
        assert time.monotonic() - began < 5
    finally:
        done.set()
        dripping.join()
        slow.close()


def test_backup_beside_a_running_unit_and_restore(
    running: Unit, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "usb"
    code, said = run(capsys, data, "backup", str(target))
    assert code == 0 and "3 recordings" not in said and "recordings copied" in said
    assert "0 recordings copied" in run(capsys, data, "backup", str(target))[1]  # nothing new
    new = tmp_path / "new"
    code, said = run(capsys, new, "restore", str(target))
    assert code == 0
    assert ids(new) == ids(data)
    assert running.store.store_id not in said
    assert run(capsys, new, "verify")[0] == 0
    code, said = run(capsys, new, "restore", str(target))
    assert code == 2 and "holds a store" in said
    code, said = run(capsys, new, "backup", str(target))
    assert code == 2 and "holds a backup of another store" in said
    assert run(capsys, tmp_path / "empty", "restore", str(tmp_path))[0] == 2


def test_a_backup_is_for_its_owner_and_forgets_what_was_erased(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "usb"
    assert run(capsys, data, "backup", str(target))[0] == 0
    files = [path for path in target.rglob("*") if path.is_file()]
    assert len(files) >= 3 and all(path.stat().st_mode & 0o077 == 0 for path in files)
    assert run(capsys, data, "erase", "0300001234", "--yes")[0] == 0
    assert run(capsys, data, "backup", str(target))[0] == 0
    assert b"0300001234" not in everything(target) and not list(target.rglob("*.flac"))


@pytest.mark.parametrize("damage", ["empty", "flipped"])
def test_a_damaged_store_takes_no_good_backup_away(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    target = tmp_path / "usb"
    assert run(capsys, data, "backup", str(target))[0] == 0
    before = everything(target)
    segment = data / STORE / "00000001.0.log"
    text = segment.read_bytes()
    segment.write_bytes(bytes(len(text)) if damage == "empty" else text.replace(b'"missed"', b'"mixxed"', 1))
    code, said = run(capsys, data, "backup", str(target))
    assert code != 0 and len(said.splitlines()) == 1
    assert everything(target) == before
    assert run(capsys, tmp_path / "new", "restore", str(target))[0] == 0
    assert len(ids(tmp_path / "new")) == 3


def test_a_restore_that_was_cut_short_is_done_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mocker: MockerFixture
) -> None:
    target, new = tmp_path / "usb", tmp_path / "new"
    assert run(capsys, data, "backup", str(target))[0] == 0
    broken = mocker.patch("shutil.copyfileobj", side_effect=OSError(28, "No space left on device"))
    code, said = run(capsys, new, "restore", str(target))
    assert code == 2 and "(No space left on device)" in said
    mocker.stop(broken)
    assert run(capsys, new, "restore", str(target))[0] == 0
    assert len(list(new.rglob("*.flac"))) == len(list(data.rglob("*.flac"))) > 0
    assert not list(new.rglob("*.part"))


def test_a_restore_leaves_an_old_store_alone(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, data, "backup", str(tmp_path / "usb"))[0] == 0
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "calls.json").write_text("{}")
    code, said = run(capsys, tmp_path / "new", "restore", str(tmp_path / "usb"))
    assert code == 2 and "calls.json: holds a store; move it away first." in said


def test_half_an_export_is_not_left(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mocker: MockerFixture
) -> None:
    mocker.patch("firmware.records.upkeep.json.dumps", side_effect=OSError(28, "No space left on device"))
    code, said = run(capsys, data, "export", "--json", str(tmp_path / "all.json"))
    assert code == 2 and "(No space left on device)" in said and not (tmp_path / "all.json").exists()


def test_no_store_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("verify", "doctor"):
        code, said = run(capsys, tmp_path, action)
        assert code == 2 and "there is no store here yet" in said


def test_a_contact_is_disclosed_and_erased_with_its_number(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    owner = CallStore(data / STORE, "s", keep_days=None)
    told = {"by": "crm", "updated": "2026-11-26T00:00:00.000Z"}
    for number, name in (("+81300001234", "山田商店"), ("+81312345678", "佐藤")):
        one = Contact(contact_id=f"c-{number[-4:]}", number=number, name=name, flags=("vip",), **told)
        owner.put_contacts([one])
    owner.close()
    assert "Known as 山田商店, vip; told by crm on 2026-11-26." in run(capsys, data, "find", "03-0000-1234")[1]
    assert run(capsys, data, "find", "0312345678")[1] == "Known as 佐藤, vip; told by crm on 2026-11-26.\n"
    found = json.loads(run(capsys, data, "find", "03-1234-5678", "--json")[1])
    assert found["contact"]["name"] == "佐藤"
    code, said = run(capsys, data, "erase", "03-0000-1234", "--yes")
    assert code == 0 and "2 calls are erased.\nWhat was known of the caller (contacts.put) is erased." in said
    assert "山田商店".encode() not in everything(data) and "佐藤".encode() in everything(data)
    code, said = run(capsys, data, "erase", "03-1234-5678", "--yes")
    assert (code, said) == (0, "What was known of the caller (contacts.put) is erased.\n")
    assert run(capsys, data, "find", "0312345678")[1] == "No call of that number is kept.\n"
    assert run(capsys, data, "verify")[0] == 0
