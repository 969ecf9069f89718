"""python -m tests.bench [NAME ...]: all benches where none is named."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import rich.table
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from drivers.virtual.broker import BrokerUnavailable
from drivers.virtual.sound import SoundError
from tests.bench import (
    bundles,
    caller_id_latency,
    console,
    cpu,
    delivery,
    detectors,
    dtmf,
    false_facts,
    lift,
    lines,
    listen,
    memory,
    sensitivity,
    stepped,
    store,
    tabs,
)
from tests.bench.report import Table

_BENCHES = {
    "stepped": stepped.bench,
    "lift": lift.bench,
    "caller_id": caller_id_latency.bench,
    "listen": listen.bench,
    "dtmf": dtmf.bench,
    "false_facts": false_facts.bench,
    "detectors": detectors.bench,
    "sensitivity": sensitivity.bench,
    "levels": sensitivity.levels,
    "memory": memory.bench,
    "cpu": cpu.bench,
    "lines": lines.bench,
    "console": console.bench,
    "tabs": tabs.bench,
    "store": store.bench,
    "bundles": bundles.bench,
    "containers": bundles.containers,
    "delivery": delivery.bench,
    "lifts": delivery.lifts,
    "fleet": delivery.fleet,
}
_RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("bench", nargs="*", help=f"of {', '.join(_BENCHES)}; default: all")
    parser.add_argument(
        "--quick", action="store_true", help="a few minutes instead of over an hour; no result is written"
    )
    parser.add_argument("--json", action="store_true", help="figures as JSON on standard output")
    args = parser.parse_args()
    unknown = [name for name in args.bench if name not in _BENCHES]
    if unknown:
        parser.error(f"{unknown[0]!r} is no bench; choose from {', '.join(_BENCHES)}")
    chosen = args.bench or list(_BENCHES)
    console = Console(stderr=args.json, highlight=False)
    tables = []
    with (
        tempfile.TemporaryDirectory(prefix="tsuroku-bench-") as work,
        Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True
        ) as bar,
    ):
        for name in chosen:
            task = bar.add_task(name, total=1.0)
            (Path(work) / name).mkdir()
            table = _BENCHES[name](
                Path(work) / name,
                args.quick,
                lambda text, part, task=task: bar.update(task, description=text, completed=part),  # type: ignore[misc]
            )
            bar.remove_task(task)
            tables.append(table)
            _show(table, console)
            if not args.quick:
                written = _write(table)  # at once: an hour's tables outlive the bench that fails last
    if args.json:
        print(json.dumps({"machine": _machine(), **{key: v for t in tables for key, v in t.figures.items()}}, indent=1))
    if not args.quick:
        console.print(f"Written: {written}", soft_wrap=True)


def _show(table: Table, console: Console) -> None:
    shown = rich.table.Table(title=table.title, caption=table.how, title_justify="left", caption_justify="left")
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if number == 0 else "right")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)


def _write(table: Table) -> Path:
    """One file a day; a bench that ran again replaces its table in it."""
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{time.strftime('%Y-%m-%d')}.md"
    parts = path.read_text(encoding="utf-8").split("\n## ")[1:] if path.exists() else []
    kept = {"## " + part.split("\n", 1)[0]: "## " + part.rstrip() for part in parts}
    kept[f"## {table.title}"] = table.markdown()
    head = f"# {path.stem}\n\n{_machine()}\n\n`python -m tests.bench`; ratios are what to compare, not seconds."
    path.write_text("\n\n".join([head, *kept.values()]) + "\n", encoding="utf-8")
    return path


def _machine() -> str:
    return (
        f"{os.cpu_count()} cores {platform.machine()}, {platform.system()}, "
        f"Python {'.'.join(map(str, sys.version_info[:3]))}"
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (SoundError, BrokerUnavailable) as error:
        sys.exit(str(error))
