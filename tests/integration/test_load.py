"""The load generator against Mosquitto; `test_load_brokers.py` has brokers that are worse."""

import contextlib
import secrets
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import paho.mqtt.client as mqtt
import pytest
import trustme
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from citybeat import stack
from citybeat.devices.wire.mqtt import Version
from citybeat.simulator.address import address
from citybeat.simulator.errors import PublishError
from citybeat.simulator.load.generator import Sender, offer
from citybeat.simulator.load.traffic import Prepared, Traffic
from tests.integration.own_broker import PATIENCE, Cutter, OwnBroker


class Subscriber:
    """Everything that a broker hands on, in a session that outlives its restarts."""

    def __init__(self, url: str, topics: Sequence[str], user: tuple[str, str] | None = None) -> None:
        self.got: list[bytes] = []
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, f"sub-{secrets.token_hex(4)}", protocol=mqtt.MQTTv5)
        if user is not None:
            self._client.username_pw_set(*user)
        self._client.on_message = lambda _c, _d, message: self.got.append(message.payload)
        self._client.on_connect = lambda client, *_: client.subscribe([(topic, 1) for topic in topics])
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.reconnect_delay_set(1, 1)
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval, kept.ReceiveMaximum = 600, 10_000
        parts = urlsplit(url)
        self._client.connect(parts.hostname or "", parts.port or 1883, clean_start=False, properties=kept)
        self._client.loop_start()
        assert self._ready.wait(PATIENCE)

    def wait_for(self, wanted: set[bytes]) -> list[bytes]:
        deadline, missing, seen = time.monotonic() + PATIENCE, set(wanted), 0
        while missing and time.monotonic() < deadline:
            missing.difference_update(self.got[seen : (seen := len(self.got))])
            time.sleep(0.02)
        return list(self.got)

    def close(self) -> None:
        over = Properties(PacketTypes.DISCONNECT)
        over.SessionExpiryInterval = 0
        self._client.disconnect(properties=over)
        self._client.loop_stop()


@contextlib.contextmanager
def listening(url, topics=("#",), user=None):
    subscriber = Subscriber(url, topics, user)
    try:
        yield subscriber
    finally:
        subscriber.close()


@pytest.fixture
def sources(servers: stack.Servers, stack_settings: stack.StackSettings) -> list[Sender]:
    if stack_settings.mqtt_url is not None:
        pytest.skip("a given broker's users are not ours to make")
    names = [f"load-{secrets.token_hex(4)}" for _ in range(3)]
    return [Sender(source=name, password=word) for name, word in stack.credentials(stack_settings, names).items()]


@pytest.fixture
def own_broker(debian_root, servers: stack.Servers, tmp_path):
    if servers.kind != "root":
        pytest.skip("the servers of this run are not from a private root")
    started = []

    def start(*settings: str, **files: str) -> OwnBroker:
        broker = OwnBroker(debian_root, tmp_path / "broker", "\n".join(settings or ("allow_anonymous true",)), files)
        started.append(broker)
        broker.start()
        return broker

    (tmp_path / "broker").mkdir()
    yield start
    for broker in started:
        broker.kill()


def payloads(count: int, name: str = "") -> list[bytes]:
    return [f"{name}{i}".encode() for i in range(count)]


def topics_of(senders):
    """Counts messages of these sources alone: the broker is shared with other tests."""
    return [f"city/v1/{sender.source}/readings" for sender in senders]


def reader(servers):
    parts = urlsplit(servers.mqtt_url)
    return parts.username, parts.password


# --- a broker as it should be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", Version)
def test_what_is_acknowledged_arrives_once_and_in_order(servers, sources, version):
    each = {sender.source: payloads(5000, sender.source) for sender in sources}
    with listening(servers.mqtt_url, topics_of(sources), reader(servers)) as heard:
        report = offer(
            url=servers.mqtt_url,
            senders=sources,
            supplies=[Prepared(each[sender.source], 3) for sender in sources],
            version=version,
            keep=True,
        )
        wanted = {payload for one in each.values() for payload in one}
        got = [payload for payload in heard.wait_for(wanted) if payload in wanted]
    assert (report.messages, report.readings, report.sent, report.sent_readings) == (15_000, 45_000, 15_000, 45_000)
    assert report.complete
    assert (report.unacknowledged, report.refused, report.unheard, report.resent, report.failure) == (0, {}, 0, 0, None)
    assert len(got) == len(wanted)
    for name, mine in each.items():
        assert [payload for payload in got if payload.startswith(name.encode())] == mine
    assert report.sent_bytes > sum(map(len, wanted))
    for i in range(3):
        told = report.timings.of(i)
        assert told.number.tolist() == list(range(5000))
        assert (told.acknowledged_at >= told.sent_at).all()
        assert (np.diff(told.sent_at) >= 0).all()
        assert set(told.reason.tolist()) == {0}
        assert abs(int(told.sent_at[-1]) + told.epoch - time.time_ns()) < PATIENCE * 1e9


