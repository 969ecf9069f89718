"""`tsuroku replay --explain` and `--masked`: why a call was judged as it was, and journals without real numbers."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from drivers.signals import CallerIdReceived, KeyHeard, LoopEdge, Signal
from drivers.virtual import scenario as story
from firmware.cli.main import main
from firmware.core.call import Call
from firmware.core.explain import Account, accounts, masked_text, private, sentences, verdict
from firmware.core.line import TABLE, Line
from firmware.engine.journal import Journal, JournalledReads, masked, replay, steps
from firmware.engine.loop import Engine
from firmware.simulate import stepped
from tests.test_line import Reads, config

SCENARIOS = Path(__file__).parent / "scenarios"
S = 1_000_000_000


def journal_of(scenario: str, directory: Path) -> Path:
    stepped(story.load(SCENARIOS / f"{scenario}.txt"), directory / "data")
    (journal,) = (directory / "data/journal").iterdir()
    return journal


def told(account: Account) -> str:
    return "\n".join(f"{at_s:+.2f} {happened}: {followed}" for at_s, happened, followed in sentences(account))


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_an_answered_call_is_explained_from_ring_to_file(tmp_path: Path) -> None:
    (account,) = accounts(steps(journal_of("answered-number-display", tmp_path)))
    text = told(account)
    order = [
        "Ring burst (known at +0.12 s: ring edge): idle -> ringing",
        "ringing -> cid handshake",
        "Caller id received (source line fsk",
        "receive complete",
        "answer evidence: loop",
        "flash -> idle",
        "Recording ready",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    why = {what: (value, rests_on) for what, value, rests_on in verdict(account)}
    assert why["outcome"][0] == "answered" and "hang-up" in why["outcome"][1]
    assert why["answered"][1].startswith("off hook at ")
    assert "source line fsk" in why["caller"][0] and why["caller"][1].startswith("caller id received")


def test_a_call_without_recording_says_why(tmp_path: Path) -> None:
    (account,) = accounts(steps(journal_of("missed", tmp_path)))
    why = {what: value for what, value, _ in verdict(account)}
    assert (why["outcome"], why["no recording"]) == ("missed", "not answered")


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.txt")), ids=lambda path: path.stem)
def test_every_change_of_state_is_told_with_its_rule(path: Path, tmp_path: Path) -> None:
    stepped(story.load(path), tmp_path / "data")
    for journal in sorted((tmp_path / "data/journal").iterdir()):
        done = list(steps(journal))
        explained = accounts(done)
        text = "\n".join(told(account) for account in explained)
        for step in done:
            for judged in step.judged:
                rule = TABLE[judged.before, type(judged.fact)].label_to(judged.after)
                if judged.after is not judged.before and rule:
                    states = f"{judged.before.value} -> {judged.after.value}".replace("_", " ")
                    assert f"{states}: {rule}" in text
        filed = {save.call.call_id: save.call for save in replay(journal)}
        assert {account.call.call_id: account.call for account in explained if account.call} == filed


def test_numbers_are_masked_unless_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = str(journal_of("shop-day", tmp_path))
    for more in ([], ["--json"]):
        code, out, _ = run(capsys, "replay", "--explain", journal, *more)
        assert code == 0 and out.count("outgoing") + out.count("incoming") >= 8
        assert not any(secret in out for secret in ("0300001234", "+81300001234", "9000005678", "YAMADA"))
        assert "0300001234" in run(capsys, "replay", "--explain", "--numbers", journal, *more)[1]


def test_programs_get_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "replay", "--explain", "--json", str(journal_of("answered", tmp_path)))
    entries = [json.loads(line) for line in out.splitlines()]
    assert [entry["changed"]["direction"] for entry in entries if "direction" in entry["changed"]] == ["incoming"]
    ended = next(entry for entry in entries if entry["changed"].get("outcome"))
    assert ended["cause"] == {"timer": "hang_up"}
    assert [(j["fact"], j["before"], j["after"]) for j in ended["judged"]] == [("OnHook", "flash", "idle")]
    assert [command["do"] for command in ended["commands"]] == ["StopRecording", "SaveCall", "ShowLine"]


def test_a_journal_without_calls_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Journal(tmp_path, [config()]).close()
    code, out, _ = run(capsys, "replay", "--explain", str(tmp_path / "00000001.jsonl"))
    assert (code, out.strip().endswith("no call is in it.")) == (0, True)


def test_an_option_that_would_do_nothing_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "replay", "--json", "j.jsonl")
    assert (code, "go with --explain" in err) == (2, True)


def test_what_came_over_the_line_is_private_and_what_the_unit_says_is_not() -> None:
    """Every text of every signal: its own words, or masked."""
    for cls in typing.get_args(Signal):
        hints = typing.get_type_hints(cls)
        for each in dataclasses.fields(cls):
            if hints[each.name] in (str, str | None):
                shown = (cls.__name__, each.name) in {("DeviceLost", "reason"), ("DeviceReady", "detail")}
                assert private(each.name, "0300001234", cls.__name__) is not shown
                assert private(each.name, "YAMADA", cls.__name__) is not shown
    assert private("number", "+81300001234", "Caller") and private("raw", "110", "Dialled")
    assert not private("outcome", "answered", "Call") and not private("presentation", "withheld", "Caller")
    assert private("name", "田中", "Caller") and private("key", "5", "KeyHeard")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("0300001234", "••••••••34"), ("110", "•••"), ("03-0000-1234", "••-••••-••34"), ("SATO", "••••")],
)
def test_a_masked_number_keeps_two_digits(text: str, shown: str) -> None:
    assert masked_text(text) == shown


# -- journals without numbers


def without_numbers(call: Call) -> dict[str, Any]:
    record = call.to_dict()
    record["caller"] = {key: record["caller"][key] for key in ("presentation", "source", "sources")}
    record["heard"] = [{**heard, "raw": ""} for heard in record["heard"]]
    return {key: value for key, value in record.items() if key not in ("dialled", "marks")}


@pytest.mark.parametrize("scenario", ["shop-day", "answered-number-display", "us-answered", "outgoing-answered"])
def test_a_masked_journal_gives_the_same_calls_with_other_numbers(scenario: str, tmp_path: Path) -> None:
    journal = journal_of(scenario, tmp_path)
    copy = tmp_path / "masked.jsonl"
    copy.write_text("\n".join(masked(journal)) + "\n", encoding="utf-8")
    real, fictitious = ([save.call for save in replay(path)] for path in (journal, copy))
    assert [without_numbers(call) for call in fictitious] == [without_numbers(call) for call in real]
    numbers = {call.caller.raw for call in real if call.caller.raw}
    assert not numbers & {call.caller.raw for call in fictitious}
    text = copy.read_text(encoding="utf-8")
    assert not any(number in text for number in (*numbers, "YAMADA"))
    same = {(a.caller.raw, b.caller.raw) for a, b in zip(real, fictitious, strict=True)}
    assert len(same) == len({a for a, _ in same}), "the same number became the same"


def journal_with(
    directory: Path, edges: Sequence[LoopEdge | KeyHeard | CallerIdReceived], unwanted: tuple[str, ...] = ()
) -> Path:
    own = config(unwanted=unwanted)
    journal, reads = Journal(directory, [own]), Reads()
    line = Line(own, JournalledReads(journal, reads.call_id, reads.clock))
    engine = Engine({1: line}, journal, lambda command: None, lambda given: None, lambda: 0)
    for edge in edges:
        engine.take(edge)
    engine.advance(1000 * S)
    journal.close()
    return directory / "00000001.jsonl"


def keyed(keys: str, at_s: float) -> list[LoopEdge | KeyHeard | CallerIdReceived]:
    """A call that is dialled at at_s and hung up 30 s later."""
    at = round(at_s * S)
    heard = [
        KeyHeard(at_ns=at + S + n * S // 5, line=1, key=key, until_ns=at + S + n * S // 5 + S // 10)
        for n, key in enumerate(keys)
    ]
    begin, end = LoopEdge(at_ns=at, line=1, closed=True), LoopEdge(at_ns=at + 30 * S, line=1, closed=False)
    return [begin, *heard, end]


def called_by(number: str, at_s: float) -> list[LoopEdge | KeyHeard | CallerIdReceived]:
    at = round(at_s * S)
    caller = CallerIdReceived(
        at_ns=at,
        line=1,
        source="modem",
        presentation="allowed",
        number=number,
        name=None,
        date_raw=None,
        raw=number,
    )
    lift, end = LoopEdge(at_ns=at + S, line=1, closed=True), LoopEdge(at_ns=at + 30 * S, line=1, closed=False)
    return [caller, lift, end]


def test_a_masked_journal_records_whom_the_real_one_does(tmp_path: Path) -> None:
    """The list is compared with the number, however it is spelled or dialled."""
    given = keyed("0300001234", 10) + keyed("1860300009012", 60) + keyed("117", 110) + keyed("*21*0300009012#", 160)
    for n, number in enumerate(("0300009012", "+81300009012", "81300009012", "0451234567")):
        given += called_by(number, 210 + 50 * n)
    journal = journal_with(tmp_path, given, unwanted=("+81300009012", "117"))
    copy = tmp_path / "masked.jsonl"
    copy.write_text("\n".join(masked(journal)) + "\n", encoding="utf-8")
    real, fictitious = ([save.call for save in replay(path)] for path in (journal, copy))
    assert [without_numbers(call) for call in fictitious] == [without_numbers(call) for call in real]
    last = {call.call_id: call for call in fictitious}.values()
    unwanted = [call.no_recording == "do_not_record" for call in last]
    assert unwanted == [False, True, True, False, True, True, True, False]
    for of, instead in zip(real, fictitious, strict=True):
        assert of.caller.kind == instead.caller.kind and (of.dialled is None) == (instead.dialled is None)
        if of.dialled and instead.dialled:
            assert (of.dialled.number is None) == (instead.dialled.number is None)
            assert of.dialled.caller_id == instead.dialled.caller_id
    text = copy.read_text(encoding="utf-8") + repr(fictitious)
    assert not any(number in text for number in ("00009012", "00001234", "51234567", "'117'"))


def test_a_number_dialled_with_pulses_cannot_be_masked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edges: list[LoopEdge | KeyHeard] = [LoopEdge(at_ns=S, line=1, closed=True)]
    for n in range(5):
        edges.append(LoopEdge(at_ns=3 * S + n * S // 10, line=1, closed=False))
        edges.append(LoopEdge(at_ns=3 * S + n * S // 10 + S // 16, line=1, closed=True))
    edges.append(LoopEdge(at_ns=30 * S, line=1, closed=False))
    journal = journal_with(tmp_path, edges)
    code, out, err = run(capsys, "replay", "--masked", str(journal))
    assert (code, out, "dialled with pulses" in err) == (2, "", True)
    assert "•" in run(capsys, "replay", "--explain", str(journal))[1]
