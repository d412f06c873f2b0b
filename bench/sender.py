"""Sends packets that were made ahead, from a process of its own: a connection a gateway, QoS 1.

`prepare` writes a workload's PUBLISH packets into a file. `Sender` is the process that sends them in that order: never more than
its caller allows, never more than `WINDOW` that the broker has not acknowledged of a gateway, and at a rate if one is given. It
sends bytes as they lie in the file and counts acknowledgements; so it takes a few us a message, and is not what is measured.

`simulator.load.generator` cannot do this: it goes by what the broker acknowledges, while here what may be sent depends on what is
committed; and gateways have to send in the workload's order, not each as fast as it can.
"""

import ctypes
import mmap
import multiprocessing
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from bench.workload import Packet
from citybeat.devices.wire import mqtt
from citybeat.devices.wire.mqtt import Frame, Kind, Version

#: Messages of a gateway that the broker has not acknowledged. It acknowledges at once, so that more would be no faster.
WINDOW: Final = 500
#: s that a sender waits when it may not send: about the shortest sleep on such a machine.
_NAP: Final = 0.0005
#: Messages between two looks at what was acknowledged.
_LOOK: Final = 20
#: s for the broker to acknowledge the rest.
_GOODBYE: Final = 10.0
_COLUMNS: Final = np.dtype([("end", "i8"), ("gateway", "i4"), ("seq", "i4"), ("readings", "i4")])


class UnexpectedError(Exception):
    """The broker answered something that a measurement does not expect."""


def connect(
    url: str,
    user: str | None = None,
    password: str | None = None,
    *,
    client_id: str,
    expiry: int = 0,
    receive_maximum: int = mqtt.MAX_ID,
) -> socket.socket:
    """Connect with a new session, which the broker keeps for `expiry` seconds; as the URL's user, unless another one is given."""
    parts = urlsplit(url)
    hello = mqtt.connect(
        Version.V5,
        client_id,
        username=user or unquote(parts.username or ""),
        password=password or unquote(parts.password or ""),
        keepalive=0,
        expiry=expiry,
        receive_maximum=receive_maximum,
    )
    link = socket.create_connection((parts.hostname or "", parts.port or 1883), timeout=20)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.sendall(hello)
    if mqtt.welcome(Version.V5, answer(link, Kind.CONNACK)).reason:
        raise UnexpectedError(f"the broker refuses {user}")
    return link


def answer(link: socket.socket, kind: Kind) -> bytes:
    """Read a packet of a kind, and nothing behind it; return its body."""
    data = b""
    while not (told := mqtt.answers(data)).others:
        more = link.recv(1)
        if not more:
            raise UnexpectedError("the broker closed the connection")
        data += more
    if told.others[0][0] != kind:
        raise UnexpectedError(f"the broker answered {data!r}")
    return told.others[0][1]


def forget(url: str, client_id: str) -> None:
    """End a session that the broker keeps, with the messages that wait in it."""
    link = connect(url, client_id=client_id)
    link.sendall(mqtt.GOODBYE)
    link.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Payloads:
    """Packets in a file, in the order in which they are to be sent."""

    path: Path
    packets: NDArray[Any]  # of _COLUMNS: where each ends, whose it is, its number, and its readings

    def __len__(self) -> int:
        return len(self.packets)

    def payload(self, number: int, topic: str) -> bytes:
        """Return the payload of a packet."""
        start = int(self.packets["end"][number - 1]) if number else 0
        with self.path.open("rb") as file:
            file.seek(start)
            packet = file.read(int(self.packets["end"][number]) - start)
        return packet[packet.index(topic.encode()) + len(topic) + 3 :]


def prepare(path: Path, packets: Iterable[Packet], sources: list[str], *, readings: int) -> Payloads:
    """Write packets with so many readings in all, or as many as there are."""
    rows: list[tuple[int, int, int, int]] = []
    end = total = 0
    frames = [Frame(Version.V5, f"city/v1/{source}/readings") for source in sources]
    with path.open("wb", buffering=1 << 20) as file:
        for packet in packets:
            data = frames[packet.gateway].packet(packet.seq % mqtt.MAX_ID + 1, packet.payload)
            file.write(data)
            end += len(data)
            rows.append((end, packet.gateway, packet.seq, packet.readings))
            total += packet.readings
            if total >= readings:
                break
    return Payloads(path=path, packets=np.array(rows, _COLUMNS))


