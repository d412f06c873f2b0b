"""Values of faulty sensors equal their slow twins', are the same in any chunks, and are meaningful for each metric."""

import math
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from citybeat.devices.batch import FOREVER, MICROSECOND, Batch
from citybeat.devices.catalogue import builtin
from citybeat.devices.flags import Flag
from citybeat.devices.registry.snapshot import SeriesRow, build
from citybeat.ingest.judging.history import History, changes
from citybeat.ingest.judging.validate import bounds
from citybeat.simulator.city import layout as cities
from citybeat.simulator.city import schedule, signals
from citybeat.simulator.faults import episodes, sensors, values
from citybeat.simulator.faults.episodes import Window
from citybeat.simulator.faults.kinds import VALUES, Fault, FaultSpec, Where
from tests import oracles_faults as oracle

BEGIN = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp()) * MICROSECOND
HOUR = 3600 * MICROSECOND
CITY = cities.build(devices=60, gateways=["gw-1", "gw-2"], seed=11)
KNOWN = sensors.look_up(CITY)
SAMPLE = partial(signals.sample, CITY.series)
PLAN = schedule.plan(CITY)


def specs_of(kind):
    """Ways in which a kind may be asked for."""
    point = kind in {Fault.SPIKE, Fault.RANGE, Fault.SENTINEL, Fault.DROPOUT}
    found = [FaultSpec(kind=kind, rate=2.0, where=Where(share=0.5)), FaultSpec(kind=kind, rate=0.3, from_=600.0, until=20_000.0)]
    if kind is not Fault.SPIKE:
        found.append(FaultSpec(kind=kind, from_=3000.0, until=9000.0))
    if kind is not Fault.RESET:
        found.append(FaultSpec(kind=kind, rate=1.0, duration=1234.5))
    if point:
        found.append(FaultSpec(kind=kind, chance=0.2, until=5000.0))
    return found


def readings(hours=6.0, begin=BEGIN):
    due = schedule.due(PLAN, begin - 1, begin + round(hours * HOUR))
    time = due.time[due.report]
    return due.series, time, SAMPLE(due.series, time)


def shown(specs, series, time, true, city=CITY, known=KNOWN):
    placed = values.place(specs, city, known, begin=BEGIN)
    return values.shown(placed, known, series, time, true, partial(signals.sample, city.series))


@settings(deadline=None)
@given(
    key=st.integers(0, 2**64 - 1),
    slot=st.one_of(st.none(), st.integers(500, 5000)),
    duration=st.integers(1, 6000),
    begin=st.integers(-1000, 1000),
    length=st.integers(1, 10_000),
    times=st.lists(st.integers(-3000, 15_000), min_size=1, max_size=10),
)
def test_episodes_are_those_that_a_loop_over_all_slots_finds(key, slot, duration, begin, length, times):
    end = begin + length
    keys, time = np.full(len(times), key, np.uint64), np.array(times, np.int64)
    window = Window(begin=begin, end=end, slot=slot)
    going = episodes.current(keys, time, window, np.array([duration], np.int64))
    last = episodes.latest(keys, time, window, np.array([duration], np.int64))
    for i, at in enumerate(times):
        listed = oracle.episodes(key, begin, end, slot, duration, at)
        now = [(number, onset) for number, onset, over in listed if onset <= at < over]
        assert (int(going.number[i]), int(going.onset[i])) == (now[0] if now else (-1, 0))
        begun = [(number, onset) for number, onset, _ in listed if onset <= at]
        assert (int(last.number[i]), int(last.onset[i])) == (begun[-1] if begun else (-1, 0))


@pytest.mark.parametrize("kind", sorted(VALUES))
def test_each_kind_is_what_its_slow_twin_says_and_leaves_the_others_alone(kind):
    series, time, true = readings()
    draw = np.random.default_rng(5)
    hit = 0
    for spec in specs_of(kind):
        found = shown([spec], series, time, true)
        clean = found.fault < 0
        np.testing.assert_array_equal(found.value[clean], true[clean])
        assert set(found.fault.tolist()) <= {-1, 0}
        hit += int((~clean).sum())
        where = values.place([spec], CITY, KNOWN, begin=BEGIN)[0].where
        some = np.concatenate(
            [draw.choice(np.flatnonzero(~clean), min(60, int((~clean).sum())), replace=False), draw.choice(len(series), 60)]
        )
        for row in some.tolist():
            wanted = None
            if where[series[row]]:
                wanted = oracle.Reading(CITY, spec, 0, int(series[row]), int(time[row]), BEGIN).shown()
            if wanted is None:
                assert clean[row]
            else:
                assert not clean[row]
                np.testing.assert_equal((found.value[row], int(found.episode[row])), wanted)
    assert hit > 100


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4), st.integers(0, 2**32))
def test_any_chunks_in_any_order_give_the_same_bytes(kinds, seed):
    series, time, true = readings(hours=2.0)
    specs = [specs_of(kind)[0] for kind in kinds]
    whole = shown(specs, series, time, true)
    order = np.random.default_rng(seed).permutation(len(series))
    for rows in np.array_split(order, 7):
        part = shown(specs, series[rows], time[rows], true[rows])
        for name in ("value", "fault", "episode", "silent"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])


