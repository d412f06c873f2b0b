"""Schedule, percentiles and payloads of the load generator, against slow twins."""

import json
import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from citybeat.devices.catalogue import builtin
from citybeat.devices.flags import Flag
from citybeat.devices.wire import reports
from citybeat.devices.wire.mqtt import Frame, Version
from citybeat.simulator.load.latency import Histogram
from citybeat.simulator.load.pace import Pace
from citybeat.simulator.load.traffic import METRICS, Prepared, Traffic, stations, stations_for

SECOND = 1_000_000_000
FRAME = Frame(Version.V5, "city/v1/load-1/readings")
NOW = 1_767_225_600_123_456


# --- schedule


@given(rate=st.floats(0.01, 1e6), senders=st.integers(1, 7), sent=st.integers(0, 1000), now=st.integers(0, 10**10))
def test_messages_are_due_evenly_and_senders_take_turns(rate, senders, sent, now):
    start = 5 * SECOND
    pace = Pace(rate, senders, start)
    gap = SECOND / rate
    assert pace.due(start + now).sum() == pytest.approx(now / gap + 1, abs=1)
    times = np.array([pace.times(i, 0, sent + 1, 0) for i in range(senders)])  # by message and sender
    flat = times.T.ravel()
    assert np.abs(flat - (start + np.arange(len(flat)) * gap)).max() <= 1
    for i in range(senders):
        due = int(pace.due(int(times[i, sent]) + 1)[i])
        assert due >= sent + 1, "what is due is asked for"
        assert pace.times(i, due, 1, 0)[0] >= times[i, sent], "and nothing before it is due"
        assert pace.times(i, sent, 1, 0)[0] == times[i, sent]
    counts = pace.due(start + now)
    assert counts.max() - counts.min() <= 1


def test_who_may_send_is_woken_for():
    pace = Pace(1000.0, 4, 0)
    sent = np.array([5, 5, 4, 9])
    assert pace.next(sent, np.array([0, 1, 2, 3]), SECOND) == 18_000_001  # message 4 of sender 2: place 18
    assert pace.next(sent, np.array([0, 3]), SECOND) == 20_000_001
    assert pace.next(sent, np.array([3]), 7) == 7
    assert pace.next(sent, np.array([], np.int64), SECOND) == SECOND
    assert Pace(None, 4, 0).next(sent, np.array([0]), SECOND) == SECOND


def test_a_closed_loop_is_always_due():
    pace = Pace(None, 2, 0)
    assert pace.due(0).min() > 10**15
    assert pace.times(1, 7, 3, 99).tolist() == [99, 99, 99]


# --- percentiles


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 10**12) | st.integers(0, 300), min_size=1, max_size=400),
    st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 1.0]),
)
def test_percentiles_are_right_within_a_class(durations, share):
    histogram = Histogram()
    for part in np.array_split(np.array(durations, np.int64), 3):
        histogram.add(part)
    exact = sorted(durations)[max(1, int(np.ceil(share * len(durations)))) - 1]
    assert exact <= histogram.at(share) + 1 <= exact * (1 + 1 / 128) + 2
    assert histogram.at(1.0) == histogram.highest == max(durations)
    assert histogram.count == len(durations)


def test_milliseconds_have_names():
    histogram = Histogram()
    assert set(histogram.milliseconds().values()) == {0.0}
    histogram.add(np.full(2000, 1_500_000))
    histogram.add(np.array([-5, 9_000_000]))
    assert histogram.milliseconds() == pytest.approx({"p50": 1.5, "p90": 1.5, "p99": 1.5, "p99.9": 1.5, "max": 9.0}, rel=0.01)


# --- payloads


def bodies(made) -> list[bytes]:
    """The payloads, of which each must be framed as one alone is."""
    found = []
    for a, b, at in zip(made.start[:-1].tolist(), made.start[1:].tolist(), made.id_at.tolist(), strict=True):
        payload = made.data[at + 3 : b].tobytes()  # behind the identifier, and properties of which there are none
        assert FRAME.pack([payload]).data.tobytes() == made.data[a:b].tobytes()
        found.append(payload)
    return found


