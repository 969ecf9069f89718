"""The console in headless Chromium, in Japanese and English: set-up, the pop-up of a ring, a call that is played."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from drivers.virtual import scenario as story
from firmware.records.store import CallReader
from firmware.simulate import LiveUnit
from tests.proof.report import Report
from tests.test_console import free_port, wait_for

DAY = """title A ring while somebody looks
number display
2.0 call from 03-0000-1234
9.0 lift
9.5 shop says greeting
17.0 hang up
24.0 call from 03-0000-5678
33.0 give up
end 42
"""
_AXE = "axe-core@4.14.1"
_PASSWORD = "a shop by the sea"
_PICTURES = Path(__file__).parents[2] / "docs"


def prove(report: Report) -> None:
    for language in ("ja", "en"):
        with tempfile.TemporaryDirectory(prefix="tsuroku-") as folder:
            ring_ms, heard_s, looked_at = _walk(Path(folder), language)
        report.figure(f"{language}: the first burst of a ring to the pop-up", f"{ring_ms:.0f} ms")
        report.figure(f"{language}: heard of the call", f"{heard_s:.1f} s, told in the log")
        report.figure(f"{language}: pages and colours without a finding of {_AXE}", 2 * looked_at)


@contextmanager
def chromium() -> Iterator[Any]:
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=options)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def serving(data: Path) -> Iterator[tuple[str, str]]:
    """Address and set-up code of a console on a unit's folder."""
    port = free_port()
    command = [sys.executable, "-m", "firmware", "console", "run", "--data", str(data), "--host", "127.0.0.1"]
    with subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            code = next(line for line in process.stdout if line.startswith("Set-up code: ")).split()[-1]
            wait_for(process, port)
            yield f"https://localhost:{port}", code
        finally:
            process.terminate()


def _until(page: Any, expression: str) -> None:
    """Asked from outside: the pages' own policy forbids to evaluate texts."""
    end = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.05)


def _axe(work: Path) -> str:
    """The checker of accessibility, from npm."""
    subprocess.run(["npm", "pack", "--silent", "--pack-destination", str(work), _AXE], check=True, capture_output=True)
    (packed,) = work.glob("axe-core-*.tgz")
    with tarfile.open(packed) as opened:
        file = opened.extractfile("package/axe.min.js")
        assert file
        return file.read().decode()


def _accessible(page: Any, axe: str) -> None:
    """In light and dark: no finding of axe-core that is serious or critical."""
    for colours in ("light", "dark"):
        page.emulate_media(color_scheme=colours)
        page.evaluate(axe + "; true")
        found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.impact, v.nodes[0].html]))")
        assert not [each for each in found if each[1] in ("serious", "critical")], (page.url, colours, found)
    page.emulate_media(color_scheme="light")


def _walk(work: Path, language: str) -> tuple[float, float, int]:
    """Milliseconds to the pop-up, seconds heard, pages looked at."""
    axe, looked_at = _axe(work), 0

    def look(at: Any) -> None:
        nonlocal looked_at
        _accessible(at, axe)
        looked_at += 1

    (work / "day.txt").write_text(DAY)
    data = work / "data"
    words = {
        "ja": ("始める", "着信です", "折り返し待ち", "済んだ", "聞いた人"),
        "en": ("Begin", "is calling", "To call back", "Done", "Who listened"),
    }[language]
    with (
        LiveUnit(story.load(work / "day.txt"), data) as live,
        serving(data) as (url, code),
        chromium() as browser,
    ):
        context = browser.new_context(
            ignore_https_errors=True, locale=language, viewport={"width": 1100, "height": 800}
        )
        page = context.new_page()
        failed: list[str] = []
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.on("console", lambda said: failed.append(said.text) if said.type == "error" else None)
        page.goto(url)
        look(page)
        page.fill("[name=code]", code)
        page.fill("[name=name]", "佐藤" if language == "ja" else "Sato")
        page.fill("[name=password]", _PASSWORD)
        page.click(f"button:has-text('{words[0]}')")
        page.wait_for_selector("[data-line='1']")
        player = threading.Thread(target=live.play)
        player.start()
        page.wait_for_selector("#popup:not([hidden])", timeout=30_000)
        shown_ns = time.monotonic_ns()
        first_burst_ns = live.base_ns + 2_000_000_000
        page.wait_for_selector("#popup:has-text('03-0000-1234')", timeout=30_000)
        assert words[1] in page.inner_text("#popup")
        if language == "ja":
            page.screenshot(path=str(_PICTURES / "console-ring.png"))
        page.wait_for_selector(".big:has-text('03-0000-5678')", timeout=60_000)
        assert words[2] in page.inner_text("main")
        player.join()
        look(page)
        if language == "ja":
            page.screenshot(path=str(_PICTURES / "console-today.png"))
        page.click(f"button:has-text('{words[3]}')")
        page.wait_for_selector(".calm")
        page.click("td.when a >> nth=-1")
        page.wait_for_selector("#player")
        _until(page, "document.getElementById('player').readyState >= 2")
        page.evaluate("document.getElementById('player').play()")
        _until(page, "document.getElementById('player').currentTime > 3")
        page.evaluate("document.getElementById('player').pause()")
        page.wait_for_timeout(500)
        if language == "ja":
            page.screenshot(path=str(_PICTURES / "console-call.png"))
        look(page)
        page.click(f"a:has-text('{words[4]}')")
        page.wait_for_selector("table")
        seconds = re.search(r"0〜(\d+)秒|seconds 0 to (\d+)", page.inner_text("main"))
        assert seconds, page.inner_text("main")
        for path in ("/listened", "/calls", "/people", "/nothing"):
            page.goto(url + path)
            look(page)
        failed = [each for each in failed if "404" not in each]
        stranger = browser.new_context(ignore_https_errors=True, locale=language).new_page()
        stranger.goto(url)
        look(stranger)
        assert not failed, failed
        heard = float(seconds[1] or seconds[2])
        reader = CallReader(data / "store")
        said = [event["data"]["what"] for event in reader.events(("audit",)) if event["type"] == "access.done"]
        reader.close()
        assert {"viewed", "opened", "played"} <= set(said)
    return (shown_ns - first_burst_ns) / 1e6, heard, looked_at
