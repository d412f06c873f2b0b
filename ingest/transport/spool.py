"""Messages on disk, for as long as the database cannot take them: a file a lane, in order, each row a batch as it will be written.

An append is on disk when it returns (SQLite, WAL, synchronous=FULL); only then are its messages acknowledged. A row carries the id
of its batch: whether an earlier try to write it took effect, the database knows by that id. So a row that is written, and not yet
removed when the process dies, is not written twice.

A file that is damaged is set aside whole, under a name that says so, and a new one begun: half of it would look like all of it.
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
#: What a damaged file's name goes on with; operators find it by that, and nothing opens it again.
DAMAGED: Final = ".damaged"
_SQL: Final = sql.load("spool", room="citybeat.ingest")
#: What SQLite says when the disk, and not the file, is the matter.
_DISK: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})


class SpoolFullError(CitybeatError):
    """There is no room for a batch, in the spool or on its disk; it must not be acknowledged."""


class SpoolInUseError(CitybeatError):
    """Another process has the file."""


class SpoolDamagedError(CitybeatError):
    """The file was damaged, and has been set aside; the message names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A batch that waits on disk."""

    number: int
    id: UUID
    messages: Sequence[Message]  # without what a broker's acknowledgement needs: they were acknowledged
    file: int  # which of the files that were begun under this name


class Spool:
    """One file. For one thread, after it was made.

    Parameters
    ----------
    path : Path
        Made where there is none.
    max_bytes : int
        Of payload.
    together : list of Spool, optional
        Those that share that limit; this one is added.

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
        #: Files that were set aside, since this object was made.
        self.damaged: Final[list[Path]] = []
        self.messages = 0
        self.bytes = 0  # of payload
        self.oldest: float | None = None  # s since 1970 UTC
        self._rows = 0
        self._done = 0  # number of the last row that was removed
        self._file = self._opened()

    def __len__(self) -> int:
        """Batches that wait."""
        return self._rows

    def append(self, batch_id: UUID, messages: Sequence[Message]) -> Row:
        """Keep a batch. When this returns it is on disk.

        Raises
        ------
        SpoolFullError
            It was not kept; nothing of it is on disk.
        SpoolDamagedError
            It was not kept; another try goes to a new file.
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
        """The batch that has waited longest; None: none waits.

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
            raise self._set_aside(f"batch {number} is not what was written")
        messages = [Message(topic, payload, at, again, 0, 0, 0) for topic, payload, at, again in cbor2.loads(body)]
        return Row(number=number, id=UUID(bytes=batch_id), messages=messages, file=len(self.damaged))

    def remove(self, row: Row) -> None:
        """Forget the batch that has waited longest: it is committed.

        Where the disk has no room to note that, the row is passed over until there is; after a crash it would be found once more,
        and by its id found to be committed.

        Raises
        ------
        SpoolDamagedError
        """
        if row.file != len(self.damaged):
            return  # it was set aside with its file
        self._done = row.number
        self._rows -= 1
        self.messages -= len(row.messages)
        self.bytes -= sum(len(message.payload) for message in row.messages)
        with suppress(SpoolFullError), self._guarded():
            self._file.execute(_SQL["remove"], {"done": row.number})
            if self._rows == 0:  # give the disk back what an outage took
                self._file.execute("VACUUM")
                self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with self._guarded():
            (self.oldest,) = self._file.execute(_SQL["oldest"], {"done": row.number}).fetchone()

    def close(self) -> None:
        """Close the file; rows stay."""
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
        # Autocommit: each statement is a transaction. Made in one thread, used in another.
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
        """SQLite's errors in our words."""
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
            "%s is damaged (%s) and set aside as %s; its messages were acknowledged and are not stored", self.path, why, aside
        )
        return aside


def leftovers(directory: Path) -> list[Path]:
    """Spools in a directory, in order of name; those of a process that runs as well."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def set_aside(directory: Path) -> list[Path]:
    """Damaged files in a directory that nobody has removed yet."""
    return sorted(path for path in directory.glob(f"*{DAMAGED}-*") if not path.name.endswith(("-wal", "-shm")))


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _is_disk(exc: sqlite3.Error) -> bool:
    code = getattr(exc, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DISK
