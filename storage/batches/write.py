"""The steps of one batch's transaction, in the order in which ingest calls them. `storage/batches/writer.py` opens the transaction.

Nothing here judges a reading: flags, refusals and partials come in as arrays, and the database's answers go out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from citybeat.devices.aggregate import downsample
from citybeat.devices.batch import MINUTE, NEVER, Batch, Bools, Float64, Int64, Partials
from citybeat.devices.clock import from_us
from citybeat.devices.flags import is_bad
from citybeat.storage.batches import outbox
from citybeat.storage.batches.rows import (
    CONFLICT,
    DUPLICATE,
    GRACE,
    HISTORY,
    LATEST,
    NEW,
    Insertion,
    Numbers,
    Quarantined,
    Tally,
    encode_readings,
)
from citybeat.storage.db import sql
from citybeat.storage.db.connection import StorageError, only
from citybeat.storage.db.counters import composed
from citybeat.storage.db.packed import Array, unpack
from citybeat.storage.db.pgcopy import Type
from citybeat.storage.rollups import minutes

_SQL: Final = sql.load("write")
_KEYS: Final[Mapping[str, Type | None]] = {"series_id": "int4", "time": "timestamptz"}
_STORED: Final[Mapping[str, Type | None]] = {"place": "int8", "value": "float8"}


class BatchTransaction:
    """The steps of one batch; `storage.batches.writer.BatchWriter.batch` makes it."""

    def __init__(
        self,
        connection: psycopg.Connection[tuple[Any, ...]],
        quota: int,
        batch_id: UUID,
        *,
        committed: bool,
        registry_version: int,
        moved: Sequence[int],
    ) -> None:
        #: For statements that are not a step of every batch, in the same transaction.
        self.connection: Final = connection
        self._cursor: Final = connection.cursor(binary=True)
        self._quota: Final = quota
        #: An earlier try committed this batch: nothing is left to do.
        self.committed: Final = committed
        #: The registry's version under the locks: a batch that was judged by an older one must be judged again.
        self.registry_version: Final = registry_version
        #: Ids of the batch's sources that another writer has written for: `Store.history` of their series may be outdated.
        self.moved = tuple(moved)
        #: Ids of sources for which this transaction has written.
        self.wrote: Final[set[int]] = set()
        self._batch_id: Final = batch_id

    def catch_up(self) -> dict[str, NDArray[Any]]:
        """Load the history of the series of sources that `moved`, and take those sources out of it.

        Returns
        -------
        dict
            `series` ids, and columns as in `Store.history`; one entry for each series that has readings.
        """
        found = unpack(only(self._cursor, _SQL["history_of"], {"sources": list(self.moved)}), HISTORY)
        self.moved = ()
        return found

    def seen(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Find messages that were committed before: (m,) bool."""
        known = np.zeros(len(numbers.seqs), np.bool_)
        if len(known):
            rows = self._cursor.execute(_SQL["seen"], _columns(numbers))
            known[[row[0] - 1 for row in rows]] = True
        return known

    def insert(self, batch: Batch, newest: Int64) -> Insertion:
        """Store the readings that are not there yet.

        Parameters
        ----------
        batch : Batch, n readings
            Sorted by series, then time; within one series and time in order of arrival.
        newest : (s,) int64
            By series id, the time of its newest reading as far as the caller knows (NEVER: none). Newer rows take the fast path, a
            direct COPY. It is only a hint: where it is wrong, the rows take the slow path, with the same result.

        Returns
        -------
        Insertion
            Of several new readings of one series and time the first to arrive is stored; the others are duplicates or conflicts.
        """
        n = len(batch)
        outcome = np.full(n, NEW, np.int8)
        kept = batch.value.copy()
        if n == 0:
            return Insertion(outcome=outcome, kept=kept)
        repeats = (batch.series[1:] == batch.series[:-1]) & (batch.time[1:] == batch.time[:-1])
        first = np.concatenate([[True], ~repeats])
        heads = np.flatnonzero(first)
        newer = batch.time[heads] > newest[batch.series[heads]]
        if not self._copy_new("copy_readings", encode_readings(batch, heads[newer]), newer):
            newer[:] = False
        careful = heads[~newer]
        if len(careful):
            old = careful[~self._insert_missing(batch, careful)]
            if len(old):
                kept[old] = self._stored(batch, old)
                outcome[old] = np.where(kept[old] == batch.value[old], DUPLICATE, CONFLICT)
        followers = np.flatnonzero(~first)
        if len(followers):
            kept[followers] = kept[heads[np.cumsum(first)[followers] - 1]]
            outcome[followers] = np.where(kept[followers] == batch.value[followers], DUPLICATE, CONFLICT)
        return Insertion(outcome=outcome, kept=kept)

    def replace(self, batch: Batch, kind: NDArray[np.int8]) -> None:
        """Replace values of stored readings, and bring rollups and `latest` up to date. Comes after `merge_latest`.

        Parameters
        ----------
        batch : Batch
            The new values; no two readings of one series and time.
        kind : (s,) int8
            Kind of each series, by id.
        """
        if len(batch) == 0:
            return
        self._cursor.execute(
            _SQL["replace"],
            {
                "series": batch.series.tolist(),
                "times": batch.time.tolist(),
                "received": batch.received_at.tolist(),
                "values": batch.value.tolist(),
                "flags": batch.flags.tolist(),
                "oldest": from_us(int(batch.time.min())),
                "newest": from_us(int(batch.time.max())),
            },
            prepare=False,  # as in `_stored`
        )
        minutes.replace_changed(self.connection, batch, kind)
        renew_latest(self.connection, sorted(set(batch.series.tolist())))

    def merge_rollups(self, new: Batch, kind: NDArray[np.int8], newest: Int64) -> None:
        """Bring the rollups up to date with new readings. Comes after `insert` and before `merge_latest`.

        Minutes are merged with the partials of the new readings. Only where a counter's readings come late, between others that are
        stored, its minutes and those of the next good readings are recomputed from raw. Quarter-hours are marked, and recomputed by
        `storage.rollups.rollup.advance`.

        Parameters
        ----------
        new : Batch
            The readings that `insert` found new, sorted by series, then time.
        kind : (s,) int8
            Kind of each series, by id (`devices.catalogue.KIND_CODES`).
        newest : (s,) int64
            The hint that `insert` had: minutes that begin after a series' newest reading are new, and take the fast path.
        """
        before, ahead = minutes.counters_state(self.connection, new, kind)
        partials = downsample(new, kind, before)
        late = ahead[partials.series] > NEVER
        self._merge_1m(partials, np.flatnonzero(~late), newest)
        if late.any():
            minutes.replace_late(self.connection, minutes.take(partials, late), ahead, kind)

    def merge_latest(self, new: Batch, same_since: Int64, newest: Int64) -> None:
        """Bring `latest` up to date with new readings.

        Parameters
        ----------
        new : Batch, n readings
            Sorted by series, then time.
        same_since : (n,) int64
            us, the time since when each series has shown its value; NEVER: unknown.
        newest : (s,) int64
            The hint that `insert` had: a series with a time has a row in `latest`.
        """
        if len(new) == 0:
            return
        last = np.flatnonzero(np.concatenate([new.series[1:] != new.series[:-1], [True]]))
        good = np.flatnonzero(~is_bad(new.flags))
        # The last good row at or before the last row of each series, if it belongs to that series.
        place = np.searchsorted(good, last, side="right") - 1
        row = good[place] if len(good) else np.zeros(len(last), np.int64)
        has_good = (place >= 0) & (new.series[row] == new.series[last])
        self._copy(
            "copy_latest",
            LATEST.blocks(
                series_id=new.series[last],
                time=new.time[last],
                received_at=new.received_at[last],
                value=new.value[last],
                flags=new.flags[last],
                good_at=np.where(has_good, new.time[row], NEVER),
                good_value=np.where(has_good, new.value[row], 0.0),
                same_since=same_since[last],
            ),
        )
        # Planned anew each time: a join that suits a batch of 50,000 reads all of `latest` for a batch of ten.
        updated = self._cursor.execute(_SQL["merge_latest"], prepare=False).rowcount
        before = newest[new.series[last]]
        newer = (before > NEVER) & (new.time[last] > before)
        if (before == NEVER).any() or updated < newer.sum():  # the latter only if the hint is wrong
            self._cursor.execute(_SQL["add_latest"], prepare=False)

    def announce(self, stored: Batch) -> None:
        """Append readings to the outbox for streams. Of several with one series and time the last is the valid one."""
        if len(stored):
            rows = outbox.OutboxRows(series=stored.series, time=stored.time, value=stored.value, code=stored.flags)
            outbox.append(self._cursor, outbox.READINGS, rows)

    def quarantine(self, rows: Sequence[Quarantined]) -> dict[tuple[int, int], int]:
        """Keep refused messages, within each source's quota.

        Returns
        -------
        dict
            Quarantined readings whose message exceeded the quota, by (minute of receipt in us, source id).
        """
        if not rows:
            return {}
        used = dict.fromkeys({row.source for row in rows}, 0)
        used |= dict(self._cursor.execute(_SQL["quarantine_room"], {"sources": list(used)}).fetchall())
        before = dict(used)
        overflow: dict[tuple[int, int], int] = {}
        kept = []
        for row in rows:
            if used[row.source] + len(row.payload) > self._quota:
                key = (row.received_at // MINUTE * MINUTE, row.source)
                overflow[key] = overflow.get(key, 0) + row.readings
                continue
            used[row.source] += len(row.payload)
            kept.append(
                {
                    "received_at": from_us(row.received_at),
                    "source": row.source,
                    "topic": row.topic,
                    "payload": row.payload,
                    "refused": Jsonb([list(entry) for entry in row.refused]),
                    "reasons": sorted({entry.reason for entry in row.refused}),
                    "readings": row.readings,
                }
            )
        self._cursor.executemany(_SQL["add_quarantine"], kept)
        grown = [{"source": s, "bytes": size - before[s]} for s, size in sorted(used.items()) if size > before[s]]
        self._cursor.executemany(_SQL["add_quarantine_bytes"], grown)
        return overflow

    def add_ledger(self, tallies: Sequence[Tally], overflow: Mapping[tuple[int, int], int]) -> None:
        """Add counts to the ledger and its totals, in order of source, as every writer of the totals does: no deadlocks."""
        ordered = sorted(tallies, key=lambda tally: (tally.source, tally.minute))
        rows = [
            {
                **asdict(tally),
                "batch": self._batch_id,
                "minute": from_us(tally.minute),
                "overflow": overflow.get((tally.minute, tally.source), 0),
            }
            for tally in ordered
        ]
        self._cursor.executemany(composed(_SQL["add_ledger"]), rows)
        self.wrote.update(tally.source for tally in ordered)

    def add_seqs(self, numbers: Numbers) -> None:
        """Record the numbers of this batch's messages."""
        if numbers.seqs:
            received = Array(np.array(numbers.received_at, np.int64))
            self._cursor.execute(_SQL["add_seqs"], {**_columns(numbers), "received": received, "grace": GRACE})

    def set_status(self, source: int, status: str, at: int) -> None:
        """Record the status that a source reported at a time (us since 1970 UTC)."""
        self._cursor.execute(_SQL["set_status"], {"source": source, "status": status, "at": from_us(at)})

    # --- steps of merge_rollups --------------------------------------------------------------------------------------------

    def _merge_1m(self, partials: Partials, rows: Int64, newest: Int64) -> None:
        """Add these one-minute partials of new readings to `readings_1m`, and mark their quarter-hours."""
        if len(rows) == 0:
            return
        series, bucket = partials.series[rows], partials.bucket[rows]
        new = bucket > newest[series]
        if not self._copy_new("copy_straight_1m", minutes.encode_partials(partials, rows[new]), new):
            new[:] = False
        if not new.all():
            self._copy("copy_1m", minutes.encode_partials(partials, rows[~new]))
            self._cursor.execute(_SQL["merge_1m"])
        minutes.mark(self.connection, series, bucket)

    # --- steps of insert ---------------------------------------------------------------------------------------------------

    def _copy_new(self, name: str, blocks: Iterable[bytes], rows: Bools) -> bool:
        """COPY the chosen rows, as `blocks`, into a table with a key. False: the key of one exists, and none is stored."""
        if not rows.any():
            return True
        try:
            with self.connection.transaction():
                self._copy(name, blocks)
        except psycopg.errors.UniqueViolation:
            return False
        return True

    def _insert_missing(self, batch: Batch, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """INSERT … ON CONFLICT DO NOTHING through a temporary table. Returns which of the rows, sorted by key, are new."""
        self._copy("copy_incoming_readings", encode_readings(batch, rows))
        stored = unpack(only(self._cursor, _SQL["insert_incoming_readings"]), _KEYS)
        # Both are sets of distinct keys: sorted together, a stored key comes right after the row that it belongs to.
        series = np.concatenate([batch.series[rows], stored["series_id"]])
        time = np.concatenate([batch.time[rows], stored["time"]])
        order = np.lexsort((np.arange(len(series)), time, series))
        pairs = np.flatnonzero((np.diff(series[order]) == 0) & (np.diff(time[order]) == 0))
        new = np.zeros(len(rows), np.bool_)
        new[order[pairs]] = True
        return new

    def _stored(self, batch: Batch, rows: NDArray[np.int64]) -> Float64:
        """Look up the values that are stored under the keys of these rows."""
        minutes.no_exclusion(self.connection)
        values, missing = np.empty(len(rows)), 0
        for part in minutes.by_day(batch.time[rows]):
            times = batch.time[rows[part]]
            bounds = {"oldest": from_us(int(times.min())), "newest": from_us(int(times.max()))}
            keys = {"series": Array(batch.series[rows[part]]), "times": Array(times)}
            # Planned anew each time: a generic plan has every chunk in it.
            found = unpack(only(self._cursor, _SQL["stored_values"], {**keys, **bounds}, prepare=False), _STORED)
            values[part[found["place"] - 1]] = found["value"]
            missing += len(part) - len(found["place"])
        if missing:
            raise StorageError(f"{missing} readings were rejected as duplicates, but are not stored")
        return values

    def _copy(self, name: str, blocks: Iterable[bytes]) -> None:
        with self._cursor.copy(_SQL[name]) as copy:
            for block in blocks:
                copy.write(block)


def renew_latest(connection: psycopg.Connection[tuple[Any, ...]], series: Sequence[int]) -> None:
    """Bring `latest` up to date for series whose stored readings were changed in the current transaction."""
    connection.execute(_SQL["renew_latest"], {"series": list(series), **sql.JUDGES})


def _columns(numbers: Numbers) -> dict[str, Any]:
    """Numbered messages as parameters; each boot, of which there are few, once."""
    places: dict[str, int] = {}
    boot = [places.setdefault(boot, len(places) + 1) for boot in numbers.boots]
    return {
        "sources": Array(np.array(numbers.sources, np.int32)),
        "boots": list(places),
        "boot": Array(np.array(boot, np.int32)),
        "seqs": Array(np.array(numbers.seqs, np.int64)),
    }
