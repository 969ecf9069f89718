"""Tones of the exchange by country, fax, the alerting signal, voice: synthesised here, and in the shared recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from drivers.signals import Country, Tone
from drivers.softmodem.dtmf import FULL_SCALE_DBM0, RATE_HZ
from drivers.softmodem.tones import CasFound, Found, ToneFound, ToneReceiver, VoiceFound

Sound = NDArray[np.float64]
DATA = Path(__file__).parents[2] / "shared" / "data"


def amplitude(level_dbm0: float) -> float:
    return float(10 ** ((level_dbm0 - FULL_SCALE_DBM0) / 20))


def silence(seconds: float) -> Sound:
    return np.zeros(round(seconds * RATE_HZ))


def tone(hz: tuple[float, ...], seconds: float, level_dbm0: float = -15.0, modulated_hz: float = 0.0) -> Sound:
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    made = sum((amplitude(level_dbm0) * np.sin(2 * np.pi * each * t) for each in hz), np.zeros(len(t)))
    if modulated_hz:
        made *= (1 + 0.85 * np.sin(2 * np.pi * modulated_hz * t)) / 1.85
    return made


def cadence(
    hz: tuple[float, ...], periods_s: tuple[float, ...], bursts: int, level_dbm0: float = -15.0, modulated_hz: float = 0
) -> Sound:
    """periods_s: on, off, ... in turn, half a second of silence before."""
    parts = [silence(0.5)]
    for number in range(bursts):
        on_s, off_s = (periods_s[(2 * number + part) % len(periods_s)] for part in (0, 1))
        parts += [tone(hz, on_s, level_dbm0, modulated_hz), silence(off_s)]
    return np.concatenate(parts)


def heard(country: Country, sound: Sound, after_s: float = 12.0) -> list[Found]:
    return ToneReceiver(country).feed(np.concatenate([sound, silence(after_s)]))


def tones(found: list[Found]) -> list[tuple[Tone, int, bool]]:
    return [(each.tone, each.cycles, each.over) for each in found if isinstance(each, ToneFound)]


def told(tone: Tone, first: int, last: int) -> list[tuple[Tone, int, bool]]:
    """When recognised, at the second and fourth cycle, at the end."""
    again: list[tuple[Tone, int, bool]] = [(tone, count, False) for count in (2, 4) if first < count <= last]
    return [(tone, first, False), *again, (tone, last, True)]


PLAN: list[tuple[Country, Tone, Sound, int, int]] = [
    ("jp", "dial", cadence((400,), (3, 0.5), 1), 1, 1),
    ("jp", "second_dial", cadence((400,), (0.2, 0.2), 3), 3, 3),
    ("jp", "ringback", cadence((400,), (1, 2), 5, modulated_hz=16), 1, 5),
    ("jp", "ringback", cadence((400,), (1, 2), 2, modulated_hz=20), 1, 2),
    ("jp", "ringback", cadence((400,), (1, 2), 5), 2, 5),
    ("jp", "busy", cadence((400,), (0.5, 0.5), 6), 2, 6),
    ("jp", "call_waiting", cadence((400,), (0.5, 8), 2, modulated_hz=16), 1, 2),
    ("jp", "cng", cadence((1100,), (0.5, 3), 2), 2, 2),
    ("jp", "ced", cadence((2100,), (3, 1), 1), 1, 1),
    ("us", "dial", cadence((350, 440), (2, 0.5), 1), 1, 1),
    ("us", "ringback", cadence((440, 480), (2, 4), 3), 1, 3),
    ("us", "busy", cadence((480, 620), (0.5, 0.5), 5), 2, 5),
    ("us", "busy", cadence((480, 620), (0.25, 0.25), 5), 2, 5),
    ("us", "call_waiting", cadence((440,), (0.3, 10), 2), 1, 2),
    ("uk", "dial", cadence((350, 440), (2, 0.5), 1), 1, 1),
    ("uk", "ringback", cadence((400, 450), (0.4, 0.2, 0.4, 2), 6), 2, 6),
    ("uk", "busy", cadence((400,), (0.375, 0.375), 6), 2, 6),
    ("etsi", "dial", cadence((425,), (3, 0.5), 1), 1, 1),
    ("etsi", "ringback", cadence((425,), (1, 4), 3), 1, 3),
    ("etsi", "busy", cadence((425,), (0.5, 0.5), 5), 2, 5),
    ("etsi", "busy", cadence((425,), (0.25, 0.25), 5), 2, 5),
]
NAMED = pytest.mark.parametrize(
    ("country", "tone_", "sound", "first", "last"),
    PLAN,
    ids=[f"{each[0]}-{each[1]}-{n}" for n, each in enumerate(PLAN)],
)


@NAMED
def test_tones_are_told_when_recognised_at_the_fourth_cycle_and_at_the_end(
    country: Country, tone_: Tone, sound: Sound, first: int, last: int
) -> None:
    found = heard(country, sound)
    assert tones(found) == told(tone_, first, last)
    assert all(isinstance(each, ToneFound) for each in found)
    sounding = np.flatnonzero(sound)
    over = found[-1]
    assert isinstance(over, ToneFound)
    assert abs(over.from_frame - int(sounding[0])) < 0.05 * RATE_HZ
    assert abs(over.until_frame - int(sounding[-1])) < 0.05 * RATE_HZ


@NAMED
@pytest.mark.parametrize("level_dbm0", [0.0, -25.0])
def test_tones_in_noise_15_db_under_them(
    country: Country, tone_: Tone, sound: Sound, first: int, last: int, level_dbm0: float
) -> None:
    sound = sound * amplitude(level_dbm0) / amplitude(-15)
    level = (sound[sound != 0] ** 2).mean() ** 0.5 * 10 ** (-15 / 20)
    sound = np.concatenate([sound, silence(12)])
    assert tones(heard(country, sound + np.random.default_rng(5).normal(0, level, len(sound)), 0)) == told(
        tone_, first, last
    )


@NAMED
def test_faint_tones_over_hum(country: Country, tone_: Tone, sound: Sound, first: int, last: int) -> None:
    sound = np.concatenate([sound * amplitude(-40) / amplitude(-15), silence(12)])
    t = np.arange(len(sound)) / RATE_HZ
    hum = amplitude(-25) * np.sin(2 * np.pi * 50 * t) + amplitude(-35) * np.sin(2 * np.pi * 150 * t)
    assert tones(heard(country, sound + hum, 0)) == told(tone_, first, last)


@pytest.mark.parametrize("part", [0.985, 1.015])
def test_1_5_percent_out_of_tune_is_the_tone(part: float) -> None:
    assert tones(heard("jp", cadence((400 * part,), (0.5, 0.5), 4))) == [
        ("busy", 2, False),
        ("busy", 4, False),
        ("busy", 4, True),
    ]


@pytest.mark.parametrize("hz", [385.0, 412.0, 425.0, 440.0])
def test_another_countrys_tone_is_none(hz: float) -> None:
    assert heard("jp", cadence((hz,), (0.5, 0.5), 6)) == []
    assert heard("jp", cadence((hz,), (3, 0.5), 1)) == []


def test_dial_tone_that_stops_before_a_second_is_not_told() -> None:
    assert tones(heard("jp", cadence((400,), (0.8, 1), 1))) == []


def test_dial_tone_is_told_while_it_goes_on() -> None:
    found = heard("jp", np.concatenate([silence(0.5), tone((400,), 1.45)]), 0)
    assert tones(found) == [("dial", 1, False)]


def test_ringback_is_told_once_its_silence_began() -> None:
    sound = np.concatenate([silence(0.5), tone((400,), 1, -15, 16), silence(0.6)])
    assert tones(heard("jp", sound, 0)) == [("ringback", 1, False)]


def test_busy_is_told_at_its_second_cycle() -> None:
    sound = np.concatenate([cadence((400,), (0.5, 0.5), 2)])
    assert tones(heard("jp", sound, 0)) == [("busy", 2, False)]


def test_ringback_then_an_answer_is_over_and_a_voice() -> None:
    rng = np.random.default_rng(6)
    sound = np.concatenate([cadence((400,), (1, 2), 2, modulated_hz=16)[:-RATE_HZ], _voice(rng, 4.0)])
    found = heard("jp", sound, 4)
    assert tones(found) == [("ringback", 1, False), ("ringback", 2, False), ("ringback", 2, True)]
    (voice,) = [each for each in found if isinstance(each, VoiceFound)]
    assert 5.4 < voice.from_frame / RATE_HZ < 6.0


def test_call_waiting_over_muted_talk() -> None:
    rng = np.random.default_rng(7)
    sound = np.concatenate([_voice(rng, 5.0), silence(0.1), tone((400,), 0.5, -18, 16), silence(0.2), _voice(rng, 5.0)])
    assert tones(heard("jp", sound))[:1] == [("call_waiting", 1, False)]


def test_ced_with_phase_reversals() -> None:
    """ANSam: reversed every 450 ms, 15 Hz on it."""
    t = np.arange(round(3.3 * RATE_HZ)) / RATE_HZ
    sound = np.sin(2 * np.pi * 2100 * t) * np.where((t // 0.45) % 2, -1, 1) * (1 + 0.2 * np.sin(2 * np.pi * 15 * t))
    assert tones(heard("jp", np.concatenate([silence(0.3), amplitude(-12) * sound]))) == [
        ("ced", 1, False),
        ("ced", 1, True),
    ]


@pytest.mark.parametrize("lasts_s", [0.075, 0.08, 0.1, 0.11])
@pytest.mark.parametrize("level_dbm0", [-5.0, -32.0])
def test_the_alerting_signal(lasts_s: float, level_dbm0: float) -> None:
    (cas,) = heard("uk", np.concatenate([silence(0.5), tone((2130, 2750), lasts_s, level_dbm0)]))
    assert isinstance(cas, CasFound)
    assert abs(cas.from_frame - 4000) < 80
    assert abs(cas.until_frame - 4000 - lasts_s * RATE_HZ) < 80


@pytest.mark.parametrize("lasts_s", [0.04, 0.2])
def test_too_short_or_long_for_the_alerting_signal(lasts_s: float) -> None:
    assert heard("uk", np.concatenate([silence(0.5), tone((2130, 2750), lasts_s)])) == []


def _voice(rng: np.random.Generator, seconds: float) -> Sound:
    """Harmonics of a gliding pitch in syllables: nearer to speech than any tone is."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    pitch = 140 + 30 * np.sin(2 * np.pi * 0.7 * t) + 10 * np.sin(2 * np.pi * 2.3 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    made = sum((np.sin(n * phase + rng.uniform(0, 6)) / n for n in range(1, 20)), np.zeros(len(t)))
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * t) + 0.5, 0, 1)
    return np.asarray(0.1 * made * syllables, dtype=np.float64)


