"""A serial modem that reports rings and caller ID. It never answers, dials or takes the line."""

from __future__ import annotations

import errno
import logging
import re
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import serial

from drivers.modem_text import QUIET_NS, ModemText
from drivers.signals import DeviceLost, DeviceReady, Signal

log = logging.getLogger(__name__)

ANSWER_S = 3.0  # a modem answers a command within this, or it is mute
PROBE_S = 180.0  # after so long without a byte it is asked whether it still reports caller ID
RETRY_S = (1.0, 2.0)
_POLL_S = 0.1  # longest wait in a read: how late a block's quiet end or close() may be noticed

_COUNTRY = {"jp": ("AT+GCI=00",), "us": ("AT+GCI=B5",), "uk": ("AT+GCI=B4",), "etsi": ()}
REGIONS = tuple(_COUNTRY)


@dataclass(frozen=True, slots=True)
class _Model:
    """identity: found in the answer to ATI3; None: only by name in the settings. region: commands by region."""

    identity: str | None
    region: dict[str, tuple[str, ...]]


MODELS = {
    "usr5637": _Model(r"U\.?S\.? ?Robotics|USR", _COUNTRY),
    "cx93001": _Model(  # register 4886: 00 Bell, 01 V.23 Japan, 02 ETSI, 03 UK
        r"CX9300\d|CX930\d\d",
        {
            "jp": ("AT+GCI=00", "AT!4886=01"),
            "us": ("AT+GCI=B5", "AT!4886=00"),
            "uk": ("AT+GCI=B4", "AT!4886=03"),
            "etsi": ("AT!4886=02",),
        },
    ),
    "isomodem": _Model(  # Silicon Labs AN93: +VCDT 0 after the ring, 1 always, 3 Japan; 2 (UK) would take the line
        None,
        {
            "jp": ("AT+GCI=00", "AT+VCDT=3"),
            "us": ("AT+GCI=B5", "AT+VCDT=0"),
            "uk": ("AT+GCI=B4", "AT+VCDT=1"),
            "etsi": ("AT+VCDT=1",),
        },
    ),
    "generic": _Model(None, _COUNTRY),
}
_SPEAKS_OF_A_CALL = re.compile(r"[=:]|\d{7}").search  # a block that came in between; it goes into no log
_CALLER_ID = (("AT+VCID=1", "AT+VCID?"), ("AT#CID=1", "AT#CID?"))  # switch on, read back


class _Fault(Exception):
    """The modem cannot be used now; the text is one sentence for people."""


