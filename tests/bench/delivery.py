"""Events through store, outbox and broker beside a bare publisher; a lift while old ones are sent; many units."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from drivers.signals import LoopEdge
from drivers.virtual.broker import VirtualBroker
from firmware.core.call import Call, event
from firmware.core.line import SaveCall
from firmware.delivery.mqtt import MqttPublisher
from firmware.fleet import Fleet, allow_files
from firmware.settings import BrokerSettings
from tests.bench.report import Progress, Table, quantile
from tests.units import BRANCH, Running, at, running, set_clock, settings

_EVENTS = 5000
_ROUNDS = 5
_WINDOW = 20
_OLD = 10_000
_LIFTS = 60
_UNITS = 500
_NO_LIMIT = 100_000


class _Subscriber:
    """Counts what arrives, and tells when something did."""

    def __init__(self, port: int, topic: str) -> None:
        self.arrived = 0
        self._wanted: Callable[[str, bytes], bool] = lambda topic, payload: False
        self._found = threading.Event()
        self.found_ns = 0
        ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(topic, qos=1)
        self._client.loop_start()
        assert ready.wait(10)

    def _take(self, _client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        self.arrived += 1
        if self._wanted(message.topic, bytes(message.payload)):
            self.found_ns = time.monotonic_ns()
            self._wanted = lambda topic, payload: False
            self._found.set()

    def expect(self, wanted: Callable[[str, bytes], bool]) -> None:
        self._found.clear()
        self._wanted = wanted

    def wait(self) -> int:
        """Monotonic ns of its arrival."""
        assert self._found.wait(30), "it did not arrive"
        return self.found_ns

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    events, rounds = (1000, 2) if quick else (_EVENTS, _ROUNDS)
    bare, backlog, unsynced, durable = [], [], [], []
    broker = VirtualBroker(work / "broker")
    broker.start()
    try:
        body = _one_event(work / "sample")
        for number in range(rounds):
            progress(f"Delivery, round {number + 1}", number / rounds)
            bare.append(events / _bare(broker.port, body, events))
            backlog.append(_backlog(work / f"backlog-{number}", broker, events))
            unsynced.append(events / _filed(work / f"unsynced-{number}", broker, events, sync=False))
            durable.append(events / _filed(work / f"durable-{number}", broker, events, sync=True))
    finally:
        broker.close()
    ways = {
        "a bare paho publisher, QoS 1": bare,
        "kept events, from outbox to broker": backlog,
        "filed one by one and sent, not synced": unsynced,
        "filed one by one and sent, each synced": durable,
    }
    ratios = {name: statistics.median(a / b for a, b in zip(rates, bare, strict=True)) for name, rates in ways.items()}
    return Table(
        title="Events through store, outbox and broker",
        how=(
            f"{events:,} events of {len(body):,} bytes to one Mosquitto, until the last is acknowledged, at most "
            f"{_WINDOW} unanswered; {rounds} rounds one after the other, the median of their ratios. The last two "
            "differ by one fdatasync a call: that is what durability costs on this disk. Aim: 0.8."
        ),
        columns=("way", "events a second", "of bare"),
        rows=tuple((name, f"{statistics.median(rates):,.0f}", f"{ratios[name]:.2f}") for name, rates in ways.items()),
        figures={f"delivery_{key}_ratio": round(ratios[name], 3) for key, name in zip(_KEYS, ways, strict=True)},
    )


_KEYS = ("bare", "backlog", "unsynced", "durable")


def _call(shop: Running) -> SaveCall:
    read = set_clock()
    call = Call(
        call_id=f"{time.monotonic_ns():032x}",
        line=1,
        direction="incoming",
        boot_id=shop.unit.boot_id,
        clock=read,
        opened_ns=read.mono_ns,
    )
    return SaveCall(call=call, events=(event("call.ringing", call, read.mono_ns),))


def _file(shop: Running, count: int) -> None:
    def file() -> None:
        for _ in range(count):
            shop.unit._execute(_call(shop))

    shop.do(file)


def _again(publisher: MqttPublisher) -> None:
    assert publisher.replay("call", 1, _OLD)


def _one_event(data: Path) -> bytes:
    with running(settings(data)) as shop:
        _file(shop, 1)
        entry = shop.unit.store.event("call", 1)
    assert entry
    return json.dumps(entry.body, ensure_ascii=False, separators=(",", ":")).encode()


def _bare(port: int, body: bytes, events: int) -> float:
    """Seconds that paho needs for so many QoS 1 messages with the same window."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    room, done = threading.Semaphore(_WINDOW), threading.Event()
    left = [events]

    def published(*_: object) -> None:
        room.release()
        left[0] -= 1
        if not left[0]:
            done.set()

    client.on_publish = published
    client.max_inflight_messages_set(_WINDOW)
    client.connect("127.0.0.1", port)
    client.loop_start()
    began = time.monotonic()
    for _ in range(events):
        room.acquire()
        client.publish("bare/event/call", body, 1)
    assert done.wait(60)
    took_s = time.monotonic() - began
    client.disconnect()
    client.loop_stop()
    return took_s


