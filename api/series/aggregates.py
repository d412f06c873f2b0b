"""Aggregates of a series' buckets, by the kind of its metric. Pure; `devices.batch.Partials` describes the columns.

An aggregate that makes no sense for a kind does not exist for it, such as a sum of temperatures or a lowest wind direction. In a
bucket without a good reading the count is 0 and all others are NaN.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Float64
from citybeat.devices.catalogue import Kind
from citybeat.storage.reads.series import Buckets


class Aggregate(enum.StrEnum):
    """Aggregates of a bucket."""

    COUNT = "count"  # good readings
    MEAN = "mean"  # arithmetic, circular, energetic, or the share of ones, by kind
    MIN = "min"
    MAX = "max"
    SUM = "sum"
    FIRST = "first"  # value of the earliest good reading
    LAST = "last"
    INCREASE = "increase"  # of a counter, aware of resets
    STDDEV = "stddev"  # of the sample; of a direction: circular, degrees


Column = NDArray[Any]


def compute(aggregate: Aggregate, kind: Kind, buckets: Buckets) -> Column:
    """One aggregate of every bucket.

    Parameters
    ----------
    aggregate : Aggregate
        One of `allowed(kind)`.
    kind : Kind
    buckets : Buckets, n rows

    Returns
    -------
    (n,) float64, or int32 for counts
        NaN where a bucket has no such value: without a good reading, for the standard deviation of one reading, and for the mean of
        directions that cancel out.

    Raises
    ------
    KeyError
        The aggregate makes no sense for the kind.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return _TABLE[kind][aggregate](buckets)


def allowed(kind: Kind) -> list[Aggregate]:
    """The aggregates that make sense for a kind, in the order of `Aggregate`."""
    return [aggregate for aggregate in Aggregate if aggregate in _TABLE[kind]]


def reads(aggregate: Aggregate, kind: Kind) -> Sequence[str]:
    """The columns of buckets that an aggregate is computed from, besides counts and times."""
    return ("s1", "s2") if kind is Kind.DIRECTION and aggregate is Aggregate.MEAN else _READS[aggregate]


def coverage(buckets: Buckets, expected_every: Float64) -> Float64:
    """Readings received, good or bad, over those expected; at most 1.

    Parameters
    ----------
    buckets : Buckets, n rows
    expected_every : (n,) float64
        Expected s between readings of each row's series.
    """
    return np.minimum(buckets.received * expected_every * 1e6 / (buckets.end - buckets.time), 1.0)


def _where_any(values: Float64, buckets: Buckets) -> Float64:
    return np.where(buckets.n > 0, values, np.nan)


def _mean(b: Buckets) -> Float64:
    return b.s1 / b.n


def _stddev(b: Buckets) -> Float64:
    # Rounding can make this slightly negative where all values are equal.
    spread = np.maximum(b.s2 - b.s1 * b.s1 / b.n, 0.0)
    return np.where(b.n > 1, np.sqrt(spread / (b.n - 1)), np.nan)


#: Length of a mean vector below which its direction is rounding noise.
_NOWHERE: Final = 1e-9


def _resultant(b: Buckets) -> Float64:
    return np.hypot(b.s1, b.s2) / b.n


def _circular_mean(b: Buckets) -> Float64:
    degrees = np.degrees(np.arctan2(b.s1, b.s2)) % 360.0
    # The remainder of a tiny negative angle is rounded to 360.
    return np.where(_resultant(b) > _NOWHERE, np.where(degrees == 360.0, 0.0, degrees), np.nan)


def _circular_stddev(b: Buckets) -> Float64:
    # Mardia & Jupp, Directional Statistics, 2.3.4.
    length = np.minimum(_resultant(b), 1.0)
    return np.where((b.n > 1) & (length > _NOWHERE), np.degrees(np.sqrt(-2.0 * np.log(length))), np.nan)


def _energetic_mean(b: Buckets) -> Float64:
    return 10.0 * np.log10(b.s1 / b.n)


_READS: Final[Mapping[Aggregate, Sequence[str]]] = {
    Aggregate.COUNT: (),
    Aggregate.MEAN: ("s1",),
    Aggregate.MIN: ("vmin",),
    Aggregate.MAX: ("vmax",),
    Aggregate.SUM: ("s1",),
    Aggregate.FIRST: ("vfirst",),
    Aggregate.LAST: ("vlast",),
    Aggregate.INCREASE: ("s1",),
    Aggregate.STDDEV: ("s1", "s2"),
}
_Function = Callable[[Buckets], Column]
_ALWAYS: Final[Mapping[Aggregate, _Function]] = {
    Aggregate.COUNT: lambda b: b.n,
    Aggregate.FIRST: lambda b: _where_any(b.vfirst, b),
    Aggregate.LAST: lambda b: _where_any(b.vlast, b),
}
_ORDERED: Final[Mapping[Aggregate, _Function]] = {
    **_ALWAYS,
    Aggregate.MIN: lambda b: _where_any(b.vmin, b),
    Aggregate.MAX: lambda b: _where_any(b.vmax, b),
}
_TABLE: Final[Mapping[Kind, Mapping[Aggregate, _Function]]] = {
    Kind.GAUGE: {**_ORDERED, Aggregate.MEAN: _mean, Aggregate.STDDEV: _stddev},
    Kind.AMOUNT: {
        **_ORDERED,
        Aggregate.MEAN: _mean,
        Aggregate.SUM: lambda b: _where_any(b.s1, b),
        Aggregate.STDDEV: _stddev,
    },
    Kind.COUNTER: {**_ORDERED, Aggregate.INCREASE: lambda b: _where_any(b.s1, b)},
    Kind.DIRECTION: {**_ALWAYS, Aggregate.MEAN: _circular_mean, Aggregate.STDDEV: _circular_stddev},
    Kind.LEVEL: {**_ORDERED, Aggregate.MEAN: _energetic_mean},
    Kind.STATE: {**_ORDERED, Aggregate.MEAN: _mean},
}
