"""What a power cut can leave of a directory: a traced process's calls, replayed onto a disk that may forget.

The model is harsher than ext4:
- A write is cut into blocks of 512 bytes, the one in flight into 64. Until its file is synced each block is kept or
  lost on its own, in any order. A lost one holds what was there before; where there was nothing, zeros.
- A file that grew may have its new size without its data. A truncation is kept or lost until its file is synced.
- A name (of a file made, renamed, removed; of a directory made) is kept or lost on its own until its directory is
  synced; syncing the file does not do it. Names in a directory whose own name is lost are lost.
- fsync and fdatasync keep what they promise: the disk does not lie. What is on it does not rot.
ext4's own states (names and sizes in order, by its journal) are among these.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

BLOCK, TEAR = 512, 64
Image = dict[str, bytes | None]  # by path below the root; None: a directory
_CALLS = (
    "openat,open,creat,close,dup,dup2,dup3,fcntl,lseek,write,pwrite64,truncate,ftruncate,fsync,fdatasync,sync,syncfs,"
    "rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat"
)
_REFUSED = "writev,pwritev,pwritev2,sendfile,copy_file_range,fallocate,symlink,symlinkat"  # not in the model
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED = re.compile(r"(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)$")
_ARGUMENT = re.compile(r'"([^"]*)"|([^,\s][^,]*)')
_DIRECTORY = -1

Mode = Literal["all", "none", "prefix", "suffix", "random", "one lost", "one kept"]
MODES: tuple[Mode, ...] = ("all", "none", "prefix", "suffix", "random", "one lost", "one kept")


def record(command: Sequence[str], trace: Path) -> None:
    """Run a command to its end, with all that it does to files written down."""
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-xx", "-s", "16777216", "-e", "signal=none"]
    strace += ["-e", f"trace={_CALLS},{_REFUSED}"]
    done = subprocess.run([*strace, "-o", trace, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: list[bytes]
    result: int


def calls(trace: Path) -> Iterator[Call]:
    """Those that succeeded, in the order in which they returned."""
    begun: dict[str, str] = {}
    with trace.open(encoding="ascii") as file:
        for text in file:
            if cut := _UNFINISHED.match(text):
                begun[cut[1]] = cut[2]
                continue
            if rest := _RESUMED.match(text):
                text = f"{rest[1]} {begun.pop(rest[1])}{rest[2]}"
            line = _LINE.match(text)
            if line and int(line[4]) >= 0:
                yield Call(line[2], [_argument(found) for found in _ARGUMENT.finditer(line[3])], int(line[4]))


def _argument(found: re.Match[str]) -> bytes:
    return bytes.fromhex(found[1].replace("\\x", "")) if found[1] is not None else found[2].strip().encode()


@dataclass(slots=True, eq=False)
class Change:
    """One that is not synced yet. Of a file (a write, a truncation), or of names."""

    order: int
    inode: int = _DIRECTORY
    offset: int = 0
    data: bytes | None = None  # None: a truncation to `offset`
    names: Mapping[str, int | None] | None = None  # what each name stands for from now on
    flying: bool = True  # the call has not returned

    def pieces(self) -> list[tuple[int, bytes]]:
        if self.data is None:
            return [(self.offset, b"")]
        step = TEAR if self.flying else BLOCK
        cuts = [self.offset, *range((self.offset // step + 1) * step, self.offset + len(self.data), step)]
        ends = [*cuts[1:], self.offset + len(self.data)]
        return [(at, self.data[at - self.offset : end - self.offset]) for at, end in zip(cuts, ends, strict=True)]


@dataclass(slots=True)
class _Opened:
    path: str
    inode: int
    at: int = 0


@dataclass(slots=True)
class Disk:
    """The directory as the process sees it, and what of it is certain to be there after a power cut."""

    names: dict[str, int] = field(default_factory=dict)
    stable_names: dict[str, int] = field(default_factory=dict)
    content: dict[int, bytearray] = field(default_factory=dict)  # of files: as the process sees it
    stable: dict[int, bytes] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)
    order: int = 0

    @staticmethod
    def of(image: Image) -> Disk:
        disk = Disk()
        for number, (path, data) in enumerate(image.items()):
            disk.names[path] = disk.stable_names[path] = _DIRECTORY if data is None else number
            if data is not None:
                disk.content[number], disk.stable[number] = bytearray(data), data
        return disk

    def change(self, change: Change) -> None:
        self.order += 1
        change.order = self.order
        self.pending.append(change)
        if change.names is not None:
            for name, inode in change.names.items():
                if inode is None:
                    self.names.pop(name, None)
                else:
                    self.names[name] = inode
            return
        _apply(self.content[change.inode], change.offset, change.data)

    def sync(self, wanted: Callable[[Change], bool]) -> None:
        kept: list[Change] = []
        touched: dict[int, bytearray] = {}
        for change in self.pending:
            if not wanted(change):
                kept.append(change)
            elif change.names is not None:
                _rename(self.stable_names, change.names)
            else:
                content = touched.setdefault(change.inode, bytearray(self.stable[change.inode]))
                _apply(content, change.offset, change.data)
        self.stable.update((inode, bytes(content)) for inode, content in touched.items())
        self.pending = kept

    def after_cut(self, mode: Mode, dice: random.Random) -> Image:
        """One of the directories that may be found when the power is back."""
        pieces = [(change, at, data) for change in self.pending for at, data in change.pieces()]
        cut = dice.randrange(len(pieces) + 1) if pieces else 0
        share = dice.choice((0.1, 0.3, 0.5, 0.7, 0.9))
        match mode:
            case "all":
                keep = [True] * len(pieces)
            case "none":
                keep = [False] * len(pieces)
            case "prefix" | "suffix":
                keep = [(number < cut) == (mode == "prefix") for number in range(len(pieces))]
            case "one lost" | "one kept":
                keep = [(number == cut) == (mode == "one kept") for number in range(len(pieces))]
            case "random":
                keep = [dice.random() < share for _ in pieces]
        names = dict(self.stable_names)
        content: dict[int, bytearray] = {}
        for (change, at, data), kept in zip(pieces, keep, strict=True):
            if not kept:
                continue
            if change.names is not None:
                _rename(names, change.names)
                continue
            file = content.setdefault(change.inode, bytearray(self.stable[change.inode]))
            _apply(file, at, data if change.data is not None else None)
        image: Image = {}
        for path in sorted(names):
            parent = path.rpartition("/")[0]
            if parent and image.get(parent, b"") is not None:
                continue  # its directory is not there
            inode = names[path]
            if inode == _DIRECTORY:
                image[path] = None
                continue
            data = bytes(content.get(inode, self.stable[inode]))
            grown = len(self.content[inode]) - len(data)
            if grown > 0 and mode not in ("none", "prefix") and dice.random() < 0.3:
                data += bytes(grown)  # the size was kept, the data was not
            image[path] = data
        return image


def _apply(content: bytearray, at: int, data: bytes | None) -> None:
    end = at + len(data or b"")
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if data is None:
        del content[at:]
    else:
        content[at:end] = data


def _rename(names: dict[str, int], change: Mapping[str, int | None]) -> None:
    for name, inode in change.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


@dataclass(frozen=True, slots=True)
class Moment:
    """Right before a call returns, or right after an acknowledgement."""

    call: str
    changed: bool  # the call is a change: it is in flight, and torn


class Replay:
    """Goes through a trace. acks: the lines written to stdout so far."""

    def __init__(self, root: Path, image: Image) -> None:
        self.disk, self.acks = Disk.of(image), list[bytes]()
        self._root = os.fsencode(root)
        self._open: dict[int, _Opened] = {}
        self._next = len(image)

    def moments(self, trace: Path) -> Iterator[Moment]:
        """Between two of them `disk` and `acks` are as they were at that moment."""
        for call in calls(trace):
            before = self.disk.order
            sync = self._does(call)
            if call.name == "write" and call.arguments[0] == b"1":
                self.acks += call.arguments[1].splitlines()
                yield Moment("ack", False)
            elif self.disk.order != before:
                yield Moment(call.name, True)
                for change in self.disk.pending:
                    change.flying = False
            elif sync:
                yield Moment(call.name, False)
                self.disk.sync(sync)

    def _below(self, path: bytes) -> str | None:
        whole = os.path.normpath(path)
        assert whole.startswith(b"/") or self._root not in whole
        if whole == self._root:
            return ""
        return os.fsdecode(whole[len(self._root) + 1 :]) if whole.startswith(self._root + b"/") else None

    def _descriptor(self, call: Call) -> _Opened | None:
        return self._open.get(int(call.arguments[0])) if call.arguments[0].isdigit() else None

    def _does(self, call: Call) -> Callable[[Change], bool] | None:
        """Do it. Returns which changes it syncs, if it is a sync."""
        disk, arguments = self.disk, call.arguments
        opened = self._descriptor(call) if arguments else None
        match call.name:
            case "openat" | "open" | "creat":
                self._opens(call)
            case "close":
                self._open.pop(int(arguments[0]), None)
            case "dup" | "dup2" | "dup3" if opened:
                self._open[call.result] = opened
            case "fcntl" if opened and arguments[1].startswith(b"F_DUPFD"):
                self._open[call.result] = opened
            case "lseek" if opened:
                opened.at = call.result
            case "write" if opened:
                disk.change(Change(0, opened.inode, opened.at, arguments[1][: call.result]))
                opened.at += call.result
            case "pwrite64" if opened:
                disk.change(Change(0, opened.inode, int(arguments[3]), arguments[1][: call.result]))
            case "ftruncate" if opened:
                disk.change(Change(0, opened.inode, int(arguments[1])))
            case "truncate":
                if (path := self._below(arguments[0])) is not None:
                    disk.change(Change(0, disk.names[path], int(arguments[1])))
            case "fsync" | "fdatasync" if opened:
                if opened.inode == _DIRECTORY:
                    here = opened.path
                    return lambda change: any(name.rpartition("/")[0] == here for name in change.names or ())
                inode = opened.inode
                return lambda change: change.names is None and change.inode == inode
            case "sync" | "syncfs":
                return lambda change: True
            case "rename" | "renameat" | "renameat2" | "link" | "linkat":
                old, new = [self._below(path) for path in arguments if path.startswith(b"/")]
                assert (old is None) == (new is None), "a file was moved into the directory, or out of it"
                if old is not None and new is not None:
                    gone = {} if call.name.startswith("link") else {old: None}
                    disk.change(Change(0, names={new: disk.names[old], **gone}))
            case "unlink" | "unlinkat" | "rmdir":
                if (path := self._path(arguments)) is not None:
                    disk.change(Change(0, names={path: None}))
            case "mkdir" | "mkdirat":
                if path := self._path(arguments):
                    disk.change(Change(0, names={path: _DIRECTORY}))
            case name if name in _REFUSED.split(","):
                assert not opened and self._path(arguments) is None, f"{name} is not in the model"
        return None

    def _path(self, arguments: Sequence[bytes]) -> str | None:
        """Of the file that a call names; with a descriptor of its directory before it, or without."""
        if arguments[0].startswith(b"/"):
            return self._below(arguments[0])
        if len(arguments) > 1 and arguments[1].startswith(b"/"):
            return self._below(arguments[1])
        directory = self._descriptor(Call("", list(arguments), 0))
        if directory and len(arguments) > 1:
            return f"{directory.path}/{os.fsdecode(arguments[1])}".lstrip("/")
        return None

    def _opens(self, call: Call) -> None:
        path = self._path(call.arguments)
        if path is None:
            return
        flags = {flag for each in call.arguments for flag in each.split(b"|")} if call.name != "creat" else {b"O_TRUNC"}
        assert not flags & {b"O_SYNC", b"O_DSYNC", b"O_APPEND"}, f"{path}: {flags} are not in the model"
        if path == "" or self.disk.names.get(path) == _DIRECTORY:
            self._open[call.result] = _Opened(path, _DIRECTORY)
            return
        inode = self.disk.names.get(path)
        if inode is None:
            self._next += 1
            inode = self._next
            self.disk.content[inode], self.disk.stable[inode] = bytearray(), b""
            self.disk.change(Change(0, names={path: inode}))
        elif b"O_TRUNC" in flags and self.disk.content[inode]:
            self.disk.change(Change(0, inode, 0))
        self._open[call.result] = _Opened(path, inode)


def write_image(image: Image, root: Path) -> None:
    for path, data in image.items():
        if data is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(data)
