"""Figures for Prometheus on a real database: they are what ingest wrote, and cost no more with history."""

import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.devices.ledger import NAMES
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.transport.ipc import Committed
from citybeat.ingest.transport.metrics import Metrics
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.storage.accounts import figures, ledger
from citybeat.storage.batches.rows import GRACE, Numbers
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.pool import ReadPool
from citybeat.storage.registry import records
from citybeat.storage.rollups import retention

SECOND = 1_000_000
MINUTE = 60 * SECOND
NOW = 0  # us since 1970 UTC, of each test


@pytest.fixture(autouse=True)
def _now(monkeypatch):
    """Tests may run long after they were read."""
    monkeypatch.setitem(globals(), "NOW", int(datetime.now(UTC).timestamp()) * SECOND)


@pytest.fixture
def pipeline(database, connection):
    sensors = (Sensor(metric="pm25"), Sensor(metric="temperature"))
    records.register(connection, [Device(id="env-1", source="gw-a", domain="environment", sensors=sensors)])
    made = Pipeline(database, catalogue=builtin(), limits=Limits(), max_bytes=100_000, quarantine_quota=1_000)
    made.open()
    yield made
    made.close()


@pytest.fixture
def ask(database):
    def do():
        async def once():
            pool = ReadPool(database, min_size=1, max_size=1)
            await pool.open()
            try:
                return await figures.figures(pool)
            finally:
                await pool.close()

        return asyncio.run(once())

    return do


def take(pipeline, *bodies, source="gw-a"):
    payloads = [body if isinstance(body, bytes) else json.dumps(body).encode() for body in bodies]
    topic = f"city/v1/{source}/readings"
    messages = [Message(topic, payload, NOW + i, False, 1, i + 1, 1) for i, payload in enumerate(payloads)]
    return pipeline.process(messages, lambda: True)


