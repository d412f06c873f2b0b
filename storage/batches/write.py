"""The write path: the steps of one batch's transaction, in the order in which ingest calls them. `storage/batches/writer.py` opens
it.

Nothing here judges a reading: flags, refusals and partials come in as arrays, and the database's answers go out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from citybeat.devices.aggregate import downsample
from citybeat.devices.batch import NEVER, Batch, Bools, Float64, Int64, Partials
from citybeat.devices.clock import from_us
from citybeat.devices.flags import BAD, Flag, is_bad
from citybeat.storage.batches import outbox
from citybeat.storage.db import sql
from citybeat.storage.db.connection import StorageError
from citybeat.storage.db.packed import Array, unpack
from citybeat.storage.db.pgcopy import RowFormat, Type
from citybeat.storage.rollups import minutes

_SQL: Final = sql.load("write")
#: After which a number that has not come counts as lost, while higher ones came. A restart of ingest or broker, after which
#: unacknowledged messages come again, takes seconds; five minutes also hold for a slow one, and are soon enough for an alarm.
GRACE: Final = timedelta(minutes=5)

_READINGS: Final = RowFormat(time="timestamptz", received_at="timestamptz", value="float8", series_id="int4", flags="int2")
_KEYS: Final[Mapping[str, Type | None]] = {"series_id": "int4", "time": "timestamptz"}
_STORED: Final[Mapping[str, Type | None]] = {"place": "int8", "value": "float8"}
LATEST: Final = RowFormat(
    series_id="int4",
    time="timestamptz",
    received_at="timestamptz",
    value="float8",
    flags="int2",
    good_at="timestamptz",
    good_value="float8",
    same_since="timestamptz",
)

_KNOWN: Final[Mapping[str, Type | None]] = {
    "series": "int4",
    "time": "timestamptz",
    "value": "float8",
    "same_since": "timestamptz",
    "good_at": "timestamptz",
    "good_value": "float8",
}

#: Outcomes of a reading, as `Insertion.outcome` has them.
NEW: Final = 0
DUPLICATE: Final = 1
CONFLICT: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Insertion:
    """What the database said to each reading of a batch."""

    outcome: NDArray[np.int8]  # (n,) NEW, DUPLICATE, CONFLICT
    kept: Float64  # (n,) the value that is stored under the reading's series and time


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Counts of one minute of receipt and one source."""

    minute: int  # us since 1970 UTC
    source: int  # id
    messages: int = 0
    undecodable: int = 0  # messages
    redelivered: int = 0  # messages
    received: int = 0  # readings, as all below
    stored: int = 0
    duplicate: int = 0
    conflict: int = 0
    missing: int = 0
    quarantined: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A message with what was refused of it."""

    received_at: int  # us since 1970 UTC
    source: int  # id
    topic: str
    payload: bytes
    refused: Sequence[tuple[int | None, str, str]]  # index of the reading (None: the message), reason, detail
    readings: int  # how many of them the ledger has as quarantined


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """Numbered messages, as four lists of one length."""

    sources: Sequence[int]  # ids
    boots: Sequence[str]
    seqs: Sequence[int]
    received_at: Sequence[int]  # us since 1970 UTC


class BatchTransaction:
    """The steps of one batch. Made by `storage.batches.writer.Store.batch`."""

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
        #: For what is not a step of every batch; it is in the same transaction.
        self.connection: Final = connection
        self._cursor: Final = connection.cursor(binary=True)
        self._quota: Final = quota
        #: This batch was committed by an earlier try: there is nothing left to do.
        self.committed: Final = committed
        #: Of the registry when the locks were held: what was judged by an older one must be judged again.
        self.registry_version: Final = registry_version
        #: Ids of the batch's sources that somebody else has written for: what `Store.history` said of their series may not hold.
        self.moved = tuple(moved)
        #: Ids of sources that were written for.
        self.wrote: Final[set[int]] = set()
        self._batch_id: Final = batch_id

    def catch_up(self) -> dict[str, NDArray[Any]]:
        """What is known of the series of the sources that somebody else has written for; from here on they have not `moved`.

        Returns
        -------
        dict
            `series` ids, and columns as `Store.history` has them, one entry a series that has readings.
        """
        row = self._cursor.execute(_SQL["history_of"], {"sources": list(self.moved)}).fetchone()
        assert row is not None
        self.moved = ()
        return unpack(row, _KNOWN)

    def seen(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Which of these messages were committed before.

        Returns
        -------
        (m,) bool
        """
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
            By series id, the time of its newest reading as far as the caller knows (NEVER: none). Rows newer than that go straight
            in; it is only a hint: where it is wrong, the rows take the slower path, with the same result.

        Returns
        -------
        Insertion
            Of several new readings of one series and time, the first to arrive is stored; the others are duplicates or conflicts.
        """
        n = len(batch)
        outcome = np.full(n, NEW, np.int8)
        kept = batch.value.copy()
        if n == 0:
            return Insertion(outcome=outcome, kept=kept)
        repeats = (batch.series[1:] == batch.series[:-1]) & (batch.time[1:] == batch.time[:-1])
        first = np.concatenate([[True], ~repeats])
        heads = np.flatnonzero(first)
        straight = batch.time[heads] > newest[batch.series[heads]]
        if not self._straight("copy_readings", encode_readings(batch, heads[straight]), straight):
            straight[:] = False
        careful = heads[~straight]
        if len(careful):
            old = careful[~self._insert_carefully(batch, careful)]
            if len(old):
                kept[old] = self._stored(batch, old)
                outcome[old] = np.where(kept[old] == batch.value[old], DUPLICATE, CONFLICT)
        followers = np.flatnonzero(~first)
        if len(followers):
            kept[followers] = kept[heads[np.cumsum(first)[followers] - 1]]
            outcome[followers] = np.where(kept[followers] == batch.value[followers], DUPLICATE, CONFLICT)
        return Insertion(outcome=outcome, kept=kept)

    def replace(self, batch: Batch, kind: NDArray[np.int8]) -> None:
        """Give stored readings other values, and bring rollups and `latest` up to date. Comes after `merge_latest`.

        Parameters
        ----------
        batch : Batch
            What is to be stored instead; no two readings of one series and time.
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

        Minutes are merged by what the new readings add to them. Only where a counter's readings come late, between others that are
        stored, its minutes, and those of the next good readings, are recomputed from raw. Quarter-hours are marked, and recomputed
        by `storage.rollups.rollup.advance`.

        Parameters
        ----------
        new : Batch
            The readings that `insert` found new, sorted by series, then time.
        kind : (s,) int8
            Kind of each series, by id (`devices.catalogue.KIND_CODES`).
        newest : (s,) int64
            The hint that `insert` had: minutes that begin after a series' newest reading are new, and go straight in.
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
            us, since when each series has shown the value; NEVER: not known.
        newest : (s,) int64
            The hint that `insert` had: who has one is in `latest`.
        """
        if len(new) == 0:
            return
        last = np.flatnonzero(np.concatenate([new.series[1:] != new.series[:-1], [True]]))
        good = np.flatnonzero(~is_bad(new.flags))
        # The last good row at or before the last row of each series, if it is of that series.
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
        """Tell streams what is stored now, in an order in which the last of one series and time holds."""
        if len(stored):
            told = outbox.OutboxRows(series=stored.series, time=stored.time, value=stored.value, code=stored.flags)
            outbox.append(self._cursor, outbox.READINGS, told)

    def quarantine(self, rows: Sequence[Quarantined]) -> dict[tuple[int, int], int]:
        """Keep refused messages, within each source's quota.

        Returns
        -------
        dict
            Readings that were quarantined but whose message found no room, by (minute of receipt in us, source id).
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
                key = (row.received_at // 60_000_000 * 60_000_000, row.source)
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
                    "reasons": sorted({entry[1] for entry in row.refused}),
                    "readings": row.readings,
                }
            )
        self._cursor.executemany(_SQL["add_quarantine"], kept)
        grown = [{"source": s, "bytes": size - before[s]} for s, size in sorted(used.items()) if size > before[s]]
        self._cursor.executemany(_SQL["add_quarantine_bytes"], grown)
        return overflow

    def add_ledger(self, tallies: Sequence[Tally], overflow: Mapping[tuple[int, int], int]) -> None:
        """Add counts to the ledger and its totals, in order of source: whoever else writes totals does so too."""
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
        self._cursor.executemany(_SQL["add_ledger"], rows)
        self.wrote.update(tally.source for tally in ordered)

    def add_seqs(self, numbers: Numbers) -> None:
        """Note the numbers of this batch's messages."""
        if numbers.seqs:
            received = Array(np.array(numbers.received_at, np.int64))
            self._cursor.execute(_SQL["add_seqs"], {**_columns(numbers), "received": received, "grace": GRACE})

    def set_status(self, source: int, status: str, at: int) -> None:
        """Note what a source said of itself at a time (us since 1970 UTC)."""
        self._cursor.execute(_SQL["set_status"], {"source": source, "status": status, "at": from_us(at)})

    # --- steps of merge_rollups --------------------------------------------------------------------------------------------

    def _merge_1m(self, partials: Partials, rows: Int64, newest: Int64) -> None:
        """Add these one-minute partials of new readings to `readings_1m`, and mark their quarter-hours."""
        if len(rows) == 0:
            return
        series, bucket = partials.series[rows], partials.bucket[rows]
        straight = bucket > newest[series]
        if not self._straight("copy_straight_1m", minutes.encode_partials(partials, rows[straight]), straight):
            straight[:] = False
        if not straight.all():
            self._copy("copy_1m", minutes.encode_partials(partials, rows[~straight]))
            self._cursor.execute(_SQL["merge_1m"])
        minutes.mark(self.connection, series, bucket)

    # --- steps of insert ---------------------------------------------------------------------------------------------------

    def _straight(self, name: str, blocks: Iterable[bytes], rows: Bools) -> bool:
        """COPY the chosen rows, as `blocks`, into a table with a key. False: one of them was there already, and none is stored."""
        if not rows.any():
            return True
        try:
            with self.connection.transaction():
                self._copy(name, blocks)
        except psycopg.errors.UniqueViolation:
            return False
        return True

    def _insert_carefully(self, batch: Batch, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """INSERT … ON CONFLICT DO NOTHING by way of a temporary table; which of the rows (sorted by key) are new."""
        self._copy("copy_incoming_readings", encode_readings(batch, rows))
        row = self._cursor.execute(_SQL["insert_incoming_readings"]).fetchone()
        assert row is not None
        stored = unpack(row, _KEYS)
        # Both are sets of distinct keys: after sorting them together, a stored key stands right behind the row it belongs to.
        series = np.concatenate([batch.series[rows], stored["series_id"]])
        time = np.concatenate([batch.time[rows], stored["time"]])
        order = np.lexsort((np.arange(len(series)), time, series))
        pairs = np.flatnonzero((np.diff(series[order]) == 0) & (np.diff(time[order]) == 0))
        new = np.zeros(len(rows), np.bool_)
        new[order[pairs]] = True
        return new

    def _stored(self, batch: Batch, rows: NDArray[np.int64]) -> Float64:
        """Values that are stored under the keys of these rows."""
        minutes.no_exclusion(self.connection)
        values, missing = np.empty(len(rows)), 0
        for part in minutes.by_day(batch.time[rows]):
            times = batch.time[rows[part]]
            bounds = {"oldest": from_us(int(times.min())), "newest": from_us(int(times.max()))}
            keys = {"series": Array(batch.series[rows[part]]), "times": Array(times)}
            # Planned anew each time: a plan for any bounds has every chunk in it.
            row = self._cursor.execute(_SQL["stored_values"], {**keys, **bounds}, prepare=False).fetchone()
            assert row is not None
            found = unpack(row, _STORED)
            values[part[found["place"] - 1]] = found["value"]
            missing += len(part) - len(found["place"])
        if missing:
            raise StorageError(f"{missing} readings were refused as stored already, but are not there")
        return values

    def _copy(self, name: str, blocks: Iterable[bytes]) -> None:
        with self._cursor.copy(_SQL[name]) as copy:
            for block in blocks:
                copy.write(block)


def renew_latest(connection: psycopg.Connection[tuple[Any, ...]], series: Sequence[int]) -> None:
    """Bring `latest` up to date for series whose stored readings were changed in the transaction under way."""
    connection.execute(_SQL["renew_latest"], {"series": list(series), "bad": int(BAD), "good": int(Flag.MANUAL_GOOD)})


def encode_readings(batch: Batch, rows: Int64 | None = None) -> Iterator[bytes]:
    """Readings, or those of these rows, as COPY BINARY, block by block (`RowFormat.blocks`)."""
    return _READINGS.blocks(
        rows, time=batch.time, received_at=batch.received_at, value=batch.value, series_id=batch.series, flags=batch.flags
    )


def _columns(numbers: Numbers) -> dict[str, Any]:
    """Numbered messages as parameters; boots, of which there are few, once each."""
    places: dict[str, int] = {}
    boot = [places.setdefault(boot, len(places) + 1) for boot in numbers.boots]
    return {
        "sources": Array(np.array(numbers.sources, np.int32)),
        "boots": list(places),
        "boot": Array(np.array(boot, np.int32)),
        "seqs": Array(np.array(numbers.seqs, np.int64)),
    }
