"""Layout of a simulated city: its devices, their positions and their sensors. Built from numbers and a seed, and from nothing else.

The default city is shaped like Quy Nhơn: its former wards as districts, with their approximate centres, and three domains
mixed as a city would: traffic 40 %, environment 25 %, energy 35 %.

A city of a million devices is arrays; a `Device` is made on request. A device depends on the seed and on its
number alone, so that a larger city has the devices of a smaller one, and more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Final, overload

import numpy as np

from citybeat.devices.batch import Float64, Int16, Int32, Int64
from citybeat.devices.catalogue import Domain
from citybeat.devices.device import Device, check_source
from citybeat.simulator.city import holidays as days
from citybeat.simulator.city import noise, streets
from citybeat.simulator.city.almanac import Almanac
from citybeat.simulator.city.at import SeriesTable
from citybeat.simulator.city.makes import TYPES, DeviceType, scaled
from citybeat.simulator.city.noise import Keys
from citybeat.simulator.city.shapes import steps
from citybeat.simulator.city.streets import DISTRICTS, SPREAD, STATIONS, District

#: Of twenty devices, in this order, so that any twenty in a row are mixed as the city is.
_MIX: Final = "TVTNTVNTNVTNTVNTNVTN"
_DOMAINS: Final = {"T": Domain.TRAFFIC, "V": Domain.ENVIRONMENT, "N": Domain.ENERGY}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gateway:
    """A source that devices publish through."""

    name: str
    districts: tuple[str, ...] = ()  # that it serves; none: those that no other gateway names


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class City:
    """d devices as arrays, and their s series. Device i has the series first[i] up to first[i + 1], in the order of its sensors."""

    seed: int
    types: tuple[DeviceType, ...]
    districts: tuple[District, ...]
    roads: tuple[str, ...]
    gateways: tuple[str, ...]
    type: Int16  # (d,) which of the types
    number: Int32  # (d,) of the id, from 1 on, among those with the type's prefix
    district: Int16  # (d,)
    gateway: Int16  # (d,)
    latitude: Float64  # (d,) degrees north
    longitude: Float64  # (d,) degrees east
    rating: Float64  # (d,) what it is built for; NaN: that says nothing
    first: Int64  # (d + 1,)
    series: SeriesTable

    def __len__(self) -> int:
        return len(self.number)

    @property
    def devices(self) -> "Devices":
        """Devices, for registration."""
        return Devices(self, range(len(self)))

    @property
    def sources(self) -> tuple[str, ...]:
        """Gateways that devices publish through, in order of their names."""
        return tuple(sorted(self.gateways[number] for number in np.unique(self.gateway).tolist()))

    def id(self, index: int) -> str:
        """Return the id of a device."""
        return f"{self.types[self.type[index]].prefix}-{self.number[index]:05}"

    def source(self, index: int) -> str:
        """Return the gateway that a device publishes through."""
        return self.gateways[int(self.gateway[index])]

    def device(self, index: int) -> Device:
        """Make a device, for registration."""
        kind, district = self.types[self.type[index]], self.districts[self.district[index]]
        rating, factors = float(self.rating[index]), dict(kind.rated)
        place = {"road": self.roads[self.series.road[index]]} if kind.at_road else {}
        if kind.domain is Domain.ENERGY:
            place["station"] = f"{district.name} {self.series.station[index] % STATIONS + 1}"
        return Device(
            id=self.id(index),
            source=self.source(index),
            domain=kind.domain,
            sensors=tuple(
                replace(sensor, rating=rating * factors[sensor.metric]) if sensor.metric in factors else sensor
                for sensor in kind.sensors
            ),
            name=f"{kind.name} {district.name} {self.number[index]}",
            latitude=float(self.latitude[index]),
            longitude=float(self.longitude[index]),
            district=district.name,
            tags={"type": kind.name, **place, "simulated": "yes"},
        )


class Devices(Sequence[Device]):
    """Devices of a city, each made when it is accessed."""

    def __init__(self, city: City, rows: range) -> None:
        self._city = city
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Device: ...

    @overload
    def __getitem__(self, index: slice) -> "Devices": ...

    def __getitem__(self, index: int | slice) -> "Device | Devices":
        if isinstance(index, slice):
            return Devices(self._city, self._rows[index])
        return self._city.device(self._rows[index])

    def __iter__(self) -> Iterator[Device]:
        return (self._city.device(row) for row in self._rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of any sequence that is equal to a list


def build(
    *,
    devices: int | Mapping[str, int],
    gateways: Sequence[str | Gateway],
    seed: int,
    interval_scale: float = 1.0,
    districts: Sequence[District] = DISTRICTS,
    types: Sequence[DeviceType] = TYPES,
    mix: Mapping[str, float] | None = None,
    holidays: Mapping[date, days.DayKind] | None = None,
) -> City:
    """Lay out a city.

    Parameters
    ----------
    devices : int or mapping
        How many, mixed as the city is; or how many of each type, by its name. The first devices of a larger city are those of a
        smaller one, except for the gateway of each.
    gateways : sequence of str or Gateway
        The sources that devices publish through; each takes the devices of some districts, as gateways do.
    seed : int
        Two cities of one seed are equal.
    interval_scale : float
        Factor of the sensors' intervals, as declared and as sent: below 1 for a busier demonstration.
    districts : sequence of District
        Districts; devices stand around their centres.
    types : sequence of DeviceType
        Makes of devices to choose from.
    mix : mapping, optional
        Relative number of devices of each type, by its name; types that are not named do not occur.
    holidays : mapping, optional
        Kind of day by date; Vietnam's public holidays, unless given.

    Returns
    -------
    City

    Raises
    ------
    ValueError
        A number is negative or not above 0 where it must be; a name stands twice, or means nothing; a district has no gateway.
    devices.errors.DeviceError
        A gateway's name is no source's name.

    Examples
    --------
    >>> [device.id for device in build(devices=3, gateways=["gw-1"], seed=7).devices]
    ['trf-00001', 'env-00001', 'trf-00002']
    """
    if not interval_scale > 0:
        raise ValueError(f"intervals cannot be multiplied by {interval_scale}")
    makes = tuple(scaled(type_, interval_scale) for type_ in types)
    if not districts or len({district.name for district in districts}) != len(districts):
        raise ValueError("a city needs districts with different names")
    served = _served([Gateway(name=each) if isinstance(each, str) else each for each in gateways], districts)
    type_ = _types_by_count(makes, devices) if isinstance(devices, Mapping) else _types(makes, devices, mix, seed)
    prefixes = np.array([list(dict.fromkeys(make.prefix for make in makes)).index(make.prefix) for make in makes], np.int64)
    number = np.empty(len(type_), np.int32)
    for prefix in np.unique(prefixes).tolist():
        here = np.flatnonzero(prefixes[type_] == prefix)
        number[here] = np.arange(1, len(here) + 1)
    roots = np.array([noise.key(seed, "device", make.prefix) for make in makes], np.uint64)
    site = noise.mix(roots[type_], number.astype(np.int64))
    place = _Places.made(site, makes, type_, districts, seed)
    ratings = np.full((len(makes), max(len(make.ratings) for make in makes) or 1), np.nan)
    for i, make in enumerate(makes):
        ratings[i, : len(make.ratings)] = make.ratings
    count = np.array([len(make.ratings) for make in makes], np.int64)[type_]
    gateway = _draw(site, "gateway")
    several = np.array([len(of) for of in served], np.int64)[place.district]
    table = np.array([of + [0] * (max(map(len, served)) - len(of)) for of in served], np.int16)
    rating = ratings[type_, np.floor(_draw(site, "rating") * count).astype(np.int64)]
    first, series = _series(seed, makes, type_, rating, site, place, days.vietnam() if holidays is None else holidays)
    return City(
        seed=seed,
        types=makes,
        districts=tuple(districts),
        roads=place.streets.roads,
        gateways=tuple(each if isinstance(each, str) else each.name for each in gateways),
        type=type_,
        number=number,
        district=place.district.astype(np.int16),
        gateway=table[place.district, np.floor(gateway * several).astype(np.int64)],
        latitude=place.latitude,
        longitude=place.longitude,
        rating=rating,
        first=first,
        series=series,
    )


def _served(gateways: Sequence[Gateway], districts: Sequence[District]) -> list[list[int]]:
    """Assign gateways to districts."""
    names = [gateway.name for gateway in gateways]
    if not gateways or len(set(names)) != len(names):
        raise ValueError("a city needs gateways with different names")
    for gateway in gateways:
        check_source(gateway.name)
    known = [district.name for district in districts]
    for gateway in gateways:
        for name in gateway.districts:
            if name not in known:
                raise ValueError(f"gateway {gateway.name!r} serves district {name!r}, which there is not")
    named = {name for gateway in gateways for name in gateway.districts}
    rest = [i for i, gateway in enumerate(gateways) if not gateway.districts]
    free = [name for name in known if name not in named]
    served = [[i for i, gateway in enumerate(gateways) if name in gateway.districts] for name in known]
    for turn, name in enumerate(free):
        # A gateway takes whole districts while there are fewer gateways than districts; then a district has several.
        mine = [i for k, i in enumerate(rest) if k % len(free) == turn] or [rest[turn % len(rest)]] if rest else []
        served[known.index(name)] = mine
    for name, of in zip(known, served, strict=True):
        if not of:
            raise ValueError(f"no gateway serves district {name!r}")
    return served


def _types(makes: Sequence[DeviceType], devices: int, mix: Mapping[str, float] | None, seed: int) -> Int16:
    """Choose the type of each device when only the number of devices is given."""
    if devices < 0:
        raise ValueError(f"a city cannot have {devices} devices")
    chance = noise.uniform(np.array([noise.key(seed, "type")], np.uint64), np.arange(devices))
    if mix is not None:
        _check_names(makes, mix)
        return _chosen(np.array([mix.get(make.name, 0.0) for make in makes]), chance)
    out = np.empty(devices, np.int16)
    pattern = np.array([_MIX.index(letter) for letter in _MIX])[np.arange(devices) % len(_MIX)]
    for letter, domain in _DOMAINS.items():
        here = np.flatnonzero(pattern == _MIX.index(letter))
        of = np.array([i for i, make in enumerate(makes) if make.domain is domain], np.int64)
        out[here] = of[_chosen(np.array([makes[i].share for i in of.tolist()], np.float64), chance[here])]
        # Of the first twenty devices each type once, before shares decide.
        early = here[here < len(_MIX)]
        out[early] = of[np.arange(len(early)) % len(of)]
    return out


def _types_by_count(makes: Sequence[DeviceType], counts: Mapping[str, int]) -> Int16:
    """Choose the type of each device, evenly mixed."""
    _check_names(makes, counts)
    number = np.array([counts.get(make.name, 0) for make in makes], np.int64)
    type_ = np.repeat(np.arange(len(makes)), number)
    rank = np.arange(len(type_)) - np.repeat(np.cumsum(number) - number, number)
    return type_[np.argsort((rank + 0.5) / number[type_], kind="stable")].astype(np.int16)


def _check_names(makes: Sequence[DeviceType], wanted: Mapping[str, float]) -> None:
    unknown = sorted(wanted.keys() - {make.name for make in makes})
    if unknown:
        raise ValueError(f"no such type of devices: {', '.join(unknown)}")
    if any(not number >= 0 for number in wanted.values()):
        raise ValueError("a city cannot have less than no devices of a type")


def _chosen(weight: Float64, chance: Float64) -> Int16:
    """Choose by weight."""
    total = np.cumsum(weight)
    if not total[-1] > 0:
        raise ValueError("a mix needs a weight above 0")
    chosen: Int16 = np.searchsorted(total, chance * total[-1], side="right").astype(np.int16)
    return chosen


def _draw(site: Keys, name: str) -> Float64:
    return noise.uniform(site, np.array([noise.key(0, name)], np.uint64))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Places:
    """Positions of d devices."""

    streets: streets.Streets
    district: Int64
    latitude: Float64
    longitude: Float64
    east: Float64  # km
    north: Float64
    road: Int64
    along: Float64  # km
    station: Int64

    @classmethod
    def made(cls, site: Keys, makes: Sequence[DeviceType], type_: Int16, districts: Sequence[District], seed: int) -> "_Places":
        net = streets.lay_out(districts, seed)
        district = np.floor(_draw(site, "district") * len(districts)).astype(np.int64)
        road, north, east, along = streets.places(net, district, _draw(site, "road"), _draw(site, "along"))
        centre = np.array([(each.latitude, each.longitude) for each in districts], np.float64)[district]
        at_road = np.array([make.at_road for make in makes], np.bool_)[type_]
        anywhere = [centre[:, i] + SPREAD * (2.0 * _draw(site, name) - 1.0) for i, name in enumerate(("north", "east"))]
        latitude = steps(np.where(at_road, north, anywhere[0]), 1e6)
        longitude = steps(np.where(at_road, east, anywhere[1]), 1e6)
        return cls(
            streets=net,
            district=district,
            latitude=latitude,
            longitude=longitude,
            east=longitude * (streets.KM * streets.narrowing(districts[0].latitude)),
            north=latitude * streets.KM,
            road=road,
            along=along,
            station=district * STATIONS + np.floor(_draw(site, "station") * STATIONS).astype(np.int64),
        )


def _series(
    seed: int,
    makes: Sequence[DeviceType],
    type_: Int16,
    rating: Float64,
    site: Keys,
    place: _Places,
    holidays: Mapping[date, days.DayKind],
) -> tuple[Int64, SeriesTable]:
    """Make the first series of each device, and all series: a type's sensors, once for each device of it."""
    metrics = tuple(sorted({sensor.metric for i in np.unique(type_).tolist() for sensor in makes[i].sensors}))
    code = {metric: i for i, metric in enumerate(metrics)}
    rows = [(make, sensor) for make in makes for sensor in make.sensors]
    sizes = np.array([len(make.sensors) for make in makes], np.int64)
    count = sizes[type_]
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])
    device = np.repeat(np.arange(len(type_), dtype=np.int32), count)
    row = (np.cumsum(sizes) - sizes)[type_][device] + np.arange(len(device)) - first[device]
    registers = np.full((len(makes), len(metrics)), np.inf)
    for i, make in enumerate(makes):
        for metric, size in make.registers:
            if metric in code:
                registers[i, code[metric]] = size
    factors = np.array([dict(make.rated).get(sensor.metric, np.nan) for make, sensor in rows], np.float64)
    city = noise.key(seed, "city")
    return first, SeriesTable(
        city=city,
        almanac=Almanac.made(city, days.kinds(holidays)),
        metrics=metrics,
        metric=np.array([code.get(sensor.metric, -1) for _, sensor in rows], np.int16)[row],
        device=device,
        interval=np.array([sensor.interval for _, sensor in rows], np.float64)[row],
        rating=rating[device] * factors[row],
        site=site,
        east=place.east,
        north=place.north,
        road=place.road.astype(np.int32),
        along=place.along,
        station=place.station.astype(np.int32),
        type=type_,
        trunk=np.array(place.streets.trunk, np.bool_),
        registers=registers,
    )
