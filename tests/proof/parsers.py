"""100 MB of random and mutated input through every parser: no exception, and no more memory than an input needs.

What is mutated: transcripts of modems, frames, settings, scenarios and journals. Blocks of 250 kB, each made again from
the seed and its number.
"""

from __future__ import annotations

import functools
import pickle
import random
import secrets
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

from drivers.modem_capture import read as read_capture
from drivers.modem_text import ModemText
from drivers.signals import CallerIdReceived, Country
from drivers.softmodem import frames
from drivers.virtual import scenario
from drivers.virtual.modem import Dialect, caller_id_bytes, ring_bytes
from firmware import settings
from firmware.engine import journal
from firmware.simulate import stepped
from tests.proof.report import Report

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
BYTES = 100_000_000
BLOCK = 250_000
MOST_HELD = 128 * 1024  # by a modem's text, whatever came
MOST_USED = 16_000_000  # while one input of at most 100 kB is parsed
_NASTY = (
    *(b"\x10", b"\0", b"\r", b"\n", b'"', b"\\x", b"=", b"\xff", b"-1"),
    *(b"9" * 30, b"9" * 5_000, b"\na = " + b"9" * 5_000, b"\na = " + b"[" * 20_000, b'\n{"a":' * 20_000),
)
_DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
_STANDARDS: tuple[frames.FskStandard | None, ...] = (None, "bell202", "v23", "jp")
_REGIONS: tuple[Country | None, ...] = (None, "jp", "us", "uk", "etsi")


def prove(report: Report) -> None:
    seed = secrets.randbelow(1_000_000)
    report.figure("seed", seed)
    run(BYTES, seed, report)


