"""Dependences within a city: weather, neighbours, roads, stations, holidays."""

from datetime import UTC, datetime

import numpy as np

from citybeat.simulator.city import signals
from citybeat.simulator.city.at import At
from citybeat.simulator.city.layout import build

SECOND = 1_000_000
HOUR = 3600 * SECOND
CITY = build(devices=1200, gateways=["gw-1"], seed=3)
RAIN = int(datetime(2025, 10, 6, 17, tzinfo=UTC).timestamp()) * SECOND  # a Monday begins in Quy Nhơn
DRY = int(datetime(2026, 4, 5, 17, tzinfo=UTC).timestamp()) * SECOND
TET = int(datetime(2026, 2, 16, 17, tzinfo=UTC).timestamp()) * SECOND


def rows_of(metric: str) -> np.ndarray:
    return np.flatnonzero(CITY.series.metric == CITY.series.metrics.index(metric))


def history(row: int, start: int, *, days: int = 28, step: int = 600) -> np.ndarray:
    time = start + np.arange(0, days * 86_400, step, dtype=np.int64) * SECOND
    return signals.sample(CITY.series, np.full(len(time), row), time)


def weather(row: int, start: int, what: str, *, days: int = 28, step: int = 600) -> np.ndarray:
    time = start + np.arange(0, days * 86_400, step, dtype=np.int64) * SECOND
    return getattr(At(CITY.series, int(CITY.series.metric[row]), np.full(len(time), row), time), what)


def anomaly(values: np.ndarray, *, a_day: int = 144) -> np.ndarray:
    """Deviations from the mean course of the day."""
    days = values.reshape(-1, a_day)
    return (days - days.mean(axis=0)).ravel()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def pairs(rows: np.ndarray, low: float, high: float) -> list[tuple[int, int]]:
    """Correlations of series whose devices are so many km apart, at least and at most."""
    device = CITY.series.device[rows]
    east, north = CITY.series.east[device], CITY.series.north[device]
    apart = np.hypot(east[:, None] - east, north[:, None] - north)
    a, b = np.nonzero(np.triu((apart >= low) & (apart <= high), 1))
    return [(int(rows[i]), int(rows[k])) for i, k in zip(a, b, strict=True)][:40]


def nearness(metric: str, start: int) -> tuple[float, float]:
    """Mean correlation of the readings of neighbours, and of those who are far apart, without what all share."""
    rows = rows_of(metric)
    close, far = pairs(rows, 0.0, 0.3), pairs(rows, 6.0, 20.0)
    assert min(len(close), len(far)) >= 10
    wanted = sorted({row for pair in close + far for row in pair})
    seen = {row: anomaly(history(row, start, days=14)) for row in wanted}
    common = np.mean(list(seen.values()), axis=0)
    left = {}
    for row, values in seen.items():
        left[row] = values - common * (values @ common) / (common @ common)
    return (
        float(np.mean([correlation(left[a], left[b]) for a, b in close])),
        float(np.mean([correlation(left[a], left[b]) for a, b in far])),
    )


def test_neighbours_see_the_same_and_the_other_end_of_the_city_does_not():
    for metric, start in (("temperature", DRY), ("pm25", DRY), ("precipitation", RAIN), ("no2", DRY), ("co2", DRY)):
        close, far = nearness(metric, start)
        assert close > 0.5, (metric, close)
        assert far < 0.2, (metric, far)


def test_traffic_on_one_road_hangs_together():
    rows = rows_of("occupancy")
    road, along = CITY.series.road[CITY.series.device[rows]], CITY.series.along[CITY.series.device[rows]]
    together = [(i, k) for i in range(len(rows)) for k in range(i) if road[i] == road[k] and abs(along[i] - along[k]) < 0.15][:20]
    apart = [(i, k) for i in range(60) for k in range(i) if road[i] != road[k]][:20]
    means = []
    for found in (together, apart):
        assert len(found) == 20
        queue = {i: anomaly(weather(int(rows[i]), DRY, "busy", days=5)) for pair in found for i in pair}  # working days
        means.append(np.mean([correlation(queue[i], queue[k]) for i, k in found]))
    assert means[0] > means[1] + 0.3


def test_houses_of_one_station_share_its_voltage():
    rows = rows_of("phaseVoltage")
    station = CITY.series.station[CITY.series.device[rows]]
    seen = {int(row): anomaly(history(int(row), DRY, days=4)) for row in rows[:120]}
    same, other = [], []
    for i, row in enumerate(rows[:120].tolist()):
        for k, mate in enumerate(rows[:i].tolist()):
            (same if station[i] == station[k] else other).append(correlation(seen[row], seen[mate]))
    assert len(same) > 50
    assert np.mean(same) > 0.8
    assert np.mean(other) < 0.2


