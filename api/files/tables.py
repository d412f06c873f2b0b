"""Rows of an export as CSV, as an Arrow IPC stream, or as Parquet (`api/files/uploads.py` reads them).

An encoder takes blocks in order, and returns the bytes of the file piece by piece. An incomplete file is visibly broken: Parquet
lacks its footer, Arrow its end of stream; CSV has no end mark, so the connection has to break (`api/files/download.py`).

Invariant: no I/O. An encoder is used by one thread at a time.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any, Final, Literal, Protocol

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from citybeat.api.series import aggregates
from citybeat.api.series.aggregates import Aggregate
from citybeat.devices.catalogue import Kind
from citybeat.devices.flags import Flag
from citybeat.storage.reads.export import Block, Exported
from citybeat.storage.reads.series import Buckets
from citybeat.storage.rollups.levels import Level

Format = Literal["csv", "arrow", "parquet"]
MEDIA_TYPES: Final[Mapping[Format, str]] = {
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}
#: Suffixes of file names.
SUFFIXES: Final[Mapping[Format, str]] = {"csv": "csv", "arrow": "arrows", "parquet": "parquet"}

_FLAGS: Final = {
    Flag.RANGE: "outside the plausible range; not in rollups",
    Flag.STEP: "changed faster than the metric can; not in rollups",
    Flag.STUCK: "unchanged for longer than the metric stays; not in rollups",
    Flag.SUSPECT: "plausible, but outside the suspect range",
    Flag.LATE: "arrived long after its time",
    Flag.FUTURE: "ahead of the server's clock, within tolerance",
    Flag.CLOCK: "had no time of its own: the time is that of receipt",
    Flag.MANUAL_BAD: "declared bad by an operator; not in rollups",
    Flag.MANUAL_GOOD: "declared good by an operator; wins over every other bit",
}
#: Bits of a reading's flags; a good reading has 0.
FLAGS: Final = {str(int(flag)): f"{flag.name.lower()}: {meaning}" for flag, meaning in _FLAGS.items() if flag.name}
#: Columns of rollups.
_BAD_COUNT: Final = "bad_count"
_AGGREGATES: Final = (Aggregate.COUNT, _BAD_COUNT, *(aggregate for aggregate in Aggregate if aggregate is not Aggregate.COUNT))
_COUNTS: Final = frozenset({Aggregate.COUNT, _BAD_COUNT})
_TIME: Final = pa.timestamp("us", tz="UTC")
_WORDS: Final = pa.dictionary(pa.int32(), pa.string())
_ORDER: Final = "slices of time of at most seven days; in each series by series, in each of them by time"


class Encoder(Protocol):
    """Encoder of one file."""

    def begin(self) -> bytes:
        """The first bytes."""

    def block(self, block: Block) -> bytes:
        """The bytes of a block of rows."""

    def end(self) -> bytes:
        """The last bytes, without which the file is incomplete."""


def encoder(form: Format, selection: Exported, level: Level, *, query: Mapping[str, Any], version: str) -> Encoder:
    """An encoder for the rows of this selection.

    Parameters
    ----------
    form : Format
    selection, level
        Those of the blocks.
    query : mapping
        The parameters of the request, which the schema contains as JSON.
    version : str
        The version of citybeat.
    """
    table = _Table(selection, level, query=query, version=version)
    made: Mapping[Format, Callable[[_Table], Encoder]] = {"csv": _Csv, "arrow": _Arrow, "parquet": _Parquet}
    return made[form](table)


class _Table:
    """Blocks as record batches of one schema."""

    def __init__(self, selection: Exported, level: Level, *, query: Mapping[str, Any], version: str) -> None:
        self._selection: Final = selection
        self._raw: Final = level is Level.RAW
        self._devices: Final = pa.array([device.id for device in selection.devices], pa.string())
        self._metrics: Final = pa.array([metric.name for metric in selection.metrics], pa.string())
        kinds = list(Kind)
        by_metric = np.array([kinds.index(metric.kind) for metric in selection.metrics], np.int8)
        self._kind: Final = by_metric[selection.metric] if len(by_metric) else np.empty(0, np.int8)
        self.schema: Final = _schema(selection, raw=self._raw, query=query, version=version)

    def batch(self, block: Block) -> pa.RecordBatch:
        """A block as a record batch."""
        columns = block.columns
        out = [
            pa.array(columns["time"]).view(_TIME),
            pa.DictionaryArray.from_arrays(self._selection.device[block.series], self._devices),
            pa.DictionaryArray.from_arrays(self._selection.metric[block.series], self._metrics),
        ]
        if self._raw:
            out += [pa.array(columns["value"]), pa.array(columns["flags"])]
        else:
            # Aggregates that a kind or an empty bucket does not have are NaN, and become null; no other number here is NaN.
            rollup = _rollup(self._kind[block.series], columns)
            out += [pa.array(column, from_pandas=True) for column in rollup.values()]
        return pa.RecordBatch.from_arrays(out, schema=self.schema)


def _rollup(kinds: NDArray[np.int8], columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Aggregates of each row by the kind of its metric, computed for all rows of a kind at once."""
    n = len(kinds)
    out: dict[str, NDArray[Any]] = {
        str(name): np.zeros(n, np.int32) if name in _COUNTS else np.full(n, np.nan) for name in _AGGREGATES
    }
    out[_BAD_COUNT] = columns["n_bad"]
    for code in np.unique(kinds).tolist():
        kind = list(Kind)[code]
        rows = np.flatnonzero(kinds == code)
        chosen = {name: column[rows] for name, column in columns.items()}
        # No aggregate uses the series or the end.
        rest = {"series": np.zeros(len(rows), np.int32), "end": chosen["time"], "received": chosen["n"] + chosen["n_bad"]}
        buckets = Buckets(**chosen, **rest)
        for aggregate in aggregates.allowed(kind):
            out[aggregate][rows] = aggregates.compute(aggregate, kind, buckets)
    return out


