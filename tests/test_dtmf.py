"""Keys: what Q.24 and the line's own document ask for, the recordings of others, and numbers sent as keys."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from drivers.softmodem.dtmf import FULL_SCALE_DBM0, RATE_HZ, DtmfCallerId, DtmfReceiver, Key

Sound = NDArray[np.float64]
KEYS = "123A456B789C*0#D"
LOW, HIGH = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
DATA = Path(__file__).parents[2] / "shared" / "data"


def silence(seconds: float) -> Sound:
    return np.zeros(round(seconds * RATE_HZ))


def tone(
    key: str, seconds: float = 0.05, level_dbm0: float = -12.0, twist_db: float = 0.0, off: tuple[float, float] = (0, 0)
) -> Sound:
    """One key; the low tone at the level, the high one twist_db over it; off: parts by which both are out of tune."""
    row, column = divmod(KEYS.index(key), 4)
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    amplitude = 10 ** ((level_dbm0 - FULL_SCALE_DBM0) / 20)
    low = np.sin(2 * np.pi * LOW[row] * (1 + off[0]) * t + 0.3 * row)
    high = np.sin(2 * np.pi * HIGH[column] * (1 + off[1]) * t + column)
    made: Sound = amplitude * (low + 10 ** (twist_db / 20) * high)
    return made


def dialled(keys: str, on_s: float = 0.05, off_s: float = 0.03, **how: object) -> Sound:
    parts = [silence(0.2)]
    for key in keys:
        parts += [tone(key, on_s, **how), silence(off_s)]  # type: ignore[arg-type]
    return np.concatenate([*parts, silence(0.3)])


def sampled(sound: Sound) -> Sound:
    """As a codec of 16 bits gives it."""
    made: Sound = np.clip(np.round(sound * 32768), -32768, 32767) / 32768
    return made


def heard(sound: Sound) -> str:
    return "".join(key.key for key in DtmfReceiver().feed(np.concatenate([sampled(sound), silence(0.2)])))


def noise(like: Sound, level_dbm0: float, seed: int = 1) -> Sound:
    """White, its power that of a sine of this level."""
    made = np.random.default_rng(seed).normal(0, 10 ** ((level_dbm0 - FULL_SCALE_DBM0) / 20) / 2**0.5, len(like))
    return np.asarray(made, dtype=np.float64)


@pytest.mark.parametrize(
    ("on_s", "off_s"), [(0.05, 0.03), (0.04, 0.04), (0.05, 0.05), (0.1, 0.07), (0.035, 0.025)], ids=str
)
def test_every_key_is_found_once(on_s: float, off_s: float) -> None:
    assert heard(dialled(KEYS * 2, on_s, off_s)) == KEYS * 2
    assert heard(dialled("00000", on_s, off_s)) == "00000"


def test_a_key_begins_and_ends_where_its_tone_does() -> None:
    sound = np.concatenate([silence(0.5), tone("5", 0.1), silence(0.2)])
    (key,) = DtmfReceiver().feed(sound)
    assert abs(key.from_frame - 4000) < 40
    assert abs(key.until_frame - 4800) < 40


def test_a_key_is_told_within_100_ms_of_its_end() -> None:
    for lead in range(0, 400, 57):
        sound = np.concatenate([np.zeros(4000 + lead), tone("7"), silence(0.1)])
        assert [key.key for key in DtmfReceiver().feed(sound)] == ["7"]


@pytest.mark.parametrize("on_s", [0.01, 0.02, 0.023, 0.024])
def test_what_is_too_short_is_no_key(on_s: float) -> None:
    assert heard(dialled(KEYS, on_s, 0.06)) == ""


@pytest.mark.parametrize("gap_s", [0.005, 0.01])
def test_a_drop_out_does_not_split_a_key(gap_s: float) -> None:
    for key in KEYS:
        sound = tone(key, 0.1)
        sound[400 : 400 + round(gap_s * RATE_HZ)] = 0
        assert heard(np.concatenate([silence(0.1), sound, silence(0.1)])) == key


@pytest.mark.parametrize("off", [(0.015, 0.015), (-0.015, 0.015), (0.015, -0.015), (-0.015, -0.015)], ids=str)
def test_keys_1_5_percent_out_of_tune_are_found(off: tuple[float, float]) -> None:
    assert heard(dialled(KEYS, off=off)) == KEYS


@pytest.mark.parametrize("off", [(0.035, 0), (-0.035, 0), (0, 0.035), (0, -0.035)], ids=str)
def test_keys_3_5_percent_out_of_tune_are_none(off: tuple[float, float]) -> None:
    assert heard(dialled(KEYS, off=off)) == ""


@pytest.mark.parametrize("twist_db", [-8.0, -4.0, 2.0, 4.0])
def test_either_tone_may_be_weaker(twist_db: float) -> None:
    assert heard(dialled(KEYS, twist_db=twist_db)) == KEYS


@pytest.mark.parametrize("level_dbm0", [-45.0, -29.0, -9.0, 0.0, 6.0])
def test_level_from_faint_to_clipped(level_dbm0: float) -> None:
    assert heard(dialled(KEYS, level_dbm0=level_dbm0)) == KEYS


def test_noise_12_db_under_each_tone_hides_nothing() -> None:
    sound = dialled(KEYS * 2, level_dbm0=-20)
    assert heard(sound + noise(sound, -32)) == KEYS * 2


@pytest.mark.parametrize("hz", [(400,), (425,), (350, 440), (350, 450)], ids=str)
def test_dial_tone_may_go_on_under_the_keys(hz: tuple[int, ...]) -> None:
    sound = dialled(KEYS, level_dbm0=-15)
    t = np.arange(len(sound)) / RATE_HZ
    dial = sum((10 ** ((-15 - FULL_SCALE_DBM0) / 20) * np.sin(2 * np.pi * each * t) for each in hz), np.zeros(len(t)))
    assert heard(sound + dial) == KEYS


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 2500), min_size=1, max_size=12))
def test_any_chunking_gives_the_same_keys(sizes: list[int]) -> None:
    sound = sampled(dialled("0120#9"))
    whole = DtmfReceiver().feed(sound)
    receiver, got, at, number = DtmfReceiver(), [], 0, 0
    while at < len(sound):
        size = sizes[number % len(sizes)]
        got += receiver.feed(sound[at : at + size])
        at, number = at + size, number + 1
    assert got == whole
    assert len(whole) == 6


def test_garbage_is_no_key_and_no_error() -> None:
    rng = np.random.default_rng(3)
    t = np.arange(8000)
    for sound in (
        rng.uniform(-1, 1, 8000),
        np.sign(np.sin(t / 3.0)),
        np.ones(8000),
        np.where(t % 400 == 0, 1.0, 0.0),
        rng.normal(0, 1e-9, 8000),
        rng.uniform(-1, 1, 8000).astype(np.float32) * 1e6,
    ):
        assert DtmfReceiver().feed(sound) == []


# The recordings of others, with the digits of the manifest.
RECORDED = {
    "tino_dial.wav": ("15702340003", "15702340003"),
    "tino_0-9-8Khz.wav": ("0123456789",),
    "tino_complete-sequence-8kHz-old1.wav": ("1234567890*#ABCD",),
    "tino_whiteNoise.wav": ("",),
    "tino_brownianNoise.wav": ("",),
    "tino_stereo.wav": ("12345", "67890"),
    "tino_testNoise.wav": ("1",),
    **{f"Dtmf{key}.au": (key,) for key in "02468AC"},
    "Dtmf_hash.au": ("#",),
    # The manifest's list has keys twice where multimon-ng splits a long one; the upstream test has each once.
    "bert2_long_dtmf_tones.mp3": ("123456789#0*1", "123456789#0*1"),
    "evgen_test_dtmf.wav": ("012345678901234567890",),
}


@cache
def decoded(path: Path, channel: int) -> Sound:
    """One channel at 8 kHz."""
    ran = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", path, "-af", f"pan=mono|c0=c{channel}", "-ar", "8000", "-f", "f32le", "-"],
        capture_output=True,
        check=True,
    )
    return np.frombuffer(ran.stdout, "<f4").astype(np.float64)


@pytest.mark.skipif(not (DATA / "dtmf").exists(), reason="the shared recordings are not here")
@pytest.mark.parametrize("name", RECORDED)
def test_recordings_of_others(name: str) -> None:
    for channel, keys in enumerate(RECORDED[name]):
        assert heard(decoded(DATA / "dtmf" / name, channel)) == keys


@pytest.mark.skipif(not (DATA / "music_on_hold").exists(), reason="the shared recordings are not here")
@pytest.mark.parametrize("folder", ["music_on_hold", "speech_ja", "speech_en", "speech_digits_8k"])
def test_speech_and_music_are_no_keys(folder: str) -> None:
    for path in sorted((DATA / folder).iterdir()):
        assert heard(decoded(path, 0)) == "", path.name


def keyed(keys: str) -> list[tuple[str, str | None, str | None]]:
    caller_id = DtmfCallerId()
    found = [caller_id.feed(Key(key, 800 * n, 800 * n + 500)) for n, key in enumerate(keys)]
    return [(each.message.presentation, each.message.number, each.message.redirecting) for each in found if each]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("A0300001234C", ("allowed", "0300001234", None)),
        ("A0300001234D0300005678C", ("allowed", "0300001234", "0300005678")),
        ("A0300001234D0300005678B10C", ("withheld", None, "0300005678")),
        ("B00C", ("unavailable", None, None)),
        ("B10C", ("withheld", None, None)),
        ("D0300005678B00C", ("unavailable", None, "0300005678")),
        ("A0300001234#", ("allowed", "0300001234", None)),
        ("D0300001234C", ("allowed", "0300001234", None)),
        ("D1#", ("withheld", None, None)),
        ("D2#", ("unavailable", None, None)),
        ("D3#", ("unavailable", None, None)),
    ],
)
def test_numbers_sent_as_keys(keys: str, message: tuple[str, str | None, str | None]) -> None:
    assert keyed(keys) == [message]


@pytest.mark.parametrize("keys", ["0300001234#", "*21#", "C", "AC", "A#", "D4#", "#", "CD", "A12*", "ADBC", "1A2B3"])
def test_what_somebody_dials_is_no_caller(keys: str) -> None:
    assert keyed(keys) == []


def test_a_message_has_its_frames_and_keys() -> None:
    caller_id = DtmfCallerId()
    (found,) = [f for n, key in enumerate("A12#") if (f := caller_id.feed(Key(key, 800 * n, 800 * n + 500)))]
    assert (found.from_frame, found.until_frame) == (0, 2900)
    assert (found.message.standard, found.message.checksum, found.message.octets) == ("dtmf", "absent", b"A12#")


def test_keys_far_apart_are_no_message() -> None:
    caller_id = DtmfCallerId()
    assert caller_id.feed(Key("D", 0, 500)) is None
    assert caller_id.feed(Key("1", 20_000, 20_500)) is None
    assert caller_id.feed(Key("#", 21_000, 21_500)) is None


def test_keys_without_end_are_forgotten() -> None:
    assert keyed("A" + "1" * 500 + "#") == []
