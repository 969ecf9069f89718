"""The console's pages with 100,000 calls in the store."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import requests

from firmware.app import STORE
from firmware.console.people import People
from firmware.core.contacts import Contact
from firmware.generated import generate
from firmware.records.store import CallStore
from tests.bench.processes import resident_mb
from tests.bench.report import Progress, Table
from tests.test_console import PASSWORD, free_port, wait_for
from tests.units import running, settings

_CALLS = 100_000
_ASKED = 100


def bench(work: Path, quick: bool, progress: Progress) -> Table:
    calls, asked = (2000, 10) if quick else (_CALLS, _ASKED)
    data = work / "data"
    data.mkdir()
    generate(data / STORE, calls, until=datetime.now(UTC), progress=lambda part: progress("Calls", part / 2))
    _written_on(data, calls // 100)
    People(data / "console").add("owner", PASSWORD, "owner")
    port = free_port()
    command = [sys.executable, "-m", "firmware", "console", "run", "--data", str(data), "--host", "127.0.0.1"]
    rows, worst = [], 0.0
    with (
        running(settings(data)),
        subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL) as process,
    ):
        try:
            wait_for(process, port)
            url, browser = f"https://localhost:{port}", requests.Session()
            browser.trust_env, browser.verify = False, str(data / "console" / "certificate.pem")
            first = browser.post(url + "/login", data={"name": "owner", "password": PASSWORD}, timeout=60)
            call = re.search(r'href="(/calls/[0-9a-f-]{36})"', first.text)
            assert call
            pages = {
                "today": "/",
                "the last calls": "/calls",
                "the last missed": "/calls?kind=missed",
                "a whole number": "/calls?text=09000002008",
                "four digits": "/calls?text=2008",
                "digits that nobody has": "/calls?text=777777",
                "a name of the contacts": "/calls?text=ナマエ12",
                "a note": "/calls?text=ことば7",
                "a tag": "/calls?tag=札3",
                "a day, long calls": f"/calls?since={datetime.now(UTC):%Y-%m-%d}&shortest=2",
                "the last of all pages": f"/calls?from={calls - 60}",
                "contacts": "/contacts?text=ナマエ1",
                "a call": call[1],
                "who listened": "/listened",
                "the unit": "/system",
            }
            for number, (name, path) in enumerate(pages.items()):
                progress(name, 0.5 + number / len(pages) / 2)
                took = sorted(_ms(browser, url + path) for _ in range(asked))
                p99 = took[int(len(took) * 0.99) - 1]
                worst = max(worst, p99)
                rows.append((name, f"{took[len(took) // 2]:.0f}", f"{p99:.0f}"))
            sent = [first.content] + [
                browser.get(url + path, timeout=60).content for path in ("/static/style.css", "/static/live.js")
            ]
            rows.append(
                ("first load, kB compressed", f"{sum(len(gzip.compress(each)) for each in sent) / 1000:.1f}", "")
            )
            rows.append(("resident memory, MB", f"{resident_mb(process.pid):.0f}", ""))
        finally:
            process.terminate()
    return Table(
        title="The console's pages",
        how=f"{calls:,} generated calls, a running unit beside it, each page asked for {asked} times over HTTPS in one "
        "connection; milliseconds. Aim: p99 below 100 ms for each; 250 kB; 120 MB.",
        columns=("page", "p50", "p99"),
        rows=tuple(rows),
        figures={"console_worst_p99_ms": round(worst, 1)},
    )


def _written_on(data: Path, count: int) -> None:
    """Contacts, and notes and tags on calls, as a shop has them after years."""
    store = CallStore(data / STORE, "s", sinks=())
    told: Any = {"by": "x", "updated": "2026-01-01T00:00:00.000Z"}
    known = [call for call in islice(store.newest(), 20 * count) if call["caller"]["number"]]
    numbers = list(dict.fromkeys(call["caller"]["number"] for call in known))[:count]
    store.put_contacts(
        [Contact(contact_id=f"c-{n}", number=each, name=f"なまえ{n}", **told) for n, each in enumerate(numbers)]
    )
    for n, call in enumerate(known[:count]):
        store.remark(call["call_id"], {"note": f"コトバ{n}", "tags": [f"札{n % 20}"]}, "Sato")
    store.close()


def _ms(browser: requests.Session, url: str) -> float:
    began = time.perf_counter()
    assert browser.get(url, timeout=60).status_code == 200
    return (time.perf_counter() - began) * 1e3
