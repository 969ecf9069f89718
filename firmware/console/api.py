"""The JSON API: what the pages do, for programs, with the same rights. One table gives routes, checks and document."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fastjsonschema
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from firmware.console.answers import ANSWERS, SCHEMAS
from firmware.console.desk import Desk, DeskError
from firmware.console.door import is_size
from firmware.console.index import Wanted
from firmware.console.live import Live
from firmware.console.pages import FLAGS, KINDS, wanted_of
from firmware.console.people import RIGHTS, SHORTEST_PASSWORD, People, PeopleError, Person, Right
from firmware.console.sound import happened, wave_of
from firmware.console.words import say
from firmware.records.store import StoreError

_JSON = "application/json"
_MOST_BODY = 1 << 20
_MOST_CALLS = 500
Schema = Mapping[str, Any]
Given = Mapping[str, Any]  # what stands in path, query and body

_TEXT: Schema = {"type": "string"}
_MAYBE: Schema = {"type": ["string", "null"]}
_ID: Schema = {"type": "string", "pattern": "^[0-9a-fA-F-]{36}$", "minLength": 36, "maxLength": 36}
_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 40}
_ROLE: Schema = {"type": "string", "enum": list(RIGHTS)}
_OBJECT: Schema = {"type": "object"}
_WHOLE: Schema = {"type": "integer", "minimum": 0, "maximum": 10_000_000}


def _object(required: Sequence[str], **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_FOLLOW_UP = {
    "anyOf": [
        {"type": "null"},
        _object(
            (),
            reaction={"type": ["string", "null"], "maxLength": 200},
            next={"type": ["string", "null"], "maxLength": 200},
            who={"type": ["string", "null"], "maxLength": 40},
            due={"type": ["string", "null"], "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
            done={"type": "boolean"},
        ),
    ]
}
_REMARK = {
    **_object(
        (),
        note={"type": "string", "minLength": 1, "maxLength": 4000},
        tags={"type": "array", "items": {"type": "string", "maxLength": 40}, "maxItems": 20},
        taken_by={"type": ["string", "null"], "maxLength": 40},
        follow_up=_FOLLOW_UP,
    ),
    "minProperties": 1,
}
_CONTACT = _object(
    ("number", "name"),
    number={"type": "string", "minLength": 3, "maxLength": 32},
    name={"type": "string", "minLength": 1, "maxLength": 100},
    reading={"type": ["string", "null"], "maxLength": 100},
    note={"type": ["string", "null"], "maxLength": 4000},
    flags={"type": "array", "items": {"type": "string", "enum": list(FLAGS)}},
)
_SEARCH: Mapping[str, Schema] = {
    "text": {"type": "string", "maxLength": 100},
    "kind": {"type": "string", "enum": list(KINDS)},
    "direction": {"type": "string", "enum": ["incoming", "outgoing"]},
    "since": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
    "until": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
    "shortest": {"type": "number", "minimum": 0, "maximum": 999_999},
    "longest": {"type": "number", "minimum": 0, "maximum": 999_999},
    "tag": {"type": "string", "maxLength": 40},
    "by": {"type": "string", "maxLength": 40},
    "flag": {"type": "string", "enum": list(FLAGS)},
    "from": _WHOLE,
    "count": {"type": "integer", "minimum": 1, "maximum": _MOST_CALLS},
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """do: on a thread of its own; gives what is answered as JSON, or a whole answer."""

    method: str
    path: str
    right: Right
    summary: str
    do: Callable[[Person, Given], Any]
    query: Mapping[str, Schema] = field(default_factory=dict)
    body: Schema | None = None
    media: tuple[str, ...] = (_JSON,)  # types of the answer

    @functools.cached_property
    def check(self) -> Callable[[Any], Any]:
        """Raises fastjsonschema's exception. Compiled when it is first needed."""
        return fastjsonschema.compile(dict(self.body or {}))

    @property
    def in_path(self) -> list[str]:
        return re.findall(r"\{(\w+)\}", self.path)


