"""The chain's head, stamped by an authority: the real one is openssl's, behind a web server of ours."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from drivers.virtual import scenario as story
from firmware.bundle.verify import Verdict, link_of, verify
from firmware.cli import doctor
from firmware.cli.main import main
from firmware.core.call import ClockRead
from firmware.records.evidence import Signer
from firmware.records.store import CallReader, CallStore
from firmware.settings import SettingsError, TimestampSettings, parse
from firmware.simulate import results, stepped
from firmware.timestamp import NoTimestamp, Timestamper, ask
from tests.proof.bundles import members, names, rebuilt
from tests.receiver import Receiver, receiving
from tests.test_settings import GOOD
from tests.units import running, settings

_CONF = """[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[tsa]
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
[ts]
dir = .
serial = serial
crypto_device = builtin
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


class Authority:
    """openssl ts, with a CA of its own."""

    def __init__(self, work: Path) -> None:
        self.work = work
        work.mkdir()
        (work / "conf").write_text(_CONF)
        (work / "serial").write_text("01\n")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-config", "/dev/null")
        for name, subject in (("ca", "/CN=Time CA"), ("tsa", "/CN=Time of day")):
            self.run("req", "-new", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        sign = ("x509", "-req", "-days", "30", "-extfile", "conf", "-extensions")
        self.run(*sign, "ca", "-in", "ca.csr", "-signkey", "ca.key", "-out", "ca.pem")
        self.run(*sign, "tsa", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", "tsa.pem")
        self.ca = work / "ca.pem"

    def run(self, *words: str) -> bytes:
        return subprocess.run(("openssl", *words), cwd=self.work, check=True, capture_output=True).stdout

    def stamps(self, query: bytes) -> bytes:
        (self.work / "query").write_bytes(query)
        signer = ("-signer", "tsa.pem", "-inkey", "tsa.key")
        self.run("ts", "-reply", "-config", "conf", "-section", "ts", "-queryfile", "query", *signer, "-out", "reply")
        return (self.work / "reply").read_bytes()

    def answers(self, receiver: Receiver, change: bytes | None = None) -> None:
        """The next request is stamped; change: an earlier answer, sent instead."""

        def reply(handler: BaseHTTPRequestHandler) -> None:
            assert handler.headers["Content-Type"] == "application/timestamp-query"
            der = change or self.stamps(receiver.got[-1].body)
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(der)))
            handler.end_headers()
            handler.wfile.write(der)

        receiver.replies.append(reply)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("time") / "authority")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def test_what_it_stamps_openssl_finds_good(authority: Authority, receiver: Receiver, tmp_path: Path) -> None:
    authority.answers(receiver)
    stamp, at = ask(TimestampSettings(url=receiver.url, ca_file=authority.ca), "ab" * 32)
    (tmp_path / "token").write_bytes(base64.b64decode(stamp["token"]))
    (tmp_path / "link").write_text("ab" * 32)
    said = authority.run(
        "ts", "-verify", "-data", str(tmp_path / "link"), "-in", str(tmp_path / "token"), "-CAfile", str(authority.ca)
    )
    assert said == b"Verification: OK\n" or b"OK" in said
    assert at.startswith(time.strftime("%Y-%m-%dT", time.gmtime())) and at.endswith("+00:00")


