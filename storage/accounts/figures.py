"""What Prometheus is shown of the database: figures that cost no more with a long history than with a short one.

Law: async, on the API's pool, whose statements are bounded in time; nothing here is the account, which is
`storage/accounts/ledger.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from citybeat.storage.accounts.ledger_rows import COUNTS
from citybeat.storage.batches.write import GRACE
from citybeat.storage.db import sql
from citybeat.storage.db.pool import ReadPool, one

_SQL: Final = sql.load("figures")
#: Rows of quarantine, or marks, that are counted at most; more are shown as so many. 50,000 rows of quarantine take some 50 ms.
LIMIT: Final = 50_000
#: How long a run of a source that is not heard of any more counts for lost messages. Each start of a device may begin a run, so all
#: of them would be ever more; after a week an alarm has been seen, or will not be.
HORIZON: Final = timedelta(days=7)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The database at one moment."""

    ledger: Mapping[str, Mapping[str, int]]  # by source, then column (storage.accounts.ledger_rows.COUNTS)
    quarantine: Mapping[str, int]  # open messages by reason; of more than LIMIT messages the newest
    lost: Mapping[str, int]  # numbers that never came, by source
    marks: int  # marks of quarter-hours to be recomputed, LIMIT at most
    sensors: Mapping[str, int]  # in service, by domain
    overdue: Mapping[str, int]  # of them, by domain


async def figures(pool: ReadPool) -> Figures:
    """All of it, on one connection.

    Raises
    ------
    StorageError
        See `ReadPool.cursor`.
    """
    async with pool.cursor(snapshot=True) as cursor:
        ledger = await (await cursor.execute(_SQL["ledger"])).fetchall()
        quarantine = await (await cursor.execute(_SQL["quarantine"], {"limit": LIMIT})).fetchall()
        lost = await (await cursor.execute(_SQL["lost"], {"grace": GRACE, "horizon": HORIZON})).fetchall()
        marks = await one(cursor, _SQL["marks"], {"limit": LIMIT})
        sensors = await (await cursor.execute(_SQL["sensors"])).fetchall()
    return Figures(
        ledger={source: _counts(counts) for source, *counts in ledger},
        quarantine=dict(quarantine),
        lost=dict(lost),
        marks=marks[0],
        sensors={domain: count for domain, count, _ in sensors},
        overdue={domain: count for domain, _, count in sensors},
    )


def _counts(row: Sequence[int]) -> dict[str, int]:
    return dict(zip(COUNTS, row, strict=True))
