"""Scene of end-to-end measurements: servers, a city and an ingest, as they are shipped.

The servers are those of `stack/` with their configuration as it is, persistence included; ingest is `citybeat ingest`, a process
of its own. Each scene has a database of its own, which is dropped at its end.
"""

import http.client
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

from psycopg import sql

from bench.sender import forget
from bench.workload import HELD, MINUTE
from citybeat import stack
from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device
from citybeat.stack.model import MOSQUITTO, TIMESCALEDB
from citybeat.stack.process import free_port
from citybeat.storage import migrate
from citybeat.storage.db.connection import Connection, connect
from citybeat.storage.registry import records
from citybeat.storage.rollups import chunks
from citybeat.storage.rollups.chunks import Sizing

#: As settings have them.
CHUNKS = {"readings": 7.0, "readings_1m": 30.0, "readings_15m": 365.0}
_CLIENT = "bench-ingest"
_MAKE_HYPERTABLE = """
SELECT create_hypertable(
    %(table)s, by_range(column_name::name, coalesce(made.length, time_interval)),
    create_default_indexes => false, if_not_exists => true)
FROM timescaledb_information.dimensions CROSS JOIN (
    SELECT min(range_end - range_start) AS length FROM timescaledb_information.chunks
    WHERE hypertable_schema = current_schema() AND hypertable_name = %(like)s
) made
WHERE hypertable_schema = current_schema() AND hypertable_name = %(like)s
"""
#: us before now at which event time begins: so long that the fastest run does not catch up with the clock.
_BEFORE = 2880 * MINUTE
#: Longest past of a city before that: 100 million readings, 60,000 a minute, are 28 hours.
_PAST = timedelta(hours=30)
#: Devices of one registration: a city's whole file, but no more than one value of JSON can hold.
_TOGETHER = 20_000
#: s until an ingest has to be subscribed.
_START = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """Running servers."""

    settings: stack.StackSettings
    database_url: str  # of the stack's own database
    mqtt_url: str  # as ingest's user

    def pids(self) -> dict[str, int]:
        """Return the processes of the servers by their names here."""
        names = {TIMESCALEDB: "postgres", MOSQUITTO: "broker"}
        return {names[each.name]: each.pid for each in stack.status(self.settings) if each.pid is not None}

    def passwords(self, sources: Sequence[str]) -> dict[str, str]:
        """Return the passwords of sources, in this order."""
        found = stack.credentials(self.settings, sources)
        return {source: found[source] for source in sources}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A database with a registered city."""

    servers: Servers
    url: str
    connection: Connection
    place: Path  # a directory that goes with the scene


def start() -> int:
    """Return the beginning of event time, us since 1970 UTC."""
    return (time.time_ns() // 1000 - _BEFORE) // MINUTE * MINUTE


def next_start(opened: Scene) -> int:
    """Return a beginning after all stored readings, so far after them that nothing is late for it."""
    row = opened.connection.execute("SELECT extract(epoch FROM max(time))::int8 FROM latest").fetchone()
    assert row is not None
    return start() if row[0] is None else max(start(), row[0] * 1_000_000 // MINUTE * MINUTE + 2 * HELD)


def home() -> Path:
    """Return the directory of state."""
    return Path(os.environ.get("CITYBEAT_HOME", ".citybeat"))


def root() -> Path:
    """Return the directory of the servers' programs."""
    given = os.environ.get("CITYBEAT_TEST_ROOT")
    return Path(given) if given else home() / "root"


@contextmanager
def servers(name: str = "bench") -> Iterator[Servers]:
    """Run servers for the duration of the block."""
    settings = stack.StackSettings(home=home() / name, root=root(), pg_port=0, mqtt_port=0)
    with stack.running(settings) as running:
        _clear(running.database_url)
        yield Servers(settings=settings, database_url=running.database_url, mqtt_url=running.mqtt_url)


@contextmanager
def database(running: Servers) -> Iterator[str]:
    """Make a database with the schema for the duration of the block; yield its URL."""
    name = f"bench_{secrets.token_hex(4)}"
    url = urlunsplit(urlsplit(running.database_url)._replace(path=f"/{name}"))
    with closing(connect(running.database_url, application="bench")) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            with closing(connect(url, application="bench")) as own:
                migrate.migrate(own, builtin(), chunk_days=CHUNKS)
            yield url
        finally:
            _drop(connection, name)


