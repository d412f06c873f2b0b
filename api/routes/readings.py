"""Raw readings: pages in order of time, and the reading nearest to a time."""

import enum
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Query, Response
from pydantic import Field

from citybeat.api.http.answers import answer
from citybeat.api.http.auth import Reader
from citybeat.api.http.models import NearestModel, ReadingsModel
from citybeat.api.http.openapi import answers
from citybeat.api.http.params import Instant, Paged, decode_cursor, encode_cursor
from citybeat.api.http.problems import invalid
from citybeat.api.routes.service import Service, ServiceDep
from citybeat.api.series.columns import reading_columns
from citybeat.api.series.selecting import Filters, check_metrics, resolve
from citybeat.devices.clock import NEWEST, OLDEST, from_us, rfc3339, to_us
from citybeat.devices.flags import Flag
from citybeat.storage.reads import readings, series
from citybeat.storage.reads.series import Policy
from citybeat.storage.rollups.levels import Level

router: Final = APIRouter(prefix="/v1", tags=["telemetry"])

#: Series of one page of readings. Up to a page is read of each and then sorted: a million rows for the largest page.
MAX_PAGE_SERIES: Final = 100
#: s. A reading more than a year away says nothing about a time.
MAX_DISTANCE: Final = 366 * 86_400


class Order(enum.StrEnum):
    """Order of time."""

    ASCENDING = "asc"
    DESCENDING = "desc"


FlagName = enum.StrEnum("FlagName", {flag.name: flag.name.lower() for flag in Flag if flag.name})  # type: ignore[misc]  # mypy wants a literal; one list is enough


class ReadingsParameters(Filters, Paged):
    """Filters of readings, a range of time, and the page."""

    start: Instant | None = Field(None, alias="from", description="RFC 3339 with an offset; included. The oldest, unless given.")
    stop: Instant | None = Field(None, alias="to", description="RFC 3339 with an offset; excluded. The newest, unless given.")
    order: Order = Field(Order.ASCENDING, description="From the oldest on, or from the newest.")
    flags: Policy = Field(Policy.ALL, description="`good`: readings that no flag keeps out of aggregates. `only_bad`: the others.")
    flag: list[FlagName] | None = Field(None, description="Only readings with this flag; with any of them, if repeated.")


class NearestParameters(Filters):
    """Filters of series, a time, and the greatest distance from it."""

    at: Instant = Field(description="RFC 3339 with an offset.", examples=["2026-01-01T00:00:00Z"])
    within_s: float = Field(
        86_400, ge=0, le=MAX_DISTANCE, description="Most seconds between the reading and `at`, before or after."
    )
    flags: Policy = Field(Policy.GOOD, description="Which readings count.")


_COLUMNS: Final[dict[str, Any]] = {
    "device": ["env-0007"],
    "metric": ["temperature"],
    "unit": ["Cel"],
    "time": [1767225600000],
    "value": [99.0],
    "flags": [["range"]],
}
_READINGS: Final[dict[str, Any]] = {"count": 1, "kept_from": None, "columns": _COLUMNS, "next_cursor": None}
_NEAREST: Final[dict[str, Any]] = {
    "at": "2026-01-01T00:00:12Z",
    "count": 1,
    "kept_from": None,
    "columns": {**_COLUMNS, "value": [28.1], "flags": [[]], "distance_s": [-12.0]},
}


@router.get(
    "/readings",
    response_model=ReadingsModel,
    responses=answers(_READINGS, 404, 422),
)
async def page(service: ServiceDep, caller: Reader, parameters: Annotated[ReadingsParameters, Query()]) -> Response:
    """Readings as they are stored, good or bad, with their flags, in order of time, in pages.

    Each page begins behind the last reading of the one before. Readings that arrive meanwhile shift nothing, and appear if they
    belong behind it.
    """
    start, stop = parameters.start or OLDEST, parameters.stop or NEWEST
    if start >= stop:
        raise invalid("from", f"must be before `to` ({rfc3339(stop)})")
    check_metrics(service.catalogue, parameters.metric)
    chosen = await resolve(service.pool, parameters.selection(listed_retired=True), caller, limit=MAX_PAGE_SERIES)
    mask = 0
    for name in parameters.flag or []:
        mask |= Flag[name.name]
    found = await readings.page(
        service.pool,
        chosen.id,
        start=start,
        stop=stop,
        policy=parameters.flags,
        mask=mask,
        descending=parameters.order is Order.DESCENDING,
        after=_after(parameters),
        limit=parameters.limit + 1,
    )
    n = min(len(found), parameters.limit)
    cursor = None
    if len(found) > n:
        cursor = encode_cursor(parameters.order, int(found.time[n - 1]), int(found.series[n - 1]))
    return answer(
        {
            "count": n,
            "kept_from": await _kept_from(service),
            "columns": reading_columns(chosen, found, np.arange(n)),
            "next_cursor": cursor,
        }
    )


@router.get(
    "/readings/nearest",
    response_model=NearestModel,
    responses=answers(_NEAREST, 404, 422),
)
async def nearest(service: ServiceDep, caller: Reader, parameters: Annotated[NearestParameters, Query()]) -> Response:
    """The reading of each series that is nearest to a time, before or after it; the earlier of two that are equally near.

    In order of device and metric. A series without a reading within `within_s` does not appear.
    """
    check_metrics(service.catalogue, parameters.metric)
    chosen = await resolve(service.pool, parameters.selection(listed_retired=True), caller)
    away = timedelta(seconds=parameters.within_s)
    at = parameters.at
    found = await readings.nearest(
        service.pool,
        chosen.id,
        at=at,
        start=max(at, OLDEST + away) - away,
        stop=min(at, NEWEST - away) + away,
        policy=parameters.flags,
    )
    order = np.argsort(chosen.rows(found.series))
    asked = to_us(at)
    columns = {**reading_columns(chosen, found, order), "distance_s": (found.time[order] - asked) / 1e6}
    return answer({"at": rfc3339(at), "count": len(found), "kept_from": await _kept_from(service), "columns": columns})


def _after(parameters: ReadingsParameters) -> tuple[datetime, int] | None:
    key = decode_cursor(parameters.cursor, str, int, int)
    if key is None:
        return None
    order, time, number = key
    if order != parameters.order:
        raise invalid("cursor", "a cursor of the other order; pass `next_cursor` of the page before with the same `order`")
    try:
        return from_us(time), int(np.int32(number))
    except OverflowError:
        raise invalid("cursor", "not a cursor of this list; pass `next_cursor` of the page before as it is") from None


async def _kept_from(service: Service) -> str | None:
    since = (await series.horizons(service.pool))[Level.RAW]
    return None if since is None else rfc3339(from_us(since))
