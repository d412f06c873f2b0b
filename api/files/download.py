"""Long answers: made while they are sent, in bounded memory, and never whole when they are not.

Law: until the first bytes are there, an error is a problem like any other. After that it can only break the connection: no
final chunk is sent, so that every HTTP client knows that the answer is not whole. A client that goes away, or takes nothing, ends
the work at once, and with it the query.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from citybeat.api.files.tables import Encoder
from citybeat.api.http.problems import Problem
from citybeat.devices.errors import CitybeatError
from citybeat.storage.reads.export import Block

_log: Final = logging.getLogger(__name__)

#: Bytes that are handed to the server at once; it takes the next when the client has taken most of them.
_PIECE: Final = 262_144
#: s that a client may take for one piece (4 kB/s). A download that stands still keeps others from theirs, and the database from
#: tidying up.
STALL: Final = 60.0
#: s. A year of 10,000 sensors that report every minute are 5 billion rows, an hour's work.
DURATION: Final = 6 * 3600.0
#: Downloads at once. One keeps a core of ours and one of the database's busy; the rest is for live answers.
DOWNLOADS: Final = 2
#: s after which a client that found no room may ask again.
_RETRY_AFTER: Final = 30


class Downloads:
    """How many there are, and may be. One for each application."""

    def __init__(self, limit: int = DOWNLOADS) -> None:
        self.limit: Final = limit
        self._running = 0

    def enter(self) -> None:
        """Take a place.

        Raises
        ------
        Problem
            None is free.
        """
        if self._running >= self.limit:
            detail = f"{self.limit} exports are running, which is as many as this server lets run at once; ask again later"
            headers = {"Retry-After": str(_RETRY_AFTER)}
            raise Problem(503, "too-many-exports", "Too many exports", detail, headers=headers, max_exports=self.limit)
        self._running += 1

    def leave(self) -> None:
        """Give it back."""
        self._running -= 1


class BrokenDownloadError(CitybeatError):
    """A download ended before its end."""


class Download(Response):
    """A response whose body is made by an encoder out of blocks.

    Parameters
    ----------
    downloads : Downloads
        Where a place is taken for as long as it lasts.
    source : function
        Given a sink, hands it all blocks; cancelled when nobody wants them.
    encoder : Encoder
    media_type : str
    headers : mapping
    stall, duration : float
        s that a piece, and the whole, may take.
    """

    def __init__(
        self,
        downloads: Downloads,
        source: Callable[[Callable[[Block], Awaitable[None]]], Awaitable[None]],
        encoder: Encoder,
        *,
        media_type: str,
        headers: Mapping[str, str],
        stall: float = STALL,
        duration: float = DURATION,
    ) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self.headers.update(headers)
        # Parquet is compressed already, Arrow and CSV would take the event loop's time: the middleware leaves alone what says this.
        self.headers["content-encoding"] = "identity"
        self._downloads: Final = downloads
        self._source: Final = source
        self._encoder: Final = encoder
        self._stall: Final = stall
        self._duration: Final = duration

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send it.

        Raises
        ------
        Problem, StorageError
            Before the first byte.
        """
        self._downloads.enter()
        try:
            work = asyncio.ensure_future(self._work(send))
            gone = asyncio.ensure_future(_disconnected(receive))
            try:
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # Nothing here is left to run on by itself: a query that nobody waits for would keep its connection.
                await _end(gone)
                if not work.done():
                    _log.info("an export ended early: the client went away")
                    await _end(work)
            if not work.cancelled():
                work.result()
        finally:
            self._downloads.leave()

    async def _work(self, send: Send) -> None:
        begun = False
        try:
            async with asyncio.timeout(self._duration):
                blocks: asyncio.Queue[Block | None] = asyncio.Queue(1)
                reader = asyncio.ensure_future(self._read(blocks))
                try:
                    first = await blocks.get()
                    if first is None:
                        await reader  # its error, if it had one
                    await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                    begun = True
                    await self._send(send, self._encoder.begin())
                    block = first
                    while block is not None:
                        await self._send(send, await asyncio.to_thread(self._encoder.block, block))
                        block = await blocks.get()
                    await reader  # its error, if it had one
                    await self._send(send, await asyncio.to_thread(self._encoder.end))
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                finally:
                    await _end(reader)
        except Exception as exc:
            if not begun:
                raise
            raise BrokenDownloadError(f"an export broke off: {str(exc) or type(exc).__name__}") from exc

    async def _read(self, blocks: "asyncio.Queue[Block | None]") -> None:
        try:
            await self._source(blocks.put)
        except Exception:
            await blocks.put(None)  # whoever waits for a block asks what became of this
            raise
        await blocks.put(None)

    async def _send(self, send: Send, data: bytes) -> None:
        for at in range(0, len(data), _PIECE):
            async with asyncio.timeout(self._stall):
                await send({"type": "http.response.body", "body": data[at : at + _PIECE], "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: "asyncio.Future[None]") -> None:
    """Cancel, and wait until it is over; its error is whoever's who asks for it."""
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await asyncio.shield(asyncio.gather(task, return_exceptions=True))
