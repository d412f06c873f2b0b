"""What a city's sensors show: the value of any series at any time, as a function of (seed, series, time).

Nothing is carried from one reading to the next, so any part of the city's history can be made alone, in chunks of any size,
by any number of processes, and is the same to the byte (the law of `simulator.noise` holds here too). Noise is smooth in
time: two readings that are close show values that are close, as the catalogue's step limits expect of a sensor that works.
Values are quantised as common sensors do it. Counters are the integral of a weekly profile, so they grow with time by construction.

Each model takes an `_At` (arrays of one length, a reading each) and returns the values in the catalogue's unit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from devices.batch import MICROSECOND, MINUTE, Float64, Int16, Int64
from simulator import noise
from simulator.noise import Keys
from simulator.shapes import (
    BINS,
    LOAD_HOURS,
    TRAFFIC_HOURS,
    WATER_HOURS,
    bump,
    load,
    steps,
    sun,
    traffic,
    wave,
)

HOUR: Final = 60 * MINUTE  # us
DAY: Final = 24 * HOUR
WEEK: Final = 7 * DAY
#: us. Asia/Ho_Chi_Minh, UTC+7 without DST.
UTC_OFFSET: Final = 7 * HOUR
#: us since 1970 UTC. Counters start at 0 on Monday, 2015-01-05, local midnight.
COUNTERS_FROM: Final = 1_420_390_800 * MICROSECOND
#: us. From one passage of the moon to the next.
LUNAR_DAY: Final = 89_428_328_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesTable:
    """The series of a city: arrays of one length s, and what they share."""

    city: int  # key of what all series share: the weather, the grid
    metrics: tuple[str, ...]  # names that `metric` points into
    metric: Int16  # (s,)
    site: Keys  # (s,) key of the device: what its sensors share
    key: Keys  # (s,) key of the series
    interval: Float64  # (s,) s
    rating: Float64  # (s,) NaN: none declared

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True, kw_only=True, slots=True)
class _At:
    """Readings to be made: n of them, all of one metric."""

    time: Int64  # us since 1970 UTC
    hour: Float64  # local hour of the day, 0 to 24
    weekend: Float64  # 1 on Saturday and Sunday, else 0
    city: Keys  # (1,)
    site: Keys
    key: Keys
    interval: Float64  # s
    rating: Float64

    def trait(self, name: str) -> Float64:
        """What is particular to a device for ever: a number in [0, 1)."""
        return noise.uniform(self.site, _salt(name))

    def drift(self, name: str, minutes: int) -> Float64:
        """Noise of one sensor, in (-1, 1)."""
        return noise.smooth(noise.mix(self.key, _salt(name)), self.time, minutes * MINUTE)

    def local(self, name: str, minutes: int) -> Float64:
        """Noise that the sensors of a device share."""
        return noise.smooth(noise.mix(self.site, _salt(name)), self.time, minutes * MINUTE)

    def weather(self, name: str, minutes: int) -> Float64:
        """Noise that the whole city shares."""
        return noise.smooth(noise.mix(self.city, _salt(name)), self.time, minutes * MINUTE)


def sample(table: SeriesTable, series: Int64, time: Int64) -> Float64:
    """The values of series at given times.

    Parameters
    ----------
    table : SeriesTable
    series : (n,) int64
        Rows of the table; any order, repeats allowed.
    time : (n,) int64
        us since 1970 UTC.

    Returns
    -------
    (n,) float64
        In the unit of each series' metric; never NaN. Row i depends on (table, series[i], time[i]) alone.

    Raises
    ------
    ValueError
        The lengths differ, or a metric of the table has no model.
    """
    if series.shape != time.shape or series.ndim != 1:
        raise ValueError(f"series and time must be arrays of one length, not {series.shape} and {time.shape}")
    unknown = set(table.metrics) - MODELS.keys()
    if unknown:
        raise ValueError(f"no model for {', '.join(sorted(unknown))}")
    values = np.empty(len(time), np.float64)
    codes = table.metric[series]
    for code in np.unique(codes):
        here = np.flatnonzero(codes == code)
        rows, at = series[here], time[here]
        local = at + UTC_OFFSET
        values[here] = MODELS[table.metrics[code]](
            _At(
                time=at,
                hour=(local % DAY).astype(np.float64) / HOUR,
                weekend=((local // DAY + 3) % 7 >= 5).astype(np.float64),  # 1970-01-01 was a Thursday
                city=np.array([table.city], np.uint64),
                site=table.site[rows],
                key=table.key[rows],
                interval=table.interval[rows],
                rating=table.rating[rows],
            )
        )
    return values


@cache
def _salt(name: str) -> Keys:
    return np.array([noise.key(0, name)], np.uint64)


def _total(at: _At, hours: Float64, time: Int64) -> Float64:
    """Hours of full flow since the counters' start. The clock is warped by up to 10 minutes, too slowly to go back."""
    warp = np.rint(noise.smooth(noise.mix(at.key, _salt("flow")), time, HOUR) * (10 * MINUTE)).astype(np.int64)
    since = np.maximum(time + warp - COUNTERS_FROM, 0)
    week = since // WEEK
    x = (since - week * WEEK).astype(np.float64) / (WEEK // BINS)
    low = np.minimum(x.astype(np.int64), BINS - 1)
    total: Float64 = week * hours[-1] + (hours[low] + (x - low) * (hours[low + 1] - hours[low]))
    return total


# --- models ---------------------------------------------------------------------------------------------------------


def _busy(at: _At) -> Float64:
    return traffic(at.hour, at.weekend) * (0.7 + 0.5 * at.trait("road")) * (1.0 + 0.12 * at.local("queue", 12))


def _intensity(at: _At) -> Float64:
    return np.rint(75.0 * _busy(at)) * 12.0  # per lane; a detector counts for five minutes


def _speed(at: _At) -> Float64:
    free = 38.0 + 20.0 * at.trait("limit")
    return steps(np.maximum(free * (1.0 - 0.4 * np.minimum(_busy(at), 1.5)) + 2.0 * at.drift("speed", 6), 4.0), 10.0)


def _occupancy(at: _At) -> Float64:
    busy = _busy(at)
    return steps(np.minimum(0.01 + 0.08 * busy + 0.2 * busy * busy, 1.0), 1000.0)


def _headway(at: _At) -> Float64:
    return steps(np.minimum(3600.0 / np.maximum(_intensity(at), 12.0), 300.0), 10.0)


def _gap(at: _At) -> Float64:
    return steps(np.clip(_headway(at) * _speed(at) / 3.6 - 5.0, 0.0, 400.0), 10.0)  # a radar sees no farther


def _vehicle_count(at: _At) -> Float64:
    return np.floor(900.0 * (0.7 + 0.5 * at.trait("road")) * _total(at, TRAFFIC_HOURS, at.time))


def _travel_time(at: _At) -> Float64:
    busy = _busy(at)
    return np.rint((90.0 + 210.0 * at.trait("length")) * (1.0 + 0.7 * busy * busy + 0.05 * at.drift("travel", 20)))


def _people(per_hour: float) -> Callable[[_At], Float64]:
    def model(at: _At) -> Float64:
        return np.rint(per_hour * _busy(at) * (1.0 + 0.3 * at.drift("people", 30)) * at.interval / 3600.0)

    return model


def _spots(at: _At) -> Float64:
    capacity = np.where(np.isnan(at.rating), 100.0, at.rating)
    taken = 0.15 + 0.65 * bump(at.hour, 10.5, 5.5) + 0.6 * bump(at.hour, 19.0, 4.0) + 0.06 * at.drift("parked", 15)
    spots: Float64 = np.rint(capacity * np.clip(1.0 - taken, 0.0, 1.0))
    return spots


def _temperature(at: _At) -> Float64:
    warm = 25.0 + 6.0 * bump(at.hour, 14.0, 9.0) + 1.5 * at.weather("air", 1440) + at.trait("shade")
    return steps(warm + 0.2 * at.drift("draught", 10), 10.0)


def _humidity(at: _At) -> Float64:
    damp = 0.84 - 0.24 * bump(at.hour, 14.0, 9.0) + 0.06 * at.weather("damp", 720) + 0.01 * at.drift("damp", 15)
    return steps(np.clip(damp, 0.0, 1.0), 1000.0)


def _pressure(at: _At) -> Float64:
    tide = 1.2 * bump(at.hour, 10.0, 5.0) + 1.0 * bump(at.hour, 22.0, 5.0)
    return steps(1007.0 + 4.0 * at.weather("pressure", 2880) + tide + 0.5 * at.trait("height"), 10.0)


def _wind_speed(at: _At) -> Float64:
    sea = 2.5 + 2.5 * bump(at.hour, 14.0, 7.0) + 1.5 * at.weather("wind", 180)
    return steps(np.maximum(sea + 0.8 * at.drift("gust", 5), 0.0), 10.0)


def _wind_direction(at: _At) -> Float64:
    degrees = np.rint(90.0 + 80.0 * at.weather("sector", 360) + 20.0 * at.drift("vane", 5))
    turned: Float64 = degrees - 360.0 * np.floor(degrees / 360.0)
    return turned


def _precipitation(at: _At) -> Float64:
    shower = np.maximum(at.weather("rain", 120) - 0.75, 0.0) * 60.0 * (0.6 + 0.8 * at.trait("rain"))  # mm an hour
    return steps(shower * at.interval / 3600.0, 100.0)


def _clear(at: _At) -> Float64:
    return 0.72 + 0.2 * at.weather("cloud", 90) + 0.06 * at.local("cloud", 10)


def _solar(at: _At) -> Float64:
    return np.rint(980.0 * sun(at.hour) * _clear(at))


def _illuminance(at: _At) -> Float64:
    return np.rint(108_000.0 * sun(at.hour) * _clear(at))


def _dust(at: _At) -> Float64:
    """PM2.5 at a place: stoves and motorbikes, the still air of the morning, what the wind brings."""
    made = 9.0 * traffic(at.hour, at.weekend) + 8.0 * bump(at.hour, 6.5, 4.0)
    return (16.0 + made + 8.0 * at.weather("haze", 720)) * (0.75 + 0.5 * at.trait("dust")) + 1.2 * at.local("dust", 10)


def _pm25(at: _At) -> Float64:
    return steps(np.maximum(_dust(at), 1.0), 10.0)


def _pm10(at: _At) -> Float64:
    return steps(np.maximum(1.7 * _dust(at) + 1.0 * at.drift("coarse", 10), 1.0), 10.0)


def _gas(base: float, rush: float, noon: float, parts: float) -> Callable[[_At], Float64]:
    """A gas: its background, what traffic adds, what the sun adds; quantised to 1/parts."""

    def model(at: _At) -> Float64:
        busy = traffic(at.hour, at.weekend)
        level = base + rush * busy + noon * bump(at.hour, 14.0, 7.0)
        place = (0.75 + 0.5 * at.trait("street")) * (1.0 + 0.1 * at.local("street", 20))
        return steps(np.maximum(level * place, 0.0), parts)

    return model


def _co2(at: _At) -> Float64:
    made = 45.0 * traffic(at.hour, at.weekend) + 15.0 * bump(at.hour, 4.0, 6.0)
    return np.rint(418.0 + made + 4.0 * at.drift("co2", 10))


def _sound(at: _At) -> Float64:
    busy = traffic(at.hour, at.weekend)
    return steps(48.0 + 8.0 * at.trait("street") + 16.0 * busy / (busy + 0.25) + 2.5 * at.drift("sound", 2), 10.0)


def _water_level(at: _At) -> Float64:
    tide = 0.55 * wave(at.time, LUNAR_DAY) + 0.2 * wave(at.time, LUNAR_DAY // 2)
    return steps(0.9 + tide + 0.1 * at.weather("surge", 1440) + 0.01 * at.drift("ripple", 3), 100.0)


def _drawn(at: _At) -> Float64:
    """Share of its rating that a feeder draws."""
    return 0.7 * load(at.hour, at.weekend) * (0.75 + 0.4 * at.trait("load")) * (1.0 + 0.06 * at.local("load", 4))


def _voltage(at: _At) -> Float64:
    return steps(227.0 - 7.0 * load(at.hour, at.weekend) + 2.0 * at.trait("tap") + 1.2 * at.local("volt", 3), 10.0)


def _of_rating(share: float, default: float, parts: float) -> Callable[[_At], Float64]:
    def model(at: _At) -> Float64:
        return steps(share * np.where(np.isnan(at.rating), default, at.rating) * _drawn(at), parts)

    return model


def _frequency(at: _At) -> Float64:
    return steps(50.0 + 0.04 * at.weather("grid", 5) + 0.02 * at.weather("swing", 1), 100.0)


def _power_factor(at: _At) -> Float64:
    return steps(0.93 + 0.03 * at.local("phi", 30), 1000.0)


def _used(at: _At, time: Int64) -> Float64:
    """kW.h that a meter has counted; its rating is in kW."""
    rating = np.where(np.isnan(at.rating), 10.0, at.rating)
    return rating * 0.7 * (0.75 + 0.4 * at.trait("load")) * _total(at, LOAD_HOURS, time)


def _energy_import(at: _At) -> Float64:
    return np.floor(_used(at, at.time) * 100.0) / 100.0


def _energy_per_interval(at: _At) -> Float64:
    before = at.time - np.rint(at.interval * MICROSECOND).astype(np.int64)
    return steps(_used(at, at.time) - _used(at, before), 1000.0)


def _street_light(at: _At) -> Float64:
    late = 0.3 * at.trait("cell")  # hours; no two photocells agree
    dark = (at.hour < 5.5 - late) | (at.hour > 17.9 + late)
    return steps(np.where(dark, 60.0 + 90.0 * at.trait("lamp") + 1.5 * at.drift("lamp", 30), 0.4), 10.0)


def _water_used(at: _At) -> Float64:
    return np.floor((2.0 + 6.0 * at.trait("pipe")) * _total(at, WATER_HOURS, at.time) * 1000.0) / 1000.0


MODELS: Final[dict[str, Callable[[_At], Float64]]] = {
    "intensity": _intensity,
    "averageVehicleSpeed": _speed,
    "occupancy": _occupancy,
    "averageHeadwayTime": _headway,
    "averageGapDistance": _gap,
    "vehicleCount": _vehicle_count,
    "travelTime": _travel_time,
    "pedestrianCount": _people(400.0),
    "bicycleCount": _people(150.0),
    "availableSpotNumber": _spots,
    "temperature": _temperature,
    "relativeHumidity": _humidity,
    "atmosphericPressure": _pressure,
    "windSpeed": _wind_speed,
    "windDirection": _wind_direction,
    "precipitation": _precipitation,
    "solarRadiation": _solar,
    "illuminance": _illuminance,
    "pm25": _pm25,
    "pm10": _pm10,
    "no2": _gas(12.0, 30.0, 0.0, 10.0),
    "o3": _gas(35.0, -10.0, 65.0, 10.0),
    "co": _gas(0.3, 0.9, 0.0, 100.0),
    "so2": _gas(6.0, 5.0, 0.0, 10.0),
    "co2": _co2,
    "LAeq": _sound,
    "waterLevel": _water_level,
    "phaseVoltage": _voltage,
    "current": _of_rating(1.0, 100.0, 10.0),
    "frequency": _frequency,
    "totalActivePower": _of_rating(1.0, 10_000.0, 1.0),
    "totalReactivePower": _of_rating(0.3, 10_000.0, 1.0),
    "totalActiveEnergyImport": _energy_import,
    "activeEnergyPerInterval": _energy_per_interval,
    "totalPowerFactor": _power_factor,
    "streetlightPower": _street_light,
    "waterConsumption": _water_used,
}
