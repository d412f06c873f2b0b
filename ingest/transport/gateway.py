"""The MQTT connection: messages in, acknowledgements out. The only module of this package that uses paho.

paho connects, subscribes and keeps the connection alive; messages and acknowledgements pass through the socket beneath it
(`ingest/transport/mqtt_socket.py`). A message is acknowledged when its partition says so: its readings are committed, or it is on
disk. Each precaution about acknowledgements says, where it stands, what goes wrong without it.
"""

import logging
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from citybeat.devices.errors import CitybeatError
from citybeat.devices.wire.mqtt import Publication
from citybeat.ingest.judging.message import SUBSCRIPTION, Message
from citybeat.ingest.transport.inbox import Inboxes
from citybeat.ingest.transport.mqtt_socket import MqttSocket

_LOG: Final = logging.getLogger(__name__)
_REFUSED: Final = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C})  # protocol, client id, credentials, authorisation, banned, method
_TAKEN_OVER: Final = 0x8E
#: s between two attempts to connect, at least and at most; the broker of a city restarts in seconds.
_RECONNECT: Final = (1, 5)
#: s between two log lines about failing connections.
_LOG_EVERY: Final = 10.0
#: Mosquitto's count of messages that it dropped because a queue was full; other brokers publish none.
_DROPPED: Final = "$SYS/broker/publish/messages/dropped"
#: Topics whose text is cached: more than a city has sources. Senders may use any number of topics; this bounds the cache.
_TOPICS: Final = 10_000


