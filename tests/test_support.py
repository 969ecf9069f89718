"""The support bundle: what helps is in it, and nobody's number or name."""

from __future__ import annotations

import itertools
import json
import re
import zipfile
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from drivers.virtual import scenario as story
from firmware import support
from firmware.cli.main import main
from firmware.simulate import stepped

DAY = """title Callers, a dialled number, a pulse-dialled one
number display
1.0 call from 03-0000-1234 name "YAMADA"
+7 lift
+9 hang up
40 lift
+2 dial 090-0000-5678
+5 far answers
+3 hang up
80 lift
+2 pulse 0312 at 10
+9 far answers
+4 hang up
end 110
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("shop")
    stepped(story.parse(DAY, work / "day.txt"), work / "data")
    return work / "data"


def test_the_journal_in_it_tells_what_the_line_did_and_of_nobody(data: Path, tmp_path: Path) -> None:
    before = "\n".join(path.read_text() for path in (data / "journal").glob("*.jsonl"))
    assert "0300001234" in before and "YAMADA" in before
    support.write(tmp_path / "s.zip", data, {"health.json": {"disk": 1}, "log.txt": "a line"})
    assert (tmp_path / "s.zip").stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(tmp_path / "s.zip") as bundle:
        assert bundle.namelist() == ["health.json", "log.txt", "journal.jsonl"]
        lines = bundle.read("journal.jsonl").decode()
    assert "YAMADA" not in lines and not re.search(r"0300001234|09000005678", lines)
    entries = [json.loads(line) for line in lines.splitlines()]
    kinds = {entry.get("in") for entry in entries}
    assert {"LoopEdge", "CallerIdReceived", "RecordingReady"} <= kinds
    assert not [each for each in entries if each.get("in") == "KeyHeard" and str(each.get("key", "•")) != "•"]


def test_the_pulses_of_a_dialled_number_cannot_be_counted(data: Path, tmp_path: Path) -> None:
    def edges(text: str) -> list[int]:
        found = [json.loads(line) for line in text.splitlines()]
        return [each["at_ns"] for each in found if each.get("in") == "LoopEdge"]

    support.write(tmp_path / "s.zip", data, {})
    with zipfile.ZipFile(tmp_path / "s.zip") as bundle:
        left = edges(bundle.read("journal.jsonl").decode())
    whole = edges("\n".join(path.read_text() for path in (data / "journal").glob("*.jsonl")))
    assert len(whole) > len(left) + 20, "ten and six pulses"
    assert all(later - earlier >= 150_000_000 for earlier, later in itertools.pairwise(left))


def test_a_torn_journal_and_none_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "00000001.jsonl").write_text('{"in":"LoopEdge","at_ns":5,"line":1}\n{"in":"Loo')
    support.write(tmp_path / "s.zip", tmp_path, {})
    support.write(tmp_path / "none.zip", tmp_path / "nothing", {})
    with zipfile.ZipFile(tmp_path / "s.zip") as bundle:
        assert bundle.read("journal.jsonl") == b'{"in":"LoopEdge","at_ns":5,"line":1}\n'


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    made = [support.keep(tmp_path, {}) for _ in range(5)]
    assert sorted((tmp_path / "support").iterdir()) == made[-3:]


def test_the_command_writes_one_and_never_over_another(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mocker: MockerFixture
) -> None:
    mocker.patch("firmware.cli.doctor._devices", return_value=[])  # they would be opened; test_cli does
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f'[unit]\nsite = "shop"\nunit = "unit-1"\ndata_dir = "{data}"\n[[line]]\nnumber = 1\ncodec = "none"\n'
    )
    out = tmp_path / "out.zip"
    assert main(["support", "--settings", str(settings), "--out", str(out)]) == 0
    with zipfile.ZipFile(out) as bundle:
        names = set(bundle.namelist())
        assert json.loads(bundle.read("settings.json"))["unit"]["site"] == "shop"
        assert {each["what"] for each in json.loads(bundle.read("doctor.json"))} >= {"disk", "store", "clock"}
    assert names == {"doctor.json", "settings.json", "version.txt", "log.txt", "journal.jsonl"}
    assert main(["support", "--settings", str(settings), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
