"""Telephone numbers: E.164 for machines, the national form and the area for people. Pure.

A number that the numbering plan cannot hold is None, never a guess. What "E.164" is passed here came from e164().
"""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

from drivers.signals import Country
from firmware.core.numbering import AREAS, CALLING_CODES, COUNTRIES, PLANS

Kind = Literal[
    "fixed",
    "mobile",
    "fixed_or_mobile",
    "voip",
    "toll_free",
    "navi_dial",
    "shared_cost",
    "premium",
    "personal",
    "pager",
    "corporate",
    "voicemail",
    "unknown",
]


class Region(NamedTuple):
    """Where a number belongs: an area such as 東京, Tokyo, else the country."""

    ja: str
    en: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialled:
    """What was dialled. The prefixes belong to the keys, not to the number."""

    raw: str  # all keys
    digits: str  # without the prefixes below
    number: str | None  # digits as E.164; None: a short number such as 110, or none
    caller_id: Literal["withhold", "show"] | None = None
    carrier: str | None = None


class _Home(NamedTuple):
    calling_code: str
    trunk: str  # what a national number begins with
    abroad: str  # what is dialled before a foreign number
    withhold: str  # what is dialled before a number to withhold one's own
    show: str
    carrier: str  # pattern of a carrier's prefix


_HOME: dict[Country, _Home] = {
    "jp": _Home("81", "0", "010", "184", "186", r"(?:122)?(00(?:2\d\d|91\d\d|[3-9]\d|1))(?=0[1-9])"),
    "us": _Home("1", "", "011", r"\*67|1167", r"\*82|1182", r"(101\d{4})"),
    "uk": _Home("44", "0", "00", "141", "1470", r"(?!)"),
}
# Digits as an exchange presents them: every country's prefix of foreign numbers may stand there.
_SEPARATORS = re.compile(r"[\s()./\u00b7\u30fb\u2010-\u2015\u2212\u30fc-]+")
_MOST_DIGITS = 15
_LONGEST_AREA = 9  # digits by which an area is told, the calling code among them


def digits_of(text: str) -> str:
    """Digits, * and # and a leading + as they are keyed: separators gone, full-width forms made plain."""
    return _SEPARATORS.sub("", unicodedata.normalize("NFKC", text))


def e164(digits: str | None, country: Country) -> str | None:
    """Digits as received or typed: national, with the home calling code, or foreign after +, 00 or the home prefix."""
    home = _HOME.get(country)
    return _read(digits_of(digits or ""), home, ("00", home.abroad) if home else ("00",))


def _read(digits: str, home: _Home | None, abroad: tuple[str, ...]) -> str | None:
    if digits.startswith("+"):
        return _checked(digits[1:])
    for prefix in abroad:
        if digits.startswith(prefix):
            return _checked(digits[len(prefix) :])
    if home is None:
        return None
    if home.trunk:
        if digits.startswith(home.trunk):
            return _checked(home.calling_code + digits[len(home.trunk) :])
    elif len(digits) == 10:
        return _checked(home.calling_code + digits)
    return _checked(digits) if digits.startswith(home.calling_code) else None


def _checked(digits: str) -> str | None:
    """Calling code and national number as E.164, where the plan has room for such a number."""
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > _MOST_DIGITS:
        return None
    code, rest = split("+" + digits)
    for region in CALLING_CODES.get(code, "").split():
        plan = _plan(region)
        if str(len(rest)) in plan.lengths and re.fullmatch(plan.possible, rest):
            return "+" + digits
    return None


def national(number: str | None) -> str | None:
    """An E.164 number as people of its country write it: 03-0000-1234, (212) 555-0100. As it is where they do not."""
    code, rest = split(number)
    if not code:
        return None
    for pattern, leading, form in _plan(CALLING_CODES[code].split()[0]).forms:
        if re.match(leading, rest) and (found := re.fullmatch(pattern, rest)):
            return found.expand(form)
    return number


