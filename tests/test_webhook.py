"""Webhooks, to a real web server on loopback."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
import subprocess
import threading
import time
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from drivers.virtual import scenario as story
from firmware.cli import doctor
from firmware.core.call import Call, ClockRead, event, told
from firmware.core.caller import Caller
from firmware.core.numbers import Dialled
from firmware.core.outbox import EVENT_TYPES, EventType
from firmware.delivery import courier
from firmware.delivery.webhook import Webhook, signature, zammad, zoho
from firmware.records.store import read_table
from firmware.settings import NotifySettings, Settings, WebhookSettings, public
from firmware.simulate import stepped
from hw import board
from tests.receiver import Receiver, Reply, babbles, breaks_off, dawdles, drips, hangs, receiving, resets, until
from tests.test_mqtt import MemoryOutbox
from tests.units import Running, running, settings

KEY = b"0123456789abcdef0123456789abcdef"
MISSED = ("call.missed",)
OWN = {1: "+81300000001"}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "_wait_s", lambda failures: 0.05)


def private(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def hook(receiver: Receiver, **more: Any) -> WebhookSettings:
    return WebhookSettings(**{"name": "crm", "url": receiver.url, "timeout_s": 1.0, **more})


def chosen(data: Path, receiver: Receiver, **more: Any) -> Settings:
    return settings(data, webhook=(hook(receiver, **more),))


def sequences(receiver: Receiver) -> list[int]:
    """Of the stream call, in the order of their coming."""
    bodies = [json.loads(each.body) for each in receiver.got]
    return [body["sequence"] for body in bodies if "-call-" in body["id"]]


def state(shop: Running) -> dict[str, int]:
    return shop.unit.store.waiting()["crm"]


def idle(shop: Running) -> bool:
    return state(shop)["waiting"] == 0


@pytest.mark.realtime
def test_an_event_arrives_as_over_mqtt_and_signed(tmp_path: Path) -> None:
    secret = private(tmp_path / "secret", "whsec_" + base64.b64encode(KEY).decode() + "\n")
    token = private(tmp_path / "token", "opensesame\n")
    with receiving() as receiver:
        shops = chosen(tmp_path / "data", receiver, secret_file=secret, token_file=token)
        with running(shops) as shop:
            shop.missed()
            until(shop, lambda: idle(shop))
            kept = {shop.unit.store.event("call", n).body["id"] for n in (1, 2)}  # type: ignore[union-attr]
    bodies = [json.loads(got.body) for got in receiver.got]
    assert {body["type"] for body in bodies} == {"unit.started", "call.ringing", "call.missed", "callback.due"}
    assert kept < {body["id"] for body in bodies}
    for got, body in zip(receiver.got, bodies, strict=True):
        assert got.headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
        assert got.headers["Authorization"] == "Bearer opensesame"
        assert got.headers["webhook-id"] == body["id"] and "." not in body["id"]
        at = got.headers["webhook-timestamp"]
        assert abs(int(at) - time.time()) < 60
        signed = f"{body['id']}.{at}.".encode() + got.body
        digest = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
        assert got.headers["webhook-signature"] == f"v1,{digest}"
        assert got.body == json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def test_the_signature_is_that_of_the_standard() -> None:
    # From the test of the reference library in Python: its secret, message and signature.
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (500, "answers 500; look into the server's log."),
        (401, "answers 401, it does not let this unit in; check token_file"),
        (403, "answers 403, it does not let this unit in"),
        (404, "answers 404, it takes nothing at this url"),
        (405, "answers 405, it takes nothing at this url"),
        ((302, {"Location": "http://127.0.0.1:1/elsewhere"}), "answers 302, a redirect, which is not followed"),
        (hangs, "does not answer within 1 s"),
        (resets, "the connection broke off"),
        (babbles, "does not answer as a web server does"),
    ],
)
def test_a_hostile_answer_holds_the_events_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reply: Reply, sentence: str
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving(reply, reply) as receiver, running(chosen(tmp_path, receiver, events=MISSED)) as shop:
        shop.missed()
        until(shop, lambda: len(receiver.got) >= 2)
        health = shop.unit._health["webhook/crm"]
        assert health and sentence in health
        until(shop, lambda: idle(shop))
        assert shop.unit._health["webhook/crm"] is None
        assert state(shop)["parked"] == 0
    ids = [got.headers.get("webhook-id") or json.loads(got.body)["id"] for got in receiver.got]
    assert len(ids) == 3 and len(set(ids)) == 1
    told_of = [
        record for record in caplog.records if record.levelno >= logging.WARNING and "sink=crm" in record.message
    ]
    assert len(told_of) == 1 and sentence in told_of[0].message
    assert not re.search(r"0000-?1234|300001234|elsewhere|/hook", caplog.text)


@pytest.mark.realtime
def test_an_answer_that_never_ends_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "_STUCK_S", 0.3)
    monkeypatch.setattr(courier, "_MOST_STUCK", 2)
    with receiving(*[drips] * 3) as receiver, running(chosen(tmp_path, receiver, events=MISSED)) as shop:
        shop.missed()
        until(shop, lambda: len(receiver.got) == 3)
        assert "the answer does not come to an end" in (shop.unit._health["webhook/crm"] or "")
        assert sum(thread.name == "sink-crm" for thread in threading.enumerate()) == 3
        until(shop, lambda: idle(shop))
        assert shop.unit._health["webhook/crm"] is None
    assert sequences(receiver) == [2] * 4


@pytest.mark.realtime
def test_what_breaks_off_behind_a_good_status_was_accepted(tmp_path: Path) -> None:
    with receiving(breaks_off) as receiver, running(chosen(tmp_path, receiver, events=MISSED)) as shop:
        shop.missed()
        until(shop, lambda: idle(shop))
    assert len(receiver.got) == 1


@pytest.mark.realtime
@pytest.mark.parametrize("code", [429, 503])
def test_a_receiver_that_asks_for_time_gets_it(tmp_path: Path, code: int) -> None:
    with (
        receiving((code, {"Retry-After": "1"})) as receiver,
        running(chosen(tmp_path, receiver, events=MISSED)) as shop,
    ):
        shop.missed()
        until(shop, lambda: idle(shop))
    first, second = receiver.got
    assert 1.0 <= second.at_s - first.at_s < 2.5


def test_every_event_of_a_call_can_be_chosen() -> None:
    assert set(typing.get_args(EventType)) < set(EVENT_TYPES)


def test_what_a_receiver_may_ask_for(tmp_path: Path) -> None:
    with receiving() as receiver:
        asked = hook(receiver)
    made = Webhook(asked, (), MemoryOutbox(), lambda fact: None, now_s=lambda: 1_445_412_480.0)
    dates = ("Wed, 21 Oct 2015 07:28:10 GMT", "Wed, 21 Oct 2015 07:00:00 GMT", "tomorrow", "-5", "٣", "9" * 400, None)
    assert [made._asked_s(each) for each in dates] == [10, 0, 0, 0, 3, 3600, 0]


@pytest.mark.realtime
def test_a_long_recovery_before_the_start_is_no_receiver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "_STUCK_S", 0)
    outbox = MemoryOutbox()
    outbox.add("call", 2)
    with receiving() as receiver:
        made = Webhook(hook(receiver), (), outbox, lambda fact: None)
        for _ in range(3):  # each call that is filed pumps
            made.pump()
        made.start()
        made.close()
    assert not outbox.asked


@pytest.mark.realtime
@pytest.mark.parametrize("code", [400, 410, 413, 415, 422])
def test_what_can_never_be_accepted_is_parked_and_tried_again_after_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    with receiving(code) as receiver:
        shops = chosen(tmp_path, receiver, events=MISSED)
        with running(shops) as shop:
            shop.missed()
            until(shop, lambda: state(shop)["parked"] == 1)
            if code == 410:
                health = shop.unit._health["webhook/crm"]
                assert health and "gone for good; take this [[webhook]] out" in health
            shop.missed()
            until(shop, lambda: idle(shop))
            shop.do(shop.unit.management.tick)
            assert [alarm.name for alarm in shop.unit.management.watch.alarms.values()] == ["parked/crm"]
        assert sequences(receiver) == [2, 5], "a parked event lets later ones pass"
        with running(shops) as shop:
            until(shop, lambda: state(shop)["parked"] == 0)
            shop.do(shop.unit.management.tick)
            assert not shop.unit.management.watch.alarms
    assert sequences(receiver) == [2, 5, 2]
    assert "300001234" not in caplog.text


@pytest.mark.realtime
def test_a_restart_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    with receiving(500, 500, hangs) as receiver:
        shops = chosen(tmp_path, receiver, events=MISSED, timeout_s=10.0)
        with running(shops) as shop:
            for _ in range(5):
                shop.missed()
            until(shop, lambda: len(receiver.got) == 3)  # it hangs now
            began = time.monotonic()
        assert time.monotonic() - began < 4, "the courier is left behind within 2 s"
        with running(shops) as shop:
            shop.missed()
            until(shop, lambda: idle(shop))
    assert sequences(receiver) == [2, 2, 2, 2, 5, 8, 11, 14, 17]


@pytest.mark.realtime
def test_what_is_accepted_while_the_unit_stops_does_not_come_again(tmp_path: Path) -> None:
    with receiving(dawdles) as receiver:
        shops = chosen(tmp_path, receiver, events=MISSED)
        with running(shops) as shop:
            shop.missed()
            until(shop, lambda: len(receiver.got) == 1)
        with running(shops) as shop:
            shop.missed()
            until(shop, lambda: idle(shop))
    assert sequences(receiver) == [2, 5]


@pytest.mark.realtime
def test_a_new_webhook_begins_with_the_next_event_and_keeps_its_place_before_its_first_answer(tmp_path: Path) -> None:
    with running(settings(tmp_path)) as shop:
        shop.missed()
    with receiving(*[500] * 1000) as receiver:
        shops = chosen(tmp_path, receiver, events=MISSED)
        with running(shops) as shop:
            shop.missed()
            until(shop, lambda: len(receiver.got) > 1)
        with running(shops) as shop:
            receiver.replies.clear()
            until(shop, lambda: idle(shop))
    assert set(sequences(receiver)) == {5}


@pytest.mark.realtime
def test_nobody_is_told_a_number_where_none_may_be_seen(tmp_path: Path) -> None:
    with receiving() as receiver, running(chosen(tmp_path, receiver, privacy="last4")) as shop:
        shop.missed()
        until(shop, lambda: idle(shop))
    text = b"".join(got.body for got in receiver.got)
    assert b"300001234" not in text and b'"last4":"1234"' in text


@pytest.mark.realtime
def test_tls_trusts_the_shop_s_own_authority_and_no_other(tmp_path: Path) -> None:
    def openssl(*words: str) -> None:
        subprocess.run(("openssl", *words), cwd=tmp_path, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for ca in ("ca", "stranger"):
        openssl("req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={ca}")
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("req", *key, "-keyout", "broker.key", "-out", "broker.csr", "-subj", "/CN=crm")
    by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    openssl("x509", "-req", "-in", "broker.csr", *by, "-out", "broker.pem")
    with receiving(papers=tmp_path) as receiver:
        for ca, sentence in (("stranger", "not trusted"), ("", "not trusted"), ("ca", "")):
            ca_file = tmp_path / f"{ca}.pem" if ca else None
            shops = chosen(tmp_path / "data", receiver, ca_file=ca_file)
            with running(shops) as shop:
                if sentence:
                    until(shop, lambda: bool(shop.unit._health.get("webhook/crm")))
                    assert sentence in (shop.unit._health["webhook/crm"] or "")
                    assert not receiver.got
                else:
                    until(shop, lambda: idle(shop))
    assert len(receiver.got) == 3, "unit.started of each run"


@pytest.mark.realtime
def test_a_server_that_is_away_is_told_in_a_sentence(tmp_path: Path) -> None:
    with receiving() as receiver:
        pass
    with running(chosen(tmp_path, receiver)) as shop:
        until(shop, lambda: bool(shop.unit._health.get("webhook/crm")))
        assert shop.unit._health["webhook/crm"] == (
            "Webhook crm at 127.0.0.1: nothing listens there; start the server or mend url in the settings."
        )
        assert shop.unit.faults() == {}
        assert shop.unit._panel_state() == "no_broker"


def test_doctor_tries_a_webhook_and_tells_how_a_telephone_was_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_devices", lambda *_: [])
    notify = NotifySettings(name="owner", urls_file=tmp_path / "none")
    (tmp_path / "health.json").write_text('{"notify/owner": "No message gets there.", "codec/1": "lost"}')
    with receiving() as receiver:
        shop = settings(tmp_path, webhook=(hook(receiver),), notify=(notify,))
        found = {each.what: each for each in doctor._examine(shop, board.load("line-tap-1"))}
    assert found["webhook/crm"].says == f"127.0.0.1:{receiver.port} answers."
    assert (found["notify/owner"].state, found["notify/owner"].says) == ("wrong", "No message gets there.")
    assert "codec/1" not in found and "broker" not in found
    found = {each.what: each for each in doctor._examine(shop, board.load("line-tap-1"))}
    assert found["webhook/crm"].state == "wrong" and "does not answer (Connection refused)" in found["webhook/crm"].says


def test_what_a_consumer_may_read_of_the_settings_holds_no_address_and_no_number(tmp_path: Path) -> None:
    with receiving() as receiver:
        shop = chosen(tmp_path, receiver, format="zammad", numbers=("0300000001",))
    told_of = json.dumps(public(shop))
    assert "/hook" not in told_of and "0300000001" not in told_of and "127.0.0.1" in told_of


# -- files of the settings


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("key", "text", "mode", "sentence"),
    [
        ("secret_file", None, 0, "secret_file {path} cannot be read (No such file"),
        ("secret_file", "whsec_c2hvcnQ=", 0o600, "must hold whsec_ and 24 bytes or more in base64"),
        ("secret_file", "whsec_" + "A" * 44, 0o640, "can be read by others than its owner; `sudo chown tsuroku"),
        ("token_file", "two words", 0o600, "must hold the token alone"),
        ("ca_file", "nothing", 0o644, "ca_file {path} cannot be used"),
        ("template_file", "{% if %}", 0o644, "template_file {path}, line 1: "),
        (
            "template_file",
            "{{ data.line }} {{ data.callerr.number }}",
            0o644,
            "does not fit event unit.started ('dict obj",
        ),
        ("template_file", "{{ ''.__class__.__mro__ }}", 0o644, "does not fit event unit.started ("),
    ],
)
def test_a_file_that_is_of_no_use_is_told_at_start_and_holds_the_events(
    tmp_path: Path, key: str, text: str | None, mode: int, sentence: str
) -> None:
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    more: dict[str, Any] = {key: path} | ({"format": "template"} if key == "template_file" else {})
    with receiving() as receiver, running(chosen(tmp_path / "data", receiver, **more)) as shop:
        until(shop, lambda: bool(shop.unit._health.get("webhook/crm")))
        assert sentence.format(path=path) in (shop.unit._health["webhook/crm"] or "")
        assert state(shop)["waiting"] + state(shop)["parked"] == 1, "unit.started is kept"
    assert not receiver.got


@pytest.mark.realtime
def test_a_template_makes_the_form_of_any_crm(tmp_path: Path) -> None:
    form = "{% if type == 'call.missed' %}tel={{ data.caller.number | urlencode }}&at={{ time }}{% endif %}"
    (tmp_path / "form").write_text(form)
    with receiving() as receiver:
        more = {"template_file": tmp_path / "form", "content_type": "application/x-www-form-urlencoded"}
        with running(chosen(tmp_path, receiver, format="template", **more)) as shop:
            shop.missed()
            until(shop, lambda: idle(shop))
    (got,) = receiver.got
    assert got.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(got.body.decode())["tel"] == ["+81300001234"]


# -- presets


def call(**changes: Any) -> Call:
    caller = Caller(presentation="allowed", reason=None, number="+81300001234", raw="0300001234")
    clock = ClockRead(mono_ns=0, wall_ns=1_790_000_000_000_000_000, state="ntp")
    made = Call(call_id="0-a", line=1, direction="incoming", boot_id="b", clock=clock, opened_ns=0, caller=caller)
    return replace(made, **changes)


def body(type_: Any, of: Call, **extra: Any) -> dict[str, Any]:
    made = event(type_, of, 0, **extra)
    return {"id": "x-call-1", "type": made.type, "subject": made.subject, "data": made.data}


ANSWERED = {"answered_ns": 5_000_000_000, "ended_ns": 65_000_000_000, "outcome": "answered"}
OUTGOING = {
    "direction": "outgoing",
    "caller": Caller(),
    "dialled": Dialled(raw="0300005678", digits="0300005678", number="+81300005678"),
}


def test_zammad_is_told_of_a_call_in_its_own_words() -> None:
    def says(type_: str, of: Call, known: bool = False, **extra: Any) -> list[dict[str, str]]:
        return list(zammad(body(type_, of, **extra), OWN, known=known))

    way = {"from": "81300001234", "to": "81300000001", "direction": "in", "callId": "0-a"}
    new = {"event": "newCall", **way}
    assert says("call.ringing", call()) == [new]
    assert says("call.caller_id", call(), known=True, correction=True) == []
    assert says("call.answered", call(**ANSWERED)) == [{"event": "answer", **way, "answeringNumber": "81300000001"}]
    assert says("call.ended", call(**ANSWERED)) == [
        {"event": "hangup", **way, "cause": "normalClearing", "answeringNumber": "81300000001"}
    ]
    assert says("call.missed", call(outcome="missed", ended_ns=9)) == [{"event": "hangup", **way, "cause": "cancel"}]
    out = {"from": "81300000001", "to": "81300005678", "direction": "out", "callId": "0-a"}
    assert says("call.dialled", call(**OUTGOING), correction=True) == [{"event": "newCall", **out}]
    assert (
        says(
            "call.dialled",
            call(
                **OUTGOING,
            ),
            known=True,
            correction=True,
        )
        == []
    )
    assert says("call.dialled", call(**{**OUTGOING, "dialled": None}), correction=False) == []
    gone = call(**OUTGOING, outcome="outgoing_unanswered", ended_ns=9)
    assert says("call.ended", gone) == [{"event": "hangup", **out, "cause": "cancel"}]
    assert says("recording.failed", call(), reason="") == []


def test_zammad_gets_one_new_call_whenever_the_number_comes() -> None:
    nobody = call(caller=Caller())
    assert not list(zammad(body("call.ringing", nobody), OWN, known=False)), "the number may yet come"
    (new,) = zammad(body("call.caller_id", call(), correction=False), OWN, known=False)
    assert new["event"] == "newCall" and new["from"] == "81300001234"
    new, hangup = zammad(body("call.missed", call(caller=Caller(), outcome="missed")), OWN, known=False)
    assert (new["event"], new["from"], hangup["event"]) == ("newCall", "anonymous", "hangup")
    new, answer = zammad(body("call.answered", call(caller=Caller(), **ANSWERED)), OWN, known=False)
    assert (new["event"], answer["event"]) == ("newCall", "answer")
    (hangup,) = zammad(body("call.ended", call(caller=Caller(), **ANSWERED)), OWN, known=False)
    assert hangup["event"] == "hangup"
    withheld = Caller(presentation="withheld", reason="withheld")
    (new,) = zammad(body("call.ringing", call(caller=withheld)), OWN, known=False)
    assert new["from"] == "anonymous"


def test_zoho_is_told_of_a_call_in_its_own_words() -> None:
    def says(type_: str, of: Call, **extra: Any) -> list[dict[str, str]]:
        return list(zoho(body(type_, of, **extra), OWN, known=False))

    way = {"type": "received", "id": "0a", "from": "+81300001234", "to": "+81300000001"}
    assert says("call.ringing", call()) == [{**way, "state": "ringing"}]
    assert says("call.answered", call(**ANSWERED)) == [{**way, "state": "answered"}]
    began = "2026-09-21 14:13:20"
    assert says("call.ended", call(**ANSWERED)) == [{**way, "state": "ended", "start_time": began, "duration": "60"}]
    missed = call(outcome="missed", ended_ns=9)
    assert says("call.missed", missed) == [{**way, "state": "missed", "start_time": began}]
    assert says("call.missed", call(caller=Caller(), outcome="missed")) == []
    (unanswered,) = says("call.ended", call(**OUTGOING, outcome="outgoing_unanswered", ended_ns=9))
    assert unanswered["type"] == "dialed" and unanswered["state"] == "noanswer"
    assert told(Caller())["number"] is None


@pytest.mark.realtime
def test_zammad_gets_a_form_and_what_it_never_takes_is_parked(tmp_path: Path) -> None:
    with (
        receiving(200, 200, *[500] * 5) as receiver,
        running(chosen(tmp_path, receiver, format="zammad", numbers=("0300000001",))) as shop,
    ):
        shop.missed()
        until(shop, lambda: idle(shop))
        shop.missed()
        until(shop, lambda: idle(shop), 30)
        assert state(shop)["parked"] == 1
    events = [parse_qs(got.body.decode())["event"][0] for got in receiver.got]
    assert events == ["newCall", "hangup", *["newCall"] * 5, "hangup"]
    assert receiver.got[0].headers["Content-Type"] == "application/x-www-form-urlencoded"


@pytest.mark.realtime
def test_zoho_wants_its_token_anew_each_time(tmp_path: Path) -> None:
    token = private(tmp_path / "token", "one")
    with receiving() as receiver:
        shops = chosen(tmp_path / "data", receiver, format="zoho", numbers=("+81300000001",), token_file=token)
        with running(shops) as shop:
            shop.missed()
            until(shop, lambda: idle(shop))
            private(token, "two")
            shop.missed()
            until(shop, lambda: idle(shop))
    used = [got.headers["Authorization"] for got in receiver.got]
    assert used == ["Zoho-oauthtoken one"] * 2 + ["Zoho-oauthtoken two"] * 2


@pytest.mark.parametrize(
    "name",
    [
        "answered",
        "missed",
        "withheld",
        "call-waiting",
        "missed-then-next-caller",
        "lifted-too-late",
        "outgoing-answered",
        "outgoing-given-up",
        "shop-talks-over-ringback",
        "us-missed",
        "us-answered",
        "us-lifted-in-first-ring",
        "uk-lifted-before-ring",
        "etsi-dtmf",
    ],
)
def test_zammad_and_zoho_can_follow_every_call(tmp_path: Path, name: str) -> None:
    """What the unit really tells of a call: announced once, before all else; over once, behind all else."""
    stepped(story.load(Path(__file__).parent / "scenarios" / f"{name}.txt"), tmp_path / "data")
    events = [each for each in read_table(tmp_path / "data" / "store", "events") if "-call-" in each["id"]]
    for preset, first, last in ((zammad, "newCall", {"hangup"}), (zoho, "ringing", {"ended", "missed", "noanswer"})):
        told_of: dict[str, list[str]] = {}
        for each in events:
            for fields in preset(each, OWN, known=each["subject"] in told_of):
                told_of.setdefault(each["subject"], []).append(fields.get("event") or fields["state"])
        assert told_of or preset is zoho, "a call without a number cannot be told to Zoho"
        for words in told_of.values():
            assert words[0] == first and words.count(first) == 1, words
            assert words[-1] in last and len(last & set(words)) == 1, words
