"""Exports of any number of readings or rollups, block by block, in bounded memory.

Order: slices of time (`slices`: a chunk of the table, or seven days of one, whichever is less), in each slice series by id, and of
each series readings by time. The primary key of a chunk has this order: nothing is sorted, the first row comes at once, and each
chunk is read once. In order of series over the whole range, a series' readings would be gathered from all chunks, and every page
of the table would be read once for each series with readings on it.

Invariant: one export is one read-only transaction with one snapshot, on a pool of its own.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Int32
from citybeat.devices.catalogue import Kind
from citybeat.devices.clock import NEWEST
from citybeat.storage.db import sql
from citybeat.storage.db.packed_rows import PackedRows, joined
from citybeat.storage.db.pgcopy import Type
from citybeat.storage.db.pool import AsyncCursor, ReadPool
from citybeat.storage.registry.selection import Selection
from citybeat.storage.rollups.buckets import ROLLUP
from citybeat.storage.rollups.levels import Level

_SQL: Final = sql.load("export")

#: Approximate number of rows in a block: 3 MB of raw readings as arrays, 8 MB as CSV; blocks twice as large were no faster, and
#: took 100 MB more.
BLOCK: Final = 131_072
#: Approximate number of readings in one packed row of a series whose sensor reports as expected: some 400 kB on the wire.
_PACKED: Final = 10_000
#: Maximum length of a slice, which bounds what the server sorts for quarter-hours (10,000 series: 6.7 million rows), and of the
#: range of a packed row.
_SLICE: Final = timedelta(days=7)
#: Minimum range of a packed row, however short the expected intervals are.
_PART: Final = timedelta(hours=1)
#: s. Timeout of the export of one slice, waiting for a slow client included. 7 days of 10,000 series every minute are 100 million
#: rows: a minute of work for the database, and 15 minutes for a client that takes Parquet (4 bytes a row) at 0.5 MB/s.
STATEMENT: Final = 3600.0

_RAW: Final[Mapping[str, Type]] = {"time": "timestamptz", "value": "float8", "flags": "int2"}
_ROLLUP: Final[Mapping[str, Type]] = {"time": "timestamptz", **ROLLUP}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """Statement and tables of a level."""

    statement: str
    columns: Mapping[str, Type]
    tables: tuple[str, ...]  # their chunks bound the slices


_SOURCES: Final[Mapping[Level, _Source]] = {
    Level.RAW: _Source(statement="raw", columns=_RAW, tables=("readings",)),
    Level.MINUTES: _Source(statement="minutes", columns=_ROLLUP, tables=("readings_1m",)),
    # A marked quarter-hour may not have a chunk of its own yet.
    Level.QUARTERS: _Source(statement="quarter_hours", columns=_ROLLUP, tables=("readings_1m", "readings_15m")),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedDevice:
    """A device, as an export describes it."""

    id: str
    name: str
    domain: str
    district: str
    latitude: float | None
    longitude: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedMetric:
    """A metric, as an export describes it."""

    name: str
    unit: str  # UCUM
    kind: Kind  # as its rollups were made


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """The series of an export, by id; the rows of a block refer to their places here."""

    ids: Int32  # ascending
    device: Int32  # place in devices
    metric: Int32  # place in metrics
    devices: Sequence[ExportedDevice]
    metrics: Sequence[ExportedMetric]
    fastest: float  # s, the shortest expected interval; infinite: unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Rows in the export's order: arrays of one length."""

    series: NDArray[np.intp]  # place in the selection
    columns: Mapping[str, NDArray[Any]]  # raw: time, value, flags; rollups: those of series.Buckets. Times are us since 1970 UTC.


async def select(pool: ReadPool, wanted: Selection, *, limit: int) -> Exported:
    """Look up the first `limit` series of a selection, with their devices and metrics.

    Raises
    ------
    StorageError
        Also from `send`; see `ReadPool.cursor`.
    """
    async with pool.cursor() as cursor:
        rows = await (await cursor.execute(_SQL["series"], {**wanted.parameters(), "limit": limit})).fetchall()
    devices: dict[str, ExportedDevice] = {}
    metrics: dict[str, ExportedMetric] = {}
    for _, device, metric, unit, kind, _, name, domain, district, latitude, longitude in rows:
        if device not in devices:
            devices[device] = ExportedDevice(
                id=device, name=name, domain=domain, district=district, latitude=latitude, longitude=longitude
            )
        if metric not in metrics:
            metrics[metric] = ExportedMetric(name=metric, unit=unit, kind=Kind(kind))
    places = [{key: place for place, key in enumerate(table)} for table in (devices, metrics)]
    return Exported(
        ids=np.array([row[0] for row in rows], np.int32),
        device=np.array([places[0][row[1]] for row in rows], np.int32),
        metric=np.array([places[1][row[2]] for row in rows], np.int32),
        devices=list(devices.values()),
        metrics=list(metrics.values()),
        fastest=min((row[5] for row in rows if row[5]), default=np.inf),
    )


