"""Keys of the API: commands create, list and revoke them, and the API looks them up.

A key has the form `cb_<id>_<secret>`: an id to find it by, and 256 random bits. The database has the SHA-256 of the secret. So many
bits cannot be guessed from their hash, so a slow hash would only add time to every request.
"""

import enum
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hmac import compare_digest
from typing import Any, Final

from psycopg.types.json import Jsonb

from citybeat.devices.errors import CitybeatError
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, translated
from citybeat.storage.db.pool import ReadPool
from citybeat.storage.registry.selection import Restriction

_SQL: Final = sql.load("keys")
#: Letters of an id: no capitals, so that it is easy to say and to type; 52 random bits, so that two keys never share one.
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_ID_LENGTH: Final = 10
#: Number of random bytes in a secret.
_SECRET_BYTES: Final = 32
_FORM: Final = re.compile(r"cb_([a-z0-9]{10})_([A-Za-z0-9_-]{43})")


class Scope(enum.StrEnum):
    """Permissions of a key."""

    READ = "read"  # read devices, readings and the ledger
    WRITE = "write"  # post readings
    ADMIN = "admin"  # both, and change the registry, retry quarantine


class ApiKeyError(CitybeatError):
    """A key cannot be created, or does not exist."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key without its secret."""

    id: str
    name: str  # of its user, for people
    scopes: frozenset[Scope]
    within: Restriction | None  # None: unrestricted
    created_at: datetime
    created_by: str
    expires_at: datetime | None  # None: never
    revoked_at: datetime | None

    def ended(self, now: datetime) -> str | None:
        """Why the key is no longer valid; None if it is."""
        if self.revoked_at is not None:
            return f"key {self.id} was revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return f"key {self.id} has expired"
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A client's token, parsed."""

    id: str
    sha256: bytes  # of its secret

    @classmethod
    def parse(cls, text: str) -> "Token | None":
        """Parse a token; None if it does not have the form of a key.

        Examples
        --------
        >>> Token.parse("cb_0123456789_" + "x" * 43).id, Token.parse("Basic dXNlcg==")
        ('0123456789', None)
        """
        match = _FORM.fullmatch(text)
        return None if match is None else cls(id=match[1], sha256=hashlib.sha256(match[2].encode()).digest())


def create(
    connection: Connection,
    *,
    name: str,
    scopes: Sequence[Scope],
    by: str,
    within: Restriction | None = None,
    expires_at: datetime | None = None,
) -> str:
    """Create a key.

    Parameters
    ----------
    connection : Connection
    name : str
        Its user.
    scopes : sequence of Scope
        At least one.
    by : str
        Its creator.
    within : Restriction, optional
        Limits what it may see; default everything.
    expires_at : datetime, optional
        Aware; default never.

    Returns
    -------
    str
        The key with its secret, which is stored nowhere else.

    Raises
    ------
    ApiKeyError
        A restricted key has the scope `admin`: the registry and the quarantine concern all districts.
    """
    if not scopes:
        raise ApiKeyError("a key needs a scope: read, write or admin")
    if within is not None and Scope.ADMIN in scopes:
        raise ApiKeyError("a key with the scope admin cannot be restricted: what it changes concerns every district and domain")
    number = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    with translated():
        connection.execute(
            _SQL["add"],
            {
                "id": number,
                "name": name,
                "sha256": hashlib.sha256(secret.encode()).digest(),
                "scopes": sorted(set(scopes)),
                "domains": None if within is None or within.domains is None else list(within.domains),
                "districts": None if within is None or within.districts is None else list(within.districts),
                "tags": Jsonb([] if within is None else [list(tag) for tag in within.tags]),
                "created_by": by,
                "expires_at": expires_at,
            },
        )
    return f"cb_{number}_{secret}"


def listed(connection: Connection) -> list[Key]:
    """List all keys, revoked and expired ones too, the oldest first."""
    with translated():
        return [_key(row) for row in connection.execute(_SQL["list"])]


def revoke(connection: Connection, number: str) -> bool:
    """Revoke a key for good. Returns False if it does not exist or is revoked already."""
    with translated():
        return connection.execute(_SQL["revoke"], {"id": number}).rowcount == 1


def holds(connection: Connection, text: str) -> bool:
    """Return whether a text is a key of this database that is neither revoked nor expired."""
    token = Token.parse(text)
    if token is None:
        return False
    with translated():
        row = connection.execute(_SQL["find"], {"id": token.id}).fetchone()
    key = _matching(row, token)
    return key is not None and key.ended(datetime.now(UTC)) is None


async def find(pool: ReadPool, token: Token) -> Key | None:
    """Look up a client's key; None if the id does not exist or the secret does not match.

    Raises
    ------
    StorageError
        See `ReadPool.cursor`.
    """
    async with pool.cursor() as cursor:
        row = await (await cursor.execute(_SQL["find"], {"id": token.id})).fetchone()
    return _matching(row, token)


def _matching(row: Sequence[Any] | None, token: Token) -> Key | None:
    if row is None or not compare_digest(bytes(row[-1]), token.sha256):
        return None
    return _key(row[:-1])


def _key(row: Sequence[Any]) -> Key:
    number, name, scopes, domains, districts, tags, created_at, created_by, expires_at, revoked_at = row
    within = Restriction(domains=domains, districts=districts, tags=[(tag, value) for tag, value in tags])
    return Key(
        id=number,
        name=name,
        scopes=frozenset(Scope(scope) for scope in scopes),
        within=within if domains is not None or districts is not None or tags else None,
        created_at=created_at,
        created_by=created_by,
        expires_at=expires_at,
        revoked_at=revoked_at,
    )
