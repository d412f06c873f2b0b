"""Models of metrics: of the thing itself, and of what a common sensor makes of it.

A model takes an `At` and returns values in the catalogue's unit; then the sensor adds its noise, stops at the ends of its range,
and rounds to its resolution. The law of `simulator.city.noise` holds. Values stay within the catalogue's suspect range, and change
less than its step limits allow, also in a thunderstorm: a test holds that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from citybeat.devices.batch import MICROSECOND, Float64, Int64
from citybeat.simulator.city import noise, shapes
from citybeat.simulator.city.at import At
from citybeat.simulator.city.shapes import bump, steps, sun, wave

#: us. From one passage of the moon to the next.
LUNAR_DAY: Final = 89_428_328_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """Model of a metric's values, and of its sensors."""

    value: Callable[[At], Float64]
    parts: float = 0.0  # the sensor's resolution is 1/parts of the unit; 0: the model rounds itself
    noise: float = 0.0  # of the sensor, standard deviation, in the unit
    low: float = -np.inf  # where the sensor's range ends
    high: float = np.inf

    def sense(self, at: At) -> Float64:
        """Return the values that the sensor shows."""
        value = self.value(at)
        if self.noise:
            value = value + self.noise * noise.rough(at.key, at.time)
        value = np.clip(value, self.low, self.high)
        return steps(value, self.parts) if self.parts else value


def _intensity(at: At) -> Float64:
    """Vehicles per lane; a detector counts for five minutes."""
    mean = 75.0 * at.busy
    return np.maximum(np.rint(mean + 0.5 * np.sqrt(mean) * at.moment("vehicles")), 0.0) * 12.0


def _speed(at: At) -> Float64:
    free = (38.0 + 20.0 * at.trait("limit")) * (1.0 - 0.12 * at.rained(4.0))
    return free * (1.0 - 0.4 * np.minimum(at.busy, 1.5)) + 2.0 * at.local("speed", 6)


def _occupancy(at: At) -> Float64:
    return 0.01 + 0.08 * at.busy + 0.2 * at.busy * at.busy


def _headway(at: At) -> Float64:
    return steps(np.minimum(3600.0 / np.maximum(_intensity(at), 12.0), 300.0), 10.0)


def _gap(at: At) -> Float64:
    return np.clip(_headway(at) * np.maximum(_speed(at), 4.0) / 3.6 - 5.0, 0.0, 400.0)  # a radar sees no farther


def _vehicle_count(at: At) -> Float64:
    return at.register(900.0 * at.width * at.counted(at.table.almanac.vehicles, at.time), 1.0)


def _travel_time(at: At) -> Float64:
    slow = (1.0 + 0.7 * at.busy * at.busy) * (1.0 + 0.1 * at.rained(4.0)) + 0.05 * at.drift("travel", 20)
    return (90.0 + 210.0 * at.trait("length")) * slow


def _people(per_hour: float) -> Callable[[At], Float64]:
    def model(at: At) -> Float64:
        out = per_hour * shapes.crowd(at.hour, at.kind) * (0.5 + at.trait("walk"))
        share = (1.0 + 0.25 * at.field("walk", 1.5, 30)) * (1.0 - 0.7 * at.rained(1.5)) + 0.05 * at.moment("walk")
        return np.maximum(out * share, 0.0) * at.interval / 3600.0

    return model


def _spots(at: At) -> Float64:
    capacity = np.where(np.isnan(at.rating), 100.0, at.rating)
    taken = shapes.parked(at.hour, at.kind) + 0.06 * at.drift("parked", 15)
    spots: Float64 = np.rint(capacity * np.clip(1.0 - taken, 0.0, 1.0))
    return spots


def _temperature(at: At) -> Float64:
    day = (6.5 - 3.5 * at.cloud) * (bump(at.hour, 14.0, 9.0) - 0.38)
    place = 0.8 * at.field("air", 1.5, 90) + at.trait("shade") + 0.2 * at.drift("draught", 10)
    return at.warm + day - 2.0 * at.rained(3.0) + place


def _humidity(at: At) -> Float64:
    day = 0.2 * (bump(at.hour, 14.0, 9.0) - 0.38) * (1.0 - 0.5 * at.cloud)
    air = 0.06 * at.weather("damp", 720) + 0.015 * at.field("damp", 1.5, 60)
    return np.clip(
        0.79 - day + air + 0.05 * at.wet + 0.12 * at.rained(2.0), 0.3, 0.983
    )  # 0.983: so that noise moves it in a fog too


