"""A city without faults, judged as ingest judges it: no reading is flagged, over Tết, the rains, and counters that run over."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from citybeat.devices import aggregate
from citybeat.devices.batch import Batch
from citybeat.devices.catalogue import Kind, builtin
from citybeat.devices.flags import Flag
from citybeat.devices.registry import snapshot
from citybeat.ingest.judging import history, validate
from citybeat.simulator.city import schedule, signals
from citybeat.simulator.city.layout import build
from citybeat.simulator.city.makes import TYPES

SECOND = 1_000_000
HOUR = 3600 * SECOND
CITY = build(devices=40, gateways=["gw-1"], seed=5, types=[replace(type_, jitter=0.3) for type_ in TYPES])
PLAN = schedule.plan(CITY)
SENSORS = [(device, sensor) for device in CITY.devices for sensor in device.sensors]
REGISTRY = snapshot.build(
    version=1,
    sources={"gw-1": 1},
    devices={device.id: 1 for device in CITY.devices},
    rows=[
        snapshot.SeriesRow(id=i, device=device.id, source=1, retired=False, metric=builtin()[sensor.metric], sensor=sensor)
        for i, (device, sensor) in enumerate(SENSORS, 1)
    ],
)
COUNTERS = [i for i, (_, sensor) in enumerate(SENSORS, 1) if builtin()[sensor.metric].kind is Kind.COUNTER]


def readings(after: int, until: int) -> Batch:
    """Readings of the city, sorted as ingest sorts them; series i of the city has the id i + 1."""
    due = schedule.due(PLAN, after, until)
    time = due.time[due.report]
    value = signals.sample(CITY.series, due.series, time)
    order = np.lexsort((time, due.series))
    n = len(order)
    return Batch(
        time=time[order],
        received_at=time[order],
        series=(due.series[order] + 1).astype(np.int32),
        value=value[order],
        flags=np.zeros(n, np.int16),
        message=np.zeros(n, np.int32),
        index=np.arange(n, dtype=np.int32),
    )


@pytest.mark.parametrize(
    ("start", "days"),
    [
        (datetime(2026, 2, 13, 17, tzinfo=UTC), 5),  # the weekend before Tết, and Tết
        (datetime(2025, 10, 20, 17, tzinfo=UTC), 4),
        (datetime(2026, 6, 1, 17, tzinfo=UTC), 2),
    ],
    ids=["holiday", "rain", "heat"],
)
def test_no_clean_reading_is_flagged(start: datetime, days: int):
    past = history.History.empty(len(SENSORS) + 1)
    begin = int(start.timestamp()) * SECOND
    flagged: Counter[str] = Counter()
    total = 0
    for at in range(begin, begin + days * 24 * HOUR, 6 * HOUR):
        batch = readings(at, at + 6 * HOUR)
        batch = replace(batch, flags=validate.bounds(batch.value, batch.series, REGISTRY))
        found, same = history.changes(batch, past, REGISTRY)
        batch = replace(batch, flags=batch.flags | found)
        past.advance(batch, same)
        total += len(batch)
        for row in np.flatnonzero(batch.flags):
            flagged[f"{SENSORS[batch.series[row] - 1][1].metric} {Flag(int(batch.flags[row]))!r}"] += 1
    assert total > 100_000 * days
    assert flagged == {}


def test_counters_run_over_and_lose_what_they_counted_up_to_it():
    """Ingest takes a register that ran over for one that began again: the increase is right but for the rest up to its end."""
    rolled: Counter[str] = Counter()
    step = 900 * SECOND
    for row in COUNTERS:
        sensor, device = SENSORS[row - 1][1], CITY.series.device[row - 1]
        full = float(CITY.series.registers[CITY.series.type[device], CITY.series.metric[row - 1]])
        # From shortly before it runs over until after; the total itself tells when.
        time = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * SECOND + np.arange(0, 3000 * 86_400, 43_200) * SECOND
        shown = signals.sample(CITY.series, np.full(len(time), row - 1), time)
        falls = np.flatnonzero(np.diff(shown) < 0)
        if not len(falls):
            continue
        at = time[falls[0]] + np.arange(0, 43_200 * SECOND + 1, step)
        close = signals.sample(CITY.series, np.full(len(at), row - 1), at)
        last = int(np.flatnonzero(np.diff(close) < 0)[0])
        true = np.where(np.diff(close) < 0, np.diff(close) + full, np.diff(close)).sum()
        counted = aggregate.increases(np.full(len(at), row, np.int32), close).sum()
        assert (true - counted) == pytest.approx(full - close[last], rel=1e-6)
        assert 0 <= full - close[last] < 0.005 * full
        rolled[sensor.metric] += 1
    assert rolled["vehicleCount"] >= 5
    assert rolled["totalActiveEnergyImport"] >= 1


def test_what_was_read_before_and_after_a_rollover_is_not_a_step():
    """A register of five digits in its car park runs over about every two weeks: a month of each, reading by reading."""
    rows = [row for row in COUNTERS if SENSORS[row - 1][0].tags["type"] == "Car park"]
    assert rows
    falls = 0
    for row in rows:
        time = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * SECOND + np.arange(0, 30 * 86_400, 60) * SECOND
        value = signals.sample(CITY.series, np.full(len(time), row - 1), time)
        n = len(time)
        batch = Batch(
            time=time,
            received_at=time,
            series=np.full(n, row, np.int32),
            value=value,
            flags=validate.bounds(value, np.full(n, row, np.int32), REGISTRY),
            message=np.zeros(n, np.int32),
            index=np.arange(n, dtype=np.int32),
        )
        found, _ = history.changes(batch, history.History.empty(len(SENSORS) + 1), REGISTRY)
        assert not (batch.flags | found).any()
        falls += int((np.diff(value) < 0).sum())
    assert falls >= 1
