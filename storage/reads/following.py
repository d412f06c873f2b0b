"""Reads of the outbox for streams, and of the names of series. Async, on a pool of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Bools
from citybeat.storage.batches import outbox
from citybeat.storage.batches.outbox import OutboxRows
from citybeat.storage.db import sql
from citybeat.storage.db.packed import unpack
from citybeat.storage.db.pool import ReadPool, one
from citybeat.storage.reads.cursors import LAST, Cursor, Position
from citybeat.storage.registry.selection import Selection

_SQL: Final = sql.load("outbox")
#: Maximum number of rows in a page.
_ROWS: Final = 500
#: A page ends with the row that reaches this number of readings: 2 MB for the reader that serves all clients; a fifth for a reader
#: that serves one client, and holds the page for as long as the client takes.
READINGS: Final = 100_000
READINGS_FOR_ONE: Final = 20_000


class Row(NamedTuple):
    """A row of `outbox`."""

    position: Position
    kind: int  # outbox.READINGS, outbox.STATES_CHANGED
    told: OutboxRows


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Rows behind a cursor."""

    cursor: Cursor  # behind these rows
    lost: bool  # rows behind the cursor were dropped
    registry: int  # version, at least as new as the rows
    rows: Sequence[Row]
    more: bool  # the next page may have rows already


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """Names of all series, by id: arrays of one length; "" where an id has no series."""

    version: int  # of the registry
    device: NDArray[np.object_]
    metric: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.device)


async def now(pool: ReadPool) -> Cursor:
    """Make a cursor behind all rows.

    Raises
    ------
    StorageError
        Also from all functions below; see `ReadPool.cursor`.
    """
    async with pool.cursor() as cursor:
        frontier, generation, _ = await one(cursor, _SQL["frontier"], {})
    return Cursor.below(generation, frontier)


async def page(pool: ReadPool, behind: Cursor, *, readings: int = READINGS) -> Page:
    """Read the rows behind a cursor, in order, up to the row that reaches this number of readings."""
    async with pool.cursor() as cursor:
        frontier, generation, following = await one(cursor, _SQL["frontier"], {})
        if generation != behind.generation or behind.position.xact >= following:
            # The cursor is of another database, or of transactions that a restored one does not have.
            return Page(cursor=Cursor.below(generation, frontier), lost=True, registry=0, rows=(), more=False)
        parameters = {
            **behind.position._asdict(),
            "until": behind.until,
            "running": list(behind.running),
            "frontier": frontier,
            "limit": _ROWS,
            "readings": readings,
        }
        found = await (await cursor.execute(_SQL["page"], parameters)).fetchall()
    floor = Position(found[0][0], found[0][1])
    # A floor ahead of all transactions is of another generation, and will be removed.
    if floor.xact < following and behind.lost(floor):
        return Page(cursor=Cursor.below(generation, frontier), lost=True, registry=found[0][2], rows=(), more=False)
    rows = []
    for *_, xact, number, kind, size, data in found:
        if xact is not None:
            rows.append(Row(Position(xact, number), kind, outbox.decode(data, size)))
    # This may be wrong where the last row is exactly at the limit: the next page is empty then.
    more = len(rows) == _ROWS or sum(len(row.told) for row in rows) >= readings
    end = rows[-1].position if more else Position(frontier - 1, LAST)
    return Page(cursor=behind.at(end) if end > behind.position else behind, lost=False, registry=found[0][2], rows=rows, more=more)


async def names(pool: ReadPool) -> Names:
    """Read the names of all series."""
    async with pool.cursor() as cursor:
        version, *packed = await one(cursor, _SQL["names"], {})
    listed = unpack(packed, {"id": "int4", "device": None, "metric": None})
    ids: Any = listed.pop("id")
    size = int(ids.max(initial=-1)) + 1
    columns = {}
    for name, values in listed.items():
        columns[name] = np.full(size, "", object)
        columns[name][ids] = values
    return Names(version=version, **columns)


async def members(pool: ReadPool, wanted: Selection, size: int) -> Bools:
    """Find the series of a selection: (size,) bool by id, ids from `size` on left out."""
    async with pool.cursor() as cursor:
        row = await one(cursor, _SQL["members"], wanted.parameters())
    ids = unpack(row, {"id": "int4"})["id"]
    found = np.zeros(size, np.bool_)
    found[ids[ids < size]] = True
    return found