class Api:
    """Keys are made on the page of people; a key has a role, and its rights are the role's."""

    def __init__(self, people: People, desk: Desk, live: Live) -> None:
        self._people, self._desk, self._live = people, desk, live
        self.operations = self._operations()

    def routes(self) -> list[Route]:
        found: dict[str, dict[str, Operation]] = {}
        for each in self.operations:
            found.setdefault(each.path, {})[each.method] = each
        return [
            Route("/api/v1/openapi.json", self._document, methods=["GET"]),
            *(Route(path, self._of(by_method), methods=list(by_method)) for path, by_method in found.items()),
        ]

    def _of(self, by_method: Mapping[str, Operation]) -> Callable[[Request], Any]:
        async def answered(request: Request) -> Response:
            operation = by_method.get("GET" if request.method == "HEAD" else request.method)
            if operation is None:
                return _error(405, "not_found")
            try:
                return await self._answer(request, operation)
            except DeskError as error:
                return _error(error.status, error.key, **error.detail)
            except PeopleError as error:
                return _error(409, error.key, **error.detail)
            except StoreError:
                return _error(503, "unit_away")

        return answered

    async def _answer(self, request: Request, operation: Operation) -> Response:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        person = await run_in_threadpool(self._people.of_key, key.strip()) if scheme.lower() == "bearer" else None
        if person is None:
            answer = _error(401, "key_wrong")
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        if not person.may(operation.right):
            raise DeskError(403, "not_allowed")
        given = {**_query(request, operation), **request.path_params}
        if operation.body is not None:
            given["body"] = await _body(request, operation)
        answer = await run_in_threadpool(operation.do, person, given)
        if isinstance(answer, Response):
            return answer
        return JSONResponse(answer if answer is not None else {})

    async def _document(self, _request: Request) -> Response:
        return JSONResponse(document(self.operations))

    # -- what there is

    def _operations(self) -> tuple[Operation, ...]:
        desk, call, contact = self._desk, "/api/v1/calls/{call_id}", "/api/v1/contacts/{contact_id}"

        def op(
            method: str, path: str, right: Right, summary: str, do: Callable[[Person, Given], Any], **more: Any
        ) -> Operation:
            return Operation(method=method, path=path, right=right, summary=summary, do=do, **more)

        return (
            op(
                "GET",
                "/api/v1/today",
                "see",
                "Who waits, the last calls, what is to be done.",
                lambda _p, _g: desk.today(),
            ),
            op("GET", "/api/v1/lines", "see", "What each line does now.", lambda _p, _g: self._live.lines),
            op(
                "GET",
                "/api/v1/calls",
                "see",
                "Calls, the last first; days are the unit's, lengths minutes.",
                self._calls,
                query=_SEARCH,
            ),
            op("GET", call, "see", "All that is known of a call.", self._call),
            op(
                "GET",
                f"{call}/sound",
                "listen",
                "Its recording.",
                self._sound,
                media=("audio/flac", "application/octet-stream"),
            ),
            op(
                "GET",
                f"{call}/wave",
                "listen",
                "Its waveform, what is silent or clipped, what happened when.",
                self._wave,
            ),
            op(
                "GET",
                f"{call}/bundle",
                "download",
                "It as a file that anybody can check.",
                self._bundle,
                media=("application/zip",),
            ),
            op(
                "POST",
                f"{call}/check",
                "see",
                "What of it can be proved now.",
                lambda _p, g: desk.checked(self._known(g)),
            ),
            op(
                "PATCH",
                f"{call}/remarks",
                "write",
                "Add a note; set tags, who took it, what is to be done.",
                self._remark,
                body=_REMARK,
            ),
            op(
                "PUT",
                f"{call}/hold",
                "write",
                "Keep it, whatever retention says.",
                self._hold,
                body=_object(("reason",), reason={"type": "string", "minLength": 1, "maxLength": 200}),
            ),
            op(
                "DELETE",
                f"{call}/hold",
                "delete",
                "Keep it no more.",
                lambda p, g: desk.release(p.name, self._known(g)),
            ),
            op(
                "PUT",
                f"{call}/callback",
                "write",
                "Have the other side called back; due: UTC.",
                self._callback,
                body=_object(
                    (),
                    due={
                        "type": ["string", "null"],
                        "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,6})?)?Z$",
                    },
                    who={"type": ["string", "null"], "maxLength": 40},
                ),
            ),
            op(
                "DELETE",
                f"{call}/callback",
                "write",
                "It needs no call back.",
                lambda p, g: desk.callback_done(p.name, self._known(g)),
            ),
            op(
                "DELETE",
                call,
                "delete",
                "Take it and its recording out, for good.",
                lambda p, g: desk.delete(p.name, self._known(g)),
            ),
            op(
                "GET",
                "/api/v1/contacts",
                "see",
                "Contacts; text: a part of a number, name, reading or note.",
                self._contacts,
                query={"text": {"type": "string", "maxLength": 100}},
            ),
            op(
                "POST",
                "/api/v1/contacts",
                "write",
                "Tell who has a number; another contact of the number is replaced.",
                self._put_contact,
                body=_CONTACT,
            ),
            op("GET", contact, "see", "Somebody with his numbers and calls.", self._contact),
            op(
                "POST",
                f"{contact}/merge",
                "write",
                "The other contact's numbers are his too.",
                self._merge,
                body=_object(("other",), other=_ID),
            ),
            op(
                "DELETE",
                contact,
                "delete",
                "All that is kept of him goes; `kept`: sentences on what stays.",
                lambda p, g: {"kept": desk.erase(p.name, g["contact_id"])},
            ),
            op(
                "GET",
                "/api/v1/log",
                "log",
                "Who did what, the last first.",
                lambda _p, g: {"events": desk.said(g.get("count", 100))},
                query={"count": _SEARCH["count"]},
            ),
            op("GET", "/api/v1/system", "system", "What the unit is, and how it is.", self._system),
            op(
                "POST",
                "/api/v1/alarms/acknowledge",
                "system",
                "Somebody has seen an alarm.",
                lambda p, g: desk.ask({"do": "acknowledge", "alarm": g["body"]["alarm"]}, p.name),
                body=_object(("alarm",), alarm={"type": "string", "maxLength": 80}),
            ),
            op(
                "GET",
                "/api/v1/people",
                "people",
                "Who may use the console.",
                lambda _p, _g: {"people": [dataclasses.asdict(each) for each in self._people.all()]},
            ),
            op(
                "POST",
                "/api/v1/people",
                "people",
                "Let somebody in.",
                self._add,
                body=_object(
                    ("name", "role", "password"),
                    name=_NAME,
                    role=_ROLE,
                    password={"type": "string", "minLength": SHORTEST_PASSWORD, "maxLength": 200},
                ),
            ),
            op("DELETE", "/api/v1/people/{name}", "people", "He may no more.", self._remove),
        )

    def _known(self, given: Given) -> str:
        """The id of a call that is there. Raises DeskError."""
        return str(self._desk.call(given["call_id"])["call_id"])

    def _calls(self, _person: Person, given: Given) -> Any:
        asked = {key: str(value) for key, value in given.items()}
        wanted: Wanted = wanted_of(asked)
        start, count = given.get("from", 0), given.get("count", 50)
        found = self._desk.found(wanted, start, count + 1)
        return {"calls": found[:count], "next": start + count if len(found) > count else None}

    def _call(self, person: Person, given: Given) -> Any:
        call = self._desk.call(given["call_id"])
        self._desk.note(person.name, "viewed", call["call_id"])
        return call

    def _file(self, given: Given) -> tuple[dict[str, Any], Any]:
        call = self._desk.call(given["call_id"])
        path = self._desk.sound(call)
        if path is None:
            raise DeskError(404, "no_recording")
        return call, path

    def _sound(self, person: Person, given: Given) -> Response:
        call, path = self._file(given)
        self._desk.note(person.name, "opened", call["call_id"])
        return FileResponse(path, media_type="audio/flac" if path.suffix == ".flac" else "application/octet-stream")

    def _wave(self, _person: Person, given: Given) -> Any:
        call, path = self._file(given)
        if call["imported"] or path.suffix == ".sealed":
            raise DeskError(409, "no_waveform")
        try:
            wave = wave_of(path, call["recording"]["duration_s"])
        except (OSError, RuntimeError) as error:
            raise DeskError(409, "no_waveform") from error
        return {**wave._asdict(), "happened": happened(call)}

    def _bundle(self, person: Person, given: Given) -> Response:
        call_id = self._known(given)
        self._desk.note(person.name, "exported", call_id)
        with self._desk.bundle([call_id]) as path:
            return Response(path.read_bytes(), media_type="application/zip")

    def _remark(self, person: Person, given: Given) -> Any:
        return self._desk.remark(person.name, self._known(given), given["body"])

    def _hold(self, person: Person, given: Given) -> None:
        self._desk.hold(person.name, self._known(given), given["body"]["reason"])

    def _callback(self, person: Person, given: Given) -> None:
        body = given["body"]
        self._desk.callback(person.name, self._known(given), body.get("due"), body.get("who"))

    def _contacts(self, _person: Person, given: Given) -> Any:
        found, count = self._desk.contacts(given.get("text", ""))
        return {"contacts": found, "count": count}

    def _put_contact(self, person: Person, given: Given) -> Any:
        return {"contact_id": self._desk.put_contact(person.name, given["body"])}

    def _contact(self, person: Person, given: Given) -> Any:
        found = self._desk.contact(given["contact_id"])
        self._desk.note(person.name, "looked_up", found["contact_id"])
        return found

    def _merge(self, person: Person, given: Given) -> None:
        self._desk.merge(person.name, given["body"]["other"], given["contact_id"])

    def _system(self, _person: Person, _given: Given) -> Any:
        states = self._live.states
        return {key: states.get(topic) for key, topic in _SHOWN.items()}

    def _add(self, person: Person, given: Given) -> None:
        body = given["body"]
        self._desk.note(person.name, "person_added", None, name=body["name"], role=body["role"])
        self._people.alone(self._people.add, body["name"], body["password"], body["role"])

    def _remove(self, person: Person, given: Given) -> None:
        self._desk.note(person.name, "person_removed", None, name=given["name"][:40])
        self._people.alone(self._people.remove, given["name"])


