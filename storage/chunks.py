"""How long a chunk is: as long as the settings say, and shorter where a city's readings are dense.

New readings go into the newest chunk, each into its series' place in the key's index. While a series has few rows in a chunk, its
neighbours share its page of the index; later each has pages of its own, and a city of 60,000 series then touches 60,000 pages a
minute: they miss the processor's caches, and after a checkpoint each goes into the log as a whole. So a chunk is to end while it
is small. But every chunk that a question spans has to be planned, so that chunks are not to be many: an imported history of years,
a value an hour, wants long ones. What is dense is measured in event time, so that neither an import nor an outage that is caught
up with changes it. (docs/performance.md, "Growth")

Sync, on a connection in autocommit mode.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import numpy as np

from storage import sql
from storage.database import Connection, translated

_SQL: Final = sql.load("chunks")
#: Key of the advisory lock on changing intervals; any fixed number of ours.
_LOCK: Final = 0x6368756E
_DAY: Final = timedelta(days=1)
#: What an interval may be, beside the setting itself: parts of each other, so that a chunk begins where a longer one ends.
_STEPS: Final = (timedelta(days=7), _DAY, timedelta(hours=6), timedelta(hours=1))
#: A chunk of readings, or of minutes, has about so many at most, unless it is an hour long. 5 million are some 400 MB of readings
#: with their key, or 80 rows of each of 60,000 series.
ROWS: Final = 5_000_000
#: Back from the newest reading, where it is seen how often series speak. Who says less than once in it does not count.
_WINDOW: Final = timedelta(hours=6)
#: Series that are looked at, spread over all: their mean tells enough for steps of four and more.
_SAMPLE: Final = 200
#: s. Readings that come closer than that are a burst, and a minute's rows of the rollup are one.
_MINUTE: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizing:
    """How long chunks are to be."""

    longest: Mapping[str, timedelta]  # by hypertable; those that are not named are left alone
    rows: int = ROWS


def fit(connection: Connection, sizing: Sizing) -> dict[str, timedelta]:
    """Set the intervals of chunks yet to be made.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    sizing : Sizing

    Returns
    -------
    dict
        What was changed, by hypertable.

    Raises
    ------
    TransientError, DatabaseUnavailableError, StorageError
    """
    with translated():
        dense = density(connection)
        wanted = {table: interval(dense.get(table, 0.0), longest, sizing.rows) for table, longest in sizing.longest.items()}
        return set_intervals(connection, wanted)


def set_intervals(connection: Connection, wanted: Mapping[str, timedelta]) -> dict[str, timedelta]:
    """Have chunks that are yet to be made be so long, by hypertable; what was changed."""
    with connection.transaction():
        connection.execute(_SQL["lock"], {"key": _LOCK})
        now = {table: timedelta(seconds=seconds) for table, seconds in connection.execute(_SQL["intervals"])}
        changed = {table: length for table, length in wanted.items() if now[table] != length}
        for table, length in changed.items():
            connection.execute(_SQL["set_interval"], {"table": table, "seconds": length.total_seconds()})
    return changed


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


def density(connection: Connection) -> dict[str, float]:
    """Rows a day of event time that a city's series add to `readings` and `readings_1m`, at the newest of them.

    Where nothing has been stored yet, it is what the registered sensors are expected to bring.
    """
    row = connection.execute(_SQL["sample"], {"window": _WINDOW, "size": _SAMPLE}).fetchone()
    assert row is not None
    at, active, series = row
    if series is None:
        promised = connection.execute(_SQL["promised"]).fetchone()
        assert promised is not None
        return dict(zip(("readings", "readings_1m"), promised, strict=True))
    # Planned with these bounds, so that only the chunks of the window are looked into.
    spoken = connection.execute(_SQL["spoken"], {"series": series, "at": at, "window": _WINDOW}, prepare=False).fetchall()
    count, since = np.array(spoken, np.float64).reshape(-1, 2).T
    # Of one reading it is not known when the next is due: not within the window, for all that is seen.
    per_s = np.where(count > 1, (count - 1) / np.maximum(since, _MINUTE), 1 / _WINDOW.total_seconds())
    a_day = active * _DAY.total_seconds()
    # The sample's mean; a series that has lost its readings since says nothing.
    return {
        "readings": a_day * float(per_s.sum()) / len(series),
        "readings_1m": a_day * float(np.minimum(per_s, 1 / _MINUTE).sum()) / len(series),
    }
