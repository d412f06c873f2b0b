"""Changes of the registry: devices, their sensors and calibrations, and files of devices."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from pydantic import Field

from citybeat.api.files import imports
from citybeat.api.files.descriptions import CalibrationBody, DeviceBody, DevicePatch, Fault, OverridesBody, sensor_faults
from citybeat.api.files.entries import Mistake
from citybeat.api.files.imports import Form
from citybeat.api.http import problems
from citybeat.api.http.answers import answer
from citybeat.api.http.auth import Admin
from citybeat.api.http.models import DeviceDetailModel, ImportedModel
from citybeat.api.http.openapi import answers, guarded
from citybeat.api.http.params import Parameters, Text
from citybeat.api.http.problems import Problem
from citybeat.api.routes.devices import DETAIL, detailed
from citybeat.api.routes.service import Service, ServiceDep
from citybeat.devices.device import Device
from citybeat.devices.errors import DeviceError
from citybeat.storage.db.connection import Connection
from citybeat.storage.registry import changes, records
from citybeat.storage.registry.changes import ChangedError, ExistsError, NoSuchDeviceError

router: Final = APIRouter(prefix="/v1", tags=["registry"])
_T = TypeVar("_T")

#: Mistakes of a file that an answer lists; it has the number of all of them, too.
_TOLD: Final = 1_000
#: Devices that one statement of an import's transaction registers; more at a time would only need more memory.
_SLICE: Final = 1_000

DeviceId = Annotated[Text, Path(description="Id of the device, retired or not.", examples=["env-0007"])]
MetricName = Annotated[Text, Path(description="Metric of one of its sensors.", examples=["temperature"])]
IfMatch = Annotated[
    str | None,
    Header(description="An ETag of the device: nothing is changed if it has another one by now. Without it, the last change wins."),
]


class ImportParameters(Parameters):
    """Options of an import."""

    dry_run: bool = Field(False, description="Only report mistakes and what would change.")


_IMPORTED: Final[dict[str, Any]] = {"devices": 2, "sensors": 5, "created": 1, "changed": 1, "unchanged": 0, "dry_run": False}
_FILES: Final[dict[str, Any]] = {
    Form.JSON: {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/DeviceBody"}}},
    Form.GEOJSON: {"schema": {"type": "object"}},
    Form.CSV: {
        "schema": {"type": "string"},
        "example": "id,source,domain,name,latitude,longitude,district,tag.owner,metric,high\r\n"
        "env-0007,gw-3,environment,Riverside,10.7769,106.7009,riverside,parks,temperature,\r\n,,,,,,,,pm25,999.9\r\n",
    },
}


@router.post(
    "/devices",
    status_code=201,
    response_model=DeviceDetailModel,
    responses=answers(DETAIL, 400, 409, 413, 422, status=201),
)
async def create(service: ServiceDep, caller: Admin, body: Annotated[DeviceBody, Body()]) -> Response:
    """Register a new device. Ingest takes its readings at once."""
    device, faults = body.checked(service.catalogue)
    if device is None:
        raise _wrong([Fault(("body", *fault.loc), fault.message) for fault in faults])
    await _change(service, lambda connection: changes.create(connection, device, caller.label))
    made = await detailed(service, caller, device.id)
    made.status_code = 201
    made.headers["location"] = f"/v1/devices/{quote(device.id)}"
    return made


@router.post(
    "/registry/import",
    response_model=ImportedModel,
    responses=answers(_IMPORTED, 400, 413, 415, 422),
    openapi_extra={"requestBody": {"required": True, "content": _FILES}},
)
async def import_(
    request: Request, service: ServiceDep, caller: Admin, parameters: Annotated[ImportParameters, Query()]
) -> Response:
    """Register all devices of a file, or none: CSV (a line for each sensor), GeoJSON, or JSON. Existing devices are replaced.

    Sensors that the file lacks stay. If there is any mistake, nothing is registered, and every mistake is listed with its place.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in set(Form):
        detail = f"a file of devices is {', '.join(Form)}; say which in Content-Type"
        raise Problem(415, "unsupported-media-type", "Unsupported media type", detail)
    # In a thread, since a large file takes seconds in which other requests and streams must go on.
    entries, mistakes = await asyncio.to_thread(imports.read, await request.body(), Form(kind), service.catalogue)
    if not mistakes:
        devices = [entry.device for entry in entries]
        try:
            done = await service.writes.run(
                lambda connection: _import(connection, devices, caller.label, dry_run=parameters.dry_run)
            )
        except DeviceError as exc:  # mistakes that only the database notices, such as a metric that is not in it any more
            mistakes = [Mistake(place="file", column="", message=str(exc))]
    if mistakes:
        raise _refused(mistakes)
    return answer(
        {"devices": len(entries), "sensors": sum(len(e.device.sensors) for e in entries), **done, "dry_run": parameters.dry_run}
    )


@router.patch(
    "/devices/{device}",
    response_model=DeviceDetailModel,
    responses=answers(DETAIL, 400, 404, 412, 413, 422),
)
async def change(
    service: ServiceDep, caller: Admin, device: DeviceId, body: Annotated[DevicePatch, Body()], if_match: IfMatch = None
) -> Response:
    """Change the given members and leave the others (JSON Merge Patch). `retired` takes a device out of service or back."""
    await _change(
        service,
        lambda connection: changes.update(
            connection,
            device,
            caller.label,
            change=body.applied,
            retired=body.retired if "retired" in body.model_fields_set else None,
            expected=_tags(if_match),
        ),
    )
    return await detailed(service, caller, device)