class Modem:
    """The modem of one line, kept working by one thread: opened, set up, read back, reopened after a replug.

    port: the modem's name below /dev/serial/by-id, or an absolute path. post is called on the modem's thread with
    ModemRing, CallerIdReceived, DeviceReady and DeviceLost (once for each new reason).
    Raises ValueError for an unknown model or region.
    """

    def __init__(
        self, line: int, port: str, model: str = "auto", region: str = "jp", *, post: Callable[[Signal], None]
    ) -> None:
        if model != "auto" and model not in MODELS:
            raise ValueError(f"modem model {model!r} is not known; use auto or one of: {', '.join(MODELS)}.")
        if region not in REGIONS:
            raise ValueError(f"modem region {region!r} is not known; use one of: {', '.join(REGIONS)}.")
        self._line = line
        self._port = str(Path("/dev/serial/by-id") / port)
        self._model = model
        self._region = region
        self._post = post
        self._text = ModemText(line)
        self._floods_logged = False
        self._lost_reason: str | None = None
        self._last_byte_ns = 0
        self._caller_id_query = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"modem-{line}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop and free the port; nothing is posted afterwards. Thread: any but the modem's."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            failures = 0
            while not self._closing.is_set():
                if self._session():
                    failures = 0
                self._closing.wait(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1
        except Exception:  # the thread's edge: a bug here must be seen in the log and in the line's state
            log.exception("event=modem_thread_died line=%d", self._line)
            self._lost(f"The driver of the modem at {self._port} stopped by a fault of its own; restart the recorder.")

    def _session(self) -> bool:
        """Open the modem and serve it until it fails or close(); True if it worked for a while."""
        was_ready = False
        try:
            with serial.Serial(self._port, 115200, timeout=_POLL_S, write_timeout=ANSWER_S, exclusive=True) as tty:
                try:
                    self._set_up(tty)
                    was_ready = True
                    while not self._closing.is_set():
                        self._receive(tty)
                        if time.monotonic_ns() - self._last_byte_ns > PROBE_S * 1e9:
                            self._probe(tty)
                except termios.error as error:  # not an OSError
                    raise OSError(errno.EIO, str(error)) from error
        except _Fault as fault:
            self._lost(str(fault))
        except OSError as error:  # serial.SerialException is one
            self._lost(self._sentence(error))
        # Whatever was cut off by the failure ends here, not after the replug.
        self._post_all(self._text.tick(time.monotonic_ns() + QUIET_NS))
        return was_ready

    def _set_up(self, tty: serial.Serial) -> None:
        self._text.asked = False
        if not any(self._ask(tty, "ATZ", words=False) for _ in range(3)):
            if self._closing.is_set():
                return
            raise _Fault(
                f"The device at {self._port} does not answer to AT commands; unplug the modem for 10 s and plug it in "
                "again, or put the right port into the settings."
            )
        for _ in range(20):  # late answers to an ATZ that was sent again
            if not self._receive(tty):
                break
        for command in ("ATE0", "ATV1", "ATS0=0"):  # S0=0: never answer a call by itself
            self._order(tty, command, words=False)
        identity = next(
            (answer for answer in self._ask(tty, "ATI3")[:-1] if not _SPEAKS_OF_A_CALL(answer)), "unnamed modem"
        )
        name = self._model
        if name == "auto":
            name = next((n for n, m in MODELS.items() if m.identity and re.search(m.identity, identity)), "generic")
        refused = [command for command in MODELS[name].region[self._region] if self._ask(tty, command)[-1:] != ["OK"]]
        for command, query in _CALLER_ID:
            if self._ask(tty, command)[-1:] == ["OK"] and self._reports_caller_id(tty, query):
                self._caller_id_query = query
                break
        else:
            if self._closing.is_set():
                return
            raise _Fault(
                f"The modem at {self._port} ({identity}) does not switch caller ID on; unplug it for 10 s and plug it "
                "in again, or use a modem with caller ID."
            )
        detail = f"{identity} at {self._port}, model {name}, {command}, region {self._region}"
        if refused:
            detail += f", refused {' '.join(refused)}"
        log.info("event=modem_ready line=%d detail=%r", self._line, detail)
        self._lost_reason = None
        self._post(DeviceReady(at_ns=time.monotonic_ns(), device="modem", line=self._line, detail=detail))

    def _probe(self, tty: serial.Serial) -> None:
        """Ask an idle modem whether it still reports caller ID; a power dip may have reset it."""
        if not self._reports_caller_id(tty, self._caller_id_query) and not self._closing.is_set():
            log.warning("event=modem_forgot_caller_id line=%d", self._line)
            self._set_up(tty)

    def _reports_caller_id(self, tty: serial.Serial, query: str) -> bool:
        return any(re.fullmatch(r"(?:[+#]V?CID ?[:=] ?)?1", answer) for answer in self._ask(tty, query))

    def _order(self, tty: serial.Serial, command: str, words: bool = True) -> None:
        if self._ask(tty, command, words)[-1:] != ["OK"] and not self._closing.is_set():
            raise _Fault(f"The modem at {self._port} refuses {command}; unplug it for 10 s and plug it in again.")

    def _ask(self, tty: serial.Serial, command: str, words: bool = True) -> list[str]:
        """Send a command; return its answer's lines, the last being OK or ERROR; [] if none came in time.

        words False: answers may still be digits. Rings and caller ID that come in between are posted as ever.
        """
        results = {"OK": "OK", "ERROR": "ERROR"} | ({} if words else {"0": "OK", "4": "ERROR"})
        until_ns = time.monotonic_ns() + int(ANSWER_S * 1e9)
        received = b""
        self._text.asked = True
        try:
            tty.write(command.encode() + b"\r")
            while time.monotonic_ns() < until_ns and not self._closing.is_set():
                received = (received + self._receive(tty))[-4096:]
                *whole, _ = re.split(r"[\r\n\0]+", received.decode("latin-1"))
                answers = [line.strip() for line in whole if line.strip() not in ("", command)]
                for at, answer in enumerate(answers):
                    if answer in results:
                        return [*(a for a in answers[:at] if not a.startswith("RING")), results[answer]]
            return []
        finally:
            self._text.asked = False

    def _receive(self, tty: serial.Serial) -> bytes:
        """Wait a moment for bytes, post what they mean and return them."""
        data: bytes = tty.read(1)
        at_ns = time.monotonic_ns()
        if not data:
            self._post_all(self._text.tick(at_ns))
            return data
        data += tty.read(tty.in_waiting)
        self._last_byte_ns = at_ns
        self._post_all(self._text.feed(data, at_ns))
        if self._text.floods and not self._floods_logged:
            self._floods_logged = True
            log.warning("event=modem_flood line=%d port=%s", self._line, self._port)
        return data

    def _post_all(self, signals: list[Signal]) -> None:
        for signal in signals:
            self._post(signal)

    def _lost(self, reason: str) -> None:
        new = reason != self._lost_reason
        log.log(logging.WARNING if new else logging.DEBUG, "event=modem_lost line=%d reason=%r", self._line, reason)
        if new:
            self._lost_reason = reason
            self._post(DeviceLost(at_ns=time.monotonic_ns(), device="modem", line=self._line, reason=reason))

    def _sentence(self, error: OSError) -> str:
        match error.errno:
            case errno.EACCES | errno.EPERM:
                return f"The modem at {self._port} may not be opened; add the recorder's user to the group dialout."
            case errno.EAGAIN | errno.EBUSY:
                return f"The modem at {self._port} is used by another program (often ModemManager); stop that program."
        if Path(self._port).exists():
            return (
                f"{self._port} does not work as a modem's serial port; unplug the modem for 10 s and plug it in again, "
                "or put the right port into the settings."
            )
        return f"No modem is at {self._port}; plug it in, or put its name below /dev/serial/by-id into the settings."
