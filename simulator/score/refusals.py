"""Quarantine of the database, by message and reading, for looking up many readings at once. Pure."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from citybeat.devices.batch import Int64
from citybeat.simulator.score.matching import join


class Refusals:
    """Refused readings of n entries, of messages that could be read.

    Parameters
    ----------
    boot : (n,) int64
        Place in the truth's list of starts; -1: of a message without a number, or of a start that the truth does not know.
    seq, index : (n,) int64
        Number of the message, and index of the reading in it.
    reason : (n,) int64
        Code, as of `simulator.faults.rows`.
    last_seq : sequence of int
        By start, the highest number that was sent: what is beyond it is none of the truth's.
    """

    def __init__(self, boot: Int64, seq: Int64, index: Int64, reason: Int64, last_seq: Sequence[int]) -> None:
        highest = np.array([*last_seq, -1], np.int64)
        self.known: Final = (boot >= 0) & (seq >= 0) & (seq <= highest[boot])
        rows = np.flatnonzero(self.known)
        self._seqs: Final = int(highest.max()) + 1
        self._indexes: Final = int(index[rows].max(initial=0)) + 1
        if len(highest) * self._seqs * self._indexes >= 2**63:
            raise ValueError("too many messages to number their readings")
        keys = self._keys(boot[rows], seq[rows], index[rows])
        self._order: Final = rows[np.argsort(keys, kind="stable")]
        self._sorted: Final = np.sort(keys)
        first = np.append(True, self._sorted[1:] != self._sorted[:-1])[: len(rows)]
        self._distinct: Final = self._sorted[first]
        self._place: Final = self._order[first]
        self.boot: Final = boot
        self.seq: Final = seq
        self.index: Final = index
        self.reason: Final = reason
        self.taken: Final = np.zeros(len(boot), np.bool_)

    def take(self, boot: Int64, seq: Int64, index: Int64) -> Int64:
        """Return the reason for which each reading was refused (code; -1: it was not), and note that it was looked up."""
        inside = (seq >= 0) & (seq < self._seqs) & (index >= 0) & (index < self._indexes)
        wanted = np.where(inside, self._keys(boot.astype(np.int64), np.where(inside, seq, 0), np.where(inside, index, 0)), -1)
        place = join(self._distinct, wanted)
        found = place >= 0
        out = np.full(len(boot), -1, np.int64)
        if found.any():
            entries = self._place[place[found]]
            out[found] = self.reason[entries]
            self.taken[entries] = True
        return out

    def left(self) -> Int64:
        """Return the entries with a number that were not looked up."""
        return np.flatnonzero(self.known & ~self.taken)

    def _keys(self, boot: Int64, seq: Int64, index: Int64) -> Int64:
        out: Int64 = (boot * self._seqs + seq) * self._indexes + index
        return out
