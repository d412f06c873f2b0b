"""The load generator against Mosquitto, and against brokers that are worse."""

import contextlib
import secrets
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import paho.mqtt.client as mqtt
import pytest
import trustme
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

import stack
from simulator import packets
from simulator.address import address
from simulator.errors import PublishError
from simulator.load import Sender, offer
from simulator.packets import Version
from simulator.tally import NEVER
from simulator.traffic import Prepared, Traffic
from tests.integration.own_broker import OwnBroker

PATIENCE = 20.0  # s


class Subscriber:
    """Everything that a broker hands on, in a session that outlives its restarts."""

    def __init__(self, url: str, topic: str, user: tuple[str, str] | None = None) -> None:
        self.got: list[bytes] = []
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, f"sub-{secrets.token_hex(4)}", protocol=mqtt.MQTTv5)
        if user is not None:
            self._client.username_pw_set(*user)
        self._client.on_message = lambda _c, _d, message: self.got.append(message.payload)
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
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
def listening(url, topic="#", user=None):
    subscriber = Subscriber(url, topic, user)
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


def reader(servers):
    parts = urlsplit(servers.mqtt_url)
    return parts.username, parts.password


# --- a broker as it should be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", Version)
def test_what_is_acknowledged_arrives_once_and_in_order(servers, sources, version):
    each = {sender.source: payloads(20_000, sender.source) for sender in sources}
    with listening(servers.mqtt_url, "city/v1/+/readings", reader(servers)) as heard:
        report = offer(
            url=servers.mqtt_url,
            senders=sources,
            supplies=[Prepared(each[sender.source], 3) for sender in sources],
            version=version,
            keep=True,
        )
        wanted = {payload for one in each.values() for payload in one}
        got = [payload for payload in heard.wait_for(wanted) if payload in wanted]
    assert (report.messages, report.readings, report.sent, report.sent_readings) == (60_000, 180_000, 60_000, 180_000)
    assert report.complete
    assert (report.unacknowledged, report.refused, report.unheard, report.resent, report.failure) == (0, {}, 0, 0, None)
    assert len(got) == len(wanted)
    for name, mine in each.items():
        assert [payload for payload in got if payload.startswith(name.encode())] == mine
    assert report.sent_bytes > sum(map(len, wanted))
    for i in range(3):
        told = report.timings.of(i)
        assert told.number.tolist() == list(range(20_000))
        assert (told.acknowledged_at >= told.sent_at).all()
        assert (np.diff(told.sent_at) >= 0).all()
        assert set(told.reason.tolist()) == {0}
        assert abs(int(told.sent_at[-1]) + told.epoch - time.time_ns()) < PATIENCE * 1e9


def test_made_up_readings_keep_to_a_rate(servers, sources):
    progress, rate = [], 1000.0
    with listening(servers.mqtt_url, "city/v1/+/readings", reader(servers)) as heard:
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
    assert len(progress) == 2
    assert progress[0].connected == 3
    assert sum(second.messages_per_s for second in progress) == pytest.approx(2 * rate, rel=0.2)


def test_nobody_listens_is_told_apart(own_broker):
    report = offer(url=own_broker().url, senders=[Sender(source="a")], supplies=[Prepared(payloads(500), 2)])
    assert (report.messages, report.readings, report.unheard, report.refused_messages) == (500, 1000, 500, 0)
    assert report.complete


def test_what_the_broker_refuses_is_counted_by_reason(servers, sources):
    """The topic is another's."""
    with listening(servers.mqtt_url, "city/v1/+/readings", reader(servers)):
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
    report = offer(url=broker.url, senders=[Sender(source="a")], supplies=[Prepared([b"x" * 500, b"x" * 1500])])
    assert "a packet of 1" in report.failure
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


# --- brokers that are worse ----------------------------------------------------------------------------------------------------


