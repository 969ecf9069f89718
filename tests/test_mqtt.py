"""Delivery over MQTT against a real Mosquitto and a real paho subscriber with a durable session."""

from __future__ import annotations

import json
import queue
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from pytest_mock import MockerFixture

from drivers.virtual.broker import BrokerUnavailable, VirtualBroker
from firmware.core.facts import DeliveryFact, EventAccepted, EventRefused, SinkConnected, SinkLost
from firmware.core.outbox import OutboxEntry, Stream
from firmware.delivery.mqtt import MqttPublisher
from firmware.settings import BrokerSettings

BRANCH = "tsuroku/v1/shop/unit-1"


class MemoryOutbox:
    """The store's outbox, in memory."""

    def __init__(self) -> None:
        self.states: dict[tuple[Stream, int], Literal["pending", "accepted", "parked"]] = {}
        self.marks: list[tuple[Stream, int, str]] = []
        self.asked = 0

    def add(self, stream: Stream, count: int = 1, large: int = 0) -> None:
        """Add events; large is the number of one of several kilobytes."""
        last = max((sequence for s, sequence in self.states if s == stream), default=0)
        for sequence in range(last + 1, last + count + 1):
            self.states[stream, sequence] = "pending"
        self.large = large

    def pending(self, limit: int, but: Container[tuple[Stream, int]] = ()) -> list[OutboxEntry]:
        self.asked += 1
        waiting = [key for key, state in self.states.items() if state == "pending" and key not in but][:limit]
        return [self.entry(*key) for key in waiting]

    def read(self, stream: Stream, sequence: int) -> OutboxEntry | None:
        return self.entry(stream, sequence) if (stream, sequence) in self.states else None

    def entry(self, stream: Stream, sequence: int) -> OutboxEntry:
        text = "あ" * 1000 if sequence == self.large else ""
        return OutboxEntry(
            stream=stream, sequence=sequence, body={"sequence": sequence, "text": text, "replayed": False, "data": {}}
        )

    def parked(self) -> list[tuple[Stream, int]]:
        return [key for key, state in self.states.items() if state == "parked"]

    def mark(self, stream: Stream, sequence: int, state: Literal["accepted", "parked"]) -> None:
        self.states[stream, sequence] = state
        self.marks.append((stream, sequence, state))

    def done(self) -> bool:
        return "pending" not in self.states.values()


