"""Copies of finished calls off the unit: a USB disk, a share, a server; whatever rclone reaches.

A process of its own (`tsuroku copies run`) copies and reads back; the unit starts it while nobody is calling and ends
it when somebody does. What a recording's record says is its SHA-256 is what must come back from there: until it does,
the call counts as not copied. How far it has got stands in `copies/state.json`, which the unit only reads.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from firmware.core.notices import hours_of, is_within
from firmware.records.log import make_directory, sync_directory
from firmware.records.store import CallReader
from firmware.records.upkeep import backup as copy_store
from firmware.records.upkeep import restore as restore_store
from firmware.settings import CopiesSettings

_log = logging.getLogger(__name__)

STATE = "copies/state.json"  # below the data folder
_STAGE = "copies/store"
_NICE = ("nice", "-n", "39")  # as far back as it goes, from wherever the recorder stands
_AT_ONCE = 20  # recordings; what a call cuts off is copied again
_AGAIN_NS = 600_000_000_000
_LATE_S = 3 * 86_400  # without a copy it is a fault


class CopyError(Exception):
    """Nothing can be copied: one sentence, which says how to mend it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far it has got. Times are Unix seconds by the unit's clock.

    number: of the last call, in the order of filing, that is there with its sound; erased: tombstones seen to.
    good_s: when all that there was was there; wrong: why not now.
    """

    remote: str
    number: int = 0
    erased: int = 0
    recordings: int = 0
    bytes: int = 0
    good_s: float | None = None
    begun_s: float
    wrong: str | None = None


def read_state(data: Path) -> State | None:
    """None: nothing was ever copied, or nobody can read how far."""
    try:
        return State(**json.loads((data / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write_state(data: Path, state: State) -> None:
    path = data / STATE
    make_directory(path.parent)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(asdict(state), file)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    sync_directory(path.parent)


class Remote:
    """Where copies go. Every method blocks for it, and raises CopyError."""

    def __init__(self, settings: CopiesSettings, data: Path) -> None:
        self._settings, self._data = settings, data
        self.name = settings.remote

    def check(self) -> None:
        """A folder of this machine must lie on another disk: what stands at the path of an absent one is the card."""
        if not self.name.startswith("/"):
            return
        path = Path(self.name)
        try:
            path.mkdir(exist_ok=True)
            same = path.stat().st_dev == self._data.stat().st_dev
        except OSError as error:
            raise CopyError(
                f"{path}: cannot be used ({error.strerror}); is the disk plugged in and mounted?"
            ) from error
        if same:
            raise CopyError(f"{path}: lies on the unit's own disk; is the USB disk plugged in and mounted?")

    def put(self, folder: Path, below: str, names: Sequence[str]) -> None:
        """Copy files of a folder; those that are there already stay."""
        with _listed(names) as listed:
            self._run("copy", "--files-from-raw", listed.name, "--no-traverse", str(folder), self._at(below))

    def sums(self, below: str, names: Sequence[str]) -> dict[str, str]:
        """SHA-256 of what comes back when files are read from there."""
        with _listed(names) as listed:
            said = self._run("hashsum", "sha256", "--download", "--files-from-raw", listed.name, self._at(below))
        return {name: digest for digest, _, name in (line.partition("  ") for line in said.splitlines())}

    def mirror(self, folder: Path, below: str) -> None:
        """Make a folder there what it is here, and compare each byte."""
        self._run("sync", str(folder), self._at(below))
        self._run("check", "--download", "--one-way", str(folder), self._at(below))

    def remove(self, below: str, pattern: str) -> None:
        self._run("delete", "--include", pattern, self._at(below))

    def get(self, below: str, folder: Path) -> None:
        self._run("copy", self._at(below), str(folder))

    def _at(self, below: str) -> str:
        return f"{self.name.rstrip('/')}/{below}" if not self.name.endswith(":") else f"{self.name}{below}"

    def _run(self, verb: str, *arguments: str) -> str:
        own = [*_NICE, "rclone", verb, "--config", str(self._settings.config_file or os.devnull), "--retries", "2"]
        own += ["--contimeout", "20s", "--timeout", "2m", "--transfers", "1", "--checkers", "2", "--stats", "0"]
        if self._settings.limit_kb_s:
            own += ["--bwlimit", f"{self._settings.limit_kb_s}k"]
        try:
            done = subprocess.run([*own, *arguments], capture_output=True, text=True, check=False)
        except OSError as error:
            raise CopyError(f"rclone cannot be started ({error.strerror}).") from error
        if done.returncode == 127:
            raise CopyError("the program rclone is not there; install the package rclone.")
        if done.returncode:
            raise CopyError(f"{self.name}: rclone {verb} failed: {_reason(done.stderr)}")
        return done.stdout


def _reason(said: str) -> str:
    """The last thing that rclone complains of, without its date and level."""
    lines = [line for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else "it says nothing"
    return last.partition(": ")[2][:200] or last[:200]


def _listed(names: Sequence[str]) -> IO[str]:
    file = tempfile.NamedTemporaryFile("w", prefix="tsuroku-", suffix=".txt")  # noqa: SIM115 - the caller closes it
    file.write("".join(f"{name}\n" for name in names))
    file.flush()
    return file


# -- there


def run(
    settings: CopiesSettings,
    data: Path,
    store: Path,
    now_s: float,
    progress: Callable[[float], None] = lambda part: None,
) -> State:
    """Copy what is not there yet, sound first, and the records. What is wrong stands in the state, and is tried again.

    Raises CopyError where it is under way already, OSError, StoreError.
    """
    make_directory(data / "copies")
    with (data / "copies" / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CopyError("It is being copied already, by the running unit or another command.") from error
        return _run(settings, data, store, now_s, progress)


def _run(settings: CopiesSettings, data: Path, store: Path, now_s: float, progress: Callable[[float], None]) -> State:
    state = read_state(data)
    if state is None or state.remote != settings.remote:
        state = State(remote=settings.remote, begun_s=now_s)
    remote = Remote(settings, data)
    try:
        remote.check()
        state = _recordings(remote, data, store, state, progress)
        copy_store(store, data / _STAGE)
        remote.mirror(data / _STAGE, "store")
        state = replace(state, good_s=now_s, wrong=None)
    except CopyError as error:
        # Beside what was got through meanwhile.
        state = replace(read_state(data) or state, wrong=str(error))
    _write_state(data, state)
    return state


def _recordings(remote: Remote, data: Path, store: Path, state: State, progress: Callable[[float], None]) -> State:
    reader = CallReader(store)
    try:
        erased = reader.tombstones()
        for stone in erased[state.erased :]:
            remote.remove("recordings", f"*/{stone['call_id']}.*")
        state = replace(state, erased=len(erased))
        calls, number = len(reader), state.number
        for batch, last in _batches(reader, data, state.number):
            state = _batch(remote, data, batch, replace(state, number=last))
            _write_state(data, state)
            number = last
            progress(min(1.0, number / max(calls, 1)))
    finally:
        reader.close()
    return state


def _batches(reader: CallReader, data: Path, after: int) -> Iterator[tuple[dict[str, Mapping[str, Any]], int]]:
    """By path below recordings: what the record says of it; and the number of the last call with it.

    An open call ends it: those behind it have their turn when it is over.
    """
    batch: dict[str, Mapping[str, Any]] = {}
    last = after
    for number, call in reader.numbered(after):
        recording = call["recording"]
        if call["outcome"] is None or (recording is None and call["no_recording"] == "not_ended"):
            break
        last = number
        if recording and not recording.get("deleted") and (data / recording["path"]).exists():
            batch[str(recording["path"]).removeprefix("recordings/")] = recording
        if len(batch) >= _AT_ONCE:
            yield batch, last
            batch = {}
    if last > after:
        yield batch, last


def _batch(remote: Remote, data: Path, batch: Mapping[str, Mapping[str, Any]], state: State) -> State:
    if not batch:
        return state
    remote.put(data / "recordings", "recordings", list(batch))
    there = remote.sums("recordings", list(batch))
    for name, recording in batch.items():
        if there.get(name) != recording["sha256"]:
            remote.remove("recordings", name)  # or it would stay as it is
            raise CopyError(f"{remote.name}: what came back of {name} is not what was recorded; it is copied again.")
    size = sum(recording["size_bytes"] for recording in batch.values())
    return replace(state, recordings=state.recordings + len(batch), bytes=state.bytes + size)


# -- and back


def restore(settings: CopiesSettings, data: Path, store: Path) -> tuple[str, int, list[str]]:
    """Bring everything back to where there is no store: its new id, recordings, and those that are not as recorded.

    Raises CopyError, OSError, StoreError.
    """
    remote = Remote(settings, data)
    remote.check()
    stage = data / "copies" / "restore" / "store"
    remote.get("store", stage)
    remote.get("recordings", data / "recordings")
    store_id = restore_store(stage, store)
    reader, number, wrong = CallReader(store), 0, []
    try:
        known = {
            str(call["recording"]["path"]): call["recording"]["sha256"]
            for call in reader.calls()
            if call["recording"] and not call["recording"].get("deleted")
        }
    finally:
        reader.close()
    for name, digest in known.items():
        number += 1
        if _sha256(data / name) != digest:
            wrong.append(name)
    return store_id, number, wrong


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


# -- when


class Copier:
    """Starts the process when there is time for it, and ends it when somebody calls. Thread: the loop's.

    command: what to start; note: takes what is wrong when nothing could be copied for days, and None when it could.
    """

    def __init__(
        self, settings: CopiesSettings, data: Path, command: Sequence[str], note: Callable[[str | None], None]
    ) -> None:
        self._settings, self._data, self._command, self._note = settings, data, command, note
        self._hours = hours_of(settings.window) if settings.window else None
        self._process: subprocess.Popen[bytes] | None = None
        self._next_ns = 0

    def tick(self, now: datetime, mono_ns: int, *, busy: bool) -> None:
        """Every few seconds, also while somebody calls."""
        if self._process is not None:
            if self._process.poll() is None:
                if busy or not self._may(now):
                    self.stop()
                return
            self._process = None
            self._look(now.timestamp())
        if not busy and mono_ns >= self._next_ns and self._may(now):
            self._next_ns = mono_ns + _AGAIN_NS
            self._process = subprocess.Popen(
                self._command, cwd=Path(__file__).parents[1], start_new_session=True, stdout=subprocess.DEVNULL
            )

    def _may(self, now: datetime) -> bool:
        return self._hours is None or is_within(now, self._hours)

    def stop(self) -> None:
        """End it now; what it was at is begun again."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(2)
        except (ProcessLookupError, PermissionError):
            pass
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process, self._next_ns = None, time.monotonic_ns() + 30_000_000_000

    def _look(self, now_s: float) -> None:
        state = read_state(self._data)
        if state is None or state.remote != self._settings.remote:
            return
        if state.wrong is None:
            self._note(None)
            return
        late = now_s - (state.good_s or state.begun_s) > _LATE_S
        _log.log(logging.WARNING if late else logging.INFO, 'event=not_copied reason="%s"', state.wrong)
        if late:
            self._note(state.wrong)
