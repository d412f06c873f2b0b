"""The MQTT connection: messages in, acknowledgements out. The only module of this room that knows paho.

paho connects, subscribes and keeps the connection; messages and acknowledgements go by the socket beneath it
(`ingest/transport/mqtt_socket.py`). A message is acknowledged when the pipeline says so, which is after its readings are committed.
What goes wrong with acknowledgements otherwise is listed where each precaution stands.
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
#: s between two tries to connect; the broker of a city restarts in seconds.
_RECONNECT: Final = (1, 5)
#: s between two lines that say the same.
_SAY_EVERY: Final = 10.0
#: Mosquitto's count of messages that it threw away for want of room in a queue; other brokers publish none.
_DROPPED: Final = "$SYS/broker/publish/messages/dropped"
#: Topics whose text is remembered: more than a city has sources. They may be any number, which is bounded so.
_TOPICS: Final = 10_000


class GatewayError(CitybeatError):
    """The broker will not serve us, or the connection's thread died; waiting would not help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """How we present ourselves to the broker."""

    url: str  # mqtt://user:password@host:port, or mqtts://
    #: Stable, or the broker would keep our queue under a name that nobody comes back to.
    client_id: str = "citybeat-ingest"
    #: s the broker keeps our queue while we are away: a week, longer than any holiday nobody looks.
    expiry: int = 7 * 86_400
    #: Unacknowledged messages the broker may send us: twice the largest batch, so that the next comes in while one is committed.
    receive_maximum: int = 10_000
    #: s between pings on a silent connection; one that is half open is noticed within twice that.
    keepalive: int = 30
    #: Certificates of authorities that may vouch for the broker; None: those of the system.
    ca: Path | None = None


