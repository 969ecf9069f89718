"""Caller-ID frames of the virtual line: octets as the standards' vectors have them, sound as libspandsp hears it."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from drivers.virtual import fsk
from drivers.virtual.line import VirtualLine
from drivers.virtual.scenario import parse

CALLER = fsk.Caller(number="0312345678", reason=None, name=None, date="11240900")
SPANDSP = ctypes.util.find_library("spandsp")
CLASS, CLIP, JCLIP, CLIP_DTMF = 1, 2, 4, 5  # libspandsp's names of the standards


def heard_by_spandsp(line: VirtualLine, standard: int, from_s: float, until_s: float) -> list[bytes]:
    """Messages that libspandsp decodes from the line's sound, without their checksums."""
    if SPANDSP is None:
        pytest.skip("libspandsp is not installed (Debian: libspandsp2)")
    library = ctypes.CDLL(SPANDSP)
    receiver = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_ubyte), ctypes.c_int)
    library.adsi_rx_init.restype = ctypes.c_void_p
    library.adsi_rx_init.argtypes = [ctypes.c_void_p, ctypes.c_int, receiver, ctypes.c_void_p]
    library.adsi_rx.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    library.adsi_rx_free.argtypes = [ctypes.c_void_p]
    messages: list[bytes] = []
    put = receiver(lambda _, octets, count: messages.append(bytes(octets[:count])))
    state = library.adsi_rx_init(None, standard, put, None)
    for first in range(round(from_s * 8000), round(until_s * 8000), 160):
        library.adsi_rx(state, line.pcm(first, 160), 160)
    library.adsi_rx_free(state)
    return messages


def a_line(text: str) -> VirtualLine:
    return VirtualLine(parse(f"title x\n{text}", Path("x.txt")))


def test_japanese_vector() -> None:
    """Parity, stuffing and CRC, against frames whose octets are known."""
    without_date = "90 81 87 90 82 c0 0c 82 0a 30 33 b1 b2 33 b4 35 36 b7 b8 90 03 fb 52"
    assert fsk._crc(bytes.fromhex(without_date)[2:-2]) == 0x52FB
    octets = fsk.number_display(CALLER)
    assert octets[:7] == bytes.fromhex("90818790 82c096".replace(" ", ""))
    assert octets[7:].startswith(bytes.fromhex("8188") + bytes.fromhex("b1b1b2b430393030"))
    assert bytes.fromhex("820a3033b1b233b43536b7b8") in octets
    assert fsk._crc(octets[2:]) == 0


def test_a_length_of_0x10_is_sent_twice() -> None:
    octets = fsk.number_display(fsk.Caller(number="1104", reason=None, name=None, date="11240900"))
    assert octets[5:8] == bytes.fromhex("c09090")
    assert fsk._crc(octets[2:]) == 0


@pytest.mark.parametrize("make", [fsk.sdmf, fsk.mdmf])
def test_checksum_of_bell_messages(make: object) -> None:
    assert callable(make)
    message = make(CALLER)
    assert sum(message) % 256 == 0
    assert message[1] == len(message) - 3
    assert sum(fsk.damaged(message)) % 256 != 0


def test_phase_never_jumps() -> None:
    frame = fsk.Frame("bell202", fsk.mdmf(CALLER), seizure_bits=300, mark_bits=180)
    sound = frame.at(np.arange(0, frame.length_ns, 10_000))
    assert np.abs(np.diff(sound)).max() < 2**0.5 * 2 * np.pi * 2200 * 1e-5 * 1.01
    assert np.sqrt(np.mean(np.square(sound))) == pytest.approx(1, abs=0.01)


def parameters(message: bytes) -> Iterator[tuple[int, bytes]]:
    at = 2
    while at < len(message):
        yield message[at], message[at + 2 : at + 2 + message[at + 1]]
        at += 2 + message[at + 1]


@pytest.mark.parametrize(
    ("head", "standard", "tail"),
    [
        ("country us", CLASS, 'name "MAPLE"'),
        ("country uk", CLIP, ""),
        ("country etsi", CLIP, ""),
    ],
)
def test_spandsp_reads_the_frames(head: str, standard: int, tail: str) -> None:
    line = a_line(f"{head}\n2 call from 212-555-0123 {tail}\n14 give up")
    (message,) = heard_by_spandsp(line, standard, 0, 14)
    found = dict(parameters(message))
    assert message[0] == 0x80
    assert found[0x01] == b"11240900"
    assert found[0x02] == b"2125550123"
    assert found.get(0x07) == (b"MAPLE" if tail else None)


def test_spandsp_reads_sdmf() -> None:
    line = a_line("country us\ncaller id sdmf\n2 call from 212-555-0123\n14 give up")
    assert heard_by_spandsp(line, CLASS, 0, 14) == [b"\x04\x12112409002125550123"]


def test_spandsp_reads_number_display() -> None:
    line = a_line("number display\n2 call from 03-0000-1234\n14 give up")
    (message,) = heard_by_spandsp(line, JCLIP, 0, 14)
    assert b"\x02\x0a0300001234" in message


def test_spandsp_reads_the_reason() -> None:
    line = a_line("number display\n2 call payphone\n14 give up")
    (message,) = heard_by_spandsp(line, JCLIP, 0, 14)
    assert b"\x04\x01C" in message


def test_spandsp_reads_call_waiting() -> None:
    text = "number display\n2 call from 03-0000-1234\n9 lift\n12 call waiting from 090-0000-5678\n20 hang up"
    (message,) = heard_by_spandsp(a_line(text), JCLIP, 11, 20)
    assert message[5] == 0x41
    assert b"\x02\x0b09000005678" in message


def test_spandsp_reads_keys() -> None:
    line = a_line("country etsi\ncaller id dtmf\n2 call from 030-000-1234\n14 give up")
    (message,) = heard_by_spandsp(line, CLIP_DTMF, 0, 6)
    assert b"A0300001234C" in message


def test_spandsp_refuses_what_is_damaged() -> None:
    line = a_line("number display\n2 call from 03-0000-1234 damaged\n14 give up")
    assert heard_by_spandsp(line, JCLIP, 0, 14) == []
    line = a_line("country us\n2 call from 212-555-0123 noisy 0\n14 give up")
    assert heard_by_spandsp(line, CLASS, 0, 14) == []
