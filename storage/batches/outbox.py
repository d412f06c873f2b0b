"""What is told to streams: a transaction appends what it stored, and housekeeping drops it after a while.

Law: whoever appends has called `lock_writer` before its transaction got its number, or `Store.batch` has. Readers rely on it
(`outbox_frontier`, migration 0014).

A row holds a piece of what one transaction stored, as columns one behind the other in the network's byte order: series int4, time
int8 (us since 1970 UTC), value float8, code int2. Of a reading the code is its flags, of a state its place in `STATES`, with the
time since when, and the newest value, NaN where there is none. 22 bytes a reading, where `readings` and its index take a hundred.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Self

import numpy as np
import psycopg
from numpy.typing import NDArray

from citybeat.devices.batch import Float64, Int16, Int32, Int64
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, translated

_SQL: Final = sql.load("outbox")
READINGS: Final = 0
STATES_CHANGED: Final = 1
#: Readings of one row at most. It becomes one event, of some 50 bytes a reading, and holds up the event loop for as long as it
#: takes to write that: 20,000 are 1 MB and some 10 ms.
PIECE: Final = 20_000
_WIRE: Final[tuple[np.dtype[Any], ...]] = (np.dtype(">i4"), np.dtype(">i8"), np.dtype(">f8"), np.dtype(">i2"))
_WIDTH: Final = sum(column.itemsize for column in _WIRE)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboxRows:
    """Readings, or states of sensors: arrays of one length n."""

    series: Int32
    time: Int64  # us since 1970 UTC
    value: Float64
    code: Int16  # flags, or a state

    def __len__(self) -> int:
        return len(self.series)

    def take(self, rows: NDArray[Any] | slice) -> Self:
        """Those of these rows: (k,) int64, (n,) bool, or a slice."""
        return type(self)(series=self.series[rows], time=self.time[rows], value=self.value[rows], code=self.code[rows])


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """How much is kept."""

    keep: timedelta
    bytes: int


def encode(told: OutboxRows) -> bytes:
    """As `outbox.data` has it."""
    columns: tuple[NDArray[Any], ...] = (told.series, told.time, told.value, told.code)
    return b"".join(column.astype(wire).tobytes() for column, wire in zip(columns, _WIRE, strict=True))


def decode(data: bytes, rows: int) -> OutboxRows:
    """What `encode` was given.

    Raises
    ------
    ValueError
        Not so many rows.

    Examples
    --------
    >>> told = OutboxRows(series=np.int32([7]), time=np.int64([1_000]), value=np.array([2.5]), code=np.int16([1]))
    >>> data = encode(told)
    >>> len(data), decode(data, 1).value.tolist()
    (22, [2.5])
    """
    if len(data) != rows * _WIDTH:
        raise ValueError(f"{len(data)} bytes are not {rows} rows")
    at = 0
    columns: list[NDArray[Any]] = []
    for wire in _WIRE:
        columns.append(np.frombuffer(data, wire, rows, at).astype(wire.newbyteorder("=")))
        at += rows * wire.itemsize
    series, time, value, code = columns
    return OutboxRows(series=series, time=time, value=value, code=code)


def lock_writer(connection: Connection) -> None:
    """Say that the transaction under way, which has written nothing yet, will append."""
    connection.execute(_SQL["lock_writer"])


def append(cursor: psycopg.Cursor[Any], kind: int, told: OutboxRows) -> None:
    """Tell what the transaction under way stored, in pieces."""
    rows = [{"kind": kind, "rows": len(piece), "data": encode(piece)} for piece in _pieces(told)]
    if len(rows) == 1:
        cursor.execute(_SQL["append"], rows[0])
    elif rows:
        cursor.executemany(_SQL["append"], rows)


def _pieces(told: OutboxRows) -> Iterator[OutboxRows]:
    for start in range(0, len(told), PIECE):
        yield told.take(slice(start, start + PIECE))


def trim(connection: Connection, bounds: Bounds) -> int:
    """Drop what is older than it is kept, and beyond that what is more than is kept; the number of rows.

    The floor moves in the same statement, so that whoever missed something finds that he did.

    Raises
    ------
    TransientError, DatabaseUnavailableError, StorageError
    """
    with translated():
        row = connection.execute(_SQL["frontier"]).fetchone()
        assert row is not None
        row = connection.execute(_SQL["trim"], {"frontier": row[0], "keep": bounds.keep, "bytes": bounds.bytes}).fetchone()
        assert row is not None
        return int(row[0])