def test_voice_is_told_at_its_beginning_and_every_10_s() -> None:
    rng = np.random.default_rng(8)
    sound = np.concatenate([silence(1), _voice(rng, 25), silence(3), _voice(rng, 2)])
    found = heard("jp", sound)
    assert all(isinstance(each, VoiceFound) for each in found)
    at_s = [each.from_frame / RATE_HZ for each in found]
    assert at_s == pytest.approx([1, 11, 21, 29], abs=0.6)


def test_steady_noise_hum_and_data_are_no_voice() -> None:
    rng = np.random.default_rng(9)
    t = np.arange(20 * RATE_HZ) / RATE_HZ
    for sound in (
        rng.normal(0, amplitude(-35), len(t)),
        amplitude(-20) * np.sign(np.sin(2 * np.pi * 50 * t)),
        amplitude(-12) * np.sin(2 * np.pi * 1700 * t + 2 * np.cumsum(rng.choice((-1, 1), 24000).repeat(7)[: len(t)])),
        amplitude(-12) * (np.sin(2 * np.pi * 770 * t) + np.sin(2 * np.pi * 1336 * t)) * (t % 0.2 < 0.1),
    ):
        assert heard("jp", sound) == []


@pytest.mark.parametrize(("country", "hz", "on_s"), [("us", 440.0, 0.3), ("jp", 400.0, 0.5)])
def test_a_vowels_overtone_is_no_tone(country: Country, hz: float, on_s: float) -> None:
    """A high voice whose pitch is below the telephone's band."""
    vowel = tone((hz,), on_s, -15, 16 if country == "jp" else 0)
    assert tones(heard(country, np.concatenate([silence(0.5), vowel]), 14)) == told("call_waiting", 1, 1)
    assert tones(heard(country, np.concatenate([silence(0.5), vowel + tone((hz / 2,), on_s, -22)]))) == []


