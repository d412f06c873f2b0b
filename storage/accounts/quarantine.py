"""Refused messages: listing them, and recording the result of a retry. A retry's transaction is `BatchWriter.batch`, as for any
batch.

Functions of a plain connection are for commands and retries. The async ones execute the same statements for the API, narrowed by
the caller's restriction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.types.json import Jsonb

from citybeat.devices.clock import to_us
from citybeat.devices.errors import Reason
from citybeat.devices.wire.decoded import Refused
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, translated
from citybeat.storage.db.pool import ReadPool
from citybeat.storage.registry.selection import Restriction, seen_sources

_SQL: Final = sql.load("quarantine")


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Conditions on rows; None: any."""

    reason: Reason | None = None
    source: str | None = None
    since: datetime | None = None  # of receipt
    until: datetime | None = None  # of receipt, exclusive

    def parameters(self) -> dict[str, Any]:
        """Parameters of the statement `list`."""
        return {
            "reasons": None if self.reason is None else [self.reason],
            "sources": None if self.source is None else [self.source],
            "since": self.since,
            "until": self.until,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A message with its refused readings."""

    id: int
    received_at: datetime
    source: str
    topic: str
    refused: Sequence[Refused]
    reasons: Sequence[str]
    readings: int  # number of them that the ledger counts as quarantined
    size: int  # bytes of payload
    payload: bytes | None = None  # only from `show`
    resolved_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A row that a transaction has locked for a retry."""

    id: int
    received_at: int  # us since 1970 UTC
    source: int  # id
    topic: str
    payload: bytes
    refused: Sequence[Refused]


def listed(connection: Connection, wanted: Filter, *, after: int = 0, limit: int = 100) -> list[Row]:
    """List open rows, oldest first, behind the id `after`."""
    with translated():
        return [_row(row) for row in connection.execute(_SQL["list"], wanted.parameters() | {"after": after, "limit": limit})]


def show(connection: Connection, number: int) -> Row | None:
    """Look up a row with its payload, resolved or not; None if it does not exist."""
    with translated():
        row = connection.execute(_SQL["show"], {"id": number}).fetchone()
    return None if row is None else _row(row)


async def page(pool: ReadPool, wanted: Filter, within: Restriction | None, *, after: int, limit: int) -> list[Row]:
    """As `listed`, of sources that the restriction allows; a restricted caller sees SOURCE_MISMATCH as UNKNOWN_DEVICE."""
    parameters = wanted.parameters() | {"after": after, "limit": limit}
    if within is not None and wanted.reason is Reason.UNKNOWN_DEVICE:
        parameters["reasons"] = [Reason.UNKNOWN_DEVICE, Reason.SOURCE_MISMATCH]
    if within is not None and wanted.reason is Reason.SOURCE_MISMATCH:
        parameters["reasons"] = []
    async with pool.cursor() as cursor:
        parameters["sources"] = await seen_sources(cursor, parameters["sources"], within)
        return [_row(row) for row in await (await cursor.execute(_SQL["list"], parameters)).fetchall()]


async def one_of(pool: ReadPool, number: int, within: Restriction | None) -> Row | None:
    """As `show`, if the restriction allows its source."""
    async with pool.cursor() as cursor:
        row = await (await cursor.execute(_SQL["show"], {"id": number})).fetchone()
        found = None if row is None else _row(row)
        if found is None or (within is not None and not await seen_sources(cursor, [found.source], within)):
            return None
        return found


def sources_of(connection: Connection, ids: Sequence[int]) -> list[int]:
    """Look up the ids of the sources of these rows."""
    with translated():
        return [row[0] for row in connection.execute(_SQL["sources_of"], {"ids": list(ids)})]


def hold(connection: Connection, ids: Sequence[int]) -> list[Held]:
    """Lock rows to the end of the current transaction; rows that are resolved already are left out."""
    rows = connection.execute(_SQL["hold"], {"ids": list(ids)}).fetchall()
    return [
        Held(
            id=number,
            received_at=to_us(received_at),
            source=source,
            topic=topic,
            payload=bytes(payload),
            refused=[Refused(*entry) for entry in refused],
        )
        for number, received_at, source, topic, payload, refused in rows
    ]


def leave(connection: Connection, row: Held, refused: Sequence[Refused]) -> None:
    """Record the readings of a row that are still refused, in the transaction that has locked it.

    A row without any is resolved, and its bytes no longer count against the source's quota. Readings that lost a conflict stay.
    """
    quarantined = sum(entry.reading is not None and entry.reason != Reason.CONFLICT for entry in refused)
    connection.execute(
        _SQL["leave"],
        {
            "id": row.id,
            "refused": Jsonb([list(entry) for entry in refused]),
            "reasons": sorted({entry.reason for entry in refused}),
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
        refused=[Refused(*entry) for entry in refused],
        reasons=reasons,
        readings=readings,
        size=size,
        payload=bytes(rest[0]) if rest else None,
        resolved_at=rest[1] if rest else None,
    )
