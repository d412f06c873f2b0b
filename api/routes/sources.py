"""Sources: the MQTT identities that devices publish through."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Path, Query, Response

from citybeat.api.files.descriptions import SourcePatch
from citybeat.api.http import problems
from citybeat.api.http.answers import answer, members
from citybeat.api.http.auth import Admin, Reader
from citybeat.api.http.models import SourceModel, SourcesModel
from citybeat.api.http.openapi import answers
from citybeat.api.http.pages import page_of
from citybeat.api.http.params import Paged, Text
from citybeat.api.routes.service import ServiceDep
from citybeat.devices.errors import DeviceError
from citybeat.storage.db.connection import Connection
from citybeat.storage.registry import changes, records

router: Final = APIRouter(prefix="/v1", tags=["registry"])

_SOURCE: Final[dict[str, Any]] = {
    "name": "gw-3",
    "conflict_policy": "keep",
    "devices": 12,
    "status": "online",
    "status_at": "2026-01-01T00:00:00Z",
    "created_at": "2026-01-01T00:00:00Z",
}


@router.get("/sources", response_model=SourcesModel, responses=answers({"sources": [_SOURCE], "next_cursor": None}, 422))
async def sources(service: ServiceDep, caller: Reader, parameters: Annotated[Paged, Query()]) -> Response:
    """Sources in order of name, in pages: those with registered devices, and those that have sent a message."""
    after, limit = parameters.after(str), parameters.limit
    found = await changes.sources(service.pool, None, caller.within, after=after, limit=limit + 1)
    page, next_cursor = page_of(found, limit, "name")
    return answer({"sources": [members(entry) for entry in page], "next_cursor": next_cursor})


@router.patch("/sources/{source}", response_model=SourceModel, responses=answers(_SOURCE, 400, 404, 413, 422))
async def change(
    service: ServiceDep,
    caller: Admin,
    source: Annotated[Text, Path(description="Its name.", examples=["gw-3"])],
    body: Annotated[SourcePatch, Body()],
) -> Response:
    """Set how conflicts of a source are resolved from now on."""
    if source == records.NO_SOURCE:  # the ledger of messages whose topic names no source
        raise problems.not_found(f"there is no source {source!r}")

    def work(connection: Connection) -> None:
        with changes.acting(connection, caller.label):
            records.set_conflict_policy(connection, source, body.conflict_policy)

    try:
        await service.writes.run(work)
    except DeviceError as exc:
        raise problems.not_found(str(exc)) from exc
    (entry,) = await changes.sources(service.pool, [source], None, after=None, limit=1)
    return answer(members(entry))
