"""Why each call was judged as it was: the steps of a replayed journal, told in sentences. Pure.

What is told is read off the table, the facts and the records themselves, so that it cannot fall behind them.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from drivers import signals
from drivers.signals import LinePresentEdge, LoopEdge, PolarityEdge, RingEdge
from firmware.core import call as call_record
from firmware.core import caller, facts, hook, line, numbers
from firmware.core.call import Call, Recording
from firmware.core.facts import Input
from firmware.core.line import (
    TABLE,
    Command,
    Fact,
    Line,
    MuteKey,
    SaveCall,
    ShowLine,
    StartRecording,
    State,
    StopRecording,
    Timer,
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A fact that the table judged. call: the call then, or the one that it ended."""

    fact: Fact
    before: State
    after: State
    call: Call | None


@dataclass(frozen=True, slots=True)
class Step:
    """One input or timer of one line, and all that followed. at_ns: the input's own time, or when the timer was due."""

    line: int
    at_ns: int
    cause: Input | Timer
    judged: tuple[Judged, ...]
    commands: tuple[Command, ...]


class TracedLine(Line):
    """A line that also keeps how it judged each fact, until it is asked."""

    _judged: tuple[Judged, ...] = ()

    def _step(self, fact: Fact) -> None:
        before, call = self.state, self._call
        super()._step(fact)
        self._judged = (*self._judged, Judged(fact, before, self.state, self._call or call))

    def step(self, at_ns: int, cause: Input | Timer) -> Step:
        """handle() or fire()."""
        self._judged = ()
        commands = self.fire(cause) if isinstance(cause, str) else self.handle(cause)
        return Step(self.config.number, at_ns, cause, self._judged, tuple(commands))


@dataclass(frozen=True, slots=True)
class Entry:
    """A step that a call rests on. changed: what the call's record says since, by field."""

    step: Step
    changed: dict[str, Any]


@dataclass(slots=True)
class Account:
    """A call as last filed, and what it rests on. call None: the journal's line had no call."""

    line: int
    call: Call | None = None
    entries: list[Entry] = field(default_factory=list)

    @property
    def opened_ns(self) -> int:
        """Times are told from here on."""
        return self.call.opened_ns if self.call else self.entries[0].step.at_ns


_EDGES = (LoopEdge, RingEdge, LinePresentEdge, PolarityEdge)


def accounts(steps: Iterable[Step]) -> list[Account]:
    """The calls in the order of their opening. What happened between two is told with the first of them."""
    told: dict[str, Account] = {}
    last: dict[int, Account] = {}
    for step in steps:
        calls = [judged.call for judged in step.judged if judged.call]
        calls += [command.call for command in step.commands if isinstance(command, SaveCall)]
        if not step.judged and not calls:
            open_call = account.call if (account := last.get(step.line)) else None
            if isinstance(step.cause, (*_EDGES, str)) or not open_call or open_call.outcome:
                continue  # an edge means nothing by itself, and a device's state nothing between calls
            calls = [open_call]
        if not calls:
            account = last.setdefault(step.line, Account(step.line))
            account.entries.append(Entry(step, {}))
        for call in {call.call_id: call for call in calls}.values():
            account = told.get(call.call_id) or last.get(step.line) or Account(step.line)
            if account.call and account.call.call_id != call.call_id:
                account = Account(step.line)
            known = account.call
            if call.call_id not in told:
                last[step.line] = told[call.call_id] = account
            account.call = call
            account.entries.append(Entry(step, _changes(known, call)))
    return [*told.values(), *(account for account in last.values() if account.call is None)]


def _changes(before: Call | None, after: Call) -> dict[str, Any]:
    """The fields whose value changed; of a list that grew, what is new."""
    changed: dict[str, Any] = {}
    for each in dataclasses.fields(Call):
        old = getattr(before, each.name) if before else each.default
        new = getattr(after, each.name)
        if new == old or (before is None and each.default is dataclasses.MISSING and each.name != "direction"):
            continue
        if isinstance(new, tuple) and isinstance(old, tuple) and new[: len(old)] == old:
            new = new[len(old) :]
        changed[each.name] = new
    return changed


# -- in sentences


def sentences(account: Account, *, unmasked: bool = False) -> Iterator[tuple[float, str, str]]:
    """(seconds from the call's opening, what happened, what followed) of each entry. unmasked: numbers in full."""
    words = _Words(account.opened_ns, unmasked)
    for entry in account.entries:
        at_ns = entry.step.judged[0].fact.at_ns if entry.step.judged else entry.step.at_ns
        yield (at_ns - account.opened_ns) / 1e9, words.happened(entry.step), words.followed(entry)


