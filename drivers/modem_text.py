"""What a caller-ID modem writes, turned into signals. Pure: bytes and their time in, facts out; no clock, no thread.

Modems agree on nothing: order, spelling, spacing, line ends and encoding all differ, so fields are read, not lines,
and a block ends by 0.5 s of quiet or the next RING, never by a "last" field. What is not understood changes nothing.
A number is reported only if it was read whole; everything else is a reason the exchange gave, or "corrupt":
- a number whose line never ended, a damaged field, a bad checksum, or neither number nor reason: "corrupt";
- a masked number (04xxxxxxx7) or nothing but zeros: hidden by somebody, not damaged: "unavailable".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from drivers.signals import CallerIdReceived, ModemRing, Presentation, Signal

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
_KEY_FIELDS = tuple(_SPELLINGS.values())
# Whole lines without such keys; the groups are the fields.
_FORMS = (
    re.compile(rb"###DATE(?P<date>[0-9]*)\.\.\.NMBR(?P<number>.*?)\.\.\.NAME(?P<name>.*?)\+\+\+"),  # NetCallerID
    re.compile(rb"I(?P<date>[0-9/]{5} [0-9:]{5}) +(?P<number>[0-9-]+|[A-Z-]+)(?: +(?P<name>.*))?"),  # Weeder
    re.compile(rb"FM:(?P<number>.*?)(?: +TO:.*)?"),  # Switzerland
)
_BARE_NUMBER = re.compile(rb"\+?[0-9]{7,20}")  # a line of digits alone; shorter ones are speeds and product codes
_BARE_HEX = re.compile(rb"(?:80|04)[0-9A-Fa-f]{8,}")
_RING = re.compile(rb"RING(?:[ \t:]*([A-Z0-9]))?(?=[ \t]|$)[ \t]*")
_RING_DIGIT = b"2"  # V0
_CADENCE = re.compile(rb"(DRO[NF])[ \t]*=[ \t]*([0-9]{1,4})")
_LOG_PREFIX = re.compile(
    rb"(?:[A-Z][a-z]{2} [ 0-9][0-9] |[0-9]{4}-[0-9]{2}-[0-9]{2}[ T])[0-9]{2}:[0-9]{2}:[0-9]{2}\S*(?: \S+){0,2}?: +"
)
_LINES = re.compile(rb"[^\r\n]+|[\r\n]+")
_PADDING = bytes(range(0x21)) + b"\x7f\xff"  # harmless around a field; inside one it is damage

_LETTERS: dict[str, Presentation] = {"P": "withheld", "O": "unavailable", "C": "payphone", "S": "service_conflict"}
_WORDS: dict[str, Presentation] = {
    **dict.fromkeys(("PRIVATE", "RESTRICTED", "WITHHELD", "ANONYMOUS", "PRIVATENUMBER", "PRIVATECALLER"), "withheld"),
    **dict.fromkeys(
        ("OUTOFAREA", "UNAVAILABLE", "NOTAVAILABLE", "UNKNOWN", "UNKNOWNCALLER", "UNKNOWNNUMBER"), "unavailable"
    ),
    **dict.fromkeys(("PAYPHONE", "COIN", "COINPHONE", "PUBLICPHONE"), "payphone"),
    "SERVICECONFLICT": "service_conflict",
}

# Parameter types, the same in SDMF (by position), MDMF and a lone MESG.
_DATE, _NUMBER, _DIALABLE, _NO_NUMBER, _NAME, _MESSAGE_WAITING = 0x01, 0x02, 0x03, 0x04, 0x07, 0x0B
_SDMF, _MDMF, _MDMF_WAITING = 0x04, 0x80, 0x82


def decode_message(hex_digits: bytes) -> dict[int, bytes]:
    """Parameters by type of an SDMF or MDMF message, or of lone parameters, written as hex; {} if damaged.

    The checksum may be absent, or the length byte wrong if the checksum is there and right. An odd last digit is
    dropped from a lone parameter; in a whole message it is damage.
    """
    packed = b"".join(hex_digits.split())
    if not re.fullmatch(rb"[0-9A-Fa-f]+", packed):
        return {}
    message = bytes.fromhex(packed[: len(packed) & ~1].decode())
    checked = sum(message) % 256 == 0
    if message[:1] != bytes((_MDMF,)) and not (message[:1] == bytes((_SDMF,)) and len(message) > 10):
        return _parameters(message) or (_parameters(message[:-1]) if checked else {})
    if len(packed) % 2:
        return {}
    end = 2 + message[1] if len(message) > 1 else 0
    bodies = []
    if len(message) == end:
        bodies.append(message[2:])
    elif sum(message[: end + 1]) % 256 == 0 and len(message) > end:
        bodies.append(message[2:end])
    if checked:
        bodies.append(message[2:-1])
    if message[0] == _MDMF:
        return next((found for found in map(_parameters, bodies) if found), {})
    if len(message) == end and checked:  # SDMF: is the last byte a digit or the checksum? Both fit
        bodies = [] if message[-1:].isdigit() else bodies[1:]
    return {_DATE: bodies[0][:8], _NUMBER: bodies[0][8:]} if bodies else {}


def _parameters(body: bytes) -> dict[int, bytes]:
    """Type, length, value, one after the other, ending with the last byte; {} if they do not."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(body):
        end = at + 2 + body[at + 1] if at + 2 <= len(body) else len(body) + 1
        if end > len(body):
            return {}
        found.setdefault(body[at], body[at + 2 : end])
        at = end
    return found


