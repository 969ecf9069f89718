"""tsuroku modem-log: what a modem's bytes mean."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

from drivers.modem_capture import read
from drivers.modem_text import QUIET_NS, ModemText
from drivers.signals import CallerIdReceived, Country, KeyHeard, LoopReport, ModemRing, Signal
from firmware.cli.main import InputError, json_line

_MOST_BYTES = 4_000_000  # a unit keeps 256 kB
_PAGE = 1000  # facts that are laid out as one table, for the memory it takes
_LOOP = {"broken": "line_broken", "restored": "line_restored", "extension": "extension"}


def modem_log(args: argparse.Namespace) -> int:
    try:
        if not args.file.is_file() and not args.file.is_dir() and args.file.exists():
            raise InputError(f"{args.file}: is a device or a pipe; give the file of a capture.")
        with args.file.open("rb") as file:
            captured = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{args.file}: cannot be read ({error.strerror}); give the file of a capture.") from error
    if len(captured) > _MOST_BYTES:
        raise InputError(f"{args.file}: is larger than 4 MB; cut it to the calls that matter.")
    facts = _facts(captured, args.country)
    if args.json:
        for _, fact in facts:
            print(json_line(fact))
        return 0

    from rich.table import Table
    from rich.text import Text

    from firmware.cli.show import terminal

    console = terminal()
    some = False
    while page := list(itertools.islice(facts, _PAGE)):
        table = Table("time", "kind", "number", "name", "reason", box=None, show_header=not some)
        for at, fact in page:
            kind = fact["raw"] if fact["kind"] == "ring" else fact["kind"]
            table.add_row(*(Text(value or "") for value in (at, kind, fact["number"], fact["name"], fact["reason"])))
        console.print(table)
        some = True
    if not some:
        console.print("No ring and no caller is in this capture.")
    return 0


def _facts(captured: bytes, country: Country | None) -> Iterator[tuple[str | None, dict[str, str | None]]]:
    """Each fact with the time that the capture gives it."""
    text = ModemText(1, country)
    at: str | None = None
    at_ns = 0
    for piece in read(captured):
        for signal in text.tick(piece.at_ns):
            yield at, _fact(signal)
        at, at_ns, text.asked = piece.at, piece.at_ns, piece.asked
        for signal in text.feed(piece.data, at_ns):
            yield at, _fact(signal)
    for signal in text.tick(at_ns + QUIET_NS):
        yield at, _fact(signal)


def _fact(signal: Signal) -> dict[str, str | None]:
    fact: dict[str, str | None] = {"kind": "", "number": None, "name": None, "reason": None, "raw": ""}
    match signal:
        case CallerIdReceived():
            reason = None if signal.presentation == "allowed" else signal.presentation
            fact |= {"kind": "caller_id", "number": signal.number, "name": signal.name, "reason": reason}
            fact["raw"] = signal.raw
        case ModemRing():
            fact |= {"kind": "ring", "raw": f"RING {signal.pattern}" if signal.pattern else "RING"}
        case LoopReport():
            fact |= {"kind": _LOOP[signal.what]}
        case KeyHeard():
            fact |= {"kind": "key", "raw": signal.key}
    return fact