def reading(ms=0, value=5.0, device="env-1"):
    return {"device": device, "ts": NOW // 1000 + ms, "values": {"pm25": value}}


def test_nothing(ask):
    nothing = ask()
    assert (nothing.ledger, nothing.quarantine, nothing.lost, nothing.marks, nothing.sensors) == ({}, {}, {}, 0, {})


def test_what_ingest_wrote(pipeline, ask, connection):
    written = take(
        pipeline, [reading(), reading(1), reading(1, 6.0)], [reading(2, None)], b"not json", [reading(3, device="nobody")]
    )
    written_again = take(pipeline, [reading()], source="gw-b")
    found = ask()
    for source, did in (("gw-a", written), ("gw-b", written_again)):
        assert asdict(found.ledger[source]) == {name: did.counts[name] for name in NAMES}
    assert found.ledger["gw-a"].conflict == found.ledger["gw-a"].missing == found.ledger["gw-a"].undecodable == 1
    assert found.quarantine == {"conflict": 1, "malformed": 1, "unknown_device": 1, "source_mismatch": 1}
    assert written.reasons == {"conflict": 1, "malformed": 1, "unknown_device": 1}
    assert written_again.reasons == {"source_mismatch": 1}
    assert found.marks > 0
    assert found.sensors == {"environment": 2}
    assert found.overdue == {"environment": 0}
    assert ledger.discrepancies(connection) == []
    # And ingest's own metrics know each of the columns and reasons.
    metrics = Metrics(1, list)
    for done in (written, written_again):
        metrics.committed(0, Committed(id=uuid4(), counts=done.counts, reasons=done.reasons, took=0.0), lag=0.0)
    assert b'citybeat_ingest_received_readings_total{worker="0"} 6.0' in metrics.exposition()[1]


def test_what_finds_no_room_is_counted(pipeline, ask):
    written = take(pipeline, [reading(i, device="nobody" * 20) for i in range(12)])
    assert written.counts["overflow"] == written.counts["quarantined"] == written.reasons["unknown_device"] == 12
    assert ask().ledger["gw-a"].overflow == 12
    assert ask().quarantine == {}


def test_what_expires_is_counted_in_the_totals_too(pipeline, ask, connection):
    take(pipeline, [reading(i, device="nobody") for i in range(3)])
    connection.execute("UPDATE quarantine SET received_at = received_at - interval '100 days'")
    connection.execute("UPDATE ledger SET minute = minute - interval '100 days'")
    assert retention.keep(connection, retention.Policy(quarantine=timedelta(days=90))) == 1
    assert ask().ledger["gw-a"].overflow == 3
    assert ask().quarantine == {}
    assert ledger.discrepancies(connection) == []


def test_what_is_resolved_is_not_open(pipeline, ask, connection):
    take(pipeline, b"not json")
    connection.execute("UPDATE quarantine SET resolved_at = now()")
    assert ask().quarantine == {}


def test_of_a_large_quarantine_some_is_counted(ask, connection, monkeypatch):
    source = records.ensure_sources(connection, ["gw-a"])["gw-a"]
    connection.execute(
        "INSERT INTO quarantine (received_at, source_id, topic, payload, refused, reasons, readings) "
        "SELECT now(), %s, 't', '', '[]', ARRAY[CASE WHEN i > 8 THEN 'late' ELSE 'early' END], 1 FROM generate_series(1, 20) i",
        [source],
    )
    assert ask().quarantine == {"early": 8, "late": 12}
    monkeypatch.setattr(figures, "LIMIT", 15)
    assert ask().quarantine == {"early": 3, "late": 12}


def test_overdue_sensors(ask, connection, pipeline):
    connection.execute("UPDATE series SET created_at = now() - interval '1 day'")
    assert ask().overdue == {"environment": 2}
    take(pipeline, [reading()])
    assert ask().overdue == {"environment": 1}


def test_totals_that_went_astray_are_found(pipeline, connection):
    take(pipeline, [reading()])
    connection.execute("UPDATE ledger_totals SET stored = stored + 1")
    (found,) = ledger.discrepancies(connection)
    assert found.startswith("source gw-a: the ledger's minutes do not add up to its totals")
    connection.execute("DELETE FROM ledger_totals")
    assert len(ledger.discrepancies(connection)) == 1


# --- numbers that never came ---------------------------------------------------------------------------------------------------


@pytest.fixture
def send(database, connection):
    """`send(at, *numbers)`: a batch of numbered messages of gw-a that came `at` seconds from now."""
    source = records.ensure_sources(connection, ["gw-a"])["gw-a"]
    store = BatchWriter(database, quarantine_quota=1)

    def do(at, *seqs, boot="x"):
        with store.batch(uuid4(), [source]) as transaction:
            transaction.add_seqs(
                Numbers(
                    sources=[source] * len(seqs),
                    boots=[boot] * len(seqs),
                    seqs=list(seqs),
                    received_at=[NOW + at * SECOND] * len(seqs),
                )
            )

    yield do
    store.close()


GRACE_S = int(GRACE.total_seconds())


def test_a_hole_counts_once_it_is_old(send, ask):
    send(-10, 1, 2, 5, 6)
    assert ask().lost == {"gw-a": 0}  # 3 and 4 may be under way
    send(GRACE_S - 11, 7)
    assert ask().lost == {"gw-a": 0}
    send(GRACE_S - 9, 8, 12)
    assert ask().lost == {"gw-a": 2}  # 9 to 11 are young
    send(GRACE_S, 9)
    assert ask().lost == {"gw-a": 2}
    send(2 * GRACE_S, 13)
    assert ask().lost == {"gw-a": 4}
    send(2 * GRACE_S, 3)
    assert ask().lost == {"gw-a": 3}  # it came after all


def test_of_a_run_that_fell_silent_all_holes_count(send, ask):
    send(-GRACE_S - 5, 1, 4, boot="old")
    send(-5, 1, 4, boot="new")
    send(-8 * 86_400, 1, 1000, boot="forgotten")
    assert ask().lost == {"gw-a": 2}


def test_a_clock_that_was_ahead_does_not_hide_holes_for_ever(send, ask):
    send(100_000, 1, 3)
    send(0, 4)
    send(GRACE_S, 5)
    assert ask().lost == {"gw-a": 1}


def test_numbers_up_to_the_largest(send, ask):
    send(-GRACE_S - 5, 0, 2**62)
    assert ask().lost == {"gw-a": 2**62 - 1}
