"""Backlog of one connection: the messages that it has to send, and the bytes of those without an answer.

Pure: bytes and times go in and out, no socket, no clock. Messages are numbered 0, 1, 2, … in the order in which they come. After a
lost connection messages without an answer go first, with the same bytes and the time when they were first sent.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from citybeat.devices.batch import Int64
from citybeat.devices.wire.mqtt import Answers, Packets, UInt8
from citybeat.simulator.load.window import Window

#: Buffers that are kept without a check whether they are still needed.
_FEW: Final = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledged:
    """Messages that were answered."""

    number: Int64  # 0, 1, … of the connection
    due: Int64  # ns, monotonic: when it should have been sent
    sent: Int64  # ns, monotonic: when it was first handed to the connection
    reason: UInt8
    readings: Int64


@dataclass(slots=True)
class _Stock:
    """Packets, and the number of those that are sent."""

    packets: Packets
    number: Int64
    due: Int64  # ns, of what is sent again; empty: new
    sent: Int64
    at: int = 0  # the next one to send

    @property
    def again(self) -> bool:
        return len(self.due) > 0

    @property
    def left(self) -> int:
        return len(self.packets) - self.at

    def rest(self) -> "_Stock":
        which = np.arange(self.at, len(self.packets))
        times = (self.due[which], self.sent[which]) if self.again else (self.due, self.sent)
        return _Stock(self.packets.take(which), self.number[which], *times)


class Backlog:
    """Messages of one connection.

    Parameters
    ----------
    window : int
        Messages without an answer, at most.
    """

    def __init__(self, window: int) -> None:
        self._window = Window(window)
        self._stock: deque[_Stock] = deque()  # to be sent; the first one may be partly sent
        self._kept: deque[_Stock] = deque()  # wholly sent, in the order of numbers; some of them have no answer
        self._many = _FEW
        self.numbered = 0  # messages that came
        self.sent = 0  # messages that were handed out, each once
        self.sent_readings = 0
        self.resent = 0

    @property
    def empty(self) -> bool:
        """True if there is nothing to send."""
        return not self._stock

    @property
    def repeats(self) -> bool:
        """True if the next message to send was sent before."""
        return bool(self._stock) and self._stock[0].again

    @property
    def room(self) -> int:
        """Messages that may be sent now."""
        return self._window.room

    @property
    def waiting(self) -> int:
        """Messages that were sent and have no answer."""
        return self._window.waiting + sum(stock.left for stock in self._stock if stock.again)

    def unanswered(self) -> tuple[Int64, Int64, Int64]:
        """Return number, due and sent of messages that were sent and have no answer."""
        number, due, sent, _ = self._window.outstanding()
        again = [stock for stock in self._stock if stock.again]
        return (
            np.concatenate([number, *(stock.number[stock.at :] for stock in again)]),
            np.concatenate([due, *(stock.due[stock.at :] for stock in again)]),
            np.concatenate([sent, *(stock.sent[stock.at :] for stock in again)]),
        )

    def add(self, new: Packets) -> None:
        """Add new messages."""
        nothing = np.empty(0, np.int64)
        self._stock.append(_Stock(new, np.arange(self.numbered, self.numbered + len(new)), nothing, nothing))
        self.numbered += len(new)

    def take(self, due: Int64, now: int) -> tuple[memoryview, int]:
        """Take the bytes to send next: a run of messages that lie together.

        Parameters
        ----------
        due : (n,) int64
            When each new message should have been sent, ns: no more than these are taken. What is sent again has its own.
        now : int
            ns.

        Returns
        -------
        memoryview
            Empty: nothing can be sent.
        int
            Number of elements of `due` that are used up.
        """
        stock = self._stock[0]
        packets, first, used = stock.packets, stock.at, 0
        count = stock.left if stock.again else min(stock.left, len(due))
        which = slice(first, first + count)
        readings = packets.readings[which]
        if stock.again:
            ids = self._window.take(stock.number[which], stock.due[which], stock.sent[which], readings)
            self.resent += len(ids)
        else:
            ids = self._window.take(stock.number[which], due[:count], now, readings)
            used = len(ids)
            self.sent += used
            self.sent_readings += int(readings[:used].sum())
        packets.write_ids(first, ids)
        stock.at = first + len(ids)
        if not stock.left:
            self._kept.append(self._stock.popleft())
            if len(self._kept) >= self._many:
                self.forget()
                self._many = max(_FEW, 2 * len(self._kept))
        return packets.data.data[int(packets.start[first]) : int(packets.start[stock.at])], used

    def answered(self, told: Answers) -> tuple[Acknowledged, int]:
        """Apply answers; return the messages that they belong to, and the number of answers to no message."""
        number, due, sent, readings, known = self._window.answered(told.ids)
        strange = len(told.ids) - len(number)
        reason = told.reasons[known] if strange else told.reasons
        return Acknowledged(number=number, due=due, sent=sent, reason=reason, readings=readings), strange

    def again(self, window: int) -> None:
        """Begin with a new connection: nothing sent over the old one will be answered, so that it is to be sent again."""
        number, due, sent, _ = self._window.outstanding()
        self._window = Window(window)
        whole = [*self._kept, *self._stock]
        self._kept.clear()
        if self._stock and self._stock[0].at:
            rest = self._stock.popleft().rest()
            if rest.left:
                self._stock.appendleft(rest)
        if len(number):
            missing = [np.isin(stock.number, number) for stock in whole]
            found = np.concatenate([stock.number[which] for stock, which in zip(whole, missing, strict=True)])
            assert np.array_equal(found, number), "every message without an answer is kept, once, in the order of numbers"
            parts = [stock.packets.take(np.flatnonzero(which)) for stock, which in zip(whole, missing, strict=True) if which.any()]
            self._stock.appendleft(_Stock(Packets.joined(parts), number, due, sent))

    def forget(self) -> None:
        """Drop the bytes of messages that were answered; `take` does so in time."""
        number = self._window.outstanding()[0]
        oldest = int(number[0]) if len(number) else self.numbered
        while self._kept and int(self._kept[0].number[-1]) < oldest:
            self._kept.popleft()
