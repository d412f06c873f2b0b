"""Rollups on a real database, against plain loops over raw: counters, quarter-hours, rebuilding, and what Grafana reads."""

import math
import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from citybeat.devices.batch import NEVER, Batch
from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.storage.accounts import ledger
from citybeat.storage.batches.rows import NEW
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.connection import StorageError, connect, translated
from citybeat.storage.registry import records
from citybeat.storage.rollups import rollup
from tests import oracles

T0 = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
MINUTE, QUARTER, HOUR, DAY = 60_000_000, 900_000_000, 3_600_000_000, 86_400_000_000
METRICS = ["totalActiveEnergyImport", "vehicleCount", "temperature", "windDirection", "LAeq", "precipitation"]
KINDS = {i + 1: builtin()[metric].kind.value for i, metric in enumerate(METRICS)}
COUNTER, AMOUNT = 1, 6
COLUMNS = ("n", "n_bad", "vmin", "vmax", "first_at", "vfirst", "last_at", "vlast", "s1", "s2")


class City:
    """A database with one device that has a sensor of every kind; series i measures METRICS[i - 1]."""

    def __init__(self, url, connection):
        self.url, self.connection = url, connection
        for metric in METRICS:  # one by one, so that ids are in this order
            records.register(
                connection, [Device(id="d", source="gw", domain="energy", district="North", sensors=(Sensor(metric=metric),))]
            )
        snapshot = records.load(connection, builtin())
        assert [snapshot.series["d", metric] for metric in METRICS] == list(KINDS)
        self.kind, self.source = snapshot.kind, snapshot.sources["gw"]

    @contextmanager
    def store(self):
        with closing(BatchWriter(self.url, quarantine_quota=1000)) as made:
            yield made

    def write(self, store, rows, *, hint=True):
        """One batch of (series, us, value, flags) as ingest writes it."""
        with store.batch(uuid4(), [self.source]) as transaction:
            self.steps(transaction, rows, store.history(10)["time"] if hint else np.full(10, NEVER, np.int64))

    def steps(self, transaction, rows, newest):
        rows = sorted(rows, key=lambda row: row[:2])
        n = len(rows)
        batch = Batch(
            series=np.array([row[0] for row in rows], np.int32),
            time=np.array([row[1] for row in rows], np.int64),
            value=np.array([row[2] for row in rows], np.float64),
            flags=np.array([row[3] for row in rows], np.int16),
            received_at=np.full(n, T0, np.int64),
            message=np.zeros(n, np.int32),
            index=np.arange(n, dtype=np.int32),
        )
        new = batch.take(transaction.insert(batch, newest).outcome == NEW)
        transaction.merge_rollups(new, self.kind, newest)
        transaction.merge_latest(new, np.full(len(new), NEVER, np.int64), newest)

    def raw(self):
        query = "SELECT series_id, (extract(epoch FROM time) * 1000000)::int8, value, flags FROM readings"
        return self.connection.execute(query).fetchall()

    def rows(self, table):
        us = "CASE WHEN isfinite({0}) THEN (extract(epoch FROM {0}) * 1000000)::int8 END"
        columns = ", ".join(us.format(name) if name.endswith("_at") else name for name in COLUMNS)
        return {
            row[:2]: row[2:] for row in self.connection.execute(f"SELECT series_id, {us.format('bucket')}, {columns} FROM {table}")
        }

    def check(self, table, length):
        expected, got = oracles.downsample(self.raw(), KINDS, length), self.rows(table)
        assert got.keys() == expected.keys()
        for key, want in expected.items():
            assert got[key][:8] == tuple(want[column] for column in COLUMNS[:8]), key
            assert abs(got[key][8] - want["s1"]) <= 1e-9 * want["magnitude"], key
            assert abs(got[key][9] - want["s2"]) <= 1e-9 * want["magnitude"], key

    def check_all(self):
        """Minutes are right; quarter-hours are right for readers before the worker has been there, and afterwards in the table."""
        self.check("readings_1m", MINUTE)
        self.check("quarter_hours", QUARTER)
        assert ledger.rollup_differences(self.connection) == []
        self.advance()
        self.check("readings_15m", QUARTER)
        assert ledger.rollup_differences(self.connection) == []
        assert self.connection.execute("SELECT count(*) FROM marks_15m").fetchone() == (0,)

    def advance(self):
        while rollup.advance(self.connection):
            pass

    def empty(self):
        self.connection.execute("TRUNCATE readings, readings_1m, readings_15m, latest, marks_15m")

    def s1(self, bucket, series=COUNTER):
        return self.rows("readings_1m")[series, bucket][8]


