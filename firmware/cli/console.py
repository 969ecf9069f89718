"""tsuroku console: the calls in a browser."""

from __future__ import annotations

import argparse
import ctypes
from pathlib import Path

from firmware.cli.main import InputError, log_to_stderr
from firmware.cli.store import as_its_user
from firmware.cli.unit import settings_of
from firmware.settings import ConsoleSettings

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3  # malloc.h


def _of(args: argparse.Namespace) -> tuple[Path, ConsoleSettings]:
    if args.data is not None:
        return args.data, ConsoleSettings()
    settings, _ = settings_of(args)
    return settings.unit.data_dir, settings.console


def run(args: argparse.Namespace) -> int:
    import uvicorn

    from firmware.console.certificate import certificate
    from firmware.console.web import Console

    _give_memory_back()
    data, chosen = _of(args)
    host, port = args.host or chosen.host, args.port or chosen.port
    if not data.is_dir():
        raise InputError(f"{data}: is no folder of a unit; give the unit's data folder, or its settings.")
    as_its_user(data)
    log_to_stderr(debug=False)
    try:
        paper, key, fingerprint = certificate(data / "console")
        console = Console(data, chosen.crm_url)
    except (OSError, ValueError) as error:
        raise InputError(f"{data / 'console'}: cannot be used ({error}); run this as the user tsuroku.") from error
    print(f"Console: https://{'localhost' if host in ('127.0.0.1', '0.0.0.0') else host}:{port}/", flush=True)
    print(f"Its certificate's fingerprint (SHA-256): {fingerprint}", flush=True)
    if code := console.people.code():
        print(f"Set-up code: {code}", flush=True)
    config = uvicorn.Config(
        console.app(),
        host=host,
        port=port,
        ssl_certfile=str(paper),
        ssl_keyfile=str(key),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
        limit_concurrency=400,
        h11_max_incomplete_event_size=1 << 15,
    )
    uvicorn.Server(config).run()
    return 0


def _give_memory_back() -> None:
    """glibc gives each thread a heap of its own, which keeps what it has ever needed, as the 19 MB of a password."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def code(args: argparse.Namespace) -> int:
    from firmware.console.people import People

    data, _ = _of(args)
    if not data.is_dir():
        raise InputError(f"{data}: is no folder of a unit; give the unit's data folder, or its settings.")
    as_its_user(data)
    try:
        found = People(data / "console").code()
    except OSError as error:
        raise InputError(f"{data}: cannot be used ({error.strerror}); run this as the user tsuroku.") from error
    if found is None:
        raise InputError("It is set up already: there is an owner. He lets others in on the page of people.")
    print(found)
    return 0
