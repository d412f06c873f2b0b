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

import httpx
import paho.mqtt.client as mqtt
import pytest

from citybeat import stack
from citybeat.devices.device import Device, Sensor
from citybeat.stack.process import free_port
from citybeat.storage.accounts import ledger
from citybeat.storage.db.connection import Connection, connect
from citybeat.storage.registry import records

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


def wait_for(
    condition: Callable[[], Any],
    describe: Callable[[], Any] = lambda: "",
    patience: float = PATIENCE,
    *,
    progress: Callable[[], Any] = lambda: None,
) -> None:
    """Wait until a condition holds; fail with a description of what is there instead.

    It fails when `progress` has given the same for `patience` seconds: on a loaded machine work takes longer, and still goes on.
    """
    last, deadline = progress(), time.monotonic() + patience
    while not condition():
        if (now := progress()) != last:
            last, deadline = now, time.monotonic() + patience
        assert time.monotonic() < deadline, describe()
        time.sleep(0.05)


@contextmanager
def _built(tmp_path_factory: pytest.TempPathFactory, debian_root: Path) -> Iterator[Town]:
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


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory, debian_root: Path) -> Iterator[Town]:
    """Servers with a migrated database; no process of ours runs yet."""
    with _built(tmp_path_factory, debian_root) as made:
        yield made


@pytest.fixture
def fresh_town(tmp_path_factory: pytest.TempPathFactory, debian_root: Path) -> Iterator[Town]:
    """The same for one test alone: nobody else has sent anything, under any name."""
    with _built(tmp_path_factory, debian_root) as made:
        yield made


@dataclass(frozen=True, kw_only=True)
class Service:
    """A city of two devices that have reported for some hours, an API that serves it, and a key with all scopes."""

    url: str
    key: str
    town: Town

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, debian_root: Path) -> Iterator[Service]:
    """The commands that a user starts, with what the documents' examples ask for; in a town of its own, for its ingest goes on."""
    with _built(tmp_path_factory, debian_root) as town:
        yield from _served(town)


@pytest.fixture
def service_to_spoil(tmp_path_factory: pytest.TempPathFactory, debian_root: Path) -> Iterator[Service]:
    """The same for one test alone, which may change whatever it likes."""
    with _built(tmp_path_factory, debian_root) as town:
        yield from _served(town)


def _served(town: Town) -> Iterator[Service]:
    devices = [
        Device(
            id=name,
            name=f"Station {name}",
            source="gw-docs",
            domain="environment",
            district="riverside",
            latitude=10.7769 + shift,
            longitude=106.7009,
            tags={"owner": "parks"},
            sensors=tuple(Sensor(metric=metric) for metric in ("temperature", "pm25", "precipitation")),
        )
        for name, shift in (("env-0007", 0.0), ("env-0008", 0.01))
    ]
    with town.database() as database:
        records.register(database, devices)
    ingest = town.start("ingest", "--stats")
    ingest.wait_ready()
    began = 1_767_225_600_000  # 2026-01-01T00:00:00Z
    reports = [
        {
            "device": device.id,
            "ts": began + minute * 60_000,
            "values": {"temperature": 28 + minute % 60 / 60, "pm25": 12 + minute % 7, "precipitation": 0.2 * (minute % 50 == 0)},
        }
        for device in devices
        for minute in range(0, 1440, 5)
    ]
    with connected(town, "gw-docs") as client:
        client.publish("city/v1/gw-docs/readings", json.dumps(reports), qos=1).wait_for_publish(PATIENCE)
    with town.database() as database:
        wait_for(lambda: ledger.totals(database, sources=["gw-docs"]).stored == 3 * len(reports))
    key = town.run("keys", "create", "test", "--scope", "admin").stdout.strip()
    port = free_port()
    api = town.start("api", CITYBEAT_API_PORT=str(port), CITYBEAT_API_REQUESTS_PER_MINUTE="1000000")
    made = Service(url=f"http://127.0.0.1:{port}", key=key, town=town)
    wait_for(lambda: _answers(f"{made.url}/readyz"), lambda: api.log.read_text("utf-8"))
    yield made
    # uvicorn ends itself by the signal that it got, when all is closed.
    assert [api.stop(), ingest.stop()] == [-signal.SIGTERM, 0]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
