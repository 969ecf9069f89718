"""A modem that is not there: the bytes a caller-ID modem writes, and a modem behind a pseudo terminal that writes them.

Not simulated: sound, data and fax modes, dialling and answering, country rules (a region command is taken and changes
nothing), S-registers but S0, speed and flow control, the time a modem needs to demodulate, line noise (write_raw can).
"""

from __future__ import annotations

import binascii
import os
import re
import select
import threading
import time
import tty
from pathlib import Path
from typing import Literal

from drivers.signals import Presentation

Dialect = Literal["conexant", "usr", "rockwell", "zyxel", "hex", "agere", "silabs", "voice"]

_IDENTITY: dict[Dialect, str] = {  # the answer to ATI3
    "conexant": "CX93001-EIS_V0.2013-V92",
    "usr": "U.S. Robotics 56K FAX USB V1.2.23",
    "rockwell": "V2.200-V34_DS",
    "zyxel": "U1496E V 6.22",
    "hex": "V90 SoftModem V2.1",
    "agere": "Agere SoftModem Version 2.1.77",
    "silabs": "",  # names itself at ATI6 only
    "voice": "V1.0-V34_VOICE",
}
_LETTER: dict[Presentation, str] = {"withheld": "P", "unavailable": "O", "payphone": "C", "service_conflict": "S"}
_HEX = ("hex", "agere", "silabs")
_DIGITS = {"OK": "0", "ERROR": "4"}
_WRITE_S = 1.0  # a modem has no memory: what nobody reads for so long is gone


def ring_bytes(pattern: str | None = None, words: bool = True) -> bytes:
    """One RING, with a distinctive-ring suffix where given; words False: the digit of ATV0."""
    return f"\r\nRING{' ' + pattern if pattern else ''}\r\n".encode() if words else b"2\r"


def caller_id_bytes(
    dialect: Dialect, number: str | None, presentation: Presentation, name: str | None, date_raw: str
) -> bytes:
    """One caller-ID block. date_raw: MMDDhhmm.

    As real modems do, nothing is written for "not_received", nor for "corrupt": a bad checksum is hidden. Only those
    that write hexadecimal hand a bad checksum on. "silabs" is on a Japanese line; its frames carry no name.
    """
    if presentation == "not_received" or (presentation == "corrupt" and dialect not in _HEX):
        return b""
    shown = (number or "") if presentation in ("allowed", "corrupt") else _LETTER[presentation]
    date, hour = date_raw[:4], date_raw[4:]
    caller = name.encode("cp932", "replace") if name else b""
    if dialect in _HEX:
        octets = (
            _japanese(shown, presentation, date_raw)
            if dialect == "silabs"
            else _mdmf(shown, presentation, caller, date_raw)
        )
        return b"\r\n" + (b"MESG = " if dialect == "hex" else b"") + octets.hex().upper().encode() + b"\r\n"
    if dialect == "zyxel":
        lines = [f"TIME: {date[:2]}-{date[2:]} {hour[:2]}:{hour[2:]}", f"CALLER NUMBER: {shown}"]
        named = b"CALLER NAME: "
    else:
        equals = "=" if dialect in ("usr", "voice") else " = "
        lines = [f"DATE{equals}{date}", f"TIME{equals}{hour}", f"NMBR{equals}{shown}"]
        named = f"NAME{equals}".encode()
    block = [line.encode() for line in lines]
    if caller:
        # The name before the number, as on some real lines.
        block.insert(2 if dialect == "rockwell" else len(block), named + caller)
    text = b"\r\n" + b"".join(line + b"\r\n" for line in block)
    return b"\x10X" + text + b"\x10." if dialect == "voice" else text


