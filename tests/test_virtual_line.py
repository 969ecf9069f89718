"""The virtual line: what the unit's pins, modem and codec see of an exchange and a telephone."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from drivers.virtual.line import ButtonPress, Change, Fault, ModemBytesDue, Pin, PinChange, VirtualLine
from drivers.virtual.scenario import load, parse

SCENARIOS = Path(__file__).parent / "scenarios"
MS = 1_000_000
SECOND = 1_000_000_000
# One second of rms 1.0 of full scale is a square wave; a sine that just fits is +3.14 dBm0.
FULL_SCALE_DBM0 = 3.14 + 3.01


def a_line(text: str, seed: int = 1, rate_hz: int = 8000) -> VirtualLine:
    return VirtualLine(parse(f"title x\n{text}", SCENARIOS / "x.txt"), seed, rate_hz)


def edges(line: VirtualLine, name: Pin) -> list[tuple[int, bool]]:
    return [(c.at_ns, c.active) for c in line.changes() if isinstance(c, PinChange) and c.name == name]


def stretches(line: VirtualLine, name: Pin, active: bool) -> list[tuple[int, int]]:
    """The stretches that a pin spends in a state and that have an end."""
    return [(at, after) for (at, now), (after, _) in itertools.pairwise(edges(line, name)) if now is active]


def bursts(line: VirtualLine) -> list[tuple[float, float]]:
    """Ring bursts in seconds: first and last edge of the ring comparator."""
    found: list[list[float]] = []
    for at_ns, _ in edges(line, "ring"):
        at_s = at_ns / SECOND
        if not found or at_s - found[-1][1] > 0.2:
            found.append([at_s, at_s])
        found[-1][1] = at_s
    return [(first, last) for first, last in found]


def dues(line: VirtualLine) -> list[ModemBytesDue]:
    return [c for c in line.changes() if isinstance(c, ModemBytesDue)]


def sound(line: VirtualLine, from_s: float, until_s: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    first, end = round(from_s * line.rate_hz), round(until_s * line.rate_hz)
    return np.frombuffer(line.pcm(first, end - first), "<i2") / 32768


def level_dbm0(line: VirtualLine, from_s: float, until_s: float) -> float:
    power = np.square(sound(line, from_s, until_s)).mean()
    return 10 * float(np.log10(power)) + FULL_SCALE_DBM0


def tones_hz(line: VirtualLine, from_s: float, until_s: float, count: int) -> list[int]:
    """The strongest frequencies, to 10 Hz."""
    heard = sound(line, from_s, until_s)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)), line.rate_hz))
    found: list[int] = []
    while len(found) < count:
        hertz = int(spectrum.argmax())
        found.append(round(hertz, -1))
        spectrum[max(0, hertz - 40) : hertz + 40] = 0
    return sorted(found)


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.txt")), ids=lambda path: path.stem)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_changes_of_every_scenario(path: Path, seed: int) -> None:
    """In order of time, each a change, within the scenario, and the same every time."""
    line = VirtualLine(load(path), seed)
    changes = list(line.changes())
    assert changes == list(VirtualLine(load(path), seed).changes())
    times = [change.at_ns for change in changes]
    assert times == sorted(times)
    assert not times or (times[0] >= 0 and times[-1] <= line.scenario.end_ns)
    pins = dict(line.initial())
    for change in changes:
        if isinstance(change, PinChange):
            assert pins[change.name] is not change.active
            pins[change.name] = change.active


# Ringing


@pytest.mark.parametrize(("country", "cycle_ms", "low_ms", "high_ms"), [("jp", 62.5, 24, 28), ("us", 50.0, 19.2, 22.4)])
def test_the_loop_chatters_while_it_rings(country: str, cycle_ms: float, low_ms: float, high_ms: float) -> None:
    line = a_line(f"country {country}\n2 call no-id\n12 give up")
    closed = stretches(line, "loop", True)
    whole = [stretch for stretch in closed if stretch[1] - stretch[0] > 10 * MS]
    assert len(whole) >= 45
    # The first and the last of a burst may be cut short.
    lengths_ms = sorted((until - since) / MS for since, until in whole)[8:]
    assert low_ms <= lengths_ms[0] <= lengths_ms[-1] <= high_ms
    cycles = [(b[0] - a[0]) / MS for a, b in itertools.pairwise(whole) if b[0] - a[0] < 100 * MS]
    assert abs(float(np.median(cycles)) - cycle_ms) < 0.2


def test_the_ring_comparator_pulses_once_a_cycle() -> None:
    line = a_line("2 call no-id\n4 give up")
    assert 15 <= sum(active for _, active in edges(line, "ring")) <= 17
    assert edges(line, "ring")[-1][1] is False


@pytest.mark.parametrize(("country", "on_s", "off_s"), [("jp", 1, 2), ("us", 2, 4)])
def test_cadence(country: str, on_s: int, off_s: int) -> None:
    line = a_line(f"country {country}\n2 call no-id\n31.5 give up")
    heard = bursts(line)
    assert len(heard) == (10 if country == "jp" else 5)
    for number, (first, last) in enumerate(heard):
        begins = 2 + number * (on_s + off_s)
        assert begins <= first < begins + 0.07
        if number < len(heard) - 1:
            assert begins + on_s - 0.07 < last <= begins + on_s
    rings = [due.at_ns for due in dues(line) if due.kind == "ring"]
    assert rings == [(2 + number * (on_s + off_s) + on_s) * SECOND + 100 * MS for number in range(len(rings))]
    assert len(rings) >= len(heard) - 1


def test_ringing_ends_at_once_when_the_caller_gives_up() -> None:
    line = a_line("2 call no-id\n5.5 give up")
    assert bursts(line)[-1][1] <= 5.5
    assert edges(line, "loop")[-1][1] is False
    assert edges(line, "loop")[-1][0] <= 5.5 * SECOND


@pytest.mark.parametrize("seed", range(12))
def test_ring_trip(seed: int) -> None:
    """The exchange rings on for a moment after the lift; the loop stays closed, the ring comparator is quiet."""
    line = a_line("2 call no-id\n2.5 lift\n8 hang up", seed)
    settled = [since for since, until in stretches(line, "loop", True) if until - since > SECOND]
    assert len(settled) == 1
    # Before the lift where the ringing swung low already, after the bounce where the rest of it swings high.
    assert 2.5 * SECOND - 28 * MS < settled[0] <= 2.5 * SECOND + 22 * MS
    assert max(at for at, _ in edges(line, "ring")) <= 2.5 * SECOND + 30 * MS
    assert level_dbm0(line, 2.51, 2.55) > -10  # the ringing is heard
    assert level_dbm0(line, 2.75, 3.5) < -55


# Hook


@pytest.mark.parametrize("seed", range(20))
def test_bounce_is_bounded(seed: int) -> None:
    line = a_line("2 lift\n5 hang up", seed)
    found = edges(line, "loop")
    for begins_ns, level in ((2 * SECOND, True), (5 * SECOND, False)):
        bounce = [edge for edge in found if begins_ns <= edge[0] < begins_ns + SECOND]
        assert bounce[0] == (begins_ns, level)
        assert bounce[-1][1] is level
        assert bounce[-1][0] <= begins_ns + 8 * MS
        assert len(bounce) <= 7
    assert not edges(line, "line_present")


def test_some_lifts_bounce() -> None:
    assert len({len(edges(a_line("2 lift\n5 hang up", seed), "loop")) for seed in range(20)}) > 2


def test_flash() -> None:
    line = a_line("2 lift\n5 flash 0.6\n9 hang up")
    breaks = [(a, b) for a, b in stretches(line, "loop", False) if b - a > 20 * MS]
    assert len(breaks) == 1
    assert 5 * SECOND <= breaks[0][0] <= 5 * SECOND + 8 * MS
    assert 5.6 * SECOND <= breaks[0][1] <= 5.6 * SECOND + 8 * MS


def test_handset_up_at_the_start() -> None:
    line = a_line("0 already off-hook\n5 hang up")
    assert line.initial() == {"loop": True, "ring": False, "line_present": True, "polarity": False}
    assert edges(line, "loop")[0] == (5 * SECOND, False)
    assert level_dbm0(line, 1, 2) < -55  # a call goes on: no dial tone


# Number Display


@pytest.mark.parametrize("seed", range(6))
def test_number_display_in_order(seed: int) -> None:
    line = a_line("number display\n2 call from 03-0000-1234\n12 lift\n20 hang up", seed)
    polarity = edges(line, "polarity")
    assert [active for _, active in polarity] == [True, False]
    assert abs(polarity[0][0] - 2 * SECOND) <= 10 * MS

    short = [burst for burst in bursts(line) if burst[1] < 5]
    assert [round(first, 1) for first, _ in short] == [2.8, 3.8]
    assert all(0.4 < last - first <= 0.5 for first, last in short)

    phantom = [(a, b) for a, b in stretches(line, "loop", True) if b - a > 100 * MS and b < 8 * SECOND]
    assert len(phantom) == 1
    closed_ns, opened_ns = phantom[0]
    assert closed_ns < (2.8 + 6) * SECOND
    assert SECOND <= opened_ns - closed_ns <= 3 * SECOND

    block = next(due for due in dues(line) if due.kind == "caller_id")
    assert (block.number, block.presentation, block.date_raw) == ("0300001234", "allowed", "11240900")
    assert closed_ns + 1.4 * SECOND <= block.at_ns <= opened_ns  # a second, then the frame
    assert opened_ns < polarity[1][0] < opened_ns + 200 * MS

    ordinary = [first for first, _ in bursts(line) if first > 5]
    assert abs(ordinary[0] - opened_ns / SECOND - 1.5) < 0.08
    assert min(due.at_ns for due in dues(line) if due.kind == "ring") > ordinary[0] * SECOND
    assert stretches(line, "loop", True)[-1][0] >= 12 * SECOND - 30 * MS


def test_nobody_answers_the_start_signal() -> None:
    line = a_line("number display\n2 call no-id\n16 give up")
    heard = bursts(line)
    assert [round(first, 1) for first, last in heard if last - first < 0.6] == [2.8, 3.8, 4.8, 5.8, 6.8, 7.8]
    assert [round(first) for first, last in heard if last - first > 0.8] == [10, 13]
    assert not [due for due in dues(line) if due.kind == "caller_id"]
    assert all(until - since < 50 * MS for since, until in stretches(line, "loop", True))


def test_lift_during_the_start_signal() -> None:
    """The frame comes all the same; 7 s later the exchange takes it for an answer and connects the two."""
    line = a_line("number display\n2 call from 03-0000-1234\n3.5 lift\n3.6 caller says greeting\n20 hang up")
    assert not [first for first, last in bursts(line) if first > 3.6]
    assert [due.kind for due in dues(line)] == ["caller_id"]
    assert [active for _, active in edges(line, "polarity")] == [True, False]
    assert edges(line, "polarity")[1][0] > 10.5 * SECOND
    assert level_dbm0(line, 5.5, 8) < -55


def test_lift_while_the_phone_answers_the_start_signal() -> None:
    line = a_line("number display\n2 call from 03-0000-1234\n5 lift\n20 hang up")
    long = [(a, b) for a, b in stretches(line, "loop", True) if b - a > 100 * MS]
    assert len(long) == 1  # one closing, from the phone's own answer to the hang up
    assert long[0][0] < 5 * SECOND
    assert long[0][1] >= 20 * SECOND
    assert not [first for first, _ in bursts(line) if first > 5]


def test_a_short_lift_during_the_start_signal_is_receive_complete() -> None:
    line = a_line("number display\n2 call from 03-0000-1234\n3.4 lift\n4 hang up\nend 15")
    assert [round(first - 4, 1) for first, _ in bursts(line) if first > 4] == [1.5, 4.5, 7.5, 10.5]
    assert not [due for due in dues(line) if due.kind == "caller_id"]  # no time for the frame


@pytest.mark.parametrize("at", ["2.5", "3.2", "5", "6.5", "8"])
def test_caller_gives_up_anywhere(at: str) -> None:
    """The line comes back to rest, and the next call is a whole one."""
    text = f"number display\n2 call from 03-0000-1234\n{at} give up\n"
    line = a_line(text + "20 call from 03-0000-5678\n30 lift\n40 hang up")
    numbers = [due.number for due in dues(line) if due.kind == "caller_id"]
    assert numbers[-1] == "0300005678"
    resting = [change for change in line.changes() if 15 * SECOND < change.at_ns < 20 * SECOND]
    assert resting == []
    pins = dict(line.initial())
    for change in line.changes():
        if isinstance(change, PinChange) and change.at_ns < 20 * SECOND:
            pins[change.name] = change.active
    assert pins == line.initial()


# Modem and devices


def test_caller_id_in_the_united_states_comes_after_the_first_ring() -> None:
    line = a_line('country us\n2 call from 212-555-0123 name "MAPLE"\n12 give up')
    assert [(due.kind, due.number, due.name) for due in dues(line)] == [
        ("ring", None, None),
        ("caller_id", "2125550123", "MAPLE"),
        ("ring", None, None),
    ]
    first, block, second = (due.at_ns for due in dues(line))
    assert first < block < second - 2 * SECOND


def test_no_block_when_the_first_ring_is_lifted() -> None:
    line = a_line("country us\n2 call from 212-555-0123\n3 lift\n9 hang up")
    assert [due.kind for due in dues(line)] == ["ring"]


@pytest.mark.parametrize("head", ["modem none\n", "1 unplug modem\n", "1 cut line\n"])
def test_a_modem_that_is_not_there_says_nothing(head: str) -> None:
    assert dues(a_line(f"number display\n{head}2 call from 03-0000-1234\n12 give up")) == []


def test_devices() -> None:
    line = a_line(
        '1 press button\n2 unplug codec\n3 plug codec\n4 modem sends "X\\r\\n"\n5 power cut\n6 lose audio 0.5'
    )
    assert list[Change](line.changes()) == [
        ButtonPress(at_ns=1 * SECOND),
        Fault(at_ns=2 * SECOND, device="codec", action="unplug"),
        Fault(at_ns=3 * SECOND, device="codec", action="plug"),
        ModemBytesDue(at_ns=4 * SECOND, kind="raw", raw=b"X\r\n"),
        Fault(at_ns=5 * SECOND, device="power", action="cut"),
    ]
    assert line.lost() == [(48000, 4000)]


def test_line_cut() -> None:
    """No voltage: the line is not present, and its loop comparator reads closed."""
    line = a_line("2 call no-id\n4 lift\n5 cut line\n7 hang up\n9 restore line")
    assert edges(line, "line_present")[-2:] == [(5 * SECOND, False), (9 * SECOND, True)]
    assert edges(line, "loop")[-1] == (9 * SECOND, False)
    assert not [edge for edge in edges(line, "loop") if 4.01 * SECOND < edge[0] < 9 * SECOND]
    assert not edges(line, "polarity")


def test_outgoing_polarity() -> None:
    call = "2 lift\n3 dial 03-0000-5678\n10 far answers{}\n15 far hangs up\n20 hang up"
    told = edges(a_line(call.format("")), "polarity")
    assert [(round(at / SECOND), active) for at, active in told] == [(10, True), (15, False)]
    assert edges(a_line(call.format(" without reversal")), "polarity") == []
    assert edges(a_line("country us\n" + call.format("")), "polarity") == []


# Sound


def test_pcm_is_the_same_in_any_order() -> None:
    text = (SCENARIOS / "answered-number-display.txt").read_text().partition("\n")[2]
    frames = 30 * 8000
    whole = a_line(text).pcm(0, frames)
    assert len(whole) == 2 * frames
    blocks = a_line(text)
    assert b"".join(blocks.pcm(first, 800) for first in range(0, frames, 800)) == whole
    dice = random.Random(1)
    for _ in range(60):
        first = dice.randrange(frames - 20000)
        count = dice.randrange(20000)
        assert blocks.pcm(first, count) == whole[2 * first : 2 * (first + count)]
    assert a_line(text, seed=2).pcm(0, 8000) != whole[:16000]
    assert blocks.pcm(5, 0) == b""


def test_levels() -> None:
    line = a_line(
        "2 lift\n+1 dial 5\n+3 far answers without reversal\n+1 shop says greeting\n+6 far says greeting\n"
        "+7 far hangs up\n+5 hang up"
    )
    assert -60 < level_dbm0(line, 0.5, 1.5) < -56  # noise and hum
    assert level_dbm0(line, 2.4, 2.9) == pytest.approx(-15, abs=0.5)  # dial tone
    assert level_dbm0(line, 3.02, 3.08) == pytest.approx(-9, abs=0.5)  # a key
    # Speech, pauses counted: a little under its active level.
    assert -19 < level_dbm0(line, 7.1, 11.5) < -14
    assert -25 < level_dbm0(line, 13.1, 17.5) < -20
    assert np.abs(sound(line, 7.1, 11.5)).max() < 0.9  # the voice itself does not clip


def test_tones() -> None:
    line = a_line("2 lift\n3 dial 57\n15 far answers\n20 far hangs up\n26 hang up")
    assert tones_hz(line, 2.4, 2.9, 1) == [400]
    assert tones_hz(line, 3.02, 3.09, 2) == [770, 1340]
    assert tones_hz(line, 3.22, 3.29, 2) == [850, 1210]
    on = [level_dbm0(line, 5.4 + at, 5.5 + at) > -30 for at in np.arange(0, 6, 0.1)]
    assert on == ([True] * 10 + [False] * 20) * 2  # ringback 1/2
    assert tones_hz(line, 5.4, 6.4, 1) == [400]
    busy = [level_dbm0(line, 20.5 + at, 20.6 + at) > -30 for at in np.arange(0, 4, 0.1)]
    assert busy == ([True] * 5 + [False] * 5) * 4
    assert level_dbm0(line, 26.1, 27) < -55
    us = a_line("country us\n2 lift\n3 dial 5\n15 hang up")
    assert tones_hz(us, 2.4, 2.9, 2) == [350, 440]


def test_voices_need_a_path() -> None:
    """Nobody is heard before the connection, on a cut line, or with the handset down."""
    line = a_line("1 shop says greeting\n1 caller says greeting\n6 call no-id\n8.5 far says order\n20 give up")
    assert level_dbm0(line, 1, 5.9) < -55
    assert level_dbm0(line, 8.5, 8.95) < -55
    line = a_line(
        "2 lift\n3 dial 5\n4 far answers without reversal\n5 cut line\n5.5 far says order\n5.5 shop says order"
    )
    assert level_dbm0(line, 5.5, 9) < -55


def test_ringing_clips_and_hooks_click() -> None:
    line = a_line("2 call no-id\n6.5 lift\n12 hang up")
    ringing = sound(line, 2.2, 2.8)
    assert np.mean(np.abs(ringing) > 0.99) > 0.8
    crossings = np.count_nonzero(np.diff(np.signbit(ringing)))
    assert 18 <= crossings <= 20  # 16 Hz
    for at in (6.5, 12.0):
        assert np.abs(sound(line, at, at + 0.004)).max() > 0.99
    assert level_dbm0(line, 6.56, 7) < -55


def test_sound_files_of_any_rate(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    time_s = np.arange(2 * 44100) / 44100
    tone = 0.01 * np.sin(2 * np.pi * 1000 * time_s)
    soundfile.write(str(tmp_path / "tone.wav"), np.stack((tone, tone), axis=1), 44100)
    text = "title x\n1 lift\n2 dial 5\n3 far answers without reversal\n4 far says tone.wav\n9 hang up"
    for rate_hz in (8000, 16000):
        line = VirtualLine(parse(text, tmp_path / "x.txt"), rate_hz=rate_hz)
        assert tones_hz(line, 4.2, 5.8, 1) == [1000]
        assert level_dbm0(line, 4.2, 5.8) == pytest.approx(-21, abs=0.2)
        assert level_dbm0(line, 6.1, 7) < -55


def test_a_long_day_takes_little_memory() -> None:
    """An hour with a call every minute: nothing but the events themselves is held."""
    steps = "".join(
        f"{at} call from 03-0000-1234\n+8 lift\n+1 shop says greeting\n+9 hang up\n" for at in range(10, 3600, 60)
    )
    tracemalloc.start()
    line = a_line("number display\n" + steps)
    count = sum(1 for _ in line.changes())
    for second in range(0, 3600, 120):
        line.pcm(second * 8000, 8000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count > 60 * 100
    assert peak < 10_000_000


# The wire's voltage, and the states at the start


@pytest.mark.parametrize("idle_v", [24, 48])
def test_volts_and_comparators(idle_v: int) -> None:
    line = a_line(f"idle {idle_v} V\n2 lift\n5 lift second phone\n8 hang up second phone\n9 cut line\nend 12")
    assert [line.volts(round(at * SECOND)) for at in (1, 3, 6, 8.5, 10)] == [idle_v, 8, 6, 8, 0]
    assert edges(line, "loop")[-1][1] is True
    ringing = a_line(f"idle {idle_v} V\n2 call no-id\n12 give up")
    swing = [ringing.volts(2 * SECOND + at * MS) for at in range(1000)]
    assert max(swing) == pytest.approx(idle_v + 106, abs=1)
    assert min(swing) == pytest.approx(idle_v - 106, abs=1)
    assert all(until - since < 50 * MS for since, until in stretches(ringing, "loop", True))


def test_volts_turn_with_the_polarity() -> None:
    text = "number display\n2 call from 03-0000-1234\n20 give up"
    assert [round(a_line(text).volts(at * SECOND)) for at in (1, 2, 3)][:2] == [48, 48]
    assert a_line(text).volts(2_500 * MS) == -48
    swapped = a_line("wires swapped\n" + text)
    assert swapped.initial()["polarity"] is True
    assert [swapped.volts(at) for at in (1 * SECOND, 2_500 * MS)] == [-48, 48]
    assert [active for _, active in edges(swapped, "polarity")] == [False, True]


def test_states_at_the_start() -> None:
    cut = a_line("0 already cut\n5 restore line")
    assert cut.initial() == {"loop": True, "ring": False, "line_present": False, "polarity": False}
    assert edges(cut, "line_present") == [(5 * SECOND, True)]
    ringing = a_line("0 already ringing\n5 give up")
    assert [round(first) for first, _ in bursts(ringing)] == [0, 3]
    handshake = a_line("number display\n0 already in handshake 03-0000-1234\n9 give up")
    assert handshake.initial() == {"loop": True, "ring": False, "line_present": True, "polarity": True}
    assert [due.number for due in dues(handshake) if due.kind == "caller_id"] == ["0300001234"]
    assert edges(handshake, "loop")[0][0] == pytest.approx(1.56 * SECOND, abs=20 * MS)


# Dialling, and several phones


@pytest.mark.parametrize(("speed", "break_ms", "make_ms", "pause_ms"), [(10, 67, 33, 600), (20, 33, 17, 450)])
def test_pulses(speed: int, break_ms: int, make_ms: int, pause_ms: int) -> None:
    line = a_line(f"2 lift\n4 pulse 30 at {speed}\n15 hang up")
    broken = [stretch for stretch in stretches(line, "loop", False) if 3.9 * SECOND < stretch[0] < 14 * SECOND]
    assert [until - since for since, until in broken] == [break_ms * MS] * 13
    gaps = [(after[0] - before[1]) // MS for before, after in itertools.pairwise(broken)]
    assert [gap for gap in gaps if gap != make_ms] == [gaps[2]]
    assert gaps[2] >= pause_ms
    assert tones_hz(line, broken[-1][1] / SECOND + 2.1, broken[-1][1] / SECOND + 2.9, 1) == [400]


def test_a_second_phone_keeps_the_loop_closed() -> None:
    line = a_line("2 lift\n5 lift second phone\n8 hang up\n12 hang up second phone")
    assert not [edge for edge in edges(line, "loop") if 2.1 * SECOND < edge[0] < 12 * SECOND]
    line = a_line("2 call no-id\n4 lift second phone\n5 lift\n7 flash 0.6\n9 hang up\n12 hang up second phone")
    assert not [edge for edge in edges(line, "loop") if 4.1 * SECOND < edge[0] < 12 * SECOND]


def test_a_handset_left_up() -> None:
    """Dial tone, busy tone, howler, and then nothing more."""
    line = a_line("2 lift\nend 160")
    assert [round(level_dbm0(line, at, at + 0.4)) for at in (10, 22.05, 81.05)] == [-15, -15, -15]
    assert level_dbm0(line, 22.55, 22.95) < -55
    assert level_dbm0(line, 90, 91) > -8
    assert level_dbm0(line, 145, 146) < -55


# Caller ID on the wire


def test_frames_and_their_level() -> None:
    line = a_line("number display\n0 primary answer 2\n2 call from 03-0000-1234\n14 give up")
    ((begins_ns, ends_ns),) = line.frames()
    assert begins_ns == 5_800 * MS
    assert level_dbm0(line, begins_ns / SECOND + 0.01, ends_ns / SECOND - 0.01) == pytest.approx(-15, abs=0.3)
    assert level_dbm0(line, begins_ns / SECOND - 0.2, begins_ns / SECOND) < -55


@pytest.mark.parametrize(
    ("text", "after_s"),
    [
        ("2 call from 03-0000-1234\n4.7 lift\n4.8 hang up", 0),
        ("2 call from 03-0000-1234\n5.7 give up", 0.3),
    ],
)
def test_a_frame_ends_when_the_handshake_does(text: str, after_s: float) -> None:
    line = a_line(f"number display\n0 primary answer 1.7\n{text}\nend 20")
    assert all(ends_ns - begins_ns < 0.36 * SECOND for begins_ns, ends_ns in line.frames())
    if after_s:
        ((_, ends_ns),) = line.frames()
        assert ends_ns == 5_700 * MS


def test_a_lift_cuts_the_frame_off() -> None:
    line = a_line("country us\n2 call from 212-555-0123\n4.8 lift\n20 hang up")
    assert [ends_ns for _, ends_ns in line.frames()] == [4_800 * MS]
    assert [due.kind for due in dues(line)] == ["ring"]


def test_noise_is_as_loud_as_said() -> None:
    line = a_line("country us\n2 call from 212-555-0123 noisy -10\n14 give up")
    ((begins_ns, ends_ns),) = line.frames()
    assert level_dbm0(line, begins_ns / SECOND, ends_ns / SECOND) == pytest.approx(-5 + 0.4, abs=0.5)
    assert not [due for due in dues(line) if due.kind == "caller_id"]


def test_a_modem_hides_a_damaged_frame() -> None:
    line = a_line("number display\n2 call from 03-0000-1234 damaged\n14 give up")
    assert [due.presentation for due in dues(line) if due.kind == "caller_id"] == ["corrupt"]


def test_call_waiting_mutes_the_voices() -> None:
    talk = "2 call from 03-0000-1234\n9 lift\n"
    for head, caller, muted_s in (("number display", "call waiting from 090-0000-5678", 12.2),):
        line = a_line(f"{head}\n{talk}11 {caller}\n+0 far says order\n20 hang up")
        frame = line.frames()[-1]
        assert tones_hz(line, muted_s + 0.02, muted_s + 0.07, 2) == [850, 1630]
        assert level_dbm0(line, muted_s + 0.23, muted_s + 0.41) < -50
        assert frame[0] == pytest.approx((muted_s + 0.42) * SECOND, abs=1)
        assert [due.number for due in dues(line) if due.kind == "caller_id"] == ["0300001234", "09000005678"]


def test_call_waiting_elsewhere_is_alerted_and_acknowledged() -> None:
    line = a_line("country us\n2 call from 212-555-0123\n9 lift\n11 call waiting from 212-555-0145\n20 hang up")
    assert tones_hz(line, 12.01, 12.07, 2) == [2130, 2750]
    assert tones_hz(line, 12.165, 12.215, 2) == [940, 1630]
    assert line.frames()[-1][0] == 12_320 * MS


# Other countries


@pytest.mark.parametrize(
    ("country", "on_s", "begins_s"), [("uk", [0, 0.6, 3, 3.6, 6], 3.4), ("etsi", [0, 5, 10], 2.0), ("us", [0, 6], 2.0)]
)
def test_cadences_of_countries(country: str, on_s: list[float], begins_s: float) -> None:
    line = a_line(f"country {country}\n2 call withheld\n13 give up")
    heard = [first for first, _ in bursts(line)]
    assert heard[0] == pytest.approx(begins_s, abs=0.2)
    begins = [first - heard[0] for first in heard][: len(on_s)]
    assert begins == pytest.approx(on_s, abs=0.07)


def test_british_caller_id_comes_before_the_first_ring() -> None:
    line = a_line("country uk\n2 call from 020-7946-0123\n9 give up")
    ((begins_ns, ends_ns),) = line.frames()
    assert edges(line, "polarity")[0] == (2_005 * MS, True)
    assert tones_hz(line, 2.16, 2.24, 2) == [2130, 2750]
    assert begins_ns == 2_450 * MS
    assert bursts(line)[0][0] > ends_ns / SECOND + 0.3
    assert [due.kind for due in dues(line)][:2] == ["caller_id", "ring"]


def test_a_distinctive_ring_is_told_by_the_modem() -> None:
    line = a_line("country us\n2 call from 212-555-0123 distinctive\n11 give up")
    assert [round(last - first, 1) for first, last in bursts(line)][:2] == pytest.approx([0.8, 0.8], abs=0.11)
    assert [due.pattern for due in dues(line) if due.kind == "ring"] == ["B", "B"]


def test_busy_and_fax_tones() -> None:
    line = a_line("country uk\n2 lift\n3 dial 5\n6 far is busy\n12 hang up")
    busy = [level_dbm0(line, 6.5 + at, 6.6 + at) > -30 for at in (0.05, 0.2, 0.45, 0.6, 0.8, 0.95, 1.2)]
    assert busy == [True, True, False, False, True, True, False]
    line = a_line("2 lift\n3 dial 5\n6 far answers\n7 far is a fax\n12 shop calls as a fax\n20 hang up")
    assert tones_hz(line, 7.1, 9.9, 1) == [2100]
    assert level_dbm0(line, 10.1, 11.9) < -55
    assert tones_hz(line, 15.52, 15.98, 1) == [1100]
    assert level_dbm0(line, 16.1, 18.9) < -55
