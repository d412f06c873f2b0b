"""One connection of the load generator: a socket that never blocks, a window, and the bytes of what has no answer yet.

It sends whole runs of packets with one system call, and reads answers as arrays. When the connection is lost, everything without
an answer is kept; after `connect` it is sent again, before anything new, with the same bytes and the time when it was first
sent. The session is clean, so the broker knows nothing of the first try: it comes as a new message, without DUP.
"""

import contextlib
import secrets
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

import numpy as np

from devices.batch import Int64
from simulator import packets
from simulator.errors import ProtocolError, PublishError, RefusedError
from simulator.packets import Frame, Kind, Packets, Version, Welcome
from simulator.window import Window

#: s for the broker to take a connection, and to answer CONNECT.
TIMEOUT: Final = 10.0
#: s. What MQTT is told; a PING goes out when nothing was received for half of it, and twice that is too long.
KEEPALIVE: Final = 30
_SECOND: Final = 1_000_000_000
#: What a socket says that can do nothing just now.
_LATER: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
#: Bytes that are read at once. PUBACKs have 4 to 6: more than 40,000 of them.
_READ: Final = 262_144


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where the broker is, and how it is spoken to."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    version: Version

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def address(url: str, *, version: Version = Version.V5, ca: str | None = None) -> Address:
    """From mqtt://host[:port], or mqtts:// for TLS.

    Parameters
    ----------
    url : str
        A user and a password in it are not used.
    version : Version
    ca : str, optional
        File of certificates that sign the broker's; default: the system's.

    Raises
    ------
    ValueError
        The URL is none.
    PublishError
        The file of certificates cannot be used.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"not the URL of an MQTT broker: {exc}") from None
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
        raise ValueError("not the URL of an MQTT broker: mqtt://host:port is expected")  # it may hold a password: not shown
    context = None
    if parts.scheme == "mqtts":
        try:
            context = ssl.create_default_context(cafile=ca)
        except OSError as exc:
            raise PublishError(f"the certificates in {ca} cannot be used: {exc}") from exc
    return Address(host=parts.hostname, port=port or (8883 if context else 1883), tls=context, version=version)


class Supply(Protocol):
    """Where a connection's messages come from. It reads no clock."""

    def take(self, count: int, frame: Frame, now: int) -> Packets | None:
        """The next messages, `count` or fewer; None: there are no more.

        Parameters
        ----------
        count : int
            At least 1.
        frame : Frame
        now : int
            us since 1970 UTC.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledged:
    """Messages that were answered."""

    number: Int64  # 0, 1, … of the connection
    due: Int64  # ns, monotonic: when it should have been sent
    sent: Int64  # ns, monotonic: when it was first handed to the connection
    reason: packets.UInt8
    readings: Int64


@dataclass(slots=True)
class _Stock:
    """Packets that came from the supply, or are sent again, and how far they are sent."""

    packets: Packets
    number: Int64
    due: Int64  # ns; empty: given when they are sent
    sent: Int64
    at: int = 0  # the next one to send

    @property
    def left(self) -> int:
        return len(self.packets) - self.at


class Link:
    """A connection. Use it from one thread.

    Parameters
    ----------
    to : Address
    topic : str
    username, password : str or None
    window : int
        Messages without an answer, at most; the broker's Receive Maximum lowers it.
    client_id : str, optional
        Unless given, a new one.
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
    ) -> None:
        self._to, self._username, self._password, self._setting = to, username, password, window
        self._name = client_id if client_id is not None else f"load-{secrets.token_hex(6)}"
        self._frame = Frame(to.version, topic)
        self._window = Window(window)
        self._largest: int | None = None  # bytes a packet, as the broker says
        self._stock: deque[_Stock] = deque()  # to be sent; the first one may be partly sent
        self._kept: deque[_Stock] = deque()  # wholly sent, in the order of their numbers, and with messages that have no answer
        self._out: memoryview | None = None  # what the socket did not take yet
        self._in = bytearray()  # an answer that is not complete
        self._buffer = memoryview(bytearray(_READ))
        self._socket: socket.socket | None = None
        self._heard = self._pinged = 0  # ns, monotonic
        self._keepalive = KEEPALIVE
        self.numbered = 0  # messages taken from the supply
        self.sent = 0  # messages that were handed over, each once
        self.sent_readings = 0
        self.resent = 0
        self.sent_bytes = 0
        self.exhausted = False  # the supply has no more
        self.unknown = 0  # answers to nothing

    # --- state

    @property
    def wire(self) -> socket.socket | None:
        """None: not connected."""
        return self._socket

    @property
    def waiting(self) -> int:
        """Messages without an answer."""
        return self._window.waiting + sum(stock.left for stock in self._stock if len(stock.due))

    @property
    def room(self) -> int:
        """Messages that may be sent now: none while the socket is full, or there is no connection."""
        return 0 if self._out is not None or self._socket is None else self._window.room

    @property
    def full(self) -> bool:
        """The broker holds it back: the window or the socket is full."""
        return self._out is not None or self._window.room == 0

    @property
    def wants_to_write(self) -> bool:
        """The socket is full."""
        return self._out is not None

    def unanswered(self) -> tuple[Int64, Int64, Int64]:
        """Number, due and sent of messages that were sent and have no answer."""
        number, due, sent, _ = self._window.outstanding()
        again = [stock for stock in self._stock if len(stock.due)]
        return (
            np.concatenate([number, *(stock.number[stock.at :] for stock in again)]),
            np.concatenate([due, *(stock.due[stock.at :] for stock in again)]),
            np.concatenate([sent, *(stock.sent[stock.at :] for stock in again)]),
        )

    # --- connecting

    def connect(self, now: int, timeout: float = TIMEOUT) -> None:
        """Connect, and be welcome. It takes as long as the broker takes, at most `timeout` seconds.

        Raises
        ------
        PublishError
            The broker is away, or refuses us.
        """
        self._stop()
        try:
            made = socket.create_connection((self._to.host, self._to.port), timeout)
        except OSError as exc:
            raise PublishError(f"no MQTT broker answers at {self._to}: {exc}") from exc
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._to.tls is not None:
                made = self._to.tls.wrap_socket(made, server_hostname=self._to.host)
            made.sendall(
                packets.connect(self._to.version, self._name, username=self._username, password=self._password, keepalive=KEEPALIVE)
            )
            told = self._welcomed(made)
            made.setblocking(False)
        except (OSError, ProtocolError) as exc:
            made.close()
            raise PublishError(f"{self._to}: {exc}") from exc
        except BaseException:
            made.close()
            raise
        self._socket = made
        self._largest = told.maximum_size
        self._keepalive = min(KEEPALIVE, told.keepalive or KEEPALIVE)
        self._heard = self._pinged = now
        self._again(max(1, min(self._setting, told.receive_maximum)))

    def _welcomed(self, made: socket.socket) -> Welcome:
        data = b""
        while not (told := packets.answers(data)).others:
            if told.used:
                raise ProtocolError("what answers there does not speak MQTT")
            more = made.recv(4096)
            if not more:
                hint = " (a broker of MQTT 3.1.1 alone does so)" if self._to.version is Version.V5 else ""
                raise PublishError(f"{self._to} closed the connection without a word{hint}")
            data += more
        kind, body = told.others[0]
        if kind != Kind.CONNACK:
            raise ProtocolError("what answers there does not speak MQTT")
        found = packets.welcome(self._to.version, body)
        if found.reason >= packets.FAILURE:
            who = "us" if self._username is None else f"user {self._username!r}"
            refused = RefusedError if found.reason in packets.HOPELESS else PublishError
            raise refused(f"the MQTT broker at {self._to} refuses {who}: {packets.reason_name(found.reason)}")
        if found.maximum_qos < 1:
            raise RefusedError(f"the MQTT broker at {self._to} takes no QoS 1")
        self._in = bytearray(data[told.used :])
        return found

    def _again(self, size: int) -> None:
        """A new window; what has no answer is to be sent again, before everything else."""
        number, due, sent, _ = self._window.outstanding()
        self._window = Window(size)
        if not len(number):
            self._kept.clear()
            return
        sources = [*self._kept, *self._stock]
        parts = [stock.packets.take(np.flatnonzero(np.isin(stock.number, number))) for stock in sources]
        pieces = Packets.joined([part for part in parts if len(part)])
        where = np.concatenate([stock.number[np.isin(stock.number, number)] for stock in sources])
        assert np.array_equal(where, number)
        self._kept.clear()
        if self._stock and self._stock[0].at:  # those of it that were sent are among `pieces`
            first = self._stock.popleft()
            rest = np.arange(first.at, len(first.packets))
            if len(rest):
                times = (first.due[rest], first.sent[rest]) if len(first.due) else (first.due, first.sent)
                self._stock.appendleft(_Stock(first.packets.take(rest), first.number[rest], *times))
        self._stock.appendleft(_Stock(pieces, number, due, sent))

    def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = self._out = None
        self._in = bytearray()

    def lose(self) -> None:
        """Give the connection up, and keep what has no answer."""
        self._stop()

    def close(self) -> None:
        """Say goodbye, if that can be done at once, and disconnect."""
        if self._socket is not None and self._out is None:
            with contextlib.suppress(OSError):
                self._socket.send(packets.GOODBYE)
        self._stop()

    # --- sending

    def send(self, due: Int64, supply: Supply, ahead: int, now: int, clock: int) -> Int64:
        """Send as many messages as `due` has, or as there is room for; and what was held back.

        Parameters
        ----------
        due : (n,) int64
            When each new message should have been sent, ns, monotonic.
        supply : Supply
        ahead : int
            How many messages to take from it at once.
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
        while self.flush() and self._window.room > 0:
            if not self._stock:
                if begun >= len(due) or self.exhausted or not self._restock(supply, ahead, clock):
                    break
                continue
            stock = self._stock[0]
            again = len(stock.due) > 0
            wanted = stock.left if again else min(stock.left, len(due) - begun)
            if not wanted:
                break
            a = stock.at
            which = slice(a, a + wanted)
            if again:
                ids = self._window.take(stock.number[which], stock.due[which], stock.sent[which], stock.packets.readings[which])
                self.resent += len(ids)
            else:
                ids = self._window.take(stock.number[which], due[begun : begun + wanted], now, stock.packets.readings[which])
                begun += len(ids)
                self.sent += len(ids)
                self.sent_readings += int(stock.packets.readings[a : a + len(ids)].sum())
            if not len(ids):
                break
            stock.packets.write_ids(a, ids)
            stock.at = a + len(ids)
            start = stock.packets.start
            self._out = stock.packets.data.data[int(start[a]) : int(start[stock.at])]
            if not stock.left:
                self._kept.append(self._stock.popleft())
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

    def _restock(self, supply: Supply, ahead: int, clock: int) -> bool:
        taken = supply.take(ahead, self._frame, clock)
        if taken is None or not len(taken):
            self.exhausted = True
            return False
        largest = int(np.diff(taken.start).max())
        if self._largest is not None and largest > self._largest:
            raise PublishError(f"a packet of {largest} bytes is too large: {self._to} takes at most {self._largest} bytes")
        number = np.arange(self.numbered, self.numbered + len(taken))
        self.numbered += len(taken)
        nothing = np.empty(0, np.int64)
        self._stock.append(_Stock(taken, number, nothing, nothing))
        return True

    # --- receiving

    def receive(self, now: int) -> Acknowledged:
        """Read what the broker said.

        Raises
        ------
        OSError
            The connection is lost.
        PublishError
            The broker dropped us for good, or speaks no MQTT.
        """
        assert self._socket is not None
        while True:
            try:
                size = self._socket.recv_into(self._buffer)
            except _LATER:
                break
            if not size:
                raise ConnectionResetError("the broker closed the connection")
            self._heard = now
            self._in += self._buffer[:size]
            if size < _READ and self._to.tls is None:
                break
        told = packets.answers(self._in)
        if told.used == len(self._in):
            self._in = bytearray()  # not emptied in place: arrays may still look into it
        else:
            self._in = self._in[told.used :]
        for kind, body in told.others:
            self._told(kind, body)
        number, due, sent, readings, known = self._window.answered(told.ids)
        self.unknown += len(told.ids) - len(number)
        return Acknowledged(
            number=number,
            due=due,
            sent=sent,
            reason=told.reasons if len(number) == len(known) else told.reasons[known],
            readings=readings,
        )

    def _told(self, kind: int, body: bytes) -> None:
        if kind == Kind.DISCONNECT and self._to.version is Version.V5:
            reason = body[0] if body else 0
            said = f"the MQTT broker at {self._to} dropped us: {packets.reason_name(reason)}"
            if reason in packets.HOPELESS:
                raise RefusedError(said)
            raise ConnectionResetError(said)
        if kind != Kind.PINGRESP:
            raise ProtocolError(f"{self._to} sent a packet 0x{kind:02x}, which no publisher is sent")

    # --- now and then

    def tend(self, now: int) -> None:
        """Forget what was answered, and see that the broker lives: call it about once a second.

        Raises
        ------
        OSError
            The broker has been silent for too long.
        """
        number = self._window.outstanding()[0]
        oldest = int(number[0]) if len(number) else self.numbered
        while self._kept and int(self._kept[0].number[-1]) < oldest:
            self._kept.popleft()
        if self._socket is None:
            return
        if now - self._heard > 2 * self._keepalive * _SECOND:
            raise TimeoutError(f"{self._to} has not said a word for {2 * self._keepalive} s")
        quiet = max(self._heard, self._pinged)
        if self._out is None and now - quiet > self._keepalive * _SECOND // 2:
            self._pinged = now
            with contextlib.suppress(*_LATER):
                self._socket.send(packets.PING)  # two bytes: taken whole, or not at all
