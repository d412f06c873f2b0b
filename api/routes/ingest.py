"""Readings over HTTP: the payloads that MQTT takes, and files of history. Each answer has the ledger of its own readings.

A body becomes payloads as a source would publish them, each of which is one message: a body of JSON or SenML is one payload, a file
is divided into as many as needed. A body that cannot be read at all is refused and leaves no trace, since the answer says so and
nothing has been acknowledged. Readings that are refused are quarantined, as with MQTT.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID, uuid4, uuid5

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field

from citybeat.api.files import uploads
from citybeat.api.files.uploads import FileError, TooManyRowsError
from citybeat.api.http import problems
from citybeat.api.http.answers import answer
from citybeat.api.http.auth import Writer
from citybeat.api.http.bodies import UPLOAD, expected_size, too_large, unpacked
from citybeat.api.http.gate import Caller
from citybeat.api.http.models import PostedModel
from citybeat.api.http.models.accounts import POSTED
from citybeat.api.http.openapi import answers
from citybeat.api.http.params import Parameters
from citybeat.api.http.problems import Problem, invalid
from citybeat.api.http.readings_writer import not_taken, offered, told, told_reasons
from citybeat.api.routes.service import ServiceDep
from citybeat.devices.clock import rfc3339
from citybeat.devices.device import SOURCE_NAME
from citybeat.devices.wire.decoded import Refused
from citybeat.storage.batches.ingest_requests import MAX_REFUSED, IngestRequest, IngestResult
from citybeat.storage.registry import selection

router: Final = APIRouter(prefix="/v1", tags=["telemetry"])

#: Channels by the media types of bodies that are one payload.
CHANNELS: Final[Mapping[str, str]] = {
    "application/json": "readings",
    "application/senml+json": "senml",
    "application/senml+cbor": "senml-cbor",
}
#: Namespace of the ids that are derived from idempotency keys.
_NAMESPACE: Final = UUID("6a5f7f2e-5e0c-4f0e-9d57-0d5a3f0f6d0b")


class PostParameters(Parameters):
    """The source of the readings."""

    source: str = Field(
        max_length=64,
        description="The source that sends them, by its name at the broker. It may send readings of its own devices only.",
        examples=["gw-01"],
    )


_EXAMPLE: Final[dict[str, Any]] = {
    "source": "gw-01",
    "received_at": "2026-01-01T00:00:02.5Z",
    "repeated": False,
    "ledger": {
        "messages": 1,
        "redelivered": 0,
        "received": 6,
        "stored": 3,
        "duplicate": 1,
        "conflict": 0,
        "missing": 1,
        "quarantined": 1,
    },
    "reasons": {"unknown_device": 1},
    "refused": [{"index": 5, "line": None, "reason": "unknown_device", "detail": "no device 'env-0o07' is registered"}],
    "refused_left_out": 0,
}
_BODIES: Final[dict[str, Any]] = {
    "application/json": {
        "schema": {"description": "A report, an array of reports, or columns; docs/mqtt.md is the contract."},
        "examples": {
            "report": {"value": {"device": "env-0007", "ts": 1767225600000, "values": {"pm25": 12.3, "temperature": 28.1}}},
            "columns": {
                "value": {"device": "env-0007", "metric": "pm25", "ts": [1767225600000, 1767225660000], "value": [12.3, 12.9]}
            },
        },
    },
    "application/senml+json": {"schema": {"type": "array"}, "example": [{"n": "env-0007:pm25", "t": 1767225600, "v": 12.3}]},
    "application/senml+cbor": {"schema": {"type": "string", "format": "binary"}},
    "text/csv": {
        "schema": {"type": "string"},
        "example": "time,device,metric,value\n2026-01-01T00:00:00Z,env-0007,pm25,12.3\n",
    },
    "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """One payload of a request."""

    channel: str
    payload: bytes
    first: int = 0  # position in the request of its first reading
    lines: bool = False  # its readings are lines of a file


@router.post(
    "/readings",
    response_model=PostedModel,
    responses=answers(_EXAMPLE, 404, 409, 413, 415, 422),
    openapi_extra={"requestBody": {"required": True, "content": _BODIES}},
)
async def post(
    service: ServiceDep,
    caller: Writer,
    request: Request,
    parameters: Annotated[PostParameters, Query()],
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=8,
            max_length=64,
            pattern=r"^[!-~]+$",
            description="Identifies this request. A request with the same key within a day gets the same answer, and nothing is "
            "stored or counted again, not even readings without a time.",
        ),
    ] = None,
    content_encoding: Annotated[str | None, Header(description="`gzip`, if the body is compressed.")] = None,
) -> Response:
    """Store readings of one source. Answered when they are committed, with the outcome of each.

    Clients must look at the answer: 200 says that every reading is accounted for, not that each was stored. Refused readings are in
    quarantine, and the first of them in `refused`. Without an `Idempotency-Key`, readings without a time of their own are stored
    again if they are sent again.
    """
    intake = service.intake
    if intake is None:
        raise not_taken("this server takes no readings")
    source = parameters.source
    if not SOURCE_NAME.fullmatch(source) or not await selection.source_is_seen(service.pool, source, caller.within):
        raise problems.not_found(f"there is no source {source!r}; registering a device to it creates it")
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in CHANNELS and kind not in uploads.READERS:
        known = ", ".join([*CHANNELS, *uploads.READERS])
        detail = f"there is {known}; not {kind[:80]!r}"
        raise Problem(415, "unsupported-media-type", "Unsupported media type", detail)
    with service.uploads.room(expected_size(request, content_encoding)):
        body = await unpacked(request, content_encoding)
        pieces = await asyncio.to_thread(_pieces, kind, body, intake.max_bytes)
        digest = hashlib.sha256(kind.encode() + b"\0" + body).digest()
        del body
        number = uuid4() if idempotency_key is None else uuid5(_NAMESPACE, f"{caller.id} {source} {idempotency_key}")
        offers = [
            IngestRequest(
                id=uuid5(number, str(i)),
                digest=digest,
                lasting=idempotency_key is not None,
                source=source,
                channel=piece.channel,
                payload=piece.payload,
            )
            for i, piece in enumerate(pieces)
        ]
        received_at = datetime.now(UTC)
        said = await offered(intake, offers)
    return answer({"source": source, "received_at": rfc3339(received_at), **_together(pieces, said, caller)})


def _pieces(kind: str, body: bytes, max_bytes: int) -> list[_Piece]:
    """The payloads of a body.

    Raises
    ------
    Problem
    """
    if kind in CHANNELS:
        if len(body) > max_bytes:
            raise too_large(f"{len(body)} bytes in one message of {kind}; send several, or a file of CSV or Parquet", max_bytes)
        return [_Piece(channel=CHANNELS[kind], payload=body)]
    try:
        found = uploads.READERS[kind](body, max_bytes=max_bytes)
    except TooManyRowsError as exc:
        raise too_large(str(exc), UPLOAD) from exc
    except FileError as exc:
        raise invalid("body", str(exc), where="body", slug="unreadable") from exc
    lines = kind == "text/csv"
    return [_Piece(channel="readings", payload=part.payload, first=part.first, lines=lines) for part in found]


def _together(pieces: Sequence[_Piece], said: Sequence[IngestResult], caller: Caller) -> dict[str, Any]:
    """The answers to all payloads of a request as one."""
    counts, reasons = Counter[str](), Counter[str]()
    refused: list[dict[str, Any]] = []
    for piece, each in zip(pieces, said, strict=True):
        counts.update(each.counts)
        reasons.update(each.reasons)
        refused += [_shown(piece, entry) for entry in told(each.refused, caller.within)]
    return {
        "repeated": any(each.repeated for each in said),
        "ledger": {name: counts[name] for name in POSTED},
        "reasons": told_reasons(reasons, caller.within),
        "refused": refused[:MAX_REFUSED],
        "refused_left_out": reasons.total() - len(refused[:MAX_REFUSED]),
    }


def _shown(piece: _Piece, entry: Refused) -> dict[str, Any]:
    place = None if entry.reading is None else piece.first + entry.reading
    # The first line is the header.
    line = place + 2 if piece.lines and place is not None else None
    return {"index": place, "line": line, "reason": entry.reason, "detail": entry.detail}
