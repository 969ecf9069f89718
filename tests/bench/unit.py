"""The whole unit as a process of its own: `python -m tests.bench.unit SETTINGS`, without anything that simulates.

Its comparators are mock pins, driven by lines on standard input: `loop 1`, `ring 0`. Ends with its standard input.
"""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from typing import cast

from gpiozero.pins.mock import MockFactory

from drivers.virtual.pins import Input, VirtualPins
from firmware import settings
from firmware.app import Unit, hardware
from hw import board


def main(path: Path) -> None:
    logging.basicConfig(level=logging.INFO)
    chosen = settings.load(path)
    facts = board.load(chosen.unit.board)
    factory = MockFactory()
    pins = VirtualPins(factory, facts)
    unit = Unit(chosen, facts)

    def obey() -> None:
        for text in sys.stdin:
            name, level = text.split()
            pins.set(1, cast(Input, name), level == "1")
        unit.engine.stop()

    drivers, panel = hardware(unit, pin_factory=factory)
    unit.start(drivers, panel)
    threading.Thread(target=obey, name="pins", daemon=True).start()
    try:
        unit.run()
    finally:
        unit.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
