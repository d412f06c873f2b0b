"""A simulated city in the registry: in slices, and as it is."""

import numpy as np
import pytest

from citybeat import context
from citybeat.devices.catalogue import builtin
from citybeat.simulator.city import layout as cities
from citybeat.storage.db.connection import Connection
from citybeat.storage.registry import records


@pytest.mark.parametrize("size", [7, 40, 10_000])
def test_a_city_is_registered_whatever_the_slice(database: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, size: int):
    monkeypatch.setattr(context, "SLICE", size)
    city = cities.build(devices=40, gateways=["gw-1", "gw-2"], seed=4)
    for _ in range(2):  # once more changes nothing
        context.register(database, city.devices)
    found = records.load(connection, builtin())
    sent = {(device.id, sensor.metric): sensor for device in city.devices for sensor in device.sensors}
    assert found.series.keys() == sent.keys()
    assert sorted(found.series.values()) == list(range(1, len(sent) + 1))
    for device in city.devices:
        assert found.devices[device.id] == found.sources[device.source]
    # What ingest judges by is what the city declares: a counter's step hangs on its rating and its interval.
    feeder = next(device for device in city.devices if device.tags["type"] == "Feeder")
    number = found.series[feeder.id, "totalActiveEnergyImport"]
    rating = next(sensor.rating for sensor in feeder.sensors if sensor.metric == "totalActiveEnergyImport")
    assert rating is not None
    assert found.step_floor[number] == rating / 4
    assert np.isclose(found.step_rate[number], rating / 3600e6)
