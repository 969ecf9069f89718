"""tsuroku listen: what is signalled in files. Real recordings, and everything that is no recording."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from drivers.virtual import fsk
from firmware.cli.main import main
from tests.test_fsk import wave
from tests.test_listener import MAILBOX, keyed

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the folder of recordings is not here")
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")

# What the manifest says in words.
_KEYS = {
    "dtmf/tino_stereo.wav": ["12345", "67890"],
    "dtmf/tino_testNoise.wav": ["1"],
    "dtmf/bert2_long_dtmf_tones.mp3": ["123456789#0*1"] * 2,
    "dtmf/tino_dial.wav": ["15702340003"] * 2,
}


def manifest(category: str) -> list[dict[str, str]]:
    path = DATA / "manifest.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["category"] == category]


def facts(capsys: pytest.CaptureFixture[str], *args: str | Path) -> list[dict[str, Any]]:
    assert main(["listen", "--json", *map(str, args)]) == 0
    return [json.loads(text) for text in capsys.readouterr().out.splitlines()]


def path_id(row: dict[str, str]) -> str:
    return row["path"]


@needs_data
@pytest.mark.parametrize("row", manifest("callerid_audio"), ids=path_id)
def test_callers_of_real_lines(row: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    found = [fact for fact in facts(capsys, DATA / row["path"]) if fact["kind"] == "caller_id"]
    truth = json.loads(row["truth"])
    assert [(fact["number"], fact["name"], fact["date"]) for fact in found] == [
        (call["number"], call["name"].strip(), call["dt"]) for call in truth
    ]
    assert {fact["checksum"] for fact in found} <= {"ok"}


@needs_data
@pytest.mark.parametrize(
    ("name", "number", "reason"),
    [
        ("num_0312345678", "0312345678", None),
        ("num_09012345678", "09012345678", None),
        ("abs_P_hitsuchi", None, "withheld"),
        ("abs_O_hyojikengai", None, "unavailable"),
    ],
)
def test_japanese_frames(name: str, number: str | None, reason: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    (fact,) = facts(capsys, DATA / "jclip_spandsp" / f"{name}.wav")
    assert (fact["kind"], fact["standard"], fact["checksum"]) == ("caller_id", "jp", "ok")
    assert (fact["number"], fact["reason"]) == (number, reason)


@needs_data
@pytest.mark.parametrize("row", manifest("dtmf"), ids=path_id)
def test_keys_and_nothing_else(row: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    wanted = _KEYS.get(row["path"], [row["truth"]] if row["truth"] else [])
    found = facts(capsys, DATA / row["path"])
    assert [(fact["kind"], fact["digits"]) for fact in found] == [("dtmf", digits) for digits in wanted]


@needs_data
def test_speech_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        path
        for folder in ("speech_en", "speech_en_prompts", "speech_digits_8k", "speech_ja", "speech_ja_prompts")
        for path in sorted((DATA / folder).iterdir())
        if path.suffix in (".wav", ".flac")
    ]
    assert len(files) > 50
    assert facts(capsys, *files) == []


# -- fixtures of our own


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A Japanese frame on the left, keys on the right, at 44.1 kHz."""
    caller = fsk.Caller(number="0300001234", reason=None, name=None, date="11240900")
    frame = fsk.Frame("v23", fsk.number_display(caller))
    rate_hz = 44100
    at_ns = np.arange(3 * rate_hz) * (1e9 / rate_hz) - 1e9
    left = np.where((at_ns >= 0) & (at_ns < frame.length_ns), frame.at(at_ns), 0.0) * 0.1
    right = np.zeros(len(left))
    keys = keyed("147#", rate_hz)
    right[: len(keys)] = keys
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.stack([left, right], axis=1), rate_hz, "FLOAT")
    return path


def told(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(fact["channel"], fact["kind"], fact["number"], fact["digits"]) for fact in found]


STEREO = [(1, "caller_id", "0300001234", None), (2, "dtmf", None, "147#")]


def test_each_channel_and_every_field(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    caller, keys = sorted(facts(capsys, sound), key=lambda fact: str(fact["kind"]))
    assert caller == {
        "file": str(sound),
        "at_s": pytest.approx(1.0, abs=0.1),
        "channel": 1,
        "kind": "caller_id",
        "standard": "jp",
        "number": "0300001234",
        "name": None,
        "reason": None,
        "date": "11240900",
        "checksum": "ok",
        "digits": None,
    }
    assert (keys["channel"], keys["digits"], keys["checksum"]) == (2, "147#", None)
    assert keys["at_s"] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "au", "aiff"])
