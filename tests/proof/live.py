"""Plays scenarios live, each in a process of its own: PortAudio reads its configuration once in a process."""

from __future__ import annotations

import json
import multiprocessing
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


def play(path: Path, data: Path, *more: Path) -> Played:
    """Run in a process of its own. more: what goes on on the other lines."""
    with LiveUnit([story.load(each) for each in (path, *more)], data) as live, Consumer(live.broker.port) as consumer:
        live.play()
        wanted = {event["sequence"] for event in results(data)[1]}
        took_s = consumer.until(lambda: wanted <= {body["sequence"] for body in consumer.events()}, _DELIVERED_S)
        consumer.until(lambda: json.loads(consumer.told("state/recorder")[-1])["outbox_depth"] == 0, _TOLD_S)
        return Played(live.base_ns, consumer.events(), retained(live.broker.port), took_s)
