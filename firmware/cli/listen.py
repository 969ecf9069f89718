"""tsuroku listen: what is signalled in sound files."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from drivers.signals import AudioBlock, CallerIdReceived, CasHeard, Country, KeyHeard, Signal, ToneHeard
from drivers.softmodem.listener import SETTLED_S, SoftModem
from firmware.cli.main import InputError, json_line
from firmware.cli.show import terminal

_BLOCK_S = 0.5
_RATES_HZ = (4000, 192_000)
_CHANNELS = 32
_ONE_DIALLING_NS = 4_000_000_000  # keys further apart than this are two facts
_COLOURS = {"caller_id": "bold green", "dtmf": "cyan", "tone": "", "cas": "yellow", "fax": "yellow"}

Frames = np.ndarray[tuple[int, int], np.dtype[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One fact heard in a file. name: the caller's, or a tone's. reason: why there is no number."""

    file: str
    at_s: float
    channel: int  # counts from 1
    kind: Literal["caller_id", "dtmf", "tone", "cas", "fax"]
    standard: str | None = None
    number: str | None = None
    name: str | None = None
    reason: str | None = None
    date: str | None = None
    checksum: Literal["ok", "absent", "failed"] | None = None
    digits: str | None = None


def listen(args: argparse.Namespace) -> int:
    unusable = []
    with Progress(
        console=terminal(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        shown = bar.console if sys.stdout.isatty() and sys.stderr.isatty() else terminal()
        for path in args.files:
            task = bar.add_task(path.name, total=1.0)
            try:
                for fact in hear(path, args.country, lambda part, task=task: bar.update(task, completed=part)):  # type: ignore[misc]
                    if args.json:
                        print(json_line(asdict(fact)), flush=True)
                    else:
                        _show(shown, fact, several=len(args.files) > 1)
            except InputError as error:
                unusable.append(str(error))
            bar.remove_task(task)
    if unusable:
        raise InputError("\n".join(unusable))
    return 0


def _show(shown: Console, fact: Fact, *, several: bool) -> None:
    minutes, seconds = divmod(fact.at_s, 60)
    line = Text(f"{fact.file}  " if several else "")
    line.append(f"{minutes:3.0f}:{seconds:05.2f}  channel {fact.channel}  ", style="dim")
    line.append(f"{fact.kind.replace('_', ' '):<10}", style=_COLOURS[fact.kind])
    if fact.kind == "caller_id":
        said = [fact.number or (fact.reason or "").replace("_", " "), fact.name, fact.date, fact.standard]
        line.append("  ".join(part for part in said if part))
        line.append("" if fact.checksum == "ok" else f"  checksum {fact.checksum}", style="red")
    else:
        line.append(fact.digits or (fact.name or "").replace("_", " "))
    shown.print(line)


def hear(path: Path, country: Country, progress: Callable[[float], None] = lambda part: None) -> Iterator[Fact]:
    """What is signalled in a file, as it is heard. Raises InputError where there is no sound in it."""
    try:
        if not path.is_file() and not path.is_dir() and path.exists():
            raise InputError(f"{path}: is a device or a pipe; give the path of a sound file.")
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a sound file.") from error
    sound = _Sound(path)
    channels: list[_Channel] = []
    taken = 0
    for frames in sound.blocks():
        if not channels:
            channels = [_Channel(str(path), n, country, sound.rate_hz) for n in range(1, frames.shape[1] + 1)]
        pcm = np.rint(np.nan_to_num(np.clip(frames, -1, 1)) * 32767).astype("<i2")
        at_ns = taken * 1_000_000_000 // sound.rate_hz
        for number, channel in enumerate(channels):
            yield from channel.hear(AudioBlock(at_ns=at_ns, pcm=pcm[:, number].tobytes()))
        taken += len(frames)
        if sound.length_s:
            progress(min(1.0, taken / sound.rate_hz / sound.length_s))
    if not channels:
        raise InputError(f"{path}: has no sound in it; give a sound file.")
    for channel in channels:
        yield from channel.end(taken)


class _Channel:
    def __init__(self, file: str, channel: int, country: Country, rate_hz: int) -> None:
        self._file, self._channel, self._rate_hz = file, channel, rate_hz
        self._modem = SoftModem(channel, country, rate_hz)
        self._keys: list[KeyHeard] = []

    def hear(self, block: AudioBlock) -> Iterator[Fact]:
        for signal in self._modem.feed(block):
            yield from self._take(signal)

    def end(self, taken: int) -> Iterator[Fact]:
        """taken: frames of the whole file. What is going on at its end ends there."""
        silence = SETTLED_S * self._rate_hz
        at_ns = (taken + silence) * 1_000_000_000 // self._rate_hz
        yield from self.hear(AudioBlock(at_ns=at_ns, pcm=b"", lost_frames=silence))
        yield from self._dialled()

    def _take(self, signal: Signal) -> Iterator[Fact]:
        if isinstance(signal, KeyHeard):
            if self._keys and signal.at_ns - self._keys[-1].until_ns > _ONE_DIALLING_NS:
                yield from self._dialled()
            self._keys.append(signal)
            return
        match signal:
            case CallerIdReceived():
                if signal.source == "line_dtmf":  # one fact with its keys
                    self._keys = [key for key in self._keys if key.at_ns < signal.at_ns]
                yield self._fact(
                    "caller_id",
                    signal.at_ns,
                    standard=signal.standard,
                    number=signal.number,
                    name=signal.name,
                    reason=None if signal.presentation == "allowed" else signal.presentation,
                    date=signal.date_raw,
                    checksum=(
                        "failed"
                        if signal.presentation == "corrupt"
                        else "absent"
                        if signal.source == "line_dtmf"
                        else "ok"
                    ),
                )
            case CasHeard():
                yield self._fact("cas", signal.at_ns)
            case ToneHeard(over=True):
                kind: Literal["fax", "tone"] = "fax" if signal.tone in ("cng", "ced") else "tone"
                yield self._fact(kind, signal.at_ns, name=signal.tone)

    def _dialled(self) -> Iterator[Fact]:
        if self._keys:
            yield self._fact("dtmf", self._keys[0].at_ns, digits="".join(key.key for key in self._keys))
            self._keys = []

    def _fact(self, kind: Literal["caller_id", "dtmf", "tone", "cas", "fax"], at_ns: int, **known: Any) -> Fact:
        return Fact(file=self._file, at_s=round(at_ns / 1e9, 3), channel=self._channel, kind=kind, **known)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """libmpg123, below libsndfile, writes what it thinks of a file to the terminal by itself: that goes nowhere."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


class _Sound:
    """The sound of a file, read by libsndfile, or by ffmpeg where libsndfile cannot. rate_hz is known with a block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rate_hz = 0
        self.length_s = 0.0  # 0: not known

    def blocks(self) -> Iterator[Frames]:
        """Frames by channels, full scale 1.0. Raises InputError."""
        for read in (self._by_libsndfile, self._by_ffmpeg):
            some = False
            for frames in read():
                some = True
                yield frames
            if some:
                return

    def _fits(self, rate_hz: int, channels: int) -> None:
        low, high = _RATES_HZ
        if not low <= rate_hz <= high or not 1 <= channels <= _CHANNELS:
            raise InputError(
                f"{self._path}: has {channels} channels of {rate_hz} Hz; "
                f"give a file of up to {_CHANNELS} channels of {low} to {high} Hz."
            )
        self.rate_hz = rate_hz

    def _by_libsndfile(self) -> Iterator[Frames]:
        try:
            with _quiet():
                opened = soundfile.SoundFile(os.fsencode(self._path))
            with opened as file:
                self._fits(file.samplerate, file.channels)
                self.length_s = file.frames / file.samplerate
                while True:
                    with _quiet():
                        frames = file.read(round(_BLOCK_S * self.rate_hz), "float32", always_2d=True)
                    if not len(frames):
                        return
                    yield frames
        except (soundfile.SoundFileError, TypeError):
            pass  # not its format (TypeError: a bare .raw); or cut or damaged here, then what came is all

    def _by_ffmpeg(self) -> Iterator[Frames]:
        name = f"file:{self._path.absolute()}"
        reads = ["-v", "error", "-protocol_whitelist", "file,pipe"]  # a play list must not reach for the network
        try:
            wanted = ["-select_streams", "a:0", "-show_entries", "stream=sample_rate,channels:format=duration"]
            probe = subprocess.run(
                ["ffprobe", *reads, *wanted, "-of", "json", name],
                capture_output=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise InputError(
                f"{self._path}: is no sound that libsndfile reads; other formats need ffmpeg (apt install ffmpeg)."
            ) from error
        found = json.loads(probe.stdout) if probe.returncode == 0 else {}
        stream: dict[str, Any] = next(iter(found.get("streams", [])), {})
        channels = int(stream.get("channels", 0))
        if not channels:  # also where a few bytes looked like a format, but no sound followed
            return
        self._fits(int(stream["sample_rate"]), channels)
        self.length_s = float(found.get("format", {}).get("duration", 0))
        decode = ["ffmpeg", "-nostdin", *reads, "-i", name, "-map", "a:0", "-f", "f32le", "-"]
        with subprocess.Popen(decode, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as ffmpeg:
            assert ffmpeg.stdout is not None
            frame_bytes = 4 * channels
            try:
                while raw := ffmpeg.stdout.read(frame_bytes * round(_BLOCK_S * self.rate_hz)):
                    whole = len(raw) // frame_bytes * frame_bytes
                    yield np.frombuffer(raw[:whole], "<f4").reshape(-1, channels)
            finally:
                ffmpeg.kill()
