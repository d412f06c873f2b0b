"""The registry of metrics, sources, devices and series: written here, read by ingest as one snapshot."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from psycopg.types.json import Jsonb

from citybeat.devices.batch import NEVER
from citybeat.devices.catalogue import Catalogue, Metric
from citybeat.devices.clock import to_us
from citybeat.devices.device import SENSOR_NUMBERS, Calibration, ConflictPolicy, Device, Sensor, check_source
from citybeat.devices.errors import DeviceError
from citybeat.devices.flags import Verdict
from citybeat.devices.registry import snapshot
from citybeat.devices.registry.snapshot import Corrected, Registry, SeriesRow
from citybeat.devices.units import UnitError, conversion
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, StorageError, translated
from citybeat.storage.db.source_locks import horizon, lock

_SQL: Final = sql.load("registry")
#: The source under which messages are accounted whose topic names none.
NO_SOURCE: Final = "?"
#: Key of the advisory lock on changes: any fixed number of ours.
_LOCK: Final = 0x72656769
#: Series that are fetched at once for a snapshot.
_PIECE: Final = 2_000


def sync_catalogue(connection: Connection, catalogue: Catalogue) -> None:
    """Write the catalogue to `metrics`, where it differs.

    Raises
    ------
    StorageError
        A metric that has series would change its kind: its rollups would mean something else from one row to the next.
    """
    definitions = {name: _definition(metric) for name, metric in catalogue.items()}
    with translated(), connection.transaction():
        stored: dict[str, Any] = dict(connection.execute(_SQL["metrics_as_synced"]).fetchall())
        changed = [name for name, definition in definitions.items() if stored.get(name) != definition]
        if not changed:
            return
        for name, kind in connection.execute(_SQL["kind_in_use"], {"names": changed}):
            if catalogue[name].kind != kind:
                raise StorageError(
                    f"metric {name!r} has series and is a {kind}; it cannot become a {catalogue[name].kind}. Choose another name"
                )
        rows = [
            {**_columns(catalogue[name], "name", "domain", "unit", "kind"), "definition": Jsonb(definitions[name])}
            for name in changed
        ]
        connection.cursor().executemany(_SQL["sync_metric"], rows)


def register(connection: Connection, devices: Sequence[Device]) -> None:
    """Register devices with their sensors, all or none; what is registered already is replaced where it differs.

    A sensor that the new description lacks stays: it may have history. So do calibrations: another one is added to them.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    devices : sequence of Device

    Raises
    ------
    DeviceError
        A device stands twice, a sensor measures something that is not in the catalogue, or it sends a unit that cannot become its
        metric's; the message names it.
    """
    with translated(), connection.transaction():
        lock_registry(connection)
        if len({device.id for device in devices}) < len(devices):
            raise DeviceError("a device stands twice in one registration")
        pairs = [(device.id, sensor) for device in devices for sensor in device.sensors]
        _check_sensors(connection, pairs)
        ensure_sources(connection, sorted({device.source for device in devices}))
        described = [{**_columns(device, "id", "source", "domain"), **device.described()} for device in devices]
        undated = {device for device, sensor in pairs if sensor.calibration is not None and sensor.calibration.valid_from is None}
        hold_sources(connection, [(device.id, device.source, device.id in undated) for device in devices])
        connection.execute(_SQL["put_devices"], {"rows": Jsonb(described)})
        _put_sensors(connection, pairs)


def lock_registry(connection: Connection) -> None:
    """Be the only one who changes the registry, to the end of the transaction under way.

    Everybody's change touches the registry's version beside rows of his own: two that touch them in different orders would wait for
    each other. So one waits before it holds anything.
    """
    connection.execute(_SQL["lock_registry"], {"key": _LOCK})


def hold_sources(connection: Connection, changes: Sequence[tuple[str, str | None, bool]]) -> None:
    """Take the locks of sources of which no batch may be half way through a change, to the end of the transaction under way.

    A series is guarded by the lock of its device's source. While a device moves, a batch of the old source could be writing what
    one of the new source writes too; each would have found the registry as it was when it got its own lock.

    Parameters
    ----------
    connection : Connection
        In a transaction that has the registry's lock.
    changes : sequence of tuple
        Of devices, as far as they are registered: id; the source that it will have, None: the one that it has; and whether it gets
        a calibration without a time, which hangs on whether anything is stored.
    """
    rows = [{"device": device, "source": source, "undated": undated} for device, source, undated in changes]
    for (source,) in connection.execute(_SQL["sources_to_hold"], {"rows": Jsonb(rows)}).fetchall():
        lock(connection, source)


def put_sensor(connection: Connection, device: str, sensor: Sensor) -> None:
    """Register a sensor of a device that there is, or replace what is registered of it; one that is retired comes back.

    Raises
    ------
    DeviceError
        As `register`.
    """
    with translated(), connection.transaction():
        lock_registry(connection)
        _check_sensors(connection, [(device, sensor)])
        _put_sensors(connection, [(device, sensor)])


def add_calibrations(connection: Connection, calibrations: Sequence[tuple[str, str, Calibration]]) -> None:
    """Add to the calibrations of sensors (device, metric) what says something new."""
    rows = [
        {
            **_columns(calibration, "scale", "offset", "by", "reason"),
            "valid_from": calibration.valid_from and calibration.valid_from.isoformat(),
            "device": device,
            "metric": metric,
        }
        for device, metric, calibration in calibrations
    ]
    if rows:
        with translated():
            connection.execute(_SQL["add_calibrations"], {"rows": Jsonb(rows)})


def retire(connection: Connection, device: str) -> bool:
    """Take a device out of service; its history stays. False: there is no such device in service."""
    with translated():
        return connection.execute(_SQL["retire_device"], {"id": device}).rowcount == 1


def set_conflict_policy(connection: Connection, source: str, policy: ConflictPolicy) -> None:
    """Say what happens to conflicts of a source from now on.

    Raises
    ------
    DeviceError
        There is no such source.
    """
    with translated():
        if connection.execute(_SQL["set_conflict_policy"], {"source": source, "policy": policy}).rowcount == 0:
            raise DeviceError(f"no source {source!r}; one is made when a device is registered to it")


def ensure_sources(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    """Ids of these sources; those that are new are added.

    Raises
    ------
    DeviceError
        A name that no source can have.
    """
    wanted = [name if name == NO_SOURCE else check_source(name) for name in names]
    with translated():
        found: dict[str, int] = dict(connection.execute(_SQL["source_ids"], {"names": wanted}).fetchall())
        if len(found) < len(set(wanted)):
            connection.execute(_SQL["add_sources"], {"names": sorted(set(wanted) - found.keys())})
            found = dict(connection.execute(_SQL["source_ids"], {"names": wanted}).fetchall())
    return found


def version(connection: Connection) -> int:
    """The number that grows with every change of the registry."""
    with translated():
        row = connection.execute(_SQL["version"]).fetchone()
    assert row is not None
    return int(row[0])


def listen(connection: Connection) -> None:
    """Ask to be told of changes; `notified` says whether there were any."""
    with translated():
        connection.execute(_SQL["listen"])


def notified(connection: Connection) -> bool:
    """Whether the registry changed since the last call, as far as the server has told; does not wait."""
    with translated():
        return any(True for _ in connection.notifies(timeout=0))


def load(connection: Connection, catalogue: Catalogue) -> Registry:
    """A snapshot of the registry, consistent in itself.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    catalogue : Catalogue
        Where the bounds come from that no registration overrides. A series whose metric it lacks is left out, and so its readings
        are quarantined: that happens when a city's own metrics file is not given to every process.
    """
    with translated(), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        current = version(connection)
        raw_since = horizon(connection)
        sources: dict[str, int] = dict(connection.execute(_SQL["all_sources"]).fetchall())
        replacing = frozenset(row[0] for row in connection.execute(_SQL["replacing_sources"]))
        devices = {row[0]: row for row in connection.execute(_SQL["all_devices"])}
        calibrations: dict[int, list[Corrected]] = {}
        for number, valid_from, scale, offset in connection.execute(_SQL["calibrations_in_force"]):
            corrected = Corrected(since=int(NEVER) if valid_from is None else valid_from, scale=scale, offset=offset)
            calibrations.setdefault(number, []).append(corrected)
        declarations: dict[int, list[tuple[int, int, int]]] = {}
        for number, start, end, verdict in connection.execute(_SQL["all_declarations"]):
            declarations.setdefault(number, []).append((start, end, int(Verdict(verdict).flags)))
        rows: list[SeriesRow] = []
        # A piece at a time, and one object for what is equal: 60,000 series take 50 MB less so.
        sensors: dict[tuple[Any, ...], Sensor] = {}
        with connection.cursor("all_series") as cursor:
            cursor.itersize = _PIECE
            for number, name, *described, series_retired in cursor.execute(_SQL["all_series"]):
                if described[0] not in catalogue:
                    continue
                device, source, retired = devices[name]
                key = (described[0], tuple(described[1]), *described[2:])
                sensor = sensors.get(key)
                if sensor is None:
                    sensor = sensors[key] = _sensor(*described)
                rows.append(
                    SeriesRow(
                        id=number,
                        device=device,
                        source=source,
                        retired=retired or series_retired,
                        metric=catalogue[sensor.metric],
                        sensor=sensor,
                        calibrations=tuple(calibrations.get(number, ())),
                        declarations=tuple(declarations.get(number, ())),
                    )
                )
    return snapshot.build(
        version=current,
        horizon=int(NEVER) if raw_since is None else to_us(raw_since),
        sources=sources,
        devices={device: source for device, source, _ in devices.values()},
        rows=rows,
        replacing=replacing,
    )


def _check_sensors(connection: Connection, pairs: Sequence[tuple[str, Sensor]]) -> None:
    units: dict[str, str] = dict(connection.execute(_SQL["metric_units"]).fetchall())
    for device, sensor in pairs:
        _check(device, sensor, units)


def _put_sensors(connection: Connection, pairs: Sequence[tuple[str, Sensor]]) -> None:
    rows = Jsonb(
        [
            {**_columns(sensor, "metric", "sentinels", "unit", *SENSOR_NUMBERS), "device": device, "place": place}
            for place, (device, sensor) in enumerate(pairs)
        ]
    )
    connection.execute(_SQL["update_series"], {"rows": rows})
    connection.execute(_SQL["add_series"], {"rows": rows})
    calibrated = [(device, sensor.metric, sensor.calibration) for device, sensor in pairs if sensor.calibration is not None]
    add_calibrations(connection, calibrated)


def _check(device: str, sensor: Sensor, units: Mapping[str, str]) -> None:
    """Refuse a sensor that no reading could be stored of."""
    if sensor.metric not in units:
        raise DeviceError(f"device {device!r}: no metric {sensor.metric!r} in the catalogue; CITYBEAT_CATALOGUE can add it")
    try:
        conversion(sensor.unit or units[sensor.metric], units[sensor.metric])
    except UnitError as exc:
        raise DeviceError(f"device {device!r}: sensor {sensor.metric!r}, in {units[sensor.metric]!r}: {exc}") from exc


def _sensor(metric: str, sentinels: Sequence[float], unit: str | None, *overrides: Any) -> Sensor:
    return Sensor(metric=metric, sentinels=tuple(sentinels), unit=unit, **dict(zip(SENSOR_NUMBERS, overrides, strict=True)))


def _columns(thing: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names}


def _definition(metric: Metric) -> Mapping[str, Any]:
    """The catalogue's row as JSON holds it; an open bound is left out."""
    row = {key: value for key, value in dataclasses.asdict(metric).items() if not (isinstance(value, float) and math.isinf(value))}
    plain: dict[str, Any] = orjson.loads(orjson.dumps(row))
    return plain
