"""The listener: the soft modems of all lines in a process of their own, on a copy of the sound.

Late or dead, it stops nothing else: blocks that it cannot take at once, or has not taken after 2 s, are dropped and
counted, and it is started again when it ended or hangs. `python -m drivers.listener` is that process; it ends with its
parent.
"""

from __future__ import annotations

import logging
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from drivers.signals import AudioBlock, Country, DeviceLost, DeviceReady, Signal

_log = logging.getLogger(__name__)

_HEAD = struct.Struct("<iqqq")  # line, at_ns, lost_frames, when it was sent; the frames follow
_LONGEST_BYTES = 1 << 18
_QUEUE_BYTES = 200_000  # of the kernel, which counts 1 kB and more for each block: seconds of sound
_NICE = 5
_BACK_OFF_S = (0.2, 1.0, 5.0, 30.0)
_PROVED_NS = 60_000_000_000  # a process that ran for so long was no failed start
_OLDEST_NS = 2_000_000_000  # what the process takes later is no news: a caller would be shown after the call
_BEAT_S = 1.0  # the process tells this often that it lives
_HANGS = 3  # beats that are missing


class Listener:
    """Posts what is heard on the lines. One supervising thread, `listener`, on which post is called.

    countries: of each line, by its number. audio_delay_ms: the sound arrives this late after its edge; taken off.
    """

    def __init__(
        self,
        countries: Mapping[int, Country],
        rate_hz: int,
        post: Callable[[Signal], None],
        *,
        audio_delay_ms: int = 0,
    ) -> None:
        self._countries, self._rate_hz, self._post = dict(countries), rate_hz, post
        self._delay_ns = audio_delay_ms * 1_000_000
        self._socket: socket.socket | None = None  # a queue of whole blocks that the kernel keeps, and signals back
        self._dropped = dict.fromkeys(countries, 0)  # frames that the next block must tell of
        self._refused = 0  # blocks, for the log
        self._lost = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="listener", daemon=True)

    def start(self) -> None:
        """Return at once; DeviceReady or DeviceLost of each line follows."""
        self._thread.start()

    def close(self) -> None:
        """End the process. Blocks may still be given; they go nowhere."""
        self._closing.set()
        given = self._socket
        if given is not None:
            given.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=5)

    def take(self, line: int, block: AudioBlock) -> None:
        """One block of a line's sound. Never blocks and never raises: made for an audio callback, one for each line."""
        given = self._socket
        lost = block.lost_frames + self._dropped[line]
        if given is not None:
            head = _HEAD.pack(line, block.at_ns - self._delay_ns, lost, time.monotonic_ns())
            try:
                given.send(head + block.pcm, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                self._dropped[line] = 0
                return
            except OSError:  # full: it is late; or broken: it ended, which the thread sees
                self._refused += 1
        self._dropped[line] = lost + len(block.pcm) // 2

    def _supervise(self) -> None:
        failures = 0
        while not self._closing.is_set():
            began_ns = time.monotonic_ns()
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                ended = self._run(here, there)
            except Exception as error:  # noqa: BLE001  the thread's outermost edge: supervision must go on
                ended = f"could not be run ({type(error).__name__}: {error})"
            self._socket = None
            there.close()
            if not self._closing.is_set():
                failures = 1 if time.monotonic_ns() - began_ns > _PROVED_NS else failures + 1
                self._lose(ended)
                self._closing.wait(_BACK_OFF_S[min(failures, len(_BACK_OFF_S)) - 1])
            here.close()  # only now: take() may have been about to use it

    def _run(self, here: socket.socket, there: socket.socket) -> str:
        """Run the process until it ends, which is told, or close() is called."""
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE_BYTES)
        lines = [f"{line}={country}" for line, country in self._countries.items()]
        process = subprocess.Popen(
            [sys.executable, "-m", "drivers.listener", str(there.fileno()), str(self._rate_hz), *lines],
            cwd=Path(__file__).parent.parent,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            pass_fds=(there.fileno(),),
        )
        there.close()
        try:
            return self._hear(here, process)
        finally:
            try:
                here.shutdown(socket.SHUT_RDWR)
                process.wait(timeout=2)
            except (OSError, subprocess.TimeoutExpired):
                process.kill()
                process.wait()

    def _hear(self, here: socket.socket, process: subprocess.Popen[bytes]) -> str:
        refused = self._refused
        missing = 0  # beats
        while not self._closing.is_set():
            late, signals = 0, []
            if select.select([here], [], [], _BEAT_S)[0]:
                missing = 0
                packet = here.recv(_LONGEST_BYTES)
                if not packet:
                    break
                if self._socket is None:
                    self._socket = here  # it is ready: from now on it gets sound
                    self._ready(process.pid)
                late, signals = pickle.loads(packet)
            elif self._socket is not None:  # one that starts may take long
                missing += 1
            if late or self._refused != refused:
                _log.warning("listener=late blocks_dropped=%d", late + self._refused - refused)
                refused = self._refused
            for heard in signals:
                self._post(heard)
            if missing > _HANGS:
                process.kill()
                return "hung"
        if self._closing.is_set():
            return "was closed"
        try:
            code = process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"

    def _ready(self, pid: int) -> None:
        self._lost = False
        _log.info("listener=ready pid=%d lines=%d", pid, len(self._countries))
        for line, country in self._countries.items():
            detail = f"caller ID, keys and tones ({country}), process {pid}"
            self._post(DeviceReady(at_ns=time.monotonic_ns(), device="listener", line=line, detail=detail))

    def _lose(self, ended: str) -> None:
        level = logging.DEBUG if self._lost else logging.WARNING
        _log.log(level, "listener=lost reason=%r", ended)
        if self._lost:
            return
        self._lost = True
        for line in self._countries:
            reason = (
                f"The listener of line {line} {ended}; it is started again by itself, until then no caller ID, keys "
                "and tones are heard; restart the unit if this stays."
            )
            self._post(DeviceLost(at_ns=time.monotonic_ns(), device="listener", line=line, reason=reason))


