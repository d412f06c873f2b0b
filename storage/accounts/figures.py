"""Figures of the database for Prometheus, at a cost that does not grow with the history.

Invariant: async, on the API's pool, whose statements are bounded in time. The authoritative checks are in
`storage/accounts/ledger.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from citybeat.devices.ledger import Counts
from citybeat.storage.batches.rows import GRACE
from citybeat.storage.db import sql
from citybeat.storage.db.counters import composed
from citybeat.storage.db.pool import ReadPool, one

_SQL: Final = sql.load("figures")
#: Rows of quarantine, or marks, are counted up to this number; it is shown for more. 50,000 rows of quarantine take some 50 ms.
LIMIT: Final = 50_000
#: A run of a source counts for lost messages until it has been silent for this long. Each start of a device may begin a run, so
#: their number only grows; after a week an alarm has been seen, or will not be.
HORIZON: Final = timedelta(days=7)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The database at one moment."""

    ledger: Mapping[str, Counts]  # by source
    quarantine: Mapping[str, int]  # open messages by reason; of more than LIMIT messages the newest
    lost: Mapping[str, int]  # message numbers that never came, by source
    marks: int  # marks of quarter-hours to be recomputed, LIMIT at most
    sensors: Mapping[str, int]  # in service, by domain
    overdue: Mapping[str, int]  # of them, by domain


async def figures(pool: ReadPool) -> Figures:
    """Read all figures in one snapshot.

    Raises
    ------
    StorageError
        See `ReadPool.cursor`.
    """
    async with pool.cursor(snapshot=True) as cursor:
        ledger = await (await cursor.execute(composed(_SQL["ledger"]))).fetchall()
        quarantine = await (await cursor.execute(_SQL["quarantine"], {"limit": LIMIT})).fetchall()
        lost = await (await cursor.execute(_SQL["lost"], {"grace": GRACE, "horizon": HORIZON})).fetchall()
        marks = await one(cursor, _SQL["marks"], {"limit": LIMIT})
        sensors = await (await cursor.execute(_SQL["sensors"])).fetchall()
    return Figures(
        ledger={source: Counts.of(counts) for source, *counts in ledger},
        quarantine=dict(quarantine),
        lost=dict(lost),
        marks=marks[0],
        sensors={domain: count for domain, count, _ in sensors},
        overdue={domain: count for domain, _, count in sensors},
    )
