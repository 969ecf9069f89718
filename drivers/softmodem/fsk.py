"""Caller-ID frames on the line: Bell 202, V.23 and the Japanese one. Samples in, frames out; no thread, no clock.

A cheap gate looks for the mark tone that comes before every message; only where it ends is anything expensive done.
There the message is read twice:
- bit-synchronously, by a Viterbi search over the last bits sent. FSK keeps its phase from bit to bit, so every survivor
  carries the phase of its own past, and a bit is judged together with its neighbours: about 3 dB better than
  judging each bit alone by the louder tone.
- character by character, each timed by its own start bit, for senders that pause between characters.
A checksum met by chance would be a wrong number: a reading counts only if its framing is right and the next best
reading that the checksum would let pass is far less likely.
"""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from drivers.softmodem.frames import MDMF, SDMF, WAITING, FskStandard, Message, decode_message, missing_octets

Reals = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]

RATE_HZ = 8000
BAUD = 1200
_CENTRE_HZ = 1700  # between mark and space, of both pairs
_SHIFT_HZ = {"bell202": 500, "v23": 400}  # mark below, space above
_FINE = 3  # samples are interpolated this often
_FINE_HZ = RATE_HZ * _FINE
_BIT = _FINE_HZ // BAUD  # fine samples a bit
_BIT_FRAMES = RATE_HZ / BAUD

# The gate: windows of 20 ms every 10 ms.
_HOP = 80
_WINDOW = 160
_MARK_BINS = slice(23, 28)  # of 50 Hz: 1150 to 1350 Hz
_BAND_BINS = slice(14, 55)  # 700 to 2700 Hz
_MARK_SHARE = 0.55  # of the band's energy: a tone 1 dB under the noise has it, speech for moments, noise never
_MARK_TURN = 1.3  # radians in 10 ms beside 1200 or 1300 Hz: 20 Hz
_QUIETEST = 1e-6  # of full scale, root mean square

_STEP = 2 * _HOP
_KEPT_FRAMES = 4 * RATE_HZ  # the longest message (258 characters: 2.2 s) and what stands around it
_PREAMBLE_BITS = 12  # of mark, looked at together with the first character
_HEADER_FRAMES = 480  # after the mark's end, before a beginning is looked for
_HEADER_SCORE = 0.6  # of the loudness of 22 bits that speaks for one of the four beginnings
_FIRST_LOOK_BITS = 84
_READERS = 4  # at a time
_LONGEST_BITS = 2800
_RETRY_FRAMES = 800
_PLAIN_OCTETS = 12  # a message with a wrong checksum is told if it was at least this long
_EDGE_FRAMES = 16  # of sound after the last bit, before it is judged

_MEMORY_BITS = 5  # of the Viterbi search: 32 survivors
_PHASE_MEMORY = 0.85  # of a survivor's phase, a bit
_LEAD_BITS = 3  # searched before the first start bit
_MARGIN = 11.0  # ln of the odds against the next best message that the sum would let pass
_CLEAR = 9.0  # power of the signal by that of the noise on a bit, for characters read one by one
_OPEN = 0.55  # of the usual strength: what two bits must have together that would pass the sum if both were wrong
_FADED = 0.4  # of the usual strength: the signal is over

_JP: tuple[FskStandard, bytes] = ("jp", bytes.fromhex("9081879082"))

_BEGINNINGS = np.array(
    [
        [1] * _PREAMBLE_BITS + [-1] + [1 if octet >> bit & 1 else -1 for bit in range(8)] + [1]
        for octet in (MDMF, WAITING, SDMF, 0x90)
    ]
)


@dataclass(frozen=True, slots=True)
class Frame:
    """A message heard on the line. Frames are counted from the first sample fed.

    from_frame: where the mark tone before it begins; until_frame: the end of its last bit.
    """

    standard: FskStandard
    from_frame: int
    until_frame: int
    message: Message


@dataclass(frozen=True, slots=True)
class _Reading:
    """Characters read one after the other, until the signal faded or its framing was lost."""

    octets: bytes
    ends: tuple[float, ...]  # frames where they end
    faults: tuple[int, ...]  # octets whose stop bit is missing
    margin: float  # ln of the odds against another reading with the same sum
    over: bool  # the signal faded after the last octet


