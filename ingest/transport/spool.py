"""The spool: messages on disk while the database cannot take them. One file for each partition, one row for each batch, in order.

An append is on disk when it returns (SQLite, WAL, synchronous=FULL); only then are its messages acknowledged. A row has the id of
its batch, by which the database knows whether an earlier attempt to write it took effect. So a batch that was committed and not yet
removed from the spool when the process died is not written twice.

A damaged file is renamed, so that its name says so, and a new one is begun. It is set aside whole: the readable half of it would
look like all of it.
"""

import logging
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import cbor2

from citybeat.devices.errors import CitybeatError
from citybeat.ingest.judging.message import Message
from citybeat.storage.db import sql

_LOG: Final = logging.getLogger(__name__)
SUFFIX: Final = ".spool"
#: Appended to the name of a damaged file, so that operators find it; no program opens it again.
DAMAGED: Final = ".damaged"
_SQL: Final = sql.load("spool", package="citybeat.ingest")
#: Error codes of SQLite that mean a problem of the disk, not of the file.
_DISK: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})


class SpoolFullError(CitybeatError):
    """The spool or its disk has no room for a batch; it must not be acknowledged."""


class SpoolInUseError(CitybeatError):
    """Another process has opened the file."""


class SpoolDamagedError(CitybeatError):
    """The file was damaged and has been set aside; the message names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A batch that waits on disk."""

    number: int
    id: UUID
    messages: Sequence[Message]  # without the fields for acknowledgement, since they were acknowledged
    file: int  # number of files that had been set aside when the row was written or read: a row of one of those is gone


