"""The journal: every input of the lines, ids and clock reads included, so that a replay gives the same calls.

JSON lines. A file stands alone: it begins with the lines' configuration and the levels of their inputs, and the journal
starts a new one only while no call is under way. It holds callers' numbers (mode 0600), never digits keyed in a call.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from drivers import signals
from drivers.signals import LinePresentEdge, LoopEdge
from firmware.core import facts
from firmware.core.call import ClockRead
from firmware.core.facts import Gap, Input, RecordingReady
from firmware.core.hook import HookTiming
from firmware.core.line import Line as LineMachine
from firmware.core.line import LineConfig, SaveCall, Timer

log = logging.getLogger(__name__)

FORMAT = 1
_FILE_BYTES = 2_000_000
_FILES = 20
_INPUTS: dict[str, type[Any]] = {
    cls.__name__: cls
    for module in (signals, facts)
    for cls in vars(module).values()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls)
}


class JournalError(ValueError):
    """The file is no journal of this version; says where."""


def encode(given: Input) -> dict[str, Any]:
    return {"in": type(given).__name__, **dataclasses.asdict(given)}


def decode(entry: dict[str, Any]) -> Input:
    fields = {k: v for k, v in entry.items() if k != "in"}
    if entry["in"] == "RecordingReady":
        return _recording_ready(fields)
    if entry["in"] == "CallLeftOpen" and fields["recording"]:
        fields["recording"] = _recording_ready(fields["recording"])
    given: Input = _INPUTS[entry["in"]](**fields)
    return given


def _recording_ready(fields: dict[str, Any]) -> RecordingReady:
    return RecordingReady(**fields | {"gaps": tuple(Gap(**gap) for gap in fields["gaps"])})


class Journal:
    """Appends to files below directory. A failing disk stops the journal, said once, never the unit. Thread: loop."""

    def __init__(self, directory: Path, configs: list[LineConfig]) -> None:
        self._directory = directory
        self._head = {"journal": FORMAT, "lines": [dataclasses.asdict(config) for config in configs]}
        self._file: TextIO | None = None
        self._size = 0
        self._failed = False
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.start_file([])

    def start_file(self, levels: Sequence[LoopEdge | LinePresentEdge]) -> None:
        """Begin a new file with the levels of the inputs, and let the oldest go."""
        self.close()
        names = sorted(self._directory.glob("*.jsonl"))
        number = int(names[-1].stem) + 1 if names else 1
        try:
            for old in names[: len(names) + 1 - _FILES]:
                old.unlink()
            path = self._directory / f"{number:08d}.jsonl"
            self._file = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8")
        except OSError as error:
            self._fail(error)
            return
        self._size = 0
        self._write(self._head)
        for level in levels:
            self.given(dataclasses.replace(level, initial=True))

    @property
    def full(self) -> bool:
        return self._size > _FILE_BYTES

    def given(self, given: Input) -> None:
        self._write(encode(given))

    def timer(self, line: int, timer: Timer, due_ns: int) -> None:
        self._write({"timer": timer, "line": line, "due": due_ns})

    def call_id(self, call_id: str) -> None:
        self._write({"id": call_id})

    def clock(self, read: ClockRead) -> None:
        self._write({"clock": dataclasses.asdict(read)})

    def close(self) -> None:
        if self._file:
            try:
                self._file.close()
            except OSError as error:
                self._fail(error)
            self._file = None

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is None:
            return
        text = json.dumps(entry, separators=(",", ":"), ensure_ascii=False) + "\n"
        try:
            self._file.write(text)
            self._file.flush()  # to the kernel: a crash of the unit loses nothing; a power cut may
        except OSError as error:
            self._fail(error)
            return
        self._size += len(text)

    def _fail(self, error: OSError) -> None:
        self._file = None
        if not self._failed:
            log.warning("event=journal_stopped reason=%s", error.strerror)
        self._failed = True


class JournalledReads:
    """Draws ids and reads the clock for the lines, and journals every answer."""

    def __init__(self, journal: Journal, call_id: Callable[[], str], clock: Callable[[], ClockRead]) -> None:
        self._journal, self._call_id, self._clock = journal, call_id, clock

    def call_id(self) -> str:
        value = self._call_id()
        self._journal.call_id(value)
        return value

    def clock(self) -> ClockRead:
        value = self._clock()
        self._journal.clock(value)
        return value


class _ReplayedReads:
    """Answers as the journal says the unit was answered."""

    def __init__(self, entries: Iterator[tuple[int, dict[str, Any]]], name: str) -> None:
        self._entries, self._name = entries, name

    def _next(self, key: str) -> Any:
        number, entry = next(self._entries, (0, {}))
        if key not in entry:
            raise JournalError(f"{self._name}:{number}: a {key} was expected here; the journal is not of this version.")
        return entry[key]

    def call_id(self) -> str:
        value: str = self._next("id")
        return value

    def clock(self) -> ClockRead:
        return ClockRead(**self._next("clock"))


def replay(path: Path) -> Iterator[SaveCall]:
    """Run a journal through the lines again; yields each call as it was saved. Raises JournalError, OSError."""
    with path.open(encoding="utf-8") as file:
        yield from _replay(file, str(path))


def _replay(file: TextIO, name: str) -> Iterator[SaveCall]:
    def parsed() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, text in enumerate(file, 1):
            if not text.endswith("\n"):
                return  # the unit was cut off while it wrote this line
            try:
                entry = json.loads(text)
            except ValueError as error:
                raise JournalError(f"{name}:{number}: is not a journal line ({error}).") from error
            if not isinstance(entry, dict):
                raise JournalError(f"{name}:{number}: is not a journal line.")
            yield number, entry

    entries = parsed()
    _, head = next(entries, (0, {}))
    if head.get("journal") != FORMAT:
        raise JournalError(f"{name}:1: is not a journal of format {FORMAT}; give a file of the unit's journal folder.")
    reads = _ReplayedReads(entries, name)
    lines: dict[int, LineMachine] = {}
    for config in head["lines"]:
        lines[config["number"]] = LineMachine(LineConfig(**config | {"hook": HookTiming(**config["hook"])}), reads)
    for number, entry in entries:
        try:
            if "timer" in entry:
                commands = lines[entry["line"]].fire(entry["timer"])
            else:
                given = decode(entry)
                on = [lines[given.line]] if hasattr(given, "line") else list(lines.values())
                commands = [command for line in on for command in line.handle(given)]
        except (KeyError, TypeError) as error:
            raise JournalError(f"{name}:{number}: cannot be replayed ({error!r}).") from error
        for command in commands:
            if isinstance(command, SaveCall):
                yield command
