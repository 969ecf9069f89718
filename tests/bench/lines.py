"""How many lines are recorded and listened to in real time on one core."""

from __future__ import annotations

import os
import queue
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from drivers.listener import Listener
from drivers.signals import AudioBlock, DeviceReady, Signal
from drivers.virtual import speech
from firmware.core.facts import RecordingFailed, RecordingReady
from firmware.core.line import StartRecording, StopRecording
from firmware.recording.recorder import Recorder, RecorderThread
from firmware.settings import RecordingSettings
from tests.bench.report import Progress, Table

_RATE_HZ = 8000
_BUFFER = RecordingSettings().buffer_frames
_LINES = (4, 10, 20, 30, 40, 50)
_CALL = "01890000-0000-7000-8000-{:012d}"


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    seconds, counts = (10, (4, 20)) if quick else (60, _LINES)
    rows = []
    most = 0
    for place, lines in enumerate(counts):
        progress(f"{lines} lines", place / len(counts))
        command = [sys.executable, "-m", "tests.bench.lines", str(work / f"{lines}"), str(lines), str(seconds)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        frames, filled, unheard, cpu_s, late_ms = map(float, done.stdout.split()[-5:])
        whole = filled == 0 and frames == lines * seconds * _RATE_HZ
        most = max(most, lines) if whole and not unheard else most
        rows.append(
            (
                f"{lines}",
                f"{frames:,.0f}",
                "none" if whole else f"{lines * seconds * _RATE_HZ - frames + filled:,.0f}",
                f"{unheard:,.0f}" if unheard else "none",
                f"{cpu_s / seconds * 100:.0f} %",
                f"{late_ms:.0f}",
            )
        )
    return Table(
        title="Lines on one core",
        how=(
            f"Speech on all of them for {seconds} s in blocks of {_BUFFER} frames, paced as PortAudio would, which is "
            "left out; each recorded to a sealed file with hash tree and levels, and all detectors listening; both "
            "processes bound to one core. Lost: not in the files, or filled with silence. Unheard: blocks that the "
            "listener had no time for. Late: the pace, at worst. Must: 20 without a loss; aim: 50."
        ),
        columns=("lines", "frames in the files", "lost", "unheard", "CPU of the core", "late, ms"),
        rows=tuple(rows),
        figures={"lines_on_one_core": most},
    )


def main(work: Path, lines: int, seconds: int) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    work.mkdir(parents=True)
    found: queue.SimpleQueue[RecordingReady | RecordingFailed] = queue.SimpleQueue()
    heard: queue.SimpleQueue[Signal] = queue.SimpleQueue()
    owner = X25519PrivateKey.generate().public_key()
    numbers = range(1, lines + 1)
    lanes = {n: RecorderThread(Recorder(work, _RATE_HZ, 30, 5, 0, found.put, owner)) for n in numbers}
    listener = Listener(dict.fromkeys(numbers, "jp"), _RATE_HZ, heard.put)
    listener.start()
    for lane in lanes.values():
        lane.start()
    ready = 0
    while ready < lines:
        ready += isinstance(heard.get(timeout=60), DeviceReady)
    pcm, size = _speech(), 2 * _BUFFER
    began_ns = time.monotonic_ns() + 100_000_000
    ends_ns = began_ns + seconds * 1_000_000_000
    for number, lane in lanes.items():
        call_id = _CALL.format(number)
        lane.obey(StartRecording(line=number, call_id=call_id, from_ns=began_ns, up_ns=began_ns))
    before, late_ns = _cpu_s(), 0
    blocks = -(-(seconds + 1) * _RATE_HZ // _BUFFER)
    for block in range(blocks):
        at_ns = began_ns + block * _BUFFER * 1_000_000_000 // _RATE_HZ
        due_ns = at_ns + _BUFFER * 1_000_000_000 // _RATE_HZ
        left_s = (due_ns - time.monotonic_ns()) / 1e9
        if left_s > 0:
            time.sleep(left_s)
        late_ns = max(late_ns, time.monotonic_ns() - due_ns)
        if at_ns <= ends_ns < due_ns:
            for number, lane in lanes.items():
                stop = StopRecording(line=number, call_id=_CALL.format(number), until_ns=ends_ns, keep=True)
                lane.obey(stop)
        for number, lane in lanes.items():
            at = (block + 7 * number) * size % (len(pcm) - size)
            sound = AudioBlock(at_ns=at_ns, pcm=pcm[at : at + size])
            lane.take(sound)
            listener.take(number, sound)
    made = [found.get(timeout=60) for _ in lanes]
    cpu_s = _cpu_s() - before
    for lane in lanes.values():
        lane.close()
    listener.close()
    cpu_s += (
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime + resource.getrusage(resource.RUSAGE_CHILDREN).ru_stime
    )
    frames = sum(each.frames for each in made if isinstance(each, RecordingReady))
    filled = sum(gap.duration_s for each in made if isinstance(each, RecordingReady) for gap in each.gaps) * _RATE_HZ
    print(frames, filled, listener._refused, cpu_s, late_ns / 1e6)


def _speech() -> bytes:
    voices: Any = np.concatenate([speech.read(path)[0][:, 0] for path in sorted(speech.VOICES.glob("*.flac"))])
    return bytes(np.rint(np.clip(voices, -1, 1) * 32767).astype("<i2").tobytes())


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
