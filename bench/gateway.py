"""Processor time to receive and acknowledge a message: ingest's gateway, and paho by itself, from the same bytes.

A thread plays the broker: it answers CONNECT and SUBSCRIBE, sends prepared PUBLISH packets in one piece, and takes
acknowledgements. The processor time is that of the whole process, which is nearly all the client's.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from bench import table
from citybeat.devices.wire.mqtt import Frame, Version
from citybeat.ingest.transport.gateway import Gateway, Session
from citybeat.ingest.transport.inbox import BatchSize, Inboxes

MESSAGES = 20_000
_PAYLOAD = b'{"device":"env-00001","ts":1767225600000,"values":{"pm25":12.3}}'
_CONNACK, _PUBACK = b"\x20\x03\x00\x00\x00", 4
_PATIENCE = 60.0


def measure(rounds: int = 7) -> list[dict[str, Any]]:
    """Measure: one row, in messages a second of processor time."""
    frame = Frame(Version.V5, "city/v1/gw-01/readings")
    data = b"".join(frame.packet(i % 60_000 + 1, _PAYLOAD) for i in range(MESSAGES))
    found = table.pairs(lambda: _gateway(data), lambda: _paho(data), rounds)
    name = "gateway, messages of one reading, received and acknowledged"
    return [table.row(name, found, "a peer: paho with on_message and ack", count=MESSAGES)]


def _gateway(data: bytes) -> float:
    """Return s of processor time."""
    with _broker(data) as (port, acknowledged):
        inboxes = Inboxes(1, max_bytes=10**9)
        gateway = Gateway(Session(url=f"mqtt://127.0.0.1:{port}"), inboxes)
        began = time.process_time()
        gateway.start()

        def work() -> bool:
            gateway.acknowledge(inboxes.each[0].pop(BatchSize()))
            return acknowledged.is_set()

        _until(work)
        took = time.process_time() - began
        gateway.stop()
    return took


def _paho(data: bytes) -> float:
    """Return s of processor time."""
    with _broker(data) as (port, acknowledged):
        client = mqtt.Client(CallbackAPIVersion.VERSION2, "peer", protocol=mqtt.MQTTv5, manual_ack=True)
        waiting: list[mqtt.MQTTMessage] = []
        client.on_connect = lambda client, *_: client.subscribe("city/v1/#", qos=1)
        client.on_message = lambda _client, _data, message: waiting.append(message)
        began = time.process_time()
        client.connect("127.0.0.1", port)
        client.loop_start()

        def work() -> bool:
            batch = waiting[:]
            del waiting[: len(batch)]
            for message in batch:
                client.ack(message.mid, message.qos)
            return acknowledged.is_set()

        _until(work)
        took = time.process_time() - began
        client.disconnect()
        client.loop_stop()
    return took


@contextmanager
def _broker(data: bytes) -> Iterator[tuple[int, threading.Event]]:
    acknowledged = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_play, args=(listener, data, acknowledged))
        thread.start()
        yield listener.getsockname()[1], acknowledged
        thread.join(_PATIENCE)


def _play(listener: socket.socket, data: bytes, acknowledged: threading.Event) -> None:
    line, _ = listener.accept()
    with line:
        line.recv(4096)  # CONNECT
        line.sendall(_CONNACK)
        asked = line.recv(4096)  # SUBSCRIBE, perhaps two: the first is for messages
        line.sendall(b"\x90\x04" + asked[2:4] + b"\x00\x01")
        sender = threading.Thread(target=line.sendall, args=(data,))
        sender.start()
        got = 0
        while got < _PUBACK * MESSAGES:
            got += len(line.recv(65_536))
        acknowledged.set()
        sender.join()
        while line.recv(4096):
            pass


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError("not everything was acknowledged")
        time.sleep(0.01)
