"""A batch of messages through the hot path: judged by the pure core, written in one transaction.

`judge` is everything before the database, `write` one try at the transaction; `Pipeline` holds what lasts from one batch to the
next (the registry's snapshot, what is known of each series) and tries again until the outcome is known.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID, uuid4

import numpy as np

from devices.batch import Int32
from devices.catalogue import Catalogue
from devices.errors import CitybeatError, Reason
from devices.registry import Registry
from ingest.commit import Written, write
from ingest.decode import Decodable, decode
from ingest.history import History
from ingest.judge import Prepared, judge
from ingest.message import Message
from ingest.validate import Limits
from storage import registry as registry_store
from storage.database import Connection, DatabaseUnavailableError, TransientError, connect
from storage.write import Store

_LOG: Final = logging.getLogger(__name__)
#: s. Between tries: at once for a hiccup, never so often that a starting server is hammered.
_PAUSES: Final = (0.05, 0.2, 0.5, 1.0, 2.0)


class RegistryMovedError(CitybeatError):
    """The registry changed between judging a batch and writing it."""


class Pipeline:
    """Not thread-safe: one thread writes.

    Parameters
    ----------
    url : str
        The database.
    catalogue : Catalogue
    limits : Limits
    max_bytes : int
        Largest payload that is read.
    quarantine_quota : int
        Bytes a source may have in quarantine.
    """

    def __init__(self, url: str, *, catalogue: Catalogue, limits: Limits, max_bytes: int, quarantine_quota: int) -> None:
        self._url: Final = url
        self._catalogue: Final = catalogue
        self._limits: Final = limits
        self._max_bytes: Final = max_bytes
        self._quota: Final = quarantine_quota
        self._store: Store | None = None
        self._lookup: Connection | None = None
        self._registry: Registry | None = None
        self._history = History.empty(0)

    def open(self) -> None:
        """Connect and load what is known: registry and newest times.

        Raises
        ------
        DatabaseUnavailableError, StorageError
        """
        self.close()
        self._lookup = connect(self._url, application="ingest registry")
        registry_store.listen(self._lookup)
        self._store = Store(self._url, quarantine_quota=self._quota)
        self._registry = registry_store.load(self._lookup, self._catalogue)
        self._history = History.loaded(self._store.history(len(self._registry.owner)))

    def close(self) -> None:
        """Close the connections."""
        for thing in (self._store, self._lookup):
            if thing is not None:
                thing.close()
        self._store = self._lookup = None

    def poll_registry(self) -> None:
        """Take in changes of the registry that the database has told of; costs a system call when there are none."""
        if self._lookup is None:
            return
        try:
            if registry_store.notified(self._lookup):
                self.refresh()
        except DatabaseUnavailableError as exc:
            _LOG.warning("database away: %s", exc)
            self.close()

    def _refresh_or_close(self) -> None:
        try:
            self.refresh()
        except DatabaseUnavailableError:
            self.close()  # and everything is loaded anew

    def refresh(self) -> None:
        """Take in changes of the registry, if there are any; with it what is known of the past, which a declaration changes too."""
        assert self._lookup is not None
        assert self._registry is not None
        if registry_store.version(self._lookup) != self._registry.version:
            self._registry = registry_store.load(self._lookup, self._catalogue)
            assert self._store is not None
            self._history = History.loaded(self._store.history(len(self._registry.owner)))
            _LOG.info("registry is at version %d with %d series", self._registry.version, len(self._registry.series))

    def process(self, messages: Sequence[Message], give_up: Callable[[], bool]) -> Written | None:
        """Judge and write a batch, and try again until it is committed.

        Parameters
        ----------
        messages : sequence of Message
        give_up : callable
            Asked between tries; if true, the batch is left to be delivered again.

        Returns
        -------
        Written or None
            None: given up, and nothing of the batch may be acknowledged.

        Raises
        ------
        StorageError
            The database refuses the batch for a reason that trying again does not remove.
        """
        batch_id = uuid4()
        tries = 0
        while True:
            try:
                if self._store is None:
                    self.open()
                return self._try(messages, batch_id)
            except RegistryMovedError:
                # Judged by what no longer holds: a declaration waits for this batch, or has been applied to what is stored.
                self._refresh_or_close()
                continue
            except TransientError as exc:
                _LOG.info("trying again: %s", exc)
            except DatabaseUnavailableError as exc:
                _LOG.warning("database away, %d messages wait: %s", len(messages), exc)
                self.close()
            if give_up():
                return None
            time.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
            tries += 1

    def _try(self, messages: Sequence[Message], batch_id: UUID) -> Written:
        assert self._store is not None
        assert self._registry is not None
        read = decode(messages, max_bytes=self._max_bytes)
        prepared = self._judge(read)
        if any(refusal.reason in _REGISTRY_REASONS for refusal in prepared.refused):
            # A device that was registered just before it spoke must not be refused because we had not heard of it yet.
            before = self._registry.version
            self.refresh()
            if self._registry.version != before:
                prepared = self._judge(read)
        with self._store.batch(batch_id, prepared.source_ids.tolist()) as transaction:
            if transaction.committed:
                _LOG.info("a batch of %d messages had been committed by the try before", len(messages))
                return Written(counts=Counter(), stored=None, same_since=np.empty(0, np.int64))
            if transaction.registry_version != self._registry.version:
                raise RegistryMovedError
            written = write(transaction, prepared, self._registry, self._history.time)
        # Only now: had the commit failed, the next try would have to judge by the state before.
        if written.stored is not None:
            self._history.advance(written.stored, written.same_since)
        if written.replaced:
            self._history = History.loaded(self._store.history(len(self._registry.owner)))
        return written

    def _judge(self, read: Decodable) -> Prepared:
        source_ids = self._source_ids(read)
        assert self._registry is not None
        self._history = self._history.grown(len(self._registry.owner))
        return judge(read, source_ids, self._registry, self._limits, self._history)

    def _source_ids(self, read: Decodable) -> Int32:
        """Id of each message's source. A source that nobody registered gets an id, so that its messages can be accounted."""
        assert self._lookup is not None
        assert self._registry is not None
        names = [registry_store.NO_SOURCE if name is None else name for name in read.sources]
        distinct = set(names)
        if not distinct <= self._registry.sources.keys():
            registry_store.ensure_sources(self._lookup, sorted(distinct))
            self.refresh()
        return np.array([self._registry.sources[name] for name in names], np.int32)


_REGISTRY_REASONS: Final = frozenset({Reason.UNKNOWN_DEVICE, Reason.UNKNOWN_METRIC, Reason.SOURCE_MISMATCH, Reason.RETIRED})
