"""Recordings at rest: files that the unit can write, and that only the owner's private key can read.

A file has a key of its own, which is sealed to the owner's public key (HPKE, RFC 9180: X25519, HKDF-SHA-256,
ChaCha20-Poly1305) in its head and is then known to nobody but who writes it. Behind the head stand chunks:

    LENGTH (4)  OFFSET (8)  KIND (1)  CRC-32 (4)  LENGTH octets: ChaCha20-Poly1305, the first 13 as associated data

Their nonce is their number, so none can be changed, moved or left out unnoticed. The CRC, over all else of the chunk,
tells without the key what a power cut has left of it. A chunk says what stands from OFFSET
on in the plain file; a later one has the last word, since FLAC's head is known only when the file is closed. A file
without its LAST chunk was cut: all chunks that are whole are good. A NOTE, and the LAST, hold nothing but what may be
known without the key: the recorder's, so that the unit itself can file a recording that it cannot read.
"""

from __future__ import annotations

import bisect
import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

SUFFIX = ".sealed"
_MAGIC = b"tsuroku sealed 1\n"
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_SEALED_KEY = 32 + 32 + 16  # HPKE's encapsulated key, the file's key, the tag
_CHUNK = struct.Struct(">IQBI")
_BOUND = 13  # octets of it that are associated data
_DATA, _LAST, _NOTE = 0, 1, 2
_TAG = 16
_PLAIN = 4096  # of a chunk: half a second of sound, which is what dies with the process
_LONGEST = 65_536


class SealError(Exception):
    """The file cannot be read with this key, or is damaged: one sentence."""


def public_key(pem: bytes) -> X25519PublicKey:
    """Of the owner. Raises ValueError."""
    key = serialization.load_pem_public_key(pem)
    if not isinstance(key, X25519PublicKey):
        raise ValueError("it is no X25519 public key")
    return key


def private_key(pem: bytes, passphrase: bytes | None) -> X25519PrivateKey:
    """Raises ValueError (it is none, or the passphrase is wrong), TypeError (there must be one, or none)."""
    key = serialization.load_pem_private_key(pem, passphrase)
    if not isinstance(key, X25519PrivateKey):
        raise ValueError("it is no X25519 private key")
    return key


def fingerprint(key: X25519PublicKey) -> bytes:
    """Which key it is: its 32 octets."""
    return key.public_bytes_raw()


class SealedWriter(io.RawIOBase):
    """A plain file to whoever writes; closing it does not close the descriptor. Thread: one at a time.

    What is written is on its way to the disk in chunks of half a second of sound; flush() writes what is left over. The
    caller syncs. An error of the disk is not raised into libsndfile, which knows nothing of it: it is kept in `failed`,
    and from then on nothing is written.
    """

    def __init__(self, descriptor: int, owner: X25519PublicKey) -> None:
        key = ChaCha20Poly1305.generate_key()
        self._descriptor, self._aead = descriptor, ChaCha20Poly1305(key)
        self._number = 0  # of the next chunk
        self._held, self._held_from = bytearray(), 0  # not yet in a chunk
        self._row_end = 0  # of the plain file, as far as there are chunks
        self.failed: OSError | None = None
        _write_all(descriptor, _MAGIC + fingerprint(owner) + _SUITE.encrypt(key, owner, _MAGIC))

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        self._held += data
        while len(self._held) >= _PLAIN:
            self._put_held(_PLAIN)
        return len(data)

    def tell(self) -> int:
        return self._held_from + len(self._held)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        to = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: max(self._row_end, self.tell())}[whence]
        if to != self.tell():
            self.flush()
            if not 0 <= to <= self._row_end:
                raise io.UnsupportedOperation(f"no hole can be left behind byte {self._row_end}")
            self._held_from = to
        return to

    def flush(self) -> None:
        while self._held:
            self._put_held(len(self._held))

    def _put_held(self, count: int) -> None:
        """One chunk, which says something again or goes on, and never both."""
        if self._held_from < self._row_end:
            count = min(count, self._row_end - self._held_from)
        self._put(_DATA, bytes(self._held[:count]))
        del self._held[:count]
        self._held_from += count
        self._row_end = max(self._row_end, self._held_from)

    def note(self, text: bytes) -> None:
        """Something that may be known without the key, bound to this place in the file."""
        self._put(_NOTE, b"", text)

    def finish(self, text: bytes = b"") -> None:
        """The file is whole; the last note goes with that. Raises OSError where the disk has refused anything."""
        self.flush()
        self._put(_LAST, b"", text)
        if self.failed:
            raise self.failed

    def _put(self, kind: int, plain: bytes, clear: bytes = b"") -> None:
        head = _CHUNK.pack(len(plain) + len(clear) + _TAG, self._held_from, kind, 0)[:_BOUND]
        sealed = clear + self._aead.encrypt(_nonce(self._number), plain, head + clear)
        self._number += 1
        if self.failed is None:
            try:
                _write_all(self._descriptor, head + _crc(head, sealed).to_bytes(4, "big") + sealed)
            except OSError as error:
                self.failed = error


