"""VN_AQI in SQL: the worked examples of the decision's text, and agreement with a slow twin in Python."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from citybeat.devices.device import Device, Sensor
from citybeat.storage.registry import records
from tests import oracles_aqi as twin

ZONE = "Asia/Ho_Chi_Minh"
#: A local midnight.
START = datetime(2026, 2, 28, 17, tzinfo=UTC)
#: PM2.5 of the text's example, oldest first.
EXAMPLE = [26.9, 24.7, 20.5, 23.5, 19.5, 16.5, 19.0, 16.5, 20.3, 22.4, 19.6, 20.6]
POLLUTANTS = ("pm25", "pm10", *twin.GASES)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
means = st.one_of(st.none(), st.floats(0, 700), st.sampled_from([0.0, 5e-324, 25.0, 50.0, 600.0]))


def ask(connection, sql, *values):
    return connection.execute(f"SELECT {sql}", values).fetchone()[0]


@pytest.mark.parametrize(
    ("pollutant", "c", "expected"),
    # The decision's own 60 for NO2 of 118.7 contradicts its formula, which gives 59.
    [("o3_8h", 89.3, 45), ("o3", 114.6, 36), ("no2", 130.8, 65), ("pm25", 55.7, 110), ("o3", 136.1, 43), ("no2", 118.7, 59)],
)
def test_worked_examples_of_concentrations(connection, pollutant, c, expected):
    assert math.floor(ask(connection, "vn_aqi_index(%s, %s::float8)", pollutant, c) + 0.5) == expected


def test_worked_example_of_the_nowcast(connection):
    assert round(min(EXAMPLE) / max(EXAMPLE), 3) == 0.613
    found = ask(connection, "vn_nowcast(%s::float8[])", EXAMPLE)
    assert round(found, 2) == 20.27
    assert math.floor(ask(connection, "vn_aqi_index('pm25', %s::float8)", found) + 0.5) == 41


@pytest.mark.parametrize("pollutant", twin.BOUNDS)
def test_every_row_of_the_table_and_what_lies_between(connection, pollutant):
    bounds = twin.BOUNDS[pollutant]
    for i, bound in enumerate(bounds):
        assert ask(connection, "vn_aqi_index(%s, %s::float8)", pollutant, float(bound)) == twin.INDEX[i]
    for c in [-1.0, *((a + b) / 2 for a, b in pairwise(bounds)), bounds[-1] + 1.0]:
        found, expected = ask(connection, "vn_aqi_index(%s, %s::float8)", pollutant, c), twin.index(pollutant, c)
        assert found == (None if expected is None else pytest.approx(expected, rel=1e-12))


@quick
@given(c=st.floats(0, 200_000), pollutant=st.sampled_from(sorted(twin.BOUNDS)))
def test_sub_indices_agree(connection, c, pollutant):
    found, expected = ask(connection, "vn_aqi_index(%s, %s::float8)", pollutant, c), twin.index(pollutant, c)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-9, abs=1e-9))


@quick
@given(hours=st.lists(means, min_size=1, max_size=12))
def test_nowcasts_agree(connection, hours):
    found, expected = ask(connection, "vn_nowcast(%s::float8[])", hours), twin.nowcast([None] * (12 - len(hours)) + hours)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-9, abs=1e-9))


def station(connection, fill, hourly: Mapping[str, Sequence[float | None]], start: datetime = START) -> None:
    """A station whose readings have these hourly means (ug/m3): two good readings an hour, and a bad one that must not count."""
    sensors = tuple(Sensor(metric=metric) for metric in hourly)
    records.register(connection, [Device(id="station", source="gw", domain="environment", sensors=sensors)])
    rows = []
    for metric, values in hourly.items():
        scale = 0.001 if metric == "co" else 1.0
        for i, value in enumerate(values):
            at = int((start + timedelta(hours=i)).timestamp()) * 1_000_000
            if value is not None:
                rows += [("station", metric, at + 60_000_000 * k, value * scale, 0) for k in (5, 50)]
            rows.append(("station", metric, at + 60_000_000 * 30, 900.0 * scale, 1))
    fill(rows, received_at=int(start.timestamp()) * 1_000_000)


def test_worked_example_of_an_hour(connection, fill):
    station(connection, fill, {"pm25": EXAMPLE, "o3": [None] * 11 + [136.1]})
    rows = connection.execute(
        "SELECT time, aqi FROM vn_aqi_hours(%s, %s, %s)", (ZONE, START, START + timedelta(hours=12))
    ).fetchall()
    assert rows[-1] == (START + timedelta(hours=11), 43)  # ozone's
    assert len(rows) == 11  # in the first hour there are not two of the last three


def test_worked_example_of_a_day(connection, fill):
    hourly: dict[str, list[float | None]] = {
        "pm25": [55.7] * 24,
        "no2": [90.0] * 23 + [130.8],
        "o3": [0.0] * 8 + [89.3 - (114.6 - 89.3) / 7] * 7 + [114.6] + [0.0] * 8,
    }
    station(connection, fill, hourly)
    ask_day = "SELECT time, aqi FROM vn_aqi_days(%s, %s, %s)"
    assert connection.execute(ask_day, (ZONE, START, START + timedelta(days=1))).fetchall() == [(START, 110)]


def test_without_particles_there_is_no_index(connection, fill):
    station(connection, fill, {"o3": [500.0] * 6})
    for function in ("vn_aqi_hours", "vn_aqi_days"):
        assert (
            connection.execute(f"SELECT * FROM {function}(%s, %s, %s)", (ZONE, START, START + timedelta(days=1))).fetchall() == []
        )


@pytest.mark.parametrize("seed", range(4))
def test_hours_and_days_agree_on_generated_stations(connection, fill, seed):
    rng = np.random.default_rng(seed)
    hours = 72
    scale = {"pm25": 60, "pm10": 150, "no2": 300, "so2": 300, "co": 20_000, "o3": 180}
    hourly: dict[str, list[float | None]] = {}
    for pollutant in POLLUTANTS:
        values = np.round(rng.gamma(2.0, scale[pollutant] / 2, hours), 1)
        gone = rng.random(hours) < (0.0, 0.1, 0.4, 0.7)[seed]
        hourly[pollutant] = [None if missing else float(value) for value, missing in zip(values, gone, strict=True)]
    station(connection, fill, hourly)
    span = (ZONE, START, START + timedelta(hours=hours))

    def padded(pollutant: str, i: int) -> list[float | None]:
        return ([None] * 11 + hourly[pollutant])[i : i + 12]

    expected = {}
    for i in range(hours):
        if (value := twin.hour({p: padded(p, i) for p in POLLUTANTS})) is not None:
            expected[START + timedelta(hours=i)] = value
    agree(expected, dict(connection.execute("SELECT time, aqi FROM vn_aqi_hours(%s, %s, %s)", span).fetchall()))
    days = {}
    for d in range(hours // 24):
        before = ([None] * 7 + hourly["o3"])[24 * d : 24 * d + 7]
        if (value := twin.day({p: hourly[p][24 * d : 24 * d + 24] for p in POLLUTANTS}, before)) is not None:
            days[START + timedelta(days=d)] = value
    agree(days, dict(connection.execute("SELECT time, aqi FROM vn_aqi_days(%s, %s, %s)", span).fetchall()))
    assert len(days) == 3
    # The call of dashboards: hours up to a month.
    called = connection.execute("SELECT count(*) FROM vn_aqi(%s, %s, %s, '{}', '{}')", span).fetchone()
    assert called == (len(expected),)


def agree(expected: Mapping[datetime, float], found: Mapping[datetime, int]) -> None:
    assert found.keys() == expected.keys()
    for at, value in expected.items():
        # Sums in another order may land on the other side of a half.
        assert found[at] == twin.rounded(value) or abs(value + 0.5 - round(value + 0.5)) < 1e-6, at


def test_limits_in_force_are_those_of_today(connection):
    found = dict(
        connection.execute("SELECT span, value FROM metric_limits WHERE metric = 'pm25' AND standard = 'QCVN 05:2023'").fetchall()
    )
    assert found == {"24h": 45.0, "1y": 25.0}  # 50 until the end of 2025


def test_the_alert_compares_full_hours_with_the_limits(connection, fill):
    now = connection.execute("SELECT date_trunc('hour', now())").fetchone()[0]
    hourly = {"pm25": [90.0] * 24, "no2": [20.0] * 23 + [300.0], "co": [None] * 20 + [50_000.0] * 4}
    station(connection, fill, hourly, now - timedelta(hours=24))
    rows = connection.execute("SELECT metric, span, ratio FROM limits_now('QCVN 05:2023')").fetchall()
    assert {(metric, span): ratio for metric, span, ratio in rows} == {
        ("pm25", "24h"): pytest.approx(2.0),
        ("no2", "1h"): pytest.approx(1.5),
        ("no2", "24h"): pytest.approx((23 * 20 + 300) / 24 / 100),
        ("co", "1h"): pytest.approx(50 / 30),  # of eight hours there are four: too few to say anything
    }


def test_means_above_the_limits_are_counted(connection, fill):
    station(
        connection,
        fill,
        {"pm25": [60.0] * 24 + [10.0] * 24, "no2": [250.0] * 3 + [20.0] * 45, "co": [12_000.0] * 8 + [1_000.0] * 40},
    )
    rows = connection.execute(
        "SELECT metric, span, \"limit\", periods, above, worst FROM over_limits('QCVN 05:2023', %s, %s, %s, '{}', '{}')",
        (ZONE, START, START + timedelta(days=2)),
    ).fetchall()
    found = {(metric, span): tuple(rest) for metric, span, *rest in rows}
    assert found["pm25", "24h"] == (45.0, 2, 1, pytest.approx(60.0))
    assert found["no2", "1h"] == (200.0, 48, 3, pytest.approx(250.0))
    assert found["no2", "24h"] == (100.0, 2, 0, pytest.approx((3 * 250 + 21 * 20) / 24))
    assert found["co", "8h"][1] == 43  # from the sixth hour on
    assert found["co", "8h"][2] > 0
    assert found["co", "1h"] == (30.0, 48, 0, pytest.approx(12.0))
