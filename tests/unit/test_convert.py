"""Units, calibration and sentinels of readings, against a plain loop."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybeat.devices import units
from citybeat.devices.batch import MICROSECOND, NEVER
from citybeat.devices.catalogue import builtin, parse
from citybeat.devices.device import Sensor
from citybeat.devices.errors import Reason
from citybeat.devices.registry.snapshot import DEFAULT_SENTINELS, Corrected, SeriesRow, build
from citybeat.devices.units import UnitError, conversion
from citybeat.devices.wire import senml_units
from citybeat.devices.wire.decoded import Decoded
from citybeat.devices.wire.names import Names
from citybeat.ingest.judging.convert import convert, missing

START = 1_767_225_600 * MICROSECOND
HOUR = 3600 * MICROSECOND
CATALOGUE = {
    **builtin(),
    **parse('[score]\ndomain = "traffic"\nunit = "{score}"\nkind = "gauge"\nsentinels = [-999]\nlow = 0', origin="t"),
}
SENSORS = {  # by series id; 0 and 3 are nobody's
    1: (Sensor(metric="pm25"), ()),
    2: (Sensor(metric="temperature", unit="[degF]"), ()),
    4: (Sensor(metric="temperature", unit="furlong"), ()),  # as if the catalogue had changed
    5: (Sensor(metric="temperature", sentinels=(85.0,)), (Corrected(int(NEVER), 1.0, -0.5),)),
    6: (
        Sensor(metric="relativeHumidity", unit="%"),
        (
            Corrected(START + HOUR, 2.0, 0.0),
            Corrected(START, 1.1, 0.01),
            Corrected(START + 2 * HOUR, -1.0, 1.0),
        ),
    ),
    7: (Sensor(metric="atmosphericPressure"), ()),
    8: (Sensor(metric="score", unit="{score}"), ()),
    9: (Sensor(metric="atmosphericPressure", unit="furlong"), (Corrected(START, 1.0, 1.0),)),
    10: (Sensor(metric="totalReactivePower", unit="kvar", rating=1e5), ()),
}


def registry(sensors=SENSORS):
    rows = [
        SeriesRow(id=i, device=f"d{i}", source=1, retired=False, metric=CATALOGUE[s.metric], sensor=s, calibrations=c)
        for i, (s, c) in sensors.items()
    ]
    return build(version=1, sources={}, devices={}, rows=rows)


REGISTRY = registry()


def decoded(value, times=None, unit=()):
    n = len(value)
    return Decoded(
        names=[Names.of(["d"] * n, ["m"] * n)],
        time=np.array(times if times is not None else [START] * n, np.int64),
        value=np.array(value, np.float64),
        flags=np.zeros(n, np.int16),
        message=np.arange(n, dtype=np.int32) // 3,
        index=np.arange(n, dtype=np.int32) % 3,
        received=np.zeros(0, np.int32),
        seq=np.zeros(0, np.int64),
        boot=[],
        refused=[],
        unit=list(unit),
    )


def one(series, value, at=START, unit="", names=None):
    """The outcome of one reading: 'missing', a refusal, or its value."""
    read, ids = decoded([value], [at], [unit] if unit else []), np.array([series], np.int32)
    gone = missing(read, ids, REGISTRY, names or {})
    if gone[0]:
        return "missing"
    values, rows, refused = convert(read, ids, ~gone, REGISTRY, names or {})
    assert len(rows) == len(refused)
    return refused[0] if refused else values[0]


@pytest.mark.parametrize(
    ("series", "value", "at", "unit", "result"),
    [
        (1, 12.5, 0, "", 12.5),
        (1, 0.0125, 0, "mg/m3", 12.5),
        (2, 212.0, 0, "", 100.0),
        (2, 25.0, 0, "Cel", 25.0),  # the sender's own unit wins over the registered one
        (5, 20.0, 0, "", 19.5),
        (5, 293.15, 0, "K", 19.5),  # unit, then calibration
        (6, 50.0, -1, "", 0.5),
        (6, 50.0, 0, "", 0.56),
        (6, 50.0, HOUR - 1, "", 0.56),
        (6, 50.0, HOUR, "", 1.0),
        (6, 50.0, 2 * HOUR, "", 0.5),
        (6, 30.0, 1000 * HOUR, "", 0.7),
        (7, 101_325.0, 0, "Pa", 1013.25),
        (10, 2.5, 0, "", 2500.0),
        (10, 2500.0, 0, "V.A", 2500.0),
        (4, 20.0, 0, "Cel", 20.0),  # named rightly, whatever was registered
        (8, 3.0, 0, "{score}", 3.0),
        (5, math.inf, 0, "K", math.inf),
        (5, -math.inf, 0, "", -math.inf),
        (1, 1e306, 0, "kg/m3", math.inf),  # beyond float64: for `validate` to refuse
        # Codes: as sent.
        (5, 85.0, 0, "", "missing"),
        (5, 85.0, 0, "K", "missing"),
        (5, 85.5, 0, "", 85.0),
        (2, -200.0, 0, "", "missing"),  # -128.9 Cel
        (7, 65_535.0, 0, "", "missing"),
        (7, 65_535.0, 0, "Pa", 655.35),  # a value, high in the mountains
        (7, 65_535.0, 0, "hPa", "missing"),
        (10, -200.0, 0, "", "missing"),  # -200 kvar is beyond the rating
        (10, -200.0, 0, "V.A", -200.0),
        (8, -999.0, 0, "", "missing"),
        (8, -200.0, 0, "1", "missing"),
        (1, math.nan, 0, "parsec", "missing"),
    ],
)
def test_readings(series, value, at, unit, result):
    got = one(series, value, START + at, unit)
    assert got == (pytest.approx(result, rel=1e-14) if isinstance(result, float) else result)


@pytest.mark.parametrize(
    ("series", "value", "unit", "words"),
    [
        (4, 20.0, "", ("as registered", "'furlong'")),
        (9, 20.0, "", ("as registered", "'furlong'")),
        (9, 65_535.0, "", ("as registered",)),  # a code of what? kept in quarantine, not thrown away
        (1, 20.0, "ppm", ("'ppm'", "'ug/m3'")),
        (1, -999.0, "ppm", ("'ppm'", "'ug/m3'")),
        (8, 20.0, "Cel", ("'Cel'", "'{score}'")),
    ],
)
def test_what_cannot_be_converted_is_refused_with_both_units(series, value, unit, words):
    refusal = one(series, value, unit=unit)
    assert refusal.reason == Reason.UNIT_MISMATCH
    assert all(word in refusal.detail for word in words)
    assert (refusal.message, refusal.index) == (0, 0)


def test_names_of_senml():
    assert one(6, 0.3, START - 1, "%", senml_units.UCUM) == 0.3  # a plain ratio there, by any name
    assert one(6, 30.0, START - 1, "%RH", senml_units.UCUM) == pytest.approx(0.3)
    refusal = one(1, 1.0, unit="Wh/km", names=senml_units.UCUM)
    assert "'W.h/km'" in refusal.detail
    assert "(sent as 'Wh/km')" in refusal.detail


def test_senml_and_ucum_agree_on_every_factor():
    for name, secondary in senml_units.SECONDARY.items():
        if name in senml_units.UCUM and secondary.primary in senml_units.UCUM:
            found = conversion(senml_units.UCUM[name], senml_units.UCUM[secondary.primary])
            assert (found.scale, found.offset) == (float(secondary.scale), float(secondary.offset)), name
    assert not [unit for unit in senml_units.UCUM.values() if unit != "[pH]" and units._read(unit).size <= 0]


def test_nothing_to_do_copies_nothing():
    plain = registry({1: SENSORS[1], 7: SENSORS[7]})
    ids, every = np.array([1, 7, 0], np.int32), np.array([True, True, False])
    for unit in ((), ("", "", ""), ("ug/m3", "hPa", "?"), ("ug/m3", "mbar", "")):
        read = decoded([1.0, math.inf, 3.0], unit=unit)
        value, rows, refused = convert(read, ids, every, plain)
        assert value is read.value
        assert (len(rows), refused) == (0, [])
    read = decoded([])
    assert convert(read, ids[:0], every[:0], REGISTRY)[0] is read.value
    assert len(missing(read, ids[:0], REGISTRY)) == 0


def test_what_was_decoded_stays_as_it_was():
    read = decoded([50.0, 50.0])
    value, _, _ = convert(read, np.array([6, 6], np.int32), np.array([True, False]), REGISTRY)
    assert read.value.tolist() == [50.0, 50.0]
    assert value.tolist() == [pytest.approx(0.56), 50.0]


UNITS = ["", "Cel", "K", "°F", "%", "Pa", "hPa", "furlong", "ug/m3", "V.A", "1", "10*300"]
readings = st.tuples(
    st.sampled_from([0, *SENSORS]),
    st.one_of(
        st.floats(-1e6, 1e6), st.sampled_from([math.nan, math.inf, -math.inf, 85.0, 1e306, -0.0, *DEFAULT_SENTINELS]), st.floats()
    ),
    st.sampled_from([START + k * HOUR + d for k in range(-1, 4) for d in (-1, 0, 1)]),
    st.sampled_from(UNITS),
    st.booleans(),
)


@given(st.lists(readings, max_size=12), st.booleans())
def test_agrees_with_a_plain_loop(rows, named):
    compare(rows, named)


def test_agrees_with_a_plain_loop_on_a_hundred_thousand():
    rng = np.random.default_rng(1)
    n = 100_000
    series = rng.choice([0, *SENSORS], n)
    value = np.where(rng.random(n) < 0.1, rng.choice([math.nan, math.inf, 85.0, *DEFAULT_SENTINELS], n), rng.normal(50, 200, n))
    at = START + rng.integers(-HOUR, 4 * HOUR, n)
    unit = rng.choice(UNITS, n)
    columns = (series, value, at, unit, rng.random(n) < 0.95)
    compare(list(zip(*(column.tolist() for column in columns), strict=True)), named=True)


def compare(rows, named):
    series, values, times, unit, chosen = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [], [])
    unit = unit if named else []
    read, ids = decoded(values, times, unit), np.array(series, np.int32)
    gone = missing(read, ids, REGISTRY)
    wanted = np.array(chosen, np.bool_) & ~gone & (ids > 0)
    got, refused_rows, refused = convert(read, ids, wanted, REGISTRY)
    assert [(r.message, r.index) for r in refused] == [(int(read.message[i]), int(read.index[i])) for i in refused_rows]
    expected = [fate(*row) for row in zip(series, values, times, unit or [""] * len(rows), strict=True)]
    assert gone.tolist() == [e == "missing" for e in expected]
    assert refused_rows.tolist() == [i for i, e in enumerate(expected) if wanted[i] and e == "refused"]
    for i, e in enumerate(expected):
        if wanted[i] and isinstance(e, float):
            assert got[i] == e
        else:
            assert got[i] == values[i] or math.isnan(values[i])


def fate(series, value, at, unit):
    """One reading, as the documents describe it."""
    if series == 0:
        return None
    sensor, calibrations = SENSORS[series]
    metric = CATALOGUE[sensor.metric]
    if math.isnan(value) or value in sensor.sentinels or value in metric.sentinels:
        return "missing"
    try:
        by = conversion(unit or sensor.unit or metric.unit, metric.unit)
    except UnitError:
        return "refused"
    plain = value if (by.scale, by.offset) == (1, 0) else value * by.scale + by.offset
    low, high = metric.plausible(rating=sensor.rating)
    if value in DEFAULT_SENTINELS and not low <= plain <= high:
        return "missing"
    valid = [c for c in calibrations if c.since <= at]
    if valid:
        last = max(valid)
        plain = plain * last.scale + last.offset
    return plain


def test_a_hundred_thousand_take_milliseconds():
    """Not a benchmark: a loop over readings would be ten times as slow as the limit, even on a busy machine."""
    n = 100_000
    ids = np.resize(np.array([1, 2, 5, 6, 7], np.int32), n)
    read = decoded(np.full(n, 60.0), unit=np.resize(["ug/m3", "Cel", "", "%", "Pa"], n).tolist())
    began = time.perf_counter()
    convert(read, ids, ~missing(read, ids, REGISTRY), REGISTRY)
    assert time.perf_counter() - began < 0.5
