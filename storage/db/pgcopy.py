"""PostgreSQL's COPY BINARY format from and to NumPy, for rows of fixed width without NULL.

A row is one record of a big-endian structured array, so encoding 100,000 rows is a few array copies (psycopg's `write_row` takes
about 187 ms for that, this about 1). Rows are encoded block by block: all at once they would take twice the memory of the columns.
The format: PostgreSQL manual, COPY, "Binary Format".
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from citybeat.devices.batch import FOREVER, NEVER, Int64
from citybeat.devices.clock import to_us

Type = Literal["int2", "int4", "int8", "float8", "timestamptz"]

#: us from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
_EPOCH: Final = np.int64(to_us(datetime(2000, 1, 1, tzinfo=UTC)))
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # signature, flags, length of extension
_TRAILER: Final = b"\xff\xff"
#: Size of a block in bytes. The same block is filled again and again, so it stays in the processor's second cache, its constant
#: bytes are written once, and the columns' strided writes cost little. 50,000 rows of 12 columns (7 MB) take 0.8 ms (with half or
#: twice the size 0.9 and 0.8), 5 to 11 ms in one piece, 1.1 ms if the columns are converted to big-endian first. psycopg passes
#: this size to libpq as it is; larger data it copies into pieces of this size.
_BLOCK: Final = 128 * 1024
#: NumPy dtype of each type on the wire.
WIRE: Final[Mapping[Type, str]] = {"int2": ">i2", "int4": ">i4", "int8": ">i8", "float8": ">f8", "timestamptz": ">i8"}


class CopyFormatError(ValueError):
    """Data is not COPY BINARY of the expected row."""


class RowFormat:
    """The columns of a row, in the order of the COPY statement.

    Parameters
    ----------
    **columns : Type
        PostgreSQL type by name. `timestamptz` is int64 microseconds since 1970 UTC here; `FOREVER` and `NEVER` of
        `devices.batch` are the server's infinity and -infinity.

    Examples
    --------
    >>> fmt = RowFormat(time="timestamptz", value="float8")
    >>> rows = fmt.decode(b"".join(fmt.blocks(time=[0, 1], value=[2.5, -1])))
    >>> rows["time"].tolist(), rows["value"].tolist()
    ([0, 1], [2.5, -1.0])
    """

    def __init__(self, **columns: Type) -> None:
        self.columns: Final = columns
        pairs = [((f"{name} length", ">i4"), (name, WIRE[kind])) for name, kind in columns.items()]
        self._row: Final = np.dtype([("fields", ">i2"), *(field for pair in pairs for field in pair)])
        self._blank: Final = np.zeros((), self._row)  # a row without its values
        self._blank["fields"] = len(columns)
        for name, kind in columns.items():
            self._blank[f"{name} length"] = np.dtype(WIRE[kind]).itemsize

    def blocks(self, rows: Int64 | None = None, /, **values: ArrayLike) -> Iterator[bytes]:
        """Encode rows for COPY … FROM STDIN (FORMAT BINARY), each block when it is consumed.

        Parameters
        ----------
        rows : (k,) int64, optional
            Selected rows, in this order; None: all. They are selected block by block, so no column is copied.
        **values : (n,) arrays, one for each column
            Cast to the column's type; NaN and infinities are kept. The arrays must not change before the last block.

        Raises
        ------
        ValueError
            Columns are missing or unknown, or of different lengths.
        """
        if values.keys() != self.columns.keys():
            raise ValueError(f"expected columns {list(self.columns)}, got {list(values)}")
        arrays = {name: np.asarray(column) for name, column in values.items()}
        lengths = {len(column) for column in arrays.values()}
        if len(lengths) != 1:
            raise ValueError(f"columns of different lengths: {sorted(lengths)}")
        return self._blocks(arrays, rows, lengths.pop() if rows is None else len(rows))

    def _blocks(self, arrays: Mapping[str, NDArray[Any]], rows: Int64 | None, n: int) -> Iterator[bytes]:
        size = max(1, _BLOCK // self._row.itemsize)
        block = np.full(min(n, size), self._blank)
        yield _HEADER
        for start in range(0, n, size):
            piece: Any = slice(start, start + size) if rows is None else rows[start : start + size]
            filled = block[: n - start]
            for name, kind in self.columns.items():
                column = arrays[name][piece]
                filled[name] = _to_server(column) if kind == "timestamptz" else column
            yield filled.tobytes()
        yield _TRAILER

    def decode(self, data: bytes) -> dict[str, NDArray[np.generic]]:
        """Decode the columns of a COPY … TO STDOUT (FORMAT BINARY), in native byte order.

        Raises
        ------
        CopyFormatError
            The data is not COPY BINARY, or the rows have other columns or a NULL.
        """
        body = len(data) - len(_HEADER) - len(_TRAILER)
        if not data.startswith(_HEADER) or not data.endswith(_TRAILER) or body % self._row.itemsize:
            raise CopyFormatError(f"{len(data)} bytes are not COPY BINARY rows of {list(self.columns)}")
        rows = np.frombuffer(data, self._row, body // self._row.itemsize, len(_HEADER))
        if (rows["fields"] != len(self.columns)).any():
            raise CopyFormatError(f"rows do not have the {len(self.columns)} columns {list(self.columns)}")
        out: dict[str, NDArray[np.generic]] = {}
        for name, kind in self.columns.items():
            if (rows[f"{name} length"] != np.dtype(WIRE[kind]).itemsize).any():
                raise CopyFormatError(f"column {name!r} holds NULL or is not {kind}")
            column = rows[name].astype(np.dtype(WIRE[kind]).newbyteorder("="))
            out[name] = from_server(column) if kind == "timestamptz" else column
        return out


def _to_server(us: NDArray[np.generic]) -> NDArray[np.int64]:
    return _shifted(us.astype(np.int64, copy=False), -_EPOCH)


def from_server(us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Convert a column of timestamptz from the wire, in native byte order, to microseconds since 1970 UTC."""
    return _shifted(us, _EPOCH)


def _shifted(us: NDArray[np.int64], by: np.int64) -> NDArray[np.int64]:
    if us.size and (us.max() == FOREVER or us.min() == NEVER):
        infinite = (us == FOREVER) | (us == NEVER)
        return np.where(infinite, us, us + np.where(infinite, 0, by))
    return us + by
