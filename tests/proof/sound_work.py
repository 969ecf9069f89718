"""The recorder that power is cut from, and that is killed, as a process of its own.

    python -m tests.proof.sound_work DIRECTORY SEED plain|sealed [SECONDS_A_SECOND]

Call after call is recorded from a wire of known noise; time is counted in frames, and goes by as fast as it can unless
SECONDS_A_SECOND is given. After each block it says how much it has heard, and when a file is closed what is in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from drivers.signals import AudioBlock
from firmware.core.facts import RecordingFailed, RecordingReady
from firmware.core.line import StartRecording, StopRecording
from firmware.recording.recorder import Recorder

RATE = 8000
BLOCK = 800
FRAME_NS = 1_000_000_000 // RATE
T0 = 5_000_000_000
CALLS = 3


def owner(seed: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())


@dataclass(frozen=True, slots=True)
class Step:
    """One call on the wire, in frames."""

    call_id: str
    first: int
    last: int


def plan(seed: str) -> list[Step]:
    dice, at, steps = random.Random(seed), 2 * RATE, []
    for number in range(CALLS):
        first = at + dice.randrange(RATE)
        last = first + round(dice.uniform(4, 16) * RATE)
        steps.append(Step(f"019abcde-0000-7000-8000-{number:012x}", first, last))
        at = last + 2 * RATE
    return steps


def wire(seed: str, first: int, last: int) -> bytes:
    """Frames of noise, and of silence every few seconds: a FLAC block of each looks very different."""
    found = bytearray()
    for second in range(first // RATE, -(-last // RATE)):
        dice = random.Random(f"{seed} {second}")
        quiet = dice.random() < 0.3
        found += bytes(2 * RATE) if quiet else dice.randbytes(2 * RATE)
    begin = first % RATE
    return bytes(found[2 * begin : 2 * (begin + last - first)])


def blocks(seed: str) -> Iterator[tuple[int, bytes]]:
    """Of all calls: index of the first frame, and frames."""
    end = plan(seed)[-1].last + RATE
    for at in range(0, end, BLOCK):
        yield at, wire(seed, at, at + BLOCK)


def main(directory: str, seed: str, how: str, pace: str = "0") -> None:
    told: list[RecordingReady | RecordingFailed] = []
    key = owner(seed).public_key() if how == "sealed" else None
    recorder = Recorder(Path(directory), RATE, 20, 5.0, 0, told.append, key)
    todo, began = plan(seed), time.monotonic()
    for at, pcm in blocks(seed):
        if float(pace):
            time.sleep(max(0.0, began + at / RATE / float(pace) - time.monotonic()))
        now_ns = T0 + (at + BLOCK) * FRAME_NS
        for step in todo:
            if at <= step.first < at + BLOCK:
                from_ns = T0 + step.first * FRAME_NS
                recorder.obey(StartRecording(line=1, call_id=step.call_id, from_ns=from_ns, up_ns=from_ns))
            if at <= step.last < at + BLOCK:
                until_ns = T0 + step.last * FRAME_NS
                recorder.obey(StopRecording(line=1, call_id=step.call_id, until_ns=until_ns, keep=True))
        recorder.take(AudioBlock(at_ns=T0 + at * FRAME_NS, pcm=pcm))
        recorder.tick(now_ns)
        closed = [[fact.call_id, fact.path, fact.sha256] for fact in told if isinstance(fact, RecordingReady)]
        os.write(1, json.dumps({"heard": at + BLOCK, "closed": closed}).encode() + b"\n")
    assert all(isinstance(fact, RecordingReady) for fact in told), told


if __name__ == "__main__":
    main(*sys.argv[1:])
