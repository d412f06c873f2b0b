"""Divides many rows into parts that fit into memory; the parts are files while they are gathered.

Both sides of a comparison, divided by the same rule, can then be compared part by part, whatever order they came in.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Int64


class Parts:
    """Rows of one type, in so many parts.

    Parameters
    ----------
    dtype : numpy.dtype
        Type of a row.
    count : int
        Number of parts. A single part stays in memory.
    directory : Path
        Folder of the files; the caller that made it removes it.
    name : str
        Beginning of the files' names, before their number.
    """

    def __init__(self, dtype: np.dtype[Any], count: int, directory: Path, name: str) -> None:
        self._dtype = dtype
        self._kept: list[NDArray[Any]] = []
        self._files = [(directory / f"{name}-{i}").open("w+b") for i in range(count)] if count > 1 else []

    def add(self, rows: NDArray[Any], part: Int64) -> None:
        """Add rows; `part` (n,) is the part of each. Rows of a part keep the order in which they came."""
        if not self._files:
            self._kept.append(rows)
            return
        order = np.argsort(part, kind="stable")
        ends = np.cumsum(np.bincount(part, minlength=len(self._files)))
        rows, start = rows[order], 0
        for file, end in zip(self._files, ends.tolist(), strict=True):
            if end > start:
                file.write(rows[start:end].tobytes())
            start = end

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield each part once, in order; its rows are dropped afterwards."""
        if not self._files:
            kept, self._kept = self._kept, []
            yield np.concatenate(kept) if kept else np.empty(0, self._dtype)
        for file in self._files:
            file.seek(0)
            yield np.fromfile(file, self._dtype)
            file.truncate(0)
            file.close()
