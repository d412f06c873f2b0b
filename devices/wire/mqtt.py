"""MQTT packets as bytes, of both versions in use (3.1.1 and 5): packing what a client sends, and parsing what a broker sends.

Pure: no socket, no clock. The one codec of the project: ingest takes messages out of its stream with it, the simulator publishes
with it, and the benchmarks measure with it. It knows the packets that these need, not all of MQTT.

Where speed matters many packets are handled at a time. PUBLISH packets lie one behind the other in one buffer, into which NumPy
writes their identifiers (`Packets`); PUBACK packets are read from a receive buffer as arrays (`answers`). References to sections
are to the standard of MQTT 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Int64
from citybeat.devices.errors import CitybeatError

UInt8 = NDArray[np.uint8]


class MalformedPacketError(CitybeatError, ConnectionError):
    """The peer sent invalid MQTT. A ConnectionError, since the only remedy is to give up the connection."""


class TooLongError(CitybeatError, ValueError):
    """A text or a packet is longer than MQTT can say."""


class Version(IntEnum):
    """Protocol level, as CONNECT has it."""

    V311 = 4
    V5 = 5


class Kind(IntEnum):
    """First byte of a packet: its type in the upper half, in the lower half flags, which only PUBLISH has a choice of."""

    CONNECT = 0x10
    CONNACK = 0x20
    PUBLISH = 0x30  # flags: DUP, QOS_1, RETAIN
    PUBACK = 0x40
    SUBSCRIBE = 0x82
    SUBACK = 0x90
    PINGREQ = 0xC0
    PINGRESP = 0xD0
    DISCONNECT = 0xE0


DUP, QOS_1, RETAIN = 0x08, 0x02, 0x01  # flags of PUBLISH
PING: Final = bytes([Kind.PINGREQ, 0])
GOODBYE: Final = bytes([Kind.DISCONNECT, 0])
MAX_ID: Final = 65_535
#: Largest number of a variable-length integer, and how many bytes it takes at most.
_MAX_LENGTH: Final = 268_435_455
_LENGTH_BYTES: Final = 4
_USERNAME, _PASSWORD, _WILL, _CLEAN = 0x80, 0x40, 0x04, 0x02  # flags of CONNECT
#: Lengths of properties by their identifier (table 2-4): bytes; 0: a string or bytes with two bytes of length; -1: two of them.
_PROPERTIES: Final = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
    **dict.fromkeys((0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F), 0),
    0x26: -1,
}
_EXPIRY, _KEEPALIVE, _PROBLEMS, _RECEIVE_MAXIMUM, _MAXIMUM_QOS, _MAXIMUM_SIZE = 0x11, 0x13, 0x17, 0x21, 0x24, 0x27
#: A PUBACK without reason and properties, which means success: type, length, and the identifier (section 3.4).
_ACK: Final = np.dtype([("head", ">u2"), ("mid", ">u2")])
_ACK_HEAD: Final = Kind.PUBACK << 8 | 2

NOBODY_LISTENS: Final = 0x10
#: Reason codes from here on mean that something was refused.
FAILURE: Final = 0x80
#: Reason codes that a publisher may get (section 2.4), in the standard's words.
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
#: CONNACK of MQTT 3.1.1 (its section 3.2.2.3), as the reason that MQTT 5 has for the same.
_OLD_REASONS: Final = {0: 0x00, 1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}
#: Reason codes after which it is no use to connect again.
HOPELESS: Final = frozenset({0x81, 0x82, 0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x90, 0x93, 0x95, 0x9B, 0x9C, 0x9D})


def reason_name(code: int) -> str:
    """Return a reason code in words."""
    return _REASONS.get(code, f"reason 0x{code:02x}")


# --- integers and texts --------------------------------------------------------------------------------------------------------


def packed_number(value: int) -> bytes:
    r"""Pack an integer of variable length (section 1.5.5).

    Raises
    ------
    TooLongError
        It needs more than four bytes.

    Examples
    --------
    >>> packed_number(127), packed_number(128)
    (b'\x7f', b'\x80\x01')
    """
    if value > _MAX_LENGTH:
        raise TooLongError(f"a packet of {value} bytes is too long: MQTT takes at most 268,435,455")
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def number(data: bytes | bytearray | memoryview, at: int) -> tuple[int, int]:
    """Read an integer of variable length, and where it ends: (0, 0) if it is not complete (section 1.5.5).

    Raises
    ------
    MalformedPacketError
        It has more than four bytes.

    Examples
    --------
    >>> number(bytes([0x80, 0x01, 7]), 0), number(bytes([0x80]), 0)
    ((128, 2), (0, 0))
    """
    value = 0
    for place in range(at, min(at + _LENGTH_BYTES, len(data))):
        byte = data[place]
        value |= (byte & 0x7F) << 7 * (place - at)
        if byte < 0x80:
            return value, place + 1
    if len(data) - at >= _LENGTH_BYTES:
        raise MalformedPacketError("a packet's length has more than four bytes: the broker does not speak MQTT")
    return 0, 0


def packet_end(data: bytes | bytearray | memoryview, at: int) -> tuple[int, int]:
    """Find where the body of the packet at `at` begins, and where it ends: (0, 0) if its length is not complete.

    Raises
    ------
    MalformedPacketError
        Its length is malformed.
    """
    length, body = number(data, at + 1)
    return body, body + length


def _text(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > 0xFFFF:
        raise TooLongError(f"a text of {len(encoded)} bytes is too long: MQTT takes at most 65,535")
    return len(encoded).to_bytes(2, "big") + encoded


# --- packing -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Will:
    """The message that the broker publishes, retained, when the connection ends without a DISCONNECT."""

    topic: str
    payload: str


def connect(
    version: Version,
    client_id: str,
    *,
    username: str | None,
    password: str | None,
    keepalive: int,
    will: Will | None = None,
    expiry: int = 0,
    receive_maximum: int = MAX_ID,
) -> bytes:
    """Pack a CONNECT with a clean session.

    Parameters
    ----------
    version : Version
    client_id : str
    username, password : str or None
        None: not sent. MQTT 3.1.1 allows no password without a user name.
    keepalive : int
        Seconds.
    will : Will, optional
        Published at QoS 1.
    expiry : int
        Seconds that the broker keeps the session after the connection (MQTT 5).
    receive_maximum : int
        Messages that the broker may send without an acknowledgement (MQTT 5).
    """
    flags = _CLEAN | (_USERNAME if username is not None else 0) | (_PASSWORD if password is not None else 0)
    if will is not None:
        flags |= _WILL | QOS_1 << 2 | RETAIN << 5
    body = _text("MQTT") + bytes([version, flags]) + keepalive.to_bytes(2, "big")
    if version is Version.V5:
        # No "problem information": a PUBACK then comes without a sentence, and is short.
        properties = bytes([_PROBLEMS, 0])
        if expiry:
            properties += bytes([_EXPIRY]) + expiry.to_bytes(4, "big")
        if receive_maximum < MAX_ID:
            properties += bytes([_RECEIVE_MAXIMUM]) + receive_maximum.to_bytes(2, "big")
        body += packed_number(len(properties)) + properties
    body += _text(client_id)
    if will is not None:
        body += (b"\0" if version is Version.V5 else b"") + _text(will.topic) + _text(will.payload)
    for text in (username, password):
        body += b"" if text is None else _text(text)
    return bytes([Kind.CONNECT]) + packed_number(len(body)) + body


def subscribe(topic: str) -> bytes:
    """Pack a SUBSCRIBE of MQTT 5 with identifier 1, to one filter at QoS 1."""
    body = b"\0\1\0" + _text(topic) + b"\1"
    return bytes([Kind.SUBSCRIBE]) + packed_number(len(body)) + body


def acknowledgements(mids: Sequence[int]) -> bytes:
    """Pack a PUBACK of success for each identifier, in this order."""
    packets = np.empty(len(mids), _ACK)
    packets["head"], packets["mid"] = _ACK_HEAD, mids
    return packets.tobytes()


@dataclass(frozen=True, slots=True)
class Frame:
    """Turns messages of one topic into PUBLISH packets at QoS 1."""

    version: Version
    topic: str
    retain: bool = False

    def head(self, size: int) -> tuple[bytes, int]:
        """Return the bytes before a payload of `size` bytes, with the identifier 0, and where in them the identifier is."""
        topic = _text(self.topic)
        tail = b"\0\0\0" if self.version is Version.V5 else b"\0\0"  # the identifier, and no properties
        kind = Kind.PUBLISH | QOS_1 | (RETAIN if self.retain else 0)
        first = bytes([kind]) + packed_number(len(topic) + len(tail) + size) + topic
        return first + tail, len(first)

    def packet(self, mid: int, payload: bytes) -> bytes:
        """Pack one message with its identifier."""
        head, at = self.head(len(payload))
        return head[:at] + mid.to_bytes(2, "big") + head[at + 2 :] + payload

    def pack(self, payloads: Sequence[bytes], readings: int | Sequence[int] = 1) -> "Packets":
        """Pack many messages, one behind the other.

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
        """Copy some of the packets."""
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
        """Copy the packets of several buffers into one, one behind the other."""
        shift = np.concatenate(([0], np.cumsum([part.start[-1] for part in several]))).astype(np.int64)
        return cls(
            data=np.concatenate([part.data for part in several]),
            start=np.concatenate([[0], *(part.start[1:] + by for part, by in zip(several, shift, strict=False))]).astype(np.int64),
            id_at=np.concatenate([part.id_at + by for part, by in zip(several, shift, strict=False)]),
            readings=np.concatenate([part.readings for part in several]),
        )


