"""The ledger: counts of received messages and readings, and of their outcomes."""

from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Response
from pydantic import Field

from citybeat.api.http.answers import answer, milliseconds
from citybeat.api.http.auth import Reader
from citybeat.api.http.models import LedgerModel
from citybeat.api.http.openapi import answers
from citybeat.api.http.pages import page_of_columns
from citybeat.api.http.params import Instant, Paged, Text
from citybeat.api.http.problems import invalid
from citybeat.api.routes.service import ServiceDep
from citybeat.api.series.query import check_zone
from citybeat.devices.clock import from_us, rfc3339
from citybeat.devices.ledger import Counts
from citybeat.storage.accounts import ledger_rows
from citybeat.storage.db.connection import RefusedDataError

router: Final = APIRouter(prefix="/v1", tags=["accounts"])
_BUCKETS: Final = {"1m": "1 minute", "1h": "1 hour", "1d": "1 day"}


class LedgerParameters(Paged):
    """Sources, a range of time, and the page."""

    source: list[Text] | None = Field(None, max_length=1000, description="Only these sources; repeat it for several.")
    start: Instant | None = Field(
        None,
        alias="from",
        description="Minutes of receipt that begin then or later; RFC 3339 with an offset.",
        examples=["2026-01-01T00:00:00Z"],
    )
    stop: Instant | None = Field(
        None, alias="to", description="Minutes of receipt that begin before this time.", examples=["2026-01-02T00:00:00Z"]
    )
    bucket: Literal["1m", "1h", "1d"] = Field(
        "1m", description="Length of a row. A bucket that the range cuts has the minutes within the range."
    )
    tz: Text = Field("UTC", description="Zone by whose clocks hours and days begin.", examples=["Asia/Ho_Chi_Minh"])


_COUNTS: Final = asdict(
    Counts(messages=60, undecodable=1, received=590, stored=580, duplicate=4, conflict=1, missing=3, quarantined=2)
)
_EXAMPLE: Final[dict[str, Any]] = {
    "from": "2026-01-01T00:00:00Z",
    "to": None,
    "totals": {**_COUNTS, "balanced": True},
    "count": 1,
    "columns": {"minute": [1767225600000], "source": ["gw-3"], **{name: [count] for name, count in _COUNTS.items()}},
    "next_cursor": None,
}


@router.get("/ledger", response_model=LedgerModel, responses=answers(_EXAMPLE, 422))
async def ledger(service: ServiceDep, caller: Reader, parameters: Annotated[LedgerParameters, Query()]) -> Response:
    """Counts by minute, hour or day of receipt and source, in pages, and their sums over the whole range.

    `minute` is the start of each row's bucket.
    """
    start, stop = parameters.start, parameters.stop
    if start is not None and stop is not None and start >= stop:
        raise invalid("from", f"must be before `to` ({rfc3339(stop)})")
    check_zone(parameters.tz)
    key = parameters.after(int, str)
    try:
        after = (from_us(key[0]), key[1]) if key else None
    except OverflowError:
        raise invalid("cursor", "not a cursor of this list") from None
    try:
        found = await ledger_rows.ledger(
            service.pool,
            parameters.source,
            caller.within,
            start=start,
            stop=stop,
            after=after,
            limit=parameters.limit + 1,
            bucket=_BUCKETS[parameters.bucket],
            zone=parameters.tz,
        )
    except RefusedDataError as exc:
        # The zone is the one text of a client that the database judges: its zones may be older than Python's.
        raise invalid("tz", f"the database does not know the zone {parameters.tz!r}") from exc
    page, next_cursor = page_of_columns(found, parameters.limit, "minute", "source")
    n = len(page.source)
    return answer(
        {
            "from": start and rfc3339(start),
            "to": stop and rfc3339(stop),
            "totals": {**asdict(found.totals), "balanced": found.totals.balanced},
            "count": n,
            "columns": {
                "minute": milliseconds(page.minute),
                "source": page.source,
                **{name: column[:n] for name, column in found.counts.items()},
            },
            "next_cursor": next_cursor,
        }
    )
