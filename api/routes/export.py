"""Exports: any number of readings or rollups, as a file."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from citybeat.api.files import tables
from citybeat.api.files.download import Download
from citybeat.api.files.tables import MEDIA_TYPES, SUFFIXES, Format
from citybeat.api.http.auth import Reader
from citybeat.api.http.openapi import guarded
from citybeat.api.http.params import Instant
from citybeat.api.http.problems import Problem, invalid
from citybeat.api.routes.service import ServiceDep
from citybeat.api.series.selecting import Filters, check_metrics, visible
from citybeat.devices.clock import rfc3339
from citybeat.storage.reads import export as store
from citybeat.storage.reads.export import Block
from citybeat.storage.rollups.levels import Level

router: Final = APIRouter(prefix="/v1", tags=["telemetry"])

#: Series of one export. Their ids are in each statement (700 kB for so many), their names in each file.
MAX_SERIES: Final = 100_000
#: Media ranges of the header Accept and the format for each; of several with equal quality the first wins.
_ACCEPTED: Final[tuple[tuple[str, Format], ...]] = (
    ("text/csv", "csv"),
    ("application/vnd.apache.arrow.stream", "arrow"),
    ("application/vnd.apache.parquet", "parquet"),
    ("text/*", "csv"),
    ("application/*", "arrow"),
    ("*/*", "csv"),
)
#: In the document a list of words, not a schema of its own.
_AnyLevel = Literal[Level.RAW, Level.MINUTES, Level.QUARTERS]
_QUALITY: Final = re.compile(r"q=([01](?:\.\d{0,3})?)")


class ExportParameters(Filters):
    """Filters of series, a range of time, and the format."""

    start: Instant = Field(alias="from", description="RFC 3339 with an offset; included.", examples=["2026-01-01T00:00:00Z"])
    stop: Instant | None = Field(
        None,
        alias="to",
        description="RFC 3339 with an offset; excluded. Now, unless given.",
        examples=["2026-02-01T00:00:00+07:00"],
    )
    level: _AnyLevel = Field(Level.RAW, description="`raw`: readings, with their flags. `1m`, `15m`: aggregates of good readings.")
    format: Format | None = Field(
        None, description="Format of the file; it wins over the header `Accept`. CSV, unless either is given."
    )


_FILES: Final[dict[str, Any]] = {
    MEDIA_TYPES["csv"]: {
        "schema": {"type": "string"},
        "example": 'time,device,metric,value,flags\n2026-01-01 00:00:00.000000Z,"env-0007","temperature",28.1,0\n',
    },
    MEDIA_TYPES["arrow"]: {"schema": {"type": "string", "format": "binary"}},
    MEDIA_TYPES["parquet"]: {"schema": {"type": "string", "format": "binary"}},
}


@router.get(
    "/export",
    response_class=Response,
    responses={200: {"description": "The file.", "content": _FILES}, **guarded(406, 422)},
)
async def export(
    service: ServiceDep, caller: Reader, request: Request, parameters: Annotated[ExportParameters, Query()]
) -> Response:
    """Readings, or rollups, of any number of series over any range, as CSV, Arrow IPC stream or Parquet.

    The file is sent while it is read, and is a snapshot of one moment. It is in order of slices of time of at most seven days,
    within each by series, and within each of these by time. If an export fails, the connection is closed without the last chunk.
    """
    start, stop = parameters.start, parameters.stop or datetime.now(UTC)
    if start >= stop:
        raise invalid("from", f"must be before `to` ({rfc3339(stop)})")
    check_metrics(service.catalogue, parameters.metric)
    form = parameters.format or negotiated(request.headers.get("accept"))
    if form is None:
        detail = f"there is {', '.join(MEDIA_TYPES.values())}; ask for one of them, or say format={'|'.join(MEDIA_TYPES)}"
        raise Problem(406, "not-acceptable", "Not acceptable", detail)
    selection = await store.select(service.pool, visible(parameters.selection(), caller), limit=service.max_export_series + 1)
    if len(selection.ids) > service.max_export_series:
        message = (
            f"more than the {service.max_export_series} series that one export may have; ask for a district, or for fewer metrics"
        )
        raise invalid("device", message, slug="too-many-series", max_series=service.max_export_series)
    # A box or circle is a named tuple, which pydantic writes as a list with a warning.
    query = parameters.model_dump(by_alias=True, mode="json", exclude_none=True, exclude={"format"}, warnings=False)
    query |= {"from": rfc3339(start), "to": rfc3339(stop)}

    def source(sink: Callable[[Block], Awaitable[None]]) -> Awaitable[None]:
        return store.send(service.export_pool, selection, parameters.level, start=start, stop=stop, sink=sink)

    name = f"citybeat-{parameters.level}-{start:%Y%m%dT%H%M%SZ}-{stop:%Y%m%dT%H%M%SZ}.{SUFFIXES[form]}"
    return Download(
        service.downloads,
        source,
        tables.encoder(form, selection, parameters.level, query=query, version=service.version),
        media_type=MEDIA_TYPES[form],
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Vary": "Accept"},
    )


def negotiated(accept: str | None) -> Format | None:
    """The format that a header `Accept` prefers; None: it accepts none.

    Examples
    --------
    >>> negotiated("application/json;q=0.9, application/vnd.apache.parquet;q=0.8"), negotiated("*/*"), negotiated("image/png")
    ('parquet', 'csv', None)
    """
    if accept is None or not accept.strip():
        return "csv"
    liked = {}
    for entry in accept.lower().split(","):
        kind, *details = (part.strip() for part in entry.split(";"))
        quality = next((float(match[1]) for detail in details if (match := _QUALITY.fullmatch(detail))), 1.0)
        liked[kind] = min(quality, 1.0)
    # An exact name wins over a wildcard of the same quality.
    best = max((kind for kind, _ in _ACCEPTED if liked.get(kind, 0.0) > 0.0), key=lambda kind: liked[kind], default=None)
    return None if best is None else dict(_ACCEPTED)[best]
