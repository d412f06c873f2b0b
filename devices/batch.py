"""Readings and their rollups as arrays. A batch is made once from many messages and never unpacked into row objects.

Times are int64 microseconds since 1970-01-01 UTC (`devices.clock`). Rows are in order of arrival, unless a function says otherwise.
"""

from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

Int16 = NDArray[np.int16]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

MICROSECOND: Final = 1_000_000  # microseconds in a second
MINUTE: Final = 60 * MICROSECOND


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Readings that passed decoding and belong to known series: arrays of one length n."""

    time: Int64  # us since 1970 UTC
    received_at: Int64  # us since 1970 UTC
    series: Int32  # series id
    value: Float64  # unit of the series' metric; always finite
    flags: Int16  # devices.flags
    message: Int32  # position of the reading's message in the batch
    index: Int32  # position of the reading in its message

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: Int64 | Bools) -> Self:
        """Select rows, in the given order.

        Parameters
        ----------
        rows : (k,) int64, or (n,) bool
            A mask that selects all rows, as nearly every mask does, returns the batch itself. Its arrays are therefore read only.
        """
        if rows.dtype == np.bool_ and rows.all():
            return self
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Partials:
    """Rollup rows of one bucket length: the contribution of a set of readings to each (series, bucket), sorted by that key.

    Every column merges with the stored one by +, least, greatest, or "earlier/later wins", whatever the metric's kind. A bucket
    without a good reading has the neutral elements: vmin, first_at = +infinity; vmax, last_at = -infinity; the rest 0.
    """

    series: Int32
    bucket: Int64  # start of the bucket, us
    n: Int32  # good readings
    n_bad: Int32  # readings that a flag excludes
    vmin: Float64
    vmax: Float64
    first_at: Int64  # us; FOREVER if n = 0
    vfirst: Float64
    last_at: Int64  # us; NEVER if n = 0
    vlast: Float64
    s1: Float64  # by kind: gauge, amount, state sum; direction sum of sin; level sum of 10^(L/10)
    s2: Float64  # by kind: gauge, amount sum of squares; direction sum of cos

    def __len__(self) -> int:
        return len(self.series)


#: PostgreSQL's timestamps 'infinity' and '-infinity'; `storage.db.pgcopy` converts them to the server's representation.
FOREVER: Final = np.int64(np.iinfo(np.int64).max)
NEVER: Final = np.int64(np.iinfo(np.int64).min)
