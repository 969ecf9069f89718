"""The soft modem's glue, and the process that it runs in."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.listener import Listener
from drivers.signals import AudioBlock, CallerIdReceived, DeviceLost, DeviceReady, KeyHeard, Signal, VoiceHeard
from drivers.softmodem.listener import RATE_HZ, Resampler, SoftModem
from tests.test_frames import mdmf
from tests.test_fsk import wave

Samples = np.ndarray[tuple[int], np.dtype[np.float64]]

_LOW_HZ, _HIGH_HZ = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
_KEYS = ("123A", "456B", "789C", "*0#D")


def keyed(keys: str, rate_hz: int = RATE_HZ, on_s: float = 0.1, off_s: float = 0.1) -> Samples:
    """Keys with silence before each and after the last, at any rate."""
    on = np.arange(round(on_s * rate_hz)) / rate_hz
    off = np.zeros(round(off_s * rate_hz))
    parts = [off]
    for key in keys:
        row = next(number for number, row in enumerate(_KEYS) if key in row)
        tones = (_LOW_HZ[row], _HIGH_HZ[_KEYS[row].index(key)])
        parts += [sum((0.2 * np.sin(2 * np.pi * hz * on) for hz in tones), np.zeros(len(on))), off]
    return np.concatenate(parts)


def pcm(samples: Samples) -> bytes:
    return np.rint(samples * 32767).astype("<i2").tobytes()


def blocks(samples: Samples, rate_hz: int, frames: int, from_ns: int = 0) -> Iterator[AudioBlock]:
    for first in range(0, len(samples), frames):
        at_ns = from_ns + first * 1_000_000_000 // rate_hz
        yield AudioBlock(at_ns=at_ns, pcm=pcm(samples[first : first + frames]))


def heard(modem: SoftModem, given_blocks: Iterator[AudioBlock]) -> list[Signal]:
    return [found for block in given_blocks for found in modem.feed(block)]


def keys_of(signals: list[Signal]) -> list[KeyHeard]:
    return [found for found in signals if isinstance(found, KeyHeard)]


# -- any rate to 8 kHz


@pytest.mark.parametrize("rate_hz", [8000, 11025, 12000, 16000, 19200, 22050, 32000, 44100, 48000])
def test_resampling_keeps_moment_level_and_band(rate_hz: int) -> None:
    at = np.arange(rate_hz) / rate_hz
    resampler = Resampler(rate_hz)
    got = resampler.feed(np.sin(2 * np.pi * 1000 * at).astype(np.float32))
    wanted = np.sin(2 * np.pi * 1000 * np.arange(len(got)) / RATE_HZ)
    assert 0 <= RATE_HZ - len(got) <= 20
    assert np.abs(got - wanted)[50:].max() < 0.002
    if rate_hz > 2 * 5000:
        above = Resampler(rate_hz).feed(np.sin(2 * np.pi * 5000 * at).astype(np.float32))
        assert np.abs(above)[50:].max() < 0.002


@pytest.mark.parametrize("rate_hz", [4001, 47999, 191_999])
def test_an_odd_rate_costs_little_memory(rate_hz: int) -> None:
    tracemalloc.start()
    resampler = Resampler(rate_hz)
    got = resampler.feed(np.sin(2 * np.pi * 1000 * np.arange(rate_hz // 2) / rate_hz).astype(np.float32))
    most_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most_bytes < 48_000_000
    assert np.abs(got - np.sin(2 * np.pi * 1000 * np.arange(len(got)) / RATE_HZ))[50:-50].max() < 0.004


def test_a_long_gap_costs_little_memory() -> None:
    modem = SoftModem(1, "jp", 192_000)
    modem.feed(AudioBlock(at_ns=0, pcm=bytes(1000)))
    tracemalloc.start()
    modem.feed(AudioBlock(at_ns=60_000_000_000, pcm=bytes(1000), lost_frames=60 * 192_000))
    most_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most_bytes < 60_000_000


@given(st.sampled_from([11025, 16000, 44100, 47999]), st.lists(st.integers(0, 3000), max_size=20))
@settings(max_examples=30, deadline=None)
def test_resampling_is_the_same_in_any_chunks(rate_hz: int, cuts: list[int]) -> None:
    sound = np.random.default_rng(1).standard_normal(sum(cuts) + 100).astype(np.float32)
    whole = Resampler(rate_hz).feed(sound)
    resampler = Resampler(rate_hz)
    parts, at = [], 0
    for cut in [*cuts, 100]:
        parts.append(resampler.feed(sound[at : at + cut]))
        at += cut
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


# -- times


@pytest.mark.parametrize("rate_hz", [8000, 16000, 32000, 44100])
def test_a_key_has_the_time_of_its_sound(rate_hz: int) -> None:
    sound = np.concatenate([np.zeros(3 * rate_hz), keyed("5", rate_hz), np.zeros(rate_hz)])
    (key,) = keys_of(heard(SoftModem(2, "jp", rate_hz), blocks(sound, rate_hz, rate_hz // 20, from_ns=10**15)))
    assert (key.line, key.key) == (2, "5")
    assert abs(key.at_ns - 10**15 - 3_100_000_000) < 8_000_000
    assert abs(key.until_ns - 10**15 - 3_200_000_000) < 8_000_000


def test_times_follow_a_codec_that_is_fast() -> None:
    """The blocks' own times are believed, not a count of frames."""
    modem = SoftModem(1, "jp", RATE_HZ)
    sound = np.concatenate([np.zeros(60 * RATE_HZ), keyed("5")])
    rate = 0.995
    given_blocks = (AudioBlock(at_ns=round(block.at_ns * rate), pcm=block.pcm) for block in blocks(sound, RATE_HZ, 480))
    (key,) = keys_of(heard(modem, given_blocks))
    assert abs(key.at_ns - rate * 60_100_000_000) < 8_000_000


