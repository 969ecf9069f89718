"""Settings: one TOML file, read once, strict. A mistake is one sentence: file, section, key and how to mend it."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import re
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from drivers.signals import Country
from firmware.core.notices import hours_of, time_of
from firmware.core.numbers import digits_of, e164
from firmware.core.outbox import EVENT_TYPES
from firmware.core.privacy import Privacy

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_PATCH = "settings-patch.json"  # below the data folder
_PATCHABLE = ("recording", "events", "watch")
_NEVER_PATCHED = ("do_not_record", "seal_to")  # numbers; and whoever sets the key is the only one who can listen


class SettingsError(ValueError):
    """One sentence that says what is wrong, where, and how to mend it."""


def _limits(low: float, high: float) -> dict[str, Any]:
    return {"limits": (low, high)}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSettings:
    site: str
    unit: str
    data_dir: Path
    board: str = "line-tap-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSettings:
    """One line. number counts from 1 in the order of the board's lines."""

    number: int = field(metadata=_limits(1, 16))
    codec: str  # ALSA or PortAudio device NAME, or a part of it; never an index
    channel: int = field(default=1, metadata=_limits(1, 8))  # of the codec: one can carry several lines
    modem: str | None = None  # a path, or a name below /dev/serial/by-id; absent: no modem on this line
    modem_model: Literal["auto", "usr5637", "cx93001", "isomodem", "generic"] = "auto"
    country: Country = "jp"
    number_display: bool = True  # the line has NTT Number Display (or a gateway that behaves so)
    off_hook_ms: int = field(default=100, metadata=_limits(20, 1000))
    flash_min_ms: int = field(default=300, metadata=_limits(100, 1000))
    hang_up_ms: int = field(default=1250, metadata=_limits(300, 5000))
    ring_over_ms: int = field(default=6000, metadata=_limits(3000, 15000))
    handshake_ms: int = field(default=7000, metadata=_limits(2000, 15000))
    line_cut_ms: int = field(default=500, metadata=_limits(100, 5000))
    shortest_call_ms: int = field(default=2000, metadata=_limits(0, 10000))
    held_open_min: int = field(default=30, metadata=_limits(5, 720))  # off-hook without voice: the handset lies beside


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingSettings:
    rate_hz: int = field(default=8000, metadata=_limits(8000, 48000))
    buffer_frames: int = field(default=480, metadata=_limits(80, 48000))
    pre_roll_s: float = field(default=5.0, metadata=_limits(0, 20))
    ring_s: float = field(default=30.0, metadata=_limits(20, 120))
    sync_s: float = field(default=5.0, metadata=_limits(1, 60))
    audio_delay_ms: int = field(default=0, metadata=_limits(-1000, 1000))  # sound arrives this late after its edge
    mute_keys: bool = False  # what is keyed after the answer is silence; files are written 2 s later for it
    seal_to: Path | None = None  # the owner's public key: what is recorded can be read with his private key only
    do_not_record: tuple[str, ...] = ()  # as written: each line reads them by its own country (caller.parse_list)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    host: str
    port: int = field(default=8883, metadata=_limits(1, 65535))
    name: str = "main"
    prefix: str = "tsuroku/v1"
    protocol: Literal["5", "3.1.1"] = "5"
    username: str | None = None
    password_file: Path | None = None
    tls: bool = True
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keepalive_s: int = field(default=30, metadata=_limits(5, 3600))
    privacy: Privacy = "full"
    hmac_key_file: Path | None = None  # absent: a key of the unit's own
    audit: bool = False  # publish event/audit
    consumers: tuple[str, ...] = ()  # events stay until each of these has confirmed them
    commands: bool = True  # obey rpc/req and set/recording
    events_per_s: int = field(default=500, metadata=_limits(1, 100_000))
    discovery: Literal["device", "components", "off"] = "device"  # components: Home Assistant before 2024.11
    discovery_prefix: str = "homeassistant"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """A web server that gets each event by HTTP POST."""

    name: str
    url: str
    format: Literal["cloudevents", "template", "zammad", "zoho"] | None = None  # absent: cloudevents
    events: tuple[str, ...] = ()  # types; empty: all
    privacy: Privacy = "full"
    hmac_key_file: Path | None = None  # absent: a key of the unit's own
    secret_file: Path | None = None  # signs what is sent
    token_file: Path | None = None
    template_file: Path | None = None
    content_type: str | None = None  # of the template's text; absent: application/json
    numbers: tuple[str, ...] = ()  # the shop's own, one a line
    ca_file: Path | None = None
    timeout_s: float = field(default=15.0, metadata=_limits(1, 120))


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySettings:
    """The owner's telephone. Times of day as HH:MM, of the machine's zone."""

    name: str
    urls_file: Path
    language: Literal["ja", "en"] = "ja"
    missed: bool = True
    alarms: bool = True
    digest_at: str | None = None
    quiet: str | None = None  # from-until
    urgent: bool = False  # alarms that are faults do not wait for the end of the quiet hours
    per_month: int = field(default=0, metadata=_limits(0, 1_000_000))  # messages; 0: as many as there are
    privacy: Literal["full", "last4", "none"] = "last4"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestampSettings:
    """An RFC 3161 authority that stamps the head of the records' chain once a day."""

    url: str
    ca_file: Path  # its certificate's authority, PEM


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportsSettings:
    """A folder whose files, recordings that something else has made, are taken in as calls."""

    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiesSettings:
    """Where finished calls are copied to, by rclone."""

    remote: str  # one of config_file with a path, as nas:shop, or a folder of another disk
    config_file: Path | None = None
    window: str | None = None  # from-until, of the machine's zone; None: whenever nobody is calling
    limit_kb_s: int = field(default=0, metadata=_limits(0, 1_000_000))  # 0: as fast as it goes


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleSettings:
    """The calls in a browser (`tsuroku console run`); HTTPS with the unit's own certificate."""

    host: str = "0.0.0.0"
    port: int = field(default=8443, metadata=_limits(1, 65535))
    crm_url: str | None = None  # of a caller in the customer's system; {number}: E.164, {national}: as people write it


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbacksSettings:
    """Who is put on the list of those to be called back by himself. Times of day as HH:MM, of the machine's zone."""

    hours: str | None = None  # from-until; None: whenever he is missed
    closed_on: tuple[str, ...] = ()  # days as mon, tue
    due_min: int = field(default=0, metadata=_limits(0, 10_080))  # he is to be called within; 0: nobody says when


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """When recordings go; 0 switches a limit off, and without one nothing is ever deleted."""

    keep_days: int = field(default=0, metadata=_limits(0, 36_500))
    total_mb: int = field(default=0, metadata=_limits(0, 100_000_000))
    free_mb: int = field(default=0, metadata=_limits(0, 100_000_000))
    records: bool = False  # the record of the call goes too
    warn_days: int = field(default=7, metadata=_limits(0, 365))  # before


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsSettings:
    keep_days: int = field(default=14, metadata=_limits(1, 3650))  # for a replay, when everybody has them


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """When the unit raises an alarm; 0 switches one off (firmware.core.alarms.Limits)."""

    line_silent_days: int = field(default=14, metadata=_limits(0, 365))
    disk_free_mb: int = field(default=1000, metadata=_limits(0, 1_000_000))
    disk_days: int = field(default=14, metadata=_limits(0, 365))
    temperature_c: int = field(default=80, metadata=_limits(0, 110))
    long_call_min: int = field(default=30, metadata=_limits(0, 1440))
    repeat_calls: int = field(default=5, metadata=_limits(0, 100))
    outbox_stuck_min: int = field(default=60, metadata=_limits(0, 10_080))
    unconfirmed_h: int = field(default=24, metadata=_limits(0, 720))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    unit: UnitSettings
    line: tuple[LineSettings, ...]
    recording: RecordingSettings = RecordingSettings()
    retention: RetentionSettings = RetentionSettings()
    events: EventsSettings = EventsSettings()
    watch: WatchSettings = WatchSettings()
    broker: tuple[BrokerSettings, ...] = ()
    webhook: tuple[WebhookSettings, ...] = ()
    notify: tuple[NotifySettings, ...] = ()
    timestamp: TimestampSettings | None = None
    imports: ImportsSettings | None = None
    copies: CopiesSettings | None = None
    console: ConsoleSettings = ConsoleSettings()
    callbacks: CallbacksSettings = CallbacksSettings()


