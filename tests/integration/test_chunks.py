"""Lengths of chunks: the measured density of readings, the chosen interval, and the creation of chunks beside other writers."""

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from citybeat.devices.device import Device, Sensor
from citybeat.ingest.writing.housekeeping import Housekeeper
from citybeat.storage.batches.outbox import Bounds
from citybeat.storage.db.connection import connect
from citybeat.storage.registry import records
from citybeat.storage.rollups import chunks
from citybeat.storage.rollups.chunks import Density, Sizing
from citybeat.storage.rollups.retention import Policy

S = 1_000_000
HOUR = 3600 * S
#: Us since 1970 UTC; the beginning of a chunk of any length that is tried here.
THURSDAY = 1_767_225_600 * S
DEVICES = 12
DAY, WEEK, MONTH = timedelta(days=1), timedelta(days=7), timedelta(days=30)
HOURLY = timedelta(hours=1)
LONGEST = {"readings": WEEK, "readings_1m": MONTH}
#: With a reading a minute each: an hour.
SIZING = Sizing(longest=LONGEST, rows=DEVICES * 60)


@pytest.fixture
def city(connection):
    return registered(connection, [60.0] * DEVICES)


def registered(connection, intervals: Sequence[float | None]):
    sensors = [(Sensor(metric="temperature", interval=interval),) for interval in intervals]
    records.register(
        connection, [Device(id=f"c-{i:02d}", source="gw", domain="environment", sensors=each) for i, each in enumerate(sensors)]
    )
    return connection


def spoken(every, count, *, last=THURSDAY, apart=0, devices=range(DEVICES)):
    """Readings of devices, the last one each up to `apart` us a device before `last`."""
    times = [(i, last - i * apart - k * every) for i in devices for k in range(count)]
    return [(f"c-{i:02d}", "temperature", at, 20.0 + k % 7, 0) for k, (i, at) in enumerate(times)]


def intervals(connection):
    return dict(connection.execute("SELECT hypertable_name, time_interval FROM timescaledb_information.dimensions").fetchall())


def lengths(connection, table):
    """Lengths of a table's chunks, in order of time."""
    query = "SELECT range_end - range_start FROM timescaledb_information.chunks WHERE hypertable_name = %s ORDER BY range_start"
    return [row[0] for row in connection.execute(query, [table])]


def now():
    return time.time_ns() // 1000


@pytest.mark.parametrize(
    ("a_day", "longest", "expected"),
    [
        (0.0, WEEK, WEEK),
        (142.0, WEEK, WEEK),
        (143.0, WEEK, DAY),
        (143.0, MONTH, DAY),
        (33.0, MONTH, MONTH),
        (34.0, MONTH, WEEK),
        (1000.0, WEEK, DAY),
        (1001.0, WEEK, DAY / 4),
        (4001.0, WEEK, DAY / 24),
        (1e9, WEEK, DAY / 24),
        (1e9, DAY / 48, DAY / 48),  # shorter than any step: that is how it was set
        (1001.0, DAY / 4, DAY / 4),
        (4001.0, DAY / 2, DAY / 24),
    ],
)
def test_the_longest_step_that_does_not_hold_too_much(a_day, longest, expected):
    assert chunks.interval(a_day, longest, 1000) == expected


@pytest.mark.parametrize(
    ("rows", "readings", "minutes"),
    [
        (spoken(60 * S, 30), 1440, 1440),
        (spoken(10 * S, 90), 8640, 1440),  # of a minute there is one row
        (spoken(10 * S, 12), 8640, 1440),  # they have only just begun
        (spoken(60 * S, 30, apart=5 * S), 1440, 1440),
        (spoken(HOUR, 4), 24, 24),
        (spoken(HOUR, 48), 24, 24),  # older than the window
        (spoken(S, 2), 1440, 1440),  # a burst is a reading a minute at the most
        (spoken(24 * HOUR, 3), 4, 4),  # one in the window: as if the next came at its end
        (spoken(60 * S, 30) + spoken(60 * S, 30, last=THURSDAY - 24 * HOUR, devices=range(3)), 1440, 1440),
    ],
    ids=["minutes", "10 s", "new", "jitter", "hours", "history", "burst", "days", "late"],
)
def test_density_is_that_of_event_time(city, fill, rows, readings, minutes):
    fill(rows, received_at=THURSDAY)
    dense = chunks.density(city).rows_a_day
    assert dense["readings"] == pytest.approx(DEVICES * readings, rel=0.15)
    assert dense["readings_1m"] == pytest.approx(DEVICES * minutes, rel=0.15)


