"""The console: a process of its own beside a running unit, asked over HTTPS as a browser does."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from drivers.virtual import scenario as story
from firmware.console.people import RIGHTS, People, PeopleError
from firmware.console.words import WORDS
from firmware.management import _ACCESSES, contract
from firmware.records.store import CallReader
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

    def post(self, path: str, csrf: bool = True, **form: str) -> requests.Response:
        if csrf:
            form["csrf"] = self.csrf
        return self.session.post(self.url + path, data=form, timeout=20)

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get("/listened").text + self.get("/people").text)
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
    """A running unit with a day of calls, and its console with somebody of each role."""
    work = tmp_path_factory.mktemp("console")
    stepped(story.parse(DAY, work / "day.txt"), work / "data")
    people = People(work / "data" / "console")
    for role in RIGHTS:
        people.add(role, PASSWORD, role)
    port = free_port()
    with running(settings(work / "data")) as unit:
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


# What of each page each role may have; the rest is 403.
ROUTES = {
    "/calls": "see",
    "/calls/{call}": "see",
    "/calls/{call}/sound": "listen",
    "/calls/{call}/download": "download",
    "/people": "people",
    "/listened": "log",
}


@pytest.mark.parametrize("role", RIGHTS)
def test_each_role_has_its_pages_and_no_other(site: Site, role: Any) -> None:
    call = results(site.data)[0][0]["call_id"]
    browser = site.browser(role)
    for path, right in ROUTES.items():
        status = browser.get(path.format(call=call)).status_code
        assert status == (200 if right in RIGHTS[role] else 403), (role, path)


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
