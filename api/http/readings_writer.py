"""The ports through which the API writes readings and retries quarantined ones; the process that serves it passes them in.

Invariant: nothing in this package validates or stores a reading. It hands payloads over, and passes the answers on.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final, Protocol

from citybeat.api.http.bodies import UPLOAD, too_large
from citybeat.api.http.problems import Problem, invalid
from citybeat.devices.errors import CitybeatError, Reason
from citybeat.devices.wire.decoded import Refused, unknown_device
from citybeat.storage.accounts.quarantine import Filter
from citybeat.storage.batches.ingest_requests import (
    IngestRequest,
    IngestResult,
    NotTakenError,
    OtherContentError,
    OutcomeUnknownError,
    UnreadableError,
)
from citybeat.storage.registry.selection import Restriction

#: s that a request waits until its readings are stored: a batch takes one second at most, and a slice of a rebuild another.
PATIENCE: Final = 15.0
#: Bytes of bodies that are in memory at once: four of the largest, or many thousands of small ones.
IN_MEMORY: Final = 4 * UPLOAD
#: Payloads of one request that are under way at once: enough to fill a transaction.
_WINDOW: Final = 6
#: s after which a client may try again.
_RETRY_AFTER: Final = "2"


class ReadingsWriter(Protocol):
    """Writes payloads of readings; started and stopped with the application."""

    @property
    def max_bytes(self) -> int:
        """The largest payload that is taken, bytes."""

    def start(self) -> None:
        """Start writing."""

    def stop(self) -> None:
        """Stop when all payloads that are under way are written."""

    def check(self) -> None:
        """Raise a `CitybeatError` if readings cannot be written any more."""

    def take(self, offer: IngestRequest, within: float) -> Future[IngestResult]:
        """Write a payload (see `storage.batches.ingest_requests`); the future can be cancelled until writing begins."""


class Replay(Protocol):
    """Retries quarantined messages."""

    def __call__(self, wanted: Filter, *, after: int, limit: int) -> tuple[Mapping[str, int], int | None]:
        """Counts of the outcomes, and the id of the last message if there may be more after it."""


class Uploads:
    """The budget of memory for bodies. One for each application."""

    def __init__(self, limit: int = IN_MEMORY) -> None:
        self._limit: Final = limit
        self._taken = 0

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Reserve memory for a body.

        Raises
        ------
        Problem
            The budget is used up at the moment.
        """
        if self._taken and self._taken + size > self._limit:
            raise not_taken("the server is reading as many uploads as it has memory for")
        self._taken += size
        try:
            yield
        finally:
            self._taken -= size


async def answered(future: Future[IngestResult]) -> IngestResult:
    """The answer to a payload.

    Raises
    ------
    Problem
        Nothing was stored, or that is not known.
    StorageError
    """
    waited = asyncio.wrap_future(future)
    waited.add_done_callback(lambda done: done.cancelled() or done.exception())  # retrieved, even after a time-out
    try:
        return await asyncio.wait_for(asyncio.shield(waited), PATIENCE)
    except TimeoutError:
        if future.cancel():
            raise not_taken("nothing was stored in time") from None
        raise unknown("the outcome was not known in time") from None
    except NotTakenError as exc:
        raise not_taken(str(exc)) from exc
    except OutcomeUnknownError as exc:
        raise unknown(str(exc)) from exc
    except OtherContentError as exc:
        raise reused(exc) from exc


async def offered(intake: ReadingsWriter, offers: Sequence[IngestRequest]) -> list[IngestResult]:
    """The answers to payloads, in their order; a few are under way at once.

    Raises
    ------
    Problem
        One of them was refused, or its outcome is unknown; the problem says how many before it are stored.
    """
    said: list[IngestResult] = []
    under_way: deque[Future[IngestResult]] = deque()
    try:
        for offer in offers:
            if len(under_way) == _WINDOW:
                said.append(await answered(under_way.popleft()))
            under_way.append(await _taken(intake, offer))
        while under_way:
            said.append(await answered(under_way.popleft()))
    except Problem as problem:
        if len(offers) > 1:
            problem.body["detail"] += f" (of {len(offers)} parts the first {len(said)} are stored for certain)"
            problem.body.update({"parts": len(offers), "parts_stored": len(said)})
        raise
    finally:
        for rest in under_way:  # payloads that are still waiting are withdrawn
            rest.cancel()
    return said


async def _taken(intake: ReadingsWriter, offer: IngestRequest) -> Future[IngestResult]:
    try:
        return await asyncio.to_thread(intake.take, offer, PATIENCE)
    except UnreadableError as exc:
        if exc.reason is Reason.TOO_LARGE:
            raise too_large(str(exc), intake.max_bytes) from exc
        raise invalid("body", str(exc), where="body", slug="unreadable", reason=exc.reason) from exc
    except OtherContentError as exc:
        raise reused(exc) from exc
    except NotTakenError as exc:
        raise not_taken(str(exc)) from exc
    except CitybeatError as exc:
        raise not_taken("readings are not taken at the moment") from exc


def not_taken(why: str) -> Problem:
    """Nothing was stored."""
    detail = f"{why}; nothing was stored, send it again"
    return Problem(503, "not-taken", "Not taken", detail, headers={"Retry-After": _RETRY_AFTER})


def unknown(why: str) -> Problem:
    """It may have been stored."""
    detail = f"{why}; send it again: readings with a time, and requests with the same Idempotency-Key, are not stored twice"
    return Problem(503, "outcome-unknown", "Outcome unknown", detail, headers={"Retry-After": _RETRY_AFTER})


def reused(exc: CitybeatError) -> Problem:
    """One idempotency key was used for two different requests."""
    return Problem(409, "idempotency-key-reused", "Idempotency key reused", f"{exc}; send this request with another key")


def told(refused: Sequence[Refused], within: Restriction | None) -> list[Refused]:
    """Refusals as a restricted caller may see them: devices of others appear as not registered."""
    return [
        entry._replace(reason=told_reason(entry.reason, within), detail=unknown_device(entry.device))
        if within is not None and entry.reason == Reason.SOURCE_MISMATCH
        else entry
        for entry in refused
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
