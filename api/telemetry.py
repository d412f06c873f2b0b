"""Readings: the newest of many series, and one series over a range of time."""

import enum
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Query, Response
from pydantic import Field

from api import aggregates, problems
from api.aggregates import Aggregate
from api.answers import answer, flag_names, milliseconds, rfc3339
from api.dependencies import Parts, Service
from api.models import LatestModel, SeriesModel
from api.params import Instant, Paged, Parameters, Text, decode_cursor, encode_cursor
from api.problems import invalid
from devices.catalogue import Domain
from storage import read
from storage.read import LatestFilter, Series

router: Final = APIRouter(prefix="/v1", tags=["telemetry"])
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class LatestParameters(Paged):
    """Which series, and how many."""

    domain: Domain | None = Field(None, description="Only devices of this domain.")
    district: Text | None = Field(None, description="Only devices in this district.")
    device: list[Text] | None = Field(None, max_length=1000, description="Only these devices; repeat it for several.")
    metric: list[Text] | None = Field(None, max_length=100, description="Only these metrics; repeat it for several.")
    include_retired: bool = Field(False, description="Devices out of service too.")


class Bucket(enum.StrEnum):
    """Width of a point."""

    RAW = "raw"
    MINUTE = "1m"


class SeriesParameters(Parameters):
    """Which series, when, and what of it."""

    device: Text = Field(description="Id of the device, retired or not.", examples=["env-0007"])
    metric: Text = Field(description="One of its sensors.", examples=["temperature"])
    start: Instant = Field(alias="from", description="RFC 3339 with an offset; included.", examples=["2026-01-01T00:00:00Z"])
    stop: Instant | None = Field(
        None,
        alias="to",
        description="RFC 3339 with an offset; excluded. Now, unless given.",
        examples=["2026-01-02T00:00:00+07:00"],
    )
    bucket: Bucket = Field(Bucket.MINUTE, description="`raw`: every reading, with its flags. `1m`: aggregates of good readings.")
    aggregates: list[Aggregate] | None = Field(
        None,
        description="With `1m`: which; repeat it for several. Those that make sense for the metric's kind, unless given.",
    )


_LATEST: Final[dict[str, Any]] = {
    "at": "2026-01-01T00:00:12.5Z",
    "count": 1,
    "columns": {
        "device": ["env-0007"],
        "metric": ["temperature"],
        "unit": ["Cel"],
        "time": [1767225600000],
        "value": [28.1],
        "flags": [[]],
        "age_s": [12.5],
        "stale": [False],
    },
    "next_cursor": None,
}
_HEAD: Final[dict[str, Any]] = {
    "device": "env-0007",
    "metric": "temperature",
    "unit": "Cel",
    "kind": "gauge",
    "bucket": "1m",
    "from": "2026-01-01T00:00:00Z",
    "to": "2026-01-01T00:02:00Z",
    "count": 2,
}
_TIMES: Final = [1767225600000, 1767225660000]
_SERIES: Final[dict[str, Any]] = {
    "minutes": {"value": {**_HEAD, "columns": {"time": _TIMES, "mean": [28.1, None], "count": [6, 0], "bad": [0, 1]}}},
    "raw": {"value": {**_HEAD, "bucket": "raw", "columns": {"time": _TIMES, "value": [28.1, 99.0], "flags": [[], ["range"]]}}},
}


@router.get(
    "/latest",
    response_model=LatestModel,
    responses={200: {"content": {"application/json": {"example": _LATEST}}}, **problems.documented(422, 500, 503)},
)
async def latest(parts: Parts, parameters: Annotated[LatestParameters, Query()]) -> Response:
    """The newest reading of every series, good or bad, in order of device and metric, in pages.

    A series without any reading does not appear. Devices that do not exist count as without readings.
    """
    unknown = [name for name in parameters.metric or [] if name not in parts.catalogue]
    if unknown:
        raise invalid("metric", f"not in the catalogue: {', '.join(map(repr, unknown))}; see /v1/catalogue")
    key = decode_cursor(parameters.cursor, str, str)
    wanted = LatestFilter(
        domain=parameters.domain,
        district=parameters.district,
        devices=parameters.device,
        metrics=parameters.metric,
        include_retired=parameters.include_retired,
    )
    found = await read.latest(parts.pool, wanted, after=(key[0], key[1]) if key else None, limit=parameters.limit + 1)
    n = min(len(found.device), parameters.limit)
    more = len(found.device) > n
    now = (found.at - _EPOCH).total_seconds()
    return answer(
        {
            "at": rfc3339(found.at),
            "count": n,
            "columns": {
                "device": found.device[:n],
                "metric": found.metric[:n],
                "unit": found.unit[:n],
                "time": milliseconds(found.time[:n]),
                "value": found.value[:n],
                "flags": flag_names(found.flags[:n]),
                "age_s": np.round(now - found.time[:n] / 1e6, 3),
                "stale": found.stale[:n] != 0,
            },
            "next_cursor": encode_cursor(found.device[n - 1], found.metric[n - 1]) if more else None,
        }
    )


