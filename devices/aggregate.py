"""Aggregation of readings to partials: the only code that computes the sums of a metric's kind. Pure.

`devices.batch.Partials` defines the columns. Ingest aggregates readings when they are new, and again when minutes are recomputed
from raw.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import FOREVER, MINUTE, NEVER, Batch, Float64, Int32, Int64, Partials
from citybeat.devices.catalogue import KIND_CODES, Kind
from citybeat.devices.flags import is_bad


def downsample(batch: Batch, kind: NDArray[np.int8], before: Float64 | None = None, *, bucket: Int64 | None = None) -> Partials:
    """Aggregate readings to minutes, or to other buckets, of each series.

    Parameters
    ----------
    batch : Batch, n readings
        Sorted by series, then time; no two readings of one series and time. Values are finite.
    kind : (s,) int8
        Kind of each series, by id (`devices.catalogue.KIND_CODES`).
    before : (s,) float64, optional
        Value of each counter's last good reading before those of the batch; NaN: there is none. None: no counter has one.
    bucket : (n,) int64, optional
        us since 1970 UTC: start of the bucket that each reading lies in; never decreasing within a series. None: of its minute.

    Returns
    -------
    Partials
        A minute is [bucket, bucket + 60 s). Bad readings (`devices.flags.is_bad`) count in `n_bad` and nowhere else. A counter's s1
        is its increase (`increases`), which is right if no other good reading lies between those of the batch or after them; its s2
        is 0.

    Raises
    ------
    ValueError
        The batch is not sorted.
    """
    n = len(batch)
    if n == 0:
        return _partials_of_nothing()
    if bucket is None:
        bucket = batch.time // MINUTE * MINUTE  # faster than by the remainder
    steps = batch.series[1:] != batch.series[:-1]
    ahead = (batch.series[1:] > batch.series[:-1]) | (~steps & (batch.time[1:] > batch.time[:-1]))
    if not ahead.all():
        raise ValueError("the batch must be sorted by series, then time, without repeats")
    starts = np.flatnonzero(np.concatenate([[True], steps | (bucket[1:] != bucket[:-1])]))
    good = ~is_bad(batch.flags)
    all_good = bool(good.all())

    def unless_bad(column: NDArray[Any], neutral: float | np.int64) -> NDArray[Any]:
        return column if all_good else np.where(good, column, neutral)  # bad readings are rare: most batches have none

    kinds = kind[batch.series]
    x1, x2 = _summands(unless_bad(batch.value, 0.0), kinds)
    counted = np.flatnonzero(good & (kinds == KIND_CODES[Kind.COUNTER]))
    if len(counted):
        x1[counted] = increases(batch.series[counted], batch.value[counted], before)
    x1, x2 = unless_bad(x1, 0.0), unless_bad(x2, 0.0)
    vmin, vmax = unless_bad(batch.value, np.inf), unless_bad(batch.value, -np.inf)
    if len(starts) == n:  # one reading a bucket, the usual case for sensors that report once a minute
        only, n_good = unless_bad(batch.value, 0.0), good.astype(np.int32)
        return Partials(
            series=batch.series,
            bucket=bucket,
            n=n_good,
            n_bad=1 - n_good,
            vmin=vmin,
            vmax=vmax,
            first_at=unless_bad(batch.time, FOREVER),
            vfirst=only,
            last_at=unless_bad(batch.time, NEVER),
            vlast=only,
            s1=x1,
            s2=x2,
        )
    n_good = np.add.reduceat(good.astype(np.int32), starts)
    sizes = np.diff(np.append(starts, n)).astype(np.int32)
    # Rows of a bucket are in time order, so its first and last good reading have the least and greatest row number of good rows.
    numbers = np.arange(n)
    first = np.minimum.reduceat(np.where(good, numbers, n), starts)
    last = np.maximum.reduceat(np.where(good, numbers, -1), starts)
    some = n_good > 0
    first, last = np.where(some, first, 0), np.where(some, last, 0)
    return Partials(
        series=batch.series[starts],
        bucket=bucket[starts],
        n=n_good,
        n_bad=sizes - n_good,
        vmin=np.minimum.reduceat(vmin, starts),
        vmax=np.maximum.reduceat(vmax, starts),
        first_at=np.where(some, batch.time[first], FOREVER),
        vfirst=np.where(some, batch.value[first], 0.0),
        last_at=np.where(some, batch.time[last], NEVER),
        vlast=np.where(some, batch.value[last], 0.0),
        s1=np.add.reduceat(x1, starts),
        s2=np.add.reduceat(x2, starts),
    )


def increases(series: Int32, value: Float64, before: Float64 | None = None) -> Float64:
    """Increase of a counter between each reading and the good one before it.

    A counter that shows less than before has started again at 0, so its increase is the value that it shows. A counter that ran
    over (99,999 to 0) is treated alike: the counts between its last reading and its largest number are lost, the rest is right.

    Parameters
    ----------
    series : (n,) int32
        Sorted.
    value : (n,) float64
        Good readings, in time order within a series.
    before : (s,) float64, optional
        By series id, the value of the good reading before these. NaN, or None: there is none, and the first increase is 0.

    Returns
    -------
    (n,) float64
        Never negative.

    Examples
    --------
    >>> increases(np.array([1, 1, 1, 2], np.int32), np.array([5.0, 7.5, 1.0, 9.0])).tolist()
    [0.0, 2.5, 1.0, 0.0]
    """
    head = np.concatenate([[True], series[1:] != series[:-1]])
    previous = np.concatenate([[0.0], value[:-1]])
    previous[head] = np.nan if before is None else before[series[head]]
    risen = np.where(value >= previous, value - previous, np.maximum(value, 0.0))
    return np.where(np.isnan(previous), 0.0, risen)


def _summands(value: Float64, kind: NDArray[np.int8]) -> tuple[Float64, Float64]:
    """Contribution of each reading to s1 and s2; 0 for a counter."""
    x1, x2 = value.copy(), value * value
    # The costly functions of other kinds are computed for the rows of these kinds only.
    other = np.flatnonzero((kind != KIND_CODES[Kind.GAUGE]) & (kind != KIND_CODES[Kind.AMOUNT]))
    x2[other] = 0.0
    k = kind[other]
    x1[other[k == KIND_CODES[Kind.COUNTER]]] = 0.0
    level = other[k == KIND_CODES[Kind.LEVEL]]
    # No sound has 2,000 dB, but a city's own metric may have no bounds, and must not overflow the sum.
    x1[level] = 10.0 ** (np.clip(value[level], -2000.0, 2000.0) / 10.0)
    direction = other[k == KIND_CODES[Kind.DIRECTION]]
    radians = np.radians(value[direction])
    x1[direction], x2[direction] = np.sin(radians), np.cos(radians)
    return x1, x2


def _partials_of_nothing() -> Partials:
    i4, i8, f8 = np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0)
    return Partials(
        series=i4,
        bucket=i8,
        n=i4,
        n_bad=i4,
        vmin=f8,
        vmax=f8,
        first_at=i8,
        vfirst=f8,
        last_at=i8,
        vlast=f8,
        s1=f8,
        s2=f8,
    )
