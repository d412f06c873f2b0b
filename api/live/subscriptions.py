"""Streams and their filters: streams with one filter share a feed, and each has a bounded buffer."""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import orjson

from citybeat.api.live import events
from citybeat.devices.batch import Bools
from citybeat.devices.flags import is_bad
from citybeat.storage.batches import outbox
from citybeat.storage.reads.cursors import Cursor
from citybeat.storage.reads.following import Names, Row
from citybeat.storage.reads.series import Policy
from citybeat.storage.registry.selection import Selection

Kind = Literal["readings", "state"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamFilter:
    """The filter of a stream."""

    selection: Selection  # within the restriction of the client's key
    events: frozenset[Kind]
    flags: Policy

    def key(self) -> bytes:
        """Equal for equal filters."""
        return orjson.dumps([self.selection.parameters(), sorted(self.events), self.flags])


class Channel:
    """All streams with one filter: the series that it selects, and events that are encoded once for all of them."""

    def __init__(self, wish: StreamFilter) -> None:
        self.wish: Final = wish
        self.streams: Final[set[Subscription]] = set()
        self.users = 0
        self.members: Bools = np.zeros(0, np.bool_)  # by series id

    def block(self, row: Row, names: Names) -> bytes | None:
        """The events of a row, without the end of the last one; None: the filter selects nothing of it."""
        told = row.told
        wished = self.members[np.minimum(told.series, len(self.members) - 1)] & (told.series < len(self.members))
        if row.kind == outbox.READINGS:
            if "readings" not in self.wish.events:
                return None
            if self.wish.flags is not Policy.ALL:
                wished &= is_bad(told.code) == (self.wish.flags is Policy.ONLY_BAD)
        elif "state" not in self.wish.events:
            return None
        if not wished.any():
            return None
        told = told.take(wished)
        return events.readings(told, names) if row.kind == outbox.READINGS else events.states(told, names)


class Subscription:
    """The buffer of one stream."""

    def __init__(self, feed: Channel, cursor: Cursor, bound: int) -> None:
        self.feed: Final = feed
        #: Behind all rows that were put into the buffer or that the filter leaves out.
        self.cursor = cursor
        #: Resolved with the reason when the stream has ended.
        self.over: Final[asyncio.Future[str]] = asyncio.get_running_loop().create_future()
        self._held: Final[deque[bytes]] = deque()
        self._size = 0
        self._bound: Final = bound
        self._more: Final = asyncio.Event()

    def tell(self, row: Row, block: bytes | None) -> None:
        """Append the events of a row, unless the stream is past it; `block` None: only move the cursor on."""
        if not self.cursor.misses(row.position):
            return
        self.cursor = self.cursor.at(row.position)
        if block is not None:
            self._put(events.ended(block, str(self.cursor)))

    def reset(self, reason: str, cursor: Cursor) -> None:
        """Append an event that says that rows are missing."""
        self.cursor = cursor
        self._put(events.reset(reason, str(cursor)))

    def end(self, reason: str) -> None:
        """End the stream; its buffer is dropped."""
        if not self.over.done():
            self.over.set_result(reason)
            self._held.clear()
            self._more.set()

    async def next(self, patience: float) -> bytes | None:
        """Everything in the buffer, after at most `patience` seconds of waiting; None: it is empty, or the stream has ended."""
        if not self._held and not self.over.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):  # wait_for of Python 3.11 can swallow a cancellation
                    await self._more.wait()
        self._more.clear()
        if not self._held:
            return None
        data = b"".join(self._held)
        self._held.clear()
        self._size = 0
        return data

    def _put(self, data: bytes) -> None:
        if self.over.done():
            return
        # A stream whose buffer is empty gets an event of any size.
        if self._held and self._size + len(data) > self._bound:
            self.end("slow")
            return
        self._held.append(data)
        self._size += len(data)
        self._more.set()
