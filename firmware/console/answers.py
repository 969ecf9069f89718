"""What the API's operations answer, for its document: JSON Schemas by name, and which operation has which.

Objects may have more than is named here; what is named stays while version 1 lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_MAYBE: Schema = {"type": ["string", "null"]}
_TIME: Schema = {"type": "string", "description": "UTC, ISO 8601."}
_MAYBE_TIME: Schema = {"type": ["string", "null"], "description": "UTC, ISO 8601."}
_WHOLE: Schema = {"type": "integer", "minimum": 0}
_SECONDS: Schema = {"type": "number"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [{"type": "null"}, schema]}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


SCHEMAS: Mapping[str, Schema] = {
    "remarks": _object(
        notes=_list(_object(at=_TIME, by=_TEXT, text=_TEXT)),
        tags=_TEXTS,
        taken_by=_MAYBE,
        follow_up=_maybe(_object(reaction=_MAYBE, next=_MAYBE, who=_MAYBE, due=_MAYBE, done={"type": "boolean"})),
    ),
    "contact": _object(contact_id=_TEXT, name=_TEXT, reading=_MAYBE, note=_MAYBE, flags=_TEXTS),
    "number": _object(number={"type": "string", "description": "E.164."}, national=_TEXT),
    "caller": _object(
        presentation=_TEXT, number=_MAYBE, national=_MAYBE, name=_MAYBE, region_ja=_MAYBE, region_en=_MAYBE
    ),
    "recording": _object(duration_s=_SECONDS, sha256=_TEXT, size_bytes=_WHOLE, deleted={"type": ["object", "null"]}),
    "call": _object(
        call_id=_TEXT,
        line={"type": "integer", "description": "0: imported."},
        direction=_MAYBE,
        outcome={"type": ["string", "null"], "description": "null: it goes on."},
        opened=_TIME,
        answered=_MAYBE_TIME,
        ended=_MAYBE_TIME,
        duration_s={"type": ["number", "null"]},
        rings=_WHOLE,
        caller=_ref("caller"),
        dialled=_maybe(_object(number=_MAYBE, digits=_TEXT)),
        recording=_maybe(_ref("recording")),
        no_recording={"type": ["string", "null"], "description": "Why there is none."},
        contact=_maybe(_ref("contact")),
        remarks=_ref("remarks"),
    ),
    "callback": _object(call_id=_TEXT, since=_TIME, times=_WHOLE, due=_MAYBE_TIME, who=_MAYBE, by=_MAYBE),
}
_HEALTH: Schema = {
    "type": ["object", "null"],
    "description": "As the MQTT topic of that name has it; null: the unit is away.",
}
ANSWERS: Mapping[str, Schema] = {
    "get_today": _object(
        waiting=_list({"allOf": [_ref("callback"), _object(call=_ref("call"))]}),
        last=_list(_ref("call")),
        follow_ups=_list(_ref("call")),
        counts=_object(calls=_WHOLE, missed=_WHOLE, nameless=_WHOLE),
    ),
    "get_lines": {"type": "object", "additionalProperties": _object(state=_TEXT, since=_TIME, call_id=_MAYBE)},
    "get_calls": _object(calls=_list(_ref("call")), next={"type": ["integer", "null"], "description": "For `from`."}),
    "get_calls_call_id": {
        "allOf": [
            _ref("call"),
            _object(
                held=_maybe(_object(reason=_TEXT, who=_TEXT, at=_TIME)),
                callback=_maybe(_ref("callback")),
                others=_list(_ref("call")),
            ),
        ]
    },
    "get_calls_call_id_wave": _object(
        levels={"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 100}},
        quiet=_list(_list(_SECONDS)),
        clipped=_list(_list(_SECONDS)),
        length_s=_SECONDS,
        happened=_list(_object(kind=_TEXT, at_s=_SECONDS, until_s={"type": ["number", "null"]})),
    ),
    "post_calls_call_id_check": _object(
        holds={"type": "boolean"}, findings=_list(_object(state=_TEXT, where=_TEXT, ja=_TEXT, en=_TEXT))
    ),
    "patch_calls_call_id_remarks": _ref("remarks"),
    "get_contacts": _object(
        contacts=_list({"allOf": [_ref("contact"), _object(numbers=_list(_ref("number")))]}), count=_WHOLE
    ),
    "post_contacts": _object(contact_id=_TEXT),
    "get_contacts_contact_id": {
        "allOf": [
            _ref("contact"),
            _object(
                numbers=_list(_ref("number")),
                calls=_list(_ref("call")),
                counts=_object(calls=_WHOLE, missed=_WHOLE, talked_s=_SECONDS),
            ),
        ]
    },
    "delete_contacts_contact_id": _object(kept=_TEXTS),
    "get_log": _object(events=_list(_object(type=_TEXT, time=_TIME, sequence=_WHOLE, data={"type": "object"}))),
    "get_system": _object(info=_HEALTH, recorder=_HEALTH, health=_HEALTH),
    "get_people": _object(people=_list(_object(name=_TEXT, role=_TEXT))),
}
