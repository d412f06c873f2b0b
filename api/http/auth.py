"""Authentication and authorization of routes.

Invariant: every route that shows or changes data of the city takes a `Reader`, `Writer` or `Admin`, and passes the selection of a
request through `api.series.selecting.visible`.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from citybeat.api.http.gate import Caller, Gate, unauthorized
from citybeat.api.http.problems import forbidden
from citybeat.storage.registry.keys import Scope

_BEARER: Final = HTTPBearer(auto_error=False, description="A key of `citybeat keys create`: `Authorization: Bearer cb_…`.")
_HEADER: Final = APIKeyHeader(
    name="X-API-Key", auto_error=False, description="The same key, for clients that cannot set `Authorization`."
)


async def _caller(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
    header: Annotated[str | None, Security(_HEADER)],
) -> Caller:
    gate: Gate = request.app.state.service.gate
    caller = await gate.caller(bearer.credentials if bearer is not None else header)
    await gate.admit(caller, request.client.host if request.client else "?")
    return caller


def _with(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    async def caller(known: Annotated[Caller, Depends(_caller)]) -> Caller:
        if scope in known.scopes:
            return known
        if not known.id:
            raise unauthorized("this needs a key: `Authorization: Bearer cb_…`, or `X-API-Key`; `citybeat keys create` makes one")
        had = ", ".join(sorted(known.scopes))
        raise forbidden(f"this needs a key with the scope {scope}; key {known.id} has {had}", scope=scope)

    return caller


Reader = Annotated[Caller, Depends(_with(Scope.READ))]
Writer = Annotated[Caller, Depends(_with(Scope.WRITE))]
Admin = Annotated[Caller, Depends(_with(Scope.ADMIN))]
