"""Mistakes of devices, over a real broker to a real ingest: each is counted under its reason, and the next message is served."""

import json
import time

import paho.mqtt.client as mqtt
import pytest

from citybeat.devices.device import Device, Sensor
from citybeat.storage.accounts import ledger
from citybeat.storage.registry import records
from tests.acceptance.conftest import connected, wait_for

NOW = int(time.time() * 1000)


@pytest.fixture(scope="module")
def source(town):
    """A source with two devices of its own, beside another source with one."""
    with town.database() as database:
        records.register(
            database,
            [
                Device(
                    id="bad-1", source="bad-gw", domain="environment", sensors=(Sensor(metric="pm25"), Sensor(metric="temperature"))
                ),
                Device(id="good-1", source="good-gw", domain="environment", sensors=(Sensor(metric="pm25"),)),
            ],
        )
    return "bad-gw"


@pytest.fixture(scope="module")
def ingest(town):
    """One ingest for all of this module."""
    process = town.start("ingest", "--stats")
    process.wait_ready()
    yield process
    assert process.stop() == 0, process.log.read_text("utf-8")


def send(client, payload, topic="city/v1/bad-gw/readings"):
    client.publish(topic, payload, qos=1).wait_for_publish(10)


def good(value):
    return json.dumps({"device": "bad-1", "ts": NOW + value, "values": {"pm25": float(value)}}).encode()


def report(**changes):
    return json.dumps({"device": "bad-1", "ts": NOW, "values": {"pm25": 1.0}} | changes).encode()