# --- parsing -------------------------------------------------------------------------------------------------------------------


class Publication(NamedTuple):
    """Contents of a PUBLISH packet."""

    topic: bytes
    payload: bytes
    mid: int  # packet identifier; 0 with QoS 0
    qos: int
    dup: bool


def publication(data: bytes, at: int, body: int, end: int) -> Publication:
    """Read a PUBLISH packet of MQTT 5 (section 3.3): its first byte at `at`, the rest in [body, end). Its properties are skipped.

    Raises
    ------
    MalformedPacketError
        It ends before it should.
    """
    head = data[at]
    qos, mid = (head >> 1) & 3, 0
    try:
        topic_end = place = body + 2 + (data[body] << 8 | data[body + 1])
        if qos:
            mid = data[place] << 8 | data[place + 1]
            place += 2
        properties, place = number(data, place)
    except IndexError:
        properties = place = 0
    if not 0 < place <= end - properties:
        raise MalformedPacketError("the broker sent a PUBLISH packet that ends too early")
    return Publication(data[body + 2 : topic_end], data[place + properties : end], mid, qos, bool(head & DUP))


@dataclass(frozen=True, kw_only=True, slots=True)
class Welcome:
    """Contents of a CONNACK."""

    reason: int  # of MQTT 5, whatever the version
    receive_maximum: int = MAX_ID  # messages that may be without an answer
    maximum_size: int | None = None  # bytes a packet; None: no limit
    maximum_qos: int = 2
    keepalive: int | None = None  # s; None: as asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Packets of one receive buffer."""

    ids: Int64  # (n,) of acknowledged packets, in the order of their acknowledgements
    reasons: UInt8  # (n,)
    others: list[tuple[int, bytes]]  # first byte and body of every other packet
    used: int  # bytes; the packet that follows is not complete yet


