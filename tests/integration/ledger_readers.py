"""Each reader of the ledger, asked for the counter `expired`; for `added_counter.py`, which adds it. Prints one JSON object."""

import asyncio
import json
import sys
from contextlib import closing
from datetime import UTC, datetime
from uuid import uuid4

from citybeat.api.http.models import accounts as models
from citybeat.api.routes import metrics
from citybeat.commands import ledger
from citybeat.storage.accounts import figures, ledger_rows
from citybeat.storage.accounts import ledger as accounts
from citybeat.storage.batches.rows import Tally
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.connection import connect
from citybeat.storage.db.pool import ReadPool
from citybeat.storage.reads import scoring
from citybeat.storage.registry import records

MODELS = (models.CountsModel, models.LedgerColumns, models.PostedCountsModel)


def readers(url: str) -> dict[str, object]:
    """Write the counter, and read it everywhere."""
    minute = 1_767_225_600_000_000
    with closing(connect(url, application="test")) as connection, closing(BatchWriter(url, quarantine_quota=0)) as store:
        source = records.ensure_sources(connection, ["gw-1"])["gw-1"]
        for _ in range(2):
            with store.batch(uuid4(), [source]) as transaction:
                transaction.add_ledger([Tally(minute=minute, source=source, received=5, missing=2, expired=3)], {})

        async def ask() -> tuple[ledger_rows.LedgerPage, ledger_rows.LedgerPage, figures.Figures]:
            pool = ReadPool(url, min_size=1, max_size=1)
            await pool.open()
            every = {"start": None, "stop": None, "after": None, "limit": 10}
            page = await ledger_rows.ledger(pool, None, None, **every)
            hours = await ledger_rows.ledger(pool, None, None, **every, bucket="1 hour")
            found = await figures.figures(pool)
            await pool.close()
            return page, hours, found

        page, hours, found = asyncio.run(ask())
        shown = ledger.excerpt(connection, None, datetime(2026, 1, 1, tzinfo=UTC), 10)
        samples = {
            (sample.name, sample.labels.get("outcome")): sample.value
            for family in metrics.families(found, 0.0)
            for sample in family.samples
        }
        with scoring.snapshot(connection):
            scored = scoring.ledger(connection, ["gw-1"], since=minute)
        return {
            "totals": accounts.totals(connection).expired,
            "page": page.counts["expired"].tolist(),
            "hours": hours.counts["expired"].tolist(),
            "score": scored["gw-1"].expired,
            "metric": samples["citybeat_ledger_readings", "expired"],
            "command": [column.header for column in ledger.table(shown).columns].count("expired"),
            "models": [
                "expired" in each.model_fields for each in (models.CountsModel, models.LedgerColumns, models.PostedCountsModel)
            ],
            "discrepancies": accounts.discrepancies(connection),
        }


if __name__ == "__main__":
    print(json.dumps(readers(sys.argv[1])))
