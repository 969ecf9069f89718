"""Scenarios of the virtual line: plain text that a telephone technician reads and writes.

    title  Answered with Number Display
    country jp                     # jp, us, uk or etsi
    number display                 # the line has it: start signal, and the phone answers that by itself
    caller id dtmf                 # elsewhere: mdmf (default), sdmf (us) or dtmf (etsi)
    idle   24 V                    # a gateway's line; default 48 V
    wires swapped                  # the polarity comparator sees the line the other way round
    start  2026-11-24 09:00:00 +09:00
    modem  conexant, rings early   # the dialect of the modem's text (early: it rings on start signals), or none

    2.0    call from 03-0000-1234  # seconds, or m:ss, from the start; the exchange rings until lift or give up
    +6.5   lift                    # or counted from the step before
    +0.5   shop says greeting      # a voice of drivers/virtual/voices, or a WAV or FLAC file beside the scenario
    +10    hang up
    end    60.0                    # default: 12 s after the last step

    expect calls 1
    expect call 1 outcome=answered rings=1 answered=8.5
    expect events call.ringing call.answered call.ended

A comment begins with # and a space. All actions, with an example of each: `ACTIONS` below.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from drivers.signals import Country, Presentation
from drivers.virtual import speech
from drivers.virtual.modem import Dialect

CallerIdForm = Literal["mdmf", "sdmf", "dtmf"]
AtStart = Literal["idle", "off-hook", "ringing", "handshake", "cut"]
MODEMS: dict[str, Dialect | None] = {**{dialect: dialect for dialect in get_args(Dialect)}, "none": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Somebody calls this line. presentation "not_received": nothing of the caller is ever sent.

    damaged: a bit of the frame is wrong. noisy_db: signal over noise (0-4 kHz) of the frame. distinctive: another ring.
    """

    presentation: Presentation
    number: str | None = None  # digits only
    name: str | None = None
    damaged: bool = False
    noisy_db: float | None = None
    distinctive: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """Somebody calls while a call is up: call waiting."""

    call: Call


@dataclass(frozen=True, slots=True)
class PrimaryAnswer:
    """From now on the phone answers start signals so long after their beginning; None: not at all."""

    after_ns: int | None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The caller stops ringing."""


@dataclass(frozen=True, slots=True)
class Lift:
    """A handset of the shop is lifted: of the phone, or of a second one on the same line."""

    second: bool = False


@dataclass(frozen=True, slots=True)
class HangUp:
    """A handset of the shop is put down."""

    second: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flash:
    """The shop's phone opens the loop for a moment (hook flash, dial pulse, bad contact)."""

    duration_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """The shop's phone sends keys as DTMF."""

    keys: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """The shop's phone dials digits by opening the loop, 10 or 20 times a second."""

    digits: str
    per_second: Literal[10, 20]

    def breaks_ns(self) -> list[tuple[int, int]]:
        """When the contact opens and closes, from the first break on."""
        break_ns, make_ns, pause_ns = _PULSES_NS[self.per_second]
        at_ns, found = 0, []
        for digit in self.digits:
            for _ in range(int(digit) or 10):
                found.append((at_ns, at_ns + break_ns))
                at_ns += break_ns + make_ns
            at_ns += pause_ns - make_ns
        return found


@dataclass(frozen=True, slots=True)
class SecondDialTone:
    """The exchange asks for more digits."""


@dataclass(frozen=True, slots=True)
class FarIsBusy:
    """The called party talks to somebody else: busy tone."""


