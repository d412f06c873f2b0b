"""The city that is simulated: which devices stand where, with what sensors. Built from a number and a seed, and from nothing else.

The default city is shaped like Quy Nhơn: its former wards as districts, with their approximate centres, and three domains
mixed as a city would: traffic 40 %, environment 25 %, energy 35 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from devices.catalogue import Domain
from devices.device import Device, Sensor, check_source
from simulator import noise
from simulator.signals import SeriesTable


@dataclass(frozen=True, kw_only=True, slots=True)
class District:
    """A part of the city; devices stand around its centre."""

    name: str
    latitude: float  # degrees north
    longitude: float  # degrees east


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceType:
    """What devices of one make have in common."""

    name: str  # for people, before a number
    prefix: str  # of the ids
    domain: Domain
    share: int  # how many of the domain's devices are of this type, relative to its other types
    sensors: tuple[Sensor, ...]
    ratings: tuple[float, ...] = ()  # what a device of this type is built for; one is chosen
    rated: tuple[tuple[str, float], ...] = ()  # metrics that declare the rating, and what it is multiplied by for them


@dataclass(frozen=True, kw_only=True, slots=True)
class City:
    """Devices, and their series as arrays. Device i has the series first[i] up to first[i + 1], in the order of its sensors."""

    devices: tuple[Device, ...]
    series: SeriesTable
    first: tuple[int, ...]  # one more than there are devices
    seed: int


DISTRICTS: Final = (
    District(name="Nhơn Bình", latitude=13.807, longitude=109.206),
    District(name="Nhơn Phú", latitude=13.791, longitude=109.180),
    District(name="Đống Đa", latitude=13.790, longitude=109.218),
    District(name="Trần Quang Diệu", latitude=13.785, longitude=109.152),
    District(name="Hải Cảng", latitude=13.780, longitude=109.252),
    District(name="Quang Trung", latitude=13.764, longitude=109.199),
    District(name="Trần Phú", latitude=13.772, longitude=109.223),
    District(name="Thị Nại", latitude=13.782, longitude=109.231),
    District(name="Bùi Thị Xuân", latitude=13.729, longitude=109.165),
    District(name="Nguyễn Văn Cừ", latitude=13.757, longitude=109.215),
    District(name="Ghềnh Ráng", latitude=13.715, longitude=109.208),
    District(name="Ngô Mây", latitude=13.769, longitude=109.215),
)
#: Degrees that a device stands away from its district's centre, at most: about 700 m.
SPREAD: Final = 0.0065
#: Of twenty devices, in this order, so that any twenty in a row are mixed as the city is.
_MIX: Final = "TVTNTVNTNVTNTVNTNVTN"
_DOMAINS: Final = {"T": Domain.TRAFFIC, "V": Domain.ENVIRONMENT, "N": Domain.ENERGY}


def _sensors(interval: float, *metrics: str) -> tuple[Sensor, ...]:
    return tuple(Sensor(metric=metric, interval=interval) for metric in metrics)


TYPES: Final = (
    DeviceType(
        name="Junction detector",
        prefix="trf",
        domain=Domain.TRAFFIC,
        share=5,
        sensors=_sensors(60, "intensity", "averageVehicleSpeed", "occupancy", "vehicleCount"),
    ),
    DeviceType(
        name="Lane radar",
        prefix="trf",
        domain=Domain.TRAFFIC,
        share=2,
        sensors=_sensors(60, "intensity", "averageVehicleSpeed", "occupancy", "averageHeadwayTime", "averageGapDistance"),
    ),
    DeviceType(
        name="Road section",
        prefix="trf",
        domain=Domain.TRAFFIC,
        share=1,
        sensors=(*_sensors(300, "travelTime"), *_sensors(60, "averageVehicleSpeed")),
    ),
    DeviceType(
        name="Promenade counter",
        prefix="trf",
        domain=Domain.TRAFFIC,
        share=1,
        sensors=(*_sensors(900, "pedestrianCount", "bicycleCount"), *_sensors(60, "LAeq")),
    ),
    DeviceType(
        name="Car park",
        prefix="trf",
        domain=Domain.TRAFFIC,
        share=1,
        sensors=(*_sensors(300, "availableSpotNumber"), *_sensors(60, "vehicleCount")),
        ratings=(60, 120, 250),
        rated=(("availableSpotNumber", 1.0),),
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
    ),
    DeviceType(
        name="Noise meter",
        prefix="env",
        domain=Domain.ENVIRONMENT,
        share=1,
        sensors=(*_sensors(10, "LAeq"), *_sensors(60, "illuminance")),
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
    ),
)


def build(*, devices: int, gateways: Sequence[str], seed: int, interval_scale: float = 1.0) -> City:
    """Lay out a city.

    Parameters
    ----------
    devices : int
        How many. The first devices of a larger city are those of a smaller one, except for the gateway of each.
    gateways : sequence of str
        The sources that devices publish through; each takes the devices of some districts, as gateways do.
    seed : int
        Two cities of one seed are equal.
    interval_scale : float
        What the sensors' intervals are multiplied by, as declared and as sent: below 1 for a busier demonstration.

    Returns
    -------
    City

    Raises
    ------
    ValueError
        `devices` is negative, there is no gateway, one stands twice, or `interval_scale` is not above 0.
    devices.errors.DeviceError
        A gateway's name is no source's name.

    Examples
    --------
    >>> [device.id for device in build(devices=3, gateways=["gw-1"], seed=7).devices]
    ['trf-00001', 'env-00001', 'trf-00002']
    """
    if devices < 0:
        raise ValueError(f"a city cannot have {devices} devices")
    if not interval_scale > 0:
        raise ValueError(f"intervals cannot be multiplied by {interval_scale}")
    if not gateways or len(set(gateways)) != len(gateways):
        raise ValueError("a city needs gateways with different names")
    for gateway in gateways:
        check_source(gateway)
    counts = dict.fromkeys((type_.prefix for type_ in TYPES), 0)
    city: list[Device] = []
    for i in range(devices):
        domain = _DOMAINS[_MIX[i % len(_MIX)]]
        kind = _pick(seed, domain, i)
        counts[kind.prefix] += 1
        city.append(_device(kind, number=counts[kind.prefix], gateways=gateways, seed=seed, scale=interval_scale))
    first = [0]
    for device in city:
        first.append(first[-1] + len(device.sensors))
    return City(devices=tuple(city), series=_series(city, seed), first=tuple(first), seed=seed)


def _pick(seed: int, domain: Domain, i: int) -> DeviceType:
    """The type of a device: of the first devices each type once, then by share."""
    types = [type_ for type_ in TYPES if type_.domain is domain]
    if i < len(_MIX):
        return types[_MIX[:i].count(_MIX[i]) % len(types)]
    chance = noise.key(seed, "type", i) % sum(type_.share for type_ in types)
    for type_ in types:
        chance -= type_.share
        if chance < 0:
            break
    return type_


def _device(kind: DeviceType, *, number: int, gateways: Sequence[str], seed: int, scale: float) -> Device:
    ident = f"{kind.prefix}-{number:05}"
    draw = noise.uniform(np.array([noise.key(seed, "place", ident)], np.uint64), np.arange(5))
    chosen = int(draw[0] * len(DISTRICTS))
    district = DISTRICTS[chosen]
    rating = kind.ratings[int(draw[3] * len(kind.ratings))] if kind.ratings else None
    factors = dict(kind.rated)
    sensors = tuple(
        replace(
            sensor,
            interval=None if sensor.interval is None else sensor.interval * scale,
            rating=rating * factors[sensor.metric] if rating is not None and sensor.metric in factors else None,
        )
        for sensor in kind.sensors
    )
    # A district's devices share a gateway while there are fewer gateways than districts; then they spread over several.
    gateway = gateways[(chosen + int(draw[4] * max(1, len(gateways) // len(DISTRICTS))) * len(DISTRICTS)) % len(gateways)]
    return Device(
        id=ident,
        source=gateway,
        domain=kind.domain,
        sensors=sensors,
        name=f"{kind.name} {district.name} {number}",
        latitude=round(district.latitude + SPREAD * (2.0 * float(draw[1]) - 1.0), 6),
        longitude=round(district.longitude + SPREAD * (2.0 * float(draw[2]) - 1.0), 6),
        district=district.name,
        tags={"type": kind.name, "simulated": "yes"},
    )


def _series(devices: Sequence[Device], seed: int) -> SeriesTable:
    metrics = tuple(sorted({sensor.metric for device in devices for sensor in device.sensors}))
    code = {metric: i for i, metric in enumerate(metrics)}
    pairs = [(device, sensor) for device in devices for sensor in device.sensors]
    return SeriesTable(
        city=noise.key(seed, "city"),
        metrics=metrics,
        metric=np.array([code[sensor.metric] for _, sensor in pairs], np.int16),
        site=np.array([noise.key(seed, device.id) for device, _ in pairs], np.uint64),
        key=np.array([noise.key(seed, device.id, sensor.metric) for device, sensor in pairs], np.uint64),
        interval=np.array([sensor.interval for _, sensor in pairs], np.float64),
        rating=np.array([np.nan if sensor.rating is None else sensor.rating for _, sensor in pairs], np.float64),
    )
