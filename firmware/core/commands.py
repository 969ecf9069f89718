"""Commands from outside: JSON-RPC 2.0 over MQTT, looked at before anything is done. Pure.

A command is refused when it is retained, too old, repeated, unknown or not as the contract says; nothing changes then.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from firmware.core.call import ClockRead
from firmware.core.facts import MessageReceived

_SRC = re.compile(r"(?!(?:[^0-9]*[0-9]){7})[a-z0-9][a-z0-9_-]{0,31}")  # it stands in a topic: no telephone number
_METHOD = re.compile(r"[a-z]{1,20}\.[a-z]{1,20}|identify")
_REPEAT_NS = 600_000_000_000
_MOST_REMEMBERED = 1000
_FURTHEST_S = 86_400  # an exp beyond that is no time limit

INVALID_REQUEST, NO_METHOD, INVALID_PARAMS, INTERNAL_ERROR = -32600, -32601, -32602, -32603
EXPIRED, CLOCK_UNSET, FAILED = -32001, -32002, -32003


class CommandError(Exception):
    """Why a command is not done: one sentence for whoever sent it."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks for something: by which broker, and as what he calls himself."""

    sink: str
    src: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """do: carries it out and returns the result, or raises CommandError.

    check: the params as do() takes them; raises ValueError.

    changes: it must not be done late, so it needs an `exp` and a clock to hold it against.
    """

    do: Callable[[Mapping[str, Any], Asker], Any]
    check: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    changes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What became of a message. refused: why, in a word for the log. answer: for rpc/res/SRC; None: nobody to tell."""

    asker: Asker
    method: str | None
    answer: dict[str, Any] | None
    refused: str | None = None
    changed: bool = False


class Commands:
    """Looks at messages and does what they ask for. Thread: the loop."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        # By broker, src and id: when, what was asked for, and the answer.
        self._answered: OrderedDict[tuple[str, str, str], tuple[int, object, dict[str, Any]]] = OrderedDict()

    def take(self, message: MessageReceived, clock: ClockRead) -> Judged:
        if message.topic == "set/recording":
            return self._switch(message, clock)
        if message.topic != "rpc/req":
            return _refused(message, "foreign_topic")
        if message.retained:
            return _refused(message, "retained")
        try:
            request = json.loads(message.payload)
        except (ValueError, RecursionError):
            return _refused(message, "malformed")
        if not isinstance(request, dict):
            return _refused(message, "malformed")
        src = request.get("src")
        if not (isinstance(src, str) and _SRC.fullmatch(src)):
            return _refused(message, "no_src")
        return self._request(request, Asker(sink=message.sink, src=src), message.at_ns, clock)

    def _switch(self, message: MessageReceived, clock: ClockRead) -> Judged:
        """`set/recording`: ON or OFF, as a switch of Home Assistant sends it."""
        asker = Asker(sink=message.sink, src="set-recording")
        if message.retained:
            return _refused(message, "retained")
        if message.payload not in (b"ON", b"OFF"):
            return _refused(message, "malformed")
        if message.payload == b"OFF" and clock.state == "unsynced":
            return _refused(message, "clock_unset")
        enabled = message.payload == b"ON"
        try:
            self._methods["recording.switch"].do({"enabled": enabled}, asker)
        except CommandError:
            return _refused(message, "failed")
        return Judged(asker=asker, method="recording.switch", answer=None, changed=True)

    def _request(self, request: dict[str, Any], asker: Asker, at_ns: int, clock: ClockRead) -> Judged:
        id_, method = request.get("id"), request.get("method")
        known = method if isinstance(method, str) and _METHOD.fullmatch(method) else None

        def told(reason: str, code: int, sentence: str) -> Judged:
            error = {"code": code, "message": sentence}
            answer = {"jsonrpc": "2.0", "id": id_, "error": error}
            return Judged(asker=asker, method=known, answer=answer, refused=reason)

        if isinstance(id_, bool) or not isinstance(id_, int | str) or len(str(id_)) > 64:
            id_ = None
            return told("no_id", INVALID_REQUEST, "id must be a number, or a text of at most 64 characters.")
        if request.get("jsonrpc") != "2.0":
            return told("malformed", INVALID_REQUEST, 'jsonrpc must be "2.0".')
        key = (asker.sink, asker.src, f"{type(id_).__name__} {id_}")
        while self._answered and at_ns - next(iter(self._answered.values()))[0] > _REPEAT_NS:
            self._answered.popitem(last=False)
        asked = (method, request.get("params", {}))
        if key in self._answered:
            _, before, answer = self._answered[key]
            if asked != before:
                return told("id_reused", INVALID_REQUEST, "This id stands for another request of the last 10 minutes.")
            return Judged(asker=asker, method=known, answer=answer, refused="repeated")
        called = self._methods.get(known) if known and known != "recording.switch" else None
        if called is None:
            return told("no_method", NO_METHOD, "This unit knows no such method; `capabilities` in `info` lists them.")
        params = request.get("params", {})
        if not isinstance(params, dict):
            return told("params", INVALID_PARAMS, "params must be an object.")
        try:
            _in_time(request.get("exp"), called, clock)
            result = called.do(called.check(params), asker)
        except CommandError as error:
            reason = {EXPIRED: "expired", CLOCK_UNSET: "clock_unset"}.get(error.code, "failed")
            return told(reason, error.code, str(error))
        except ValueError as error:
            return told("params", INVALID_PARAMS, f"{error}.")
        except Exception as error:  # noqa: BLE001  no message may stop the recorder
            return told(f"fault:{error!r}", INTERNAL_ERROR, "The unit could not do this: a fault of its own.")
        answer = {"jsonrpc": "2.0", "id": id_, "result": result}
        self._answered[key] = at_ns, asked, answer
        if len(self._answered) > _MOST_REMEMBERED:
            self._answered.popitem(last=False)
        return Judged(asker=asker, method=known, answer=answer, changed=called.changes)


def _in_time(exp: object, called: Method, clock: ClockRead) -> None:
    """Raises CommandError."""
    if exp is None:
        if called.changes:
            raise CommandError(INVALID_REQUEST, "exp is missing: until when this may be done, in seconds since 1970.")
        return
    if isinstance(exp, bool) or not isinstance(exp, int | float):
        raise CommandError(INVALID_REQUEST, "exp must be a number: seconds since 1970 (UTC).")
    if clock.state == "unsynced":
        if called.changes:
            raise CommandError(CLOCK_UNSET, "The unit's clock is not set, so nothing can be done in time; try later.")
        return
    now_s = clock.wall_ns / 1e9
    if not now_s <= exp <= now_s + _FURTHEST_S:
        late = "is over" if exp < now_s else "is more than a day away"
        raise CommandError(EXPIRED, f"The time until which this may be done (exp) {late}; nothing was done.")


def _refused(message: MessageReceived, reason: str) -> Judged:
    return Judged(asker=Asker(sink=message.sink, src="unknown"), method=None, answer=None, refused=reason)