@dataclass(frozen=True, slots=True)
class Fax:
    """A fax machine is heard: the calling one with CNG until the end, the called one with CED."""

    who: Literal["shop", "far"]
    tone: Literal["cng", "ced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FarAnswers:
    """The called party lifts. supervision: the exchange tells it by a polarity reversal."""

    supervision: bool


@dataclass(frozen=True, slots=True)
class FarHangsUp:
    """The other party hangs up; the shop hears busy tone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """Somebody speaks: the shop at this end of the line, or the far party."""

    who: Literal["shop", "far"]
    sound: Path


@dataclass(frozen=True, slots=True)
class PressButton:
    """The unit's button is pressed."""


@dataclass(frozen=True, slots=True)
class CutLine:
    """The wire breaks between exchange and unit."""


@dataclass(frozen=True, slots=True)
class RestoreLine:
    """The wire is whole again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """A device of the unit fails or comes back."""

    device: Literal["modem", "codec", "broker", "power"]
    action: Literal["unplug", "plug", "stop", "start", "cut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoseAudio:
    """The codec delivers nothing for a while."""

    duration_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModemSends:
    """The modem says these bytes, whatever the line does."""

    raw: bytes


Action = (
    Call
    | Waiting
    | PrimaryAnswer
    | GiveUp
    | Lift
    | HangUp
    | Flash
    | Dial
    | Pulse
    | SecondDialTone
    | FarIsBusy
    | Fax
    | FarAnswers
    | FarHangsUp
    | Say
    | PressButton
    | CutLine
    | RestoreLine
    | Break
    | LoseAudio
    | ModemSends
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    at_ns: int
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Expects:
    """What the unit must make of it. Values as written, of FACTS; times are seconds of the scenario."""

    calls: int | None = None
    call: Mapping[int, Mapping[str, str]] = field(default_factory=dict)  # by number of the call, from 1
    events: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    title: str
    country: Country
    number_display: bool
    caller_id: CallerIdForm
    idle_v: float
    wires_swapped: bool
    at_start: AtStart
    call_at_start: Call | None  # whose frame the handshake at the start is for
    start: datetime  # aware
    modem: Dialect | None
    modem_rings_early: bool  # it reports start signals as rings
    steps: tuple[Step, ...]  # in time order
    expects: Expects
    end_ns: int
    path: Path


# What can be expected of a call: the form of its value, and how to write it.
FACTS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            *("direction", "outcome", "end_reason", "ended_by", "number", "name", "presentation", "region", "sources"),
            *("waiting", "dialled", "evidence", "no_recording", "marks"),
        ),
        (".*", "text"),
    ),
    **dict.fromkeys(("rings", "flashes", "keys"), ("[0-9]+", "a whole number")),
    **dict.fromkeys(
        ("opened", "answered", "ended", "recorded_from", "recorded_to", "filled"),
        (r"-?[0-9]+(\.[0-9]+)?|none", "seconds, or none"),
    ),
    "recording": ("yes|no", "yes or no"),
}


class ScenarioError(ValueError):
    """One sentence: file:line, what is wrong, how to write it."""


def load(path: Path) -> Scenario:
    """Read a scenario file. Raises ScenarioError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ScenarioError(f"{path}: cannot be read ({why}); give the path of a scenario file.") from error
    return parse(text, path)


def parse(text: str, path: Path) -> Scenario:
    """Check a scenario given as text; path stands for the file in messages and sound paths. Raises ScenarioError."""
    return _Parser(path).parse(text)


# Dial pulses: break, make, and the least pause between two digits, from the last break's end to the next break.
_PULSES_NS: dict[int, tuple[int, int, int]] = {
    10: (67_000_000, 33_000_000, 650_000_000),
    20: (33_000_000, 17_000_000, 500_000_000),
}
# A call ends at the exchange this long after the handset was put down; a shorter break belongs to the call.
RELEASE_NS = 1_250_000_000

_SECOND_NS = 1_000_000_000
_LONGEST_NS = 366 * 86400 * _SECOND_NS
_TIME = re.compile(r"\+?(?:\d{1,18}:)*\d{1,18}(?:\.\d+)?")
_NUMBER = re.compile(r"\d{1,9}")
_WORD = re.compile(r'(?:[^\s"]|"(?:\\.|[^"\\])*")+')
_COMMENT = re.compile(r"(?:^|\s)#(?:\s.*)?$|^#.*$")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))")
_ESCAPED = {"r": "\r", "n": "\n", "t": "\t", "\\": "\\", '"': '"'}


_FORMS: dict[Country, tuple[CallerIdForm, ...]] = {
    "jp": (),
    "us": ("mdmf", "sdmf"),
    "uk": ("mdmf",),
    "etsi": ("mdmf", "dtmf"),
}
_FORMS_HOW = "write caller id mdmf or sdmf (us), mdmf (uk), mdmf or dtmf (etsi); in jp, number display"
_RINGS_EARLY = ", rings early"


