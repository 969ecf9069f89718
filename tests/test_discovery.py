"""What Home Assistant is told: topics, unique ids, and its templates on real states and events."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal, get_args

import pytest
from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from firmware.core import callbacks
from firmware.core.call import Call, ClockRead, event
from firmware.core.call import told as told_of
from firmware.core.caller import Caller
from firmware.core.line import State
from firmware.core.numbers import Dialled
from firmware.core.outbox import CALL_EVENTS, Event, EventType
from firmware.core.privacy import Privacy, masked
from firmware.delivery import discovery

BRANCH = "tsuroku/v1/shop/unit-1"
CALLER = Caller(
    presentation="allowed", reason=None, number="+81300001234", raw="0300001234", national="03-0000-1234", name="ヤマダ"
)
CALL = Call(
    call_id="0192d3a4",
    line=1,
    direction="incoming",
    boot_id="b",
    clock=ClockRead(mono_ns=0, wall_ns=0, state="ntp"),
    opened_ns=0,
    caller=CALLER,
)


def messages(style: Literal["device", "components"], lines: int = 1) -> dict[str, dict[str, Any]]:
    info = {"model": "line-tap-1", "version": "0.1.0"}
    return discovery.messages(style, "homeassistant", BRANCH, "shop-unit-1", lines, info)


def components(lines: int = 1) -> dict[str, dict[str, Any]]:
    (device,) = messages("device", lines).values()
    found: dict[str, dict[str, Any]] = device["components"]
    return found


def rendered(key: str, payload: object, template: str = "value_template") -> str:
    """As Home Assistant renders it: sandboxed. Anything undefined, of which it would warn, is an error."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    return environment.from_string(components()[key][template]).render(value_json=payload)


def call_event(told: Event, privacy: Privacy = "full", *, replayed: bool = False) -> dict[str, Any]:
    body = {"type": told.type, "subject": told.subject, "time": told.time, "data": told.data, "replayed": replayed}
    return masked(json.loads(json.dumps(body)), privacy, b"key")


def test_one_payload_of_the_device_or_one_a_component_say_the_same() -> None:
    (topic,) = messages("device", 2)
    assert topic == "homeassistant/device/tsuroku-shop-unit-1/config"
    singly = messages("components", 2)
    assert len(singly) == len(components(2))
    for key, each in components(2).items():
        payload = singly[f"homeassistant/{each.pop('platform')}/tsuroku-shop-unit-1/{key}/config"]
        assert {name: payload.get(name) for name in each} == each
        assert payload["device"]["identifiers"] == ["tsuroku-shop-unit-1"]


@pytest.mark.parametrize("lines", [1, 2, 16])
def test_ids_and_names_are_unique_and_topics_the_units_own(lines: int) -> None:
    found = components(lines)
    assert len(found) == 5 + 2 * lines
    assert len({each["unique_id"] for each in found.values()}) == len(found)
    assert len({each["name"] for each in found.values()}) == len(found)
    for each in found.values():
        topics = {value for name, value in each.items() if name.endswith("topic")}
        assert all(topic.startswith(f"{BRANCH}/") for topic in topics)
        assert each["availability_topic"] == f"{BRANCH}/status"
        says = {
            status: Template(each["availability_template"]).render(value=status)
            for status in ("online", "offline", "maintenance")
        }
        assert says == {"online": "online", "offline": "offline", "maintenance": "offline"}


def test_every_type_of_call_event_is_known_to_home_assistant() -> None:
    assert {*get_args(EventType), "callback.due", "callback.done"} <= set(CALL_EVENTS)


def test_a_missed_call_is_told_with_who_and_when() -> None:
    ended = replace(CALL, outcome="missed", ended_ns=12_000_000_000)
    told = json.loads(rendered("call", call_event(event("call.missed", ended, 12_000_000_000))))
    assert told == {
        "event_type": "call.missed",
        "time": "1970-01-01T00:00:12.000Z",
        "call_id": "0192d3a4",
        "line": 1,
        "direction": "incoming",
        "presentation": "allowed",
        "number": "03-0000-1234",
        "name": "ヤマダ",
        "region": None,
        "duration_s": None,
        "outcome": "missed",
    }


@pytest.mark.parametrize(("privacy", "number"), [("last4", "1234"), ("hmac", None), ("none", None)])
def test_it_is_told_no_more_of_a_number_than_the_broker_may_know(privacy: Privacy, number: str | None) -> None:
    told = json.loads(rendered("call", call_event(event("call.ringing", CALL, 0), privacy)))
    assert (told["number"], told["name"]) == (number, None)


def test_of_an_outgoing_call_it_is_told_who_was_dialled() -> None:
    dialled = Dialled(raw="0300001234", digits="0300001234", number="+81300001234")
    outgoing = replace(CALL, direction="outgoing", caller=Caller(), dialled=dialled)
    told = json.loads(rendered("call", call_event(event("call.dialled", outgoing, 0))))
    assert (told["direction"], told["number"], told["presentation"]) == ("outgoing", "03-0000-1234", None)


def test_of_a_call_waiting_it_is_told_who_waits() -> None:
    waiting = told_of(replace(CALLER, national="090-0000-1234"))
    told = json.loads(rendered("call", call_event(event("call.waiting", CALL, 0, waiting=waiting))))
    assert told["number"] == "090-0000-1234"


def test_whoever_must_be_called_back_is_told() -> None:
    missed = replace(CALL, outcome="missed", ended_ns=0)
    _, (due,) = callbacks.after((), missed, [event("call.missed", missed, 0)])
    told = json.loads(rendered("call", call_event(due)))
    assert (told["event_type"], told["number"], told["direction"]) == ("callback.due", "03-0000-1234", None)


def test_a_replay_is_no_call() -> None:
    assert rendered("call", call_event(event("call.ringing", CALL, 0), replayed=True)) == ""


def test_states_of_line_and_recorder() -> None:
    used = {state.value for state in State if rendered("line_1_in_use", {"state": state.value}) == "ON"}
    assert used == {"dialling", "in_call", "flash", "held_open"}
    wrong = {state.value for state in State if rendered("line_1_fault", {"state": state.value}) == "ON"}
    assert wrong == {"line_cut", "held_open"}
    recorder = {"enabled": True, "disk_free_mb": 1234, "callbacks_waiting": 2}
    assert [rendered(key, recorder) for key in ("recording", "disk", "callbacks")] == ["ON", "1234", "2"]
    assert rendered("recording", {**recorder, "enabled": False}) == "OFF"
    assert rendered("last_call", {"outcome": "missed"}) == "missed"
