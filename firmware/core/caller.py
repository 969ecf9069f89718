"""Who called: one caller from all evidence. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from drivers.signals import CallerIdReceived, CallerIdSource, Country, Presentation
from firmware.core.numbers import Dialled, Kind, digits_of, e164, kind, national, region

Reason = Literal["withheld", "unavailable", "payphone", "service_conflict", "not_received", "corrupt"]

# A frame with a good checksum heard on the line beats the modem's text, and that beats keys without any checksum.
_BEST_FIRST: tuple[CallerIdSource, ...] = ("line_fsk", "modem", "line_dtmf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """What a source said that was not believed. raw: the digits it gave."""

    source: CallerIdSource
    presentation: Presentation
    raw: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who called, and who says so. The number is None unless presentation is "allowed"."""

    presentation: Presentation = "not_received"
    reason: Reason | None = "not_received"  # why there is no number; None when presentation is "allowed"
    number: str | None = None  # E.164; None also where raw is no number of the numbering plan
    raw: str | None = None  # digits as received
    national: str | None = None
    region_ja: str | None = None
    region_en: str | None = None
    kind: Kind | None = None
    name: str | None = None
    source: CallerIdSource | None = None  # the best that said so
    sources: tuple[CallerIdSource, ...] = ()  # all that said so, best first
    disagreement: tuple[Disagreement, ...] = ()
    called: str | None = None  # which of the subscriber's numbers was dialled, as received
    redirecting: str | None = None  # who forwarded the call, as received

    @staticmethod
    def from_dict(doc: Mapping[str, Any]) -> Caller:
        """The caller that dataclasses.asdict() wrote down."""
        tuples = {
            "sources": tuple(doc["sources"]),
            "disagreement": tuple(Disagreement(**other) for other in doc["disagreement"]),
        }
        return Caller(**{**doc, **tuples})


def of_number(digits: str | None, country: Country) -> Caller:
    """Somebody by his number, national or with +."""
    number = e164(digits, country)
    where = region(number, country)
    return Caller(
        presentation="allowed",
        reason=None,
        number=number,
        raw=digits or None,
        national=national(number),
        region_ja=where.ja if where else None,
        region_en=where.en if where else None,
        kind=kind(number) if number else None,
    )


def merge(evidence: Sequence[CallerIdReceived], country: Country) -> Caller:
    """One caller from all messages about one call, in whatever order they came.

    The best source stands, and of one source its last word; a corrupt message loses to any other. What agrees in other
    spelling agrees.
    """
    if not evidence:
        return Caller()
    ranked = sorted(evidence, key=_rank)
    best = ranked[0]
    said = _said(best, country)
    agree = [one for one in ranked if _said(one, country) == said]
    others = [one for one in ranked if _said(one, country) != said]
    presentation = best.presentation
    return replace(
        of_number(best.number, country),
        presentation=presentation,
        reason=None if presentation == "allowed" else presentation,
        name=_first(one.name for one in agree) or _first(one.name for one in others if not _tells(one)),
        source=best.source,
        sources=tuple(dict.fromkeys(one.source for one in agree)),
        disagreement=tuple(
            dict.fromkeys(
                Disagreement(source=one.source, presentation=one.presentation, raw=one.number)
                for one in others
                if _tells(one) or one.presentation == "corrupt"
            )
        ),
        called=_first(one.called for one in agree),
        redirecting=_first(one.redirecting for one in agree),
    )


def _tells(one: CallerIdReceived) -> bool:
    """Whether it says who called or why nobody can say; a name alone does not."""
    return bool(one.number) if one.presentation == "allowed" else one.presentation not in ("not_received", "corrupt")


def _rank(one: CallerIdReceived) -> tuple[bool, bool, int, int, str]:
    """Best first; repr settles what nothing else does, so that the order of arrival cannot."""
    return one.presentation == "corrupt", not _tells(one), _BEST_FIRST.index(one.source), -one.at_ns, repr(one)


def _said(one: CallerIdReceived, country: Country) -> tuple[Presentation, str | None]:
    return one.presentation, one.number and (e164(one.number, country) or digits_of(one.number))


def _first(given: Iterable[str | None]) -> str | None:
    return next((one for one in given if one), None)


def parse_list(entries: Iterable[str], country: Country) -> tuple[str, ...]:
    """The settings' list of numbers as listed() takes it: E.164, or the bare digits of what has no such form."""
    return tuple(sorted({e164(entry, country) or digits_of(entry) for entry in entries}))


def listed(who: Caller | Dialled, numbers: Collection[str]) -> bool:
    """Whether the caller, or the dialled number, is one of those that parse_list() gave."""
    digits = who.digits if isinstance(who, Dialled) else digits_of(who.raw or "")
    return (who.number or digits) in numbers
