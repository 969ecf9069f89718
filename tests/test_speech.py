"""Speech on the virtual line stands in the recording as it was said: time, shape, and nothing beside the line's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from drivers.virtual import scenario as story
from drivers.virtual import speech
from firmware.simulate import BASE_NS, stepped
from tests.proof.speech import Saying, conversation, provided, recorded, shipped

NOISE_DBM0 = -60.0  # of the virtual line; its hum is below the band
HYBRID_DB = -20.0  # the shop's voice comes back from the exchange, below itself, 2 ms later
HYBRID_FRAMES = 16


def test_the_shipped_voices(tmp_path: Path) -> None:
    sounds = shipped()
    assert sorted(sound.sound for sound in sounds) == sorted(speech.VOICES.glob("*.flac"))
    the_recording_has(sounds, tmp_path)


@pytest.mark.skipif(not provided(), reason="real speech is not beside this checkout (../shared/data)")
def test_real_japanese_speech(tmp_path: Path) -> None:
    sounds = provided()
    assert len(sounds) >= 3
    the_recording_has(sounds, tmp_path)


def the_recording_has(sounds: list[Saying], tmp_path: Path) -> None:
    text, said = conversation(sounds)
    stepped(story.parse(text, tmp_path / "speech.txt"), tmp_path / "data")
    for saying in said:
        path, first = recorded(tmp_path / "data", BASE_NS, saying)
        source = telephone_band(at_8_khz(saying.sound))
        heard = telephone_band(soundfile.read(path, start=first, frames=len(source))[0])
        about = f"{saying.sound.stem} by the {saying.who}"
        assert np.corrcoef(source, heard)[0, 1] > 0.99, about
        voices = np.column_stack([source, np.concatenate([np.zeros(HYBRID_FRAMES), source[:-HYBRID_FRAMES]])])
        (direct, returned), *_ = np.linalg.lstsq(voices, heard)
        assert returned / direct == pytest.approx(10 ** (HYBRID_DB / 20) if saying.who == "shop" else 0, abs=0.01), (
            about
        )
        assert dbm0(heard - voices @ [direct, returned]) < NOISE_DBM0, about


def at_8_khz(path: Path) -> Any:
    """Read a sound of a whole multiple of 8 kHz."""
    frames, rate_hz = soundfile.read(path)
    assert rate_hz % 8000 == 0
    count = len(frames) * 8000 // rate_hz
    return np.fft.irfft(np.fft.rfft(frames)[: count // 2 + 1], count)


def telephone_band(frames: Any) -> Any:
    spectrum = np.fft.rfft(frames)
    hertz = np.fft.rfftfreq(len(frames), 1 / 8000)
    return np.fft.irfft(np.where((hertz > 300) & (hertz < 3400), spectrum, 0), len(frames))


def dbm0(frames: Any) -> float:
    """A sine of full scale is +3.14 dBm0."""
    return float(20 * np.log10(np.sqrt(2 * np.mean(frames**2))) + 3.14)
