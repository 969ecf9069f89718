"""The virtual line: one model of exchange, wire, telephone and tap, on virtual time.

A scenario says what people do; this model says what the unit's pins, modem and codec then see. It holds no thread and
no clock: times are ns from the start of the scenario, and the same scenario and seed give the same line, bit for bit.

Levels, referred to the line (0 dBm0 = 0.775 V rms, full scale of the codec = +3.14 dBm0): shop's voice -15 dBm0, far
voice -21, shop's voice returned by the exchange's hybrid -35, exchange and fax tones -15, caller-ID frames -15, keys -9
(two tones of -12), howler -3, noise -60, hum -62. Ringing and hook edges come through the tap's high pass (69 Hz, one
pole): 16 Hz is 13 dB down there and still far above full scale, so ringing clips, and so does the first moment of
every hook click.

The comparators see the voltage in the direction of the feed, sampled at 8 kHz; the loop's thresholds are fractions of
the line's own idle voltage. During ringing that voltage swings below zero once a cycle, so the loop and the
line-present comparator chatter by themselves. A cut line has no voltage, so its loop comparator reads closed.

Caller ID is on the wire where its standard has it: Japan within the primary answer, US and ETSI after the first ring,
UK (after a reversal and the alerting signal) and DTMF before it, call waiting within the call, both voices muted.

Not simulated: the loop interruption that some exchanges send when the far end hangs up, impedances and echo of the far
network, crosstalk, what ringing does to the polarity comparator (it is slow), charging of the line's capacitance, the
wetting pulse of British phones, what fax machines say after CNG and CED, talking with the second of two callers (a
flash stays with the first), ringing again for a caller who still waits at the hang-up, a modem that does the primary
answer, and what two phones lifted at once do to the voices.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from drivers import signals
from drivers.signals import Presentation
from drivers.virtual import fsk, speech
from drivers.virtual import scenario as story

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
    pattern: str | None = None  # of a distinctive ring
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


@dataclass(frozen=True, slots=True)
class Tone:
    """A sound of sines. cadence_ns: on, off, on, ... again and again; none: continuous."""

    hz: tuple[float, ...]
    cadence_ns: tuple[int, ...] = ()
    modulation_hz: float = 0  # 0: none
    dbm0: float = -15

    def at(self, since_ns: Any) -> Any:
        """The sound in volts at times since its beginning (an array of ns)."""
        strength: Any = _volts(self.dbm0) / len(self.hz) ** 0.5
        if self.modulation_hz:
            strength = strength * (0.55 + 0.45 * np.sin(2 * np.pi * self.modulation_hz * since_ns / SECOND))
        if self.cadence_ns:
            part = np.searchsorted(np.cumsum(self.cadence_ns), since_ns % sum(self.cadence_ns), side="right")
            strength = strength * (part % 2 == 0)
        return strength * sum(_sine(hz, since_ns) for hz in self.hz)


@dataclass(frozen=True, slots=True, kw_only=True)
class Country:
    """What an exchange of this country does."""

    ring_hz: float
    ring_ns: tuple[int, ...]  # on, off, on, off: one ring
    distinctive_ns: tuple[int, ...] = ()  # of the subscriber's second number
    hum_hz: float = 50
    dial: Tone
    second_dial: Tone | None = None
    ringback: Tone
    busy: Tone
    waiting: Tone
    howler: Tone | None = None
    answer_reversal: bool
    standard: fsk.Standard
    caller_id: Literal["in_handshake", "after_first_ring", "before_ring"]


COUNTRIES: dict[signals.Country, Country] = {
    "jp": Country(
        ring_hz=16,
        ring_ns=(1000 * MS, 2000 * MS),
        dial=Tone((400,)),
        second_dial=Tone((400,), (200 * MS, 200 * MS)),
        ringback=Tone((400,), (1000 * MS, 2000 * MS), 16),
        busy=Tone((400,), (500 * MS, 500 * MS)),
        waiting=Tone((400,), (500 * MS, 8000 * MS), 16),
        howler=Tone((400,), (), 16, -3),
        answer_reversal=True,
        standard="jp",
        caller_id="in_handshake",
    ),
    "us": Country(
        ring_hz=20,
        ring_ns=(2000 * MS, 4000 * MS),
        distinctive_ns=(800 * MS, 400 * MS, 800 * MS, 4000 * MS),
        hum_hz=60,
        dial=Tone((350, 440)),
        ringback=Tone((440, 480), (2000 * MS, 4000 * MS)),
        busy=Tone((480, 620), (500 * MS, 500 * MS)),
        waiting=Tone((440,), (300 * MS, 9700 * MS)),
        howler=Tone((1400, 2060, 2450, 2600), (100 * MS, 100 * MS), 0, -3),
        answer_reversal=False,
        standard="bell202",
        caller_id="after_first_ring",
    ),
    "uk": Country(
        ring_hz=25,
        ring_ns=(400 * MS, 200 * MS, 400 * MS, 2000 * MS),
        dial=Tone((350, 440)),
        ringback=Tone((400, 450), (400 * MS, 200 * MS, 400 * MS, 2000 * MS)),
        busy=Tone((400,), (375 * MS, 375 * MS)),
        waiting=Tone((400,), (100 * MS, 4900 * MS)),
        answer_reversal=False,
        standard="v23",
        caller_id="before_ring",
    ),
    "etsi": Country(
        ring_hz=25,
        ring_ns=(1000 * MS, 4000 * MS),
        dial=Tone((425,)),
        ringback=Tone((425,), (1000 * MS, 4000 * MS)),
        busy=Tone((425,), (500 * MS, 500 * MS)),
        waiting=Tone((425,), (200 * MS, 600 * MS, 200 * MS, 9000 * MS)),
        answer_reversal=False,
        standard="v23",
        caller_id="after_first_ring",
    ),
}

# Voltages at the terminal; the idle one is the scenario's.
OFF_HOOK_V = 8.0
TWO_PHONES_V = 6.0
RING_PEAK_V = 75.0 * 2**0.5
RING_LEFT = 1 / 6  # of the ringing voltage, over a closed loop
# Comparators: name, falls below, rises above, active while above. The loop's are fractions of the idle voltage.
LOOP_FALLS, LOOP_RISES = 0.45, 0.62
COMPARATORS: tuple[tuple[Pin, float, float, bool], ...] = (
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
FRAME_TO_RELEASE_NS = 200 * MS
RELEASE_TO_RING_NS = 1_500 * MS
HANDSHAKE_NS = 7 * SECOND  # a loop closed for longer was a real answer
# Modem
RING_REPORT_NS = 100 * MS
SHORTEST_RING_NS = 400 * MS
BLOCK_REPORT_NS = 150 * MS
DISTINCTIVE = "B"
MODEM_READS_DB = 12  # a frame with more noise is nothing to a modem
# Other caller ID
RING_TO_FRAME_NS = 500 * MS
REVERSAL_TO_ALERT_NS = 150 * MS
ALERT_NS = 100 * MS
ALERT_TO_FRAME_NS = 200 * MS
FRAME_TO_RING_NS = 400 * MS
REVERSAL_TO_KEYS_NS = 400 * MS
CALLER_KEY_NS = 70 * MS  # and as long a pause
# Call waiting
WAITING_TONES = 3
WAITING_TO_ALERT_NS = 700 * MS
# Outgoing
DIAL_TONE_NS = 300 * MS
DIAL_TONE_LASTS_NS = 20 * SECOND
KEY_ON_NS = 100 * MS
KEY_OFF_NS = 100 * MS
RINGBACK_NS = 2 * SECOND
SECOND_DIAL_NS = 1_200 * MS
BUSY_NS = 500 * MS
BUSY_LASTS_NS = 60 * SECOND
HOWLER_LASTS_NS = 60 * SECOND

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
FRAME_V = _volts(-15)
KEY_DBM0 = -9
NOISE_V = _volts(-60)
HUM_V = _volts(-62)

KEYS_HZ = {
    key: (row_hz, column_hz)
    for row_hz, keys in zip((697, 770, 852, 941), ("123A", "456B", "789C", "*0#D"), strict=True)
    for key, column_hz in zip(keys, (1209, 1336, 1477, 1633), strict=True)
}
ALERT = Tone((2130, 2750))
FAX_TONES = {"cng": Tone((1100,), (500 * MS, 3000 * MS)), "ced": Tone((2100,))}
CED_NS = 3 * SECOND


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
    """A sound that is made from at_ns until end_ns, whether or not it is heard.

    way: of the shop's and the far voice; of the phone's keys; of what the exchange sends into a closed loop only, and
    of what it sends anyhow.
    """

    at_ns: int
    end_ns: int
    way: Literal["shop", "far", "phone", "loop", "wire"]
    what: Path | Tone | fsk.Frame
    noisy_db: float | None = None


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
        self.mute_times: list[int] = []

        self._agenda: list[tuple[int, int, Callable[[int], object]]] = []
        self._counter = 0
        self._state: State = "idle"
        self._epoch = 0  # of the state: what was planned in an older one does not happen
        self._opening = 0  # of the loop: each opening plans a release of its own
        self._call: story.Call | None = None
        self._rings = 0
        self._up = [False, False]  # the handset of the first and of the second phone
        self._contacts = [False, False]
        self._primary_answer: story.PrimaryAnswer | None = None
        self._primary = False
        self._primary_ns = 0
        self._cut = False
        self._reversed = False
        self._reversal_ns: int | None = None
        self._ring_from_ns: int | None = None  # the ringing generator is on
        self._burst_ns = 0
        self._going: dict[Literal["tone", "frame", "shop", "far"], _Sound] = {}  # without an end as yet
        self._modem = scenario.modem is not None

        self._begin(scenario.at_start, scenario.call_at_start)
        for step in scenario.steps:
            self._plan(step.at_ns, self._step_of(step.action))
        while self._agenda:
            at_ns, _, happen = heapq.heappop(self._agenda)
            if at_ns > scenario.end_ns:
                break
            happen(at_ns)
        for what in [*self._going]:
            self._stop(scenario.end_ns, what)
        self.others.sort(key=lambda change: change.at_ns)
        self.sounds.sort(key=lambda sound: sound.at_ns)

    def _begin(self, at_start: story.AtStart, call: story.Call | None) -> None:
        """Let what began before the start go on."""
        self._wire(0)
        match at_start:
            case "off-hook":
                self._state, self._up[0], self._contacts[0] = "talking", True, True
                for times in (self.handset_times, self.loop_times, self.path_times):
                    times.append(0)
                self._wire(0)
            case "ringing":
                self._call, self._rings = story.Call(presentation="not_received"), 1
                self._ring(0)
            case "handshake":
                self._call, self._state, self._reversed = call, "start_signal", True
                self._answer_start_signal(0)
            case "cut":
                self._set_cut(0, True)

    # Planning

    def _plan(self, at_ns: int, happen: Callable[[int], object]) -> None:
        self._counter += 1
        heapq.heappush(self._agenda, (at_ns, self._counter, happen))

    def _then(self, at_ns: int, happen: Callable[[int], object]) -> None:
        """Plan something that happens only if the exchange is still in this state then."""
        epoch = self._epoch
        self._plan(at_ns, lambda now_ns: happen(now_ns) if epoch == self._epoch else None)

    def _enter(self, now_ns: int, state: State) -> None:
        self._state = state
        self._epoch += 1
        self._stop(now_ns, "frame")
        self._mute(now_ns, False)

    # The wire

    @property
    def _closed(self) -> bool:
        return any(self._up) or self._primary

    def _wire(self, now_ns: int) -> None:
        """Write down the wire as it is from now on."""
        closed = sum(self._contacts) + self._primary
        feed_v = 0.0 if self._cut else (self.scenario.idle_v, OFF_HOOK_V, TWO_PHONES_V, TWO_PHONES_V)[closed]
        ringing = self._ring_from_ns is not None and not self._cut
        wire = _Wire(
            at_ns=now_ns,
            feed_v=feed_v,
            reversed=self._reversed != self.scenario.wires_swapped,
            reversal_ns=self._reversal_ns,
            ring_peak_v=RING_PEAK_V * (RING_LEFT if closed else 1.0) if ringing else 0.0,
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

    def _start(
        self,
        now_ns: int,
        what: Literal["tone", "frame", "shop", "far"],
        sound: Tone | fsk.Frame,
        way: Literal["shop", "far", "loop", "wire"],
        noisy_db: float | None = None,
    ) -> None:
        self._stop(now_ns, what)
        self._going[what] = _Sound(now_ns, now_ns, way, sound, noisy_db)

    def _stop(self, now_ns: int, what: Literal["tone", "frame", "shop", "far"]) -> None:
        if sound := self._going.pop(what, None):
            self.sounds.append(replace(sound, end_ns=now_ns))

    def _set_tone(self, now_ns: int, tone: Tone | None) -> None:
        """Let the exchange's tone be this from now on."""
        if tone is None:
            self._stop(now_ns, "tone")
        else:
            self._start(now_ns, "tone", tone, "loop")

    def _press(self, now_ns: int, key: str, length_ns: int, way: Literal["phone", "wire"]) -> None:
        self.sounds.append(_Sound(now_ns, now_ns + length_ns, way, Tone(KEYS_HZ[key], dbm0=KEY_DBM0)))

    def _mute(self, now_ns: int, muted: bool) -> None:
        if muted != bool(len(self.mute_times) % 2):
            self.mute_times.append(now_ns)

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

    def _set_handset(self, now_ns: int, up: bool, second: bool = False) -> None:
        """Move a hook switch: its contact bounces, the exchange is too slow to see that."""
        before, were_up = self._closed and not self._cut, any(self._up)
        self._up[second] = up
        if any(self._up) != were_up:
            self.handset_times.append(now_ns)
        times = sorted(now_ns + round(self.dice.random() * BOUNCE_NS) for _ in range(2 * self.dice.randrange(4)))
        self._set_contact(now_ns, up, second)
        for bounce_ns in times:
            self._plan(bounce_ns, lambda at_ns: self._bounce(at_ns, up, second))
        self._loop(now_ns, before)

    def _bounce(self, now_ns: int, up: bool, second: bool) -> None:
        if self._up[second] == up:
            self._set_contact(now_ns, not self._contacts[second], second)

    def _set_contact(self, now_ns: int, closed: bool, second: bool = False) -> None:
        self._contacts[second] = closed
        self._wire(now_ns)

    def _pulse(self, now_ns: int, pulse: story.Pulse) -> None:
        breaks = pulse.breaks_ns()
        for open_ns, close_ns in breaks:
            self._plan(now_ns + open_ns, lambda at_ns: self._set_contact(at_ns, False))
            self._plan(now_ns + close_ns, lambda at_ns: self._set_contact(at_ns, True))
        self._dialled(now_ns, now_ns + breaks[-1][1])

    def _set_primary(self, now_ns: int, closed: bool) -> None:
        before = self._closed and not self._cut
        if closed == self._primary or (closed and before):
            return
        self._primary, self._primary_ns = closed, now_ns
        self._wire(now_ns)
        self._loop(now_ns, before)

    def _answer_start_signal(self, now_ns: int) -> None:
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
        if self.scenario.number_display:
            self._start_signal(now_ns, call)
        elif self.scenario.caller_id == "dtmf":
            self._keys_before_ring(now_ns, call)
        elif self.country.caller_id == "before_ring" and call.presentation != "not_received":
            self._frame_before_ring(now_ns, call)
        else:
            self._ring(now_ns)

    def _frame_before_ring(self, now_ns: int, call: story.Call) -> None:
        self._enter(now_ns, "pause")
        self._reverse(now_ns, True)
        alert_ns = now_ns + REVERSAL_TO_ALERT_NS
        self._then(alert_ns, lambda at_ns: self._start(at_ns, "frame", ALERT, "wire"))
        self._then(alert_ns + ALERT_NS, lambda at_ns: self._stop(at_ns, "frame"))
        frame_ns = alert_ns + ALERT_NS + ALERT_TO_FRAME_NS
        self._then(frame_ns, lambda at_ns: self._then(self._send(at_ns, call) + FRAME_TO_RING_NS, self._ring))

    def _keys_before_ring(self, now_ns: int, call: story.Call) -> None:
        self._enter(now_ns, "pause")
        self._reverse(now_ns, True)
        shown = {"allowed": f"A{call.number}C", "not_received": ""}
        at_ns = now_ns + REVERSAL_TO_KEYS_NS
        for key in shown.get(call.presentation, f"B{'00' if call.presentation == 'unavailable' else '10'}C"):
            self._then(at_ns, partial(self._press, key=key, length_ns=CALLER_KEY_NS, way="wire"))
            at_ns += 2 * CALLER_KEY_NS
        self._then(at_ns, lambda end_ns: self._caller_id_is_over(end_ns, call))
        self._then(at_ns + FRAME_TO_RING_NS, self._ring)

    def _start_signal(self, now_ns: int, call: story.Call) -> None:
        self._enter(now_ns, "start_signal")
        self._reverse(now_ns, True)
        first_ns = now_ns + REVERSAL_TO_SIGNAL_NS
        for burst_ns in range(first_ns, first_ns + SIGNAL_NS, SIGNAL_ON_NS + SIGNAL_OFF_NS):
            self._then(burst_ns, self._ring_on)
            self._then(burst_ns + SIGNAL_ON_NS, self._signal_off)
        habit = self._primary_answer or story.PrimaryAnswer(self.dice.randint(*PRIMARY_ANSWER_NS))
        if call.presentation != "not_received" and habit.after_ns is not None:
            self._then(first_ns + habit.after_ns, self._answer_start_signal)
        self._then(first_ns + SIGNAL_NS, self._pause)

    def _signal_off(self, now_ns: int) -> None:
        self._ring_off(now_ns)
        if self.scenario.modem_rings_early:
            self._modem_says(now_ns + RING_REPORT_NS, ModemBytesDue(at_ns=0, kind="ring"))

    def _pause(self, now_ns: int) -> None:
        """Leave the caller ID behind: ordinary ringing comes next."""
        self._enter(now_ns, "pause")
        self._then(now_ns + 100 * MS, lambda at_ns: self._reverse(at_ns, False))
        self._then(now_ns + RELEASE_TO_RING_NS, self._ring)

    def _ring(self, now_ns: int) -> None:
        """Ring once, and again after the cadence."""
        if self._state != "ringing":
            self._enter(now_ns, "ringing")
        self._rings += 1
        distinctive = self._call is not None and self._call.distinctive
        parts = self.country.distinctive_ns if distinctive else self.country.ring_ns
        ends_ns = [*accumulate(parts, initial=now_ns)]
        self._ring_on(now_ns)
        for on_ns in ends_ns[2:-1:2]:
            self._then(on_ns, self._ring_on)
        for off_ns in ends_ns[1:-2:2]:
            self._then(off_ns, self._ring_off)
        self._then(ends_ns[-2], self._ring_ends)
        self._then(ends_ns[-1], self._ring)

    def _ring_ends(self, now_ns: int) -> None:
        self._ring_off(now_ns)
        call = self._call
        if now_ns - self._burst_ns >= SHORTEST_RING_NS:
            pattern = DISTINCTIVE if call is not None and call.distinctive else None
            self._modem_says(now_ns + RING_REPORT_NS, ModemBytesDue(at_ns=0, kind="ring", pattern=pattern))
        if (
            self._state == "ringing"
            and self.country.caller_id == "after_first_ring"
            and self.scenario.caller_id != "dtmf"
            and self._rings == 1
            and call is not None
            and call.presentation != "not_received"
        ):
            self._then(now_ns + RING_TO_FRAME_NS, lambda at_ns: self._send(at_ns, call))

    # Caller ID

    def _date(self, now_ns: int) -> str:
        return (self.scenario.start + timedelta(microseconds=now_ns // 1000)).strftime("%m%d%H%M")

    def _send(self, now_ns: int, call: story.Call, waiting: bool = False) -> int:
        """Begin the frame of a caller; it ends with the state of the exchange at the latest. Gives its proper end."""
        caller = fsk.Caller(
            number=call.number,
            reason=next((reason for reason in fsk.REASONS if reason == call.presentation), None),
            name=call.name,
            date=self._date(now_ns),
        )
        country = self.country
        if country.standard == "jp":
            octets = fsk.number_display(caller, waiting=waiting)
        elif self.scenario.caller_id == "sdmf" and not waiting:
            octets = fsk.sdmf(caller)
        else:
            octets = fsk.mdmf(caller, call_type=country.standard == "v23")
        seized = country.standard != "jp" and not waiting
        frame = fsk.Frame(
            country.standard,
            fsk.damaged(octets) if call.damaged else octets,
            seizure_bits=300 if seized else 0,
            mark_bits=180 if seized else 96,
        )
        self._start(now_ns, "frame", frame, "wire", call.noisy_db)
        self._then(now_ns + frame.length_ns, lambda at_ns: self._caller_id_is_over(at_ns, call))
        return now_ns + frame.length_ns

    def _caller_id_is_over(self, now_ns: int, call: story.Call) -> None:
        self._stop(now_ns, "frame")
        self._mute(now_ns, False)
        if call.presentation != "not_received" and (call.noisy_db is None or call.noisy_db >= MODEM_READS_DB):
            block = ModemBytesDue(
                at_ns=0,
                kind="caller_id",
                number=call.number,
                presentation="corrupt" if call.damaged else call.presentation,
                name=call.name,
                date_raw=self._date(now_ns),
            )
            self._modem_says(now_ns + BLOCK_REPORT_NS, block)
        if self._primary:
            self._plan(now_ns + FRAME_TO_RELEASE_NS, lambda at_ns: self._set_primary(at_ns, False))

    def _send_in_handshake(self, now_ns: int) -> None:
        if self._call is not None and self._call.presentation != "not_received":
            self._send(now_ns, self._call)

    def _call_waits(self, now_ns: int, call: story.Call) -> None:
        """Tell the two who talk that somebody else calls, and who."""
        if self._state != "talking":
            return
        cadence_ns = self.country.waiting.cadence_ns
        for number in range(WAITING_TONES):
            self._then(now_ns + number * sum(cadence_ns), self._waiting_tone)
        if call.presentation == "not_received" or (self.country.standard == "jp" and not self.scenario.number_display):
            return
        at_ns = now_ns + sum(cadence_ns[:-1]) + WAITING_TO_ALERT_NS
        self._then(at_ns, lambda mute_ns: self._mute(mute_ns, True))
        if self.country.standard == "jp":
            self._then(at_ns, lambda key_ns: self._press(key_ns, "C", 80 * MS, "wire"))
            self._then(at_ns + 130 * MS, lambda key_ns: self._press(key_ns, "D", 90 * MS, "wire"))
            at_ns += 420 * MS
        else:
            self._then(at_ns, lambda alert_ns: self._start(alert_ns, "frame", ALERT, "wire"))
            self._then(at_ns + 80 * MS, lambda alert_ns: self._stop(alert_ns, "frame"))
            self._then(at_ns + 160 * MS, lambda key_ns: self._press(key_ns, "D", 60 * MS, "phone"))
            at_ns += 320 * MS
        self._then(at_ns, lambda frame_ns: self._send(frame_ns, call, waiting=True))

    def _waiting_tone(self, now_ns: int) -> None:
        tone = self.country.waiting
        self.sounds.append(_Sound(now_ns, now_ns + sum(tone.cadence_ns[:-1]), "loop", tone))

    # The loop and the connection

    def _loop_closed(self, now_ns: int) -> None:
        self._opening += 1
        match self._state:
            case "idle":
                self._enter(now_ns, "dial_tone")
                self._then(now_ns + DIAL_TONE_NS, lambda at_ns: self._set_tone(at_ns, self.country.dial))
                self._then(now_ns + DIAL_TONE_LASTS_NS, self._ask_to_hang_up)
            case "start_signal":
                self._enter(now_ns, "handshake")
                self._then(now_ns + self.dice.randint(*TRIP_NS), self._ring_off)
                self._then(now_ns + ANSWER_TO_FRAME_NS, self._send_in_handshake)
                self._then(now_ns + HANDSHAKE_NS, self._answered)
            case "pause":
                self._answered(now_ns)
            case "ringing":
                self._enter(now_ns, "talking")
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
        self._enter(now_ns, "talking")
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
        self._enter(now_ns, "idle")
        self._call = None
        self._ring_off(now_ns)
        for what in [*self._going]:
            self._stop(now_ns, what)
        self._connect(now_ns, False)
        self._reverse(now_ns, False)

    def _give_up(self, now_ns: int) -> None:
        if self._state in ("start_signal", "pause", "ringing"):
            self._release(now_ns)
        elif self._state == "handshake":
            self._over(now_ns)

    def _over(self, now_ns: int) -> None:
        """Let the far party go: busy tone until the loop opens."""
        self._enter(now_ns, "over")
        self._ring_off(now_ns)
        self._connect(now_ns, False)
        self._set_tone(now_ns, None)
        self._stop(now_ns, "far")
        self._reverse(now_ns, False)
        self._then(now_ns + BUSY_NS, self._ask_to_hang_up)

    def _ask_to_hang_up(self, now_ns: int) -> None:
        """Give busy tone, then howler, then nothing more."""
        self._set_tone(now_ns, self.country.busy)
        self._then(now_ns + BUSY_LASTS_NS, lambda at_ns: self._set_tone(at_ns, self.country.howler))
        self._then(now_ns + BUSY_LASTS_NS + HOWLER_LASTS_NS, lambda at_ns: self._set_tone(at_ns, None))

    def _dial(self, now_ns: int, keys: str) -> None:
        every_ns = KEY_ON_NS + KEY_OFF_NS
        for number, key in enumerate(keys):
            self._press(now_ns + number * every_ns, key, KEY_ON_NS, "phone")
        self._dialled(now_ns, now_ns + len(keys) * every_ns)

    def _dialled(self, now_ns: int, last_ns: int) -> None:
        """Take digits from now on, the last at last_ns; a while later the far phone rings."""
        if self._state in ("dial_tone", "dialled"):
            self._enter(now_ns, "dialled")
            self._set_tone(now_ns, None)
            self._then(last_ns + RINGBACK_NS, lambda at_ns: self._set_tone(at_ns, self.country.ringback))

    def _second_dial_tone(self, now_ns: int) -> None:
        tone = self.country.second_dial
        if tone is not None:
            self.sounds.append(_Sound(now_ns, now_ns + SECOND_DIAL_NS, "loop", tone))

    def _fax(self, now_ns: int, fax: story.Fax) -> None:
        self._start(now_ns, fax.who, FAX_TONES[fax.tone], fax.who)
        if fax.tone == "ced":
            self._then(now_ns + CED_NS, lambda at_ns: self._stop(at_ns, fax.who))

    def _far_answers(self, now_ns: int, supervision: bool) -> None:
        if self._state == "dialled":
            self._enter(now_ns, "talking")
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
            case story.Waiting(call=call):
                self._call_waits(now_ns, call)
            case story.PrimaryAnswer():
                self._primary_answer = action
            case story.Lift(second=second):
                self._set_handset(now_ns, True, second)
            case story.HangUp(second=second):
                self._set_handset(now_ns, False, second)
            case story.Flash(duration_ns=duration_ns):
                self._set_handset(now_ns, False)
                self._plan(now_ns + duration_ns, lambda at_ns: self._set_handset(at_ns, True))
            case story.Dial(keys=keys):
                self._dial(now_ns, keys)
            case story.Pulse():
                self._pulse(now_ns, action)
            case story.SecondDialTone():
                self._second_dial_tone(now_ns)
            case story.FarIsBusy():
                if self._state == "dialled":
                    self._over(now_ns)
            case story.Fax():
                self._fax(now_ns, action)
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
        self._handset, self._loop, self._path, self._cut, self._muted, self._wires, self._starts, self._ends = (
            np.array(times, dtype=np.int64)
            for times in (
                run.handset_times,
                run.loop_times,
                run.path_times,
                run.cut_times,
                run.mute_times,
                [wire.at_ns for wire in run.wires],
                [sound.at_ns for sound in run.sounds],
                [sound.end_ns + HYBRID_NS for sound in run.sounds],
            )
        )
        # A few seconds are kept, so that blocks of any size are cheap; the day is not.
        self._second = lru_cache(maxsize=4)(self._render)

    def initial(self) -> dict[Pin, bool]:
        """Give the pins at time 0."""
        wire = self._run.wires[0]
        loop = wire.feed_v < LOOP_FALLS * self.scenario.idle_v
        return {"loop": loop, "ring": False, "line_present": wire.feed_v > 0, "polarity": wire.reversed}

    def volts(self, at_ns: int) -> float:
        """Give the voltage between the two wires, positive while the polarity is not reversed."""
        wire = self._run.wires[bisect_right(self._wires, at_ns) - 1]
        _, feed_v, ring_v = self._voltage(replace(wire, at_ns=at_ns), at_ns + 1)
        turning = wire.reversal_ns is not None and at_ns < wire.reversal_ns + REVERSAL_NS // 2
        return float(feed_v[0] + ring_v[0]) * (-1 if wire.reversed != turning else 1)

    def changes(self) -> Iterator[Change]:
        """Yield everything that happens, in time order, until the scenario's end."""
        yield from heapq.merge(self._run.others, self._pin_changes(), key=lambda change: change.at_ns)

    def lost(self) -> list[tuple[int, int]]:
        """Give the stretches that the codec does not deliver: first frame and number of frames."""
        return [(self._frame(at_ns), self._frame(duration_ns)) for at_ns, duration_ns in self._run.lost]

    def frames(self) -> list[tuple[int, int]]:
        """Give when caller-ID frames are on the wire: beginning and end of each."""
        return [(sound.at_ns, sound.end_ns) for sound in self._run.sounds if isinstance(sound.what, fsk.Frame)]

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
        idle_v = self.scenario.idle_v
        comparators = (("loop", LOOP_FALLS * idle_v, LOOP_RISES * idle_v, False), *COMPARATORS)
        for wire, until_ns in zip(wires, [*(wire.at_ns for wire in wires[1:]), end_ns + 1], strict=True):
            edges: list[PinChange] = []
            times_ns, feed_v, ring_v = self._voltage(wire, until_ns)
            for name, fall_v, rise_v, active_above in comparators:
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
        voices = ~_inside(self._muted, times_ns)
        ways = {"shop": shop & voices, "far": far & voices, "phone": shop, "loop": exchange, "wire": whole}
        for index in np.flatnonzero((self._starts <= times_ns[-1]) & (self._ends > times_ns[0])):
            sound = self._run.sounds[index]
            heard = ways[sound.way]
            if isinstance(sound.what, Path):
                voice = _voice(sound.what, self.rate_hz)
                first = second * self.rate_hz - self._frame(sound.at_ns)
                if sound.way == "far":
                    volts += FAR_V * heard * _cut_out(voice, first, self.rate_hz)
                else:
                    volts += SHOP_V * heard * _cut_out(voice, first, self.rate_hz)
                    volts += HYBRID_V * heard * _cut_out(voice, first - self._frame(HYBRID_NS), self.rate_hz)
                continue
            heard = heard & (times_ns >= sound.at_ns) & (times_ns < sound.end_ns)
            since_ns = times_ns - sound.at_ns
            if isinstance(sound.what, Tone):
                volts += heard * sound.what.at(since_ns)
            else:
                volts += heard * FRAME_V * sound.what.at(since_ns)
                if sound.noisy_db is not None:  # white, measured up to 4 kHz
                    noise_v = FRAME_V * 10 ** (-sound.noisy_db / 20) * (self.rate_hz / 8000) ** 0.5
                    hiss = np.random.default_rng([self._seed, second, 1]).standard_normal(self.rate_hz)
                    volts += heard * noise_v * hiss
        volts += self._through_the_tap(times_ns)
        return np.rint(np.clip(volts / FULL_SCALE_V, -1, 1) * 32767).astype("<i2").tobytes()

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
