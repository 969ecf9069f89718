"""How calls and events look on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from firmware.core.facts import Levels
from firmware.core.numbers import national

_COLOURS = {
    "answered": "green",
    "outgoing_answered": "green",
    "outgoing_unanswered": "yellow",
    "fax": "cyan",
    "missed": "red",
    "interrupted": "red",
    "too_short": "yellow",
    "joined_late": "yellow",
}
ABSENT = {
    "withheld": "number withheld",
    "unavailable": "number unavailable",
    "payphone": "payphone",
    "service_conflict": "service conflict",
    "not_received": "no number came",
    "corrupt": "number corrupt",
}
_BARS = " ▁▂▃▄▅▆▇█"


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        """The reader of a pipe went away: as for any output, no fault (rich would exit with 1)."""
        raise BrokenPipeError


def terminal(*, stderr: bool = False, picture: bool = False) -> Console:
    """Where people read. Text is shown as it is, since a caller's name may look like markup.

    Narrower than 80 columns the terminal itself folds the lines; a file gets them whole.
    """
    width = 110 if picture else None if (sys.stderr if stderr else sys.stdout).isatty() else 160
    console = _Terminal(stderr=stderr, width=width, record=picture, markup=False, emoji=False, highlight=False)
    console.width = max(console.width, 80)
    return console


def time_text(iso: str | None) -> str:
    """A UTC time in the zone of this machine."""
    if iso is None:
        return ""
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def caller_text(call: Mapping[str, Any]) -> str:
    """Who is at the other end, or why that is not known."""
    if call["direction"] == "outgoing":
        dialled = call["dialled"]
        return (national(dialled["number"]) or dialled["raw"]) if dialled else "number not known"
    return _caller_text(call["caller"])


def _caller_text(caller: Mapping[str, Any]) -> str:
    """caller: of a call's record, or of an event."""
    who = caller.get("national", caller.get("display")) or caller["raw"] or ABSENT[caller["presentation"]]
    region = caller["region_ja" if os.environ.get("LANG", "").startswith("ja") else "region_en"]
    return " ".join(filter(None, (who, caller["name"], region and f"({region})")))


def outcome_text(outcome: str | None) -> Text:
    return Text((outcome or "going on").replace("_", " "), style=_COLOURS.get(outcome or "", ""))


def event_text(body: Mapping[str, Any]) -> Text:
    """One line for an event as a subscriber gets it."""
    data = body["data"]
    kind = body["type"]
    line = Text(f"{time_text(body['time'])[11:]}  line {data['line']}  ")
    line.append(
        f"{kind:<16}", style="red" if kind == "call.missed" else "bold" if kind == "recording.ready" else "cyan"
    )
    if kind == "call.dialled":
        line.append(caller_text(data) if data["dialled"] else "outgoing call")
    elif kind == "call.ringing" and data["caller"]["presentation"] == "not_received":
        line.append("incoming call")
    elif kind in ("call.ringing", "call.caller_id", "call.answered"):
        line.append(caller_text(data))
    elif kind == "call.waiting":
        line.append(_caller_text(data["waiting"]))
    elif kind in ("callback.due", "callback.done"):
        line.append(_caller_text(data["caller"]) if data["caller"] else str(data["dialled"]["display"]))
    elif kind in ("call.ended", "call.missed"):
        line.append_text(outcome_text(data["outcome"]))
        if data["duration_s"] is not None:
            line.append(f", {data['duration_s']:.1f} s")
        if data["rings"]:
            line.append(f", {data['rings']} ring{'s' if data['rings'] > 1 else ''}")
        line.append(f", {caller_text(data)}")
    elif kind in ("recording.ready", "call.imported"):
        recording = data["recording"]
        line.append(f"{recording['path']}  {recording['duration_s']:.1f} s")
    elif kind == "recording.failed":
        line.append(data["reason"], style="red")
    return line


def level_text(levels: dict[str, Any]) -> str:
    """A recording's levels, with what is wrong with them first."""
    told = Levels(**levels)
    if told.loudest_dbfs is None:
        return "silent: nothing but zeros"
    wrong = ["silent"] if told.silent else []
    wrong += [f"clipped, {100 * told.clipped:.1f} % of it"] if told.overdriven else []
    wrong += [f"{told.hum_hz} Hz hum at {told.hum_dbfs:.0f} dBFS"] if told.hum_hz else []
    level = f"{told.rms_dbfs:.1f} dBFS, peak {told.peak_dbfs:.1f}, loudest second {told.loudest_dbfs:.1f}"
    return ", ".join([*wrong, level])


def waveform(path: Path, width: int) -> str:
    """The recording's envelope as one row of bars, -50 dBFS to full scale."""
    import numpy as np
    import soundfile

    pcm, _ = soundfile.read(path, dtype="int16")
    parts = np.array_split(np.abs(pcm.astype(np.int32)), max(1, min(width, len(pcm))))
    peaks = np.array([int(part.max()) for part in parts if len(part)])
    db = 20 * np.log10(np.maximum(peaks, 1) / 32768)
    return "".join(_BARS[int(np.clip((level + 50) / 50 * 8, 0, 8))] for level in db)
