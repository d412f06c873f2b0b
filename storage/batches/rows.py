"""Rows that a batch's transaction takes and answers, and their binary formats. `storage/batches/write.py` has the steps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Batch, Float64, Int64
from citybeat.devices.ledger import Counts
from citybeat.devices.wire.decoded import Refused
from citybeat.storage.db.pgcopy import RowFormat, Type

#: A message number that has not come counts as lost once higher numbers have been there for this long. A restart of ingest or
#: broker, after which unacknowledged messages come again, takes seconds; five minutes cover a slow restart too, and are soon enough
#: for an alarm.
GRACE: Final = timedelta(minutes=5)

#: Outcomes of a reading, as `Insertion.outcome` has them.
NEW: Final = 0
DUPLICATE: Final = 1
CONFLICT: Final = 2

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
#: Columns of `BatchTransaction.catch_up`.
HISTORY: Final[Mapping[str, Type | None]] = {
    "series": "int4",
    "time": "timestamptz",
    "value": "float8",
    "same_since": "timestamptz",
    "good_at": "timestamptz",
    "good_value": "float8",
}
_READINGS: Final = RowFormat(time="timestamptz", received_at="timestamptz", value="float8", series_id="int4", flags="int2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Insertion:
    """The database's answer for each reading of a batch."""

    outcome: NDArray[np.int8]  # (n,) NEW, DUPLICATE, CONFLICT
    kept: Float64  # (n,) the value that is stored under the reading's series and time


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally(Counts):
    """Counts of one minute of receipt and one source. `overflow` stays 0: the transaction adds it."""

    minute: int  # us since 1970 UTC
    source: int  # id


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A message with its refused readings."""

    received_at: int  # us since 1970 UTC
    source: int  # id
    topic: str
    payload: bytes
    refused: Sequence[Refused]
    readings: int  # number of them that the ledger counts as quarantined


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """Numbered messages, as four lists of one length."""

    sources: Sequence[int]  # ids
    boots: Sequence[str]
    seqs: Sequence[int]
    received_at: Sequence[int]  # us since 1970 UTC


def encode_readings(batch: Batch, rows: Int64 | None = None) -> Iterator[bytes]:
    """Readings, or those of these rows, as COPY BINARY, block by block (`RowFormat.blocks`)."""
    return _READINGS.blocks(
        rows, time=batch.time, received_at=batch.received_at, value=batch.value, series_id=batch.series, flags=batch.flags
    )
