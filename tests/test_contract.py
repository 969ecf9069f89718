"""The contract is whole: its commands and values are those of the firmware, and version 1 loses nothing."""

from __future__ import annotations

import copy
import json
import re
import typing
from collections.abc import Callable
from typing import Any

import pytest

from drivers.signals import CallerIdSource, Presentation
from firmware.core import commands as rpc
from firmware.core.alarms import Kind as AlarmKind
from firmware.core.call import (
    AnswerEvidence,
    ClockState,
    Direction,
    Ender,
    EnderEvidence,
    EndReason,
    Outcome,
)
from firmware.core.caller import Reason
from firmware.core.line import State
from firmware.core.numbers import Kind
from firmware.core.outbox import CALL_EVENTS, STREAMS, EventType
from firmware.core.privacy import Privacy
from tests.contract import Fields, check, commands, file, losses, messages, promised, snapshot, whole

BRANCH = "tsuroku/v1/shop/unit-1"


def test_every_schema_is_used_and_every_command_stands() -> None:
    document, schemas = file("asyncapi.json"), file("schemas.json")["definitions"]
    texts = json.dumps([document, schemas, commands()])
    assert [name for name in schemas if f'#/definitions/{name}"' not in texts] == []
    used = [each["$ref"] for channel in document["channels"].values() for each in channel["messages"].values()]
    assert sorted(used) == sorted(f"#/components/messages/{name}" for name in document["components"]["messages"])
    assert [message.name for message in messages() if message.topic == "rpc/req"] == list(commands())
    results = [each["$ref"] for each in schemas["result"]["properties"]["result"]["anyOf"]]
    assert results == [f"commands.json#/{method}/result" for method in commands()]


def test_what_changes_something_asks_for_a_time_limit() -> None:
    for message in messages():
        if message.topic == "rpc/req":
            told = commands()[message.name]
            assert ("exp" in message.schema["required"]) == told["changes"], message.name
            assert message.schema["properties"]["params"] == whole(told["params"])


def values(topic: str, name: str, path: str) -> set[Any]:
    field = {f"{each.topic} {each.name}": each for each in messages()}[f"{topic} {name}"].schema
    for step in path.split("."):
        field = field["items"] if step == "[]" else field["properties"][step]
    return set(field.get("enum") or field["x-extensible-enum"]) - {None}


@pytest.mark.parametrize(
    ("name", "path", "known"),
    [
        ("call.ended", "direction", Direction),
        ("call.ended", "outcome", Outcome),
        ("call.ended", "end_reason", EndReason),
        ("call.ended", "answer_evidence", AnswerEvidence),
        ("call.ended", "ended_by", Ender),
        ("call.ended", "ended_by_evidence", EnderEvidence),
        ("call.ended", "clock", ClockState),
        ("call.ended", "caller.presentation", Presentation),
        ("call.ended", "caller.reason", Reason),
        ("call.ended", "caller.kind", Kind),
        ("call.ended", "caller.source", CallerIdSource),
        ("call.ended", "caller.sources.[]", CallerIdSource),
        ("call.ended", "privacy", Privacy),
        ("alarm.raised", "kind", AlarmKind),
    ],
)
def test_the_values_are_those_of_the_firmware(name: str, path: str, known: Any) -> None:
    stream = "call" if name.startswith("call.") else "system"
    assert values(f"event/{stream}", name, f"data.{path}") == set(typing.get_args(known)) - {"full"}


def test_other_values_are_those_of_the_firmware_too() -> None:
    assert values("state/line/{line}", "line_state", "state") == {state.value for state in State}
    refused = {rpc.INVALID_REQUEST, rpc.NO_METHOD, rpc.INVALID_PARAMS, rpc.EXPIRED, rpc.CLOCK_UNSET}
    codes = refused | {rpc.FAILED, rpc.INTERNAL_ERROR}
    assert values("rpc/res/{src}", "error", "error.code") == codes
    for method in ("events.replay", "events.ack"):
        assert values("rpc/req", method, "params.stream") == set(STREAMS)
    assert [each.name for each in messages() if each.topic == "event/call"] == list(CALL_EVENTS)
    assert set(typing.get_args(EventType)) <= set(CALL_EVENTS)


