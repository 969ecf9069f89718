"""Scenarios of the virtual line: plain text that a telephone technician reads and writes.

    title  Answered with Number Display
    country jp                     # jp or us
    number display                 # the line has it: start signal, and the phone answers that by itself
    start  2026-11-24 09:00:00 +09:00
    modem  conexant                # the dialect of the modem's text, or none

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

from drivers.signals import Presentation
from drivers.virtual import speech
from drivers.virtual.modem import Dialect

Country = Literal["jp", "us"]
MODEMS: dict[str, Dialect | None] = {**{dialect: dialect for dialect in get_args(Dialect)}, "none": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Somebody calls this line. presentation "not_received": nothing of the caller is ever sent."""

    presentation: Presentation
    number: str | None = None  # digits only
    name: str | None = None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The caller stops ringing."""


@dataclass(frozen=True, slots=True)
class Lift:
    """The shop's handset is lifted."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """The shop's handset is put down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flash:
    """The shop's phone opens the loop for a moment (hook flash, dial pulse, bad contact)."""

    duration_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """The shop's phone sends keys as DTMF."""

    keys: str


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
    | GiveUp
    | Lift
    | HangUp
    | Flash
    | Dial
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
    off_hook_at_start: bool
    start: datetime  # aware
    modem: Dialect | None
    steps: tuple[Step, ...]  # in time order
    expects: Expects
    end_ns: int
    path: Path


# What can be expected of a call: the form of its value, and how to write it.
FACTS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("direction", "outcome", "end_reason", "number", "name", "presentation", "marks"), (".*", "text")),
    **dict.fromkeys(("rings", "flashes"), ("[0-9]+", "a whole number")),
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
    name = None
    if words and words[0] == "name" and presentation != "not_received":
        if len(words) < 2:
            raise _Wrong("the name is missing", 'write name "YAMADA"')
        name, words = _quoted(words[1]), words[2:]
    _nothing(words)
    return Call(presentation=presentation, number=number, name=name)


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
# None: `says` needs the country and the folder, `already off-hook` is no step; the parser sees to them.
ACTIONS: dict[str, tuple[str, Callable[[list[str]], Action] | None]] = {
    "call from": ('call from 03-0000-1234 name "YAMADA"', lambda words: _call("allowed", words)),
    "call withheld": ("call withheld", lambda words: _call("withheld", words)),
    "call payphone": ("call payphone", lambda words: _call("payphone", words)),
    "call unavailable": ("call unavailable", lambda words: _call("unavailable", words)),
    "call no-id": ("call no-id", lambda words: _call("not_received", words)),
    "give up": ("give up", _plain(GiveUp())),
    "lift": ("lift", _plain(Lift())),
    "already off-hook": ("already off-hook", None),
    "hang up": ("hang up", _plain(HangUp())),
    "flash": ("flash 0.6", lambda words: Flash(duration_ns=_duration(words, 0.02, 1.2))),
    "dial": ("dial 03-0000-5678", _dial),
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
_HEADERS = ["title", "country", "number display", "start", "modem", "end", "expect"]


class _Story:
    """What has happened so far, as far as it decides what can happen next."""

    def __init__(self) -> None:
        self.lifted = False
        self.call: Literal["none", "ringing", "dialled", "talking", "over"] = "none"
        self.released_ns = -RELEASE_NS  # the handset was put down
        self.flash_ns = 0  # a flash is over
        self.away: set[str] = set()  # what is unplugged, stopped or cut

    def tell(self, step: Step) -> None:
        """Take the next step. Raises _Wrong when it cannot happen."""
        match step.action:
            case Call():
                if self.lifted or self.call != "none" or step.at_ns < self.released_ns + RELEASE_NS:
                    raise _Wrong("the line is still busy", "let this call come 1.25 s after the hang up, or later")
                self.call = "ringing"
            case GiveUp():
                self._need(self.call == "ringing", "nobody is ringing", "after lift, write 'far hangs up'")
                self.call = "none"
            case Lift():
                self._need(not self.lifted, "the handset is up already", "write 'hang up' before it")
                self.lifted = True
                if self.call == "ringing":
                    self.call = "talking"
            case HangUp():
                self._need(self.lifted, "the handset is down already", "write 'lift' before it")
                self._need(step.at_ns >= self.flash_ns, "the flash before it is not over yet", "let it come later")
                self.lifted, self.call, self.released_ns = False, "none", step.at_ns
            case Flash() | Dial():
                self._need(self.lifted, "the handset is down", "write 'lift' before it")
                self._need(step.at_ns >= self.flash_ns, "the flash before it is not over yet", "let it come later")
                if isinstance(step.action, Flash):
                    self.flash_ns = step.at_ns + step.action.duration_ns
                if isinstance(step.action, Dial) and self.call == "none":
                    self.call = "dialled"
            case FarAnswers():
                self._need(self.call == "dialled", "nobody was dialled", "write 'dial 03-0000-5678' before it")
                self.call = "talking"
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
            case Say() | PressButton() | LoseAudio() | ModemSends():
                pass

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
        self.off_hook_at_start = False
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
        if self.country == "us" and "number display" in self.header:
            raise _Wrong("Number Display exists in Japan only", "leave 'number display' out, or write 'country jp'")
        numbers = sorted(self.call)
        if numbers and self.calls is not None and numbers[-1] > self.calls:
            raise _Wrong(f"call {numbers[-1]} is expected of {self.calls} calls", "let the two agree")
        modem = self.header.get("modem", "conexant")
        return Scenario(
            title=self.header["title"],
            country=self.country,
            number_display="number display" in self.header,
            off_hook_at_start=self.off_hook_at_start,
            start=datetime.fromisoformat(self.header.get("start", "2026-11-24T09:00:00+09:00")),
            modem=MODEMS[modem],
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
        elif words[:2] == ["number", "display"]:
            _nothing(words[2:])
            self._once("number display", "yes")
        elif words[0] in ("title", "country", "start", "modem", "end"):
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
            if value not in ("jp", "us"):
                raise _Wrong(f"{value!r} is no country here", _nearest(value, ["jp", "us"]))
            if self.steps:
                raise _Wrong("the country comes too late", "write it before the first step")
            self.country = "jp" if value == "jp" else "us"
        elif word == "modem" and value not in MODEMS:
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
        phrase = next((p for n in (3, 2, 1) if (p := " ".join(words[1 : n + 1])) in ACTIONS), None)
        if phrase is None:
            said = " ".join(words[1:3])
            raise _Wrong(f"{said!r} is unknown" if said else "the action is missing", _nearest(said, list(ACTIONS)))
        example, build = ACTIONS[phrase]
        rest = words[1 + len(phrase.split()) :]
        try:
            if phrase == "already off-hook":
                _nothing(rest)
                if at_ns or self.steps or self.off_hook_at_start:
                    raise _Wrong("the handset can be up already at the start only", "write it first, at 0, or 'lift'")
                self.off_hook_at_start = self.story.lifted = True
                return
            action = build(rest) if build else self._say("shop" if phrase == "shop says" else "far", rest)
        except _Wrong as wrong:
            how = wrong.how if phrase in wrong.how else f"{wrong.how}, as in '{example}'"
            raise _Wrong(wrong.what, how) from wrong
        step = Step(at_ns=at_ns, action=action)
        self.story.tell(step)
        self.steps.append(step)

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