def test_made_up_readings_keep_to_a_rate(servers, sources):
    progress, rate = [], 1000.0
    with listening(servers.mqtt_url, topics_of(sources), reader(servers)) as heard:
        report = offer(
            url=servers.mqtt_url,
            senders=sources,
            supplies=[Traffic(sender.source, boot="b", devices=10, size=3) for sender in sources],
            rate=rate,
            duration=2.2,
            progress=progress.append,
        )
        deadline = time.monotonic() + PATIENCE
        while len(heard.got) < report.messages and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(set(heard.got)) >= report.messages
    assert report.complete
    assert report.messages == 2200
    assert report.readings == 6600
    assert report.unsent == 0
    assert report.limited_by == "rate"
    assert report.latency["p50"] <= report.latency_from_schedule["p50"]
    assert report.latency_from_schedule["max"] + 0.1 >= report.lateness["max"] >= report.own_lateness["max"] * 0.99
    assert 1 <= len(progress) <= 2
    assert progress[0].connected == 3
    assert progress[0].messages_per_s == pytest.approx(rate, rel=0.3)


def test_nobody_listens_is_told_apart(own_broker):
    report = offer(url=own_broker().url, senders=[Sender(source="a")], supplies=[Prepared(payloads(500), 2)])
    assert (report.messages, report.readings, report.unheard, report.refused_messages) == (500, 1000, 500, 0)
    assert report.complete


def test_what_the_broker_refuses_is_counted_by_reason(servers, sources):
    """The topic is another's."""
    with listening(servers.mqtt_url, topics_of(sources), reader(servers)):
        supplies = [Prepared(payloads(300), 2), Prepared(payloads(200), 5)]
        report = offer(url=servers.mqtt_url, senders=sources[:2], supplies=supplies, topic=f"city/v1/{sources[1].source}/readings")
    assert report.refused == {"Not authorized": 300}
    assert (report.refused_messages, report.refused_readings, report.messages, report.readings) == (300, 600, 200, 1000)
    assert not report.complete


def test_stop_ends_it(servers, sources):
    stop = threading.Event()
    threading.Timer(0.4, stop.set).start()
    supplies = [Traffic(sources[0].source, boot="b", devices=1, size=3)]
    report = offer(url=servers.mqtt_url, senders=sources[:1], supplies=supplies, rate=100, stop=stop)
    assert 0.3 < report.elapsed < 5
    assert report.complete
    assert report.messages > 10


# --- what is told at the start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", Version)
def test_wrong_credentials_are_told(servers, sources, version):
    wrong = Sender(source=sources[0].source, password="wrong")
    with pytest.raises(PublishError, match=f"refuses user '{sources[0].source}': (Not authorized|Bad user name)"):
        offer(url=servers.mqtt_url, senders=[wrong], supplies=[Prepared([])], version=version)


def test_an_absent_broker_is_told():
    with pytest.raises(PublishError, match=r"no MQTT broker answers at 127\.0\.0\.1:9"):
        offer(url="mqtt://127.0.0.1:9", senders=[Sender(source="a")], supplies=[Prepared([])])


@pytest.mark.parametrize("url", ["http://h", "mqtt://h:x", "h:1883", "mqtt://"])
def test_a_url_that_is_none_is_told(url):
    with pytest.raises(ValueError, match="not the URL of an MQTT broker"):
        offer(url=url, senders=[Sender(source="a")], supplies=[Prepared([])])


def test_arguments_must_make_sense():
    with pytest.raises(ValueError, match="one supply for each sender"):
        offer(url="mqtt://h", senders=[Sender(source="a")], supplies=[])
    with pytest.raises(ValueError, match="above 0"):
        offer(url="mqtt://h", senders=[Sender(source="a")], supplies=[Prepared([])], rate=0)


# --- a broker with settings of its own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", Version)
def test_a_small_receive_maximum_is_kept(own_broker, version):
    """Mosquitto ends the connection of a publisher that does not."""
    broker = own_broker("allow_anonymous true", "max_inflight_messages 3")
    with listening(broker.url) as heard:
        supplies = [Prepared(payloads(3000, "a")), Prepared(payloads(3000, "b"))]
        senders = [Sender(source="a"), Sender(source="b")]
        report = offer(url=broker.url, senders=senders, supplies=supplies, version=version, topic="t/{source}")
        wanted = set(payloads(3000, "a") + payloads(3000, "b"))
        assert set(heard.wait_for(wanted)) == wanted
    assert (report.messages, report.reconnects, report.complete) == (6000, 0, True)


