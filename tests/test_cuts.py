"""What a power cut can leave of the store. 20,000 states, and a real ext4: `make proof`."""

from __future__ import annotations

import secrets
import shutil

import pytest

from tests.proof import cuts

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="needs strace (provisioning/packages-dev.txt)")


@pytest.mark.parametrize(("kind", "states"), [("tables", 1500), ("calls", 500), ("sqlite", 150)])
def test_a_power_cut_takes_nothing_that_was_acknowledged(kind: cuts.Kind, states: int) -> None:
    seed = str(secrets.randbelow(1_000_000))
    print(f"seed {seed}")
    outcome = cuts.cut(kind, seed, states)
    assert outcome.states >= states and not outcome.failed
    assert outcome.in_flight and (outcome.torn or kind == "sqlite")


@pytest.mark.parametrize("mutant", ["nosync", "nochecksum"])
def test_a_store_that_is_not_safe_is_found_out(mutant: cuts.Mutant) -> None:
    seed = str(secrets.randbelow(1_000_000))
    print(f"seed {seed}")
    assert cuts.cut("tables", seed, 150, mutant).failed
