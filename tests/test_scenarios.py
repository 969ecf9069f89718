"""Every scenario of tests/scenarios in stepped time: the unit files what the scenario expects, sample for sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import soundfile

from drivers.virtual import scenario as story
from drivers.virtual.line import VirtualLine
from firmware.core.privacy import Privacy, masked
from firmware.engine.journal import replay
from firmware.simulate import BASE_NS, check, results, stepped
from tests.contract import check_event

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, tmp_path: Path) -> None:
    scenario = story.load(path)
    assert scenario.expects.calls is not None, "a scenario says how many calls it makes"
    data = tmp_path / "data"
    line = stepped(scenario, data)
    assert check(scenario, data) == []
    calls, events = results(data)
    for call in calls:
        if call["recording"]:
            the_recording_is_the_wire(line, call, data)
    for event in events:
        for level in get_args(Privacy):
            check_event(masked(dict(event), level, b"key"))
    the_journals_give_the_same_calls(data)


def the_recording_is_the_wire(line: VirtualLine, call: dict[str, object], data: Path) -> None:
    recording = call["recording"]
    assert isinstance(recording, dict)
    first = (recording["from_ns"] - BASE_NS) // 125_000
    wire = bytearray(line.pcm(first, recording["frames"]))
    for gap in recording["gaps"]:
        at, frames = round(gap["at_s"] * 8000), round(gap["duration_s"] * 8000)
        wire[at * 2 : (at + frames) * 2] = bytes(frames * 2)
    with soundfile.SoundFile(data / recording["path"]) as file:
        assert bytes(file.buffer_read(dtype="int16")) == bytes(wire)


def the_journals_give_the_same_calls(data: Path) -> None:
    """Byte for byte: what the unit filed last of each call, and what a replay of its journals files."""
    replayed = {}
    for journal in sorted((data / "journal").glob("*.jsonl")):
        for save in replay(journal):
            replayed[save.call.call_id] = save.call.to_dict()
    stored = {str(call["call_id"]): call for call in results(data)[0]}
    assert json.dumps(replayed, sort_keys=True) == json.dumps(stored, sort_keys=True)


def test_a_scenario_that_is_not_met_says_so(tmp_path: Path) -> None:
    text = "title Wrong\n1.0 call from 03-0000-1234\n5.0 lift\n9.0 hang up\n"
    text += "expect calls 2\nexpect call 1 rings=7 number=0\n"
    stepped(story.parse(text, tmp_path / "wrong.txt"), tmp_path / "data")
    wrong = check(story.parse(text, tmp_path / "wrong.txt"), tmp_path / "data")
    assert [sentence.split(": ", 1)[1] for sentence in wrong] == [
        "expected 2 calls, the unit filed 1.",
        "call 1: expected rings=7, found 2.",
        "call 1: expected number=0, found none.",
    ]
