import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybeat.devices.aggregate import downsample, increases
from citybeat.devices.batch import FOREVER, NEVER, Batch, Partials
from citybeat.devices.catalogue import KIND_CODES, Kind
from tests import oracles

KINDS = ["gauge", "amount", "counter", "direction", "level", "state"]
CODES = np.array([0, *(KIND_CODES[Kind(kind)] for kind in KINDS)], np.int8)  # series i has KINDS[i - 1]

readings = st.lists(
    st.tuples(
        st.integers(1, len(KINDS)),
        st.integers(-200_000_000, 200_000_000),
        st.one_of(st.floats(-1e3, 1e3), st.sampled_from([0.0, -0.0, 359.9, 0.1, 1e100, -1e100])),
        st.sampled_from([0, 0, 0, 1, 2, 4, 8, 16, 64, 128, 256, 129, 257, 384]),
    ),
    max_size=60,
    unique_by=lambda row: row[:2],
)


def batch(rows):
    rows = sorted(rows)
    n = len(rows)
    return Batch(
        series=np.array([row[0] for row in rows], np.int32),
        time=np.array([row[1] for row in rows], np.int64),
        value=np.array([row[2] for row in rows], np.float64),
        flags=np.array([row[3] for row in rows], np.int16),
        received_at=np.zeros(n, np.int64),
        message=np.zeros(n, np.int32),
        index=np.arange(n, dtype=np.int32),
    )


def check(rows, before=None):
    known = None if before is None else np.array([np.nan, *(before.get(i + 1, np.nan) for i in range(len(KINDS)))])
    partials = downsample(batch(rows), CODES, known)
    expected = oracles.downsample(rows, {i + 1: kind for i, kind in enumerate(KINDS)}, before=before)
    keys = list(zip(partials.series.tolist(), partials.bucket.tolist(), strict=True))
    assert keys == sorted(expected)
    for i, key in enumerate(keys):
        want = expected[key]
        for column in ("n", "n_bad", "vmin", "vmax", "vfirst", "vlast"):
            assert (
                repr(float(getattr(partials, column)[i])) == repr(float(want[column]))
                or getattr(partials, column)[i] == want[column]
            ), column
        assert partials.first_at[i] == (FOREVER if want["first_at"] is None else want["first_at"])
        assert partials.last_at[i] == (NEVER if want["last_at"] is None else want["last_at"])
        for column in ("s1", "s2"):
            assert abs(getattr(partials, column)[i] - want[column]) <= 1e-9 * want["magnitude"]


@given(readings, st.none() | st.just({}) | st.floats(-1e3, 1e3).map(lambda value: {3: value}))
def test_agrees_with_its_slow_twin(rows, before):
    check(rows, before)


def test_a_hundred_thousand_readings():
    rng = np.random.default_rng(7)
    keys = np.unique(np.stack([rng.integers(1, 7, 100_000), rng.integers(0, 10**10, 100_000)]), axis=1)
    rows = list(
        zip(
            keys[0].tolist(),
            keys[1].tolist(),
            rng.normal(50, 20, keys.shape[1]).tolist(),
            rng.choice([0, 1, 8], keys.shape[1]).tolist(),
            strict=True,
        )
    )
    check(rows)


def test_a_bad_reading_counts_and_does_nothing_else():
    partials = downsample(batch([(1, 0, 5.0, 1), (1, 1, 7.0, 0), (1, 60_000_000, 9.0, 4)]), CODES)
    assert partials.n.tolist() == [1, 0]
    assert partials.n_bad.tolist() == [1, 1]
    assert partials.vmin.tolist() == [7.0, math.inf]
    assert partials.first_at.tolist() == [1, FOREVER]
    assert partials.s1.tolist() == [7.0, 0.0]


def test_the_mean_of_359_and_1_degrees_is_north():
    partials = downsample(batch([(4, 0, 359.0, 0), (4, 1, 1.0, 0)]), CODES)
    assert math.degrees(math.atan2(partials.s1[0], partials.s2[0])) == pytest.approx(0, abs=1e-9)


def test_a_counter_rises_from_reading_to_reading_and_starts_again_at_nothing():
    rows = [(3, 0, 10.0, 0), (3, 1, 12.5, 0), (3, 2, 99.0, 1), (3, 59_999_999, 13.0, 0), (3, 60_000_000, 4.0, 0)]
    assert downsample(batch(rows), CODES).s1.tolist() == [3.0, 4.0]
    before = np.array([np.nan, np.nan, np.nan, 7.0, np.nan, np.nan, np.nan])
    assert downsample(batch(rows), CODES, before).s1.tolist() == [6.0, 4.0]
    assert downsample(batch(rows), CODES).s2.tolist() == [0.0, 0.0]


def test_a_counter_below_nothing_did_not_rise():
    assert increases(np.array([1, 1, 1], np.int32), np.array([1.0, -5.0, -2.0])).tolist() == [0.0, 0.0, 3.0]


def test_unsorted_or_repeated_rows_are_refused():
    good = batch([(1, 0, 1.0, 0), (1, 1, 1.0, 0)])
    with pytest.raises(ValueError, match="sorted"):
        downsample(good.take(np.array([1, 0])), CODES)
    with pytest.raises(ValueError, match="repeats"):
        downsample(good.take(np.array([0, 0])), CODES)


def test_nothing_gives_nothing():
    partials = downsample(batch([]), CODES)
    assert len(partials) == 0
    assert isinstance(partials, Partials)
