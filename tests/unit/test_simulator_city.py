"""The city's devices, and when they report."""

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from devices.catalogue import Domain, Kind, builtin
from devices.errors import DeviceError
from simulator import schedule
from simulator.city import build
from simulator.makes import TYPES
from simulator.streets import DISTRICTS

SECOND = 1_000_000
START = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * SECOND + 123_456
GATEWAYS = ["gw-1", "gw-2", "gw-3"]


@pytest.mark.parametrize("devices", [0, 1, 19, 200, 1500])
def test_a_city_has_the_devices_that_were_asked_for(devices: int):
    city = build(devices=devices, gateways=GATEWAYS, seed=3)
    assert len({device.id for device in city.devices}) == devices
    assert city.first[-1] == len(city.series) == sum(len(device.sensors) for device in city.devices)


def test_devices_are_of_the_city():
    city = build(devices=400, gateways=GATEWAYS, seed=3)
    known = {district.name: district for district in DISTRICTS}
    for device in city.devices:
        district = known[device.district]
        assert device.source in GATEWAYS
        assert device.name
        assert device.latitude == pytest.approx(district.latitude, abs=0.01)
        assert device.longitude == pytest.approx(district.longitude, abs=0.01)
        assert 2 <= len(device.sensors) <= 6
        for sensor in device.sensors:
            assert sensor.metric in builtin()
            assert sensor.interval is not None
    domains = Counter(device.domain for device in city.devices)
    assert domains == {Domain.TRAFFIC: 160, Domain.ENVIRONMENT: 100, Domain.ENERGY: 140}
    assert set(Counter(device.source for device in city.devices)) == set(GATEWAYS)
    assert {device.tags["type"] for device in city.devices} == {kind.name for kind in TYPES}


def test_a_small_city_is_mixed_too():
    assert {device.domain for device in build(devices=5, gateways=["g"], seed=1).devices} == set(Domain)


def test_a_larger_city_contains_the_smaller():
    small, large = (build(devices=n, gateways=GATEWAYS, seed=3).devices for n in (30, 300))
    assert large[:30] == small


def test_energy_devices_declare_what_they_are_built_for():
    feeder = next(d for d in build(devices=60, gateways=["g"], seed=1).devices if d.tags["type"] == "Feeder")
    rating = {sensor.metric: sensor.rating for sensor in feeder.sensors}
    assert rating["totalActivePower"] == 1000 * rating["totalActiveEnergyImport"]
    assert rating["phaseVoltage"] is None


def test_intervals_can_be_scaled():
    city = build(devices=20, gateways=["g"], seed=1, interval_scale=0.1)
    assert {sensor.interval for device in city.devices for sensor in device.sensors} <= {1.0, 6.0, 30.0, 90.0, 180.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"devices": -1}, "-1 devices"),
        ({"gateways": []}, "gateways"),
        ({"gateways": ["a", "a"]}, "different names"),
        ({"interval_scale": 0.0}, "multiplied by"),
    ],
)
def test_nonsense_is_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build(**{"devices": 1, "gateways": ["g"], "seed": 1, **arguments})
    with pytest.raises(DeviceError, match="reserved"):
        build(devices=1, gateways=["ingest"], seed=1)


# --- schedule


CITY = build(devices=100, gateways=GATEWAYS, seed=3)
PLAN = schedule.plan(CITY)


def rows(due: schedule.Due) -> list[tuple[int, int, int]]:
    """(device, time, series), reading by reading."""
    return list(zip(due.device[due.report].tolist(), due.time[due.report].tolist(), due.series.tolist(), strict=True))


def test_grids_do_not_depend_on_the_chunking():
    end = START + 2 * 3600 * SECOND
    whole = schedule.due(PLAN, START, end)
    pieces: list[tuple[int, int, int]] = []
    at = START
    step = 7_777_777
    while at < end:
        pieces += rows(schedule.due(PLAN, at, min(at + step, end)))
        at += step
    assert pieces == rows(whole)
    assert np.all(np.diff(whole.time) >= 0)


def test_every_sensor_reports_at_its_interval():
    due = rows(schedule.due(PLAN, START, START + 3600 * SECOND))
    times: dict[int, list[int]] = {}
    for _, at, series in due:
        times.setdefault(series, []).append(at)
    for series in range(len(CITY.series)):
        interval = int(CITY.series.interval[series] * SECOND)
        assert abs(len(times[series]) - 3600 * SECOND // interval) <= 1
        assert set(np.diff(times[series]).tolist()) <= {interval}
        assert all(at % 1000 == 0 for at in times[series])


def test_no_herd_thunders():
    minute = schedule.due(PLAN, START, START + 60 * SECOND)
    a_second = np.bincount((minute.time - START) // SECOND)
    assert a_second.max() < 4 * a_second.mean()


def test_all_devices_open_within_a_second_and_without_amounts():
    first = schedule.opening(PLAN, START)
    assert len(set(first.device.tolist())) >= 99  # one may just be on its grid
    assert first.time.min() > START
    assert first.time.max() <= START + SECOND + 1000
    kinds = {builtin()[CITY.series.metrics[CITY.series.metric[series]]].kind for series in first.series.tolist()}
    assert Kind.AMOUNT not in kinds


def test_parts_make_the_whole_and_merging_keeps_readings_with_their_reports():
    first = schedule.opening(PLAN, START)
    cut = START + 400_000
    assert rows(schedule.part(first, START, cut)) + rows(schedule.part(first, cut, START + 2 * SECOND)) == rows(first)
    grid = schedule.due(PLAN, START, START + 5 * SECOND)
    both = schedule.merged(first, grid)
    assert sorted(rows(both)) == sorted(rows(first) + rows(grid))
    assert np.all(np.diff(both.time) >= 0)
    assert np.all(np.diff(both.report) >= 0)


# --- simulated time


def test_real_time_starts_now():
    line = schedule.timeline(now=START, speed=1, start=None, duration=None)
    assert (line.at(0), line.at(2.5)) == (START, START + 2_500_000)


def test_a_fast_run_reaches_the_clock_at_its_end_and_not_before():
    line = schedule.timeline(now=START, speed=60, start=None, duration=10)
    assert line.at(0) == START - 590 * SECOND
    assert line.at(10) == START + 10 * SECOND
    assert all(line.at(t) <= START + t * SECOND for t in np.linspace(0, 30, 100))


def test_a_fast_run_without_an_end_goes_on_in_real_time():
    line = schedule.timeline(now=START, speed=86_401, start=None, duration=None)
    assert line.at(0) == START - schedule.HISTORY
    assert line.at(1) == START + SECOND
    assert line.at(100) == START + 100 * SECOND


def test_a_start_in_the_past_stays_behind():
    line = schedule.timeline(now=START, speed=1, start=START - 50, duration=None)
    assert line.at(1) == START + SECOND - 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"speed": 0}, "speed"), ({"duration": 0}, "duration"), ({"start": START + 1}, "future"), ({"speed": float("nan")}, "speed")],
)
def test_impossible_timelines_are_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        schedule.timeline(**{"now": START, "speed": 1.0, "start": None, "duration": None, **arguments})
