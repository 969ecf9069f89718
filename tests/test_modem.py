"""The modem driver on real pyserial and a pseudo terminal."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serial

from drivers import modem as driver
from drivers.modem import Modem
from drivers.modem_text import ModemText
from drivers.signals import CallerIdReceived, DeviceLost, DeviceReady, ModemRing, Signal
from drivers.virtual.modem import Dialect, VirtualModem

pytestmark = pytest.mark.realtime

TRANSCRIPTS = Path(__file__).parents[2] / "shared" / "data" / "modem"
PATIENCE_S = 20.0


class Posted:
    """What the driver under test has posted."""

    def __init__(self) -> None:
        self.signals: list[Signal] = []
        self._news = threading.Condition()

    def __call__(self, signal: Signal) -> None:
        with self._news:
            self.signals.append(signal)
            self._news.notify()

    def wait(self, enough: Callable[[list[Signal]], bool]) -> list[Signal]:
        with self._news:
            assert self._news.wait_for(lambda: enough(self.signals), PATIENCE_S), self.signals
            return list(self.signals)

    def callers(self) -> list[CallerIdReceived]:
        return [signal for signal in self.signals if isinstance(signal, CallerIdReceived)]

    def ready(self, times: int = 1) -> DeviceReady:
        self.wait(lambda signals: sum(isinstance(signal, DeviceReady) for signal in signals) >= times)
        return [signal for signal in self.signals if isinstance(signal, DeviceReady)][times - 1]

    def wait_lost(self, times: int) -> None:
        self.wait(lambda signals: sum(isinstance(signal, DeviceLost) for signal in signals) >= times)

    def lost(self, word: str) -> DeviceLost:
        self.wait(lambda signals: any(isinstance(s, DeviceLost) and word in s.reason for s in signals))
        return next(s for s in self.signals if isinstance(s, DeviceLost) and word in s.reason)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "RETRY_S", (0.05, 0.1))


@pytest.fixture
def posted() -> Posted:
    return Posted()


@pytest.fixture
def run(posted: Posted) -> Iterator[Callable[..., Modem]]:
    started: list[Modem] = []

    def start(port: str, model: str = "auto", region: str = "jp") -> Modem:
        started.append(Modem(1, port, model, region, post=posted))
        started[-1].start()
        return started[-1]

    yield start
    for modem in started:
        modem.close()


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[Callable[..., VirtualModem]]:
    made: list[VirtualModem] = []

    def make(dialect: Dialect = "conexant", kind: type[VirtualModem] = VirtualModem) -> VirtualModem:
        made.append(kind(tmp_path / "usb-modem", dialect))
        return made[-1]

    yield make
    for modem in made:
        modem.close()


Run = Callable[..., Modem]
Plugged = Callable[..., VirtualModem]


@pytest.mark.parametrize(
    ("dialect", "model", "command"),
    [
        ("conexant", "cx93001", "AT+VCID=1"),
        ("usr", "usr5637", "AT+VCID=1"),
        ("rockwell", "generic", "AT#CID=1"),
        ("zyxel", "generic", "AT+VCID=1"),
        ("hex", "generic", "AT+VCID=1"),
    ],
)
def test_a_modem_is_named_set_up_and_heard(
    run: Run, plugged: Plugged, posted: Posted, dialect: Dialect, model: str, command: str
) -> None:
    modem = plugged(dialect)
    before_ns = time.monotonic_ns()
    run(modem.port)
    ready = posted.ready()
    assert f"model {model}, {command}, region jp" in ready.detail
    assert "refused" not in ready.detail
    assert modem.reports_caller_id
    modem.ring()
    modem.caller_id("0300001234", "allowed", "ﾔﾏﾀﾞ", "11231200")
    modem.ring("A")
    modem.caller_id(None, "withheld", None, "11231201")
    posted.wait(lambda _: len(posted.callers()) == 2)
    _, first, allowed, second, withheld = posted.signals
    assert isinstance(first, ModemRing) and first.pattern is None
    assert isinstance(allowed, CallerIdReceived) and (allowed.number, allowed.name) == ("0300001234", "ﾔﾏﾀﾞ")
    assert isinstance(second, ModemRing) and second.pattern == "A"
    assert isinstance(withheld, CallerIdReceived) and withheld.presentation == "withheld"
    assert before_ns < first.at_ns <= allowed.at_ns <= second.at_ns <= withheld.at_ns < time.monotonic_ns()


def test_a_deaf_modem_rings_without_caller_id(run: Run, plugged: Plugged, posted: Posted) -> None:
    modem = plugged()
    run(modem.port)
    posted.ready()
    modem.deaf = True
    modem.caller_id("0300001234", "allowed", None, "11231200")
    modem.ring()
    posted.wait(lambda signals: isinstance(signals[-1], ModemRing))
    assert posted.callers() == []


@pytest.mark.parametrize(
    ("name", "count", "presentations"),
    [
        ("callattendant_test_vectors.txt", 5, {"allowed", "corrupt"}),
        ("misterhouse_formats.txt", 7, {"allowed", "corrupt", "unavailable"}),
        ("ha57765_conexant.txt", 0, {"unavailable"}),
        ("thess11_usr5637.txt", 0, {"unavailable"}),
        ("thess2_rd02d400_echo.txt", 0, set()),
    ],
)
def test_transcripts_of_users_give_their_numbers(
    run: Run, plugged: Plugged, posted: Posted, name: str, count: int, presentations: set[str]
) -> None:
    if not TRANSCRIPTS.is_dir():
        pytest.skip("the transcripts of modem users are not beside this checkout")
    captured = (TRANSCRIPTS / name).read_bytes().split(b"------\n", 1)[1]
    if name.startswith("callattendant"):  # lines quoted as Python bytes
        captured = b"\n".join(re.findall(rb'b"([^"]*)"', captured))
    if name.startswith("thess2"):
        captured = b"\n".join(re.findall(rb"^'(.*?)(?:\\r|\\n)+'$", captured, re.MULTILINE))
    # The numbers are real people's: found in the transcript, not written down here.
    found = re.findall(rb"(?:NMBR *=? *|^I\S+ \S+ )([0-9][0-9-]{6,})(?![0-9x])", captured, re.MULTILINE)
    numbers = [number.replace(b"-", b"").decode() for number in found]
    assert len(numbers) == count
    modem = plugged()
    run(modem.port)
    posted.ready()
    modem.write_raw(captured.replace(b"\n", b"\r\n") + b"\r\nRING Z\r\n")  # the last ring ends the play
    posted.wait(lambda signals: getattr(signals[-1], "pattern", None) == "Z")
    assert [caller.number for caller in posted.callers() if caller.number] == numbers
    assert {caller.presentation for caller in posted.callers()} == presentations


def test_unplugged_and_plugged_again_it_is_set_up_again(
    run: Run, plugged: Plugged, posted: Posted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="drivers.modem")
    modem = plugged("usr")
    run(modem.port)
    posted.ready()
    for times in (2, 3):
        modem.write_raw(b"NMBR=03000012")
        modem.unplug()
        modem.unplug()
        posted.wait_lost(times - 1)
        time.sleep(0.3)  # some vain attempts
        modem.plug()
        modem.plug()
        posted.ready(times)
        assert modem.reports_caller_id
    modem.caller_id("0300001234", "allowed", None, "11231200")
    posted.wait(lambda _: [caller.number for caller in posted.callers() if caller.number] == ["0300001234"])
    losses = [record for record in caplog.records if "modem_lost" in record.message]
    assert [record.levelno for record in losses].count(logging.WARNING) == 2
    assert len(losses) > 2
    assert not any("0300001234" in record.message for record in caplog.records)


def test_a_modem_that_was_reset_is_set_up_again_while_idle(
    run: Run, plugged: Plugged, posted: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    modem = plugged()
    run(modem.port)
    posted.ready()
    modem.answer("Z")
    assert not modem.reports_caller_id
    monkeypatch.setattr(driver, "PROBE_S", 0.3)
    posted.ready(2)
    assert modem.reports_caller_id
    assert not any(isinstance(signal, DeviceLost) for signal in posted.signals)


class Freezing(VirtualModem):
    """Stops answering when frozen is set, as modems do after weeks."""

    frozen = False

    def write_raw(self, data: bytes) -> None:
        if not self.frozen:
            super().write_raw(data)


def test_a_modem_that_falls_mute_while_idle_is_lost(
    run: Run, plugged: Plugged, posted: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    modem = plugged(kind=Freezing)
    assert isinstance(modem, Freezing)
    run(modem.port)
    posted.ready()
    monkeypatch.setattr(driver, "ANSWER_S", 0.5)
    monkeypatch.setattr(driver, "PROBE_S", 0.3)
    modem.frozen = True
    posted.lost("does not answer")
    modem.frozen = False
    posted.ready(2)


def test_rings_during_set_up_are_heard(run: Run, plugged: Plugged, posted: Posted) -> None:
    class Ringing(VirtualModem):
        def answer(self, command: str) -> tuple[str, str]:
            self.ring()
            return super().answer(command)

    modem = plugged("usr", Ringing)
    run(modem.port)
    assert "U.S. Robotics" in posted.ready().detail
    assert sum(isinstance(signal, ModemRing) for signal in posted.signals) >= 5


def test_digits_and_echo_of_a_badly_stored_profile_are_understood(run: Run, plugged: Plugged, posted: Posted) -> None:
    class Terse(VirtualModem):
        def answer(self, command: str) -> tuple[str, str]:
            return super().answer("ZE1V0" if command == "Z" else command)

    modem = plugged("conexant", Terse)
    run(modem.port)
    posted.ready()
    assert [signal for signal in posted.signals if isinstance(signal, ModemRing)] == []


def test_a_modem_that_never_answers_is_lost_once(
    run: Run, posted: Posted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="drivers.modem")
    monkeypatch.setattr(driver, "ANSWER_S", 0.1)
    master, slave = os.openpty()
    tty.setraw(slave)
    try:
        modem = run(os.ttyname(slave))
        posted.lost("does not answer to AT commands")
        deadline = time.monotonic() + PATIENCE_S
        while sum("modem_lost" in record.message for record in caplog.records) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        modem.close()
    finally:
        os.close(master)
        os.close(slave)
    assert len(posted.signals) == 1
    levels = [record.levelno for record in caplog.records if "modem_lost" in record.message]
    assert levels[:3] == [logging.WARNING, logging.DEBUG, logging.DEBUG]


class NoCallerId(VirtualModem):
    """Takes the command and does not keep it."""

    def answer(self, command: str) -> tuple[str, str]:
        return ("0", "OK") if command in ("+VCID?", "#CID?") else super().answer(command)


def test_a_modem_that_does_not_keep_caller_id_is_lost(run: Run, plugged: Plugged, posted: Posted) -> None:
    run(plugged("usr", NoCallerId).port)
    lost = posted.lost("does not switch caller ID on")
    assert "U.S. Robotics" in lost.reason
    assert not any(isinstance(signal, DeviceReady) for signal in posted.signals)


def test_a_refused_region_is_told(run: Run, plugged: Plugged, posted: Posted) -> None:
    run(plugged("usr").port, "cx93001", "uk")
    assert "model cx93001, AT+VCID=1, region uk, refused AT!4886=03" in posted.ready().detail


def test_wrong_ports_are_told_apart(run: Run, plugged: Plugged, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no port")
    busy = plugged()
    with serial.Serial(busy.port, exclusive=True):
        cases = {
            "usb-No_Such_Modem": "No modem is at /dev/serial/by-id/usb-No_Such_Modem",
            str(file): "does not work as a modem's serial port",
            str(tmp_path): "does not work as a modem's serial port",
            busy.port: "used by another program",
        }
        for port, sentence in cases.items():
            heard = Posted()
            modem = Modem(3, port, post=heard)
            modem.start()
            lost = heard.lost(sentence)
            modem.close()
            assert (lost.device, lost.line, lost.reason[-1]) == ("modem", 3, ".")
            assert heard.signals == [lost]


def test_unknown_model_or_region_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="use auto or one of: usr5637"):
        Modem(1, "/dev/null", "hayes", post=print)
    with pytest.raises(ValueError, match="use one of: jp, us, uk, etsi"):
        Modem(1, "/dev/null", "auto", "mars", post=print)


def test_close_before_start_and_while_waiting(plugged: Plugged, posted: Posted) -> None:
    Modem(1, "/dev/null", post=posted).close()
    modem = Modem(1, plugged().port, post=posted)
    modem.start()
    posted.ready()
    started = time.monotonic()
    modem.close()
    modem.close()
    assert time.monotonic() - started < PATIENCE_S / 4
    assert all(thread.name != "modem-1" for thread in threading.enumerate())


def test_a_flood_on_the_port_is_logged_once_and_calls_after_it_are_heard(
    run: Run, plugged: Plugged, posted: Posted, caplog: pytest.LogCaptureFixture
) -> None:
    modem = plugged()
    run(modem.port)
    posted.ready()
    modem.write_raw(b"MESG = 0000\r\n" * 2_000)
    modem.ring()
    modem.caller_id("0300001234", "allowed", None, "11231200")
    posted.wait(lambda _: [caller.number for caller in posted.callers()] == [None, "0300001234"])
    assert sum("modem_flood" in record.message for record in caplog.records) == 1


def test_a_bug_in_the_driver_is_reported_before_its_thread_ends(
    run: Run, plugged: Plugged, posted: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[Signal]:
        raise ZeroDivisionError

    monkeypatch.setattr(ModemText, "feed", broken)  # no input can cause it
    run(plugged().port)
    posted.lost("by a fault of its own")
