"""The socket beneath paho: takes PUBLISH packets out of the stream before paho sees them, and sends acknowledgements.

paho reads a packet in three calls, makes objects for its properties, and sends each PUBACK by itself: 21 us of a processor for a
message of one reading, and as much again to acknowledge it (docs/performance.md). Here one read takes all bytes that have arrived,
all PUBLISH packets in them are parsed at once, and acknowledgements are sent together. All other packets are paho's: it connects,
subscribes and pings through this object, and reads the broker's answers from it in their order. So no message of a new connection
is delivered before paho knows that the connection is established.

paho supports such a wrapped socket: it has one for WebSockets, and asks it for `pending`.
"""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from citybeat.devices.wire.mqtt import Kind, Publication, acknowledgements, packet_end, publication

#: Bytes of one read: some 1,500 messages of one reading, or 40 of a hundred.
_READ: Final = 256 * 1024
#: s until the broker must have taken what is sent, which is 4 bytes for each message that it delivered.
_SEND_TIMEOUT: Final = 10.0
_PUBLISH: Final = Kind.PUBLISH.value >> 4  # without its flags


class MqttSocket:
    """One connection's socket, for paho's network thread; `acknowledge` and `shutdown` may be called from any thread.

    Parameters
    ----------
    plain : socket
        Connected; TLS or not.
    deliver : callable
        Called with the messages of one read, in order; must not raise.
    """

    def __init__(self, plain: socket.socket, deliver: Callable[[Sequence[Publication]], None]) -> None:
        self._socket: Final = plain
        self._deliver: Final = deliver
        self._data = b""  # bytes that were read
        self._at = 0  # start of the bytes that are not parsed yet
        self._own = 0  # end of the packet at `_at`, which is paho's; 0: there is none
        self._parts: list[bytes] = []  # reads of a packet that is larger than one read
        self._lacking = 0  # bytes of that packet that have not arrived
        self._sending: Final = threading.Lock()  # held for a whole packet, so that packets do not mix
        self._calls: Final = threading.Lock()  # held for a call of TLS: OpenSSL allows one thread at a time in a connection

    # --- called by paho ------------------------------------------------------------------------------------------------------

    def recv(self, size: int) -> bytes:
        """The next bytes of a packet other than PUBLISH; PUBLISH packets before it are delivered.

        Raises
        ------
        BlockingIOError
            No such packet has arrived.
        OSError
            The connection is lost.
        """
        if not self._own:
            if self._at == len(self._data) or not self._take_apart():
                chunk = self._read()
                if not chunk:
                    return b""
                self._add(chunk)
                self._take_apart()
            if not self._own:
                raise BlockingIOError
        stop = min(self._at + size, self._own)
        piece = self._data[self._at : stop]
        self._at = stop
        if stop == self._own:
            self._own = 0
        return piece

    def pending(self) -> int:
        """Bytes that can be read without waiting for the network."""
        behind = self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0
        return behind + (self._own - self._at if self._own else self._whole())

    def send(self, data: bytes) -> int:
        """Send all of the data; returns the number of bytes.

        Raises
        ------
        OSError
            The connection is lost, or the broker reads nothing for too long.
        """
        view, until = memoryview(data), time.monotonic() + _SEND_TIMEOUT
        with self._sending:
            while view:
                try:
                    with self._calls:
                        sent = self._socket.send(view)
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    if time.monotonic() > until:
                        self.shutdown()  # part of a packet may have been sent
                        raise TimeoutError("the broker does not read what is sent to it") from None
                    select.select([], [self._socket], [], 0.1)
                    continue
                view = view[sent:]
        return len(data)

    def fileno(self) -> int:
        """File descriptor, for `select`."""
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        """As `socket.setblocking`."""
        self._socket.setblocking(flag)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    # --- for any thread ------------------------------------------------------------------------------------------------------

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Send a PUBACK for each packet identifier, in this order.

        Raises
        ------
        OSError
            As `send`.
        """
        if mids:
            self.send(acknowledgements(mids))

    def shutdown(self) -> None:
        """End the connection, as if the broker had ended it."""
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    # --- steps of recv -------------------------------------------------------------------------------------------------------

    def _read(self) -> bytes:
        with self._calls:
            return self._socket.recv(_READ)

    def _add(self, chunk: bytes) -> None:
        """Append what was read to what is left; a packet that takes many reads is joined once, at its end."""
        self._parts.append(chunk)
        self._lacking -= len(chunk)
        if self._lacking <= 0:
            self._data = b"".join([self._data[self._at :], *self._parts])
            self._at = 0
            self._parts.clear()

    def _whole(self) -> int:
        """Number of bytes from `_at` on, if they begin with a complete packet; else 0."""
        if self._parts or self._at == len(self._data):
            return 0
        end = packet_end(self._data, self._at)[1]
        return len(self._data) - self._at if 0 < end <= len(self._data) else 0

    def _take_apart(self) -> bool:
        """Deliver PUBLISH packets up to the first other packet, which becomes `_own`; returns whether there is one."""
        if self._parts:
            return False
        data, at, size = self._data, self._at, len(self._data)
        found: list[Publication] = []
        try:
            while at < size:
                body, end = packet_end(data, at)
                if not 0 < end <= size:
                    self._lacking = end - size if end else 1
                    break
                if data[at] >> 4 != _PUBLISH:
                    self._own = end
                    break
                found.append(publication(data, at, body, end))
                at = end
        finally:
            self._at = at
            if found:
                self._deliver(found)
        return bool(self._own)
