"""How large a request may be."""

from collections.abc import Mapping
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from citybeat.api.http.problems import Problem

#: Bytes. A question with a thousand device ids takes 130 kB at most.
QUESTION: Final = 1024 * 1024
#: Bytes. Half a million readings as JSON, some millions as Parquet; they are held in memory several times over while they are read.
UPLOAD: Final = 64 * 1024 * 1024


class BoundedBodies:
    """ASGI middleware that takes no more of a body than its route may have.

    Parameters
    ----------
    app : ASGIApp
    limits : mapping of str to int
        Bytes, by path; `QUESTION` for any other.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int]) -> None:
        self._app: Final = app
        self._limits: Final = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, or answer 413."""
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
            # For the application the client is gone; what it makes of that is not sent.
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
    detail = f"a body may have {limit} bytes here; send several smaller ones"
    problem = Problem(413, "content-too-large", "Content too large", detail, max_bytes=limit)
    await problem.response()(scope, receive, send)
