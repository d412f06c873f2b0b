"""MQTT packets as bytes, of both versions in use (3.1.1 and 5): what a publisher at QoS 1 says, and what it is told.

Pure: no socket, no clock. Only what a load generator needs, and many packets at a time: PUBLISH packets lie one behind the other
in one buffer, into which NumPy writes their identifiers, and answers are read from the receive buffer as arrays. What a broker
says is checked for shape; anything that a publisher cannot be told is a `ProtocolError`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Int64
from citybeat.simulator.errors import ProtocolError

UInt8 = NDArray[np.uint8]


class Version(IntEnum):
    """Protocol level, as CONNECT has it."""

    V311 = 4
    V5 = 5


class Kind(IntEnum):
    """The first byte of a packet; its lower half is flags, which only PUBLISH has a choice of."""

    CONNECT = 0x10
    CONNACK = 0x20
    PUBLISH = 0x32  # QoS 1
    PUBACK = 0x40
    PINGREQ = 0xC0
    PINGRESP = 0xD0
    DISCONNECT = 0xE0


PING: Final = bytes([Kind.PINGREQ, 0])
GOODBYE: Final = bytes([Kind.DISCONNECT, 0])
MAX_ID: Final = 65_535
#: Bytes behind the first, and of a packet's rest, at most (four digits of base 128).
_MAX_LENGTH: Final = 268_435_455
_USERNAME, _PASSWORD, _CLEAN = 0x80, 0x40, 0x02  # flags of CONNECT
#: "Request problem information" = 0: a PUBACK then comes without a sentence, and is short.
_NO_SENTENCES: Final = bytes([2, 0x17, 0])
#: Lengths of properties by their identifier (MQTT 5, table 2-4): bytes; 0: a string or bytes with two bytes of length; -1: two.
_PROPERTIES: Final = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
    **dict.fromkeys((0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F), 0),
    0x26: -1,
}
_KEEPALIVE, _RECEIVE_MAXIMUM, _MAXIMUM_QOS, _MAXIMUM_SIZE = 0x13, 0x21, 0x24, 0x27

NOBODY_LISTENS: Final = 0x10
#: From here on a reason code says that something was refused.
FAILURE: Final = 0x80
#: Reason codes of MQTT 5 that a publisher may be told (section 2.4), in the standard's words.
_REASONS: Final = {
    0x00: "Success",
    0x10: "No matching subscribers",
    0x80: "Unspecified error",
    0x81: "Malformed packet",
    0x82: "Protocol error",
    0x83: "Implementation specific error",
    0x84: "Unsupported protocol version",
    0x85: "Client identifier not valid",
    0x86: "Bad user name or password",
    0x87: "Not authorized",
    0x88: "Server unavailable",
    0x89: "Server busy",
    0x8A: "Banned",
    0x8B: "Server shutting down",
    0x8C: "Bad authentication method",
    0x8D: "Keep alive timeout",
    0x8E: "Session taken over",
    0x90: "Topic name invalid",
    0x91: "Packet identifier in use",
    0x93: "Receive maximum exceeded",
    0x95: "Packet too large",
    0x96: "Message rate too high",
    0x97: "Quota exceeded",
    0x98: "Administrative action",
    0x99: "Payload format invalid",
    0x9A: "Retain not supported",
    0x9B: "QoS not supported",
    0x9C: "Use another server",
    0x9D: "Server moved",
    0x9F: "Connection rate exceeded",
}
#: CONNACK of MQTT 3.1.1 (section 3.2.2.3), as the reason that MQTT 5 has for the same.
_OLD_REASONS: Final = {0: 0x00, 1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}
#: After these connecting again is no use.
HOPELESS: Final = frozenset({0x81, 0x82, 0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x90, 0x93, 0x95, 0x9B, 0x9C, 0x9D})


def reason_name(code: int) -> str:
    """A reason code in words."""
    return _REASONS.get(code, f"reason 0x{code:02x}")


# --- what is said --------------------------------------------------------------------------------------------------------------


def connect(version: Version, client_id: str, *, username: str | None, password: str | None, keepalive: int) -> bytes:
    """CONNECT with a clean session, which ends with the connection.

    Parameters
    ----------
    version : Version
    client_id : str
    username, password : str or None
        None: not sent. MQTT 3.1.1 allows no password without a user name.
    keepalive : int
        Seconds.
    """
    flags = _CLEAN | (_USERNAME if username is not None else 0) | (_PASSWORD if password is not None else 0)
    body = _text("MQTT") + bytes([version, flags]) + keepalive.to_bytes(2, "big")
    if version is Version.V5:
        body += _NO_SENTENCES
    body += _text(client_id)
    for text in (username, password):
        body += b"" if text is None else _text(text)
    return bytes([Kind.CONNECT]) + _length(len(body)) + body


@dataclass(frozen=True, slots=True)
class Frame:
    """How messages of one topic become PUBLISH packets."""

    version: Version
    topic: str

    def head(self, size: int) -> tuple[bytes, int]:
        """What stands before a payload of `size` bytes, with the identifier 0; and where in it the identifier is."""
        topic = _text(self.topic)
        tail = b"\0\0\0" if self.version is Version.V5 else b"\0\0"  # the identifier, and no properties
        first = bytes([Kind.PUBLISH]) + _length(len(topic) + len(tail) + size) + topic
        return first + tail, len(first)

    def pack(self, payloads: Sequence[bytes], readings: int | Sequence[int] = 1) -> "Packets":
        """Many messages, one behind the other.

        Parameters
        ----------
        payloads : sequence of bytes
        readings : int or sequence of int
            In each message; only counted.
        """
        heads: dict[int, tuple[bytes, int]] = {}
        parts: list[bytes] = []
        start = np.zeros(len(payloads) + 1, np.int64)
        offset = np.empty(len(payloads), np.int64)
        at = 0
        for i, payload in enumerate(payloads):
            size = len(payload)
            if size not in heads:
                heads[size] = self.head(size)
            head, where = heads[size]
            parts += (head, payload)
            offset[i] = at + where
            at += len(head) + size
            start[i + 1] = at
        data = np.frombuffer(bytearray().join(parts), np.uint8)
        return Packets(data=data, start=start, id_at=offset, readings=np.full(len(payloads), readings, np.int64))


@dataclass(frozen=True, kw_only=True, slots=True)
class Packets:
    """PUBLISH packets in one buffer."""

    data: UInt8  # (bytes,) writable
    start: Int64  # (n + 1,) where each begins, and where the last one ends
    id_at: Int64  # (n,) where each has its identifier, two bytes
    readings: Int64  # (n,) in each

    def __len__(self) -> int:
        return len(self.id_at)

    def write_ids(self, first: int, ids: Int64) -> None:
        """Write identifiers into the packets from number `first` on."""
        at = self.id_at[first : first + len(ids)]
        self.data[at] = ids >> 8
        self.data[at + 1] = ids & 0xFF

    def take(self, which: Int64) -> Self:
        """Some of them, copied."""
        sizes = np.diff(self.start)[which]
        start = np.concatenate(([0], np.cumsum(sizes)))
        parts = [self.data[self.start[i] : self.start[i + 1]] for i in which.tolist()]
        return type(self)(
            data=np.concatenate(parts) if parts else np.empty(0, np.uint8),
            start=start,
            id_at=start[:-1] + (self.id_at - self.start[:-1])[which],
            readings=self.readings[which],
        )

    @classmethod
    def joined(cls, several: Sequence["Packets"]) -> "Packets":
        """All of them, copied, one behind the other."""
        shift = np.concatenate(([0], np.cumsum([part.start[-1] for part in several]))).astype(np.int64)
        return cls(
            data=np.concatenate([part.data for part in several]),
            start=np.concatenate([[0], *(part.start[1:] + by for part, by in zip(several, shift, strict=False))]).astype(np.int64),
            id_at=np.concatenate([part.id_at + by for part, by in zip(several, shift, strict=False)]),
            readings=np.concatenate([part.readings for part in several]),
        )


# --- what is told --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Welcome:
    """CONNACK."""

    reason: int  # of MQTT 5, whatever the version
    receive_maximum: int = MAX_ID  # messages that may be without an answer
    maximum_size: int | None = None  # bytes a packet; None: no limit
    maximum_qos: int = 2
    keepalive: int | None = None  # s; None: as asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What one look into the receive buffer told."""

    ids: Int64  # (n,) of acknowledged packets, in the order of their acknowledgements
    reasons: UInt8  # (n,)
    others: list[tuple[int, bytes]]  # first byte and rest of what is no PUBACK
    used: int  # bytes; what follows is not complete yet


