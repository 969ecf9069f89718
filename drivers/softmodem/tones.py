"""The tones of the exchange, of fax machines, the alerting signal, and voice, in the sound of the line.

National tone plans are data. A spectrum of 80 ms every 20 ms tells where a tone of the plan is nearly all of the sound;
each stretch of it is then looked at whole (frequency, purity, modulation) and matched with the plan's cadences.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.signals import Country, Tone
from drivers.softmodem.dtmf import FULL_SCALE_DBM0, RATE_HZ, PairReceiver, high_pass

_Floats = NDArray[np.float64]

_HOP = 160  # frames of sound between two looks: 20 ms
_WINDOW = 640
_LOOKS = 5  # in a block
_BLOCK = _HOP * _LOOKS
_NEAR = 4  # looks on either side: what is much weaker than its neighbourhood is the edge of a tone, not the tone
_EDGE = 0.16  # of the strongest look near by
_BRIDGED = 2  # looks that may be missing in a tone: modulation, phase reversals
_LEVEL_DBM0 = -46.0
_PART = 0.7  # of the sound in a look is the tone
_PURE = 0.8  # of the sound in a whole stretch
_FLAT = 1.4  # strongest look over the weakest in a tone that is not modulated
_KEPT = 2 * RATE_HZ  # frames of sound kept for looking at stretches whole
_WHOLE = 9600  # frames of a stretch that are looked at, at most
_TRIMMED = 240  # at its ends
_RESOLVED = 2400  # frames it takes to tell a tone from its modulation
_FINE = 16384  # points of that look
_SOUND = (300.0, 3800.0)  # Hz: above hum, below the codec's edge
_OVERTONE = 0.05  # of a tone's power an octave below it: it is a voice's overtone
_OCTAVE_HZ = 15.0  # on either side, where no odd harmonic of the mains is
_SETTLED = 15  # looks of silence that end a tone of unknown cadence
_TOLD_AGAIN = (2, 4)  # cycles: a second one makes one sound of 0.5 s a signal; four of busy tone, a far end that left

_VOICE = (250.0, 1000.0)  # Hz: where voices and music are, and data signals are not
_VOICE_PART = 0.3  # of the sound
_VOICE_LEVEL_DBM0 = -45.0
_VOICE_OVER = 6.0  # the steady noise of the line
_VOICE_LOOKS, _VOICE_OF = 8, 25
_FLOOR_BLOCKS = 80  # 8 s
_TONAL = 0.93  # of the sound is two lines: a key or a tone of another plan
_VOICE_GONE = 100  # looks
_VOICE_AGAIN = 500
_VOICE_LATE = 15  # looks it is judged late: keys, ringing and pulses are known by then
_KEY_EDGE = 4  # looks before and after a key that see it too
_BEATS = 2400  # frames in which ringing and dial pulses beat: 300 ms
_BEAT_S = (0.031, 0.110)  # ringing of 14 Hz and more, ten and twenty pulses a second
_PITCH_S = (0.006, 0.024)  # where a voice that beats so slowly beats too
_BEATING = 0.6  # correlation
_OTHER = 0.85  # of it, at most, at a voice's pitch: a part of it where the edges of clipped ringing are alike
_CLICK = 40  # frames
_CLICKS = 4  # in a look that hold
_CLICKED = 0.9  # of its sound: a voice goes on between them


@dataclass(frozen=True, slots=True)
class ToneFound:
    """As ToneHeard. Frames at 8 kHz from the first fed."""

    tone: Tone
    from_frame: int
    until_frame: int
    cycles: int
    over: bool


@dataclass(frozen=True, slots=True)
class CasFound:
    """As CasHeard."""

    from_frame: int
    until_frame: int


@dataclass(frozen=True, slots=True)
class VoiceFound:
    """As VoiceHeard."""

    from_frame: int


Found = ToneFound | CasFound | VoiceFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """How a tone sounds.

    on_s, off_s: its periods in turn; off_s empty: continuous, recognised after on_s[0].
    cycles: on-periods it takes to be recognised. modulated: 15-20 Hz on it; None: either way.
    quiet: silence must follow (a tone known by its first on-period could be the beginning of anything else).
    """

    tone: Tone
    hz: tuple[float, ...]
    on_s: tuple[float, ...]
    off_s: tuple[float, ...] = ()
    cycles: int = 1
    modulated: bool | None = None
    quiet: bool = False
    tolerance: float = 0.02


_FAX = (
    Cadence(tone="cng", hz=(1100,), on_s=(0.5,), off_s=(3.0,), cycles=2, tolerance=0.035),
    Cadence(tone="ced", hz=(2100,), on_s=(2.0,), tolerance=0.01),
)
TONE_PLANS: dict[Country, tuple[Cadence, ...]] = {
    "jp": (
        Cadence(tone="dial", hz=(400,), on_s=(1.1,), modulated=False),
        Cadence(tone="second_dial", hz=(400,), on_s=(0.2,), off_s=(0.2,), cycles=3, modulated=False),
        Cadence(tone="ringback", hz=(400,), on_s=(1.0,), off_s=(2.0,), modulated=True, quiet=True),
        Cadence(tone="ringback", hz=(400,), on_s=(1.0,), off_s=(2.0,), modulated=False, cycles=2),
        Cadence(tone="busy", hz=(400,), on_s=(0.5,), off_s=(0.5,), modulated=False, cycles=2),
        Cadence(tone="call_waiting", hz=(400,), on_s=(0.5,), off_s=(8.0,), modulated=True),
        *_FAX,
    ),
    "us": (
        Cadence(tone="dial", hz=(350, 440), on_s=(1.0,)),
        Cadence(tone="ringback", hz=(440, 480), on_s=(2.0,), off_s=(4.0,), quiet=True),
        Cadence(tone="busy", hz=(480, 620), on_s=(0.5,), off_s=(0.5,), cycles=2),
        Cadence(tone="busy", hz=(480, 620), on_s=(0.25,), off_s=(0.25,), cycles=2),
        Cadence(tone="call_waiting", hz=(440,), on_s=(0.3,), off_s=(10.0,)),
        *_FAX,
    ),
    "uk": (
        Cadence(tone="dial", hz=(350, 440), on_s=(1.0,)),
        Cadence(tone="ringback", hz=(400, 450), on_s=(0.4, 0.4), off_s=(0.2, 2.0), cycles=2, quiet=True),
        Cadence(tone="busy", hz=(400,), on_s=(0.375,), off_s=(0.375,), cycles=2),
        *_FAX,
    ),
    "etsi": (
        # A ringback of 425 Hz is not modulated: only what lasts longer than its on-period is dial tone.
        Cadence(tone="dial", hz=(425,), on_s=(1.8,)),
        Cadence(tone="ringback", hz=(425,), on_s=(1.0,), off_s=(4.0,), quiet=True),
        Cadence(tone="busy", hz=(425,), on_s=(0.5,), off_s=(0.5,), cycles=2),
        Cadence(tone="busy", hz=(425,), on_s=(0.25,), off_s=(0.25,), cycles=2),
        *_FAX,
    ),
}


def _fits(looks: int, nominal_s: float) -> bool:
    """A period is right within 20 % and a look and a half."""
    return abs(looks * _HOP / RATE_HZ - nominal_s) <= 0.2 * nominal_s + 0.03


def _longest(nominal_s: float) -> float:
    """In looks."""
    return (1.2 * nominal_s + 0.03) * RATE_HZ / _HOP


@dataclass(slots=True)
class _Stretch:
    """Consecutive looks at a tone. until: the last look of it."""

    begin: int
    until: int
    powers: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    looked: bool = False  # whole
    pure: bool = False
    modulated: bool = False


@dataclass(slots=True)
class _Match:
    """How far the stretches so far follow a cadence, counted from one of its periods."""

    cadence: Cadence
    phase: int
    count: int = 0
    begin: int = 0

    def period(self, number: int) -> int:
        return (self.phase + number) % len(self.cadence.on_s)


@dataclass(slots=True)
class _Heard:
    """A tone that was told."""

    cadence: Cadence
    match: _Match | None  # None: continuous
    begin: int
    until: int
    cycles: int


class _Track:
    """All cadences on the same frequencies."""

    def __init__(self, cadences: tuple[Cadence, ...]) -> None:
        self.hz, self.tolerance = cadences[0].hz, cadences[0].tolerance
        self.continuous = [each for each in cadences if not each.off_s]
        self.matches = [_Match(each, phase) for each in cadences for phase in range(len(each.off_s))]
        self.stretch: _Stretch | None = None  # that goes on
        self.last: _Stretch | None = None  # that ended
        self.heard: _Heard | None = None
        self.loud = 0  # looks since the last stretch that were not quiet

    @property
    def idle(self) -> bool:
        return self.stretch is None and self.last is None and self.heard is None


class ToneReceiver:
    """Tones, alerting signals and voice on one line. Any chunking gives the same findings; memory is bounded."""

    def __init__(self, country: Country) -> None:
        self._tracks = [
            _Track(tuple(each for each in TONE_PLANS[country] if each.hz == hz))
            for hz in dict.fromkeys(each.hz for each in TONE_PLANS[country])
        ]
        # The signal is 80 to 100 ms long: anything much shorter or longer is something else.
        self._cas = PairReceiver((2130,), (2750,), tolerance=0.012, twist_db=(-8.0, 8.0), shortest_s=0.065, looks=20)
        self._window = np.hanning(_WINDOW + 1)[:-1]
        scale = 2 / (_WINDOW * (self._window**2).sum())  # power to mean square
        hz = np.arange(_WINDOW // 2 + 1) * (RATE_HZ / _WINDOW)
        bands = [(hz >= _SOUND[0]) & (hz <= _SOUND[1]), (hz >= _VOICE[0]) & (hz <= _VOICE[1])]
        bands += [np.any([np.abs(hz - each) <= 50 for each in track.hz], axis=0) for track in self._tracks]
        self._bands = np.array(bands, dtype=float).T * scale
        zero = 10 ** (-FULL_SCALE_DBM0 / 10) / 2  # mean square of 0 dBm0
        self._least = zero * 10 ** (_LEVEL_DBM0 / 10)
        self._least_voice = zero * 10 ** (_VOICE_LEVEL_DBM0 / 10)
        self._pending = np.empty(0)
        self._kept = np.zeros(_KEPT)
        self._power = np.zeros((2 * _NEAR, len(self._tracks)))  # of the tracks, in the last looks
        self._sound = np.zeros(2 * _NEAR)
        self._fed = 0  # frames in whole blocks
        self._look = 0  # number of the first new look
        self._floors: deque[float] = deque(maxlen=_FLOOR_BLOCKS)
        self._voiced: deque[int] = deque()  # looks, the last _VOICE_LATE not judged yet
        self._voice_until: int | None = None
        self._voice_told = 0
        self._keyed: deque[tuple[int, int]] = deque()  # looks, from and until
        self._keyed_or_rung = -_VOICE_OF  # the last look that was
        self._filter = high_pass(300.0, 127)
        self._filtered = np.zeros(_BEATS)  # without the ringing voltage itself, and hum

    def feed(self, samples: NDArray[Any]) -> list[Found]:
        """samples: any number, 8 kHz, full scale 1.0."""
        self._pending = np.concatenate([self._pending, np.asarray(samples, dtype=np.float64)])
        found: list[Found] = []
        blocks = len(self._pending) // _BLOCK
        for number in range(blocks):
            found += self._block(self._pending[number * _BLOCK : (number + 1) * _BLOCK])
        self._pending = self._pending[blocks * _BLOCK :].copy()
        return found

    def keyed(self, from_frame: int, until_frame: int) -> None:
        """A key was heard here, or goes on: it is no voice. Told before the sound that is 0.2 s later is fed."""
        self._keyed.append((from_frame // _HOP + 1 - _KEY_EDGE, until_frame // _HOP + 1 + _KEY_EDGE))

    def _block(self, block: _Floats) -> Iterator[Found]:
        for pair in self._cas.feed(block):
            if pair.until_frame - pair.from_frame <= 0.13 * RATE_HZ:
                yield CasFound(pair.from_frame, pair.until_frame)
        self._kept = np.concatenate([self._kept[_BLOCK:], block])
        self._fed += _BLOCK
        fresh = np.convolve(self._kept[-_BLOCK - len(self._filter) + 1 :], self._filter, "valid")
        self._filtered = np.concatenate([self._filtered[_BLOCK:], fresh])
        views = np.lib.stride_tricks.sliding_window_view(self._kept[-_BLOCK - _WINDOW + _HOP :], _WINDOW)
        spectrum = np.abs(np.fft.rfft(views[::_HOP] * self._window)) ** 2
        levels = spectrum @ self._bands
        yield from self._voices(spectrum, levels)
        self._power = np.concatenate([self._power[-2 * _NEAR :], levels[:, 2:]])
        self._sound = np.concatenate([self._sound[-2 * _NEAR :], levels[:, 0]])
        now = self._power[_NEAR : _NEAR + _LOOKS]
        near = np.lib.stride_tricks.sliding_window_view(self._power, 2 * _NEAR + 1, axis=0).max(axis=2)
        sound = self._sound[_NEAR : _NEAR + _LOOKS]
        on = (now > self._least) & (now >= _PART * sound[:, None]) & (now >= _EDGE * near)
        any_on = on.any(axis=0)
        for number, track in enumerate(self._tracks):
            if any_on[number] or not track.idle:
                for look in range(_LOOKS):
                    yield from self._step(
                        track,
                        self._look + look - _NEAR,
                        on=bool(on[look, number]),
                        power=float(now[look, number]),
                        sound=float(sound[look]),
                    )
        self._look += _LOOKS

    def _at(self, look: int) -> int:
        """The frame in the middle of a look."""
        return max(0, (look - 1) * _HOP)

    def _step(self, track: _Track, look: int, *, on: bool, power: float, sound: float) -> Iterator[Found]:
        stretch = track.stretch
        if on:
            if stretch is None:
                stretch = track.stretch = _Stretch(look, look)
            stretch.until = look
            stretch.powers.append(power)
            yield from self._goes_on(track, stretch)
            return
        if stretch is not None and look - stretch.until > _BRIDGED:
            track.stretch = None
            if stretch.until - stretch.begin >= 3:
                yield from self._ended(track, stretch)
        if track.last is not None and track.stretch is None:
            if sound > 0.1 * max(track.last.powers):
                track.loud += 1
            yield from self._silent(track, track.last, look)

    def _goes_on(self, track: _Track, stretch: _Stretch) -> Iterator[Found]:
        looks = stretch.until - stretch.begin + 1
        heard = track.heard
        if heard is not None and heard.match is None:
            heard.until = stretch.until
        elif heard is not None and looks > _longest(max(heard.cadence.on_s)):
            yield from self._over(track)
        for cadence in track.continuous:
            # Looked at once: a tone that is not steady now is none.
            if track.heard is None and looks == round(cadence.on_s[0] * RATE_HZ / _HOP):
                self._look_whole(track, stretch)
                if stretch.pure and cadence.modulated in (None, stretch.modulated):
                    track.heard = _Heard(cadence, None, stretch.begin, stretch.until, 1)
                    yield self._told(track.heard)

    def _ended(self, track: _Track, stretch: _Stretch) -> Iterator[Found]:
        heard = track.heard
        if heard is not None and heard.match is None:
            heard.until = stretch.until
            yield from self._over(track)
            self._forget(track)
            return
        before, track.last, track.loud = track.last, stretch, 0
        looks = stretch.until - stretch.begin + 1
        for match in track.matches:
            cadence = match.cadence
            if match.count and (
                before is None
                or not _fits(stretch.begin - before.until - 1, cadence.off_s[match.period(match.count - 1)])
            ):
                match.count = 0
            right = _fits(looks, cadence.on_s[match.period(match.count)])
            if right and not stretch.looked:
                self._look_whole(track, stretch)
            if right and stretch.pure and cadence.modulated in (None, stretch.modulated):
                match.begin = match.begin if match.count else stretch.begin
                match.count += 1
            else:
                match.count = 0
        if heard is not None:
            if heard.match is not None and heard.match.count:
                heard.until = stretch.until
                heard.cycles += 1
                if heard.cycles in _TOLD_AGAIN:
                    yield self._told(heard)
            else:
                yield from self._over(track)
        if track.heard is None:
            yield from self._recognised(track, stretch, quiet=False)

    def _silent(self, track: _Track, last: _Stretch, look: int) -> Iterator[Found]:
        silent = look - last.until
        if track.heard is None and silent == _SETTLED:
            yield from self._recognised(track, last, quiet=track.loud <= 5)
        heard = track.heard
        if heard is not None and heard.match is not None:
            if silent > _longest(heard.cadence.off_s[heard.match.period(heard.match.count - 1)]):
                yield from self._over(track)
        elif silent > max((_longest(max(m.cadence.off_s)) for m in track.matches if m.count), default=0):
            self._forget(track)

    def _recognised(self, track: _Track, last: _Stretch, *, quiet: bool) -> Iterator[Found]:
        settled = quiet or self._settled(track, last)
        for match in track.matches:
            cadence = match.cadence
            if match.count < cadence.cycles or track.heard is not None:
                continue
            if (cadence.quiet and not quiet) or (cadence.cycles == 1 and not settled):
                continue
            track.heard = _Heard(cadence, match, match.begin, last.until, match.count)
            yield self._told(track.heard)

    def _settled(self, track: _Track, last: _Stretch) -> bool:
        """Whether the last stretch has been over for a while (what was told of one stretch must not go on)."""
        return track.stretch is None and self._look - _NEAR + _LOOKS - 1 - last.until >= _SETTLED

    def _over(self, track: _Track) -> Iterator[Found]:
        heard, track.heard = track.heard, None
        if heard is not None:
            yield self._told(heard, over=True)
            for match in track.matches:
                if match.begin <= heard.until:
                    match.count = 0

    def _forget(self, track: _Track) -> None:
        track.last = None
        for match in track.matches:
            match.count = 0

    def _told(self, heard: _Heard, *, over: bool = False) -> ToneFound:
        half = _HOP // 2
        return ToneFound(
            heard.cadence.tone, max(0, self._at(heard.begin) - half), self._at(heard.until) + half, heard.cycles, over
        )

    def _look_whole(self, track: _Track, stretch: _Stretch) -> None:
        """Frequency, purity, steadiness and modulation of a stretch, at most its last 1.2 s."""
        stretch.looked = True
        end = len(self._kept) - (self._fed - self._at(stretch.until)) - _TRIMMED
        begin = max(end - _WHOLE, len(self._kept) - (self._fed - self._at(stretch.begin)) + _TRIMMED, 0)
        sound = self._kept[begin:end]
        if len(sound) < 2 * _TRIMMED:
            return
        power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), _FINE)) ** 2
        hz = np.arange(len(power)) * (RATE_HZ / _FINE)
        whole = power[(hz >= _SOUND[0]) & (hz <= _SOUND[1])].sum()
        tone = np.zeros(len(power), dtype=bool)
        peaks = []
        for nominal in track.hz:
            near = np.flatnonzero(np.abs(hz - nominal) <= 0.04 * nominal)
            peak = near[power[near].argmax()]
            if abs(hz[peak] - nominal) > track.tolerance * nominal + 0.5:
                return
            peaks.append(float(power[peak]))
            tone |= np.abs(hz - hz[peak]) <= 30
        inside = np.abs(hz - hz[peak])
        carrier = power[inside <= 8].sum()
        sides = (power[(inside > 8) & (inside <= 26) & half].sum() for half in (hz < hz[peak], hz > hz[peak]))
        stretch.modulated = len(track.hz) == 1 and len(sound) >= _RESOLVED and min(sides) > 0.01 * carrier
        steady = list(stretch.powers)[3:-3]
        flat = stretch.modulated or not steady or max(steady) <= _FLAT * min(steady)
        octave = power[np.abs(hz - hz[peak] / 2) <= _OCTAVE_HZ].sum()
        alone = len(track.hz) > 1 or octave <= _OVERTONE * power[tone].sum()
        stretch.pure = bool(power[tone].sum() >= _PURE * whole and min(peaks) >= 0.05 * max(peaks) and flat and alone)

    def _voices(self, spectrum: _Floats, levels: _Floats) -> Iterator[Found]:
        sound, voice = levels[:, 0], levels[:, 1]
        self._floors.append(float(voice.mean()))
        least = max(self._least_voice, _VOICE_OVER * min(self._floors))
        tones = levels[:, 2:].max(axis=1)
        heard = (voice > least) & (voice > _VOICE_PART * sound) & (tones < _PART * sound)
        last = self._look + _LOOKS - 1
        if heard.any() or self._voiced:
            for look in np.flatnonzero(heard):
                end = _BEATS - (_LOOKS - 1 - int(look)) * _HOP
                if not _two_lines(spectrum[look]) and not _clicks(self._filtered[end - _WINDOW : end]):
                    self._voiced.append(self._look + int(look))
            if _beats(self._filtered):
                self._no_voice(last + 1 - _BEATS // _HOP, last)
        yield from self._judged(last - _VOICE_LATE)

    def _judged(self, last: int) -> Iterator[Found]:
        """last: look; what is later may still turn out to be a key or ringing."""
        for begin, until in self._keyed:
            if begin <= last:
                self._no_voice(begin, min(until, last))
        while self._keyed and self._keyed[0][1] <= last:
            self._keyed.popleft()
        while self._voiced and self._voiced[0] <= last - _VOICE_OF:
            self._voiced.popleft()
        voiced = [look for look in self._voiced if look <= last]
        if len(voiced) < _VOICE_LOOKS or last - self._keyed_or_rung < _VOICE_OF:
            return
        again = (
            self._voice_until is not None
            and voiced[0] - self._voice_until < _VOICE_GONE
            and self._voice_told > self._keyed_or_rung
        )
        self._voice_until = voiced[-1]
        if not again or last - self._voice_told >= _VOICE_AGAIN:
            self._voice_told = last if again else voiced[0]
            yield VoiceFound(self._at(self._voice_told))

    def _no_voice(self, begin: int, until: int) -> None:
        """Looks that are a key, ringing or dial pulses. What is heard 0.5 s after them is a voice that begins."""
        self._voiced = deque(look for look in self._voiced if not begin <= look <= until)
        self._keyed_or_rung = max(self._keyed_or_rung, until)


def _beats(sound: _Floats) -> bool:
    """Whether it repeats itself as slowly as ringing and dial pulses, and at no voice's pitch."""
    spectrum = np.fft.rfft(sound, 2 * len(sound))
    together = np.fft.irfft(np.abs(spectrum) ** 2)[: len(sound)]
    until = np.cumsum(sound**2)
    lags = np.arange(round(_PITCH_S[0] * RATE_HZ), round(_BEAT_S[1] * RATE_HZ))
    both = until[len(sound) - 1 - lags] * (until[-1] - until[lags - 1])
    alike = together[lags] / np.sqrt(both + 1e-12)
    beat = float(alike[lags >= _BEAT_S[0] * RATE_HZ].max())
    return beat > _BEATING and float(alike[lags <= _PITCH_S[1] * RATE_HZ].max()) < _OTHER * beat


def _clicks(sound: _Floats) -> bool:
    """Whether nearly all of the sound in a look is a few clicks."""
    parts = np.sort((sound.reshape(-1, _CLICK) ** 2).sum(axis=1))
    return bool(parts[-_CLICKS:].sum() >= _CLICKED * parts.sum())


def _two_lines(power: _Floats) -> bool:
    """Whether nearly all of the sound in a look is two lines or one."""
    power = power[int(_VOICE[0] * _WINDOW / RATE_HZ) : int(_SOUND[1] * _WINDOW / RATE_HZ)].copy()
    whole = lines = float(power.sum())
    for _ in range(2):
        peak = int(power.argmax())
        power[max(0, peak - 2) : peak + 3] = 0.0
    lines -= float(power.sum())
    return lines >= _TONAL * whole
