"""kill -9 of the whole unit in calls, in real time. Twenty of them, in all moments of a call: `make proof`."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.proof import crash


@pytest.mark.realtime
def test_three_kills(tmp_path: Path) -> None:
    seed = secrets.randbelow(1_000_000)
    print(f"seed {seed}")
    outcome = crash.run(tmp_path, crash.Plan(talk_s=4.0), ["lift", "talking", "closing"], seed)
    for kill in outcome.kills:
        print(kill)
    assert outcome.kills[1].interrupted == 1, "a call was going on"
