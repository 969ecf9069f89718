import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from gpiozero import DigitalInputDevice
from gpiozero.pins.mock import MockFactory
from hypothesis import given
from hypothesis import strategies as st

import hw.board
from drivers.gpio import RHYTHMS, LineInputs, Panel, _edge_ns
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
from drivers.virtual.pins import VirtualPins
from hw.board import LinePins, load

BOARD = load("line-tap-1")
MS = 1_000_000
S = TypeVar("S", bound=Signal)


class Inbox(queue.Queue[Signal]):
    def all(self) -> list[Signal]:
        return [self.get_nowait() for _ in range(self.qsize())]

    def one(self, kind: type[S], timeout_s: float = 10) -> S:
        signal = self.get(timeout=timeout_s)
        assert isinstance(signal, kind), signal
        return signal


@pytest.fixture
def factory() -> Iterator[MockFactory]:
    factory = MockFactory()
    yield factory
    factory.close()


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def line(factory: MockFactory, inbox: Inbox) -> Iterator[VirtualPins]:
    """Line 1 opened, with its initial levels already taken from the inbox."""
    pins = VirtualPins(factory, BOARD)
    inputs = LineInputs(1, BOARD.line[0], inbox.put, pin_factory=factory)
    inputs.start()
    inbox.all()
    yield pins
    inputs.close()


def test_the_levels_found_at_start_are_posted_as_initial(factory: MockFactory, inbox: Inbox) -> None:
    pins = VirtualPins(factory, BOARD)
    pins.set(1, "loop", True)
    pins.set(1, "ring", True)
    before_ns = time.monotonic_ns()
    inputs = LineInputs(1, BOARD.line[0], inbox.put, pin_factory=factory)
    inputs.start()
    ready, *levels = inbox.all()
    inputs.close()
    assert isinstance(ready, DeviceReady)
    assert (ready.device, ready.line, ready.detail) == ("gpio", 1, "GPIO 6, 13, 5, 12")
    present, polarity, loop = levels
    assert present == LinePresentEdge(at_ns=present.at_ns, line=1, present=True, initial=True)
    assert polarity == PolarityEdge(at_ns=polarity.at_ns, line=1, reversed=False, initial=True)
    assert loop == LoopEdge(at_ns=loop.at_ns, line=1, closed=True, initial=True)
    assert all(before_ns <= signal.at_ns <= time.monotonic_ns() for signal in levels)


def test_a_missing_hat_reads_as_a_cut_line_and_never_as_a_call(factory: MockFactory, inbox: Inbox) -> None:
    inputs = LineInputs(1, BOARD.line[0], inbox.put, pin_factory=factory)
    inputs.start()  # nothing drives the pins: their pulls decide
    levels = inbox.all()[1:]
    inputs.close()
    assert [getattr(s, "present", None) for s in levels if isinstance(s, LinePresentEdge)] == [False]
    assert [s.closed for s in levels if isinstance(s, LoopEdge)] == [False]


def test_every_edge_is_posted_with_its_time(line: VirtualPins, inbox: Inbox) -> None:
    for name, kind, field in (
        ("loop", LoopEdge, "closed"),
        ("ring", RingEdge, "active"),
        ("polarity", PolarityEdge, "reversed"),
    ):
        for active in (True, False):
            before_ns = time.monotonic_ns()
            line.set(1, name, active)  # type: ignore[arg-type]  # the names of the table above
            after_ns = time.monotonic_ns()
            (edge,) = inbox.all()
            assert isinstance(edge, kind)
            assert getattr(edge, field) is active
            assert not getattr(edge, "initial", False)
            assert before_ns - MS <= edge.at_ns <= after_ns
    line.set(1, "line_present", False)
    assert inbox.one(LinePresentEdge).present is False


def test_a_burst_of_ringing_loses_no_edge(line: VirtualPins, inbox: Inbox) -> None:
    for cycle in range(200):
        line.set(1, "ring", cycle % 2 == 0)
    edges = [signal for signal in inbox.all() if isinstance(signal, RingEdge)]
    assert [edge.active for edge in edges] == [cycle % 2 == 0 for cycle in range(200)]
    assert [edge.at_ns for edge in edges] == sorted(edge.at_ns for edge in edges)


