"""As much of MQTT 5 as a measurement needs, over plain sockets: cheap, so that what is measured is on the other side.

Only for brokers that answer as expected: anything else is an error.
"""

import socket
import struct
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

_CONNACK, _PUBLISH, _PUBACK, _SUBACK = 0x20, 0x30, 0x40, 0x90


class UnexpectedError(Exception):
    """The broker said something else."""


def connect(
    url: str,
    user: str | None = None,
    password: str | None = None,
    *,
    client_id: str,
    expiry: int = 0,
    receive_maximum: int = 65_535,
) -> socket.socket:
    """A connection with a new session, which the broker keeps for `expiry` seconds; as the URL's user, unless told another one."""
    parts = urlsplit(url)
    user, password = user or unquote(parts.username or ""), password or unquote(parts.password or "")
    properties = b"\x11" + struct.pack(">I", expiry) + b"\x21" + struct.pack(">H", receive_maximum)
    body = _text("MQTT") + b"\x05\xc2\x00\x00" + bytes([len(properties)]) + properties
    body += _text(client_id) + _text(user) + _text(password)
    link = socket.create_connection((parts.hostname or "", parts.port or 1883), timeout=20)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.sendall(b"\x10" + _length(len(body)) + body)
    kind, answer = _read(link)
    if kind != _CONNACK or answer[1] != 0:
        raise UnexpectedError(f"{user} is not let in: {answer!r}")
    return link


def subscribe(link: socket.socket, topic: str) -> None:
    """At QoS 1."""
    body = b"\x00\x01\x00" + _text(topic) + b"\x01"
    link.sendall(b"\x82" + _length(len(body)) + body)
    kind, answer = _read(link)
    if kind != _SUBACK or answer[-1] != 1:
        raise UnexpectedError(f"no subscription to {topic}: {answer!r}")


def forget(url: str, client_id: str) -> None:
    """End a session that the broker keeps, and whatever waits in it."""
    link = connect(url, client_id=client_id)
    link.sendall(b"\xe0\x00")
    link.close()


def publication(topic: str, mid: int, payload: bytes) -> bytes:
    """A PUBLISH of QoS 1."""
    body = _text(topic) + struct.pack(">HB", mid, 0)
    return b"\x32" + _length(len(body) + len(payload)) + body + payload


def acknowledgements(data: bytes) -> tuple[int, bytes]:
    """How many whole PUBACKs there are, and what is left.

    Raises
    ------
    UnexpectedError
        One that is no success, or another packet.
    """
    whole = len(data) // 4
    if data[0 : whole * 4 : 4].strip(b"\x40") or data[1 : whole * 4 : 4].strip(b"\x02"):
        raise UnexpectedError(f"not plain acknowledgements: {data[:40]!r}")
    return whole, data[whole * 4 :]


def publications(data: bytes) -> tuple[list[bytes], int]:
    """Packet ids of the whole PUBLISHes of QoS 1, and how many bytes they are."""
    mids, at, size = [], 0, len(data)
    while at + 2 <= size:
        length, shift, place = 0, 0, at + 1
        while place < size:
            length |= (data[place] & 0x7F) << shift
            shift, place = shift + 7, place + 1
            if data[place - 1] < 0x80:
                break
        else:
            break
        if place + length > size:
            break
        if data[at] & 0xF0 != _PUBLISH or not data[at] & 0x02:
            raise UnexpectedError(f"not a message of QoS 1: {data[at : at + 40]!r}")
        topic = place + 2 + int.from_bytes(data[place : place + 2])
        mids.append(data[topic : topic + 2])
        at = place + length
    return mids, at


def drained(link: socket.socket) -> Iterator[int]:
    """Acknowledge whatever comes, and nothing else; how many messages, again and again. 0: none came within the time-out."""
    held = b""
    while True:
        try:
            data = link.recv(1 << 18)
        except TimeoutError:
            yield 0
            continue
        if not data:
            return
        held = held + data if held else data
        mids, size = publications(held)
        held = held[size:]
        if mids:
            link.sendall(b"\x40\x02" + b"\x40\x02".join(mids))
            yield len(mids)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">H", len(encoded)) + encoded


def _length(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _read(link: socket.socket) -> tuple[int, bytes]:
    """A small packet."""
    head = _exactly(link, 2)
    if head[1] >= 0x80:
        raise UnexpectedError("a packet that is not small")
    return head[0], _exactly(link, head[1])


def _exactly(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = link.recv(size - len(data))
        if not more:
            raise UnexpectedError("the broker closed the connection")
        data += more
    return data
