"""`citybeat ledger`, in all its forms, on a database that given servers provide."""

import json
import os
import pty
import re
import select
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from citybeat import stack
from citybeat.cli import app
from citybeat.storage.batches.rows import Tally
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.registry import records

MINUTE = 60_000_000


@pytest.fixture
def this():
    """The minute in which the test began, us since 1970 UTC."""
    return int(datetime.now(UTC).timestamp()) * 1_000_000 // MINUTE * MINUTE


@pytest.fixture
def env(database, tmp_path):
    return {"CITYBEAT_DATABASE_URL": database, "CITYBEAT_MQTT_URL": "mqtt://127.0.0.1:1", "CITYBEAT_HOME": str(tmp_path)}


@pytest.fixture
def add(database, connection, this):
    """`add(source, minutes ago, **counts)`."""
    store = BatchWriter(database, quarantine_quota=1)

    def do(source, ago, **counts):
        number = records.ensure_sources(connection, [source])[source]
        with store.batch(uuid4(), [number]) as transaction:
            transaction.add_ledger([Tally(minute=this - ago * MINUTE, source=number, **counts)], {})

    yield do
    store.close()


@pytest.fixture
def ask(env):
    def do(*arguments):
        return CliRunner().invoke(app, ["ledger", *arguments], env=env)

    return do


def test_as_json(add, ask, this):
    add("gw-a", 20, messages=1, received=1, missing=1)
    add("gw-a", 2, messages=1, received=5, duplicate=5)
    add("gw-b", 1, messages=2, received=3, conflict=3)
    add("gw-a", 2, messages=1, undecodable=1, redelivered=1)
    done = ask("--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [(row["source"], row["messages"], row["received"]) for row in found["minutes"]] == [("gw-a", 2, 5), ("gw-b", 2, 3)]
    assert found["minutes"][0]["minute"] == datetime.fromtimestamp((this - 2 * MINUTE) / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert found["shown"]["received"] == 8
    assert found["total"]["received"] == 9
    assert (found["balanced"], found["discrepancies"], found["left_out"]) == (True, [], False)
    assert len(json.loads(ask("--json", "--minutes", "30").stdout)["minutes"]) == 3
    newest = json.loads(ask("--json", "--limit", "1").stdout)
    assert [row["source"] for row in newest["minutes"]] == ["gw-b"]
    assert newest["left_out"] is True
    of_one = json.loads(ask("--json", "--source", "gw-a").stdout)
    assert [row["source"] for row in of_one["minutes"]] == ["gw-a"]
    assert of_one["total"]["received"] == 6
    since = (datetime.fromtimestamp(this / 1e6, UTC) - timedelta(minutes=1)).astimezone(UTC).isoformat()
    assert [row["source"] for row in json.loads(ask("--json", "--since", since).stdout)["minutes"]] == ["gw-b"]


def test_a_table_and_what_does_not_balance(add, ask, connection):
    add("gw-a", 0, messages=1, received=1234, missing=1234)
    done = ask()
    assert done.exit_code == 0, done.output
    assert re.search(r"gw-a\s*│\s*1 │\s*0 │\s*0 │\s*1,234 │", done.stdout)
    assert "all time" in done.stdout
    assert done.stdout.rstrip().endswith("\nbalanced")
    connection.execute("UPDATE ledger SET received = received + 1")
    done = ask()
    assert done.exit_code == 1
    assert "NOT balanced: source gw-a: received 1235" in done.stdout


def test_wrong_questions(ask):
    done = ask("--source", "nobody")
    assert done.exit_code == 1
    assert "no source 'nobody' is known" in done.stderr
    assert ask("--minutes", "1", "--since", "2026-01-01T00:00:00Z").exit_code == 2
    assert ask("--watch", "--json").exit_code == 2
    assert ask("--since", "2026-01-01T00:00:00").exit_code == 2


def test_as_it_happens(add, env, connection):
    """On a terminal of its own, until Ctrl-C."""
    add("gw-a", 0, messages=1, received=1111, missing=1111)
    ours, theirs = pty.openpty()
    process = stack.spawn(
        [sys.executable, "-m", "citybeat", "ledger", "--watch"],
        env={**os.environ, **env, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""

    def wait_for(word):
        nonlocal seen
        deadline = time.monotonic() + 60
        while word not in seen:
            assert time.monotonic() < deadline, seen.decode()
            if select.select([ours], [], [], 0.2)[0]:
                seen += os.read(ours, 65_536)

    try:
        wait_for(b"1,111")
        wait_for(b"every reading has exactly one outcome")
        add("gw-a", 0, messages=1, received=2222, missing=2222)
        wait_for(b"3,333")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'citybeat ledger'")
        wait_for(b"the database is unavailable")
        add("gw-a", 0, messages=1, received=1)
        wait_for(b"NOT balanced")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
