"""The unit as the management system has it, over a real Mosquitto: commands, the switch, replays, several brokers."""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import json
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from pytest_mock import MockerFixture

from drivers.signals import ButtonHeld, LoopEdge
from drivers.virtual import scenario as story
from drivers.virtual.broker import VirtualBroker
from firmware.app import run
from firmware.cli.main import main
from firmware.core.call import ClockRead
from firmware.core.facts import RecordingReady
from firmware.local_api import LocalError, ask
from firmware.settings import BrokerSettings, WatchSettings, public_hash
from firmware.simulate import results, stepped
from hw import board
from tests.contract import check, check_result
from tests.days import number_display_day
from tests.test_log import no_file_longer_than
from tests.units import BRANCH, Running, at, running, settings

pytestmark = pytest.mark.realtime


class System:
    """A management system: asks, and hears everything; close() holds what the unit said against the contract."""

    def __init__(self, port: int, name: str = "crm") -> None:
        self.name = name
        self.heard: list[tuple[str, bytes, bool]] = []
        self._ready = threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1) and None
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_message = lambda _client, _userdata, m: self.heard.append(
            (m.topic.removeprefix(f"{BRANCH}/"), bytes(m.payload), m.retain)
        )
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()
        assert self._ready.wait(10)

    def send(self, payload: object, topic: str = "rpc/req", *, retain: bool = False) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        whole = topic if topic.startswith("tsuroku/") else f"{BRANCH}/{topic}"
        self.client.publish(whole, data, 1, retain).wait_for_publish(5)

    def request(self, method: str, **params: Any) -> dict[str, Any]:
        id_, exp = str(uuid.uuid4()), int(time.time()) + 30
        return {"jsonrpc": "2.0", "id": id_, "src": self.name, "method": method, "params": params, "exp": exp}

    def ask(self, method: str, **params: Any) -> Any:
        """The result; an error is told as an AssertionError."""
        request = self.request(method, **params)
        check(f"{BRANCH}/rpc/req", json.dumps(request).encode())
        answer = self.answer(request)
        assert "result" in answer, answer
        check_result(method, answer["result"])
        return answer["result"]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        before = len(self.of(f"rpc/res/{self.name}"))
        self.send(request)
        return dict(self.until(lambda: self.of(f"rpc/res/{self.name}")[before:])[0])

    def of(self, topic: str) -> list[Any]:
        return [json.loads(payload) for heard, payload, _ in list(self.heard) if heard == topic]

    def until(self, found: Callable[[], Any], within_s: float = 10) -> Any:
        end = time.monotonic() + within_s
        while not (got := found()):
            assert time.monotonic() < end, f"not within {within_s} s; heard {[heard[0] for heard in self.heard][-9:]}"
            time.sleep(0.01)
        return got

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        for topic, payload, _ in self.heard:
            if topic not in ("rpc/req", "set/recording"):  # what was said to the unit, often wrongly
                check(topic if "/v1/" in topic or topic.startswith("homeassistant/") else f"{BRANCH}/{topic}", payload)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[VirtualBroker]:
    broker = VirtualBroker(tmp_path / "broker")
    broker.start()
    yield broker
    broker.close()


@pytest.fixture
def crm(broker: VirtualBroker) -> Iterator[System]:
    system = System(broker.port)
    yield system
    system.close()


@pytest.fixture
def shop(tmp_path: Path, broker: VirtualBroker, crm: System) -> Iterator[Running]:
    with running(settings(tmp_path / "data", at(broker.port, consumers=("crm",), audit=True))) as shop:
        crm.until(lambda: crm.of("state/health"))
        yield shop


