"""Judges decoded readings, as far as that is possible without the database. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from citybeat.devices.batch import Batch, Bools, Int16, Int32, Int64
from citybeat.devices.errors import Reason
from citybeat.devices.registry.snapshot import Registry
from citybeat.devices.timeline import in_force
from citybeat.devices.wire.decoded import Refusal
from citybeat.ingest.judging.decode import DecodedBatch
from citybeat.ingest.judging.history import History, changes
from citybeat.ingest.judging.resolve import resolve
from citybeat.ingest.judging.validate import Limits, ValidatedBatch, validate


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedBatch:
    """A batch of m messages, judged and ready to be written."""

    read: DecodedBatch
    source_ids: Int32  # (m,)
    judged: ValidatedBatch  # its batch is sorted by series, then time
    refused: Sequence[Refusal]  # of messages and readings, from every step
    numbered: Int64  # messages that have a seq
    same_since: Int64  # of each reading of the batch, as from `ingest.judging.history.changes`


def withheld(prepared: PreparedBatch, rows: Bools, reason: Reason, detail: str) -> PreparedBatch:
    """Refuse some readings of a prepared batch after all.

    Parameters
    ----------
    prepared : PreparedBatch
    rows : (n,) bool
        Rows of its batch that are refused.
    reason, detail
        Reason and detail of all of these refusals.
    """
    batch = prepared.judged.batch
    refused = [
        Refusal(message=message, index=index, reason=reason, detail=detail)
        for message, index in zip(batch.message[rows].tolist(), batch.index[rows].tolist(), strict=True)
    ]
    return replace(
        prepared,
        judged=replace(prepared.judged, batch=batch.take(~rows)),
        refused=[*prepared.refused, *refused],
        same_since=prepared.same_since[~rows],
    )


def declared(batch: Batch, registry: Registry) -> Int16:
    """Flags that operators declared for these readings: (n,) int16, MANUAL_GOOD, MANUAL_BAD or 0."""
    flags = np.zeros(len(batch), np.int16)
    if not len(registry.declared_from):
        return flags
    rows = np.flatnonzero(registry.declared_start[batch.series + 1] > registry.declared_start[batch.series])
    if len(rows):
        which = in_force(registry.declared_start, registry.declared_from, batch.series[rows], batch.time[rows])
        flags[rows] = np.where(which >= 0, registry.declared_flags[which], 0)
    return flags


def in_order(batch: Batch) -> Int64:
    """Order of rows by series, then time; equal ones in order of arrival: (n,) int64.

    Series and time are sorted as one number where both fit into it, which they do unless a clock is broken: 2.7 ms for 50,000
    readings in random order, where `lexsort` takes 6.6; either takes 0.1 ms for readings in order, as gateways send them. (An
    unstable sort takes 0.4 ms for both.)
    """
    if len(batch) == 0:
        return np.empty(0, np.int64)
    first, series = int(batch.time.min()), batch.series.astype(np.int64)
    span = int(batch.time.max()) - first + 1
    if (int(series.max()) + 1) * span >= 2**63:
        return np.lexsort((batch.time, batch.series))
    return np.argsort(series * span + (batch.time - first), kind="stable")


def judge(read: DecodedBatch, source_ids: Int32, registry: Registry, limits: Limits, history: History) -> PreparedBatch:
    """Do everything before the database: resolve, validate, and compare with the past.

    Parameters
    ----------
    read : DecodedBatch, m messages
    source_ids : (m,) int32
        Id of each message's source.
    registry, limits, history
        As for `resolve`, `validate` and `changes`.
    """
    series, unresolved = resolve(read.decoded, source_ids, registry)
    judged = validate(read.decoded, series, read.received_at, registry, limits)
    batch = judged.batch.take(in_order(judged.batch))
    batch = replace(batch, flags=batch.flags | declared(batch, registry))
    found, same_since = changes(batch, history, registry)
    return PreparedBatch(
        read=read,
        source_ids=source_ids,
        judged=ValidatedBatch(batch=replace(batch, flags=batch.flags | found), missing=judged.missing, refused=judged.refused),
        refused=[*read.decoded.refused, *unresolved, *judged.refused],
        numbered=np.flatnonzero(read.decoded.seq >= 0),
        same_since=same_since,
    )
