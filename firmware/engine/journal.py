"""The journal: every input of the lines, ids and clock reads included, so that a replay gives the same calls.

JSON lines. A file stands alone: it begins with the lines' configuration and the levels of their inputs, and the journal
starts a new one only while no call is under way; {"full": true} ends one that grew too long before that.
It holds callers' numbers (mode 0600), never DTMF keyed in a call (dial pulses are edges of the loop, and stand in it).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from drivers import signals
from drivers.signals import Country, KeyHeard, LinePresentEdge, LoopEdge
from firmware.core import facts
from firmware.core.call import ClockRead
from firmware.core.explain import Step, TracedLine, private
from firmware.core.facts import Gap, Input, Levels, RecordingReady, RecordingSwitched
from firmware.core.hook import DialPulses, HookTiming
from firmware.core.line import LineConfig, SaveCall, Timer
from firmware.core.numbers import Dialled, e164, kind, split

log = logging.getLogger(__name__)

FORMAT = 2
_FILE_BYTES = 2_000_000  # from here on, a new file at the next idle moment
_MOST_BYTES = 10_000_000  # no file is longer: a humming comparator leaves no idle moment
_ALL_BYTES = 40_000_000
_BLOCK_BYTES = 4096  # a short file fills a block of the disk too
_RETRY_S = 60.0
_FULL = b'{"full":true}\n'
_INPUTS: dict[str, type[Any]] = {
    cls.__name__: cls
    for module in (signals, facts)
    for cls in vars(module).values()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls)
}


class JournalError(ValueError):
    """The file is no journal of this version; says where."""


class _CutOff(Exception):
    """The journal ends between an input and what the lines asked for because of it."""


# What a line of the wrong shape, or of another version, raises on its way through the machine.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)


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
    levels = Levels(**fields["levels"]) if fields.get("levels") else None
    return RecordingReady(
        **fields
        | {"levels": levels}
        | {key: tuple(Gap(**each) for each in fields.get(key, ())) for key in ("gaps", "muted")}
    )


class Journal:
    """Appends to files below directory. Thread: loop.

    A failing disk stops the journal, never the unit; a new file is tried for once a minute.
    """

    def __init__(self, directory: Path, configs: list[LineConfig]) -> None:
        self._directory = directory
        self._head = {"journal": FORMAT, "lines": [dataclasses.asdict(config) for config in configs]}
        self._file: BinaryIO | None = None
        self._size = 0
        self._failed = False
        self._retry_s = math.inf  # when to begin again, once it has stopped
        self.start_file([])

    def start_file(self, levels: Sequence[LoopEdge | LinePresentEdge | RecordingSwitched]) -> None:
        """Begin a new file with the levels of the inputs, and let the oldest go."""
        self.close()
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            numbered = (old for old in self._directory.glob("*.jsonl") if old.stem.isascii() and old.stem.isdecimal())
            olds = sorted(numbered, key=lambda old: int(old.stem))
            sizes = [old.stat().st_size + _BLOCK_BYTES for old in olds]
            total = sum(sizes)
            for old, size in zip(olds, sizes, strict=True):
                if total + _MOST_BYTES <= _ALL_BYTES:
                    break
                old.unlink()
                total -= size
            path = self._directory / f"{int(olds[-1].stem) + 1 if olds else 1:08d}.jsonl"
            self._file = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")
        except OSError as error:
            self._fail(error)
            return
        self._size, self._retry_s = 0, math.inf
        self._write(self._head)
        for level in levels:
            self.given(dataclasses.replace(level, initial=True))
        if self._file is None:
            try:
                path.unlink()  # or a full disk would get one every minute
            except OSError:
                pass  # it will go as the oldest
        elif self._failed:
            self._failed = False
            log.warning("event=journal_works_again")

    @property
    def full(self) -> bool:
        """A new file is due, at the next idle moment."""
        return self._size > _FILE_BYTES if self._file else time.monotonic() > self._retry_s

    def given(self, given: Input) -> None:
        self._write(encode(given))

    def timer(self, line: int, timer: Timer, due_ns: int) -> None:
        self._write({"timer": timer, "line": line, "due": due_ns})

    def call_id(self, call_id: str) -> None:
        self._write({"id": call_id})

    def clock(self, read: ClockRead) -> None:
        self._write({"clock": dataclasses.asdict(read)})

    def unwanted(self) -> None:
        self._write({"unwanted": True})

    def close(self) -> None:
        file, self._file = self._file, None
        if file:
            try:
                file.close()
            except OSError as error:
                self._fail(error)

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is None:
            return
        text = json.dumps(entry, separators=(",", ":"), ensure_ascii=False) + "\n"
        line = text.encode(errors="backslashreplace")  # a lone surrogate as JSON's own escape
        full = self._size + len(line) > _MOST_BYTES
        try:
            self._file.write(_FULL if full else line)
            self._file.flush()  # to the kernel: a crash of the unit loses nothing; a power cut may
        except OSError as error:
            self._fail(error)
            return
        self._size += len(line)
        if full:
            log.warning("event=journal_full bytes=%d", _MOST_BYTES)
            self.close()
            self._retry_s = 0

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            log.warning("event=journal_stopped reason=%s", error.strerror)
        self._failed = True
        self._retry_s = time.monotonic() + _RETRY_S
        self.close()


class JournalledReads:
    """Draws ids and reads the clock for the lines, and journals every answer."""

    def __init__(
        self,
        journal: Journal,
        call_id: Callable[[], str],
        clock: Callable[[], ClockRead],
        unwanted: Callable[[str], bool] = lambda number: False,
    ) -> None:
        self._journal, self._call_id, self._clock, self._unwanted = journal, call_id, clock, unwanted

    def call_id(self) -> str:
        value = self._call_id()
        self._journal.call_id(value)
        return value

    def clock(self) -> ClockRead:
        value = self._clock()
        self._journal.clock(value)
        return value

    def unwanted(self, number: str) -> bool:
        value = self._unwanted(number)
        if value:  # as a rule nobody is, and most journals say nothing of it
            self._journal.unwanted()
        return value


class _ReplayedReads:
    """Answers as the journal says the unit was answered."""

    def __init__(self, entries: Iterator[tuple[int, dict[str, Any]]], name: str) -> None:
        self._entries, self._name = entries, name
        self._ahead: tuple[int, dict[str, Any]] | None = None

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The entries that are no answers."""
        while (entry := self._take())[1] is not None:
            yield entry  # type: ignore[misc]

    def _take(self) -> tuple[int, dict[str, Any] | None]:
        ahead, self._ahead = self._ahead, None
        return ahead or next(self._entries, (0, None))

    def _next(self, key: str) -> Any:
        number, entry = self._take()
        if entry is None:
            raise _CutOff
        if key not in entry:
            raise JournalError(f"{self._name}:{number}: a {key} was expected here; the journal is not of this version.")
        return entry[key]

    def call_id(self) -> str:
        value: str = self._next("id")
        return value

    def clock(self) -> ClockRead:
        return ClockRead(**self._next("clock"))

    def unwanted(self, number: str) -> bool:
        at, entry = self._take()
        if entry is not None and "unwanted" in entry:
            return True
        self._ahead = None if entry is None else (at, entry)
        return False


