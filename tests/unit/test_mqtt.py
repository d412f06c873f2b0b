"""The MQTT codec: byte by byte the packets of paho, and answers read as a slow reader reads them."""

import socket

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from citybeat.devices.wire import mqtt as codec
from citybeat.devices.wire.mqtt import Frame, MalformedPacketError, Packets, TooLongError, Version, Will

#: Bytes of payloads: their lengths take one to four bytes. Not the payloads, which hypothesis would have to print.
SIZES = st.lists(st.integers(0, 300) | st.sampled_from([20_000, 2_100_000]), min_size=1, max_size=8)


def paho(version: Version):
    """A client whose packets come out of the other end."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="load-é1", protocol=mqtt.MQTTProtocolVersion(version))
    ours, theirs = socket.socketpair()
    client._sock = theirs
    ours.setblocking(False)

    def said() -> bytes:
        while client.want_write():
            client.loop_write()
        try:
            return ours.recv(100_000)
        finally:
            client._sock = None
            ours.close()
            theirs.close()

    return client, said


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize(("username", "password"), [(None, None), ("gw-01", None), ("gw-01", "päss")])
@pytest.mark.parametrize("will", [None, Will("city/v1/gw-é/status", "offline")])
def test_connect_is_what_paho_says(version, username, password, will):
    client, said = paho(version)
    if will is not None:
        client.will_set(will.topic, will.payload, qos=1, retain=True)
    if username is not None:
        client.username_pw_set(username, password)
    if version is Version.V5:
        client._connect_properties = Properties(PacketTypes.CONNECT)
        client._connect_properties.RequestProblemInformation = 0
        client._clean_start = True
    client._send_connect(30)
    assert codec.connect(version, "load-é1", username=username, password=password, keepalive=30, will=will) == said()


def test_the_session_that_a_connection_asks_for_is_what_paho_says():
    client, said = paho(Version.V5)
    asked = Properties(PacketTypes.CONNECT)
    asked.RequestProblemInformation, asked.SessionExpiryInterval, asked.ReceiveMaximum = 0, 3600, 10_000
    client._connect_properties, client._clean_start = asked, True
    client._send_connect(30)
    packet = codec.connect(Version.V5, "load-é1", username=None, password=None, keepalive=30, expiry=3600, receive_maximum=10_000)
    theirs, ours = said(), packet
    # The order of properties is free.
    assert (sorted(ours), ours[:12]) == (sorted(theirs), theirs[:12])


def test_a_subscription_is_what_paho_says():
    client, said = paho(Version.V5)
    client._send_subscribe(False, [("city/v1/é/#".encode(), mqtt.SubscribeOptions(qos=1))], Properties(PacketTypes.SUBSCRIBE))
    assert codec.subscribe("city/v1/é/#") == said()


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("size", [0, 1, 100, 101, 127, 128, 16_000, 20_000])
@pytest.mark.parametrize("retain", [False, True])
def test_publish_is_what_paho_says(version, size, retain):
    client, said = paho(version)
    payload = bytes(range(256)) * 80
    client._send_publish(0xABCD, "city/v1/gw-é/readings".encode(), payload[:size], 1, retain, False)
    frame = Frame(version, "city/v1/gw-é/readings", retain)
    made = frame.pack([payload[:size]])
    made.write_ids(0, np.array([0xABCD]))
    assert made.data.tobytes() == said()
    assert made.data.tobytes() == frame.packet(0xABCD, payload[:size])


def test_ping_and_goodbye_are_what_paho_says():
    client, said = paho(Version.V5)
    client._send_pingreq()
    client._send_disconnect()
    assert said() == codec.PING + codec.GOODBYE


def published(data: bytes, version: Version) -> list[tuple[bytes, int, bytes]]:
    """Topic, identifier and payload of each packet, read slowly."""
    found, at = [], 0
    while at < len(data):
        assert data[at] == 0x32
        at, length, shift = at + 1, 0, 0
        while True:
            length |= (data[at] & 0x7F) << shift
            shift, at, last = shift + 7, at + 1, data[at] < 0x80
            if last:
                break
        body, at = data[at : at + length], at + length
        assert len(body) == length
        n = int.from_bytes(body[:2], "big")
        rest = body[2 + n :]
        if version is Version.V5:
            assert rest[2] == 0
        found.append((body[2 : 2 + n], int.from_bytes(rest[:2], "big"), rest[3:] if version is Version.V5 else rest[2:]))
    return found


@pytest.mark.parametrize("version", Version)
@given(sizes=SIZES, seed=st.integers(0, 2**32 - 1))
def test_many_messages_lie_one_behind_the_other(version, sizes, seed):
    rng = np.random.default_rng(seed)
    payloads = [rng.bytes(size) for size in sizes]
    readings = list(range(len(payloads)))
    made = Frame(version, "a/b").pack(payloads, readings)
    ids = rng.integers(1, 65_536, len(payloads))
    cut = int(rng.integers(0, len(payloads) + 1))
    made.write_ids(0, ids[:cut])
    made.write_ids(cut, ids[cut:])
    whole = [(b"a/b", i, payload) for i, payload in zip(ids.tolist(), payloads, strict=True)]
    assert published(made.data.tobytes(), version) == whole
    which = np.flatnonzero(rng.random(len(payloads)) < 0.5)
    some = made.take(which)
    assert published(some.data.tobytes(), version) == [whole[i] for i in which]
    assert some.readings.tolist() == which.tolist()
    both = Packets.joined([some, made])
    both.write_ids(len(which), ids[::-1])
    assert published(both.data.tobytes(), version) == [whole[i] for i in which] + [
        (b"a/b", i, payload) for i, payload in zip(ids[::-1].tolist(), payloads, strict=True)
    ]


ANSWER = st.one_of(
    st.tuples(st.integers(1, 65_535), st.sampled_from([b"", b"\x00", b"\x10", b"\x87", b"\x97\x00", b"\x10\x05\x1f\x00\x02no"])),
    st.sampled_from([b"\xd0\x00", b"\xe0\x02\x8b\x00", b"\xe0\x82\x01" + b"\0" * 130]),
)


@given(told=st.lists(ANSWER | st.just((7, b"")), max_size=60), data=st.data())
def test_answers_are_read_however_they_are_mixed_and_cut(told, data):
    stream, wanted, others, ends = b"", [], [], [0]
    for item in told:
        if isinstance(item, bytes):
            stream += item
            others.append((item[0], item[2 if item[1] < 0x80 else 3 :]))
        else:
            mid, rest = item
            stream += bytes([0x40, 2 + len(rest)]) + mid.to_bytes(2, "big") + rest
            wanted.append((mid, rest[0] if rest else 0))
        ends.append(len(stream))
    cut = data.draw(st.integers(0, len(stream)))
    first = codec.answers(stream[:cut])
    assert first.used == max(end for end in ends if end <= cut)
    second = codec.answers(bytearray(stream[first.used :]))
    assert first.used + second.used == len(stream)
    ids = [*first.ids.tolist(), *second.ids.tolist()]
    assert list(zip(ids, [*first.reasons.tolist(), *second.reasons.tolist()], strict=True)) == wanted
    assert first.others + second.others == others


def test_what_is_no_mqtt_is_told():
    with pytest.raises(MalformedPacketError, match="does not speak MQTT"):
        codec.answers(b"\xff\xff\xff\xff\xff\xff")
    with pytest.raises(TooLongError, match="at most 65,535"):
        codec.connect(Version.V5, "x" * 70_000, username=None, password=None, keepalive=1)
    with pytest.raises(TooLongError, match="at most 268,435,455"):
        Frame(Version.V5, "a").head(268_435_455)


def test_the_welcome_is_read():
    said = Properties(PacketTypes.CONNACK)
    said.ReceiveMaximum, said.MaximumPacketSize, said.MaximumQoS, said.ServerKeepAlive = 20, 4_194_304, 1, 17
    said.ReasonString, said.AssignedClientIdentifier, said.UserProperty = "welcome", "you", ("key", "value")
    said.SessionExpiryInterval, said.WildcardSubscriptionAvailable, said.AuthenticationData = 7, 0, b"abc"
    told = codec.welcome(Version.V5, b"\x00\x00" + said.pack())
    assert (told.reason, told.receive_maximum, told.maximum_size, told.maximum_qos, told.keepalive) == (0, 20, 4_194_304, 1, 17)
    assert codec.welcome(Version.V5, b"\x00\x00\x00") == codec.Welcome(reason=0)
    assert codec.welcome(Version.V311, b"\x00\x00") == codec.Welcome(reason=0)


@pytest.mark.parametrize(
    ("version", "body", "words"),
    [
        (Version.V5, b"\x00\x86\x00", "Bad user name or password"),
        (Version.V5, b"\x00\xf7\x00", "reason 0xf7"),
        (Version.V5, b"\x00\x01", "Unsupported protocol version"),  # a broker that knows 3.1.1 alone
        (Version.V311, b"\x00\x05", "Not authorized"),
        (Version.V311, b"\x00\x63", "Unspecified error"),
    ],
)
def test_a_refusal_is_read(version, body, words):
    told = codec.welcome(version, body)
    assert told.reason >= codec.FAILURE
    assert codec.reason_name(told.reason) == words


@pytest.mark.parametrize("body", [b"", b"\x00", b"\x00\x00\x05\x21", b"\x00\x00\x02\x21\x00", b"\x00\x00\x01\x77", b"\x00\x00\x80"])
def test_a_welcome_that_is_none_is_told(body):
    with pytest.raises(MalformedPacketError):
        codec.welcome(Version.V5, body)
