"""Makes of devices in a simulated city: the metrics of each, its interval, and the range of its registers."""

from dataclasses import dataclass, replace
from typing import Final

from citybeat.devices.catalogue import Domain
from citybeat.devices.device import Sensor


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceType:
    """Properties that devices of one make have in common."""

    name: str  # the tag `type` of its devices, and what scenarios call it
    prefix: str  # of the ids
    domain: Domain
    share: int  # how many of the domain's devices are of this type, relative to its other types
    sensors: tuple[Sensor, ...]
    ratings: tuple[float, ...] = ()  # what a device of this type is built for; one is chosen
    rated: tuple[tuple[str, float], ...] = ()  # metrics that declare the rating, and what it is multiplied by for them
    #: Counters, and the first number that each cannot show: there it starts again at 0, as registers of real meters do.
    registers: tuple[tuple[str, float], ...] = ()
    at_road: bool = False  # it stands at a road; else anywhere in its district
    jitter: float = 0.0  # how late a report is at most, as a share of the interval between reports: 0 up to and without 1


#: A counter of six wheels: after 999,999 it shows 0.
SIX_DIGITS: Final = 1e6
#: A small one, of five; a meter of water too: 99,999.999 m3.
FIVE_DIGITS: Final = 1e5
#: kW.h. Energy in whole watt-hours, in an unsigned register of 32 bits.
WATT_HOURS_32: Final = 2.0**32 / 1000.0


def _sensors(interval: float, *metrics: str) -> tuple[Sensor, ...]:
    return tuple(Sensor(metric=metric, interval=interval) for metric in metrics)


TYPES: Final = (
    DeviceType(
        name="Junction detector",
        prefix="trf",
        domain=Domain.TRAFFIC,
        share=5,
        sensors=_sensors(60, "intensity", "averageVehicleSpeed", "occupancy", "vehicleCount"),
        at_road=True,
        registers=(("vehicleCount", SIX_DIGITS),),
    ),
    DeviceType(
        name="Lane radar",
        prefix="trf",
        domain=Domain.TRAFFIC,
        share=2,
        sensors=_sensors(60, "intensity", "averageVehicleSpeed", "occupancy", "averageHeadwayTime", "averageGapDistance"),
        at_road=True,
    ),
    DeviceType(
        name="Road section",
        prefix="trf",
        domain=Domain.TRAFFIC,
        share=1,
        sensors=(*_sensors(300, "travelTime"), *_sensors(60, "averageVehicleSpeed")),
        at_road=True,
    ),
    DeviceType(
        name="Promenade counter",
        prefix="trf",
        domain=Domain.TRAFFIC,
        share=1,
        sensors=(*_sensors(900, "pedestrianCount", "bicycleCount"), *_sensors(60, "LAeq")),
        at_road=True,
    ),
    DeviceType(
        name="Car park",
        prefix="trf",
        domain=Domain.TRAFFIC,
        share=1,
        sensors=(*_sensors(300, "availableSpotNumber"), *_sensors(60, "vehicleCount")),
        ratings=(60, 120, 250),
        rated=(("availableSpotNumber", 1.0),),
        registers=(("vehicleCount", FIVE_DIGITS),),
    ),
    DeviceType(
        name="Air station",
        prefix="env",
        domain=Domain.ENVIRONMENT,
        share=4,
        sensors=_sensors(60, "pm25", "pm10", "no2", "o3", "temperature", "relativeHumidity"),
    ),
    DeviceType(
        name="Weather mast",
        prefix="env",
        domain=Domain.ENVIRONMENT,
        share=2,
        sensors=_sensors(60, "temperature", "atmosphericPressure", "windSpeed", "windDirection", "precipitation", "solarRadiation"),
    ),
    DeviceType(
        name="Kerbside monitor",
        prefix="env",
        domain=Domain.ENVIRONMENT,
        share=2,
        sensors=_sensors(60, "co", "so2", "no2", "co2", "LAeq"),
        at_road=True,
    ),
    DeviceType(
        name="Noise meter",
        prefix="env",
        domain=Domain.ENVIRONMENT,
        share=1,
        sensors=(*_sensors(10, "LAeq"), *_sensors(60, "illuminance")),
        at_road=True,
    ),
    DeviceType(
        name="Water gauge",
        prefix="env",
        domain=Domain.ENVIRONMENT,
        share=1,
        sensors=_sensors(60, "waterLevel", "precipitation"),
    ),
    DeviceType(
        name="Feeder",
        prefix="nrg",
        domain=Domain.ENERGY,
        share=4,
        sensors=(
            *_sensors(10, "phaseVoltage", "current", "frequency", "totalActivePower", "totalReactivePower"),
            *_sensors(900, "totalActiveEnergyImport"),
        ),
        ratings=(20_000, 50_000, 100_000),  # W
        rated=(
            ("current", 0.005),  # A at 220 V and a power factor of 0.9
            ("totalActivePower", 1.0),
            ("totalReactivePower", 1.0),
            ("totalActiveEnergyImport", 0.001),
        ),
        registers=(("totalActiveEnergyImport", WATT_HOURS_32),),
    ),
    DeviceType(
        name="Building meter",
        prefix="nrg",
        domain=Domain.ENERGY,
        share=3,
        sensors=(*_sensors(60, "totalActivePower", "totalPowerFactor"), *_sensors(1800, "activeEnergyPerInterval")),
        ratings=(5_000, 15_000, 40_000),  # W
        rated=(("totalActivePower", 1.0), ("activeEnergyPerInterval", 0.001)),
    ),
    DeviceType(
        name="Street light cabinet",
        prefix="nrg",
        domain=Domain.ENERGY,
        share=2,
        sensors=(*_sensors(300, "streetlightPower"), *_sensors(60, "phaseVoltage")),
    ),
    DeviceType(
        name="Water main",
        prefix="nrg",
        domain=Domain.ENERGY,
        share=1,
        sensors=(*_sensors(900, "waterConsumption"), *_sensors(300, "temperature")),
        registers=(("waterConsumption", FIVE_DIGITS),),
    ),
)

BY_NAME: Final = {type_.name: type_ for type_ in TYPES}


def scaled(make: DeviceType, scale: float) -> DeviceType:
    """Return the same make with intervals so many times as long."""
    if scale == 1.0:
        return make
    sensors = (replace(sensor, interval=None if sensor.interval is None else sensor.interval * scale) for sensor in make.sensors)
    return replace(make, sensors=tuple(sensors))
