"""Parsing of the JSON of many messages at once. Senders are not trusted: no payload can affect the parsing of another."""

import json
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from citybeat.devices.errors import Reason
from citybeat.devices.wire.decoded import Finding

#: Bytes of payload that are parsed and flattened at once. The objects that orjson makes of them (eight times as many bytes) then
#: stay in the processor's cache until they are flattened: for 3 MB of reports, all at once took 1.2 times as long, message by
#: message 1.4 times; half and twice this size make no difference.
SLICE: Final = 64 * 1024
_DETAIL: Final = 120  # characters of a parser's message that are kept


def slices(payloads: Sequence[bytes]) -> Iterable[tuple[int, int]]:
    """Divide payloads into runs of about `SLICE` bytes; yields the start and end of each."""
    start = size = 0
    for i, payload in enumerate(payloads):
        size += len(payload)
        if size >= SLICE:
            yield start, i + 1
            start, size = i + 1, 0
    if start < len(payloads):
        yield start, len(payloads)


def parse_all(payloads: Sequence[bytes]) -> list[Any]:
    """Parse the JSON of every payload; the result is a `Finding` for a payload that is not JSON.

    All payloads are parsed as one array. A payload such as `1],[2` could make the whole parse as something else, and even give the
    right number of elements, so a number that no sender can guess stands between them: only if every second element is that number
    is each of the others one whole payload.
    """
    if len(payloads) > 1:
        mark = secrets.randbits(62)
        try:
            parsed = orjson.loads(b"[" + (b",%d," % mark).join(payloads) + b"]")
        except orjson.JSONDecodeError:
            pass
        else:
            if len(parsed) == 2 * len(payloads) - 1 and parsed[1::2].count(mark) == len(payloads) - 1:
                whole: list[Any] = parsed[::2]
                return whole
    return list(map(_parse, payloads))


def _parse(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return _parse_leniently(payload)


def _parse_leniently(payload: bytes) -> Any:
    """Parse JSON as Python does: NaN, Infinity and numbers beyond float64, which Python's and C's printers write, are accepted.

    A sensor without a proper value does not make its message malformed.
    """
    try:
        return json.loads(payload.decode("utf-8"))
    except UnicodeDecodeError as exc:
        return Finding(Reason.INVALID_UTF8, f"byte {exc.start} is not UTF-8")
    except (ValueError, RecursionError) as exc:
        return Finding(Reason.MALFORMED, str(exc)[:_DETAIL] if payload.strip() else "no payload")
