"""The write path on a real database: what is stored, merged and counted, against plain loops."""

import threading
from contextlib import closing
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from citybeat.devices.batch import NEVER, Batch
from citybeat.devices.catalogue import KIND_CODES, Kind, builtin
from citybeat.devices.device import Device, Sensor
from citybeat.devices.wire.decoded import Refused
from citybeat.storage.batches.rows import CONFLICT, DUPLICATE, NEW, Quarantined, Tally
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.connection import connect
from citybeat.storage.registry import records
from tests import oracles

T0 = 1_767_225_600_000_000
METRICS = ["pm25", "temperature", "relativeHumidity"]
KIND = np.full(10, KIND_CODES[Kind.GAUGE], np.int8)


def make(rows):
    """A batch of (series, time us, value, flags), sorted as insert wants it."""
    rows = [(*row, i) for i, row in enumerate(rows)]
    rows.sort(key=lambda row: row[:2])
    return Batch(
        series=np.array([row[0] for row in rows], np.int32),
        time=np.array([row[1] for row in rows], np.int64),
        value=np.array([row[2] for row in rows], np.float64),
        flags=np.array([row[3] for row in rows], np.int16),
        received_at=np.full(len(rows), T0, np.int64),
        message=np.zeros(len(rows), np.int32),
        index=np.array([row[4] for row in rows], np.int32),
    )


@pytest.fixture
def city(connection):
    records.register(
        connection, [Device(id="env-1", source="gw", domain="environment", sensors=tuple(Sensor(metric=m) for m in METRICS))]
    )
    return connection


@pytest.fixture
def store(database, city):
    with closing(BatchWriter(database, quarantine_quota=1000)) as made:
        yield made


def write(store, rows, newest=None):
    """One transaction as ingest makes it; the outcome of each row in the order given."""
    batch = make(rows)
    newest = np.full(10, NEVER, np.int64) if newest is None else newest
    with store.batch(uuid4(), [1, 2]) as transaction:
        inserted = transaction.insert(batch, newest)
        new = batch.take(inserted.outcome == NEW)
        transaction.merge_rollups(new, KIND, newest)
        transaction.merge_latest(new, np.full(len(new), NEVER, np.int64), newest)
    outcome, kept = [0] * len(rows), [0.0] * len(rows)
    for place, what, value in zip(batch.index.tolist(), inserted.outcome.tolist(), inserted.kept.tolist(), strict=True):
        outcome[place], kept[place] = what, value
    return outcome, kept


def stored(connection):
    query = "SELECT series_id, (extract(epoch FROM time) * 1000000)::int8, value, flags FROM readings ORDER BY 1, 2"
    return connection.execute(query).fetchall()


def rollups(connection):
    us = "CASE WHEN isfinite({0}) THEN (extract(epoch FROM {0}) * 1000000)::int8 END"
    query = f"""SELECT series_id, {us.format("bucket")}, n, n_bad, vmin, vmax, {us.format("first_at")}, vfirst,
                {us.format("last_at")}, vlast, s1, s2 FROM readings_1m ORDER BY 1, 2"""
    return {row[:2]: row[2:] for row in connection.execute(query)}


def check_rollups(connection):
    expected = oracles.downsample(stored(connection), dict.fromkeys(range(1, 10), "gauge"))
    got = rollups(connection)
    assert got.keys() == expected.keys()
    for key, row in got.items():
        want = expected[key]
        exact = ("n", "n_bad", "vmin", "vmax", "first_at", "vfirst", "last_at", "vlast")
        assert row[:8] == tuple(want[column] for column in exact)
        assert abs(row[8] - want["s1"]) <= 1e-9 * want["magnitude"]
        assert abs(row[9] - want["s2"]) <= 1e-9 * want["magnitude"]