@given(now=st.integers(0, 10**17), age=st.floats(0, 9.9))
def test_ticks_of_the_monotonic_clock_become_the_edge_time_within_a_microsecond(now: int, age: float) -> None:
    ticks = now / 1e9 - age
    assert abs(_edge_ns(ticks, now) - (now - round(age * 1e9))) <= 1000


@pytest.mark.parametrize("ticks", [0.0, 1e9, 1_700_000_000.0, 12_345_678_901.0])
def test_ticks_of_another_clock_give_the_time_of_the_callback(ticks: float) -> None:
    now_ns = 5_000 * 10**9
    assert _edge_ns(ticks, now_ns) == now_ns


def test_close_ends_the_edges(factory: MockFactory, inbox: Inbox) -> None:
    pins = VirtualPins(factory, BOARD)
    inputs = LineInputs(1, BOARD.line[0], inbox.put, pin_factory=factory)
    inputs.start()
    inputs.close()
    inbox.all()
    pins.set(1, "loop", True)
    assert inbox.all() == []
    again = LineInputs(1, BOARD.line[0], inbox.put, pin_factory=factory)
    again.start()
    assert isinstance(inbox.one(DeviceReady), DeviceReady)
    again.close()


def test_a_board_without_the_optional_comparators(factory: MockFactory, inbox: Inbox) -> None:
    inputs = LineInputs(1, LinePins(off_hook=BOARD.line[0].off_hook), inbox.put, pin_factory=factory)
    inputs.start()
    ready, loop = inbox.all()
    inputs.close()
    assert isinstance(ready, DeviceReady)
    assert ready.detail == "GPIO 5"
    assert isinstance(loop, LoopEdge)


