"""docs/integration: what stands there is so."""

from __future__ import annotations

import contextlib
import functools
import json
import queue
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from drivers.virtual.broker import VirtualBroker
from firmware.core.alarms import Kind
from firmware.core.line import State
from firmware.core.outbox import CALL_EVENTS, STREAMS
from firmware.core.privacy import Privacy
from firmware.delivery import discovery
from firmware.records.upkeep import restore
from tests.contract import Message, check, check_result, commands, file, messages, whole
from tests.proof.soak import consumer_module
from tests.traffic import DOCS, EXAMPLES, PAGE, Told, command_of, examples, examples_of, local, part, subscribe, told
from tests.units import at, running, settings

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


# -- the page


PAGE_TEXT = PAGE.read_text(encoding="utf-8")


def table(first: str) -> list[list[str]]:
    """The rows of the page's table whose first heading is this; of all such tables."""
    rows: list[list[str]] = []
    within = False
    for line in PAGE_TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            within = False
        elif cells[0] == first:
            within = True
        elif within and set(cells[0]) != {"-"}:
            rows.append(cells)
    return rows


def named(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def of_topic(topic: str) -> dict[str, Message]:
    return {message.name: message for message in messages() if message.topic == topic}


def test_the_page_names_every_topic_as_the_contract_has_it() -> None:
    rows = {named(row[0])[0]: row[1] for row in table("topic")}
    assert list(rows) == list(dict.fromkeys(message.topic for message in messages()))
    for key, operation in file("asyncapi.json")["operations"].items():
        address = file("asyncapi.json")["channels"][key]["address"].removeprefix("tsuroku/v1/{site}/{unit}/")
        retained = operation["bindings"]["mqtt"]["retain"]
        assert rows[address] == ("yes" if retained else "refused" if operation["action"] == "receive" else "never")


def test_the_page_names_every_event_and_what_is_in_it() -> None:
    told = {name: named(row[-1]) for row in table("type") for name in named(row[0]) if "." in name}
    events = {name: each for stream in STREAMS for name, each in of_topic(f"event/{stream}").items()}
    assert list(told) == list(events)
    common = {"line", "direction", "caller", "dialled", "clock", "privacy"}
    for name, fields in told.items():
        data = set(events[name].schema["properties"]["data"]["properties"])
        match name:
            case "call.ended" | "call.missed":
                (example,) = [value for key, _, value in examples_of(PAGE_TEXT) if key == "event/call call.missed"]
                assert data - {"privacy"} == set(example["data"])
            case "callback.done":
                assert data - common == {*told["callback.due"], *fields}
            case _ if name in of_topic("event/call"):
                assert data - common == set(fields) - {"caller"}, name
            case _:
                assert data - {"clock"} == set(fields), name


def test_the_page_names_every_command_and_code() -> None:
    rows = {named(row[0])[0]: row for row in table("method")}
    assert list(rows) == list(commands())
    before: set[str] = set()
    for method, command in commands().items():
        _, params, result, exp = rows[method]
        assert set(named(params)) == set(command["params"].get("properties", ())), method
        assert (exp == "yes") == command["changes"], method
        fields = set(whole(command["result"], "commands.json")["properties"])
        if result == "as `info`":
            assert fields == set(whole({"$ref": "schemas.json#/definitions/info"})["properties"])
        elif result.startswith("the same"):
            assert fields == (before if result == "the same" else set(named(params))), method
        else:
            assert fields == set(named(result)), method
        before = fields
    codes = of_topic("rpc/res/{src}")["error"].schema["properties"]["error"]["properties"]["code"]
    assert [int(row[0]) for row in table("code")] == codes["x-extensible-enum"]
    assert [named(row[0])[0] for row in table("level")] == list(get_args(Privacy))


def test_the_page_lists_every_state_and_alarm() -> None:
    states = PAGE_TEXT[PAGE_TEXT.index("`state` is") :].partition("\n<!--")[0]
    assert set(named(states)) - {"state"} == {state.value for state in State}
    kinds = PAGE_TEXT[PAGE_TEXT.index("`kind` is one of") :].partition("\n\n")[0]
    assert named(kinds)[1:] == list(get_args(Kind))


def test_the_examples_are_of_one_run_and_of_every_message() -> None:
    lines = EXAMPLES.read_text(encoding="utf-8").splitlines()
    found = examples(lines)
    assert [key for key, each in found.items() if not each] == []
    assert len(found["rpc/res/{src} result"]) == len(commands())
    for line in lines:
        topic, _, payload = line.partition(" ")
        check(topic, payload.encode())
    shown = examples_of(PAGE_TEXT)
    assert len(shown) == PAGE_TEXT.count("```json")
    for key, steps, value in shown:
        assert value == part(found[key][0], steps), key


@pytest.mark.realtime
def test_everything_in_the_contract_is_said_by_a_unit(tmp_path: Path) -> None:
    lines = told(tmp_path)
    assert [key for key, each in examples(lines).items() if not each] == []
    for line in lines:
        topic, _, payload = line.partition(" ")
        check(topic, payload.encode())
    results = [json.loads(line.partition(" ")[2]) for line in lines if "/rpc/res/" in line]
    asked = {
        request["id"]: request["method"]
        for request in (json.loads(line.partition(" ")[2]) for line in lines if "/rpc/req " in line)
    }
    for result in results:
        if "result" in result:
            check_result(asked[result["id"]], result["result"])


@pytest.mark.realtime
def test_mosquitto_sub_hears_what_was_missed_while_it_was_away(tmp_path: Path, broker: VirtualBroker) -> None:
    command = command_of("mosquitto_sub")
    subscribe(command, broker.port)
    missed: list[str] = []
    with running(settings(tmp_path / "data", at(broker.port))) as shop:
        for _ in range(2):
            missed.append(shop.missed())
            listener = Told(command, broker.port, tmp_path / "told")
            try:
                listener.until(lambda line: missed[-1] in line and '"type":"call.missed"' in line)
                assert len(listener.lines()) == 1, "and nothing else"
            finally:
                listener.close()


@pytest.mark.realtime
def test_the_other_commands_of_the_page_run_as_they_stand(tmp_path: Path, broker: VirtualBroker) -> None:
    with running(settings(tmp_path / "data", at(broker.port))) as shop:
        ask = local(command_of("mosquitto_rr"), broker.port)
        answer = subprocess.run(["bash", "-c", ask], check=True, capture_output=True, text=True, timeout=20).stdout
        check_result("device.info", json.loads(answer)["result"])
        call_id = shop.missed()
        words = shlex.split(
            command_of("python3 consumer.py").replace("--username management --password-file password", "")
        )
        words[:2] = [sys.executable, str(DOCS / "consumer.py")]
        words[words.index("broker.example")] = "127.0.0.1"
        database = tmp_path / "calls.db"
        own = ["--port", str(broker.port), "--no-tls", "--database", str(database)]
        heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it
        consumer = subprocess.Popen([*words, *own], stderr=subprocess.DEVNULL, preexec_fn=heeding)
        try:
            kept = "select count(*) from event where subject = ? and type = 'call.missed'"
            until(lambda: database.exists() and _one(database, kept, call_id) == 1)  # it came before: a gap is closed
        finally:
            consumer.send_signal(signal.SIGINT)
            assert consumer.wait(20) == 0


def _one(database: Path, query: str, *values: str) -> object:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        try:
            return connection.execute(query, values).fetchone()[0]
        except sqlite3.OperationalError:
            return None  # it has no table yet


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[VirtualBroker]:
    broker = VirtualBroker(tmp_path / "broker")
    broker.start()
    yield broker
    broker.close()


@pytest.mark.realtime
def test_the_consumer_finds_no_gap_without_end_after_a_restore(tmp_path: Path, broker: VirtualBroker) -> None:
    consumer = consumer_module().Consumer(f"{V1}/shop/unit-1", str(tmp_path / "calls.db"), "desk", confirm=True)
    consumer.connect("127.0.0.1", broker.port)
    chosen = settings(tmp_path / "data", at(broker.port, consumers=("desk",)))

    def has_all(store: str) -> bool:
        return consumer.store == store and all(consumer.whole(stream) == last for stream, last in consumer.last.items())

    try:
        with running(chosen) as shop:
            shop.missed()
            old = shop.unit.store.store_id
            until(lambda: has_all(old) and consumer.last.get("call") == 3)
        shutil.copytree(tmp_path / "data" / "store", tmp_path / "backup" / "store")
        shutil.rmtree(tmp_path / "data" / "store")
        new = restore(tmp_path / "backup" / "store", tmp_path / "data" / "store")
        with running(chosen) as shop:
            shop.missed()
            until(lambda: has_all(new) and consumer.last.get("call") == 6)
        sequences = "select sequence from event where store = ? and stream = 'call' order by sequence"
        assert consumer.database.execute(sequences, (new,)).fetchall() == [(4,), (5,), (6,)]
        assert consumer.database.execute(sequences, (old,)).fetchall() == [(1,), (2,), (3,)]
    finally:
        consumer.close()


def until(found: Callable[[], bool], within_s: float = 30) -> None:
    end = time.monotonic() + within_s
    while not found():
        assert time.monotonic() < end, f"not within {within_s} s"
        time.sleep(0.05)


# -- Node-RED and Home Assistant; in the real ones: tests/proof


def test_the_flow_is_made_of_core_nodes_that_are_tied_together() -> None:
    nodes = {node["id"]: node for node in json.loads((DOCS / "node-red-flow.json").read_text(encoding="utf-8"))}
    core = {"tab", "mqtt-broker", "tls-config", "mqtt in", "json", "switch", "function", "debug"}
    assert {node["type"] for node in nodes.values()} == core
    path = [node for node in nodes.values() if node["type"] == "mqtt in"]
    while path[-1]["wires"]:
        path.append(nodes[path[-1]["wires"][0][0]])
    assert [node["type"] for node in path] == ["mqtt in", "json", "switch", "function", "debug"]
    assert path[0]["topic"] == f"{V1}/+/+/event/call"
    assert path[2]["rules"][0]["v"] in of_topic("event/call")


def test_the_automations_name_what_there_is() -> None:
    text = (DOCS / "home-assistant.yaml").read_text(encoding="utf-8")
    assert re.findall(r"topic: (\S+)", text) == [f"{V1}/+/+/event/call"]
    assert set(re.findall(r"'(call\.\w+)'", text)) == {"call.missed"} <= set(CALL_EVENTS)
    found = discovery.messages(
        "device", "homeassistant", f"{V1}/shop/unit-1", "shop-unit-1", 1, {"model": "", "version": ""}
    )
    (device,) = found.values()
    entity = f"{device['device']['name']} {device['components']['call']['name']}".lower()
    assert re.findall(r"entity_id: (\S+)", text) == ["event." + re.sub(r"\W", "_", entity)]
    event = whole({"$ref": "schemas.json#/definitions/ended"})["properties"]
    for name in re.findall(r"data\.caller\.(\w+)", text):
        assert name in event["caller"]["properties"]
    for name in re.findall(r"to_state\.attributes\.(\w+)", text):
        assert name == "get" or f"'{name}':" in device["components"]["call"]["value_template"]
