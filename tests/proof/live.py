"""Plays scenarios live, each in a process of its own: PortAudio reads its configuration once in a process."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivers.virtual import scenario as story
from firmware.simulate import LiveUnit, results
from tests.proof.consumer import Consumer, retained

_DELIVERED_S = 130  # two of the longest waits for a broker that was away
_TOLD_S = 40  # the recorder's state is renewed every 5 s; later where the machine is busy with other tests


@dataclass(frozen=True, slots=True)
class Played:
    base_ns: int  # monotonic time of the scenario's 0
    events: list[dict[str, Any]]  # as they came to a consumer
    states: dict[str, str]  # retained at the broker when all had come
    delivered_s: float  # from the scenario's end until the last event came


def processes(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1)


def play(path: Path, data: Path, *more: Path, stops: Sequence[tuple[float, float]] = ()) -> Played:
    """Run in a process of its own. more: what goes on on the other lines.

    stops: when the process stands still, and for how long, in s of the scenario. Line and sound go on meanwhile.
    """
    with LiveUnit([story.load(each) for each in (path, *more)], data) as live, Consumer(live.broker.port) as consumer:
        threading.Thread(target=_stand_still, args=(live, stops), daemon=True).start()
        live.play()
        wanted = {event["sequence"] for event in results(data)[1]}
        took_s = consumer.until(lambda: wanted <= {body["sequence"] for body in consumer.events()}, _DELIVERED_S)
        consumer.until(lambda: json.loads(consumer.told("state/recorder")[-1])["outbox_depth"] == 0, _TOLD_S)
        return Played(live.base_ns, consumer.events(), retained(live.broker.port), took_s)


def _stand_still(live: LiveUnit, stops: Sequence[tuple[float, float]]) -> None:
    for at_s, long_s in stops:
        while not live.base_ns or time.monotonic_ns() < live.base_ns + at_s * 1e9:
            time.sleep(0.01)
        stop = f"kill -STOP {os.getpid()}; sleep {long_s}; kill -CONT {os.getpid()}"
        subprocess.run(["sh", "-c", stop], check=True)