_SHOWN = {"info": "info", "recorder": "state/recorder", "health": "state/health"}


def _error(status: int, key: str, **detail: object) -> JSONResponse:
    told = {"error": key, "ja": say(key, "ja", **detail), "en": say(key, "en", **detail)}
    return JSONResponse(told, status)


def _query(request: Request, operation: Operation) -> dict[str, Any]:
    """Raises DeskError for what the operation does not know, or another kind of value."""
    given: dict[str, Any] = {}
    for key, text in request.query_params.multi_items():
        schema = operation.query.get(key)
        try:
            if schema is None or key in given:
                raise ValueError
            given[key] = _value(text, schema)
        except ValueError:
            raise DeskError(400, "asked_wrong", what=f"query {key[:40]}") from None
    return given


def _value(text: str, schema: Schema) -> Any:
    """Raises ValueError."""
    value: Any = text
    if schema["type"] == "integer":
        if not re.fullmatch("[0-9]{1,8}", text):
            raise ValueError
        value = int(text)
    elif schema["type"] == "number":
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
            raise ValueError
        value = float(text)
    fits = not (
        ("enum" in schema and value not in schema["enum"])
        or ("maxLength" in schema and len(text) > schema["maxLength"])
        or ("pattern" in schema and not re.search(schema["pattern"], text))
        or ("minimum" in schema and value < schema["minimum"])
        or ("maximum" in schema and value > schema["maximum"])
    )
    if not fits:
        raise ValueError
    return value


