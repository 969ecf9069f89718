"""The octets of a caller-ID message, turned into what they mean. Pure: one decoder for the line, modems and files.

SDMF, MDMF and message waiting (8 data bits, the sum of all octets is 0), and the Japanese frame (7 bits and even
parity, DLE stuffing, CRC-16/KERMIT). Anything may come in; nothing raises. A message that its checksum does not prove
gives no number and no name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from drivers.signals import CallerIdStandard, Presentation

FskStandard = Literal["bell202", "v23", "jp"]
Checksum = Literal["ok", "absent", "failed"]

SDMF, MDMF, WAITING = 0x04, 0x80, 0x82
# Parameter types of MDMF, and of the Japanese frame where it has the same meaning.
DATE, NUMBER, CALLED, NO_NUMBER, REDIRECTING, NAME, NO_NAME, MESSAGE_WAITING, CALL_TYPE = (
    *(0x01, 0x02, 0x03, 0x04, 0x05, 0x07, 0x08, 0x0B, 0x11),
)
_QUALIFIER = 0x06  # of a call; also the single-data message that lights a lamp (42 42 42) or puts it out (6F 6F 6F)
_LONE = (DATE, NUMBER, CALLED, NO_NUMBER, REDIRECTING, _QUALIFIER, NAME, NO_NAME, MESSAGE_WAITING, CALL_TYPE)
_JP_CALLED, _JP_REDIRECTING = 0x09, 0x0B
_JP_START = bytes((0x10, 0x01, 0x07, 0x10, 0x02))  # DLE SOH, header, DLE STX, without parity
_DLE, _ETX = 0x10, 0x03
_JP_CALL, _JP_CALL_WAITING = 0x40, 0x41
_MAILBOX_CALL = 0x81  # ETSI call type: a message waits
_FILL = b"\x00\x55\xd5\xaa\xff"  # before a message: seizure, also with its last octet damaged, and idle line

_LETTERS: dict[str, Presentation] = {"P": "withheld", "O": "unavailable", "C": "payphone", "S": "service_conflict"}
_WORDS: dict[str, Presentation] = {
    **dict.fromkeys(("PRIVATE", "RESTRICTED", "WITHHELD", "ANONYMOUS", "PRIVATENUMBER", "PRIVATECALLER"), "withheld"),
    **dict.fromkeys(
        ("OUTOFAREA", "UNAVAILABLE", "NOTAVAILABLE", "UNKNOWN", "UNKNOWNCALLER", "UNKNOWNNUMBER"), "unavailable"
    ),
    **dict.fromkeys(("PAYPHONE", "COIN", "COINPHONE", "PUBLICPHONE"), "payphone"),
    "SERVICECONFLICT": "service_conflict",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a caller-ID message says. number is None unless presentation is "allowed".

    standard: as told to the decoder, or "jp" where it found a Japanese frame unasked.
    checksum: "absent": a modem left it out; who asked decides whether to trust the rest. "failed": presentation is
    "corrupt", and nothing but octets and parameters (as far as they could be told apart) is kept.
    message_waiting: it is about the mailbox; nobody calls.
    octets: from the first of the message to its checksum, as they came.
    """

    standard: CallerIdStandard | None
    checksum: Checksum
    presentation: Presentation
    number: str | None = None
    name: str | None = None
    date_raw: str | None = None
    called: str | None = None
    redirecting: str | None = None
    call_waiting: bool = False
    message_waiting: bool = False
    parameters: dict[int, bytes]
    octets: bytes


def decode_message(octets: bytes, standard: FskStandard | None) -> Message | None:
    """The message that the octets begin with, after fill; None: there is none.

    standard None: written by a modem, or of unknown origin: Japanese frames are recognised, the checksum may be left
    out, and lone parameters may come without a message around them.
    """
    if standard in ("jp", None):
        message = _japanese(octets, standard)
        if message or standard:
            return message
    octets = octets.lstrip(_FILL)
    if len(octets) < 3:
        return None
    if octets[0] not in (SDMF, MDMF, WAITING) or (standard is None and octets[0] == SDMF and len(octets) <= 10):
        return _lone(octets) if standard is None else None
    return _single(octets, standard) if octets[0] == SDMF else _multiple(octets, standard)


