"""Probes: whether the process is alive, and whether the service is ready."""

from typing import Final

from fastapi import APIRouter, Response

from citybeat.api.http.answers import answer
from citybeat.api.http.models import HealthModel
from citybeat.api.http.openapi import documented
from citybeat.api.http.problems import Problem
from citybeat.api.routes.service import ServiceDep
from citybeat.devices.errors import CitybeatError
from citybeat.storage.db.connection import DatabaseUnavailableError, StorageError
from citybeat.storage.db.schema_version import SchemaError

router: Final = APIRouter(tags=["operations"])
_EXAMPLE: Final = {"status": "ok", "version": "0.1.0"}


@router.get(
    "/healthz",
    response_model=HealthModel,
    responses={200: {"content": {"application/json": {"example": _EXAMPLE}}}, **documented(500)},
)
async def healthz(service: ServiceDep) -> Response:
    """The process runs and answers. The database is not checked: restarting this process would not repair it."""
    return answer({"status": "ok", "version": service.version})


@router.get(
    "/readyz",
    response_model=HealthModel,
    responses={200: {"content": {"application/json": {"example": _EXAMPLE}}}, **documented(500, 503)},
)
async def readyz(service: ServiceDep) -> Response:
    """The database answers, its schema is that of this version, and readings can be written. Send traffic only then."""
    try:
        await service.pool.check()
    except DatabaseUnavailableError:
        raise
    except SchemaError as exc:
        raise Problem(503, "schema-mismatch", "Database schema does not fit", str(exc)) from exc
    except StorageError as exc:
        # The text may name hosts and users, so it is logged and not answered.
        raise DatabaseUnavailableError(str(exc)) from exc
    if service.intake is not None:
        try:
            service.intake.check()
        except CitybeatError as exc:
            raise Problem(503, "intake-failed", "Readings are not taken", f"{exc}; restart this server") from exc
    return answer({"status": "ok", "version": service.version})
