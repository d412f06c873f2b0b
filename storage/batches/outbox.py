"""Transactional outbox behind `/v1/stream`. Each transaction appends the readings that it stored; housekeeping trims old rows.

Invariant: a transaction calls `lock_writer`, itself or through `BatchWriter.batch`, before it gets its number, and appends
afterwards. Readers rely on it (`outbox_frontier`, `repeatable/04_streams.sql`).

A row has readings of one transaction as columns one behind the other, in network byte order: series int4, time int8 (us since 1970
UTC), value float8, code int2. The code of a reading is its flags. The code of a state is its place in `devices.states.STATES`; its
time is when it began, and its value the newest one, or NaN. 22 bytes a reading, where `readings` and its index take a hundred.
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
from citybeat.storage.db.connection import Connection, only, translated

_SQL: Final = sql.load("outbox")
READINGS: Final = 0
STATES_CHANGED: Final = 1
#: Maximum number of readings in a row. A row becomes one event, with some 50 bytes a reading, and blocks the event loop while that
#: is encoded: 20,000 are 1 MB and some 10 ms.
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
        """Select rows by (k,) int64, (n,) bool, or a slice."""
        return type(self)(series=self.series[rows], time=self.time[rows], value=self.value[rows], code=self.code[rows])


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Limits of the outbox."""

    keep: timedelta
    bytes: int


def encode(rows: OutboxRows) -> bytes:
    """Encode rows for `outbox.data`."""
    columns: tuple[NDArray[Any], ...] = (rows.series, rows.time, rows.value, rows.code)
    return b"".join(column.astype(wire).tobytes() for column, wire in zip(columns, _WIRE, strict=True))


def decode(data: bytes, rows: int) -> OutboxRows:
    """Decode what `encode` made of this number of rows.

    Raises
    ------
    ValueError
        The data has another length.

    Examples
    --------
    >>> rows = OutboxRows(series=np.int32([7]), time=np.int64([1_000]), value=np.array([2.5]), code=np.int16([1]))
    >>> data = encode(rows)
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
    """Announce that the current transaction, which has written nothing yet, will append."""
    connection.execute(_SQL["lock_writer"])


def append(cursor: psycopg.Cursor[Any], kind: int, rows: OutboxRows) -> None:
    """Append rows in the current transaction, in pieces."""
    pieces = [{"kind": kind, "rows": len(piece), "data": encode(piece)} for piece in _pieces(rows)]
    if len(pieces) == 1:
        cursor.execute(_SQL["append"], pieces[0])
    elif pieces:
        cursor.executemany(_SQL["append"], pieces)


def _pieces(rows: OutboxRows) -> Iterator[OutboxRows]:
    for start in range(0, len(rows), PIECE):
        yield rows.take(slice(start, start + PIECE))


def trim(connection: Connection, bounds: Bounds) -> int:
    """Delete rows that are too old, and then the oldest until the size is within its limit. Returns their number.

    The floor moves in the same statement, so that a reader that missed rows detects it.

    Raises
    ------
    TransientError, DatabaseUnavailableError, StorageError
    """
    with translated():
        frontier = only(connection, _SQL["frontier"])[0]
        return int(only(connection, _SQL["trim"], {"frontier": frontier, "keep": bounds.keep, "bytes": bounds.bytes})[0])
