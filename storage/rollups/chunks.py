"""Short chunks, made ahead of the newest reading, where a city's readings are dense.

New readings go into the newest chunk, each to its series' place in the key's index. While a series has few rows in a chunk, it
shares a page of the index with its neighbours; later each has pages of its own, and a city of 60,000 series then touches 60,000
pages a minute: they miss the processor's caches, and after a checkpoint each is written to the log as a whole. So a chunk should
end while it is small. But every chunk within a query's range has to be planned, and takes some milliseconds to create: an imported
history of years with a value an hour needs long chunks, in a dense city too. (docs/performance.md, "Growth")

So the interval of a table stays as the settings have it, and short chunks are created in advance, from the newest reading to a day
from now. All other readings go into long chunks, which end where a short one begins. Nothing depends on a short chunk: where there
is none, a long one is created, and short ones follow where that ends.

Sync, on a connection in autocommit mode.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, only, translated

_SQL: Final = sql.load("chunks")
#: Key of the advisory lock on creating chunks; an arbitrary constant.
_LOCK: Final = 0x6368756E
_DAY: Final = timedelta(days=1)
#: Possible lengths of chunks. Each divides the one before, so that one begins where another ends.
_STEPS: Final = (timedelta(days=7), _DAY, timedelta(hours=6), timedelta(hours=1))
#: Approximate maximum number of rows in a chunk of readings or minutes, unless it is an hour long. 5 million are some 400 MB of
#: readings with their key, or 80 rows of each of 60,000 series.
ROWS: Final = 5_000_000
#: Chunks are created this far ahead of now: ingest may be down for that long, and a whole city may move on meanwhile.
_AHEAD: Final = _DAY
#: Chunks begin at most this long before now, even if the newest reading is older: a long chunk takes the rest of an outage.
_BACK: Final = timedelta(days=7)
#: The rate of each series is measured in this window before the newest reading; slower series do not count.
_WINDOW: Final = timedelta(hours=6)
#: Size of the sample, spread over all series: its mean is exact enough to choose among lengths that differ by four or more.
_SAMPLE: Final = 200
#: s. Readings that are closer together are a burst, and the rollup has one row for each minute.
_MINUTE: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizing:
    """Settings for the length of chunks."""

    longest: Mapping[str, timedelta]  # by hypertable (`readings`, `readings_1m`): its interval
    rows: int = ROWS


@dataclass(frozen=True, kw_only=True, slots=True)
class Density:
    """Rate of new rows at the newest reading."""

    at: datetime | None  # time of the newest reading; None: no readings
    rows_a_day: Mapping[str, float]  # of event time, by hypertable


def make_ahead(connection: Connection, sizing: Sizing, *, since: datetime | None = None) -> dict[str, tuple[int, timedelta]]:
    """Create the short chunks that a dense city needs.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    sizing : Sizing
    since : datetime, optional
        Start, instead of the newest reading.

    Returns
    -------
    dict
        Number and length of the new chunks, by hypertable.

    Raises
    ------
    TransientError, DatabaseUnavailableError, StorageError
    """
    made = {}
    with translated():
        dense = density(connection)
        now = datetime.now(UTC)
        start = since or max(dense.at or now, now - _BACK)
        for table, longest in sizing.longest.items():
            length = interval(dense.rows_a_day[table], longest, sizing.rows)
            if length < longest:
                bounds = {"table": table, "length": length, "start": start, "stop": now + _AHEAD}
                wanting = connection.execute(_SQL["wanting"], bounds).fetchall()
                for (begins,) in wanting:
                    _make(connection, table, begins, length)
                if wanting:
                    made[table] = len(wanting), length
    return made


def interval(rows_a_day: float, longest: timedelta, rows: int) -> timedelta:
    """Choose the longest interval that brings no more than this many rows; the shortest one if all bring more.

    Parameters
    ----------
    rows_a_day : float
    longest : timedelta
        Maximum of an interval, and the interval itself where it is below every step.
    rows : int
    """
    steps = [longest, *(step for step in _STEPS if step < longest)]
    return next((step for step in steps if rows_a_day * (step / _DAY) <= rows), steps[-1])


def density(connection: Connection) -> Density:
    """Estimate the rows that a day of event time adds to `readings` and `readings_1m`, at the newest reading.

    Neither an import nor the backlog of an outage makes a city denser. Without any readings the estimate is the expected rate of
    the registered sensors.
    """
    at, active, series = only(connection, _SQL["sample"], {"window": _WINDOW, "size": _SAMPLE})
    if series is None:
        expected = only(connection, _SQL["promised"])
        return Density(at=None, rows_a_day=dict(zip(("readings", "readings_1m"), expected, strict=True)))
    # Planned with these bounds, so that only the chunks of the window are read.
    spoken = connection.execute(_SQL["spoken"], {"series": series, "at": at, "window": _WINDOW}, prepare=False).fetchall()
    count, since = np.array(spoken, np.float64).reshape(-1, 2).T
    # One reading does not say when the next is due; the window had no other.
    per_s = np.where(count > 1, (count - 1) / np.maximum(since, _MINUTE), 1 / _WINDOW.total_seconds())
    a_day = active * _DAY.total_seconds()
    # The sample's mean; a series whose readings were dropped meanwhile does not count.
    return Density(
        at=at,
        rows_a_day={
            "readings": a_day * float(per_s.sum()) / len(series),
            "readings_1m": a_day * float(np.minimum(per_s, 1 / _MINUTE).sum()) / len(series),
        },
    )


def set_intervals(connection: Connection, wanted: Mapping[str, timedelta]) -> None:
    """Set the interval of chunks that TimescaleDB creates by itself, by hypertable."""
    with connection.transaction():
        connection.execute(_SQL["lock"], {"key": _LOCK})
        for table, length in wanted.items():
            connection.execute(_SQL["set_interval"], {"table": table, "length": length})


def _make(connection: Connection, table: str, begins: datetime, length: timedelta) -> None:
    """Create one chunk, unless it exists by now. No other transaction ever sees the interval that it is created with."""
    with connection.transaction():
        connection.execute(_SQL["lock"], {"key": _LOCK})
        (interval_before,) = only(connection, _SQL["interval"], {"table": table})
        connection.execute(_SQL["set_interval"], {"table": table, "length": length})
        connection.execute(_SQL[f"touch_{table}"], {"at": begins})
        connection.execute(_SQL[f"leave_{table}"], {"at": begins}, prepare=False)
        connection.execute(_SQL["set_interval"], {"table": table, "length": interval_before})
