"""From payload bytes to encoded rows, in one thread, against bare orjson and arrays over the same bytes."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

from bench import workload
from ingest.decode import decode
from ingest.downsample import downsample
from ingest.message import Message
from ingest.pipeline import judge
from ingest.validate import Limits
from ingest.worker import spare_the_collector
from storage import write

#: Readings in one batch, as ingest makes them under load.
BATCH = 50_000


def measure(rounds: int = 7) -> list[dict[str, Any]]:
    """One row for each size of message: readings a second of ours and of the limit (medians), and their ratio pair by pair."""
    spare_the_collector()  # as ingest does; the limit profits as well
    listed = workload.devices(2_000)
    registry = workload.registry(listed)
    rows = []
    for reports in (100, 10, 1):
        batch = workload.messages(listed, count=BATCH // reports, reports=reports)
        ours, limits = [], []
        for _ in range(rounds + 1):  # the first round warms up
            limits.append(_timed(lambda batch=batch: _limit(batch)))
            ours.append(_timed(lambda batch=batch: _ours(batch, registry)))
        pairs = sorted(limit / our for limit, our in zip(limits[1:], ours[1:], strict=True))
        rows.append(
            {
                "name": f"hot path, messages of {reports} reports of one value",
                "ours_per_s": BATCH / sorted(ours[1:])[rounds // 2],
                "limit_per_s": BATCH / sorted(limits[1:])[rounds // 2],
                "ratio": pairs[rounds // 2],
                "limit": "orjson, and one array a column",
            }
        )
    return rows


def _ours(batch: list[Message], registry: Any) -> None:
    read = decode(batch, max_bytes=4 * 1024 * 1024)
    prepared = judge(read, np.ones(len(batch), np.int32), registry, Limits())
    rows = prepared.judged.batch
    write.encode_readings(rows)
    write.encode_partials(downsample(rows, registry.kind))


def _limit(batch: list[Message]) -> None:
    """The least that any reader of this format does: parse, and put times and values into arrays."""
    times, values = [], []
    for message in batch:
        for report in orjson.loads(message.payload)["readings"]:
            times.append(report["ts"])
            values.extend(report["values"].values())
    np.array(times, np.int64)
    np.array(values, np.float64)


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
