"""The broker alone, as shipped: the same packets, drained by a client that only acknowledges.

The client is a process with a persistent session like ingest's, on a bare socket. Its rate is the limit of any subscriber of this
broker; latencies are from handing a packet to the broker's socket to its being acknowledged by the client.
"""

import ctypes
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from bench import scene
from bench.sender import Payloads, Sender, UnexpectedError, answer, connect, forget
from bench.workload import Traffic
from citybeat.devices.wire import mqtt
from citybeat.devices.wire.mqtt import Kind

#: As ingest's.
RECEIVE_MAXIMUM: Final = 10_000
_CLIENT: Final = "bench-drain"
#: Share of a run's messages, at its beginning, that is not counted.
_RAMP: Final = 0.1
_LOOK: Final = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class Drained:
    """Result of a run."""

    messages_per_s: float
    readings_per_s: float
    latencies: tuple[float, float]  # s: median, 99 %


@contextmanager
def draining(running: scene.Servers) -> Iterator[Any]:
    """Run the client; yield its counts, of which `[0]` is messages."""
    context = multiprocessing.get_context("spawn")
    shared = context.RawArray(ctypes.c_int64, 2)
    process = context.Process(target=_drain, args=(running.mqtt_url, shared), daemon=True)
    process.start()
    try:
        deadline = time.monotonic() + 60
        while not shared[1]:
            if not process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the client did not start")
            time.sleep(0.01)
        yield shared
    finally:
        process.kill()
        process.join()
        forget(running.mqtt_url, _CLIENT)


def run(
    running: scene.Servers, traffic: Traffic, payloads: Payloads, *, seconds: float, window: int, rate: float | None = None
) -> Drained:
    """Send for so long, with so many messages between sender and client."""
    passwords = running.passwords(traffic.city.sources)
    looks: list[tuple[float, int]] = []
    with draining(running) as shared, Sender(running.mqtt_url, passwords, payloads, rate) as sender:
        sender.allow(window)
        began = time.monotonic()
        count = 0
        while time.monotonic() - began < seconds and count < len(payloads):
            count = shared[0]
            if not looks or looks[-1][1] != count:
                looks.append((time.monotonic(), count))
                sender.allow(count + window)
            sender.check()
            time.sleep(_LOOK)
        sender.allow(0)
        sent_at = sender.sent_at[: sender.sent] / 1e9
        steady = [look for look in looks if looks[-1][1] * _RAMP <= look[1] <= len(sent_at)]
    (first, before), (last, after) = steady[0], steady[-1]
    readings = int(payloads.packets["readings"][before:after].sum())
    # Nearly in order of arrival: the messages of one gateway are, and gateways take turns.
    late = np.concatenate([at - sent_at[a:b] for (_, a), (at, b) in pairwise(steady)])
    median, high = np.percentile(late, [50, 99])
    return Drained(
        messages_per_s=(after - before) / (last - first),
        readings_per_s=readings / (last - first),
        latencies=(float(median), float(high)),
    )


def _drain(url: str, shared: Any) -> None:
    forget(url, _CLIENT)
    link = connect(url, client_id=_CLIENT, expiry=3600, receive_maximum=RECEIVE_MAXIMUM)
    link.sendall(mqtt.subscribe("city/v1/#"))
    if answer(link, Kind.SUBACK)[-1] != 1:
        raise UnexpectedError("the broker gives no subscription at QoS 1")
    link.settimeout(1.0)
    shared[1] = 1
    held = b""
    while True:
        try:
            data = link.recv(1 << 18)
        except TimeoutError:
            continue
        if not data:
            return
        held = held + data if held else data
        mids, size = publications(held)
        held = held[size:]
        if mids:
            link.sendall(b"\x40\x02" + b"\x40\x02".join(mids))
            shared[0] += len(mids)


def publications(data: bytes) -> tuple[list[bytes], int]:
    """Find the packet ids of the whole PUBLISH packets of QoS 1, and how many bytes they take; no more, to be cheap."""
    mids, at, size = [], 0, len(data)
    while at + 2 <= size:
        body, end = mqtt.packet_end(data, at)
        if not 0 < end <= size:
            break
        if data[at] & 0xF0 != Kind.PUBLISH or not data[at] & mqtt.QOS_1:
            raise UnexpectedError(f"not a message of QoS 1: {data[at : at + 40]!r}")
        topic = body + 2 + int.from_bytes(data[body : body + 2])
        mids.append(data[topic : topic + 2])
        at = end
    return mids, at