def verdict(account: Account, *, unmasked: bool = False) -> Iterator[tuple[str, str, str]]:
    """(field, value, what it rests on) of the call as it stands."""
    call = account.call
    if call is None:
        return
    words = _Words(call.opened_ns, unmasked)
    rests_on = {name: words.reason(entry.step) for entry in account.entries for name in entry.changed}
    for each in dataclasses.fields(Call):
        value = getattr(call, each.name)
        if each.name == "outcome" and value is None:
            yield "outcome", "going on at the journal's end", ""
        elif each.name not in _TOLD and value is not None and value != each.default:
            yield _spaced(each.name), words.of(each.name, value), rests_on.get(each.name, "")


# Told in the heading, or entry by entry.
_TOLD = {"call_id", "line", "boot_id", "clock", "opened_ns", "marks", "bursts", "heard"}
# Of a file: nothing that a call was judged by.
_FILE = ("path", "sha256", "root", "size_bytes", "rate_hz", "frames")


class _Words:
    """How values are worded for one call."""

    def __init__(self, opened_ns: int, unmasked: bool) -> None:
        self._opened_ns, self._unmasked = opened_ns, unmasked

    def happened(self, step: Step) -> str:
        if not step.judged:
            return self._input(step.cause)
        known = [] if step.judged[0].fact is step.cause else [f"known at {self._time(step.at_ns)}: {self._why(step)}"]
        return "; ".join(self._with_details(judged.fact, known) for judged in step.judged)

    def reason(self, step: Step) -> str:
        """What a change rests on: the table's rule, or the fact itself."""
        for judged in reversed(step.judged):
            rule = _rule(judged)
            return f"{_name(judged.fact).lower()} at {self._time(judged.fact.at_ns)}" + (f", {rule}" if rule else "")
        return self._why(step)

    def followed(self, entry: Entry) -> str:
        parts = []
        for judged in entry.step.judged:
            rule = _rule(judged)
            if judged.after is not judged.before:
                why = f": {rule}" if rule else ""
                parts.append(f"{judged.before.value} -> {judged.after.value}{why}".replace("_", " "))
        parts += [f"{_spaced(name)}: {self.of(name, new)}" for name, new in entry.changed.items()]
        parts += [said for command in entry.step.commands if (said := self._command(command))]
        if not parts:
            state = entry.step.judged[-1].after.value.replace("_", " ") if entry.step.judged else ""
            return f"changes nothing ({state})" if state else "changes nothing"
        return "; ".join(parts)

    def of(self, name: str, value: Any, of: str = "") -> str:
        """The value of a field of the class named of."""
        if isinstance(value, bool):
            return "yes" if value else "no"
        if value is None:
            return "none"
        if isinstance(value, Recording):
            return f"{value.duration_s:.2f} s {self._fields(value, leave=_FILE)}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._fields(value)
        if name == "bursts":
            return ", ".join(f"{self._time(began)} to {self._time(ended)}" for began, ended in value)
        if isinstance(value, tuple):
            return ", ".join(self.of(name, each, of) for each in value)
        if not self._unmasked and private(name, value, of):
            return masked_text(value) if isinstance(value, str) else "•"
        if name.endswith("_ns") and isinstance(value, int):
            return self._time(value)
        if isinstance(value, float):
            return f"{value:.2f}"
        return _spaced(value) if value in _OUR_WORDS or name in _OWN_TEXT else str(value)

    def _fields(self, value: Any, leave: tuple[str, ...] = ()) -> str:
        said = []
        for each in dataclasses.fields(value):
            own = getattr(value, each.name)
            if each.name in leave or own is None or own is False or own in ((), "") or own == each.default:
                continue
            said.append(
                _spaced(each.name)
                if own is True
                else f"{_spaced(each.name)} {self.of(each.name, own, type(value).__name__)}"
            )
        return ", ".join(said)

    def _input(self, cause: Input | Timer) -> str:
        return f"The timer {_spaced(cause)} ran out" if isinstance(cause, str) else self._with_details(cause, [])

    def _with_details(self, of: object, more: list[str]) -> str:
        own = self._fields(of, leave=("at_ns", "known_ns", "line", "call_id", "call", *_FILE))
        details = ", ".join([*([own] if own else []), *more])
        return f"{_name(of)} ({details})" if details else _name(of)

    def _why(self, step: Step) -> str:
        return f"timer {_spaced(step.cause)}" if isinstance(step.cause, str) else _name(step.cause).lower()

    def _command(self, command: Command) -> str:
        match command:
            case StartRecording():
                return f"recording from {self._time(command.from_ns)}"
            case StopRecording():
                fate = "kept" if command.keep else "thrown away"
                return f"recording until {self._time(command.until_ns)}, {fate}"
            case SaveCall():
                return "event " + ", ".join(event.type for event in command.events) if command.events else ""
            case MuteKey():
                return f"silence in the recording for the key at {self._time(command.from_ns)}"
            case ShowLine():
                return ""  # the state is told with its rule
            case _:
                return self._other(command)

    def _other(self, command: Any) -> str:
        return f"{_name(command).lower()} ({self._fields(command, leave=('line', 'call_id'))})"

    def _time(self, at_ns: int) -> str:
        return f"{(at_ns - self._opened_ns) / 1e9:+.2f} s"