@dataclass(frozen=True, slots=True)
class _Chunk:
    number: int
    kind: int
    offset: int  # in the plain file
    at: int  # in the sealed file: of its head
    length: int  # behind the head

    @property
    def plain(self) -> int:
        return self.length - _TAG if self.kind == _DATA else 0


@dataclass(frozen=True, slots=True)
class Outside:
    """What a sealed file tells without its key: whose it is, its notes, and the last one. last None: it was cut."""

    owner: bytes
    notes: tuple[bytes, ...]
    last: bytes | None


def outside(file: BinaryIO) -> Outside:
    """Raises SealError for what is no sealed file."""
    owner, _ = _head(file)
    notes, last = [], None
    for chunk in list(_chunks(file)):
        if chunk.kind == _DATA:
            continue
        file.seek(chunk.at + _CHUNK.size)
        text = file.read(chunk.length - _TAG)
        if chunk.kind == _LAST:
            last = text
        else:
            notes.append(text)
    return Outside(owner, tuple(notes), last)


def unsealed(file: BinaryIO, key: X25519PrivateKey) -> io.BufferedReader:
    """The plain file, seekable. Raises SealError, also while it is read."""
    return io.BufferedReader(_Reader(file, key), 2 * _PLAIN)


class _Reader(io.RawIOBase):
    def __init__(self, file: BinaryIO, key: X25519PrivateKey) -> None:
        owner, sealed = _head(file)
        if owner != fingerprint(key.public_key()):
            raise SealError("This recording is sealed to another key.")
        try:
            self._aead = ChaCha20Poly1305(_SUITE.decrypt(sealed, key, _MAGIC))
        except (InvalidTag, ValueError) as error:
            raise SealError("The head of this recording is damaged; put it back from a copy.") from error
        self._file, self._at = file, 0
        everything = list(_chunks(file))
        for chunk in everything:
            if chunk.kind != _DATA:
                self._open(chunk)  # or the end would only be somebody's word
        data = [chunk for chunk in everything if chunk.kind == _DATA]
        # In order of writing they follow one another, but for the few that say again what stands further up.
        self._starts: list[int] = []
        self._row: list[_Chunk] = []
        self._again: list[_Chunk] = []
        for chunk in data:
            if chunk.offset == self._length:
                self._starts.append(chunk.offset)
                self._row.append(chunk)
            else:
                self._again.append(chunk)
        self._kept: tuple[int, bytes] = (-1, b"")
        for chunk in self._again:
            self._open(chunk)  # or one whose place was changed would be passed over

    @property
    def _length(self) -> int:
        return self._row[-1].offset + self._row[-1].plain if self._row else 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        found = bisect.bisect_right(self._starts, self._at) - 1
        if found < 0 or self._at >= self._length:
            return 0
        chunk = self._row[found]
        plain = bytearray(self._plain(chunk))
        for other in self._again:
            low, high = max(chunk.offset, other.offset), min(chunk.offset + chunk.plain, other.offset + other.plain)
            if low < high:
                again = self._plain(other)
                plain[low - chunk.offset : high - chunk.offset] = again[low - other.offset : high - other.offset]
        part = plain[self._at - chunk.offset :][: len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def _plain(self, chunk: _Chunk) -> bytes:
        if self._kept[0] != chunk.number:
            self._kept = chunk.number, self._open(chunk)
        return self._kept[1]

    def _open(self, chunk: _Chunk) -> bytes:
        self._file.seek(chunk.at)
        head, sealed = self._file.read(_CHUNK.size)[:_BOUND], self._file.read(chunk.length)
        if chunk.kind != _DATA:
            head, sealed = head + sealed[:-_TAG], sealed[-_TAG:]
        try:
            return self._aead.decrypt(_nonce(chunk.number), sealed, head)
        except InvalidTag as error:
            raise SealError(
                f"This recording is damaged at byte {chunk.at}: it was changed, or the card has rotted."
            ) from error


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _head(file: BinaryIO) -> tuple[bytes, bytes]:
    file.seek(0)
    magic, owner, sealed = file.read(len(_MAGIC)), file.read(32), file.read(_SEALED_KEY)
    if magic != _MAGIC or len(sealed) < _SEALED_KEY:
        raise SealError("This is no sealed recording, or it was cut in its head.")
    return owner, sealed


def _chunks(file: BinaryIO) -> Iterator[_Chunk]:
    """Those that are there whole, up to the LAST one."""
    size = file.seek(0, os.SEEK_END)
    at, number = len(_MAGIC) + 32 + _SEALED_KEY, 0
    while at + _CHUNK.size <= size:
        file.seek(at)
        head = file.read(_CHUNK.size)
        length, offset, kind, crc = _CHUNK.unpack(head)
        if not _TAG <= length <= _LONGEST or kind not in (_DATA, _LAST, _NOTE):
            return  # cut here: what follows was never acknowledged
        sealed = file.read(length)
        if len(sealed) < length or _crc(head[:_BOUND], sealed) != crc:
            return
        yield _Chunk(number, kind, offset, at, length)
        if kind == _LAST:
            return
        at, number = at + _CHUNK.size + length, number + 1


def _crc(head: bytes, sealed: bytes) -> int:
    return zlib.crc32(sealed, zlib.crc32(head))


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
