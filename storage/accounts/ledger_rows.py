"""The ledger, as columns. Rows never become Python objects: see `storage/db/packed.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from citybeat.devices.batch import Int64
from citybeat.devices.clock import NEWEST, OLDEST
from citybeat.storage.db import sql
from citybeat.storage.db.packed import unpack
from citybeat.storage.db.pgcopy import Type
from citybeat.storage.db.pool import ReadPool, one
from citybeat.storage.registry.selection import Restriction, seen_sources

_SQL: Final = sql.load("read")

#: Columns of the ledger that are counted, in the table's order.
COUNTS: Final = (
    "messages",
    "undecodable",
    "redelivered",
    "received",
    "stored",
    "duplicate",
    "conflict",
    "missing",
    "quarantined",
    "overflow",
)
_LEDGER: Final[Mapping[str, Type | None]] = {"source": None, "minute": "timestamptz", **dict.fromkeys(COUNTS, "int8")}


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerPage:
    """Rows of the ledger in order of minute and source, and the sums over the whole range that was asked for."""

    totals: Mapping[str, int]  # COUNTS
    source: Sequence[str]
    minute: Int64  # us since 1970 UTC
    counts: Mapping[str, Int64]  # COUNTS, each (n,)


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
    """At most `limit` rows of minutes with start <= minute < stop (None: open), behind the pair (start of bucket, source) `after`.

    `bucket` is an interval of SQL, by the clocks of `zone`; `minute` is then the start of a bucket.

    `sources` None: of every source that may be seen by whoever is restricted so.

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
        totals = await one(cursor, _SQL["ledger_totals"], parameters)
        columns = unpack(await one(cursor, _SQL[statement], parameters), _LEDGER)
    return LedgerPage(
        totals=dict(zip(COUNTS, totals, strict=True)),
        source=columns.pop("source"),
        minute=columns.pop("minute"),
        counts=columns,
    )
