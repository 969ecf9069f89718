"""The console's JSON API: what its document says, it does; what is not in it is refused, and nothing makes it fail."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import fastjsonschema
import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings

from firmware.console.answers import ANSWERS
from firmware.console.people import RIGHTS, People
from firmware.records.store import CallReader
from firmware.simulate import results
from tests.test_console import Site, console_of

NOBODY = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with console_of(tmp_path_factory.mktemp("api")) as found:
        yield found


class Program:
    """One with a key of a role."""

    def __init__(self, site: Site, role: Any) -> None:
        people = People(site.data / "console")
        names = {each.name for each in people.keys()}  # noqa: SIM118 - no mapping
        self.key = people.make_key(next(name for name in (f"{role} {n}" for n in range(99)) if name not in names), role)
        self._url, self._session = site.url, requests.Session()
        self._session.trust_env, self._session.verify = False, str(site.certificate)
        self._session.headers["Authorization"] = f"Bearer {self.key}"

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        return self._session.request(method, f"{self._url}/api/v1{path}", timeout=60, **more)

    def get(self, path: str, **more: Any) -> Any:
        answer = self.ask("GET", path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()


def answers_as_told(document: Any, told: Any, kind: str, body: bytes, known: dict[str, Any]) -> None:
    """A good answer is as the document says. Raises fastjsonschema's exception. known: what was compiled before."""
    content, kind = told["responses"]["200"]["content"], kind.partition(";")[0]
    assert kind in content, (kind, list(content))
    if kind == "application/json":
        schema = {**content[kind]["schema"], "components": document["components"]}
        check = known.get(told["operationId"]) or fastjsonschema.compile(schema)
        known[told["operationId"]] = check
        check(json.loads(body))


def test_nobody_without_a_key_and_no_session_gets_in(site: Site) -> None:
    browser = site.browser("owner")  # a cookie is no key: a page of somebody else's could send it
    for headers in (
        {},
        {"Authorization": "Bearer tsu_x"},
        {"Authorization": "Basic eDp4"},
        {"Authorization": "Bearer"},
    ):
        answer = browser.session.get(site.url + "/api/v1/calls", headers=headers, timeout=20)
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer" and "ja" in answer.json()
    program = Program(site, "staff")
    people = People(site.data / "console")
    assert program.key not in (site.data / "console" / "people.json").read_text()
    assert program.get("/calls")["calls"]
    people.remove_key("staff 0")
    assert program.ask("GET", "/calls").status_code == 401


@pytest.mark.parametrize("role", RIGHTS)
def test_a_key_has_the_rights_of_its_role(site: Site, role: Any) -> None:
    program = Program(site, role)
    document = program.get("/openapi.json")
    bodies = {"remarks": {"note": "x"}, "hold": {"reason": "x"}, "callback": {}, "merge": {"other": NOBODY}}
    tried = 0
    for path, methods in document["paths"].items():
        at = path.removeprefix("/api/v1").format(call_id=NOBODY, contact_id=NOBODY, name="nobody")
        for method, told in methods.items():
            right = told["description"].removeprefix("Right: ").rstrip(".")
            body = bodies.get(path.rpartition("/")[2], {}) if "requestBody" in told else None
            status = program.ask(method.upper(), at, json=body).status_code
            assert (status != 403) == (right in RIGHTS[role]), (role, method, path, status)
            tried += 1
    assert tried >= 25


def test_a_call_is_found_noted_held_and_called_back(site: Site) -> None:
    program, call = Program(site, "owner"), results(site.data)[0][0]
    at = f"/calls/{call['call_id']}"
    remark = {"note": "注文の確認", "tags": ["注文"], "follow_up": {"next": "発送", "due": "2027-01-15"}}
    assert program.ask("PATCH", at + "/remarks", json=remark).json()["notes"][0]["by"].startswith("API: owner")
    found = program.get("/calls", params={"text": "注文の", "tag": "注文", "count": 1})
    assert [each["call_id"] for each in found["calls"]] == [call["call_id"]] and found["next"] is None
    assert program.get("/calls", params={"count": 1})["next"] == 1
    assert program.ask("PUT", at + "/hold", json={"reason": "x"}).status_code == 200
    assert program.ask("DELETE", at).status_code == 409
    due = {"due": "2027-01-15T01:00:00Z", "who": "佐藤"}
    assert program.ask("PUT", at + "/callback", json=due).status_code == 200
    told = program.get(at)
    assert told["held"]["reason"] == "x" and told["callback"]["due"] == "2027-01-15T01:00:00.000Z"
    assert any(each["call"]["call_id"] == call["call_id"] for each in program.get("/today")["waiting"])
    for far in ("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"):  # no clock of ours can show them
        assert program.ask("PUT", at + "/callback", json={"due": far}).status_code == 409
    assert program.ask("DELETE", at + "/callback").status_code == 200 and program.get(at)["callback"] is None
    assert program.ask("DELETE", at + "/hold").status_code == 200
    sound = program.ask("GET", at + "/sound")
    assert sound.content == (site.data / call["recording"]["path"]).read_bytes()
    wave = program.get(at + "/wave")
    assert len(wave["levels"]) == 400 and {"lift", "hang_up"} <= {each["kind"] for each in wave["happened"]}
    assert program.ask("POST", at + "/check").json()["holds"]
    reader = CallReader(site.data / "store")
    said = {
        each["data"]["what"] for each in reader.events(("audit",)) if str(each["data"].get("by")).startswith("API: ")
    }
    reader.close()
    assert {"viewed", "opened", "remarked"} <= said


