"""The schema is what storage/schema.sql shows, in a new database and in one that is upgraded."""

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.storage import migrate
from citybeat.storage.db import schema_version
from citybeat.storage.db.connection import Connection, TransientError, connect
from citybeat.storage.db.schema_version import SchemaError
from citybeat.storage.registry import records
from tests.integration.schema_picture import definitions, picture

STORAGE = Path(migrate.__file__).parent
PICTURE = STORAGE / "schema.sql"
#: The migrations of citybeat 0.1.0, which had functions and views in them.
OLD = sorted((Path(__file__).parent / "version_0_1_0").glob("*.sql"))
#: us since 1970.
NOON = 1_767_268_800_000_000


def test_the_picture_is_the_schema(connection):
    drawn = picture(connection)
    if os.environ.get("CITYBEAT_WRITE_SCHEMA"):  # make schema
        PICTURE.write_text(drawn, "utf-8")
    assert drawn == PICTURE.read_text("utf-8"), "the schema has changed: run `make schema`, and look at what it changes"


def test_every_function_and_view_is_described_and_stands_in_a_repeatable_file(connection):
    made = re.compile(r"^CREATE OR REPLACE (?:FUNCTION|VIEW) (\w+)", re.MULTILINE)
    names = [name for script in schema_version.repeatables() for name in made.findall(script.text)]
    assert sorted(names) == sorted(definitions(connection))
    undescribed = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'v')"
        " AND obj_description(oid, 'pg_class') IS NULL"
        " UNION ALL SELECT proname FROM pg_proc WHERE proname = ANY(%s) AND obj_description(oid, 'pg_proc') IS NULL",
        (names,),
    )
    assert undescribed.fetchall() == []


@pytest.fixture
def old(servers) -> Iterator[str]:
    """URL of a database that citybeat 0.1.0 migrated."""
    name = f"citybeat_old_{uuid4().hex}"
    url = urlunsplit(urlsplit(servers.database_url)._replace(path=f"/{name}"))
    with closing(connect(servers.database_url, application="test")) as server:
        server.execute(f"CREATE DATABASE {name}")
        with closing(connect(url, application="test")) as made:
            made.execute(
                "CREATE TABLE schema_migrations (number int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,"
                " applied_at timestamptz NOT NULL DEFAULT now())"
            )
            for path in OLD:
                text = path.read_text("utf-8")
                made.execute(text)
                number, _, noun = path.stem.partition("_")
                made.execute(
                    "INSERT INTO schema_migrations (number, name, checksum) VALUES (%s, %s, %s)",
                    (int(number), noun, hashlib.sha256(text.encode()).hexdigest()),
                )
            records.sync_catalogue(made, builtin())
        yield url
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_an_old_database_with_readings_becomes_the_same(old, connection, fill_into, monkeypatch):
    monkeypatch.setattr(migrate, "ATTEMPTS", 1)  # nobody has to be waited for
    with closing(connect(old, application="test")) as upgraded:
        device = Device(id="env-1", source="gw", domain="environment", sensors=(Sensor(metric="pm25"),))
        records.register(upgraded, [device])
        fill_into(old, upgraded, [("env-1", "pm25", NOON + i * 10_000_000, float(i), 0) for i in range(200)], received_at=NOON)
        shown = "SELECT * FROM telemetry(INTERVAL '5 minutes', 'UTC', %s::text::timestamptz, %s::text::timestamptz)"
        period = ("2026-01-01 12:00+00", "2026-01-01 13:00+00")
        before = upgraded.execute(shown, period).fetchall(), upgraded.execute("SELECT * FROM telemetry_15m").fetchall()
        with pytest.raises(SchemaError, match="at 19, this program needs"):
            schema_version.check(upgraded)

        with (
            closing(connect(old, application="test")) as ingest,
            ingest.transaction(),
        ):  # of version 0.1.0, in the middle of a batch
            ingest.execute("INSERT INTO readings SELECT time + INTERVAL '1 h', received_at, value, series_id, flags FROM readings")
            ingest.execute("UPDATE latest SET time = time + INTERVAL '1 h'")
            ingest.execute("UPDATE ledger_totals SET stored = stored + 200")
            done = migrate.migrate(upgraded, builtin(), chunk_days={})

        assert upgraded.execute("SELECT count(*) FROM readings").fetchone() == (400,)
        assert done == [
            *(f"{script.number:04d}_{script.name}" for script in schema_version.migrations()[1:]),
            *(script.name for script in schema_version.repeatables()),
        ]
        schema_version.check(upgraded)
        assert len(before[0]) == 7
        assert before == (upgraded.execute(shown, period).fetchall(), upgraded.execute("SELECT * FROM telemetry_15m").fetchall())
        assert picture(upgraded) == PICTURE.read_text("utf-8")
        assert definitions(upgraded) == definitions(connection)
        assert migrate.migrate(upgraded, builtin(), chunk_days={}) == []


