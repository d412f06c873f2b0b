"""What happens now, as server-sent events.

Law: each row of the outbox is told once, in one order, to whoever wished for it, or a `reset` says that something is missing. A
client that goes away is noticed at once, one that does not read is ended, and neither concerns anybody else.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field
from starlette.types import Receive, Scope, Send

from citybeat.api.http.auth import Reader
from citybeat.api.http.gate import Caller, Gate
from citybeat.api.http.openapi import guarded
from citybeat.api.http.problems import invalid
from citybeat.api.live import events
from citybeat.api.live.hub import Hub, Kind, StreamFilter, Subscription
from citybeat.api.routes.service import ServiceDep
from citybeat.api.series.selecting import Filters, check_metrics, visible
from citybeat.storage.db.connection import StorageError
from citybeat.storage.reads.cursors import Cursor, CursorError
from citybeat.storage.reads.series import Policy

_log: Final = logging.getLogger(__name__)
router: Final = APIRouter(prefix="/v1", tags=["telemetry"])

#: s of silence after which a comment is sent: proxies close what is silent for 30 or 60.
HEARTBEAT: Final = 15.0
#: Bytes that are handed to the server at once, and s that a client may take for them (13 kB/s).
_PIECE: Final = 262_144
STALL: Final = 20.0
#: s between two looks whether the key still holds, beside those that the gate believes what it read.
_CHECK: Final = 1.0
#: s for a last event to a client that may not be reading.
_PARTING: Final = 1.0
#: ms after which a client that was cut off should come again.
_RETRY: Final = 2_000


class StreamParameters(Filters):
    """Which sensors, and what of them."""

    events: list[Kind] | None = Field(None, max_length=10, description="Only these: `readings`, `state`; repeat it for both.")
    flags: Policy = Field(
        Policy.ALL, description="`good`: only readings that no flag keeps out of aggregates. `only_bad`: the others."
    )
    last_event_id: str | None = Field(
        None,
        max_length=20_000,
        description="Go on behind this event, or behind the `stream_cursor` of an answer. The header Last-Event-ID wins over it.",
    )


_EXAMPLE: Final = """\
retry: 2000
id: WyJhMWIyYzNkNCIsODEyLDkyMjMzNzIwMzY4NTQ3NzU4MDdd

event: readings
data: {"device":["env-0007"],"metric":["temperature"],"time":[1767225600000],"value":[28.1],"flags":[[]]}
id: WyJhMWIyYzNkNCIsODEzLDQ0XQ

event: state
data: {"device":"env-0007","metric":"pm25","state":"overdue","since":1767225780000,"value":12.3}
id: WyJhMWIyYzNkNCIsODE0LDQ1XQ

"""


@router.get(
    "/stream",
    response_class=Response,
    responses={
        200: {
            "description": "Events, without end.",
            "content": {events.MEDIA_TYPE: {"schema": {"type": "string"}, "example": _EXAMPLE}},
        },
        **guarded(422),
    },
)
async def stream(
    service: ServiceDep,
    caller: Reader,
    request: Request,
    parameters: Annotated[StreamParameters, Query()],
    last_event_id: Annotated[str | None, Header(description="As `last_event_id`.", max_length=20_000)] = None,
) -> Response:
    """New readings and changed states of sensors, as they are committed: server-sent events.

    `readings`: what one transaction stored, in columns, at most 20,000. `state`: a sensor became ok, bad, stuck, overdue or silent.
    `reset`: what lay between is gone, ask /v1/latest and /v1/states again. `end`: the server closes the stream, and says why.
    Sensors that come into the selection, or go, do so at once.
    """
    check_metrics(service.catalogue, parameters.metric)
    given, where, name = parameters.last_event_id, "query", "last_event_id"
    if last_event_id:
        given, where, name = last_event_id, "header", "Last-Event-ID"
    try:
        cursor = Cursor.parse(given) if given else None
    except CursorError as exc:
        raise invalid(name, str(exc), where=where) from None
    wish = StreamFilter(
        selection=visible(parameters.selection(), caller),
        events=frozenset(parameters.events or ("readings", "state")),
        flags=parameters.flags,
    )
    who = caller.id or f"address {request.client.host if request.client else '?'}"
    return Stream(service.hub, service.gate, caller, who, wish, cursor)


class Stream(Response):
    """A response that goes on until one side ends it.

    Parameters
    ----------
    hub : Hub
    gate : Gate
        Asked whether the caller may go on.
    caller : Caller
    who : str
        Whose places are counted together.
    wish : StreamFilter
    cursor : Cursor, optional
        Behind which it begins; now, unless given.
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
        """Send it.

        Raises
        ------
        Problem, StorageError
            Before the first byte.
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
        gone = asyncio.create_task(_disconnected(receive))
        ends: set[asyncio.Future[Any]] = {work, watch, gone, subscription.over}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if subscription.over.done() and not gone.done():
                await asyncio.wait({work, gone}, timeout=_PARTING, return_when=asyncio.FIRST_COMPLETED)
                _log.info("a stream was ended", extra={"reason": subscription.over.result(), "caller": self._caller.label})
        finally:
            left = gone.done()
            subscription.end("gone")
            for task in (work, watch, gone):
                task.cancel()
            results = await asyncio.gather(work, watch, gone, return_exceptions=True)
        failures = [result for result in results if isinstance(result, Exception)]
        if failures and not left:  # to send to somebody who is gone may fail
            raise failures[0]

    async def _work(self, subscription: Subscription, send: Send) -> None:
        """Everything that is sent, in order."""

        async def put(data: bytes) -> None:
            try:
                for at in range(0, len(data), _PIECE):
                    async with asyncio.timeout(STALL):
                        await send({"type": "http.response.body", "body": data[at : at + _PIECE], "more_body": True})
            except TimeoutError:
                subscription.end("slow")
                await asyncio.Event().wait()  # until we are cancelled

        await put(events.beginning(_RETRY, str(subscription.cursor)))
        while not subscription.over.done():
            try:
                await self._catch_up(subscription, put)
                break
            except StorageError as exc:
                _log.info("a stream waits for the database: %s", exc)
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
        """Tell what lies between the cursor and the hub, from the database."""
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
        """End it when the key does not hold any more."""
        while True:
            await asyncio.sleep(_CHECK)
            try:
                holds = await self._gate.still(self._caller)
            except StorageError:
                continue  # nothing is told meanwhile
            if not holds:
                subscription.end("key-revoked")
                return


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
