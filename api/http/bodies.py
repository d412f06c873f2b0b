"""Bodies: limits of their size and decompression of requests, and the sending of long answers in pieces."""

import asyncio
import zlib
from collections.abc import Mapping
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from citybeat.api.http.problems import Problem, invalid

#: Bytes. A query with a thousand device ids takes 130 kB at most.
QUESTION: Final = 1024 * 1024
#: Bytes. Half a million readings as JSON, some millions as Parquet; they are in memory several times over while they are read.
UPLOAD: Final = 64 * 1024 * 1024
#: Bytes that are passed to the server at a time; it accepts the next when the client has taken most of them.
_PIECE: Final = 262_144


class BoundedBodies:
    """ASGI middleware that refuses bodies that are larger than their route allows.

    Parameters
    ----------
    app : ASGIApp
    limits : mapping of str to int
        Bytes, by path; `QUESTION` for every other path.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int]) -> None:
        self._app: Final = app
        self._limits: Final = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limits.get(scope["path"], QUESTION)
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        seen, answered = int(declared) if declared.isdigit() else 0, False
        if seen > limit:
            await _refuse(limit, scope, receive, send)
            return
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            # The application sees a client that disconnected; its answer to that is not sent.
            return message if seen <= limit else {"type": "http.disconnect"}

        async def instead(message: Message) -> None:
            nonlocal answered
            if seen <= limit:
                await send(message)
            elif not answered:
                answered = True
                await _refuse(limit, scope, receive, send)

        try:
            await self._app(scope, bounded, instead)
        except ClientDisconnect:
            if seen <= limit or answered:
                raise
            await _refuse(limit, scope, receive, send)


async def _refuse(limit: int, scope: Scope, receive: Receive, send: Send) -> None:
    problem = too_large(f"a body may have {limit} bytes here; send several smaller ones", limit)
    await problem.response()(scope, receive, send)


def too_large(detail: str, limit: int) -> Problem:
    """A body is larger than allowed."""
    return Problem(413, "content-too-large", "Content too large", detail, max_bytes=limit)


def expected_size(request: Request, encoding: str | None) -> int:
    """Bytes that a body may have once it is unpacked, before it is read."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdigit() and encoding is None else UPLOAD


async def unpacked(request: Request, encoding: str | None) -> bytes:
    """The body of a request, decompressed.

    Raises
    ------
    Problem
        The encoding is not known, or the body does not have it, or it is larger than `UPLOAD`.
    """
    body = await request.body()
    if encoding is None or encoding.strip().lower() in {"", "identity"}:
        return body
    if encoding.strip().lower() != "gzip":
        raise Problem(415, "unsupported-media-type", "Unsupported media type", f"there is gzip; not {encoding[:80]!r}")
    unpacking = zlib.decompressobj(wbits=31)
    try:
        plain = await asyncio.to_thread(unpacking.decompress, body, UPLOAD + 1)
    except zlib.error as exc:
        raise invalid("body", f"not gzip: {exc}", where="body", slug="unreadable") from exc
    if len(plain) > UPLOAD:
        raise too_large(f"unpacked it has more than {UPLOAD} bytes", UPLOAD)
    if not unpacking.eof or unpacking.unused_data:
        raise invalid("body", "not exactly one complete gzip file", where="body", slug="unreadable")
    return plain


async def send_in_pieces(send: Send, data: bytes, stall: float) -> None:
    """Send a part of a body.

    Raises
    ------
    TimeoutError
        The client did not take a piece within `stall` seconds.
    """
    for at in range(0, len(data), _PIECE):
        async with asyncio.timeout(stall):
            await send({"type": "http.response.body", "body": data[at : at + _PIECE], "more_body": True})


async def disconnected(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass
