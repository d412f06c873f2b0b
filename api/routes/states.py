"""The state of every sensor and since when it has it, as a table or as GeoJSON."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Response
from pydantic import Field

from citybeat.api.http import pages
from citybeat.api.http.answers import milliseconds
from citybeat.api.http.auth import Reader
from citybeat.api.http.models import StatesFeaturesModel, StatesModel
from citybeat.api.http.openapi import answers
from citybeat.api.http.params import Paged
from citybeat.api.routes.service import ServiceDep
from citybeat.api.series.selecting import Filters, check_metrics, visible
from citybeat.devices.states import State
from citybeat.storage.reads import states as store

router: Final = APIRouter(prefix="/v1", tags=["telemetry"])


class StatesParameters(Filters, Paged):
    """Filters of sensors, and the page."""

    state: list[State] | None = Field(None, max_length=10, description="Only sensors in this state; repeat it for several.")


_STATES: Final[dict[str, Any]] = {
    "at": "2026-01-01T00:03:12.5Z",
    "count": 1,
    "columns": {
        "device": ["env-0007"],
        "metric": ["temperature"],
        "state": ["overdue"],
        "since": [1767225780000],
        "value": [28.1],
    },
    "next_cursor": None,
    "stream_cursor": "WyJhMWIyYzNkNCIsODEyLDQ0XQ",
}


@router.get(
    "/states",
    response_model=StatesModel,
    responses=answers(_STATES, 422, others=pages.sensors_described(StatesFeaturesModel, _STATES)),
)
async def states(
    service: ServiceDep,
    caller: Reader,
    parameters: Annotated[StatesParameters, Query()],
    accept: Annotated[str | None, Header(description="`application/geo+json`: a feature for each sensor.")] = None,
) -> Response:
    """The state of every sensor in service, in order of device and metric, in pages.

    `bad`: a flag keeps its newest reading out of aggregates; `stuck`: its value has not changed for longer than its metric allows;
    `overdue`: three of its intervals passed without a reading; `silent`: it never reported; else `ok`. Updated every few seconds.
    """
    check_metrics(service.catalogue, parameters.metric)
    found = await store.current(
        service.pool,
        visible(parameters.selection(), caller),
        states=parameters.state,
        after=parameters.after(str, str),
        limit=parameters.limit + 1,
    )
    page, next_cursor = pages.page_of_columns(found, parameters.limit, "device", "metric")
    columns = {
        "device": page.device,
        "metric": page.metric,
        "state": page.state,
        "since": milliseconds(page.since),
        "value": page.value,
    }
    return pages.sensors(accept, page, next_cursor, columns)
