"""Whoever writes: one connection, its batches' transactions, and what is remembered from one to the next."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray

from citybeat.devices.batch import NEVER
from citybeat.storage.batches import outbox
from citybeat.storage.batches.rows import LATEST
from citybeat.storage.batches.write import BatchTransaction
from citybeat.storage.db import sql
from citybeat.storage.db.connection import connect, translated
from citybeat.storage.db.source_locks import SOURCE_LOCKS
from citybeat.storage.rollups import minutes

_SQL: Final = sql.load("write")
#: s. The largest batch takes about one, and waits for a rebuild's slice for another; who takes longer has a server that hangs.
_STATEMENT: Final = 30.0


class BatchWriter:
    """One connection that writes batches, and remembers who wrote last for each source when `history` was loaded.

    Parameters
    ----------
    url : str
        The database.
    quarantine_quota : int
        Bytes of payloads that each source may have in quarantine; what comes beyond is counted, not kept.

    Raises
    ------
    DatabaseUnavailableError, StorageError
        No connection.
    """

    def __init__(self, url: str, *, quarantine_quota: int) -> None:
        self._quota: Final = quarantine_quota
        self._known: dict[int, UUID] = {}  # by source the last batch that whoever loaded the history has taken in
        self._connection: Final = connect(url, application="ingest writer", statement_timeout=_STATEMENT)
        with translated():
            self._connection.execute(_SQL["temporary_tables"])
            minutes.prepare(self._connection)

    @contextmanager
    def batch(self, batch_id: UUID, sources: Sequence[int]) -> Iterator[BatchTransaction]:
        """A transaction that holds the locks of these sources; commits at the end of the block, rolls back on an error.

        Parameters
        ----------
        batch_id : UUID
            The same at every try. After an error whose outcome is unknown, a try with the same id finds
            `BatchTransaction.committed`.
        sources : sequence of int
            Ids of every source that the batch writes for.

        Raises
        ------
        TransientError
            Try again on this connection.
        DatabaseUnavailableError
            Try again on a new one; whether the transaction was committed is unknown.
        StorageError
            Trying again would not help.
        """
        with translated(), self._connection.transaction():
            # Locks first: a transaction gets its number with the first row that it writes, so that of each source numbers are in
            # the order of commits, and streams tell what replaces a value behind it.
            outbox.lock_writer(self._connection)
            ids = sorted(set(sources))
            self._connection.execute(_SQL["lock_sources"], {"space": SOURCE_LOCKS, "sources": ids})
            cursor = self._connection.execute(_SQL["begin_batch"], {"id": batch_id})
            committed, standing = cursor.fetchone() is None, (0, ())
            if not committed:
                known = [self._known.get(source) for source in ids]
                row = self._connection.execute(_SQL["standing"], {"sources": ids, "known": known}).fetchone()
                assert row is not None
                standing = row[0], row[1]
            version, moved = standing
            transaction = BatchTransaction(
                self._connection, self._quota, batch_id, committed=committed, registry_version=version, moved=moved
            )
            yield transaction
        # Committed. What somebody else wrote before, and was not caught up with, stays unknown.
        self._known.update(dict.fromkeys(transaction.wrote.difference(transaction.moved), batch_id))

    def history(self, size: int) -> dict[str, NDArray[Any]]:
        """What is known of each series, as arrays by series id, of length `size` at least.

        Returns
        -------
        dict
            `time`, `value`, `same_since` of the newest reading, `good_at`, `good_value` of the last good one; times are int64
            microseconds, NEVER where there is none.
        """
        with translated():
            self._known = dict(self._connection.execute(_SQL["last_batches"]).fetchall())
        with translated(), self._connection.cursor().copy(_SQL["history"]) as copy:
            rows = LATEST.decode(b"".join(bytes(part) for part in copy))
        ids = rows["series_id"]
        length = max(size, int(ids.max(initial=0)) + 1)
        known: dict[str, NDArray[Any]] = {}
        for name, neutral in (("time", NEVER), ("value", 0.0), ("same_since", NEVER), ("good_at", NEVER), ("good_value", 0.0)):
            known[name] = np.full(length, neutral, rows[name].dtype)
            known[name][ids] = rows[name]
        return known

    def close(self) -> None:
        """Close the connection; a transaction under way is rolled back."""
        self._connection.close()


def forget_batches(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Forget ids of batches that nobody can be trying again any more."""
    with translated():
        connection.execute(_SQL["forget_batches"])