@dataclass(slots=True)
class _Block:
    at_ns: int
    raw: bytearray
    fields: dict[str, bytes] = field(default_factory=dict)
    parameters: dict[int, bytes] = field(default_factory=dict)


class ModemText:
    """Turns the bytes of one line's modem into ModemRing and CallerIdReceived. Thread: one at a time.

    asked: set while a command waits for its answer: a line of digits alone is then that answer, no ring and no number.
    floods: how often a line or a block outgrew LIMIT_BYTES and was cut.
    """

    def __init__(self, line: int) -> None:
        self.asked = False
        self.floods = 0
        self._line_number = line
        self._line = bytearray()
        self._line_ns = 0
        self._torn = False  # the line began without its beginning: quiet or a flood cut it
        self._block: _Block | None = None
        self._cadence: list[str] = []
        self._last_ns = 0

    @property
    def due_ns(self) -> int | None:
        """When tick() is next needed; None: not before more bytes come."""
        return self._last_ns + QUIET_NS if self._line or self._block else None

    def feed(self, data: bytes, at_ns: int) -> list[Signal]:
        """Take the bytes that were read at at_ns."""
        signals = self.tick(at_ns)
        if data:
            self._last_ns = at_ns
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
        return signals

    def tick(self, at_ns: int) -> list[Signal]:
        """Let time pass: half a second of quiet ends a block."""
        signals: list[Signal] = []
        due_ns = self.due_ns
        if due_ns is not None and at_ns >= due_ns:
            if self._line:
                self._end_line(signals, ended=False)
            self._end_block(signals)
        return signals

    def _end_line(self, signals: list[Signal], ended: bool) -> None:
        open_before = self._block
        line = bytes(self._line).strip(_PADDING)
        if prefix := _LOG_PREFIX.match(line):
            line = line[prefix.end() :]
        line = self._rings(signals, line, ended)
        # A field that the end of the line did not close may lack its last digits.
        found = [
            (name, value if closed or ended or name in ("name", "date", "time") else b"")
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
            if _BARE_HEX.fullmatch(line) and (len(line) > 20 or (line.startswith(b"80") and decode_message(line))):
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
        if name == "message":
            parameters = decode_message(value)
            if value[:2] == b"%02X" % _MDMF_WAITING or (parameters and set(parameters) == {_MESSAGE_WAITING}):
                return  # a message waits at the exchange: nobody is calling
            block = self._open_block()
            for kind, content in parameters.items():
                block.parameters.setdefault(kind, content)
            return
        self._open_block().fields[name] = value

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
        presentation, number = _presentation(block)
        name = block.fields.get("name") or block.parameters.get(_NAME, b"")
        no_name = _letters(name) in _LETTERS or _letters(name) in _WORDS
        when = b" ".join(filter(None, (block.fields.get("date"), block.fields.get("time"))))
        signals.append(
            CallerIdReceived(
                at_ns=block.at_ns,
                line=self._line_number,
                source="modem",
                presentation=presentation,
                number=number,
                name=(_text(name) or None) if not no_name else None,
                date_raw=_text(when or block.parameters.get(_DATE, b"")) or None,
                raw=block.raw.decode("latin-1"),
            )
        )


def _presentation(block: _Block) -> tuple[Presentation, str | None]:
    given = [block.fields.get("number"), block.fields.get("dialable")]
    given += [block.parameters.get(kind) for kind in (_NUMBER, _NO_NUMBER)]
    readings = [_reading(value) for value in given if value]
    if not readings and (dialable := block.parameters.get(_DIALABLE)):
        # The number to call back in North America, but the called number elsewhere, where the caller's number or a
        # reason always stands beside it: so it counts only alone.
        readings = [_reading(dialable)]
    if not readings and (reason := _WORDS.get(_letters(block.fields.get("name") or block.parameters.get(_NAME, b"")))):
        readings = [(reason, None)]
    for wanted in ("withheld", "allowed"):  # a caller who withholds wins over a number that slipped through
        for reading in readings:
            if reading and reading[0] == wanted:
                return reading
    return next(filter(None, readings), ("corrupt", None))


def _reading(value: bytes) -> tuple[Presentation, str | None] | None:
    """A number, or the reason why there is none; None: damaged."""
    digits = re.sub(rb"[ .()-]", b"", value)
    if re.fullmatch(rb"\+?[0-9]{1,20}", digits):
        return ("allowed", digits.decode()) if digits.strip(b"+0") else ("unavailable", None)
    if re.fullmatch(rb"\+?[0-9xX*]{2,20}", digits):
        return "unavailable", None
    letters = _letters(value)
    reason = _LETTERS.get(letters) or _WORDS.get(letters)
    return (reason, None) if reason else None


def _letters(value: bytes) -> str:
    """The letters of words that may be written -UNKNOWN CALLER- or OUT_OF_AREA; empty if anything else is in them."""
    return re.sub(rb"[^A-Z]", b"", value.upper()).decode() if re.fullmatch(rb"[A-Za-z _./()-]+", value) else ""


def _text(value: bytes) -> str:
    try:
        text = value.decode("cp932")
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return "".join(c if c.isprintable() else " " for c in text).strip()
