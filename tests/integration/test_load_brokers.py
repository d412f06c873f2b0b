"""The load generator against brokers that Mosquitto is not: answers out of order and in every form, goodbyes, stalls, garbage."""

import socket
import threading
import time

import numpy as np
import pytest

from citybeat.devices.wire.mqtt import Frame, Version
from citybeat.simulator.errors import PublishError
from citybeat.simulator.load.generator import Sender, offer
from citybeat.simulator.load.tally import NEVER
from citybeat.simulator.load.traffic import Prepared
from tests.integration.own_broker import PATIENCE


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
    head = len(Frame(version, "t").head(8)[0])
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
        rng, seen = np.random.default_rng(1), 0
        forms = [b"\x40\x02%b", b"\x40\x03%b\x00", b"\x40\x04%b\x00\x00", b"\x40\x09%b\x00\x05\x1f\x00\x02ok"]
        for found in taken(link):
            seen += len(found)
            waiting.extend(mid for mid, _ in found)
            most = max(most, len(waiting))
            rng.shuffle(waiting)
            out = b""
            while len(waiting) > (3 if seen < 5000 else 0):  # some are always kept waiting
                out += forms[rng.integers(4)] % waiting.pop().to_bytes(2, "big") + (b"\xd0\x00" if rng.integers(9) == 0 else b"")
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
