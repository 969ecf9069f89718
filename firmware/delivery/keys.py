"""Secrets in files: read when they are needed, never believed blindly."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

_LEAST = 16  # characters of a key: a shorter one can be guessed


class Unready(Exception):
    """The settings, or a file that they name, cannot be used as they are. One sentence."""


def private_text(where: str, key: str, path: Path) -> str:
    """The text of a file that holds a secret and that nobody else may read. Raises Unready."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read()
        mode = path.stat().st_mode & 0o777
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Unready(
            f"{where}: {key} {path} cannot be read ({why}); put the secret there and give the file to the user tsuroku."
        ) from error
    if mode & 0o077:
        raise Unready(
            f"{where}: {key} {path} can be read by others than its owner; "
            f"`sudo chown tsuroku {path} && sudo chmod 600 {path}`."
        )
    return text


@dataclass(frozen=True, slots=True)
class HmacKey:
    """By which a sink's events tell the same caller, where nobody may have his number.

    named: the settings' file, which must be there; own: where the unit keeps one of its own, made when it is needed.
    """

    sink: str
    named: Path | None
    own: Path

    def read(self) -> bytes:
        """Raises Unready."""
        if self.named is None and not self.own.exists():
            self._make()
        text = private_text(f"Sink {self.sink}", "hmac_key_file", self.named or self.own).strip()
        if len(text) < _LEAST:
            raise Unready(
                f"Sink {self.sink}: the key in {self.named or self.own} is shorter than {_LEAST} characters; "
                "put one there that nobody can guess, as of `openssl rand -hex 32`."
            )
        return text.encode()

    def _make(self) -> None:
        new = self.own.with_name(self.own.name + ".new")
        try:
            with os.fdopen(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32) + "\n")
                file.flush()
                os.fsync(file.fileno())
            new.rename(self.own)
        except OSError as error:
            raise Unready(f"Sink {self.sink}: {self.own} cannot be made ({error.strerror}); free space.") from error
