"""The pages of calls, contacts, callbacks, the log and the unit."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from firmware.console.desk import Desk, DeskError, due_of
from firmware.console.door import Door, language_of, who_asks
from firmware.console.index import Wanted, number_of
from firmware.console.live import Live
from firmware.console.people import Person
from firmware.console.sound import Wave, happened, wave_of
from firmware.console.words import say

_PAGE, _LOG_PAGE = 50, 200
_SEALED, _MOST_OPENED = ".sealed", 10_000
_SHARED_S = {"hour": 3600, "day": 86_400, "week": 604_800, "month": 2_592_000}
KINDS = (
    "missed",
    "answered",
    "outgoing_answered",
    "outgoing_unanswered",
    "fax",
    "too_short",
    "interrupted",
    "imported",
)
_HEARS = ("codec", "gpio")  # without these a line is deaf
_ASKED = ("text", "kind", "direction", "since", "until", "shortest", "longest", "tag", "by", "flag")
FLAGS = ("vip", "nuisance", "do_not_record")


class Pages:
    """Thread: the event loop's; what reads or asks goes to another."""

    def __init__(self, door: Door, desk: Desk, live: Live) -> None:
        self._door, self._desk, self._live = door, desk, live
        self._opened: set[tuple[str, str]] = set()  # by session and call: whose sound was fetched

    def routes(self) -> list[Route]:
        page = self._door.page
        get, post = ["GET"], ["POST"]
        call, contact = "/calls/{call_id}", "/contacts/{contact_id}"
        return [
            Route("/", page(self._today)),
            Route("/calls", page(self._calls, "see")),
            Route(call, page(self._call, "see")),
            Route(f"{call}/sound", page(self._sound, "listen")),
            Route(f"{call}/download", page(self._download, "download")),
            Route(f"{call}/export", page(self._export, "download")),
            Route(f"{call}/check", page(self._check, "see"), methods=post),
            Route(f"{call}/played", page(self._played, "listen"), methods=post),
            Route(f"{call}/remark", page(self._remark, "write"), methods=post),
            Route(f"{call}/hold", page(self._hold, "write"), methods=post),
            Route(f"{call}/release", page(self._release, "delete"), methods=post),
            Route(f"{call}/delete", page(self._delete, "delete"), methods=post),
            Route(f"{call}/callback", page(self._callback, "write"), methods=post),
            Route(f"{call}/done", page(self._done, "write"), methods=post),
            Route(f"{call}/share", page(self._share, "download"), methods=post),
            Route("/contacts", page(self._contacts, "see"), methods=get),
            Route("/contacts", page(self._put_contact, "write"), methods=post),
            Route("/contacts.csv", page(self._listed, "download")),
            Route("/contacts/take-in", page(self._take_in, "write", file=True), methods=post),
            Route(contact, page(self._contact, "see"), methods=get),
            Route(f"{contact}/merge", page(self._merge, "write"), methods=post),
            Route(f"{contact}/incident.pdf", page(self._incident, "download")),
            Route(f"{contact}/disclosure.zip", page(self._disclosure, "download")),
            Route(f"{contact}/erase", page(self._erase, "delete"), methods=post),
            Route("/listened", page(self._listened, "log")),
            Route("/system", page(self._system, "system")),
            Route("/system/alarm", page(self._acknowledge, "system"), methods=post),
            Route("/system/support.zip", page(self._support, "system")),
            Route("/system/peaks", page(self._peaks, "system")),
            Route("/licences", page(self._licences)),
            Route("/live", page(self._tab, "see")),
            Route("/s/{token}", self._door.guarded(self._shared)),
            Route("/s/{token}/sound", self._door.guarded(self._shared_sound)),
        ]

    async def _ask(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await run_in_threadpool(work, *arguments)

    # -- today

    async def _today(self, request: Request) -> Response:
        person: Person = request.state.person
        if not person.may("see"):
            return RedirectResponse("/listened" if person.may("log") else "/system", 303)
        shown = await self._ask(self._desk.today)
        health = self._live.states.get("state/health", {})
        now = _now()
        faults = self._live.states.get("state/recorder", {}).get("faults", [])
        return self._door.shown(
            request,
            "today.html",
            **shown,
            faulty=[line for line in self._live.lines if {f"{device}/{line}" for device in _HEARS} & set(faults)],
            lines=self._live.lines,
            alarms=health.get("alarms", []),
            now=now,
            people=self._names(),
        )

    async def _callback(self, request: Request) -> Response:
        form, call_id = request.state.form, request.path_params["call_id"]
        due, person = due_of(form.get("due", "")), form.get("for") or None
        await self._ask(self._desk.callback, who_asks(request), call_id, due, person)
        return _back(request, f"/calls/{call_id}")

    async def _done(self, request: Request) -> Response:
        await self._ask(self._desk.callback_done, who_asks(request), request.path_params["call_id"])
        return _back(request, "/")

    # -- calls

    async def _calls(self, request: Request) -> Response:
        asked = request.query_params
        start = _place(request)
        found = await self._ask(self._desk.found, wanted_of(asked), start, _PAGE + 1)
        older = None
        if len(found) > _PAGE:
            kept = {key: value for key, value in asked.items() if value and key != "from"}
            older = "/calls?" + urlencode({**kept, "from": start + _PAGE})
        more = any(asked.get(key) for key in _ASKED[2:])
        shown: dict[str, Any] = {
            "found": found[:_PAGE],
            "asked": {key: asked.get(key, "") for key in _ASKED},
            "kinds": KINDS,
            "flags": FLAGS,
            "tags": await self._ask(self._desk.tags),
            "people": self._names(),
            "older": older,
            "more": more,
        }
        return self._door.shown(request, "calls.html", **shown)

    def _names(self) -> list[str]:
        return [person.name for person in self._door.people.all() if person.may("write")]

    async def _call(self, request: Request) -> Response:
        return await self._call_page(request, await self._found(request))

    async def _call_page(self, request: Request, call: Mapping[str, Any], **more: Any) -> Response:
        person: Person = request.state.person
        path = await self._ask(self._desk.sound, call)
        sealed = path is not None and path.suffix == _SEALED
        wave, playable = None, path is not None and not sealed
        if path and playable and not call["imported"] and person.may("listen"):
            wave = await self._ask(_wave, path, call)
        await self._door.note(request, "viewed", call["call_id"])
        shown: dict[str, Any] = {
            "call": call,
            "wave": wave,
            "happened": happened(call) if call["recording"] and not call["imported"] else [],
            "sealed": sealed,
            "playable": playable,
            "there": path is not None,
            "people": self._names(),
            "tags": (await self._ask(self._desk.tags))[:12],
            "shares": self._door.people.shares_of(call["call_id"]) if person.may("download") else [],
            "checked": None,
            "link": None,
            "until": lambda at_s: datetime.fromtimestamp(at_s, UTC).isoformat(),
        }
        return self._door.shown(request, "call.html", **{**shown, **more})

    async def _found(self, request: Request) -> dict[str, Any]:
        call: dict[str, Any] = await self._ask(self._desk.call, request.path_params["call_id"])
        return call

    async def _with_sound(self, request: Request) -> tuple[dict[str, Any], Path]:
        call = await self._found(request)
        path = await self._ask(self._desk.sound, call)
        if path is None:
            raise DeskError(404, "no_recording")
        return call, path

    async def _sound(self, request: Request) -> Response:
        call, path = await self._with_sound(request)
        if path.suffix == _SEALED:
            raise DeskError(404, "sealed")
        seen = request.state.csrf, call["call_id"]
        if seen not in self._opened:  # a player fetches it in parts
            await self._door.note(request, "opened", call["call_id"])
            self._remember(seen)
        return FileResponse(path, media_type="audio/flac" if path.suffix == ".flac" else None)

    def _remember(self, seen: tuple[str, str]) -> None:
        if len(self._opened) >= _MOST_OPENED:
            self._opened.clear()  # what is forgotten is written down once more
        self._opened.add(seen)

    async def _download(self, request: Request) -> Response:
        call, path = await self._with_sound(request)
        await self._door.note(request, "downloaded", call["call_id"])
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    async def _export(self, request: Request) -> Response:
        call = await self._found(request)
        await self._door.note(request, "exported", call["call_id"])
        bundle = self._desk.bundle([call["call_id"]], "mp3" if request.query_params.get("copy") == "mp3" else None)
        return await self._file(bundle, f"tsuroku-{call['call_id'][-12:]}.zip", "application/zip")

    @staticmethod
    async def _file(made: contextlib.AbstractContextManager[Path], name: str, media_type: str) -> Response:
        """A file that is made for this answer, and goes with it."""
        path = await run_in_threadpool(made.__enter__)
        gone = BackgroundTask(made.__exit__, None, None, None)
        return FileResponse(path, filename=name, media_type=media_type, background=gone)

    async def _check(self, request: Request) -> Response:
        call = await self._found(request)
        checked = await self._ask(self._desk.checked, call["call_id"])
        return await self._call_page(request, call, checked=checked)

    async def _played(self, request: Request) -> Response:
        """What the player says that was heard, in whole seconds."""
        call, form = await self._found(request), request.state.form
        first, last = (form.get(key, "") for key in ("from", "to"))
        if not all(each.isascii() and each.isdigit() and len(each) < 7 for each in (first, last)):
            raise DeskError(400, "form_old")
        if int(first) >= int(last):
            raise DeskError(400, "form_old")
        await self._door.note(request, "played", call["call_id"], from_s=int(first), to_s=int(last))
        return JSONResponse({})

    async def _remark(self, request: Request) -> Response:
        form, call_id = request.state.form, request.path_params["call_id"]
        change: dict[str, Any] = {}
        if "note" in form:
            if not form["note"].strip():
                return _back(request, f"/calls/{call_id}")
            change["note"] = form["note"]
        if "tags" in form:
            change["tags"] = [tag for part in form["tags"].replace("、", ",").split(",") if (tag := part.strip())]
        if "taken_by" in form:
            change["taken_by"] = form["taken_by"] or None
        if "next" in form:
            told = {key: form.get(key) or None for key in ("reaction", "next", "who", "due")}
            change["follow_up"] = {**told, "done": form.get("done") == "1"}
        await self._ask(self._desk.remark, who_asks(request), call_id, change)
        return _back(request, f"/calls/{call_id}")

    async def _hold(self, request: Request) -> Response:
        call_id, reason = request.path_params["call_id"], request.state.form.get("reason", "").strip()
        reason = reason or say("hold_default", language_of(request))
        await self._ask(self._desk.hold, who_asks(request), call_id, reason)
        return _back(request, f"/calls/{call_id}")

    async def _release(self, request: Request) -> Response:
        await self._ask(self._desk.release, who_asks(request), request.path_params["call_id"])
        return _back(request, f"/calls/{request.path_params['call_id']}")

    async def _delete(self, request: Request) -> Response:
        if request.state.form.get("sure") != "1":
            raise DeskError(400, "not_sure")
        await self._ask(self._desk.delete, who_asks(request), request.path_params["call_id"])
        return RedirectResponse("/calls", 303)

    # -- links by which others hear a call

    async def _share(self, request: Request) -> Response:
        call, form = await self._found(request), request.state.form
        if "remove" in form:
            await self._door.note(request, "unshared", call["call_id"])
            await self._door.of_people(self._door.people.unshare, call["call_id"], form["remove"][:16])
            return _back(request, f"/calls/{call['call_id']}")
        path = await self._ask(self._desk.sound, call)
        if path is None or path.suffix == _SEALED:
            raise DeskError(409, "no_recording")
        for_s = _SHARED_S.get(form.get("for", ""), _SHARED_S["day"])
        await self._door.note(request, "shared", call["call_id"])
        token = await self._door.of_people(self._door.people.share, call["call_id"], who_asks(request), for_s)
        link = f"https://{request.url.netloc}/s/{token}"
        return await self._call_page(request, call, link=link)

    async def _by_link(self, request: Request) -> tuple[dict[str, Any], Path, Any]:
        share = self._door.people.shared(request.path_params["token"][:64])
        if share is None:
            raise DeskError(404, "link_over")
        call = await self._ask(self._desk.call, share.call_id)
        path = await self._ask(self._desk.sound, call)
        if path is None or path.suffix == _SEALED:
            raise DeskError(404, "no_recording")
        return call, path, share

    async def _shared(self, request: Request) -> Response:
        """Without a login: the sound of one call and when it was, and nothing else."""
        call, path, share = await self._by_link(request)
        token = request.path_params["token"]
        until = datetime.fromtimestamp(share.until_s, UTC).isoformat()
        wave = None if call["imported"] else await self._ask(_wave, path, call)
        return self._door.shown(request, "shared.html", call=call, wave=wave, token=token, until=until)

    async def _shared_sound(self, request: Request) -> Response:
        call, path, share = await self._by_link(request)
        seen = share.share_id, call["call_id"]
        if seen not in self._opened:
            by = f"link: {share.by}"
            await self._ask(functools.partial(self._desk.note, by, "link_opened", call["call_id"]))
            self._remember(seen)
        return FileResponse(path, media_type="audio/flac" if path.suffix == ".flac" else None)

    # -- contacts

    async def _contacts(self, request: Request, **more: Any) -> Response:
        text = request.query_params.get("text", "")[:100]
        found, count = await self._ask(self._desk.contacts, text)
        number = ""
        if "call" in request.query_params:  # so that no number stands in an address
            call = await self._ask(self._desk.call, request.query_params["call"])
            number = number_of(call) or ""
        shown = {"found": found, "count": count, "text": text, "number": number, "flags": FLAGS, "told": None}
        return self._door.shown(request, "contacts.html", **{**shown, **more})

    async def _put_contact(self, request: Request) -> Response:
        form = request.state.form
        contact = {
            "number": form.get("number", "").strip(),
            "name": " ".join(form.get("name", "").split()),
            "reading": form.get("reading", "").strip() or None,
            "note": form.get("note", "").strip() or None,
            "flags": [flag for flag in FLAGS if form.get(flag) == "1"],
        }
        contact_id = await self._ask(self._desk.put_contact, who_asks(request), contact)
        return RedirectResponse(f"/contacts/{contact_id}", 303)

    async def _contact(self, request: Request) -> Response:
        contact = await self._ask(self._desk.contact, request.path_params["contact_id"])
        await self._door.note(request, "looked_up", contact["contact_id"])
        return self._door.shown(request, "contact.html", contact=contact, flags=FLAGS)

    async def _merge(self, request: Request) -> Response:
        """The number of the other one is given: two contacts become one person."""
        form = request.state.form
        found, _ = await self._ask(self._desk.contacts, form.get("number", "")[:40] or "-")
        own = request.path_params["contact_id"]
        others = [each for each in found if each["contact_id"] != own]
        if len(others) != 1:
            raise DeskError(409, "merge_whom", count=len(others))
        await self._ask(self._desk.merge, who_asks(request), others[0]["contact_id"], own)
        return RedirectResponse(f"/contacts/{own}", 303)

    async def _listed(self, request: Request) -> Response:
        coding = request.query_params.get("coding")
        listed = await self._ask(
            self._desk.listed, who_asks(request), "shift_jis" if coding == "shift_jis" else "utf-8"
        )
        headers = {"Content-Disposition": 'attachment; filename="contacts.csv"'}
        return Response(listed, media_type="text/csv", headers=headers)

    async def _take_in(self, request: Request) -> Response:
        if not request.state.file:
            raise DeskError(400, "list_none")
        taken, refused = await self._ask(self._desk.take_in, who_asks(request), request.state.file)
        return await self._contacts(request, told={"taken": taken, "refused": refused})

    async def _incident(self, request: Request) -> Response:
        made = self._desk.incident(who_asks(request), request.path_params["contact_id"])
        return await self._file(made, "incident.pdf", "application/pdf")

    async def _disclosure(self, request: Request) -> Response:
        made = self._desk.disclosure(who_asks(request), request.path_params["contact_id"])
        return await self._file(made, "disclosure.zip", "application/zip")

    async def _erase(self, request: Request) -> Response:
        if request.state.form.get("sure") != "1":
            raise DeskError(400, "not_sure")
        kept = await self._ask(self._desk.erase, who_asks(request), request.path_params["contact_id"])
        key = "erased_partly" if kept else "erased_all"
        return self._door.sentence(request, 200, key, count=len(kept))

    # -- the log, and the unit

    async def _listened(self, request: Request) -> Response:
        start = _place(request)
        said = await self._ask(self._desk.said, _LOG_PAGE + 1, start)
        older = start + _LOG_PAGE if len(said) > _LOG_PAGE else None
        return self._door.shown(request, "listened.html", said=said[:_LOG_PAGE], older=older)

    async def _system(self, request: Request) -> Response:
        states = self._live.states
        shown: dict[str, Any] = {
            "info": states.get("info"),
            "recorder": states.get("state/recorder"),
            "health": states.get("state/health"),
            "lines": self._live.lines,
        }
        return self._door.shown(request, "system.html", **shown)

    async def _acknowledge(self, request: Request) -> Response:
        alarm = request.state.form.get("alarm", "")[:80]
        await self._ask(self._desk.ask, {"do": "acknowledge", "alarm": alarm}, who_asks(request))
        return _back(request, "/system")

    async def _support(self, request: Request) -> Response:
        path = await self._ask(self._desk.support, who_asks(request))
        return FileResponse(path, filename=path.name, media_type="application/zip")

    async def _peaks(self, request: Request) -> Response:
        return JSONResponse(await self._live.peaks(who_asks(request)))

    async def _licences(self, request: Request) -> Response:
        return self._door.shown(request, "licences.html", parts=await self._ask(licences))

    async def _tab(self, request: Request) -> Response:
        lasts = functools.partial(self._door.lasts, request)
        return StreamingResponse(await self._live.tab(lasts), media_type="text/event-stream")


def wanted_of(asked: Mapping[str, str]) -> Wanted:
    """What a query asks for; what is wrong in it counts as if it were not there."""

    def one_of(key: str, known: tuple[str, ...]) -> str:
        return asked.get(key, "") if asked.get(key, "") in known else ""

    return Wanted(
        text=asked.get("text", "")[:100],
        kind=one_of("kind", KINDS),
        direction=one_of("direction", ("incoming", "outgoing")),
        since=_day(asked.get("since", "")),
        until=_day(asked.get("until", ""), 1),
        shortest_s=_seconds(asked.get("shortest", "")),
        longest_s=_seconds(asked.get("longest", "")),
        tag=asked.get("tag", "")[:40],
        taken_by=asked.get("by", "")[:40],
        flag=one_of("flag", FLAGS),
    )


def _place(request: Request) -> int:
    """From which one on a list is shown."""
    first = request.query_params.get("from", "0")
    return int(first) if first.isascii() and first.isdigit() and len(first) < 8 else 0


def _day(text: str, later: int = 0) -> str | None:
    """UTC of the beginning of a day, or of one so many days later."""
    try:
        at = datetime.strptime(text[:10], "%Y-%m-%d").astimezone() + timedelta(days=later)
        return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError):
        return None


