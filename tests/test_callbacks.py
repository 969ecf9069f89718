"""The list of those who were missed: on it once, and off it when they were spoken to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from firmware.core.call import Call, ClockRead, event
from firmware.core.callbacks import Callback, after, done, restored
from firmware.core.caller import Caller
from firmware.core.numbers import Dialled

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