@pytest.mark.parametrize("lost_s", [0.5, 100.0])
def test_lost_frames_are_silence_and_times_stay_true(lost_s: float) -> None:
    modem = SoftModem(1, "jp", RATE_HZ)
    sound = keyed("1")
    found = heard(modem, blocks(sound, RATE_HZ, 480))
    again_ns = round((len(sound) / RATE_HZ + lost_s) * 1e9)
    for number, block in enumerate(blocks(np.concatenate([keyed("2"), np.zeros(4000)]), RATE_HZ, 480, again_ns)):
        lost = round(lost_s * RATE_HZ) if number == 0 else 0
        found += modem.feed(AudioBlock(at_ns=block.at_ns, pcm=block.pcm, lost_frames=lost))
    one, two = keys_of(found)
    assert (one.key, two.key) == ("1", "2")
    assert abs(two.at_ns - again_ns - 100_000_000) < 8_000_000


def test_a_key_that_a_gap_cuts_ends_there() -> None:
    modem = SoftModem(1, "jp", RATE_HZ)
    on = keyed("7", on_s=0.3)[: round(0.3 * RATE_HZ)]
    found = heard(modem, blocks(on, RATE_HZ, 480))
    found += modem.feed(AudioBlock(at_ns=5_000_000_000, pcm=bytes(960), lost_frames=round(4.7 * RATE_HZ)))
    (key,) = keys_of(found)
    assert abs(key.until_ns - 300_000_000) < 20_000_000


def test_what_follows_long_quiet_is_heard_from_its_beginning() -> None:
    """A quiet line is not listened to; its times stay true all the same."""
    modem = SoftModem(1, "jp", RATE_HZ)
    quiet = np.random.default_rng(1).standard_normal(100 * RATE_HZ) * 0.0004
    found = heard(modem, blocks(np.concatenate([keyed("1"), quiet, keyed("2"), np.zeros(RATE_HZ)]), RATE_HZ, 480))
    one, two = keys_of(found)
    assert (one.key, two.key) == ("1", "2")
    assert abs(two.at_ns - 100_400_000_000) < 8_000_000
    began_s = time.process_time()
    heard(modem, blocks(quiet, RATE_HZ, 480))
    heard(modem, blocks(quiet, RATE_HZ, 480, 10**12))
    assert time.process_time() - began_s < 1.0


# -- frames


MAILBOX = [
    ("bell202", mdmf((0x0B, b"\xff"), kind=0x82)),
    ("v23", mdmf((0x11, b"\x81"), (0x13, b"\xff"))),
    ("v23", mdmf((0x0B, b"\xff"), kind=0x82)),
    ("bell202", bytes.fromhex("060342424231")),  # single data: the lamp on
]