CASES = {
    "malformed": (b"not json", None, 0),
    "empty_payload": (b"", "malformed", 0),
    "invalid_utf8": (b'{"values":{"pm25":\xff}}', None, 0),
    "wrong_type": (b"42", None, 0),
    "empty": (b"[]", None, 0),
    "column_length": (json.dumps({"device": "bad-1", "metric": "pm25", "ts": [1, 2], "value": [1.0]}).encode(), None, 0),
    "bad_envelope": (json.dumps({"seq": "x", "readings": []}).encode(), None, 0),
    "not_a_number": (report(values={"pm25": "12"}), None, 1),
    "not_finite": (b'{"device":"bad-1","values":{"pm25":Infinity}}', None, 1),
    "unknown_device": (report(device="nobody"), None, 1),
    "unknown_metric": (report(values={"happiness": 1}), None, 1),
    "source_mismatch": (report(device="good-1"), None, 1),
    "too_old": (report(ts=0), None, 1),
    "too_far_ahead": (report(ts=4_102_444_800_000), None, 1),
    "bad_time": (report(ts="2026-01-01T00:00:00"), None, 1),
    "bad_report": (b"[7]", None, 1),
    "bad_name": (report(device=5), None, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_quarantined_with_its_reason_and_the_next_is_served(town, ingest, source, case):
    payload, reason, readings = CASES[case]
    reason = reason or case
    marker = list(CASES).index(case) + 1
    with town.database() as database, connected(town, source) as client:
        before = ledger.totals(database, sources=[source])
        send(client, payload)
        send(client, good(marker))
        wait_for(lambda: (ledger.totals(database, sources=[source]) - before).messages >= 2)
        done = ledger.totals(database, sources=[source]) - before
        assert (done.messages, done.stored) == (2, 1)
        assert done.undecodable == (1 if readings == 0 else 0)
        assert done.quarantined == readings
        assert done.balanced
        row = database.execute(
            "SELECT payload, refused, reasons, readings, topic FROM quarantine ORDER BY id DESC LIMIT 1"
        ).fetchone()
        assert bytes(row[0]) == payload
        assert row[2:] == ([reason], readings, "city/v1/bad-gw/readings")
        assert row[1][0][0] == (0 if readings else None)
        assert row[1][0][2]  # a detail for people


def test_nan_is_missing(town, ingest, source):
    with town.database() as database, connected(town, source) as client:
        before = ledger.totals(database, sources=[source])
        send(client, b'{"device":"bad-1","values":{"pm25":NaN,"temperature":null}}')
        wait_for(lambda: (ledger.totals(database, sources=[source]) - before).messages == 1)
        done = ledger.totals(database, sources=[source]) - before
        assert (done.received, done.missing, done.quarantined) == (2, 2, 0)


def test_a_topic_outside_the_contract(town, ingest, source):
    with town.database() as database, connected(town, source) as client:
        for topic, reason in (("city/v1/bad-gw/nothing", "unknown_channel"), ("city/v1/bad-gw/readings/deep", "unknown_topic")):
            send(client, good(99), topic)
            wait_for(
                lambda reason=reason: database.execute("SELECT 1 FROM quarantine WHERE %s = ANY(reasons)", [reason]).fetchone()
            )
        send(client, good(98))
        wait_for(lambda: database.execute("SELECT 1 FROM readings WHERE value = 98").fetchone())
    assert accounts_hold(town)


def test_ten_thousand_readings_in_a_message(town, ingest, source):
    columns = {
        "device": "bad-1",
        "metric": ["pm25", "temperature"] * 5_000,
        "ts": [NOW - 100_000 - i // 2 for i in range(10_000)],
        "value": [i % 40 for i in range(10_000)],
    }
    with town.database() as database, connected(town, source) as client:
        before = ledger.totals(database, sources=[source])
        send(client, json.dumps(columns).encode())
        wait_for(lambda: (ledger.totals(database, sources=[source]) - before).messages == 1)
        done = ledger.totals(database, sources=[source]) - before
        assert (done.received, done.stored) == (10_000, 10_000)


def test_five_megabytes_are_refused_by_the_broker_and_harm_nobody(town, ingest, source):
    """The broker drops the sender (PITFALLS; docs/stack.md), never acknowledges, and serves everybody else."""
    acknowledged = []
    with town.database() as database, connected(town, "good-gw") as other:
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        client.username_pw_set(source, town.password(source))
        client.on_publish = lambda *arguments: acknowledged.append(arguments)
        dropped = []
        client.on_disconnect = lambda *arguments: dropped.append(arguments)
        client.connect("127.0.0.1", town.settings.mqtt_port)
        client.loop_start()
        client.publish("city/v1/bad-gw/readings", b" " * 5_000_000, qos=1)
        wait_for(lambda: dropped)
        client.disconnect()
        client.loop_stop()
        assert acknowledged == []
        payload = json.dumps({"device": "good-1", "ts": NOW, "values": {"pm25": 77.0}}).encode()
        send(other, payload, "city/v1/good-gw/readings")
        wait_for(lambda: database.execute("SELECT 1 FROM readings WHERE value = 77").fetchone())


def test_status_is_kept(town, ingest, source):
    with town.database() as database, connected(town, source) as client:
        send(client, b"online", "city/v1/bad-gw/status")
        query = "SELECT status FROM source_state JOIN sources ON id = source_id WHERE name = 'bad-gw'"
        wait_for(lambda: database.execute(query).fetchone() == ("online",))
        send(client, b"asleep", "city/v1/bad-gw/status")
        wait_for(lambda: database.execute("SELECT 1 FROM quarantine WHERE 'bad_status' = ANY(reasons)").fetchone())
        assert database.execute(query).fetchone() == ("online",)


def test_a_device_that_is_registered_while_ingest_runs_is_known_at_once(town, ingest):
    with town.database() as database, connected(town, "late-gw") as client:
        records.register(database, [Device(id="late-1", source="late-gw", domain="environment", sensors=(Sensor(metric="pm25"),))])
        payload = json.dumps({"device": "late-1", "ts": NOW, "values": {"pm25": 5.5}}).encode()
        send(client, payload, "city/v1/late-gw/readings")
        wait_for(lambda: ledger.totals(database, sources=["late-gw"]).messages == 1)
        assert ledger.totals(database, sources=["late-gw"]).stored == 1


def accounts_hold(town):
    with town.database() as database:
        return ledger.discrepancies(database) == [] and ledger.rollup_differences(database) == []


def test_the_accounts_hold_after_all_that(town, ingest):
    assert accounts_hold(town)
