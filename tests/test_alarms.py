"""Alarms: each raised once, cleared once, in words that tell what to do."""

from __future__ import annotations

import re
import typing
from dataclasses import replace
from typing import Any

import pytest

from drivers.signals import VoiceHeard
from firmware import words
from firmware.core.alarms import Alarm, Kind, Limits, Vitals, Watch, event
from firmware.core.call import Call, ClockRead, Outcome, Recording
from firmware.core.caller import Caller
from firmware.core.facts import Gap, Levels

S = 1_000_000_000
DAY_S = 86_400
WELL = Vitals(disk_free_mb=50_000, temperature_c=45.0, under_voltage=False, clock="ntp", faults={}, outboxes={})


class Shop:
    """A unit of one line, and its two clocks."""

    def __init__(self, *, expects_id: bool = True, kept: tuple[dict[str, Any], ...] = (), **limits: int) -> None:
        self.now_s = 1_790_000_000.0
        self.watch = Watch(Limits(**limits), {1: expects_id}, self.now(), kept)
        self.told: list[str] = []

    def now(self) -> ClockRead:
        return ClockRead(mono_ns=round((self.now_s - 1_789_999_000) * S), wall_ns=round(self.now_s * S), state="ntp")

    def check(self, vitals: Vitals = WELL, after_s: float = 5) -> list[str]:
        """What changed: +name or -name."""
        self.now_s += after_s
        raised, cleared = self.watch.check(vitals, self.now())
        changed = [f"+{alarm.name}" for alarm in raised] + [f"-{alarm.name}" for alarm in cleared]
        self.told += changed
        return changed

    def shows(self, state: str, call_id: str | None = None) -> None:
        self.watch.line_shows(1, state, self.now().mono_ns, call_id)

    def call(self, outcome: Outcome = "missed", number: str | None = "+81300001234", **changes: Any) -> None:
        caller = Caller(presentation="allowed", reason=None, number=number) if number else Caller()
        made = Call(
            call_id=f"id-{self.now_s:.0f}",
            line=1,
            direction="incoming",
            boot_id="b",
            clock=self.now(),
            opened_ns=self.now().mono_ns,
            outcome=outcome,
            caller=caller,
        )
        self.watch.call_ended(replace(made, **changes), self.now())

    def talk(self, duration_s: float = 30) -> None:
        at = self.now().mono_ns
        self.call("answered", answered_ns=at, ended_ns=at + round(duration_s * S))


@pytest.mark.parametrize(
    ("bad", "name", "patience_s"),
    [
        ({"disk_free_mb": 900}, "disk", 0),
        ({"disk_days": 13}, "disk_soon", 0),
        ({"temperature_c": 81.0}, "temperature", 60),
        ({"under_voltage": True}, "under_voltage", 10),
        ({"clock": "unsynced"}, "clock", 600),
        ({"faults": {"codec/1": "It was unplugged; plug it in again."}}, "codec/1", 30),
        ({"faults": {"store/1": "A line has rotted."}}, "store", 0),
        (
            {"outboxes": {"main": {"waiting": 0, "parked": 2, "unconfirmed": 0, "done": 9, "confirmed": 9}}},
            "parked/main",
            0,
        ),
    ],
)
def test_what_is_measured_is_told_once_and_cleared_once(bad: dict[str, Any], name: str, patience_s: int) -> None:
    shop = Shop()
    wrong = replace(WELL, **bad)
    assert shop.check() == []
    if patience_s:
        assert shop.check(wrong) == []
        assert shop.check(WELL) == [] and shop.check(wrong) == [], "a short one is none, and its time begins anew"
        assert shop.check(wrong, patience_s - 1) == []
    assert shop.check(wrong) == [f"+{name}"]
    assert [shop.check(wrong) for _ in range(100)] == [[]] * 100
    away_s = {"codec/1": 300, "under_voltage": 300, "temperature": 300}.get(name, 0)
    if away_s:
        assert shop.check(WELL) == [] and shop.check(WELL, away_s - 10) == []
        assert shop.check(wrong) == [] and shop.check(WELL, 3600) == [], "a plug that wobbles is one alarm"
    assert shop.check(WELL, away_s) == [f"-{name}"]
    assert shop.watch.alarms == {}


def test_what_cannot_be_measured_is_no_alarm() -> None:
    shop = Shop()
    nothing = replace(WELL, disk_free_mb=None, temperature_c=None, under_voltage=None)
    assert shop.check(nothing, 3600) == []


def test_a_value_at_its_limit_does_not_ring_again_and_again() -> None:
    shop = Shop()
    for free_mb in (990, 1010, 990, 1010):
        shop.check(replace(WELL, disk_free_mb=free_mb))
    for celsius in (81.0, 79.0, 81.0, 79.0):
        shop.check(replace(WELL, temperature_c=celsius), 61)
        shop.check(replace(WELL, temperature_c=celsius), 61)
    assert shop.told.count("+disk") == 1 and shop.told.count("+temperature") == 1
    assert shop.told.count("-temperature") == 0


