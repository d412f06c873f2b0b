"""`citybeat keys`, on a database that given servers provide."""

import re
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from citybeat.cli import app
from citybeat.commands.keys import expiry
from citybeat.devices.errors import CitybeatError
from citybeat.storage.registry import keys
from citybeat.storage.registry.keys import Scope
from citybeat.storage.registry.selection import Restriction


@pytest.fixture
def run(database, tmp_path):
    env = {
        "CITYBEAT_DATABASE_URL": database,
        "CITYBEAT_MQTT_URL": "mqtt://127.0.0.1:1",
        "CITYBEAT_HOME": str(tmp_path),
        "COLUMNS": "200",
    }

    def run(*words):
        return CliRunner().invoke(app, ["keys", *words], env=env)

    return run


def test_a_key_from_its_making_to_its_end(run, connection):
    made = run(
        "create",
        "traffic office",
        "--scope",
        "read",
        "--scope",
        "write",
        "--district",
        "north",
        "--tag",
        "owner:parks",
        "--tag",
        "n",
    )
    assert made.exit_code == 0
    key = made.stdout.strip()
    assert re.fullmatch(r"cb_[a-z0-9]{10}_[A-Za-z0-9_-]{43}", key)
    (stored,) = keys.listed(connection)
    assert stored.scopes == {Scope.READ, Scope.WRITE}
    assert stored.within == Restriction(districts=["north"], tags=[("owner", "parks"), ("n", None)])
    assert stored.expires_at is None
    assert keys.holds(connection, key)
    shown = run("list").stdout
    for word in ("traffic office", "north, owner:parks, n", "never", "in force", stored.id):
        assert word in shown
    assert key not in shown
    # By its id, or by the key itself, which is what somebody has at hand who found it in a log.
    assert run("revoke", key).exit_code == 0
    assert not keys.holds(connection, key)
    assert "revoked" in run("list").stdout
    again = run("revoke", stored.id)
    assert again.exit_code == 1
    assert "no key" in again.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--scope", "admin", "--district", "north"], "cannot be restricted"),
        (["--scope", "read", "--expires", "tomorrow"], "expected a value such as 90d"),
        (["--scope", "read", "--expires", "2027-01-01T00:00:00"], "needs an offset"),
        (["--scope", "read", "--expires", "2020-01-01T00:00:00Z"], "has passed"),
    ],
)
def test_what_no_key_is_made_of(run, connection, words, complaint):
    refused = run("create", "x", *words)
    assert refused.exit_code == 1
    assert complaint in refused.stderr
    assert keys.listed(connection) == []


def test_when_a_key_ends():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert expiry("90d", now) == datetime(2026, 4, 1, tzinfo=UTC)
    assert expiry("1y", now) == datetime(2027, 1, 1, tzinfo=UTC)
    assert expiry("2026-02-01T00:00:00+07:00", now) == datetime(2026, 1, 31, 17, tzinfo=UTC)
    with pytest.raises(CitybeatError):
        expiry("0d", now)
