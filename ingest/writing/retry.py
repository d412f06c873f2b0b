"""Retry of quarantine: refused readings, with their original time of receipt, through the same core and transaction.

Readings that fail again stay in quarantine, with the reasons that hold now. The ledger is corrected in the original minute.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self
from uuid import uuid4

import numpy as np

from citybeat.devices.batch import Bools, Int64
from citybeat.devices.catalogue import Catalogue
from citybeat.devices.errors import Reason
from citybeat.devices.registry.snapshot import Registry
from citybeat.devices.wire.decoded import Refusal, Refused
from citybeat.ingest.judging.decode import decode
from citybeat.ingest.judging.history import History
from citybeat.ingest.judging.judge import PreparedBatch, judge
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.writing.commit import conflicts_of, roll_up, tallies_of
from citybeat.storage.accounts import quarantine
from citybeat.storage.accounts.quarantine import Filter, Held
from citybeat.storage.batches.rows import CONFLICT, DUPLICATE, NEW
from citybeat.storage.batches.write import BatchTransaction
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.connection import Connection, RefusedDataError
from citybeat.storage.registry import records as registry_store

#: Rows of quarantine in one transaction: enough to make its fixed cost small, and few, since their sources wait for it.
_ROWS: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings by which a retry judges, the same as those of ingest."""

    catalogue: Catalogue
    limits: Limits
    max_bytes: int  # of a payload
    quarantine_quota: int  # bytes of each source


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """Result of a retry."""

    counts: Counter[str]
    last: int | None  # id of the last row that was tried, if there may be more after it


@dataclass(slots=True)
class _Known:
    """State by which rows are judged."""

    registry: Registry
    history: History

    @classmethod
    def loaded(cls, writer: BatchWriter, connection: Connection, settings: Settings) -> Self:
        registry = registry_store.load(connection, settings.catalogue)
        return cls(registry, History.loaded(writer.history(len(registry.owner))))


def replay(
    writer: BatchWriter, connection: Connection, settings: Settings, wanted: Filter, *, after: int = 0, limit: int | None = None
) -> Replayed:
    """Retry the open rows of a filter, oldest first.

    Parameters
    ----------
    writer : BatchWriter
    connection : Connection
        In autocommit mode; for reading.
    settings : Settings
    wanted : Filter
    after : int
        Only rows after this id.
    limit : int, optional
        Most rows to retry; by default all.

    Returns
    -------
    Replayed
        Counts: `messages` that were tried; readings by outcome (`stored`, `duplicate`, `conflict`, `missing`); readings that stay
        (`quarantined`); messages that stay as a whole (`unreadable`).

    Raises
    ------
    StorageError
        Any subclass of it: see `BatchWriter.batch`. Work that was committed stays; calling again continues.
    """
    known = _Known.loaded(writer, connection, settings)
    total: Counter[str] = Counter()
    left = sys.maxsize if limit is None else limit
    while rows := quarantine.listed(connection, wanted, after=after, limit=min(_ROWS, left)):
        after = rows[-1].id
        left -= len(rows)
        ids = [row.id for row in rows]
        try:
            total.update(_transact(writer, connection, ids, known, settings))
        except RefusedDataError:
            # The database still refuses readings of some row: that row stays as it is, and the others are retried.
            for row in rows:
                try:
                    total.update(_transact(writer, connection, [row.id], known, settings))
                except RefusedDataError:
                    total.update(messages=1, quarantined=row.readings)
        if not left:
            return Replayed(counts=total, last=after)
    return Replayed(counts=total, last=None)


def _transact(writer: BatchWriter, connection: Connection, ids: Sequence[int], known: _Known, settings: Settings) -> Counter[str]:
    """Retry some rows in one transaction."""
    while True:
        with writer.batch(uuid4(), quarantine.sources_of(connection, ids)) as transaction:
            if fresh := transaction.registry_version == known.registry.version:
                if transaction.moved:
                    known.history.put(transaction.catch_up())
                held = [row for row in quarantine.hold(transaction.connection, ids) if _can_be_tried(row)]
                counts, prepared, stored = _try(transaction, held, known.registry, known.history, settings)
        if fresh:
            known.history.advance(prepared.judged.batch.take(stored), prepared.same_since[stored])
            return counts
        # As for a batch: a declaration waits for these rows, or has been applied to stored readings.
        anew = _Known.loaded(writer, connection, settings)
        known.registry, known.history = anew.registry, anew.history


def _can_be_tried(row: Held) -> bool:
    """Return True unless a retry is futile: conflicts would be lost again, and of too large payloads only the head was kept."""
    reasons = {entry.reason for entry in row.refused}
    return Reason.TOO_LARGE not in reasons and bool(reasons - {Reason.CONFLICT})