def load(path: Path) -> Settings:
    """Read and check the settings file. Raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); give the right path or its rights to the user tsuroku."
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text at byte {error.start}; save it as UTF-8.") from error
    return parse(text, str(path))


def parse(text: str, name: str) -> Settings:
    """Check settings given as TOML text; name stands for the file in messages. Raises SettingsError."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not TOML; also a number of 5,000 digits, brackets without end
        raise SettingsError(f"{name}: is not TOML: {error}.") from error
    settings: Settings = _dataclass(Settings, table, name, "")
    _check(settings, name)
    return settings


def public(settings: Settings) -> dict[str, Any]:
    """The settings as JSON, without what is secret (that stands in files) and without anybody's number."""
    told = typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(settings), default=str)))
    told["recording"]["do_not_record"] = len(settings.recording.do_not_record)
    if told["console"]["crm_url"]:
        told["console"]["crm_url"] = urlsplit(told["console"]["crm_url"]).hostname
    if told["timestamp"]:
        told["timestamp"]["url"] = urlsplit(told["timestamp"]["url"]).hostname
    for webhook in told["webhook"]:
        webhook["url"] = urlsplit(webhook["url"]).hostname  # behind it may stand a token
        webhook["numbers"] = len(webhook["numbers"])
    return told


def public_hash(settings: Settings) -> str:
    """SHA-256 of public(): a number in it could be found by trying all of them."""
    return hashlib.sha256(json.dumps(public(settings), sort_keys=True).encode()).hexdigest()


