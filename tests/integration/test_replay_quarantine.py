"""Retry of quarantine on a real database: only refused readings, in their own minute, and the ledger balances."""

import json
from collections import Counter
from contextlib import closing

import pytest

from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.devices.errors import Reason
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.writing import retry as replaying
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.storage.accounts import ledger, quarantine
from citybeat.storage.accounts.quarantine import Filter
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.registry import records

T0 = 1_767_225_600_000_000
QUOTA = 1_000_000
SETTINGS = replaying.Settings(catalogue=builtin(), limits=Limits(), max_bytes=10_000, quarantine_quota=QUOTA)


def device(number, *metrics, source="gw-a"):
    return Device(id=f"env-{number}", source=source, domain="environment", sensors=tuple(Sensor(metric=m) for m in metrics))


@pytest.fixture
def pipeline(database, connection):
    records.register(connection, [device(1, "pm25")])
    made = Pipeline(database, catalogue=builtin(), limits=Limits(), max_bytes=10_000, quarantine_quota=QUOTA)
    made.open()
    yield made
    made.close()


def take(pipeline, *bodies, topic="city/v1/gw-a/readings", minute=0):
    messages = [
        Message(
            topic, body if isinstance(body, bytes) else json.dumps(body).encode(), T0 + minute * 60_000_000 + i, False, 1, i + 1, 1
        )
        for i, body in enumerate(bodies)
    ]
    return pipeline.process(messages, lambda: True)


def replay(database, connection, wanted=None):
    with closing(BatchWriter(database, quarantine_quota=QUOTA)) as store:
        return replaying.replay(store, connection, SETTINGS, wanted or Filter()).counts


def report(number, ms, **values):
    return {"device": f"env-{number}", "ts": T0 // 1000 + ms, "values": values}


def balanced(connection):
    return ledger.discrepancies(connection) == [] and ledger.rollup_differences(connection) == []


def test_after_registering_only_what_was_refused_is_stored(pipeline, database, connection):
    take(pipeline, [report(1, 0, pm25=5.0), report(2, 0, pm25=6.0), report(2, 1, pm25=7.0, no2=None), report(3, 0, pm25=8.0)])
    assert ledger.totals(connection).quarantined == 4
    records.register(connection, [device(2, "pm25", "no2")])
    counts = replay(database, connection)
    assert counts == Counter(messages=1, stored=2, missing=1, quarantined=1)
    totals = ledger.totals(connection)
    assert (totals.received, totals.stored, totals.missing, totals.quarantined) == (5, 3, 1, 1)
    (row,) = quarantine.listed(connection, Filter())
    assert [(entry[0], entry[1]) for entry in row.refused] == [(4, "unknown_device")]
    assert (row.readings, row.reasons) == (1, ["unknown_device"])
    assert balanced(connection)
    # Nothing changes when nothing has changed.
    assert replay(database, connection) == Counter(messages=1, quarantined=1)
    assert ledger.totals(connection) == totals
    records.register(connection, [device(3, "pm25")])
    assert replay(database, connection)["stored"] == 1
    assert quarantine.listed(connection, Filter()) == []
    assert connection.execute("SELECT quarantine_bytes FROM source_state").fetchone() == (0,)
    assert quarantine.show(connection, row.id).resolved_at is not None
    assert balanced(connection)


def test_the_ledger_is_corrected_in_the_original_minute(pipeline, database, connection):
    take(pipeline, report(2, 0, pm25=6.0))
    take(pipeline, report(1, 0, pm25=6.0), minute=5)
    records.register(connection, [device(2, "pm25")])
    replay(database, connection)
    rows = connection.execute(
        "SELECT extract(minute FROM minute)::int, messages, stored, quarantined FROM ledger ORDER BY 1"
    ).fetchall()
    assert rows == [(0, 1, 1, 0), (5, 1, 1, 0)]
    (received,) = connection.execute("SELECT max(received_at) - min(received_at) FROM readings").fetchone()
    assert received.total_seconds() == 300


def test_a_reading_that_came_again_meanwhile_is_a_duplicate_or_a_conflict(pipeline, database, connection):
    take(pipeline, report(2, 0, pm25=6.0), report(2, 1, pm25=7.0))
    records.register(connection, [device(2, "pm25")])
    take(pipeline, report(2, 0, pm25=6.0), report(2, 1, pm25=99.0), minute=1)
    assert replay(database, connection) == Counter(messages=2, duplicate=1, conflict=1)
    (row,) = quarantine.listed(connection, Filter())
    assert row.reasons == ["conflict"]
    assert row.refused[0][2] == "7.0 came, 99.0 is stored at that time"
    assert row.readings == 0
    assert balanced(connection)
    # What lost a conflict is evidence, and not tried again.
    assert replay(database, connection) == Counter()


def test_filters(pipeline, database, connection):
    take(pipeline, report(2, 0, pm25=6.0), report(1, 0, no2=1.0), b"nope")
    records.register(connection, [device(1, "pm25", "no2"), device(2, "pm25")])
    assert replay(database, connection, Filter(reason=Reason.UNKNOWN_METRIC))["stored"] == 1
    assert replay(database, connection, Filter(source="somebody")) == Counter()
    assert replay(database, connection, Filter(reason=Reason.MALFORMED)) == Counter(messages=1, unreadable=1)
    assert replay(database, connection, Filter(source="gw-a"))["stored"] == 1
    assert balanced(connection)


def test_a_message_that_can_be_read_now_counts_as_received(pipeline, database, connection):
    """As after an upgrade that decodes more than the old version: here the row says that the message could not be decoded."""
    take(pipeline, report(1, 0, pm25=6.0))
    connection.execute(
        """INSERT INTO quarantine (received_at, source_id, topic, payload, refused, reasons, readings)
           SELECT '2026-01-01T00:00:30Z', id, 'city/v1/gw-a/readings', %s, '[[null, "malformed", "x"]]', '{malformed}', 0
           FROM sources WHERE name = 'gw-a'""",
        [json.dumps([report(1, 5, pm25=6.5), report(9, 5, pm25=1.0)]).encode()],
    )
    for table in ("ledger", "ledger_totals"):
        connection.execute(f"UPDATE {table} SET messages = messages + 1, undecodable = 1")
    assert replay(database, connection) == Counter(messages=1, stored=1, quarantined=1)
    totals = ledger.totals(connection)
    assert (totals.messages, totals.undecodable, totals.received, totals.stored, totals.quarantined) == (2, 0, 3, 2, 1)
    assert balanced(connection)


def test_what_was_too_large_is_left_alone(pipeline, database, connection):
    take(pipeline, b"[" + b" " * 20_000 + b"]")
    assert replay(database, connection) == Counter()
    assert len(quarantine.listed(connection, Filter())) == 1


def test_step_is_judged_across_batches_and_a_restart(pipeline, database, connection):
    records.register(connection, [device(7, "temperature")])
    take(pipeline, report(7, 0, temperature=20.0), report(7, 60_000, temperature=30.0))
    pipeline.close()
    take(pipeline, report(7, 120_000, temperature=20.5), report(7, 180_000, temperature=31.0))
    flags = connection.execute("SELECT flags & 2 FROM readings ORDER BY time").fetchall()
    assert flags == [(0,), (2,), (0,), (2,)]
    assert balanced(connection)