class _Wrong(Exception):
    """What is wrong, and how to write it."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(what, how)
        self.what, self.how = what, how


def _seconds(text: str) -> int:
    """Read s, s.fff, m:ss or h:mm:ss as nanoseconds."""
    *larger, seconds = text.removeprefix("+").split(":")
    if not _TIME.fullmatch(text) or (larger and float(seconds) >= 60) or any(int(part) > 59 for part in larger[1:]):
        raise _Wrong(f"{text!r} is not a time", "write seconds (2.5) or minutes and seconds (1:05)")
    whole = 0
    for part in larger:
        whole = (whole + int(part)) * 60
    head, _, fraction = seconds.partition(".")
    return _in_time((whole + int(head)) * _SECOND_NS + int(fraction.ljust(9, "0")[:9]))


def _in_time(at_ns: int) -> int:
    if at_ns > _LONGEST_NS:
        raise _Wrong("that is too late", "a scenario lasts 366 days at most")
    return at_ns


def _quoted(text: str) -> str:
    """Take the quotes and escapes off a word; a word without quotes stays as it is."""
    if not text.startswith('"'):
        return text

    def plain(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        if match[2] not in _ESCAPED:
            raise _Wrong(f"{match[0]!r} is unknown", r"use \r \n \t \\ \" or \x and two hexadecimal digits")
        return _ESCAPED[match[2]]

    return _ESCAPE.sub(plain, text[1:-1])


def _nearest(word: str, known: list[str]) -> str:
    """Say which known word is meant, or name them all."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"write {near[0]!r}" if near else "use one of: " + ", ".join(sorted(known))


def _duration(words: list[str], shortest_s: float, longest_s: float) -> int:
    if len(words) == 1 and re.fullmatch(r"\d+(\.\d+)?", words[0]) and shortest_s <= float(words[0]) <= longest_s:
        return _seconds(words[0])
    raise _Wrong(
        f"{' '.join(words) or 'nothing'!r} is no duration here",
        f"give one number of seconds from {shortest_s:g} to {longest_s:g}",
    )


def _nothing(words: list[str]) -> None:
    if words:
        raise _Wrong(f"{' '.join(words)!r} is too much", "end the line before it, or put # and a space in front")


def _call(presentation: Presentation, words: list[str]) -> Call:
    number = None
    if presentation == "allowed":
        number = words[0].replace("-", "") if words else ""
        if not re.fullmatch(r"[0-9]{1,20}", number):
            raise _Wrong(f"{words[0] if words else 'nothing'!r} is no number", "write digits and -, as 03-0000-1234")
        words = words[1:]
    name, noisy_db, damaged, distinctive = None, None, False, False
    while words:
        match words:
            case ["name", *rest] if presentation != "not_received" and name is None:
                if not rest:
                    raise _Wrong("the name is missing", 'write name "YAMADA"')
                name, words = _quoted(rest[0]), rest[1:]
            case ["damaged", *rest] if presentation != "not_received" and not damaged:
                damaged, words = True, rest
            case ["noisy", *rest] if presentation != "not_received" and noisy_db is None:
                if not rest or not re.fullmatch(r"-?\d{1,2}", rest[0]):
                    raise _Wrong("the noise is missing", "write noisy 12, for a signal of 12 dB over the noise")
                noisy_db, words = float(rest[0]), rest[1:]
            case ["distinctive", *rest] if not distinctive:
                distinctive, words = True, rest
            case _:
                _nothing(words)
    return Call(
        presentation=presentation,
        number=number,
        name=name,
        damaged=damaged,
        noisy_db=noisy_db,
        distinctive=distinctive,
    )


def _primary_answer(words: list[str]) -> PrimaryAnswer:
    return PrimaryAnswer(None if words == ["none"] else _duration(words, 0.2, 5.9))