def test_every_good_answer_is_as_the_document_says(site: Site) -> None:
    program = Program(site, "owner")
    contact = {"number": "03-0000-1234", "name": "山田"}
    ids = {
        "call_id": results(site.data)[0][0]["call_id"],
        "contact_id": program.ask("POST", "/contacts", json=contact).json()["contact_id"],
        "name": "x",
    }
    document, seen = program.get("/openapi.json"), set()
    program.ask("PUT", f"/calls/{ids['call_id']}/callback", json={})
    program.ask("PATCH", f"/calls/{ids['call_id']}/remarks", json={"note": "x", "follow_up": {"next": "x"}})
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            if method == "get" or path.endswith("/check"):
                answer = program.ask(method.upper(), path.removeprefix("/api/v1").format(**ids))
                assert answer.status_code == 200, (path, answer.text)
                answers_as_told(document, told, answer.headers["Content-Type"], answer.content, {})
                seen.add(told["operationId"])
    assert seen >= {each for each in ANSWERS if each.startswith("get_")}
    operations = {told["operationId"] for methods in document["paths"].values() for told in methods.values()}
    assert ANSWERS.keys() <= operations


def test_contacts_by_program(site: Site) -> None:
    program = Program(site, "owner")
    told = {"number": "03-0000-9012", "name": "鈴木", "flags": ["do_not_record"], "note": "x"}
    contact_id = program.ask("POST", "/contacts", json=told).json()["contact_id"]
    shown = program.get(f"/contacts/{contact_id}")
    assert shown["flags"] == ["do_not_record"] and len(shown["calls"]) == 1
    assert program.get("/contacts", params={"text": "すずき"})["count"] == 0
    assert program.get("/contacts", params={"text": "鈴"})["count"] == 1
    assert program.ask("POST", "/contacts", json={**told, "number": "999999"}).status_code == 400


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("/calls", {"params": {"color": "red"}}, 400),
        ("/calls", {"params": {"count": "0"}}, 400),
        ("/calls", {"params": {"count": "x"}}, 400),
        ("/calls", {"params": {"since": "yesterday"}}, 400),
        ("/calls", {"params": [("text", "a"), ("text", "b")]}, 400),
        ("/calls/../../unit-key.pem", {}, 404),
        (f"/calls/{NOBODY}", {}, 404),
        (f"/calls/{NOBODY}/wave", {}, 404),
        ("/nothing", {}, 404),
    ],
)
def test_what_the_document_does_not_know_is_refused(site: Site, path: str, more: Any, status: int) -> None:
    assert Program(site, "owner").ask("GET", path, **more).status_code == status


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"json": {"note": 1}}, 400),
        ({"json": {}}, 400),
        ({"json": []}, 400),
        ({"json": {"note": "x", "color": "red"}}, 400),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"data": b"[" * 50_000, "headers": {"Content-Type": "application/json"}}, 400),
        ({"data": b'{"note": "\\ud800"}', "headers": {"Content-Type": "application/json"}}, 400),
        ({"data": b"note=x"}, 415),
        ({"data": b"x" * (2 << 20), "headers": {"Content-Type": "application/json"}}, 413),
    ],
)
def test_what_is_sent_wrong_is_refused(site: Site, sent: Any, status: int) -> None:
    call = results(site.data)[0][0]["call_id"]
    assert Program(site, "owner").ask("PATCH", f"/calls/{call}/remarks", **sent).status_code == status


def test_whatever_is_sent_nothing_fails(site: Site) -> None:
    """schemathesis, over the whole document: no 5xx, and no answer that the document does not have."""
    fuzzed(site, 8)


def fuzzed(site: Site, examples: int) -> int:
    """How many requests were sent, each operation with so many kinds of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import schemathesis.openapi  # noqa: PLC0415
    program = Program(site, "owner")
    call = results(site.data)[0][1]["call_id"]
    document = program.get("/openapi.json")
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=site.url)
    sent, known = 0, dict[str, Any]()
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(operation.as_strategy())
        def send(case: Any) -> None:
            nonlocal sent
            sent += 1
            if sent % 2 and "call_id" in case.path_parameters and case.method != "DELETE":
                case.path_parameters["call_id"] = call
            case.headers["Authorization"] = f"Bearer {program.key}"
            answer = case.call(session=program._session, verify=str(site.certificate), timeout=60)
            assert answer.status_code < 500, (case.method, case.path, answer.status_code, answer.content[:300])
            told = document["paths"].get(case.operation.path, {}).get(case.method.lower())
            assert told is None or str(answer.status_code) in told["responses"], (case.path, answer.status_code)
            if told and answer.status_code == 200:
                answers_as_told(document, told, answer.headers["content-type"][0], answer.content, known)

        send()
    assert People(site.data / "console").all()
    return sent
