"""What power cuts and kills leave of a recording. 2,000 and 500 of them: `make proof`."""

from __future__ import annotations

import secrets
import shutil

import pytest

from tests.proof import sound


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace (provisioning/packages-dev.txt)")
def test_a_recording_that_power_is_cut_from_plays_to_within_six_seconds() -> None:
    seed = str(secrets.randbelow(1_000_000))
    print(f"seed {seed}")
    outcome = sound.cut(seed, sound.CUTS // 10)
    assert outcome.states == 200 and outcome.open > 20


def test_a_recording_whose_unit_is_killed_plays_to_within_a_second() -> None:
    seed = str(secrets.randbelow(1_000_000))
    print(f"seed {seed}")
    outcome = sound.kill(seed, sound.KILLS // 10)
    assert outcome.states == 50 and outcome.open > 20
