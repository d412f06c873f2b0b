"""Changes of flags of stored readings: declarations, and judging again. Slice by slice, under the locks that batches take.

A declaration is committed before the first slice. A batch that gets its source's lock afterwards finds a new version of the
registry, and is judged again; one that had the lock before is committed by the time a slice gets it. So every reading is covered.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Batch, Int16
from citybeat.devices.clock import to_us
from citybeat.devices.errors import CitybeatError
from citybeat.devices.flags import MANUAL, Verdict
from citybeat.storage.batches.write import renew_latest
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, only, translated
from citybeat.storage.db.source_locks import check_horizon, locked, mark
from citybeat.storage.rollups import minutes

_SQL: Final = sql.load("flags")
#: Maximum number of readings in one transaction, which blocks its source for about a second.
_SLICE: Final = 50_000


class NoSuchSensorError(CitybeatError):
    """A device or sensor that is not registered; the message names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Declaration:
    """A verdict on a period of a sensor."""

    device: str
    metric: str
    start: datetime  # aware
    end: datetime  # aware, exclusive
    verdict: Verdict
    by: str  # who
    reason: str  # why


def declare(connection: Connection, declared: Declaration, kind: NDArray[np.int8]) -> int:
    """Store a declaration, apply it to stored readings, and bring rollups and newest values up to date.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    declared : Declaration
    kind : (s,) int8
        Kind of each series, by id.

    Returns
    -------
    int
        Number of readings that were changed.

    Raises
    ------
    NoSuchSensorError
    GoneError
        Retention has dropped readings of the period; nothing is declared.
    ValueError
        The period is empty, or a time has no zone.
    TransientError, DatabaseUnavailableError, StorageError
        The declaration stays if it was committed; declaring the same again completes it.
    """
    _check(declared.start, declared.end)
    with translated():
        found = connection.execute(_SQL["find_series"], {"device": declared.device, "metric": declared.metric}).fetchone()
        if found is None:
            raise NoSuchSensorError(f"device {declared.device!r} has no sensor {declared.metric!r}")
        series, source = found
        check_horizon(connection, declared.start)
        minutes.prepare(connection)
        connection.execute(
            _SQL["add_declaration"],
            {
                "series": series,
                "start": declared.start,
                "end": declared.end,
                "verdict": declared.verdict,
                "by": declared.by,
                "reason": declared.reason,
            },
        )
        changed = 0
        bits = {"manual": int(MANUAL), "flags": int(declared.verdict.flags)}
        for start, stop in _slices(connection, [series], declared.start, declared.end):
            with locked(connection, source, [series], since=start):
                found_rows = connection.execute(_SQL["declare"], {"series": series, "start": start, "stop": stop, **bits}).rowcount
                if found_rows:
                    minutes.replace_range(connection, [series], *minutes.whole_minutes(start, stop), kind)
                    renew_latest(connection, [series])
                    mark(connection, source)
            changed += found_rows
    return changed


def rejudge(
    connection: Connection,
    start: datetime,
    end: datetime,
    *,
    lookback: timedelta,
    devices: Sequence[str] | None,
    kind: NDArray[np.int8],
    judge: Callable[[], Callable[[Batch], Int16]],
) -> int:
    """Judge the readings of a period again, in order of time, and bring rollups and newest values up to date.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    start, end : datetime
        Aware; [start, end).
    lookback : timedelta
        Range before the period that is read too, as the past of its first readings.
    devices : sequence of str, optional
        Only these; default all.
    kind : (s,) int8
        Kind of each series, by id.
    judge : callable
        Called once for each source. It returns a function that takes batches in order of time, each sorted by series, then time,
        and returns their new flags.

    Returns
    -------
    int
        Number of readings whose flags changed.

    Raises
    ------
    GoneError
        Retention has dropped readings of the period or of the range before it.
    ValueError
        The period is empty, or a time has no zone.
    """
    _check(start, end)
    changed = 0
    with translated():
        check_horizon(connection, start - lookback)
        minutes.prepare(connection)
        for source, series in connection.execute(
            _SQL["series_of"], {"devices": None if devices is None else list(devices)}
        ).fetchall():
            flags_of = judge()
            for first, stop in _slices(connection, series, start - lookback, end):
                with locked(connection, source, series, since=first):
                    found = _rejudge_slice(connection, series, first, stop, start, flags_of, kind)
                    if found:
                        mark(connection, source)
                changed += found
    return changed


def _rejudge_slice(
    connection: Connection,
    series: Sequence[int],
    first: datetime,
    stop: datetime,
    start: datetime,
    flags_of: Callable[[Batch], Int16],
    kind: NDArray[np.int8],
) -> int:
    rows = connection.execute(_SQL["read"], {"series": list(series), "start": first, "stop": stop}).fetchall()
    if not rows:
        return 0
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    n = len(rows)
    batch = Batch(
        series=columns[0].astype(np.int32),
        time=columns[1].astype(np.int64),
        value=columns[2].astype(np.float64),
        flags=columns[3].astype(np.int16),
        received_at=np.zeros(n, np.int64),
        message=np.zeros(n, np.int32),
        index=np.zeros(n, np.int32),
    )
    flags = flags_of(batch)
    wrong = np.flatnonzero((flags != batch.flags) & (batch.time >= to_us(start)))
    if len(wrong) == 0:
        return 0
    touched = sorted(set(batch.series[wrong].tolist()))
    connection.execute(
        _SQL["set"],
        {
            "series": batch.series[wrong].tolist(),
            "times": batch.time[wrong].tolist(),
            "flags": flags[wrong].tolist(),
            "start": first,
            "stop": stop,
        },
    )
    minutes.replace_range(connection, touched, *minutes.whole_minutes(first, stop), kind)
    renew_latest(connection, touched)
    return len(wrong)


def _slices(connection: Connection, series: Sequence[int], start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Divide a period into parts with at most `_SLICE` readings each, or more where they have one time."""
    at = only(connection, _SQL["bounds"], {"series": list(series), "start": start, "stop": end})[0]
    while at is not None:
        found = connection.execute(_SQL["slice_end"], {"series": list(series), "start": at, "stop": end, "rows": _SLICE}).fetchone()
        if found is None or found[0] == at:
            yield at, end
            return
        yield at, found[0]
        at = found[0]


def _check(start: datetime, end: datetime) -> None:
    if start.tzinfo is None or end.tzinfo is None:
        raise ValueError("a period's times need a zone")
    if not start < end:
        raise ValueError("a period must end after it begins")
