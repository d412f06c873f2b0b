"""The response of /v1/stream: server-sent events for one client.

Invariant: each row of the outbox that the client's filter selects is sent once, in the order of commits, or a `reset` says that
rows are missing. A client that leaves is noticed at once, and one that does not read is ended; neither affects other streams.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import Response
from starlette.types import Receive, Scope, Send

from citybeat.api.http.bodies import disconnected, send_in_pieces
from citybeat.api.http.gate import Caller, Gate
from citybeat.api.live import events
from citybeat.api.live.hub import Hub
from citybeat.api.live.subscriptions import StreamFilter, Subscription
from citybeat.storage.db.connection import StorageError
from citybeat.storage.reads.cursors import Cursor

_log: Final = logging.getLogger(__name__)

#: s without an event after which a comment is sent: proxies close connections that are silent for 30 or 60 s.
HEARTBEAT: Final = 15.0
#: s in which a client has to take one piece (13 kB/s).
STALL: Final = 20.0
#: s between two checks that the key is still valid, in addition to the time that the gate caches keys.
_CHECK: Final = 1.0
#: s that a client, which may not be reading, has to take the last event.
_PARTING: Final = 1.0
#: ms after which a client whose connection broke should reconnect.
_RETRY: Final = 2_000


class Stream(Response):
    """A response of server-sent events that lasts until one side ends it.

    Parameters
    ----------
    hub : Hub
    gate : Gate
        Checks that the caller's key stays valid.
    caller : Caller
    who : str
        The key or address whose streams are counted together.
    wish : StreamFilter
    cursor : Cursor, optional
        The stream begins behind it; now, unless given.
    """

    media_type = events.MEDIA_TYPE

    def __init__(self, hub: Hub, gate: Gate, caller: Caller, who: str, wish: StreamFilter, cursor: Cursor | None) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"  # nginx would hold events back
        self._hub: Final = hub
        self._gate: Final = gate
        self._caller: Final = caller
        self._who: Final = who
        self._wish: Final = wish
        self._cursor: Final = cursor

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until one side ends the stream.

        Raises
        ------
        Problem, StorageError
            Before the first byte, if the stream cannot begin.
        """
        self._hub.enter(self._who)
        reason = "error"
        try:
            subscription = await self._hub.subscribe(self._wish, self._cursor)
            try:
                await self._attend(subscription, receive, send)
                reason = subscription.over.result()
            finally:
                self._hub.unsubscribe(subscription)
        finally:
            self._hub.leave(self._who, reason)

    async def _attend(self, subscription: Subscription, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        work = asyncio.create_task(self._work(subscription, send))
        watch = asyncio.create_task(self._watch(subscription))
        gone = asyncio.create_task(disconnected(receive))
        ends: set[asyncio.Future[Any]] = {work, watch, gone, subscription.over}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if subscription.over.done() and not gone.done():
                await asyncio.wait({work, gone}, timeout=_PARTING, return_when=asyncio.FIRST_COMPLETED)
                _log.info("ended a stream", extra={"reason": subscription.over.result(), "caller": self._caller.label})
        finally:
            left = gone.done()
            subscription.end("gone")
            for task in (work, watch, gone):
                task.cancel()
            results = await asyncio.gather(work, watch, gone, return_exceptions=True)
        failures = [result for result in results if isinstance(result, Exception)]
        if failures and not left:  # sending to a client that has left may fail
            raise failures[0]

    async def _work(self, subscription: Subscription, send: Send) -> None:
        """Send everything in order: missed rows, then the events that the hub distributes."""

        async def put(data: bytes) -> None:
            try:
                await send_in_pieces(send, data, STALL)
            except TimeoutError:
                subscription.end("slow")
                await asyncio.Event().wait()  # until this task is cancelled

        await put(events.beginning(_RETRY, str(subscription.cursor)))
        while not subscription.over.done():
            try:
                await self._catch_up(subscription, put)
                break
            except StorageError as exc:
                _log.info("a stream cannot read the outbox, will retry: %s", exc)
                await asyncio.wait({subscription.over}, timeout=1.0)
                if not subscription.over.done():
                    await put(events.heartbeat(str(subscription.cursor)))
        sent = time.monotonic()
        while not subscription.over.done():
            data = await subscription.next(max(0.0, sent + HEARTBEAT - time.monotonic()))
            if data is not None:
                await put(data)
            elif not subscription.over.done():
                await put(events.heartbeat(str(subscription.cursor)))
            sent = time.monotonic()
        await put(events.end(subscription.over.result()))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _catch_up(self, subscription: Subscription, put: Callable[[bytes], Awaitable[None]]) -> None:
        """Send the rows between the cursor and the hub, from the database."""
        while not subscription.over.done():
            page = await self._hub.read(subscription)
            if page.lost:
                subscription.cursor = page.cursor
                await put(events.reset("dropped", str(page.cursor)))
            else:
                for row in page.rows:
                    subscription.cursor = subscription.cursor.at(row.position)
                    if (block := self._hub.block(subscription, row)) is not None:
                        await put(events.ended(block, str(subscription.cursor)))
                subscription.cursor = page.cursor
            if not page.more and self._hub.join(subscription):
                return

    async def _watch(self, subscription: Subscription) -> None:
        """End the stream when the key becomes invalid."""
        while True:
            await asyncio.sleep(_CHECK)
            try:
                holds = await self._gate.still(self._caller)
            except StorageError:
                continue  # without the database no events are sent either
            if not holds:
                subscription.end("key-revoked")
                return
