"""How long chunks are: what is measured of a city's readings, what comes of it, and that nobody is in the way meanwhile."""

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta

import pytest

from devices.device import Device, Sensor
from ingest.housekeeping import Housekeeper
from storage import chunks, registry
from storage.chunks import Sizing
from storage.database import connect
from storage.outbox import Bounds
from storage.retention import Policy

S = 1_000_000
HOUR = 3600 * S
#: Us since 1970 UTC; the beginning of a chunk of any length that is tried here.
THURSDAY = 1_767_225_600 * S
DEVICES = 12
DAY, WEEK, MONTH = timedelta(days=1), timedelta(days=7), timedelta(days=30)
LONGEST = {"readings": WEEK, "readings_1m": MONTH}


@pytest.fixture
def city(connection):
    return registered(connection, [60.0] * DEVICES)


def registered(connection, intervals: Sequence[float | None]):
    sensors = [(Sensor(metric="temperature", interval=interval),) for interval in intervals]
    registry.register(
        connection, [Device(id=f"c-{i:02d}", source="gw", domain="environment", sensors=each) for i, each in enumerate(sensors)]
    )
    return connection


def spoken(every, count, *, last=THURSDAY, apart=0, devices=range(DEVICES)):
    """Readings of devices, the last one each up to `apart` us a device before `last`."""
    times = [(i, last - i * apart - k * every) for i in devices for k in range(count)]
    return [(f"c-{i:02d}", "temperature", at, 20.0 + k % 7, 0) for k, (i, at) in enumerate(times)]


def intervals(connection):
    return dict(connection.execute("SELECT hypertable_name, time_interval FROM timescaledb_information.dimensions").fetchall())


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
    dense = chunks.density(city)
    assert dense["readings"] == pytest.approx(DEVICES * readings, rel=0.15)
    assert dense["readings_1m"] == pytest.approx(DEVICES * minutes, rel=0.15)


def test_who_fell_silent_does_not_count(city, fill):
    fill(spoken(60 * S, 30, last=THURSDAY - 24 * HOUR, devices=range(6)), received_at=THURSDAY)
    fill(spoken(60 * S, 30, devices=range(6, DEVICES)), received_at=THURSDAY)
    assert chunks.density(city)["readings"] == pytest.approx(6 * 1440, rel=0.15)


def test_many_series_are_told_by_some(city, fill, monkeypatch):
    monkeypatch.setattr(chunks, "_SAMPLE", 3)
    fill(spoken(60 * S, 30), received_at=THURSDAY)
    assert chunks.density(city)["readings"] == pytest.approx(DEVICES * 1440, rel=0.15)


def test_before_anything_is_stored_sensors_are_taken_at_their_word(connection):
    assert chunks.density(connection) == {"readings": 0.0, "readings_1m": 0.0}
    registered(connection, [60.0, 600.0, 10.0, None])
    assert chunks.density(connection) == pytest.approx({"readings": 1440 + 144 + 8640 + 1440, "readings_1m": 3 * 1440 + 144})


def test_new_chunks_are_as_long_as_suits(city, fill):
    sizing = Sizing(longest=LONGEST, rows=DEVICES * 60)
    assert intervals(city)["readings"] == WEEK
    assert chunks.fit(city, sizing) == {"readings": timedelta(hours=1), "readings_1m": timedelta(hours=1)}
    assert chunks.fit(city, sizing) == {}
    fill(spoken(60 * S, 150, last=THURSDAY + 3 * HOUR - 60 * S), received_at=THURSDAY)
    assert intervals(city)["readings_15m"] == timedelta(days=365)
    lengths = "SELECT range_end - range_start FROM timescaledb_information.chunks WHERE hypertable_name = 'readings'"
    assert city.execute(lengths).fetchall() == [(timedelta(hours=1),)] * 3
    # Hours later they speak once an hour.
    fill(spoken(HOUR, 6, last=THURSDAY + 24 * HOUR), received_at=THURSDAY)
    assert chunks.fit(city, sizing) == {"readings": DAY, "readings_1m": DAY}
    fill(spoken(HOUR, 1, last=THURSDAY + 25 * HOUR), received_at=THURSDAY)
    assert city.execute("SELECT count(*) FROM readings").fetchone() == (DEVICES * 157,)


def test_nobody_is_in_the_way(city, database, fill):
    """Two that change intervals, while chunks are made."""
    stop, failed = threading.Event(), []

    def change(rows):
        try:
            with closing(connect(database, application="test")) as connection:
                while not stop.is_set():
                    chunks.fit(connection, Sizing(longest=LONGEST, rows=rows))
        except Exception as exc:
            failed.append(exc)

    threads = [threading.Thread(target=change, args=(rows,)) for rows in (1, 10**9)]
    for thread in threads:
        thread.start()
    try:
        for k in range(40):
            fill(spoken(60 * S, 2, last=THURSDAY + k * 30 * HOUR), received_at=THURSDAY)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert city.execute("SELECT count(*) FROM readings").fetchone() == (DEVICES * 80,)


def test_housekeeping_sees_to_it(city, database):
    housekeeper = Housekeeper(database, Policy(), Bounds(keep=timedelta(0), bytes=0), Sizing(longest=LONGEST, rows=1))
    housekeeper.start()
    try:
        deadline = time.monotonic() + 30
        while intervals(city)["readings"] != timedelta(hours=1):
            housekeeper.check()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        housekeeper.stop()
