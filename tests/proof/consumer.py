"""A management system at the other end: paho, MQTT 5, a session that outlives its outages."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.contract import check

BRANCH = "tsuroku/v1/demo/virtual-1/"


class Consumer:
    """Keeps every message of the unit's branch in order of arrival. A context manager: at its end each is held against
    the contract.
    """

    def __init__(self, port: int, name: str = "consumer") -> None:
        self.messages: list[mqtt.MQTTMessage] = []
        self._port = port
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{BRANCH}#", qos=1) and None
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _client, _userdata, message: self.messages.append(message)

    def __enter__(self) -> Consumer:
        lasting = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        lasting.SessionExpiryInterval = 3600
        self._client.connect_async("127.0.0.1", self._port, clean_start=False, properties=lasting)
        self._client.loop_start()
        assert self._subscribed.wait(10), "the consumer could not subscribe"
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        for message in self.messages:
            check(message.topic, bytes(message.payload))

    def events(self) -> list[dict[str, Any]]:
        """Bodies of the stream `call` in order of arrival, repeats included."""
        return [json.loads(m.payload) for m in list(self.messages) if m.topic == f"{BRANCH}event/call"]

    def told(self, topic: str) -> list[str]:
        return [m.payload.decode() for m in list(self.messages) if m.topic == BRANCH + topic]

    def until(self, condition: Callable[[], bool], within_s: float) -> float:
        """Wait for it; the seconds it took."""
        began = time.monotonic()
        while not condition():
            heard = [(m.topic.removeprefix(BRANCH), m.payload[:600]) for m in self.messages[-5:]]
            assert time.monotonic() - began < within_s, f"not within {within_s} s; heard last: {heard}"
            time.sleep(0.05)
        return time.monotonic() - began


def retained(port: int) -> dict[str, str]:
    """What a broker keeps of the unit's states for whoever comes: topic below the branch -> payload."""
    with Consumer(port, "newcomer") as newcomer:
        time.sleep(0.5)
        return {m.topic.removeprefix(BRANCH): m.payload.decode() for m in newcomer.messages if m.retain}


def the_consumer_has_all(got: Sequence[dict[str, Any]], stored: Sequence[dict[str, Any]]) -> int:
    """Every event of the store arrived unchanged, first arrivals in order; the number of repeats."""
    first: dict[int, dict[str, Any]] = {}
    for body in got:
        earlier = first.setdefault(body["sequence"], body)
        assert earlier == body, f"sequence {body['sequence']} arrived as two different events"
    assert list(first) == list(range(1, len(stored) + 1)), f"first arrivals: {list(first)}"
    assert list(first.values()) == list(stored)
    return len(got) - len(first)
