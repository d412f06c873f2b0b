"""Peers: programs that people write instead, with paho and psycopg, on the same broker into the same table.

- *one INSERT a message*: in the callback, parse, `INSERT … ON CONFLICT DO NOTHING` of its readings one by one, commit;
- *executemany*: the callback parses and appends; at `MANY` readings, or every second, one `executemany` and a commit.

Both know their series by a dictionary, acknowledge as paho does (when the callback returns: executemany's before anything is
committed), and keep neither rollups, flags, accounts nor anything else; the table has the same columns, key and chunks as
`readings`. Ours is measured with everything on, in the same run.
"""

import ctypes
import multiprocessing
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
import psycopg
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bench import end_to_end, scene
from bench.sender import Payloads, Sender, forget, prepare
from bench.workload import LIVE, SINGLES, City, Shape, Traffic

PEERS: Final = ("one INSERT a message", "executemany")
#: Readings of one executemany, as in usual examples; ten times as many were no faster.
MANY: Final = 1_000
_CLIENT: Final = "bench-peer"
_RAMP: Final = 1.0
_LOOK: Final = 0.01
_INSERT: Final = """
INSERT INTO peer (time, received_at, value, series_id, flags)
VALUES (timestamptz 'epoch' + %s * interval '1 millisecond', now(), %s, %s, 0) ON CONFLICT DO NOTHING
"""


def measure(running: scene.Servers, *, shapes: Sequence[Shape] = (LIVE, SINGLES), seconds: float = 5.0) -> list[dict[str, Any]]:
    """Measure each peer and workload: a row each."""
    rows = []
    for shape in shapes:
        with scene.opened(running, City().registrations()) as opened:
            traffic = Traffic(city=City(), shape=shape, start=scene.start())
            readings = round((seconds + end_to_end.RAMP) * end_to_end.MOST[shape.name])
            payloads = prepare(opened.place / "packets", traffic, traffic.city.sources, readings=readings)
            ours = end_to_end.run(opened, traffic, payloads, seconds=seconds).stored_per_s
            rows += [against(opened, traffic, payloads, peer, seconds=seconds, ours=ours) for peer in PEERS]
    return rows


def against(opened: scene.Scene, traffic: Traffic, payloads: Payloads, peer: str, *, seconds: float, ours: float) -> dict[str, Any]:
    """Measure one peer; `ratio` is ours over theirs."""
    theirs = _run(opened, traffic, payloads, peer, seconds)
    return {
        "name": f"{traffic.shape.name}, against paho and {peer}",
        "ours_per_s": ours,
        "limit_per_s": theirs,
        "ratio": ours / theirs,
        "limit": f"peer: {peer}, raw readings only",
    }


def _run(opened: scene.Scene, traffic: Traffic, payloads: Payloads, peer: str, seconds: float) -> float:
    """Return readings a second that a peer commits."""
    opened.connection.execute("DROP TABLE IF EXISTS peer")
    scene.make_like(opened.connection, "peer", "readings")
    context = multiprocessing.get_context("spawn")
    shared = context.RawArray(ctypes.c_int64, 3)  # messages and readings committed; 1: ready
    process = context.Process(target=_serve, args=(peer, opened.servers.mqtt_url, opened.url, shared), daemon=True)
    process.start()
    # Fewer than ours may have: a peer that lags behind lets the broker pile up what it has sent.
    window = 10 * MANY // traffic.shape.size
    looks: list[tuple[float, int]] = []
    try:
        _wait(process, shared)
        passwords = opened.servers.passwords(traffic.city.sources)
        with Sender(opened.servers.mqtt_url, passwords, payloads) as sender:
            sender.allow(window)
            began = time.monotonic()
            while time.monotonic() - began < seconds + _RAMP and sender.sent < len(payloads):
                if not looks or looks[-1][1] != shared[1]:
                    looks.append((time.monotonic(), shared[1]))
                sender.allow(shared[0] + window)
                sender.check()
                time.sleep(_LOOK)
            sender.allow(0)
    finally:
        process.kill()
        process.join()
        forget(opened.servers.mqtt_url, _CLIENT)
    steady = [look for look in looks if look[0] >= looks[0][0] + _RAMP]
    (first, before), (last, after) = steady[0], steady[-1]
    return (after - before) / (last - first)


def _wait(process: Any, shared: Any) -> None:
    deadline = time.monotonic() + 60
    while not shared[2]:
        if not process.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the peer did not start")
        time.sleep(0.01)


def _serve(peer: str, url: str, database: str, shared: Any) -> None:
    with psycopg.connect(database) as connection:
        series = {
            (device, metric): number
            for device, metric, number in connection.execute("SELECT device_id, metric, id FROM series").fetchall()
        }
        connection.commit()
        _Peer(connection, series, shared, many=peer == "executemany").run(url)


class _Peer:
    def __init__(self, connection: psycopg.Connection[Any], series: dict[tuple[str, str], int], shared: Any, *, many: bool) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._series = series
        self._shared = shared
        self._many = many
        self._rows: list[tuple[int, float, int]] = []
        self._messages = 0
        self._since = time.monotonic()

    def run(self, url: str) -> None:
        """Receive until killed."""
        parts = urlsplit(url)
        forget(url, _CLIENT)
        client = Client(CallbackAPIVersion.VERSION2, _CLIENT, protocol=MQTTv5)
        client.username_pw_set(parts.username, parts.password)
        client.on_message = self._on_message
        client.on_subscribe = lambda *_: self._subscribed()
        connect = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho types all but this
        connect.ReceiveMaximum = 10_000
        client.connect(parts.hostname or "", parts.port or 1883, properties=connect)
        client.subscribe("city/v1/#", qos=1)
        client.loop_forever()

    def _subscribed(self) -> None:
        self._shared[2] = 1

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        rows = [
            (report["ts"], value, self._series[report["device"], metric])
            for report in orjson.loads(message.payload)["readings"]
            for metric, value in report["values"].items()
        ]
        if not self._many:
            for row in rows:
                self._cursor.execute(_INSERT, row)
            self._connection.commit()
            self._count(1, len(rows))
            return
        self._rows += rows
        self._messages += 1
        if len(self._rows) >= MANY or time.monotonic() - self._since >= 1.0:
            self._cursor.executemany(_INSERT, self._rows)
            self._connection.commit()
            self._count(self._messages, len(self._rows))
            self._rows, self._messages, self._since = [], 0, time.monotonic()

    def _count(self, messages: int, readings: int) -> None:
        self._shared[0] += messages
        self._shared[1] += readings
