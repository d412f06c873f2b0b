"""Reading what is told to streams, and what its numbers stand for. Async, on a pool of its own."""

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
#: Rows that one look takes at most.
_ROWS: Final = 500
#: Readings, beyond which a look takes no further row: of the one that reads for all, 2 MB; of those that read for one client, and
#: hold it for as long as the client takes, a fifth.
READINGS: Final = 100_000
READINGS_FOR_ONE: Final = 20_000


class Row(NamedTuple):
    """One of `outbox`."""

    position: Position
    kind: int  # outbox.READINGS, outbox.STATES_CHANGED
    told: OutboxRows


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What a look behind a cursor found."""

    cursor: Cursor  # behind all that was found
    lost: bool  # something is gone that would have been found
    registry: int  # version, not younger than any of the rows
    rows: Sequence[Row]
    more: bool  # there may be more at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """What series are, by id: arrays of one length; "" where there is no such series."""

    version: int  # of the registry
    device: NDArray[np.object_]
    metric: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.device)


async def now(pool: ReadPool) -> Cursor:
    """Behind all that is there.

    Raises
    ------
    StorageError
        This and all below: see `ReadPool.cursor`.
    """
    async with pool.cursor() as cursor:
        frontier, generation, _ = await one(cursor, _SQL["frontier"], {})
    return Cursor.below(generation, frontier)


async def page(pool: ReadPool, behind: Cursor, *, readings: int = READINGS) -> Page:
    """What is behind a cursor, in order; no further row when there are so many readings."""
    async with pool.cursor() as cursor:
        frontier, generation, following = await one(cursor, _SQL["frontier"], {})
        if generation != behind.generation or behind.position.xact >= following:
            # Of another database, or of a past that did not happen in this one.
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
    # A floor that no transaction has come to is of another generation, and will be swept away.
    if floor.xact < following and behind.lost(floor):
        return Page(cursor=Cursor.below(generation, frontier), lost=True, registry=found[0][2], rows=(), more=False)
    rows = []
    for *_, xact, number, kind, size, data in found:
        if xact is not None:
            rows.append(Row(Position(xact, number), kind, outbox.decode(data, size)))
    # More is told to be there than may be: another look finds that out.
    more = len(rows) == _ROWS or sum(len(row.told) for row in rows) >= readings
    end = rows[-1].position if more else Position(frontier - 1, LAST)
    return Page(cursor=behind.at(end) if end > behind.position else behind, lost=False, registry=found[0][2], rows=rows, more=more)


async def names(pool: ReadPool) -> Names:
    """Of all series there are."""
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
    """Which series are of a selection, by id, of those below `size`."""
    async with pool.cursor() as cursor:
        row = await one(cursor, _SQL["members"], wanted.parameters())
    ids = unpack(row, {"id": "int4"})["id"]
    found = np.zeros(size, np.bool_)
    found[ids[ids < size]] = True
    return found
