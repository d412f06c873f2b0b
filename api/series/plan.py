"""The cost of a query, and the level of rollups that it is answered from. Pure.

Buckets that are a multiple of 15 minutes are answered from quarter-hours, in every zone, since all offsets in use are such
multiples; other buckets from minutes; flags policies that the rollups do not cover from raw readings. Results do not depend on the
level, beyond rounding.
"""

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from citybeat.storage.reads.series import Policy
from citybeat.storage.rollups.levels import Level

#: Points of one answer. 100,000 are 69 days of minutes, or a day of one reading a second; with every aggregate they are about 13 MB
#: of JSON, and take 0.5 s of a core of this process and 0.1 s of the database's, compression included. Exports are for more.
MAX_POINTS: Final = 100_000
#: Series of one query. With the points above that leaves 100 for each, as many as a small chart shows; tables of more sensors are
#: in /v1/latest.
MAX_SERIES: Final = 1_000
#: Raw readings that one answer may be computed from, for flags policies that the rollups do not cover: some 2 s of the database.
MAX_RAW: Final = 1_000_000
#: Rollup rows that one answer may be computed from: 140 years of quarter-hours of one series. A million take a little more than
#: 1 s, and a statement may take 15 s.
MAX_ROLLUPS: Final = 5_000_000


class Bucket(enum.StrEnum):
    """Widths of buckets that a client may ask for."""

    AUTO = "auto"
    RAW = "raw"
    M1 = "1m"
    M5 = "5m"
    M10 = "10m"
    M15 = "15m"
    M30 = "30m"
    H1 = "1h"
    H6 = "6h"
    H12 = "12h"
    D1 = "1d"
    W1 = "1w"
    MO1 = "1mo"


class Width(NamedTuple):
    """A bucket's length."""

    interval: str  # in PostgreSQL's notation
    seconds: float  # on average
    step: str  # the shortest that such a bucket can be, in PostgreSQL's notation

    @property
    def length(self) -> int | None:
        """us; None: longer than an hour, so that the length depends on the zone."""
        return round(self.seconds * 1_000_000) if self.seconds <= _HOUR else None


#: Where clocks shift by less than an hour, a bucket of an hour can be as short as a quarter-hour.
WIDTHS: Final[Mapping[Bucket, Width]] = {
    Bucket.M1: Width("1 minute", 60, "1 minute"),
    Bucket.M5: Width("5 minutes", 300, "5 minutes"),
    Bucket.M10: Width("10 minutes", 600, "5 minutes"),
    Bucket.M15: Width("15 minutes", 900, "15 minutes"),
    Bucket.M30: Width("30 minutes", 1800, "15 minutes"),
    Bucket.H1: Width("1 hour", 3600, "15 minutes"),
    Bucket.H6: Width("6 hours", 6 * 3600, "3 hours"),
    Bucket.H12: Width("12 hours", 12 * 3600, "6 hours"),
    Bucket.D1: Width("1 day", 86_400, "6 hours"),
    Bucket.W1: Width("7 days", 7 * 86_400, "1 day"),
    Bucket.MO1: Width("1 month", 30.436875 * 86_400, "7 days"),
}
_HOUR: Final = 3600
_SECONDS: Final = {Level.QUARTERS: 900, Level.MINUTES: 60}


def choose(seconds: float, series: int, *, budget: int, max_points: int, minutes: bool) -> Bucket:
    """The narrowest bucket that stays within a budget.

    Parameters
    ----------
    seconds : float
        Length of the range.
    series : int
    budget : int
        Most points of each series.
    max_points : int
        Most points of all series together.
    minutes : bool
        Whether minutes of the range are still stored; without them, buckets are multiples of 15 minutes.

    Examples
    --------
    >>> choose(86_400, 1, budget=1000, max_points=100_000, minutes=True).value
    '5m'
    >>> choose(86_400, 1, budget=1000, max_points=100_000, minutes=False).value
    '15m'
    """
    each = min(budget, max_points // max(series, 1))
    for bucket, width in WIDTHS.items():
        if seconds <= each * width.seconds and (minutes or level_of(bucket, Policy.GOOD) is Level.QUARTERS):
            return bucket
    return Bucket.MO1


def level_of(bucket: Bucket, policy: Policy) -> Level:
    """The level that buckets of this width are computed from."""
    if bucket is Bucket.RAW or policy is not Policy.GOOD:
        return Level.RAW
    return Level.MINUTES if WIDTHS[bucket].seconds % 900 and bucket is not Bucket.MO1 else Level.QUARTERS


def rollup_rows(seconds: float, series: int, level: Level) -> float:
    """The most rollup rows that may have to be read, of a level other than raw."""
    return seconds / _SECONDS[level] * series