def test_every_command_of_the_contract_is_answered(shop: Running, crm: System) -> None:
    call_id = shop.missed()
    crm.until(lambda: [e for e in crm.of("event/call") if e["type"] == "callback.due"])
    info = crm.ask("device.info")
    assert info["store_id"] == shop.unit.store.store_id and "recording.pause" in info["capabilities"]
    assert crm.ask("config.get")["hash"] == info["settings_hash"]
    assert crm.ask("selftest.run")["passed"] is True
    assert crm.ask("events.ack", consumer="crm", stream="call", seq=2) == {
        "consumer": "crm",
        "stream": "call",
        "seq": 2,
    }
    assert crm.ask("recording.protect", call_id=call_id, reason="a dispute")["held"] is True
    assert shop.unit.store.holds()[call_id]["who"] == "crm"
    assert crm.of("state/recorder")[-1]["callbacks_waiting"] == 1
    assert crm.ask("callback.done", call_id=call_id) == {"callbacks_waiting": 0, "was_waiting": True}
    assert crm.ask("identify") == {"seconds": 30}
    bundle = crm.ask("log.bundle")
    packed = (shop.unit.settings.unit.data_dir / bundle["path"]).read_bytes()
    assert (bundle["bytes"], bundle["sha256"]) == (len(packed), hashlib.sha256(packed).hexdigest())
    assert crm.ask("log.bundle") == bundle, "not made anew for everybody who asks"
    assert crm.ask("recording.pause", seconds=60)["paused"]["by"] == "crm"
    assert crm.until(lambda: [s for s in crm.of("state/recorder") if s["paused"]])
    assert crm.ask("recording.resume")["paused"] is None
    for method, params in (("recording.locate", {"call_id": call_id}), ("alarm.acknowledge", {"alarm": "disk"})):
        assert crm.answer(crm.request(method, **params))["error"]["code"] == -32003
    audit = crm.until(lambda: crm.of("event/audit")[4:] and crm.of("event/audit"))
    changed = ["recording.protect", "callback.done", "recording.pause", "recording.resume"]
    assert audit[0]["type"] == "settings.changed" and audit[0]["data"]["before"] is None
    assert [event["data"]["method"] for event in audit[1:]] == changed


def test_settings_changed_from_afar_come_into_force_and_outlive_a_restart(
    tmp_path: Path, broker: VirtualBroker, crm: System, caplog: pytest.LogCaptureFixture, mocker: MockerFixture
) -> None:
    """The unit as `tsuroku run` has it, its pins and no devices; it is spoken to from another thread."""
    mocker.patch("firmware.clock._clock_state", return_value="ntp")  # what runs this may have found no time server
    filed, facts = settings(tmp_path / "data", at(broker.port, audit=True)), board.load("line-tap-1")
    failed: list[BaseException] = []

    def manage() -> None:
        try:
            got = crm.until(lambda: crm.of("info")) and crm.ask("config.get")
            assert got["settings"]["recording"]["pre_roll_s"] == 5.0
            patch = {"recording": {"pre_roll_s": 8}, "watch": {"long_call_min": 90}}
            stale = crm.answer(crm.request("config.patch", base_hash="0" * 64, patch=patch))
            assert stale["error"]["code"] == -32003
            wrong = crm.answer(crm.request("config.patch", base_hash=got["hash"], patch={"recording": {"rate_hz": 1}}))
            assert wrong["error"]["code"] == -32602 and "rate_hz" in wrong["error"]["message"]
            told = crm.ask("config.patch", base_hash=got["hash"], patch=patch)
            crm.until(lambda: crm.of("info")[-1]["settings_hash"] == told["hash"], 30)
            words = [payload for topic, payload, _ in crm.heard if topic == "status"]
            assert words == [b"online", b"maintenance", b"online"]
            crm.until(lambda: [e for e in crm.of("event/audit") if e["type"] == "settings.changed"][1:])
            assert crm.of("event/audit")[-1]["data"]["by"] == "crm"
            back = {"recording": {"pre_roll_s": None}}
            told = crm.ask("config.patch", base_hash=told["hash"], patch=back)
            crm.until(lambda: crm.of("info")[-1]["settings_hash"] == told["hash"], 30)
            now = crm.ask("config.get")["settings"]
            assert (now["recording"]["pre_roll_s"], now["watch"]["long_call_min"]) == (5.0, 90)
        except BaseException as error:  # noqa: BLE001  it is raised again below
            failed.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=manage).start()
    run(filed, facts, (), pin_factory=MockFactory())
    assert not failed, failed
    edited = dataclasses.replace(filed, watch=WatchSettings(long_call_min=45))
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    run(edited, facts, (), pin_factory=MockFactory())
    assert crm.of("info")[-1]["settings_hash"] == public_hash(edited)
    assert "patch_ignored" in caplog.text


def test_a_unit_without_a_settings_file_is_not_changed_from_afar(shop: Running, crm: System) -> None:
    patch = crm.request("config.patch", base_hash=crm.ask("config.get")["hash"], patch={"events": {"keep_days": 3}})
    assert "stand in no file" in crm.answer(patch)["error"]["message"]