def test_a_packet_that_is_too_large_is_told_and_not_sent(own_broker):
    broker = own_broker("allow_anonymous true", "max_packet_size 1000")
    with pytest.raises(PublishError, match=r"a packet of 15\d\d bytes is too large: .* takes at most 1000 bytes"):
        offer(url=broker.url, senders=[Sender(source="a")], supplies=[Prepared([b"x" * 500, b"x" * 1500])])
    later = Prepared([b"x" * 500] * 1000 + [b"x" * 1500])
    report = offer(url=broker.url, senders=[Sender(source="a")], supplies=[later])
    assert "takes at most 1000 bytes" in report.failure
    assert not report.complete
    assert report.reconnects == 0


def test_tls_and_a_password(own_broker, tmp_path):
    ours, other = trustme.CA(), trustme.CA()
    for name, authority in (("ours", ours), ("other", other)):
        authority.cert_pem.write_to_path(tmp_path / f"{name}.pem")
    issued = ours.issue_cert("127.0.0.1")
    broker = own_broker(
        "allow_anonymous true",
        "certfile /config/cert",
        "keyfile /config/key",
        cert="".join(blob.bytes().decode() for blob in issued.cert_chain_pems),
        key=issued.private_key_pem.bytes().decode(),
    )
    url = broker.url.replace("mqtt:", "mqtts:")
    supply = [secrets.token_bytes(3000) for _ in range(2000)]
    report = offer(url=url, senders=[Sender(source="a")], supplies=[Prepared(supply)], ca=str(tmp_path / "ours.pem"))
    assert (report.messages, report.complete) == (2000, True)
    with pytest.raises(PublishError, match="certificate verify failed"):
        offer(url=url, senders=[Sender(source="a")], supplies=[Prepared([])], ca=str(tmp_path / "other.pem"))
    with pytest.raises(PublishError, match="cannot be used"):
        offer(url=url, senders=[Sender(source="a")], supplies=[Prepared([])], ca=str(tmp_path / "none.pem"))


@pytest.mark.parametrize("version", Version)
def test_a_broker_that_goes_and_comes_back_costs_no_message(own_broker, version):
    broker = own_broker("allow_anonymous true", "max_queued_messages 1000000", "max_inflight_messages 1000")
    flows, gone = threading.Event(), threading.Event()

    def progress(now):
        (gone if now.connected == 0 else flows).set()

    each = [payloads(6000, name) for name in "ab"]
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(
            offer,
            url=broker.url,
            senders=[Sender(source=name) for name in "ab"],
            supplies=[Prepared(one) for one in each],
            version=version,
            topic="t/{source}",
            rate=3000,
            progress=progress,
            keep=True,
        )
        assert flows.wait(PATIENCE)
        broker.kill()
        assert gone.wait(PATIENCE)
        broker.start()  # by this thread: the kernel ends a server with the thread that started it
        report = run.result(PATIENCE)
    assert report.complete, report
    assert report.reconnects >= 2
    assert report.messages == report.sent == 12_000
    assert report.limits["connection"] > 0
    assert report.latency_from_schedule["max"] > report.latency_from_schedule["p50"] + 100, (
        "the gap is paid for by what fell into it"
    )
    assert report.own_lateness["max"] < report.lateness["max"]
    assert (report.timings.acknowledged_at >= 0).all()


def test_nothing_acknowledged_is_lost_when_connections_break(own_broker):
    """The broker stays, with a subscriber that counts; the connections to it are reset again and again."""
    broker = own_broker("allow_anonymous true", "max_queued_messages 1000000", "max_inflight_messages 1000")
    each = [payloads(8000, name) for name in "ab"]
    with listening(broker.url) as heard, Cutter(broker.port) as cutter:
        report = offer(
            url=f"mqtt://127.0.0.1:{cutter.port}",
            senders=[Sender(source=name) for name in "ab"],
            supplies=[Prepared(one) for one in each],
            topic="t/{source}",
            rate=8000,
        )
        wanted = {payload for one in each for payload in one}
        got = heard.wait_for(wanted)
    assert set(got) == wanted
    assert report.complete, report
    assert report.messages == 16_000
    assert report.reconnects >= 3
    assert len(got) <= 16_000 + report.resent, "what came twice was sent again"


def test_a_broker_that_stays_away_ends_it_with_what_there_is(own_broker):
    broker = own_broker()
    threading.Timer(0.5, broker.kill).start()
    supplies = [Traffic("a", boot="b", devices=1, size=1)]
    report = offer(url=broker.url, senders=[Sender(source="a")], supplies=supplies, rate=1000, patience=1.5)
    assert "no MQTT broker answers" in report.failure
    assert "lost 1.5 s ago" in report.failure
    assert not report.complete
    assert report.messages > 100
    assert report.elapsed < 15


def test_tls_context_is_not_shared_with_the_system(tmp_path):
    """The option replaces the system's authorities; it does not add to them."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ours.pem")
    to = address("mqtts://h", ca=str(tmp_path / "ours.pem"))
    assert to.port == 8883
    assert len(to.tls.get_ca_certs()) == 1
    assert to.tls.verify_mode == ssl.CERT_REQUIRED
    assert to.tls.check_hostname
