"""tsuroku simulate --units: many units at one broker."""

from __future__ import annotations

import argparse
import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from drivers.virtual.broker import BrokerUnavailable, VirtualBroker
from firmware import settings
from firmware.cli.main import InputError, json_line
from firmware.cli.show import terminal
from firmware.fleet import Count, Fleet, allow_files
from firmware.settings import BrokerSettings

_PATIENCE_S = 120.0  # without a single arrival


def simulate_units(args: argparse.Namespace) -> int:
    if args.scenario or args.live or args.calls:
        raise InputError("--units: plays no scenario; leave out the scenario, --live and --calls.")
    if args.units < 1 or args.calls_an_hour <= 0 or args.minutes <= 0:
        raise InputError("--units, --calls-an-hour and --minutes must be more than 0.")
    try:
        allow_files(args.units)
    except ValueError as error:
        raise InputError(f"--units {args.units}: {error}") from error
    logging.basicConfig(level=logging.ERROR)
    console = terminal(stderr=args.json)
    with tempfile.TemporaryDirectory(prefix="tsuroku-fleet-") as work, _broker(args.settings, Path(work)) as broker:
        try:
            fleet = Fleet(args.units, broker, args.data or Path(work) / "units")
            with fleet:
                connected_s = _connect(fleet, console)
                mb = fleet.mb_a_unit
                fleet.calls(args.calls_an_hour, args.minutes * 60)
                began = time.monotonic()
                _drive(fleet, console, args.minutes * 60)
                took_s, count, missing = time.monotonic() - began, fleet.count(), fleet.missing()
        except OSError as error:
            raise InputError(f"{broker.host}:{broker.port}: {error.strerror or error}; start the broker.") from error
    told = {
        "units": args.units,
        "connected": count.connected,
        "connected_s": round(connected_s, 1),
        "events": count.filed,
        "arrived": count.arrived,
        "repeats": count.repeats,
        "missing": sum(missing.values()),
        "events_per_s": round(count.arrived / took_s, 1),
        "mb_per_unit": round(mb, 2),
    }
    if args.json:
        print(json_line(told))
    else:
        console.print(
            f"{told['connected']:,} of {args.units:,} units connected in {connected_s:.1f} s, {mb:.2f} MB each; "
            f"{count.arrived:,} of {count.filed:,} events arrived ({told['events_per_s']:.0f} a second), "
            f"{count.repeats:,} twice.",
            style="red" if missing else "green",
            soft_wrap=True,
        )
    return int(bool(missing))


def _connect(fleet: Fleet, console: Console) -> float:
    began = last = time.monotonic()
    most = 0
    with _bar(console) as bar:
        task = bar.add_task("connecting", total=fleet.units)
        while (count := fleet.count()).connected < fleet.units:
            fleet.turn()
            bar.update(task, completed=count.connected, description=f"{count.connected:,} units connected")
            if count.connected > most:
                most, last = count.connected, time.monotonic()
            elif time.monotonic() - last > _PATIENCE_S:
                break
    return time.monotonic() - began


def _drive(fleet: Fleet, console: Console, for_s: float) -> None:
    """Until the last call is over and every event has arrived, or none has for long."""
    began = last = time.monotonic()
    arrived = 0
    with _bar(console) as bar, contextlib.suppress(KeyboardInterrupt):
        task = bar.add_task("calls", total=for_s)
        while True:
            fleet.turn()
            now, count = time.monotonic(), fleet.count()
            bar.update(task, completed=min(for_s, now - began), description=_line(count))
            if count.arrived > arrived:
                arrived, last = count.arrived, now
            if not fleet.planned and (not fleet.missing() or now - last > _PATIENCE_S):
                return


def _line(count: Count) -> str:
    return f"{count.filed:,} events filed, {count.arrived:,} arrived"


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextlib.contextmanager
def _broker(path: Path | None, work: Path) -> Iterator[BrokerSettings]:
    if path is not None:
        try:
            chosen = settings.load(path)
        except settings.SettingsError as error:
            raise InputError(str(error)) from error
        if not chosen.broker:
            raise InputError(f"{path}: has no [[broker]]; add one, or leave out --settings.")
        yield chosen.broker[0]
        return
    own = VirtualBroker(work / "broker")
    try:
        own.start()
    except BrokerUnavailable as error:
        raise InputError(str(error)) from error
    try:
        yield BrokerSettings(host="127.0.0.1", port=own.port, tls=False)
    finally:
        own.close()
