"""The shell that lets a city send, with a transport that keeps everything in memory."""
# ruff: noqa: ARG002 - a transport has the arguments that it has

import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import pytest

from citybeat.devices.wire import reports
from citybeat.simulator.city import layout as cities
from citybeat.simulator.errors import PublishError, PublishStoppedError
from citybeat.simulator.faults.gateway import BATCH
from citybeat.simulator.feed import Receipt
from citybeat.simulator.run import run

GATEWAYS = ("gw-1", "gw-2")
PASSWORDS = dict.fromkeys(GATEWAYS)


class Memory:
    """A broker that acknowledges at once."""

    def __init__(self) -> None:
        self.sent = self.sent_readings = 0
        self.acknowledged_messages = self.acknowledged_readings = 0
        self.refused_messages = self.refused_readings = 0
        self.refused: Counter[str] = Counter()
        self.payloads: list[bytes] = []
        self.closed = False

    def publish(self, channel: str, payload: bytes, *, readings: int) -> Receipt:
        assert channel == "readings"
        self.payloads.append(payload)
        self.sent += 1
        self.sent_readings += readings
        self.acknowledged_messages += 1
        self.acknowledged_readings += readings
        receipt = Receipt()
        receipt.acknowledged = True
        return receipt

    def drop(self) -> None:
        raise AssertionError("nothing breaks here")

    def drain(self, timeout: float) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


class Broker:
    def __init__(self, transport: type[Memory] = Memory) -> None:
        self.links: dict[str, Memory] = {}
        self.transport = transport

    def __call__(self, source: str, password: str | None) -> Memory:
        self.links[source] = self.transport()
        return self.links[source]


def decoded(broker: Broker) -> dict[str, reports.Decoded]:
    """The message as ingest decodes it; nothing may be refused."""
    found = {}
    for source, link in broker.links.items():
        found[source] = reports.decode(link.payloads, [source] * len(link.payloads), np.zeros(len(link.payloads), np.int64))
        assert found[source].refused == []
        assert int(found[source].received.sum()) == link.sent_readings
    return found


def test_every_device_is_heard_within_the_first_seconds():
    city = cities.build(devices=60, gateways=GATEWAYS, seed=1)
    broker = Broker()
    begun = time.time()
    report = run(city, url="", passwords=PASSWORDS, stop=threading.Event(), duration=1.3, connect=broker)
    devices = {device.id: device for device in city.devices}
    heard = set()
    for source, rows in decoded(broker).items():
        heard |= set(rows.device)
        assert all(devices[device].source == source for device in rows.device)
        assert all(any(s.metric == m for s in devices[d].sensors) for d, m in zip(rows.device, rows.metric, strict=True))
        assert rows.time.max() <= time.time() * 1e6
        assert rows.time.min() >= begun * 1e6 - 1
        assert rows.flags.max() == 0
    assert heard == set(devices)
    assert report.readings == sum(link.sent_readings for link in broker.links.values()) > 200
    assert report.complete
    assert all(link.closed for link in broker.links.values())


def test_messages_are_numbered_without_a_gap_under_one_boot_and_in_both_forms():
    broker = Broker()
    city = cities.build(devices=40, gateways=GATEWAYS, seed=1)
    # Some hours: several messages a gateway, however seldom it gets a turn.
    report = run(city, url="", passwords=PASSWORDS, stop=threading.Event(), speed=20_000, duration=0.5, connect=broker)
    for source in report.sources:
        rows = decoded(broker)[source.source]
        assert rows.seq.tolist() == list(range(len(rows.seq)))
        assert set(rows.boot) == {source.boot}
        assert source.last_seq == len(rows.seq) - 1
        bodies = [orjson.loads(payload)["readings"] for payload in broker.links[source.source].payloads]
        assert any(isinstance(body, dict) and "value" in body for body in bodies)
        assert any(isinstance(body, list) for body in bodies)
        assert all(len(body) <= BATCH for body in bodies if isinstance(body, list))


