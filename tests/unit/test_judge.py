"""decode, resolve and validate together, against a plain loop over the readings."""

import json
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from citybeat.devices import catalogue
from citybeat.devices.batch import MICROSECOND, Batch
from citybeat.devices.device import Sensor
from citybeat.devices.errors import Reason
from citybeat.devices.flags import Flag
from citybeat.devices.registry.snapshot import SeriesRow, build
from citybeat.ingest.judging.decode import decode
from citybeat.ingest.judging.history import History
from citybeat.ingest.judging.judge import in_order, judge
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import MAX_MAGNITUDE, Limits

NOW = 1_767_225_600 * MICROSECOND
CATALOGUE = catalogue.builtin()
SERIES = [  # (id, device, source, retired, sensor)
    (1, "env-1", 2, False, Sensor(metric="pm25")),
    (2, "env-1", 2, False, Sensor(metric="temperature", high=45.0)),
    (3, "nrg-1", 3, False, Sensor(metric="totalActivePower")),
    (4, "nrg-1", 3, False, Sensor(metric="current", rating=100.0)),
    (5, "old-1", 2, True, Sensor(metric="pm25")),
    (7, "gw-b", 3, False, Sensor(metric="temperature", sentinels=(-1.0, 85.0))),
]
REGISTRY = build(
    version=1,
    sources={"?": 1, "gw-a": 2, "gw-b": 3},
    devices={"env-1": 2, "nrg-1": 3, "old-1": 2, "gw-b": 3, "bare-1": 2},
    rows=[SeriesRow(id=i, device=d, source=s, retired=r, metric=CATALOGUE[n.metric], sensor=n) for i, d, s, r, n in SERIES],
)
LIMITS = Limits()


def judged(payloads, source="gw-a", topic="city/v1/{}/readings"):
    messages = [Message(topic.format(source), payload, NOW, False, 1, i + 1, 1) for i, payload in enumerate(payloads)]
    read = decode(messages, max_bytes=10_000)
    ids = np.array([REGISTRY.sources.get(name or "?", 1) for name in read.sources], np.int32)
    return judge(read, ids, REGISTRY, LIMITS, History.empty(len(REGISTRY.owner)))


