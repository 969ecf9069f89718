"""Random steps of every signal. A million of them: `make proof`."""

from __future__ import annotations

import secrets

from tests.proof import steps


def test_50_000_random_steps() -> None:
    seed = secrets.randbelow(1_000_000)
    print(f"seed {seed}")
    outcomes = steps.run(50_000, seed)
    assert len(outcomes) >= 5, "the steps reach most of what a line can do"
