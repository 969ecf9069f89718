"""tsuroku export and verify: bundles of calls that anybody can check."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.text import Text

from firmware.app import KEY_FILE, VERSION
from firmware.cli.calls import STORE, SUFFIX, call_of, data_dir, reader_of
from firmware.cli.keys import plain_sound
from firmware.cli.main import InputError, json_line
from firmware.cli.show import terminal
from firmware.cli.store import ask_store, bar, in_words, spellings_of
from firmware.core.call import Call
from firmware.core.contacts import number_of
from firmware.records.upkeep import mentions

_STRETCH = re.compile(r"(\d+)-(\d+)")


def _stretch(text: str, option: str) -> tuple[int, int]:
    found = _STRETCH.fullmatch(text)
    if not found or int(found[1]) >= int(found[2]):
        raise InputError(f"{option} {text!r}: give whole seconds of the recording, as 12-20.")
    return int(found[1]), int(found[2])


def export(args: argparse.Namespace) -> int:
    from firmware.bundle.export import ExportError, Wanted
    from firmware.bundle.export import export as write

    wanted = Wanted(
        silence=tuple(_stretch(text, "--silence") for text in args.silence),
        clip=_stretch(args.clip, "--clip") if args.clip else None,
        note=args.note,
        copy=args.copy,
    )
    if (wanted.clip or wanted.silence) and len(args.calls) > 1:
        raise InputError("--silence and --clip are seconds of one call; give that call alone.")
    if wanted.note and not wanted.clip:
        raise InputError("--note goes with --clip.")
    data = data_dir(args)
    with reader_of(data) as reader:
        calls = [Call.from_dict(dict(call_of(reader, name))) for name in args.calls]
    with in_words(data):
        ask_store(data, {"do": "sign", "who": getpass.getuser()})  # or the newest lines would have no signature
    with reader_of(data) as reader:
        meta, stamps = reader.storage.doc("meta", 1) or {}, reader.timestamps()
    if not meta.get("public_key"):
        raise InputError(f"{data / KEY_FILE}: the store is not signed; a bundle of it would prove nothing.")

    @contextlib.contextmanager
    def sound_of(path: Path) -> Iterator[Path | None]:
        if path.suffix == SUFFIX and args.key is None:
            if wanted.clip or wanted.silence or wanted.copy:
                raise InputError(f"{path}: is sealed; give the owner's private key with --key.")
            yield None
            return
        with plain_sound(path, args.key, args.passphrase_file) as plain:
            yield plain

    with (
        in_words(args.out),
        bar("Making the bundle") as progress,
        tempfile.TemporaryDirectory(prefix="tsuroku-") as work,
    ):
        try:
            write(
                args.out,
                data,
                data / STORE,
                calls,
                meta["public_key"],
                meta["store_id"],
                stamps,
                wanted,
                sound_of,
                Path(work),
                VERSION,
                progress,
            )
        except ExportError as error:
            raise InputError(str(error)) from error
    if args.json:
        print(json_line({"bundle": str(args.out), "bytes": args.out.stat().st_size, "calls": len(calls)}))
    else:
        print(f"{args.out}: {len(calls)} call{'s' if len(calls) > 1 else ''}, {args.out.stat().st_size / 1e6:.1f} MB.")
        print("To check it: `tsuroku verify`, or verify.py of the bundle on any machine.")
    return 0


def incident(args: argparse.Namespace) -> int:
    """All calls of a caller's numbers, on paper."""
    from firmware.bundle.incident import incident as write

    data = data_dir(args)
    spellings = set().union(*(spellings_of(number) for number in args.numbers))
    with reader_of(data) as reader:
        calls = [Call.from_dict(dict(call)) for call in reader.calls() if mentions(call, spellings)]
        contact = next((found for spelling in sorted(spellings) if (found := reader.contact(f"+{spelling}"))), None)
        remarks = {call.call_id: reader.remarks(call.call_id) for call in calls}
    if not calls:
        raise InputError(f"No call of {', '.join(args.numbers)} is kept; there is nothing to tell of.")
    numbers = sorted({number for call in calls if (number := number_of(call)) and number.lstrip("+") in spellings})
    with in_words(args.out), tempfile.TemporaryDirectory(prefix="tsuroku-") as work:
        made = datetime.now(UTC).astimezone()
        try:
            write(args.out, numbers or args.numbers, contact, calls, remarks, made, Path(work))
        except FileExistsError as error:
            raise InputError(f"{args.out}: is there already; give another name.") from error
    print(f"{args.out}: {len(calls)} call{'s' if len(calls) > 1 else ''}.")
    return 0


def verify(args: argparse.Namespace) -> int:
    """Exit code 1: something does not hold."""
    from firmware.bundle import verify as checker

    try:
        if args.key and not re.fullmatch("[0-9a-fA-F]{64}", args.key):
            raise InputError(f"--key {args.key!r} is no public key; give its 64 hexadecimal digits, as in `info`.")
        kept = checker.read_checkpoints(args.checkpoint.read_text(encoding="utf-8")) if args.checkpoint else []
        authorities = args.authority.read_bytes() if args.authority else None
        with bar("Checking the bundle") as progress:
            verdict = checker.verify(args.bundle, args.key and args.key.lower(), kept, authorities, progress)
    except checker.Unusable as error:
        raise InputError(f"{args.bundle}: {error}.") from error
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InputError(f"{getattr(error, 'filename', None) or args.checkpoint}: cannot be read ({why}).") from error
    if args.json:
        found = [asdict(each) for each in verdict.findings]
        print(json_line({"holds": verdict.holds, "key": verdict.key, "findings": found}))
        return int(not verdict.holds)
    console = terminal()
    colours = {"ok": "green", "!!": "red", "??": "yellow"}
    for mark, _, text in checker.told(verdict):
        console.print(Text.assemble((mark, colours.get(mark, "dim")), f" {text}"), soft_wrap=True)
    return int(not verdict.holds)
