"""Caller-ID frames as an exchange sends them: the octets of a message, and the sound of a frame at any moment.

Written from the standards' tables, and sharing nothing with the unit's own receiver, so that each proves the other.
1200 bit/s, start bit 0, least significant bit first, stop bit 1; the phase never jumps. Times are ns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Standard = Literal["bell202", "v23", "jp"]
Reason = Literal["withheld", "unavailable", "payphone", "service_conflict"]

REASONS: dict[Reason, bytes] = {"withheld": b"P", "unavailable": b"O", "payphone": b"C", "service_conflict": b"S"}
_TONES_HZ: dict[Standard, tuple[int, int]] = {  # space, mark
    "bell202": (2200, 1200),
    "v23": (2100, 1300),
    "jp": (2100, 1300),
}
_BITS_HZ = 1200
_SECOND_NS = 1_000_000_000
_DLE, _SOH, _STX, _ETX = 0x90, 0x81, 0x82, 0x03  # even parity in bit 7


@dataclass(frozen=True, slots=True)
class Caller:
    """What the exchange knows of a caller: a number, or the reason for none."""

    number: str | None
    reason: Reason | None
    name: str | None
    date: str  # MMDDhhmm


def sdmf(caller: Caller) -> bytes:
    """The single data message format: type, length, date and number (or the letter of the reason), checksum."""
    return _checked(0x04, caller.date.encode() + _shown(caller))


def mdmf(caller: Caller, *, call_type: bool = False) -> bytes:
    """The multiple data message format; call_type: ETSI's first parameter, 01 for a call of voice."""
    parameters = [(0x11, b"\x01")] if call_type else []
    parameters.append((0x01, caller.date.encode()))
    parameters.append((0x04 if caller.reason else 0x02, _shown(caller)))
    if caller.name:
        parameters.append((0x07, caller.name.encode("latin-1", "replace")))
    return _checked(0x80, b"".join(bytes((kind, len(value))) + value for kind, value in parameters))


def number_display(caller: Caller, *, waiting: bool = False) -> bytes:
    """The Japanese frame, parity and stuffing included, from the first DLE to the CRC; waiting: of a second call."""
    parameters = [(0x01, caller.date.encode()), (0x04 if caller.reason else 0x02, _shown(caller))]
    if caller.name and caller.name.isascii():  # a character has 7 bits
        parameters.append((0x07, caller.name.encode()))
    body = b"".join(bytes((kind, len(value))) + value for kind, value in parameters)
    content = bytearray()
    for octet in bytes((0x41 if waiting else 0x40, len(body))) + body:
        even = octet | octet.bit_count() % 2 << 7
        content += bytes((even, even)) if even == _DLE else bytes((even,))
    covered = bytes((0x87, _DLE, _STX, *content, _DLE, _ETX))
    return bytes((_DLE, _SOH)) + covered + _crc(covered).to_bytes(2, "little")


def damaged(octets: bytes) -> bytes:
    """One bit in the middle of a message is wrong; its checksum is not."""
    at = len(octets) // 2
    return octets[:at] + bytes((octets[at] ^ 0x04,)) + octets[at + 1 :]


def _shown(caller: Caller) -> bytes:
    return REASONS[caller.reason] if caller.reason else (caller.number or "").encode()


def _checked(kind: int, body: bytes) -> bytes:
    message = bytes((kind, len(body))) + body
    return message + bytes((-sum(message) % 256,))


def _crc(octets: bytes) -> int:
    """CRC-16 of X^16 + X^12 + X^5 + 1, bits in the order of sending, from 0."""
    crc = 0
    for octet in octets:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x8408 if crc & 1 else 0)
    return crc


class Frame:
    """A message on its way over the wire: channel seizure (alternating bits), mark bits, the octets, a last mark."""

    def __init__(self, standard: Standard, octets: bytes, *, seizure_bits: int = 0, mark_bits: int = 80) -> None:
        self.octets = octets
        bits = [0, 1] * (seizure_bits // 2) + [1] * mark_bits
        for octet in octets:
            bits += [0, *(octet >> place & 1 for place in range(8)), 1]
        bits += [1] * 4
        self.length_ns = len(bits) * _SECOND_NS // _BITS_HZ
        self._hertz = np.array([_TONES_HZ[standard][bit] for bit in bits], dtype=np.float64)
        self._turns = np.concatenate(([0.0], np.cumsum(self._hertz[:-1]) / _BITS_HZ))  # before each bit

    def at(self, since_ns: Any) -> Any:
        """The sound, 1.0 rms, at times within the frame (an array of ns)."""
        bits_since = since_ns * (_BITS_HZ / _SECOND_NS)
        bit = np.clip(bits_since.astype(np.int64), 0, len(self._hertz) - 1)
        turns = self._turns[bit] + (bits_since - bit) * self._hertz[bit] / _BITS_HZ
        return 2**0.5 * np.sin(2 * np.pi * turns)
