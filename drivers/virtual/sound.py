"""The simulated line's sound: a private PulseAudio whose null sink is the wire, and its monitor the codec.

The real driver (drivers.codec) opens it by name like a sound card. Not simulated: the codec's noise, its level, hum and
clock error (the wire runs on the machine's own clock).
"""

from __future__ import annotations

import os
import re
import select
import signal
import statistics
import subprocess
import time
from pathlib import Path

RATE_HZ = 8000

# What AudioBlock.at_ns of a captured frame differs from the moment that play() promised for it; goes to
# RecordingSettings.audio_delay_ms. It is half of what the wire renders ahead. Measured with 21 clicks a minute, buffers
# of 160 to 4000 frames, up to 6 wires on 2 busy cores, PulseAudio 16.1: 8 of 9 runs had medians of -9.6 to -10.1 ms and
# 7 of these spread by 0.4 ms or less; a busy machine made one slip to 0 ms, since sound that comes late stays late.
AUDIO_DELAY_MS = -10

# norewinds: without it the sink plays parts again when a player was late, and the captured sound grows longer.
_PULSE = """\
load-module module-native-protocol-unix socket={directory}/native auth-anonymous=1
load-module module-null-sink sink_name=line rate={rate_hz} {form} format=s16le norewinds=1
set-default-source line.monitor
"""

# Stands in for the whole of alsa.conf, so that PortAudio finds this device and no other.
_ALSA = """\
pcm.linetap {{ type pulse server "unix:{directory}/native" device "line.monitor" hint.description "line tap" }}
ctl.linetap {{ type pulse server "unix:{directory}/native" }}
pcm.!default {{ type pulse server "unix:{directory}/native" device "line.monitor" }}
"""

_DAEMON = ("--daemonize=no", "--exit-idle-time=-1", "--disable-shm=yes")
_PACAT = f"pacat --playback --raw --device=line --format=s16le --rate={RATE_HZ} {{options}}"

# The wire renders ahead by half the shortest latency that a client asked for. A player of silence with the shortest of
# all keeps that constant, whoever comes and goes; without it the first sound could wait 2 s.
_SILENCE = f"exec {_PACAT} --latency-msec=40 /dev/zero"

_LEAD_S = 1.0  # silence that play() puts in front, so that the first frame is still to come when it returns
_AHEAD_S = 2  # silence that play_on() hands over before it knows what is due
_REPORTS = 8  # of the player's reports, 20 a second, that are read to tell its start

# pacat reports how much it has played; dd passes the first reports on as they come, the rest is thrown away.
_PLAY = f"""\
{{{{ head -c {{lead}} /dev/zero; exec cat; }}}} |
{_PACAT} --latency-msec=500 --verbose 2>&1 |
{{{{ dd bs=1000 count=200 status=none; exec cat >/dev/null; }}}}
"""


class SoundError(Exception):
    """One sentence: what is wrong and how to mend it."""


