"""tsuroku simulate: a scenario on the virtual line, stepped or live."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from drivers.virtual import scenario as story
from drivers.virtual.broker import BrokerUnavailable
from drivers.virtual.sound import SoundError
from firmware.app import STORE
from firmware.cli.calls import print_calls
from firmware.cli.main import InputError, json_line
from firmware.cli.show import event_text, terminal, waveform
from firmware.generated import generate
from firmware.records.store import CallReader, StoreError
from firmware.simulate import BASE_NS, LiveUnit, check, results, seconds, stepped

_TOLERANCE_S = 0.1  # live: a busy machine plays the line's edges a little late


def simulate(args: argparse.Namespace) -> int:
    if args.units is not None:
        from firmware.cli.fleet import simulate_units

        return simulate_units(args)
    if not args.scenario:
        raise InputError("Give a scenario file (tests/scenarios/ has many), or --units N.")
    if len(args.scenario) > (2 if args.live else 1):
        raise InputError("One scenario is played, or two with --live, each on a line of its own.")
    try:
        scenarios = [story.load(path) for path in args.scenario]
    except story.ScenarioError as error:
        raise InputError(str(error)) from error
    if args.calls < 0:
        raise InputError(f"--calls {args.calls}: is no number of calls; give 0 or more.")
    data = args.data or Path("var") / f"{args.scenario[0].stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        if data.exists() and (not data.is_dir() or any(data.iterdir())):
            raise InputError(f"{data}: is there already; give a new folder with --data.")
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{data}: cannot be used ({error.strerror}); give another folder with --data.") from error
    shown, data = data, data.resolve()
    logging.basicConfig(level=logging.ERROR)
    console = terminal(stderr=args.json, picture=args.svg is not None)
    ended = True
    if args.calls:
        _fill(data, args.calls, console)
    if args.console and not args.live:
        raise InputError("--console goes with --live: what has been played is served by `tsuroku console run`.")
    with contextlib.ExitStack() as running:
        if args.live:
            served = running.enter_context(_console(data, console)) if args.console else []
            base_ns, tolerance_s, ended = running.enter_context(_live(scenarios, data, console))
            if not served:
                running.close()
        else:
            served, base_ns, tolerance_s = [], BASE_NS, 0.02
            _stepped(scenarios[0], data, console)
        return _result(args, scenarios, (data, shown), console, (base_ns, tolerance_s, ended), served)


def _result(
    args: argparse.Namespace,
    scenarios: Sequence[story.Scenario],
    folder: tuple[Path, Path],
    console: Console,
    played: tuple[int, float, bool],
    served: Sequence[str],
) -> int:
    """Tell what came of it. folder: of the data, as it is and as it was given. served: what the console says of itself;
    on a terminal it then goes on serving until Ctrl-C.
    """
    (data, shown), (base_ns, tolerance_s, ended) = folder, played
    calls, _ = results(data, args.calls)
    if args.json:
        for call in calls:
            print(json_line(_told(call, data, base_ns)))
    elif calls:
        console.print()
        print_calls(calls, console)
        console.print(f"\nCalls and recordings: {shown}  (./tsuroku calls show ID --data {shown})", soft_wrap=True)
    if not ended:
        return 130
    differs = False
    for line, scenario in enumerate(scenarios, 1):
        wrong = check(scenario, data, base_ns=base_ns, tolerance_s=tolerance_s, before=args.calls, line=line)
        differs = differs or bool(wrong)
        for sentence in wrong:
            console.print(sentence, style="red", soft_wrap=True)
        if not wrong:
            console.print(f"{scenario.path}: all as expected.", style="green", soft_wrap=True)
    if args.svg:
        try:
            console.save_svg(str(args.svg), title=f"tsuroku simulate {args.scenario[0].name}")
        except OSError as error:
            raise InputError(f"{args.svg}: cannot be written ({error.strerror}); give another --svg.") from error
    if served:
        console.print("\nThe day is over; the unit and its console go on." if console.is_terminal else "")
        for said in served:
            console.print(said, style="bold", soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):
            while console.is_terminal:
                time.sleep(3600)
    return int(differs)


def _fill(data: Path, calls: int, console: Console) -> None:
    """Give the unit the years before: calls that nobody made; and show how they are found."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"Generating {calls:,} calls", total=1.0)
        store = data / STORE
        try:
            generate(store, calls, until=datetime.now(UTC), progress=lambda part: bar.update(task, completed=part))
        except StoreError as error:
            raise InputError(str(error)) from error
    began = time.perf_counter()
    reader = CallReader(store)
    opened_s = time.perf_counter() - began
    last = next(reader.newest())
    known = next(call for call in reader.newest() if call["caller"]["number"])["caller"]
    week = (datetime.now(UTC) - timedelta(days=7)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    searches: list[tuple[str, Callable[[], list[Any]]]] = [
        (f"by number {known['national']}", lambda: reader.with_number(known["number"])),
        (f"by id {last['call_id']}", lambda: [reader.get(last["call_id"])]),
        ("of the last 7 days", lambda: reader.between(week, "2100-01-01")),
        ("the last 50 missed", lambda: list(islice((c for c in reader.newest() if c["outcome"] == "missed"), 50))),
    ]
    console.print(f"{calls:,} generated calls in the store, opened in {opened_s * 1e3:.0f} ms:", soft_wrap=True)
    for what, search in searches:
        began = time.perf_counter()
        found = len(search())
        console.print(f"  {found:>5} {what}: {(time.perf_counter() - began) * 1e3:.1f} ms", style="dim", soft_wrap=True)
    console.print()
    reader.close()


def _told(call: dict[str, Any], data: Path, base_ns: int) -> dict[str, Any]:
    """A call as a reader wants it: who or why not, when, and where its sound is."""
    recording, dialled, outgoing = call["recording"], call["dialled"], call["direction"] == "outgoing"
    return {
        "call_id": call["call_id"],
        "line": call["line"],
        "direction": call["direction"],
        "outcome": call["outcome"],
        "end_reason": call["end_reason"],
        "number": (dialled or {}).get("number") if outgoing else call["caller"]["number"],
        "raw": (dialled or {}).get("raw") if outgoing else call["caller"]["raw"],
        "reason": _no_number(call),
        "name": call["caller"]["name"],
        "rings": call["rings"],
        "opened": call["opened"],
        "answered": call["answered"],
        "ended": call["ended"],
        "duration_s": call["duration_s"],
        "scenario_s": {key: seconds(call, key, base_ns) for key in ("opened", "answered", "ended")},
        "recording": recording and {**recording, "path": str(data / recording["path"])},
        "no_recording": call["no_recording"],
    }


def _no_number(call: dict[str, Any]) -> str | None:
    if call["direction"] == "incoming":
        return None if call["caller"]["raw"] else str(call["caller"]["presentation"])
    return None if call["dialled"] else call["no_dialled"]


def _stepped(scenario: story.Scenario, data: Path, console: Console) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bar if console.is_terminal else contextlib.nullcontext():
        task = bar.add_task(scenario.title, total=1.0)
        stepped(scenario, data, progress=lambda part: bar.update(task, completed=part))


@contextlib.contextmanager
def _console(data: Path, shown: Console) -> Iterator[list[str]]:
    """The unit's console in a process of its own, on this machine alone. Yields what it says: address and code."""
    command = [sys.executable, "-m", "firmware", "console", "run", "--data", str(data), "--host", "127.0.0.1"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        said: list[str] = []
        for line in process.stdout:
            shown.print(line.strip(), style="bold", soft_wrap=True)
            said.append(line.strip())
            if line.startswith("Set-up code"):
                break
        try:
            yield said
        finally:
            process.terminate()


@contextlib.contextmanager
def _live(scenarios: Sequence[story.Scenario], data: Path, console: Console) -> Iterator[tuple[int, float, bool]]:
    """Yields monotonic ns of the scenarios' 0, tolerance in s, whether they were played to their end; the unit runs on
    meanwhile.
    """
    titles = " | ".join(scenario.title for scenario in scenarios)
    console.print(Text.assemble(("Tsuroku 通録", "bold"), "  ", titles), soft_wrap=True)
    ended = False
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    try:
        live = LiveUnit(scenarios, data)
        with live:
            console.print(
                "gpiozero on mock pins, pyserial on a pty, PyAudio on PulseAudio, "
                f"Mosquitto on 127.0.0.1:{live.broker.port}; Ctrl-C ends it.\n",
                style="dim",
                soft_wrap=True,
            )
            with _Subscriber(live.broker.port, data, console):
                with contextlib.suppress(KeyboardInterrupt):
                    live.play()
                    ended = True
                if not ended:
                    console.print("\nEnding; a call that goes on is closed and kept.", style="dim")
            if ended:
                yield live.base_ns, _TOLERANCE_S, True
                return
    except (SoundError, BrokerUnavailable, ValueError) as error:
        raise InputError(str(error)) from error
    yield live.base_ns, _TOLERANCE_S, False


class _Subscriber:
    """What a management system sees: prints every event of the broker as it arrives."""

    def __init__(self, port: int, data: Path, console: Console) -> None:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        self._data, self._console = data, console
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = self._print
        self._ready = threading.Event()
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._port = port

    def __enter__(self) -> None:
        self._client.connect("127.0.0.1", self._port)
        self._client.subscribe("tsuroku/v1/+/+/event/call", qos=1)
        self._client.loop_start()
        self._ready.wait(5)

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _print(self, _client: object, _userdata: object, message: Any) -> None:
        body = json.loads(message.payload)
        self._console.print(event_text(body), soft_wrap=True)
        if body["type"] == "recording.ready":
            path = self._data / body["data"]["recording"]["path"]
            wave = Text(waveform(path, min(self._console.width - 20, 90)), style="cyan")
            self._console.print(Text.assemble(" " * 18, wave), soft_wrap=True)
        sys.stdout.flush()