def _seconds(text: str) -> float | None:
    """Of minutes."""
    try:
        minutes = float(text[:8])
    except ValueError:
        return None
    return minutes * 60 if 0 <= minutes < 1e6 else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _wave(path: Path, call: Mapping[str, Any]) -> Wave | None:
    """None: it cannot be read, and the browser may still play it."""
    try:
        return wave_of(path, call["recording"]["duration_s"])
    except (OSError, RuntimeError):
        return None


def _back(request: Request, path: str) -> Response:
    """To the page that the form stood on, where it is one of ours."""
    came = urlsplit(request.headers.get("referer", ""))
    same = came.netloc == request.url.netloc and came.path.startswith("/") and not came.path.startswith("//")
    return RedirectResponse(came.path if same and not came.path.endswith(("/share", "/check")) else path, 303)


@functools.cache
def licences() -> list[tuple[str, str, str]]:
    """Of what this unit runs on: name, version, licence, as the packages say it."""
    found = {}
    for part in importlib.metadata.distributions():
        about: Any = part.metadata
        classed = [each.rpartition(" :: ")[2] for each in about.get_all("Classifier") or () if "License ::" in each]
        licence = about.get("License-Expression") or ", ".join(classed) or (about.get("License") or "").split("\n")[0]
        found[about["Name"]] = (about["Name"], part.version, licence[:80] or "-")
    python = ("Python", sys.version.split()[0], "PSF-2.0")
    return [python, *sorted(found.values(), key=lambda each: each[0].lower())]
