"""Messages to readings: topics, channels, and the wire formats of `devices`. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from devices import wire
from devices.batch import Int32, Int64
from devices.decoded import Decoded, Refusal
from devices.errors import Reason
from ingest.message import Message, address

STATUSES: Final = {b"online": "online", b"offline": "offline"}
#: Bytes of a too large payload that are kept: enough to see what it was.
_HEAD_OF_TOO_LARGE: Final = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Decodable:
    """m messages and what was read of them. A message is either refused as a whole, or a status, or has readings."""

    messages: Sequence[Message]
    sources: Sequence[str | None]  # (m,) name; None: the topic names none
    received_at: Int64  # (m,) us
    decoded: Decoded  # `message` counts in `messages`
    statuses: Sequence[tuple[int, str]]  # (message, online | offline)


def decode(messages: Sequence[Message], *, max_bytes: int) -> Decodable:
    """Read messages of any channel.

    Parameters
    ----------
    messages : sequence of Message, length m
    max_bytes : int
        A larger payload is refused unread.
    """
    known = {topic: address(topic) for topic in {message.topic for message in messages}}
    addresses = [known[message.topic] for message in messages]
    refused: list[Refusal] = []
    statuses: list[tuple[int, str]] = []
    readable: list[int] = []
    for i, (message, place) in enumerate(zip(messages, addresses, strict=True)):
        channel = place[1] if place else None
        if channel == "readings" and len(message.payload) <= max_bytes:
            readable.append(i)
        elif channel == "status" and message.payload in STATUSES:
            statuses.append((i, STATUSES[message.payload]))
        else:
            refused.append(_refusal(i, message, channel, max_bytes))
    received_at = np.array([message.received_at for message in messages], np.int64)
    inner = wire.decode(
        [messages[i].payload for i in readable],
        [place[0] for i in readable if (place := addresses[i])],
        received_at[readable],
    )
    return Decodable(
        messages=messages,
        sources=[place[0] if place else None for place in addresses],
        received_at=received_at,
        decoded=_outer(inner, np.array(readable, np.int32), len(messages), refused),
        statuses=statuses,
    )


def evidence(message: Message, reason: Reason) -> bytes:
    """What is kept of a refused payload: all of it, or the head of one that was too large."""
    return message.payload[:_HEAD_OF_TOO_LARGE] if reason is Reason.TOO_LARGE else message.payload


def _refusal(i: int, message: Message, channel: str | None, max_bytes: int) -> Refusal:
    if channel is None:
        reason, detail = Reason.UNKNOWN_TOPIC, f"expected city/v1/{{source}}/{{channel}}, not {message.topic[:200]!r}"
    elif channel == "status":
        reason, detail = Reason.BAD_STATUS, f"expected online or offline, not {message.payload[:40]!r}"
    elif channel == "readings":
        reason, detail = Reason.TOO_LARGE, f"{len(message.payload)} bytes; at most {max_bytes} are read"
    else:
        reason, detail = Reason.UNKNOWN_CHANNEL, f"no channel {channel[:64]!r}; known are readings, status"
    return Refusal(message=i, index=None, reason=reason, detail=detail)


def _outer(inner: Decoded, where: Int32, m: int, refused: list[Refusal]) -> Decoded:
    """What was decoded of some of m messages, counted in all of them."""
    received = np.zeros(m, np.int32)
    seq = np.full(m, -1, np.int64)
    boot = [""] * m
    received[where], seq[where] = inner.received, inner.seq
    for i, name in zip(where.tolist(), inner.boot, strict=True):
        boot[i] = name
    moved = [Refusal(message=int(where[r.message]), index=r.index, reason=r.reason, detail=r.detail) for r in inner.refused]
    return Decoded(
        device=inner.device,
        metric=inner.metric,
        time=inner.time,
        value=inner.value,
        flags=inner.flags,
        message=where[inner.message] if len(where) else inner.message,
        index=inner.index,
        received=received,
        seq=seq,
        boot=boot,
        refused=refused + moved,
    )