def one(device, metric, value, ms=NOW // 1000, source="gw-a"):
    """The outcome of one reading: 'missing', a reason, or its flags."""
    prepared = judged([json.dumps({"device": device, "ts": ms, "values": {metric: value}}).encode()], source)
    if prepared.refused:
        assert len(prepared.judged.batch) == 0
        assert prepared.judged.missing.tolist() == [0]
        return prepared.refused[0].reason
    if prepared.judged.missing[0]:
        return "missing"
    return Flag(int(prepared.judged.batch.flags[0]))


@pytest.mark.parametrize(
    ("device", "metric", "value", "source", "outcome"),
    [
        ("env-1", "pm25", 12.3, "gw-a", Flag(0)),
        ("env-1", "pm25", 0.0, "gw-a", Flag(0)),  # on the bound is inside
        ("env-1", "pm25", 1000.0, "gw-a", Flag(0)),
        ("env-1", "pm25", 1000.1, "gw-a", Flag.RANGE),
        ("env-1", "pm25", -0.1, "gw-a", Flag.RANGE),
        ("env-1", "pm25", -999, "gw-a", "missing"),
        ("env-1", "pm25", 65535, "gw-a", "missing"),
        ("env-1", "pm25", None, "gw-a", "missing"),
        ("env-1", "pm25", math.nan, "gw-a", "missing"),
        ("env-1", "pm25", math.inf, "gw-a", Reason.NOT_FINITE),
        ("env-1", "pm25", -1e101, "gw-a", Reason.NOT_FINITE),
        ("env-1", "pm25", True, "gw-a", Flag(0)),
        ("env-1", "temperature", 44.0, "gw-a", Flag(0)),
        ("env-1", "temperature", 46.0, "gw-a", Flag.RANGE),  # this sensor's own bound
        ("env-1", "temperature", -45.0, "gw-a", Flag.SUSPECT),
        ("nrg-1", "totalActivePower", -200, "gw-b", Flag(0)),  # no bound without a rating, so -200 W is a value
        ("nrg-1", "totalActivePower", 65535, "gw-b", Flag(0)),
        ("nrg-1", "current", 120.0, "gw-b", Flag(0)),  # 1.2 times the rating
        ("nrg-1", "current", 120.1, "gw-b", Flag.RANGE),
        ("gw-b", "temperature", 85.0, "gw-b", "missing"),  # declared, and matched before any bound
        ("gw-b", "temperature", -1.0, "gw-b", "missing"),
        ("nobody", "pm25", 1.0, "gw-a", Reason.UNKNOWN_DEVICE),
        ("env-1", "no2", 1.0, "gw-a", Reason.UNKNOWN_METRIC),
        ("bare-1", "pm25", 1.0, "gw-a", Reason.UNKNOWN_METRIC),
        ("env-1", "pm25", 1.0, "gw-b", Reason.SOURCE_MISMATCH),
        ("env-1", "pm25", None, "gw-b", Reason.SOURCE_MISMATCH),
        ("old-1", "pm25", 1.0, "gw-a", Reason.RETIRED),
    ],
)
def test_values(device, metric, value, source, outcome):
    assert one(device, metric, value, source=source) == outcome


@pytest.mark.parametrize(
    ("offset_s", "outcome"),
    [
        (0, Flag(0)),
        (-300, Flag(0)),
        (-300.001, Flag.LATE),
        (5, Flag(0)),
        (5.001, Flag.FUTURE),
        (600, Flag.FUTURE),
        (600.001, Reason.TOO_FAR_AHEAD),
    ],
)
def test_times_around_receipt(offset_s, outcome):
    assert one("env-1", "pm25", 1.0, ms=NOW // 1000 + round(offset_s * 1000)) == outcome


@pytest.mark.parametrize(
    ("ms", "outcome"),
    [
        (0, Reason.TOO_OLD),
        (-1, Reason.TOO_OLD),
        (1_767_225_600, Reason.TOO_OLD),  # seconds, not milliseconds
        (978_307_199_999, Reason.TOO_OLD),
        (978_307_200_000, Flag.LATE),
        (4_102_444_800_000, Reason.TOO_FAR_AHEAD),  # 2100
    ],
)
def test_times_of_broken_clocks(ms, outcome):
    assert one("env-1", "pm25", 1.0, ms=ms) == outcome


def test_seconds_instead_of_milliseconds_are_named():
    prepared = judged([b'{"device":"env-1","ts":1767225600,"values":{"pm25":1}}'])
    assert "2026-01-01T00:00:00+00:00 if these were seconds" in prepared.refused[0].detail


def test_a_missing_value_with_a_broken_clock_is_missing():
    assert one("env-1", "pm25", None, ms=0) == "missing"


def test_no_time_of_its_own_is_the_time_of_receipt():
    prepared = judged([b'{"device":"env-1","values":{"pm25":1}}'])
    assert prepared.judged.batch.time.tolist() == [NOW]
    assert prepared.judged.batch.flags.tolist() == [Flag.CLOCK]


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("city/v1/gw-a/nothing", b"{}", Reason.UNKNOWN_CHANNEL),
        ("city/v1/gw-a/readings/more", b"{}", Reason.UNKNOWN_TOPIC),
        ("city/v1/gw-a", b"{}", Reason.UNKNOWN_TOPIC),
        ("city/v1/-bad/readings", b"{}", Reason.UNKNOWN_TOPIC),
        ("city/v1/ingest/readings", b"{}", Reason.UNKNOWN_TOPIC),
        ("city/v1/gw-a/status", b"maybe", Reason.BAD_STATUS),
        ("city/v1/gw-a/readings", b" " * 10_001, Reason.TOO_LARGE),
    ],
)
def test_messages_outside_the_contract(topic, payload, reason):
    prepared = judged([payload, b'{"device":"env-1","values":{"pm25":1}}'], topic=topic)
    assert prepared.refused[0].reason == reason
    assert prepared.refused[0].index is None


def test_status_is_no_reading():
    prepared = judged([b"online", b"offline"], topic="city/v1/{}/status")
    assert prepared.read.statuses == [(0, "online"), (1, "offline")]
    assert prepared.read.decoded.received.tolist() == [0, 0]
    assert not prepared.refused