def test_what_does_not_hold_is_no_timestamp(authority: Authority, receiver: Receiver, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    good = TimestampSettings(url=receiver.url, ca_file=authority.ca)
    authority.answers(receiver)
    old = base64.b64decode(ask(good, "ab" * 32)[0]["token"])

    def says(link: str = "ab" * 32, chosen: TimestampSettings = good) -> str:
        with pytest.raises(NoTimestamp) as wrong:
            ask(chosen, link)
        return str(wrong.value)

    other.answers(receiver)
    assert "does not hold" in says()
    authority.answers(receiver, old)  # an answer to an earlier question
    assert "does not hold" in says()
    authority.answers(receiver, old[:-40])
    assert "is no timestamp" in says()
    receiver.replies += [(500, {}), (302, {"Location": receiver.url}), (200, {})]
    assert "HTTP 500" in says() and says() and "is no timestamp" in says()
    assert "cannot be reached" in says(chosen=TimestampSettings(url="http://127.0.0.1:9/", ca_file=authority.ca))
    assert "cannot be read" in says(chosen=TimestampSettings(url=receiver.url, ca_file=tmp_path / "none.pem"))
    (tmp_path / "no.pem").write_text("nothing")
    assert "no certificate" in says(chosen=TimestampSettings(url=receiver.url, ca_file=tmp_path / "no.pem"))


class _Clock:
    def __init__(self) -> None:
        self.ns = 1_000_000_000

    def __call__(self) -> ClockRead:
        return ClockRead(mono_ns=self.ns, wall_ns=1_790_000_000_000_000_000 + self.ns, state="ntp")


def test_it_asks_once_a_day_and_tells_when_none_came_for_three(
    authority: Authority, receiver: Receiver, tmp_path: Path
) -> None:
    clock, told = _Clock(), list[str | None]()
    store = CallStore(tmp_path / "store", "/t", boot_id="b", read_clock=clock, key=tmp_path / "key")
    stamper = Timestamper(TimestampSettings(url=receiver.url, ca_file=authority.ca), store, told.append)

    def passes(hours: float) -> None:
        for _ in range(round(hours * 6)):
            stamper.tick()
            while stamper._asking and stamper._answers.empty():
                time.sleep(0.005)
            stamper.tick()
            clock.ns += 600_000_000_000

    authority.answers(receiver)
    passes(23)
    assert len(receiver.got) == 1 and [each["seq"] for each in store.timestamps()] and told == [None]
    receiver.replies += [500] * 1000
    passes(48)
    assert len(store.timestamps()) == 1 and told == [None]
    passes(3)
    assert told[1] and "HTTP 500" in told[1]
    receiver.replies.clear()
    authority.answers(receiver)
    passes(1)
    first, second = store.timestamps()
    assert told[-1] is None and second["seq"] > first["seq"]
    store.close()
    again = CallStore(tmp_path / "store", "/t", boot_id="b", read_clock=clock, key=tmp_path / "key")
    stamper = Timestamper(TimestampSettings(url=receiver.url, ca_file=authority.ca), again, told.append)
    asked = len(receiver.got)
    passes(1)
    assert len(receiver.got) == asked, "it asks anew after a start"
    again.close()


DAY = """title Two calls
number display
1.0 call from 03-0000-1234
+7 lift
+0.5 shop says greeting
+9 hang up
40.0 call from 03-0000-5678
+7 lift
+0.5 shop says order
+9 hang up
end 60
"""


@pytest.fixture(scope="module")
def stamped(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two calls whose chain was stamped."""
    work = tmp_path_factory.mktemp("stamped")
    stepped(story.parse(DAY, work / "day.txt"), work / "data")
    calls = [call["call_id"] for call in results(work / "data")[0]]
    store = CallStore(work / "data" / "store", "/t", boot_id="b", read_clock=_Clock(), key=work / "data/unit-key.pem")
    with receiving() as server:
        authority.answers(server)
        head = store.storage.seq, store.storage.link
        stamp, at = ask(TimestampSettings(url=server.url, ca_file=authority.ca), head[1])
    store.keep_timestamp({"seq": head[0], "link": head[1], "at": at, **stamp})
    store.close()
    out = work / "bundle.zip"
    assert main(["export", *calls, "--data", str(work / "data"), "--out", str(out)]) == 0
    return out


def says(verdict: Verdict, state: str) -> str:
    return "\n".join(f"{each.where}: {each.en}" for each in verdict.findings if each.state == state)


def test_a_bundle_shows_when_its_calls_were_there(stamped: Path, authority: Authority, tmp_path: Path) -> None:
    verdict = verify(stamped, authorities=authority.ca.read_bytes())
    assert verdict.holds and says(verdict, "good").count("was there at") == 2
    assert "CN=Time of day has stamped" in says(verdict, "good")
    alone = verify(stamped)
    assert alone.holds and "(--authority)" in says(alone, "unknown")
    foreign = verify(stamped, authorities=Authority(tmp_path / "other").ca.read_bytes())
    assert not foreign.holds and "timestamps/" in says(foreign, "wrong")
    command = [sys.executable, "-m", "firmware", "verify", str(stamped), "--authority", str(authority.ca)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "was there at" in done.stdout and "までに書かれていました" in done.stdout


def test_without_the_package_it_says_that_it_did_not_look(stamped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    verdict = verify(stamped)
    assert verdict.holds and "install the package rfc3161-client" in says(verdict, "unknown")


def test_a_chain_written_anew_by_the_keys_owner_is_found(stamped: Path, authority: Authority, tmp_path: Path) -> None:
    """With the unit's own key everything else fits again; only the authority's word does not."""
    held = members(stamped)
    key = Signer(stamped.parent / "data" / "unit-key.pem")
    (name,) = names(held, "chain.json")[:1]
    chain = json.loads(held[name])
    run = chain["runs"][-1]
    own = max(index for index, line in enumerate(run["lines"]) if line["body"])
    head, *bodies = run["lines"][own]["body"].split("\t")
    bodies = [body.replace('"outcome":"answered"', '"outcome":"missed"') for body in bodies]
    run["lines"][own]["body"] = "\t".join([head, *bodies])
    for before, line in zip(run["lines"], run["lines"][1:], strict=False):
        line["prev"] = _link(before)
    last, signed = run["lines"][-1], run["checkpoint"]
    run["checkpoint"] = key.checkpoint(signed["store_id"], last["seq"], _link(last), signed["calls"], signed["at"])
    held[name] = json.dumps(chain).encode()
    record = name.replace("chain", "record")
    held[record] = held[record].replace(b'"outcome":"answered"', b'"outcome":"missed"')
    changed = rebuilt(tmp_path / "anew.zip", held)
    found = verify(changed, authorities=authority.ca.read_bytes())
    assert "the chain was written anew" in says(found, "wrong")
    without = rebuilt(tmp_path / "without.zip", {name: data for name, data in held.items() if "timestamps" not in name})
    assert verify(without).holds, "the change itself was clumsy: something else has found it"


def _link(line: dict[str, Any]) -> str:
    digest = line["hash"]
    if line["body"] is not None:
        digest = hashlib.sha256(line["body"].encode()).hexdigest()
    return link_of(line["seq"], line["prev"], digest)


def test_each_part_of_a_timestamp_that_is_changed_is_found(stamped: Path, authority: Authority, tmp_path: Path) -> None:
    held = members(stamped)
    (name,) = names(held, ".json")[-1:]
    assert name.startswith("timestamps/")
    proof = json.loads(held[name])
    token = bytearray(base64.b64decode(proof["token"]))
    for at in range(20, len(token), 41):
        token[at] ^= 1
        changed = rebuilt(
            tmp_path / "changed.zip",
            held | {name: json.dumps({**proof, "token": base64.b64encode(token).decode()}).encode()},
        )
        verdict = verify(changed, authorities=authority.ca.read_bytes())
        token[at] ^= 1
        assert not verdict.holds or says(verdict, "good") == says(
            verify(stamped, authorities=authority.ca.read_bytes()), "good"
        ), at
    for change in ({"hashes": proof["hashes"][:-1]}, {"link": "00" * 32}, {"first": 0}, {"seq": None}, {"token": "é"}):
        changed = rebuilt(tmp_path / "changed.zip", held | {name: json.dumps({**proof, **change}).encode()})
        assert not verify(changed).holds, change


def test_the_unit_has_its_head_stamped(authority: Authority, receiver: Receiver, tmp_path: Path) -> None:
    authority.answers(receiver)
    chosen = settings(tmp_path / "data", timestamp=TimestampSettings(url=receiver.url, ca_file=authority.ca))
    with running(chosen) as shop:
        end = time.monotonic() + 15
        while not shop.unit.store.note("timestamp"):
            assert time.monotonic() < end
            shop.do(shop.unit._housekeeping)
            time.sleep(0.02)
    reader = CallReader(tmp_path / "data" / "store")
    (stamp,) = reader.timestamps()
    reader.close()
    assert stamp["token"] and main(["store", "verify", "--data", str(tmp_path / "data")]) == 0


def test_doctor_has_something_stamped(authority: Authority, receiver: Receiver) -> None:
    authority.answers(receiver)
    chosen = TimestampSettings(url=receiver.url, ca_file=authority.ca)
    assert doctor._timestamp(chosen).state == "good"
    receiver.replies.append(404)
    assert doctor._timestamp(chosen).state == "wrong"


def test_an_address_that_is_none_is_refused() -> None:
    for url in ("tsa.example", "ftp://tsa.example/", "https://me:pw@tsa.example/"):
        with pytest.raises(SettingsError, match=r"\[timestamp\] url"):
            parse(f'{GOOD}\n[timestamp]\nurl = "{url}"\nca_file = "/etc/tsuroku/tsa.pem"\n', "unit.toml")
