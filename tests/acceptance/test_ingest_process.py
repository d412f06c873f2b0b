"""`citybeat ingest` as a process. SIGKILL in mid-stream loses and doubles nothing: what was acknowledged is what is stored."""

import json
import random
import threading
import time

import paho.mqtt.client as mqtt
import pytest

from citybeat.devices.device import Device, Sensor
from citybeat.devices.wire import reports as wire
from citybeat.storage.accounts import ledger
from citybeat.storage.registry import records
from tests.acceptance.conftest import wait_for

SOURCE = "kill-gw"
DEVICES = 20
KILLS = 4
METRIC = "temperature"


class Publisher:
    """Sends numbered messages as fast as they are acknowledged, and remembers which were."""

    def __init__(self, town):
        self.acknowledged = set()
        self._mids = {}
        self._lock = threading.Lock()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.username_pw_set(SOURCE, town.password(SOURCE))
        self._client.max_inflight_messages_set(20)
        self._client.on_publish = self._on_publish
        self._client.connect("127.0.0.1", town.settings.mqtt_port)
        self._client.loop_start()

    def send(self, number, payload):
        with self._lock:
            info = self._client.publish(f"city/v1/{SOURCE}/readings", payload, qos=1)
            self._mids[info.mid] = number
        info.wait_for_publish(30)

    def _on_publish(self, _client, _data, mid, reason, _properties):
        with self._lock:
            if not reason.is_failure:
                self.acknowledged.add(self._mids[mid])

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


@pytest.mark.parametrize("numbered", [True, False], ids=["seq", "no seq"])
def test_nothing_is_lost_and_nothing_doubled(town, numbered):
    prefix = "kill-s" if numbered else "kill-n"
    devices = [
        Device(id=f"{prefix}-{i}", source=SOURCE, domain="environment", sensors=(Sensor(metric=METRIC),)) for i in range(DEVICES)
    ]
    start = int(time.time() * 1_000_000) // 1_000_000 * 1_000_000 - 100_000 * 1_000_000
    with town.database() as database:
        records.register(database, devices)
    process = town.start("ingest", "--stats", CITYBEAT_BATCH_MESSAGES="40")
    process.wait_ready()
    publisher = Publisher(town)
    enough = threading.Event()
    sent = 0

    def publish():
        nonlocal sent
        while not enough.wait(0.002):
            reports = [wire.encode_report(device.id, start + sent * 1_000_000, {METRIC: sent % 30 + 0.5}) for device in devices]
            publisher.send(sent, wire.encode(reports, seq=sent if numbered else None, boot="k" if numbered else None))
            sent += 1

    thread = threading.Thread(target=publish)
    thread.start()
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)  # shown when the test fails
    moments = random.Random(seed)
    for _ in range(KILLS):
        time.sleep(moments.uniform(0.1, 0.6))
        process.kill()
        process = town.start("ingest", "--stats", CITYBEAT_BATCH_MESSAGES="40")
        process.wait_ready()
    enough.set()
    thread.join(60)
    publisher.close()
    assert publisher.acknowledged == set(range(sent))
    query = """SELECT s.device_id, (extract(epoch FROM r.time) * 1000000)::int8, r.value FROM readings r
               JOIN series s ON s.id = r.series_id WHERE s.device_id LIKE %s"""
    expected = {(d.id, start + n * 1_000_000, n % 30 + 0.5) for d in devices for n in publisher.acknowledged}
    with town.database() as database:
        wait_for(
            lambda: len(database.execute(query, [f"{prefix}-%"]).fetchall()) >= len(expected),
            lambda: (seed, len(database.execute(query, [f"{prefix}-%"]).fetchall()), len(expected)),
        )
        rows = database.execute(query, [f"{prefix}-%"]).fetchall()
        assert len(rows) == len(expected)
        assert set(rows) == expected
        assert process.stop() == 0
        assert ledger.discrepancies(database) == []
        assert ledger.rollup_differences(database) == []
        if numbered:
            assert ledger.numbers(database, [SOURCE])[SOURCE, "k"] == (sent, 0)


def test_a_reading_without_a_time_is_stored_once_if_its_message_is_numbered(town):
    """Killed between commit and acknowledgement, the message comes again; its number tells."""
    device = Device(id="kill-clock", source=SOURCE, domain="environment", sensors=(Sensor(metric=METRIC),))
    with town.database() as database:
        records.register(database, [device])
        process = town.start("ingest", "--stats")
        process.wait_ready()
        publisher = Publisher(town)
        payload = wire.encode(wire.encode_report(device.id, None, {METRIC: 21.5, "nonsense": 1}), seq=0, boot="clock")
        for _ in range(3):
            publisher.send(0, payload)
        wait_for(lambda: database.execute("SELECT sum(messages) FROM ledger").fetchone())
        wait_for(lambda: ledger.numbers(database, [SOURCE]).get((SOURCE, "clock")) == (1, 0))
        assert process.stop() == 0
        publisher.close()
        count = "SELECT count(*) FROM readings r JOIN series s ON s.id = r.series_id WHERE s.device_id = 'kill-clock'"
        assert database.execute(count).fetchone() == (1,)
        kept = database.execute("SELECT refused FROM quarantine WHERE payload = %s", [payload]).fetchall()
        assert len(kept) == 1
        assert ledger.discrepancies(database) == []


def test_sigterm_loses_nothing_and_ends_soon(town):
    device = Device(id="term-1", source=SOURCE, domain="environment", sensors=(Sensor(metric=METRIC),))
    with town.database() as database:
        records.register(database, [device])
        process = town.start("ingest", "--stats")
        process.wait_ready()
        publisher = Publisher(town)
        start = int(time.time() * 1000)
        for number in range(200):
            if number == 100:
                assert process.stop() == 0
            publisher.send(number, json.dumps({"device": "term-1", "ts": start + number, "values": {METRIC: 1.0}}).encode())
        publisher.close()
        process = town.start("ingest", "--stats")
        process.wait_ready()
        count = "SELECT count(*) FROM readings r JOIN series s ON s.id = r.series_id WHERE s.device_id = 'term-1'"
        wait_for(lambda: database.execute(count).fetchone() == (200,), lambda: database.execute(count).fetchone())
        assert process.stop() == 0


def test_a_message_larger_than_the_setting_is_quarantined_unread(town):
    """Where a broker lets more through than ours does."""
    process = town.start("ingest", "--stats", CITYBEAT_MAX_MESSAGE_BYTES="5000")
    process.wait_ready()
    publisher = Publisher(town)
    with town.database() as database:
        publisher.send(0, b"[" + b" " * 10_000 + b"]")
        wait_for(lambda: database.execute("SELECT 1 FROM quarantine WHERE 'too_large' = ANY(reasons)").fetchone())
        (kept,) = database.execute("SELECT length(payload) FROM quarantine WHERE 'too_large' = ANY(reasons)").fetchone()
        assert kept == 4096
    publisher.close()
    assert process.stop() == 0