def replay(path: Path) -> Iterator[SaveCall]:
    """Run a journal through the lines again; yields each call as it was saved.

    Raises JournalError, OSError, UnicodeDecodeError.
    """
    for step in steps(path):
        for command in step.commands:
            if isinstance(command, SaveCall):
                yield command


def steps(path: Path) -> Iterator[Step]:
    """Run a journal through the lines again; yields every input and timer, for each line that it reached.

    Raises JournalError, OSError, UnicodeDecodeError.
    """
    with path.open(encoding="utf-8") as file:
        yield from _steps(_entries(file, str(path)), str(path))


def _entries(file: TextIO, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The journal's lines with their numbers, as far as they are whole."""
    for number, text in enumerate(file, 1):
        if not text.endswith("\n"):
            return  # the unit was cut off while it wrote this line
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise JournalError(f"{name}:{number}: is not a journal line ({error}).") from error
        if not isinstance(entry, dict):
            raise JournalError(f"{name}:{number}: is not a journal line.")
        if "full" in entry:
            return
        yield number, entry


def _steps(entries: Iterator[tuple[int, dict[str, Any]]], name: str) -> Iterator[Step]:
    _, head = next(entries, (0, {}))
    if head.get("journal") != FORMAT:
        raise JournalError(f"{name}:1: is not a journal of format {FORMAT}; give a file of the unit's journal folder.")
    reads = _ReplayedReads(entries, name)
    lines: dict[int, TracedLine] = {}
    try:
        for config in head["lines"]:
            lists = {name: tuple(value) for name, value in config.items() if isinstance(value, list)}
            own = LineConfig(**config | lists | {"hook": HookTiming(**config["hook"])})
            lines[own.number] = TracedLine(own, reads)
    except _MALFORMED as error:
        raise JournalError(f"{name}:1: has no lines that can be replayed ({error!r}).") from error
    for number, entry in reads:
        try:
            if "timer" in entry:
                done = [lines[entry["line"]].step(entry["due"], entry["timer"])]
            else:
                given = decode(entry)
                on = [lines[given.line]] if hasattr(given, "line") else list(lines.values())
                done = [line.step(given.at_ns, given) for line in on]
        except _CutOff:
            return
        except (JournalError, UnicodeDecodeError):
            raise
        except _MALFORMED as error:
            raise JournalError(f"{name}:{number}: cannot be replayed ({error!r}).") from error
        yield from done


def masked(path: Path) -> Iterator[str]:
    """The journal's lines with fictitious numbers in place of what came over the line or was dialled.

    The same number becomes the same in whatever spelling, of the same length and kind; a replay makes the same of it.
    Raises as replay() does, and JournalError for a number that was dialled with pulses: it stands in the edges.
    """
    numbers = _Fictitious()
    keys = iter(_keys(path, numbers))
    with path.open(encoding="utf-8") as file:
        for _, entry in _entries(file, str(path)):
            told = numbers.instead_of(entry)
            if entry.get("in") == "KeyHeard":
                told["key"] = next(keys, "0")
            yield json.dumps(told, separators=(",", ":"), ensure_ascii=False)


def _keys(path: Path, numbers: _Fictitious) -> list[str]:
    """What stands in place of each key: the fictitious number's where a number was dialled, else 0."""
    keys: list[str] = []
    open_number: dict[int, list[int]] = {}  # by line, where its keys stand
    with path.open(encoding="utf-8") as file:
        _, head = next(_entries(file, str(path)), (0, {}))
    for step in steps(path):
        if any(isinstance(judged.fact, DialPulses) for judged in step.judged):
            raise JournalError(f"{path}: holds digits dialled with pulses, which cannot be masked; take another call.")
        if isinstance(step.cause, KeyHeard):
            key = step.cause.key
            if step.judged and key in "0123456789*#":
                open_number.setdefault(step.line, []).append(len(keys))
            keys.append("0" if key.isdigit() else key)
        for command in step.commands:
            if not isinstance(command, SaveCall) or not command.call.dialled:
                continue
            if any(told.type == "call.dialled" for told in command.events):
                country = next(config["country"] for config in head["lines"] if config["number"] == step.line)
                new = numbers.dialled(command.call.dialled, country)
                for at, key in zip(open_number.pop(step.line, []), new, strict=False):
                    keys[at] = key
    return keys


# What stands in a journal's own lines.
_HEAD = {"id", "state", "country", "opened", "answered", "ended"}


class _Fictitious:
    """Numbers that nobody has, instead of real ones."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}
        self._countries: dict[int, Country] = {}

    def instead_of(self, value: Any, name: str = "", of: str = "", country: Country | None = None) -> Any:
        """A value of a journal's line, at whatever depth."""
        if isinstance(value, dict):
            own = value.get("in", of)
            if "country" in value:
                self._countries[value["number"]] = value["country"]
            at = self._countries.get(value.get("number" if "country" in value else "line", 0), country)
            return {key: self.instead_of(each, key, own, at) for key, each in value.items()}
        if isinstance(value, list):
            return [self.instead_of(each, name, of, country) for each in value]
        if name in _HEAD or not private(name, value, of):
            return value
        if name == "raw" and of == "CallerIdReceived":
            return "masked"
        return self._text(value, country)

    def dialled(self, dialled: Dialled, country: Country) -> str:
        """Keys instead of those of a dialled number; the prefixes stay."""
        prefix = dialled.raw.removesuffix(dialled.digits)
        if not dialled.digits.isdecimal():
            return prefix + re.sub("[0-9]", "0", dialled.digits)
        return prefix + self._number(dialled.digits, dialled.number)

    def _text(self, text: str, country: Country | None) -> str:
        if len(text) == 1:
            return "0"  # a key
        if not re.fullmatch(r"\+?[0-9]+", text):
            return "masked"
        return self._number(text, e164(text, country) if country else None)

    def _number(self, text: str, number: str | None) -> str:
        """The same spelling of another number; number: the E.164 of text."""
        code, subscriber = split(number)
        if not subscriber or not text.endswith(subscriber):
            code, subscriber = "", text
        known = f"+{code}{subscriber}" if code else text
        if known not in self._of:
            self._of[known] = self._new(code, subscriber)
        return text.removesuffix(subscriber) + self._of[known]

    def _new(self, code: str, subscriber: str) -> str:
        """One of an unused exchange (+1: 555-01xx); the first digits stay, as many as its kind depends on."""
        count, size = len(self._of) + 1, len(subscriber)
        if code == "1" and size == 10:
            return f"{subscriber[:3]}55501{count % 100:02d}"
        least = 0 if size <= 6 else 2 if subscriber[1] == "0" else 1
        made = [
            subscriber[:keep] + str(count % 10 ** (size - keep)).zfill(size - keep)
            for keep in range(least, max(least, size - 4) + 1)
        ]
        like = kind(f"+{code}{subscriber}")
        return next((new for new in made if kind(f"+{code}{new}") == like), made[0]) if code else made[0]
