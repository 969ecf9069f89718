"""Contacts: who has a number is told once with each of his calls, and forgotten when that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from firmware.core.call import Call, ClockRead, event
from firmware.core.caller import Caller
from firmware.core.contacts import Contact, enriched
from firmware.core.numbers import Dialled
from firmware.core.privacy import Privacy, masked
from firmware.records.store import CallReader, CallStore

YAMADA = Contact(
    contact_id="c-1",
    number="+81300001234",
    name="山田商店",
    reading="ヤマダショウテン",
    flags=("vip",),
    by="crm",
    updated="2026-11-26T00:00:00.000Z",
)
SATO = replace(YAMADA, contact_id="c-2", number="+81300005678", name="佐藤", flags=())
KNOWN: Callable[[str], Contact | None] = {each.number: each for each in (YAMADA, SATO)}.get
CALL = Call(
    call_id="id-1",
    line=1,
    direction="incoming",
    boot_id="b",
    clock=ClockRead(mono_ns=0, wall_ns=0, state="ntp"),
    opened_ns=0,
    caller=Caller(presentation="allowed", reason=None, number=YAMADA.number, raw="0300001234"),
)


def test_a_contact_is_told_with_the_first_event_that_has_the_number_and_not_again() -> None:
    told = enriched(CALL, [event("call.caller_id", CALL, 5_000_000, correction=False)], KNOWN, None)
    assert told and (told.type, told.subject, told.time) == ("call.enriched", "id-1", "1970-01-01T00:00:00.005Z")
    assert told.data["contact"] == {
        "contact_id": "c-1",
        "name": "山田商店",
        "reading": "ヤマダショウテン",
        "flags": ["vip"],
    }
    assert told.data["correction"] is False and told.data["caller"]["number"] == YAMADA.number
    assert enriched(CALL, [event("call.answered", CALL, 6_000_000)], KNOWN, "c-1") is None


def test_a_caller_who_turns_out_to_be_another_is_a_correction() -> None:
    other = replace(CALL, caller=replace(CALL.caller, number=SATO.number))
    told = enriched(other, [event("call.caller_id", other, 0, correction=True)], KNOWN, "c-1")
    assert told and told.data["correction"] is True and told.data["contact"]["name"] == "佐藤"


def test_whoever_is_called_by_the_shop_is_told_too() -> None:
    dialled = Dialled(raw="0300005678", digits="0300005678", number=SATO.number)
    out = replace(CALL, direction="outgoing", caller=Caller(), dialled=dialled)
    told = enriched(out, [event("call.dialled", out, 0, correction=False)], KNOWN, None)
    assert told and told.data["contact"]["name"] == "佐藤" and told.data["caller"] is None


def test_nobody_is_told_without_a_number_a_contact_or_an_event_of_the_call() -> None:
    nobody = replace(CALL, caller=Caller())
    stranger = replace(CALL, caller=replace(CALL.caller, number="+81300009999"))
    for call in (nobody, stranger):
        assert enriched(call, [event("call.missed", call, 0)], KNOWN, None) is None
    assert enriched(CALL, [], KNOWN, None) is None
    assert enriched(CALL, [event("recording.failed", CALL, 0, reason="x")], KNOWN, None) is None


@pytest.mark.parametrize(
    ("privacy", "left"),
    [
        ("last4", {"contact_id": None, "name": None, "reading": None, "flags": ["vip"]}),
        ("none", {"contact_id": None, "name": None, "reading": None, "flags": ["vip"]}),
        ("hmac", {"contact_id": "c-1", "name": None, "reading": None, "flags": ["vip"]}),
    ],
)
def test_a_name_goes_no_further_than_a_number(privacy: Privacy, left: dict[str, object]) -> None:
    told = enriched(CALL, [event("call.missed", CALL, 0)], KNOWN, None)
    assert told
    body = masked({"data": told.data}, privacy, b"key")
    assert body["data"]["contact"] == left
    assert "山田" not in str(body) and "0300001234" not in str(body)


def test_a_contact_is_replaced_found_and_forgotten_without_a_trace(tmp_path: Path) -> None:
    store = CallStore(tmp_path / "store", "s")
    store.put_contacts([SATO])
    store.put_contacts([replace(YAMADA, name="やまだ")])
    store.put_contacts([YAMADA])
    store.close()
    store = CallStore(tmp_path / "store", "s")
    assert store.contact(YAMADA.number) == YAMADA and store.contact(SATO.number) == SATO
    assert store.contact("+81300009999") is None
    assert store.forget_contact(YAMADA.number, "crm") and not store.forget_contact(YAMADA.number, "crm")
    assert store.contact(YAMADA.number) is None and store.unpurged()
    assert list(store.purge_steps())
    assert not store.unpurged()
    store.close()
    logs = b"".join(path.read_bytes() for path in (tmp_path / "store").glob("*.log"))
    assert YAMADA.number.encode() not in logs and "やまだ".encode() not in logs and SATO.number.encode() in logs
    reader = CallReader(tmp_path / "store")
    assert reader.contact(SATO.number) == SATO and reader.contact(YAMADA.number) is None
    reader.close()