def rung(hz: float, on_s: float, off_s: float, over: float, bursts: int = 4) -> Sound:
    """Ringing that comes through the tap: over times full scale, clipped."""
    on = np.clip(over * np.sin(2 * np.pi * hz * np.arange(round(on_s * RATE_HZ)) / RATE_HZ), -0.9, 0.9)
    return np.concatenate([silence(1), *[on, silence(off_s)] * bursts])


@pytest.mark.parametrize(
    ("hz", "on_s", "off_s"), [(15, 1, 2), (16, 1, 2), (17, 1, 2), (20, 2, 4), (25, 1, 4), (25, 0.4, 0.2), (30, 2, 4)]
)
@pytest.mark.parametrize("over", [1.2, 3.0, 20.0])
def test_ringing_is_no_voice(hz: float, on_s: float, off_s: float, over: float) -> None:
    rng = np.random.default_rng(12)
    sound = rung(hz, on_s, off_s, over)
    assert heard("jp", sound + rng.normal(0, 0.001, len(sound)), 1) == []


@pytest.mark.parametrize("pulses_s", [10, 20])
@pytest.mark.parametrize("decay_s", [0.001, 0.003])
def test_dial_pulses_are_no_voice(pulses_s: int, decay_s: float) -> None:
    rng = np.random.default_rng(13)
    t = np.arange(400) / RATE_HZ
    click = 0.5 * np.exp(-t / decay_s) * np.cos(2 * np.pi * 700 * t)
    sound = silence(20)
    at_s = 1.0
    for pulses in (10, 3, 10, 10, 1, 2, 3, 4):
        for _ in range(pulses):
            for edge_s, size in ((at_s, 1.0), (at_s + 0.66 / pulses_s, -0.6)):
                at = round((edge_s + rng.uniform(-0.001, 0.001)) * RATE_HZ)
                sound[at : at + 400] += size * click
            at_s += 1 / pulses_s
        at_s += 0.7
    assert heard("jp", sound + rng.normal(0, 0.001, len(sound)), 1) == []