@settings(deadline=None, max_examples=40)
@given(
    size=st.sampled_from([1, 2, 3, 7, 100]), form=st.sampled_from(["reports", "columns"]), sweeps=st.integers(1, 3), data=st.data()
)
def test_no_two_readings_are_alike_and_all_can_be_read(size, form, sweeps, data):
    devices = stations_for(size, data.draw(st.integers(0, 9)))
    traffic = Traffic("load-1", boot="b7", devices=devices, size=size, form=form)
    total = sweeps * devices * len(METRICS) // size
    payloads: list[bytes] = []
    now, times = NOW, []
    while len(payloads) < total:
        made = traffic.take(data.draw(st.integers(1, 50)), FRAME, now)
        assert set(made.readings.tolist()) == {size}
        payloads += bodies(made)
        times += [now] * len(made)
        now += data.draw(st.sampled_from([0, 300, 1_000_000]))
    assert [json.loads(payload)["seq"] for payload in payloads] == list(range(len(payloads)))
    read = reports.decode(payloads, ["load-1"] * len(payloads), np.full(len(payloads), NOW, np.int64))
    assert not read.refused
    assert set(read.boot) == {"b7"}
    assert len(read.time) == size * len(payloads)
    known = {device.id: {sensor.metric for sensor in device.sensors} for device in stations("load-1", devices)}
    rows = [
        (report["device"], metric, report["ts"], value)
        for payload in payloads
        for report in _reports(json.loads(payload)["readings"])
        for metric, value in report["values"].items()
    ]
    assert len({row[:3] for row in rows}) == len(rows), "a series never says a time twice"
    last: dict[tuple[str, str], tuple[int, float]] = {}
    for device, metric, ts, value in rows:
        assert metric in known[device]
        before = last.get((device, metric), (ts - 1, value))
        assert ts > before[0], "time goes on"
        assert abs(value - before[1]) < 0.11, "values move by a tenth"
        assert METRICS[metric] * 10 <= value < METRICS[metric] * 10 + 10
        last[device, metric] = (ts, value)
    ahead = np.repeat(np.array(times), size) / 1000 - np.array([row[2] for row in rows])
    assert ahead.min() >= -len(payloads), "readings are of now, or a millisecond a sweep later"
    assert len(last) == min(len(rows), devices * len(METRICS)), "a sweep goes over all series"


def _reports(readings):
    if isinstance(readings, dict) and "value" in readings:
        return [
            {"device": d, "ts": t, "values": {m: v}}
            for d, m, t, v in zip(readings["device"], readings["metric"], readings["ts"], readings["value"], strict=True)
        ]
    return readings if isinstance(readings, list) else [readings]


def test_no_quality_check_has_a_reason():
    """Made as fast as it may come: a sweep a millisecond, over more than the whole wave."""
    catalogue = builtin()
    for name, tens in METRICS.items():
        metric = catalogue[name]
        assert metric.low <= tens * 10
        assert tens * 10 + 10 <= metric.high
        assert metric.step_floor >= 0.11
    assert Flag(0) == 0


def test_the_clock_is_followed():
    traffic = Traffic("load-1", boot="b", devices=1, size=3)
    at = [json.loads(bodies(traffic.take(1, FRAME, NOW + late))[0])["readings"][0]["ts"] for late in (0, 10_000, 10_000, 5_000)]
    assert [ts - at[0] for ts in at] == [0, 10, 11, 12]


def test_what_does_not_come_out_even_is_told():
    with pytest.raises(ValueError, match="come out even"):
        Traffic("load-1", boot="b", devices=2, size=4)
    assert [stations_for(size, least) for size, least in ((1, 5), (100, 1), (100, 101), (3, 0), (6, 3))] == [5, 100, 200, 1, 4]


@pytest.mark.parametrize("readings", [3, "list"])
def test_prepared_payloads_are_sent_once_in_order(readings):
    payloads = [secrets.token_bytes(i * 37 % 5000) for i in range(300)]
    counted = list(range(300)) if readings == "list" else readings
    supply, found, counts = Prepared(payloads, counted), [], []
    while (made := supply.take(70, FRAME, NOW)) and len(made):
        found += bodies(made)
        counts += made.readings.tolist()
    assert found == payloads
    assert counts == (counted if readings == "list" else [3] * 300)
