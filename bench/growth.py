"""Growth of cost with the number of series, of stored readings, and of workers.

Each size is measured with live traffic (docs/performance.md): readings a second from end to end, processor time of a million of
them, by process, the highest resident memory of ingest, and the store's transaction alone. Each is compared with the first size of
its list, in the same run: `cost` is the cost of a reading as a multiple of its cost there.

- *series*: cities of so many series, with empty tables.
- *stored*: the city of 60,000 series with so many readings behind it, as live traffic leaves them: a minute apart, with a row of
  the rollup each, in chunks as ingest has them made. Live traffic goes on at the beginning of an hour, and so of a chunk, and
  fills most of it; on a server whose memory and log have been used before.
- *workers*: as many processes of ingest.
"""

import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final
from uuid import uuid4

import numpy as np
from psycopg import sql
from psycopg.abc import Query

from bench import end_to_end, scene, store
from bench.sender import prepare
from bench.workload import LIVE, METRICS_EACH, MINUTE, City, Traffic
from citybeat.devices.aggregate import downsample
from citybeat.devices.batch import NEVER, Batch, Int32
from citybeat.devices.catalogue import builtin
from citybeat.storage.batches.rows import Tally, encode_readings
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.connection import Connection
from citybeat.storage.registry import records
from citybeat.storage.rollups.minutes import QUARTER, encode_partials

SERIES: Final = (1_000, 10_000, 100_000, 1_000_000)
STORED: Final = (1_000_000, 10_000_000)
ALL_STORED: Final = (*STORED, 100_000_000)
WORKERS: Final = (1, 2, 3)
#: us between two readings of the stored past.
_EVERY: Final = MINUTE
_HOUR: Final = 60 * MINUTE
#: Readings that are written, and dropped, before the first size: memory that a new server has not touched, and log files that it
#: has yet to make, would else be paid for by the first.
_BEFORE: Final = 8_000_000
_INTO: Final = "COPY readings (time, received_at, value, series_id, flags) FROM STDIN (FORMAT BINARY)"
_ROLLUP: Final = "(series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2) FROM STDIN (FORMAT BINARY)"
_INTO_1M: Final[Query] = f"COPY readings_1m {_ROLLUP}"
_INTO_15M: Final[Query] = f"COPY readings_15m {_ROLLUP}"
#: Batches of the store alone.
_ROUNDS: Final = 8


def city_of(series: int) -> City:
    """Make a city of so many series, as near as shares allow."""
    city = City(devices=100)
    return City(devices=max(1, round(series / METRICS_EACH / city.devices)) * city.devices)


def series(running: scene.Servers, sizes: Sequence[int] = SERIES, seconds: float = 8.0) -> list[dict[str, Any]]:
    """Measure each number of series: a row each."""
    rows: list[dict[str, Any]] = []
    for size in sizes:
        city = city_of(size)
        with scene.opened(running, city.registrations()) as opened:
            rows.append(_measured(f"{size:,} series", opened, city, seconds, rows))
    return rows


def stored(running: scene.Servers, sizes: Sequence[int] = STORED, seconds: float = 20.0) -> list[dict[str, Any]]:
    """Measure each number of stored readings: a row each."""
    city, rows = City(), list[dict[str, Any]]()
    with scene.opened(running, city.registrations()) as opened:
        _Past(opened).fill(_BEFORE)
    with scene.opened(running, city.registrations()) as opened:
        past = _Past(opened)
        for size in sizes:
            past.fill(size)
            rows.append(_measured(f"{size:,} stored readings", opened, city, seconds, rows, boot=f"stored-{size}"))
    return rows


def workers(running: scene.Servers, counts: Sequence[int] = WORKERS, seconds: float = 8.0) -> list[dict[str, Any]]:
    """Measure each number of workers: a row each."""
    city, rows = City(), list[dict[str, Any]]()
    for count in counts:
        with scene.opened(running, city.registrations()) as opened:
            rows.append(_measured(f"{count} worker(s)", opened, city, seconds, rows, workers=count))
    return rows


