"""Who comes in: sessions, forms with their token, languages, and the pages of people themselves."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from firmware.console.desk import Desk, DeskError
from firmware.console.passkeys import Passkeys
from firmware.console.people import RIGHTS, SHORTEST_PASSWORD, People, PeopleError, Right
from firmware.console.words import Language, say
from firmware.core.numbers import national
from firmware.records.store import StoreError

log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_COOKIE, _LANGUAGE = "__Host-tsuroku", "tsuroku-language"
_MOST_FORM = 1 << 16
_MOST_FILE = 5 << 20

Page = Callable[[Request], Awaitable[Response]]


class Door:
    """away: whether the recorder is, now."""

    def __init__(self, people: People, desk: Desk, away: Callable[[], bool]) -> None:
        self.people, self._desk, self._away = people, desk, away
        self.passkeys = Passkeys(people)
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )

    def lasts(self, request: Request) -> bool:
        """Whether the session that has asked is still one."""
        return self.people.lasts(request.cookies.get(_COOKIE))

    def routes(self) -> list[Route]:
        return [
            Route("/login", self.guarded(self._login), methods=["GET", "POST"]),
            Route("/set-up", self.guarded(self._set_up), methods=["GET", "POST"]),
            Route("/logout", self.page(self._log_out), methods=["POST"]),
            Route("/language", self.guarded(self._switch), methods=["POST"]),
            Route("/password", self.page(self._password), methods=["GET", "POST"]),
            Route("/login/passkey/options", self._passkey_asked, methods=["POST"]),
            Route("/login/passkey", self._passkey_shown, methods=["POST"]),
            Route("/passkeys/options", self.page(self._passkey_begun), methods=["POST"]),
            Route("/passkeys", self.page(self._passkey_made), methods=["POST"]),
            Route("/passkeys/remove", self.page(self._passkeys_removed), methods=["POST"]),
            Route("/people", self.page(self._people, "people"), methods=["GET", "POST"]),
        ]

    # -- every page

    def page(self, page: Page, right: Right | None = None, file: bool = False) -> Page:
        """For those who are logged in and have the right; what changes something must carry the session's token.

        file: its form may bring one.
        """

        async def shown(request: Request) -> Response:
            found = self.people.session(request.cookies.get(_COOKIE))
            if found is None:
                return RedirectResponse("/set-up" if self.people.code() else "/login", 303)
            request.state.person, request.state.csrf = found
            if right and not request.state.person.may(right):
                raise DeskError(403, "not_allowed")
            if request.method == "POST":
                request.state.form, request.state.file = await _form(request, file)
                if not secrets.compare_digest(request.state.form.get("csrf", "").encode(), found[1].encode()):
                    raise DeskError(403, "form_old")
            return await page(request)

        return self.guarded(shown)

    def guarded(self, page: Page) -> Page:
        """What goes wrong is a sentence on a page."""

        async def shown(request: Request) -> Response:
            try:
                return await page(request)
            except DeskError as error:
                return self.sentence(request, error.status, error.key, **error.detail)
            except StoreError as error:
                log.error("event=store_unreadable reason=%s", error)
                return self.sentence(request, 503, "unit_away")

        return shown

    def sentence(self, request: Request, status: int, key: str, **detail: object) -> HTMLResponse:
        return self.shown(request, "sentence.html", status, sentence=say(key, language_of(request), **detail))

    def shown(self, request: Request, page: str, status: int = 200, **more: Any) -> HTMLResponse:
        state = request.state
        about = {
            "person": getattr(state, "person", None),
            "csrf": getattr(state, "csrf", ""),
            "path": request.url.path,
            "away": self._away(),
        }
        return HTMLResponse(self.drawn(page, language_of(request), **about, **more), status)

    def drawn(self, page: str, language: Language, **more: Any) -> str:
        """A template in a language."""

        def t(key: str, **detail: object) -> str:
            return say(key, language, **detail)

        template = self._templates.get_template(page)
        return template.render(
            t=t, language=language, who=lambda call: who(call, language), clock=clock, length=length, **more
        )

    async def of_people(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await run_in_threadpool(self.people.alone, work, *arguments)

    async def note(self, request: Request, what: str, subject: str | None, **more: Any) -> None:
        await run_in_threadpool(self._desk.note, who_asks(request), what, subject, **more)

    # -- coming in and going out

    async def _login(self, request: Request) -> Response:
        if self.people.code():
            return RedirectResponse("/set-up", 303)
        if request.method == "GET":
            return self.shown(request, "login.html", wrong=None, name="")
        form, _ = await _form(request)
        name = form.get("name", "")
        try:
            token, _ = await self.of_people(self.people.log_in, name, form.get("password", ""))
        except PeopleError as error:
            wrong = say(error.key, language_of(request), **error.detail)
            return self.shown(request, "login.html", 403, wrong=wrong, name=name)
        return with_session(RedirectResponse("/", 303), token)

    async def _set_up(self, request: Request) -> Response:
        if not self.people.code():
            return RedirectResponse("/login", 303)
        if request.method == "GET":
            return self.shown(request, "set-up.html", wrong=None, name="", least=SHORTEST_PASSWORD)
        form, _ = await _form(request)
        name, password = form.get("name", ""), form.get("password", "")
        try:
            await self.of_people(self.people.set_up, form.get("code", ""), name, password)
            token, _ = await self.of_people(self.people.log_in, name, password)
        except PeopleError as error:
            wrong = say(error.key, language_of(request), **error.detail)
            return self.shown(request, "set-up.html", 403, wrong=wrong, name=name, least=SHORTEST_PASSWORD)
        return with_session(RedirectResponse("/", 303), token)

    async def _log_out(self, request: Request) -> Response:
        self.people.log_out(request.cookies.get(_COOKIE))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(_COOKIE, secure=True, httponly=True, samesite="strict")
        return answer

    async def _switch(self, request: Request) -> Response:
        form, _ = await _form(request)
        back = form.get("path", "/")
        answer = RedirectResponse(back if back.startswith("/") and back[1:2] not in ("/", "\\") else "/", 303)
        other = "en" if language_of(request) == "ja" else "ja"
        answer.set_cookie(_LANGUAGE, other, max_age=365 * 86_400, secure=True, samesite="strict")
        return answer

    async def _password(self, request: Request) -> Response:
        wrong = None
        if request.method == "POST":
            form, person = request.state.form, request.state.person
            try:
                old, new = form.get("old", ""), form.get("password", "")
                await self.of_people(self.people.set_password, person.name, new, old)
                token, _ = await self.of_people(self.people.log_in, person.name, new)
                return with_session(RedirectResponse("/", 303), token)
            except PeopleError as error:
                wrong = say(error.key, language_of(request), **error.detail)
        status = 400 if wrong else 200
        count = len(self.people.passkeys()[request.state.person.name])
        return self.shown(request, "password.html", status, wrong=wrong, least=SHORTEST_PASSWORD, passkeys=count)

    # -- passkeys

    async def _passkey_asked(self, request: Request) -> Response:
        return await self._told(request, self.passkeys.ask)

    async def _passkey_shown(self, request: Request) -> Response:
        try:
            form, _ = await _form(request)
            given = form.get("ticket", ""), form.get("credential", "")
            token = await self.of_people(self.passkeys.log_in, _host(request), *given)
        except (PeopleError, DeskError) as error:
            return JSONResponse({"error": say(error.key, language_of(request), **error.detail)}, 403)
        return with_session(JSONResponse({}), token)

    async def _passkey_begun(self, request: Request) -> Response:
        return await self._told(request, self.passkeys.begin, request.state.person)

    async def _passkey_made(self, request: Request) -> Response:
        form = request.state.form
        given = form.get("ticket", ""), form.get("credential", "")
        await self.note(request, "passkey_added", None, name=who_asks(request))
        return await self._told(request, self.passkeys.complete, request.state.person, *given)

    async def _passkeys_removed(self, request: Request) -> Response:
        await self.note(request, "passkeys_removed", None, name=who_asks(request))
        await self.of_people(self.people.remove_passkeys, who_asks(request))
        return RedirectResponse("/password", 303)

    async def _told(self, request: Request, work: Callable[..., Any], *arguments: Any) -> Response:
        """What a script asks for."""
        try:
            return JSONResponse(await self.of_people(work, _host(request), *arguments) or {})
        except PeopleError as error:
            return JSONResponse({"error": say(error.key, language_of(request), **error.detail)}, 403)

    # -- accounts

    async def _people(self, request: Request) -> Response:
        wrong, key = None, None
        if request.method == "POST":
            try:
                key = await self._change_people(request, request.state.form)
                if key is None:
                    return RedirectResponse("/people", 303)
            except PeopleError as error:
                wrong = say(error.key, language_of(request), **error.detail)
        shown = {
            "everybody": self.people.all(),
            "keys": self.people.keys(),
            "roles": list(RIGHTS),
            "wrong": wrong,
            "key": key,
            "least": SHORTEST_PASSWORD,
        }
        return self.shown(request, "people.html", 400 if wrong else 200, **shown)

    async def _change_people(self, request: Request, form: Mapping[str, str]) -> str | None:
        """Returns the key that was made; it is shown once. First it is written down, then done."""
        name, role = form.get("name", "").strip()[:40], form.get("role", "")
        match form.get("do"):
            case "add" if role in RIGHTS:
                await self.of_people(self.people.add, name, form.get("password", ""), role)
                await self.note(request, "person_added", None, name=name, role=role)
            case "remove":
                await self.note(request, "person_removed", None, name=name)
                await self.of_people(self.people.remove, name)
            case "password":
                await self.note(request, "password_changed", None, name=name)
                await self.of_people(self.people.set_password, name, form.get("password", ""))
            case "key" if role in RIGHTS:
                await self.note(request, "key_made", None, name=name, role=role)
                return str(await self.of_people(self.people.make_key, name, role))
            case "remove_key":
                await self.note(request, "key_removed", None, name=name)
                await self.of_people(self.people.remove_key, name)
        return None


def with_session(answer: Response, token: str) -> Response:
    answer.set_cookie(_COOKIE, token, secure=True, httponly=True, samesite="strict", path="/")
    return answer


async def _form(request: Request, file: bool = False) -> tuple[dict[str, str], bytes | None]:
    """A form's texts, and the file that it brings."""
    length = request.headers.get("content-length", "")
    if not is_size(length, _MOST_FILE if file else _MOST_FORM):
        raise DeskError(413, "form_large")
    async with request.form(max_files=int(file), max_fields=40) as form:
        texts = {key: value for key, value in form.items() if isinstance(value, str)}
        brought = next((value for value in form.values() if isinstance(value, UploadFile)), None)
        return texts, await brought.read() if brought else None