@pytest.fixture
def city(database, connection):
    return City(database, connection)


# --- counters ---------------------------------------------------------------------------------------------------------------------


def test_an_increase_belongs_to_the_minute_of_the_later_reading(city):
    with city.store() as store:
        city.write(store, [(COUNTER, T0, 100.0, 0), (COUNTER, T0 + 59_000_000, 103.0, 0)])
        city.write(store, [(COUNTER, T0 + MINUTE, 110.0, 0), (COUNTER, T0 + 9 * MINUTE, 2.0, 0)])
    assert [city.s1(T0), city.s1(T0 + MINUTE), city.s1(T0 + 9 * MINUTE)] == [3.0, 7.0, 2.0]
    city.check_all()


def test_a_late_reading_changes_its_own_minute_and_that_of_the_next_good_one(city):
    with city.store() as store:
        city.write(store, [(COUNTER, T0, 100.0, 0), (COUNTER, T0 + 3 * MINUTE, 0.0, 1), (COUNTER, T0 + 5 * MINUTE, 50.0, 0)])
        assert city.s1(T0 + 5 * MINUTE) == 50.0  # taken for a reset
        city.write(store, [(COUNTER, T0 + 2 * MINUTE, 20.0, 0)])
        assert [city.s1(T0 + 2 * MINUTE), city.s1(T0 + 3 * MINUTE), city.s1(T0 + 5 * MINUTE)] == [20.0, 0.0, 30.0]
        city.write(store, [(COUNTER, T0 - 60 * DAY, 90.0, 0)])
        assert city.s1(T0) == 10.0
    city.check_all()


FAR = [HOUR, 2 * HOUR, 2 * HOUR + 1, 20 * HOUR, DAY, DAY + 1, 9 * DAY, 14 * DAY, 14 * DAY + 1, 60 * DAY]


@pytest.mark.parametrize("far", FAR)
def test_the_reading_before_a_late_one_may_be_old(city, far):
    with city.store() as store:
        city.write(store, [(COUNTER, T0 - far, 90.0, 0), (COUNTER, T0 - far + 1, 95.0, 1), (COUNTER, T0 + MINUTE, 100.0, 0)])
        city.write(store, [(COUNTER, T0, 96.0, 0), (2, T0, 1.0, 0)])
        assert [city.s1(T0), city.s1(T0 + MINUTE)] == [6.0, 4.0]
    city.check_all()


