"""The language of scenarios: what it takes, and the sentence for what it does not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.virtual import scenario as story
from drivers.virtual.scenario import ScenarioError, load, parse
from firmware.core.call import Call, ClockRead
from firmware.simulate import facts_of

SCENARIOS = Path(__file__).parent / "scenarios"
HERE = SCENARIOS / "a.txt"
SECOND = 1_000_000_000
FICTITIOUS = ("030000", "0900000", "21255501", "02079460")

EVERYTHING = r"""
title  Everything   # a comment
country jp
number display
start  2026-11-24 09:00:00 +09:00
modem  none
# another
0      already off-hook
1      hang up
+1.5   call from 03-0000-1234 name "YAMADA TARO"
1:05   lift
+0.25  shop says greeting
+0     far says en-order
+1     flash 0.6
+1     dial *21-#
+1     press button
+1     modem sends "NAME\x81 # \"\r\n"   # not in the text
+0     lose audio 0.5
+0     unplug codec
+0     plug codec
+0     cut line
+0     restore line
+0     stop broker
+0     start broker
+0     power cut
end    2:00
expect calls 1
expect call 1 outcome=answered name="YAMADA TARO"
expect call 1 rings=2
expect events call.ringing recording.ready
"""


def test_everything() -> None:
    got = parse(EVERYTHING, HERE)
    assert (got.title, got.country, got.number_display, got.modem) == ("Everything", "jp", True, None)
    assert got.at_start == "off-hook"
    assert got.start.isoformat() == "2026-11-24T09:00:00+09:00"
    assert got.end_ns == 120 * SECOND
    actions = [step.action for step in got.steps]
    assert actions[1] == story.Call(presentation="allowed", number="0300001234", name="YAMADA TARO")
    assert got.steps[1].at_ns == 2_500_000_000
    assert got.steps[2].at_ns == 65 * SECOND
    assert got.steps[3].at_ns == 65_250_000_000
    assert [a.sound.stem for a in actions if isinstance(a, story.Say)] == ["ja-greeting", "en-order"]
    assert story.Flash(duration_ns=600_000_000) in actions
    assert story.Dial(keys="*21#") in actions
    assert story.ModemSends(raw=b'NAME\x81 # "\r\n') in actions
    assert story.Break(device="power", action="cut") in actions
    assert got.expects.calls == 1
    assert got.expects.call == {1: {"outcome": "answered", "name": "YAMADA TARO", "rings": "2"}}
    assert got.expects.events == ("call.ringing", "recording.ready")


def test_defaults() -> None:
    got = parse("title Short\n1 lift\n+1:00 hang up", HERE)
    assert got.end_ns == 73 * SECOND
    assert got.start.utcoffset() == timedelta(hours=9)
    assert (got.country, got.number_display, got.modem) == ("jp", False, "conexant")
    assert got.expects == story.Expects()


def test_examples_of_all_actions() -> None:
    """Every example that a sentence may show is understood."""
    before = {
        "give up": "1 call no-id",
        "hang up": "1 lift",
        "flash": "1 lift",
        "dial": "1 lift",
        "far answers": "1 lift\n2 dial 1",
        "hang up second phone": "1 lift second phone",
        "pulse": "1 lift",
        "second dial tone": "1 lift",
        "far is busy": "1 lift\n2 dial 1",
        "far hangs up": "1 call no-id\n2 lift",
        "call waiting from": "1 call no-id\n2 lift",
        "call waiting withheld": "1 call no-id\n2 lift",
        "call waiting no-id": "1 call no-id\n2 lift",
        "already in handshake": "number display",
        "plug modem": "1 unplug modem",
        "plug codec": "1 unplug codec",
        "restore line": "1 cut line",
        "start broker": "1 stop broker",
    }
    for action, (example, _) in story.ACTIONS.items():
        at = "0" if action.startswith("already") else "3"
        assert example.startswith(action)
        parse(f"title x\n{before.get(action, '')}\n{at} {example}", HERE)


@pytest.mark.parametrize(
    ("text", "line", "what", "how"),
    [
        ("titel x", 1, "'titel' is unknown", "write 'title'"),
        ("2 lfit", 1, "'lfit' is unknown", "write 'lift'"),
        ("2 call frm 03", 1, "'call frm' is unknown", "write 'call from'"),
        ("2", 1, "the action is missing", "use one of"),
        ("2 xyzzy", 1, "'xyzzy' is unknown", "use one of: already cut, already in handshake"),
        ("lift", 1, "'lift' has no time", "'+2  lift'"),
        ("1:70 lift", 1, "'1:70' is not a time", "1:05"),
        ("2x lift", 1, "'2x' is not a time", "2.5"),
        ("2 lift\n1 hang up", 2, "1 comes before the step above it", "write 2 or more"),
        ("2 lift\n\n# and\n+1 lift", 4, "the handset is up already", "write 'hang up'"),
        ("2 hang up", 1, "the handset is down already", "write 'lift'"),
        ("2 flash 0.6", 1, "the handset is down", "write 'lift'"),
        ("2 lift\n3 flash 2", 2, "'2' is no duration here", "from 0.02 to 1.2, as in 'flash 0.6'"),
        ("2 lift\n3 flash 1\n+0.5 hang up", 3, "the flash or the pulses before it are not over", "wait until 4"),
        ("2 call from YAMADA", 1, "'YAMADA' is no number", "as 03-0000-1234"),
        ("2 call from 03-0000-1234 YAMADA", 1, "'YAMADA' is too much", "end the line"),
        ("2 call withheld name", 1, "the name is missing", 'name "YAMADA"'),
        ("2 lift\n3 call no-id", 2, "the line is still busy", "1.25 s after"),
        ("2 lift\n3 hang up\n+1 call no-id", 3, "the line is still busy", "1.25 s after"),
        ("2 give up", 1, "nobody is ringing", "far hangs up"),
        ("2 far answers", 1, "nobody was dialled", "dial"),
        ("2 far hangs up", 1, "nobody is connected", "give up"),
        ("2 lift\n3 dial abc", 2, "'abc' cannot be dialled", "0-9"),
        ("2 shop says greting", 1, "there is no voice 'greting'", "write 'greeting'"),
        ("2 caller says none.wav", 1, "'none.wav' cannot be read (there is no such file)", "beside the scenario"),
        ("2 caller says answered.txt.wav\n", 1, "'answered.txt.wav' cannot be read", "WAV or FLAC"),
        ("2 plug modem", 1, "the modem is there already", "'unplug modem'"),
        ("2 cut line\n3 cut line", 2, "the line is away already", "leave this second cut out"),
        ("2 modem sends RING", 1, "the bytes are missing", "modem sends"),
        ('2 modem sends "RING', 1, "a quote is not closed", "around the whole text"),
        (r'2 modem sends "\q"', 1, "is unknown", r"\r \n"),
        ('2 modem sends "着"', 1, "is no byte", r"\x"),
        ("2 already off-hook", 1, "something can be so already at the start only", "at 0"),
        ("2 call from 03-0000-1234 noisy", 1, "the noise is missing", "write noisy 12"),
        ("2 call from 03-0000-1234 distinctive", 1, "a distinctive ring exists in the country us only", "leave"),
        ("country us\n2 call payphone", 2, "this reason exists in Japan only", "write call withheld"),
        ("country etsi\ncaller id dtmf\n2 call withheld damaged", 3, "is no frame", "leave 'damaged'"),
        ("2 call waiting no-id", 1, "nobody is connected", "in a call"),
        ("2 primary answer 9", 1, "'9' is no duration here", "from 0.2 to 5.9"),
        ("2 lift\n3 pulse 1*", 2, "cannot be pulsed", "digits of 0-9"),
        ("2 lift\n3 pulse 12 at 30", 2, "is no speed of a dial", "at 10 or at 20"),
        ("2 lift\n3 pulse 000\n+1 hang up", 3, "the flash or the pulses before it are not over", "wait until"),
        ("2 lift second phone\n3 flash 0.6", 2, "the first phone's handset is down", "write 'lift'"),
        ("country us\n2 lift\n3 second dial tone", 3, "the second dial tone is Japan's", "leave it out"),
        ("2 lift\n3 far is busy", 2, "nobody was dialled", "dial"),
        ("0 already ringing\n0 already cut", 2, "already at the start only", "first, at 0"),
        ("0 already in handshake 03-0000-1234", 1, "the line has no Number Display", "above it"),
        ("idle 99 V", 1, "'99 V' is no voltage of an idle line", "idle 24 V"),
        ("caller id morse", 1, "'morse' is no form of caller ID", "mdmf or sdmf"),
        ("title x\ncaller id dtmf", 2, "'dtmf' does not exist in jp", "number display"),
        ("title a\ntitle b", 2, "'title' is given twice", "leave one"),
        ("title", 1, "'title' has no value", "behind it"),
        ("country jpn", 1, "'jpn' is no country here", "write 'jp'"),
        ("2 lift\ncountry us", 2, "the country comes too late", "before the first step"),
        ("title x\ncountry us\nnumber display", 3, "Number Display exists in Japan only", "country jp"),
        ("start 2026-11-24 09:00:00", 1, "is no date and time", "+09:00"),
        ("modem Big Modem", 1, "'Big Modem' is no modem", "conexant"),
        ("title x\n9 lift\nend 5", 3, "the end comes before the last step", "write end 9"),
        ("2 lift", 1, "the title is missing", "title  What"),
        ("expect cals 1", 1, "'expect cals 1' says nothing new", "expect calls 1"),
        ("expect call 1 rings", 1, "'rings' is no new fact", "rings=2"),
        ("expect call 1 rings=1 rings=2", 1, "'rings=2' is no new fact", "rings=2"),
        ("expect call 1 xyzzy=3", 1, "'xyzzy' is no fact of a call", "use one of: answered, dialled"),
        ("expect call 1 ring=3", 1, "'ring' is no fact of a call", "write 'rings'"),
        ("expect call 1 ended=abc", 1, "'ended=abc' can never be met", "write seconds, or none after ended="),
        ("expect call 1 rings=2.5", 1, "'rings=2.5' can never be met", "write a whole number"),
        ("expect call 1 recording=none", 1, "'recording=none' can never be met", "write yes or no"),
        (f"expect calls {'9' * 5000}", 1, "says nothing new", "expect calls 1"),
        ("99999999999999 lift", 1, "that is too late", "366 days at most"),
        (f"{'9' * 5000} lift", 1, "is not a time", "2.5"),
        ("5000:00:00 lift\n+5000:00:00 hang up", 2, "that is too late", "366 days at most"),
        ("start 9999-12-31 09:00:00 +09:00", 1, "is no date and time", "+09:00"),
        ("start 0001-01-01 00:00:00 +09:00", 1, "is no date and time", "+09:00"),
        ("expect events ringing", 1, "'ringing' is no event", "call.ringing"),
        ("title x\nexpect calls 1\nexpect call 2 rings=1", 3, "call 2 is expected of 1 calls", "agree"),
    ],
)
def test_mistakes_are_sentences(text: str, line: int, what: str, how: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(text, HERE)
    sentence = str(caught.value)
    assert sentence.startswith(f"{HERE}:{line}: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    before, _, after = sentence.partition("; ")
    assert what in before
    assert how in after


def test_the_simulation_knows_every_fact() -> None:
    call = Call(
        call_id="c",
        line=1,
        direction=None,
        boot_id="b",
        clock=ClockRead(mono_ns=0, wall_ns=0, state="ntp"),
        opened_ns=0,
    )
    facts = facts_of(call.to_dict(), 0)
    assert set(facts) == set(story.FACTS)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot be read"):
        load(tmp_path / "none.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(ScenarioError, match="UTF-8"):
        load(tmp_path / "a.txt")


@given(st.text())
def test_any_text_is_a_scenario_or_a_sentence(text: str) -> None:
    try:
        parse(text, HERE)
    except ScenarioError as error:
        assert str(error).endswith(".")


@given(st.lists(st.sampled_from([word for line in EVERYTHING.splitlines() for word in [*line.split(), "\n"]])))
def test_any_words_are_a_scenario_or_a_sentence(words: list[str]) -> None:
    try:
        parse(" ".join(words), HERE)
    except ScenarioError as error:
        assert str(error).endswith(".")


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.txt")), ids=lambda path: path.stem)
def test_shipped_scenarios(path: Path) -> None:
    scenario = load(path)
    assert scenario.expects.calls is not None
    assert set(scenario.expects.call) == set(range(1, scenario.expects.calls + 1))
    for step in scenario.steps:
        match step.action:
            case story.Call(number=digits) | story.Waiting(call=story.Call(number=digits)):
                pass
            case story.Dial(keys=digits) | story.Pulse(digits=digits):
                digits = digits.removeprefix("186")
            case _:
                digits = None
        # Anything shorter is no number: a menu's keys, a prefix.
        assert digits is None or len(digits) < 6 or digits.startswith(FICTITIOUS), "fictitious numbers only"
