"""A Number Display day in stepped time: as many calls as were made, no phantom, and no frame in a recording."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivers.virtual import scenario as story
from firmware.simulate import BASE_NS, check, results, stepped
from tests.contract import check_event
from tests.days import number_display_day


@pytest.mark.parametrize("calls", [12, 200])
def test_number_display_day(calls: int, tmp_path: Path) -> None:
    scenario = story.parse(number_display_day(1, calls), tmp_path / "day.txt")
    line = stepped(scenario, tmp_path / "data")
    assert check(scenario, tmp_path / "data") == []
    frames = line.frames()
    filed, events = results(tmp_path / "data")
    for event in events:
        check_event(event)
    assert len(frames) >= sum(call["caller"]["presentation"] != "not_received" for call in filed) > 0
    for call in filed:
        recording = call["recording"]
        if recording:
            from_ns = recording["from_ns"] - BASE_NS
            until_ns = from_ns + round(recording["duration_s"] * 1e9)
            assert not [frame for frame in frames if frame[0] < until_ns and frame[1] > from_ns + 10_000_000]
