"""Quality flags of a reading: a bit mask of findings. A reading without a bit is good. A flag never drops a reading."""

import enum
from typing import Final

import numpy as np
from numpy.typing import NDArray


class Flag(enum.IntFlag):
    """The bits, one for each finding. They are stored as a 16-bit integer, so a bit never gets another meaning."""

    RANGE = 1  # outside the plausible range
    STEP = 2  # changed faster than the metric can
    STUCK = 4  # unchanged for longer than is plausible
    SUSPECT = 8  # plausible, but outside the usual range
    LATE = 16  # arrived long after its time
    FUTURE = 32  # ahead of ingest's clock, within tolerance
    CLOCK = 64  # came without a time: the time of receipt is used
    MANUAL_BAD = 128  # an operator declared it bad
    MANUAL_GOOD = 256  # an operator declared it good; wins over every other bit


class Verdict(enum.StrEnum):
    """An operator's declaration about the readings of a period."""

    BAD = "bad"
    GOOD = "good"
    CLEAR = "clear"  # withdraws earlier declarations

    @property
    def flags(self) -> Flag:
        """The bits that it sets on readings."""
        return {Verdict.BAD: Flag.MANUAL_BAD, Verdict.GOOD: Flag.MANUAL_GOOD, Verdict.CLEAR: Flag(0)}[self]


#: Bits that only operators set.
MANUAL: Final = np.int16(Flag.MANUAL_BAD | Flag.MANUAL_GOOD)
#: Bits that exclude a reading from the rollups, unless an operator declared it good.
BAD: Final = np.int16(Flag.RANGE | Flag.STEP | Flag.STUCK | Flag.MANUAL_BAD)
_GOOD: Final = np.int16(Flag.MANUAL_GOOD)


def is_bad(flags: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Tell which readings are excluded from the rollups.

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
    """Return the flags of one reading as lower-case names, in bit order.

    Examples
    --------
    >>> names(1 | 16)
    ['range', 'late']
    """
    return [flag.name.lower() for flag in Flag if flags & flag and flag.name]