@given(
    st.lists(
        st.tuples(st.integers(1, 4) | st.integers(1, 2**31 - 1), st.integers(0, 5) | st.integers(0, 2**53) | st.just(2**52)),
        max_size=20,
    )
)
@example([(2**31 - 1, 2**32 - 1), (1, 0), (2**31 - 1, 0), (1, 2**32 - 1)])  # the last that has room in one number
@example([(2**31 - 1, 2**32), (1, 0), (2**31 - 1, 0), (1, 2**32)])
def test_order_is_by_series_then_time_then_arrival(rows):
    n = len(rows)
    zeros = np.zeros(n, np.int32)
    batch = Batch(
        series=np.array([row[0] for row in rows], np.int32),
        time=np.array([row[1] for row in rows], np.int64),
        received_at=np.zeros(n, np.int64),
        value=np.zeros(n),
        flags=np.zeros(n, np.int16),
        message=zeros,
        index=zeros,
    )
    assert in_order(batch).tolist() == sorted(range(n), key=lambda i: rows[i])


values = st.one_of(st.floats(-2000, 2000), st.sampled_from([None, math.nan, math.inf, -999.0, -200.0, 65535.0, 1e101, 85.0, -1.0]))
reports = st.fixed_dictionaries(
    {
        "device": st.sampled_from(["env-1", "nrg-1", "old-1", "gw-b", "bare-1", "nobody"]),
        "ts": st.integers(NOW // 1000 - 700_000, NOW // 1000 + 700_000) | st.sampled_from([0, 5_000_000_000_000]),
        "values": st.dictionaries(
            st.sampled_from(["pm25", "temperature", "totalActivePower", "current", "no2"]), values, min_size=1
        ),
    }
)


@given(st.lists(st.lists(reports, min_size=1, max_size=4), min_size=1, max_size=4), st.sampled_from(["gw-a", "gw-b"]))
def test_agrees_with_a_plain_loop(messages, source):
    prepared = judged([json.dumps(message).encode() for message in messages], source)
    batch = prepared.judged.batch
    got = {
        (m, i): (s, t, v, f & ~int(Flag.STEP | Flag.STUCK))  # test_history.py has these
        for m, i, s, t, v, f in zip(
            *(getattr(batch, c).tolist() for c in ("message", "index", "series", "time", "value", "flags")), strict=True
        )
    }
    refused = {(r.message, r.index): r.reason for r in prepared.refused}
    missing = 0
    for m, message in enumerate(messages):
        rows = [(r["device"], metric, r["ts"] * 1000, value) for r in message for metric, value in r["values"].items()]
        assert prepared.read.decoded.received[m] == len(rows)
        for i, (device, metric, at, value) in enumerate(rows):
            expected = fate(device, metric, at, value, source)
            if expected == "missing":
                missing += 1
                assert (m, i) not in got
                assert (m, i) not in refused
            elif isinstance(expected, Reason):
                assert refused.pop((m, i)) == expected
            else:
                assert got.pop((m, i)) == expected
    assert not got
    assert not refused
    assert prepared.judged.missing.sum() == missing
    order = list(zip(batch.series.tolist(), batch.time.tolist(), batch.message.tolist(), batch.index.tolist(), strict=True))
    assert order == sorted(order)


def fate(device, metric, at, value, source):
    found = [row for row in SERIES if row[1] == device and row[4].metric == metric]
    if device not in REGISTRY.devices:
        return Reason.UNKNOWN_DEVICE
    if REGISTRY.devices[device] != REGISTRY.sources[source]:
        return Reason.SOURCE_MISMATCH
    if not found:
        return Reason.UNKNOWN_METRIC
    number, _, _, retired, sensor = found[0]
    if retired:
        return Reason.RETIRED
    row = CATALOGUE[metric]
    low, high = row.plausible(rating=sensor.rating)
    high = sensor.high if sensor.high is not None else high
    codes = {code for code in (-200, -999, -9999, 65535) if code < low or code > high} | set(sensor.sentinels)
    if value is None or math.isnan(value) or value in codes:
        return "missing"
    if at < LIMITS.oldest:
        return Reason.TOO_OLD
    if at > NOW + 600 * MICROSECOND:
        return Reason.TOO_FAR_AHEAD
    if abs(value) > MAX_MAGNITUDE:
        return Reason.NOT_FINITE
    flags = 0
    if value < low or value > high:
        flags |= 1
    elif value < row.suspect_low or value > row.suspect_high:
        flags |= 8
    flags |= 16 if NOW - at > 300 * MICROSECOND else 0
    flags |= 32 if at - NOW > 5 * MICROSECOND else 0
    return number, at, value, flags
