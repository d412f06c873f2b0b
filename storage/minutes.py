"""`readings_1m` beyond merging: counters, and minutes that are recomputed from raw.

Law: every function works inside the caller's transaction, which holds the advisory locks of the sources whose series it touches
(`storage/sources.py`) and took them in an earlier statement. So nobody else changes these series meanwhile, and a statement
here sees all that was committed before. The formulas are those of `devices.aggregate`; SQL only finds the rows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from devices.aggregate import downsample
from devices.batch import FOREVER, MINUTE, NEVER, Batch, Bools, Float64, Int32, Int64, Partials
from devices.catalogue import Kind
from devices.flags import BAD, Flag, is_bad
from devices.registry import KIND_CODES
from storage import sql
from storage.database import Connection
from storage.packed import Array, unpack
from storage.pgcopy import RowFormat, Type

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
_TOUCHED: Final = RowFormat(series_id="int4", bucket="timestamptz", after="timestamptz")
_STATE: Final[Mapping[str, Type | None]] = {"series_id": "int4", "good_at": "timestamptz", "good_value": "float8"}
_RAW: Final = RowFormat(series_id="int4", time="timestamptz", value="float8", flags="int2")
_KEYS: Final = RowFormat(series_id="int4", bucket="timestamptz")
QUARTER: Final = 15 * MINUTE
#: How far back from what is touched a counter's reading before it is looked for at first: with all of history in the statement,
#: planning alone takes 90 ms when there are 360 chunks.
_LOOK_BACK: Final = timedelta(days=7)
_FIRST: Final = datetime(1, 1, 1, tzinfo=UTC)
_JUDGES: Final = {"bad": int(BAD), "good": int(Flag.MANUAL_GOOD)}


def prepare(connection: Connection) -> None:
    """Make the temporary tables that the functions below need, unless this connection has them."""
    connection.execute(_SQL["temporary_tables"])


def encode_partials(partials: Partials, rows: Int64 | None = None) -> Iterator[bytes]:
    """One-minute partials, or those of these rows, as COPY BINARY, block by block (`RowFormat.blocks`)."""
    columns = {name: getattr(partials, "series" if name == "series_id" else name) for name in _PARTIALS.columns}
    return _PARTIALS.blocks(rows, **columns)


def mark(connection: Connection, series: Int32, bucket: Int64) -> None:
    """Mark the quarter-hours of minutes that this transaction merged, sorted by series."""
    quarter = bucket // QUARTER
    order = np.argsort(quarter, kind="stable")  # each quarter-hour's series stay in order
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
    """Where the counters of a batch stand before it.

    Parameters
    ----------
    connection : Connection
    new : Batch
        New readings, sorted by series and time, that `latest` does not know of yet.
    kind : (s,) int8

    Returns
    -------
    before : (s,) float64 or None
        As `devices.aggregate.downsample` takes it, of the series that go on in order.
    late : (s,) int64
        By series id, us of the newest good reading of a counter for which a new good one is older than that; NEVER for all others.
    """
    late = np.full(len(kind), NEVER, np.int64)
    rows = np.flatnonzero((kind[new.series] == KIND_CODES[Kind.COUNTER]) & ~is_bad(new.flags))
    if len(rows) == 0:
        return None, late
    series = new.series[rows]
    earliest = np.concatenate([[True], series[1:] != series[:-1]])  # good row of each counter
    row = connection.cursor(binary=True).execute(_SQL["counters_state"], {"series": Array(series[earliest])}).fetchone()
    assert row is not None
    known = unpack(row, _STATE)
    good_at, before = np.full(len(kind), NEVER, np.int64), np.full(len(kind), np.nan)
    good_at[known["series_id"]] = known["good_at"]
    before[known["series_id"]] = known["good_value"]
    behind = series[earliest][new.time[rows[earliest]] <= good_at[series[earliest]]]
    late[behind] = good_at[behind]
    return before, late


def replace_late(connection: Connection, partials: Partials, late: Int64, kind: NDArray[np.int8]) -> None:
    """Recompute the minutes of counters whose new readings came between others, and the minutes of the good readings behind them.

    Parameters
    ----------
    connection : Connection
    partials : Partials
        Of the new readings of those series.
    late : (s,) int64
        us of each series' newest good reading before them.
    kind : (s,) int8
    """
    connection.execute(_SQL["no_exclusion"])
    newest = late[partials.series]
    # Within a minute that is touched, every reading is looked at; so the last new one alone can have its successor elsewhere.
    between = (partials.n > 0) & (partials.last_at < newest)
    after = np.where(between, partials.last_at, FOREVER)
    touched = _TOUCHED.blocks(series_id=partials.series, bucket=partials.bucket, after=after)
    _copy(connection, "copy_touched", touched)
    if between.any():
        bounds = {"oldest": _timestamp(int(after.min())), "newest": _timestamp(int(newest.max()))}
        connection.execute(_SQL["touch_next"], {**bounds, **_JUDGES}, prepare=False)
    replace_touched(connection, kind)


def replace_changed(connection: Connection, changed: Batch, kind: NDArray[np.int8]) -> None:
    """Recompute the minutes of readings whose values changed; of a counter the minute of the next good reading as well.

    Parameters
    ----------
    connection : Connection
    changed : Batch
        As they are stored now.
    kind : (s,) int8
        Kind of each series, by id.
    """
    connection.execute(_SQL["no_exclusion"])
    counter = kind[changed.series] == KIND_CODES[Kind.COUNTER]
    after = np.where(counter, changed.time, FOREVER)
    touched = _TOUCHED.blocks(series_id=changed.series, bucket=changed.time - changed.time % MINUTE, after=after)
    _copy(connection, "copy_touched", touched)
    if counter.any():
        bounds = {"oldest": _timestamp(int(changed.time.min())), "newest": "infinity"}
        connection.execute(_SQL["touch_next"], {**bounds, **_JUDGES}, prepare=False)
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
        Nothing that follows will be recomputed: take in the minute of each counter's first good reading behind the range.

    Returns
    -------
    int
        Minutes that came out different, by rounding too, or were missing; deleted ones are not counted.
    """
    connection.execute(_SQL["no_exclusion"])
    bounds = {"series": list(series), "start": start, "stop": stop}
    connection.execute(_SQL["touch_range"], bounds, prepare=False)
    if last:
        # By the newest reading of any kind, since `latest` may not know yet which ones are good now.
        row = connection.execute(_SQL["counters_after"], bounds).fetchone()
        assert row is not None
        if row[0] is not None:
            behind = {"series": row[0], "stop": stop, "newest": row[1], **_JUDGES}
            connection.execute(_SQL["touch_after"], behind, prepare=False)
    return replace_touched(connection, kind)


