"""The bridge of docs/integration/many-units.md between two real Mosquittos on loopback; without TLS."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drivers.virtual.broker import VirtualBroker
from tests.proof.soak import consumer_module
from tests.test_management import System
from tests.units import BRANCH, Running, at, running, settings

pytestmark = pytest.mark.realtime

_PAGE = Path(__file__).parents[1] / "docs" / "integration" / "many-units.md"
_NOT_HERE = (
    "listener",
    "allow_anonymous",
    "password_file",
    "persistence",  # VirtualBroker has its own
    "bridge_cafile",
    "bridge_certfile",
    "bridge_keyfile",
)


def bridge(port: int) -> str:
    """The page's configuration, but for the centre's address, TLS, passwords and how long it waits."""
    found = re.search(r"```conf\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{_PAGE.name} shows no bridge"
    changed = {"address": f"address 127.0.0.1:{port}", "restart_timeout": "restart_timeout 1"}
    lines = [line for line in found[1].splitlines() if not line.startswith(_NOT_HERE)]
    return "\n".join(["allow_anonymous true", *(changed.get(line.partition(" ")[0], line) for line in lines)])


def until(found: Callable[[], Any], within_s: float = 30) -> Any:
    end = time.monotonic() + within_s
    while not (got := found()):
        assert time.monotonic() < end, f"not within {within_s} s"
        time.sleep(0.02)
    return got


class Kept:
    """What the integrator's consumer has in its file, of stream call."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def sequences(self, where: str = "1") -> list[int]:
        with sqlite3.connect(self._database) as file:
            told = file.execute(f"select sequence from event where stream = 'call' and {where} order by sequence")
            return [row[0] for row in told]

    def has_all(self, last: int) -> bool:
        return self.sequences() == list(range(1, last + 1))


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[VirtualBroker]:
    broker = VirtualBroker(tmp_path / "centre")
    broker.start()
    yield broker
    broker.close()


@pytest.fixture
def local(tmp_path: Path, centre: VirtualBroker) -> Iterator[VirtualBroker]:
    """The shop's broker."""
    broker = VirtualBroker(tmp_path / "local", bridge(centre.port))
    broker.start()
    yield broker
    broker.close()


@pytest.fixture
def kept(tmp_path: Path, centre: VirtualBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    module = consumer_module()
    monkeypatch.setattr(module, "PATIENCE_S", 1.0)
    consumer = module.Consumer(BRANCH, str(tmp_path / "calls.db"))
    consumer.connect("127.0.0.1", centre.port)
    yield Kept(tmp_path / "calls.db")
    consumer.close()


def accepted(shop: Running) -> int:
    """The last event of stream call, once the shop's broker has acknowledged them all."""
    until(lambda: shop.unit.connected and shop.unit.store.waiting()["main"]["waiting"] == 0)
    return shop.unit.store.kept("call")[1]


def test_the_consumer_at_the_centre_has_every_event_after_an_outage(
    tmp_path: Path, centre: VirtualBroker, local: VirtualBroker, kept: Kept
) -> None:
    with running(settings(tmp_path / "data", at(local.port))) as shop:
        shop.missed()
        before = accepted(shop)
        until(lambda: kept.has_all(before))

        centre.stop()
        for _ in range(20):
            shop.missed()
        last = accepted(shop)  # the unit takes them for delivered, and nobody at the centre has them
        assert last >= before + 40 and kept.has_all(before)
        local.stop()  # in an orderly way: what waits in the bridge is kept
        local.start()
        centre.start()
        until(lambda: kept.has_all(last))
        assert not kept.sequences("json_extract(body, '$.replayed')")

        centre.stop()
        for _ in range(20):
            shop.missed()
        last = accepted(shop)
        local.kill()  # what waits in the bridge is lost
        local.start()
        centre.start()
        until(lambda: kept.has_all(last), 60)
        assert kept.sequences("json_extract(body, '$.replayed')")


def test_commands_go_in_and_states_come_out_retained(
    tmp_path: Path, centre: VirtualBroker, local: VirtualBroker, caplog: pytest.LogCaptureFixture
) -> None:
    crm = System(centre.port)
    try:
        with running(settings(tmp_path / "data", at(local.port))) as shop:
            crm.until(lambda: crm.of("state/health"))
            assert crm.ask("device.info")["store_id"] == shop.unit.store.store_id
            crm.send(crm.request("recording.pause", seconds=60), retain=True)
            until(lambda: "reason=retained" in caplog.text)
            assert shop.unit.management.paused is None
            newcomer = System(centre.port, "newcomer")
            retained = {"status", "info", "state/recorder", "state/line/1", "state/health"}
            newcomer.until(lambda: retained <= {topic for topic, _, kept in newcomer.heard if kept})
            newcomer.close()
        crm.until(lambda: [payload for topic, payload, _ in crm.heard if topic == "status"][-1] == b"offline")
    finally:
        crm.close()
