"""One reader of what is told, for all streams of a process.

Law: nobody waits for a client. What a stream has not sent yet is held for it, up to a bound; beyond, the stream is ended. Rows are
looked for by asking, ten times a second and only while there is a stream: a NOTIFY would take a lock of the whole server at every
commit of ingest (docs/decisions/0005-outbox.md).

A stream that resumes reads for itself what lies between (`api/routes/stream.py`), until it has come as far as the hub, and joins it
between two looks. The registry's version comes with each look: where it has moved, names and members are read anew before anything
is told, so that nothing of a new device is missed, and nothing told that somebody may no longer see.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import orjson

from citybeat.api.http.problems import Problem
from citybeat.api.http.requests import Requests
from citybeat.api.live import events
from citybeat.devices.batch import Bools
from citybeat.devices.flags import is_bad
from citybeat.storage.batches import outbox
from citybeat.storage.db.connection import StorageError
from citybeat.storage.db.pool import ReadPool
from citybeat.storage.reads import following
from citybeat.storage.reads.cursors import Cursor
from citybeat.storage.reads.following import Names, Page, Row
from citybeat.storage.reads.series import Policy
from citybeat.storage.registry.selection import Selection

_log: Final = logging.getLogger(__name__)

#: s between two looks. Half of it is what a reading waits on average; a look takes 1 ms of the database.
LOOK: Final = 0.1
#: s until a look that failed is tried again.
_AGAIN: Final = 1.0
#: Bytes that wait for one client. A minute of 1,000 devices with 6 metrics each that report once in it is 0.3 MB; a client that is
#: so far behind has stopped reading.
BUFFER: Final = 4 * 1024 * 1024
#: Streams at once, of one process and of one key (or address without a key). Each costs a connection and, if its filters are its
#: own, a pass over every batch.
STREAMS: Final = 500
STREAMS_EACH: Final = 50
#: Streams that read for themselves at once, when many come back together; they must not keep the hub from its connection.
_READING: Final = 3
#: Connections of all this: theirs, one to look, and one for names.
CONNECTIONS: Final = _READING + 2
_RETRY_AFTER: Final = 5  # s

Kind = Literal["readings", "state"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamFilter:
    """What a stream is to tell."""

    selection: Selection  # what of it may be seen
    events: frozenset[Kind]
    flags: Policy

    def key(self) -> bytes:
        """The same for the same wishes."""
        return orjson.dumps([self.selection.parameters(), sorted(self.events), self.flags])


class Channel:
    """What streams with the same wish have in common: members, and events that are written once for all of them."""

    def __init__(self, wish: StreamFilter) -> None:
        self.wish: Final = wish
        self.streams: Final[set[Subscription]] = set()
        self.users = 0
        self.members: Bools = np.zeros(0, np.bool_)

    def block(self, row: Row, names: Names) -> bytes | None:
        """A row's events, but for the end of the last; None: nothing of it is wished for."""
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
    """What is held for one stream."""

    def __init__(self, feed: Channel, cursor: Cursor, bound: int) -> None:
        self.feed: Final = feed
        #: Behind all that was put in here, or is of no matter to it.
        self.cursor = cursor
        #: Why it is over.
        self.over: Final[asyncio.Future[str]] = asyncio.get_running_loop().create_future()
        self._held: Final[deque[bytes]] = deque()
        self._size = 0
        self._bound: Final = bound
        self._more: Final = asyncio.Event()

    def tell(self, row: Row, block: bytes | None) -> None:
        """Put in a row of which this is what is wished for, unless it was told already."""
        if not self.cursor.misses(row.position):
            return
        self.cursor = self.cursor.at(row.position)
        if block is not None:
            self._put(events.ended(block, str(self.cursor)))

    def reset(self, reason: str, cursor: Cursor) -> None:
        """Say that something is missing."""
        self.cursor = cursor
        self._put(events.reset(reason, str(cursor)))

    def end(self, reason: str) -> None:
        """Nothing follows; what is held is dropped."""
        if not self.over.done():
            self.over.set_result(reason)
            self._held.clear()
            self._more.set()

    async def next(self, patience: float) -> bytes | None:
        """All that is held, waiting for it for `patience` seconds; None: there is nothing, or it is over."""
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
        # One that has read everything gets an event of any size.
        if self._held and self._size + len(data) > self._bound:
            self.end("slow")
            return
        self._held.append(data)
        self._size += len(data)
        self._more.set()


