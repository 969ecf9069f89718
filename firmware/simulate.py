"""Plays a scenario on the virtual line: stepped (hours in seconds, no threads) or live through every real driver."""

from __future__ import annotations

import contextlib
import heapq
import logging
import math
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from gpiozero.pins.mock import MockFactory

from drivers.modem_text import ModemText
from drivers.signals import (
    AudioBlock,
    ButtonPressed,
    DeviceLost,
    DeviceReady,
    LinePresentEdge,
    LoopEdge,
    PolarityEdge,
    RingEdge,
    Signal,
)
from drivers.softmodem.listener import SoftModem
from drivers.virtual.broker import VirtualBroker
from drivers.virtual.line import ButtonPress, Change, Fault, ModemBytesDue, PinChange, VirtualLine
from drivers.virtual.modem import Dialect, VirtualModem, caller_id_bytes, ring_bytes
from drivers.virtual.pins import VirtualPins
from drivers.virtual.scenario import Break, LoseAudio, Scenario
from drivers.virtual.sound import AUDIO_DELAY_MS, RATE_HZ, SoundError, VirtualSound
from firmware import clock
from firmware.app import STORE, Unit, hardware
from firmware.core.call import ClockRead
from firmware.records.store import CallReader
from firmware.settings import BrokerSettings, LineSettings, RecordingSettings, Settings, UnitSettings
from hw import board

log = logging.getLogger(__name__)

BASE_NS = 1_000_000_000_000  # the unit has been up for 1000 s when a stepped scenario begins
_BOOT_NS = 20_000_000_000  # a Pi is dark this long after a power cut


def virtual_settings(
    scenarios: Scenario | Sequence[Scenario],
    data_dir: Path,
    *,
    modem: str | Sequence[str | None] | None = None,
    broker: BrokerSettings | None = None,
    recording: RecordingSettings = RecordingSettings(),  # noqa: B008 - it cannot change
) -> Settings:
    """The settings of a unit on the virtual line; on several of them, one scenario and channel each."""
    played = [scenarios] if isinstance(scenarios, Scenario) else scenarios
    modems = [modem] if modem is None or isinstance(modem, str) else modem
    lines = tuple(
        LineSettings(
            number=number,
            codec="linetap",
            channel=number,
            modem=port,
            country=each.country,
            number_display=each.number_display,
        )
        for number, (each, port) in enumerate(zip(played, modems, strict=True), 1)
    )
    return Settings(
        unit=UnitSettings(site="demo", unit="virtual-1", data_dir=data_dir, board=f"line-tap-{len(lines)}"),
        line=lines,
        recording=recording,
        broker=(broker,) if broker else (),
    )


def stepped(
    scenario: Scenario,
    data_dir: Path,
    *,
    progress: Callable[[float], None] = lambda part: None,
    recording: RecordingSettings = RecordingSettings(),  # noqa: B008 - it cannot change
) -> VirtualLine:
    """Run the scenario on virtual time. Same core, recorder and store as live; drivers' threads are left out.

    data_dir must not hold a store yet. progress is told the part done, 0 to 1. recording: the settings'. Returns the
    line: what was on the wire.
    """
    line = VirtualLine(scenario)
    stepper = _Stepper(scenario, line, data_dir, recording)
    last = 0
    for at_ns, step in stepper.agenda():
        if at_ns // 60_000_000_000 > last:
            last = at_ns // 60_000_000_000
            progress(at_ns / scenario.end_ns)
        stepper.at_ns = at_ns
        step()
    stepper.finish()
    progress(1.0)
    return line