def _pulse(words: list[str]) -> Pulse:
    digits = words[0].replace("-", "") if words else ""
    if not re.fullmatch(r"[0-9]{1,32}", digits):
        raise _Wrong(f"{' '.join(words) or 'nothing'!r} cannot be pulsed", "write 1 to 32 digits of 0-9 and -")
    match words[1:]:
        case []:
            return Pulse(digits=digits, per_second=10)
        case ["at", "10" | "20" as speed]:
            return Pulse(digits=digits, per_second=10 if speed == "10" else 20)
    raise _Wrong(f"{' '.join(words[1:])!r} is no speed of a dial", "write at 10 or at 20, pulses a second")


def _dial(words: list[str]) -> Dial:
    keys = words[0].replace("-", "") if len(words) == 1 else ""
    if not re.fullmatch(r"[0-9*#]{1,32}", keys):
        raise _Wrong(f"{' '.join(words) or 'nothing'!r} cannot be dialled", "write 1 to 32 keys of 0-9, *, # and -")
    return Dial(keys=keys)


def _far_answers(words: list[str]) -> FarAnswers:
    if words == ["without", "reversal"]:
        return FarAnswers(supervision=False)
    _nothing(words)
    return FarAnswers(supervision=True)


def _modem_sends(words: list[str]) -> ModemSends:
    if len(words) != 1 or not words[0].startswith('"'):
        raise _Wrong("the bytes are missing", r'write modem sends "RING\r\n"')
    try:
        return ModemSends(raw=_quoted(words[0]).encode("latin-1"))
    except UnicodeEncodeError as error:
        raise _Wrong(
            f"{error.object[error.start]!r} is no byte", r"write bytes above 7F as \x and two digits"
        ) from error


def _plain(action: Action) -> Callable[[list[str]], Action]:
    def build(words: list[str]) -> Action:
        _nothing(words)
        return action

    return build


# What a step may say: the words it begins with, an example, and what makes the action of the words after them.
# None: `says` needs the country and the folder, `already` is no step; the parser sees to them.
ACTIONS: dict[str, tuple[str, Callable[[list[str]], Action] | None]] = {
    "call from": ('call from 03-0000-1234 name "YAMADA"', lambda words: _call("allowed", words)),
    "call withheld": ("call withheld", lambda words: _call("withheld", words)),
    "call payphone": ("call payphone", lambda words: _call("payphone", words)),
    "call unavailable": ("call unavailable", lambda words: _call("unavailable", words)),
    "call service-conflict": ("call service-conflict", lambda words: _call("service_conflict", words)),
    "call no-id": ("call no-id", lambda words: _call("not_received", words)),
    "call waiting from": ("call waiting from 090-0000-5678", lambda words: Waiting(_call("allowed", words))),
    "call waiting withheld": ("call waiting withheld", lambda words: Waiting(_call("withheld", words))),
    "call waiting no-id": ("call waiting no-id", lambda words: Waiting(_call("not_received", words))),
    "primary answer": ("primary answer none", _primary_answer),
    "give up": ("give up", _plain(GiveUp())),
    "lift": ("lift", _plain(Lift())),
    "lift second phone": ("lift second phone", _plain(Lift(second=True))),
    "already off-hook": ("already off-hook", None),
    "already ringing": ("already ringing", None),
    "already in handshake": ("already in handshake 03-0000-1234", None),
    "already cut": ("already cut", None),
    "hang up": ("hang up", _plain(HangUp())),
    "hang up second phone": ("hang up second phone", _plain(HangUp(second=True))),
    "flash": ("flash 0.6", lambda words: Flash(duration_ns=_duration(words, 0.02, 1.2))),
    "dial": ("dial 03-0000-5678", _dial),
    "pulse": ("pulse 03-0000-5678 at 20", _pulse),
    "second dial tone": ("second dial tone", _plain(SecondDialTone())),
    "far is busy": ("far is busy", _plain(FarIsBusy())),
    "caller is a fax": ("caller is a fax", _plain(Fax("far", "cng"))),
    "far is a fax": ("far is a fax", _plain(Fax("far", "ced"))),
    "shop answers as a fax": ("shop answers as a fax", _plain(Fax("shop", "ced"))),
    "shop calls as a fax": ("shop calls as a fax", _plain(Fax("shop", "cng"))),
    "far answers": ("far answers without reversal", _far_answers),
    "far hangs up": ("far hangs up", _plain(FarHangsUp())),
    "shop says": ("shop says greeting", None),
    "caller says": ("caller says order", None),
    "far says": ("far says order", None),
    "press button": ("press button", _plain(PressButton())),
    "unplug modem": ("unplug modem", _plain(Break(device="modem", action="unplug"))),
    "plug modem": ("plug modem", _plain(Break(device="modem", action="plug"))),
    "unplug codec": ("unplug codec", _plain(Break(device="codec", action="unplug"))),
    "plug codec": ("plug codec", _plain(Break(device="codec", action="plug"))),
    "cut line": ("cut line", _plain(CutLine())),
    "restore line": ("restore line", _plain(RestoreLine())),
    "stop broker": ("stop broker", _plain(Break(device="broker", action="stop"))),
    "start broker": ("start broker", _plain(Break(device="broker", action="start"))),
    "lose audio": ("lose audio 0.5", lambda words: LoseAudio(duration_ns=_duration(words, 0.001, 3600))),
    "modem sends": (r'modem sends "RING\r\n"', _modem_sends),
    "power cut": ("power cut", _plain(Break(device="power", action="cut"))),
}
_HEADERS = [
    *("title", "country", "number display", "caller id", "idle", "wires swapped", "start", "modem", "end", "expect")
]


