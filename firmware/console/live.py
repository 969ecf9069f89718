"""What happens now, from the unit's feed to every open tab."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from firmware.console.desk import Desk, DeskError
from firmware.console.words import Language
from firmware.feed import NAME as FEED
from firmware.local_api import address_below
from firmware.records.store import StoreError

log = logging.getLogger(__name__)

_MOST_TABS = 200
_UP = ("ringing", "cid_handshake", "dialling", "in_call", "flash")
_WHO = ("call.ringing", "call.caller_id", "call.dialled", "call.answered")
_PEAKS_S = 0.2

# Draws what a tab shows of a call under way: line, its event's data, what the desk knows of the caller.
Draw = Callable[[Language, Mapping[str, Any]], str]


class Live:
    """Thread: the event loop's."""

    def __init__(self, data: Path, desk: Desk, draw: Draw) -> None:
        self._data, self._desk, self._draw = data, desk, draw
        self._tabs: set[asyncio.Queue[str]] = set()
        self.states: dict[str, Any] = {}  # by topic, as the unit shows them now
        self.away = True
        self._calls: dict[int, dict[str, Any]] = {}  # by line, what is shown of the call under way
        self._peaks: tuple[float, dict[str, int]] = (0.0, {})

    @property
    def lines(self) -> dict[str, dict[str, Any]]:
        """What each line does now."""
        return {topic.rpartition("/")[2]: told for topic, told in self.states.items() if "state/line/" in topic}

    async def tab(self, lasts: Callable[[], bool]) -> AsyncIterator[str]:
        """Server-sent events for one tab, while its session lasts. Raises DeskError where there are too many."""
        if len(self._tabs) >= _MOST_TABS:
            raise DeskError(503, "too_many_tabs")
        queue: asyncio.Queue[str] = asyncio.Queue(100)
        self._tabs.add(queue)
        return self._told(queue, lasts)

    async def _told(self, queue: asyncio.Queue[str], lasts: Callable[[], bool]) -> AsyncIterator[str]:
        try:
            yield ": here\n\n"
            for shown in list(self._calls.values()):
                yield f"data: {json.dumps(shown, ensure_ascii=False)}\n\n"
            while lasts():
                try:
                    told = f"data: {await asyncio.wait_for(queue.get(), 20)}\n\n"
                except TimeoutError:
                    told = ": still here\n\n"
                if lasts():
                    yield told
        finally:
            self._tabs.discard(queue)

    async def follow(self) -> None:
        """Read what the unit says, for ever; again and again while it is away."""
        while True:
            try:
                with address_below(self._data, FEED) as address:
                    reader, writer = await asyncio.open_unix_connection(address, limit=1 << 20)
                try:
                    self.away = False
                    while line := await reader.readline():
                        await self._heard(json.loads(line))
                finally:
                    writer.close()
            except OSError:
                pass
            except Exception:
                log.exception("event=feed_not_understood")
            if not self.away:
                self.states.clear()
                self._calls.clear()
                self._send({"away": True})
            self.away = True
            await asyncio.sleep(1)

    async def _heard(self, said: dict[str, Any]) -> None:
        if "topic" in said:
            before = self.states.get(said["topic"])
            if before == said["payload"]:
                return
            self.states[said["topic"]] = said["payload"]
            if before and any(before.get(key) != said["payload"].get(key) for key in ("alarms", "faults")):
                self._send({"happened": said["topic"]})
            if not said["topic"].startswith("state/line/"):
                return
            line = int(said["topic"].rpartition("/")[2])
            state = said["payload"]["state"]
            if state not in _UP:
                self._calls.pop(line, None)
            self._send({"line": line, "state": state})
        elif said["event"] in _WHO:
            await self._call(said)
        elif said["event"] in ("call.ended", "call.missed", "callback.due", "callback.done", "recording.ready"):
            self._send({"happened": said["event"]})

    async def _call(self, said: Mapping[str, Any]) -> None:
        data = said["data"]
        who = (data["dialled"] if data["direction"] == "outgoing" else data["caller"]) or {}
        try:
            known = await run_in_threadpool(self._desk.ringing, who.get("number"))
        except (StoreError, DeskError) as error:
            log.warning("event=caller_not_looked_up reason=%s", error)
            known = {"contact": None, "last": [], "note": None}
        about = {"line": data["line"], "call_id": said["subject"], "event": said["event"], "data": data, **known}
        drawn = {language: self._draw(language, about) for language in ("ja", "en")}
        rings = said["event"] in ("call.ringing", "call.caller_id")
        shown = {"line": data["line"], "call_id": said["subject"], "rings": rings, "html": drawn}
        self._calls[data["line"]] = shown
        self._send(shown)

    def _send(self, said: Mapping[str, Any]) -> None:
        text = json.dumps(said, ensure_ascii=False)
        for tab in self._tabs:
            with contextlib.suppress(asyncio.QueueFull):  # it is asleep; it reads the page anew when it wakes
                tab.put_nowait(text)

    async def peaks(self, who: str) -> dict[str, int]:
        """By line, the loudest sample of the last moment; asked for once, however many look."""
        now = time.monotonic()
        if now - self._peaks[0] > _PEAKS_S:
            self._peaks = now, self._peaks[1]
            told = await run_in_threadpool(self._desk.ask, {"do": "peaks"}, who)
            self._peaks = now, told["peaks"]
        return self._peaks[1]