def test_rain_washes_the_air_and_slows_the_streets():
    station, radar, meter = (int(rows_of(metric)[0]) for metric in ("pm25", "averageVehicleSpeed", "LAeq"))
    days = 42
    for row, name, sign in ((station, "pm25", -1), (radar, "speed", -1), (meter, "LAeq", +1)):
        rain = weather(row, RAIN, "rain", days=days)
        values = anomaly(history(row, RAIN, days=days))
        assert 20 < (rain > 1.0).sum() < len(rain) / 2, name
        wet, dry = values[rain > 1.0].mean(), values[rain == 0].mean()
        assert sign * (wet - dry) > 0.8 * values.std() * (0.5 if name == "LAeq" else 0.4), name


def test_rain_keeps_people_at_home_and_clouds_hide_the_sun():
    walkers, mast = int(rows_of("pedestrianCount")[0]), int(rows_of("solarRadiation")[0])
    rain = weather(walkers, RAIN, "rain", days=42)
    people = history(walkers, RAIN, days=42)
    evening = np.tile(np.arange(144) // 6 == 19, 42)
    assert people[evening & (rain > 2)].mean() < 0.6 * people[evening & (rain == 0)].mean()
    cloud, light = weather(mast, RAIN, "cloud", days=42), history(mast, RAIN, days=42)
    noon = np.tile(np.arange(144) // 6 == 11, 42)
    assert correlation(cloud[noon], light[noon]) < -0.9
    assert light[noon & (cloud > 0.95)].mean() < 0.5 * light[noon & (cloud < 0.3)].mean()


def test_wind_clears_the_air_and_hot_days_draw_power():
    station = int(rows_of("pm25")[0])
    wind, dust = weather(station, DRY, "wind", days=28), history(station, DRY, days=28)
    assert correlation(anomaly(wind), anomaly(dust)) < -0.3
    feeder = int(rows_of("totalActivePower")[0])
    year = int(datetime(2025, 1, 1, 17, tzinfo=UTC).timestamp()) * SECOND
    warm = weather(feeder, year, "warm", days=364, step=86_400)
    drawn = np.array([history(feeder, year + int(day) * 24 * HOUR, days=1, step=3600).mean() for day in range(364)])
    working = np.arange(364) % 7 < 5
    assert correlation(warm[working], drawn[working]) > 0.5


def test_a_holiday_is_no_working_day():
    street, meter = int(rows_of("intensity")[0]), int(rows_of("totalActivePower")[0])
    counter, walkers = int(rows_of("vehicleCount")[0]), int(rows_of("pedestrianCount")[0])
    week = 7 * 24 * HOUR  # the same days of the week, two weeks before

    def means(row: int, hours: range) -> tuple[float, float]:
        chosen = np.isin(np.arange(144) // 6, list(hours))
        return tuple(history(row, TET - back, days=2).reshape(2, 144)[:, chosen].mean() for back in (0, 2 * week))  # type: ignore[return-value]

    tet, usual = means(street, range(7, 9))
    assert tet < 0.5 * usual
    tet, usual = means(meter, range(9, 12))
    assert tet < 0.8 * usual
    tet, usual = means(walkers, range(18, 21))
    assert tet > 1.3 * usual
    counted = [history(counter, TET - back, days=2) for back in (0, 2 * week)]
    assert 0 < counted[0][-1] - counted[0][0] < 0.75 * (counted[1][-1] - counted[1][0])


def test_it_rains_about_as_much_as_in_quy_nhon():
    """mm a month, of a gauge that is read every ten minutes: the rainy season has some hundreds, the dry one little."""
    row = int(rows_of("precipitation")[0])
    per_minute = {
        month: history(row, int(datetime(2025, month, 1, tzinfo=UTC).timestamp()) * SECOND, days=30).sum() * 10
        for month in range(1, 13)
    }
    assert 250 < sum(per_minute[month] for month in (10, 11)) < 2000
    assert sum(per_minute[month] for month in (2, 3, 4, 5, 6, 7)) < 0.3 * sum(per_minute[month] for month in (9, 10, 11))


def test_sensors_are_noisy_by_themselves():
    """Two at one place do not show the same digits: what is between them is not only a difference of place."""
    a, b = pairs(rows_of("temperature"), 0.0, 0.3)[0]
    apart = np.diff(history(a, DRY, days=1, step=60)) - np.diff(history(b, DRY, days=1, step=60))
    assert 0.04 < apart.std() < 0.3