class VirtualSound:
    """One wire at 8 kHz, or two, a channel each. Several may run side by side, each in a directory of its own. Not
    thread-safe.

    The daemon ends with the thread that plugged it, and so with a killed process too; the players end with the daemon.
    """

    device = "linetap"

    def __init__(self, directory: Path, channels: int = 1) -> None:
        self._directory, self._frame_bytes = directory.resolve(), 2 * channels
        where = {1: "mono", 2: "front-left,front-right"}[channels]  # as ALSA names them: others would be mixed
        self._form = f"channels={channels} channel_map={where}"
        options = f"--channels={channels} --channel-map={where}"
        self._script = {"options": options, "lead": int(_LEAD_S * RATE_HZ) * self._frame_bytes}
        self._daemon: subprocess.Popen[bytes] | None = None
        self._players: list[subprocess.Popen[bytes]] = []

    def environment(self) -> dict[str, str]:
        """What os.environ must hold before PyAudio is initialised in the process that captures."""
        return {
            "ALSA_CONFIG_PATH": str(self._directory / "asound.conf"),
            "JACK_NO_START_SERVER": "1",
            "PULSE_COOKIE": str(self._directory / "cookie"),
        }

    def start(self) -> None:
        """Write the configuration and plug(). Raises SoundError."""
        if len(os.fsencode(self._directory)) > 90:
            raise SoundError(
                f"The path {self._directory} is too long for a socket; give the simulated line a shorter one."
            )
        self._directory.mkdir(parents=True, exist_ok=True)
        for name, text in (("default.pa", _PULSE), ("asound.conf", _ALSA)):
            (self._directory / name).write_text(
                text.format(directory=self._directory, rate_hz=RATE_HZ, form=self._form)
            )
        self.plug()

    def plug(self) -> None:
        """Run the daemon and wait until its wire can be used. Raises SoundError."""
        log_path = self._directory / "pulseaudio.log"
        try:
            # A process that was killed leaves its daemon behind; the pid file below the directory knows it.
            subprocess.run(["pulseaudio", "--kill"], env=self._environ(), capture_output=True, check=False)
            with log_path.open("wb") as log:
                self._daemon = subprocess.Popen(
                    [
                        "setpriv",
                        "--pdeathsig",
                        "KILL",
                        "pulseaudio",
                        "-nF",
                        str(self._directory / "default.pa"),
                        *_DAEMON,
                    ],
                    env=self._environ(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except FileNotFoundError as error:
            raise SoundError("The simulated line needs PulseAudio; install the Debian package pulseaudio.") from error
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and self._daemon.poll() is None:
            look = ["pactl", "get-sink-volume", "line"]
            if subprocess.run(look, env=self._environ(), capture_output=True, check=False).returncode == 0:
                self._run(_SILENCE, subprocess.DEVNULL, subprocess.DEVNULL)
                return
            time.sleep(0.02)
        self.unplug()
        raise SoundError(f"PulseAudio did not start for the simulated line; see its reason in {log_path}.")

    def unplug(self) -> None:
        """Kill the daemon, as if the codec were pulled out. What plays ends."""
        for process in (self._daemon, *self._players):
            if process is not None:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it ended by itself
                process.wait()
        self._daemon = None
        self._players.clear()

    def close(self) -> None:
        """End everything that runs; start() may follow."""
        self.unplug()

    def play(self, source: Path | int) -> int:
        """Play raw 8 kHz S16LE, the wires' frames in turn, from a file, or a descriptor that is read until its end.

        Returns the CLOCK_MONOTONIC ns at which its first frame enters the wire: after 0.4 s, and half a second before
        that moment. Sounds played at the same time are added. A descriptor is read 0.5 s and more ahead; where it does
        not keep up, the wire is silent and what follows is late. Raises SoundError.
        """
        descriptor = source if isinstance(source, int) else os.open(source, os.O_RDONLY)
        try:
            player = self._run(_PLAY, descriptor, subprocess.PIPE)
        finally:
            if descriptor is not source:
                os.close(descriptor)
        return _start_ns(player) + round(_LEAD_S * 1e9)

    def play_on(self, source: Path, began_ns: int) -> None:
        """Play the rest of a file as if play() had begun it at began_ns: silence for 3 s, then what is due by then.

        Returns after 0.4 s. Raises SoundError.
        """
        reading, writing = os.pipe()
        try:
            os.write(writing, bytes(_AHEAD_S * RATE_HZ * self._frame_bytes))  # no more than a pipe holds
            from_ns = self.play(reading) + _AHEAD_S * 1_000_000_000
            with source.open("rb") as file:
                file.seek(max(0, round((from_ns - began_ns) * RATE_HZ / 1e9)) * self._frame_bytes)
                self._run("exec cat", file.fileno(), writing)
        finally:
            os.close(reading)
            os.close(writing)

    def _run(self, script: str, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["sh", "-c", script.format(**self._script)],
            env=self._environ(),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._players = [player for player in self._players if player.poll() is None] + [process]
        return process

    def _environ(self) -> dict[str, str]:
        """For PulseAudio's programs: everything of their own stays below the directory, whoever the user is."""
        private = {
            "HOME": str(self._directory),
            "XDG_RUNTIME_DIR": str(self._directory),
            "PULSE_SERVER": f"unix:{self._directory / 'native'}",
            "LC_ALL": "C",
        }
        return os.environ | self.environment() | private


def _start_ns(player: subprocess.Popen[bytes]) -> int:
    """When the player's own first frame entered the wire, from its reports of the time played."""
    assert player.stdout is not None
    started: list[int] = []
    deadline = time.monotonic() + 10
    with player.stdout as reports:
        while len(started) < _REPORTS and select.select([reports], [], [], max(0.0, deadline - time.monotonic()))[0]:
            report = os.read(reports.fileno(), 4096)
            now_ns = time.monotonic_ns()
            if not report:
                break
            played = re.findall(rb"Time: ([0-9.]+) sec", report)
            if played and float(played[-1]) > 0:
                started.append(now_ns - round(float(played[-1]) * 1e9))
    if len(started) < _REPORTS:
        raise SoundError("The simulated line plays nothing; its PulseAudio has ended or hangs: plug it in again.")
    return round(statistics.median(started))
