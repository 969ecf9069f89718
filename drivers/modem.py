"""A serial modem that reports rings and caller ID. It never answers, dials or takes the line."""

from __future__ import annotations

import errno
import logging
import re
import shutil
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import serial

from drivers.modem_capture import Capture
from drivers.modem_text import QUIET_NS, ModemText
from drivers.signals import CallerIdReceived, Country, DeviceLost, DeviceReady, ModemRing, Signal

log = logging.getLogger(__name__)

ANSWER_S = 3.0  # a modem answers a command within this, or it is mute
PROBE_S = 180.0  # after so long without a byte it is asked whether it still reports caller ID
RETRY_S = (1.0, 2.0)
DEAF_CALLS = 3  # so many calls in a row that ring and tell no caller: the modem is set up again; one more: it is deaf
CALL_GAP_S = 10.0  # rings farther apart are of two calls; a caller told so long before or after a ring is of its call
POWER_OFF_S = 3.0
POWER_CUT_EVERY_S = 3600.0
SYSFS = Path("/sys")
_POLL_S = 0.1  # longest wait in a read: how late a block's quiet end or close() may be noticed


@dataclass(frozen=True, slots=True)
class _Switch:
    """A command that switches caller ID on, and the question that reads it back, where modems have one."""

    command: str
    query: str | None
    on: str = "1"


# Tried in this order; one that can be read back wins. =2 is for modems that give raw hexadecimal alone.
_SWITCHES = (
    _Switch("AT+VCID=1", "AT+VCID?"),
    _Switch("AT#CID=1", "AT#CID?"),
    _Switch("AT%CCID=1", "AT%CCID?"),
    _Switch("AT+VCID=2", "AT+VCID?", "2"),
    _Switch("AT#CID=2", "AT#CID?", "2"),
    _Switch("AT+FCLASS=8;+VCID=1", "AT+VCID?"),
    _Switch("AT#CC1", None),
    _Switch("AT*ID1", None),
)


@dataclass(frozen=True, slots=True)
class _Model:
    """A dialect; a new one is an entry here and a captured transcript in the tests.

    identity: found in a line of the answers to _IDENTITIES; None: only by name in the settings. region: commands by
    region. caution: a pattern of the identity, and what to tell of such a modem.
    """

    identity: str | None
    region: dict[Country, tuple[str, ...]]
    caution: tuple[str, str] | None = None


_COUNTRY: dict[Country, tuple[str, ...]] = {
    "jp": ("AT+GCI=00",),
    "us": ("AT+GCI=B5",),
    "uk": ("AT+GCI=B4",),
    "etsi": (),
}
REGIONS = tuple(_COUNTRY)
_IDENTITIES = ("ATI3", "ATI0", "ATI6")  # asked until one is known
MODELS = {
    "usr5637": _Model(
        r"U\.?S\.? ?Robotics|USR",
        _COUNTRY,
        (r"V1\.(?:[01]\.|2\.(?:\d|1\d|2[0-2])(?!\d))", "its firmware before 1.2.23 misses callers"),
    ),
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
        r"^24(?:0[1-4]|1[457]|3[34567]|57|9[34])[A-Z]?$",
        {
            "jp": ("AT+GCI=00", "AT+VCDT=3"),
            "us": ("AT+GCI=B5", "AT+VCDT=0"),
            "uk": ("AT+GCI=B4", "AT+VCDT=1"),
            "etsi": ("AT+VCDT=1",),
        },
    ),
    "generic": _Model(None, _COUNTRY),
}
_RESULTS = {"OK": "OK", "ERROR": "ERROR", "0": "OK", "4": "ERROR"}
_EVENT = re.compile(rb"\x10[^\r\n]")  # of voice mode
_SPEAKS_OF_A_CALL = re.compile(r"[=:]|\d{7}").search  # a block that came in between; it goes into no log


class _Fault(Exception):
    """The modem cannot be used now; the text is one sentence for people."""


class _Mute(_Fault):
    """It says nothing."""