class Spool:
    """One file. Once constructed, it is used by one thread.

    Parameters
    ----------
    path : Path
        Created if it does not exist.
    max_bytes : int
        Bytes of payload.
    together : list of Spool, optional
        Spools that share the limit; this one is added.

    Raises
    ------
    SpoolInUseError
    SpoolFullError
        The disk has no room for the file itself.
    """

    def __init__(self, path: Path, *, max_bytes: int, together: "list[Spool] | None" = None) -> None:
        self.path: Final = path
        self._together: Final = [] if together is None else together
        self._together.append(self)
        self._max_bytes: Final = max_bytes
        #: Files that this object has set aside.
        self.damaged: Final[list[Path]] = []
        self.messages = 0
        self.bytes = 0  # of payload
        self.oldest: float | None = None  # s since 1970 UTC
        self._rows = 0
        self._done = 0  # number of the last row that was removed
        self._file = self._opened()

    def __len__(self) -> int:
        """Number of batches that wait."""
        return self._rows

    def append(self, batch_id: UUID, messages: Sequence[Message]) -> Row:
        """Append a batch. When this returns it is on disk.

        Raises
        ------
        SpoolFullError
            Nothing of the batch is on disk.
        SpoolDamagedError
            Nothing of the batch is on disk; the next append goes to a new file.
        """
        size = sum(len(message.payload) for message in messages)
        used = sum(spool.bytes for spool in self._together)
        if used + size > self._max_bytes:
            raise SpoolFullError(f"{used:,} bytes are spooled, and {self._max_bytes:,} may be (CITYBEAT_SPOOL_BYTES)")
        body = cbor2.dumps([[m.topic, m.payload, m.received_at, m.redelivered] for m in messages])
        now = time.time()
        row = {
            "id": batch_id.bytes,
            "spooled_at": now,
            "messages": len(messages),
            "bytes": size,
            "body": body,
            "checksum": zlib.crc32(body),
        }
        with self._guarded():
            number = self._file.execute(_SQL["append"], row).lastrowid
        assert number is not None
        self._rows += 1
        self.messages += len(messages)
        self.bytes += size
        self.oldest = now if self.oldest is None else self.oldest
        return Row(number=number, id=batch_id, messages=messages, file=len(self.damaged))

    def first(self) -> Row | None:
        """Read the oldest batch; None: none waits.

        Raises
        ------
        SpoolDamagedError
        """
        with self._guarded():
            row = self._file.execute(_SQL["first"], {"done": self._done}).fetchone()
        if row is None:
            return None
        number, batch_id, body, checksum = row
        if zlib.crc32(body) != checksum:
            raise self._set_aside(f"the checksum of batch {number} does not match")
        messages = [Message(topic, payload, at, again, 0, 0, 0) for topic, payload, at, again in cbor2.loads(body)]
        return Row(number=number, id=UUID(bytes=batch_id), messages=messages, file=len(self.damaged))

    def remove(self, row: Row) -> None:
        """Remove the oldest batch, which is committed.

        If the disk has no room to record that, the row is skipped until there is room. After a crash it would be read again, and
        the database would know by its id that it is committed.

        Raises
        ------
        SpoolDamagedError
        """
        if row.file != len(self.damaged):
            return  # the row was set aside with its file
        self._done = row.number
        self._rows -= 1
        self.messages -= len(row.messages)
        self.bytes -= sum(len(message.payload) for message in row.messages)
        with suppress(SpoolFullError), self._guarded():
            self._file.execute(_SQL["remove"], {"done": row.number})
            if self._rows == 0:  # free the disk space that an outage took
                self._file.execute("VACUUM")
                self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with self._guarded():
            (self.oldest,) = self._file.execute(_SQL["oldest"], {"done": row.number}).fetchone()

    def close(self) -> None:
        """Close the file; its rows stay."""
        self._file.close()

    def delete(self) -> None:
        """Close the file, and delete it if it is empty."""
        empty = self._rows == 0
        self.close()
        if empty:
            for name in (self.path, *_beside(self.path)):
                name.unlink(missing_ok=True)

    def _opened(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # isolation_level=None is autocommit: each statement is a transaction. The opening thread is not the one that uses the file.
        file = sqlite3.connect(self.path, isolation_level=None, timeout=0.0, check_same_thread=False)
        try:
            file.execute("PRAGMA locking_mode=EXCLUSIVE")
            file.execute("PRAGMA journal_mode=WAL").fetchall()
            file.execute("PRAGMA synchronous=FULL")
            file.execute(_SQL["schema"])
            if (found := file.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)
            row = file.execute(_SQL["totals"]).fetchone()
        except sqlite3.Error as exc:
            file.close()
            code = getattr(exc, "sqlite_errorcode", None)
            if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise SpoolInUseError(f"another process uses {self.path}; give each ingest its own CITYBEAT_SPOOL_DIR") from exc
            if _is_disk(exc) or code == sqlite3.SQLITE_CANTOPEN:
                raise SpoolFullError(f"{self.path}: {exc}") from exc
            self._rename(str(exc))
            return self._opened()
        self._rows, self.messages, self.bytes, self.oldest = row
        self._done = 0
        return file

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Translate SQLite's errors."""
        try:
            yield
        except sqlite3.Error as exc:
            if _is_disk(exc):
                raise SpoolFullError(f"{self.path}: {exc}") from exc
            raise self._set_aside(str(exc)) from exc

    def _set_aside(self, why: str) -> SpoolDamagedError:
        self._file.close()
        aside = self._rename(why)
        self._file = self._opened()
        return SpoolDamagedError(f"{self.path} was damaged ({why}) and is now {aside.name}")

    def _rename(self, why: str) -> Path:
        aside = self.path.with_name(f"{self.path.name}{DAMAGED}-{time.time_ns()}")
        for name in (self.path, *_beside(self.path)):
            if name.exists():
                name.rename(aside.with_name(name.name.replace(self.path.name, aside.name, 1)))
        self.damaged.append(aside)
        _LOG.error(
            "%s is damaged (%s) and was set aside as %s; its messages were acknowledged and are not stored", self.path, why, aside
        )
        return aside


def leftovers(directory: Path) -> list[Path]:
    """Spool files in a directory, in order of name, including those that a process has open."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def set_aside(directory: Path) -> list[Path]:
    """Damaged files in a directory that have not been removed yet."""
    return sorted(path for path in directory.glob(f"*{DAMAGED}-*") if not path.name.endswith(("-wal", "-shm")))


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _is_disk(exc: sqlite3.Error) -> bool:
    code = getattr(exc, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DISK