def test_the_first_fault_that_applies_wins():
    series, time, true = readings(hours=1.0)
    range_, dropout = FaultSpec(kind=Fault.RANGE, chance=0.5), FaultSpec(kind=Fault.DROPOUT)
    found = shown([range_, dropout], series, time, true)
    assert set(found.fault.tolist()) == {0, 1}
    np.testing.assert_array_equal(np.isnan(found.value), found.fault == 1)
    assert set(shown([dropout, range_], series, time, true).fault.tolist()) == {0}


def test_silent_sensors_send_nothing_at_all():
    series, time, true = readings(hours=1.0)
    found = shown([FaultSpec(kind=Fault.DROPOUT, mode="silent", chance=0.1)], series, time, true)
    np.testing.assert_array_equal(found.silent, found.fault == 0)
    assert not shown([FaultSpec(kind=Fault.DROPOUT, chance=0.1)], series, time, true).silent.any()


def test_where_chooses():
    series, time, true = readings(hours=1.0)
    where = Where(types=("Air station",), metrics=("pm25", "no2"), ids=("env-*1", "trf-*"))
    hit = series[shown([FaultSpec(kind=Fault.RANGE, where=where)], series, time, true).fault == 0]
    assert len(hit)
    for row in np.unique(hit).tolist():
        device = CITY.device(int(CITY.series.device[row]))
        assert device.tags["type"] == "Air station"
        assert device.id.endswith("1")
        assert CITY.series.metrics[CITY.series.metric[row]] in {"pm25", "no2"}
    by_district = Where(districts=("Hải Cảng",), gateways=("gw-1",))
    hit = series[shown([FaultSpec(kind=Fault.RANGE, where=by_district)], series, time, true).fault == 0]
    for row in np.unique(hit).tolist():
        device = CITY.device(int(CITY.series.device[row]))
        assert (device.district, device.source) == ("Hải Cảng", "gw-1")
    share = shown([FaultSpec(kind=Fault.RANGE, where=Where(share=0.25))], series, time, true).fault == 0
    assert 0.1 < len(np.unique(series[share])) / len(CITY.series) < 0.4


def test_values_are_as_large_as_is_meaningful():
    series, time, true = readings(hours=24.0)
    low, high, limit = (column[KNOWN.of[series]] for column in (KNOWN.low, KNOWN.high, KNOWN.limit))
    found = shown([FaultSpec(kind=Fault.RANGE, chance=0.3)], series, time, true)
    hit = found.fault == 0
    assert ((found.value < low) | (found.value > high))[hit].all()
    for kind in (Fault.SPIKE, Fault.STEP):
        found = shown([FaultSpec(kind=kind, rate=2.0)], series, time, true)
        hit = found.fault == 0
        assert ((found.value >= low) & (found.value <= high))[hit].all()
        if kind is Fault.SPIKE:
            assert (np.abs(found.value - true) > 1.7 * limit)[hit].all()
    for kind in (Fault.DRIFT, Fault.OFFSET, Fault.NOISE):
        found = shown([FaultSpec(kind=kind, rate=0.5)], series, time, true)
        hit = found.fault == 0
        assert ((found.value >= low) & (found.value <= high))[hit].all()
        assert (found.value != true)[hit].mean() > 0.9
    found = shown([FaultSpec(kind=Fault.SENTINEL, chance=0.3)], series, time, true)
    np.testing.assert_array_equal(sensors.is_missing(KNOWN, series, found.value), found.fault == 0)


def test_a_value_that_looks_like_a_code_for_missing_is_moved():
    of = np.flatnonzero(CITY.series.metric == CITY.series.metrics.index("temperature"))[:1]
    series = np.repeat(of, 3)
    moved = sensors.other_value(KNOWN, series, np.array([-999.0, 20.0, -200.0]), np.array([0.5, 0.5, 0.5]))
    assert not sensors.is_missing(KNOWN, series, moved).any()
    assert sensors.is_missing(KNOWN, series, np.array([-999.0, math.nan, 20.0])).tolist() == [True, True, False]


