"""The unit as its owner and the management system have it: the recording switch, alarms, callbacks and commands.

It decides and writes down; what it wants done it asks of `Hands`, which app gives it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

import fastjsonschema

from drivers.signals import ButtonHeld, DeviceLost, DeviceReady, VoiceHeard
from firmware import support, vitals, words
from firmware.core import alarms, callbacks, contacts
from firmware.core.alarms import Limits, Vitals, Watch
from firmware.core.call import Call
from firmware.core.commands import FAILED, INVALID_PARAMS, Asker, CommandError, Commands, Method
from firmware.core.contacts import Contact
from firmware.core.facts import KEYS, Gap, Input, MessageReceived, RecordingReady
from firmware.core.line import Mute, SaveCall, ShowLine
from firmware.core.notices import hours_of, is_within
from firmware.core.numbers import e164
from firmware.core.outbox import Event, Stream
from firmware.records.store import CallStore, StoreError
from firmware.settings import (
    WEEKDAYS,
    Patch,
    Settings,
    SettingsError,
    patched,
    public,
    public_hash,
    write_patch,
)

log = logging.getLogger(__name__)

CONTRACT = Path(__file__).parent / "contract"
_HEALTH_S = 60
_MOST_MUTES = 50
_BUTTON_S = 300  # of a pause that the button asks for
_MOST_REPLAYED = 100_000  # events of one request
_S = 1_000_000_000
_LONGEST_DUE_S = 366 * 86_400
_BUNDLE_NS = 60 * _S


# What somebody does in the console that no command of its own tells of. More of each: call, contact or person.
_ACCESSES = (
    "viewed",
    "opened",
    "played",
    "downloaded",
    "exported",
    "shared",
    "unshared",
    "link_opened",
    "looked_up",
    "listed",
    "disclosed",
    "erased",
    "person_added",
    "person_removed",
    "password_changed",
    "passkey_added",
    "passkeys_removed",
    "key_made",
    "key_removed",
)


class Hands(Protocol):
    """What the management can have done. Thread: the loop."""

    def switch(self, enabled: bool) -> None:
        """No recording begins while it is off."""

    def mute(self, command: Mute) -> None: ...
    def show(self, topic: str, payload: dict[str, Any]) -> None: ...
    def answer(self, sink: str, topic: str, payload: dict[str, Any]) -> None: ...
    def replay(self, sink: str, stream: Stream, low: int, high: int) -> bool: ...
    def identify(self) -> None: ...
    def peaks(self) -> dict[int, int]:
        """By line, the loudest sample since this was asked last."""

    def patient(self) -> set[str]:
        """Sinks that keep events back on purpose now: nothing is stuck there."""

    def restart(self) -> None:
        """Start anew, once nobody is calling."""

    def disk_days(self) -> int | None:
        """How long the disk lasts."""

    def info(self) -> dict[str, Any]: ...
    def faults(self) -> dict[str, str]:
        """By device and line, as codec/1: what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pause:
    by: str
    until: str  # UTC
    until_ns: int  # monotonic


