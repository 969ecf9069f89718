"""Bundles of many calls beside sha256sum of the same bytes, and the containers that a recording could be kept in."""

from __future__ import annotations

import contextlib
import io
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import soundfile
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from drivers.virtual import scenario as story
from firmware.bundle.verify import verify
from firmware.cli.main import main
from firmware.recording.recorder import COMPRESSION
from firmware.recording.sealed import SealedWriter, unsealed
from firmware.simulate import results, stepped
from tests.bench.report import Progress, Table, median

_CALLS = 1000
_EACH_S = 28  # from one call to the next; 10 s of it are talk


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    calls = 20 if quick else _CALLS
    steps = ["title many calls", "number display"]
    for number in range(calls):
        at = 1 + number * _EACH_S
        steps += [f"{at} call from 03-0000-{number:04d}", "+7 lift", "+0.5 shop says order", "+10 hang up"]
    text = "\n".join([*steps, f"end {calls * _EACH_S + 20}", ""])
    progress("Calls to export", 0.0)
    data = work / "shop"
    stepped(story.parse(text, work / "day.txt"), data, progress=lambda part: progress("Calls to export", part * 0.3))
    names = [call["call_id"] for call in results(data)[0]]
    out = work / "bundle.zip"
    progress("Export", 0.3)
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(["export", *names, "--data", str(data), "--out", str(out)]) == 0
    export_s = time.perf_counter() - began
    verify_s, sum_s, decode_s = [], [], []
    for number in range(3):
        progress("Verify", 0.6 + 0.1 * number)
        began = time.perf_counter()
        assert verify(out).holds
        verify_s.append(time.perf_counter() - began)
        began = time.perf_counter()
        subprocess.run(["sha256sum", str(out)], check=True, capture_output=True)
        sum_s.append(time.perf_counter() - began)
        began = time.perf_counter()
        for path in data.rglob("*.flac"):
            with soundfile.SoundFile(path) as file:
                while len(file.buffer_read(65_536, "int16")):
                    pass
        decode_s.append(time.perf_counter() - began)
    size = out.stat().st_size
    base = median(sum_s)
    ways = [
        ("export", export_s),
        ("verify, every second of the sound too", median(verify_s)),
        ("decoding the sound alone", median(decode_s)),
        ("sha256sum of the bundle", base),
    ]
    return Table(
        title="A bundle of many calls",
        how=(
            f"{len(names):,} calls of 10 s of talk, {size / 1e6:.0f} MB; verify and sha256sum three times in turn, "
            "medians. Verify hashes all bytes, follows each chain, and decodes and hashes each second. Aim: verify at "
            "most twice sha256sum."
        ),
        columns=("what", "s", "ms a call", "times sha256sum"),
        rows=tuple((name, f"{s:.2f}", f"{s / len(names) * 1e3:.1f}", f"{s / base:.1f}") for name, s in ways),
        figures={"verify_times_sha256sum": round(median(verify_s) / base, 2)},
    )


# -- containers

_SYNC_S = 5
_CUTS = 100
_RATE = 8000


