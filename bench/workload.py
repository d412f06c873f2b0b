"""What is measured with: messages of a city whose readings are all good, so that the hot path does its usual work."""

import numpy as np

from devices import wire
from devices.catalogue import Domain, builtin
from devices.device import Device, Sensor
from devices.registry import Registry, SeriesRow, build
from ingest.message import Message

METRICS = ("pm25", "temperature", "relativeHumidity", "no2", "LAeq")
SOURCE = "gw-01"
#: us since 1970 UTC: a fixed time of receipt; the hot path reads no clock.
NOW = 1_767_225_600_000_000


def devices(count: int) -> list[Device]:
    """Devices with the same five sensors each."""
    sensors = tuple(Sensor(metric=metric) for metric in METRICS)
    return [Device(id=f"env-{i:05d}", source=SOURCE, domain=Domain.ENVIRONMENT, sensors=sensors) for i in range(count)]


def registry(listed: list[Device]) -> Registry:
    """Their snapshot, without a database."""
    pairs = [(device, sensor) for device in listed for sensor in device.sensors]
    rows = [
        SeriesRow(id=i + 1, device=device.id, source=1, retired=False, metric=builtin()[sensor.metric], sensor=sensor)
        for i, (device, sensor) in enumerate(pairs)
    ]
    return build(version=1, sources={SOURCE: 1}, devices=dict.fromkeys((device.id for device in listed), 1), rows=rows)


def messages(listed: list[Device], *, count: int, reports: int, seed: int = 1) -> list[Message]:
    """Messages of `reports` reports of one value each; every reading opens a series-minute of its own."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.uniform(20.0, 30.0, count * reports), 1)
    out = []
    for i in range(count):
        body = []
        for j in range(reports):
            k = i * reports + j
            sweep, place = divmod(k, len(listed) * len(METRICS))
            device, metric = divmod(place, len(METRICS))
            name = METRICS[metric]
            value = values[k] / (100.0 if name == "relativeHumidity" else 1.0)
            body.append(wire.encode_report(listed[device].id, NOW - 3_600_000_000 + sweep * 60_000_000, {name: float(value)}))
        out.append(Message(f"city/v1/{SOURCE}/readings", wire.encode(body, seq=i, boot="b"), NOW, False, 1, i % 65_535 + 1, 1))
    return out
