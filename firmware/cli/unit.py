"""tsuroku run, replay, settings check."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from firmware.cli.main import InputError, json_line, log_to_stderr
from firmware.settings import Settings, SettingsError, load, read_patch
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
        copy_by = [
            sys.executable,
            "-m",
            "firmware",
            "copies",
            "run",
            "--json",
            "--settings",
            str(args.settings.resolve()),
        ]
        app.run(settings, facts, copy_by)
    except StoreError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(
            f"{error.filename or settings.unit.data_dir}: cannot be used ({error.strerror}); "
            "give the unit a data folder that it may write to ([unit] data_dir)."
        ) from error
    return 0


def pause(args: argparse.Namespace) -> int:
    """Both are done by the running unit: without one nothing is recorded anyway."""
    if not 1 <= args.seconds <= 7200:
        raise InputError(f"--seconds {args.seconds}: a pause lasts 1 to 7200 seconds.")
    told = _asked(args, {"do": "pause", "seconds": args.seconds})
    until = datetime.fromisoformat(told["paused"]["until"]).astimezone()
    print(
        f"Until {until:%H:%M:%S} nothing is recorded but silence of the same length; `tsuroku resume` ends it before."
    )
    if not told["lasting"]:
        print("The disk did not take it: a restart of the unit would undo it.")
    return 0


def resume(args: argparse.Namespace) -> int:
    _asked(args, {"do": "resume"})
    print("Recording goes on.")
    return 0


def _asked(args: argparse.Namespace, request: dict[str, object]) -> dict[str, Any]:
    import getpass

    from firmware.cli.calls import data_dir
    from firmware.local_api import LocalError, ask

    data = data_dir(args)
    try:
        return ask(data, {**request, "who": getpass.getuser()})
    except LocalError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"{data}: cannot be read ({error.strerror}); run this as the user tsuroku.") from error


def replay(args: argparse.Namespace) -> int:
    from firmware.engine.journal import JournalError

    if (args.json or args.numbers) and not args.explain:
        raise InputError("--json and --numbers go with --explain; without it, replay prints JSON with all numbers.")
    try:
        if args.explain:
            _explain(args)
        elif args.masked:
            _masked(args.journal)
        else:
            _replay(args.journal)
    except JournalError as error:
        raise InputError(str(error)) from error
    except BrokenPipeError:
        raise  # of the output
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{args.journal}: cannot be read ({why}); give the path of a journal.") from error
    return 0


def _replay(journal: Path) -> None:
    from firmware.engine.journal import replay as replayed

    for call in {save.call.call_id: save.call for save in replayed(journal)}.values():
        print(json_line(call.to_dict()))


def _masked(journal: Path) -> None:
    from firmware.engine.journal import masked

    for line in masked(journal):
        print(line)


def _explain(args: argparse.Namespace) -> None:
    from rich.table import Table
    from rich.text import Text

    from firmware.cli.show import outcome_text, terminal, time_text
    from firmware.core.explain import accounts, sentences, step_to_dict, verdict
    from firmware.engine.journal import steps

    told = accounts(steps(args.journal))
    if args.json:
        for account in told:
            for entry in account.entries:
                print(json_line(step_to_dict(entry, account, unmasked=args.numbers)))
        return
    console = terminal()
    if not any(account.call for account in told):
        console.print(f"{args.journal}: no call is in it.")
    for account in told:
        call = account.call
        if call:
            heading = Text(f"Call {call.call_id[-8:]}, line {call.line}, {time_text(call.iso(call.opened_ns))}: ")
            console.print(heading.append_text(outcome_text(call.outcome)), style="bold")
        else:
            console.print(f"Line {account.line}, no call:", style="bold")
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(justify="right", no_wrap=True, style="dim")
        table.add_column(overflow="fold")
        for at_s, happened, followed in sentences(account, unmasked=args.numbers):
            quiet = followed.startswith("changes nothing")
            sentence = Text(happened, style="dim" if quiet else "")
            table.add_row(
                f"{at_s:+.2f} s", sentence.append(f": {followed}." if followed else ".", "" if quiet else "cyan")
            )
        console.print(table)
        for what, value, rests_on in verdict(account, unmasked=args.numbers):
            why = (f" ({rests_on})", "dim") if rests_on else ""
            console.print(Text.assemble("  So ", (what, "bold"), f": {value}", why, "."))
        console.print()


def settings_check(args: argparse.Namespace) -> int:
    settings, facts = settings_of(args)
    lines = len(settings.line)
    print(f"{args.settings}: in order; {lines} line{'s' if lines > 1 else ''} on board {facts.name}.")
    try:
        patch = read_patch(settings)
    except SettingsError as error:
        print(error)
        return 1
    if patch:
        values = ", ".join(
            f"[{section}] {key} = {v!r}" for section, own in patch.values.items() for key, v in own.items()
        )
        print(f"Changed over it by {patch.by} ({patch.at}): {values or 'nothing any more'}.")
    return 0
