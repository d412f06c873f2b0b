"""Retention: dropping and compressing old chunks. On a connection in autocommit mode, by one caller at a time.

**Readings first, then their rollups.** A level's horizon is the beginning of a day. Older data is dropped chunk by chunk, as soon
as a chunk lies wholly before the horizon. Raw is kept the shortest, so its horizon is the latest, and limits what may still change:
ingest refuses older readings (`too_old`), and recomputation of minutes refuses to begin before it (`storage/db/source_locks.py`).
So rollups before raw's horizon stay as they are, and those after it can be recomputed from the remaining readings.

**Why no transaction writes before the horizon.** The horizon is committed first, and changes the registry's version. A batch that
gets its locks after that is judged again, by the new horizon. Batches that had them before are waited for, by taking each source's
lock once. Only then are chunks dropped.

**Ledger.** The rows of a dropped chunk are counted in the transaction that drops it. A counter's last good reading is carried over,
since the increase of the next one depends on it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, StorageError, only, translated
from citybeat.storage.db.source_locks import lock
from citybeat.storage.rollups.levels import Level
from citybeat.storage.rollups.rollup import WORKER_LOCK

_LOG: Final = logging.getLogger(__name__)
_SQL: Final = sql.load("retention")
#: Key of the advisory lock on retention; an arbitrary constant.
_LOCK: Final = 0x72657465
#: Dropping waits this long at most for readers and writers of the table, because all later ones wait behind it.
_LOCK_TIMEOUT: Final = "2s"
#: Maximum number of rows of quarantine that expire in one transaction, since it updates the ledger, as batches do.
_EXPIRE: Final = 1_000


class _Table(NamedTuple):
    level: Level
    name: str
    counting: str  # statement that counts a chunk's rows


_RAW: Final = _Table(Level.RAW, "readings", "count_readings")
_MINUTES: Final = _Table(Level.MINUTES, "readings_1m", "count_1m")
_QUARTERS: Final = _Table(Level.QUARTERS, "readings_15m", "count_15m")


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Ages at which data is dropped, None: never; and at which chunks go to the columnstore, None: never."""

    raw: timedelta | None = None
    minutes: timedelta | None = None  # at least as long as raw
    quarters: timedelta | None = None  # at least as long as minutes
    quarantine: timedelta | None = None
    columnstore_raw: timedelta | None = None
    columnstore_minutes: timedelta | None = None

    def __post_init__(self) -> None:
        kept = [timedelta.max if each is None else each for each in (self.raw, self.minutes, self.quarters)]
        if kept != sorted(kept):
            raise ValueError("readings must not be kept longer than minutes, nor minutes longer than quarter-hours")


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelSummary:
    """Stored and dropped data of a level."""

    level: Level
    since: datetime | None  # older data is dropped, or will be with the rest of its chunk; None: nothing was dropped
    chunks: int
    dropped_chunks: int
    dropped_rows: int


def keep(connection: Connection, policy: Policy) -> int:
    """Drop and compress data by a policy.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    policy : Policy

    Returns
    -------
    int
        Number of chunks that were dropped or compressed, plus rows of quarantine that expired. 0 also while another process does
        it.

    Raises
    ------
    TransientError
        A table was in use for too long; completed steps stay, and another call goes on.
    StorageError
        The policy has the columnstore, and the server's edition does not.
    """
    with translated(), _alone(connection) as alone:
        if not alone:
            return 0
        done = 0
        for table, kept in ((_RAW, policy.raw), (_MINUTES, policy.minutes), (_QUARTERS, policy.quarters)):
            if kept is not None:
                connection.execute(_SQL["move_horizon"], {"level": table.level, "keep": kept})
        for table in (_RAW, _MINUTES, _QUARTERS):
            done += _drop(connection, table)
        if policy.quarantine is not None:
            done += _expire_quarantine(connection, policy.quarantine)
        for table, after in ((_RAW, policy.columnstore_raw), (_MINUTES, policy.columnstore_minutes)):
            if after is not None:
                done += _compress(connection, table, after)
        return done


