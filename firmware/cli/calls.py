"""tsuroku calls list, show, play, export: readers beside the running unit."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from drivers.signals import Country
from firmware.cli.keys import plain_sound, playable
from firmware.cli.main import InputError, json_line
from firmware.cli.show import caller_text, level_text, outcome_text, terminal, time_text, waveform
from firmware.cli.unit import settings_of
from firmware.core.facts import KEYS
from firmware.core.numbers import e164
from firmware.records.store import CallReader, StoreError

SUFFIX = ".sealed"  # of firmware.recording.sealed, which is not loaded for a list of calls

STORE = "store"


def data_dir(args: argparse.Namespace) -> Path:
    if args.data is None:
        return settings_of(args)[0].unit.data_dir
    return Path(args.data)


@contextlib.contextmanager
def reader_of(data: Path) -> Iterator[CallReader]:
    """The store of a data folder, also beside a running unit."""
    try:
        reader = CallReader(data / STORE)
    except StoreError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"{data}: cannot be read ({error.strerror}); run this as the user tsuroku.") from error
    try:
        yield reader
    finally:
        reader.close()


def one_call(args: argparse.Namespace) -> tuple[Path, Mapping[str, Any]]:
    data = data_dir(args)
    with reader_of(data) as reader:
        return data, call_of(reader, args.call)


def call_of(reader: CallReader, name: str) -> Mapping[str, Any]:
    """The call whose id this is, or ends so. Raises InputError."""
    whole = reader.get(name.lower())
    found: list[Mapping[str, Any]] = (
        [call for call in reader.newest() if str(call["call_id"]).endswith(name.lower())]
        if whole is None
        else [whole.to_dict()]
    )
    if len(found) != 1:
        what = "no call has" if not found else f"{len(found)} calls have"
        raise InputError(f"{what} an id that ends in {name!r}; `tsuroku calls list` shows the ids.")
    return found[0]


def _recording(data: Path, call: Mapping[str, Any]) -> Path:
    if call["recording"] is None:
        raise InputError(f"call {call['call_id']} has no recording: {call['no_recording']}.")
    if gone := call["recording"].get("deleted"):
        raise InputError(f"the recording of call {call['call_id']} was deleted on {gone['at'][:10]} ({gone['why']}).")
    path: Path = data / call["recording"]["path"]
    if not path.exists():
        raise InputError(f"{path}: is not there any more; look for it on a backup.")
    return path


def _numbers(call: Mapping[str, Any]) -> list[str]:
    """Every spelling of who was at the other end, digits alone."""
    caller, dialled = call["caller"], call["dialled"] or {}
    spellings = (caller["raw"], caller["number"], caller["national"], dialled.get("digits"), dialled.get("number"))
    return ["".join(c for c in spelling if c.isdigit()) for spelling in spellings if spelling]


def list_(args: argparse.Namespace) -> int:
    with reader_of(data_dir(args)) as reader:
        calls = _wanted(reader, args)[::-1]
    if args.json:
        for call in calls:
            print(json_line(call))
        return 0
    print_calls(calls, terminal())
    return 0


def _wanted(reader: CallReader, args: argparse.Namespace) -> list[Mapping[str, Any]]:
    """The last calls asked for, newest first. A whole number is looked up; any other digits are looked for."""
    found: Iterable[Mapping[str, Any]] = reader.newest()
    if args.number is not None:
        digits = "".join(c for c in args.number if c.isdigit())
        if not digits:
            raise InputError(f"--number {args.number!r} holds no digit; give the number, or a part of it.")
        whole = {e164(digits, country) for country in typing.get_args(Country)} - {None}
        looked_up = {call["call_id"]: call for number in whole for call in reader.with_number(str(number))}
        if looked_up:
            found = list(looked_up.values())[::-1]
        else:
            found = (call for call in found if any(digits in number for number in _numbers(call)))
    if args.missed:
        found = (call for call in found if call["outcome"] == "missed")
    return list(itertools.islice(found, args.last or None))


def print_calls(calls: Sequence[Mapping[str, Any]], console: Console) -> None:
    """One row a call. Where the terminal is narrow who and outcome are folded; nothing is cut."""
    several_lines = len({call["line"] for call in calls}) > 1
    table = Table(box=None, pad_edge=False)
    for heading in ("began", *(["line"] if several_lines else []), ""):
        table.add_column(heading, no_wrap=True)
    for heading in ("who", "outcome"):
        table.add_column(heading, overflow="fold")
    for heading in ("length", "rings", "recorded"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("id", no_wrap=True)
    for call in calls:
        recording = call["recording"]
        seconds = call["duration_s"]
        table.add_row(
            time_text(call["opened"])[5:],
            *([str(call["line"] or "–")] if several_lines else []),
            {"incoming": "in", "outgoing": "out"}.get(call["direction"], "?"),
            caller_text(call),
            outcome_text(call["outcome"]),
            "" if seconds is None else f"{seconds:.1f} s",
            str(call["rings"] or ""),
            f"{recording['duration_s']:.1f} s" if recording and not recording.get("deleted") else "",
            str(call["call_id"])[-8:],
        )
    console.print(table)


def show(args: argparse.Namespace) -> int:
    data, call = one_call(args)
    if args.json:
        print(json_line(call))
        return 0
    console = terminal()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key in ("call_id", "line", "direction", "outcome", "end_reason", "opened", "answered", "ended", "rings"):
        table.add_row(key, str(call[key]))
    table.add_row("caller", caller_text(call))
    for other in call["caller"]["disagreement"]:
        table.add_row("but", f"{other['source']} said {other['raw'] or other['presentation']}")
    for key, rests_on in (("answered by", "answer_evidence"), ("hung up first", "ended_by")):
        if call[rests_on]:
            evidence = f" ({call['ended_by_evidence']})" if rests_on == "ended_by" else ""
            table.add_row(key, f"{call[rests_on]}{evidence}".replace("_", " "))
    if call["keyed"]:
        table.add_row("keys", f"{call['keyed']} after the answer")
    table.add_row("clock", call["clock"]["state"])
    for mark in call["marks"]:
        at = (mark["at_ns"] - call["opened_ns"]) / 1e9
        table.add_row("mark", f"{mark['kind']} at +{at:.2f} s {mark['detail'] or ''}")
    recording = call["recording"]
    if recording:
        table.add_row("recording", f"{data / recording['path']}  {recording['duration_s']:.2f} s")
        table.add_row("sha256", recording["sha256"])
        if taken := call["imported"]:
            words = {"name": "its name", "tags": "its tags", "file": "its date", None: "nothing"}
            told_by = f"time from {words[taken['time_from']]}, number from {words[taken['number_from']]}"
            table.add_row("imported", f"{taken['file']} on {time_text(taken['at'])}; {told_by}")
        for gap in recording["gaps"]:
            table.add_row("silence", f"{gap['duration_s']:.2f} s at {gap['at_s']:.2f} s were not captured")
        for gap in recording["muted"]:
            what = "key tone" if gap.get("by") == KEYS else "paused"
            by = f", by {gap['by']}" if gap.get("by") and what == "paused" else ""
            table.add_row(what, f"{gap['duration_s']:.2f} s at {gap['at_s']:.2f} s{by}")
        if levels := recording.get("levels"):
            table.add_row("level", level_text(levels))
        if recording.get("drift_ppm") is not None:
            table.add_row("sound clock", f"frames {recording['drift_ppm']:+d} ppm against nominal")
        if recording["cut_short"]:
            table.add_row("cut short", recording["cut_short"])
        if gone := recording.get("deleted"):
            table.add_row("deleted", f"{time_text(gone['at'])}: {gone['why']}, by {gone['by']}")
    else:
        table.add_row("recording", f"none: {call['no_recording']}")
    console.print(table)
    if recording and recording.get("deleted"):
        return 0
    if recording and (args.key or not recording["path"].endswith(SUFFIX)):
        with playable(_recording(data, call), call, args.key, args.passphrase_file) as path:
            console.print(waveform(path, min(console.width, 100)), style="cyan")
    elif recording:
        console.print("It is sealed: with --key, the owner's private key, its waveform is shown.", style="dim")
    return 0


def play(args: argparse.Namespace) -> int:
    import pyaudio
    import soundfile
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from drivers.codec import prepare_libraries

    data, call = one_call(args)
    prepare_libraries()
    audio = pyaudio.PyAudio()
    try:
        with (
            playable(_recording(data, call), call, args.key, args.passphrase_file) as path,
            soundfile.SoundFile(path) as file,
        ):
            rate = file.samplerate
            try:
                stream = audio.open(rate=rate, channels=1, format=pyaudio.paInt16, output=True)
            except OSError as error:
                raise InputError(
                    f"no loudspeaker can be opened ({error.args[-1]}); use `tsuroku calls export` and another machine."
                ) from error
            bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TimeElapsedColumn(),
                disable=not sys.stdout.isatty(),
            )
            with bar:
                task = bar.add_task(path.name, total=file.frames)
                while len(pcm := file.buffer_read(rate // 10, "int16")):
                    stream.write(bytes(pcm))
                    bar.advance(task, len(pcm) // 2)
            stream.stop_stream()
            stream.close()
    finally:
        audio.terminate()
    return 0


def export(args: argparse.Namespace) -> int:
    data, call = one_call(args)
    for path in export_call(data, call, args.out, key=args.key, passphrase_file=args.passphrase_file):
        print(path)
    return 0


def export_call(
    data: Path,
    call: Mapping[str, Any],
    out: Path,
    *,
    sound: bool = True,
    key: Path | None = None,
    passphrase_file: Path | None = None,
) -> list[Path]:
    """Copy a call's record and, with sound, its recording to a folder; of a sealed one, with a key, also what it holds.

    Returns the files written. Raises InputError.
    """
    name = str(call["call_id"])
    try:
        out.mkdir(parents=True, exist_ok=True)
        record = out / f"{name}.json"
        record.write_text(json.dumps(call, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        written = [record]
        if sound and call["recording"] and not call["recording"].get("deleted"):
            source = _recording(data, call)
            written.append(Path(shutil.copyfile(source, out / source.name)))
            if source.suffix == SUFFIX and key:
                with plain_sound(source, key, passphrase_file) as plain:
                    written.append(Path(shutil.copyfile(plain, out / plain.name)))
    except OSError as error:
        raise InputError(
            f"{error.filename or out}: cannot be written ({error.strerror}); give another --out."
        ) from error
    return written
