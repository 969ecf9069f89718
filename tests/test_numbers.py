"""Numbers: E.164, national form, kind, area and dialled prefixes, beside the library that the tables come from."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneNumber, PhoneNumberFormat, PhoneNumberType, geocoder
from phonenumbers.geodata import GEOCODE_DATA

from drivers.signals import Country
from firmware.core import numbering
from firmware.core.numbers import (
    Dialled,
    Kind,
    Region,
    as_dialled,
    digits_of,
    e164,
    kind,
    national,
    region,
)
from provisioning import numbering as generator

KINDS: dict[int, Kind] = {
    PhoneNumberType.FIXED_LINE: "fixed",
    PhoneNumberType.MOBILE: "mobile",
    PhoneNumberType.FIXED_LINE_OR_MOBILE: "fixed_or_mobile",
    PhoneNumberType.TOLL_FREE: "toll_free",
    PhoneNumberType.PREMIUM_RATE: "premium",
    PhoneNumberType.SHARED_COST: "shared_cost",
    PhoneNumberType.VOIP: "voip",
    PhoneNumberType.PERSONAL_NUMBER: "personal",
    PhoneNumberType.PAGER: "pager",
    PhoneNumberType.UAN: "corporate",
    PhoneNumberType.VOICEMAIL: "voicemail",
    PhoneNumberType.UNKNOWN: "unknown",
}
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("digits", "country", "expected"),
    [
        ("0300001234", "jp", "+81300001234"),
        ("03-0000-1234", "jp", "+81300001234"),
        ("０３（００００）１２３４", "jp", "+81300001234"),
        ("81300001234", "jp", "+81300001234"),
        ("+81 3 0000 1234", "jp", "+81300001234"),
        ("010 81 3 0000 1234", "jp", "+81300001234"),
        ("0081300001234", "jp", "+81300001234"),
        ("09000001234", "jp", "+819000001234"),
        ("05000001234", "jp", "+815000001234"),
        ("0120000000", "jp", "+81120000000"),
        ("0570000000", "jp", "+81570000000"),
        ("01012025550123", "jp", "+12025550123"),
        ("0120", "jp", None),
        ("110", "jp", None),
        ("", "jp", None),
        (None, "jp", None),
        ("P", "jp", None),
        ("*0300001234", "jp", None),
        ("0900000123", "jp", None),  # a digit is missing
        ("030000123", "jp", None),
        ("03000012345", "jp", None),
        ("00112345678901", "jp", None),  # 001 may be a carrier: no guess
        ("12025550123", "jp", None),  # no prefix says that it is a foreign number
        ("+810300001234", "jp", None),
        ("00777012345", "jp", None),
        ("٠٣٠٠٠٠١٢٣٤", "jp", None),
        ("2025550123", "us", "+12025550123"),
        ("(202) 555-0123", "us", "+12025550123"),
        ("12025550123", "us", "+12025550123"),
        ("01181300001234", "us", "+81300001234"),
        ("5550123", "us", None),
        ("1025550123", "us", None),
        ("2021550123", "us", None),
        ("02079460000", "uk", "+442079460000"),
        ("442079460000", "uk", "+442079460000"),
        ("07700 900000", "uk", "+447700900000"),
        ("0081300001234", "uk", "+81300001234"),
        ("2079460000", "uk", None),
        ("0081300001234", "etsi", "+81300001234"),
        ("+442079460000", "etsi", "+442079460000"),
        ("02079460000", "etsi", None),
        ("442079460000", "etsi", None),
        ("+9991234567", "etsi", None),
        ("+1234567890123456", "etsi", None),
    ],
)
def test_e164_only_where_the_plan_leaves_no_doubt(digits: str | None, country: Country, expected: str | None) -> None:
    assert e164(digits, country) == expected


@pytest.mark.parametrize(
    ("number", "form", "sort", "area"),
    [
        ("+81300001234", "03-0000-1234", "fixed", ("東京", "Tokyo")),
        ("+81458000000", "045-800-0000", "fixed", ("横浜", "Yokohama, Kanagawa")),
        ("+81422200000", "0422-20-0000", "fixed", ("武蔵野三鷹", "Musashino-Mitaka, Tokyo")),
        ("+81499220000", "04992-2-0000", "fixed", ("伊豆大島", "Izu Oshima, Tokyo")),
        ("+819000001234", "090-0000-1234", "mobile", ("日本", "Japan")),
        ("+816000001234", "060-0000-1234", "mobile", ("日本", "Japan")),
        ("+815000001234", "050-0000-1234", "voip", ("日本", "Japan")),
        ("+81120000000", "0120-000-000", "toll_free", ("日本", "Japan")),
        ("+818000000000", "0800-000-0000", "toll_free", ("日本", "Japan")),
        ("+81570000000", "0570-000-000", "navi_dial", ("日本", "Japan")),
        ("+81990000000", "0990-000-000", "premium", ("日本", "Japan")),
        ("+12125550100", "(212) 555-0100", "fixed_or_mobile", ("アメリカ合衆国", "New York, NY")),
        ("+14165550100", "(416) 555-0100", "fixed_or_mobile", ("カナダ", "Ontario")),
        ("+18005550100", "(800) 555-0100", "toll_free", None),
        ("+442079460000", "020 7946 0000", "fixed", ("イギリス", "London")),
        ("+447700900000", "07700 900000", "mobile", ("イギリス", "United Kingdom")),
        ("+33123456789", "01 23 45 67 89", "fixed", ("フランス", "France")),
        ("+38349000000", "049 000 000", "mobile", ("コソボ", "Kosovo")),
        ("+80012345678", "1234 5678", "toll_free", None),
    ],
)
def test_a_number_for_people(number: str, form: str, sort: Kind, area: tuple[str, str] | None) -> None:
    assert e164(number, "jp") == number
    assert national(number) == form
    assert kind(number) == sort
    assert region(number) == area


def test_no_number_has_no_form() -> None:
    assert (national(None), kind(None), region(None)) == (None, "unknown", None)
    assert (national("0300001234"), kind("0300001234"), region("0300001234")) == (None, "unknown", None)


def test_at_home_an_area_is_told_and_the_country_is_not() -> None:
    assert region("+81300001234", "jp") == Region("東京", "Tokyo")
    assert region("+819000001234", "jp") is None
    assert region("+819000001234", "us") == Region("日本", "Japan")
    assert region("+819000001234", "etsi") == Region("日本", "Japan")


@pytest.mark.parametrize(
    ("keys", "country", "digits", "number", "caller_id", "carrier"),
    [
        ("0300001234", "jp", "0300001234", "+81300001234", None, None),
        ("1840300001234", "jp", "0300001234", "+81300001234", "withhold", None),
        ("186-0120-000-000", "jp", "0120000000", "+81120000000", "show", None),
        ("00330300001234", "jp", "0300001234", "+81300001234", None, "0033"),
        ("0091200300001234", "jp", "0300001234", "+81300001234", None, "009120"),
        ("002000300001234", "jp", "0300001234", "+81300001234", None, "00200"),
        ("12200330300001234", "jp", "0300001234", "+81300001234", None, "0033"),
        ("18400330300001234", "jp", "0300001234", "+81300001234", "withhold", "0033"),
        ("01012025550123", "jp", "01012025550123", "+12025550123", None, None),
        ("003301012025550123", "jp", "01012025550123", "+12025550123", None, "0033"),
        ("00101012025550123", "jp", "01012025550123", "+12025550123", None, "001"),
        ("0081300001234", "jp", "0081300001234", None, None, None),  # 00 leads abroad elsewhere
        ("00777012345", "jp", "00777012345", None, None, None),
        ("110", "jp", "110", None, None, None),
        ("184", "jp", "184", None, None, None),
        ("1841", "jp", "1", None, "withhold", None),
        ("#0000", "jp", "#0000", None, None, None),
        ("00330", "jp", "00330", None, None, None),
        ("", "jp", "", None, None, None),
        ("*672025550123", "us", "2025550123", "+12025550123", "withhold", None),
        ("118212025550123", "us", "12025550123", "+12025550123", "show", None),
        ("101028812025550123", "us", "12025550123", "+12025550123", None, "1010288"),
        ("01181300001234", "us", "01181300001234", "+81300001234", None, None),
        ("5550123", "us", "5550123", None, None, None),
        ("14102079460000", "uk", "02079460000", "+442079460000", "withhold", None),
        ("147002079460000", "uk", "02079460000", "+442079460000", "show", None),
        ("0081300001234", "etsi", "0081300001234", "+81300001234", None, None),
        ("1840300001234", "etsi", "1840300001234", None, None, None),
    ],
)
def test_prefixes_belong_to_what_was_dialled_and_not_to_the_number(
    keys: str, country: Country, digits: str, number: str | None, caller_id: str | None, carrier: str | None
) -> None:
    found = as_dialled(keys, country)
    assert isinstance(found, Dialled)
    assert found.raw == digits_of(keys)
    assert (found.digits, found.number, found.caller_id, found.carrier) == (digits, number, caller_id, carrier)


COUNTRY = st.sampled_from(["jp", "us", "uk", "etsi"])


@given(st.one_of(st.text("0123456789+*#-ABCD ", max_size=24), st.text(max_size=20)), COUNTRY)
def test_any_text_is_a_number_or_none_and_reading_it_again_changes_nothing(text: str, country: Country) -> None:
    number = e164(text, country)
    if number is not None:
        assert e164(number, country) == number
        assert e164("00" + number[1:], country) == number
        assert national(number)
        assert len(number) <= 16
    dialled = as_dialled(text, country)
    assert dialled.raw.endswith(dialled.digits)
    kind(dialled.number), region(dialled.number)


# 010 is what a foreign number is dialled with: its own country writes it in another way.
@given(st.from_regex(r"0(?:1[1-9]|[2-9][0-9])[0-9]{7,8}", fullmatch=True))
def test_the_national_form_is_read_as_the_same_number(digits: str) -> None:
    number = e164(digits, "jp")
    if number is not None:
        form = national(number)
        assert form is not None
        assert digits_of(form) == digits or form == number
        assert e164(form, "jp") == number


# -- beside the library


def drawn(main: str, code: str, count: int) -> list[tuple[str, PhoneNumber]]:
    """Numbers at every length: half with every first four digits, half with those of an area, at random beyond."""
    dice = random.Random(int(code))
    meta = phonenumbers.PhoneMetadata.metadata_for_region(main)
    assert meta is not None and meta.general_desc is not None
    lengths = [length for length in meta.general_desc.possible_length if length <= 10]
    areas = [prefix[len(code) :] for prefix in GEOCODE_DATA if prefix.startswith(code)]
    out = []
    for i in range(count):
        length = dice.choice(lengths)
        first = dice.choice(areas) if i % 2 else str(i // 2 % 9000 + 1000)
        rest = f"{first}{dice.randrange(10**12):012d}"[:length]
        out.append((f"+{code}{rest}", PhoneNumber(country_code=int(code), national_number=int(rest))))
    return out


@pytest.mark.parametrize(("main", "code"), [("JP", "81"), ("US", "1"), ("GB", "44")])
def test_thousands_of_numbers_are_what_the_library_says(main: str, code: str) -> None:
    """Deliberate differences, each asserted below; everything else is equal.

    - Japan's table of areas has English names for those that the library names in Japanese alone.
    - North America is told by area code, not by exchange.
    - Numbers that belong to nobody (03-0000-xxxx, 050-, 090-, 07700 900xxx) have their kind: documents use them.
    - What the library cannot format stays E.164.
    - Japan's UAN is the navi-dial service. 060 with nine digits (a service that has ended) is no number.
    - An exchange of North America cannot begin with 0 or 1.
    """
    numbers = drawn(main, code, 6_000)
    valid = 0
    for number, theirs in numbers:
        known = phonenumbers.is_valid_number(theirs)
        valid += known
        rest = number[len(code) + 1 :]
        if (main == "JP" and rest.startswith("60") and len(rest) == 9) or (main == "US" and rest[3] in "01"):
            assert e164(number, "etsi") is None
            continue
        if known:
            assert e164(number, "etsi") == number
        if not phonenumbers.is_possible_number(theirs):
            assert e164(number, "etsi") is None
        if e164(number, "etsi") is None:
            continue
        form = phonenumbers.format_number(theirs, PhoneNumberFormat.NATIONAL)
        assert national(number) == (form if form != rest else number)
        if not known:
            assert kind(number) == "unknown"
            continue
        sort = kind(number)
        assert ("corporate" if sort == "navi_dial" else sort) == KINDS[phonenumbers.number_type(theirs)], number
        area = region(number)
        japanese, english = (geocoder.description_for_number(theirs, language) for language in ("ja", "en"))
        if area is None:
            assert (japanese, english) == ("", ""), number
            continue
        assert area.ja == japanese, number
        if main == "US" and sort == "fixed_or_mobile" and "1" + rest[:3] in GEOCODE_DATA:
            assert area.en == GEOCODE_DATA["1" + rest[:3]]["en"], number
        elif main == "US":
            assert area.en == geocoder.country_name_for_number(theirs, "en"), number
        else:
            assert area.en == generator.AREAS.get(japanese) or area.en == english, number
    assert valid > 900


def test_the_whole_world_is_what_the_library_says() -> None:
    """Every region's example numbers of every kind, and each with a digit changed, cut and added."""
    dice = random.Random(1)
    seen = 0
    for at in sorted(phonenumbers.SUPPORTED_REGIONS):
        for sort in KINDS:
            example = phonenumbers.example_number_for_type(at, sort)
            if example is None:
                continue
            whole = phonenumbers.format_number(example, PhoneNumberFormat.E164)
            for number in (whole, whole[:-1], whole + "0", whole[:-1] + str(dice.randrange(10))):
                rest = number[len(str(example.country_code)) + 1 :]
                theirs = phonenumbers.PhoneNumber(
                    country_code=example.country_code,
                    national_number=int(rest),
                    italian_leading_zero=rest.startswith("0") or None,
                    number_of_leading_zeros=len(rest) - len(rest.lstrip("0")) or None,
                )
                ours = len(number) <= 16 and not (  # fifteen digits is E.164's limit
                    (at == "JP" and rest.startswith(("00", "60"))) or (example.country_code == 1 and len(rest) != 10)
                )
                if not ours or not phonenumbers.is_valid_number(theirs):
                    continue
                seen += 1
                assert e164(number, "etsi") == number
                form = phonenumbers.format_number(theirs, PhoneNumberFormat.NATIONAL)
                assert national(number) == form or (form == rest and national(number) == number)
                sort_here = kind(number)
                assert ("corporate" if sort_here == "navi_dial" else sort_here) == KINDS[
                    phonenumbers.number_type(theirs)
                ]
                if example.country_code not in (1, 44, 81) and at not in generator.COUNTRIES:
                    names = tuple(geocoder.country_name_for_number(theirs, language) for language in ("ja", "en"))
                    assert region(number) == (names if names[0] else None), number
    assert seen > 2000


