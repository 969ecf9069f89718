"""Messages to the owner's telephone, by whatever service Apprise knows: missed calls, alarms, the day's digest.

An event waits in the outbox until a message that tells of it has gone; what needs no message is accepted at once.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import apprise

from firmware import words
from firmware.core.facts import DeliveryFact
from firmware.core.notices import Budget, Kind, Message, day, hours_of, is_within, kind_of, latest, time_of
from firmware.core.outbox import Outbox, Stream
from firmware.core.privacy import masked
from firmware.delivery.courier import Answer, Courier, Delivery
from firmware.delivery.keys import Unready, private_text
from firmware.settings import NotifySettings

_log = logging.getLogger(__name__)

_TOGETHER_S = 60  # missed calls of so long go in one message
_MOST_WAITING = 1000
_MOST_PASSED_OVER = 1000  # behind the first that waits: the cursor notes each of them
_LONGEST_DIGEST_S = 30 * 86_400  # who was away longer, or had no clock when it began, begins anew
_TRIALS = 5  # at an address that fails while another has got the message

_Key = tuple[Stream, int]


@dataclass(eq=False, slots=True)
class _Waiting:
    """Something to tell. keys: of its event, and of the one that says that it is over."""

    kind: Kind
    keys: list[_Key]
    subject: str
    fault: bool
    since_ns: int
    over: bool = False


@dataclass(eq=False, slots=True)
class _Mail:
    """got: which addresses have it already."""

    message: Message
    digest_s: float | None = None  # of a digest: up to when, Unix time
    warns: bool = False  # of the budget
    got: set[int] = field(default_factory=set)
    trials: int = 0


class Notifier(Courier[_Mail]):
    """One [[notify]].

    calls: the records of calls between two UTC times. waiting: how many callers wait to be called back. kept, keep:
    what it wrote down before its start, and how to write it down. now: the local time. All on the loop's thread.
    """

    def __init__(
        self,
        settings: NotifySettings,
        site: str,
        outbox: Outbox,
        post: Callable[[DeliveryFact], None],
        *,
        calls: Callable[[str, str], Iterable[Mapping[str, Any]]],
        waiting: Callable[[], int],
        kept: Mapping[str, Any] | None,
        keep: Callable[[dict[str, Any]], None],
        now: Callable[[], datetime],
        together_s: float = _TOGETHER_S,
    ) -> None:
        super().__init__(settings.name, outbox, post)
        self._settings, self._site, self._now, self._together_s = settings, site, now, together_s
        self._calls, self._callbacks, self._keep = calls, waiting, keep
        self._where = f"Notify {settings.name}"
        self._quiet = hours_of(settings.quiet) if settings.quiet else None
        self._digest_at = time_of(settings.digest_at) if settings.digest_at else None
        kept = kept or {}
        self._digest_s: float = kept.get("digest_s") or now().timestamp()
        counted = {name: kept[name] for name in ("month", "sent", "warned") if name in kept}
        self._budget = Budget(limit=settings.per_month, **counted)
        self._passed_over = 0
        self._told_spent = ""  # the month of which it was logged
        self._waiting: list[_Waiting] = []
        self._half: Delivery[_Mail] | None = None  # one that some addresses have got and others not
        self._addresses: list[apprise.Apprise] = []  # the courier's thread; of the loop's only their number
        if not kept:
            self._write_down()

    @property
    def patient(self) -> bool:
        return bool(self._waiting) and is_within(self._now(), self._quiet)

    # -- what to send

    def next(self) -> Delivery[_Mail] | None:
        if self._half is not None:
            return self._half
        self._collect()
        now = self._now()
        self._budget = self._budget.at(now)
        quiet = is_within(now, self._quiet)
        urgent = [
            each
            for each in self._waiting
            if each.kind == "alarm" and (not quiet or (self._settings.urgent and each.fault))
        ]
        if urgent and (delivery := self._tell_of("alarm", urgent, now)):
            return delivery
        if quiet:
            return None
        if self._budget.is_short and self._allows("alarm"):
            message = words.budget(self._budget, self._settings.language, self._site)
            return Delivery((), _Mail(message, warns=True))
        missed = [each for each in self._waiting if each.kind == "missed"]
        if missed and time.monotonic_ns() - missed[0].since_ns >= self._together_s * 1e9:
            delivery = self._tell_of("missed", missed, now)
            if delivery:
                return delivery
        return self._digest(now)

    def _collect(self) -> None:
        """Look through what is new in the outbox."""
        if not self._waiting:
            self._passed_over = 0
        if self._passed_over >= _MOST_PASSED_OVER:
            return
        known = {key for each in self._waiting for key in each.keys}
        for entry in self._outbox.pending(max(0, _MOST_WAITING - len(known)), known):
            key, body = (entry.stream, entry.sequence), entry.body
            kind = kind_of(body, missed=self._settings.missed, alarms=self._settings.alarms, but=self.name)
            raised = [each for each in self._waiting if each.subject == body["subject"] and not each.over]
            if kind:
                fault = body["data"].get("severity") == "fault"
                self._waiting.append(_Waiting(kind, [key], body["subject"], fault, time.monotonic_ns()))
            elif body["type"] == "alarm.cleared" and raised:
                raised[-1].over = True
                raised[-1].keys.append(key)
            else:
                self._passed_over += 1
                self._outbox.mark(*key, "accepted")

    def _tell_of(self, kind: Kind, those: list[_Waiting], now: datetime) -> Delivery[_Mail] | None:
        bodies = []
        for each in those:
            entry = self._outbox.read(*each.keys[0])
            if entry is not None:
                bodies.append((masked(entry.body, self._settings.privacy, b""), each.over))
        keys = tuple(key for each in those for key in each.keys)
        if not bodies or not self._allows(kind):  # erased meanwhile; or more than this month may have
            self._forget(keys)
            for key in keys:
                self._outbox.mark(*key, "accepted")
            return None
        language = self._settings.language
        if kind == "alarm":
            message = words.alarms(bodies, language, self._site)
        else:
            message = words.missed([body for body, _ in bodies], language, self._site, now)
        return Delivery(keys, _Mail(message))

    def _digest(self, now: datetime) -> Delivery[_Mail] | None:
        if self._digest_at is None:
            return None
        late_s = latest(now, self._digest_at).timestamp() - self._digest_s
        if late_s <= 0:
            return None
        if late_s > _LONGEST_DIGEST_S or not self._allows(None):
            self._digest_s = now.timestamp()
            return None
        since = datetime.fromtimestamp(self._digest_s, tz=UTC)
        calls = self._calls(_utc(since), _utc(now))
        told = day(calls, since.astimezone(now.tzinfo), self._callbacks())
        message = words.digest(told, self._settings.language, self._site)
        return Delivery((), _Mail(message, digest_s=now.timestamp()))

    def _allows(self, kind: Kind | None) -> bool:
        allowed = self._budget.allows(kind, max(1, len(self._addresses)))
        if not allowed and self._told_spent != self._budget.month:
            self._told_spent = self._budget.month
            _log.warning(
                "sink=%s event=budget_spent month=%s sent=%d", self.name, self._budget.month, self._budget.sent
            )
        return allowed

    def done(self, delivery: Delivery[_Mail], answer: Answer) -> None:
        mail = delivery.content
        if answer.verdict != "accepted":
            self._half = delivery if mail.got else None  # else it is made anew: more may have come to it
            return
        self._half = None
        self._forget(delivery.events)
        self._budget = self._budget.at(self._now()).spent(len(mail.got))
        if mail.warns:
            self._budget = replace(self._budget, warned=True)
        if mail.digest_s is not None:
            self._digest_s = mail.digest_s
        self._write_down()

    def _forget(self, keys: Iterable[_Key]) -> None:
        gone = set(keys)
        self._waiting = [each for each in self._waiting if each.keys[0] not in gone]

    def _write_down(self) -> None:
        budget = self._budget
        kept = {"month": budget.month, "sent": budget.sent, "warned": budget.warned, "digest_s": self._digest_s}
        self._keep(kept)

    # -- the courier's thread

    def check(self) -> None:
        if not self._addresses:
            self._addresses = self._read()

    def deliver(self, delivery: Delivery[_Mail]) -> Answer:
        self.check()
        mail = delivery.content
        mail.trials += 1
        failed: dict[int, str] = {}
        for number, address in enumerate(self._addresses, start=1):
            if number not in mail.got:
                wrong = _send(address, mail.message)
                if wrong is None:
                    mail.got.add(number)
                else:
                    failed[number] = wrong
        if not failed:
            return Answer(verdict="accepted")
        which = ", ".join(f"{number} ({wrong})" for number, wrong in failed.items())
        says = f"{self._where}: no message gets to address {which} of urls_file; check it, and the network."
        given_up = mail.got and mail.trials >= _TRIALS
        return Answer(verdict="accepted" if given_up else "held", wrong=says)

    def _read(self) -> list[apprise.Apprise]:
        """Raises Unready, without an address: they hold secrets."""
        path = self._settings.urls_file
        addresses = []
        asset = apprise.AppriseAsset(app_id="Tsuroku", app_desc="Tsuroku", app_url="", async_mode=False)
        for number, line in enumerate(private_text(self._where, "urls_file", path).splitlines(), start=1):
            url = line.strip()
            if url and not url.startswith("#"):
                service = apprise.Apprise.instantiate(url, asset=asset)
                if service is None:
                    raise Unready(
                        f"{self._where}: urls_file {path}, line {number} is no address that Apprise knows; "
                        "write it as https://appriseit.com shows for the service."
                    )
                addresses.append(apprise.Apprise(service, asset=asset))
        if not addresses:
            raise Unready(f"{self._where}: urls_file {path} holds no address; write one a line, as line://TOKEN/USER.")
        return addresses


def _send(address: apprise.Apprise, message: Message) -> str | None:
    """None: the service took it. Else why not, in a word: what Apprise says itself may hold numbers and addresses."""
    with apprise.LogCapture(level=logging.WARNING) as said:  # type: ignore[no-untyped-call]
        try:
            sent = address.notify(message.text, title=message.title, body_format=apprise.NotifyFormat.TEXT)
        except Exception as error:  # noqa: BLE001  of a plugin; the other addresses must get theirs
            return type(error).__name__
        code = re.search(r"error=(\d{3})\b", said.getvalue())
    return None if sent else f"answer {code[1]}" if code else "no answer"


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# What Apprise logs holds addresses, and with some services numbers.
logging.getLogger("apprise").addHandler(logging.NullHandler())
logging.getLogger("apprise").propagate = False
logging.getLogger("apprise").setLevel(logging.CRITICAL)
