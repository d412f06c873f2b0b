"""Quality flags of a reading: a bit mask of what the checks found. No bit: good. A flag never drops a reading."""

import enum
from typing import Final

import numpy as np
from numpy.typing import NDArray


class Flag(enum.IntFlag):
    """One bit a finding. Stored as a 16-bit integer, so a bit is never given another meaning."""

    RANGE = 1  # outside the plausible range
    STEP = 2  # changed faster than the metric can
    STUCK = 4  # unchanged for longer than the metric stays
    SUSPECT = 8  # plausible, but outside the suspect range
    LATE = 16  # arrived long after its time
    FUTURE = 32  # ahead of our clock, within tolerance
    CLOCK = 64  # had no time of its own: it carries the time of receipt
    MANUAL_BAD = 128  # an operator declared it bad
    MANUAL_GOOD = 256  # an operator declared it good; wins over every other bit


class Verdict(enum.StrEnum):
    """What an operator may declare of a period."""

    BAD = "bad"
    GOOD = "good"
    CLEAR = "clear"  # as if nothing were declared

    @property
    def flags(self) -> Flag:
        """The bits that readings get by it."""
        return {Verdict.BAD: Flag.MANUAL_BAD, Verdict.GOOD: Flag.MANUAL_GOOD, Verdict.CLEAR: Flag(0)}[self]


#: Bits that only an operator sets.
MANUAL: Final = np.int16(Flag.MANUAL_BAD | Flag.MANUAL_GOOD)
#: Bits that keep a reading out of the rollups, unless an operator declared it good.
BAD: Final = np.int16(Flag.RANGE | Flag.STEP | Flag.STUCK | Flag.MANUAL_BAD)
_GOOD: Final = np.int16(Flag.MANUAL_GOOD)


def is_bad(flags: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Which readings stay out of the rollups.

    Parameters
    ----------
    flags : (n,) int16

    Returns
    -------
    (n,) bool

    Examples
    --------
    >>> is_bad(np.array([0, 1, 8, 1 | 256, 128], dtype=np.int16)).tolist()
    [False, True, False, False, True]
    """
    bad: NDArray[np.bool_] = ((flags & BAD) != 0) & ((flags & _GOOD) == 0)
    return bad


def names(flags: int) -> list[str]:
    """The flags of one reading as lower-case names, in bit order.

    Examples
    --------
    >>> names(1 | 16)
    ['range', 'late']
    """
    return [flag.name.lower() for flag in Flag if flags & flag and flag.name]
