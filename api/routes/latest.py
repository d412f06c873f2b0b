"""The newest reading of every sensor, as a table or as GeoJSON."""

from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Header, Query, Response
from pydantic import Field

from citybeat.api.http import pages
from citybeat.api.http.answers import flag_names, milliseconds
from citybeat.api.http.auth import Reader
from citybeat.api.http.models import LatestFeaturesModel, LatestModel
from citybeat.api.http.openapi import answers
from citybeat.api.http.params import Paged
from citybeat.api.routes.service import ServiceDep
from citybeat.api.series.selecting import Filters, check_metrics, visible
from citybeat.devices.clock import to_us
from citybeat.storage.reads import readings

router: Final = APIRouter(prefix="/v1", tags=["telemetry"])


class LatestParameters(Filters, Paged):
    """Filters of series, and the page."""

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


@router.get(
    "/latest",
    response_model=LatestModel,
    responses=answers(_LATEST, 422, others=pages.sensors_described(LatestFeaturesModel, _LATEST)),
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
    found = await readings.latest(
        service.pool,
        visible(parameters.selection(), caller),
        stale=parameters.stale,
        after=parameters.after(str, str),
        limit=parameters.limit + 1,
        places=pages.GEOJSON in (accept or ""),
    )
    page, next_cursor = pages.page_of_columns(found, parameters.limit, "device", "metric")
    columns = {
        "device": page.device,
        "metric": page.metric,
        "unit": page.unit,
        "time": milliseconds(page.time),
        "value": page.value,
        "flags": flag_names(page.flags),
        "age_s": np.round((to_us(page.at) - page.time) / 1e6, 3),
        "stale": page.stale != 0,
    }
    return pages.sensors(accept, page, next_cursor, columns)
