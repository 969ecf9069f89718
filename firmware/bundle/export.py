"""Bundles of calls: what a unit knows of them, so that anybody can check it offline with bundle/verify.py."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import zipfile
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import soundfile

from firmware.bundle import verify
from firmware.bundle.report import Pages
from firmware.core.call import Call
from firmware.imports import as_wav
from firmware.recording.leaves import Leaves, salt_of
from firmware.recording.recorder import seed_in
from firmware.records.database import decode, parts
from firmware.records.log import Line, first_seq, lines, read_segment, segments

Progress = Callable[[float], None]
_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MARGIN_NS = 10_000_000_000  # of a call's journal, before and behind it
_COPIES = {"mp3": ("MP3", "MPEG_LAYER_III"), "wav": ("WAV", "PCM_16"), "opus": ("OGG", "OPUS")}
_MOST_BYTES = (1 << 32) - (1 << 24)  # of a zip file that every program reads
_README = """\
Tsuroku の通話記録 / Calls recorded by a Tsuroku unit

確かめ方: python3 verify.py この束.zip   （Python 3.11 以上と pip install cryptography soundfile rfc3161-client）
To check: python3 verify.py THIS.zip     (Python 3.11 and later, pip install cryptography soundfile rfc3161-client)

束の中の verify.py は束を作った人が入れたものです。疑わしいときは、製品のものを別に手に入れてください。
The verify.py in here was put here by whoever made the bundle: in doubt, get the product's own from elsewhere.

calls/ID/report.pdf   要約と波形 / summary with waveform
calls/ID/sound.*      録音 / the recording
calls/ID/record.json  記録 / the record
calls/ID/leaves.json  1秒ごとの値 / what proves each second
calls/ID/chain.json   記録の連鎖と署名 / its place in the unit's chain, and the signature
calls/ID/journal.jsonl 回線の信号（署名の対象外） / what the line did (not signed)
timestamps/N.json      第三者による日時の証明 / what an authority says of the time
"""


class ExportError(Exception):
    """The bundle cannot be made: one sentence."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of the calls' sound goes into the bundle. Seconds are whole, from the recording's beginning.

    silence: stretches that are silence there. clip: nothing but this. copy: a copy beside it that everything plays.
    """

    silence: tuple[tuple[int, int], ...] = ()
    clip: tuple[int, int] | None = None
    note: str | None = None
    copy: Literal["mp3", "opus", "wav"] | None = None


@dataclass(slots=True)
class _Run:
    """A line of the call, and those behind it up to a signature."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    checkpoint: dict[str, Any] | None = None


def chains(store: Path, call_ids: Collection[str], progress: Progress = lambda part: None) -> dict[str, list[_Run]]:
    """By call: its lines of the log, and for each the way to the next signature. Reads the whole log once.

    The bodies of other calls' lines stay out: their hashes lead on. Raises OSError.
    """
    wanted = {call_id.encode() for call_id in call_ids}
    found: dict[str, list[_Run]] = {call_id: [] for call_id in call_ids}
    open_runs: dict[str, _Run] = {}
    known = segments(store)
    for number, segment in enumerate(known):
        limit = first_seq(known[number + 1 :])
        for line in lines(read_segment(segment)[1]):
            if not isinstance(line, Line) or (limit is not None and line.seq >= limit):
                continue
            own = _calls_of(line, wanted)
            signed = _checkpoint_of(line) if b'"checkpoint"' in (line.body or b"")[:4096] else None
            for call_id, run in list(open_runs.items()):
                if signed and (signed["seq"], signed["link"]) == (line.seq - 1, line.prev):
                    run.checkpoint = signed
                    del open_runs[call_id]
            for call_id in own:
                if call_id not in open_runs:
                    open_runs[call_id] = _Run()
                    found[call_id].append(open_runs[call_id])
            for call_id, run in open_runs.items():
                body = line.body.decode() if line.body is not None and call_id in own else None
                run.lines.append({"seq": line.seq, "prev": line.prev, "hash": line.body_hash, "body": body})
        progress((number + 1) / len(known))
    return found


def way(store: Path, first: int, last: int) -> tuple[str, list[str]]:
    """What leads from one line to another: the link before the first, and the hash of each body. Raises OSError."""
    prev, hashes = "", []
    known = segments(store)
    for number, segment in enumerate(known):
        limit = first_seq(known[number + 1 :])
        if limit is not None and limit <= first:
            continue
        for line in lines(read_segment(segment)[1]):
            if isinstance(line, Line) and (limit is None or line.seq < limit) and first <= line.seq <= last:
                prev = prev or line.prev
                hashes.append(line.body_hash)
        if limit is not None and limit > last:
            break
    return prev, hashes


