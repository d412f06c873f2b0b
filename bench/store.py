"""The write path's transaction, against a bare COPY of the same rows into a table with the same key."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

import stack
from bench import workload
from devices.batch import NEVER, Batch
from devices.catalogue import builtin
from storage import migrate, registry, write
from storage.database import Connection, connect
from storage.store import Store

ROWS = 50_000
MINUTE = 60_000_000


def measure(home: Path, rounds: int = 5) -> list[dict[str, Any]]:
    """Live traffic (a reading in each series' minute) and catch-up (five), in rows a second."""
    listed = workload.devices(2_000)
    settings = stack.StackSettings(home=home / "bench", root=home / "root", pg_port=0, mqtt_port=0)
    with stack.running(settings) as servers, closing(connect(servers.database_url, application="bench")) as connection:
        migrate.migrate(connection, builtin(), chunk_days={"readings": 7.0, "readings_1m": 30.0})
        registry.register(connection, listed)
        snapshot = registry.load(connection, builtin())
        series = np.array(sorted(snapshot.series.values()), np.int32)
        connection.execute("DROP TABLE IF EXISTS bare")
        connection.execute("CREATE TABLE bare (LIKE readings INCLUDING ALL)")
        connection.execute("SELECT create_hypertable('bare', by_range('time', INTERVAL '7 days'), create_default_indexes => false)")
        try:
            return [_compare(servers.database_url, connection, series, snapshot.kind, shape, rounds) for shape in (1, 5)]
        finally:
            connection.execute("DROP TABLE bare")


def _compare(url: str, connection: Connection, series: Any, kind: Any, per_minute: int, rounds: int) -> dict[str, Any]:
    ours, bare = [], []
    now = time.time_ns() // 1000 // MINUTE * MINUTE
    newest = np.full(int(series.max()) + 1, NEVER, np.int64)
    with closing(Store(url, quarantine_quota=1)) as store:
        for number in range(rounds + 1):  # the first round warms up
            batch = _batch(series, now + number * 10 * MINUTE, per_minute)
            began = time.perf_counter()
            with (
                connection.transaction(),
                connection.cursor().copy(
                    "COPY bare (time, received_at, value, series_id, flags) FROM STDIN (FORMAT BINARY)"
                ) as copy,
            ):
                copy.write(write.encode_readings(batch))
            bare.append(time.perf_counter() - began)
            began = time.perf_counter()
            with store.batch(uuid4(), [1]) as transaction:
                transaction.insert(batch, newest)
                transaction.merge_rollups(batch, kind, newest)
                transaction.merge_latest(batch, batch.time)
            ours.append(time.perf_counter() - began)
    connection.execute("TRUNCATE readings, readings_1m, readings_15m, marks_15m, latest, bare")
    return {
        "name": f"store, {per_minute} readings in a series' minute",
        "ours_per_s": ROWS / sorted(ours[1:])[rounds // 2],
        "limit_per_s": ROWS / sorted(bare[1:])[rounds // 2],
        "ratio": sorted(b / o for b, o in zip(bare[1:], ours[1:], strict=True))[rounds // 2],
        "limit": "a bare COPY of the raw rows, no rollup, no latest",
    }


def _batch(series: Any, start: int, per_minute: int) -> Batch:
    minutes = ROWS // len(series) // per_minute
    times = start + np.arange(minutes * per_minute) * (MINUTE // per_minute)
    n = len(series) * len(times)
    return Batch(
        series=np.repeat(series, len(times)),
        time=np.tile(times, len(series)),
        received_at=np.full(n, start, np.int64),
        value=np.arange(n, dtype=np.float64) % 50,
        flags=np.zeros(n, np.int16),
        message=np.zeros(n, np.int32),
        index=np.arange(n, dtype=np.int32),
    )
