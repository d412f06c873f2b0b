"""The socket beneath paho: takes PUBLISH packets out of the stream before paho sees them, and puts acknowledgements into it.

paho reads a packet in three calls, makes objects for its properties, and sends each PUBACK by itself: 21 us of a processor for a
message of one reading, and as much again to acknowledge it (docs/performance.md). Here a read takes what the network has, whatever
PUBLISH packets are in it are taken apart at once, and acknowledgements go out together. All other packets are paho's: it connects,
subscribes, pings, and reads what the broker says to that, through this object, in the order in which it came. So nothing of a new
connection is delivered before paho knows that it stands.

paho was made for a socket that is more than one: it has such an object for WebSockets, and asks it for `pending`.
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
#: s until a broker must have taken what we send. What is on its way are 4 bytes for each message that it sent us.
_SEND_TIMEOUT: Final = 10.0
_PUBLISH: Final = Kind.PUBLISH.value >> 4  # without its flags


class MqttSocket:
    """One connection's socket, for paho's network thread; `acknowledge` and `shutdown` are for any.

    Parameters
    ----------
    plain : socket
        Connected; TLS or not.
    deliver : callable
        Gets what one read brought, in order; must not raise.
    """

    def __init__(self, plain: socket.socket, deliver: Callable[[Sequence[Publication]], None]) -> None:
        self._socket: Final = plain
        self._deliver: Final = deliver
        self._data = b""  # read, and not taken apart
        self._at = 0  # what is before it was
        self._own = 0  # where paho's packet at `_at` ends; 0: there is none
        self._parts: list[bytes] = []  # of a packet that is larger than a read
        self._lacking = 0  # bytes of it
        self._sending: Final = threading.Lock()  # packets do not mix
        self._calls: Final = threading.Lock()  # of TLS: OpenSSL does not want two threads in one connection

    # --- what paho calls -----------------------------------------------------------------------------------------------------

    def recv(self, size: int) -> bytes:
        """The next bytes of a packet that is no PUBLISH; on the way to it, PUBLISH packets are delivered.

        Raises
        ------
        BlockingIOError
            There is none now.
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
        """Bytes that can be had without waiting for the network."""
        behind = self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0
        return behind + (self._own - self._at if self._own else self._whole())

    def send(self, data: bytes) -> int:
        """Send all of it; the number of bytes.

        Raises
        ------
        OSError
            The connection is lost, or the broker takes nothing.
        """
        view, until = memoryview(data), time.monotonic() + _SEND_TIMEOUT
        with self._sending:
            while view:
                try:
                    with self._calls:
                        sent = self._socket.send(view)
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    if time.monotonic() > until:
                        self.shutdown()  # half a packet may be out
                        raise TimeoutError("the broker takes nothing") from None
                    select.select([], [self._socket], [], 0.1)
                    continue
                view = view[sent:]
        return len(data)

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        """As a socket has it."""
        self._socket.setblocking(flag)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    # --- for any thread ------------------------------------------------------------------------------------------------------

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Send a PUBACK for each, in this order.

        Raises
        ------
        OSError
            As `send`.
        """
        if mids:
            self.send(acknowledgements(mids))

    def shutdown(self) -> None:
        """Have the connection end, as if the broker had ended it."""
        with suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_RDWR)

    # --- steps of recv -------------------------------------------------------------------------------------------------------

    def _read(self) -> bytes:
        with self._calls:
            return self._socket.recv(_READ)

    def _add(self, chunk: bytes) -> None:
        """Put what was read behind what is left; a packet that takes many reads is put together once."""
        self._parts.append(chunk)
        self._lacking -= len(chunk)
        if self._lacking <= 0:
            self._data = b"".join([self._data[self._at :], *self._parts])
            self._at = 0
            self._parts.clear()

    def _whole(self) -> int:
        """Bytes behind `_at`, if they begin with a packet that is all there."""
        if self._parts or self._at == len(self._data):
            return 0
        end = packet_end(self._data, self._at)[1]
        return len(self._data) - self._at if 0 < end <= len(self._data) else 0

    def _take_apart(self) -> bool:
        """Deliver PUBLISH packets up to the first other one, which becomes `_own`; whether there is one."""
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