def _backlog(data: Path, broker: VirtualBroker, events: int) -> float:
    """Events a second of those that a unit has kept while there was no broker."""
    with running(settings(data, at(1, events_per_s=_NO_LIMIT, discovery="off"))) as shop:
        shop.unit.store.storage._writer._sync = False
        _file(shop, events)
    with running(settings(data, at(broker.port, events_per_s=_NO_LIMIT, discovery="off"))) as shop:
        while not shop.unit.connected:
            time.sleep(0.001)
        waiting = shop.unit.store.waiting()["main"]["waiting"]  # its calls were open: the start has told their end
        return waiting / _until_sent(shop)


def _filed(data: Path, broker: VirtualBroker, events: int, *, sync: bool) -> float:
    """Seconds for events that are filed one after the other and sent as they come."""
    with running(settings(data, at(broker.port, events_per_s=_NO_LIMIT, discovery="off"))) as shop:
        while not shop.unit.connected:
            time.sleep(0.001)
        shop.unit.store.storage._writer._sync = sync
        began = time.monotonic()
        for _ in range(events // 50):  # between them the loop takes what the broker has answered
            _file(shop, 50)
        _until_sent(shop)
        return time.monotonic() - began


def _until_sent(shop: Running) -> float:
    began = time.monotonic()
    while shop.unit.store.waiting()["main"]["waiting"]:
        time.sleep(0.002)
    return time.monotonic() - began


def lifts(work: Path, quick: bool, progress: Progress) -> Table:
    """How soon a lift is told while old events are being sent."""
    count = 10 if quick else _LIFTS
    rows: list[tuple[str, ...]] = []
    figures: dict[str, float] = {}
    usual = BrokerSettings(host="").events_per_s
    ways = (
        ("idle", "idle", None),
        (f"old events are sent again, {usual} a second (the default)", "busy", usual),
        ("old events are sent again, as fast as it goes", "unlimited", _NO_LIMIT),
    )
    for number, (name, short, rate) in enumerate(ways):
        progress(f"Lifts, {name}", number / len(ways))
        times = _lifts(work / str(number), count, rate)
        for what, ms in times.items():
            told = {"p50": quantile(ms, 0.5), "p99": quantile(ms, 0.99), "max": max(ms)}
            rows.append((what, name, str(len(ms)), *(f"{value:.1f}" for value in told.values())))
            key = f"lift_{what.split()[-1].replace('/', '_')}_{short}"
            figures |= {f"{key}_{part}_ms": round(value, 2) for part, value in told.items()}
    return Table(
        title="Lift to a subscriber while old events are being sent",
        how=(
            "From the loop's edge, without the 100 ms that a lift must last, to the arrival at a subscriber: of the "
            "retained state of the line, and of the event call.dialled. Old events: a replay of 10,000, asked for "
            "again as soon as it is through, to a subscriber in the unit's own process, which falls behind where "
            "nothing limits it. Milliseconds. Aim: p99 at most twice the idle figure."
        ),
        columns=("what", "when", "times", "p50", "p99", "max"),
        rows=tuple(rows),
        figures=figures,
    )


def _lifts(work: Path, count: int, rate: int | None) -> dict[str, list[float]]:
    """rate: of old events, a second; None: there are none."""
    work.mkdir(parents=True)
    broker = VirtualBroker(work / "broker")
    broker.start()
    state, told = "state/line/1", "event/call"
    times: dict[str, list[float]] = {f"lift to {state}": [], f"lift to {told}": []}
    if rate:
        with running(settings(work / "data", at(broker.port, events_per_s=_NO_LIMIT, discovery="off"))) as shop:
            shop.unit.store.storage._writer._sync = False
            for _ in range(_OLD // 100):
                _file(shop, 100)
            _until_sent(shop)
    states = _Subscriber(broker.port, f"{BRANCH}/{state}")
    events = _Subscriber(broker.port, f"{BRANCH}/{told}")
    try:
        with running(settings(work / "data", at(broker.port, events_per_s=rate or _NO_LIMIT, discovery="off"))) as shop:
            publisher = shop.unit.publishers["main"]
            _until_sent(shop)
            for _ in range(count):
                if rate and not publisher._replays:
                    shop.do(lambda: _again(publisher))
                time.sleep(0.05)
                states.expect(lambda topic, payload: b'"dialling"' in payload)
                events.expect(lambda topic, payload: b'"call.dialled"' in payload and b'"replayed":false' in payload)
                at_ns = time.monotonic_ns()
                shop.unit.engine.post(LoopEdge(at_ns=at_ns, line=1, closed=True))
                for what, subscriber in ((state, states), (told, events)):
                    times[f"lift to {what}"].append((subscriber.wait() - at_ns) / 1e6 - 100)
                shop.unit.engine.post(LoopEdge(at_ns=time.monotonic_ns(), line=1, closed=False))
                time.sleep(1.4)
    finally:
        states.close()
        events.close()
        broker.close()
    return times


def fleet(work: Path, quick: bool, progress: Progress) -> Table:
    """Many units on one Mosquitto."""
    units, for_s = (50, 10.0) if quick else (_UNITS, 120.0)
    allow_files(units)
    broker = VirtualBroker(work / "broker")
    broker.start()
    try:
        chosen = BrokerSettings(host="127.0.0.1", port=broker.port, tls=False)
        with Fleet(units, chosen, work / "units") as many:
            began = time.monotonic()
            while many.count().connected < units and time.monotonic() - began < 120:
                many.turn()
                progress(f"{many.count().connected} of {units} units connected", 0.3 * many.count().connected / units)
            connected_s, mb = time.monotonic() - began, many.mb_a_unit
            many.calls(60, for_s)
            began = last = time.monotonic()
            seen = 0
            while many.planned or (many.missing() and time.monotonic() - last < 60):
                many.turn()
                count = many.count()
                if count.arrived > seen:
                    seen, last = count.arrived, time.monotonic()
                progress(f"{count.arrived:,} events", 0.3 + 0.7 * min(1, (time.monotonic() - began) / for_s))
            took_s, count, missing = time.monotonic() - began, many.count(), sum(many.missing().values())
    finally:
        broker.close()
    return Table(
        title="Many units at one broker",
        how=(
            "`tsuroku simulate --units`: each with its own store, outbox and MQTT connection, in processes of 100 "
            "beside one Mosquitto; 60 calls an hour each. Memory: of the processes, by unit. Aim: every event arrives."
        ),
        columns=("units", "connected in s", "events", "arrived", "missing", "twice", "events a second", "MB a unit"),
        rows=(
            (
                f"{count.connected:,}",
                f"{connected_s:.1f}",
                f"{count.filed:,}",
                f"{count.arrived:,}",
                str(missing),
                str(count.repeats),
                f"{count.arrived / took_s:.1f}",
                f"{mb:.2f}",
            ),
        ),
        figures={"fleet_missing": missing, "fleet_mb_a_unit": round(mb, 2)},
    )
