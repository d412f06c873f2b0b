"""New readings and changed states as server-sent events."""

from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field

from citybeat.api.http.auth import Reader
from citybeat.api.http.openapi import guarded
from citybeat.api.http.problems import invalid
from citybeat.api.live import events
from citybeat.api.live.streaming import Stream
from citybeat.api.live.subscriptions import Kind, StreamFilter
from citybeat.api.routes.service import ServiceDep
from citybeat.api.series.selecting import Filters, check_metrics, visible
from citybeat.storage.reads.cursors import Cursor, CursorError
from citybeat.storage.reads.series import Policy

router: Final = APIRouter(prefix="/v1", tags=["telemetry"])


class StreamParameters(Filters):
    """Filters of sensors and of events, and where to resume."""

    events: list[Kind] | None = Field(
        None, max_length=10, description="Only these events: `readings`, `state`; repeat it for both."
    )
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
            "description": "Events, until one side ends the stream.",
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

    `readings`: the readings that one transaction stored, in columns, at most 20,000. `state`: a sensor became ok, bad, stuck,
    overdue or silent. `reset`: events were lost, ask /v1/latest and /v1/states again. `end`: the server closes the stream, and says
    why. Sensors that come into the selection, or leave it, do so at once.
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
