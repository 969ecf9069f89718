"""No sample is lost, in real time on four lines, nor over hours. 30 minutes and 26 hours of it: `make proof`."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import pytest

from tests.proof import capture


@pytest.mark.realtime
@pytest.mark.skipif(not shutil.which("pulseaudio"), reason="needs pulseaudio (provisioning/packages-dev.txt)")
def test_four_lines_at_the_same_time_lose_no_sample(tmp_path: Path) -> None:
    told = capture.lines(15, tmp_path)
    assert sum(each["heard"] for each in told) > 3.9 * 15 * 8000


@pytest.mark.parametrize("line", [1, 2])
def test_hours_of_calls_hold_each_frame_of_their_time(tmp_path: Path, line: int) -> None:
    seed = str(secrets.randbelow(1_000_000))
    print(f"seed {seed}")
    told = capture.stepped(line, 2, seed, tmp_path)
    assert told["calls"] == (1 if line == 1 else 12)
