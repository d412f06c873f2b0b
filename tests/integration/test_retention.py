"""Retention on a real database: what goes, what stays right without it, who is refused; nobody writes behind the horizon."""

import json
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.devices.flags import Verdict
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.writing.housekeeping import Housekeeper
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.ingest.writing.reflag import reflag
from citybeat.storage.accounts import ledger
from citybeat.storage.batches import flagging
from citybeat.storage.batches.outbox import Bounds
from citybeat.storage.db import source_locks
from citybeat.storage.db.connection import StorageError, TransientError, connect, translated
from citybeat.storage.db.source_locks import GoneError
from citybeat.storage.registry import records
from citybeat.storage.rollups import retention, rollup
from citybeat.storage.rollups.chunks import Sizing
from citybeat.storage.rollups.retention import Policy

METER, THERMOMETER = "vehicleCount", "temperature"
DAY = timedelta(days=1)
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
#: Chunks of readings are seven days: whatever day it is, 60 and 30 days ago lie some chunks apart.
OLD, RECENT = TODAY - 60 * DAY, TODAY - 5 * DAY
KEPT = Policy(raw=30 * DAY)


class City:
    """One device behind one gateway, and an ingest."""

    def __init__(self, url, connection):
        self.url, self.connection = url, connection
        sensors = (Sensor(metric=METER, interval=86_400.0), Sensor(metric=THERMOMETER))
        records.register(connection, [Device(id="d", source="gw", domain="traffic", sensors=sensors)])
        self.pipeline = Pipeline(url, catalogue=builtin(), limits=Limits(), max_bytes=10_000_000, quarantine_quota=10_000_000)

    def send(self, *readings):
        """(time, metric, value) each."""
        reports = [{"device": "d", "ts": round(at.timestamp() * 1000), "values": {metric: value}} for at, metric, value in readings]
        message = Message("city/v1/gw/readings", json.dumps(reports).encode(), time.time_ns() // 1000, False, 1, 1, 1)
        return self.pipeline.process([message], lambda: True).counts

    def one(self, query, *parameters):
        return self.connection.execute(query, parameters).fetchone()[0]

    def balances(self):
        return ledger.discrepancies(self.connection) == [] and ledger.rollup_differences(self.connection) == []

    def history(self):
        """Readings of 60 days, two a day: a counter that rises by 10, and a temperature."""
        times = [OLD + i * DAY / 2 for i in range(120)]
        return self.send(*((at, METER, 10.0 * i) for i, at in enumerate(times)), *((at, THERMOMETER, 20.0) for at in times))

    def horizon(self):
        return source_locks.horizon(self.connection)


@pytest.fixture
def city(database, connection):
    made = City(database, connection)
    yield made
    made.pipeline.close()


def test_chunks_go_when_they_lie_wholly_before_the_horizon_and_are_accounted_for(city):
    city.history()
    before = city.one("SELECT array_agg((r.*)::text ORDER BY series_id, bucket) FROM readings_1m r")
    done = retention.keep(city.connection, KEPT)
    assert city.horizon() == TODAY - 30 * DAY
    oldest = city.one("SELECT min(time) FROM readings")
    assert city.horizon() - 7 * DAY < oldest <= city.horizon()
    raw, minutes, quarters = retention.summary(city.connection)
    assert raw.dropped_chunks == done > 2
    assert raw.dropped_rows == 240 - city.one("SELECT count(*) FROM readings")
    assert (minutes.since, minutes.dropped_chunks, quarters.dropped_rows) == (None, 0, 0)
    assert city.one("SELECT array_agg((r.*)::text ORDER BY series_id, bucket) FROM readings_1m r") == before
    assert city.balances()
    assert retention.keep(city.connection, KEPT) == 0
    city.connection.execute("DELETE FROM dropped_chunks WHERE id = (SELECT min(id) FROM dropped_chunks)")
    assert "that retention dropped" in ledger.discrepancies(city.connection)[0]


def test_a_reading_before_the_horizon_is_quarantined_and_one_after_it_is_late_but_stored(city):
    city.history()
    retention.keep(city.connection, KEPT)
    second = timedelta(seconds=1)
    counts = city.send((city.horizon() - second, THERMOMETER, 1.0), (city.horizon(), THERMOMETER, 1.0), (OLD, THERMOMETER, 1.0))
    assert (counts["stored"], counts["quarantined"], counts["conflict"]) == (0, 2, 1)  # a reading stands at midnight already
    assert city.send((city.horizon() + second, THERMOMETER, 1.0))["stored"] == 1
    refused = city.one("SELECT refused FROM quarantine")
    assert [entry[:2] for entry in refused if entry[1] == "too_old"] == [[0, "too_old"], [2, "too_old"]]
    assert "not kept any more" in refused[0][2]
    assert city.balances()


def test_a_counter_goes_on_from_its_last_reading_that_was_dropped(city):
    city.send((OLD, METER, 100.0), (RECENT, METER, 160.0))
    city.send((OLD + timedelta(hours=1), METER, -5.0))  # bad, and not what the next one rises from
    retention.keep(city.connection, KEPT)
    assert city.one("SELECT count(*) FROM readings") == 1
    assert city.one("SELECT value FROM carried_counters") == pytest.approx(100.0)
    between = RECENT - 2 * DAY
    city.send((between, METER, 130.0))
    increases = dict(city.connection.execute("SELECT bucket, s1 FROM readings_1m WHERE bucket > %s", [OLD + DAY]))
    assert increases == {between: 30.0, RECENT: 30.0}
    assert city.balances()
    assert rollup.rebuild(city.connection, city.horizon(), TODAY) == 0
    city.connection.execute("UPDATE carried_counters SET value = 90")
    assert "s1 is" in ledger.rollup_differences(city.connection)[0]


def test_what_cannot_be_recomputed_is_refused_and_left_alone(city):
    city.history()
    retention.keep(city.connection, KEPT)
    before = city.one("SELECT array_agg((r.*)::text ORDER BY series_id, bucket) FROM readings_1m r")
    early, end = city.horizon() - timedelta(minutes=1), TODAY
    kind = records.load(city.connection, builtin()).kind
    declared = {"device": "d", "metric": THERMOMETER, "end": end, "verdict": Verdict.BAD, "by": "x", "reason": "y"}
    with pytest.raises(GoneError, match="are gone"):
        rollup.rebuild(city.connection, early, end)
    with pytest.raises(GoneError):
        flagging.declare(city.connection, flagging.Declaration(start=early, **declared), kind)
    with pytest.raises(GoneError):  # it looks back on what came before
        reflag(city.connection, records.load(city.connection, builtin()), city.horizon(), end)
    assert city.one("SELECT count(*) FROM declarations") == 0
    assert city.one("SELECT array_agg((r.*)::text ORDER BY series_id, bucket) FROM readings_1m r") == before
    assert reflag(city.connection, records.load(city.connection, builtin()), city.horizon() + 15 * DAY, end) == 0
    assert flagging.declare(city.connection, flagging.Declaration(start=city.horizon(), **declared), kind) == 60
    assert city.balances()


def test_the_last_good_reading_is_remembered_when_it_was_dropped(city):
    city.send((OLD, THERMOMETER, 20.0))
    city.send((RECENT, THERMOMETER, 999.0), (RECENT + timedelta(minutes=1), THERMOMETER, 998.0))
    retention.keep(city.connection, KEPT)
    kind = records.load(city.connection, builtin()).kind
    bounds = {"device": "d", "metric": THERMOMETER, "start": RECENT, "end": TODAY, "by": "x", "reason": "y"}
    flagging.declare(city.connection, flagging.Declaration(verdict=Verdict.BAD, **bounds), kind)
    assert city.connection.execute("SELECT good_at, good_value FROM latest").fetchall() == [(OLD, 20.0)]
    flagging.declare(city.connection, flagging.Declaration(verdict=Verdict.GOOD, **bounds), kind)
    assert city.one("SELECT good_value FROM latest") == 998.0
    assert city.balances()


def test_minutes_go_only_when_their_quarter_hours_are_made(city):
    policy = Policy(raw=20 * DAY, minutes=60 * DAY, quarters=400 * DAY)
    start = TODAY - 130 * DAY
    city.send(*((start + i * DAY, THERMOMETER, 20.0) for i in range(130)))
    mean = "SELECT array_agg(mean ORDER BY time) FROM telemetry('1 day', 'UTC', %s, %s)"
    before = city.one(mean, start, TODAY)
    retention.keep(city.connection, policy)
    assert retention.summary(city.connection)[1].dropped_chunks == 0
    assert city.balances()
    while rollup.advance(city.connection):
        pass
    with closing(connect(city.url, application="test")) as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(%s)", (rollup.WORKER_LOCK,))
        retention.keep(city.connection, policy)
        assert retention.summary(city.connection)[1].dropped_chunks == 0
    retention.keep(city.connection, policy)
    assert retention.summary(city.connection)[1].dropped_chunks >= 1
    assert city.one(mean, start, TODAY) == before
    assert city.balances()
    # Where readings are gone and minutes are not, quarter-hours are held against these.
    city.connection.execute("UPDATE readings_15m SET n = 2 WHERE bucket = %s", [TODAY - 40 * DAY])
    assert "n is 2, not 1" in ledger.rollup_differences(city.connection)[0]


def test_quarter_hours_go_last(city):
    policy = Policy(raw=DAY, minutes=DAY, quarters=DAY)
    city.connection.execute("SELECT set_chunk_time_interval('readings_15m', INTERVAL '7 days')")
    city.history()
    while rollup.advance(city.connection):
        pass
    retention.keep(city.connection, policy)
    assert all(level.dropped_rows > 0 and level.since == TODAY - DAY for level in retention.summary(city.connection))
    assert city.balances()


def test_horizons_never_move_back(city):
    retention.keep(city.connection, KEPT)
    retention.keep(city.connection, Policy(raw=90 * DAY))
    assert city.horizon() == TODAY - 30 * DAY
    with pytest.raises(ValueError, match="longer"):
        Policy(raw=None, minutes=DAY)


def test_a_batch_under_way_is_waited_for_and_one_judged_by_the_old_horizon_is_judged_again(city, database):
    city.history()
    held = threading.Event()
    dropped = threading.Thread(target=lambda: held.wait(30) and _keep(database))
    dropped.start()
    store = city.pipeline._writer
    with store.batch(uuid4(), [city.one("SELECT id FROM sources WHERE name = 'gw'")]):
        held.set()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        deadline = time.monotonic() + 30
        while not city.one(waiting):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert city.horizon() == TODAY - 30 * DAY
        assert retention.summary(city.connection)[0].dropped_rows == 0
    dropped.join(30)
    assert retention.summary(city.connection)[0].dropped_rows > 0
    # The pipeline has not been told yet; its snapshot still lets the reading through.
    assert city.pipeline._registry.horizon < OLD.timestamp() * 1_000_000
    assert city.send((OLD + timedelta(seconds=5), THERMOMETER, 20.0))["quarantined"] == 1
    assert city.balances()


def _keep(url):
    with closing(connect(url, application="test")) as other:
        retention.keep(other, KEPT)


def test_a_reader_who_stays_holds_retention_up_not_the_city(city):
    city.history()
    with closing(connect(city.url, application="test")) as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM readings")
        with pytest.raises(TransientError, match="lock timeout"):
            retention.keep(city.connection, KEPT)
        assert city.send((TODAY, THERMOMETER, 20.0))["stored"] == 1
    assert city.balances()
    assert retention.keep(city.connection, KEPT) > 0
    assert city.balances()


def test_one_at_a_time(city):
    city.history()
    with closing(connect(city.url, application="test")) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (retention._LOCK,))
        assert retention.keep(city.connection, KEPT) == 0
        other.execute("SELECT pg_advisory_unlock(%s)", (retention._LOCK,))
        assert retention.keep(city.connection, KEPT) > 0


