"""The write path alone: a workload's batches as ingest makes them, against bare COPYs of the same rows.

Ours is the whole transaction of `ingest.writing.commit.write`: everything that a batch does in the database, committed. The limits
are

- a bare COPY BINARY of the new readings, encoded before, into a table with the same key; nothing else;
- the same, and their minutes by COPY into a temporary table and one `INSERT … ON CONFLICT DO UPDATE` of every column: the least
  that keeps a rollup.

Each batch is written by all three, one after the other, each committed; so they share the machine's moods.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from uuid import uuid4

import numpy as np
from psycopg.abc import Query

from bench import scene
from bench.workload import CATCH_UP, LIVE, SINGLES, City, Shape, Traffic
from citybeat.devices.aggregate import downsample
from citybeat.devices.batch import Batch
from citybeat.devices.catalogue import builtin
from citybeat.devices.registry.snapshot import Registry
from citybeat.ingest.judging.decode import decode
from citybeat.ingest.judging.history import History
from citybeat.ingest.judging.judge import PreparedBatch, judge
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.transport.inbox import BatchSize
from citybeat.ingest.writing.commit import write
from citybeat.storage.batches.rows import encode_readings
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.connection import Connection, connect
from citybeat.storage.registry import records
from citybeat.storage.rollups import minutes

#: Batches before the first that is counted: they fill plans and caches, and late readings need a past.
WARM: Final = 4
#: Tables for the limits, and ours that each is like: same columns, same key, chunks as long.
_LIKE: Final = {"bare": "readings", "merged": "readings", "merged_1m": "readings_1m"}
_TEMPORARY: Final = "CREATE TEMPORARY TABLE incoming (LIKE readings_1m) ON COMMIT DELETE ROWS"
_COPY_BARE: Final = "COPY bare (time, received_at, value, series_id, flags) FROM STDIN (FORMAT BINARY)"
_COPY_MERGED: Final = "COPY merged (time, received_at, value, series_id, flags) FROM STDIN (FORMAT BINARY)"
_COPY_MINUTES: Final = (
    "COPY incoming (series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2) FROM STDIN (FORMAT BINARY)"
)
_MERGE: Final = """
INSERT INTO merged_1m AS r (series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2)
SELECT series_id, bucket, n, n_bad, vmin, vmax, first_at, vfirst, last_at, vlast, s1, s2 FROM incoming ORDER BY series_id, bucket
ON CONFLICT (series_id, bucket) DO UPDATE SET
    n = r.n + EXCLUDED.n, n_bad = r.n_bad + EXCLUDED.n_bad,
    vmin = least(r.vmin, EXCLUDED.vmin), vmax = greatest(r.vmax, EXCLUDED.vmax),
    first_at = least(r.first_at, EXCLUDED.first_at), last_at = greatest(r.last_at, EXCLUDED.last_at),
    vfirst = CASE WHEN EXCLUDED.first_at < r.first_at THEN EXCLUDED.vfirst ELSE r.vfirst END,
    vlast = CASE WHEN EXCLUDED.last_at > r.last_at THEN EXCLUDED.vlast ELSE r.vlast END,
    s1 = r.s1 + EXCLUDED.s1, s2 = r.s2 + EXCLUDED.s2
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Times of each batch that was counted in s, and the number of its new readings."""

    rows: list[int] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)
    merged: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Rate of ours in readings a second, by the median batch."""
        return float(np.median(np.array(self.rows) / self.ours))


class Writer:
    """Judges batches of a workload as ingest does, and writes them.

    Parameters
    ----------
    opened : scene.Scene
        With the traffic's city.
    traffic : Traffic
    """

    def __init__(self, opened: scene.Scene, traffic: Traffic) -> None:
        self._batches: Final = batches(traffic)
        self._limits: Final = Limits()
        self._writer: Final = BatchWriter(opened.url, quarantine_quota=1)
        self.registry: Final[Registry] = records.load(opened.connection, builtin())
        self._history = History.loaded(self._writer.history(len(self.registry.owner)))

    def judged(self) -> PreparedBatch:
        """Return the next batch without writing it."""
        messages = next(self._batches)
        read = decode(messages, max_bytes=1 << 22)
        ids = np.array([self.registry.sources[str(source)] for source in read.sources], np.int32)
        return judge(read, ids, self.registry, self._limits, self._history)

    def next(self) -> tuple[float, Batch]:
        """Write the next batch; return s of its transaction, and its new readings."""
        prepared = self.judged()
        began = time.perf_counter()
        with self._writer.batch(uuid4(), sorted(set(prepared.source_ids.tolist()))) as transaction:
            written = write(transaction, prepared, self.registry, self._history.time)
        took = time.perf_counter() - began
        assert written.stored is not None
        self._history.advance(written.stored, written.same_since)
        return took, written.stored

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


