"""What can be measured of the machine itself. None where it cannot, as off a Raspberry Pi."""

from __future__ import annotations

import os
from pathlib import Path

_THERMAL = Path("/sys/class/thermal/thermal_zone0/temp")
_HWMON = Path("/sys/class/hwmon")
_SERIAL = Path("/proc/device-tree/serial-number")


def disk_free_mb(directory: Path) -> int | None:
    try:
        disk = os.statvfs(directory)
    except OSError:
        return None  # the card is gone; what cannot be written says so
    return disk.f_bavail * disk.f_frsize // 1_000_000


def temperature_c(thermal: Path = _THERMAL) -> float | None:
    """The processor's."""
    try:
        return round(int(thermal.read_text()) / 1000, 1)
    except (OSError, ValueError):
        return None


def under_voltage(hwmon: Path = _HWMON) -> bool | None:
    """Whether the supply is, or since the last look was, below 4.63 V: the kernel driver raspberrypi-hwmon tells."""
    try:
        for each in hwmon.iterdir():
            if (each / "name").read_text().strip() == "rpi_volt":
                return (each / "in0_lcrit_alarm").read_text().strip() == "1"
    except OSError:
        pass
    return None


def serial_number(path: Path = _SERIAL) -> str | None:
    """The Raspberry Pi's own, as it stands on its processor."""
    try:
        return path.read_text(encoding="ascii").strip("\0\n ") or None
    except (OSError, UnicodeDecodeError):
        return None
