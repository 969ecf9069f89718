"""The text of caller-ID modems. Numbers are fictitious."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.modem_text import LIMIT_BYTES, QUIET_NS, ModemText
from drivers.signals import CallerIdReceived, Country, KeyHeard, LoopReport, ModemRing, Presentation, Signal
from drivers.virtual.modem import Dialect, caller_id_bytes, ring_bytes
from firmware.cli.main import main

DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
RAW: tuple[Dialect, ...] = ("hex", "agere", "silabs")  # these hand a bad checksum on
LATER_NS = 10 * QUIET_NS


def facts(data: bytes, chunk: int | None = None) -> list[Signal]:
    """What the bytes mean when they come together and quiet follows."""
    text = ModemText(1)
    signals: list[Signal] = []
    step = chunk or len(data) or 1
    for at in range(0, len(data), step):
        signals += text.feed(data[at : at + step], 7)
    signals += text.tick(LATER_NS)
    assert text.due_ns is None
    return signals


def blocks(data: bytes) -> list[CallerIdReceived]:
    return [signal for signal in facts(data) if isinstance(signal, CallerIdReceived)]


def block(data: bytes) -> CallerIdReceived:
    (only,) = blocks(data)
    return only


def rings(data: bytes) -> list[str | None]:
    return [signal.pattern for signal in facts(data) if isinstance(signal, ModemRing)]


@pytest.mark.parametrize(
    ("text", "number", "name", "date"),
    [
        (b"DATE = 1015\r\nTIME = 1310\r\nNMBR = 0300001234\r\nNAME = SATO\r\n", "0300001234", "SATO", "1015 1310"),
        (b"DATE=0117\nTIME=1452\nNMBR=0300001234\n", "0300001234", None, "0117 1452"),
        (b"NMBR=0300001234\r\r\n", "0300001234", None, None),
        (b"DATE=\r\nNMBR=0300001234\r\n", "0300001234", None, None),
        (b"DATE = 0229\r\nTIME = 2460\r\nNMBR = 0300001234\r\n", "0300001234", None, "0229 2460"),
        (b"\0NMBR = 0300001234\0\r\0\n", "0300001234", None, None),
        (b"NAME = O\r\nDDN_NMBR= 5550123\r\n", "5550123", None, None),
        (b"DDN=5550123\r\n", "5550123", None, None),
        (b"NBR=5550123\r\n", "5550123", None, None),
        (b"CALLER NUMBER: 5550123\r\nCALLER NAME: SATO\r\n", "5550123", "SATO", None),
        (b"CallerID: +81300001234\r\n", "+81300001234", None, None),
        (b"FM:0300001234 TO:0300005678\r\n", "0300001234", None, None),
        (b"DATE=0119\r\nNAME=SATO H       NMBR=0300001234\r\n", "0300001234", "SATO H", "0119"),
        (b"DATE=0224 NAME=ONMBR=0300001234\r\n", "0300001234", None, "0224"),
        (b"###DATE06182106...NMBR2025550123...NAMESATO H+++", "2025550123", "SATO H", "06182106"),
        (b"I03/18 22:05 202-555-0123 SATO H\r\n", "2025550123", "SATO H", "03/18 22:05"),
        (b"0300001234\r\n", "0300001234", None, None),
        (b"Jan 17 14:52:33 unit caller[26]: NMBR=0300001234\r\n", "0300001234", None, None),
        (b"NMBR = O\r\nDDN = 5550123\r\n", "5550123", None, None),
        (b"NMBR = 0300001234\r\nNAME = \xd4\xcf\xc0\xde\r\n", "0300001234", "ﾔﾏﾀﾞ", None),
        (b"NMBR = 0300001234\r\nNAME = \x8d\xb2\x93\xa1\r\n", "0300001234", "佐藤", None),
        (b"NMBR = 0300001234\r\nNAME = ABC\x81\r\n", "0300001234", "ABC", None),  # no cp932: latin-1's control goes
        (b"NMBR = 0300001234\r\nNAME = Mo\xeb\r\n", "0300001234", "Moë", None),  # no cp932: latin-1
        (b"NAME = RING CENTRAL\r\nNMBR = 0300001234\r\n", "0300001234", "RING CENTRAL", None),
        (b"MESG = 030735353530313233\r\n", "5550123", None, None),
        (b"MESG = 0307353535303132335\r\n", "5550123", None, None),  # odd count of digits
        (b"0412303332323234303532303235353530313233\r\n", "2025550123", None, "03222405"),  # raw SDMF, no checksum
        (b"MESG=80 0C 02 0A 30 33 30 30 30 30 31 32 33 34\r\n", "0300001234", None, None),
    ],
)
def test_every_dialect_gives_number_name_and_date(text: bytes, number: str, name: str | None, date: str | None) -> None:
    found = block(text)
    assert (found.presentation, found.number, found.name, found.date_raw) == ("allowed", number, name, date)
    assert found.raw == text.decode("latin-1")
    assert facts(text, 1) == facts(text)


@pytest.mark.parametrize(
    ("text", "presentation"),
    [
        (b"NMBR = P\r\n", "withheld"),
        (b"NMBR = O\r\n", "unavailable"),
        (b"NMBR = C\r\n", "payphone"),
        (b"NMBR = S\r\n", "service_conflict"),
        (b"NMBR = PRIVATE\r\n", "withheld"),
        (b"NMBR = Restricted\r\n", "withheld"),
        (b"NMBR = OUT_OF_AREA\r\n", "unavailable"),
        (b"NMBR = 0000000000\r\n", "unavailable"),
        (b"###DATE06191942...NMBR...NAME-UNKNOWN CALLER-+++\r\n", "unavailable"),
        (b"NAME = PRIVATE\r\n", "withheld"),
        (b"MESG = 040150\r\n", "withheld"),
        (b"800304014F\r\n", "unavailable"),
        (b"NMBR = P\r\nDDN = 5550123\r\n", "withheld"),  # a number that slipped through is not used
        (b"MESG = 040150\r\nMESG = 030735353530313233\r\n", "withheld"),  # 03 is the called number here
        (b"NMBR = 04xxxxxxx7\r\n", "unavailable"),  # masked
        (b"NMBR = xxxxxxxxxx\r\n", "unavailable"),
        (b"NAME = SATO\r\n", "corrupt"),  # neither number nor reason
        (b"NAME = O\r\n", "corrupt"),  # says why there is no name
        (b"MESG = 0000\r\n", "corrupt"),
        (b"NMBR = 03000\x8101234\r\n", "corrupt"),
        (b"NMBR = 03000\x0001234\r\n", "corrupt"),
        (b"NMBR = 0300001234", "corrupt"),  # its line did not end: digits may be missing
        (b"NMBR = 123456789012345678901\r\n", "corrupt"),
        (b"MESG = 03073535353031323300\r\n", "corrupt"),  # the checksum is wrong
    ],
)
def test_no_number_has_a_reason_or_is_corrupt(text: bytes, presentation: Presentation) -> None:
    found = block(text)
    assert (found.presentation, found.number) == (presentation, None)
    assert found.raw == text.decode("latin-1")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"OK\r\n\r\nERROR\r\n0\r\n4\r\n56000\r\n115200\r\n",
        b"ATE0\r\r\nAT+VCID=1\r\r\nAT#CID=1\r\r\nOK\r\n",
        b"MESG = 0B0101\r\nMESG = 82030B0101\r\n82030B01FF6E\r\n",  # a message waits: nobody calls
        b"MESG = 060342424231\r\nMESG = 06036F6F6F\r\n060342424231\r\n0603424242\r\n06036F6F6FAA\r\n",  # the lamp
        b"RING CENTRAL\r\nBEARING = 5\r\nFLASH\r\nCIDM\r\nNO CARRIER\r\n",
        b"\x10s\x10q\x10\x03\x10\x10\x10u\xff\xfe\0\0\0\r\n\x10\r\n",
    ],
)
def test_other_lines_mean_nothing(text: bytes) -> None:
    assert facts(text) == []


def test_rings_and_their_patterns() -> None:
    assert rings(b"\r\nRING\r\n\r\nRING A\r\nRING 1\r\nRING RING\r\n2\r") == [None, "A", "1", None, None, None]
    assert rings(b"DROF=11\r\nDRON=5\r\nRING\r\nRING\r\n") == ["DROF=11 DRON=5", None]
    assert rings(b"Jan 17 14:52:32 unit caller[2699]: RING\r\n") == [None]
    assert rings(ring_bytes("B") + ring_bytes(words=False)) == ["B", None]
    assert rings(b"RING") == [None]


def test_an_asked_modem_answers_with_digits_that_are_no_ring_and_no_number() -> None:
    text = ModemText(1)
    text.asked = True
    assert text.feed(b"2\r\n0300001234\r\n", 0) == []
    assert text.feed(b"RING\r\nNMBR = 0300001234\r\n", 0) != []


def test_a_block_ends_by_quiet() -> None:
    text = ModemText(2)
    assert text.feed(b"DATE = 10", 100) == []
    assert text.due_ns == 100 + QUIET_NS
    assert text.feed(b"15\r\n", 200) == []
    assert text.feed(b"NMBR = 0300001234\r\n", 300) == []
    assert text.tick(299 + QUIET_NS) == []
    assert text.due_ns == 300 + QUIET_NS
    (found,) = text.tick(300 + QUIET_NS)
    assert isinstance(found, CallerIdReceived)
    assert (found.at_ns, found.line, found.number) == (100, 2, "0300001234")
    assert text.due_ns is None
    assert text.tick(LATER_NS) == []


def test_a_block_ends_by_the_next_ring_and_late_bytes_do_not_join_it() -> None:
    first, ring = facts(b"NMBR = 0300001234\r\nRING\r\n")
    assert isinstance(first, CallerIdReceived) and isinstance(ring, ModemRing)
    text = ModemText(1)
    text.feed(b"NMBR = 0300001234\r\n", 0)
    (before,) = text.feed(b"NAME = SATO\r\n", QUIET_NS)  # tick() came late
    assert isinstance(before, CallerIdReceived) and before.name is None


def test_blocks_without_a_ring_between_them_are_kept_apart() -> None:
    calls = blocks(b"DATE=0101\nNMBR=5550100\nDATE=0102\nNMBR=5550101\nNAME=A\nNAME=B\nNMBR=5550102\n")
    assert [(call.number, call.date_raw, call.name) for call in calls] == [
        ("5550100", "0101", None),
        ("5550101", "0102", "A"),
        ("5550102", None, "B"),
    ]
    assert [call.number for call in blocks(b"NMBR=5550100 NMBR=5550101\n")] == ["5550100", "5550101"]
    assert [call.number for call in blocks(b"NMBR=5550100\nNMBR=5550100\n")] == ["5550100"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("number", "presentation"),
    [
        ("0300001234", "allowed"),
        ("09000001234", "allowed"),
        (None, "withheld"),
        (None, "unavailable"),
        (None, "payphone"),
        (None, "service_conflict"),
    ],
)
def test_what_the_virtual_modem_writes_is_understood(
    dialect: Dialect, number: str | None, presentation: Presentation
) -> None:
    found = block(caller_id_bytes(dialect, number, presentation, "ﾔﾏﾀﾞ", "11231200"))
    assert (found.number, found.presentation, found.name) == (
        number,
        presentation,
        None if dialect == "silabs" else "ﾔﾏﾀﾞ",
    )
    assert found.date_raw is not None and "".join(filter(str.isdigit, found.date_raw)) == "11231200"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_modems_hide_what_did_not_arrive(dialect: Dialect) -> None:
    assert caller_id_bytes(dialect, None, "not_received", None, "11231200") == b""
    damaged = caller_id_bytes(dialect, "0300001234", "corrupt", None, "11231200")
    assert [found.presentation for found in blocks(damaged)] == (["corrupt"] if dialect in RAW else [])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_block_cut_anywhere_never_gives_another_number(dialect: Dialect) -> None:
    whole = caller_id_bytes(dialect, "0300001234", "allowed", "SATO", "11231200")
    for cut in range(len(whole)):
        text = ModemText(1)
        signals = text.feed(whole[:cut], 0)
        signals += text.tick(QUIET_NS)
        signals += text.feed(whole[cut:], 2 * QUIET_NS)
        signals += text.tick(LATER_NS)
        numbers = {signal.number for signal in signals if isinstance(signal, CallerIdReceived)}
        assert numbers <= {None, "0300001234"}, (cut, signals)


def test_every_wrong_hex_digit_in_a_checked_message_is_found() -> None:
    for dialect in RAW:
        whole = caller_id_bytes(dialect, "0300001234", "allowed", "SATO", "11231200").strip().removeprefix(b"MESG = ")
        for at in range(len(whole)):
            for digit in b"0123456789ABCDEF":
                wrong = whole[:at] + bytes((digit,)) + whole[at + 1 :]
                if wrong != whole:
                    # A wrong length byte is mended by the checksum only if nothing else is wrong.
                    found = blocks(b"MESG = " + wrong + b"\r\n")
                    assert {caller.number for caller in found} <= {None}, (dialect, at, digit)


def test_messages_with_and_without_checksum_and_with_a_wrong_length() -> None:
    message = bytes.fromhex("802001083039313131363231020A323032353535303132330708") + b"JOHN_DOE"
    message += bytes((-sum(message) % 256,))

    def number(octets: bytes, sep: str = "") -> str | None:
        return block(b"MESG = " + octets.hex(sep or " ").replace(" ", sep).encode() + b"\r\n").number

    found = block(message.hex().encode() + b"\r\n")
    assert (found.number, found.name, found.date_raw) == ("2025550123", "JOHN_DOE", "09111621")
    assert number(message) == number(message[:-1]) == number(message + b"\0\0", " ") == "2025550123"
    for length in (0x1F, 0x21, 0x30):
        wrong = bytes((0x80, length)) + message[2:-1]
        assert number(wrong + bytes((-sum(wrong) % 256,))) == "2025550123"
        assert number(wrong) is None  # nothing vouches for it
    single = bytes.fromhex("0412") + b"11231200" + b"2025550123"
    assert number(single) == number(single + bytes((-sum(single) % 256,))) == "2025550123"
    assert number(single + b"\x55") is None


# Of the domain's own vectors: CRC residue 0 for each.
FRAMES_JP = {
    "90 81 87 90 82 c0 0c 82 0a 30 33 b1 b2 33 b4 35 36 b7 b8 90 03 fb 52": ("allowed", "0312345678"),
    "90 81 87 90 82 c0 12 82 8b 30 39 30 b1 b2 33 b4 35 36 b7 b8 21 03 b2 b1 35 90 03 54 d0": (
        *("allowed", "09012345678"),
    ),
    "90 81 87 90 82 c0 03 84 81 50 90 03 1e ee": ("withheld", None),
    "90 81 87 90 82 c0 03 84 81 cf 90 03 a0 2d": ("unavailable", None),
    "90 81 87 90 82 c0 90 90 82 8e 30 30 b1 b1 b2 33 b4 35 36 b7 b8 39 30 b1 90 03 96 22": (
        *("allowed", "00112345678901"),
    ),
}


@pytest.mark.parametrize(("octets", "meaning"), FRAMES_JP.items())
@pytest.mark.parametrize("key", ["", "MESG = "])
def test_japanese_frames_with_and_without_parity(octets: str, meaning: tuple[str, str | None], key: str) -> None:
    frame = bytes.fromhex(octets)
    stripped = bytes(octet & 0x7F for octet in frame[:-2])
    for form in (frame, stripped + frame[-2:], stripped):
        for text in (form.hex(), form.hex(" ").upper()):
            found = block(key.encode() + text.encode() + b"\r\n")
            assert (found.presentation, found.number) == meaning
            assert (found.standard, found.call_waiting) == ("jp", False)
    damaged = frame[:-1] + b"\0"
    assert block(damaged.hex().encode() + b"\r\n").presentation == "corrupt"


def test_what_parameter_03_is_depends_on_the_region() -> None:
    lone = b"MESG = 030735353530313233\r\n"
    both = b"NMBR = 0300001234\r\n" + lone
    message = bytes.fromhex("8012") + b"\x02\x070300001\x03\x075550123"
    whole = b"MESG = " + (message + bytes((-sum(message) % 256,))).hex().encode() + b"\r\n"
    regions: tuple[Country | None, ...] = ("jp", "us", "uk", "etsi", None)
    for region in regions:
        abroad = region not in ("us", None)
        cases = ((lone, None if abroad else "5550123"), (both, "0300001234"), (whole, "0300001"))
        for text, number in cases:
            heard = ModemText(1, region)
            (found,) = [*heard.feed(text, 0), *heard.tick(LATER_NS)]
            assert isinstance(found, CallerIdReceived)
            assert (found.number, found.called) == (number, "5550123" if abroad else None), (region, text)


def test_who_was_called_and_who_forwarded_are_kept() -> None:
    found = block(b"FM:0300001234 TO:0300005678\r\n")
    assert (found.number, found.called) == ("0300001234", "0300005678")
    assert block(b"FM:0300001234 TO:86733xx\r\n").called is None
    content = b"\x40\x1b" + b"".join(
        bytes((kind, 7)) + value for kind, value in ((2, b"0300001"), (9, b"0300002"), (11, b"0300003"))
    )
    caller = block((b"\x10\x01\x07\x10\x02" + content + b"\x10\x03").hex().encode() + b"\r\n")
    assert (caller.number, caller.called, caller.redirecting) == ("0300001", "0300002", "0300003")


def test_events_of_voice_mode_are_taken_out_of_the_text() -> None:
    what = [signal.what for signal in facts(b"\x10h\x10H\x10P") if isinstance(signal, LoopReport)]
    assert what == ["broken", "restored", "extension"]
    assert rings(b"\x10R\r\n\x10R") == [None, None]
    number = b"DATE = 1123\r\nNMBR = 0300001234\r\nNAME = SATO\r\n"
    for event in (b"\x10R", b"\x10h", b"\x10s", b"\x10P", b"\x10/\x105\x10~", b"\x10/5\x10~", b"\x10X", b"\x10."):
        for at in range(len(number) + 1):
            found = block(number[:at] + event + number[at:])
            assert (found.number, found.name, found.date_raw) == ("0300001234", "SATO", "1123"), (event, at)
    assert block(b"\x10R\x10X" + number + b"\x10.").number == "0300001234"


def test_a_number_with_dle_in_it_is_never_another_number() -> None:
    """A digit that turned into DLE would swallow the next."""
    for text in (b"NMBR = 0300001234\r\n", b"0300001234\r\n", b"FM:0300001234\r\n"):
        for at in range(len(text)):
            for damaged in (text[:at] + b"\x10" + text[at + 1 :], text[:at] + b"\x10" + text[at:]):
                assert {caller.number for caller in blocks(damaged)} <= {None, "0300001234"}, damaged


def keys(text: ModemText, *pieces: tuple[bytes, int]) -> list[tuple[str, int, int]]:
    signals = [signal for data, at_ns in pieces for signal in text.feed(data, at_ns)]
    signals += text.tick(LATER_NS)
    assert all(isinstance(signal, KeyHeard) and signal.source == "modem" for signal in signals)
    return [(s.key, s.at_ns, s.until_ns) for s in signals if isinstance(s, KeyHeard)]


def test_keys_are_told_with_their_times() -> None:
    text = ModemText(1)
    assert keys(text, (b"\x10" + b"5", 3)) == [("5", 3, 3)]
    text = ModemText(1)
    assert keys(text, (b"\x10/", 1), (b"\x10#\x10#", 2), (b"\x10", 3), (b"~", 4)) == [("#", 1, 3)]
    text = ModemText(1)
    assert keys(text, (b"\x10/\x101", 1), (b"\x102", 2), (b"\x10~", 5)) == [("1", 1, 2), ("2", 2, 5)]
    text = ModemText(1)
    assert keys(text, (b"\x10/", 1), (b"9", 2), (b"\x10", 3), (b"~", 4)) == [("9", 1, 4)]
    text = ModemText(1)
    assert keys(text, (b"\x10/\x10A", 1)) == [("A", 1, 1)]  # its end never came
    text = ModemText(1)
    assert keys(text, (b"\x10~\x10/\x10~\x10/", 1)) == []
    assert text.due_ns is None


SNIPPETS = [
    b"\r\nRING\r\n",
    b"RING A",
    b"2\r",
    b"NMBR",
    b" = ",
    b"=",
    b"0300001234",
    b"\r\n",
    b"\r",
    b"\0",
    b"NAME=",
    b"DATE = 1123",
    b"MESG = 0000\r\n",
    b"AT+VCID?\r",
    b"P",
    b"###DATE",
    b"...NMBR",
    b"...NAME",
    b"+++",
    b"\x81",
    b"\x10",
    b"\x10R",
    b"\x10/",
    b"\x105",
    b"5\x10~",
    caller_id_bytes("silabs", "0300001234", "allowed", "SATO", "11231200"),
    caller_id_bytes("hex", "0300001234", "allowed", None, "11231200"),
    caller_id_bytes("usr", "0300001234", "allowed", "SATO", "11231200"),
    b"7" * (LIMIT_BYTES - 2),
]
BYTES = st.lists(st.sampled_from(SNIPPETS) | st.binary(max_size=8), max_size=12).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(BYTES, st.lists(st.integers(1, 40), max_size=60))
def test_any_chunking_gives_the_same_facts(data: bytes, sizes: list[int]) -> None:
    text = ModemText(1)
    signals: list[Signal] = []
    rest = data
    for size in sizes:
        signals += text.feed(rest[:size], 7)
        rest = rest[size:]
    signals += text.feed(rest, 7)
    signals += text.tick(LATER_NS)
    assert signals == facts(data)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(BYTES, st.integers(0, 2 * QUIET_NS)), max_size=8))
def test_signals_hold_together_whatever_comes(pieces: list[tuple[bytes, int]]) -> None:
    text = ModemText(1)
    now_ns = 0
    for data, pause_ns in pieces:
        now_ns += pause_ns
        for signal in [*text.tick(now_ns), *text.feed(data, now_ns)]:
            assert 0 <= getattr(signal, "at_ns", -1) <= now_ns
            if isinstance(signal, CallerIdReceived):
                assert (signal.number is not None) == (signal.presentation == "allowed")
                assert signal.raw
                assert len(signal.raw) <= LIMIT_BYTES


def test_floods_are_cut_and_counted_once_a_block() -> None:
    text = ModemText(1)
    assert text.feed(b"MESG = 0000\r\n" * 20_000, 0) == []
    assert text.floods == 1
    found, ring = text.feed(b"RING\r\n", 1)  # still heard
    assert isinstance(found, CallerIdReceived) and isinstance(ring, ModemRing)
    assert (found.presentation, len(found.raw)) == ("corrupt", LIMIT_BYTES)
    assert text.feed(b"7" * 100_000 + b"\r\n", 2) == []  # one endless line; its last digits are no number
    assert text.floods == 1 + 100_000 // LIMIT_BYTES
    text.feed(b"NMBR = 0300001234\r\n", 3)
    assert [getattr(signal, "number", None) for signal in text.tick(LATER_NS)] == ["0300001234"]


def test_five_megabytes_of_noise_in_bounded_memory() -> None:
    dice = random.Random(1)
    good = b"".join(ring_bytes() + caller_id_bytes(d, "0300001234", "allowed", "SATO", "11231200") for d in DIALECTS)
    text = ModemText(1)
    for part in range(80):  # 64 KiB each: noise, then good text with wrong bytes in it
        data = bytearray(dice.randbytes(65_536) if part % 2 else good * (65_536 // len(good)))
        for _ in range(3_000):
            data[dice.randrange(len(data))] = dice.randrange(256)
        for at in range(0, len(data), 1_000):
            text.feed(bytes(data[at : at + 1_000]), part)
        assert len(pickle.dumps(vars(text))) < 128 * 1024  # all that it holds on to
    text.tick(LATER_NS)
    text.feed(b"\r\nNMBR = 0300001234\r\n", LATER_NS)
    assert [getattr(signal, "number", None) for signal in text.tick(2 * LATER_NS)] == ["0300001234"]


def test_a_fact_is_one_line_that_commands_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0x85 is in half of all Japanese names and a line end to many readers; 0x9b begins a terminal's command."""
    path = tmp_path / "x"
    path.write_bytes(b"RING\r\nNMBR = 0300001234\r\nNAME = \x83V\x83\x85\x83\x93\x9b2J\r\n")
    assert main(["modem-log", str(path), "--json"]) == 0
    text = capsys.readouterr().out
    _, fact = map(json.loads, text.splitlines())
    assert "\x83\x85\x83\x93\x9b2J" in fact["raw"]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def test_a_capture_that_is_a_pipe_or_huge_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(1 << 36)
    for path, why in (
        (tmp_path / "pipe", "is a device or a pipe; give the file of a capture."),
        (Path("/dev/zero"), "is a device or a pipe; give the file of a capture."),
        (tmp_path / "huge", "is larger than 4 MB; cut it to the calls that matter."),
    ):
        assert main(["modem-log", str(path)]) == 2
        assert capsys.readouterr().err == f"{path}: {why}\n"
