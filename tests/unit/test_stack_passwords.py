"""Passwords, their file, and the hashes that the broker reads."""

import base64
import json
import stat
from pathlib import Path

import pytest

from citybeat.stack import StackSettings, credentials
from citybeat.stack.errors import CredentialsError
from citybeat.stack.passwords import Passwords, broker_hash, check_source_names, password_file, write_private


def test_a_hash_is_what_mosquitto_passwd_makes():
    # Line made with mosquitto_passwd 2.0.21 for the password "secret".
    made = "$7$101$K41cLLMdDvUE6R5v$EtiC7anIaqgXG+gbBqq7GPurEa2ByjIC0LDHms2Ng+aVvQe8AXycSgRUCyT1yCZgK1rTW0I4kdlPgPOtlonvPQ=="
    assert broker_hash("secret", salt=base64.b64decode(made.split("$")[3])) == made
    assert broker_hash("secret") != broker_hash("secret")


def test_passwords_are_made_once_and_kept_for_their_owner(tmp_path: Path):
    path = tmp_path / "credentials.json"
    first = Passwords(path)
    assert first.add_own()
    assert not first.add_own()
    again = Passwords(path)
    assert not again.add_own()
    assert dict(again.broker) == dict(first.broker)
    assert {"ingest", "gw-01", "gw-08"} <= set(again.broker)
    assert {"postgres", "citybeat", "grafana"} <= set(again.database)
    assert len(set(again.broker.values())) == len(again.broker)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_damaged_file_is_an_error_and_stays(tmp_path: Path):
    path = tmp_path / "credentials.json"
    for text in ("{", "[]", '{"database": {}}', json.dumps({"database": [], "broker": {}})):
        path.write_text(text)
        with pytest.raises(CredentialsError, match="damaged"):
            Passwords(path)
        assert path.read_text() == text


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a:b", "ä", ".x", "-x", "x" * 65, "a b", "a\n"])
def test_what_cannot_be_a_level_of_a_topic_cannot_be_a_source(name: str):
    with pytest.raises(CredentialsError, match="cannot be a source"):
        check_source_names([name])


@pytest.mark.parametrize("name", ["provision", "ingest", "admin"])
def test_reserved_names_are_refused(name: str):
    with pytest.raises(CredentialsError, match="reserved"):
        check_source_names(["gw-01", name])


def test_users_of_a_given_broker_are_not_ours_to_make(tmp_path: Path):
    with pytest.raises(CredentialsError, match="CITYBEAT_MQTT_URL"):
        credentials(StackSettings(home=tmp_path / "home", mqtt_url="mqtt://x"), ["gw-01"])
    assert not (tmp_path / "home").exists()


def test_without_a_broker_users_are_made_for_its_start(tmp_path: Path):
    settings = StackSettings(home=tmp_path / "home")
    made = credentials(settings, ["north", "south"])
    assert set(made) == {"north", "south"}
    assert credentials(settings, ["south"]) == {"south": made["south"]}


def test_a_password_file_has_a_line_a_user_and_no_password():
    text = password_file({"b": "two", "a": "one"})
    assert [line.split(":")[0] for line in text.splitlines()] == ["a", "b"]
    assert "one" not in text.replace("a:", "")


def test_a_private_file_is_replaced_as_a_whole(tmp_path: Path):
    path = tmp_path / "f"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
