"""The comparators of the line tap, and the unit's LEDs and button, through gpiozero."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from gpiozero import LED, Device, DigitalInputDevice
from gpiozero.exc import GPIOZeroError

from drivers.signals import (
    ButtonHeld,
    ButtonPressed,
    DeviceLost,
    DeviceReady,
    LinePresentEdge,
    LoopEdge,
    PolarityEdge,
    RingEdge,
    Signal,
)
from hw.board import LinePins, PanelPins, Pin

PanelState = Literal["boot", "idle", "ringing", "recording", "paused", "no_broker", "fault", "identify"]


class Rhythm(NamedTuple):
    led: Literal["green", "red"]
    ms: tuple[int, ...]  # on, off, on, off, ... repeated


# Told apart by rhythm alone, for eyes that do not tell red from green. A steady light is no state: it is a unit that
# hangs.
RHYTHMS: dict[PanelState, Rhythm] = {
    "boot": Rhythm("green", (500, 500)),
    "idle": Rhythm("green", (60, 2940)),
    "ringing": Rhythm("green", (100, 100)),
    "recording": Rhythm("red", (1800, 200)),
    "paused": Rhythm("red", (1000, 1000)),
    "no_broker": Rhythm("green", (60, 240, 60, 2640)),
    "fault": Rhythm("red", (120, 180, 120, 180, 120, 1280)),
    "identify": Rhythm("green", (60, 60, 60, 320)),
}

_RETRY_FIRST_S = 1.0
_RETRY_LONGEST_S = 60.0
_SHORTEST_PRESS_NS = 30_000_000  # shorter is contact bounce
_LONG_PRESS_NS = 1_500_000_000
_OLDEST_EDGE_NS = 10_000_000_000  # an edge that seems older, or of the future, was stamped by another clock

_log = logging.getLogger(__name__)
_chip_lock = threading.Lock()


class LineInputs:
    """The comparators of one line. Posts an edge for each change, and each level found at start with initial=True.

    post is called on the GPIO library's thread, and on the caller's or the retry thread while the pins are opened.
    A chip or pin that cannot be had is one DeviceLost, tried again for ever; DeviceReady tells that it works.
    """

    def __init__(
        self, line: int, pins: LinePins, post: Callable[[Signal], None], *, pin_factory: Any | None = None
    ) -> None:
        """pin_factory: a gpiozero factory; None takes the machine's own GPIO chip."""
        self._line = line
        self._pins = pins
        self._post = post
        self._pin_factory = pin_factory
        self._inputs: list[_Input] = []  # gpiozero keeps weak references only: without these the pins go silent
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Open the pins; never raises. Pins that cannot be had now are tried again by a thread."""
        if not self._try_open(first=True):
            self._thread = threading.Thread(target=self._retry, name=f"gpio-line-{self._line}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self._close_inputs()

    def _retry(self) -> None:
        delay_s = _RETRY_FIRST_S
        while not self._closing.wait(delay_s) and not self._try_open(first=False):
            delay_s = min(2 * delay_s, _RETRY_LONGEST_S)

    def _try_open(self, *, first: bool) -> bool:
        wanted: list[tuple[Pin | None, Callable[[int, bool, bool], None]]] = [
            (self._pins.line_present, self._line_present),
            (self._pins.polarity, self._polarity),
            (self._pins.off_hook, self._loop),
            (self._pins.ring, self._ring),
        ]
        try:
            factory = self._pin_factory or _chip()
            for pin, changed in wanted:
                if pin is not None:
                    self._inputs.append(_Input(pin, changed, factory))
        except _faults() as error:
            self._close_inputs()
            reason = (
                f"Line {self._line}: the GPIO inputs of the line tap cannot be opened ({error}); check that the HAT "
                "sits on all 40 pins of a Raspberry Pi, that this user is in the group gpio, and that no other program "
                "uses the pins."
            )
            _log.log(logging.WARNING if first else logging.DEBUG, "gpio=lost line=%d error=%s", self._line, error)
            if first:
                self._post(DeviceLost(at_ns=time.monotonic_ns(), device="gpio", line=self._line, reason=reason))
            return False
        numbers = ", ".join(str(pin.gpio) for pin, _ in wanted if pin is not None)
        _log.info("gpio=ready line=%d pins=%s", self._line, numbers)
        self._post(DeviceReady(at_ns=time.monotonic_ns(), device="gpio", line=self._line, detail=f"GPIO {numbers}"))
        for opened in self._inputs:
            opened.go()
        return True

    def _close_inputs(self) -> None:
        _close(self._inputs)
        self._inputs.clear()

    def _loop(self, at_ns: int, active: bool, initial: bool) -> None:
        self._post(LoopEdge(at_ns=at_ns, line=self._line, closed=active, initial=initial))

    def _line_present(self, at_ns: int, active: bool, initial: bool) -> None:
        self._post(LinePresentEdge(at_ns=at_ns, line=self._line, present=active, initial=initial))

    def _polarity(self, at_ns: int, active: bool, initial: bool) -> None:
        self._post(PolarityEdge(at_ns=at_ns, line=self._line, reversed=active, initial=initial))

    def _ring(self, at_ns: int, active: bool, initial: bool) -> None:
        if not initial:  # a pulse train has no level worth telling
            self._post(RingEdge(at_ns=at_ns, line=self._line, active=active))


class Panel:
    """Two LEDs and one button. Its thread "panel" opens the pins, tries again for ever, and beats the rhythm."""

    def __init__(self, pins: PanelPins, post: Callable[[Signal], None], *, pin_factory: Any | None = None) -> None:
        """pin_factory: a gpiozero factory; None takes the machine's own GPIO chip."""
        self._pins = pins
        self._post = post
        self._pin_factory = pin_factory
        self._state: PanelState = "boot"
        self._pressed_ns: int | None = None
        self._closing = threading.Event()
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="panel", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def show(self, state: PanelState) -> None:
        """Any thread. The rhythm changes at once; the state already shown goes on undisturbed."""
        if state != self._state:
            self._state = state
            self._changed.set()

    def close(self) -> None:
        """Both LEDs go dark."""
        self._closing.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        delay_s = _RETRY_FIRST_S
        while not self._closing.is_set():
            devices: list[Any] = []
            try:
                factory = self._pin_factory or _chip()
                for pin in (self._pins.green_led, self._pins.red_led):
                    devices.append(LED(pin.gpio, active_high=pin.active == "high", pin_factory=factory))
                button = _Input(self._pins.button, self._button, factory)
                devices.append(button)
                button.go()
                delay_s = _RETRY_FIRST_S
                self._beat(green=devices[0], red=devices[1])
            except _faults() as error:
                # The lights are no part of the line: no signal, since the line's own inputs tell of a lost chip.
                level = logging.WARNING if delay_s == _RETRY_FIRST_S else logging.DEBUG
                _log.log(level, "panel=lost error=%s", error)
                self._closing.wait(delay_s)
                delay_s = min(2 * delay_s, _RETRY_LONGEST_S)
            finally:
                _close(devices)

    def _beat(self, *, green: Any, red: Any) -> None:
        while not self._closing.is_set():
            self._changed.clear()
            rhythm = RHYTHMS[self._state]
            led, other = (green, red) if rhythm.led == "green" else (red, green)
            other.off()
            for step, ms in enumerate(rhythm.ms):
                if step % 2 == 0:
                    led.on()
                else:
                    led.off()
                if self._changed.wait(ms / 1000):
                    break
        green.off()
        red.off()

    def _button(self, at_ns: int, active: bool, initial: bool) -> None:
        if active:
            self._pressed_ns = None if initial else at_ns
        elif self._pressed_ns is not None and at_ns - self._pressed_ns >= _SHORTEST_PRESS_NS:
            held = at_ns - self._pressed_ns >= _LONG_PRESS_NS
            self._pressed_ns = None
            self._post(ButtonHeld(at_ns=at_ns) if held else ButtonPressed(at_ns=at_ns))


