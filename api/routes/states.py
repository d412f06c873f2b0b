"""What is wrong now, and since when: a table, or a map."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Response
from pydantic import Field

from citybeat.api.http import problems
from citybeat.api.http.answers import GEOJSON, answer, features, milliseconds
from citybeat.api.http.auth import Reader
from citybeat.api.http.models import StatesModel
from citybeat.api.http.params import Paged, decode_cursor, encode_cursor
from citybeat.api.routes.service import ServiceDep
from citybeat.api.series.selecting import Filters, check_metrics, visible
from citybeat.devices.clock import rfc3339
from citybeat.devices.states import State
from citybeat.storage.reads import states as store
from citybeat.storage.reads.cursors import Cursor

router: Final = APIRouter(prefix="/v1", tags=["telemetry"])


class StatesParameters(Filters, Paged):
    """Which sensors, and how many."""

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
_FEATURES: Final[dict[str, Any]] = {
    "type": "FeatureCollection",
    "at": "2026-01-01T00:03:12.5Z",
    "features": [
        {
            "type": "Feature",
            "id": "env-0007/temperature",
            "geometry": {"type": "Point", "coordinates": [106.7009, 10.7769]},
            "properties": {name: column[0] for name, column in _STATES["columns"].items()},
        }
    ],
    "next_cursor": None,
    "stream_cursor": "WyJhMWIyYzNkNCIsODEyLDQ0XQ",
}


@router.get(
    "/states",
    response_model=StatesModel,
    responses={
        200: {
            "content": {
                "application/json": {"example": _STATES},
                GEOJSON: {"schema": {"$ref": "#/components/schemas/StatesFeaturesModel"}, "example": _FEATURES},
            }
        },
        **problems.guarded(422),
    },
)
async def states(
    service: ServiceDep,
    caller: Reader,
    parameters: Annotated[StatesParameters, Query()],
    accept: Annotated[str | None, Header(description="`application/geo+json`: a feature for each sensor.")] = None,
) -> Response:
    """The state of every sensor in service, in order of device and metric, in pages.

    `bad`: a flag keeps its newest reading out of aggregates; `stuck`: it has not changed for longer than it can; `overdue`: three
    of its intervals passed without a reading; `silent`: it never reported; else `ok`. Looked at every few seconds.
    """
    check_metrics(service.catalogue, parameters.metric)
    key = decode_cursor(parameters.cursor, str, str)
    found = await store.current(
        service.pool,
        visible(parameters.selection(), caller),
        states=parameters.state,
        after=(key[0], key[1]) if key else None,
        limit=parameters.limit + 1,
    )
    n = min(len(found.device), parameters.limit)
    columns = {
        "device": found.device[:n],
        "metric": found.metric[:n],
        "state": found.state[:n],
        "since": milliseconds(found.since[:n]),
        "value": found.value[:n],
    }
    head = {
        "at": rfc3339(found.at),
        "next_cursor": encode_cursor(found.device[n - 1], found.metric[n - 1]) if len(found.device) > n else None,
        "stream_cursor": str(Cursor.of_snapshot(found.stream_cursor)),
    }
    if GEOJSON in (accept or ""):
        made = answer({"type": "FeatureCollection", **head, "features": features(columns, found.longitude, found.latitude)})
        made.headers["content-type"] = GEOJSON
    else:
        made = answer({**head, "count": n, "columns": columns})
    made.headers["vary"] = "Accept"
    return made
