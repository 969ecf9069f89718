"""Ten hours of speech, music and noise: every key, tone, alerting signal and caller heard in it is an invention."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from drivers.softmodem.dtmf import RATE_HZ, DtmfCallerId, DtmfReceiver
from drivers.softmodem.fsk import FskReceiver
from drivers.softmodem.tones import TONE_PLANS, CasFound, ToneFound, ToneReceiver
from tests.bench.report import Progress, Table

Sound = NDArray[np.float32]
_SHARED = Path(__file__).parents[3] / "shared" / "data"
_PROMPTS = Path("/usr/share/asterisk/sounds")
_FED = 1600
_HOURS = {"speech": 7.0, "music": 1.0, "babble": 1.0, "noise": 1.0}
_QUICK = 1 / 50
_GAIN_DB = (-25.0, 10.0)  # up to clipping
_NOT_SPEECH = ("beep", "tone", "silence")  # prompts that are tones in truth


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    rng = random.Random(1)
    files = _files()
    counts: dict[str, Counter[str]] = {}
    invented: Counter[str] = Counter()
    cpu = dict.fromkeys(("fsk", "dtmf", "tones"), 0.0)
    hours = {kind: each * (_QUICK if quick else 1.0) for kind, each in _HOURS.items() if kind == "noise" or files}
    spent = 0.0
    for kind, lasts in hours.items():
        receivers = _Receivers(cpu)
        fed = 0
        sounds = _sounds(kind, files, rng)
        while fed < lasts * 3600 * RATE_HZ:
            sound = next(sounds)
            receivers.feed(sound)
            fed += len(sound)
            progress(f"False facts, {kind}", (spent + fed / RATE_HZ / 3600) / sum(hours.values()))
        spent += fed / RATE_HZ / 3600
        hours[kind] = fed / RATE_HZ / 3600
        counts[kind] = receivers.counts
        invented += receivers.invented
    return _table(counts, invented, hours, cpu)


class _Receivers:
    """All that listens to a line, with the tone plans of all countries."""

    def __init__(self, cpu: dict[str, float]) -> None:
        self.counts: Counter[str] = Counter()
        self.invented: Counter[str] = Counter()  # tones, by country and name
        self._cpu = cpu
        self._fsk, self._dtmf = FskReceiver(), DtmfReceiver()
        self._caller_id = DtmfCallerId()
        self._tones = {country: ToneReceiver(country) for country in TONE_PLANS}

    def feed(self, sound: Sound) -> None:
        for at in range(0, len(sound), _FED):
            part = sound[at : at + _FED]
            began = time.process_time()
            self.counts["callers"] += sum(frame.message.checksum == "ok" for frame in self._fsk.feed(part))
            told = time.process_time()
            self._cpu["fsk"] += told - began
            for key in self._dtmf.feed(part):
                self.counts["keys"] += 1
                self.counts["callers"] += self._caller_id.feed(key) is not None
            self._cpu["dtmf"] += (began := time.process_time()) - told
            for country, receiver in self._tones.items():
                for found in receiver.feed(part):
                    if isinstance(found, ToneFound) and found.over:
                        self.counts[f"tones {country}"] += 1
                        self.invented[f"{country} {found.tone.replace('_', ' ')}"] += 1
                    self.counts["alerting"] += country == "us" and isinstance(found, CasFound)
            self._cpu["tones"] += (time.process_time() - began) / len(self._tones)


def _files() -> dict[str, list[Path]]:
    speech = [*_PROMPTS.glob("*/**/*.wav"), *_SHARED.glob("speech_*/*")]
    music = [*_SHARED.glob("music_on_hold/*"), *Path("/usr/share/asterisk/moh").glob("*.wav")]
    return {
        "speech": sorted(path for path in speech if not any(word in path.name for word in _NOT_SPEECH)),
        "music": sorted(music),
    }


def _sounds(kind: str, files: dict[str, list[Path]], rng: random.Random) -> Iterator[Sound]:
    """Without end: each played at another level and after another pause."""
    while True:
        if kind == "noise":
            yield _noise(rng)
        elif kind == "babble":
            voices = [_long(files["speech"], rng, 30) for _ in range(6)]
            yield _played(np.asarray(np.sum(voices, axis=0) / 3, dtype=np.float32), rng)
        else:
            chosen = files[kind] or files["speech"]
            for path in rng.sample(chosen, len(chosen)):
                yield _played(_read(path), rng)


def _played(sound: Sound, rng: random.Random) -> Sound:
    gain = 10 ** (rng.uniform(*_GAIN_DB) / 20)
    pause = np.zeros(rng.randrange(RATE_HZ // 2), np.float32)
    return np.concatenate([np.clip(sound * np.float32(gain), -1, 1), pause])


def _long(files: list[Path], rng: random.Random, seconds: int) -> Sound:
    parts: list[Sound] = []
    while sum(map(len, parts)) < seconds * RATE_HZ:
        parts.append(_read(rng.choice(files)))
    return np.concatenate(parts)[: seconds * RATE_HZ]


def _read(path: Path) -> Sound:
    """As mono sound of 8 kHz."""
    if soundfile.info(path).samplerate == RATE_HZ:
        sound, _ = soundfile.read(path, dtype="float32", always_2d=True)
        return np.asarray(sound[:, 0])
    ran = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", path, "-ac", "1", "-ar", str(RATE_HZ), "-f", "f32le", "-"],
        capture_output=True,
        check=True,
    )
    return np.frombuffer(ran.stdout, "<f4")


def _noise(rng: random.Random) -> Sound:
    """A minute of white, pink or brown noise, or hum with its harmonics, at some level."""
    made = np.random.default_rng(rng.randrange(1 << 32))
    count = 60 * RATE_HZ
    colour = rng.choice(("white", "pink", "brown", "hum"))
    if colour == "hum":
        t = np.arange(count) / RATE_HZ
        mains = rng.choice((50.0, 60.0))
        sound = sum(
            (made.normal() / n * np.sin(2 * np.pi * mains * n * t + made.uniform(0, 6)) for n in range(1, 20)),
            made.normal(0, 0.02, count),
        )
    else:
        spectrum = np.fft.rfft(made.normal(size=count))
        spectrum /= np.maximum(np.arange(len(spectrum)), 60) ** {"white": 0.0, "pink": 0.5, "brown": 1.0}[colour]
        sound = np.fft.irfft(spectrum)
    return _played((sound * 0.1 / sound.std()).astype(np.float32), rng)


def _table(
    counts: dict[str, Counter[str]], invented: Counter[str], hours: dict[str, float], cpu: dict[str, float]
) -> Table:
    kinds = ["callers", "keys", "alerting", *(f"tones {country}" for country in TONE_PLANS)]
    rows = [(kind, f"{hours[kind]:.1f}", *(str(found[each]) for each in kinds)) for kind, found in counts.items()]
    whole: Counter[str] = sum(counts.values(), Counter())
    total = sum(hours.values())
    rows.append(("all", f"{total:.1f}", *(str(whole[each]) for each in kinds)))
    # Of each kind of sound alone: silence and noise, where nothing is invented, must not thin it.
    most = max(found[f"tones {country}"] / hours[kind] for kind, found in counts.items() for country in TONE_PLANS)
    names = ", ".join(f"{name} {count}" for name, count in invented.most_common()) or "none"
    shares = {name: 100 * each / 3600 / total for name, each in cpu.items()}
    return Table(
        title="False facts",
        how=(
            "Speech of five languages (asterisk-core-sounds) and the shared recordings, shuffled, at levels from -25 "
            "dB to clipping; music on hold; six voices at once; white, pink, brown noise and hum. Aim: no caller, no "
            f"key, at most one tone an hour of each sound (here {most:.1f}; invented: {names}). CPU of one core: "
            f"keys {shares['dtmf']:.2f} %, tones {shares['tones']:.2f} %, caller ID {shares['fsk']:.2f} %."
        ),
        columns=("sound", "hours", *kinds),
        rows=tuple(rows),
        figures={
            "false_callers": whole["callers"],
            "false_keys": whole["keys"],
            "false_tones_an_hour": most,
            **{f"cpu_percent_{name}": share for name, share in shares.items()},
        },
    )