def test_line_cut_and_handset_beside_the_phone() -> None:
    shop = Shop()
    shop.shows("line_cut")
    assert shop.check() == [] and shop.check(after_s=60) == ["+line_cut/1"]
    shop.shows("idle")
    assert shop.check() == [] and shop.check(after_s=60) == ["-line_cut/1"]
    shop.shows("held_open")
    assert shop.check() == ["+off_hook/1"]
    shop.shows("idle")
    assert shop.check() == ["-off_hook/1"]


def test_a_long_call() -> None:
    shop = Shop(long_call_min=10)
    shop.shows("in_call", "id-1")
    assert shop.check(after_s=600) == [] and shop.check() == ["+long_call/1"]
    assert shop.watch.alarms["long_call/1"].detail == {"minutes": 10, "call_id": "id-1"}
    shop.shows("idle")
    assert shop.check() == ["-long_call/1"]


def test_a_silent_line_and_the_call_that_ends_it() -> None:
    shop = Shop(line_silent_days=3)
    assert shop.check(after_s=3 * DAY_S - 60) == []
    assert shop.check(after_s=DAY_S) == ["+line_silent/1"]
    shop.call()
    assert shop.check() == ["-line_silent/1"]


def test_rings_without_caller_id() -> None:
    shop = Shop()
    for _ in range(4):
        shop.call(number=None)
    assert shop.check() == []
    shop.call(number=None)
    assert shop.check() == ["+no_caller_id/1"]
    shop.call()
    assert shop.check() == ["-no_caller_id/1"]
    withheld = Caller(presentation="withheld", reason="withheld")
    other = Shop()
    for _ in range(9):
        other.call(caller=withheld)
    assert other.check() == [], "a withheld number is caller ID too"
    without = Shop(expects_id=False)
    for _ in range(9):
        without.call(number=None)
    assert without.check() == []


def test_recordings_in_which_nobody_speaks() -> None:
    shop = Shop(repeat_calls=0)
    for _ in range(5):
        shop.talk()
    assert shop.check() == [], "nobody listened"
    shop.watch.listens(1, True)
    shop.talk(10)
    shop.talk()
    assert shop.check() == []
    shop.talk()
    assert shop.check() == ["+silent_audio/1"]
    shop.watch.heard(VoiceHeard(at_ns=1, line=1))
    assert shop.check() == ["-silent_audio/1"]


LEVELS = Levels(peak_dbfs=-9.0, rms_dbfs=-30.0, loudest_dbfs=-25.0, clipped=0.0, hum_hz=None, hum_dbfs=None)
RECORDING = Recording(path="p", from_ns=0, frames=240_000, rate_hz=8000, size_bytes=1, sha256="0" * 64, levels=LEVELS)


@pytest.mark.parametrize(
    ("bad", "name", "times"),
    [
        (replace(LEVELS, loudest_dbfs=-60.0), "silent_audio/1", 2),
        (replace(LEVELS, peak_dbfs=None, rms_dbfs=None, loudest_dbfs=None), "silent_audio/1", 2),
        (replace(LEVELS, clipped=0.01), "clipped_audio/1", 3),
    ],
)
def test_recordings_whose_levels_are_wrong(bad: Levels, name: str, times: int) -> None:
    shop = Shop()
    ended = Call(
        call_id="id",
        line=1,
        direction="incoming",
        boot_id="b",
        clock=shop.now(),
        opened_ns=0,
        outcome="answered",
        answered_ns=0,
        ended_ns=30 * S,
    )
    wrong = replace(RECORDING, levels=bad)
    for _ in range(times - 1):
        shop.watch.sounded(replace(ended, recording=wrong))
        shop.watch.sounded(replace(ended, recording=replace(wrong, levels=None)))  # says nothing
        shop.watch.sounded(replace(ended, recording=wrong, ended_ns=10 * S))
        shop.watch.sounded(replace(ended, recording=wrong, outcome="interrupted"))
        paused = replace(wrong, muted=(Gap(at_s=0, duration_s=15),))
        shop.watch.sounded(replace(ended, recording=paused))
    assert shop.check() == []
    shop.watch.sounded(replace(ended, recording=wrong))
    assert shop.check() == [f"+{name}"]
    shop.watch.sounded(replace(ended, recording=RECORDING))
    assert shop.check() == [f"-{name}"]


def test_a_call_without_a_file() -> None:
    shop = Shop()
    shop.watch.recorded(1, "id-1", made=False)
    assert shop.check() == ["+no_file/1"]
    shop.watch.recorded(1, "id-2", made=True)
    assert shop.check() == ["-no_file/1"]


