"""tsuroku store: check, mend, copy, hold and erase what the unit has kept."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import re
import sys
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from drivers.signals import Country
from firmware import clock
from firmware.app import KEY_FILE, STORE
from firmware.cli.calls import data_dir, one_call, print_calls, reader_of
from firmware.cli.main import InputError, json_line
from firmware.cli.show import terminal
from firmware.core.contacts import Contact
from firmware.core.numbers import digits_of, e164, national
from firmware.local_api import LocalError, ask
from firmware.records.evidence import public_key
from firmware.records.log import Problem, make_directory
from firmware.records.store import CallReader, CallStore, StoreError, unit_runs
from firmware.records.upkeep import Verdict, copy_recordings, journal_of, mentions, rotten_with, tells_of
from firmware.records.upkeep import backup as copy_store
from firmware.records.upkeep import export as export_store
from firmware.records.upkeep import restore as restore_store
from firmware.records.upkeep import verify as verify_store

_REMEDY = {
    "rot": "What was in that line is lost, all else is there: put the segment back from a backup, or go on without it.",
    "missing": "Put the file back from a backup; the calls in it are not listed until then.",
    "chain": "Lines were taken out or changed: compare with a backup and with the checkpoints your broker keeps.",
    "signature": "The store was signed with another key, or changed: compare with the `public_key` that the unit "
    "publishes in `info` (`tsuroku store verify --key`).",
    "key": "Signatures cover all before them: once the key is back, what was written meanwhile is signed too.",
    "failed": "Copy the store away (`tsuroku store backup`) and change the card: it may be failing.",
    "torn": "It had not been acknowledged, so nothing is lost: there is nothing to do.",
}


@contextlib.contextmanager
def bar(what: str) -> Iterator[typing.Callable[[float], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=terminal(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda part: progress.update(task, completed=part)


def _store(args: argparse.Namespace) -> Path:
    store: Path = data_dir(args) / STORE
    if not any(store.glob("*.log")):
        CallReader(store)  # says what is wrong
    return store


@contextlib.contextmanager
def in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except (StoreError, LocalError) as error:
        raise InputError(str(error)) from error
    except BrokenPipeError:
        raise  # of the output
    except OSError as error:
        where = error.filename or path
        raise InputError(f"{where}: cannot be used ({error.strerror}); run this as the user tsuroku.") from error


def verify(args: argparse.Namespace) -> int:
    """Exit code 1 when anything is not as it was written."""
    if args.key is not None and not re.fullmatch("[0-9a-fA-F]{64}", args.key):
        raise InputError(f"--key {args.key!r} is no public key; give its 64 hexadecimal digits, as in `info`.")
    data = data_dir(args)
    with in_words(data), bar("Following the chain") as progress:
        verdict = verify_store(_store(args), (args.key or public_key(data / KEY_FILE) or "").lower() or None, progress)
    wrong = [problem for problem in verdict.problems if problem.kind != "torn"]
    if args.json:
        print(json_line({**asdict(verdict), "good": not wrong}))
        return int(bool(wrong))
    console = terminal()
    for problem in verdict.problems:
        console.print(_sentence(problem), soft_wrap=True)
    if verdict.other_keys and not wrong:
        said = " earlier lines were signed with another key; so it is after a restore, and when the key was lost."
        console.print(Text.assemble(("??", "yellow"), said), soft_wrap=True)
    console.print(_summary(verdict, good=not wrong), soft_wrap=True)
    return int(bool(wrong))


def _sentence(problem: Problem) -> Text:
    mark, colour = ("??", "yellow") if problem.kind == "torn" else ("!!", "red")
    return Text.assemble((mark, colour), f" {problem.where}: {problem.says}")


def _summary(verdict: Verdict, *, good: bool) -> Text:
    said = f"{verdict.lines:,} lines follow one another" if good else f"{verdict.lines:,} lines were read"
    gone = f", {verdict.erased:,} of them erased" if verdict.erased else ""
    if verdict.signatures:
        signed = f"{verdict.signatures:,} signatures are good, the last one over line {verdict.signed_seq:,}"
        signed += f" (key {(verdict.public_key or '')[:16]}...)"
    else:
        signed = "none is signed"
    mark, colour = ("ok", "green") if good else ("!!", "red")
    return Text.assemble((mark, colour), f" {said}{gone}; {signed}. Line {verdict.seq:,} is the last: {verdict.link}.")


def doctor(args: argparse.Namespace) -> int:
    """Exit code 1 when anything is wrong."""
    with in_words(data_dir(args)), bar("Reading the store") as progress:
        store = _store(args)
        verdict = verify_store(store, public_key(data_dir(args) / KEY_FILE), progress)
        reader = CallReader(store)
        read = sum(1 for _ in reader.calls())
        lost = len(reader) - read
        found = [*verdict.problems, *(p for p in reader.problems if p.where not in {v.where for v in verdict.problems})]
        reader.close()
    wrong = [problem for problem in found if problem.kind != "torn"]
    if args.json:
        for problem in found:
            print(json_line({**asdict(problem), "remedy": _REMEDY.get(problem.kind)}))
        return int(bool(wrong))
    console = terminal()
    for problem in found:
        console.print(_sentence(problem), soft_wrap=True)
        console.print(Text(f"   {_REMEDY.get(problem.kind, '')}", "dim"), soft_wrap=True)
    if lost:
        console.print(Text(f"!! {lost} calls can no longer be read.", "red"), soft_wrap=True)
    if not found:
        said = f" {read:,} calls, {verdict.lines:,} lines: all is as it was written."
        console.print(Text.assemble(("ok", "green"), said))
    return int(bool(wrong))


def export(args: argparse.Namespace) -> int:
    with reader_of(data_dir(args)) as reader, in_words(args.file):
        if args.file == Path("-"):
            export_store(reader.storage, sys.stdout)
            return 0
        descriptor = os.open(args.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                export_store(reader.storage, file)
        except BaseException:
            args.file.unlink()  # half of it would look like all of it
            raise
    return 0


def spellings_of(number: str) -> set[str]:
    """The digits of a number, as typed and in every form that it is kept in."""
    typed = digits_of(number)
    digits = "".join(c for c in typed if c.isdigit())
    if len(digits) < 3:
        raise InputError(f"{number!r} is no telephone number; give it whole, or as it was received.")
    whole = {e164(typed, country) for country in typing.get_args(Country)} - {None}
    forms = {digits, *map(str, whole), *(str(national(each)) for each in whole)}
    return {"".join(c for c in form if c.isdigit()) for form in forms}


def _of_number(reader: CallReader, spellings: Collection[str]) -> list[Mapping[str, Any]]:
    return [call for call in reader.calls() if mentions(call, spellings)]


def _contacts(reader: CallReader, spellings: Collection[str]) -> list[Contact]:
    return [contact for spelling in sorted(spellings) if (contact := reader.contact(f"+{spelling}"))]


def find(args: argparse.Namespace) -> int:
    """All that is kept of a number: listed, or with --out copied into a folder."""
    from firmware.cli.calls import export_call

    data = data_dir(args)
    with reader_of(data) as reader:
        calls = _of_number(reader, spellings_of(args.number))
        contacts = _contacts(reader, spellings_of(args.number))
        holds = reader.holds()
        remarks = {call["call_id"]: reader.remarks(call["call_id"]) for call in calls}
    if args.out:
        gone = 0
        for call in calls:
            recording = call["recording"]
            if recording and not recording.get("deleted") and not (data / recording["path"]).exists():
                print(f"{data / recording['path']}: is not there any more; look for it on a backup.", file=sys.stderr)
                gone, recording = 1, None
            for path in export_call(data, call, args.out, sound=recording is not None):
                print(path)
        return gone
    if args.json:
        for call in calls:
            print(json_line({**call, "held": call["call_id"] in holds, "remarks": remarks[call["call_id"]]}))
        for contact in contacts:
            print(json_line({"contact": contact.to_doc()}))
        return 0
    for contact in contacts:
        named = contact.name + (f" ({contact.reading})" if contact.reading else "")
        print(f"Known as {', '.join((named, *contact.flags))}; told by {contact.by} on {contact.updated[:10]}.")
    if calls:
        print_calls(calls, terminal())
    elif not contacts:
        print(_NONE_KEPT)
    return 0


def as_its_user(data: Path) -> None:
    """What root wrote here the unit could not open at its next start."""
    if os.geteuid() != data.stat().st_uid:
        raise InputError(f"{data}: is another user's; run this as the user tsuroku (`sudo -u tsuroku tsuroku ...`).")


@contextlib.contextmanager
def _owner(data: Path) -> Iterator[CallStore]:
    """The store itself, for as long as no unit runs on it."""
    as_its_user(data)
    boot, key = clock.boot_id(), data / KEY_FILE
    store = CallStore(
        data / STORE,
        "",
        sinks=(),
        keep_days=None,  # who must get the events is not known here: none of them goes
        boot_id=boot,
        read_clock=clock.read_clock,
        key=key if key.exists() else None,
    )
    try:
        yield store
    finally:
        store.close()


def ask_store(data: Path, request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Have it done by the running unit, or do it."""
    if unit_runs(data / STORE):
        return ask(data, request)
    with _owner(data) as store, bar("Freeing the log") as progress:
        answer = store.obey(request)
        steps = len(store.storage.sealed()) + 1
        for number, _ in enumerate(store.purge_steps(), 1):
            progress(min(1.0, number / steps))
    if "error" in answer:
        raise LocalError(answer["error"])
    return answer


