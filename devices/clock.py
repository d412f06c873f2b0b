"""Conversions between the forms of a time: integer microseconds since 1970-01-01 UTC (us), `datetime`, and text.

Inside citybeat a time is an integer of microseconds: exact, what PostgreSQL stores, and in a column an int64 array, which needs no
conversion. `datetime` appears where Python or a driver needs it. No form knows leap seconds. Pure: no function reads a clock.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

#: One microsecond: the resolution of every time here.
TICK: Final = timedelta(microseconds=1)
#: The first and the last time that a `datetime` can be: 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999999Z.
OLDEST: Final = datetime.min.replace(tzinfo=UTC)
NEWEST: Final = datetime.max.replace(tzinfo=UTC)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(at: datetime) -> int:
    """Microseconds since 1970 UTC of an aware datetime; exact.

    Raises
    ------
    TypeError
        `at` has no offset from UTC.

    Examples
    --------
    >>> to_us(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000
    """
    return (at - _EPOCH) // TICK


def from_us(us: int) -> datetime:
    """The datetime in UTC of microseconds since 1970 UTC; exact.

    Raises
    ------
    OverflowError
        `us` is not between `MIN_US` and `MAX_US`.

    Examples
    --------
    >>> from_us(1_767_225_600_000_001).isoformat()
    '2026-01-01T00:00:00.000001+00:00'
    """
    return _EPOCH + us * TICK


#: us. `OLDEST` and `NEWEST`.
MIN_US: Final = to_us(OLDEST)
MAX_US: Final = to_us(NEWEST)


def rfc3339(at: datetime) -> str:
    """An aware datetime as RFC 3339 text in UTC, with Z.

    Examples
    --------
    >>> rfc3339(datetime.fromisoformat("2026-01-01T07:00:00+07:00"))
    '2026-01-01T00:00:00Z'
    """
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def minute_of(at: datetime) -> datetime:
    """The start, in UTC, of the minute that an aware datetime lies in."""
    return at.astimezone(UTC).replace(second=0, microsecond=0)
