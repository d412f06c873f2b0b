"""Recomputation of `readings_1m` from raw, increases of counters, and marks of quarter-hours.

Invariant: every function works inside the caller's transaction, which holds the advisory locks of the sources whose series it
changes (`storage/db/source_locks.py`), and took them in an earlier statement. So no other transaction changes these series
meanwhile, and a statement here sees all that was committed before. The formulas are those of `devices.aggregate`; SQL only finds
the rows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.aggregate import downsample
from citybeat.devices.batch import FOREVER, MINUTE, NEVER, Batch, Bools, Float64, Int32, Int64, Partials
from citybeat.devices.catalogue import KIND_CODES, Kind
from citybeat.devices.clock import MIN_US, TICK, minute_of
from citybeat.devices.flags import is_bad
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, only
from citybeat.storage.db.packed import Array, unpack
from citybeat.storage.db.pgcopy import RowFormat, Type

_SQL: Final = sql.load("rollup")
_PARTIALS: Final = RowFormat(
    series_id="int4",
    bucket="timestamptz",
    n="int4",
    n_bad="int4",
    vmin="float8",
    vmax="float8",
    first_at="timestamptz",
    vfirst="float8",
    last_at="timestamptz",
    vlast="float8",
    s1="float8",
    s2="float8",
)
_KEYS: Final = RowFormat(series_id="int4", bucket="timestamptz")
_TOUCHED: Final[Mapping[str, Type | None]] = {"series_id": "int4", "first": "timestamptz", "last": "timestamptz"}
_NEXT: Final[Mapping[str, Type | None]] = {"place": "int8", "time": "timestamptz"}
_STATE: Final[Mapping[str, Type | None]] = {"series_id": "int4", "good_at": "timestamptz", "good_value": "float8"}
_RAW: Final[Mapping[str, Type | None]] = {"series_id": "int4", "time": "timestamptz", "value": "float8", "flags": "int2"}
QUARTER: Final = 15 * MINUTE
_HOUR: Final = 60 * MINUTE
_DAY: Final = 24 * _HOUR
#: us. Distances within which a counter's neighbouring reading is searched, one after the other; after the last, all of history. A
#: statement is planned for every chunk in its bounds (0.04 ms each, 0.2 for a new connection), and chunks may be as short as an
#: hour: two hours have three of them, a week has 168. Nearly every counter has a reading within the first distance.
_REACHES: Final = (2 * _HOUR, _DAY, 14 * _DAY)


def prepare(connection: Connection) -> None:
    """Create the temporary tables that the functions below need, unless this connection has them."""
    connection.execute(_SQL["temporary_tables"])


def no_exclusion(connection: Connection) -> None:
    """Let look-ups by key read every chunk that the planner left, to the end of the transaction: that is faster."""
    connection.execute(_SQL["no_exclusion"])


def encode_partials(partials: Partials, rows: Int64 | None = None) -> Iterator[bytes]:
    """One-minute partials, or those of these rows, as COPY BINARY, block by block (`RowFormat.blocks`)."""
    columns = {name: getattr(partials, "series" if name == "series_id" else name) for name in _PARTIALS.columns}
    return _PARTIALS.blocks(rows, **columns)


def mark(connection: Connection, series: Int32, bucket: Int64) -> None:
    """Mark the quarter-hours of minutes that this transaction changed; the minutes are sorted by series."""
    quarter = bucket // QUARTER
    order = np.argsort(quarter, kind="stable")  # keeps the series of each quarter-hour in order
    series, quarter = series[order], quarter[order]
    new = np.concatenate([[True], (quarter[1:] != quarter[:-1]) | (series[1:] != series[:-1])])
    series, quarter = series[new], quarter[new]
    starts = np.flatnonzero(np.concatenate([[True], quarter[1:] != quarter[:-1]]))
    connection.execute(
        _SQL["mark"],
        {
            "series": Array(series),
            "quarters": Array(quarter[starts] * QUARTER),
            "starts": Array(starts),
            "stops": Array(np.append(starts[1:], len(series))),
        },
    )


def counters_state(connection: Connection, new: Batch, kind: NDArray[np.int8]) -> tuple[Float64 | None, Int64]:
    """Read the last good values of a batch's counters before it.

    Parameters
    ----------
    connection : Connection
    new : Batch
        New readings, sorted by series and time, that `latest` does not include yet.
    kind : (s,) int8

    Returns
    -------
    before : (s,) float64 or None
        As `devices.aggregate.downsample` takes it.
    late : (s,) int64
        By series id, the time (us) of a counter's newest good reading, if a new good one is older; NEVER for all other series.
    """
    late = np.full(len(kind), NEVER, np.int64)
    rows = np.flatnonzero((kind[new.series] == KIND_CODES[Kind.COUNTER]) & ~is_bad(new.flags))
    if len(rows) == 0:
        return None, late
    series = new.series[rows]
    earliest = np.concatenate([[True], series[1:] != series[:-1]])  # good row of each counter
    known = _packed(connection, "counters_state", {"series": Array(series[earliest])}, _STATE, prepare=None)
    good_at, before = np.full(len(kind), NEVER, np.int64), np.full(len(kind), np.nan)
    good_at[known["series_id"]] = known["good_at"]
    before[known["series_id"]] = known["good_value"]
    behind = series[earliest][new.time[rows[earliest]] <= good_at[series[earliest]]]
    late[behind] = good_at[behind]
    return before, late


def replace_late(connection: Connection, partials: Partials, late: Int64, kind: NDArray[np.int8]) -> None:
    """Recompute the minutes of counters whose new readings came between stored ones, and of the good readings behind them.

    Parameters
    ----------
    connection : Connection
    partials : Partials
        Those of the new readings of these counters.
    late : (s,) int64
        As `counters_state` returns it.
    kind : (s,) int8
    """
    no_exclusion(connection)
    # Every reading of a touched minute is read, so only the last new one can have its successor elsewhere.
    between = (partials.n > 0) & (partials.last_at < late[partials.series])
    _touch(connection, partials.series, partials.bucket)
    _touch_next(connection, partials.series[between], partials.last_at[between], int(late[partials.series].max()))
    replace_touched(connection, kind)


def replace_changed(connection: Connection, changed: Batch, kind: NDArray[np.int8]) -> None:
    """Recompute the minutes of readings whose values changed; of a counter also the minute of the next good reading.

    Parameters
    ----------
    connection : Connection
    changed : Batch
        The readings as they are stored now.
    kind : (s,) int8
        Kind of each series, by id.
    """
    no_exclusion(connection)
    counter = kind[changed.series] == KIND_CODES[Kind.COUNTER]
    _touch(connection, changed.series, changed.time // MINUTE * MINUTE)
    _touch_next(connection, changed.series[counter], changed.time[counter], int(FOREVER))
    replace_touched(connection, kind)


def replace_range(
    connection: Connection, series: Sequence[int], start: datetime, stop: datetime, kind: NDArray[np.int8], *, last: bool = True
) -> int:
    """Recompute the minutes of these series in [start, stop), both whole minutes, and mark their quarter-hours.

    Parameters
    ----------
    connection : Connection
    series : sequence of int
        Ids.
    start, stop : datetime
    kind : (s,) int8
        Kind of each series, by id.
    last : bool
        No later range will be recomputed: include the minute of each counter's first good reading behind this one.

    Returns
    -------
    int
        As `replace_touched`.
    """
    no_exclusion(connection)
    bounds = {"series": list(series), "start": start, "stop": stop}
    connection.execute(_SQL["touch_range"], bounds, prepare=False)
    if last:
        # By the newest reading of any kind, since flags in `latest` may be outdated.
        row = only(connection, _SQL["counters_after"], bounds)
        if row[0] is not None:
            behind = {"series": row[0], "stop": stop, "newest": row[1], **sql.JUDGES}
            connection.execute(_SQL["touch_after"], behind, prepare=False)
    return replace_touched(connection, kind)


def replace_touched(connection: Connection, kind: NDArray[np.int8]) -> int:
    """Recompute the minutes in `touched_1m` from raw, mark their quarter-hours, and empty the table.

    Parameters
    ----------
    connection : Connection
    kind : (s,) int8
        Kind of each series, by id.

    Returns
    -------
    int
        Number of minutes that changed, if only by rounding, or were missing; deleted ones are not counted.
    """
    touched = _packed(connection, "touched_series", {}, _TOUCHED)
    if len(touched["series_id"]) == 0:
        return 0
    for rows in by_day(touched["first"]):
        series, first = touched["series_id"][rows], touched["first"][rows]
        counter = kind[series] == KIND_CODES[Kind.COUNTER]
        begins = np.full(len(kind), NEVER, np.int64)
        begins[series[counter]] = first[counter]
        oldest = int(first.min())
        partials = downsample(_read_touched(connection, oldest, int(touched["last"][rows].max()) + MINUTE, begins), kind)
        # The minute of the good reading before belongs to another day, and is incomplete here.
        _copy(connection, "copy_recomputed", encode_partials(take(partials, partials.bucket >= oldest)))
    replaced = connection.execute(_SQL["replace_1m"]).rowcount
    unfounded = connection.execute(_SQL["unfounded"]).fetchall()
    connection.cursor().executemany(_SQL["delete_minute"], [{"series": series, "bucket": bucket} for series, bucket in unfounded])
    connection.execute(_SQL["mark_touched"])
    connection.execute(_SQL["forget_touched"])
    return replaced


def _touch(connection: Connection, series: Int32, bucket: Int64) -> None:
    _copy(connection, "copy_touched", _KEYS.blocks(series_id=series, bucket=bucket))


def _touch_next(connection: Connection, series: Int32, after: Int64, last: int) -> None:
    """Touch the minute of the first good reading behind each of these, up to `last`: its increase depends on the one before."""
    nearest = np.full(len(series), FOREVER, np.int64)
    for day in by_day(after):
        rest, oldest = day, int(after[day].min())
        for reach in (*_REACHES, int(FOREVER)):
            if len(rest) == 0 or oldest >= last:
                break
            newest = min(int(after[day].max()) + reach, last)
            bounds = {"oldest": _timestamp(oldest), "newest": _timestamp(newest)}
            keys = {"series": Array(series[rest]), "after": Array(after[rest])}
            found = _packed(connection, "next_good", {**keys, **bounds, **sql.JUDGES}, _NEXT)
            nearest[rest[found["place"]]] = found["time"]
            rest, oldest = rest[nearest[rest] == FOREVER], newest
    there = nearest < FOREVER
    _touch(connection, series[there], nearest[there] // MINUTE * MINUTE)


def _read_touched(connection: Connection, oldest: int, newest: int, begins: Int64) -> Batch:
    """Read the readings of the touched minutes, which lie in [oldest, newest), and of counters the last good ones before.

    `begins` has the first touched minute of each counter by series id, and NEVER for the others.
    """
    floor, counters = _back(oldest, _REACHES[0]), np.flatnonzero(begins > NEVER).astype(np.int32)
    bounds = {"oldest": _timestamp(oldest), "newest": _timestamp(newest), "floor": _timestamp(floor)}
    parts = [_packed(connection, "read_touched", {**bounds, "counters": Array(counters), **sql.JUDGES}, _RAW)]
    batch = _batch(parts[0])
    settled = batch.series[~is_bad(batch.flags) & (batch.time < begins[batch.series])]
    # No good reading within the first distance of the first touched minute: the last one, if any, is farther back.
    rest = np.setdiff1d(counters, settled)
    for reach in (*_REACHES[1:], int(FOREVER)):
        if len(rest) == 0:
            break
        before, floor = floor, _back(oldest, reach)
        bounds = {"floor": _timestamp(floor), "before": _timestamp(before)}
        parts.append(_packed(connection, "read_before", {"series": Array(rest), **bounds, **sql.JUDGES}, _RAW))
        rest = np.setdiff1d(rest, parts[-1]["series_id"])
    if len(parts) == 1:
        return batch
    both = _batch({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return both.take(np.lexsort((both.time, both.series)))


def _back(us: int, reach: int) -> int:
    return int(NEVER) if reach == FOREVER else max(us - reach, MIN_US)


def whole_minutes(start: datetime, stop: datetime) -> tuple[datetime, datetime]:
    """Extend the period [start, stop) to whole minutes."""
    return minute_of(start), minute_of(stop - TICK) + timedelta(minutes=1)


def by_day(us: Int64) -> list[Int64]:
    """Group rows by the day of these times.

    The cost of a look-up by key grows with the number of chunks in the statement's bounds, for every key (0.4 ms with 168);
    readings that a sensor held back for months would take minutes in one piece. Nearly every batch is of one day.
    """
    day = us // _DAY
    return [np.flatnonzero(day == each) for each in np.unique(day)]


def take(partials: Partials, rows: Bools | Int64) -> Partials:
    """Select the partials of these rows."""
    return Partials(**{name: getattr(partials, name)[rows] for name in Partials.__dataclass_fields__})


def _batch(raw: dict[str, NDArray[np.generic]]) -> Batch:
    n = len(raw["time"])
    return Batch(
        time=raw["time"].astype(np.int64),
        received_at=np.zeros(n, np.int64),
        series=raw["series_id"].astype(np.int32),
        value=raw["value"].astype(np.float64),
        flags=raw["flags"].astype(np.int16),
        message=np.zeros(n, np.int32),
        index=np.zeros(n, np.int32),
    )


def _packed(
    connection: Connection,
    name: str,
    parameters: dict[str, object],
    columns: Mapping[str, Type | None],
    *,
    prepare: bool | None = False,
) -> dict[str, NDArray[Any]]:
    # Planned anew each time: bounds must be constants, or the plan has every chunk of the table.
    return unpack(only(connection.cursor(binary=True), _SQL[name], parameters, prepare=prepare), columns)


def _copy(connection: Connection, name: str, blocks: Iterable[bytes]) -> None:
    with connection.cursor().copy(_SQL[name]) as copy:
        for block in blocks:
            copy.write(block)


def _timestamp(us: int) -> str:
    """A time as the server writes it, which has more years than Python."""
    if us in {FOREVER, NEVER}:
        return "infinity" if us == FOREVER else "-infinity"
    return str(np.datetime64(us, "us")) + "Z"