def answers(data: bytes | bytearray | memoryview) -> Answers:
    """Read what a broker sent after CONNACK.

    Raises
    ------
    ProtocolError
        It is no MQTT.
    """
    buffer = np.frombuffer(data, np.uint8)
    ids: list[Int64] = []
    reasons: list[UInt8] = []
    others: list[tuple[int, bytes]] = []
    at = 0
    while at + 2 <= len(buffer):
        if buffer[at] == Kind.PUBACK and 2 <= buffer[at + 1] < 0x80:
            # As many as follow each other with the same length: all of them, unless reasons differ.
            size = int(buffer[at + 1]) + 2
            rows = buffer[at : at + (len(buffer) - at) // size * size].reshape(-1, size)
            same = (rows[:, 0] == Kind.PUBACK) & (rows[:, 1] == size - 2)
            count = len(rows) if same.all() else int(same.argmin())
            if count == 0:
                break
            rows = rows[:count]
            ids.append(rows[:, 2].astype(np.int64) << 8 | rows[:, 3])
            reasons.append(rows[:, 4] if size > 4 else np.zeros(count, np.uint8))
            at += count * size
            continue
        length = _read_length(buffer, at + 1)
        if length is None or at + 1 + length[1] + length[0] > len(buffer):
            break
        body = at + 1 + length[1]
        others.append((int(buffer[at]), buffer[body : body + length[0]].tobytes()))
        at = body + length[0]
    return Answers(
        ids=np.concatenate(ids) if ids else np.empty(0, np.int64),
        reasons=np.concatenate(reasons) if reasons else np.empty(0, np.uint8),
        others=others,
        used=at,
    )


def welcome(version: Version, body: bytes) -> Welcome:
    """CONNACK without its first bytes.

    Raises
    ------
    ProtocolError
        It is none.
    """
    if len(body) < 2:
        raise ProtocolError("a CONNACK of less than two bytes")
    # A broker that knows MQTT 3.1.1 alone answers in its own way that it does not know 5.
    if version is Version.V311 or 0 < body[1] < FAILURE:
        return Welcome(reason=_OLD_REASONS.get(body[1], FAILURE))
    told = _properties(body[2:])
    return Welcome(
        reason=body[1],
        receive_maximum=told.get(_RECEIVE_MAXIMUM, MAX_ID),
        maximum_size=told.get(_MAXIMUM_SIZE),
        maximum_qos=told.get(_MAXIMUM_QOS, 2),
        keepalive=told.get(_KEEPALIVE),
    )


# --- pieces --------------------------------------------------------------------------------------------------------------------


def _text(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > 0xFFFF:
        raise ProtocolError(f"a text of {len(encoded)} bytes; MQTT takes at most 65,535")
    return len(encoded).to_bytes(2, "big") + encoded


def _length(length: int) -> bytes:
    if length > _MAX_LENGTH:
        raise ProtocolError(f"a packet of {length} bytes; MQTT takes at most 268,435,455")
    out = bytearray()
    while True:
        length, digit = divmod(length, 128)
        out.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(out)


def _read_length(data: UInt8 | bytes, at: int) -> tuple[int, int] | None:
    """A length, and how many bytes it takes; None: it is not complete."""
    length = 0
    for i in range(4):
        if at + i >= len(data):
            return None
        digit = int(data[at + i])
        length |= (digit & 0x7F) << 7 * i
        if not digit & 0x80:
            return length, i + 1
    raise ProtocolError("a packet's length has more than four digits: what answers there does not speak MQTT")


def _properties(data: bytes) -> dict[int, int]:
    """Properties that are numbers, by identifier."""
    found: dict[int, int] = {}
    length = _read_length(data, 0) if data else (0, 0)
    if length is None or sum(length) > len(data):
        raise ProtocolError("properties that are cut off")
    at, end = length[1], sum(length)
    while at < end:
        name, size = data[at], _PROPERTIES.get(data[at])
        if size is None:
            raise ProtocolError(f"a property 0x{name:02x}, which MQTT 5 does not have")
        at += 1
        if size > 0:
            found[name] = int.from_bytes(data[at : at + size], "big")
            at += size
        else:
            for _ in range(1 - size):
                at += 2 + int.from_bytes(data[at : at + 2], "big")
    if at != end:
        raise ProtocolError("properties that are cut off")
    return found
