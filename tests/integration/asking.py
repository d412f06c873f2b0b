"""Fixtures of tests of queries: two devices with a sensor of every kind, and functions that query them."""

from datetime import UTC, datetime

import numpy as np

from citybeat.api.http import models
from citybeat.devices.device import Device, Sensor
from citybeat.storage.registry import records
from tests.oracles_buckets import HOUR, MINUTE, us

METRICS = ["temperature", "precipitation", "windDirection", "LAeq", "totalActiveEnergyImport"]
KINDS = ["gauge", "amount", "direction", "level", "counter"]
T0 = us(datetime(2026, 1, 1, tzinfo=UTC))
DAY = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}


def register(connection):
    """Devices a and b, in the north and in the south."""
    sensors = tuple(Sensor(metric=metric, interval=1800.0) for metric in METRICS)
    records.register(
        connection,
        [
            Device(id=name, source="gw", domain="environment", district=district, sensors=sensors)
            for name, district in [("a", "north"), ("b", "south")]
        ],
    )


def post(api, **body):
    answer = api.ask("POST", "/v1/query", json=body)[0]
    if answer.status_code == 200:
        models.QueryModel.model_validate(answer.json())
    return answer


def refused(answer, slug, *words, status=422):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"urn:citybeat:problem:{slug}"
    for word in words:
        assert word in answer.json()["detail"]
    return answer.json()


def generated(seed, day, n=60):
    """Readings of every metric around a day: (device, metric, us, value, flags)."""
    rng = np.random.default_rng(seed)
    rows = []
    for metric, kind in zip(METRICS, KINDS, strict=True):
        times = us(day) - 30 * HOUR + rng.choice(60 * 60 * 60, n, replace=False) * 1_000_000
        # Gathered in some places, so that there are gaps of many buckets between.
        times = np.unique(np.where(rng.random(n) < 0.5, times // (6 * HOUR) * (6 * HOUR) + times % (20 * MINUTE), times))
        values = rng.uniform(0, 359, len(times)) if kind == "direction" else rng.uniform(0, 90, len(times))
        if kind == "counter":
            values = np.cumsum(values) % 1500
        flags = rng.choice([0, 0, 0, 1, 8, 2 | 256, 128], len(times))
        rows += [("a", metric, *row) for row in zip(times.tolist(), values.tolist(), flags.tolist(), strict=True)]
    return rows
