"""Selects fewer readings that give a plot the same shape. Pure.

The result are readings as they were stored, with their times and flags, never means; the first and the last reading of a series are
always among them. LTTB comes from a library (docs/decisions/0004-thinning.md), min-max is implemented here.
"""

import enum
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tsdownsample import LTTBDownsampler

from citybeat.devices.batch import Float64, Int64

#: Fewest readings that a series may be thinned to: both ends, and the minimum and maximum of one stretch.
FEWEST: Final = 4
Rows = NDArray[np.int64]


class Thin(enum.StrEnum):
    """Rules of selection."""

    LTTB = "lttb"  # the reading of each stretch that makes the largest triangle with its neighbours (Steinarsson, 2013)
    MINMAX = "minmax"  # the minimum and the maximum of each stretch of time, so that no peak is lost


def thinned(which: NDArray[np.int64], time: Int64, value: Float64, *, points: int, rule: Thin) -> Rows:
    """Rows that are kept, ascending: all of a series with at most `points` readings, and at most `points` of any other.

    Parameters
    ----------
    which : (n,) int64
        Series of each reading, ascending.
    time : (n,) int64
        us, rising within a series.
    value : (n,) float64
        Finite.
    points : int
        At least `FEWEST`.
    rule : Thin

    Returns
    -------
    (m,) int64

    Examples
    --------
    >>> time, value = np.arange(8), np.array([0.0, 1, 0, 9, 0, -9, 0, 0])
    >>> thinned(np.zeros(8, np.int64), time, value, points=4, rule=Thin.MINMAX).tolist()
    [0, 3, 5, 7]
    """
    starts = np.flatnonzero(np.diff(which, prepend=-1))
    sizes = np.diff(starts, append=len(which))
    long = sizes > points
    if not long.any():
        return np.arange(len(which))
    starts, stops, rest = starts[long], (starts + sizes)[long], ~np.repeat(long, sizes)
    chosen = _lttb(time, value, starts, stops, points) if rule is Thin.LTTB else _minmax(time, value, starts, stops, points)
    return np.sort(np.concatenate([np.flatnonzero(rest), *chosen]))


def _lttb(time: Int64, value: Float64, starts: Rows, stops: Rows, points: int) -> Sequence[Rows]:
    library = LTTBDownsampler()  # type: ignore[no-untyped-call]  # the library types all but this
    return [
        start + library.downsample(time[start:stop] - time[start], value[start:stop], n_out=points).astype(np.int64)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]


def _minmax(time: Int64, value: Float64, starts: Rows, stops: Rows, points: int) -> Sequence[Rows]:
    """All series at once: both ends, and two of the rows between them for each stretch of the series' time."""
    counts = stops - starts - 2
    rows = np.arange(counts.sum()) + np.repeat(starts + 1 - (np.cumsum(counts) - counts), counts)
    stretches = (points - 2) // 2
    width = -(-(time[stops - 1] - time[starts] + 1) // stretches)  # rounded up, so that there are no more stretches
    place = (time[rows] - np.repeat(time[starts], counts)) // np.repeat(width, counts)
    begun = np.flatnonzero((np.diff(place, prepend=-1) != 0) | (np.diff(np.repeat(starts, counts), prepend=-1) != 0))
    lengths = np.diff(begun, append=len(rows))
    inner = value[rows]
    extremes = []
    for reduced in (np.minimum.reduceat(inner, begun), np.maximum.reduceat(inner, begun)):
        equal = np.flatnonzero(inner == np.repeat(reduced, lengths))
        extremes.append(rows[equal[np.searchsorted(equal, begun)]])  # the first of several equal ones
    return [starts, stops - 1, np.unique(np.concatenate(extremes))]
