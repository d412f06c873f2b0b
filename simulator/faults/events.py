"""Numbers of fault events: each episode has one, unique in a run, in the order in which they are found."""

from collections.abc import Hashable

import numpy as np

from citybeat.devices.batch import Int32, Int64


class Events:
    """The numbers given so far. An episode keeps its number while its key has no later one."""

    def __init__(self) -> None:
        self._count = 0
        self._episodes: dict[tuple[int, Hashable], tuple[int, int]] = {}

    def next(self) -> int:
        """Return a number for something that happens once."""
        self._count += 1
        return self._count - 1

    def many(self, count: int) -> Int64:
        """Return so many numbers."""
        self._count += count
        return np.arange(self._count - count, self._count)

    def episode(self, spec: int, key: Hashable, number: int) -> int:
        """Return the number of an episode: the `number`-th of a specification for a series, device or gateway."""
        last = self._episodes.get((spec, key))
        if last is None or last[0] != number:
            last = (number, self.next())
            self._episodes[spec, key] = last
        return last[1]

    def of(self, spec: Int64, key: Int64, number: Int64) -> Int32:
        """Return the numbers of the episodes of n rows.

        Parameters
        ----------
        spec : (n,) int64
            -1: nothing is wrong, and the row gets -1.
        key, number : (n,) int64
        """
        out = np.full(len(spec), -1, np.int32)
        rows = np.flatnonzero(spec >= 0)
        listed = zip(spec[rows].tolist(), key[rows].tolist(), number[rows].tolist(), strict=True)
        out[rows] = [self.episode(*each) for each in listed]
        return out
