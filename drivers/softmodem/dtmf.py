"""DTMF: keys in the sound of the line (ITU-T Q.23, Q.24), and the caller's number sent as keys (ETSI EN 300 659).

Two steps. A short transform every 5 ms tells where two tones, one of each group, may be; there a least-squares fit of
two sinusoids at their measured frequencies over 32 ms must leave almost nothing: speech and music leave much. Where
noise leaves much too, both tones must stand alone in the spectrum of 128 ms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.signals import Presentation
from drivers.softmodem.frames import Message

RATE_HZ = 8000
FULL_SCALE_DBM0 = 3.14  # a sine that just fills the range, as in G.711

_Floats = NDArray[np.float64]
_HOP = 40  # frames of sound between two looks: 5 ms
_WINDOW = 160
_FIT = 256
_BEFORE = 32  # looks kept to find where a tone began
_LONG = 1024  # what is looked at where noise hides the tones
_LONG_LOOKS = (_LONG - _WINDOW) // _HOP  # that lie in it whole
_OUTSTANDING = 10.0  # power of both tones over anything else in a long look
_LEVEL_DBM0 = -50.0  # of each tone, the least
_SCREEN = 0.3  # of the sound is the two tones: worth the fit
_ON = 0.25  # of a tone's power: it is on (half its amplitude: where its edge truly is)
_STEADY = 768  # in which a dial tone is lines, and a voice is not
_BELOW = slice(6, 19)  # bins of the fit: 188 to 563 Hz
_DIAL_TONE = 4.0  # its power over a key's, at most
_CLIPPED = 0.06  # of the samples at the rim: the sound was clipped


@dataclass(frozen=True, slots=True)
class Key:
    """A key: one of 0-9 A-D * #. Counted in frames at 8 kHz from the first fed."""

    key: str
    from_frame: int
    until_frame: int


def high_pass(cutoff_hz: float, taps: int) -> _Floats:
    """A linear-phase high-pass (odd number of taps, Kaiser window, 50 dB)."""
    n = np.arange(taps) - taps // 2
    low = np.sinc(2 * cutoff_hz / RATE_HZ * n) * np.kaiser(taps, 4.5)
    response: _Floats = (n == 0).astype(float) - low / low.sum()
    return response


def _dial_tone(sound: _Floats) -> NDArray[np.bool_]:
    """Whether all that is below the keys, in each row of _STEADY samples, is one line or two of a dial tone."""
    window = np.hanning(_STEADY + 1)[:-1]
    power = np.abs(np.fft.rfft(sound * window)) ** 2
    hz = np.arange(power.shape[1]) * (RATE_HZ / _STEADY)
    power[:, (hz < 180) | (hz > 580)] = 0.0
    whole = power.sum(axis=1)
    dial = np.where((hz > 330) & (hz < 500), power, 0.0)
    lines = np.zeros(len(sound))
    for _ in range(2):
        line = np.abs(np.arange(len(hz)) - dial.argmax(axis=1)[:, None]) <= 2
        lines += (power * line).sum(axis=1)
        dial[line] = 0.0
        power[line] = 0.0
    steady: NDArray[np.bool_] = lines > 0.9 * whole
    return steady