def kind(number: str | None) -> Kind:
    """What sort of number an E.164 number is; "unknown": of a block given out after the tables were made."""
    region = _region_code(number)
    if region is None:
        return "unknown"
    return _kind(_plan(region), split(number)[1])


def region(number: str | None, home: Country | None = None) -> Region | None:
    """Where an E.164 number belongs; None: to no country or to several. With home: None rather than that country."""
    code, rest = split(number)
    at = _region_code(number)
    if number is None or at not in COUNTRIES:
        return None
    names = Region(*COUNTRIES[at].split("="))
    if code in AREAS and kind(number) in ("fixed", "fixed_or_mobile"):
        for end in range(_LONGEST_AREA, len(code), -1):
            _, found, row = AREAS[code].partition(f"\n{number[1 : end + 1]} ")
            if found:
                ja, equals, en = row[: row.index("\n")].partition("=")
                return Region(ja, en) if equals else Region(names.ja, ja)
    if home in _HOME and code == _HOME[home].calling_code:
        return None
    regions = CALLING_CODES[code].split()
    return names if sum(_kind(_plan(one), rest) != "unknown" for one in regions) < 2 else None


def as_dialled(keys: str, country: Country) -> Dialled:
    """Keys as dialled, the prefixes for one's own number and for the carrier taken off where a number follows."""
    raw = digits = digits_of(keys)
    home = _HOME.get(country)
    if home is None:
        return Dialled(raw=raw, digits=digits, number=_read(digits, None, ("00",)))
    caller_id: Literal["withhold", "show"] | None = None
    carrier: str | None = None
    if found := re.match(f"(?:({home.withhold})|({home.show}))(?=.)", digits):
        caller_id = "withhold" if found[1] else "show"
        digits = digits[found.end() :]
    number = _read(digits, home, (home.abroad,))
    if number is None and (found := re.match(home.carrier, digits)):
        beyond = _read(digits[found.end() :], home, (home.abroad,))
        if beyond:
            number, carrier, digits = beyond, found[1], digits[found.end() :]
    return Dialled(raw=raw, digits=digits, number=number, caller_id=caller_id, carrier=carrier)


class _Plan(NamedTuple):
    lengths: tuple[str, ...]
    possible: str
    leading: str | None  # the first digits that tell this region from others of its calling code
    kinds: tuple[tuple[str, str], ...]
    forms: tuple[tuple[str, str, str], ...]  # pattern, leading digits, format


@functools.lru_cache(maxsize=32)
def _plan(region: str) -> _Plan:
    lines = PLANS[region].split("\n")
    rows = dict(line.split(" ", 1) for line in lines if line[0] != "=")
    forms = (cast(tuple[str, str, str], tuple(line[1:].split("\t"))) for line in lines if line[0] == "=")
    return _Plan(
        lengths=tuple(rows.pop("lengths").split("|")),
        possible=rows.pop("possible"),
        leading=rows.pop("leading", None),
        kinds=tuple(rows.items()),
        forms=tuple(forms),
    )


def _kind(plan: _Plan, rest: str) -> Kind:
    found = [name for name, pattern in plan.kinds if re.fullmatch(pattern, rest)]
    if found[:2] == ["fixed", "mobile"]:
        return "fixed_or_mobile"
    return cast(Kind, found[0]) if found else "unknown"


def split(number: str | None) -> tuple[str, str]:
    """Calling code and national number of an E.164 number; ("", "") where there is none."""
    if number is not None and number.startswith("+"):
        for end in (2, 3, 4):
            if number[1:end] in CALLING_CODES:
                return number[1:end], number[end:]
    return "", ""


def _region_code(number: str | None) -> str | None:
    """The region of an E.164 number, or its calling code; None: the code is shared and no region has the number."""
    code, rest = split(number)
    regions = CALLING_CODES.get(code, "").split()
    if len(regions) == 1:
        return regions[0]
    for region in regions:
        plan = _plan(region)
        if plan.leading is not None:
            if re.match(plan.leading, rest):
                return region
        elif _kind(plan, rest) != "unknown":
            return region
    return None
