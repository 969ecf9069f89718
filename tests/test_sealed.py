"""Sealed recordings: what was written is read with the key, cut or whole; whatever was changed is noticed."""

from __future__ import annotations

import io
import os
import random
import zlib
from pathlib import Path

import pytest
import soundfile
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from firmware.recording.sealed import SealedWriter, SealError, outside, private_key, public_key, unsealed

KEY = X25519PrivateKey.generate()
HEAD = 17 + 32 + 80


def sealed(path: Path, parts: list[bytes], notes: bool = False) -> None:
    with path.open("wb", buffering=0) as file:
        writer = SealedWriter(file.fileno(), KEY.public_key())
        for number, part in enumerate(parts):
            writer.write(part)
            if notes:
                writer.note(bytes([number]) * 32)
        writer.finish()


def read(path: Path, key: X25519PrivateKey = KEY) -> bytes:
    with path.open("rb") as file, unsealed(file, key) as plain:
        return plain.read()


def test_sound_is_written_and_read_like_any_other(tmp_path: Path) -> None:
    pcm = random.Random(1).randbytes(2 * 8000 * 9)
    path = tmp_path / "a.flac.sealed"
    with path.open("wb", buffering=0) as file:
        writer = SealedWriter(file.fileno(), KEY.public_key())
        with soundfile.SoundFile(writer, "w", 8000, 1, "PCM_16", format="FLAC") as sound:
            sound.title = "0192"
            for at in range(0, len(pcm), 960):
                sound.buffer_write(pcm[at : at + 960], "int16")
        writer.finish()
    assert pcm[1000:1100] not in path.read_bytes() and b"0192" not in path.read_bytes()
    with path.open("rb") as file:
        told = outside(file)
        assert (told.owner, told.last) == (KEY.public_key().public_bytes_raw(), b"")
        with soundfile.SoundFile(unsealed(file, KEY)) as sound:
            assert (sound.frames, sound.title) == (len(pcm) // 2, "0192")
            sound.seek(8000 * 5)
            assert bytes(sound.buffer_read(100, "int16")) == pcm[80_000:80_200]
    (tmp_path / "a.flac").write_bytes(read(path))
    assert soundfile.read(tmp_path / "a.flac", dtype="int16")[0].tobytes() == pcm


@given(st.lists(st.one_of(st.binary(max_size=9000), st.integers(0, 1 << 62)), max_size=12))
def test_writing_and_seeking_is_that_of_a_file(actions: list[bytes | int]) -> None:
    plain = io.BytesIO()
    descriptor = os.memfd_create("sealed")
    try:
        writer = SealedWriter(descriptor, KEY.public_key())
        for action in actions:
            if isinstance(action, bytes):
                assert writer.write(action) == plain.write(action)
            else:
                to = action % (len(plain.getvalue()) + 1)
                assert writer.seek(to) == plain.seek(to)
            assert writer.tell() == plain.tell()
        assert writer.seek(0, os.SEEK_END) == plain.seek(0, os.SEEK_END)
        with pytest.raises(io.UnsupportedOperation):
            writer.seek(1, os.SEEK_END)
        writer.finish()
        with os.fdopen(os.dup(descriptor), "rb") as file, unsealed(file, KEY) as read_back:
            assert read_back.read() == plain.getvalue()
            for at in (0, 4095, 4096, len(plain.getvalue()) // 2):
                read_back.seek(at)
                assert read_back.read(5000) == plain.getvalue()[at : at + 5000]
    finally:
        os.close(descriptor)


def test_a_file_that_was_cut_anywhere_is_good_up_to_its_last_whole_chunk(tmp_path: Path) -> None:
    plain = random.Random(2).randbytes(20_000)
    path, cut = tmp_path / "a", tmp_path / "cut"
    sealed(path, [plain[at : at + 3000] for at in range(0, len(plain), 3000)], notes=True)
    data = path.read_bytes()
    for size in [*range(0, len(data), 97), len(data) - 1]:
        cut.write_bytes(data[:size])
        if size < HEAD:
            with pytest.raises(SealError, match="cut in its head"):
                read(cut)
            continue
        got = read(cut)
        assert plain.startswith(got) and len(got) >= (size - HEAD) * 0.95 - 4096 - 100
        with cut.open("rb") as file:
            told = outside(file)
            assert told.last is None
            assert list(told.notes) == [bytes([number]) * 32 for number in range(len(told.notes))]
    assert read(path) == plain


@pytest.mark.parametrize("fitted", [False, True])
def test_whatever_is_changed_is_noticed(tmp_path: Path, fitted: bool) -> None:
    """fitted: with the CRC made right again, as nobody does by chance."""
    plain = random.Random(3).randbytes(9000)
    path, changed = tmp_path / "a", tmp_path / "changed"
    sealed(path, [plain[:5000], plain[5000:]], notes=True)
    data = path.read_bytes()
    dice, refused = random.Random(4), 0
    for _ in range(400):
        at, bit = dice.randrange(len(data)), 1 << dice.randrange(8)
        whole = bytearray(data)
        whole[at] ^= bit
        changed.write_bytes(with_crcs(bytes(whole)) if fitted else whole)
        if changed.read_bytes() == data:
            continue  # it was a CRC that was changed
        try:
            got = read(changed)
        except SealError:
            refused += 1
            continue
        with changed.open("rb") as file:  # as after a power cut: less is there, and none of it wrong
            assert outside(file).last is None, at
        assert plain.startswith(got), at
    assert refused > (350 if fitted else 0)


def with_crcs(data: bytes) -> bytes:
    """The chunks of a file with the CRC that each should have, as far as their lengths make sense."""
    out, at = bytearray(data[:HEAD]), HEAD
    while at + 17 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 17 + length > len(data):
            break
        head, body = data[at : at + 13], data[at + 17 : at + 17 + length]
        out += head + zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "big") + body
        at += 17 + length
    return bytes(out + data[at:])


def test_chunks_cannot_change_places_or_be_left_out(tmp_path: Path) -> None:
    plain = random.Random(5).randbytes(3 * 4096)
    path = tmp_path / "a"
    sealed(path, [plain])
    data = path.read_bytes()
    size = 17 + 4096 + 16
    head, chunks, last = data[:HEAD], [data[HEAD + n * size :][:size] for n in range(3)], data[HEAD + 3 * size :]
    for order in ([1, 0, 2], [0, 2], [1, 2], [0, 1, 1, 2], [0, 1]):
        path.write_bytes(head + b"".join(chunks[n] for n in order) + last)
        with pytest.raises(SealError, match="is damaged at byte"):
            read(path)


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    sealed(path, [b"secret"])
    assert b"secret" not in path.read_bytes()
    with pytest.raises(SealError, match="sealed to another key"):
        read(path, X25519PrivateKey.generate())
    path.write_bytes(b"fLaC")
    with pytest.raises(SealError, match="no sealed recording"):
        read(path)


def test_keys_as_they_come_in_files() -> None:
    pem = serialization.Encoding.PEM
    told = KEY.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert public_key(told) == KEY.public_key()
    locked = KEY.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"correct horse")
    )
    assert private_key(locked, b"correct horse").private_bytes_raw() == KEY.private_bytes_raw()
    with pytest.raises(ValueError, match="assword"):
        private_key(locked, b"wrong")
    other = Ed25519PrivateKey.generate().public_key()
    for wrong in (b"", b"-----BEGIN PUBLIC KEY-----", locked):
        with pytest.raises(ValueError):
            public_key(wrong)
    with pytest.raises(ValueError, match="no X25519"):
        public_key(other.public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
