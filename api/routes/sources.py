"""Sources: the MQTT identities that devices publish through."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Path, Query, Response

from citybeat.api.files.descriptions import SourcePatch
from citybeat.api.http import problems
from citybeat.api.http.answers import answer
from citybeat.api.http.auth import Admin, Reader
from citybeat.api.http.models import SourceModel, SourcesModel
from citybeat.api.http.params import Paged, Text, decode_cursor, encode_cursor
from citybeat.api.routes.service import ServiceDep
from citybeat.devices.clock import rfc3339
from citybeat.devices.errors import DeviceError
from citybeat.storage.db.connection import Connection
from citybeat.storage.registry import changes, records
from citybeat.storage.registry.changes import SourceEntry

router: Final = APIRouter(prefix="/v1", tags=["registry"])

_SOURCE: Final[dict[str, Any]] = {
    "name": "gw-3",
    "conflict_policy": "keep",
    "devices": 12,
    "status": "online",
    "status_at": "2026-01-01T00:00:00Z",
    "created_at": "2026-01-01T00:00:00Z",
}


@router.get(
    "/sources",
    response_model=SourcesModel,
    responses={
        200: {"content": {"application/json": {"example": {"sources": [_SOURCE], "next_cursor": None}}}},
        **problems.guarded(422),
    },
)
async def sources(service: ServiceDep, caller: Reader, parameters: Annotated[Paged, Query()]) -> Response:
    """Sources in order of name, in pages: those that devices are registered to, and those that have spoken."""
    key = decode_cursor(parameters.cursor, str)
    found = await changes.sources(service.pool, None, caller.within, after=key[0] if key else None, limit=parameters.limit + 1)
    page = found[: parameters.limit]
    return answer(
        {
            "sources": [_source(entry) for entry in page],
            "next_cursor": encode_cursor(page[-1].name) if len(found) > len(page) else None,
        }
    )


@router.patch(
    "/sources/{source}",
    response_model=SourceModel,
    responses={200: {"content": {"application/json": {"example": _SOURCE}}}, **problems.guarded(400, 404, 413, 422)},
)
async def change(
    service: ServiceDep,
    caller: Admin,
    source: Annotated[Text, Path(description="Its name.", examples=["gw-3"])],
    body: Annotated[SourcePatch, Body()],
) -> Response:
    """Say what becomes of conflicts of a source from now on."""
    if source == records.NO_SOURCE:  # accounts of messages that name no source; nobody publishes through it
        raise problems.not_found(f"there is no source {source!r}")

    def work(connection: Connection) -> None:
        with changes.acting(connection, caller.label):
            records.set_conflict_policy(connection, source, body.conflict_policy)

    try:
        await service.writes.run(work)
    except DeviceError as exc:
        raise problems.not_found(str(exc)) from exc
    (entry,) = await changes.sources(service.pool, [source], None, after=None, limit=1)
    return answer(_source(entry))


def _source(entry: SourceEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "conflict_policy": entry.conflict_policy,
        "devices": entry.devices,
        "status": entry.status,
        "status_at": None if entry.status_at is None else rfc3339(entry.status_at),
        "created_at": rfc3339(entry.created_at),
    }
