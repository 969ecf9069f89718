"""The processes that are measured, the wire they listen to, and what the kernel says of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from drivers.virtual import speech
from drivers.virtual.sound import RATE_HZ, VirtualSound

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_READY_S = 30


class Wire:
    """A simulated line of its own, with people speaking on it. A context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.sound = VirtualSound(directory)

    def __enter__(self) -> Wire:
        self.sound.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.sound.close()

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.sound.environment()}

    def speak(self, length_s: float) -> None:
        """Let people speak for so long."""
        voices = b"".join(
            (speech.read(path)[0][:, 0] * 32767).astype("<i2").tobytes()
            for path in sorted(speech.VOICES.glob("*.flac"))
        )
        wanted = round(length_s * RATE_HZ) * 2
        path = self._directory / "speech.s16le"
        path.write_bytes((voices * (wanted // len(voices) + 1))[:wanted])
        self.sound.play(path)


class Measured:
    """A process, or several in a pipe, that is measured from outside. A context manager that ends it."""

    def __init__(self, *processes: subprocess.Popen[str]) -> None:
        self.processes = processes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            if process.stdin is not None:
                process.stdin.close()
            else:
                process.terminate()
        for process in self.processes:
            process.wait(20)

    def cpu_s(self) -> float:
        """User and system time of all its threads, so far."""
        return sum(cpu_s(process.pid) for process in self.processes)

    def resident_mb(self) -> float:
        return sum(resident_mb(process.pid) for process in self.processes)


class UnitProcess(Measured):
    """The unit, whole, in directory. Returns from the constructor when its codec gives sound."""

    def __init__(
        self,
        directory: Path,
        wire: Wire,
        *,
        recording: str = "",
        line: str = "",
        broker_port: int | None = None,
        modem: str | None = None,
    ) -> None:
        """recording, line: TOML lines for these sections of the settings."""
        self.data_dir = directory / "data"
        directory.mkdir(parents=True, exist_ok=True)
        text = f'[unit]\nsite = "bench"\nunit = "bench-1"\ndata_dir = "{self.data_dir}"\n[recording]\n{recording}\n'
        text += f'[[line]]\nnumber = 1\ncodec = "{wire.sound.device}"\nnumber_display = false\n{line}\n'
        if modem:
            text += f'modem = "{modem}"\n'
        if broker_port:
            text += f'[[broker]]\nhost = "127.0.0.1"\nport = {broker_port}\ntls = false\n'
        (directory / "settings.toml").write_text(text)
        self._log = directory / "log"
        with self._log.open("w") as log:
            super().__init__(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.bench.unit", str(directory / "settings.toml")],
                    env=wire.environment(),
                    stdin=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            )
        until = time.monotonic() + _READY_S
        while "codec=ready" not in self._log.read_text():
            if time.monotonic() > until or self.processes[0].poll() is not None:
                raise RuntimeError(f"The unit does not start; see {self._log}:\n{self._log.read_text()}")
            time.sleep(0.05)

    def set(self, name: str, active: bool) -> None:
        pins = self.processes[0].stdin
        assert pins is not None
        pins.write(f"{name} {int(active)}\n")
        pins.flush()

    def ring(self, pulses: int = 4) -> None:
        """A ring burst at 16 Hz; from the third pulse on it is one."""
        for _ in range(pulses):
            self.set("ring", True)
            time.sleep(0.031)
            self.set("ring", False)
            time.sleep(0.031)

    def recorded_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.data_dir.glob("recordings/*/*.flac"))


def minimal(wire: Wire, path: Path, buffer_frames: int, errors: IO[str] | int = subprocess.DEVNULL) -> Measured:
    """The minimal script on PyAudio and soundfile."""
    script = Path(__file__).with_name("minimal_recorder.py")
    command = [sys.executable, str(script), wire.sound.device, "100000", str(path), str(buffer_frames)]
    return Measured(subprocess.Popen(command, env=wire.environment(), stderr=errors, text=True))


def arecord_flac(wire: Wire, path: Path) -> Measured:
    """alsa-utils' arecord into Xiph's flac, both with their own defaults."""
    form = ["-q", "-D", wire.sound.device, "-f", "S16_LE", "-r", str(RATE_HZ), "-c", "1", "-t", "raw"]
    arecord = subprocess.Popen(
        ["arecord", *form], env=wire.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    raw = ["--force-raw-format", "--endian=little", "--sign=signed", "--channels=1", "--bps=16"]
    flac = subprocess.Popen(
        ["flac", "-s", "-f", *raw, f"--sample-rate={RATE_HZ}", "-o", str(path), "-"], stdin=arecord.stdout, text=True
    )
    assert arecord.stdout is not None
    arecord.stdout.close()
    return Measured(arecord, flac)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def resident_mb(pid: int) -> float:
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith("VmRSS:"):
            return int(text.split()[1]) / 1000 * 1.024
    raise ProcessLookupError(pid)