class Cutter:
    """A way to a port on which every connection ends after so many bytes, until there were enough such ends."""

    def __init__(self, port: int, after: int = 40_000, times: int = 5) -> None:
        self._to, self._after, self._left = port, after, times
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets = [self._listener]

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        for each in self._sockets:
            each.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += (near, far)
            for pair in ((near, far, self._after), (far, near, None)):
                self._threads.append(threading.Thread(target=self._pump, args=pair))
                self._threads[-1].start()

    def _pump(self, a, b, limit):
        count = 0
        with contextlib.suppress(OSError):
            while data := a.recv(4096):
                count += len(data)
                b.sendall(data)
                if limit is not None and count > limit and self._left > 0:
                    self._left -= 1
                    break
        for each in (a, b):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class Broker:
    """One connection after the other; each answered by the next of these functions, which is handed the socket after CONNACK."""

    def __init__(self, *behaviours, welcome=b"\x20\x03\x00\x00\x00"):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"
        self.failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._serve, args=(behaviours, welcome))
        self._thread.start()

    def _serve(self, behaviours, welcome):
        for behave in behaviours:
            try:
                link, _ = self._listener.accept()
                with link:
                    link.recv(1000)
                    link.sendall(welcome)
                    behave(link)
            except BaseException as exc:  # told in the test's own thread
                self.failures.append(exc)
                return

    def close(self):
        self._thread.join(PATIENCE)
        self._listener.close()
        assert not self.failures, self.failures


def taken(link, *, version=Version.V5):
    """Identifiers and payloads of PUBLISH packets with payloads of 8 bytes, as they come; until the other end closes."""
    head = len(packets.Frame(version, "t").head(8)[0])
    data = b""
    while True:
        try:
            more = link.recv(65_536)
        except ConnectionResetError:
            return
        if not more:
            return
        data += more
        found = []
        while len(data) >= head + 8 and data[0] == 0x32:
            found.append((int.from_bytes(data[head - 3 : head - 1], "big"), data[head : head + 8]))
            data = data[head + 8 :]
        if found:
            yield found


def offered(broker, supply, **options):
    try:
        return offer(url=broker.url, senders=[Sender(source="a")], supplies=[supply], topic="t", **options)
    finally:
        broker.close()


def fixed(count):
    return [b"%8d" % i for i in range(count)]


def test_answers_out_of_order_and_in_every_form_are_taken():
    waiting: list[int] = []
    most = 0

    def behave(link):
        nonlocal most
        rng = np.random.default_rng(1)
        for found in taken(link):
            waiting.extend(mid for mid, _ in found)
            most = max(most, len(waiting))
            rng.shuffle(waiting)
            out = b""
            # All but some are answered, until nothing new comes; forms are those of a broker that gives reasons and says pages.
            while len(waiting) > 5 or (out and waiting):
                mid = waiting.pop().to_bytes(2, "big")
                form = [b"\x40\x02%b", b"\x40\x03%b\x00", b"\x40\x04%b\x00\x00", b"\x40\x09%b\x00\x05\x1f\x00\x02ok"][
                    rng.integers(4)
                ]
                out += form % mid + (b"\xd0\x00" if rng.integers(9) == 0 else b"")
            for at in range(0, len(out), 7):  # cut anywhere
                link.send(out[at : at + 7])

    # Receive Maximum 50
    broker = Broker(behave, welcome=b"\x20\x06\x00\x00\x03\x21\x00\x32")
    report = offered(broker, Prepared(fixed(5000)))
    assert most == 50
    assert report.messages == 5000
    assert report.complete


