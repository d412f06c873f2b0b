"""One MQTT connection of a publisher: a socket that does not block once it is connected.

The load generator and `simulator.publisher` send by it. It sends whole runs of packets with one system call, and reads answers as
arrays. When the connection is lost, everything without an answer is kept; after the next `connect` it is sent again
(`simulator.load.backlog`). The session is clean, so the broker knows nothing of the first try: the message comes as a new one,
without DUP.
"""

import contextlib
import secrets
import socket
import ssl
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from citybeat.devices.batch import Int64
from citybeat.devices.wire import mqtt
from citybeat.devices.wire.mqtt import Frame, Kind, MalformedPacketError, Packets, TooLongError, Version, Welcome, Will
from citybeat.simulator.address import Address
from citybeat.simulator.errors import PublishError, RefusedError
from citybeat.simulator.load.backlog import Acknowledged, Backlog

#: s for the broker to take a connection, and to answer CONNECT.
TIMEOUT: Final = 10.0
#: s, as CONNECT has it. A PING goes out when nothing was received for half of it; after twice that the broker counts as gone.
KEEPALIVE: Final = 20
_SECOND: Final = 1_000_000_000
#: Errors of a socket that can do nothing just now.
_LATER: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
#: Bytes that are read at once. PUBACKs have 4 to 6: more than 10,000 of them.
_READ: Final = 65_536