def main(descriptor: int, rate_hz: int, lines: list[str]) -> None:
    """The process: blocks in, signals out, until the parent's end of the socket is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the unit's whole group; the unit ends this by its socket
        signal.signal(number, signal.SIG_IGN)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    except PermissionError:
        pass  # a service manager may forbid it; then it runs like the unit itself
    from drivers.softmodem.listener import SoftModem  # noqa: PLC0415  the unit itself must not load numpy for this

    modems: dict[int, SoftModem] = {}
    dropped: dict[int, int] = {}  # frames that were too old, since the last block that was not
    late = 0  # blocks, since it was told
    for text in lines:
        line, _, country = text.partition("=")
        modems[int(line)] = SoftModem(int(line), country, rate_hz)  # type: ignore[arg-type]
    with socket.socket(fileno=descriptor) as parent:
        try:
            parent.send(pickle.dumps((late, [])))
            told_ns = time.monotonic_ns()
            while True:
                heard: list[Signal] = []
                if select.select([parent], [], [], _BEAT_S)[0]:
                    packet = parent.recv(_LONGEST_BYTES)
                    if not packet:
                        return
                    line, at_ns, lost, sent_ns = _HEAD.unpack_from(packet)
                    pcm = packet[_HEAD.size :]
                    lost += dropped.pop(line, 0)
                    if time.monotonic_ns() - sent_ns > _OLDEST_NS:
                        dropped[line] = lost + len(pcm) // 2
                        late += 1
                    else:
                        heard = modems[line].feed(AudioBlock(at_ns=at_ns, pcm=pcm, lost_frames=lost))
                now_ns = time.monotonic_ns()
                if heard or now_ns - told_ns >= _BEAT_S * 1_000_000_000:
                    parent.send(pickle.dumps((late, heard)))
                    told_ns, late = now_ns, 0
        except (BrokenPipeError, ConnectionResetError):
            pass  # the parent has gone


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    except Exception as error:  # noqa: BLE001  the process's outermost edge: its words could hold digits, so they stay
        at = traceback.extract_tb(error.__traceback__)[-1]
        sys.exit(f"level=ERROR source={__name__} listener=failed error={type(error).__name__} at={at.name}:{at.lineno}")
