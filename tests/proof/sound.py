"""A recording that power is cut from, 2,000 times, and whose process is killed, 500 times: it plays, and to its end.

Cuts: the recorder's calls to the system under strace, and at its writes and syncs the states that a cut may leave (the
model is tests/proof/cut_trace.py's). Kills: the same process, some times faster than real, killed at random. Plain and
sealed recordings alike; what was closed before does not change by a byte.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import soundfile

from firmware.core.call import Call, ClockRead
from firmware.core.facts import RecordingReady
from firmware.recording.leaves import Leaves
from firmware.recording.recorder import seed_in
from firmware.recording.repair import readable, repair
from firmware.recording.sealed import SUFFIX, unsealed
from tests.proof import sound_work as work
from tests.proof.cut_trace import MODES, Image, Replay, python, record, write_image
from tests.proof.report import Report

How = Literal["plain", "sealed"]
CUTS, KILLS = 2000, 500
_PER_TRACE = 125
_CUT_S, _KILL_S = 6.0, 1.0  # at most so much is missing
_PACE = 40  # times real time, of what is killed


@dataclass(slots=True)
class Outcome:
    states: int = 0
    open: int = 0  # states with a recording that was being written
    missing_s: list[float] = field(default_factory=list)  # of these

    def add(self, other: Outcome) -> None:
        self.states += other.states
        self.open += other.open
        self.missing_s += other.missing_s


def _call(call_id: str) -> Call:
    read = ClockRead(mono_ns=0, wall_ns=0, state="ntp")
    return Call(call_id=call_id, line=1, direction="incoming", boot_id="b", clock=read, opened_ns=1, answered_ns=2)


def look(root: Path, seed: str, how: How, said: dict[str, Any], within_s: float, outcome: Outcome) -> None:
    """What a cut or a kill left below root, after the process had said this. Raises AssertionError."""
    outcome.states += 1
    closed = {call_id: (root / path, digest) for call_id, path, digest in said["closed"]}
    for path, digest in closed.values():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, f"{path.name} was closed, and is not as it was"
    for step in work.plan(seed):
        heard = min(said["heard"], step.last) - step.first
        if step.call_id in closed or heard <= 0:
            continue
        files = {path: path.read_bytes() for path in root.glob(f"recordings/*/{step.call_id}.*")}
        ready, _ = repair(root, _call(step.call_id), 0)
        assert all(path.read_bytes() == data for path, data in files.items()), "the original was touched"
        outcome.open += 1
        frames = _plays(root, seed, how, step, ready) if ready else 0
        missing_s = (heard - frames) / work.RATE
        outcome.missing_s.append(missing_s)
        assert missing_s < within_s, f"{missing_s:.2f} s of {heard / work.RATE:.2f} s are missing"


def _plays(root: Path, seed: str, how: How, step: work.Step, ready: RecordingReady) -> int:
    """How many frames can be heard of it; each is the one that was on the wire."""
    path = root / ready.path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == ready.sha256
    if how == "sealed":
        assert path.suffix == SUFFIX
        plain = root / "plain.flac"
        with path.open("rb") as file, unsealed(file, work.owner(seed)) as sound:
            plain.write_bytes(sound.read())
        path = readable(plain)
    pcm = soundfile.read(path, dtype="int16")[0].tobytes()
    frames = len(pcm) // 2
    assert frames >= ready.frames and (how == "sealed" or frames == ready.frames)
    assert pcm == work.wire(seed, step.first, step.first + frames), "what plays is not what was on the wire"
    tree = Leaves(work.RATE, seed_in(path))
    tree.feed(pcm[: 2 * ready.frames])
    known = ready.root is None and ready.frames < work.RATE  # a sealed one that was cut in its first second
    assert known or ready.root == tree.root().hex(), "its hash tree is not that of its sound"
    return frames


def cut(seed: str, most: int) -> Outcome:
    """So many states that a power cut may leave."""
    outcome, number = Outcome(), 0
    with tempfile.TemporaryDirectory(prefix="sound-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as shop:
        while outcome.states < most:
            how: How = "plain" if number % 2 == 0 else "sealed"
            _cut_one(Path(shop), f"{seed}-{number}", how, min(_PER_TRACE, most - outcome.states), outcome)
            number += 1
    return outcome


def _cut_one(shop: Path, seed: str, how: How, most: int, outcome: Outcome) -> None:
    dice, root, trace = random.Random(seed), shop / "root", shop / "trace"
    _fresh(root, {})
    record(python("tests.proof.sound_work", root, seed, how), trace)
    moments = sum(1 for _ in Replay(root, {}).moments(trace))
    replay = Replay(root, {})
    nothing = {"heard": 0, "closed": []}
    chosen = set(dice.sample(range(moments), min(most, moments)))
    for number, moment in enumerate(replay.moments(trace)):
        if number not in chosen:
            continue
        mode = dice.choice(MODES)
        said = json.loads(replay.acks[-1]) if replay.acks else nothing
        _fresh(root, replay.disk.after_cut(mode, dice))
        try:
            look(root, seed, how, said, _CUT_S, outcome)
        except Exception as wrong:
            wrong.add_note(f"seed {seed}, {how}, moment {number} ({moment.call}), {mode}")
            raise


def _fresh(root: Path, image: Image) -> None:
    subprocess.run(["rm", "-rf", root], check=True)
    root.mkdir()
    write_image(image, root)


def kill(seed: str, most: int) -> Outcome:
    """kill -9 of the recorder, so often."""
    outcome = Outcome()
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="sound-") as shop:
        for number in range(most):
            how: How = "plain" if number % 2 == 0 else "sealed"
            _kill_one(Path(shop) / str(number), f"{seed}-{number}", how, dice, outcome)
    return outcome


def _kill_one(root: Path, seed: str, how: How, dice: random.Random, outcome: Outcome) -> None:
    root.mkdir()
    steps = work.plan(seed)
    target = dice.choice(steps)
    after = dice.randrange(target.first, target.last + work.RATE)
    said = {"heard": 0, "closed": []}
    with subprocess.Popen(
        python("tests.proof.sound_work", root, seed, how, _PACE), stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if said["heard"] >= after:
                time.sleep(dice.random() * 0.1 / _PACE)
                process.kill()
                break
        rest = process.stdout.read().splitlines()  # what it has said before it died
        if rest and rest[-1].endswith(b"}"):
            said = json.loads(rest[-1])
    try:
        look(root, seed, how, said, _KILL_S, outcome)
    except Exception as wrong:
        wrong.add_note(f"seed {seed}, {how}, killed after {said['heard']} frames")
        raise


def prove(report: Report) -> None:
    seed = str(secrets.randbelow(1_000_000))
    report.figure("seed", seed)
    for name, run, most in (("power cuts", cut, CUTS), ("kills", kill, KILLS)):
        whole, parts = Outcome(), 10
        for part in range(parts):
            whole.add(run(f"{seed}-{name}-{part}", most // parts))
            report.progress((0.5 if name == "kills" else 0.0) + 0.5 * (part + 1) / parts)
        worst = max(whole.missing_s)
        report.figure(name, f"{whole.states}, {whole.open} of them while a recording was written; all play")
        report.figure(f"sound missing after {name}", f"at most {worst:.2f} s")
