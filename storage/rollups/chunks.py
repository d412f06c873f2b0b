"""Short chunks, made ahead of the newest reading, where a city's readings are dense.

New readings go into the newest chunk, each into its series' place in the key's index. While a series has few rows in a chunk, its
neighbours share its page of the index; later each has pages of its own, and a city of 60,000 series then touches 60,000 pages a
minute: they miss the processor's caches, and after a checkpoint each goes into the log as a whole. So a chunk is to end while it
is small. But every chunk that a question spans has to be planned, and takes some milliseconds to be made: a history of years that
is imported, a value an hour, wants long ones, also into a dense city. (docs/performance.md, "Growth")

So the interval of a table stays what the settings say, and short chunks are made before there is anything for them, from the
newest reading to a day from now. What lies elsewhere goes into long chunks, which end where a short one begins. Nothing hangs on a
short chunk being there: where it is not, a long one is made, and short ones follow where that ends.

Sync, on a connection in autocommit mode.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, translated

_SQL: Final = sql.load("chunks")
#: Key of the advisory lock on making them; any fixed number of ours.
_LOCK: Final = 0x6368756E
_DAY: Final = timedelta(days=1)
#: How long chunks may be. Parts of each other, so that one begins where another ends.
_STEPS: Final = (timedelta(days=7), _DAY, timedelta(hours=6), timedelta(hours=1))
#: A chunk of readings, or of minutes, has about so many at most, unless it is an hour long. 5 million are some 400 MB of readings
#: with their key, or 80 rows of each of 60,000 series.
ROWS: Final = 5_000_000
#: How far ahead of now they are made: ingest may be away for so long, and a whole city be moved on by it.
_AHEAD: Final = _DAY
#: How far back at most, when the newest reading is older than that: the rest of an outage is caught up with in a long chunk.
_BACK: Final = timedelta(days=7)
#: Back from the newest reading, where it is seen how often series speak. Who says less than once in it does not count.
_WINDOW: Final = timedelta(hours=6)
#: Series that are looked at, spread over all: their mean tells enough for steps of four and more.
_SAMPLE: Final = 200
#: s. Readings that come closer than that are a burst, and a minute's rows of the rollup are one.
_MINUTE: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizing:
    """How long chunks are to be."""

    longest: Mapping[str, timedelta]  # by hypertable (`readings`, `readings_1m`): the interval that it has
    rows: int = ROWS


@dataclass(frozen=True, kw_only=True, slots=True)
class Density:
    """How much comes, at the newest reading."""

    at: datetime | None  # of the newest reading; None: there is none
    rows_a_day: Mapping[str, float]  # of event time, by hypertable


def make_ahead(connection: Connection, sizing: Sizing, *, since: datetime | None = None) -> dict[str, tuple[int, timedelta]]:
    """Make the short chunks that a city wants, if it wants any.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    sizing : Sizing
    since : datetime, optional
        From when on, instead of from the newest reading.

    Returns
    -------
    dict
        How many were made, and how long they are, by hypertable.

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
    """The longest step in which no more than so many rows come; the shortest, if there is none.

    Parameters
    ----------
    rows_a_day : float
    longest : timedelta
        What an interval is at most. Where it is below every step it is the interval.
    rows : int
    """
    steps = [longest, *(step for step in _STEPS if step < longest)]
    return next((step for step in steps if rows_a_day * (step / _DAY) <= rows), steps[-1])


def density(connection: Connection) -> Density:
    """Rows a day of event time that a city's series add to `readings` and `readings_1m`, at the newest of them.

    Neither an import nor an outage that is caught up with makes a city denser. Where nothing has been stored yet, it is what the
    registered sensors are expected to bring.
    """
    row = connection.execute(_SQL["sample"], {"window": _WINDOW, "size": _SAMPLE}).fetchone()
    assert row is not None
    at, active, series = row
    if series is None:
        promised = connection.execute(_SQL["promised"]).fetchone()
        assert promised is not None
        return Density(at=None, rows_a_day=dict(zip(("readings", "readings_1m"), promised, strict=True)))
    # Planned with these bounds, so that only the chunks of the window are looked into.
    spoken = connection.execute(_SQL["spoken"], {"series": series, "at": at, "window": _WINDOW}, prepare=False).fetchall()
    count, since = np.array(spoken, np.float64).reshape(-1, 2).T
    # Of one reading it is not known when the next is due: not within the window, for all that is seen.
    per_s = np.where(count > 1, (count - 1) / np.maximum(since, _MINUTE), 1 / _WINDOW.total_seconds())
    a_day = active * _DAY.total_seconds()
    # The sample's mean; a series that has lost its readings since says nothing.
    return Density(
        at=at,
        rows_a_day={
            "readings": a_day * float(per_s.sum()) / len(series),
            "readings_1m": a_day * float(np.minimum(per_s, 1 / _MINUTE).sum()) / len(series),
        },
    )


def set_intervals(connection: Connection, wanted: Mapping[str, timedelta]) -> None:
    """Have chunks that are made when they are needed be so long, by hypertable."""
    with connection.transaction():
        connection.execute(_SQL["lock"], {"key": _LOCK})
        for table, length in wanted.items():
            connection.execute(_SQL["set_interval"], {"table": table, "length": length})


def _make(connection: Connection, table: str, begins: datetime, length: timedelta) -> None:
    """Make one chunk, unless somebody has meanwhile. Nobody else ever sees the interval that it is made with."""
    with connection.transaction():
        connection.execute(_SQL["lock"], {"key": _LOCK})
        row = connection.execute(_SQL["interval"], {"table": table}).fetchone()
        assert row is not None
        connection.execute(_SQL["set_interval"], {"table": table, "length": length})
        connection.execute(_SQL[f"touch_{table}"], {"at": begins})
        connection.execute(_SQL[f"leave_{table}"], {"at": begins}, prepare=False)
        connection.execute(_SQL["set_interval"], {"table": table, "length": row[0]})
