"""What people write down about a call: kept, changed, gone with the call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.core.remarks import NOTHING, RemarkError, changed
from firmware.records.log import lines
from firmware.records.store import CallReader, CallStore
from tests.test_contacts import CALL

AT = "2026-11-27T00:00:00.000Z"


def test_notes_are_added_and_the_rest_is_replaced() -> None:
    one = changed(NOTHING, {"note": "Wants two cakes\r\nby Saturday", "tags": ["order", "order", " cake "]}, "Sato", AT)
    assert one["notes"] == [{"at": AT, "by": "Sato", "text": "Wants two cakes\nby Saturday"}]
    assert one["tags"] == ["order", "cake"] and one["taken_by"] is None
    two = changed(one, {"note": "Called again", "taken_by": "Ito", "tags": []}, "Ito", AT)
    assert [note["by"] for note in two["notes"]] == ["Sato", "Ito"] and two["tags"] == [] and two["taken_by"] == "Ito"
    assert changed(two, {"taken_by": None}, "Ito", AT)["taken_by"] is None and NOTHING["notes"] == []


def test_a_follow_up_is_there_until_nothing_is_in_it() -> None:
    given_ = {"next": "call back", "who": "Ito", "due": "2026-12-01"}
    told = changed(NOTHING, {"follow_up": given_}, "Sato", AT)["follow_up"]
    assert told == {"reaction": None, "next": "call back", "who": "Ito", "due": "2026-12-01", "done": False}
    assert changed(NOTHING, {"follow_up": {"next": " ", "done": True}}, "Sato", AT)["follow_up"] is None
    assert changed({"follow_up": told}, {"follow_up": None}, "Sato", AT)["follow_up"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"note": ""},
        {"note": None},
        {"note": "x" * 4001},
        {"note": 1},
        {"tags": "order"},
        {"tags": [str(n) for n in range(21)]},
        {"tags": ["x" * 41]},
        {"taken_by": ["Ito"]},
        {"follow_up": {"due": "tomorrow"}},
        {"follow_up": {"due": "2026-02-30"}},
        {"follow_up": {"done": 1}},
        {"follow_up": {"color": "red"}},
        {"follow_up": "x"},
        {"color": "red"},
    ],
)
def test_what_is_wrong_is_a_sentence_and_changes_nothing(change: dict[str, Any]) -> None:
    with pytest.raises(RemarkError) as wrong:
        changed(NOTHING, change, "Sato", AT)
    assert str(wrong.value).endswith(".")


@given(st.text(max_size=60))
def test_whatever_is_typed_is_kept_as_one_can_print_it(text: str) -> None:
    try:
        kept = changed(NOTHING, {"note": text}, "Sato", AT)["notes"][0]["text"]
    except RemarkError:
        assert not "".join(c for c in text if c.isprintable()).strip()
    else:
        assert kept and all(c == "\n" or c.isprintable() for c in kept)


def test_remarks_go_with_their_call_and_leave_no_trace_in_the_log(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "store", "s")
    ended = CALL.__class__.from_dict(
        CALL.to_dict() | {"outcome": "missed", "ended_ns": 1, "no_recording": "not_answered"}
    )
    store.commit(ended, [])
    store.remark(CALL.call_id, {"note": "says he knows the owner", "tags": ["odd"]}, "Sato")
    with pytest.raises(KeyError):
        store.remark("nobody", {"note": "x"}, "Sato")
    store.close()
    reader = CallReader(tmp_path / "store")
    assert reader.remarks(CALL.call_id)["tags"] == ["odd"] and reader.remarks("nobody") == NOTHING
    reader.close()
    store = CallStore(tmp_path / "store", "s")
    assert store.remove([CALL.call_id], "asked", "Sato") == []
    for _ in store.purge_steps():
        pass
    store.close()
    assert not any(b"knows the owner" in path.read_bytes() for path in (tmp_path / "store").glob("*.log"))
    assert sum(1 for path in (tmp_path / "store").glob("*.log") for _ in lines(path.read_bytes())) > 3