def test_faster_than_the_clock_ends_at_the_clock_and_never_ahead_of_it():
    broker = Broker()
    city = cities.build(devices=20, gateways=GATEWAYS, seed=2)
    report = run(city, url="", passwords=PASSWORDS, stop=threading.Event(), speed=3600, duration=0.5, connect=broker)
    assert report.simulated_to - report.simulated_from == pytest.approx(1800e6, rel=1e-6)
    assert report.simulated_to <= time.time() * 1e6
    times = np.concatenate([rows.time for rows in decoded(broker).values()])
    assert times.min() >= report.simulated_from
    assert times.max() <= report.simulated_to
    seen = Counter(
        zip(*[np.concatenate([getattr(r, k) for r in decoded(broker).values()]) for k in ("device", "metric", "time")], strict=True)
    )
    assert set(seen.values()) == {1}


def test_two_runs_over_the_same_time_send_the_same_grid_readings():
    start = datetime.now(UTC) - timedelta(hours=1)
    city = cities.build(devices=20, gateways=GATEWAYS, seed=2)
    seen = []
    for _ in range(2):
        broker = Broker()
        run(city, url="", passwords=PASSWORDS, stop=threading.Event(), speed=1200, start=start, duration=0.4, connect=broker)
        seen.append(
            {
                (d, m, t): v
                for rows in decoded(broker).values()
                for d, m, t, v in zip(rows.device, rows.metric, rows.time.tolist(), rows.value.tolist(), strict=True)
            }
        )
    assert seen[0] == seen[1]


def test_stop_ends_a_run_that_waits_for_room():
    stop = threading.Event()

    class Full(Memory):
        def publish(self, channel: str, payload: bytes, *, readings: int) -> None:
            stop.set()
            raise PublishStoppedError("full")

    city = cities.build(devices=5, gateways=["gw-1"], seed=2)
    report = run(city, url="", passwords=PASSWORDS, stop=stop, connect=Broker(Full))
    assert report.readings == 0
    assert report.sources[0].last_seq is None


def test_refused_and_unanswered_messages_are_in_the_report():
    class Harsh(Memory):
        def publish(self, channel: str, payload: bytes, *, readings: int) -> Receipt:
            self.sent += 1
            self.sent_readings += readings
            if self.sent == 1:
                self.refused_messages += 1
                self.refused_readings += readings
                self.refused["Not authorized"] += 1
            return Receipt()

        def drain(self, timeout: float) -> bool:
            return False

    city = cities.build(devices=5, gateways=["gw-1"], seed=2)
    report = run(
        city, url="", passwords=PASSWORDS, stop=threading.Event(), duration=0.5, speed=600, connect=Broker(Harsh)
    ).as_dict()
    assert report["complete"] is False
    assert report["refused_messages"] == 1
    assert report["sources"][0]["refused"] == {"Not authorized": 1}
    assert report["unacknowledged_readings"] == report["sources"][0]["unacknowledged_readings"] > 0
    assert orjson.dumps(report)


def test_a_source_without_credentials_is_named_before_anything_is_sent():
    city = cities.build(devices=50, gateways=GATEWAYS, seed=2)
    broker = Broker()
    with pytest.raises(PublishError, match="gw-2"):
        run(city, url="", passwords={"gw-1": None}, stop=threading.Event(), connect=broker)
    assert broker.links == {}


def test_progress_is_told():
    told = []
    city = cities.build(devices=5, gateways=["gw-1"], seed=2)
    report = run(city, url="", passwords=PASSWORDS, stop=threading.Event(), duration=0.3, progress=told.append, connect=Broker())
    assert told[-1].readings == report.readings
    assert told[-1].time == report.simulated_to


def test_a_city_without_devices_waits_for_its_end():
    city = cities.build(devices=0, gateways=GATEWAYS, seed=2)
    report = run(city, url="", passwords={}, stop=threading.Event(), duration=0.2, connect=Broker())
    assert report.readings == 0
    assert report.sources == ()


def test_a_naive_start_is_refused():
    city = cities.build(devices=1, gateways=GATEWAYS, seed=2)
    with pytest.raises(ValueError, match="zone"):
        run(city, url="", passwords=PASSWORDS, stop=threading.Event(), start=datetime(2026, 1, 1), connect=Broker())  # noqa: DTZ001
