"""Names of recorder apps: what they tell, and what they do not."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.core.filenames import Told, told

AT = datetime(2026, 11, 27, 10, 15, 0)  # noqa: DTZ001 - most names have no zone


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Call recording 03-0000-1234_261127_101500", Told(at=AT, digits="0300001234")),
        ("Call recording +81300001234_261127_101500", Told(at=AT, digits="+81300001234")),
        ("通話録音 0300001234_261127_101500", Told(at=AT, digits="0300001234")),
        ("Call recording Shop_261127_101500", Told(at=AT)),
        (
            "2026-11-27 10-15-00 (phone) A Shop (03 0000 1234) ↙",
            Told(at=AT, digits="0300001234", direction="incoming"),
        ),
        (
            "2026-11-27 10-15-00 (phone) A Shop (+81 3-0000-1234) ↗",
            Told(at=AT, digits="+81300001234", direction="outgoing"),
        ),
        (
            "20261127_101500.123+0900_in_0300001234",
            Told(at=AT.replace(tzinfo=timezone(timedelta(hours=9))), digits="0300001234", direction="incoming"),
        ),
        ("A Shop(09000001234)_20261127101500", Told(at=AT, digits="09000001234")),
        ("20261127T101500 0300001234 ↓", Told(at=AT, digits="0300001234", direction="incoming")),
        ("2026-11-27 10.15.00 ↑ 0300001234", Told(at=AT, digits="0300001234", direction="outgoing")),
        ("Call_20261127_101500_INCOMING_0300001234", Told(at=AT, digits="0300001234", direction="incoming")),
        ("発信_0300001234_20261127_101500", Told(at=AT, digits="0300001234", direction="outgoing")),
        # what they do not tell
        ("", Told()),
        ("Voice 001", Told()),
        ("20261340_101500", Told()),  # no month 13: neither a time nor a number of eight digits with a time behind it
        ("0300001234 to 0300005678", Told()),  # which of the two?
        ("incoming and outgoing", Told()),
        ("Inventory outline", Told()),  # no words of their own
        ("1732673700", Told(digits="1732673700")),  # seconds since 1970 look like a number: it is no time
        ("20261127_101500 20261127_101600", Told()),
    ],
)
def test_what_a_name_tells(name: str, expected: Told) -> None:
    assert told(name) == expected


@given(st.text(max_size=80))
def test_any_name_is_read(name: str) -> None:
    found = told(name)
    assert found.digits is None or found.digits.lstrip("+").isdigit()


@given(
    st.datetimes(AT.replace(year=2000), AT.replace(year=2099)).map(lambda at: at.replace(microsecond=0)),
    st.from_regex(r"\A0[0-9]{9,10}\Z"),
    st.sampled_from(
        ["Call recording {n}_{t:%y%m%d_%H%M%S}", "{t:%Y-%m-%d %H-%M-%S} (phone) A ({n}) ↙", "{t:%Y%m%d_%H%M%S}_out_{n}"]
    ),
)
def test_each_time_and_number_comes_back(at: datetime, number: str, form: str) -> None:
    found = told(form.format(n=number, t=at))
    assert (found.at, found.digits) == (at, number)
