"""Recordings that something else has made, filed as calls: a telephone's recorder app, another box.

The file is kept as it came (sealed, where recordings are), its SHA-256 is in the record. What it says of itself, by its
name and tags, is its word: the record says that it was imported, and from where it has its time and its number.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import soundfile
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from drivers.signals import Country
from firmware.core.call import Call, ClockRead, Imported, Recording
from firmware.core.caller import Caller, of_number
from firmware.core.filenames import Told, told
from firmware.core.numbers import Dialled, e164
from firmware.recording.levels import Meter
from firmware.recording.sealed import SUFFIX, SealedWriter
from firmware.records.log import make_directory, sync_directory
from firmware.records.store import CallStore

_log = logging.getLogger(__name__)

ENDINGS = (".m4a", ".mp4", ".3gp", ".aac", ".amr", ".mp3", ".ogg", ".oga", ".opus", ".wav", ".flac")
LINE = 0  # none of the unit's
_FOLDER = "recordings/imported"
# A hostile file is a list of other files, or an address, to a reader that takes any format.
_FORMATS = "mov,mp4,m4a,3gp,aac,amr,mp3,ogg,wav,flac"
_LONGEST_S = 24 * 3600
_DECODE_S = 900
_RESERVE_BYTES = 200_000_000  # stay free: calls that come matter more
_NICE = ("nice", "-n", "39")  # as far back as it goes, from wherever the recorder stands
_LOOK_S = 10  # a file that stays as it is between two looks has arrived
_BLOCK = 1 << 16


class NotImported(Exception):
    """The file is not taken: one sentence, which says what is wrong with it."""


def prepare(
    source: Path, data: Path, country: Country, owner: X25519PublicKey | None, now: datetime, name: str | None = None
) -> Call:
    """A file as the call that it is to be filed as; on return its copy below the data folder is on the disk.

    name: what it was called before. Done again, it comes to the same. The time of a name or tag without a zone is the
    machine's. Raises NotImported, OSError.
    """
    name = os.fsencode(name or source.name).decode("utf-8", "replace")
    if not source.is_file():
        raise NotImported(f"{name}: is no file that can be read; give the recording itself.")
    if source.suffix.lower() not in ENDINGS:
        raise NotImported(f"{name}: is no kind of sound that is known here; known are {', '.join(ENDINGS)}.")
    digest = _sha256(source)
    call_id = _id_of(digest)
    target = data / _FOLDER / f"{call_id}{source.suffix.lower()}{SUFFIX if owner else ''}"
    probed = _probe(source, name)
    meter, frames = Meter(probed.rate_hz), 0
    with _decoded(source, probed.rate_hz, name) as blocks:
        for pcm in blocks:
            meter.feed(pcm)
            frames += len(pcm) // 2
            if frames > _LONGEST_S * probed.rate_hz:
                raise NotImported(f"{name}: is longer than a day; cut it into calls.")
    if not frames:
        raise NotImported(f"{name}: has no sound in it.")
    if not target.exists():  # it is the call's already, or of a run that was cut off behind this
        _copy(source, target, owner)
    if _sha256(source) != digest:
        raise NotImported(f"{name}: was changed while it was read; it is tried again.")
    says, said_by = _told(Path(name).stem, probed.tags, country)
    at, time_from = _when(says, said_by, probed.tags, source)
    outgoing = says.direction == "outgoing"
    digits = says.digits
    return Call(
        call_id=call_id,
        line=LINE,
        direction=says.direction,
        boot_id="imported",
        clock=ClockRead(mono_ns=0, wall_ns=round(at.timestamp() * 1e9), state="unsynced"),
        opened_ns=0,
        outcome="imported",
        ended_ns=round(frames / probed.rate_hz * 1e9),
        caller=Caller() if digits is None or outgoing else of_number(digits, country),
        dialled=Dialled(raw=digits, digits=digits, number=e164(digits, country)) if digits and outgoing else None,
        no_dialled="not_told" if outgoing and digits is None else None,
        recording=Recording(
            path=str(target.relative_to(data)),
            from_ns=0,
            frames=frames,
            rate_hz=probed.rate_hz,
            size_bytes=target.stat().st_size,
            sha256=_sha256(target).hex(),
            levels=meter.levels(),
        ),
        no_recording=None,
        imported=Imported(
            file=name,
            sha256=digest.hex(),
            at=now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            time_from=time_from,
            number_from=said_by["digits"] if digits else None,
        ),
    )


@contextmanager
def as_wav(path: Path) -> Iterator[Path]:
    """The sound of an imported file, mono, as a file that soundfile opens. Raises NotImported."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a sealed one's sound stands on no card
    rate_hz = _probe(path, path.name).rate_hz
    with tempfile.TemporaryDirectory(prefix="tsuroku-", dir=memory) as work:
        wav = Path(work) / "sound.wav"
        with soundfile.SoundFile(wav, "w", rate_hz, 1, "PCM_16") as file, _decoded(path, rate_hz, path.name) as blocks:
            for pcm in blocks:
                file.buffer_write(pcm, "int16")
        yield wav


