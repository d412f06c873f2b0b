"""Rollups outside of batches: bringing quarter-hours up to date, and recomputing whole periods from raw.

Sync, on a connection in autocommit mode, READ COMMITTED (PostgreSQL's default).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.catalogue import KIND_CODES, Kind
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, only, translated
from citybeat.storage.db.source_locks import check_horizon, locked
from citybeat.storage.rollups import minutes

_SQL: Final = sql.load("rollup")
#: Key of the advisory lock on bringing quarter-hours up to date; an arbitrary constant. Retention takes it before it drops chunks
#: of `readings_1m`, and only if no mark is left there: a marked quarter-hour without minutes is deleted
#: (`storage/rollups/retention.py`).
WORKER_LOCK: Final = 0x31356D

#: Maximum number of readings in one transaction of `rebuild`, which blocks its source for about a second.
_SLICE: Final = 50_000
_MINUTE: Final = timedelta(minutes=1)
#: Maximum length of a slice of a source with few readings: each minute is looked up in every chunk of a slice.
_LONGEST: Final = timedelta(days=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class SettleTime:
    """Delay before a marked quarter-hour is recomputed, so that one that is being filled is recomputed once for many batches.

    Live traffic of 60,000 series a minute would otherwise have each quarter-hour recomputed 900 times, which costs more than
    storing the readings.
    """

    #: Time without a new mark. Batches of one source follow each other more closely.
    quiet: timedelta = timedelta(seconds=5)
    #: Maximum delay. Meanwhile readers take a marked quarter-hour from its minutes, of which it has at most 15.
    patience: timedelta = timedelta(seconds=60)


NONE: Final = SettleTime(quiet=timedelta(0), patience=timedelta(0))


def advance(connection: Connection, *, rest: SettleTime = NONE, limit: int = 250_000) -> int:
    """Bring quarter-hours up to date that are marked as behind.

    Ingest appends a mark in the transaction that changes the minutes. Here, under a lock that one worker at a time gets, a first
    statement reads marks, later ones recompute those quarter-hours from the minutes, and the last deletes the marks that the first
    one saw, by their ids. Under READ COMMITTED every statement sees what was committed before it began. Hence

    - *no change is missed*: the transaction of a mark that the first statement saw was committed by then, so the later ones see its
      minutes. Of a transaction that is committed afterwards, the mark was not seen, is not deleted, and is found by the next call,
      whether this one happened to see its minutes or not;
    - *no older state overwrites a newer one*: only the holder of the lock writes quarter-hours, whole ones, and the lock is held
      until the commit is visible;
    - *a reader never sees a quarter-hour that is behind and unmarked*: new quarter-hours and the deletion of their marks are
      committed together, and so are new minutes and their mark. `quarter_hours` reads both in one statement.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    rest : SettleTime
        Recent marks are left for later.
    limit : int
        Maximum number of marked quarter-hours of series, those that are marked twice counted twice; bounds the transaction to some
        seconds. All marks of a quarter-hour are taken together, and those of one quarter-hour at least.

    Returns
    -------
    int
        Their number. 0: none is due, or another process is doing it.

    Raises
    ------
    TransientError, DatabaseUnavailableError, StorageError
    """
    with translated(), connection.transaction():
        if not only(connection, _SQL["lock_worker"], {"key": WORKER_LOCK})[0]:
            return 0
        ids, taken = only(connection, _SQL["take_marks"], {"limit": limit, "quiet": rest.quiet, "patience": rest.patience})
        if ids is None:
            return 0
        connection.execute(_SQL["no_exclusion"])
        for start, stop in connection.execute(_SQL["slices"], {"ids": ids}).fetchall():
            which = {"ids": ids, "start": start, "stop": stop}
            emptied = connection.execute(_SQL["advance_15m"], which, prepare=False).fetchall()
            connection.cursor().executemany(
                _SQL["delete_quarter"], [{"series": series, "bucket": bucket} for series, bucket in emptied]
            )
        connection.execute(_SQL["delete_marks"], {"ids": ids})
    return int(taken)


def rebuild(connection: Connection, start: datetime, end: datetime, *, devices: Sequence[str] | None = None) -> int:
    """Recompute the minutes of a period from the readings, and mark their quarter-hours. Rollup rows without readings are deleted.

    Each slice is one transaction that holds the lock of its source, as a batch does: ingest goes on in between, and its writes are
    kept. An interrupted call leaves whole slices done.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    start, end : datetime
        Aware. The period is [start, end), extended to whole minutes; of counters also the minute of the first good reading behind
        it, whose increase depends on the last one within.
    devices : sequence of str, optional
        Only these; default all.

    Returns
    -------
    int
        Number of minutes that changed, if only in the last digits of a sum, which depends on the order of addition, or were
        missing. Deleted ones are not counted.

    Raises
    ------
    GoneError
        Retention has dropped readings of the period: only its rollups are left, and this would delete them.
    ValueError
        A time is naive.
    TransientError, DatabaseUnavailableError, StorageError
    """
    if start.tzinfo is None or end.tzinfo is None:
        raise ValueError("a period's times need a zone")
    start, end = minutes.whole_minutes(start, end)
    replaced = 0
    with translated():
        check_horizon(connection, start)
        minutes.prepare(connection)
        kind = _kinds(connection)
        listed = connection.execute(_SQL["series_by_source"], {"devices": None if devices is None else list(devices)}).fetchall()
        for source, series in listed:
            replaced += _rebuild_source(connection, source, series, start, end, kind)
    return replaced


def _rebuild_source(
    connection: Connection, source: int, series: list[int], start: datetime, end: datetime, kind: NDArray[np.int8]
) -> int:
    replaced, span = 0, timedelta(hours=1)
    while start < end:
        stop = min(end, start + span)
        few = _count(connection, series, start, stop)
        if few > _SLICE and stop - start > _MINUTE:
            span = max(_MINUTE, span / 2 // _MINUTE * _MINUTE)
            continue
        with locked(connection, source, series, since=start):
            replaced += minutes.replace_range(connection, series, start, stop, kind, last=stop == end)
        start = stop
        if few < _SLICE // 4:
            span = min(2 * span, _LONGEST)
    return replaced


def _count(connection: Connection, series: list[int], start: datetime, stop: datetime) -> int:
    """Count the readings in a slice, up to one more than its maximum."""
    parameters = {"series": series, "start": start, "stop": stop, "limit": _SLICE + 1}
    return int(only(connection, _SQL["rows_within"], parameters, prepare=False)[0])


def _kinds(connection: Connection) -> NDArray[np.int8]:
    rows = connection.execute(_SQL["kinds"]).fetchall()
    kind = np.zeros(max((number for number, _ in rows), default=0) + 1, np.int8)
    for number, name in rows:
        kind[number] = KIND_CODES[Kind(name)]
    return kind