@pytest.mark.realtime
def test_a_busy_pin_is_one_fact_and_opens_when_it_is_free(
    factory: MockFactory, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    pins = VirtualPins(factory, BOARD)
    other = DigitalInputDevice(5, pin_factory=factory)
    inputs = LineInputs(1, BOARD.line[0], inbox.put, pin_factory=factory)
    inputs.start()
    (lost,) = inbox.all()
    assert isinstance(lost, DeviceLost)
    assert (lost.device, lost.line) == ("gpio", 1)
    assert lost.reason.startswith(
        "Line 1: the GPIO inputs of the line tap cannot be opened (pin GPIO5 is already in use"
    )
    assert lost.reason.endswith(".")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    other.close()
    pins.set(1, "loop", True)
    inbox.one(DeviceReady)
    assert inbox.one(LinePresentEdge).initial
    assert inbox.one(PolarityEdge).initial
    assert inbox.one(LoopEdge).initial
    inputs.close()


@pytest.mark.skipif(Path("/dev/gpiochip0").exists(), reason="this machine has a GPIO chip")
def test_a_machine_without_a_gpio_chip_is_a_fact_and_close_does_not_wait(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LG_WD", str(tmp_path))
    inputs = LineInputs(1, BOARD.line[0], inbox.put)
    inputs.start()
    (lost,) = inbox.all()
    assert isinstance(lost, DeviceLost)
    started = time.monotonic()
    inputs.close()
    assert time.monotonic() - started < 0.9


@pytest.fixture
def panel(factory: MockFactory, inbox: Inbox) -> Iterator[tuple[Panel, VirtualPins]]:
    pins = VirtualPins(factory, BOARD)
    panel = Panel(BOARD.panel, inbox.put, pin_factory=factory)
    panel.start()
    _until(lambda: pins.lit("green"))
    yield panel, pins
    panel.close()
    assert not pins.lit("green")
    assert not pins.lit("red")


def test_the_panel_shows_each_state_at_once(panel: tuple[Panel, VirtualPins]) -> None:
    shown, pins = panel
    shown.show("recording")
    _until(lambda: pins.lit("red") and not pins.lit("green"))
    shown.show("idle")
    _until(lambda: pins.lit("green") and not pins.lit("red"))


def test_a_rhythm_goes_on_while_the_same_state_is_shown(panel: tuple[Panel, VirtualPins], factory: MockFactory) -> None:
    shown, _ = panel
    shown.show("ringing")
    green: Any = factory.pin(BOARD.panel.green_led.gpio)
    green.clear_states()

    def beats() -> bool:
        shown.show("ringing")
        return len(green.states) >= 4  # would never go off if show() started the rhythm anew

    _until(beats)


def test_every_rhythm_differs_in_time_and_never_stands_still() -> None:
    assert len({rhythm.ms for rhythm in RHYTHMS.values()}) == len(RHYTHMS)
    for rhythm in RHYTHMS.values():
        assert len(rhythm.ms) % 2 == 0
        assert all(ms >= 50 for ms in rhythm.ms)
        assert sum(rhythm.ms) <= 3000  # a person looks that long


def test_the_wiring_page_names_every_rhythm() -> None:
    page = Path(hw.board.__file__).with_name("WIRING.md").read_text(encoding="utf-8")
    rows = [row.split("|") for row in page[page.index("## What the lights say") :].splitlines() if row.startswith("|")]
    lights = [row[2].strip() for row in rows[2:-1]]  # without head, rule and the row of a unit that hangs
    assert lights == [rhythm.led for rhythm in RHYTHMS.values()]


def test_a_press_is_posted_when_the_button_is_let_go(panel: tuple[Panel, VirtualPins], inbox: Inbox) -> None:
    _, pins = panel
    _until(lambda: _opened(pins))
    pins.press_button()
    pressed = inbox.one(ButtonPressed)
    assert 0 <= time.monotonic_ns() - pressed.at_ns < 1000 * MS
    assert inbox.all() == []


def test_contact_bounce_makes_one_press(factory: MockFactory, inbox: Inbox) -> None:
    button = Panel(BOARD.panel, inbox.put, pin_factory=factory)._button  # its own times: a test cannot bounce on time
    for at_ms, active in ((0, True), (1, False), (2, True), (150, False), (151, True), (153, False)):
        button(at_ms * MS, active, False)
    assert inbox.all() == [ButtonPressed(at_ns=150 * MS)]


def test_a_button_that_is_held_is_told_apart(factory: MockFactory, inbox: Inbox) -> None:
    button = Panel(BOARD.panel, inbox.put, pin_factory=factory)._button
    for pressed_ms, released_ms in ((0, 1499), (2000, 2001), (2002, 3502), (3503, 3504)):
        button(pressed_ms * MS, True, False)
        button(released_ms * MS, False, False)
    assert inbox.all() == [ButtonPressed(at_ns=1499 * MS), ButtonHeld(at_ns=3502 * MS)]


def test_a_button_held_since_before_the_start_is_no_press(factory: MockFactory, inbox: Inbox) -> None:
    button = Panel(BOARD.panel, inbox.put, pin_factory=factory)._button
    button(0, True, True)
    button(500 * MS, False, False)
    assert inbox.all() == []


@pytest.mark.realtime
def test_a_panel_whose_pins_are_busy_waits_for_them(
    factory: MockFactory, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    pins = VirtualPins(factory, BOARD)
    other = DigitalInputDevice(BOARD.panel.button.gpio, pin_factory=factory)
    panel = Panel(BOARD.panel, inbox.put, pin_factory=factory)
    panel.start()
    _until(lambda: bool(caplog.records))
    assert caplog.records[0].levelname == "WARNING"
    other.close()
    _until(lambda: pins.lit("green"))
    panel.close()
    assert inbox.all() == []


def test_the_panel_is_one_thread(panel: tuple[Panel, VirtualPins]) -> None:
    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    assert names.count("panel") == 1
    assert not [name for name in names if "GPIO" in name or "Hold" in name]


def _opened(pins: VirtualPins) -> bool:
    return pins._factory.pin(BOARD.panel.button.gpio).when_changed is not None


def _until(true: Any, timeout_s: float = 10) -> None:
    stop = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < stop, "waited in vain"
        time.sleep(0.001)