def test_whose_number_it_is_is_told_with_the_call(shop: Running, crm: System) -> None:
    wrong = crm.answer(crm.request("contacts.put", number="12", name="x"))
    assert wrong["error"]["code"] == -32602
    assert "no telephone number" in crm.answer(crm.request("contacts.put", number="abc", name="x"))["error"]["message"]
    put = crm.ask("contacts.put", number="03-0000-1234", name="山田商店", flags=["vip", "vip"])
    again = crm.ask("contacts.put", number="+81300001234", name="山田商店", reading="ヤマダ", flags=["vip"])
    assert again == {"contact_id": put["contact_id"], "was_known": True} and put["was_known"] is False
    call_id = shop.missed()
    told = crm.until(lambda: [e for e in crm.of("event/call") if e["type"] == "call.enriched"])
    assert told[0]["subject"] == call_id and told[0]["data"]["contact"]["reading"] == "ヤマダ"
    assert crm.ask("contacts.put", number="+81300001234", name=None) == {"contact_id": None, "was_known": True}
    before = len(crm.of("event/call"))
    shop.missed()
    crm.until(lambda: len(crm.of("event/call")) == before + 3)
    assert [e["type"] for e in crm.of("event/call")[before:]] == ["call.ringing", "call.missed", "callback.due"]
    assert not shop.unit.management._enriched, "nothing is kept of calls that are over"


def test_what_is_done_on_the_unit_itself_is_audited(shop: Running, crm: System) -> None:
    call_id = shop.missed()
    data = shop.unit.settings.unit.data_dir
    for request in (
        {"do": "hold", "call_id": call_id, "reason": "a dispute"},
        {"do": "release", "call_id": call_id},
        {"do": "erase", "call_ids": [call_id], "reason": "asked for"},
    ):
        ask(data, {**request, "who": "owner"})
    audit = crm.until(lambda: [e for e in crm.of("event/audit") if e["type"] == "command.done"][2:])
    assert audit[0]["data"]["method"] == "store.erase" and audit[0]["data"]["by_way_of"] == "local"
    methods = [e["data"]["method"] for e in crm.of("event/audit") if e["type"] == "command.done"]
    assert methods == ["store.hold", "store.release", "store.erase"]


def test_the_switch_goes_both_ways_and_outlives_a_restart(tmp_path: Path, broker: VirtualBroker, crm: System) -> None:
    chosen = settings(tmp_path / "data", at(broker.port))
    with running(chosen):
        crm.until(lambda: crm.of("state/recorder"))
        crm.send(b"OFF", "set/recording")
        crm.until(lambda: crm.of("state/recorder")[-1]["enabled"] is False)
    with running(chosen) as shop:
        crm.until(lambda: crm.of("state/recorder")[-1]["enabled"] is False)
        assert shop.unit.management.enabled is False
        crm.send(b"ON", "set/recording")
        crm.until(lambda: crm.of("state/recorder")[-1]["enabled"] is True)


def test_a_replay_is_marked_and_tells_what_is_gone(shop: Running, crm: System) -> None:
    shop.missed()
    crm.until(lambda: len(crm.of("event/call")) == 3)
    result = crm.ask("events.replay", stream="call", from_seq=1, to_seq=99)
    assert (result["from_seq"], result["to_seq"], result["gone"], result["last_seq"]) == (1, 3, [], 3)
    crm.until(lambda: len(crm.of("event/call")) == 6)
    first, again = crm.of("event/call")[:3], crm.of("event/call")[3:]
    assert [event["replayed"] for event in first + again] == [False] * 3 + [True] * 3
    assert [{**event, "replayed": False} for event in again] == first
    assert crm.answer(crm.request("events.replay", stream="call", from_seq=5, to_seq=4))["error"]["code"] == -32602


HOSTILE: list[tuple[str, object]] = [
    ("malformed", b"{"),
    ("malformed", b"\xff" * 300),
    ("expired", {"method": "recording.pause", "params": {"seconds": 9}, "exp": 1_600_000_000}),
    ("no_method", {"method": "recording.delete"}),
    ("params", {"method": "recording.pause", "params": {"seconds": 7201}}),
    ("too_large", b"x" * 1_000_000),
]