def test_one_number_calls_again_and_again() -> None:
    shop = Shop()
    for _ in range(4):
        shop.now_s += 60
        shop.call()
        shop.call(number="+81300005678")
    assert shop.check() == []
    shop.call()
    assert shop.check() == ["+repeat_calls/1"]
    alarm = shop.watch.alarms["repeat_calls/1"]
    assert "1234" not in str(alarm.detail) and alarm.detail["calls"] == 5
    assert shop.check(after_s=3600) == ["-repeat_calls/1"]
    quiet = Shop(repeat_calls=0)
    for _ in range(50):
        quiet.call()
    assert quiet.check() == []


def test_an_outbox_that_gets_nowhere() -> None:
    shop = Shop()

    def waits(count: int, done: int = 7) -> Vitals:
        counts = {"waiting": count, "parked": 0, "unconfirmed": 0, "done": done, "confirmed": done}
        return replace(WELL, outboxes={"main": counts})

    assert shop.check(waits(3)) == [] and shop.check(waits(4), 3500) == []
    assert shop.check(waits(4, 8), 200) == [], "it has moved"
    assert shop.check(waits(9, 8), 3500) == []
    assert shop.check(waits(2, 8), 200) == ["+outbox/main"], "others get through, and the oldest waits"
    assert shop.check(waits(10, 8)) == []
    assert shop.check(waits(9, 9)) == ["-outbox/main"], "it moves again"
    assert shop.check(waits(0, 18)) == []


def test_a_clock_that_is_set_tells_of_no_silent_years() -> None:
    shop = Shop(line_silent_days=3)
    shop.check()
    mono = shop.now().mono_ns
    late = ClockRead(mono_ns=mono + 5 * S, wall_ns=round(shop.now_s * S) + 700 * DAY_S * S, state="ntp")
    assert shop.watch.check(WELL, late) == ([], [])


def test_alarms_outlive_a_restart_and_are_not_told_again() -> None:
    shop = Shop()
    wrong = replace(WELL, disk_free_mb=1)
    assert shop.check(wrong) == ["+disk"]
    assert shop.watch.acknowledge("disk", "crm", "2026-11-26T00:00:00.000Z") is not None
    assert shop.watch.acknowledge("clock", "crm", "2026-11-26T00:00:00.000Z") is None
    again = Shop(kept=tuple(shop.watch.to_kept()))
    assert again.watch.alarms == shop.watch.alarms
    assert again.check(wrong) == []
    assert again.check(WELL) == ["-disk"]


DETAILS: dict[Kind, dict[str, Any]] = {
    "line_silent": {"days": 15},
    "no_caller_id": {"calls": 5},
    "silent_audio": {"calls": 2},
    "clipped_audio": {"calls": 3},
    "no_file": {"call_id": "id"},
    "long_call": {"minutes": 200, "call_id": "id"},
    "repeat_calls": {"calls": 6, "call_id": "id"},
    "device": {"device": "codec", "reason": "It was unplugged; plug it in again."},
    "store": {"reason": "A line has rotted."},
    "disk": {"free_mb": 900},
    "disk_soon": {"days": 9},
    "temperature": {"temperature_c": 85.5},
    "outbox": {"waiting": 7},
    "parked": {"parked": 7},
    "unconfirmed": {"unconfirmed": 7},
}


@pytest.mark.parametrize("kind", typing.get_args(Kind))
def test_every_alarm_says_what_to_do_in_both_languages(kind: Kind) -> None:
    of = "main" if kind in ("outbox", "parked", "unconfirmed") else "1"
    alarm = Alarm(
        name=f"{kind}/{of}", kind=kind, line=1, since="2026-11-26T00:00:00.000Z", detail=DETAILS.get(kind, {})
    )
    said = words.alarm(alarm)
    assert said["ja"].endswith("。") and said["en"].endswith(".")
    assert len(re.findall("[。]", said["ja"])) >= 2 and len(re.findall(r"\.(?: |$)", said["en"])) >= 2
    assert not re.search(r"[{}]", said["ja"] + said["en"])
    told = event("raised", alarm, said, ClockRead(mono_ns=1, wall_ns=S, state="ntp"))
    assert (told.stream, told.type, told.subject) == ("system", "alarm.raised", alarm.name)
    assert told.data["text"] == said


@pytest.mark.parametrize(("wall_ns", "year"), [(0, 1970), (-(10**20), 1970), (10**20, 5138), (10**22, 9999)])
def test_a_clock_that_stands_anywhere_stops_nothing(wall_ns: int, year: int) -> None:
    now = ClockRead(mono_ns=5 * S, wall_ns=wall_ns, state="unsynced")
    watch = Watch(Limits(), {1: True}, now, ())
    raised, _ = watch.check(replace(WELL, clock="unsynced", disk_free_mb=1), now)
    assert [alarm.name for alarm in raised] == ["disk"]
    assert raised[0].since.startswith(f"{year}-")
