"""Commands from outside: what is done, and everything that is refused with nothing changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.core.call import ClockRead
from firmware.core.commands import FAILED, Asker, CommandError, Commands, Judged, Method
from firmware.core.facts import MessageReceived

NOW_S = 1_790_000_000
SET = ClockRead(mono_ns=5, wall_ns=NOW_S * 1_000_000_000, state="ntp")
UNSET = ClockRead(mono_ns=5, wall_ns=5, state="unsynced")


class Unit:
    """Two methods, and what was done."""

    def __init__(self) -> None:
        self.done: list[tuple[str, Mapping[str, Any], Asker]] = []
        self.commands = Commands(
            {
                "device.info": Method(do=self._did("info"), check=dict, changes=False),
                "recording.pause": Method(do=self._did("pause"), check=_seconds, changes=True),
                "recording.protect": Method(do=_fails, check=dict, changes=True),
                "recording.switch": Method(do=self._did("switch"), check=dict, changes=True),
            }
        )

    def _did(self, what: str) -> Any:
        def do(params: Mapping[str, Any], asker: Asker) -> dict[str, int]:
            self.done.append((what, params, asker))
            return {"times": len(self.done)}

        return do

    def take(
        self,
        payload: object,
        *,
        topic: str = "rpc/req",
        clock: ClockRead = SET,
        retained: bool = False,
        at_ns: int = 0,
        sink: str = "main",
    ) -> Judged:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return self.commands.take(
            MessageReceived(at_ns=at_ns, sink=sink, topic=topic, payload=data, retained=retained), clock
        )


def _seconds(params: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(params.get("seconds"), int):
        raise ValueError("params.seconds must be integer")
    return params


def _fails(params: Mapping[str, Any], asker: Asker) -> None:
    raise CommandError(FAILED, "There is no such call on this unit.")


def request(method: str, params: object = None, **changes: object) -> dict[str, Any]:
    whole = {"jsonrpc": "2.0", "id": 1, "src": "crm", "method": method, "params": params or {}, "exp": NOW_S + 30}
    return {key: value for key, value in (whole | changes).items() if value is not ...}


def test_what_is_asked_for_is_done_and_answered() -> None:
    unit = Unit()
    judged = unit.take(request("recording.pause", {"seconds": 5}))
    assert judged == Judged(
        asker=Asker(sink="main", src="crm"),
        method="recording.pause",
        answer={"jsonrpc": "2.0", "id": 1, "result": {"times": 1}},
        changed=True,
    )
    assert unit.done == [("pause", {"seconds": 5}, Asker(sink="main", src="crm"))]
    asked = unit.take(request("device.info", exp=..., id="a"))
    assert asked.answer == {"jsonrpc": "2.0", "id": "a", "result": {"times": 2}} and not asked.changed


@pytest.mark.parametrize(
    ("message", "kind", "code"),
    [
        (request("recording.pause", {"seconds": 5}, exp=NOW_S - 1), "expired", -32001),
        (request("recording.pause", {"seconds": 5}, exp=NOW_S + 90_000), "expired", -32001),
        (request("device.info", exp=NOW_S - 1), "expired", -32001),
        (request("recording.pause", {"seconds": 5}, exp=...), "failed", -32600),
        (request("recording.pause", {"seconds": 5}, exp="soon"), "failed", -32600),
        (request("recording.pause", {"seconds": 5}, exp=True), "failed", -32600),
        (request("recording.pause", {"seconds": "5"}), "params", -32602),
        (request("recording.pause", [5]), "params", -32602),
        (request("recording.delete"), "no_method", -32601),
        (request("recording.switch", {"enabled": False}), "no_method", -32601),
        (request("x" * 500), "no_method", -32601),
        (request("recording.protect"), "failed", -32003),
        (request("device.info", jsonrpc="1.0"), "malformed", -32600),
        (request("device.info", id=...), "no_id", -32600),
        (request("device.info", id=1.5), "no_id", -32600),
        (request("device.info", id="x" * 65), "no_id", -32600),
    ],
)
def test_a_wrong_request_is_told_why_and_changes_nothing(message: dict[str, Any], kind: str, code: int) -> None:
    unit = Unit()
    judged = unit.take(message)
    assert (judged.refused, unit.done, judged.changed) == (kind, [], False)
    assert judged.answer is not None
    assert judged.answer["error"]["code"] == code
    assert judged.answer["error"]["message"].endswith(".")


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 60_000, "malformed"),
        (b"[]", "malformed"),
        (b'"ON"', "malformed"),
        (request("device.info", src=...), "no_src"),
        (request("device.info", src="a/b"), "no_src"),
        (request("device.info", src="+"), "no_src"),
        (request("device.info", src="0300001234"), "no_src"),
        (request("device.info", src="090-0000-5678"), "no_src"),
        (request("device.info", src="x" * 33), "no_src"),
    ],
)
def test_nobody_is_answered_who_cannot_be(payload: object, kind: str) -> None:
    unit = Unit()
    judged = unit.take(payload)
    assert (judged.refused, judged.answer, unit.done) == (kind, None, [])


def test_a_retained_command_is_none() -> None:
    unit = Unit()
    for topic, payload in (("rpc/req", request("device.info")), ("set/recording", b"OFF")):
        judged = unit.take(payload, topic=topic, retained=True)
        assert (judged.refused, judged.answer, unit.done) == ("retained", None, [])


def test_a_foreign_topic_is_none() -> None:
    unit = Unit()
    judged = unit.take(request("device.info"), topic="tsuroku/v1/shop/unit-2/rpc/req")
    assert (judged.refused, judged.answer, unit.done) == ("foreign_topic", None, [])


def test_while_the_clock_is_unset_only_what_is_harmless_is_done() -> None:
    unit = Unit()
    assert unit.take(request("recording.pause", {"seconds": 5}), clock=UNSET).refused == "clock_unset"
    assert unit.take(b"OFF", topic="set/recording", clock=UNSET).refused == "clock_unset"
    assert unit.done == []
    assert unit.take(request("device.info"), clock=UNSET).refused is None
    assert unit.take(b"ON", topic="set/recording", clock=UNSET).refused is None
    assert [what for what, _, _ in unit.done] == ["info", "switch"]


def test_a_repeated_id_gets_the_same_answer_and_is_done_once() -> None:
    unit = Unit()
    first = unit.take(request("recording.pause", {"seconds": 5}))
    again = unit.take(request("recording.pause", {"seconds": 5}), at_ns=599_000_000_000)
    assert (again.refused, again.answer, again.changed) == ("repeated", first.answer, False)
    assert len(unit.done) == 1
    reused = unit.take(request("recording.pause", {"seconds": 9}))
    assert (reused.refused, len(unit.done)) == ("id_reused", 1)
    assert unit.take(request("device.info")).refused == "id_reused"
    others = [request("device.info", src="pos"), request("device.info", id="1"), request("device.info", id=2)]
    for other in others:
        assert unit.take(other).refused is None
    assert unit.take(request("device.info"), sink="second").refused is None, "two brokers know nothing of each other"
    assert unit.take(request("device.info"), at_ns=601_000_000_000).refused is None, "10 min later"


def test_what_was_refused_may_be_asked_again() -> None:
    unit = Unit()
    assert unit.take(request("recording.pause", {"seconds": 5}), clock=UNSET).refused == "clock_unset"
    assert unit.take(request("recording.pause", {"seconds": 5})).refused is None


def test_the_switch_is_on_or_off_and_nothing_else() -> None:
    unit = Unit()
    for payload in (b"on", b"1", b"", b"ON ", b"\xff", b'{"enabled": true}'):
        assert unit.take(payload, topic="set/recording").refused == "malformed"
    assert unit.done == []
    for payload, enabled in ((b"OFF", False), (b"ON", True)):
        assert unit.take(payload, topic="set/recording").refused is None
        assert unit.done[-1][:2] == ("switch", {"enabled": enabled})


def test_a_fault_of_the_unit_is_told_and_stops_nothing() -> None:
    unit = Unit()

    def fails(params: Mapping[str, Any], asker: Asker) -> None:
        raise TypeError("integer expected")

    commands = Commands({"device.info": Method(do=fails, check=dict, changes=False)})
    judged = commands.take(
        MessageReceived(
            at_ns=0, sink="main", topic="rpc/req", payload=json.dumps(request("device.info")).encode(), retained=False
        ),
        SET,
    )
    assert judged.answer is not None and judged.answer["error"]["code"] == -32603 and not unit.done


def test_memory_of_what_was_answered_is_bounded() -> None:
    unit = Unit()
    for number in range(3000):
        unit.take(request("device.info", id=number))
    assert len(unit.commands._answered) == 1000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(["jsonrpc", "id", "src", "method", "params", "exp"]), json_values).map(
        lambda made: json.dumps(request("recording.pause", {"seconds": 1}) | made).encode()
    ),
    st.sampled_from(["rpc/req", "set/recording", "x"]),
    st.booleans(),
)
def test_no_message_raises_and_only_a_good_one_changes_something(payload: bytes, topic: str, retained: bool) -> None:
    unit = Unit()
    judged = unit.take(payload, topic=topic, retained=retained)
    assert bool(unit.done) == (judged.refused is None)
    assert not (retained and unit.done)
