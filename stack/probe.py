"""Checks whether a server is ready, in its own protocol, with nothing but a socket.

An open port is not enough: PostgreSQL listens while it still recovers, and a running broker may not know a user yet.
"""

import contextlib
import enum
import socket
import struct
from collections.abc import Callable

TIMEOUT = 2.0  # seconds for one answer on the loopback interface of a busy machine
STARTING_UP = b"C57P03\x00"  # SQLSTATE cannot_connect_now, as a field of an error message
PROTOCOL_3 = 196608  # PostgreSQL's protocol version 3.0


class Readiness(enum.Enum):
    """State of a server for one user."""

    READY = enum.auto()
    NOT_YET = enum.auto()  # no server listens, or it is still starting
    REFUSED = enum.auto()  # the server answers, but does not accept this user


def database(host: str, port: int, user: str, name: str) -> Readiness:
    """Check a PostgreSQL server: it accepts connections as soon as it asks for a password."""
    parameters = f"user\0{user}\0database\0{name}\0\0".encode()
    hello = struct.pack("!ii", len(parameters) + 8, PROTOCOL_3) + parameters
    reply = _exchange(host, port, hello, enough=_postgres_message)
    if not reply or STARTING_UP in reply:
        return Readiness.NOT_YET
    return Readiness.READY if reply[:1] == b"R" else Readiness.REFUSED


def broker(host: str, port: int, user: str, password: str) -> Readiness:
    """Check an MQTT broker by logging in and out."""
    payload = b"".join(struct.pack("!H", len(part)) + part for part in (b"", user.encode(), password.encode()))
    # MQTT 3.1.1: protocol name and level, flags user name + password + clean session, keep-alive in seconds.
    body = b"\x00\x04MQTT\x04\xc2\x00\x0a" + payload
    reply = _exchange(host, port, b"\x10" + _remaining_length(len(body)) + body, enough=lambda data: len(data) >= 4)
    if len(reply) < 4:
        return Readiness.NOT_YET
    return Readiness.READY if reply[3] == 0 else Readiness.REFUSED


def _postgres_message(data: bytes) -> bool:
    return len(data) >= 5 and len(data) > struct.unpack("!i", data[1:5])[0]


def _remaining_length(length: int) -> bytes:
    encoded = bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(encoded)


def _exchange(host: str, port: int, request: bytes, enough: Callable[[bytes], bool]) -> bytes:
    reply = b""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=TIMEOUT) as connection:
        connection.sendall(request)
        while not enough(reply):
            data = connection.recv(4096)
            if not data:
                break
            reply += data
        if request[:1] == b"\x10":
            connection.sendall(b"\xe0\x00")  # MQTT DISCONNECT, so that the broker logs no error
    return reply