def replace_touched(connection: Connection, kind: NDArray[np.int8]) -> int:
    """Make the minutes in `touched_1m` what raw says, mark their quarter-hours, and empty the table.

    Parameters
    ----------
    connection : Connection
    kind : (s,) int8
        Kind of each series, by id.

    Returns
    -------
    int
        Minutes that came out different, by rounding too, or were missing; deleted ones are not counted.
    """
    row = connection.execute(_SQL["touched_span"]).fetchone()
    assert row is not None
    if row[0] is None:
        return 0
    partials = downsample(_read_touched(connection, *row), kind)
    _copy(connection, "copy_recomputed", encode_partials(partials))
    replaced = connection.execute(_SQL["replace_1m"]).rowcount
    unfounded = connection.execute(_SQL["unfounded"]).fetchall()
    connection.cursor().executemany(_SQL["delete_minute"], [{"series": series, "bucket": bucket} for series, bucket in unfounded])
    connection.execute(_SQL["mark_touched"])
    connection.execute(_SQL["forget_touched"])
    return replaced


def _read_touched(connection: Connection, oldest: datetime, newest: datetime) -> Batch:
    """Readings of the touched minutes, which lie in [oldest, newest), and of counters the last good ones before."""
    floor = oldest - _LOOK_BACK if oldest - _FIRST > _LOOK_BACK else _FIRST
    within = _read(connection, "read_touched", {"oldest": oldest, "newest": newest, "floor": floor, **_JUDGES}, _RAW)
    counters = _read(connection, "counters_touched", {}, _KEYS)
    batch = _batch(within)
    good = np.flatnonzero(~is_bad(batch.flags))
    heads = good[np.concatenate([[True], np.diff(batch.series[good]) != 0])] if len(good) else good
    earliest = dict(zip(batch.series[heads].tolist(), batch.time[heads].tolist(), strict=True))
    touched = zip(counters["series_id"].tolist(), counters["bucket"].tolist(), strict=True)
    unsettled = [series for series, bucket in touched if earliest.get(series, bucket) >= bucket]
    if not unsettled:
        return batch
    # Nothing good within reach of the first touched minute: the last one before reaches from farther back, if there is any.
    before = _read(connection, "read_before", {"series": unsettled, "floor": floor, **_JUDGES}, _RAW)
    both = _batch({name: np.concatenate([within[name], before[name]]) for name in within})
    return both.take(np.lexsort((both.time, both.series)))


def take(partials: Partials, rows: Bools) -> Partials:
    """The partials of these rows."""
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


def _read(connection: Connection, name: str, parameters: dict[str, object], row: RowFormat) -> dict[str, NDArray[np.generic]]:
    with connection.cursor().copy(_SQL[name], parameters) as copy:
        return row.decode(b"".join(bytes(part) for part in copy))


def _copy(connection: Connection, name: str, blocks: Iterable[bytes]) -> None:
    with connection.cursor().copy(_SQL[name]) as copy:
        for block in blocks:
            copy.write(block)


def _timestamp(us: int) -> str:
    """For the server, which knows more years than Python."""
    return str(np.datetime64(us, "us")) + "Z"