def summary(connection: Connection) -> list[LevelSummary]:
    """Summarise stored and dropped data: raw, minutes, quarter-hours."""
    with translated():
        rows = connection.execute(_SQL["summary"]).fetchall()
    return [LevelSummary(level=Level(r[0]), since=r[1], chunks=r[2], dropped_chunks=r[3], dropped_rows=r[4]) for r in rows]


@contextmanager
def _alone(connection: Connection) -> Iterator[bool]:
    alone: bool = only(connection, _SQL["lock_retention"], {"key": _LOCK})[0]
    try:
        yield alone
    finally:
        if alone and not connection.broken:
            connection.execute(_SQL["unlock_retention"], {"key": _LOCK})


def _drop(connection: Connection, table: _Table) -> int:
    chunks = connection.execute(_SQL["behind"], {"level": table.level, "table": table.name}).fetchall()
    if chunks and table is _RAW:
        _wait_for_writers(connection)
    dropped = 0
    for start, stop in chunks:
        bounds = {"start": start, "stop": stop}
        with connection.transaction():
            if table is _MINUTES and not _quarters_are_made(connection, stop):
                break
            connection.execute(_SQL["patience"], {"timeout": _LOCK_TIMEOUT})
            if table is _RAW:
                connection.execute(_SQL["carry_counters"], {**bounds, **sql.JUDGES})
            (rows,) = only(connection, _SQL[table.counting], bounds)
            connection.execute(_SQL["drop_chunk"], {**bounds, "table": table.name})
            connection.execute(_SQL["note_dropped"], {**bounds, "level": table.level, "rows": rows})
        dropped += 1
        _LOG.info("retention: dropped %d rows of %s from %s to %s", rows, table.name, start.isoformat(), stop.isoformat())
    return dropped


def _wait_for_writers(connection: Connection) -> None:
    """Wait for transactions that write under an earlier horizon."""
    for (source,) in connection.execute(_SQL["sources"]).fetchall():
        with connection.transaction():
            lock(connection, source)


def _quarters_are_made(connection: Connection, stop: datetime) -> bool:
    """Return whether no quarter-hour before a time needs its minutes any more; none will to the end of the transaction."""
    locked: bool = only(connection, _SQL["lock_worker"], {"key": WORKER_LOCK})[0]
    return locked and not only(connection, _SQL["marked_before"], {"stop": stop})[0]


def _expire_quarantine(connection: Connection, kept: timedelta) -> int:
    expired: int = 0
    while True:
        (rows,) = only(connection, _SQL["expire_quarantine"], {"keep": kept, "limit": _EXPIRE})
        expired += int(rows)
        if rows < _EXPIRE:
            break
    if expired:
        _LOG.info("retention: dropped %d messages from quarantine, older than %s", expired, kept)
    return expired


def _compress(connection: Connection, table: _Table, after: timedelta) -> int:
    (edition,) = only(connection, _SQL["edition"])
    if edition != "timescale":
        raise StorageError(
            f"this TimescaleDB is the {edition} edition, which has no columnstore; unset CITYBEAT_COLUMNSTORE_DAYS_RAW and _1M, "
            "or run the Community edition with timescaledb.license = timescale"
        )
    if not only(connection, _SQL["columnstore_on"], {"table": table.name})[0]:
        connection.execute(_SQL["columnstore_readings" if table is _RAW else "columnstore_1m"])
    chunks = connection.execute(_SQL["compressible"], {"table": table.name, "after": after}).fetchall()
    for (chunk,) in chunks:
        with connection.transaction():
            connection.execute(_SQL["patience"], {"timeout": _LOCK_TIMEOUT})
            connection.execute(_SQL["compress"], {"chunk": chunk})
        _LOG.info("columnstore: compressed %s", chunk)
    return len(chunks)
