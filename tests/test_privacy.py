"""How much of a number leaves the unit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from firmware.core.call import told
from firmware.core.caller import Caller, Disagreement
from firmware.core.numbers import Dialled
from firmware.core.privacy import Privacy, masked

CALLER = Caller(
    presentation="allowed",
    reason=None,
    number="+81300001234",
    raw="0300001234",
    national="03-0000-1234",
    region_ja="東京",
    region_en="Tokyo",
    kind="fixed",
    name="ヤマダ",
    source="line_fsk",
    sources=("line_fsk",),
    disagreement=(Disagreement(source="modem", presentation="allowed", raw="0300005678"),),
    called="0300000001",
    redirecting="0300000002",
)
DIALLED = Dialled(raw="1840300001234", digits="0300001234", number="+81300001234", caller_id="withhold")


def event(**data: Any) -> dict[str, Any]:
    return {"type": "call.ringing", "data": {"line": 1, **data}}


def test_full_is_the_event_itself() -> None:
    body = event(caller=told(CALLER))
    assert masked(body, "full", b"") is body


def test_an_event_without_anybody_stays_as_it_is() -> None:
    for body in (event(caller=None, dialled=None), event()):
        assert masked(body, "none", b"") is body


@pytest.mark.parametrize("level", ["last4", "hmac", "none"])
def test_no_other_level_lets_a_number_or_a_name_out(level: Privacy) -> None:
    body = event(caller=told(CALLER), waiting=told(CALLER), dialled=told(DIALLED))
    before = json.dumps(body)
    out = masked(body, level, b"key")
    text = json.dumps(out, ensure_ascii=False)
    for secret in ("300001234", "00001234", "0000-1234", "300005678", "300000001", "300000002", "ヤマダ"):
        assert secret not in text
    assert json.dumps(body) == before, "the event is not changed"
    assert out["data"]["privacy"] == level
    assert out["data"]["caller"]["presentation"] == "allowed", "that there is a number is still told"
    assert out["data"]["caller"]["disagreement"] == [{"source": "modem", "presentation": "allowed", "raw": None}]
    assert out["data"]["caller"]["region_en"] == (None if level == "none" else "Tokyo")
    assert ("1234" in text) == (level == "last4")


def test_hmac_joins_the_same_caller_and_only_where_the_key_is_the_same() -> None:
    ours = masked(event(caller=told(CALLER)), "hmac", b"key")["data"]["caller"]["number_hmac"]
    dialled = masked(event(dialled=told(DIALLED)), "hmac", b"key")["data"]["dialled"]["number_hmac"]
    other = masked(event(caller=told(CALLER)), "hmac", b"other")["data"]["caller"]["number_hmac"]
    assert ours == dialled != other
    # printf %s +81300001234 | openssl dgst -sha256 -hmac key
    assert ours == "d7f05c1568d954459e8c0bef0ff55902265995bcc7efd2520ff06d4c25439821"


def test_who_withholds_has_nothing_to_tell() -> None:
    nobody = Caller(presentation="withheld", reason="withheld", source="line_fsk")
    assert masked(event(caller=told(nobody)), "hmac", b"key")["data"]["caller"]["number_hmac"] is None
    assert masked(event(caller=told(nobody)), "last4", b"")["data"]["caller"]["last4"] is None
    short = Dialled(raw="110", digits="110", number=None)
    assert masked(event(dialled=told(short)), "last4", b"")["data"]["dialled"]["last4"] is None
