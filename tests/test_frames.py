"""Caller-ID messages: octets in, meaning out. Numbers are fictitious, but for the standards' own vectors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.signals import Presentation
from drivers.softmodem.frames import Message, crc_kermit, decode_message, missing_octets

DATA = Path(__file__).parents[2] / "shared" / "data"

JP_VECTORS: dict[str, tuple[str, Presentation, str | None]] = {
    "fixed": ("90 81 87 90 82 c0 0c 82 0a 30 33 b1 b2 33 b4 35 36 b7 b8 90 03 fb 52", "allowed", "0312345678"),
    "mobile": (
        "90 81 87 90 82 c0 12 82 8b 30 39 30 b1 b2 33 b4 35 36 b7 b8 21 03 b2 b1 35 90 03 54 d0",
        "allowed",
        "09012345678",
    ),
    "withheld": ("90 81 87 90 82 c0 03 84 81 50 90 03 1e ee", "withheld", None),
    "out of area": ("90 81 87 90 82 c0 03 84 81 cf 90 03 a0 2d", "unavailable", None),
    "length 0x10": (
        "90 81 87 90 82 c0 90 90 82 8e 30 30 b1 b1 b2 33 b4 35 36 b7 b8 39 30 b1 90 03 96 22",
        "allowed",
        "00112345678901",
    ),
}
STANDARDS = st.sampled_from(["bell202", "v23", "jp", None])


def mdmf(*parameters: tuple[int, bytes], kind: int = 0x80) -> bytes:
    body = b"".join(bytes((number, len(value))) + value for number, value in parameters)
    return summed(bytes((kind, len(body))) + body)


def sdmf(body: bytes) -> bytes:
    return summed(bytes((0x04, len(body))) + body)


def summed(octets: bytes) -> bytes:
    return octets + bytes((-sum(octets) % 256,))


def even(octets: bytes) -> bytes:
    return bytes(octet | (octet.bit_count() % 2 << 7) for octet in octets)


def japanese(*parameters: tuple[int, bytes], service: int = 0x40, single_length: bool = False) -> bytes:
    body = b"".join(bytes((number, len(value))) + value for number, value in parameters)
    stuffed = body.replace(b"\x10", b"\x10\x10")
    length = bytes((len(body),)) * (2 if len(body) == 0x10 and not single_length else 1)
    covered = even(b"\x07\x10\x02" + bytes((service,)) + length + stuffed + b"\x10\x03")
    return even(b"\x10\x01") + covered + crc_kermit(covered).to_bytes(2, "little")


def found(octets: bytes, standard: str | None) -> Message:
    message = decode_message(octets, standard)  # type: ignore[arg-type]
    assert message is not None
    return message


@pytest.mark.parametrize("name", JP_VECTORS)
def test_japanese_vectors(name: str) -> None:
    text, presentation, number = JP_VECTORS[name]
    octets = bytes.fromhex(text)
    for standard in ("jp", None):
        message = found(octets, standard)
        assert (message.standard, message.checksum, message.octets) == ("jp", "ok", octets)
        assert (message.presentation, message.number) == (presentation, number)
    assert crc_kermit(octets[2:]) == 0
    assert crc_kermit(b"123456789") == 0x2189
    assert [missing_octets(octets[:n], "jp") > 0 for n in range(len(octets) + 1)] == [True] * len(octets) + [False]


def test_every_japanese_parameter() -> None:
    octets = japanese(
        (0x23, b"215"),
        (0x01, b"11231200"),
        (0x09, b"0300005678"),
        (0x55, b"unknown\x10"),
        (0x02, b"09000001234"),
        (0x0B, b"0300009999"),
        (0x24, b"hello"),
        (0x07, b"SATO"),
        service=0x41,
    )
    message = found(b"\xff\x00" + octets + b"\x55\x55", "jp")
    assert (message.number, message.called, message.redirecting) == ("09000001234", "0300005678", "0300009999")
    assert (message.name, message.date_raw, message.call_waiting) == ("SATO", "11231200", True)
    assert message.parameters[0x55] == b"unknown\x10"
    assert message.octets == octets
    assert not message.message_waiting


@pytest.mark.parametrize("single_length", [False, True])
def test_length_16_may_be_stuffed_or_not(single_length: bool) -> None:
    octets = japanese((0x02, b"00112345678901"), single_length=single_length)
    assert found(octets, "jp").number == "00112345678901"
    assert missing_octets(octets, "jp") == 0
    assert missing_octets(octets[:-1], "jp") == 1


@pytest.mark.parametrize(
    ("reason", "presentation"),
    [(b"P", "withheld"), (b"O", "unavailable"), (b"C", "payphone"), (b"S", "service_conflict"), (b"?", "corrupt")],
)
def test_reasons(reason: bytes, presentation: Presentation) -> None:
    assert found(japanese((0x04, reason)), "jp").presentation == presentation
    assert found(mdmf((0x01, b"11231200"), (0x04, reason)), "v23").presentation == presentation
    assert found(sdmf(b"11231200" + reason), "bell202").presentation == presentation


def test_multiple_data_message() -> None:
    octets = mdmf(
        (0x11, b"\x01"),
        (0x07, b"JOHN DOE  "),
        (0x42, b"?"),
        (0x03, b"2025550100"),
        (0x05, b"2025550101"),
        (0x02, b"2025550123"),
        (0x01, b"11231200"),
    )
    for standard in ("bell202", "v23", None):
        message = found(b"\0\0UUUU\xd5" + octets + b"\0", standard)
        assert (message.checksum, message.presentation, message.number) == ("ok", "allowed", "2025550123")
        assert (message.name, message.date_raw) == ("JOHN DOE", "11231200")
        assert (message.called, message.redirecting) == ("2025550100", "2025550101")
        assert message.octets == octets


def test_the_dialable_number_is_the_called_one_unless_alone_in_north_america() -> None:
    alone = mdmf((0x01, b"11231200"), (0x03, b"2025550123"))
    assert (found(alone, "bell202").number, found(alone, "bell202").called) == ("2025550123", None)
    assert (found(alone, "v23").number, found(alone, "v23").called) == (None, "2025550123")
    withheld = found(mdmf((0x04, b"P"), (0x03, b"2025550123")), "bell202")
    assert (withheld.presentation, withheld.number, withheld.called) == ("withheld", None, "2025550123")


def test_withheld_wins_over_a_number_that_slipped_through() -> None:
    message = found(mdmf((0x02, b"2025550123"), (0x04, b"P")), "v23")
    assert (message.presentation, message.number) == ("withheld", None)


def test_single_data_message() -> None:
    message = found(sdmf(b"112312002025550123") + b"\xff", "bell202")
    assert (message.checksum, message.number, message.date_raw) == ("ok", "2025550123", "11231200")
    assert found(sdmf(b"11231200"), "bell202").presentation == "unavailable"


def test_message_waiting_is_no_call() -> None:
    for octets in (mdmf((0x0B, b"\xff"), kind=0x82), mdmf((0x0B, b"\x00")), mdmf((0x11, b"\x81"))):
        message = found(octets, "v23")
        assert (message.checksum, message.message_waiting, message.number) == ("ok", True, None)


def test_a_wrong_length_is_believed_only_if_the_checksum_proves_another() -> None:
    parameters = bytes.fromhex("010831313233313230300207") + b"5550123"
    for length in (0, 5, 18, 20, 25, 200):
        octets = summed(bytes((0x80, length)) + parameters)
        assert found(octets + b"\0\0", "bell202").number == "5550123"
        assert found(octets[:-1] + bytes((octets[-1] ^ 1,)), "bell202").number is None
    octets = summed(b"\x04\x11" + b"112312002025550123")
    assert found(octets, "bell202").number == "2025550123"


def test_a_checksum_may_be_absent_in_a_modem_s_hex_only() -> None:
    for octets in (mdmf((0x02, b"5550123")), sdmf(b"112312005550123"), japanese((0x02, b"0300001234"))):
        cut = octets[: -2 if octets[0] == 0x90 else -1]
        assert found(cut, None).checksum == "absent"
        assert found(cut, None).number
        standard = "jp" if octets[0] == 0x90 else "bell202"
        assert (found(cut, standard).checksum, found(cut, standard).number) == ("failed", None)
    assert found(b"\x03\x075550123", None).number == "5550123"
    assert found(summed(b"\x03\x075550123"), None).checksum == "ok"
    assert found(b"\x04\x01P", None).presentation == "withheld"
    assert decode_message(b"\x03\x075550123\x00", None) is None
    assert decode_message(b"\0\0", None) is None


def test_masked_and_zero_numbers_are_unavailable_and_junk_is_corrupt() -> None:
    for value in (b"04xxxxxxx7", b"0000000", b"UNAVAILABLE"):
        assert found(mdmf((0x02, value)), "v23").presentation == "unavailable"
    assert found(mdmf((0x02, b"55\x001")), "v23").presentation == "corrupt"
    assert found(mdmf((0x07, b"PRIVATE")), "bell202").presentation == "withheld"


def test_no_single_bit_flip_gives_a_number() -> None:
    samples = [(bytes.fromhex(text), "jp") for text, _, _ in JP_VECTORS.values()]
    samples += [
        (japanese((0x02, b"0300001234"), (0x21, b"215"), (0x0B, b"\x10\x10")), "jp"),
        (mdmf((0x01, b"11231200"), (0x02, b"2025550123"), (0x07, b"JOHN DOE")), "bell202"),
        (mdmf((0x01, b"11231200"), (0x03, b"2025550123"), (0x08, b"O")), "bell202"),
        (sdmf(b"112312002025550123"), "bell202"),
    ]
    for octets, standard in samples:
        for bit in range(8 * len(octets)):
            flipped = bytearray(octets)
            flipped[bit // 8] ^= 1 << bit % 8
            for tail in (b"", b"\0", b"\xff\xff"):
                message = decode_message(bytes(flipped) + tail, standard)  # type: ignore[arg-type]
                assert message is None or (message.number, message.name) == (None, None)
                assert message is None or message.presentation == "corrupt"


@given(st.binary(max_size=300), STANDARDS)
def test_any_octets_are_taken(octets: bytes, standard: str | None) -> None:
    check_any(octets, standard)


@given(
    st.sampled_from(
        [b"\x80", b"\x04", b"\x82", *(bytes.fromhex(t)[:n] for t, _, _ in JP_VECTORS.values() for n in (5, 9))]
    ),
    st.binary(max_size=300),
    STANDARDS,
)
def test_any_octets_after_a_header_are_taken(header: bytes, octets: bytes, standard: str | None) -> None:
    check_any(header + octets, standard)
    check_any(summed(header + octets), standard)


def check_any(octets: bytes, standard: str | None) -> None:
    message = decode_message(octets, standard)  # type: ignore[arg-type]
    if standard is not None:
        assert missing_octets(octets, standard) >= -1  # type: ignore[arg-type]
    if message is None:
        return
    assert (message.number is not None) == (message.presentation == "allowed")
    if message.checksum == "failed":
        assert (message.presentation, message.name) == ("corrupt", None)
    if standard is not None:
        assert message.checksum != "absent"
    assert message.octets in octets


@given(
    st.permutations([(0x02, b"0300001234"), (0x01, b"11231200"), (0x10, b"\x10\x10\x03"), (0x21, b"215"), (0x7F, b"")]),
    st.sampled_from([0x40, 0x41]),
)
def test_japanese_parameters_in_any_order(parameters: list[tuple[int, bytes]], service: int) -> None:
    octets = japanese(*parameters, service=service)
    message = found(octets, "jp")
    assert (message.number, message.call_waiting) == ("0300001234", service == 0x41)
    assert message.parameters == dict(parameters)
    assert all(missing_octets(octets[:n], "jp") > 0 for n in range(len(octets)))


def real_octets() -> list[tuple[str, str]]:
    if not DATA.exists():
        return []
    with (DATA / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return [(row["path"], row["truth"]) for row in csv.DictReader(file) if row["category"] == "callerid_bytes"]


@pytest.mark.skipif(not DATA.exists(), reason="the folder of real recordings is not here")
@pytest.mark.parametrize(("path", "truth"), real_octets())
def test_octets_from_real_lines(path: str, truth: str) -> None:
    wanted = json.loads(truth)
    message = found((DATA / path).read_bytes(), "v23")
    assert (message.checksum, message.number, message.name) == ("ok", wanted.get("number"), wanted.get("name"))
    assert message.date_raw == wanted["dt"]
    assert message.presentation == ("allowed" if "number" in wanted else "unavailable")
