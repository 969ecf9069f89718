"""The support bundle: what a unit knows of itself, for whoever helps its owner. Numbers and names in it are masked."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from firmware.core.explain import masked_text, private

FOLDER = "support"
_KEPT = 3
_MOST_JOURNAL = 2 << 20  # bytes, the newest: some days of a shop; masking them takes the loop a fraction of a second
_EDGES = ("LoopEdge", "LinePresentEdge", "PolarityEdge", "RingEdge")
_PULSE_NS = 150_000_000  # a pulse of 10 a second is 33 ms and 67 ms long


def keep(data: Path, parts: Mapping[str, Any]) -> Path:
    """Make support/UTC.zip below data; only the newest few are kept. Returns its path. Raises OSError."""
    folder = data / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    for old in sorted(folder.glob("*.zip"))[: -(_KEPT - 1)]:
        old.unlink(missing_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.zip"
    write(path, data, parts)
    return path


def write(path: Path, data: Path, parts: Mapping[str, Any]) -> None:
    """A new file with a member for each of the parts (text, or JSON), and the journal, masked. Raises OSError."""
    with path.open("xb") as file:
        try:
            path.chmod(0o600)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
                for name, told in parts.items():
                    text = told if isinstance(told, str) else json.dumps(told, ensure_ascii=False, indent=1)
                    bundle.writestr(name, text)
                bundle.writestr("journal.jsonl", "".join(f"{line}\n" for line in _journal(data / "journal")))
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _journal(folder: Path) -> Iterator[str]:
    """The newest lines, masked. The edges of a dialling pulse are left out: whoever counts them knows the number."""
    entries = [entry for text in _newest(folder) if (entry := _entry(text))]
    last: dict[object, tuple[int, dict[str, Any]]] = {}  # by kind of edge and line
    pulses = set()
    for entry in entries:
        if entry.get("in") in _EDGES:
            at_ns, edge = int(entry["at_ns"]), (entry["in"], entry.get("line"))
            if edge in last and at_ns - last[edge][0] < _PULSE_NS:
                pulses |= {id(entry), id(last[edge][1])}
            last[edge] = at_ns, entry
    for entry in entries:
        if id(entry) not in pulses:
            yield json.dumps(_masked(entry), ensure_ascii=False, separators=(",", ":"))


def _newest(folder: Path) -> list[str]:
    """Lines of the last files, in their order, no more than is allowed."""
    texts: list[str] = []
    left = _MOST_JOURNAL
    for path in sorted(folder.glob("*.jsonl"), reverse=True):
        for text in reversed(path.read_text(encoding="utf-8", errors="replace").splitlines()):
            texts.append(text)
            left -= len(text)
            if left <= 0:
                return texts[::-1]
    return texts[::-1]


def _entry(text: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(text)
    except ValueError:
        return None  # torn
    return entry if isinstance(entry, dict) else None


def _masked(value: Any, name: str = "", of: str = "") -> Any:
    if isinstance(value, dict):
        own = str(value.get("in", of))
        return {key: _masked(each, str(key), own) for key, each in value.items()}
    if isinstance(value, list):
        return [_masked(each, name, of) for each in value]
    if private(name, value, of):
        return masked_text(value) if isinstance(value, str) else None
    return value
