"""Broker stopped, killed, cut off, refusing, unit killed: a consumer that follows the contract has every event."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from drivers.virtual.broker import VirtualBroker
from firmware.app import STORE
from firmware.records.store import CallReader
from tests.contract import check
from tests.proof.network import Network
from tests.proof.report import Report
from tests.units import BRANCH, at, running, settings

EVENTS = 10_000
_ROOT = Path(__file__).parents[2]
_SETTLED_S = 180.0
_LET_IN = "topic readwrite #\n"
# A unit may not publish events; whatever else goes on.
_KEPT_OUT = "topic deny tsuroku/v1/shop/unit-1/event/#\ntopic readwrite #\n"
_FAULTS = ("stop", "kill", "cut", "stall", "refuse", "unit", "consumer")


def consumer_module() -> ModuleType:
    """The integrator's page's consumer, as it stands there."""
    path = _ROOT / "docs" / "integration" / "consumer.py"
    spec = importlib.util.spec_from_file_location("consumer", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Soak:
    """A unit in a process of its own, a network, a Mosquitto and a consumer."""

    def __init__(self, work: Path, events: int, per_s: float) -> None:
        self._work, self._events, self._per_s = work, events, per_s
        self._access, self._told = work / "acl", work / "told"
        self._access.write_text(_LET_IN)
        self.broker = VirtualBroker(work / "broker", f"allow_anonymous true\nacl_file {self._access}")
        self.broker.start()
        self.network = Network(self.broker.port)
        self._module = consumer_module()
        vars(self._module)["PATIENCE_S"] = 1.0
        self.consumer = self._consume()
        self._unit: subprocess.Popen[bytes] | None = None
        self.start_unit()

    def _consume(self) -> Any:
        consumer = self._module.Consumer(BRANCH, str(self._work / "calls.db"), "crm", confirm=True)
        consumer.client.reconnect_delay_set(1, 1)
        consumer.connect("127.0.0.1", self.broker.port)
        return consumer

    def start_unit(self) -> None:
        command = [sys.executable, "-m", "tests.proof.soak", str(self._work / "data"), str(self.network.port)]
        command += [str(self._events), str(self._per_s)]
        with self._told.open("ab") as told:
            self._unit = subprocess.Popen(command, cwd=_ROOT, stdout=told)

    def filed(self) -> int:
        """How many events the unit has told of: they are on its disk."""
        whole = self._told.read_bytes().rpartition(b"\n")[0]
        return int(whole.rpartition(b"\n")[2] or 0)

    def harm(self, fault: str, dice: random.Random) -> None:
        """Let something happen, and mend it."""
        pause_s = dice.uniform(0.2, 3)
        match fault:
            case "stop":
                self.broker.stop()
                time.sleep(pause_s)
                self.broker.start()
            case "kill":  # sessions, retained states and what had been acknowledged since its start are gone
                self.broker.kill()
                time.sleep(pause_s)
                self.broker.start()
            case "cut":
                self.network.cut()
                time.sleep(pause_s)
                self.network.mend()
            case "stall":
                self.network.stall()
                time.sleep(pause_s)
                self.network.mend()
            case "refuse":
                self._access.write_text(_KEPT_OUT)
                self.broker.reload()
                time.sleep(min(pause_s, 1))
                self._access.write_text(_LET_IN)
                self.broker.reload()
            case "unit":
                unit = cast("subprocess.Popen[bytes]", self._unit)
                unit.kill()
                unit.wait()
                self.start_unit()
            case "consumer":
                self.consumer.close()
                time.sleep(pause_s)
                self.consumer = self._consume()

    def look(self) -> None:
        for stream in list(self.consumer.last):
            self.consumer.look(stream)

    def close(self) -> None:
        if self._unit:
            self._unit.send_signal(signal.SIGTERM)
            self._unit.wait(20)
        self.consumer.close()
        self.network.close()
        self.broker.close()


def run(
    work: Path, events: int, seed: int, progress: Callable[[float], None] = lambda part: None, per_s: float = 100
) -> Counter[str]:
    """Returns how often each fault was met. Raises AssertionError."""
    dice, met = random.Random(seed), Counter[str]()
    soak = Soak(work, events, per_s)
    try:
        seen, turn = 0, itertools.cycle(dice.sample(_FAULTS, len(_FAULTS)))
        while seen < events or len(met) < len(_FAULTS):
            time.sleep(dice.uniform(0.5, 3))
            fault = next(turn) if len(met) < len(_FAULTS) else dice.choice(_FAULTS)
            soak.harm(fault, dice)
            met[fault] += 1
            seen = max(seen, soak.filed())
            soak.look()
            progress(min(0.95, seen / events))
        end = time.monotonic() + _SETTLED_S
        while not _has_all(soak.consumer, events):
            assert time.monotonic() < end, f"seed {seed}: {_state(soak.consumer)} of {events} after {dict(met)}"
            time.sleep(0.5)
            soak.look()
        kept = soak.consumer.database.execute("select stream, sequence, body from event").fetchall()
        gone = soak.consumer.database.execute("select * from gone").fetchall()
    finally:
        soak.close()
    reader = CallReader(work / "data" / STORE)
    stored = {(body["id"]): body for body in reader.events() if "-audit-" not in body["id"]}
    reader.close()
    for stream, _, body in kept:
        check(f"{BRANCH}/event/{stream}", body.encode())
    got = {json.loads(body)["id"]: {**json.loads(body), "replayed": False} for _, _, body in kept}
    # What the unit wrote after the last look (its end) may not have come any more.
    assert len(got) == len(kept), f"seed {seed}: an event is there twice"
    assert gone == [], f"seed {seed}: the unit says that {gone} are gone"
    assert all(stored[key] == body for key, body in got.items()), f"seed {seed}: an event differs"
    calls = {key for key in stored if "-call-" in key}
    assert calls <= got.keys(), f"seed {seed}: missing {sorted(calls - got.keys())[:5]}"
    return met


def _has_all(consumer: Any, events: int) -> bool:
    last = dict(consumer.last)
    return last.get("call", 0) >= events and all(consumer.whole(stream) == seq for stream, seq in last.items())


def _state(consumer: Any) -> dict[str, tuple[int, int]]:
    return {stream: (consumer.whole(stream), seq) for stream, seq in consumer.last.items()}


def prove(report: Report) -> None:
    seed = int(os.environ.get("TSUROKU_SEED") or secrets.randbelow(1_000_000))
    report.figure("seed", seed)
    with tempfile.TemporaryDirectory(prefix="tsuroku-soak-") as work:
        met = run(Path(work), EVENTS, seed, report.progress)
    report.figure("events", f"{EVENTS:,}")
    report.figure("faults", ", ".join(f"{name} {count}" for name, count in sorted(met.items())))


def _unit(data: Path, port: int, events: int, per_s: float) -> None:
    """The unit: files missed calls until there are so many events, and tells how many there are."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    with running(settings(data, at(port, consumers=("crm",), keepalive_s=5))) as shop:
        number = 0
        while not stopped:
            filed = shop.unit.store.kept("call")[1]
            print(filed, flush=True)
            if filed >= events:
                time.sleep(0.2)
                continue
            number += 1
            shop.missed(f"+8130000{number % 10_000:04d}")
            time.sleep(3 / per_s)


if __name__ == "__main__":
    _unit(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