def _add_timestamps(
    bundle: _Bundle, store: Path, found: Mapping[str, Sequence[_Run]], stamps: Sequence[Mapping[str, Any]]
) -> None:
    """For each call the first timestamp behind it; those of one timestamp share the way there."""
    ends: dict[int, list[int]] = {}
    for runs in found.values():
        own = [line["seq"] for run in runs for line in run.lines if line["body"] is not None]
        behind = [stamp["seq"] for stamp in stamps if own and stamp["seq"] >= own[-1]]
        if behind:
            ends.setdefault(min(behind), []).append(own[-1])
    for stamp in stamps:
        if stamp["seq"] in ends:
            first = min(ends.pop(stamp["seq"]))
            prev, hashes = way(store, first, stamp["seq"])
            proof = {"seq": stamp["seq"], "link": stamp["link"], "first": first, "prev": prev, "hashes": hashes}
            bundle.add(
                f"timestamps/{stamp['seq']}.json",
                _json({**proof, "token": stamp["token"], "authorities": stamp["authorities"]}),
            )


def _calls_of(line: Line, wanted: set[bytes]) -> set[str]:
    """Those of the calls that a line holds, where it holds no other call's record or event.

    What the shop has remarked on a call is its own, and goes nowhere.
    """
    if line.body is None or not wanted.intersection(_UUID.findall(line.body)):
        return set()
    head, at = parts(line.body)
    found = set()
    for done in head["do"]:
        if done[0] == "remarks":
            return set()
        if len(done) != 3:
            continue
        if done[0] == "calls" or done[0].startswith("events."):
            document = decode(line.body[at : at + done[2]])
            found.add(str(document.get("call_id") or document.get("subject")))
        at += done[2] + 1
    return found if len(found) == 1 and next(iter(found)).encode() in wanted else set()


def _checkpoint_of(line: Line) -> dict[str, Any] | None:
    head, at = parts(line.body or b"")
    for done in head["do"]:
        if len(done) == 3:
            if done[0] == "checkpoint":
                signed: dict[str, Any] = decode((line.body or b"")[at : at + done[2]])
                return signed
            at += done[2] + 1
    return None


def _record(runs: Sequence[_Run], call_id: str) -> dict[str, Any] | None:
    """As the last line of them has it; the store itself tells its times by a clock that may have been set later."""
    record = None
    for run in runs:
        for line in run.lines:
            if line["body"] is not None:
                for document in verify._documents(line["body"], call_id):
                    record = document
    return record


def journal_lines(journal: Path, calls: Sequence[Call]) -> dict[str, list[str]]:
    """By call: what its line did around it: no other line's, and nobody else's caller ID. Reads the journal once.

    Raises OSError.
    """
    found: dict[str, list[str]] = {call.call_id: [] for call in calls}
    by_line: dict[tuple[str, int], list[tuple[int, Call]]] = {}  # with the latest end up to there
    for call in sorted(calls, key=lambda call: call.opened_ns):
        known = by_line.setdefault((call.boot_id, call.line), [])
        known.append((max(_end(call), known[-1][0] if known else 0), call))
    for path in sorted(journal.glob("*.jsonl")):
        boot_id = ""
        with path.open(encoding="utf-8") as file:
            for text in file:
                try:
                    entry = json.loads(text)
                except ValueError:
                    continue  # torn
                if "lines" in entry:
                    boot_id = entry["lines"][0]["boot_id"]
                if not isinstance(at := entry.get("at_ns"), int):
                    continue
                for (boot, line), known in by_line.items():
                    if boot != boot_id or entry.get("line", line) != line:
                        continue
                    for _, call in known[bisect_left(known, at - _MARGIN_NS, key=itemgetter(0)) :]:
                        if call.opened_ns - _MARGIN_NS > at:
                            break
                        inside = call.opened_ns <= at <= (call.ended_ns or at)
                        if inside or (at <= _end(call) + _MARGIN_NS and entry.get("in") in _ELECTRICAL):
                            found[call.call_id].append(text.rstrip("\n"))
    return found


def _end(call: Call) -> int:
    return call.ended_ns or call.opened_ns


_ELECTRICAL = ("LoopEdge", "RingEdge", "LinePresentEdge", "PolarityEdge")


