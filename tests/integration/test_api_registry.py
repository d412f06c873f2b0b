"""/healthz, /readyz, /v1/catalogue and /v1/devices on a real database."""

import pytest

from citybeat.api.http import models
from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.storage.registry import records


@pytest.fixture
def city(connection):
    records.register(
        connection,
        [
            Device(id="env-1", source="gw-1", domain="environment", district="north", sensors=(Sensor(metric="temperature"),)),
            Device(
                id="env-2",
                source="gw-1",
                domain="environment",
                district="south",
                name="Bến Thành",
                latitude=10.77,
                longitude=106.7,
                tags={"owner": "us"},
                sensors=(
                    Sensor(metric="precipitation", interval=600, sentinels=(-1.0,)),
                    Sensor(metric="temperature", low=-5.0, high=45.0),
                ),
            ),
            Device(id="tra-1", source="gw-2", domain="traffic", district="north", sensors=()),
            Device(id="old-1", source="gw-2", domain="traffic", district="north", sensors=()),
        ],
    )
    assert records.retire(connection, "old-1")


def test_health_and_readiness(api, connection):
    for url in ("/healthz", "/readyz"):
        answer = api.get(url)
        assert answer.status_code == 200
        models.HealthModel.model_validate(answer.json())
    connection.execute("INSERT INTO schema_migrations (number, name, checksum) VALUES (9999, 'future', 'x')")
    answer = api.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:citybeat:problem:schema-mismatch"
    assert "newer" in answer.json()["detail"]
    assert api.get("/healthz").status_code == 200


def test_catalogue(api):
    everything = models.CatalogueModel.model_validate(api.get("/v1/catalogue").json())
    assert [metric.name for metric in everything.metrics] == list(builtin())
    energy = api.get("/v1/catalogue", domain="energy").json()["metrics"]
    assert {metric["domain"] for metric in energy} == {"energy"}
    (counter,) = [metric for metric in energy if metric["name"] == "totalActiveEnergyImport"]
    assert counter["aggregates"] == ["count", "min", "max", "first", "last", "increase"]
    listed = {metric.name: metric for metric in everything.metrics}
    assert listed["temperature"].accepted_units == ["Cel", "K", "[degF]", "[degR]"]
    assert (listed["temperature"].senml_unit, listed["intensity"].senml_unit) == ("Cel", None)
    assert "%" in listed["relativeHumidity"].accepted_units


@pytest.mark.parametrize(
    ("parameters", "ids"),
    [
        ({}, ["env-1", "env-2", "tra-1"]),
        ({"domain": "environment"}, ["env-1", "env-2"]),
        ({"district": "north"}, ["env-1", "tra-1"]),
        ({"source": "gw-2"}, ["tra-1"]),
        ({"source": "gw-2", "include_retired": "true"}, ["old-1", "tra-1"]),
        ({"domain": "energy"}, []),
        ({"district": "%"}, []),
    ],
)
def test_devices_are_filtered(api, city, parameters, ids):
    answer = models.DevicesModel.model_validate(api.get("/v1/devices", **parameters).json())
    assert [device.id for device in answer.devices] == ids
    assert answer.next_cursor is None


def test_devices_come_in_pages(api, city):
    seen, cursor = [], {}
    while cursor is not None:
        page = api.get("/v1/devices", limit=1, include_retired=True, **cursor).json()
        seen += [device["id"] for device in page["devices"]]
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
    assert seen == ["env-1", "env-2", "old-1", "tra-1"]


def test_one_device(api, city, fill):
    fill([("env-2", "temperature", 1_767_225_600_000_001, 50.0, 1 | 16)], received_at=1_767_225_700_000_000)
    device = api.get("/v1/devices/env-2").json()
    models.DeviceDetailModel.model_validate(device)
    assert device["name"] == "Bến Thành"
    assert device["tags"] == {"owner": "us"}
    rain, temperature = device["sensors"]
    assert (rain["low"], rain["high"], rain["suspect_low"]) == (0.0, 500.0, None)  # of ten minutes
    assert -1.0 in rain["sentinels"]
    assert (rain["suspect_high"], rain["latest"]) == (None, None)
    assert (temperature["low"], temperature["high"], temperature["unit"]) == (-5.0, 45.0, "Cel")
    assert temperature["latest"]["time"] == "2026-01-01T00:00:00.000001Z"
    assert temperature["latest"]["flags"] == ["range", "late"]


def test_a_retired_device_can_still_be_looked_up(api, city):
    assert api.get("/v1/devices/old-1").json()["retired_at"] is not None