def run(count: int, seed: int, report: Report | None = None) -> Counter[str]:
    """Returns the bytes by parser. Raises what a parser raises, with the block's seed as its note."""
    done: Counter[str] = Counter()
    took_s: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        parsers = list(_parsers(Path(directory)))
        for number in range(-(-count // BLOCK)):
            dice = random.Random(f"{seed}-{number}")
            name, parse, corpus = parsers[number % len(parsers)]
            began = time.perf_counter()
            try:
                done[name] += _block(dice, parse, corpus)
            except Exception as wrong:
                wrong.add_note(f"seed {seed}, block {number}, {name}")
                raise
            took_s[name] += round((time.perf_counter() - began) * 1000)
            if report:
                report.progress((number + 1) * BLOCK / count)
    if report:
        for name, size in done.items():
            report.figure(name, f"{size:,} bytes, {size / took_s[name] / 1000:.2f} MB/s")
    return done


_Parse = Callable[[bytes, random.Random], object]


def _parsers(directory: Path) -> Iterable[tuple[str, _Parse, list[bytes]]]:
    """The names, the parsers and what is mutated for them. Modems and frames come first, and twice."""
    modem_text = ("modem's text", _Modem().parse, transcripts())
    message = ("frames", _frames, octets())
    yield modem_text
    yield message
    yield "capture", _capture, [*transcripts(), b"2026-11-23T03:00:00.123Z < \\r\\nRING\\r\\n\n" * 20]
    yield "settings", _settings, [(ROOT / "provisioning" / "settings.example.toml").read_bytes()]
    yield modem_text
    yield message
    yield "scenario", _scenario, [path.read_bytes() for path in sorted((ROOT / "tests" / "scenarios").glob("*.txt"))]
    yield "journal", functools.partial(_journal, directory / "journal"), [_made_journal(directory)]


def transcripts() -> list[bytes]:
    """What modems write: of every dialect, and captured ones where they are at hand."""
    made = [
        b"".join(
            ring_bytes() + caller_id_bytes(dialect, "0300001234", presentation, "SATO", "11231200")
            for presentation in ("allowed", "withheld", "payphone", "corrupt")
        )
        for dialect in _DIALECTS
    ]
    events = b"\x10R\x10h\x10H\x10P\x10/\x105\x10~\x101AT+VCID?\r\r\n1\r\nOK\r\nDROF=11\r\nMESG = 0000\r\n" * 4
    return [*made, events, *(path.read_bytes() for path in sorted(SHARED.glob("modem/*.txt")))]


def octets() -> list[bytes]:
    """Messages of every kind."""
    mixed = b"\x02\x0a0300001234\x01\x0811231200\x07\x04SATO\x04\x01P\x03\x070300005\x0b\x01\x01\x11\x01\x81"
    made = [bytes((kind, len(mixed))) + mixed for kind in (frames.MDMF, frames.WAITING)]
    made.append(bytes((frames.SDMF, 18)) + b"112312000300001234")
    made = [message + bytes((-sum(message) % 256,)) for message in made]
    japanese = [caller_id_bytes("silabs", "0300001234", p, None, "11231200") for p in ("allowed", "withheld")]
    made += [bytes.fromhex(text.strip().decode()) for text in japanese]
    return [
        *made,
        mixed,
        b"\x55" * 40 + made[0],
        *(p.read_bytes() for p in sorted(SHARED.glob("callerid_bytes/*.bin"))),
    ]


def _block(dice: random.Random, parse: _Parse, corpus: list[bytes]) -> int:
    size = 0
    while size < BLOCK:
        data = mutated(dice, corpus)
        size += len(data) or 1
        watched = dice.random() < 0.02
        if watched:
            tracemalloc.start()
        try:
            parse(data, dice)
            assert not watched or tracemalloc.get_traced_memory()[1] < MOST_USED
        finally:
            if watched:
                tracemalloc.stop()
    return size


def mutated(dice: random.Random, corpus: list[bytes]) -> bytes:
    """Random bytes, or one of the corpus with some of it damaged, cut out, doubled or from another. At most 100 kB."""
    if dice.random() < 0.1:
        return dice.randbytes(dice.choice((1, 10, 300, 5_000)))
    data = bytearray(dice.choice(corpus))
    for _ in range(dice.choice((0, 1, 1, 2, 4, 30))):
        at = dice.randrange(len(data) + 1)
        end = min(len(data), at + dice.choice((1, 1, 2, 10, 100)))
        match dice.randrange(7):
            case 0:
                data[at:end] = dice.randbytes(end - at)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at:end] * dice.choice((1, 2, 50))
            case 3:
                other = dice.choice(corpus)
                start = dice.randrange(len(other) + 1)
                data[at:end] = other[start : start + dice.choice((1, 10, 200))]
            case 4:
                data[at:end] = dice.choice(_NASTY)
            case 5:
                if at < len(data):
                    data[at] ^= 1 << dice.randrange(8)
            case 6:
                del data[at:]
    return bytes(data[:100_000])


class _Modem:
    """Modems that go on from input to input, as on a line."""

    def __init__(self) -> None:
        self._texts = [ModemText(line, region) for line, region in enumerate(_REGIONS, 1)]
        self._now_ns = 0

    def parse(self, data: bytes, dice: random.Random) -> None:
        text = dice.choice(self._texts)
        text.asked = dice.random() < 0.1
        at = 0
        while at < len(data):
            size = dice.choice((1, 7, 64, 1_000))
            self._now_ns += dice.choice((0, 1_000_000, 1_000_000_000))
            for signal in text.feed(data[at : at + size], self._now_ns):
                if isinstance(signal, CallerIdReceived):
                    assert (signal.number is None) == (signal.presentation != "allowed")
            at += size
        assert len(pickle.dumps(vars(text))) < MOST_HELD


def _frames(data: bytes, dice: random.Random) -> None:
    for standard in _STANDARDS:
        message = frames.decode_message(data, standard)
        if message and message.checksum == "failed":
            assert (message.presentation, message.number, message.name) == ("corrupt", None, None)
        if standard:
            frames.missing_octets(data, standard)


def _capture(data: bytes, dice: random.Random) -> None:
    text = ModemText(1)
    for piece in read_capture(data):
        text.feed(piece.data, piece.at_ns)


def _settings(data: bytes, dice: random.Random) -> None:
    try:
        settings.parse(data.decode(errors="replace"), "settings.toml")
    except settings.SettingsError as error:
        assert str(error).startswith("settings.toml: ")


def _scenario(data: bytes, dice: random.Random) -> None:
    try:
        scenario.parse(data.decode(errors="replace"), ROOT / "tests" / "scenarios" / "mutated.txt")
    except scenario.ScenarioError as error:
        assert "mutated.txt" in str(error)


def _journal(path: Path, data: bytes, dice: random.Random) -> None:
    path.write_bytes(data)
    try:
        for _ in journal.replay(path):
            pass
    except (journal.JournalError, UnicodeDecodeError):
        pass  # what the command line makes a sentence of


def _made_journal(directory: Path) -> bytes:
    stepped(scenario.load(ROOT / "tests" / "scenarios" / "answered.txt"), directory / "data")
    return b"".join(path.read_bytes() for path in sorted((directory / "data" / "journal").iterdir()))
