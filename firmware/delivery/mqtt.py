"""Delivery to one MQTT broker: retained states, and the outbox's events, at least once and in order of their streams;
and what is published to the unit, as far as it may be looked at.

What paho 2.2 does by itself would double, queue without bound or reorder, so little is left to it: it holds messages of
the present connection only (dropped at the next one, the outbox hands them over again), and at most a window of events.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from firmware.core.facts import DeliveryFact, EventAccepted, EventRefused, MessageReceived, SinkConnected, SinkLost
from firmware.core.outbox import Outbox, OutboxEntry, Stream
from firmware.core.privacy import masked
from firmware.delivery.keys import HmacKey, Unready
from firmware.settings import BrokerSettings

_log = logging.getLogger(__name__)

_WINDOW = 20  # events handed over and not yet answered
_UNANSWERED = 10  # messages on the wire; HiveMQ takes no more, and paho does not heed a broker's Receive Maximum
_LONGEST_WAIT_S = 60
_STEADY_S = 10  # a connection that held so long begins the back-off anew
_TRIALS = 3  # of an event that the connection breaks off with each time
_CLOSE_S = 1.8
_MOST_REPLAYS = 100  # ranges that wait
_LOOKED_AT = 2000  # numbers of these, in one go
_KEPT_FREE = 5  # of events_per_s: what happens now does not wait for what is sent again
_LARGEST_MESSAGE = 65_536
_LARGEST_PACKET = 2_000_000  # a broker of MQTT 5 sends no larger one; what is smaller is refused with a line in the log
_AGAIN_NS = 30_000_000_000  # between two states of Home Assistant that are looked at
_TOLD_NS = 60_000_000_000  # between two lines about messages that are too many
_REFUSALS = 20  # of one event, with codes that ask for another try; then it is parked
_BROKER_BUSY = frozenset({0x89, 0x97})  # of the broker, not of the event: all wait
_MESSAGES_PER_S = 10
_MOST_MESSAGES = 40  # at once

_COMMANDS = ("rpc/req", "set/recording")
_OFFLINE = b"offline"
_ONLINE = b"online"

_PACKET_TOO_LARGE = 0x95
_NEVER_ACCEPTED = frozenset({0x87, 0x90, _PACKET_TOO_LARGE, 0x99})  # not authorized, topic, size, payload format
_BROKEN_OFF_BY_CONTENT = _NEVER_ACCEPTED | {0x80, 0x81, 0x82, 0x83}  # possibly; 0x80 also is no word at all


class _EventProperties(Properties):
    """CloudEvents, MQTT binding 1.0.2, section 3.2.1. Packed once: anew for each event it is a fifth of the work."""

    _packed: bytes

    def __init__(self) -> None:
        super().__init__(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        self.ContentType = "application/cloudevents+json; charset=utf-8"
        object.__setattr__(self, "_packed", super().pack())  # type: ignore[no-untyped-call]

    def pack(self) -> bytes:
        return self._packed


@dataclass(slots=True)
class _Budget:
    """So many a second, and no more than a second's worth, or most, at once."""

    per_s: float
    most: float
    left: float = 0.0
    at_ns: int = 0

    def take(self, but: int = 0) -> bool:
        """but: so many are left for others."""
        now_ns = time.monotonic_ns()
        self.left = min(self.most, self.left + (now_ns - self.at_ns) * self.per_s / 1e9)
        self.at_ns = now_ns
        if self.left < 1 + but:
            return False
        self.left -= 1
        return True


@dataclass(eq=False, slots=True)
class _Session:
    """One connection, from CONNACK to loss. Messages that are forgotten with it are handed over again in the next."""

    at_ns: int
    largest_bytes: int  # of one packet
    flying: dict[int, _Handed] = field(default_factory=dict)  # by packet id
    early: dict[int, int] = field(default_factory=dict)  # packet id -> code of an answer that overtook publish()
    end: int = 0  # code of its loss
    handed: set[tuple[Stream, int]] = field(default_factory=set)  # not yet settled; loop thread only


_Handed = tuple[Stream, int] | str | None  # an event, the topic of a state, or an answer


