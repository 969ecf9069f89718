"""docs/integration: what stands there is so."""

from __future__ import annotations

import queue
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from drivers.virtual.broker import VirtualBroker
from tests.units import at, running, settings

DOCS = Path(__file__).parents[1] / "docs" / "integration"
V1 = "tsuroku/v1"


class Account:
    """A client at the broker, under an account's name."""

    def __init__(self, port: int, name: str, *topics: str) -> None:
        self.heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._codes: queue.SimpleQueue[int] = queue.SimpleQueue()
        ready: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.username_pw_set(name, "secret")
        self.client.on_connect = lambda client, *_: client.subscribe([(topic, 1) for topic in topics]) and None
        self.client.on_subscribe = lambda *_: ready.put(None)
        self.client.on_message = lambda _client, _userdata, message: self.heard.put(message.topic)
        self.client.on_publish = lambda _client, _userdata, _mid, reason, _properties: self._codes.put(reason.value)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        ready.get(timeout=10)

    def came(self) -> set[str]:
        found = set()
        while not self.heard.empty():
            found.add(self.heard.get())
        return found

    def may_publish(self, topic: str, *, retain: bool = False) -> bool:
        self.client.publish(topic, "x", 1, retain)
        return self._codes.get(timeout=10) < 0x80

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[VirtualBroker]:
    passwords = tmp_path / "passwd"
    program = shutil.which("mosquitto_passwd")
    assert program
    passwords.touch(mode=0o600)
    for name in ("shop/unit-1", "shop/unit-2", "management", "homeassistant"):
        subprocess.run([program, "-b", str(passwords), name, "secret"], check=True)
    access = f"allow_anonymous false\npassword_file {passwords}\nacl_file {DOCS / 'mosquitto.acl'}"
    broker = VirtualBroker(tmp_path / "broker", access)
    broker.start()
    yield broker
    broker.close()


OWN = ("status", "info", "state/line/1", "state/recorder", "event/call", "event/audit", "rpc/res/crm")


@pytest.mark.realtime
def test_mosquitto_lets_each_account_do_its_own_and_nothing_else(guarded: VirtualBroker) -> None:
    everything = (f"{V1}/#", "homeassistant/#", "other/#")
    names = ("shop/unit-1", "shop/unit-2", "management", "homeassistant")
    accounts = [Account(guarded.port, name, *everything) for name in names]
    unit, other, management, home = accounts
    try:
        # What each may publish.
        for account, branch in ((unit, "shop/unit-1"), (other, "shop/unit-2")):
            assert [topic for topic in OWN if not account.may_publish(f"{V1}/{branch}/{topic}")] == []
        discovery = (
            "homeassistant/device/tsuroku-shop-unit-1/config",
            "homeassistant/switch/tsuroku-shop-unit-1/recording/config",
        )
        assert all(unit.may_publish(topic) for topic in discovery)
        foreign = [f"{V1}/shop/unit-1/{topic}" for topic in OWN]
        foreign += [
            *discovery,
            f"{V1}/shop/unit-2/rpc/req",
            f"{V1}/shop/unit-1/rpc/req",
            f"{V1}/shop/unit-2/x",
            "other/x",
        ]
        foreign += ["homeassistant/status", f"{V1}/shop/unit-2", f"{V1}/status"]
        assert [topic for topic in foreign if other.may_publish(topic)] == []
        for topic in ("rpc/req", "set/recording"):
            assert management.may_publish(f"{V1}/shop/unit-2/{topic}")
        not_theirs = [f"{V1}/shop/unit-1/{topic}" for topic in OWN]
        assert [topic for topic in [*not_theirs, *discovery] if management.may_publish(topic)] == []
        assert home.may_publish(f"{V1}/shop/unit-2/set/recording")
        assert not home.may_publish(f"{V1}/shop/unit-2/rpc/req")
        assert home.may_publish("homeassistant/status")

        # What came to each of them, all having asked for everything.
        assert management.may_publish(f"{V1}/shop/unit-1/rpc/req")
        time.sleep(0.5)
        assert unit.came() == {f"{V1}/shop/unit-1/rpc/req", "homeassistant/status"}
        assert other.came() == {f"{V1}/shop/unit-2/rpc/req", f"{V1}/shop/unit-2/set/recording"}
        units = {f"{V1}/shop/{name}/{topic}" for name in ("unit-1", "unit-2") for topic in OWN}
        assert units <= management.came()
        assert units | {*discovery} <= home.came()
    finally:
        for account in accounts:
            account.close()


@pytest.mark.realtime
def test_a_unit_is_at_home_behind_these_rules(
    tmp_path: Path, guarded: VirtualBroker, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "password").write_text("secret\n")
    account = {"username": "shop/unit-1", "password_file": tmp_path / "password"}
    chosen = settings(tmp_path / "data", at(guarded.port, audit=True, **account))
    management = Account(guarded.port, "management", f"{V1}/#")
    home = Account(guarded.port, "homeassistant", "homeassistant/#")
    try:
        with running(chosen) as shop:
            shop.missed()
            wanted = {f"{V1}/shop/unit-1/{topic}" for topic in ("status", "info", "state/last_call", "event/call")}
            came: set[str] = set()
            until = time.monotonic() + 20
            while not wanted <= came and time.monotonic() < until:
                came.add(management.heard.get(timeout=20))
            assert wanted <= came
            assert home.heard.get(timeout=10) == "homeassistant/device/tsuroku-shop-unit-1/config"
            management.may_publish(f"{V1}/shop/unit-1/set/recording")
        broker = replace(chosen.broker[0], discovery="components")
        with running(replace(chosen, broker=(broker,))):
            assert home.heard.get(timeout=10).startswith("homeassistant/")
        assert f"at 127.0.0.1:{guarded.port} " not in caplog.text, "the broker refused nothing"
    finally:
        management.close()
        home.close()