def discard(data: Path, call: Call, known: Call | None) -> None:
    """Remove the copy of a call that was refused, unless it is the recording of the known one. Raises OSError."""
    kept = known.recording if known else None
    if call.recording and not (kept and kept.deleted is None and kept.path == call.recording.path):
        (data / call.recording.path).unlink(missing_ok=True)


# -- what the file says of itself


@dataclass(frozen=True, slots=True)
class _Probed:
    rate_hz: int
    tags: dict[str, str]  # names in lower case


def _probe(source: Path, name: str) -> _Probed:
    """The file's first sound, and what tags it has. Raises NotImported."""
    if shutil.which("ffprobe") is None:
        raise NotImported(f"{name}: the program ffmpeg is not there to read it; install the package ffmpeg.")
    shown = ("-show_entries", "stream=codec_type,sample_rate:stream_tags:format_tags", "-of", "json")
    try:
        command = [*_NICE, "ffprobe", "-v", "error", "-format_whitelist", _FORMATS, *shown, f"file:{source}"]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        found = json.loads(done.stdout or b"{}")
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise NotImported(f"{name}: cannot be read; look whether another player plays it.") from error
    sound = next((each for each in found.get("streams", ()) if each.get("codec_type") == "audio"), None)
    if sound is None or not str(sound.get("sample_rate", "")).isdecimal():
        raise NotImported(f"{name}: is damaged, or no sound; look whether another player plays it.")
    rate_hz = int(sound["sample_rate"])
    if not 1000 <= rate_hz <= 655_350:
        raise NotImported(f"{name}: has {rate_hz} frames a second, which no telephone records.")
    tags = {**sound.get("tags", {}), **found.get("format", {}).get("tags", {})}
    return _Probed(rate_hz, {str(key).lower(): str(value) for key, value in tags.items()})