# -- what was changed from afar


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Values over those of the settings file, by section and key. base: public_hash() of the file's.

    It is good for that file only: whoever edits the file has the last word.
    """

    base: str
    values: dict[str, dict[str, Any]]
    by: str
    at: str  # UTC


def patched(settings: Settings, values: object, name: str) -> Settings:
    """The settings with some values put over them. Raises SettingsError; name stands for where they come from."""
    if not isinstance(values, dict):
        raise SettingsError(f"{name}: must be an object of sections.")
    sections: dict[str, Any] = {}
    for section, given in values.items():
        if section not in _PATCHABLE:
            raise SettingsError(f"{name}: only {', '.join(_PATCHABLE)} can be changed from afar, not {str(section)!r}.")
        if found := sorted(set(_NEVER_PATCHED).intersection(given if isinstance(given, dict) else ())):
            raise SettingsError(f"{name}: {found[0]} can be changed in the settings file only.")
        own = getattr(settings, section)
        if isinstance(given, dict):
            given = _table(own) | given
        sections[section] = _dataclass(type(own), given, name, section)
    changed = dataclasses.replace(settings, **sections)
    _check(changed, name)
    return changed


def _table(section: Any) -> dict[str, Any]:
    """A section as the settings file would have it."""
    values = {key: value for key, value in dataclasses.asdict(section).items() if value is not None}
    return {key: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v for key, v in values.items()}


def read_patch(filed: Settings) -> Patch | None:
    """What was changed from afar; None: nothing was. Raises SettingsError for what is of no use (any more)."""
    path = filed.unit.data_dir / _PATCH
    try:
        patch = Patch(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); run this as the user tsuroku.") from error
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{path}: is damaged, so the settings file counts alone; remove it.") from error
    if patch.base != public_hash(filed):
        raise SettingsError(
            f"{path}: was made over another settings file, which was edited since; that counts alone. Remove it, or "
            "change the settings from afar anew."
        )
    patched(filed, patch.values, str(path))
    return patch


def write_patch(filed: Settings, patch: Patch) -> None:
    """On return it is on the disk. Raises OSError."""
    path = filed.unit.data_dir / _PATCH
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(patch), file)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check(settings: Settings, name: str) -> None:
    for key, value in (("site", settings.unit.site), ("unit", settings.unit.unit)):
        if not _NAME.fullmatch(value):
            raise SettingsError(
                f"{name}: [unit] {key} = {value!r} cannot stand in a topic; "
                "use 1 to 32 of a-z, 0-9, - and _, beginning with a letter or digit."
            )
    for section, value in (("unit] site", settings.unit.site), ("unit] unit", settings.unit.unit)):
        if len(re.findall("[0-9]", value)) >= 7:
            raise SettingsError(f"{name}: [{section} = {value!r} looks like a phone number; topics never hold one.")
    taps = [(line.codec, line.channel) for line in settings.line]
    if len(set(taps)) < len(taps):
        raise SettingsError(f"{name}: [[line]]: two lines are on one channel of one codec; give each its own channel.")
    numbers = [line.number for line in settings.line]
    if numbers != list(range(1, len(numbers) + 1)):
        raise SettingsError(f"{name}: [[line]] number: lines must be numbered 1, 2, ... in order, found {numbers}.")
    for line in settings.line:
        if not line.off_hook_ms < line.flash_min_ms < line.hang_up_ms:
            raise SettingsError(
                f"{name}: [[line]] {line.number}: off_hook_ms < flash_min_ms < hang_up_ms must hold, "
                f"found {line.off_hook_ms}, {line.flash_min_ms}, {line.hang_up_ms}."
            )
    if settings.recording.ring_s < settings.recording.pre_roll_s + 15:
        raise SettingsError(
            f"{name}: [recording] ring_s = {settings.recording.ring_s} is too short; give it pre_roll_s + 15 or more."
        )
    if settings.recording.buffer_frames > settings.recording.rate_hz // 2:
        raise SettingsError(
            f"{name}: [recording] buffer_frames = {settings.recording.buffer_frames} is more than half a second; "
            f"give at most {settings.recording.rate_hz // 2}."
        )
    if 1_000_000_000 % settings.recording.rate_hz:
        raise SettingsError(f"{name}: [recording] rate_hz = {settings.recording.rate_hz}: use 8000, 16000 or 32000.")
    for place, entry in enumerate(settings.recording.do_not_record, start=1):
        if not any(_can_call(entry, line.country) for line in settings.line):
            raise SettingsError(  # without the entry: what is written here ends in a log
                f"{name}: [recording] do_not_record: entry {place} is no telephone number; write it in full as the "
                'line shows it ("03-0000-1234"), with + and calling code, or as a short number of up to 6 digits.'
            )
    sinks = [("broker", broker.name) for broker in settings.broker]
    sinks += [("webhook", webhook.name) for webhook in settings.webhook]
    sinks += [("notify", notify.name) for notify in settings.notify]
    for section, sink in sinks:
        if not _NAME.fullmatch(sink) or [other for _, other in sinks].count(sink) > 1:
            raise SettingsError(
                f"{name}: [[{section}]] name = {sink!r}: every broker, webhook and notify needs a name of its own; "
                "use 1 to 32 of a-z, 0-9, - and _."
            )
    for webhook in settings.webhook:
        if wrong := _wrong_webhook(webhook, settings):
            raise SettingsError(f"{name}: [[webhook]] {webhook.name}: {wrong}")
    if settings.timestamp and (wrong := _wrong_url(settings.timestamp.url, plain=True)):
        raise SettingsError(f"{name}: [timestamp] {wrong.replace('crm.example/hook', 'tsa.example/tsr')}")
    if settings.copies and (wrong := _wrong_copies(settings.copies)):
        raise SettingsError(f"{name}: [copies] {wrong}")
    if settings.imports and settings.imports.folder.is_relative_to(settings.unit.data_dir):
        raise SettingsError(f"{name}: [imports] folder lies in data_dir, whose files are the unit's; give another.")
    if settings.callbacks.hours and hours_of(settings.callbacks.hours) is None:
        raise SettingsError(f"{name}: [callbacks] hours = {settings.callbacks.hours!r}: write it as 09:00-18:00.")
    if unknown := set(settings.callbacks.closed_on) - set(WEEKDAYS):
        raise SettingsError(f"{name}: [callbacks] closed_on: {sorted(unknown)[0]!r}: use {', '.join(WEEKDAYS)}.")
    if settings.console.crm_url and not re.match(r"https?://[^\s{}]+.*\{(number|national)\}", settings.console.crm_url):
        raise SettingsError(
            f"{name}: [console] crm_url = {settings.console.crm_url!r}: give the page of a caller with {{number}} or "
            "{national} where his number belongs, as https://crm.example/search?tel={number}."
        )
    for notify in settings.notify:
        if wrong := _wrong_notify(notify):
            raise SettingsError(f"{name}: [[notify]] {notify.name}: {wrong}")
    places = [(broker.host, broker.port, broker.prefix) for broker in settings.broker]
    if len(set(places)) < len(places):
        raise SettingsError(f"{name}: [[broker]]: two of them are one: same host, port and prefix; keep one section.")
    consumers = [each for broker in settings.broker for each in broker.consumers]
    if len(set(consumers)) < len(consumers):
        raise SettingsError(f"{name}: [[broker]] consumers: a name stands twice; give each consumer one of its own.")
    for broker in settings.broker:
        if wrong := next((each for each in broker.consumers if not _NAME.fullmatch(each)), None):
            raise SettingsError(
                f"{name}: [[broker]] {broker.name}: consumers: {wrong!r} is no name; use 1 to 32 of a-z, 0-9, - and _."
            )
        if not all(map(_NAME.fullmatch, broker.discovery_prefix.split("/"))):
            raise SettingsError(
                f"{name}: [[broker]] {broker.name}: discovery_prefix = {broker.discovery_prefix!r} cannot begin a "
                "topic; use what Home Assistant's MQTT integration is set to, as homeassistant."
            )
        if not all(map(_NAME.fullmatch, parts := broker.prefix.split("/"))) or len(parts) > 3:
            raise SettingsError(
                f"{name}: [[broker]] prefix = {broker.prefix!r} cannot begin a topic; "
                "use 1 to 3 names of a-z, 0-9, - and _ with / between them, as tsuroku/v1."
            )
        if not broker.tls and broker.host not in _THIS_MACHINE:
            raise SettingsError(
                f"{name}: [[broker]] {broker.name}: tls = false is allowed for this machine itself only; "
                f"set tls = true for host {broker.host!r}."
            )
        if (broker.cert_file is None) != (broker.key_file is None):
            raise SettingsError(f"{name}: [[broker]] {broker.name}: cert_file and key_file must be given together.")


def _wrong_url(address: str, *, plain: bool = False) -> str | None:
    """What is wrong, without the address: a part of it may be a secret. plain: http will do."""
    try:
        url = urlsplit(address)
        host, _ = url.hostname, url.port
    except ValueError:
        host = None
    if not host or url.scheme not in ("https", "http"):
        return "url must be an address like https://crm.example/hook."
    if url.scheme == "http" and not plain and host not in _THIS_MACHINE:
        return "url: http is allowed for this machine itself only; use https."
    if url.username or url.password:
        return "url holds a user or password; put a token into token_file instead."
    return None


def _wrong_webhook(webhook: WebhookSettings, settings: Settings) -> str | None:
    """What is wrong."""
    if wrong := _wrong_url(webhook.url):
        return wrong
    for each in webhook.events:
        if each not in EVENT_TYPES:
            near = difflib.get_close_matches(each, EVENT_TYPES, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(EVENT_TYPES)}."
            return f"events: {each!r} is no event; {hint}"
    if (webhook.format == "template") != (webhook.template_file is not None):
        return 'format = "template" and template_file must be given together.'
    if webhook.content_type is not None and webhook.format != "template":
        return 'content_type is for format = "template" only.'
    if webhook.content_type is not None and not re.fullmatch(r"[\x21-\x7e]+/[\x20-\x7e]+", webhook.content_type):
        return f"content_type = {webhook.content_type!r} is none; write it as application/json."
    if webhook.format not in ("zammad", "zoho"):
        return 'numbers is for format = "zammad" and "zoho" only.' if webhook.numbers else None
    if webhook.events:
        return f'format = "{webhook.format}" chooses its events itself; take events out.'
    if webhook.privacy != "full":
        return f'format = "{webhook.format}" is about numbers; it needs privacy = "full".'
    if len(webhook.numbers) != len(settings.line) or not all(
        e164(number, line.country) for number, line in zip(webhook.numbers, settings.line, strict=True)
    ):
        return f'format = "{webhook.format}" needs numbers: the shop\'s own, one for each line, as "+81300000001".'
    if webhook.format == "zoho" and webhook.token_file is None:
        return 'format = "zoho" needs token_file, with the OAuth access token.'
    return None


def _wrong_notify(notify: NotifySettings) -> str | None:
    if notify.digest_at is not None and time_of(notify.digest_at) is None:
        return f'digest_at = {notify.digest_at!r} is no time of day; write it as "19:00".'
    if notify.quiet is not None and hours_of(notify.quiet) is None:
        return f'quiet = {notify.quiet!r} is no stretch of the day; write it as "22:00-07:00".'
    if notify.urgent and not (notify.quiet and notify.alarms):
        return "urgent = true does nothing without quiet and alarms; set those, or leave it out."
    if not notify.missed and not notify.alarms and notify.digest_at is None:
        return "it would tell nothing; set missed, alarms or digest_at, or take the section out."
    return None


def _wrong_copies(copies: CopiesSettings) -> str | None:
    if not re.fullmatch(r"/.+|[\w.][\w.+@-]*:[^:]*", copies.remote):
        return f'remote = {copies.remote!r} is neither a remote of rclone, as "nas:shop", nor a folder, as "/mnt/usb".'
    if not copies.remote.startswith("/") and copies.config_file is None:
        return f"remote = {copies.remote!r} needs config_file, which rclone knows it from (`rclone config`)."
    if copies.window is not None and hours_of(copies.window) is None:
        return f'window = {copies.window!r} is no stretch of the day; write it as "22:00-07:00".'
    return None


def _can_call(entry: str, country: Country) -> bool:
    """Whether a line could ever show this number: an entry that never matches would be recorded after all."""
    longest = 15 if country == "etsi" else 6  # such a line shows national numbers that have no E.164 form here
    return bool(e164(entry, country) or re.fullmatch(rf"[0-9*#]{{1,{longest}}}", digits_of(entry)))


def _dataclass(cls: type[Any], table: object, name: str, section: str) -> Any:
    shown = f"[{section}]" if section else "top level"
    if not isinstance(table, dict):
        raise SettingsError(f"{name}: {shown} must be a section (write it as {shown}).")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(fields)}."
            raise SettingsError(f"{name}: {shown} has no key {key!r}; {hint}")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, f in fields.items():
        if key in table:
            values[key] = _value(hints[key], table[key], f, name, section, key)
        elif f.default is dataclasses.MISSING:
            raise SettingsError(f"{name}: {shown} lacks the key {key!r}; add it (see the commented example).")
    return cls(**values)


def _value(hint: Any, value: object, f: dataclasses.Field[Any], name: str, section: str, key: str) -> Any:
    where = f"{name}: [{section}] {key} = {value!r}"
    if typing.get_origin(hint) in (
        types.UnionType,
        typing.Union,
    ):  # X | None: TOML has no null, so a given value is an X
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if dataclasses.is_dataclass(hint):
        return _dataclass(typing.cast(type, hint), value, name, key)
    if hint == tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise SettingsError(f'{name}: [{section}] {key} must be a list of texts in quotes, as ["a", "b"].')
        return tuple(value)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise SettingsError(f"{name}: [{key}] must be written as [[{key}]], once for each.")
        return tuple(_dataclass(typing.get_args(hint)[0], item, name, f"[{key}]") for item in value)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise SettingsError(f"{where} is not one of: {', '.join(map(repr, choices))}.")
        return value
    if hint is Path:
        if not isinstance(value, str) or not value.startswith("/"):
            raise SettingsError(f"{where} must be an absolute path in quotes.")
        return Path(value)
    wanted = {str: "text in quotes", bool: "true or false", int: "a whole number", float: "a number"}[hint]
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise SettingsError(f"{where} must be {wanted}.")
    if hint is str and not value:
        raise SettingsError(f"{where} is empty; fill it in or leave the key out.")
    if "limits" in f.metadata:
        low, high = f.metadata["limits"]
        if not low <= typing.cast(float, value) <= high:
            raise SettingsError(f"{where} is out of range; allowed is {low} to {high}.")
    return hint(value)
