"""Lists of what a parser found, as arrays: for the fast gears, which take a column as a whole or not at all. Pure.

No item is asked for its type where the conversion tells as much: `struct` takes neither strings nor null, of which NumPy would
make numbers. 50,000 numbers take `struct` 0.2 ms (floats) or 0.7 ms (integers); `np.array` 0.5 ms, and a set of their types 0.5 ms
on top.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Float64, Int64


class NotPlainError(Exception):
    """The column holds something else; the slow gear says what."""


def doubles(column: Sequence[Any]) -> Float64:
    """Numbers; true and false are 1 and 0.

    Parameters
    ----------
    column : sequence
        As JSON or CBOR has them. A decimal fraction of CBOR is a number too.

    Raises
    ------
    NotPlainError
        Something is no number, or beyond the range of float64.
    """
    out = np.empty(len(column), np.float64)
    _pack(column, "d", out)
    return out


def integers(column: Sequence[Any]) -> Int64:
    """Integers; true and false are none.

    Raises
    ------
    NotPlainError
        Something is no integer, or beyond the range of int64.
    """
    out = np.empty(len(column), np.int64)
    _pack(column, "q", out)
    # `struct` takes them for 1 and 0, so that is where they would be.
    if any(type(column[row]) is bool for row in np.flatnonzero((out == 0) | (out == 1)).tolist()):
        raise NotPlainError
    return out


def text(column: Sequence[Any]) -> str:
    """All strings as one.

    Raises
    ------
    NotPlainError
        Something is no string.
    """
    try:
        return "".join(column)
    except TypeError:
        raise NotPlainError from None


def _pack(column: Sequence[Any], code: str, out: NDArray[Any]) -> None:
    try:
        struct.pack_into(f"{len(column)}{code}", out.data, 0, *column)
    except struct.error:
        raise NotPlainError from None
