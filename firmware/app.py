"""The only place that builds the unit: store, journal, lines, recorders, publisher and drivers, tied together."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from drivers.codec import Codec, Tap
from drivers.gpio import LineInputs, Panel, PanelState
from drivers.listener import Listener
from drivers.modem import Modem
from drivers.signals import AudioBlock, DeviceLost, DeviceReady
from firmware import clock
from firmware.core.call import Call, ClockRead
from firmware.core.caller import parse_list
from firmware.core.facts import (
    CallLeftOpen,
    DeliveryFact,
    EventAccepted,
    EventRefused,
    Input,
    LocalAsked,
    MessageReceived,
    RecordingSwitched,
    SinkConnected,
    SinkLost,
)
from firmware.core.hook import HookTiming
from firmware.core.line import (
    Command,
    Line,
    LineConfig,
    Mute,
    MuteKey,
    SaveCall,
    ShowLine,
    StartRecording,
    State,
    StopRecording,
)
from firmware.core.outbox import Event, Sink, Stream
from firmware.delivery import discovery
from firmware.delivery.courier import Courier
from firmware.delivery.keys import HmacKey
from firmware.delivery.mqtt import MqttPublisher
from firmware.engine.journal import Journal, JournalledReads
from firmware.engine.loop import Engine
from firmware.feed import Feed
from firmware.local_api import LocalServer
from firmware.management import Management, contract
from firmware.recording.recorder import HELD_BACK_FOR_KEYS_MS, HELD_BACK_MS, Recorder, RecorderThread
from firmware.recording.repair import repair
from firmware.recording.sealed import public_key
from firmware.records.store import CallStore, StoreError
from firmware.retention import Retention
from firmware.settings import (
    BrokerSettings,
    LineSettings,
    Patch,
    Settings,
    SettingsError,
    WebhookSettings,
    patched,
    public_hash,
    read_patch,
)
from firmware.vitals import disk_free_mb, serial_number
from hw.board import Board

if TYPE_CHECKING:
    from firmware.copies import Copier
    from firmware.imports import Inbox
    from firmware.timestamp import Timestamper

log = logging.getLogger(__name__)

VERSION = "0.1.0"
STORE = "store"
KEY_FILE = "unit-key.pem"  # signs what is in the store; leaves the unit never
HMAC_KEY_FILE = "hmac-key"  # by which events tell the same caller, where a broker may not have his number
HEALTH_FILE = "health.json"  # what each device and broker last said, for `tsuroku doctor` beside the running unit
_RECORDER_STUCK_NS = 15_000_000_000


class Driver(Protocol):
    def start(self) -> None: ...
    def close(self) -> None: ...


class Unit:
    """The recorder of one unit. live False: no threads and no broker; the caller steps it through virtual time.

    now, read_clock and new_call_id are the unit's only sources of time and chance. filed, patch: the settings file's,
    and what was changed over it from afar; such a change is refused where filed is None.
    """

    def __init__(
        self,
        settings: Settings,
        board: Board,
        *,
        live: bool = True,
        now: Callable[[], int] = time.monotonic_ns,
        read_clock: Callable[[], ClockRead] = clock.read_clock,
        new_call_id: Callable[[], str] = clock.new_call_id,
        boot_id: str | None = None,
        filed: Settings | None = None,
        patch: Patch | None = None,
    ) -> None:
        self.settings, self.board = settings, board
        self._now = now
        data = settings.unit.data_dir
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        unit = settings.unit
        self.boot_id = boot_id or clock.boot_id()
        self.store = CallStore(
            data / STORE,
            f"/tsuroku/{unit.site}/{unit.unit}",
            sinks=_sinks(settings),
            keep_days=settings.events.keep_days,
            boot_id=self.boot_id,
            read_clock=read_clock,
            key=data / KEY_FILE,
        )
        aside = self.store.wrong
        if aside:
            log.error("event=store_damaged reason=%s", aside)
        configs = [_line_config(line, board, settings, self.boot_id) for line in settings.line]
        self.journal = Journal(data / "journal", configs)
        reads = JournalledReads(self.journal, new_call_id, self.store.read_clock, self._unwanted)
        lines = {config.number: Line(config, reads) for config in configs}
        self.engine = Engine(lines, self.journal, self._execute, self._observe, now, self._settled)
        owner, not_sealed = owner_of(settings.recording.seal_to)
        self.inbox = self._inbox(owner) if live else None
        self.copier: Copier | None = None
        self.recorders: dict[int, Recorder] = {number: self._recorder(settings, owner) for number in lines}
        self.lanes = {n: RecorderThread(recorder) for n, recorder in self.recorders.items()} if live else {}
        self.publishers = {broker.name: self._publisher(broker) for broker in settings.broker} if live else {}
        self.couriers = self._couriers() if live else {}
        self.timestamper = self._timestamper() if live else None
        self.local = LocalServer(data, lambda: self.engine.post(LocalAsked(at_ns=self._now())))
        self.feed = Feed(data)
        self.management = Management(settings, self.store, self, filed, patch, self.boot_id)
        self.retention = Retention(settings.retention, data, self.store)
        self.restarts = False  # it ends only to begin anew
        self._unsaved: list[SaveCall] = []
        self._store_fault: str | None = None
        # By device/line or broker name: what is wrong, or None.
        self._health: dict[str, str | None] = {"store/1": aside} if aside else {}
        if not_sealed:
            log.error("event=not_sealed reason=%s", not_sealed)
            self._note("seal/1", not_sealed)
        self._shown: dict[int, ShowLine] = {}
        self._connected: set[str] = set()
        self._kinds = {broker.name: "broker" for broker in settings.broker}
        self._kinds |= {webhook.name: "webhook" for webhook in settings.webhook}
        self._kinds |= {notify.name: "notify" for notify in settings.notify}
        self.panel: Panel | None = None
        self._identify_until_ns = 0
        self._to_pump = False
        self._drivers: list[Driver] = []

    def _recorder(self, settings: Settings, owner: X25519PublicKey | None) -> Recorder:
        r, data = settings.recording, settings.unit.data_dir
        return Recorder(
            data,
            r.rate_hz,
            r.ring_s,
            r.sync_s,
            r.audio_delay_ms,
            lambda fact: self.engine.post(fact),
            owner,
            self._tags,
            HELD_BACK_FOR_KEYS_MS if r.mute_keys else HELD_BACK_MS,
        )

    def _unwanted(self, number: str) -> bool:
        contact = self.store.contact(number)
        return contact is not None and "do_not_record" in contact.flags

    def _tags(self, line: int, from_ns: int) -> dict[str, str]:
        """Of a recording. A clock that is not set dates nothing. Thread: the recorder's."""
        unit, read = self.settings.unit, self.store.read_clock()
        dated = {} if read.state == "unsynced" else {"date": read.iso(from_ns)}
        return {"artist": f"{unit.site}/{unit.unit}, line {line}", "software": f"Tsuroku {VERSION}", **dated}

    def _publisher(self, broker: BrokerSettings) -> MqttPublisher:
        unit, key = self.settings.unit, self._hmac_key(broker)
        return MqttPublisher(
            broker, unit.site, unit.unit, self.store.outbox(broker.name), self.engine.post, hmac_key=key
        )

    def _couriers(self) -> dict[str, Courier[Any]]:
        """What they need takes tens of megabytes: it is loaded only where it is wanted."""
        settings, post = self.settings, self.engine.post
        couriers: dict[str, Courier[Any]] = {}
        if settings.webhook:
            from firmware.delivery.webhook import Webhook  # noqa: PLC0415

            for webhook in settings.webhook:
                outbox, key = self.store.outbox(webhook.name), self._hmac_key(webhook)
                couriers[webhook.name] = Webhook(webhook, settings.line, outbox, post, hmac_key=key)
        if settings.notify:
            from firmware.delivery.notify import Notifier  # noqa: PLC0415

            for notify in settings.notify:
                couriers[notify.name] = Notifier(
                    notify,
                    settings.unit.site,
                    self.store.outbox(notify.name),
                    post,
                    calls=self.store.between,
                    waiting=lambda: self.management.callbacks_waiting,
                    kept=self.store.note(f"notify/{notify.name}"),
                    keep=partial(self._keep, f"notify/{notify.name}"),
                    now=self._local_time,
                )
        return couriers

    def _timestamper(self) -> Timestamper | None:
        if self.settings.timestamp is None:
            return None
        from firmware.timestamp import Timestamper  # noqa: PLC0415 - it loads requests

        return Timestamper(self.settings.timestamp, self.store, partial(self._note, "timestamp/1"))

    def _inbox(self, owner: X25519PublicKey | None) -> Inbox | None:
        if self.settings.imports is None:
            return None
        from firmware.imports import Inbox  # noqa: PLC0415 - few units have one

        folder, data = self.settings.imports.folder, self.settings.unit.data_dir
        return Inbox(folder, data, self.store, self.settings.line[0].country, owner)

    def _local_time(self) -> datetime:
        """An unset clock is never before what the store has seen: a month's count must not begin anew by it."""
        return datetime.fromtimestamp(self.store.read_clock().wall_ns / 1e9).astimezone()

    def _keep(self, name: str, value: dict[str, Any]) -> None:
        try:
            self.store.tell([], {name: value})
        except StoreError as error:  # it is written with the next one
            log.error("event=note_not_written name=%s reason=%s", name, error)

    def _hmac_key(self, sink: BrokerSettings | WebhookSettings) -> HmacKey:
        return HmacKey(sink.name, sink.hmac_key_file, self.settings.unit.data_dir / HMAC_KEY_FILE)

    @property
    def _deliverers(self) -> list[MqttPublisher | Courier[Any]]:
        return [*self.publishers.values(), *self.couriers.values()]

    # -- starting and stopping

    def recover(self) -> None:
        """File what is open although nothing goes on: repair its recordings, and call it interrupted."""
        data = self.settings.unit.data_dir
        newer = {save.call.call_id for save in self._unsaved}  # the disk knows an old state of these
        for call in self.store.left_open():
            if call.call_id in newer:
                continue
            ready, repaired, reason = None, False, "the unit stopped before any sound of it was on the disk"
            if call.recording is None:
                try:
                    ready, repaired = repair(data, call, self._now())
                except OSError as error:
                    reason = f"it could not be repaired ({error.strerror}); the cut file is kept"
            if ready:
                ready = replace(ready, muted=self.management.muted_in(call, ready))
            if ready is None and call.no_recording in ("switched_off", "do_not_record"):
                reason = call.no_recording
            elif ready is None and call.answered_ns is None and call.direction == "incoming":
                reason = "not_answered"
            found = CallLeftOpen(
                at_ns=self._now(),
                line=call.line if call.line in self.recorders else 1,
                call=call.to_dict(),
                recording=ready,
                repaired=repaired,
                no_recording=None if ready or call.recording else reason,
            )
            self.engine.take(found)

    def start(self, drivers: Sequence[Driver], panel: Panel | None) -> None:
        """Live: start threads, publisher and drivers. Thread: the one that then calls run()."""
        self.panel = panel
        self.recover()
        for lane in self.lanes.values():
            lane.start()
        self.local.start()
        self.feed.start()
        self.deliver()
        self._drivers = [*drivers, *([panel] if panel else [])]
        for driver in self._drivers:
            driver.start()
        self.engine.every(5.0, self._watch_recorders)
        self.engine.every(1.0, self._stop_to_restart)
        self.retention.start()
        self.engine.every(1.0, self._let_go)
        if self.copier:
            self.engine.every(0.5, self._copy)
        self._show_panel()

    def deliver(self) -> None:
        """Begin to publish, and to do what is due every few seconds; all that a unit without devices needs."""
        for deliverer in self._deliverers:
            deliverer.start()
        self.management.start()
        self._show_all()
        self._tell_started()
        self.engine.every(1.0, self._pump)
        self.engine.every(5.0, self._housekeeping)

    def run(self) -> None:
        """Live: until engine.stop(). SIGTERM and SIGINT are the caller's to tie to it."""
        _tell_systemd("READY=1")
        self.engine.run()

    def close(self) -> None:
        """Stop the drivers, close the open recording, file its call as interrupted, flush the store, say offline."""
        self.local.close()
        self.feed.close()
        if self.copier:
            self.copier.stop()
        for driver in self._drivers:
            driver.close()
        for recorder in (self.lanes or self.recorders).values():
            recorder.close()
        self.engine.drain()
        self._save()
        self.recover()
        self._save()
        if self._unsaved:
            log.error("event=calls_lost count=%d", len({save.call.call_id for save in self._unsaved}))
        for publisher in self.publishers.values():
            publisher.close("maintenance" if self.restarts else "offline")
        for courier in self.couriers.values():
            courier.close()
        try:
            self.store.close()
        except StoreError as error:
            log.error("event=store_not_flushed reason=%s", error)
        self.journal.close()

    # -- what the engine calls

    def _execute(self, command: Command) -> None:
        match command:
            case SaveCall():
                self._unsaved.append(command)
                self._save()
            case StartRecording() | StopRecording() | MuteKey():
                takes = self.lanes.get(command.line) or self.recorders[command.line]
                takes.obey(command)
            case ShowLine():
                self._shown[command.line] = command
                self.management.shows(command)
                self._show_line(command.line)
                self._show_panel()

    def _save(self) -> None:
        """Write what is not on the disk yet, in order. A failing disk leaves it in memory; tried again every 5 s."""
        while self._unsaved:
            save = self._unsaved[0]
            events, notes = self.management.of_call(save)
            try:
                self.store.commit(save.call, [*save.events, *events], notes)
            except StoreError as error:
                if self._store_fault is None:
                    log.error("event=store_failed unsaved=%d reason=%s", len(self._unsaved), error)
                self._store_fault = str(error)
                self._show_panel()
                return
            self._unsaved.pop(0)
            self.management.filed(save, events)
            for event in (*save.events, *events):
                self.feed.tell(event.type, event.subject, event.data)
            if save.call.outcome is not None:
                self.show("state/last_call", _summary(save.call))
        if self._store_fault is not None:
            self._store_fault = None
            log.warning("event=store_works_again")
            self._show_panel()
        self._pump()
        self.show("state/recorder", self._recorder_state())

    def _pump(self) -> None:
        for deliverer in self._deliverers:
            deliverer.pump()
        if self._identify_until_ns and self._now() > self._identify_until_ns:
            self._identify_until_ns = 0
            self._show_panel()

    def _observe(self, fact: Input) -> None:
        """A fact that is no line's: of delivery, or of a device."""
        self.management.observe(fact)
        match fact:
            case MessageReceived():
                self._received(fact)
                return
            case LocalAsked():
                self.local.answer_all(self.management.obey)
                return
            case DeviceLost():
                self._note(f"{fact.device}/{fact.line}", fact.reason)
            case DeviceReady():
                self._note(f"{fact.device}/{fact.line}", None)
            case SinkConnected() | SinkLost() | EventAccepted() | EventRefused():
                self._settle(fact)
                return
            case _:
                return
        self.show("state/recorder", self._recorder_state())
        self._show_panel()

    def _settle(self, fact: DeliveryFact) -> None:
        match fact:
            case SinkConnected():
                self._connected.add(fact.sink)
                self._note(f"{self._kinds[fact.sink]}/{fact.sink}", None)
            case SinkLost():
                self._connected.discard(fact.sink)
                self._note(f"{self._kinds[fact.sink]}/{fact.sink}", fact.reason)
            case EventAccepted():
                self.store.mark(fact.stream, fact.sequence, "accepted", fact.sink)
            case EventRefused() if not fact.retry:
                self.store.mark(fact.stream, fact.sequence, "parked", fact.sink)
                log.warning("event=event_parked stream=%s sequence=%d code=%d", fact.stream, fact.sequence, fact.code)
            case _:
                pass
        for deliverer in self._deliverers:
            deliverer.settle(fact)
        self._to_pump = True

    def _settled(self) -> None:
        """All answers that were waiting are taken: hand over what has room now."""
        if self._to_pump:
            self._to_pump = False
            self._pump()
            self._show_panel()

    def _note(self, what: str, wrong: str | None) -> None:
        self._health[what] = wrong
        path = self.settings.unit.data_dir / HEALTH_FILE
        try:
            path.with_suffix(".new").write_text(json.dumps(self._health), encoding="utf-8")
            path.with_suffix(".new").rename(path)
        except OSError as error:
            log.debug("event=health_not_written reason=%s", error.strerror)

    @property
    def _faults(self) -> list[str]:
        """The devices that do not work now; an absent broker is no fault of the unit."""
        return sorted(self.faults())

    def _housekeeping(self) -> None:
        if self._unsaved:
            self._save()
        try:
            read = self.store.read_clock()
            if read.state == "ntp":
                self.store.anchor(read)
            self.management.tick()
            self._note_topics()
            if self.timestamper:
                self.timestamper.tick()
            self.store.flush()
            sending = any(publisher.busy for publisher in self.publishers.values())
            if not self.engine.busy and not self._unsaved and not sending:
                self.store.upkeep()
                if self.inbox and self.inbox.tick():
                    self._pump()
        except StoreError as error:
            log.debug("event=flush_failed reason=%s", error)
        if self.store.wrong and self._health.get("store/1") != self.store.wrong:
            log.error("event=store_damaged reason=%s", self.store.wrong)
            self._note("store/1", self.store.wrong)
        self.show("state/recorder", self._recorder_state())

    def _watch_recorders(self) -> None:
        oldest = min(lane.beat_ns for lane in self.lanes.values())
        if self._now() - oldest < _RECORDER_STUCK_NS:
            _tell_systemd("WATCHDOG=1")
        else:
            log.error("event=recorder_stuck")

    def _let_go(self) -> None:
        """Of old recordings, while nobody is calling."""
        if self.engine.busy or self._unsaved:
            return
        try:
            self.retention.tick()
        except StoreError as error:
            log.error("event=retention_failed reason=%s", error)

    def copies_by(self, command: Sequence[str]) -> None:
        """Have finished calls copied by this command, as [copies] wants it. Before start()."""
        if self.settings.copies:
            from firmware.copies import Copier  # noqa: PLC0415 - few units have one

            self.copier = Copier(
                self.settings.copies, self.settings.unit.data_dir, command, partial(self._note, "copies/1")
            )

    def _copy(self) -> None:
        assert self.copier is not None
        self.copier.tick(self._local_time(), self._now(), busy=self.engine.busy or bool(self._unsaved))

    def _stop_to_restart(self) -> None:
        if self.restarts and not self.engine.busy and not self._unsaved:
            self.engine.stop()

    # -- what the management has done

    def restart(self) -> None:
        self.restarts = True

    def disk_days(self) -> int | None:
        return self.retention.days_left

    def switch(self, enabled: bool) -> None:
        for number in self.recorders:
            self.engine.post(RecordingSwitched(at_ns=self._now(), line=number, enabled=enabled))

    def mute(self, command: Mute) -> None:
        self._show_panel()
        for number, recorder in self.recorders.items():
            (self.lanes.get(number) or recorder).obey(command)
        self.show("state/recorder", self._recorder_state())

    def answer(self, sink: str, topic: str, payload: dict[str, Any]) -> None:
        self.publishers[sink].answer(topic, payload)

    def replay(self, sink: str, stream: Stream, low: int, high: int) -> bool:
        return self.publishers[sink].replay(stream, low, high)

    def patient(self) -> set[str]:
        return {name for name, courier in self.couriers.items() if courier.patient}

    def peaks(self) -> dict[int, int]:
        return {number: lane.peak() for number, lane in self.lanes.items()}

    def identify(self) -> None:
        self._identify_until_ns = self._now() + 30_000_000_000
        self._show_panel()

    @property
    def connected(self) -> set[str]:
        """The brokers that are reached now."""
        return self._connected & self.publishers.keys()

    def faults(self) -> dict[str, str]:
        found = {what: wrong for what, wrong in self._health.items() if wrong and what.split("/")[0] not in _SINKS}
        return found | ({"store/1": self._store_fault} if self._store_fault else {})

    def _received(self, message: MessageReceived) -> None:
        if message.topic.endswith("/status"):
            if message.payload == b"online":  # Home Assistant has started: it may know nothing of this unit
                self.publishers[message.sink].show_again()
        else:
            self.management.take(message)
        self._pump()

    # -- what is shown

    def show(self, topic: str, payload: dict[str, Any]) -> None:
        self.feed.show(topic, payload)
        for name, publisher in self.publishers.items():
            if "streams" in payload:  # those that this broker gets
                own = self.store.streams_of(name)
                streams = {stream: kept for stream, kept in payload["streams"].items() if stream in own}
                publisher.show(topic, {**payload, "streams": streams})
            else:
                publisher.show(topic, payload)

    def _show_all(self) -> None:
        self.show("info", self.info())
        self.show("state/recorder", self._recorder_state())
        for number in self.recorders:
            self._shown.setdefault(number, ShowLine(line=number, state=State.IDLE, since_ns=self._now(), call_id=None))
            self._show_line(number)
        self.show("state/health", self.management.health())
        ended = (call for call in itertools.islice(self.store.newest(), 100) if call["outcome"] and call["line"])
        last = next(ended, None)
        if last:
            self.show("state/last_call", _summary(Call.from_dict(last)))
        self._show_discovery()

    def _show_discovery(self) -> None:
        """To Home Assistant, where it is wanted; and take back what an earlier run showed under other names."""
        unit, known = self.settings.unit, self.store.note("retained") or {}
        for broker in self.settings.broker:
            publisher = self.publishers[broker.name]
            if broker.discovery != "off":
                branch = f"{broker.prefix}/{unit.site}/{unit.unit}"
                found = discovery.messages(
                    broker.discovery,
                    broker.discovery_prefix,
                    branch,
                    f"{unit.site.replace('-', '--')}-{unit.unit}",  # shop-1, a is not shop, 1-a
                    len(self.recorders),
                    self.info(),
                )
                for topic, payload in found.items():
                    publisher.show(f"/{topic}", payload)
            publisher.forget(known.get(broker.name, []))

    def _note_topics(self) -> None:
        """Keep in mind which retained topics there are, so that a unit by another name can take them back."""
        topics = {name: publisher.topics for name, publisher in self.publishers.items()}
        if topics != self.store.note("retained"):
            self.store.tell([], {"retained": topics})

    def _tell_started(self) -> None:
        now = self.store.read_clock()
        data = {"version": VERSION, "boot_id": self.boot_id, "clock": now.state}
        started = Event(stream="system", type="unit.started", subject="unit", time=now.iso(now.mono_ns), data=data)
        try:
            self.store.tell([started])
        except StoreError as error:
            log.error("event=start_not_told reason=%s", error)

    def info(self) -> dict[str, Any]:
        return {
            "model": self.board.title,
            "serial": serial_number(),
            "version": VERSION,
            "contract": 1,
            "boot_id": self.boot_id,
            "store_id": self.store.store_id,
            "public_key": self.store.public_key,
            "settings_hash": public_hash(self.settings),
            "capabilities": sorted(contract()),
            "lines": len(self.recorders),
        }

    def _show_line(self, number: int) -> None:
        shown = self._shown[number]
        since = self.store.read_clock().iso(shown.since_ns)
        state = {"state": shown.state.value, "since": since, "call_id": shown.call_id, "volts": None}
        self.show(f"state/line/{number}", state)

    def _recorder_state(self) -> dict[str, Any]:
        free_mb = disk_free_mb(self.settings.unit.data_dir)
        return {
            **self.management.recorder(),
            "recording": self._records,
            "disk_free_mb": free_mb and free_mb // 100 * 100,  # else it would be told anew with every MB
            "unsaved": len(self._unsaved),
            "faults": self._faults,
            **self.store.outbox_state(),
        }

    def _show_panel(self) -> None:
        if self.panel:
            self.panel.show(self._panel_state())

    @property
    def _records(self) -> bool:
        """What is said now goes into a file."""
        on = self.management.enabled and self.management.paused is None
        return on and any(shown.state in _UP for shown in self._shown.values())

    def _panel_state(self) -> PanelState:
        if self._identify_until_ns:
            return "identify"
        if self.management.paused:
            return "paused"
        states = {shown.state for shown in self._shown.values()}
        deaf = {f"codec/{number}" for number, shown in self._shown.items() if shown.state in _UP} & set(self._faults)
        if self._records and not deaf and not self._store_fault:
            return "recording"
        if self._faults or State.LINE_CUT in states:
            return "fault"
        if states & {State.RINGING, State.CID_HANDSHAKE}:
            return "ringing"
        lost = any(wrong for what, wrong in self._health.items() if what.split("/")[0] in _SINKS)
        return "no_broker" if lost or self.publishers.keys() - self._connected else "idle"


