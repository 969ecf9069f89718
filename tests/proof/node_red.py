"""Node-RED from npm, with the integrator's flow, hears of each missed call once, of those while it was away too."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from drivers.virtual.broker import VirtualBroker
from tests.proof.report import Report
from tests.units import at, running, settings

RELEASE = "4.1.8"  # runs on the Node.js 18 of Debian 12
_ROOT = Path(__file__).parents[2]
_HOME = _ROOT / "var" / f"node-red-{RELEASE}"
_WHILE_STOPPED = ["+81300005671", "+81300005672", "+81300005673"]
_PATIENCE_S = 60.0
_FLOW = _ROOT / "docs" / "integration" / "node-red-flow.json"


def prove(report: Report) -> None:
    assert shutil.which("npm"), "Node.js and npm are not installed; run `sudo apt install nodejs npm`."
    if not (_HOME / "ready").exists():
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(_HOME)]
        subprocess.run([*install, f"node-red@{RELEASE}"], check=True)
        (_HOME / "ready").touch()
    report.progress(0.5)
    with tempfile.TemporaryDirectory(prefix="tsuroku-node-red-") as work:
        broker = VirtualBroker(Path(work) / "broker", "allow_anonymous true\nlog_type subscribe")
        broker.start()
        red = NodeRed(Path(work) / "user", broker.port)
        try:
            started_s = red.start()
            log = Path(work) / "broker" / "mosquitto.log"
            red.until(lambda: "event/call" in log.read_text(encoding="utf-8"))  # it has subscribed
            with running(settings(Path(work) / "data", at(broker.port))) as shop:
                shop.missed("+81300001234")
                red.until(lambda: len(red.told()) == 1)
                shop.replay(1, 3)
                shop.missed(None)
                red.until(lambda: len(red.told()) == 2)
                red.stop()
                for number in _WHILE_STOPPED:
                    shop.missed(number)
                red.start()
                red.until(lambda: len(red.told()) >= 2 + len(_WHILE_STOPPED))
            told = red.told()
        finally:
            red.stop()
            broker.close()
    callers = ["+81300001234", "not_received", *_WHILE_STOPPED]
    for line, caller in zip(told, callers, strict=True):
        assert f"missed: {caller}" in line and "line 1 of /tsuroku/shop/unit-1" in line, told
    report.figure("Node-RED", f"{RELEASE}, started in {started_s:.1f} s")
    report.figure("missed calls", f"{len(told)}, each told once; {len(_WHILE_STOPPED)} came while Node-RED was stopped")


class NodeRed:
    """One Node-RED on loopback, with the flow, its broker's address put in. What the flow shows goes to a file too."""

    def __init__(self, directory: Path, broker_port: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        directory.mkdir()
        self._told = directory / "told.jsonl"
        flow = json.loads(_FLOW.read_text(encoding="utf-8"))
        shown = {node["id"] for node in flow if node["type"] == "debug"}
        for node in flow:
            if node["type"] == "mqtt-broker":
                node |= {"broker": "127.0.0.1", "port": str(broker_port), "usetls": False}
            for wire in node.get("wires", []):
                if shown & set(wire):
                    wire.append("file")
        tab = next(node["id"] for node in flow if node["type"] == "tab")
        flow.append(
            {
                "id": "file",
                "type": "file",
                "z": tab,
                "x": 0,
                "y": 0,
                "filename": str(self._told),
                "filenameType": "str",
                "appendNewline": True,
                "overwriteFile": "false",
                "wires": [[]],
            }
        )
        (directory / "flows.json").write_text(json.dumps(flow), encoding="utf-8")
        chosen = {
            "uiHost": "127.0.0.1",
            "uiPort": self._port,
            "flowFile": "flows.json",
            "credentialSecret": False,
            "telemetry": {"enabled": False, "updateNotification": False},
        }
        (directory / "settings.js").write_text(f"module.exports = {json.dumps(chosen)}", encoding="utf-8")
        program = _HOME / "node_modules" / "node-red" / "red.js"
        self._command = ["setpriv", "--pdeathsig", "KILL", "node", str(program), "--userDir", str(directory)]
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """The seconds until its flows run."""
        began = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        self.until(self._answers)
        return time.monotonic() - began

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/flows", timeout=5) as answer:
                return len(json.loads(answer.read())) > 1
        except OSError:
            return False

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def told(self) -> list[str]:
        """What the flow has shown, in order."""
        return self._told.read_text("utf-8").splitlines() if self._told.exists() else []

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE_S
        while not condition():
            assert self._process and self._process.poll() is None and time.monotonic() < end, self._log.read_text(
                "utf-8"
            )
            time.sleep(0.1)