class GatewayError(CitybeatError):
    """The broker refuses this client for good, or the network thread died; waiting does not help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """Settings of the MQTT session."""

    url: str  # mqtt://user:password@host:port, or mqtts://
    #: Must stay the same: the broker keeps the session's queue under this name.
    client_id: str = "citybeat-ingest"
    #: s that the broker keeps the session's queue while ingest is away: a week, longer than any holiday on which nobody looks.
    expiry: int = 7 * 86_400
    #: Unacknowledged messages that the broker may send: twice the largest batch, so that one arrives while another is committed.
    receive_maximum: int = 10_000
    #: s between pings on a silent connection; a half-open connection is noticed within twice that.
    keepalive: int = 30
    #: File of certificate authorities that are trusted for the broker; None: those of the system.
    ca: Path | None = None


class Gateway:
    """One connection with a persistent session, in paho's thread."""

    def __init__(self, session: Session, inboxes: Inboxes) -> None:
        self._session: Final = session
        self._inboxes: Final = inboxes
        self._url: Final = urlsplit(session.url)
        if self._url.scheme not in {"mqtt", "mqtts"} or not self._url.hostname:
            raise GatewayError("CITYBEAT_MQTT_URL must look like mqtt://user:password@host:1883 (or mqtts://)")
        self._failure: GatewayError | None = None
        self._threads: list[threading.Thread] = []
        #: Number of the current connection.
        self._epoch = 0
        #: Its socket. Acknowledgements are sent through it, not through paho's current socket, which may be the next one already.
        self._line: MqttSocket | None = None
        self._topics: Final[dict[bytes, str]] = {}
        self._received_at = 0  # us since 1970 UTC, of the last message
        #: Messages that were taken and are not acknowledged, by packet identifier.
        self._open: Final[dict[int, Message]] = {}
        #: Protects `_epoch`, `_line` and `_open`. So no acknowledgement for an old connection goes out over a new one.
        self._lock: Final = threading.Lock()
        self._connected: Final = threading.Event()
        #: No message is taken until the connection is renewed; then the broker delivers what was left out.
        self.shedding = False
        self._paused = False
        self._renewed = 0  # number of the connection that `renew` ended last
        self._subscription = 0  # packet id
        self._logged_at = -_LOG_EVERY
        #: Messages of QoS 0 that found no room: the broker does not deliver them again.
        self.lost = 0
        #: Messages that the broker has dropped, by its own count; None: it publishes none.
        self.dropped: int | None = None
        self._client: Final = self._new_client()

    def start(self) -> None:
        """Start connecting; messages are received once connected."""
        connect = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho types all but this
        connect.SessionExpiryInterval = self._session.expiry
        connect.ReceiveMaximum = self._session.receive_maximum  # absent, delivery stops at 20
        self._client.connect_async(
            self._url.hostname or "",
            self._url.port or (8883 if self._url.scheme == "mqtts" else 1883),
            keepalive=self._session.keepalive,
            clean_start=False,  # the default discards the session at every start of the process
            properties=connect,
        )
        self._client.loop_start()
        # paho names its thread after the client and does not expose it. Other threads may start at the same moment.
        name = f"paho-mqtt-client-{self._session.client_id}"
        self._threads = [thread for thread in threading.enumerate() if thread.name == name]

    def check(self) -> None:
        """Make sure that the connection works, or is being re-established.

        Raises
        ------
        GatewayError
            The broker refuses this client, another client took over its session, or the network thread is dead (paho's
            `is_connected()` stays true then).
        """
        if self._failure is not None:
            raise self._failure
        if not all(thread.is_alive() for thread in self._threads):
            raise GatewayError("the MQTT network thread died")

    def wait_connected(self, timeout: float) -> bool:
        """Wait until subscribed; returns False after `timeout` seconds."""
        return self._connected.wait(timeout)

    def acknowledge(self, messages: Sequence[Message]) -> int:
        """Acknowledge messages that are committed or on disk, in order; returns how many.

        Messages that came over an earlier connection, and were not delivered again over this one, are skipped: the broker delivers
        them again if it still has them. After a lost session the broker may use a message's identifier for another message, which
        an acknowledgement over the wrong connection would lose.
        """
        with self._lock:
            current = [message for message in messages if message.epoch == self._epoch]
            for message in messages:
                if self._open.get(message.mid) is message:
                    del self._open[message.mid]
            line = self._line
        if line is not None:
            with suppress(OSError):  # the connection is lost; the next one brings unacknowledged messages again
                line.acknowledge([message.mid for message in current if message.qos > 0])
        return len(current)

    def pause(self) -> None:
        """Take no more messages; those that arrive from now on are delivered again over the session's next connection."""
        self._paused = True

    def renew(self) -> None:
        """Have the broker deliver again the messages that were left out, which it does over a new connection only.

        To be called when every message that was taken is acknowledged, since the others would be delivered again as well.
        """
        if self._renewed != self._epoch and self._line is not None and not self._client.want_write():
            self._renewed = self._epoch
            self._line.shutdown()

    def stop(self) -> None:
        """Send pending packets and disconnect; the session stays."""
        self._client.disconnect()
        self._client.loop_stop()
        self._threads = []

    # --- callbacks, on the network thread: an exception would end it silently ---------------------------------------------------

    def _new_client(self) -> Client:
        client = _Client(self._session.client_id, self._guarded(self._receive))
        if self._url.username is not None:
            client.username_pw_set(unquote(self._url.username), unquote(self._url.password or ""))
        if self._url.scheme == "mqtts":
            client.tls_set_context(self._tls())
        client.reconnect_delay_set(*_RECONNECT)
        client.on_connect = self._guarded(self._on_connect)
        client.on_connect_fail = self._guarded(self._on_connect_fail)
        client.on_disconnect = self._guarded(self._on_disconnect)
        client.on_subscribe = self._guarded(self._on_subscribe)
        return client

    def _guarded(self, callback: Any) -> Any:
        def call(*args: Any) -> None:
            try:
                callback(*args)
            except Exception as exc:
                _LOG.exception("MQTT callback failed")
                self._fail(f"the MQTT connection's callback failed: {exc!r}")

        return call

    def _fail(self, why: str) -> None:
        self._failure = self._failure or GatewayError(why)

    def _on_connect(
        self, client: Client, _data: Any, flags: ConnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        if code.is_failure:
            if code.value in _REFUSED:
                why = f"the broker at {self._place} refused the connection: {code}"
                self._fail(f"{why}; check user and password in CITYBEAT_MQTT_URL")
            else:
                _LOG.warning("the broker at %s refused the connection, will retry: %s", self._place, code)
            return
        with self._lock:
            self._epoch += 1
            line: Any = client.socket()  # made by `_Client`
            self._line = line
            waiting = len(self._open)
        self.shedding = False
        session = "session resumed" if flags.session_present else "new session"
        _LOG.info("connected to the broker at %s, %s; %d messages are not acknowledged yet", self._place, session, waiting)
        # Retained messages only with a new subscription: otherwise each reconnect would deliver every source's status again.
        _, mid = client.subscribe(SUBSCRIPTION, options=SubscribeOptions(qos=1, retainHandling=1))
        self._subscription = mid or 0
        client.subscribe(_DROPPED, options=SubscribeOptions(qos=0))  # a refusal of this one does not matter

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        exc = sys.exc_info()[1]  # paho calls this inside its `except`
        if isinstance(exc, ssl.SSLCertVerificationError):
            why = f"the certificate of the broker at {self._place} cannot be verified: {exc.verify_message}"
            self._fail(f"{why}; CITYBEAT_MQTT_CA names the file of the authority that issued it")
        elif time.monotonic() - self._logged_at >= _LOG_EVERY:
            self._logged_at = time.monotonic()
            _LOG.warning("cannot connect to the broker at %s, will retry: %s", self._place, exc)

    def _on_subscribe(self, _client: Client, _data: Any, mid: int, codes: list[ReasonCode], _properties: Any) -> None:
        if mid != self._subscription:
            return
        if any(code.is_failure for code in codes):
            self._fail(f"the broker at {self._place} refuses the subscription to {SUBSCRIPTION}: {codes[0]}")
            return
        self._connected.set()

    def _on_disconnect(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        self._connected.clear()
        if code.value == _TAKEN_OVER:
            self._fail(f"another client took over the session {self._session.client_id!r}; give each ingest its own client id")
        elif code.is_failure:
            _LOG.warning("connection to the broker at %s lost, will reconnect: %s", self._place, code)

    def _receive(self, found: Sequence[Publication]) -> None:
        """Take in the messages of one read of the network."""
        # Times of receipt are unique: a reading without a time gets its message's, and series and time identify a reading.
        first, epoch = max(time.time_ns() // 1000, self._received_at + 1), self._epoch
        self._received_at = first + len(found) - 1
        messages = [
            Message(
                topic=self._topic(each.topic),
                payload=each.payload,
                received_at=received_at,
                redelivered=each.dup,
                qos=each.qos,
                mid=each.mid,
                epoch=epoch,
            )
            for received_at, each in enumerate(found, first)
        ]
        messages = [message for message in messages if not self._is_about_the_broker(message)]
        with self._lock:
            fresh = [message for message in messages if not (message.redelivered and self._has(message))]
        closed = self.shedding or self._paused
        left = fresh if closed else fresh[self._take(fresh) :]
        self.lost += sum(message.qos == 0 for message in left)
        if left and not closed:
            # Everything that arrives after a message that was left out is left out too: a source's messages must stay in order.
            self.shedding = True
            _LOG.warning("%d bytes of messages wait; no more are taken until all are committed or spooled", self._inboxes.bytes)

    def _topic(self, topic: bytes) -> str:
        text = self._topics.get(topic)
        if text is None:
            if len(self._topics) >= _TOPICS:
                self._topics.clear()
            text = self._topics[topic] = topic.decode(errors="replace")
        return text

    def _is_about_the_broker(self, message: Message) -> bool:
        if message.topic != _DROPPED:
            return False
        self.dropped = int(message.payload)
        return True

    def _has(self, again: Message) -> bool:
        """Return True if a redelivered message was taken already; then it is acknowledged over this connection.

        Waiting messages are kept when a connection is new: a broker that lost its memory would not deliver them again. They are
        not taken twice either: a reading without a time would be stored twice.
        """
        waiting = self._open.get(again.mid)
        if waiting is None or (waiting.topic, waiting.payload) != (again.topic, again.payload):
            return False
        waiting.epoch = self._epoch
        return True

    def _take(self, messages: Sequence[Message]) -> int:
        """Put messages into their inboxes, as long as there is room; returns how many."""
        with self._lock:
            before = [self._open.get(message.mid) for message in messages]
            self._open.update((message.mid, message) for message in messages if message.qos > 0)  # before an acknowledgement
        taken = self._inboxes.put(messages)
        with self._lock:
            for message, other in zip(messages[taken:], before[taken:], strict=True):
                if message.qos == 0:
                    continue
                if other is None:
                    del self._open[message.mid]
                else:
                    self._open[message.mid] = other
        return taken

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._session.ca)
        except OSError as exc:
            raise GatewayError(f"CITYBEAT_MQTT_CA={self._session.ca}: {exc}") from exc

    @property
    def _place(self) -> str:
        return f"{self._url.hostname}:{self._url.port or 1883}"


class _Client(Client):
    """paho's client over an `MqttSocket`. paho wraps the socket in the same place for WebSockets."""

    def __init__(self, client_id: str, deliver: Callable[[Sequence[Publication]], None]) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTv5, manual_ack=True)
        self._deliver: Final = deliver

    def _create_socket(self) -> Any:
        plain: Any = super()._create_socket()
        return MqttSocket(plain, self._deliver)
