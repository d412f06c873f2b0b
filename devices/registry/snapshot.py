"""The registered devices as ingest needs them: one immutable snapshot of look-up tables, and of arrays indexed by series id."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from citybeat.devices.batch import FOREVER, MICROSECOND, NEVER, Bools, Float64, Int16, Int32, Int64
from citybeat.devices.catalogue import KIND_CODES, Metric
from citybeat.devices.device import Sensor
from citybeat.devices.timeline import overlaid, starts
from citybeat.devices.units import IDENTITY, Linear, UnitError, conversion

#: Codes that data loggers write for "no value": -200 (UCI air quality), -999, -9999 (most loggers), 65535 (16 bits of ones). They
#: mean that only where they lie outside the plausible range: -200 W and 65535 lx are values. -1 is too often a real reading.
DEFAULT_SENTINELS: Final = (-200.0, -999.0, -9999.0, 65535.0)
#: Expected intervals after which the past of a series no longer counts.
MEMORY: Final = 10
#: Expected intervals that a value must repeat at least before it is STUCK: a study of hourly sensors flags from 24 on.
STUCK_INTERVALS: Final = 24
_Arrays = dict[str, Any]  # fields of `Registry` by name


class Corrected(NamedTuple):
    """A calibration of a series."""

    since: int  # us since 1970 UTC; NEVER: from the beginning
    scale: float
    offset: float  # unit of the metric


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesRow:
    """One series, which is a sensor of a device, as the database holds it."""

    id: int  # > 0
    device: str
    source: int  # id of the source that may publish it
    retired: bool
    metric: Metric
    sensor: Sensor
    calibrations: tuple[Corrected, ...] = ()  # in any order, no two since the same time
    #: (from, to, flags) in us since 1970 UTC, in the order in which operators declared them
    declarations: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """A snapshot of the registry.

    An array without a shape below has shape (ids,) and is indexed by series id; an id that no series has holds a neutral element.
    """

    version: int  # grows with every change of the registry
    horizon: int  # us since 1970 UTC; readings before it were dropped and are refused; NEVER: none were dropped
    sources: Mapping[str, int]  # id by name
    replacing: frozenset[int]  # ids of the sources whose last value wins a conflict
    devices: Mapping[str, int]  # id of the source of every registered device, retired ones included
    series: Mapping[tuple[str, str], int]  # id by (device, metric)
    owner: Int32  # id of the source; 0: no such series
    retired: Bools
    kind: NDArray[np.int8]  # KIND_CODES
    # Bounds, in the metric's unit.
    low: Float64  # plausible range
    high: Float64
    suspect_low: Float64
    suspect_high: Float64
    # Periods that operators declared good or bad: entries of `devices.timeline`.
    declared_start: Int64  # (ids + 1,)
    declared_from: Int64  # (d,) us since 1970 UTC
    declared_flags: Int16  # (d,) MANUAL_GOOD, MANUAL_BAD, 0
    # Limits of the checks that need earlier readings (ingest/judging/history.py).
    step_floor: Float64
    step_rate: Float64  # unit of the metric, a microsecond
    memory: Int64  # us
    stuck_after: Int64  # us; FOREVER: never
    may_repeat: Float64  # (ids, k) values that are never stuck, padded with NaN
    # Codes for "missing".
    sentinels: Float64  # (ids, k) as sent in the registered unit; padded with NaN
    codes: Float64  # ascending: every code that may mean "missing" for any series, and a NaN at the end
    declared: Float64  # (ids, k) those of `sentinels` that the catalogue or the registration names, in any unit; padded with NaN
    # Conversion of a value as sent: value * scale + offset in the metric's unit; then the calibration of its series applies.
    units: tuple[str, ...]  # the distinct units of all metrics
    unit: Int32  # index of the metric's unit in `units`
    sent: tuple[str, ...]  # (ids,) the registered unit, or the metric's
    convertible: Bools  # False: the registered unit cannot become the metric's
    scale: Float64
    offset: Float64
    converted: Bools  # whether unit or calibrations change a value in the registered unit, or refuse it
    # Calibrations: entries of `devices.timeline`.
    calibration_start: Int64  # (ids + 1,)
    calibration_from: Int64  # (c,) us since 1970 UTC; NEVER: from the beginning
    calibration_scale: Float64  # (c,)
    calibration_offset: Float64  # (c,)
    # Caches of `ingest.judging.resolve`: series of whole messages by the text of their names, and hashes of texts that came once.
    # They belong to the snapshot, so they cannot be stale.
    known: dict[str, Int32] = field(default_factory=dict, compare=False, repr=False)
    heard: set[int] = field(default_factory=set, compare=False, repr=False)


def build(
    *,
    version: int,
    sources: Mapping[str, int],
    devices: Mapping[str, int],
    rows: Iterable[SeriesRow],
    replacing: frozenset[int] = frozenset(),
    horizon: int = int(NEVER),
) -> Registry:
    """Build a snapshot of these series.

    Parameters
    ----------
    version : int
    sources : mapping
        Id by name; ids are positive.
    devices : mapping
        Id of the source by id of the device, for all devices, those without sensors included.
    rows : iterable of SeriesRow
    replacing : frozenset of int
        Ids of the sources whose last value wins a conflict.
    horizon : int
        us since 1970 UTC.
    """
    listed = sorted(rows, key=lambda row: row.id)
    by_id = _ById(listed)
    linear = [_conversion(row) for row in by_id.distinct]
    return Registry(
        version=version,
        horizon=horizon,
        sources=dict(sources),
        devices=dict(devices),
        replacing=replacing,
        series={(row.device, row.metric.name): row.id for row in listed},
        owner=by_id.rows([row.source for row in listed], np.int32, 0),
        retired=by_id.rows([row.retired for row in listed], np.bool_, 0),
        kind=by_id.each([KIND_CODES[row.metric.kind] for row in by_id.distinct], np.int8, 0),
        **_bounds(by_id),
        **_declarations(listed, by_id.size),
        **_history(by_id),
        **_sentinels(by_id, linear),
        **_units(listed, by_id, linear),
        **_calibrations(listed, by_id.size),
    )


class _ById:
    """Makes arrays that are indexed by series id.

    A city has a million sensors, but only some hundred distinct pairs of metric and registration. Values that depend on these two
    alone are computed once for each pair, from one of its rows (`distinct`).
    """

    def __init__(self, listed: Sequence[SeriesRow]) -> None:
        self.size: Final = max((row.id for row in listed), default=0) + 1
        self._ids: Final = np.array([row.id for row in listed], np.int64)
        pairs: dict[tuple[int, int], tuple[int, SeriesRow]] = {}
        pair = [pairs.setdefault((id(row.metric), id(row.sensor)), (len(pairs), row))[0] for row in listed]
        self._pair: Final = np.array(pair, np.int64)
        self.distinct: Final = [row for _, row in pairs.values()]

    def rows(self, values: ArrayLike, dtype: type, neutral: float) -> NDArray[Any]:
        """Array (ids,) from one value for each row."""
        out: NDArray[Any] = np.full(self.size, neutral, dtype)
        out[self._ids] = values
        return out

    def each(self, values: ArrayLike, dtype: type, neutral: float) -> NDArray[Any]:
        """Array (ids,) from one value for each row of `distinct`."""
        return self.rows(np.array(values, dtype)[self._pair], dtype, neutral)

    def padded(self, values: Sequence[Sequence[float]]) -> Float64:
        """Array (ids, k) from a list of numbers for each row of `distinct`; k is the longest list's length, the padding is NaN."""
        width = max(map(len, values), default=0)
        full = np.array([[*some, *[np.nan] * (width - len(some))] for some in values], np.float64).reshape(len(values), width)
        out = np.full((self.size, width), np.nan)
        out[self._ids] = full[self._pair]
        return out