async def send(
    pool: ReadPool,
    selection: Exported,
    level: Level,
    *,
    start: datetime,
    stop: datetime,
    sink: Callable[[Block], Awaitable[None]],
) -> None:
    """Pass all rows with start <= time < stop to `sink`, block by block.

    Cancellation, or an error of `sink`, stops the query in the database at once.
    """
    source = _SOURCES[level]
    if not len(selection.ids):
        return
    async with pool.cursor(snapshot=True) as cursor:
        await cursor.execute(_SQL["prepare"])
        await cursor.execute(_SQL["chunks"], {"tables": list(source.tables), "start": start, "stop": stop})
        ranges = await cursor.fetchall()
        waiting: list[tuple[int, Mapping[str, NDArray[Any]]]] = []
        rows = 0
        for begin, end in slices(ranges, start, stop):
            parameters = {
                "series": selection.ids.tolist(),
                "start": begin,
                "stop": end,
                "part": _part(selection, level),
            }
            waiting, rows = await _slice(cursor, source, parameters, selection, waiting, rows, sink)
        if waiting:
            await sink(_block(waiting, selection))


async def _slice(
    cursor: AsyncCursor,
    source: _Source,
    parameters: Mapping[str, Any],
    selection: Exported,
    waiting: list[tuple[int, Mapping[str, NDArray[Any]]]],
    rows: int,
    sink: Callable[[Block], Awaitable[None]],
) -> tuple[list[tuple[int, Mapping[str, NDArray[Any]]]], int]:
    """Read one slice with one statement; rows of small slices are collected until a block is full."""
    packed = PackedRows(source.columns)
    # COPY takes no parameters: the driver writes these numbers and times of ours into the statement.
    async with cursor.copy(_SQL[source.statement], parameters) as copy:
        async for message in copy:
            row = packed.read(message)
            if row is None:
                continue
            waiting.append(row)
            rows += len(row[1]["time"])
            if rows >= BLOCK:
                await sink(_block(waiting, selection))
                waiting, rows = [], 0
    return waiting, rows


def _block(rows: Sequence[tuple[int, Mapping[str, NDArray[Any]]]], selection: Exported) -> Block:
    ids, columns = joined(rows, "time")
    return Block(series=np.searchsorted(selection.ids, ids), columns=columns)


def _part(selection: Exported, level: Level) -> timedelta:
    """Choose the range of a packed row."""
    seconds = {Level.RAW: selection.fastest, Level.MINUTES: 60.0, Level.QUARTERS: 900.0}[level]
    return timedelta(seconds=round(min(max(seconds * _PACKED, _PART.total_seconds()), _SLICE.total_seconds())))


def slices(ranges: Sequence[tuple[datetime, datetime]], start: datetime, stop: datetime) -> list[tuple[datetime, datetime]]:
    """Divide the part of [start, stop) that chunks cover, at the ends of every chunk and after seven days.

    Parameters
    ----------
    ranges : sequence of pairs
        Ranges of chunks, in order of their starts; those of several tables may overlap.

    Examples
    --------
    >>> day = [datetime(2026, 1, d, tzinfo=UTC) for d in range(1, 32)]
    >>> [(a.day, b.day) for a, b in slices([(day[0], day[10]), (day[3], day[5]), (day[20], day[25])], day[1], day[23])]
    [(2, 4), (4, 6), (6, 11), (21, 24)]
    """
    edges = sorted({min(max(edge, start), stop) for pair in ranges for edge in pair})
    out = []
    reach = datetime(1, 1, 1, tzinfo=UTC)
    beginnings = iter([*ranges, (NEWEST, reach)])
    begin, end = next(beginnings)
    for left, right in pairwise(edges):
        while begin <= left:
            reach = max(reach, end)
            begin, end = next(beginnings)
        if reach < right:
            continue
        while left < right:
            cut = min(left + _SLICE, right) if right - left > _SLICE else right
            out.append((left, cut))
            left = cut  # noqa: PLW2901 - the rest of the same piece
    return out
