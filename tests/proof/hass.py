"""Home Assistant from PyPI, in an environment of its own and as a process of its own, asked over its REST interface."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

VAR = Path(__file__).parents[2] / "var"
RELEASES = {"3.11": "2024.3.3", "3.13": "2025.4.4"}  # the newest for Debian 12's Python, and for any 3.13
_START_S = 300.0
_PATIENCE_S = 30.0
_CONFIGURATION = """
homeassistant:
  name: Shop
  time_zone: Asia/Tokyo
  country: JP
automation: !include automations.yaml
http:
  server_host: 127.0.0.1
  server_port: {port}
logger:
  default: warning
"""


def pythons() -> dict[str, str]:
    """The interpreters at hand that a Home Assistant runs on, oldest first: version -> program."""
    found = {}
    for version in RELEASES:
        built = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))
        for program in (shutil.which(f"python{version}"), *map(str, built)):
            if program and _runs(program):
                found[version] = program
    return found


def _runs(program: str) -> bool:
    return subprocess.run([program, "-c", "import ensurepip"], capture_output=True, check=False).returncode == 0


def install(program: str, release: str) -> Path:
    """Put this release into an environment below var/, once. Returns its Python."""
    home = VAR / f"home-assistant-{release}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        subprocess.run([program, "-m", "venv", "--clear", home], check=True)
        # Its requirements do not keep out a josepy that its acme cannot be imported with.
        wanted = [f"homeassistant=={release}", "josepy<2"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        (home / "ready").touch()
    return python


class Hass:
    """One Home Assistant on loopback. python: of install(). directory: its configuration, made here."""

    def __init__(self, python: Path, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._command = ["setpriv", "--pdeathsig", "KILL", str(python), "-m", "homeassistant", "-c", str(directory)]
        directory.mkdir(parents=True)
        self._automations = directory / "automations.yaml"
        self._automations.touch()
        (directory / "configuration.yaml").write_text(_CONFIGURATION.format(port=self._port), encoding="utf-8")
        self.log = directory / "home-assistant.log"
        self._output = directory / "output"
        self._process: subprocess.Popen[bytes] | None = None
        self._token: str | None = None
        self.heard: list[dict[str, Any]] = []  # changed states and called services, as its event stream tells of them

    def start(self) -> None:
        """Returns when it runs."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output, start_new_session=True)
        if self._token is None:
            self.until(self._onboarded, _START_S)
        self.until(lambda: self.ask("/api/config")["state"] == "RUNNING", _START_S)
        listens = threading.Event()
        threading.Thread(target=self._listen, args=(listens,), name="hass", daemon=True).start()
        assert listens.wait(_PATIENCE_S)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def _onboarded(self) -> bool:
        """Make the owner's account, as its first page does, and log in."""
        client = f"http://127.0.0.1:{self._port}/"
        owner = {"name": "Owner", "username": "owner", "password": "owner", "language": "en", "client_id": client}
        code = self.ask("/api/onboarding/users", owner)["auth_code"]
        form = {"grant_type": "authorization_code", "code": code, "client_id": client}
        self._token = self.ask("/auth/token", urllib.parse.urlencode(form).encode())["access_token"]
        return True

    def add_mqtt(self, port: int) -> None:
        """Set the MQTT integration up, as its dialogue does."""
        flow = self.ask("/api/config/config_entries/flow", {"handler": "mqtt"})
        done = self.ask(f"/api/config/config_entries/flow/{flow['flow_id']}", {"broker": "127.0.0.1", "port": port})
        assert done["type"] == "create_entry", done

    def add_automations(self, file: Path) -> None:
        shutil.copy(file, self._automations)
        self.ask("/api/services/automation/reload", {})

    def ask(self, path: str, body: dict[str, Any] | bytes | None = None) -> Any:
        """GET, or POST with a body: JSON, or a form as bytes. Raises OSError."""
        with self._open(path, body) as answer:
            return json.loads(answer.read())

    def _open(self, path: str, body: dict[str, Any] | bytes | None = None) -> Any:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", data, headers), timeout=60
        )

    def _listen(self, listens: threading.Event) -> None:
        try:
            with self._open("/api/stream?restrict=state_changed,call_service") as stream:
                for line in stream:  # the first is a ping
                    listens.set()
                    if line.startswith(b"data: {"):
                        self.heard.append(json.loads(line[6:])["data"])
        except OSError:
            pass  # it has been stopped

    def states(self) -> dict[str, dict[str, Any]]:
        """By entity: state, attributes, last_changed."""
        return {state["entity_id"]: state for state in self.ask("/api/states")}

    def state(self, entity: str) -> str:
        return str(self.ask(f"/api/states/{entity}")["state"])

    def until_state(self, entity: str, state: str) -> None:
        self.until(lambda: self.state(entity) == state)

    def until(self, condition: Callable[[], object], within_s: float = _PATIENCE_S) -> None:
        """Wait until it is so; while Home Assistant does not answer, it is not."""
        end = time.monotonic() + within_s
        while not self._is_so(condition):
            assert self._process and self._process.poll() is None, f"Home Assistant ended: {self._tail()}"
            assert time.monotonic() < end, f"not within {within_s} s; its log: {self._tail()}"
            time.sleep(0.1)

    def _is_so(self, condition: Callable[[], object]) -> bool:
        try:
            return bool(condition())
        except OSError:
            return False

    def _tail(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")[-2000:]