class Management:
    """settings: those in force. filed: those of the settings file, where a command may put others over them; patch:
    those that one has put there.
    """

    def __init__(
        self,
        settings: Settings,
        store: CallStore,
        hands: Hands,
        filed: Settings | None = None,
        patch: Patch | None = None,
        boot_id: str = "",
    ) -> None:
        self._settings, self._filed, self._patch, self._store, self._hands = settings, filed, patch, store, hands
        self._changed = False  # a patch is written, but not yet in force
        now = store.read_clock()
        lines = {line.number: line.number_display for line in settings.line}
        limits = Limits(**dataclasses.asdict(settings.watch))
        self.watch = Watch(limits, lines, now, store.note("alarms") or [])
        kept = store.note("callbacks") or []
        calls = (store.get(each["call_id"]) for each in kept)
        numbers = {call.call_id: number for call in calls if call and (number := contacts.number_of(call))}
        self._next_callbacks = self._callbacks = callbacks.restored(kept, numbers)
        self.enabled = bool((store.note("recording") or {"enabled": True})["enabled"])
        self.paused: _Pause | None = None
        self._boot_id = boot_id
        self._mutes: list[dict[str, Any]] = store.note("mutes") or []  # the last ones
        self._health_ns = 0
        self._enriched: dict[str, str] = {}  # by call that goes on: the contact that was told of it
        self._untold: list[Event] = []  # of alarms, that the disk has not taken yet
        self._bundle: tuple[int, dict[str, Any]] | None = None  # the last one: when, and what was told of it
        self._commands = Commands(_methods(self))

    def start(self) -> None:
        """Do what was so when the unit stopped, and what the store knows of the lines."""
        seen = set(self.watch.lines)
        for number, doc in enumerate(self._store.newest()):
            if not seen or number > 1000:
                break
            if doc["line"] in seen and (doc["ended"] or doc["opened"]):
                self.watch.last_call(doc["line"], datetime.fromisoformat(doc["ended"] or doc["opened"]).timestamp())
                seen.discard(doc["line"])
        before, after = self._store.note("settings_hash"), public_hash(self._settings)
        if before != after:
            by = self._patch.by if self._patch else None
            self._audit("settings.changed", "settings", before=before, after=after, by=by)
        if not self.enabled:
            self._hands.switch(False)
            self._mute(0, None, "switch")
        paused, now = (self._store.note("recording") or {}).get("paused"), self._store.read_clock()
        if self.enabled and paused:  # an unset clock is at the last time written: no pause ends too early
            left_ns = round(datetime.fromisoformat(paused["until"]).timestamp() * _S) - now.wall_ns
            if 0 < left_ns < 7200 * _S:
                self._pause(paused["by"], left_ns, write=False)

    @property
    def _now_ns(self) -> int:
        return self._store.read_clock().mono_ns

    # -- what happens

    def observe(self, fact: Input) -> None:
        match fact:
            case VoiceHeard():
                self.watch.heard(fact)
            case ButtonHeld():
                self._button()
            case DeviceReady(device="listener") | DeviceLost(device="listener"):
                self.watch.listens(fact.line, isinstance(fact, DeviceReady))
            case _:
                pass

    def shows(self, line: ShowLine) -> None:
        self.watch.line_shows(line.line, line.state.value, line.since_ns, line.call_id)

    def of_call(self, save: SaveCall) -> tuple[list[Event], dict[str, Any]]:
        """What is to be written with a call: events and notes. filed() must follow once they are."""
        waiting, events = callbacks.after(self._callbacks, save.call, save.events, self._is_open, self._due)
        self._next_callbacks = waiting
        notes = {"callbacks": [each.to_kept() for each in waiting]} if events else {}
        enriched = contacts.enriched(save.call, save.events, self._store.contact, self._enriched.get(save.call.call_id))
        return ([enriched, *events] if enriched else events), notes

    def _is_open(self, time: str) -> bool:
        """Whether the shop is open at a UTC time. Who calls while the clock is not set is never left out."""
        chosen = self._settings.callbacks
        if self._store.read_clock().state == "unsynced":
            return True
        at = datetime.fromisoformat(time).astimezone()
        hours = hours_of(chosen.hours) if chosen.hours else None
        return WEEKDAYS[at.weekday()] not in chosen.closed_on and (hours is None or is_within(at, hours))

    def _due(self, time: str) -> str | None:
        minutes = self._settings.callbacks.due_min
        if not minutes:
            return None
        return _utc(datetime.fromisoformat(time) + timedelta(minutes=minutes))

    def filed(self, save: SaveCall, also: Sequence[Event] = ()) -> None:
        """also: the events of of_call()."""
        self._callbacks = self._next_callbacks
        for told in also:
            if told.type == "call.enriched":
                self._enriched[told.subject] = told.data["contact"]["contact_id"]
        if save.call.outcome is not None:
            self._enriched.pop(save.call.call_id, None)
        for told in save.events:
            match told.type:
                case "call.ended" | "call.missed":
                    self.watch.call_ended(save.call, self._store.read_clock())
                case "recording.ready" | "recording.failed":
                    self.watch.recorded(save.call.line, save.call.call_id, made=told.type == "recording.ready")
                    self.watch.sounded(save.call)

    @property
    def callbacks_waiting(self) -> int:
        return len(self._callbacks)

    def tick(self) -> None:
        """Every few seconds. Raises StoreError; what could not be written is told of next time."""
        now = self._store.read_clock()
        if self.paused and now.mono_ns >= self.paused.until_ns:
            self._resume()
        self._callbacks = tuple(each for each in self._callbacks if self._store.has(each.call_id))
        seen = self._vitals()
        raised, cleared = self.watch.check(seen, now)
        for each in raised:
            log.warning("event=alarm_raised alarm=%s", each.name)
            self._untold.append(alarms.event("raised", each, words.alarm(each), now))
        for each in cleared:
            log.info("event=alarm_cleared alarm=%s", each.name)
            self._untold.append(alarms.event("cleared", each, words.alarm(each), now))
        if raised or cleared or now.mono_ns - self._health_ns >= _HEALTH_S * _S:
            self._health_ns = now.mono_ns
            self._hands.show("state/health", self.health(seen))  # first: what is wrong may be the disk
        if self._untold:
            self._store.tell(self._untold, {"alarms": self.watch.to_kept()})
            self._untold = []

    def _vitals(self) -> Vitals:
        patient = self._hands.patient()
        return Vitals(
            disk_free_mb=vitals.disk_free_mb(self._settings.unit.data_dir),
            disk_days=self._hands.disk_days(),
            temperature_c=vitals.temperature_c(),
            under_voltage=vitals.under_voltage(),
            clock=self._store.read_clock().state,
            faults=self._hands.faults(),
            outboxes={
                name: counts | {"waiting": 0} if name in patient else counts
                for name, counts in self._store.waiting().items()
            },
        )

    def health(self, seen: Vitals | None = None) -> dict[str, Any]:
        """The retained topic `state/health`."""
        seen, now = seen or self._vitals(), self._store.read_clock()
        return {
            "at": now.iso(now.mono_ns),
            "clock": seen.clock,
            "temperature_c": seen.temperature_c,
            "under_voltage": seen.under_voltage,
            "disk_free_mb": seen.disk_free_mb,
            "disk_days": seen.disk_days,
            "outboxes": {
                name: {what: counts[what] for what in ("waiting", "parked", "unconfirmed")}
                for name, counts in seen.outboxes.items()
            },
            "alarms": [
                {
                    "alarm": each.name,
                    "since": each.since,
                    "severity": each.severity,
                    "acknowledged": each.acknowledged,
                    "text": words.alarm(each),
                }
                for each in self.watch.alarms.values()
            ],
            "last_line_test": None,
        }

    def recorder(self) -> dict[str, Any]:
        """What `state/recorder` tells of the switch."""
        paused = {"by": self.paused.by, "until": self.paused.until} if self.paused else None
        return {"enabled": self.enabled, "paused": paused, "callbacks_waiting": len(self._callbacks)}

    # -- commands

    def take(self, message: MessageReceived) -> None:
        """Do what a message asks for, or log in a line why not."""
        judged = self._commands.take(message, self._store.read_clock())
        if judged.refused:
            log.warning(
                "event=command_refused broker=%s src=%s method=%s reason=%s",
                message.sink,
                judged.asker.src,
                judged.method,
                judged.refused,
            )
        if judged.changed and judged.method:
            asker = judged.asker
            self._audit("command.done", judged.method, method=judged.method, src=asker.src, by_way_of=asker.sink)
        if judged.answer is not None:
            self._hands.answer(message.sink, f"rpc/res/{judged.asker.src}", judged.answer)

    def _audit(self, type_: str, subject: str, **data: Any) -> None:
        now = self._store.read_clock()
        event = Event(
            stream="audit", type=type_, subject=subject, time=now.iso(now.mono_ns), data={**data, "clock": now.state}
        )
        try:
            self._store.tell([event], {"settings_hash": data["after"]} if type_ == "settings.changed" else {})
        except StoreError as error:
            log.error("event=audit_not_written subject=%s reason=%s", subject, error)

    def _written(self, events: Sequence[Event] = (), **notes: Any) -> None:
        """Raises CommandError."""
        try:
            self._store.tell(events, notes)
        except StoreError as error:
            raise CommandError(FAILED, str(error)) from error

    def switch(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        """Recording on or off, for good. A call under way becomes silent; the next one is recorded anew, or not."""
        enabled = bool(params["enabled"])
        if enabled != self.enabled or self.paused:
            self.enabled, self.paused = enabled, None
            self._hands.switch(enabled)
            now_ns = self._now_ns
            self._mute(None if enabled else now_ns, None, asker.src)
            self._write_recording()
        return self.recorder()

    def pause(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        if not self.enabled:
            raise CommandError(FAILED, "Recording is switched off; nothing is to be paused.")
        if self.paused is None or self._now_ns + params["seconds"] * _S > self.paused.until_ns:  # the latest end counts
            lasting = self._pause(asker.src, params["seconds"] * _S)
            return {**self.recorder(), "lasting": lasting}
        return {**self.recorder(), "lasting": True}

    def _pause(self, by: str, for_ns: int, *, write: bool = True) -> bool:
        now = self._store.read_clock()
        until_ns = now.mono_ns + for_ns
        self.paused = _Pause(by=by, until=now.iso(until_ns), until_ns=until_ns)
        self._mute(now.mono_ns, until_ns, by)
        return self._write_recording() if write else True

    def _mute(self, from_ns: int | None, until_ns: int | None, by: str | None) -> None:
        """Have it done, and remember it: of a recording that a power cut ends, nothing else tells."""
        now_ns = self._now_ns
        self._hands.mute(Mute(from_ns=from_ns, until_ns=until_ns, at_ns=now_ns, by=by))
        mutes = [each | {"until_ns": min(each["until_ns"] or now_ns, now_ns)} for each in self._mutes]
        if from_ns is not None:
            mutes.append({"boot_id": self._boot_id, "from_ns": from_ns, "until_ns": until_ns, "by": by})
        self._mutes = mutes[-_MOST_MUTES:]

    def muted_in(self, call: Call, recording: RecordingReady) -> tuple[Gap, ...]:
        """The stretches of a recording that were muted, as far back as is remembered."""
        ends_ns = recording.from_ns + round(recording.frames * _S / recording.rate_hz)
        mutes = [(m["from_ns"], m["until_ns"], m["by"]) for m in self._mutes if m["boot_id"] == call.boot_id]
        if self._settings.recording.mute_keys:
            mutes += [(mark.at_ns, mark.until_ns, KEYS) for mark in call.marks if mark.kind == "key"]
        found = []
        for from_ns, until_ns, by in mutes:
            start, end = max(from_ns, recording.from_ns), min(until_ns or ends_ns, ends_ns)
            if start < end:
                found.append(Gap(at_s=(start - recording.from_ns) / _S, duration_s=(end - start) / _S, by=by))
        return tuple(found)

    def _button(self) -> None:
        """Held down: a pause of five minutes, or its end."""
        if not self.enabled:
            return
        if self.paused:
            self._resume()
            self._write_recording()
        else:
            self._pause("button", _BUTTON_S * _S)
        method = "recording.pause" if self.paused else "recording.resume"
        self._audit("command.done", method, method=method, src="button", by_way_of="local")

    def obey(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked for on the unit itself, beside what the store does. The answer, or why not as `error`."""
        asker = Asker(sink="local", src=str(request.get("who")))
        params: dict[str, Any]
        match request:
            case {"do": "pause", "seconds": int(seconds)} if 1 <= seconds <= 7200:
                doing, params, method = self.pause, {"seconds": seconds}, "recording.pause"
            case {"do": "callback_done", "call_id": str(call_id)}:
                doing, params, method = self.callback_done, {"call_id": call_id}, "callback.done"
            case {"do": "note_access", "what": str(what), "call_id": str() | None as call_id, "who": str(who)} if (
                what in _ACCESSES
            ):
                return self._answered(self._store.tell, [self._access(what, call_id, who, request)])
            case {"do": "remark", "call_id": str(call_id), "change": dict(change), "who": str(who)}:
                event = self._access("remarked", call_id, who, {"name": ", ".join(sorted(change))[:40]})
                return self._answered(self._store.remark, call_id, change, who, [event])
            case {"do": "callback_put", "call_id": str(call_id), "due": str() | None as due, "for": str() | None as by}:
                return self._answered(self._callback_put, call_id, due, by, asker)
            case {"do": "contacts_put", "contacts": list(given)}:
                return self._answered(self._contacts_put, given, asker)
            case {"do": "contacts_merge", "number": str(number), "into": str(into)}:
                return self._answered(self._contacts_merge, number, into, asker)
            case {"do": "delete_call", "call_id": str(call_id), "reason": str(reason)}:
                return self._answered(self._delete, call_id, reason, asker)
            case {"do": "peaks"}:
                return {"peaks": self._hands.peaks()}
            case {"do": "acknowledge", "alarm": str(alarm)}:
                doing, params, method = self.acknowledge, {"alarm": alarm}, "alarm.acknowledge"
            case {"do": "bundle"}:
                doing, params, method = self.bundle, {}, "log.bundle"
            case {"do": "resume"}:
                doing, params, method = self.resume, {}, "recording.resume"
            case _:
                return self._store.obey(request)
        try:
            told = doing(params, asker)
        except CommandError as error:
            return {"error": str(error)}
        self._audit("command.done", method, method=method, src=asker.src, by_way_of="local")
        return told

    @staticmethod
    def _answered(work: Callable[..., Mapping[str, Any] | None], *arguments: Any) -> dict[str, Any]:
        try:
            return dict(work(*arguments) or {})
        except KeyError:
            return {"error": str(_no_such_call())}
        except (CommandError, StoreError, ValueError) as error:
            return {"error": str(error)}

    def _access(self, what: str, subject: str | None, by: str, more: Mapping[str, Any]) -> Event:
        """That somebody has looked at a call, heard it, or changed something: on the disk before he may."""
        told = {name: more.get(name) for name in ("from_s", "to_s", "name", "role")}
        now, call_id = self._store.read_clock(), subject if subject and self._store.has(subject) else None
        data = {"what": what, "call_id": call_id, "by": by, **told, "clock": now.state}
        return Event(
            stream="audit", type="access.done", subject=subject or "people", time=now.iso(now.mono_ns), data=data
        )

    def _callback_put(self, call_id: str, due: str | None, who: str | None, asker: Asker) -> None:
        """Have the other side of a call on the list, or say when and by whom he is to be called."""
        call, now = self._call(call_id), self._store.read_clock()
        if due is not None:
            at = datetime.fromisoformat(due)
            if abs(at.timestamp() - now.wall_ns / _S) > _LONGEST_DUE_S:
                raise CommandError(INVALID_PARAMS, "due must be within a year.")
            due = _utc(at)
        waiting, events = callbacks.put(self._callbacks, call, due, (who or "").strip()[:40] or None, asker.src, now)
        events.append(self._access("callback_put", call_id, asker.src, {}))
        self._store.tell(events, {"callbacks": [each.to_kept() for each in waiting]})
        self._callbacks = waiting

    def _contact(self, given: Mapping[str, Any], asker: Asker) -> list[Contact]:
        """A contact that somebody tells of, by each number that he has. Raises CommandError."""
        number = e164(str(given.get("number") or ""), self._settings.line[0].country)
        if number is None:
            raise CommandError(INVALID_PARAMS, "number is no telephone number that could be dialled from line 1.")
        before, now = self._store.contact(number), self._store.read_clock()
        one = Contact(
            contact_id=before.contact_id if before else str(uuid.uuid4()),
            number=number,
            name=given["name"],
            reading=given.get("reading"),
            flags=tuple(sorted(set(given.get("flags", ())))),
            note=given.get("note", before.note if before else None),
            by=asker.src,
            updated=now.iso(now.mono_ns),
        )
        others = self._store.numbers_of(one.contact_id) if before else []
        return [one, *(dataclasses.replace(one, number=each.number) for each in others if each.number != number)]

    def _contacts_put(self, given: Sequence[Any], asker: Asker) -> dict[str, Any]:
        """Many contacts at once; those that are of no use are told by their places."""
        check, found, refused = _checker(contract()["contacts.put"]["params"]), {}, []
        for place, each in enumerate(given):
            try:
                if not check(each)["name"]:
                    raise ValueError
                for contact in self._contact(each, asker):
                    found[contact.number] = contact
            except (ValueError, TypeError, CommandError):
                refused.append(place)
        if found:
            subject = next(iter(found.values())).contact_id if len(given) == 1 else None
            event = self._access("contacts_put", subject, asker.src, {"to_s": len(given) - len(refused)})
            self._store.put_contacts(list(found.values()), [event])
        first = next(iter(found.values()), None)
        return {
            "taken": len(given) - len(refused),
            "refused": refused,
            "contact_id": first.contact_id if first else None,
        }

    def _contacts_merge(self, number: str, into: str, asker: Asker) -> None:
        """Two numbers are one person's from now on. What was known of the first is added to the second's."""
        one, other = self._store.contact(number), self._store.contact(into)
        if one is None or other is None or one.contact_id == other.contact_id:
            raise CommandError(FAILED, "There are no two such contacts.")
        now = self._store.read_clock()
        texts = other.note, one.name if one.name != other.name else None, one.note
        merged = dataclasses.replace(
            other,
            reading=other.reading or one.reading,
            flags=tuple(sorted({*one.flags, *other.flags})),
            note="\n".join(text for text in texts if text) or None,
            by=asker.src,
            updated=now.iso(now.mono_ns),
        )
        own = [number for each in (one, other) for number in self._store.numbers_of(each.contact_id)]
        event = self._access("contacts_merged", other.contact_id, asker.src, {})
        self._store.put_contacts([dataclasses.replace(merged, number=each.number) for each in own], [event])

    def _delete(self, call_id: str, reason: str, asker: Asker) -> None:
        """Take a call and its recording out, for good."""
        self._call(call_id)
        answer = self._store.obey({"do": "erase", "call_ids": [call_id], "reason": reason, "who": asker.src})
        if "error" in answer:
            raise CommandError(FAILED, answer["error"])
        if answer["kept"]:
            raise CommandError(FAILED, "The call is held, or goes on; release it first.")
        for path in (self._settings.unit.data_dir / "recordings").glob(f"*/{call_id}.*"):
            path.unlink(missing_ok=True)

    def _write_recording(self) -> bool:
        """What was asked for is done by then. False: it could not be written, and a restart will undo it."""
        paused = {"by": self.paused.by, "until": self.paused.until} if self.paused else None
        try:
            self._store.tell([], {"recording": {"enabled": self.enabled, "paused": paused}, "mutes": self._mutes})
        except StoreError as error:
            log.error("event=switch_not_written reason=%s", error)
            return False
        return True

    def resume(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        if self.paused:
            self._resume()
        return {**self.recorder(), "lasting": self._write_recording()}

    def _resume(self) -> None:
        self.paused = None
        self._mute(None, None, None)

    def protect(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        try:
            self._store.hold(params["call_id"], params["reason"], asker.src)
        except KeyError:
            raise _no_such_call() from None
        except StoreError as error:
            raise CommandError(FAILED, str(error)) from error
        return {"call_id": params["call_id"], "held": True}

    def locate(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        recording = self._call(params["call_id"]).recording
        if recording is None:
            raise CommandError(FAILED, "This call has no recording.")
        if recording.deleted:
            raise CommandError(
                FAILED, f"Its recording was deleted on {recording.deleted.at} ({recording.deleted.why})."
            )
        there = (self._settings.unit.data_dir / recording.path).is_file()
        told = {"bytes": recording.size_bytes, "sha256": recording.sha256, "duration_s": recording.duration_s}
        return {"call_id": params["call_id"], "path": recording.path, "present": there, **told}

    def _call(self, call_id: str) -> Call:
        call = self._store.get(call_id)
        if call is None:
            raise _no_such_call()
        return call

    def replay(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        """Which of the range come again, and which are gone for ever."""
        stream, low, high = cast(Stream, params["stream"]), params["from_seq"], params["to_seq"]
        if stream not in self._store.streams_of(asker.sink):
            raise CommandError(INVALID_PARAMS, f"Stream {stream} is not published at this broker.")
        oldest, last = self._store.kept(stream)
        if low > high:
            raise CommandError(INVALID_PARAMS, "from_seq must not be greater than to_seq.")
        first, end = max(low, oldest), min(high, last)
        if end - first >= _MOST_REPLAYED:
            raise CommandError(INVALID_PARAMS, f"At most {_MOST_REPLAYED} events can be asked for at once.")
        if first <= end and not self._hands.replay(asker.sink, stream, first, end):
            raise CommandError(FAILED, "Too many replays wait already; try again later.")
        gone = [] if low >= oldest else [[low, min(high, oldest - 1)]]
        gone += self._store.gaps(stream, first, end)
        return {
            "stream": stream,
            "from_seq": first,
            "to_seq": end,
            "gone": gone,
            "oldest_seq": oldest,
            "last_seq": last,
        }

    def ack(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        try:
            if params["consumer"] != asker.src:
                raise CommandError(INVALID_PARAMS, "consumer must be who asks: the same as src.")
            seq = self._store.confirm(asker.sink, params["consumer"], params["stream"], params["seq"])
        except StoreError as error:
            raise CommandError(FAILED, str(error)) from error
        return {"consumer": params["consumer"], "stream": params["stream"], "seq": seq}

    def callback_done(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        call = self._call(params["call_id"])
        waiting, events = callbacks.done(self._callbacks, call, asker.src, self._store.read_clock())
        if events:
            self._written(events, callbacks=[each.to_kept() for each in waiting])
            self._callbacks = waiting
        return {"callbacks_waiting": len(waiting), "was_waiting": bool(events)}

    def put_contact(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        """Who a number is; name null takes him out."""
        number = e164(params["number"], self._settings.line[0].country)
        try:
            if params["name"] is None and number is not None:
                return {"contact_id": None, "was_known": self._store.forget_contact(number, asker.src)}
            before = number is not None and self._store.contact(number) is not None
            contacts = self._contact(params, asker)
            self._store.put_contacts(contacts)
        except StoreError as error:
            raise CommandError(FAILED, str(error)) from error
        return {"contact_id": contacts[0].contact_id, "was_known": before}

    def acknowledge(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        now = self._store.read_clock()
        before = dict(self.watch.alarms)
        alarm = self.watch.acknowledge(params["alarm"], asker.src, now.iso(now.mono_ns))
        if alarm is None:
            raise CommandError(FAILED, "There is no such alarm now; `state/health` lists them.")
        try:
            self._written([alarms.event("acknowledged", alarm, words.alarm(alarm), now)], alarms=self.watch.to_kept())
        except CommandError:
            self.watch.alarms = before
            raise
        self._hands.show("state/health", self.health())
        return {"alarm": alarm.name, "acknowledged": alarm.acknowledged}

    def selftest(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        now, faults = self._store.read_clock(), self._hands.faults()
        result = {"passed": not faults, "faults": faults, "health": self.health()}
        data = {"passed": not faults, "faults": faults, "by": asker.src, "clock": now.state}
        time = now.iso(now.mono_ns)
        try:
            self._store.tell([Event(stream="system", type="selftest.done", subject="selftest", time=time, data=data)])
        except StoreError as error:
            log.error("event=selftest_not_written reason=%s", error)
        return result

    def identify(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        self._hands.identify()
        return {"seconds": 30}

    def config(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        return {"settings": public(self._settings), "hash": public_hash(self._settings)}

    def patch(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        """Keep values over those of the settings file. The unit starts anew with them once nobody is calling."""
        if self._filed is None:
            raise CommandError(FAILED, "The settings of this unit stand in no file; nothing can be changed from afar.")
        if self._changed:
            raise CommandError(FAILED, "Changed settings wait for a call to end; try again when the unit is back.")
        if params["base_hash"] != public_hash(self._settings):
            raise CommandError(
                FAILED, "The settings are not those of base_hash any more; read them again (config.get)."
            )
        values = {section: dict(own) for section, own in self._patch.values.items()} if self._patch else {}
        for section, given in params["patch"].items():
            own = values.setdefault(section, {})
            for key, value in given.items():
                if value is None:  # RFC 7396: what the file says counts again
                    own.pop(key, None)
                else:
                    own[key] = value
        try:
            after = patched(self._filed, values, "patch")
        except SettingsError as error:
            raise CommandError(INVALID_PARAMS, str(error)) from error
        now = self._store.read_clock()
        patch = Patch(base=public_hash(self._filed), values=values, by=asker.src, at=now.iso(now.mono_ns))
        try:
            write_patch(self._filed, patch)
        except OSError as error:
            raise CommandError(FAILED, f"The change cannot be written ({error.strerror}); nothing changed.") from error
        self._changed = True
        self._hands.restart()
        return {"settings": public(after), "hash": public_hash(after)}

    def bundle(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        """A support bundle; within a minute, the last one again: making it takes the loop a part of a second."""
        if self._bundle and self._now_ns - self._bundle[0] < _BUNDLE_NS:
            return self._bundle[1]
        parts = {"info.json": self._hands.info(), "health.json": self.health(), "faults.json": self._hands.faults()}
        parts["settings.json"] = public(self._settings)
        try:
            path = support.keep(self._settings.unit.data_dir, parts)
            packed = path.read_bytes()
        except OSError as error:
            raise CommandError(FAILED, f"The support bundle cannot be written ({error.strerror}).") from error
        shown = str(path.relative_to(self._settings.unit.data_dir))
        told = {"path": shown, "bytes": len(packed), "sha256": hashlib.sha256(packed).hexdigest()}
        self._bundle = self._now_ns, told
        return told

    def device_info(self, params: Mapping[str, Any], asker: Asker) -> dict[str, Any]:
        return self._hands.info()


def _no_such_call() -> CommandError:
    return CommandError(FAILED, "There is no such call on this unit.")


@cache
def contract() -> dict[str, Any]:
    """The commands by method: description, whether they change something, params and result as JSON Schema."""
    return cast(dict[str, Any], json.loads((CONTRACT / "commands.json").read_text(encoding="utf-8")))


def _methods(of: Management) -> dict[str, Method]:
    doers = {
        "device.info": of.device_info,
        "selftest.run": of.selftest,
        "recording.pause": of.pause,
        "recording.resume": of.resume,
        "recording.protect": of.protect,
        "recording.locate": of.locate,
        "events.replay": of.replay,
        "events.ack": of.ack,
        "callback.done": of.callback_done,
        "alarm.acknowledge": of.acknowledge,
        "contacts.put": of.put_contact,
        "config.get": of.config,
        "config.patch": of.patch,
        "log.bundle": of.bundle,
        "identify": of.identify,
    }
    methods = {
        name: Method(do=doers[name], check=_checker(told["params"]), changes=told["changes"])
        for name, told in contract().items()
    }
    return methods | {"recording.switch": Method(do=of.switch, check=dict, changes=True)}


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _checker(schema: dict[str, Any]) -> Any:
    """Raises ValueError (of fastjsonschema) with a sentence. Compiled when it is first needed."""
    compiled: list[Any] = []

    def check(params: Mapping[str, Any]) -> dict[str, Any]:
        if not compiled:
            compiled.append(fastjsonschema.compile(schema))
        try:
            compiled[0](dict(params))
            # JSON knows one kind of number, and JSON Schema takes 60.0 for an integer.
            return {name: _whole(value) for name, value in params.items()}
        except fastjsonschema.JsonSchemaException as error:
            raise ValueError(str(error).replace("data.", "params.").replace("data ", "params ")) from error

    return check
