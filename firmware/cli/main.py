"""The command line. Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import io
import json
import logging
import re
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drivers.signals import Country

SETTINGS = Path("/etc/tsuroku/settings.toml")
# Controls that terminals obey, what Unicode calls a line end, and the octets of a file name that is no text.
_UNPRINTED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class InputError(Exception):
    """What was given cannot be used: one sentence for people. Exit code 2."""


def main(argv: list[str] | None = None) -> int:
    """Returns 0, 1 when something was found wrong, 2 when the input cannot be used."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Japanese
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
        return code
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0  # the reader of a pipe went away
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tsuroku",
        description="Tsuroku (通録) records the calls of an analog telephone line.",
        epilog="To try it without hardware: `tsuroku simulate tests/scenarios/shop-day.txt --live`.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help_: str, run: str, epilog: str | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_, epilog=epilog)
        sub.set_defaults(run=_Lazy(run))
        return sub

    run = command("run", "Run the unit on its hardware until SIGTERM or Ctrl-C.", "unit:run")
    _settings_option(run)
    run.add_argument("--debug", action="store_true", help="log repeats and details too")

    for name, help_ in (
        ("pause", "Have the running unit record silence for a while, as for a card number."),
        ("resume", "End a pause before its time."),
    ):
        sub = command(name, help_, f"unit:{name}")
        if name == "pause":
            sub.add_argument("--seconds", type=int, default=300, metavar="N", help="at most 7200 (default 300)")
        where = sub.add_mutually_exclusive_group()
        _settings_option(where)
        where.add_argument("--data", type=Path, help="a data folder, instead of the one that the settings name")

    simulate = command(
        "simulate",
        "Play a scenario on the virtual line and check what the unit makes of it.",
        "simulate:simulate",
        "Stepped (the default) runs hours in seconds; --live runs in real time through gpiozero, pyserial, PyAudio and "
        "a local Mosquitto. Exit code 1: the scenario's expectations are not met.",
    )
    help_ = "a scenario file; tests/scenarios/ has many. With --live a second one plays on a second line"
    simulate.add_argument("scenario", type=Path, nargs="*", help=help_)
    simulate.add_argument("--live", action="store_true", help="in real time, through every real driver")
    simulate.add_argument("--json", action="store_true", help="one JSON object a line for each call")
    simulate.add_argument("--data", type=Path, help="a new folder for what the unit writes (default: below var/)")
    simulate.add_argument(
        "--calls", type=int, default=0, metavar="N", help="first put N generated calls into the store, and search them"
    )
    simulate.add_argument("--console", action="store_true", help="with --live: serve the console meanwhile")
    simulate.add_argument(
        "--units", type=int, metavar="N", help="instead of a scenario: N units at one broker, with calls nobody made"
    )
    simulate.add_argument(
        "--settings", type=Path, metavar="FILE", help="with --units: whose first [[broker]] is used (default: our own)"
    )
    simulate.add_argument("--calls-an-hour", type=float, default=60, metavar="N", help="with --units: of each unit")
    simulate.add_argument("--minutes", type=float, default=1, metavar="N", help="with --units: so long calls come")
    simulate.add_argument("--svg", type=Path, metavar="FILE", help="also save what the terminal showed as a picture")

    calls = command("calls", "List, show, play and export calls; the unit may be running.", "calls:list_")
    actions = calls.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, help_: str, run: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=help_, description=help_)
        sub.set_defaults(run=_Lazy(run))
        where = sub.add_mutually_exclusive_group()
        _settings_option(where)
        where.add_argument("--data", type=Path, help="a data folder, instead of the one that the settings name")
        return sub

    listed = action("list", "List the last calls, newest last.", "calls:list_")
    listed.add_argument("--last", type=int, default=50, metavar="N", help="how many (default 50; 0: all)")
    listed.add_argument("--missed", action="store_true", help="missed calls only")
    listed.add_argument("--number", metavar="DIGITS", help="calls whose number contains these digits")
    listed.add_argument("--json", action="store_true", help="one JSON object a line")
    for name, help_ in (
        ("show", "Show all that is known of a call, with its waveform."),
        ("play", "Play a call's recording on this machine's loudspeaker."),
        ("export", "Copy a call's recording and record to a folder."),
    ):
        sub = action(name, help_, f"calls:{name}")
        sub.add_argument("call", help="the call's id, or its last digits")
        sub.add_argument("--key", type=Path, metavar="FILE", help="the owner's private key, for a sealed recording")
        sub.add_argument("--passphrase-file", type=Path, metavar="FILE", help="do not ask for the key's passphrase")
        if name == "show":
            sub.add_argument("--json", action="store_true", help="the record as JSON")
        if name == "export":
            sub.add_argument("--out", type=Path, default=Path(), help="the folder to copy to (default: here)")

    export = command(
        "export",
        "Write calls into one file that anybody can check: sound, record, chain, signature, report.",
        "bundle:export",
        "Seconds are whole and count from the recording's beginning. What is silenced, or not in a clip, can be proved "
        "to be all that was left out.",
    )
    export.add_argument("calls", nargs="+", metavar="CALL", help="a call's id, or its last digits")
    export.add_argument("--out", type=Path, required=True, metavar="BUNDLE.zip", help="a new file")
    export.add_argument(
        "--copy", choices=("mp3", "opus", "wav"), help="also a copy that everything plays; it proves nothing"
    )
    export.add_argument(
        "--silence", action="append", default=[], metavar="FROM-TO", help="these seconds become silence"
    )
    export.add_argument("--clip", metavar="FROM-TO", help="nothing but these seconds")
    export.add_argument("--note", help="with --clip: what it shows")
    export.add_argument("--key", type=Path, metavar="FILE", help="the owner's private key, for sealed recordings")
    export.add_argument("--passphrase-file", type=Path, metavar="FILE", help="do not ask for the key's passphrase")
    export.add_argument("--json", action="store_true", help="one JSON object")
    where = export.add_mutually_exclusive_group()
    _settings_option(where)
    where.add_argument("--data", type=Path, help="a data folder, instead of the one that the settings name")

    taking = command(
        "import",
        "Take recordings of a telephone's recorder app, or of another box, in as calls.",
        "imports:take_in",
        "Time, number and direction are what the file's name and tags tell; what they do not tell is unknown. The "
        "files stay where they are.",
    )
    taking.add_argument("files", nargs="+", type=Path, metavar="FILE", help="m4a, amr, mp3, ogg, wav and others")
    taking.add_argument("--json", action="store_true", help="one JSON object a line")
    where = taking.add_mutually_exclusive_group()
    _settings_option(where)
    where.add_argument("--data", type=Path, help="a data folder, instead of the one that the settings name")

    told = command(
        "incident",
        "Write a nuisance caller's file: his calls, what was noted of them and the recordings' hashes, as PDF.",
        "bundle:incident",
    )
    told.add_argument("numbers", nargs="+", metavar="NUMBER", help="his numbers")
    told.add_argument("--out", type=Path, required=True, metavar="FILE.pdf", help="a new file")
    where = told.add_mutually_exclusive_group()
    _settings_option(where)
    where.add_argument("--data", type=Path, help="a data folder, instead of the one that the settings name")

    checking = command(
        "verify", "Check a bundle that `export` wrote. Exit code 1: something in it does not hold.", "bundle:verify"
    )
    checking.add_argument("bundle", type=Path, metavar="BUNDLE.zip")
    checking.add_argument("--key", metavar="HEX", help="the unit's public key, known from elsewhere (`info`)")
    checking.add_argument("--checkpoint", type=Path, metavar="FILE", help="what somebody has kept of `state/recorder`")
    checking.add_argument("--authority", type=Path, metavar="PEM", help="certificates of those who stamp the time")
    checking.add_argument("--json", action="store_true", help="one JSON object")

    keys = command("keys", "Make the owner's keys, that recordings are sealed to.", "keys:make")
    making = keys.add_subparsers(metavar="ACTION", required=True)
    help_ = "Make a private and a public key; with seal_to in the settings only the private one can read recordings."
    sub = making.add_parser("make", help=help_, description=help_)
    sub.set_defaults(run=_Lazy("keys:make"))
    sub.add_argument("directory", type=Path, metavar="DIR", help="where to put them; not on the unit")
    sub.add_argument("--passphrase-file", type=Path, metavar="FILE", help="do not ask for a passphrase")

    store = command("store", "Check, copy, hold and erase what is kept; the unit may be running.", "store:verify")
    keeping = store.add_subparsers(metavar="ACTION", required=True)

    def keeps(name: str, help_: str) -> argparse.ArgumentParser:
        sub = keeping.add_parser(name, help=help_, description=help_)
        sub.set_defaults(run=_Lazy(f"store:{name}"))
        where = sub.add_mutually_exclusive_group()
        _settings_option(where)
        where.add_argument("--data", type=Path, help="a data folder, instead of the one that the settings name")
        return sub

    sub = keeps("verify", "Follow the chain of all lines, and check every signature. Exit code 1: it does not hold.")
    sub.add_argument("--key", metavar="HEX", help="the unit's public key, known from elsewhere (retained in `info`)")
    sub.add_argument("--json", action="store_true", help="one JSON object")
    sub = keeps("doctor", "Tell what is wrong with the store, what was lost, and what to do.")
    sub.add_argument("--json", action="store_true", help="one JSON object a line for each fault")
    sub = keeps("export", "Write all tables as one JSON file that stock TinyDB opens.")
    sub.add_argument("--json", action="store_true", required=True, help="the format")
    sub.add_argument("file", type=Path, metavar="FILE", help="a new file; - for standard output")
    sub = keeps("find", "Find all calls that a number appears in, to disclose them.")
    sub.add_argument("number", metavar="NUMBER")
    sub.add_argument("--json", action="store_true", help="one JSON object a line")
    sub.add_argument("--out", type=Path, metavar="DIR", help="copy records and recordings to this folder")
    sub = keeps(
        "erase",
        "Erase all calls of a number, with their recordings and whole journals that tell of them; held ones stay.",
    )
    sub.add_argument("number", metavar="NUMBER")
    sub.add_argument("--reason", default="asked for by the person concerned", help="kept with the tombstones")
    sub.add_argument("--yes", action="store_true", help="do not ask")
    for name, help_ in (
        ("hold", "Keep a call: neither retention nor an erasure removes it."),
        ("release", "End the hold of a call."),
    ):
        sub = keeps(name, help_)
        sub.add_argument("call", help="the call's id, or its last digits")
        if name == "hold":
            sub.add_argument("--reason", required=True, help="why, for whoever finds it held")
    sub = keeps("backup", "Copy the store and the recordings to another path (a USB disk, a share).")
    sub.add_argument("target", type=Path, metavar="DIR")
    sub = keeps("restore", "Make a store and its recordings of a backup, where there is no store.")
    sub.add_argument("source", type=Path, metavar="DIR")

    console = command("console", "Serve the calls to browsers, or show the set-up code.", "console:run")
    serving = console.add_subparsers(metavar="ACTION", required=True)
    for name, help_ in (
        ("run", "Serve the console over HTTPS, until Ctrl-C; the recorder need not run."),
        ("code", "Show the code that lets the first owner in."),
    ):
        sub = serving.add_parser(name, help=help_, description=help_)
        sub.set_defaults(run=_Lazy(f"console:{name}"))
        where = sub.add_mutually_exclusive_group()
        _settings_option(where)
        where.add_argument("--data", type=Path, help="a data folder, instead of the one that the settings name")
        if name == "run":
            sub.add_argument("--host", help="the address to serve at, instead of the settings'")
            sub.add_argument("--port", type=int, help="the port, instead of the settings'")

    copies = command("copies", "Copy finished calls off the unit, as [copies] in the settings says.", "copies:status")
    copying = copies.add_subparsers(metavar="ACTION", required=True)
    for name, help_ in (
        (
            "run",
            "Copy what is not there yet, and read it back; the running unit does so by itself. Exit code 1: not all.",
        ),
        ("status", "Tell how far the copies have got."),
        ("restore", "Bring everything back to a unit that has no store."),
    ):
        sub = copying.add_parser(name, help=help_, description=help_)
        sub.set_defaults(run=_Lazy(f"copies:{name}"))
        _settings_option(sub)
        if name != "restore":
            sub.add_argument("--json", action="store_true", help="one JSON object")

    replay = command(
        "replay",
        "Run a journal through the lines again; prints the calls that it makes, one JSON object a line.",
        "unit:replay",
        "The unit's journals are in its data folder, below journal/. The same journal gives the same calls.",
    )
    replay.add_argument("journal", type=Path, help="the journal's file")
    instead = replay.add_mutually_exclusive_group()
    instead.add_argument("--explain", action="store_true", help="tell why each call was judged as it was")
    instead.add_argument("--masked", action="store_true", help="print the journal with fictitious numbers instead")
    replay.add_argument("--json", action="store_true", help="with --explain: one JSON object a line for each step")
    replay.add_argument("--numbers", action="store_true", help="with --explain: do not mask numbers and names")

    listen = command(
        "listen",
        "Tell what is signalled in sound files: caller ID, keys, tones, fax.",
        "listen:listen",
        "Any format and rate that libsndfile or ffmpeg reads; every standard of caller ID is tried. "
        "A file without facts prints nothing. Exit code 2: a file has no sound.",
    )
    listen.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a sound file")
    listen.add_argument("--json", action="store_true", help="one JSON object a line for each fact")
    listen.add_argument(
        "--country", choices=typing.get_args(Country), default="jp", help="whose tones to know (default jp)"
    )

    modem_log = command(
        "modem-log",
        "Tell what a modem's bytes mean: rings, callers, events.",
        "modem_log:modem_log",
        "The unit keeps what its modem wrote in its data folder, support/modem-1.raw. Any other capture of the serial "
        "port is read too: raw, or a log with escapes, quotes or times.",
    )
    modem_log.add_argument("file", type=Path, metavar="FILE", help="a capture of the serial port")
    modem_log.add_argument("--json", action="store_true", help="one JSON object a line for each fact")
    modem_log.add_argument(
        "--country", choices=typing.get_args(Country), help="of the line: tells what parameter 03 is"
    )

    doctor = command(
        "doctor", "Check devices, disk, clock and broker; says how to mend what is wrong.", "doctor:doctor"
    )
    _settings_option(doctor)
    doctor.add_argument("--json", action="store_true", help="one JSON object a line for each check")

    helping = command(
        "support",
        "Write a support bundle: health, settings and what the lines did, every number and name masked.",
        "doctor:support",
    )
    _settings_option(helping)
    helping.add_argument("--out", type=Path, required=True, metavar="FILE.zip", help="a new file")

    settings = command(
        "settings",
        "Check the settings file.",
        "unit:settings_check",
        "`tsuroku settings check` reads the file as the unit would, and names the place of a mistake. "
        f"The unit's own is {SETTINGS}; its keys are explained in provisioning/settings.example.toml.",
    )
    checks = settings.add_subparsers(metavar="ACTION", required=True)
    help_ = "Check the settings file; says what is wrong and where."
    check = checks.add_parser("check", help=help_, description=help_)
    check.set_defaults(run=_Lazy("unit:settings_check"))
    _settings_option(check)
    return parser


def _settings_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--settings", type=Path, default=SETTINGS, metavar="FILE", help=f"the settings file (default {SETTINGS})"
    )


class _Lazy:
    """A command's function, imported when it is called: `--help` must not load the audio stack."""

    def __init__(self, where: str) -> None:
        self._module, self._name = where.split(":")

    def __call__(self, args: argparse.Namespace) -> int:
        import importlib

        code: int = getattr(importlib.import_module(f"firmware.cli.{self._module}"), self._name)(args)
        return code


def json_line(record: Mapping[str, Any]) -> str:
    """A record as one line, whatever reads it: a modem's 0x85 is a line end to some readers, its 0x9b a command."""
    return _UNPRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(record, ensure_ascii=False))


def log_to_stderr(*, debug: bool = False) -> None:
    """key=value lines; the service manager adds time and name."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="level=%(levelname)s source=%(name)s %(message)s"
    )
