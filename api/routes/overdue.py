"""Sensors in service and when each is due: which report, and which are overdue."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response
from pydantic import Field

from citybeat.api.http.answers import answer, milliseconds
from citybeat.api.http.auth import Reader
from citybeat.api.http.models import LivenessModel
from citybeat.api.http.openapi import answers
from citybeat.api.http.pages import page_of_columns
from citybeat.api.http.params import Paged
from citybeat.api.routes.service import ServiceDep
from citybeat.api.series.selecting import Filters, check_metrics, visible
from citybeat.devices.clock import rfc3339
from citybeat.storage.reads import overdue as store

router: Final = APIRouter(prefix="/v1", tags=["accounts"])


class LivenessParameters(Filters, Paged):
    """Filters of sensors, and the page."""

    stale: bool | None = Field(None, description="Only sensors that are overdue; with `false`, only those that are not.")


_EXAMPLE: Final[dict[str, Any]] = {
    "at": "2026-01-01T00:10:00Z",
    "count": 2,
    "columns": {
        "device": ["env-0007", "env-0008"],
        "metric": ["temperature", "temperature"],
        "source": ["gw-01", "gw-01"],
        "expected_s": [60.0, 60.0],
        "last_at": [1767225600000, None],
        "good_at": [1767225600000, None],
        "due_at": [1767225780000, 1767225300000],
        "stale": [True, True],
    },
    "next_cursor": None,
}


@router.get("/liveness", response_model=LivenessModel, responses=answers(_EXAMPLE, 422))
async def liveness(service: ServiceDep, caller: Reader, parameters: Annotated[LivenessParameters, Query()]) -> Response:
    """Sensors in service and when each should have reported, in order of device and metric, in pages.

    A sensor is overdue three expected intervals after its newest reading, or after its registration when it never reported. Devices
    that are out of service never appear.
    """
    check_metrics(service.catalogue, parameters.metric)
    found = await store.page(
        service.pool,
        visible(parameters.selection(), caller),
        stale=parameters.stale,
        after=parameters.after(str, str),
        limit=parameters.limit + 1,
    )
    page, next_cursor = page_of_columns(found, parameters.limit, "device", "metric")
    columns = {
        "device": page.device,
        "metric": page.metric,
        "source": page.source,
        "expected_s": page.expected,
        "last_at": [us and us / 1000 for us in page.last_at],
        "good_at": [us and us / 1000 for us in page.good_at],
        "due_at": milliseconds(page.due_at),
        "stale": page.stale != 0,
    }
    return answer({"at": rfc3339(page.at), "count": len(page.device), "columns": columns, "next_cursor": next_cursor})