class _Bundle:
    """A zip file whose every byte is determined by what is in it (verify._container)."""

    def __init__(self, path: Path) -> None:
        self.members: dict[str, str] = {}
        self._zip = zipfile.ZipFile(path, "x", zipfile.ZIP_STORED, allowZip64=False)
        self._path = path

    @staticmethod
    def _info(name: str) -> zipfile.ZipInfo:
        info = zipfile.ZipInfo(name, verify.DATE)
        info.create_system, info.external_attr = 3, 0o100600 << 16
        return info

    def add(self, name: str, data: bytes) -> None:
        self.members[name] = hashlib.sha256(data).hexdigest()
        self._zip.writestr(self._info(name), data)

    def add_file(self, name: str, path: Path) -> None:
        digest, info = hashlib.sha256(), self._info(name)
        info.file_size = path.stat().st_size
        with path.open("rb") as source, self._zip.open(info, "w") as target:
            while data := source.read(1 << 20):
                digest.update(data)
                target.write(data)
        self.members[name] = digest.hexdigest()

    def close(self, manifest: Mapping[str, Any]) -> None:
        text = json.dumps({**manifest, "members": self.members}, ensure_ascii=False, indent=1)
        self._zip.writestr(self._info("manifest.json"), text.encode())
        self._zip.close()

    def drop(self) -> None:
        file, self._zip.fp = self._zip.fp, None  # or closing it would write a list of half of it
        if file:
            file.close()
        self._path.unlink(missing_ok=True)


def export(
    out: Path,
    data: Path,
    store: Path,
    calls: Sequence[Call],
    public_key: str,
    store_id: str,
    stamps: Sequence[Mapping[str, Any]],
    wanted: Wanted,
    sound_of: Callable[[Path], Any],
    work: Path,
    version: str,
    progress: Progress = lambda part: None,
) -> None:
    """Write a bundle to out, which must not exist. stamps: the store's timestamps.

    sound_of: context manager that gives a recording as a plain file.
    work: an empty folder for what is on the way. Raises ExportError, OSError.
    """
    found = chains(store, [call.call_id for call in calls], lambda part: progress(0.3 * part))
    journal = journal_lines(data / "journal", calls)
    pages = Pages(calls, wanted.note, work)
    try:
        bundle = _Bundle(out)
    except FileExistsError as error:
        raise ExportError(f"{out}: is there already; give another name.") from error
    try:
        bundle.add("README.txt", _README.encode())
        bundle.add("verify.py", Path(verify.__file__).read_bytes())
        _add_timestamps(bundle, store, found, stamps)
        listed = []
        for number, call in enumerate(calls):
            evidence = found[call.call_id], journal[call.call_id]
            listed.append(_add_call(bundle, data, call, *evidence, wanted, sound_of, pages, work))
            if out.stat().st_size > _MOST_BYTES:
                raise ExportError("the bundle would be larger than 4 GB; give fewer calls.")
            progress(0.3 + 0.7 * (number + 1) / len(calls))
        bundle.close(
            {
                "tsuroku_bundle": verify.FORMAT,
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "version": version,
                "public_key": public_key,
                "store_id": store_id,
                "calls": listed,
            }
        )
    except zipfile.LargeZipFile as error:
        bundle.drop()
        raise ExportError("the bundle would be larger than 4 GB; give fewer calls.") from error
    except BaseException:
        bundle.drop()
        raise


def _add_call(
    bundle: _Bundle,
    data: Path,
    call: Call,
    runs: Sequence[_Run],
    journal: Sequence[str],
    wanted: Wanted,
    sound_of: Callable[[Path], Any],
    pages: Pages,
    work: Path,
) -> dict[str, Any]:
    at, record = f"calls/{call.call_id}", _record(runs, call.call_id)
    if record is None:
        raise ExportError(f"call {call.call_id} stands in no line that can be read; `tsuroku store doctor` tells more.")
    chain = [{"lines": run.lines, "checkpoint": run.checkpoint} for run in runs]
    bundle.add(f"{at}/chain.json", _json({"runs": chain}))
    bundle.add(f"{at}/record.json", _json(record))
    bundle.add(f"{at}/journal.jsonl", "".join(f"{line}\n" for line in journal).encode())
    sound: dict[str, Any] | None = None
    path = data / call.recording.path if call.recording else None
    if path is None or not path.exists():
        if wanted.clip or wanted.silence:
            raise ExportError(f"call {call.call_id} has no recording to take a part of.")
        bundle.add(f"{at}/report.pdf", pages.page(call, record, None, wanted))
        return {"call_id": call.call_id, "sound": None}
    with sound_of(path) as plain:
        if plain is None:  # sealed, and nobody gave the key
            sound = {"kind": "sealed", "file": f"sound{''.join(path.suffixes[-2:])}"}
            bundle.add_file(f"{at}/{sound['file']}", path)
            bundle.add(f"{at}/report.pdf", pages.page(call, record, None, wanted))
            return {"call_id": call.call_id, "sound": sound}
        heard = plain
        if call.imported:
            if wanted.clip or wanted.silence:
                raise ExportError(f"call {call.call_id} was imported: no part of it could be proved.")
            sound = {"kind": "imported", "file": f"sound{plain.suffix}"}
            bundle.add_file(f"{at}/{sound['file']}", plain)
        elif wanted.clip or wanted.silence or plain != path:
            heard = work / "sound.flac"
            sound = _part(bundle, at, call, plain, heard, wanted)
            bundle.add_file(f"{at}/{sound['file']}", heard)
        else:
            suffix = "".join(path.suffixes[-1:])
            sound = {"kind": "original", "file": f"sound{suffix}"}
            seed = seed_in(path)
            if seed and call.recording:
                leaves = _leaves(path, call.recording.rate_hz, call.recording.frames, seed)
                bundle.add(f"{at}/leaves.json", _json({"leaves": leaves}))
            bundle.add_file(f"{at}/sound{suffix}", path)
        with as_wav(heard) if call.imported else contextlib.nullcontext(heard) as shown:
            if wanted.copy:
                copied = work / f"copy.{wanted.copy}"
                _copy(shown, copied, wanted.copy)
                bundle.add_file(f"{at}/copy.{wanted.copy}", copied)
                copied.unlink()
            bundle.add(f"{at}/report.pdf", pages.page(call, record, shown, wanted))
    (work / "sound.flac").unlink(missing_ok=True)
    return {"call_id": call.call_id, "sound": sound}


