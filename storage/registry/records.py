"""Registration of metrics, sources, devices and series, and the snapshot of them that ingest reads."""

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
from citybeat.storage.db.connection import Connection, StorageError, only, translated
from citybeat.storage.db.source_locks import horizon, lock

_SQL: Final = sql.load("registry")
#: Source in the ledger of messages whose topic names none.
NO_SOURCE: Final = "?"
#: Key of the advisory lock on changes; an arbitrary constant.
_LOCK: Final = 0x72656769
#: Number of series that a snapshot fetches at a time.
_PIECE: Final = 2_000


def sync_catalogue(connection: Connection, catalogue: Catalogue) -> None:
    """Write the metrics of the catalogue that differ from the table `metrics`.

    Raises
    ------
    StorageError
        A metric that has series would change its kind: the rows of its rollups would no longer mean the same.
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
    """Register devices with their sensors, all or none; existing descriptions are replaced where they differ.

    A sensor that the new description lacks stays, since it may have history. Calibrations stay too; a new one is added.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    devices : sequence of Device

    Raises
    ------
    DeviceError
        A device is listed twice, a sensor's metric is not in the catalogue, or its unit cannot be converted to the metric's unit;
        the message names it.
    """
    with translated(), connection.transaction():
        lock_registry(connection)
        if len({device.id for device in devices}) < len(devices):
            raise DeviceError("a device is listed twice in one registration")
        pairs = [(device.id, sensor) for device in devices for sensor in device.sensors]
        _check_sensors(connection, pairs)
        ensure_sources(connection, sorted({device.source for device in devices}))
        described = [{**_columns(device, "id", "source", "domain"), **device.described()} for device in devices]
        undated = {device for device, sensor in pairs if sensor.calibration is not None and sensor.calibration.valid_from is None}
        hold_sources(connection, [(device.id, device.source, device.id in undated) for device in devices])
        connection.execute(_SQL["put_devices"], {"rows": Jsonb(described)})
        _put_sensors(connection, pairs)


def lock_registry(connection: Connection) -> None:
    """Exclude other changes of the registry, to the end of the current transaction.

    Every change updates the registry's version beside its own rows: two changes that lock them in different orders would deadlock.
    So each waits here before it locks anything.
    """
    connection.execute(_SQL["lock_registry"], {"key": _LOCK})


def hold_sources(connection: Connection, changes: Sequence[tuple[str, str | None, bool]]) -> None:
    """Take the locks of sources whose batches must not overlap with a change, to the end of the current transaction.

    The lock of a device's source guards its series. While a device moves, a batch of the old source and one of the new source could
    write the same series; each would have read the registry as it was when it got its own lock.

    Parameters
    ----------
    connection : Connection
        In a transaction that has the registry's lock.
    changes : sequence of tuple
        For each device, registered or not: its id; its future source, None: unchanged; and whether it gets a calibration without a
        time, which depends on whether it has readings.
    """
    rows = [{"device": device, "source": source, "undated": undated} for device, source, undated in changes]
    for (source,) in connection.execute(_SQL["sources_to_hold"], {"rows": Jsonb(rows)}).fetchall():
        lock(connection, source)


def put_sensor(connection: Connection, device: str, sensor: Sensor) -> None:
    """Register a sensor of a registered device, or replace its registration; a retired one returns to service.

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
    """Add calibrations of sensors (device, metric) where they differ from the existing ones."""
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
    """Take a device out of service; its history stays. Returns False if no such device is in service."""
    with translated():
        return connection.execute(_SQL["retire_device"], {"id": device}).rowcount == 1


def set_conflict_policy(connection: Connection, source: str, policy: ConflictPolicy) -> None:
    """Set the policy for conflicts of a source from now on.

    Raises
    ------
    DeviceError
        The source does not exist.
    """
    with translated():
        if connection.execute(_SQL["set_conflict_policy"], {"source": source, "policy": policy}).rowcount == 0:
            raise DeviceError(f"no source {source!r}; a source is created when a device is registered to it")


def ensure_sources(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    """Look up the ids of these sources, and add those that are new.

    Raises
    ------
    DeviceError
        A name is invalid.
    """
    wanted = [name if name == NO_SOURCE else check_source(name) for name in names]
    with translated():
        found: dict[str, int] = dict(connection.execute(_SQL["source_ids"], {"names": wanted}).fetchall())
        if len(found) < len(set(wanted)):
            connection.execute(_SQL["add_sources"], {"names": sorted(set(wanted) - found.keys())})
            found = dict(connection.execute(_SQL["source_ids"], {"names": wanted}).fetchall())
    return found


def version(connection: Connection) -> int:
    """Read the version, a number that grows with every change of the registry."""
    with translated():
        return int(only(connection, _SQL["version"])[0])


def listen(connection: Connection) -> None:
    """Subscribe to notifications of changes, for `notified`."""
    with translated():
        connection.execute(_SQL["listen"])


def notified(connection: Connection) -> bool:
    """Return whether notifications of changes have come since the last call; does not wait."""
    with translated():
        return any(True for _ in connection.notifies(timeout=0))


def load(connection: Connection, catalogue: Catalogue) -> Registry:
    """Read a consistent snapshot of the registry.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    catalogue : Catalogue
        Source of the bounds that no registration overrides. A series whose metric it lacks is left out, so its readings are
        quarantined: that happens if a process was not given the city's own metrics file.
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
        # Piece by piece, and one object for equal sensors: that saves 50 MB with 60,000 series.
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
    """Refuse a sensor whose readings could not be stored."""
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
    """Encode a metric as JSON; an open bound is left out."""
    row = {key: value for key, value in dataclasses.asdict(metric).items() if not (isinstance(value, float) and math.isinf(value))}
    plain: dict[str, Any] = orjson.loads(orjson.dumps(row))
    return plain