def _pressure(at: At) -> Float64:
    tide = 1.2 * bump(at.hour, 10.0, 5.0) + 1.0 * bump(at.hour, 22.0, 5.0)
    return 1009.0 + 4.0 * at.weather("pressure", 2880) - 1.5 * at.wet + tide + 0.5 * at.trait("height")


def _wind_speed(at: At) -> Float64:
    return at.wind * (0.7 + 0.4 * at.trait("open")) + 0.4 * at.drift("gust", 5)


def _wind_direction(at: At) -> Float64:
    noise_ = 12.0 * at.drift("vane", 5) + 4.0 * at.moment("vane")
    degrees = np.rint(90.0 + 80.0 * at.weather("sector", 360) + 15.0 * at.field("sector", 4.0, 30) + noise_)
    turned: Float64 = degrees - 360.0 * np.floor(degrees / 360.0)
    return turned


def _precipitation(at: At) -> Float64:
    return at.rain * (0.85 + 0.3 * at.trait("funnel")) * at.interval / 3600.0


def _clear(at: At) -> Float64:
    return (1.0 - 0.75 * at.cloud * at.cloud) * (0.97 + 0.03 * at.local("cloud", 10))


def _light(full: float) -> Callable[[At], Float64]:
    def model(at: At) -> Float64:
        return full * sun(at.hour) * _clear(at) * (1.0 + 0.002 * at.moment("light"))

    return model


def _washed(at: At) -> Float64:
    """Share of pollutants that rain and wind leave in the air, about 0.3 to 1.3."""
    return (1.3 - 0.09 * np.minimum(at.wind, 6.0)) * (1.0 - 0.25 * at.wet - 0.35 * at.rained(2.0))


def _dust(at: At) -> Float64:
    """PM2.5 at a place: stoves and motorbikes, the still air of the morning, what the wind brings and the rain takes."""
    made = 10.0 * shapes.traffic(at.hour, at.kind) + 8.0 * bump(at.hour, 6.5, 4.0)
    haze = 8.0 * at.weather("haze", 720) + 5.0 * at.field("haze", 2.5, 120)
    return (17.0 + made + haze) * (0.75 + 0.5 * at.trait("dust")) * _washed(at) + 1.2 * at.local("dust", 10)


def _pm10(at: At) -> Float64:
    return 1.7 * _dust(at) + 1.0 * at.drift("coarse", 10)


def _gas(base: float, rush: float, noon: float) -> Callable[[At], Float64]:
    """A gas: its background, what traffic adds, what the sun adds."""

    def model(at: At) -> Float64:
        sunny = noon * bump(at.hour, 14.0, 7.0) * (1.0 - 0.5 * at.cloud)
        place = (0.75 + 0.5 * at.trait("street")) * (1.0 + 0.12 * at.field("street", 1.0, 20))
        return (base + rush * shapes.traffic(at.hour, at.kind) + sunny) * place * (0.4 + 0.6 * _washed(at))

    return model


def _co2(at: At) -> Float64:
    made = 45.0 * shapes.traffic(at.hour, at.kind) + 15.0 * bump(at.hour, 4.0, 6.0)
    return 418.0 + made * _washed(at) + 4.0 * at.field("co2", 1.0, 10)


def _sound(at: At) -> Float64:
    weather = 7.0 * at.rained(6.0) + 1.2 * np.maximum(at.wind - 4.0, 0.0)
    return 46.0 + 6.0 * at.trait("street") + 16.0 * at.busy / (at.busy + 0.25) + weather + 2.5 * at.drift("sound", 2)


