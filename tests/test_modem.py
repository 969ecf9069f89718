"""The modem driver on real pyserial and a pseudo terminal."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import serial

from drivers import modem as driver
from drivers import modem_capture
from drivers.modem import Hearing, Modem, cut_power
from drivers.modem_capture import Capture
from drivers.modem_text import ModemText
from drivers.signals import (
    CallerIdReceived,
    Country,
    DeviceLost,
    DeviceReady,
    KeyHeard,
    LoopReport,
    ModemRing,
    Presentation,
    Signal,
)
from drivers.virtual.modem import Dialect, VirtualModem
from firmware.cli.main import main

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

    def start(port: str, model: str = "auto", region: Country = "jp", capture: Path | None = None) -> Modem:
        started.append(Modem(1, port, model, region, post=posted, capture=capture))
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
        ("agere", "generic", "AT+VCID=2"),
        ("silabs", "isomodem", "AT+VCID=1"),
        ("voice", "generic", "AT+FCLASS=8;+VCID=1"),
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
    assert "refused" not in ready.detail and "not read back" not in ready.detail
    assert modem.reports_caller_id
    modem.ring()
    modem.caller_id("0300001234", "allowed", "ﾔﾏﾀﾞ", "11231200")
    if dialect == "voice":  # its rings end no block, and have no pattern
        posted.wait(lambda _: len(posted.callers()) == 1)
    modem.ring("A")
    modem.caller_id(None, "withheld", None, "11231201")
    posted.wait(lambda _: len(posted.callers()) == 2)
    _, first, allowed, second, withheld = posted.signals
    assert isinstance(first, ModemRing) and first.pattern is None
    assert isinstance(allowed, CallerIdReceived) and (allowed.number, allowed.name, allowed.standard) == (
        ("0300001234", None, "jp") if dialect == "silabs" else ("0300001234", "ﾔﾏﾀﾞ", None)
    )
    assert isinstance(second, ModemRing) and second.pattern == (None if dialect == "voice" else "A")
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


@pytest.mark.parametrize("only", ["#CC1", "*ID1", "%CCID=1", "#CID=2", "+VCID=1"])
def test_every_way_to_switch_caller_id_on_is_tried(run: Run, plugged: Plugged, posted: Posted, only: str) -> None:
    class Old(VirtualModem):
        """Knows one command, and no question."""

        switched_on = 0

        def answer(self, command: str) -> tuple[str, str]:
            if command == only:
                self.switched_on += 1
                return "", "OK"
            return ("", "ERROR") if "CID" in command else super().answer(command)

    modem = plugged("rockwell", Old)
    assert isinstance(modem, Old)
    run(modem.port)
    assert f"model generic, AT{only}, region jp, not read back" in posted.ready().detail
    assert modem.switched_on


def test_a_modem_without_a_question_is_switched_on_again_while_idle(
    run: Run, plugged: Plugged, posted: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered = threading.Semaphore(0)

    class Old(VirtualModem):
        def answer(self, command: str) -> tuple[str, str]:
            if command == "#CC1":
                ordered.release()
                return "", "OK"
            return ("", "ERROR") if "CID" in command else super().answer(command)

    monkeypatch.setattr(driver, "PROBE_S", 0.3)
    run(plugged("rockwell", Old).port)
    posted.ready()
    for _ in range(4):  # twice while it was set up
        assert ordered.acquire(timeout=PATIENCE_S)
    assert sum(isinstance(signal, DeviceReady) for signal in posted.signals) == 1


def test_a_modem_that_knows_digits_alone_is_set_up(run: Run, plugged: Plugged, posted: Posted) -> None:
    class Digits(VirtualModem):
        def answer(self, command: str) -> tuple[str, str]:
            answer = super().answer(command)
            self._words = False
            return answer

    modem = plugged("conexant", Digits)
    run(modem.port)
    assert "model cx93001, AT+VCID=1, region jp" in (detail := posted.ready().detail)
    assert "not read back" not in detail
    assert modem.reports_caller_id
    modem.ring()
    posted.wait(lambda signals: isinstance(signals[-1], ModemRing))


def test_a_slow_modem_is_waited_for(run: Run, plugged: Plugged, posted: Posted) -> None:
    modem = plugged("usr")
    modem.slow_s = 0.3
    run(modem.port, "usr5637")
    posted.ready()
    assert modem.reports_caller_id


def test_old_firmware_is_told(run: Run, plugged: Plugged, posted: Posted) -> None:
    class Older(VirtualModem):
        def answer(self, command: str) -> tuple[str, str]:
            return ("U.S. Robotics 56K FAX USB V1.2.2", "OK") if command == "I3" else super().answer(command)

    run(plugged("usr", Older).port)
    assert "misses callers" in posted.ready().detail


def test_the_events_of_voice_mode_are_heard(run: Run, plugged: Plugged, posted: Posted) -> None:
    modem = plugged("voice")
    run(modem.port)
    posted.ready()
    for code in ("R", "h", "H", "P", "5", "#"):
        modem.event(code)
    posted.wait(lambda signals: isinstance(signals[-1], KeyHeard) and signals[-1].key == "#")
    ring, broken, restored, extension, five, _ = posted.signals[1:]
    assert isinstance(ring, ModemRing) and isinstance(five, KeyHeard) and five.key == "5"
    reports = [broken, restored, extension]
    assert [r.what for r in reports if isinstance(r, LoopReport)] == ["broken", "restored", "extension"]


# ---- the deaf modem


def heard(hearing: Hearing, at_s: float, *what: Presentation | None) -> None:
    """A call with its rings 3 s apart, and a caller between them where one is told."""
    for number, presentation in enumerate(what):
        at_ns = int((at_s + 3 * number) * 1e9)
        hearing.heard(ModemRing(at_ns=at_ns, line=1) if presentation is None else told(at_ns, presentation))


def told(at_ns: int, presentation: Presentation) -> CallerIdReceived:
    return CallerIdReceived(
        at_ns=at_ns,
        line=1,
        source="modem",
        presentation=presentation,
        number="0300001234" if presentation == "allowed" else None,
        name=None,
        date_raw=None,
        raw="",
    )


def test_calls_without_a_caller_are_counted_where_there_ever_was_one() -> None:
    hearing = Hearing()
    for at_s in (0, 100, 200):
        heard(hearing, at_s, None, None, None)
    hearing.pass_time(int(300e9))
    assert hearing.silent_calls == 0  # a line without caller ID
    heard(hearing, 400, None, "withheld", None)
    heard(hearing, 500, "unavailable", None, None)
    heard(hearing, 600, None, None, "allowed")
    heard(hearing, 700, None)  # somebody lifted at once
    hearing.pass_time(int(800e9))
    assert hearing.silent_calls == 0
    heard(hearing, 900, None, None, None, None)
    hearing.pass_time(int((909 + driver.CALL_GAP_S) * 1e9))
    assert hearing.silent_calls == 0  # it may go on ringing
    hearing.pass_time(int((909.1 + driver.CALL_GAP_S) * 1e9))
    assert hearing.silent_calls == 1
    heard(hearing, 1000, None, None)
    heard(hearing, 1100, None, None)
    assert hearing.silent_calls == 2
    heard(hearing, 1200, None, "corrupt")
    assert hearing.silent_calls == 0


def rings_alone(modem: VirtualModem) -> None:
    """A call of two rings."""
    modem.ring()
    modem.ring()
    time.sleep(0.8)


@pytest.fixture
def reported_before(run: Run, plugged: Plugged, posted: Posted, monkeypatch: pytest.MonkeyPatch) -> VirtualModem:
    """A modem that told of a caller once."""
    monkeypatch.setattr(driver, "CALL_GAP_S", 0.4)
    monkeypatch.setattr(driver, "POWER_OFF_S", 0.01)
    monkeypatch.setattr(driver, "DEAF_CALLS", 2)
    modem = plugged()
    run(modem.port)
    posted.ready()
    modem.caller_id("0300001234", "allowed", None, "11231200")
    posted.wait(lambda _: len(posted.callers()) == 1)
    time.sleep(0.8)
    return modem


def test_a_modem_that_seems_deaf_is_set_up_again_then_lost_and_ready_when_it_tells_a_caller(
    reported_before: VirtualModem, posted: Posted
) -> None:
    modem = reported_before
    modem.deaf = True
    rings_alone(modem)
    rings_alone(modem)
    posted.ready(2)
    assert not any(isinstance(signal, DeviceLost) for signal in posted.signals)
    rings_alone(modem)
    assert posted.lost("rings but no caller any more;").reason.endswith("plug it in again.")
    rings = sum(isinstance(signal, ModemRing) for signal in posted.signals)
    rings_alone(modem)  # is still heard
    rings_alone(modem)
    posted.wait(lambda signals: sum(isinstance(signal, ModemRing) for signal in signals) == rings + 4)
    assert sum(isinstance(signal, DeviceLost) for signal in posted.signals) == 1
    assert sum(isinstance(signal, DeviceReady) for signal in posted.signals) == 2
    modem.deaf = False
    modem.caller_id("0300001234", "allowed", None, "11231200")
    posted.ready(3)


def usb_tree(monkeypatch: pytest.MonkeyPatch, root: Path, port: str, *, has_port: bool = True) -> Path:
    """What the kernel shows of a modem in port 3 of a hub; returns the modem's device."""
    usb = root / "devices" / "usb1" / "1-1" / "1-1.3"
    interface = usb / "1-1.3:1.0"
    interface.mkdir(parents=True)
    (usb / "authorized").write_text("1")
    if has_port:
        switch = usb.parent / "1-1:1.0" / "1-1-port3"
        switch.mkdir(parents=True)
        (switch / "disable").write_text("0")
        (usb / "port").symlink_to(switch)
    tty_class = root / "class" / "tty" / Path(port).resolve().name
    tty_class.mkdir(parents=True)
    (tty_class / "device").symlink_to(interface)
    monkeypatch.setattr(driver, "SYSFS", root)
    return usb


def test_a_deaf_modem_has_its_power_cut_and_comes_back(
    reported_before: VirtualModem, posted: Posted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modem = reported_before
    disable = usb_tree(monkeypatch, tmp_path / "sys", modem.port) / "port" / "disable"

    def hub(_: float) -> None:
        """What a hub does while the driver waits."""
        assert disable.read_text() == "1"
        modem.unplug()
        modem.plug()

    modem.deaf = True
    for _ in range(2):
        rings_alone(modem)
    posted.ready(2)
    monkeypatch.setattr(driver, "sleep", hub)
    rings_alone(modem)
    posted.lost("although its USB power was cut for a moment")
    posted.ready(3)
    assert disable.read_text() == "0"
    modem.caller_id("0300001234", "allowed", None, "11231200")
    posted.wait(lambda _: len(posted.callers()) == 2)


def test_a_modem_that_stays_mute_has_its_power_cut_once_an_hour(
    run: Run, plugged: Plugged, posted: Posted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "ANSWER_S", 0.1)
    cuts: list[float] = []
    monkeypatch.setattr(driver, "sleep", cuts.append)
    modem = plugged()
    modem.mute = True
    usb_tree(monkeypatch, tmp_path / "sys", modem.port, has_port=False)
    run(modem.port)
    posted.lost("does not answer to AT commands; unplug")
    posted.lost("does not answer to AT commands, although it was taken off USB for a moment; unplug")
    time.sleep(1.5)
    assert cuts == [driver.POWER_OFF_S]
    assert len(posted.signals) == 2
    modem.mute = False
    posted.ready()


def test_ways_to_cut_the_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "POWER_OFF_S", 0.01)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert cut_power("/dev/null") == (False, "")
    usb = usb_tree(monkeypatch, tmp_path / "sys", "/dev/ttyACM7", has_port=False)
    assert cut_power("/dev/ttyACM7") == (True, ", although it was taken off USB for a moment")
    assert (usb / "authorized").read_text() == "1"
    (usb / "authorized").chmod(0)
    monkeypatch.setattr(driver, "_switched", lambda *_: False)  # root may write anywhere
    assert cut_power("/dev/ttyACM7") == (False, ", and the recorder may not switch its USB port off")
    uhubctl = tmp_path / "bin" / "uhubctl"
    uhubctl.parent.mkdir()
    uhubctl.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    uhubctl.chmod(0o755)
    assert cut_power("/dev/ttyACM7") == (True, ", although its USB power was cut for a moment")
    assert (tmp_path / "asked").read_text() == "-l 1-1 -p 3 -a cycle -d 0.01\n"
    uhubctl.write_text("#!/bin/sh\nexit 1\n")
    assert cut_power("/dev/ttyACM7")[0] is False


