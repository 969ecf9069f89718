"""FLAC files that end in the middle."""

from __future__ import annotations

import contextlib
from pathlib import Path

import soundfile

TAGS = ("title", "comment", "artist", "date", "software")  # the comment holds the seed of the leaves
_BLOCK = 128  # divides every FLAC block size in use: a read that meets the cut loses nothing before it


def copied(source: Path, target: Path | None) -> tuple[int, int, bool]:
    """Read a FLAC file as far as it goes, into target if given. Returns (frames, rate_hz, the header agrees).

    Raises SoundFileError if target cannot be written; a source that is cut short ends quietly.
    """
    frames, rate_hz, said = 0, 0, -1
    with contextlib.ExitStack() as stack:
        try:
            reader = stack.enter_context(soundfile.SoundFile(source))
        except soundfile.SoundFileError:
            return 0, 0, False  # cut in its header
        rate_hz, said = reader.samplerate, reader.frames
        writer = None
        if target:
            file = soundfile.SoundFile(target, "w", rate_hz, reader.channels, "PCM_16", format="FLAC")
            writer = stack.enter_context(file)
            for tag in TAGS:
                if text := getattr(reader, tag):
                    setattr(writer, tag, text)
        while True:
            try:
                pcm = reader.buffer_read(_BLOCK, "int16")
            except soundfile.SoundFileError:
                return frames, rate_hz, False  # cut in a block
            if not len(pcm):
                return frames, rate_hz, frames == said
            frames += len(pcm) // 2
            if writer:
                writer.buffer_write(pcm, "int16")
