"""What a caller-ID modem writes, turned into signals. Pure: bytes and their time in, facts out; no clock, no thread.

Modems agree on nothing: order, spelling, spacing, line ends and encoding all differ, so fields are read, not lines,
and a block ends by 0.5 s of quiet or the next RING, never by a "last" field. What is not understood changes nothing.
A number is reported only if it was read whole; everything else is a reason the exchange gave, or "corrupt":
- a number whose line never ended, a damaged field, a bad checksum, or neither number nor reason: "corrupt";
- a masked number (04xxxxxxx7) or nothing but zeros: hidden by somebody, not damaged: "unavailable".
Hexadecimal goes through the decoder of the frames that are heard on the line. In voice mode a modem puts events in
between, DLE and a letter or a key; they are taken out before lines are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from drivers.signals import (
    CallerIdReceived,
    CallerIdStandard,
    Country,
    KeyHeard,
    LoopReport,
    ModemRing,
    Presentation,
    Signal,
)
from drivers.softmodem import frames
from drivers.softmodem.frames import Message

QUIET_NS = 500_000_000
LIMIT_BYTES = 4096  # of one line, and of the raw bytes kept of one block

# Spelling -> field. A new dialect is a row here, or in _FORMS, and a captured transcript in the tests.
_SPELLINGS = {
    "CALLER NUMBER": "number",  # ZyXEL
    "CALLER NAME": "name",
    "CALLERID": "number",
    "DDN_NMBR": "dialable",  # Bell Canada
    "(?<![A-Z_])DDN": "dialable",
    "NMBR": "number",  # no word boundary before most: NAME=ONMBR=507... is a real line
    "(?<![A-Z])NBR": "number",
    "NAME": "name",
    "DATE": "date",
    "TIME": "time",
    "MESG": "message",
}
_KEY = re.compile(f"(?:{'|'.join(f'({s})' for s in _SPELLINGS)})[ \t]*[=:]".encode(), re.IGNORECASE)
_HARMLESS_IF_CUT = ("name", "date", "time")
_KEY_FIELDS = tuple(_SPELLINGS.values())
# Whole lines without such keys; the groups are the fields.
_FORMS = (
    re.compile(rb"###DATE(?P<date>[0-9]*)\.\.\.NMBR(?P<number>.*?)\.\.\.NAME(?P<name>.*?)\+\+\+"),  # NetCallerID
    re.compile(rb"I(?P<date>[0-9/]{5} [0-9:]{5}) +(?P<number>[0-9-]+|[A-Z-]+)(?: +(?P<name>.*))?"),  # Weeder
    re.compile(rb"FM:(?P<number>.*?)(?: +TO:(?P<called>.*))?"),  # Switzerland
)
_BARE_NUMBER = re.compile(rb"\+?[0-9]{7,20}")  # a line of digits alone; shorter ones are speeds and product codes
_BARE_HEX = re.compile(rb"(?:80|04|90 ?81|10 ?01)(?: ?[0-9A-Fa-f]{2}){4,}")
_BARE_LAMP = re.compile(rb"0603424242(?:31)?")  # hexadecimal too, though it looks like a number: a message waits
_RING = re.compile(rb"RING(?:[ \t:]*([A-Z0-9]))?(?=[ \t]|$)[ \t]*")
_RING_DIGIT = b"2"  # V0
_CADENCE = re.compile(rb"(DRO[NF])[ \t]*=[ \t]*([0-9]{1,4})")
_LOG_PREFIX = re.compile(
    rb"(?:[A-Z][a-z]{2} [ 0-9][0-9] |[0-9]{4}-[0-9]{2}-[0-9]{2}[ T])[0-9]{2}:[0-9]{2}:[0-9]{2}\S*(?: \S+){0,2}?: +"
)
# In a line, where DLE and a digit were: an event, or a number whose digit turned into DLE and swallowed the next.
_HOLE = b"\x1a"
_HARMLESS_HOLE = re.compile(rb"(?<![0-9])\x1a(?![0-9])")
_LINES = re.compile(rb"[^\r\n]+|[\r\n]+")
_PADDING = bytes(range(0x21)).replace(_HOLE, b"") + b"\x7f\xff"  # harmless around a field; inside one it is damage

_WAITING = bytes((frames.WAITING,))
_WHOLE_BEGINS = (b"\x80", b"\x82")
_JP_STRIPPED = b"\x10\x01\x07\x10\x02"
_MEANING = {
    frames.DATE: "date",
    frames.NUMBER: "number",
    frames.CALLED: "dialable",
    frames.NO_NUMBER: "reason",
    frames.REDIRECTING: "redirecting",
    frames.NAME: "name",
}
_MEANING_JP = {0x01: "date", 0x02: "number", 0x04: "reason", 0x07: "name", 0x09: "called", 0x0B: "redirecting"}

# DLE with a whole key between start and end of tone; the beginning of such at the end of what came; any other pair;
# a DLE that shields nothing.
_SHIELDED = re.compile(rb"\x10/([0-9A-D*#?])\x10~|(\x10(?:/(?:[0-9A-D*#?]\x10?)?)?\Z)|\x10([^\r\n])|\x10", re.DOTALL)
_KEYS = b"0123456789ABCD*#?"  # ?: one that a capture hides
_LOOP: dict[bytes, Literal["broken", "restored", "extension"]] = {b"h": "broken", b"H": "restored", b"P": "extension"}


@dataclass(slots=True)
class _Block:
    at_ns: int
    raw: bytearray
    fields: dict[str, bytes] = field(default_factory=dict)
    parameters: dict[str, bytes] = field(default_factory=dict)  # of messages in hexadecimal, by the same names
    standard: CallerIdStandard | None = None
    call_waiting: bool = False
    whole: bool = False  # a message came whole: a number that is not in it was not sent
    damaged: bool = False  # a message's checksum failed


class ModemText:
    """Turns the bytes of one line's modem into ModemRing, CallerIdReceived, LoopReport and KeyHeard.

    region: tells what a lone parameter 03 is: the number to call back (us), or the called one; None: not known.
    asked: set while a command waits for its answer: a line of digits alone is then that answer, no ring and no number.
    floods: how often a line or a block outgrew LIMIT_BYTES and was cut. Thread: one at a time.
    """

    def __init__(self, line: int, region: Country | None = None) -> None:
        self.asked = False
        self.floods = 0
        self._line_number = line
        self._region = region
        self._line = bytearray()
        self._line_ns = 0
        self._torn = False  # the line began without its beginning: quiet or a flood cut it
        self._block: _Block | None = None
        self._cadence: list[str] = []
        self._shielded = b""  # the beginning of a DLE sequence
        self._shielded_ns = 0
        self._tone_ns: int | None = None  # a key's tone began
        self._key: str | None = None
        self._last_ns = 0

    @property
    def due_ns(self) -> int | None:
        """When tick() is next needed; None: not before more bytes come."""
        waiting = self._line or self._block or self._shielded or self._tone_ns is not None
        return self._last_ns + QUIET_NS if waiting else None

    def feed(self, data: bytes, at_ns: int) -> list[Signal]:
        """Take the bytes that were read at at_ns."""
        signals = self.tick(at_ns)
        if not data:
            return signals
        self._last_ns = at_ns
        began_ns = self._shielded_ns if self._shielded else at_ns
        data, self._shielded = self._shielded + data, b""
        at = 0
        for match in _SHIELDED.finditer(data):
            self._read(signals, data[at : match.start()], at_ns)
            at = match.end()
            key, begun, code = match.groups()
            event_ns = at_ns if match.start() else began_ns
            if key:
                self._tone(signals, b"/", event_ns)
                self._tone(signals, key, event_ns)
                self._tone(signals, b"~", at_ns)
            elif begun:
                self._shielded, self._shielded_ns = begun, event_ns
            else:
                self._event(signals, code, event_ns)
        self._read(signals, data[at:], at_ns)
        return signals

    def tick(self, at_ns: int) -> list[Signal]:
        """Let time pass: half a second of quiet ends a block."""
        signals: list[Signal] = []
        due_ns = self.due_ns
        if due_ns is not None and at_ns >= due_ns:
            if self._shielded:
                self._shielded = b""
                self._read(signals, _HOLE, self._shielded_ns)
            self._tone(signals, b"~", self._last_ns)
            if self._line:
                self._end_line(signals, ended=False)
            self._end_block(signals)
        return signals

    def _event(self, signals: list[Signal], code: bytes | None, at_ns: int) -> None:
        """DLE and a character; None: DLE alone. What means nothing here (silence, busy, end of data) is passed over."""
        if code == b"R":
            signals.append(ModemRing(at_ns=at_ns, line=self._line_number))
        elif code in _LOOP:
            signals.append(LoopReport(at_ns=at_ns, line=self._line_number, what=_LOOP[code]))
        elif code is None:
            self._read(signals, _HOLE, at_ns)
        elif code in b"/~" or code in _KEYS:
            if code in b"0123456789?" and self._tone_ns is None:
                self._read(signals, _HOLE, at_ns)
            self._tone(signals, code, at_ns)

    def _tone(self, signals: list[Signal], code: bytes, at_ns: int) -> None:
        """Start (/) or end (~) of a key's tone, or the key; one that is told again within its tone is one key."""
        key = code.decode() if code in _KEYS else None
        if self._tone_ns is not None and self._key in (None, key) and key:
            self._key = key
            return
        if self._tone_ns is not None and self._key:
            signals.append(self._heard(self._key, self._tone_ns, at_ns))
        if key and self._tone_ns is None:
            signals.append(self._heard(key, at_ns, at_ns))
        else:
            self._tone_ns, self._key = (None if code == b"~" else at_ns), key

    def _heard(self, key: str, at_ns: int, until_ns: int) -> KeyHeard:
        return KeyHeard(at_ns=at_ns, line=self._line_number, key=key, until_ns=until_ns, source="modem")

    def _read(self, signals: list[Signal], data: bytes, at_ns: int) -> None:
        for match in _LINES.finditer(data):
            piece = match[0]
            if piece[0] in b"\r\n":
                if self._line:
                    self._end_line(signals, ended=True)
                self._torn = False
                self._keep(piece)
                continue
            at = 0
            while at < len(piece):
                if not self._line:
                    self._line_ns = at_ns
                room = LIMIT_BYTES - len(self._line)
                self._line += piece[at : at + room]
                at += room
                if len(self._line) == LIMIT_BYTES:
                    self.floods += 1
                    self._end_line(signals, ended=False)

    def _end_line(self, signals: list[Signal], ended: bool) -> None:
        open_before = self._block
        line = _HARMLESS_HOLE.sub(b"", bytes(self._line)).strip(_PADDING)
        if prefix := _LOG_PREFIX.match(line):
            line = line[prefix.end() :]
        line = self._rings(signals, line, ended)
        # A field that the end of the line did not close may lack its last digits.
        found = [
            (name, value if closed or ended or name in _HARMLESS_IF_CUT else b"")
            for name, value, closed in self._fields(line)
        ]
        if any(self._differs(name, value) for name, value in found):
            self._end_block(signals)  # this line belongs to the next call's block
        for name, value in found:
            if self._differs(name, value):
                self._end_block(signals)
            self._put(name, value)
        self._torn = bool(line) and not ended
        if self._block is open_before:  # a new block has kept this line already
            self._keep(self._line)
        self._line.clear()

    def _rings(self, signals: list[Signal], line: bytes, ended: bool) -> bytes:
        """Report the rings that the line begins with; return what follows them."""
        if cadence := _CADENCE.fullmatch(line):
            self._cadence = [*self._cadence[-3:], f"{cadence[1].decode()}={cadence[2].decode()}"]
            return b""
        patterns: list[str | None] = []
        rest = line
        if line == _RING_DIGIT and ended and not self.asked and not self._torn:
            patterns, rest = [None], b""
        while ring := _RING.match(rest):
            patterns.append(ring[1].decode() if ring[1] else None)
            rest = rest[ring.end() :]
        if rest and not _KEY.search(rest):  # RING CENTRAL is somebody's name
            return line
        for pattern in patterns:
            self._end_block(signals)
            if self._cadence and pattern is None:
                pattern = " ".join(self._cadence)
            self._cadence = []
            signals.append(ModemRing(at_ns=self._line_ns, line=self._line_number, pattern=pattern))
        return rest

    def _fields(self, line: bytes) -> list[tuple[str, bytes, bool]]:
        """Name, value and whether something behind the value shows that it is complete."""
        for form in _FORMS:
            if match := form.fullmatch(line):
                return [(n, v, match.end(n) < len(line)) for n, v in match.groupdict().items() if v is not None]
        if not self._torn and not self.asked and not (self._block and self._block.fields):
            is_hex = _BARE_HEX.fullmatch(line) and (len(line) > 20 or (line.startswith(b"80") and _proved(line)))
            if is_hex or _BARE_LAMP.fullmatch(line):
                return [("message", line, False)]
            if _BARE_NUMBER.fullmatch(line):
                return [("number", line, False)]
        found = []
        keys = list(_KEY.finditer(line))
        for key, end in zip(keys, [*(key.start() for key in keys[1:]), len(line)], strict=False):
            assert key.lastindex is not None  # every alternative of _KEY is a group
            value = line[key.end() : end].strip(_PADDING)
            found.append((_KEY_FIELDS[key.lastindex - 1], value, end < len(line)))
        return found

    def _differs(self, name: str, value: bytes) -> bool:
        """Whether the open block has this field already, with another value."""
        return self._block is not None and self._block.fields.get(name, value) != value

    def _put(self, name: str, value: bytes) -> None:
        if name != "message":
            self._open_block().fields[name] = value
            return
        octets = _octets(value)
        message = _decoded(octets)
        if octets[:1] == _WAITING or (message and message.message_waiting):
            return  # a message waits at the exchange: nobody is calling
        block = self._open_block()
        if message is None:
            return
        if message.checksum == "failed":
            block.damaged = True
            return
        block.standard = block.standard or message.standard
        block.call_waiting |= message.call_waiting
        block.whole |= not _is_lone(message)
        meanings = _MEANING_JP if message.standard == "jp" else _MEANING
        for kind, content in message.parameters.items():
            if kind in meanings:
                block.parameters.setdefault(meanings[kind], content)

    def _open_block(self) -> _Block:
        if self._block is None:
            self._block = _Block(self._line_ns, self._line[:])
        return self._block

    def _keep(self, piece: bytes | bytearray) -> None:
        if self._block is None or len(self._block.raw) == LIMIT_BYTES:
            return
        self._block.raw += piece[: LIMIT_BYTES - len(self._block.raw)]
        if len(self._block.raw) == LIMIT_BYTES:
            self.floods += 1

    def _end_block(self, signals: list[Signal]) -> None:
        block, self._block = self._block, None
        if block is None:
            return
        presentation, number = self._presentation(block)
        name = block.fields.get("name") or block.parameters.get("name", b"")
        no_name = _reading(name)[0] not in ("allowed", "corrupt")
        when = b" ".join(filter(None, (block.fields.get("date"), block.fields.get("time"))))
        called = block.fields.get("called") or block.parameters.get("called")
        if not called and self._region not in ("us", None):
            called = block.parameters.get("dialable")
        signals.append(
            CallerIdReceived(
                at_ns=block.at_ns,
                line=self._line_number,
                source="modem",
                presentation=presentation,
                number=number,
                name=None if no_name or block.damaged else _text(name),
                date_raw=_text(when or block.parameters.get("date", b"")),
                raw=block.raw.decode("latin-1"),
                standard=block.standard,
                called=_reading(called)[1] if called else None,
                redirecting=_reading(block.parameters.get("redirecting", b""))[1],
                call_waiting=block.call_waiting,
            )
        )

    def _presentation(self, block: _Block) -> tuple[Presentation, str | None]:
        if block.damaged:
            return "corrupt", None
        given = [block.fields.get("number"), block.fields.get("dialable")]
        given += [block.parameters.get(kind) for kind in ("number", "reason")]
        readings = [_reading(value) for value in given if value]
        if not readings and self._region in ("us", None) and (dialable := block.parameters.get("dialable")):
            readings = [_reading(dialable)]
        if not readings:
            reason = (
                _reading(name)[0]
                if len(name := block.fields.get("name") or block.parameters.get("name", b"")) > 1
                else "corrupt"
            )
            readings = [(reason, None)] if reason not in ("allowed", "corrupt") else []
        for wanted in ("withheld", "allowed"):  # a caller who withholds wins over a number that slipped through
            for reading in readings:
                if reading[0] == wanted:
                    return reading
        readings = [reading for reading in readings if reading[0] != "corrupt"] or readings
        return readings[0] if readings else ("unavailable" if block.whole else "corrupt", None)