_SINKS = ("broker", "webhook", "notify")  # one that is away is no fault of the unit
_UP = {State.DIALLING, State.IN_CALL, State.FLASH}


def _summary(call: Call) -> dict[str, Any]:
    """The retained topic `state/last_call`: no number."""
    return {
        "call_id": call.call_id,
        "line": call.line,
        "direction": call.direction,
        "outcome": call.outcome,
        "presentation": call.caller.presentation if call.direction == "incoming" else None,
        "ended": call.iso(call.ended_ns),
        "duration_s": call.duration_s,
        "recorded": call.recording is not None and call.recording.deleted is None,
    }


def owner_of(path: Path | None) -> tuple[X25519PublicKey | None, str | None]:
    """Whom recordings are sealed to, or why they are not: a key that is of no use stops no recording."""
    if path is None:
        return None, None
    try:
        return public_key(path.read_bytes()), None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        return None, (
            f"[recording] seal_to {path} cannot be used ({why}), so recordings are not sealed; "
            "put the owner's public key there and restart the unit."
        )


def _sinks(settings: Settings) -> list[Sink]:
    """All who must get events. A new webhook, or telephone, is not told what happened before it was there."""
    sinks = []
    for broker in settings.broker:
        streams: tuple[Stream, ...] = ("call", "system", "audit") if broker.audit else ("call", "system")
        sinks.append(Sink(name=broker.name, streams=streams, consumers=broker.consumers))
    names = [webhook.name for webhook in settings.webhook] + [notify.name for notify in settings.notify]
    return sinks + [Sink(name=name, new="next") for name in names]


