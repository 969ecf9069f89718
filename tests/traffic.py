"""Everything that a unit says, once: what mosquitto_sub prints of a short day and of every command.

`python -m tests.traffic` writes docs/integration/examples.txt and the examples of the page beside it anew.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drivers.virtual import scenario as story
from drivers.virtual.broker import VirtualBroker
from firmware.imports import prepare
from firmware.local_api import ask as ask_unit
from firmware.settings import RetentionSettings, WatchSettings, public_hash
from firmware.simulate import results, stepped, virtual_settings
from tests.contract import message_of, messages
from tests.units import at, running

DOCS = Path(__file__).parents[1] / "docs" / "integration"
PAGE, EXAMPLES = DOCS / "README.md", DOCS / "examples.txt"
BRANCH = "tsuroku/v1/demo/virtual-1"
DAY = """
title   A day on which everything happens once
number display
start   2026-11-24 09:00:00 +09:00

2.0     call from 03-0000-1234 name "YAMADA"
17.8    give up

25.0    lift                              # the shop calls back
+1.5    dial 03-0000-1234
34.0    far answers
+0.5    caller says greeting
+6      shop says order
+4      far hangs up
+3      hang up

60.0    call from 090-0000-5678
67.2    lift
+0.5    shop says greeting
74.0    call waiting from 03-0000-9012
+6      flash 0.5
+4      shop says hold
+6      flash 0.5
94.0    hang up

100.0   unplug codec
102.0   call from 03-0000-5678
109.2   lift
120.0   hang up
123.0   plug codec

130.0   call from 03-0000-1234
146.0   give up
"""


class Told:
    """What a command line of the page prints. port: of a broker on this machine, in place of the page's."""

    def __init__(self, command: str, port: int, output: Path) -> None:
        self._path = output
        with output.open("wb") as file:
            # A session of its own: a pipe is ended as a whole.
            self._process = subprocess.Popen(["bash", "-c", local(command, port)], stdout=file, start_new_session=True)

    def lines(self) -> list[str]:
        """Those that are whole."""
        return self._path.read_bytes().rpartition(b"\n")[0].decode().splitlines()

    def until(self, found: Callable[[str], bool], within_s: float = 20) -> None:
        end = time.monotonic() + within_s
        while not any(map(found, self.lines())):
            assert time.monotonic() < end, f"not within {within_s} s: {self.lines()[-3:]}"
            time.sleep(0.02)

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(10)


def subscribe(command: str, port: int) -> None:
    """Have the broker keep what comes for this mosquitto_sub -c, from now on."""
    once = local(command, port).replace("mosquitto_sub ", "mosquitto_sub -E ").partition(" | ")[0]
    subprocess.run(["bash", "-c", once], check=True, timeout=20)


def local(command: str, port: int) -> str:
    """A command of the page, for a broker of this machine that asks for no account."""
    return command.replace("-u management -P PASSWORD ", "").replace(
        "-h broker.example -p 8883", f"-h 127.0.0.1 -p {port}"
    )