def test_who_fell_silent_does_not_count(city, fill):
    fill(spoken(60 * S, 30, last=THURSDAY - 24 * HOUR, devices=range(6)), received_at=THURSDAY)
    fill(spoken(60 * S, 30, devices=range(6, DEVICES)), received_at=THURSDAY)
    assert chunks.density(city).rows_a_day["readings"] == pytest.approx(6 * 1440, rel=0.15)


def test_many_series_are_told_by_some(city, fill, monkeypatch):
    monkeypatch.setattr(chunks, "_SAMPLE", 3)
    fill(spoken(60 * S, 30), received_at=THURSDAY)
    assert chunks.density(city).rows_a_day["readings"] == pytest.approx(DEVICES * 1440, rel=0.15)


def test_before_anything_is_stored_sensors_are_taken_at_their_word(connection):
    assert chunks.density(connection) == Density(at=None, rows_a_day={"readings": 0.0, "readings_1m": 0.0})
    registered(connection, [60.0, 600.0, 10.0, None])
    expected = {"readings": 1440 + 144 + 8640 + 1440, "readings_1m": 3 * 1440 + 144}
    assert chunks.density(connection).rows_a_day == pytest.approx(expected)


def test_short_ones_are_made_ahead_where_it_is_dense(city, fill, monkeypatch):
    assert chunks.make_ahead(city, SIZING) == {"readings": (25, HOURLY), "readings_1m": (25, HOURLY)}
    fill(spoken(60 * S, 1, last=now()), received_at=now())
    assert chunks.make_ahead(city, SIZING) == {}
    monkeypatch.setattr(chunks, "_AHEAD", 2 * DAY)
    fill(spoken(60 * S, 10, last=now()), received_at=now())
    assert chunks.make_ahead(city, SIZING)["readings"] == (24, HOURLY)
    assert set(lengths(city, "readings")[-49:]) == {HOURLY}
    assert intervals(city) == {**LONGEST, "readings_15m": timedelta(days=365)}
    assert city.execute("SELECT count(*) FROM readings WHERE series_id = 0").fetchone() == (0,)
    assert city.execute("SELECT count(*) FROM readings_1m WHERE series_id = 0").fetchone() == (0,)


def test_none_where_it_is_not(city, fill):
    newest = now()
    fill(spoken(HOUR, 6, last=newest), received_at=newest)
    before = lengths(city, "readings")
    assert chunks.make_ahead(city, Sizing(longest=LONGEST, rows=DEVICES * 24 * 30)) == {}
    assert lengths(city, "readings") == before


def test_before_the_first_reading(city, fill):
    chunks.make_ahead(city, SIZING)
    fill(spoken(60 * S, 1, last=now()), received_at=now())
    assert lengths(city, "readings") == [HOURLY] * 25


def test_what_is_caught_up_with_has_short_ones_too(city, fill):
    newest = now() - 50 * HOUR
    fill(spoken(60 * S, 10, last=newest), received_at=newest)
    city.execute("SELECT drop_chunks('readings_1m', created_before => now() + INTERVAL '1 hour')")  # as if it had just ended there
    made = chunks.make_ahead(city, SIZING)
    assert made["readings_1m"][0] in {75, 76}


def test_a_history_of_years_has_long_ones_in_a_dense_city_too(city, fill):
    chunks.make_ahead(city, SIZING)
    made = len(lengths(city, "readings"))
    fill(spoken(24 * HOUR, 700, last=now() - 24 * HOUR), received_at=now())
    years = lengths(city, "readings")[:-made]
    assert len(years) == pytest.approx(100, abs=2)
    assert sum(length == WEEK for length in years) >= len(years) - 1  # the last ends where the short ones begin


def test_nobody_is_in_the_way(city, database, fill):
    """Two that make chunks, and one that writes into them."""
    stop, failed, first = threading.Event(), [], now()

    def make():
        try:
            with closing(connect(database, application="test")) as connection:
                k = 0
                while not stop.is_set():
                    since = datetime.fromtimestamp(first / S, UTC) - timedelta(hours=k)
                    chunks.make_ahead(connection, SIZING, since=since)
                    k += 5
        except Exception as exc:
            failed.append(exc)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for k in range(40):
            fill(spoken(60 * S, 2, last=first - 2 * k * HOUR), received_at=first)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert city.execute("SELECT count(*) FROM readings").fetchone() == (DEVICES * 80,)
    assert intervals(city)["readings"] == WEEK


def test_housekeeping_sees_to_it(city, database):
    housekeeper = Housekeeper(database, Policy(), Bounds(keep=timedelta(0), bytes=0), SIZING)
    housekeeper.start()
    try:
        deadline = time.monotonic() + 30
        while len(lengths(city, "readings_1m")) < 25:
            housekeeper.check()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        housekeeper.stop()