# ---- what is kept for support


def test_what_went_over_the_port_is_kept_and_read_again(
    run: Run,
    plugged: Plugged,
    posted: Posted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(driver, "PROBE_S", 0.7)
    modem = plugged("voice")
    kept = tmp_path / "support" / "modem-1.raw"
    running = run(modem.port, capture=kept)
    posted.ready()
    modem.ring()
    modem.caller_id("0300001234", "allowed", "ﾔﾏﾀﾞ", "11231200")
    modem.event("7")
    posted.wait(lambda signals: len(posted.callers()) == 1 and any(isinstance(s, KeyHeard) for s in signals))
    time.sleep(2.0)  # some probes
    running.close()
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    text = kept.read_text("ascii")
    assert "> ATZ\\r" in text and "< " in text and r"\x10/\x10?\x10~" in text
    assert text.count("AT+VCID?") == 1  # while it was set up; no probe
    assert main(["modem-log", str(kept), "--json"]) == 0
    facts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(fact["kind"], fact["number"], fact["name"]) for fact in facts] == [
        ("ring", None, None),
        ("key", None, None),
        ("caller_id", "0300001234", "ﾔﾏﾀﾞ"),
    ]
    assert facts[1]["raw"] == "?"
    assert main(["modem-log", str(kept)]) == 0
    assert "0300001234" in capsys.readouterr().out


