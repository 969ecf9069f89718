"""What a recording's levels tell: signals of known strength, measured as they come in pieces of any size."""

from __future__ import annotations

import random

import numpy as np
import pytest

from firmware.core.facts import Levels
from firmware.recording.levels import Meter

RATE = 8000


def tone(hz: float, dbfs: float, seconds: float) -> np.ndarray:
    """dbfs: its mean square; a sine at full scale has -3.01."""
    at = np.arange(round(seconds * RATE)) / RATE
    sound: np.ndarray = np.sqrt(2) * 10 ** (dbfs / 20) * np.sin(2 * np.pi * hz * at)
    return sound


def noise(dbfs: float, seconds: float) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 10 ** (dbfs / 20), round(seconds * RATE))


def measured(sound: np.ndarray) -> Levels:
    pcm = np.clip(np.round(sound * 32768), -32768, 32767).astype("<i2").tobytes()
    meter, chance, at = Meter(RATE), random.Random(len(pcm)), 0
    while at < len(pcm):
        size = 2 * chance.choice((1, 160, 800, 4000, 30_000))
        meter.feed(pcm[at : at + size])
        at += size
    return meter.levels()


def test_a_tone_of_known_strength() -> None:
    levels = measured(tone(1000, -20, 10.5))
    assert levels.rms_dbfs == levels.loudest_dbfs == -20.0
    assert levels.peak_dbfs == pytest.approx(-17.0, abs=0.1)
    assert (levels.clipped, levels.hum_hz, levels.silent, levels.overdriven) == (0, None, False, False)


def test_silence_is_silence_whether_of_zeros_or_of_a_codec_without_a_cable() -> None:
    nothing = measured(np.zeros(5 * RATE))
    assert (nothing.peak_dbfs, nothing.rms_dbfs, nothing.loudest_dbfs, nothing.clipped) == (None, None, None, 0)
    assert nothing.silent
    assert measured(noise(-70, 5)).silent
    assert not measured(noise(-50, 5)).silent
    assert measured(np.zeros(0)) == nothing


def test_one_spoken_second_is_no_silence_and_gaps_and_pauses_do_not_count() -> None:
    levels = measured(np.concatenate((np.zeros(60 * RATE), tone(700, -30, 1), np.zeros(60 * RATE))))
    assert not levels.silent
    assert levels.rms_dbfs == levels.loudest_dbfs == -30.0


def test_clipping_is_what_stands_at_full_scale() -> None:
    over = measured(tone(300, 3, 5))
    assert over.overdriven
    assert 0.2 < over.clipped < 0.7
    single = np.zeros(5 * RATE)
    single[::100] = 1.0
    assert measured(single).clipped == 0


@pytest.mark.parametrize("mains", [50, 60])
@pytest.mark.parametrize("harmonic", [1, 2, 3])
def test_hum_is_found_under_speech_like_sound(mains: int, harmonic: int) -> None:
    hum = tone(mains * harmonic, -40, 10)
    levels = measured(hum + noise(-35, 10))
    assert levels.hum_hz == mains
    assert levels.hum_dbfs == pytest.approx(-40, abs=1.5)


def test_hum_is_found_in_the_pauses_of_somebody_who_speaks_loudly() -> None:
    speech = np.concatenate([noise(-15, 3) + tone(107, -15, 3) if n % 2 else noise(-60, 2) for n in range(14)])
    levels = measured(speech + tone(50, -45, len(speech) / RATE))
    assert levels.hum_hz == 50
    assert levels.hum_dbfs == pytest.approx(-45, abs=1)


@pytest.mark.parametrize("off_hz", [-0.1, 0.1])
def test_mains_that_are_off_are_mains(off_hz: float) -> None:
    levels = measured(tone(50 + off_hz, -40, 10))
    assert levels.hum_hz == 50
    assert levels.hum_dbfs == pytest.approx(-40, abs=0.5)


@pytest.mark.parametrize("seed", range(20))
def test_no_hum_in_noise(seed: int) -> None:
    assert measured(np.random.default_rng(seed).normal(0, 0.06, 12 * RATE)).hum_hz is None


@pytest.mark.parametrize("hz", [350, 400, 425, 440, 480])
def test_no_hum_in_tones_or_a_voice_that_comes_and_goes(hz: int) -> None:
    assert measured(tone(hz, -15, 10)).hum_hz is None
    voice = tone(120, -20, 10)
    voice[4 * RATE : 5 * RATE] = noise(-60, 1)
    assert measured(voice).hum_hz is None
    assert measured(tone(50, -30, 2.9)).hum_hz is None, "too short to say that it stays"
