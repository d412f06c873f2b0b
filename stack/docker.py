"""The servers from `compose.yaml`, on machines where a Docker engine answers.

This module builds command lines of Docker, and the environment file that they read. Containers are not child processes, so the plan
of the supervisor has no programs in this case, only a command to run when the servers have no users any more.
"""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from citybeat.stack import mosquitto
from citybeat.stack.errors import ServerFailedError
from citybeat.stack.model import MOSQUITTO, TIMESCALEDB, Home, ServerStatus, StackSettings
from citybeat.stack.passwords import INGEST, OWNER, READER, Passwords, write_private
from citybeat.stack.plan import Plan

COMPOSE_FILE = Path(__file__).parents[2] / "compose.yaml"  # in a checkout, beside citybeat/
ENGINE_TIMEOUT = 3.0  # seconds: an engine on this machine answers in milliseconds, an unreachable one not at all
START_TIMEOUT = 180  # seconds for the health checks; pulling images is not counted

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run(argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)


def engine_answers() -> bool:
    """True if a Docker engine with Compose answers and compose.yaml is there (an installed wheel has none)."""
    if not COMPOSE_FILE.exists() or shutil.which("docker") is None:
        return False
    for command in (["docker", "version", "--format", "{{.Server.Version}}"], ["docker", "compose", "version"]):
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=ENGINE_TIMEOUT)
        except (OSError, subprocess.TimeoutExpired):
            return False
        if done.returncode != 0:
            return False
    return True


def compose(home: Home, *arguments: str) -> list[str]:
    """A `docker compose` command line for one home. Each home is a project of its own, so that several can run side by side."""
    project = "citybeat-" + hashlib.sha256(str(home.path).encode()).hexdigest()[:8]
    base = ["docker", "compose", "--project-name", project, "--file", str(COMPOSE_FILE)]
    return [*base, "--env-file", str(home.path / "compose.env"), *arguments]


def environment(home: Home, passwords: Passwords, pg_port: int, mqtt_port: int) -> str:
    """The text of the environment file with the variables of compose.yaml."""
    passwords.add(database=("grafana-admin",))
    values = {
        "CITYBEAT_PG_PASSWORD": passwords.database[OWNER],
        "CITYBEAT_INGEST_PASSWORD": passwords.broker[INGEST],
        "CITYBEAT_GRAFANA_DB_PASSWORD": passwords.database[READER],
        "CITYBEAT_GRAFANA_ADMIN_PASSWORD": passwords.database["grafana-admin"],
        "CITYBEAT_BROKER_SECRETS": str(home.secrets),
        "CITYBEAT_PG_PORT": str(pg_port),
        "CITYBEAT_MQTT_PORT": str(mqtt_port),
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def prepare(settings: StackSettings, home: Home, passwords: Passwords, ports: dict[str, int]) -> Plan:
    """Write the environment file and the broker's users; returns the plan for them."""
    pg_port, mqtt_port = ports.get(TIMESCALEDB, settings.pg_port), ports.get(MOSQUITTO, settings.mqtt_port)
    write_private(home.path / "compose.env", environment(home, passwords, pg_port, mqtt_port))
    mosquitto.write_users(home, None, passwords)
    return Plan(kind="docker", ports=ports, on_stop=compose(home, "down"))


def start(home: Home, names: Sequence[str], runner: Run = run) -> None:
    """Start the containers, and wait until their health checks pass.

    Raises
    ------
    ServerFailedError
        A container did not become healthy; the message has the output of Compose.
    """
    wait = ["--wait", "--wait-timeout", str(START_TIMEOUT)]
    done = runner(compose(home, "up", "--detach", *wait, *names))
    if done.returncode != 0:
        logs = runner(compose(home, "logs", "--no-color", "--tail", "12", *names)).stdout
        runner(compose(home, "down"))
        raise ServerFailedError(f"docker compose could not start the servers:\n{done.stderr.strip()}\n{logs.strip()}")


def reload_users(home: Home, runner: Run = run) -> None:
    runner(compose(home, "kill", "--signal", "SIGHUP", MOSQUITTO))


def delete_data(home: Home, runner: Run = run) -> None:
    runner(compose(home, "down", "--volumes"))


def status(home: Home, name: str, port: int, runner: Run = run) -> ServerStatus:
    """State of one server, as Compose reports it."""
    done = runner(compose(home, "ps", "--all", "--format", "json", name))
    # Compose prints one object on each line since 2.21, before that an array.
    text = done.stdout.strip()
    rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    if not rows:
        return ServerStatus(name=name, state="stopped", pid=None, detail="no container")
    row = rows[0]
    if row["State"] == "running":
        return ServerStatus(name=name, state="running", pid=None, detail=f"container {row['Name']}, 127.0.0.1:{port}")
    logs = runner(compose(home, "logs", "--no-color", "--tail", "12", name)).stdout
    return ServerStatus(name=name, state="crashed", pid=None, detail=f"container {row['State']}\n{logs.strip()}")


def write_deployment(home: Home, target: Path) -> None:
    """Write the environment file and the broker's users for `docker compose up` of all services in compose.yaml."""
    home.make()
    passwords = Passwords(home.credentials)
    passwords.add_own()
    settings = StackSettings(home=home.path)
    write_private(target, environment(home, passwords, settings.pg_port, settings.mqtt_port))
    mosquitto.write_users(home, None, passwords)
