"""The line tap's pins, driven by a program instead of comparators, on gpiozero's MockFactory."""

from __future__ import annotations

import time
from typing import Any, Literal

from gpiozero.pins.mock import MockFactory, MockPin

from hw.board import Board, Pin

Input = Literal["loop", "ring", "line_present", "polarity"]


class VirtualPins:
    """What the HAT would drive, and what it would light. At first a line that is there and quiet.

    Make it before the drivers that open the same factory's pins.
    Left out: contact bounce, the rise time and thresholds of comparators (the caller says when and how often a pin
    changes), a chip that is lost or busy, and a kernel queue that overflows.
    """

    def __init__(self, factory: MockFactory, board: Board) -> None:
        self._factory = factory
        self._board = board
        for number in range(1, len(board.line) + 1):
            for name in ("loop", "ring", "line_present", "polarity"):
                self.set(number, name, name == "line_present")
        self._drive(board.panel.button, False)

    def set(self, line: int, name: Input, active: bool, at_ns: int | None = None) -> None:
        """Drive a comparator's output. line counts from 1; a pin that the board lacks is passed over.

        at_ns: when it changed, on CLOCK_MONOTONIC; None: now. Like the kernel's, the edge has this time however late
        its callback comes: a line does not stand still while this process does.
        """
        pins = self._board.line[line - 1]
        pin = pins.off_hook if name == "loop" else getattr(pins, name)
        if pin is not None:
            self._drive(pin, active, at_ns)

    def press_button(self, hold_s: float = 0.05) -> None:
        """Press and let go; returns after hold_s."""
        self._drive(self._board.panel.button, True)
        time.sleep(hold_s)
        self._drive(self._board.panel.button, False)

    def lit(self, led: Literal["green", "red"]) -> bool:
        pin = self._board.panel.green_led if led == "green" else self._board.panel.red_led
        return bool(self._factory.pin(pin.gpio).state) == (pin.active == "high")

    def _drive(self, pin: Pin, active: bool, at_ns: int | None = None) -> None:
        mock = self._factory.pin(pin.gpio, pin_class=_DrivenPin)
        mock.driven = True
        mock.edge_s = None if at_ns is None else at_ns / 1e9
        if active == (pin.active == "high"):
            mock.drive_high()
        else:
            mock.drive_low()


class _DrivenPin(MockPin):  # type: ignore[misc]  # gpiozero ships no types
    """A pin whose outside driver is stronger than the Pi's pull resistor; MockPin lets the pull win."""

    driven = False
    edge_s: float | None = None  # of the next edge; None: when it is called

    def _change_state(self, value: Any) -> bool:
        changed = bool(super()._change_state(value))
        if changed and self.edge_s is not None:
            self._last_change = self.edge_s  # MockPin hands it on as the edge's ticks
        return changed

    def _set_pull(self, value: Any) -> None:
        if self.driven:
            self._pull = value
        else:
            super()._set_pull(value)