@pytest.mark.parametrize("far", FAR)
def test_the_reading_behind_a_late_one_may_be_far(city, far):
    with city.store() as store:
        city.write(store, [(COUNTER, T0 - MINUTE, 90.0, 0), (COUNTER, T0 + far - 1, 0.0, 1), (COUNTER, T0 + far, 100.0, 0)])
        city.write(store, [(COUNTER, T0, 96.0, 0), (3, T0, 1.0, 0)])
        assert [city.s1(T0), city.s1((T0 + far) // MINUTE * MINUTE)] == [6.0, 4.0]
    city.check_all()


def test_what_one_counter_held_back_for_months(city):
    """Each day's late readings have neighbours in other days: stored before, and of the same batch."""
    with city.store() as store:
        city.write(store, [(COUNTER, T0 + 2 * day * DAY, 100.0 * day, 0) for day in range(20)])
        late = [(COUNTER, T0 + day * DAY + i * 7 * HOUR, 50.0 * day + 10 * i, 0) for day in range(1, 37) for i in range(3)]
        city.write(store, [*late, (2, T0, 1.0, 0)])
    city.check_all()


def test_what_was_carried_over_counts_where_raw_has_nothing_newer(city):
    at = "timestamptz 'epoch' + %s * interval '1 microsecond'"
    city.connection.execute(f"INSERT INTO carried_counters VALUES (1, {at}, 50), (2, {at}, 70)", [T0 - 60 * DAY] * 2)
    with city.store() as store:
        city.write(store, [(1, T0 - 30 * DAY, 90.0, 0), (1, T0 + MINUTE, 100.0, 0), (2, T0 + MINUTE, 100.0, 0)])
        city.write(store, [(1, T0, 96.0, 0), (2, T0, 96.0, 0)])
    assert [city.s1(T0), city.s1(T0, 2)] == [6.0, 26.0]


def test_a_late_reading_looks_at_few_chunks(city):
    """A chunk that a statement is planned for is locked to the end of the transaction."""
    city.connection.execute("SELECT set_chunk_time_interval('readings', INTERVAL '1 hour')")
    chunks = """
        SELECT count(DISTINCT l.relation) FROM pg_locks l JOIN timescaledb_information.chunks c
        ON l.relation = format('%I.%I', c.chunk_schema, c.chunk_name)::regclass
        WHERE c.hypertable_name = 'readings' AND l.pid = pg_backend_pid()"""
    with city.store() as store:
        city.write(store, [(series, T0 + hour * HOUR, float(hour), 0) for series in (1, 3) for hour in range(50)])
        newest = store.history(10)["time"]
        rows = [(1, T0 + 48 * HOUR + MINUTE, 48.5, 0), (3, T0 + 47 * HOUR, 47.0, 0)]
        with store.batch(uuid4(), [city.source]) as transaction:
            city.steps(transaction, rows, newest)
            (looked_at,) = transaction.connection.execute(chunks).fetchone()
    assert 0 < looked_at <= 5
    city.check_all()


def test_a_batch_that_is_late_here_and_new_there(city):
    with city.store() as store:
        city.write(store, [(s, T0 + minute * MINUTE, 10.0 * minute, 0) for s in (1, 2, 3) for minute in (0, 4)])
        late = [(1, T0 + 2 * MINUTE, 15.0, 0), (1, T0 + 6 * MINUTE, 70.0, 0), (1, T0 + 2 * MINUTE + 1, 16.0, 1)]
        city.write(store, [*late, (2, T0 + 5 * MINUTE, 41.0, 0), (3, T0 + 2 * MINUTE, 1.0, 0)])
    city.check_all()


def test_two_writers_of_one_counter(city):
    """Their batches interleave in time, so that each changes the other's neighbours."""
    rng = np.random.default_rng(11)
    times = rng.permutation(240)
    totals = np.cumsum(rng.integers(0, 5, 240)).tolist()

    def writer(which):
        with city.store() as store:
            for start in range(which * 4, 240, 8):
                batch = [(COUNTER, T0 + int(i) * 17_000_000, float(totals[i]), 0) for i in times[start : start + 4]]
                city.write(store, batch)

    in_threads(lambda: writer(0), lambda: writer(1))
    assert len(city.raw()) == 240
    city.check_all()
    assert sum(row[8] for row in city.rows("readings_1m").values()) == totals[-1] - totals[0]


def in_threads(*functions):
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert errors == []


# --- the invariant ----------------------------------------------------------------------------------------------------------------

moments = st.one_of(
    st.integers(-40, 40).map(lambda i: T0 + i * 23_000_000),
    st.tuples(st.integers(1, 60), st.integers(0, 3)).map(lambda at: T0 - at[0] * DAY + at[1] * 40_000_000),
)
readings = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 1, 2, 3, 4, 5, 6]),
        moments,
        st.one_of(st.floats(0, 400), st.sampled_from([0.0, 1.0, 359.0, 99_999.0])),
        st.sampled_from([0, 0, 0, 1, 8, 128, 1 | 256]),
    ),
    min_size=1,
    max_size=15,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), readings, st.booleans()),
        st.tuples(st.just("write"), readings, st.booleans()),
        st.tuples(st.just("advance"), st.sampled_from([1, 5, 1000])),
        st.tuples(st.just("rebuild"), st.integers(-30, 30), st.integers(1, 30)),
        st.tuples(st.just("judge again"), st.integers(-15, 15), st.sampled_from([0, 1])),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps)
@example([("write", [(1, T0, 5.0, 0), (1, T0 + 2 * QUARTER, 9.0, 0)], True), ("advance", 1000), ("judge again", 0, 1)])
def test_whatever_comes_in_whatever_order(city, steps):
    city.empty()
    with city.store() as store:
        for what, *arguments in steps:
            if what == "write":
                rows, hint = arguments
                city.write(store, rows, hint=hint)
            elif what == "advance":
                rollup.advance(city.connection, limit=arguments[0])
            elif what == "rebuild":
                start = moment(arguments[0])
                rollup.rebuild(city.connection, start, start + timedelta(minutes=arguments[1]))
            else:
                judge_again(city, moment(arguments[0]), arguments[1])
    city.check_all()


