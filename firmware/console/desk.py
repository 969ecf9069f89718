"""What the console knows and has done, for its pages and its API alike: the store is read, the unit is asked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from firmware.console.index import CallIndex, Wanted, newest, number_of
from firmware.core import contact_list
from firmware.core.contacts import Contact
from firmware.core.numbers import national
from firmware.core.remarks import RemarkError, changed
from firmware.local_api import LocalError, LocalRefused, ask
from firmware.records.store import CallReader, StoreError

_MADE = "made-"
_ROOM_BYTES = 300_000_000
_MOST_CONTACTS = 200  # on a page
_PATIENCE_S, _WAITS_S = 600.0, 60.0  # for a bundle; for others to be made
_ROOT = Path(__file__).parents[2]


_CHANGED = {
    "state": "wrong",
    "where": "sound",
    "en": "The recording's file is not any more what the unit recorded: its SHA-256 is another one.",
    "ja": "録音ファイルが、録音したときのものと違います（SHA-256の値が一致しません）。",
}


class DeskError(Exception):
    """Not done. key: of the sentence that says why (words.py); status: of HTTP."""

    def __init__(self, status: int, key: str, **detail: object) -> None:
        super().__init__(key)
        self.status, self.key, self.detail = status, key, detail


class Desk:
    """One unit's calls. Thread: any; the store is read by one at a time. Raises DeskError; StoreError."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._index = CallIndex()
        self._reader: CallReader | None = None
        self._lock = threading.Lock()
        for left in (data / "console").glob(f"{_MADE}*"):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._one_run = threading.Lock()  # of tsuroku: the recorder's machine is small

    @contextlib.contextmanager
    def reading(self) -> Iterator[CallReader]:
        """The store as it is now, and the index with it."""
        with self._lock:
            try:
                if self._reader is None:
                    self._reader, news = CallReader(self.data / "store"), None
                else:
                    news = self._reader.follow()
                self._index.take_in(self._reader, news)
            except StoreError:
                reader, self._reader = self._reader, None  # it is opened anew
                if reader:
                    reader.close()
                raise
            yield self._reader

    def ask(self, request: Mapping[str, Any], who: str) -> Mapping[str, Any]:
        """Have the unit do something."""
        try:
            return ask(self.data, {**request, "who": who})
        except LocalRefused as error:
            raise DeskError(409, "refused", why=str(error)) from error
        except LocalError as error:
            raise DeskError(503, "unit_away") from error

    def note(self, who: str, what: str, subject: str | None, **more: Any) -> None:
        """Write down who did it, in the store's own log, before it is done. Where nobody can, it is not done."""
        self.ask({"do": "note_access", "what": what, "call_id": subject, **more}, who)

    # -- calls

    def found(self, wanted: Wanted, start: int, count: int) -> list[dict[str, Any]]:
        with self.reading() as reader:
            calls = [call for _, call in newest(reader, self._index.find(wanted, start, count))]
            return [self._shown(reader, call) for call in calls]

    def tags(self) -> list[str]:
        with self.reading():
            return self._index.tags()

    @staticmethod
    def _shown(reader: CallReader, call: dict[str, Any]) -> dict[str, Any]:
        """A call with what people know of it."""
        number = number_of(call)
        contact = reader.contact(number) if number else None
        return {**call, "contact": contact and _told(contact), "remarks": reader.remarks(call["call_id"])}

    def call(self, call_id: str) -> dict[str, Any]:
        """All that is known of a call."""
        with self.reading() as reader:
            call = reader.get(call_id.lower()[:36])
            if call is None:
                raise DeskError(404, "not_found")
            shown = self._shown(reader, call.to_dict())
            shown["held"] = reader.holds().get(call.call_id)
            kept = reader.note("callbacks") or []
            shown["callback"] = next((each for each in kept if each["call_id"] == call.call_id), None)
            number = number_of(shown)
            ids = self._index.find(Wanted(number=number), 0, 8) if number else []
            shown["others"] = [
                self._shown(reader, other) for _, other in newest(reader, ids) if other["call_id"] != call.call_id
            ]
            shown["signed"] = self._signed(reader)
        return shown

    @staticmethod
    def _signed(reader: CallReader) -> dict[str, Any]:
        meta = reader.storage.doc("meta", 1) or {}
        stamps = reader.timestamps()
        return {"by": meta.get("public_key"), "timestamped": bool(stamps)}

    def sound(self, call: Mapping[str, Any]) -> Path | None:
        """Its recording. The path stands in the record alone: no part of it comes from a browser."""
        recording = call["recording"]
        path = self.data / recording["path"] if recording and not recording["deleted"] else None
        return path if path and path.exists() else None

    def today(self) -> dict[str, Any]:
        with self.reading() as reader:
            kept = reader.note("callbacks") or []
            waiting = []
            for each in kept:
                if call := reader.get(each["call_id"]):
                    waiting.append({**each, "call": self._shown(reader, call.to_dict())})
            midnight = datetime.now(UTC).astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
            today = Wanted(since=_utc(midnight))
            missed = self._index.find(Wanted(since=today.since, kind="missed"), 0, 500)
            nameless = sum(number_of(call) is None for _, call in newest(reader, missed))
            counts = {
                "calls": self._index.count(today),
                "missed": len(missed),
                "nameless": nameless,
            }
            last = [self._shown(reader, call) for _, call in newest(reader, self._index.find(Wanted(), 0, 10))]
            follow_ups = self._follow_ups(reader)[:20]
        soon = "9999"
        waiting.sort(key=lambda each: (each["due"] or soon, each["since"]))
        return {"waiting": waiting, "last": last, "counts": counts, "follow_ups": follow_ups}

    def _follow_ups(self, reader: CallReader) -> list[dict[str, Any]]:
        """Calls of which something is still to be done, the most urgent first."""
        found = []
        for number, remarks in reader.remarks_by_number():
            follow = remarks.get("follow_up")
            if follow and not follow["done"] and (call := reader.call(number)):
                found.append(self._shown(reader, call))
        return sorted(found, key=lambda call: (call["remarks"]["follow_up"]["due"] or "9999", call["opened"]))

    def ringing(self, number: str | None) -> dict[str, Any]:
        """What whoever lifts the handset should know of a caller."""
        if number is None:
            return {"contact": None, "last": [], "note": None}
        with self.reading() as reader:
            contact = reader.contact(number)
            ids = self._index.find(Wanted(number=number), 0, 6)
            calls = [self._shown(reader, call) for _, call in newest(reader, ids) if call["outcome"]][:3]
            notes = [note for call in calls for note in call["remarks"]["notes"]]
        note = max(notes, key=lambda each: each["at"], default=None)
        return {"contact": contact and _told(contact), "last": calls, "note": note and note["text"]}

    def remark(self, who: str, call_id: str, change: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises DeskError as core/remarks.py would refuse it, in both languages."""
        with self.reading() as reader:
            before = reader.remarks(call_id)
        try:
            changed(before, change, who, "")
        except RemarkError as error:
            raise DeskError(400, "remark_wrong", what=", ".join(sorted(change))) from error
        return self.ask({"do": "remark", "call_id": call_id, "change": change}, who)

    def hold(self, who: str, call_id: str, reason: str) -> None:
        self.ask({"do": "hold", "call_id": call_id, "reason": reason[:200]}, who)

    def release(self, who: str, call_id: str) -> None:
        if self.call(call_id)["held"] is None:
            return  # pressed twice
        self.ask({"do": "release", "call_id": call_id}, who)

    def delete(self, who: str, call_id: str) -> None:
        call = self.call(call_id)
        if call["held"] or call["outcome"] is None:
            raise DeskError(409, "is_held" if call["held"] else "not_ended")
        self.ask({"do": "delete_call", "call_id": call_id, "reason": "asked for in the console"}, who)

    def callback(self, who: str, call_id: str, due: str | None, for_: str | None) -> None:
        """Have the other side of a call called back; due: UTC."""
        if number_of(self.call(call_id)) is None:
            raise DeskError(409, "no_callback")
        self.ask({"do": "callback_put", "call_id": call_id, "due": due, "for": for_}, who)

    def callback_done(self, who: str, call_id: str) -> None:
        self.ask({"do": "callback_done", "call_id": call_id}, who)

    # -- proof

    @contextlib.contextmanager
    def bundle(self, call_ids: Collection[str], copy: str | None = None) -> Iterator[Path]:
        """A bundle of calls (`tsuroku export`), made by a process of its own: it needs what no page does."""
        with self._folder() as folder:
            self._has_room(call_ids)
            path = folder / "calls.zip"
            more = ["--copy", copy] if copy else []
            self._run("export", *call_ids, "--out", str(path), "--data", str(self.data), *more)
            yield path

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """For what is made to be fetched. It can be larger than what /tmp holds in memory."""
        with tempfile.TemporaryDirectory(prefix=_MADE, dir=self.data / "console") as folder:
            yield Path(folder)

    def _has_room(self, call_ids: Collection[str]) -> None:
        """The recorder must not find the disk full because of a bundle. Raises DeskError."""
        with self.reading() as reader:
            calls = [call for call_id in call_ids if (call := reader.get(call_id)) and call.recording]
        wanted = sum(call.recording.size_bytes for call in calls if call.recording)
        if shutil.disk_usage(self.data).free < 3 * wanted + _ROOM_BYTES:
            raise DeskError(503, "no_room")

    def checked(self, call_id: str) -> dict[str, Any]:
        """What of a call can be proved now: verify's own findings, in both languages."""
        call = self.call(call_id)
        path = self.sound(call)
        if path and not call["imported"]:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != call["recording"]["sha256"]:
                    return {"holds": False, "key": None, "findings": [_CHANGED]}  # there is nothing to bundle
        with self.reading() as reader:
            key = (reader.storage.doc("meta", 1) or {}).get("public_key")
        with self.bundle([call_id]) as path:
            told = self._run("verify", "--json", str(path), *(["--key", key] if key else []), codes=(0, 1))
        found: dict[str, Any] = json.loads(told)
        for finding in found["findings"]:
            finding["where"] = finding["where"].removeprefix(f"calls/{call_id}/")
        return found

    def _run(self, *arguments: str, codes: Collection[int] = (0,)) -> str:
        command = [sys.executable, "-m", "firmware", *arguments]
        if not self._one_run.acquire(timeout=_WAITS_S):
            raise DeskError(503, "took_too_long")
        try:
            done = subprocess.run(command, cwd=_ROOT, capture_output=True, timeout=_PATIENCE_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise DeskError(503, "took_too_long") from error
        finally:
            self._one_run.release()
        if done.returncode not in codes:
            raise DeskError(409, "refused", why=done.stderr.decode(errors="replace").strip()[-300:])
        return done.stdout.decode(errors="replace")

    # -- contacts

    def contacts(self, text: str) -> tuple[list[dict[str, Any]], int]:
        """Those that fit, one for each person, in the order of their readings; and how many there are."""
        with self.reading() as reader:
            ids, count = self._index.contacts(text, _MOST_CONTACTS)
            people = [own for contact_id in ids if (own := reader.numbers_of(contact_id))]
        return [{**_told(own[0]), "numbers": [_number(each.number) for each in own]} for own in people], count

    def contact(self, contact_id: str) -> dict[str, Any]:
        """Somebody with all his numbers and calls."""
        with self.reading() as reader:
            own = reader.numbers_of(contact_id)
            if not own:
                raise DeskError(404, "not_found")
            calls = [call for each in own for call in reader.with_number(each.number)]
            calls.sort(key=lambda call: str(call["opened"]), reverse=True)
            shown = [self._shown(reader, call) for call in calls[:100]]
        talked = sum(call["duration_s"] or 0 for call in calls)
        counts = {"calls": len(calls), "missed": sum(call["outcome"] == "missed" for call in calls), "talked_s": talked}
        return {**_told(own[0]), "numbers": [_number(each.number) for each in own], "calls": shown, "counts": counts}

    def put_contact(self, who: str, contact: Mapping[str, Any]) -> str:
        """Returns his id."""
        told = self.ask({"do": "contacts_put", "contacts": [contact]}, who)
        if told["refused"]:
            raise DeskError(400, "contact_wrong")
        return str(told["contact_id"])

    def merge(self, who: str, contact_id: str, into: str) -> None:
        one, other = self.contact(contact_id), self.contact(into)
        numbers = {"number": one["numbers"][0]["number"], "into": other["numbers"][0]["number"]}
        self.ask({"do": "contacts_merge", **numbers}, who)

    def listed(self, who: str, coding: contact_list.Coding) -> bytes:
        """All contacts as a CSV file."""
        with self.reading() as reader:
            contacts = reader.contacts()
        contacts.sort(key=lambda each: (each.reading or each.name, each.number))
        try:
            written = contact_list.written(contacts, coding)
        except contact_list.ListError as error:
            raise DeskError(409, "list_characters", what=error.what) from error
        self.note(who, "listed", None)
        return written

    def take_in(self, who: str, data: bytes) -> tuple[int, list[int]]:
        """Contacts of a CSV file. Returns how many were taken, and the lines that were of no use."""
        try:
            given = contact_list.read(data)
        except contact_list.ListError as error:
            raise DeskError(400, f"list_{error.key}", at=error.at, what=error.what) from error
        taken, refused, at = 0, [], 0
        for part in contact_list.many(given):
            answer = self.ask({"do": "contacts_put", "contacts": part}, who)
            taken += answer["taken"]
            refused += [given[at + place]["line"] for place in answer["refused"]]
            at += len(part)
        return taken, refused

    @contextlib.contextmanager
    def incident(self, who: str, contact_id: str) -> Iterator[Path]:
        """The file of a nuisance caller as a PDF (`tsuroku incident`)."""
        numbers = [each["number"] for each in self.contact(contact_id)["numbers"]]
        self.note(who, "disclosed", contact_id)
        with self._folder() as folder:
            path = folder / "incident.pdf"
            self._run("incident", *numbers, "--out", str(path), "--data", str(self.data))
            yield path

    @contextlib.contextmanager
    def disclosure(self, who: str, contact_id: str) -> Iterator[Path]:
        """All that is kept of somebody, as one file: what the law gives him when he asks."""
        person = self.contact(contact_id)
        with self.reading() as reader:
            calls = [call for each in person["numbers"] for call in reader.with_number(each["number"])]
            told = [{**call, "remarks": reader.remarks(call["call_id"])} for call in calls]
        self.note(who, "disclosed", contact_id)
        contact = {key: value for key, value in person.items() if key not in ("calls", "counts")}
        with self._folder() as folder:
            path = folder / "disclosure.zip"
            with zipfile.ZipFile(path, "w") as packed:
                packed.writestr("contact.json", orjson.dumps(contact, option=orjson.OPT_INDENT_2))
                packed.writestr("calls.json", orjson.dumps(told, option=orjson.OPT_INDENT_2))
                if ids := [call["call_id"] for call in calls if call["outcome"]]:
                    with self.bundle(ids) as bundle:
                        packed.write(bundle, "calls.zip")
            yield path

    def erase(self, who: str, contact_id: str) -> list[str]:
        """All that is kept of somebody goes (`tsuroku store erase`). Returns what stays, a sentence each."""
        person = self.contact(contact_id)
        self.note(who, "erased", contact_id)
        kept: list[str] = []
        for each in person["numbers"]:
            arguments = ("store", "erase", each["number"], "--yes", "--reason", "asked for in the console")
            said = self._run(*arguments, "--data", str(self.data), codes=(0, 1))
            kept += [line for line in said.splitlines() if "stays, since" in line or "holds the number still" in line]
        return kept

    # -- the log

    def said(self, count: int, start: int = 0) -> list[dict[str, Any]]:
        """Who did what, the last first."""
        with self.reading() as reader:
            return list(islice(reader.newest_events("audit"), start, start + count))

    def support(self, who: str) -> Path:
        """What helps whoever helps, numbers and names masked."""
        told = self.ask({"do": "bundle"}, who)
        return self.data / str(told["path"])


def _told(contact: Contact) -> dict[str, Any]:
    told = contact.to_doc()
    del told["number"]
    return told


def _number(number: str) -> dict[str, str]:
    return {"number": number, "national": national(number) or number}


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def due_of(day: str, now: datetime | None = None) -> str | None:
    """UTC of a choice: "1h", "today" (the evening), "tomorrow" (its morning); None for anything else."""
    at = (now or datetime.now(UTC)).astimezone()
    match day:
        case "1h":
            return _utc(at + timedelta(hours=1))
        case "today":
            return _utc(at.replace(hour=18, minute=0, second=0, microsecond=0))
        case "tomorrow":
            return _utc((at + timedelta(days=1)).replace(hour=10, minute=0, second=0, microsecond=0))
        case _:
            return None