def test_the_contract_holds_what_is_told_strictly() -> None:
    status = f"{BRANCH}/status"
    check(status, b"online")
    check(status, b"")
    check("homeassistant/status", b"whatever")
    line = {"state": "idle", "since": "2026-11-24T00:00:00.000Z", "call_id": None, "volts": None}
    check(f"{BRANCH}/state/line/1", json.dumps(line).encode())
    for topic, payload in (
        (status, b"asleep"),
        (f"{BRANCH}/state/line", b"{}"),
        ("zigbee/shop/status", b"online"),
        (f"{BRANCH}/state/line/1", json.dumps({**line, "colour": "red"}).encode()),
        (f"{BRANCH}/state/line/1", json.dumps({**line, "state": "asleep"}).encode()),
        (f"{BRANCH}/state/line/1", json.dumps({**line, "since": "yesterday"}).encode()),
        (f"{BRANCH}/state/line/1", b"{}"),
        (f"{BRANCH}/event/call", json.dumps({"type": "call.lost"}).encode()),
    ):
        with pytest.raises(AssertionError):
            check(topic, payload)


# -- version 1 loses nothing


def test_version_1_loses_nothing() -> None:
    assert losses(snapshot(), promised()) == []


MISSED = "event/call call.missed"
PAUSE = "< rpc/req recording.pause"


def gone(now: dict[str, Fields]) -> None:
    del now[MISSED]["data.caller.number"]


def retyped(now: dict[str, Fields]) -> None:
    now[MISSED]["data.rings"]["type"] = "string"


def optional(now: dict[str, Fields]) -> None:
    now[MISSED]["data.outcome"]["required"] = False


def renamed(now: dict[str, Fields]) -> None:
    now[MISSED]["data.outcome"]["known"].remove("missed")


def widened(now: dict[str, Fields]) -> None:
    now[MISSED]["data.direction"]["values"].append("internal")


def silent(now: dict[str, Fields]) -> None:
    del now[MISSED]


def narrowed(now: dict[str, Fields]) -> None:
    now[PAUSE]["params.seconds"]["limits"]["maximum"] = 60


def demanding(now: dict[str, Fields]) -> None:
    now[PAUSE]["params.why"] = {"type": "string", "required": True}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (gone, f"{MISSED}: data.caller.number is gone."),
        (retyped, f"{MISSED}: data.rings was integer and is string."),
        (optional, f"{MISSED}: data.outcome need not be there now."),
        (renamed, f"{MISSED}: data.outcome can no longer be missed."),
        (widened, f"{MISSED}: data.direction can be internal now."),
        (silent, f"{MISSED}: is gone."),
        (narrowed, f"{PAUSE}: params.seconds has other limits."),
        (demanding, f"{PAUSE}: params.why is new and must be there."),
    ],
)
def test_a_loss_is_seen(change: Callable[[dict[str, Fields]], None], sentence: str) -> None:
    now = json.loads(json.dumps(promised()))
    change(now)
    assert losses(promised(), now) == [sentence]


def test_a_field_taken_out_of_a_schema_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    before = promised()
    recording = copy.deepcopy(file("schemas.json"))
    del recording["definitions"]["recording"]["properties"]["sha256"]
    monkeypatch.setattr("tests.contract.file", lambda name: recording if name == "schemas.json" else file(name))
    messages.cache_clear()
    try:
        of_it = ("call.imported", "recording.ready", "recording.deleted")
        told = [f"event/call {name}: data.recording.sha256 is gone." for name in of_it]
        assert losses(before, promised()) == told
    finally:
        messages.cache_clear()


def test_more_is_no_loss() -> None:
    now = json.loads(json.dumps(promised()))
    now[MISSED]["data.transcript"] = {"type": "string", "required": True}
    now[MISSED]["data.outcome"]["known"].append("voicemail")
    now["event/call call.transferred"] = {}
    now[PAUSE]["params.why"] = {"type": "string", "required": False}
    assert losses(promised(), now) == []


def test_no_topic_is_deeper_than_others_allow() -> None:
    """AWS IoT Core: at most seven slashes."""
    assert all(re.sub(r"[^/]", "", f"{BRANCH}/{message.topic}").count("/") <= 7 for message in messages())
