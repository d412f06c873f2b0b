"""Many rows of a parameterised query as a few NumPy columns.

COPY … TO STDOUT BINARY decodes without a Python object a value, but takes no parameters. So the server packs instead: a query
gives one row in which each column is one byte string, `string_agg(float8send(value), '' ORDER BY …)`, in the same wire
format as COPY's fields. `unpack` turns that row into arrays. A row is at most 1 GB, so every such query has a LIMIT.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.pgcopy import WIRE, Type, from_server


def unpack(row: Sequence[Any], columns: Mapping[str, Type | None]) -> dict[str, Any]:
    r"""The columns of a packed row.

    Parameters
    ----------
    row : sequence
        bytes for each packed column; None where no row was aggregated.
    columns : mapping
        Names in the row's order, each with the type whose binary form was packed. None: an ordinary array, taken as a list.

    Returns
    -------
    dict
        (n,) arrays in native byte order; `timestamptz` is int64 microseconds since 1970 UTC, infinite ones NEVER and FOREVER.

    Examples
    --------
    >>> unpack([b"\x00\x01\x00\x02", None, ["a", "b"]], {"flags": "int2", "value": "float8", "device": None})
    {'flags': array([1, 2], dtype=int16), 'value': array([], dtype=float64), 'device': ['a', 'b']}
    """
    return {name: _column(packed, kind) for (name, kind), packed in zip(columns.items(), row, strict=True)}


def _column(packed: Any, kind: Type | None) -> NDArray[Any] | list[Any]:
    if kind is None:
        return [] if packed is None else list(packed)
    wire = np.dtype(WIRE[kind])
    column = np.frombuffer(packed or b"", wire).astype(wire.newbyteorder("="))
    return from_server(column) if kind == "timestamptz" else column
