"""The hash tree of a recording's sound, against RFC 6962's own words."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from firmware.recording.leaves import Leaves

SEED = bytes(range(32))


def tree(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it stands there; leaves are hashed already."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + tree(leaves[:k]) + tree(leaves[k:])).digest()


def leaf(number: int, second: bytes) -> bytes:
    salt = hmac.new(SEED, number.to_bytes(8, "big"), hashlib.sha256).digest()
    return hashlib.sha256(b"\x00" + salt + second).digest()


@given(st.binary(max_size=700), st.lists(st.integers(1, 99), min_size=1, max_size=40))
def test_the_root_is_that_of_the_rfc_however_the_sound_comes(sound: bytes, steps: list[int]) -> None:
    leaves, at, number = Leaves(10, SEED), 0, 0  # a second has 20 octets
    while at < len(sound):
        step = steps[number % len(steps)]
        leaves.feed(sound[at : at + step])
        at, number = at + step, number + 1
    seconds = [sound[at : at + 20] for at in range(0, len(sound), 20)]
    assert leaves.root() == tree([leaf(n, second) for n, second in enumerate(seconds)])
    assert leaves.root() == leaves.root(), "it can be asked for at any time"


def test_two_recordings_of_the_same_sound_have_nothing_in_common() -> None:
    one, other = Leaves(8000), Leaves(8000)
    for leaves in (one, other):
        leaves.feed(bytes(16_000))
    assert one.root() != other.root() and one.seed != other.seed
