"""tsuroku modem-log: what a modem's bytes mean."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from drivers.modem_capture import read
from drivers.modem_text import QUIET_NS, ModemText
from drivers.signals import CallerIdReceived, Country, KeyHeard, LoopReport, ModemRing, Signal
from firmware.cli.main import InputError

_LOOP = {"broken": "line_broken", "restored": "line_restored", "extension": "extension"}


def modem_log(args: argparse.Namespace) -> int:
    try:
        captured = args.file.read_bytes()
    except OSError as error:
        raise InputError(f"{args.file}: cannot be read ({error.strerror}); give the file of a capture.") from error
    facts = _facts(captured, args.country)
    if args.json:
        for _, fact in facts:
            print(json.dumps(fact, ensure_ascii=False))
        return 0

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("time", "kind", "number", "name", "reason", box=None)
    for at, fact in facts:
        kind = fact["raw"] if fact["kind"] == "ring" else fact["kind"]
        table.add_row(*(Text(value or "") for value in (at, kind, fact["number"], fact["name"], fact["reason"])))
    Console(highlight=False).print(table if table.row_count else "No ring and no caller is in this capture.")
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
