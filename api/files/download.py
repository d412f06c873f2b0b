"""Responses with a file that is made while it is sent, in bounded memory.

Invariant: an incomplete file never looks complete. Before the first byte an error is answered as a problem. After it, an error
breaks the connection without the final chunk, so that every HTTP client notices. If the client disconnects or stops reading, the
work and its query end at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from citybeat.api.files.tables import Encoder
from citybeat.api.http.bodies import disconnected, send_in_pieces
from citybeat.api.http.problems import Problem
from citybeat.devices.errors import CitybeatError
from citybeat.storage.reads.export import Block

_log: Final = logging.getLogger(__name__)

#: s in which a client has to take one piece (4 kB/s). A stalled download takes the place of another, and keeps the database from
#: vacuuming.
STALL: Final = 60.0
#: s of one download. A year of 10,000 sensors that report every minute is 5 billion rows, an hour of work.
DURATION: Final = 6 * 3600.0
#: Concurrent downloads. One uses a core of this process and one of the database; the others are for interactive requests.
DOWNLOADS: Final = 2
#: s after which a client may try again when there are too many downloads.
_RETRY_AFTER: Final = 30


class Downloads:
    """Limit of concurrent downloads. One for each application."""

    def __init__(self, limit: int = DOWNLOADS) -> None:
        self.limit: Final = limit
        self._running = 0

    def enter(self) -> None:
        """Count a download.

        Raises
        ------
        Problem
            There are as many as allowed already.
        """
        if self._running >= self.limit:
            detail = f"{self.limit} exports are running, the most that this server allows; try again later"
            headers = {"Retry-After": str(_RETRY_AFTER)}
            raise Problem(503, "too-many-exports", "Too many exports", detail, headers=headers, max_exports=self.limit)
        self._running += 1

    def leave(self) -> None:
        """Count the end of a download."""
        self._running -= 1


class BrokenDownloadError(CitybeatError):
    """A download failed after its first byte."""


class Download(Response):
    """A response whose body an encoder makes from blocks.

    Parameters
    ----------
    downloads : Downloads
        Counts the download while it lasts.
    source : function
        Passes all blocks to the sink that it is given; cancelled when the download ends early.
    encoder : Encoder
    media_type : str
    headers : mapping
    stall, duration : float
        Most s for one piece, and for the whole file.
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
        # Keeps the middleware from compressing: Parquet is compressed already, and Arrow and CSV would block the event loop.
        self.headers["content-encoding"] = "identity"
        self._downloads: Final = downloads
        self._source: Final = source
        self._encoder: Final = encoder
        self._stall: Final = stall
        self._duration: Final = duration

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file.

        Raises
        ------
        Problem, StorageError
            Before the first byte, if the file cannot be made.
        """
        self._downloads.enter()
        try:
            work = asyncio.ensure_future(self._work(send))
            gone = asyncio.ensure_future(disconnected(receive))
            try:
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # Both tasks are awaited: a query that went on without its download would keep its connection.
                await _end(gone)
                if not work.done():
                    _log.info("an export ended early: the client disconnected")
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
                        await reader  # raises its error, if it had one
                    await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                    begun = True
                    await send_in_pieces(send, self._encoder.begin(), self._stall)
                    block = first
                    while block is not None:
                        await send_in_pieces(send, await asyncio.to_thread(self._encoder.block, block), self._stall)
                        block = await blocks.get()
                    await reader  # raises its error, if it had one
                    await send_in_pieces(send, await asyncio.to_thread(self._encoder.end), self._stall)
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
            await blocks.put(None)  # wakes the consumer, which then retrieves this error
            raise
        await blocks.put(None)


async def _end(task: "asyncio.Future[None]") -> None:
    """Cancel a task and wait for its end; an error of it is not raised here."""
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await asyncio.shield(asyncio.gather(task, return_exceptions=True))
