"""Who may change a source's readings and minutes: the holder of its lock, and only what retention has left.

A batch takes the locks of its sources for one transaction (`storage/batches/writer.py`); whoever changes what is stored already
takes one lock at a time, for a slice (`locked`). Retention moves the horizon first, and drops when every lock was free once: nobody
is left then who had not seen it.
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
    """What should be recomputed has no readings any more to recompute it from; the message says since when there are."""


def horizon(connection: Connection) -> datetime | None:
    """The time before which readings are gone, as retention has it; None: none is."""
    row = connection.execute(_SQL["horizon"]).fetchone()
    return None if row is None else row[0]


def check_horizon(connection: Connection, since: datetime) -> None:
    """Make sure that the readings from a time on are there.

    Raises
    ------
    GoneError
    """
    limit = horizon(connection)
    if limit is not None and since < limit:
        raise GoneError(
            f"readings before {limit:%Y-%m-%dT%H:%M:%SZ} are gone (retention), and those from {since.isoformat()} on would be "
            "needed; what was made of them stays as it is"
        )


def lock(connection: Connection, source: int) -> None:
    """Take the lock of a source to the end of the transaction under way."""
    connection.execute(_SQL["lock_source"], {"space": SOURCE_LOCKS, "source": source})


def mark(connection: Connection, source: int) -> None:
    """Note, under the source's lock, that what is known of its series' past was changed: the next writer loads it anew."""
    connection.execute(_SQL["mark"], {"source": source})


@contextmanager
def locked(connection: Connection, source: int, series: Sequence[int], *, since: datetime) -> Iterator[None]:
    """A transaction that holds the lock of a source, to change what is stored of series of it from a time on.

    Raises
    ------
    GoneError
        Readings from that time on are gone.
    TransientError
        A device has moved to another source since somebody found out whose these series are.
    """
    with connection.transaction():
        lock(connection, source)
        row = connection.execute(_SQL["astray"], {"source": source, "series": list(series)}).fetchone()
        if row is None or row[0]:
            raise TransientError("a device has moved to another source meanwhile; do the same again")
        check_horizon(connection, since)  # under the lock: retention waits for it before it drops anything
        yield