def test_formats_of_libsndfile(suffix: str, sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples, rate_hz = soundfile.read(sound)
    path = sound.with_name(f"other.{suffix}")
    soundfile.write(path, samples, rate_hz)
    assert sorted(told(facts(capsys, path))) == STEREO


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.m4a", ["-c:a", "aac"]),
        ("a.mka", ["-c:a", "pcm_s16le"]),
        ("ima.wav", ["-c:a", "adpcm_ima_wav", "-ar", "8000"]),
        ("ms.wav", ["-c:a", "adpcm_ms", "-ar", "8000"]),
        ("ulaw.wav", ["-c:a", "pcm_mulaw", "-ar", "8000"]),
        ("-v.opus.webm", ["-c:a", "libopus", "-b:a", "96k"]),
        ("swf.wav", ["-c:a", "adpcm_swf", "-ar", "22050"]),
    ],
)
def test_formats_of_ffmpeg(name: str, options: list[str], sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sound.with_name(name)
    made = ["ffmpeg", "-v", "error", "-i", str(sound), *options, str(path)]
    assert subprocess.run(made, check=False).returncode == 0
    assert sorted(told(facts(capsys, path))) == STEREO


def test_keys_far_apart_are_two_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.wav"
    soundfile.write(path, np.concatenate([keyed("12"), np.zeros(8 * 8000), keyed("34")]), 8000)
    assert [fact["digits"] for fact in facts(capsys, path)] == ["12", "34"]


def test_a_caller_sent_as_keys_is_one_fact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.wav"
    soundfile.write(path, np.concatenate([keyed("A0300001234C", off_s=0.08), np.zeros(4000)]), 8000)
    (fact,) = facts(capsys, path)
    assert (fact["kind"], fact["standard"], fact["number"], fact["checksum"]) == (
        *("caller_id", "dtmf", "0300001234", "absent"),
    )


@pytest.mark.parametrize(("tones", "octets"), MAILBOX)
def test_a_waiting_message_prints_nothing(
    tones: str, octets: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "waiting.wav"
    soundfile.write(path, wave(octets, tones, seizure=96), 8000)
    assert facts(capsys, "--country", "uk", path) == []


def test_for_people(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["listen", str(sound)]) == 0
    text = capsys.readouterr().out
    assert "caller id" in text and "0300001234" in text and "147#" in text


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, this is text\n" * 100, b"RIFF\x24\0\0\0WAVEfmt ", bytes(5000)],
    ids=["empty", "text", "cut header", "zeros"],
)
@pytest.mark.parametrize("suffix", ["wav", "raw", "txt", "mp3"])
def test_no_sound_is_one_sentence(
    content: bytes, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    assert main(["listen", str(path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{path}: has no sound in it; give a sound file.\n"


def test_a_library_adds_no_words_of_its_own(sound: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """libmpg123 would, of most files that were cut."""
    samples, rate_hz = soundfile.read(sound)
    path = sound.with_name("cut.mp3")
    soundfile.write(path, np.tile(samples, (2, 1)), rate_hz)
    path.write_bytes(path.read_bytes()[:-1000])
    assert main(["listen", str(path), "--json"]) == 0
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 3 and err == ""


def test_what_ffmpeg_only_took_for_sound_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of noise that looked like MP3 for a moment it tells a stream without rate and channels."""
    probe = tmp_path / "ffprobe"
    probe.write_text("""#!/bin/sh\necho '{"streams": [{"sample_rate": "0", "channels": 0}], "format": {}}'\n""")
    probe.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "noise.mp3"
    path.write_bytes(np.random.default_rng(1).bytes(100_000))
    assert main(["listen", str(path)]) == 2
    assert capfd.readouterr() == ("", f"{path}: has no sound in it; give a sound file.\n")


@needs_ffmpeg
@pytest.mark.filterwarnings("error")
def test_samples_that_are_no_number_are_silence(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples, rate_hz = soundfile.read(sound)
    samples[::5000] = np.nan
    samples[7] = np.inf
    soundfile.write(sound, samples, rate_hz, "FLOAT")
    path = sound.with_name("a.mka")
    made = ["ffmpeg", "-v", "error", "-i", str(sound), "-c:a", "pcm_f32le", str(path)]
    assert subprocess.run(made, check=False).returncode == 0
    for file in (sound, path):
        assert sorted(told(facts(capsys, file)))[:1] == STEREO[:1]


def test_no_file_is_one_sentence_and_the_others_are_heard(
    tmp_path: Path, sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["listen", str(tmp_path / "none.wav"), str(tmp_path), str(sound), "--json"]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert [text.partition(":")[0] for text in err.splitlines()] == [str(tmp_path / "none.wav"), str(tmp_path)]


def test_a_name_that_is_no_text_is_a_name(tmp_path: Path, sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.wav"))
    path.write_bytes(sound.read_bytes())
    ran = subprocess.run(
        [sys.executable, "-m", "firmware", "listen", "--json", path, tmp_path / "none"],
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert sorted(told(found)) == STEREO
    assert {fact["file"] for fact in found} == {str(path)}
    assert ran.stderr.count(b"\n") == 1 and b"none: cannot be read" in ran.stderr
    path.write_bytes(b"")
    ran = subprocess.run(
        [sys.executable, "-m", "firmware", "listen", path],
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert (ran.returncode, ran.stdout, ran.stderr.count(b"\n")) == (2, b"", 1)


def test_a_pipe_or_device_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", Path("/dev/zero")):
        assert main(["listen", str(path)]) == 2
        assert capsys.readouterr().err == f"{path}: is a device or a pipe; give the path of a sound file.\n"


def test_a_cut_file_gives_what_it_has(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples, rate_hz = soundfile.read(sound)
    path = sound.with_name("cut.flac")
    soundfile.write(path, np.concatenate([samples, samples]), rate_hz)
    octets = path.read_bytes()
    path.write_bytes(octets[: len(octets) * 2 // 3])
    assert sorted(told(facts(capsys, path)))[:1] == STEREO[:1]
