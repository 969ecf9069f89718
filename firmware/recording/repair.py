"""Repair at start: a recording that a crash left open gets a readable copy beside the untouched original."""

from __future__ import annotations

import os
from pathlib import Path

import soundfile

from firmware.core.call import Call
from firmware.core.facts import RecordingReady
from firmware.recording.recorder import fingerprint, started_ns

_BLOCK = 128  # divides every FLAC block size in use: a read that meets the cut loses nothing before it


def repair(directory: Path, call: Call, at_ns: int) -> tuple[RecordingReady | None, bool]:
    """What is left of a call's recording below directory.

    Returns (recording, repaired). A whole file is returned as it is; of a cut one, all whole FLAC blocks are copied to
    CALL_ID.repaired.flac; None if there is no file or no whole block in it. at_ns: now.
    Raises OSError if the copy cannot be written.
    """
    found = next((directory / "recordings").glob(f"*/{call.call_id}.flac"), None)
    if found is None:
        return None, False
    from_ns = started_ns(found, call.answered_ns or call.opened_ns)
    frames, rate_hz, whole = _copy(found, None)
    if not frames:
        return None, False
    path = found
    if not whole:
        path = found.with_suffix(".repaired.flac")
        part = path.with_suffix(".part")
        _copy(found, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(path)
    size, digest = fingerprint(path)
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
        cut_short=None if whole else "the unit stopped without warning",
    )
    return ready, not whole


def _copy(source: Path, target: Path | None) -> tuple[int, int, bool]:
    """Read a FLAC file as far as it goes, into target if given. Returns (frames, rate_hz, the header agrees)."""
    frames, rate_hz = 0, 0
    writer: soundfile.SoundFile | None = None
    try:
        with soundfile.SoundFile(source) as reader:
            rate_hz = reader.samplerate
            said = reader.frames
            if target:
                writer = soundfile.SoundFile(target, "w", rate_hz, reader.channels, "PCM_16", format="FLAC")
            while True:
                pcm = reader.buffer_read(_BLOCK, "int16")
                if not len(pcm):
                    break
                frames += len(pcm) // 2
                if writer:
                    writer.buffer_write(pcm, "int16")
    except soundfile.SoundFileError:
        said = -1  # cut in its header or in a block
    finally:
        if writer:
            writer.close()
    return frames, rate_hz, frames == said
