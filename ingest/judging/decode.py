"""Decodes messages to readings: topics, channels, and the wire formats of `devices`. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from citybeat.devices.batch import Int32, Int64
from citybeat.devices.errors import Reason
from citybeat.devices.wire import reports, senml
from citybeat.devices.wire.decoded import Decoded, Refusal, joined
from citybeat.devices.wire.names import Names, flat
from citybeat.ingest.judging.message import Message, address

STATUSES: Final = {b"online": "online", b"offline": "offline"}
#: Decoder of each channel: from payloads, sources and times of receipt to `Decoded`.
FORMATS: Final[Mapping[str, Callable[[Sequence[bytes], Sequence[str], Int64], Decoded]]] = MappingProxyType(
    {"readings": reports.decode, "senml": senml.decode, "senml-cbor": senml.decode_cbor}
)
#: Bytes of a too large payload that are kept: enough to recognise it.
_HEAD_OF_TOO_LARGE: Final = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedBatch:
    """m messages and their readings. A message is refused as a whole, or is a status, or has readings."""

    messages: Sequence[Message]
    sources: Sequence[str | None]  # (m,) name; None: the topic names none
    received_at: Int64  # (m,) us
    decoded: Decoded  # `message` counts in `messages`
    statuses: Sequence[tuple[int, str]]  # (message, online | offline)


def decode(messages: Sequence[Message], *, max_bytes: int) -> DecodedBatch:
    """Decode messages of any channel.

    Parameters
    ----------
    messages : sequence of Message, length m
    max_bytes : int
        A larger payload is refused without being decoded.
    """
    known = {topic: address(topic) for topic in {message.topic for message in messages}}
    addresses = [known[message.topic] for message in messages]
    refused: list[Refusal] = []
    statuses: list[tuple[int, str]] = []
    readable: dict[str, list[int]] = {}  # messages by channel
    for i, (message, place) in enumerate(zip(messages, addresses, strict=True)):
        channel = place[1] if place else None
        if channel is not None and channel in FORMATS and len(message.payload) <= max_bytes:
            readable.setdefault(channel, []).append(i)
        elif channel == "status" and message.payload in STATUSES:
            statuses.append((i, STATUSES[message.payload]))
        else:
            refused.append(_refusal(i, message, channel, max_bytes))
    received_at = np.array([message.received_at for message in messages], np.int64)
    parts: list[tuple[Decoded, Int32]] = []
    for channel, which in readable.items():
        payloads = [messages[i].payload for i in which]
        sources = [place[0] for i in which if (place := addresses[i])]
        parts.append((FORMATS[channel](payloads, sources, received_at[which]), np.array(which, np.int32)))
    return DecodedBatch(
        messages=messages,
        sources=[place[0] if place else None for place in addresses],
        received_at=received_at,
        decoded=_together(parts, len(messages), refused),
        statuses=statuses,
    )


def evidence(message: Message, reason: Reason) -> bytes:
    """The part of a refused payload that is kept: all of it, or the head of one that was too large."""
    return message.payload[:_HEAD_OF_TOO_LARGE] if reason is Reason.TOO_LARGE else message.payload


def _refusal(i: int, message: Message, channel: str | None, max_bytes: int) -> Refusal:
    if channel is None:
        reason, detail = Reason.UNKNOWN_TOPIC, f"expected city/v1/{{source}}/{{channel}}, not {message.topic[:200]!r}"
    elif channel == "status":
        reason, detail = Reason.BAD_STATUS, f"expected online or offline, not {message.payload[:40]!r}"
    elif channel in FORMATS:
        reason, detail = Reason.TOO_LARGE, f"{len(message.payload)} bytes; at most {max_bytes} are accepted"
    else:
        reason, detail = Reason.UNKNOWN_CHANNEL, f"no channel {channel[:64]!r}; channels are {', '.join(FORMATS)}, status"
    return Refusal(message=i, index=None, reason=reason, detail=detail)


def _together(parts: Sequence[tuple[Decoded, Int32]], m: int, refused: list[Refusal]) -> Decoded:
    """Join the parts of m messages that were decoded channel by channel, in order of arrival; each comes with its messages."""
    received = np.zeros(m, np.int32)
    seq = np.full(m, -1, np.int64)
    boot = [""] * m
    for part, which in parts:
        received[which], seq[which] = part.received, part.seq
        for i, name in zip(which.tolist(), part.boot, strict=True):
            boot[i] = name
        refused += [replace(refusal, message=int(which[refusal.message])) for refusal in part.refused]
    rows = [part for part, _ in parts]
    message: Int32 = joined([which[part.message] for part, which in parts], np.int32)
    units = any(part.unit for part in rows)
    unit = list(chain.from_iterable(part.unit or [""] * len(part.time) for part in rows)) if units else []
    names = list(chain.from_iterable(part.names for part in rows))
    columns: dict[str, Any] = {
        "time": joined([part.time for part in rows], np.int64),
        "value": joined([part.value for part in rows], np.float64),
        "flags": joined([part.flags for part in rows], np.int16),
        "message": message,
        "index": joined([part.index for part in rows], np.int32),
    }
    if len(rows) > 1:
        order = np.argsort(message, kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
        unit = [unit[row] for row in order.tolist()] if units else []
        names = _in_order(names, message, order)
    return Decoded(names=names, unit=unit, received=received, seq=seq, boot=boot, refused=refused, **columns)


def _in_order(names: list[Names], message: Int32, order: Int64) -> list[Names]:
    """Names of rows, reordered as their messages."""
    if all(piece.text for piece in names):  # each belongs to one message
        starts = np.cumsum([0, *(piece.count for piece in names)])[:-1]
        return [names[i] for i in np.argsort(message[starts], kind="stable").tolist()]
    device, metric = flat(names)
    return [Names.of([device[row] for row in order.tolist()], [metric[row] for row in order.tolist()])]