def _japanese(shown: str, presentation: Presentation, date_raw: str) -> bytes:
    """A Number Display frame as it is on the wire: even parity, stuffed, CRC-16/KERMIT low byte first."""
    kind = 0x02 if presentation in ("allowed", "corrupt") else 0x04
    parameters = bytes((0x01, len(date_raw))) + date_raw.encode() + bytes((kind, len(shown))) + shown.encode()
    content = bytes((0x40, len(parameters))) + parameters
    plain = b"\x07\x10\x02" + content.replace(b"\x10", b"\x10\x10") + b"\x10\x03"
    wire = bytes(octet | octet.bit_count() % 2 << 7 for octet in plain)
    # KERMIT is CCITT with the bits of every octet, and of the result, the other way round.
    crc = int(f"{binascii.crc_hqx(bytes(int(f'{octet:08b}'[::-1], 2) for octet in wire), 0):016b}"[::-1], 2)
    return b"\x90\x81" + wire + (crc ^ (0x0100 if presentation == "corrupt" else 0)).to_bytes(2, "little")


def _mdmf(shown: str, presentation: Presentation, name: bytes, date_raw: str) -> bytes:
    has_number = presentation in ("allowed", "corrupt")
    parameters = [(0x01, date_raw.encode()), (0x02 if has_number else 0x04, shown.encode()), (0x07, name)]
    body = b"".join(bytes((kind, len(value))) + value for kind, value in parameters if value)
    message = bytes((0x80, len(body))) + body
    checksum = -sum(message) % 256
    return message + bytes((checksum ^ (0x55 if presentation == "corrupt" else 0),))


