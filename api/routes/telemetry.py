"""Series in buckets or as raw readings: one, or many at once."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Body, Query, Response
from pydantic import Discriminator, Field, Tag

from citybeat.api.http import problems
from citybeat.api.http.answers import answer
from citybeat.api.http.auth import Reader
from citybeat.api.http.models import QueryModel, SeriesModel
from citybeat.api.http.openapi import answers, guarded
from citybeat.api.http.params import Instant, Parameters, Text
from citybeat.api.routes.service import ServiceDep
from citybeat.api.series.aggregates import Aggregate
from citybeat.api.series.fill import Fill
from citybeat.api.series.plan import MAX_SERIES, Bucket
from citybeat.api.series.query import SeriesQuery, SeriesResult, allowed, check, run
from citybeat.api.series.selecting import DevicesFilter, check_metrics, resolve
from citybeat.api.series.thin import FEWEST, Thin
from citybeat.devices.clock import rfc3339
from citybeat.storage.reads.series import Policy
from citybeat.storage.registry.selection import Selected, Selection

router: Final = APIRouter(prefix="/v1", tags=["telemetry"])

_START: Final = "RFC 3339 with an offset; included."
_STOP: Final = "RFC 3339 with an offset; excluded. Now, unless given."
_BUCKET: Final = (
    "Width of a point. `raw`: every reading, with its flags. `auto`: the narrowest with at most `points`; the answer says which."
    " Above an hour, buckets begin and end by the clocks of the zone: days of 23, 24 or 25 hours, weeks from Monday, months."
)
_TZ: Final = "Zone by whose clocks buckets begin and end, a name of the IANA database."
_FILL: Final = (
    "Buckets without a good reading. `none`: those without any reading are left out. `null`: all are there. `previous`,"
    " `linear`: mean, min, max, first and last are filled in, and `filled` says where."
)
_FLAGS: Final = (
    "Which readings count: `good` ones, `all`, or `only_bad` ones. The last two are computed from raw readings, as long as those"
    " are kept. Unless given: `all` with `bucket=raw`, else `good`."
)
_POINTS: Final = "With `bucket=auto`: most points of each series."
_MAX_POINTS: Final = (
    "With `bucket=raw`: most readings of each series, for a plot, selected by `thin`. They are readings as they were stored, with"
    " the first and the last, and `thinned` in the answer says how many there were. All, unless given."
)
_THIN: Final = (
    "With `max_points`. `lttb`: readings that make the largest triangles, which keep a line's shape. `minmax`: the minimum and the"
    " maximum of stretches of time, which keep every peak. `lttb`, unless given."
)


class SeriesParameters(Parameters):
    """One series, a range of time, and the form of the answer."""

    device: Text = Field(description="Id of the device, retired or not.", examples=["env-0007"])
    metric: Text = Field(description="One of its sensors.", examples=["temperature"])
    start: Instant = Field(alias="from", description=_START, examples=["2026-01-01T00:00:00Z"])
    stop: Instant | None = Field(None, alias="to", description=_STOP, examples=["2026-01-02T00:00:00+07:00"])
    bucket: Bucket = Field(Bucket.M1, description=_BUCKET)
    aggregates: list[Aggregate] | None = Field(
        None, description="Aggregates; repeat it for several. Those that make sense for the metric's kind, unless given."
    )
    tz: Text = Field("UTC", description=_TZ, examples=["Asia/Ho_Chi_Minh"])
    fill: Fill = Field(Fill.NONE, description=_FILL)
    flags: Policy | None = Field(None, description=_FLAGS)
    points: int = Field(1000, ge=1, le=10_000, description=_POINTS)
    max_points: int | None = Field(None, ge=FEWEST, le=100_000, description=_MAX_POINTS)
    thin: Thin | None = Field(None, description=_THIN)


class QueryBody(Parameters):
    """Many series, a range of time, and the form of the answer."""

    devices: Annotated[
        Annotated[list[Text], Field(min_length=1, max_length=MAX_SERIES), Tag("ids")] | Annotated[DevicesFilter, Tag("filter")],
        Discriminator(lambda given: "ids" if isinstance(given, list) else "filter"),
    ] = Field(description="Ids of devices, retired or not; or a filter, `{}` for all in service.", examples=[["env-0007"]])
    metrics: list[Text] | None = Field(
        None, min_length=1, max_length=100, description="Metrics of the devices; all, unless given.", examples=[["temperature"]]
    )
    start: Instant = Field(alias="from", description=_START, examples=["2026-01-01T00:00:00Z"])
    stop: Instant | None = Field(None, alias="to", description=_STOP, examples=["2026-01-02T00:00:00+07:00"])
    bucket: Bucket = Field(Bucket.AUTO, description=_BUCKET)
    aggregates: list[Aggregate] | dict[Text, list[Aggregate]] | None = Field(
        None,
        description="For all metrics, or an object with a list for each; unless given, those that make sense for a metric's kind.",
        examples=[["mean", "max"]],
    )
    tz: Text = Field("UTC", description=_TZ, examples=["Asia/Ho_Chi_Minh"])
    fill: Fill = Field(Fill.NONE, description=_FILL)
    flags: Policy | None = Field(None, description=_FLAGS)
    points: int = Field(1000, strict=True, ge=1, le=10_000, description=_POINTS)
    max_points: int | None = Field(None, strict=True, ge=FEWEST, le=100_000, description=_MAX_POINTS)
    thin: Thin | None = Field(None, description=_THIN)


_HEAD: Final[dict[str, Any]] = {
    "device": "env-0007",
    "metric": "temperature",
    "unit": "Cel",
    "kind": "gauge",
    "bucket": "1m",
    "level": "1m",
    "tz": "UTC",
    "from": "2026-01-01T00:00:00Z",
    "to": "2026-01-01T00:02:00Z",
    "count": 2,
    "thinned": None,
}
_TIMES: Final = [1767225600000, 1767225660000]
_ROWS: Final[dict[str, Any]] = {
    "time": _TIMES,
    "mean": [28.1, None],
    "count": [6, 0],
    "bad_count": [0, 1],
    "coverage": [1.0, 0.17],
}
_SERIES: Final[dict[str, Any]] = {
    "minutes": {"value": {**_HEAD, "columns": _ROWS}},
    "raw": {
        "value": {
            **_HEAD,
            "bucket": "raw",
            "level": "raw",
            "thinned": {"rule": "lttb", "readings": 86400, "bad_count": 12},
            "columns": {"time": _TIMES, "value": [28.1, 99.0], "flags": [[], ["range"]]},
        }
    },
}
_QUERY: Final[dict[str, Any]] = {
    **{name: _HEAD[name] for name in ("bucket", "level", "tz", "from", "to", "count", "thinned")},
    "series": [
        {"device": "env-0007", "metric": "temperature", "unit": "Cel", "kind": "gauge", "aggregates": ["mean", "count"], "count": 2}
    ],
    "columns": {"series": [0, 0], **_ROWS},
}
_BODIES: Final[dict[str, Any]] = {
    "devices": {
        "summary": "A day of one station, in local hours",
        "value": {
            "devices": ["env-0007"],
            "metrics": ["temperature"],
            "from": "2026-01-01T00:00:00+07:00",
            "to": "2026-01-02T00:00:00+07:00",
            "bucket": "1h",
            "aggregates": ["mean", "max"],
            "tz": "Asia/Ho_Chi_Minh",
            "fill": "null",
        },
    },
    "filter": {
        "summary": "Rain and temperature of a district, by month",
        "value": {
            "devices": {"domain": "environment", "district": "riverside"},
            "metrics": ["precipitation", "temperature"],
            "from": "2026-01-01T00:00:00Z",
            "to": "2026-07-01T00:00:00Z",
            "bucket": "1mo",
            "aggregates": {"precipitation": ["sum"], "temperature": ["mean"]},
        },
    },
}


@router.get(
    "/series",
    response_model=SeriesModel,
    responses={200: {"content": {"application/json": {"examples": _SERIES}}}, **guarded(404, 422)},
)
async def series(service: ServiceDep, caller: Reader, parameters: Annotated[SeriesParameters, Query()]) -> Response:
    """One series over a range of time, in time order.

    Buckets that begin within the range are complete. Aggregates are of good readings; `bad_count` counts those that a quality flag
    keeps out, and `coverage` is readings received, good or bad, over those expected. The mean depends on the metric: it is circular
    for directions, energetic for sound levels, and the share of ones for states. Aggregates that make no sense are refused.
    """
    wanted = Selection(devices=[parameters.device], metrics=[parameters.metric], include_retired=True)
    question = _question(parameters, "query", service.max_points)
    chosen = await resolve(service.pool, wanted, caller)
    if not len(chosen):
        raise problems.not_found(
            f"device {parameters.device!r} has no sensor {parameters.metric!r}; see /v1/devices/{parameters.device}"
        )
    found = await run(service.pool, chosen, question)
    return answer(
        {
            "device": chosen.device[0],
            "metric": chosen.metric[0],
            "unit": chosen.unit[0],
            "kind": chosen.kind[0],
            **_head(question, found),
            "columns": found.columns,
        }
    )


@router.post(
    "/query",
    response_model=QueryModel,
    responses=answers(_QUERY, 400, 404, 413, 422),
)
async def query(service: ServiceDep, caller: Reader, body: Annotated[QueryBody, Body(openapi_examples=_BODIES)]) -> Response:
    """Many series over a range of time, as one table in order of series and time.

    `columns.series` is each row's position in `series`, which is in order of device and metric. Otherwise as `/v1/series`.
    An aggregate that makes no sense for one of the metrics is refused; metrics of different kinds can have aggregates of their own.
    A column that was not asked for a row's metric is null there.
    """
    if isinstance(body.devices, DevicesFilter):
        wanted = body.devices.selection(body.metrics)
    else:
        wanted = Selection(devices=body.devices, metrics=body.metrics, include_retired=True)
    check_metrics(service.catalogue, body.metrics, name="metrics", where="body")
    question = _question(body, "body", service.max_points)
    chosen = await resolve(service.pool, wanted, caller, where="body")
    found = await run(service.pool, chosen, question)
    return answer(
        {
            **_head(question, found),
            "series": _series(chosen, found, question.policy),
            "columns": {"series": found.which, **found.columns},
        }
    )


def _question(asked: SeriesParameters | QueryBody, where: str, limit: int) -> SeriesQuery:
    if asked.thin is not None and asked.max_points is None:
        raise problems.invalid("thin", "selects readings; max_points has to say how many", where=where)
    question = SeriesQuery(
        start=asked.start,
        stop=asked.stop or datetime.now(UTC),
        bucket=asked.bucket,
        aggregates=asked.aggregates,
        zone=asked.tz,
        fill=asked.fill,
        policy=asked.flags or (Policy.ALL if asked.bucket is Bucket.RAW else Policy.GOOD),
        points=asked.points,
        keep=asked.max_points,
        thin=asked.thin or Thin.LTTB,
        limit=limit,
        where=where,
    )
    check(question)  # before any read
    return question


def _head(question: SeriesQuery, found: SeriesResult) -> dict[str, Any]:
    return {
        "bucket": found.bucket,
        "level": found.level,
        "tz": question.zone,
        "from": rfc3339(question.start),
        "to": rfc3339(question.stop),
        "count": len(found.columns["time"]),
        "thinned": None
        if found.thinned is None
        else {"rule": found.thinned.rule, "readings": int(found.thinned.readings.sum()), "bad_count": found.thinned.bad},
    }


def _series(chosen: Selected, found: SeriesResult, policy: Policy) -> list[dict[str, Any]]:
    counts = np.bincount(found.which, minlength=len(chosen)).tolist()
    readings = None if found.thinned is None else found.thinned.readings.tolist()
    return [
        {
            "device": device,
            "metric": metric,
            "unit": unit,
            "kind": kind,
            "aggregates": [] if found.bucket is Bucket.RAW else found.wanted.get(metric) or allowed(kind, policy),
            "count": count,
            **({} if readings is None else {"readings": readings[row]}),
        }
        for row, (device, metric, unit, kind, count) in enumerate(
            zip(chosen.device, chosen.metric, chosen.unit, chosen.kind, counts, strict=True)
        )
    ]
