"""Context of readings at their times and places: the input of models, with the noise and the weather that readings share.

How readings of different sensors hang together is decided here and nowhere else: what has the name of one thing is the same number
for everybody who shares it. `drift` is one sensor's, `local` one device's, `road` and `station` that of those who stand at one,
near each other; `field` is a plane over the city, in which neighbours see nearly the same; `weather` is everybody's.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import numpy as np

from citybeat.devices.batch import MINUTE, Bools, Float64, Int16, Int32, Int64
from citybeat.simulator.city import noise, shapes
from citybeat.simulator.city.almanac import DAY, HOUR, UTC_OFFSET, Almanac, Meter, between
from citybeat.simulator.city.noise import Keys
from citybeat.simulator.city.shapes import Kinds, bump

#: us. Largest shift of a meter's flow against the profile.
_WARP: Final = 10 * MINUTE


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesTable:
    """Series of a city as arrays of length s, its devices as arrays of length d, and what all of them share."""

    city: int  # key of what all series share: the weather, the grid
    almanac: Almanac
    metrics: tuple[str, ...]  # names that `metric` points into
    metric: Int16  # (s,)
    device: Int32  # (s,)
    interval: Float64  # (s,) s
    rating: Float64  # (s,) NaN: none declared
    site: Keys  # (d,) key of the device: what its sensors share
    east: Float64  # (d,) km, from anywhere
    north: Float64  # (d,)
    road: Int32  # (d,) the one that it stands at, or is nearest to
    along: Float64  # (d,) km from its beginning
    station: Int32  # (d,) that feeds it
    type: Int16  # (d,) row of `registers`
    trunk: Bools  # (r,) whether a road joins districts, and so is busier
    registers: Float64  # (types, metrics): where a counter starts again at 0; infinite: nowhere

    def __len__(self) -> int:
        return len(self.metric)

    @property
    def key(self) -> Keys:
        """(s,) key of each series; computed, since all of a large city are seldom wanted."""
        salts = np.array([noise.key(0, name) for name in self.metrics], np.uint64)
        return noise.mix(self.site[self.device], salts[self.metric])


class At:
    """n readings of one metric whose values are to be computed."""

    def __init__(self, table: SeriesTable, code: int, series: Int64, time: Int64) -> None:
        self.table = table
        self.code = code
        self.time = time  # us since 1970 UTC
        self.device = table.device[series]
        self.interval = table.interval[series]  # s
        self.rating = table.rating[series]
        self.site = table.site[self.device]
        self.key = noise.mix(self.site, _salt(table.metrics[code]))
        self.city = np.array([table.city], np.uint64)
        local = time + UTC_OFFSET
        self.hour: Float64 = (local % DAY).astype(np.float64) / HOUR  # of the local day
        self.day, self.part = table.almanac.days(time)
        self.kind: Kinds = table.almanac.kind[self.day]

    # --- noise

    def trait(self, name: str) -> Float64:
        """Return a constant of each device: a number in [0, 1)."""
        return noise.uniform(self.site, _salt(name))

    def drift(self, name: str, minutes: int) -> Float64:
        """Return noise of one sensor, in (-1, 1)."""
        return noise.smooth(noise.mix(self.key, _salt(name)), self.time, minutes * MINUTE)

    def local(self, name: str, minutes: int) -> Float64:
        """Return noise that the sensors of a device share."""
        return noise.smooth(noise.mix(self.site, _salt(name)), self.time, minutes * MINUTE)

    def moment(self, name: str) -> Float64:
        """Return noise that the sensors of a device share at one moment: of mean 0 and standard deviation 1."""
        return noise.rough(noise.mix(self.site, _salt(name)), self.time)

    def road(self, name: str, km: float, minutes: int) -> Float64:
        """Return noise of a road, shared by the devices on it within some km."""
        keys = noise.mix(self._road_key, _salt(name))
        return noise.line(keys, self.table.along[self.device] / km, self.time, minutes * MINUTE)

    def station(self, name: str, minutes: int) -> Float64:
        """Return noise that all devices of one feeding station share."""
        return noise.smooth(noise.mix(self._station_key, _salt(name)), self.time, minutes * MINUTE)

    def field(self, name: str, km: float, minutes: int) -> Float64:
        """Return noise over the plane: similar within a fraction of so many km, independent beyond."""
        keys = noise.mix(self.city, _salt(name))
        x, y = self.table.east[self.device] / km, self.table.north[self.device] / km
        return noise.field(keys, x, y, self.time, minutes * MINUTE)

    def weather(self, name: str, minutes: int) -> Float64:
        """Return noise that the whole city shares."""
        return noise.smooth(noise.mix(self.city, _salt(name)), self.time, minutes * MINUTE)

    @cached_property
    def _road_key(self) -> Keys:
        return noise.mix(noise.mix(self.city, _salt("road")), self.table.road[self.device].astype(np.int64))

    @cached_property
    def _station_key(self) -> Keys:
        return noise.mix(noise.mix(self.city, _salt("station")), self.table.station[self.device].astype(np.int64))

    # --- weather

    @cached_property
    def wet(self) -> Float64:
        """Wetness of the days, 0 to 1."""
        return between(self.table.almanac.wet, self.day, self.part)

    @cached_property
    def warm(self) -> Float64:
        """Mean temperature of the air, Cel."""
        return between(self.table.almanac.warm, self.day, self.part)

    @cached_property
    def rain(self) -> Float64:
        """Rain here and now, mm/h: none on dry days, showers of some km and an hour on wet ones."""
        shower = 0.55 * self.weather("front", 150) + 0.45 * self.field("shower", 6.0, 50)
        return 32.0 * np.maximum(shower + 0.75 * self.wet - 0.8, 0.0)

    def rained(self, half: float) -> Float64:
        """Return the intensity of rain, 0 to 1: one half at so many mm/h."""
        return self.rain / (self.rain + half)

    @cached_property
    def cloud(self) -> Float64:
        """Share of the sky that is covered."""
        some = 0.25 + 0.4 * self.wet + 0.25 * self.weather("cloud", 90) + 0.15 * self.field("cloud", 3.0, 20)
        covered = np.clip(some, 0.0, 1.0)
        return covered + (1.0 - covered) * self.rained(0.5)

    @cached_property
    def wind(self) -> Float64:
        """Wind in m/s: a base, the breeze from the sea, and the gusts of a shower."""
        breeze = 2.3 * bump(self.hour, 14.0, 7.0) * (1.0 - 0.5 * self.cloud)
        gusts = 2.0 * self.rained(4.0) + 0.9 * self.field("gust", 3.0, 8)
        return np.maximum(2.2 + 1.2 * self.weather("wind", 180) + breeze + gusts, 0.0)

    # --- people

    @cached_property
    def width(self) -> Float64:
        """Capacity of the road: trunk roads more than streets, and each its own."""
        wide = np.where(self.table.trunk[self.table.road[self.device]], 0.8, 0.55)
        return wide + 0.4 * noise.uniform(self._road_key, _salt("width"))

    @cached_property
    def busy(self) -> Float64:
        """Traffic on the road, about 0.03 to 1.5."""
        flow = shapes.traffic(self.hour, self.kind) * self._factor(self.table.almanac.vehicles)
        queue = 1.0 + 0.12 * self.road("queue", 1.5, 12) + 0.06 * self.local("lane", 8)
        return flow * self.width * queue * (1.0 - 0.15 * self.rained(5.0))

    @cached_property
    def drawn(self) -> Float64:
        """Load of a connection, as a share of its rating."""
        load = shapes.load(self.hour, self.kind) * self._factor(self.table.almanac.power)
        own = 1.0 + 0.06 * self.local("load", 4) + 0.05 * self.station("load", 15) + 0.008 * self.moment("load")
        return np.minimum(self.share * load * own, 0.98)

    @cached_property
    def share(self) -> Float64:
        """Full load of a connection, as a share of its rating."""
        return 0.7 * (0.75 + 0.4 * self.trait("load"))

    def load(self) -> Float64:
        """Load of the city, 0.3 to about 1 of the peak."""
        return shapes.load(self.hour, self.kind) * self._factor(self.table.almanac.power)

    def counted(self, meter: Meter, time: Int64) -> Float64:
        """Return hours of full flow up to a time. The clock is warped, too slowly to go back, so that no two meters run alike."""
        warp = np.rint(noise.smooth(noise.mix(self.key, _salt("flow")), time, HOUR) * _WARP).astype(np.int64)
        return meter.at(self.table.almanac, time + warp)

    def register(self, total: Float64, parts: float) -> Float64:
        """Turn a total into a counter's reading: in 1/parts of the unit, from a random beginning, and modulo the register."""
        full = self.table.registers[self.table.type[self.device], self.code]
        ends = np.isfinite(full)
        size = np.rint(np.where(ends, full, 1.0) * parts)
        begun = np.where(ends, np.floor(self.trait("meter") * size), 0.0)
        shown = np.floor(total * parts) + begun
        turns = np.where(ends, np.floor(shown / size), 0.0)  # whole numbers below 2^53: exact
        left: Float64 = (shown - turns * size) / parts
        return left

    def _factor(self, meter: Meter) -> Float64:
        return between(meter.factor, self.day, self.part)


@cache
def _salt(name: str) -> Keys:
    return np.array([noise.key(0, name)], np.uint64)
