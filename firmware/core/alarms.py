"""Alarms: what is wrong with the line or the unit, raised once and cleared once. Pure.

One table of conditions; a condition that holds long enough is an alarm, and it stays one until the condition is over.
Words for people are in `words`.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from drivers.signals import VoiceHeard
from firmware.core.call import Call, ClockRead
from firmware.core.outbox import Event

Kind = Literal[
    "line_cut",
    "off_hook",
    "line_silent",
    "no_caller_id",
    "silent_audio",
    "clipped_audio",
    "no_file",
    "long_call",
    "repeat_calls",
    "device",
    "store",
    "unsealed",
    "timestamp",
    "copies",
    "disk",
    "disk_soon",
    "clock",
    "temperature",
    "under_voltage",
    "outbox",
    "parked",
    "unconfirmed",
]
# An alarm that is no fault of unit or line; the others are "fault".
_NOTICES = ("long_call", "repeat_calls", "line_silent", "disk_soon")
_S = 1_000_000_000
# So long a condition must hold before it is told, in seconds; 0 where it is certain at once.
_PATIENCE_S: Mapping[Kind, int] = {"line_cut": 60, "device": 30, "clock": 600, "under_voltage": 10, "temperature": 60}
_TALKED = ("answered", "outgoing_answered")
_NO_ID_CALLS = 5  # incoming calls in succession without anything of caller ID
_SILENT_CALLS = 2  # recorded calls in succession in which nobody was heard
_SILENT_S = 20  # a shorter one may be silent
_CLIPPED_CALLS = 3  # recorded calls in succession that are too loud for the codec
# So long a condition must be away before its alarm is cleared: a plug that wobbles is one alarm.
_AWAY_S: Mapping[Kind, int] = {"line_cut": 60, "device": 300, "under_voltage": 300, "temperature": 300}
_CLOCK_SET_NS = 86_400 * _S  # a clock that jumps so far was wrong before
_LESS = 0.94  # a measured value must come back below so much of its limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The owner's limits; 0 switches a condition off."""

    line_silent_days: int = 14
    disk_free_mb: int = 1000
    disk_days: int = 14
    temperature_c: int = 80
    long_call_min: int = 30
    repeat_calls: int = 5  # from one number, within an hour
    outbox_stuck_min: int = 60
    unconfirmed_h: int = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What is measured beside the line. None: it cannot be measured here."""

    disk_free_mb: int | None
    temperature_c: float | None
    under_voltage: bool | None
    clock: Literal["unsynced", "rtc", "ntp"]
    faults: Mapping[str, str]  # by device and line, as codec/1, or store/1, copies/1: what is wrong
    outboxes: Mapping[str, Mapping[str, int]]  # by sink: see CallStore.waiting()
    disk_days: int | None = None  # until it is full


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """name: its kind, and of what, as codec/1. detail holds no number of a telephone."""

    name: str
    kind: Kind
    line: int | None
    since: str  # UTC
    detail: dict[str, Any]
    acknowledged: dict[str, str] | None = None  # by, at

    @property
    def severity(self) -> Literal["fault", "notice"]:
        return "notice" if self.kind in _NOTICES else "fault"


@dataclass(slots=True)
class _Line:
    """What the alarms know of one line."""

    state: str = "idle"
    since_ns: int = 0
    call_id: str | None = None
    last_call_s: float = 0.0  # Unix time of the last sign of life
    expects_id: bool = True
    without_id: int = 0
    voice: bool = False  # heard in the present call
    listening: bool = False
    silent: int = 0
    quiet: int = 0  # recordings in succession that have no sound in them, whoever listened
    clipped: int = 0
    no_file: str | None = None  # the last call that was up and has no recording although it should
    callers: deque[tuple[int, str, str]] = field(default_factory=lambda: deque(maxlen=100))  # time, who, call


class Watch:
    """Feed it with what happens; check() tells what has changed. Thread: the loop."""

    def __init__(self, limits: Limits, lines: Mapping[int, bool], now: ClockRead, kept: Sequence[Mapping[str, Any]]):
        """lines: by number, whether caller ID is expected on it. kept: the alarms of before the start, as to_kept()."""
        self._limits = limits
        self._lines = {number: _Line(expects_id=expects) for number, expects in lines.items()}
        for line in self._lines.values():
            line.last_call_s, line.since_ns = now.wall_ns / 1e9, now.mono_ns
        self.alarms = {alarm.name: alarm for alarm in (Alarm(**each) for each in kept)}
        self._away: dict[str, int] = {}  # since when an alarm's condition is away
        self._offset_ns = now.wall_ns - now.mono_ns
        self._pending: dict[str, int] = {}  # since when a condition holds that is not told yet
        self._progress: dict[tuple[str, str], tuple[int, int]] = {}  # by sink and what: count, since when

    def to_kept(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(alarm) for alarm in self.alarms.values()]

    @property
    def lines(self) -> Sequence[int]:
        return list(self._lines)

    # -- what happens

    def line_shows(self, number: int, state: str, since_ns: int, call_id: str | None) -> None:
        line = self._lines[number]
        if call_id != line.call_id:
            line.voice = False
        line.state, line.since_ns, line.call_id = state, since_ns, call_id

    def last_call(self, number: int, unix_s: float) -> None:
        self._lines[number].last_call_s = unix_s

    def heard(self, voice: VoiceHeard) -> None:
        line = self._lines[voice.line]
        line.voice, line.silent, line.quiet = True, 0, 0

    def listens(self, number: int, now: bool) -> None:
        self._lines[number].listening = now

    def call_ended(self, call: Call, now: ClockRead) -> None:
        """A call has an outcome. To be told once."""
        line = self._lines.get(call.line)
        if line is None:
            return
        line.last_call_s = now.wall_ns / 1e9
        if call.direction == "incoming":
            line.without_id = line.without_id + 1 if call.caller.presentation == "not_received" else 0
            who = call.caller.number or call.caller.raw
            if who:
                line.callers.append((now.mono_ns, who, call.call_id))
        talked = call.outcome in _TALKED and (call.duration_s or 0) >= _SILENT_S
        if talked and line.listening and not line.voice:
            line.silent += 1

    def recorded(self, number: int, call_id: str, *, made: bool) -> None:
        """A recording was made, or failed."""
        line = self._lines.get(number)
        if line is not None:
            line.no_file = None if made else call_id

    def sounded(self, call: Call) -> None:
        """A call has a recording: what its levels say. One that is short, or was mostly paused, says nothing."""
        line, recording = self._lines.get(call.line), call.recording
        if line is None or recording is None or recording.levels is None or call.outcome not in _TALKED:
            return
        put_in_s = sum(each.duration_s for each in (*recording.muted, *recording.gaps))
        if min(call.duration_s or 0, recording.duration_s - put_in_s) < _SILENT_S:
            return
        line.quiet = line.quiet + 1 if recording.levels.silent else 0
        line.clipped = line.clipped + 1 if recording.levels.overdriven else 0

    def acknowledge(self, name: str, by: str, at: str) -> Alarm | None:
        """Somebody has taken note. None: there is no such alarm."""
        alarm = self.alarms.get(name)
        if alarm is None:
            return None
        self.alarms[name] = alarm = replace(alarm, acknowledged={"by": by, "at": at})
        return alarm

    # -- what it means

    def check(self, vitals: Vitals, now: ClockRead) -> tuple[list[Alarm], list[Alarm]]:
        """The alarms that are new, and those that are over."""
        offset_ns = now.wall_ns - now.mono_ns
        if offset_ns - self._offset_ns > _CLOCK_SET_NS:  # nothing of before can be told in days
            for each in self._lines.values():
                each.last_call_s = max(each.last_call_s, now.wall_ns / 1e9)
        self._offset_ns = offset_ns
        holding = {name: (kind, line, detail) for name, kind, line, detail in self._conditions(vitals, now)}
        self._pending = {name: self._pending.get(name, now.mono_ns) for name in holding}
        raised = []
        for name, (kind, line, detail) in holding.items():
            if name in self.alarms:
                continue
            if now.mono_ns - self._pending[name] >= _PATIENCE_S.get(kind, 0) * _S:
                since = now.iso(self._pending[name])
                self.alarms[name] = Alarm(name=name, kind=kind, line=line, since=since, detail=detail)
                raised.append(self.alarms[name])
        self._away = {name: self._away.get(name, now.mono_ns) for name in self.alarms if name not in holding}
        over = [
            name
            for name, since_ns in self._away.items()
            if now.mono_ns - since_ns >= _AWAY_S.get(self.alarms[name].kind, 0) * _S
        ]
        return raised, [self.alarms.pop(name) for name in over]

    def _conditions(self, vitals: Vitals, now: ClockRead) -> Iterator[tuple[str, Kind, int | None, dict[str, Any]]]:
        for number, line in self._lines.items():
            for kind, detail in self._of_line(line, now):
                yield f"{kind}/{number}", kind, number, detail
        yield from self._of_unit(vitals)
        for sink, counts in vitals.outboxes.items():
            if self._stuck(sink, counts["waiting"], "done", counts, self._limits.outbox_stuck_min * 60, now):
                yield f"outbox/{sink}", "outbox", None, {"waiting": counts["waiting"]}
            if self._stuck(sink, counts["unconfirmed"], "confirmed", counts, self._limits.unconfirmed_h * 3600, now):
                yield f"unconfirmed/{sink}", "unconfirmed", None, {"unconfirmed": counts["unconfirmed"]}
            if counts["parked"]:
                yield f"parked/{sink}", "parked", None, {"parked": counts["parked"]}

    def _of_line(self, line: _Line, now: ClockRead) -> Iterator[tuple[Kind, dict[str, Any]]]:
        limits = self._limits
        up_s = (now.mono_ns - line.since_ns) // _S
        if line.state == "line_cut":
            yield "line_cut", {}
        if line.state == "held_open":
            yield "off_hook", {}
        if line.state == "in_call" and limits.long_call_min and up_s > limits.long_call_min * 60:
            yield "long_call", {"minutes": up_s // 60, "call_id": line.call_id}
        quiet_days = (now.wall_ns / 1e9 - line.last_call_s) / 86_400
        if limits.line_silent_days and now.state != "unsynced" and quiet_days > limits.line_silent_days:
            yield "line_silent", {"days": int(quiet_days)}
        if line.expects_id and line.without_id >= _NO_ID_CALLS:
            yield "no_caller_id", {"calls": line.without_id}
        if max(line.silent, line.quiet) >= _SILENT_CALLS:
            yield "silent_audio", {"calls": max(line.silent, line.quiet)}
        if line.clipped >= _CLIPPED_CALLS:
            yield "clipped_audio", {"calls": line.clipped}
        if line.no_file is not None:
            yield "no_file", {"call_id": line.no_file}
        recent = [(who, call_id) for at, who, call_id in line.callers if now.mono_ns - at < 3600 * _S]
        for who, call_id in reversed(recent):
            times = sum(each == who for each, _ in recent)
            if limits.repeat_calls and times >= limits.repeat_calls:
                yield "repeat_calls", {"calls": times, "call_id": call_id}
                break

    def _of_unit(self, vitals: Vitals) -> Iterator[tuple[str, Kind, int | None, dict[str, Any]]]:
        for name, says in vitals.faults.items():
            device, _, number = name.partition("/")
            if device == "store":
                yield "store", "store", None, {"reason": says}
            elif device == "seal":
                yield "unsealed", "unsealed", None, {"reason": says}
            elif device == "timestamp":
                yield "timestamp", "timestamp", None, {"reason": says}
            elif device == "copies":
                yield "copies", "copies", None, {"reason": says}
            else:
                line = int(number) if number.isdecimal() else None
                yield name, "device", line, {"device": device, "reason": says}
        free_mb, hot_c = vitals.disk_free_mb, vitals.temperature_c
        if free_mb is not None and free_mb * (_LESS if "disk" in self.alarms else 1) < self._limits.disk_free_mb:
            yield "disk", "disk", None, {"free_mb": free_mb}
        elif vitals.disk_days is not None and vitals.disk_days < self._limits.disk_days:
            yield "disk_soon", "disk_soon", None, {"days": vitals.disk_days}
        limit_c = self._limits.temperature_c * (_LESS if "temperature" in self.alarms else 1)
        if self._limits.temperature_c and hot_c is not None and hot_c > limit_c:
            yield "temperature", "temperature", None, {"temperature_c": hot_c}
        if vitals.under_voltage:
            yield "under_voltage", "under_voltage", None, {}
        if vitals.clock == "unsynced":
            yield "clock", "clock", None, {}

    def _stuck(self, sink: str, count: int, what: str, counts: Mapping[str, int], limit_s: int, now: ClockRead) -> bool:
        """Whether something waits, and the oldest of it has waited so long."""
        before, since_ns = self._progress.get((sink, what), (-1, now.mono_ns))
        if count == 0 or counts[what] != before:
            since_ns = now.mono_ns
        self._progress[sink, what] = counts[what], since_ns
        return bool(count and limit_s and now.mono_ns - since_ns > limit_s * _S)


def event(
    type_: Literal["raised", "cleared", "acknowledged"], alarm: Alarm, text: Mapping[Any, str], now: ClockRead
) -> Event:
    """text: the alarm in words, by language."""
    data = {**dataclasses.asdict(alarm), "alarm": alarm.name, "severity": alarm.severity, "text": dict(text)}
    del data["name"]
    return Event(
        stream="system",
        type=f"alarm.{type_}",
        subject=alarm.name,
        time=now.iso(now.mono_ns),
        data={**data, "clock": now.state},
    )
