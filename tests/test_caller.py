"""One caller from all evidence; the list of numbers that are not recorded."""

from __future__ import annotations

import dataclasses
import itertools
import json
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.signals import CallerIdReceived, CallerIdSource, Country, Presentation
from firmware.core.caller import Caller, Disagreement, listed, merge, parse_list
from firmware.core.numbers import as_dialled, digits_of, e164

PRESENTATIONS = typing.get_args(Presentation)
SOURCES = typing.get_args(CallerIdSource)


def said(
    source: CallerIdSource = "line_fsk",
    number: str | None = None,
    presentation: Presentation | None = None,
    *,
    at_ns: int = 0,
    name: str | None = None,
    called: str | None = None,
    redirecting: str | None = None,
) -> CallerIdReceived:
    return CallerIdReceived(
        at_ns=at_ns,
        line=1,
        source=source,
        presentation=presentation or ("allowed" if number else "unavailable"),
        number=number,
        name=name,
        date_raw=None,
        raw="",
        called=called,
        redirecting=redirecting,
    )


def merged(*evidence: CallerIdReceived, country: Country = "jp") -> Caller:
    """The caller, which is the same in every order."""
    found = {merge(order, country) for order in itertools.permutations(evidence)}
    assert len(found) == 1
    return found.pop()


def test_of_nothing_nothing_was_received() -> None:
    assert merge((), "jp") == Caller()
    assert (Caller().presentation, Caller().reason, Caller().source) == ("not_received", "not_received", None)


def test_a_number_has_all_its_forms() -> None:
    assert merged(said("modem", "0300001234", name="タナカ", called="0300009999")) == Caller(
        presentation="allowed",
        reason=None,
        number="+81300001234",
        raw="0300001234",
        national="03-0000-1234",
        region_ja="東京",
        region_en="Tokyo",
        kind="fixed",
        name="タナカ",
        source="modem",
        sources=("modem",),
        called="0300009999",
    )


def test_digits_that_are_no_number_are_kept_as_received() -> None:
    caller = merged(said("modem", "21"))
    assert (caller.presentation, caller.reason, caller.raw) == ("allowed", None, "21")
    assert (caller.number, caller.national, caller.region_ja, caller.kind) == (None, None, None, None)


@pytest.mark.parametrize("presentation", [p for p in PRESENTATIONS if p != "allowed"])
def test_no_number_has_its_reason(presentation: Presentation) -> None:
    caller = merged(said("line_fsk", presentation=presentation))
    assert (caller.presentation, caller.reason) == (presentation, presentation)
    assert (caller.number, caller.raw, caller.kind) == (None, None, None)
    assert caller.sources == ("line_fsk",)


@pytest.mark.parametrize("other", ["0300001234", "03-0000-1234", "81300001234", "+81300001234", "010 81 3 0000 1234"])
def test_the_same_number_in_other_spelling_is_agreement(other: str) -> None:
    caller = merged(said("line_fsk", "0300001234"), said("modem", other, name="TANAKA"))
    assert (caller.number, caller.raw, caller.source) == ("+81300001234", "0300001234", "line_fsk")
    assert caller.sources == ("line_fsk", "modem")
    assert caller.disagreement == ()
    assert caller.name == "TANAKA"


def test_the_frame_beats_the_modem_and_the_modem_beats_keys() -> None:
    fsk, modem, dtmf = said("line_fsk", "0300001234"), said("modem", "0300001235"), said("line_dtmf", "0300001236")
    caller = merged(fsk, modem, dtmf)
    assert (caller.raw, caller.source, caller.sources) == ("0300001234", "line_fsk", ("line_fsk",))
    assert caller.disagreement == (
        Disagreement(source="modem", presentation="allowed", raw="0300001235"),
        Disagreement(source="line_dtmf", presentation="allowed", raw="0300001236"),
    )
    caller = merged(modem, dtmf)
    assert (caller.raw, caller.source) == ("0300001235", "modem")


def test_one_against_two_still_wins_and_both_are_told() -> None:
    caller = merged(said("line_fsk", "0300001234"), said("modem", "0300001235"), said("line_dtmf", "0300001235"))
    assert caller.raw == "0300001234"
    assert [other.source for other in caller.disagreement] == ["modem", "line_dtmf"]


def test_withheld_against_a_number_is_the_better_source_s() -> None:
    withheld = said("line_fsk", presentation="withheld")
    caller = merged(withheld, said("modem", "0300001234", name="TANAKA"))
    assert (caller.presentation, caller.number, caller.raw, caller.name) == ("withheld", None, None, None)
    assert caller.disagreement == (Disagreement(source="modem", presentation="allowed", raw="0300001234"),)
    caller = merged(said("line_fsk", "0300001234"), said("modem", presentation="withheld"))
    assert caller.number == "+81300001234"
    assert caller.disagreement == (Disagreement(source="modem", presentation="withheld", raw=None),)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("good", ["allowed", "withheld", "not_received"])
def test_corrupt_loses_to_anything_and_is_told(source: CallerIdSource, good: Presentation) -> None:
    number = "0300001234" if good == "allowed" else None
    caller = merged(said("line_fsk", presentation="corrupt"), said(source, number, good))
    assert (caller.presentation, caller.source) == (good, source)
    assert caller.disagreement == (Disagreement(source="line_fsk", presentation="corrupt", raw=None),)


def test_corrupt_alone_is_no_number() -> None:
    caller = merged(said("line_fsk", presentation="corrupt"), said("modem", presentation="corrupt"))
    assert (caller.presentation, caller.reason, caller.number) == ("corrupt", "corrupt", None)
    assert caller.sources == ("line_fsk", "modem")


