"""The console in headless Chromium, in Japanese and English: one day of a shop, from the set-up to who listened."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
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

import requests
from playwright.sync_api import sync_playwright

from drivers.virtual import scenario as story
from firmware.console.words import WORDS
from firmware.feed import NAME as FEED
from firmware.local_api import address_below
from firmware.records.store import CallReader
from firmware.simulate import LiveUnit
from tests.proof.report import Report
from tests.test_console import free_port, wait_for

DAY = """title A ring while somebody looks, a missed call and its return
number display
8.0 call from 03-0000-1234
16.0 lift
16.5 shop says greeting
19.0 caller says order
24.0 hang up
30.0 call from 03-0000-5678
39.0 give up
56.0 lift
57.2 dial 03-0000-5678
67.0 far answers
67.5 caller says order
72.0 hang up
end 80
"""
_AXE = "axe-core@4.14.1"
_PASSWORD = "a shop by the sea"
# Counts the tones of a ring and keeps the system's notices, as for a page that is not in front.
_LISTEN = """
window.tones = 0;
window.notices = [];
const start = OscillatorNode.prototype.start;
OscillatorNode.prototype.start = function (...given) { window.tones += 1; return start.apply(this, given); };
window.Notification = function (title, more) { window.notices.push(title + " " + more.body); };
window.Notification.permission = "granted";
Object.defineProperty(document, "hidden", { get: () => true });
"""
_PICTURES = Path(__file__).parents[2] / "docs"


def prove(report: Report) -> None:
    for language in ("ja", "en"):
        with tempfile.TemporaryDirectory(prefix="tsuroku-") as folder:
            walk = Walk(Path(folder), language)
            walk.go()
        report.figure(f"{language}: from the unit's event to the open tab, by ring", walk.rang_ms)
        report.figure(f"{language}: heard of the call", f"{walk.heard_s:.1f} s, told in the log")
        report.figure(f"{language}: findings of `tsuroku verify` on the download", walk.verified)
        report.figure(f"{language}: pages and colours without a finding of {_AXE}", 2 * walk.looked_at)


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
def serving(data: Path, *more: str) -> Iterator[tuple[str, str | None]]:
    """Address and set-up code of a console on a unit's folder."""
    port = free_port()
    command = [sys.executable, "-m", "firmware", "console", "run", "--data", str(data), "--host", "127.0.0.1"]
    with subprocess.Popen([*command, "--port", str(port), *more], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            process.stdout.readline(), process.stdout.readline()
            wait_for(process, port)
            said = process.stdout.readline() if not _has_owner(data) else ""
            yield f"https://localhost:{port}", said.split()[-1] if said else None
        finally:
            process.terminate()


def _has_owner(data: Path) -> bool:
    path = data / "console" / "people.json"
    return path.exists() and bool(json.loads(path.read_text()).get("people"))


def _axe(work: Path) -> str:
    """The checker of accessibility, from npm."""
    subprocess.run(["npm", "pack", "--silent", "--pack-destination", str(work), _AXE], check=True, capture_output=True)
    (packed,) = work.glob("axe-core-*.tgz")
    with tarfile.open(packed) as opened:
        file = opened.extractfile("package/axe.min.js")
        assert file
        return file.read().decode()


class _Feed:
    """When the unit told what, as another reader of its feed gets it."""

    def __init__(self, data: Path) -> None:
        self.told: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with address_below(data, FEED) as address:
            self._socket.connect(address)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._socket.makefile("rb"):
            said = json.loads(line)
            if "event" in said:
                self.told.append((time.time(), said["event"]))


class Walk:
    """One language."""

    def __init__(self, work: Path, language: str) -> None:
        self._work, self._language = work, language
        self._name = "佐藤" if language == "ja" else "Sato"
        self._data = work / "data"
        self._axe, self.looked_at = _axe(work), 0
        self.rang_ms, self.heard_s, self.verified = "", 0.0, ""

    def _t(self, key: str) -> str:
        return WORDS[key][self._language == "en"]

    def _until(self, expression: str, seconds: float = 20) -> None:
        """Asked from outside: the pages' own policy forbids to evaluate texts."""
        end = time.monotonic() + seconds
        while not self._page.evaluate(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def _look(self, page: Any = None, picture: str | None = None) -> None:
        """In light and dark: no finding of axe-core that is serious or critical."""
        page = page or self._page
        for colours in ("light", "dark"):
            page.emulate_media(color_scheme=colours)
            page.evaluate(self._axe + "; true")
            found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.impact, v.nodes[0].html]))")
            assert not [each for each in found if each[1] in ("serious", "critical")], (page.url, colours, found)
        page.emulate_media(color_scheme="light")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, (page.url, "is wider than the screen")
        self.looked_at += 1
        if picture:
            self._picture(picture)

    def _picture(self, name: str) -> None:
        if self._language == "ja":
            self._page.screenshot(path=str(_PICTURES / f"console-{name}.png"))

    def _post(self, button: str, within: str = "main") -> None:
        """Press a form's button; the page that follows has come."""
        with self._page.expect_navigation():
            self._page.click(f"{within} button:has-text('{self._t(button)}')")

    def _download(self, link: str) -> Path:
        with self._page.expect_download() as coming:
            self._page.click(link)
        path = self._work / f"{len(list(self._work.iterdir()))}-{coming.value.suggested_filename}"
        coming.value.save_as(path)
        return path

    def go(self) -> None:
        (self._work / "day.txt").write_text(DAY)
        with (
            LiveUnit(story.load(self._work / "day.txt"), self._data) as live,
            serving(self._data) as (url, code),
            chromium() as browser,
        ):
            self._url = url
            context = browser.new_context(
                ignore_https_errors=True, locale=self._language, viewport={"width": 1100, "height": 800}
            )
            context.add_init_script(_LISTEN)
            self._page = page = context.new_page()
            failed: list[str] = []
            page.on("pageerror", lambda error: failed.append(str(error)))
            page.on("console", lambda said: failed.append(said.text) if said.type == "error" else None)
            self._set_up(code)
            self._first_contact()
            feed = _Feed(self._data)
            player = threading.Thread(target=live.play)
            player.start()
            self._rings(feed)
            self._missed_and_called_back(player)
            self._call()
            self._contacts()
            self._people()
            self._passkey(context)
            for path in ("/listened", "/calls", "/people", "/system", "/licences", "/password", "/nothing"):
                page.goto(url + path)
                self._look(picture={"/system": "system", "/calls": "calls"}.get(path))
            self._strangers(browser)
            self._on_a_telephone(browser, context)
            failed = [each for each in failed if "404" not in each]
            assert not failed, failed
        self._written_down()

    def _set_up(self, code: str | None) -> None:
        page = self._page
        page.goto(self._url)
        self._look()
        page.fill("[name=code]", code)
        page.fill("[name=name]", self._name)
        page.fill("[name=password]", _PASSWORD)
        self._post("begin")
        page.wait_for_selector("[data-line='1']")

    def _first_contact(self) -> None:
        page = self._page
        page.goto(self._url + "/contacts")
        page.fill("#new ~ form [name=number]", "03-0000-1234")
        page.fill("#new ~ form [name=name]", "山田商店")
        page.fill("#new ~ form [name=reading]", "やまだしょうてん")
        page.fill("#new ~ form [name=note]", "配達は午前中に")
        page.check("#new ~ form [name=vip]")
        self._post("save", "#new ~ form")
        assert "山田商店" in page.inner_text("h1")
        page.goto(self._url)
        page.wait_for_selector("[data-line='1']")
        page.click(f"#tell:has-text('{self._t('tell_off')}')")
        page.wait_for_selector(f"#tell:has-text('{self._t('tell_on')}')")

    def _rings(self, feed: _Feed) -> None:
        """The pop-up, before the lift; with one touch it is told who took the call."""
        page = self._page
        page.evaluate(
            "window.shownAt = []; new MutationObserver(() => window.shownAt.push(Date.now()))"
            ".observe(document.getElementById('popup'), {childList: true, attributes: true})"
        )
        page.wait_for_selector("#popup:has-text('山田商店')", timeout=40_000)
        said = page.inner_text("#popup")
        for told in ("03-0000-1234", "やまだしょうてん", "配達は午前中に", self._t("vip"), self._t("caller_rings")):
            assert told in said, (told, said)
        page.wait_for_timeout(300)
        shown = page.evaluate("window.shownAt")
        told_at = [at * 1000 for at, event in feed.told if event in ("call.ringing", "call.caller_id")]
        late = [min(at for at in shown if at >= told - 2) - told for told in told_at]
        self.rang_ms = ", ".join(f"{max(each, 0):.0f} ms" for each in late)
        assert page.evaluate("window.tones") >= 4 and "山田商店" in page.evaluate("window.notices.at(-1)")
        self._picture("ring")
        page.click(f"#popup button:has-text('{self._t('i_took_it')}')")
        page.wait_for_selector("#popup button:disabled")

    def _missed_and_called_back(self, player: threading.Thread) -> None:
        """On the list when missed, off it when the shop has reached him."""
        page = self._page
        page.wait_for_selector(".big:has-text('03-0000-5678')", timeout=60_000)
        assert self._t("waiting") in page.inner_text("main")
        page.click(f".card summary:has-text('{self._t('later_or_note')}')")
        page.fill(".card [name=note]", "午後にまた電話する")
        self._post("write_down", ".card")
        page.click(f".card summary:has-text('{self._t('later_or_note')}')")
        self._post("later_tomorrow", ".card")
        assert "午後にまた電話する" in page.inner_text(".card")
        self._look(picture="today")
        player.join()
        self._until("!document.querySelector('.card .big')", 30)
        page.goto(self._url)
        assert self._t("missed_none") in page.inner_text("main")

    def _call(self) -> None:
        """Found by its reading; played; noted, tagged, followed up, held, checked, exported, shared."""
        page = self._page
        page.goto(self._url + "/calls")
        page.fill("[name=text]", "ヤマダ")
        self._post("find")
        assert page.locator("tbody tr").count() == 1
        page.click("td.when a")
        page.wait_for_selector("#player")
        self._play()
        page.fill("[name=note]", "ケーキ3つ、土曜に受け取り")
        self._post("write_down", "#notes ~ form")
        page.fill("[name=tags]", "注文、予約")
        self._post("save", "#tags ~ form")
        page.fill("[name=next]", "準備ができたら電話")
        page.fill("[name=due]", "2027-01-15")
        self._post("save", "#follow ~ form")
        self._post("hold", "#keep ~ form")
        said = page.inner_text("main")
        for told in ("ケーキ3つ", self._t("held")):
            assert told in said, told
        assert page.input_value("[name=tags]") == "注文, 予約"
        assert page.input_value("[name=taken_by]") == self._name  # since the pop-up
        self._post("check_now", "#proof ~ form")
        assert self._t("proof_holds") in page.inner_text("main")
        self._look()
        self._picture("proof")
        bundle = self._download(f"a:has-text('{self._t('export')}')")
        command = [sys.executable, "-m", "firmware", "verify", "--json", str(bundle)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = json.loads(done.stdout)
        assert done.returncode == 0 and told["holds"], done.stdout
        self.verified = f"{len(told['findings'])}, all hold"
        self._post("share_make", "#keep ~ form")
        self._link = page.input_value("#keep ~ p input")
        self._look()
        page.goto(page.url.removesuffix("/share#keep").removesuffix("/share"))
        page.evaluate("window.scrollTo(0, 0)")
        self._picture("call")
        page.goto(self._url + "/calls?tag=" + "予約")
        assert page.locator("tbody tr").count() == 1
        page.goto(self._url)
        assert "準備ができたら電話" in page.inner_text("main")

    def _play(self) -> None:
        page, audio = self._page, "document.getElementById('player')"
        self._until(f"{audio}.readyState >= 2")
        page.evaluate(f"{audio}.play()")
        self._until(f"{audio}.currentTime > 3")
        page.keyboard.press("ArrowRight")
        self._until(f"{audio}.currentTime > 7")
        page.keyboard.press("ArrowLeft")
        self._until(f"{audio}.currentTime < 6")
        page.evaluate(f"{audio}.pause()")
        page.select_option("#speed", "2")
        assert page.evaluate(f"{audio}.playbackRate") == 2
        page.click("#loop")  # from here
        page.evaluate(f"{audio}.currentTime += 1")
        page.click("#loop")  # to here
        page.evaluate(f"{audio}.play()")
        page.wait_for_timeout(1500)  # three times the stretch
        assert page.evaluate(f"{audio}.currentTime") < 8
        page.evaluate(f"{audio}.pause()")
        page.click("#loop")
        page.click(f"summary:has-text('{self._t('happened')}')")
        assert self._t("at_lift") in page.inner_text(".events")
        page.wait_for_timeout(300)

    def _contacts(self) -> None:
        """Out and in again in Shift_JIS; the incident file; two numbers of one person."""
        page = self._page
        page.goto(self._url + "/contacts")
        listed = self._download(f"a:has-text('{self._t('list_sjis')}')")
        rows = list(csv.reader(io.StringIO(listed.read_bytes().decode("cp932"))))
        assert rows[1][:4] == ["03-0000-1234", "山田商店", "やまだしょうてん", "配達は午前中に"] and rows[1][4] == "1"
        rows[1][3] = "配達は午後に"
        rows.append(["03-0000-5678", "髙橋", "たかはし", "", "", "1", ""])
        rows.append(["なし", "番号のない人", "", "", "", "", ""])
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        (self._work / "new.csv").write_bytes(text.getvalue().encode("cp932"))
        page.set_input_files("[name=file]", self._work / "new.csv")
        self._post("list_take_in", "#list ~ form")
        said = page.inner_text("main")
        assert "2" in said and "配達は午後に" in said and "髙橋" in said and "4" in page.inner_text(".wrong")
        self._look()
        page.goto(self._url + "/contacts")
        page.click("a:has-text('髙橋')")
        page.wait_for_selector(".flag.nuisance")
        self._look()
        self._picture("contact")
        paper = self._download(f"a:has-text('{self._t('incident')}')")
        said = subprocess.run(["pdftotext", "-layout", paper, "-"], capture_output=True, text=True, check=True).stdout
        assert "髙橋" in said and said.count("ID ") == 2 and "午後にまた電話する" in said
        packed = self._download(f"a:has-text('{self._t('disclosure')}')")
        assert packed.read_bytes()[:2] == b"PK"

    def _people(self) -> None:
        """Somebody without the right to hear; a key, and what a program gets by it."""
        page = self._page
        page.goto(self._url + "/people")
        page.fill("form:has([value=add]) [name=name]", "監査役")
        page.select_option("form:has([value=add]) [name=role]", "auditor")
        page.fill("form:has([value=add]) [name=password]", _PASSWORD)
        self._post("add", "form:has([value=add])")
        page.fill("form:has([value=key]) [name=name]", "CRM")
        self._post("key_make", "form:has([value=key])")
        key = page.input_value("input[readonly]")
        session = requests.Session()
        session.trust_env, session.verify = False, str(self._data / "console" / "certificate.pem")
        session.headers["Authorization"] = f"Bearer {key}"
        found = session.get(self._url + "/api/v1/calls", params={"text": "予約"}, timeout=20).json()
        assert [call["remarks"]["tags"] for call in found["calls"]] == [["注文", "予約"]]

    def _passkey(self, context: Any) -> None:
        """Made with an authenticator of the browser's own making, and then a login without a password."""
        page = self._page
        authenticator = context.new_cdp_session(page)
        authenticator.send("WebAuthn.enable")
        options = {"protocol": "ctap2", "transport": "internal", "automaticPresenceSimulation": True}
        options |= {"hasResidentKey": True, "hasUserVerification": True, "isUserVerified": True}
        authenticator.send("WebAuthn.addVirtualAuthenticator", {"options": options})
        page.goto(self._url + "/password")
        self._post("passkey_make")
        assert self._t("passkeys_how").partition("{n}")[0] + "1" in page.inner_text("#with-passkey")
        self._look()
        with page.expect_navigation():
            page.click(f"button:has-text('{self._t('log_out')}')")
        self._post("passkey_log_in")
        page.wait_for_selector("[data-line='1']")
        with page.expect_navigation():
            page.click(f"button:has-text('{self._t('log_out')}')")
        page.fill("[name=name]", self._name)
        page.fill("[name=password]", _PASSWORD)
        self._post("log_in")
        page.wait_for_selector("[data-line='1']")

    def _strangers(self, browser: Any) -> None:
        """Who is not logged in: the login; and by a link, one recording."""
        context = browser.new_context(ignore_https_errors=True, locale=self._language)
        page = context.new_page()
        page.goto(self._url)
        self._look(page)
        page.goto(self._link)
        self._look(page)
        page.wait_for_selector("#player")
        page.evaluate("document.getElementById('player').play()")
        end = time.monotonic() + 20
        while page.evaluate("document.getElementById('player').currentTime") < 1:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "03-0000-1234" not in page.content() and "山田" not in page.content()
        context.close()

    def _on_a_telephone(self, browser: Any, context: Any) -> None:
        """The same pages on a narrow screen; targets are as large as a finger."""
        state = context.storage_state()
        small = browser.new_context(
            ignore_https_errors=True,
            locale=self._language,
            viewport={"width": 390, "height": 800},
            storage_state=state,
            has_touch=True,
        )
        page = small.new_page()
        for path in ("/", "/calls", "/contacts", "/people", "/system", "/listened"):
            page.goto(self._url + path)
            self._look(page)
            small_ones = page.evaluate(
                "[...document.querySelectorAll('button, input:not([type=hidden]):not([type=checkbox]), select, nav a')]"
                ".filter(e => e.offsetParent).filter(e => e.getBoundingClientRect().height < 43.5)"
                ".map(e => e.outerHTML.slice(0, 80))"
            )
            assert not small_ones, (path, small_ones)
            if path == "/" and self._language == "ja":
                page.screenshot(path=str(_PICTURES / "console-telephone.png"))
        small.close()

    def _written_down(self) -> None:
        page_said = CallReader(self._data / "store")
        said = [event["data"] for event in page_said.events(("audit",)) if event["type"] == "access.done"]
        page_said.close()
        played = [each["to_s"] - each["from_s"] for each in said if each["what"] == "played"]
        self.heard_s = float(sum(played))
        whats = {each["what"] for each in said}
        expected = {"viewed", "opened", "played", "exported", "shared", "link_opened", "remarked", "contacts_put"}
        expected |= {"listed", "disclosed", "person_added", "key_made", "callback_put", "looked_up"}
        assert expected <= whats, expected - whats
        assert re.fullmatch(r"link: .+", next(each["by"] for each in said if each["what"] == "link_opened"))