@router.get(
    "/series",
    response_model=SeriesModel,
    responses={200: {"content": {"application/json": {"examples": _SERIES}}}, **problems.documented(404, 422, 500, 503)},
)
async def series(parts: Parts, parameters: Annotated[SeriesParameters, Query()]) -> Response:
    """One series over a range of time, in time order.

    With `1m`: the minutes that begin within the range, and only those with readings. Aggregates are of good readings; `bad` counts
    those that a quality flag keeps out. A mean is what it has to be for the metric: of a direction circular, of a sound level
    energetic, of a state the share of ones. An aggregate without a meaning is refused.
    """
    start, stop = parameters.start, parameters.stop or datetime.now(UTC)
    if start >= stop:
        raise invalid("from", f"must be before `to` ({rfc3339(stop)})")
    if parameters.bucket is Bucket.RAW and parameters.aggregates:
        raise invalid("aggregates", "readings are not aggregated with bucket=raw; leave it out, or take bucket=1m")
    found = await read.find(parts.pool, parameters.device, parameters.metric)
    if found is None:
        if not await read.device_exists(parts.pool, parameters.device):
            raise problems.not_found(f"there is no device {parameters.device!r}")
        raise problems.not_found(
            f"device {parameters.device!r} has no sensor {parameters.metric!r}; see /v1/devices/{parameters.device}"
        )
    if parameters.bucket is Bucket.RAW:
        columns = await _raw(parts, found, start, stop)
    else:
        columns = await _minutes(parts, found, start, stop, _checked(found, parameters.aggregates))
    return answer(
        {
            "device": found.device,
            "metric": found.metric,
            "unit": found.unit,
            "kind": found.kind,
            "bucket": parameters.bucket,
            "from": rfc3339(start),
            "to": rfc3339(stop),
            "count": len(columns["time"]),
            "columns": columns,
        }
    )


def _checked(series: Series, wanted: list[Aggregate] | None) -> list[Aggregate]:
    allowed = aggregates.allowed(series.kind)
    for aggregate in wanted or []:
        if aggregate not in allowed:
            raise invalid(
                "aggregates",
                f"{aggregate} makes no sense for {series.metric}, a {series.kind}; it has {', '.join(allowed)}",
                slug="aggregate-without-meaning",
                allowed=list(allowed),
            )
    return wanted or allowed


async def _raw(parts: Service, series: Series, start: datetime, stop: datetime) -> dict[str, Any]:
    found = await read.raw(parts.pool, series.id, start=start, stop=stop, limit=parts.max_points + 1)
    _check_points(parts, len(found.time), "a shorter range, or bucket=1m")
    return {"time": milliseconds(found.time), "value": found.value, "flags": flag_names(found.flags)}


async def _minutes(parts: Service, series: Series, start: datetime, stop: datetime, wanted: list[Aggregate]) -> dict[str, Any]:
    found = await read.minutes(parts.pool, series.id, start=start, stop=stop, limit=parts.max_points + 1)
    _check_points(parts, len(found.time), "a shorter range")
    columns = {str(aggregate): aggregates.compute(aggregate, series.kind, found) for aggregate in wanted}
    return {"time": milliseconds(found.time), **columns}


def _check_points(parts: Service, found: int, instead: str) -> None:
    if found > parts.max_points:
        message = f"the range has more than the {parts.max_points} points that one answer may have; ask for {instead}"
        raise invalid("from", message, slug="too-many-points", max_points=parts.max_points)
