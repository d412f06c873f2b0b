"""Thinning against slow twins: the algorithms as their descriptions have them, one series and one reading at a time."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from citybeat.api.series.thin import FEWEST, Thin, thinned

SECOND = 1_000_000
START = 1_767_225_600 * SECOND


def series_of(number, seed, rough):
    """Times and values of a series: steady, with gaps, or with plateaus."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, 60, number) * SECOND + rng.integers(0, 2, number) * rng.integers(0, 10_000, number) * SECOND
    value = rng.normal(20, 5, number)
    if rough == "plateaus":
        value = np.round(value / 10)
    if rough == "huge":
        value *= 1e100
    return START + np.cumsum(steps), value


def several(sizes, rough="steady"):
    made = [series_of(size, seed, rough) for seed, size in enumerate(sizes)]
    which = np.repeat(np.arange(len(sizes)) * 3, sizes)  # some rows of a selection have no readings
    return which, np.concatenate([time for time, _ in made]), np.concatenate([value for _, value in made])


def slow_minmax(time, value, points):
    """Rows of one series."""
    n = len(time)
    if n <= points:
        return list(range(n))
    stretches = (points - 2) // 2
    width = -(-(int(time[-1]) - int(time[0]) + 1) // stretches)
    kept = {0, n - 1}
    for stretch in range(stretches):
        begin = int(time[0]) + stretch * width
        inside = [row for row in range(1, n - 1) if begin <= time[row] < begin + width]
        if inside:
            kept.add(min(inside, key=lambda row: (value[row], row)))
            kept.add(max(inside, key=lambda row: (value[row], -row)))
    return sorted(kept)


def areas(time, value, before, bucket, after):
    """Areas of triangles of each row of a bucket with a row before and the bucket after: the middle of its times, the mean of
    its values. Twice; and what rounding may make of them.
    """
    x, y = (float(time[after[0]]) + float(time[after[-1]])) / 2, np.mean([value[row] for row in after])
    at, was = float(time[before]), value[before]
    made = [abs((at - x) * (value[row] - was) - (at - float(time[row])) * (y - was)) for row in bucket]
    rounding = 1e-12 * max(abs(at - x) * max(abs(value[row]) for row in [before, *bucket]), abs(y - was) * float(time[bucket[-1]]))
    return made, rounding


def check_lttb(time, value, points, kept):
    """Each kept row makes the largest triangle of its bucket, of all that are as large within rounding."""
    n = len(time)
    if n <= points:
        assert kept == list(range(n))
        return
    time = time - time[0]
    assert len(kept) == points
    assert (kept[0], kept[-1]) == (0, n - 1)
    every = (n - 2) / (points - 2)
    borders = [min(int(every * i) + 1, n) for i in range(points)]
    for i in range(points - 2):
        bucket = range(borders[i], borders[i + 1])
        after = range(borders[i + 1], borders[i + 2])
        assert kept[i + 1] in bucket
        sizes, rounding = areas(time, value, kept[i], bucket, after)
        assert sizes[kept[i + 1] - borders[i]] >= max(sizes) - rounding


SIZES = st.lists(st.integers(1, 120), min_size=1, max_size=5)
ROUGH = st.sampled_from(["steady", "plateaus", "huge"])


@given(sizes=SIZES, points=st.integers(FEWEST, 40), rough=ROUGH)
@settings(max_examples=200, deadline=None)
def test_minmax_against_its_twin(sizes, points, rough):
    which, time, value = several(sizes, rough)
    wanted, start = [], 0
    for size in sizes:
        rows = slice(start, start + size)
        wanted += [start + row for row in slow_minmax(time[rows], value[rows], points)]
        start += size
    assert thinned(which, time, value, points=points, rule=Thin.MINMAX).tolist() == wanted


@given(sizes=SIZES, points=st.integers(FEWEST, 40), rough=ROUGH)
@settings(max_examples=200, deadline=None)
def test_lttb_against_its_twin(sizes, points, rough):
    which, time, value = several(sizes, rough)
    kept = thinned(which, time, value, points=points, rule=Thin.LTTB)
    assert (np.diff(kept) > 0).all()
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        own = [row - start for row in kept.tolist() if start <= row < start + size]
        check_lttb(time[rows], value[rows], points, own)
        start += size


@pytest.mark.parametrize("rule", list(Thin))
@given(sizes=SIZES, points=st.integers(FEWEST, 40), rough=ROUGH)
@settings(max_examples=100, deadline=None)
def test_what_both_promise(rule, sizes, points, rough):
    which, time, value = several(sizes, rough)
    kept = thinned(which, time, value, points=points, rule=rule)
    assert (np.diff(kept) > 0).all()
    starts = np.cumsum([0, *sizes])
    for start, stop in pairwise(starts):
        own = kept[(kept >= start) & (kept < stop)]
        assert len(own) <= points
        assert {start, stop - 1} <= set(own.tolist())
        if stop - start <= points:
            assert len(own) == stop - start


def test_minmax_keeps_every_peak():
    """The one that LTTB may leave out: of two peaks in a stretch, up and down, both are there."""
    value = np.zeros(10_000)
    value[5_000], value[5_001] = 10.0, -10.0
    kept = thinned(np.zeros(10_000, np.int64), np.arange(10_000), value, points=100, rule=Thin.MINMAX)
    assert {5_000, 5_001} <= set(kept.tolist())


def test_a_gap_costs_no_points_and_gets_none():
    """Stretches of time in which nothing was read give nothing."""
    time = np.concatenate([np.arange(500), np.arange(500) + 1_000_000]) * SECOND
    value = np.random.default_rng(1).normal(size=1000)
    kept = thinned(np.zeros(1000, np.int64), time, value, points=102, rule=Thin.MINMAX)
    assert len(kept) == 2 + 2 * 2  # the ends, and the first and the last of fifty stretches


@pytest.mark.parametrize("rule", list(Thin))
def test_nothing_in_nothing_out(rule):
    nothing = np.empty(0, np.int64)
    assert thinned(nothing, nothing, np.empty(0), points=FEWEST, rule=rule).tolist() == []
