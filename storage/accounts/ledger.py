"""Checks of the ledger and the rollups against the tables: sums, discrepancies, wrong rollup rows.

Sync, on a connection in autocommit mode; each function sees one state of the database. `storage/accounts/ledger_rows.py` pages
through the ledger for the API, `storage/accounts/figures.py` has the figures for Prometheus.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from citybeat.devices.ledger import OUTCOMES, Counts
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, only, translated
from citybeat.storage.db.counters import composed

_SQL: Final = sql.load("accounts")


@dataclass(frozen=True, kw_only=True, slots=True)
class Minute:
    """One row of the ledger."""

    minute: datetime  # of receipt
    source: str
    counts: Counts


def totals(connection: Connection, *, sources: Sequence[str] | None = None) -> Counts:
    """Sum the ledger over all time.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    sources : sequence of str, optional
        Only these; default all. A source that does not exist counts nothing.
    """
    with translated():
        return Counts.of(only(connection, composed(_SQL["totals"]), {"sources": None if sources is None else list(sources)}))


def minutes(connection: Connection, *, start: datetime, sources: Sequence[str] | None = None, limit: int = 10_000) -> list[Minute]:
    """Rows of the ledger by minute of receipt and source, oldest first.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    start : datetime
        First minute.
    sources : sequence of str, optional
        Only these; default all.
    limit : int
        Maximum number of rows; of more, the newest are returned.
    """
    parameters = {"start": start, "sources": None if sources is None else list(sources), "limit": limit}
    with translated():
        rows = connection.execute(composed(_SQL["minutes"]), parameters).fetchall()
    return [Minute(minute=minute, source=source, counts=Counts.of(counts)) for minute, source, *counts in rows]


def source_exists(connection: Connection, source: str) -> bool:
    """Return whether a source of this name exists, registered or not."""
    with translated():
        return bool(only(connection, _SQL["source_exists"], {"source": source})[0])


def discrepancies(connection: Connection) -> list[str]:
    """Find where the ledger does not balance. Each discrepancy is a sentence with its numbers.

    The checks: every received reading of a source ended as exactly one outcome; `readings`, with the rows that retention dropped,
    has as many rows as the ledger counts as stored; unresolved readings in quarantine, with those beyond the quota, are as many as
    the ledger counts as quarantined; the ledger's totals are the sums of its minutes.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    """
    with translated(), _snapshot(connection):
        unbalanced = connection.execute(composed(_SQL["unbalanced"])).fetchall()
        rows, dropped, counted = only(connection, _SQL["stored"])
        astray = connection.execute(composed(_SQL["totals_astray"])).fetchall()
        quarantined = connection.execute(_SQL["quarantined"]).fetchall()
    found = [
        f"source {name}: received {received}, but {' + '.join(f'{each} {n}' for each, n in zip(OUTCOMES, ended, strict=True))}"
        f" = {sum(ended)}"
        for name, received, *ended in unbalanced
    ]
    if rows + dropped != counted:
        gone = f" + {dropped} that retention dropped = {rows + dropped}" if dropped else ""
        found.append(f"{rows} rows in readings{gone}, but the ledger has {counted} as stored")
    found += [
        f"source {name}: the ledger's minutes do not add up to its totals; of received readings they have {summed}, those {total}"
        for name, total, summed in astray
    ]
    found += [
        f"source {name}: {kept} readings in quarantine + {overflow} beyond the quota = {kept + overflow},"
        f" but the ledger has {counted} as quarantined"
        for name, kept, overflow, counted in quarantined
    ]
    return found


def rollup_differences(connection: Connection, *, limit: int = 10) -> list[str]:
    """Find rollup rows that differ from a recomputation from `readings`. Each is a sentence; an empty list means that all match.

    Counts, extremes, first and last values and times must be equal; sums may differ by 1e-9 of the sum of magnitudes, since
    floating point addition depends on its order. Quarter-hours that are marked as outdated are left out: readers take them
    from the minutes. Where retention has dropped readings, quarter-hours are compared with minutes. Reads the whole table.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    limit : int
        Maximum number of rows that are reported.
    """
    with translated():
        rows = connection.execute(_SQL["rollup_differences"], {**sql.JUDGES, "limit": limit}).fetchall()
    found = []
    for table, series, device, metric, bucket, unfounded, absent, differences in rows:
        what = ["has no readings"] if unfounded else ["is absent"] if absent else differences
        found.append(f"{table}, series {series} ({device}, {metric}), {bucket:%Y-%m-%dT%H:%MZ}: {'; '.join(what)}")
    return found


def numbers(connection: Connection, sources: Sequence[str]) -> dict[tuple[str, str], tuple[int, int]]:
    """Count numbered messages that came, and numbers between the first and the last of them that did not.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    sources : sequence of str

    Returns
    -------
    dict
        (seen, holes) by (source, boot).
    """
    with translated():
        rows = connection.execute(_SQL["numbers"], {"sources": list(sources)}).fetchall()
    return {(source, boot): (seen, holes) for source, boot, seen, holes in rows}


@contextmanager
def _snapshot(connection: Connection) -> Iterator[None]:
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield
