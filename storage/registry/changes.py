"""Changes of the registry, one device at a time and each by a named actor, and their history.

Invariant: changes come one after the other (`registry.lock_registry`), and a change of a device locks its row, so that the version
that is compared with an ETag is the one that is changed. Triggers write the history of every change (`repeatable/03_audit.sql`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb

from citybeat.devices.catalogue import Domain
from citybeat.devices.device import DEVICE_FIELDS, SENSOR_NUMBERS, Calibration, Device, Sensor
from citybeat.devices.errors import CitybeatError
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, only, translated
from citybeat.storage.db.pool import AsyncCursor, ReadPool
from citybeat.storage.registry import records
from citybeat.storage.registry.selection import Restriction, Selection, seen_sources

_SQL: Final = sql.load("registration")
#: Floats up to this one hold every integer.
_EXACT: Final = 2.0**53
#: Columns of a device in `described`, before those of its sensor.
_ABOUT: Final = len(("id", "source", "domain", *DEVICE_FIELDS))


class NoSuchDeviceError(CitybeatError):
    """The device or sensor does not exist."""


class ExistsError(CitybeatError):
    """The device exists already."""


class ChangedError(CitybeatError):
    """The device has changed since the client read it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A device whose row a transaction has locked."""

    device: Device  # without its sensors
    retired: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """An entry of the history."""

    number: int  # 1, 2, 3, … for each device: a number for all changes would reveal how much changes elsewhere
    at: datetime
    actor: str
    subject: str  # device, sensor, calibration, declaration
    action: str  # created, changed, retired, restored, deleted
    metric: str | None  # of the changed sensor
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibrated:
    """A calibration as it was registered."""

    metric: str
    valid_from: datetime | None  # None: from the beginning
    scale: float
    offset: float  # unit of the metric
    by: str
    reason: str
    created_at: datetime
    in_force: bool  # applies to a reading that is made now


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceEntry:
    """A source."""

    name: str
    conflict_policy: str
    created_at: datetime
    status: str | None  # the last one that it reported
    status_at: datetime | None
    devices: int  # retired ones included


def act_as(connection: Connection, actor: str) -> None:
    """Record this actor for all further changes by this connection."""
    with translated():
        connection.execute(_SQL["act_always"], {"actor": actor})


@contextmanager
def acting(connection: Connection, actor: str, *, keep: bool = True) -> Iterator[None]:
    """Open a transaction whose changes are recorded as this actor's; unless `keep`, it is rolled back at its end.

    Raises
    ------
    StorageError
        Any subclass.
    """
    with translated(), connection.transaction():
        records.lock_registry(connection)
        connection.execute(_SQL["act"], {"actor": actor})
        yield
        if not keep:
            raise psycopg.Rollback


def create(connection: Connection, device: Device, actor: str) -> None:
    """Register a new device.

    Raises
    ------
    ExistsError
        The device exists, in service or not.
    DeviceError
        See `registry.register`.
    """
    with acting(connection, actor):
        row = connection.execute(_SQL["hold"], {"device": device.id}).fetchone()
        if row is not None:
            how = 'it is out of service; PATCH it with {"retired": false}' if row[2] is not None else "PATCH changes it"
            raise ExistsError(f"there is a device {device.id!r} already: {how}")
        records.register(connection, [device])


def update(
    connection: Connection,
    device: str,
    actor: str,
    *,
    change: Callable[[Device], Device],
    retired: bool | None = None,
    expected: Sequence[str] | None = None,
) -> None:
    """Change the description of a device.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    device : str
        Its id.
    actor : str
    change : callable
        Takes the device without its sensors, and returns its new description.
    retired : bool, optional
        Take it out of service, or back; default unchanged.
    expected : sequence of str, optional
        ETags, of which the device must have one.

    Raises
    ------
    NoSuchDeviceError, ChangedError
    DeviceError
        The new description is invalid.
    """
    with acting(connection, actor):
        held = _hold(connection, device, expected)
        new = change(held.device)
        records.ensure_sources(connection, [new.source])
        records.hold_sources(connection, [(device, new.source, False)])
        connection.execute(
            _SQL["update_device"],
            {
                "device": device,
                "domain": new.domain,
                "source": new.source,
                "described": Jsonb(new.described()),
                "retired": held.retired if retired is None else retired,
            },
        )


def put_sensor(connection: Connection, device: str, sensor: Sensor, actor: str, *, expected: Sequence[str] | None = None) -> bool:
    """Register a sensor of a device, or replace its registration. Returns whether it is new.

    Raises
    ------
    NoSuchDeviceError, ChangedError
    DeviceError
        See `registry.register`.
    """
    with acting(connection, actor):
        _hold(connection, device, expected)
        new = not _has_sensor(connection, device, sensor.metric)
        records.put_sensor(connection, device, sensor)
    return new


def retire_sensor(connection: Connection, device: str, metric: str, actor: str, *, expected: Sequence[str] | None = None) -> None:
    """Take a sensor out of service, unless it is already; its history stays.

    Raises
    ------
    NoSuchDeviceError, ChangedError
    """
    with acting(connection, actor):
        _hold(connection, device, expected)
        _need_sensor(connection, device, metric)
        connection.execute(_SQL["retire_sensor"], {"device": device, "metric": metric})


def calibrate(
    connection: Connection, device: str, metric: str, calibration: Calibration, actor: str, *, expected: Sequence[str] | None = None
) -> None:
    """Add a calibration to those of a sensor.

    Raises
    ------
    NoSuchDeviceError, ChangedError
    """
    with acting(connection, actor):
        _hold(connection, device, expected)
        _need_sensor(connection, device, metric)
        records.hold_sources(connection, [(device, None, calibration.valid_from is None)])
        records.add_calibrations(connection, [(device, metric, calibration)])


def marks(connection: Connection, devices: Sequence[str]) -> dict[str, int]:
    """Count the changes of each of these devices that exists."""
    with translated():
        return dict(connection.execute(_SQL["marks"], {"devices": list(devices)}).fetchall())


def etag(count: int) -> str:
    """Format a number of changes as an ETag, quotes included."""
    return f'"{count}"'


async def etag_of(cursor: AsyncCursor, device: str) -> str:
    """Read the ETag of a device in the cursor's snapshot."""
    row = await (await cursor.execute(_SQL["tag"], {"device": device})).fetchone()
    assert row is not None
    return etag(row[0])


