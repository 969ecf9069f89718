"""tsuroku copies: finished calls off the unit, by rclone, and back."""

from __future__ import annotations

import argparse
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from firmware.cli.calls import STORE
from firmware.cli.main import InputError, json_line
from firmware.cli.store import as_its_user, bar, in_words
from firmware.cli.unit import settings_of
from firmware.copies import CopyError, State, read_state
from firmware.copies import restore as fetch
from firmware.copies import run as copy
from firmware.records.log import make_directory
from firmware.settings import CopiesSettings


def _of(args: argparse.Namespace) -> tuple[CopiesSettings, Path]:
    settings, _ = settings_of(args)
    if settings.copies is None:
        raise InputError(f"{args.settings}: no [copies] is set; add it (see the commented example).")
    return settings.copies, settings.unit.data_dir


def run(args: argparse.Namespace) -> int:
    """Exit code 1: not all is there."""
    settings, data = _of(args)
    as_its_user(data)
    with in_words(data), bar(f"Copying to {settings.remote}") as progress:
        try:
            state = copy(settings, data, data / STORE, time.time(), progress)
        except CopyError as error:
            raise InputError(str(error)) from error
    _tell(args, state)
    return int(state.wrong is not None)


def status(args: argparse.Namespace) -> int:
    """Exit code 1: not all was there when it was tried last."""
    settings, data = _of(args)
    state = read_state(data)
    if state is None or state.remote != settings.remote:
        raise InputError(f"{data}: nothing was copied to {settings.remote} yet; `tsuroku copies run` does it now.")
    _tell(args, state)
    return int(state.wrong is not None)


def _tell(args: argparse.Namespace, state: State) -> None:
    good = datetime.fromtimestamp(state.good_s).astimezone() if state.good_s else None
    if args.json:
        told: dict[str, Any] = {"remote": state.remote, "recordings": state.recordings, "bytes": state.bytes}
        print(json_line({**told, "good": good.isoformat(timespec="seconds") if good else None, "wrong": state.wrong}))
        return
    print(f"{state.remote}: {state.recordings} recordings, {state.bytes / 1e6:.1f} MB, each read back and compared.")
    if good:
        print(f"All that there was at {good:%Y-%m-%d %H:%M} is there, the records too.")
    if state.wrong:
        print(f"Not now: {state.wrong}")


def restore(args: argparse.Namespace) -> int:
    """Exit code 1: a recording is not there, or not as it was recorded."""
    settings, data = _of(args)
    with in_words(data):
        make_directory(data)
        as_its_user(data)
        try:
            store_id, recordings, wrong = fetch(settings, data, data / STORE)
        except CopyError as error:
            raise InputError(str(error)) from error
    print(f"{data}: restored; the store's new id is {store_id}. {recordings - len(wrong)} recordings are as recorded.")
    if wrong:
        print(f"{len(wrong)} are missing or not as recorded, first {wrong[0]}.")
    return int(bool(wrong))
