"""The console's pages. Everything works without JavaScript but what is live: the pop-up, the player's extra keys."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from firmware.console.index import CallIndex
from firmware.console.people import RIGHTS, SHORTEST_PASSWORD, People, PeopleError, Person, Right
from firmware.console.words import Language, say
from firmware.core.numbers import national
from firmware.feed import NAME as FEED
from firmware.local_api import LocalError, address_below, ask
from firmware.recording.levels import peaks_of
from firmware.records.store import CallReader, StoreError

log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_COOKIE, _LANGUAGE = "__Host-tsuroku", "tsuroku-language"
_PAGE = 50
_COLUMNS = 400  # of a waveform
_SEALED = ".sealed"
_MOST_FORM = 1 << 16
_MOST_TABS = 200
_KINDS = ("missed", "answered", "outgoing_answered", "outgoing_unanswered", "fax", "imported")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Strict-Transport-Security": "max-age=31536000",
}


class _Refused(Exception):
    """Somebody may not, or gave something wrong. key: of the sentence."""

    def __init__(self, status: int, key: str) -> None:
        super().__init__(key)
        self.status, self.key = status, key


Page = Callable[[Request], Awaitable[Response]]


class Console:
    """One unit's console. data: its data folder; the recorder may run, or not."""

    def __init__(self, data: Path, people: People | None = None) -> None:
        self._data, self.people = data, people or People(data / "console")
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._index = CallIndex()
        self._tabs: set[asyncio.Queue[str]] = set()
        self._states: dict[str, Any] = {}  # by topic, as the unit shows them now
        self._away = True
        self._alone = asyncio.Lock()  # one at a time may change or guess at accounts: hashing takes time and memory
        self._opened: set[tuple[str, str]] = set()  # by session and call: whose sound was fetched

    def app(self) -> Starlette:
        routes = [
            Route("/", self._page(self._today)),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/set-up", self._set_up, methods=["GET", "POST"]),
            Route("/logout", self._page(self._log_out), methods=["POST"]),
            Route("/language", self._switch, methods=["POST"]),
            Route("/calls", self._page(self._calls, "see")),
            Route("/calls/{call_id}", self._page(self._call, "see")),
            Route("/calls/{call_id}/sound", self._page(self._sound, "listen")),
            Route("/calls/{call_id}/download", self._page(self._download, "download")),
            Route("/calls/{call_id}/played", self._page(self._played, "listen"), methods=["POST"]),
            Route("/calls/{call_id}/done", self._page(self._done, "see"), methods=["POST"]),
            Route("/people", self._page(self._people, "people"), methods=["GET", "POST"]),
            Route("/listened", self._page(self._listened, "log")),
            Route("/live", self._page(self._live, "see")),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
        ]
        app = Starlette(
            routes=routes, lifespan=self._lifespan, exception_handlers={404: self._missing, _Refused: self._refused}
        )
        app.add_middleware(_Headers)
        return app

    # -- every page

    def _page(self, page: Page, right: Right | None = None) -> Page:
        """For those who are logged in and have the right; what changes something must carry the session's token."""

        async def shown(request: Request) -> Response:
            found = self.people.session(request.cookies.get(_COOKIE))
            if found is None:
                return RedirectResponse("/set-up" if self.people.code() else "/login", 303)
            request.state.person, request.state.csrf = found
            request.state.sentence = None
            try:
                if right and not request.state.person.may(right):
                    raise _Refused(403, "not_allowed")
                if request.method == "POST":
                    request.state.form = await _form(request)
                    if not secrets.compare_digest(request.state.form.get("csrf", "").encode(), found[1].encode()):
                        raise _Refused(403, "form_old")
                return await page(request)
            except StoreError as error:
                log.error("event=store_unreadable reason=%s", error)
                return self._shown(request, "sentence.html", 503, sentence="unit_away")

        return shown

    def _shown(self, request: Request, page: str, status: int = 200, **more: Any) -> HTMLResponse:
        language = _language(request)
        person: Person | None = getattr(request.state, "person", None)

        def t(key: str, **detail: object) -> str:
            return say(key, language, **detail)

        text = self._templates.get_template(page).render(
            t=t,
            language=language,
            person=person,
            csrf=getattr(request.state, "csrf", ""),
            path=request.url.path,
            away=self._away,
            who=lambda call: _who(call, language),
            clock=lambda iso: _local(iso),
            **more,
        )
        return HTMLResponse(text, status)

    async def _refused(self, request: Request, refused: Any) -> Response:
        return self._shown(request, "sentence.html", refused.status, sentence=refused.key)

    async def _missing(self, request: Request, _error: Exception) -> Response:
        return self._shown(request, "sentence.html", 404, sentence="not_found")

    # -- coming in and going out

    async def _login(self, request: Request) -> Response:
        if self.people.code():
            return RedirectResponse("/set-up", 303)
        if request.method == "GET":
            return self._shown(request, "login.html", wrong=None, name="")
        form = await _form(request)
        name = form.get("name", "")
        try:
            token, _ = await self._of_people(self.people.log_in, name, form.get("password", ""))
        except PeopleError as error:
            wrong = say(error.key, _language(request), **error.detail)
            return self._shown(request, "login.html", 403, wrong=wrong, name=name)
        return _with_session(RedirectResponse("/", 303), token)

    async def _set_up(self, request: Request) -> Response:
        if not self.people.code():
            return RedirectResponse("/login", 303)
        if request.method == "GET":
            return self._shown(request, "set-up.html", wrong=None, name="", least=SHORTEST_PASSWORD)
        form = await _form(request)
        name, password = form.get("name", ""), form.get("password", "")
        try:
            await self._of_people(self.people.set_up, form.get("code", ""), name, password)
            token, _ = await self._of_people(self.people.log_in, name, password)
        except PeopleError as error:
            wrong = say(error.key, _language(request), **error.detail)
            return self._shown(request, "set-up.html", 403, wrong=wrong, name=name, least=SHORTEST_PASSWORD)
        return _with_session(RedirectResponse("/", 303), token)

    async def _log_out(self, request: Request) -> Response:
        self.people.log_out(request.cookies.get(_COOKIE))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(_COOKIE, secure=True, httponly=True, samesite="strict")
        return answer

    async def _switch(self, request: Request) -> Response:
        form = await _form(request)
        back = form.get("path", "/")
        answer = RedirectResponse(back if back.startswith("/") and not back.startswith("//") else "/", 303)
        other = "en" if _language(request) == "ja" else "ja"
        answer.set_cookie(_LANGUAGE, other, max_age=365 * 86_400, secure=True, samesite="strict")
        return answer

    # -- today

    async def _today(self, request: Request) -> Response:
        if not request.state.person.may("see"):
            return RedirectResponse("/listened" if request.state.person.may("log") else "/people", 303)

        def read() -> dict[str, Any]:
            with self._reader() as reader:
                kept = reader.note("callbacks") or []
                waiting = [(each, call.to_dict()) for each in kept if (call := reader.get(each["call_id"]))]
                return {"waiting": waiting[::-1], "last": list(islice(reader.newest(), 10))}

        shown = await run_in_threadpool(read)
        lines = {topic.rpartition("/")[2]: state for topic, state in self._states.items() if "state/line/" in topic}
        alarms = self._states.get("state/health", {}).get("alarms", [])
        return self._shown(request, "today.html", **shown, lines=lines, alarms=alarms)

    async def _done(self, request: Request) -> Response:
        await self._ask({"do": "callback_done", "call_id": request.path_params["call_id"], "who": self._who(request)})
        return RedirectResponse("/", 303)

    # -- calls

    async def _calls(self, request: Request) -> Response:
        digits = "".join(c for c in request.query_params.get("number", "")[:40] if c.isdigit())
        kind = request.query_params.get("kind", "")
        first = request.query_params.get("from", "0")
        start = int(first) if first.isascii() and first.isdigit() and len(first) < 8 else 0

        def read() -> list[dict[str, Any]]:
            with self._reader() as reader:
                return self._index.find(reader, digits, kind if kind in _KINDS else "", start, _PAGE + 1)

        found = await run_in_threadpool(read)
        older = None
        if len(found) > _PAGE:
            older = "/calls?" + urlencode({"number": digits, "kind": kind, "from": start + _PAGE})
        shown: dict[str, Any] = {
            "found": found[:_PAGE],
            "number": digits,
            "kind": kind,
            "kinds": _KINDS,
            "older": older,
        }
        return self._shown(request, "calls.html", **shown)

    async def _call(self, request: Request) -> Response:
        call, path = await self._found(request)
        person: Person = request.state.person
        peaks = None
        playable = path is not None and path.suffix != _SEALED and not call["imported"]
        if path and playable and person.may("listen"):
            peaks = await run_in_threadpool(_peaks, path)
        await self._note(request, "viewed", call["call_id"])
        sealed = path is not None and path.suffix == _SEALED
        return self._shown(request, "call.html", call=call, peaks=peaks, sealed=sealed, playable=playable)

    async def _sound(self, request: Request) -> Response:
        call, path = await self._found(request)
        if path is None or path.suffix == _SEALED:
            raise _Refused(404, "no_recording")
        seen = request.state.csrf, call["call_id"]
        if seen not in self._opened:  # a player fetches it in parts
            await self._note(request, "opened", call["call_id"])
            self._opened.add(seen)
        return FileResponse(path, media_type="audio/flac" if path.suffix == ".flac" else None)

    async def _download(self, request: Request) -> Response:
        call, path = await self._found(request)
        if path is None:
            raise _Refused(404, "no_recording")
        await self._note(request, "downloaded", call["call_id"])
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    async def _played(self, request: Request) -> Response:
        """What the player says that was heard, in whole seconds."""
        call, _ = await self._found(request)
        form = request.state.form
        first, last = form.get("from", ""), form.get("to", "")
        if not (first.isdigit() and last.isdigit() and len(first) < 7 and len(last) < 7 and int(first) < int(last)):
            raise _Refused(400, "form_old")
        await self._note(request, "played", call["call_id"], from_s=int(first), to_s=int(last))
        return JSONResponse({})

    async def _found(self, request: Request) -> tuple[dict[str, Any], Path | None]:
        """A call and its recording. The path stands in the record alone: no part of it comes from the browser."""

        def read() -> dict[str, Any] | None:
            with self._reader() as reader:
                call = reader.get(request.path_params["call_id"].lower()[:36])
                return call.to_dict() if call else None

        call = await run_in_threadpool(read)
        if call is None:
            raise _Refused(404, "not_found")
        recording = call["recording"]
        path = self._data / recording["path"] if recording and not recording["deleted"] else None
        return call, path if path and path.exists() else None

    # -- people, and who listened

    async def _people(self, request: Request) -> Response:
        wrong = None
        if request.method == "POST":
            form = request.state.form
            try:
                if "remove" in form:
                    await self._of_people(self.people.remove, form["remove"])
                    await self._note(request, "person_removed", None, name=form["remove"][:40])
                elif form.get("role") in RIGHTS:
                    name, role = form.get("name", ""), form["role"]
                    await self._of_people(self.people.add, name, form.get("password", ""), role)
                    await self._note(request, "person_added", None, name=name[:40], role=role)
                return RedirectResponse("/people", 303)
            except PeopleError as error:
                wrong = say(error.key, _language(request), **error.detail)
        shown = {"everybody": self.people.all(), "roles": list(RIGHTS), "wrong": wrong, "least": SHORTEST_PASSWORD}
        return self._shown(request, "people.html", 400 if wrong else 200, **shown)

    async def _listened(self, request: Request) -> Response:
        def read() -> list[dict[str, Any]]:
            with self._reader() as reader:
                said = [event for event in reader.events(("audit",)) if event["type"] == "access.done"]
            return said[:-201:-1]

        return self._shown(request, "listened.html", said=await run_in_threadpool(read))

    # -- what is live

    async def _live(self, request: Request) -> Response:
        if len(self._tabs) >= _MOST_TABS:
            raise _Refused(503, "unit_away")
        tab: asyncio.Queue[str] = asyncio.Queue(100)
        self._tabs.add(tab)

        async def lines() -> AsyncIterator[str]:
            try:
                yield ": here\n\n"
                while True:
                    try:
                        yield f"data: {await asyncio.wait_for(tab.get(), 20)}\n\n"
                    except TimeoutError:
                        yield ": still here\n\n"
            finally:
                self._tabs.discard(tab)

        return StreamingResponse(lines(), media_type="text/event-stream")

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._follow()), asyncio.create_task(run_in_threadpool(self._warm_up))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    def _warm_up(self) -> None:
        """Years of calls take seconds to read: not when somebody searches for the first time."""
        with contextlib.suppress(StoreError), self._reader() as reader:
            self._index.find(reader, "", "", 0, 0)

    async def _follow(self) -> None:
        """Read what the unit says, for ever; again and again while it is away."""
        while True:
            try:
                with address_below(self._data, FEED) as address:
                    reader, writer = await asyncio.open_unix_connection(address, limit=1 << 20)
                try:
                    self._away = False
                    while line := await reader.readline():
                        self._heard(line)
                finally:
                    writer.close()
            except (OSError, ValueError):
                pass
            if not self._away:
                self._states.clear()
                self._send({"away": True})
            self._away = True
            await asyncio.sleep(1)

    def _heard(self, line: bytes) -> None:
        said = json.loads(line)
        if "topic" in said:
            if self._states.get(said["topic"]) == said["payload"]:
                return
            self._states[said["topic"]] = said["payload"]
            if not said["topic"].startswith("state/line/"):
                return
        self._send(said)

    def _send(self, said: Mapping[str, Any]) -> None:
        text = json.dumps(said, ensure_ascii=False)
        for tab in self._tabs:
            with contextlib.suppress(asyncio.QueueFull):  # it is asleep; it reads the page anew when it wakes
                tab.put_nowait(text)

    # -- the unit

    @contextlib.contextmanager
    def _reader(self) -> Any:
        reader = CallReader(self._data / "store")
        try:
            yield reader
        finally:
            reader.close()

    async def _ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return await run_in_threadpool(ask, self._data, request)
        except LocalError as error:
            log.warning("event=unit_not_asked reason=%s", error)
            raise _Refused(503, "unit_away") from error

    async def _note(self, request: Request, what: str, call_id: str | None, **more: Any) -> None:
        """Write down who did it, in the store's own log, before it is done. Where nobody can, it is not done."""
        said = {"do": "note_access", "what": what, "call_id": call_id, "who": self._who(request), **more}
        await self._ask(said)

    async def _of_people(self, work: Callable[..., Any], *arguments: Any) -> Any:
        async with self._alone:
            return await run_in_threadpool(work, *arguments)

    @staticmethod
    def _who(request: Request) -> str:
        return str(request.state.person.name)