async def history(pool: ReadPool, device: str, *, before: int | None, limit: int) -> list[Change]:
    """Read at most `limit` changes of a device and its sensors, the newest first, with numbers below `before`."""
    async with pool.cursor() as cursor:
        await cursor.execute(_SQL["history"], {"device": device, "before": before, "limit": limit})
        return [
            Change(**dict(zip(Change.__dataclass_fields__, (*row[:-2], *map(_said, row[-2:])), strict=True)))
            for row in await cursor.fetchall()
        ]


def _said(text: str | None) -> dict[str, Any] | None:
    """Decode an object of the history. The database writes 1e300 as a digit and 300 zeros, which was no integer."""
    said: dict[str, Any] | None = None if text is None else json.loads(text, parse_int=lambda digits: _whole(float(digits)))
    return said


def _whole(number: float) -> int | float:
    return int(number) if number.is_integer() and abs(number) < _EXACT else number


async def calibrations(cursor: AsyncCursor, device: str) -> list[Calibrated]:
    """Read the calibrations of all sensors of a device, in the order in which they apply."""
    await cursor.execute(_SQL["calibrations"], {"device": device})
    return [Calibrated(**dict(zip(Calibrated.__dataclass_fields__, row, strict=True))) for row in await cursor.fetchall()]


async def sources(
    pool: ReadPool, wanted: Sequence[str] | None, within: Restriction | None, *, after: str | None, limit: int
) -> list[SourceEntry]:
    """List at most `limit` sources that the restriction allows, in order of name, behind `after`."""
    async with pool.cursor() as cursor:
        names = await seen_sources(cursor, wanted, within)
        await cursor.execute(_SQL["sources"], {"sources": names, "after": after, "limit": limit})
        return [SourceEntry(**dict(zip(SourceEntry.__dataclass_fields__, row, strict=True))) for row in await cursor.fetchall()]


async def described(pool: ReadPool, wanted: Selection, *, source: str | None, limit: int) -> tuple[list[Device], bool]:
    """Read devices as a registration describes them, in order of id, with at most `limit` sensors; and whether there are more.

    Calibrations are not included: they have a history of their own.
    """
    async with pool.cursor() as cursor:
        await cursor.execute(_SQL["described"], {**wanted.parameters(), "source": source, "limit": limit + 1})
        rows = await cursor.fetchall()
    found: dict[str, tuple[Any, list[Sensor]]] = {}
    for row in rows[:limit]:
        about, (metric, unit, *numbers, sentinels) = row[:_ABOUT], row[_ABOUT:]
        sensors = found.setdefault(row[0], (about, []))[1]
        if metric is not None:
            overrides = dict(zip(SENSOR_NUMBERS, numbers, strict=True))
            sensors.append(Sensor(metric=metric, unit=unit, sentinels=tuple(sentinels), **overrides))
    return [_device(*about, sensors=tuple(sensors)) for about, sensors in found.values()], len(rows) > limit


def _hold(connection: Connection, device: str, expected: Sequence[str] | None) -> Held:
    row = connection.execute(_SQL["hold"], {"device": device}).fetchone()
    if row is None:
        raise NoSuchDeviceError(f"there is no device {device!r}")
    (count,) = only(connection, _SQL["tag"], {"device": device})
    current = etag(count)
    if expected is not None and current not in expected and "*" not in expected:
        raise ChangedError(f"device {device!r} was changed meanwhile: its ETag is {current}. Read it, and try again with that ETag")
    source, domain, retired_at, *described = row
    return Held(device=_device(device, source, domain, *described), retired=retired_at is not None)


def _device(id_: str, source: str, domain: str, *described: Any, sensors: tuple[Sensor, ...] = ()) -> Device:
    return Device(id=id_, source=source, domain=Domain(domain), sensors=sensors, **dict(zip(DEVICE_FIELDS, described, strict=True)))


def _has_sensor(connection: Connection, device: str, metric: str) -> bool:
    return connection.execute(_SQL["has_sensor"], {"device": device, "metric": metric}).fetchone() is not None


def _need_sensor(connection: Connection, device: str, metric: str) -> None:
    if not _has_sensor(connection, device, metric):
        raise NoSuchDeviceError(f"device {device!r} has no sensor {metric!r}")
