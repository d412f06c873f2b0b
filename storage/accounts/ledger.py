"""The accounts, asked of the database itself: what the ledger sums up to, what does not balance, which rollups are wrong.

Sync, on a connection in autocommit mode; each function sees one state of the database. `storage/accounts/ledger_rows.py` has the
ledger row by row for the API, `storage/accounts/figures.py` what Prometheus is shown.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final, Self

from citybeat.devices.flags import BAD, Flag
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, translated

_SQL: Final = sql.load("accounts")


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Sums of the ledger; the difference of two is what happened between them."""

    messages: int = 0
    undecodable: int = 0  # messages
    redelivered: int = 0  # messages
    received: int = 0  # readings, as all below
    stored: int = 0
    duplicate: int = 0
    conflict: int = 0
    missing: int = 0
    quarantined: int = 0
    overflow: int = 0  # of quarantined: not kept

    def __sub__(self, earlier: Self) -> Self:
        return type(self)(**{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)})

    @property
    def balanced(self) -> bool:
        """Whether every reading that was received ended as exactly one thing."""
        return self.received == self.stored + self.duplicate + self.conflict + self.missing + self.quarantined


@dataclass(frozen=True, kw_only=True, slots=True)
class Minute:
    """A row of the ledger."""

    minute: datetime  # of receipt
    source: str
    counts: Totals


def totals(connection: Connection, *, sources: Sequence[str] | None = None) -> Totals:
    """What the ledger sums up to over all time.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    sources : sequence of str, optional
        Only of these; all, unless given. One that does not exist counts nothing.
    """
    with translated():
        row = connection.execute(_SQL["totals"], {"sources": None if sources is None else list(sources)}).fetchone()
    assert row is not None
    return _totals(row)


def minutes(connection: Connection, *, start: datetime, sources: Sequence[str] | None = None, limit: int = 10_000) -> list[Minute]:
    """The ledger by minute of receipt and source, oldest first.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    start : datetime
        Minutes that begin then or later.
    sources : sequence of str, optional
        Only of these; all, unless given.
    limit : int
        Rows at most; of more the newest.
    """
    parameters = {"start": start, "sources": None if sources is None else list(sources), "limit": limit}
    with translated():
        rows = connection.execute(_SQL["minutes"], parameters).fetchall()
    return [Minute(minute=minute, source=source, counts=_totals(counts)) for minute, source, *counts in rows]


def source_exists(connection: Connection, source: str) -> bool:
    """Whether there is such a source, registered or heard of."""
    with translated():
        row = connection.execute(_SQL["source_exists"], {"source": source}).fetchone()
    assert row is not None
    return bool(row[0])


def _totals(row: Sequence[int]) -> Totals:
    return Totals(**dict(zip((f.name for f in fields(Totals)), row, strict=True)))


def discrepancies(connection: Connection) -> list[str]:
    """What does not balance, each as a sentence with its numbers; empty: everything does.

    Asked is whether every reading of a source ended as one thing, whether `readings`, with what retention dropped of it, has as
    many rows as the ledger says were stored, whether what is in quarantine unresolved, with what found no room there, is what the
    ledger has as quarantined, and whether the ledger's totals are the sums of its minutes.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    """
    with translated(), _snapshot(connection):
        unbalanced = connection.execute(_SQL["unbalanced"]).fetchall()
        stored = connection.execute(_SQL["stored"]).fetchone()
        astray = connection.execute(_SQL["totals_astray"]).fetchall()
        quarantined = connection.execute(_SQL["quarantined"]).fetchall()
    assert stored is not None
    found = [
        f"source {name}: received {received}, but stored {new} + duplicate {duplicate} + conflict {conflict} + missing {missing}"
        f" + quarantined {refused} = {new + duplicate + conflict + missing + refused}"
        for name, received, new, duplicate, conflict, missing, refused in unbalanced
    ]
    rows, dropped, counted = stored
    if rows + dropped != counted:
        gone = f" + {dropped} that retention dropped = {rows + dropped}" if dropped else ""
        found.append(f"{rows} rows in readings{gone}, but the ledger has {counted} as stored")
    found += [
        f"source {name}: the ledger's minutes do not add up to its totals; of received readings they have {summed}, those {total}"
        for name, total, summed in astray
    ]
    found += [
        f"source {name}: {kept} readings in quarantine + {overflow} that found no room = {kept + overflow},"
        f" but the ledger has {counted} as quarantined"
        for name, kept, overflow, counted in quarantined
    ]
    return found


def rollup_differences(connection: Connection, *, limit: int = 10) -> list[str]:
    """Rows of the rollups that are not what a recomputation from `readings` gives, each as a sentence; empty: all are.

    Counts, extremes, first and last values and times must be equal; sums may differ by 1e-9 of the sum of magnitudes, since
    floating point addition depends on its order. Quarter-hours that are marked as behind are left out: readers take them from
    the minutes. Where retention has dropped readings, quarter-hours are compared with minutes. Reads every reading.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    limit : int
        Rows that are told at most.
    """
    parameters = {"bad": int(BAD), "good": int(Flag.MANUAL_GOOD), "limit": limit}
    with translated():
        rows = connection.execute(_SQL["rollup_differences"], parameters).fetchall()
    found = []
    for table, series, device, metric, bucket, unfounded, absent, differences in rows:
        what = ["stands there without a reading"] if unfounded else ["is absent"] if absent else differences
        found.append(f"{table}, series {series} ({device}, {metric}), {bucket:%Y-%m-%dT%H:%MZ}: {'; '.join(what)}")
    return found


def numbers(connection: Connection, sources: Sequence[str]) -> dict[tuple[str, str], tuple[int, int]]:
    """How many numbered messages came, and how many between the first and the last of them did not.

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
