"""The newest reading of every sensor: a table, or a map."""

from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Header, Query, Response
from pydantic import Field

from citybeat.api.http import problems
from citybeat.api.http.answers import GEOJSON, answer, features, flag_names, milliseconds
from citybeat.api.http.auth import Reader
from citybeat.api.http.models import LatestModel
from citybeat.api.http.params import Paged, decode_cursor, encode_cursor
from citybeat.api.routes.service import ServiceDep
from citybeat.api.series.selecting import Filters, check_metrics, visible
from citybeat.devices.clock import rfc3339, to_us
from citybeat.storage.reads import readings
from citybeat.storage.reads.cursors import Cursor

router: Final = APIRouter(prefix="/v1", tags=["telemetry"])


class LatestParameters(Filters, Paged):
    """Which series, and how many."""

    stale: bool | None = Field(None, description="Only sensors that are overdue; with `false`, only those that are not.")


_LATEST: Final[dict[str, Any]] = {
    "at": "2026-01-01T00:00:12.5Z",
    "count": 1,
    "columns": {
        "device": ["env-0007"],
        "metric": ["temperature"],
        "unit": ["Cel"],
        "time": [1767225600000],
        "value": [28.1],
        "flags": [[]],
        "age_s": [12.5],
        "stale": [False],
    },
    "next_cursor": None,
    "stream_cursor": "WyJhMWIyYzNkNCIsODEyLDQ0XQ",
}
_FEATURES: Final[dict[str, Any]] = {
    "type": "FeatureCollection",
    "at": "2026-01-01T00:00:12.5Z",
    "features": [
        {
            "type": "Feature",
            "id": "env-0007/temperature",
            "geometry": {"type": "Point", "coordinates": [106.7009, 10.7769]},
            "properties": {name: column[0] for name, column in _LATEST["columns"].items()},
        }
    ],
    "next_cursor": None,
    "stream_cursor": "WyJhMWIyYzNkNCIsODEyLDQ0XQ",
}


@router.get(
    "/latest",
    response_model=LatestModel,
    responses={
        200: {
            "content": {
                "application/json": {"example": _LATEST},
                GEOJSON: {"schema": {"$ref": "#/components/schemas/LatestFeaturesModel"}, "example": _FEATURES},
            }
        },
        **problems.guarded(422),
    },
)
async def latest(
    service: ServiceDep,
    caller: Reader,
    parameters: Annotated[LatestParameters, Query()],
    accept: Annotated[str | None, Header(description="`application/geo+json`: a feature for each sensor.")] = None,
) -> Response:
    """The newest reading of every series, good or bad, in order of device and metric, in pages.

    A series without any reading does not appear. Devices that do not exist count as without readings.
    """
    check_metrics(service.catalogue, parameters.metric)
    key = decode_cursor(parameters.cursor, str, str)
    geojson = GEOJSON in (accept or "")
    found = await readings.latest(
        service.pool,
        visible(parameters.selection(), caller),
        stale=parameters.stale,
        after=(key[0], key[1]) if key else None,
        limit=parameters.limit + 1,
        places=geojson,
    )
    n = min(len(found.device), parameters.limit)
    more = len(found.device) > n
    columns = {
        "device": found.device[:n],
        "metric": found.metric[:n],
        "unit": found.unit[:n],
        "time": milliseconds(found.time[:n]),
        "value": found.value[:n],
        "flags": flag_names(found.flags[:n]),
        "age_s": np.round((to_us(found.at) - found.time[:n]) / 1e6, 3),
        "stale": found.stale[:n] != 0,
    }
    head = {
        "at": rfc3339(found.at),
        "next_cursor": encode_cursor(found.device[n - 1], found.metric[n - 1]) if more else None,
        "stream_cursor": str(Cursor.of_snapshot(found.stream_cursor)),
    }
    if geojson:
        made = answer({"type": "FeatureCollection", **head, "features": features(columns, found.longitude, found.latitude)})
        made.headers["content-type"] = GEOJSON
    else:
        made = answer({**head, "count": n, "columns": columns})
    made.headers["vary"] = "Accept"
    return made
