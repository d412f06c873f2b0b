"""The hub: one reader of the outbox for all streams of a process.

Invariant: the hub never waits for a client. Events that a stream has not sent yet are buffered up to a bound; beyond it the stream
is ended. The hub polls the outbox ten times a second, and only while there is a stream: a NOTIFY would take a lock of the whole
server at every commit of ingest (docs/decisions/0005-outbox.md).

A stream that resumes reads the rows that it missed itself (`api/live/streaming.py`) until it has caught up with the hub, and joins
it between two polls. Each poll returns the registry's version too. If that has changed, names and members are read again before any
row is distributed, so that readings of a new device are not missed, and none is sent to a client that may no longer see it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from citybeat.api.http.problems import Problem
from citybeat.api.http.requests import Requests
from citybeat.api.live.subscriptions import Channel, StreamFilter, Subscription
from citybeat.devices.batch import Bools
from citybeat.storage.db.connection import StorageError
from citybeat.storage.db.pool import ReadPool
from citybeat.storage.reads import following
from citybeat.storage.reads.cursors import Cursor
from citybeat.storage.reads.following import Names, Page, Row

_log: Final = logging.getLogger(__name__)

#: s between two polls. A reading waits half of it on average; a poll takes the database 1 ms.
LOOK: Final = 0.1
#: s until a poll that failed is repeated.
_AGAIN: Final = 1.0
#: Bytes that are buffered for one client. A minute of 1,000 devices that each report 6 metrics once is 0.3 MB; a client that is
#: 4 MiB behind has stopped reading.
BUFFER: Final = 4 * 1024 * 1024
#: Concurrent streams of one process, and of one key (or address without a key). Each costs a connection and, if no other stream has
#: the same filters, a pass over every batch.
STREAMS: Final = 500
STREAMS_EACH: Final = 50
#: Streams that read the outbox themselves at one time, when many resume together; they must leave the hub its connection.
_READING: Final = 3
#: Database connections: those of resuming streams, one for polling, and one for names.
CONNECTIONS: Final = _READING + 2
_RETRY_AFTER: Final = 5  # s


class Hub:
    """The reader of the outbox, and its streams.

    Parameters
    ----------
    pool : ReadPool
        For streams alone, so that they and queries never wait for each other's connections.
    counts : Requests
        The metrics in which streams are counted.
    streams, streams_each : int
        Concurrent streams of all keys, and of one key.
    buffer : int
        Bytes that are buffered for one client.
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
        self._cursor: Cursor | None = None  # None: no stream has joined
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    # --- streams -------------------------------------------------------------------------------------------------------------

    def enter(self, who: str) -> None:
        """Count a stream of a key or address.

        Raises
        ------
        Problem
            There are as many as allowed already.
        """
        headers = {"Retry-After": str(_RETRY_AFTER)}
        if self._closing:
            raise Problem(503, "shutting-down", "Shutting down", "the server is stopping; try again", headers=headers)
        if self._open.total() >= self._streams:
            detail = f"{self._streams} streams are open, the most that this server allows; try again later"
            raise Problem(503, "too-many-streams", "Too many streams", detail, headers=headers, max_streams=self._streams)
        if self._open[who] >= self._each:
            detail = f"{self._each} streams are open with this key, the most that one key may have; close one of them"
            raise Problem(429, "too-many-streams", "Too many streams", detail, headers=headers, max_streams_per_key=self._each)
        self._open[who] += 1
        self._counts.streams.inc()

    def leave(self, who: str, reason: str) -> None:
        """Count the end of a stream, and its reason."""
        self._counts.streams.dec()
        self._counts.ended.labels(reason).inc()
        self._open[who] -= 1
        if not self._open[who]:
            del self._open[who]

    async def subscribe(self, wish: StreamFilter, cursor: Cursor | None) -> Subscription:
        """A subscription from a cursor on (None: now). Until it joins, its owner has to read the outbox itself.

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
        """The next rows of the outbox for a subscription that has not joined.

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
        """Have the hub distribute what follows to a subscription; False: the hub is ahead of it."""
        if self._cursor is None:
            self._cursor = Cursor(generation=subscription.cursor.generation, position=subscription.cursor.position)
        elif self._cursor.generation != subscription.cursor.generation or self._cursor.position > subscription.cursor.position:
            return False
        subscription.feed.streams.add(subscription)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="hub")
        return True

    def unsubscribe(self, subscription: Subscription) -> None:
        """Remove a subscription."""
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
        """As `Channel.block`, for a subscription that has not joined."""
        assert self._names is not None
        return subscription.feed.block(row, self._names)

    def end_all(self, reason: str = "shutdown") -> None:
        """End every stream, and admit no more."""
        self._closing = True
        for subscription in self._subscriptions:
            subscription.end(reason)

    async def close(self) -> None:
        """End every stream, and stop reading."""
        self.end_all()
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # --- the reader ----------------------------------------------------------------------------------------------------------

    async def _know(self, version: int) -> None:
        """Read names and members again, unless they are of this version of the registry or a later one.

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
            # All at once: an id that is beyond the end of one array is beyond the end of all.
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
                        _log.warning("cannot read the outbox for streams, will retry: %s", exc)
                    away = True
                    await asyncio.sleep(_AGAIN)
                else:
                    away = False
                    await asyncio.sleep(0 if more else LOOK)
        except Exception:
            _log.exception("the hub failed; all its streams are ended")
            for subscription in list(self._subscriptions):
                subscription.end("error")
            self._task, self._cursor = None, None

    async def _look(self) -> bool:
        """Distribute one page of rows; whether there is another."""
        assert self._cursor is not None
        page = await following.page(self._pool, self._cursor)
        if page.lost:
            _log.warning("streams are reset: the outbox was trimmed of rows that they had not been sent")
            for feed in self._feeds.values():
                for subscription in feed.streams:
                    subscription.reset("dropped", page.cursor)
            self._cursor = page.cursor
            return False
        await self._know(page.registry)
        # Set before the first await below: a subscription that joins while rows are distributed has to be behind all of them.
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
            await asyncio.sleep(0)  # let other tasks run between two rows


def _tell(streams: Iterable[Subscription], row: Row, block: bytes | None) -> None:
    for subscription in streams:
        subscription.tell(row, block)