def _part(bundle: _Bundle, at: str, call: Call, plain: Path, out: Path, wanted: Wanted) -> dict[str, Any]:
    """The sound with stretches of it silenced, or a clip of it, or (of a sealed one) all of it, and what proves it."""
    recording = call.recording
    assert recording is not None
    rate, frames = recording.rate_hz, recording.frames
    seconds = -(-frames // rate)
    first, last = wanted.clip or (0, seconds)
    if not 0 <= first < last <= seconds or any(not 0 <= a < b <= seconds for a, b in wanted.silence):
        raise ExportError(f"call {call.call_id} has seconds 0 to {seconds}; give a part of these.")
    silenced = {second for a, b in wanted.silence for second in range(a, b)} & set(range(first, last))
    seed = seed_in(plain)
    if seed is None:
        raise ExportError(f"call {call.call_id} was recorded by an old version: no part of it could be proved.")
    with (
        soundfile.SoundFile(plain) as source,
        soundfile.SoundFile(out, "w", rate, 1, "PCM_16", format="FLAC") as target,
    ):
        target.title = call.call_id
        target.comment = "A part of a recording, made by tsuroku export."
        left = frames  # of a sealed one that was cut more can be there, which nothing proves
        for second in range(seconds):
            pcm = bytes(source.buffer_read(min(rate, left), "int16"))
            left -= len(pcm) // 2
            if first <= second < last:
                target.buffer_write(bytes(len(pcm)) if second in silenced else pcm, "int16")
    shown = set(range(first, last)) - silenced
    salts = {second: salt_of(seed, second).hex() for second in sorted(shown)}
    bundle.add(f"{at}/leaves.json", _json({"salts": salts, "leaves": _leaves(plain, rate, frames, seed)}))
    if wanted.clip:
        return {"kind": "clip", "file": "clip.flac", "from_s": first, "to_s": last, "note": wanted.note}
    return {"kind": "redacted", "file": "redacted.flac" if silenced else "unsealed.flac"}


def _leaves(path: Path, rate_hz: int, frames: int, seed: bytes) -> list[str]:
    """Of the record's frames; of a sealed file that was cut more can be there, which nothing proves."""
    leaves: list[bytes] = []
    tree = Leaves(rate_hz, seed, leaves.append)
    with soundfile.SoundFile(path) as source:
        for at in range(0, frames, rate_hz):
            tree.feed(source.buffer_read(min(rate_hz, frames - at), "int16"))
    if frames % rate_hz:
        leaves.append(tree.last_leaf())
    return [leaf.hex() for leaf in leaves]


def _copy(source: Path, target: Path, kind: Literal["mp3", "opus", "wav"]) -> None:
    """A copy that every telephone plays; it proves nothing."""
    form, subtype = _COPIES[kind]
    try:
        with (
            soundfile.SoundFile(source) as sound,
            soundfile.SoundFile(target, "w", sound.samplerate, sound.channels, subtype, format=form) as copy,
        ):
            while len(pcm := sound.read(65_536, dtype="int16")):
                copy.write(pcm)
    except soundfile.SoundFileError as error:
        raise ExportError(f"a copy as {kind} cannot be made here ({error}); leave --copy out.") from error


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
