"""tsuroku run, replay, settings check."""

from __future__ import annotations

import argparse
import json

from firmware.cli.main import InputError, log_to_stderr
from firmware.settings import Settings, SettingsError, load
from hw import board


def settings_of(args: argparse.Namespace) -> tuple[Settings, board.Board]:
    """The settings file and its board, checked against each other. Raises InputError."""
    try:
        settings = load(args.settings)
        facts = board.load(settings.unit.board)
    except (SettingsError, ValueError) as error:
        raise InputError(str(error)) from error
    if len(settings.line) > len(facts.line):
        raise InputError(
            f"{args.settings}: [[line]]: {len(settings.line)} lines are set, "
            f"the board {facts.name} has {len(facts.line)}."
        )
    if not settings.line:
        raise InputError(f"{args.settings}: no [[line]] is set; add one (see the commented example).")
    return settings, facts


def run(args: argparse.Namespace) -> int:
    from firmware import app
    from firmware.records.store import StoreError

    settings, facts = settings_of(args)
    log_to_stderr(debug=args.debug)
    try:
        app.run(settings, facts)
    except StoreError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(
            f"{error.filename or settings.unit.data_dir}: cannot be used ({error.strerror}); "
            "give the unit a data folder that it may write to ([unit] data_dir)."
        ) from error
    return 0


def replay(args: argparse.Namespace) -> int:
    from firmware.core.line import SaveCall
    from firmware.engine.journal import JournalError
    from firmware.engine.journal import replay as replayed

    calls: dict[str, SaveCall] = {}
    try:
        for save in replayed(args.journal):
            calls[save.call.call_id] = save
    except JournalError as error:
        raise InputError(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{args.journal}: cannot be read ({why}); give the path of a journal.") from error
    for save in calls.values():
        print(json.dumps(save.call.to_dict(), ensure_ascii=False))
    return 0


def settings_check(args: argparse.Namespace) -> int:
    settings, facts = settings_of(args)
    lines = len(settings.line)
    print(f"{args.settings}: in order; {lines} line{'s' if lines > 1 else ''} on board {facts.name}.")
    return 0