class _Story:
    """What has happened so far, as far as it decides what can happen next."""

    def __init__(self) -> None:
        self.up: set[bool] = set()  # the phones whose handset is up: False the first, True the second
        self.call: Literal["none", "ringing", "dialled", "talking", "over"] = "none"
        self.released_ns = -RELEASE_NS  # the last handset was put down
        self.hook_free_ns = 0  # a flash or the pulses of a number are over
        self.away: set[str] = set()  # what is unplugged, stopped or cut

    def begin(self, at_start: AtStart) -> None:
        """Take over what went on before the start."""
        match at_start:
            case "off-hook":
                self.up.add(False)
                self.call = "talking"
            case "ringing" | "handshake":
                self.call = "ringing"
            case "cut":
                self.away.add("line")

    def tell(self, step: Step) -> None:
        """Take the next step. Raises _Wrong when it cannot happen."""
        match step.action:
            case Call():
                if self.up or self.call != "none" or step.at_ns < self.released_ns + RELEASE_NS:
                    raise _Wrong("the line is still busy", "let this call come 1.25 s after the hang up, or later")
                self.call = "ringing"
            case Waiting():
                self._need(self.call == "talking", "nobody is connected", "let it come in a call")
            case GiveUp():
                self._need(self.call == "ringing", "nobody is ringing", "after lift, write 'far hangs up'")
                self.call = "none"
            case Lift(second=second):
                self._need(second not in self.up, "the handset is up already", "write 'hang up' before it")
                self.up.add(second)
                if self.call == "ringing":
                    self.call = "talking"
            case HangUp(second=second):
                self._need(second in self.up, "the handset is down already", "write 'lift' before it")
                self._hook_free(step)
                self.up.remove(second)
                if not self.up:
                    self.call, self.released_ns = "none", step.at_ns
            case Flash() | Pulse() | Dial():
                self._need(bool(self.up), "the handset is down", "write 'lift' before it")
                if not isinstance(step.action, Dial):
                    self._need(False in self.up, "the first phone's handset is down", "write 'lift' before it")
                self._hook_free(step)
                if isinstance(step.action, Flash):
                    self.hook_free_ns = step.at_ns + step.action.duration_ns
                elif isinstance(step.action, Pulse):
                    self.hook_free_ns = step.at_ns + step.action.breaks_ns()[-1][1]
                if not isinstance(step.action, Flash) and self.call == "none":
                    self.call = "dialled"
            case SecondDialTone():
                self._need(bool(self.up), "the handset is down", "write 'lift' before it")
            case FarAnswers() | FarIsBusy():
                self._need(self.call == "dialled", "nobody was dialled", "write 'dial 03-0000-5678' before it")
                self.call = "talking" if isinstance(step.action, FarAnswers) else "over"
            case FarHangsUp():
                self._need(self.call == "talking", "nobody is connected", "for a caller who rings, write 'give up'")
                self.call = "over"  # busy tone until the handset is down
            case CutLine():
                self._leave("line", "cut")
            case RestoreLine():
                self._come_back("line", "cut line")
            case Break(device="power"):
                pass
            case Break(device=device, action="unplug" | "stop" as action):
                self._leave(device, action)
            case Break(device=device, action=action):
                self._come_back(device, f"{'stop' if action == 'start' else 'unplug'} {device}")
            case Say() | Fax() | PrimaryAnswer() | PressButton() | LoseAudio() | ModemSends():
                pass

    def _hook_free(self, step: Step) -> None:
        free = step.at_ns >= self.hook_free_ns
        self._need(
            free, "the flash or the pulses before it are not over yet", f"wait until {self.hook_free_ns / 1e9:g}"
        )

    @staticmethod
    def _need(holds: bool, what: str, how: str) -> None:
        if not holds:
            raise _Wrong(what, how)

    def _leave(self, device: str, action: str) -> None:
        self._need(device not in self.away, f"the {device} is away already", f"leave this second {action} out")
        self.away.add(device)

    def _come_back(self, device: str, before: str) -> None:
        self._need(device in self.away, f"the {device} is there already", f"write {before!r} before it")
        self.away.remove(device)


