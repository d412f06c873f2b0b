"""Judges the flags of a past period again, by today's bounds and in time order."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np

from citybeat.devices.batch import FOREVER, Batch, Int16
from citybeat.devices.flags import Flag
from citybeat.devices.registry.snapshot import Registry
from citybeat.ingest.judging.history import History, changes
from citybeat.ingest.judging.judge import declared
from citybeat.ingest.judging.validate import bounds
from citybeat.storage.batches import flagging
from citybeat.storage.db.connection import Connection

#: Flags that depend on the time of receipt, and are not judged again.
_KEPT = np.int16(Flag.LATE | Flag.FUTURE | Flag.CLOCK)


def reflag(
    connection: Connection, registry: Registry, start: datetime, end: datetime, *, devices: Sequence[str] | None = None
) -> int:
    """Judge the readings of [start, end) again: RANGE, SUSPECT, STEP, STUCK, and the flags that operators declared.

    The first readings of the period are judged by the readings before it, as far as the memory of their series reaches. Readings
    after the period are left as they are.

    Parameters
    ----------
    connection : Connection
        In autocommit mode.
    registry : Registry
        Today's bounds.
    start, end : datetime
        With a time zone.
    devices : sequence of str, optional
        Limits the devices; by default all.

    Returns
    -------
    int
        Number of readings whose flags changed.

    Raises
    ------
    ValueError
        The period is empty, or a time has no time zone.
    TransientError, DatabaseUnavailableError, StorageError
        Work that was committed stays; calling again continues.
    """
    stuck = registry.stuck_after[registry.stuck_after < FOREVER]
    reach = int(registry.memory.max(initial=0)) + int(stuck.max(initial=0))
    return flagging.rejudge(
        connection,
        start,
        end,
        lookback=timedelta(microseconds=reach),
        devices=devices,
        kind=registry.kind,
        judge=lambda: judging(registry),
    )


def judging(registry: Registry) -> Callable[[Batch], Int16]:
    """Return a function that judges batches of stored readings in order of time, and keeps their history."""
    history = History.empty(len(registry.owner))

    def flags_of(batch: Batch) -> Int16:
        flags = (batch.flags & _KEPT) | bounds(batch.value, batch.series, registry) | declared(batch, registry)
        judged = replace(batch, flags=flags)
        found, same_since = changes(judged, history, registry)
        judged = replace(judged, flags=flags | found)
        history.advance(judged, same_since)
        return judged.flags

    return flags_of