def test_a_name_alone_contradicts_nobody() -> None:
    caller = merged(said("line_fsk", presentation="allowed", name="TANAKA"), said("modem", "0300001234"))
    assert (caller.number, caller.name, caller.source) == ("+81300001234", "TANAKA", "modem")
    assert caller.disagreement == ()


def test_of_one_source_the_last_word_stands_and_the_first_is_told() -> None:
    caller = merged(said("modem", "0300001234", at_ns=1), said("modem", "0300001235", at_ns=2))
    assert caller.raw == "0300001235"
    assert caller.disagreement == (Disagreement(source="modem", presentation="allowed", raw="0300001234"),)


def test_what_only_the_lesser_source_tells_is_taken_where_they_agree() -> None:
    caller = merged(said("line_fsk", "0300001234"), said("modem", "0300001234", redirecting="0300000000", name="A"))
    assert (caller.redirecting, caller.name) == ("0300000000", "A")
    caller = merged(said("line_fsk", "0300001234"), said("modem", "0300001235", redirecting="0300000000", name="A"))
    assert (caller.redirecting, caller.name) == (None, None)


NUMBERS = ("0300001234", "03-0000-1234", "81300001234", "+81300001234", "09000001234", "2025550123", "21", "")


@st.composite
def messages(draw: st.DrawFn) -> CallerIdReceived:
    """Any message that keeps the signal's promise: a number only where it is allowed, nothing in a corrupt one."""
    presentation: Presentation = draw(st.sampled_from(PRESENTATIONS))
    number = draw(st.sampled_from((None, *NUMBERS))) if presentation == "allowed" else None
    text = st.sampled_from((None, "A", "B")) if presentation != "corrupt" else st.none()
    return said(
        draw(st.sampled_from(SOURCES)),
        number,
        presentation,
        at_ns=draw(st.integers(0, 2)),
        name=draw(text),
        called=draw(text),
        redirecting=draw(text),
    )


COUNTRIES = st.sampled_from(typing.get_args(Country))


@given(st.lists(messages(), min_size=1, max_size=5), COUNTRIES, st.randoms())
def test_the_order_of_arrival_does_not_matter(
    evidence: list[CallerIdReceived], country: Country, dice: typing.Any
) -> None:
    caller = merge(evidence, country)
    shuffled = list(evidence)
    dice.shuffle(shuffled)
    assert merge(shuffled, country) == caller


@given(st.lists(messages(), max_size=5), COUNTRIES)
def test_a_caller_is_sound_and_survives_the_way_to_json_and_back(
    evidence: list[CallerIdReceived], country: Country
) -> None:
    caller = merge(evidence, country)
    assert Caller.from_dict(json.loads(json.dumps(dataclasses.asdict(caller)))) == caller
    assert caller.presentation in {one.presentation for one in evidence} | ({"not_received"} if not evidence else set())
    assert (caller.reason is None) == (caller.presentation == "allowed")
    if caller.presentation != "allowed":
        assert (caller.number, caller.raw, caller.national, caller.kind) == (None, None, None, None)
    if any(one.presentation != "corrupt" for one in evidence):
        assert caller.presentation != "corrupt"
    assert (caller.number is None) == (caller.national is None) == (caller.kind is None)
    assert caller.number == e164(caller.raw, country)
    assert caller.source == (caller.sources[0] if caller.sources else None)
    assert {caller.presentation, *(other.presentation for other in caller.disagreement)} <= {
        one.presentation for one in evidence
    } | {"not_received"}


# -- numbers that are not recorded


def test_the_list_is_read_by_the_line_s_country() -> None:
    entries = ("03-0000-1234", "+81 90 0000 1234", "0300001234", "２１", "#9")
    assert parse_list(entries, "jp") == ("#9", "+81300001234", "+819000001234", "21")
    assert parse_list(("202-555-0123",), "us") == ("+12025550123",)
    assert parse_list(("0123456789",), "etsi") == ("0123456789",)


LISTED = parse_list(("03-0000-1234", "+819000001234", "21"), "jp")


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ("0300001234", True),
        ("81300001234", True),
        ("010819000001234", True),
        ("21", True),
        ("0300001235", False),
        ("300001234", False),
        ("210", False),
        ("", False),
    ],
)
def test_a_caller_is_found_in_every_spelling(raw: str, found: bool) -> None:
    assert listed(merge((said("modem", raw or None),), "jp"), LISTED) is found


def test_nobody_is_not_listed() -> None:
    assert not listed(Caller(), LISTED)
    assert not listed(merge((said("modem", presentation="withheld"),), "jp"), LISTED)
    assert not listed(merge((said("modem", "0300001234"),), "jp"), ())


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ("0300001234", True),
        ("1840300001234", True),
        ("00330300001234", True),
        ("21", True),
        ("18621", True),
        ("0300001235", False),
        ("", False),
    ],
)
def test_a_dialled_number_is_found_behind_its_prefixes(keys: str, found: bool) -> None:
    assert listed(as_dialled(keys, "jp"), LISTED) is found


@given(st.sampled_from(NUMBERS[:-1]), COUNTRIES)
def test_a_number_that_is_listed_as_it_is_received_is_found(raw: str, country: Country) -> None:
    assert listed(merge((said("line_fsk", raw),), country), parse_list((raw,), country))
    assert listed(as_dialled(raw, country), parse_list((raw,), country)) or digits_of(raw).startswith("+")
