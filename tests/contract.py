"""The MQTT contract (firmware/contract) as tests hold it against what is published.

`python -m tests.contract` adds what is new to the snapshot of what version 1 has promised; it takes nothing away.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import fastjsonschema

from firmware.management import CONTRACT

SNAPSHOT = Path(__file__).parent / "contract-1.json"
_LIMITS = ("minimum", "maximum", "minLength", "maxLength", "pattern")
Schema = dict[str, Any]
Fields = dict[str, dict[str, Any]]  # by path, as data.caller.sources[]: type, required, values


@cache
def file(name: str) -> dict[str, Any]:
    return dict(json.loads((CONTRACT / name).read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """topic: below the unit's branch, with {line} and {src} in it. received: by the unit; it sends the others."""

    topic: str
    name: str
    text: bool
    received: bool
    schema: Schema


@cache
def messages() -> tuple[Message, ...]:
    """Every message of asyncapi.json, with a schema that refers to nothing."""
    document = file("asyncapi.json")
    received = {key for key, each in document["operations"].items() if each["action"] == "receive"}
    found = []
    for key, channel in document["channels"].items():
        for name, reference in channel["messages"].items():
            message = _pointed(reference["$ref"], "asyncapi.json")[0]
            found.append(
                Message(
                    topic=channel["address"].removeprefix("tsuroku/v1/{site}/{unit}/"),
                    name=name,
                    text=message.get("contentType") == "text/plain",
                    received=key in received,
                    schema=whole(message["payload"], "asyncapi.json"),
                )
            )
    return tuple(found)


def commands() -> dict[str, Any]:
    return file("commands.json")


def _pointed(reference: str, within: str) -> tuple[Any, str]:
    """What a $ref points to, and the file that it stands in."""
    name, _, pointer = reference.partition("#/")
    found: Any = file(name or within)
    for step in pointer.split("/"):
        found = found[step]
    return found, name or within


