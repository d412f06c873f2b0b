"""Overdue sensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from citybeat.devices.batch import Float64, Int32, Int64
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, translated
from citybeat.storage.db.packed import unpack
from citybeat.storage.db.pgcopy import Type
from citybeat.storage.db.pool import ReadPool, one
from citybeat.storage.registry.selection import Selection, behind

_SQL: Final = sql.load("liveness")
_SENSORS: Final[Mapping[str, Type | None]] = {
    "device": None,
    "metric": None,
    "source": None,
    "expected": "float8",
    "last_at": None,
    "good_at": None,
    "due_at": "timestamptz",
    "stale": "int4",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Overdue:
    """A sensor in service that has not reported for three expected intervals since its newest reading."""

    device: str
    metric: str
    source: str
    expected: timedelta  # between readings
    last_at: datetime | None  # newest reading; None: it never reported
    good_at: datetime | None  # newest good reading
    overdue_since: datetime


def overdue(connection: Connection, *, source: str | None = None, domain: str | None = None, limit: int = 1000) -> list[Overdue]:
    """List overdue sensors, the longest overdue first; `source` or `domain` None: of any."""
    with translated():
        rows = connection.execute(_SQL["overdue"], {"source": source, "domain": domain, "limit": limit}).fetchall()
    names = ("device", "metric", "source", "expected", "last_at", "good_at", "overdue_since")
    return [Overdue(**dict(zip(names, row, strict=True))) for row in rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensors:
    """Sensors in service, in order of device and metric; times are us since 1970 UTC."""

    at: datetime  # of the snapshot
    device: Sequence[str]
    metric: Sequence[str]
    source: Sequence[str]
    expected: Float64  # s between readings
    last_at: Sequence[int | None]
    good_at: Sequence[int | None]
    due_at: Int64
    stale: Int32  # 1: overdue


async def page(pool: ReadPool, wanted: Selection, *, stale: bool | None, after: tuple[str, str] | None, limit: int) -> Sensors:
    """Read at most `limit` sensors behind the pair (device, metric) `after`.

    Raises
    ------
    StorageError
        See `ReadPool.cursor`.
    """
    parameters = wanted.parameters() | {
        "stale": stale,
        **behind(after),
        "limit": limit,
    }
    async with pool.cursor(snapshot=True) as cursor:
        (at,) = await one(cursor, _SQL["moment"], {})
        return Sensors(at=at, **unpack(await one(cursor, _SQL["sensors"], parameters), _SENSORS))
