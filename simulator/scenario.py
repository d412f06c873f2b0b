"""Scenario files: a city, the start and speed of its run, and its faults. docs/scenarios.md describes every key.

Pure: a scenario is made from text. It is validated here, once, and an error names file, line and key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final

import numpy as np

from citybeat.devices.catalogue import Domain
from citybeat.devices.clock import from_us
from citybeat.devices.device import check_source
from citybeat.devices.errors import DeviceError
from citybeat.simulator.city import holidays
from citybeat.simulator.city import layout as cities
from citybeat.simulator.city.layout import City, Gateway
from citybeat.simulator.city.makes import BY_NAME, TYPES, DeviceType, scaled
from citybeat.simulator.city.streets import DISTRICTS, District
from citybeat.simulator.errors import FaultError, ScenarioError
from citybeat.simulator.faults import choosing
from citybeat.simulator.faults.kinds import FaultSpec
from citybeat.simulator.faults.kinds import read as read_fault
from citybeat.simulator.yamltext import Keys, parse

#: Devices of a scenario: more than a city has, and what one machine can hold.
MAX_DEVICES: Final = 1_000_000
#: Each is a connection of its own.
MAX_GATEWAYS: Final = 10_000
MAX_DISTRICTS: Final = 200
#: s. Reports are stamped with whole milliseconds.
SHORTEST: Final = 0.001
#: Defaults of a scenario, and of `simulate run`.
DEVICES: Final = 200
GATEWAYS: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """A scenario."""

    name: str
    city: City
    seed: int
    start: int | None = None  # us since 1970 UTC, where simulated time starts; None: `schedule.timeline` chooses
    duration: float | None = None  # s by the clock; None: until it is stopped
    speed: float = 1.0  # simulated seconds a second
    faults: tuple[FaultSpec, ...] = ()  # what goes wrong; of several that fit, the first one happens

    def summary(self) -> dict[str, Any]:
        """Return a summary for people, for JSON."""
        city = self.city
        kinds = np.bincount(city.type, minlength=len(city.types)).tolist()
        return {
            "name": self.name,
            "seed": self.seed,
            "start": None if self.start is None else from_us(self.start).isoformat(),
            "duration": self.duration,
            "speed": self.speed,
            "devices": len(city),
            "types": {type_.name: number for type_, number in zip(city.types, kinds, strict=True) if number},
            "sensors": len(city.series),
            "readings_per_second": round(float((1.0 / city.series.interval).sum()), 3),  # simulated
            "districts": len(city.districts),
            "gateways": len(city.sources),
            "faults": len(self.faults),
        }


def load_scenario(
    text: str,
    origin: str,
    *,
    devices: int | None = None,
    gateways: int | None = None,
    seed: int | None = None,
) -> Scenario:
    """Read a scenario.

    Parameters
    ----------
    text : str
        YAML; docs/scenarios.md has the keys.
    origin : str
        Where the text came from; stands in error messages.
    devices, gateways, seed : int, optional
        Instead of what the scenario says.

    Returns
    -------
    Scenario

    Raises
    ------
    ScenarioError
        Not YAML, an unknown or missing key, a wrong value, or one that cannot be replaced by what is given instead; the message
        names origin, line and key.
    """
    root = parse(text, origin=origin, failure=ScenarioError)
    name = root.text("name")
    own_seed = root.whole("seed", 1, least=-(2**63), most=2**63 - 1)
    start = root.moment("start", None)
    duration = _above_zero(root, "duration", root.seconds("duration", None))
    speed = _above_zero(root, "speed", root.number("speed", 1)) or 1.0
    days = _holidays(root)
    types = _types(root.keys("intervals", None))
    layout = root.keys("city", Keys({}, {}, root.line).rooted(origin, "city", ScenarioError))
    described = _city(layout, devices, gateways)
    entries = root.sequence("faults") if "faults" in root else []
    faults = tuple(map(read_fault, entries))
    root.finish()
    chosen = own_seed if seed is None else seed
    try:
        city = cities.build(**described, seed=chosen, types=types, holidays=days)
    except (ValueError, DeviceError) as exc:
        raise layout.fail(None, str(exc)) from None
    for entry, fault in zip(entries, faults, strict=True):
        try:
            choosing.check(fault, city)
        except FaultError as exc:
            raise entry.fail(exc.key, exc.problem) from None
    return Scenario(name=name, city=city, seed=chosen, start=start, duration=duration, speed=speed, faults=faults)


def gateway_names(number: int) -> list[str]:
    """Return names for gateways that the scenario does not name."""
    return [f"gw-{i:02d}" for i in range(1, number + 1)]


def _city(keys: Keys, devices: int | None, gateways: int | None) -> dict[str, Any]:
    districts = _districts(keys)
    described: dict[str, Any] = {
        "districts": districts,
        "devices": _devices(keys, devices),
        "mix": _mix(keys),
        "gateways": _gateways(keys, gateways, {district.name for district in districts}),
    }
    keys.finish()
    return described


def _devices(keys: Keys, instead: int | None) -> int | dict[str, int]:
    if not keys.holds("devices", Keys):
        number = keys.whole("devices", DEVICES, least=0, most=MAX_DEVICES)
        return number if instead is None else instead
    if instead is not None:
        raise keys.fail("devices", f"it counts devices by type, so {instead} devices cannot be asked for instead")
    if "mix" in keys:
        raise keys.fail("mix", "devices are counted by type; a mix is for a number of them")
    listed = keys.keys("devices")
    counts = {_known_type(listed, name): listed.whole(name, least=0, most=MAX_DEVICES) for name in listed}
    if sum(counts.values()) > MAX_DEVICES:
        raise keys.fail("devices", f"at most {MAX_DEVICES} devices")
    return counts


def _mix(keys: Keys) -> dict[str, float] | None:
    """Read weights of types; that of a domain is divided among its types."""
    listed = keys.keys("mix", None)
    if listed is None:
        return None
    weights: dict[str, float] = {}
    for name in listed:
        weight = listed.number(name)
        if weight < 0:
            raise listed.fail(name, f"a number of at least 0 is expected, not {weight}")
        if name not in tuple(Domain):
            of = {_known_type(listed, name): 1.0}
        else:
            types = [type_ for type_ in TYPES if type_.domain == name]
            of = {type_.name: type_.share / sum(each.share for each in types) for type_ in types}
        for type_name, part in of.items():
            weights[type_name] = weights.get(type_name, 0.0) + float(weight) * part
    if not any(weights.values()):
        raise keys.fail("mix", "a weight above 0 is needed")
    return weights


def _districts(keys: Keys) -> Sequence[District]:
    if "districts" not in keys:
        return DISTRICTS
    districts = []
    for entry in keys.sequence("districts"):
        districts.append(
            District(
                name=_name(entry),
                latitude=_between(entry, "latitude", 85.0),
                longitude=_between(entry, "longitude", 179.0),
            )
        )
        if sum(other.name == districts[-1].name for other in districts) > 1:
            raise entry.fail(None, f"district {districts[-1].name!r} stands twice")
        entry.finish()
    if len(districts) > MAX_DISTRICTS:
        raise keys.fail(None, f"at most {MAX_DISTRICTS} districts")
    return districts


def _gateways(keys: Keys, instead: int | None, districts: set[str]) -> list[Gateway]:
    if not keys.holds("gateways", list):
        number = keys.whole("gateways", GATEWAYS, least=1, most=MAX_GATEWAYS)
        return [Gateway(name=name) for name in gateway_names(number if instead is None else instead)]
    if instead is not None:
        raise keys.fail("gateways", f"it names the gateways, so {instead} of them cannot be asked for instead")
    listed: list[Gateway] = []
    for entry in keys.entries("gateways", "name"):
        gateway = Gateway(name=_name(entry), districts=entry.texts("districts", ()))
        for name in gateway.districts:
            if name not in districts:
                raise entry.fail("districts", f"there is no district {name!r}")
        try:
            check_source(gateway.name)
        except DeviceError as exc:
            raise entry.fail("name", str(exc)) from None
        if any(gateway.name == other.name for other in listed):
            raise entry.fail("name", f"gateway {gateway.name!r} stands twice")
        entry.finish()
        listed.append(gateway)
    if len(listed) > MAX_GATEWAYS:
        raise keys.fail(None, f"at most {MAX_GATEWAYS} gateways")
    return listed


def _holidays(keys: Keys) -> Mapping[date, holidays.DayKind]:
    if keys.holds("holidays", Keys):
        listed = keys.keys("holidays")
        days = {
            **dict.fromkeys(listed.dates("days", ()), holidays.DayKind.HOLIDAY),
            **dict.fromkeys(listed.dates("quiet", ()), holidays.DayKind.TET),
        }
        listed.finish()
        return days
    if keys.holds("holidays", list):
        return dict.fromkeys(keys.dates("holidays"), holidays.DayKind.HOLIDAY)
    return holidays.vietnam() if keys.choice("holidays", ("vietnam", "none"), "vietnam") == "vietnam" else {}


def _types(keys: Keys | None) -> list[DeviceType]:
    """Return the makes of devices with the intervals of this scenario."""
    if keys is None:
        return list(TYPES)
    scale = _above_zero(keys, "scale", keys.number("scale", 1)) or 1.0
    jitter = _jitter(keys, 0.0)
    own = keys.keys("types", None)
    changed: dict[str, DeviceType] = {}
    for name in own or ():
        make = BY_NAME[_known_type(own, name)]
        changed[name] = _type(own.keys(name), make, scale, jitter)
    keys.finish()
    try:
        changed = {make.name: replace(scaled(make, scale), jitter=jitter) for make in TYPES if make.name not in changed} | changed
    except DeviceError as exc:
        raise keys.fail("scale", str(exc)) from None
    return [_at_least_a_tick(keys, changed[type_.name]) for type_ in TYPES]


def _type(keys: Keys, make: DeviceType, scale: float, jitter: float) -> DeviceType:
    scale = _above_zero(keys, "scale", keys.number("scale", scale)) or 1.0
    jitter = _jitter(keys, jitter)
    own = keys.keys("metrics", None)
    intervals = {name: _above_zero(own, name, own.seconds(name)) for name in own} if own is not None else {}
    for name in intervals:
        if name not in {sensor.metric for sensor in make.sensors}:
            raise own.fail(name, f"a device of type {make.name!r} does not measure it")
    keys.finish()
    try:
        sensors = (
            replace(sensor, interval=intervals.get(sensor.metric, sensor.interval)) for sensor in scaled(make, scale).sensors
        )
        return replace(make, sensors=tuple(sensors), jitter=jitter)
    except DeviceError as exc:
        raise keys.fail(None, str(exc)) from None


def _at_least_a_tick(keys: Keys, make: DeviceType) -> DeviceType:
    for sensor in make.sensors:
        if sensor.interval is not None and sensor.interval < SHORTEST:
            raise keys.fail(None, f"{make.name!r} would measure {sensor.metric} every {sensor.interval:g} s; at least {SHORTEST} s")
    return make


def _known_type(keys: Keys, name: str) -> str:
    if name not in BY_NAME:
        raise keys.fail(name, f"no such type of devices; there are {', '.join(BY_NAME)}")
    return name


def _name(keys: Keys) -> str:
    name: str = keys.text("name")
    if not name.strip():
        raise keys.fail("name", "a name is expected")
    return name


def _between(keys: Keys, key: str, most: float) -> float:
    number = float(keys.number(key))
    if not -most <= number <= most:
        raise keys.fail(key, f"a number from {-most:g} to {most:g} is expected, not {number:g}")
    return number


def _jitter(keys: Keys, default: float) -> float:
    jitter = float(keys.number("jitter", default))
    if not 0 <= jitter < 1:
        raise keys.fail("jitter", f"a share of the interval is expected, from 0 up to and without 1, not {jitter:g}")
    return jitter


def _above_zero(keys: Keys, key: str, number: Any) -> float | None:
    """Return the number as a float, if it is above 0 and finite as such."""
    if number is None:
        return None
    if not 0 < float(number) < float("inf"):
        raise keys.fail(key, f"a number above 0 is expected, not {number}")
    return float(number)