def containers(work: Path, quick: bool, progress: Progress) -> Table:
    """What of a recording's file is read when it ends anywhere before it was closed, and what it costs."""
    seconds, cuts = (30, 20) if quick else (120, _CUTS)
    pcm = _speech(work, seconds)
    key = X25519PrivateKey.generate()
    rows = []
    ways: list[tuple[str, Callable[[IO[bytes]], object], Callable[[Path], int]]] = [
        ("raw PCM, as a measure", lambda file: file, lambda path: path.stat().st_size // 2),
        ("FLAC, as the unit writes it", lambda file: _sound(file, "FLAC"), _frames),
        ("FLAC, sealed", lambda file: _sound(SealedWriter(file.fileno(), key.public_key()), "FLAC"), _unsealed(key)),
        ("WAV", lambda file: _sound(file, "WAV"), _frames),
        ("AU", lambda file: _sound(file, "AU"), _frames),
        ("Ogg Opus (not lossless)", lambda file: _sound(file, "OGG", "OPUS"), _frames),
    ]
    for number, (name, begin, read) in enumerate(ways):
        progress(name, number / len(ways))
        path = work / "sound"
        device, cpu = _device_bytes(work), time.process_time()
        with path.open("wb+", buffering=0) as file:
            sink = begin(file)
            for at in range(0, len(pcm), _SYNC_S * 2 * _RATE):
                part = pcm[at : at + _SYNC_S * 2 * _RATE]
                if isinstance(sink, soundfile.SoundFile):
                    sink.buffer_write(part, "int16")
                    sink.flush()
                else:
                    file.write(part)
                os.fdatasync(file.fileno())
            cpu_s = time.process_time() - cpu
            written = _device_bytes(work)
            streamed = path.read_bytes()
            if isinstance(sink, soundfile.SoundFile):
                sink.close()
        lost = _lost(streamed, cuts, seconds, read, work)
        rows.append(
            (
                name,
                f"{len(streamed) / seconds:,.0f}",
                f"{len(streamed) / len(pcm):.2f}",
                "" if device is None or written is None else f"{(written - device) / seconds:,.0f}",
                f"{cpu_s / seconds * 3600:.1f}",
                f"{100 * sum(each <= 1 for each in lost) / len(lost):.0f} %",
                f"{max(lost):.1f}",
            )
        )
    return Table(
        title="Containers of a recording",
        how=(
            f"{seconds} s of speech at 8 kHz, streamed and synced every {_SYNC_S} s; bytes to the device by whomever. "
            f"The file as it is before it is closed, cut at {cuts} bytes by chance and read with libsndfile: how often "
            "all but 1 s of what was written before the cut can be read, and the most that is missing."
        ),
        columns=(
            "container",
            "bytes a second",
            "of PCM",
            "to the device",
            "CPU s an hour",
            "read",
            "missing, s",
        ),
        rows=tuple(rows),
    )


def _speech(work: Path, seconds: int) -> bytes:
    text = "title talk\n1 call from 03-0000-1234\n+7 lift\n+0.5 shop says order\n+12 hang up\nend 40\n"
    stepped(story.parse(text, work / "talk.txt"), work / "talk")
    (path,) = (work / "talk").rglob("*.flac")
    with soundfile.SoundFile(path) as file:
        file.seek(6 * _RATE)  # behind the ring
        pcm = bytes(file.buffer_read(dtype="int16"))
    return (pcm * (seconds * _RATE * 2 // len(pcm) + 1))[: seconds * _RATE * 2]


def _sound(file: object, form: str, subtype: str = "PCM_16") -> soundfile.SoundFile:
    more = {"compression_level": COMPRESSION} if form == "FLAC" else {}
    target = os.dup(file.fileno()) if hasattr(file, "fileno") and not isinstance(file, SealedWriter) else file
    return soundfile.SoundFile(target, "w", _RATE, 1, subtype, format=form, **more)


def _frames(path: Path) -> int:
    """That can be read before an error; at a rate of 8 kHz."""
    frames, rate = 0, _RATE
    for block in (8000, 128):  # what an error takes along is looked at again, a little at a time
        try:
            with soundfile.SoundFile(path) as file:
                rate = file.samplerate
                file.seek(frames)
                while got := len(file.buffer_read(block, "int16")) // 2:
                    frames += got
        except soundfile.SoundFileError:
            continue
        break
    return frames * _RATE // rate


def _unsealed(key: X25519PrivateKey) -> Callable[[Path], int]:
    def read(path: Path) -> int:
        plain = path.with_suffix(".plain")
        try:
            with path.open("rb") as file:
                plain.write_bytes(unsealed(file, key).read())
        except Exception:  # noqa: BLE001 - cut in its head
            return 0
        return _frames(plain)

    return read


def _lost(streamed: bytes, cuts: int, seconds: int, read: Callable[[Path], int], work: Path) -> list[float]:
    """Seconds that are missing: of the sound that a cut leaves, where bytes and seconds go along evenly."""
    dice, path, lost = random.Random(1), work / "cut", []
    for _ in range(cuts):
        at = dice.randrange(len(streamed))
        path.write_bytes(streamed[:at])
        lost.append(max(0.0, at / len(streamed) * seconds - read(path) / _RATE))
    return lost


def _device_bytes(path: Path) -> int | None:
    os.sync()
    device = path.stat().st_dev
    try:
        stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text()
    except FileNotFoundError:
        return None
    return int(stat.split()[6]) * 512
