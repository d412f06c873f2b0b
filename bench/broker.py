"""What the broker, as shipped, loses when it is killed: `python -m bench.broker [--runs 5] [--rate 500]`.

A subscriber with a persistent session is away, so that the broker alone has what it acknowledges; it is killed at a random moment
and started again. A line a run: messages acknowledged before, those of them that the subscriber never got, and how long before the
death the oldest of these and the youngest that was kept had been acknowledged.
"""

import argparse
import os
import random
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.acceptance.faults import harness

SOURCE = "faults-1"


def main() -> None:
    """Some runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=500.0, help="messages/s")
    arguments = parser.parse_args()
    root = Path(os.environ.get("CITYBEAT_TEST_ROOT", ".citybeat/root"))
    with tempfile.TemporaryDirectory() as place, harness.grown(Path(place) / "home", root.resolve(), Path(place)) as tree:
        for run in range(arguments.runs):
            _run(tree, arguments.rate, f"broker-{run}")


class Subscriber:
    """A session that outlives its connections, and what it got."""

    def __init__(self, tree: harness.Tree, name: str) -> None:
        self._url, self._name, self.got = urlsplit(tree.servers.mqtt_url), name, set[bytes]()
        self._client: mqtt.Client | None = None

    def attach(self, *, clean: bool = False) -> None:
        """Connect, and subscribe."""
        kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho types all but this
        ready = threading.Event()
        kept.SessionExpiryInterval, kept.ReceiveMaximum = 0 if clean else 3600, 10_000
        client = mqtt.Client(CallbackAPIVersion.VERSION2, self._name, protocol=mqtt.MQTTv5)
        client.username_pw_set(self._url.username, self._url.password)
        client.on_message = lambda _c, _d, message: self.got.add(bytes(message.payload))
        client.on_connect = lambda client, *_: client.subscribe("city/v1/#", qos=1)
        client.on_subscribe = lambda *_: ready.set()
        client.connect(self._url.hostname or "", self._url.port or 1883, clean_start=clean, properties=kept)
        client.loop_start()
        assert ready.wait(20)
        self._client = client

    def leave(self) -> None:
        """Be away."""
        assert self._client is not None
        self._client.disconnect()
        self._client.loop_stop()


def _run(tree: harness.Tree, rate: float, name: str) -> None:
    subscriber = Subscriber(tree, name)
    subscriber.attach()
    subscriber.leave()
    sent: dict[int, bytes] = {}
    acknowledged: dict[bytes, float] = {}
    publisher = mqtt.Client(CallbackAPIVersion.VERSION2, f"{name}-publisher", protocol=mqtt.MQTTv5)
    publisher.username_pw_set(SOURCE, tree.passwords[SOURCE])
    publisher.max_inflight_messages_set(1000)
    publisher.on_publish = lambda _c, _d, mid, reason, _p: reason.value == 0 and acknowledged.update({sent[mid]: time.monotonic()})
    publisher.connect("127.0.0.1", tree.settings.mqtt_port)
    publisher.loop_start()
    end, number = time.monotonic() + 5 + random.uniform(0, 2.2), 0  # longer than the time between two of its saves
    while time.monotonic() < end:
        payload = f"{name} {number}".encode() + b"." * 150
        sent[number + 1] = payload  # paho counts its packet identifiers up from 1
        assert publisher.publish(f"city/v1/{SOURCE}/readings", payload, qos=1).mid == number + 1
        number += 1
        time.sleep(1 / rate)
    at = tree.machinery.kill_broker()
    publisher.disconnect()
    publisher.loop_stop()
    before = dict(acknowledged)
    tree.machinery.revive()
    subscriber.attach()
    quiet = (-1, 0.0)
    while len(subscriber.got) != quiet[0] or time.monotonic() - quiet[1] < 1.0:
        if len(subscriber.got) != quiet[0]:
            quiet = (len(subscriber.got), time.monotonic())
        time.sleep(0.05)
    subscriber.leave()
    subscriber.attach(clean=True)
    subscriber.leave()
    lost = [at - when for payload, when in before.items() if payload not in subscriber.got]
    kept = [at - when for payload, when in before.items() if payload in subscriber.got]
    print(
        f"acknowledged {len(before):6,}, lost {len(lost):5,}, the oldest of them {max(lost, default=0):4.2f} s before the end, "
        f"the youngest kept {min(kept, default=0):4.2f} s"
    )


if __name__ == "__main__":
    main()
