"""A town of one's own for each xdist worker: servers, schema and processes, started as a user starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest

import stack
from stack.process import free_port
from storage.database import Connection, connect

#: s. Machines are shared: long enough for the slowest, and a test that is right never waits for it.
PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True)
class Town:
    """Servers that run, and the environment in which commands find them."""

    servers: stack.Servers
    settings: stack.StackSettings
    env: dict[str, str]
    logs: Path

    def run(self, *arguments: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """A command from start to end."""
        done = subprocess.run(
            [sys.executable, "-m", "citybeat", *arguments],
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done

    def start(self, *arguments: str, **env: str) -> "Process":
        """A command that goes on; it dies with the test run."""
        log = self.logs / f"{arguments[0]}-{time.monotonic_ns()}.log"
        with log.open("wb") as out:
            process = stack.spawn(
                [sys.executable, "-m", "citybeat", *arguments], env={**self.env, **env}, stdout=out, stderr=subprocess.STDOUT
            )
        return Process(process=process, log=log)

    @contextmanager
    def database(self) -> Iterator[Connection]:
        with closing(connect(self.servers.database_url, application="test")) as connection:
            yield connection

    def password(self, source: str) -> str:
        return stack.credentials(self.settings, [source])[source]


@dataclass(frozen=True, kw_only=True)
class Process:
    """A command under way."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def said(self) -> list[dict[str, Any]]:
        """The JSON lines that it printed, as far as they are complete."""
        found = []
        for line in self.log.read_text("utf-8", "replace").splitlines():
            if line.startswith("{"):
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue
        return found

    def wait_ready(self) -> None:
        """Until an ingest is subscribed."""
        wait_for(lambda: any(line.get("ready") for line in self.said()), lambda: self.log.read_text("utf-8"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextmanager
def connected(town: Town, name: str) -> Iterator[mqtt.Client]:
    """A source's connection to the broker."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set(name, town.password(name))
    client.connect("127.0.0.1", town.settings.mqtt_port)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def wait_for(condition: Callable[[], Any], describe: Callable[[], Any] = lambda: "", patience: float = PATIENCE) -> None:
    """Wait until a condition holds; fail with a description of what is there instead."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, describe()
        time.sleep(0.05)


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory, debian_root: Path) -> Iterator[Town]:
    """Servers with a migrated database; no process of ours runs yet."""
    home = tmp_path_factory.mktemp("town")
    settings = stack.StackSettings(home=home, root=debian_root, pg_port=free_port(), mqtt_port=free_port())
    env = {name: value for name, value in os.environ.items() if not name.startswith("CITYBEAT_")}
    env |= {
        "CITYBEAT_HOME": str(home),
        "CITYBEAT_ROOT": str(debian_root),
        "CITYBEAT_PG_PORT": str(settings.pg_port),
        "CITYBEAT_MQTT_PORT": str(settings.mqtt_port),
        "CITYBEAT_API_PORT": str(free_port()),
        "CITYBEAT_INGEST_PORT": "0",
    }
    with stack.running(settings) as servers:
        made = Town(servers=servers, settings=settings, env=env, logs=tmp_path_factory.mktemp("logs"))
        made.run("migrate")
        yield made
