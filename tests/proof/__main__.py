"""make proof: run every proof that this state of the code has not passed yet, and write the day's result file."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import pkgutil
import platform
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests import proof
from tests.proof.report import Report

ROOT = Path(__file__).parents[2]
STATE = ROOT / "var" / "proof.json"
RESULTS = Path(__file__).parent / "results"
CODE = ["firmware", "drivers", "hw", "tests", ":!tests/proof/results"]


def main(names: list[str]) -> int:
    """names: proofs to run, all if empty. A proof is run again when the code has changed, or failed the last time."""
    console = Console(highlight=False)
    proofs = _proofs()
    unknown = [name for name in names if name not in proofs]
    if unknown:
        console.print(f"There is no proof {unknown[0]!r}; there are: {', '.join(proofs)}.")
        return 2
    commit = _commit()
    results: dict[str, dict[str, Any]] = json.loads(STATE.read_text(encoding="utf-8")) if STATE.exists() else {}
    chosen = names or list(proofs)
    for name in chosen:
        last = results.get(name)
        if last and last["passed"] and last["commit"] == commit and not commit.endswith("+"):
            console.print(f"{name}: passed already at {commit}.")
            continue
        results[name] = {"day": _today(), "commit": commit, **_run(name, proofs[name], console)}
        STATE.parent.mkdir(exist_ok=True)
        STATE.write_text(json.dumps(results, indent=1), encoding="utf-8")
        _write(name, results[name], proofs[name])
    return int(not all(results[name]["passed"] for name in chosen))


def _proofs() -> dict[str, ModuleType]:
    names = [module.name for module in pkgutil.iter_modules(proof.__path__) if module.name != "__main__"]
    modules = {name: importlib.import_module(f"tests.proof.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "prove")}


def _run(name: str, module: ModuleType, console: Console) -> dict[str, Any]:
    bar = Progress(TextColumn(name), BarColumn(), TimeElapsedColumn(), console=console, transient=True)
    began = time.monotonic()
    failure = None
    with bar:
        task = bar.add_task("", total=1.0)
        report = Report(lambda part: bar.update(task, completed=part))
        try:
            module.prove(report)
        except Exception as error:  # noqa: BLE001  the outermost edge: whatever a proof fails by is its result
            failure = "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
            console.print_exception()
    took_s = time.monotonic() - began
    console.print(f"{name}: {'failed: ' + failure if failure else 'passed'} ({took_s:.0f} s)", markup=False)
    for figure, value in report.figures.items():
        console.print(f"    {figure}: {value}", markup=False)
    return {"passed": failure is None, "failure": failure, "took_s": round(took_s), "figures": report.figures}


def _write(name: str, result: dict[str, Any], module: ModuleType) -> None:
    """Its section into the day's file, in the place of an older one; what other machines proved that day stays."""
    verdict = "passed" if result["passed"] else f"FAILED: {result['failure']}"
    commit = result["commit"].replace("+", " with changes that are not committed")
    section = [f"{name}: {verdict}", "", (module.__doc__ or "").splitlines()[0], ""]
    section += [f"- command: `python -m tests.proof {name}`, {result['took_s']} s, commit {commit}"]
    section += [f"- {figure}: {value}" for figure, value in result["figures"].items()]
    head = (
        f"# Proofs, {_today()}\n\nMachine: {os.cpu_count()} cores, {platform.machine()}, {platform.system()}, "
        f"Python {platform.python_version()}. Command: `make proof`."
    )
    path = RESULTS / f"{_today()}.md"
    RESULTS.mkdir(exist_ok=True)
    before = path.read_text(encoding="utf-8").split("\n## ")[1:] if path.exists() else []
    others = [each.strip() for each in before if not each.startswith(f"{name}:")]
    path.write_text("\n\n## ".join([head, *sorted([*others, "\n".join(section)])]) + "\n", encoding="utf-8")


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _commit() -> str:
    """The last commit that touched the code; with a + where the tree differs from it."""
    last = _git("log", "-1", "--format=%h", "--", *CODE)
    return last + ("+" if _git("status", "--porcelain", "--", *CODE) else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