def _measured(
    name: str,
    opened: scene.Scene,
    city: City,
    seconds: float,
    before: Sequence[dict[str, Any]],
    *,
    workers: int = 1,
    boot: str = "growth",
) -> dict[str, Any]:
    # The store alone first, then the whole way, in the chunk after it.
    with closing(store.Writer(opened, Traffic(city=city, shape=LIVE, start=_next_hour(opened), boot=f"{boot}-store"))) as writer:
        took = [writer.next() for _ in range(store.WARM + _ROUNDS)][store.WARM :]
    alone = float(np.median([1e6 * spent / len(new) for spent, new in took]))
    traffic = Traffic(city=city, shape=LIVE, start=_next_hour(opened), boot=boot)
    readings = round((seconds + end_to_end.RAMP) * end_to_end.MOST["live"])
    payloads = prepare(opened.place / "packets", traffic, city.sources, readings=readings)
    result = end_to_end.run(opened, traffic, payloads, seconds=seconds, workers=workers)
    spent = {each: used / result.seconds / result.stored_per_s * 1e6 for each, used in result.cpu.items()}
    row: dict[str, Any] = {
        "name": f"growth, {name}",
        "ours_per_s": result.stored_per_s,
        "cpu_s_per_million": spent,
        "store_us": alone,  # a reading
        "rss": sum(result.peaks.values()),
        "largest_rss": result.rss,
        "wrong": list(result.wrong),
    }
    first = before[0] if before else row
    row["ratio"] = row["ours_per_s"] / first["ours_per_s"]
    row["cost"] = sum(spent.values()) / sum(first["cpu_s_per_million"].values())
    row["store_cost"] = alone / first["store_us"]
    row["limit"] = "the first size of the list" if before else "itself"
    print(f"measured {name}", file=sys.stderr)
    return row


def _next_hour(opened: scene.Scene) -> int:
    """Return the beginning of the first hour without readings, which is the beginning of a chunk of this city."""
    return -(-scene.next_start(opened) // _HOUR) * _HOUR


class _Past:
    """Stored readings older than the live traffic, written as fast as COPY takes them; the ledger agrees with them."""

    def __init__(self, opened: scene.Scene) -> None:
        self._url: Final = opened.url
        self._connection: Final[Connection] = opened.connection
        snapshot = records.load(opened.connection, builtin())
        self._kind: Final = snapshot.kind
        series = np.array(sorted(snapshot.series.values()), np.int32)
        owner = snapshot.owner[series]
        self._gateways: Final = [(int(source), series[owner == source]) for source in np.unique(owner)]
        self._end: Final = (
            scene.next_start(opened) // QUARTER * QUARTER - 2 * QUARTER
        )  # a past that is soon forgotten makes no step
        self._steps = 0
        self._readings = 0

    def fill(self, readings: int) -> None:
        """Write readings until there are so many in all; newer ones are written first."""
        with closing(BatchWriter(self._url, quarantine_quota=1)) as into:
            while self._readings < readings:
                back, which = divmod(self._steps, len(self._gateways))
                self._quarter(into, self._end - back * QUARTER, *self._gateways[which])
                self._steps += 1
        for table in ("readings", "readings_1m", "readings_15m", "latest"):
            self._connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))

    def _quarter(self, into: BatchWriter, start: int, source: int, series: Int32) -> None:
        """Write a quarter-hour of a gateway."""
        count = QUARTER // _EVERY
        n = len(series) * count
        at = np.tile(start + np.arange(count) * _EVERY, len(series))
        batch = Batch(
            series=np.repeat(series, count),
            time=at,
            received_at=at,
            value=10.0 + np.arange(n) % 251 / 10,
            flags=np.zeros(n, np.int16),
            message=np.zeros(n, np.int32),
            index=np.zeros(n, np.int32),
        )
        with into.batch(uuid4(), [source]) as transaction:
            store.copy(transaction.connection, _INTO, encode_readings(batch))
            for statement, width in ((_INTO_1M, MINUTE), (_INTO_15M, QUARTER)):
                made = downsample(batch, self._kind, bucket=batch.time // width * width)
                store.copy(transaction.connection, statement, encode_partials(made))
            transaction.merge_latest(batch, batch.time, np.full(len(self._kind), NEVER, np.int64))
            transaction.add_ledger([Tally(minute=start, source=source, received=n, stored=n)], {})
        self._readings += n
