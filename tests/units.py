"""A unit without line and devices, in this process: its store, its loop and its brokers."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from firmware.app import Unit
from firmware.clock import uuid7
from firmware.core.call import Call, ClockRead, event
from firmware.core.caller import Caller
from firmware.core.line import SaveCall
from firmware.settings import BrokerSettings, LineSettings, Settings, UnitSettings
from hw import board

BRANCH = "tsuroku/v1/shop/unit-1"


def settings(data: Path, *brokers: BrokerSettings, **more: Any) -> Settings:
    """Of unit-1 at site shop, with one line."""
    return Settings(
        unit=UnitSettings(site="shop", unit="unit-1", data_dir=data),
        line=(LineSettings(number=1, codec="linetap"),),
        broker=brokers,
        **more,
    )


def at(port: int, **more: Any) -> BrokerSettings:
    return BrokerSettings(host="127.0.0.1", port=port, tls=False, **more)


def set_clock() -> ClockRead:
    """As on a unit that has found a time server; the machine that runs this may have none."""
    return ClockRead(mono_ns=time.monotonic_ns(), wall_ns=time.time_ns(), state="ntp")


class Running:
    """A unit at work, its loop on a thread of its own. do() has work done there."""

    def __init__(
        self,
        chosen: Settings,
        clock: Callable[[], ClockRead] = set_clock,
        filed: Settings | None = None,
        copy_by: Sequence[str] = (),
    ) -> None:
        self.unit = Unit(chosen, board.load("line-tap-1"), read_clock=clock, filed=filed)
        self._todo: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self.unit.copies_by(copy_by)
        self.unit.start([], None)
        self.unit.engine.every(0.01, self._work)
        self._loop = threading.Thread(target=self.unit.run, name="loop", daemon=True)
        self._loop.start()

    def _work(self) -> None:
        while True:
            try:
                work = self._todo.get_nowait()
            except queue.Empty:
                return
            work()

    def do(self, work: Callable[[], None]) -> None:
        """On the loop's thread; returns when it is done. Raises what it raised."""
        done: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

        def guarded() -> None:
            try:
                work()
                done.put(None)
            except Exception as error:  # noqa: BLE001  it is raised again, where it can be seen
                done.put(error)

        self._todo.put(guarded)
        failed = done.get(timeout=20)
        if failed:
            raise failed

    def missed(self, who: str | None = "+81300001234") -> str:
        """File a missed call as a line does. Returns its id; it is on the disk then."""
        saves = self.call(who)
        for save in saves:
            self.do(lambda save=save: self.unit._execute(save))  # type: ignore[misc]
        return saves[0].call.call_id

    def call(self, who: str | None = "+81300001234") -> list[SaveCall]:
        """What a line gives out for a missed call."""
        read = self.unit.store.read_clock()
        caller = Caller()
        if who:
            caller = Caller(presentation="allowed", reason=None, number=who, raw=who, name="ヤマダ")
        opened = Call(
            call_id=uuid7(read.wall_ns // 1_000_000, next(self._numbers).to_bytes(10, "big")),
            line=1,
            direction="incoming",
            boot_id=self.unit.boot_id,
            clock=read,
            opened_ns=read.mono_ns,
            caller=caller,
        )
        ended = replace(opened, outcome="missed", ended_ns=read.mono_ns, no_recording="not_answered")
        return [
            SaveCall(call=opened, events=(event("call.ringing", opened, read.mono_ns),)),
            SaveCall(call=ended, events=(event("call.missed", ended, read.mono_ns),)),
        ]

    def replay(self, low: int, high: int) -> None:
        """Have call events published once more, as a consumer may ask."""

        def ask() -> None:
            assert self.unit.replay("main", "call", low, high)

        self.do(ask)

    def close(self) -> None:
        self.unit.engine.stop()
        self._loop.join(10)
        self.unit.close()


@contextmanager
def running(
    chosen: Settings,
    clock: Callable[[], ClockRead] = set_clock,
    filed: Settings | None = None,
    copy_by: Sequence[str] = (),
) -> Iterator[Running]:
    shop = Running(chosen, clock, filed, copy_by)
    try:
        yield shop
    finally:
        shop.close()
