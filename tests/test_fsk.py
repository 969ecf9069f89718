"""Frames on the line: sound in, messages out. Numbers are fictitious, but for those of real recordings."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.softmodem.fsk import Frame, FskReceiver
from tests.test_frames import DATA, japanese, mdmf, sdmf

Sound = npt.NDArray[np.float64]
FULL_SCALE_DBM0 = 3.14
TONES_HZ = {"bell202": (1200, 2200), "v23": (1300, 2100), "jp": (1300, 2100)}
NUMBER = "2025550123"
MESSAGES = {
    "bell202": mdmf((0x01, b"11231200"), (0x02, NUMBER.encode()), (0x07, b"JOHN DOE")),
    "v23": mdmf((0x11, b"\x01"), (0x01, b"11231200"), (0x02, NUMBER.encode())),
    "jp": japanese((0x02, NUMBER.encode()), (0x21, b"215")),
}


def wave(
    octets: bytes,
    standard: str,
    seizure: int = 0,
    mark: int = 80,
    speed: float = 1.0,
    stop: int = 1,
    dbm0: float = -13.0,
    phase: float = 0.0,
    twist_db: float = 0.0,
    stepped: bool = False,
) -> Sound:
    """A frame as continuous-phase FSK, a quarter of a second of silence on each side.

    twist_db: mark over space. stepped: bits begin at whole samples, as of senders that count them.
    """
    bits = [0, 1] * (seizure // 2) + [1] * mark
    for octet in octets:
        bits += [0, *(octet >> bit & 1 for bit in range(8)), *[1] * stop]
    bits.append(1)
    mark_hz, space_hz = TONES_HZ[standard]
    length = 8000 / (1200 * speed)
    cycles = np.cumsum([0.0, *((mark_hz if bit else space_hz) * length / 8000 for bit in bits)])
    turns = np.interp(np.arange(int(len(bits) * length)), np.arange(len(bits) + 1) * length, cycles)
    sent = np.array(bits)[(np.arange(len(turns)) / length).astype(int)]
    if stepped:
        turns = np.cumsum(np.where(sent == 1, mark_hz, space_hz)) / 8000
    sign = 2 * sent - 1
    amplitude = 10 ** ((dbm0 - FULL_SCALE_DBM0) / 20 + sign * twist_db / 40)
    silence = np.zeros(2000)
    return np.concatenate([silence, amplitude * np.sin(2 * np.pi * turns + phase), silence])


def noise(count: int, dbm0: float, seed: int = 1) -> Sound:
    power = 10 ** ((dbm0 - FULL_SCALE_DBM0) / 10) / 2
    return np.random.default_rng(seed).normal(0, power**0.5, count)


def heard(sound: Sound, chunk: int = 160) -> list[Frame]:
    receiver = FskReceiver()
    return [frame for at in range(0, len(sound), chunk) for frame in receiver.feed(sound[at : at + chunk])]


def only(sound: Sound) -> Frame:
    (frame,) = heard(sound)
    return frame


def check(frame: Frame, standard: str, octets: bytes, number: str | None = NUMBER) -> None:
    assert (frame.standard, frame.message.checksum) == (standard, "ok")
    assert (frame.message.octets, frame.message.number) == (octets, number)


@pytest.mark.parametrize("standard", MESSAGES)
@pytest.mark.parametrize("dbm0", [-45, -30, -10, 0, 3, 15, 30])
def test_every_level(standard: str, dbm0: float) -> None:
    octets = MESSAGES[standard]
    sound = wave(octets, standard, dbm0=dbm0) + noise(len(wave(octets, standard)), -65)
    check(only(np.round(np.clip(sound, -1, 1) * 32767) / 32768), standard, octets)


@pytest.mark.parametrize("standard", MESSAGES)
@pytest.mark.parametrize("stop", [1, 2, 4])
@pytest.mark.parametrize("speed", [0.99, 1.0, 1.01])
def test_speed_and_stop_bits(standard: str, stop: int, speed: float) -> None:
    sound = wave(MESSAGES[standard], standard, stop=stop, speed=speed)
    check(only(sound), standard, MESSAGES[standard])


@pytest.mark.parametrize("hum_hz", [50, 60])
@pytest.mark.parametrize("standard", MESSAGES)
def test_hum_seizure_and_a_short_mark(standard: str, hum_hz: int) -> None:
    octets = MESSAGES[standard]
    sound = wave(octets, standard, seizure=300, mark=60)
    sound += 0.7 * np.sin(2 * np.pi * hum_hz / 8000 * np.arange(len(sound)))
    check(only(sound), standard, octets)


@pytest.mark.parametrize("twist_db", [-10, -6, 6, 10])
@pytest.mark.parametrize("standard", [*MESSAGES, "sdmf"])
def test_a_line_that_weakens_one_tone(standard: str, twist_db: float) -> None:
    octets = sdmf(b"11231200" + NUMBER.encode()) if standard == "sdmf" else MESSAGES[standard]
    tones = "bell202" if standard == "sdmf" else standard
    for speed in (0.99, 0.995, 1.0, 1.005, 1.01):
        sound = wave(octets, tones, seizure=0 if standard == "jp" else 96, speed=speed, twist_db=twist_db, stepped=True)
        sound += noise(len(sound), -43)
        check(only(np.concatenate([sound, np.zeros(8000)])), tones, octets)


def test_noise_bytes_after_a_frame_and_two_calls() -> None:
    octets = sdmf(b"11231200" + NUMBER.encode())
    first = wave(octets + b"\x00\xff\x55", "bell202", seizure=300)
    frames = heard(np.concatenate([first, wave(MESSAGES["bell202"], "bell202")]))
    assert [frame.message.octets for frame in frames] == [octets, MESSAGES["bell202"]]


def test_a_wrong_length_is_found_when_the_signal_ends() -> None:
    octets = bytearray(MESSAGES["bell202"][:-1])
    octets[1] -= 5
    octets.append(-sum(octets) % 256)
    assert only(np.concatenate([wave(bytes(octets), "bell202"), np.zeros(8000)])).message.number == NUMBER


@pytest.mark.parametrize("standard", MESSAGES)
def test_a_damaged_frame_is_corrupt(standard: str) -> None:
    octets = bytearray(MESSAGES[standard])
    octets[14] ^= 0x03
    frame = only(np.concatenate([wave(bytes(octets), standard), np.zeros(8000)]))
    assert (frame.message.checksum, frame.message.presentation) == ("failed", "corrupt")
    assert (frame.message.number, frame.message.octets) == (None, bytes(octets))


@pytest.mark.parametrize("standard", [*MESSAGES, "sdmf"])
def test_one_wrong_bit_anywhere_is_one_corrupt_frame(standard: str) -> None:
    octets = sdmf(b"11231200" + NUMBER.encode()) if standard == "sdmf" else MESSAGES[standard]
    tones = "bell202" if standard == "sdmf" else standard
    for bit in (0, 3, 7, 12, 13, 25, 68, 8 * len(octets) - 2):  # beginning and length are what it is known by
        wrong = bytearray(octets)
        wrong[bit // 8] ^= 1 << bit % 8
        frame = only(np.concatenate([wave(bytes(wrong), tones), np.zeros(16000)]))
        assert (frame.message.checksum, frame.message.presentation, frame.message.number) == ("failed", "corrupt", None)


@pytest.mark.parametrize("standard", MESSAGES)
@pytest.mark.parametrize("from_frame", [0, 37, 80, 159])
def test_told_within_40_ms_and_placed_right(standard: str, from_frame: int) -> None:
    sound = np.concatenate([np.zeros(from_frame), wave(MESSAGES[standard], standard), np.zeros(8000)])
    end = from_frame + 2000 + (80 + 10 * len(MESSAGES[standard])) * 8000 / 1200
    receiver = FskReceiver()
    for at in range(0, len(sound), 40):
        if frames := receiver.feed(sound[at : at + 40]):
            assert at + 40 - end < 0.040 * 8000
            assert abs(frames[0].until_frame - end) < 10
            assert abs(frames[0].from_frame - from_frame - 2000) < 200
            return
    pytest.fail("nothing heard")


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(MESSAGES)),
    st.binary(min_size=1, max_size=30),
    st.floats(0.99, 1.01),
    st.floats(0, 6.28),
    st.integers(1, 4),
    st.integers(60, 200),
    st.lists(st.integers(1, 3000), min_size=1, max_size=20),
)
def test_any_message_in_any_pieces(
    standard: str, value: bytes, speed: float, phase: float, stop: int, mark: int, pieces: list[int]
) -> None:
    if standard == "jp":
        octets = japanese((0x02, NUMBER.encode()), (0x24, bytes(octet & 0x7F for octet in value)))
    else:
        octets = mdmf((0x02, NUMBER.encode()), (0x42, value))
    sound = wave(octets, standard, speed=speed, phase=phase, stop=stop, mark=mark)
    receiver, at, frames = FskReceiver(), 0, []
    for piece in pieces:
        frames += receiver.feed(sound[at : at + piece])
        at += piece
    frames += receiver.feed(sound[at:])
    (frame,) = frames
    check(frame, standard, octets)
    assert frames == heard(sound)


@pytest.mark.parametrize("standard", MESSAGES)
def test_noise_5_db_under_the_signal(standard: str) -> None:
    octets = MESSAGES[standard]
    numbers = []
    for seed in range(10):
        sound = wave(octets, standard, speed=1.003)
        numbers += [frame.message.number for frame in heard(sound + noise(len(sound), -19, seed))]
    assert numbers.count(NUMBER) >= 8
    assert set(numbers) <= {NUMBER, None}


def test_noise_and_tones_are_no_frame_and_cost_little() -> None:
    sound = noise(8000 * 60, -20) + 0.1 * np.sin(2 * np.pi * 1000 / 8000 * np.arange(8000 * 60))
    sound[: 8000 * 10] = 0
    sound[8000 * 20 : 8000 * 25] += 0.3 * np.sin(2 * np.pi * 1200 / 8000 * np.arange(8000 * 5))
    receiver = FskReceiver()
    began_ns = time.thread_time_ns()
    for at in range(0, len(sound), 160):
        assert receiver.feed(sound[at : at + 160]) == []
    assert time.thread_time_ns() - began_ns < 2e9  # 60 s of sound; measured by the bench, bounded here


def test_only_the_standards_asked_for() -> None:
    sound = wave(MESSAGES["v23"], "v23")
    assert FskReceiver(standards=("jp",)).feed(sound) == []
    assert [frame.standard for frame in FskReceiver(standards=("v23",)).feed(sound)] == ["v23"]
    with pytest.raises(ValueError, match="8000"):
        FskReceiver(rate_hz=44100)


def real_sounds() -> list[Any]:
    if not DATA.exists():
        return []
    with (DATA / "manifest.csv").open(encoding="utf-8", newline="") as file:
        found = [
            (row["path"], json.loads(row["truth"]))
            for row in csv.DictReader(file)
            if row["category"] == "callerid_audio"
        ]
    for line in (DATA / "jclip_spandsp" / "truth.txt").read_text(encoding="utf-8").splitlines():
        name, number, absence = line.split()[:3]
        number = number.removeprefix("number=")
        truth = {"number": number} if number != "x" else {"reason": absence.removeprefix("absence=")}
        found.append((f"jclip_spandsp/{name}", [truth]))
    return [pytest.param(path, truth, id=Path(path).name) for path, truth in found]


def sound_of(path: Path, channel: int = 1) -> Sound:
    form = ["-af", f"pan=mono|c0=c{channel - 1}", "-ar", "8000", "-f", "f32le", "-"]
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", path, *form], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.float32).astype(np.float64)


@pytest.mark.skipif(not DATA.exists(), reason="the folder of real recordings is not here")
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg, which reads the recordings, is not installed")
@pytest.mark.parametrize(("path", "truth"), real_sounds())
def test_real_lines(path: str, truth: list[dict[str, str]]) -> None:
    frames = heard(sound_of(DATA / path))
    assert len(frames) == len(truth)
    for frame, wanted in zip(frames, truth, strict=True):
        message = frame.message
        assert (frame.standard, message.checksum) == ("jp" if "jclip" in path else "bell202", "ok")
        assert message.number == wanted.get("number")
        assert message.name == (wanted["name"].strip() if "name" in wanted else None)
        assert message.date_raw == wanted.get("dt")
        if "reason" in wanted:
            assert message.presentation == {"P": "withheld", "O": "unavailable"}[wanted["reason"]]


GENERATOR = Path(__file__).parents[2] / "shared" / "tools" / "spandsp_cid" / "cid.c"


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libspandsp's own sender."""
    if not GENERATOR.exists() or not shutil.which("gcc") or not shutil.which("ffmpeg"):
        pytest.skip("the source of the reference generator, gcc or ffmpeg is not here")
    program = tmp_path_factory.mktemp("reference") / "cid"
    built = subprocess.run(
        ["gcc", "-O1", "-o", program, GENERATOR, "-lspandsp", "-ltiff", "-lm"], capture_output=True, check=False
    )
    if built.returncode:
        pytest.skip("libspandsp-dev is not installed")
    return program


@pytest.mark.parametrize(
    ("kind", "standard", "fields", "number"),
    [
        ("class", "bell202", ["datetime=11231200", "number=2025550123", "name=JOHN DOE"], "2025550123"),
        ("class_sdmf", "bell202", ["datetime=11231200", "number=2025550123"], "2025550123"),
        ("class", "bell202", ["datetime=11231200", "absence=P", "name_absence=P"], None),
        ("clip", "v23", ["calltype=01", "datetime=11231200", "number=03000001234"], "03000001234"),
        ("clip", "v23", ["alert=1", "datetime=11231200", "number=03000001234"], "03000001234"),
        ("jclip", "jp", ["number=0300001234", "number_des=215", "dialed=0300005678"], "0300001234"),
        ("jclip", "jp", ["absence=C"], None),
    ],
)
def test_another_sender(
    generator: Path, tmp_path: Path, kind: str, standard: str, fields: list[str], number: str | None
) -> None:
    path = tmp_path / "frame.wav"
    subprocess.run([generator, "gen", kind, path, *fields], check=True, capture_output=True)
    frame = only(sound_of(path))
    assert (frame.standard, frame.message.checksum, frame.message.number) == (standard, "ok", number)
    assert (frame.message.presentation == "allowed") == (number is not None)
