"""Headless Chromium (of Debian) plays recordings, a repaired copy too: every sample as it is, and the length."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import soundfile

from drivers.virtual import scenario as story
from firmware.simulate import results, stepped
from tests.proof.report import Report

SCENARIOS = Path(__file__).parents[1] / "scenarios"
# The samples that its decoder gives, as 16 bits (it scales what is above 0 by 32767), and the length that it shows.
_PAGE = """<!doctype html><title>wait</title><audio id="sound" src="data:audio/flac;base64,{data}"></audio><script>
const known = new Promise((yes, no) => {{ sound.onloadedmetadata = yes; sound.onerror = () => no("no sound"); }});
const file = Uint8Array.from(atob(sound.src.split(",")[1]), c => c.charCodeAt(0)).buffer;
(async () => {{
  await known;
  const heard = await new OfflineAudioContext(1, 1, {rate}).decodeAudioData(file);
  const pcm = Int16Array.from(heard.getChannelData(0), v => Math.round(v * (v < 0 ? 32768 : 32767)));
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", pcm.buffer));
  document.title = [...hash].map(n => n.toString(16).padStart(2, "0")).join("") + " " + sound.duration;
}})().catch(error => document.title = "error " + error);
</script>"""


def _played(path: Path, work: Path) -> None:
    with soundfile.SoundFile(path) as file:
        pcm, rate, seconds = bytes(file.buffer_read(dtype="int16")), file.samplerate, file.frames / file.samplerate
    page = work / "page.html"
    page.write_text(_PAGE.format(data=base64.b64encode(path.read_bytes()).decode(), rate=rate), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={work / 'profile'}"]
    command += ["--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    told = "wait"
    for _ in range(10):  # its clock can run ahead of its decoder
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        told = shown.partition("<title>")[2].partition("</title>")[0]
        if told != "wait":
            break
    digest, _, length = told.partition(" ")
    assert digest == hashlib.sha256(pcm).hexdigest(), f"{path.name}: {told}"
    assert abs(float(length) - seconds) < 0.001, f"{path.name}: {length} s instead of {seconds}"


def prove(report: Report) -> None:
    assert shutil.which("chromium"), "install the Debian package chromium"
    version = subprocess.run(["chromium", "--version"], capture_output=True, text=True, check=True).stdout
    report.figure("version", version.strip().split("\n")[-1])
    with tempfile.TemporaryDirectory(prefix="tsuroku-") as folder:
        work = Path(folder)
        played = []
        for name in ("shop-day", "power-cut"):
            stepped(story.load(SCENARIOS / f"{name}.txt"), work / name)
            for call in results(work / name)[0]:
                if call["recording"]:
                    _played(work / name / call["recording"]["path"], work)
                    played.append(call["recording"]["path"])
        assert any(path.endswith(".repaired.flac") for path in played)
        report.figure("files", f"{len(played)}, repaired ones among them: every sample, and the length of each")
