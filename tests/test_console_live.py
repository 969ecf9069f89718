"""The console beside a unit that works in real time, through every real driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proof.console_kills import killed_meanwhile

pytestmark = pytest.mark.realtime

CALLS = """\
title Two calls while the console is killed again and again
number display
3.0 call from 03-0000-1234
9.0 lift
9.5 shop says greeting
15.0 hang up
17.0 call from 03-0000-5678
24.0 give up
end 32
expect calls 2
expect call 1 outcome=answered number=0300001234 answered=9.0 ended=15.0 recording=yes
expect call 2 outcome=missed number=0300005678
"""


def test_a_console_that_is_killed_under_load_loses_nothing_and_holds_nothing_up(tmp_path: Path) -> None:
    path = tmp_path / "calls.txt"
    path.write_text(CALLS)
    killed = killed_meanwhile(path, tmp_path / "unit")
    assert killed.kills >= 3 and killed.answers > 10 and killed.acknowledged and killed.told > 3