def test_bad_commands_get_one_log_line_each_and_change_nothing(
    shop: Running, crm: System, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    before = crm.of("state/recorder")[-1]
    for reason, message in HOSTILE:
        caplog.clear()
        whole = message if isinstance(message, bytes) else crm.request("device.info") | dict(message)  # type: ignore[call-overload]
        crm.send(whole)
        crm.until(lambda: refusals(caplog))
        assert [record.getMessage() for record in refusals(caplog)] == [refusals(caplog)[0].getMessage()]
        assert f"reason={reason}" in refusals(caplog)[0].getMessage()
    caplog.clear()
    crm.send(crm.request("recording.pause", seconds=60), retain=True)
    crm.until(lambda: refusals(caplog))
    assert "reason=retained" in refusals(caplog)[0].getMessage()
    crm.send(b"", retain=True)
    request = crm.request("recording.pause", seconds=60)
    assert "result" in crm.answer(request)
    caplog.clear()
    assert "result" in crm.answer(request)
    assert "reason=repeated" in refusals(caplog)[0].getMessage()
    crm.ask("recording.resume")
    after = crm.of("state/recorder")[-1]
    assert [before[key] for key in ("enabled", "paused")] == [after[key] for key in ("enabled", "paused")]


def refusals(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "command_refused" in record.getMessage()]


def test_a_thousand_commands_a_second_stop_nothing(
    shop: Running, crm: System, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(2000):
        crm.client.publish(f"{BRANCH}/rpc/req", json.dumps(crm.request("device.info")), 0)
    call_id = shop.missed()
    event = crm.until(lambda: [e for e in crm.of("event/call") if e["subject"] == call_id])
    assert event
    assert len(refusals(caplog)) < 20, "one line a second tells of them"
    assert len(crm.of("rpc/res/crm")) < 200


def test_an_unset_clock_refuses_what_changes_something(tmp_path: Path, broker: VirtualBroker, crm: System) -> None:
    def unset() -> ClockRead:
        return ClockRead(mono_ns=time.monotonic_ns(), wall_ns=time.monotonic_ns(), state="unsynced")

    with running(settings(tmp_path / "data", at(broker.port)), unset):
        crm.until(lambda: crm.of("state/recorder"))
        assert crm.answer(crm.request("recording.pause", seconds=5))["error"]["code"] == -32002
        assert crm.ask("device.info")["contract"] == 1


def test_each_broker_gets_what_it_may_know(tmp_path: Path, broker: VirtualBroker, crm: System) -> None:
    second = VirtualBroker(tmp_path / "second")
    second.start()
    abroad = System(second.port, "abroad")
    try:
        brokers: tuple[BrokerSettings, ...] = (
            at(broker.port, name="shop"),
            at(second.port, name="office", privacy="last4", discovery="off"),
        )
        with running(settings(tmp_path / "data", *brokers)) as shop:
            shop.missed()
            ours = crm.until(lambda: [e for e in crm.of("event/call") if e["type"] == "call.missed"])[0]
            theirs = abroad.until(lambda: [e for e in abroad.of("event/call") if e["type"] == "call.missed"])[0]
            assert ours["id"] == theirs["id"]
            assert ours["data"]["caller"]["number"] == "+81300001234"
            assert theirs["data"]["caller"]["number"] is None and theirs["data"]["caller"]["last4"] == "1234"
            second.stop()
            shop.missed()
            crm.until(lambda: len(crm.of("event/call")) == 6)
            second.start()
            abroad.until(lambda: len({e["sequence"] for e in abroad.of("event/call")}) == 6, 90)
    finally:
        abroad.close()
        second.close()


def kept(port: int) -> dict[str, bytes]:
    """What the broker keeps for whoever comes: whole topic -> payload."""
    newcomer = System(port, "newcomer")
    time.sleep(0.5)
    newcomer.close()
    roots = ("tsuroku/", "homeassistant/")
    return {
        topic if topic.startswith(roots) else f"{BRANCH}/{topic}": payload
        for topic, payload, retained in newcomer.heard
        if retained
    }


def test_home_assistant_is_told_of_the_unit_and_a_new_name_leaves_no_ghost(
    tmp_path: Path, broker: VirtualBroker, crm: System
) -> None:
    first = settings(tmp_path / "data", at(broker.port))
    topic = "homeassistant/device/tsuroku-shop-unit-1/config"
    with running(first) as shop:
        crm.until(lambda: [heard for heard, _, _ in crm.heard if heard == topic])
        before = len(crm.heard)
        crm.client.publish("homeassistant/status", "online", 1)
        crm.until(lambda: [heard for heard, _, _ in crm.heard[before:] if heard == topic])
        payload = json.loads(kept(broker.port)[topic])
        assert payload["components"]["recording"]["command_topic"] == f"{BRANCH}/set/recording"
        shop.do(shop.unit._note_topics)
    renamed = dataclasses.replace(
        first,
        unit=dataclasses.replace(first.unit, unit="till"),
        broker=(dataclasses.replace(first.broker[0], discovery="components"),),
    )
    with running(renamed) as shop:
        crm.until(lambda: not [topic for topic in kept(broker.port) if "unit-1" in topic], 20)
        found = kept(broker.port)
        assert "homeassistant/switch/tsuroku-shop-till/recording/config" in found
        assert found["tsuroku/v1/shop/till/status"] == b"online"
        crm.until(lambda: not [topic for topic in shop.unit.publishers["main"].topics if "unit-1" in topic])


def test_no_number_of_a_day_stands_in_a_topic_a_retained_message_or_the_log(
    tmp_path: Path, broker: VirtualBroker, crm: System, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    data = tmp_path / "data"
    stepped(story.parse(number_display_day(7, 40), tmp_path / "day.txt"), data)
    calls, events = results(data)
    numbers = {call["caller"]["raw"] for call in calls} - {None}
    assert len(numbers) > 20
    with running(settings(data, at(broker.port))) as shop:
        crm.until(lambda: len(crm.of("event/call")) >= len(events), 30)
        call_id = shop.missed()
        crm.ask("recording.protect", call_id=call_id, reason="x")
        crm.ask("config.get")
        number = min(numbers)  # somebody asks with it
        wrong: list[dict[str, Any]] = [{"src": number}, {"method": number}, {"params": {"call_id": number}}]
        for each in wrong:
            crm.send(crm.request("recording.locate") | each)
        crm.send(number.encode())
        crm.until(lambda: len(refusals(caplog)) == 4)
        stays = kept(broker.port)
    assert len(stays) >= 6 and len(caplog.records) > 4
    crm.heard[:] = [heard for heard in crm.heard if heard[0] != "rpc/req"]  # its own
    texts = [topic for topic, _, _ in crm.heard] + [payload.decode() for payload in stays.values()] + [caplog.text]
    for number in {*numbers, "0300001234"}:
        told = [text for text in texts if number[1:] in text or number[-8:] in text]
        assert told == [], f"{number} stands in {told[0][:200]}"


def test_numbers_as_json_may_write_them(shop: Running, crm: System) -> None:
    shop.missed()
    crm.until(lambda: len(crm.of("event/call")) == 3)
    assert crm.ask("recording.pause", seconds=60.0)["paused"]["by"] == "crm"
    assert crm.ask("events.replay", stream="call", from_seq=1.0, to_seq=2.0)["to_seq"] == 2
    assert crm.ask("events.ack", consumer="crm", stream="call", seq=2.0)["seq"] == 2
    assert crm.answer(crm.request("recording.pause", seconds=1.5))["error"]["code"] == -32602
    crm.until(lambda: len(crm.of("event/call")) == 5)
    shop.do(shop.unit.store.flush)


def test_the_later_end_of_two_pauses_counts_and_nothing_is_recorded_meanwhile(shop: Running, crm: System) -> None:
    until = crm.ask("recording.pause", seconds=3600)["paused"]["until"]
    assert crm.ask("recording.pause", seconds=1)["paused"]["until"] == until
    shop.unit.engine.post(LoopEdge(at_ns=time.monotonic_ns(), line=1, closed=True))
    crm.until(lambda: [state for state in crm.of("state/line/1") if state["state"] == "dialling"])
    assert crm.ask("recording.resume")["paused"] is None
    crm.until(lambda: crm.of("state/recorder")[-1]["recording"])
    assert [state["recording"] for state in crm.of("state/recorder") if state["paused"]].count(True) == 0


def test_a_pause_on_the_unit_itself_by_command_and_by_button(
    shop: Running, crm: System, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(shop.unit.settings.unit.data_dir)
    assert main(["pause", "--seconds", "60", "--data", data]) == 0
    assert "nothing is recorded but silence of the same length" in capsys.readouterr().out
    by = crm.until(lambda: [s["paused"] for s in crm.of("state/recorder") if s["paused"]])[0]["by"]
    assert by == getpass.getuser() and shop.unit._panel_state() == "paused"
    assert main(["resume", "--data", data]) == 0
    crm.until(lambda: crm.of("state/recorder")[-1]["paused"] is None)
    for paused in (True, False):
        shop.unit.engine.post(ButtonHeld(at_ns=time.monotonic_ns()))
        crm.until(lambda: (crm.of("state/recorder")[-1]["paused"] is not None) is paused)  # noqa: B023  called at once

    def audited() -> list[tuple[str, str]]:
        done = [e["data"] for e in crm.of("event/audit") if e["type"] == "command.done"]
        return [(each["method"].partition(".")[2], each["src"]) for each in done]

    crm.until(lambda: len(audited()) == 4)
    assert audited() == [("pause", by), ("resume", by), ("pause", "button"), ("resume", "button")]
    assert main(["pause", "--seconds", "7201", "--data", data]) == 2
    with pytest.raises(LocalError, match="knows no request"):
        ask(Path(data), {"do": "pause", "seconds": 99_999, "who": "x"})


def _lasts(lasting: bool) -> None:
    assert lasting


def test_a_pause_of_a_call_that_a_power_cut_ends_is_told_all_the_same(tmp_path: Path) -> None:
    with running(settings(tmp_path / "data")) as shop:
        management = shop.unit.management
        began = time.monotonic_ns()
        shop.do(lambda: _lasts(management._pause("crm", 2_000_000_000)))
        call = dataclasses.replace(shop.call()[0].call, boot_id=shop.unit.boot_id)
        ready = RecordingReady(
            at_ns=0, line=1, call_id=call.call_id, path="x", from_ns=began - 10**9, frames=80_000, rate_hz=8000,
            size_bytes=1, sha256="0",
        )  # fmt: skip
        (gap,) = management.muted_in(call, ready)
        assert (gap.by, round(gap.at_s, 1), round(gap.duration_s, 1)) == ("crm", 1.0, 2.0)
        assert management.muted_in(dataclasses.replace(call, boot_id="another"), ready) == ()
    with running(settings(tmp_path / "data")) as shop:  # it is written down
        gaps = shop.unit.management.muted_in(call, ready)
        assert {gap.by for gap in gaps} == {"crm"} and round(sum(gap.duration_s for gap in gaps), 1) == 2.0


def test_a_confirmation_is_the_consumer_s_own(shop: Running, crm: System) -> None:
    shop.missed()
    crm.until(lambda: len(crm.of("event/call")) == 3)
    evil = System(shop.unit.settings.broker[0].port, "evil")
    assert evil.answer(evil.request("events.ack", consumer="crm", stream="call", seq=3))["error"]["code"] == -32602
    assert evil.answer(evil.request("events.ack", consumer="evil", stream="call", seq=3))["error"]["code"] == -32602
    evil.close()
    assert shop.unit.store.waiting()["main"]["unconfirmed"] > 0


@pytest.mark.parametrize("key", [None, b"", b"short", b"x" * 40])
def test_a_key_that_is_none_keeps_the_events_and_the_unit_goes_on(
    tmp_path: Path, broker: VirtualBroker, crm: System, key: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "hmac.key"
    if key is not None:
        path.write_bytes(key)
        path.chmod(0o644 if len(key) == 40 else 0o600)
    with running(settings(tmp_path / "data", at(broker.port, privacy="hmac", hmac_key_file=path))) as shop:
        shop.missed()
        time.sleep(0.3)
        assert crm.of("event/call") == [] and shop.unit.store.waiting()["main"]["waiting"] >= 3
        assert str(path) in caplog.text
    path.write_text("0123456789abcdef0123\n")
    path.chmod(0o600)
    with running(settings(tmp_path / "data", at(broker.port, privacy="hmac", hmac_key_file=path))):
        told = crm.until(lambda: [e for e in crm.of("event/call") if e["type"] == "call.missed"])[0]
        assert told["data"]["caller"]["number"] is None and len(told["data"]["caller"]["number_hmac"]) == 64


def test_a_full_disk_is_told_all_the_same(shop: Running, crm: System) -> None:
    storage = shop.unit.store.storage
    with no_file_longer_than(storage._writer.end):
        shop.do(lambda: shop.unit._execute(shop.call()[0]))
        faults = crm.until(lambda: [s for s in crm.of("state/recorder") if "store/1" in s["faults"]])
        assert faults[0]["unsaved"] == 1
        crm.until(lambda: [h for h in crm.of("state/health") if "store" in [a["alarm"] for a in h["alarms"]]], 20)
        assert crm.ask("selftest.run")["passed"] is False
    crm.until(lambda: [e for e in crm.of("event/system") if e["type"] == "alarm.raised"], 20)
