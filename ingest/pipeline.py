"""A batch of messages through the hot path: judged by the pure core, written in one transaction.

`judge` is everything before the database, `write` one try at the transaction; `Pipeline` holds what lasts from one batch to the
next (the registry's snapshot, the newest time of each series) and tries again until the outcome is known.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

import numpy as np

from devices.batch import MINUTE, NEVER, Batch, Bools, Int32, Int64
from devices.catalogue import Catalogue
from devices.decoded import Refusal
from devices.errors import Reason
from devices.flags import Flag
from devices.registry import Registry
from ingest.decode import Decodable, decode, evidence
from ingest.downsample import downsample
from ingest.message import Message
from ingest.resolve import resolve
from ingest.validate import Judged, Limits, validate
from storage import registry as registry_store
from storage.database import Connection, DatabaseUnavailableError, TransientError, connect
from storage.write import CONFLICT, DUPLICATE, NEW, Numbers, Quarantined, Store, Tally, Transaction

_LOG: Final = logging.getLogger(__name__)
#: s. Between tries: at once for a hiccup, never so often that a starting server is hammered.
_PAUSES: Final = (0.05, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A batch of m messages, judged, and ready to be written."""

    read: Decodable
    source_ids: Int32  # (m,)
    judged: Judged  # its batch is sorted by series, then time
    refused: Sequence[Refusal]  # of messages and readings, from every step
    numbered: Int64  # messages that have a seq


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What a batch came to."""

    counts: Counter[str]  # as the ledger's columns
    stored: Batch | None  # None: an earlier try had committed it


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
        self._newest: Int64 = np.empty(0, np.int64)

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
        self._newest = self._store.newest(len(self._registry.owner))

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

    def housekeep(self) -> None:
        """Have the database forget what is only needed for a short while; a failure waits for the next round."""
        try:
            if self._store is not None:
                self._store.housekeep()
        except DatabaseUnavailableError as exc:
            _LOG.warning("housekeeping put off: %s", exc)
            self.close()

    def refresh(self) -> None:
        """Take in changes of the registry, if there are any."""
        assert self._lookup is not None
        assert self._registry is not None
        if registry_store.version(self._lookup) != self._registry.version:
            self._registry = registry_store.load(self._lookup, self._catalogue)
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
        prepared = judge(read, self._source_ids(read), self._registry, self._limits)
        if any(refusal.reason in _REGISTRY_REASONS for refusal in prepared.refused):
            # A device that was registered just before it spoke must not be refused because we had not heard of it yet.
            before = self._registry.version
            self.refresh()
            if self._registry.version != before:
                prepared = judge(read, self._source_ids(read), self._registry, self._limits)
        missing = len(self._registry.owner) - len(self._newest)
        if missing > 0:
            self._newest = np.concatenate([self._newest, np.full(missing, NEVER, np.int64)])
        with self._store.batch(batch_id, prepared.source_ids.tolist()) as transaction:
            if transaction.committed:
                _LOG.info("a batch of %d messages had been committed by the try before", len(messages))
                return Written(counts=Counter(), stored=None)
            written = write(transaction, prepared, self._registry, self._newest)
        # Only now: had the commit failed, the next try would have to judge by the state before.
        if written.stored is not None:
            np.maximum.at(self._newest, written.stored.series, written.stored.time)
        return written

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


def judge(read: Decodable, source_ids: Int32, registry: Registry, limits: Limits) -> Prepared:
    """Everything before the database: resolve and validate what was decoded.

    Parameters
    ----------
    read : Decodable, m messages
    source_ids : (m,) int32
        Id of each message's source.
    registry, limits
        As for `resolve` and `validate`.
    """
    series, unresolved = resolve(read.decoded, source_ids, registry)
    judged = validate(read.decoded, series, read.received_at, registry, limits)
    order = np.lexsort((judged.batch.time, judged.batch.series))  # stable: equal keys stay in order of arrival
    return Prepared(
        read=read,
        source_ids=source_ids,
        judged=Judged(batch=judged.batch.take(order), missing=judged.missing, refused=judged.refused),
        refused=[*read.decoded.refused, *unresolved, *judged.refused],
        numbered=np.flatnonzero(read.decoded.seq >= 0),
    )


def write(transaction: Transaction, prepared: Prepared, registry: Registry, newest: Int64) -> Written:
    """The steps of one batch's transaction (DESIGN, "one batch is one transaction").

    Parameters
    ----------
    transaction : Transaction
        Holds the locks of the batch's sources.
    prepared : Prepared
    registry : Registry
    newest : (s,) int64
        Hint for `Transaction.insert`.
    """
    read, batch = prepared.read, prepared.judged.batch
    m = len(read.messages)
    numbers = _numbers(prepared)
    repeated = _repeated(prepared, transaction.seen(numbers))
    # A reading without a time of its own cannot be recognised by it: of a message that was committed before it is a duplicate.
    skipped = repeated[batch.message] & ((batch.flags & Flag.CLOCK) != 0)
    inserted = transaction.insert(batch.take(~skipped), newest)
    outcome = np.full(len(batch), DUPLICATE, np.int8)
    outcome[~skipped] = inserted.outcome
    # What lost a conflict, or was refused, when the message came first is in quarantine and counted; this time it is a repeat.
    outcome[repeated[batch.message] & (outcome == CONFLICT)] = DUPLICATE
    stored = batch.take(outcome == NEW)
    transaction.merge_1m(downsample(stored, registry.kind))
    transaction.merge_latest(stored)
    kept = batch.value.copy()
    kept[~skipped] = inserted.kept
    conflicts = _conflicts(batch, np.flatnonzero(outcome == CONFLICT), kept)
    refused = [refusal for refusal in prepared.refused if not repeated[refusal.message]]
    again = np.bincount([r.message for r in prepared.refused if r.index is not None and repeated[r.message]], minlength=m)
    rows = _quarantined(prepared, refused + conflicts)
    overflow = transaction.quarantine(rows)
    duplicate = np.bincount(batch.message[outcome == DUPLICATE], minlength=m) + again
    conflict = np.bincount(batch.message[outcome == CONFLICT], minlength=m)
    quarantined = np.bincount([r.message for r in refused if r.index is not None], minlength=m)
    columns = {
        "messages": np.ones(m, np.int64),
        "undecodable": np.bincount([r.message for r in prepared.refused if r.index is None], minlength=m),
        "redelivered": (repeated | np.array([message.redelivered for message in read.messages])).astype(np.int64),
        "received": read.decoded.received.astype(np.int64),
        "stored": np.bincount(stored.message, minlength=m),
        "duplicate": duplicate,
        "conflict": conflict,
        "missing": prepared.judged.missing.astype(np.int64),
        "quarantined": quarantined,
    }
    transaction.add_ledger(_tallies(prepared, columns), overflow)
    transaction.add_seqs(numbers)
    for i, status in read.statuses:
        transaction.set_status(int(prepared.source_ids[i]), status, read.messages[i].received_at)
    return Written(counts=Counter({name: int(column.sum()) for name, column in columns.items()}), stored=stored)


def _numbers(prepared: Prepared) -> Numbers:
    decoded, rows = prepared.read.decoded, prepared.numbered.tolist()
    return Numbers(
        sources=prepared.source_ids[rows].tolist(),
        boots=[decoded.boot[i] for i in rows],
        seqs=decoded.seq[rows].tolist(),
        received_at=prepared.read.received_at[rows].tolist(),
    )


def _repeated(prepared: Prepared, seen: Bools) -> Bools:
    """Which of the m messages were received before, in an earlier batch or earlier in this one.

    A number alone does not prove it: a source that has no `boot` and starts again at 0 would be taken for its own past. So the
    source must name its boot, or the broker must say that it delivers again.
    """
    decoded, messages = prepared.read.decoded, prepared.read.messages
    repeated = np.zeros(len(messages), np.bool_)
    here: set[tuple[int, str, int]] = set()
    for place, i in enumerate(prepared.numbered.tolist()):
        key = (int(prepared.source_ids[i]), decoded.boot[i], int(decoded.seq[i]))
        repeated[i] = (seen[place] or key in here) and (decoded.boot[i] != "" or messages[i].redelivered)
        here.add(key)
    return repeated


def _conflicts(batch: Batch, rows: Int64, kept: np.typing.NDArray[np.float64]) -> list[Refusal]:
    return [
        Refusal(
            message=int(batch.message[row]),
            index=int(batch.index[row]),
            reason=Reason.CONFLICT,
            detail=f"{batch.value[row]} came, {kept[row]} is stored at that time",
        )
        for row in rows.tolist()
    ]


def _quarantined(prepared: Prepared, refused: Sequence[Refusal]) -> list[Quarantined]:
    """One row a message, in order of receipt."""
    by_message: dict[int, list[Refusal]] = {}
    for refusal in refused:
        by_message.setdefault(refusal.message, []).append(refusal)
    rows = []
    for i, refusals in sorted(by_message.items()):
        message = prepared.read.messages[i]
        refusals.sort(key=lambda refusal: -1 if refusal.index is None else refusal.index)
        rows.append(
            Quarantined(
                received_at=message.received_at,
                source=int(prepared.source_ids[i]),
                topic=message.topic,
                payload=evidence(message, refusals[0].reason),
                refused=[(refusal.index, refusal.reason.value, refusal.detail) for refusal in refusals],
                readings=sum(refusal.index is not None and refusal.reason is not Reason.CONFLICT for refusal in refusals),
            )
        )
    return rows


def _tallies(prepared: Prepared, columns: dict[str, np.typing.NDArray[np.int64]]) -> list[Tally]:
    """Columns of counts a message, summed by minute of receipt and source."""
    minute = prepared.read.received_at // MINUTE * MINUTE
    keys, which = np.unique(np.stack([minute, prepared.source_ids.astype(np.int64)]), axis=1, return_inverse=True)
    sums = {name: np.bincount(which.ravel(), weights=column).astype(np.int64) for name, column in columns.items()}
    return [
        Tally(minute=int(keys[0, k]), source=int(keys[1, k]), **{name: int(total[k]) for name, total in sums.items()})
        for k in range(keys.shape[1])
    ]
