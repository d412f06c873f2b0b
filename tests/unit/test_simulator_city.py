"""The city's devices, and when they report."""

import tracemalloc
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from citybeat.devices.catalogue import Domain, Kind, builtin
from citybeat.devices.errors import DeviceError
from citybeat.simulator.city import noise, schedule, streets
from citybeat.simulator.city.layout import Gateway, build
from citybeat.simulator.city.makes import TYPES, scaled
from citybeat.simulator.city.streets import DISTRICTS, District
from tests import oracles_city as slow

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


def test_devices_are_made_when_they_are_asked_for():
    city = build(devices=300, gateways=GATEWAYS, seed=3)
    listed = list(city.devices)
    assert city.devices == listed
    assert city.devices[7] == listed[7]
    assert city.devices[-1] == listed[-1]
    assert list(city.devices[10:40:3]) == listed[10:40:3]
    assert city.devices[10:40] != listed[11:41]
    assert city.devices != 7
    with pytest.raises(IndexError):
        city.devices[300]
    assert [city.id(i) for i in range(300)] == [device.id for device in listed]
    assert [city.source(i) for i in range(300)] == [device.source for device in listed]
    assert city.sources == tuple(sorted({device.source for device in listed}))


def test_series_are_the_devices_sensors_in_their_order():
    city = build(devices=200, gateways=GATEWAYS, seed=3)
    table = city.series
    at = 0
    for i, device in enumerate(city.devices):
        assert city.first[i] == at
        for sensor in device.sensors:
            assert table.device[at] == i
            assert table.metrics[table.metric[at]] == sensor.metric
            assert table.interval[at] == sensor.interval
            assert np.array_equal(table.rating[at], np.nan if sensor.rating is None else sensor.rating, equal_nan=True)
            make = city.types[city.type[i]]
            assert table.registers[table.type[i], table.metric[at]] == dict(make.registers).get(sensor.metric, np.inf)
            at += 1
    assert at == len(table) == city.first[-1]
    assert len(np.unique(table.key)) == at
    assert int(table.key[5]) == noise._mix(int(table.site[table.device[5]]), noise.key(0, table.metrics[table.metric[5]]))


def test_counters_have_the_registers_that_real_ones_have():
    counters = {(make.name, s.metric) for make in TYPES for s in make.sensors if builtin()[s.metric].kind is Kind.COUNTER}
    declared = {(make.name, metric): size for make in TYPES for metric, size in make.registers}
    assert declared.keys() == counters
    assert declared["Junction detector", "vehicleCount"] == 1_000_000  # six digits
    assert declared["Feeder", "totalActiveEnergyImport"] == 2**32 / 1000  # kW.h: 32 bits of W.h


def test_a_million_devices_are_laid_out_in_bounded_memory():
    tracemalloc.start()
    try:
        city = build(devices=1_000_000, gateways=[f"gw-{i}" for i in range(40)], seed=1)
        plan = schedule.plan(city)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(city.series) > 4_000_000
    assert held < 400e6  # bytes
    assert peak < 700e6
    assert city.id(999_999) == city.devices[-1].id
    minute = schedule.due(plan, START, START + 200_000)
    assert 10_000 < len(minute.series) < 40_000
    assert city.devices[:5] == build(devices=5, gateways=[f"gw-{i}" for i in range(40)], seed=1).devices


def test_counts_by_type_are_met_and_mixed_evenly():
    counts = {"Feeder": 30, "Air station": 3, "Water main": 1}
    city = build(devices=counts, gateways=GATEWAYS, seed=3)
    names = [device.tags["type"] for device in city.devices]
    assert Counter(names) == counts
    gaps = np.diff([i for i, name in enumerate(names) if name == "Air station"])
    assert gaps.min() >= 8
    assert {device.id for device in city.devices} == {
        *(f"nrg-{i:05}" for i in range(1, 32)),
        *(f"env-{i:05}" for i in range(1, 4)),
    }


