"""MQTT 5 connection of one source: sends at QoS 1 with a bounded window, and counts what the broker acknowledged.

A thread owns the connection (`simulator.load.link`): it sends, reads answers, and connects again after a loss, when everything
without an answer goes first. The caller only puts messages into its queue. No exception leaves the thread, since that would end it
unnoticed: the exception is kept, and raised in the caller's next call.
"""

import contextlib
import secrets
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import numpy as np

from citybeat.devices.device import check_source
from citybeat.devices.wire import mqtt
from citybeat.devices.wire.mqtt import Frame, Packets, Version, Will
from citybeat.simulator.address import address
from citybeat.simulator.errors import PublishError, PublishStoppedError, RefusedError
from citybeat.simulator.feed import Receipt
from citybeat.simulator.load.backlog import Acknowledged
from citybeat.simulator.load.link import Link

#: Messages without an answer, at most. More adds memory and no speed: on one machine the broker answers within a millisecond.
WINDOW: Final = 500
#: s to wait for the broker's answer to CONNECT.
CONNECT_TIMEOUT: Final = 10.0
#: s between attempts to reconnect: the first, and the longest; each is twice the one before.
RECONNECT_DELAY: Final = (1.0, 5.0)
_RETRY_TIMEOUT: Final = 5.0  # s for one of them
_POLL: Final = 0.25  # s between looks at `stop` while waiting
_TEND: Final = 1.0  # s between checks that the broker lives
_CLOSE_TIMEOUT: Final = 5.0  # s to wait for the broker to acknowledge `offline`
_AHEAD: Final = 100  # messages that are packed together
_STATUS: Final = "status"


