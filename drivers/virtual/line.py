"""The virtual line: one model of exchange, wire, telephone and tap, on virtual time.

A scenario says what people do; this model says what the unit's pins, modem and codec then see. It holds no thread and
no clock: times are ns from the start of the scenario, and the same scenario and seed give the same line, bit for bit.

Levels, referred to the line (0 dBm0 = 0.775 V rms, full scale of the codec = +3.14 dBm0): shop's voice -15 dBm0, far
voice -21, shop's voice returned by the exchange's hybrid -35, exchange tones -15, keys -9 (two tones of -12), noise
-60, hum -62. Ringing and hook edges come through the tap's high pass (69 Hz, one pole): 16 Hz is 13 dB down there and
still far above full scale, so ringing clips, and so does the first moment of every hook click.

The comparators see the voltage in the direction of the feed, sampled at 8 kHz. During ringing that voltage swings below
zero once a cycle, so the loop and the line-present comparator chatter by themselves. A cut line has no voltage, so its
loop comparator reads closed.

Not simulated: the FSK of caller ID (silence stands in its place; the modem's report comes all the same), RING reports
on start signals, call waiting, a busy far end, distinctive ringing, howler tone, the loop interruption that some
exchanges send when the far end hangs up, impedances and echo of the far network, crosstalk, what ringing does to the
polarity comparator (it is slow), charging of the line's capacitance, and a modem that does the primary answer.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from drivers.signals import Presentation
from drivers.virtual import scenario as story
from drivers.virtual import speech

Pin = Literal["loop", "ring", "line_present", "polarity"]
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PinChange:
    """A comparator changed. loop: closed; ring: above its threshold; line_present: above 3 V; polarity: reversed."""

    at_ns: int
    name: Pin
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ButtonPress:
    """The unit's button is pressed (and let go a moment later)."""

    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModemBytesDue:
    """A modem on this line has something to say; its dialect makes the bytes, except for kind "raw"."""

    at_ns: int
    kind: Literal["ring", "caller_id", "raw"]
    number: str | None = None
    presentation: Presentation = "not_received"
    name: str | None = None
    date_raw: str | None = None  # MMDDhhmm, as the exchange sent it
    raw: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A device of the unit fails or comes back; who plays the scenario makes it so."""

    at_ns: int
    device: Literal["modem", "codec", "broker", "power"]
    action: Literal["unplug", "plug", "stop", "start", "cut"]


Change = PinChange | ButtonPress | ModemBytesDue | Fault

MS = 1_000_000
SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Country:
    """What an exchange of this country does."""

    ring_hz: float
    ring_on_ns: int
    ring_off_ns: int
    hum_hz: float
    dial_hz: tuple[float, ...]
    ringback_hz: tuple[float, ...]
    ringback_modulation_hz: float  # 0: none
    ringback_on_ns: int
    ringback_off_ns: int
    busy_hz: tuple[float, ...]
    answer_reversal: bool
    caller_id_after_first_ring: bool


COUNTRIES = {
    "jp": Country(
        ring_hz=16,
        ring_on_ns=1 * SECOND,
        ring_off_ns=2 * SECOND,
        hum_hz=50,
        dial_hz=(400,),
        ringback_hz=(400,),
        ringback_modulation_hz=16,
        ringback_on_ns=1 * SECOND,
        ringback_off_ns=2 * SECOND,
        busy_hz=(400,),
        answer_reversal=True,
        caller_id_after_first_ring=False,
    ),
    "us": Country(
        ring_hz=20,
        ring_on_ns=2 * SECOND,
        ring_off_ns=4 * SECOND,
        hum_hz=60,
        dial_hz=(350, 440),
        ringback_hz=(440, 480),
        ringback_modulation_hz=0,
        ringback_on_ns=2 * SECOND,
        ringback_off_ns=4 * SECOND,
        busy_hz=(480, 620),
        answer_reversal=False,
        caller_id_after_first_ring=True,
    ),
}

# Voltages at the terminal.
IDLE_V = 48.0
OFF_HOOK_V = 8.0
RING_PEAK_V = 75.0 * 2**0.5
# Comparators: name, falls below, rises above, active while above. The loop's are fractions of the idle voltage.
COMPARATORS: tuple[tuple[Pin, float, float, bool], ...] = (
    ("loop", 0.45 * IDLE_V, 0.62 * IDLE_V, False),
    ("line_present", 3.0, 4.0, True),
    ("ring", 30.0, 60.0, True),  # sees the ringing voltage alone
)
COMPARATOR_STEP_NS = 125_000

# The wire's and the exchange's habits.
REVERSAL_NS = 10 * MS  # the feed goes from one polarity to the other
BOUNCE_NS = 8 * MS
TRIP_NS = (50 * MS, 150 * MS)  # ringing goes on this long after the lift
# Number Display
REVERSAL_TO_SIGNAL_NS = 800 * MS
SIGNAL_ON_NS = 500 * MS
SIGNAL_OFF_NS = 500 * MS
SIGNAL_NS = 6 * SECOND  # how long the exchange waits for the primary answer
PRIMARY_ANSWER_NS = (1_600 * MS, 1_800 * MS)  # the phone has heard two start signals
PRIMARY_PATIENCE_NS = 5 * SECOND  # the phone gives up without a frame
ANSWER_TO_FRAME_NS = 1 * SECOND
FRAME_NS = 400 * MS
FRAME_TO_RELEASE_NS = 200 * MS
RELEASE_TO_RING_NS = 1_500 * MS
HANDSHAKE_NS = 7 * SECOND  # a loop closed for longer was a real answer
# Modem
RING_REPORT_NS = 100 * MS
SHORTEST_RING_NS = 400 * MS
BLOCK_REPORT_NS = 150 * MS
US_BLOCK_NS = 1_200 * MS  # from the end of the first ring
# Outgoing
DIAL_TONE_NS = 300 * MS
KEY_ON_NS = 100 * MS
KEY_OFF_NS = 100 * MS
RINGBACK_NS = 2 * SECOND
BUSY_NS = 500 * MS

# Sound, in volts on the line.
FULL_SCALE_V = 0.7746 * 10 ** (3.14 / 20) * 2**0.5
TAP_HZ = 69.0


def _volts(dbm0: float) -> float:
    """Turn a level into volts rms at 600 ohm."""
    return 0.7746 * float(10 ** (dbm0 / 20))


SHOP_V = _volts(-15)
FAR_V = _volts(-21)
HYBRID_V = _volts(-35)
HYBRID_NS = 2 * MS
TONE_V = _volts(-15)
KEY_V = _volts(-12)
NOISE_V = _volts(-60)
HUM_V = _volts(-62)

KEYS_HZ = {
    key: (row_hz, column_hz)
    for row_hz, keys in zip((697, 770, 852, 941), ("123", "456", "789", "*0#"), strict=True)
    for key, column_hz in zip(keys, (1209, 1336, 1477), strict=True)
}


@dataclass(frozen=True, slots=True)
class _Wire:
    """The wire from at_ns until the next of its kind."""

    at_ns: int
    feed_v: float  # amount of the direct voltage
    reversed: bool
    reversal_ns: int | None  # when a reversal began that is still going on
    ring_peak_v: float
    ring_from_ns: int  # when the ringing voltage went through zero


@dataclass(frozen=True, slots=True)
class _Sound:
    """A sound that somebody makes from at_ns until end_ns, whether or not the wire carries it."""

    at_ns: int
    end_ns: int
    source: Literal["shop", "far", "key", "dial", "ringback", "busy"]
    what: Path | str = ""


State = Literal["idle", "start_signal", "handshake", "pause", "ringing", "talking", "dial_tone", "dialled", "over"]


class _Run:
    """Play a scenario once, from its first step to its end, and write down what happens on the wire."""

    def __init__(self, scenario: story.Scenario, seed: int) -> None:
        self.scenario = scenario
        self.country = COUNTRIES[scenario.country]
        self.dice = random.Random(seed)
        self.wires: list[_Wire] = []
        self.others: list[ButtonPress | ModemBytesDue | Fault] = []
        self.sounds: list[_Sound] = []
        self.lost: list[tuple[int, int]] = []
        # Times at which a state of the wire changed, first "no": no, yes, no, ...
        self.handset_times: list[int] = []
        self.loop_times: list[int] = []
        self.path_times: list[int] = []
        self.cut_times: list[int] = []

        self._agenda: list[tuple[int, int, Callable[[int], None]]] = []
        self._counter = 0
        self._state: State = "idle"
        self._epoch = 0  # of the state: what was planned in an older one does not happen
        self._opening = 0  # of the loop: each opening plans a release of its own
        self._call: story.Call | None = None
        self._rings = 0
        self._contact = self._handset = scenario.off_hook_at_start
        self._primary = False
        self._primary_ns = 0
        self._cut = False
        self._reversed = False
        self._reversal_ns: int | None = None
        self._ring_from_ns: int | None = None  # the ringing generator is on
        self._burst_ns = 0
        self._tone: tuple[int, Literal["dial", "ringback", "busy"]] | None = None
        self._modem = scenario.modem is not None

        if self._handset:
            # The call of before the start goes on.
            self._state = "talking"
            for times in (self.handset_times, self.loop_times, self.path_times):
                times.append(0)
        self._wire(0)
        for step in scenario.steps:
            self._plan(step.at_ns, self._step_of(step.action))
        while self._agenda:
            at_ns, _, happen = heapq.heappop(self._agenda)
            if at_ns > scenario.end_ns:
                break
            happen(at_ns)
        self._set_tone(scenario.end_ns, None)
        self.others.sort(key=lambda change: change.at_ns)
        self.sounds.sort(key=lambda sound: sound.at_ns)

    # Planning

    def _plan(self, at_ns: int, happen: Callable[[int], None]) -> None:
        self._counter += 1
        heapq.heappush(self._agenda, (at_ns, self._counter, happen))

    def _then(self, at_ns: int, happen: Callable[[int], None]) -> None:
        """Plan something that happens only if the exchange is still in this state then."""
        epoch = self._epoch
        self._plan(at_ns, lambda now_ns: happen(now_ns) if epoch == self._epoch else None)

    def _enter(self, state: State) -> None:
        self._state = state
        self._epoch += 1

    # The wire

    @property
    def _closed(self) -> bool:
        return self._handset or self._primary

    def _wire(self, now_ns: int) -> None:
        """Write down the wire as it is from now on."""
        closed = self._contact or self._primary
        feed_v = 0.0 if self._cut else OFF_HOOK_V if closed else IDLE_V
        ringing = self._ring_from_ns is not None and not self._cut
        wire = _Wire(
            at_ns=now_ns,
            feed_v=feed_v,
            reversed=self._reversed,
            reversal_ns=self._reversal_ns,
            ring_peak_v=RING_PEAK_V * feed_v / IDLE_V if ringing else 0.0,
            ring_from_ns=self._ring_from_ns or 0,
        )
        if self.wires and self.wires[-1].at_ns == now_ns:
            self.wires.pop()
        self.wires.append(wire)

    def _reverse(self, now_ns: int, to_reversed: bool) -> None:
        if to_reversed == self._reversed:
            return
        self._reversed, self._reversal_ns = to_reversed, now_ns
        self._wire(now_ns)

        def settle(at_ns: int) -> None:
            if self._reversal_ns == now_ns:
                self._reversal_ns = None
                self._wire(at_ns)

        self._plan(now_ns + REVERSAL_NS, settle)

    def _ring_on(self, now_ns: int) -> None:
        self._burst_ns = now_ns
        # The generator runs by itself: a burst begins anywhere in its cycle.
        self._ring_from_ns = now_ns - round(self.dice.random() * SECOND / self.country.ring_hz)
        self._wire(now_ns)

    def _ring_off(self, now_ns: int) -> None:
        if self._ring_from_ns is not None:
            self._ring_from_ns = None
            self._wire(now_ns)

    def _set_tone(self, now_ns: int, tone: Literal["dial", "ringback", "busy"] | None) -> None:
        if self._tone is not None:
            self.sounds.append(_Sound(self._tone[0], now_ns, self._tone[1]))
        self._tone = None if tone is None else (now_ns, tone)

    def _connect(self, now_ns: int, through: bool) -> None:
        if through != bool(len(self.path_times) % 2):
            self.path_times.append(now_ns)

    def _loop(self, now_ns: int, before: bool) -> None:
        """Tell the exchange when what it sees of the loop changed; before: it saw a closed one."""
        now = self._closed and not self._cut
        if now == before:
            return
        self.loop_times.append(now_ns)
        if now:
            self._loop_closed(now_ns)
        else:
            self._loop_opened(now_ns)

    # The telephone

    def _set_handset(self, now_ns: int, up: bool) -> None:
        """Move the hook switch: its contact bounces, the exchange is too slow to see that."""
        before = self._closed and not self._cut
        self._handset = up
        self.handset_times.append(now_ns)
        times = sorted(now_ns + round(self.dice.random() * BOUNCE_NS) for _ in range(2 * self.dice.randrange(4)))
        self._set_contact(now_ns, up)
        for bounce_ns in times:
            self._plan(bounce_ns, lambda at_ns: self._bounce(at_ns, up))
        self._loop(now_ns, before)

    def _bounce(self, now_ns: int, up: bool) -> None:
        if self._handset == up:
            self._set_contact(now_ns, not self._contact)

    def _set_contact(self, now_ns: int, closed: bool) -> None:
        self._contact = closed
        self._wire(now_ns)

    def _set_primary(self, now_ns: int, closed: bool) -> None:
        before = self._closed and not self._cut
        if closed == self._primary or (closed and before):
            return
        self._primary, self._primary_ns = closed, now_ns
        self._wire(now_ns)
        self._loop(now_ns, before)

    def _primary_answer(self, now_ns: int) -> None:
        if self._cut:
            return
        self._set_primary(now_ns, True)
        # Without a frame the phone lets go by itself.
        self._plan(now_ns + PRIMARY_PATIENCE_NS, lambda at_ns: self._primary_over(at_ns, now_ns))

    def _primary_over(self, now_ns: int, since_ns: int) -> None:
        if self._primary_ns == since_ns:
            self._set_primary(now_ns, False)

    # The exchange

    def _incoming(self, now_ns: int, call: story.Call) -> None:
        if self._state != "idle":
            return  # the caller hears busy tone
        self._call, self._rings = call, 0
        if not self.scenario.number_display:
            self._ring(now_ns)
            return
        self._enter("start_signal")
        self._reverse(now_ns, True)
        first_ns = now_ns + REVERSAL_TO_SIGNAL_NS
        for burst_ns in range(first_ns, first_ns + SIGNAL_NS, SIGNAL_ON_NS + SIGNAL_OFF_NS):
            self._then(burst_ns, self._ring_on)
            self._then(burst_ns + SIGNAL_ON_NS, self._ring_off)
        if call.presentation != "not_received":
            self._then(first_ns + self.dice.randint(*PRIMARY_ANSWER_NS), self._primary_answer)
        self._then(first_ns + SIGNAL_NS, self._pause)

    def _pause(self, now_ns: int) -> None:
        """Leave the caller ID behind: ordinary ringing comes next."""
        self._enter("pause")
        self._then(now_ns + 100 * MS, lambda at_ns: self._reverse(at_ns, False))
        self._then(now_ns + RELEASE_TO_RING_NS, self._ring)

    def _ring(self, now_ns: int) -> None:
        """Ring once, and again after the cadence."""
        if self._state != "ringing":
            self._enter("ringing")
        self._rings += 1
        self._ring_on(now_ns)
        self._then(now_ns + self.country.ring_on_ns, self._ring_ends)
        self._then(now_ns + self.country.ring_on_ns + self.country.ring_off_ns, self._ring)

    def _ring_ends(self, now_ns: int) -> None:
        self._ring_off(now_ns)
        if now_ns - self._burst_ns >= SHORTEST_RING_NS:
            self._modem_says(now_ns + RING_REPORT_NS, ModemBytesDue(at_ns=0, kind="ring"))
        if self.country.caller_id_after_first_ring and self._rings == 1 and self._state == "ringing":
            self._then(now_ns + US_BLOCK_NS - BLOCK_REPORT_NS, self._frame_ends)

    def _frame_ends(self, now_ns: int) -> None:
        call = self._call
        if call is None or call.presentation == "not_received":
            return
        block = ModemBytesDue(
            at_ns=0,
            kind="caller_id",
            number=call.number,
            presentation=call.presentation,
            name=call.name,
            date_raw=(self.scenario.start + timedelta(microseconds=now_ns // 1000)).strftime("%m%d%H%M"),
        )
        self._modem_says(now_ns + BLOCK_REPORT_NS, block)
        if self._primary:
            self._plan(now_ns + FRAME_TO_RELEASE_NS, lambda at_ns: self._set_primary(at_ns, False))

    def _loop_closed(self, now_ns: int) -> None:
        self._opening += 1
        match self._state:
            case "idle":
                self._enter("dial_tone")
                self._then(now_ns + DIAL_TONE_NS, lambda at_ns: self._set_tone(at_ns, "dial"))
            case "start_signal":
                self._enter("handshake")
                self._then(now_ns + self.dice.randint(*TRIP_NS), self._ring_off)
                self._then(now_ns + ANSWER_TO_FRAME_NS + FRAME_NS, self._frame_ends)
                self._then(now_ns + HANDSHAKE_NS, self._answered)
            case "pause":
                self._answered(now_ns)
            case "ringing":
                self._enter("talking")
                if self._ring_from_ns is None:
                    self._connect(now_ns, True)
                else:
                    self._then(now_ns + self.dice.randint(*TRIP_NS), self._trip)
            case "handshake" | "talking" | "dial_tone" | "dialled" | "over":
                pass

    def _trip(self, now_ns: int) -> None:
        self._ring_ends(now_ns)
        self._connect(now_ns, True)

    def _answered(self, now_ns: int) -> None:
        self._enter("talking")
        self._connect(now_ns, True)
        self._reverse(now_ns, False)

    def _loop_opened(self, now_ns: int) -> None:
        self._opening += 1
        if self._state == "handshake":
            # Whoever opens the loop here has said "receive complete".
            self._ring_off(now_ns)
            self._pause(now_ns)
            return
        opening = self._opening
        self._plan(now_ns + story.RELEASE_NS, lambda at_ns: self._release(at_ns) if opening == self._opening else None)

    def _release(self, now_ns: int) -> None:
        """Take the line back to idle."""
        self._enter("idle")
        self._call = None
        self._ring_off(now_ns)
        self._set_tone(now_ns, None)
        self._connect(now_ns, False)
        self._reverse(now_ns, False)

    def _give_up(self, now_ns: int) -> None:
        if self._state in ("start_signal", "pause", "ringing"):
            self._release(now_ns)
        elif self._state == "handshake":
            self._over(now_ns)

    def _over(self, now_ns: int) -> None:
        """Let the far party go: busy tone until the loop opens."""
        self._enter("over")
        self._ring_off(now_ns)
        self._connect(now_ns, False)
        self._set_tone(now_ns, None)
        self._reverse(now_ns, False)
        self._then(now_ns + BUSY_NS, lambda at_ns: self._set_tone(at_ns, "busy"))

    def _dial(self, now_ns: int, keys: str) -> None:
        every_ns = KEY_ON_NS + KEY_OFF_NS
        for number, key in enumerate(keys):
            at_ns = now_ns + number * every_ns
            self.sounds.append(_Sound(at_ns, at_ns + KEY_ON_NS, "key", key))
        if self._state in ("dial_tone", "dialled"):
            self._enter("dialled")
            self._set_tone(now_ns, None)
            ready_ns = now_ns + len(keys) * every_ns + RINGBACK_NS
            self._then(ready_ns, lambda at_ns: self._set_tone(at_ns, "ringback"))

    def _far_answers(self, now_ns: int, supervision: bool) -> None:
        if self._state == "dialled":
            self._enter("talking")
            self._set_tone(now_ns, None)
            self._connect(now_ns, True)
            self._reverse(now_ns, supervision and self.country.answer_reversal)

    # The modem and the steps

    def _modem_says(self, at_ns: int, due: ModemBytesDue) -> None:
        """Plan a report of something that is on the wire now."""
        if self._cut:
            return

        def say(now_ns: int) -> None:
            if self._modem:
                self.others.append(replace(due, at_ns=now_ns))

        self._plan(at_ns, say)

    def _set_cut(self, now_ns: int, cut: bool) -> None:
        before = self._closed and not self._cut
        self._cut = cut
        self.cut_times.append(now_ns)
        self._wire(now_ns)
        self._loop(now_ns, before)

    def _step_of(self, action: story.Action) -> Callable[[int], None]:
        return lambda now_ns: self._step(now_ns, action)

    def _step(self, now_ns: int, action: story.Action) -> None:
        match action:
            case story.Call():
                self._incoming(now_ns, action)
            case story.GiveUp():
                self._give_up(now_ns)
            case story.Lift():
                self._set_handset(now_ns, True)
            case story.HangUp():
                self._set_handset(now_ns, False)
            case story.Flash(duration_ns=duration_ns):
                self._set_handset(now_ns, False)
                self._plan(now_ns + duration_ns, lambda at_ns: self._set_handset(at_ns, True))
            case story.Dial(keys=keys):
                self._dial(now_ns, keys)
            case story.FarAnswers(supervision=supervision):
                self._far_answers(now_ns, supervision)
            case story.FarHangsUp():
                if self._state == "talking":
                    self._over(now_ns)
            case story.Say(who=who, sound=sound):
                self.sounds.append(_Sound(now_ns, now_ns + speech.length_ns(sound), who, sound))
            case story.PressButton():
                self.others.append(ButtonPress(at_ns=now_ns))
            case story.CutLine():
                self._set_cut(now_ns, True)
            case story.RestoreLine():
                self._set_cut(now_ns, False)
            case story.Break(device=device, action=what):
                if device == "modem":
                    self._modem = what == "plug" and self.scenario.modem is not None
                self.others.append(Fault(at_ns=now_ns, device=device, action=what))
            case story.LoseAudio(duration_ns=duration_ns):
                self.lost.append((now_ns, duration_ns))
            case story.ModemSends(raw=raw):
                if self._modem:
                    self.others.append(ModemBytesDue(at_ns=now_ns, kind="raw", raw=raw))


class VirtualLine:
    """One line with its exchange and telephone, as the unit's tap, modem and codec meet it.

    All times are ns from the start of the scenario. Nothing happens behind the scenario's end, but sound goes on.
    Not safe for several threads at once; one that reads changes and one that reads sound need no lock.
    """

    def __init__(self, scenario: story.Scenario, seed: int = 1, rate_hz: int = 8000) -> None:
        self.scenario = scenario
        self.rate_hz = rate_hz
        self._seed = seed
        self._run = run = _Run(scenario, seed)
        self._country = run.country
        self._handset, self._loop, self._path, self._cut, self._wires, self._starts, self._ends = (
            np.array(times, dtype=np.int64)
            for times in (
                run.handset_times,
                run.loop_times,
                run.path_times,
                run.cut_times,
                [wire.at_ns for wire in run.wires],
                [sound.at_ns for sound in run.sounds],
                [sound.end_ns + HYBRID_NS for sound in run.sounds],
            )
        )
        # A few seconds are kept, so that blocks of any size are cheap; the day is not.
        self._second = lru_cache(maxsize=4)(self._render)

    def initial(self) -> dict[Pin, bool]:
        """Give the pins at time 0."""
        return {"loop": self.scenario.off_hook_at_start, "ring": False, "line_present": True, "polarity": False}

    def changes(self) -> Iterator[Change]:
        """Yield everything that happens, in time order, until the scenario's end."""
        yield from heapq.merge(self._run.others, self._pin_changes(), key=lambda change: change.at_ns)

    def lost(self) -> list[tuple[int, int]]:
        """Give the stretches that the codec does not deliver: first frame and number of frames."""
        return [(self._frame(at_ns), self._frame(duration_ns)) for at_ns, duration_ns in self._run.lost]

    def pcm(self, from_sample: int, frames: int) -> bytes:
        """Give the sound that the codec hears: mono S16LE. The same frames whatever the order and size of blocks."""
        blocks = []
        while frames > 0:
            second, begin = divmod(from_sample, self.rate_hz)
            count = min(frames, self.rate_hz - begin)
            blocks.append(self._second(second)[2 * begin : 2 * (begin + count)])
            from_sample += count
            frames -= count
        return b"".join(blocks)

    # Pins

    def _pin_changes(self) -> Iterator[PinChange]:
        now = self.initial()
        wires = self._run.wires
        end_ns = self.scenario.end_ns
        for wire, until_ns in zip(wires, [*(wire.at_ns for wire in wires[1:]), end_ns + 1], strict=True):
            edges: list[PinChange] = []
            times_ns, feed_v, ring_v = self._voltage(wire, until_ns)
            for name, fall_v, rise_v, active_above in COMPARATORS:
                volts = ring_v if name == "ring" else feed_v + ring_v
                clear = np.flatnonzero((volts < fall_v) | (volts > rise_v))
                above = volts[clear] > rise_v
                before = np.concatenate(([now[name] == active_above], above[:-1]))
                for index in clear[above != before]:
                    now[name] = not now[name]
                    edges.append(PinChange(at_ns=int(times_ns[index]), name=name, active=now[name]))
            turned_ns = wire.at_ns if wire.reversal_ns is None else max(wire.at_ns, wire.reversal_ns + REVERSAL_NS // 2)
            # Without voltage the comparator keeps what it saw last.
            if wire.feed_v and wire.reversed != now["polarity"] and turned_ns < until_ns:
                now["polarity"] = wire.reversed
                edges.append(PinChange(at_ns=turned_ns, name="polarity", active=wire.reversed))
            yield from sorted(edges, key=lambda edge: edge.at_ns)

    def _voltage(self, wire: _Wire, until_ns: int) -> tuple[Any, Floats, Floats]:
        """Sample a wire: times, voltage of the feed in its own direction, ringing voltage. One sample if steady."""
        moving = wire.ring_peak_v or wire.reversal_ns is not None
        times_ns = np.arange(wire.at_ns, until_ns if moving else wire.at_ns + 1, COMPARATOR_STEP_NS, dtype=np.int64)
        feed_v = np.full(len(times_ns), wire.feed_v)
        if wire.reversal_ns is not None:
            feed_v *= np.abs(1 - 2 * (times_ns - wire.reversal_ns) / REVERSAL_NS)
        cycles = (times_ns - wire.ring_from_ns) * (self._country.ring_hz / SECOND)
        return times_ns, feed_v, wire.ring_peak_v * np.sin(2 * np.pi * cycles)

    # Sound

    def _frame(self, at_ns: int) -> int:
        return -(-at_ns * self.rate_hz // SECOND)

    def _render(self, second: int) -> bytes:
        """Make one whole second of sound."""
        times_ns = np.arange(self.rate_hz, dtype=np.int64) * SECOND // self.rate_hz + second * SECOND
        volts = NOISE_V * np.random.default_rng([self._seed, second]).standard_normal(self.rate_hz)
        volts += HUM_V * _sine(self._country.hum_hz, times_ns)
        whole = ~_inside(self._cut, times_ns)
        shop = _inside(self._handset, times_ns) & whole
        far = _inside(self._path, times_ns) & whole
        exchange = _inside(self._loop, times_ns)
        for index in np.flatnonzero((self._starts <= times_ns[-1]) & (self._ends > times_ns[0])):
            sound = self._run.sounds[index]
            if isinstance(sound.what, Path):
                voice = _voice(sound.what, self.rate_hz)
                first = second * self.rate_hz - self._frame(sound.at_ns)
                if sound.source == "far":
                    volts += FAR_V * far * _cut_out(voice, first, self.rate_hz)
                else:
                    volts += SHOP_V * shop * _cut_out(voice, first, self.rate_hz)
                    volts += HYBRID_V * shop * _cut_out(voice, first - self._frame(HYBRID_NS), self.rate_hz)
            else:
                on = (times_ns >= sound.at_ns) & (times_ns < sound.end_ns)
                volts += on * (shop if sound.source == "key" else exchange) * self._tone(sound, times_ns - sound.at_ns)
        volts += self._through_the_tap(times_ns)
        return np.rint(np.clip(volts / FULL_SCALE_V, -1, 1) * 32767).astype("<i2").tobytes()

    def _tone(self, sound: _Sound, since_ns: Any) -> Any:
        """Give a key or a tone of the exchange, since its beginning."""
        country = self._country
        on_ns = off_ns = 0
        strength: Any = 1.0
        match sound.source:
            case "key":
                return KEY_V * sum(_sine(hz, since_ns) for hz in KEYS_HZ[str(sound.what)])
            case "dial":
                hertz = country.dial_hz
            case "ringback":
                hertz, on_ns, off_ns = country.ringback_hz, country.ringback_on_ns, country.ringback_off_ns
                if country.ringback_modulation_hz:
                    strength = 0.55 + 0.45 * np.sin(2 * np.pi * country.ringback_modulation_hz * since_ns / SECOND)
            case _:
                hertz, on_ns, off_ns = country.busy_hz, SECOND // 2, SECOND // 2
        if off_ns:
            strength = strength * (since_ns % (on_ns + off_ns) < on_ns)
        return TONE_V / len(hertz) ** 0.5 * strength * sum(_sine(hz, since_ns) for hz in hertz)

    def _through_the_tap(self, times_ns: Any) -> Any:
        """Give what the tap's high pass lets through of ringing and of steps of the feed."""
        wires = self._run.wires
        ratio = self._country.ring_hz / TAP_HZ
        volts = np.zeros(len(times_ns))
        # A step is gone after 50 ms: 22 time constants.
        begin = max(0, bisect_right(self._wires, times_ns[0] - 50 * MS) - 1)
        for wire, after in pairwise([*wires[begin : bisect_right(self._wires, times_ns[-1])], None]):
            assert wire is not None
            if wire.ring_peak_v:
                on = (times_ns >= wire.at_ns) & (after is None or times_ns < after.at_ns)
                angle = 2 * np.pi * self._country.ring_hz * (times_ns - wire.ring_from_ns) / SECOND + np.arctan(
                    1 / ratio
                )
                volts += on * wire.ring_peak_v * ratio / (1 + ratio**2) ** 0.5 * np.sin(angle)
            if after is not None:
                step_v = (-after.feed_v if after.reversed else after.feed_v) - (
                    -wire.feed_v if wire.reversed else wire.feed_v
                )
                since_ns = times_ns - after.at_ns
                decay = np.exp(np.maximum(since_ns, 0) * (-2 * np.pi * TAP_HZ / SECOND))
                volts += np.where(since_ns >= 0, step_v * decay, 0.0)
        return volts


def _inside(toggles_ns: Any, times_ns: Any) -> Any:
    """Say at which times a state holds that changes at each toggle and does not hold before the first."""
    return np.searchsorted(toggles_ns, times_ns, side="right") % 2 == 1


def _sine(hertz: float, since_ns: Any) -> Any:
    """Give a tone of 1.0 rms."""
    return 2**0.5 * np.sin(2 * np.pi * hertz * (since_ns / SECOND))


def _cut_out(voice: Any, first: int, frames: int) -> Any:
    """Take frames from first on, silence where the voice has not begun or is over."""
    out = np.zeros(frames)
    piece = voice[max(0, first) : max(0, first + frames)]
    begin = max(0, -first)
    out[begin : begin + len(piece)] = piece
    return out


@lru_cache(maxsize=16)
def _voice(path: Path, rate_hz: int) -> Any:
    """Read speech at rate_hz, mono, with its active level at 1.0 rms. Whole files are held: minutes, not hours."""
    frames, file_hz = speech.read(path)
    mono = frames.mean(axis=1)
    if file_hz != rate_hz:
        count = max(1, len(mono) * rate_hz // file_hz)
        mono = np.fft.irfft(np.fft.rfft(mono)[: count // 2 + 1], count) * (count / len(mono))
    # Pauses do not count: only stretches of 20 ms within 20 dB of the loudest, after the idea of ITU-T P.56.
    width = rate_hz // 50
    padded = np.concatenate((mono, np.zeros(-len(mono) % width)))
    power = np.square(padded).reshape(-1, width).mean(axis=1)
    level = float(np.sqrt(power[power >= power.max() / 100].mean()))
    return (mono / level if level > 0 else mono).astype(np.float32)
