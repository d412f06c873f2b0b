"""Admission of requests: keys, their scopes and restrictions, and rate limits.

Other credentials, such as tokens of an identity provider (OIDC), can be added here without a change in any route, since routes see
only the `Caller`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from citybeat.api.http.problems import Problem
from citybeat.storage.db.connection import DatabaseUnavailableError
from citybeat.storage.db.pool import ReadPool
from citybeat.storage.registry import keys
from citybeat.storage.registry.keys import Key, Scope, Token
from citybeat.storage.registry.selection import Restriction

#: s that a key's row is cached. A revoked key works as long; reading the row at every request would cost a millisecond each.
BELIEVED: Final = 2.0
#: Keys that are cached; when there are more, the whole cache is emptied, which costs one read a key.
_REMEMBERED: Final = 10_000
EVERYTHING: Final = frozenset(Scope)
_IMPLIED: Final = {Scope.READ: {Scope.READ}, Scope.WRITE: {Scope.WRITE}, Scope.ADMIN: set(Scope)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """The client of a request."""

    id: str  # of the key; "": without one
    name: str  # of the key, for people
    scopes: frozenset[Scope]  # with those that others imply
    within: Restriction | None  # None: no restriction
    token: Token | None = None  # for checking, during a long answer, that the key is still valid

    @property
    def label(self) -> str:
        """The name of the caller in the history of changes."""
        return f"key {self.id} ({self.name})" if self.id else "anonymous"


class Gate:
    """The keys of the database, cached, and the request rates of their clients.

    Parameters
    ----------
    pool : ReadPool
    rate : int
        Requests per minute of one key or address.
    anonymous : frozenset of Scope
        Scopes of a request without a key.
    clock : callable
        Seconds; monotonic.
    """

    def __init__(
        self,
        pool: ReadPool,
        *,
        rate: int,
        anonymous: frozenset[Scope] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool: Final = pool
        self._anonymous: Final = _implied(anonymous)
        self._rate: Final = rate
        self._clock: Final = clock
        self._known: Final[dict[Token, tuple[float, Key | None]]] = {}
        self._limit: Final = RateLimitItemPerMinute(rate)
        self._limiter: Final = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def caller(self, shown: str | None) -> Caller:
        """The caller that sent this key; None: no key was sent.

        Raises
        ------
        Problem
            The key does not exist, or is not valid any more.
        StorageError
        """
        if shown is None:
            return Caller(id="", name="anonymous", scopes=self._anonymous, within=None)
        token = Token.parse(shown)
        key = None if token is None else await self._key(token)
        if key is None:
            raise unauthorized("there is no such key; `citybeat keys create` makes one")
        if (ended := key.ended(datetime.now(UTC))) is not None:
            raise unauthorized(ended)
        return Caller(id=key.id, name=key.name, scopes=_implied(key.scopes), within=key.within, token=token)

    async def still(self, caller: Caller) -> bool:
        """True while the caller's key is valid; for answers that last, such as streams.

        Raises
        ------
        StorageError
        """
        if caller.token is None:
            return True
        key = await self._key(caller.token)
        return key is not None and key.ended(datetime.now(UTC)) is None

    async def admit(self, caller: Caller, address: str) -> None:
        """Count a request against the rate limit.

        Raises
        ------
        Problem
            The limit is exceeded.
        """
        who = caller.id or f"address {address}"
        if not await self._limiter.hit(self._limit, who):
            reset = (await self._limiter.get_window_stats(self._limit, who)).reset_time
            wait = max(1, round(reset - time.time()))
            raise Problem(
                429,
                "too-many-requests",
                "Too many requests",
                f"one key may make {self._rate} requests a minute; try again in {wait} s, or ask for more in each request",
                headers={"Retry-After": str(wait)},
                requests_per_minute=self._rate,
            )

    async def _key(self, token: Token) -> Key | None:
        now = self._clock()
        read_at, key = self._known.get(token, (-BELIEVED, None))
        if now - read_at < BELIEVED:
            return key
        try:
            key = await keys.find(self._pool, token)
        except DatabaseUnavailableError:
            # Without the database no data can be read, so an old row does no harm; the scrape that reports the outage must get in.
            if key is None:
                raise
            return key
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[token] = (now, key)
        return key


def unauthorized(detail: str) -> Problem:
    """The request needs a valid key."""
    return Problem(401, "unauthorized", "Unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="citybeat"'})


def _implied(scopes: frozenset[Scope]) -> frozenset[Scope]:
    return frozenset(implied for scope in scopes for implied in _IMPLIED[scope])
