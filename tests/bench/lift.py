"""From the lift of the handset to the event at a subscriber."""

from __future__ import annotations

import json
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from gpiozero.pins.mock import MockFactory
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from drivers.virtual.broker import VirtualBroker
from drivers.virtual.pins import VirtualPins
from drivers.virtual.sound import VirtualSound
from firmware.app import Unit, hardware
from firmware.settings import BrokerSettings, LineSettings, RecordingSettings, Settings, UnitSettings
from hw import board
from tests.bench.filled import CALLS_FILLED, fill
from tests.bench.report import Progress, Table, quantile

_LIFTS = 100
_AIM_MS = 50
_ECHO = "bench/echo"


class Subscriber:
    """A subscriber to everything, and a publisher beside it, on one broker."""

    def __init__(self, port: int) -> None:
        self.arrived: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()  # ns, type of the event or "echo"
        self._subscriber = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._subscriber.on_message = self._message
        ready = threading.Event()
        self._subscriber.on_subscribe = lambda *_: ready.set()
        self._publisher = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        for client in (self._subscriber, self._publisher):
            client.connect("127.0.0.1", port)
            client.loop_start()
        self._subscriber.subscribe(
            [("tsuroku/v1/+/+/event/call", SubscribeOptions(qos=1)), (_ECHO, SubscribeOptions(qos=1))]
        )
        ready.wait(5)
        self._payload = b"{}"

    def _message(self, _client: object, _userdata: object, message: Any) -> None:
        at_ns = time.monotonic_ns()
        if message.topic == _ECHO:
            self.arrived.put((at_ns, "echo"))
        else:
            self._payload = message.payload
            self.arrived.put((at_ns, json.loads(message.payload)["type"]))

    def wait(self, wanted: str) -> int:
        """When the next message of this kind arrived. Raises queue.Empty after 10 s."""
        while True:
            at_ns, kind = self.arrived.get(timeout=10)
            if kind == wanted:
                return at_ns

    def echo_ms(self) -> float:
        """A bare round trip with QoS 1 and the payload of the last event."""
        sent_ns = time.monotonic_ns()
        self._publisher.publish(_ECHO, self._payload, qos=1)
        return (self.wait("echo") - sent_ns) / 1e6

    def close(self) -> None:
        for client in (self._subscriber, self._publisher):
            client.disconnect()
            client.loop_stop()


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    lifts = 20 if quick else _LIFTS
    rows: list[tuple[str, ...]] = []
    figures: dict[str, float] = {}
    stores = (0,) if quick else (0, CALLS_FILLED)
    for number, filled in enumerate(stores):
        told = _lifts(work / f"lift-{filled}", filled, lifts, _part_of(progress, number, len(stores), filled))
        for name, times_ms in told.items():
            figure = {"p50": quantile(times_ms, 0.5), "p99": quantile(times_ms, 0.99), "max": max(times_ms)}
            cells = (f"{value:.1f}" for value in figure.values())
            rows.append((name, f"{filled:,}", str(len(times_ms)), *cells))
            key = "lift" if name.startswith("lift") else "echo"
            key = key + "_" + name.rpartition(" ")[2].replace(".", "_") if key == "lift" else key
            figures |= {f"{key}_{filled}_{kind}_ms": round(value, 2) for kind, value in figure.items()}
    return Table(
        title="Lift of the handset to the event at a subscriber",
        how=(
            "From the moment the comparator's pin changes to the arrival of the event at a paho subscriber, without "
            "the 100 ms that a lift must last to be one; after each lift a bare QoS 1 round trip of the same size "
            "over the same Mosquitto. Codec, recorder, journal and store at work; milliseconds. "
            f"Aim: {_AIM_MS} ms at p99."
        ),
        columns=("way", "calls in the store", "times", "p50", "p99", "max"),
        rows=tuple(rows),
        figures=figures,
    )


def _part_of(progress: Progress, number: int, of: int, filled: int) -> Callable[[float], None]:
    return lambda part: progress(f"Lifts, {filled:,} calls in the store", (number + part) / of)


@contextmanager
def live(
    work: Path, data: Path, line: LineSettings, recording: RecordingSettings
) -> Iterator[tuple[VirtualSound, VirtualPins, Subscriber]]:
    """A unit at work in this process: a sound server to play into, pins to pull, a subscriber at its broker."""
    with ExitStack() as stack:
        broker = VirtualBroker(work / "broker")
        broker.start()
        stack.callback(broker.close)
        sound = VirtualSound(work / "sound")
        sound.start()
        stack.callback(sound.close)
        os.environ.update(sound.environment())
        settings = Settings(
            unit=UnitSettings(site="bench", unit="bench-1", data_dir=data),
            line=(line,),
            recording=recording,
            broker=(BrokerSettings(host="127.0.0.1", port=broker.port, tls=False),),
        )
        factory = MockFactory()
        facts = board.load(settings.unit.board)
        pins = VirtualPins(factory, facts)
        unit = Unit(settings, facts)
        stack.callback(unit.close)
        drivers, panel = hardware(unit, pin_factory=factory)
        subscriber = Subscriber(broker.port)
        stack.callback(subscriber.close)
        unit.start(drivers, panel)
        loop = threading.Thread(target=unit.run, name="loop", daemon=True)
        loop.start()
        stack.callback(loop.join, 5)
        stack.callback(unit.engine.stop)
        time.sleep(4)  # until sound comes, the listener listens and the broker is there
        yield sound, pins, subscriber


def _lifts(work: Path, filled: int, lifts: int, progress: Callable[[float], None]) -> dict[str, list[float]]:
    work.mkdir()
    data = work / "data"
    if filled:
        fill(data, filled)
    line = LineSettings(number=1, codec=VirtualSound.device, number_display=False)
    with live(work, data, line, RecordingSettings()) as (_, pins, subscriber):
        incoming, outgoing, echo = "lift to call.answered", "lift to call.dialled", "bare round trip"
        times_ms: dict[str, list[float]] = {incoming: [], outgoing: [], echo: []}
        for number in range(lifts):
            progress(number / lifts)
            ringing = number % 2 == 0
            if ringing:
                for _ in range(4):
                    pins.set(1, "ring", True)
                    time.sleep(0.031)
                    pins.set(1, "ring", False)
                    time.sleep(0.031)
                subscriber.wait("call.ringing")
            time.sleep(random.uniform(0.0, 0.3))
            name = incoming if ringing else outgoing
            lifted_ns = time.monotonic_ns()
            pins.set(1, "loop", True)
            at_ns = subscriber.wait(name.rpartition(" ")[2])
            times_ms[name].append((at_ns - lifted_ns) / 1e6 - line.off_hook_ms)
            pins.set(1, "loop", False)
            subscriber.wait("call.ended")
            time.sleep(0.2)
            times_ms[echo].append(subscriber.echo_ms())
    return times_ms
