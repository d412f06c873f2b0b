"""Errors in one form, RFC 9457 `application/problem+json`, on every route and for every cause.

Invariant: a problem says what the client can do about it. Details of the server's own errors are logged, never answered.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from citybeat.storage.db.connection import DatabaseUnavailableError, TransientError
from citybeat.storage.db.pool import QueryTimeoutError

MEDIA_TYPE: Final = "application/problem+json"
_log: Final = logging.getLogger(__name__)
#: s after which a client may try again. The pool connects to the database again with the next request.
_RETRY_AFTER: Final = "2"


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """An answer that reports an error.

    Parameters
    ----------
    status : int
        HTTP status.
    slug : str
        Identifies the kind of problem for programs; never renamed.
    title : str
        The same for every problem of this slug.
    detail : str
        What happened this time, and what the client can do.
    errors : sequence of dict, optional
        For status 422: each wrong parameter.
    headers : mapping, optional
        Headers of the answer.
    **members
        Further members, as RFC 9457 allows.
    """

    def __init__(
        self,
        status: int,
        slug: str,
        title: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status: Final = status
        self.headers: Final = dict(headers or {})
        self.body: Final[dict[str, Any]] = {
            "type": f"urn:citybeat:problem:{slug}",
            "title": title,
            "status": status,
            "detail": detail,
            **members,
        }
        if errors is not None:
            self.body["errors"] = list(errors)

    def response(self) -> Response:
        """The problem as an HTTP response."""
        return Response(orjson.dumps(self.body), status_code=self.status, media_type=MEDIA_TYPE, headers=self.headers)


def invalid(
    parameter: str,
    message: str,
    *,
    where: str = "query",
    slug: str = "invalid-parameter",
    kind: str | None = None,
    **members: Any,
) -> Problem:
    """A wrong parameter, or member of the body. `kind` names the mistake for programs; the slug, unless given."""
    errors = [{"loc": [where, parameter], "msg": message, "type": kind or slug.replace("-", "_")}]
    return Problem(422, slug, _TITLES.get(slug, "Invalid parameter"), f"{parameter}: {message}", errors=errors, **members)


def not_found(detail: str) -> Problem:
    """Something that a request names does not exist, or its key does not see it."""
    return Problem(404, "not-found", "Not found", detail)


def forbidden(detail: str, **members: Any) -> Problem:
    """The caller lacks the right."""
    return Problem(403, "forbidden", "Forbidden", detail, **members)


def install(app: FastAPI) -> None:
    """Answer every error of the application as a problem."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(DatabaseUnavailableError, _on_unavailable)
    app.add_exception_handler(TransientError, _on_unavailable)
    app.add_exception_handler(QueryTimeoutError, _on_timeout)
    app.add_exception_handler(Exception, _on_bug)


async def _on_problem(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, Problem)
    return exc.response()


async def _on_http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    status = HTTPStatus(exc.status_code)
    details = {
        404: f"there is no route {request.url.path}; /docs lists all routes",
        405: f"{request.url.path} does not support {request.method}; the header Allow says what it does",
    }
    detail = details.get(exc.status_code, str(exc.detail))
    slug = status.phrase.lower().replace(" ", "-")
    headers = dict(exc.headers or {})
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # The framework's own header names the methods of only one of the routes at this path.
        found = [route for route in request.app.state.routes if route.matches(request.scope)[0] is not Match.NONE]
        methods = {method for route in found for method in route.methods}
        headers |= {"Allow": ", ".join(sorted(methods))} if methods else {}
    return Problem(exc.status_code, slug, status.phrase.capitalize(), detail, headers=headers).response()


async def _on_validation(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    errors = [{"loc": list(error["loc"]), "msg": _message(error), "type": error["type"]} for error in exc.errors()]
    detail = "; ".join(f"{'.'.join(map(str, error['loc'][1:])) or error['loc'][0]}: {error['msg']}" for error in errors)
    return Problem(422, "invalid-parameter", _TITLES["invalid-parameter"], detail, errors=errors).response()


async def _on_unavailable(_request: Request, exc: Exception) -> Response:
    _log.warning("database unavailable: %s", exc)
    return Problem(
        503,
        "database-unavailable",
        _TITLES["database-unavailable"],
        "the database cannot be reached at the moment; try again",
        headers={"Retry-After": _RETRY_AFTER},
    ).response()


async def _on_timeout(_request: Request, exc: Exception) -> Response:
    _log.warning("%s", exc)
    detail = "the database took too long; ask for less: a shorter range, fewer devices, or a bucket of 1m"
    return Problem(503, "query-timeout", _TITLES["query-timeout"], detail).response()


async def _on_bug(_request: Request, _exc: Exception) -> Response:
    # Starlette raises the exception again after this answer, so the server logs it with its traceback.
    return Problem(500, "internal", "Internal error", "the server failed; its log says why").response()


def _message(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such parameter"
    return str(error["msg"]).removeprefix("Value error, ")


_TITLES: Final = {
    "invalid-parameter": "Invalid parameter",
    "too-many-points": "Too many points",
    "too-many-series": "Too many series",
    "range-too-long": "Range too long",
    "beyond-retention": "Beyond what is kept",
    "aggregate-without-meaning": "Aggregate without a meaning",
    "database-unavailable": "Database unavailable",
    "query-timeout": "Query took too long",
}
