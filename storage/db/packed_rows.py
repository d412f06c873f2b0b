"""PostgreSQL's COPY BINARY format to NumPy, for rows of a number and arrays of one length: many readings of one series.

COPY sends each row as a message of its own, and a client has to receive each one. Packed by the server, a message has thousands of
readings (measured: 5,000,000 of them in order in 1.7 s; one by one, unordered, 2.8 s). The formats: PostgreSQL manual, COPY,
"Binary Format"; `array_send` has the number of dimensions, whether there are NULLs, the type of the elements, their number, the
first index, and then length and value of each.

Invariant: pure.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from citybeat.storage.db.pgcopy import WIRE, CopyFormatError, Type, from_server

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # with flags, and length of extension
_TRAILER: Final = b"\xff\xff"
_HEAD: Final = struct.Struct(">hii")  # number of fields, length of the first, the first
_ARRAY: Final = struct.Struct(">iiiiii")  # length, dimensions, has NULLs, type of elements, number of elements, first index
_ARRAY_HEAD: Final = _ARRAY.size - 4  # the length does not count itself

#: Columns of a packed row by name.
Columns = Mapping[str, NDArray[Any]]


class PackedRows:
    r"""Reads the messages of one COPY … TO STDOUT (FORMAT BINARY).

    Parameters
    ----------
    columns : mapping
        Element type of each array, in the statement's order, after an int4.

    Examples
    --------
    >>> rows = PackedRows({"flags": "int2"})
    >>> array = bytes.fromhex("0000001c 00000001 00000000 00000015 00000001 00000001 00000002 0007")[:-2] + b"\0\7"
    >>> rows.read(_SIGNATURE + bytes.fromhex("0002 00000004 0000002a 0000001a") + array[4:])
    (42, {'flags': array([7], dtype=int16)})
    >>> rows.read(_TRAILER) is None
    True
    """

    def __init__(self, columns: Mapping[str, Type]) -> None:
        self._columns: Final = [(name, np.dtype([("length", ">i4"), ("value", WIRE[kind])])) for name, kind in columns.items()]
        self._begun = False

    def read(self, message: bytes | bytearray | memoryview) -> tuple[int, dict[str, NDArray[Any]]] | None:
        """Decode a message: a number, and arrays in native byte order with the server's times. None for the end of the data.

        Raises
        ------
        CopyFormatError
            The row has other columns, or a NULL.
        """
        view = memoryview(message)
        at = 0
        if not self._begun:
            if bytes(view[: len(_SIGNATURE)]) != _SIGNATURE:
                raise CopyFormatError("the signature of COPY BINARY is missing")
            self._begun = True
            at = len(_SIGNATURE)
        if bytes(view[at:]) == _TRAILER:
            return None
        try:
            fields, length, key = _HEAD.unpack_from(view, at)
            at += _HEAD.size
            if fields != 1 + len(self._columns) or length != 4:
                raise CopyFormatError(f"expected a number and {len(self._columns)} arrays, got {fields} fields")
            arrays = {}
            for name, element in self._columns:
                length, dimensions, nulls, _, count, _ = _ARRAY.unpack_from(view, at)
                at += _ARRAY.size
                if dimensions != 1 or nulls or length != _ARRAY_HEAD + count * element.itemsize:
                    raise CopyFormatError(f"column {name!r} is not an array of {element['value']} without NULL")
                column = np.frombuffer(view, element, count, at)["value"]
                arrays[name] = column.astype(column.dtype.newbyteorder("="))
                at += count * element.itemsize
        except (struct.error, ValueError) as exc:
            raise CopyFormatError(f"a message of {len(view)} bytes is not a packed row: {exc}") from exc
        if at != len(view) or len({len(column) for column in arrays.values()}) != 1:
            raise CopyFormatError(f"a message of {len(view)} bytes holds arrays of different lengths")
        return key, arrays


def joined(rows: Sequence[tuple[int, Columns]], times: str) -> tuple[NDArray[np.int32], dict[str, NDArray[Any]]]:
    """Concatenate rows: the number of each element's row, and the columns, with `times` in us since 1970 UTC.

    Examples
    --------
    >>> joined([(7, {"t": np.array([0, 1])}), (8, {"t": np.array([2])})], "t")[0]
    array([7, 7, 8], dtype=int32)
    """
    lengths = [len(arrays[times]) for _, arrays in rows]
    keys = np.repeat(np.array([key for key, _ in rows], np.int32), lengths)
    columns = {name: np.concatenate([arrays[name] for _, arrays in rows]) for name in rows[0][1]}
    columns[times] = from_server(columns[times])
    return keys, columns
