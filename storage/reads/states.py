"""States of sensors: detecting changes, and reading the current states.

`watch` compares the states that follow from `latest` with the stored ones, and writes the changes to the table and to the outbox in
one transaction: a page of states and the stream behind it have no gap between them.
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
from citybeat.storage.db.connection import Connection, only, translated
from citybeat.storage.db.packed import unpack
from citybeat.storage.db.pgcopy import Type
from citybeat.storage.db.pool import ReadPool, one
from citybeat.storage.registry.selection import Selection, behind

_SQL: Final = sql.load("states")
#: Key of the advisory lock on watching; an arbitrary constant.
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
    stream_cursor: str  # behind this snapshot, for `storage.reads.cursors.Cursor.of_snapshot`
    device: Sequence[str]
    metric: Sequence[str]
    state: Sequence[str]
    since: Int64  # us since 1970 UTC
    value: Float64  # newest; NaN: none
    latitude: Sequence[float | None]  # of the device, degrees north, WGS 84
    longitude: Sequence[float | None]


def watch(connection: Connection) -> int:
    """Write changed states to the table and the outbox. Returns their number; 0 also while another process does it.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.

    Raises
    ------
    TransientError, DatabaseUnavailableError, StorageError
    """
    with translated(), connection.transaction():
        if not only(connection, _SQL["lock_watcher"], {"key": _WATCHER})[0]:
            return 0
        outbox.lock_writer(connection)
        parameters = {
            "states": list(STATES),
            "bad": int(BAD),
            "stuck": int(Flag.STUCK),
            "manual_good": int(Flag.MANUAL_GOOD),
        }
        cursor = connection.cursor(binary=True)
        changed = unpack(only(cursor, _SQL["change_states"], parameters), _CHANGED)
        changed["code"] -= 1  # PostgreSQL counts from 1
        rows = outbox.OutboxRows(**changed)
        outbox.append(cursor, outbox.STATES_CHANGED, rows)
    return len(rows)


async def current(
    pool: ReadPool, wanted: Selection, *, states: Sequence[str] | None, after: tuple[str, str] | None, limit: int
) -> States:
    """Read at most `limit` sensors with their current states, behind the pair (device, metric) `after`.

    `states` None: any.

    Raises
    ------
    StorageError
        See `ReadPool.cursor`.
    """
    parameters = {
        **wanted.parameters(),
        "states": None if states is None else list(states),
        **behind(after),
        "limit": limit,
    }
    async with pool.cursor() as cursor:
        row = await one(cursor, _SQL["states"], parameters)
    return States(at=row[0], stream_cursor=row[1], **unpack(row[2:], _STATES))
