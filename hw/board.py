"""The facts of the line-tap boards: one TOML file a board, read into frozen dataclasses. Standard library only."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_BOARDS = Path(__file__).with_name("boards")
# ID EEPROM of the HAT (0, 1), I2C (2, 3), UART (14, 15) and I2S (18 to 21) stay free for other parts.
_KEPT_FREE = frozenset({0, 1, 2, 3, 14, 15, 18, 19, 20, 21})
_HIGHEST_GPIO = 27


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One GPIO of the 40-pin header. active is the level that means yes; an input is pulled to the other one."""

    gpio: int  # BCM number, not the position on the header
    active: Literal["high", "low"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinePins:
    """The comparators of one line. A board without one of the optional ones has None."""

    off_hook: Pin
    line_present: Pin | None = None
    ring: Pin | None = None
    polarity: Pin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelPins:
    green_led: Pin
    red_led: Pin
    button: Pin


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure and how it is known: "ngspice" (simulated), "design" (chosen), "measured"."""

    value: float
    known: Literal["ngspice", "design", "measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """What the tap makes of the line, and what it costs the line."""

    dc_tap_mv_per_v: Figure
    audio_gain_db: Figure  # line to codec input, 300 to 3400 Hz
    audio_flatness_db: Figure  # greatest deviation over 300 to 3400 Hz
    insertion_loss_db: Figure  # on a 600 ohm line
    leakage_ua: Figure  # from a 48 V line
    ringing_load_ua: Figure  # at 75 V rms, 16 Hz
    loop_closes_at: Figure  # part of the idle voltage
    loop_opens_at: Figure  # part of the idle voltage
    line_present_v: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    name: str
    title: str
    line: tuple[LinePins, ...]  # line 1 first
    panel: PanelPins
    levels: Levels


def load(name: str) -> Board:
    """Read the facts of a board. Raises ValueError with one sentence for an unknown board or a wrong file."""
    known = sorted(path.stem for path in _BOARDS.glob("*.toml"))
    if name not in known:
        raise ValueError(f"There is no board {name!r}; known boards: {', '.join(known)}.")
    path = _BOARDS / f"{name}.toml"
    return parse(path.read_text(encoding="utf-8"), path.name)


def parse(text: str, file: str) -> Board:
    """Check a board given as TOML text; file stands for it in messages. Raises ValueError with one sentence."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: is not TOML: {error}.") from error
    board: Board = _value(Board, table, file)
    if not board.line:
        raise ValueError(f"{file}: line: a board has one [[line]] or more.")
    taken: set[int] = set()
    for pin in _pins(board):
        if pin.gpio in _KEPT_FREE or not 0 <= pin.gpio <= _HIGHEST_GPIO:
            raise ValueError(f"{file}: gpio = {pin.gpio} is not free for a line tap; use 4 to 13, 16, 17 or 22 to 27.")
        if pin.gpio in taken:
            raise ValueError(f"{file}: gpio = {pin.gpio} is used twice.")
        taken.add(pin.gpio)
    return board


def _pins(part: object) -> list[Pin]:
    if isinstance(part, Pin):
        return [part]
    if isinstance(part, tuple):
        return [pin for item in part for pin in _pins(item)]
    if dataclasses.is_dataclass(part):
        return [pin for f in dataclasses.fields(part) for pin in _pins(getattr(part, f.name))]
    return []


def _value(hint: Any, value: object, where: str) -> Any:
    if typing.get_origin(hint) is types.UnionType:  # X | None: TOML has no null, so a given value is an X
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where}: must be a list of tables.")
        item = typing.get_args(hint)[0]
        return tuple(_value(item, entry, f"{where} {number}") for number, entry in enumerate(value, 1))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: must be a table.")
        fields = {f.name: f for f in dataclasses.fields(hint)}
        hints = typing.get_type_hints(hint)
        for key in value:
            if key not in fields:
                raise ValueError(f"{where}: has no key {key!r}; known are: {', '.join(fields)}.")
        for key, f in fields.items():
            if key not in value and f.default is dataclasses.MISSING:
                raise ValueError(f"{where}: lacks the key {key!r}.")
        made = {key: _value(hints[key], entry, f"{where}: {key}") for key, entry in value.items()}
        return typing.cast(type, hint)(**made)
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{where} = {value!r} is not one of: {', '.join(typing.get_args(hint))}.")
        return value
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise ValueError(f"{where} = {value!r} must be of type {hint.__name__}.")
    return hint(value)
