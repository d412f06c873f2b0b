"""Selection of devices and series by a fault's `where`: functions of (seed, device or series, fault). Pure, and by arrays."""

from fnmatch import fnmatchcase
from functools import cache

import numpy as np

from citybeat.devices.batch import Bools, Int64
from citybeat.simulator.city import noise
from citybeat.simulator.city.layout import City
from citybeat.simulator.city.noise import Keys
from citybeat.simulator.errors import FaultError
from citybeat.simulator.faults.kinds import FaultSpec, Where


def check(spec: FaultSpec, city: City) -> None:
    """Check that a city has everything that `where` names.

    Raises
    ------
    FaultError
        `where` names something that the city does not have.
    """
    metrics = {sensor.metric for make in city.types for sensor in make.sensors}
    for key, wanted, known in (
        ("types", spec.where.types, {make.name for make in city.types}),
        ("districts", spec.where.districts, {district.name for district in city.districts}),
        ("gateways", spec.where.gateways, set(city.gateways)),
        ("metrics", spec.where.metrics, metrics),
    ):
        for name in wanted:
            if name not in known:
                raise FaultError("where", f"{key}: the city has no {name!r}; it has {', '.join(sorted(known)[:40])}")


def devices(where: Where, city: City) -> Bools:
    """Select devices, whatever their metrics and before a share of them is drawn: (d,) bool."""
    chosen: Bools = np.ones(len(city), np.bool_)
    for wanted, names, of in (
        (where.types, [make.name for make in city.types], city.type),
        (where.districts, [district.name for district in city.districts], city.district),
        (where.gateways, list(city.gateways), city.gateway),
    ):
        if wanted:
            chosen &= np.array([name in wanted for name in names], np.bool_)[of]
    if where.ids:
        for index in np.flatnonzero(chosen).tolist():
            name = city.id(index)
            chosen[index] = any(fnmatchcase(name, pattern) for pattern in where.ids)
    return chosen


def series(number: int, spec: FaultSpec, city: City) -> Bools:
    """Select the series of a specification: (s,) bool."""
    chosen = devices(spec.where, city)[city.series.device]
    if spec.where.metrics:
        chosen &= np.array([name in spec.where.metrics for name in city.series.metrics], np.bool_)[city.series.metric]
    if spec.where.share < 1:
        rows = np.flatnonzero(chosen)
        chosen[rows] = drawn(series_keys(number, city, rows), spec.where.share)
    return chosen


def drawn(keys: Keys, share: float) -> Bools:
    """Draw a share of the things that the keys belong to."""
    found: Bools = noise.uniform(keys, np.array([-1], np.int64)) < share
    return found


def series_keys(number: int, city: City, rows: Int64) -> Keys:
    """Return keys of a specification's randomness for these series: (n,) uint64. All keys of a large city are never needed."""
    table = city.series
    keys = noise.mix(table.site[table.device[rows]], _salts(table.metrics)[table.metric[rows]])  # `SeriesTable.key`
    return noise.mix(keys, np.array([noise.key(city.seed, "fault", number)], np.uint64))


@cache
def _salts(metrics: tuple[str, ...]) -> Keys:
    return np.array([noise.key(0, name) for name in metrics], np.uint64)


def device_keys(number: int, city: City) -> Keys:
    """Return such keys by device: (d,) uint64."""
    return noise.mix(city.series.site, np.array([noise.key(city.seed, "device fault", number)], np.uint64))
