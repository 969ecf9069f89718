"""The hash tree of a recording's sound: a leaf a second, so that any part of it can be proved without the others.

A leaf is SHA-256 of 0x00, its salt and its second of 16-bit little-endian mono frames (the last may be short). The salt
is HMAC-SHA-256 of the leaf's number (8 octets, big-endian) under the recording's seed: whoever is not given it cannot
try out what the second holds. Leaves are joined as in RFC 6962, section 2.1 (0x01 before two nodes).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable


def salt_of(seed: bytes, number: int) -> bytes:
    return hmac.digest(seed, number.to_bytes(8, "big"), "sha256")


def joined(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Leaves:
    """Takes frames as they come, and keeps no more than one node for each level of the tree.

    seed: 32 octets; None: new ones, by chance. completed: gets each leaf of a whole second.
    """

    def __init__(
        self, rate_hz: int, seed: bytes | None = None, completed: Callable[[bytes], None] | None = None
    ) -> None:
        self.seed = seed or secrets.token_bytes(32)
        self._completed = completed
        self._second = 2 * rate_hz
        self._number = 0  # of the leaf that is being filled
        self._filled = 0  # octets of it
        self._leaf = self._new()
        self._whole: list[tuple[int, bytes]] = []  # level and node of each whole tree, the biggest first

    def _new(self) -> hashlib._Hash:
        return hashlib.sha256(b"\x00" + salt_of(self.seed, self._number))

    def feed(self, pcm: bytes | bytearray | memoryview) -> None:
        left = memoryview(pcm)
        while left:
            part = left[: self._second - self._filled]
            self._leaf.update(part)
            self._filled += len(part)
            left = left[len(part) :]
            if self._filled == self._second:
                leaf = self._leaf.digest()
                self._whole = _with(self._whole, leaf)
                if self._completed:
                    self._completed(leaf)
                self._number, self._filled = self._number + 1, 0
                self._leaf = self._new()

    def last_leaf(self) -> bytes:
        """Of the second that is not full."""
        return self._leaf.digest()

    def root(self) -> bytes:
        """Of all that was fed; more may follow."""
        return _root(_with(self._whole, self._leaf.digest()) if self._filled else self._whole)


def root_of(leaves: Iterable[bytes]) -> bytes:
    whole: list[tuple[int, bytes]] = []
    for leaf in leaves:
        whole = _with(whole, leaf)
    return _root(whole)


def _root(whole: list[tuple[int, bytes]]) -> bytes:
    if not whole:
        return hashlib.sha256().digest()
    node = whole[-1][1]
    for _, before in reversed(whole[:-1]):
        node = joined(before, node)
    return node


def _with(whole: list[tuple[int, bytes]], node: bytes) -> list[tuple[int, bytes]]:
    left, level = list(whole), 0
    while left and left[-1][0] == level:
        node = joined(left.pop()[1], node)
        level += 1
    return [*left, (level, node)]
