"""The publisher against a real broker."""

import contextlib
import secrets
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from citybeat import stack
from citybeat.devices.wire.mqtt import Kind, acknowledgements, packet_end, publication
from citybeat.simulator.city import layout as cities
from citybeat.simulator.errors import PublishError, PublishStoppedError
from citybeat.simulator.feed import Receipt
from citybeat.simulator.publisher import Publisher
from citybeat.simulator.replay.files import replay
from citybeat.simulator.replay.maps import load_map
from citybeat.simulator.run import run
from tests.integration.test_load_brokers import Broker


class Listener:
    """Messages of a source as the ingest user receives them."""

    def __init__(self, url: str, topic: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self.messages: list[tuple[str, bytes, bool]] = []
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"listener-{secrets.token_hex(4)}", protocol=mqtt.MQTTv5)
        self._client.username_pw_set(parts.username, parts.password)
        self._client.on_message = lambda _c, _d, m: self.messages.append((m.topic, m.payload, m.retain))
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        kept = Properties(PacketTypes.CONNECT)  # a session that outlives a restart of the broker that tests share
        kept.SessionExpiryInterval = 60
        self._client.connect(parts.hostname, parts.port or 1883, clean_start=False, properties=kept)
        self._client.loop_start()
        assert self._ready.wait(10)

    def wait_for(self, count: int, timeout: float = 10) -> list[tuple[str, bytes, bool]]:
        deadline = time.monotonic() + timeout
        while len(self.messages) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.messages

    def wait_for_readings(self, wanted: set[bytes], timeout: float = 10) -> set[bytes]:
        """Distinct payloads of readings, as soon as all that are wanted are among them."""
        deadline = time.monotonic() + timeout
        while True:
            heard = {payload for topic, payload, _ in list(self.messages) if topic.endswith("/readings")}
            if heard >= wanted or time.monotonic() > deadline:
                return heard
            time.sleep(0.01)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def source() -> str:
    return f"pub-{secrets.token_hex(4)}"


@pytest.fixture
def password(servers: stack.Servers, stack_settings: stack.StackSettings, source: str) -> str:
    if stack_settings.mqtt_url is not None:
        pytest.skip("a given broker's users are not ours to make")
    return stack.credentials(stack_settings, [source])[source]


@pytest.fixture
def listener(servers: stack.Servers, source: str):
    heard = Listener(servers.mqtt_url, f"city/v1/{source}/#")
    yield heard
    heard.close()


def test_everything_acknowledged_arrives_in_order(servers, source, password, listener):
    link = Publisher(url=servers.mqtt_url, source=source, password=password, window=5)
    for i in range(500):
        link.publish("readings", b"%d" % i, readings=3)
    assert link.drain(10)
    assert (link.sent, link.acknowledged_messages, link.acknowledged_readings, link.refused) == (500, 500, 1500, {})
    link.close()
    heard = listener.wait_for(502)
    assert [payload for topic, payload, _ in heard if topic.endswith("/readings")] == [b"%d" % i for i in range(500)]
    assert [payload for topic, payload, _ in heard if topic.endswith("/status")] == [b"online", b"offline"]


def test_the_last_will_says_offline(servers, source, password, listener):
    link = Publisher(url=servers.mqtt_url, source=source, password=password)
    listener.wait_for(1)
    link.drop()
    heard = listener.wait_for(3)
    link.close()
    assert [payload for _, payload, _ in heard[:3]] == [b"online", b"offline", b"online"]


def test_a_lost_connection_loses_nothing(servers, source, password, listener):
    link = Publisher(url=servers.mqtt_url, source=source, password=password)
    for i in range(300):
        if i == 150:
            link.drop()
        link.publish("readings", b"%d" % i, readings=1)
    assert link.drain(20)
    assert link.acknowledged_messages == 300
    link.close()
    # What was unanswered when the connection broke is sent again, and may come twice: so the last one is waited for, not a number.
    expected = {b"%d" % i for i in range(300)}
    assert listener.wait_for_readings(expected) == expected


def test_receipts_are_told_what_the_broker_said(servers, source, password, listener):
    link = Publisher(url=servers.mqtt_url, source=source, password=password)
    before = time.time_ns() // 1000
    good = [link.publish("readings", b"%d" % i, readings=1) for i in range(100)]
    link.source = "somebody-else"  # its topics are not ours
    bad = link.publish("readings", b"{}", readings=7)
    assert link.drain(10)
    link.source = source
    assert [receipt.acknowledged for receipt in good] == [True] * 100
    assert bad.acknowledged is False
    sent = [receipt.sent_at for receipt in (*good, bad)]
    assert before <= sent[0]
    assert sent == sorted(sent)
    assert sent[-1] <= time.time_ns() // 1000
    # Broken when all is acknowledged, a connection costs nothing: what comes after it arrives once, and in order.
    link.drop()
    after = [b"after %d" % i for i in range(50)]
    for payload in after:
        link.publish("readings", payload, readings=1)
    assert link.drain(20)
    link.close()
    listener.wait_for_readings(set(after))
    assert [payload for topic, payload, _ in listener.messages if topic.endswith("/readings")] == [
        *(b"%d" % i for i in range(100)),
        *after,
    ]


def test_wrong_credentials_and_an_absent_broker_are_told(servers, source, password):
    with pytest.raises(PublishError, match=f"refuses user '{source}'"):
        Publisher(url=servers.mqtt_url, source=source, password="wrong")
    with pytest.raises(PublishError, match=r"no MQTT broker answers at 127\.0\.0\.1:9"):
        Publisher(url="mqtt://127.0.0.1:9", source=source, password=None)


