"""What ingest must know of the registered devices to judge a reading, as one immutable snapshot of look-up tables and arrays."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from citybeat.devices.batch import FOREVER, MICROSECOND, NEVER, Bools, Float64, Int16, Int32, Int64
from citybeat.devices.catalogue import Kind, Metric
from citybeat.devices.device import Sensor
from citybeat.devices.timeline import overlaid, starts
from citybeat.devices.units import IDENTITY, Linear, UnitError, conversion

#: Codes that data loggers write for "no value": -200 (UCI air quality), -999, -9999 (most loggers), 65535 (16 bits of ones). They
#: mean that only where they lie outside the plausible range: -200 W and 65535 lx are values. -1 is too often a real reading.
DEFAULT_SENTINELS: Final = (-200.0, -999.0, -9999.0, 65535.0)

#: Kinds as small integers, for arrays.
KIND_CODES: Final[Mapping[Kind, int]] = {kind: code for code, kind in enumerate(Kind)}


class Corrected(NamedTuple):
    """A calibration as a snapshot has it."""

    since: int  # us since 1970 UTC; NEVER: from the beginning
    scale: float
    offset: float  # unit of the metric


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesRow:
    """One series as the registry has it: a sensor of a device."""

    id: int  # > 0
    device: str
    source: int  # id of the source that may publish it
    retired: bool
    metric: Metric
    sensor: Sensor
    calibrations: tuple[Corrected, ...] = ()  # in any order, no two since the same time
    #: (from, to, flags) in us since 1970 UTC, in the order in which they were declared
    declarations: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """A snapshot. Arrays are indexed by series id; an id that no series has holds neutral elements."""

    version: int  # grows with every change
    horizon: int  # us since 1970 UTC: readings before it were given up, and are not taken any more; NEVER: none were
    sources: Mapping[str, int]  # id by name
    replacing: frozenset[int]  # ids of the sources whose last value wins a conflict
    devices: Mapping[str, int]  # id of the source of every registered device, retired ones included
    series: Mapping[tuple[str, str], int]  # id by (device, metric)
    owner: Int32  # id of the source; 0: no such series
    retired: Bools
    kind: NDArray[np.int8]  # KIND_CODES
    low: Float64  # plausible range
    high: Float64
    suspect_low: Float64
    suspect_high: Float64
    # What operators declared: entries of `devices.timeline`.
    declared_start: Int64  # (ids + 1,)
    declared_from: Int64  # (d,) us since 1970 UTC
    declared_flags: Int16  # (d,) MANUAL_GOOD, MANUAL_BAD, 0
    # What its past says of a reading, see ingest/judging/history.py.
    step_floor: Float64
    step_rate: Float64  # unit of the metric, a microsecond
    memory: Int64  # us
    stuck_after: Int64  # us; FOREVER: never
    may_repeat: Float64  # (ids, k): values that are never stuck, padded with NaN
    sentinels: Float64  # (ids, k): codes for "missing", as sent in the registered unit; padded with NaN
    codes: Float64  # ascending: every code that may mean "missing" for any series, and a NaN at the end
    declared: Float64  # (ids, k): those of them that the catalogue or the registration names, whatever the unit; padded with NaN
    # What a value as sent becomes: value * scale + offset in the metric's unit, and then its series' calibration.
    units: tuple[str, ...]  # the metrics' units
    unit: Int32  # which of them
    sent: tuple[str, ...]  # by series id: the registered unit, or the metric's
    convertible: Bools  # False: the registered unit cannot become the metric's
    scale: Float64
    offset: Float64
    converted: Bools  # whether anything above or below changes a value in the registered unit, or refuses it
    calibration_start: Int64  # (ids + 1,): calibrations of series i are calibration_start[i] up to calibration_start[i + 1]
    calibration_from: Int64  # (c,) us since 1970 UTC, ascending within a series; NEVER: from the beginning
    calibration_scale: Float64  # (c,)
    calibration_offset: Float64  # (c,)
    # Series of whole messages by the text of their names, for `ingest.judging.resolve` to keep, and hashes of such texts that came
    # once. They go with the snapshot: they are never old.
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
    """A snapshot of these series.

    Parameters
    ----------
    version : int
    sources : mapping
        Id by name; ids are positive.
    devices : mapping
        Id of the source by id of the device; of all devices, those without sensors too.
    rows : iterable of SeriesRow
    replacing : frozenset of int
        Ids of the sources whose last value wins a conflict.
    horizon : int
        us since 1970 UTC.
    """
    listed = list(rows)
    size = max((row.id for row in listed), default=0) + 1
    # A city has a million sensors, and some hundred ways to be one: what hangs on metric and registration alone is found once
    # for each.
    ways: dict[tuple[int, int], tuple[int, SeriesRow]] = {}
    way = np.array([ways.setdefault((id(row.metric), id(row.sensor)), (len(ways), row))[0] for row in listed], np.int64)
    each = [row for _, row in ways.values()]
    bounds = [_bounds(row) for row in each]
    steps = [_steps(row) for row in each]
    linear = [_conversion(row) for row in each]
    declared = [_declared(row) for row in each]
    default = [set() if by is None else _defaults(by, low, high) for by, (low, high, _, _) in zip(linear, bounds, strict=True)]
    ids = np.array([row.id for row in listed], np.int64)
    units = tuple(dict.fromkeys(row.metric.unit for row in each))

    def placed(values: Sequence[Any], dtype: type, neutral: float) -> NDArray[Any]:
        return _placed(size, ids, np.array(values, dtype)[way], dtype, neutral)

    def padded(values: Sequence[Sequence[float]]) -> Float64:
        return _padded(size, ids, values, way)

    sent = [""] * size
    for row in listed:
        sent[row.id] = row.sensor.unit or row.metric.unit
    start = starts(size, ((row.id, len(row.calibrations)) for row in listed))
    calibrations = [each for row in sorted(listed, key=lambda row: row.id) for each in sorted(row.calibrations)]
    declarations = {row.id: overlaid(row.declarations, 0) for row in listed if row.declarations}
    declared_entries = [entry for _, entries in sorted(declarations.items()) for entry in entries]
    return Registry(
        version=version,
        horizon=horizon,
        sources=dict(sources),
        devices=dict(devices),
        replacing=replacing,
        series={(row.device, row.metric.name): row.id for row in listed},
        owner=_placed(size, ids, [row.source for row in listed], np.int32, 0),
        retired=_placed(size, ids, [row.retired for row in listed], np.bool_, 0),
        kind=placed([KIND_CODES[row.metric.kind] for row in each], np.int8, 0),
        low=placed([of[0] for of in bounds], np.float64, -np.inf),
        high=placed([of[1] for of in bounds], np.float64, np.inf),
        suspect_low=placed([of[2] for of in bounds], np.float64, -np.inf),
        suspect_high=placed([of[3] for of in bounds], np.float64, np.inf),
        declared_start=starts(size, ((number, len(entries)) for number, entries in declarations.items())),
        declared_from=np.array([since for since, _ in declared_entries], np.int64),
        declared_flags=np.array([flags for _, flags in declared_entries], np.int16),
        step_floor=placed([step[0] for step in steps], np.float64, np.inf),
        step_rate=placed([step[1] for step in steps], np.float64, 0.0),
        memory=placed([_memory(row) for row in each], np.int64, 0),
        stuck_after=placed([_stuck_after(row) for row in each], np.int64, int(FOREVER)),
        may_repeat=padded([row.metric.may_repeat for row in each]),
        sentinels=padded([sorted(own | more) for own, more in zip(declared, default, strict=True)]),
        codes=np.array([*sorted({*DEFAULT_SENTINELS}.union(*declared)), np.nan]),
        declared=padded([sorted(codes) for codes in declared]),
        units=units,
        unit=placed([units.index(row.metric.unit) for row in each], np.int32, 0),
        sent=tuple(sent),
        convertible=placed([by is not None for by in linear], np.bool_, True),
        scale=placed([(by or IDENTITY).scale for by in linear], np.float64, 1.0),
        offset=placed([(by or IDENTITY).offset for by in linear], np.float64, 0.0),
        converted=placed([by != IDENTITY for by in linear], np.bool_, False) | (np.diff(start) > 0),
        calibration_start=start,
        calibration_from=np.array([each.since for each in calibrations], np.int64),
        calibration_scale=np.array([each.scale for each in calibrations], np.float64),
        calibration_offset=np.array([each.offset for each in calibrations], np.float64),
    )


def _placed(size: int, ids: Int64, values: ArrayLike, dtype: type, neutral: float) -> NDArray[Any]:
    out: NDArray[Any] = np.full(size, neutral, dtype)
    out[ids] = values
    return out


def _bounds(row: SeriesRow) -> tuple[float, float, float, float]:
    """low, high, suspect_low, suspect_high: the sensor's own, else the metric's for its rating and interval."""
    sensor, metric = row.sensor, row.metric
    low, high = metric.plausible(rating=sensor.rating, interval=sensor.interval)
    return (
        low if sensor.low is None else sensor.low,
        high if sensor.high is None else sensor.high,
        metric.suspect_low if sensor.suspect_low is None else sensor.suspect_low,
        metric.suspect_high if sensor.suspect_high is None else sensor.suspect_high,
    )


#: Expected intervals after which the past of a series says nothing more.
MEMORY: Final = 10
#: Expected intervals that a value must repeat, at the least, before it is stuck: a study of hourly sensors flags from 24 on.
STUCK_INTERVALS: Final = 24


def _interval(row: SeriesRow) -> float:
    return row.metric.interval if row.sensor.interval is None else row.sensor.interval


def _steps(row: SeriesRow) -> tuple[float, float]:
    """step_floor, step_rate. The catalogue's floor is for its interval: whoever reports less often sees larger changes."""
    sensor, metric = row.sensor, row.metric
    floor = metric.step_floor * max(1.0, _interval(row) / metric.interval)
    rate = metric.step_per_minute / 60.0 / MICROSECOND
    if metric.step_rating_per_hour and sensor.rating is not None:
        # The last digit of a meter is not its step: one interval's worth at full load is let through.
        floor = metric.step_rating_per_hour * sensor.rating * _interval(row) / 3600.0
        rate += metric.step_rating_per_hour * sensor.rating / 3600.0 / MICROSECOND
    return (
        floor if sensor.step_floor is None else sensor.step_floor,
        rate if sensor.step_per_minute is None else sensor.step_per_minute / 60.0 / MICROSECOND,
    )


