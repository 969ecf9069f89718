"""kill -9 at random moments of calls: what was heard is kept to within a second, no call or event is lost."""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import soundfile

from drivers.virtual import scenario as story
from drivers.virtual.broker import VirtualBroker
from drivers.virtual.line import ModemBytesDue, VirtualLine
from drivers.virtual.modem import VirtualModem
from drivers.virtual.sound import VirtualSound
from firmware.app import STORE
from firmware.records.store import read_table
from tests.proof.consumer import Consumer, the_consumer_has_all
from tests.proof.report import Report
from tests.proof.wire import stretches

Phase = Literal["ringing", "handshake", "lift", "talking", "closing", "idle"]

_REACH_S = 1.0  # at most so much of what was heard before the kill is lost
KILLS: dict[Phase, int] = {"ringing": 2, "handshake": 2, "lift": 4, "talking": 7, "closing": 4, "idle": 1}
_FIRST_S = 4.0  # of the scenario, when the first call begins
_LIFT_S = 6.5  # of a call with Number Display, from the exchange's first sign of it: in the first ordinary ring


@dataclass(frozen=True, slots=True)
class Plan:
    """Call after call with Number Display; times in s from a call's beginning."""

    talk_s: float

    @property
    def hang_up_s(self) -> float:
        return _LIFT_S + self.talk_s

    @property
    def known_s(self) -> float:
        """The hang-up is certain, and the file is closed."""
        return self.hang_up_s + 1.25

    @property
    def call_s(self) -> float:
        """From one call to the next: enough for a unit that was killed in the pause to be back."""
        return self.known_s + 4.25

    def begins_s(self, number: int) -> float:
        return _FIRST_S + number * self.call_s

    def window_s(self, phase: Phase) -> tuple[float, float]:
        match phase:
            case "ringing":
                return 1.1, 2.3
            case "handshake":
                return 2.9, 4.0
            case "lift":
                return _LIFT_S, _LIFT_S + 0.3
            case "talking":
                return _LIFT_S + 1, self.hang_up_s
            case "closing":
                return self.known_s - 0.05, self.known_s + 0.2
            case "idle":
                return self.known_s + 1, self.known_s + 2

    def moments(self, phases: Sequence[Phase], seed: int) -> list[Kill]:
        dice = random.Random(seed)
        return [
            Kill(phase, number, self.begins_s(number) + dice.uniform(*self.window_s(phase)))
            for number, phase in enumerate(phases)
        ]

    def scenario_text(self, calls: int) -> str:
        lines = ["title The unit is killed in call after call", "number display"]
        for number in range(calls):
            at_s = self.begins_s(number)
            lines += [
                f"{at_s:.2f} call from 090-0000-{1000 + number}",
                f"{at_s + _LIFT_S:.2f} lift",
                f"{at_s + _LIFT_S + 0.4:.2f} shop says greeting",
            ]
            if self.talk_s > 8:
                lines.append(f"{at_s + _LIFT_S + 5.2:.2f} caller says order")
            lines.append(f"{at_s + self.hang_up_s:.2f} hang up")
        return "\n".join([*lines, f"end {self.begins_s(calls):.2f}"]) + "\n"


@dataclass(slots=True)
class Kill:
    phase: Phase
    number: int  # of the call, from 0
    at_s: float  # of the scenario
    at_ns: int = 0  # monotonic, when it was done
    interrupted: int = 0  # calls that were open
    kept_s: float | None = None  # of a cut recording
    lost_s: float | None = None  # between the end of a cut recording and the kill (or the end of the call)
    lag_ms: float | None = None  # of its sound against the wire
    back_s: float = 0.0  # until all was filed and the unit's drivers were started again


@dataclass(slots=True)
class Outcome:
    kills: list[Kill]
    calls: int = 0
    events: int = 0
    repeats: int = 0  # events that the consumer got twice