class Hearing:
    """Counts the calls in a row that rang and told no caller, on a modem that has told of one before. Pure.

    A line without caller ID is never counted, nor a single ring: who lifts at once hears no caller ID either.
    """

    def __init__(self) -> None:
        self.silent_calls = 0
        self._ever = False
        self._told_ns: int | None = None
        self._rings = 0
        self._first_ns = self._last_ns = 0

    def heard(self, signal: Signal) -> None:
        match signal:
            case CallerIdReceived():
                self._ever = True
                self._told_ns = signal.at_ns
                self.silent_calls = 0
            case ModemRing():
                self.pass_time(signal.at_ns)
                if not self._rings:
                    self._first_ns = signal.at_ns
                self._rings += 1
                self._last_ns = signal.at_ns

    def pass_time(self, at_ns: int) -> None:
        """A call whose last ring is long ago is over."""
        gap_ns = int(CALL_GAP_S * 1e9)
        if self._rings and at_ns - self._last_ns > gap_ns:
            told = self._told_ns is not None and self._told_ns >= self._first_ns - gap_ns
            self.silent_calls += self._rings > 1 and self._ever and not told
            self._rings = 0


class Modem:
    """The modem of one line, kept working by one thread: opened, set up, read back, reopened after a replug.

    port: the modem's name below /dev/serial/by-id, or an absolute path. post is called on the modem's thread with
    ModemRing, CallerIdReceived, LoopReport, KeyHeard, DeviceReady and DeviceLost (once for each new reason).
    capture: the file that keeps what went over the port (see modem_capture); None: it is not kept.
    Raises ValueError for an unknown model or region.
    """

    def __init__(
        self,
        line: int,
        port: str,
        model: str = "auto",
        region: Country = "jp",
        *,
        post: Callable[[Signal], None],
        capture: Path | None = None,
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
        self._text = ModemText(line, region)
        self._capture = Capture(capture) if capture else None
        self._hearing = Hearing()
        self._set_up_again = False  # because it seemed deaf
        self._deaf = False  # and that did not help
        self._was_mute = False
        self._power_cut_ns: int | None = None
        self._power = ""  # what was last tried with the USB port
        self._floods_logged = False
        self._lost_reason: str | None = None
        self._detail = ""
        self._last_byte_ns = 0
        self._switch = _SWITCHES[0]
        self._is_read_back = True
        self._in_words = self._answered_in_words = False
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
                        self._hearing.pass_time(time.monotonic_ns())
                        if self._hearing.silent_calls >= DEAF_CALLS:
                            self._cure(tty)
                        if time.monotonic_ns() - self._last_byte_ns > PROBE_S * 1e9:
                            self._probe(tty)
                except termios.error as error:  # not an OSError
                    raise OSError(errno.EIO, str(error)) from error
        except _Mute as fault:
            if self._was_mute:  # twice: it may be wedged
                self._cut_power()
            self._was_mute = True
            self._lost(
                f"{fault}{self._power}; unplug the modem for 10 s and plug it in again, or put the right port "
                "into the settings."
            )
        except _Fault as fault:
            self._lost(str(fault))
        except OSError as error:  # serial.SerialException is one
            self._lost(self._sentence(error))
        # Whatever was cut off by the failure ends here, not after the replug.
        self._post_all(self._text.tick(time.monotonic_ns() + QUIET_NS))
        if self._capture:
            self._capture.flush()
        return was_ready

    def _cure(self, tty: serial.Serial) -> None:
        """It rings and tells no caller: set it up again; where that did not help, cut its power.

        Where its power cannot be cut it goes on ringing, which is better than nothing.
        """
        log.warning("event=modem_deaf line=%d set_up_again=%s", self._line, self._set_up_again)
        if not self._set_up_again:
            self._set_up_again = True
            self._hearing.silent_calls = DEAF_CALLS - 1
            self._set_up(tty)
            return
        self._hearing.silent_calls = 0
        self._deaf = True
        was_cut = self._cut_power()
        sentence = (
            f"The modem at {self._port} reports rings but no caller any more{self._power}; unplug it for 10 s and "
            "plug it in again."
        )
        if was_cut:
            raise _Fault(sentence)
        self._lost(sentence)

    def _cut_power(self) -> bool:
        """Cut the USB port's power for a moment, at most once an hour; whether it was done now."""
        now_ns = time.monotonic_ns()
        if self._power_cut_ns is not None and now_ns - self._power_cut_ns < POWER_CUT_EVERY_S * 1e9:
            return False
        self._power_cut_ns = now_ns
        cut, self._power = cut_power(self._port)
        log.warning("event=modem_power_cut line=%d done=%s how=%r", self._line, cut, self._power)
        return cut

    def _set_up(self, tty: serial.Serial) -> None:
        self._text.asked = False
        self._in_words = False
        if not any(self._ask(tty, "ATZ") for _ in range(3)):
            if self._closing.is_set():
                return
            raise _Mute(f"The device at {self._port} does not answer to AT commands")
        self._was_mute = False
        for _ in range(20):  # late answers to an ATZ that was sent again
            if not self._receive(tty):
                break
        self._order(tty, "ATE0")
        self._order(tty, "ATV1")
        self._in_words = self._answered_in_words
        self._order(tty, "ATS0=0")  # never answer a call by itself
        identity, name = self._identify(tty)
        model = MODELS[name]
        refused = [command for command in model.region[self._region] if self._ask(tty, command)[-1:] != ["OK"]]
        if not self._switch_on(tty):
            if self._closing.is_set():
                return
            raise _Fault(
                f"The modem at {self._port} ({identity}) does not switch caller ID on; unplug it for 10 s and plug it "
                "in again, or use a modem with caller ID."
            )
        detail = f"{identity} at {self._port}, model {name}, {self._switch.command}, region {self._region}"
        if not self._is_read_back:
            detail += ", not read back: the modem cannot be asked"
        if refused:
            detail += f", refused {' '.join(refused)}"
        if model.caution and re.search(model.caution[0], identity):
            detail += f", {model.caution[1]}"
        log.info("event=modem_ready line=%d detail=%r", self._line, detail)
        self._detail = detail
        self._ready()

    def _ready(self) -> None:
        self._deaf = False
        self._power = ""
        self._lost_reason = None
        self._post(DeviceReady(at_ns=time.monotonic_ns(), device="modem", line=self._line, detail=self._detail))

    def _identify(self, tty: serial.Serial) -> tuple[str, str]:
        """What the modem calls itself, and the model that the settings or its answers name."""
        said: list[str] = []
        for command in _IDENTITIES:
            answers = self._ask(tty, command)
            if answers[-1:] != ["OK"]:
                continue
            said += [answer for answer in answers[:-1] if not _SPEAKS_OF_A_CALL(answer)]
            for name, model in MODELS.items():
                for answer in said:
                    if model.identity and re.search(model.identity, answer):
                        return answer, name if self._model == "auto" else self._model
            if said and self._model != "auto":
                break
        return said[0] if said else "unnamed modem", "generic" if self._model == "auto" else self._model

    def _switch_on(self, tty: serial.Serial) -> bool:
        """Switch caller ID on by the first command that can be read back, else by one that cannot be."""
        unread: list[_Switch] = []
        for switch in _SWITCHES:
            if self._ask(tty, switch.command)[-1:] == ["OK"]:
                is_on = self._is_on(tty, switch)
                if is_on:
                    self._switch, self._is_read_back = switch, True
                    return True
                if is_on is None:
                    unread.append(switch)
            if "FCLASS" in switch.command:
                self._ask(tty, "AT+FCLASS=0")
            if self._closing.is_set():
                return False
        if not unread:
            return False
        self._switch, self._is_read_back = unread[0], False
        return self._ask(tty, self._switch.command)[-1:] == ["OK"]

    def _is_on(self, tty: serial.Serial, switch: _Switch) -> bool | None:
        """Whether caller ID is on; None: the modem cannot be asked."""
        if switch.query is None:
            return None
        *answers, result = self._ask(tty, switch.query) or ["OK"]
        if any(re.fullmatch(rf"(?:[+#%]V?C?CID ?[:=] ?)?{switch.on}", answer) for answer in answers):
            return True
        return None if result == "ERROR" else False

    def _probe(self, tty: serial.Serial) -> None:
        """Ask an idle modem whether it still reports caller ID; a power dip may have reset it."""
        if self._is_read_back:
            is_on = self._is_on(tty, self._switch) is True
        else:
            is_on = self._ask(tty, self._switch.command)[-1:] == ["OK"]
        if is_on:
            if self._capture:
                self._capture.forget()
        elif not self._closing.is_set():
            log.warning("event=modem_forgot_caller_id line=%d", self._line)
            self._set_up(tty)

    def _order(self, tty: serial.Serial, command: str) -> None:
        if self._ask(tty, command)[-1:] != ["OK"] and not self._closing.is_set():
            raise _Fault(f"The modem at {self._port} refuses {command}; unplug it for 10 s and plug it in again.")

    def _ask(self, tty: serial.Serial, command: str) -> list[str]:
        """Send a command; return its answer's lines, the last being OK or ERROR; [] if none came in time.

        A modem that does not answer in words has answered when nothing follows a digit. Rings and caller ID that come
        in between are posted as ever.
        """
        until_ns = time.monotonic_ns() + int(ANSWER_S * 1e9)
        received = b""
        self._text.asked = True
        if self._capture:
            self._capture.sent(command.encode() + b"\r")
        try:
            tty.write(command.encode() + b"\r")
            while time.monotonic_ns() < until_ns and not self._closing.is_set():
                more = self._receive(tty)
                received = (received + more)[-4096:]
                *whole, rest = re.split(r"[\r\n\0]+", _EVENT.sub(b"", received).decode("latin-1"))
                answers = [line.strip() for line in whole if line.strip() not in ("", command)]
                for at, answer in enumerate(answers):
                    result = _RESULTS.get(answer)
                    is_last = not more and not rest and at == len(answers) - 1
                    if result and (answer == result or (is_last and not self._in_words)):
                        self._answered_in_words = answer == result
                        return [*(a for a in answers[:at] if not a.startswith("RING")), result]
            return []
        finally:
            self._text.asked = False

    def _receive(self, tty: serial.Serial) -> bytes:
        """Wait a moment for bytes, post what they mean and return them."""
        data: bytes = tty.read(1)
        at_ns = time.monotonic_ns()
        if not data:
            self._post_all(self._text.tick(at_ns))
            if self._capture and not self._text.asked:
                self._capture.flush()
            return data
        data += tty.read(tty.in_waiting)
        self._last_byte_ns = at_ns
        if self._capture:
            self._capture.received(data)
        self._post_all(self._text.feed(data, at_ns))
        if self._text.floods and not self._floods_logged:
            self._floods_logged = True
            log.warning("event=modem_flood line=%d port=%s", self._line, self._port)
        return data

    def _post_all(self, signals: list[Signal]) -> None:
        for signal in signals:
            self._hearing.heard(signal)
            if isinstance(signal, CallerIdReceived):
                self._set_up_again = False
                if self._deaf:
                    self._ready()
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


def cut_power(port: str) -> tuple[bool, str]:
    """Take the device behind a serial port off USB for POWER_OFF_S; whether it was done, and words for a sentence.

    By the hub's port, where kernel and hub can; by uhubctl, where it is installed; else by leaving the device without a
    driver for the moment, which resets most. Takes POWER_OFF_S; needs the right to write there.
    """
    tty = (SYSFS / "class" / "tty" / Path(port).resolve().name / "device").resolve()
    usb = next((device for device in (tty, *tty.parents) if (device / "authorized").is_file()), None)
    if usb is None:
        return False, ""  # not on USB
    hub_port = (usb / "port").resolve() / "disable"  # the device's folder goes with its power
    if _switched(hub_port, "1", "0") or _hub_switched(usb.name):
        return True, ", although its USB power was cut for a moment"
    if _switched(usb / "authorized", "0", "1"):
        return True, ", although it was taken off USB for a moment"
    return False, ", and the recorder may not switch its USB port off"


def _switched(switch: Path, off: str, on: str) -> bool:
    try:
        with switch.open("r+") as file:
            file.write(off)
        sleep(POWER_OFF_S)
        with switch.open("r+") as file:
            file.write(on)
    except OSError as error:
        log.debug("event=usb_switch_failed path=%s reason=%r", switch, error.strerror)
        return False
    return True


def _hub_switched(device: str) -> bool:
    """By uhubctl; device as the kernel names it, 1-1.3: port 3 of hub 1-1; 1-1: port 1 of the root hub 1."""
    uhubctl = shutil.which("uhubctl")
    hub, _, number = device.rpartition("." if "." in device else "-")
    if not uhubctl:
        return False
    try:
        done = subprocess.run(
            [uhubctl, "-l", hub, "-p", number, "-a", "cycle", "-d", str(POWER_OFF_S)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=POWER_OFF_S + 20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
