"""How large a request may be."""

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem

#: Bytes. A question with a thousand device ids takes 130 kB at most.
QUESTION: Final = 1024 * 1024
#: Bytes. Half a million readings as JSON, some millions as Parquet; they are held in memory several times over while they are read.
UPLOAD: Final = 64 * 1024 * 1024


class _TooLargeError(Exception):
    pass


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
        seen, begun = 0, False

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _TooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            if declared.isdigit() and int(declared) > limit:
                raise _TooLargeError
            await self._app(scope, bounded, noted)
        except _TooLargeError:
            if begun:
                raise
            detail = f"a body may have {limit} bytes here; send several smaller ones"
            problem = Problem(413, "content-too-large", "Content too large", detail, max_bytes=limit)
            await problem.response()(scope, receive, send)