def _bounds(by_id: _ById) -> _Arrays:
    """`low`, `high`, `suspect_low` and `suspect_high`; open bounds are infinite."""
    bounds = np.array([_bounds_of(row) for row in by_id.distinct], np.float64).reshape(-1, 4)
    return {
        "low": by_id.each(bounds[:, 0], np.float64, -np.inf),
        "high": by_id.each(bounds[:, 1], np.float64, np.inf),
        "suspect_low": by_id.each(bounds[:, 2], np.float64, -np.inf),
        "suspect_high": by_id.each(bounds[:, 3], np.float64, np.inf),
    }


def _bounds_of(row: SeriesRow) -> tuple[float, float, float, float]:
    """low, high, suspect_low, suspect_high: the sensor's own, else the metric's for the sensor's rating and interval."""
    sensor, metric = row.sensor, row.metric
    low, high = metric.plausible(rating=sensor.rating, interval=sensor.interval)
    return (
        low if sensor.low is None else sensor.low,
        high if sensor.high is None else sensor.high,
        metric.suspect_low if sensor.suspect_low is None else sensor.suspect_low,
        metric.suspect_high if sensor.suspect_high is None else sensor.suspect_high,
    )


def _declarations(listed: Sequence[SeriesRow], size: int) -> _Arrays:
    """`declared_start`, `declared_from` and `declared_flags`: overlapping declarations made into pieces, the latest on top."""
    pieces = [(row.id, overlaid(row.declarations, 0)) for row in listed if row.declarations]
    return {
        "declared_start": starts(size, ((number, len(entries)) for number, entries in pieces)),
        "declared_from": np.array([since for _, entries in pieces for since, _ in entries], np.int64),
        "declared_flags": np.array([flags for _, entries in pieces for _, flags in entries], np.int16),
    }


