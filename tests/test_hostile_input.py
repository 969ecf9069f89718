"""What comes from outside may be anything: the same facts in any chunking, bounded memory, no exception."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.modem_text import QUIET_NS, ModemText
from drivers.signals import CallerIdReceived, Signal
from tests.proof import parsers

TRANSCRIPTS = [text.replace(b"\n", b"\r\n") for text in parsers.transcripts()]


def facts(data: bytes, sizes: list[int]) -> list[Signal]:
    """Fed in pieces of these sizes, and what is left at once."""
    text = ModemText(1)
    signals: list[Signal] = []
    at = 0
    for size in [*sizes, len(data)]:
        signals += text.feed(data[at : at + size], 7)
        at += size
    return signals + text.tick(7 + QUIET_NS)


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=range(len(TRANSCRIPTS)))
def test_byte_by_byte_and_cut_anywhere_the_facts_are_the_same(transcript: bytes) -> None:
    whole = facts(transcript, [])
    assert facts(transcript, [1] * len(transcript)) == whole
    for cut in range(len(transcript)):
        assert facts(transcript, [cut]) == whole, cut


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TRANSCRIPTS), st.lists(st.integers(0, 50), max_size=100))
def test_in_any_chunking_the_facts_are_the_same(transcript: bytes, sizes: list[int]) -> None:
    assert facts(transcript, sizes) == facts(transcript, [])


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=range(len(TRANSCRIPTS)))
def test_cut_off_at_any_byte_no_other_number_is_told(transcript: bytes) -> None:
    def numbers(data: bytes) -> set[str | None]:
        return {signal.number for signal in facts(data, []) if isinstance(signal, CallerIdReceived)}

    whole = numbers(transcript) | {None}
    for cut in range(len(transcript)):
        assert numbers(transcript[:cut]) <= whole, cut


def test_five_megabytes_of_random_and_mutated_input_through_every_parser() -> None:
    done = parsers.run(5_000_000, seed=3)
    assert done.total() >= 5_000_000
    assert set(done) == {"modem's text", "frames", "capture", "settings", "scenario", "journal"}
