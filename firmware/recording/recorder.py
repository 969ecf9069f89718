"""The recorder of one line: cuts calls from a ring of the last seconds into one FLAC file each.

Everything is counted in frames of the capture clock, so no thread's lateness can change a file. The file is written as
the sound comes, so a cut of any kind leaves what was heard. Missing frames become silence of the same length, and are
counted.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from drivers.signals import AudioBlock
from firmware.core.facts import KEYS, Gap, Levels, RecordingFailed, RecordingReady
from firmware.core.line import Mute, MuteKey, StartRecording, StopRecording
from firmware.recording.flac import copied
from firmware.recording.leaves import Leaves, root_of
from firmware.recording.levels import Meter, levels_of
from firmware.recording.sealed import SUFFIX, SealedWriter, SealError, outside

log = logging.getLogger(__name__)

# A whole FLAC block is lost to a cut: levels 0 to 2 have blocks of 1152 frames (0.14 s), higher ones 4096 (0.5 s).
COMPRESSION = 2 / 8
_ENCODER_FRAMES = 1152 + 1 + 128  # that it can be holding back, and that reading a cut file can lose (flac._BLOCK)
_RESERVE_BYTES = 50_000_000
_COMMENT = "monotonic ns of the first frame: {}; seed of its leaves: {}"
_IN_COMMENT = re.compile(r"monotonic ns of the first frame: (\d+)(?:; seed of its leaves: ([0-9a-f]{64}))?")
# The newest frames stay out of the file for this long: a stop names a moment that is already past when it arrives, and
# the file must end there.
HELD_BACK_MS = 250
# A key's tone is told behind its end; one of 1.5 s is silenced whole, and of a longer one what comes behind that.
HELD_BACK_FOR_KEYS_MS = 2000
_AROUND_KEY_NS = 30_000_000  # its edges are known to some milliseconds
# Written in such pieces at least: each costs the same, however short it is.
_PIECE_MS = 100
_METERED_NS = 5_000_000_000  # so long somebody looks at the levels
_LOOK_S = 0.2  # each look into the lane costs the same, however many blocks are in it
# Frames still missing this long after they should have been captured are not coming: the codec is away.
_OVERDUE_NS = 2_000_000_000
_READ = 65_536  # frames
_LEAF = 32  # octets


@dataclass(slots=True, eq=False)
class _Open:
    """A file that is being written."""

    start: StartRecording
    path: Path
    name: str
    file: soundfile.SoundFile
    descriptor: int
    first: int  # index of its first frame
    next: int  # index of the frame to be written next
    from_ns: int
    up: int  # index of the first frame whose level counts
    leaves: Leaves
    meter: Meter
    sealed: SealedWriter | None
    held: list[bytes]  # leaves that are not in the sealed file yet
    noted: int = 0  # those that are
    handed: int = 0  # index up to which its sound was handed to the disk
    stop: int | None = None  # index after its last frame, once known
    gaps: list[Gap] = field(default_factory=list)
    muted: list[Gap] = field(default_factory=list)
    filled: int = 0  # frames of silence among them that were not captured
    synced_ns: int = 0
    failed: str | None = None  # why nothing more can be written
    cut_short: str | None = None


class Recorder:
    """Feed it with blocks and commands in any order of arrival. post takes RecordingReady and RecordingFailed.

    directory: the unit's data directory; files go to recordings/YYYY-MM below it. owner: files are sealed to this key.
    tags: what goes into a file's header (TAGS), by line and time of the first frame. held_back_ms: so long sound waits
    before it goes to a file, for what is told of it late.
    Thread: one at a time; RecorderThread gives it its own.
    """

    def __init__(
        self,
        directory: Path,
        rate_hz: int,
        ring_s: float,
        sync_s: float,
        audio_delay_ms: int,
        post: Callable[[RecordingReady | RecordingFailed], None],
        owner: X25519PublicKey | None = None,
        tags: Callable[[int, int], Mapping[str, str]] = lambda line, from_ns: {},
        held_back_ms: int = HELD_BACK_MS,
    ) -> None:
        self._directory, self._rate_hz, self._post, self._owner, self._tags = directory, rate_hz, post, owner, tags
        self._sync_ns = round(sync_s * 1e9)
        self._delay_ns = audio_delay_ms * 1_000_000
        self._frame_ns = 1_000_000_000 // rate_hz
        self._ring = bytearray(2 * round(ring_s * rate_hz))
        self._frames = len(self._ring) // 2
        self._held_back, self._piece = rate_hz * held_back_ms // 1000, rate_hz * _PIECE_MS // 1000
        self._end = 0  # index after the newest frame in the ring
        self._anchor: tuple[int, int] | None = None  # (index, ns) of a frame near the end
        self._drift_ppm: int | None = None
        self._ahead = 0  # frames of silence already put in for a codec that is away
        self._open: list[_Open] = []  # the last may have begun while the one before still waits for its last frames
        self._waiting: list[StartRecording] = []  # nothing captured yet
        # Stretches of time whose sound goes into no file, and who wants that; oldest first.
        self._mutes: list[tuple[int, int | None, str | None]] = []

    def take(self, block: AudioBlock) -> None:
        """One block of sound."""
        paid = min(self._ahead, block.lost_frames)
        self._ahead = 0
        if self._anchor is not None:
            self._silence(block.lost_frames - paid)
        self._drift_ppm = block.drift_ppm
        at_ns = block.at_ns - self._delay_ns
        if self._anchor is None and self._waiting:
            # A call was up before the codec was: what is missing in front is silence as well.
            missing = max(0, (at_ns - self._waiting[0].from_ns) // self._frame_ns)
            self._anchor = (0, at_ns - missing * self._frame_ns)
            self._start(self._waiting.pop())
            self._silence(missing)
        self._anchor = (self._end, at_ns)
        self._append(memoryview(block.pcm))

    def obey(self, command: StartRecording | StopRecording | Mute | MuteKey) -> None:
        if isinstance(command, Mute):
            self._mute(command)
        elif isinstance(command, MuteKey):
            self._mute_key(command.from_ns - _AROUND_KEY_NS, command.until_ns + _AROUND_KEY_NS)
        elif isinstance(command, StartRecording):
            if self._anchor is None:
                self._waiting = [command]  # at most one call is up; an older start was stopped
            else:
                self._start(command)
        else:
            self._stop(command)

    def _mute(self, command: Mute) -> None:
        """One pause at a time; what lies further back than the ring is nobody's any more."""
        cut = [(start, command.at_ns if end is None else min(end, command.at_ns), by) for start, end, by in self._mutes]
        self._mutes = [(start, end, by) for start, end, by in cut if start < end]
        self._forget_mutes(command.at_ns)
        if command.from_ns is not None:
            self._mutes.append((command.from_ns, command.until_ns, command.by))

    def _mute_key(self, from_ns: int, until_ns: int) -> None:
        self._forget_mutes(until_ns)
        paused = any(start <= from_ns and (end is None or until_ns <= end) for start, end, _ in self._mutes)
        if not paused:
            self._mutes.append((from_ns, until_ns, KEYS))

    def _forget_mutes(self, now_ns: int) -> None:
        oldest_ns = now_ns - 2 * self._frames * self._frame_ns
        self._mutes = [(start, end, by) for start, end, by in self._mutes if end is None or oldest_ns < end]

    def tick(self, now_ns: int) -> None:
        """Let time pass: ends a file whose last frames are not coming, and syncs."""
        for writing in list(self._open):
            if writing not in self._open:
                continue  # ended by the silence that another one waited for
            if writing.stop is not None and now_ns - self._time_of(writing.stop) > _OVERDUE_NS:
                missing = max(0, writing.stop - self._end)
                self._ahead += missing
                self._silence(missing)
            elif writing.failed is None and now_ns - writing.synced_ns > self._sync_ns:
                writing.synced_ns = now_ns
                try:
                    if writing.sealed:
                        writing.sealed.flush()
                    os.fdatasync(writing.descriptor)
                    self._keep_reserve()
                except OSError as error:
                    self._fail(writing, error)

    def close(self) -> None:
        """End the unit: what is open is closed as it is, and reported."""
        for writing in self._open:
            if writing.stop is None or writing.stop > self._end:
                writing.cut_short = "the unit was stopped"
                writing.stop = max(self._end, writing.next)
        self._write()

    # -- frames

    def _time_of(self, index: int) -> int:
        if self._anchor is None:
            raise RuntimeError("no frame yet")
        return self._anchor[1] + (index - self._anchor[0]) * self._frame_ns

    def _index_of(self, at_ns: int) -> int:
        if self._anchor is None:
            raise RuntimeError("no frame yet")
        return self._anchor[0] + (at_ns - self._anchor[1]) // self._frame_ns

    def _append(self, pcm: memoryview) -> None:
        """Put frames into the ring, at most a quarter of it at a time, and write what a file wants of them."""
        step = self._frames // 4 * 2
        for at in range(0, len(pcm), step):
            part = pcm[at : at + step]
            where = self._end % self._frames * 2
            room = min(len(part), len(self._ring) - where)
            self._ring[where : where + room] = part[:room]
            self._ring[: len(part) - room] = part[room:]
            self._end += len(part) // 2
            self._write()

    def _silence(self, frames: int) -> None:
        """Frames that were not captured: silence of the same length, kept account of."""
        if frames <= 0:
            return
        for writing in self._open:
            first, last = max(self._end, writing.first), self._end + frames
            last = min(last, writing.stop) if writing.stop is not None else last
            if last > first:
                gap = Gap(at_s=(first - writing.first) / self._rate_hz, duration_s=(last - first) / self._rate_hz)
                writing.gaps.append(gap)
                writing.filled += last - first
        if not self._open and frames > self._frames:  # away for long, nothing recorded: the ring is all silence
            self._ring[:] = bytes(len(self._ring))
            self._end += frames
            return
        quarter = memoryview(bytes(self._frames // 4 * 2))
        while frames > 0:
            self._append(quarter[: frames * 2])
            frames -= len(quarter) // 2

    # -- files

    def _start(self, start: StartRecording) -> None:
        first = max(self._index_of(start.from_ns), 0, self._end - self._frames)
        name = f"recordings/{_month(start.call_id)}/{start.call_id}.flac{SUFFIX if self._owner else ''}"
        path = self._directory / name
        descriptor = -1
        try:
            for folder in (path.parent.parent, path.parent):
                if not folder.exists():
                    folder.mkdir(mode=0o700, exist_ok=True)
                    _sync_directory(folder.parent)  # or a power cut could take a month's first recordings
            self._keep_reserve()
            descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600)
            sealed = SealedWriter(descriptor, self._owner) if self._owner else None
            held: list[bytes] = []
            leaves = Leaves(self._rate_hz, completed=held.append if sealed else None)
            if sealed:
                sealed.note(_json({"from_ns": self._time_of(first), "rate_hz": self._rate_hz}))
            file = soundfile.SoundFile(
                sealed or os.dup(descriptor),
                "w",
                self._rate_hz,
                1,
                "PCM_16",
                format="FLAC",
                compression_level=COMPRESSION,
            )
            file.title, file.comment = start.call_id, _COMMENT.format(self._time_of(first), leaves.seed.hex())
            for tag, text in self._tags(start.line, self._time_of(first)).items():
                setattr(file, tag, text)
            _sync_directory(path.parent)
        except (OSError, soundfile.SoundFileError) as error:
            if descriptor >= 0:
                os.close(descriptor)
                path.unlink(missing_ok=True)  # there is no sound in it
            self._post_failure(
                start, f"the file {name} could not be made ({_why(error)}); free space or mend the card."
            )
            return
        from_ns = self._time_of(first)
        up, meter = self._index_of(start.up_ns), Meter(self._rate_hz)
        self._open.append(
            _Open(start, path, name, file, descriptor, first, first, from_ns, up, leaves, meter, sealed, held)
        )
        self._write()

    def _keep_reserve(self) -> None:
        """The last room on the card is for the records of calls, which matter more than their sound."""
        room = os.statvfs(self._directory)
        if room.f_bavail * room.f_frsize < _RESERVE_BYTES:
            raise OSError(errno.ENOSPC, f"less than {_RESERVE_BYTES // 1_000_000} MB are free")

    def _write(self) -> None:
        for writing in list(self._open):
            self._write_to(writing)

    def _write_to(self, writing: _Open) -> None:
        until = self._end - self._held_back if writing.stop is None else min(self._end, writing.stop)
        if writing.stop is None and until - writing.next < self._piece:
            return
        while writing.next < until:
            where = writing.next % self._frames
            count = min(until - writing.next, self._frames - where)
            if writing.failed is None:
                pcm = self._ring[where * 2 : (where + count) * 2]
                for start, end, by in self._mutes:
                    self._silence_in(pcm, writing, start, end, by)
                try:
                    writing.file.buffer_write(pcm, "int16")
                    writing.leaves.feed(pcm)
                    writing.meter.feed(pcm[2 * max(0, writing.up - writing.next) :])
                    if writing.sealed and writing.sealed.failed:
                        raise writing.sealed.failed
                except (OSError, soundfile.SoundFileError) as error:
                    self._fail(writing, error)
            writing.next += count
        if writing.sealed and writing.next - writing.handed >= self._rate_hz // 4:
            self._hand_over(writing, writing.sealed)
        if writing.stop is not None and writing.next >= writing.stop:
            self._finish(writing)

    def _hand_over(self, writing: _Open, sealed: SealedWriter) -> None:
        """Let the disk have what was heard, and the leaves of which all sound has left FLAC's encoder: a process that
        dies then has lost no more of a sealed file than of any other.
        """
        sealed.flush()
        writing.handed = writing.next
        certain = writing.next - writing.first - _ENCODER_FRAMES
        if not writing.noted and 0 < certain < self._rate_hz:
            sealed.note(_json({"frames": certain}))  # of a first second that does not get full
        while writing.held and (writing.noted + 1) * self._rate_hz <= certain:
            sealed.note(writing.held.pop(0))
            writing.noted += 1

    def _silence_in(self, pcm: bytearray, writing: _Open, start_ns: int, end_ns: int | None, by: str | None) -> None:
        """Take the muted stretch out of frames that begin with the file's next one."""
        count = len(pcm) // 2
        first = max(self._index_of(start_ns) - writing.next, 0)
        last = count if end_ns is None else min(self._index_of(end_ns) - writing.next, count)
        if first >= last:
            return
        pcm[first * 2 : last * 2] = bytes((last - first) * 2)
        at_s = (writing.next + first - writing.first) / self._rate_hz
        before = writing.muted[-1] if writing.muted else None
        lasts_s = (last - first) / self._rate_hz
        if before and before.by == by and abs(before.at_s + before.duration_s - at_s) * self._rate_hz < 1:
            writing.muted[-1] = Gap(at_s=before.at_s, duration_s=before.duration_s + lasts_s, by=by)
        else:
            writing.muted.append(Gap(at_s=at_s, duration_s=lasts_s, by=by))

    def _fail(self, writing: _Open, error: Exception) -> None:
        writing.failed = f"it could not be written any more ({_why(error)})"
        log.warning("event=recording_cut call=%s reason=%s", writing.start.call_id, _why(error))

    def _stop(self, command: StopRecording) -> None:
        """End the file with the frame before until_ns, as soon as that frame is here."""
        waiting = [start for start in self._waiting if start.call_id == command.call_id]
        if waiting:
            self._waiting.remove(waiting[0])
            if command.keep:
                self._post_failure(waiting[0], "no sound came from the codec; check its cable and `tsuroku doctor`.")
            return
        writing = next((each for each in self._open if each.start.call_id == command.call_id), None)
        if writing is None:
            return
        if not command.keep:
            self._open.remove(writing)
            self._discard(writing)
            return
        writing.stop = max(self._index_of(command.until_ns), writing.first)
        self._write_to(writing)

    def _discard(self, writing: _Open) -> None:
        try:
            writing.file.close()
        except soundfile.SoundFileError:
            pass  # the file goes anyway
        os.close(writing.descriptor)
        try:
            writing.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("event=discard_failed call=%s reason=%s", writing.start.call_id, error.strerror)

    def _finish(self, writing: _Open) -> None:
        self._open.remove(writing)
        root: bytes | None
        frames, root = writing.next - writing.first, writing.leaves.root()
        try:
            try:
                writing.file.close()  # writes the last block and the header
                if writing.sealed:
                    writing.sealed.finish(_json({"frames": frames, "root": writing.leaves.root().hex()}))
                elif writing.failed is None and frames:
                    _look_at_the_end(writing.path, frames)
                os.fsync(writing.descriptor)
            except (OSError, soundfile.SoundFileError) as error:
                self._fail(writing, error)
            finally:
                os.close(writing.descriptor)
            levels: Levels | None = writing.meter.levels()
            if writing.failed:
                frames, root = self._left_of(writing)
                levels = None if writing.sealed else levels_of(writing.path, max(0, writing.up - writing.first))
            if not frames or frames <= writing.filled:
                writing.path.unlink()
                no_sound = "no sound came from the codec; check its cable and `tsuroku doctor`."
                self._post_failure(writing.start, f"{writing.failed}." if writing.failed else no_sound)
                return
            size, digest = fingerprint(writing.path)
        except (OSError, soundfile.SoundFileError) as error:
            _remove_if_empty(writing.path)
            self._post_failure(writing.start, f"the file {writing.name} could not be closed ({_why(error)}).")
            return
        self._post(
            RecordingReady(
                at_ns=self._time_of(writing.next),
                line=writing.start.line,
                call_id=writing.start.call_id,
                path=writing.name,
                from_ns=writing.from_ns,
                frames=frames,
                rate_hz=self._rate_hz,
                size_bytes=size,
                sha256=digest,
                root=root.hex() if root else None,
                gaps=tuple(writing.gaps),
                muted=tuple(writing.muted),
                cut_short=writing.failed or writing.cut_short,
                levels=levels,
                drift_ppm=self._drift_ppm,
            )
        )

    def _left_of(self, writing: _Open) -> tuple[int, bytes | None]:
        """Frames and root of a file that could not be written to its end; of a cut one, a copy as far as it goes.

        Without room for a copy the file itself is what is left, and nothing proves its seconds.
        """
        if writing.sealed:
            told = told_outside(writing.path)
            return told.frames, told.root
        frames, _, whole = copied(writing.path, None)  # its header tells of frames that the disk did not take
        if frames and not whole:
            copy = writing.path.with_suffix(".repaired.flac")
            try:
                copied(writing.path, copy)
                writing.path, writing.name = copy, str(Path(writing.name).with_suffix(".repaired.flac"))
            except (OSError, soundfile.SoundFileError):
                copy.unlink(missing_ok=True)
                return frames, None
        return frames, root_of_file(writing.path) if frames else None

    def _post_failure(self, start: StartRecording, reason: str) -> None:
        log.warning("event=recording_failed call=%s reason=%s", start.call_id, reason)
        at_ns = start.from_ns if self._anchor is None else self._time_of(self._end)
        self._post(RecordingFailed(at_ns=at_ns, line=start.line, call_id=start.call_id, reason=reason))


class RecorderThread:
    """Gives a Recorder its thread and its lane: a queue of blocks and commands that nobody waits on.

    take() is made for an audio callback: it takes no lock, wakes nobody and never blocks. The thread looks into its
    lane a few times a second, and at once for a command. A lane longer than lane_blocks (a card that stalls for that
    long) drops blocks; they are counted, and filled with silence when the lane moves on.
    """

    def __init__(self, recorder: Recorder, lane_blocks: int = 1200) -> None:
        self._recorder = recorder
        self._lane: queue.SimpleQueue[AudioBlock | StartRecording | StopRecording | Mute | MuteKey | None] = (
            queue.SimpleQueue()
        )
        self._lane_blocks = lane_blocks
        self._called = threading.Event()
        self._dropped = 0
        self._metered_ns = self._peak = 0
        self.beat_ns = time.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self, block: AudioBlock) -> None:
        """Thread: the codec's callback."""
        if self._lane.qsize() > self._lane_blocks:
            self._dropped += len(block.pcm) // 2 + block.lost_frames
            return
        if self._dropped:
            lost, self._dropped = self._dropped, 0
            block = AudioBlock(
                at_ns=block.at_ns, pcm=block.pcm, lost_frames=block.lost_frames + lost, drift_ppm=block.drift_ppm
            )
        self._lane.put(block)

    def obey(self, command: StartRecording | StopRecording | Mute | MuteKey) -> None:
        """Thread: any but the codec's."""
        self._lane.put(command)
        self._called.set()

    def peak(self) -> int:
        """The loudest sample since this was asked last, which was a few seconds ago at most, or 0. Thread: any."""
        peak, self._peak, self._metered_ns = self._peak, 0, time.monotonic_ns()
        return peak

    def close(self) -> None:
        """Close what is open and end the thread. Waits for it."""
        self._lane.put(None)
        self._called.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            self._called.wait(_LOOK_S)
            self._called.clear()
            self.beat_ns = time.monotonic_ns()
            while not self._lane.empty():  # nobody else takes anything out
                item = self._lane.get()
                if item is None:
                    self._recorder.close()
                    return
                if isinstance(item, AudioBlock):
                    self._recorder.take(item)
                    if self.beat_ns - self._metered_ns < _METERED_NS:
                        loud = np.abs(np.frombuffer(item.pcm, np.int16).astype(np.int32))
                        self._peak = max(self._peak, int(loud.max(initial=0)))
                else:
                    self._recorder.obey(item)
                self.beat_ns = time.monotonic_ns()
            self._recorder.tick(self.beat_ns)


