"""Query parameters: times, cursors, and the parameters of every list. Unknown ones are refused: a typo must not widen a query."""

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import numpy as np
import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from citybeat.api.http.problems import invalid

#: In a URL `+` means a space, and clients forget to write %2B. In the place of an offset's sign, a space can mean nothing else.
_RFC3339: Final = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?)([Zz]|[+\- ]\d\d:\d\d)?", re.ASCII)


def _instant(text: Any) -> datetime:
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if not match:
        raise ValueError("expected an RFC 3339 time, such as 2026-01-01T00:00:00Z")
    if match[2] is None:
        raise ValueError("a time needs an offset, such as Z or +07:00")
    try:
        return datetime.fromisoformat(match[1].upper() + match[2].upper().replace(" ", "+")).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ValueError(f"no such time: {exc}") from None


Instant = Annotated[datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
#: PostgreSQL's type text cannot hold NUL.
Text = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]


class Parameters(BaseModel):
    """Base of the parameters of every route."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Paged(Parameters):
    """Parameters of a list in pages."""

    limit: int = Field(1000, ge=1, le=10_000, description="Most entries in one answer.")
    cursor: str | None = Field(
        None,
        max_length=1000,
        description="`next_cursor` of the page before; the other parameters stay as they were.",
    )

    def after(self, *types: type) -> Any:
        """The key behind which this page begins: one value, or a tuple of several; None: it is the first page."""
        key = decode_cursor(self.cursor, *types)
        return None if key is None else key[0] if len(key) == 1 else tuple(key)


def encode_cursor(*key: str | int | np.integer[Any]) -> str:
    """The key of a page's last entry, opaque to clients."""
    return base64.urlsafe_b64encode(orjson.dumps(key, option=orjson.OPT_SERIALIZE_NUMPY)).decode().rstrip("=")


def decode_cursor(cursor: str | None, *types: type, where: str = "query") -> list[Any] | None:
    """The key that was given to `encode_cursor`; None without a cursor: from the beginning.

    Raises
    ------
    Problem
        It is not a cursor of this list.
    """
    if cursor is None:
        return None
    try:
        key = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError):
        key = None
    if (
        not isinstance(key, list)
        or [type(part) for part in key] != list(types)
        or any("\0" in part for part in key if type(part) is str)
    ):
        raise invalid("cursor", "not a cursor of this list; pass `next_cursor` of the page before as it is", where=where)
    return key