class _Stepper:
    def __init__(self, scenario: Scenario, line: VirtualLine, data_dir: Path, recording: RecordingSettings) -> None:
        self.at_ns = 0
        self._scenario, self._line = scenario, line
        modem = "virtual" if scenario.modem else None
        self._settings = virtual_settings(scenario, data_dir, modem=modem, recording=recording)
        self._random = random.Random(1)
        self._levels = line.initial()
        self._boots = 0
        self._dark = False
        self._codec, self._modem = True, scenario.modem is not None
        self._lost = list(line.lost())
        self._delivered = 0  # index after the last frame the codec delivered
        self._rate_hz = self._settings.recording.rate_hz
        self._buffer = self._settings.recording.buffer_frames
        self._boot()

    def _boot(self) -> None:
        self._boots += 1
        self._text = ModemText(1, self._scenario.country)
        self._listener = SoftModem(1, self._scenario.country, self._rate_hz)
        self.unit = Unit(
            self._settings,
            board.load(self._settings.unit.board),
            live=False,
            now=lambda: BASE_NS + self.at_ns,
            read_clock=self._clock,
            new_call_id=lambda: clock.uuid7(self._clock().wall_ns // 1_000_000, self._random.randbytes(10)),
            boot_id=f"00000000-0000-4000-8000-{self._boots:012d}",
        )
        self.unit.recover()
        for name, active in self._levels.items():
            self._pin(name, active, initial=True)

    def _clock(self) -> ClockRead:
        wall_ns = round(self._scenario.start.timestamp()) * 1_000_000_000 + self.at_ns
        return ClockRead(mono_ns=BASE_NS + self.at_ns, wall_ns=wall_ns, state="ntp")

    def agenda(self) -> Iterator[tuple[int, Callable[[], None]]]:
        """Everything that happens, in order of time; at one instant the line's changes come before the sound."""
        changes = ((change.at_ns, 0, self._changing(change)) for change in self._line.changes())
        frame_ns = 1_000_000_000 // self._rate_hz
        blocks = (
            ((first + self._buffer) * frame_ns, 1, self._capturing(first))
            for first in range(0, self._scenario.end_ns // frame_ns - self._buffer + 1, self._buffer)
        )
        for at_ns, _, step in heapq.merge(changes, blocks, key=lambda item: item[:2]):
            yield at_ns, step

    def finish(self) -> None:
        self.at_ns = self._scenario.end_ns
        if not self._dark:
            self._pass_time()
            self.unit.close()

    def _changing(self, change: Change) -> Callable[[], None]:
        return lambda: self._change(change)

    def _capturing(self, first: int) -> Callable[[], None]:
        return lambda: self._capture(first)

    def _pass_time(self) -> None:
        """Let the modem's quiet time, the unit's timers and its recorder take note of the present."""
        now = BASE_NS + self.at_ns
        while (due := self._text.due_ns) is not None and due <= now:
            self._tell(self._text.tick(due))
        self.unit.engine.advance(now)
        self.unit.engine.drain()

    def _tell(self, signals: Sequence[Signal]) -> None:
        for signal in signals:
            self.unit.engine.take(signal)
        self.unit.engine.drain()

    def _pin(self, name: str, active: bool, *, initial: bool = False) -> None:
        at = BASE_NS + self.at_ns
        match name:
            case "loop":
                self._tell([LoopEdge(at_ns=at, line=1, closed=active, initial=initial)])
            case "line_present":
                self._tell([LinePresentEdge(at_ns=at, line=1, present=active, initial=initial)])
            case "polarity":
                self._tell([PolarityEdge(at_ns=at, line=1, reversed=active, initial=initial)])
            case _ if not initial:
                self._tell([RingEdge(at_ns=at, line=1, active=active)])

    def _change(self, change: Change) -> None:
        if isinstance(change, PinChange):
            self._levels[change.name] = change.active
        if self._dark:
            return
        self._pass_time()
        match change:
            case PinChange():
                self._pin(change.name, change.active)
            case ButtonPress():
                self._tell([ButtonPressed(at_ns=BASE_NS + self.at_ns)])
            case ModemBytesDue() if self._modem:
                self._tell(self._text.feed(modem_bytes(self._scenario.modem, change), BASE_NS + self.at_ns))
            case Fault():
                self._fault(change)

    def _fault(self, fault: Fault) -> None:
        at = BASE_NS + self.at_ns
        if fault.device == "power":
            self._cut_power()
        elif fault.device in ("modem", "codec"):
            here = fault.action == "plug"
            if fault.device == "modem":
                self._modem = here
            else:
                self._codec = here
            self._tell(
                [DeviceReady(at_ns=at, device=fault.device, line=1, detail="plugged in again")]
                if here
                else [DeviceLost(at_ns=at, device=fault.device, line=1, reason="It was unplugged; plug it in again.")]
            )

    def _cut_power(self) -> None:
        """What write() has taken stays; what was in the unit's memory is gone."""
        data = self._settings.unit.data_dir
        left = data.with_name(data.name + ".cut")
        shutil.copytree(data, left)
        self.unit.close()
        shutil.rmtree(data)
        left.rename(data)
        self._dark = True
        self._dark_until_ns = self.at_ns + _BOOT_NS

    def _capture(self, first: int) -> None:
        if self._dark:
            if self.at_ns < self._dark_until_ns:
                return
            self._dark = False
            self._delivered = first
            self._boot()
        self._pass_time()
        recorder = self.unit.recorders[1]
        now = BASE_NS + self.at_ns
        for begin, end in self._heard(first, first + self._buffer):
            pcm = self._line.pcm(begin, end - begin)
            at = BASE_NS + begin * (1_000_000_000 // self._rate_hz)
            block = AudioBlock(at_ns=at, pcm=pcm, lost_frames=begin - self._delivered)
            recorder.take(block)
            self._tell(self._listener.feed(block))
            self._delivered = end
        recorder.tick(now)
        self.unit.engine.drain()

    def _heard(self, first: int, end: int) -> list[tuple[int, int]]:
        """The parts of [first, end) that the codec delivers."""
        if not self._codec:
            return []
        parts, at = [], first
        for lost, frames in self._lost:
            if lost + frames > at and lost < end:
                if lost > at:
                    parts.append((at, lost))
                at = max(at, lost + frames)
        if at < end:
            parts.append((at, end))
        return parts


def modem_bytes(dialect: Dialect | None, due: ModemBytesDue) -> bytes:
    """What a modem of this dialect puts on its port."""
    if due.kind == "raw" or dialect is None:
        return due.raw
    if due.kind == "ring":
        return ring_bytes(due.pattern)
    return caller_id_bytes(dialect, due.number, due.presentation, due.name, due.date_raw or "")


class LiveUnit:
    """A unit on the virtual line in real time: gpiozero on mock pins, pyserial on a pty, PyAudio on a private
    PulseAudio sink, a real Mosquitto. A context manager; play() runs the scenarios on the calling thread, each on a
    line of its own; the first is line 1.
    """

    def __init__(self, scenarios: Scenario | Sequence[Scenario], data_dir: Path) -> None:
        self.scenarios = [scenarios] if isinstance(scenarios, Scenario) else list(scenarios)
        for scenario in self.scenarios:
            for step in scenario.steps:
                if isinstance(step.action, LoseAudio) or _is_power(step.action):
                    raise ValueError(
                        f"{scenario.path}: at {step.at_ns / 1e9:g} s is a fault that only stepped time can cause; "
                        "leave out --live."
                    )
        self.lines = [VirtualLine(scenario) for scenario in self.scenarios]
        self._data_dir = data_dir
        self._playing_on: threading.Thread | None = None
        self.base_ns = 0  # the monotonic time of the scenarios' 0, once they play

    def __enter__(self) -> LiveUnit:
        """Raises SoundError, BrokerUnavailable; then nothing is left running."""
        with contextlib.ExitStack() as started:
            self._start(started)
            self._started = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    def _start(self, started: contextlib.ExitStack) -> None:
        work = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="tsuroku-", ignore_cleanup_errors=True)))
        self._wire = work / "wire.s16le"
        self.broker = VirtualBroker(work / "broker")
        started.callback(self.broker.close)
        self.broker.start()
        self.sound = VirtualSound(work / "sound", len(self.lines))
        started.callback(self._unplug_codec)
        self.sound.start()
        self.modems = [
            VirtualModem(work / f"modem-{number}", scenario.modem) if scenario.modem else None
            for number, scenario in enumerate(self.scenarios, 1)
        ]
        for modem in self.modems:
            if modem:
                started.callback(modem.close)
        os.environ.update(self.sound.environment())
        settings = virtual_settings(
            self.scenarios,
            self._data_dir,
            modem=[modem.port if modem else None for modem in self.modems],
            broker=BrokerSettings(host="127.0.0.1", port=self.broker.port, tls=False),
            recording=RecordingSettings(audio_delay_ms=AUDIO_DELAY_MS),
        )
        facts = board.load(settings.unit.board)
        factory = MockFactory()
        self.pins = VirtualPins(factory, facts)
        for number, line in enumerate(self.lines, 1):
            for name, active in line.initial().items():
                self.pins.set(number, name, active)
        self.unit = Unit(settings, facts)
        started.callback(self.unit.close)
        drivers, panel = hardware(self.unit, pin_factory=factory)
        self.unit.start(drivers, panel)
        loop = threading.Thread(target=self.unit.run, name="loop", daemon=True)
        loop.start()
        started.callback(loop.join, timeout=5)
        started.callback(self.unit.engine.stop)

    def play(self) -> None:
        """Play the scenarios to the end of the longest. The wires' sound is made before, so that it cannot stutter."""
        end_ns, rate_hz = max(scenario.end_ns for scenario in self.scenarios), RATE_HZ
        with self._wire.open("wb") as file:
            for second in range(-(-end_ns // 1_000_000_000)):
                parts = [np.frombuffer(line.pcm(second * rate_hz, rate_hz), "<i2") for line in self.lines]
                file.write(np.stack(parts, axis=1).tobytes())
        self.base_ns = self.sound.play(self._wire)
        changes = [zip(line.changes(), repeat(number)) for number, line in enumerate(self.lines, 1)]
        for change, number in heapq.merge(*changes, key=lambda each: each[0].at_ns):
            late_s = (self.base_ns + change.at_ns - time.monotonic_ns()) / 1e9
            if late_s > 0:
                time.sleep(late_s)
            self._happen(change, number)
        time.sleep(max(0.0, (self.base_ns + end_ns - time.monotonic_ns()) / 1e9))

    def _happen(self, change: Change, line: int) -> None:
        modem = self.modems[line - 1]
        match change:
            case PinChange():
                self.pins.set(line, change.name, change.active, self.base_ns + change.at_ns)
            case ButtonPress():
                self.pins.press_button()
            case ModemBytesDue() if modem:
                self._modem_says(modem, change)
            case Fault(device="modem") if modem:
                modem.unplug() if change.action == "unplug" else modem.plug()
            case Fault(device="codec"):
                self._plug_codec() if change.action == "plug" else self._unplug_codec()
            case Fault(device="broker"):
                self.broker.stop() if change.action == "stop" else self.broker.start()

    def _plug_codec(self) -> None:
        self.sound.plug()
        # On a thread of its own: what the line does next must not wait for the sound.
        self._playing_on = threading.Thread(target=self._play_on, name="wire", daemon=True)
        self._playing_on.start()

    def _play_on(self) -> None:
        try:
            self.sound.play_on(self._wire, self.base_ns)
        except SoundError as error:
            log.error("event=wire_silent reason=%s", error)

    def _unplug_codec(self) -> None:
        if self._playing_on:
            self._playing_on.join()
        self.sound.unplug()

    @staticmethod
    def _modem_says(modem: VirtualModem, due: ModemBytesDue) -> None:
        if due.kind == "ring":
            modem.ring(due.pattern)
        elif due.kind == "caller_id":
            modem.caller_id(due.number, due.presentation, due.name, due.date_raw or "")
        else:
            modem.write_raw(due.raw)


def _is_power(action: object) -> bool:
    return isinstance(action, Break) and action.device == "power"


# -- what a scenario expects


def seconds(call: Mapping[str, Any], key: str, base_ns: int) -> float | None:
    """A time of a call in seconds of the scenario."""
    value = call[key + "_ns"]
    return None if value is None else (value - base_ns) / 1e9


def results(data_dir: Path, before: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The calls, and their events, that a unit wrote, in the order of filing; without so many calls that were there."""
    reader = CallReader(data_dir / STORE)
    try:
        return [call for _, call in reader.numbered(before)], list(reader.events(("call",)))
    finally:
        reader.close()


def check(
    scenario: Scenario,
    data_dir: Path,
    *,
    base_ns: int = BASE_NS,
    tolerance_s: float = 0.02,
    before: int = 0,
    line: int = 1,
) -> list[str]:
    """Compare what a unit wrote of a line with what its scenario expects; a sentence for each that differs."""
    calls, events = results(data_dir, before)
    calls = [call for call in calls if call["line"] == line]
    events = [event for event in events if event["data"]["line"] == line]
    wanted = scenario.expects
    wrong = []
    if wanted.calls is not None and len(calls) != wanted.calls:
        wrong.append(f"{scenario.path}: expected {wanted.calls} calls, the unit filed {len(calls)}.")
    types = [e["type"] for e in events if not e["type"].startswith("callback.")]  # what follows from the others
    if wanted.events is not None and types != list(wanted.events):
        told = " ".join(types)
        wrong.append(f"{scenario.path}: expected events {' '.join(wanted.events)}; the unit wrote {told}.")
    for number, fields in wanted.call.items():
        if number > len(calls):
            wrong.append(f"{scenario.path}: expected a call {number}, there is none.")
            continue
        call = calls[number - 1]
        facts = facts_of(call, base_ns)
        for key, value in fields.items():
            got = facts[key]
            if isinstance(got, float):
                same = value != "none" and abs(got - float(value)) <= tolerance_s
                got = round(got, 3)
            else:
                same = str(got) == value
            if not same:
                wrong.append(f"{scenario.path}: call {number}: expected {key}={value}, found {got}.")
    return wrong


def facts_of(call: Mapping[str, Any], base_ns: int) -> dict[str, str | int | float]:
    """All that can be expected of a call (drivers.virtual.scenario.FACTS)."""
    recording = call["recording"]
    values: dict[str, Any] = {
        "direction": call["direction"],
        "outcome": call["outcome"],
        "end_reason": call["end_reason"],
        "number": call["caller"]["raw"],
        "name": call["caller"]["name"],
        "presentation": call["caller"]["presentation"],
        "sources": ",".join(call["caller"]["sources"]) or None,
        "region": call["caller"]["region_en"],
        "waiting": ",".join(mark["detail"] for mark in call["marks"] if mark["kind"] == "call_waiting") or None,
        "dialled": call["dialled"] and call["dialled"]["raw"],
        "evidence": call["answer_evidence"],
        "ended_by": call["ended_by"],
        "keys": call["keyed"],
        "no_recording": call["no_recording"],
        "rings": call["rings"],
        "recording": "yes" if recording else "no",
        "filled": recording and math.fsum(gap["duration_s"] for gap in recording["gaps"]),
        "flashes": sum(mark["kind"] == "flash" for mark in call["marks"]),
        "marks": ",".join(mark["kind"] for mark in call["marks"]) or None,
        "answered": seconds(call, "answered", base_ns),
        "opened": seconds(call, "opened", base_ns),
        "ended": seconds(call, "ended", base_ns),
        "recorded_from": recording and (recording["from_ns"] - base_ns) / 1e9,
        "recorded_to": recording and (recording["from_ns"] - base_ns) / 1e9 + recording["duration_s"],
    }
    return {key: "none" if value is None else value for key, value in values.items()}
