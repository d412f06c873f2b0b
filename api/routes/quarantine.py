"""Quarantined messages: a list, one message with its payload, and a retry."""

import asyncio
import base64
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Path, Query, Response
from pydantic import Field

from citybeat.api.http import problems
from citybeat.api.http.answers import answer
from citybeat.api.http.auth import Admin, Reader
from citybeat.api.http.gate import Caller
from citybeat.api.http.models import QuarantinedDetailModel, QuarantineModel, ReplayedModel
from citybeat.api.http.openapi import answers
from citybeat.api.http.params import Instant, Paged, Parameters, Text, decode_cursor, encode_cursor
from citybeat.api.http.problems import invalid
from citybeat.api.http.readings_writer import not_taken, told, told_reason
from citybeat.api.routes.service import ServiceDep
from citybeat.devices.clock import rfc3339
from citybeat.devices.errors import Reason
from citybeat.devices.ledger import OUTCOMES
from citybeat.storage.accounts import quarantine as store
from citybeat.storage.accounts.quarantine import Filter, Row

router: Final = APIRouter(prefix="/v1", tags=["accounts"])
#: Refused readings that a list shows of each message.
_SHOWN: Final = 10
#: Messages of one retry: each of its transactions has a fifth of them, for which their sources wait.
_MAX_REPLAY: Final = 1000
#: The largest id: the column is an int8.
_LARGEST: Final = 2**63 - 1


class QuarantineParameters(Paged):
    """Filters of messages, and the page."""

    source: Text | None = Field(None, description="Only of this source.")
    reason: Reason | None = Field(None, description="Only messages with this reason.")
    start: Instant | None = Field(None, alias="from", description="Received at this time or later; RFC 3339 with an offset.")
    stop: Instant | None = Field(None, alias="to", description="Received before this time.")
    limit: int = Field(100, ge=1, le=1000, description="Most messages in one answer.")


class ReplayBody(Parameters):
    """Filters of the messages to retry, and how many."""

    source: Text | None = Field(None, description="Only of this source.")
    reason: Reason | None = Field(None, description="Only messages with this reason.")
    start: Instant | None = Field(None, alias="from", description="Received at this time or later; RFC 3339 with an offset.")
    stop: Instant | None = Field(None, alias="to", description="Received before this time.")
    limit: int = Field(200, ge=1, le=_MAX_REPLAY, description="Most messages that are retried.")
    cursor: str | None = Field(
        None, max_length=1000, description="`next_cursor` of the answer before, to go on behind its messages."
    )


_ROW: Final[dict[str, Any]] = {
    "id": 17,
    "received_at": "2026-01-01T00:00:02.5Z",
    "source": "gw-01",
    "topic": "city/v1/gw-01/readings",
    "reasons": ["unknown_device"],
    "readings": 1,
    "bytes": 71,
    "refused": [{"index": 0, "reason": "unknown_device", "detail": "no device 'env-0o07' is registered"}],
    "refused_left_out": 0,
}
_PAGE: Final[dict[str, Any]] = {"count": 1, "messages": [_ROW], "next_cursor": None}
_DETAIL: Final[dict[str, Any]] = {
    **_ROW,
    "resolved_at": None,
    "encoding": "utf-8",
    "payload": '{"device":"env-0o07","ts":1767225600000,"values":{"temperature":28.1}}',
}
_REPLAYED: Final[dict[str, Any]] = {
    "messages": 200,
    "stored": 198,
    "duplicate": 0,
    "conflict": 0,
    "missing": 1,
    "quarantined": 1,
    "unreadable": 0,
    "more": True,
    "next_cursor": "WzIxN10",
}


