"""The role of dashboards: it reads what they show, by name, and says what it lacks."""

import subprocess
import sys

import psycopg
import pytest

from citybeat.storage.db import reader

#: Everything that there is, and not for the role.
HIDDEN = {
    "answers",
    "api_keys",
    "audit",
    "batches",
    "calibrations",
    "carried_counters",
    "dropped_chunks",
    "outbox",
    "outbox_floor",
    "quarantine",
    "registry_version",
    "schema_migrations",
    "schema_repeatables",
    "sensor_states",
}


def test_it_reads_what_dashboards_show_and_nothing_else(connection):
    rows = connection.execute(
        "SELECT relname, has_table_privilege('grafana', oid, 'SELECT'),"
        " has_table_privilege('grafana', oid, 'INSERT, UPDATE, DELETE, TRUNCATE')"
        " FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
    ).fetchall()
    assert {name for name, reads, _ in rows if not reads} == HIDDEN
    assert not any(writes for *_, writes in rows)


def test_it_sees_what_is_in_quarantine_but_not_the_payloads(connection):
    columns = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'quarantine'::regclass AND attnum > 0"
        " AND has_column_privilege('grafana', attrelid, attnum, 'SELECT') ORDER BY attnum"
    )
    assert [row[0] for row in columns] == ["id", "received_at", "source_id", "reasons", "readings", "resolved_at"]


def test_granting_again_and_again_in_one_session_does_no_harm(connection):
    assert [reader.granted(connection) for _ in range(8)] == [None] * 8  # psycopg prepares what it is told five times


def test_what_is_made_later_is_not_shown_and_old_default_privileges_are_gone(connection):
    connection.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO grafana")
    connection.execute("CREATE TABLE audit_of_tests (secret text)")
    assert connection.execute("SELECT has_table_privilege('grafana', 'audit_of_tests', 'SELECT')").fetchone() == (True,)
    reader.prepare(connection, None)
    connection.execute("CREATE TABLE more_secrets (secret text)")
    for table in ("audit_of_tests", "more_secrets"):
        assert connection.execute("SELECT has_table_privilege('grafana', %s, 'SELECT')", (table,)).fetchone() == (False,)


def test_an_owner_who_may_not_make_roles_is_told_what_to_do(connection):
    connection.execute("SET search_path = pg_temp, public, pg_catalog")
    connection.execute("CREATE TEMP VIEW pg_roles AS SELECT * FROM pg_catalog.pg_roles WHERE rolname <> 'grafana'")
    if connection.execute("SELECT rolcreaterole OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user").fetchone() != (
        False,
    ):
        pytest.skip("the owner of these servers may make roles")
    with pytest.raises(reader.ReaderError, match="CREATE ROLE grafana LOGIN.*citybeat dashboards reader"):
        reader.prepare(connection, None)


def test_a_role_of_somebody_elses_keeps_its_password(connection):
    try:
        connection.execute("ALTER ROLE grafana SET work_mem = '16MB'")
    except psycopg.errors.InsufficientPrivilege:
        with pytest.raises(reader.ReaderError, match=r"\\password grafana"):
            reader.prepare(connection, "it's")
    else:
        pytest.skip("the owner of these servers may change the role, which other tests log in as")


def test_the_command_grants_and_refuses_an_empty_password(database, tmp_path, monkeypatch):
    monkeypatch.setenv("CITYBEAT_DATABASE_URL", database)
    monkeypatch.setenv("CITYBEAT_MQTT_URL", "mqtt://127.0.0.1:1")

    def run(*arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        line = [sys.executable, "-m", "citybeat", "dashboards", "reader", *arguments]
        return subprocess.run(line, input=given, capture_output=True, text=True, timeout=60, check=False)

    done = run()
    assert (done.returncode, done.stderr) == (0, "the role grafana may read what dashboards show\n")
    refused = run("--password-file", "-", given="\n")
    assert refused.returncode == 1
    assert "the file is empty" in refused.stderr
