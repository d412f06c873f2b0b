"""The command lines that the Docker flavour runs; no engine is needed, and none was there when they were written."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from citybeat.stack import docker
from citybeat.stack.errors import ServerFailedError
from citybeat.stack.model import Home, StackSettings
from citybeat.stack.passwords import Passwords


class Engine:
    """Notes command lines, and answers them in order."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.lines: list[list[str]] = []
        self._answers = list(answers)

    def __call__(self, argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        self.lines.append(list(argv))
        status, text = self._answers.pop(0) if self._answers else (0, "")
        return subprocess.CompletedProcess(list(argv), status, text, text)

    @property
    def tails(self) -> list[list[str]]:
        return [line[line.index("--env-file") + 2 :] for line in self.lines]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    return home


def test_every_home_is_a_project_of_its_own(home: Home, tmp_path: Path):
    one, other = docker.compose(home, "ps"), docker.compose(Home(tmp_path / "other"), "ps")
    assert one[:3] == ["docker", "compose", "--project-name"]
    assert one[3] != other[3]
    assert Path(one[one.index("--file") + 1]).name == "compose.yaml"
    assert one[one.index("--env-file") + 1] == str(home.path / "compose.env")


def test_only_the_servers_are_started_and_waited_for(home: Home):
    engine = Engine()
    docker.start(home, ["timescaledb", "mosquitto"], engine)
    assert engine.tails == [["up", "--detach", "--wait", "--wait-timeout", "180", "timescaledb", "mosquitto"]]


def test_a_start_that_fails_is_cleared_away_and_tells_why(home: Home):
    engine = Engine((1, "port is already allocated"), (0, "the log"))
    with pytest.raises(ServerFailedError, match="port is already allocated\nthe log"):
        docker.start(home, ["timescaledb"], engine)
    assert [tail[0] for tail in engine.tails] == ["up", "logs", "down"]


def test_the_plan_stops_the_containers_and_keeps_their_data(home: Home):
    passwords = Passwords(home.credentials)
    passwords.add_own()
    settings = StackSettings(home=home.path)
    plan = docker.prepare(settings, home, passwords, {"timescaledb": 5433, "mosquitto": 1884})
    assert (plan.kind, plan.programs) == ("docker", [])
    assert plan.on_stop == docker.compose(home, "down")
    assert (home.path / "compose.env").stat().st_mode & 0o777 == 0o600
    assert f"CITYBEAT_BROKER_SECRETS={home.secrets}\n" in (home.path / "compose.env").read_text()
    assert (home.secrets / "passwd").read_text().count("$7$101$") == 9


def test_reset_deletes_the_volumes(home: Home):
    engine = Engine()
    docker.delete_data(home, engine)
    assert engine.tails == [["down", "--volumes"]]


def test_users_are_reloaded_by_a_signal(home: Home):
    engine = Engine()
    docker.reload_users(home, engine)
    assert engine.tails == [["kill", "--signal", "SIGHUP", "mosquitto"]]


def test_status_reads_what_compose_prints(home: Home):
    running = {"Name": "citybeat-1", "State": "running"}
    for text in (json.dumps(running), json.dumps([running])):
        status = docker.status(home, "mosquitto", 1884, Engine((0, text)))
        assert (status.state, status.detail) == ("running", "container citybeat-1, 127.0.0.1:1884")
    assert docker.status(home, "mosquitto", 1884, Engine((0, ""))).state == "stopped"
    exited = docker.status(home, "mosquitto", 1884, Engine((0, json.dumps({"Name": "x", "State": "exited"})), (0, "boom")))
    assert exited.state == "crashed"
    assert "boom" in exited.detail


def test_without_a_client_there_is_no_engine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    assert not docker.engine_answers()


def test_a_deployment_gets_its_environment_file_and_its_users(tmp_path: Path):
    home = Home(tmp_path / "home")
    docker.write_deployment(home, tmp_path / ".env")
    text = (tmp_path / ".env").read_text()
    docker.write_deployment(home, tmp_path / ".env")
    assert (tmp_path / ".env").read_text() == text  # the passwords stay
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert f"CITYBEAT_BROKER_SECRETS={home.secrets}\n" in text
    assert (home.secrets / "passwd").stat().st_mode & 0o777 == 0o644  # the container's user reads it; it has only hashes
