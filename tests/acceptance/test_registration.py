"""A device that is registered over HTTP is heard over MQTT at once."""

import json
import time

import httpx

from tests.acceptance.conftest import connected, wait_for


def test_ingest_sees_what_is_registered(service):
    source = f"gw-new-{time.monotonic_ns()}"
    device = {"id": f"new-{time.monotonic_ns()}", "source": source, "domain": "environment", "sensors": [{"metric": "pm25"}]}
    with httpx.Client(base_url=service.url, headers=service.headers) as city, connected(service.town, source) as client:

        def send(value):
            report = {"device": device["id"], "ts": int(time.time() * 1000), "values": {"pm25": value}}
            client.publish(f"city/v1/{source}/readings", json.dumps(report), qos=1).wait_for_publish(10)

        def ledger():
            return city.get("/v1/ledger", params={"source": source}).json()["totals"]

        send(1.0)
        wait_for(lambda: ledger()["quarantined"] == 1, ledger)
        assert city.post("/v1/devices", json=device).status_code == 201
        send(2.0)
        wait_for(lambda: ledger()["stored"] == 1, ledger)
        assert city.delete(f"/v1/devices/{device['id']}").status_code == 204
        send(3.0)
        wait_for(lambda: ledger()["quarantined"] == 2, ledger)
        assert city.patch(f"/v1/devices/{device['id']}", json={"retired": False}).status_code == 200
        assert city.delete(f"/v1/devices/{device['id']}/sensors/pm25").status_code == 204
        send(4.0)
        wait_for(lambda: ledger()["quarantined"] == 3, ledger)
        assert city.put(f"/v1/devices/{device['id']}/sensors/pm25", json={}).status_code == 200
        send(5.0)
        wait_for(lambda: ledger()["stored"] == 2, ledger)
        reasons = city.get("/v1/quarantine", params={"source": source}).json()
        assert ledger()["received"] == 5, reasons
