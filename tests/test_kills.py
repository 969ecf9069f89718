"""kill -9 of whoever writes a store, a few times. 1,000 of them: `make proof`."""

from __future__ import annotations

import secrets
from pathlib import Path

from tests.proof import kills


def test_25_kills(tmp_path: Path) -> None:
    seed = secrets.randbelow(1_000_000)
    print(f"seed {seed}")
    met = kills.run(tmp_path, 25, seed)
    assert sum(met.values()) == 25
