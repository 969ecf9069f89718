"""All calls as they are searched: SQLite in memory, never on the disk, so that what is erased leaves no trace here."""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from firmware.core.contacts import Contact
from firmware.records.database import give_back
from firmware.records.store import CallReader

_TABLES = """
CREATE TABLE calls (
    id INTEGER PRIMARY KEY, opened TEXT, direction TEXT, outcome TEXT, line INTEGER, length REAL, recorded INTEGER,
    number TEXT, digits TEXT, name TEXT, said TEXT, tags TEXT, taken TEXT
) STRICT;
CREATE INDEX calls_opened ON calls (opened);
CREATE INDEX calls_number ON calls (number);
CREATE TABLE contacts (
    id INTEGER PRIMARY KEY, number TEXT, contact_id TEXT, sorted TEXT, said TEXT, flags TEXT
) STRICT;
CREATE INDEX contacts_number ON contacts (number);
CREATE INDEX contacts_sorted ON contacts (sorted);
"""
_KATAKANA = {code: code - 0x60 for code in range(ord("ァ"), ord("ヶ") + 1)}  # as hiragana
_AT_ONCE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is looked for; what is None or empty does not matter. since, until: UTC; length in seconds.

    text: a part of a number, of a name or its reading, of a note or a tag. flag: of the contact.
    """

    text: str = ""
    kind: str = ""
    direction: str = ""
    line: int | None = None
    since: str | None = None
    until: str | None = None
    shortest_s: float | None = None
    longest_s: float | None = None
    tag: str = ""
    taken_by: str = ""
    flag: str = ""
    number: str | None = None  # E.164, the whole of it


class CallIndex:
    """Of one store. Thread: one at a time."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.executescript(_TABLES)
        self._filled = False

    def take_in(self, reader: CallReader, changed: set[tuple[str, int]] | None) -> None:
        """Follow the store. changed: of CallReader.follow(); None: everything may have changed."""
        if changed is None or any(table == "anchors" for table, _ in changed):
            self._filled = False
        try:
            if self._filled:
                self._follow(reader, changed or set())
                return
            self._db.close()
            self._begin()
            self._fill(reader)
        except BaseException:
            self._filled = False  # half of it is of no use
            raise

    def _follow(self, reader: CallReader, changed: set[tuple[str, int]]) -> None:
        for number in {number for table, number in changed if table in ("calls", "remarks")}:
            call = reader.call(number)
            self._db.execute("DELETE FROM calls WHERE id = ?", (number,))
            if call is not None:
                self._put([_row(number, call, reader.remarks(call["call_id"]))])
        for number in {number for table, number in changed if table == "contacts"}:
            contact = reader.contact_numbered(number)
            self._db.execute("DELETE FROM contacts WHERE id = ?", (number,))
            if contact is not None:
                self._put_contacts([(number, contact)])

    def _fill(self, reader: CallReader) -> None:
        remarks = dict(reader.remarks_by_number())
        rows: list[tuple[Any, ...]] = []
        for number, call in reader.numbered():
            rows.append(_row(number, call, remarks.get(number, {})))
            if len(rows) == _AT_ONCE:
                self._put(rows)
                rows = []
        self._put(rows)
        self._put_contacts(reader.numbered_contacts())
        self._filled = True
        give_back()

    def _put(self, rows: list[tuple[Any, ...]]) -> None:
        self._db.executemany("INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _put_contacts(self, contacts: Iterable[tuple[int, Contact]]) -> None:
        rows = (
            (
                number,
                each.number,
                each.contact_id,
                fold(each.reading or each.name),
                fold(" ".join(filter(None, (each.name, each.reading, each.note)))),
                ",".join(each.flags),
            )
            for number, each in contacts
        )
        self._db.executemany("INSERT INTO contacts VALUES (?, ?, ?, ?, ?, ?)", rows)

    def find(self, wanted: Wanted, start: int, count: int) -> list[int]:
        """The numbers of so many calls from the start-th on that fit, the last first (CallReader.call())."""
        where, values = _where(wanted)
        query = f"SELECT id FROM calls {where} ORDER BY opened DESC, id DESC LIMIT ? OFFSET ?"  # no value stands in it
        return [row[0] for row in self._db.execute(query, (*values, count, start))]

    def count(self, wanted: Wanted) -> int:
        where, values = _where(wanted)
        return int(self._db.execute(f"SELECT count(*) FROM calls {where}", values).fetchone()[0])

    def tags(self) -> list[str]:
        """All that are in use, the commonest first."""
        counts: dict[str, int] = {}
        for (tags,) in self._db.execute("SELECT tags FROM calls WHERE tags != ''"):
            for tag in tags.strip("\n").split("\n"):
                counts[tag] = counts.get(tag, 0) + 1
        return sorted(counts, key=lambda tag: (-counts[tag], tag))

    def contacts(self, text: str, count: int) -> tuple[list[str], int]:
        """The ids of so many contacts that fit a part of a number or of what is known of them, in the order of their
        readings; and how many there are.
        """
        where, values = "", []
        if folded := fold(text):
            digits = "".join(c for c in text if c.isdigit()) or "-"
            where = "WHERE instr(said, ?) OR instr(number, ?) OR instr(replace(number, '+81', '0'), ?)"
            values = [folded, digits, digits]
        query = f"SELECT contact_id FROM contacts {where} GROUP BY contact_id ORDER BY min(sorted), contact_id LIMIT ?"
        ids = [row[0] for row in self._db.execute(query, (*values, count))]
        total = self._db.execute(f"SELECT count(DISTINCT contact_id) FROM contacts {where}", values).fetchone()
        return ids, int(total[0])


def _where(wanted: Wanted) -> tuple[str, list[Any]]:
    terms: list[str] = []
    values: list[Any] = []

    def add(term: str, *given: Any) -> None:
        terms.append(term)
        values.extend(given)

    if text := fold(wanted.text):
        digits = "".join(c for c in text if c.isdigit())
        if digits and not text.strip("0123456789-+() "):
            add("instr(digits, ?)", digits)
        else:
            add(
                "(instr(name, ?) OR instr(said, ?) OR number IN (SELECT number FROM contacts WHERE instr(said, ?)))",
                *(text,) * 3,
            )
    for column, value in (("outcome", wanted.kind), ("direction", wanted.direction), ("line", wanted.line)):
        if value:
            add(f"{column} = ?", value)
    if wanted.number:
        add("number = ?", wanted.number)
    for column, sign, bound in (
        ("opened", ">=", wanted.since),
        ("opened", "<", wanted.until),
        ("length", ">=", wanted.shortest_s),
        ("length", "<=", wanted.longest_s),
    ):
        if bound is not None:
            add(f"{column} {sign} ?", bound)
    if wanted.tag:
        add("instr(tags, ?)", f"\n{wanted.tag}\n")
    if wanted.taken_by:
        add("taken = ?", wanted.taken_by)
    if wanted.flag:
        add("number IN (SELECT number FROM contacts WHERE instr(',' || flags || ',', ?))", f",{wanted.flag},")
    return f"WHERE {' AND '.join(terms)}" if terms else "", values


def _row(number: int, call: Mapping[str, Any], remarks: Mapping[str, Any]) -> tuple[Any, ...]:
    notes = [note["text"] for note in remarks.get("notes", ())]
    tags = remarks.get("tags") or []
    follow = remarks.get("follow_up") or {}
    said = [*notes, *tags, *(follow.get(key) for key in ("reaction", "next", "who"))]
    recording = call["recording"]
    return (
        number,
        call["opened"],
        call["direction"],
        call["outcome"],
        call["line"],
        call["duration_s"],
        int(bool(recording and not recording.get("deleted"))),
        number_of(call),
        _digits_of(call),
        fold(call["caller"]["name"] or ""),
        fold("\n".join(filter(None, said))),
        f"\n{chr(10).join(tags)}\n" if tags else "",
        remarks.get("taken_by"),
    )


def number_of(call: Mapping[str, Any]) -> str | None:
    """Of the other side, as E.164."""
    who = (call["dialled"] or {}) if call["direction"] == "outgoing" else call["caller"]
    number: str | None = who.get("number")
    return number


def _digits_of(call: Mapping[str, Any]) -> str:
    """Every spelling of who was at the other end, digits alone."""
    caller, dialled = call["caller"], call["dialled"] or {}
    told = (caller["raw"], caller["number"], caller["national"], dialled.get("digits"), dialled.get("number"))
    return " ".join(sorted({"".join(c for c in each if c.isdigit()) for each in told if each}))


def fold(text: str) -> str:
    """As it is compared: width, case and the kind of kana do not matter."""
    return unicodedata.normalize("NFKC", text).casefold().translate(_KATAKANA).strip()


def newest(reader: CallReader, numbers: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The calls of these numbers; one that was erased meanwhile is passed over."""
    for number in numbers:
        if (call := reader.call(number)) is not None:
            yield number, call
