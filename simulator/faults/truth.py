"""Truth file of a run: the true value, the faults and the expected outcome of every reading. In Parquet, a row a reading.

Rows come message by message and are written in row groups, as soon as the broker's answers are there, so that memory is bounded by
the messages without an answer. The file gets its name when it is complete: before, and if the process is killed, it is `FILE.part`.
docs/faults.md has the columns.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from citybeat.devices.batch import NEVER
from citybeat.simulator.city.layout import City
from citybeat.simulator.errors import TruthError
from citybeat.simulator.faults.rows import FAULTS, OUTCOMES, REASONS
from citybeat.simulator.feed import Entry

#: Rows of a row group: some 3 MB; larger groups compress no better.
GROUP: Final = 50_000
VERSION: Final = 1


_TIME: Final = pa.timestamp("us", tz="UTC")
_NAMES: Final = pa.dictionary(pa.int32(), pa.string())
SCHEMA: Final = pa.schema(
    [
        ("source", _NAMES),
        ("boot", _NAMES),
        ("seq", pa.int64()),
        ("index", pa.int32()),
        ("device", _NAMES),
        ("metric", _NAMES),
        ("time", _TIME),
        ("claimed", _TIME),
        ("sent_at", _TIME),
        ("value", pa.float64()),
        ("true_value", pa.float64()),
        ("fault", _NAMES),
        ("event", pa.int32()),
        ("delivery", _NAMES),
        ("delivery_event", pa.int32()),
        ("outcome", _NAMES),
        ("reason", _NAMES),
        ("acknowledged", pa.bool_()),
    ]
)


class Truth:
    """The file while it is written. As a context it is closed at the end, whatever happens.

    Parameters
    ----------
    path : Path
        Overwritten.
    city : City
        The rows are of its series.

    Raises
    ------
    TruthError
        In every method: the file cannot be written.
    """

    def __init__(self, path: Path, city: City) -> None:
        self.rows = 0
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._device = city.series.device
        self._city = city
        try:
            self._writer = pq.ParquetWriter(self._part, SCHEMA, compression="zstd")
        except OSError as exc:
            raise TruthError(f"{path}: {exc}") from exc
        self._entries: list[Entry] = []
        self._waiting = 0  # rows in them
        self._limit = GROUP  # rows that may wait before the next look at which are settled
        self._about: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def add(self, entry: Entry) -> None:
        """Add a message that was sent, or was not."""
        if not len(entry.rows):
            return
        self._entries.append(entry)
        self._waiting += len(entry.rows)
        if self._waiting >= self._limit:
            self._flush([entry for entry in self._entries if entry.receipt is None or entry.receipt.acknowledged is not None])
            self._limit = self._waiting + GROUP

    def describe(self, about: Mapping[str, Any]) -> None:
        """Set the description of the run in the file's metadata; the last call counts."""
        self._about = dict(about)

    def close(self) -> None:
        """Write the rest, answered or not, and give the file its name; a run that never began leaves no file."""
        if self._writer is None:
            return
        self._flush(self._entries)
        self._writer.add_key_value_metadata({"citybeat": orjson.dumps({"version": VERSION, **self._about}).decode()})
        self._writer.close()
        self._writer = None
        if not self.rows and not self._about:
            self._part.unlink()
            return
        self._part.replace(self._path)

    def _flush(self, entries: Sequence[Entry]) -> None:
        """Write the settled entries of those that wait."""
        if not entries:
            return
        written = set(map(id, entries))
        table = self._table(entries)
        try:
            self._writer.write_table(table, row_group_size=max(len(table), 1))
        except OSError as exc:
            raise TruthError(f"{self._path}: {exc}") from exc
        self.rows += len(table)
        self._entries = [entry for entry in self._entries if id(entry) not in written]
        self._waiting -= len(table)

    def _table(self, entries: Sequence[Entry]) -> pa.Table:
        rows = np.concatenate([entry.rows for entry in entries])
        of = np.repeat(np.arange(len(entries)), [len(entry.rows) for entry in entries])
        sent_at = np.array([NEVER if entry.sent_at is None else entry.sent_at for entry in entries], np.int64)[of]
        seq = np.array([-1 if entry.seq is None else entry.seq for entry in entries], np.int64)[of]
        said = np.array([entry.receipt is not None and entry.receipt.acknowledged is True for entry in entries])[of]
        series = rows["series"]
        city = self._city
        return pa.table(
            [
                _named([entry.source for entry in entries], of),
                _named([entry.boot for entry in entries], of),
                pa.array(seq, mask=(seq < 0) | (rows["index"] < 0)),
                pa.array(rows["index"]),
                _coded(self._device[series], [city.id(i) for i in np.unique(self._device[series]).tolist()]),
                _coded(
                    city.series.metric[series], [city.series.metrics[i] for i in np.unique(city.series.metric[series]).tolist()]
                ),
                _time(rows["time"]),
                _time(rows["claimed"]),
                _time(np.where(rows["index"] < 0, NEVER, sent_at)),
                pa.array(rows["value"]),
                pa.array(rows["true"]),
                _listed(rows["fault"], FAULTS),
                pa.array(rows["event"]),
                _listed(rows["delivery"], FAULTS),
                pa.array(rows["delivery_event"]),
                _listed(rows["outcome"], tuple(map(str, OUTCOMES))),
                _listed(rows["reason"], REASONS),
                pa.array(said & (rows["index"] >= 0)),
            ],
            schema=SCHEMA,
        )


def _time(us: NDArray[np.int64]) -> pa.Array:
    return pa.array(us, mask=us == NEVER).cast(_TIME)


def _named(names: Sequence[str], of: NDArray[np.int64]) -> pa.Array:
    """Turn names of entries, one each, into names of rows."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    codes = np.array([numbers[name] for name in names], np.int32)[of]
    return pa.DictionaryArray.from_arrays(codes, pa.array(list(numbers), pa.string()))


def _coded(codes: NDArray[Any], names: Sequence[str]) -> pa.Array:
    """Turn codes into names, given the names of the codes that occur, in ascending order."""
    _, place = np.unique(codes, return_inverse=True)
    return pa.DictionaryArray.from_arrays(place.astype(np.int32), pa.array(names, pa.string()))


def _listed(codes: NDArray[Any], names: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(names, pa.string()))
