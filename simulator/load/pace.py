"""Pace of the load: in an open loop message k is due k/rate after the start, senders taking turns. Pure: times are arguments."""

import numpy as np

from citybeat.devices.batch import Int64

_SECOND = 1_000_000_000  # ns
#: Messages that are due of each sender in a closed loop: more than can be sent.
_ALWAYS = np.iinfo(np.int64).max


class Pace:
    """Schedule of some senders.

    Parameters
    ----------
    rate : float or None
        Messages a second of all senders together; None: a closed loop, where a message is due when there is room for it.
    senders : int
    start : int
        ns.
    """

    def __init__(self, rate: float | None, senders: int, start: int) -> None:
        self.rate = rate
        self._start = start
        self._gap = 0.0 if rate is None else _SECOND / rate  # ns between messages
        self._sender = np.arange(senders, dtype=np.int64)

    def due(self, now: int) -> Int64:
        """Return the number of messages of each sender that should have been sent by now, (senders,) int64."""
        n = len(self._sender)
        if self.rate is None:
            return np.full(n, _ALWAYS)
        total = int((now - self._start) / self._gap) + 1
        return (total - self._sender + n - 1) // n

    def times(self, sender: int, first: int, count: int, now: int) -> Int64:
        """Return the times at which messages `first`, `first` + 1, … of a sender are due, (count,) int64 ns."""
        if self.rate is None:
            return np.full(count, now)
        place = (first + np.arange(count, dtype=np.int64)) * len(self._sender) + sender
        return np.asarray(self._start + place * self._gap, np.int64)

    def next(self, sent: Int64, may: Int64, otherwise: int) -> int:
        """Return the time of the next message that is due of those senders that may send, ns; at most `otherwise`.

        Parameters
        ----------
        sent : (senders,) int64
            Messages that each has sent.
        may : (m,) int64
            Indices of the senders that may send.
        """
        if self.rate is None or not len(may):
            return otherwise
        place = int((sent[may] * len(self._sender) + may).min())
        return min(otherwise, self._start + int(place * self._gap) + 1)
