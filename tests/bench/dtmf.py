"""Keys against the limits of ITU-T Q.24, beside libspandsp's receiver and multimon-ng where they are installed."""

from __future__ import annotations

import ctypes
import ctypes.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivers.softmodem.dtmf import FULL_SCALE_DBM0, RATE_HZ, DtmfReceiver
from tests.bench.report import Progress, Table

Sound = NDArray[np.float64]
_KEYS = "123A456B789C*0#D"
_LOW, _HIGH = (697, 770, 852, 941), (1209, 1336, 1477, 1633)


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    rounds = 2 if quick else 20
    cases = _cases()
    receivers = _receivers(work)
    found: dict[str, list[int]] = {name: [] for name in receivers}
    rows = []
    for number, (title, wanted, how) in enumerate(cases):
        progress(f"Keys, {title}", number / len(cases))
        rng = np.random.default_rng(number)
        keys = _KEYS * rounds
        sound = _dialled(keys, rng, **how)
        pcm = np.clip(np.round(sound * 32768), -32768, 32767).astype("<i2")
        cells = []
        for name, receiver in receivers.items():
            right = _right(keys, receiver(pcm))
            found[name].append(right)
            cells.append(f"{100 * right / len(keys):.0f} %")
        rows.append((title, wanted, *cells))
    figures = {
        f"dtmf_{name}_{title}".replace(" ", "_"): right / len(_KEYS) / rounds
        for name, all_right in found.items()
        for (title, _, _), right in zip(cases, all_right, strict=True)
    }
    return Table(
        title="Keys",
        how=(
            f"{len(_KEYS) * rounds} keys a row, all sixteen in turn, random phase, 50 ms on and off where nothing else "
            "is said, each tone at -12 dBm0; found in their order. Noise: white to 4 kHz, under each tone."
        ),
        columns=("keys", "wanted", *receivers),
        rows=tuple(rows),
        figures=figures,
    )


def _cases() -> list[tuple[str, str, dict[str, float]]]:
    """What is tried, what Q.24 (or the Japanese network) wants of it, how the keys sound."""
    return [
        ("20 ms on", "none", {"on_s": 0.02}),
        ("23 ms on", "none", {"on_s": 0.023}),
        ("40 ms on, 40 ms off", "all", {"on_s": 0.04, "off_s": 0.04}),
        ("50 ms on, 30 ms off", "all", {"off_s": 0.03}),
        ("10 ms drop-out in 100 ms", "all", {"on_s": 0.1, "drop_s": 0.01}),
        ("+1.5 % both", "all", {"low_off": 0.015, "high_off": 0.015}),
        ("-1.5 % both", "all", {"low_off": -0.015, "high_off": -0.015}),
        ("+3.5 % low", "none", {"low_off": 0.035}),
        ("-3.5 % high", "none", {"high_off": -0.035}),
        ("high tone +4 dB", "all", {"twist_db": 4.0}),
        ("high tone -8 dB", "all", {"twist_db": -8.0}),
        ("-29 dBm0", "all", {"level_dbm0": -29.0}),
        ("-36 dBm0", "all", {"level_dbm0": -36.0}),
        ("-45 dBm0", "all", {"level_dbm0": -45.0}),
        ("0 dBm0, clipped", "all", {"level_dbm0": 0.0}),
        ("+6 dBm0, clipped hard", "all", {"level_dbm0": 6.0}),
        ("noise -24 dB", "all", {"noise_db": -24.0}),
        ("noise -15 dB", "all", {"noise_db": -15.0}),
        ("noise -12 dB", "all", {"noise_db": -12.0}),
        ("noise -9 dB", "", {"noise_db": -9.0}),
        ("400 Hz dial tone, as loud", "all", {"dial_db": 0.0}),
    ]


