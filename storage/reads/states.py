"""States of sensors: what is wrong now.

Whoever watches compares what `latest` says with the states that were noticed before, and writes and tells what changed, in one
transaction: a page of states and the stream behind it have no gap between them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from citybeat.devices.batch import Float64, Int64
from citybeat.devices.flags import BAD, Flag
from citybeat.devices.states import STATES
from citybeat.storage.batches import outbox
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, translated
from citybeat.storage.db.packed import unpack
from citybeat.storage.db.pgcopy import Type
from citybeat.storage.db.pool import ReadPool, one
from citybeat.storage.registry.selection import Selection

_SQL: Final = sql.load("states")
#: Key of the advisory lock on watching; any fixed number of ours.
_WATCHER: Final = 0x73746174
_CHANGED: Final[Mapping[str, Type | None]] = {"series": "int4", "time": "timestamptz", "value": "float8", "code": "int2"}
_STATES: Final[Mapping[str, Type | None]] = {
    "device": None,
    "metric": None,
    "state": None,
    "since": "timestamptz",
    "value": "float8",
    "latitude": None,
    "longitude": None,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class States:
    """Lists and arrays of one length, in order of device and metric."""

    at: datetime  # the database's clock
    stream_cursor: str  # behind what this has seen, as `storage.reads.cursors.Cursor.of_snapshot` reads it
    device: Sequence[str]
    metric: Sequence[str]
    state: Sequence[str]
    since: Int64  # us since 1970 UTC
    value: Float64  # newest; NaN: there is none
    latitude: Sequence[float | None]  # of the device, degrees north, WGS 84
    longitude: Sequence[float | None]


def watch(connection: Connection) -> int:
    """Write the states that changed, and tell streams; the number of them. 0 as well if another process is at it.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.

    Raises
    ------
    TransientError, DatabaseUnavailableError, StorageError
    """
    with translated(), connection.transaction():
        row = connection.execute(_SQL["lock_watcher"], {"key": _WATCHER}).fetchone()
        assert row is not None
        if not row[0]:
            return 0
        outbox.lock_writer(connection)
        parameters = {
            "states": list(STATES),
            "bad": int(BAD),
            "stuck": int(Flag.STUCK),
            "manual_good": int(Flag.MANUAL_GOOD),
        }
        cursor = connection.cursor(binary=True)
        row = cursor.execute(_SQL["change_states"], parameters).fetchone()
        assert row is not None
        changed = unpack(row, _CHANGED)
        changed["code"] -= 1  # PostgreSQL counts from 1
        told = outbox.OutboxRows(**changed)
        outbox.append(cursor, outbox.STATES_CHANGED, told)
    return len(told)


async def current(
    pool: ReadPool, wanted: Selection, *, states: Sequence[str] | None, after: tuple[str, str] | None, limit: int
) -> States:
    """At most `limit` sensors, with the states that were noticed last, behind the pair (device, metric) `after`.

    `states` None: whatever they are.

    Raises
    ------
    StorageError
        See `ReadPool.cursor`.
    """
    parameters = {
        **wanted.parameters(),
        "states": None if states is None else list(states),
        "after_device": after[0] if after else None,
        "after_metric": after[1] if after else None,
        "limit": limit,
    }
    async with pool.cursor() as cursor:
        row = await one(cursor, _SQL["states"], parameters)
    return States(at=row[0], stream_cursor=row[1], **unpack(row[2:], _STATES))
