"""A counter in the sound of 4 lines for 30 minutes in real time: no sample is lost."""

from __future__ import annotations

import multiprocessing
import os
import queue
import random
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from drivers.codec import Codec, Tap
from drivers.signals import AudioBlock
from drivers.virtual.sound import AUDIO_DELAY_MS, RATE_HZ, VirtualSound
from firmware.core.facts import RecordingFailed, RecordingReady
from firmware.core.line import StartRecording, StopRecording
from firmware.recording.recorder import Recorder, RecorderThread
from tests.proof.report import Report

LINES = 4
LIVE_S = 1800
_BLOCK = 480
_STEP, _BACK = 40_503, pow(40_503, -1, 65_536)
_PRE_ROLL_S = 5
_CLOCK_S = 0.08  # what the frames' times may be off in the first minute of a codec (tests/test_codec.py)
_READ = 1 << 20


def counter(first: int, frames: int) -> NDArray[np.uint16]:
    """The sound: each frame tells its number modulo 65,536, spread so that it is as loud as noise."""
    return (np.arange(first, first + frames, dtype=np.int64) * _STEP & 0xFFFF).astype("<u2")


def number_of(sound: NDArray[np.uint16]) -> NDArray[np.int64]:
    return sound.astype(np.int64) * _BACK & 0xFFFF


# -- stepped time


