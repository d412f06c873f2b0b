"""What was posted, and what became of it: words that whoever takes readings over HTTP and whoever stores them have in common.

Where the client has named what it offers, the answer is kept in the transaction that stores the readings. So whoever does not know
whether his first try took effect asks again, gets the same answer, and nothing is stored or counted twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from citybeat.devices.errors import CitybeatError, Reason
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, translated

_SQL: Final = sql.load("answers")
#: How long an answer is kept: as long as ids of batches are.
KEPT: Final = timedelta(days=1)
#: Refused readings that an answer lists; all of them are in quarantine.
MAX_REFUSED: Final = 100

#: Index of the reading (None: the message), reason, detail.
Refused = tuple[int | None, str, str]


class NotTakenError(CitybeatError):
    """Nothing was stored, and sending it again later may help; the message says why."""


class OutcomeUnknownError(CitybeatError):
    """Nobody could say in time whether it was stored; asking again with the same id tells."""


class OtherContentError(CitybeatError):
    """The same id was used for something else before."""


class UnreadableError(CitybeatError):
    """Nothing of a payload can be read."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Final = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestRequest:
    """One payload, as a message over MQTT would have it."""

    id: UUID  # the same at every try
    digest: bytes  # of what is offered under this id
    lasting: bool  # the id comes from the client, who may try again with it: the answer is kept
    source: str  # registered
    channel: str  # as in a topic
    payload: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestResult:
    """What became of an offer."""

    counts: Mapping[str, int]  # the ledger's columns
    reasons: Mapping[str, int]  # of what was refused, and of conflicts, all of them
    refused: Sequence[Refused]  # the first of them, in order of the reading
    repeated: bool = False  # it was there already: this is what was said then


def find(connection: Connection, offers: Sequence[IngestRequest]) -> dict[UUID, IngestResult | OtherContentError]:
    """What was said to these, by id, as far as anything was."""
    with translated():
        rows = connection.execute(_SQL["find"], {"ids": [offer.id for offer in offers]}).fetchall()
    digests = {offer.id: offer.digest for offer in offers}
    return {
        number: _read(answer) if digest == digests[number] else OtherContentError("the same key was used for something else before")
        for number, digest, answer in rows
    }


def keep(connection: Connection, said: Sequence[tuple[IngestRequest, IngestResult]]) -> bool:
    """Keep answers, in the transaction under way. False: one of the offers has an answer already, by somebody else."""
    rows = [
        {
            "id": offer.id,
            "digest": offer.digest,
            "answer": Jsonb(_written(answer)),
            "for": KEPT,
        }
        for offer, answer in said
    ]
    with connection.cursor() as cursor:
        cursor.executemany(_SQL["keep"], rows)
        return cursor.rowcount == len(rows)


def forget(connection: Connection) -> None:
    """Forget what nobody asks for any more."""
    with translated():
        connection.execute(_SQL["forget"])


def _written(answer: IngestResult) -> dict[str, Any]:
    return {"counts": dict(answer.counts), "reasons": dict(answer.reasons), "refused": [list(entry) for entry in answer.refused]}


def _read(answer: Mapping[str, Any]) -> IngestResult:
    refused = [(index, reason, detail) for index, reason, detail in answer["refused"]]
    return IngestResult(counts=answer["counts"], reasons=answer["reasons"], refused=refused, repeated=True)