class _Headers:
    """On every answer, whoever makes it."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower(): value for name, value in _HEADERS.items()}
                if scope["path"].startswith("/static/"):
                    own["cache-control"] = "public, max-age=3600"
                kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in own]
                message["headers"] = kept + [(name.encode(), value.encode()) for name, value in own.items()]
            await send(message)

        await self._app(scope, receive, sent if scope["type"] == "http" else send)


def _with_session(answer: Response, token: str) -> Response:
    answer.set_cookie(_COOKIE, token, secure=True, httponly=True, samesite="strict", path="/")
    return answer


async def _form(request: Request) -> dict[str, str]:
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > _MOST_FORM:
        raise _Refused(413, "form_old")
    async with request.form(max_files=0, max_fields=20) as form:
        return {key: value for key, value in form.items() if isinstance(value, str)}


def _language(request: Request) -> Language:
    chosen = request.cookies.get(_LANGUAGE)
    if chosen in ("ja", "en"):
        return chosen  # type: ignore[return-value]
    wanted = request.headers.get("accept-language", "ja").lower()
    return "en" if wanted.startswith("en") else "ja"


def _who(call: Mapping[str, Any], language: Language) -> dict[str, str | None]:
    """The other end: what is shown, his number for tel:, his region."""
    caller, dialled = call["caller"], call["dialled"]
    if call["direction"] == "outgoing":
        number = dialled and dialled["number"]
        shown = (national(number) or dialled["digits"] or dialled["raw"]) if dialled else say("nobody", language)
        return {"shown": shown, "number": number, "region": None, "name": None}
    known = caller["presentation"] if caller["presentation"] in ("withheld", "payphone", "unavailable") else "nobody"
    shown = caller["national"] or caller["raw"] or say(known, language)
    region = caller["region_en" if language == "en" else "region_ja"]
    return {"shown": shown, "number": caller["number"], "region": region, "name": caller["name"]}


def _local(iso: str | None) -> str:
    if iso is None:
        return ""
    at = datetime.fromisoformat(iso).astimezone()
    today = datetime.now(UTC).astimezone().date()
    return f"{at:%H:%M}" if at.date() == today else f"{at:%Y-%m-%d %H:%M}"


def _peaks(path: Path) -> list[int]:
    """0 to 100 by column, of a decibel scale."""
    peaks, _ = peaks_of(path, _COLUMNS)
    db = 20 * np.log10(np.maximum(np.array(peaks), 1) / 32768)
    return [int(level) for level in np.clip((db + 50) * 2, 0, 100)]
