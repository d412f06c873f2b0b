"""Errors in one shape: RFC 9457 `application/problem+json`, whatever went wrong and on whichever route.

Law: a problem says what the client can do about it. What our own error was stands in the log, never in the answer.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from citybeat.storage.db.connection import DatabaseUnavailableError, TransientError
from citybeat.storage.db.pool import QueryTimeoutError

MEDIA_TYPE: Final = "application/problem+json"
_log: Final = logging.getLogger(__name__)
#: s after which a client may try again: the pool asks the database anew with the next request.
_RETRY_AFTER: Final = "2"


class Problem(Exception):  # noqa: N818 - it is called so by RFC 9457
    """An answer that is no success.

    Parameters
    ----------
    status : int
        HTTP status.
    slug : str
        Distinguishes the kind of problem for programs; never renamed.
    title : str
        The same for every problem of this slug.
    detail : str
        What happened this time, and what to do.
    errors : sequence of dict, optional
        For status 422: each wrong parameter.
    headers : mapping, optional
        Of the answer.
    **members
        More members, as RFC 9457 allows.
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
        """As HTTP has it."""
        return Response(orjson.dumps(self.body), status_code=self.status, media_type=MEDIA_TYPE, headers=self.headers)


def invalid(parameter: str, message: str, *, where: str = "query", slug: str = "invalid-parameter", **members: Any) -> Problem:
    """A parameter, or a member of the body, whose value only the route itself can judge."""
    errors = [{"loc": [where, parameter], "msg": message, "type": slug.replace("-", "_")}]
    return Problem(422, slug, _TITLES.get(slug, "Invalid parameter"), f"{parameter}: {message}", errors=errors, **members)


def not_found(detail: str) -> Problem:
    """There is no such thing."""
    return Problem(404, "not-found", "Not found", detail)


def forbidden(detail: str, **members: Any) -> Problem:
    """Whoever asks may not."""
    return Problem(403, "forbidden", "Forbidden", detail, **members)


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""
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
        404: f"there is nothing at {request.url.path}; /docs lists what there is",
        405: f"{request.method} is not possible at {request.url.path}; see the header Allow",
    }
    detail = details.get(exc.status_code, str(exc.detail))
    slug = status.phrase.lower().replace(" ", "-")
    headers = dict(exc.headers or {})
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # The framework names the methods of one of the routes at this address.
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
    # Starlette raises the exception again behind this answer, so the server logs it with its traceback.
    return Problem(500, "internal", "Internal error", "something went wrong on our side; the server's log says what").response()


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


# --- for the OpenAPI document --------------------------------------------------------------------------------------------------


class ParameterError(BaseModel):
    """One wrong parameter."""

    loc: list[str | int] = Field(description="Where it stands: `query`, `path` or `body`, then its name.")
    msg: str = Field(description="What is wrong with it.")
    type: str = Field(description="The same, for programs.")


class ProblemDetails(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A URN that names the kind of problem; it never changes.")
    title: str = Field(description="The kind of problem, for people.")
    status: int = Field(description="The HTTP status again.")
    detail: str = Field(description="What happened this time, and what to do about it.")
    errors: list[ParameterError] | None = Field(default=None, description="With status 422: each wrong parameter.")


_EXAMPLES: Final[Mapping[int, tuple[str, dict[str, Any]]]] = {
    400: (
        "The body cannot be read.",
        {
            "type": "urn:citybeat:problem:bad-request",
            "title": "Bad request",
            "status": 400,
            "detail": "There was an error parsing the body",
        },
    ),
    401: (
        "There is no key, or not one that holds.",
        {
            "type": "urn:citybeat:problem:unauthorized",
            "title": "Unauthorized",
            "status": 401,
            "detail": "this needs a key: `Authorization: Bearer cb_…`, or `X-API-Key`; `citybeat keys create` makes one",
        },
    ),
    403: (
        "The key may not do this.",
        {
            "type": "urn:citybeat:problem:forbidden",
            "title": "Forbidden",
            "status": 403,
            "detail": "this needs a key with the scope admin; key 3k9x2mq7ab has read",
            "scope": "admin",
        },
    ),
    404: (
        "There is no such thing.",
        {"type": "urn:citybeat:problem:not-found", "title": "Not found", "status": 404, "detail": "there is no device 'env-0007'"},
    ),
    406: (
        "There is no form that the client accepts.",
        {
            "type": "urn:citybeat:problem:not-acceptable",
            "title": "Not acceptable",
            "status": 406,
            "detail": "there is text/csv, application/vnd.apache.arrow.stream, application/vnd.apache.parquet; ask for one of them,"
            " or say format=csv|arrow|parquet",
        },
    ),
    409: (
        "There is one already.",
        {
            "type": "urn:citybeat:problem:already-exists",
            "title": "Already exists",
            "status": 409,
            "detail": "there is a device 'env-0007' already: PATCH changes it",
        },
    ),
    412: (
        "The device has another ETag by now.",
        {
            "type": "urn:citybeat:problem:precondition-failed",
            "title": "Precondition failed",
            "status": 412,
            "detail": "device 'env-0007' was changed meanwhile: its ETag is \"3-1f\". Look at it, and try again with that",
        },
    ),
    413: (
        "The body is larger than it may be.",
        {
            "type": "urn:citybeat:problem:content-too-large",
            "title": "Content too large",
            "status": 413,
            "detail": "a body may have 1048576 bytes here; send several smaller ones",
            "max_bytes": 1048576,
        },
    ),
    415: (
        "There is no reader for this kind of body.",
        {
            "type": "urn:citybeat:problem:unsupported-media-type",
            "title": "Unsupported media type",
            "status": 415,
            "detail": "there is application/json, application/senml+json, application/senml+cbor, text/csv,"
            " application/vnd.apache.parquet; not 'application/xml'",
        },
    ),
    422: (
        "A parameter is wrong.",
        {
            "type": "urn:citybeat:problem:invalid-parameter",
            "title": "Invalid parameter",
            "status": 422,
            "detail": "from: a time needs an offset, such as Z or +07:00",
            "errors": [{"loc": ["query", "from"], "msg": "a time needs an offset, such as Z or +07:00", "type": "value_error"}],
        },
    ),
    429: (
        "The key has made as many requests as it may.",
        {
            "type": "urn:citybeat:problem:too-many-requests",
            "title": "Too many requests",
            "status": 429,
            "detail": "6000 requests a minute are what one key may make; ask again in 12 s, or for more at once",
            "requests_per_minute": 6000,
        },
    ),
    500: (
        "A mistake of ours.",
        {
            "type": "urn:citybeat:problem:internal",
            "title": "Internal error",
            "status": 500,
            "detail": "something went wrong on our side; the server's log says what",
        },
    ),
    503: (
        "The database is away, or took too long; or as much is under way as may be.",
        {
            "type": "urn:citybeat:problem:database-unavailable",
            "title": "Database unavailable",
            "status": 503,
            "detail": "the database cannot be reached at the moment; try again",
        },
    ),
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's `responses` say of these statuses."""
    return {
        status: {
            "description": _EXAMPLES[status][0],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}, "example": _EXAMPLES[status][1]}},
        }
        for status in statuses
    }


def guarded(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same, of a route that needs a key: with what any of them may answer."""
    return documented(*sorted({401, 403, 429, 500, 503, *statuses}))
