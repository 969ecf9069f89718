"""With [recording] mute_keys what is keyed after the answer cannot be heard, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from drivers.signals import AudioBlock
from drivers.softmodem.dtmf import DtmfReceiver
from drivers.virtual import scenario as story
from firmware.cli.main import main
from firmware.core.facts import KEYS, RecordingFailed, RecordingReady
from firmware.core.line import Mute, MuteKey, StartRecording, StopRecording
from firmware.recording.recorder import Recorder
from firmware.settings import RecordingSettings
from firmware.simulate import results, stepped
from tests.test_full_disk import CALL

SCENARIO = Path(__file__).parent / "scenarios" / "keys-in-a-call.txt"


def recorded(data: Path, **more: Any) -> list[tuple[dict[str, Any], np.ndarray[Any, Any]]]:
    stepped(story.parse(SCENARIO.read_text(), SCENARIO), data, recording=RecordingSettings(**more))
    return [(call, soundfile.read(data / call["recording"]["path"], dtype="int16")[0]) for call in results(data)[0]]


def heard(pcm: np.ndarray[Any, Any], from_frame: int) -> str:
    keys = DtmfReceiver().feed(pcm[from_frame:].astype(np.float64) / 32768)
    return "".join(key.key for key in keys)


def test_what_is_keyed_in_a_call_is_silence_and_all_else_is_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, muted = recorded(tmp_path / "before"), recorded(tmp_path / "muted", mute_keys=True)
    for (call, plain), (again, silent), keys in zip(before, muted, ("11234#", "2"), strict=True):
        begins = round((call["answered_ns"] - call["recording"]["from_ns"]) * 8e-6)
        assert heard(plain, begins) == keys and heard(silent, begins) == ""
        stretches = again["recording"]["muted"]
        assert len(stretches) == len(keys) and {each["by"] for each in stretches} == {KEYS}
        assert all(0.09 < each["duration_s"] < 0.4 for each in stretches)
        kept = np.ones(len(plain), bool)
        for each in stretches:
            first = round(each["at_s"] * 8000)
            last = first + round(each["duration_s"] * 8000)
            assert not silent[first:last].any()
            kept[first:last] = False
        assert np.array_equal(plain[kept], silent[kept]) and len(plain) == len(silent)
        assert again["keyed"] == len(keys)
    # The number that is dialled stands in the record anyway.
    assert heard(muted[0][1], 0) == "0300005678"
    last = muted[1][0]["call_id"]
    assert main(["calls", "show", last, "--data", str(tmp_path / "muted")]) == 0
    assert "key tone" in capsys.readouterr().out
    out = tmp_path / "bundle.zip"
    assert main(["export", last, "--data", str(tmp_path / "muted"), "--out", str(out)]) == 0
    assert main(["verify", str(out)]) == 0


def test_a_key_in_a_pause_is_the_pauses(tmp_path: Path) -> None:
    found: list[RecordingReady | RecordingFailed] = []
    recorder = Recorder(tmp_path, 8000, 30, 5, 0, found.append, held_back_ms=2000)
    sound = b"\1\1" * 800
    for number in range(100):  # 10 s
        if number == 5:
            recorder.obey(StartRecording(line=1, call_id=CALL, from_ns=0, up_ns=0))
        if number == 20:
            recorder.obey(Mute(from_ns=2 * _S, until_ns=4 * _S, at_ns=2 * _S, by="desk"))
        if number == 25:
            recorder.obey(MuteKey(line=1, from_ns=2_200_000_000, until_ns=2_400_000_000))  # within it
        if number == 45:
            recorder.obey(Mute(from_ns=None, at_ns=4_500_000_000))
            recorder.obey(MuteKey(line=1, from_ns=4_100_000_000, until_ns=4_300_000_000))
        if number == 70:
            recorder.obey(MuteKey(line=1, from_ns=3_000_000_000, until_ns=6_000_000_000))  # too late for most of it
        recorder.take(AudioBlock(at_ns=number * 100_000_000, pcm=sound))
    recorder.obey(StopRecording(line=1, call_id=CALL, until_ns=10 * _S, keep=True))
    (ready,) = found
    assert isinstance(ready, RecordingReady)
    stretches = [(round(gap.at_s, 2), round(gap.duration_s, 2), gap.by) for gap in ready.muted]
    assert stretches == [(2.0, 2.0, "desk"), (4.07, 0.26, KEYS), (5.0, 1.03, KEYS)]


_S = 1_000_000_000
