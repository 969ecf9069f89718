"""The store's head, stamped once a day by an RFC 3161 authority, which does not belong to the unit's owner.

What is stamped is the link of the log's last line, as its 64 hexadecimal digits: whoever has the token can show that
everything up to that line was there at the authority's time, whatever the unit's owner has written since.
"""

from __future__ import annotations

import base64
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import requests
from cryptography.x509 import Certificate, load_pem_x509_certificates

from firmware.records.store import CallStore
from firmware.settings import TimestampSettings

_log = logging.getLogger(__name__)

_DAY_NS = 86_400_000_000_000
_AGAIN_NS = 600_000_000_000
_LATE_NS = 3 * _DAY_NS  # without one it is a fault
_TIMEOUT_S = 10, 30  # to connect, to answer
_MOST_BYTES = 1 << 20


class NoTimestamp(Exception):
    """The authority gave none that holds: one sentence, which says how to mend it."""


def ask(settings: TimestampSettings, link: str) -> tuple[dict[str, Any], str]:
    """Have a link stamped: token (of DER, base64), authorities (PEM) and the authority's time (UTC).

    Blocks for the network. Raises NoTimestamp.
    """
    from rfc3161_client import (  # noqa: PLC0415 - only a unit that has an authority needs it
        HashAlgorithm,
        TimestampRequestBuilder,
        VerificationError,
        VerifierBuilder,
        decode_timestamp_response,
    )

    pem, roots = _roots(settings)
    message = link.encode()
    asked = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256).build()
    der = _post(settings.url, asked.as_bytes())
    try:
        answer = decode_timestamp_response(der)
        if answer.status > 1:
            raise NoTimestamp(f"{settings.url}: refuses to stamp (status {answer.status}); ask its operator why.")
        builder = VerifierBuilder.from_request(asked)
        for root in roots:
            builder = builder.add_root_certificate(root)
        builder.build().verify_message(answer, message)
        at = answer.tst_info.gen_time.isoformat()
    except VerificationError as error:
        raise NoTimestamp(
            f"{settings.url}: what it signed does not hold ({error}); is {settings.ca_file} its authority's?"
        ) from error
    except (ValueError, TypeError) as error:
        raise NoTimestamp(f"{settings.url}: its answer is no timestamp; is the address right?") from error
    return {"token": base64.b64encode(der).decode(), "authorities": pem}, at


def _roots(settings: TimestampSettings) -> tuple[str, list[Certificate]]:
    try:
        text = settings.ca_file.read_bytes()
        return text.decode("ascii"), load_pem_x509_certificates(text)
    except OSError as error:
        raise NoTimestamp(f"{settings.ca_file}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise NoTimestamp(f"{settings.ca_file}: holds no certificate in PEM.") from error


def _post(url: str, der: bytes) -> bytes:
    head = {"Content-Type": "application/timestamp-query"}
    try:
        with requests.post(url, data=der, headers=head, timeout=_TIMEOUT_S, stream=True) as answer:
            if answer.status_code != 200:
                raise NoTimestamp(f"{url}: answers with HTTP {answer.status_code}; look at its address.")
            return answer.raw.read(_MOST_BYTES, decode_content=True) or b""
    except (requests.RequestException, OSError) as error:
        raise NoTimestamp(f"{url}: cannot be reached ({type(error).__name__}).") from error


class Timestamper:
    """Asks once a day. note: takes what is wrong when none came for days, and None when one came.

    Thread: all methods on the loop's; a thread of its own waits for the authority.
    """

    def __init__(self, settings: TimestampSettings, store: CallStore, note: Callable[[str | None], None]) -> None:
        self._settings, self._store, self._note = settings, store, note
        self._answers: queue.SimpleQueue[tuple[int, str, dict[str, Any], str] | NoTimestamp] = queue.SimpleQueue()
        self._asking = False
        self._next_ns = 0
        self._since_ns: int | None = None  # without any
        self._late = False

    def tick(self) -> None:
        """Every few seconds. Raises StoreError: then the answer is lost, and asked for again."""
        now = self._store.read_clock()
        if self._asking and not self._answers.empty():
            self._asking = False
            self._take(self._answers.get(), now.mono_ns)
        last = self._store.note("timestamp")
        past_ns = now.wall_ns - last["wall_ns"] if last else None
        if self._asking or now.mono_ns < self._next_ns or (past_ns is not None and 0 <= past_ns < _DAY_NS):
            return
        self._asking, self._next_ns = True, now.mono_ns + _AGAIN_NS
        head = self._store.storage.seq, self._store.storage.link
        threading.Thread(target=self._ask, args=head, name="timestamp", daemon=True).start()

    def _ask(self, seq: int, link: str) -> None:
        try:
            self._answers.put((seq, link, *ask(self._settings, link)))
        except NoTimestamp as wrong:
            self._answers.put(wrong)
        except Exception as error:  # noqa: BLE001 - whatever a library raises: it is asked again
            self._answers.put(NoTimestamp(f"{self._settings.url}: a fault in this program ({type(error).__name__})."))

    def _take(self, answer: tuple[int, str, dict[str, Any], str] | NoTimestamp, mono_ns: int) -> None:
        if isinstance(answer, NoTimestamp):
            self._since_ns = self._since_ns or mono_ns
            last, now = self._store.note("timestamp"), self._store.read_clock()
            without_ns = now.wall_ns - last["wall_ns"] if last else mono_ns - self._since_ns
            late, before = without_ns > _LATE_NS, self._late
            self._late = late
            _log.log(logging.WARNING if late and not before else logging.INFO, 'event=no_timestamp reason="%s"', answer)
            if late:
                self._note(str(answer))
            return
        seq, link, stamp, at = answer
        self._store.keep_timestamp({"seq": seq, "link": link, "at": at, **stamp})
        self._since_ns, self._late = None, False
        self._note(None)
        _log.info("event=timestamp seq=%d at=%s", seq, at)