def _look_at_the_end(path: Path, frames: int) -> None:
    """libsndfile says nothing of a last block that the disk did not take. Raises OSError, SoundFileError."""
    with soundfile.SoundFile(path) as file:
        file.seek(frames - 1)
        if len(file.buffer_read(1, "int16")) != 2:
            raise OSError(errno.ENOSPC, "the disk takes no more")


def started_ns(path: Path, otherwise_ns: int) -> int:
    """When a recording begins on the capture clock of its boot, from its tags."""
    try:
        with soundfile.SoundFile(path) as file:
            comment = str(file.comment)
    except soundfile.SoundFileError:
        return otherwise_ns
    found = _IN_COMMENT.fullmatch(comment)
    return int(found[1]) if found else otherwise_ns


def fingerprint(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file, read once."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


@dataclass(frozen=True, slots=True)
class Told:
    """What a sealed recording tells of itself without its key. Of a cut one: its whole seconds; of one that has none,
    so much as is certain, and root None.
    """

    from_ns: int
    rate_hz: int
    frames: int
    root: bytes | None
    whole: bool


def told_outside(path: Path) -> Told:
    """Raises OSError, SealError (also where it was cut before it told anything)."""
    with path.open("rb") as file:
        known = outside(file)
    if not known.notes:
        raise SealError("It was cut in its head.")
    try:
        head = json.loads(known.notes[0])
        leaves = [note for note in known.notes[1:] if len(note) == _LEAF]
        frames: int = len(leaves) * head["rate_hz"]
        root = root_of(leaves) if leaves else None
        if not leaves and known.notes[1:]:
            frames = json.loads(known.notes[-1])["frames"]
        if known.last is not None:
            last = json.loads(known.last)
            frames, root = last["frames"], bytes.fromhex(last["root"])
        return Told(head["from_ns"], head["rate_hz"], frames, root, known.last is not None)
    except (ValueError, KeyError, TypeError) as error:
        raise SealError("What it tells of itself is damaged.") from error


def _json(value: dict[str, int | str]) -> bytes:
    return json.dumps(value).encode()


def seed_in(path: Path) -> bytes | None:
    """Of a recording's leaves. None: an old version made it. Raises SoundFileError."""
    with soundfile.SoundFile(path) as file:
        found = _IN_COMMENT.fullmatch(str(file.comment))
    return bytes.fromhex(found[2]) if found and found[2] else None


def root_of_file(path: Path) -> bytes | None:
    """Of the hash tree of a file that can be read to its end. None: it holds no seed, since an old version made it.

    Raises OSError, SoundFileError.
    """
    seed = seed_in(path)
    if seed is None:
        return None
    with soundfile.SoundFile(path) as file:
        leaves = Leaves(file.samplerate, seed)
        while len(pcm := file.buffer_read(_READ, "int16")):
            leaves.feed(pcm)
    return leaves.root()


def _month(call_id: str) -> str:
    """The month that a call's UUIDv7 was made in: its first 48 bits are Unix milliseconds."""
    at = time.gmtime(int(call_id.replace("-", "")[:12], 16) / 1000)
    return time.strftime("%Y-%m", at)


def _why(error: Exception) -> str:
    """libsndfile says of a failed write what its decoder would say, and never what the disk said."""
    return (error.strerror if isinstance(error, OSError) else None) or "the disk takes no more"


def _remove_if_empty(path: Path) -> None:
    try:
        if path.stat().st_size == 0:
            path.unlink()
    except OSError:
        pass  # it is not there, or the card lets nobody remove it


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
