"""Signatures over the log's chain: who holds them can tell, offline, that nothing before was changed or taken out.

The owner of the key could write a chain anew and sign it: what shows that is a checkpoint that has left the unit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from firmware.records.log import make_directory, sync_directory

_RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw


def _message(checkpoint: dict[str, Any]) -> bytes:
    """What is signed: seven lines of text, so that any Ed25519 tool can check it."""
    fields = ("store_id", "seq", "link", "calls", "at")
    return "\n".join(["tsuroku checkpoint 1", *(str(checkpoint[name]) for name in fields), ""]).encode()


def _key_in(path: Path, text: bytes) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(text, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None  # what the library says of it is no help
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path}: holds no Ed25519 key; put the unit's own back, or move it away to begin a new one.")
    return key


def public_key(path: Path) -> str | None:
    """The public half of the unit's key, in hexadecimal; None where there is none, or none that can be read."""
    try:
        return _key_in(path, path.read_bytes()).public_key().public_bytes(*_RAW).hex()
    except (OSError, ValueError):
        return None


class Signer:
    """The unit's Ed25519 key, made at first use. Raises OSError; ValueError for a file that holds no such key."""

    def __init__(self, path: Path) -> None:
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            text = self._make(path)
        self._key = _key_in(path, text)
        self.public_key = self._key.public_key().public_bytes(*_RAW).hex()

    @staticmethod
    def _make(path: Path) -> bytes:
        text = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        make_directory(path.parent)
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        part.rename(path)
        sync_directory(path.parent)
        return text

    def checkpoint(self, store_id: str, seq: int, link: str, calls: int, at: str | None) -> dict[str, Any]:
        """A signed statement: after line seq the chain stood at link, and so many calls were in the store."""
        said = {"store_id": store_id, "seq": seq, "link": link, "calls": calls, "at": at}
        return said | {"key": self.public_key, "signature": self._key.sign(_message(said)).hex()}


def is_signed(checkpoint: dict[str, Any], public_key: str) -> bool:
    """Whether the checkpoint was signed with this key."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(checkpoint["signature"]), _message(checkpoint))
    except (InvalidSignature, ValueError, KeyError, TypeError):
        return False
    return True