def stepped(line: int, hours: float, seed: str, work: Path) -> dict[str, Any]:
    """A line's Recorder. The first has one call from end to end, the others one every ten minutes.

    Raises AssertionError.
    """
    dice, posted = random.Random(f"{seed} {line}"), list[RecordingReady | RecordingFailed]()
    recorder = Recorder(work, RATE_HZ, 30, 5, 0, posted.append)
    total_s = round(hours * 3600)
    spans = {_name(line, 0): (0.0, total_s - 2.0)}
    if line > 1:
        spans = {_name(line, n): (600.0 * n + 30, 600.0 * n + 30 + dice.uniform(3, 540)) for n in range(total_s // 600)}
    todo: list[tuple[float, StartRecording | StopRecording]] = []
    for name, (begin_s, end_s) in spans.items():
        from_ns = _at(max(0.0, begin_s - _PRE_ROLL_S))
        todo.append((begin_s, StartRecording(line=line, call_id=name, from_ns=from_ns, up_ns=_at(begin_s))))
        todo.append((end_s, StopRecording(line=line, call_id=name, until_ns=_at(end_s), keep=True)))
    todo.sort(key=lambda each: -each[0])
    resident_mb, exact = dict[int, float](), 0
    for frame in range(0, total_s * RATE_HZ, _BLOCK):
        recorder.take(AudioBlock(at_ns=_at(frame / RATE_HZ), pcm=counter(frame, _BLOCK).tobytes()))
        while todo and todo[-1][0] <= frame / RATE_HZ:
            recorder.obey(todo.pop()[1])
        while posted:
            made = posted.pop()
            assert isinstance(made, RecordingReady), made
            begin_s, end_s = spans[made.call_id]
            _exactly(work, made, max(0.0, begin_s - _PRE_ROLL_S), end_s)
            exact += 1
        part = frame * 20 // (total_s * RATE_HZ)
        if part in (1, 19) and part not in resident_mb:
            resident_mb[part] = _resident_mb()
    assert exact == len(spans), f"line {line}: {exact} recordings of {len(spans)} calls"
    return {"calls": len(spans), "growth_mb": round(resident_mb[19] - resident_mb[1], 1)}


def _exactly(work: Path, made: RecordingReady, begin_s: float, end_s: float) -> None:
    """The file holds each frame of its time, and no other; then it is deleted."""
    first = round((made.from_ns - _at(0)) * RATE_HZ / 1e9)
    assert abs(first - begin_s * RATE_HZ) <= 1 and abs(made.frames - (end_s - begin_s) * RATE_HZ) <= 2, made
    assert not made.gaps and not made.cut_short, made
    with soundfile.SoundFile(work / made.path) as file:
        assert file.frames == made.frames
        at = first
        while len(pcm := file.buffer_read(_READ, "int16")):
            sound = np.frombuffer(pcm, "<u2")
            assert (sound == counter(at, len(sound))).all(), f"{made.path}: not what was on the line, near frame {at}"
            at += len(sound)
    assert at == first + made.frames
    (work / made.path).unlink()


def _at(seconds: float) -> int:
    return 1_000_000_000 + round(seconds * 1e9)


def _name(line: int, number: int) -> str:
    return f"{line:08x}-0000-7000-8000-{number:012x}"


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


# -- real time: each line in a process of its own, since PyAudio knows one sound server a process


def live(line: int, seconds: float, work: Path) -> dict[str, Any]:
    """The real driver and recorder on a virtual wire that carries the counter. Raises AssertionError."""
    wire, posted = VirtualSound(work / "wire"), queue.SimpleQueue[RecordingReady | RecordingFailed]()
    wire.start()
    os.environ.update(wire.environment())

    sent = work / "counter.raw"
    sent.write_bytes(counter(0, round((seconds + 5) * RATE_HZ)).tobytes())
    recorder = Recorder(work, RATE_HZ, 30, 5, AUDIO_DELAY_MS, posted.put)
    lane = RecorderThread(recorder)
    lane.start()
    codec = Codec(wire.device, RATE_HZ, _BLOCK, lambda signal: None, [Tap(line, 1, lane.take)])
    codec.start()
    try:
        began_ns = wire.play(sent) + 1_000_000_000
        until_ns = began_ns + round(seconds * 1e9)
        lane.obey(StartRecording(line=line, call_id=_name(line, 0), from_ns=began_ns, up_ns=began_ns))
        time.sleep((until_ns - time.monotonic_ns()) / 1e9)
        lane.obey(StopRecording(line=line, call_id=_name(line, 0), until_ns=until_ns, keep=True))
        made = posted.get(timeout=30)
    finally:
        codec.close()
        lane.close()
        wire.close()
    assert isinstance(made, RecordingReady), made
    with soundfile.SoundFile(work / made.path) as file:
        sound = np.frombuffer(file.buffer_read(dtype="int16"), "<u2")
    # Where a player is late the wire is silent; the counter goes on behind it. A frame of silence alone is the counter.
    silent = np.flatnonzero(np.concatenate(([False], (sound[1:] == 0) & (sound[:-1] == 0))))
    heard = number_of(np.delete(sound, np.union1d(silent, silent - 1)))
    lost = int(((np.diff(heard) - 1) % 65_536).sum())
    filled = round(sum(gap.duration_s for gap in made.gaps) * RATE_HZ)
    return {"frames": made.frames, "heard": len(heard), "lost": lost, "filled": filled, "late": len(sound) - len(heard)}


def lines(seconds: float, work: Path) -> list[dict[str, Any]]:
    """All lines at the same time. Raises AssertionError where a frame is lost, or silence put in."""
    with ProcessPoolExecutor(LINES, mp_context=multiprocessing.get_context("spawn")) as pool:
        folders = [work / str(line) for line in range(1, LINES + 1)]
        for folder in folders:
            folder.mkdir()
        told = list(pool.map(live, range(1, LINES + 1), [seconds] * LINES, folders))
    for each in told:
        assert each["lost"] == 0 and each["filled"] == 0, each
        assert abs(each["frames"] - seconds * RATE_HZ) <= _CLOCK_S * RATE_HZ, each
        assert each["late"] <= 0.01 * each["frames"], each
    return told


def prove(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="tsuroku-") as work:
        told = lines(LIVE_S, Path(work))
    report.figure("real time", f"{LINES} lines, {LIVE_S} s: {sum(each['frames'] for each in told):,} frames, none lost")
    report.figure("frames of silence where the wire's player was late", [each["late"] for each in told])
