"""Contacts as CSV: what Excel writes is read, what is written Excel reads, and both give the same again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.core.contact_list import Coding, ListError, many, read, written
from firmware.core.contacts import Contact
from tests.test_contacts import SATO, YAMADA


def again(contacts: list[Contact], coding: Coding) -> list[tuple[str, str, str | None, str | None, tuple[str, ...]]]:
    found = read(written(contacts, coding))
    return [(each["number"], each["name"], each["reading"], each["note"], tuple(each["flags"])) for each in found]


@pytest.mark.parametrize("coding", ["utf-8", "shift_jis"])
def test_there_and_back(coding: Coding) -> None:
    told = replace(YAMADA, note="配達は午前\n裏口から", flags=("do_not_record", "nuisance", "vip"))
    assert again([told, SATO], coding) == [
        ("0300001234", told.name, told.reading, told.note, ("vip", "nuisance", "do_not_record")),
        ("0300005678", SATO.name, SATO.reading, None, ()),
    ]


def test_what_excel_of_a_japanese_windows_writes_is_told_apart() -> None:
    text = "電話番号,氏名,フリガナ,備考,担当\r\n03-0000-1234,髙橋①,タカハシ,〜,誰か\r\n,,,,\r\n"
    for data in (text.encode("cp932"), text.encode("utf-8-sig"), text.encode()):
        (found,) = read(data)
        assert (found["number"], found["name"], found["reading"], found["line"]) == (
            "0300001234",
            "髙橋①",
            "タカハシ",
            2,
        )
        assert found["note"] in ("〜", "～") and found["flags"] == []


def test_other_names_of_columns_and_full_width_numbers() -> None:
    (found,) = read("Name,TEL,vip\nSato,０３−００００−５６７８,yes\n".encode())
    assert found["number"] == "0300005678" and found["flags"] == ["vip"] and "note" not in found


def test_no_cell_is_computed_by_whoever_opens_it() -> None:
    odd = replace(YAMADA, number="+819099999999999", name="=HYPERLINK(1)", reading="@x", note="'quoted")
    text = written([odd], "utf-8").decode("utf-8-sig")
    assert "'=HYPERLINK" in text and "'@x" in text and "'+8190" in text
    assert again([odd], "utf-8")[0][:4] == ("+819099999999999", "=HYPERLINK(1)", "@x", "'quoted")


@pytest.mark.parametrize(
    ("data", "key", "at"),
    [
        (b"", "columns", 1),
        ("名前\nx\n".encode(), "columns", 1),
        (b"number,name\n1,a\n2,\x81\xff\xfe\n", "coding", 3),
        (b"number,name\n" + b"1,a\n" * 20_001, "long", 20_002),
    ],
)
def test_a_file_that_is_of_no_use_says_where(data: bytes, key: str, at: int) -> None:
    with pytest.raises(ListError) as wrong:
        read(data)
    assert (wrong.value.key, wrong.value.at) == (key, at)


def test_what_shift_jis_cannot_write_is_named() -> None:
    with pytest.raises(ListError) as wrong:
        written([replace(YAMADA, name="𠮷野家")], "shift_jis")
    assert (wrong.value.key, wrong.value.what) == ("characters", "𠮷")


@given(st.binary(max_size=300))
def test_any_file_is_read_or_refused(data: bytes) -> None:
    try:
        found = read(data)
    except ListError:
        return
    assert sum(len(part) for part in many(found)) == len(found)
