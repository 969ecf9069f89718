"""The codec: sound from the line, through PyAudio, in blocks stamped by a sample counter.

PortAudio lists sound devices once, at its start, for the whole process: a device that is plugged in later is found
when the last stream of the process is closed and PortAudio starts anew, as it does after a loss.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyaudio

from drivers.signals import AudioBlock, DeviceLost, DeviceReady, Signal

_log = logging.getLogger(__name__)

_FIRST_CALLBACK_S = 5.0  # a PulseAudio device gives its first frames up to 2 s after it was opened
_STALL_S = 2.0
_BACK_OFF_S = (0.5, 1.0, 2.0, 5.0)

_portaudio = threading.Lock()  # opening and closing is not thread-safe in PortAudio; the callback never takes it


class CaptureClock:
    """CLOCK_MONOTONIC of each frame, from a counter of frames held to the lower envelope of the blocks' arrival.

    A block can arrive late, never early, so the least late block of each window of a second or more tells the time;
    the counter's rate follows that slowly, up to 2 % off nominal. Blocks that come late and catch up lose nothing.
    Frames that go missing unannounced are noticed within two windows if they last 70 ms or more; fewer are taken up
    by the rate. Pure; one thread at a time.
    """

    _WINDOW_NS = 1_000_000_000
    _WINDOW_BLOCKS = 8
    _RATE_LIMIT = 0.02
    _SETTLED = 20  # windows
    _MEASURED_S = 300  # the counter is off by some ms at either end

    def __init__(self, rate_hz: int) -> None:
        self._nominal_ns = 1e9 / rate_hz
        self._rate = 1.0  # true length of a frame against the nominal one, as measured
        self._phase = 0.0  # correction of the counter, spread over the running window
        self._corrected_ns = 0.0  # what of it the running window has had
        self._next_ns: float | None = None  # time of the next frame
        self._window_from_ns = 0
        self._window_blocks = 0
        self._least_late_ns = 0.0  # against the counter as it stood when the window began
        self._windows = 0  # that were followed since the last break
        self._settled_ns: float | None = None  # when the loop had settled, and the frames since
        self._frames = 0

    @property
    def drift_ppm(self) -> int | None:
        """By how much frames are longer than nominal, since the last break; None in the first five minutes."""
        nominal_ns = self._frames * self._nominal_ns
        if self._settled_ns is None or self._next_ns is None or nominal_ns < self._MEASURED_S * 1e9:
            return None
        return round(((self._next_ns - self._settled_ns) / nominal_ns - 1) * 1e6)

    def stamp(self, arrival_ns: int, frames: int, broken: bool = False) -> tuple[int, int]:
        """The time of a block's first frame, and how many frames are missing right before it.

        broken: frames may have gone missing just now (overflow, a new stream): the block's own arrival is believed.
        """
        first_ns = arrival_ns - frames * self._nominal_ns * self._rate
        if self._next_ns is None:
            self._next_ns = first_ns
        late_ns = first_ns - self._next_ns
        lost = 0
        if broken:
            lost = self._skip(late_ns)
            self._window_blocks = 0
        elif self._window_blocks == 0:
            self._window_from_ns, self._window_blocks = arrival_ns, 1
            self._least_late_ns, self._corrected_ns = late_ns, 0.0
        else:
            self._window_blocks += 1
            self._least_late_ns = min(self._least_late_ns, late_ns + self._corrected_ns)
            window_ns = arrival_ns - self._window_from_ns
            if self._window_blocks >= self._WINDOW_BLOCKS and window_ns >= self._WINDOW_NS:
                lost = self._follow(self._least_late_ns - self._corrected_ns, window_ns)
                self._window_blocks = 0
        at_ns = self._next_ns
        self._frames += frames
        correction_ns = frames * self._nominal_ns * self._phase
        self._corrected_ns += correction_ns
        self._next_ns = at_ns + frames * self._nominal_ns * self._rate + correction_ns
        return round(at_ns), lost

    def _follow(self, error_ns: float, window_ns: int) -> int:
        if error_ns > 40e6 + 0.03 * window_ns:  # more than a clock can drift in a window
            self._phase = 0.0
            return self._skip(error_ns)
        # A second-order loop, one step a window: a part of the error into the next window, a part into the rate.
        self._windows += 1
        if self._windows == self._SETTLED:
            self._settled_ns, self._frames = self._next_ns, 0
        error = error_ns / window_ns
        self._phase = max(-0.2, min(0.2, 0.7 * error))
        limited = max(-self._RATE_LIMIT, min(self._RATE_LIMIT, error))
        self._rate = max(1 - self._RATE_LIMIT, min(1 + self._RATE_LIMIT, self._rate + 0.25 * limited))
        return 0

    def _skip(self, late_ns: float) -> int:
        assert self._next_ns is not None
        lost = max(0, round(late_ns / self._nominal_ns))
        self._windows, self._settled_ns = 0, None
        self._next_ns += lost * self._nominal_ns
        return lost


@dataclass(slots=True)
class Tap:
    """A line on one channel of a codec, counted from 1.

    take is called straight from PortAudio's callback, so it must neither block nor do work: hand in
    `queue.SimpleQueue().put`.
    """

    line: int
    channel: int
    take: Callable[[AudioBlock], None]
    untaken_frames: int = 0


class Codec:
    """Captures the lines on one device. One supervising thread, `codec-LINE`; PortAudio calls back on one of its own.

    device: ALSA or PortAudio device name or a part of it; the first device with inputs that fits is taken.
    post is called on the supervising thread, for each line. While the device is away it is opened again and again;
    what was missed is the lost_frames of the next block.
    """

    def __init__(
        self, device: str, rate_hz: int, buffer_frames: int, post: Callable[[Signal], None], taps: Sequence[Tap]
    ) -> None:
        self._device = device
        self._rate_hz = rate_hz
        self._buffer_frames = buffer_frames
        self._post = post
        self._taps = taps
        self._channels = max(tap.channel for tap in taps)
        self._clock = CaptureClock(rate_hz)
        self._broken = False  # the next block is the first of a new stream
        self._faults = 0
        self._lost_reason: str | None = None
        self._arrival_ns: int | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=f"codec-{taps[0].line}", daemon=True)

    def start(self) -> None:
        """Return at once; DeviceReady or DeviceLost follows."""
        self._thread.start()

    def close(self) -> None:
        """Stop capturing. No block is taken after this returned."""
        self._closing.set()
        self._thread.join(timeout=5)  # a sound server that hangs can hold PortAudio for ever

    def _supervise(self) -> None:
        failures = 0
        while not self._closing.is_set():
            self._arrival_ns = None
            try:
                self._capture()
            except Exception as error:  # noqa: BLE001  the thread's outermost edge: supervision must go on
                self._lose(f"{self._named()} could not be used ({_text(error)}); plug it in again.")
            failures = failures + 1 if self._arrival_ns is None else 0
            self._closing.wait(_BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)])

    def _capture(self) -> None:
        """Capture until the device fails, which is told, or close() is called."""
        with _portaudio:
            prepare_libraries()
            audio = pyaudio.PyAudio()
        try:
            index, names = self._find(audio)
            if index is None:
                found = ", ".join(names.values()) or "none at all"
                self._lose(
                    f"{self._named()} was not found; plug it in, or set codec to a name that exists here: {found}."
                )
                return
            with _portaudio:
                try:
                    stream = audio.open(
                        rate=self._rate_hz,
                        channels=self._channels,
                        format=pyaudio.paInt16,
                        input=True,
                        input_device_index=index,
                        frames_per_buffer=self._buffer_frames,
                        stream_callback=self._captured,
                        start=False,
                    )
                except (OSError, ValueError) as error:
                    self._lose(
                        f"{self._named()} cannot be opened at {self._rate_hz} Hz ({_text(error)}); "
                        "plug it in again, or see whether another program has it open."
                    )
                    return
            self._broken = True
            try:
                stream.start_stream()
                self._watch(stream, names[index])
            finally:
                with _portaudio:
                    stream.close()
        finally:
            with _portaudio:
                audio.terminate()

    def _find(self, audio: pyaudio.PyAudio) -> tuple[int | None, dict[int, str]]:
        """Index of the wanted device, and the names of all devices that have inputs enough."""
        names = {}
        for index in range(audio.get_device_count()):
            info = audio.get_device_info_by_index(index)
            if info["maxInputChannels"] >= self._channels:
                names[index] = str(info["name"])
        fitting = [index for index, name in names.items() if self._device in name]
        exact = [index for index in fitting if names[index] == self._device]
        return next(iter(exact + fitting), None), names

    def _watch(self, stream: pyaudio.Stream, name: str) -> None:
        opened_ns = time.monotonic_ns()
        while self._arrival_ns is None:
            if self._closing.wait(0.05):
                return
            if not stream.is_active() or time.monotonic_ns() - opened_ns > _FIRST_CALLBACK_S * 1e9:
                self._lose(f"{self._named()} was opened but gives no sound; pull it out and plug it in again.")
                return
        self._lost_reason = None
        detail = f"{name}, {self._rate_hz} Hz"
        for tap in self._taps:
            self._post(DeviceReady(at_ns=self._arrival_ns, device="codec", line=tap.line, detail=detail))
            _log.info("codec=ready line=%d device=%r rate_hz=%d", tap.line, name, self._rate_hz)
        faults = self._faults
        while not self._closing.wait(0.5):
            if self._faults != faults:
                faults = self._faults
                _log.error("codec=blocks_not_taken device=%r count=%d", self._device, faults)
            if not stream.is_active() or time.monotonic_ns() - self._arrival_ns > _STALL_S * 1e9:
                self._lose(f"{self._named()} stopped giving sound; see that it is plugged in and its cable is whole.")
                return

    def _lose(self, reason: str) -> None:
        """Told before the stream is closed, which can take long. Posted once until the device is ready again."""
        level = logging.DEBUG if reason == self._lost_reason else logging.WARNING
        for tap in self._taps:
            if self._lost_reason is None:
                self._post(DeviceLost(at_ns=time.monotonic_ns(), device="codec", line=tap.line, reason=reason))
            _log.log(level, "codec=lost line=%d reason=%r", tap.line, reason)
        self._lost_reason = reason

    def _captured(self, pcm: bytes, frames: int, _timing: object, flags: int) -> tuple[None, int]:
        # PortAudio's thread: copy and queue, nothing else.
        if self._closing.is_set():
            return None, pyaudio.paComplete
        arrival_ns = time.monotonic_ns()
        broken = self._broken or bool(flags & pyaudio.paInputOverflow)
        try:
            at_ns, lost = self._clock.stamp(arrival_ns, frames, broken)
            self._broken = False
            drift_ppm, step = self._clock.drift_ppm, self._channels
            for tap in self._taps:
                tap.untaken_frames += lost
                own = pcm if step == 1 else memoryview(pcm).cast("h")[tap.channel - 1 :: step].tobytes()
                block = AudioBlock(at_ns=at_ns, pcm=own, lost_frames=tap.untaken_frames, drift_ppm=drift_ppm)
                tap.untaken_frames += frames
                tap.take(block)
                tap.untaken_frames = 0
        except Exception:  # noqa: BLE001  the thread's outermost edge: further up it would stop the stream silently
            self._faults += 1
        self._arrival_ns = arrival_ns
        return None, pyaudio.paContinue

    def _named(self) -> str:
        lines = " and ".join(str(tap.line) for tap in self._taps)
        return f"The codec {self._device!r} of line {lines}"


def _text(error: Exception) -> str:
    """PortAudio's own words: its errors are OSError(words, code), the other way round."""
    return " ".join(str(part) for part in error.args if isinstance(part, str)) or str(error)


def prepare_libraries() -> None:
    """Before PortAudio starts: rate conversion for cards without our rate, no JACK server, nothing on the terminal."""
    os.environ.setdefault("PA_ALSA_PLUGHW", "1")
    os.environ.setdefault("JACK_NO_START_SERVER", "1")
    # A C function that does nothing, since these libraries may call it from any thread, even while Python ends.
    nothing = ctypes.cast(ctypes.CDLL(None).getppid, ctypes.c_void_p)
    for library, setter in (
        ("libasound.so.2", "snd_lib_error_set_handler"),
        ("libjack.so.0", "jack_set_error_function"),
        ("libjack.so.0", "jack_set_info_function"),
    ):
        try:
            getattr(ctypes.CDLL(library), setter)(nothing)
        except (OSError, AttributeError):
            pass  # a PortAudio built without it has nothing to say through it
