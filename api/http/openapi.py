"""The OpenAPI document: what routes say of their answers and problems, and what FastAPI leaves out."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from citybeat.api.http.models import DeviceFeaturesModel, LatestFeaturesModel, StatesFeaturesModel
from citybeat.api.http.problems import MEDIA_TYPE, Problem, invalid, not_found


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


#: Of each status, its description and an example.
_EXAMPLES: Final[Mapping[int, tuple[str, Problem]]] = {
    400: ("The body cannot be read.", Problem(400, "bad-request", "Bad request", "There was an error parsing the body")),
    401: (
        "There is no key, or it is not valid.",
        Problem(
            401,
            "unauthorized",
            "Unauthorized",
            "this needs a key: `Authorization: Bearer cb_…`, or `X-API-Key`; `citybeat keys create` makes one",
        ),
    ),
    403: (
        "The key may not do this.",
        Problem(403, "forbidden", "Forbidden", "this needs a key with the scope admin; key 3k9x2mq7ab has read", scope="admin"),
    ),
    404: ("There is no such thing.", not_found("there is no device 'env-0007'")),
    406: (
        "The client accepts none of the formats.",
        Problem(
            406,
            "not-acceptable",
            "Not acceptable",
            "there is text/csv, application/vnd.apache.arrow.stream, application/vnd.apache.parquet; ask for one of them,"
            " or say format=csv|arrow|parquet",
        ),
    ),
    409: (
        "It exists already.",
        Problem(409, "already-exists", "Already exists", "there is a device 'env-0007' already: PATCH changes it"),
    ),
    412: (
        "The device has another ETag by now.",
        Problem(
            412,
            "precondition-failed",
            "Precondition failed",
            "device 'env-0007' was changed meanwhile: its ETag is \"3-1f\". Look at it, and try again with that",
        ),
    ),
    413: (
        "The body is larger than allowed.",
        Problem(
            413,
            "content-too-large",
            "Content too large",
            "a body may have 1048576 bytes here; send several smaller ones",
            max_bytes=1048576,
        ),
    ),
    415: (
        "Bodies of this media type cannot be read.",
        Problem(
            415,
            "unsupported-media-type",
            "Unsupported media type",
            "there is application/json, application/senml+json, application/senml+cbor, text/csv,"
            " application/vnd.apache.parquet; not 'application/xml'",
        ),
    ),
    422: ("A parameter is wrong.", invalid("from", "a time needs an offset, such as Z or +07:00", kind="value_error")),
    429: (
        "The key has made as many requests as it may.",
        Problem(
            429,
            "too-many-requests",
            "Too many requests",
            "one key may make 6000 requests a minute; try again in 12 s, or ask for more in each request",
            requests_per_minute=6000,
        ),
    ),
    500: ("An error of the server.", Problem(500, "internal", "Internal error", "the server failed; its log says why")),
    503: (
        "The database is unavailable or took too long, or the server is at one of its limits.",
        Problem(
            503,
            "database-unavailable",
            "Database unavailable",
            "the database cannot be reached at the moment; try again",
        ),
    ),
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: problems with these statuses."""
    return {
        status: {
            "description": description,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}, "example": problem.body}},
        }
        for status, (description, problem) in ((status, _EXAMPLES[status]) for status in statuses)
    }


def guarded(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same for a route that needs a key: with the problems that any such route may answer."""
    return documented(*sorted({401, 403, 429, 500, 503, *statuses}))


def answers(example: Any, *statuses: int, status: int = 200, others: Mapping[str, Any] | None = None) -> dict[int | str, Any]:
    """The `responses` of a route that needs a key and answers JSON.

    Parameters
    ----------
    example : anything
        An answer.
    *statuses : int
        Statuses of problems, beside those that every such route may answer.
    status : int
        Status of the response.
    others : mapping, optional
        Other media types that a client may accept, with their schemas and examples.
    """
    return {status: {"content": {"application/json": {"example": example}, **(others or {})}}, **guarded(*statuses)}


def complete(app: FastAPI, routes: Iterable[APIRoute]) -> None:
    """Correct the OpenAPI document of an application.

    Schemas of problems and of GeoJSON are added, and nulls in examples, which FastAPI drops. Null is removed from parameters: a
    parameter in a URL may be absent, but is never null.
    """
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        for model in (ProblemDetails, LatestFeaturesModel, DeviceFeaturesModel, StatesFeaturesModel):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            document["components"]["schemas"] |= {**schema.pop("$defs"), model.__name__: schema}
        for route in (route for route in routes if route.include_in_schema):
            method = next(iter(route.methods or ["GET"])).lower()
            status = route.status_code or 200
            shown = document["paths"][route.path_format][method]["responses"][str(status)].get("content", {})
            for kind, content in route.responses[status].get("content", {}).items():
                shown.setdefault(kind, {}).update(content)
        for operation in (operation for path in document["paths"].values() for operation in path.values()):
            for parameter in operation.get("parameters", []):
                parameter["schema"] = _without_null(parameter["schema"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if not kinds:
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**rest, **kinds[0]} if len(kinds) == 1 else {**rest, "anyOf": kinds}