def _dialled(
    keys: str,
    rng: np.random.Generator,
    *,
    on_s: float = 0.05,
    off_s: float = 0.05,
    level_dbm0: float = -12.0,
    twist_db: float = 0.0,
    low_off: float = 0.0,
    high_off: float = 0.0,
    drop_s: float = 0.0,
    noise_db: float | None = None,
    dial_db: float | None = None,
) -> Sound:
    amplitude = 10 ** ((level_dbm0 - FULL_SCALE_DBM0) / 20)
    t = np.arange(round(on_s * RATE_HZ)) / RATE_HZ
    parts = [np.zeros(RATE_HZ // 4)]
    for key in keys:
        row, column = divmod(_KEYS.index(key), 4)
        low = np.sin(2 * np.pi * _LOW[row] * (1 + low_off) * t + rng.uniform(0, 7))
        high = np.sin(2 * np.pi * _HIGH[column] * (1 + high_off) * t + rng.uniform(0, 7))
        tone = amplitude * (low + 10 ** (twist_db / 20) * high)
        middle = len(tone) // 2
        tone[middle : middle + round(drop_s * RATE_HZ)] = 0
        parts += [tone, np.zeros(round(off_s * RATE_HZ) + int(rng.integers(0, 8)))]
    sound = np.concatenate([*parts, np.zeros(RATE_HZ // 4)])
    if noise_db is not None:
        sound += rng.normal(0, amplitude * 10 ** (noise_db / 20) / 2**0.5, len(sound))
    if dial_db is not None:
        sound += amplitude * 10 ** (dial_db / 20) * np.sin(2 * np.pi * 400 * np.arange(len(sound)) / RATE_HZ)
    return sound


def _right(keys: str, heard: str) -> int:
    """How many of the keys were found in their order (the longest common subsequence), less what was invented."""
    ends = [0] * (len(heard) + 1)
    for key in keys:
        before = 0
        for at, each in enumerate(heard):
            above = ends[at + 1]
            ends[at + 1] = before + 1 if each == key else max(above, ends[at])
            before = above
    return max(0, ends[-1] - (len(heard) - ends[-1]))


def _receivers(work: Path) -> dict[str, Callable[[NDArray[np.int16]], str]]:
    receivers: dict[str, Callable[[NDArray[np.int16]], str]] = {"Tsuroku": _own}
    if library := ctypes.util.find_library("spandsp"):
        spandsp = ctypes.CDLL(library)
        spandsp.dtmf_rx_init.restype = ctypes.c_void_p
        receivers["libspandsp"] = lambda pcm: _spandsp(spandsp, pcm)
    if shutil.which("multimon-ng") and shutil.which("sox"):
        receivers["multimon-ng"] = lambda pcm: _multimon(work, pcm)
    return receivers


def _own(pcm: NDArray[np.int16]) -> str:
    return "".join(key.key for key in DtmfReceiver().feed(pcm / 32768))


def _spandsp(library: ctypes.CDLL, pcm: NDArray[np.int16]) -> str:
    """As it comes, and its filter against dial tone left as it comes."""
    state = ctypes.c_void_p(library.dtmf_rx_init(None, None, None))
    digits = ctypes.create_string_buffer(129)
    heard = b""
    for at in range(0, len(pcm), 160):
        part = np.ascontiguousarray(pcm[at : at + 160])
        library.dtmf_rx(state, part.ctypes.data_as(ctypes.c_void_p), ctypes.c_int(len(part)))
        library.dtmf_rx_get(state, digits, ctypes.c_int(128))
        heard += digits.value
    library.dtmf_rx_free(state)
    return heard.decode("ascii")


def _multimon(work: Path, pcm: NDArray[np.int16]) -> str:
    raw = work / "keys.raw"
    pcm.tofile(raw)
    form = ["-t", "raw", "-e", "signed", "-b", "16", "-c", "1"]
    made = subprocess.run(
        ["sox", *form, "-r", str(RATE_HZ), raw, *form, "-r", "22050", "-"], capture_output=True, check=True
    )
    ran = subprocess.run(
        ["multimon-ng", "-q", "-a", "DTMF", "-t", "raw", "-"], input=made.stdout, capture_output=True, check=True
    )
    return "".join(line.split(": ")[1] for line in ran.stdout.decode("ascii").splitlines() if line.startswith("DTMF: "))