@router.get(
    "/quarantine",
    response_model=QuarantineModel,
    responses=answers(_PAGE, 422),
)
async def quarantine(service: ServiceDep, caller: Reader, parameters: Annotated[QuarantineParameters, Query()]) -> Response:
    """Messages with refused readings that are not stored since, oldest first, in pages.

    A restricted key sees messages of the sources whose ledger it sees.
    """
    found = await store.page(
        service.pool,
        _filter(parameters),
        caller.within,
        after=_after(parameters.cursor),
        limit=parameters.limit + 1,
    )
    page = found[: parameters.limit]
    cursor = encode_cursor(page[-1].id) if len(found) > len(page) else None
    return answer({"count": len(page), "messages": [_shown(row, caller, _SHOWN) for row in page], "next_cursor": cursor})


@router.get(
    "/quarantine/{id:int}",
    response_model=QuarantinedDetailModel,
    responses=answers(_DETAIL, 404, 422),
)
async def one(
    service: ServiceDep,
    caller: Reader,
    number: Annotated[int, Path(alias="id", ge=1, le=_LARGEST, description="Id of the message, as in the list.")],
) -> Response:
    """One message, resolved or not, with its payload and all its refusals."""
    row = await store.one_of(service.pool, number, caller.within)
    if row is None:
        raise problems.not_found(f"there is no message {number} in quarantine")
    payload = row.payload or b""
    try:
        encoding, text = "utf-8", payload.decode()
    except UnicodeDecodeError:
        encoding, text = "base64", base64.b64encode(payload).decode()
    resolved = None if row.resolved_at is None else rfc3339(row.resolved_at)
    whole = _shown(row, caller, len(row.refused))
    return answer({**whole, "resolved_at": resolved, "encoding": encoding, "payload": text})


@router.post(
    "/quarantine/replay",
    response_model=ReplayedModel,
    responses=answers(_REPLAYED, 400, 413, 422),
)
async def replay(
    service: ServiceDep,
    caller: Admin,  # noqa: ARG001 - only the scope matters
    body: Annotated[
        ReplayBody,
        Body(
            openapi_examples={
                "after devices were registered": {"value": {"reason": "unknown_device", "source": "gw-01"}},
                "the next ones": {"value": {"reason": "unknown_device", "source": "gw-01", "cursor": "WzIxN10"}},
            }
        ),
    ],
) -> Response:
    """Retry refused readings of quarantined messages, oldest first, for example after their devices were registered.

    Readings that are refused again stay, with the present reasons. The ledger is corrected in the minute of receipt. Retrying more
    than once does no harm.
    """
    if service.replay is None:
        raise not_taken("this server does not retry messages")
    counts, last = await asyncio.to_thread(service.replay, _filter(body), after=_after(body.cursor, where="body"), limit=body.limit)
    told_counts = {name: counts.get(name, 0) for name in ("messages", *OUTCOMES, "unreadable")}
    return answer({**told_counts, "more": last is not None, "next_cursor": None if last is None else encode_cursor(last)})


def _filter(asked: QuarantineParameters | ReplayBody) -> Filter:
    if asked.start is not None and asked.stop is not None and asked.start >= asked.stop:
        where = "body" if isinstance(asked, ReplayBody) else "query"
        raise invalid("from", f"must be before `to` ({rfc3339(asked.stop)})", where=where)
    return Filter(reason=asked.reason, source=asked.source, since=asked.start, until=asked.stop)


def _after(cursor: str | None, *, where: str = "query") -> int:
    key = decode_cursor(cursor, int, where=where)
    return 0 if key is None else max(0, min(int(key[0]), _LARGEST))


def _shown(row: Row, caller: Caller, most: int) -> dict[str, Any]:
    refused = told(row.refused[:most], caller.within)
    return {
        "id": row.id,
        "received_at": rfc3339(row.received_at),
        "source": row.source,
        "topic": row.topic,
        "reasons": sorted({told_reason(reason, caller.within) for reason in row.reasons}),
        "readings": row.readings,
        "bytes": row.size,
        "refused": [{"index": entry.reading, "reason": entry.reason, "detail": entry.detail} for entry in refused],
        "refused_left_out": len(row.refused) - len(refused),
    }
