"""The writer's connection: opens batch transactions and remembers which batch last wrote for each source."""

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
from citybeat.storage.db.connection import connect, only, translated
from citybeat.storage.db.source_locks import SOURCE_LOCKS
from citybeat.storage.rollups import minutes

_SQL: Final = sql.load("write")
#: s. The largest batch takes about one, and may wait for a slice of a rebuild for another; a longer statement means a server that
#: hangs.
_STATEMENT: Final = 30.0


class BatchWriter:
    """A connection that writes batches. It remembers for each source the last batch that the loaded history includes.

    Parameters
    ----------
    url : str
        The database.
    quarantine_quota : int
        Maximum bytes of payloads in quarantine of each source; messages beyond it are counted, not kept.

    Raises
    ------
    DatabaseUnavailableError, StorageError
        The connection failed.
    """

    def __init__(self, url: str, *, quarantine_quota: int) -> None:
        self._quota: Final = quarantine_quota
        self._known: dict[int, UUID] = {}  # by source the last batch that the loaded history includes
        self._connection: Final = connect(url, application="ingest writer", statement_timeout=_STATEMENT)
        with translated():
            self._connection.execute(_SQL["temporary_tables"])
            minutes.prepare(self._connection)

    @contextmanager
    def batch(self, batch_id: UUID, sources: Sequence[int]) -> Iterator[BatchTransaction]:
        """Open a transaction that holds the locks of these sources. It commits at the end of the block, and rolls back on an error.

        Parameters
        ----------
        batch_id : UUID
            The same at every try. After an error with an unknown outcome, a try with the same id sets `BatchTransaction.committed`.
        sources : sequence of int
            Ids of all sources that the batch writes for.

        Raises
        ------
        TransientError
            The caller should try again on this connection.
        DatabaseUnavailableError
            The caller should try again on a new one; whether the transaction was committed is unknown.
        StorageError
            Another try would not help.
        """
        with translated(), self._connection.transaction():
            # Locks first: a transaction gets its number with the first row that it writes. So the numbers of each source are in
            # the order of commits, and streams send a value before its replacement.
            outbox.lock_writer(self._connection)
            ids = sorted(set(sources))
            self._connection.execute(_SQL["lock_sources"], {"space": SOURCE_LOCKS, "sources": ids})
            cursor = self._connection.execute(_SQL["begin_batch"], {"id": batch_id})
            committed, version, moved = cursor.fetchone() is None, 0, ()
            if not committed:
                known = [self._known.get(source) for source in ids]
                version, moved = only(self._connection, _SQL["standing"], {"sources": ids, "known": known})
            transaction = BatchTransaction(
                self._connection, self._quota, batch_id, committed=committed, registry_version=version, moved=moved
            )
            yield transaction
        # Committed. Sources that another writer has written for stay unknown, unless the transaction caught up.
        self._known.update(dict.fromkeys(transaction.wrote.difference(transaction.moved), batch_id))

    def history(self, size: int) -> dict[str, NDArray[Any]]:
        """Load the newest readings of all series, as arrays by series id, of length `size` at least.

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
        """Close the connection; a running transaction is rolled back."""
        self._connection.close()


def forget_batches(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Delete ids of batches that cannot be tried again any more."""
    with translated():
        connection.execute(_SQL["forget_batches"])