def test_a_mix_is_followed():
    city = build(devices=5000, gateways=GATEWAYS, seed=3, mix={"Feeder": 3, "Noise meter": 1})
    found = Counter(device.tags["type"] for device in city.devices)
    assert set(found) == {"Feeder", "Noise meter"}
    assert 0.72 < found["Feeder"] / 5000 < 0.78
    assert city.devices[:50] == build(devices=50, gateways=GATEWAYS, seed=3, mix={"Feeder": 3, "Noise meter": 1}).devices


def test_gateways_serve_the_districts_that_they_name():
    north, south = DISTRICTS[0].name, DISTRICTS[10].name
    gateways = [Gateway(name="n", districts=(north,)), Gateway(name="s", districts=(south, north)), "rest-1", "rest-2"]
    city = build(devices=3000, gateways=gateways, seed=3)
    served: dict[str, set[str]] = {}
    for device in city.devices:
        served.setdefault(device.district, set()).add(device.source)
    assert served.pop(north) == {"n", "s"}
    assert served.pop(south) == {"s"}
    assert all(len(of) == 1 and of <= {"rest-1", "rest-2"} for of in served.values())
    assert set.union(*served.values()) == {"rest-1", "rest-2"}


def test_more_gateways_than_districts_are_all_used():
    city = build(devices=4000, gateways=[f"gw-{i:02}" for i in range(30)], seed=3)
    assert len(city.sources) == 30
    by_source: dict[str, set[str]] = {}
    for device in city.devices:
        by_source.setdefault(device.source, set()).add(device.district)
    assert all(len(of) == 1 for of in by_source.values())


def test_devices_at_roads_stand_on_them():
    city = build(devices=400, gateways=GATEWAYS, seed=3)
    net = streets.lay_out(DISTRICTS, 3)
    assert city.roads == net.roads
    seen = set()
    for i, device in enumerate(city.devices):
        if not city.types[city.type[i]].at_road:
            assert "road" not in device.tags
            continue
        road = int(city.series.road[i])
        seen.add(road)
        assert device.tags["road"] == net.roads[road]
        low = net.first[city.district[i]]
        pieces = [k for k in range(low, net.first[city.district[i] + 1]) if net.road[k] == road]
        (a, b) = net.start[pieces[0]], net.end[pieces[0]]
        share = (city.series.along[i] - a[2]) / (b[2] - a[2])
        assert 0 <= share < 1
        assert device.latitude == pytest.approx(a[0] + share * (b[0] - a[0]), abs=1e-6)
        assert device.longitude == pytest.approx(a[1] + share * (b[1] - a[1]), abs=1e-6)
    assert {net.trunk[road] for road in seen} == {True, False}


def test_meters_hang_on_stations_of_their_district():
    city = build(devices=400, gateways=GATEWAYS, seed=3)
    assert set(city.series.station // streets.STATIONS == city.district) == {True}
    tagged = [device for device in city.devices if "station" in device.tags]
    assert {device.domain for device in tagged} == {Domain.ENERGY}
    assert all(device.tags["station"].startswith(device.district) for device in tagged)


def test_roads_join_every_district_to_its_nearest():
    net = streets.lay_out(DISTRICTS, 1)
    names = [name for name, trunk in zip(net.roads, net.trunk, strict=True) if trunk]
    for district in DISTRICTS:
        apart = sorted((streets.km_between(district, other), other.name) for other in DISTRICTS if other is not district)
        for _, near in apart[: streets.TRUNKS]:
            assert f"{district.name} – {near}" in names or f"{near} – {district.name}" in names
    assert len(net.roads) == len(set(net.roads)) == len(names) + streets.STREETS * len(DISTRICTS)
    # 14 degrees north, by the sphere.
    a, b = District(name="a", latitude=13.8, longitude=109.2), District(name="b", latitude=13.8, longitude=109.3)
    assert streets.km_between(a, b) == pytest.approx(0.1 * 111.32 * np.cos(np.radians(13.8)), rel=0.01)


def test_a_city_of_one_district_has_streets():
    city = build(devices=50, gateways=["g"], seed=1, districts=[District(name="Here", latitude=50.0, longitude=8.0)])
    assert {device.district for device in city.devices} == {"Here"}
    assert len(city.roads) == streets.STREETS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"devices": -1}, "-1 devices"),
        ({"gateways": []}, "gateways"),
        ({"gateways": ["a", "a"]}, "different names"),
        ({"interval_scale": 0.0}, "multiplied by"),
        ({"interval_scale": float("nan")}, "multiplied by"),
        ({"districts": []}, "districts"),
        ({"districts": [DISTRICTS[0], DISTRICTS[0]]}, "different names"),
        ({"devices": {"Feeder": -1}}, "less than no"),
        ({"devices": {"Feder": 1}}, "Feder"),
        ({"mix": {"Feder": 1}}, "Feder"),
        ({"mix": {"Feeder": 0}}, "weight"),
        ({"gateways": [Gateway(name="a", districts=("Nowhere",))]}, "Nowhere"),
        ({"gateways": [Gateway(name="a", districts=("Đống Đa",))]}, "no gateway serves"),
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


