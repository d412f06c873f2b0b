"""Converts times of recordings to UTC: pure, and with a policy for each hour that a clock change makes ambiguous.

A wall clock that is put forward skips an hour: a time in it does not exist. One that is put back runs through an hour twice: a
time in it is ambiguous. Neither can be put right afterwards, so a map says what is to happen, and every occurrence is counted.
"""

import enum
import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation, Overflow
from typing import Final
from zoneinfo import ZoneInfo

from citybeat.devices.clock import MAX_US, MIN_US, to_us

_FRACTION: Final = re.compile(r"(.*)[.,](\d{1,18})", re.DOTALL)
_TOO_FINE: Final = re.compile(r"[.,]\d{6}(\d+)")
#: Nothing before the year 1 or after 9999 is a date in Python.


class Nonexistent(enum.StrEnum):
    """Policy for a time that the clock skipped."""

    REJECT = "reject"  # its row is rejected, and named
    SHIFT_FORWARD = "shift_forward"  # by the length of the gap: the instant that a clock which was not put forward would mean
    SHIFT_BACKWARD = "shift_backward"  # by the length of the gap: what a clock that was put forward too early would mean


class Ambiguous(enum.StrEnum):
    """Policy for a time that the clock showed twice."""

    REJECT = "reject"
    EARLIER = "earlier"
    LATER = "later"


class Oddity(enum.StrEnum):
    """Ambiguity of a time."""

    NONEXISTENT = "nonexistent"
    AMBIGUOUS = "ambiguous"


class TimeFormatError(ValueError):
    """A text is no time in the map's format."""


class OddTimeError(ValueError):
    """A time does not exist or exists twice, and the policy is to reject it."""

    def __init__(self, oddity: Oddity, message: str) -> None:
        super().__init__(message)
        self.oddity = oddity


#: Formats besides those of `strptime`.
ISO: Final = "iso"
UNIX: Final = "unix"
UNIX_MS: Final = "unix_ms"


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeReader:
    """Reads the times of a recording."""

    columns: tuple[str, ...]  # joined by a space, in this order
    format: str  # strptime's, or iso, unix, unix_ms
    fraction: bool = False  # a fraction of a second follows what the format describes, of any number of digits
    zone: ZoneInfo | None = None  # of times without an offset of their own
    nonexistent: Nonexistent = Nonexistent.REJECT
    ambiguous: Ambiguous = Ambiguous.REJECT

    def read(self, text: str) -> tuple[int, Oddity | None]:
        """Read a time.

        Parameters
        ----------
        text : str
            The columns, joined by a space.

        Returns
        -------
        time : int
            us since 1970 UTC.
        oddity : Oddity or None
            Oddity that a policy decided about.

        Raises
        ------
        TimeFormatError
            Not a time of the format, finer than a microsecond, or without an offset where there is no zone.
        OddTimeError
            Nonexistent or ambiguous, and the policy is to reject.
        """
        if self.format in {UNIX, UNIX_MS}:
            return _unix(text, 1_000_000 if self.format == UNIX else 1000), None
        text, extra = _fraction(text) if self.fraction else (text, 0)
        if self.format == ISO and (too_fine := _TOO_FINE.search(text)) and too_fine[1].strip("0"):
            raise TimeFormatError(f"{text[:60]!r} is finer than a microsecond")  # `fromisoformat` would cut it off
        try:
            moment = datetime.fromisoformat(text) if self.format == ISO else datetime.strptime(text, self.format)  # noqa: DTZ007 - the zone comes from the map
        except ValueError:
            raise TimeFormatError(f"{text[:60]!r} is not a time of the form {self.format}") from None
        oddity = None
        if moment.tzinfo is not None:
            time = to_us(moment)
        elif self.zone is None:
            raise TimeFormatError(f"{text[:60]!r} has no offset from UTC, and the map names no zone")
        else:
            time, oddity = self._localised(moment)
        if not MIN_US <= time <= MAX_US:
            raise TimeFormatError(f"{text[:60]!r} is outside the years 1 to 9999 in UTC")
        return time + extra, oddity

    def _localised(self, wall: datetime) -> tuple[int, Oddity | None]:
        first = wall.replace(tzinfo=self.zone)
        second = first.replace(fold=1)
        a, b = to_us(first), to_us(second)  # subtraction across zones is done in UTC
        if a == b:
            return a, None
        # In a gap, fold=0 takes the offset before it (later in UTC), fold=1 the one after it (PEP 495).
        if a > b:
            if self.nonexistent is Nonexistent.REJECT:
                raise OddTimeError(Oddity.NONEXISTENT, f"{wall.isoformat(' ')} does not exist in {self.zone}")
            return (a if self.nonexistent is Nonexistent.SHIFT_FORWARD else b), Oddity.NONEXISTENT
        if self.ambiguous is Ambiguous.REJECT:
            raise OddTimeError(Oddity.AMBIGUOUS, f"{wall.isoformat(' ')} exists twice in {self.zone}")
        return (a if self.ambiguous is Ambiguous.EARLIER else b), Oddity.AMBIGUOUS


def _fraction(text: str) -> tuple[str, int]:
    """Split off a fraction of a second; return the rest, and microseconds."""
    found = _FRACTION.fullmatch(text)
    if found is None:
        raise TimeFormatError(f"{text[:60]!r} has no fraction of a second")
    digits = found[2].ljust(6, "0")
    if digits[6:].strip("0"):
        raise TimeFormatError(f"{text[:60]!r} is finer than a microsecond")
    return found[1], int(digits[:6])


def _unix(text: str, unit: int) -> int:
    try:
        us = Decimal(text) * unit
        inside = MIN_US <= us <= MAX_US  # not a number: cannot be compared
    except (InvalidOperation, Overflow):
        raise TimeFormatError(f"{text[:60]!r} is not a number of {'seconds' if unit == 1_000_000 else 'milliseconds'}") from None
    if not inside:
        raise TimeFormatError(f"{text[:60]!r} is outside the years 1 to 9999")
    if us != us.to_integral_value():
        raise TimeFormatError(f"{text[:60]!r} is finer than a microsecond")
    return int(us)
