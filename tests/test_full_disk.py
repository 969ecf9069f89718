"""A disk that takes no more, at any byte of a recording: what was written plays, and how much of it is said.

The limit is the kernel's own (RLIMIT_FSIZE), so that the write itself fails, wherever it comes from.
"""

from __future__ import annotations

import random
import resource
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from drivers.signals import AudioBlock
from firmware.core.facts import RecordingFailed, RecordingReady
from firmware.core.line import StartRecording, StopRecording
from firmware.recording.recorder import Recorder
from firmware.recording.sealed import unsealed

RATE, SECONDS = 8000, 12
CALL = "01a20ada-33a6-75b1-a522-4a58b791f1d8"
OWNER = X25519PrivateKey.generate()
WIRE = np.random.default_rng(1).integers(-8000, 8000, SECONDS * RATE).astype("<i2").tobytes()
WHOLE = 200_000  # bytes; a recording of it is smaller


@contextmanager
def limited(size: int) -> Iterator[None]:
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    heeded = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
        signal.signal(signal.SIGXFSZ, heeded)


def record(directory: Path, size: int, sealed: bool) -> RecordingReady | RecordingFailed:
    posted: list[RecordingReady | RecordingFailed] = []
    recorder = Recorder(directory, RATE, 30, 1.0, 0, posted.append, OWNER.public_key() if sealed else None)
    recorder.obey(StartRecording(line=1, call_id=CALL, from_ns=0, up_ns=0))
    with limited(size):
        for at in range(0, SECONDS * RATE, 480):
            recorder.take(AudioBlock(at_ns=at * 125_000, pcm=WIRE[at * 2 : (at + 480) * 2]))
            recorder.tick(at * 125_000)
        recorder.obey(StopRecording(line=1, call_id=CALL, until_ns=SECONDS * 1_000_000_000, keep=True))
        recorder.close()
    (told,) = posted
    return told


def played(path: Path, sealed: bool) -> bytes:
    """As far as the file goes."""
    with path.open("rb") as file:
        plain = unsealed(file, OWNER).read() if sealed else file.read()
    command = ["flac", "-dcs", "-F", "--force-raw-format", "--endian=little", "--sign=signed", "-"]
    return subprocess.run(command, input=plain, capture_output=True, check=False).stdout


@pytest.mark.skipif(not shutil.which("flac"), reason="needs flac (provisioning/packages-dev.txt)")
@pytest.mark.parametrize("sealed", [False, True])
def test_what_was_written_plays_wherever_the_disk_gets_full(tmp_path: Path, sealed: bool) -> None:
    seed = secrets.randbelow(1_000_000)
    print(f"seed {seed}")
    dice = random.Random(seed)
    sizes = [0, 1, 41, 42, 400, 8191, 8192, 8193, 174_129, *(dice.randrange(WHOLE) for _ in range(40))]
    for number, size in enumerate(sizes):
        folder = tmp_path / str(number)
        folder.mkdir()
        told = record(folder, size, sealed)
        if isinstance(told, RecordingFailed):
            assert told.reason.endswith(".") and size < 40_000, (size, told)
            assert "File too large" in told.reason or "the disk takes no more" in told.reason, told
            left = list(folder.rglob("*.flac*"))
            assert not left or size < 41 or not played(left[0], sealed), size
            continue
        path = folder / told.path
        pcm = played(path, sealed)
        assert pcm[: told.frames * 2] == WIRE[: told.frames * 2] and len(pcm) >= told.frames * 2, size
        if told.cut_short is None:
            assert size > 100_000 and told.frames == SECONDS * RATE, (size, told)
        else:
            assert size - 40_000 < told.frames * 2, (size, told)
