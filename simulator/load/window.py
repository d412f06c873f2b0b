"""Window of one connection: its packets without an answer, the free identifiers, and the times of each message.

Pure: times are arguments. Identifiers are given out in a circle; one that is still without an answer is never given out again, so
an answer belongs to one message, in whatever order the broker answers.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Int64
from citybeat.devices.wire.mqtt import MAX_ID

_NUMBER, _DUE, _SENT, _READINGS = range(4)
#: Identifiers that are used, at least: so that answers out of order do not hold up a small window.
_CIRCLE: Final = 1024


class Window:
    """A window of at most `size` packets.

    Parameters
    ----------
    size : int
        From 1 to 65,535.
    """

    def __init__(self, size: int) -> None:
        if not 1 <= size <= MAX_ID:
            raise ValueError(f"a window is 1 to {MAX_ID:,} messages, not {size:,}")
        self.size = size
        self.waiting = 0  # packets without an answer
        self._next = 0  # the identifier - 1 that is given out next
        self._circle = min(MAX_ID, max(_CIRCLE, 2 * size))  # not all of them: a table of them takes 2.5 MB
        # Number, due, sent and readings of a message, by identifier; a row, since they are read together. Number -1: free.
        self._rows = np.full((self._circle + 1, 4), -1, np.int64)
        self._last = np.zeros(
            self._circle + 1, np.int64
        )  # where in the answers an identifier stood last: finds those that come twice

    @property
    def room(self) -> int:
        """Packets that may be sent now, at most."""
        return self.size - self.waiting

    def take(self, numbers: Int64, due: Int64, sent: Int64 | int, readings: Int64) -> Int64:
        """Give identifiers to the first messages, as many as there are: up to `room`, and up to an identifier that is not free.

        Parameters
        ----------
        numbers, due, readings : (n,) int64
            Times in ns.
        sent : (n,) int64, or one for all

        Returns
        -------
        (m,) int64, m <= n
        """
        count = min(len(numbers), self.room)
        ids = np.arange(self._next, self._next + count, dtype=np.int64) % self._circle + 1
        busy = self._rows[ids, _NUMBER] >= 0
        if busy.any():
            ids = ids[: int(busy.argmax())]
            count = len(ids)
        rows = np.empty((count, 4), np.int64)
        rows[:, _NUMBER] = numbers[:count]
        rows[:, _DUE] = due[:count]
        rows[:, _SENT] = sent if isinstance(sent, int) else sent[:count]
        rows[:, _READINGS] = readings[:count]
        self._rows[ids] = rows
        self._next = (self._next + count) % self._circle
        self.waiting += count
        return ids

    def answered(self, ids: Int64) -> tuple[Int64, Int64, Int64, Int64, NDArray[np.bool_]]:
        """Apply answers.

        Returns
        -------
        number, due, sent, readings : (m,) int64
            Properties of the messages that the answers belong to.
        known : (n,) bool
            True for each of `ids` that had a message; m of them.
        """
        given = np.where(ids <= self._circle, ids, 0)  # 0 is no identifier, and never has a message
        order = np.arange(len(ids))
        self._last[given] = order
        rows = self._rows[given]
        known = (rows[:, _NUMBER] >= 0) & (self._last[given] == order)
        if not known.all():
            ids, rows = ids[known], rows[known]
        self._rows[ids, _NUMBER] = -1
        self.waiting -= len(ids)
        return rows[:, _NUMBER], rows[:, _DUE], rows[:, _SENT], rows[:, _READINGS], known

    def outstanding(self) -> tuple[Int64, Int64, Int64, Int64]:
        """Return number, due, sent and readings of messages without an answer, in the order of numbers."""
        rows = self._rows[self._rows[:, _NUMBER] >= 0]
        rows = rows[np.argsort(rows[:, _NUMBER])]
        return rows[:, _NUMBER], rows[:, _DUE], rows[:, _SENT], rows[:, _READINGS]
