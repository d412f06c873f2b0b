"""The registered devices."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from api import problems
from api.answers import answer, finite, rfc3339
from api.auth import Reader
from api.dependencies import Parts
from api.models import DeviceDetailModel, DevicesModel
from api.params import Paged, Text, decode_cursor, encode_cursor
from api.selecting import DeviceFilters, visible
from devices import flags
from storage import directory
from storage.directory import DeviceEntry, SensorEntry
from storage.selection import Selection

router: Final = APIRouter(prefix="/v1", tags=["registry"])


class DevicesParameters(DeviceFilters, Paged):
    """Which devices, and how many."""

    source: Text | None = Field(None, description="Only devices that publish through this source.")


_DEVICE: Final[dict[str, Any]] = {
    "id": "env-0007",
    "name": "Riverside air station",
    "domain": "environment",
    "source": "gw-3",
    "latitude": 10.7769,
    "longitude": 106.7009,
    "district": "riverside",
    "tags": {"owner": "environment office"},
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
    "retired_at": None,
    "metrics": ["temperature"],
}
_SENSOR: Final[dict[str, Any]] = {
    "metric": "temperature",
    "domain": "environment",
    "unit": "Cel",
    "kind": "gauge",
    "low": -80.0,
    "high": 60.0,
    "suspect_low": None,
    "suspect_high": None,
    "rating": None,
    "interval_s": 60.0,
    "sentinels": [-9999.0, -999.0, -200.0, 65535.0],
    "latest": {"time": "2026-01-01T00:00:00Z", "value": 28.1, "flags": [], "age_s": 12.5},
}


@router.get(
    "/devices",
    response_model=DevicesModel,
    responses={
        200: {"content": {"application/json": {"example": {"devices": [_DEVICE], "next_cursor": None}}}},
        **problems.guarded(422),
    },
)
async def devices(parts: Parts, caller: Reader, parameters: Annotated[DevicesParameters, Query()]) -> Response:
    """Devices in order of id, in pages."""
    key = decode_cursor(parameters.cursor, str)
    found = await directory.devices(
        parts.pool,
        visible(parameters.selection(), caller),
        source=parameters.source,
        after=key[0] if key else None,
        limit=parameters.limit + 1,
    )
    page = found[: parameters.limit]
    more = len(found) > len(page)
    return answer({"devices": [_device(entry) for entry in page], "next_cursor": encode_cursor(page[-1].id) if more else None})


@router.get(
    "/devices/{device}",
    response_model=DeviceDetailModel,
    responses={
        200: {"content": {"application/json": {"example": {**_DEVICE, "sensors": [_SENSOR]}}}},
        **problems.guarded(404, 422),
    },
)
async def device(
    parts: Parts,
    caller: Reader,
    device: Annotated[Text, Path(description="Id of the device, retired or not.", examples=["env-0007"])],
) -> Response:
    """One device with its sensors, the bounds in force for each, and its newest reading."""
    found = await directory.device(parts.pool, visible(Selection(devices=[device], include_retired=True), caller), parts.catalogue)
    if found is None:
        raise problems.not_found(f"there is no device {device!r}")
    entry, sensors = found
    return answer({**_device(entry), "sensors": [_sensor(sensor) for sensor in sensors]})


def _device(entry: DeviceEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "name": entry.name,
        "domain": entry.domain,
        "source": entry.source,
        "latitude": entry.latitude,
        "longitude": entry.longitude,
        "district": entry.district,
        "tags": entry.tags,
        "created_at": rfc3339(entry.created_at),
        "updated_at": rfc3339(entry.updated_at),
        "retired_at": rfc3339(entry.retired_at) if entry.retired_at else None,
        "metrics": entry.metrics,
    }


def _sensor(entry: SensorEntry) -> dict[str, Any]:
    newest = entry.newest
    return {
        "metric": entry.metric,
        "domain": entry.domain,
        "unit": entry.unit,
        "kind": entry.kind,
        "low": finite(entry.low),
        "high": finite(entry.high),
        "suspect_low": finite(entry.suspect_low),
        "suspect_high": finite(entry.suspect_high),
        "rating": finite(entry.rating),
        "interval_s": entry.interval,
        "sentinels": entry.sentinels,
        "latest": newest
        and {
            "time": rfc3339(newest.time),
            "value": newest.value,
            "flags": flags.names(newest.flags),
            "age_s": round(newest.age, 3),
        },
    }