@router.delete(
    "/devices/{device}",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Out of service."}, **guarded(404, 412, 422)},
)
async def retire(service: ServiceDep, caller: Admin, device: DeviceId, if_match: IfMatch = None) -> Response:
    """Take a device out of service. Its history stays; new readings of it are quarantined. Repeating it changes nothing."""
    await _change(
        service,
        lambda connection: changes.update(
            connection, device, caller.label, change=lambda there: there, retired=True, expected=_tags(if_match)
        ),
    )
    return Response(status_code=204)


@router.put(
    "/devices/{device}/sensors/{metric}",
    response_model=DeviceDetailModel,
    responses=answers(DETAIL, 400, 404, 412, 413, 422),
)
async def put_sensor(
    service: ServiceDep,
    caller: Admin,
    device: DeviceId,
    metric: MetricName,
    body: Annotated[OverridesBody, Body()],
    if_match: IfMatch = None,
) -> Response:
    """Register a sensor, or replace its registration. Members that are left out are as in the catalogue; a retired one is back."""
    if faults := sensor_faults([{"metric": metric, "unit": body.unit}], service.catalogue):
        raise _wrong([_of_path(fault) for fault in faults])
    sensor = _described(lambda: body.sensor(metric))
    await _change(
        service, lambda connection: changes.put_sensor(connection, device, sensor, caller.label, expected=_tags(if_match))
    )
    return await detailed(service, caller, device)


@router.delete(
    "/devices/{device}/sensors/{metric}",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Out of service."}, **guarded(404, 412, 422)},
)
async def retire_sensor(
    service: ServiceDep, caller: Admin, device: DeviceId, metric: MetricName, if_match: IfMatch = None
) -> Response:
    """Take a sensor out of service. Its history stays; new readings of it are quarantined. Repeating it changes nothing."""
    await _change(
        service, lambda connection: changes.retire_sensor(connection, device, metric, caller.label, expected=_tags(if_match))
    )
    return Response(status_code=204)


@router.post(
    "/devices/{device}/sensors/{metric}/calibrations",
    status_code=201,
    response_model=DeviceDetailModel,
    responses=answers(DETAIL, 400, 404, 412, 413, 422, status=201),
)
async def calibrate(
    service: ServiceDep,
    caller: Admin,
    device: DeviceId,
    metric: MetricName,
    body: Annotated[CalibrationBody, Body()],
    if_match: IfMatch = None,
) -> Response:
    """Add a calibration. Earlier ones stay, and readings that are stored already keep the calibration of their time of storage."""
    calibration = _described(body.calibration)
    await _change(
        service,
        lambda connection: changes.calibrate(connection, device, metric, calibration, caller.label, expected=_tags(if_match)),
    )
    made = await detailed(service, caller, device)
    made.status_code = 201
    return made


def _import(connection: Connection, devices: Sequence[Device], actor: str, *, dry_run: bool) -> dict[str, int]:
    with changes.acting(connection, actor, keep=not dry_run):
        before = changes.marks(connection, [device.id for device in devices])
        for at in range(0, len(devices), _SLICE):
            records.register(connection, devices[at : at + _SLICE])
        after = changes.marks(connection, [device.id for device in devices])
    created = len(after.keys() - before.keys())
    changed = sum(before[name] != after[name] for name in before)
    return {"created": created, "changed": changed, "unchanged": len(before) - changed}


async def _change(service: Service, work: Callable[[Connection], _T]) -> _T:
    try:
        return await service.writes.run(work)
    except NoSuchDeviceError as exc:
        raise problems.not_found(str(exc)) from exc
    except ExistsError as exc:
        raise Problem(409, "already-exists", "Already exists", str(exc)) from exc
    except DeviceError as exc:
        raise problems.invalid("device", str(exc), where="body") from exc
    except ChangedError as exc:
        raise Problem(412, "precondition-failed", "Precondition failed", str(exc)) from exc


def _described(make: Callable[[], _T]) -> _T:
    try:
        return make()
    except DeviceError as exc:
        raise problems.invalid("device", str(exc), where="body") from exc


def _of_path(fault: Fault) -> Fault:
    """The same fault of a sensor whose metric is in the path and whose other members are in the body."""
    member = fault.loc[-1]
    return Fault(("path" if member == "metric" else "body", member), fault.message)


def _wrong(faults: Sequence[Fault]) -> Problem:
    errors = [{"loc": list(fault.loc), "msg": fault.message, "type": "invalid_parameter"} for fault in faults]
    detail = "; ".join(f"{'.'.join(map(str, fault.loc[1:])) or fault.loc[0]}: {fault.message}" for fault in faults)
    return Problem(422, "invalid-parameter", "Invalid parameter", detail, errors=errors)


def _tags(header: str | None) -> list[str] | None:
    return None if header is None else [tag.strip().removeprefix("W/") for tag in header.split(",")]


def _refused(mistakes: Sequence[Mistake]) -> Problem:
    errors = [{"loc": ["body", each.place, each.column], "msg": each.message, "type": "invalid_entry"} for each in mistakes[:_TOLD]]
    shown = "; ".join(map(str, mistakes[:3])) + (f"; and {len(mistakes) - 3} more" if len(mistakes) > 3 else "")
    detail = f"nothing was registered: {shown}"
    return Problem(422, "invalid-file", "Invalid file", detail, errors=errors, mistakes=len(mistakes))
