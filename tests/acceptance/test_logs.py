"""Logs of ingest on a bad day contain neither payloads nor passwords, and have a form that programs can read."""

import json
import time

import pytest

from citybeat.devices.device import Device, Sensor
from citybeat.storage.accounts import ledger
from citybeat.storage.registry import records
from tests.acceptance.conftest import connected, wait_for

#: Stands in every payload below, in a place of its own.
MARK = "ZuckerwatteNr1"
POISON = [
    MARK.encode(),
    b"\xff" + MARK.encode(),
    json.dumps({"device": MARK, "values": {"pm25": 1}}).encode(),
    json.dumps({"device": "log-1", "values": {MARK: 1, "pm25": MARK}}).encode(),
    json.dumps({"device": "log-1", "ts": MARK, "values": {"pm25": 1}}).encode(),
    json.dumps({"seq": MARK, "readings": []}).encode(),
    json.dumps({"seq": 1, "boot": MARK, "readings": [7, {"device": MARK + "\\n\\u0000", "values": {"pm25": 1e400}}]}).encode(),
    json.dumps({"device": ["log-1", MARK], "metric": "pm25", "ts": [1], "value": [1.0]}).encode(),
    (b"[" * 5_000) + MARK.encode(),
]


def secrets(*urls):
    return [url.split("://")[1].split("@")[0].split(":")[1] for url in urls]


@pytest.mark.parametrize("form", ["text", "json"])
def test_neither_payloads_nor_passwords_are_logged(town, form):
    source = f"log-gw-{form}"
    with town.database() as database:
        records.register(database, [Device(id="log-1", source=source, domain="environment", sensors=(Sensor(metric="pm25"),))])
    urls = {"CITYBEAT_DATABASE_URL": town.servers.database_url, "CITYBEAT_MQTT_URL": town.servers.mqtt_url}
    process = town.start("ingest", "--stats", CITYBEAT_LOG_LEVEL="DEBUG", CITYBEAT_LOG_FORMAT=form, **urls)
    process.wait_ready()

    def messages():
        return ledger.totals(database, sources=[source]).messages

    with town.database() as database, connected(town, source) as client:
        for payload in POISON:
            client.publish(f"city/v1/{source}/readings", payload, qos=1).wait_for_publish(10)
        wait_for(lambda: messages() == len(POISON))
        # Connections that break are what makes drivers talk.
        database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'citybeat ingest%'")
        ts = int(time.time() * 1000)
        again = json.dumps({"device": "log-1", "ts": ts, "values": {"pm25": 2.5}, "note": MARK}).encode()
        client.publish(f"city/v1/{source}/readings", again, qos=1).wait_for_publish(10)
        wait_for(lambda: messages() == len(POISON) + 1)
    assert process.stop() == 0
    log = process.log.read_text("utf-8")
    assert "the database is unavailable" in log  # there was something to say
    assert MARK not in log
    for secret in secrets(*urls.values()):
        assert len(secret) > 8
        assert secret not in log
    lines = [line for line in log.splitlines() if not line.startswith('{"ready"')]
    if form == "json":
        stats = [line for line in lines if "level" not in json.loads(line)]
        assert len(stats) < len(lines)
    else:
        assert any(line.startswith("timestamp=") and " level=warning logger=citybeat.ingest." in line for line in lines)
