"""One source's MQTT 5 connection: sends at QoS 1 with a bounded window, and counts what the broker acknowledged.

The only module that knows paho. Its network thread calls back here; no exception leaves a callback, since that would end the
thread unnoticed: it is kept, and raised in the caller's next call. The thread is watched too. paho keeps unacknowledged
messages in memory and sends them again, in order, when it has reconnected; it never reads the broker's Receive Maximum, so the
window here keeps to it.
"""

import contextlib
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from citybeat.devices.device import check_source
from citybeat.simulator.address import address
from citybeat.simulator.errors import PublishError, PublishStoppedError
from citybeat.simulator.feed import Receipt

#: Messages without an answer, at most. More adds memory and no speed: on one machine the broker answers within a millisecond.
WINDOW: Final = 1000
#: s to wait for the broker's answer to CONNECT.
CONNECT_TIMEOUT: Final = 10.0
#: s. Short, so that a broker that vanished is noticed before an operator does.
KEEPALIVE: Final = 20
#: s between attempts to reconnect: from, to. paho takes whole seconds.
RECONNECT_DELAY: Final = (1, 5)
_POLL: Final = 0.25  # s between looks at the network thread while waiting
_CLOSE_TIMEOUT: Final = 5.0  # s to wait for the goodbye, and for the thread
_MQTT_MAX: Final = 65_535  # Receive Maximum where the broker names none (MQTT 5, section 3.2.2.3.3)
#: Reason codes after which connecting again is no use: malformed packet, protocol error, client id, credentials, not
#: authorized, banned, packet too large.
_HOPELESS: Final = frozenset({0x81, 0x82, 0x85, 0x86, 0x87, 0x8A, 0x95})
_NOBODY_LISTENS: Final = 0x10  # "No matching subscribers" (MQTT 5, section 3.4.2.1)


