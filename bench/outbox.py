"""What telling streams costs a batch: its transaction with and without, in turn."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np

from bench import scene, workload
from citybeat import stack
from citybeat.devices.batch import NEVER, Batch
from citybeat.devices.catalogue import builtin
from citybeat.storage import migrate
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.connection import connect
from citybeat.storage.registry import records

_MINUTE: Final = 60_000_000
#: Readings a batch: of live traffic at some thousands a second, and at full speed.
_SIZES: Final = (1_000, 10_000, 50_000)


def measure(home: Path, rounds: int = 15) -> list[dict[str, Any]]:
    """A row a size of batch: readings a second with and without, medians, and their ratio pair by pair."""
    settings = stack.StackSettings(home=home / "bench", root=scene.root(), pg_port=0, mqtt_port=0)
    with stack.running(settings) as servers, closing(connect(servers.database_url, application="bench")) as connection:
        migrate.migrate(connection, builtin(), chunk_days={"readings": 7.0, "readings_1m": 30.0})
        records.register(connection, workload.devices(2_000))
        snapshot = records.load(connection, builtin())
        series = np.array(sorted(snapshot.series.values()), np.int32)
        newest = np.full(int(series.max()) + 1, NEVER, np.int64)
        rows = []
        with closing(BatchWriter(servers.database_url, quarantine_quota=1)) as store:
            for size in _SIZES:
                start = time.time_ns() // 1000 // _MINUTE * _MINUTE
                took: dict[bool, list[float]] = {False: [], True: []}
                for number in range(2 * rounds + 2):  # the first pair warms up
                    telling = number % 2 == number // 2 % 2  # with, without, without, with: neither is always first
                    batch = _batch(series, start + number * 100 * _MINUTE, size)
                    began = time.perf_counter()
                    with store.batch(uuid4(), [1]) as transaction:
                        transaction.insert(batch, newest)
                        transaction.merge_rollups(batch, snapshot.kind, newest)
                        transaction.merge_latest(batch, batch.time, newest)
                        if telling:
                            transaction.announce(batch)
                    took[telling].append(time.perf_counter() - began)
                connection.execute("TRUNCATE readings, readings_1m, readings_15m, marks_15m, latest, outbox")
                pairs = sorted(without / with_ for without, with_ in zip(took[False][1:], took[True][1:], strict=True))
                rows.append(
                    {
                        "name": f"store and tell, batches of {size}",
                        "ours_per_s": size / sorted(took[True][1:])[rounds // 2],
                        "limit_per_s": size / sorted(took[False][1:])[rounds // 2],
                        "ratio": pairs[rounds // 2],
                        "limit": "the same transaction, without telling",
                    }
                )
    return rows


def _batch(series: Any, start: int, size: int) -> Batch:
    """A reading a series and minute, sorted."""
    minutes = -(-size // len(series))
    order = np.repeat(series[: size // minutes], minutes)
    n = len(order)
    return Batch(
        series=order,
        time=start + np.tile(np.arange(minutes) * _MINUTE, n // minutes),
        received_at=np.full(n, start, np.int64),
        value=np.arange(n, dtype=np.float64) % 50,
        flags=np.zeros(n, np.int16),
        message=np.zeros(n, np.int32),
        index=np.arange(n, dtype=np.int32),
    )