def test_new_duplicate_conflict_within_a_batch_and_across(store, city):
    rows = [(1, T0, 5.0, 0), (1, T0, 5.0, 0), (1, T0, 6.0, 0), (2, T0, 1.0, 0)]
    assert write(store, rows) == ([NEW, DUPLICATE, CONFLICT, NEW], [5.0, 5.0, 5.0, 1.0])
    again = [(1, T0, 6.0, 0), (1, T0, 5.0, 0), (1, T0 + 1, 7.0, 0), (1, T0, 6.5, 0)]
    assert write(store, again) == ([CONFLICT, DUPLICATE, NEW, CONFLICT], [5.0, 5.0, 7.0, 5.0])
    assert stored(city) == [(1, T0, 5.0, 0), (1, T0 + 1, 7.0, 0), (2, T0, 1.0, 0)]
    check_rollups(city)


def test_duplicates_and_conflicts_of_many_days(store, city):
    times = [T0 + day * 86_400_000_000 + day for day in (0, 1, 2, 30, 31, 90)]
    first = [(series, time, series * 100.0 + i, 0) for series in (1, 2) for i, time in enumerate(times)]
    values = [row[2] for row in first]
    assert write(store, first) == ([NEW] * 12, values)
    again = [(series, time, value if series == 1 else -1.0, 0) for series, time, value, _ in first]
    assert write(store, [*again, (2, T0 + 1, 5.0, 0)]) == ([DUPLICATE] * 6 + [CONFLICT] * 6 + [NEW], [*values, 5.0])
    check_rollups(city)


def test_a_wrong_hint_only_costs_the_slower_path(store, city):
    """newest says that nothing is stored, so the straight path runs into a unique violation and the other one takes over."""
    write(store, [(1, T0, 5.0, 0)])
    assert write(store, [(1, T0, 5.0, 0), (2, T0, 1.0, 0)])[0] == [DUPLICATE, NEW]
    # and a hint of the far future sends everything the careful way
    careful = np.full(10, T0 * 2, np.int64)
    assert write(store, [(1, T0, 4.0, 0), (3, T0, 1.0, 0)], careful)[0] == [CONFLICT, NEW]
    assert len(stored(city)) == 3


def test_newest_comes_from_what_is_stored(store):
    assert store.history(5)["time"].tolist() == [NEVER] * 5
    write(store, [(1, T0 + 9, 5.0, 0), (1, T0, 5.0, 0), (3, T0 - 7, 1.0, 1)])
    assert store.history(2)["time"].tolist() == [NEVER, T0 + 9, NEVER, T0 - 7]


