"""Noise and signals: a function of (seed, series, time), whatever the chunking; plausible, quantised, monotone where it must be."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from citybeat.devices.catalogue import Kind, builtin
from citybeat.simulator.city import noise, signals
from citybeat.simulator.city.layout import City, build
from citybeat.simulator.city.models import MODELS
from citybeat.simulator.scenario import DEVICES, GATEWAYS, gateway_names
from tests import oracles_city as slow

SECOND = 1_000_000
MONDAY = int(datetime(2026, 1, 4, 17, tzinfo=UTC).timestamp()) * SECOND  # 00:00 on Monday in Quy Nhơn
TET = int(datetime(2026, 2, 14, 17, tzinfo=UTC).timestamp()) * SECOND  # the Sunday before; the first day is Tuesday
RAIN = int(datetime(2025, 11, 2, 17, tzinfo=UTC).timestamp()) * SECOND
CITY = build(devices=60, gateways=["gw-1"], seed=11)
SENSORS = [sensor for device in CITY.devices for sensor in device.sensors]


def history(row: int, *, days: int = 7, step: int = 60, start: int = MONDAY) -> np.ndarray:
    time = start + np.arange(0, days * 86400, step, dtype=np.int64) * SECOND
    return signals.sample(CITY.series, np.full(len(time), row), time)


def rows_of(metric: str) -> list[int]:
    return [i for i, sensor in enumerate(SENSORS) if sensor.metric == metric]


@given(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1))
def test_one_key_mixes_as_many_do(key: int, step: int):
    keys = np.array([key], np.uint64)
    assert int(noise.mix(keys, np.array([step], np.int64))[0]) == noise._mix(key, step % 2**64)


def test_keys_depend_on_every_part_of_the_path():
    paths = [(), ("a",), ("a", "b"), ("ab",), ("b", "a"), (1,), ("a", 1), ("a", -1), ("x" * 8,), ("x" * 9,), ("x" * 16,)]
    assert len({noise.key(seed, *path) for seed in (0, 1, -1) for path in paths}) == 3 * len(paths)


@given(st.integers(0, 2**64 - 1), st.integers(-(2**62), 2**62), st.integers(1, 10**12))
def test_smooth_and_rough_noise_are_what_they_say(key: int, time: int, period: int):
    keys, times = np.array([key], np.uint64), np.array([time], np.int64)
    assert noise.smooth(keys, times, period)[0] == pytest.approx(slow.smooth(key, time, period), abs=1e-9)
    assert noise.rough(keys, times)[0] == pytest.approx(slow.rough(key, time), abs=1e-9)


@given(
    st.integers(0, 2**64 - 1),
    st.floats(-1e5, 1e5),
    st.floats(-1e5, 1e5),
    st.integers(-(10**16), 10**16),
    st.integers(1000, 10**11),
)
def test_fields_are_interpolated_along_each_axis(key: int, x: float, y: float, time: int, period: int):
    keys, times = np.array([key], np.uint64), np.array([time], np.int64)
    xs, ys = np.array([x]), np.array([y])
    assert noise.field(keys, xs, ys, times, period)[0] == pytest.approx(slow.lattice(key, (x, y), time, period), abs=1e-9)
    assert noise.line(keys, xs, times, period)[0] == pytest.approx(slow.lattice(key, (x,), time, period), abs=1e-9)


def test_a_field_is_continuous_and_forgets_with_distance():
    key, time = np.array([7], np.uint64), np.array([12 * SECOND])
    x = np.linspace(-50.0, 50.0, 200_001)
    along = noise.field(key, x, np.full(len(x), 3.25), time, 60 * SECOND)
    assert np.abs(np.diff(along)).max() < 3.1 * (x[1] - x[0])
    a = noise.field(key, np.arange(0, 9000) * 2.5, np.zeros(9000), time, 60 * SECOND)
    b = noise.field(key, np.arange(0, 9000) * 2.5 + 0.1, np.zeros(9000), time, 60 * SECOND)
    c = noise.field(key, np.arange(0, 9000) * 2.5 + 2.0, np.zeros(9000), time, 60 * SECOND)
    assert np.corrcoef(a, b)[0, 1] > 0.95
    assert abs(np.corrcoef(a, c)[0, 1]) < 0.05


def test_rough_noise_is_nearly_normal_and_knows_no_neighbour():
    v = noise.rough(np.array([3], np.uint64), np.arange(200_000) * 1000)
    assert abs(v.mean()) < 0.01
    assert abs(v.std() - 1) < 0.01
    assert np.abs(v).max() < 3.47
    assert abs(np.corrcoef(v[:-1], v[1:])[0, 1]) < 0.01


def test_uniform_is_uniform_and_uncorrelated():
    u = noise.uniform(np.array([noise.key(3)], np.uint64), np.arange(200_000))
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.003
    assert abs(u.std() - 12**-0.5) < 0.002
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01


def test_smooth_noise_is_continuous_and_no_steeper_than_promised():
    t = np.arange(0, 100_000, dtype=np.int64) * 1000
    v = noise.smooth(np.array([5], np.uint64), t, 10 * SECOND)
    assert np.abs(v).max() < 1
    assert np.abs(np.diff(v)).max() <= 3 * 1000 / (10 * SECOND) + 1e-12


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_signals_do_not_depend_on_the_chunking(data: st.DataObject):
    n = data.draw(st.integers(1, 200))
    rows = np.array(data.draw(st.lists(st.integers(0, len(CITY.series) - 1), min_size=n, max_size=n)), np.int64)
    time = MONDAY + np.array(data.draw(st.lists(st.integers(0, 10**13), min_size=n, max_size=n)), np.int64)
    whole = signals.sample(CITY.series, rows, time)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    pieces = [signals.sample(CITY.series, r, t) for r, t in zip(np.split(rows, cuts), np.split(time, cuts), strict=True)]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()
    one = [signals.sample(CITY.series, rows[i : i + 1], time[i : i + 1])[0] for i in range(n)]
    assert np.array(one).tobytes() == whole.tobytes()


def test_the_default_city_is_the_same_to_the_byte_for_ever():
    """If this changes, so does every recorded scenario: say so in the changelog."""
    city = build(devices=DEVICES, gateways=gateway_names(GATEWAYS), seed=1)
    digest = hashlib.sha256()
    for device in city.devices:
        digest.update(f"{device.id} {device.source} {device.latitude!r} {device.longitude!r} {device.tags}\n".encode())
    series = np.arange(len(city.series))
    for start in (MONDAY, TET, RAIN):
        for hour in range(24):
            digest.update(signals.sample(city.series, series, np.full(len(series), start + hour * 3600 * SECOND)).tobytes())
    assert digest.hexdigest() == "258e146ed33df47352b500d62b32115d7c1451898a68ae868dbd89f16ee350a7"


@pytest.mark.parametrize("start", [MONDAY, TET, RAIN], ids=["dry", "holiday", "rain"])
@pytest.mark.parametrize("metric", sorted({sensor.metric for sensor in SENSORS}))
def test_clean_signals_pass_the_catalogues_checks(metric: str, start: int):
    row = rows_of(metric)[0]
    limits, sensor = builtin()[metric], SENSORS[row]
    values = history(row, start=start)
    low, high = limits.plausible(rating=sensor.rating, interval=sensor.interval)
    assert np.isfinite(values).all()
    assert values.min() >= max(low, limits.suspect_low)
    assert values.max() <= min(high, limits.suspect_high)
    if limits.kind is Kind.COUNTER:
        full = CITY.series.registers[CITY.series.type[CITY.series.device[row]], CITY.series.metric[row]]
        assert values.min() >= 0
        assert values.max() < full
        falls = np.flatnonzero(np.diff(values) < 0)
        assert (values[falls] > 0.99 * full).all()
        assert (values[falls + 1] < 0.01 * full).all()
        return
    for seconds in (1, 10, 60):
        close = history(row, days=1, step=seconds, start=start)
        limit = limits.step_floor + limits.step_per_minute * seconds / 60
        assert (np.abs(np.diff(close)) <= limit + 1e-9).all(), seconds


@pytest.mark.parametrize(
    ("metric", "resolution"),
    [
        ("temperature", 0.1),
        ("relativeHumidity", 0.001),
        ("vehicleCount", 1),
        ("totalActiveEnergyImport", 0.001),
        ("windDirection", 1),
    ],
)
def test_values_are_quantised_and_print_shortly(metric: str, resolution: float):
    values = history(rows_of(metric)[0], days=1)
    assert np.abs(values / resolution - np.rint(values / resolution)).max() < 1e-3
    assert max(len(repr(v)) for v in values.tolist()) <= 12


def test_the_day_has_rush_hours_and_the_weekend_does_not():
    by_hour = history(rows_of("intensity")[0]).reshape(7, 24, 60).mean(axis=2)
    monday, sunday = by_hour[0], by_hour[6]
    assert monday[7] > 2 * monday[3]
    assert monday[17] > 2 * monday[3]
    assert monday[7] > 1.5 * sunday[7]


def test_the_sun_shines_by_day_in_quy_nhon():
    sun = history(rows_of("solarRadiation")[0], days=1).reshape(24, 60).max(axis=1)
    assert sun[0:5].max() == sun[19:24].max() == 0
    assert sun[11] > 500


def test_a_meter_agrees_with_itself_over_an_interval():
    row = rows_of("activeEnergyPerInterval")[0]
    half_hours = history(row, days=1, step=1800)
    power = history(row - 2, days=1)  # totalActivePower of the same device, W
    assert half_hours.sum() == pytest.approx(power.mean() * 24 / 1000, rel=0.03)


def test_what_has_no_model_is_refused():
    table = build(devices=1, gateways=["g"], seed=1).series
    with pytest.raises(ValueError, match="one length"):
        signals.sample(table, np.zeros(2, np.int64), np.zeros(1, np.int64))
    strange = replace(table, metrics=("xyz",))
    with pytest.raises(ValueError, match="xyz"):
        signals.sample(strange, np.zeros(1, np.int64), np.zeros(1, np.int64))


def test_every_metric_of_the_catalogue_has_a_model():
    assert builtin().keys() == MODELS.keys()


def test_a_seed_makes_one_city():
    again: City = build(devices=60, gateways=["gw-1"], seed=11)
    assert again.devices == CITY.devices
    assert again.series.key.tobytes() == CITY.series.key.tobytes()
    other = build(devices=60, gateways=["gw-1"], seed=12)
    assert other.devices != CITY.devices
    assert not np.array_equal(other.series.key, CITY.series.key)
