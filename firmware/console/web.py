"""The console put together: Starlette, its routes, the headers of every answer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from firmware.console.api import Api
from firmware.console.desk import Desk
from firmware.console.door import Door, who
from firmware.console.live import Live
from firmware.console.pages import Pages
from firmware.console.people import People
from firmware.console.words import Language
from firmware.records.store import StoreError

_THREADS = 12  # that read, ask and draw; one at a time reads the store
_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Strict-Transport-Security": "max-age=31536000",
}


class Console:
    """One unit's console. data: its data folder; the recorder may run, or not. crm_url: [console] crm_url."""

    def __init__(self, data: Path, crm_url: str | None = None) -> None:
        self.people = People(data / "console")
        self._desk = Desk(data)
        self._live = Live(data, self._desk, functools.partial(self._popup, crm_url))
        self._door = Door(self.people, self._desk, lambda: self._live.away)

    def _popup(self, crm_url: str | None, language: Language, about: Mapping[str, Any]) -> str:
        them = who({**about["data"], "contact": about["contact"]}, language)
        link = None
        if crm_url and them["number"]:
            national = "".join(c for c in them["shown"] if c.isdigit() or c == "-")
            link = crm_url.replace("{number}", them["number"].replace("+", "%2B")).replace("{national}", national)
        return self._door.drawn("popup.html", language, **about, them=them, crm=link)

    def app(self) -> Starlette:
        pages = Pages(self._door, self._desk, self._live)
        api = Api(self.people, self._desk, self._live)
        static = Mount("/static", StaticFiles(directory=_STATIC))
        routes = [*pages.routes(), *self._door.routes(), *api.routes(), static]
        handlers: Any = {404: self._missing, 405: self._missing}
        app = Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=handlers)
        app.add_middleware(_Headers)
        return app

    async def _missing(self, request: Request, error: Any) -> Response:
        return self._door.sentence(request, error.status_code, "not_found")

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = _THREADS
        tasks = [asyncio.create_task(self._live.follow()), asyncio.create_task(run_in_threadpool(self._warm_up))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    def _warm_up(self) -> None:
        """Years of calls take seconds to read: not when somebody searches for the first time."""
        with contextlib.suppress(StoreError), self._desk.reading():
            pass


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
                if scope["path"].startswith("/s/"):
                    own["referrer-policy"] = "no-referrer"  # the address lets whoever has it in
                kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in own]
                message["headers"] = kept + [(name.encode(), value.encode()) for name, value in own.items()]
            await send(message)

        await self._app(scope, receive, sent if scope["type"] == "http" else send)