def test_quarantine_expires_into_what_found_no_room(city):
    for value in ("x", "y", "z"):
        city.send((TODAY, THERMOMETER, value), (TODAY, "nonsense", 1.0))
    city.connection.execute("UPDATE ledger SET minute = minute - INTERVAL '100 days'")
    city.connection.execute("UPDATE quarantine SET received_at = received_at - INTERVAL '100 days'")
    city.connection.execute(
        "UPDATE quarantine SET resolved_at = now(), readings = 0, refused = '[]' WHERE id = (SELECT min(id) FROM quarantine)"
    )
    city.connection.execute("UPDATE ledger SET quarantined = quarantined - 2, stored = stored + 2")
    assert city.send((TODAY, THERMOMETER, "young"))["quarantined"] == 1
    left = city.one("SELECT quarantine_bytes FROM source_state")
    assert retention.keep(city.connection, Policy(quarantine=90 * DAY)) == 3
    assert city.connection.execute("SELECT sum(overflow), sum(quarantined) FROM ledger").fetchone() == (4, 5)
    assert city.one("SELECT count(*) FROM quarantine") == 1
    assert city.one("SELECT quarantine_bytes FROM source_state") < left
    assert not [line for line in ledger.discrepancies(city.connection) if "quarantine" in line]


def test_the_columnstore_needs_the_community_edition(city):
    """On that edition: chunks are compressed, and late readings, a rebuild and a second round still work."""
    city.history()
    policy = Policy(columnstore_raw=20 * DAY, columnstore_minutes=20 * DAY)
    if city.one("SELECT current_setting('timescaledb.license')") != "timescale":
        with pytest.raises(StorageError, match="is the apache edition"):
            retention.keep(city.connection, policy)
        return
    assert retention.keep(city.connection, policy) > 1
    assert city.one("SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed") > 1
    assert city.send((OLD + timedelta(hours=1), METER, 5.0), (OLD, THERMOMETER, 20.0))["stored"] == 1
    rollup.rebuild(city.connection, OLD, TODAY)
    assert city.balances()
    retention.keep(city.connection, Policy(raw=30 * DAY, columnstore_raw=20 * DAY))
    assert city.balances()


def test_housekeeping_does_it(city):
    city.history()
    housekeeper = Housekeeper(city.url, KEPT, Bounds(keep=timedelta(minutes=10), bytes=1_000_000), Sizing(longest={}))
    housekeeper.start()
    deadline = time.monotonic() + 30
    while not retention.summary(city.connection)[0].dropped_rows:
        housekeeper.check()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    housekeeper.stop()
    with translated():
        assert city.balances()
