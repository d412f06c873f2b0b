"""STEP and STUCK against a plain loop that knows no arrays."""

import math
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybeat.devices.batch import NEVER, Batch
from citybeat.devices.catalogue import KIND_CODES, Kind
from citybeat.devices.flags import Flag
from citybeat.ingest.judging import history as history_module
from citybeat.ingest.judging.history import History, changes

S = 1_000_000
STEP, STUCK = int(Flag.STEP), int(Flag.STUCK)
#: By series id: kind, step floor, step rate a second, memory s, stuck after s, may repeat.
SERIES = [
    None,
    (Kind.GAUGE, 3.0, 0.0, 600, 300, (0.0,)),
    (Kind.GAUGE, 1.0, 0.05, 600, math.inf, ()),
    (Kind.COUNTER, 5.0, 0.1, 900, 1200, ()),
    (Kind.GAUGE, math.inf, 0.0, 600, 120, ()),
]
never = np.iinfo(np.int64).max
REGISTRY = SimpleNamespace(
    kind=np.array([0] + [KIND_CODES[row[0]] for row in SERIES[1:]], np.int8),
    step_floor=np.array([math.inf] + [row[1] for row in SERIES[1:]]),
    step_rate=np.array([0.0] + [row[2] / S for row in SERIES[1:]]),
    memory=np.array([0] + [row[3] * S for row in SERIES[1:]], np.int64),
    stuck_after=np.array([never] + [never if math.isinf(row[4]) else row[4] * S for row in SERIES[1:]], np.int64),
    may_repeat=np.array([[math.nan]] + [[row[5][0] if row[5] else math.nan] for row in SERIES[1:]]),
)


def batch(rows):
    """(series, s, value, flags), in order of arrival."""
    rows = sorted(rows, key=lambda row: row[:2])
    return Batch(
        series=np.array([row[0] for row in rows], np.int32),
        time=np.array([row[1] * S for row in rows], np.int64),
        value=np.array([row[2] for row in rows], np.float64),
        flags=np.array([row[3] for row in rows], np.int16),
        received_at=np.zeros(len(rows), np.int64),
        message=np.zeros(len(rows), np.int32),
        index=np.arange(len(rows), dtype=np.int32),
    )


def bad_with(flags, found):
    """An operator's word (256) wins over every finding."""
    return bool((flags | found) & (1 | 2 | 4 | 128)) and not flags & 256


class Twin:
    """The rules of ingest/judging/history.py, one reading at a time."""

    def __init__(self):
        self.series = {}
        self.late = []

    def end_of_batch(self):
        """A late good reading is what later batches are judged from, if it is the last good one."""
        for number, at, value in self.late:
            last_at, last_value, since, good_at, good_value = self.series[number]
            if good_at is None or at > good_at:
                good_at, good_value = at, value
            self.series[number] = (last_at, last_value, since, good_at, good_value)
        self.late = []

    def judge(self, number, at, value, flags):
        kind, floor, rate, memory, stuck_after, may_repeat = SERIES[number]
        last_at, last_value, since, good_at, good_value = self.series.get(number, (None, None, None, None, None))
        bad = bad_with(flags, 0)
        if last_at is not None and at <= last_at:
            if not bad:
                self.late.append((number, at, value))
            return 0
        if last_at is None or value != last_value or at - last_at > memory:
            since = at
        found = STUCK if at - since > stuck_after and value not in may_repeat else 0
        if not bad_with(flags, found) and good_at is not None and at - good_at <= memory:
            change = value - good_value if kind is Kind.COUNTER else abs(value - good_value)
            if change > floor + rate / S * ((at - good_at) * S):
                found |= STEP
        if not bad_with(flags, found):
            good_at, good_value = at, value
        self.series[number] = (at, value, since, good_at, good_value)
        return found


def run(batches):
    for many in (1, 3, 200):  # all series in turns, some, or each in a loop
        with patch.object(history_module, "_MANY", many):
            run_once(batches)