def hold(args: argparse.Namespace) -> int:
    data, call = one_call(args)
    with in_words(data):
        ask_store(data, {"do": "hold", "call_id": call["call_id"], "reason": args.reason, "who": getpass.getuser()})
    print(f"{call['call_id']}: is held; neither retention nor an erasure removes it.")
    return 0


def release(args: argparse.Namespace) -> int:
    data, call = one_call(args)
    with in_words(data):
        ask_store(data, {"do": "release", "call_id": call["call_id"], "who": getpass.getuser()})
    print(f"{call['call_id']}: is no longer held.")
    return 0


def erase(args: argparse.Namespace) -> int:
    """Exit code 1 when something of the number is still there. Done again, it takes up what an earlier one left."""
    data, spellings = data_dir(args), spellings_of(args.number)
    with reader_of(data) as reader:
        calls = _of_number(reader, spellings)
        waiting = reader.unpurged()
        contacts = [contact.number for contact in _contacts(reader, spellings)]
    if (calls or contacts) and not args.yes:
        print_calls(calls, terminal())
        also = " and what is known of the caller" if contacts else ""
        question = f"Erase these {len(calls)} calls and their recordings{also}? [y/N] "
        if not sys.stdin.isatty() or input(question).lower() != "y":
            raise InputError("nothing was erased; answer y, or give --yes.")
    kept: list[str] = []
    with in_words(data):
        if calls or (waiting and not unit_runs(data / STORE)):
            ids = [call["call_id"] for call in calls]
            request = {"do": "erase", "call_ids": ids, "reason": args.reason, "who": getpass.getuser()}
            kept = sorted(ask_store(data, request)["kept"])
        if contacts:
            ask_store(data, {"do": "forget", "numbers": contacts, "who": getpass.getuser()})
        removed, left = _free_files(data, () if kept else spellings)
        rotten = rotten_with(data / STORE, spellings)
    for path in removed:
        print(f"{path}: told of the number, and is removed.")
    if calls or not contacts:
        print(f"{len(calls) - len(kept)} calls are erased." if calls else _NONE_KEPT)
    if contacts:
        print("What was known of the caller (contacts.put) is erased.")
    for call_id in kept:
        print(f"{call_id}: stays, since it is held or going on.")
    if (contacts or len(calls) > len(kept)) and unit_runs(data / STORE):
        print("The unit frees its log of them while nobody is calling.")
    for path in left:
        print(f"{path}: holds the number still, and the unit uses it; stop the unit and erase again.")
    for path in rotten:
        print(
            f"{path}: holds the number still, in a line that has rotted; put the file back from a backup, erase again."
        )
    return int(bool(kept or left or rotten))


