"""A source whose last value wins: stored values, rollups, newest values, quarantine and the ledger."""

import json

import pytest

from citybeat.devices.catalogue import builtin
from citybeat.devices.device import ConflictPolicy, Device, Sensor
from citybeat.devices.errors import DeviceError
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.storage.accounts import ledger, quarantine
from citybeat.storage.accounts.quarantine import Filter
from citybeat.storage.registry import records

T0 = 1_767_225_600_000_000


@pytest.fixture
def pipeline(database, connection):
    sensors = (Sensor(metric="pm25"), Sensor(metric="vehicleCount"))
    records.register(connection, [Device(id="env-1", source="gw-a", domain="environment", sensors=sensors)])
    records.set_conflict_policy(connection, "gw-a", ConflictPolicy.REPLACE)
    made = Pipeline(database, catalogue=builtin(), limits=Limits(), max_bytes=100_000, quarantine_quota=10_000)
    made.open()
    yield made
    made.close()


def take(pipeline, *readings, metric="pm25"):
    reports = [{"device": "env-1", "ts": T0 // 1000 + s * 1000, "values": {metric: value}} for s, value in readings]
    message = Message("city/v1/gw-a/readings", json.dumps(reports).encode(), T0 + 600_000_000, False, 1, 1, 1)
    return pipeline.process([message], lambda: True).counts


def values(connection):
    return [row[0] for row in connection.execute("SELECT value FROM readings ORDER BY series_id, time")]


def right(connection):
    return ledger.discrepancies(connection) == [] and ledger.rollup_differences(connection) == []


def test_the_last_value_wins(pipeline, connection):
    take(pipeline, (0, 5.0), (1, 6.0))
    counts = take(pipeline, (0, 7.0), (1, 6.0))
    assert (counts["conflict"], counts["duplicate"], counts["stored"]) == (1, 1, 0)
    assert values(connection) == [7.0, 6.0]
    assert connection.execute("SELECT vmin, vmax, s1, n FROM readings_1m").fetchall() == [(6.0, 7.0, 13.0, 2)]
    (row,) = quarantine.listed(connection, Filter())
    assert row.refused == [(0, "conflict", "5.0 was stored at that time, 7.0 replaced it", "")]
    assert right(connection)


def test_several_in_one_batch(pipeline, connection):
    counts = take(pipeline, (0, 1.0), (0, 2.0), (0, 3.0), (1, 9.0))
    assert (counts["stored"], counts["conflict"]) == (2, 2)
    assert values(connection) == [3.0, 9.0]
    assert right(connection)


@pytest.mark.parametrize(
    ("stored", "came", "left", "conflicts"),
    [
        (2.0, [1.0, 2.0], 2.0, 1),  # delivered again after the commit: 2.0 had replaced 1.0 before
        (2.0, [1.0, 1.0, 2.0], 2.0, 2),
        (2.0, [2.0, 1.0], 1.0, 1),
        (2.0, [1.0, 3.0], 3.0, 2),
        (None, [1.0, 2.0, 1.0], 1.0, 1),
    ],
)
def test_the_last_to_arrive_wins_even_if_it_brings_what_is_stored(pipeline, connection, stored, came, left, conflicts):
    if stored is not None:
        take(pipeline, (0, stored))
    counts = take(pipeline, *[(0, value) for value in came])
    assert counts["conflict"] == conflicts
    assert values(connection) == [left]
    assert right(connection)


def test_the_newest_reading_is_replaced_too(pipeline, connection):
    take(pipeline, (0, 5.0))
    take(pipeline, (0, 2000.0))
    assert connection.execute("SELECT value, flags & 1, isfinite(good_at) FROM latest").fetchall() == [(2000.0, 1, False)]
    take(pipeline, (0, 6.0))
    assert connection.execute("SELECT value, good_value FROM latest").fetchall() == [(6.0, 6.0)]
    assert right(connection)


def test_a_counters_increase_follows(pipeline, connection):
    take(pipeline, (0, 100.0), (60, 150.0), (120, 180.0), metric="vehicleCount")
    take(pipeline, (60, 160.0), metric="vehicleCount")
    assert [row[0] for row in connection.execute("SELECT s1 FROM readings_1m ORDER BY bucket")] == [0.0, 60.0, 20.0]
    assert right(connection)


def test_keep_is_the_default_and_can_be_set_again(pipeline, connection):
    take(pipeline, (0, 5.0))
    records.set_conflict_policy(connection, "gw-a", ConflictPolicy.KEEP)
    take(pipeline, (0, 7.0))
    assert values(connection) == [5.0]
    with pytest.raises(DeviceError, match="nobody"):
        records.set_conflict_policy(connection, "nobody", ConflictPolicy.KEEP)
    assert right(connection)
