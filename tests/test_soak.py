"""500 events through every fault of network, broker, unit and consumer. 10,000 of them: `make proof`."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.proof import soak


@pytest.mark.realtime
def test_500_events(tmp_path: Path) -> None:
    seed = secrets.randbelow(1_000_000)
    print(f"seed {seed}")
    soak.run(tmp_path, 500, seed, per_s=50)
