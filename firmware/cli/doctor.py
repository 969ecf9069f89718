"""tsuroku doctor: what is wrong with this unit, and how to mend it, a sentence each."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import platform
import queue
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rich.text import Text

from drivers.codec import Codec, Tap
from drivers.gpio import LineInputs
from drivers.modem import Modem
from drivers.signals import DeviceLost, DeviceReady, Signal
from firmware import clock, words
from firmware.app import HEALTH_FILE, STORE, VERSION
from firmware.cli.main import InputError, json_line
from firmware.cli.show import terminal
from firmware.cli.unit import settings_of
from firmware.core.alarms import Alarm
from firmware.records.store import CallReader, StoreError, unit_runs
from firmware.settings import Settings, TimestampSettings, public
from firmware.support import write
from hw.board import Board

_FREE_MB = 500  # some 15 hours of calls
_DEVICE_S = 20.0


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    state: Literal["good", "wrong", "unknown"]
    says: str


def doctor(args: argparse.Namespace) -> int:
    """Exit code 1 when anything is wrong."""
    settings, board = settings_of(args)
    logging.basicConfig(level=logging.CRITICAL)  # what the drivers log is in the findings
    console = terminal()
    wrong = False
    for finding in _examine(settings, board):
        wrong = wrong or finding.state == "wrong"
        if args.json:
            print(json_line(asdict(finding)), flush=True)
        else:
            mark, colour = {"good": ("ok", "green"), "wrong": ("!!", "red"), "unknown": ("??", "yellow")}[finding.state]
            text = Text.assemble((mark, colour), " ", (f"{finding.what:<12}", "bold"), " ", finding.says)
            console.print(text, soft_wrap=True)
    return int(wrong)


def support(args: argparse.Namespace) -> int:
    """What doctor finds, the settings without secrets, the unit's log and its journal, for whoever helps."""
    settings, board = settings_of(args)
    logging.basicConfig(level=logging.CRITICAL)
    parts = {
        "doctor.json": [asdict(finding) for finding in _examine(settings, board)],
        "settings.json": public(settings),
        "version.txt": f"tsuroku {VERSION}\nPython {platform.python_version()}\n{platform.platform()}\n",
        "log.txt": _service_log(),
    }
    try:
        write(args.out, settings.unit.data_dir, parts)
    except FileExistsError as error:
        raise InputError(f"{args.out}: is there already; give another name.") from error
    except OSError as error:
        raise InputError(f"{args.out}: cannot be written ({error.strerror}).") from error
    print(f"{args.out}: {args.out.stat().st_size / 1e3:.0f} kB. Numbers and names in it are masked; there is no sound.")
    return 0