def _schema(selection: Exported, *, raw: bool, query: Mapping[str, Any], version: str) -> pa.Schema:
    value = {}
    if len(selection.metrics) == 1:
        value = _metadata({"unit": selection.metrics[0].unit, "kind": selection.metrics[0].kind})
    metrics = {metric.name: {"unit": metric.unit, "kind": metric.kind} for metric in selection.metrics}
    fields = [
        pa.field("time", _TIME, nullable=False),
        pa.field("device", _WORDS, nullable=False, metadata=_metadata(_common(selection.devices))),
        pa.field("metric", _WORDS, nullable=False, metadata=_metadata({"metrics": metrics})),
    ]
    if raw:
        fields += [
            pa.field("value", pa.float64(), nullable=False, metadata=value),
            pa.field("flags", pa.int16(), nullable=False, metadata=_metadata({"bits": FLAGS})),
        ]
    else:
        # The mean of a state is a share of ones, without a unit like its readings; all others are in the metric's unit.
        fields += [
            pa.field(str(aggregate), pa.int32(), nullable=False)
            if aggregate in _COUNTS
            else pa.field(str(aggregate), pa.float64(), metadata=value)
            for aggregate in _AGGREGATES
        ]
    whole = {"citybeat.version": version, "citybeat.query": dict(query), "citybeat.order": _ORDER}
    return pa.schema(fields, metadata=_metadata(whole | ({"citybeat.flags": FLAGS} if raw else {})))


def _common(devices: Sequence[Any]) -> dict[str, Any]:
    """Attributes that have the same value for all devices."""
    if not devices:
        return {}
    first = asdict(devices[0])
    return {
        name: value
        for name, value in first.items()
        if value not in {None, ""} and all(getattr(device, name) == value for device in devices)
    }


def _metadata(values: Mapping[str, Any]) -> dict[str, str]:
    """Schema metadata: texts as they are, everything else as JSON."""
    return {name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in values.items()}


