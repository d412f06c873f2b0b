"""Parsing of CBOR from untrusted senders: one whole value in each payload, without the types that cbor2 makes of tags."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import cbor2

from citybeat.devices.errors import Reason
from citybeat.devices.wire.decoded import Finding

#: Depth of nested containers, the frame of `parse_all` included: an array of maps of plain values.
_FLAT: Final = 3
#: Depth for payloads with tags, or with arrays as keys, in their maps. Only payloads up to `_DEEP_BYTES` are read so deep: a sender
#: can make such keys collide, which costs the square of their number.
_DEEP: Final = 8
_DEEP_BYTES: Final = 64 * 1024
_DETAIL: Final = 120  # characters of a parser's message that are kept


class _Tagged:
    """A value under a CBOR tag that SenML does not use; every field refuses it."""

    def __repr__(self) -> str:
        return "a tagged value"


class _Tags(Mapping[int, Callable[[Any], Any]]):
    """Decoders of tags. Senders reach cbor2's own decoders for numbers only, not those for regular expressions and the like.

    Tags 2 and 3 are large integers, 4 is a decimal fraction, and 55799 marks the content as CBOR.
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
    """Parse the CBOR of every payload; the result is a `Finding` for a payload that is not CBOR."""
    # cbor2 accepts bytes after the first value. Therefore each payload is framed as the first item of a pair whose second item is a
    # number that no sender can guess: the number is found in its place only if the payload is exactly one value.
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
        return Finding(Reason.MALFORMED, "bytes after the pack")
    return parsed[0]
