"""Repair on a card that fails: a copy is whole or not there at all."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from pytest_mock import MockerFixture

from firmware.core.call import Call, ClockRead
from firmware.recording.leaves import Leaves
from firmware.recording.repair import repair

CALL_ID = "019abcde-0000-7000-8000-000000000001"
RATE = 8000


def open_call() -> Call:
    read = ClockRead(mono_ns=0, wall_ns=0, state="ntp")
    return Call(call_id=CALL_ID, line=1, direction="incoming", boot_id="b", clock=read, opened_ns=1, answered_ns=2)


def cut_recording(directory: Path) -> Path:
    """10 s of noise, of which 8 are left."""
    path = directory / "recordings/2025-11" / f"{CALL_ID}.flac"
    path.parent.mkdir(parents=True)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16", format="FLAC") as file:
        file.comment = f"monotonic ns of the first frame: 5; seed of its leaves: {'ab' * 32}"
        file.buffer_write(random.Random(1).randbytes(10 * RATE * 2), "int16")
    os.truncate(path, path.stat().st_size * 8 // 10)
    return path


def root_of(path: Path) -> str:
    leaves = Leaves(RATE, bytes.fromhex("ab" * 32))
    leaves.feed(soundfile.read(path, dtype="int16")[0].tobytes())
    return leaves.root().hex()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Path]:
    """A card of 400 KiB."""
    mount = tmp_path / "card"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs can be mounted by root only")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize("free", [0, 4096, 64 * 1024])
def test_a_full_card_gives_no_copy(card: Path, free: int) -> None:
    path = cut_recording(card)
    before = path.read_bytes()
    room = os.statvfs(card)
    (card / "filler").write_bytes(bytes(room.f_bavail * room.f_frsize - free))
    with pytest.raises(OSError, match=r"."):  # in the words of whoever noticed
        repair(card, open_call(), at_ns=7)
    assert names(card) == sorted([path.name, "filler"])
    (card / "filler").unlink()
    ready, repaired = repair(card, open_call(), at_ns=7)
    assert ready is not None and repaired
    assert soundfile.info(card / ready.path).frames == ready.frames > 7 * RATE
    assert ready.root == root_of(card / ready.path)
    assert path.read_bytes() == before
    assert len(names(card)) == 2


def test_a_sync_that_fails_leaves_no_copy(tmp_path: Path, mocker: MockerFixture) -> None:
    path = cut_recording(tmp_path)
    mocker.patch("os.fsync", side_effect=OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output error"):
        repair(tmp_path, open_call(), at_ns=7)
    assert names(tmp_path) == [path.name]
