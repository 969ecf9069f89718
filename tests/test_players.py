"""What plays the recordings: the programs that people have. Chromium does too: `make proof`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile

from drivers.virtual import scenario as story
from firmware.recording.flac import TAGS
from firmware.simulate import results, stepped

SCENARIOS = Path(__file__).parent / "scenarios"
PLAYERS = {
    "ffmpeg": ["ffmpeg", "-v", "error", "-xerror", "-i", "FILE", "-f", "s16le", "-"],
    "flac": ["flac", "-dcs", "--force-raw-format", "--endian=little", "--sign=signed", "FILE"],
    "sox": ["sox", "-V1", "FILE", "-t", "raw", "-"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A whole recording, one that power was cut from, and the copy that was made of it."""
    found: list[Path] = []
    for name in ("shop-day", "power-cut"):
        data = tmp_path_factory.mktemp(name) / "data"
        stepped(story.load(SCENARIOS / f"{name}.txt"), data)
        found += [data / call["recording"]["path"] for call in results(data)[0] if call["recording"]][:1]
    assert found[1].name.endswith(".repaired.flac")
    return [*found, found[1].with_name(found[1].name.replace(".repaired", ""))]


@pytest.mark.parametrize("player", PLAYERS)
def test_programs_play_every_sample(files: list[Path], player: str) -> None:
    if not shutil.which(player):
        pytest.skip(f"needs {player} (provisioning/packages-dev.txt)")
    for path in files[:2]:
        command = [str(path) if each == "FILE" else each for each in PLAYERS[player]]
        played = subprocess.run(command, capture_output=True, check=True)
        with soundfile.SoundFile(path) as file:
            assert played.stdout == bytes(file.buffer_read(dtype="int16"))
        assert not played.stderr, played.stderr


def test_a_file_says_whose_it_is_and_of_when(files: list[Path]) -> None:
    for path in files:
        with soundfile.SoundFile(path) as file:
            told = {tag: getattr(file, tag) for tag in TAGS}
        assert told["title"] == path.name.split(".")[0]
        assert told["artist"] == "demo/virtual-1, line 1"
        assert told["date"].endswith("Z") and told["software"].startswith("Tsuroku ")