def _octets(digits: bytes) -> bytes:
    """Hexadecimal as octets; empty if it is none. An odd last digit is dropped: some modems write one too many."""
    packed = b"".join(digits.split())
    if not re.fullmatch(rb"[0-9A-Fa-f]*", packed):
        return b""
    octets = bytes.fromhex(packed[: len(packed) & ~1].decode())
    return octets if len(packed) % 2 == 0 or octets[:1] not in _WHOLE_BEGINS else b""


def _decoded(octets: bytes) -> Message | None:
    message = frames.decode_message(octets, None)
    if message and message.checksum == "failed" and message.standard == "jp" and octets.startswith(_JP_STRIPPED):
        # The modem took the parity bits off; the checksum, where there is one, is over them.
        for end in (len(octets) - 2, len(octets)):
            restored = frames.decode_message(bytes(map(_even, octets[:end])) + octets[end:], None)
            if restored and restored.checksum != "failed":
                return restored
    return message


def _even(octet: int) -> int:
    return octet | (octet.bit_count() % 2) << 7


def _proved(digits: bytes) -> bool:
    message = _decoded(_octets(digits))
    return message is not None and message.checksum != "failed"


def _is_lone(message: Message) -> bool:
    """Whether these are parameters that the modem took out of their message."""
    return message.standard is None and frames.parse_parameters(message.octets) == message.parameters


def _reading(value: bytes) -> tuple[Presentation, str | None]:
    """What stands where a number should, read as a message's parameter; "corrupt": neither number nor reason."""
    message = frames.decode_message(bytes((frames.NUMBER, len(value[:255]))) + value[:255], None) if value else None
    return (message.presentation, message.number) if message else ("corrupt", None)


def _text(value: bytes) -> str | None:
    message = frames.decode_message(bytes((frames.NAME, len(value[:255]))) + value[:255], None)
    return message.name if message else None