@pytest.mark.parametrize(("tones", "octets"), MAILBOX)
def test_a_waiting_message_is_no_caller(tones: str, octets: bytes) -> None:
    found = heard(SoftModem(1, "uk", RATE_HZ), blocks(wave(octets, tones, seizure=96), RATE_HZ, 480))
    assert [each for each in found if isinstance(each, CallerIdReceived)] == []
    caller = mdmf((0x11, b"\x01"), (0x02, b"0300001234"), (0x13, b"\xff"))  # a caller, and messages wait too
    found = heard(SoftModem(1, "uk", RATE_HZ), blocks(wave(caller, tones, seizure=96), RATE_HZ, 480))
    assert [each.number for each in found if isinstance(each, CallerIdReceived)] == ["0300001234"]


# -- keys and voices


def speaking(seconds: float) -> Samples:
    """Harmonics of a gliding pitch in syllables."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * t)) / RATE_HZ
    made = sum((np.sin(n * phase + n * n) / n for n in range(1, 20)), np.zeros(len(t)))
    return np.asarray(0.1 * made * np.clip(np.sin(2 * np.pi * 3.1 * t) + 0.5, 0, 1), np.float64)


def voices(sound: Samples) -> list[float]:
    """Seconds."""
    found = heard(SoftModem(1, "jp", RATE_HZ), blocks(np.clip(sound, -1, 1), RATE_HZ, 480))
    return [voice.at_ns / 1e9 for voice in found if isinstance(voice, VoiceHeard)]


@pytest.mark.parametrize(
    ("on_s", "off_s"), [(0.05, 0.05), (0.07, 0.07), (0.1, 0.1), (0.2, 0.1), (0.3, 0.3), (1.0, 0.4)]
)
@pytest.mark.parametrize("heard_with", ["nothing", "noise", "dial tone", "clipping", "harmonics"])
def test_keys_are_no_voice(on_s: float, off_s: float, heard_with: str) -> None:
    sound = np.concatenate([np.zeros(RATE_HZ), keyed("0300001234", on_s=on_s, off_s=off_s), np.zeros(RATE_HZ)])
    match heard_with:
        case "noise":
            sound += np.random.default_rng(2).normal(0, 0.018, len(sound))
        case "dial tone":
            sound += 0.1 * np.sin(2 * np.pi * 400 * np.arange(len(sound)) / RATE_HZ)
        case "clipping":
            sound = np.clip(4 * sound, -0.6, 0.6)
        case "harmonics":
            sound += 2 * sound**2 + 3 * sound**3
    assert voices(sound) == []


def test_a_voice_behind_keys_is_told_where_it_begins_and_again_behind_the_next_keys() -> None:
    number = np.concatenate([np.zeros(2 * RATE_HZ), keyed("0300001234", on_s=0.07, off_s=0.07)])
    pin = keyed("1234", on_s=0.2, off_s=0.2)
    sound = np.concatenate([number, np.zeros(3 * RATE_HZ), speaking(3), pin, speaking(3), np.zeros(RATE_HZ)])
    greeting_s = len(number) / RATE_HZ + 3
    assert voices(sound) == pytest.approx([greeting_s, greeting_s + 3 + len(pin) / RATE_HZ], abs=0.3)
    spoken = int(greeting_s * RATE_HZ)
    assert len(voices(sound[: spoken + RATE_HZ])) == 1  # within a second


# -- the process


class _Posted:
    def __init__(self) -> None:
        self.signals: queue.SimpleQueue[Signal] = queue.SimpleQueue()

    def wait(self, kind: type[Signal]) -> Signal:
        while True:
            found = self.signals.get(timeout=20)
            if isinstance(found, kind):
                return found


@pytest.fixture
def posted() -> _Posted:
    return _Posted()


@pytest.fixture
def listener(posted: _Posted) -> Iterator[Listener]:
    listener = Listener({1: "jp", 2: "us"}, RATE_HZ, posted.signals.put, audio_delay_ms=20)
    listener.start()
    for _ in range(2):
        posted.wait(DeviceReady)
    yield listener
    listener.close()


def _key(listener: Listener, line: int, key: str, from_ns: int = 0) -> None:
    for block in blocks(np.concatenate([keyed(key), np.zeros(RATE_HZ // 2)]), RATE_HZ, 480, from_ns):
        listener.take(line, block)


def _child() -> int:
    """The one process that this one has as a listener."""
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    for task in Path("/proc/self/task").iterdir():
        children += (task / "children").read_text().split()
    return next(int(child) for child in children if b"drivers.listener" in Path(f"/proc/{child}/cmdline").read_bytes())


@pytest.mark.realtime
def test_each_line_is_heard_for_itself(posted: _Posted, listener: Listener) -> None:
    _key(listener, 1, "3", 10**12)
    _key(listener, 2, "8", 10**12)
    found = {}
    for _ in range(2):
        key = posted.wait(KeyHeard)
        assert isinstance(key, KeyHeard)
        found[key.line] = key
    assert (found[1].key, found[2].key) == ("3", "8")
    assert abs(found[1].at_ns - 10**12 - 80_000_000) < 8_000_000  # the delay of the sound is taken off


@pytest.mark.realtime
def test_a_killed_listener_is_healed(posted: _Posted, listener: Listener) -> None:
    os.kill(_child(), signal.SIGKILL)
    lost = posted.wait(DeviceLost)
    assert isinstance(lost, DeviceLost)
    assert "SIGKILL" in lost.reason and lost.device == "listener"
    began_s = time.monotonic()
    for number in range(200):
        listener.take(1, AudioBlock(at_ns=number, pcm=bytes(960)))
    assert time.monotonic() - began_s < 0.2
    posted.wait(DeviceReady)
    _key(listener, 1, "9")
    key = posted.wait(KeyHeard)
    assert isinstance(key, KeyHeard) and key.key == "9"


@pytest.mark.realtime
def test_a_late_listener_loses_blocks_and_nobody_waits(posted: _Posted, listener: Listener) -> None:
    child = _child()
    os.kill(child, signal.SIGSTOP)
    longest_s = 0.0
    for number in range(1000):
        began_s = time.monotonic()
        listener.take(1, AudioBlock(at_ns=number * 60_000_000, pcm=bytes(960)))
        longest_s = max(longest_s, time.monotonic() - began_s)
    os.kill(child, signal.SIGCONT)
    assert longest_s < 0.1
    time.sleep(0.5)
    _key(listener, 1, "4", 60_000_000_000)
    key = posted.wait(KeyHeard)
    assert isinstance(key, KeyHeard) and key.key == "4"
    assert abs(key.at_ns - 60_080_000_000) < 10_000_000  # the lost blocks are accounted for


@pytest.mark.realtime
def test_a_listener_that_hangs_is_started_again(posted: _Posted, listener: Listener) -> None:
    os.kill(_child(), signal.SIGSTOP)
    began_s = time.monotonic()
    _key(listener, 1, "6", 10**12)
    lost = posted.wait(DeviceLost)
    assert isinstance(lost, DeviceLost) and "hung" in lost.reason
    assert time.monotonic() - began_s < 6
    posted.wait(DeviceReady)
    _key(listener, 1, "7", 11**12)
    key = posted.wait(KeyHeard)
    assert isinstance(key, KeyHeard) and key.key == "7"


@pytest.mark.realtime
def test_what_a_starved_listener_takes_too_late_is_lost(
    posted: _Posted, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    child = _child()
    os.kill(child, signal.SIGSTOP)
    _key(listener, 1, "5", 10**12)
    time.sleep(2.5)
    os.kill(child, signal.SIGCONT)
    _key(listener, 1, "4", 10**12 + 800_000_000)
    key = posted.wait(KeyHeard)
    assert isinstance(key, KeyHeard) and key.key == "4"
    assert abs(key.at_ns - 10**12 - 880_000_000) < 10_000_000  # the lost blocks are accounted for
    assert any("listener=late" in record.message for record in caplog.records)


@pytest.mark.realtime
def test_a_quiet_listener_does_not_hang(posted: _Posted, listener: Listener) -> None:
    time.sleep(5)
    assert posted.signals.empty()


@pytest.mark.realtime
def test_it_ends_with_its_parent() -> None:
    ready, told = os.pipe()
    parent = os.fork()
    if parent == 0:
        given: queue.SimpleQueue[Signal] = queue.SimpleQueue()
        Listener({1: "jp"}, RATE_HZ, given.put).start()
        while not isinstance(given.get(), DeviceReady):
            pass
        os.write(told, str(_child()).encode())
        time.sleep(60)
        os._exit(0)
    os.close(told)
    child = int(os.read(ready, 20))
    os.close(ready)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    until_s = time.monotonic() + 10
    while _runs(child) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.realtime
def test_closed_it_leaves_nothing(posted: _Posted, listener: Listener) -> None:
    child = _child()
    listener.close()
    assert not _runs(child)
    listener.take(1, AudioBlock(at_ns=0, pcm=bytes(960)))
