"""The steps of a batch's transaction: everything that a batch changes is committed together, or nothing of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from citybeat.devices.batch import MINUTE, Batch, Bools, Float64, Int64
from citybeat.devices.errors import Reason
from citybeat.devices.flags import Flag
from citybeat.devices.registry.snapshot import Registry
from citybeat.devices.wire.decoded import Refusal
from citybeat.ingest.judging.decode import evidence
from citybeat.ingest.judging.judge import PreparedBatch
from citybeat.storage.batches.rows import CONFLICT, DUPLICATE, NEW, Numbers, Quarantined, Tally
from citybeat.storage.batches.write import BatchTransaction
from citybeat.storage.registry.records import NO_SOURCE


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchResult:
    """Result of a batch."""

    counts: Counter[str]  # the ledger's columns
    stored: Batch | None  # None: an earlier attempt had committed the batch
    same_since: Int64  # of each stored reading
    replaced: int = 0  # stored readings whose value was replaced
    #: Readings, or whole messages, that went to quarantine, by name of the source ("?": the topic names none) and reason.
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    columns: Mapping[str, Int64] = field(default_factory=dict)  # the counts of each message; empty: not known
    refusals: Sequence[Refusal] = ()  # as they went to quarantine, conflicts included

    @property
    def reasons(self) -> Counter[str]:
        """`refused` by reason, of all sources."""
        total = Counter[str]()
        for (_, reason), count in self.refused.items():
            total[reason] += count
        return total


def write(transaction: BatchTransaction, prepared: PreparedBatch, registry: Registry, newest: Int64) -> BatchResult:
    """Write a batch within its transaction.

    Parameters
    ----------
    transaction : BatchTransaction
        Holds the locks of the batch's sources.
    prepared : PreparedBatch
    registry : Registry
    newest : (s,) int64
        us. Time of each series' newest reading, a hint for `BatchTransaction.insert`.
    """
    read, batch = prepared.read, prepared.judged.batch
    m = len(read.messages)
    numbers = _numbers(prepared)
    repeated = _repeated(prepared, transaction.seen(numbers))
    # A reading without a time cannot be recognised by series and time: in a message that was committed before it is a duplicate.
    skipped = repeated[batch.message] & ((batch.flags & Flag.CLOCK) != 0)
    inserted = transaction.insert(batch.take(~skipped), newest)
    outcome = np.full(len(batch), DUPLICATE, np.int8)
    outcome[~skipped] = inserted.outcome
    kept = batch.value.copy()
    kept[~skipped] = inserted.kept
    # Readings that lost a conflict, or were refused, when the message came first are in quarantine and counted; now duplicates.
    outcome[repeated[batch.message] & (outcome == CONFLICT)] = DUPLICATE
    stored, same_since = batch.take(outcome == NEW), prepared.same_since[outcome == NEW]
    roll_up(transaction, stored, same_since, registry, newest)
    lost = np.flatnonzero(outcome == CONFLICT)
    winners = _winners(batch, lost, repeated, prepared, registry)
    replacing = batch.take(winners)
    transaction.replace(replacing, registry.kind)
    transaction.announce(replacing)
    conflicts = conflicts_of(batch, lost, kept, winners)
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
    transaction.add_ledger(tallies_of(prepared, columns), overflow)
    transaction.add_seqs(numbers)
    for i, status in read.statuses:
        transaction.set_status(int(prepared.source_ids[i]), status, read.messages[i].received_at)
    counts = Counter({name: int(column.sum()) for name, column in columns.items()})
    counts["overflow"] = sum(overflow.values())
    named = Counter((read.sources[refusal.message] or NO_SOURCE, refusal.reason.value) for refusal in refused + conflicts)
    return BatchResult(
        counts=counts,
        stored=stored,
        same_since=same_since,
        replaced=len(winners),
        refused=named,
        columns=columns,
        refusals=[*refused, *conflicts],
    )


def roll_up(transaction: BatchTransaction, stored: Batch, same_since: Int64, registry: Registry, newest: Int64) -> None:
    """Update everything that depends on stored readings: rollups, the newest reading of each series, and the outbox of streams."""
    transaction.merge_rollups(stored, registry.kind, newest)
    transaction.merge_latest(stored, same_since, newest)
    transaction.announce(stored)


def _numbers(prepared: PreparedBatch) -> Numbers:
    decoded, rows = prepared.read.decoded, prepared.numbered.tolist()
    return Numbers(
        sources=prepared.source_ids[rows].tolist(),
        boots=[decoded.boot[i] for i in rows],
        seqs=decoded.seq[rows].tolist(),
        received_at=prepared.read.received_at[rows].tolist(),
    )


def _repeated(prepared: PreparedBatch, seen: Bools) -> Bools:
    """Find which of the m messages were received before, in an earlier batch or earlier in this one.

    A known number alone is no proof: a source without `boot` that starts again at 0 would be taken for a repetition. So the source
    must name its boot, or the broker must mark the message as redelivered.
    """
    decoded, messages = prepared.read.decoded, prepared.read.messages
    repeated = np.zeros(len(messages), np.bool_)
    here: set[tuple[int, str, int]] = set()
    for place, i in enumerate(prepared.numbered.tolist()):
        key = (int(prepared.source_ids[i]), decoded.boot[i], int(decoded.seq[i]))
        repeated[i] = (seen[place] or key in here) and (decoded.boot[i] != "" or messages[i].redelivered)
        here.add(key)
    return repeated


def _winners(batch: Batch, lost: Int64, repeated: Bools, prepared: PreparedBatch, registry: Registry) -> Int64:
    """Rows in conflict that replace the stored value, where the source's policy is to replace: the last of each series and time.

    If the last one to arrive has the stored value, it is not among `lost`, and nothing is replaced. Repeated messages do not count.
    """
    if not registry.replacing or len(lost) == 0:
        return np.empty(0, np.int64)
    said = np.flatnonzero(~repeated[batch.message])
    again = (batch.series[said][1:] == batch.series[said][:-1]) & (batch.time[said][1:] == batch.time[said][:-1])
    last = said[np.append(~again, True)] if len(said) else said
    return np.intersect1d(last, lost[np.isin(prepared.source_ids[batch.message[lost]], list(registry.replacing))])


def conflicts_of(batch: Batch, lost: Int64, kept: Float64, winners: Int64) -> list[Refusal]:
    """Refusals of rows in conflict with a stored value.

    Parameters
    ----------
    batch : Batch, n readings
    lost : (c,) int64
        Rows in conflict.
    kept : (n,) float64
        Values that were stored when the rows came.
    winners : (w,) int64
        Rows in conflict that replaced the stored value.
    """
    won = set(winners.tolist())
    return [
        Refusal(
            message=int(batch.message[row]),
            index=int(batch.index[row]),
            reason=Reason.CONFLICT,
            detail=f"{kept[row]} was stored at that time, {batch.value[row]} replaced it"
            if row in won
            else f"{batch.value[row]} came, {kept[row]} is stored at that time",
        )
        for row in lost.tolist()
    ]


def _quarantined(prepared: PreparedBatch, refused: Sequence[Refusal]) -> list[Quarantined]:
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
                refused=[refusal.entry for refusal in refusals],
                readings=sum(refusal.index is not None and refusal.reason is not Reason.CONFLICT for refusal in refusals),
            )
        )
    return rows


def tallies_of(prepared: PreparedBatch, columns: dict[str, Int64]) -> list[Tally]:
    """Sum columns of counts of each message by minute of receipt and source."""
    minute = prepared.read.received_at // MINUTE * MINUTE
    keys, which = np.unique(np.stack([minute, prepared.source_ids.astype(np.int64)]), axis=1, return_inverse=True)
    sums = {name: np.bincount(which.ravel(), weights=column).astype(np.int64) for name, column in columns.items()}
    return [
        Tally(minute=int(keys[0, k]), source=int(keys[1, k]), **{name: int(total[k]) for name, total in sums.items()})
        for k in range(keys.shape[1])
    ]
