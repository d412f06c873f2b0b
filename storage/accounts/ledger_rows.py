"""Pages of the ledger for the API, as columns: no Python object for each row (`storage/db/packed.py`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from citybeat.devices.batch import Int64
from citybeat.devices.clock import NEWEST, OLDEST
from citybeat.devices.ledger import NAMES, Counts
from citybeat.storage.db import sql
from citybeat.storage.db.counters import composed
from citybeat.storage.db.packed import unpack
from citybeat.storage.db.pgcopy import Type
from citybeat.storage.db.pool import ReadPool, one
from citybeat.storage.registry.selection import Restriction, seen_sources

_SQL: Final = sql.load("read")
_LEDGER: Final[Mapping[str, Type | None]] = {"source": None, "minute": "timestamptz", **dict.fromkeys(NAMES, "int8")}


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerPage:
    """Rows of the ledger in order of minute and source, and the sums over the whole requested range."""

    totals: Counts
    source: Sequence[str]
    minute: Int64  # us since 1970 UTC
    counts: Mapping[str, Int64]  # by counter, each (n,)


async def ledger(
    pool: ReadPool,
    sources: Sequence[str] | None,
    within: Restriction | None,
    *,
    start: datetime | None,
    stop: datetime | None,
    after: tuple[datetime, str] | None,
    limit: int,
    bucket: str = "1 minute",
    zone: str = "UTC",
) -> LedgerPage:
    """Read a page of the ledger.

    Parameters
    ----------
    pool : ReadPool
    sources : sequence of str, optional
        Only these; None: all that the restriction lets the caller see.
    within : Restriction, optional
    start, stop : datetime, optional
        Minutes with start <= minute < stop; None: open.
    after : tuple, optional
        Start of bucket and source of the last row of the page before.
    limit : int
        Maximum number of rows.
    bucket, zone : str
        Interval of SQL, by the clocks of the zone; `LedgerPage.minute` is the start of each bucket.

    Raises
    ------
    StorageError
        See `ReadPool.cursor`.
    """
    parameters: dict[str, Any] = {
        "start": start or OLDEST,
        "stop": stop or NEWEST,
        "after_minute": after[0] if after else None,
        "after_source": after[1] if after else None,
        "limit": limit,
    }
    statement = "ledger" if bucket == "1 minute" else "ledger_buckets"
    if statement == "ledger_buckets":
        parameters |= {"bucket": bucket, "zone": zone}
    async with pool.cursor(snapshot=True) as cursor:
        parameters["sources"] = await seen_sources(cursor, sources, within)
        totals = await one(cursor, composed(_SQL["ledger_totals"]), parameters)
        columns = unpack(await one(cursor, composed(_SQL[statement]), parameters), _LEDGER)
    return LedgerPage(
        totals=Counts.of(totals),
        source=columns.pop("source"),
        minute=columns.pop("minute"),
        counts=columns,
    )