class MqttPublisher:
    """Publishes one unit's branch `{prefix}/{site}/{unit}/` at one broker.

    A topic is given below the branch, or whole behind a "/". hmac_key: for the settings' privacy.
    post: takes the facts, from the loop thread and from paho's; it must not block (paho holds its locks meanwhile).
    Thread: all methods on the loop's; paho's own does nothing but post facts. After each fact: settle(), then pump().
    """

    def __init__(
        self,
        settings: BrokerSettings,
        site: str,
        unit: str,
        outbox: Outbox,
        post: Callable[[DeliveryFact], None],
        hmac_key: HmacKey | None = None,
    ) -> None:
        self._settings, self._hmac, self._hmac_key = settings, hmac_key, b""
        self.name = settings.name
        self._branch = f"{settings.prefix}/{site}/{unit}"
        self._client_id = f"tsuroku:{site}:{unit}"  # names hold no colon: no two units have one id
        self._where = f"Broker {settings.name} at {settings.host}:{settings.port}"
        self._outbox = outbox
        self._post = post
        self._shown: dict[str, bytes] = {"status": _ONLINE}
        self._due: dict[str, None] = {}  # topics of states that the broker has not got, in order
        self._event_properties = _EventProperties() if settings.protocol == "5" else None
        self._cleared: queue.SimpleQueue[str] = queue.SimpleQueue()  # retained topics that the broker has let go
        self._replays: list[tuple[Stream, int, int]] = []  # ranges that a consumer has asked for again
        self._replaying: set[tuple[Stream, int]] = set()  # of these, handed over
        self._events = _Budget(settings.events_per_s, settings.events_per_s)
        self._kept_free = min(_KEPT_FREE, settings.events_per_s - 1)
        self._messages = _Budget(_MESSAGES_PER_S, _MOST_MESSAGES)  # paho's thread only, like the next two
        self._ignored = 0
        self._ignored_told_ns = 0
        self._again_ns = 0
        # By event: how often it was refused with another try, and how many had been accepted before the first.
        self._refused: dict[tuple[Stream, int], tuple[int, int]] = {}
        self._accepted = 0
        self._held: dict[tuple[Stream, int], int] = {}  # not before this time

        self._client: mqtt.Client | None = None
        self._network: threading.Thread | None = None  # paho's thread
        self._session: _Session | None = None  # as paho's thread sees it
        self._joined: _Session | None = None  # the session whose SinkConnected was settled
        # Over flying and early. Never held while calling paho: it answers with locks of its own held.
        self._lock = threading.Lock()
        self._told: set[str] = set()  # sentences told since the last connection
        self._answered = False  # the present attempt got a CONNACK
        self._failures = 0
        self._window = _WINDOW
        self._suspect: tuple[Stream, int] | None = None
        self._trials = 0
        self._refusals = 0
        self._hold_until_ns = 0  # no events before: the broker asked for time
        self._open_at_ns = 0
        self._closed = True  # until start(), and from close() on

    def start(self) -> None:
        """Begin to connect, and go on trying. Never blocks for the network, never raises for a broker."""
        self._closed = False
        self._open()

    def show(self, topic: str, payload: dict[str, Any] | str) -> None:
        """Set the retained state below the unit's branch: a JSON object, or plain text; "" clears it.

        The latest value is kept and published on every connect. While the one before is unanswered, the new one waits
        for the next pump(), so that a slow broker sees the newest and not a queue.
        """
        data = payload.encode("utf-8", "replace") if isinstance(payload, str) else as_json(payload)
        if self._shown.get(topic) == data:
            return  # the broker has it, or it is due
        self._shown[topic] = data
        self._due[topic] = None
        session = self._joined
        if session is not None and session is self._session:
            self._show_due(session)

    def pump(self) -> None:
        """Hand over what is due, while connected. Call it after each settle(), each new event, and once a second.

        Before start() it does nothing: what a recovery files would open a connection that start() opens again, and
        two of one client id drive each other out for ever.
        """
        if self._closed:
            return
        self._revive()
        while not self._cleared.empty():
            topic = self._cleared.get()
            if self._shown.get(topic) == b"":
                del self._shown[topic]
        session = self._joined
        if session is None or session is not self._session:
            return  # away, or connected anew while this thread has yet to settle it
        self._show_due(session)
        if time.monotonic_ns() < self._hold_until_ns:
            return
        room = self._window - len(session.handed)
        now_ns = time.monotonic_ns()
        held = {event for event, until_ns in self._held.items() if until_ns > now_ns}
        if room > 0 and self._hand_all(session, self._outbox.pending(room, session.handed | held)):
            while len(session.handed) < self._window and (entry := self._next_replay()):
                self._replaying.add((entry.stream, entry.sequence))
                if not self._hand_all(session, [entry]):
                    self._replays.insert(0, (entry.stream, entry.sequence, entry.sequence))
                    return

    def _hand_all(self, session: _Session, entries: Sequence[OutboxEntry]) -> bool:
        """Hand these events over. False as soon as one cannot be, now."""
        for entry in entries:
            event = (entry.stream, entry.sequence)
            body = masked(entry.body, self._settings.privacy, self._hmac_key)
            again = event in self._replaying
            if again:
                body = {**body, "replayed": True}
            if not self._events.take(self._kept_free if again else 0) or not self._hand(session, event, as_json(body)):
                return False
        return True

    def replay(self, stream: Stream, low: int, high: int) -> bool:
        """Publish events of a stream once more, as replayed, behind what is due. False: too many wait already."""
        if len(self._replays) >= _MOST_REPLAYS:
            return False
        self._replays.append((stream, low, high))
        return True

    def _next_replay(self) -> OutboxEntry | None:
        """The next event that is asked for again; those that are gone, or on their way, are passed over.

        None also after many that are gone: the loop has more to do, and comes back to the rest.
        """
        for _ in range(_LOOKED_AT):
            if not self._replays:
                break
            stream, low, high = self._replays.pop(0)
            if low < high:
                self._replays.insert(0, (stream, low + 1, high))
            entry = self._outbox.read(stream, low)
            if entry and self._joined and (stream, low) not in self._joined.handed:
                return entry
        return None

    def show_again(self) -> None:
        """Publish every state anew: somebody has come who may not have them."""
        self._due |= dict.fromkeys(self._shown)

    def answer(self, topic: str, payload: dict[str, Any]) -> None:
        """Publish a message that is no state and no event: once, to whoever listens now."""
        session = self._joined
        if session is not None and session is self._session:
            self._hand(session, None, as_json(payload), topic)

    @property
    def busy(self) -> bool:
        """Events are on their way, or asked for again."""
        return self._joined is not None and bool(self._joined.handed or self._replays)

    @property
    def topics(self) -> list[str]:
        """The retained topics, whole."""
        return sorted(self._whole(topic) for topic in self._shown)

    def forget(self, topics: Iterable[str]) -> None:
        """Clear retained topics that an earlier run published under other names. topics: whole."""
        for topic in topics:
            if topic not in self.topics:
                self.show(f"/{topic}", "")

    def _whole(self, topic: str) -> str:
        return topic[1:] if topic.startswith("/") else f"{self._branch}/{topic}"

    def settle(self, fact: DeliveryFact) -> None:
        """Take a fact back that post got, in the order of posting, after its event was marked in the outbox."""
        if fact.sink != self._settings.name:
            return
        match fact:
            case SinkConnected():
                session = self._session
                if session is not None and session.at_ns == fact.at_ns:
                    self._joined = session
                    self._hold_until_ns = 0
                    first = {"status": 0, "info": 1}
                    self._due = dict.fromkeys(sorted(self._shown, key=lambda topic: first.get(topic, 2)))
            case SinkLost():
                session, self._joined = self._joined, None
                self._replays[:0] = [(stream, sequence, sequence) for stream, sequence in sorted(self._replaying)]
                self._replaying.clear()
                if session is not None and session.handed and session.end in _BROKEN_OFF_BY_CONTENT:
                    self._try_singly(session)
            case EventAccepted():
                self._refusals = 0
                self._accepted += 1
                self._window = _WINDOW
                self._free(fact.stream, fact.sequence)
                self._forget_refusals(fact.stream, fact.sequence)
            case EventRefused():
                self._free(fact.stream, fact.sequence)
                if not fact.retry:
                    self._forget_refusals(fact.stream, fact.sequence)
                elif fact.code in _BROKER_BUSY:
                    now_ns = time.monotonic_ns()
                    if now_ns >= self._hold_until_ns:  # the rest of a window is refused with its first
                        self._refusals += 1
                        self._hold_until_ns = now_ns + round(_wait_s(self._refusals) * 1e9)
                else:
                    self._hold(fact)

    def _hold(self, refused: EventRefused) -> None:
        """Try this event later, and the others meanwhile. Where they get through and it never does, it is parked."""
        event = (refused.stream, refused.sequence)
        count, accepted = self._refused.get(event, (0, self._accepted))
        self._refused[event] = count + 1, accepted
        self._held[event] = time.monotonic_ns() + round(_wait_s(count + 1) * 1e9)
        if count + 1 >= _REFUSALS and self._accepted > accepted:
            self._post(replace(refused, retry=False))

    def _forget_refusals(self, stream: Stream, sequence: int) -> None:
        self._refused.pop((stream, sequence), None)
        self._held.pop((stream, sequence), None)

    def close(self, last: str = "offline") -> None:
        """Say a last status and disconnect: 2 s at most, at once while the broker is away. Nothing is posted then."""
        self._closed = True
        client, self._client = self._client, None
        if client is None:
            return
        until_s = time.monotonic() + _CLOSE_S
        if self._session is not None and not self._said(client, last):
            # A DISCONNECT would suppress the will and leave `online` retained: break off, the broker sends the will.
            sock = client.socket()
            if isinstance(sock, socket.socket):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # already broken off
        away = self._session is None
        client.disconnect()
        if not away and self._network is not None:
            self._network.join(max(0.0, until_s - time.monotonic()))

    def _said(self, client: mqtt.Client, last: str) -> bool:
        answer = client.publish(f"{self._branch}/status", last, 1, True)
        try:
            answer.wait_for_publish(_CLOSE_S - 0.4)
            return answer.is_published()
        except RuntimeError:
            return False  # the connection was lost meanwhile

    # Loop thread: opening and handing over.

    def _open(self) -> None:
        try:
            client = self._new_client()
        except Unready as unready:
            self._failures += 1
            self._open_at_ns = time.monotonic_ns() + _LONGEST_WAIT_S * 1_000_000_000
            self._lose(str(unready))
            return
        self._client, self._network = client, None
        limits = None
        if self._settings.protocol == "5":
            limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            limits.MaximumPacketSize = _LARGEST_PACKET
        settings = self._settings
        client.connect_async(
            settings.host, settings.port, keepalive=settings.keepalive_s, clean_start=True, properties=limits
        )
        client.loop_start()

    def _revive(self) -> None:
        """Open again after unusable settings, or after an exception that ended paho's thread."""
        if self._client is None:
            if time.monotonic_ns() >= self._open_at_ns:
                self._open()
        elif self._network is not None and not self._network.is_alive():
            self._client = None
            self._failures += 1
            self._open_at_ns = time.monotonic_ns() + round(_wait_s(self._failures) * 1e9)
            self._lose(
                f"{self._where}: the connection ended by a fault in this program; it is opened again by itself, "
                "send the log to the maker."
            )

    def _new_client(self) -> mqtt.Client:
        """Raises Unready."""
        settings = self._settings
        try:
            settings.host.encode("idna")
        except UnicodeError as error:
            raise Unready(f"{self._where}: this cannot be the name of a host; mend host in the settings.") from error
        if settings.privacy == "hmac" and self._hmac:
            self._hmac_key = self._hmac.read()
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=mqtt.MQTTv5 if settings.protocol == "5" else mqtt.MQTTv311,
        )
        client.max_inflight_messages_set(_UNANSWERED)
        client.will_set(f"{self._branch}/status", _OFFLINE, qos=1, retain=True)
        if settings.username is not None:
            client.username_pw_set(settings.username, self._password())
        if settings.tls:
            client.tls_set_context(self._tls())
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        return client

    def _password(self) -> str | None:
        path = self._settings.password_file
        if path is None:
            return None
        try:
            return path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Unready(
                f"{self._where}: password_file {path} cannot be read ({_short(error)}); "
                "put the password there and let the user tsuroku read it."
            ) from error

    def _tls(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise Unready(
                f"{self._where}: ca_file {settings.ca_file} cannot be used ({_short(error)}); "
                "put the certificate of the broker's CA there as PEM and let the user tsuroku read it."
            ) from error
        # Python 3.13 turns this on; the CAs that shops make for themselves often lack the extensions that it asks for.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if settings.cert_file is not None:
            try:
                # With a password given, a locked key is an error and not a question at the terminal.
                context.load_cert_chain(settings.cert_file, settings.key_file, password="")
            except OSError as error:
                raise Unready(
                    f"{self._where}: cert_file {settings.cert_file} with key_file {settings.key_file} cannot be used "
                    f"({_short(error)}); put a certificate and its unlocked key there as PEM "
                    "and let the user tsuroku read them."
                ) from error
        return context

    def _show_due(self, session: _Session) -> None:
        with self._lock:
            unanswered = {what for what in session.flying.values() if isinstance(what, str)}
        for topic in [topic for topic in self._due if topic not in unanswered and topic in self._shown]:
            if not self._hand(session, topic, self._shown[topic]):
                return
            del self._due[topic]

    def _hand(self, session: _Session, what: _Handed, payload: bytes, to: str = "") -> bool:
        """Hand one message to paho. False if the connection is gone: whatever paho keeps then, it never sends."""
        client = self._client
        if client is None:
            return False
        topic, retain, properties = self._whole(to), False, None
        if isinstance(what, str):
            topic, retain = self._whole(what), True
        elif what is not None:
            topic, properties = f"{self._branch}/event/{what[0]}", self._event_properties
            session.handed.add(what)
        if len(topic.encode()) + len(payload) + 64 > session.largest_bytes:  # 64: header, lengths, properties
            self._answer(what, _PACKET_TOO_LARGE, failed=True)
            return True
        sent = client.publish(topic, payload, 1, retain, properties)
        if sent.rc != mqtt.MQTT_ERR_SUCCESS:
            if isinstance(what, tuple):
                session.handed.discard(what)
            return False
        with self._lock:
            code = session.early.pop(sent.mid, None)
            if code is None:
                session.flying[sent.mid] = what
        if code is not None:
            self._answer(what, code, failed=code >= 0x80)
        return True

    def _try_singly(self, session: _Session) -> None:
        """Find and park an event that makes the broker break off: it would hold up all others for ever.

        Brokers of MQTT 3.1.1 have no other way to refuse; and a PUBACK with a code that MQTT does not give it, such as
        Mosquitto's 0x95, makes paho break off. Until the next event is accepted they go one at a time.
        """
        self._window = 1
        if len(session.handed) > 1:
            return
        (event,) = session.handed
        self._trials = self._trials + 1 if event == self._suspect else 1
        self._suspect = event
        if self._trials >= _TRIALS:
            self._answer(event, session.end, failed=True, final=True)

    def _free(self, stream: Stream, sequence: int) -> None:
        self._replaying.discard((stream, sequence))
        if self._joined is not None:
            self._joined.handed.discard((stream, sequence))

    # paho's thread: facts only.

    def _on_pre_connect(self, client: mqtt.Client, userdata: object) -> None:
        self._network = threading.current_thread()
        self._answered = False

    def _on_connect(
        self,
        client: mqtt.Client,
        userdata: object,
        flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._answered = True
        if self._closed:
            client.disconnect()  # close() came between this attempt's socket and its answer
            return
        if reason.is_failure:
            self._lose(self._why_refused(reason))
            return
        client.drop_out_messages()  # before paho sends them again: the outbox does
        self._told.clear()
        session = _Session(time.monotonic_ns(), getattr(properties, "MaximumPacketSize", sys.maxsize))
        self._session = session
        self._subscribe(client)
        _log.info("broker=%s state=connected", self._settings.name)
        self._post(SinkConnected(at_ns=session.at_ns, sink=self._settings.name))

    def _on_connect_fail(self, client: mqtt.Client, userdata: object) -> None:
        # paho calls this from its except clause, so the cause is still at hand.
        self._back_off(client)
        self._lose(self._why_unreachable(sys.exception()))

    def _on_disconnect(
        self,
        client: mqtt.Client,
        userdata: object,
        flags: mqtt.DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        session = self._session
        if session is not None and time.monotonic_ns() - session.at_ns >= _STEADY_S * 1_000_000_000:
            self._failures = 0
        self._back_off(client)
        if session is not None:
            session.end = reason.value
            self._lose(self._why_lost(flags.is_disconnect_packet_from_server, reason))
        elif not self._answered:  # after a refusal the cause is told already
            self._lose(
                f"{self._where} closed the connection before it answered; "
                "check that port, tls, certificates and protocol in the settings fit its listener."
            )

    def _on_publish(
        self, client: mqtt.Client, userdata: object, mid: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        # Called for every PUBACK, also for a refusal.
        session = self._session
        if session is None:
            return
        with self._lock:
            known = mid in session.flying
            what = session.flying.pop(mid, None)
            if not known:
                session.early[mid] = reason.value
        if known:
            self._answer(what, reason.value, failed=reason.is_failure)

    def _subscribe(self, client: mqtt.Client) -> None:
        """The session is clean: only what is published from now on comes, and what somebody has retained."""
        topics = [self._whole(topic) for topic in (_COMMANDS if self._settings.commands else ())]
        if self._settings.discovery != "off":
            topics.append(f"{self._settings.discovery_prefix}/status")
        if not topics:
            return
        if self._settings.protocol == "5":  # a command that is retained is then told as such, whenever it comes
            options = SubscribeOptions(qos=1, retainAsPublished=True)
            client.subscribe([(topic, options) for topic in topics])
        else:
            client.subscribe([(topic, 1) for topic in topics])

    def _on_subscribe(
        self, client: mqtt.Client, userdata: object, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._warn(
                f"{self._where} does not let this unit subscribe to its own topics; "
                "mend the broker's access list, or set commands = false."
            )

    def _on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        # Whoever can publish here can do so a thousand times a second: the loop must not see it.
        if len(message.payload) > _LARGEST_MESSAGE:
            _log.warning(
                "event=command_refused broker=%s reason=too_large bytes=%d", self._settings.name, len(message.payload)
            )
            return
        now_ns = time.monotonic_ns()
        if message.topic == f"{self._settings.discovery_prefix}/status":
            if message.payload != b"online" or now_ns - self._again_ns < _AGAIN_NS:
                return
            self._again_ns = now_ns
        elif not self._messages.take():
            self._ignored += 1
            if now_ns - self._ignored_told_ns > _TOLD_NS:
                _log.warning(
                    "event=command_refused broker=%s reason=too_many count=%d", self._settings.name, self._ignored
                )
                self._ignored, self._ignored_told_ns = 0, now_ns
            return
        topic = message.topic.removeprefix(f"{self._branch}/")
        self._post(
            MessageReceived(
                at_ns=now_ns, sink=self.name, topic=topic, payload=bytes(message.payload), retained=message.retain
            )
        )

    def _back_off(self, client: mqtt.Client) -> None:
        if self._closed:
            client.disconnect()  # close() came while this attempt was failing: let it be the last
            return
        self._failures += 1
        wait_s = _wait_s(self._failures)
        client.reconnect_delay_set(wait_s, wait_s)  # type: ignore[arg-type]  # fractions work, and spread many units

    def _answer(self, what: _Handed, code: int, *, failed: bool, final: bool = False) -> None:
        """Tell a broker's answer; final: it is of no use to try again, whatever the code. On either thread."""
        if self._closed:
            return
        if failed:
            topic = what if isinstance(what, str) else f"event/{what[0]}" if what else "an answer"
            self._warn(f"{self._where} refused {topic} with code 0x{code:02X}.")
        if isinstance(what, str) and not failed and self._shown.get(what) == b"":
            self._cleared.put(what)
        if not isinstance(what, tuple):
            return
        at_ns, sink, (stream, sequence) = time.monotonic_ns(), self._settings.name, what
        if failed:
            retry = not final and code not in _NEVER_ACCEPTED
            self._post(EventRefused(at_ns=at_ns, sink=sink, stream=stream, sequence=sequence, code=code, retry=retry))
        else:
            self._post(EventAccepted(at_ns=at_ns, sink=sink, stream=stream, sequence=sequence))

    def _lose(self, reason: str) -> None:
        self._session = None
        if not self._closed and self._warn(reason):
            self._post(SinkLost(at_ns=time.monotonic_ns(), sink=self._settings.name, reason=reason))

    def _warn(self, sentence: str) -> bool:
        """Log a sentence: True for the first time since the last connection, repeats at debug."""
        first = sentence not in self._told
        self._told.add(sentence)
        _log.log(logging.WARNING if first else logging.DEBUG, 'broker=%s reason="%s"', self._settings.name, sentence)
        return first

    def _why_refused(self, reason: ReasonCode) -> str:
        match reason.value:
            case 0x84:
                return (
                    f"{self._where} does not speak MQTT {self._settings.protocol}; set protocol to the other version."
                )
            case 0x86 | 0x87:
                return (
                    f"{self._where} refuses this unit's credentials; check username, password_file and cert_file "
                    "in the settings against the unit's account at the broker."
                )
            case 0x88 | 0x89 | 0x97 | 0x9F:
                return f"{self._where} takes no connections now ({reason}); it is tried again by itself."
            case _:
                return f"{self._where} refuses the connection ({reason}); look into the broker's log."

    def _why_unreachable(self, error: BaseException | None) -> str:
        match error:
            case ssl.SSLCertVerificationError():
                return (
                    f"{self._where} showed a certificate that is not trusted ({error.verify_message}); "
                    "check ca_file and host in the settings, and this unit's clock."
                )
            case ssl.SSLError():
                return (
                    f"{self._where} does not agree on TLS ({error.reason or _short(error)}); "
                    "check that port is the TLS port, and cert_file."
                )
            case socket.gaierror():
                return f"{self._where}: the name cannot be resolved; check host in the settings and the network's DNS."
            case ConnectionRefusedError():
                return f"{self._where}: nothing listens there; start the broker or mend host and port in the settings."
            case TimeoutError():
                return (
                    f"{self._where} does not answer; check the network cable, the firewall, and host in the settings."
                )
            case _:
                return f"{self._where} cannot be reached ({_short(error)}); check the network and host in the settings."

    def _why_lost(self, told_by_broker: bool, reason: ReasonCode) -> str:
        if not told_by_broker:
            return f"{self._where}: the connection broke off; it is opened again by itself once the network is back."
        match reason.value:
            case 0x00 | 0x8B:
                return f"{self._where} is shutting down; the connection is opened again by itself."
            case 0x8E:  # session taken over
                return (
                    f"{self._where} gave this unit's place to another; two units have the same site and unit name: "
                    "give each its own."
                )
            case _:
                return f"{self._where} ended the connection ({reason}); look into the broker's log."


def _wait_s(failures: int) -> float:
    """The back-off before the next attempt: 1 to 60 s, longer with each failure, at random within."""
    return random.uniform(1, min(_LONGEST_WAIT_S, 2 ** min(failures, 6)))


def as_json(value: dict[str, Any]) -> bytes:
    """An event or a state as every sink gets it: UTF-8, in the order of its keys."""
    try:
        return orjson.dumps(value)
    except TypeError:  # a lone surrogate in a text becomes "?": brokers and consumers refuse what is not UTF-8
        pass
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _short(error: BaseException | None) -> str:
    return str(getattr(error, "strerror", None) or error)
