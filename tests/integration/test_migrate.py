import re
import time

import pytest

from citybeat.devices.catalogue import builtin, extended
from citybeat.devices.device import Device, Sensor
from citybeat.devices.errors import DeviceError
from citybeat.storage import migrate
from citybeat.storage.db import schema_version
from citybeat.storage.db.connection import DatabaseUnavailableError, StorageError, connect, translated
from citybeat.storage.db.schema_version import SchemaError
from citybeat.storage.registry import records

CHUNKS = {"readings": 7.0, "readings_1m": 30.0}


def test_the_second_time_nothing_happens(connection):
    before = records.version(connection)
    assert migrate.migrate(connection, builtin(), chunk_days=CHUNKS) == []
    assert records.version(connection) == before
    schema_version.check(connection)


def test_a_newer_schema_is_refused(connection):
    connection.execute("INSERT INTO schema_migrations (number, name, checksum) VALUES (999, 'future', 'x')")
    for attempt in (lambda: migrate.migrate(connection, builtin(), chunk_days={}), lambda: schema_version.check(connection)):
        with pytest.raises(SchemaError, match="999.*newer"):
            attempt()


def test_an_edited_migration_is_refused(connection):
    connection.execute("UPDATE schema_migrations SET checksum = 'x' WHERE number = 19")
    with pytest.raises(SchemaError, match="never edited"):
        schema_version.check(connection)


def test_no_schema_says_what_to_do(servers):
    with connect(servers.database_url, application="t") as fresh:
        fresh.execute("CREATE DATABASE citybeat_bare")
    try:
        with connect(re.sub(r"/\w+$", "/citybeat_bare", servers.database_url), application="t") as bare:
            with pytest.raises(SchemaError, match="citybeat migrate"):
                schema_version.check(bare)
    finally:
        with connect(servers.database_url, application="t") as fresh:
            fresh.execute("DROP DATABASE citybeat_bare WITH (FORCE)")


def test_files_are_numbered_without_gaps():
    numbers = [m.number for m in schema_version.migrations()]
    assert numbers == list(range(19, 19 + len(numbers)))


def test_a_schema_before_the_first_release_is_refused(connection):
    connection.execute("DELETE FROM schema_migrations")
    connection.execute(
        "INSERT INTO schema_migrations (number, name, checksum) VALUES (17, 'registry', 'x'), (18, 'statistics', 'x')"
    )
    for attempt in (lambda: migrate.migrate(connection, builtin(), chunk_days={}), lambda: schema_version.check(connection)):
        with pytest.raises(SchemaError, match="at 18, older than version 0.1.0; run `citybeat migrate` of version 0.1.0 first"):
            attempt()


def test_chunk_intervals_are_settings(connection):
    migrate.migrate(connection, builtin(), chunk_days={"readings": 1.0, "readings_1m": 5.0})
    rows = connection.execute(
        "SELECT hypertable_name, extract(epoch FROM time_interval)::int / 86400 FROM timescaledb_information.dimensions ORDER BY 1"
    )
    assert rows.fetchall() == [("readings", 1), ("readings_15m", 365), ("readings_1m", 5)]


def test_a_metric_with_history_keeps_its_kind(connection):
    own = '[noise]\ndomain = "environment"\nunit = "dB"\nkind = "{}"\n'
    migrate.migrate(connection, extended(own.format("gauge"), origin="t"), chunk_days={})
    migrate.migrate(connection, extended(own.format("level"), origin="t"), chunk_days={})  # nobody uses it yet
    records.register(connection, [Device(id="n-1", source="gw", domain="environment", sensors=(Sensor(metric="noise"),))])
    with pytest.raises(StorageError, match="noise"):
        migrate.migrate(connection, extended(own.format("gauge"), origin="t"), chunk_days={})


def test_registering(connection):
    device = Device(id="env-1", source="gw", domain="environment", sensors=(Sensor(metric="pm25", high=99.0),), tags={"a": "b"})
    records.register(connection, [device])
    snapshot = records.load(connection, builtin())
    number = snapshot.series["env-1", "pm25"]
    assert snapshot.high[number] == 99.0
    assert snapshot.owner[number] == snapshot.sources["gw"]
    version = snapshot.version
    records.register(connection, [Device(id="env-1", source="gw2", domain="environment", sensors=(Sensor(metric="pm25"),))])
    later = records.load(connection, builtin())
    assert later.version > version
    assert later.series["env-1", "pm25"] == number
    assert later.high[number] == 1000.0
    assert later.owner[number] == later.sources["gw2"]
    assert records.retire(connection, "env-1")
    assert not records.retire(connection, "env-1")
    assert records.load(connection, builtin()).retired[number]


def test_all_or_none_is_registered(connection):
    good = Device(id="env-1", source="gw", domain="environment", sensors=(Sensor(metric="pm25"),))
    bad = Device(id="env-2", source="gw", domain="environment", sensors=(Sensor(metric="happiness"),))
    with pytest.raises(DeviceError, match="env-2.*happiness"):
        records.register(connection, [good, bad])
    assert records.load(connection, builtin()).devices == {}


def test_listeners_hear_of_changes(connection, database):
    with connect(database, application="t") as listener:
        records.listen(listener)
        assert not records.notified(listener)
        records.register(connection, [Device(id="env-1", source="gw", domain="environment", sensors=())])
        deadline = time.monotonic() + 10
        while not records.notified(listener):  # the server tells soon after the commit, not with it
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not records.notified(listener)


def test_errors_are_in_our_words(servers):
    with pytest.raises(DatabaseUnavailableError):
        connect("postgresql://x:y@127.0.0.1:1/z", application="t")
    with pytest.raises(StorageError, match="CITYBEAT_DATABASE_URL") as caught:
        connect(re.sub(r":[^:@/]+@", ":wrong@", servers.database_url), application="t")
    assert not isinstance(caught.value, DatabaseUnavailableError)


def test_errors_do_not_quote_rows(connection):
    for statement, words in (
        ("INSERT INTO sources (name) VALUES ('zuckerwatte'), ('zuckerwatte')", "sources_name_key"),
        ("INSERT INTO marks_15m (bucket, series) SELECT NULL, ARRAY[4711]", "null value"),
    ):
        with pytest.raises(StorageError, match=words) as caught, translated():
            connection.execute(statement)
        assert "zuckerwatte" not in str(caught.value)
        assert "4711" not in str(caught.value)
