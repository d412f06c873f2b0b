"""Rows that a simulated run left in the database, for the comparison with its truth. Sync, in one snapshot, in bounded memory.

Readings come in slices of time: a slice has few pages of the table, and each is read once. In order of series over the whole range
every page would be read once for every series on it (`storage/reads/export.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from numpy.typing import NDArray

from citybeat.devices.batch import FOREVER, NEVER, Int32, Int64
from citybeat.devices.clock import from_us, minute_of, to_us
from citybeat.devices.ledger import Counts
from citybeat.storage.db import sql
from citybeat.storage.db.connection import Connection, only, translated
from citybeat.storage.db.counters import composed
from citybeat.storage.db.packed_rows import PackedRows, joined
from citybeat.storage.db.pgcopy import Type, from_server

_SQL: Final = sql.load("score")
_COLUMNS: Final[Mapping[str, Type]] = {"time": "timestamptz", "received_at": "timestamptz", "value": "float8", "flags": "int2"}
#: Approximate number of readings in a block: 4 MB.
_BLOCK: Final = 131_072
#: Rows of quarantine in a page. A message has some kB, and seldom more than 10.
_PAGE: Final = 500
#: The ends of time as PostgreSQL writes them.
_ENDS: Final = {int(NEVER): "-infinity", int(FOREVER): "infinity"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedMessage:
    """A message in quarantine, with those of its readings that were refused."""

    source: str
    topic: str
    payload: bytes
    refused: Sequence[tuple[int | None, str]]  # index of the reading (None: the message), reason
    received_at: int  # us since 1970 UTC


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """Show one state of the database to all statements inside.

    Raises
    ------
    StorageError
        As all functions below.
    """
    with translated(), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(_SQL["prepare"])
        yield


def received(connection: Connection, sources: Sequence[str], *, since: int) -> int:
    """Count received readings of these sources in the ledger, since the minute of a moment, us since 1970 UTC."""
    with translated():
        return int(only(connection, _SQL["received"], {"sources": list(sources), "minute": _minute(since)})[0])


def ledger(connection: Connection, sources: Sequence[str], *, since: int) -> dict[str, Counts]:
    """Sum the ledger by source, since the minute of a moment, us since 1970 UTC. Inside `snapshot`, as all functions below."""
    parameters = {"sources": list(sources), "minute": _minute(since)}
    rows = connection.execute(composed(_SQL["ledger"]), parameters).fetchall()
    return {source: Counts.of(counts) for source, *counts in rows}


def numbers(connection: Connection, sources: Sequence[str], *, since: int) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Message numbers that came, by (source, boot): pairs of first and last, the last exclusive."""
    out: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for source, boot, first, stop in connection.execute(_SQL["numbers"], {"sources": list(sources), "since": _moment(since)}):
        out.setdefault((source, boot), []).append((first, stop))
    return out


def refused(connection: Connection, sources: Sequence[str], *, since: int) -> Iterator[list[RefusedMessage]]:
    """Messages of these sources in quarantine, received since a moment, page by page."""
    after = 0
    parameters = {"sources": list(sources), "since": _moment(since), "limit": _PAGE}
    while rows := connection.execute(_SQL["refused"], {**parameters, "after": after}).fetchall():
        after = rows[-1][0]
        yield [
            RefusedMessage(
                source=source,
                topic=topic,
                payload=bytes(payload),
                refused=[(entry[0], entry[1]) for entry in entries],
                received_at=to_us(received_at),
            )
            for _, source, topic, payload, entries, received_at in rows
        ]


def readings(
    connection: Connection, series: Sequence[int], edges: Sequence[int], *, since: int
) -> Iterator[tuple[Int32, Mapping[str, NDArray[Any]]]]:
    """Read readings of these series, received since a moment.

    Parameters
    ----------
    connection : Connection
        Inside `snapshot`.
    series : sequence of int
        Ids.
    edges : sequence of int
        us since 1970 UTC, ascending: [edges[0], edges[1]) is a slice, and so on. The last may be FOREVER.
    since : int
        Time of receipt, us since 1970 UTC.

    Yields
    ------
    (n,) int32 and mapping
        Series ids, and the columns time, received_at (us since 1970 UTC), value, flags. Ordered by series and time within a slice.
    """
    waiting: list[tuple[int, Mapping[str, NDArray[Any]]]] = []
    rows = 0
    for start, stop in pairwise(edges):
        packed = PackedRows(_COLUMNS)
        parameters = {"series": list(series), "start": _moment(start), "stop": _moment(stop), "since": _moment(since)}
        # COPY takes no parameters: the driver writes these numbers and times of ours into the statement.
        with connection.cursor().copy(_SQL["readings"], parameters) as copy:
            for message in copy:
                row = packed.read(message)
                if row is None:
                    continue
                waiting.append(row)
                rows += len(row[1]["time"])
                if rows >= _BLOCK:
                    yield _joined(waiting)
                    waiting, rows = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(rows: Sequence[tuple[int, Mapping[str, NDArray[Any]]]]) -> tuple[Int32, Mapping[str, NDArray[Any]]]:
    ids, columns = joined(rows, "time")
    received_at: Int64 = from_server(columns["received_at"])
    return ids, columns | {"received_at": received_at}


def _minute(us: int) -> datetime:
    return minute_of(from_us(us))


def _moment(us: int) -> datetime | str:
    return _ENDS[us] if us in _ENDS else from_us(us)