@dataclass(slots=True)
class _Reader:
    """A place where a message may begin, because the mark tone ended there."""

    mark_from: int
    mark_until: int
    pair: str  # whose mark it was
    due: int  # frame at which to look (again)
    starts: dict[str, float] = field(default_factory=dict)  # the first start bit, by tone pair, the likelier first
    heard: int = 0  # octets, at the last look


class FskReceiver:
    """Listens to one line. Thread: one at a time."""

    def __init__(self, rate_hz: int = RATE_HZ, standards: tuple[FskStandard, ...] = ("bell202", "v23", "jp")) -> None:
        if rate_hz != RATE_HZ:
            raise ValueError(f"the receiver takes {RATE_HZ} samples a second, not {rate_hz}")
        self._standards = standards
        self._pairs = [pair for pair in _SHIFT_HZ if pair in standards or (pair == "v23" and "jp" in standards)]
        self._sound = np.zeros(2 * _KEPT_FRAMES)
        self._fill = 0  # samples in _sound
        self._until = 0  # frame after the last of them
        self._gated = 0  # frame up to which the gate has looked
        self._before: npt.NDArray[np.complex128] = np.zeros(_MARK_BINS.stop - _MARK_BINS.start, complex)
        self._marks = 0  # windows of mark, one after the other
        self._higher = 0.0  # energy of the mark at 1300 Hz beyond that at 1200 Hz
        self._readers: list[_Reader] = []
        self._reported_until = 0

    def feed(self, samples: npt.NDArray[np.floating[Any]]) -> list[Frame]:
        """Take samples, full scale 1.0, in pieces of any size; return the frames that ended in them."""
        frames: list[Frame] = []
        for at in range(0, len(samples), _KEPT_FRAMES // 8):
            piece = samples[at : at + _KEPT_FRAMES // 8]
            if self._fill + len(piece) > len(self._sound):
                self._sound[:_KEPT_FRAMES] = self._sound[self._fill - _KEPT_FRAMES : self._fill]
                self._fill = _KEPT_FRAMES
            self._sound[self._fill : self._fill + len(piece)] = piece
            self._fill += len(piece)
            self._until += len(piece)
            while self._until - self._gated >= _STEP:
                self._gated += _STEP
                self._gate()
                for reader in [reader for reader in self._readers if reader.due <= self._gated]:
                    frame = self._look(reader)
                    if frame is not None:
                        frames.append(frame)
                        self._reported_until = frame.until_frame
                self._readers = [r for r in self._readers if r.due > self._gated]
        return frames

    def _cut(self, begin: int, end: int) -> Reals:
        """Sound between two frames, as far as it is kept."""
        first = self._until - self._fill
        return self._sound[max(0, begin - first) : max(0, end - first)]

    def _gate(self) -> None:
        """Look for the mark tone in the last two windows; where it ended, set a reader."""
        sound = self._cut(self._gated - _STEP - _HOP, self._gated)
        if len(sound) < _STEP + _HOP:
            return
        windows = np.lib.stride_tricks.sliding_window_view(sound, _WINDOW)[::_HOP]
        spectra = np.fft.rfft(windows)[:, _BAND_BINS]
        energies = np.einsum("ij,ij->i", spectra, spectra.conj()).real
        tones = spectra[:, _MARK_BINS.start - _BAND_BINS.start : _MARK_BINS.stop - _BAND_BINS.start]
        for number, (tone, energy) in enumerate(zip(tones, energies.tolist(), strict=True)):
            turn = complex(np.vdot(self._before, tone))
            self._before = tone
            loud = energy > (_QUIETEST * _WINDOW) ** 2
            if loud and np.vdot(tone, tone).real > _MARK_SHARE * energy and abs(cmath.phase(turn)) < _MARK_TURN:
                self._marks += 1
                self._higher += float(abs(tone[3]) - abs(tone[1]))
                continue
            until = self._gated - (len(tones) - number) * _HOP
            if self._marks >= 2 and len(self._readers) < _READERS:
                pair = self._pairs[-1 if self._higher > 0 else 0]
                self._readers.append(_Reader(until - (self._marks + 1) * _HOP, until, pair, until + _HEADER_FRAMES))
            self._marks = 0
            self._higher = 0.0

    def _look(self, reader: _Reader) -> Frame | None:
        """Read as far as there is sound. Sets when to look again; a reader that is left overdue is finished."""
        if not reader.starts:
            self._find_start(reader)
            if reader.starts:
                reader.due = max(self._gated + 1, int(max(reader.starts.values()) + _FIRST_LOOK_BITS * _BIT_FRAMES))
            return None
        if min(reader.starts.values()) < self._reported_until:
            return None
        attempts: list[tuple[FskStandard, _Reading, int]] = []
        damaged: list[tuple[_Reading, int]] = []
        for pair, start in reader.starts.items():
            tones = _Tones(self._cut(int(start) - 120, self._gated), pair)
            first = start - max(int(start) - 120, self._until - self._fill)
            characters = tones.by_character(first)
            for reading in (tones.in_step(first, characters), characters):
                standard: FskStandard = "jp" if reading.octets[:1] == b"\x90" else _of_pair(reader.pair)
                missing = missing_octets(reading.octets, standard) if standard in self._standards else -1
                if missing < 0:
                    for standard, octets in _mended(reading.octets, _of_pair(reader.pair)):
                        missing = missing_octets(octets, standard) if standard in self._standards else -1
                        message = None if missing else decode_message(octets, standard)
                        if message and message.checksum == "ok" and _framed(message, reading):
                            end = start - first + reading.ends[len(message.octets) - 1]
                            sent = reading.octets[: len(message.octets)]
                            return Frame(standard, reader.mark_from, round(end), _corrupt(standard, sent))
                        if missing > 0 and not reading.faults:
                            damaged.append((reading, missing))
                    continue
                message = decode_message(reading.octets, standard) if not missing or reading.over else None
                if message and _believable(message, reading):
                    end = start - first + reading.ends[len(message.octets) - 1]
                    return Frame(standard, reader.mark_from, round(end), message)
                attempts.append((standard, reading, missing))
        return self._wait_or_give_up(reader, attempts, damaged)

    def _wait_or_give_up(
        self, reader: _Reader, attempts: list[tuple[FskStandard, _Reading, int]], damaged: list[tuple[_Reading, int]]
    ) -> Frame | None:
        """damaged: readings whose beginning is nearly that of a message, and what they lack."""
        begun = [(reading, missing) for _, reading, missing in attempts if missing] if attempts else damaged
        waiting = [(reading, missing) for reading, missing in begun if not reading.over]
        start = min(reader.starts.values())
        if self._gated - start < _LONGEST_BITS * _BIT_FRAMES:
            if waiting:
                waits = []
                for reading, missing in waiting:
                    period = 10 * _BIT_FRAMES
                    if len(reading.ends) > 2:
                        period = max(period, (reading.ends[-1] - reading.ends[0]) / (len(reading.ends) - 1))
                    waits.append(start + (len(reading.octets) + missing) * period)
                reader.due = max(int(min(waits)) + _EDGE_FRAMES, self._gated + _HOP)
                return None
            heard = max((len(reading.octets) for _, reading, _ in attempts), default=0)
            if heard > reader.heard:  # it goes on: the length may be wrong
                reader.heard = heard
                reader.due = self._gated + _RETRY_FRAMES
                return None
        if not attempts:
            return None
        standard, reading, _ = min(attempts, key=lambda attempt: 8 * len(attempt[1].faults) - len(attempt[1].octets))
        message = decode_message(reading.octets, standard)
        if message is None or len(reading.faults) > len(reading.octets) // 8:
            return None
        octets = message.octets
        if len(octets) < _PLAIN_OCTETS and not reading.faults and reading.over:
            octets = reading.octets  # it is longer than it says
        if len(octets) < _PLAIN_OCTETS:
            return None
        length = (reading.ends[-1] - reading.ends[0]) * len(reading.ends) / (len(reading.ends) - 1)
        return Frame(standard, reader.mark_from, round(start + length), _corrupt(standard, octets))

    def _find_start(self, reader: _Reader) -> None:
        """The likeliest place of the first start bit, by tone pair, if a message begins there at all."""
        begin = reader.mark_until - 480
        sound = self._cut(begin, self._gated)
        begin = self._gated - len(sound)
        found = []
        for pair in self._pairs:
            difference = _Tones(sound, pair).difference
            count = len(difference) - (_BEGINNINGS.shape[1] - 1) * _BIT
            if count <= 0:
                return
            taps = np.arange(_BEGINNINGS.shape[1]) * _BIT
            bits = difference[taps[:, None] + np.arange(count)]
            total = np.abs(bits).sum(axis=0) + 1e-30
            scores = (_BEGINNINGS @ bits) / total
            place = int(np.argmax((scores * total).max(axis=0)))
            score = float(scores[:, place].max())
            if score > _HEADER_SCORE:
                found.append((float(total[place]) * score, pair, begin + place / _FINE + _PREAMBLE_BITS * _BIT_FRAMES))
        reader.starts = {pair: start for _, pair, start in sorted(found, reverse=True)}


def _of_pair(pair: str) -> FskStandard:
    return "bell202" if pair == "bell202" else "v23"


def _believable(message: Message, reading: _Reading) -> bool:
    """Whether a message is what was sent: its checksum is right, its framing too, and nothing else is as likely."""
    if message.checksum != "ok" or not _framed(message, reading):
        return False
    return message.standard == "jp" or reading.margin > _MARGIN


def _framed(message: Message, reading: _Reading) -> bool:
    return not any(fault < len(message.octets) for fault in reading.faults)


def _corrupt(standard: FskStandard, octets: bytes) -> Message:
    return Message(standard=standard, checksum="failed", presentation="corrupt", parameters={}, octets=octets)


def _mended(octets: bytes, standard: FskStandard) -> Iterator[tuple[FskStandard, bytes]]:
    """What may have been sent where one bit of a message's beginning is wrong. standard: of the tones."""
    for other, begin in ((standard, bytes((MDMF,))), (standard, bytes((SDMF,))), (standard, bytes((WAITING,))), _JP):
        wrong = sum((is_ ^ should).bit_count() for is_, should in zip(octets, begin, strict=False))
        if wrong == 1 and len(octets) > len(begin):
            yield other, begin + octets[len(begin) :]


class _Tones:
    """A piece of sound as a pair of tones: how much of each there is in a bit that begins at any fine sample."""

    def __init__(self, sound: Reals, pair: str) -> None:
        self._turn = 2 * math.pi * _SHIFT_HZ[pair] / _FINE_HZ  # radians a fine sample, mark downwards
        centred = _centred(sound)
        self._turns = np.exp(1j * self._turn * np.arange(len(centred)))
        self._mark = _summed(centred * self._turns)
        self._space = _summed(centred * self._turns.conj())
        mark = np.abs(self._mark[_BIT:] - self._mark[:-_BIT])
        space = np.abs(self._space[_BIT:] - self._space[:-_BIT])
        self.difference: Reals = mark - space  # for a bit that begins here: mark above 0

    def in_step(self, start: float, characters: _Reading) -> _Reading:
        """Read bits of even length, judged together. start: frame of the first start bit."""
        clocks = [self._clock(start * _FINE)]
        ends = np.array(characters.ends) * _FINE
        if len(ends) > 3:  # characters that followed each other at once tell the clock too
            pitch, first = np.polyfit(np.arange(len(ends)) + 1, ends, 1)
            if abs(pitch / (10 * _BIT) - 1) < 0.015:
                clocks.append((float(first), float(pitch) / 10))
        heard = []
        for begin, length in clocks:
            begin, length = self._tuned(begin, length, self._bits(begin, length)[0])
            heard.append((*self._bits(begin, length), begin, length))
        bits, events, strengths, begin, length = max(heard, key=lambda one: float(one[2].mean()))
        return _slice(bits, events, strengths, (begin - _LEAD_BITS * length) / _FINE, length / _FINE)

    def by_character(self, start: float) -> _Reading:
        """Read characters, each timed by its own start bit."""
        size = np.abs(self.difference)
        usual = float(np.median(size[int(start) * _FINE :: _BIT // 2])) or 1.0
        octets = bytearray()
        ends: list[float] = []
        faults: list[int] = []
        loudness: list[float] = []
        line: list[int] = []
        place_of: dict[int, tuple[int, int]] = {}
        taps = np.arange(10) * _BIT
        signs = self.difference
        place = round(start * _FINE)
        falls = np.flatnonzero(signs[place - _BIT : place + _BIT // 2] < 0)
        if len(falls):
            place += int(falls[0]) - _BIT // 2
        over = False
        while True:
            tries = [at for at in range(place - 5, place + 6) if at >= 0 and at + 9 * _BIT < len(self.difference)]
            if not tries:
                break
            place = max(tries, key=lambda at: float(size[at + taps[1:9]].sum() - signs[at] + signs[at + 9 * _BIT]))
            bits = self.difference[place + taps]
            if float(np.abs(bits).mean()) < _FADED * usual:
                over = True
                break
            place_of |= {len(line) + 1 + bit: (len(octets), bit) for bit in range(8)}
            line += (bits > 0).astype(int).tolist()
            loudness += np.abs(bits).tolist()
            if bits[9] < 0 or bits[0] > 0:
                faults.append(len(octets))
            octets.append(int(np.dot(bits[1:9] > 0, 1 << np.arange(8))))
            ends.append((place + 10 * _BIT) / _FINE)
            idle = self.difference[place + 9 * _BIT + _BIT // 4 : place + 40 * _BIT]
            falls = np.flatnonzero(idle < 0)
            if not len(falls):
                over = len(idle) >= 30 * _BIT
                break
            place += 9 * _BIT + _BIT // 4 + int(falls[0]) + _BIT // 2
        sizes = np.array(loudness)
        noisy = False
        odds = np.empty(len(sizes))
        for tone in (0, 1):  # each for itself: a long line weakens the higher one, and that is no noise
            bits = np.array(line) == tone
            usual = float(np.median(sizes[bits])) if bits.any() else 1.0
            noisy |= _odds_scale(sizes[bits]) * usual < _CLEAR
            # Timing and filters, not noise, make the weakest bits of a clear signal: it counts how open the eye is.
            odds[bits] = sizes[bits] * (_MARGIN / _OPEN / usual)
        events = [_Event(float(odds[bit]), (bit,)) for bit in np.flatnonzero(odds < _MARGIN).tolist()]
        margin = 0.0 if noisy else _margin(line, events, place_of)
        return _Reading(bytes(octets), tuple(ends), tuple(faults), margin, over)

    def _clock(self, start: float) -> tuple[float, float]:
        """Begin of the first bit and length of a bit, in fine samples: where the tones are most distinct."""
        size = np.abs(self.difference)
        begin, length = start, float(_BIT)
        spread, span = 0.012 * _BIT, 5.0
        whole = int((len(size) - start) / (_BIT * 1.012))
        for count in sorted({min(whole, part) for part in (80, 240, 720, whole)}):
            if count < 8:
                break
            numbers = np.arange(count)
            lengths = length + np.linspace(-spread, spread, 2 * math.ceil(spread * count / 1.5) + 1)
            begins = begin + np.linspace(-span, span, 2 * math.ceil(span) + 1)
            places = begins[:, None, None] + lengths[None, :, None] * numbers
            sums = size[np.clip(np.rint(places).astype(int), 0, len(size) - 1)].sum(axis=2)
            best = np.unravel_index(int(sums.argmax()), sums.shape)
            begin, length = float(begins[best[0]]), float(lengths[best[1]])
            spread, span = 3.0 / count, 2.0
        return begin, length

    def _bits(self, begin: float, length: float) -> tuple[npt.NDArray[np.int64], list[_Event], Reals]:
        count = int((len(self.difference) + _BIT - 1 - begin) / length)
        mark, space = self._between(begin + length * np.arange(-_PREAMBLE_BITS, count + 1))
        return _search(mark, space, self._turn * length)

    def _tuned(self, begin: float, length: float, bits: npt.NDArray[np.int64]) -> tuple[float, float]:
        """The clock that makes these bits follow each other with the most even phase, near the given one.

        A clock that is late by a tenth of a bit turns the phase by half a radian at every change of the tone, so this
        is much sharper than loudness alone.
        """
        numbers = np.arange(len(bits) + 1) - _LEAD_BITS
        late = np.arange(-4.0, 4.5)
        later = np.arange(-8.0, 8.5)  # at the last bit
        begins = (begin + late)[:, None, None]
        lengths = (length + (later[None, :] - late[:, None]) / len(bits))[:, :, None]
        mark, space = self._between(begins + lengths * numbers)
        tones = np.where(bits == 1, mark, space)
        turns = np.where(bits == 1, -1, 1) * self._turn * lengths
        tones *= np.exp(-1j * (np.cumsum(turns, axis=2) - turns))
        past = _summed(tones)
        reach = 6
        run = past[..., reach:-1] - past[..., : -reach - 1]
        scores = np.einsum("ijk,ijk->ij", tones[..., reach:], run.conj()).real
        best = np.unravel_index(int(scores.argmax()), scores.shape)
        return float(begins[best[0], 0, 0]), float(lengths[best[0], best[1], 0])

    def _between(self, places: npt.NDArray[np.floating[Any]]) -> tuple[Complexes, Complexes]:
        """What there is of mark and space between places, with the phase that a tone would have at each place."""
        places = np.clip(places, 0, len(self._mark) - 1.001)
        whole = places.astype(int)
        part = places - whole
        turned = np.exp(1j * self._turn * places[..., :-1])
        sums = []
        for summed in (self._mark, self._space):
            at = summed[whole] * (1 - part) + summed[whole + 1] * part
            sums.append(np.diff(at))
        return sums[0] * turned.conj(), sums[1] * turned


def _centred(sound: Reals) -> Complexes:
    """Sound between 500 and 3000 Hz as a complex signal around the centre of the tones, in fine samples."""
    size = -(-(len(sound) + 64) // 128) * 128
    spectrum = np.fft.rfft(sound, size)
    hertz = np.arange(len(spectrum)) * (RATE_HZ / size)
    spectrum *= np.clip((hertz - 450) / 150, 0, 1) * np.clip((3200 - hertz) / 200, 0, 1)
    wide = np.zeros(size * _FINE, complex)
    wide[: len(spectrum)] = spectrum
    analytic: Complexes = np.fft.ifft(wide)[: len(sound) * _FINE]
    analytic *= np.exp(-2j * math.pi * _CENTRE_HZ / _FINE_HZ * np.arange(len(analytic)))
    return analytic


def _summed(values: Complexes) -> Complexes:
    """Running sums along the last axis, the first of them 0."""
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1), complex)
    np.cumsum(values, axis=-1, out=sums[..., 1:])
    return sums


@dataclass(frozen=True, slots=True)
class _Event:
    """Another reading of a few bits, and how much less likely it is (ln of the odds)."""

    odds: float
    bits: tuple[int, ...]  # that would be the other way round


def _search(mark: Complexes, space: Complexes, turn: float) -> tuple[npt.NDArray[np.int64], list[_Event], Reals]:
    """Bits from _LEAD_BITS before the first start bit, the doubtful places among them, and each bit's strength.

    mark, space: correlations, a bit each, from _PREAMBLE_BITS before the start bit. turn: of the phase in a bit.
    """
    states = 1 << _MEMORY_BITS
    new = np.arange(states)
    old = np.stack([new >> 1, new >> 1 | states >> 1])
    is_mark = (new & 1).astype(bool)
    onward = np.where(is_mark, np.exp(-1j * turn), np.exp(1j * turn))
    reference = 0j
    first = _PREAMBLE_BITS - _LEAD_BITS
    for value in mark[:first].tolist():
        reference = (_PHASE_MEMORY * reference + value) * onward[1]
    phases = np.full(states, reference)
    metrics = np.full(states, -np.inf)
    metrics[-1] = 0.0
    count = len(mark) - first
    choices = np.empty((count, states), np.int8)
    losses = np.empty((count, states))
    gains = np.empty((count, states))
    with np.errstate(invalid="ignore"):
        for step in range(count):
            value = np.where(is_mark, mark[first + step], space[first + step])
            faded = _PHASE_MEMORY * phases
            summed = faded[old] + value
            gain = np.abs(summed) - np.abs(faded)[old]
            total = metrics[old] + gain
            chosen = total[1] > total[0]
            metrics = np.where(chosen, total[1], total[0])
            losses[step] = np.abs(total[1] - total[0])
            gains[step] = np.where(chosen, gain[1], gain[0])
            phases = np.where(chosen, summed[1], summed[0]) * onward
            choices[step] = chosen
    return _trace(choices, losses, gains, int(np.argmax(metrics)))


def _odds_scale(strengths: Reals) -> float:
    """What turns a difference in strength into ln of the odds: strength by variance of the noise on it."""
    if not len(strengths):
        return 1.0
    middle = float(np.median(strengths))
    spread = float(np.median(np.abs(strengths - middle))) * 1.4826
    return middle / max(spread**2, 1e-3 * middle**2, 1e-30)


def _trace(
    choices: npt.NDArray[np.int8], losses: Reals, gains: Reals, last: int
) -> tuple[npt.NDArray[np.int64], list[_Event], Reals]:
    half = 1 << (_MEMORY_BITS - 1)
    count = len(choices)
    path = np.empty(count + 1, np.int64)
    path[count] = last
    chosen = choices.tolist()
    for step in range(count - 1, -1, -1):
        path[step] = path[step + 1] >> 1 | (half if chosen[step][path[step + 1]] else 0)
    steps = np.arange(count)
    strengths = gains[steps, path[1:]]
    odds = np.nan_to_num(losses[steps, path[1:]], nan=np.inf, posinf=np.inf) * _odds_scale(strengths)
    events = []
    for step in np.flatnonzero(odds < _MARGIN).tolist():
        right, wrong = int(path[step]), int(path[step]) ^ half
        bits = []
        for back in range(step - 1, -1, -1):
            if right & 1 != wrong & 1:
                bits.append(back)
            right = int(path[back])
            wrong = wrong >> 1 | (half if chosen[back][wrong] else 0)
            if right == wrong:
                break
        events.append(_Event(float(odds[step]), tuple(bits)))
    return path[1:] & 1, events, strengths


def _slice(
    bits: npt.NDArray[np.int64], events: list[_Event], strengths: Reals, begin: float, length: float
) -> _Reading:
    """Characters out of bits: each begins at the first 0 after the last one's stop bit."""
    line = bits.tolist()
    usual = float(np.median(strengths))
    octets = bytearray()
    ends: list[float] = []
    faults: list[int] = []
    place_of: dict[int, tuple[int, int]] = {}
    at = 0
    over = False
    while True:
        idle = at
        while at < len(line) and line[at]:
            at += 1
        if at + 10 > len(line):
            over = at - idle >= 30
            break
        if float(strengths[at : at + 10].mean()) < _FADED * usual:
            over = True
            break
        if not line[at + 9]:
            faults.append(len(octets))
        for bit in range(8):
            place_of[at + 1 + bit] = (len(octets), bit)
        octets.append(sum(line[at + 1 + bit] << bit for bit in range(8)))
        at += 10
        ends.append(begin + at * length)
    return _Reading(bytes(octets), tuple(ends), tuple(faults), _margin(line, events, place_of), over)


def _margin(line: list[int], events: list[_Event], place_of: dict[int, tuple[int, int]]) -> float:
    """How much less likely the likeliest other reading with the same sum and the same framing is."""
    changes: list[tuple[float, int, frozenset[int]]] = []
    for event in events:
        if event.bits and all(bit in place_of for bit in event.bits):
            change = sum((1 - 2 * line[bit]) << place_of[bit][1] for bit in event.bits)
            changes.append((event.odds, change, frozenset(event.bits)))
    changes = sorted(changes)[:24]
    margin = math.inf
    for count in (1, 2, 3):
        for some in itertools.combinations(changes, count):
            odds = sum(change[0] for change in some)
            if odds < margin and sum(change[1] for change in some) % 256 == 0:
                touched = frozenset[int]().union(*(change[2] for change in some))
                if len(touched) == sum(len(change[2]) for change in some):
                    margin = odds
    return margin
