"""Real recordings, heard by `tsuroku listen` and by the reference decoders."""

from __future__ import annotations

import csv
import ctypes
import ctypes.util
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from firmware.cli.listen import hear
from tests.bench.report import Progress, Table

DATA = Path(__file__).parents[3] / "shared" / "data"
_FOLDERS = ("callerid_audio", "jclip_spandsp", "dtmf")
_SPANDSP = {"bell202": 1, "v23": 2, "jp": 4}  # libspandsp's names of the standards
# What the manifest says in words instead of keys, a string for each channel.
_KEYS = {
    "dtmf/tino_stereo.wav": ("12345", "67890"),
    "dtmf/tino_testNoise.wav": ("1",),
    "dtmf/bert2_long_dtmf_tones.mp3": ("123456789#0*1",) * 2,
    "dtmf/tino_dial.wav": ("15702340003",) * 2,
}


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    if not DATA.is_dir():
        raise RuntimeError(f"The recordings are not here: {DATA}.")
    truths = _truths()
    decoders: dict[str, Callable[[Path, Path], list[str]]] = {
        "tsuroku listen": _ours,
        "libspandsp": _spandsp,
        "minimodem": _minimodem,
        "multimon-ng": _multimon,
    }
    missing = [name for name, there in _here().items() if not there]
    found: dict[str, dict[str, list[str]]] = {name: {} for name in decoders if name not in missing}
    for number, file in enumerate(truths):
        progress(f"Listening to {file}", number / len(truths))
        mono = work / "mono.wav"
        left = ["ffmpeg", "-v", "error", "-y", "-i", str(DATA / file), "-af", "pan=mono|c0=c0", "-ar"]
        subprocess.run([*left, "8000", "-c:a", "pcm_s16le", str(mono)], check=True)
        subprocess.run([*left, "22050", "-f", "s16le", str(work / "mono.s16le")], check=True)
        for name, heard in found.items():
            heard[file] = decoders[name](DATA / file, work)
    return _table(truths, found, missing)


def _here() -> dict[str, bool]:
    programs = ("minimodem", "multimon-ng")
    return {"libspandsp": bool(ctypes.util.find_library("spandsp"))} | {p: bool(shutil.which(p)) for p in programs}