class Sender:
    """The process that sends. Use it as a context; it begins to send when it is allowed to.

    Parameters
    ----------
    url : str
    passwords : mapping
        By source, in the order of gateways.
    payloads : Payloads
    rate : float, optional
        Messages a second, at even distances; as fast as possible, unless given.
    """

    def __init__(self, url: str, passwords: Mapping[str, str], payloads: Payloads, rate: float | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        # Messages that may be sent in all, were sent, were acknowledged; and the state: to stop (1), ready (2), failed (3).
        self._shared = context.RawArray(ctypes.c_int64, 4)
        self._times = context.RawArray(ctypes.c_int64, len(payloads))
        arguments = (url, dict(passwords), payloads, rate, self._shared, self._times)
        self._process: BaseProcess = context.Process(target=_send, args=arguments, daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        _until(lambda: self._shared[3] == _READY, self._process, 60)
        return self

    def __exit__(self, *_: object) -> None:
        self._shared[3] = _STOP
        self._process.join(_GOODBYE + 5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sent(self) -> int:
        return int(self._shared[1])

    @property
    def acknowledged(self) -> int:
        return int(self._shared[2])

    @property
    def sent_at(self) -> NDArray[np.int64]:
        """Times of sending, ns of the monotonic clock, by packet."""
        times: NDArray[np.int64] = np.frombuffer(memoryview(self._times), np.int64)
        return times

    def allow(self, messages: int) -> None:
        """Allow so many messages in all."""
        self._shared[0] = messages

    def check(self) -> None:
        """Raise if the process has failed."""
        if self._shared[3] == _FAILED or not self._process.is_alive():
            raise RuntimeError("the sender ended")


_STOP, _READY, _FAILED = 1, 2, 3


def _until(condition: Callable[[], bool], process: BaseProcess, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if not process.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the sender did not start")
        time.sleep(0.01)


def _send(url: str, passwords: dict[str, str], payloads: Payloads, rate: float | None, shared: Any, times: Any) -> None:
    links = [connect(url, name, password, client_id=f"bench-{name}") for name, password in passwords.items()]
    try:
        with (
            payloads.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            memoryview(data) as view,
        ):
            shared[3] = _READY
            _Sending(links, payloads.packets, view, rate, shared, times).run()
    except BaseException:
        shared[3] = _FAILED
        raise


class _Sending:
    def __init__(
        self, links: list[socket.socket], packets: NDArray[Any], data: memoryview, rate: float | None, shared: Any, times: Any
    ) -> None:
        self._links = links
        self._ends = packets["end"].tolist()
        self._of = packets["gateway"].tolist()
        self._data = data
        self._rate = rate
        self._shared = shared
        self._times = times
        self._open = [0] * len(links)  # not acknowledged
        self._rest = [b""] * len(links)
        self._selector = selectors.DefaultSelector()
        for number, link in enumerate(links):
            self._selector.register(link, selectors.EVENT_READ, number)

    def run(self) -> None:
        """Send until asked to stop."""
        shared, total = self._shared, len(self._ends)
        start, began, number = 0, 0.0, 0
        while shared[3] != _STOP:
            allowed = min(shared[0], total)
            if allowed and self._rate is not None:
                began = began or time.monotonic()
                allowed = min(allowed, int((time.monotonic() - began) * self._rate) + 1)
            if number >= allowed or self._open[self._of[number]] >= WINDOW:
                self._look(_NAP)
                continue
            for _ in range(_LOOK):
                gateway = self._of[number]
                if number >= allowed or self._open[gateway] >= WINDOW:
                    break
                first = number
                while number < allowed and self._of[number] == gateway and number - first < _LOOK:
                    number += 1
                end = self._ends[number - 1]
                now = time.monotonic_ns()
                for place in range(first, number):
                    self._times[place] = now
                self._links[gateway].sendall(self._data[start:end])
                start = end
                self._open[gateway] += number - first
                shared[1] = number
                if number >= total:
                    break
            self._look(0)
        # A connection that is closed while something waits to be read is reset, and what was sent over it may be lost.
        deadline = time.monotonic() + _GOODBYE
        while any(self._open) and time.monotonic() < deadline:
            self._look(_NAP)
        for link in self._links:
            link.sendall(mqtt.GOODBYE)
            link.close()

    def _look(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            gateway = key.data
            data = self._links[gateway].recv(1 << 16)
            if not data:
                raise UnexpectedError("the broker closed the connection")
            data = self._rest[gateway] + data
            told = mqtt.answers(data)
            if told.others or told.reasons.any():
                raise UnexpectedError(f"not plain acknowledgements: {data[:40]!r}")
            self._rest[gateway] = data[told.used :]
            self._open[gateway] -= len(told.ids)
            self._shared[2] += len(told.ids)