@dataclass
class _On:
    """The pair that is on now."""

    pair: tuple[int, int]
    power: tuple[float, float]
    from_frame: float = 0.0
    until_frame: float = 0.0
    good: int = 1  # looks at which the fit held
    off_since: int | None = None  # look


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tones at once: which of each group, and when. Frames as in Key."""

    low: int
    high: int
    from_frame: int
    until_frame: int


class PairReceiver:
    """Finds two tones at once, one of each group. Any chunking gives the same pairs; never raises on finite samples."""

    def __init__(
        self,
        low_hz: Sequence[float],
        high_hz: Sequence[float],
        *,
        tolerance: float = 0.022,
        residual_db: float = -7.0,
        twist_db: tuple[float, float] = (-10.0, 6.0),
        shortest_s: float = 0.028,
        drop_out_s: float = 0.02,
        looks: int = 10,
    ) -> None:
        """tolerance: of frequency. residual_db: what the fit may leave. twist_db: the high tone over the low one.

        looks: made at once; fewer answer sooner, more cost less.
        """
        self._looks, self._block_size = looks, looks * _HOP
        self._span = self._block_size - _HOP + _FIT  # what a block of looks sees
        self._hz = np.array([*low_hz, *high_hz])
        self._split = len(low_hz)
        self._tolerance_hz = self._hz * tolerance
        self._residual = 10 ** (residual_db / 10)
        self._twist = (10 ** (twist_db[0] / 10), 10 ** (twist_db[1] / 10))
        self._shortest = shortest_s * RATE_HZ
        self._bridged = round(drop_out_s * RATE_HZ / _HOP)
        # Dial tone and hum end below 490 Hz, the lowest key tone begins at 680 Hz.
        self._filter = high_pass(570.0, 127)
        self._delay = len(self._filter) // 2
        window = np.hanning(_WINDOW + 1)[:-1]
        self._window = window / window.sum()
        n = np.arange(_WINDOW) - _WINDOW // 2
        kernel = 2 * self._window[:, None] * np.exp(-2j * np.pi * n[:, None] * self._hz / RATE_HZ)
        self._kernel = np.hstack([kernel.real, kernel.imag])
        self._turn = np.exp(-2j * np.pi * self._hz * _HOP / RATE_HZ)
        self._least = 10 ** ((_LEVEL_DBM0 - FULL_SCALE_DBM0) / 10)  # square of the amplitude
        self._pending = np.empty(0)
        self._raw = np.zeros(_LONG + self._block_size)
        self._filtered = np.zeros(self._span)
        self._powers = np.zeros((_BEFORE, len(self._hz)))
        self._pairs = np.full((_BEFORE, 2), -1)
        self._fit_window = np.hanning(_FIT + 1)[:-1]
        self._long_window = np.hanning(_LONG + 1)[:-1]
        self._look = 0  # number of the next look
        self._on: _On | None = None

    @property
    def on_frames(self) -> tuple[int, int] | None:
        """From and until, so far, of a pair that goes on."""
        if self._on is None or self._on.good < 2:
            return None
        return max(0, round(self._on.from_frame)), round(self._at(_BEFORE))

    def feed(self, samples: NDArray[Any]) -> list[Pair]:
        """samples: any number, 8 kHz, full scale 1.0. Pairs that ended, in order."""
        self._pending = np.concatenate([self._pending, np.asarray(samples, dtype=np.float64)])
        found: list[Pair] = []
        blocks = len(self._pending) // self._block_size
        for number in range(blocks):
            self._block(self._pending[number * self._block_size : (number + 1) * self._block_size], found)
        self._pending = self._pending[blocks * self._block_size :].copy()
        return found

    def _block(self, block: _Floats, found: list[Pair]) -> None:
        self._raw = np.concatenate([self._raw[self._block_size :], block])
        fresh = np.convolve(self._raw[-self._block_size - 2 * self._delay :], self._filter, "valid")
        self._filtered = np.concatenate([self._filtered[self._block_size :], fresh])
        views = np.lib.stride_tricks.sliding_window_view(self._filtered[_FIT // 2 - _HOP - _WINDOW // 2 :], _WINDOW)
        seen = views[: (self._looks + 2) * _HOP : _HOP]  # a look before the first and one after the last
        both = seen @ self._kernel
        tones = both[:, : len(self._hz)] + 1j * both[:, len(self._hz) :]
        power = tones.real**2 + tones.imag**2
        low = power[1:-1, : self._split].argmax(axis=1)
        high = power[1:-1, self._split :].argmax(axis=1) + self._split
        looks = np.arange(self._looks)
        low_power, high_power = power[looks + 1, low], power[looks + 1, high]
        sound = (seen[1:-1] ** 2) @ self._window
        worth = (
            (low_power + high_power > 2 * _SCREEN * sound)
            & (np.minimum(low_power, high_power) > self._least / 4)
            & (high_power < 4 * self._twist[1] * low_power)
            & (high_power > self._twist[0] / 4 * low_power)
        )
        self._powers = np.concatenate([self._powers[-_BEFORE:], power[1:-1]])
        pairs = np.stack([low, high], axis=1)
        self._pairs = np.concatenate([self._pairs[-_BEFORE:], np.where(worth[:, None], pairs, -1)])
        good: dict[int, tuple[int, int]] = {}
        if worth.any():
            turned = tones[1:] * tones[:-1].conj() * self._turn
            off_hz = np.angle(turned[1:] + turned[:-1]) * (RATE_HZ / _HOP / 2 / np.pi)
            near = np.abs(off_hz) < self._tolerance_hz
            chosen = np.flatnonzero(worth & near[looks, low] & near[looks, high])
            if len(chosen):
                hz = self._hz[pairs[chosen]] + off_hz[chosen[:, None], pairs[chosen]]
                chosen = chosen[self._fits(chosen, hz)]
            if not len(chosen) and self._on is None:
                chosen = self._outstanding(worth)
            good = {int(look): (int(low[look]), int(high[look])) for look in chosen}
        if good or self._on is not None:
            self._follow(good, found)
        self._look += self._looks

    def _fits(self, looks: NDArray[np.int64], hz: _Floats) -> NDArray[np.bool_]:
        """Whether two sinusoids at hz (looks, 2) are nearly all of the sound around each look."""
        at = looks[:, None] * _HOP + np.arange(_FIT)
        raw_at = at + len(self._raw) - self._span - self._delay
        raw = self._raw[raw_at]
        residual, tones = self._fit(self._filtered[at], hz, None)
        size = np.abs(raw)
        rim = size >= 0.98 * size.max(axis=1, keepdims=True)
        part = rim.mean(axis=1)
        clipped = (part > _CLIPPED) & (part < 0.6) & (residual > self._residual * tones)
        if clipped.any():
            # Clipping leaves a lot that is no tone, but only where it clipped: the other samples still tell.
            residual[clipped], tones[clipped] = self._fit(raw[clipped], hz[clipped], ~rim[clipped])
        holds = residual <= self._residual * tones
        if holds.any():
            # A voice has most of itself below the keys. Dial tone is there too, but it is one or two steady lines.
            low = (np.abs(np.fft.rfft(raw[holds] * self._fit_window)) ** 2)[:, _BELOW].sum(axis=1)
            low *= 2 / (_FIT * (self._fit_window**2).sum())
            voiced = residual[holds] + low > self._residual * tones[holds]
            hidden = low > _DIAL_TONE * tones[holds]
            if (voiced & ~hidden).any():
                steady = raw_at[np.flatnonzero(holds)[voiced], -1:] + np.arange(1 - _STEADY, 1)
                voiced[voiced] = ~_dial_tone(self._raw[steady])
                voiced |= hidden
            holds[holds] = ~voiced
        return holds

    def _fit(self, sound: _Floats, hz: _Floats, used: NDArray[np.bool_] | None) -> tuple[_Floats, _Floats]:
        """Mean power of what two sinusoids leave of the sound, and of the sinusoids; 0 where they are no pair."""
        angle = 2 * np.pi / RATE_HZ * hz[:, :, None] * (np.arange(_FIT) - _FIT // 2)
        basis = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)  # low cos, high cos, low sin, high sin
        weighted = basis if used is None else basis * used[:, None, :]
        right = weighted @ sound[:, :, None]
        solution = np.linalg.solve(weighted @ basis.transpose(0, 2, 1) + 1e-9 * np.eye(4), right)[:, :, 0]
        explained = (solution * right[:, :, 0]).sum(axis=1)
        whole = (sound**2).sum(axis=1) if used is None else (sound**2 * used).sum(axis=1)
        samples = _FIT if used is None else used.sum(axis=1)
        low, high = solution[:, 0] ** 2 + solution[:, 2] ** 2, solution[:, 1] ** 2 + solution[:, 3] ** 2
        pair = (np.minimum(low, high) > self._least) & (high <= self._twist[1] * low) & (high >= self._twist[0] * low)
        return (whole - explained) / samples, np.where(pair, explained / samples, 0.0)

    def _outstanding(self, worth: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The looks of this block that show one pair, seen for long, that stands alone in the spectrum."""
        recent = self._pairs[-_LONG_LOOKS:]
        pair = recent[-1]
        same = (recent == pair).all(axis=1)
        if pair[0] < 0 or same.mean() < 0.8:
            return np.empty(0, dtype=np.int64)
        end = len(self._raw) - self._delay - _FIT // 2 + _WINDOW // 2
        power = np.abs(np.fft.rfft(self._raw[end - _LONG : end] * self._long_window)) ** 2
        bins = np.arange(len(power)) * (RATE_HZ / _LONG)
        tones = [np.abs(bins - self._hz[tone]) <= self._tolerance_hz[tone] for tone in pair]
        peaks = [float(power[tone].max()) for tone in tones]
        lines = [np.abs(bins - bins[tone][power[tone].argmax()]) < 3 * RATE_HZ / _LONG for tone in tones]
        other = power[~(lines[0] | lines[1]) & (bins > 90)]
        if min(peaks) < _OUTSTANDING * other.max():
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(worth & same[-self._looks :])

    def _follow(self, good: dict[int, tuple[int, int]], found: list[Pair]) -> None:
        """Make pairs with a beginning and an end of what was seen at each look."""
        for number in range(self._looks):
            row = _BEFORE + number  # in powers
            look = self._look + number
            on = self._on
            if on is not None:
                above = self._above(on, row)
                if above >= _ON:
                    on.off_since = None
                elif on.off_since is None:
                    on.off_since = look
                    on.until_frame = self._edge(on, row - 1, row)
                if on.off_since is not None and look - on.off_since >= self._bridged:
                    self._end(found)
            if number not in good:
                continue
            pair = good[number]
            powers = float(self._powers[row, pair[0]]), float(self._powers[row, pair[1]])
            if self._on is not None and self._on.pair == pair:
                self._on.good += 1
                self._on.power = powers
                continue
            if self._on is not None and self._on.off_since is None:
                self._on.until_frame = self._at(row)
            self._end(found)
            self._on = _On(pair, powers)
            first = row
            while first > 0 and self._above(self._on, first - 1) >= _ON:
                first -= 1
            self._on.from_frame = self._edge(self._on, first - 1, first) if first else self._at(0)

    def _above(self, on: _On, row: int) -> float:
        """The weaker of both tones at a look, as part of its power."""
        return min(
            float(self._powers[row, on.pair[0]]) / on.power[0], float(self._powers[row, on.pair[1]]) / on.power[1]
        )

    def _at(self, row: int) -> float:
        """The frame in the middle of a look."""
        return (self._look + row - _BEFORE) * _HOP + self._block_size - self._span - self._delay + _FIT // 2

    def _edge(self, on: _On, before: int, after: int) -> float:
        """The frame where half the amplitude is crossed between two looks."""
        one, two = self._above(on, before) ** 0.5, self._above(on, after) ** 0.5
        part = min(1.0, max(0.0, (_ON**0.5 - one) / (two - one))) if one != two else 0.5
        return self._at(before) + part * _HOP

    def _end(self, found: list[Pair]) -> None:
        on, self._on = self._on, None
        if on is None:
            return
        if on.good >= 2 and on.until_frame - on.from_frame >= self._shortest:
            found.append(
                Pair(on.pair[0], on.pair[1] - self._split, max(0, round(on.from_frame)), round(on.until_frame))
            )