def test_what_the_broker_refuses_is_counted_and_named(servers, source, password, listener):
    link = Publisher(url=servers.mqtt_url, source=source, password=password)
    link.source = "somebody-else"  # its topics are not ours
    link.publish("readings", b"{}", readings=7)
    assert link.drain(10)
    link.source = source
    link.publish("readings", b"{}", readings=2)
    assert link.drain(10)
    assert dict(link.refused) == {"Not authorized": 1}
    assert (link.refused_messages, link.refused_readings, link.acknowledged_readings) == (1, 7, 2)
    link.close()


def test_what_nobody_subscribes_to_is_no_success(servers, source, password):
    """The broker acknowledges it and forgets it; MQTT 5 lets it say so."""
    link = Publisher(url=servers.mqtt_url, source=source, password=password)
    link.publish("readings", b"{}", readings=2)
    assert link.drain(10)
    assert dict(link.refused) == {"No matching subscribers": 1}
    assert (link.acknowledged_messages, link.refused_readings) == (0, 2)
    link.close()


def test_a_callback_that_raises_does_not_go_unnoticed(servers, source, password):
    link = Publisher(url=servers.mqtt_url, source=source, password=password)
    link._count = None  # type: ignore[assignment]
    link.publish("readings", b"{}", readings=1)
    with pytest.raises(PublishError, match="internal error of the publisher"):
        link.drain(10)
    link.close()


def test_a_full_window_waits_and_can_be_stopped(servers, source, password):
    stop = threading.Event()
    link = Publisher(url=servers.mqtt_url, source=source, password=password, window=1, stop=stop)
    with link._changed:
        link._waiting[65_000] = 0, Receipt()  # a message that is never answered
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(PublishStoppedError):
        link.publish("readings", b"{}", readings=1)
    assert not link.drain(0.1)
    link.close()


def test_a_city_and_a_recording_through_the_broker(servers, source, password, listener, tmp_path: Path):
    city = cities.build(devices=20, gateways=[source], seed=5)
    report = run(city, url=servers.mqtt_url, passwords={source: password}, stop=threading.Event(), speed=3600, duration=1)
    assert report.complete
    assert report.messages == report.sources[0].last_seq + 1 > 0
    assert report.unacknowledged_readings == report.refused_readings == 0
    file = tmp_path / "a.csv"
    file.write_text("t,v\n" + "".join(f"{i},{i / 8}\n" for i in range(1000)))
    replay_map = load_map(
        f"time: {{columns: [t], format: unix}}\n"
        f"devices: [{{id: a, source: {source}, domain: environment, columns: {{v: {{metric: pm25}}}}}}]",
        origin="test",
    )
    told = replay([file], replay_map, url=servers.mqtt_url, passwords={source: password}, register=lambda _: None, batch=7)
    assert (told.readings, told.messages, told.complete) == (1000, 143, True)
    assert len({payload for topic, payload, _ in listener.wait_for(report.messages + 143 + 4) if "readings" in topic}) == (
        report.messages + 143
    )


def received(link):
    """Payloads and identifiers of PUBLISH packets, as they come; until the other end closes."""
    data = b""
    while more := link.recv(65_536):
        data += more
        at, found = 0, []
        while at < len(data):
            body, end = packet_end(data, at)
            if not 0 < end <= len(data):
                break
            if data[at] & 0xF0 == Kind.PUBLISH:
                read = publication(data, at, body, end)
                found.append((read.payload, read.mid))
            at = end
        data = data[at:]
        yield found


def test_what_has_no_answer_comes_again_first_and_in_order():
    seen = [[], []]

    def silent(link):
        for found in received(link):
            seen[0] += [payload for payload, _ in found]
            if b"9" in seen[0]:
                return

    def answering(link):
        for found in received(link):
            seen[1] += [payload for payload, _ in found]
            link.sendall(acknowledgements([mid for _, mid in found]))

    broker = Broker(silent, answering)
    link = Publisher(url=broker.url, source="gw-01", password=None)
    for i in range(10):
        link.publish("readings", b"%d" % i, readings=1)
    deadline = time.monotonic() + 10
    while not seen[0] and time.monotonic() < deadline:
        time.sleep(0.01)
    for i in range(10, 20):
        link.publish("readings", b"%d" % i, readings=1)
    assert link.drain(20)
    link.close()
    broker.close()
    assert [payload for payload in seen[1] if payload.isdigit()] == [b"%d" % i for i in range(20)]
    assert (link.sent, link.acknowledged_messages, link.acknowledged_readings) == (20, 20, 20)


def test_a_broker_that_drops_a_source_for_good_is_told():
    def banned(link):
        next(received(link))
        link.sendall(b"\xe0\x01\x8a")
        with contextlib.suppress(ConnectionResetError):
            while link.recv(65_536):  # to close with unread bytes would reset the connection, and lose the answer
                pass

    broker = Broker(banned)
    link = Publisher(url=broker.url, source="gw-01", password=None)
    link.publish("readings", b"{}", readings=1)
    with pytest.raises(PublishError, match="dropped user 'gw-01': Banned"):
        link.drain(10)
    with pytest.raises(PublishError, match="Banned"):
        link.publish("readings", b"{}", readings=1)
    link.close()
    broker.close()