class _Sink(io.RawIOBase):
    """A file in memory whose content is taken while it is written."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """The bytes that were written since the last call."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


class _Csv:
    """CSV with a header. Times are RFC 3339; null is an empty cell."""

    def __init__(self, table: _Table) -> None:
        self._table: Final = table
        self._options: Final = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")

    def begin(self) -> bytes:
        return ",".join(self._table.schema.names).encode() + b"\n"

    def block(self, block: Block) -> bytes:
        sink = pa.BufferOutputStream()
        batch = self._table.batch(block)
        time = _texts(written(block.columns["time"]))
        pyarrow.csv.write_csv(pa.RecordBatch.from_arrays([time, *batch.columns[1:]], names=batch.schema.names), sink, self._options)
        return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]  # pyarrow has no types

    def end(self) -> bytes:
        return b""


@cache
def _clock() -> NDArray[np.uint8]:
    """Every second of a day as hh:mm:ss."""
    return _digits([f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}" for s in range(86_400)])


@cache
def _thousand() -> NDArray[np.uint8]:
    """Every number below 1000 as three digits."""
    return _digits([f"{i:03}" for i in range(1000)])


def _digits(texts: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer("".join(texts).encode(), np.uint8).reshape(len(texts), -1)


def written(us: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Times as RFC 3339 with microseconds: (n, 27) characters. Arrow's own way takes ten times as long, most of a CSV's time.

    Parameters
    ----------
    us : (n,) int64
        Since 1970 UTC; years 1 to 9999.

    Examples
    --------
    >>> written(np.array([1_767_225_600_000_001])).tobytes()
    b'2026-01-01T00:00:00.000001Z'
    """
    days, rest = np.divmod(us, 86_400_000_000)
    seconds, micros = np.divmod(rest, 1_000_000)
    distinct, which = np.unique(days, return_inverse=True)
    dates = _digits([str(day).rjust(10, "0") for day in distinct.astype("datetime64[D]")])
    out = np.empty((len(us), 27), np.uint8)
    out[:, 10], out[:, 19], out[:, 26] = (ord(sign) for sign in "T.Z")
    out[:, :10] = dates[which]
    out[:, 11:19] = _clock()[seconds]
    out[:, 20:23] = _thousand()[micros // 1000]
    out[:, 23:26] = _thousand()[micros % 1000]
    return out


def _texts(characters: NDArray[np.uint8]) -> pa.Array:
    """Rows of ASCII characters as strings."""
    n, width = characters.shape
    offsets = np.arange(n + 1, dtype=np.int32) * np.int32(width)
    return pa.Array.from_buffers(pa.string(), n, [None, pa.py_buffer(offsets), pa.py_buffer(characters)])


class _Arrow:
    """An Arrow IPC stream of record batches, after the dictionaries of devices and metrics."""

    def __init__(self, table: _Table) -> None:
        self._table: Final = table
        self._sink: Final = _Sink()
        self._writer: Final = pa.ipc.new_stream(self._sink, table.schema)

    def begin(self) -> bytes:
        return self._sink.take()

    def block(self, block: Block) -> bytes:
        self._writer.write_batch(self._table.batch(block))
        return self._sink.take()

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.take()


class _Parquet:
    """Parquet, with a row group for each block. zstd files are 0.6 of the size of Snappy's; the database is slower than either."""

    def __init__(self, table: _Table) -> None:
        self._table: Final = table
        self._sink: Final = _Sink()
        self._writer: Final = pyarrow.parquet.ParquetWriter(
            self._sink,
            table.schema,
            compression="zstd",
            use_dictionary=[name for name in table.schema.names if name != "time"],  # values repeat, times do not
            write_statistics=["time"],
            column_encoding={"time": "DELTA_BINARY_PACKED"},
        )

    def begin(self) -> bytes:
        return self._sink.take()

    def block(self, block: Block) -> bytes:
        self._writer.write_batch(self._table.batch(block), row_group_size=len(block.series))
        return self._sink.take()

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.take()
