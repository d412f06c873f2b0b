"""Readings, rollups and the ledger, as columns. Rows never become Python objects: see `storage/packed.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from devices.batch import Float64, Int32, Int64
from devices.catalogue import Kind
from storage import sql
from storage.packed import unpack
from storage.pgcopy import Type
from storage.pool import ReadPool, one

_SQL: Final = sql.load("read")

_LATEST: Final[Mapping[str, Type | None]] = {
    "device": None,
    "metric": None,
    "unit": None,
    "time": "timestamptz",
    "value": "float8",
    "flags": "int2",
    "stale": "int2",
}
_RAW: Final[Mapping[str, Type | None]] = {"time": "timestamptz", "value": "float8", "flags": "int2"}
_MINUTES: Final[Mapping[str, Type | None]] = {
    "time": "timestamptz",
    "n": "int4",
    "n_bad": "int4",
    "vmin": "float8",
    "vmax": "float8",
    "vfirst": "float8",
    "vlast": "float8",
    "s1": "float8",
    "s2": "float8",
}
#: Columns of the ledger that are counted, in the table's order.
COUNTS: Final = (
    "messages",
    "undecodable",
    "redelivered",
    "received",
    "stored",
    "duplicate",
    "conflict",
    "missing",
    "quarantined",
    "overflow",
)
_LEDGER: Final[Mapping[str, Type | None]] = {"source": None, "minute": "timestamptz", **dict.fromkeys(COUNTS, "int8")}
_OLDEST: Final = datetime(1, 1, 1, tzinfo=UTC)
_NEWEST: Final = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class LatestFilter:
    """Which series; None: any."""

    domain: str | None = None  # of the device
    district: str | None = None
    devices: Sequence[str] | None = None
    metrics: Sequence[str] | None = None
    include_retired: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Latest:
    """Newest readings: lists and arrays of one length, in order of device and metric."""

    at: datetime  # the database's clock
    device: Sequence[str]
    metric: Sequence[str]
    unit: Sequence[str]
    time: Int64  # us since 1970 UTC
    value: Float64
    flags: NDArray[np.int16]
    stale: NDArray[np.int16]  # 1: three expected intervals have passed since


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One metric of one device."""

    id: int
    device: str
    metric: str
    unit: str  # UCUM
    kind: Kind  # as its rollups were made


@dataclass(frozen=True, kw_only=True, slots=True)
class Raw:
    """Readings of one series, in time order."""

    time: Int64  # us since 1970 UTC
    value: Float64
    flags: NDArray[np.int16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Buckets:
    """Rollup rows of one series, in time order; `devices.batch.Partials` says what the columns mean."""

    time: Int64  # start of the bucket, us since 1970 UTC
    n: Int32
    n_bad: Int32
    vmin: Float64
    vmax: Float64
    vfirst: Float64
    vlast: Float64
    s1: Float64
    s2: Float64


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerPage:
    """Rows of the ledger in order of minute and source, and the sums over the whole range that was asked for."""

    totals: Mapping[str, int]  # COUNTS
    source: Sequence[str]
    minute: Int64  # us since 1970 UTC
    counts: Mapping[str, Int64]  # COUNTS, each (n,)


async def latest(pool: ReadPool, wanted: LatestFilter, *, after: tuple[str, str] | None, limit: int) -> Latest:
    """At most `limit` series, each with its newest reading, behind the pair (device, metric) `after`.

    Raises
    ------
    StorageError
        This and all below: see `ReadPool.cursor`.
    """
    parameters = {
        "domain": wanted.domain,
        "district": wanted.district,
        "devices": None if wanted.devices is None else list(wanted.devices),
        "metrics": None if wanted.metrics is None else list(wanted.metrics),
        "include_retired": wanted.include_retired,
        "after_device": after[0] if after else None,
        "after_metric": after[1] if after else None,
        "limit": limit,
    }
    async with pool.cursor() as cursor:
        row = await one(cursor, _SQL["latest"], parameters)
    return Latest(at=row[0], **unpack(row[1:], _LATEST))


async def find(pool: ReadPool, device: str, metric: str) -> Series | None:
    """The series of this device and metric, of a retired device too; None: there is none."""
    async with pool.cursor() as cursor:
        await cursor.execute(_SQL["series"], {"device": device, "metric": metric})
        row = await cursor.fetchone()
    if row is None:
        return None
    return Series(id=row[0], device=row[1], metric=row[2], unit=row[3], kind=Kind(row[4]))


async def device_exists(pool: ReadPool, device: str) -> bool:
    """Whether there is such a device, retired or not."""
    async with pool.cursor() as cursor:
        return bool((await one(cursor, _SQL["device_exists"], {"device": device}))[0])


async def raw(pool: ReadPool, series: int, *, start: datetime, stop: datetime, limit: int) -> Raw:
    """At most `limit` readings with start <= time < stop."""
    parameters = {"series": series, "start": start, "stop": stop, "limit": limit}
    async with pool.cursor() as cursor:
        return Raw(**unpack(await one(cursor, _SQL["raw"], parameters), _RAW))


async def minutes(pool: ReadPool, series: int, *, start: datetime, stop: datetime, limit: int) -> Buckets:
    """At most `limit` one-minute buckets that begin at start or later, and before stop."""
    parameters = {"series": series, "start": start, "stop": stop, "limit": limit}
    async with pool.cursor() as cursor:
        return Buckets(**unpack(await one(cursor, _SQL["minutes"], parameters), _MINUTES))


async def ledger(
    pool: ReadPool,
    sources: Sequence[str] | None,
    *,
    start: datetime | None,
    stop: datetime | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> LedgerPage:
    """At most `limit` rows with start <= minute < stop (None: open), behind the pair (minute, source) `after`.

    `sources` None: of every source.
    """
    parameters = {
        "sources": None if sources is None else list(sources),
        "start": start or _OLDEST,
        "stop": stop or _NEWEST,
        "after_minute": after[0] if after else None,
        "after_source": after[1] if after else None,
        "limit": limit,
    }
    async with pool.cursor(snapshot=True) as cursor:
        totals = await one(cursor, _SQL["ledger_totals"], parameters)
        columns = unpack(await one(cursor, _SQL["ledger"], parameters), _LEDGER)
    return LedgerPage(
        totals=dict(zip(COUNTS, totals, strict=True)),
        source=columns.pop("source"),
        minute=columns.pop("minute"),
        counts=columns,
    )