def test_every_area_has_both_names() -> None:
    rows = numbering.AREAS["81"].split("\n")[1:-1]
    assert len(rows) > 1000
    for row in rows:
        prefix, _, names = row.partition(" ")
        ja, _, en = names.partition("=")
        assert prefix.startswith("81") and len(prefix) <= 9
        assert ja and en, row


def test_the_tables_are_those_of_the_pinned_library() -> None:
    assert generator.TARGET.read_text(encoding="utf-8") == generator.source(), "run: python provisioning/numbering.py"


def test_the_tables_cost_half_a_megabyte_and_the_library_is_not_loaded() -> None:
    said = subprocess.run(
        [sys.executable, "-c", _WEIGHED], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert int(said[0]) < 1_000_000
    assert said[1] == "False"


_WEIGHED = """
import dataclasses, re, sys, tracemalloc, typing, unicodedata
import firmware.core
tracemalloc.start()
from firmware.core import numbers
import gc
for digits in ("0300001234", "+12125550100", "+18765550100", "+442079460000", "+33123456789"):
    number = numbers.e164(digits, "jp")
    numbers.national(number), numbers.kind(number), numbers.region(number)
gc.collect()
print(tracemalloc.get_traced_memory()[0], "phonenumbers" in sys.modules)
"""