#: What the picture does not show: the rows that a new database has, and the settings of hypertables.
SEEDS = (
    "SELECT id, name, conflict_policy FROM sources",
    "SELECT level, since::text FROM horizons ORDER BY 1",
    "SELECT * FROM outbox_floor",
    "SELECT name, domain, unit, kind, definition FROM metrics ORDER BY 1",
    "SELECT hypertable_name, column_name, time_interval FROM timescaledb_information.dimensions ORDER BY 1",
    "SELECT hypertable_name, compression_enabled, tablespaces FROM timescaledb_information.hypertables ORDER BY 1",
    "SELECT proc_name, schedule_interval, config FROM timescaledb_information.jobs ORDER BY 1, 3",
    "SELECT relname, reloptions FROM pg_class WHERE relnamespace = current_schema()::regnamespace ORDER BY 1",
    "SELECT max(version) FROM registry_version",
)
_EMPTY = ("devices", "series", "calibrations", "declarations", "audit", "api_keys", "marks_15m", "outbox", "ledger_totals", "seqs")


def test_a_new_database_has_the_rows_and_settings_of_an_old_one(old, connection):
    with closing(connect(old, application="test")) as upgraded:
        days = {"readings": 7.0, "readings_1m": 30.0}
        for made in (upgraded, connection):
            migrate.migrate(made, builtin(), chunk_days=days)
        counts = [f"SELECT count(*) FROM {table}" for table in _EMPTY]
        for query in (*SEEDS, *counts):
            assert upgraded.execute(query).fetchall() == connection.execute(query).fetchall(), query
        assert picture(upgraded) == picture(connection)


@pytest.fixture
def files(monkeypatch, tmp_path) -> Path:
    """A copy of storage's SQL files, which a test may change."""
    for folder in ("migrations", "repeatable"):
        shutil.copytree(STORAGE / folder, tmp_path / folder)
    monkeypatch.setattr(schema_version, "files", lambda _package: tmp_path)
    return tmp_path


def _change(path: Path, *, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def _run(connection: Connection) -> list[str]:
    return migrate.migrate(connection, builtin(), chunk_days={})


def test_a_changed_file_is_applied_once(connection, files):
    applied = "SELECT name, applied_at FROM schema_repeatables"
    before = dict(connection.execute(applied).fetchall())
    _change(files / "repeatable/07_overdue.sql", old="+ 3 * expected", new="+ 4 * expected")
    with pytest.raises(SchemaError, match=r"\(overdue\); run `citybeat migrate`"):
        schema_version.check(connection)

    assert _run(connection) == ["overdue"]

    schema_version.check(connection)
    assert "4 * expected" in definitions(connection)["liveness"].replace("4::double precision", "4")
    after = dict(connection.execute(applied).fetchall())
    assert {name for name in after if after[name] != before[name]} == {"overdue"}
    assert _run(connection) == []


def test_a_view_loses_a_column_together_with_a_migration_that_drops_it(connection, files):
    """The rule of docs/migrations.md: what CREATE OR REPLACE cannot do, a migration prepares."""
    columns = "t.domain, t.district,\n    telemetry_mean(t.kind"
    _change(files / "repeatable/06_telemetry.sql", old=columns, new=columns.replace(" t.district,", ""))
    with pytest.raises(SchemaError, match=r"^repeatable/06_telemetry\.sql: cannot .*column"):
        _run(connection)
    drop = "DROP VIEW IF EXISTS telemetry_series CASCADE;  -- with it telemetry_1m and telemetry_15m\n"
    number = schema_version.migrations()[-1].number + 1
    (files / f"migrations/{number:04d}_no_districts.sql").write_text(drop)

    assert _run(connection) == [f"{number:04d}_no_districts", "telemetry"]

    assert "district" not in definitions(connection)["telemetry_1m"]
    readable = "SELECT has_table_privilege('grafana', 'telemetry_15m', 'SELECT')"
    assert connection.execute(readable).fetchone() == (True,)


def test_a_wrong_file_is_named_and_nothing_of_it_stays(connection, files):
    before = definitions(connection)
    _change(files / "repeatable/07_overdue.sql", old="+ 3 * expected", new="+ 4 * expected")
    _change(files / "repeatable/10_limits.sql", old="RETURN QUERY", new="RETRUN QUERY")
    with pytest.raises(SchemaError, match=r"^repeatable/10_limits\.sql: syntax error at or near \"RETRUN\""):
        _run(connection)
    assert definitions(connection) == before
    (files / "repeatable/07_more.sql").write_text("SELECT 1;")
    with pytest.raises(SchemaError, match=r"repeatable/07_.*stands twice"):
        schema_version.repeatables()
    (files / "repeatable/overdue.sql").write_text("SELECT 1;")
    with pytest.raises(SchemaError, match=r"repeatable/overdue\.sql: expected a name"):
        schema_version.repeatables()


@pytest.fixture
def reading(database, monkeypatch) -> Iterator[Callable[[], object]]:
    """A session that is in the middle of reading a view, and what ends its transaction; migrations wait briefly."""
    monkeypatch.setattr(migrate, "WAIT", 0.05)
    monkeypatch.setattr(migrate, "PAUSE", 0.05)
    monkeypatch.setattr(migrate, "ATTEMPTS", 3)
    with closing(connect(database, application="test")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM liveness")
        yield reader.rollback


def test_a_migration_waits_for_a_reader_a_little_at_a_time(connection, files, reading, monkeypatch, caplog):
    _change(files / "repeatable/07_overdue.sql", old="+ 3 * expected", new="+ 4 * expected")
    with pytest.raises(TransientError, match="lock timeout"):
        _run(connection)
    assert len(caplog.records) == 2
    monkeypatch.setattr(migrate, "ATTEMPTS", 1000)
    ending = threading.Timer(0.2, reading)
    ending.start()
    assert _run(connection) == ["overdue"]
    ending.join()
