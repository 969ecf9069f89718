"""The unit's clocks and ids: what the operating system says of the time, and how far that can be trusted."""

from __future__ import annotations

import ctypes
import secrets
import time
import uuid
from pathlib import Path

from firmware.core.call import ClockRead, ClockState

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2); modes = 0 reads without setting. Its fields are not looked at."""

    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_byte * 252))


def read_clock() -> ClockRead:
    return ClockRead(mono_ns=time.monotonic_ns(), wall_ns=time.time_ns(), state=_clock_state())


def _clock_state() -> ClockState:
    state = ctypes.CDLL(None).adjtimex(ctypes.byref(_Timex()))
    if 0 <= state < _TIME_ERROR:
        return "ntp"
    return "rtc" if Path("/dev/rtc0").exists() else "unsynced"


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def new_call_id() -> str:
    return uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10))


def uuid7(unix_ms: int, random: bytes) -> str:
    """A UUID version 7 (RFC 9562, 5.7): 48 bits of Unix milliseconds, then random bits (10 bytes given)."""
    value = int.from_bytes(unix_ms.to_bytes(6, "big") + random, "big")
    value &= ~(0xF << 76 | 0x3 << 62)
    return str(uuid.UUID(int=value | 0x7 << 76 | 0x2 << 62))