class Centre:
    """The loop: takes a fact, marks the outbox, settles, pumps. Everything of it runs in the test's thread."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self.outbox = MemoryOutbox()
        self.inbox: queue.SimpleQueue[DeliveryFact] = queue.SimpleQueue()
        self.facts: list[DeliveryFact] = []
        self.publisher = MqttPublisher(settings, "shop", "unit-1", self.outbox, self.inbox.put)

    def until(self, condition: Callable[[], object], within_s: float = 15) -> None:
        end = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < end, f"not within {within_s} s; facts: {self.facts[-5:]}"
            self.turn()

    def turn(self, wait_s: float = 0.02) -> None:
        try:
            fact = self.inbox.get(timeout=wait_s)
        except queue.Empty:
            self.publisher.pump()
            return
        self.facts.append(fact)
        match fact:
            case EventAccepted():
                self.outbox.mark(fact.stream, fact.sequence, "accepted")
            case EventRefused(retry=False):
                self.outbox.mark(fact.stream, fact.sequence, "parked")
            case _:
                pass
        self.publisher.settle(fact)
        self.publisher.pump()

    def saw(self, kind: type[DeliveryFact]) -> bool:
        return isinstance(self.facts[-1] if self.facts else None, kind)

    def connect(self) -> None:
        self.publisher.start()
        self.until(lambda: self.saw(SinkConnected))

    def lost(self) -> str:
        """Go on until the broker is lost; the reason."""
        self.until(lambda: any(isinstance(fact, SinkLost) for fact in self.facts))
        return [fact.reason for fact in self.facts if isinstance(fact, SinkLost)][-1]


class Subscriber:
    """A consumer as the contract asks for: MQTT 5, a session that outlives its outages."""

    def __init__(self, port: int, topic: str = f"{BRANCH}/#", **account: str) -> None:
        self.messages: list[mqtt.MQTTMessage] = []
        self._subscribed = threading.Event()
        self._topic = topic
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="consumer", protocol=mqtt.MQTTv5)
        if account:
            self._client.username_pw_set(**account)
        self._client.on_connect = lambda client, *_: client.subscribe(self._topic, qos=1) and None
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _client, _userdata, message: self.messages.append(message)
        lasting = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        lasting.SessionExpiryInterval = 3600
        self._client.connect_async("127.0.0.1", port, clean_start=False, properties=lasting)
        self._client.loop_start()
        assert self._subscribed.wait(10)

    def of(self, topic: str) -> list[bytes]:
        return [bytes(m.payload) for m in list(self.messages) if m.topic == f"{BRANCH}/{topic}"]

    def sequences(self, stream: str = "call") -> list[int]:
        return [json.loads(payload)["sequence"] for payload in self.of(f"event/{stream}")]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[VirtualBroker]:
    with _running(VirtualBroker(tmp_path / "broker")) as broker:
        yield broker


@contextmanager
def _running(broker: VirtualBroker) -> Iterator[VirtualBroker]:
    try:
        broker.start()
    except BrokerUnavailable as missing:
        if "installed" in str(missing):
            pytest.skip(str(missing))
        raise
    try:
        yield broker
    finally:
        broker.close()


@pytest.fixture
def subscriber(broker: VirtualBroker) -> Iterator[Subscriber]:
    subscriber = Subscriber(broker.port)
    yield subscriber
    subscriber.close()


@pytest.fixture
def make_centre() -> Iterator[Callable[..., Centre]]:
    centres: list[Centre] = []

    def make(port: int, **settings: Any) -> Centre:
        chosen: dict[str, Any] = {"host": "127.0.0.1", "port": port, "tls": False, **settings}
        centres.append(Centre(BrokerSettings(**chosen)))
        return centres[-1]

    yield make
    for centre in centres:
        centre.publisher.close()


@pytest.fixture
def centre(broker: VirtualBroker, make_centre: Callable[..., Centre]) -> Centre:
    return make_centre(broker.port)


def _network_threads() -> list[threading.Thread]:
    """After close() they end by themselves; it does not wait for them while the broker is away."""
    return [thread for thread in threading.enumerate() if thread.name == "paho-mqtt-client-tsuroku:shop:unit-1"]


# Connecting, states, will


@pytest.mark.realtime
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_states_come_before_events_and_only_states_are_retained(
    broker: VirtualBroker, make_centre: Callable[..., Centre], subscriber: Subscriber, protocol: str
) -> None:
    centre = make_centre(broker.port, protocol=protocol)
    centre.publisher.show("state/line/1", {"state": "idle", "name": "通録"})
    centre.publisher.show("info", {"model": "t1"})
    centre.outbox.add("call", 3)
    centre.outbox.add("system", 2)
    centre.connect()
    centre.until(centre.outbox.done)
    centre.until(lambda: len(subscriber.messages) >= 8)

    topics = [m.topic.removeprefix(f"{BRANCH}/") for m in subscriber.messages]
    assert topics[:3] == ["status", "info", "state/line/1"]
    assert set(topics[3:]) == {"event/call", "event/system"}
    assert subscriber.of("status") == [b"online"]
    assert subscriber.of("state/line/1") == ['{"state":"idle","name":"通録"}'.encode()]
    assert subscriber.sequences() == [1, 2, 3]
    assert subscriber.sequences("system") == [1, 2]
    assert all(m.qos == 1 for m in subscriber.messages)
    if protocol == "5":
        described = {getattr(m.properties, "ContentType", None) for m in subscriber.messages[3:]}
        assert described == {"application/cloudevents+json; charset=utf-8"}

    centre.publisher.close()
    centre.until(lambda: subscriber.of("status") == [b"online", b"offline"])
    subscriber.close()
    late = Subscriber(broker.port, f"{BRANCH}/+/#")
    centre.until(lambda: len(late.messages) >= 3)
    assert {m.topic.removeprefix(f"{BRANCH}/"): m.payload for m in late.messages if m.retain} == {
        "status": b"offline",
        "info": b'{"model":"t1"}',
        "state/line/1": '{"state":"idle","name":"通録"}'.encode(),
    }
    late.close()


@pytest.mark.realtime
def test_a_dead_process_is_offline_by_its_will(broker: VirtualBroker, subscriber: Subscriber) -> None:
    script = (
        "import sys, tests.test_mqtt as t\n"
        "centre = t.Centre(t.BrokerSettings(host='127.0.0.1', port=int(sys.argv[1]), tls=False))\n"
        "centre.connect()\n"
        "centre.until(lambda: False, 60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(broker.port)], cwd=Path(__file__).parent.parent)
    try:
        _wait(lambda: subscriber.of("status") == [b"online"])
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    _wait(lambda: subscriber.of("status") == [b"online", b"offline"])


@pytest.mark.realtime
def test_states_are_sent_again_on_reconnect_before_events(
    broker: VirtualBroker, centre: Centre, subscriber: Subscriber
) -> None:
    centre.publisher.show("state/line/1", {"state": "idle"})
    centre.connect()
    centre.until(lambda: subscriber.of("state/line/1"))
    broker.stop()
    centre.lost()
    seen = len(subscriber.messages)
    centre.publisher.show("state/line/1", {"state": "ringing"})
    centre.publisher.show("state/line/1", {"state": "talking"})
    centre.outbox.add("call")
    broker.start()
    centre.until(lambda: subscriber.sequences())
    # Before them come the will, retained messages for the subscriber, and what it had not acknowledged.
    status, state, event = [m for m in subscriber.messages[seen:] if not m.retain][-3:]
    assert (status.topic, status.payload) == (f"{BRANCH}/status", b"online")
    assert (state.topic, state.payload) == (f"{BRANCH}/state/line/1", b'{"state":"talking"}')
    assert event.topic == f"{BRANCH}/event/call"


@pytest.mark.realtime
def test_a_slow_broker_gets_the_newest_state_and_no_queue(
    broker: VirtualBroker, centre: Centre, subscriber: Subscriber
) -> None:
    centre.connect()
    centre.until(lambda: subscriber.of("status"))
    broker.pause()
    for number in range(300):
        centre.publisher.show("state/health", {"number": number})
    broker.resume()
    centre.until(lambda: b'{"number":299}' in subscriber.of("state/health"))
    assert subscriber.of("state/health") == [b'{"number":0}', b'{"number":299}']


# Events


@pytest.mark.realtime
def test_no_event_is_missing_after_the_broker_was_away(
    broker: VirtualBroker, centre: Centre, subscriber: Subscriber, mocker: MockerFixture
) -> None:
    publish = mocker.spy(mqtt.Client, "publish")
    centre.outbox.add("call", 250)
    centre.connect()
    centre.until(lambda: len(centre.outbox.marks) >= 100)
    stopping = threading.Thread(target=broker.stop)
    stopping.start()
    centre.lost()
    stopping.join()

    centre.outbox.add("call", 250)
    asked, published = centre.outbox.asked, publish.call_count
    for _ in range(20):
        centre.publisher.pump()
    assert (centre.outbox.asked, publish.call_count) == (asked, published)  # nothing is handed over while away

    broker.start()
    centre.until(centre.outbox.done)
    _wait(lambda: set(subscriber.sequences()) == set(range(1, 501)))
    assert list(dict.fromkeys(subscriber.sequences())) == list(range(1, 501))  # in order, once duplicates are dropped
    assert [mark for mark in centre.outbox.marks if mark[2] != "accepted"] == []
    assert publish.call_count <= 500 + 20 + 4  # events, a window of repeats, the birth twice


@pytest.mark.realtime
def test_what_is_filed_before_the_start_opens_no_connection_of_its_own(broker: VirtualBroker, centre: Centre) -> None:
    centre.outbox.add("call")
    centre.publisher.pump()  # as recovery does, that files a call which a kill left open
    assert not _network_threads()
    centre.connect()
    assert len(_network_threads()) == 1
    centre.until(centre.outbox.done)


@pytest.mark.realtime
def test_the_window_is_never_above_20_and_nothing_is_handed_over_twice(
    broker: VirtualBroker, centre: Centre, subscriber: Subscriber, mocker: MockerFixture
) -> None:
    centre.connect()
    centre.until(lambda: subscriber.of("status"))
    publish = mocker.spy(mqtt.Client, "publish")
    broker.pause()
    centre.outbox.add("call", 100)
    for _ in range(20):
        centre.turn(0.005)
    assert publish.call_count == 20
    broker.resume()
    centre.until(centre.outbox.done)
    _wait(lambda: len(subscriber.sequences()) >= 100)
    assert subscriber.sequences() == list(range(1, 101))
    assert publish.call_count == 100


@pytest.mark.realtime
def test_a_denied_event_is_parked_and_later_ones_pass(
    tmp_path: Path, make_centre: Callable[..., Centre], caplog: pytest.LogCaptureFixture
) -> None:
    access = tmp_path / "access"
    access.write_text(f"topic readwrite {BRANCH}/status\ntopic readwrite {BRANCH}/event/call\n")
    with _running(VirtualBroker(tmp_path / "broker", f"allow_anonymous true\nacl_file {access}")) as broker:
        centre = make_centre(broker.port)
        centre.outbox.add("system", 2)
        centre.outbox.add("call", 2)
        centre.publisher.show("info", {})
        centre.connect()
        centre.until(centre.outbox.done)
        assert {(f.stream, f.sequence, f.code, f.retry) for f in centre.facts if isinstance(f, EventRefused)} == {
            ("system", 1, 0x87, False),
            ("system", 2, 0x87, False),
        }
        assert {mark for mark in centre.outbox.marks if mark[0] == "call"} == {
            ("call", 1, "accepted"),
            ("call", 2, "accepted"),
        }
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert len([w for w in warnings if "refused event/system with code 0x87" in w]) == 1
        assert len([w for w in warnings if "refused info with code 0x87" in w]) == 1


@pytest.mark.realtime
def test_an_event_too_large_for_the_broker_is_parked(tmp_path: Path, make_centre: Callable[..., Centre]) -> None:
    with _running(VirtualBroker(tmp_path / "broker", "allow_anonymous true\nmax_packet_size 1000")) as broker:
        centre = make_centre(broker.port)
        centre.outbox.add("call", 3, large=2)
        centre.connect()
        centre.until(centre.outbox.done)
        assert [(f.sequence, f.code, f.retry) for f in centre.facts if isinstance(f, EventRefused)] == [
            (2, 0x95, False)
        ]
        assert sorted(centre.outbox.marks) == [("call", 1, "accepted"), ("call", 2, "parked"), ("call", 3, "accepted")]
        assert not any(isinstance(fact, SinkLost) for fact in centre.facts)


@pytest.mark.realtime
def test_an_event_that_breaks_the_connection_is_parked_and_later_ones_pass(
    tmp_path: Path, make_centre: Callable[..., Centre], mocker: MockerFixture
) -> None:
    mocker.patch("random.uniform", side_effect=lambda low, high: low)
    with _running(VirtualBroker(tmp_path / "broker", "allow_anonymous true\nmessage_size_limit 1000")) as broker:
        centre = make_centre(broker.port)
        centre.outbox.add("call", 30, large=5)
        centre.connect()
        centre.until(centre.outbox.done, 30)
        parked = [mark for mark in centre.outbox.marks if mark[2] == "parked"]
        assert parked == [("call", 5, "parked")]


class ScriptedBroker:
    """Answers as no Mosquitto can be made to: what comes for each event (the code of a PUBACK, or all bytes of a
    farewell), or instead of CONNACK."""

    def __init__(self, answers: list[int | bytes], connack: bytes = b"\x20\x03\x00\x00\x00") -> None:
        self.publishes = 0
        self._answers = iter(answers)
        self._connack = connack
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                try:
                    self._talk(connection, stream)
                except OSError:
                    pass  # the unit went away

    def _talk(self, connection: socket.socket, stream: Any) -> None:
        while head := stream.read(1):
            length, shift = 0, 0
            while True:
                byte = stream.read(1)[0]
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            packet = stream.read(length)
            if head[0] >> 4 == 1:
                connection.sendall(self._connack)
            elif head[0] >> 4 == 3:
                topic_end = 2 + struct.unpack(">H", packet[:2])[0]
                answer: int | bytes = 0
                if b"/event/" in packet[:topic_end]:
                    self.publishes += 1
                    answer = next(self._answers, 0)
                if isinstance(answer, bytes):
                    connection.sendall(answer)
                    return
                connection.sendall(b"\x40\x03" + packet[topic_end : topic_end + 2] + bytes([answer]))


@pytest.mark.realtime
@pytest.mark.parametrize("code", [0x97, 0x83])
def test_a_broker_that_asks_for_time_gets_the_event_again(make_centre: Callable[..., Centre], code: int) -> None:
    broker = ScriptedBroker([code, code])
    centre = make_centre(broker.port)
    centre.outbox.add("call", 2)
    centre.connect()
    started = time.monotonic()
    centre.until(centre.outbox.done)
    assert time.monotonic() - started >= 1.0  # after the back-off
    refused = [(f.sequence, f.code, f.retry) for f in centre.facts if isinstance(f, EventRefused)]
    assert refused == [(1, code, True), (2, code, True)]
    # Each waits for itself, unless the broker itself asks for time.
    marks = centre.outbox.marks if code == 0x97 else sorted(centre.outbox.marks)
    assert marks == [("call", 1, "accepted"), ("call", 2, "accepted")]
    assert broker.publishes == 4
    centre.publisher.close()
    broker.close()


@pytest.mark.realtime
def test_an_event_that_is_refused_again_and_again_holds_nobody_up_and_is_parked(
    make_centre: Callable[..., Centre], mocker: MockerFixture
) -> None:
    mocker.patch("firmware.delivery.mqtt._wait_s", lambda failures: 0.01)
    mocker.patch("firmware.delivery.mqtt._REFUSALS", 3)
    broker = ScriptedBroker([0x83, 0, 0x83, 0x83])
    centre = make_centre(broker.port)
    centre.outbox.add("call", 2)
    centre.connect()
    centre.until(centre.outbox.done)
    assert centre.outbox.marks == [("call", 2, "accepted"), ("call", 1, "parked")]
    centre.publisher.close()
    broker.close()


@pytest.mark.realtime
@pytest.mark.parametrize("code", [0x87, 0x90, 0x99])
def test_a_broker_that_would_refuse_again_is_not_asked_again(make_centre: Callable[..., Centre], code: int) -> None:
    broker = ScriptedBroker([code])
    centre = make_centre(broker.port)
    centre.outbox.add("call", 2)
    centre.connect()
    centre.until(centre.outbox.done)
    assert sorted(centre.outbox.marks) == [("call", 1, "parked"), ("call", 2, "accepted")]
    assert broker.publishes == 2
    centre.publisher.close()
    broker.close()


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("code", "reason"), [(0x8E, "give each its own"), (0x8B, "is shutting down"), (0x89, "Server busy")]
)
def test_a_broker_that_says_farewell_gets_the_event_again(
    make_centre: Callable[..., Centre], mocker: MockerFixture, code: int, reason: str
) -> None:
    mocker.patch("random.uniform", side_effect=lambda low, high: low)
    broker = ScriptedBroker([bytes([0xE0, 1, code])])
    centre = make_centre(broker.port)
    centre.outbox.add("call", 1)
    centre.connect()
    assert reason in centre.lost()
    centre.until(centre.outbox.done)
    assert centre.outbox.marks == [("call", 1, "accepted")]
    centre.publisher.close()
    broker.close()


# Reasons


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("connack", "reason"),
    [
        (b"\x20\x03\x00\x84\x00", "does not speak MQTT 5"),
        (b"\x20\x02\x00\x01", "does not speak MQTT 5"),  # an answer in MQTT 3.1.1
        (b"\x20\x03\x00\x86\x00", "credentials"),
        (b"\x20\x03\x00\x89\x00", "takes no connections now"),
        (b"\x20\x03\x00\x8a\x00", "look into the broker's log"),
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" * 4, "closed the connection before it answered"),
        (b"\x20\x05\x00\x00\xff\xff\xff", "closed the connection before it answered"),
    ],
)
def test_a_refused_connection_has_a_reason(make_centre: Callable[..., Centre], connack: bytes, reason: str) -> None:
    broker = ScriptedBroker([], connack)
    centre = make_centre(broker.port)
    centre.publisher.start()
    assert reason in centre.lost()
    centre.publisher.close()
    broker.close()


@pytest.mark.realtime
def test_a_dead_broker_does_not_block_and_is_told_once(
    make_centre: Callable[..., Centre], caplog: pytest.LogCaptureFixture, mocker: MockerFixture
) -> None:
    mocker.patch("random.uniform", side_effect=lambda low, high: low)
    centre = make_centre(_free_port())
    caplog.set_level("DEBUG", "firmware.delivery.mqtt")
    started = time.monotonic()
    centre.publisher.start()
    centre.publisher.pump()
    assert time.monotonic() - started < 0.5
    assert "nothing listens there" in centre.lost()
    centre.until(lambda: [r.levelname for r in caplog.records] == ["WARNING", "DEBUG"])
    assert len(centre.facts) == 1
    started = time.monotonic()
    centre.publisher.close()
    assert time.monotonic() - started < 0.5
    _wait(lambda: not _network_threads())


@pytest.mark.realtime
def test_a_wrong_host_does_not_block(make_centre: Callable[..., Centre]) -> None:
    for host, reason in (("no-such-host.invalid", "cannot be"), ("a..b", "cannot be the name of a host")):
        centre = make_centre(1883, host=host)
        started = time.monotonic()
        centre.publisher.start()
        centre.publisher.pump()
        assert time.monotonic() - started < 0.5
        assert reason in centre.lost()
        centre.publisher.close()


@pytest.mark.realtime
def test_a_silent_broker_does_not_hold_up_closing_and_sends_the_will(
    broker: VirtualBroker, centre: Centre, subscriber: Subscriber
) -> None:
    centre.connect()
    centre.until(lambda: subscriber.of("status") == [b"online"])
    broker.pause()
    started = time.monotonic()
    centre.publisher.close()
    assert time.monotonic() - started < 2.0
    broker.resume()
    _wait(lambda: subscriber.of("status")[-1:] == [b"offline"])


@pytest.mark.realtime
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_in_the_network_thread_is_told_and_mended(centre: Centre) -> None:
    faults = iter([RuntimeError("fault")])

    def post(fact: DeliveryFact) -> None:
        for fault in faults:
            raise fault
        centre.inbox.put(fact)

    centre.publisher = MqttPublisher(centre.settings, "shop", "unit-1", centre.outbox, post)
    centre.publisher.start()
    assert "fault in this program" in centre.lost()
    centre.until(lambda: centre.saw(SinkConnected))
    centre.outbox.add("call")
    centre.until(centre.outbox.done)


def test_unusable_files_are_told_and_nothing_is_raised(tmp_path: Path, make_centre: Callable[..., Centre]) -> None:
    absent, nonsense = tmp_path / "absent", tmp_path / "nonsense"
    nonsense.write_bytes(b"\xff not PEM")
    for settings, reason in (
        ({"username": "unit-1", "password_file": absent}, f"password_file {absent} cannot be read (No such file"),
        ({"username": "unit-1", "password_file": nonsense}, f"password_file {nonsense} cannot be read"),
        ({"username": "unit-1", "password_file": tmp_path}, "(Is a directory)"),
        ({"tls": True, "ca_file": absent}, f"ca_file {absent} cannot be used (No such file"),
        ({"tls": True, "ca_file": nonsense}, f"ca_file {nonsense} cannot be used"),
        ({"tls": True, "cert_file": absent, "key_file": absent}, f"cert_file {absent} with key_file {absent}"),
        ({"tls": True, "cert_file": nonsense, "key_file": nonsense}, f"cert_file {nonsense} with key_file"),
    ):
        centre = make_centre(1, **settings)
        centre.publisher.start()
        centre.publisher.pump()
        assert reason in centre.lost()
        centre.publisher.show("info", {})
        centre.publisher.close()


@pytest.mark.realtime
def test_what_happens_now_does_not_wait_for_what_is_sent_again(
    broker: VirtualBroker, make_centre: Callable[..., Centre], subscriber: Subscriber
) -> None:
    centre = make_centre(broker.port, events_per_s=20)
    centre.outbox.add("call", 200)
    for key in centre.outbox.states:
        centre.outbox.states[key] = "accepted"
    centre.connect()
    assert centre.publisher.replay("call", 1, 200) and centre.publisher.busy
    centre.until(lambda: len(subscriber.of("event/call")) >= 10)
    before = len(subscriber.of("event/call"))
    centre.outbox.add("call")
    centre.publisher.pump()
    centre.until(centre.outbox.done)
    _wait(lambda: [e for e in subscriber.of("event/call") if json.loads(e)["sequence"] == 201])
    assert len(subscriber.of("event/call")) < before + 20


def test_a_long_range_of_events_that_are_gone_is_passed_over_in_parts(make_centre: Callable[..., Centre]) -> None:
    centre = make_centre(1)
    assert centre.publisher.replay("call", 1, 100_000)
    assert centre.publisher._next_replay() is None and centre.publisher._replays[0][1] > 1000
    while centre.publisher._replays:
        assert centre.publisher._next_replay() is None


# TLS and accounts


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, certificates of broker and unit, a stranger's CA, as a shop would make them with openssl."""
    if shutil.which("openssl") is None or shutil.which("mosquitto_passwd") is None:
        pytest.skip("openssl or mosquitto_passwd is not installed")
    papers = tmp_path_factory.mktemp("papers")

    def run(*command: str) -> None:
        subprocess.run(command, cwd=papers, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for ca in ("ca", "stranger"):
        run("openssl", "req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={ca}")
    (papers / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("broker", "unit-1"):
        run("openssl", "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        run(
            *("openssl", "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-extfile", "names", "-out", f"{name}.pem"),
        )
    run("openssl", "ec", "-in", "unit-1.key", "-aes128", "-passout", "pass:secret", "-out", "locked.key")
    run("mosquitto_passwd", "-b", "-c", "passwords", "unit-1", "correct")
    (papers / "password").write_text("correct\n")
    (papers / "wrong").write_text("wrong\n")
    return papers


@pytest.fixture
def guarded(tmp_path: Path, papers: Path) -> Iterator[VirtualBroker]:
    access = (
        f"cafile {papers}/ca.pem\ncertfile {papers}/broker.pem\nkeyfile {papers}/broker.key\n"
        f"require_certificate true\nallow_anonymous false\npassword_file {papers}/passwords"
    )
    with _running(VirtualBroker(tmp_path / "broker", access)) as broker:
        yield broker


@pytest.mark.realtime
@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")  # paho leaves a failed handshake's to its end
def test_tls_with_certificate_and_password(
    guarded: VirtualBroker, papers: Path, make_centre: Callable[..., Centre]
) -> None:
    account: dict[str, Any] = {
        "tls": True,
        "ca_file": papers / "ca.pem",
        "cert_file": papers / "unit-1.pem",
        "key_file": papers / "unit-1.key",
        "username": "unit-1",
        "password_file": papers / "password",
    }
    centre = make_centre(guarded.port, **account)
    centre.outbox.add("call", 50)
    centre.connect()
    centre.until(centre.outbox.done)
    centre.publisher.close()

    for change, reason in (
        ({"password_file": papers / "wrong"}, "refuses this unit's credentials"),
        ({"ca_file": papers / "stranger.pem"}, "certificate that is not trusted"),
        ({"host": "localhost"}, "certificate that is not trusted"),
        ({"cert_file": None, "key_file": None}, "closed the connection before it answered"),
        ({"key_file": papers / "locked.key"}, "cannot be used"),
        ({"tls": False}, "closed the connection before it answered"),
    ):
        centre = make_centre(guarded.port, **(account | change))
        centre.publisher.start()
        assert reason in centre.lost(), change
        centre.publisher.close()
    _wait(lambda: not _network_threads())


@pytest.mark.realtime
@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")
def test_tls_on_a_port_without_it(broker: VirtualBroker, make_centre: Callable[..., Centre]) -> None:
    centre = make_centre(broker.port, tls=True)
    centre.publisher.start()
    reason = centre.lost()
    assert "TLS" in reason or "does not answer" in reason or "cannot be reached" in reason
    centre.publisher.close()
    _wait(lambda: not _network_threads())


# The virtual broker


def test_without_mosquitto_there_is_a_sentence(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("shutil.which", return_value=None)
    with pytest.raises(BrokerUnavailable, match="apt install mosquitto"):
        VirtualBroker(tmp_path).start()


@pytest.mark.realtime
def test_a_broker_that_cannot_start_says_why(tmp_path: Path, broker: VirtualBroker) -> None:
    with pytest.raises(BrokerUnavailable, match=r"does not start: .*no_such_option.*\.conf:2\."):
        VirtualBroker(tmp_path / "other", "no_such_option true").start()


@pytest.mark.realtime
def test_the_virtual_broker_keeps_its_port_and_its_sessions(broker: VirtualBroker) -> None:
    port = broker.port
    broker.start()
    broker.kill()
    broker.start()
    assert broker.port == port
    broker.close()
    broker.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


def _wait(condition: Callable[[], object], within_s: float = 15) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"not within {within_s} s"
        time.sleep(0.01)
