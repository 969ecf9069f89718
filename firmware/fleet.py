"""Many units at one broker, to see how it bears them: `simulate --units`.

Each is a Unit with its own store, outbox and MQTT connection; its calls are nobody's. Left out: lines, devices and
sound, and that every real unit is a machine of its own, whose disk and processor it does not share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import itertools
import json
import logging
import random
import resource
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from firmware.app import Unit
from firmware.clock import new_call_id
from firmware.core.call import Call, ClockRead, event
from firmware.core.line import SaveCall
from firmware.core.outbox import EventType
from firmware.generated import records
from firmware.settings import BrokerSettings, LineSettings, RecordingSettings, Settings, UnitSettings
from hw import board

SITE = "fleet"
_TURN_S = 0.02
_FILES_A_UNIT = 16
_A_PROCESS = 100  # units
_TELL_S = 0.25
_CLOSE_S = 60
_SPAWN = get_context("spawn")
_RATE_HZ, _RING_S = 8000, 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class Count:
    """How far the fleet is. filed: events that are on the units' disks; arrived: of them, at the subscriber."""

    connected: int
    filed: int
    arrived: int
    repeats: int


@dataclasses.dataclass(frozen=True, slots=True)
class _State:
    """What a part of the fleet tells of itself at one moment. filed: by unit."""

    connected: int = 0
    planned: int = 0
    orders: int = 0
    filed: dict[str, int] = dataclasses.field(default_factory=dict)
    resident_mb: float = 0.0


class Fleet:
    """A context manager. turn() takes note of what has happened; it must be called again and again.

    The units run in processes of a hundred each: paho waits with select(), which knows no more than 1,024 files.
    """

    def __init__(self, units: int, broker: BrokerSettings, directory: Path) -> None:
        self.units = units
        self._receiver = _Receiver(broker)
        self._orders = 0
        self._parts: list[tuple[SpawnProcess, Connection]] = []
        self._states: dict[int, _State] = {}
        for first in range(1, units + 1, _A_PROCESS):
            near, far = _SPAWN.Pipe()
            numbers = range(first, min(first + _A_PROCESS, units + 1))
            process = _SPAWN.Process(target=_work, args=(far, numbers, broker, directory), daemon=True)
            self._parts.append((process, near))

    def __enter__(self) -> Fleet:
        """Raises OSError, TimeoutError."""
        self._receiver.start()
        for process, _ in self._parts:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in self._parts:
            with contextlib.suppress(OSError):
                pipe.send(None)
            process.join(_CLOSE_S)
            process.kill()
            process.join()
            pipe.close()
        self._receiver.close()

    def calls(self, per_unit_an_hour: float, for_s: float) -> None:
        """Plan calls for a time: each unit has its own, at random."""
        self._orders += 1
        for _, pipe in self._parts:
            pipe.send((per_unit_an_hour, for_s))

    @property
    def planned(self) -> bool:
        """Whether calls are still to come."""
        return any(state.planned or state.orders < self._orders for state in self._now())

    def turn(self) -> None:
        for number, (process, pipe) in enumerate(self._parts):
            while pipe.poll():
                self._states[number] = pipe.recv()
            if process.exitcode:
                raise ChildProcessError(None, "a process of the fleet has ended")
        time.sleep(_TURN_S)

    def _now(self) -> list[_State]:
        return [self._states.get(number, _State()) for number in range(len(self._parts))]

    def count(self) -> Count:
        states = self._now()
        filed = sum(last for state in states for last in state.filed.values())
        return Count(sum(state.connected for state in states), filed, *self._receiver.count())

    @property
    def mb_a_unit(self) -> float:
        """Resident memory of the processes, by unit."""
        return sum(state.resident_mb for state in self._now()) / self.units

    def missing(self) -> dict[str, int]:
        """By unit, how many of its events the subscriber has not got."""
        got = self._receiver.sequences
        told = {name: last for state in self._now() for name, last in state.filed.items()}
        return {name: last - len(got[name]) for name, last in told.items() if last > len(got[name])}


def _work(pipe: Connection, numbers: range, broker: BrokerSettings, directory: Path) -> None:
    """A process of the fleet: until it is told to end, or nobody is there to tell it."""
    logging.basicConfig(level=logging.ERROR)
    part = _Part(numbers, broker, directory)
    told_s, orders = 0.0, 0
    try:
        while True:
            while pipe.poll():
                order = pipe.recv()
                if order is None:
                    return
                orders += 1
                part.calls(*order)
            part.turn()
            if time.monotonic() - told_s > _TELL_S:
                told_s = time.monotonic()
                pipe.send(part.state(orders))
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # whoever began it has gone
    finally:
        part.close()