def _truths() -> dict[str, list[str]]:
    """By file: what is on its channels, "caller NUMBER", "caller -" (no number) or "keys DIGITS", one for each time."""
    truths: dict[str, list[str]] = {}
    with (DATA / "manifest.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            path = row["path"]
            if row["category"] == "callerid_audio":
                truths[path] = [f"caller {call['number']}" for call in json.loads(row["truth"])]
            elif row["category"] == "dtmf":
                keys = _KEYS.get(path, (row["truth"],) if row["truth"] else ())
                truths[path] = [f"keys {digits}" for digits in keys]
    for text in (DATA / "jclip_spandsp" / "truth.txt").read_text().splitlines():
        name, number = re.match(r"(\S+) number=(\S+)", text).groups()  # type: ignore[union-attr]
        truths[f"jclip_spandsp/{name}"] = [f"caller {number if number.isdigit() else '-'}"]
    return truths


def _ours(path: Path, _work: Path) -> list[str]:
    return [
        f"caller {fact.number or '-'}"
        if fact.kind == "caller_id"
        else f"keys {fact.digits}"
        if fact.kind == "dtmf"
        else f"{fact.kind} {fact.name}"
        for fact in hear(path, "jp")
    ]


def _spandsp(_path: Path, work: Path) -> list[str]:
    """Its three FSK receivers and its DTMF receiver, on the first channel at 8 kHz."""
    library = ctypes.CDLL(ctypes.util.find_library("spandsp"))
    receiver = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_ubyte), ctypes.c_int)
    library.adsi_rx_init.restype = library.dtmf_rx_init.restype = ctypes.c_void_p
    library.adsi_rx_init.argtypes = [ctypes.c_void_p, ctypes.c_int, receiver, ctypes.c_void_p]
    library.adsi_rx.argtypes = library.dtmf_rx.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    library.adsi_rx_free.argtypes = library.dtmf_rx_free.argtypes = [ctypes.c_void_p]
    library.dtmf_rx_init.argtypes = [ctypes.c_void_p] * 3
    library.dtmf_rx_get.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    samples = np.append(soundfile.read(work / "mono.wav", dtype="int16")[0], np.zeros(8000, np.int16))
    blocks = [samples[at : at + 160].tobytes() for at in range(0, len(samples), 160)]
    messages: set[bytes] = set()  # Bell 202 and V.23 are near enough that both receivers may read one frame
    put = receiver(lambda _, octets, count: messages.add(bytes(octets[:count])))
    for standard in _SPANDSP.values():
        state = library.adsi_rx_init(None, standard, put, None)
        for block in blocks:
            library.adsi_rx(state, block, len(block) // 2)
        library.adsi_rx_free(state)
    state = library.dtmf_rx_init(None, None, None)
    keys = b""
    for block in blocks:
        library.dtmf_rx(state, block, len(block) // 2)
        buffer = ctypes.create_string_buffer(129)
        library.dtmf_rx_get(state, buffer, 128)
        keys += buffer.value
    library.dtmf_rx_free(state)
    numbers = [re.search(rb"\x02[\x01-\x20](\d{3,})", message) for message in messages]
    return [f"caller {number[1].decode() if number else '-'}" for number in numbers] + _keys(keys.decode())


def _minimodem(path: Path, work: Path) -> list[str]:
    """Its caller-ID mode; for Japan, where it has none, its plain receiver with V.23's tones and 7 data bits."""
    said = _output(["minimodem", "--rx", "callerid", "-f", str(work / "mono.wav")])
    numbers = re.findall(r"Phone:\s*([\d-]+)", said)
    if not numbers:
        japanese = ["--rx", "1200", "-M", "1300", "-S", "2100", "--startbits", "1", "-8", "-f", str(work / "mono.wav")]
        raw = subprocess.run(["minimodem", "-q", *japanese], capture_output=True, check=False).stdout
        octets = bytes(octet & 0x7F for octet in raw)
        if found := re.search(rb"\x10\x01\x07\x10\x02@.(?:\x02[\x01-\x20](\d+)|\x04\x01[POCS])", octets, re.DOTALL):
            numbers = [(found[1] or b"-").decode()]
    return [f"caller {number.replace('-', '') or '-'}" for number in numbers]


def _multimon(_path: Path, work: Path) -> list[str]:
    said = _output(["multimon-ng", "-q", "-t", "raw", "-a", "CLIPFSK", "-a", "DTMF", str(work / "mono.s16le")])
    keys = "".join(re.findall(r"DTMF: (\S)", said))
    return [f"caller {number}" for number in re.findall(r"CID=(\d+)", said)] + _keys(keys)


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout


def _keys(keys: str) -> list[str]:
    return [f"keys {keys}"] if keys else []


def _table(truths: dict[str, list[str]], found: dict[str, dict[str, list[str]]], missing: list[str]) -> Table:
    rows: list[tuple[str, ...]] = []
    figures: dict[str, float] = {}
    ours = found["tsuroku listen"]
    beyond = Counter[str]()
    for name, heard in found.items():
        right = wrong = 0
        for file, truth in truths.items():
            # The others hear the first channel alone; a second one that says the same is heard with it.
            hits = Counter(truth) & Counter(heard[file])
            right += hits.total()
            wrong += (Counter(heard[file]) - Counter(truth)).total()
            beyond[name] += (hits - Counter(ours[file])).total()
        wanted = sum(map(len, truths.values()))
        rows.append((name, f"{right} of {wanted}", str(wrong), str(beyond[name])))
        key = name.replace(" ", "_").replace("-", "_")
        figures |= {f"{key}_right": right, f"{key}_wrong": wrong, f"{key}_beyond_ours": beyond[name]}
    return Table(
        title="Recordings of lines, and what is heard in them",
        how=(
            f"All {len(truths)} files of the recordings' folders {', '.join(_FOLDERS)}, negatives among them: callers "
            "and keys as the manifest tells them; a caller counts with the right number, keys with all digits of their "
            "channel. The references get the first channel, brought to their rate by ffmpeg. "
            "Aim: all right, nothing else, and nothing right that only another one hears."
            + (f" Not installed: {', '.join(missing)}." if missing else "")
        ),
        columns=("decoder", "right", "something else", "right, and not heard by us"),
        rows=tuple(rows),
        figures=figures,
    )