def _history(by_id: _ById) -> _Arrays:
    """`step_floor`, `step_rate`, `memory`, `stuck_after` and `may_repeat`."""
    steps = [_step_of(row) for row in by_id.distinct]
    return {
        "step_floor": by_id.each([floor for floor, _ in steps], np.float64, np.inf),
        "step_rate": by_id.each([rate for _, rate in steps], np.float64, 0.0),
        "memory": by_id.each([int(MEMORY * _interval(row) * MICROSECOND) for row in by_id.distinct], np.int64, 0),
        "stuck_after": by_id.each([_stuck_after(row) for row in by_id.distinct], np.int64, int(FOREVER)),
        "may_repeat": by_id.padded([row.metric.may_repeat for row in by_id.distinct]),
    }


def _interval(row: SeriesRow) -> float:
    """Expected seconds between readings."""
    return row.metric.interval if row.sensor.interval is None else row.sensor.interval


def _step_of(row: SeriesRow) -> tuple[float, float]:
    """step_floor and step_rate. The catalogue's floor is for its interval; a sensor reporting less often shows larger changes."""
    sensor, metric = row.sensor, row.metric
    floor = metric.step_floor * max(1.0, _interval(row) / metric.interval)
    rate = metric.step_per_minute / 60.0 / MICROSECOND
    if metric.step_rating_per_hour and sensor.rating is not None:
        # The last digit of a meter is not its step: the floor is what one interval at full load adds.
        floor = metric.step_rating_per_hour * sensor.rating * _interval(row) / 3600.0
        rate += metric.step_rating_per_hour * sensor.rating / 3600.0 / MICROSECOND
    return (
        floor if sensor.step_floor is None else sensor.step_floor,
        rate if sensor.step_per_minute is None else sensor.step_per_minute / 60.0 / MICROSECOND,
    )


def _stuck_after(row: SeriesRow) -> int:
    """Microseconds; a registration's own number is taken as it is, the catalogue's is at least `STUCK_INTERVALS` intervals."""
    if row.sensor.stuck_after is not None:
        return int(row.sensor.stuck_after * MICROSECOND)
    seconds = max(row.metric.stuck_after, STUCK_INTERVALS * _interval(row))
    return int(FOREVER) if math.isinf(seconds) else int(seconds * MICROSECOND)


def _sentinels(by_id: _ById, linear: Sequence[Linear | None]) -> _Arrays:
    """`sentinels`, `codes` and `declared`, from the conversion of each distinct row.

    A default sentinel counts for a sensor if it would be implausible as a value in the unit that the sensor sends.
    """
    declared, counting = [], []
    for row, unit in zip(by_id.distinct, linear, strict=True):
        own = {code for code in (*row.metric.sentinels, *row.sensor.sentinels) if not math.isnan(code)}
        low, high, _, _ = _bounds_of(row)
        default = {code for code in DEFAULT_SENTINELS if unit and not low <= code * unit.scale + unit.offset <= high}
        declared.append(sorted(own))
        counting.append(sorted(own | default))
    return {
        "sentinels": by_id.padded(counting),
        "codes": np.array([*sorted({*DEFAULT_SENTINELS}.union(*declared)), np.nan]),
        "declared": by_id.padded(declared),
    }


def _conversion(row: SeriesRow) -> Linear | None:
    """Conversion of the registered unit to the metric's. None: there is none; registration refuses that, but catalogues change."""
    try:
        return conversion(row.sensor.unit or row.metric.unit, row.metric.unit)
    except UnitError:
        return None


def _units(listed: Sequence[SeriesRow], by_id: _ById, linear: Sequence[Linear | None]) -> _Arrays:
    """`units`, `unit`, `sent`, `convertible`, `scale`, `offset` and `converted`, from the conversion of each distinct row."""
    units = tuple(dict.fromkeys(row.metric.unit for row in by_id.distinct))
    sent = [""] * by_id.size
    for row in listed:
        sent[row.id] = row.sensor.unit or row.metric.unit
    calibrated = by_id.rows([bool(row.calibrations) for row in listed], np.bool_, 0)
    return {
        "units": units,
        "unit": by_id.each([units.index(row.metric.unit) for row in by_id.distinct], np.int32, 0),
        "sent": tuple(sent),
        "convertible": by_id.each([unit is not None for unit in linear], np.bool_, 1),
        "scale": by_id.each([(unit or IDENTITY).scale for unit in linear], np.float64, 1.0),
        "offset": by_id.each([(unit or IDENTITY).offset for unit in linear], np.float64, 0.0),
        "converted": by_id.each([unit != IDENTITY for unit in linear], np.bool_, 0) | calibrated,
    }


def _calibrations(listed: Sequence[SeriesRow], size: int) -> _Arrays:
    """`calibration_start`, `calibration_from`, `calibration_scale` and `calibration_offset`; ascending in time within a series."""
    entries = [each for row in listed for each in sorted(row.calibrations)]
    return {
        "calibration_start": starts(size, ((row.id, len(row.calibrations)) for row in listed)),
        "calibration_from": np.array([each.since for each in entries], np.int64),
        "calibration_scale": np.array([each.scale for each in entries], np.float64),
        "calibration_offset": np.array([each.offset for each in entries], np.float64),
    }