def answers(data: bytes | bytearray | memoryview) -> Answers:
    """Read what a broker sends to a publisher.

    Raises
    ------
    MalformedPacketError
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
        body, end = packet_end(data, at)
        if not 0 < end <= len(buffer):
            break
        others.append((int(buffer[at]), buffer[body:end].tobytes()))
        at = end
    return Answers(
        ids=np.concatenate(ids) if ids else np.empty(0, np.int64),
        reasons=np.concatenate(reasons) if reasons else np.empty(0, np.uint8),
        others=others,
        used=at,
    )


def welcome(version: Version, body: bytes) -> Welcome:
    """Read the body of a CONNACK.

    Raises
    ------
    MalformedPacketError
        It is malformed.
    """
    if len(body) < 2:
        raise MalformedPacketError("the broker sent a CONNACK of less than two bytes")
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


def _properties(data: bytes) -> dict[int, int]:
    """Read the properties that are numbers, by identifier."""
    found: dict[int, int] = {}
    length, at = number(data, 0) if data else (0, len(data))
    end = at + length
    if (data and not at) or end > len(data):
        raise MalformedPacketError("the broker sent properties that are cut off")
    while at < end:
        name, size = data[at], _PROPERTIES.get(data[at])
        if size is None:
            raise MalformedPacketError(f"the broker sent a property 0x{name:02x}, which MQTT 5 does not have")
        at += 1
        if size > 0:
            found[name] = int.from_bytes(data[at : at + size], "big")
            at += size
        else:
            for _ in range(1 - size):
                at += 2 + int.from_bytes(data[at : at + 2], "big")
    if at != end:
        raise MalformedPacketError("the broker sent properties that are cut off")
    return found