def _water_level(at: At) -> Float64:
    tide = 0.55 * wave(at.time, LUNAR_DAY) + 0.2 * wave(at.time, LUNAR_DAY // 2)
    return 0.9 + tide + 0.1 * at.weather("surge", 1440) + 0.35 * at.wet + 0.01 * at.drift("ripple", 3)


def _voltage(at: At) -> Float64:
    return 228.0 - 7.0 * at.load() + 2.0 * at.trait("tap") + 1.2 * at.station("volt", 3) + 0.3 * at.local("volt", 3)


def _of_rating(share: float, default: float) -> Callable[[At], Float64]:
    def model(at: At) -> Float64:
        return share * np.where(np.isnan(at.rating), default, at.rating) * at.drawn

    return model


def _frequency(at: At) -> Float64:
    return 50.0 + 0.04 * at.weather("grid", 5) + 0.02 * at.weather("swing", 1)


def _used(at: At, time: Int64) -> Float64:
    """Return the kW.h that a meter has counted; its rating is in kW."""
    rating = np.where(np.isnan(at.rating), 10.0, at.rating)
    return rating * at.share * at.counted(at.table.almanac.power, time)


def _energy_import(at: At) -> Float64:
    return at.register(_used(at, at.time), 1000.0)


def _energy_per_interval(at: At) -> Float64:
    before = at.time - np.rint(at.interval * MICROSECOND).astype(np.int64)
    return _used(at, at.time) - _used(at, before)


def _street_light(at: At) -> Float64:
    late = 0.3 * at.trait("cell") - 0.3 * at.cloud  # hours; no two photocells agree, and clouds make it dark early
    dark = (at.hour < 5.5 - late) | (at.hour > 17.9 + late)
    return np.where(dark, 60.0 + 90.0 * at.trait("lamp") + 1.5 * at.drift("lamp", 30), 0.4)


def _water_used(at: At) -> Float64:
    return at.register((2.0 + 6.0 * at.trait("pipe")) * at.counted(at.table.almanac.water, at.time), 1000.0)


MODELS: Final[dict[str, Model]] = {
    "intensity": Model(value=_intensity),
    "averageVehicleSpeed": Model(value=_speed, parts=10, noise=0.3, low=4.0),
    "occupancy": Model(value=_occupancy, parts=1000, noise=0.002, low=0.0, high=1.0),
    "averageHeadwayTime": Model(value=_headway),
    "averageGapDistance": Model(value=_gap, parts=10),
    "vehicleCount": Model(value=_vehicle_count),
    "travelTime": Model(value=_travel_time, parts=1, noise=0.5, low=1.0),
    "pedestrianCount": Model(value=_people(400.0), parts=1),
    "bicycleCount": Model(value=_people(150.0), parts=1),
    "availableSpotNumber": Model(value=_spots),
    "temperature": Model(value=_temperature, parts=10, noise=0.05),
    "relativeHumidity": Model(value=_humidity, parts=1000, noise=0.003, low=0.0, high=1.0),
    "atmosphericPressure": Model(value=_pressure, parts=10, noise=0.02),
    "windSpeed": Model(value=_wind_speed, parts=10, noise=0.06, low=0.0),
    "windDirection": Model(value=_wind_direction),
    "precipitation": Model(value=_precipitation, parts=100),
    "solarRadiation": Model(value=_light(980.0), parts=1),
    "illuminance": Model(value=_light(108_000.0), parts=1),
    "pm25": Model(value=lambda at: np.maximum(_dust(at), 1.0), parts=10, noise=0.25, low=0.0),
    "pm10": Model(value=lambda at: np.maximum(_pm10(at), 1.0), parts=10, noise=0.25, low=0.0),
    "no2": Model(value=_gas(12.0, 30.0, 0.0), parts=10, noise=0.25, low=0.0),
    "o3": Model(value=_gas(35.0, -10.0, 65.0), parts=10, noise=0.25, low=0.0),
    "co": Model(value=_gas(0.3, 0.9, 0.0), parts=100, noise=0.01, low=0.0),
    "so2": Model(value=_gas(6.0, 5.0, 0.0), parts=10, noise=0.2, low=0.0),
    "co2": Model(value=_co2, parts=1, noise=0.8),
    "LAeq": Model(value=_sound, parts=10, noise=0.3, low=30.0, high=130.0),
    "waterLevel": Model(value=_water_level, parts=100, noise=0.001),
    "phaseVoltage": Model(value=_voltage, parts=10, noise=0.1),
    "current": Model(value=_of_rating(1.0, 100.0), parts=10, noise=0.05, low=0.0),
    "frequency": Model(value=_frequency, parts=100, noise=0.002),
    "totalActivePower": Model(value=_of_rating(1.0, 10_000.0), parts=1, noise=2.0, low=0.0),
    "totalReactivePower": Model(value=_of_rating(0.3, 10_000.0), parts=1, noise=2.0, low=0.0),
    "totalActiveEnergyImport": Model(value=_energy_import),
    "activeEnergyPerInterval": Model(value=_energy_per_interval, parts=1000),
    "totalPowerFactor": Model(value=lambda at: 0.93 + 0.03 * at.local("phi", 30), parts=1000, noise=0.001),
    "streetlightPower": Model(value=_street_light, parts=10, noise=0.05, low=0.0),
    "waterConsumption": Model(value=_water_used),
}
