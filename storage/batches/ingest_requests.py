"""Requests that post readings over HTTP, and their results: types that the API and ingest share, and stored results.

If the client gives its request a key, the result is stored in the transaction that stores the readings. A client that does not know
whether its first try took effect repeats the request, gets the same result, and nothing is stored or counted twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from citybeat.devices.errors import CitybeatError, Reason
from citybeat.devices.wire.decoded import Refused
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, translated

_SQL: Final = sql.load("answers")
#: Results are kept as long as ids of batches are.
KEPT: Final = timedelta(days=1)
#: Maximum number of refused readings in a result; all refused readings are in quarantine.
MAX_REFUSED: Final = 100


class NotTakenError(CitybeatError):
    """Nothing was stored, and a later try may succeed; the message says why."""


class OutcomeUnknownError(CitybeatError):
    """It was not known in time whether the readings were stored; a try with the same id finds out."""


class OtherContentError(CitybeatError):
    """The same id was used for other content before."""


class UnreadableError(CitybeatError):
    """A payload cannot be decoded."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Final = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestRequest:
    """One payload, as an MQTT message would carry it."""

    id: UUID  # the same at every try
    digest: bytes  # of the content
    lasting: bool  # the id comes from the client, which may try again with it: the result is kept
    source: str  # registered
    channel: str  # as in a topic
    payload: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestResult:
    """Result of a request."""

    counts: Mapping[str, int]  # by the ledger's counters
    reasons: Mapping[str, int]  # of all refused readings and conflicts
    refused: Sequence[Refused]  # the first of them, in order of the reading
    repeated: bool = False  # this is the stored result of an earlier request


def find(connection: Connection, offers: Sequence[IngestRequest]) -> dict[UUID, IngestResult | OtherContentError]:
    """Look up stored results of these requests, by id."""
    with translated():
        rows = connection.execute(_SQL["find"], {"ids": [offer.id for offer in offers]}).fetchall()
    digests = {offer.id: offer.digest for offer in offers}
    return {
        number: _read(answer) if digest == digests[number] else OtherContentError("the same key was used for something else before")
        for number, digest, answer in rows
    }


def keep(connection: Connection, said: Sequence[tuple[IngestRequest, IngestResult]]) -> bool:
    """Store results, in the current transaction. Returns False if a request has a result already, by another writer."""
    rows = [{"id": offer.id, "digest": offer.digest, "answer": Jsonb(_written(answer)), "for": KEPT} for offer, answer in said]
    with connection.cursor() as cursor:
        cursor.executemany(_SQL["keep"], rows)
        return cursor.rowcount == len(rows)


def forget(connection: Connection) -> None:
    """Delete results that are older than they are kept."""
    with translated():
        connection.execute(_SQL["forget"])


def _written(answer: IngestResult) -> dict[str, Any]:
    return {"counts": dict(answer.counts), "reasons": dict(answer.reasons), "refused": [list(entry) for entry in answer.refused]}


def _read(answer: Mapping[str, Any]) -> IngestResult:
    refused = [Refused(*entry) for entry in answer["refused"]]
    return IngestResult(counts=answer["counts"], reasons=answer["reasons"], refused=refused, repeated=True)
