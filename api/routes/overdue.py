"""Which sensors report, and which fell silent."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response
from pydantic import Field

from citybeat.api.http import problems
from citybeat.api.http.answers import answer, milliseconds
from citybeat.api.http.auth import Reader
from citybeat.api.http.models import LivenessModel
from citybeat.api.http.params import Paged, decode_cursor, encode_cursor
from citybeat.api.routes.service import ServiceDep
from citybeat.api.series.selecting import Filters, check_metrics, visible
from citybeat.devices.clock import rfc3339
from citybeat.storage.reads import overdue as store

router: Final = APIRouter(prefix="/v1", tags=["accounts"])


class LivenessParameters(Filters, Paged):
    """Which sensors, and how many."""

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


@router.get(
    "/liveness",
    response_model=LivenessModel,
    responses={200: {"content": {"application/json": {"example": _EXAMPLE}}}, **problems.guarded(422)},
)
async def liveness(service: ServiceDep, caller: Reader, parameters: Annotated[LivenessParameters, Query()]) -> Response:
    """Sensors in service and when each should have reported, in order of device and metric, in pages.

    A sensor is overdue three expected intervals after its newest reading, or after its registration when it never reported. Devices
    that are out of service never appear.
    """
    check_metrics(service.catalogue, parameters.metric)
    key = decode_cursor(parameters.cursor, str, str)
    found = await store.page(
        service.pool,
        visible(parameters.selection(), caller),
        stale=parameters.stale,
        after=(key[0], key[1]) if key else None,
        limit=parameters.limit + 1,
    )
    n = min(len(found.device), parameters.limit)
    more = len(found.device) > n
    return answer(
        {
            "at": rfc3339(found.at),
            "count": n,
            "columns": {
                "device": found.device[:n],
                "metric": found.metric[:n],
                "source": found.source[:n],
                "expected_s": found.expected[:n],
                "last_at": [us and us / 1000 for us in found.last_at[:n]],
                "good_at": [us and us / 1000 for us in found.good_at[:n]],
                "due_at": milliseconds(found.due_at[:n]),
                "stale": found.stale[:n] != 0,
            },
            "next_cursor": encode_cursor(found.device[n - 1], found.metric[n - 1]) if more else None,
        }
    )
