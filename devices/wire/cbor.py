"""CBOR of untrusted senders: one whole value a payload, without the types that cbor2 would make of tags."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import cbor2

from citybeat.devices.errors import Reason
from citybeat.devices.wire.decoded import Finding

#: Containers within each other, the frame of `parse_all` included: an array of maps of plain values.
_FLAT: Final = 3
#: The same for what has tags, or arrays as keys, in its maps. It is read up to `_DEEP_BYTES` only: such keys could be made to
#: collide, which costs the square of their number.
_DEEP: Final = 8
_DEEP_BYTES: Final = 64 * 1024
_DETAIL: Final = 120  # characters of a parser's message that are kept


class _Tagged:
    """A value under a CBOR tag that SenML has no use for: no field takes it."""

    def __repr__(self) -> str:
        return "a tagged value"


class _Tags(Mapping[int, Callable[[Any], Any]]):
    """Decoders of tags: of cbor2's own, senders reach those of numbers only, not of regular expressions and the like.

    2 and 3 are large integers, 4 is a decimal fraction; 55799 says that this is CBOR.
    """

    def __getitem__(self, tag: int) -> Callable[[Any], Any]:
        if tag in {2, 3, 4}:
            raise KeyError(tag)
        return _content if tag == 55799 else _opaque

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 1


def _content(value: Any, *_: Any) -> Any:
    return value


def _opaque(*_: Any) -> _Tagged:
    return _Tagged()


_TAGS: Final = _Tags()


def parse_all(payloads: Sequence[bytes]) -> list[Any]:
    """CBOR of every payload; a `Finding` where there is none."""
    # cbor2 does not mind bytes behind the first value. So each payload is read as the first of two, the second of which is a number
    # that no sender can guess: it is in its place only if the payload is one whole value.
    mark = secrets.randbits(63) | 1 << 63
    end = b"\x1b" + mark.to_bytes(8, "big")
    return [_parse_one(payload, b"\x82" + payload + end, mark) for payload in payloads]


def _parse_one(payload: bytes, framed: bytes, mark: int) -> Any:
    if not payload:
        return Finding(Reason.MALFORMED, "no payload")
    try:
        try:
            parsed = cbor2.loads(framed, max_depth=_FLAT, semantic_decoders=_TAGS)
        except cbor2.CBORDecodeError:
            if len(payload) > _DEEP_BYTES:
                raise
            parsed = cbor2.loads(framed, max_depth=_DEEP, semantic_decoders=_TAGS)
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as exc:
        return Finding(Reason.MALFORMED, str(exc)[:_DETAIL])
    if parsed[1] != mark:
        return Finding(Reason.MALFORMED, "bytes behind the pack")
    return parsed[0]