class DtmfReceiver:
    """Keys in the sound of a line, told within 100 ms of their end."""

    _KEYS = ("123A", "456B", "789C", "*0#D")

    def __init__(self) -> None:
        self._pairs = PairReceiver((697, 770, 852, 941), (1209, 1336, 1477, 1633))

    @property
    def key_since(self) -> tuple[int, int] | None:
        """The frames of a key that goes on, as far as it is known."""
        return self._pairs.on_frames

    def feed(self, samples: NDArray[Any]) -> list[Key]:
        """samples: any number, 8 kHz, full scale 1.0. Any chunking gives the same keys."""
        return [Key(self._KEYS[p.low][p.high], p.from_frame, p.until_frame) for p in self._pairs.feed(samples)]


@dataclass(frozen=True, slots=True)
class KeyedMessage:
    """A caller-ID message sent as keys. Frames as in Key."""

    from_frame: int
    until_frame: int
    message: Message


class DtmfCallerId:
    """The caller's number sent as keys before the first ring (ETSI EN 300 659-1, all four variants).

    A number without a start mark (`<number>#`, as some networks send it) is none: anybody may key just that.
    """

    _GAP = RATE_HZ  # keys further apart do not belong together
    _LONGEST = 60
    # Each field may be left out, but not all of them.
    _FIELDS = re.compile(r"(?=[ABD])(?:A(?P<number>\d*))?(?:D(?P<redirecting>\d*))?(?:B(?P<reason>\d*))?C")

    def __init__(self) -> None:
        self._keys: list[Key] = []

    def feed(self, key: Key) -> KeyedMessage | None:
        """The message that this key ends; None: it ends none."""
        if self._keys and (key.from_frame - self._keys[-1].until_frame > self._GAP or len(self._keys) == self._LONGEST):
            self._keys.clear()
        if not self._keys and key.key not in "ABD":
            return None
        self._keys.append(key)
        if key.key not in "C#*":
            return None
        keys, self._keys = self._keys, []
        message = self._message("".join(each.key for each in keys))
        return KeyedMessage(keys[0].from_frame, key.until_frame, message) if message else None

    def _message(self, keys: str) -> Message | None:
        if keys in ("D1#", "D2#", "D3#"):
            number, redirecting, reason = None, None, "10" if keys == "D1#" else "00"
        elif re.fullmatch(r"A\d+#|D\d+C", keys):
            number, redirecting, reason = keys.strip("ACD#"), None, None
        elif fields := self._FIELDS.fullmatch(keys):
            number, redirecting, reason = fields["number"], fields["redirecting"], fields["reason"]
        else:
            return None
        if not (number or redirecting or reason):
            return None
        presentation: Presentation = "unavailable"
        if reason == "10":
            presentation = "withheld"
        elif number and reason != "00":
            presentation = "allowed"
        return Message(
            standard="dtmf",
            checksum="absent",
            presentation=presentation,
            number=number if presentation == "allowed" else None,
            redirecting=redirecting or None,
            parameters={},
            octets=keys.encode("ascii"),
        )
