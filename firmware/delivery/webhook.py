"""Events to a web server by HTTP POST: as CloudEvents, as a template of the owner's, or as Zammad's or Zoho's telephony
interface wants them.

Signed by Standard Webhooks 1.0.0 where there is a secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
import socket
import ssl
import time
import typing
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import jinja2
import requests
import urllib3
from jinja2.sandbox import SandboxedEnvironment
from requests.adapters import HTTPAdapter

from firmware.core.call import Call, ClockRead, Recording, event, told
from firmware.core.caller import Caller
from firmware.core.facts import DeliveryFact
from firmware.core.numbers import Dialled, e164
from firmware.core.outbox import Event, EventType, Outbox, OutboxEntry, Stream
from firmware.core.privacy import masked
from firmware.delivery.courier import Answer, Courier, Delivery
from firmware.delivery.keys import HmacKey, Unready, private_text
from firmware.delivery.mqtt import as_json
from firmware.settings import LineSettings, WebhookSettings

_log = logging.getLogger(__name__)

_NEVER_ACCEPTED = frozenset({400, 413, 415, 422})
_GONE = 410
_LONGEST_ASKED_S = 3600  # a receiver that asks for more time is asked again after an hour
_LEAST_SECRET_BYTES = 24  # Standard Webhooks
_LARGEST_ANSWER = 65_536  # to be read, so that the connection can serve again
_PASSED_OVER = 500  # events that do not concern it, at one time
_KNOWN_CALLS = 200
_ZAMMAD_TRIALS = 5
_FORM = "application/x-www-form-urlencoded"
_CLOUDEVENT = "application/cloudevents+json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Papers:
    """What the files of the settings hold."""

    key: bytes | None
    template: jinja2.Template | None
    session: requests.Session


class _Unfit(Exception):
    """An event that cannot be put as the settings say. One sentence."""


class Webhook(Courier[OutboxEntry]):
    """One [[webhook]]. lines: of the settings, for the shop's own numbers. now_s: Unix time."""

    def __init__(
        self,
        settings: WebhookSettings,
        lines: tuple[LineSettings, ...],
        outbox: Outbox,
        post: Callable[[DeliveryFact], None],
        *,
        hmac_key: HmacKey | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(settings.name, outbox, post)
        self._settings, self._hmac, self._now_s = settings, hmac_key, now_s
        self._where = f"Webhook {settings.name} at {urlsplit(settings.url).hostname}"
        self._own = {
            line.number: e164(number, line.country) or number
            for line, number in zip(lines, settings.numbers, strict=False)
        }
        self._again: list[tuple[Stream, int]] = []
        self._papers: _Papers | None = None  # the courier's thread only, like what follows
        self._known: OrderedDict[str, None] = OrderedDict()  # calls that Zammad or Zoho was told of
        self._trials: tuple[str, int] = "", 0

    # -- what to send

    def start(self) -> None:
        # What was refused for good gets another trial: the settings may have been mended since.
        self._again = list(self._outbox.parked())
        super().start()

    def next(self) -> Delivery[OutboxEntry] | None:
        for _ in range(_PASSED_OVER):
            entry = self._oldest()
            if entry is None or not self._settings.events or entry.body["type"] in self._settings.events:
                break
            self._pass_over(entry.stream, entry.sequence)
        else:
            return None
        return Delivery(((entry.stream, entry.sequence),), entry) if entry else None

    def _oldest(self) -> OutboxEntry | None:
        while self._again:
            stream, sequence = self._again[0]
            entry = self._outbox.read(stream, sequence)
            if entry is not None:
                return entry
            self._pass_over(stream, sequence)  # it was erased
        return next(iter(self._outbox.pending(1)), None)

    def _pass_over(self, stream: Stream, sequence: int) -> None:
        self._outbox.mark(stream, sequence, "accepted")
        if (stream, sequence) in self._again:
            self._again.remove((stream, sequence))

    def done(self, delivery: Delivery[OutboxEntry], answer: Answer) -> None:
        if answer.verdict != "held":
            self._again = [each for each in self._again if each not in delivery.events]

    # -- the courier's thread

    def check(self) -> None:
        self._read()
        self._token()
        self._hmac_key()

    def _hmac_key(self) -> bytes:
        return self._hmac.read() if self._settings.privacy == "hmac" and self._hmac else b""

    def deliver(self, delivery: Delivery[OutboxEntry]) -> Answer:
        body = masked(delivery.content.body, self._settings.privacy, self._hmac_key())
        papers = self._read()
        try:
            messages = list(self._messages(body, papers))
        except _Unfit as unfit:
            return Answer(verdict="parked", wrong=str(unfit))
        answer = Answer(verdict="accepted")
        for content_type, content in messages:
            answer = self._send(papers, str(body["id"]), content_type, content)
            if answer.verdict != "accepted":
                break
            if self._settings.format in ("zammad", "zoho"):
                self._know(str(body["subject"]))
        if answer.verdict == "parked" and answer.wrong is None:
            _log.warning("sink=%s event=refused code=%d id=%s", self.name, answer.code, body["id"])
        return self._zammad_judged(str(body["id"]), answer)

    def _messages(self, body: dict[str, Any], papers: _Papers) -> Iterator[tuple[str, bytes]]:
        """The requests that tell of an event, in order: content type and body. Raises _Unfit."""
        match self._settings.format:
            case "template":
                assert papers.template is not None
                text = self._fill(papers.template, body)
                if text.strip():  # a template passes over an event by making nothing of it
                    yield self._settings.content_type or "application/json", text.encode("utf-8", "replace")
            case "zammad":
                for fields in zammad(body, self._own, known=body["subject"] in self._known):
                    yield _FORM, urlencode(fields).encode()
            case "zoho":
                for fields in zoho(body, self._own, known=body["subject"] in self._known):
                    yield _FORM, urlencode(fields).encode()
            case _:
                yield _CLOUDEVENT, as_json(body)

    def _know(self, call_id: str) -> None:
        self._known[call_id] = None
        while len(self._known) > _KNOWN_CALLS:
            self._known.popitem(last=False)

    def _fill(self, template: jinja2.Template, body: Mapping[str, Any]) -> str:
        try:
            return template.render(event=body, **body)
        except Exception as error:  # a template can go wrong as any program can
            raise _Unfit(
                f"{self._where}: template_file {self._settings.template_file} does not fit event {body['type']} "
                f"({_one_line(error)}); mend it and restart the unit."
            ) from error

    def _read(self) -> _Papers:
        """Raises Unready. Read once they are in order; the token each time, since others renew it."""
        if self._papers is None:
            self._papers = _Papers(self._key(), self._template(), self._session())
        return self._papers

    def _key(self) -> bytes | None:
        path = self._settings.secret_file
        if path is None:
            return None
        text = private_text(self._where, "secret_file", path).strip()
        try:
            key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) < _LEAST_SECRET_BYTES:
            raise Unready(
                f"{self._where}: {path} must hold whsec_ and {_LEAST_SECRET_BYTES} bytes or more in base64; "
                'make one with: echo "whsec_$(openssl rand -base64 32)".'
            )
        return key

    def _token(self) -> str | None:
        path = self._settings.token_file
        if path is None:
            return None
        token = private_text(self._where, "token_file", path).strip()
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise Unready(f"{self._where}: token_file {path} must hold the token alone, in one line.")
        return token

    def _template(self) -> jinja2.Template | None:
        path = self._settings.template_file
        if path is None:
            return None
        try:
            text = path.read_text(encoding="utf-8")
            template = SandboxedEnvironment(undefined=jinja2.StrictUndefined).from_string(text)
            for sample in _samples(self._settings.events):
                self._fill(template, sample)
            return template
        except _Unfit as unfit:
            raise Unready(str(unfit)) from unfit
        except jinja2.TemplateSyntaxError as error:
            raise Unready(f"{self._where}: template_file {path}, line {error.lineno}: {_one_line(error)}.") from error
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise Unready(
                f"{self._where}: template_file {path} cannot be read ({why}); let the user tsuroku read it."
            ) from error

    def _session(self) -> requests.Session:
        try:
            context = ssl.create_default_context(cafile=self._settings.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise Unready(
                f"{self._where}: ca_file {self._settings.ca_file} cannot be used ({error.strerror or error}); "
                "put the certificate of the server's CA there as PEM and let the user tsuroku read it."
            ) from error
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as for brokers: shops' own CAs lack extensions
        session = requests.Session()
        session.trust_env = False  # no password out of a .netrc
        session.mount("https://", _Trusting(context))
        return session

    def _send(self, papers: _Papers, id_: str, content_type: str, body: bytes) -> Answer:
        headers = {"Content-Type": content_type, "User-Agent": "Tsuroku"}
        token = self._token()
        if token is not None:
            scheme = "Zoho-oauthtoken" if self._settings.format == "zoho" else "Bearer"
            headers["Authorization"] = f"{scheme} {token}"
        if papers.key is not None:
            headers |= signature(papers.key, id_, int(self._now_s()), body)
        try:
            with papers.session.post(
                self._settings.url,
                data=body,
                headers=headers,
                timeout=self._settings.timeout_s,
                allow_redirects=False,
                stream=True,
            ) as response:
                _read_over(response)
                return self._judge(response.status_code, response.headers.get("Retry-After"))
        except (requests.RequestException, ValueError) as error:  # ValueError: a header that is none
            return Answer(verdict="held", wrong=self._why(error))

    def _judge(self, code: int, retry_after: str | None) -> Answer:
        if 200 <= code < 300:
            return Answer(verdict="accepted", code=code)
        if code in _NEVER_ACCEPTED:
            return Answer(verdict="parked", code=code)
        says = f"{self._where} answers {code}"
        match code:
            case 410:
                wrong = f"{says}, it is gone for good; take this [[webhook]] out of the settings or give its new url."
                return Answer(verdict="parked", code=code, wrong=wrong)
            case 401 | 403:
                wrong = f"{says}, it does not let this unit in; check token_file, secret_file and the account there."
            case 404 | 405:
                wrong = f"{says}, it takes nothing at this url; check url in the settings, or the server's."
            case 429 | 503:
                wrong = f"{says}, it asks for time; the events are kept and sent later."
            case _ if 300 <= code < 400:
                wrong = f"{says}, a redirect, which is not followed; put the new address into url."
            case _:
                wrong = f"{says}; look into the server's log. The events are kept and sent again."
        wait_s = self._asked_s(retry_after) if code in (429, 503) else 0.0
        return Answer(verdict="held", code=code, wrong=wrong, wait_s=wait_s)

    def _asked_s(self, retry_after: str | None) -> float:
        """RFC 9110, section 10.2.3: seconds, or a date."""
        try:
            text = (retry_after or "0").strip()
            asked_s = float(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - self._now_s()
        except ValueError:
            return 0.0
        return min(max(asked_s, 0.0), _LONGEST_ASKED_S)

    def _zammad_judged(self, id_: str, answer: Answer) -> Answer:
        """Zammad answers 500 also to what it will never take: a call that it knows already, or does not know.

        (app/models/cti/log.rb raises for both.) So a 500 that comes again and again for one event is taken for one.
        """
        if self._settings.format != "zammad" or answer.code != 500:
            return answer
        before, trials = self._trials
        self._trials = id_, trials + 1 if before == id_ else 1
        return Answer(verdict="parked", code=500) if self._trials[1] >= _ZAMMAD_TRIALS else answer

    def _why(self, error: Exception) -> str:
        """Without the url, which requests and urllib3 put into what they say."""
        match _cause(error):
            case ssl.SSLCertVerificationError() as cause:
                return (
                    f"{self._where} showed a certificate that is not trusted ({cause.verify_message}); "
                    "check ca_file and url in the settings, and this unit's clock."
                )
            case ssl.SSLError() as cause:
                return f"{self._where} does not agree on TLS ({cause.reason or 'no reason'}); check url."
            case socket.gaierror():
                return f"{self._where}: the name cannot be resolved; check url and the network's DNS."
            case ConnectionRefusedError():
                return f"{self._where}: nothing listens there; start the server or mend url in the settings."
            case TimeoutError():
                return f"{self._where} does not answer within {self._settings.timeout_s:g} s; check it and the network."
            case OSError() as cause if cause.strerror:
                return f"{self._where}: the connection broke off ({cause.strerror}); it is tried again by itself."
            case _ if isinstance(error, requests.Timeout):
                return f"{self._where} does not answer within {self._settings.timeout_s:g} s; check it and the network."
            case _:
                return f"{self._where} does not answer as a web server does ({type(error).__name__}); check url."


class _Trusting(HTTPAdapter):
    """Trusts what its context does: requests would add the authorities that it brings along."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more, ssl_context=self._context)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        conn.cert_reqs = "CERT_REQUIRED"


def signature(key: bytes, id_: str, at_s: int, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks 1.0.0. at_s: of this attempt, Unix time; id_ is the same at each."""
    digest = hmac.new(key, f"{id_}.{at_s}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def zammad(body: Mapping[str, Any], own: Mapping[int, str], *, known: bool) -> Iterator[dict[str, str]]:
    """Zammad's generic CTI, form fields as in docs.zammad.org, api/generic-cti: newCall, answer, hangup.

    own: the shop's number by line. known: the call was announced. Zammad takes one newCall a call and no other number
    later, so a call is announced when its number is known, and without one only when it is answered or over.
    """
    data = body["data"]
    if body["type"] not in _OF_CALLS or data["direction"] is None:
        return
    incoming, late = data["direction"] == "incoming", body["type"] in ("call.answered", "call.ended", "call.missed")
    shop = _plain(own.get(data["line"], ""))
    if incoming:
        far = _plain(data["caller"]["number"] or data["caller"]["raw"] or "anonymous")
        announce = late or data["caller"]["presentation"] != "not_received"
        announced = known or _heard_before(body)
    else:
        far = _plain((data["dialled"] or {}).get("number") or (data["dialled"] or {}).get("digits") or "")
        announce, announced = True, known or late
        if not far:
            return  # nobody knows whom the shop called
    way = {
        "from": far if incoming else shop,
        "to": shop if incoming else far,
        "direction": "in" if incoming else "out",
        "callId": str(body["subject"]),
    }
    if announce and not announced:
        yield {"event": "newCall", **way}
    if body["type"] == "call.answered":
        yield {"event": "answer", **way, **({"answeringNumber": shop} if incoming else {})}
    elif body["type"] in ("call.ended", "call.missed"):
        answered = data["answered"] is not None
        cause = "normalClearing" if answered or data["outcome"] == "outgoing_unknown" else "cancel"
        yield {
            "event": "hangup",
            **way,
            "cause": cause,
            **({"answeringNumber": shop} if incoming and answered else {}),
        }


def zoho(body: Mapping[str, Any], own: Mapping[int, str], *, known: bool) -> Iterator[dict[str, str]]:
    """Zoho PhoneBridge v3, call notification, to API-DOMAIN/phonebridge/v3/callnotify.

    From its pages: received and ringing, answered, missed; dialed and noanswer. Not found there, and taken from
    integrations that others have published: received and ended, dialed and ringing, answered, ended (start_time,
    duration). Not tried at Zoho. It wants numbers in E.164: a call without one cannot be told.
    """
    data = body["data"]
    if body["type"] not in _OF_CALLS or data["direction"] is None:
        return
    incoming = data["direction"] == "incoming"
    far, shop = ((data["caller"] if incoming else data["dialled"]) or {}).get("number"), own.get(data["line"])
    if not far or not shop:
        return
    way = {
        "type": "received" if incoming else "dialed",
        "id": re.sub(r"[^0-9A-Za-z]", "", str(body["subject"])),
        "from": far if incoming else shop,
        "to": shop if incoming else far,
    }
    match body["type"]:
        case "call.answered":
            yield {**way, "state": "answered"}
        case "call.ended" | "call.missed":
            began = datetime.fromisoformat(data["opened"]).strftime("%Y-%m-%d %H:%M:%S")  # GMT, as Zoho wants it
            if data["answered"] is not None or data["outcome"] == "outgoing_unknown":
                yield {**way, "state": "ended", "start_time": began, "duration": str(round(data["duration_s"] or 0))}
            else:
                yield {**way, "state": "missed" if incoming else "noanswer", "start_time": began}
        case _ if not known:
            yield {**way, "state": "ringing"}


_OF_CALLS = ("call.ringing", "call.caller_id", "call.dialled", "call.answered", "call.ended", "call.missed")


def _heard_before(body: Mapping[str, Any]) -> bool:
    """Whether an event before this one, of the same incoming call, announced it: also over a restart in between."""
    data = body["data"]
    if body["type"] == "call.caller_id":
        return bool(data["correction"])
    heard: bool = data["caller"]["presentation"] != "not_received"
    if body["type"] == "call.answered":
        return heard
    return body["type"] in ("call.ended", "call.missed") and (heard or data["answered"] is not None)


def _plain(number: str) -> str:
    return number.removeprefix("+")


def _samples(types: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Events of the types that the unit tells most, so that a mistake in a template shows before the first call."""
    caller = Caller(presentation="allowed", reason=None, number="+81300000000", raw="0300000000", source="line_fsk")
    call = Call(
        call_id="00000000-0000-7000-8000-000000000000",
        line=1,
        direction="incoming",
        boot_id="",
        clock=ClockRead(mono_ns=0, wall_ns=0, state="ntp"),
        opened_ns=0,
        outcome="answered",
        answered_ns=0,
        ended_ns=0,
        caller=caller,
        recording=Recording(path="", from_ns=0, frames=0, rate_hz=8000, size_bytes=0, sha256=""),
    )
    dialled = Dialled(raw="0300000000", digits="0300000000", number="+81300000000")
    outgoing = replace(call, direction="outgoing", outcome="outgoing_answered", caller=Caller(), dialled=dialled)
    made = [Event(stream="system", type="unit.started", subject="unit", time=call.clock.iso(0), data={"clock": "ntp"})]
    extra: dict[str, dict[str, Any]] = {
        "call.caller_id": {"correction": False},
        "call.dialled": {"correction": False},
        "call.waiting": {"correction": False, "waiting": told(caller)},
        "recording.failed": {"reason": ""},
    }
    for type_ in typing.get_args(EventType):
        made.append(event(type_, outgoing if type_ == "call.dialled" else call, 0, **extra.get(type_, {})))
    for each in made:
        if not types or each.type in types:
            yield {
                "specversion": "1.0",
                "id": f"sample-{each.stream}-1",
                "source": "/tsuroku/sample",
                "type": each.type,
                "subject": each.subject,
                "time": each.time,
                "datacontenttype": "application/json",
                "sequence": 1,
                "replayed": False,
                "data": each.data,
            }


def _cause(error: BaseException) -> BaseException:
    """What the system or TLS said, below what requests and urllib3 have wrapped it in."""
    seen: BaseException | None = error
    found: BaseException = error
    for _ in range(10):
        if seen is None:
            break
        if isinstance(seen, OSError) and not isinstance(seen, requests.RequestException):
            found = seen
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((each for each in seen.args if isinstance(each, BaseException)), None)
        seen = inner if isinstance(inner, BaseException) else seen.__cause__ or seen.__context__
    return found


def _one_line(error: Exception) -> str:
    """Without long numbers: what goes wrong may be told with what it went wrong on."""
    return re.sub(r"\d{4,}", "...", " ".join(str(error).split())) or type(error).__name__


def _read_over(response: requests.Response) -> None:
    """Read a short body, so that the connection can serve again. Its status has said all."""
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) < _LARGEST_ANSWER:
        try:
            response.raw.read(decode_content=False)  # as it came: unpacked it could be of any size
        except (urllib3.exceptions.HTTPError, OSError):
            pass  # it broke off behind the status
