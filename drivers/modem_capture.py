"""What went over a modem's serial port, kept for support: written by the unit, read again with captures of others.

A line each, `2026-11-23T03:00:00.123Z < \\r\\nRING\\r\\n`: the time in UTC, < received or > sent, and the bytes, with
\\xHH for what is not printable. Keys that the modem reported are written as ?: they may be PINs.
"""

from __future__ import annotations

import datetime
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

MOST_BYTES = 256 * 1024  # beyond it the older half goes
HOUR_BYTES = 64 * 1024  # a port that floods must not wear out the card
_HOUR_NS = 3_600_000_000_000
_PENDING_BYTES = 1024

_ESCAPED = {0x0D: "\\r", 0x0A: "\\n", 0x5C: "\\\\"}
_OWN = re.compile(rb"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3})Z ([<>]) (.*)")
# Not behind the first byte of a Shift_JIS character, whose second may be a backslash.
_ESCAPE = re.compile(rb"(?<![\x81-\x9f\xe0-\xfc])\\(?:x([0-9A-Fa-f]{2})|([rn\\'\"t]))")
_PLAIN = {b"r": b"\r", b"n": b"\n", b"t": b"\t"}
_QUOTES = re.compile(rb"\s*[bB]?['\"]|.*\b[bB]['\"]")
# Each character can be read in one way only and no escaped quote begins a text: time grows with the line, no faster.
_QUOTED = re.compile(rb"(?<!\\)[bB]?([\"'])((?:[\x81-\x9f\xe0-\xfc]\\|\\.|(?!\1)[^\\])*+)\1")
_RESULT = re.compile(rb"(?:^|[\r\n])(?:OK|ERROR)[\r\n]")


class Capture:
    """A file of at most MOST_BYTES, readable by its owner alone. Thread: one at a time.

    Nothing is written before flush(), which the owner calls in quiet moments, but what is more than 1 kB. A disk that
    fails is logged once; what could not be written is gone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: list[tuple[str, float, bytearray]] = []  # direction, wall clock, bytes
        self._shield = 0  # 1: after DLE, 2: after DLE /
        self._hour_from_ns = time.monotonic_ns()
        self._hour_bytes = 0
        self._failed = False

    def received(self, data: bytes) -> None:
        self._add("<", self._masked(data))

    def sent(self, data: bytes) -> None:
        self._add(">", data)

    def _add(self, direction: str, data: bytes) -> None:
        if sum(len(pending) for _, _, pending in self._pending) > _PENDING_BYTES:
            self.flush()
        if not self._pending or self._pending[-1][0] != direction:
            self._pending.append((direction, time.time(), bytearray()))
        self._pending[-1][2].extend(data)

    def forget(self) -> None:
        """Write nothing of what is pending: a question that is asked every few minutes, and its usual answer."""
        self._pending.clear()

    def flush(self) -> None:
        """Write what is pending."""
        lines = "".join(map(_line, self._pending)).encode()
        self._pending.clear()
        if not lines:
            return
        now_ns = time.monotonic_ns()
        if now_ns - self._hour_from_ns > _HOUR_NS:
            self._hour_from_ns, self._hour_bytes = now_ns, 0
        self._hour_bytes += len(lines)
        if self._hour_bytes > HOUR_BYTES:
            return
        try:
            self._write(lines)
            self._failed = False
        except OSError as error:
            level = logging.DEBUG if self._failed else logging.WARNING
            log.log(level, "event=modem_capture_failed path=%s reason=%r", self._path, error.strerror)
            self._failed = True

    def _write(self, lines: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        if self._path.exists() and self._path.stat().st_size + len(lines) > MOST_BYTES:
            newer = self._path.read_bytes()[-MOST_BYTES // 2 :]
            aside = self._path.with_suffix(".new")
            self._append(aside, newer[newer.find(b"\n") + 1 :], os.O_TRUNC)
            aside.replace(self._path)
        self._append(self._path, lines, os.O_APPEND)

    @staticmethod
    def _append(path: Path, data: bytes, how: int) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600)
        try:
            os.write(file, data)
        finally:
            os.close(file)

    def _masked(self, data: bytes) -> bytes:
        """DLE and a key with the key as ?, in any chunking."""
        if not self._shield and b"\x10" not in data:
            return data
        masked = bytearray(data)
        for at, byte in enumerate(data):
            if self._shield and byte in b"0123456789ABCD*#":
                masked[at], self._shield = 0x3F, 0
            elif byte == 0x10:
                self._shield = 0 if self._shield == 1 else 1
            else:
                self._shield = 2 if self._shield == 1 and byte == 0x2F else 0
        return bytes(masked)


def _line(pending: tuple[str, float, bytearray]) -> str:
    direction, wall_s, data = pending
    at = datetime.datetime.fromtimestamp(wall_s, datetime.UTC).isoformat(timespec="milliseconds")
    text = "".join(_ESCAPED.get(b) or (chr(b) if 0x20 <= b < 0x7F else f"\\x{b:02x}") for b in data)
    return f"{at.removesuffix('+00:00')}Z {direction} {text}\n"


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that a modem wrote. at: as the capture tells it; at_ns: the same, 0 where it does not tell.

    asked: a command was waiting for its answer.
    """

    at: str | None
    at_ns: int
    asked: bool
    data: bytes


def read(captured: bytes) -> Iterator[Piece]:
    """The pieces of a capture: the unit's own, or raw bytes, or a log of them with escapes, quotes or prefixes."""
    lines = captured.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    own = [match for line in lines if (match := _OWN.fullmatch(line))]
    return _read_own(own) if own else _read_any(lines)


def _read_own(lines: list[re.Match[bytes]]) -> Iterator[Piece]:
    asked = False
    at_ns = 0
    for line in lines:
        if line[2] == b">":
            asked = True
            continue
        try:
            at = datetime.datetime.fromisoformat(line[1].decode() + "+00:00")
        except ValueError:
            continue
        at_ns = max(at_ns, round(at.timestamp() * 1000) * 1_000_000)  # the clock may have been set back
        data = _unescaped(line[3])
        yield Piece(line[1].decode() + "Z", at_ns, asked, data)
        asked = asked and not _RESULT.search(data)


def _read_any(lines: list[bytes]) -> Iterator[Piece]:
    asked = False
    for number, line in enumerate(lines, 1):
        ended = b"\n" if number < len(lines) else b""
        if _QUOTES.match(line):
            texts = [_unescaped(quoted[2]) for quoted in _QUOTED.finditer(line)]
            data = b"".join(text if text.endswith((b"\r", b"\n")) else text + b"\r\n" for text in texts)
        else:
            data = _unescaped(line) + ended
        words = data.strip().upper()
        asked = words.startswith(b"AT") or (asked and words not in (b"OK", b"ERROR"))
        yield Piece(None, 0, asked, data)


def _unescaped(text: bytes) -> bytes:
    def plain(match: re.Match[bytes]) -> bytes:
        return bytes.fromhex(match[1].decode()) if match[1] else _PLAIN.get(match[2], match[2])

    return _ESCAPE.sub(plain, text)