def _service_log() -> str:
    """The last lines of the service, as systemd keeps them; or why there are none."""
    command = ["journalctl", "--unit", "tsuroku", "--lines", "20000", "--output", "short-iso", "--no-pager", "--quiet"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no log: journalctl cannot be asked ({getattr(error, 'strerror', None) or 'no answer in 60 s'})\n"
    return done.stdout or f"no log: {done.stderr.strip() or 'the service has written none'}\n"


def _examine(settings: Settings, board: Board) -> Iterator[Finding]:
    yield _disk(settings.unit.data_dir)
    yield _store(settings.unit.data_dir)
    yield from _alarms(settings.unit.data_dir)
    yield _clock()
    yield from _files(settings)
    if unit_runs(settings.unit.data_dir / STORE):
        yield Finding("unit", "good", "it is running; what its drivers last said:")
        yield from _heard(settings.unit.data_dir / HEALTH_FILE)
    else:
        yield Finding("unit", "unknown", "it is not running; trying its devices:")
        yield from _devices(settings, board)
        for broker in settings.broker:
            yield _answers("broker", broker.host, broker.port, broker.tls, broker.ca_file)
        for webhook in settings.webhook:
            url = urlsplit(webhook.url)
            port, tls = url.port or (443 if url.scheme == "https" else 80), url.scheme == "https"
            yield _answers(f"webhook/{webhook.name}", url.hostname or "", port, tls, webhook.ca_file)
        names = [f"notify/{notify.name}" for notify in settings.notify]  # to try one is to send a message
        yield from (finding for finding in _heard(settings.unit.data_dir / HEALTH_FILE) if finding.what in names)
    if settings.timestamp:
        yield _timestamp(settings.timestamp)
    if not settings.broker and not settings.webhook:
        yield Finding("broker", "unknown", "no [[broker]] is set: events stay on the unit until one is.")


def _disk(data: Path) -> Finding:
    if not data.is_dir():
        return Finding("disk", "wrong", f"{data} is not there; run install.sh again, or mend [unit] data_dir.")
    if not os.access(data, os.W_OK):
        return Finding("disk", "wrong", f"{data} cannot be written by this user; run `sudo -u tsuroku tsuroku doctor`.")
    room = os.statvfs(data)
    free_mb = room.f_bavail * room.f_frsize // 1_000_000
    if free_mb < _FREE_MB:
        return Finding("disk", "wrong", f"{free_mb} MB are free in {data}; export and remove old recordings.")
    return Finding("disk", "good", f"{free_mb} MB free in {data}, about {free_mb // 33} hours of calls.")


def _files(settings: Settings) -> Iterator[Finding]:
    """What the settings name and this user cannot read: secrets, certificates, templates."""
    for kind in ("broker", "webhook", "notify"):
        for section in getattr(settings, kind):
            for key, path in ((f.name, getattr(section, f.name)) for f in fields(section)):
                if isinstance(path, Path) and not os.access(path, os.R_OK):
                    why = "cannot be read by this user" if path.exists() else "is not there"
                    says = f"{key} {path} {why}; put it there and let the user tsuroku read it."
                    yield Finding(f"{kind}/{section.name}", "wrong", says)


def _timestamp(settings: TimestampSettings) -> Finding:
    """Has it stamp something, as the unit does each day."""
    from firmware.timestamp import NoTimestamp, ask

    try:
        _, at = ask(settings, hashlib.sha256(b"tsuroku doctor").hexdigest())
    except NoTimestamp as wrong:
        return Finding("timestamp", "wrong", str(wrong))
    return Finding("timestamp", "good", f"{settings.url} stamps; its time is {at}.")


def _alarms(data: Path) -> Iterator[Finding]:
    """Those that the unit has raised and not cleared."""
    try:
        reader = CallReader(data / STORE)
    except StoreError:
        return  # _store() says why
    try:
        kept = reader.note("alarms") or []
    finally:
        reader.close()
    for alarm in (Alarm(**each) for each in kept):
        state: Literal["wrong", "unknown"] = "wrong" if alarm.severity == "fault" else "unknown"
        yield Finding(alarm.name, state, f"since {alarm.since}: {words.alarm(alarm)['en']}")


def _store(data: Path) -> Finding:
    if not (data / STORE).is_dir():
        return Finding("store", "unknown", "no call has been filed yet.")
    try:
        reader = CallReader(data / STORE)
    except StoreError as error:
        return Finding("store", "wrong", str(error))
    try:
        count, named, kept = 0, set(), set()  # never all calls at once
        for call in reader.calls():
            count += 1
            if call["recording"] and not call["recording"].get("deleted"):
                named.add(str(call["recording"]["path"]))
            if call["outcome"] is None or call["outcome"] == "interrupted":
                kept.add(str(call["call_id"]))
        kept |= {Path(path).name.split(".")[0] for path in named}
        problems = [problem for problem in reader.problems if problem.kind != "torn"]
    finally:
        reader.close()
    if problems:
        says = f"{problems[0].where}: {problems[0].says} `tsuroku store doctor` tells what to do."
        return Finding("store", "wrong", says)
    missing = [path for path in named if not (data / path).exists()]
    stray = [path for path in (data / "recordings").glob("*/*") if path.name.split(".")[0] not in kept]
    if missing:
        return Finding("store", "wrong", f"{len(missing)} recordings are gone, first {missing[0]}; put back a backup.")
    if stray:
        return Finding(
            "store", "wrong", f"{len(stray)} files belong to no call, first {stray[0]}; keep or remove them."
        )
    return Finding("store", "good", f"{count} calls, {len(named)} recordings.")


def _clock() -> Finding:
    state = clock.read_clock().state
    if state == "ntp":
        return Finding("clock", "good", "set by NTP.")
    if state == "rtc":
        return Finding(
            "clock", "unknown", "kept by the clock chip, not checked by NTP; connect the network to have it set."
        )
    return Finding("clock", "wrong", "not set; connect the network, or fit a clock chip: times of calls may be wrong.")


def _heard(path: Path) -> Iterator[Finding]:
    """The running unit has its devices open, so only it can tell of them."""
    try:
        health: dict[str, str | None] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        yield Finding("devices", "unknown", f"{path} cannot be read; run doctor as the user tsuroku.")
        return
    for what, wrong in sorted(health.items()):
        yield Finding(what, "wrong", wrong) if wrong else Finding(what, "good", "works.")


class _Ear:
    """Hears what a driver says of its device, and waits for its first word."""

    def __init__(self) -> None:
        self._said: queue.SimpleQueue[Signal] = queue.SimpleQueue()
        self.post = self._said.put

    def verdict(self) -> DeviceReady | DeviceLost | None:
        until = time.monotonic() + _DEVICE_S
        while (left := until - time.monotonic()) > 0:
            try:
                signal = self._said.get(timeout=left)
            except queue.Empty:
                return None
            if isinstance(signal, DeviceReady | DeviceLost):
                return signal
        return None


def _devices(settings: Settings, board: Board) -> Iterator[Finding]:
    """Try every device with its own driver."""
    recording = settings.recording
    for line in settings.line:
        pins = board.line[line.number - 1]
        gpio, codec, modem = _Ear(), _Ear(), _Ear()
        yield _tried(f"gpio/{line.number}", LineInputs(line.number, pins, gpio.post), gpio)
        tap = Tap(line.number, line.channel, lambda block: None)
        heard = Codec(line.codec, recording.rate_hz, recording.buffer_frames, codec.post, [tap])
        yield _tried(f"codec/{line.number}", heard, codec)
        if line.modem:
            yield _tried(
                f"modem/{line.number}",
                Modem(line.number, line.modem, line.modem_model, line.country, post=modem.post),
                modem,
            )


def _tried(what: str, driver: LineInputs | Codec | Modem, ear: _Ear) -> Finding:
    driver.start()
    try:
        verdict = ear.verdict()
    finally:
        driver.close()
    match verdict:
        case DeviceReady():
            return Finding(what, "good", verdict.detail)
        case DeviceLost():
            return Finding(what, "wrong", verdict.reason)
        case _:
            return Finding(what, "wrong", f"it said nothing for {_DEVICE_S:.0f} s; unplug it and plug it in again.")


def _answers(what: str, host: str, port: int, tls: bool, ca_file: Path | None) -> Finding:
    """Whether somebody listens there, and with TLS whether we trust them. The unit's log tells of logins."""
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=5) as plain:
            if tls:
                context = ssl.create_default_context(cafile=ca_file)
                with context.wrap_socket(plain, server_hostname=host):
                    pass
    except ssl.SSLError as error:
        return Finding(what, "wrong", f"{where} is not trusted ({error.reason}); set ca_file to its CA certificate.")
    except OSError as error:
        why = error.strerror or str(error)
        return Finding(what, "wrong", f"{where} does not answer ({why}); check host, port and network.")
    return Finding(what, "good", f"{where} answers{' with TLS' if tls else ''}.")
