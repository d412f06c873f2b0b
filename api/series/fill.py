"""Filling of buckets without a good reading. Pure.

Quantities (count, sum, increase) and spread are never filled: the numbers would be invented. Directions are interpolated the
shorter way round.
"""

import enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from citybeat.api.series.aggregates import Aggregate
from citybeat.devices.batch import Bools, Float64, Int64

#: Aggregates that may be filled in: values that a sensor could have shown.
FILLED: Final = frozenset({Aggregate.MEAN, Aggregate.MIN, Aggregate.MAX, Aggregate.FIRST, Aggregate.LAST})


class Fill(enum.StrEnum):
    """Rules for buckets without a good reading."""

    NONE = "none"  # a bucket without any reading is left out
    NULL = "null"  # it is in the answer, and its values are null
    PREVIOUS = "previous"  # the last value before, within the range
    LINEAR = "linear"  # interpolated between the values before and after, within the range


def gaps(known: Bools) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The nearest known points of each point in its row, at or before it and at or after it; -1 and the row's length for none.

    Parameters
    ----------
    known : (s, g) bool
        One row for each series.

    Examples
    --------
    >>> before, behind = gaps(np.array([[False, True, False, True]]))
    >>> before.tolist(), behind.tolist()
    ([[-1, 1, 1, 3]], [[1, 1, 3, 3]])
    """
    length = known.shape[1]
    numbers = np.arange(length)
    before = np.maximum.accumulate(np.where(known, numbers, -1), axis=1)
    behind = np.minimum.accumulate(np.where(known, numbers, length)[:, ::-1], axis=1)[:, ::-1]
    return before, behind


def filled(values: Float64, known: Bools, time: Int64, rule: Fill, *, directions: Bools) -> Float64:
    """A column with its gaps filled.

    Parameters
    ----------
    values : (s, g) float64
    known : (s, g) bool
        True for buckets with a good reading; all others are gaps, whatever their values.
    time : (g,) int64
        us, ascending.
    rule : Fill
    directions : (s,) bool
        Series of directions, in degrees.

    Returns
    -------
    (s, g) float64
        NaN in gaps that the rule does not fill, and where a value that it uses is NaN.

    Examples
    --------
    >>> row = np.array([[350.0, np.nan, 10.0, np.nan]])
    >>> time, known = np.arange(4), ~np.isnan(row)
    >>> filled(row, known, time, Fill.LINEAR, directions=np.array([True])).tolist()
    [[350.0, 0.0, 10.0, nan]]
    >>> filled(row, known, time, Fill.PREVIOUS, directions=np.array([True])).tolist()
    [[350.0, 350.0, 10.0, 10.0]]
    """
    length = len(time)
    if rule not in {Fill.PREVIOUS, Fill.LINEAR} or length == 0:
        return np.where(known, values, np.nan)
    before, behind = gaps(known)
    reached = before >= 0
    earlier = np.take_along_axis(values, np.maximum(before, 0), axis=1)
    if rule is Fill.PREVIOUS:
        return np.where(known, values, np.where(reached, earlier, np.nan))
    reached &= behind < length
    at, until = np.maximum(before, 0), np.minimum(behind, length - 1)
    later = np.take_along_axis(values, until, axis=1)
    rise = later - earlier
    rise = np.where(directions[:, None], (rise + 180.0) % 360.0 - 180.0, rise)
    share = (time - time[at]) / np.maximum(time[until] - time[at], 1)
    line = earlier + rise * share
    line = np.where(directions[:, None], line % 360.0, line)
    # The remainder of a tiny negative angle is rounded to 360.
    line = np.where(directions[:, None] & (line == 360.0), 0.0, line)
    return np.where(known, values, np.where(reached, line, np.nan))
