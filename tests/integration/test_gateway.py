"""The gateway against a real broker: messages left out are delivered again, and a refused connection says why."""

import secrets
import socket
import ssl
import threading
import time
from itertools import pairwise
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import pytest
import trustme

from citybeat import stack
from citybeat.devices.wire.mqtt import Publication
from citybeat.ingest.judging.message import Message
from citybeat.ingest.transport.gateway import Gateway, GatewayError, Session
from citybeat.ingest.transport.inbox import BatchSize, Inboxes
from citybeat.stack.process import free_port

PATIENCE = 15.0


def until(condition, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def stack_settings(tmp_path_factory, debian_root):
    """A broker for these tests only: a gateway hears every source, and other tests rely on not being heard."""
    home = tmp_path_factory.mktemp("broker")
    return stack.StackSettings(home=home, root=debian_root, pg_port=free_port(), mqtt_port=free_port())


@pytest.fixture(scope="module")
def servers(stack_settings):
    with stack.running(stack_settings) as running:
        yield running


@pytest.fixture
def source():
    return f"gw-{secrets.token_hex(4)}"


@pytest.fixture
def publish(servers, stack_settings, source):
    """Publish as the source, and wait for the broker's answer."""
    url = urlsplit(servers.mqtt_url)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set(source, stack.credentials(stack_settings, [source])[source])
    client.connect(url.hostname, url.port)
    client.loop_start()

    def do(payload, qos=1):
        client.publish(f"city/v1/{source}/readings", payload, qos=qos).wait_for_publish(PATIENCE)

    yield do
    client.disconnect()
    client.loop_stop()


@pytest.fixture
def gateway(servers):
    """Gateways with sessions of their own, which are deleted afterwards."""
    made = []

    def make(*, max_bytes=10**6, name=None, url=servers.mqtt_url, **session):
        name = name or f"test-{secrets.token_hex(4)}"
        inboxes = Inboxes(1, max_bytes=max_bytes)
        gateway = Gateway(Session(url=url, client_id=name, expiry=20, **session), inboxes)
        made.append(gateway)
        gateway.start()
        return gateway, inboxes

    yield make
    for each in made:
        each.stop()


def mine(inboxes, source, seen):
    """Append a source's messages to `seen`: payload, and whether it was redelivered."""
    batch = [m for m in inboxes.each[0].pop(BatchSize()) if f"/{source}/" in m.topic]
    seen += [(m.payload, m.redelivered) for m in batch]
    return batch


def test_what_finds_no_room_is_left_with_the_broker_and_comes_again_in_order(gateway, publish, source):
    gateway, inboxes = gateway(max_bytes=100)
    assert gateway.wait_connected(PATIENCE)
    for i in range(10):
        publish(b"%d" % i * 30)
    until(lambda: gateway.shedding)
    assert inboxes.bytes <= 100
    seen = []

    def take():
        batch = inboxes.each[0].pop(BatchSize())
        gateway.acknowledge(batch)
        seen.extend((m.payload, m.redelivered) for m in batch if f"/{source}/" in m.topic)
        if gateway.shedding and not batch:
            gateway.renew()
        return len(seen) >= 10

    until(take)
    assert [payload for payload, _ in seen] == [b"%d" % i * 30 for i in range(10)]
    assert seen[-1][1]
    assert gateway.lost == 0


def test_messages_of_one_read_have_times_of_their_own(gateway):
    """A reading without a time gets its message's: of two at one time the second would be a conflict."""
    gateway, inboxes = gateway()
    found = [Publication(b"city/v1/gw/readings", b"%d" % i, i + 1, 1, False) for i in range(1000)]
    began = time.time_ns() // 1000
    gateway._receive(found[:500])
    gateway._receive(found[500:])
    times = [message.received_at for message in inboxes.each[0].pop(BatchSize()) if message.payload.isdigit()]
    assert len(times) == 1000
    assert all(before < after for before, after in pairwise(times))
    assert began <= times[0]
    assert times[-1] <= time.time_ns() // 1000 + 1000


def test_qos_0_that_finds_no_room_is_counted(gateway, publish, source):
    gateway, _ = gateway(max_bytes=10)
    assert gateway.wait_connected(PATIENCE)
    publish(b"x" * 10)
    publish(b"y" * 10, qos=0)
    until(lambda: gateway.lost == 1)


def test_what_comes_while_it_is_paused_is_delivered_to_the_next(gateway, publish, source):
    name = f"test-{secrets.token_hex(4)}"
    first, inboxes = gateway(name=name)
    assert first.wait_connected(PATIENCE)
    first.pause()
    publish(b"1")
    publish(b"2")
    first.stop()
    seen = []
    mine(inboxes, source, seen)
    assert seen == []
    _, inboxes = gateway(name=name)
    seen = []
    until(lambda: mine(inboxes, source, seen) is not None and len(seen) == 2)
    assert [payload for payload, _ in seen] == [b"1", b"2"]


def test_what_waits_when_the_connection_is_new_is_taken_once_and_can_be_acknowledged(gateway, publish, source):
    gateway, inboxes = gateway()
    assert gateway.wait_connected(PATIENCE)
    publish(b"1")
    publish(b"2")
    seen, batch = [], []
    until(lambda: batch.extend(mine(inboxes, source, seen)) or len(batch) == 2)
    gateway.renew()
    until(lambda: gateway._epoch == 2 and batch[1].epoch == 2)  # both were delivered again
    publish(b"3")
    until(lambda: batch.extend(mine(inboxes, source, seen)) or len(batch) > 2)
    assert seen == [(b"1", False), (b"2", False), (b"3", False)]
    assert gateway.acknowledge(batch) == 3
    until(lambda: gateway._epoch == 3 or gateway.renew())  # not before they are sent
    assert gateway.wait_connected(PATIENCE)
    publish(b"4")
    until(lambda: mine(inboxes, source, seen))
    assert seen[3:] == [(b"4", False)]


def test_an_acknowledgement_over_an_old_connection_is_not_sent(gateway, publish, source):
    gateway, inboxes = gateway()
    assert gateway.wait_connected(PATIENCE)
    publish(b"1")
    seen, batch = [], []
    until(lambda: batch.extend(mine(inboxes, source, seen)) or batch)
    gateway._epoch += 1  # as if there were a new connection that has not delivered it again yet
    assert gateway.acknowledge(batch) == 0
    gateway.renew()
    until(lambda: batch.extend(mine(inboxes, source, seen)) or len(batch) == 2)
    assert seen == [(b"1", False), (b"1", True)]
    assert gateway.acknowledge(batch) == 1


def test_what_a_broker_forgot_stays_with_us(gateway, publish, source):
    """The broker was restored from an older store, and uses the identifier for another message."""
    gateway, inboxes = gateway()
    assert gateway.wait_connected(PATIENCE)
    publish(b"1")
    seen, batch = [], []
    until(lambda: batch.extend(mine(inboxes, source, seen)) or batch)
    forgotten = Message(f"city/v1/{source}/readings", b"0", 0, False, 1, batch[0].mid, 0)
    gateway._open[forgotten.mid] = forgotten  # under the same identifier, and never delivered again
    gateway.renew()
    until(lambda: batch.extend(mine(inboxes, source, seen)) or len(batch) == 2)
    assert gateway.acknowledge([forgotten]) == 0
    assert gateway.acknowledge(batch) == 1


def test_the_broker_says_what_it_has_dropped(gateway):
    gateway, _ = gateway()
    until(lambda: gateway.dropped is not None)
    assert gateway.dropped >= 0


def test_another_client_with_our_name_is_an_error(gateway):
    first, _ = gateway(name="test-twin")
    assert first.wait_connected(PATIENCE)
    gateway(name="test-twin")
    with pytest.raises(GatewayError, match="took over"):
        until(first.check)


def test_a_wrong_password_is_an_error_that_does_not_show_it(gateway, servers):
    url = urlsplit(servers.mqtt_url)
    wrong, _ = gateway(url=f"mqtt://{url.username}:not-the-password@{url.hostname}:{url.port}")
    with pytest.raises(GatewayError, match="check user and password") as caught:
        until(wrong.check)
    assert "not-the-password" not in str(caught.value)


def test_a_broker_that_is_not_there_is_waited_for_and_said_so_once(gateway, caplog):
    waiting, _ = gateway(url=f"mqtt://127.0.0.1:{free_port()}")
    until(lambda: "cannot connect to the broker at 127.0.0.1" in caplog.text)
    time.sleep(2.5)
    waiting.check()
    assert caplog.text.count("cannot connect to the broker") == 1


# --- TLS --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A certificate authority that issued the certificate of a server at 127.0.0.1, and another one that did not."""
    place = tmp_path_factory.mktemp("tls")
    ours, other = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(place / "ours.pem")
    other.cert_pem.write_to_path(place / "other.pem")
    ours.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(place / "server.pem")
    return place


@pytest.fixture
def tls(servers, certificates):
    """Port of a TLS endpoint in front of the broker."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem")
    url, done = urlsplit(servers.mqtt_url), threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)

    def pump(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass
        finally:
            for each in (a, b):
                each.close()

    def accept():
        while not done.is_set():
            try:
                plain, _ = listener.accept()
                inside = context.wrap_socket(plain, server_side=True)
                outside = socket.create_connection((url.hostname, url.port))
            except OSError:
                continue
            for pair in ((inside, outside), (outside, inside)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    yield listener.getsockname()[1]
    done.set()
    thread.join(10)
    listener.close()


def test_tls_with_an_authority_of_our_own(gateway, servers, tls, certificates, publish, source):
    url = urlsplit(servers.mqtt_url)
    safe, inboxes = gateway(url=f"mqtts://{url.username}:{url.password}@127.0.0.1:{tls}", ca=certificates / "ours.pem")
    assert safe.wait_connected(PATIENCE)
    publish(b"1")
    until(lambda: mine(inboxes, source, []))


@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")  # paho forgets to close it when the handshake fails
def test_a_certificate_that_nobody_vouches_for_is_an_error(gateway, servers, tls, certificates):
    url = f"mqtts://127.0.0.1:{tls}"
    for ca in (None, certificates / "other.pem"):
        doubtful, _ = gateway(url=url, ca=ca)
        with pytest.raises(GatewayError, match="CITYBEAT_MQTT_CA"):
            until(doubtful.check)
    with pytest.raises(GatewayError, match="CITYBEAT_MQTT_CA=.*nowhere"):
        gateway(url=url, ca=certificates / "nowhere.pem")
