"""A private MQTT broker for trying the recorder out: a real Mosquitto on a free loopback port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

_START_S = 10
_STOP_S = 5


class BrokerUnavailable(RuntimeError):
    """Mosquitto is not installed or does not start. One sentence."""


class VirtualBroker:
    """Mosquitto with its sessions and retained messages kept in directory.

    access: lines of mosquitto.conf below the listener's, on who may do what. The default lets anyone in, without TLS.
    Not simulated: a network. Nothing is lost or late between the unit and this broker. Thread: it ends with the one
    that started it, and so with a killed process too.
    """

    def __init__(self, directory: Path, access: str = "allow_anonymous true") -> None:
        self._directory = directory
        self._access = access
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None

    @property
    def port(self) -> int:
        """The port on 127.0.0.1, the same over every restart. Raises BrokerUnavailable before the first start."""
        if self._port is None:
            raise BrokerUnavailable("The virtual broker has no port yet; start it first.")
        return self._port

    def start(self) -> None:
        """Start, and return when it listens. Nothing happens if it runs. Raises BrokerUnavailable."""
        if self._process is not None and self._process.poll() is None:
            return
        # Debian keeps it in /usr/sbin, which is not on the path of an ordinary user.
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise BrokerUnavailable("Mosquitto is not installed; run `sudo apt install mosquitto`.")
        self._directory.mkdir(parents=True, exist_ok=True)
        first = self._port is None
        for _ in range(3 if first else 1):  # another program may take a free port before Mosquitto does
            if first:
                self._port = _free_port()
            if self._start(program):
                return
        if first:
            self._port = None
        log = (self._directory / "mosquitto.log").read_text(encoding="utf-8", errors="replace")
        errors = " ".join(line[line.index("Error") :] for line in log.splitlines() if "Error" in line)
        raise BrokerUnavailable(f"Mosquitto does not start: {errors or 'it does not say why.'}")

    def stop(self) -> None:
        """Stop in an orderly way: sessions and retained messages are written."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop as a power cut does: what was not written yet is lost."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop answering, with every connection left open, until resume()."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def reload(self) -> None:
        """Have it read its access list again."""
        self._signal(signal.SIGHUP)

    def close(self) -> None:
        self.stop()

    def _start(self, program: str) -> bool:
        configuration = self._directory / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            self._access,
            "persistence true",
            f"persistence_location {self._directory}/",
            "log_dest stderr",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # it would change to a user who may not write here
        configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with (self._directory / "mosquitto.log").open("wb") as log:
            # A session of its own: Ctrl-C must reach the recorder first, which then says `offline` and stops this.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, "-c", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + _START_S
        while self._process.poll() is None and time.monotonic() < until:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    pass
            except OSError:
                time.sleep(0.02)
                continue
            return True
        self.kill()
        return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._signal(number)
        self._signal(signal.SIGCONT)  # a paused one could not obey
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
