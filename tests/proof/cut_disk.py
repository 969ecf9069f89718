"""A disk that can be cut: a file of our own under a loop device, which writes down every write and every flush.

    python -m tests.proof.cut_disk IMAGE FILE LOG

serves IMAGE as FILE, over FUSE's own protocol (linux/fuse.h), and appends to LOG what the loop device does. A process
of its own, that touches nothing on the disk which it serves.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.proof.cut_trace import BLOCK, python

DISK_BYTES = 32 << 20
_GROUP = 2048  # blocks: so small that this small disk too has a second superblock, as every real partition has
_MOST_WRITE = 128 << 10
_IN, _OUT = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
_IO = struct.Struct("<QQIIQII")  # fh, offset, size, and what is of no use here
_RECORD = struct.Struct("<QI")
_FLUSH = (1 << 64) - 1  # as an offset
_UNANSWERED = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
_BIG_WRITES = 1 << 5


def missing() -> str | None:
    """Why there can be no such disk here; None: there can."""
    if os.geteuid() != 0:
        return "needs root"
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not Path(device).exists():
            return f"needs {device}"
    return next(
        (f"needs {tool}" for tool in ("mkfs.ext4", "e2fsck", "losetup", "mount") if not shutil.which(tool)), None
    )


# -- the server


def serve(image: Path, file: Path, log: Path) -> None:
    fuse = os.open("/dev/fuse", os.O_RDWR)
    disk = os.open(image, os.O_RDWR)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    options = f"fd={fuse},rootmode={stat.S_IFREG | 0o600:o},user_id=0,group_id=0".encode()
    if ctypes.CDLL(None, use_errno=True).mount(b"cut", os.fsencode(file), b"fuse", 0, options):
        raise OSError(ctypes.get_errno(), "FUSE cannot be mounted", str(file))
    os.write(1, b"ready\n")
    while True:
        try:
            request = os.read(fuse, _MOST_WRITE + 4096)
        except OSError as error:
            if error.errno == errno.ENODEV:  # it was unmounted
                return
            raise
        _, opcode, unique, *_ = _IN.unpack_from(request)
        if opcode in _UNANSWERED:
            continue
        answer = _answer(opcode, request[_IN.size :], disk, out)
        code, data = (0, answer) if isinstance(answer, bytes) else (-answer, b"")
        os.write(fuse, _OUT.pack(_OUT.size + len(data), code, unique) + data)


def _answer(opcode: int, request: bytes, disk: int, out: int) -> bytes | int:
    """What the kernel is told; a number is an errno."""
    match opcode:
        case 26:  # INIT
            return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, _BIG_WRITES, 16, 12, _MOST_WRITE, 1, 0, 0, 0)
        case 3 | 4:  # GETATTR, SETATTR
            times = struct.pack("<QQQIII", 0, 0, 0, 0, 0, 0)
            head = struct.pack("<QIIQQQ", 3600, 0, 0, 1, DISK_BYTES, DISK_BYTES // 512)
            return head + times + struct.pack("<IIIIIII", stat.S_IFREG | 0o600, 1, 0, 0, 0, 4096, 0)
        case 14:  # OPEN
            return struct.pack("<QII", 0, 0, 0)
        case 15:  # READ
            _, offset, size, *_ = _IO.unpack_from(request)
            return os.pread(disk, size, offset)
        case 16:  # WRITE
            _, offset, size, *_ = _IO.unpack_from(request)
            data = request[_IO.size : _IO.size + size]
            os.write(out, _RECORD.pack(offset, size) + data)
            os.pwrite(disk, data, offset)
            return struct.pack("<II", size, 0)
        case 20:  # FSYNC
            os.write(out, _RECORD.pack(_FLUSH, 0))
            return b""
        case 17:  # STATFS
            return bytes(80)
        case 18 | 25 | 38:  # RELEASE, FLUSH (of a descriptor: at close), DESTROY
            return b""
    return errno.ENOSYS


# -- its user


class Write(NamedTuple):
    offset: int
    data: bytes | None  # None: a flush


@dataclass(frozen=True, slots=True)
class Rig:
    """A fresh ext4 on a disk of ours, mounted."""

    work: Path

    @property
    def root(self) -> Path:
        return self.work / "mounted"

    @property
    def image(self) -> Path:
        return self.work / "image"

    @property
    def log(self) -> Path:
        return self.work / "log"

    def make(self) -> bytes:
        """Returns what is on the disk before anything is done."""
        self.root.mkdir(exist_ok=True)
        self.image.write_bytes(b"")
        os.truncate(self.image, DISK_BYTES)
        _run("mkfs.ext4", "-q", "-b", "4096", "-g", _GROUP, "-J", "size=4", "-E", "lazy_itable_init=0", self.image)
        return self.image.read_bytes()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        served = self.work / "served"
        served.touch()
        self.log.unlink(missing_ok=True)
        server = subprocess.Popen(
            python("tests.proof.cut_disk", self.image, served, self.log), stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        with server.stdout as said:
            assert said.readline() == "ready\n", "the disk is not served"
        try:
            with mounted(served, self.root):
                yield
        finally:
            _run("umount", served)
            server.wait(20)

    def writes(self) -> Iterator[tuple[int, Write]]:
        """What was done to the disk, each with where it ends in the log."""
        data, at = self.log.read_bytes(), 0
        while at < len(data):
            offset, size = _RECORD.unpack_from(data, at)
            at += _RECORD.size + size
            yield at, Write(offset, None) if offset == _FLUSH else Write(offset, data[at - size : at])


@contextlib.contextmanager
def mounted(image: Path, root: Path) -> Iterator[None]:
    """Raises subprocess.CalledProcessError where the kernel refuses to mount it."""
    loop = _run("losetup", "--find", "--show", image).strip()
    try:
        _run("mount", "-t", "ext4", loop, root)
        try:
            yield
        finally:
            _run("umount", root)
    finally:
        _run("losetup", "--detach", loop)


def repaired(image: Path) -> None:
    """What the unit does before it mounts: an unattended check. Raises AssertionError where something is left."""
    done = subprocess.run(["e2fsck", "-fy", image], capture_output=True, text=True, check=False)
    if done.returncode & 8:  # the first superblock is torn; on a real partition e2fsck finds the second by itself
        second = ["e2fsck", "-fy", "-b", str(_GROUP), "-B", "4096", str(image)]
        done = subprocess.run(second, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout[-2000:]


def after_cut(stable: bytes | bytearray, pending: list[Write], dice: random.Random) -> bytearray:
    """The disk when the power is back: each sector of what no flush has followed is kept or lost."""
    image = bytearray(stable)
    sectors = [
        (write.offset + at, write.data[at : at + BLOCK])
        for write in pending
        if write.data is not None
        for at in range(0, len(write.data), BLOCK)
    ]
    share, cut = dice.choice((0.0, 0.1, 0.5, 0.9, 1.0)), dice.randrange(len(sectors) + 1)
    ordered = dice.random() < 0.3
    for number, (at, data) in enumerate(sectors):
        if number < cut if ordered else dice.random() < share:
            image[at : at + len(data)] = data
    return image


def _run(*command: object) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    serve(*map(Path, sys.argv[1:]))
