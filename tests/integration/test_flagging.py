"""Declarations and reflag on a real database: stored readings, later ones, rollups and newest values."""

import json
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.devices.flags import Verdict
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.ingest.writing.reflag import reflag
from citybeat.storage.accounts import ledger
from citybeat.storage.batches import flagging
from citybeat.storage.db.connection import connect
from citybeat.storage.registry import records

T0 = 1_767_225_600_000_000
START = datetime.fromtimestamp(T0 / 1e6, UTC)


def at(seconds):
    return START + timedelta(seconds=seconds)


def device(**changes):
    return Device(
        id="env-1", source="gw-a", domain="environment", sensors=(Sensor(metric="temperature", **changes), Sensor(metric="pm25"))
    )


@pytest.fixture
def pipeline(database, connection):
    records.register(connection, [device()])
    made = Pipeline(database, catalogue=builtin(), limits=Limits(), max_bytes=100_000, quarantine_quota=1000)
    made.open()
    yield made
    made.close()


def take(pipeline, *readings, metric="temperature"):
    reports = [{"device": "env-1", "ts": T0 // 1000 + round(s * 1000), "values": {metric: value}} for s, value in readings]
    received = T0 + 3_600_000_000
    pipeline.process([Message("city/v1/gw-a/readings", json.dumps(reports).encode(), received, False, 1, 1, 1)], lambda: True)


def flags(connection, mask=~16):
    query = """SELECT flags & %s FROM readings r JOIN series s ON s.id = r.series_id WHERE s.metric = 'temperature' ORDER BY time"""
    return [row[0] for row in connection.execute(query, [mask])]


def declare(connection, start, end, verdict):
    kind = records.load(connection, builtin()).kind
    declared = flagging.Declaration(
        device="env-1",
        metric="temperature",
        start=at(start),
        end=at(end),
        verdict=Verdict(verdict),
        by="an operator",
        reason="calibration",
    )
    return flagging.declare(connection, declared, kind)


def right(connection):
    return ledger.discrepancies(connection) == [] and ledger.rollup_differences(connection) == []


def newest(connection):
    return connection.execute(
        "SELECT value, good_value FROM latest l JOIN series s ON s.id = l.series_id WHERE s.metric = 'temperature'"
    ).fetchone()


def test_declared_bad_good_and_cleared(pipeline, connection):
    take(pipeline, (0, 20.0), (60, 20.5), (120, 21.0), (180, 99.0))
    assert flags(connection) == [0, 0, 0, 1]
    assert declare(connection, 60, 180, "bad") == 2
    assert flags(connection) == [0, 128, 128, 1]
    assert newest(connection) == (99.0, 20.0)
    assert declare(connection, 180, 181, "good") == 1
    assert flags(connection) == [0, 128, 128, 257]
    assert newest(connection) == (99.0, 99.0)
    assert right(connection)
    assert declare(connection, 0, 150, "clear") == 2
    assert flags(connection) == [0, 0, 0, 257]
    assert declare(connection, 0, 150, "clear") == 0
    assert right(connection)
    rows = connection.execute('SELECT verdict, "by", reason FROM declarations ORDER BY id').fetchall()
    assert rows[0] == ("bad", "an operator", "calibration")
    assert len(rows) == 4


def test_new_and_late_readings_follow(pipeline, connection):
    declare(connection, 100, 200, "bad")
    take(pipeline, (90, 20.0), (150, 20.1), (250, 20.2))
    take(pipeline, (120, 20.0), (220, 20.0))
    assert flags(connection) == [0, 128, 128, 0, 0]
    declare(connection, 140, 160, "clear")
    take(pipeline, (155, 20.0), (165, 20.0))
    assert flags(connection) == [0, 128, 0, 0, 128, 0, 0]
    assert right(connection)


def test_what_is_bad_is_not_judged_from(pipeline, connection):
    """After a declaration the worker's memory is renewed: the next step is judged from the last reading that is still good."""
    take(pipeline, (0, 20.0), (60, 22.0))
    declare(connection, 60, 61, "bad")
    take(pipeline, (120, 24.0))
    assert flags(connection) == [0, 128, 2]


def test_a_batch_that_was_judged_before_the_declaration_is_judged_again(pipeline, database, connection):
    """The batch waits for its source's lock during a declaration; the registry by which it was judged is outdated then."""
    take(pipeline, (0, 20.0))
    (source,) = connection.execute("SELECT id FROM sources WHERE name = 'gw-a'").fetchone()
    with closing(connect(database, application="holder")) as holder, closing(connect(database, application="operator")) as operator:
        with holder.transaction():
            holder.execute("SELECT pg_advisory_xact_lock(1, %s)", [source])
            writer = threading.Thread(target=take, args=(pipeline, (60, 20.5)))
            writer.start()
            wait_for_waiting(connection)
            operator.execute(
                """INSERT INTO declarations (series_id, "from", "to", verdict, "by", reason)
                   SELECT id, %s, %s, 'bad', 'x', 'y' FROM series WHERE metric = 'temperature'""",
                [at(30), at(90)],
            )
        writer.join(20)
    assert flags(connection) == [0, 128]
    assert right(connection)


def wait_for_waiting(connection):
    deadline = time.monotonic() + 20
    while connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone() == (0,):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_unknown_sensor_and_an_empty_period(connection, pipeline):
    with pytest.raises(flagging.NoSuchSensorError, match="nobody"):
        flagging.declare(
            connection,
            flagging.Declaration(device="nobody", metric="pm25", start=at(0), end=at(1), verdict=Verdict.BAD, by="x", reason="y"),
            records.load(connection, builtin()).kind,
        )
    with pytest.raises(ValueError, match="end after"):
        declare(connection, 10, 10, "bad")


def test_reflag_by_todays_bounds(pipeline, connection):
    take(pipeline, (0, 20.0), (60, 22.0), (120, 26.0), (180, 22.0), (240, 41.0))
    assert flags(connection) == [0, 0, 2, 0, 2]
    declare(connection, 180, 181, "good")
    records.register(connection, [device(high=25.0, step_floor=1.0)])
    snapshot = records.load(connection, builtin())
    assert reflag(connection, snapshot, at(0), at(300)) == 4
    # 22.0 is a step from 20.0; 26.0 and 41.0 are out of range; the declared one stays good, and shows the step that it is
    assert flags(connection) == [0, 2, 1, 258, 1]
    assert reflag(connection, snapshot, at(0), at(300)) == 0
    assert right(connection)
    assert newest(connection) == (41.0, 22.0)
    # LATE hangs on the time of receipt, and stays.
    assert set(flags(connection, 16)) == {16}


def test_reflag_judges_the_first_readings_by_what_came_before(pipeline, connection):
    take(pipeline, (0, 20.0), (60, 20.5), (120, 24.0), (180, 24.1))
    assert flags(connection) == [0, 0, 2, 2]
    snapshot = records.load(connection, builtin())
    assert reflag(connection, snapshot, at(120), at(121)) == 0
    records.register(connection, [device(step_floor=10.0)])
    snapshot = records.load(connection, builtin())
    assert reflag(connection, snapshot, at(120), at(121), devices=["env-1"]) == 1
    assert flags(connection) == [0, 0, 0, 2]  # behind the period nothing changes
    assert right(connection)
    assert reflag(connection, snapshot, at(120), at(1000), devices=["nobody"]) == 0


def test_reflag_in_many_slices_is_as_in_one(pipeline, connection, monkeypatch):
    values = [20.0, 20.0, 31.0, 20.1, 20.1, 20.1, 35.0, 35.0, 20.2] * 12
    take(pipeline, *((i * 30, value) for i, value in enumerate(values)))
    before = flags(connection)
    assert 2 in before
    connection.execute("UPDATE readings SET flags = 0")
    monkeypatch.setattr(flagging, "_SLICE", 7)
    reflag(connection, records.load(connection, builtin()), at(0), at(10_000))
    assert flags(connection) == before
    assert right(connection)