class Publisher:
    """A source's connection; `simulator.feed.Transport` says what it counts. Use it from one thread.

    Parameters
    ----------
    url : str
        mqtt://host[:port], or mqtts:// for TLS with the system's certificates. A user and a password in it are not used.
    source : str
        The MQTT user name, and the level of its topics.
    password : str or None
        None: the broker requires none.
    window : int
        Messages without an answer, at most; the broker's Receive Maximum lowers it.
    stop : threading.Event, optional
        Ends waiting for room, with `PublishStoppedError`.
    client_id : str, optional
        Unless given, a new one: two publishers of one id would throw each other out for ever.
    timeout : float
        Seconds to wait for the broker at the start.

    Raises
    ------
    PublishError
        The broker is away, or refuses the source.
    ValueError
        The URL is malformed.
    """

    def __init__(
        self,
        *,
        url: str,
        source: str,
        password: str | None,
        window: int = WINDOW,
        stop: threading.Event | None = None,
        client_id: str | None = None,
        timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        self.source = check_source(source)
        self.sent = 0
        self.sent_readings = 0
        self.acknowledged_messages = 0
        self.acknowledged_readings = 0
        self.refused_messages = 0
        self.refused_readings = 0
        self.refused: Counter[str] = Counter()
        self._stop = stop
        self._window = window
        self._broker = address(url)
        self._status = f"city/v1/{source}/{_STATUS}"
        self._link = Link(
            self._broker,
            topic=self._status,
            username=source,
            password=password,
            window=window,
            client_id=client_id if client_id is not None else f"{source}-sim-{secrets.token_hex(4)}",
            will=Will(self._status, "offline"),
        )
        self._changed = threading.Condition()  # guards everything below, the counts, and the link
        self._queue: deque[tuple[Frame, bytes, int]] = deque()  # frame, payload and readings of messages that are to be packed
        self._numbers = 0  # messages that came into the queue: the link numbers them alike
        self._waiting: dict[int, tuple[int, Receipt]] = {}  # readings of each message without an answer, by number
        self._statuses: set[int] = set()  # numbers of status messages without an answer
        self._failure: PublishError | None = None
        self._closed = False
        self._link.connect(time.monotonic_ns(), timeout)
        self._ear, self._bell = socket.socketpair()  # wakes the thread
        for end in (self._ear, self._bell):
            end.setblocking(False)
        self._announce("online")
        self._thread = threading.Thread(target=self._run, name=f"publisher {source}", daemon=True)
        self._thread.start()

    # --- the caller's side

    def publish(self, channel: str, payload: bytes, *, readings: int) -> Receipt:
        """Send a payload to `city/v1/{source}/{channel}`; wait while the window is full.

        Parameters
        ----------
        channel : str
        payload : bytes
        readings : int
            Number of readings in it; counted when the broker acknowledges.

        Returns
        -------
        Receipt
            It receives the broker's answers.

        Raises
        ------
        PublishError
            The connection is lost for good, or the payload is larger than the broker takes.
        PublishStoppedError
            `stop` was set while the window was full; nothing was sent.
        """
        topic = f"city/v1/{self.source}/{channel}"
        largest = self._link.largest
        if largest is not None and len(payload) + len(topic) + 16 > largest:
            takes = f"{self._broker} takes at most {largest} bytes a packet"
            raise PublishError(f"a message of {len(payload)} bytes is too large: {takes}; put fewer readings into one")
        with self._changed:
            self._wait(lambda: len(self._waiting) < self._window, None, stoppable=True)
            receipt = Receipt()
            self.sent += 1
            self.sent_readings += readings
            self._waiting[self._put(Frame(Version.V5, topic), payload, readings)] = readings, receipt
        return receipt

    def drop(self) -> None:
        """Break the connection as a bad network does, without a DISCONNECT.

        It is made again; then what has no answer is repeated, and after it what was published meanwhile is sent, in order.
        """
        with self._changed:
            if self._link.wire is not None:
                with contextlib.suppress(OSError):  # it is gone already
                    self._link.wire.shutdown(socket.SHUT_RDWR)

    def drain(self, timeout: float) -> bool:
        """Wait until every message is acknowledged or refused.

        Parameters
        ----------
        timeout : float
            Seconds.

        Returns
        -------
        bool
            False: some have no answer yet.

        Raises
        ------
        PublishError
            The connection is lost for good.
        """
        with self._changed:
            return self._wait(lambda: not self._waiting, timeout)

    def close(self) -> None:
        """Publish `offline`, disconnect, and end the thread. What has no answer yet is given up; it was never counted."""
        with self._changed:
            if self._closed:
                return
            if self._link.wire is not None and self._failure is None:
                with contextlib.suppress(PublishError):
                    goodbye = self._announce("offline")
                    self._wait(lambda: goodbye not in self._statuses, _CLOSE_TIMEOUT)
            self._closed = True
            self._changed.notify_all()
            self._wake()
        self._thread.join()
        self._link.close()
        self._ear.close()
        self._bell.close()

    def _wait(self, ready: Callable[[], bool], timeout: float | None, *, stoppable: bool = False) -> bool:
        """Wait for a condition, under the lock; False after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._failure is not None:
                raise self._failure
            if ready():
                return True
            if stoppable and self._stop is not None and self._stop.is_set():
                raise PublishStoppedError(f"{self.source}: stopped while waiting for the broker")
            rest = _POLL if deadline is None else min(_POLL, deadline - time.monotonic())
            if rest <= 0:
                return False
            self._changed.wait(rest)

    # --- under the lock

    def _put(self, frame: Frame, payload: bytes, readings: int) -> int:
        """Queue a message; its number."""
        if not self._queue:
            self._wake()
        self._queue.append((frame, payload, readings))
        self._numbers += 1
        return self._numbers - 1

    def _announce(self, status: str) -> int:
        number = self._put(Frame(Version.V5, self._status, retain=True), status.encode(), 0)
        self._statuses.add(number)
        return number

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it has been woken often enough
            self._bell.send(b"!")

    def take(self, count: int, _frame: Frame, _now: int) -> Packets:
        """Pack what is queued for one topic: `simulator.load.link.Supply`."""
        frame = self._queue[0][0]
        payloads: list[bytes] = []
        readings: list[int] = []
        while self._queue and self._queue[0][0] == frame and len(payloads) < count:
            _, payload, counted = self._queue.popleft()
            payloads.append(payload)
            readings.append(counted)
        return frame.pack(payloads, readings)

    def _count(self, told: Acknowledged) -> None:
        for number, code in zip(told.number.tolist(), told.reason.tolist(), strict=True):
            if number in self._statuses:
                self._statuses.discard(number)
                if code >= mqtt.FAILURE:
                    self.refused[f"status: {mqtt.reason_name(code)}"] += 1
                continue
            readings, receipt = self._waiting.pop(number)
            # A broker to which nobody subscribes acknowledges a message, forgets it, and says so: that is no success.
            receipt.acknowledged = code < mqtt.FAILURE and code != mqtt.NOBODY_LISTENS
            if receipt.acknowledged:
                self.acknowledged_messages += 1
                self.acknowledged_readings += readings
            else:
                self.refused_messages += 1
                self.refused_readings += readings
                self.refused[mqtt.reason_name(code)] += 1
        self._changed.notify_all()

    # --- the thread's side

    def _run(self) -> None:
        try:
            while not self._closed:
                try:
                    self._turn()
                except OSError:
                    self._reconnect()
        except PublishError as exc:
            self._fail(exc)
        except Exception as exc:
            failure = PublishError(f"{self.source}: internal error of the publisher: {exc!r}")
            failure.__cause__ = exc
            self._fail(failure)

    def _fail(self, failure: PublishError) -> None:
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def _turn(self) -> None:
        """Wait for something to do, and do it. Raises OSError when the connection is lost."""
        wire = self._link.wire
        assert wire is not None
        poll = select.poll()  # not select(), which knows 1,024 files only
        poll.register(wire, select.POLLIN | (select.POLLOUT if self._link.wants_to_write else 0))
        poll.register(self._ear, select.POLLIN)
        ready = dict(poll.poll(1000 * _TEND))
        if self._ear.fileno() in ready:
            self._ear.recv(4096)
        with self._changed:
            now = time.monotonic_ns()
            if ready.get(wire.fileno(), 0) & ~select.POLLOUT:
                self._count(self._link.receive(now))
            self._send(now)
            self._link.tend(now)

    def _send(self, now: int) -> None:
        new = np.full(self._numbers - self._link.backlog.sent, now)
        self._link.send(new, self, _AHEAD, now, now // 1000)

    def _reconnect(self) -> None:
        """Connect again, however long that takes. Raises PublishError when the broker refuses the source for good."""
        with self._changed:
            self._link.lose()
        delay, longest = RECONNECT_DELAY
        while not self._closed:
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, delay):
                    return
            try:
                dialled = self._link.dial(_RETRY_TIMEOUT)
            except RefusedError:
                raise
            except PublishError:
                delay = min(2 * delay, longest)
                continue
            with self._changed:
                self._link.adopt(dialled, time.monotonic_ns())
                self._announce("online")
                self._changed.notify_all()
            return


def connect(url: str, source: str, password: str | None, *, stop: threading.Event | None = None) -> Publisher:
    """Connect a source."""
    return Publisher(url=url, source=source, password=password, stop=stop)