LATE = schedule.plan(
    build(
        devices=100,
        gateways=GATEWAYS,
        seed=3,
        types=[replace(make, jitter=0.95 if make.prefix == "trf" else 0.1 if make.prefix == "env" else 0.0) for make in TYPES],
    )
)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3 * 10**9), st.integers(0, 400 * SECOND), st.lists(st.integers(0, 400 * SECOND), max_size=4))
def test_late_reports_do_not_depend_on_the_chunking(offset: int, length: int, cuts: list[int]):
    begin = START + offset
    expected = []
    for device in range(100):
        arguments = (int(LATE.period[device]), int(LATE.phase[device]), int(LATE.late[device]), int(LATE.keys[device]))
        for at, number in slow.reports(*arguments, begin, begin + length):
            of = range(LATE.first[device], LATE.first[device + 1])
            expected += [(at, device, series) for series in of if number % LATE.every[series] == 0]
    edges = [begin, *sorted(begin + cut for cut in cuts if cut < length), begin + length]
    found = [row for a, b in pairwise(edges) for row in rows(schedule.due(LATE, a, b))]
    assert found == [(device, at, series) for at, device, series in sorted(expected)]


def test_a_late_report_is_never_overtaken():
    due = schedule.due(LATE, START, START + 2 * 3600 * SECOND)
    late = 0
    for device in range(100):
        times = due.time[due.device == device]
        period = int(LATE.period[device])
        assert (np.diff(times) > 0).all()
        behind = (times - LATE.phase[device]) % period
        assert (behind <= LATE.late[device]).all()
        assert (times % 1000 == 0).all()
        late += LATE.late[device] > 0 and behind.max() > 0.8 * LATE.late[device]
    assert LATE.late.max() == 0.95 * 60 * SECOND
    assert late > 50
    assert (LATE.late[[LATE.period[i] == 10 * SECOND and LATE.late[i] == 0 for i in range(100)]] == 0).any()


def test_the_opening_is_not_sent_twice_where_reports_are_late():
    for start in range(START, START + 60 * SECOND, 7 * SECOND):
        both = rows(schedule.opening(LATE, start)) + rows(schedule.due(LATE, start, start + 3 * SECOND))
        assert len(both) == len(set(both))


def test_a_large_city_opens_in_turn():
    plan = schedule.plan(build(devices=3 * schedule.AT_ONCE, gateways=GATEWAYS, seed=1))
    first = schedule.opening(plan, START)
    assert 2 * SECOND < first.time.max() - START <= 3 * SECOND + 2000
    assert len(np.unique(first.device)) > 0.95 * len(plan.period)


def test_intervals_are_scaled_by_make():
    make = scaled(TYPES[0], 2.5)
    assert {sensor.interval for sensor in make.sensors} == {150.0}
    assert scaled(make, 1.0) is make


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