_NONE_KEPT = "No call of that number is kept."


def _free_files(data: Path, spellings: Collection[str]) -> tuple[list[Path], list[Path]]:
    """Remove what lies beside the store of calls that are erased, also by an earlier command that was cut short.

    Returns the files that told of a number beside other things: those that were removed, and those that a unit uses.
    """
    with reader_of(data) as reader:
        tombstones = reader.tombstones()
    gone = {tombstone["call_id"] for tombstone in tombstones}
    for path in (data / "recordings").glob("*/*"):
        if path.name.split(".")[0] in gone:
            path.unlink()
    journals = [*(data / "journal").glob("*.jsonl")]
    others = [*(data / "support").glob("*"), *data.glob("calls.json.*")]
    holding = [path for path in journals if any(journal_of(path, tombstone) for tombstone in tombstones)]
    holding += [path for path in [*journals, *others] if path not in holding and tells_of(path.read_bytes(), spellings)]
    if unit_runs(data / STORE):
        return [], holding
    for path in holding:
        path.unlink()
    return holding, []


def backup(args: argparse.Namespace) -> int:
    """Exit code 1 when the copy is not whole, which is so when the store is not."""
    data = data_dir(args)
    with in_words(args.target), bar("Copying the store") as progress:
        copied = copy_store(_store(args), args.target / STORE, progress)
        with reader_of(data) as reader:
            erased = {tombstone["call_id"] for tombstone in reader.tombstones()}
        files = copy_recordings(data / "recordings", args.target / "recordings", erased)
        verdict = verify_store(args.target / STORE, public_key(data / KEY_FILE))
    said = f"{copied / 1e6:.1f} MB of the store and {files} recordings copied; line {verdict.seq:,} is the last."
    print(f"{args.target}: {said}")
    wrong = [problem for problem in verdict.problems if problem.kind != "torn"]
    if wrong:
        print(f"{wrong[0].where}: {wrong[0].says} `tsuroku store doctor` tells what to do.")
    return int(bool(wrong))


def restore(args: argparse.Namespace) -> int:
    data = data_dir(args)
    with in_words(data):
        make_directory(data)
        as_its_user(data)
        store_id = restore_store(args.source / STORE, data / STORE)
    print(f"{data}: restored; the store's new id is {store_id}.")
    return 0
