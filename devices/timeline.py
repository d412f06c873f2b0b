"""Piecewise-constant values of many series, in compact form.

The entries of series i are at the positions from `start[i]` up to `start[i + 1]` of common arrays. `since` holds the time from
which each entry applies, ascending within a series.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from citybeat.devices.batch import Int32, Int64


def starts(size: int, counts: Iterable[tuple[int, int]]) -> Int64:
    """Make `start` for ids below `size` from pairs (id, number of entries).

    Returns
    -------
    (size + 1,) int64
    """
    lengths = np.zeros(size + 1, np.int64)
    for number, count in counts:
        lengths[number + 1] = count
    return np.cumsum(lengths)


def in_force(start: Int64, since: Int64, of: Int32, at: Int64) -> Int64:
    """Find the entry in force for each row: the last one of its series that does not begin later.

    Parameters
    ----------
    start : (ids + 1,) int64
    since : (entries,) int64
        us since 1970 UTC.
    of : (n,) int32
        Series id of each row.
    at : (n,) int64
        us since 1970 UTC.

    Returns
    -------
    (n,) int64
        Index of the entry; -1: none is in force.
    """
    # Bisection of all rows at once: `low` becomes the first entry that begins later.
    first = start[of]
    low, high = first.copy(), start[of + 1]
    while (low < high).any():
        middle = (low + high) // 2
        before = (low < high) & (since[np.minimum(middle, len(since) - 1)] <= at)
        low = np.where(before, middle + 1, low)
        high = np.where(before, high, np.minimum(middle, high))
    return np.where(low > first, low - 1, -1)


def overlaid(intervals: Sequence[tuple[int, int, int]], neutral: int) -> list[tuple[int, int]]:
    """Turn overlapping intervals into consecutive entries; where intervals overlap, the later one in the sequence wins.

    Parameters
    ----------
    intervals : sequence of (from, to, value)
        Half-open intervals [from, to).
    neutral : int
        Value outside all intervals.

    Returns
    -------
    list of (since, value)
        Ascending; consecutive values differ.

    Examples
    --------
    >>> overlaid([(0, 10, 1), (5, 20, 2), (7, 8, 0)], 0)
    [(0, 1), (5, 2), (7, 0), (8, 2), (20, 0)]
    """
    out: list[tuple[int, int]] = []
    for moment in sorted({edge for start, end, _ in intervals for edge in (start, end)}):
        value = next((value for start, end, value in reversed(intervals) if start <= moment < end), neutral)
        if value != (out[-1][1] if out else neutral):
            out.append((moment, value))
    return out