def _line_config(line: LineSettings, board: Board, settings: Settings, boot_id: str) -> LineConfig:
    return LineConfig(
        number=line.number,
        boot_id=boot_id,
        country=line.country,
        number_display=line.number_display,
        ring_over_ms=line.ring_over_ms,
        handshake_ms=line.handshake_ms,
        shortest_call_ms=line.shortest_call_ms,
        held_open_ms=line.held_open_min * 60_000,
        do_not_record=parse_list(settings.recording.do_not_record, line.country),
        pre_roll_ms=round(settings.recording.pre_roll_s * 1000),
        hook=HookTiming(
            off_hook_ms=line.off_hook_ms,
            flash_min_ms=line.flash_min_ms,
            hang_up_ms=line.hang_up_ms,
            line_cut_ms=line.line_cut_ms,
            ring_from_loop=board.line[line.number - 1].ring is None,
        ),
        mute_keys=settings.recording.mute_keys,
    )


def hardware(unit: Unit, *, pin_factory: Any | None = None) -> tuple[list[Driver], Panel]:
    """The drivers of the unit's settings and board. pin_factory None: the machine's GPIO chip."""
    post, r = unit.engine.post, unit.settings.recording
    countries = {line.number: line.country for line in unit.settings.line}
    listener = Listener(countries, r.rate_hz, post, audio_delay_ms=r.audio_delay_ms)
    drivers: list[Driver] = [listener]
    codecs: dict[str, list[Tap]] = {}
    for line in unit.settings.line:
        drivers.append(LineInputs(line.number, unit.board.line[line.number - 1], post, pin_factory=pin_factory))
        if line.modem:
            capture = unit.settings.unit.data_dir / "support" / f"modem-{line.number}.raw"
            drivers.append(Modem(line.number, line.modem, line.modem_model, line.country, post=post, capture=capture))
        take = _heard_by(unit.lanes[line.number], listener, line.number)
        codecs.setdefault(line.codec, []).append(Tap(line.number, line.channel, take))
    drivers += [Codec(device, r.rate_hz, r.buffer_frames, post, taps) for device, taps in codecs.items()]
    return drivers, Panel(unit.board.panel, post, pin_factory=pin_factory)