def whole(schema: Schema, within: str = "schemas.json") -> Schema:
    """The schema with every $ref put in and every allOf made one."""
    if "$ref" in schema:
        return whole(*_pointed(schema["$ref"], within))
    out = {key: value for key, value in schema.items() if key != "allOf"}
    if "properties" in out:
        out["properties"] = {name: whole(each, within) for name, each in out["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = whole(out[key], within)
    if "anyOf" in out:
        out["anyOf"] = [whole(each, within) for each in out["anyOf"]]
    for part in schema.get("allOf", ()):
        out = _joined(out, whole(part, within))
    return out


def _joined(one: Schema, other: Schema) -> Schema:
    ours, theirs = one.get("properties", {}), other.get("properties", {})
    both = {name: _joined(ours[name], theirs[name]) for name in ours.keys() & theirs.keys()}
    out = {**one, **other}
    if ours or theirs:
        out["properties"] = {**ours, **theirs, **both}
    if "required" in one or "required" in other:
        out["required"] = [*one.get("required", ()), *other.get("required", ())]
    return out


# -- what is published


def strict(schema: Schema) -> Schema:
    """As no consumer may see it: fields and values that the contract does not name are wrong."""
    out = dict(schema)
    if "x-extensible-enum" in out:
        out["enum"] = [*out["x-extensible-enum"], *([None] if "null" in out["type"] else [])]
    if "properties" in out:
        out["properties"] = {name: strict(each) for name, each in out["properties"].items()}
        out.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = strict(out[key])
    if "anyOf" in out:
        out["anyOf"] = [strict(each) for each in out["anyOf"]]
    return out


def check(topic: str, payload: bytes) -> None:
    """One message against the contract. topic: whole. What is Home Assistant's is not the contract's.

    Raises AssertionError.
    """
    cleared = payload == b"" and (topic.endswith(("/status", "/info")) or "/state/" in topic)  # a retained topic
    if topic.startswith("homeassistant/") or (cleared and _on(topic)):
        return
    message, body = message_of(topic, payload.decode())
    try:
        _checker(message.topic, message.name)(body)
    except fastjsonschema.JsonSchemaException as error:
        raise AssertionError(f"{topic} {message.name}: {error}: {payload.decode()}") from error


def message_of(topic: str, payload: str) -> tuple[Message, Any]:
    """Which message of the contract it is, and what it says. Raises AssertionError, ValueError."""
    known = _on(topic)
    assert known, f"{topic} is no topic of the contract"
    if all(message.text for message in known.values()):
        return next(iter(known.values())), payload
    body = json.loads(payload)
    assert isinstance(body, dict), f"{topic}: {payload} is no object"
    name = str(body.get("type") or body.get("method") or ("error" if "error" in body else "result"))
    message = known.get(name) if len(known) > 1 else next(iter(known.values()))
    assert message, f"{topic}: {name} is no message of the contract"
    return message, body


def check_event(body: Mapping[str, Any]) -> None:
    """An event as the store keeps it."""
    check(f"tsuroku/v1/shop/unit-1/event/{body['id'].split('-')[-2]}", json.dumps(body).encode())


def check_result(method: str, result: object) -> None:
    """A command's result, by its method: `check` cannot know which it was."""
    try:
        fastjsonschema.compile(strict(whole(commands()[method]["result"], "commands.json")))(result)
    except fastjsonschema.JsonSchemaException as error:
        raise AssertionError(f"result of {method}: {error}: {result}") from error


@cache
def _on(topic: str) -> dict[str, Message]:
    """The messages of a whole topic, by name."""
    word = "[a-z0-9][a-z0-9_-]{0,31}"
    return {
        message.name: message
        for message in messages()
        if re.fullmatch(rf"tsuroku/v1/{word}/{word}/" + re.sub(r"\{\w+\}", word, message.topic), topic)
    }


@cache
def _checker(topic: str, name: str) -> Any:
    (message,) = (each for each in messages() if (each.topic, each.name) == (topic, name))
    return fastjsonschema.compile(strict(message.schema))


# -- what was promised


def fields(schema: Schema, path: str = "", *, required: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a payload: its type, whether it is always there, its values where they are counted, its limits.

    known: values that more may come to.
    """
    types = schema.get("type", "any")
    told: dict[str, Any] = {"type": types if isinstance(types, str) else "|".join(types), "required": required}
    if "enum" in schema or "const" in schema:
        told["values"] = schema.get("enum") or [schema["const"]]
    if "x-extensible-enum" in schema:
        told["known"] = schema["x-extensible-enum"]
    limits = {key: schema[key] for key in _LIMITS if key in schema}
    if limits:
        told["limits"] = limits
    yield path or ".", told
    for name, each in schema.get("properties", {}).items():
        yield from fields(each, f"{path}.{name}" if path else name, required=name in schema.get("required", ()))
    for key, below in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(key), dict):
            yield from fields(schema[key], f"{path}{below}")


def promised() -> dict[str, Fields]:
    """By topic and message, or command: what may not go while version 1 lasts. Received ones begin with a <."""
    found = {
        f"{'< ' if message.received else ''}{message.topic} {message.name}": dict(fields(message.schema))
        for message in messages()
    }
    results = {
        f"result of {method}": dict(fields(whole(told["result"], "commands.json")))
        for method, told in commands().items()
    }
    return found | results


def losses(before: Mapping[str, Fields], now: Mapping[str, Fields]) -> list[str]:
    """What a consumer, or who sends commands, would miss: a sentence for each. What was added is none."""
    lost = []
    for message, old in before.items():
        new, received = now.get(message), message.startswith("<")
        if new is None:
            lost.append(f"{message}: is gone.")
            continue
        for path, was in old.items():
            wrong = _lost(was, new[path], received=received) if path in new else "is gone"
            lost += [f"{message}: {path} {wrong}."] if wrong else []
        if received:
            added = [path for path, is_ in new.items() if path not in old and is_["required"]]
            lost += [f"{message}: {path} is new and must be there." for path in added]
    return lost


def _lost(was: Mapping[str, Any], now: Mapping[str, Any], *, received: bool) -> str | None:
    if was["type"] != now["type"]:
        return f"was {was['type']} and is {now['type']}"
    if was["required"] != now["required"] and was["required"] != received:
        return "must be there now" if received else "need not be there now"
    for key in ("values", "known"):
        old, new = was.get(key), now.get(key)
        if old and not new:
            return "can be anything now"
        if gone := [value for value in old or () if value not in (new or ())]:
            return f"can no longer be {gone[0]}"
        if key == "values" and not received and new and (more := [value for value in new if value not in (old or ())]):
            return f"can be {more[0]} now"
    if received and was.get("limits") != now.get("limits"):
        return "has other limits"
    return None


def snapshot() -> dict[str, Fields]:
    return dict(json.loads(SNAPSHOT.read_text(encoding="utf-8")))


def main() -> int:
    lost = losses(snapshot(), promised()) if SNAPSHOT.exists() else []
    if lost:
        print(*lost, "Version 1 may lose nothing: that is version 2, with a prefix of its own.", sep="\n")
        return 1
    lines = [
        f"{json.dumps(message)}: {{\n"
        + ",\n".join(f" {json.dumps(path)}: {json.dumps(told)}" for path, told in each.items())
        + "\n}"
        for message, each in promised().items()
    ]
    SNAPSHOT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
