"""Database of 10,000,000 readings with the API's process before it, for measuring questions and exports.

10,000 sensors, five at each of 2,000 stations: thermometers of a hundred stations report once a minute, as what a chart shows does,
all others every eleven minutes, so that a week of readings comes to ten million. Rows lie as live traffic leaves them: in order of
arrival, hour by hour, and within an hour by series, in chunks as ingest has them made. The database is kept in its
home for the next run.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import orjson

from bench import scene, workload
from citybeat import stack
from citybeat.devices.aggregate import downsample
from citybeat.devices.batch import NEVER, Batch, Int32, Int64
from citybeat.devices.catalogue import builtin
from citybeat.devices.registry.snapshot import Registry
from citybeat.stack.process import free_port
from citybeat.storage import migrate
from citybeat.storage.batches.rows import encode_readings
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.connection import Connection, connect
from citybeat.storage.registry import records
from citybeat.storage.rollups import chunks, minutes

READINGS = 10_000_000
SENSORS = 10_000
#: Headers of every request. Without compression: the database's own answer has none.
HEADERS = {"accept-encoding": "identity"}
#: Sensors that report once a minute: of this metric, at the first stations.
QUICK = 100
METRIC = "temperature"
#: us since 1970 UTC, and how long the city is watched.
START = 1_767_225_600_000_000
HOUR = 3_600_000_000
DAYS = 7
#: Days a chunk: as ingest would have them made of so many readings a day.
_DAYS_EACH = {
    table: chunks.interval(READINGS / DAYS, timedelta(days=scene.CHUNKS[table]), chunks.ROWS) / timedelta(days=1)
    for table in ("readings", "readings_1m")
}
#: Columns of a rollup, in the order of `minutes.encode_partials`.
_ROLLUP = "series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2"
#: Readings of a slow sensor: what is left of ten million.
_SLOW = (READINGS - QUICK * DAYS * 1440) / (SENSORS - QUICK)


@dataclass(frozen=True, kw_only=True, slots=True)
class City:
    """A database with readings, and an API that serves them."""

    connection: Connection
    stations: list[str]  # ids of the devices whose thermometers report once a minute
    quick: list[int]  # ids of these thermometers' series
    pid: int  # of the API's process
    http: httpx.Client  # for answers that are read as they come
    plain: HTTPConnection  # for small ones: half the client's own work (0.35 ms a request), which is not what is measured

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """Return a whole answer, over a connection that is kept."""
        sent = None if body is None else orjson.dumps(body)
        self.plain.request(method, path, sent, HEADERS if sent is None else {**HEADERS, "content-type": "application/json"})
        answer = self.plain.getresponse()
        content = answer.read()
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(content.decode())
        return content


@contextmanager
def served(home: Path) -> Iterator[City]:
    """Yield the city, filled if it is empty, with `citybeat api` as a process."""
    settings = stack.StackSettings(home=home / "bench-city-days", root=scene.root(), pg_port=0, mqtt_port=0)
    with stack.running(settings) as servers, closing(connect(servers.database_url, application="bench")) as connection:
        migrate.migrate(connection, builtin(), chunk_days={**scene.CHUNKS, **_DAYS_EACH})
        records.register(connection, workload.devices(SENSORS // len(workload.METRICS)))
        found = connection.execute(
            "SELECT device_id, id FROM series WHERE metric = %s ORDER BY device_id LIMIT %s", (METRIC, QUICK)
        ).fetchall()
        stations, quick = [row[0] for row in found], [row[1] for row in found]
        if connection.execute("SELECT FROM latest LIMIT 1").fetchone() is None:  # which is filled last
            _fill(servers.database_url, connection, records.load(connection, builtin()), quick)
        port = free_port()
        env = {
            **os.environ,
            "CITYBEAT_HOME": str(settings.home),
            "CITYBEAT_DATABASE_URL": servers.database_url,
            "CITYBEAT_MQTT_URL": servers.mqtt_url,
            "CITYBEAT_API_PORT": str(port),
            "CITYBEAT_API_ANONYMOUS": "read",
        }
        process = stack.spawn([sys.executable, "-m", "citybeat", "api"], env=env, stderr=subprocess.DEVNULL)
        try:
            with (
                httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=HEADERS, timeout=600) as http,
                closing(HTTPConnection("127.0.0.1", port, timeout=60)) as plain,
            ):
                _ready(http)
                yield City(connection=connection, stations=stations, quick=quick, pid=process.pid, http=http, plain=plain)
        finally:
            process.terminate()
            process.wait(30)


def _ready(http: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if http.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError("the API does not answer")
        time.sleep(0.05)


def _fill(url: str, connection: Connection, snapshot: Registry, quick: list[int]) -> None:
    series = np.array(sorted(snapshot.series.values()), np.int32)
    every = np.where(np.isin(series, quick), 60_000_000, round(DAYS * 24 * HOUR / _SLOW))
    connection.execute("TRUNCATE readings, readings_1m, readings_15m")
    rng = np.random.default_rng(1)
    for first in range(START, START + DAYS * 24 * HOUR, HOUR):
        batch = _hour(rng, series, every, first)
        _copy(connection, "readings (time, received_at, value, series_id, flags)", encode_readings(batch))
        for table, width in (("readings_1m", 60_000_000), ("readings_15m", 900_000_000)):
            made = downsample(batch, snapshot.kind, bucket=batch.time // width * width)
            _copy(connection, f"{table} ({_ROLLUP})", minutes.encode_partials(made))
    with closing(BatchWriter(url, quarantine_quota=1)) as store, store.batch(uuid4(), [1]) as transaction:
        none = np.full(len(snapshot.kind), NEVER, np.int64)
        transaction.merge_latest(batch, batch.time, none)  # in an hour every sensor has reported
    for table in ("readings", "readings_1m", "readings_15m", "latest", "series", "devices"):
        connection.execute(f"VACUUM ANALYZE {table}")


def _hour(rng: np.random.Generator, series: Int32, every: Int64, first: int) -> Batch:
    """Make the readings of one hour."""
    shift = np.arange(len(series)) * 7_919_000 % every  # each sensor has its own second
    before, until = (-((START + shift - at) // every) for at in (first, first + HOUR))
    before, until = np.maximum(before, 0), np.maximum(until, 0)
    counts = until - before
    which = np.repeat(np.arange(len(series)), counts)
    number: Int64 = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts) + before[which]
    at = START + shift[which] + number * every[which]
    n = len(at)
    return Batch(
        series=series[which],
        time=at,
        received_at=at + 200_000,
        value=np.round(rng.normal(20.0, 5.0, n), 2),
        flags=np.where(rng.random(n) < 0.02, 1, 0).astype(np.int16),
        message=np.zeros(n, np.int32),
        index=np.zeros(n, np.int32),
    )


def _copy(connection: Connection, into: str, rows: Iterable[bytes]) -> None:
    with connection.cursor().copy(f"COPY {into} FROM STDIN (FORMAT BINARY)") as copy:
        for block in rows:
            copy.write(block)
