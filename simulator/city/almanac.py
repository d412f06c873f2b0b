"""Almanac: properties of every day of a city: its kind, how warm and how wet it is, and what meters had counted when it began.

Made once a city, from its seed and its holidays; then everything is looked up by the day's number, so that weather changes over
days and meters add up over years without anything being carried along. Meters add up exactly what the profiles say: what flows in
an hour of a day of some kind, times a factor that goes in a straight line from one midnight to the next. The law of
`simulator.city.noise` holds.

Seasons are about those of Quy Nhơn: the dry months from January to August, the rain from September to December.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import MINUTE, Float64, Int64
from citybeat.simulator.city import holidays, noise, shapes
from citybeat.simulator.city.holidays import DayKind
from citybeat.simulator.city.shapes import Kinds

HOUR: Final = 60 * MINUTE  # us
DAY: Final = 24 * HOUR
#: us. Asia/Ho_Chi_Minh, UTC+7 without DST.
UTC_OFFSET: Final = 7 * HOUR
#: Days since 1970. Counters start at 0 on Monday, 2015-01-05, local midnight.
COUNTED_FROM: Final = (date(2015, 1, 5) - holidays.FIRST).days
#: Cel, means of January to December; mm of rain.
_WARM: Final = np.array([23.3, 24.1, 25.7, 27.6, 29.1, 30.0, 29.9, 29.8, 28.6, 26.9, 25.6, 23.9])
_RAIN: Final = np.array([62.0, 28.0, 28.0, 32.0, 64.0, 60.0, 48.0, 66.0, 240.0, 460.0, 420.0, 175.0])
#: Bins of a day in which the profiles are added up, five minutes each.
_BINS: Final = 288


@dataclass(frozen=True, kw_only=True, slots=True)
class Meter:
    """Total flow since `COUNTED_FROM`, in hours of full flow."""

    factor: Float64  # (days + 1,) at each midnight; what the profile is multiplied by
    before: Float64  # (days + 1,) hours of full flow up to each midnight
    flat: Float64  # (kinds, bins + 1) of a day up to each bin's end, if the factor were 1
    slanted: Float64  # (kinds, bins + 1) the same, if it were the share of the day that is over

    @classmethod
    def made(cls, profile: Callable[[Float64, Kinds], Float64], factor: Float64, kind: Kinds) -> Self:
        """Add up a profile over all days."""
        middle = (np.arange(_BINS) + 0.5) / _BINS
        kinds = np.arange(len(DayKind), dtype=np.int8)
        flow = np.stack([profile(24.0 * middle, np.full(_BINS, each)) for each in kinds]) * (24.0 / _BINS)
        start = np.zeros((len(kinds), 1))
        flat = np.concatenate([start, np.cumsum(flow, axis=1)], axis=1)
        slanted = np.concatenate([start, np.cumsum(flow * middle, axis=1)], axis=1)
        days = factor[:-1] * flat[kind, -1] + (factor[1:] - factor[:-1]) * slanted[kind, -1]
        days[:COUNTED_FROM] = 0.0
        return cls(factor=factor, before=np.concatenate([np.zeros(1), np.cumsum(days)]), flat=flat, slanted=slanted)

    def at(self, almanac: "Almanac", time: Int64) -> Float64:
        """Return the hours of full flow up to these times (us since 1970 UTC)."""
        day, part = almanac.days(time)
        kind = almanac.kind[day]
        x = part * _BINS
        low = np.minimum(x.astype(np.int64), _BINS - 1)
        over = x - low
        flat = self.flat[kind, low] + over * (self.flat[kind, low + 1] - self.flat[kind, low])
        slanted = self.slanted[kind, low] + over * (self.slanted[kind, low + 1] - self.slanted[kind, low])
        begun: Float64 = self.before[day] + self.factor[day] * flat + (self.factor[day + 1] - self.factor[day]) * slanted
        return np.where(day >= COUNTED_FROM, begun, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Almanac:
    """The days of a city from `holidays.FIRST` to `holidays.LAST`; times outside take the first or the last day."""

    kind: Kinds  # (days,)
    warm: Float64  # (days + 1,) Cel, at each midnight: what the day's weather varies about
    wet: Float64  # (days + 1,) 0: no rain; 1: rain for much of the day
    power: Meter
    vehicles: Meter
    water: Meter

    @classmethod
    def made(cls, city: int, kind: NDArray[np.int8]) -> Self:
        """Make the almanac of a city from its key and the kinds of its days."""
        number = np.arange(len(kind) + 1)
        warm, rain = _season(_WARM, number), _season(_RAIN, number)
        chance = np.minimum(0.2 + rain / 1100.0, 0.55)
        wet = np.clip((_spell(city, "wet", number, 2) - 0.95 + chance) * 3.0, 0.0, 1.0)
        warm = warm + 4.0 * (_spell(city, "warm", number, 3) - 0.5) - 1.2 * wet
        return cls(
            kind=kind,
            warm=warm,
            wet=wet,
            # Of what cooling draws in hot weather; of those who stay at home in rain; of thirst.
            power=Meter.made(shapes.load, 1.0 + 0.025 * (np.clip(warm, 20.0, 33.0) - 27.0), kind),
            vehicles=Meter.made(shapes.traffic, 1.0 - 0.1 * wet, kind),
            water=Meter.made(shapes.water, 1.0 + 0.015 * (np.clip(warm, 20.0, 33.0) - 27.0), kind),
        )

    def days(self, time: Int64) -> tuple[Int64, Float64]:
        """Return the number of the day of each time (us since 1970 UTC), and the share of the day that is over."""
        local = time + UTC_OFFSET
        day = local // DAY
        part = (local - day * DAY).astype(np.float64) / DAY
        known = np.clip(day, 0, len(self.kind) - 1)
        return known, np.where(known == day, part, np.where(day < 0, 0.0, 1.0))


def between(midnights: Float64, day: Int64, part: Float64) -> Float64:
    """Interpolate linearly from one midnight to the next."""
    return midnights[day] + part * (midnights[day + 1] - midnights[day])


def _season(by_month: Float64, day: Int64) -> Float64:
    """Interpolate a year's course through the middles of its months."""
    stamp = day.astype("datetime64[D]")
    month = stamp.astype("datetime64[M]")
    length = ((month + 1).astype("datetime64[D]") - month.astype("datetime64[D]")).astype(np.int64)
    over = ((stamp - month.astype("datetime64[D]")).astype(np.int64) + 0.5) / length - 0.5
    number = month.astype(np.int64) + np.floor(over).astype(np.int64)
    part = over - np.floor(over)
    course: Float64 = by_month[number % 12] + part * (by_month[(number + 1) % 12] - by_month[number % 12])
    return course


def _spell(city: int, name: str, day: Int64, length: int) -> Float64:
    """Return a number in [0, 1) for each day, similar to that of its neighbours: the mean of some days' random numbers."""
    key = np.array([noise.key(city, name)], np.uint64)
    total = np.zeros(len(day))
    for i in range(length):
        total = total + noise.uniform(key, day + i)
    return total / length
