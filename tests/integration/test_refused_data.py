"""Readings that the database itself refuses: they alone are left out of their batch, and nothing is written twice."""

import json
import time
from contextlib import closing
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.devices.errors import Reason
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.writing import retry
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.stack.process import free_port
from citybeat.storage.accounts import ledger
from citybeat.storage.accounts.quarantine import Filter
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.connection import DatabaseUnavailableError, RefusedDataError, StorageError
from citybeat.storage.registry import records

NOW = time.time_ns() // 1000
TS = NOW // 1000 - 60_000


class City:
    def __init__(self, url, connection):
        self.url, self.connection = url, connection
        devices = [
            Device(id=f"d-{i}", source=f"gw-{i % 2}", domain="environment", sensors=(Sensor(metric="temperature"),))
            for i in range(4)
        ]
        records.register(connection, devices)
        self.pipeline = Pipeline(url, catalogue=builtin(), limits=Limits(), max_bytes=10**6, quarantine_quota=10**7)

    def refuse(self, condition="value <> 13.0"):
        self.connection.execute(f"ALTER TABLE readings ADD CONSTRAINT taste CHECK ({condition})")

    def process(self, *messages, batch_id=None):
        return self.pipeline.process(list(messages), lambda: True, batch_id=batch_id)

    def one(self, query):
        return self.connection.execute(query).fetchone()[0]

    def balances(self):
        return ledger.discrepancies(self.connection) == [] and ledger.rollup_differences(self.connection) == []


def message(device, *values, at=TS, **envelope):
    reports = [{"device": f"d-{device}", "values": {"temperature": value}} for value in values]
    for i, report in enumerate(reports):
        if at is not None:
            report["ts"] = at + i * 1000
    body = {**envelope, "readings": reports} if envelope else reports
    return Message(f"city/v1/gw-{device % 2}/readings", json.dumps(body).encode(), NOW, False, 1, 1, 1)


@pytest.fixture
def city(database, connection):
    made = City(database, connection)
    yield made
    made.pipeline.close()


def test_only_the_readings_that_are_refused_are_kept_out(city):
    city.refuse()
    batch = [message(i % 4, *(20.0 + i for _ in range(10)), at=TS + i * 20_000) for i in range(9)]
    batch[5] = message(1, 20.0, 13.0, 21.0, None, 13.0, "x", 22.0, at=TS - 900_000, seq=1, boot="b")
    written = city.process(*batch)
    assert written.counts["stored"] == 8 * 10 + 3
    assert (written.counts["quarantined"], written.counts["missing"], written.reasons[Reason.REFUSED_BY_DATABASE]) == (3, 1, 2)
    kept = city.one("SELECT refused FROM quarantine")
    assert [entry[:2] for entry in kept] == [[1, "refused_by_database"], [4, "refused_by_database"], [5, "not_a_number"]]
    assert "taste" in kept[0][2]
    assert city.balances()
    assert ledger.numbers(city.connection, ["gw-1"])["gw-1", "b"] == (1, 0)


def test_the_same_batch_again_writes_nothing_twice(city):
    """As after a crash between two halves: readings without times, which only the ids of batches can tell apart."""
    city.refuse()
    batch, batch_id = [message(i, 20.0, 13.0, at=None) for i in range(4)], uuid4()
    assert city.process(*batch, batch_id=batch_id).counts["stored"] == 4
    assert city.process(*batch, batch_id=batch_id).counts["stored"] == 0
    assert city.one("SELECT count(*) FROM readings") == 4
    assert city.one("SELECT count(*) FROM quarantine") == 4
    assert city.balances()


def test_many_refused_readings_are_not_searched_for_ever(city):
    city.refuse("value < 13.0")
    values = [20.0 if i % 2 else 10.0 for i in range(600)]
    began = city.one("SELECT count(*) FROM batches")
    written = city.process(message(0, *values))
    assert written.counts["stored"] + written.counts["quarantined"] == 600
    assert written.counts["quarantined"] >= 300
    assert city.one("SELECT count(*) FROM batches") == began + 1  # tries leave nothing behind
    assert city.balances()