def series_of(metric, *, register=False):
    """A series of a metric; with a register that runs over, if need be."""
    of = np.flatnonzero(CITY.series.metric == CITY.series.metrics.index(metric))
    return of[np.isfinite(KNOWN.register[KNOWN.of[of]])][:1] if register else of[:1]


def test_a_counter_that_was_reset_may_have_run_over_since():
    series = series_of("vehicleCount", register=True)
    size = float(KNOWN.register[KNOWN.of[series[0]]])
    placed = values.place([FaultSpec(kind=Fault.RESET, from_=60.0)], CITY, KNOWN, begin=BEGIN)
    time = np.array([BEGIN + HOUR])
    for true, onset in ((size - 10.0, 100.0), (5.0, size - 10.0)):
        found = values.shown(placed, KNOWN, series, time, np.array([true]), lambda _series, _time, onset=onset: np.array([onset]))
        assert found.value.tolist() == [size - 110.0 if true > onset else 15.0]
        assert found.fault.tolist() == [0]


@pytest.mark.parametrize(("held", "hit"), [(0.0, False), (3.0, True)])
def test_what_may_repeat_for_ever_is_never_stuck(held, hit):
    placed = values.place([FaultSpec(kind=Fault.STUCK)], CITY, KNOWN, begin=BEGIN)
    series, time = series_of("intensity"), np.array([BEGIN + HOUR])
    found = values.shown(placed, KNOWN, series, time, np.array([500.0]), lambda _series, _time: np.array([held]))
    assert (found.fault.tolist() == [0]) == hit
    assert found.value.tolist() == [held if hit else 500.0]


def test_the_checks_find_what_they_are_for():
    """Citybeat's own STEP, STUCK and RANGE, on what faulty sensors show, kind by kind; and nothing else is flagged."""
    kinds = builtin()
    rows = [
        SeriesRow(id=i + 1, device=device.id, source=1, retired=False, metric=kinds[sensor.metric], sensor=sensor)
        for i, (device, sensor) in enumerate((device, sensor) for device in CITY.devices for sensor in device.sensors)
    ]
    registry = build(version=1, sources={}, devices={}, rows=rows)
    series, time, true = readings(hours=30.0)
    order = np.lexsort((time, series))
    series, time, true = series[order], time[order], true[order]
    for kind, flag, least, spec in (
        (Fault.RANGE, Flag.RANGE, 1.0, FaultSpec(kind=Fault.RANGE, chance=0.01)),
        (Fault.SPIKE, Flag.STEP, 0.99, FaultSpec(kind=Fault.SPIKE, rate=0.2)),
        (Fault.STEP, Flag.STEP, 0.99, FaultSpec(kind=Fault.STEP, rate=0.05)),
        (Fault.STUCK, Flag.STUCK, 0.99, FaultSpec(kind=Fault.STUCK, from_=600.0, where=Where(share=0.4))),
    ):
        found = shown([spec], series, time, true)
        batch = Batch(
            time=time,
            received_at=time,
            series=(series + 1).astype(np.int32),
            value=found.value,
            flags=bounds(found.value, (series + 1).astype(np.int32), registry),
            message=np.zeros(len(series), np.int32),
            index=np.arange(len(series), dtype=np.int32),
        )
        flags = batch.flags | changes(batch, History.empty(len(rows) + 1), registry)[0]
        hit = found.fault == 0
        events = np.unique(np.stack([series, found.episode])[:, hit], axis=1).shape[1]
        flagged = hit & ((flags & np.int16(flag)) != 0)
        seen = np.unique(np.stack([series, found.episode])[:, flagged], axis=1).shape[1]
        assert events > 10, kind
        assert seen >= least * events, kind
        if kind is not Fault.STEP:  # a level that was taken for the new one makes a step of the way back
            assert not ((flags & np.int16(Flag.RANGE | Flag.STEP | Flag.STUCK)) != 0)[~hit].any(), kind


def test_what_the_registry_would_say():
    series = 0
    for device in CITY.devices:
        for sensor in device.sensors:
            low, high, limit, scale, stuck = oracle.limits(sensor)
            of = int(KNOWN.of[series])
            assert (KNOWN.low[of], KNOWN.high[of]) == (low, high)
            assert KNOWN.limit[of] == pytest.approx(limit)
            assert math.isclose(KNOWN.scale[of], scale, rel_tol=1e-9) or not math.isfinite(scale)
            assert min(int(KNOWN.stuck_after[of]), int(FOREVER)) == stuck
            assert {code for code in KNOWN.sentinels[of].tolist() if not math.isnan(code)} == oracle.sentinels(sensor)
            series += 1
    assert series == len(CITY.series)
