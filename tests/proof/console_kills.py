"""The console is killed and started again under load while calls go on: no call, sample, event or note is lost."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import requests

from drivers.virtual import scenario as story
from firmware.app import STORE
from firmware.console.people import People
from firmware.generated import generate
from firmware.records.store import CallReader
from firmware.simulate import check, results
from tests.proof.consumer import the_consumer_has_all
from tests.proof.live import play, processes
from tests.proof.report import Report
from tests.test_console import PASSWORD, free_port, wait_for

_BEFORE = 500  # calls that are there already
_READERS, _TABS = 4, 5
_LIVES_S = 2.5  # of a console, from when it answers


@dataclass
class Killed:
    """What was done to the console, and what became of it."""

    kills: int = 0
    answers: int = 0
    told: int = 0  # messages in open tabs
    acknowledged: list[tuple[str, str]] = field(default_factory=list)  # notes: call, text


def prove(report: Report) -> None:
    path = Path(__file__).parents[1] / "scenarios" / "shop-day.txt"
    with tempfile.TemporaryDirectory(prefix="tsuroku-") as folder:
        killed = killed_meanwhile(path, Path(folder))
    report.figure("killed (SIGKILL) and started again", f"{killed.kills} times")
    report.figure("pages answered meanwhile, messages in open tabs", f"{killed.answers}, {killed.told}")
    report.figure("notes acknowledged, and all of them kept", len(killed.acknowledged))
    report.figure("calls, samples and events lost", 0)


def killed_meanwhile(path: Path, work: Path) -> Killed:
    """Play a scenario live; raises AssertionError where anything of it is lost."""
    data, killed, over = work / "data", Killed(), threading.Event()
    data.mkdir(parents=True)
    generate(data / STORE, _BEFORE, until=datetime.now(UTC), progress=lambda part: None)
    People(data / "console").add("owner", PASSWORD, "owner")
    with processes(1) as pool:
        played = pool.submit(play, path, data)
        try:
            _kill(data, killed, over, lambda: not played.done())
        finally:
            over.set()
        run = played.result()
    wrong = check(story.load(path), data, base_ns=run.base_ns, tolerance_s=0.1, before=_BEFORE)
    assert wrong == [], wrong
    calls, events = results(data, _BEFORE)
    the_consumer_has_all(run.events, events)
    recordings = [call["recording"] for call in calls if call["recording"]]
    assert recordings and not any(each["gaps"] or each["cut_short"] for each in recordings), recordings
    reader = CallReader(data / STORE)
    try:
        for call_id, text in killed.acknowledged:
            assert text in [note["text"] for note in reader.remarks(call_id)["notes"]], (call_id, text)
    finally:
        reader.close()
    return killed


def _kill(data: Path, killed: Killed, over: threading.Event, goes_on: Callable[[], bool]) -> None:
    port = free_port()
    url = f"https://localhost:{port}"
    busy = [threading.Thread(target=_reads, args=(data, url, killed, over, n), daemon=True) for n in range(_READERS)]
    busy += [threading.Thread(target=_looks, args=(data, url, killed, over), daemon=True) for _ in range(_TABS)]
    command = [sys.executable, "-m", "firmware", "console", "run", "--data", str(data), "--host", "127.0.0.1"]
    while goes_on():
        with subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL) as process:
            wait_for(process, port)
            if killed.kills == 0:
                for each in busy:
                    each.start()
            time.sleep(_LIVES_S)
            process.kill()
            killed.kills += 1
    over.set()
    for each in busy:
        each.join(30)


def _session(data: Path, url: str) -> requests.Session:
    session = requests.Session()
    session.trust_env, session.verify = False, str(data / "console" / "certificate.pem")
    session.post(url + "/login", data={"name": "owner", "password": PASSWORD}, timeout=20).raise_for_status()
    return session


def _reads(data: Path, url: str, killed: Killed, over: threading.Event, number: int) -> None:
    """Pages, one after the other, and a note now and then; logged in again after each kill."""
    count = 0
    while not over.is_set():
        with contextlib.suppress(requests.RequestException, AssertionError):
            session = _session(data, url)
            page = session.get(url + "/calls", timeout=20).text
            calls = re.findall(r"/calls/([0-9a-f-]{36})", page)
            while not over.is_set():
                count += 1
                asked = ("/", "/calls?text=0", f"/calls?text={count % 1000}", "/contacts", f"/calls/{calls[-1]}")
                page = session.get(url + asked[count % len(asked)], timeout=20).text
                assert "<main" in page
                killed.answers += 1
                found = re.search(r'name="csrf" value="([^"]+)"', page)
                if count % 10 == 0 and found:
                    text, call = f"note {number}-{count}", calls[count % len(calls)]
                    form = {"csrf": found[1], "note": text}
                    done = session.post(url + f"/calls/{call}/remark", data=form, timeout=20, allow_redirects=False)
                    if done.status_code == 303 and "login" not in done.headers["Location"]:
                        killed.acknowledged.append((call, text))
        time.sleep(0.1)


def _looks(data: Path, url: str, killed: Killed, over: threading.Event) -> None:
    """An open tab."""
    while not over.is_set():
        with contextlib.suppress(requests.RequestException, ValueError):
            session = _session(data, url)
            with session.get(url + "/live", stream=True, timeout=20) as feed:
                for line in feed.iter_lines():
                    if line.startswith(b"data: "):
                        json.loads(line[6:])
                        killed.told += 1
                    if over.is_set():
                        break
        time.sleep(0.1)
