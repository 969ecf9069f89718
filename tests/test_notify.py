"""What comes to the owner's telephone: through Apprise, to a real web server on loopback; and what decides of it."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from firmware import words
from firmware.core import alarms
from firmware.core.alarms import Alarm
from firmware.core.call import Call, ClockRead, event
from firmware.core.caller import Caller
from firmware.core.notices import Budget, Day, day, hours_of, is_within, kind_of, latest, time_of
from firmware.core.outbox import Event
from firmware.core.privacy import Privacy, masked
from firmware.delivery import courier
from firmware.delivery.notify import Notifier
from firmware.settings import NotifySettings, Settings
from tests.receiver import Receiver, Reply, receiving, until
from tests.units import Running, running, settings

# Apprise looks for this module where Python still has it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

JST = timezone(timedelta(hours=9))
NOON = datetime(2026, 11, 26, 12, 0, tzinfo=JST)


def at(text: str) -> datetime:
    hour, minute = text.split(":")
    return NOON.replace(hour=int(hour), minute=int(minute))


# -- what decides


def test_a_time_of_day_is_read_or_refused() -> None:
    assert time_of("7:00") == at("7:00").time() and time_of("19:30") == at("19:30").time()
    assert [time_of(bad) for bad in ("24:00", "7", "07:60", "7:5", "", "-1:00")] == [None] * 6
    assert [hours_of(bad) for bad in ("22:00", "22:00-", "22:00-22:00", "a-b")] == [None] * 4


@pytest.mark.parametrize(
    ("hours", "quiet", "loud"),
    [
        ("22:00-07:00", ("22:00", "23:59", "0:00", "6:59"), ("7:00", "12:00", "21:59")),
        ("13:00-14:30", ("13:00", "14:29"), ("12:59", "14:30", "0:00")),
    ],
)
def test_quiet_hours_go_over_midnight(hours: str, quiet: tuple[str, ...], loud: tuple[str, ...]) -> None:
    for text in quiet:
        assert is_within(at(text), hours_of(hours)), text
    for text in loud:
        assert not is_within(at(text), hours_of(hours)), text
    assert not is_within(NOON, None)


def test_the_latest_digest_is_today_s_or_yesterday_s() -> None:
    assert latest(at("19:00"), at("19:00").time()) == at("19:00")
    assert latest(at("18:59"), at("19:00").time()) == at("19:00") - timedelta(days=1)


def test_a_month_s_budget() -> None:
    budget = Budget(limit=200).at(NOON)
    assert budget.allows("missed", 1) and not budget.is_short
    budget = budget.spent(179)
    assert not budget.is_short
    budget = budget.spent(1)
    assert budget.is_short and not replace(budget, warned=True).is_short
    budget = replace(budget, warned=True).spent(20)
    assert not budget.allows("missed", 1) and not budget.allows(None, 1) and budget.allows("alarm", 1)
    budget = budget.spent(20)
    assert not budget.allows("alarm", 1), "nothing goes any more"
    anew = budget.at(NOON + timedelta(days=5))
    assert (anew.month, anew.sent, anew.warned) == ("2026-12", 0, False)
    assert budget.at(NOON + timedelta(days=4)) == budget
    assert Budget(limit=2).spent(2).allows("alarm", 1), "a small budget has room for one alarm"
    free = Budget(limit=0).spent(10**6)
    assert free.allows("missed", 1) and not free.is_short


def test_the_month_turns_in_the_unit_s_zone() -> None:
    new_year = datetime(2026, 12, 31, 15, 0, tzinfo=UTC)  # midnight in Tokyo
    assert Budget(limit=1).at(new_year.astimezone(JST)).month == "2027-01"


def raised(name: str = "line_cut/1", type_: Any = "raised") -> Event:
    line = int(name[-1]) if name[-1].isdigit() else None
    kind: Any = name.partition("/")[0]
    alarm = Alarm(name=name, kind=kind, line=line, since="", detail={"waiting": 3, "calls": 5})
    return alarms.event(type_, alarm, words.alarm(alarm), ClockRead(mono_ns=0, wall_ns=0, state="ntp"))


def body(told: Event) -> dict[str, Any]:
    return {"type": told.type, "subject": told.subject, "time": told.time, "data": told.data}


def missed_at(text: str, number: str | None = "+81300001234", clock: Any = "ntp", **caller: Any) -> dict[str, Any]:
    who = Caller(
        presentation="allowed",
        reason=None,
        number=number,
        national="03-0000-" + number[-4:] if number else None,
        region_ja="東京",
        region_en="Tokyo",
    )
    who = replace(who, **caller)
    wall_ns = round(at(text).timestamp()) * 1_000_000_000
    call = Call(
        call_id=f"id-{text}",
        line=1,
        direction="incoming",
        boot_id="b",
        clock=ClockRead(mono_ns=0, wall_ns=wall_ns, state=clock),
        opened_ns=0,
        outcome="missed",
        caller=who,
    )
    return body(event("call.missed", call, 0))


def test_what_makes_a_message() -> None:
    def kind(told: dict[str, Any], **more: bool) -> str | None:
        return kind_of(told, **{"missed": True, "alarms": True, **more}, but="owner")

    assert kind(missed_at("9:00")) == "missed" and kind(missed_at("9:00"), missed=False) is None
    assert kind(body(raised())) == "alarm" and kind(body(raised()), alarms=False) is None
    assert kind(body(raised(type_="cleared"))) is None
    assert kind(body(raised("outbox/main"))) == "alarm"
    assert kind(body(raised("outbox/owner"))) is None, "what does not get through cannot be told by itself"


# -- the words


def mask(events: list[dict[str, Any]], level: Privacy) -> list[dict[str, Any]]:
    return [masked(each, level, b"") for each in events]


@pytest.mark.parametrize(
    ("level", "ja", "en"),
    [
        ("full", "9:05 03-0000-1234（東京）", "9:05 03-0000-1234 (Tokyo)"),
        ("last4", "9:05 末尾1234（東京）", "9:05 number ending in 1234 (Tokyo)"),
        ("none", "9:05 番号通知あり", "9:05 a number that is not shown"),
    ],
)
def test_a_missed_call_tells_who_when_and_what_to_do(level: Privacy, ja: str, en: str) -> None:
    events = mask([missed_at("9:05", name=None)], level)
    told = words.missed(events, "ja", "shop", NOON)
    assert (told.title, told.text) == ("【shop】不在着信", f"{ja}\n折り返しのお電話をお願いします。")
    told = words.missed(events, "en", "shop", NOON)
    assert (told.title, told.text) == ("[shop] Missed call", f"{en}\nPlease call back.")


@pytest.mark.parametrize(
    ("presentation", "ja"),
    [
        ("withheld", "非通知"),
        ("payphone", "公衆電話"),
        ("unavailable", "表示圏外"),
        ("not_received", "番号不明"),
        ("corrupt", "番号不明"),
        ("service_conflict", "番号が通知されない電話"),
    ],
)
def test_who_cannot_be_called_back(presentation: Any, ja: str) -> None:
    nobody = missed_at("9:05", None, presentation=presentation, region_ja=None, region_en=None)
    told = words.missed([nobody], "ja", "shop", NOON)
    assert told.text == f"9:05 {ja}\n番号が分からないため、折り返しはできません。"
    assert "Without a number nobody can be called back." in words.missed([nobody], "en", "shop", NOON).text


def test_several_missed_calls_are_one_message() -> None:
    events = [missed_at(f"9:0{n}", f"+8130000{n}234") for n in range(7)] + [missed_at("9:09", "+81300000234")]
    told = words.missed(mask(events, "full"), "ja", "shop", NOON + timedelta(days=1))
    assert told.title == "【shop】不在着信8件"
    assert told.text.splitlines()[0] == "11/26 9:09 03-0000-0234（東京）（2回）", "of yesterday, with the date"
    assert told.text.splitlines()[5:] == ["ほか2件", "折り返しのお電話をお願いします。"]
    english = words.missed(mask(events, "full"), "en", "shop", NOON).text.splitlines()
    assert english[0] == "9:09 03-0000-0234 (Tokyo) (2 times)" and english[5] == "and 2 more"
    assert "（時刻不明）" in words.missed([missed_at("9:00", clock="unsynced")], "ja", "shop", NOON).text


def test_the_longest_message_fits_any_service() -> None:
    events = [missed_at("9:00", f"+8130000{n}234", name="名" * 20) for n in range(100, 200)]
    assert len(words.missed(events, "ja", "shop", NOON).text) < 400


def test_alarms_tell_what_to_do() -> None:
    told = words.alarms([(body(raised()), False)], "ja", "shop")
    assert told.title == "【shop】異常のお知らせ"
    assert told.text == "電話線1が切れています。壁の差し込み口と電話機のコードを確かめてください。"
    told = words.alarms([(body(raised("repeat_calls/1")), True)], "en", "shop")
    assert told.title == "[shop] Notice" and told.text.endswith(" (It is over now.)")
    assert words.alarms([(body(raised()), True)], "ja", "shop").text.endswith("（現在は解消しています。）")


def test_the_digest_and_the_budget_in_words() -> None:
    since = at("19:00") - timedelta(days=1)
    told = words.digest(Day(since=since, answered=9, missed=3, waiting=2), "ja", "shop")
    assert told.title == "【shop】電話のまとめ"
    assert told.text == (
        "11/25 19:00からの着信は12件（応答9件、不在3件）です。\n折り返し待ちが2件あります。お電話をお願いします。"
    )
    assert words.digest(Day(since=since), "ja", "shop").text == "11/25 19:00からの着信はありません。"
    told = words.digest(Day(since=since, answered=1, waiting=1), "en", "shop")
    assert told.text == "Since 25 Nov 19:00: 1 call, 1 answered, 0 missed.\n1 caller waits to be called back."
    spent = Budget(limit=200, sent=180)
    assert words.budget(spent, "ja", "shop").text == (
        "今月の通知が180件になりました。上限の200件に達すると、異常のお知らせだけをお送りします。"
    )
    assert words.budget(spent, "en", "shop").text.startswith("180 messages were sent this month. From 200 on")


def test_a_day_counts_what_came_in() -> None:
    outcomes = ["answered", "missed", "missed", "fax", None]
    calls = [{"direction": "incoming", "outcome": outcome} for outcome in outcomes]
    told = day([*calls, {"direction": "outgoing", "outcome": "outgoing_answered"}], NOON, 1)
    assert (told.incoming, told.answered, told.missed, told.waiting) == (4, 2, 2, 1)


# -- through Apprise


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "_wait_s", lambda failures: 0.05)


@pytest.fixture
def day_(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    made = Notifier.__init__

    def init(self: Notifier, *args: Any, **more: Any) -> None:
        made(self, *args, **more | {"now": lambda: clock.now, "together_s": clock.together_s})

    monkeypatch.setattr(Notifier, "__init__", init)
    yield clock


class Clock:
    """The local time, as a notifier sees it."""

    def __init__(self) -> None:
        self.now = datetime.now().astimezone().replace(hour=12, minute=0)
        self.together_s = 0.1

    def set(self, text: str, days: int = 0) -> None:
        hour, minute = text.split(":")
        self.now = (self.now + timedelta(days=days)).replace(hour=int(hour), minute=int(minute))


def owner(tmp_path: Path, *receivers: Receiver, **more: Any) -> NotifySettings:
    path = tmp_path / "urls"
    path.write_text("# the owner\n" + "".join(f"json://127.0.0.1:{each.port}/s3cret\n" for each in receivers))
    path.chmod(0o600)
    return NotifySettings(**{"name": "owner", "urls_file": path, **more})


def chosen(tmp_path: Path, *receivers: Receiver, **more: Any) -> Settings:
    return settings(tmp_path / "data", notify=(owner(tmp_path, *receivers, **more),))


def told(receiver: Receiver) -> list[tuple[str, str]]:
    """Titles and texts."""
    bodies = [json.loads(got.body) for got in receiver.got]
    return [(each["title"], each["message"]) for each in bodies]


def idle(shop: Running) -> bool:
    return shop.unit.store.waiting()["owner"]["waiting"] == 0


def raise_alarm(shop: Running, name: str = "line_cut/1", type_: Any = "raised") -> None:
    shop.do(lambda: shop.unit.store.tell([raised(name, type_)]))


def settle(shop: Running, seconds: float = 0.4) -> None:
    end = time.monotonic() + seconds
    until(shop, lambda: time.monotonic() > end)


@pytest.mark.realtime
def test_missed_calls_of_a_minute_come_in_one_message(
    tmp_path: Path, day_: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    day_.together_s = 1.0
    with receiving() as receiver, running(chosen(tmp_path, receiver)) as shop:
        for number in ("+81300001234", "+81300005678"):
            shop.missed(number)
        until(shop, lambda: idle(shop))
        shop.missed(None)
        until(shop, lambda: idle(shop))
        assert shop.unit._health["notify/owner"] is None
        until(shop, lambda: shop.unit.store.note("notify/owner")["sent"] == 2)
        assert shop.unit.store.note("notify/owner")["month"] == f"{day_.now:%Y-%m}"
    (title, text), (second, _) = told(receiver)
    assert title == "【shop】不在着信2件" and "末尾1234" in text and "末尾5678" in text
    assert second == "【shop】不在着信"
    assert not re.search(r"30000|s3cret|末尾", caplog.text)


@pytest.mark.realtime
def test_quiet_hours_hold_all_but_what_is_urgent(tmp_path: Path, day_: Clock) -> None:
    day_.set("23:00")
    with receiving() as receiver:
        shops = chosen(tmp_path, receiver, quiet="22:00-07:00", urgent=True)
        with running(shops) as shop:
            shop.missed()
            raise_alarm(shop, "repeat_calls/1")
            settle(shop)
            assert not receiver.got
            assert shop.unit.management._vitals().outboxes["owner"]["waiting"] == 0, "it is no stuck outbox"
            raise_alarm(shop, "line_cut/1")
            until(shop, lambda: len(receiver.got) == 1)
        with running(shops) as shop:  # what is held is held over a restart
            raise_alarm(shop, "repeat_calls/1", "cleared")
            settle(shop)
            assert len(receiver.got) == 1
            day_.set("7:00", days=1)
            until(shop, lambda: idle(shop))
    titles = [title for title, _ in told(receiver)]
    assert titles == ["【shop】異常のお知らせ", "【shop】お知らせ", "【shop】不在着信"]
    assert told(receiver)[1][1].endswith("（現在は解消しています。）")


@pytest.mark.realtime
def test_without_urgent_a_fault_waits_too(tmp_path: Path, day_: Clock) -> None:
    day_.set("6:59")
    with receiving() as receiver:
        shops = chosen(tmp_path, receiver, quiet="22:00-07:00")
        with running(shops) as shop:
            raise_alarm(shop)
            settle(shop)
            assert not receiver.got
            day_.set("7:00")
            until(shop, lambda: idle(shop))
    assert len(receiver.got) == 1


@pytest.mark.realtime
def test_the_digest_comes_once_a_day_and_once_after_a_restart(tmp_path: Path, day_: Clock) -> None:
    day_.now = datetime.now().astimezone()
    with receiving() as receiver:
        shops = chosen(tmp_path, receiver, digest_at="19:00", missed=False, language="en")
        with running(shops) as shop:
            settle(shop)
            assert not receiver.got
            shop.missed()
            day_.now = datetime.now().astimezone() + timedelta(days=1)  # past one of the clock's 19:00, whenever it is
            until(shop, lambda: len(receiver.got) == 1)
            settle(shop)
        with running(shops) as shop:
            settle(shop)
            assert len(receiver.got) == 1
            day_.now += timedelta(days=1)
            until(shop, lambda: len(receiver.got) == 2)
            day_.now += timedelta(days=40)
            settle(shop)
            assert len(receiver.got) == 2, "nobody wants a digest of last month"
    (title, text), (_, second) = told(receiver)
    assert title == "[shop] Calls"
    assert text.endswith(": 1 call, 0 answered, 1 missed.\n1 caller waits to be called back.")
    assert "no calls." in second


@pytest.mark.realtime
def test_the_month_s_budget_over_a_restart(tmp_path: Path, day_: Clock) -> None:
    day_.now = day_.now.replace(day=15)
    with receiving() as receiver:
        shops = chosen(tmp_path, receiver, per_month=4)
        with running(shops) as shop:
            for _ in range(2):
                shop.missed()
                until(shop, lambda: idle(shop))
        with running(shops) as shop:
            for count in (3, 4, 4):
                shop.missed()
                until(shop, lambda: idle(shop))
                settle(shop)
                assert len(receiver.got) == min(count + (count == 4), 5), count
            raise_alarm(shop)
            until(shop, lambda: idle(shop))
            assert len(receiver.got) == 5
            day_.now += timedelta(days=31)
            shop.missed()
            until(shop, lambda: len(receiver.got) == 6)
            until(shop, lambda: shop.unit.store.note("notify/owner")["sent"] == 1)
    titles = [title.partition("】")[2] for title, _ in told(receiver)]
    assert titles.count("通知の件数") == 1


@pytest.mark.realtime
@pytest.mark.parametrize("reply", [500, 401, 429])
def test_a_service_that_fails_gets_it_later_with_what_has_come_since(
    tmp_path: Path, day_: Clock, caplog: pytest.LogCaptureFixture, reply: Reply
) -> None:
    with receiving(reply) as receiver, running(chosen(tmp_path, receiver)) as shop:
        shop.missed()
        until(shop, lambda: bool(shop.unit._health.get("notify/owner")))
        assert shop.unit._health["notify/owner"] == (
            f"Notify owner: no message gets to address 1 (answer {reply}) of urls_file; check it, and the network."
        )
        until(shop, lambda: idle(shop))
        assert shop.unit._health["notify/owner"] is None
    assert len(receiver.got) >= 2
    assert not re.search(r"30000|s3cret", caplog.text)


@pytest.mark.realtime
def test_one_address_that_is_dead_keeps_no_message_from_the_other(tmp_path: Path, day_: Clock) -> None:
    with receiving() as alive, receiving(*[500] * 1000) as dead, running(chosen(tmp_path, dead, alive)) as shop:
        for _ in range(2):
            shop.missed()
            until(shop, lambda: idle(shop))
        assert "address 1 (answer 500)" in (shop.unit._health["notify/owner"] or "")
    assert len(alive.got) == 2 and len(dead.got) == 10


@pytest.mark.realtime
def test_a_restart_in_the_middle_loses_nothing(tmp_path: Path, day_: Clock) -> None:
    with receiving(*[500] * 1000) as receiver:
        shops = chosen(tmp_path, receiver)
        with running(shops) as shop:
            shop.missed("+81300001234")
            until(shop, lambda: len(receiver.got) > 2)
        receiver.got.clear()
        receiver.replies.clear()
        with running(shops) as shop:
            shop.missed("+81300005678")
            until(shop, lambda: idle(shop))
    text = "".join(text for _, text in told(receiver))
    assert text.count("末尾1234") == text.count("末尾5678") == 1


def erase(shop: Running, call_id: str) -> None:
    assert shop.unit.store.remove([call_id], "asked for", "owner") == []


@pytest.mark.realtime
def test_a_call_that_was_erased_is_not_told_of(tmp_path: Path, day_: Clock) -> None:
    day_.set("23:00")
    with receiving() as receiver, running(chosen(tmp_path, receiver, quiet="22:00-07:00")) as shop:
        call_id = shop.missed()
        settle(shop)
        shop.do(lambda: erase(shop, call_id))
        day_.set("8:00", days=1)
        settle(shop)
        assert idle(shop)
    assert not receiver.got


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        (None, 0, "cannot be read (No such file"),
        ("json://127.0.0.1/s3cret", 0o644, "can be read by others than its owner"),
        ("\n# nothing\n", 0o600, "holds no address; write one a line, as line://TOKEN/USER."),
        ("\njson://a\nnosuch://s3cret\n", 0o600, "line 3 is no address that Apprise knows"),
    ],
)
def test_a_file_of_no_use_is_told_at_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None, mode: int, sentence: str
) -> None:
    path = tmp_path / "urls"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with running(settings(tmp_path, notify=(NotifySettings(name="owner", urls_file=path),))) as shop:
        until(shop, lambda: bool(shop.unit._health.get("notify/owner")))
        assert sentence in (shop.unit._health["notify/owner"] or "")
    assert "s3cret" not in caplog.text


def test_a_unit_without_these_sections_loads_none_of_what_they_need() -> None:
    code = "import sys, firmware.app; print([m for m in ('apprise', 'requests', 'jinja2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