def _rule(judged: Judged) -> str:
    return TABLE[judged.before, type(judged.fact)].label_to(judged.after)


def _name(of: object) -> str:
    """The class's name in words: RingBurstOver is Ring burst over."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(of).__name__).capitalize()


def _spaced(name: str) -> str:
    return name.removesuffix("_ns").replace("_", " ")


def _literals() -> frozenset[str]:
    """Every word that a Literal of the signals, facts and records allows: ours, so never a number or a name."""

    def words(of: Any) -> Iterator[str]:
        if typing.get_origin(of) is typing.Literal:
            yield from (word for word in typing.get_args(of) if isinstance(word, str))
        for part in typing.get_args(of):
            yield from words(part)

    modules = (signals, facts, call_record, caller, numbers, hook, line)
    named = [each for module in modules for each in vars(module).values()]
    classes = {each for each in named if isinstance(each, type) and dataclasses.is_dataclass(each)}
    return frozenset(word for c in classes for hint in typing.get_type_hints(c).values() for word in words(hint))


_OUR_WORDS = _literals()
# Text that the unit itself wrote, as "name" or "Class.name". All other text came over the line, and may be a number or
# a person's name.
_OWN_TEXT = {
    "reason",
    "path",
    "sha256",
    "root",
    "call_id",
    "boot_id",
    "no_recording",
    "cut_short",
    "by",
    "source",
    "kind",
    "standard",
}
_OWN_TEXT |= {"answer_evidence", "ended_by", "ended_by_evidence", "no_dialled", "presentation", "outcome", "end_reason"}
_OWN_TEXT |= {"DeviceReady.detail", "state", "type", "fact", "in", "do", "timer"}
_KEYED = {"DialPulses.count"}  # digits that are no text


def private(name: str, value: Any, of: str = "") -> bool:
    """Whether a field's value can be what somebody dialled, keyed or is called. of: the name of its class."""
    if f"{of}.{name}" in _KEYED:
        return True
    if not isinstance(value, str) or not value or value in _OUR_WORDS:
        return False
    own = name in _OWN_TEXT or f"{of}.{name}" in _OWN_TEXT
    return not own and not (len(value) == 1 and value.isascii() and not value.isdigit())


def masked_text(text: str) -> str:
    """A number keeps its last two digits, any other text nothing."""
    digits = sum(c.isdigit() for c in text)
    if not re.fullmatch(r"[0-9*#+ -]+", text):
        return "•" * min(len(text), 8)
    return re.sub(r"[0-9](?=.*[0-9].*[0-9])" if digits > 4 else r"[0-9]", "•", text)


# -- for programs


def step_to_dict(entry: Entry, account: Account, *, unmasked: bool = False) -> dict[str, Any]:
    """JSON-ready: what happened, how the table judged it, what it changed and what was done."""
    step = entry.step
    return {
        "call_id": account.call.call_id if account.call else None,
        "line": step.line,
        "at_s": round((step.at_ns - account.opened_ns) / 1e9, 6),
        "at_ns": step.at_ns,
        "cause": {"timer": step.cause} if isinstance(step.cause, str) else _plain("in", step.cause, unmasked),
        "judged": [
            {
                "before": judged.before.value,
                "after": judged.after.value,
                "rule": _rule(judged),
                **_plain("fact", judged.fact, unmasked),
            }
            for judged in step.judged
        ],
        "changed": {name: _json(new, unmasked, name) for name, new in entry.changed.items()},
        "commands": [
            {"do": "SaveCall", "events": [event.type for event in command.events]}
            if isinstance(command, SaveCall)
            else _plain("do", command, unmasked)
            for command in step.commands
        ],
    }


def _plain(key: str, of: Any, unmasked: bool) -> dict[str, Any]:
    return {key: type(of).__name__, **_json(of, unmasked)}


def _json(value: Any, unmasked: bool, name: str = "", of: str = "") -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = type(value).__name__
        return {f.name: _json(getattr(value, f.name), unmasked, f.name, own) for f in dataclasses.fields(value)}
    if isinstance(value, State):
        return value.value
    if isinstance(value, dict):
        return {key: _json(each, unmasked, str(key), of) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json(each, unmasked, name, of) for each in value]
    if not unmasked and private(name, value, of):
        return masked_text(value) if isinstance(value, str) else None
    return value