class VirtualModem:
    """A modem at link, a path that stays the same over unplug() and plug(), as below /dev/serial/by-id.

    It echoes, answers in words or digits and forgets caller ID at ATZ and when unplugged, like a real one.
    deaf: answers and rings, but reports no caller ID; mute: says nothing at all; both until power is cut (unplugged).
    slow_s: how long it takes to answer. Thread: methods from any one thread; one thread serves the pty.
    """

    def __init__(self, link: Path, dialect: Dialect = "conexant") -> None:
        self.port = str(link)
        self.slow_s = 0.0
        self._link = link
        self._dialect = dialect
        self._lock = threading.Lock()  # guards the master against being closed under a writer
        self._master: int | None = None
        self._slave: int | None = None
        self._wake: int | None = None
        self._thread: threading.Thread | None = None
        self._reset()
        self.plug()

    @property
    def reports_caller_id(self) -> bool:
        """Whether caller ID is switched on."""
        return self._settings["VCID"] == ("2" if self._dialect == "agere" else "1")

    def plug(self) -> None:
        """Connect the USB cable: a new terminal, factory settings. Nothing if connected."""
        if self._thread is not None:
            return
        self._reset()
        self.deaf = self.mute = False
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        wake, self._wake = os.pipe()
        self._thread = threading.Thread(
            target=self._serve, args=(self._master, wake), name="virtual-modem", daemon=True
        )
        self._thread.start()
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(os.ttyname(self._slave))

    def unplug(self) -> None:
        """Pull the USB cable: the path goes, and whoever has it open gets errors. Nothing if not connected."""
        if self._thread is None or self._master is None or self._slave is None or self._wake is None:
            return
        self._link.unlink(missing_ok=True)
        os.close(self._wake)
        self._thread.join()
        with self._lock:
            os.close(self._master)
            os.close(self._slave)
            self._master = self._slave = self._wake = self._thread = None

    def close(self) -> None:
        self.unplug()

    def ring(self, pattern: str | None = None) -> None:
        """Report one ring; in voice mode as an event."""
        if self._settings["FCLASS"] == "8":
            self.event("R")
        else:
            self.write_raw(ring_bytes(pattern, words=self._words))

    def event(self, code: str) -> None:
        """Report an event as in voice mode: R ring, h and H line current broken and restored, P another phone; or a
        key with the start and end of its tone.
        """
        codes = code if code.isalpha() and code not in "ABCD" else f"/{code}~"
        self.write_raw(b"".join(b"\x10" + one.encode() for one in codes))

    def caller_id(self, number: str | None, presentation: Presentation, name: str | None, date_raw: str) -> None:
        """Report a caller, if caller ID is switched on and the modem is not deaf. date_raw: MMDDhhmm."""
        if self.reports_caller_id and not self.deaf:
            self.write_raw(caller_id_bytes(self._dialect, number, presentation, name, date_raw))

    def write_raw(self, data: bytes) -> None:
        """Write any bytes; what nobody reads within a second, or with the cable unplugged, is lost."""
        with self._lock:
            if self._master is None or self.mute:
                return
            until = time.monotonic() + _WRITE_S
            while data and select.select([], [self._master], [], max(0.0, until - time.monotonic()))[1]:
                written = os.write(self._master, data)
                data = data[written:]
                until = time.monotonic() + _WRITE_S

    def answer(self, command: str) -> tuple[str, str]:
        """Information text and result word of one command (without AT, upper case), as E0, S0=0, +VCID?, #CID=1."""
        if extended := re.fullmatch(r"([+#])([A-Z]+)(=\?|\?|=.*)?", command):
            return self._answer_extended(extended[1] + extended[2], extended[3] or "")
        if self._dialect == "conexant" and re.fullmatch(r"!4886=0[0-3]", command):
            return "", "OK"
        rest = command
        information = ""
        while basic := re.match(r"(?P<letter>[EV])(?P<on>[01]?)|(?P<reset>Z)\d?|I(?P<page>\d?)|S0=\d{1,3}", rest):
            rest = rest[basic.end() :]
            if basic["letter"] == "E":
                self._echo = basic["on"] == "1"
            elif basic["letter"] == "V":
                self._words = basic["on"] == "1"
            elif basic["reset"]:
                self._reset()
            elif basic["page"] is not None:
                information += self._page(basic["page"])
        return information, "ERROR" if rest else "OK"

    def _page(self, page: str) -> str:
        if self._dialect == "silabs":
            return {"": "C", "0": "C", "3": "18F", "6": "2457"}.get(page, "")
        return _IDENTITY[self._dialect] if page == "3" else "56000"

    def _answer_extended(self, name: str, operation: str) -> tuple[str, str]:
        key = {"+VCID": "VCID", "#CID": "VCID", "+GCI": "GCI", "+FCLASS": "FCLASS", "+VCDT": "VCDT"}.get(name)
        if (
            key is None
            or (name == "+VCID" and self._dialect == "rockwell")  # is older than +VCID
            or (name == "#CID" and self._dialect in ("agere", "silabs", "voice"))
            or (name == "+VCDT" and self._dialect != "silabs")
            or (key == "VCID" and self._dialect == "voice" and self._settings["FCLASS"] != "8")
        ):
            return "", "ERROR"
        values = {"VCID": "02" if self._dialect == "agere" else "012", "VCDT": "0123"}.get(key)
        match operation:
            case "=?":
                return f"({','.join(values)})" if values else "", "OK"
            case "?":
                return self._settings[key], "OK"
            case _ if re.fullmatch(f"=[{values}]" if values else r"=[0-9A-F]+", operation):
                self._settings[key] = operation[1:]
                return "", "OK"
        return "", "ERROR"

    def _reset(self) -> None:
        self._echo = True
        self._words = True
        self._settings = {"VCID": "0", "GCI": "B5", "FCLASS": "0", "VCDT": "0"}

    def _serve(self, master: int, wake: int) -> None:
        typed = b""
        while True:
            readable = select.select([master, wake], [], [])[0]
            if wake in readable:
                os.close(wake)
                return
            for byte in os.read(master, 1024):
                if self._echo:
                    self.write_raw(bytes((byte,)))
                if byte != 0x0D:
                    typed = (typed + bytes((byte,)))[-256:] if byte != 0x0A else typed
                    continue
                at = typed.upper().rfind(b"AT")
                commands, typed = typed[at + 2 :].decode("latin-1").upper().strip() if at >= 0 else None, b""
                if commands is not None:
                    self._execute(commands)

    def _execute(self, commands: str) -> None:
        time.sleep(self.slow_s)
        result = "OK"
        for command in commands.split(";"):
            information, result = self.answer(command.replace(" ", ""))
            if information:
                self.write_raw(f"\r\n{information}\r\n".encode())
            if result != "OK":
                break
        self.write_raw((f"\r\n{result}\r\n" if self._words else f"{_DIGITS[result]}\r").encode())