@contextmanager
def opened(running: Servers, devices: Sequence[Device]) -> Iterator[Scene]:
    """Open a scene with these devices."""
    with (
        database(running) as url,
        closing(connect(url, application="bench")) as connection,
        tempfile.TemporaryDirectory(dir=running.settings.home) as place,
    ):
        for first in range(0, len(devices), _TOGETHER):
            records.register(connection, devices[first : first + _TOGETHER])
        # As ingest has been making them all the time; here event time begins days ago.
        longest = {table: timedelta(days=CHUNKS[table]) for table in ("readings", "readings_1m")}
        since = datetime.fromtimestamp(start() / 1e6, UTC) - _PAST
        chunks.make_ahead(connection, Sizing(longest=longest), since=since)
        # As a city that has been running: statistics of what changed last are not made while it is measured.
        for table in ("devices", "series", "sources"):
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))
        yield Scene(servers=running, url=url, connection=connection, place=Path(place))


def _clear(url: str) -> None:
    """Drop databases of measurements that were killed; they can be large. A home has one measurement at a time."""
    with closing(connect(url, application="bench")) as connection:
        for (name,) in connection.execute("SELECT datname FROM pg_database WHERE datname ~ '^bench_[0-9a-f]{8}$'").fetchall():
            _drop(connection, name)


def _drop(connection: Connection, name: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        except Exception:  # a worker of TimescaleDB is there for a moment, and only a superuser could end it
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def answers(port: int) -> bool:
    """Return whether the process at the port is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


class Ingest:
    """`citybeat ingest` as a process."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self._process = process
        self._port = port
        self._log = log
        self.said: dict[str, Any] = {}  # the newest line of its statistics
        assert process.stdout is not None
        self._reader = threading.Thread(target=self._listen, args=(process.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        """Wait until it is subscribed, and its workers know the city."""
        deadline = time.monotonic() + _START
        while not self.said.get("ready") or not answers(self._port):
            self.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"ingest is not ready:\n{self.tail()}")
            time.sleep(0.01)

    def check(self) -> None:
        """Raise if the process has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"ingest ended:\n{self.tail()}")

    def tail(self) -> str:
        """Return the end of its log."""
        return self._log.read_text("utf-8", "replace")[-3000:]

    def peaks(self) -> dict[str, int]:
        """Return the highest resident memory of service and workers, in bytes."""
        first, *others = tree(self.pid)
        return {"intake": peak(first)} | {f"worker {n}": peak(pid) for n, pid in enumerate(others)}

    def stop(self) -> None:
        """End the process by SIGTERM."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)

    def _listen(self, stream: IO[bytes]) -> None:
        for line in stream:
            self.said = json.loads(line)


def environment(scene: Scene) -> dict[str, str]:
    """Return an environment in which commands of citybeat find this scene, and nothing else."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CITYBEAT_")}
    return {
        **ours,
        "CITYBEAT_HOME": str(scene.place),
        "CITYBEAT_DATABASE_URL": scene.url,
        "CITYBEAT_MQTT_URL": scene.servers.mqtt_url,
        "CITYBEAT_CLIENT_ID": _CLIENT,
        "CITYBEAT_INGEST_PORT": "0",
    }


def make_like(connection: Connection, table: str, ours: str) -> None:
    """Make a hypertable like one of ours, unless it is there: same columns, same key, chunks as long."""
    names = sql.Identifier(table), sql.Identifier(ours)
    connection.execute(sql.SQL("CREATE TABLE IF NOT EXISTS {} (LIKE {} INCLUDING ALL)").format(*names))
    connection.execute(_MAKE_HYPERTABLE, {"table": table, "like": ours})


@contextmanager
def ingesting(scene: Scene, workers: int = 1, settings: Mapping[str, str] | None = None) -> Iterator[Ingest]:
    """Run an ingest for the duration of the block; yield it when it is ready."""
    forget(scene.servers.mqtt_url, _CLIENT)
    log, port = scene.place / "ingest.log", free_port()
    command = [sys.executable, "-m", "citybeat", "ingest", "--stats", "--workers", str(workers)]
    with log.open("wb") as stderr:
        env = {**environment(scene), "CITYBEAT_INGEST_PORT": str(port), **(settings or {})}
        process = stack.spawn(command, env=env, stdout=subprocess.PIPE, stderr=stderr)
    ingest = Ingest(process, port, log)
    try:
        ingest.wait_ready()
        yield ingest
    finally:
        ingest.stop()
        forget(scene.servers.mqtt_url, _CLIENT)


# --- processor time and memory, by the kernel's account --------------------------------------------------------------------


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue  # it has just ended
    return found


def cpu(pid: int) -> float:
    """Return s of processor time of a process and its descendants, those that ended included."""
    total = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))  # user, system, and the same of children that were waited for
    return total / os.sysconf("SC_CLK_TCK")


def peak(pid: int) -> int:
    """Return the highest resident memory of a process (VmHWM), in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
