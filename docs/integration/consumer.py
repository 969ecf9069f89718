#!/usr/bin/env python3
"""A consumer that loses no event: every event of a unit, once, in an SQLite file. Needs paho-mqtt 2 and nothing else.

    python3 consumer.py --host broker.example --branch tsuroku/v1/shop/unit-1 --database calls.db

It follows the rules of delivery (docs/integration/README.md):
- a session that outlives its outages (clean start off), and an acknowledgement only when an event is on the disk;
- events are told apart by store id, stream and sequence: what comes twice is taken once;
- a gap, also one at the end (`last_seq` in state/recorder), is asked for with events.replay;
- what it has without a gap it confirms with events.ack, if the unit's settings list it as a consumer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sqlite3
import ssl
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

log = logging.getLogger("consumer")

SESSION_S = 7 * 86_400  # the broker keeps what comes while this consumer is away
PATIENCE_S = 10.0  # for what was asked for, before it is asked for again
ACK_EVERY_S = 2.0  # the unit looks at ten messages a second at most
MOST_ASKED = 1000  # events in one request

TABLES = """
create table if not exists event (
    store text, stream text, sequence integer, id text, type text, subject text, time text, body text,
    primary key (store, stream, sequence));
create table if not exists gone (store text, stream text, low integer, high integer);
"""


class Consumer:
    """Everything happens on paho's network thread, or on the caller's of run(). SQLite keeps it in order."""

    def __init__(self, branch: str, database: str, name: str = "consumer", *, confirm: bool = False) -> None:
        self.branch, self.name, self.confirm = branch.rstrip("/"), name, confirm
        self.database = sqlite3.connect(database, check_same_thread=False)
        self.database.executescript("pragma journal_mode = wal; pragma synchronous = full;" + TABLES)
        self.failed = threading.Event()
        self.refused = set[str]()  # streams that the unit does not publish here
        self.requests = dict[str, str]()  # by id of a request that is not answered yet: its stream
        self.store: str | None = None  # whose sequences these are
        self.last: dict[str, int] = {}  # by stream, as state/recorder tells
        self.asked: dict[str, float] = {}  # by stream, when a gap was last asked for
        self.done = dict[str, int]()  # by stream, the last one before the first gap
        self.acked = dict[str, int]()
        self.acked_at = dict[str, float]()
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5, manual_ack=True
        )
        self.client.on_connect = self.on_connect
        self.client.on_message = self.on_message

    def connect(self, host: str, port: int) -> None:
        lasting = Properties(PacketTypes.CONNECT)
        lasting.SessionExpiryInterval = SESSION_S
        self.client.reconnect_delay_set(1, 30)
        self.client.connect_async(host, port, clean_start=False, properties=lasting)
        self.client.loop_start()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.database.close()

    # -- what comes

    def on_connect(self, client: mqtt.Client, userdata: object, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            log.error("the broker refuses: %s", reason)
            return
        topics = ("event/#", "state/recorder", f"rpc/res/{self.name}")
        client.subscribe([(f"{self.branch}/{topic}", 1) for topic in topics])
        self.asked.clear()
        self.refused.clear()
        self.requests.clear()

    def on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        topic = message.topic.removeprefix(self.branch + "/")
        try:
            body = json.loads(message.payload)
        except ValueError:
            log.error("%s is not as the contract says", message.topic)
            client.ack(message.mid, message.qos)
            return
        try:
            if topic.startswith("event/"):
                self.take(topic.removeprefix("event/"), body)
            elif topic == "state/recorder":
                self.take_state(body)
            else:
                self.take_answer(body)
        except Exception:
            # It is not acknowledged, and not in the database: it comes again when this consumer is started again.
            log.exception("%s could not be taken; the consumer ends", message.topic)
            self.failed.set()
            client.disconnect()
            return
        client.ack(message.mid, message.qos)  # only now may the broker forget it

    def take(self, stream: str, event: dict[str, Any]) -> None:
        sequence = event["sequence"]
        store = event["id"].removesuffix(f"-{stream}-{sequence}")
        row = (store, stream, sequence, event["id"], event["type"], event["subject"], event["time"], json.dumps(event))
        with self.database:
            new = self.database.execute("insert or ignore into event values (?, ?, ?, ?, ?, ?, ?, ?)", row).rowcount
            if new:
                self.on_event(event)
        self.look(stream)

    def on_event(self, event: dict[str, Any]) -> None:
        """What your own system does with a new event; what it raises takes the event back. Here: it is shown."""
        log.info("%s %s %s", event["time"], event["type"], event["subject"])

    def take_state(self, state: dict[str, Any]) -> None:
        if self.store != state["store_id"]:
            self.store, self.done, self.acked = state["store_id"], {}, {}
        self.last = {stream: kept["last_seq"] for stream, kept in state["streams"].items()}
        for stream in self.last:
            self.look(stream)

    def take_answer(self, answer: dict[str, Any]) -> None:
        """Of events.replay: what is gone for ever is no gap any more."""
        result = answer.get("result", {})
        stream = self.requests.pop(str(answer["id"]), None)
        if "error" in answer:
            log.warning("the unit refuses: %s", answer["error"]["message"])
            if stream and answer["error"]["code"] == -32602:
                self.refused.add(stream)  # until the next connection
        if result.get("gone") and self.store:
            with self.database:
                self.database.executemany(
                    "insert into gone values (?, ?, ?, ?)",
                    [(self.store, result["stream"], low, high) for low, high in result["gone"]],
                )
            self.look(result["stream"])

    # -- what is missing

    def look(self, stream: str) -> None:
        """Ask for the first gap; confirm what is before it."""
        if self.store is None or stream in self.refused:
            return
        done = self.whole(stream)
        now = time.monotonic()
        if self.confirm and done > self.acked.get(stream, 0) and now >= self.acked_at.get(stream, 0.0) + ACK_EVERY_S:
            self.ask("events.ack", {"consumer": self.name, "stream": stream, "seq": done})
            self.acked[stream], self.acked_at[stream] = done, now
        high = self.newest(stream)
        if done < high and time.monotonic() - self.asked.get(stream, -PATIENCE_S) >= PATIENCE_S:
            self.asked[stream] = time.monotonic()
            known = self.after(stream, done + 1)
            low, to = done + 1, min(high if known is None else known - 1, done + MOST_ASKED)
            self.ask("events.replay", {"stream": stream, "from_seq": low, "to_seq": to})

    def whole(self, stream: str) -> int:
        """The last sequence up to which nothing is missing."""
        done = self.done.get(stream, 0)
        while True:
            gone = self.database.execute(
                "select max(high) from gone where store = ? and stream = ? and low <= ? and high > ?",
                (self.store, stream, done + 1, done),
            ).fetchone()[0]
            there = self.database.execute(
                "select 1 from event where store = ? and stream = ? and sequence = ?", (self.store, stream, done + 1)
            ).fetchone()
            if gone is None and there is None:
                self.done[stream] = done
                return done
            done = gone if gone is not None else done + 1

    def newest(self, stream: str) -> int:
        seen = self.database.execute(
            "select max(sequence) from event where store = ? and stream = ?", (self.store, stream)
        ).fetchone()[0]
        return max(seen or 0, self.last.get(stream, 0))

    def after(self, stream: str, sequence: int) -> int | None:
        row = self.database.execute(
            "select min(sequence) from event where store = ? and stream = ? and sequence > ?",
            (self.store, stream, sequence),
        ).fetchone()
        return None if row is None else row[0]

    def ask(self, method: str, params: dict[str, Any]) -> None:
        id_ = str(uuid.uuid4())
        self.requests[id_] = params["stream"]
        request = {
            "jsonrpc": "2.0",
            "id": id_,
            "src": self.name,
            "method": method,
            "params": params,
            "exp": int(time.time()) + 60,
        }
        self.client.publish(f"{self.branch}/rpc/req", json.dumps(request), qos=1)


def main() -> int:
    parser = argparse.ArgumentParser(description="Keep every event of one Tsuroku unit in an SQLite file.")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=8883)
    parser.add_argument("--branch", required=True, help="PREFIX/SITE/UNIT, as tsuroku/v1/shop/unit-1")
    parser.add_argument("--database", default="calls.db")
    parser.add_argument("--name", default="consumer", help="a name of its own: a-z, 0-9, - and _")
    parser.add_argument("--confirm", action="store_true", help="the unit's settings list it (consumers)")
    parser.add_argument("--username")
    parser.add_argument("--password-file")
    parser.add_argument("--no-tls", action="store_true", help="for a broker on this machine")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    consumer = Consumer(args.branch, args.database, args.name, confirm=args.confirm)
    if args.username:
        password = None
        if args.password_file:
            password = Path(args.password_file).read_text(encoding="utf-8").strip()
        consumer.client.username_pw_set(args.username, password)
    if not args.no_tls:
        consumer.client.tls_set_context(ssl.create_default_context())
    consumer.connect(args.host, args.port)
    with contextlib.suppress(KeyboardInterrupt):
        while not consumer.failed.wait(PATIENCE_S):
            for stream in list(consumer.last):
                consumer.look(stream)  # what was asked for and has not come is asked for again
    consumer.close()
    return int(consumer.failed.is_set())


if __name__ == "__main__":
    sys.exit(main())
