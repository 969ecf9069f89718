"""Repair at start: a recording that a crash left open gets a readable copy beside the untouched original."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import soundfile

from firmware.core.call import Call
from firmware.core.facts import RecordingReady
from firmware.recording.flac import copied
from firmware.recording.levels import levels_of
from firmware.recording.recorder import fingerprint, root_of_file, started_ns, told_outside
from firmware.recording.sealed import SUFFIX, SealError

_WITHOUT_WARNING = "the unit stopped without warning"


def repair(directory: Path, call: Call, at_ns: int) -> tuple[RecordingReady | None, bool]:
    """What is left of a call's recording below directory.

    Returns (recording, repaired). A whole file is returned as it is; of a cut one, all whole FLAC blocks are copied to
    CALL_ID.repaired.flac; None if there is no file or no whole block in it. at_ns: now.
    Raises OSError if the copy cannot be written.
    """
    found = next((directory / "recordings").glob(f"*/{call.call_id}.flac"), None)
    if found is None:
        return _sealed(directory, call, at_ns), False
    from_ns = started_ns(found, call.answered_ns or call.opened_ns)
    frames, rate_hz, whole = copied(found, None)
    if not frames:
        return None, False
    path = found
    if not whole:
        path = found.with_suffix(".repaired.flac")
        part = path.with_suffix(".part")
        try:
            if copied(found, part)[0] != frames or soundfile.info(part).frames != frames:
                raise OSError(errno.EIO, "the copy is not as long as what it was made from")
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.chmod(0o600)
            part.rename(path)
        except soundfile.SoundFileError as error:
            raise OSError(errno.EIO, str(error)) from error
        finally:
            part.unlink(missing_ok=True)
    size, digest = fingerprint(path)
    root = root_of_file(path)
    ready = RecordingReady(
        at_ns=at_ns,
        line=call.line,
        call_id=call.call_id,
        path=str(path.relative_to(directory)),
        from_ns=from_ns,
        frames=frames,
        rate_hz=rate_hz,
        size_bytes=size,
        sha256=digest,
        root=root.hex() if root else None,
        cut_short=None if whole else _WITHOUT_WARNING,
        levels=levels_of(path, max(0, ((call.answered_ns or from_ns) - from_ns) * rate_hz // 1_000_000_000)),
    )
    return ready, not whole


def readable(path: Path) -> Path:
    """A FLAC file that may have been cut; of a cut one, a copy beside it, as far as it goes. Raises OSError."""
    frames, _, whole = copied(path, None)
    if whole or not frames:
        return path
    copy = path.with_suffix(".repaired.flac")
    copied(path, copy)
    return copy


def _sealed(directory: Path, call: Call, at_ns: int) -> RecordingReady | None:
    """A sealed recording needs no copy to be read as far as it goes, and this unit could not make one."""
    found = next((directory / "recordings").glob(f"*/{call.call_id}.flac{SUFFIX}"), None)
    if found is None:
        return None
    try:
        told = told_outside(found)
    except SealError:
        return None
    if not told.frames:
        return None
    size, digest = fingerprint(found)
    return RecordingReady(
        at_ns=at_ns,
        line=call.line,
        call_id=call.call_id,
        path=str(found.relative_to(directory)),
        from_ns=told.from_ns,
        frames=told.frames,
        rate_hz=told.rate_hz,
        size_bytes=size,
        sha256=digest,
        root=told.root.hex() if told.root else None,
        cut_short=None if told.whole else _WITHOUT_WARNING,
    )
