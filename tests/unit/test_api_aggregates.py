"""Aggregates of buckets against plain loops over the values that the buckets were made of."""

import cmath
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from citybeat.api.series.aggregates import Aggregate, allowed, compute, reads
from citybeat.devices.catalogue import Kind
from citybeat.storage.reads.series import Buckets
from citybeat.storage.rollups.buckets import VALUES as COLUMNS

VALUES = st.lists(st.lists(st.floats(-200, 200), max_size=6), min_size=1, max_size=5)


def make(kind, minutes):
    """Buckets of these values, as devices/batch.py Partials says."""

    def sums(f):
        return np.array([math.fsum(f(v) for v in values) for values in minutes])

    first = {
        Kind.DIRECTION: lambda v: math.sin(math.radians(v)),
        Kind.LEVEL: lambda v: 10 ** (v / 10),
        Kind.COUNTER: abs,
    }
    second = {Kind.DIRECTION: lambda v: math.cos(math.radians(v)), Kind.GAUGE: lambda v: v * v, Kind.AMOUNT: lambda v: v * v}
    return Buckets(
        series=np.ones(len(minutes), np.int32),
        time=np.arange(len(minutes)) * 60_000_000,
        end=np.arange(1, len(minutes) + 1) * 60_000_000,
        received=np.array([len(values) + i for i, values in enumerate(minutes)], np.int32),
        n=np.array([len(values) for values in minutes], np.int32),
        n_bad=np.arange(len(minutes), dtype=np.int32),
        vmin=np.array([min(values, default=math.inf) for values in minutes]),
        vmax=np.array([max(values, default=-math.inf) for values in minutes]),
        vfirst=np.array([values[0] if values else 0.0 for values in minutes]),
        vlast=np.array([values[-1] if values else 0.0 for values in minutes]),
        s1=sums(first.get(kind, lambda v: v)),
        s2=sums(second.get(kind, lambda _: 0.0)),
    )


def slow(kind, aggregate, values):
    """None: there is none."""
    if aggregate is Aggregate.COUNT:
        return len(values)
    if not values:
        return None
    simple = {"min": min, "max": max, "sum": math.fsum, "first": lambda v: v[0], "last": lambda v: v[-1]}
    if aggregate is Aggregate.INCREASE:
        return math.fsum(abs(v) for v in values)
    if aggregate in simple:
        return simple[aggregate](values)
    if kind is Kind.DIRECTION:
        vector = sum(cmath.rect(1, math.radians(v)) for v in values) / len(values)
        if aggregate is Aggregate.MEAN:
            return math.degrees(cmath.phase(vector)) % 360 if abs(vector) > 1e-6 else ...
        if len(values) == 1:
            return None
        return math.degrees(math.sqrt(max(0.0, -2 * math.log(abs(vector))))) if abs(vector) > 1e-6 else ...
    if aggregate is Aggregate.STDDEV:
        return statistics.stdev(values) if len(values) > 1 else None
    if kind is Kind.LEVEL:
        return 10 * math.log10(statistics.fmean(10 ** (v / 10) for v in values))
    return statistics.fmean(values)


@pytest.mark.parametrize(("kind", "aggregate"), [(kind, aggregate) for kind in Kind for aggregate in allowed(kind)])
@given(minutes=VALUES)
@settings(max_examples=40)  # for each of some 40 pairs
def test_against_a_loop(kind, aggregate, minutes):
    buckets = make(kind, minutes)
    found = compute(aggregate, kind, buckets)
    for value, values in zip(found.tolist(), minutes, strict=True):
        expected = slow(kind, aggregate, values)
        if expected is ...:
            continue  # directions that nearly cancel out
        if expected is None:
            assert math.isnan(value)
        elif kind is Kind.DIRECTION and aggregate is Aggregate.MEAN:
            assert 0 <= value < 360
            assert abs((value - expected + 180) % 360 - 180) < 1e-6
        else:
            # Sums of squares lose what cancels out; near zero spread that leaves the root of rounding.
            assert value == pytest.approx(expected, rel=1e-6, abs=1e-4 if aggregate is Aggregate.STDDEV else 1e-9)


@pytest.mark.parametrize(("kind", "aggregate"), [(kind, aggregate) for kind in Kind for aggregate in allowed(kind)])
def test_what_is_not_read_is_not_asked(kind, aggregate):
    """Without the columns that `reads` leaves out it is the same; without one of the others it is not."""
    whole = make(kind, [[3.0, 8.0, 170.0], [5.0], []])
    nothing = np.full(len(whole), np.nan)
    expected = compute(aggregate, kind, whole)
    read = set(reads(aggregate, kind))
    without = replace(whole, **{name: nothing for name in COLUMNS if name not in read})
    np.testing.assert_array_equal(compute(aggregate, kind, without), expected)
    for name in read:
        assert not np.array_equal(compute(aggregate, kind, replace(whole, **{name: nothing})), expected, equal_nan=True)


def test_a_circular_mean_over_north():
    buckets = make(Kind.DIRECTION, [[350.0, 10.0], [0.0, 180.0], [359.9999999999999]])
    north, nowhere, almost = compute(Aggregate.MEAN, Kind.DIRECTION, buckets).tolist()
    assert min(north, 360 - north) < 1e-9
    assert math.isnan(nowhere)
    assert 0 <= almost < 360


def test_an_energetic_mean():
    (mean,) = compute(Aggregate.MEAN, Kind.LEVEL, make(Kind.LEVEL, [[60.0, 70.0]])).tolist()
    assert mean == pytest.approx(67.4036, abs=1e-4)


def test_what_makes_no_sense_does_not_exist():
    assert Aggregate.SUM not in allowed(Kind.GAUGE)
    assert Aggregate.MIN not in allowed(Kind.DIRECTION)
    assert {Aggregate.MEAN, Aggregate.SUM, Aggregate.STDDEV}.isdisjoint(allowed(Kind.COUNTER))
    with pytest.raises(KeyError):
        compute(Aggregate.SUM, Kind.GAUGE, make(Kind.GAUGE, [[1.0]]))