class Hub:
    """The reader, and who listens to it.

    Parameters
    ----------
    pool : ReadPool
        For this alone, so that neither keeps the other waiting.
    counts : Requests
        Where streams are counted.
    streams, streams_each : int
        At once; of one key.
    buffer : int
        Bytes that wait for one client.
    """

    def __init__(
        self,
        pool: ReadPool,
        counts: Requests,
        *,
        streams: int = STREAMS,
        streams_each: int = STREAMS_EACH,
        buffer: int = BUFFER,
    ) -> None:
        self._pool: Final = pool
        self._counts: Final = counts
        self._turns: Final = asyncio.Semaphore(_READING)
        self._streams: Final = streams
        self._each: Final = streams_each
        self._buffer: Final = buffer
        self._open: Final[Counter[str]] = Counter()
        self._feeds: Final[dict[bytes, Channel]] = {}
        self._subscriptions: Final[set[Subscription]] = set()
        self._names: Names | None = None
        self._reading_names: Final = asyncio.Lock()
        self._cursor: Cursor | None = None  # None: nobody listens
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    # --- who listens ---------------------------------------------------------------------------------------------------------

    def enter(self, who: str) -> None:
        """Take a place.

        Raises
        ------
        Problem
            None is free.
        """
        headers = {"Retry-After": str(_RETRY_AFTER)}
        if self._closing:
            raise Problem(503, "shutting-down", "Shutting down", "the server is about to stop; try again", headers=headers)
        if self._open.total() >= self._streams:
            detail = f"{self._streams} streams are open, which is as many as this server has room for; try again later"
            raise Problem(503, "too-many-streams", "Too many streams", detail, headers=headers, max_streams=self._streams)
        if self._open[who] >= self._each:
            detail = f"{self._each} streams are open with this key, as many as one may have; close one of them"
            raise Problem(429, "too-many-streams", "Too many streams", detail, headers=headers, max_streams_per_key=self._each)
        self._open[who] += 1
        self._counts.streams.inc()

    def leave(self, who: str, reason: str) -> None:
        """Give it back, and say why."""
        self._counts.streams.dec()
        self._counts.ended.labels(reason).inc()
        self._open[who] -= 1
        if not self._open[who]:
            del self._open[who]

    async def subscribe(self, wish: StreamFilter, cursor: Cursor | None) -> Subscription:
        """Something is to be told from a cursor on (None: now). It is not, until it joins; in between its owner reads for itself.

        Raises
        ------
        StorageError
        """
        if cursor is None:
            async with self._turns:
                cursor = await following.now(self._pool)
        key = wish.key()
        feed = self._feeds.setdefault(key, Channel(wish))
        feed.users += 1
        made = Subscription(feed, cursor, self._buffer)
        self._subscriptions.add(made)
        try:
            async with self._reading_names:
                if self._names is None:
                    self._names = await following.names(self._pool)
                if len(feed.members) < len(self._names) or not len(feed.members):
                    feed.members = await self._members(feed, self._names)
        except BaseException:
            self.unsubscribe(made)
            raise
        if self._closing:
            made.end("shutdown")
        return made

    async def read(self, subscription: Subscription) -> Page:
        """What follows of the outbox, for who reads for itself.

        Raises
        ------
        StorageError
        """
        async with self._turns:
            page = await following.page(self._pool, subscription.cursor, readings=following.READINGS_FOR_ONE)
        if not page.lost:
            await self._know(page.registry)
        return page

    def join(self, subscription: Subscription) -> bool:
        """Have the hub tell it what follows; False: the hub is ahead of it."""
        if self._cursor is None:
            self._cursor = Cursor(generation=subscription.cursor.generation, position=subscription.cursor.position)
        elif self._cursor.generation != subscription.cursor.generation or self._cursor.position > subscription.cursor.position:
            return False
        subscription.feed.streams.add(subscription)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="hub")
        return True

    def unsubscribe(self, subscription: Subscription) -> None:
        """Tell it nothing more."""
        feed = subscription.feed
        self._subscriptions.discard(subscription)
        feed.streams.discard(subscription)
        feed.users -= 1
        if not feed.users:
            self._feeds.pop(feed.wish.key(), None)
        if not self._subscriptions and self._task is not None:
            task, self._task, self._cursor = self._task, None, None
            task.cancel()

    def block(self, subscription: Subscription, row: Row) -> bytes | None:
        """As `Channel.block`, for who reads for itself."""
        assert self._names is not None
        return subscription.feed.block(row, self._names)

    def end_all(self, reason: str = "shutdown") -> None:
        """End every stream; no other begins."""
        self._closing = True
        for subscription in self._subscriptions:
            subscription.end(reason)

    async def close(self) -> None:
        """End every stream, and the reader."""
        self.end_all()
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # --- the reader ----------------------------------------------------------------------------------------------------------

    async def _know(self, version: int) -> None:
        """Know the registry as of a version at least.

        Raises
        ------
        StorageError
        """
        async with self._reading_names:
            if self._names is not None and self._names.version >= version:
                return
            names = await following.names(self._pool)
            feeds = list(self._feeds.values())
            members = [await self._members(feed, names) for feed in feeds]
            # At once: an id that is out of one array is out of all.
            self._names = names
            for feed, of in zip(feeds, members, strict=True):
                feed.members = of

    async def _members(self, feed: Channel, names: Names) -> Bools:
        return await following.members(self._pool, feed.wish.selection, max(len(names), 1))

    async def _run(self) -> None:
        away = False
        try:
            while True:
                try:
                    more = await self._look()
                except StorageError as exc:
                    if not away:
                        _log.warning("streams wait for the database: %s", exc)
                    away = True
                    await asyncio.sleep(_AGAIN)
                else:
                    away = False
                    await asyncio.sleep(0 if more else LOOK)
        except Exception:
            _log.exception("the reader of streams failed")
            for subscription in list(self._subscriptions):
                subscription.end("error")
            self._task, self._cursor = None, None

    async def _look(self) -> bool:
        """Tell what there is; whether there is more."""
        assert self._cursor is not None
        page = await following.page(self._pool, self._cursor)
        if page.lost:
            _log.warning("streams are reset: what they had not been told was dropped")
            for feed in self._feeds.values():
                for subscription in feed.streams:
                    subscription.reset("dropped", page.cursor)
            self._cursor = page.cursor
            return False
        await self._know(page.registry)
        # Before the first await of telling: who joins in its midst has to be behind all of these rows.
        self._cursor = page.cursor
        await self._tell(page.rows)
        for feed in self._feeds.values():
            for subscription in feed.streams:
                if page.cursor.position > subscription.cursor.position:
                    subscription.cursor = subscription.cursor.at(page.cursor.position)
        return page.more

    async def _tell(self, rows: Sequence[Row]) -> None:
        assert self._names is not None
        for row in rows:
            for feed in list(self._feeds.values()):
                if feed.streams:
                    _tell(feed.streams, row, feed.block(row, self._names))
            await asyncio.sleep(0)  # others get their turn between two events


def _tell(streams: Iterable[Subscription], row: Row, block: bytes | None) -> None:
    for subscription in streams:
        subscription.tell(row, block)
