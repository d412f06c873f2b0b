"""What the API is handed by whoever starts it: how readings are taken, and how what was refused is tried again.

Law: this room judges no reading and stores none. It offers payloads, and passes on the answers.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final, Protocol

from citybeat.api.http.bodies import UPLOAD
from citybeat.api.http.problems import Problem
from citybeat.devices.errors import CitybeatError, Reason
from citybeat.storage.accounts.quarantine import Filter
from citybeat.storage.batches.ingest_requests import (
    IngestRequest,
    IngestResult,
    NotTakenError,
    OtherContentError,
    OutcomeUnknownError,
    Refused,
)
from citybeat.storage.registry.selection import Restriction

#: s that a request waits for its readings to be stored: a batch takes one at most, and a rebuild's slice another.
PATIENCE: Final = 15.0
#: Bytes of bodies that are read at once: four of the largest, or many thousands of small ones.
IN_MEMORY: Final = 4 * UPLOAD
#: s after which a client may try again.
_RETRY_AFTER: Final = "2"
_MISMATCH: Final = re.compile(r"device (.*) belongs to another source", re.DOTALL)


class ReadingsWriter(Protocol):
    """Takes payloads; started and stopped with the application."""

    @property
    def max_bytes(self) -> int:
        """Bytes of one payload at most."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End after what is under way."""

    def check(self) -> None:
        """Raise a `CitybeatError` if nothing would be taken any more."""

    def take(self, offer: IngestRequest, within: float) -> Future[IngestResult]:
        """See `storage.batches.ingest_requests`; the future can be cancelled as long as nothing has happened."""


class Replay(Protocol):
    """Tries refused messages again."""

    def __call__(self, wanted: Filter, *, after: int, limit: int) -> tuple[Mapping[str, int], int | None]:
        """Counts of what came of it, and the last row's id if there may be more behind it."""


class Uploads:
    """How many bytes of bodies are in memory at once. One for each application."""

    def __init__(self, limit: int = IN_MEMORY) -> None:
        self._limit: Final = limit
        self._taken = 0

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Room for a body.

        Raises
        ------
        Problem
            There is none now.
        """
        if self._taken and self._taken + size > self._limit:
            raise not_taken("as much is being read already as there is room for")
        self._taken += size
        try:
            yield
        finally:
            self._taken -= size


async def answered(future: Future[IngestResult]) -> IngestResult:
    """What became of an offer.

    Raises
    ------
    Problem
        Nothing was taken, or nobody knows.
    StorageError
    """
    waited = asyncio.wrap_future(future)
    waited.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever gives up need not hear of it
    try:
        return await asyncio.wait_for(asyncio.shield(waited), PATIENCE)
    except TimeoutError:
        if future.cancel():
            raise not_taken("nothing was stored in time") from None
        raise unknown("it was not known in time whether it was stored") from None
    except NotTakenError as exc:
        raise not_taken(str(exc)) from exc
    except OutcomeUnknownError as exc:
        raise unknown(str(exc)) from exc
    except OtherContentError as exc:
        raise reused(exc) from exc


def not_taken(why: str) -> Problem:
    """Nothing was stored."""
    detail = f"{why}; nothing of it was stored, send it again"
    return Problem(503, "not-taken", "Not taken", detail, headers={"Retry-After": _RETRY_AFTER})


def unknown(why: str) -> Problem:
    """It may have been stored."""
    detail = f"{why}; send it again: readings with a time, and whatever has the same Idempotency-Key, are not stored twice"
    return Problem(503, "outcome-unknown", "Outcome unknown", detail, headers={"Retry-After": _RETRY_AFTER})


def reused(exc: CitybeatError) -> Problem:
    """An id for two things."""
    return Problem(409, "idempotency-key-reused", "Idempotency key reused", f"{exc}; send it with a key of its own")


def told(refused: Sequence[Refused], within: Restriction | None) -> list[Refused]:
    """What was refused, as somebody who is restricted so may know it: devices of others are not there."""
    if within is None:
        return list(refused)
    return [
        (index, told_reason(reason, within), _MISMATCH.sub(r"no device \1 is registered", text)) for index, reason, text in refused
    ]


def told_reason(reason: str, within: Restriction | None) -> str:
    """The same of a reason."""
    return Reason.UNKNOWN_DEVICE.value if within is not None and reason == Reason.SOURCE_MISMATCH else reason


def told_reasons(reasons: Mapping[str, int], within: Restriction | None) -> dict[str, int]:
    """The same of counts."""
    out: dict[str, int] = {}
    for reason, count in sorted(reasons.items()):
        name = told_reason(reason, within)
        out[name] = out.get(name, 0) + count
    return out
