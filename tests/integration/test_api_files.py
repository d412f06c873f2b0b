"""Descriptions of devices, in bodies and in files: all that is wrong is told at once, and what is exported is what there is."""

import asyncio
import threading

import httpx
import pytest

from citybeat.api.files import imports
from citybeat.devices.device import Device, Sensor
from citybeat.storage.registry import records

CSV = {"content-type": "text/csv"}


def imported(api, content):
    return api.ask("POST", "/v1/registry/import", content=content, headers=CSV)[0]


def exported(api):
    return api.ask("GET", "/v1/devices", headers={"accept": "text/csv"})[0].content


def etag(api, device):
    return api.get(f"/v1/devices/{device}").headers["etag"]


def errors(answer):
    assert answer.status_code == 422, answer.text
    return [tuple(error["loc"]) for error in answer.json()["errors"]]


def test_every_wrong_member_of_a_body_is_told(api):
    body = {"id": "env-1", "source": "gw", "domain": "environment", "latitude": 10.5}
    sensors = [
        {"metric": "pm52"},
        {"metric": "pm25", "unit": "kV"},
        {"metric": "pm10"},
        {"metric": "pm10"},
        {"metric": "no2", "calibration": {"scale": 0}},
    ]
    refused = api.ask("POST", "/v1/devices", json=body | {"sensors": sensors})[0]
    assert errors(refused) == [
        ("body", "sensors", 0, "metric"),
        ("body", "sensors", 1, "unit"),
        ("body", "sensors", 3, "metric"),
        ("body", "sensors", 4),
        ("body",),
    ]
    for words in ("did you mean 'pm25'", "sensors.1.unit", "already", "scale", "latitude and longitude"):
        assert words in refused.json()["detail"]
    assert api.get("/v1/devices").json()["devices"] == []


@pytest.mark.parametrize(("metric", "body", "loc"), [("pm52", {}, ("path", "metric")), ("pm25", {"unit": "kV"}, ("body", "unit"))])
def test_what_is_wrong_with_a_sensor_is_told_where_it_stands(api, metric, body, loc):
    api.ask("POST", "/v1/devices", json={"id": "env-1", "source": "gw", "domain": "environment"})
    assert errors(api.ask("PUT", f"/v1/devices/env-1/sensors/{metric}", json=body)[0]) == [loc]


def test_units_of_a_file_are_told_by_their_lines(api):
    content = b"id,source,domain,metric,unit\na,gw,environment,pm25,kV\n,,,temperature,[degF]\nb,gw,environment,pm10,kV\n"
    assert errors(imported(api, content)) == [("body", "line 2", "unit"), ("body", "line 4", "unit")]
    assert api.get("/v1/devices").json()["devices"] == []


def test_what_is_exported_is_what_there_is(api, connection):
    """Registered by whichever way, with text as people and programs write it."""
    odd = [" north ", '"Bến Thành"', "", '""', "a;b,c", "two\r\nlines", "\u00a0", "=1+1"]
    listed = [
        Device(
            id=f"env-{i}",
            source="gw",
            domain="environment",
            name=text,
            district=text,
            tags={"owner": text, " blank ": text, "a;b\n": ""} if i % 2 else {"owner": text},
            sensors=(Sensor(metric="temperature", unit="°F", low=-1e-7, sentinels=(-1.5, 1e16)),),
        )
        for i, text in enumerate(odd)
    ]
    records.register(connection, listed)
    tags = {device.id: etag(api, device.id) for device in listed}
    content = exported(api)
    assert imported(api, content).json() == {
        "devices": len(odd),
        "sensors": len(odd),
        "created": 0,
        "changed": 0,
        "unchanged": len(odd),
        "dry_run": False,
    }
    assert {name: etag(api, name) for name in tags} == tags
    assert exported(api) == content


def test_a_device_never_has_more_tags_than_a_file_may_say(api):
    api.ask("POST", "/v1/devices", json={"id": "env-1", "source": "gw", "domain": "environment"})

    def patched(first, last, value="x"):
        return api.ask("PATCH", "/v1/devices/env-1", json={"tags": {f"t{i}": value for i in range(first, last)}})[0]

    assert patched(0, 50).status_code == 200
    refused = patched(50, 51)
    assert errors(refused)
    assert "50 at most" in refused.json()["detail"]
    swapped = {**dict.fromkeys([f"t{i}" for i in range(50)]), **{f"u{i}": "x" for i in range(50)}}
    assert api.ask("PATCH", "/v1/devices/env-1", json={"tags": swapped})[0].status_code == 200
    assert imported(api, exported(api)).json()["unchanged"] == 1


def test_others_are_answered_while_a_file_is_read(api, monkeypatch):
    reading, answered = threading.Event(), threading.Event()
    monkeypatch.setattr(imports, "read", lambda *_: (reading.set(), answered.wait(20), ([], []))[-1])

    async def both():
        transport = httpx.ASGITransport(app=api.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://citybeat.test", timeout=30) as client:
            upload = asyncio.create_task(client.post("/v1/registry/import", content=b"", headers=CSV))
            assert await asyncio.to_thread(reading.wait, 20)
            other = await client.get("/v1/catalogue")
            answered.set()
            return other.status_code, (await upload).status_code

    try:
        assert api._runner.run(both()) == (200, 200)
    finally:
        answered.set()


@pytest.mark.parametrize("kind", ["application/merge-patch+json", "application/json"])
def test_a_patch_may_say_that_it_is_one(api, kind):
    api.ask("POST", "/v1/devices", json={"id": "env-1", "source": "gw", "domain": "environment"})
    changed = api.ask("PATCH", "/v1/devices/env-1", content=b'{"name": "x"}', headers={"content-type": kind})[0]
    assert changed.json()["name"] == "x"


def test_the_source_of_what_names_none_is_nobodys(api):
    assert api.ask("PATCH", "/v1/sources/%3F", json={"conflict_policy": "keep"})[0].status_code == 404
