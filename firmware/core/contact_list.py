"""Contacts as a CSV file that Excel reads and writes, in UTF-8 or Shift_JIS. Pure."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from firmware.core.contacts import Contact
from firmware.core.numbers import national

Coding = Literal["utf-8", "shift_jis"]
_CODECS = {"utf-8": "utf-8-sig", "shift_jis": "cp932"}  # as Excel of a Japanese Windows names them
_FLAGS = ("vip", "nuisance", "do_not_record")
_HEAD = ("電話番号", "名前", "ふりがな", "メモ", "VIP", "迷惑", "録音しない")
_KNOWN = {
    "number": ("電話番号", "番号", "電話", "number", "phone", "tel"),
    "name": ("名前", "氏名", "会社名", "name"),
    "reading": ("ふりがな", "フリガナ", "読み", "よみ", "reading"),
    "note": ("メモ", "備考", "note", "memo"),
    "vip": ("vip",),
    "nuisance": ("迷惑", "迷惑電話", "nuisance"),
    "do_not_record": ("録音しない", "do_not_record"),
}
_YES = {"1", "○", "〇", "◯", "はい", "yes", "true", "x", "✓"}
_FORMULA = ("=", "+", "-", "@", "\t")  # a cell that begins so, Excel computes
MOST = 20_000


class ListError(ValueError):
    """The file is of no use. key: what of it; at: the line; what: a character or a column that is meant."""

    def __init__(self, key: Literal["coding", "columns", "long", "characters"], at: int = 0, what: str = "") -> None:
        super().__init__(f"{key} {at} {what}")
        self.key, self.at, self.what = key, at, what


def written(contacts: Iterable[Contact], coding: Coding) -> bytes:
    """A file of contacts, one number a line. Raises ListError for a character that Shift_JIS does not have."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_HEAD)
    for each in contacts:
        cells = national(each.number) or each.number, each.name, each.reading or "", each.note or ""
        flags = ["1" if flag in each.flags else "" for flag in _FLAGS]
        writer.writerow([*(f"'{cell}" if cell.startswith((*_FORMULA, "'")) else cell for cell in cells), *flags])
    try:
        return text.getvalue().encode(_CODECS[coding])
    except UnicodeEncodeError as error:
        raise ListError("characters", what=error.object[error.start]) from error


def read(data: bytes) -> list[dict[str, Any]]:
    """What a file says, as contacts.put wants it, line by line; `line` is where it stands. Raises ListError.

    The names of the columns say what stands in them, in Japanese or English; others are passed over.
    """
    lines = csv.reader(io.StringIO(_decoded(data), newline=""))
    try:
        head = next(lines, [])
        places = {name: place for name, place in ((_meant(cell), n) for n, cell in enumerate(head)) if name}
        if not {"number", "name"} <= places.keys():
            raise ListError(
                "columns", 1, "、".join(_KNOWN[name][0] for name in ("number", "name") if name not in places)
            )
        found: list[dict[str, Any]] = []
        for cells in lines:
            told = {name: _plain(cells[place]) for name, place in places.items() if place < len(cells)}
            if not any(told.values()):
                continue
            if len(found) >= MOST:
                raise ListError("long", lines.line_num, str(MOST))
            found.append({"line": lines.line_num, **_contact(told, places)})
    except csv.Error as error:
        raise ListError("columns", lines.line_num) from error
    return found


def _decoded(data: bytes) -> str:
    for codec in ("utf-8-sig", "cp932"):
        try:
            return data.decode(codec)
        except UnicodeDecodeError as error:
            at = error.start
    raise ListError("coding", data[:at].count(b"\n") + 1)


def _meant(cell: str) -> str | None:
    text = unicodedata.normalize("NFKC", cell).strip().casefold()
    return next((name for name, words in _KNOWN.items() if text in words), None)


def _plain(cell: str) -> str:
    cell = cell.strip()
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith((*_FORMULA, "'")) else cell


def _contact(told: dict[str, str], places: dict[str, int]) -> dict[str, Any]:
    number = unicodedata.normalize("NFKC", told.get("number", ""))
    contact: dict[str, Any] = {
        "number": "".join(c for c in number if c.isdigit() or c == "+"),
        "name": " ".join(told.get("name", "").split()),
        "reading": told.get("reading") or None,
        "flags": [flag for flag in _FLAGS if told.get(flag, "").casefold() in _YES],
    }
    if "note" in places:  # a list without notes takes none away
        contact["note"] = told.get("note") or None
    return contact


def many(given: Sequence[dict[str, Any]], size: int = 50) -> Iterable[list[dict[str, Any]]]:
    """In parts that the unit takes at once."""
    for at in range(0, len(given), size):
        yield [{key: value for key, value in each.items() if key != "line"} for each in given[at : at + size]]