class Gateway:
    """One connection with a persistent session, in a thread of its own."""

    def __init__(self, session: Session, inboxes: Inboxes) -> None:
        self._session: Final = session
        self._inboxes: Final = inboxes
        self._url: Final = urlsplit(session.url)
        if self._url.scheme not in {"mqtt", "mqtts"} or not self._url.hostname:
            raise GatewayError("CITYBEAT_MQTT_URL must look like mqtt://user:password@host:1883 (or mqtts://)")
        self._failure: GatewayError | None = None
        self._threads: list[threading.Thread] = []
        #: Counts connections.
        self._epoch = 0
        #: Of this one. Acknowledgements go by it, not by whatever paho has when they are sent: that may be the next one already.
        self._line: MqttSocket | None = None
        self._topics: Final[dict[bytes, str]] = {}
        self._received_at = 0  # us since 1970 UTC, of the last message
        #: What was taken and is not acknowledged, by packet identifier.
        self._open: Final[dict[int, Message]] = {}
        #: Of both. Held while acknowledging, so that no acknowledgement of an old connection slips into a new one.
        self._lock: Final = threading.Lock()
        self._connected: Final = threading.Event()
        #: Nothing is taken any more until the connection is renewed. The broker delivers it again.
        self.shedding = False
        self._paused = False
        self._renewed = 0  # the connection that was given up last
        self._subscription = 0  # packet id
        self._said = -_SAY_EVERY
        #: Messages of QoS 0 that there was no room for: they do not come again.
        self.lost = 0
        #: What the broker says it has thrown away; None: it does not say.
        self.dropped: int | None = None
        self._client: Final = self._new_client()

    def start(self) -> None:
        """Begin to connect, and to receive once connected."""
        connect = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho types all but this
        connect.SessionExpiryInterval = self._session.expiry
        connect.ReceiveMaximum = self._session.receive_maximum  # absent, delivery stops at 20
        self._client.connect_async(
            self._url.hostname or "",
            self._url.port or (8883 if self._url.scheme == "mqtts" else 1883),
            keepalive=self._session.keepalive,
            clean_start=False,  # the default wipes the session at every start of the process
            properties=connect,
        )
        self._client.loop_start()
        # paho names its thread after the client, and does not hand it out. Others may begin at the same moment.
        name = f"paho-mqtt-client-{self._session.client_id}"
        self._threads = [thread for thread in threading.enumerate() if thread.name == name]

    def check(self) -> None:
        """Raise what went wrong for good.

        Raises
        ------
        GatewayError
            The broker refuses us, another client took our session, or the network thread is dead (`is_connected()` stays true).
        """
        if self._failure is not None:
            raise self._failure
        if not all(thread.is_alive() for thread in self._threads):
            raise GatewayError("the MQTT network thread died")

    def wait_connected(self, timeout: float) -> bool:
        """Wait until subscribed; False after `timeout` seconds without."""
        return self._connected.wait(timeout)

    def acknowledge(self, messages: Sequence[Message]) -> int:
        """Acknowledge messages that are committed or on disk, in order; how many.

        Those that came over an earlier connection, and not again over this one, will be delivered again if the broker still has
        them. A lost session may give a message's identifier to another one: an acknowledgement over the wrong connection would
        lose that.
        """
        with self._lock:
            current = [message for message in messages if message.epoch == self._epoch]
            for message in messages:
                if self._open.get(message.mid) is message:
                    del self._open[message.mid]
            line = self._line
        if line is not None:
            with suppress(OSError):  # the connection is lost, and what is not acknowledged comes again over the next
                line.acknowledge([message.mid for message in current if message.qos > 0])
        return len(current)

    def pause(self) -> None:
        """Take no more messages; those that come now are delivered again to whoever connects next."""
        self._paused = True

    def renew(self) -> None:
        """Have the broker deliver again what was left out: it does so over a new connection only.

        For when everything that was taken is acknowledged; the rest would come again as well.
        """
        if self._renewed != self._epoch and self._line is not None and not self._client.want_write():
            self._renewed = self._epoch
            self._line.shutdown()

    def stop(self) -> None:
        """Send what is still to be sent, and disconnect; the session stays."""
        self._client.disconnect()
        self._client.loop_stop()
        self._threads = []

    # --- callbacks: on the network thread; an exception here would kill it silently ---------------------------------------------

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
                self._fail(f"the broker at {self._place} refuses us: {code}; check user and password in CITYBEAT_MQTT_URL")
            else:
                _LOG.warning("the broker at %s does not take us now: %s", self._place, code)
            return
        with self._lock:
            self._epoch += 1
            line: Any = client.socket()  # which `_Client` made
            self._line = line
            waiting = len(self._open)
        self.shedding = False
        session = "session resumed" if flags.session_present else "new session"
        _LOG.info("connected to %s, %s; %d messages are not acknowledged yet", self._place, session, waiting)
        # Retained messages only when the subscription is new: otherwise each reconnect would bring every source's status again.
        _, mid = client.subscribe(SUBSCRIPTION, options=SubscribeOptions(qos=1, retainHandling=1))
        self._subscription = mid or 0
        client.subscribe(_DROPPED, options=SubscribeOptions(qos=0))  # whether we may is no matter

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        exc = sys.exc_info()[1]  # paho calls this where it caught it
        if isinstance(exc, ssl.SSLCertVerificationError):
            why = f"the certificate of the broker at {self._place} is not to be trusted: {exc.verify_message}"
            self._fail(f"{why}; CITYBEAT_MQTT_CA names the authority that vouches for it")
        elif time.monotonic() - self._said >= _SAY_EVERY:
            self._said = time.monotonic()
            _LOG.warning("no connection to %s: %s", self._place, exc)

    def _on_subscribe(self, _client: Client, _data: Any, mid: int, codes: list[ReasonCode], _properties: Any) -> None:
        if mid != self._subscription:
            return
        if any(code.is_failure for code in codes):
            self._fail(f"the broker at {self._place} does not let us subscribe to {SUBSCRIPTION}: {codes[0]}")
            return
        self._connected.set()

    def _on_disconnect(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        self._connected.clear()
        if code.value == _TAKEN_OVER:
            self._fail(f"another client took over the session {self._session.client_id!r}; give each ingest its own client id")
        elif code.is_failure:
            _LOG.warning("connection to %s lost: %s", self._place, code)

    def _receive(self, found: Sequence[Publication]) -> None:
        """What one read of the network brought."""
        # No two messages at one time: readings without a time of their own get their message's, and are told apart by it.
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
            # Whatever comes after it is left out as well, or a source's messages would change places.
            self.shedding = True
            _LOG.warning("%d bytes of messages wait; no more are taken until they are committed or spooled", self._inboxes.bytes)

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
        """Whether a message that is delivered again is on its way already; then it can be acknowledged over this connection.

        Were those that wait thrown away when the connection is new, in trust that they come again, a broker that lost its memory
        would lose them; were they taken twice, a reading without a time would be stored twice.
        """
        waiting = self._open.get(again.mid)
        if waiting is None or (waiting.topic, waiting.payload) != (again.topic, again.payload):
            return False
        waiting.epoch = self._epoch
        return True

    def _take(self, messages: Sequence[Message]) -> int:
        """Put messages into their inboxes, as long as there is room; how many."""
        with self._lock:
            before = [self._open.get(message.mid) for message in messages]
            self._open.update((message.mid, message) for message in messages if message.qos > 0)  # first: a lane may be quick
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
    """paho over a socket of ours. It has such a socket of its own for WebSockets, made in the same place."""

    def __init__(self, client_id: str, deliver: Callable[[Sequence[Publication]], None]) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTv5, manual_ack=True)
        self._deliver: Final = deliver

    def _create_socket(self) -> Any:
        plain: Any = super()._create_socket()
        return MqttSocket(plain, self._deliver)