@pytest.mark.parametrize("pause_s", [0.0, 1.0])
def test_a_voice_after_ringing_is_told_within_a_second(pause_s: float) -> None:
    ringing = rung(16, 1, 2, 20, bursts=2)[: -2 * RATE_HZ]
    sound = np.concatenate([ringing, silence(pause_s), _voice(np.random.default_rng(14), 4)])
    (voice,) = heard("jp", sound[: len(ringing) + round((pause_s + 1.0) * RATE_HZ)], 0)
    assert isinstance(voice, VoiceFound)
    assert abs(voice.from_frame - len(ringing) - pause_s * RATE_HZ) < 0.2 * RATE_HZ


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=8))
def test_any_chunking_gives_the_same_findings(sizes: list[int]) -> None:
    rng = np.random.default_rng(10)
    sound = np.concatenate(
        [cadence((400,), (1, 2), 2, modulated_hz=16), _voice(rng, 2), tone((2130, 2750), 0.09), silence(4)]
    )
    whole = ToneReceiver("jp").feed(sound)
    receiver, got, at, number = ToneReceiver("jp"), list[Found](), 0, 0
    while at < len(sound):
        size = sizes[number % len(sizes)] + 50
        got += receiver.feed(sound[at : at + size])
        at, number = at + size, number + 1
    assert got == whole
    assert {type(each) for each in whole} == {ToneFound, CasFound, VoiceFound}


@pytest.mark.parametrize("country", ["jp", "us", "uk", "etsi"])
def test_garbage_is_no_tone_and_no_error(country: Country) -> None:
    rng = np.random.default_rng(11)
    t = np.arange(24000)
    for sound in (
        rng.uniform(-1, 1, 24000),
        np.sign(np.sin(t / 2.7)),
        np.ones(24000),
        np.asarray(t % 800 == 0, dtype=np.float64),
        rng.normal(0, 1e-9, 24000),
        1e6 * rng.uniform(-1, 1, 24000),
    ):
        assert not [each for each in heard(country, sound) if not isinstance(each, VoiceFound)]


@pytest.mark.skipif(not (DATA / "speech_ja").exists(), reason="the shared recordings are not here")
@pytest.mark.parametrize("country", ["jp", "us", "uk", "etsi"])
def test_speech_and_music_are_voice_and_no_tone(country: Country) -> None:
    for folder in ("music_on_hold", "speech_en_prompts", "speech_ja_prompts"):
        for path in sorted((DATA / folder).iterdir()):
            sound, _ = soundfile.read(path)
            found = heard(country, sound, 1)
            assert not [each for each in found if not isinstance(each, VoiceFound)], path.name
            if len(sound) > 1.5 * RATE_HZ:
                assert found, path.name
