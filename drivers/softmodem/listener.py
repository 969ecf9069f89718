"""The soft modem of one line: blocks of sound in, signals out. Caller ID, keys, tones, alerting signals, voice."""

from __future__ import annotations

from collections import deque
from math import gcd

import numpy as np

from drivers.signals import (
    AudioBlock,
    CallerIdReceived,
    CallerIdSource,
    CasHeard,
    Country,
    KeyHeard,
    Signal,
    ToneHeard,
    VoiceHeard,
)
from drivers.softmodem.dtmf import DtmfCallerId, DtmfReceiver, KeyedMessage
from drivers.softmodem.fsk import Frame, FskReceiver
from drivers.softmodem.tones import CasFound, ToneFound, ToneReceiver, VoiceFound

Samples = np.ndarray[tuple[int], np.dtype[np.float32]]

RATE_HZ = 8000
# Silence after which every receiver has ended what it heard. Of lost frames, no more than this is heard as silence.
SETTLED_S = 10
# Blocks quieter than this are left out once all has settled: mean square of -55 dBm0, 10 dB under the quietest signal.
_QUIET = 10 ** ((-55 - 6.15) / 10)
_SPACING_NS = 250_000_000
_TIMES = 4096  # 17 minutes; what began before that is reckoned from the oldest


