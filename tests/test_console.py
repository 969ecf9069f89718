"""The console: a process of its own beside a running unit, asked over HTTPS as a browser does."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from starlette.routing import Route

from drivers.signals import DeviceLost, DeviceReady
from drivers.virtual import scenario as story
from firmware.console.door import clock
from firmware.console.people import RIGHTS, People, PeopleError
from firmware.console.web import Console
from firmware.console.words import WORDS
from firmware.core.call import told
from firmware.core.caller import Caller, of_number
from firmware.management import _ACCESSES, contract
from firmware.records.store import CallReader
from firmware.settings import WatchSettings
from firmware.simulate import results, stepped
from tests.units import Running, running, settings

DAY = """title Calls to look at
number display
1.0 call from 03-0000-1234 name "<script>alert(1)</script>"
+7 lift
+0.5 shop says greeting
+5 hang up
40.0 call from 03-0000-5678
+20 give up
70 call from 03-0000-9012
+8 lift
+4 hang up
end 99
"""
PASSWORD = "a shop by the sea"


class Clock:
    def __init__(self) -> None:
        self.s = 1_000_000.0

    def __call__(self) -> float:
        return self.s


def refused(work: Any, *arguments: object) -> str:
    with pytest.raises(PeopleError) as wrong:
        work(*arguments)
    return wrong.value.key


def test_the_code_lets_one_owner_in_and_no_other(tmp_path: Path) -> None:
    people = People(tmp_path)
    code = people.code()
    assert code and People(tmp_path).code() == code and re.fullmatch(r"(\w{4}-){2}\w{4}", code)
    assert refused(people.set_up, "AAAA-AAAA-AAAA", "Sato", PASSWORD) == "code_wrong"
    assert refused(people.set_up, code, "Sato", "short") == "password_short"
    assert people.set_up(code.lower().replace("-", " "), "Sato", PASSWORD).role == "owner"
    assert people.code() is None and refused(people.set_up, code, "Eve", PASSWORD) == "set_up_done"
    assert PASSWORD not in (tmp_path / "people.json").read_text() and code not in (tmp_path / "people.json").read_text()
    assert (tmp_path / "people.json").stat().st_mode & 0o777 == 0o600


def test_who_guesses_the_code_gets_another(tmp_path: Path) -> None:
    people = People(tmp_path)
    code = people.code()
    for _ in range(20):
        assert refused(people.set_up, "AAAA-AAAA-AAAA", "Eve", PASSWORD) == "code_wrong"
    assert refused(people.set_up, code, "Eve", PASSWORD) == "code_used_up" and people.code() != code


def test_a_lock_outlasts_a_restart_and_grows(tmp_path: Path) -> None:
    clock = Clock()
    people = People(tmp_path, clock)
    people.add("Sato", PASSWORD, "owner")
    for locked_s in (60, 300):
        for _ in range(5):
            assert refused(people.log_in, "Sato", "wrong") == "login_wrong"
        people = People(tmp_path, clock)
        assert refused(people.log_in, "Sato", PASSWORD) == "locked"
        clock.s += locked_s - 1
        assert refused(people.log_in, "Sato", PASSWORD) == "locked"
        clock.s += 2
    token, person = people.log_in("Sato", PASSWORD)
    assert person.name == "Sato" and people.session(token)
    assert refused(people.log_in, "Nobody", "wrong") == "login_wrong"


def test_sessions_end(tmp_path: Path) -> None:
    clock = Clock()
    people = People(tmp_path, clock)
    people.add("Sato", PASSWORD, "owner")
    people.add("Ito", PASSWORD, "staff")
    token, _ = people.log_in("Sato", PASSWORD)
    clock.s += 11 * 3600
    assert people.session(token)
    clock.s += 13 * 3600
    assert people.session(token) is None
    token, _ = people.log_in("Ito", PASSWORD)
    people.remove("Ito")
    assert people.session(token) is None and refused(people.remove, "Sato") == "last_owner"
    assert people.session(None) is None and people.session("") is None


def test_a_time_of_a_clock_that_was_never_set_is_shown_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert clock("9999-12-31T23:59:59.999Z") == "9999-12-31T23:59:59.999Z"
        assert clock("2026-01-01T00:00:00.000Z") == "2026-01-01 09:00" and clock(None) == ""
    finally:
        monkeypatch.undo()
        time.tzset()


def test_every_word_is_there_in_both_languages() -> None:
    assert all(len(pair) == 2 and all(pair) for pair in WORDS.values())
    used = set()
    for page in (Path(__file__).parents[1] / "firmware/console/templates").glob("*.html"):
        used |= set(re.findall(r"\bt\('(\w+)'[,)]", page.read_text(encoding="utf-8")))
    used |= {f"did_{what}" for what in [*_ACCESSES, "remarked", "callback_put", "contacts_put", "contacts_merged"]}
    used |= {f"do_{method.replace('.', '_')}" for method, told in contract().items() if told["changes"]}
    used -= {"do_events_ack", "do_identify"}  # a command like any other
    assert used and used <= WORDS.keys()


# -- the pages


class Browser:
    """Somebody at the console."""

    def __init__(self, url: str, certificate: Path) -> None:
        self.url, self.session = url, requests.Session()
        self.session.trust_env = False  # or a proxy and its certificates would count
        self.session.verify = str(certificate)
        self.session.headers["Accept-Language"] = "en"

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=20, **more)

    def post(
        self, path: str, csrf: bool = True, form: Mapping[str, str] | None = None, **more: str
    ) -> requests.Response:
        form = {**(form or {}), **more}
        if csrf:
            form["csrf"] = self.csrf
        return self.session.post(self.url + path, data=form, timeout=20)

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get("/password").text)
        assert found
        return found[1]


class Site:
    def __init__(self, unit: Running, data: Path, url: str) -> None:
        self.unit, self.data, self.url = unit, data, url
        self.certificate = data / "console" / "certificate.pem"

    def browser(self, name: str | None = None) -> Browser:
        browser = Browser(self.url, self.certificate)
        if name:
            browser.post("/login", csrf=False, name=name, password=PASSWORD)
        return browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with console_of(tmp_path_factory.mktemp("console")) as found:
        yield found


@contextmanager
def console_of(work: Path) -> Iterator[Site]:
    """A running unit with a day of calls, and its console with somebody of each role."""
    stepped(story.parse(DAY, work / "day.txt"), work / "data")
    people = People(work / "data" / "console")
    for role in RIGHTS:
        people.add(role, PASSWORD, role)
    port = free_port()
    with running(settings(work / "data", watch=WatchSettings(disk_free_mb=1_000_000))) as unit:
        command = [sys.executable, "-m", "firmware", "console", "run", "--data", str(work / "data")]
        process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL)
        try:
            wait_for(process, port)
            yield Site(unit, work / "data", f"https://localhost:{port}")
        finally:
            process.terminate()
            process.wait(10)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(process: subprocess.Popen[Any], port: int) -> None:
    """Until somebody listens there."""
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)


def test_nobody_gets_in_without_a_password(site: Site) -> None:
    call = results(site.data)[0][0]["call_id"]
    for path in ("/", "/calls", f"/calls/{call}", f"/calls/{call}/sound", "/people", "/listened", "/live"):
        answer = site.browser().get(path)
        assert answer.url == site.url + "/login" and "03-0000" not in answer.text
    answer = site.browser().post("/login", csrf=False, name="owner", password="wrong")
    assert answer.status_code == 403 and "The name or the password is wrong." in answer.text


# What each route needs; docs/console.md shows it by role. None: whoever is logged in; "": anybody.
ROUTES: dict[tuple[str, str], str | None] = {
    ("GET", "/"): None,
    ("GET", "/calls"): "see",
    ("GET", "/calls/{call_id}"): "see",
    ("GET", "/calls/{call_id}/sound"): "listen",
    ("POST", "/calls/{call_id}/played"): "listen",
    ("GET", "/calls/{call_id}/download"): "download",
    ("GET", "/calls/{call_id}/export"): "download",
    ("POST", "/calls/{call_id}/share"): "download",
    ("POST", "/calls/{call_id}/check"): "see",
    ("POST", "/calls/{call_id}/remark"): "write",
    ("POST", "/calls/{call_id}/callback"): "write",
    ("POST", "/calls/{call_id}/done"): "write",
    ("POST", "/calls/{call_id}/hold"): "write",
    ("POST", "/calls/{call_id}/release"): "delete",
    ("POST", "/calls/{call_id}/delete"): "delete",
    ("GET", "/contacts"): "see",
    ("GET", "/contacts/{contact_id}"): "see",
    ("POST", "/contacts"): "write",
    ("POST", "/contacts/take-in"): "write",
    ("POST", "/contacts/{contact_id}/merge"): "write",
    ("GET", "/contacts.csv"): "download",
    ("GET", "/contacts/{contact_id}/incident.pdf"): "download",
    ("GET", "/contacts/{contact_id}/disclosure.zip"): "download",
    ("POST", "/contacts/{contact_id}/erase"): "delete",
    ("GET", "/listened"): "log",
    ("GET", "/people"): "people",
    ("POST", "/people"): "people",
    ("GET", "/system"): "system",
    ("GET", "/system/peaks"): "system",
    ("GET", "/system/support.zip"): "system",
    ("POST", "/system/alarm"): "system",
    ("GET", "/licences"): None,
    ("GET", "/password"): None,
    ("POST", "/password"): None,
    ("GET", "/live"): "see",
    ("POST", "/passkeys/options"): None,
    ("POST", "/passkeys"): None,
    ("POST", "/passkeys/remove"): None,
    ("POST", "/logout"): None,
    ("GET", "/login"): "",
    ("POST", "/login"): "",
    ("GET", "/set-up"): "",
    ("POST", "/set-up"): "",
    ("POST", "/login/passkey/options"): "",
    ("POST", "/login/passkey"): "",
    ("POST", "/language"): "",
    ("GET", "/s/{token}"): "",
    ("GET", "/s/{token}/sound"): "",
}


def test_each_route_is_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    routes = [route for route in Console(tmp_path).app().routes if isinstance(route, Route)]
    known = {(method, route.path) for route in routes for method in route.methods or () if method != "HEAD"}
    assert {each for each in known if not each[1].startswith("/api/")} == ROUTES.keys()


def rights_table() -> str:
    """As docs/console.md has it."""
    rows = [f"| | {' | '.join(RIGHTS)} |", f"|---|{'---|' * len(RIGHTS)}"]
    for (method, path), right in ROUTES.items():
        if right != "":
            cells = ("yes" if right is None or right in RIGHTS[role] else "" for role in RIGHTS)
            rows.append(f"| {method} `{path}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def test_the_document_shows_who_may_what() -> None:
    shown = (Path(__file__).parents[1] / "docs/console.md").read_text(encoding="utf-8")
    assert rights_table() in shown, rights_table()


@pytest.mark.parametrize("role", RIGHTS)
def test_each_role_has_its_routes_and_no_other(site: Site, role: Any) -> None:
    """Each one tries each: what he may not is 403, whether or not there is such a call."""
    call, browser = results(site.data)[0][0]["call_id"], site.browser(role)
    nobody = "00000000-0000-7000-8000-000000000000"
    for (method, path), right in ROUTES.items():
        if right == "" or path in ("/live", "/logout", "/password", "/passkeys"):  # a passkey that is none is 403
            continue
        at = path.format(call_id=call if method == "GET" else nobody, contact_id=nobody, token="x")
        if method == "GET":
            status = browser.get(at).status_code
        else:
            status = browser.session.post(
                site.url + at, data={"csrf": browser.csrf}, timeout=60, allow_redirects=False
            ).status_code
        allowed = right is None or right in RIGHTS[role]
        assert (status != 403) == allowed, (role, method, path, status)
        assert status < 500, (role, method, path, status)


def test_the_day_is_shown_and_a_name_from_the_line_is_only_text(site: Site) -> None:
    browser = site.browser("owner")
    page = browser.get("/").text
    assert "03-0000-5678" in page and 'href="tel:+81300005678"' in page and "missed" in page
    call = results(site.data)[0][0]["call_id"]
    page += browser.get(f"/calls/{call}").text + browser.get("/calls").text
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "不在着信" in browser.get("/", headers={"Accept-Language": "ja"}).text


def test_calls_are_found_by_any_part_of_a_number(site: Site) -> None:
    browser = site.browser("owner")
    page = browser.get("/calls?text=5678").text
    assert "03-0000-5678" in page and "03-0000-1234" not in page
    assert "03-0000-9012" not in browser.get("/calls?kind=missed").text
    assert "No calls." in browser.get("/calls?text=777777").text
    for odd in (
        "text=%3Cscript%3E",
        "from=-1",
        "from=99999999999",
        "kind=x'",
        "text=" + "9" * 5000,
        "since=x",
        "until=9999-12-31",
        "text=%25_%5C",
    ):
        assert browser.get("/calls?" + odd).status_code == 200


def test_sound_is_played_in_ranges_and_written_down_who_listened(site: Site) -> None:
    browser = site.browser("staff")
    call = results(site.data)[0][0]
    url = f"/calls/{call['call_id']}"
    assert "<svg" in browser.get(url).text
    whole = (site.data / call["recording"]["path"]).read_bytes()
    answer = browser.get(url + "/sound")
    assert answer.content == whole and answer.headers["Content-Type"] == "audio/flac"
    part = browser.get(url + "/sound", headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == whole[10:20]
    csrf = re.search(r'data-csrf="([^"]+)"', browser.get(url).text)
    assert csrf
    told = {"csrf": csrf[1], "from": "2", "to": "5"}
    assert browser.session.post(site.url + url + "/played", data=told, timeout=20).status_code == 200
    page = site.browser("auditor").get("/listened").text
    assert "heard seconds 2 to 5" in page and "opened the recording" in page and "staff" in page
    reader = CallReader(site.data / "store")
    said = [event["data"] for event in reader.events(("audit",)) if event["type"] == "access.done"]
    reader.close()
    assert {"played", "opened", "viewed"} <= {each["what"] for each in said}
    assert site.browser("manager").get(url + "/download").content == whole


def test_a_part_of_the_sound_is_written_down_like_the_whole(site: Site) -> None:
    browser = site.browser("manager")
    call = results(site.data)[0][2]["call_id"]
    assert browser.get(f"/calls/{call}/sound", headers={"Range": "bytes=100-"}).status_code == 206
    reader = CallReader(site.data / "store")
    said = [event["data"] for event in reader.events(("audit",)) if event["type"] == "access.done"]
    reader.close()
    assert [each for each in said if (each["what"], each["call_id"], each["by"]) == ("opened", call, "manager")]


def test_a_form_that_is_too_large_or_of_no_known_length_is_refused(site: Site) -> None:
    browser = site.browser()
    assert browser.post("/login", csrf=False, name="x" * 100_000).status_code == 413
    chunked = browser.session.post(site.url + "/login", data=iter([b"name=" + b"x" * 100_000]), timeout=20)
    assert chunked.status_code == 413


def test_what_changes_something_needs_the_sessions_token(site: Site) -> None:
    browser = site.browser("owner")
    call = next(each for each in results(site.data)[0] if each["outcome"] == "missed")["call_id"]
    for form in ({}, {"csrf": "x"}):
        assert browser.session.post(site.url + f"/calls/{call}/done", data=form, timeout=20).status_code == 403
        assert (
            browser.session.post(
                site.url + "/people", data=form | {"do": "remove", "name": "staff"}, timeout=20
            ).status_code
            == 403
        )
    other = site.browser("manager")
    stolen = browser.csrf
    assert other.session.post(site.url + f"/calls/{call}/done", data={"csrf": stolen}, timeout=20).status_code == 403


def test_a_session_from_before_the_login_is_none(site: Site) -> None:
    browser = site.browser()
    browser.session.cookies.set("__Host-tsuroku", "chosen-by-eve", domain="localhost", path="/", secure=True)
    browser.post("/login", csrf=False, name="owner", password=PASSWORD)
    values = {cookie.value for cookie in browser.session.cookies if cookie.name == "__Host-tsuroku"}
    assert len(values) >= 1 and People(site.data / "console").session("chosen-by-eve") is None
    eve = site.browser()
    eve.session.cookies.set("__Host-tsuroku", "chosen-by-eve", domain="localhost", path="/", secure=True)
    assert eve.get("/").url == site.url + "/login"


def test_no_path_leads_out_of_the_records(site: Site) -> None:
    browser = site.browser("owner")
    for path in (
        "/calls/..%2f..%2funit-key.pem",
        "/calls/%2e%2e/sound",
        "/static/../people.py",
        "/static/%2e%2e/web.py",
    ):
        assert browser.get(path).status_code == 404, path


def test_every_answer_forbids_what_it_does_not_need(site: Site) -> None:
    browser = site.browser("owner")
    for path in ("/", "/login", "/static/style.css", "/nothing"):
        headers = browser.get(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff" and "server" not in headers
    cookie = next(each for each in browser.session.cookies if each.name == "__Host-tsuroku")
    assert cookie.secure and cookie.has_nonstandard_attr("HttpOnly")
    page = browser.get("/").text
    assert "<style" not in page and not re.search(r"\son\w+=|style=", page)


def test_a_missed_call_is_done_with_one_touch(site: Site) -> None:
    site.unit.missed("+81300007777")
    browser = site.browser("staff")
    end = time.monotonic() + 10
    while "tel:+81300007777" not in browser.get("/").text:
        assert time.monotonic() < end
        time.sleep(0.1)
    call = re.search(r"/calls/([0-9a-f-]{36})/done", browser.get("/").text.partition("tel:+81300007777")[2])
    csrf = re.search(r'name="csrf" value="([^"]+)"', browser.get("/").text)
    assert call and csrf
    browser.session.post(site.url + f"/calls/{call[1]}/done", data={"csrf": csrf[1]}, timeout=20)
    waiting = browser.get("/").text.partition('id="waiting"')[2].partition('id="last"')[0]
    assert "tel:+81300007777" not in waiting


def test_what_is_written_on_a_call_is_shown_and_found(site: Site) -> None:
    browser, call = site.browser("staff"), results(site.data)[0][2]["call_id"]
    browser.post(f"/calls/{call}/remark", note="ｹｰｷを三つ <b>", tags="予約、誕生日")
    browser.post(f"/calls/{call}/remark", taken_by="staff")
    answer = browser.post(f"/calls/{call}/remark", next="電話する", due="2027-01-15", who="owner")
    assert answer.url == f"{site.url}/calls/{call}"
    page = browser.get(f"/calls/{call}").text
    assert "ｹｰｷを三つ &lt;b&gt;" in page and "<b>" not in page and 'value="2027-01-15"' in page
    assert "電話する" in browser.get("/").text  # to be followed up
    for asked in ("text=ケーキ", "tag=誕生日", "by=staff", "text=よやく&tag=誕生日"):
        found = browser.get("/calls?" + asked).text
        assert (f"/calls/{call}" in found) == ("よやく" not in asked), asked
    browser.post(f"/calls/{call}/remark", next="電話する", due="2027-01-15", who="owner", done="1")
    assert "電話する" not in browser.get("/").text
    assert "wrote a note" in site.browser("auditor").get("/listened").text


def test_calls_are_found_by_day_length_and_direction(site: Site) -> None:
    browser = site.browser("staff")
    first = results(site.data)[0][0]
    day = datetime.fromisoformat(first["opened"]).astimezone()
    link = f"/calls/{first['call_id']}"
    for asked, found in (
        (f"since={day:%Y-%m-%d}&until={day:%Y-%m-%d}", True),
        (f"since={day + timedelta(days=1):%Y-%m-%d}", False),
        (f"until={day - timedelta(days=1):%Y-%m-%d}", False),
        ("shortest=0.05&longest=0.2", True),
        ("shortest=1", False),
        ("direction=incoming", True),
        ("direction=outgoing", False),
        ("flag=vip", False),
    ):
        assert (link in browser.get("/calls?" + asked).text) == found, asked


def test_a_held_call_is_not_deleted_and_a_released_one_is_gone_with_its_sound(tmp_path: Path) -> None:
    with console_of(tmp_path) as site:
        browser, call = site.browser("owner"), results(site.data)[0][0]
        at, sound = f"/calls/{call['call_id']}", site.data / call["recording"]["path"]
        browser.post(at + "/hold", reason="クレーム")
        page = browser.get(at).text
        assert "Held by owner" in page and "クレーム" in page
        assert browser.post(at + "/delete", sure="1").status_code == 409 and sound.exists()
        browser.post(at + "/release")
        assert browser.post(at + "/delete").status_code == 400 and sound.exists()  # nobody said that he is sure
        assert browser.post(at + "/delete", sure="1").status_code == 200
        assert not sound.exists() and browser.get(at).status_code == 404
        assert f"/calls/{call['call_id']}" not in browser.get("/calls").text
        said = browser.get("/listened").text
        assert "held a call" in said and "released a call" in said and "deleted calls" in said


def test_contacts_are_told_changed_merged_and_erased(tmp_path: Path) -> None:
    with console_of(tmp_path) as site:
        browser = site.browser("owner")
        answer = browser.post(
            "/contacts", number="03-0000-1234", name="山田商店", reading="やまだ", note="裏口", vip="1"
        )
        at = answer.url.removeprefix(site.url)
        assert answer.status_code == 200 and "山田商店" in answer.text and "03-0000-1234" in answer.text
        assert browser.post("/contacts", number="1", name="x").status_code == 400
        other = browser.post("/contacts", number="03-0000-5678", name="ヤマダ携帯", nuisance="1").url
        assert "山田商店" in browser.get("/").text  # where his number was
        for text in ("ヤマダ", "5678", "裏口"):
            assert "ヤマダ携帯" in browser.get(f"/contacts?text={text}").text or text == "裏口"
        assert browser.post(at + "/merge", number="03-0000-9012").status_code == 409
        merged = browser.post(at + "/merge", number="03-0000-5678").text
        assert "03-0000-1234" in merged and "03-0000-5678" in merged and "nuisance" in merged and "ヤマダ携帯" in merged
        assert browser.get(other.removeprefix(site.url)).status_code == 404
        assert browser.get("/calls?flag=nuisance").text.count('class="when"><a') == 2
        paper = browser.get(at + "/incident.pdf")
        assert paper.content.startswith(b"%PDF") and paper.headers["Content-Type"] == "application/pdf"
        packed = zipfile.ZipFile(io.BytesIO(browser.get(at + "/disclosure.zip").content))
        assert set(packed.namelist()) == {"contact.json", "calls.json", "calls.zip"}
        assert len(json.loads(packed.read("calls.json"))) == 2
        assert browser.post(at + "/erase").status_code == 400
        answer = browser.post(at + "/erase", sure="1")
        assert answer.status_code == 200 and browser.get(at).status_code == 404
        shown = browser.get("/calls").text + browser.get("/contacts").text + browser.get("/").text
        assert "03-0000-1234" not in shown and "5678" not in shown and "03-0000-9012" in shown
        assert "山田" not in browser.get("/listened").text


def test_a_list_of_contacts_goes_out_and_comes_in(tmp_path: Path) -> None:
    with console_of(tmp_path) as site:
        browser = site.browser("owner")
        rows = "電話番号,名前,ふりがな,迷惑\r\n03-0000-1234,髙橋,たかはし,1\r\n12,誰か,,\r\n090-0000-5678,佐藤,,\r\n"
        files = {"file": ("list.csv", rows.encode("cp932"), "text/csv")}
        sent = browser.session.post(
            site.url + "/contacts/take-in", data={"csrf": browser.csrf}, files=files, timeout=20
        )
        assert "2 contacts were taken in" in sent.text and "lines 3" in sent.text and "髙橋" in sent.text
        listed = browser.get("/contacts.csv?coding=shift_jis").content
        assert "髙橋" in listed.decode("cp932") and listed.decode("cp932").count("\n") == 3
        again = browser.session.post(
            site.url + "/contacts/take-in", data={"csrf": browser.csrf}, files={"file": ("x.csv", listed)}, timeout=20
        )
        assert (
            "2 contacts were taken in" in again.text and browser.get("/contacts.csv?coding=shift_jis").content == listed
        )
        for odd in (b"", b"\x81\xff\xfe", b"a,b\n1,2\n"):
            answer = browser.session.post(
                site.url + "/contacts/take-in", data={"csrf": browser.csrf}, files={"file": ("x.csv", odd)}, timeout=20
            )
            assert answer.status_code == 400
        large = {"file": ("x.csv", b"x" * (6 << 20))}
        answer = browser.session.post(
            site.url + "/contacts/take-in", data={"csrf": browser.csrf}, files=large, timeout=20
        )
        assert answer.status_code == 413


def test_an_open_tab_ends_with_its_session(site: Site) -> None:
    browser = site.browser("staff")
    with browser.session.get(site.url + "/live", stream=True, timeout=20) as feed:
        lines = feed.iter_lines()
        assert next(lines) == b": here"
        browser.session.post(site.url + "/logout", data={"csrf": browser.csrf}, timeout=20, allow_redirects=False)
        call = site.unit.missed("+81300008888")
        assert call not in b"".join(lines).decode()  # it ends


def test_the_pop_up_leads_into_the_shops_own_system(tmp_path: Path) -> None:
    console = Console(tmp_path)
    caller = told(of_number("0300001234", "jp"))
    about: dict[str, Any] = {
        "line": 1,
        "call_id": "x",
        "event": "call.caller_id",
        "data": {"direction": "incoming", "caller": {**caller, "name": "<b>"}, "dialled": None},
        "contact": None,
        "last": [],
        "note": "<i>",
    }
    url = "https://crm.example/find?a={number}&b={national}"
    shown = console._popup(url, "en", about)
    assert 'href="https://crm.example/find?a=%2B81300001234&amp;b=03-0000-1234"' in shown
    assert "<b>" not in shown and "<i>" not in shown and "first call from this number" in shown
    assert "crm.example" not in console._popup(None, "ja", about)
    first = {
        **about,
        "event": "call.ringing",
        "data": {"direction": "incoming", "caller": told(Caller()), "dialled": None},
    }
    assert "on the way" in console._popup(url, "en", first)
    nobody = {**about, "data": {"direction": "incoming", "caller": told(Caller()), "dialled": None}}
    assert "crm.example" not in console._popup(url, "ja", nobody) and "番号不明" in console._popup(url, "ja", nobody)


def test_a_link_lets_a_stranger_hear_one_call_and_nothing_else(site: Site) -> None:
    browser, calls = site.browser("manager"), results(site.data)[0]
    at = f"/calls/{calls[2]['call_id']}"
    page = browser.post(at + "/share", form={"for": "hour"}).text
    link = re.search(r'value="(https://[^"]+/s/[^"]+)"', page)
    assert link
    stranger = site.browser()
    heard = stranger.session.get(link[1], timeout=20)
    assert heard.status_code == 200 and "03-0000-9012" not in heard.text and at not in heard.text
    assert heard.headers["Referrer-Policy"] == "no-referrer"
    sound = stranger.session.get(link[1] + "/sound", timeout=20)
    assert sound.content == (site.data / calls[2]["recording"]["path"]).read_bytes()
    assert stranger.get(at).url == site.url + "/login"
    assert "by the link" in site.browser("auditor").get("/listened").text
    kept = (site.data / "console" / "people.json").read_text()
    assert link[1].rpartition("/")[2] not in kept  # only its digest
    ended = re.search(r'name="remove" value="([0-9a-f]+)"', browser.get(at).text)
    assert ended
    browser.post(at + "/share", remove=ended[1])
    assert stranger.session.get(link[1], timeout=20).status_code == 404
    assert stranger.session.get(link[1] + "/sound", timeout=20).status_code == 404
    assert stranger.get("/s/" + "x" * 500).status_code == 404


def test_links_end_by_themselves(tmp_path: Path) -> None:
    clock = Clock()
    people = People(tmp_path, clock)
    token = people.share("call", "Sato", 3600)
    assert (share := people.shared(token)) and (share.call_id, share.by) == ("call", "Sato")
    clock.s += 3601
    assert people.shared(token) is None and people.shares_of("call") == []


def test_a_password_is_changed_by_who_knows_the_old_one_and_ends_all_sessions(tmp_path: Path) -> None:
    people = People(tmp_path)
    people.add("Sato", PASSWORD, "owner")
    token, _ = people.log_in("Sato", PASSWORD)
    assert refused(people.set_password, "Sato", "another password", "wrong") == "login_wrong"
    assert refused(people.set_password, "Sato", "short", PASSWORD) == "password_short"
    people.set_password("Sato", "another password", PASSWORD)
    assert people.session(token) is None and refused(people.log_in, "Sato", PASSWORD) == "login_wrong"
    assert people.log_in("Sato", "another password")


def test_a_passkey_that_is_none_lets_nobody_in(site: Site) -> None:
    stranger = site.browser()
    asked = stranger.post("/login/passkey/options", csrf=False).json()
    assert asked["options"]["rpId"] == "localhost" and asked["options"]["userVerification"] == "required"
    odd = json.dumps({"id": "AA", "rawId": "AA", "type": "public-key", "response": {"clientDataJSON": "AA"}})
    for ticket, credential in (
        (asked["ticket"], odd),
        (asked["ticket"], odd),
        ("x", "{}"),
        ("", ""),
        ("x", "[" * 9999),
    ):
        answer = stranger.post("/login/passkey", csrf=False, ticket=ticket, credential=credential)
        assert answer.status_code == 403 and "log in with the password" in answer.json()["error"]
    assert stranger.get("/").url == site.url + "/login"
    browser = site.browser("staff")
    ticket = browser.post("/passkeys/options").json()["ticket"]
    assert browser.post("/passkeys", ticket=ticket, credential=odd).status_code == 403
    by_address = Browser(site.url.replace("localhost", "127.0.0.1"), site.certificate)
    assert "not by an address" in by_address.post("/login/passkey/options", csrf=False).json()["error"]


def test_a_call_is_put_on_the_list_by_hand_and_given_to_somebody(site: Site) -> None:
    browser, call = site.browser("staff"), results(site.data)[0][2]["call_id"]
    browser.post(f"/calls/{call}/callback", due="tomorrow", form={"for": "owner"})
    shown = browser.get("/").text.partition('id="waiting"')[2].partition('id="last"')[0]
    assert f"/calls/{call}" in shown and "put here by staff" in shown and "owner" in shown and "by " in shown
    browser.post(f"/calls/{call}/done")
    assert f"/calls/{call}/done" not in browser.get("/").text


def test_the_proof_of_a_call_is_looked_at_and_a_changed_sound_is_seen(tmp_path: Path) -> None:
    with console_of(tmp_path) as site:
        browser, call = site.browser("owner"), results(site.data)[0][0]
        at = f"/calls/{call['call_id']}"
        assert "Nothing has changed since it was made" in browser.post(at + "/check").text
        assert zipfile.ZipFile(io.BytesIO(browser.get(at + "/export").content)).testzip() is None
        sound = site.data / call["recording"]["path"]
        data = bytearray(sound.read_bytes())
        data[len(data) // 2] ^= 0x10
        sound.write_bytes(data)
        assert "Something has changed or is missing" in browser.post(at + "/check").text


def test_a_line_that_is_deaf_says_so_and_open_tabs_are_told(site: Site) -> None:
    browser, unit = site.browser("staff"), site.unit.unit

    def until(told: str, there: bool) -> None:
        end = time.monotonic() + 20
        while (told in browser.get("/").text) != there:
            assert time.monotonic() < end
            time.sleep(0.1)

    until("idle", there=True)
    with browser.session.get(site.url + "/live", stream=True, timeout=20) as feed:
        lost = DeviceLost(at_ns=time.monotonic_ns(), line=1, device="codec", reason="It does not answer.")
        site.unit.do(lambda: unit._observe(lost))
        said = next(line for line in feed.iter_lines() if b"happened" in line)
        assert b"state/recorder" in said
    until("faulty: not recorded", there=True)
    site.unit.do(lambda: unit._observe(DeviceReady(at_ns=time.monotonic_ns(), line=1, device="codec", detail="")))
    until("faulty: not recorded", there=False)


def test_the_unit_is_shown_with_its_alarms(site: Site) -> None:
    browser = site.browser("installer")
    page = browser.get("/system").text
    assert "Line-tap HAT" in page and "Free space" in page
    assert browser.get("/system/peaks").json() == {"1": 0}
    packed = zipfile.ZipFile(io.BytesIO(browser.get("/system/support.zip").content))
    assert packed.testzip() is None and "info.json" in packed.namelist()
    assert "starlette" in browser.get("/licences").text
    end = time.monotonic() + 30
    while "MB are free" not in (page := browser.get("/system").text):
        assert time.monotonic() < end
        time.sleep(0.2)
    alarm = re.search(r'name="alarm" value="(disk[^"]*)"', page)
    assert alarm and "MB are free" in site.browser("owner").get("/").text
    browser.post("/system/alarm", alarm=alarm[1])
    assert "seen by installer" in browser.get("/system").text
    assert browser.post("/system/alarm", alarm="none").status_code == 409


def test_without_the_recorder_calls_are_shown_and_nothing_is_heard_unseen(tmp_path: Path, site: Site) -> None:
    data = Path(shutil.copytree(site.data, tmp_path / "data", ignore=shutil.ignore_patterns("*.sock", "lock")))
    port = free_port()
    command = [sys.executable, "-m", "firmware", "console", "run", "--data", str(data), "--host", "127.0.0.1"]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        wait_for(process, port)
        browser = Site(site.unit, data, f"https://localhost:{port}").browser("owner")
        assert "The recorder is not running" in browser.get("/").text
        call = results(data)[0][0]["call_id"]
        assert browser.get("/calls").status_code == 200 and browser.get(f"/calls/{call}/sound").status_code == 503
    finally:
        process.terminate()
        process.wait(10)
