"""Many rows of a parameterised query as a few NumPy columns, and NumPy columns as parameters of a query.

COPY … TO STDOUT BINARY decodes without a Python object for each value, but takes no parameters. So the server packs instead: a
query returns one row in which each column is one byte string, `string_agg(float8send(value), '' ORDER BY …)`, in the wire format of
COPY's fields. `unpack` turns that row into arrays. A row is at most 1 GB, so every such query has a LIMIT.

In the other direction `Array` is sent as a binary array, without a Python object for each value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.pq import Format
from psycopg.types import TypeInfo

from citybeat.storage.db.pgcopy import WIRE, Type, from_server

#: PostgreSQL types of the elements of arrays.
_TYPES: Final[Mapping[np.dtype[Any], TypeInfo]] = {
    np.dtype(dtype): info
    for dtype, name in ((np.int32, "int4"), (np.int64, "int8"), (np.float64, "float8"))
    if (info := psycopg.adapters.types.get(name)) is not None
}


@dataclass(frozen=True, slots=True)
class Array:
    """A parameter: (n,) int32, int64 or float64 as int4[], int8[] or float8[]."""

    values: NDArray[Any]


def unpack(row: Sequence[Any], columns: Mapping[str, Type | None]) -> dict[str, Any]:
    r"""Unpack the columns of a packed row.

    Parameters
    ----------
    row : sequence
        Bytes for each packed column; None if no row was aggregated.
    columns : mapping
        Names in the row's order, each with the type whose binary form was packed. None: an ordinary array, returned as a list.

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


class _Dumper(psycopg.adapt.Dumper):
    """The format of `array_send`: dimensions, has NULLs, type of the elements, length, lower bound; then the elements."""

    format = Format.BINARY

    def get_key(self, obj: Array, format: Any) -> Any:  # noqa: A002, ARG002  # psycopg's name
        return (self.cls, obj.values.dtype)

    def upgrade(self, obj: Array, format: Any) -> "_Dumper":  # noqa: A002, ARG002  # psycopg's name
        made = type(self)(self.cls)
        made.oid = _TYPES[obj.values.dtype].array_oid
        return made

    def dump(self, obj: Array) -> bytes:
        values = obj.values
        if not len(values):
            return np.array([0, 0, _TYPES[values.dtype].oid], ">i4").tobytes()
        wire = values.dtype.newbyteorder(">")
        cells = np.empty(len(values), np.dtype([("length", ">i4"), ("value", wire)]))
        cells["length"] = wire.itemsize
        cells["value"] = values
        return np.array([1, 0, _TYPES[values.dtype].oid, len(values), 1], ">i4").tobytes() + cells.tobytes()


psycopg.adapters.register_dumper(Array, _Dumper)
