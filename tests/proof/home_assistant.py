"""Home Assistant from PyPI finds the unit through a real Mosquitto, hears of each call once, switches its recording."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

from drivers.signals import LoopEdge
from drivers.virtual.broker import VirtualBroker
from firmware.core.commands import Asker
from firmware.delivery import discovery
from tests.proof.hass import RELEASES, Hass, install, pythons
from tests.proof.report import Report
from tests.units import BRANCH, Running, at, running, settings

_ROOT = Path(__file__).parents[2]
_AUTOMATIONS = 2  # in docs/integration/home-assistant.yaml: by the event entity, and by MQTT alone
_UNIT = "tsuroku_shop_unit_1"
_CALL = f"event.{_UNIT}_call"
_SWITCH = f"switch.{_UNIT}_recording"
_IN_USE = f"binary_sensor.{_UNIT}_line_in_use"
_FAULT = f"binary_sensor.{_UNIT}_line_fault"
_LAST = f"sensor.{_UNIT}_last_call"
_SPACE = f"sensor.{_UNIT}_free_space"
_CALLBACKS = f"sensor.{_UNIT}_callbacks_waiting"
_ENTITIES = {_CALL, _SWITCH, _IN_USE, _FAULT, _LAST, _SPACE, _CALLBACKS}
_S = 1_000_000_000


def prove(report: Report) -> None:
    found = pythons()
    assert found, f"Home Assistant needs one of these Pythons: {', '.join(RELEASES)}."
    oldest, newest = min(found), max(found)
    programs = {version: install(found[version], RELEASES[version]) for version in found}
    report.progress(0.4)
    report.figure("one payload a component", _tried(programs[oldest], "components"))
    report.progress(0.7)
    if RELEASES[newest] > "2024.11":
        report.figure("one payload of the device", _tried(programs[newest], "device"))
    else:
        report.figure("one payload of the device", "not tried: there is no Python 3.13 beside this one")


def _tried(python: Path, style: Literal["components", "device"]) -> str:
    """Live with a unit for a while. Returns with what. Raises AssertionError."""
    with tempfile.TemporaryDirectory(prefix="tsuroku-hass-") as work:
        broker = VirtualBroker(Path(work) / "broker")
        home = Hass(python, Path(work) / "config")
        try:
            broker.start()
            chosen = settings(Path(work) / "data", at(broker.port, discovery=style))
            began = time.monotonic()
            home.start()
            home.add_mqtt(broker.port)
            home.add_automations(_ROOT / "docs" / "integration" / "home-assistant.yaml")
            started_s = time.monotonic() - began
            with running(chosen) as shop:
                found_s = _found(home)
                _calls(home, shop)
                _line(home, shop)
                _recording(home, shop)
            _away(home)
            with running(chosen) as shop:
                _back(home, shop)
            keys = _valid(python, style)
            release = home.ask("/api/config")["version"]
        finally:
            home.stop()
            broker.close()
        complaints = [line for line in home.log.read_text(encoding="utf-8").splitlines() if "mqtt" in line]
        assert not complaints, complaints
    return (
        f"Home Assistant {release}, ready after {started_s:.0f} s, {len(_ENTITIES)} entities {found_s:.1f} s after "
        f"the unit's start, {keys} keys as its schemas want them"
    )


def _valid(python: Path, style: Literal["components", "device"]) -> int:
    """How many keys of the payloads Home Assistant's own schemas know. One that they do not is an error."""
    info = {"model": "line-tap-1", "version": "1"}
    payloads = discovery.messages(style, "homeassistant", BRANCH, "shop-unit-1", 2, info)
    script = Path(__file__).parent / "discovery_schema.py"
    done = subprocess.run([python, script], input=json.dumps(payloads), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


def _found(home: Hass) -> float:
    """The seconds until all entities are there."""
    began = time.monotonic()
    home.until(lambda: {each for each in home.states() if _UNIT in each} == _ENTITIES)
    took_s = time.monotonic() - began
    home.until(lambda: home.state(_SWITCH) == "on" and home.state(_IN_USE) == home.state(_FAULT) == "off")
    assert home.state(_CALL) == home.state(_LAST) == "unknown"
    assert float(home.state(_SPACE)) > 0
    return took_s


def _calls(home: Hass, shop: Running) -> None:
    """A missed call fires the event and runs the automations; events that another consumer asks for again do not."""
    call_id = shop.missed("+81300001234")
    told = _notices(home, 1)
    assert all("+81300001234" in notice["message"] and "ヤマダ" in notice["message"] for notice in told), told
    fired = _fired(home, "callback.due")
    assert [each["event_type"] for each in fired] == ["call.ringing", "call.missed", "callback.due"], fired
    for each in fired:
        told = [each[key] for key in ("call_id", "line", "number", "presentation", "name")]
        assert told == [call_id, 1, "+81300001234", "allowed", "ヤマダ"], each
    home.until_state(_LAST, "missed")
    home.until_state(_CALLBACKS, "1")

    shop.missed(None)
    assert all("not_received" in notice["message"] for notice in _notices(home, 2)[-_AUTOMATIONS:])
    assert [_fired(home, "call.missed")[-1][key] for key in ("line", "number")] == [1, None]

    shop.replay(1, 5)
    shop.missed("+81300005678")
    _notices(home, 3)
    assert len(_fired(home, "callback.due")) == 3 + 2 + 3


def _line(home: Hass, shop: Running) -> None:
    for closed, told in ((True, "on"), (False, "off")):
        shop.unit.engine.post(LoopEdge(at_ns=time.monotonic_ns(), line=1, closed=closed))
        home.until_state(_IN_USE, told)


def _recording(home: Hass, shop: Running) -> None:
    """The switch, turned at Home Assistant and at the unit."""
    for service, enabled in (("turn_off", False), ("turn_on", True)):
        home.ask(f"/api/services/switch/{service}", {"entity_id": _SWITCH})
        home.until_state(_SWITCH, "on" if enabled else "off")
        assert shop.unit.management.enabled is enabled
    for enabled in (False, True):
        shop.do(partial(_turn, shop, enabled))
        home.until_state(_SWITCH, "on" if enabled else "off")


def _turn(shop: Running, enabled: bool) -> None:
    shop.unit.management.switch({"enabled": enabled}, Asker(sink="", src="owner"))


def _away(home: Hass) -> None:
    home.until(lambda: {home.state(each) for each in _ENTITIES} == {"unavailable"})


def _back(home: Hass, shop: Running) -> None:
    """The unit is there again, and then Home Assistant is: neither is a call. The next call is one."""
    home.until(lambda: "unavailable" not in {home.state(each) for each in _ENTITIES})
    last = home.state(_CALL)
    home.stop()
    home.start()
    home.until(lambda: not {"unavailable", "unknown"} & {home.state(each) for each in _ENTITIES})
    assert home.state(_CALL) == last
    shop.missed("+81300001234")
    _notices(home, 4)
    assert home.state(_CALL) > last


def _fired(home: Hass, last: str) -> list[dict[str, Any]]:
    """What the event entity has told, in order, once it has told an event of this type last.

    Its state is when it fired, and comes back after `unavailable`.
    """

    def fired() -> list[dict[str, Any]]:
        found = {}
        for each in list(home.heard):
            new = each.get("new_state")
            if each.get("entity_id") == _CALL and new and new["state"] not in ("unknown", "unavailable"):
                found[new["state"], new["attributes"]["event_type"]] = new["attributes"]
        return list(found.values())

    home.until(lambda: fired() and fired()[-1]["event_type"] == last)
    return fired()


def _notices(home: Hass, calls: int) -> list[dict[str, Any]]:
    """The notifications so far, once there are those of so many missed calls: one by each automation, and no more."""

    def notices() -> list[dict[str, Any]]:
        return [each["service_data"] for each in list(home.heard) if each.get("domain") == "persistent_notification"]

    home.until(lambda: len(notices()) >= calls * _AUTOMATIONS)
    assert len(notices()) == calls * _AUTOMATIONS, notices()
    return notices()
