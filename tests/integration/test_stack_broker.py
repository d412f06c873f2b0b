"""Rights at the broker, tried with a real client; and messages that it has acknowledged are kept."""

import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from citybeat import stack

if TYPE_CHECKING:
    from paho.mqtt.reasoncodes import ReasonCode

PATIENCE = 15  # seconds

NOT_AUTHORIZED = 0x87
NO_MATCHING_SUBSCRIBERS = 0x10


@dataclass
class Client:
    """A client whose answers can be waited for."""

    client: mqtt.Client
    connected: "queue.Queue[ReasonCode]" = field(default_factory=queue.Queue)
    acknowledged: "queue.Queue[tuple[int, ReasonCode]]" = field(default_factory=queue.Queue)
    messages: "queue.Queue[mqtt.MQTTMessage]" = field(default_factory=queue.Queue)
    limits: "queue.Queue[Any]" = field(default_factory=queue.Queue)
    disconnected: "queue.Queue[ReasonCode]" = field(default_factory=queue.Queue)
    subscribed: threading.Event = field(default_factory=threading.Event)

    def publish(self, topic: str, payload: bytes) -> int:
        """Publish at QoS 1; the reason code of the acknowledgement."""
        mid = self.client.publish(topic, payload, qos=1).mid
        got, reason = self.acknowledged.get(timeout=PATIENCE)
        assert got == mid
        return reason.value

    def subscribe(self, topic: str) -> None:
        self.subscribed.clear()
        self.client.subscribe(topic, qos=1)
        assert self.subscribed.wait(PATIENCE)


@contextmanager
def client(
    servers: stack.Servers,
    user: str,
    password: str,
    protocol: mqtt.MQTTProtocolVersion = mqtt.MQTTv5,
    **connect: object,
) -> Iterator[Client]:
    url = urlsplit(servers.mqtt_url)
    me = Client(
        mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=f"{user}-{secrets.token_hex(4)}",
            protocol=protocol,
            reconnect_on_failure=False,
        )
    )
    me.client.username_pw_set(user, password)

    def connected(_client: object, _data: object, _flags: object, reason: "ReasonCode", properties: object) -> None:
        me.connected.put(reason)
        me.limits.put(properties)

    me.client.on_connect = connected
    me.client.on_disconnect = lambda _c, _u, _f, reason, _p: me.disconnected.put(reason)
    me.client.on_publish = lambda _c, _u, mid, reason, _p: me.acknowledged.put((mid, reason))
    me.client.on_message = lambda _c, _u, message: me.messages.put(message)
    me.client.on_subscribe = lambda *_: me.subscribed.set()
    assert url.hostname is not None
    assert url.port is not None
    me.client.connect(url.hostname, url.port, **connect)  # type: ignore[arg-type]
    me.client.loop_start()
    try:
        yield me
    finally:
        me.client.disconnect()
        me.client.loop_stop()


@pytest.fixture
def source(servers: stack.Servers, stack_settings: stack.StackSettings) -> Callable[[], tuple[str, str]]:
    """Make a source with a name that nobody has, while the broker runs."""
    if stack_settings.mqtt_url is not None:
        pytest.skip("the users of a given broker are not ours to make")

    def make() -> tuple[str, str]:
        name = f"test-{secrets.token_hex(6)}"
        return name, stack.credentials(stack_settings, [name])[name]

    return make


def ingest(servers: stack.Servers) -> tuple[str, str]:
    url = urlsplit(servers.mqtt_url)
    assert url.username is not None
    assert url.password is not None
    return url.username, url.password


Source = Callable[[], tuple[str, str]]


def test_a_source_writes_under_its_own_name_only(servers: stack.Servers, source: Source):
    name, password = source()
    other, _ = source()
    with client(servers, *ingest(servers)) as reader, client(servers, name, password) as writer:
        reader.subscribe(f"city/v1/{name}/#")
        reader.subscribe(f"city/v1/{other}/#")
        assert writer.publish(f"city/v1/{other}/readings", b"forged") == NOT_AUTHORIZED
        for topic in ("city/v1/readings", f"city/v2/{name}/readings", name, f"city/v1/{name}x/readings", "$SYS/x"):
            assert writer.publish(topic, b"elsewhere") == NOT_AUTHORIZED, topic
        assert writer.publish(f"city/v1/{name}/readings", b"mine") == 0
        assert reader.messages.get(timeout=PATIENCE).payload == b"mine"
        assert reader.messages.empty()


def test_mqtt_3_cannot_be_told_that_it_may_not_write_but_may_not(servers: stack.Servers, source: Source):
    name, password = source()
    other, _ = source()
    with client(servers, *ingest(servers)) as reader, client(servers, name, password, mqtt.MQTTv311) as writer:
        reader.subscribe(f"city/v1/{other}/#")
        assert writer.publish(f"city/v1/{other}/readings", b"forged") == 0  # a limit of the protocol, in docs/stack.md
        time.sleep(0.5)
        assert reader.messages.empty()