class _Input(DigitalInputDevice):
    """One input, pulled to its inactive level. changed(at_ns, active, initial) is called for each edge after go()."""

    def __init__(self, pin: Pin, changed: Callable[[int, bool, bool], None], factory: Any) -> None:
        self._report = changed
        self._since_ns: int | None = None
        self._order = threading.Lock()
        # No debouncing here: back ends disagree about it, and the core needs every edge.
        super().__init__(pin.gpio, pull_up=pin.active == "low", bounce_time=None, pin_factory=factory)

    def go(self) -> None:
        """Report the level of now; then every later edge. No callback comes for the level at start."""
        with self._order:
            self._since_ns = time.monotonic_ns()
            self._report(self._since_ns, bool(self.is_active), True)

    def _fire_events(self, ticks: float, new_active: bool) -> None:
        """EventsMixin's door for changes, overridden to keep the edge time and edges that come in pairs."""
        now_ns = time.monotonic_ns()
        at_ns = _edge_ns(ticks, now_ns)
        with self._order:
            # Edges up to go() are part of the level that it reported.
            if self._since_ns is not None and at_ns > self._since_ns:
                self._report(at_ns, bool(new_active), False)


def _close(devices: Sequence[Any]) -> None:
    for device in devices:
        try:
            device.close()
        except _faults() as error:
            _log.debug("gpio=close_failed error=%s", error)


def _edge_ns(ticks: float, now_ns: int) -> int:
    """The edge's time on CLOCK_MONOTONIC.

    lgpio hands the kernel's edge time and MockPin its own, both in seconds of CLOCK_MONOTONIC. gpiozero calls ticks
    opaque, so a value that cannot be one of the last seconds is another clock's: then the time of the callback.
    """
    at_ns = round(ticks * 1e9)
    return at_ns if 0 <= now_ns - at_ns <= _OLDEST_EDGE_NS else now_ns


def _chip() -> Any:
    """The machine's GPIO chip, opened once. Raises what _faults() names.

    lgpio is named here rather than left to gpiozero's choice, which would fall back to polling.
    """
    with _chip_lock:
        if Device.pin_factory is None:
            # Imported late: lgpio starts a thread and makes a pipe in $LG_WD (or the working directory) on import.
            os.environ.setdefault("LG_WD", tempfile.gettempdir())
            Device.pin_factory = importlib.import_module("gpiozero.pins.lgpio").LGPIOFactory()
        return Device.pin_factory


def _faults() -> tuple[type[Exception], ...]:
    """What a chip or pin that cannot be had raises; lgpio's own error derives from Exception alone."""
    lgpio = sys.modules.get("lgpio")
    known = (GPIOZeroError, ImportError, OSError)
    return known if lgpio is None else (*known, lgpio.error)
