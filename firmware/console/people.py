"""Who may use the console: accounts, their rights, the set-up code, lock-outs and sessions."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from tinydb import Storage, TinyDB, where

Role = Literal["owner", "manager", "staff", "installer", "auditor"]
Right = Literal["see", "write", "listen", "download", "delete", "system", "people", "log"]
# To see calls, write on them, hear them, take them along and delete them are five things.
RIGHTS: Mapping[Role, frozenset[Right]] = {
    "owner": frozenset({"see", "write", "listen", "download", "delete", "system", "people", "log"}),
    "manager": frozenset({"see", "write", "listen", "download", "system", "log"}),
    "staff": frozenset({"see", "write", "listen"}),
    "installer": frozenset({"system"}),
    "auditor": frozenset({"log"}),
}
SHORTEST_PASSWORD = 10
_TRIES = 5  # wrong passwords in succession, then a name is locked
_LOCKED_S = (60, 300, 900, 3600)  # the first time, the second ...
_IDLE_S, _LONGEST_S = 12 * 3600, 30 * 86_400  # of a session
_CODE_CHARACTERS = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # none that looks like another
_CODE_TRIES = 20
_MOST_PASSKEYS = 10  # of one person


class PeopleError(Exception):
    """Not allowed. key: of the sentence that says why (words.py)."""

    def __init__(self, key: str, **detail: object) -> None:
        super().__init__(key)
        self.key, self.detail = key, detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    name: str
    role: Role

    def may(self, right: Right) -> bool:
        return right in RIGHTS[self.role]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A link by which anybody hears one call, until a time. share_id names it; the link cannot be told from it."""

    share_id: str
    call_id: str
    by: str
    until_s: float


@dataclass(slots=True)
class _Session:
    name: str
    csrf: str
    begun_s: float
    used_s: float


