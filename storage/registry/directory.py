"""Devices as the API lists them. Ingest has them as one snapshot (`storage/registry/records.py`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from citybeat.devices.catalogue import Catalogue, Domain, Kind, Metric
from citybeat.devices.device import DEVICE_FIELDS, SENSOR_NUMBERS, Sensor
from citybeat.devices.registry import snapshot
from citybeat.storage.db import sql
from citybeat.storage.db.pool import ReadPool
from citybeat.storage.registry.changes import Calibrated, calibrations, etag_of
from citybeat.storage.registry.selection import Selection

_SQL: Final = sql.load("read")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceEntry:
    """A registered device."""

    created_at: datetime
    updated_at: datetime
    retired_at: datetime | None
    metrics: Sequence[str]  # sorted
    described: Mapping[str, Any]  # id, source, domain, and the fields of `devices.device.DEVICE_FIELDS`

    @property
    def id(self) -> str:
        """Id of the device."""
        return str(self.described["id"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Newest:
    """The newest reading of a series."""

    time: datetime
    value: float  # unit of the metric
    flags: int
    age: float  # s, by the database's clock; negative: ahead of it


@dataclass(frozen=True, kw_only=True, slots=True)
class SensorEntry:
    """One sensor of a device, with the bounds by which its readings are judged; infinite ones are open."""

    metric: str
    domain: str
    unit: str  # UCUM
    kind: str
    low: float
    high: float
    suspect_low: float
    suspect_high: float
    rating: float | None
    interval: float  # s between readings
    sentinels: Sequence[float]  # every code for "missing", default ones included
    registered: Sensor  # with the values that its registration overrides
    retired_at: datetime | None  # of the sensor; its device may be in service
    newest: Newest | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceDetail:
    """A device with its whole registration."""

    entry: DeviceEntry
    sensors: Sequence[SensorEntry]  # in order of metric
    calibrations: Sequence[Calibrated]
    etag: str


async def devices(pool: ReadPool, wanted: Selection, *, source: str | None, after: str | None, limit: int) -> list[DeviceEntry]:
    """List at most `limit` devices, in order of id, with ids behind `after`; `source` None: of any source.

    Raises
    ------
    StorageError
        See `ReadPool.cursor`.
    """
    parameters = {**wanted.parameters(), "source": source, "after": after, "limit": limit}
    async with pool.cursor() as cursor:
        await cursor.execute(_SQL["devices"], parameters)
        return [_device(row) for row in await cursor.fetchall()]


async def device(pool: ReadPool, wanted: Selection, catalogue: Catalogue) -> DeviceDetail | None:
    """Look up the one device of a selection; None if it does not exist.

    Parameters
    ----------
    pool : ReadPool
    wanted : Selection
        With one device id.
    catalogue : Catalogue
        Source of the bounds that the registration does not override. A metric that it lacks has no bounds.

    Raises
    ------
    StorageError
        See `ReadPool.cursor`.
    """
    async with pool.cursor(snapshot=True) as cursor:
        await cursor.execute(_SQL["devices"], {**wanted.parameters(), "source": None, "after": None, "limit": 1})
        found = await cursor.fetchone()
        if found is None:
            return None
        entry = _device(found)
        await cursor.execute(_SQL["sensors"], {"device": entry.described["id"]})
        rows = await cursor.fetchall()
        calibrated = await calibrations(cursor, entry.described["id"])
        etag = await etag_of(cursor, entry.described["id"])
    return DeviceDetail(entry=entry, sensors=_sensors(rows, catalogue), calibrations=calibrated, etag=etag)


def _device(row: Sequence[Any]) -> DeviceEntry:
    created_at, updated_at, retired_at, metrics, *described = row
    return DeviceEntry(
        created_at=created_at,
        updated_at=updated_at,
        retired_at=retired_at,
        metrics=metrics,
        described=dict(zip(("id", "source", "domain", *DEVICE_FIELDS), described, strict=True)),
    )


def _sensors(rows: Sequence[Sequence[Any]], catalogue: Catalogue) -> list[SensorEntry]:
    # Ingest judges by the same code, so the API shows the bounds that are applied. Ids only number the rows here.
    metrics = [catalogue.get(row[0]) or Metric(name=row[0], domain=Domain(row[1]), unit=row[2], kind=Kind(row[3])) for row in rows]
    sensors = [
        Sensor(metric=row[0], sentinels=tuple(row[4]), unit=row[5], **dict(zip(SENSOR_NUMBERS, row[6:15], strict=True)))
        for row in rows
    ]
    bounds = snapshot.build(
        version=0,
        sources={},
        devices={},
        rows=[
            snapshot.SeriesRow(id=i, device="", source=1, retired=False, metric=metric, sensor=sensor)
            for i, (metric, sensor) in enumerate(zip(metrics, sensors, strict=True), start=1)
        ],
    )
    return [
        SensorEntry(
            metric=row[0],
            domain=row[1],
            unit=row[2],
            kind=row[3],
            low=float(bounds.low[i]),
            high=float(bounds.high[i]),
            suspect_low=float(bounds.suspect_low[i]),
            suspect_high=float(bounds.suspect_high[i]),
            rating=sensor.rating,
            interval=metric.interval if sensor.interval is None else sensor.interval,
            sentinels=[code for code in bounds.sentinels[i].tolist() if code == code],  # noqa: PLR0124 - padded with NaN
            registered=sensor,
            retired_at=row[15],
            newest=None if row[16] is None else Newest(time=row[16], value=row[17], flags=row[18], age=row[19]),
        )
        for i, (row, metric, sensor) in enumerate(zip(rows, metrics, sensors, strict=True), start=1)
    ]