def _heard_by(lane: RecorderThread, listener: Listener, line: int) -> Callable[[AudioBlock], None]:
    def take(block: AudioBlock) -> None:
        lane.take(block)  # first: nothing may come between the sound and its recording
        listener.take(line, block)

    return take


def run(filed: Settings, board: Board, copy_by: Sequence[str], *, pin_factory: Any | None = None) -> None:
    """`tsuroku run`: the unit on its real hardware, until SIGTERM or Ctrl-C. filed: of the settings file.

    copy_by: the command that copies calls off the unit.
    """
    unit: Unit | None = None
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        if unit:
            unit.engine.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while not stopping:
        try:
            patch = read_patch(filed)
        except SettingsError as error:
            log.error("event=patch_ignored reason=%s", error)
            patch = None
        unit = Unit(patched(filed, patch.values, "patch") if patch else filed, board, filed=filed, patch=patch)
        unit.copies_by(copy_by)
        drivers, panel = hardware(unit, pin_factory=pin_factory)
        unit.start(drivers, panel)
        try:
            if not stopping:
                unit.run()
        finally:
            unit.close()
        if not unit.restarts:
            return
        log.info("event=restart reason=settings_changed")


def _tell_systemd(state: str) -> None:
    """sd_notify(3): one datagram to the service manager, where there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect("\0" + address[1:] if address.startswith("@") else address)
            notify.sendall(state.encode())
