"""What ingest must know of the registered devices to judge a reading, as one immutable snapshot of look-up tables and arrays."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from devices.batch import Bools, Float64, Int32, Int64
from devices.catalogue import Kind, Metric
from devices.device import Sensor

#: Codes that data loggers write for "no value": -200 (UCI air quality), -999, -9999 (most loggers), 65535 (16 bits of ones). They
#: mean that only where they lie outside the plausible range: -200 W and 65535 lx are values. -1 is too often a real reading.
DEFAULT_SENTINELS: Final = (-200.0, -999.0, -9999.0, 65535.0)

#: Kinds as small integers, for arrays.
KIND_CODES: Final[Mapping[Kind, int]] = {kind: code for code, kind in enumerate(Kind)}


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesRow:
    """One series as the registry has it: a sensor of a device."""

    id: int  # > 0
    device: str
    source: int  # id of the source that may publish it
    retired: bool
    metric: Metric
    sensor: Sensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """A snapshot. Arrays are indexed by series id; an id that no series has holds neutral elements."""

    version: int  # grows with every change
    sources: Mapping[str, int]  # id by name
    devices: frozenset[str]  # every registered device, retired ones included
    series: Mapping[tuple[str, str], int]  # id by (device, metric)
    owner: Int32  # id of the source; 0: no such series
    retired: Bools
    kind: NDArray[np.int8]  # KIND_CODES
    low: Float64  # plausible range
    high: Float64
    suspect_low: Float64
    suspect_high: Float64
    sentinels: Float64  # (ids, k): codes for "missing", padded with NaN


def build(*, version: int, sources: Mapping[str, int], devices: Iterable[str], rows: Iterable[SeriesRow]) -> Registry:
    """A snapshot of these series.

    Parameters
    ----------
    version : int
    sources : mapping
        Id by name; ids are positive.
    devices : iterable of str
        Ids of all devices, those without sensors too.
    rows : iterable of SeriesRow
    """
    listed = list(rows)
    size = max((row.id for row in listed), default=0) + 1
    bounds = [_bounds(row) for row in listed]
    codes = [_sentinels(row, low, high) for row, (low, high, _, _) in zip(listed, bounds, strict=True)]
    ids = np.array([row.id for row in listed], np.int64)
    columns = np.array(bounds, np.float64).reshape(len(listed), 4)
    sentinels = np.full((size, max(map(len, codes), default=0)), np.nan)
    for row, values in zip(listed, codes, strict=True):
        sentinels[row.id, : len(values)] = values
    return Registry(
        version=version,
        sources=dict(sources),
        devices=frozenset(devices),
        series={(row.device, row.metric.name): row.id for row in listed},
        owner=_placed(size, ids, [row.source for row in listed], np.int32, 0),
        retired=_placed(size, ids, [row.retired for row in listed], np.bool_, 0),
        kind=_placed(size, ids, [KIND_CODES[row.metric.kind] for row in listed], np.int8, 0),
        low=_placed(size, ids, columns[:, 0], np.float64, -np.inf),
        high=_placed(size, ids, columns[:, 1], np.float64, np.inf),
        suspect_low=_placed(size, ids, columns[:, 2], np.float64, -np.inf),
        suspect_high=_placed(size, ids, columns[:, 3], np.float64, np.inf),
        sentinels=sentinels,
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


def _sentinels(row: SeriesRow, low: float, high: float) -> list[float]:
    default = [code for code in DEFAULT_SENTINELS if not low <= code <= high]
    declared = [*row.metric.sentinels, *row.sensor.sentinels]
    return sorted({code for code in default + declared if not math.isnan(code)})
