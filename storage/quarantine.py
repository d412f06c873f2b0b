"""What was refused, and what a replay leaves of it. A replay's transaction is `Store.batch`, like any other batch's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from psycopg.types.json import Jsonb

from devices.errors import Reason
from storage import sql
from storage.database import Connection, translated

_SQL: Final = sql.load("quarantine")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)

Entry = tuple[int | None, str, str]  # index of the reading (None: the message), reason, detail


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Which rows; None: any."""

    reason: Reason | None = None
    source: str | None = None
    since: datetime | None = None  # of receipt
    until: datetime | None = None  # of receipt, exclusive


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A message with what is refused of it."""

    id: int
    received_at: datetime
    source: str
    topic: str
    refused: Sequence[Entry]
    reasons: Sequence[str]
    readings: int  # of them quarantined, as the ledger has it
    size: int  # bytes of payload
    payload: bytes | None = None  # only from `show`
    resolved_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A row that a transaction holds, to be replayed."""

    id: int
    received_at: int  # us since 1970 UTC
    source: int  # id
    topic: str
    payload: bytes
    refused: Sequence[Entry]


def listed(connection: Connection, wanted: Filter, *, after: int = 0, limit: int = 100) -> list[Row]:
    """Open rows, oldest first, behind the id `after`."""
    parameters = {
        "reason": wanted.reason,
        "source": wanted.source,
        "since": wanted.since,
        "until": wanted.until,
        "after": after,
        "limit": limit,
    }
    with translated():
        return [_row(row) for row in connection.execute(_SQL["list"], parameters)]


def show(connection: Connection, number: int) -> Row | None:
    """One row with its payload, resolved or not; None: there is none."""
    with translated():
        row = connection.execute(_SQL["show"], {"id": number}).fetchone()
    return None if row is None else _row(row)


def sources_of(connection: Connection, ids: Sequence[int]) -> list[int]:
    """Ids of the sources of these rows."""
    with translated():
        return [row[0] for row in connection.execute(_SQL["sources_of"], {"ids": list(ids)})]


def hold(connection: Connection, ids: Sequence[int]) -> list[Held]:
    """Take rows for the length of the transaction under way; those that are resolved already are left out."""
    rows = connection.execute(_SQL["hold"], {"ids": list(ids)}).fetchall()
    return [
        Held(
            id=number,
            received_at=(received_at - _EPOCH) // _US,
            source=source,
            topic=topic,
            payload=bytes(payload),
            refused=[(entry[0], entry[1], entry[2]) for entry in refused],
        )
        for number, received_at, source, topic, payload, refused in rows
    ]


def leave(connection: Connection, row: Held, refused: Sequence[Entry]) -> None:
    """Note what is still refused of a row, in the transaction that holds it.

    A row is resolved when nothing is left, and gives its room in the source's quota back. What lost a conflict stays.
    """
    quarantined = sum(index is not None and reason != Reason.CONFLICT for index, reason, _ in refused)
    connection.execute(
        _SQL["leave"],
        {
            "id": row.id,
            "refused": Jsonb([list(entry) for entry in refused]),
            "reasons": sorted({reason for _, reason, _ in refused}),
            "readings": quarantined,
            "open": bool(refused),
        },
    )
    if not refused:
        connection.execute(_SQL["free"], {"source": row.source, "bytes": len(row.payload)})


def _row(row: Sequence[Any]) -> Row:
    number, received_at, source, topic, refused, reasons, readings, size, *rest = row
    return Row(
        id=number,
        received_at=received_at,
        source=source,
        topic=topic,
        refused=[(entry[0], entry[1], entry[2]) for entry in refused],
        reasons=reasons,
        readings=readings,
        size=size,
        payload=bytes(rest[0]) if rest else None,
        resolved_at=rest[1] if rest else None,
    )
