"""Sound files that a scenario lets people say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import soundfile

VOICES = Path(__file__).parent / "voices"


def fault(path: Path) -> str | None:
    """Say in a few words why this file cannot be used as speech; None when it can."""
    if not path.is_file():
        return "there is no such file"
    try:
        about = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        return str(error.error_string).rstrip(".").lower()
    return None if about.frames else "it is empty"


def length_ns(path: Path) -> int:
    """Say how long a file plays."""
    about = soundfile.info(str(path))
    return int(about.frames) * 1_000_000_000 // int(about.samplerate)


def read(path: Path) -> tuple[Any, int]:
    """Read a whole file: a numpy float32 array of shape (frames, channels), and its rate in Hz."""
    frames, rate_hz = soundfile.read(str(path), dtype="float32", always_2d=True)
    return frames, int(rate_hz)