def test_latest_keeps_the_newest_and_the_newest_good(store, city):
    write(store, [(1, T0, 5.0, 0), (1, T0 + 1, 9e9, 1), (2, T0, 1.0, 1)])
    write(store, [(1, T0 - 5, 4.0, 0), (2, T0 - 5, 2.0, 0)])
    query = """SELECT series_id, extract(epoch FROM time - %s)::float8, value, flags, isfinite(good_at), good_value
               FROM latest ORDER BY 1"""
    rows = city.execute(query, [datetime.fromtimestamp(T0 // 10**6, UTC)]).fetchall()
    assert rows == [(1, 1e-06, 9e9, 1, True, 5.0), (2, 0.0, 1.0, 1, True, 2.0)]


def test_a_batch_is_committed_once(store, city):
    batch_id = uuid4()
    for expected in (False, True):
        with store.batch(batch_id, [1]) as transaction:
            assert transaction.committed is expected
            if not transaction.committed:
                transaction.add_ledger([Tally(minute=T0, source=1, messages=1, received=2, stored=2)], {})
    assert city.execute("SELECT sum(received) FROM ledger").fetchone() == (2,)


def test_an_error_leaves_nothing(store, city):
    with pytest.raises(RuntimeError), store.batch(uuid4(), [1]) as transaction:
        transaction.insert(make([(1, T0, 5.0, 0)]), np.full(10, NEVER, np.int64))
        raise RuntimeError
    assert stored(city) == []
    assert city.execute("SELECT count(*) FROM batches").fetchone() == (0,)


def test_quarantine_keeps_within_the_quota_and_counts_what_it_drops(store, city):
    def message(n, source=2):
        return Quarantined(
            received_at=T0,
            source=source,
            topic="t",
            payload=b"x" * n,
            refused=[Refused(0, "unknown_device", "d"), Refused(1, "conflict", "c")],
            readings=1,
        )

    with store.batch(uuid4(), [1, 2]) as transaction:
        assert transaction.quarantine([message(600), message(600), message(300), message(900, source=1)]) == {(T0, 2): 1}
    with store.batch(uuid4(), [2]) as transaction:
        assert transaction.quarantine([message(101)]) == {(T0, 2): 1}
    assert city.execute("SELECT source_id, length(payload), reasons, readings FROM quarantine ORDER BY id").fetchall() == [
        (2, 600, ["conflict", "unknown_device"], 1),
        (2, 300, ["conflict", "unknown_device"], 1),
        (1, 900, ["conflict", "unknown_device"], 1),
    ]


def test_two_writers_of_one_source_take_turns(database, city):
    """The second transaction waits for the first one's lock, and then sees its rows."""
    with closing(BatchWriter(database, quarantine_quota=1)) as one, closing(BatchWriter(database, quarantine_quota=1)) as two:
        outcomes = []

        def second():
            outcomes.append(write(two, [(1, T0, 5.0, 0)])[0])

        with one.batch(uuid4(), [2]) as transaction:
            transaction.insert(make([(1, T0, 5.0, 0)]), np.full(10, NEVER, np.int64))
            thread = threading.Thread(target=second)
            thread.start()
            thread.join(0.3)
            assert thread.is_alive()
        thread.join(10)
    assert outcomes == [[DUPLICATE]]


values = st.one_of(st.floats(-100, 100), st.sampled_from([1.0, 2.0]))
rows = st.lists(
    st.tuples(
        st.integers(1, 3), st.integers(-3, 3).map(lambda s: T0 + s * 31_000_000), values, st.sampled_from([0, 0, 1, 8, 128, 384])
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows, min_size=1, max_size=5), st.booleans())
def test_whatever_comes_in_whatever_order(store, city, batches, hint):
    """First come, first stored; rollups equal a recomputation from raw; latest is the newest."""
    city.execute("TRUNCATE readings, readings_1m, latest, marks_15m")
    kept = {}
    for batch in batches:
        expected = []
        for series, at, value, flags in batch:
            if (series, at) not in kept:
                kept[series, at] = (value, flags)
                expected.append(NEW)
            else:
                expected.append(DUPLICATE if kept[series, at][0] == value else CONFLICT)
        newest = store.history(10)["time"] if hint else np.full(10, NEVER, np.int64)
        outcome, _ = write(store, batch, newest)
        assert outcome == expected
    assert stored(city) == sorted((*key, *row) for key, row in kept.items())
    check_rollups(city)
    for number, value in city.execute("SELECT series_id, value FROM latest"):
        assert value == kept[max(key for key in kept if key[0] == number)][0]


def test_history_over_many_chunks(store, city):
    """Seven years in one batch, backwards: more chunks than a server takes that was not told so."""
    rows = [(1, T0 - day * 86_400_000_000, float(day), 0) for day in range(0, 2500, 5)]
    assert set(write(store, rows)[0]) == {NEW}
    assert set(write(store, rows)[0]) == {DUPLICATE}
    assert city.execute("SELECT count(*) FROM show_chunks('readings')").fetchone()[0] > 300


def test_the_catalogue_has_the_metrics(city):
    assert {row[0] for row in city.execute("SELECT name FROM metrics")} == set(builtin())


def test_a_connection_is_in_utc_and_waits_for_the_disk(database):
    with closing(connect(database, application="t")) as connection:
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