def _memory(row: SeriesRow) -> int:
    return int(MEMORY * _interval(row) * MICROSECOND)


def _stuck_after(row: SeriesRow) -> int:
    if row.sensor.stuck_after is not None:
        return int(row.sensor.stuck_after * MICROSECOND)
    seconds = max(row.metric.stuck_after, STUCK_INTERVALS * _interval(row))
    return int(FOREVER) if math.isinf(seconds) else int(seconds * MICROSECOND)


def _conversion(row: SeriesRow) -> Linear | None:
    """From the registered unit to the metric's. None: there is none; registration refuses that, but catalogues change."""
    try:
        return conversion(row.sensor.unit or row.metric.unit, row.metric.unit)
    except UnitError:
        return None


def _declared(row: SeriesRow) -> set[float]:
    return {code for code in (*row.metric.sentinels, *row.sensor.sentinels) if not math.isnan(code)}


def _defaults(unit: Linear, low: float, high: float) -> set[float]:
    """The default sentinels of a sensor that sends this unit: those that, taken for values, would be implausible."""
    return {code for code in DEFAULT_SENTINELS if not low <= code * unit.scale + unit.offset <= high}


def _padded(size: int, ids: Int64, rows: Sequence[Sequence[float]], way: Int64) -> Float64:
    width = max(map(len, rows), default=0)
    full = np.array([[*values, *[np.nan] * (width - len(values))] for values in rows], np.float64).reshape(len(rows), width)
    out = np.full((size, width), np.nan)
    out[ids] = full[way]
    return out
