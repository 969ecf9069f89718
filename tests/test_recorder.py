"""The recorder: exact frames out of a ring, gaps that are counted, files that survive."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pytest_mock import MockerFixture

from drivers.signals import AudioBlock
from firmware.core.call import Call, ClockRead
from firmware.core.facts import RecordingFailed, RecordingReady
from firmware.core.line import Mute, StartRecording, StopRecording
from firmware.recording.leaves import Leaves
from firmware.recording.levels import levels_of
from firmware.recording.recorder import Recorder, RecorderThread, told_outside
from firmware.recording.repair import repair
from firmware.recording.sealed import unsealed

RATE = 8000
FRAME = 125_000  # ns
T0 = 5_000_000_000
CALL = "019abcde-0000-7000-8000-000000000001"


def noise(frames: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(frames * 2)


def root_of(seed: str, pcm: bytes) -> str:
    leaves = Leaves(RATE, bytes.fromhex(seed))
    leaves.feed(pcm)
    return leaves.root().hex()


class Bench:
    """A recorder fed with a wire of known frames."""

    def __init__(self, directory: Path, wire_s: int = 60, ring_s: float = 30) -> None:
        self.wire = noise(wire_s * RATE)
        self.posted: list[RecordingReady | RecordingFailed] = []
        self.directory = directory
        self.recorder = Recorder(directory, RATE, ring_s, 5.0, 0, self.posted.append)
        self.at = 0

    def hear(self, until_s: float, block: int = 800) -> None:
        until = round(until_s * RATE)
        while self.at < until:
            end = min(self.at + block, until)
            self.take(self.at, end)

    def take(self, begin: int, end: int) -> None:
        pcm = self.wire[begin * 2 : end * 2]
        self.recorder.take(AudioBlock(at_ns=T0 + begin * FRAME, pcm=pcm, lost_frames=begin - self.at))
        self.at = end
        self.recorder.tick(T0 + end * FRAME)

    def start(self, from_s: float, up_s: float | None = None) -> None:
        from_ns, up_ns = (T0 + round(each * 1e9) for each in (from_s, from_s if up_s is None else up_s))
        self.up = max(0, round(((up_s or from_s) - from_s) * RATE))
        self.recorder.obey(StartRecording(line=1, call_id=CALL, from_ns=from_ns, up_ns=up_ns))

    def stop(self, until_s: float, keep: bool = True) -> None:
        self.recorder.obey(StopRecording(line=1, call_id=CALL, until_ns=T0 + round(until_s * 1e9), keep=keep))

    def ready(self) -> RecordingReady:
        (fact,) = self.posted
        assert isinstance(fact, RecordingReady)
        return fact

    def pcm(self) -> bytes:
        """Of the file; its root is that of the sound in it."""
        fact = self.ready()
        with soundfile.SoundFile(self.directory / fact.path) as file:
            pcm = bytes(file.buffer_read(dtype="int16"))
            seed = str(file.comment)[-64:]
        assert fact.root == root_of(seed, pcm)
        assert fact.levels == levels_of(self.directory / fact.path, self.up) is not None
        return pcm


@pytest.mark.parametrize("block", [1, 7, 160, 800, 4000])
def test_a_file_holds_exactly_the_frames_asked_for(tmp_path: Path, block: int) -> None:
    bench = Bench(tmp_path, 12)
    bench.hear(6.0, block)
    bench.start(1.25)
    bench.hear(8.7, block)
    bench.stop(8.5)
    assert bench.pcm() == bench.wire[round(1.25 * RATE) * 2 : round(8.5 * RATE) * 2]
    fact = bench.ready()
    assert (fact.from_ns, fact.frames, fact.gaps) == (T0 + 1_250_000_000, 58_000, ())
    assert (tmp_path / fact.path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("block", [7, 800])
def test_the_level_of_a_ring_before_the_lift_does_not_count(tmp_path: Path, block: int) -> None:
    bench = Bench(tmp_path, 12)
    bench.wire = b"\xff\x7f" * (6 * RATE) + bench.wire[6 * RATE * 2 :]  # it rings up to 6 s
    bench.hear(6.5, block)
    bench.start(1.25, up_s=6.0)
    bench.hear(12, block)
    bench.stop(11)
    bench.pcm()
    levels = bench.ready().levels
    assert levels is not None and levels.clipped < 0.001


def test_a_stop_ahead_of_the_sound_waits_for_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hear(3)
    bench.start(2)
    bench.stop(4.0001)
    assert not bench.posted
    bench.hear(6)
    assert bench.pcm() == bench.wire[2 * RATE * 2 : (4 * RATE) * 2]


def test_a_start_ahead_of_the_sound_begins_where_it_should(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hear(3)
    bench.start(3.5)
    bench.hear(5.2)
    bench.stop(5)
    assert bench.pcm() == bench.wire[round(3.5 * RATE) * 2 : 5 * RATE * 2]


def test_a_pre_roll_older_than_the_ring_begins_at_its_oldest_frame(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ring_s=20)
    bench.hear(40)
    bench.start(5)
    bench.stop(40)
    assert bench.ready().from_ns == T0 + 20 * 10**9
    assert bench.pcm() == bench.wire[20 * RATE * 2 : 40 * RATE * 2]


def test_lost_frames_become_silence_of_the_same_length(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hear(3)
    bench.start(2)
    bench.hear(4)
    bench.take(5 * RATE, 6 * RATE)  # a second went missing
    bench.hear(7.2)
    bench.stop(7)
    wire = bench.wire[2 * RATE * 2 : 4 * RATE * 2] + bytes(RATE * 2) + bench.wire[5 * RATE * 2 : 7 * RATE * 2]
    assert bench.pcm() == wire
    (gap,) = bench.ready().gaps
    assert (gap.at_s, gap.duration_s) == (2.0, 1.0)


def test_a_codec_that_stays_away_ends_the_file_in_silence_of_true_length(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hear(3)
    bench.start(2)
    bench.hear(4)
    bench.stop(10)
    bench.recorder.tick(T0 + 13 * 10**9)
    assert bench.ready().frames == 8 * RATE
    assert [(g.at_s, g.duration_s) for g in bench.ready().gaps] == [(2.0, 6.0)]
    # Back again: the time away is not counted twice.
    bench.posted.clear()
    bench.take(20 * RATE, 21 * RATE)
    bench.start(20)
    bench.stop(21)
    assert bench.pcm() == bench.wire[20 * RATE * 2 : 21 * RATE * 2]


def test_away_for_an_hour_between_calls_costs_no_hour(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hear(3)
    pcm = noise(RATE)
    bench.recorder.take(AudioBlock(at_ns=T0 + 3_603_000_000_000, pcm=pcm, lost_frames=3600 * RATE))
    bench.start(3603)
    bench.stop(3604)
    assert bench.pcm() == pcm


def test_no_sound_at_all_is_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.start(0)
    bench.stop(5)
    (fact,) = bench.posted
    assert isinstance(fact, RecordingFailed) and "codec" in fact.reason


def test_what_is_not_kept_leaves_no_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hear(3)
    bench.start(1)
    bench.hear(4)
    bench.stop(4, keep=False)
    assert not bench.posted
    assert not list(tmp_path.rglob("*.flac"))


def test_the_same_call_may_start_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hear(3)
    bench.start(1)
    bench.stop(3, keep=False)
    bench.hear(5)
    bench.start(4)
    bench.stop(5)
    assert bench.pcm() == bench.wire[4 * RATE * 2 : 5 * RATE * 2]


def test_the_unit_stops_in_mid_call(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hear(3)
    bench.start(1)
    bench.hear(5)
    bench.recorder.close()
    assert bench.ready().cut_short == "the unit was stopped"
    assert bench.pcm() == bench.wire[1 * RATE * 2 : 5 * RATE * 2]


def test_audio_delay_moves_the_sound_to_its_edge(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.recorder = Recorder(tmp_path, RATE, 30, 5.0, 50, bench.posted.append)
    bench.hear(2.2)
    bench.start(1)
    bench.stop(2)
    assert bench.pcm() == bench.wire[round(1.05 * RATE) * 2 : round(2.05 * RATE) * 2]


def test_a_full_card_keeps_what_was_written(tmp_path: Path, mocker: MockerFixture) -> None:
    bench = Bench(tmp_path)
    bench.hear(3)
    bench.start(1)
    bench.hear(6)
    mocker.patch("os.fdatasync", side_effect=OSError(28, "No space left on device"))
    bench.hear(20)
    bench.stop(15)
    fact = bench.ready()
    assert fact.cut_short is not None and "No space left" in fact.cut_short
    assert bench.pcm() == bench.wire[1 * RATE * 2 :][: fact.frames * 2]
    assert fact.frames >= 4 * RATE


def test_a_folder_that_cannot_be_written_fails_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "recordings").write_text("in the way")
    bench = Bench(tmp_path)
    bench.hear(3)
    bench.start(1)
    bench.stop(3)
    (fact,) = bench.posted
    assert isinstance(fact, RecordingFailed) and "could not be made" in fact.reason


def test_a_lane_that_overflows_counts_what_it_drops(tmp_path: Path) -> None:
    posted: list[RecordingReady | RecordingFailed] = []
    wire = noise(10 * RATE)
    lane = RecorderThread(Recorder(tmp_path, RATE, 30, 5.0, 0, posted.append), lane_blocks=20)
    lane.obey(StartRecording(line=1, call_id=CALL, from_ns=T0, up_ns=T0))
    for n in range(60):  # nobody takes them yet: 21 fit in behind the command
        if n == 50:
            lane.start()
            while lane._lane.qsize():
                pass
        at = n * 800
        lane.take(AudioBlock(at_ns=T0 + at * FRAME, pcm=wire[at * 2 : (at + 800) * 2]))
    lane.obey(StopRecording(line=1, call_id=CALL, until_ns=T0 + 48_000 * FRAME, keep=True))
    lane.close()
    (fact,) = posted
    assert isinstance(fact, RecordingReady)
    assert fact.frames == 48_000
    assert sum(gap.duration_s for gap in fact.gaps) == pytest.approx(3.0)


# -- repair


def open_call(call_id: str = CALL) -> Call:
    read = ClockRead(mono_ns=0, wall_ns=0, state="ntp")
    return Call(call_id=call_id, line=1, direction="incoming", boot_id="b", clock=read, opened_ns=1, answered_ns=2)


CHILD = """
import os, random, sys
from pathlib import Path
from drivers.signals import AudioBlock
from firmware.core.line import StartRecording
from firmware.recording.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]), 8000, 30, 5.0, 0, print)
wire = random.Random(1).randbytes(60 * 16000)
for at in range(0, 40 * 8000, 800):
    if at == 16000:
        from_ns = 5_000_000_000 + 8000 * 125_000
        recorder.obey(StartRecording(line=1, call_id=sys.argv[2], from_ns=from_ns, up_ns=from_ns))
    recorder.take(AudioBlock(at_ns=5_000_000_000 + at * 125_000, pcm=wire[at * 2 : at * 2 + 1600]))
    recorder.tick(5_000_000_000 + at * 125_000)
    if at >= int(sys.argv[3]):
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("killed_at", [16_800, 20_000, 33_333, 100_000])
def test_kill_9_leaves_all_but_the_last_second(tmp_path: Path, killed_at: int) -> None:
    child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), CALL, str(killed_at)], check=False)
    assert child.returncode == -signal.SIGKILL
    (original,) = tmp_path.rglob("*.flac")
    before = original.read_bytes()
    ready, repaired = repair(tmp_path, open_call(), at_ns=7)
    assert ready is not None and repaired
    assert original.read_bytes() == before
    assert ready.path.endswith(".repaired.flac")
    assert ready.from_ns == T0 + 8000 * FRAME
    wire = noise(60 * RATE)
    with soundfile.SoundFile(tmp_path / ready.path) as file:
        assert file.frames == ready.frames
        pcm = bytes(file.buffer_read(dtype="int16"))
    heard = killed_at // 800 * 800 + 800 - 8000
    assert heard - ready.frames < RATE
    assert pcm == wire[8000 * 2 : (8000 + ready.frames) * 2]


