"""The hot path of a batch of messages: judged by the pure core, written in one transaction.

`judge` is everything before the database, `write` one attempt at the transaction. `Pipeline` keeps the state between batches (the
registry's snapshot, the history of each series) and tries again until the outcome of a batch is known.

Other processes may write for the same sources. If one has (`BatchTransaction.moved`), the history of their series is loaded again
under the locks, and the batch is judged again. So readings are always judged in the order in which they are committed.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain, repeat
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
#: s between attempts: short after a single failure, long enough not to flood a server that is starting.
_PAUSES: Final = (0.05, 0.2, 0.5, 1.0, 2.0)
#: Transactions that search for the readings that the database refuses; readings not told apart by then are refused together.
_MAX_SEARCH: Final = 200
#: Reasons that a newer snapshot of the registry may remove.
_REGISTRY_REASONS: Final = frozenset({Reason.UNKNOWN_DEVICE, Reason.UNKNOWN_METRIC, Reason.SOURCE_MISMATCH, Reason.RETIRED})


class _RehearsedError(CitybeatError):
    """The transaction would have been committed, had it not been a rehearsal."""


class RegistryMovedError(CitybeatError):
    """The registry changed after a batch was judged and before it was written."""


#: Called in a batch's transaction, with the result of the batch.
Within = Callable[[BatchTransaction, BatchResult], None]


class Pipeline:
    """Judges and writes batches. Not thread-safe.

    Parameters
    ----------
    url : str
        URL of the database.
    catalogue : Catalogue
    limits : Limits
    max_bytes : int
        Size of the largest payload that is decoded.
    quarantine_quota : int
        Bytes that a source may have in quarantine.
    """

    def __init__(self, url: str, *, catalogue: Catalogue, limits: Limits, max_bytes: int, quarantine_quota: int) -> None:
        self._url: Final = url
        self._catalogue: Final = catalogue
        self._limits: Final = limits
        self._max_bytes: Final = max_bytes
        self._quota: Final = quarantine_quota
        self._writer: BatchWriter | None = None
        self._lookup: Connection | None = None
        self._registry: Registry | None = None
        self._history = History.empty(0)

    def open(self) -> None:
        """Connect, and load the registry and the history of each series.

        Raises
        ------
        DatabaseUnavailableError, StorageError
        """
        self.close()
        self._lookup = connect(self._url, application="ingest registry")
        registry_store.listen(self._lookup)
        self._writer = BatchWriter(self._url, quarantine_quota=self._quota)
        self._registry = registry_store.load(self._lookup, self._catalogue)
        self._history = History.loaded(self._writer.history(len(self._registry.owner)))

    def close(self) -> None:
        """Close the connections."""
        for thing in (self._writer, self._lookup):
            if thing is not None:
                thing.close()
        self._writer = self._lookup = None

    @property
    def is_open(self) -> bool:
        """True while the connections are open."""
        return self._writer is not None

    def poll_registry(self) -> None:
        """Load the registry if the database has notified of a change; costs one system call if it has not."""
        if self._lookup is None:
            return
        try:
            if registry_store.notified(self._lookup):
                self.refresh()
        except DatabaseUnavailableError as exc:
            _LOG.warning("the database is unavailable, will retry: %s", exc)
            self.close()

    def refresh(self) -> None:
        """Load the registry if it has changed, and with it the history of each series, which a declaration changes too."""
        assert self._lookup is not None
        assert self._registry is not None
        if registry_store.version(self._lookup) != self._registry.version:
            self._registry = registry_store.load(self._lookup, self._catalogue)
            assert self._writer is not None
            self._history = History.loaded(self._writer.history(len(self._registry.owner)))
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
            Called between attempts; if it returns true, there is no other one.
        batch_id : UUID, optional
            Id of the batch at an earlier attempt, if there may have been one; by default a new one.
        trouble : callable, optional
            Called with the error of each failed attempt.
        within : callable, optional
            Called in the transaction, after everything is written. A batch with it is one transaction even if the database refuses
            some of its readings.

        Returns
        -------
        BatchResult or None
            None: `give_up` returned true; nothing of the batch may be acknowledged.

        Raises
        ------
        StorageError
            The database refuses access for a reason that trying again does not remove. Readings that it refuses are quarantined.
        """
        number = batch_id or uuid4()
        refused: RefusedDataError | None = None

        def attempt() -> BatchResult | None:
            nonlocal refused
            try:
                if refused is None:
                    return self._try(messages, number, within=within)
            except RefusedDataError as exc:
                if within is None and len(messages) > 1:
                    return self._divided(messages, number, give_up, trouble)
                _LOG.warning("the database refuses readings: %s", exc)
                refused = exc
            return self._without_what_is_refused(messages, number, refused, within)

        return self._until_done(attempt, give_up, trouble)

    def ask(
        self,
        question: Callable[[Connection], _T],
        give_up: Callable[[], bool],
        trouble: Callable[[CitybeatError], None] | None = None,
    ) -> _T | None:
        """Call a function with a connection in autocommit mode, and try again as `process` does; None: given up."""

        def attempt() -> _T:
            assert self._lookup is not None
            return question(self._lookup)

        return self._until_done(attempt, give_up, trouble)

    def _until_done(
        self, attempt: Callable[[], _T], give_up: Callable[[], bool], trouble: Callable[[CitybeatError], None] | None
    ) -> _T | None:
        """Call `attempt`, with open connections, until it does not fail for want of the database; None: given up."""
        pauses = chain(_PAUSES, repeat(_PAUSES[-1]))
        moved = False
        while True:
            try:
                if self._writer is None:
                    self.open()
                elif moved:
                    self.refresh()
                moved = False
                return attempt()
            except RegistryMovedError:
                # The batch was judged by an outdated registry: a declaration waits for it, or has been applied to stored readings.
                moved = True
                continue
            except TransientError as exc:
                _LOG.info("a batch failed, will retry: %s", exc)
                problem: CitybeatError = exc
            except DatabaseUnavailableError as exc:
                _LOG.debug("the database is unavailable, will retry: %s", exc)
                self.close()
                problem = exc
            if trouble is not None:
                trouble(problem)
            if give_up():
                return None
            time.sleep(next(pauses))

    def _divided(
        self,
        messages: Sequence[Message],
        batch_id: UUID,
        give_up: Callable[[], bool],
        trouble: Callable[[CitybeatError], None] | None,
    ) -> BatchResult | None:
        """Write a batch in halves, since the database refuses some of its readings, so that only these are left out."""
        middle = len(messages) // 2
        total = Counter[str]()
        named = Counter[tuple[str, str]]()
        for half, name in ((messages[:middle], "first"), (messages[middle:], "second")):
            # The ids are the same at another attempt, so that a half that was committed before the process died is recognised.
            written = self.process(half, give_up, batch_id=uuid5(batch_id, name), trouble=trouble)
            if written is None:
                return None
            total.update(written.counts)
            named.update(written.refused)
        return BatchResult(counts=total, refused=named, stored=None, same_since=np.empty(0, np.int64))

    def _without_what_is_refused(
        self, messages: Sequence[Message], batch_id: UUID, refused: RefusedDataError, within: Within | None
    ) -> BatchResult:
        """Write messages without the readings that the database refuses, which are found by bisection."""
        size = int(decode(messages, max_bytes=self._max_bytes).decoded.received.sum())
        poison: list[int] = []  # positions among the readings of all messages
        tries = 0

        def search(places: range) -> None:
            nonlocal tries
            tries += 1
            if tries <= _MAX_SEARCH and self._is_taken(messages, [*range(places.start), *range(places.stop, size)]):
                return
            if len(places) == 1 or tries > _MAX_SEARCH:
                poison.extend(places)
                return
            middle = len(places) // 2
            search(places[:middle])
            search(places[middle:])

        search(range(size))
        return self._try(messages, batch_id, without=poison, why=str(refused), within=within)

    def _is_taken(self, messages: Sequence[Message], without: Sequence[int]) -> bool:
        """Return True if the database would take messages without some of their readings."""
        try:
            self._try(messages, uuid4(), without=without, why="", rehearsal=True)
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
        """Attempt the transaction. `without`: positions, counted through all messages, of readings to refuse because of `why`."""
        assert self._writer is not None
        assert self._registry is not None
        read = decode(messages, max_bytes=self._max_bytes)
        prepared = self._judge(read, without, why)
        if any(refusal.reason in _REGISTRY_REASONS for refusal in prepared.refused):
            # A device that was registered just before it sent must not be refused because the notification has not arrived.
            before = self._registry.version
            self.refresh()
            if self._registry.version != before:
                prepared = self._judge(read, without, why)
        with self._writer.batch(batch_id, prepared.source_ids.tolist()) as transaction:
            if transaction.committed:
                _LOG.info("a batch of %d messages had been committed by the attempt before", len(messages))
                return BatchResult(counts=Counter(), stored=None, same_since=np.empty(0, np.int64))
            if transaction.registry_version != self._registry.version:
                raise RegistryMovedError
            if transaction.moved:
                # Under the locks no other process writes for these sources: the history stays valid until the transaction ends.
                self._history.put(transaction.catch_up())
                prepared = self._judge(read, without, why)
            written = write(transaction, prepared, self._registry, self._history.time)
            if within is not None:
                within(transaction, written)
            if rehearsal:
                raise _RehearsedError
        # After the commit: had it failed, the next attempt would have to judge by the history before.
        if written.stored is not None:
            self._history.advance(written.stored, written.same_since)
        if written.replaced:
            self._history = History.loaded(self._writer.history(len(self._registry.owner)))
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
        """Id of each message's source. An unregistered source gets an id, so that the ledger can count its messages."""
        assert self._lookup is not None
        assert self._registry is not None
        names = [registry_store.NO_SOURCE if name is None else name for name in read.sources]
        distinct = set(names)
        if not distinct <= self._registry.sources.keys():
            registry_store.ensure_sources(self._lookup, sorted(distinct))
            self.refresh()
        return np.array([self._registry.sources[name] for name in names], np.int32)
