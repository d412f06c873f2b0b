"""A batch of messages through the hot path: judged by the pure core, written in one transaction.

`judge` is everything before the database, `write` one try at the transaction; `Pipeline` holds what lasts from one batch to the
next (the registry's snapshot, what is known of each series) and tries again until the outcome is known.

Others may write for the same sources. When somebody has (`BatchTransaction.moved`), what is known of their series is loaded anew
under the locks, and the batch judged again. So whoever writes, readings are judged in the order in which they are committed.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, TypeVar
from uuid import UUID, uuid4, uuid5

import numpy as np

from citybeat.devices.batch import Int32
from citybeat.devices.catalogue import Catalogue
from citybeat.devices.errors import CitybeatError, Reason
from citybeat.devices.registry.snapshot import Registry
from citybeat.ingest.judging.decode import DecodedBatch, decode
from citybeat.ingest.judging.history import History
from citybeat.ingest.judging.judge import PreparedBatch, judge, withheld
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.writing.commit import BatchResult, write
from citybeat.storage.batches.write import BatchTransaction
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.connection import Connection, DatabaseUnavailableError, RefusedDataError, TransientError, connect
from citybeat.storage.registry import records as registry_store

_LOG: Final = logging.getLogger(__name__)
_T = TypeVar("_T")
#: s. Between tries: at once for a hiccup, never so often that a starting server is hammered.
_PAUSES: Final = (0.05, 0.2, 0.5, 1.0, 2.0)


#: Transactions that are tried to find what the database refuses of a message; what is not told apart by then is refused together.
_MAX_SEARCH: Final = 200


class _RehearsedError(CitybeatError):
    """The database would have taken a transaction."""


class RegistryMovedError(CitybeatError):
    """The registry changed between judging a batch and writing it."""


#: Something more to be done in a batch's transaction, when what came of it is known.
Within = Callable[[BatchTransaction, BatchResult], None]


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
        self._store: BatchWriter | None = None
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
        self._store = BatchWriter(self._url, quarantine_quota=self._quota)
        self._registry = registry_store.load(self._lookup, self._catalogue)
        self._history = History.loaded(self._store.history(len(self._registry.owner)))

    def close(self) -> None:
        """Close the connections."""
        for thing in (self._store, self._lookup):
            if thing is not None:
                thing.close()
        self._store = self._lookup = None

    @property
    def is_open(self) -> bool:
        """Whether it has connections."""
        return self._store is not None

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

    def process(
        self,
        messages: Sequence[Message],
        give_up: Callable[[], bool],
        *,
        batch_id: UUID | None = None,
        trouble: Callable[[CitybeatError], None] | None = None,
        within: Within | None = None,
    ) -> BatchResult | None:
        """Judge and write a batch, and try again until it is committed.

        Parameters
        ----------
        messages : sequence of Message
        give_up : callable
            Asked between tries; if true, the batch is left to whoever has it.
        batch_id : UUID, optional
            The one that it had at an earlier try, if there may have been one; a new one, unless given.
        trouble : callable, optional
            Gets what went wrong with a try before the next one.
        within : callable, optional
            Called in the transaction, when all is written. Such a batch is one transaction, whatever the database refuses of it.

        Returns
        -------
        BatchResult or None
            None: given up, and nothing of the batch may be acknowledged.

        Raises
        ------
        StorageError
            The database refuses us for a reason that trying again does not remove. What it refuses of the batch itself is
            quarantined.
        """
        batch_id = batch_id or uuid4()
        refused: RefusedDataError | None = None
        tries = 0
        while True:
            try:
                if self._store is None:
                    self.open()
                if refused is not None:
                    return self._without_what_is_refused(messages, batch_id, refused, within)
                return self._try(messages, batch_id, within=within)
            except RefusedDataError as exc:
                if refused is not None:
                    raise  # though all readings were left out
                if within is None and len(messages) > 1:
                    return self._divided(messages, batch_id, give_up, trouble)
                _LOG.warning("the database refuses readings: %s", exc)
                refused = exc
                continue
            except RegistryMovedError:
                # Judged by what no longer holds: a declaration waits for this batch, or has been applied to what is stored.
                self._refresh_or_close()
                continue
            except TransientError as exc:
                _LOG.info("trying again: %s", exc)
                problem: CitybeatError = exc
            except DatabaseUnavailableError as exc:
                _LOG.debug("database away, %d messages wait: %s", len(messages), exc)
                self.close()
                problem = exc
            if not _again(problem, tries, give_up, trouble):
                return None
            tries += 1

    def ask(
        self,
        question: Callable[[Connection], _T],
        give_up: Callable[[], bool],
        trouble: Callable[[CitybeatError], None] | None = None,
    ) -> _T | None:
        """What a function finds on a connection in autocommit mode, tried until it finds it; None: given up. See `process`."""
        tries = 0
        while True:
            try:
                if self._lookup is None:
                    self.open()
                assert self._lookup is not None
                return question(self._lookup)
            except TransientError as exc:
                problem: CitybeatError = exc
            except DatabaseUnavailableError as exc:
                self.close()
                problem = exc
            if not _again(problem, tries, give_up, trouble):
                return None
            tries += 1

    def _divided(
        self,
        messages: Sequence[Message],
        batch_id: UUID,
        give_up: Callable[[], bool],
        trouble: Callable[[CitybeatError], None] | None,
    ) -> BatchResult | None:
        """Write a batch of which the database refuses something, in halves, so that only what it refuses is kept out."""
        middle = len(messages) // 2
        total = Counter[str]()
        named = Counter[tuple[str, str]]()
        for half, name in ((messages[:middle], "first"), (messages[middle:], "second")):
            # The same ids at another try: if we die in between, what was committed is found to be.
            written = self.process(half, give_up, batch_id=uuid5(batch_id, name), trouble=trouble)
            if written is None:
                return None
            total.update(written.counts)
            named.update(written.refused)
        return BatchResult(counts=total, refused=named, stored=None, same_since=np.empty(0, np.int64))

    def _without_what_is_refused(
        self, messages: Sequence[Message], batch_id: UUID, refused: RefusedDataError, within: Within | None
    ) -> BatchResult:
        """Write messages without the readings that the database refuses, which are found by trying halves."""
        poison: list[int] = []  # places in all messages together
        tries = 0

        def search(places: list[int]) -> None:
            nonlocal tries
            tries += 1
            if tries > _MAX_SEARCH or not self._is_taken(messages, places):
                if len(places) == 1 or tries > _MAX_SEARCH:
                    poison.extend(places)
                    return
                middle = len(places) // 2
                search(places[:middle])
                search(places[middle:])

        size = int(decode(messages, max_bytes=self._max_bytes).decoded.received.sum())
        search(list(range(size)))
        return self._try(messages, batch_id, without=poison, why=str(refused), within=within)

    def _is_taken(self, messages: Sequence[Message], places: Sequence[int]) -> bool:
        """Whether the database would take these readings of messages, and no others."""
        chosen = set(places)
        size = int(decode(messages, max_bytes=self._max_bytes).decoded.received.sum())
        others = [place for place in range(size) if place not in chosen]
        try:
            self._try(messages, uuid4(), without=others, why="", rehearsal=True)
        except _RehearsedError:
            return True
        except RefusedDataError:
            return False
        raise AssertionError("a rehearsal was committed")

    def _try(
        self,
        messages: Sequence[Message],
        batch_id: UUID,
        *,
        without: Sequence[int] = (),
        why: str = "",
        rehearsal: bool = False,
        within: Within | None = None,
    ) -> BatchResult:
        """One transaction. `without`: readings, counted through all messages, that are refused as `why` says."""
        assert self._store is not None
        assert self._registry is not None
        read = decode(messages, max_bytes=self._max_bytes)
        prepared = self._judge(read, without, why)
        if any(refusal.reason in _REGISTRY_REASONS for refusal in prepared.refused):
            # A device that was registered just before it spoke must not be refused because we had not heard of it yet.
            before = self._registry.version
            self.refresh()
            if self._registry.version != before:
                prepared = self._judge(read, without, why)
        with self._store.batch(batch_id, prepared.source_ids.tolist()) as transaction:
            if transaction.committed:
                _LOG.info("a batch of %d messages had been committed by the try before", len(messages))
                return BatchResult(counts=Counter(), stored=None, same_since=np.empty(0, np.int64))
            if transaction.registry_version != self._registry.version:
                raise RegistryMovedError
            if transaction.moved:
                # Under the locks nobody else writes for them: what is loaded now holds to the end of the transaction.
                self._history.put(transaction.catch_up())
                prepared = self._judge(read, without, why)
            written = write(transaction, prepared, self._registry, self._history.time)
            if within is not None:
                within(transaction, written)
            if rehearsal:
                raise _RehearsedError
        # Only now: had the commit failed, the next try would have to judge by the state before.
        if written.stored is not None:
            self._history.advance(written.stored, written.same_since)
        if written.replaced:
            self._history = History.loaded(self._store.history(len(self._registry.owner)))
        return written

    def _judge(self, read: DecodedBatch, without: Sequence[int], why: str) -> PreparedBatch:
        source_ids = self._source_ids(read)
        assert self._registry is not None
        self._history = self._history.grown(len(self._registry.owner))
        prepared = judge(read, source_ids, self._registry, self._limits, self._history)
        if not without:
            return prepared
        received, batch = read.decoded.received.astype(np.int64), prepared.judged.batch
        places = (np.cumsum(received) - received)[batch.message] + batch.index
        return withheld(prepared, np.isin(places, without), Reason.REFUSED_BY_DATABASE, why)

    def _source_ids(self, read: DecodedBatch) -> Int32:
        """Id of each message's source. A source that nobody registered gets an id, so that its messages can be accounted."""
        assert self._lookup is not None
        assert self._registry is not None
        names = [registry_store.NO_SOURCE if name is None else name for name in read.sources]
        distinct = set(names)
        if not distinct <= self._registry.sources.keys():
            registry_store.ensure_sources(self._lookup, sorted(distinct))
            self.refresh()
        return np.array([self._registry.sources[name] for name in names], np.int32)


def _again(
    problem: CitybeatError, tries: int, give_up: Callable[[], bool], trouble: Callable[[CitybeatError], None] | None
) -> bool:
    """Tell of a problem, and wait before the next try; False: there is to be none."""
    if trouble is not None:
        trouble(problem)
    if give_up():
        return False
    time.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
    return True


_REGISTRY_REASONS: Final = frozenset({Reason.UNKNOWN_DEVICE, Reason.UNKNOWN_METRIC, Reason.SOURCE_MISMATCH, Reason.RETIRED})