async def _body(request: Request, operation: Operation) -> Any:
    """Raises DeskError."""
    if not is_size(request.headers.get("content-length", ""), _MOST_BODY):
        raise DeskError(413, "form_large")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise DeskError(415, "asked_wrong", what="Content-Type")
    try:
        body = json.loads(await request.body())
        json.dumps(body, ensure_ascii=False).encode()  # no lone surrogate
        return operation.check(body)
    except fastjsonschema.JsonSchemaException as error:
        raise DeskError(400, "asked_wrong", what=str(error)[:200]) from error
    except (ValueError, RecursionError) as error:
        raise DeskError(400, "asked_wrong", what="JSON") from error


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    refused = {
        str(status): {"$ref": "#/components/responses/error"} for status in (400, 401, 403, 404, 409, 413, 415, 503)
    }
    for each in operations:
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": _TEXT if name == "name" else _ID}
            for name in each.in_path
        ]
        parameters += [
            {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in each.query.items()
        ]
        answers = ANSWERS.get(_operation_id(each), _OBJECT)
        content = {
            kind: {"schema": answers if kind == _JSON else {"type": "string", "contentMediaType": kind}}
            for kind in each.media
        }
        told: dict[str, Any] = {
            "summary": each.summary,
            "description": f"Right: {each.right}.",
            "operationId": _operation_id(each),
            "parameters": parameters,
            "responses": {"200": {"description": "Done.", "content": content}, **refused},
        }
        if each.body is not None:
            told["requestBody"] = {"required": True, "content": {"application/json": {"schema": each.body}}}
        paths.setdefault(each.path, {})[each.method.lower()] = told
    error = _object(("error", "ja", "en"), error=_TEXT, ja=_TEXT, en=_TEXT)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tsuroku",
            "version": "1",
            "description": "The calls of one unit. A key, made on the page of people, is sent as a Bearer token.",
        },
        "security": [{"key": []}],
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": SCHEMAS,
            "responses": {
                "error": {"description": "Not done: why.", "content": {"application/json": {"schema": error}}}
            },
        },
        "paths": paths,
    }


def _operation_id(operation: Operation) -> str:
    parts = operation.path.removeprefix("/api/v1/").split("/")
    return "_".join([operation.method.lower(), *(part.strip("{}") for part in parts)])