def run_once(batches):
    twin, history, known = Twin(), History.empty(1).grown(len(SERIES)), set()
    for listed in batches:
        rows = [row for row in listed if row[:2] not in known]  # what is stored already is no new reading
        known |= {row[:2] for row in rows}
        made = batch(rows)
        flags, since = changes(made, history, REGISTRY)
        expected, seen = [], set()
        for row in sorted(rows, key=lambda row: row[:2]):
            # of several of one series and time the first is judged, and stored
            expected.append(0 if row[:2] in seen else twin.judge(*row))
            seen.add(row[:2])
        twin.end_of_batch()
        assert flags.tolist() == expected
        first = (
            np.flatnonzero(np.append(True, (made.series[1:] != made.series[:-1]) | (made.time[1:] != made.time[:-1])))
            if rows
            else []
        )
        stored = made.take(np.asarray(first, np.int64))
        stored = Batch(**{n: getattr(stored, n) if n != "flags" else stored.flags | flags[first] for n in Batch.__slots__})
        history.advance(stored, since[np.asarray(first, np.int64)])
    for number, (at, value, since, good_at, good_value) in twin.series.items():
        assert (history.time[number], history.value[number], history.same_since[number]) == (at * S, value, since * S)
        if good_at is None:
            assert history.good_at[number] == NEVER
        else:
            assert (history.good_at[number], history.good_value[number]) == (good_at * S, good_value)


rows = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.integers(0, 40).map(lambda i: i * 61),
        st.sampled_from([0.0, 1.0, 1.0, 1.0, 2.5, 7.0, 50.0]),
        st.sampled_from([0, 0, 0, 0, 1, 8, 16, 257]),
    ),
    max_size=25,
)


@given(st.lists(rows, max_size=4))
def test_agrees_with_its_slow_twin(batches):
    run(batches)


def test_a_hundred_thousand_readings():
    rng = np.random.default_rng(3)
    keys = np.unique(np.stack([rng.integers(1, 5, 100_000), rng.integers(0, 3_000_000, 100_000)]), axis=1)
    values = np.round(rng.normal(10, 1.2, keys.shape[1]))
    listed = list(zip(keys[0].tolist(), keys[1].tolist(), values.tolist(), [0] * keys.shape[1], strict=True))
    run([listed[:50_000], listed[50_000:]])


def one(*readings):
    """Flags of series 1 (floor 3, memory 600 s, stuck after 300 s) at (s, value)."""
    history = History.empty(len(SERIES))
    flags, _ = changes(batch([(1, at, value, 0) for at, value in readings]), history, REGISTRY)
    return flags.tolist()


def test_a_spike_is_a_step_and_what_follows_is_not():
    assert one((0, 20.0), (60, 35.0), (120, 20.5)) == [0, STEP, 0]


def test_a_new_level_is_accepted_when_memory_ends():
    readings = [(0, 20.0), *((60 * i, 35.0 + i * 0.1) for i in range(1, 13))]
    assert one(*readings) == [0] + [STEP] * 10 + [0, 0]


def test_a_gap_makes_no_step_and_no_stuck_sensor():
    assert one((0, 20.0), (700, 90.0)) == [0, 0]
    assert one((0, 20.0), (250, 20.0), (900, 20.0), (1100, 20.0)) == [0, 0, 0, 0]


def test_stuck_from_its_threshold_on_until_it_moves():
    assert one((0, 5.0), (150, 5.0), (300, 5.0), (301, 5.0), (450, 5.0), (500, 5.5)) == [0, 0, 0, STUCK, STUCK, 0]


def test_a_value_that_may_repeat_is_never_stuck():
    assert one(*((60 * i, 0.0) for i in range(20))) == [0] * 20


def test_a_counter_may_fall_but_not_leap():
    history = History.empty(len(SERIES))
    flags, _ = changes(batch([(3, 0, 1000.0, 0), (3, 60, 2.0, 0), (3, 120, 500.0, 0)]), history, REGISTRY)
    assert flags.tolist() == [0, 0, STEP]


def test_an_older_reading_gets_neither():
    history = History.empty(len(SERIES))
    first = batch([(1, 1000, 20.0, 0)])
    _, since = changes(first, history, REGISTRY)
    history.advance(first, since)
    flags, since = changes(batch([(1, 990, 90.0, 0), (1, 1010, 90.0, 0)]), history, REGISTRY)
    assert flags.tolist() == [0, STEP]
    assert since.tolist() == [NEVER, 1010 * S]


@pytest.mark.parametrize("rows", [[], [(1, 0, 1.0, 0)]])
def test_next_to_nothing(rows):
    run([rows])
