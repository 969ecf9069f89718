"""tsuroku import: recordings that something else has made."""

from __future__ import annotations

import argparse
import getpass
import sys
from datetime import UTC, datetime

from firmware.app import owner_of
from firmware.cli.calls import STORE, data_dir, reader_of
from firmware.cli.main import InputError, json_line
from firmware.cli.show import terminal
from firmware.cli.store import as_its_user, ask_store, bar, in_words
from firmware.cli.unit import settings_of
from firmware.core.call import Call
from firmware.imports import NotImported, discard, prepare
from firmware.settings import Settings


def take_in(args: argparse.Namespace) -> int:
    """Exit code 1: a file was not taken in."""
    settings: Settings | None = None
    if args.data is None:
        settings, _ = settings_of(args)
    data = data_dir(args)
    if not (data / STORE).is_dir():
        raise InputError(f"{data}: holds no calls of a unit; give the unit's data folder, or its settings.")
    as_its_user(data)
    owner, not_sealed = owner_of(settings.recording.seal_to) if settings else (None, None)
    if not_sealed:
        raise InputError(f"{args.settings}: {not_sealed}")
    refused = 0
    with bar("Taking in") as progress:
        for number, path in enumerate(args.files):
            progress(number / len(args.files))
            try:
                call = prepare(path, data, settings.line[0].country if settings else "jp", owner, datetime.now(UTC))
                wrong = _file(args, call)
            except NotImported as error:
                call, wrong = None, str(error).partition(": ")[2]
            except OSError as error:
                call, wrong = None, f"cannot be read or copied ({error.strerror})."
            refused += wrong is not None
            _tell(args, "".join(c if c.isprintable() else "?" for c in path.name), call, wrong)
    return int(refused > 0)


def _file(args: argparse.Namespace, call: Call) -> str | None:
    data = data_dir(args)
    with in_words(data):
        answer = ask_store(data, {"do": "import", "call": call.to_dict(), "who": getpass.getuser()})
    wrong = answer["refused"]
    if wrong:
        with reader_of(data) as reader:
            discard(data, call, reader.get(call.call_id))
    return None if wrong is None else str(wrong)


def _tell(args: argparse.Namespace, name: str, call: Call | None, wrong: str | None) -> None:
    if args.json:
        told = {"file": name, "call_id": call.call_id if call else None, "refused": wrong}
        print(json_line(told))
    elif wrong or call is None:
        print(f"{name}: {wrong}", file=sys.stderr)
    else:
        opened = str(call.iso(call.opened_ns))[:16].replace("T", " ")
        who = call.caller.national or (call.dialled.digits if call.dialled else None) or "number not told"
        terminal().print(f"{name}: {call.call_id[-12:]}, {call.direction or 'direction not told'}, {who}, {opened} UTC")