class SoftModem:
    """Hears one line at any rate from 4 to 192 kHz (callers from 8 kHz). No thread and no clock; memory is bounded.

    Signals are stamped from the blocks' own at_ns. Lost frames are heard as silence.
    """

    def __init__(self, line: int, country: Country, rate_hz: int) -> None:
        self._line, self._rate_hz = line, rate_hz
        self._resampler = Resampler(rate_hz)
        self._fsk = FskReceiver(RATE_HZ)
        self._dtmf = DtmfReceiver()
        self._dtmf_caller = DtmfCallerId()
        self._tones = ToneReceiver(country)
        self._fed = 0  # frames at 8 kHz, as the receivers count them
        self._taken = 0  # frames of the blocks, silence included
        self._quiet = 0  # frames of the blocks since the last that was not
        self._left_out: AudioBlock | None = None  # the last, if it was: what begins at its end must be heard
        self._times: deque[tuple[int, int]] = deque(maxlen=_TIMES)  # (frame at 8 kHz, its time)

    def feed(self, block: AudioBlock) -> list[Signal]:
        """What was recognised by the end of this block; a caller sent as keys comes after its keys."""
        samples = np.frombuffer(block.pcm, "<i2").astype(np.float32)
        samples *= 1 / 32768
        if len(samples) and np.dot(samples, samples) > _QUIET * len(samples):
            self._quiet = 0
        elif self._quiet >= SETTLED_S * self._rate_hz:
            self._left_out = block
            return []
        else:
            self._quiet += block.lost_frames + len(samples)
        before, self._left_out = self._left_out, None
        signals: list[Signal] = []
        if before:
            signals += self._hear(before.at_ns, np.frombuffer(before.pcm, "<i2") * np.float32(1 / 32768), new=True)
        lost = min(block.lost_frames, SETTLED_S * self._rate_hz)
        if lost and self._times:
            lost_ns = lost * 1_000_000_000 // self._rate_hz
            signals += self._hear(block.at_ns - lost_ns, np.zeros(lost, np.float32), new=lost < block.lost_frames)
        if len(samples):
            signals += self._hear(block.at_ns, samples, new=not self._times or block.lost_frames > 0)
        return signals

    def _hear(self, at_ns: int, samples: Samples, *, new: bool) -> list[Signal]:
        """new: these frames do not follow the last ones in time."""
        frame = -(-self._taken * RATE_HZ // self._rate_hz)
        if new or at_ns - self._times[-1][1] >= _SPACING_NS:
            self._times.append((frame, at_ns))
        self._taken += len(samples)
        samples = self._resampler.feed(samples)
        self._fed += len(samples)
        frames = [frame for frame in self._fsk.feed(samples) if not frame.message.message_waiting]  # nobody calls
        signals: list[Signal] = [self._caller("line_fsk", frame) for frame in frames]
        for key in self._dtmf.feed(samples):
            self._tones.keyed(key.from_frame, key.until_frame)
            at_ns, until_ns = self._time_of(key.from_frame), self._time_of(key.until_frame)
            signals.append(KeyHeard(at_ns=at_ns, line=self._line, key=key.key, until_ns=until_ns))
            if message := self._dtmf_caller.feed(key):
                signals.append(self._caller("line_dtmf", message))
        if key_since := self._dtmf.key_since:
            self._tones.keyed(*key_since)
        signals += (self._tone(found) for found in self._tones.feed(samples))
        return signals

    def _tone(self, found: ToneFound | CasFound | VoiceFound) -> Signal:
        at_ns = self._time_of(found.from_frame)
        match found:
            case VoiceFound():
                return VoiceHeard(at_ns=at_ns, line=self._line)
            case CasFound():
                return CasHeard(at_ns=at_ns, line=self._line, until_ns=self._time_of(found.until_frame))
            case ToneFound():
                return ToneHeard(
                    at_ns=at_ns,
                    line=self._line,
                    tone=found.tone,
                    until_ns=self._time_of(found.until_frame),
                    cycles=found.cycles,
                    over=found.over,
                )

    def _caller(self, source: CallerIdSource, found: Frame | KeyedMessage) -> CallerIdReceived:
        message = found.message
        return CallerIdReceived(
            at_ns=self._time_of(found.from_frame),
            line=self._line,
            source=source,
            presentation=message.presentation,
            number=message.number,
            name=message.name,
            date_raw=message.date_raw,
            raw=message.octets.hex(),
            standard=message.standard,
            until_ns=self._time_of(found.until_frame),
            called=message.called,
            redirecting=message.redirecting,
            call_waiting=message.call_waiting,
        )

    def _time_of(self, frame: int) -> int:
        """CLOCK_MONOTONIC ns of a frame at 8 kHz."""
        first, at_ns = next((known for known in reversed(self._times) if known[0] <= frame), self._times[0])
        return at_ns + (frame - first) * 1_000_000_000 // RATE_HZ


class Resampler:
    """Sound of any rate to 8 kHz: a windowed sinc for each phase between the two rates; 3.5 kHz pass, 4.5 kHz gone.

    Frame n of what comes out is the moment n / 8000 s of what was fed: the filter delays nothing, it only answers late,
    by 2.25 ms of sound. Rates from 4 to 192 kHz; where they have few divisors in common, the nearest of 1024 phases is
    taken (noise 50 dB down at the most), so that the filters stay within 4 MB.
    """

    _ZEROS = 18  # zero crossings of the sinc on either side, at 8 kHz
    _KAISER = 6.0  # 63 dB down
    _PHASES = 1024
    _AT_ONCE = 1024  # frames made: each takes a window of what was fed and its weights, 7 kB at 192 kHz

    def __init__(self, rate_hz: int) -> None:
        divisor = gcd(rate_hz, RATE_HZ)
        self._up, self._down = RATE_HZ // divisor, rate_hz // divisor  # an output frame every down/up input frames
        lowest_hz = min(rate_hz, RATE_HZ)
        self._half = -(-self._ZEROS * rate_hz // lowest_hz)
        cutoff = lowest_hz / rate_hz  # of half the input's rate
        # Row p weighs the input frames around a moment that is p/phases of a frame after the middle one.
        self._phases = min(self._up, self._PHASES)
        middle = 0.5 if self._phases < self._up else 0.0
        self._weights = np.empty((self._phases, 2 * self._half + 1), np.float32)
        for phase in range(self._phases):
            moments = np.arange(-self._half, self._half + 1) - (phase + middle) / self._phases
            window = np.i0(self._KAISER * np.sqrt(np.maximum(0, 1 - (moments / (self._half + 1)) ** 2)))
            weights = np.sinc(moments * cutoff) * window
            self._weights[phase] = weights / weights.sum()
        self._held = np.zeros(self._half, np.float32)
        self._next = 0  # of the next output frame: its middle input frame in held, in units of 1/up frame

    def feed(self, samples: Samples) -> Samples:
        if self._up == self._down:
            return samples
        held = np.concatenate((self._held, samples))
        room = len(held) - 2 * self._half  # windows that are whole
        count = max(0, -(-(room * self._up - self._next) // self._down))
        if count == 0:
            self._held = held
            return np.empty(0, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(held, 2 * self._half + 1)
        made = np.empty(count, np.float32)
        for at in range(0, count, self._AT_ONCE):
            moments = self._next + self._down * np.arange(at, min(at + self._AT_ONCE, count))
            phases = moments % self._up * self._phases // self._up
            made[at : at + len(moments)] = np.einsum("ij,ij->i", windows[moments // self._up], self._weights[phases])
        after = self._next + self._down * count
        used = min(after // self._up, room)
        self._held, self._next = held[used:], after - used * self._up
        return made