def is_size(length: str, most: int) -> bool:
    """Whether a Content-Length is there, and not more than this."""
    return length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= most


def language_of(request: Request) -> Language:
    chosen = request.cookies.get(_LANGUAGE)
    if chosen in ("ja", "en"):
        return chosen  # type: ignore[return-value]
    wanted = request.headers.get("accept-language", "ja").lower()
    return "en" if wanted.startswith("en") else "ja"


def _host(request: Request) -> str:
    return request.url.hostname or ""


def who_asks(request: Request) -> str:
    return str(request.state.person.name)


def who(call: Mapping[str, Any], language: Language) -> dict[str, Any]:
    """The other end of a call: what is shown, his number for tel:, his name, reading, region, flags."""
    caller, dialled = call["caller"] or {}, call["dialled"]
    contact = call.get("contact") or {}
    named = {key: contact.get(key) for key in ("contact_id", "name", "reading", "note")}
    named["flags"] = contact.get("flags", [])
    if call["direction"] == "outgoing":
        number = dialled and dialled["number"]
        shown = (national(number) or dialled["digits"] or dialled["raw"]) if dialled else say("nobody", language)
        return {"shown": shown, "number": number, "region": None, **named}
    known = caller["presentation"] if caller["presentation"] in ("withheld", "payphone", "unavailable") else "nobody"
    shown = caller.get("national") or caller.get("display") or caller["raw"] or say(known, language)
    region = caller["region_en" if language == "en" else "region_ja"]
    return {
        "shown": shown,
        "number": caller["number"],
        "region": region,
        **named,
        "name": named["name"] or caller["name"],
    }


def clock(iso: str | None) -> str:
    if iso is None:
        return ""
    try:
        at = datetime.fromisoformat(iso).astimezone()
    except OverflowError:
        return iso  # of a clock that was never set
    today = datetime.now(UTC).astimezone().date()
    return f"{at:%H:%M}" if at.date() == today else f"{at:%Y-%m-%d %H:%M}"


def length(seconds: float | None) -> str:
    """As 1:05, 1:02:03."""
    if seconds is None:
        return ""
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
