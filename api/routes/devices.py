"""The registered devices and the history of their changes; `api/routes/registration.py` changes them."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query, Response
from pydantic import Field

from citybeat.api.files.devices_csv import MAX_LINES, written
from citybeat.api.files.imports import Form
from citybeat.api.http import pages, problems
from citybeat.api.http.answers import answer, finite, members
from citybeat.api.http.auth import Reader
from citybeat.api.http.gate import Caller
from citybeat.api.http.models import DeviceDetailModel, DeviceFeaturesModel, DevicesModel, HistoryModel
from citybeat.api.http.openapi import answers
from citybeat.api.http.params import Paged, Text
from citybeat.api.routes.service import Service, ServiceDep
from citybeat.api.series.selecting import DeviceFilters, visible
from citybeat.devices import flags
from citybeat.devices.catalogue import Domain
from citybeat.devices.clock import rfc3339
from citybeat.devices.device import DEVICE_FIELDS, PLACE, SENSOR_NUMBERS, Device, Sensor
from citybeat.devices.units import SPELLINGS
from citybeat.devices.wire.senml_units import name_of
from citybeat.storage.registry import changes, directory
from citybeat.storage.registry.changes import Calibrated
from citybeat.storage.registry.directory import DeviceEntry, SensorEntry
from citybeat.storage.registry.selection import Selection

router: Final = APIRouter(prefix="/v1", tags=["registry"])
_DESCRIBED: Final = {name: about.example for name, about in DEVICE_FIELDS.items()}
_CSV: Final = written(
    [
        Device(
            id="env-0007",
            source="gw-3",
            domain=Domain.ENVIRONMENT,
            sensors=(Sensor(metric="temperature", unit="[degF]"),),
            **_DESCRIBED,
        )
    ]
)


class DevicesParameters(DeviceFilters, Paged):
    """Filters of devices, and the page."""

    source: Text | None = Field(None, description="Only devices that publish through this source.")


_DEVICE: Final[dict[str, Any]] = {
    "id": "env-0007",
    "source": "gw-3",
    "domain": "environment",
    **_DESCRIBED,
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
    "registered": {
        "low": None,
        "high": None,
        "suspect_low": None,
        "suspect_high": None,
        "rating": None,
        "interval": None,
        "step_floor": None,
        "step_per_minute": None,
        "stuck_after": None,
        "sentinels": [],
        "unit": "[degF]",
    },
    "calibrations": [
        {
            "valid_from": "2026-01-01T00:00:00Z",
            "scale": 1.0,
            "offset": -0.4,
            "by": "lab",
            "reason": "certificate 26-118",
            "created_at": "2026-01-01T08:00:00Z",
            "in_force": True,
        }
    ],
    "senml": {"n": "env-0007:temperature", "u": None},
    "retired_at": None,
    "latest": {"time": "2026-01-01T00:00:00Z", "value": 28.1, "flags": [], "age_s": 12.5},
}


#: An example of a device with its sensors, for every route that answers one.
DETAIL: Final[dict[str, Any]] = {**_DEVICE, "sensors": [_SENSOR]}


def _feature(entry: dict[str, Any]) -> dict[str, Any]:
    properties = {name: value for name, value in entry.items() if name not in {"id", *PLACE}}
    return pages.feature(entry["id"], entry["longitude"], entry["latitude"], properties)


_FEATURES: Final[dict[str, Any]] = {"type": "FeatureCollection", "features": [_feature(_DEVICE)], "next_cursor": None}
_HISTORY: Final[dict[str, Any]] = {
    "changes": [
        {
            "at": "2026-01-02T00:00:00Z",
            "actor": "key 3k9x2mq7ab (parks)",
            "subject": "sensor",
            "action": "changed",
            "metric": "temperature",
            "before": {"sentinels": []},
            "after": {"sentinels": [], "high": 50.0},
        }
    ],
    "next_cursor": None,
}


@router.get(
    "/devices",
    response_model=DevicesModel,
    responses=answers(
        {"devices": [_DEVICE], "next_cursor": None},
        422,
        others={**pages.described(DeviceFeaturesModel, _FEATURES), Form.CSV: {"schema": {"type": "string"}, "example": _CSV}},
    ),
)
async def devices(
    service: ServiceDep,
    caller: Reader,
    parameters: Annotated[DevicesParameters, Query()],
    accept: Annotated[str | None, Header(description="`application/geo+json`, or `text/csv`.")] = None,
) -> Response:
    """Devices in order of id, in pages; as CSV all of them at once, in the form that /v1/registry/import takes."""
    wanted = visible(parameters.selection(), caller)
    if Form.CSV in (accept or ""):
        return await _file(service, wanted, parameters)
    after, limit = parameters.after(str), parameters.limit
    found = await directory.devices(service.pool, wanted, source=parameters.source, after=after, limit=limit + 1)
    page, next_cursor = pages.page_of(found, limit, "id")
    entries = [_device(entry) for entry in page]
    head = {"next_cursor": next_cursor}
    return pages.represented(accept, head, table={"devices": entries}, features=lambda: [_feature(entry) for entry in entries])


@router.get("/devices/{device}", response_model=DeviceDetailModel, responses=answers(DETAIL, 404, 422))
async def device(
    service: ServiceDep,
    caller: Reader,
    device: Annotated[Text, Path(description="Id of the device, retired or not.", examples=["env-0007"])],
) -> Response:
    """One device with its sensors, the bounds in force for each, and its newest reading. Changes may name its ETag (`If-Match`)."""
    return await detailed(service, caller, device)


@router.get("/devices/{device}/history", response_model=HistoryModel, responses=answers(_HISTORY, 404, 422))
async def history(
    service: ServiceDep,
    caller: Reader,
    device: Annotated[Text, Path(description="Id of the device, retired or not.", examples=["env-0007"])],
    parameters: Annotated[Paged, Query()],
) -> Response:
    """Changes of a device, its sensors, calibrations and declarations: who made them and when; the newest first, in pages."""
    before = parameters.after(int)
    if before is not None and not 0 <= before < 2**63:
        raise problems.invalid("cursor", "not a cursor of this list; pass `next_cursor` of the page before as it is")
    if not await directory.devices(service.pool, _one(device, caller), source=None, after=None, limit=1):
        raise problems.not_found(f"there is no device {device!r}")
    found = await changes.history(service.pool, device, before=before, limit=parameters.limit + 1)
    page, next_cursor = pages.page_of(found, parameters.limit, "number")
    return answer({"changes": [members(change, "number") for change in page], "next_cursor": next_cursor})


async def detailed(service: Service, caller: Caller, device: str) -> Response:
    """The answer about one device.

    Raises
    ------
    Problem
        The caller sees no such device.
    """
    found = await directory.device(service.pool, _one(device, caller), service.catalogue)
    if found is None:
        raise problems.not_found(f"there is no device {device!r}")
    made = answer({**_device(found.entry), "sensors": [_sensor(device, sensor, found.calibrations) for sensor in found.sensors]})
    made.headers["etag"] = found.etag
    return made


def _one(device: str, caller: Caller) -> Selection:
    return visible(Selection(devices=[device], include_retired=True), caller)


async def _file(service: Service, wanted: Selection, parameters: DevicesParameters) -> Response:
    for name in {"limit", "cursor"} & parameters.model_fields_set:
        raise problems.invalid(name, "a file has no pages; leave it out")
    if wanted.include_retired:
        raise problems.invalid("include_retired", "importing the file would put them back in service; ask for JSON")
    listed, more = await changes.described(service.pool, wanted, source=parameters.source, limit=MAX_LINES)
    if more:
        detail = f"more than the {MAX_LINES} sensors that one file may have; ask for a district or a domain"
        raise problems.invalid("district", detail, slug="too-many-series", max_sensors=MAX_LINES)
    headers = {"Content-Disposition": 'attachment; filename="devices.csv"', "Vary": "Accept"}
    return Response(await asyncio.to_thread(written, listed), media_type="text/csv; charset=utf-8", headers=headers)


def _device(entry: DeviceEntry) -> dict[str, Any]:
    return {**entry.described, **members(entry, "described")}


def _sensor(device: str, entry: SensorEntry, calibrations: Sequence[Calibrated]) -> dict[str, Any]:
    newest, sent = entry.newest, entry.registered.unit or entry.unit
    return {
        "metric": entry.metric,
        "domain": entry.domain,
        "unit": entry.unit,
        "kind": entry.kind,
        **{name: finite(getattr(entry, name)) for name in ("low", "high", "suspect_low", "suspect_high", "rating")},
        "interval_s": entry.interval,
        "sentinels": entry.sentinels,
        "registered": {
            **{name: getattr(entry.registered, name) for name in SENSOR_NUMBERS},
            "sentinels": entry.registered.sentinels,
            "unit": entry.registered.unit,
        },
        "calibrations": [members(each, "metric") for each in calibrations if each.metric == entry.metric],
        "senml": {"n": f"{device}:{entry.metric}", "u": name_of(SPELLINGS.get(sent, sent))},
        "retired_at": None if entry.retired_at is None else rfc3339(entry.retired_at),
        "latest": newest
        and {
            "time": rfc3339(newest.time),
            "value": newest.value,
            "flags": flags.names(newest.flags),
            "age_s": round(newest.age, 3),
        },
    }
