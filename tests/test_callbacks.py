"""The list of those who were missed: on it once, and off it when they were spoken to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from firmware.core.call import Call, ClockRead, event
from firmware.core.callbacks import Callback, after, done, put, restored
from firmware.core.caller import Caller
from firmware.core.numbers import Dialled, as_dialled

READ = ClockRead(mono_ns=0, wall_ns=1_790_000_000_000_000_000, state="ntp")
SHOP, OTHER = "+81300001234", "+81300005678"


def call(number: int, who: str | None = SHOP, **changes: Any) -> Call:
    caller = Caller(presentation="allowed", reason=None, number=who) if who else Caller()
    made = Call(
        call_id=f"id-{number}",
        line=1,
        direction="incoming",
        boot_id="b",
        clock=READ,
        opened_ns=number * 1_000_000_000,
        outcome="missed",
        caller=caller,
    )
    return replace(made, **changes)


def missed(waiting: tuple[Callback, ...], made: Call) -> tuple[tuple[Callback, ...], list[tuple[str, str]]]:
    waiting, events = after(waiting, made, [event("call.missed", made, made.opened_ns)])
    return waiting, [(each.type, each.subject) for each in events]


def ended(waiting: tuple[Callback, ...], made: Call) -> tuple[tuple[Callback, ...], list[tuple[str, str]]]:
    waiting, events = after(waiting, made, [event("call.ended", made, made.opened_ns)])
    return waiting, [(each.type, each.subject) for each in events]


def test_a_missed_caller_waits_once_however_often_he_calls() -> None:
    waiting, events = missed((), call(1))
    assert events == [("callback.due", "id-1")]
    waiting, events = missed(waiting, call(2))
    assert events == [("callback.due", "id-2")]
    assert waiting == (Callback(call_id="id-2", number=SHOP, since=READ.iso(1_000_000_000), times=2),)


def test_who_is_spoken_to_leaves_the_list() -> None:
    both, _ = missed(missed((), call(1))[0], call(2, OTHER))
    for made in (
        call(3, outcome="answered"),
        call(
            3,
            None,
            outcome="outgoing_answered",
            direction="outgoing",
            dialled=Dialled(raw="0300001234", digits="0300001234", number=SHOP),
        ),
    ):
        waiting, events = ended(both, made)
        assert events == [("callback.done", "id-1")]
        assert [each.number for each in waiting] == [OTHER]


def test_a_call_that_reached_nobody_changes_nothing() -> None:
    waiting, _ = missed((), call(1))
    dialled = Dialled(raw="0300001234", digits="0300001234", number=SHOP)
    tried = call(2, None, direction="outgoing", dialled=dialled)
    for outcome in ("outgoing_unanswered", "outgoing_unknown", "too_short"):
        assert ended(waiting, replace(tried, outcome=outcome)) == (waiting, [])
    assert ended(waiting, call(3, OTHER, outcome="answered")) == (waiting, [])


def test_the_withheld_cannot_be_called_back() -> None:
    assert missed((), call(1, None)) == ((), [])


def test_the_list_is_bounded_and_the_oldest_leaves() -> None:
    waiting: tuple[Callback, ...] = ()
    for number in range(150):
        waiting, _ = missed(waiting, call(number, f"+8130000{number:04d}"))
    assert len(waiting) == 100 and waiting[0].number == "+81300000050"


def test_by_hand() -> None:
    waiting, _ = missed((), call(1))
    left, events = done(waiting, call(1), "crm", READ)
    assert left == () and [(each.type, each.data["by"]) for each in events] == [("callback.done", "crm")]
    assert done(left, call(1), "crm", READ) == ((), [])


def test_what_is_kept_holds_no_number_and_goes_with_its_call() -> None:
    waiting, _ = missed(missed((), call(1))[0], call(2, OTHER))
    kept = [each.to_kept() for each in waiting]
    assert SHOP not in str(kept)
    assert restored(kept, {"id-1": SHOP, "id-2": OTHER}) == waiting
    assert [each.number for each in restored(kept, {"id-2": OTHER})] == [OTHER], "the other call was erased"


def test_only_who_is_missed_while_the_shop_is_open_comes_onto_the_list() -> None:
    told = [event("call.missed", call(1), 0)]
    waiting, events = after((), call(1), told, wanted=lambda time: False)
    assert (waiting, events) == ((), [])
    waiting, _ = after((), call(1), told, due=lambda time: "2026-11-27T09:00:00.000Z")
    assert waiting[0].due == "2026-11-27T09:00:00.000Z"
    waiting, events = after(waiting, call(2), [event("call.missed", call(2), 0)], wanted=lambda time: False)
    assert (waiting[0].times, waiting[0].due) == (2, "2026-11-27T09:00:00.000Z")  # who waits already is counted
    assert [each.type for each in events] == ["callback.due"]


def test_somebody_is_put_on_the_list_by_hand_given_a_time_and_a_person() -> None:
    answered = call(1, outcome="answered")
    waiting, events = put((), answered, "2026-11-27T09:00:00.000Z", "Ito", "Sato", READ)
    assert [(each.type, each.data["by"], each.data["times"]) for each in events] == [("callback.due", "Sato", 1)]
    assert (waiting[0].due, waiting[0].who, waiting[0].by) == ("2026-11-27T09:00:00.000Z", "Ito", "Sato")
    waiting, events = put(waiting, answered, None, "Sato", "Ito", READ)
    assert len(waiting) == 1 and events == [] and (waiting[0].due, waiting[0].who) == (None, "Sato")
    kept = [each.to_kept() for each in waiting]
    assert restored(kept, {"id-1": SHOP}) == waiting and SHOP not in str(kept)
    assert done(waiting, answered, "Sato", READ)[0] == ()


def test_who_was_called_by_the_shop_can_be_put_on_the_list_and_nobody_without_a_number() -> None:
    outgoing = call(
        1, None, direction="outgoing", outcome="outgoing_unanswered", dialled=as_dialled("0300005678", "jp")
    )
    waiting, events = put((), outgoing, None, None, "Sato", READ)
    assert waiting[0].number == OTHER and events[0].data["dialled"]["number"] == OTHER
    with pytest.raises(ValueError, match="not known"):
        put((), call(1, None), None, None, "Sato", READ)