@pytest.mark.parametrize("left", [0, 3, 60, 5000])
def test_a_file_cut_at_any_byte_never_raises(tmp_path: Path, left: int) -> None:
    bench = Bench(tmp_path)
    bench.hear(10)
    bench.start(1)
    bench.stop(9)
    path = tmp_path / bench.ready().path
    os.truncate(path, left)
    ready, repaired = repair(tmp_path, open_call(), at_ns=7)
    if left == 5000:
        assert ready is not None and repaired and ready.frames > 0
    else:
        assert ready is None


def test_a_whole_file_is_taken_as_it_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hear(10)
    bench.start(1)
    bench.stop(9)
    ready, repaired = repair(tmp_path, open_call(), at_ns=7)
    assert ready is not None and not repaired
    assert (ready.path, ready.frames, ready.sha256) == (
        bench.ready().path,
        bench.ready().frames,
        bench.ready().sha256,
    )


def test_no_file_is_no_recording(tmp_path: Path) -> None:
    assert repair(tmp_path, open_call(), at_ns=7) == (None, False)


def test_a_repair_on_a_full_card_files_nothing(tmp_path: Path, mocker: MockerFixture) -> None:
    bench = Bench(tmp_path)
    bench.hear(10)
    bench.start(1)
    bench.hear(9.2)
    bench.stop(9)
    path = tmp_path / bench.ready().path
    os.truncate(path, path.stat().st_size * 9 // 10)
    write = soundfile.SoundFile.buffer_write
    written = iter(range(10**6))

    def full(self: soundfile.SoundFile, pcm: bytes, dtype: str) -> None:
        if next(written) > 100:
            raise soundfile.LibsndfileError(2, "System error. ")
        write(self, pcm, dtype)

    mocker.patch.object(soundfile.SoundFile, "buffer_write", full)
    with pytest.raises(OSError, match="System error"):
        repair(tmp_path, open_call(), at_ns=7)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def silent(wire: bytes, *stretches: tuple[float, float]) -> bytes:
    """The wire with stretches of seconds made silent."""
    out = bytearray(wire)
    for begin, end in stretches:
        out[round(begin * RATE) * 2 : round(end * RATE) * 2] = bytes((round(end * RATE) - round(begin * RATE)) * 2)
    return bytes(out)


@pytest.mark.parametrize("block", [7, 160, 4000])
def test_a_pause_is_silence_of_the_true_length_and_is_told(tmp_path: Path, block: int) -> None:
    bench = Bench(tmp_path)
    bench.hear(3.0, block)
    bench.start(2)
    bench.hear(4.0, block)
    now = T0 + 4 * 10**9
    bench.recorder.obey(Mute(from_ns=now, until_ns=T0 + round(6.25 * 1e9), at_ns=now, by="button"))
    bench.hear(8.0, block)
    now = T0 + 8 * 10**9
    bench.recorder.obey(Mute(from_ns=now, until_ns=now + 60 * 10**9, at_ns=now))
    bench.hear(8.5, block)
    bench.recorder.obey(Mute(from_ns=None, at_ns=T0 + round(8.5 * 1e9)))  # resumed before its time
    bench.hear(10.1, block)
    bench.stop(10)
    assert bench.pcm() == silent(bench.wire, (4, 6.25), (8, 8.5))[2 * RATE * 2 : 10 * RATE * 2]
    assert [(gap.at_s, round(gap.duration_s, 3)) for gap in bench.ready().muted] == [(2.0, 2.25), (6.0, 0.5)]
    assert bench.ready().gaps == (), "nothing was lost"


def test_a_pre_roll_from_within_a_pause_stays_silent(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hear(2)
    bench.recorder.obey(Mute(from_ns=T0 + 2 * 10**9, at_ns=T0 + 2 * 10**9))  # switched off
    bench.hear(10)
    bench.recorder.obey(Mute(from_ns=None, at_ns=T0 + 10 * 10**9))
    bench.hear(12)
    bench.start(7)
    bench.hear(14.1)
    bench.stop(14)
    assert bench.pcm() == silent(bench.wire, (2, 10))[7 * RATE * 2 : 14 * RATE * 2]
    assert [(gap.at_s, gap.duration_s) for gap in bench.ready().muted] == [(0.0, 3.0)]


def test_mutes_of_long_ago_are_forgotten(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for number in range(1000):
        at = T0 + number * 10 * 10**9
        bench.recorder.obey(Mute(from_ns=at, until_ns=at + 10**9, at_ns=at))
    assert len(bench.recorder._mutes) < 10


# sealed to the owner's key

OWNER = X25519PrivateKey.generate()


class Sealed(Bench):
    def __init__(self, directory: Path, **options: int) -> None:
        super().__init__(directory, **options)
        self.recorder = Recorder(directory, RATE, 30, 5.0, 0, self.posted.append, OWNER.public_key())

    def path(self) -> Path:
        (path,) = (self.directory / "recordings").glob("*/*.flac.sealed")
        return path

    def plain(self) -> bytes:
        """As far as it can be played."""
        with self.path().open("rb") as file:
            (self.directory / "plain.flac").write_bytes(unsealed(file, OWNER).read())
        command = "flac -dcs -F --force-raw-format --endian=little --sign=signed plain.flac"
        whole = subprocess.run(command.split(), cwd=self.directory, capture_output=True, check=False)
        with soundfile.SoundFile(self.directory / "plain.flac") as sound:
            self.seed = str(sound.comment)[-64:]
        return whole.stdout


def test_a_sealed_file_is_filed_like_any_other_and_holds_the_same(tmp_path: Path) -> None:
    bench = Sealed(tmp_path)
    bench.hear(6)
    bench.start(1.25)
    bench.hear(8.7)
    bench.stop(8.5)
    fact = bench.ready()
    assert fact.path.endswith(f"{CALL}.flac.sealed") and fact.frames == 58_000
    pcm = bench.wire[round(1.25 * RATE) * 2 : round(8.5 * RATE) * 2]
    assert bench.plain() == pcm and fact.root == root_of(bench.seed, pcm)
    assert pcm[4000:4020] not in bench.path().read_bytes()
    told = told_outside(bench.path())
    assert told.root
    assert (told.from_ns, told.frames, told.root.hex(), told.whole) == (fact.from_ns, 58_000, fact.root, True)


@pytest.mark.parametrize("silent", [False, True])
def test_a_sealed_file_that_was_cut_plays_to_within_a_second_and_tells_its_whole_seconds(
    tmp_path: Path, silent: bool
) -> None:
    bench = Sealed(tmp_path)
    if silent:
        bench.wire = bytes(len(bench.wire))
    bench.hear(6)
    bench.start(1)
    for until_s in (7.3, 9.9, 14.02, 21.6):
        bench.hear(until_s)  # and here it is killed
        heard = bench.wire[RATE * 2 : round(until_s * RATE) * 2]
        plain = bench.plain()
        assert heard.startswith(plain) and len(heard) - len(plain) < RATE * 2
        told = told_outside(bench.path())
        assert not told.whole and told.frames % RATE == 0 and 0 < told.frames <= len(plain) // 2
        assert len(heard) // 2 - told.frames < 1.7 * RATE
        assert told.root and told.root.hex() == root_of(bench.seed, plain[: told.frames * 2])


def test_a_disk_that_fills_up_leaves_a_sealed_file_that_says_how_far_it_goes(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    bench = Sealed(tmp_path)
    bench.hear(6)
    bench.start(1)
    bench.hear(10)
    mocker.patch("os.write", side_effect=OSError(errno.ENOSPC, "No space left on device"))
    bench.hear(14)
    mocker.stopall()
    bench.stop(13)
    bench.hear(15)
    fact = bench.ready()
    assert fact.cut_short == "it could not be written any more (No space left on device)"
    assert fact.frames % RATE == 0 and 7 * RATE <= fact.frames < 9 * RATE
    plain = bench.plain()
    assert fact.root == root_of(bench.seed, plain[: fact.frames * 2])