class Supply(Protocol):
    """Source of a connection's messages. It reads no clock."""

    def take(self, count: int, frame: Frame, now: int) -> Packets | None:
        """Return the next messages, `count` or fewer; None if there are no more.

        Parameters
        ----------
        count : int
            At least 1.
        frame : Frame
        now : int
            us since 1970 UTC.
        """


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection that the broker has accepted, and that is not used yet."""

    socket: socket.socket
    welcome: Welcome
    rest: bytes  # what the broker sent after its CONNACK


class Link:
    """A connection. Use it from one thread; `dial` may be called from another.

    Parameters
    ----------
    to : Address
    topic : str
        Topic of the frame that supplies get.
    username, password : str or None
    window : int
        Messages without an answer, at most; the broker's Receive Maximum lowers it.
    client_id : str, optional
        Unless given, a new one.
    will : Will, optional
    """

    def __init__(
        self,
        to: Address,
        *,
        topic: str,
        username: str | None,
        password: str | None,
        window: int,
        client_id: str | None = None,
        will: Will | None = None,
    ) -> None:
        self._to, self._setting = to, window
        self._who = "us" if username is None else f"user {username!r}"
        self._hello = mqtt.connect(
            to.version,
            client_id if client_id is not None else f"load-{secrets.token_hex(6)}",
            username=username,
            password=password,
            keepalive=KEEPALIVE,
            will=will,
        )
        self._frame = Frame(to.version, topic)
        self.backlog = Backlog(window)  # read by callers
        self.largest: int | None = None  # bytes a packet, as the broker says
        self._out: memoryview | None = None  # what the socket did not take yet
        self._in = b""  # an answer that is not complete
        self._socket: socket.socket | None = None
        self._trouble: Exception | None = None  # what ends this connection, when the answers that came with it are taken
        self._heard = self._pinged = 0  # ns, monotonic
        self._keepalive = KEEPALIVE
        self.sent_bytes = 0
        self.exhausted = False  # the supply has no more
        self.unknown = 0  # answers to no message

    # --- state

    @property
    def wire(self) -> socket.socket | None:
        """The socket; None while there is no connection."""
        return self._socket

    @property
    def room(self) -> int:
        """Messages that may be sent now: none while the socket is full, there is no connection, or there are no messages."""
        able = self._out is None and self._socket is not None and not (self.exhausted and self.backlog.empty)
        return self.backlog.room if able else 0

    @property
    def full(self) -> bool:
        """True if the broker holds it back: the window or the socket is full."""
        return self._out is not None or self.backlog.room == 0

    @property
    def wants_to_write(self) -> bool:
        """True if the socket is full."""
        return self._out is not None

    # --- connecting

    def connect(self, now: int, timeout: float = TIMEOUT) -> None:
        """Connect, in place of the present connection. It takes as long as the broker takes, at most `timeout` seconds.

        Raises
        ------
        PublishError
            The broker is away, or refuses us.
        """
        self.lose()
        self.adopt(self.dial(timeout), now)

    def dial(self, timeout: float = TIMEOUT) -> Dialled:
        """Make a connection, and leave the present one as it is. Raises PublishError as `connect` does."""
        try:
            made = socket.create_connection((self._to.host, self._to.port), timeout)
        except OSError as exc:
            raise PublishError(f"no MQTT broker answers at {self._to}: {exc}") from exc
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._to.tls is not None:
                made = self._to.tls.wrap_socket(made, server_hostname=self._to.host)
            made.sendall(self._hello)
            found = self._welcomed(made)
            made.setblocking(False)
        except OSError as exc:
            made.close()
            raise PublishError(f"{self._to}: {exc}") from exc
        except BaseException:
            made.close()
            raise
        return found

    def adopt(self, dialled: Dialled, now: int) -> None:
        """Use a new connection: everything without an answer is sent again over it."""
        self.lose()
        told = dialled.welcome
        self._socket, self._in = dialled.socket, dialled.rest
        self.largest = told.maximum_size
        self._keepalive = min(KEEPALIVE, told.keepalive or KEEPALIVE)
        self._heard = self._pinged = now
        self.backlog.again(max(1, min(self._setting, told.receive_maximum)))

    def _welcomed(self, made: socket.socket) -> Dialled:
        data = b""
        while not (told := mqtt.answers(data)).others:
            if told.used:
                raise MalformedPacketError("the server there does not speak MQTT")
            more = made.recv(4096)
            if not more:
                hint = " (as one does that speaks MQTT 3.1.1 only)" if self._to.version is Version.V5 else ""
                raise PublishError(f"{self._to} closed the connection without a word{hint}")
            data += more
        kind, body = told.others[0]
        if kind != Kind.CONNACK:
            raise MalformedPacketError("the server there does not speak MQTT")
        found = mqtt.welcome(self._to.version, body)
        if found.reason >= mqtt.FAILURE:
            refused = RefusedError if found.reason in mqtt.HOPELESS else PublishError
            raise refused(f"the MQTT broker at {self._to} refuses {self._who}: {mqtt.reason_name(found.reason)}")
        if found.maximum_qos < 1:
            raise RefusedError(f"the MQTT broker at {self._to} takes no QoS 1")
        return Dialled(made, found, data[told.used :])

    def lose(self) -> None:
        """Give the connection up, and keep what has no answer."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._out = self._trouble = None
        self._in = b""

    def close(self) -> None:
        """Send DISCONNECT, if that can be done at once, and close the connection."""
        if self._socket is not None and self._out is None:
            with contextlib.suppress(OSError):
                self._socket.send(mqtt.GOODBYE)
        self.lose()

    # --- sending

    def send(self, due: Int64, supply: Supply, ahead: int, now: int, clock: int) -> Int64:
        """Send as many messages as `due` has, or as there is room for; and what was held back.

        Parameters
        ----------
        due : (n,) int64
            When each new message should have been sent, ns, monotonic.
        supply : Supply
        ahead : int
            Number of messages to take from it at once.
        now : int
            ns, monotonic.
        clock : int
            us since 1970 UTC.

        Returns
        -------
        (m,) int64
            Those of `due` that were sent.

        Raises
        ------
        OSError
            The connection is lost.
        PublishError
            A message is larger than the broker takes.
        """
        begun = 0
        while self.flush() and self.backlog.room:
            if begun >= len(due) and not self.backlog.repeats:
                break
            if self.backlog.empty and (self.exhausted or not self._restock(supply, ahead, clock)):
                break
            out, used = self.backlog.take(due[begun:], now)
            if not out:
                break
            self._out = out
            begun += used
        return due[:begun]

    def flush(self) -> bool:
        """Hand the socket what it takes; True: it has everything. Raises OSError when the connection is lost."""
        while self._out is not None:
            assert self._socket is not None
            try:
                gone = self._socket.send(self._out)
            except _LATER:
                return False
            self.sent_bytes += gone
            self._out = self._out[gone:] if gone < len(self._out) else None
        return True

    def prepare(self, supply: Supply, ahead: int, clock: int) -> None:
        """Take the first messages, so that the first to be sent need not wait for being made. As `send`, raises PublishError."""
        self._restock(supply, ahead, clock)

    def _restock(self, supply: Supply, ahead: int, clock: int) -> bool:
        try:
            taken = supply.take(ahead, self._frame, clock)
        except TooLongError as exc:
            raise PublishError(f"{self._to}: {exc}") from exc
        if taken is None or not len(taken):
            self.exhausted = True
            return False
        largest = int(np.diff(taken.start).max())
        if self.largest is not None and largest > self.largest:
            raise PublishError(f"a packet of {largest} bytes is too large: {self._to} takes at most {self.largest} bytes")
        self.backlog.add(taken)
        return True

    # --- receiving

    def receive(self, now: int) -> Acknowledged:
        """Read the broker's answers.

        Raises
        ------
        OSError
            The connection is lost.
        PublishError
            The broker dropped us for good, or sent invalid MQTT.
        """
        assert self._socket is not None
        if self._trouble is not None:
            raise self._trouble
        data = self._in
        while True:
            try:
                more = self._socket.recv(_READ)
            except _LATER:
                break
            if not more:
                if data is self._in:
                    raise ConnectionResetError("the broker closed the connection")
                break  # answers first; the next call finds the end again
            self._heard = now
            data += more
            if len(more) < _READ and self._to.tls is None:
                break
        try:
            told = mqtt.answers(data)
        except MalformedPacketError as exc:
            raise PublishError(f"{self._to}: {exc}") from exc
        self._in = data[told.used :]
        trouble = next(filter(None, (self._told(kind, body) for kind, body in told.others)), None)
        if trouble is not None and not len(told.ids):
            raise trouble
        self._trouble = trouble
        found, strange = self.backlog.answered(told)
        self.unknown += strange
        return found

    def _told(self, kind: int, body: bytes) -> Exception | None:
        """Turn a packet that is no PUBACK into the error that it means."""
        if kind == Kind.DISCONNECT and self._to.version is Version.V5:
            reason = body[0] if body else 0
            said = f"the MQTT broker at {self._to} dropped {self._who}: {mqtt.reason_name(reason)}"
            return RefusedError(said) if reason in mqtt.HOPELESS else ConnectionResetError(said)
        if kind == Kind.PINGRESP:
            return None
        return PublishError(f"{self._to} sent a packet 0x{kind:02x}, which no publisher is sent")

    # --- keep-alive

    def tend(self, now: int) -> None:
        """Check that the broker lives: call it about once a second.

        Raises
        ------
        OSError
            The broker has been silent for too long.
        """
        if self._socket is None:
            return
        if now - self._heard > 2 * self._keepalive * _SECOND:
            raise TimeoutError(f"{self._to} has sent nothing for {2 * self._keepalive} s")
        quiet = max(self._heard, self._pinged)
        if self._out is None and now - quiet > self._keepalive * _SECOND // 2:
            self._pinged = now
            with contextlib.suppress(*_LATER):
                self._socket.send(mqtt.PING)  # two bytes: taken whole, or not at all