def command_of(program: str) -> str:
    """The page's line that begins so, lines that go on with a backslash made one."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", "")
    return next(" ".join(line.split()) for line in text.splitlines() if line.strip().startswith(program))


def told(work: Path) -> list[str]:
    """A line for each message: topic, space, payload. Takes some seconds."""
    day = story.parse(DAY, work / "day.txt")
    stepped(day, work / "data")
    calls = results(work / "data")[0]
    recorded, missed = calls[1]["call_id"], calls[4]["call_id"]
    broker = VirtualBroker(work / "broker")
    broker.start()
    command = f"mosquitto_sub -h broker.example -p 8883 -V mqttv5 -i day -c -x 600 -q 1 -v -t '{BRANCH}/#'"
    subscribe(command, broker.port)
    listener = Told(command, broker.port, work / "told")
    try:
        own = replace(at(broker.port), consumers=("desk",), audit=True)
        settings = replace(virtual_settings(day, work / "data"), broker=(own,))
        first = replace(settings, watch=WatchSettings(disk_free_mb=1_000_000))
        with running(first, filed=first) as unit:
            unit.do(unit.unit.management.tick)
            listener.until(lambda line: "alarm.raised" in line)
            _ask_all(broker.port, recorded, missed)
            unit.missed()
            listener.until(lambda line: "call.enriched" in line)
            for switch in ("OFF", "ON"):
                _run("mosquitto_pub", broker.port, "-q", "1", "-t", f"{BRANCH}/set/recording", "-m", switch)
            listener.until(lambda line: "recording.switch" in line and '"sequence":9,' in line)
            patch = {"base_hash": public_hash(first), "patch": {"watch": {"disk_free_mb": None}}}
            _ask(broker.port, 99, "config.patch", patch)
            listener.until(lambda line: "config.patch" in line and '"sequence":10,' in line)
        listener.until(lambda line: line == f"{BRANCH}/status maintenance")
        keep = RetentionSettings(keep_days=365, warn_days=365)
        with running(replace(settings, retention=keep)) as unit:  # the disk is no longer too small
            unit.do(unit.unit.management.tick)
            listener.until(lambda line: "alarm.cleared" in line)
            unit.do(lambda: unit.unit.retention.tick())
            given = work / "Call recording 0300005678_261120_093000.flac"
            shutil.copy(work / "data" / calls[1]["recording"]["path"], given)
            taken = prepare(given, work / "data", "jp", None, datetime.now(UTC))
            ask_unit(work / "data", {"do": "import", "call": taken.to_dict(), "who": "owner"})
            listener.until(lambda line: "call.imported" in line)
            seen = {"do": "note_access", "what": "played", "call_id": recorded, "from_s": 2, "to_s": 9, "who": "佐藤"}
            ask_unit(work / "data", seen)
            erase = {"do": "erase", "call_ids": [calls[2]["call_id"]], "reason": "asked for", "who": "owner"}
            ask_unit(work / "data", erase)
            listener.until(lambda line: "recording.deleted" in line)
        listener.until(lambda line: line == f"{BRANCH}/status offline")
        return [line.replace(str(work / "data"), "/var/lib/tsuroku") for line in listener.lines()]
    finally:
        listener.close()
        broker.close()


def _ask_all(port: int, recorded: str, missed: str) -> None:
    commands: list[tuple[str, dict[str, Any]]] = [
        ("device.info", {}),
        ("selftest.run", {}),
        ("config.get", {}),
        ("identify", {}),
        ("recording.pause", {"seconds": 60}),
        ("recording.resume", {}),
        ("recording.protect", {"call_id": recorded, "reason": "a complaint"}),
        ("recording.locate", {"call_id": recorded}),
        ("events.replay", {"stream": "call", "from_seq": 1, "to_seq": 2}),
        ("events.ack", {"consumer": "desk", "stream": "call", "seq": 10}),
        ("callback.done", {"call_id": missed}),
        ("alarm.acknowledge", {"alarm": "disk"}),
        (
            "contacts.put",
            {"number": "03-0000-1234", "name": "山田商店", "reading": "ヤマダショウテン", "flags": ["vip"]},
        ),
        ("log.bundle", {}),
        ("recording.locate", {"call_id": missed}),
    ]
    for number, (method, params) in enumerate(commands, 1):
        assert ("error" in _ask(port, number, method, params)) == (number == len(commands))


def _ask(port: int, number: int, method: str, params: dict[str, Any]) -> Any:
    return json.loads(ask(port, {"jsonrpc": "2.0", "id": number, "src": "desk", "method": method, "params": params}))


def ask(port: int, request: dict[str, Any]) -> str:
    """The answer to a command, asked for as the page does."""
    words = shlex.split(local(command_of("mosquitto_rr"), port).replace("shop/unit-1", "demo/virtual-1"))
    words[words.index("-m") + 1] = json.dumps({**request, "exp": int(time.time()) + 60})
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=20).stdout


def _run(program: str, port: int, *arguments: str) -> None:
    subprocess.run([program, "-h", "127.0.0.1", "-p", str(port), *arguments], check=True)


# -- the page


def examples(lines: list[str]) -> dict[str, list[str]]:
    """By topic and name, in the contract's order: a line, or a few. The fullest of a state or an event of a call."""
    found: dict[str, list[str]] = {f"{message.topic} {message.name}": [] for message in messages()}
    for line in lines:
        topic, _, payload = line.partition(" ")
        message, _ = message_of(topic, payload)
        there = found[f"{message.topic} {message.name}"]
        if not there or message.name == "result":
            there.append(line)
        elif message.topic.startswith(("state/", "event/call")) and len(line) > len(there[0]):
            there[:] = [line]
    return found


def pretty(value: Any, indent: str = "") -> str:
    """JSON that is short where it can be: what fits into a line stands in one."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(indent + flat) <= 110 or not isinstance(value, dict | list) or not value:
        return flat
    inner = indent + "  "
    if isinstance(value, dict):
        parts = [f"{inner}{json.dumps(key)}: {pretty(each, inner)}" for key, each in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + pretty(each, inner) for each in value) + f"\n{indent}]"


# <!-- example: TOPIC NAME [PART] -->, a part as data.recording
_EXAMPLE = re.compile(r"(?<=<!-- example: )(\S+ [\w.]+)((?: [\w.]+)?)( -->\n```json\n)(.*?)(?=\n```)", re.DOTALL)


def examples_of(page: str) -> list[tuple[str, str, Any]]:
    """The examples that stand in the page: topic and name, which part, JSON."""
    return [(found[1], found[2].strip(), json.loads(found[4])) for found in _EXAMPLE.finditer(page)]


def part(line: str, steps: str) -> Any:
    value = json.loads(line.partition(" ")[2])
    for step in filter(None, steps.split(".")):
        value = value[step]
    return value


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="tsuroku-traffic-") as work:
        found = examples(told(Path(work)))
    EXAMPLES.write_text("\n".join(line for lines in found.values() for line in lines) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    page = _EXAMPLE.sub(lambda at: f"{at[1]}{at[2]}{at[3]}{pretty(part(found[at[1]][0], at[2].strip()))}", page)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
