"""A unit on a virtual line that another process plays: what the crash proof kills.

    python -m tests.proof.unit SCENARIO DATA_DIR MODEM_PORT BROKER_PORT BASE_NS

The pins are moved here, from the scenario's present moment on; sound, modem and broker are the other process's. Says
`ready` when what the last run left open is filed and the drivers are started; ends in an orderly way on SIGTERM.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from pathlib import Path

from gpiozero.pins.mock import MockFactory

from drivers.virtual import scenario as story
from drivers.virtual.line import PinChange, VirtualLine
from drivers.virtual.pins import VirtualPins
from drivers.virtual.sound import AUDIO_DELAY_MS
from firmware.app import Unit, hardware
from firmware.settings import BrokerSettings, RecordingSettings
from firmware.simulate import virtual_settings
from hw import board


def main(scenario_path: str, data_dir: str, modem: str, broker_port: str, base_ns: str) -> None:
    logging.basicConfig(level=logging.INFO)
    scenario = story.load(Path(scenario_path))
    line = VirtualLine(scenario)
    broker = BrokerSettings(host="127.0.0.1", port=int(broker_port), tls=False)
    recording = RecordingSettings(audio_delay_ms=AUDIO_DELAY_MS)
    settings = virtual_settings(scenario, Path(data_dir), modem=modem, broker=broker, recording=recording)
    facts = board.load(settings.unit.board)
    factory = MockFactory()
    pins = VirtualPins(factory, facts)
    changes = [change for change in line.changes() if isinstance(change, PinChange)]
    began_ns = time.monotonic_ns() - int(base_ns)
    for name, active in line.initial().items():
        pins.set(1, name, active)
    for change in changes:
        if change.at_ns < began_ns:
            pins.set(1, change.name, change.active)

    def play() -> None:
        for change in changes:
            if change.at_ns >= began_ns:
                at_ns = int(base_ns) + change.at_ns
                time.sleep(max(0.0, (at_ns - time.monotonic_ns()) / 1e9))
                pins.set(1, change.name, change.active, at_ns)

    unit = Unit(settings, facts)
    signal.signal(signal.SIGTERM, lambda *_: unit.engine.stop())
    drivers, panel = hardware(unit, pin_factory=factory)
    unit.start(drivers, panel)
    threading.Thread(target=play, name="pins", daemon=True).start()
    print("ready", flush=True)
    unit.run()
    unit.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
