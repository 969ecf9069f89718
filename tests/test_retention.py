"""Retention: the oldest goes first, what must stay stays, each is written down before its file is removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from firmware.core.call import Call, ClockRead, Recording
from firmware.core.call import event as call_event
from firmware.core.caller import Caller
from firmware.core.outbox import Sink
from firmware.core.retention import Candidate, Limits, Room, days_left, why
from firmware.records.store import CallStore
from firmware.retention import Retention
from firmware.settings import RetentionSettings

S = 1_000_000_000
DAY = 86_400
NOW_S = 1_790_000_000.0
PLENTY = Room(recordings_mb=10, free_mb=50_000)


# -- the decision

candidates = st.builds(
    Candidate,
    call_id=st.just("c"),
    ended_s=st.none() | st.floats(0, NOW_S),
    held=st.booleans(),
    open=st.booleans(),
    undelivered=st.booleans(),
)
limits_ = st.builds(Limits, keep_days=st.integers(0, 90), total_mb=st.integers(0, 900), free_mb=st.integers(0, 900))
rooms = st.builds(Room, recordings_mb=st.none() | st.floats(0, 2000), free_mb=st.none() | st.floats(0, 2000))


@given(candidates, limits_, rooms, st.none() | st.just(NOW_S))
def test_what_must_stay_stays_and_nothing_goes_without_a_limit_that_says_so(
    candidate: Candidate, limits: Limits, room: Room, now_s: float | None
) -> None:
    reason = why(candidate, limits, room, now_s)
    if candidate.held or candidate.open or candidate.undelivered or not limits.any:
        assert reason is None
    match reason:
        case "age":
            assert now_s and candidate.ended_s is not None and limits.keep_days
            assert now_s - candidate.ended_s > limits.keep_days * DAY
        case "size":
            assert room.recordings_mb is not None and room.recordings_mb > limits.total_mb > 0
        case "space":
            assert room.free_mb is not None and room.free_mb < limits.free_mb
        case None:
            pass


def test_how_long_the_disk_lasts() -> None:
    assert days_left(1050, 100, 50) == 10
    assert days_left(10, 100, 50) == 0
    assert days_left(None, 100, 50) is days_left(1000, 0, 50) is days_left(1000, None, 50) is None


# -- what is done

_SHOPS: list[Shop] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _SHOPS:
        _SHOPS.pop().store.close()


class Shop:
    """A store with calls of a day each, the first the oldest, each with a recording of a megabyte."""

    def __init__(self, work: Path, count: int, **chosen: Any) -> None:
        self.data, self.now_s, self.state = work, NOW_S, "ntp"
        self.open()
        _SHOPS.append(self)
        self.calls = [self._file(number, count) for number in range(count)]
        self.deliver()
        self.settings = RetentionSettings(**chosen)
        self.retention = Retention(self.settings, work, self.store)

    def open(self) -> None:
        self.store = CallStore(self.data / "store", "s", sinks=[Sink(name="main")], read_clock=self.clock, boot_id="b")

    def clock(self) -> ClockRead:
        state: Any = self.state
        return ClockRead(mono_ns=round((self.now_s - NOW_S + 1e7) * S), wall_ns=round(self.now_s * S), state=state)

    def _file(self, number: int, count: int) -> str:
        call_id = f"01900000-0000-7000-8000-{number:012x}"
        path = self.data / "recordings" / "2026-11" / f"{call_id}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1_000_000))
        ended = self.clock().mono_ns - (count - number) * DAY * S + 21_600 * S
        recording = Recording(
            path=str(path.relative_to(self.data)),
            from_ns=ended - 30 * S,
            frames=240_000,
            rate_hz=8000,
            size_bytes=1_000_000,
            sha256="0" * 64,
            root="1" * 64,
        )
        call = Call(
            call_id=call_id,
            line=1,
            direction="incoming",
            boot_id="b",
            clock=self.clock(),
            opened_ns=ended - 40 * S,
            answered_ns=ended - 30 * S,
            ended_ns=ended,
            outcome="answered",
            caller=Caller(presentation="allowed", reason=None, number="+81300001234", raw="0300001234"),
            recording=recording,
            no_recording=None,
        )
        self.store.commit(call, [call_event("call.ended", call, ended), call_event("recording.ready", call, ended)])
        return call_id

    def deliver(self) -> None:
        while entries := self.store.pending(100, "main"):
            for entry in entries:
                self.store.mark(entry.stream, entry.sequence, "accepted", "main")

    def tick(self, times: int = 40) -> list[int]:
        """Which calls still have a file, by number."""
        for _ in range(times):
            self.now_s += 1
            self.retention.tick()
            self.deliver()
        return self.left()

    def left(self) -> list[int]:
        return sorted(int(path.name[24:36], 16) for path in (self.data / "recordings").glob("*/*.flac"))

    def told(self, type_: str) -> list[dict[str, Any]]:
        return [each for each in self.store.events() if each["type"] == type_]

    def later(self, days: float) -> None:
        self.now_s += days * DAY


def test_without_a_limit_nothing_ever_goes(tmp_path: Path) -> None:
    shop = Shop(tmp_path, 5)
    shop.later(10_000)
    assert shop.tick() == [0, 1, 2, 3, 4] and not shop.told("retention.warning")


def test_what_is_too_old_goes_and_its_record_says_so(tmp_path: Path) -> None:
    shop = Shop(tmp_path, 6, keep_days=4, warn_days=0)
    assert shop.tick() == [2, 3, 4, 5]
    gone = shop.store.get(shop.calls[0])
    assert gone and gone.recording and gone.recording.deleted
    assert (gone.recording.deleted.why, gone.recording.deleted.by) == ("age", "retention")
    assert gone.recording.sha256 == "0" * 64, "what it was can still be proved"
    told = shop.told("recording.deleted")
    assert [each["subject"] for each in told] == shop.calls[:2]
    assert told[0]["data"]["reason"] == "age" and told[0]["data"]["caller"] is None
    assert "0300001234" not in json.dumps(told)


@pytest.mark.parametrize(("chosen", "left"), [({"total_mb": 3}, [3, 4, 5]), ({"total_mb": 100}, [0, 1, 2, 3, 4, 5])])
def test_the_oldest_go_until_the_rest_is_small_enough(tmp_path: Path, chosen: dict[str, int], left: list[int]) -> None:
    shop = Shop(tmp_path, 6, **chosen)
    assert shop.tick() == left


def test_the_oldest_make_room_on_a_disk_that_fills_up(tmp_path: Path, mocker: MockerFixture) -> None:
    shop = Shop(tmp_path, 6, free_mb=1000)
    mocker.patch("firmware.retention.disk_free_mb", side_effect=lambda data: 1004 - len(shop.left()))
    assert shop.tick() == [2, 3, 4, 5]


def test_held_and_undelivered_ones_stay_until_they_are_free(tmp_path: Path) -> None:
    shop = Shop(tmp_path, 6, keep_days=2, warn_days=0)
    shop.store.hold(shop.calls[1], "a dispute", "owner")
    assert shop.tick() == [1, 4, 5]
    shop.store.release(shop.calls[1])
    assert shop.tick() == [1, 4, 5], "it is looked at again within the hour"
    shop.now_s += 3601
    assert shop.tick() == [4, 5]


def test_a_receiver_that_is_away_keeps_what_it_has_not_got(tmp_path: Path) -> None:
    shop = Shop(tmp_path, 4, keep_days=2, warn_days=0)
    shop.store.close()
    shop.open()
    call = shop.store.get(shop.calls[3])
    assert call
    shop.store.commit(call, [replace(call_event("recording.ready", call, 0), time="1990-01-01T00:00:00.000Z")])
    shop.retention = Retention(shop.settings, tmp_path, shop.store)
    for _ in range(10):
        shop.now_s += 1
        shop.retention.tick()
    assert shop.left() == [0, 1, 2, 3]
    shop.deliver()
    shop.now_s += 3601
    assert shop.tick() == [2, 3]


def test_a_clock_that_is_not_set_makes_nothing_old(tmp_path: Path) -> None:
    shop = Shop(tmp_path, 4, keep_days=1, warn_days=0)
    shop.state = "unsynced"
    assert shop.tick() == [0, 1, 2, 3]
    shop.state = "ntp"
    shop.now_s += 3601
    assert shop.tick() == [3]


def test_the_record_goes_too_where_that_is_chosen(tmp_path: Path) -> None:
    shop = Shop(tmp_path, 4, keep_days=2, warn_days=0, records=True)
    assert shop.tick() == [2, 3]
    assert [call["call_id"] for call in shop.store.calls()] == shop.calls[2:]
    assert [each["reason"] for each in shop.store.tombstones()] == ["age", "age"]
    assert [each["subject"] for each in shop.told("recording.deleted")] == shop.calls[:2]
    assert not [each for each in shop.told("call.ended") if each["subject"] in shop.calls[:2]]


def test_a_power_cut_between_word_and_deed_is_made_good(tmp_path: Path, mocker: MockerFixture) -> None:
    shop = Shop(tmp_path, 3, keep_days=1, warn_days=0)
    mocker.patch.object(Retention, "_remove_files", side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        shop.tick()
    mocker.stopall()
    assert shop.left() == [0, 1, 2] and len(shop.told("recording.deleted")) == 1
    shop.store.close()
    shop.open()
    shop.retention = Retention(shop.settings, tmp_path, shop.store)
    shop.retention.start()
    assert shop.left() == [1, 2]
    assert shop.tick() == [2] and len(shop.told("recording.deleted")) == 2


def test_a_warning_comes_once_a_day_before_recordings_go(tmp_path: Path) -> None:
    shop = Shop(tmp_path, 6, keep_days=7, warn_days=3)
    shop.tick(5)
    (told,) = shop.told("retention.warning")
    assert told["data"] == {"recordings": 2, "within_days": 3, "keep_days": 7, "clock": "ntp"}
    shop.later(0.5)
    shop.tick(5)
    assert len(shop.told("retention.warning")) == 1
    shop.later(0.6)
    shop.tick(5)
    assert [each["data"]["recordings"] for each in shop.told("retention.warning")] == [2, 3]
    assert shop.left() == [0, 1, 2, 3, 4, 5]


def test_days_left_are_those_of_the_last_week_and_nobody_s_where_the_oldest_make_room(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    shop = Shop(tmp_path, 7)
    mocker.patch("firmware.retention.disk_free_mb", return_value=60)
    mocker.patch.object(shop, "clock", shop.clock)
    shop.now_s = Path(tmp_path / "recordings" / "2026-11").stat().st_mtime
    shop.tick(3)
    assert shop.retention.days_left == 10  # 7 MB in a week; 50 MB are kept free for the records
    assert Retention(RetentionSettings(total_mb=5), tmp_path, shop.store).days_left is None