class _Rig:
    """Line, sound, modem and broker in this process, the unit in another. Directory and all are the caller's."""

    def __init__(self, work: Path, scenario: Path) -> None:
        self.data = work / "data"
        self.scenario = scenario
        self.line = VirtualLine(story.load(scenario))
        self._work = work
        self.broker = VirtualBroker(work / "broker")
        self._sound = VirtualSound(work / "sound")
        dialect = self.line.scenario.modem
        assert dialect is not None
        self._modem = VirtualModem(work / "modem", dialect)
        self.base_ns = 0
        self._unit: subprocess.Popen[str] | None = None
        self.log = work / "unit.log"
        self.broker_log = work / "broker" / "mosquitto.log"

    @contextmanager
    def running(self) -> Iterator[None]:
        """The scenario's 0 is a moment ahead when this begins."""
        wire = self._work / "wire.s16le"
        rate_hz, end_s = self.line.rate_hz, -(-self.line.scenario.end_ns // 1_000_000_000)
        with wire.open("wb") as file:
            for second in range(end_s):
                file.write(self.line.pcm(second * rate_hz, rate_hz))
        self.broker.start()
        try:
            self._sound.start()
            self.base_ns = self._sound.play(wire)
            threading.Thread(target=self._play_modem, name="modem-bytes", daemon=True).start()
            yield
        finally:
            if self._unit is not None and self._unit.poll() is None:
                self.kill()
            self._modem.close()
            self._sound.close()
            self.broker.close()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """What unit and broker said last goes along with a failure."""
        try:
            yield
        except AssertionError as wrong:
            for log in (self.log, self.broker_log):
                wrong.add_note(f"{log.name}: {log.read_text(encoding='utf-8')[-3000:]}")
            raise

    def _play_modem(self) -> None:
        for due in self.line.changes():
            if isinstance(due, ModemBytesDue):
                self.wait_until(due.at_ns / 1e9)
                if due.kind == "ring":
                    self._modem.ring()
                else:
                    self._modem.caller_id(due.number, due.presentation, due.name, due.date_raw or "")

    def wait_until(self, scenario_s: float) -> None:
        time.sleep(max(0.0, (self.base_ns - time.monotonic_ns()) / 1e9 + scenario_s))

    def start(self) -> float:
        """Start the unit; the seconds until it is at work."""
        began = time.monotonic()
        arguments = [self.scenario, self.data, self._work / "modem", self.broker.port, self.base_ns]
        with self.log.open("a", encoding="utf-8") as log:
            self._unit = subprocess.Popen(
                [sys.executable, "-m", "tests.proof.unit", *map(str, arguments)],
                cwd=Path(__file__).parents[2],
                env=os.environ | self._sound.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._unit.stdout is not None
        assert self._unit.stdout.readline() == "ready\n", self.log.read_text(encoding="utf-8")[-2000:]
        return time.monotonic() - began

    def kill(self) -> int:
        """kill -9; the monotonic ns right before."""
        assert self._unit is not None and self._unit.stdout is not None
        assert self._unit.poll() is None, f"the unit ended by itself: {self.log.read_text(encoding='utf-8')[-2000:]}"
        at_ns = time.monotonic_ns()
        self._unit.send_signal(signal.SIGKILL)
        self._unit.wait()
        self._unit.stdout.close()
        return at_ns

    def stop(self) -> None:
        assert self._unit is not None and self._unit.stdout is not None
        self._unit.terminate()
        assert self._unit.wait(20) == 0
        self._unit.stdout.close()


@dataclass(frozen=True, slots=True)
class _Disk:
    """What stands on the disk at one moment."""

    calls: dict[str, dict[str, Any]]  # in the order of filing
    events: list[dict[str, Any]]  # of stream call, in order of sequence
    files: dict[str, str]  # recordings: name -> SHA-256

    @staticmethod
    def read(data: Path) -> _Disk:
        files = (path for path in (data / "recordings").rglob("*") if path.is_file())
        return _Disk(
            {call["call_id"]: dict(call) for call in read_table(data / STORE, "calls")},
            [dict(told) for told in read_table(data / STORE, "events") if "-call-" in told["id"]],
            {str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        )


def run(work: Path, plan: Plan, phases: Sequence[Phase], seed: int, report: Report | None = None) -> Outcome:
    """Kill the unit once in each of as many calls, start it again each time, and check what it made of it."""
    path = work / "killed.txt"
    path.write_text(plan.scenario_text(len(phases)), encoding="utf-8")
    rig = _Rig(work, path)
    outcome = Outcome(plan.moments(phases, seed))
    with rig.running(), rig.telling(), Consumer(rig.broker.port) as consumer:
        rig.start()
        for kill in outcome.kills:
            rig.wait_until(kill.at_s)
            kill.at_ns = rig.kill()
            received = consumer.events()
            before = _Disk.read(rig.data)
            consumer.until(lambda: consumer.told("status")[-1] == "offline", 10)
            kill.back_s = rig.start()
            try:
                the_unit_recovered(rig, plan, kill, before, _Disk.read(rig.data), received)
            except AssertionError as wrong:
                wrong.add_note(f"seed {seed}, {kill}")
                raise
            if report:
                report.progress((kill.number + 1) / len(phases))
        rig.wait_until(rig.line.scenario.end_ns / 1e9)
        after = _Disk.read(rig.data)
        consumer.until(lambda: len({body["sequence"] for body in consumer.events()}) >= len(after.events), 70)
        outcome.repeats = the_consumer_has_all(consumer.events(), after.events)
        rig.stop()
        consumer.until(lambda: consumer.told("status")[-1] == "offline", 10)
    outcome.calls, outcome.events = len(after.calls), len(after.events)
    assert all(call["outcome"] for call in after.calls.values()), "a call was left open"
    twice = "tsuroku:demo:virtual-1 already connected"
    assert twice not in rig.broker_log.read_text(encoding="utf-8"), "the unit drives its own connection out"
    assert "Traceback" not in rig.log.read_text(encoding="utf-8"), rig.log.read_text(encoding="utf-8")[-4000:]
    return outcome


def the_unit_recovered(
    rig: _Rig, plan: Plan, kill: Kill, before: _Disk, after: _Disk, received: list[dict[str, Any]]
) -> None:
    for name, digest in before.files.items():
        assert after.files.get(name) == digest, f"{name} was touched"
    assert list(after.calls)[: len(before.calls)] == list(before.calls), "a call was lost, or its place changed"
    assert after.events[: len(before.events)] == before.events, "an event was lost or changed"
    assert [body["sequence"] for body in after.events] == list(range(1, len(after.events) + 1))
    stored = {body["id"]: body for body in before.events}
    for body in received:
        assert stored.get(body["id"]) == body, f"event {body['id']} was published and is not in the store"
    for call_id, call in before.calls.items():
        if call["outcome"] is None:
            kill.interrupted += 1
            assert after.calls[call_id]["outcome"] == "interrupted"
            assert after.calls[call_id]["end_reason"] == "unit_stopped"
        elif call["no_recording"] == "not_closed_yet":
            assert after.calls[call_id]["outcome"] == call["outcome"]
        else:
            assert after.calls[call_id] == call, "a call that was closed has changed"
            continue
        _the_sound_is_kept(rig, plan, kill, after.calls[call_id], after.events)


def _the_sound_is_kept(rig: _Rig, plan: Plan, kill: Kill, call: dict[str, Any], events: list[dict[str, Any]]) -> None:
    told = [body for body in events if body["subject"] == call["call_id"]]
    recording = call["recording"]
    if recording is None:
        assert call["no_recording"] not in ("not_ended", "not_closed_yet", None)
        # A lift is certain after 100 ms, and the file with its pre-roll begun some ms later.
        since_lift_s = (kill.at_ns - rig.base_ns) / 1e9 - plan.begins_s(kill.number) - _LIFT_S
        assert call["answered_ns"] is None and since_lift_s < 0.25, "an answered call has no recording"
        return
    path = rig.data / recording["path"]
    ready = [body for body in told if body["type"] == "recording.ready"]
    assert len(ready) == 1
    repaired = path.name.endswith(".repaired.flac")
    assert ready[0]["data"].get("repaired", False) == repaired
    assert hashlib.sha256(path.read_bytes()).hexdigest() == recording["sha256"]
    pcm, rate_hz = soundfile.read(path, dtype="int16")
    assert (len(pcm), rate_hz) == (recording["frames"], recording["rate_hz"])
    for command in (["flac", "-st", path], ["ffmpeg", "-v", "error", "-xerror", "-i", path, "-f", "null", "-"]):
        if shutil.which(str(command[0])):
            subprocess.run([str(part) for part in command], check=True, timeout=60)
    ends_ns = recording["from_ns"] + round(recording["duration_s"] * 1e9)
    wanted_ns = kill.at_ns
    if call["outcome"] != "interrupted":  # it was over: the recording ends where the hang-up became certain
        wanted_ns = min(wanted_ns, call["ended_ns"] + 1_250_000_000)
    kill.kept_s, kill.lost_s = recording["duration_s"], (wanted_ns - ends_ns) / 1e9
    assert -0.1 < kill.lost_s < _REACH_S, f"{kill.lost_s:.2f} s of what was heard before the kill are missing"
    for stretch in stretches(path, recording["from_ns"], rig.line, rig.base_ns, 0.5):
        assert stretch.correlation > 0.999, stretch
        kill.lag_ms = max(kill.lag_ms or 0.0, abs(stretch.lag_ms))
        assert abs(stretch.lag_ms) < 60, stretch


def prove(report: Report) -> None:
    seed = secrets.randbelow(1_000_000)
    report.figure("seed", seed)
    phases = [phase for phase, kills in KILLS.items() for _ in range(kills)]
    random.Random(seed).shuffle(phases)
    with tempfile.TemporaryDirectory(prefix="tsuroku-") as work:
        outcome = run(Path(work), Plan(talk_s=12.0), phases, seed, report)
    report.figure("kills", ", ".join(f"{kills} {phase}" for phase, kills in KILLS.items()))
    report.figure("calls, events", f"{outcome.calls}, {outcome.events}; none lost or renumbered")
    report.figure("calls interrupted", sum(kill.interrupted for kill in outcome.kills))
    lost = [kill.lost_s for kill in outcome.kills if kill.lost_s is not None]
    report.figure("cut recordings that play", len(lost))
    report.figure("sound missing before the kill", f"{min(lost):.2f} to {max(lost):.2f} s")
    report.figure("lag against the wire", f"{max(kill.lag_ms or 0.0 for kill in outcome.kills):.1f} ms at most")
    report.figure("at work again after", f"{max(kill.back_s for kill in outcome.kills):.1f} s at most")
    report.figure("events the consumer got twice", outcome.repeats)
