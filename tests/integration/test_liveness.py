"""Overdue sensors: by sensor, by its own interval, also when it never reported."""

import time
from datetime import timedelta

import pytest

from citybeat.devices.device import Device, Sensor
from citybeat.storage.reads.overdue import overdue
from citybeat.storage.registry import records


@pytest.fixture
def city(connection):
    sensors = (Sensor(metric="pm25"), Sensor(metric="temperature", interval=3600.0), Sensor(metric="no2"))
    records.register(
        connection,
        [
            Device(id="env-1", source="gw-1", domain="environment", sensors=sensors),
            Device(id="env-2", source="gw-2", domain="environment", sensors=(Sensor(metric="pm25"),)),
        ],
    )
    return connection


def found(city, **wanted):
    return [(sensor.device, sensor.metric) for sensor in overdue(city, **wanted)]


def test_a_silent_sensor_among_others_of_its_device(city, fill):
    now = int(time.time() * 1e6)
    fill(
        [
            ("env-1", "pm25", now - 600_000_000, 5.0, 0),
            ("env-1", "pm25", now - 500_000_000, 5000.0, 1),
            ("env-1", "temperature", now - 600_000_000, 20.0, 0),
            ("env-2", "pm25", now - 100_000_000, 5.0, 0),
        ],
        received_at=now,
    )
    assert found(city) == [("env-1", "pm25")]  # 500 s at 60 s; 600 s at 3,600 s and 100 s at 60 s are not yet three
    (sensor,) = overdue(city)
    assert sensor.expected == timedelta(seconds=60)
    assert sensor.last_at - sensor.good_at == timedelta(seconds=100)
    assert sensor.overdue_since == sensor.last_at + timedelta(seconds=180)
    assert found(city, source="gw-2") == []
    assert found(city, domain="traffic") == []
    assert records.retire(city, "env-1")
    assert found(city) == []


def test_a_sensor_that_never_reported(city):
    assert found(city) == []
    city.execute("UPDATE series SET created_at = now() - interval '10 minutes'")
    assert sorted(found(city)) == [("env-1", "no2"), ("env-1", "pm25"), ("env-2", "pm25")]
    assert {sensor.last_at for sensor in overdue(city)} == {None}