def batches(traffic: Traffic) -> Iterator[list[Message]]:
    """Divide a workload's messages into batches as ingest does when more wait than one batch holds."""
    size, sources = BatchSize(), traffic.city.sources
    batch: list[Message] = []
    total = 0
    for packet in traffic:
        now = time.time_ns() // 1000
        batch.append(Message(f"city/v1/{sources[packet.gateway]}/readings", packet.payload, now, False, 1, 1, 1))
        total += len(packet.payload)
        if len(batch) >= size.messages or total >= size.bytes:
            yield batch
            batch, total = [], 0


def compare(opened: scene.Scene, shape: Shape, rounds: int) -> Times:
    """Write batches three ways. Nothing else may have been stored in the scene, or ours would be the larger table."""
    traffic = Traffic(city=City(), shape=shape, start=scene.next_start(opened), boot=f"store-{shape.name}")
    make_tables(opened.connection)
    times = Times()
    with closing(Writer(opened, traffic)) as writer, closing(connect(opened.url, application="bench")) as bare:
        prepare(bare)
        for number in range(WARM + rounds):
            ours, new = writer.next()
            rows = list(encode_readings(new))
            partials = list(minutes.encode_partials(downsample(new, writer.registry.kind)))
            copied = timed(bare, partial(copy, bare, _COPY_BARE, rows))
            merged = timed(bare, partial(merge, bare, rows, partials))
            if number >= WARM:
                times.rows.append(len(new))
                times.ours.append(ours)
                times.copied.append(copied)
                times.merged.append(merged)
    return times


def make_tables(connection: Connection) -> None:
    """Make the limits' tables, unless they are there: a second workload finds as many rows in them as in ours."""
    for table, like in _LIKE.items():
        scene.make_like(connection, table, like)


def prepare(connection: Connection) -> None:
    """Prepare a connection for `merge`."""
    connection.execute(_TEMPORARY)


def timed(connection: Connection, work: Callable[[], None]) -> float:
    """Return s of a transaction."""
    began = time.perf_counter()
    with connection.transaction():
        work()
    return time.perf_counter() - began


def copy(connection: Connection, statement: Query, rows: Iterable[bytes]) -> None:
    """Write rows by one COPY."""
    with connection.cursor().copy(statement) as into:
        for block in rows:
            into.write(block)


def merge(connection: Connection, rows: Iterable[bytes], partials: Iterable[bytes]) -> None:
    """Write rows and minutes by the bare COPY and merge."""
    copy(connection, _COPY_MERGED, rows)
    copy(connection, _COPY_MINUTES, partials)
    connection.execute(_MERGE)


def rows_of(shape: Shape, times: Times) -> list[dict[str, Any]]:
    """Make the rows for the table and JSON."""
    rows = np.array(times.rows)
    return [
        {
            "name": f"store, {shape.name}",
            "ours_per_s": times.per_s,
            "limit_per_s": float(np.median(rows / limit)),
            "ratio": float(np.median(np.array(limit) / times.ours)),
            "limit": what,
        }
        for limit, what in (
            (times.copied, "a bare COPY of the same rows"),
            (times.merged, "a bare COPY of the same rows, and their minutes merged"),
        )
    ]


def measure(
    running: scene.Servers, rounds: int = 12, shapes: tuple[Shape, ...] = (LIVE, CATCH_UP, SINGLES)
) -> list[dict[str, Any]]:
    """Measure each workload: two rows, one for each limit, with the median of the ratios batch by batch."""
    found = []
    for shape in shapes:
        with scene.opened(running, City().registrations()) as opened:
            found += rows_of(shape, compare(opened, shape, rounds))
    return found
