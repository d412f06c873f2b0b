"""Buckets of many series, from quarter-hours, minutes or raw readings; the results are the same from each, beyond rounding.

The database alone computes the start and end of a bucket (`bucket_start`, `bucket_end`; docs/rollups.md).
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, Self

import numpy as np

from citybeat.devices.aggregate import downsample
from citybeat.devices.batch import MINUTE, Batch, Bools, Float64, Int16, Int32, Int64
from citybeat.devices.catalogue import KIND_CODES, Kind
from citybeat.devices.clock import to_us
from citybeat.devices.flags import BAD, is_bad
from citybeat.storage.db import sql
from citybeat.storage.db.packed import unpack
from citybeat.storage.db.pgcopy import Type
from citybeat.storage.db.pool import ReadPool, one
from citybeat.storage.registry.selection import Selected
from citybeat.storage.rollups import buckets
from citybeat.storage.rollups.levels import Level

_SQL: Final = sql.load("series")
READINGS: Final[Mapping[str, Type | None]] = {
    "series": "int4",
    "time": "timestamptz",
    "value": "float8",
    "flags": "int2",
}
_PLACED: Final[Mapping[str, Type | None]] = {**READINGS, "began": "timestamptz", "end": "timestamptz"}


_UTC: Final = "UTC"


class Policy(enum.StrEnum):
    """Selection of readings by their flags."""

    GOOD = "good"  # those without a bad flag, as in the rollups
    ALL = "all"
    ONLY_BAD = "only_bad"  # those with a bad flag


def judging(policy: Policy) -> dict[str, Any]:
    """Parameters of statements that select readings by a policy."""
    return {"policy": policy.value, **sql.JUDGES}


class TooManyReadingsError(Exception):
    """The range has more raw readings than one answer may read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A range of buckets that begin in [start, stop), by the clocks of a zone."""

    bucket: str  # PostgreSQL interval
    length: int | None  # us; None: longer than an hour, and by the zone's clocks
    zone: str
    start: datetime
    stop: datetime

    def parameters(self) -> dict[str, Any]:
        """Parameters of statements on buckets."""
        return {"bucket": self.bucket, "zone": self.zone, "start": self.start, "stop": self.stop}


@dataclass(frozen=True, kw_only=True, slots=True)
class Buckets:
    """Rollup rows in order of series id and time, with the columns of `devices.batch.Partials`."""

    series: Int32
    time: Int64  # start of the bucket, us since 1970 UTC
    end: Int64
    received: Int32  # readings, good or bad
    n: Int32  # readings that count
    n_bad: Int32
    vmin: Float64
    vmax: Float64
    vfirst: Float64
    vlast: Float64
    s1: Float64
    s2: Float64

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: Int64 | Bools) -> Self:
        """Select rows, in this order."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """Readings of several series."""

    series: Int32
    time: Int64  # us since 1970 UTC
    value: Float64
    flags: Int16

    def __len__(self) -> int:
        return len(self.time)


async def horizons(pool: ReadPool) -> dict[Level, int | None]:
    """Read the horizon of each level, us since 1970 UTC; None: nothing was dropped."""
    async with pool.cursor() as cursor:
        await cursor.execute(_SQL["horizons"])
        return {Level(level): since for level, since in await cursor.fetchall()}


async def rollups(
    pool: ReadPool, ids: Int32, span: Span, *, level: Level, limit: int, values: Sequence[str] = buckets.VALUES
) -> Buckets:
    """Read at most `limit` buckets of good readings; buckets without readings are left out.

    Parameters
    ----------
    pool : ReadPool
    ids : (k,) int32
        Series.
    span : Span
        With a bucket that is a multiple of 15 minutes for `Level.QUARTERS`, and of one for `Level.MINUTES`.
    level : Level
        MINUTES or QUARTERS.
    limit : int
    values : sequence of str
        Members of `buckets.VALUES` that are read; the other columns are NaN.

    Raises
    ------
    StorageError
        Also from all functions below; see `ReadPool.cursor`.
    """
    minutes = span.length == MINUTE
    long = span.length is None
    chosen = tuple(values)
    statement = buckets.statement(chosen, utc=span.zone == _UTC, long=long, minutes=minutes)
    parameters = {**span.parameters(), "series": ids.tolist(), "limit": limit, "quarters": level is Level.QUARTERS}
    async with pool.cursor() as cursor:
        # Planned with its parameters: ranges of a day and of ten years need different plans. One plan serves the few minutes.
        row = await one(cursor, statement, parameters, prepare=None if minutes else False)
        found = unpack(row, buckets.columns(chosen, long=long))
    order = np.lexsort((found["time"], found["series"]))
    found = {name: column[order] for name, column in found.items()}
    if span.length is not None:
        found["end"] = found["time"] + span.length
    nothing = np.broadcast_to(np.nan, len(order))
    return Buckets(
        received=found["n"] + found["n_bad"], **{name: nothing for name in buckets.VALUES if name not in values}, **found
    )


async def from_raw(pool: ReadPool, chosen: Selected, span: Span, *, policy: Policy, limit: int) -> Buckets:
    """As `rollups`, from the raw readings that the policy selects. `n_bad` counts the bad ones under any policy.

    Parameters
    ----------
    pool : ReadPool
    chosen : Selected
    span : Span
    policy : Policy
    limit : int
        Maximum number of raw readings.

    Raises
    ------
    TooManyReadingsError
        The range has more.
    """
    parameters = {**span.parameters(), "series": chosen.id.tolist(), "limit": limit + 1}
    counters = chosen.id[np.array([kind is Kind.COUNTER for kind in chosen.kind], np.bool_)]
    async with pool.cursor(snapshot=True) as cursor:
        found = unpack(await one(cursor, _SQL["placed_readings"], parameters), _PLACED)
        if len(found["time"]) > limit:
            raise TooManyReadingsError
        before = None
        if len(counters):
            asked = {**judging(policy), "series": counters.tolist(), "start": span.start}
            before = unpack(await one(cursor, _SQL["before"], asked), {"id": "int4", "value": "float8"})
    return _merged(found, chosen, before, span, policy)


def _merged(found: Mapping[str, Any], chosen: Selected, before: Mapping[str, Any] | None, span: Span, policy: Policy) -> Buckets:
    bad = is_bad(found["flags"])
    counted = {Policy.GOOD: ~bad, Policy.ALL: np.ones(len(bad), np.bool_), Policy.ONLY_BAD: bad}[policy]
    n = len(bad)
    size = int(chosen.id.max(initial=0)) + 1
    kind = np.zeros(size, np.int8)
    kind[chosen.id] = [KIND_CODES[each] for each in chosen.kind]
    last = np.full(size, np.nan)
    if before is not None:
        last[before["id"]] = before["value"]
    batch = Batch(
        time=found["time"],
        received_at=found["time"],
        series=found["series"],
        value=found["value"],
        flags=np.where(counted, 0, BAD).astype(np.int16),
        message=np.zeros(n, np.int32),
        index=np.zeros(n, np.int32),
    )
    parts = downsample(batch, kind, last, bucket=found["began"])
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(found["series"]) != 0) | (np.diff(found["began"]) != 0)])[:n])
    of_bucket = np.add.reduceat(bad.astype(np.int32), starts) if n else np.empty(0, np.int32)
    made = Buckets(
        series=parts.series,
        time=parts.bucket,
        end=found["end"][starts],
        received=np.diff(np.append(starts, n)).astype(np.int32),
        n=parts.n,
        n_bad=of_bucket.astype(np.int32),
        vmin=parts.vmin,
        vmax=parts.vmax,
        vfirst=parts.vfirst,
        vlast=parts.vlast,
        s1=parts.s1,
        s2=parts.s2,
    )
    start, stop = (to_us(time) for time in (span.start, span.stop))
    return made.take((made.time >= start) & (made.time < stop))


async def readings(pool: ReadPool, ids: Int32, *, start: datetime, stop: datetime, policy: Policy, limit: int) -> Readings:
    """Read at most `limit` readings with start <= time < stop, in order of series id and time."""
    parameters = {"series": ids.tolist(), "start": start, "stop": stop, "limit": limit, **judging(policy)}
    async with pool.cursor() as cursor:
        return Readings(**unpack(await one(cursor, _SQL["readings"], parameters), READINGS))


async def grid(pool: ReadPool, span: Span, *, step: str, limit: int) -> tuple[Int64, Int64]:
    """Read the starts and ends of at most `limit` buckets, us since 1970 UTC.

    Parameters
    ----------
    pool : ReadPool
    span : Span
    step : str
        PostgreSQL interval, no longer than any bucket.
    limit : int
    """
    async with pool.cursor() as cursor:
        row = await one(cursor, _SQL["grid"], {**span.parameters(), "step": step, "limit": limit})
    columns = unpack(row, {"time": "timestamptz", "end": "timestamptz"})
    return columns["time"], columns["end"]