def test_what_is_kept_is_bounded_and_a_full_disk_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(modem_capture, "HOUR_BYTES", 1 << 30)
    kept = tmp_path / "modem-1.raw"
    capture = Capture(kept)
    for number in range(3000):
        capture.received(f"{number:04}".encode() * 50 + b"\r\n")
        capture.flush()
    assert modem_capture.MOST_BYTES // 3 < kept.stat().st_size <= modem_capture.MOST_BYTES
    pieces = [piece.data for piece in modem_capture.read(kept.read_bytes())]
    assert pieces == [f"{number:04}".encode() * 50 + b"\r\n" for number in range(3000 - len(pieces), 3000)]
    monkeypatch.setattr(modem_capture, "HOUR_BYTES", 0)
    size = kept.stat().st_size
    capture.received(b"a flood\r\n")
    capture.flush()
    assert kept.stat().st_size == size
    monkeypatch.undo()
    lost = Capture(Path("/dev/full/modem-1.raw"))
    for _ in range(3):
        lost.received(b"RING\r\n")
        lost.flush()
    assert [r.levelname for r in caplog.records if "modem_capture_failed" in r.message] == ["WARNING"]


def test_keys_are_masked_in_any_chunking(tmp_path: Path) -> None:
    said = b"\x10/\x101\x10~\x10R\x10\x105\x105\x10/9\x10~5RING\r\n"
    for size in range(1, len(said) + 1):
        capture = Capture(tmp_path / str(size))
        for at in range(0, len(said), size):
            capture.received(said[at : at + size])
        capture.flush()
        (piece,) = modem_capture.read((tmp_path / str(size)).read_bytes())
        assert piece.data == b"\x10/\x10?\x10~\x10R\x10\x105\x10?\x10/?\x10~5RING\r\n"


def test_a_capture_with_escapes_quotes_and_prefixes_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_bytes(
        b"\xef\xbb\xbf'AT+VCID?\\r\\r\\n'\n'2\\r\\n'\n'OK\\r\\n'\n"
        b"2026-11-23 12:00:00 modem: RING\n"
        b'Nov 23 12:00:01 unit x[1]: b"NMBR = 0300001234\\r\\n"\n'
        b"Nov 23 12:00:01 unit x[1]: NAME = O'HARA\n"
        b"NAME = \\xd4\\xcf\nRING A\nNMBR = P\n\x10h\n"
    )
    assert main(["modem-log", str(log), "--json"]) == 0
    facts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(fact["kind"], fact["number"], fact["name"], fact["reason"]) for fact in facts] == [
        ("ring", None, None, None),
        ("caller_id", "0300001234", "O'HARA", None),
        ("caller_id", None, "ﾔﾏ", "corrupt"),
        ("ring", None, None, None),
        ("line_broken", None, None, None),
        ("caller_id", None, None, "withheld"),
    ]
    assert facts[3]["raw"] == "RING A" and set(facts[0]) == {"kind", "number", "name", "reason", "raw"}
    assert main(["modem-log", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count(".\n") == 1
    (tmp_path / "empty").write_bytes(b"")
    assert main(["modem-log", str(tmp_path / "empty"), "--json"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("line", "data"),
    [
        (rb"""'RING\r\n' b"NAME = O'HARA" """, b"RING\r\nNAME = O'HARA\r\n"),
        (rb"'NAME = O\'HARA' '\\'", b"NAME = O'HARA\r\n\\\r\n"),
        (b"b'NAME = \x83\x5c'", b"NAME = \x83\x5c\r\n"),  # the second byte of a Shift_JIS character
        (b"b'NMBR = 0300", b""),  # cut, maybe in a number
    ],
)
def test_quoted_text_of_a_log_is_read(line: bytes, data: bytes) -> None:
    (piece,) = modem_capture.read(line)
    assert piece.data == data


@pytest.mark.parametrize("part", [rb"\a", rb"\'", b'\\"', b"\\", b"b'", b"\x83\\'"])
def test_quotes_without_end_take_no_time(part: bytes) -> None:
    began_s = time.process_time()
    for begin in (b"'", b"b'", b"'\""):
        list(modem_capture.read(begin + part * 100_000))
    assert time.process_time() - began_s < 5


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
        Modem(1, "/dev/null", "auto", cast(Country, "mars"), post=print)


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