@contextmanager
def _decoded(source: Path, rate_hz: int, name: str) -> Iterator[Iterator[bytes]]:
    """The sound as mono 16-bit frames, a block at a time. Raises NotImported for one that breaks off with an error."""
    form = ("-map", "0:a:0", "-ac", "1", "-ar", str(rate_hz), "-f", "s16le", "-")
    command = [
        *_NICE,
        "ffmpeg",
        "-v",
        "error",
        "-nostdin",
        "-xerror",
        "-format_whitelist",
        _FORMATS,
        "-i",
        f"file:{source}",
    ]
    with subprocess.Popen([*command, *form], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as decoder:
        out = decoder.stdout
        assert out is not None
        watch = threading.Timer(_DECODE_S, decoder.kill)
        watch.start()
        try:
            yield iter(lambda: out.read(_BLOCK), b"")
        except BaseException:
            decoder.kill()
            raise
        finally:
            watch.cancel()
    if decoder.returncode:
        raise NotImported(f"{name}: breaks off, or is damaged; look whether another player plays it to its end.")


def _told(stem: str, tags: dict[str, str], country: Country) -> tuple[Told, dict[str, Literal["name", "tags"]]]:
    """What name and tags tell, the name first; a number that the numbering plan has no room for is none."""
    given: dict[str, Any] = {}
    said_by: dict[str, Literal["name", "tags"]] = {}
    texts: list[tuple[Literal["name", "tags"], str]] = [("name", stem)]
    texts += [("tags", tags[key]) for key in ("title", "comment", "description", "artist") if tags.get(key)]
    for by, text in texts:
        says = told(text)
        for key, value in (("at", says.at), ("digits", says.digits), ("direction", says.direction)):
            if value is not None and key not in given and (key != "digits" or e164(str(value), country)):
                given[key], said_by[key] = value, by
    return Told(**given), said_by


def _when(
    says: Told, said_by: dict[str, Literal["name", "tags"]], tags: dict[str, str], source: Path
) -> tuple[datetime, Literal["name", "tags", "file"]]:
    """When the call was, and what tells it: name or title, a tag of the time, the file's own date."""
    if says.at:
        return says.at.astimezone(), said_by["at"]
    for key in ("creation_time", "date"):
        try:
            at = datetime.fromisoformat(tags.get(key, ""))
        except ValueError:
            continue
        if "T" in tags[key] and at.year > 1980:  # a day alone is no time; a telephone without a clock writes 1904
            return at.astimezone(), "tags"
    return datetime.fromtimestamp(source.stat().st_mtime).astimezone(), "file"


# -- the file


def _id_of(digest: bytes) -> str:
    """UUID version 8 (RFC 9562) of the file's hash: one file is one call, however often it is brought."""
    number = int.from_bytes(digest[:16]) & ~(0xF << 76 | 0x3 << 62)
    return str(uuid.UUID(int=number | 0x8 << 76 | 0x2 << 62))


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _copy(source: Path, target: Path, owner: X25519PublicKey | None) -> None:
    """On return it is on the disk, whole, or not there. Raises OSError."""
    make_directory(target.parent)
    size = source.stat().st_size
    if shutil.disk_usage(target.parent).free - size < _RESERVE_BYTES:
        raise OSError(errno.ENOSPC, "too little room is left on the disk", str(source))
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        with (
            source.open("rb") as given,
            os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "wb") as out,
        ):
            if owner is None:
                shutil.copyfileobj(given, out, _BLOCK)
                out.flush()
            else:
                sealed = SealedWriter(out.fileno(), owner)
                shutil.copyfileobj(given, sealed, _BLOCK)
                sealed.flush()
                if sealed.failed:
                    raise sealed.failed
            os.fsync(out.fileno())
        part.rename(target)
        sync_directory(target.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


# -- the watched folder


class Inbox:
    """A folder whose files are taken in one by one, and leave it once they are on the disk as calls.

    What is no recording goes to its folder `not-imported`. Thread: all methods on the loop's; one of its own reads.
    """

    def __init__(
        self, folder: Path, data: Path, store: CallStore, country: Country, owner: X25519PublicKey | None
    ) -> None:
        self._folder, self._data, self._store = folder, data, store
        self._country, self._owner = country, owner
        self._seen: dict[Path, tuple[int, int]] = {}
        self._stuck: set[Path] = set()  # that would not leave the folder: not to be read again and again
        self._reading: Path | None = None
        self._answers: queue.SimpleQueue[tuple[Path, Call | str, bool]] = queue.SimpleQueue()
        self._next_ns = 0

    def tick(self) -> bool:
        """Every few seconds, while nobody is calling. True: a call was filed. Raises StoreError: tried again."""
        filed = False
        if self._reading and not self._answers.empty():
            filed = self._take(*self._answers.get())
            self._reading = None
        now_ns = self._store.read_clock().mono_ns
        if self._reading is None and now_ns >= self._next_ns:
            self._next_ns = now_ns + _LOOK_S * 1_000_000_000
            if arrived := self._arrived():
                self._reading, self._next_ns = arrived, 0
                threading.Thread(target=self._read, args=(arrived,), name="import", daemon=True).start()
        return filed

    def _arrived(self) -> Path | None:
        """The oldest file that nobody has written to between two looks."""
        seen: dict[Path, tuple[int, int]] = {}
        try:
            for entry in os.scandir(self._folder):
                hidden = entry.name.startswith(".") or Path(entry.path) in self._stuck
                if entry.is_file(follow_symlinks=False) and not hidden:
                    stat = entry.stat()
                    seen[Path(entry.path)] = stat.st_size, stat.st_mtime_ns
        except OSError as error:
            _log.debug("event=inbox_unreadable reason=%s", error.strerror)
        still = [path for path, state in seen.items() if self._seen.get(path) == state]
        self._seen = seen
        return min(still, key=lambda path: seen[path][1], default=None)

    def _read(self, path: Path) -> None:
        now = datetime.fromtimestamp(self._store.read_clock().wall_ns / 1e9, UTC)
        try:
            self._answers.put((path, prepare(path, self._data, self._country, self._owner, now), False))
        except NotImported as wrong:
            self._answers.put((path, str(wrong), True))
        except OSError as error:
            self._answers.put((path, f"{error.filename}: {error.strerror}.", False))
        except Exception as error:  # noqa: BLE001 - whatever a file makes a library do: the next one must have its turn
            self._answers.put((path, f"a fault in this program ({type(error).__name__}).", True))

    def _take(self, path: Path, answer: Call | str, aside: bool) -> bool:
        """Without the file's name in the log: it may hold a number. Raises StoreError."""
        filed = False
        try:
            if isinstance(answer, Call):
                refused = self._store.take_in(answer)
                filed = refused is None
                if refused:
                    discard(self._data, answer, self._store.get(answer.call_id))
                _log.info(
                    'event=%s call=%s reason="%s"',
                    "call_imported" if filed else "not_imported",
                    answer.call_id,
                    refused,
                )
                path.unlink(missing_ok=True)
                return filed
            _log.warning('event=not_imported reason="%s"', answer.rpartition(": ")[2])
            if aside:
                folder = self._folder / "not-imported"
                folder.mkdir(exist_ok=True)
                path.rename(folder / path.name)
        except OSError as error:
            self._stuck.add(path)
            _log.warning('event=inbox_stuck reason="%s; give its files to the user tsuroku"', error.strerror)
        return filed
