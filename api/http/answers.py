"""Answers as JSON. A single time is an RFC 3339 string; a column of times is a column of epoch milliseconds.

orjson writes NumPy columns without conversion; NaN and infinities become null.
"""

from datetime import datetime
from typing import Any, Final

import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray

from citybeat.devices import flags
from citybeat.devices.batch import Int64
from citybeat.devices.clock import rfc3339

_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z


def answer(content: Any) -> Response:
    """Content as a JSON response."""
    return Response(orjson.dumps(content, option=_OPTIONS), media_type="application/json")


def milliseconds(us: Int64) -> NDArray[np.int64] | NDArray[np.float64]:
    """A column of times in milliseconds: integers, or floats if a time has microseconds, which are exact until the year 2109.

    Examples
    --------
    >>> milliseconds(np.array([1_000, 2_000])).tolist(), milliseconds(np.array([1_000, 2_001])).tolist()
    ([1, 2], [1.0, 2.001])
    """
    return us / 1000 if (us % 1000).any() else us // 1000


def flag_names(column: NDArray[np.int16]) -> list[list[str]]:
    """A column of flags as lists of names; good readings have none.

    Examples
    --------
    >>> flag_names(np.array([0, 17], np.int16))
    [[], ['range', 'late']]
    """
    distinct, which = np.unique(column, return_inverse=True)
    names = np.empty(len(distinct), object)
    names[:] = [flags.names(int(mask)) for mask in distinct]
    listed: list[list[str]] = names[which].tolist()
    return listed


def members(entry: Any, *without: str) -> dict[str, Any]:
    """The members of a dataclass, times as RFC 3339, except those named."""
    values = {name: getattr(entry, name) for name in entry.__dataclass_fields__ if name not in without}
    return {name: rfc3339(value) if isinstance(value, datetime) else value for name, value in values.items()}


def finite(number: float | None) -> float | None:
    """A number of a JSON object; None, which becomes null, for an open bound."""
    return number if number is not None and np.isfinite(number) else None
