"""Advisory locks of sources, and raw's horizon. Only the holder of a source's lock changes its readings and minutes.

A batch takes the locks of its sources for one transaction (`storage/batches/writer.py`). A change of stored readings takes one lock
at a time, for a slice (`locked`). Retention moves the horizon first, and drops chunks after it has held every lock once: then every
transaction that runs has seen the new horizon.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from citybeat.devices.errors import CitybeatError
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, TransientError

_SQL: Final = sql.load("sources")
#: First key of our advisory locks on sources; the second is the source's id.
SOURCE_LOCKS: Final = 1


class GoneError(CitybeatError):
    """Retention has dropped readings that a recomputation needs; the message names the horizon."""


def horizon(connection: Connection) -> datetime | None:
    """Read raw's horizon, before which readings are dropped; None: nothing was dropped."""
    row = connection.execute(_SQL["horizon"]).fetchone()
    return None if row is None else row[0]


def check_horizon(connection: Connection, since: datetime) -> None:
    """Ensure that retention has dropped no readings from a time on.

    Raises
    ------
    GoneError
    """
    limit = horizon(connection)
    if limit is not None and since < limit:
        raise GoneError(
            f"readings before {limit:%Y-%m-%dT%H:%M:%SZ} are gone (retention), and those from {since.isoformat()} on would be "
            "needed; their rollups stay as they are"
        )


def lock(connection: Connection, source: int) -> None:
    """Take the lock of a source, to the end of the current transaction."""
    connection.execute(_SQL["lock_source"], {"space": SOURCE_LOCKS, "source": source})


def mark(connection: Connection, source: int) -> None:
    """Record, under the source's lock, that the past of its series has changed: the next writer loads their history again."""
    connection.execute(_SQL["mark"], {"source": source})


@contextmanager
def locked(connection: Connection, source: int, series: Sequence[int], *, since: datetime) -> Iterator[None]:
    """Open a transaction that holds the lock of a source, to change stored readings of its series from a time on.

    Raises
    ------
    GoneError
        Retention has dropped readings from that time on.
    TransientError
        A device has moved to another source since the caller looked up its series.
    """
    with connection.transaction():
        lock(connection, source)
        row = connection.execute(_SQL["astray"], {"source": source, "series": list(series)}).fetchone()
        if row is None or row[0]:
            raise TransientError("a device has moved to another source meanwhile; try again")
        check_horizon(connection, since)  # under the lock: retention waits for it before it drops anything
        yield