def test_refused_readings_are_stored_by_a_replay_when_the_database_takes_them(city):
    city.refuse()
    city.process(message(0, 13.0, 14.0), message(1, "x", at=TS + 50_000), message(2, 13.0, at=TS + 90_000))
    city.connection.execute("UPDATE quarantine SET payload = replace(convert_from(payload, 'utf8'), '\"x\"', '15.0')::bytea")
    settings = retry.Settings(catalogue=builtin(), limits=Limits(), max_bytes=10**6, quarantine_quota=10**7)
    with closing(BatchWriter(city.url, quarantine_quota=10**7)) as store:
        counts = retry.replay(store, city.connection, settings, Filter()).counts
        assert (counts["messages"], counts["stored"], counts["quarantined"]) == (3, 1, 2)
        assert city.balances()
        city.connection.execute("ALTER TABLE readings DROP CONSTRAINT taste")
        assert retry.replay(store, city.connection, settings, Filter()).counts["stored"] == 2
    assert city.one("SELECT count(*) FROM quarantine WHERE resolved_at IS NULL") == 0
    assert city.balances()


def test_a_database_that_refuses_everything_is_no_matter_of_readings(city):
    city.process(message(0, 20.0))
    city.connection.execute("ALTER TABLE ledger ADD CONSTRAINT taste CHECK (false) NOT VALID")
    with pytest.raises(RefusedDataError):
        city.process(message(0, 21.0, at=TS + 5000))
    city.connection.execute("ALTER TABLE ledger DROP CONSTRAINT taste")
    city.connection.execute("ALTER TABLE latest RENAME TO newest")
    with pytest.raises(StorageError, match="latest"):
        city.process(message(0, 21.0, at=TS + 5000))
    city.connection.execute("ALTER TABLE newest RENAME TO latest")
    assert city.process(message(0, 21.0, at=TS + 5000)).counts["stored"] == 1
    assert city.balances()


def test_a_statement_that_takes_too_long_is_tried_again_on_a_new_connection(city, monkeypatch):
    monkeypatch.setattr("citybeat.storage.batches.writer._STATEMENT", 0.3)
    troubles = []
    source = city.one("SELECT id FROM sources WHERE name = 'gw-0'")
    with city.connection.transaction():
        city.connection.execute("SELECT pg_advisory_xact_lock(1, %s)", [source])
        written = city.pipeline.process([message(0, 20.0)], lambda: len(troubles) > 1, trouble=troubles.append)
        assert written is None
    assert "statement timeout" in str(troubles[0])
    assert city.process(message(0, 20.0)).counts["stored"] == 1


def test_of_several_addresses_the_one_that_serves_is_taken(city):
    """As after a failover; an address may be dead, or one that was the primary."""
    url = urlsplit(city.url)
    user, port = url.netloc.rpartition("@")[0], url.port
    both = url._replace(netloc=f"{user}@127.0.0.1:{free_port()},127.0.0.1:{port}", query="target_session_attrs=read-write")
    with closing(Pipeline(urlunsplit(both), catalogue=builtin(), limits=Limits(), max_bytes=10**6, quarantine_quota=1)) as moved:
        assert moved.process([message(0, 20.0)], lambda: True).counts["stored"] == 1
        city.connection.execute(f"ALTER DATABASE {url.path[1:]} SET default_transaction_read_only = on")
        city.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        troubles = []
        assert moved.process([message(0, 21.0, at=TS + 1000)], lambda: bool(troubles), trouble=troubles.append) is None
        assert isinstance(troubles[0], DatabaseUnavailableError)
        city.connection.execute(f"ALTER DATABASE {url.path[1:]} RESET default_transaction_read_only")
        assert moved.process([message(0, 21.0, at=TS + 1000)], lambda: True).counts["stored"] == 1


def test_a_primary_that_became_a_standby_is_left(city):
    city.process(message(0, 20.0))
    city.pipeline._writer._connection.execute("SET default_transaction_read_only = on")
    troubles = []
    assert city.pipeline.process([message(0, 21.0, at=TS + 1000)], lambda: False, trouble=troubles.append).counts["stored"] == 1
    assert "read-only" in str(troubles[0])
