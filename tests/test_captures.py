"""What was captured in the field: each file of tests/captures/ gives what stands beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from firmware.cli.main import main

FOLDER = Path(__file__).parent / "captures"
COMMANDS = {
    ".jsonl": ("replay",),
    ".wav": ("listen", "--json"),
    ".flac": ("listen", "--json"),
    ".modem": ("modem-log", "--json"),
}
CAPTURES = [
    path for path in sorted(FOLDER.iterdir()) if path.suffix in COMMANDS and not path.name.endswith(".expect.jsonl")
]


def test_no_file_lies_here_untested() -> None:
    """A capture of an unknown kind, or an expectation whose capture has another name, would be passed over."""
    known = {path for capture in CAPTURES for path in (capture, capture.with_suffix(".expect.jsonl"))}
    there = {path for path in FOLDER.iterdir() if path.name != "README.md" and not path.name.startswith(".")}
    unknown = sorted(there - known)
    assert not unknown, f"no test: {', '.join(path.name for path in unknown)}; README.md there tells how to name them"


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.name)
def test_capture(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect = capture.with_suffix(".expect.jsonl")
    command = [*COMMANDS[capture.suffix], str(capture)]
    assert expect.exists(), f"write {expect.name} with: tsuroku {' '.join(command)}"
    assert main(command) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wanted = expected(expect)
    assert len(found) == len(wanted), f"{len(wanted)} expected, found: {found}"
    for is_, should in zip(found, wanted, strict=True):
        has(is_, should, capture.name)


def expected(path: Path) -> list[Any]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        assert isinstance(line, dict) and line.keys() - {"file"}, f"{path.name}: {line} expects nothing"
    return lines


@pytest.mark.parametrize("line", ["{}", "null", "[]", '{"file": "x.wav"}'])
def test_an_expectation_of_nothing_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "x.expect.jsonl"
    path.write_text(f'{{"kind": "tone"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(AssertionError, match="expects nothing"):
        expected(path)


def has(found: Any, wanted: Any, where: str) -> None:
    """All that is wanted, at whatever depth; found may have more keys."""
    if isinstance(wanted, dict):
        for key, value in wanted.items():
            if key != "file":
                assert key in found, f"{where}: {key} is missing"
                has(found[key], value, f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), f"{where}: {wanted} was expected, found {found}"
        for n, (is_, should) in enumerate(zip(found, wanted, strict=True)):
            has(is_, should, f"{where}[{n}]")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=0.02), where
    else:
        assert found == wanted, f"{where}: {wanted!r} was expected, found {found!r}"