class _Part:
    """The units of one process."""

    def __init__(self, numbers: range, broker: BrokerSettings, directory: Path) -> None:
        facts = board.load("line-tap-1")
        self._units = [Unit(_settings(n, broker, directory), facts, read_clock=_read_clock) for n in numbers]
        self._dice = random.Random(numbers[0])
        now = datetime.now(UTC)
        self._calls = itertools.chain.from_iterable(
            records(10_000, until=now, seed=n) for n in itertools.count(numbers[0])
        )
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        for unit in self._units:
            unit.deliver()

    def close(self) -> None:
        for unit in self._units:
            unit.engine.drain()
            unit.close()

    def state(self, orders: int) -> _State:
        return _State(
            connected=sum(bool(unit.connected) for unit in self._units),
            planned=len(self._due),
            orders=orders,
            filed={unit.settings.unit.unit: unit.store.kept("call")[1] for unit in self._units},
            resident_mb=_resident_mb(),
        )

    def _begin_call(self, unit: Unit) -> None:
        """A call of some seconds at one unit: it rings or is dialled now, and ends by itself."""
        made = Call.from_dict(next(self._calls))
        now = _read_clock()
        shift = now.mono_ns - made.opened_ns
        call = dataclasses.replace(
            made,
            call_id=new_call_id(),
            boot_id=unit.boot_id,
            clock=now,
            opened_ns=now.mono_ns,
            answered_ns=None if made.answered_ns is None else made.answered_ns + shift,
            ended_ns=now.mono_ns + 1_000_000_000,
        )
        first: EventType = "call.dialled" if call.direction == "outgoing" else "call.ringing"
        last: EventType = "call.missed" if call.outcome == "missed" else "call.ended"
        opened = dataclasses.replace(call, outcome=None, end_reason=None, answered_ns=None, ended_ns=None)
        file = unit._execute
        file(SaveCall(call=opened, events=(event(first, opened, now.mono_ns),)))
        whole = SaveCall(call=call, events=(event(last, call, call.ended_ns or 0),))
        self._at(time.monotonic() + 1.0, lambda: file(whole))

    def calls(self, per_unit_an_hour: float, for_s: float) -> None:
        """Plan calls for a time: each unit has its own, at random."""
        began = time.monotonic()
        for unit in self._units:
            at_s = self._dice.expovariate(per_unit_an_hour / 3600)
            while at_s < for_s:
                self._at(began + at_s, lambda unit=unit: self._begin_call(unit))  # type: ignore[misc]
                at_s += self._dice.expovariate(per_unit_an_hour / 3600)

    def _at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._order), do))

    def turn(self) -> None:
        until = time.monotonic() + _TURN_S
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        for unit in self._units:
            unit.engine.drain()
            unit.engine.advance(time.monotonic_ns())
        time.sleep(max(0.0, until - time.monotonic()))


def allow_files(units: int) -> None:
    """Let this process, and a broker that it starts, hold so many units' files and connections. Raises ValueError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(units, _A_PROCESS) * _FILES_A_UNIT + 256 + units  # the broker has a connection of each
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ValueError(f"needs {wanted} open files, the system allows {hard}; raise `ulimit -n`.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) / 1000


def _settings(number: int, broker: BrokerSettings, directory: Path) -> Settings:
    name = f"v{number:05d}"
    return Settings(
        unit=UnitSettings(site=SITE, unit=name, data_dir=directory / name),
        line=(LineSettings(number=1, codec="none"),),
        recording=RecordingSettings(rate_hz=_RATE_HZ, ring_s=_RING_S),
        broker=(broker,),
    )


def _read_clock() -> ClockRead:
    return ClockRead(mono_ns=time.monotonic_ns(), wall_ns=time.time_ns(), state="ntp")


class _Receiver:
    """Counts the events of all units as they arrive, each once."""

    def __init__(self, broker: BrokerSettings) -> None:
        self.sequences: dict[str, set[int]] = defaultdict(set)
        self._arrived = self._repeats = 0
        self._topic = f"{broker.prefix}/{SITE}/+/event/call"
        self._broker = broker
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="fleet-receiver", protocol=mqtt.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe(self._topic, qos=1) and None
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._take

    def start(self) -> None:
        """Raises OSError, TimeoutError."""
        self._client.connect(self._broker.host, self._broker.port)
        self._client.loop_start()
        if not self._ready.wait(10):
            raise TimeoutError("the broker lets nobody subscribe")

    def _take(self, _client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        name, sequence = message.topic.split("/")[-3], json.loads(message.payload)["sequence"]
        if sequence in self.sequences[name]:
            self._repeats += 1
        else:
            self.sequences[name].add(sequence)
            self._arrived += 1

    def count(self) -> tuple[int, int]:
        return self._arrived, self._repeats

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