def _try(
    transaction: BatchTransaction, held: Sequence[Held], registry: Registry, history: History, settings: Settings
) -> tuple[Counter[str], PreparedBatch, Bools]:
    messages = [Message(row.topic, row.payload, row.received_at, False, 0, 0, 0) for row in held]
    read = decode(messages, max_bytes=settings.max_bytes)
    prepared = judge(read, np.array([row.source for row in held], np.int32), registry, settings.limits, history)
    prepared, missing = _only(prepared, held)
    batch, m = prepared.judged.batch, len(held)
    inserted = transaction.insert(batch, history.time)
    new = inserted.outcome == NEW
    roll_up(transaction, batch.take(new), prepared.same_since[new], registry, history.time)
    # Whatever the source's policy: a reading from quarantine is older than the stored one, and does not replace it.
    lost = conflicts_of(batch, np.flatnonzero(inserted.outcome == CONFLICT), inserted.kept, np.empty(0, np.int64))
    whole = np.array([any(entry.reading is None for entry in row.refused) for row in held], np.bool_)
    unreadable = np.zeros(m, np.bool_)
    unreadable[[r.message for r in prepared.refused if r.index is None]] = True
    again = _count([r.message for r in prepared.refused if r.index is not None], m)
    before = np.array(
        [sum(entry.reading is not None and entry.reason != Reason.CONFLICT for entry in row.refused) for row in held], np.int64
    )
    columns = {
        "undecodable": -(whole & ~unreadable).astype(np.int64),
        "received": np.where(whole, read.decoded.received, 0).astype(np.int64),
        "stored": _count(batch.message[new], m),
        "duplicate": _count(batch.message[inserted.outcome == DUPLICATE], m),
        "conflict": _count(batch.message[inserted.outcome == CONFLICT], m),
        "missing": missing,
        "quarantined": again - before,
    }
    transaction.add_ledger(tallies_of(prepared, columns), {})
    for i, row in enumerate(held):
        left = [refusal for refusal in [*prepared.refused, *lost] if refusal.message == i]
        quarantine.leave(transaction.connection, row, _entries(row, left))
    counts = Counter({name: int(columns[name].sum()) for name in ("stored", "duplicate", "conflict", "missing")})
    counts.update(messages=m, quarantined=int(again.sum()), unreadable=int(unreadable.sum()))
    return counts, prepared, new


def _only(prepared: PreparedBatch, held: Sequence[Held]) -> tuple[PreparedBatch, Int64]:
    """Limit a batch to the readings that had been refused; and count those of each message that are missing now."""
    asked = {
        (i, entry.reading)
        for i, row in enumerate(held)
        for entry in row.refused
        if entry.reading is not None and entry.reason != Reason.CONFLICT
    }
    whole = {i for i, row in enumerate(held) if any(entry.reading is None for entry in row.refused)}

    def wanted(message: int, index: int | None) -> bool:
        return message in whole or (message, index) in asked

    batch = prepared.judged.batch
    keep = np.array([wanted(*key) for key in zip(batch.message.tolist(), batch.index.tolist(), strict=True)], np.bool_)
    refused = [refusal for refusal in prepared.refused if refusal.message in whole or wanted(refusal.message, refusal.index)]
    for refusal in prepared.refused:  # a message that could be read before and cannot now: each of its readings stays
        if refusal.index is None and refusal.message not in whole:
            refused += [replace(refusal, index=index) for message, index in sorted(asked) if message == refusal.message]
    # A retried reading that is neither stored nor refused has no value.
    sizes = prepared.read.decoded.received
    total = np.array([sizes[i] if i in whole else sum(message == i for message, _ in asked) for i in range(len(held))], np.int64)
    readable = np.ones(len(held), np.bool_)
    readable[[r.message for r in refused if r.index is None]] = False
    found = _count(batch.message[keep], len(held)) + _count([r.message for r in refused if r.index is not None], len(held))
    judged = replace(prepared.judged, batch=batch.take(keep))
    only = replace(prepared, judged=judged, refused=refused, same_since=prepared.same_since[keep])
    return only, np.where(readable, total - found, 0)


def _entries(row: Held, left: Sequence[Refusal]) -> list[Refused]:
    """Entries that a row keeps: conflicts lost when the message came, and readings that are refused or lost now."""
    lost_before = [entry for entry in row.refused if entry.reason == Reason.CONFLICT]
    now = [refusal.entry for refusal in left]
    return sorted(lost_before + now, key=lambda entry: -1 if entry.reading is None else entry.reading)


def _count(messages: Sequence[int] | np.typing.NDArray[np.int32], m: int) -> Int64:
    return np.bincount(np.asarray(messages, np.int64), minlength=m).astype(np.int64)