class _Parser:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, str] = {}
        self.steps: list[Step] = []
        self.story = _Story()
        self.at_start: AtStart = "idle"
        self.call_at_start: Call | None = None
        self.calls: int | None = None
        self.call: dict[int, dict[str, str]] = {}
        self.events: tuple[str, ...] | None = None
        self.country: Country = "jp"

    def parse(self, text: str) -> Scenario:
        for number, line in enumerate(text.splitlines(), 1):
            try:
                self._line(_split(line))
            except _Wrong as wrong:
                raise ScenarioError(f"{self.path}:{number}: {wrong.what}; {wrong.how}.") from wrong
        try:
            return self._whole()
        except _Wrong as wrong:
            number = len(text.splitlines())
            raise ScenarioError(f"{self.path}:{number}: {wrong.what}; {wrong.how}.") from wrong

    def _whole(self) -> Scenario:
        if "title" not in self.header:
            raise _Wrong("the title is missing", "begin the file with a line 'title  What happens here'")
        last_ns = self.steps[-1].at_ns if self.steps else 0
        end_ns = _seconds(self.header["end"]) if "end" in self.header else last_ns + 12 * _SECOND_NS
        if end_ns < last_ns:
            raise _Wrong("the end comes before the last step", f"write end {last_ns / _SECOND_NS:g} or later")
        if self.country != "jp" and "number display" in self.header:
            raise _Wrong("Number Display exists in Japan only", "leave 'number display' out, or write 'country jp'")
        form = self.header.get("caller id", "mdmf")
        if form not in _FORMS[self.country] and "caller id" in self.header:
            raise _Wrong(f"caller ID of the form {form!r} does not exist in {self.country}", _FORMS_HOW)
        numbers = sorted(self.call)
        if numbers and self.calls is not None and numbers[-1] > self.calls:
            raise _Wrong(f"call {numbers[-1]} is expected of {self.calls} calls", "let the two agree")
        modem, early, _ = self.header.get("modem", "conexant").partition(_RINGS_EARLY)
        return Scenario(
            title=self.header["title"],
            country=self.country,
            number_display="number display" in self.header,
            caller_id="sdmf" if form == "sdmf" else "dtmf" if form == "dtmf" else "mdmf",
            idle_v=float(self.header.get("idle", "48").split()[0]),
            wires_swapped="wires swapped" in self.header,
            at_start=self.at_start,
            call_at_start=self.call_at_start,
            start=datetime.fromisoformat(self.header.get("start", "2026-11-24T09:00:00+09:00")),
            modem=MODEMS[modem],
            modem_rings_early=bool(early),
            steps=tuple(self.steps),
            expects=Expects(calls=self.calls, call=self.call, events=self.events),
            end_ns=end_ns,
            path=self.path,
        )

    def _line(self, words: list[str]) -> None:
        if not words:
            return
        if words[0][0].isdigit() or words[0].startswith("+"):
            self._step(words)
        elif words[0] == "expect":
            self._expect(words[1:])
        elif words[:2] in (["number", "display"], ["wires", "swapped"]):
            _nothing(words[2:])
            self._once(" ".join(words[:2]), "yes")
        elif words[:2] == ["caller", "id"]:
            self._header("caller id", " ".join(words[2:]))
        elif words[0] in ("title", "country", "idle", "start", "modem", "end"):
            self._header(words[0], " ".join(words[1:]))
        else:
            known = [*_HEADERS, *ACTIONS]
            phrase = " ".join(words[:2])
            for action in ACTIONS:
                if phrase == action or words[0] == action:
                    raise _Wrong(f"{action!r} has no time", f"write the seconds before it: '+2  {ACTIONS[action][0]}'")
            raise _Wrong(f"{words[0]!r} is unknown", _nearest(phrase, known))

    def _once(self, word: str, value: str) -> None:
        if word in self.header:
            raise _Wrong(f"{word!r} is given twice", "leave one of the two out")
        self.header[word] = value

    def _header(self, word: str, value: str) -> None:
        if not value:
            raise _Wrong(f"{word!r} has no value", f"write the {word} behind it")
        self._once(word, value)
        if word == "country":
            if value not in get_args(Country):
                raise _Wrong(f"{value!r} is no country here", _nearest(value, [*get_args(Country)]))
            if self.steps:
                raise _Wrong("the country comes too late", "write it before the first step")
            self.country = next(country for country in _FORMS if country == value)
        elif word == "caller id" and value not in get_args(CallerIdForm):
            raise _Wrong(f"{value!r} is no form of caller ID", _FORMS_HOW)
        elif word == "idle" and not (re.fullmatch(r"\d{2}( V)?", value) and 20 <= int(value[:2]) <= 56):
            raise _Wrong(f"{value!r} is no voltage of an idle line", "write 20 V to 56 V, as idle 24 V")
        elif word == "modem" and value.removesuffix(_RINGS_EARLY) not in MODEMS:
            raise _Wrong(f"{value!r} is no modem", _nearest(value, [*MODEMS]))
        elif word == "end":
            _seconds(value)
        elif word == "start":
            try:
                start = datetime.fromisoformat(value.replace(" +", "+").replace(" -", "-"))
            except ValueError:
                start = None
            # The unit's clock counts from 1970; another year must still be a date.
            if start is None or start.tzinfo is None or not 1970 < start.year < 9998:
                raise _Wrong(f"{value!r} is no date and time", "write start 2026-11-24 09:00:00 +09:00")
            self.header[word] = start.isoformat()

    def _step(self, words: list[str]) -> None:
        at_ns = _seconds(words[0])
        last_ns = self.steps[-1].at_ns if self.steps else 0
        if words[0].startswith("+"):
            at_ns = _in_time(at_ns + last_ns)
        elif at_ns < last_ns:
            raise _Wrong(f"{words[0]} comes before the step above it", f"write {last_ns / _SECOND_NS:g} or more, or +")
        phrase = next((p for n in (5, 4, 3, 2, 1) if (p := " ".join(words[1 : n + 1])) in ACTIONS), None)
        if phrase is None:
            said = " ".join(words[1:3])
            raise _Wrong(f"{said!r} is unknown" if said else "the action is missing", _nearest(said, list(ACTIONS)))
        example, build = ACTIONS[phrase]
        rest = words[1 + len(phrase.split()) :]
        try:
            if phrase.startswith("already"):
                if at_ns or self.steps or self.at_start != "idle":
                    raise _Wrong("something can be so already at the start only", "write it once and first, at 0")
                self._already(phrase, rest)
                return
            action = build(rest) if build else self._say("shop" if phrase == "shop says" else "far", rest)
        except _Wrong as wrong:
            how = wrong.how if phrase in wrong.how else f"{wrong.how}, as in '{example}'"
            raise _Wrong(wrong.what, how) from wrong
        call = action.call if isinstance(action, Waiting) else action
        if isinstance(call, Call):
            if call.distinctive and self.country != "us":
                raise _Wrong("a distinctive ring exists in the country us only", "leave 'distinctive' out")
            if call.presentation in ("payphone", "service_conflict") and self.country != "jp":
                raise _Wrong("this reason exists in Japan only", "write call withheld or call unavailable")
            if self.header.get("caller id") == "dtmf" and (call.damaged or call.noisy_db is not None):
                raise _Wrong("caller ID in DTMF is no frame", "leave 'damaged' and 'noisy' out")
        if isinstance(action, SecondDialTone) and self.country != "jp":
            raise _Wrong("the second dial tone is Japan's", "leave it out")
        step = Step(at_ns=at_ns, action=action)
        self.story.tell(step)
        self.steps.append(step)

    def _already(self, phrase: str, words: list[str]) -> None:
        match phrase:
            case "already off-hook":
                self.at_start = "off-hook"
            case "already ringing":
                self.at_start = "ringing"
            case "already cut":
                self.at_start = "cut"
            case _:
                if "number display" not in self.header:
                    raise _Wrong("the line has no Number Display", "write 'number display' above it")
                self.at_start, self.call_at_start, words = "handshake", _call("allowed", words), []
        _nothing(words)
        self.story.begin(self.at_start)

    def _say(self, who: Literal["shop", "far"], words: list[str]) -> Say:
        if len(words) != 1:
            raise _Wrong("one voice or sound file is wanted", "write its name without blanks or in quotes")
        name = _quoted(words[0])
        if name.lower().endswith((".wav", ".flac")):
            path = self.path.parent / name
            why = speech.fault(path)
            if why is not None:
                raise _Wrong(f"{name!r} cannot be read ({why})", "give a WAV or FLAC file beside the scenario")
            return Say(who=who, sound=path)
        language = "ja" if self.country == "jp" else "en"
        voices = {path.stem: path for path in speech.VOICES.glob("*.flac")}
        path_or_none = voices.get(f"{language}-{name}") or voices.get(name)
        if path_or_none is None:
            short = [stem.removeprefix(f"{language}-") for stem in voices]
            raise _Wrong(f"there is no voice {name!r}", _nearest(name, short))
        return Say(who=who, sound=path_or_none)

    def _expect(self, words: list[str]) -> None:
        match words:
            case ["calls", count] if _NUMBER.fullmatch(count) and self.calls is None:
                self.calls = int(count)
            case ["call", number, *facts] if _NUMBER.fullmatch(number) and int(number) >= 1 and facts:
                known = self.call.setdefault(int(number), {})
                for fact in facts:
                    key, equals, value = fact.partition("=")
                    if not (re.fullmatch(r"[a-z_]+", key) and equals and value) or key in known:
                        raise _Wrong(f"{fact!r} is no new fact of a call", "write key=value, as rings=2")
                    if key not in FACTS:
                        raise _Wrong(f"{key!r} is no fact of a call", _nearest(key, list(FACTS)))
                    form, how = FACTS[key]
                    known[key] = _quoted(value)
                    if not re.fullmatch(form, known[key], re.DOTALL):
                        raise _Wrong(f"{fact!r} can never be met", f"write {how} after {key}=")
            case ["events", *names] if names and self.events is None:
                for name in names:
                    if not re.fullmatch(r"[a-z]+\.[a-z_]+", name):
                        raise _Wrong(f"{name!r} is no event", "write names as call.ringing, separated by blanks")
                self.events = tuple(names)
            case _:
                raise _Wrong(
                    f"'expect {' '.join(words)}' says nothing new",
                    "write 'expect calls 1', 'expect call 1 rings=2' or 'expect events call.ringing call.missed'",
                )


def _split(line: str) -> list[str]:
    """Cut a line into words; a quoted text is (part of) one word. The comment is left out."""
    outside = re.sub(r'"(?:\\.|[^"\\])*"', lambda match: "_" * len(match[0]), line)
    comment = _COMMENT.search(outside)
    if comment:
        line, outside = line[: comment.start()], outside[: comment.start()]
    if '"' in outside:
        raise _Wrong("a quote is not closed", 'write "..." around the whole text')
    return _WORD.findall(line)