def test_a_broker_that_ends_it_is_asked_again_unless_it_means_it():
    seen: list[list[bytes]] = [[], [], []]

    def behave(number, last):
        def do(link):
            for found in taken(link):
                seen[number] += [payload for _, payload in found]
                answered = found[: len(found) // 2] if last is not None else found
                link.sendall(b"".join(b"\x40\x02" + mid.to_bytes(2, "big") for mid, _ in answered) + (last or b""))
                if last is not None:
                    return

        return do

    # Shutting down; server busy with properties; then one that takes all.
    broker = Broker(behave(0, b"\xe0\x01\x8b"), behave(1, b"\xe0\x02\x89\x00"), behave(2, None))
    report = offered(broker, Prepared(fixed(2000)), keep=True)
    assert report.complete
    assert report.messages == 2000
    assert report.reconnects == 2
    assert report.resent >= sum(map(len, seen)) - 2000 > 0
    assert {payload for one in seen for payload in one} == set(fixed(2000))
    answered_first = len(seen[0]) // 2
    assert seen[1][0] == b"%8d" % answered_first, "what came with the goodbye counts as answered, the rest goes first, in order"


def test_a_broker_that_means_it_is_believed():
    def behave(link):
        for found in taken(link):
            link.sendall(b"\x40\x02" + found[0][0].to_bytes(2, "big") + b"\xe0\x01\x98")
            link.recv(1)
            return

    def banned(link):
        for _ in taken(link):
            link.sendall(b"\xe0\x01\x8a")
            link.recv(65_536)
            return

    broker = Broker(behave, banned)
    report = offered(broker, Prepared(fixed(3000)), keep=True)
    assert "dropped us: Banned" in report.failure
    assert report.messages == 1
    assert not report.complete
    told = report.timings
    assert (told.reason == NEVER).sum() == report.unacknowledged == report.sent - 1
    assert (told.acknowledged_at[told.reason == NEVER] == -1).all()


@pytest.mark.parametrize(
    ("welcome", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20, "does not speak MQTT"),
        (b"\x40\x02\x00\x01", "does not speak MQTT"),
        (b"", "closed the connection without a word"),
        (b"\x20\x05\x00\x00\x02\x24\x00", "takes no QoS 1"),
        (b"\x20\x03\x00\x88\x00", "Server unavailable"),
        (b"\x20\x02\x00\x01", "Unsupported protocol version"),
    ],
)
def test_what_is_no_broker_for_us_is_told(welcome, words):
    broker = Broker(lambda _: None, welcome=welcome)
    with pytest.raises(PublishError, match=words):
        offered(broker, Prepared(fixed(1)))


def test_garbage_in_the_middle_ends_it():
    def behave(link):
        for _ in taken(link):
            link.sendall(b"\x30\x00")  # a PUBLISH: we subscribed to nothing
            link.recv(65_536)
            return

    broker = Broker(behave)
    report = offered(broker, Prepared(fixed(10)))
    assert "sent a packet 0x30" in report.failure


def test_a_stall_is_paid_for_by_all_that_fall_into_it():
    """Coordinated omission: with a window of 10 only a few messages are under way when the broker stalls, but many are due."""

    def behave(link):
        began = None
        for found in taken(link):
            now = time.monotonic()
            began = began or now
            if 0.5 < now - began < 1.0:
                time.sleep(0.5)
                began -= 1
            link.sendall(b"".join(b"\x40\x02" + mid.to_bytes(2, "big") for mid, _ in found))

    broker = Broker(behave)
    report = offered(broker, Prepared(fixed(2000)), rate=1000, window=10)
    assert report.complete
    assert report.latency["p90"] < 100, "few were under way"
    assert report.latency_from_schedule["p90"] > 100, "many were due"
    assert report.latency_from_schedule["max"] > 450
    assert report.lateness["max"] > 400
    assert report.own_lateness["p90"] < 50, "not our fault"
    assert report.limits["broker"] > 0.1


def test_tls_context_is_not_shared_with_the_system(tmp_path):
    """The option replaces the system's authorities; it does not add to them."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ours.pem")
    to = address("mqtts://h", ca=str(tmp_path / "ours.pem"))
    assert to.port == 8883
    assert len(to.tls.get_ca_certs()) == 1
    assert to.tls.verify_mode == ssl.CERT_REQUIRED
    assert to.tls.check_hostname
