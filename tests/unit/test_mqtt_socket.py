"""The socket beneath paho: however the network splits packets, each is delivered to its receiver, in order."""

import socket
import threading
from contextlib import closing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from citybeat.devices.wire.mqtt import MalformedPacketError, Publication, number, packet_end, publication
from citybeat.ingest.transport.mqtt_socket import MqttSocket


def length(n):
    """A variable byte integer, encoded as MQTT 5, section 1.5.5 says."""
    out = bytearray()
    while True:
        n, digit = divmod(n, 128)
        out.append(digit | (128 if n else 0))
        if not n:
            return bytes(out)


def publish(topic, payload, mid, qos, dup, properties=b""):
    body = len(topic).to_bytes(2, "big") + topic + (mid.to_bytes(2, "big") if qos else b"")
    body += length(len(properties)) + properties + payload
    return bytes([0x30 | dup << 3 | qos << 1]) + length(len(body)) + body


def control(kind, body):
    return bytes([kind << 4]) + length(len(body)) + body


publications = st.builds(
    lambda topic, payload, mid, qos, dup, properties: (
        publish(topic, payload, mid, qos, dup, properties),
        Publication(topic, payload, mid if qos else 0, qos, dup),
    ),
    st.binary(min_size=1, max_size=200),
    st.one_of(st.binary(max_size=40), st.integers(0, 40_000).map(lambda n: b"x" * n)),
    st.integers(1, 65_535),
    st.integers(0, 1),
    st.booleans(),
    st.sampled_from([b"", b"\x01\x01", b"\x26\x00\x01a\x00\xff" + b"b" * 255]),
)
controls = st.builds(lambda kind, body: (control(kind, body), None), st.sampled_from([2, 4, 9, 13, 14]), st.binary(max_size=300))


class Wire:
    """The socket over a socket pair, read as paho reads: one byte, the bytes of the length, the rest."""

    def __init__(self):
        self.events = []
        self.far, near = socket.socketpair()
        near.setblocking(False)
        self.line = MqttSocket(near, self.events.extend)

    def close(self):
        self.far.close()
        self.line.close()

    def read(self, packets):
        """Read all that can be read without the network; append each packet of paho's."""
        while True:
            try:
                packets += self.line.recv(1)
                if self.line._own == 0:
                    self.events.append(bytes(packets))
                    packets.clear()
            except BlockingIOError:
                if not self.line.pending():
                    return


@pytest.fixture
def wire():
    made = Wire()
    yield made
    made.close()


@given(st.lists(st.one_of(publications, controls), max_size=12), st.randoms(use_true_random=False))
@example([(publish(b"t", b"", 1, 1, False), Publication(b"t", b"", 1, 1, False)), (control(2, b""), None)], None)
def test_every_packet_ends_where_it_belongs_in_order(packets, rng):
    stream, got = b"".join(sent for sent, _ in packets), bytearray()
    at = 0
    with closing(Wire()) as wire:
        while at < len(stream):
            size = rng.choice([1, 2, 3, 50, 5000, 60_000]) if rng else len(stream)
            wire.far.sendall(stream[at : at + size])
            wire.read(got)
            at += size
        assert wire.events == [sent if told is None else told for sent, told in packets]


def test_nothing_behind_a_packet_of_pahos_is_delivered_before_paho_has_it(wire):
    """A resumed session: CONNACK and the first messages in one read; they belong to a connection that paho must know of."""
    wire.far.sendall(publish(b"a", b"1", 1, 1, False) + control(2, b"\x00\x00\x00") + publish(b"a", b"2", 2, 1, False))
    assert wire.line.recv(1) == b"\x20"
    assert [each.payload for each in wire.events] == [b"1"]
    assert wire.line.pending() == 4
    assert wire.line.recv(100) == b"\x03\x00\x00\x00"
    assert wire.line.pending() > 0  # select would not say so
    with pytest.raises(BlockingIOError):
        wire.line.recv(1)
    assert [each.payload for each in wire.events] == [b"1", b"2"]
    assert wire.line.pending() == 0


def test_the_end_of_the_connection_is_told(wire):
    wire.far.sendall(publish(b"a", b"1", 1, 1, False)[:-1])
    with pytest.raises(BlockingIOError):
        wire.line.recv(1)
    wire.far.close()
    assert wire.line.recv(1) == b""
    assert wire.events == []


@pytest.mark.parametrize(
    "packet",
    [
        b"\x30\x02\x00\x05",  # the topic ends behind the packet
        b"\x32\x05\x00\x01a\x00\x01",  # no room for properties
        b"\x32\x06\x00\x01a\x00\x01\x03",  # properties end behind the packet
        b"\x30\x00",
        b"\x30\xff\xff\xff\xff\x01",
    ],
)
def test_what_is_no_mqtt_ends_the_connection(wire, packet):
    wire.far.sendall(packet + b"\xff" * 20)
    with pytest.raises(MalformedPacketError, match="broker"):
        wire.line.recv(1)
    assert wire.events == []


@given(st.integers(0, 268_435_455))
def test_numbers_of_variable_length(n):
    spelled = length(n)
    assert number(b"?" + spelled + b"?", 1) == (n, 1 + len(spelled))
    assert number(spelled[:-1], 0) == (0, 0)


def test_the_head_of_a_packet():
    assert packet_end(b"\x30", 0) == (0, 0)
    assert packet_end(b"\x30\x80", 0) == (0, 0)
    assert packet_end(b"\x30\x80\x01", 0) == (3, 131)
    sent = publish(b"city/v1/gw/readings", b"{}", 7, 1, True)
    assert publication(sent, 0, *packet_end(sent, 0)) == (b"city/v1/gw/readings", b"{}", 7, 1, True)


def test_acknowledgements_go_out_together_and_whole(wire):
    """More than the network takes at once, from two threads: no packet is in the middle of another."""
    first, second = list(range(1, 65_536)) * 4, [65_535] * 5
    threads = [threading.Thread(target=wire.line.acknowledge, args=[mids]) for mids in (first, second)]
    for thread in threads:
        thread.start()
    wire.line.acknowledge([])
    wanted, got = 4 * (len(first) + len(second)), bytearray()
    while len(got) < wanted:
        got += wire.far.recv(65_536)
    for thread in threads:
        thread.join()
    packets = [got[i : i + 4] for i in range(0, wanted, 4)]
    assert all(packet[:2] == b"\x40\x02" for packet in packets)
    assert sorted(int.from_bytes(packet[2:], "big") for packet in packets) == sorted(first + second)
    wire.line.shutdown()
    with pytest.raises(OSError, match="pipe"):
        wire.line.acknowledge([1])
