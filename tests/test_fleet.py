"""Many units at one broker: `simulate --units`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from firmware.cli.main import main


@pytest.mark.realtime
def test_every_event_of_every_unit_arrives(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "firmware", "simulate", "--units", "8", "--calls-an-hour", "900"]
    command += ["--minutes", "0.1", "--json", "--data", str(tmp_path / "units")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["units"], told["connected"], told["missing"]) == (8, 8, 0)
    assert told["arrived"] == told["events"] > 8
    assert len(list((tmp_path / "units").iterdir())) == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tests/scenarios/shop-day.txt", "--units", "3"], "plays no scenario"),
        (["--units", "0"], "must be more than 0"),
        (["--units", "2", "--minutes", "0"], "must be more than 0"),
        (["--units", "2", "--settings", "/nowhere.toml"], "/nowhere.toml: cannot be read"),
        ([], "Give a scenario file"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *arguments]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1
