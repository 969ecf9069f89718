"""Passkeys (WebAuthn): a login without a password, where the console is reached by a name that the browser trusts.

A browser offers them for names only, never for an address, and only where it has no doubt of the certificate.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import secrets
import time
from typing import Any

from fido2.server import Fido2Server
from fido2.webauthn import (
    AttestedCredentialData,
    PublicKeyCredentialRpEntity,
    PublicKeyCredentialUserEntity,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from firmware.console.people import People, PeopleError, Person

_BEGUN_S, _MOST_BEGUN = 300, 200


class Passkeys:
    """Thread: through People.alone(). Raises PeopleError."""

    def __init__(self, people: People) -> None:
        self._people = people
        self._begun: dict[str, tuple[float, Any]] = {}  # by ticket: until when, what the answer must fit

    @staticmethod
    def _server(host: str) -> Fido2Server:
        """host: the name that the browser has asked for."""
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return Fido2Server(PublicKeyCredentialRpEntity(id=host, name="Tsuroku"))
        raise PeopleError("passkey_name")

    def _keep(self, state: Any) -> str:
        now = time.monotonic()
        self._begun = {ticket: each for ticket, each in self._begun.items() if each[0] > now}
        if len(self._begun) >= _MOST_BEGUN:
            raise PeopleError("passkey_wrong")
        ticket = secrets.token_urlsafe(16)
        self._begun[ticket] = now + _BEGUN_S, state
        return ticket

    def _kept(self, ticket: str) -> Any:
        until, state = self._begun.pop(ticket, (0.0, None))
        if until < time.monotonic():
            raise PeopleError("passkey_wrong")
        return state

    def begin(self, host: str, person: Person) -> dict[str, Any]:
        """What the browser needs to make one: ticket and options."""
        name = person.name
        user = PublicKeyCredentialUserEntity(id=hashlib.sha256(name.encode()).digest(), name=name, display_name=name)
        own = [AttestedCredentialData(data) for data in self._people.passkeys().get(name, ())]
        options, state = self._server(host).register_begin(
            user,
            own,
            resident_key_requirement=ResidentKeyRequirement.REQUIRED,
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        return {"ticket": self._keep(state), "options": dict(options)["publicKey"]}

    def complete(self, host: str, person: Person, ticket: str, answer: str) -> None:
        """Keep the one that the browser has made."""
        server, state = self._server(host), self._kept(ticket)
        try:
            made = server.register_complete(state, json.loads(answer))
            data = made.credential_data
        except Exception as error:  # of whichever of fido2's kinds
            raise PeopleError("passkey_wrong") from error
        if data is None:
            raise PeopleError("passkey_wrong")
        self._people.add_passkey(person.name, bytes(data))

    def ask(self, host: str) -> dict[str, Any]:
        """What the browser needs to log somebody in: ticket and options."""
        options, state = self._server(host).authenticate_begin(user_verification=UserVerificationRequirement.REQUIRED)
        return {"ticket": self._keep(state), "options": dict(options)["publicKey"]}

    def log_in(self, host: str, ticket: str, answer: str) -> str:
        """The token of a new session."""
        server, state = self._server(host), self._kept(ticket)
        known = {data: name for name, own in self._people.passkeys().items() for data in own}
        try:
            used = server.authenticate_complete(
                state, [AttestedCredentialData(each) for each in known], json.loads(answer)
            )
        except Exception as error:
            raise PeopleError("passkey_wrong") from error
        return self._people.log_in_by_passkey(known[bytes(used)])
