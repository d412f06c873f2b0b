"""The servers from `compose.yaml`, where a Docker engine answers.

Only the command lines are made here, and the environment file that they read. Containers are nobody's children, so the
supervisor of such a stack has no programs, and one command to run when nobody uses the servers any more.
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
ENGINE_PATIENCE = 3.0  # seconds: an engine on this machine answers in milliseconds, an unreachable one not at all
START_PATIENCE = 180  # seconds for the health checks, images already there; pulling them is not counted

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run(argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)


def engine_answers() -> bool:
    """Whether there is a Docker engine with Compose, and our compose.yaml (an installed wheel has none)."""
    if not COMPOSE_FILE.exists() or shutil.which("docker") is None:
        return False
    for command in (["docker", "version", "--format", "{{.Server.Version}}"], ["docker", "compose", "version"]):
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=ENGINE_PATIENCE)
        except (OSError, subprocess.TimeoutExpired):
            return False
        if done.returncode != 0:
            return False
    return True


def compose(home: Home, *arguments: str) -> list[str]:
    """A `docker compose` command line for one home; every home is a project of its own, so homes run side by side."""
    project = "citybeat-" + hashlib.sha256(str(home.path).encode()).hexdigest()[:8]
    base = ["docker", "compose", "--project-name", project, "--file", str(COMPOSE_FILE)]
    return [*base, "--env-file", str(home.path / "compose.env"), *arguments]


def environment(home: Home, passwords: Passwords, pg_port: int, mqtt_port: int) -> str:
    """The environment file that compose.yaml is filled in from."""
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
    """Write the environment file and the broker's users; the plan that goes with them."""
    pg_port, mqtt_port = ports.get(TIMESCALEDB, settings.pg_port), ports.get(MOSQUITTO, settings.mqtt_port)
    write_private(home.path / "compose.env", environment(home, passwords, pg_port, mqtt_port))
    mosquitto.write_users(home, None, passwords)
    return Plan(kind="docker", ports=ports, on_stop=compose(home, "down"))


def start(home: Home, names: Sequence[str], runner: Run = run) -> None:
    """Start the containers, and wait until their health checks pass.

    Raises
    ------
    ServerFailedError
        With what Compose said.
    """
    wait = ["--wait", "--wait-timeout", str(START_PATIENCE)]
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
    """What Compose says about one of the servers."""
    done = runner(compose(home, "ps", "--all", "--format", "json", name))
    # One object a line since Compose 2.21, one array before.
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
    """Write the environment file and the broker's users for `docker compose up` of the whole of compose.yaml."""
    home.make()
    passwords = Passwords(home.credentials)
    passwords.add_own()
    settings = StackSettings(home=home.path)
    write_private(target, environment(home, passwords, settings.pg_port, settings.mqtt_port))
    mosquitto.write_users(home, None, passwords)