def missing_octets(octets: bytes, standard: FskStandard) -> int:
    """How many more octets the message at the beginning of these surely needs; 0: it is whole, checksum included.

    -1: this is no beginning of a message. No fill before it.
    """
    if standard != "jp":
        if not octets or octets[0] not in (SDMF, MDMF, WAITING):
            return -1 if octets else 1
        return max(0, 3 + octets[1] - len(octets)) if len(octets) > 1 else 3
    if any(octet & 0x7F != wanted for octet, wanted in zip(octets, _JP_START, strict=False)):
        return -1
    end = _japanese_end(octets)
    if end is None:  # nothing is stuffed, at the least
        return max(4, 7 + (octets[6] & 0x7F) + 4 - len(octets)) if len(octets) > 6 else 12 - len(octets)
    return max(0, end + 2 - len(octets))


def crc_kermit(octets: bytes) -> int:
    """CRC-16/KERMIT: polynomial 0x1021 reflected, init 0, no final xor. Over a frame and its CRC (low first): 0."""
    crc = 0
    for octet in octets:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x8408 if crc & 1 else 0)
    return crc


def parse_parameters(body: bytes) -> dict[int, bytes] | None:
    """Type, length, value, one after the other, ending with the last octet; None if they do not. The first wins."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(body):
        end = at + 2 + body[at + 1] if at + 2 <= len(body) else len(body) + 1
        if end > len(body):
            return None
        found.setdefault(body[at], body[at + 2 : end])
        at = end
    return found


def _single(octets: bytes, standard: FskStandard | None) -> Message:
    end = 2 + octets[1]
    checksum: Checksum = "failed"
    if len(octets) > end and _proved(octets[: end + 1]):
        checksum = "ok"
    elif _proved(octets) and (len(octets) > end or octets[-1:] not in [b"%c" % c for c in b"0123456789PO"]):
        checksum, end = "ok", len(octets) - 1  # the length is wrong, and the sum knows
    elif standard is None and len(octets) == end and not _proved(octets):
        checksum = "absent"
    body = octets[2:end]
    parameters = {DATE: body[:8], NUMBER: body[8:]} if len(body) >= 8 else {}
    return _message(standard, checksum if parameters else "failed", parameters, octets[: end + 1])


def _multiple(octets: bytes, standard: FskStandard | None) -> Message | None:
    end = 2 + octets[1]
    checksum: Checksum = "failed"
    parameters = parse_parameters(octets[2:end]) if len(octets) >= end else None
    if parameters and len(octets) > end and _proved(octets[: end + 1]):
        checksum = "ok"
    elif proved := _other_length(octets):
        checksum, parameters, end = "ok", *proved
    elif parameters and standard is None and len(octets) == end:
        checksum = "absent"
    return _message(standard, checksum, parameters or {}, octets[: end + 1], message_waiting=octets[0] == WAITING)


def _other_length(octets: bytes) -> tuple[dict[int, bytes], int] | None:
    """Parameters and end of a message whose length is wrong: all octets but fill must be parameters and checksum.

    Of fill only 00 is passed over: it cannot make a wrong sum right.
    """
    for cut in range(len(octets), 5, -1):
        if _proved(octets[:cut]) and (parameters := parse_parameters(octets[2 : cut - 1])):
            texts = (parameters.get(kind, b"") for kind in (DATE, NUMBER, NO_NUMBER, CALLED, NAME, NO_NAME))
            return (parameters, cut - 1) if b"".join(texts).decode("latin-1").isascii() else None
        if octets[cut - 1]:
            break
    return None


def _lone(octets: bytes) -> Message | None:
    """Parameters that a modem took out of their message."""
    checksum: Checksum = "absent"
    parameters = parse_parameters(octets)
    if parameters is None and _proved(octets):
        checksum, parameters = "ok", parse_parameters(octets[:-1])
    if not parameters or not all(kind in _LONE for kind in parameters):
        return None
    lamp = parameters.keys() == {_QUALIFIER} and parameters[_QUALIFIER] in (b"BBB", b"ooo")
    return _message(None, checksum, parameters, octets, message_waiting=lamp)


def _proved(octets: bytes) -> bool:
    return sum(octets) % 256 == 0


def _japanese(octets: bytes, standard: FskStandard | None) -> Message | None:
    at = bytes(octet & 0x7F for octet in octets).find(_JP_START)
    if at < 0:
        return None
    octets = octets[at:]
    end = _japanese_end(octets)
    if end is None or (standard and len(octets) < end + 2):
        return _message("jp", "failed", {}, octets)
    octets = octets[: end + 2]
    body = _unstuffed(octets[:end])
    parameters = parse_parameters(body[2:])
    even = all(octet.bit_count() % 2 == 0 for octet in octets[:end])
    checksum: Checksum = "failed"
    if parameters is not None and body[0] in (_JP_CALL, _JP_CALL_WAITING) and even:
        if len(octets) == end + 2 and crc_kermit(octets[2:]) == 0:
            checksum = "ok"
        elif len(octets) == end and body[1] == len(body) - 2:
            checksum = "absent"
    return _message("jp", checksum, parameters or {}, octets, call_waiting=body[0] == _JP_CALL_WAITING)


def _japanese_end(octets: bytes) -> int | None:
    """Where the CRC begins, after DLE ETX; None: not come yet."""
    at = len(_JP_START)
    length_at = at + (2 if octets[at : at + 1] == b"\x90" else 1)
    while at + 1 < len(octets):
        if octets[at] & 0x7F != _DLE or (at == length_at and octets[at + 1] & 0x7F != _DLE):
            at += 1  # a length of 0x10 may stand alone
        elif octets[at + 1] & 0x7F == _ETX:
            return at + 2
        else:
            at += 2
    return None


def _unstuffed(octets: bytes) -> bytes:
    """Service, length and parameters of a frame up to its DLE ETX, without parity and stuffing."""
    plain = bytes(octet & 0x7F for octet in octets[len(_JP_START) : -2])
    head, rest = plain[:2], plain[2:]
    if head[1:] == b"\x10":
        rest = rest.removeprefix(b"\x10")
    return (head + rest.replace(b"\x10\x10", b"\x10")).ljust(2, b"\0")


def _message(
    standard: CallerIdStandard | None,
    checksum: Checksum,
    parameters: dict[int, bytes],
    octets: bytes,
    call_waiting: bool = False,
    message_waiting: bool = False,
) -> Message:
    if checksum == "failed":
        return Message(
            standard=standard, checksum=checksum, presentation="corrupt", parameters=parameters, octets=octets
        )
    japanese = standard == "jp"
    called = parameters.get(_JP_CALLED if japanese else CALLED)
    presentation, number = _presentation(parameters)
    if called and not japanese and standard != "v23" and NUMBER not in parameters and NO_NUMBER not in parameters:
        # Alone it is, in North America, the number to call back.
        presentation, number = _reading(called) or ("corrupt", None)
        called = None
    if not japanese and number is None and NO_NUMBER not in parameters:
        message_waiting |= MESSAGE_WAITING in parameters or parameters.get(CALL_TYPE) == bytes((_MAILBOX_CALL,))
    return Message(
        standard=standard,
        checksum=checksum,
        presentation=presentation,
        number=number,
        name=_text(parameters.get(NAME)),
        date_raw=_text(parameters.get(DATE)),
        called=_number(called),
        redirecting=_number(parameters.get(_JP_REDIRECTING if japanese else REDIRECTING)),
        call_waiting=call_waiting,
        message_waiting=message_waiting,
        parameters=parameters,
        octets=octets,
    )


def _presentation(parameters: dict[int, bytes]) -> tuple[Presentation, str | None]:
    given = [parameters[kind] for kind in (NUMBER, NO_NUMBER) if parameters.get(kind)]
    if not given:
        return _WORDS.get(_letters(parameters.get(NAME, b"")), "unavailable"), None
    readings = [reading for value in given if (reading := _reading(value))]
    for wanted in ("withheld", "allowed"):  # a caller who withholds wins over a number that slipped through
        for reading in readings:
            if reading[0] == wanted:
                return reading
    return readings[0] if readings else ("corrupt", None)


def _reading(value: bytes) -> tuple[Presentation, str | None] | None:
    """A number, or the reason why there is none; None: neither. Masked or nothing but zeros: unavailable."""
    digits = re.sub(rb"[ .()-]", b"", value)
    if re.fullmatch(rb"\+?[0-9]{1,20}", digits):
        return ("allowed", digits.decode()) if digits.strip(b"+0") else ("unavailable", None)
    if re.fullmatch(rb"\+?[0-9xX*]{2,20}", digits):
        return "unavailable", None
    letters = _letters(value)
    reason = _LETTERS.get(letters) or _WORDS.get(letters)
    return (reason, None) if reason else None


def _number(value: bytes | None) -> str | None:
    reading = _reading(value) if value else None
    return reading[1] if reading else None


def _letters(value: bytes) -> str:
    """The letters of words that may be written -UNKNOWN CALLER- or OUT_OF_AREA; empty if anything else is in them."""
    return re.sub(rb"[^A-Z]", b"", value.upper()).decode() if re.fullmatch(rb"[A-Za-z _./()-]+", value) else ""


def _text(value: bytes | None) -> str | None:
    if not value:
        return None
    try:
        text = value.decode("cp932")
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return "".join(c if c.isprintable() else " " for c in text).strip() or None
