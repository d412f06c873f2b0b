"""Properties of a city's sensors that faults need: sizes of errors, codes for "missing", applicable kinds. Pure.

**Scales.** Faults are as large as is meaningful for each series, from the catalogue and the sensor's registration:

- `limit`: what may change between two of its readings (`step_floor + step_rate * interval`); infinite: no change is too large;
- `scale`: the smaller of `limit` and 5 % of the plausible range; NaN: neither is finite.

Spikes and steps are at least 1.8 times the limit, so that whatever the truth did meanwhile the change is too large, and stay within
the plausible range. Where there is no room for that (a sound level may change by more than its whole range), the reading is left
alone. So is every series for which a kind makes no sense: `applies` says which.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np

from citybeat.devices.batch import FOREVER, MICROSECOND, Bools, Float64, Int32, Int64
from citybeat.devices.catalogue import KIND_CODES, Catalogue, Kind, builtin
from citybeat.devices.registry import snapshot
from citybeat.devices.registry.snapshot import Registry, SeriesRow
from citybeat.devices.units import UnitError, conversion
from citybeat.simulator.city.layout import City
from citybeat.simulator.city.shapes import steps
from citybeat.simulator.faults.kinds import Fault

#: Least size of a spike or a step, in limits: one for the change itself, the rest for changes of the truth meanwhile.
LEAST: Final = 1.8
_RANGE_PART: Final = 0.05  # see `scale`
PARTS: Final = 1000.0  # values are rounded to 1/1000 of the unit
#: Units that a wrongly configured sensor sends in place of the registered one.
WRONG_UNITS: Final = {
    "Cel": "[degF]",
    "1": "%",
    "km/h": "m/s",
    "m/s": "km/h",
    "hPa": "Pa",
    "m": "cm",
    "mm": "cm",
    "W": "kW",
    "W/m2": "kW/m2",
    "ug/m3": "mg/m3",
    "mg/m3": "ug/m3",
    "s": "ms",
    "kW.h": "W.h",
    "m3": "L",
    "V": "mV",
    "A": "mA",
    "deg": "rad",
}
COUNTER: Final = KIND_CODES[Kind.COUNTER]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensors:
    """Properties of a city's s series: arrays by sensor, of which few differ, and the sensor of each series."""

    of: Int32  # (s,) the sensor of each series
    low: Float64  # (k,) plausible range
    high: Float64
    limit: Float64
    scale: Float64
    interval: Int64  # us
    kind: Int64  # KIND_CODES
    register: Float64  # where a counter starts again at 0; infinite: nowhere
    stuck_after: Int64  # us; FOREVER: never
    may_repeat: Float64  # (k, any), padded with NaN
    sentinels: Float64  # (k, any) codes for "missing", padded with NaN
    codes: Float64  # all of them
    unit_scale: Float64  # value * scale + offset is the number in another unit; NaN: there is none
    unit_offset: Float64


def look_up(city: City, kinds: Catalogue | None = None) -> Sensors:
    """Look up the properties that the registry would have of a city's sensors."""
    kinds = builtin() if kinds is None else kinds
    # Devices of one type and rating have equal sensors: few differ.
    makes = np.stack([city.type.astype(np.float64), np.nan_to_num(city.rating, nan=-1.0)])
    _, example, make = np.unique(makes, axis=1, return_index=True, return_inverse=True)
    listed = [city.device(index).sensors for index in example.tolist()]
    begin = np.cumsum([0, *map(len, listed)])
    flat = list(chain.from_iterable(listed))
    known: Registry = snapshot.build(
        version=1,
        sources={},
        devices={},
        rows=[
            SeriesRow(id=i, device=str(i), source=1, retired=False, metric=kinds[sensor.metric], sensor=sensor)
            for i, sensor in enumerate(flat, start=1)
        ],
    )
    first = np.array([int(city.first[index]) for index in example.tolist()], np.int64)  # series of the examples' first sensors
    series = np.concatenate([start + np.arange(len(each)) for start, each in zip(first.tolist(), listed, strict=True)])
    device = city.series.device
    rows = np.arange(1, len(flat) + 1)
    units = np.array([_other_unit(kinds[sensor.metric].unit, float(known.high[i])) for i, sensor in enumerate(flat, 1)])
    interval = np.rint(city.series.interval[series] * MICROSECOND).astype(np.int64)
    low, high = known.low[rows], known.high[rows]
    limit = known.step_floor[rows] + known.step_rate[rows] * interval
    scale = np.minimum(limit, _RANGE_PART * (high - low))
    return Sensors(
        of=(begin[make.ravel()[device]] + np.arange(len(device)) - city.first[device]).astype(np.int32),
        low=low,
        high=high,
        limit=limit,
        scale=np.where(np.isfinite(scale), scale, np.nan),
        interval=interval,
        kind=known.kind[rows].astype(np.int64),
        register=city.series.registers[city.series.type[device[series]], city.series.metric[series]],
        stuck_after=known.stuck_after[rows],
        may_repeat=known.may_repeat[rows],
        sentinels=known.sentinels[rows],
        codes=known.codes[np.isfinite(known.codes)],
        unit_scale=units[:, 0],
        unit_offset=units[:, 1],
    )


def _other_unit(unit: str, high: float) -> tuple[float, float]:
    if unit not in WRONG_UNITS or (unit == "1" and high != 1):  # a number of people is not a share
        return np.nan, np.nan
    try:
        by = conversion(unit, WRONG_UNITS[unit])
    except UnitError:
        return np.nan, np.nan
    return by.scale, by.offset


def applies(kind: Fault, known: Sensors) -> Bools:
    """Return the sensors that a kind is applicable to: (k,) bool."""
    counter = known.kind == COUNTER
    found: Bools = np.ones(len(counter), np.bool_)
    if kind in {Fault.SPIKE, Fault.STEP}:
        found = np.isfinite(known.limit) & (known.high - known.low >= LEAST * known.limit)
    elif kind in {Fault.DRIFT, Fault.OFFSET, Fault.NOISE}:
        found = np.isfinite(known.scale) & ~counter
    elif kind is Fault.STUCK:
        found = known.stuck_after != FOREVER
    elif kind is Fault.RANGE:
        found = np.isfinite(known.low) | np.isfinite(known.high)
    elif kind is Fault.SENTINEL:
        found = np.isfinite(known.sentinels).sum(axis=1) > 0
    elif kind is Fault.UNIT:
        found = np.isfinite(known.unit_scale)
    elif kind is Fault.RESET:
        found = counter
    return found


def is_missing(known: Sensors, series: Int64, value: Float64) -> Bools:
    """Return which values mean "missing": NaN, and the codes of their series."""
    found: Bools = np.isnan(value)
    rows = np.flatnonzero(np.isin(value, known.codes))
    found[rows] = (value[rows, None] == known.sentinels[known.of[series[rows]]]).any(axis=1)
    return found


def other_value(known: Sensors, series: Int64, value: Float64, chance: Float64) -> Float64:
    """Return a value that contradicts another, by about the series' scale; never a code for "missing"."""
    scale = known.scale[known.of[series]]
    scale = np.where(np.isnan(scale), 1.0, scale)
    return off_codes(steps(value + np.maximum(scale, 0.01) * (0.5 + chance), PARTS), series, known)


def off_codes(value: Float64, series: Int64, known: Sensors) -> Float64:
    """Move values a little away from codes for "missing"."""
    codes = is_missing(known, series, value) & ~np.isnan(value)
    return np.where(codes, value + 0.125, value)