class _Whole(Storage):
    """One JSON file that takes its place when it is on the disk: TinyDB's own empties it first."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, dict[str, Any]] | None:
        try:
            found: dict[str, dict[str, Any]] = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found

    def write(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        part = self._path.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            json.dump(data, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        part.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class People:
    """The accounts of one unit. Thread: any to look up; what changes something goes through alone().

    Raises OSError; ValueError for a file that is damaged.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._db = TinyDB(folder / "people.json", storage=_Whole)
        self._people, self._kept = self._db.table("people"), self._db.table("kept")
        self._keys, self._shares = self._db.table("keys"), self._db.table("shares")
        self._hasher, self._now = PasswordHasher(time_cost=3, memory_cost=19_456, parallelism=1), now
        self._nobody = self._hasher.hash(secrets.token_hex(16))
        self._sessions: dict[str, _Session] = {}
        self._alone = threading.Lock()

    def alone(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do what changes or guesses at accounts, one at a time: hashing takes time and memory. Thread: any."""
        with self._alone:
            return work(*arguments)

    # -- the set-up code

    def code(self) -> str | None:
        """What lets the first owner in; None once there is one. It stands in the unit's own folder only."""
        if len(self._people):
            return None
        kept: Any = self._kept.get(where("what") == "code")
        if not kept:
            text = "".join(secrets.choice(_CODE_CHARACTERS) for _ in range(12))
            kept = {"what": "code", "code": "-".join((text[:4], text[4:8], text[8:])), "tries": 0}
            self._kept.insert(kept)
        return str(kept["code"])

    def set_up(self, code: str, name: str, password: str) -> Person:
        """Make the owner. Raises PeopleError."""
        wanted = self.code()
        if wanted is None:
            raise PeopleError("set_up_done")
        kept: Any = self._kept.get(where("what") == "code")
        if kept["tries"] >= _CODE_TRIES:  # a new one, which only who can read the unit's folder knows
            self._kept.remove(where("what") == "code")
            raise PeopleError("code_used_up")
        given = code.strip().upper().replace("-", "").replace(" ", "")
        if not secrets.compare_digest(given.encode(), wanted.replace("-", "").encode()):
            self._kept.update({"tries": kept["tries"] + 1}, where("what") == "code")
            raise PeopleError("code_wrong")
        person = self.add(name, password, "owner")
        self._kept.remove(where("what") == "code")
        return person

    # -- accounts

    def add(self, name: str, password: str, role: Role) -> Person:
        """Raises PeopleError."""
        name = " ".join(name.split())
        if not 1 <= len(name) <= 40 or not name.isprintable() or ":" in name:  # "API: x" is a program, in the log
            raise PeopleError("name_wrong")
        if len(password) < SHORTEST_PASSWORD:
            raise PeopleError("password_short", least=SHORTEST_PASSWORD)
        if self._people.contains(where("name") == name):
            raise PeopleError("name_taken")
        self._people.insert(
            {"name": name, "role": role, "password": self._hasher.hash(password), "wrong": 0, "locks": 0, "until": 0.0}
        )
        return Person(name=name, role=role)

    def remove(self, name: str) -> None:
        """Raises PeopleError for the last owner: nobody could let anybody in."""
        found = self._of(name)
        if found and found["role"] == "owner" and self._people.count(where("role") == "owner") == 1:
            raise PeopleError("last_owner")
        self._people.remove(where("name") == name)
        self._sessions = {token: each for token, each in self._sessions.items() if each.name != name}

    def set_password(self, name: str, password: str, old: str | None = None) -> None:
        """Whoever was logged in as him is so no more. old: must fit, where it is given. Raises PeopleError."""
        found = self._of(name)
        if found is None or (old is not None and not self._fits(found["password"], old)):
            raise PeopleError("login_wrong")
        if len(password) < SHORTEST_PASSWORD:
            raise PeopleError("password_short", least=SHORTEST_PASSWORD)
        change = {"password": self._hasher.hash(password), "wrong": 0, "locks": 0, "until": 0.0}
        if old is None:
            change["passkeys"] = []  # somebody else sets it: whoever came in before does no more
        self._people.update(change, where("name") == found["name"])
        self._sessions = {token: each for token, each in self._sessions.items() if each.name != found["name"]}

    # -- programs, and links

    def make_key(self, name: str, role: Role) -> str:
        """What a program shows to be let in by (API). Only its digest is kept. Raises PeopleError."""
        name = " ".join(name.split())
        if not 1 <= len(name) <= 40 or not name.isprintable():
            raise PeopleError("name_wrong")
        if self._keys.contains(where("name") == name):
            raise PeopleError("name_taken")
        key = f"tsu_{secrets.token_urlsafe(32)}"
        self._keys.insert({"name": name, "role": role, "digest": _digest(key)})
        return key

    def remove_key(self, name: str) -> None:
        self._keys.remove(where("name") == name)

    def keys(self) -> list[Person]:
        return [Person(name=each["name"], role=each["role"]) for each in self._keys.all()]

    def of_key(self, key: str) -> Person | None:
        """Its name is told apart from a person's by what stands before it."""
        found: Any = self._keys.get(where("digest") == _digest(key))
        return Person(name=f"API: {found['name']}", role=found["role"]) if found else None

    def share(self, call_id: str, by: str, for_s: float) -> str:
        """The token of a new link."""
        self._shares.remove(where("until") < self._now())
        token = secrets.token_urlsafe(24)
        kept = {"digest": _digest(token), "call_id": call_id, "by": by, "until": self._now() + for_s}
        self._shares.insert(kept)
        return token

    def shared(self, token: str) -> Share | None:
        found: Any = self._shares.get(where("digest") == _digest(token))
        return _share(found) if found and found["until"] > self._now() else None

    def shares_of(self, call_id: str) -> list[Share]:
        kept: Any = self._shares.search(where("call_id") == call_id)
        return [_share(each) for each in kept if each["until"] > self._now()]

    def unshare(self, call_id: str, share_id: str) -> None:
        kept: Any = self._shares.search(where("call_id") == call_id)
        for each in kept:
            if each["digest"].startswith(share_id):
                self._shares.remove(where("digest") == each["digest"])

    # -- who there is

    def all(self) -> list[Person]:
        return [Person(name=each["name"], role=each["role"]) for each in self._people.all()]

    def _of(self, name: str) -> Any:
        return self._people.get(where("name") == name)

    # -- logging in

    def log_in(self, name: str, password: str) -> tuple[str, Person]:
        """A new session's token. Raises PeopleError; it takes as long for a name that nobody has."""
        found = self._of(" ".join(name.split()))
        if found and found["until"] > self._now():
            raise PeopleError("locked", minutes=-(-int(found["until"] - self._now()) // 60))
        if not self._fits(found["password"] if found else self._nobody, password) or not found:
            if found:
                self._note_wrong(found)
            raise PeopleError("login_wrong")
        self._people.update({"wrong": 0, "locks": 0, "until": 0.0}, where("name") == found["name"])
        return self._begin(found["name"]), Person(name=found["name"], role=found["role"])

    def _begin(self, name: str) -> str:
        token, now = secrets.token_urlsafe(32), self._now()
        self._sessions[_digest(token)] = _Session(name, secrets.token_urlsafe(32), now, now)
        return token

    def passkeys(self) -> dict[str, list[bytes]]:
        """By name: WebAuthn's attested credential data."""
        everybody: Any = self._people.all()
        return {each["name"]: [bytes.fromhex(data) for data in each.get("passkeys", ())] for each in everybody}

    def add_passkey(self, name: str, data: bytes) -> None:
        found = self._of(name)
        if found:
            change = {"passkeys": [*found.get("passkeys", ()), data.hex()][-_MOST_PASSKEYS:]}
            self._people.update(change, where("name") == name)

    def remove_passkeys(self, name: str) -> None:
        self._people.update({"passkeys": []}, where("name") == name)

    def log_in_by_passkey(self, name: str) -> str:
        """For somebody whose passkey was good: a new session's token. A lock is of the password only."""
        return self._begin(name)

    def _fits(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False

    def _note_wrong(self, found: Any) -> None:
        """On the disk at once: pulling the plug is no way to go on guessing."""
        wrong, locks = found["wrong"] + 1, found["locks"]
        change: dict[str, Any] = {"wrong": wrong}
        if wrong >= _TRIES:
            change = {"wrong": 0, "locks": locks + 1, "until": self._now() + _LOCKED_S[min(locks, len(_LOCKED_S) - 1)]}
        self._people.update(change, where("name") == found["name"])

    def session(self, token: str | None) -> tuple[Person, str] | None:
        """Who it is, and what his forms must carry; None: nobody."""
        session = self._sessions.get(_digest(token or ""))
        if session is None:
            return None
        now = self._now()
        found = self._of(session.name)
        if not found or now - session.used_s > _IDLE_S or now - session.begun_s > _LONGEST_S:
            self.log_out(token)
            return None
        session.used_s = now
        return Person(name=found["name"], role=found["role"]), session.csrf

    def lasts(self, token: str | None) -> bool:
        """Whether a session is still one. It is not used by this."""
        session = self._sessions.get(_digest(token or ""))
        return session is not None and self._now() - session.begun_s <= _LONGEST_S

    def log_out(self, token: str | None) -> None:
        self._sessions.pop(_digest(token or ""), None)


def _share(kept: Mapping[str, Any]) -> Share:
    share_id = str(kept["digest"])[:16]
    return Share(share_id=share_id, call_id=kept["call_id"], by=kept["by"], until_s=kept["until"])


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