def moment(minutes):
    return datetime.fromtimestamp(T0 // 10**6, UTC) + timedelta(minutes=minutes)


def judge_again(city, start, flags):
    """As a declaration or a new bound does: other flags for a period, its rollups, and the newest good readings."""
    end = start + timedelta(minutes=5)
    with city.connection.transaction():
        city.connection.execute("UPDATE readings SET flags = %s WHERE time >= %s AND time < %s", [flags, start, end])
        city.connection.execute(
            """UPDATE latest l SET (good_at, good_value) = (
                   SELECT coalesce(max(time), '-infinity'), coalesce(last(value, time), 0) FROM readings r
                   WHERE r.series_id = l.series_id AND ((flags & 135) = 0 OR (flags & 256) <> 0))"""
        )
    rollup.rebuild(city.connection, start, end)


# --- marks and the worker ---------------------------------------------------------------------------------------------------------


def test_one_worker_at_a_time(city, database):
    with city.store() as store:
        city.write(store, [(3, T0, 1.0, 0)])
    with closing(connect(database, application="t")) as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(%s)", [rollup.WORKER_LOCK])
        assert rollup.advance(city.connection) == 0
    assert rollup.advance(city.connection) == 1
    assert rollup.advance(city.connection) == 0


def test_a_limit_bounds_what_is_taken_at_once(city):
    with city.store() as store:
        for quarter in range(5):
            city.write(store, [(s, T0 + quarter * QUARTER, 1.0, 0) for s in (3, 4)])
    assert [rollup.advance(city.connection, limit=4) for _ in range(4)] == [4, 4, 2, 0]
    city.check("readings_15m", QUARTER)


def test_a_quarter_hour_that_is_still_being_filled_rests(city):
    """Neither quiet nor old enough: left alone. When it is quiet, or has waited: taken, all of its marks at once."""
    with city.store() as store:
        for minute in range(3):
            city.write(store, [(s, T0 + minute * MINUTE, 1.0, 0) for s in (3, 4)])
        city.write(store, [(3, T0 + QUARTER, 1.0, 0)])
    busy = rollup.SettleTime(quiet=timedelta(hours=1), patience=timedelta(hours=1))
    assert rollup.advance(city.connection, rest=busy) == 0
    city.check("quarter_hours", QUARTER)
    quarter = "bucket = (SELECT min(bucket) FROM marks_15m)"
    city.connection.execute(f"UPDATE marks_15m SET at = at - interval '2 hours' WHERE {quarter} AND id % 2 = 0")
    assert rollup.advance(city.connection, rest=rollup.SettleTime(quiet=timedelta(hours=3), patience=timedelta(hours=1))) == 6
    assert rollup.advance(city.connection, rest=busy) == 0
    city.connection.execute("UPDATE marks_15m SET at = at - interval '2 hours'")
    assert rollup.advance(city.connection, rest=rollup.SettleTime(quiet=timedelta(hours=1), patience=timedelta(hours=3))) == 1
    city.check("readings_15m", QUARTER)


def test_all_marks_of_a_quarter_hour_are_taken_however_low_the_limit(city):
    with city.store() as store:
        for minute in range(5):
            city.write(store, [(s, T0 + minute * MINUTE, 1.0, 0) for s in (3, 4)])
        city.write(store, [(3, T0 + QUARTER, 1.0, 0)])
    assert [rollup.advance(city.connection, limit=4) for _ in range(3)] == [10, 1, 0]
    city.check("readings_15m", QUARTER)


@pytest.mark.parametrize("wrong", [NEVER, T0 - 30 * MINUTE])
def test_a_hint_that_is_wrong_costs_time_and_nothing_else(city, wrong):
    """Minutes that are taken for new, and are there: the way straight in is not open, and the other one is taken."""
    with city.store() as store:
        city.write(store, [(s, T0 + 10 * 1_000_000, 1.0, 0) for s in (3, 4)])
        with store.batch(uuid4(), [city.source]) as transaction:
            city.steps(transaction, [(3, T0 + 20 * 1_000_000, 2.0, 0), (5, T0, 3.0, 0)], np.full(10, wrong, np.int64))
    city.check_all()


def test_a_mark_that_is_not_committed_waits(city):
    with city.store() as store, store.batch(uuid4(), [city.source]) as transaction:
        city.steps(transaction, [(3, T0, 1.0, 0)], np.full(10, NEVER, np.int64))
        assert rollup.advance(city.connection) == 0
    city.check("quarter_hours", QUARTER)
    assert rollup.advance(city.connection) == 1
    city.check("readings_15m", QUARTER)


def test_a_change_between_reading_the_marks_and_recomputing(city, database):
    """The worker has read its marks, and waits for a lock on its table; meanwhile a batch changes the same quarter-hour."""
    with city.store() as store, closing(connect(database, application="t")) as worker:
        city.write(store, [(3, T0, 1.0, 0)])
        with city.connection.transaction():
            city.connection.execute("LOCK TABLE readings_15m IN ACCESS EXCLUSIVE MODE")
            thread = threading.Thread(target=rollup.advance, args=(worker,))
            thread.start()
            wait_for(city.connection, "SELECT FROM pg_locks WHERE NOT granted AND relation = 'readings_15m'::regclass")
            city.write(store, [(3, T0 + MINUTE, 2.0, 0)])
        thread.join(10)
        assert city.connection.execute("SELECT count(*) FROM marks_15m").fetchone() == (1,)
        city.check("quarter_hours", QUARTER)
        assert rollup.advance(city.connection) == 1
        city.check("readings_15m", QUARTER)


def wait_for(connection, query):
    deadline = time.monotonic() + 10
    while not connection.execute(query).rowcount:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_writers_and_a_worker_and_a_reader_at_once(city, database):
    """A reader never finds a quarter-hour that its minutes do not add up to, and in the end all are right."""
    # A statement is planned before its snapshot is taken: of a chunk that is made in between it sees no rows. Not our matter.
    with city.store() as store:
        city.write(store, [(series, T0 + 5000 * 1_000_000, 1.0, 0) for series in KINDS])
    city.advance()
    done = threading.Event()
    seen = []

    def writer(which):
        rng = np.random.default_rng(which)
        with city.store() as store:
            for _ in range(60):
                rows = [(int(s), T0 + int(t) * 1_000_000, float(v), 0) for s, t, v in rng.integers(1, 4000, (6, 3))]
                city.write(store, [(s % 6 + 1, at, v, f) for s, at, v, f in rows])

    def writers():
        try:
            in_threads(lambda: writer(1), lambda: writer(2))
        finally:
            done.set()

    def worker():
        with closing(connect(database, application="t")) as connection:
            while not done.is_set():
                seen.append(rollup.advance(connection, limit=50))

    def reader():
        with closing(connect(database, application="t")) as connection:
            while not done.is_set():
                wrong = connection.execute(
                    """SELECT * FROM quarter_hours q FULL JOIN (
                           SELECT series_id, time_bucket('15 minutes', bucket) AS bucket, sum(n) AS n, min(vmin) AS vmin,
                               max(last_at) AS last_at, sum(s1) AS s1 FROM readings_1m GROUP BY 1, 2
                       ) m USING (series_id, bucket)
                       WHERE (q.n, q.vmin, q.last_at) IS DISTINCT FROM (m.n, m.vmin, m.last_at)
                           OR abs(q.s1 - m.s1) > 1e-9 * greatest(abs(m.s1), 1)"""
                ).fetchall()
                assert wrong == []

    in_threads(writers, worker, worker, reader)
    assert sum(seen) > 0
    city.check_all()


# --- rebuilding -------------------------------------------------------------------------------------------------------------------


def history(days=3):
    rng = np.random.default_rng(5)
    at = rng.choice(days * 86_400, 400 * days, replace=False)
    return [
        (int(s), T0 + int(t) * 1_000_000, float(v), int(f))
        for t, s, v, f in zip(
            at, rng.integers(1, 7, len(at)), rng.uniform(0, 100, len(at)), rng.choice([0, 0, 0, 1], len(at)), strict=True
        )
    ]


def test_rebuilding_repairs_everything(city):
    with city.store() as store:
        city.write(store, history())
    city.advance()
    for table in ("readings_1m", "readings_15m"):
        city.connection.execute(f"DELETE FROM {table} WHERE series_id = 1 AND bucket < '2026-01-02'")
        city.connection.execute(f"UPDATE {table} SET s1 = s1 + 1, n = n + 1 WHERE series_id = 2 AND bucket < '2026-01-02'")
        city.connection.execute(
            f"""INSERT INTO {table}
                SELECT bucket + INTERVAL '1 year', first_at, last_at, vmin, vmax, vfirst, vlast, s1, s2, series_id,
                n, n_bad FROM {table} WHERE series_id = 3"""
        )
    city.connection.execute("DELETE FROM readings_1m WHERE bucket > '2027-01-02'")  # a quarter-hour without minutes
    assert ledger.rollup_differences(city.connection) != []
    assert rollup.rebuild(city.connection, moment(0), moment(600 * 1440)) > 0
    city.check_all()
    assert rollup.rebuild(city.connection, moment(0), moment(600 * 1440)) == 0


def test_rebuilding_cuts_a_dense_period_into_slices(city, monkeypatch):
    with city.store() as store:
        city.write(store, history())
    city.advance()
    city.connection.execute("UPDATE readings_1m SET s1 = s1 + 1")
    monkeypatch.setattr(rollup, "_SLICE", 7)
    minutes = city.connection.execute("SELECT count(*) FROM readings_1m").fetchone()[0]
    assert rollup.rebuild(city.connection, moment(0), moment(3 * 1440)) == minutes
    city.check_all()


def test_rebuilding_keeps_to_its_period_and_devices(city):
    with city.store() as store:
        city.write(store, [(3, T0 + minute * MINUTE, 1.0, 0) for minute in range(4)])
    city.connection.execute("UPDATE readings_1m SET n = 7")
    assert rollup.rebuild(city.connection, moment(0), moment(9), devices=["nobody"]) == 0
    assert rollup.rebuild(city.connection, moment(1), moment(1) + timedelta(seconds=61), devices=["d"]) == 2
    assert [row[0] for _, row in sorted(city.rows("readings_1m").items())] == [7, 1, 1, 7]
    with pytest.raises(ValueError, match="zone"):
        rollup.rebuild(city.connection, datetime(2026, 1, 1), moment(0))  # noqa: DTZ001


def test_rebuilding_waits_for_a_batch_of_the_same_source(city, database):
    with city.store() as store, closing(connect(database, application="t")) as other:
        with store.batch(uuid4(), [city.source]) as transaction:
            thread = threading.Thread(target=rollup.rebuild, args=(other, moment(-60), moment(60)))
            thread.start()
            wait_for(city.connection, "SELECT FROM pg_locks WHERE NOT granted AND locktype = 'advisory'")
            city.steps(transaction, [(3, T0, 1.0, 0)], np.full(10, NEVER, np.int64))
        thread.join(10)
    city.check_all()


# --- what Grafana reads -----------------------------------------------------------------------------------------------------------

SHOWN = ("mean", "sum", "min", "max", "first", "last", "count", "bad_count", "stddev", "increase")


@pytest.mark.parametrize("view", ["telemetry_1m", "telemetry_15m", "telemetry('5 minutes')", "telemetry('30 minutes')"])
def test_views_show_each_kind_as_it_is(city, view):
    with city.store() as store:
        city.write(store, history(1))
        city.write(store, [(s, T0 + 2 * DAY, 5.0, 1) for s in KINDS])  # a bucket without a good reading
        city.write(store, [(4, T0 + 3 * DAY, 90.0, 0), (4, T0 + 3 * DAY + 1, 270.0, 0)])  # directions that cancel out
    length = {"telemetry_1m": 60, "telemetry_15m": 900, "telemetry('5 minutes')": 300, "telemetry('30 minutes')": 1800}[view]
    source = view.replace(")", ", 'UTC', '2026-01-01', '2026-02-01')")
    expected = oracles.downsample(city.raw(), KINDS, length * 1_000_000)
    for _ in range(2):  # before the worker has been there, and afterwards
        query = f"SELECT metric, time, device, unit, domain, district, coverage, {', '.join(SHOWN)} FROM {source}"
        rows = city.connection.execute(query).fetchall()
        assert len(rows) == len(expected)
        for metric, at, device, unit, domain, district, coverage, *shown in rows:
            series = METRICS.index(metric) + 1
            row = expected[series, int(at.timestamp()) * 1_000_000]
            assert (device, unit, domain, district) == ("d", builtin()[metric].unit, "energy", "North")
            want = oracles.aggregates(row, KINDS[series])
            for name, got in zip(SHOWN, shown, strict=True):
                assert (got is None) == (want[name] is None), (metric, name)
                assert got is None or math.isclose(got, want[name], rel_tol=1e-9, abs_tol=1e-6), (metric, name)
            assert math.isclose(coverage, min(1, (row["n"] + row["n_bad"]) * builtin()[metric].interval / length))
        city.advance()


def test_coverage_follows_the_registered_interval(city):
    records.register(
        city.connection, [Device(id="d", source="gw", domain="energy", sensors=(Sensor(metric="temperature", interval=10.0),))]
    )
    with city.store() as store:
        city.write(store, [(3, T0 + i * 10_000_000, 20.0, int(i == 0)) for i in range(3)])
        city.write(store, [(3, T0 + MINUTE + i * 5_000_000, 20.0, 0) for i in range(12)])
    rows = city.connection.execute("SELECT coverage FROM telemetry_1m ORDER BY time").fetchall()
    assert rows == [(0.5,), (1.0,)]


def test_numbers_at_the_edge_of_a_double_break_no_query(city):
    values = [5e-324, -5e-324, 1e-200, 0.0, 1e100, -1e100, 1e-160]
    with city.store() as store:
        for i, value in enumerate(values):
            rows = [(s, T0 + i * HOUR + j, value, 0) for s in KINDS for j in range(2)]
            city.write(store, rows)
    for source in ("telemetry_1m", "telemetry_15m", "telemetry('1 day', 'UTC', '2026-01-01', '2026-01-02')"):
        assert len(city.connection.execute(f"SELECT * FROM {source}").fetchall()) >= len(KINDS)
    city.check_all()


def test_devices_and_metrics_can_be_picked(city):
    with city.store() as store:
        city.write(store, [(s, T0, 5.0, 0) for s in KINDS])
    query = "SELECT metric FROM telemetry('1 hour', 'UTC', '2026-01-01', '2026-01-02', ARRAY['d', 'e'], ARRAY['LAeq', 'o3'])"
    assert city.connection.execute(query).fetchall() == [("LAeq",)]
    assert (
        city.connection.execute("SELECT * FROM telemetry('1 hour', 'UTC', '2026-01-01', '2026-01-02', ARRAY['e'])").fetchall() == []
    )


@pytest.mark.parametrize("bucket", ["90 seconds", "0", "-1 hour"])
def test_a_bucket_is_some_minutes(city, bucket):
    with pytest.raises(StorageError, match="minute"), translated():
        city.connection.execute("SELECT * FROM telemetry(%s, 'UTC', '2026-01-01', '2026-01-02')", [bucket])


def test_a_range_gives_whole_buckets(city):
    with city.store() as store:
        city.write(store, [(AMOUNT, T0 + i * HOUR, 1.0, 0) for i in range(72)])
    query = "SELECT sum FROM telemetry('1 day', 'UTC', '2026-01-01 13:00Z', '2026-01-02 01:00Z')"
    assert city.connection.execute(query).fetchall() == [(24.0,), (24.0,)]


ZONES = ["America/Los_Angeles", "Europe/London", "Asia/Kolkata", "Asia/Kathmandu", "Atlantic/Azores", "UTC"]
#: Days on which clocks are put forward or back, and the number of hours they have.
CHANGES = [
    ("America/Los_Angeles", datetime(2026, 3, 8), 23),  # noqa: DTZ001
    ("America/Los_Angeles", datetime(2026, 11, 1), 25),  # noqa: DTZ001
    ("Europe/London", datetime(2026, 3, 29), 23),  # noqa: DTZ001
    ("Europe/London", datetime(2026, 10, 25), 25),  # noqa: DTZ001
    ("Atlantic/Azores", datetime(2026, 3, 29), 23),  # noqa: DTZ001
    ("Atlantic/Azores", datetime(2026, 10, 25), 25),  # noqa: DTZ001
    ("Asia/Kolkata", datetime(2026, 3, 29), 24),  # noqa: DTZ001
    ("Asia/Kathmandu", datetime(2026, 10, 25), 24),  # noqa: DTZ001
]


@pytest.fixture(scope="module")
def rain():
    """Quarter-hourly amounts of the days around every change."""
    days = sorted({day + timedelta(days=offset) for _, day, _ in CHANGES for offset in (-2, -1, 0, 1, 2)})
    starts = [int(day.replace(tzinfo=UTC).timestamp()) * 1_000_000 for day in days]
    return [(AMOUNT, start + i * QUARTER, float(i % 7), 0) for start in starts for i in range(96)]


@pytest.mark.parametrize("worked", [False, True])
def test_local_days_are_right_when_clocks_change(city, rain, worked):
    with city.store() as store:
        city.write(store, rain)
    if worked:
        city.advance()
    for zone, day, hours in CHANGES:
        # In UTC, since Python finds no two times equal of which one is in a gap of local clocks.
        local, end = ((day + timedelta(days=i)).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for i in (0, 1))
        query = "SELECT time, sum, count, coverage FROM telemetry('1 day', %s, %s, %s)"
        ((at, total, count, coverage),) = city.connection.execute(query, [zone, local, end]).fetchall()
        assert at == local, zone
        within = [value for _, us, value, _ in rain if local.timestamp() <= us / 1e6 < end.timestamp()]
        assert (total, count) == (sum(within), hours * 4)
        assert math.isclose(coverage, 60 * count / (hours * 3600))  # rain is expected every minute
        query = "SELECT time, count FROM telemetry('1 hour', %s, %s, %s)"
        buckets = city.connection.execute(query, [zone, local, end]).fetchall()
        assert [count for _, count in buckets] == [4] * hours
        assert {b - a for (a, _), (b, _) in pairwise(buckets)} == {timedelta(hours=1)}


@pytest.mark.parametrize("bucket", ["1 hour", "6 hours", "1 day", "1 week", "1 month"])
def test_buckets_begin_when_local_clocks_say_so(city, rain, bucket):
    with city.store() as store:
        city.write(store, rain)
    for zone in ZONES:
        expected = {}
        for _, us, value, _ in rain:
            start = local_start(bucket, datetime.fromtimestamp(us / 1e6, UTC).astimezone(ZoneInfo(zone)))
            expected[start] = expected.get(start, 0.0) + value
        rows = city.connection.execute(
            "SELECT time, sum FROM telemetry(%s, %s, '2026-01-01', '2027-01-01')", [bucket, zone]
        ).fetchall()
        assert dict(rows) == expected, zone


def local_start(bucket, at):
    """Start of the bucket, by Python's clocks. fold=0: of two instants that clocks show alike, the first."""
    if bucket == "1 hour":
        return (at - timedelta(minutes=at.minute)).replace(fold=at.fold).astimezone(UTC)
    day = at.replace(hour=0, minute=0, fold=0)
    if bucket == "6 hours":
        return at.replace(hour=at.hour // 6 * 6, minute=0, fold=0).astimezone(UTC)
    if bucket == "1 week":
        day = (day.replace(tzinfo=None) - timedelta(days=day.weekday())).replace(tzinfo=at.tzinfo)
    if bucket == "1 month":
        day = day.replace(day=1)
    return day.astimezone(UTC)


def test_a_short_bucket_in_which_clocks_are_put_forward_is_one_row(city):
    """The Chatham Islands leave out 02:45 to 03:45: two o'clock before it, and three o'clock after it, began at one instant."""
    shift = datetime(2026, 9, 26, 14, tzinfo=UTC)
    with city.store() as store:
        city.write(store, [(3, int((shift + timedelta(minutes=m)).timestamp()) * 1_000_000, 20.0, 0) for m in (-30, -1, 5, 90)])
    query = "SELECT time, count FROM telemetry('1 hour', 'Pacific/Chatham', %s, %s, ARRAY['d'], ARRAY['temperature'])"
    for _ in range(2):  # from minutes, and from quarter-hours
        rows = city.connection.execute(query, [shift - timedelta(hours=3), shift + timedelta(hours=3)]).fetchall()
        assert len({at for at, _ in rows}) == len(rows)
        assert sum(count for _, count in rows) == 4
        assert dict(rows)[shift - timedelta(minutes=45)] == 3
        city.advance()
