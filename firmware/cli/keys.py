"""tsuroku keys make: the owner's key pair, that recordings are sealed to; and the sound of a sealed one."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from firmware.cli.main import InputError
from firmware.cli.show import terminal

_SHORTEST = 10
_PRIVATE, _PUBLIC = "owner-key.pem", "owner-public.pem"
_TOLD = """\
{private}
    秘密鍵です。録音を聞くときに必要です。装置には置かず、USB メモリーなど2か所以上に保管してください。
    The private key, needed to listen. Keep it in two places or more, and never on the unit.
{public}
    公開鍵です。装置の /etc/tsuroku に置き、設定ファイルの [recording] seal_to に書いてください。
    The public key. Put it on the unit, below /etc/tsuroku, and name it in the settings: [recording] seal_to.

秘密鍵かパスフレーズをなくすと、封印した録音は二度と聞けません。誰にも元に戻せません。
If the private key or its passphrase is lost, what is sealed can never be heard again. Nobody can bring it back.
"""


def make(args: argparse.Namespace) -> int:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    passphrase = _passphrase_file(args.passphrase_file) if args.passphrase_file else _new_passphrase()
    key, pem = X25519PrivateKey.generate(), serialization.Encoding.PEM
    locked = serialization.BestAvailableEncryption(passphrase)
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        args.directory.mkdir(parents=True, exist_ok=True)
        for name, data, mode in ((_PRIVATE, private, 0o600), (_PUBLIC, public, 0o644)):
            with os.fdopen(os.open(args.directory / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
    except FileExistsError as error:
        raise InputError(f"{error.filename}: is there already; give another folder, so that no key is lost.") from error
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be written ({error.strerror}); give another folder.") from error
    told = _TOLD.format(private=args.directory / _PRIVATE, public=args.directory / _PUBLIC)
    terminal().print(told, end="", soft_wrap=True)
    return 0


def _new_passphrase() -> bytes:
    if not sys.stdin.isatty():
        raise InputError("there is no terminal to ask for a passphrase; give --passphrase-file.")
    first = getpass.getpass("Passphrase for the private key: ")
    if len(first) < _SHORTEST:
        raise InputError(f"the passphrase is shorter than {_SHORTEST} characters; take some words.")
    if getpass.getpass("Once more: ") != first:
        raise InputError("the two are not the same; no key was made.")
    return first.encode()


def _passphrase_file(path: Path) -> bytes:
    try:
        text = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the passphrase's file.") from error
    if not text:
        raise InputError(f"{path}: is empty; put the passphrase there.")
    return text


@contextlib.contextmanager
def playable(path: Path, call: Mapping[str, Any], key: Path | None, passphrase_file: Path | None) -> Iterator[Path]:
    """A call's recording, opened where it is sealed, in a form that soundfile reads. Raises InputError."""
    with plain_sound(path, key, passphrase_file) as plain:
        if not call.get("imported"):
            yield plain
            return
        from firmware.imports import NotImported, as_wav

        try:
            with as_wav(plain) as wav:
                yield wav
        except NotImported as error:
            raise InputError(str(error)) from error


@contextlib.contextmanager
def plain_sound(path: Path, key: Path | None, passphrase_file: Path | None = None) -> Iterator[Path]:
    """A recording as it was before it was sealed: itself, or a copy in memory for as long as it is used.

    Raises InputError, with what to do.
    """
    from firmware.recording.repair import readable
    from firmware.recording.sealed import SUFFIX, SealError, private_key, unsealed

    if path.suffix != SUFFIX:
        yield path
        return
    if key is None:
        raise InputError(f"{path}: is sealed; give the owner's private key with --key {_PRIVATE}.")
    try:
        pem = key.read_bytes()
        if b"ENCRYPTED" not in pem:
            passphrase = None
        elif passphrase_file:
            passphrase = _passphrase_file(passphrase_file)
        elif sys.stdin.isatty():
            passphrase = getpass.getpass(f"Passphrase of {key}: ").encode()
        else:
            raise InputError("there is no terminal to ask for the passphrase; give --passphrase-file.")
        owner = private_key(pem, passphrase)
    except OSError as error:
        raise InputError(f"{key}: cannot be read ({error.strerror}); give the owner's private key.") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{key}: is no private key of an owner, or the passphrase is wrong.") from error
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # in the open it stands on no card
    with tempfile.TemporaryDirectory(prefix="tsuroku-", dir=memory) as work:
        plain = Path(work) / path.name.removesuffix(SUFFIX)
        try:
            with path.open("rb") as file, unsealed(file, owner) as sound, plain.open("wb") as out:
                while data := sound.read(1 << 20):
                    out.write(data)
        except SealError as error:
            raise InputError(f"{path}: {error}") from error
        yield readable(plain) if plain.suffix == ".flac" else plain