class Publisher:
    """A source's connection; `simulator.feed.Transport` says what it counts. Use it from one thread.

    Parameters
    ----------
    url : str
        mqtt://host[:port], or mqtts:// for TLS with the system's certificates. A user and a password in it are not used.
    source : str
        The MQTT user name, and the level of its topics.
    password : str or None
        None: the broker asks for none.
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
        The URL is none.
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
        self._status = f"city/v1/{source}/status"
        self._window = self._setting = window
        self._largest: int | None = None  # bytes a packet, as the broker says
        self._stop = stop
        self._changed = threading.Condition()  # guards what follows and the counts
        self._waiting: dict[int, tuple[int, Receipt]] = {}  # readings of each message without an answer, by mid
        self._early: dict[int, ReasonCode] = {}  # answers that came before publish() returned
        self._statuses: set[int] = set()  # mids of status messages
        self._up = False
        self._dropped = False
        self._failure: PublishError | None = None
        self._closed = False
        where = address(url)
        self._broker = str(where)
        name = client_id if client_id is not None else f"{source}-sim-{secrets.token_hex(4)}"
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        self._client.username_pw_set(source, password)
        self._client.will_set(self._status, b"offline", qos=1, retain=True)
        self._client.max_queued_messages_set(0)  # the window bounds it
        self._client.max_inflight_messages_set(0)  # so does it here; paho can change its own bound only while not connected
        self._client.reconnect_delay_set(*RECONNECT_DELAY)
        if where.tls:
            self._client.tls_set_context(where.tls)
        self._client.on_connect = self._guarded(self._on_connect)
        self._client.on_disconnect = self._guarded(self._on_disconnect)
        self._client.on_publish = self._guarded(self._on_publish)
        self._thread = self._start(where.host, where.port, name, timeout)

    # --- sending

    def publish(self, channel: str, payload: bytes, *, readings: int) -> Receipt:
        """Send a payload to `city/v1/{source}/{channel}`; wait while the window is full.

        Parameters
        ----------
        channel : str
        payload : bytes
        readings : int
            How many are in it; counted when the broker acknowledges.

        Returns
        -------
        Receipt
            It is told what the broker answers.

        Raises
        ------
        PublishError
            The connection is lost for good, or the payload is larger than the broker takes.
        PublishStoppedError
            `stop` was set while the window was full; nothing was sent.
        """
        topic = f"city/v1/{self.source}/{channel}"
        if self._largest is not None and len(payload) + len(topic) + 16 > self._largest:
            takes = f"{self._broker} takes at most {self._largest} bytes a packet"
            raise PublishError(f"a message of {len(payload)} bytes is too large: {takes}; put fewer readings into one")
        with self._changed:
            self._wait(lambda: len(self._waiting) < self._window, None, stoppable=True)
        receipt = Receipt()
        # Not under the lock: paho holds a lock of its own when it calls back, and takes the same one here.
        info = self._client.publish(topic, payload, qos=1)
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN):
            raise PublishError(f"{self.source}: {mqtt.error_string(info.rc)}")
        with self._changed:
            self.sent += 1
            self.sent_readings += readings
            self._waiting[info.mid] = readings, receipt
            early = self._early.pop(info.mid, None)
            if early is not None:
                self._count(info.mid, early)
        return receipt

    @property
    def up(self) -> bool:
        """False after `drop`, until the connection is back, or lost for good: then `publish` says why."""
        with self._changed:
            return not self._dropped or self._failure is not None or not self._thread.is_alive()

    def drop(self) -> None:
        """Break the connection as a bad network does, without a goodbye. paho connects again, and repeats what has no answer."""
        broken = self._client.socket()
        if isinstance(broken, socket.socket):
            with self._changed:
                self._dropped = True
            with contextlib.suppress(OSError):  # it is gone already
                broken.shutdown(socket.SHUT_RDWR)

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
        if self._closed:
            return
        self._closed = True
        if self._client.is_connected() and self._failure is None:
            with contextlib.suppress(PublishError):
                goodbye = self._client.publish(self._status, b"offline", qos=1, retain=True).mid
                with self._changed:
                    if self._early.pop(goodbye, None) is None:
                        self._statuses.add(goodbye)
                    self._wait(lambda: goodbye not in self._statuses, _CLOSE_TIMEOUT)
        self._shut()

    # --- the network thread

    def _start(self, host: str, port: int, name: str, timeout: float) -> threading.Thread:
        try:
            self._client.connect(host, port, keepalive=KEEPALIVE)
        except OSError as exc:
            raise PublishError(f"no MQTT broker answers at {self._broker}: {exc}") from exc
        self._client.loop_start()
        # paho names its thread after the client and does not hand it out; it may have ended by now, with a failure that is known.
        threads = [thread for thread in threading.enumerate() if thread.name == f"paho-mqtt-client-{name}"]
        self._thread = threads[0] if threads else threading.Thread()
        try:
            with self._changed:
                self._wait(lambda: self._up, timeout)
            if not self._up:
                raise PublishError(f"the MQTT broker at {self._broker} did not answer within {timeout:g} s")
        except BaseException:
            self._closed = True
            self._shut()
            raise
        return self._thread

    def _shut(self) -> None:
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        self._client.drop_out_messages()
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._client.disconnect()  # again and again: a thread that is reconnecting would overlook one
            self._thread.join(_POLL)
        if not self._thread.is_alive():
            self._client.loop_stop()

    def _guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        def guarded(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except Exception as exc:
                with self._changed:
                    self._fail(f"{self.source}: our own fault in {callback.__name__}: {exc!r}", exc)

        return guarded

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, told: Properties) -> None:
        if reason.is_failure:
            with self._changed:
                if reason.value in _HOPELESS or not self._up:
                    self._fail(f"the MQTT broker at {self._broker} refuses source {self.source!r}: {reason.getName()}")
            return
        # One message of the broker's quota is for the status.
        maximum = getattr(told, "ReceiveMaximum", _MQTT_MAX)
        status = client.publish(self._status, b"online", qos=1, retain=True)
        with self._changed:
            self._statuses.add(status.mid)
            self._window = max(1, min(self._setting, maximum - 1))
            self._largest = getattr(told, "MaximumPacketSize", None)
            self._up, self._dropped = True, False
            self._changed.notify_all()

    def _on_disconnect(self, _client: mqtt.Client, _data: Any, flags: Any, reason: ReasonCode, _told: Any) -> None:
        if flags.is_disconnect_packet_from_server and reason.value in _HOPELESS and not self._closed:
            with self._changed:
                self._fail(f"the MQTT broker at {self._broker} dropped source {self.source!r}: {reason.getName()}")

    def _on_publish(self, _client: mqtt.Client, _data: Any, mid: int, reason: ReasonCode, _told: Any) -> None:
        with self._changed:
            if mid in self._waiting:
                self._count(mid, reason)
            elif mid in self._statuses:
                self._statuses.discard(mid)
                if reason.is_failure:
                    self.refused[f"status: {reason.getName()}"] += 1
            else:
                self._early[mid] = reason
            self._changed.notify_all()

    # --- under the lock

    def _count(self, mid: int, reason: ReasonCode) -> None:
        readings, receipt = self._waiting.pop(mid)
        # A broker to which nobody subscribes takes a message, forgets it, and says so: that is no success.
        if reason.is_failure or reason.value == _NOBODY_LISTENS:
            self.refused_messages += 1
            self.refused_readings += readings
            self.refused[reason.getName()] += 1
            receipt.acknowledged = False
        else:
            receipt.acknowledged = True
            self.acknowledged_messages += 1
            self.acknowledged_readings += readings

    def _fail(self, message: str, cause: Exception | None = None) -> None:
        if self._failure is None:
            self._failure = PublishError(message)
            self._failure.__cause__ = cause
        self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool], timeout: float | None, *, stoppable: bool = False) -> bool:
        """Wait for a condition, watching the thread; False after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._failure is not None:
                raise self._failure
            if ready():
                return True
            if not self._thread.is_alive():
                raise PublishError(f"{self.source}: the network thread ended; {len(self._waiting)} messages have no answer")
            if stoppable and self._stop is not None and self._stop.is_set():
                raise PublishStoppedError(f"{self.source}: stopped while waiting for the broker")
            rest = _POLL if deadline is None else min(_POLL, deadline - time.monotonic())
            if rest <= 0:
                return False
            self._changed.wait(rest)


def connect(url: str, source: str, password: str | None, *, stop: threading.Event | None = None) -> Publisher:
    """A publisher of a source."""
    return Publisher(url=url, source=source, password=password, stop=stop)