def test_a_source_reads_nothing(servers: stack.Servers, source: Source):
    name, password = source()
    other, other_password = source()
    with client(servers, name, password) as spy, client(servers, other, other_password) as writer:
        for topic in ("city/v1/#", "#", f"city/v1/{name}/#", f"city/v1/{other}/#", "$SYS/#"):
            spy.subscribe(topic)
        writer.publish(f"city/v1/{other}/readings", b"private")
        spy.publish(f"city/v1/{name}/readings", b"own")
        time.sleep(0.5)
        assert spy.messages.empty()


def test_ingest_reads_every_source_and_writes_nothing(servers: stack.Servers, source: Source):
    name, password = source()
    with client(servers, *ingest(servers)) as reader, client(servers, name, password) as writer:
        reader.subscribe("city/v1/+/+")
        reader.subscribe("$SYS/broker/publish/messages/dropped")
        assert writer.publish(f"city/v1/{name}/status", b"online") == 0
        topics = set()
        deadline = time.monotonic() + PATIENCE
        while len(topics) < 2 and time.monotonic() < deadline:
            topic = reader.messages.get(timeout=PATIENCE).topic
            if name in topic or topic.startswith("$SYS"):
                topics.add(topic)
        assert topics == {f"city/v1/{name}/status", "$SYS/broker/publish/messages/dropped"}
        for topic in ("city/v1/ingest/readings", f"city/v1/{name}/readings", "city/v1/ingest/status", "anything"):
            assert reader.publish(topic, b"x") == NOT_AUTHORIZED, topic


@pytest.mark.parametrize("case", ["wrong password", "unknown user", "no name"])
def test_nobody_gets_in_without_a_password(servers: stack.Servers, source: Source, case: str):
    name, password = source()
    user, given = {"wrong password": (name, "wrong"), "unknown user": ("nobody", password), "no name": ("", "")}[case]
    with client(servers, user, given) as intruder:
        assert intruder.connected.get(timeout=PATIENCE).value in {0x86, NOT_AUTHORIZED}


@pytest.mark.parametrize("protocol", [mqtt.MQTTv5, mqtt.MQTTv311])
def test_a_5_mb_message_is_refused_and_harms_nobody(servers: stack.Servers, source: Source, protocol: mqtt.MQTTProtocolVersion):
    name, password = source()
    neighbour, neighbour_password = source()
    with (
        client(servers, *ingest(servers)) as reader,
        client(servers, neighbour, neighbour_password) as other,
    ):
        reader.subscribe(f"city/v1/{name}/#")
        reader.subscribe(f"city/v1/{neighbour}/#")
        assert other.publish(f"city/v1/{neighbour}/readings", b"before") == 0
        with client(servers, name, password, protocol) as writer:
            writer.connected.get(timeout=PATIENCE)
            if protocol == mqtt.MQTTv5:
                assert writer.limits.get(timeout=PATIENCE).MaximumPacketSize == 4 * 1024 * 1024
            writer.client.publish(f"city/v1/{name}/readings", b"x" * 5_000_000, qos=1)
            reason = writer.disconnected.get(timeout=PATIENCE)
            assert reason.is_failure
            assert writer.acknowledged.empty()  # what is refused is never acknowledged
        with client(servers, name, password, protocol) as writer:
            assert writer.publish(f"city/v1/{name}/readings", b"y" * 4_000_000) == 0
            assert writer.publish(f"city/v1/{name}/readings", b"next") == 0
        assert other.publish(f"city/v1/{neighbour}/readings", b"after") == 0
        sizes = [len(reader.messages.get(timeout=PATIENCE).payload) for _ in range(4)]
        assert sizes == [6, 4_000_000, 4, 5]
        assert other.disconnected.empty()


def test_the_broker_keeps_what_an_absent_reader_should_get(servers: stack.Servers, source: Source):
    name, password = source()
    user, secret = ingest(servers)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 600
    session = {"properties": properties, "clean_start": False}
    with client(servers, user, secret, **session) as reader:
        reader.subscribe(f"city/v1/{name}/#")
        identity = reader.client._client_id
    with client(servers, name, password) as writer:
        # More than the 1,000 that a broker keeps by default, acknowledging and dropping the rest.
        for number in range(3000):
            writer.client.publish(f"city/v1/{name}/readings", str(number).encode(), qos=1)
        reasons = {writer.acknowledged.get(timeout=PATIENCE)[1].value for _ in range(3000)}
        assert reasons <= {0, NO_MATCHING_SUBSCRIBERS}
    url = urlsplit(servers.mqtt_url)
    assert url.hostname is not None
    assert url.port is not None
    got: queue.Queue[bytes] = queue.Queue()
    again = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=identity.decode(), protocol=mqtt.MQTTv5)
    again.username_pw_set(user, secret)
    again.on_message = lambda _c, _u, message: got.put(message.payload)
    ends = Properties(PacketTypes.CONNECT)
    ends.SessionExpiryInterval = 0
    again.connect(url.hostname, url.port, clean_start=False, properties=ends)
    again.loop_start()
    try:
        assert [int(got.get(timeout=PATIENCE)) for _ in range(3000)] == list(range(3000))
    finally:
        again.disconnect()
        again.loop_stop()
