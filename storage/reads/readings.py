"""Reads of single readings: the newest of each series, pages of the raw table, and the nearest to a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Float64, Int32, Int64
from citybeat.devices.clock import TICK
from citybeat.storage.db import sql
from citybeat.storage.db.packed import unpack
from citybeat.storage.db.pgcopy import Type
from citybeat.storage.db.pool import ReadPool, one
from citybeat.storage.reads.series import READINGS, Policy, Readings, judging
from citybeat.storage.registry.selection import Selection, behind

_SQL: Final = sql.load("series")
_LATEST: Final[Mapping[str, Type | None]] = {
    "device": None,
    "metric": None,
    "unit": None,
    "latitude": None,
    "longitude": None,
    "time": "timestamptz",
    "value": "float8",
    "flags": "int2",
    "stale": "int2",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Latest:
    """Newest readings: lists and arrays of one length, in order of device and metric."""

    at: datetime  # the database's clock
    stream_cursor: str  # behind this snapshot, for `storage.reads.cursors.Cursor.of_snapshot`
    device: Sequence[str]
    metric: Sequence[str]
    unit: Sequence[str]
    latitude: Sequence[float | None]  # of the device, degrees north, WGS 84
    longitude: Sequence[float | None]
    time: Int64  # us since 1970 UTC
    value: Float64
    flags: NDArray[np.int16]
    stale: NDArray[np.int16]  # 1: overdue, three expected intervals have passed since


async def latest(
    pool: ReadPool, wanted: Selection, *, stale: bool | None, after: tuple[str, str] | None, limit: int, places: bool = False
) -> Latest:
    """Read at most `limit` series, each with its newest reading, behind the pair (device, metric) `after`.

    `stale` None: overdue or not. Without `places`, latitude and longitude are empty.

    Raises
    ------
    StorageError
        Also from all functions below; see `ReadPool.cursor`.
    """
    parameters = {
        **wanted.parameters(),
        "stale": stale,
        "places": places,
        **behind(after),
        "limit": limit,
    }
    async with pool.cursor() as cursor:
        # Planned with its filters: a generic plan takes 25 ms, not 18, for an answer with all of 10,000 sensors.
        row = await one(cursor, _SQL["latest"], parameters, prepare=False)
    return Latest(at=row[0], stream_cursor=row[1], **unpack(row[2:], _LATEST))


async def page(
    pool: ReadPool,
    ids: Int32,
    *,
    start: datetime,
    stop: datetime,
    policy: Policy,
    mask: int,
    descending: bool,
    after: tuple[datetime, int] | None,
    limit: int,
) -> Readings:
    """Read at most `limit` readings with start <= time < stop, in order of time and series, behind the pair (time, series) `after`.

    Parameters
    ----------
    pool : ReadPool
    ids : (k,) int32
    start, stop : datetime
    policy : Policy
    mask : int
        Only readings with one of these flags; 0: any flags.
    descending : bool
        The newest first.
    after : tuple, optional
    limit : int
    """
    if after is not None:
        # A bound on time lets any plan use the index: by comparison with the cursor alone, earlier pages would be read again.
        if not descending:
            start = max(start, after[0])
        elif after[0] < stop:
            stop = after[0] + TICK
    parameters = {
        "series": ids.tolist(),
        "start": start,
        "stop": stop,
        "mask": mask,
        "after_time": after[0] if after else None,
        "after_series": after[1] if after else None,
        "limit": limit,
        **judging(policy),
    }
    async with pool.cursor() as cursor:
        row = await one(cursor, _SQL["readings_descending" if descending else "readings_ascending"], parameters)
    return Readings(**unpack(row, READINGS))


async def nearest(pool: ReadPool, ids: Int32, *, at: datetime, start: datetime, stop: datetime, policy: Policy) -> Readings:
    """Read of each series the reading nearest to `at` with start <= time <= stop; of two at one distance, the earlier."""
    parameters = {"series": ids.tolist(), "at": at, "start": start, "stop": stop, **judging(policy)}
    async with pool.cursor() as cursor:
        return Readings(**unpack(await one(cursor, _SQL["nearest"], parameters), READINGS))
