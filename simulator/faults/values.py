"""Faults of values: what a faulty sensor shows instead of the truth, as a function of (seed, series, time, fault). Pure.

A reading has the first fault of the scenario that hits it. The invariant of `simulator.city.noise` holds here too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from citybeat.devices.batch import MICROSECOND, Bools, Float64, Int64
from citybeat.devices.catalogue import KIND_CODES, Kind
from citybeat.simulator.city import noise
from citybeat.simulator.city.layout import City
from citybeat.simulator.city.noise import Keys
from citybeat.simulator.city.shapes import steps
from citybeat.simulator.faults import choosing, episodes
from citybeat.simulator.faults.episodes import Found, Window
from citybeat.simulator.faults.kinds import VALUES, Fault, FaultSpec
from citybeat.simulator.faults.sensors import COUNTER, LEAST, PARTS, Sensors, applies, off_codes

#: Distance of spikes from the bounds of the plausible range, as a share of it, so that rounding does not leave the range.
_MARGIN: Final = 0.001
#: Default of `magnitude` by kind. An offset below the limit is one that nobody notices.
MAGNITUDES: Final = {Fault.SPIKE: 3.0, Fault.STEP: 3.0, Fault.DRIFT: 1.0, Fault.OFFSET: 0.5, Fault.NOISE: 2.0}
_HOUR: Final = 3600 * MICROSECOND
#: Intervals. Ten after its last good reading a series' past is forgotten, and a new level accepted: for a step that ends before, no
#: reading after it is flagged.
_STEP_INTERVALS: Final = 8
_NOISE_INTERVALS: Final = 20
#: Intervals beyond its threshold for which a stuck sensor stays stuck: more than ten, so that its past is forgotten
#: when it works again.
_STUCK_INTERVALS: Final = 12
_DIRECTION: Final = KIND_CODES[Kind.DIRECTION]
Sample = Callable[[Int64, Int64], Float64]  # what series show at times


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueFault:
    """A specification, placed in a city."""

    number: int  # of the specification
    spec: FaultSpec
    city: City
    where: Bools  # (s,) which series it may hit
    window: Window


def place(specs: Sequence[FaultSpec], city: City, known: Sensors, *, begin: int) -> list[ValueFault]:
    """Find the series that each fault of a value hits, and the times; `begin` is the run's start, in us since 1970 UTC."""
    return [_placed(i, spec, city, known, begin) for i, spec in enumerate(specs) if spec.kind in VALUES]


def _placed(number: int, spec: FaultSpec, city: City, known: Sensors, begin: int) -> ValueFault:
    able = applies(spec.kind, known)
    if spec.kind is Fault.SENTINEL and spec.code is not None:
        able &= (known.sentinels == spec.code).any(axis=1)
    return ValueFault(
        number=number,
        spec=spec,
        city=city,
        where=choosing.series(number, spec, city) & able[known.of],
        window=episodes.window(begin, from_=spec.from_, until=spec.until, rate=None if _one_by_one(spec) else spec.rate),
    )


_MOMENTS: Final = frozenset({Fault.SPIKE, Fault.RANGE, Fault.SENTINEL, Fault.DROPOUT})


def _one_by_one(spec: FaultSpec) -> bool:
    """Return whether each reading is hit by itself, and not by an episode."""
    return spec.chance is not None or (spec.rate is not None and spec.duration is None and spec.kind in _MOMENTS)


def _chance(spec: FaultSpec, interval: Int64) -> Float64:
    """Return the probability of each reading to be hit, where each is hit by itself."""
    if spec.chance is not None:
        return np.full(len(interval), spec.chance)
    assert spec.rate is not None
    return np.minimum(spec.rate * interval / _HOUR, 1.0)


def _duration(spec: FaultSpec, interval: Int64, stuck_after: Int64) -> Int64:
    """Return the length of an episode in us."""
    if spec.duration is not None:
        return np.full(len(interval), round(spec.duration * MICROSECOND), np.int64)
    if spec.kind is Fault.STUCK:
        return np.minimum(stuck_after, episodes.NO_END) + _STUCK_INTERVALS * interval
    if spec.kind is Fault.STEP:
        return _STEP_INTERVALS * interval
    if spec.kind is Fault.NOISE:
        return _NOISE_INTERVALS * interval
    return np.full(len(interval), 1 if spec.kind is Fault.RESET else _HOUR, np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """Values of n readings, as faulty sensors show them."""

    value: Float64  # (n,) NaN: no value
    fault: Int64  # (n,) number of the specification that hit it; -1: none
    episode: Int64  # (n,) which of the series' episodes of that; the time, where each reading is one
    silent: Bools  # (n,) not even sent


def shown(faults: Sequence[ValueFault], known: Sensors, series: Int64, time: Int64, true: Float64, sample: Sample) -> Shown:
    """Apply faults to readings.

    Parameters
    ----------
    faults : sequence of ValueFault
        In the scenario's order.
    known : Sensors
    series : (n,) int64
    time : (n,) int64
        us since 1970 UTC.
    true : (n,) float64
        Values without faults.
    sample : callable
        Function that computes values of series at other times.

    Returns
    -------
    Shown
        Row i depends on its own series, time and truth alone.
    """
    n = len(series)
    out = Shown(value=true.copy(), fault=np.full(n, -1, np.int64), episode=np.full(n, -1, np.int64), silent=np.zeros(n, np.bool_))
    for fault in faults:
        rows = np.flatnonzero(fault.where[series] & (out.fault < 0))
        if not len(rows):
            continue
        keys = choosing.series_keys(fault.number, fault.city, series[rows])
        found = _found(fault, known, keys, series[rows], time[rows])
        rows, keys = rows[found.hit], keys[found.hit]
        if not len(rows):
            continue
        at = _At(
            fault=fault,
            known=known,
            keys=keys,
            series=series[rows],
            sensor=known.of[series[rows]].astype(np.int64),
            time=time[rows],
            true=true[rows],
            number=found.number[found.hit],
            onset=found.onset[found.hit],
            sample=sample,
        )
        value, good = _MODELS[fault.spec.kind](at)
        if fault.spec.kind is not Fault.SENTINEL:
            value = off_codes(value, at.series, known)
        rows, value = rows[good], value[good]
        out.value[rows] = value
        out.fault[rows] = fault.number
        out.episode[rows] = at.number[good]
        out.silent[rows] = fault.spec.kind is Fault.DROPOUT and fault.spec.mode == "silent"
    return out


def _found(fault: ValueFault, known: Sensors, keys: Keys, series: Int64, time: Int64) -> Found:
    spec, sensor = fault.spec, known.of[series]
    interval = known.interval[sensor]
    if _one_by_one(spec):
        inside = (time >= fault.window.begin) & (time < fault.window.end)
        hit = inside & episodes.chosen(keys, time, _chance(spec, interval))
        return Found(number=np.where(hit, time, -1), onset=np.where(hit, time, 0))
    find = episodes.latest if spec.kind is Fault.RESET else episodes.current
    return find(keys, time, fault.window, _duration(spec, interval, known.stuck_after[sensor]))


# --- models: values of the readings that are hit, and which of them can be hit -----------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _At:
    """Readings that a fault hits."""

    fault: ValueFault
    known: Sensors
    keys: Keys
    series: Int64
    sensor: Int64  # of `known`
    time: Int64
    true: Float64
    number: Int64  # of the episode
    onset: Int64
    sample: Sample

    @property
    def magnitude(self) -> float:
        given = self.fault.spec.magnitude
        return MAGNITUDES[self.fault.spec.kind] if given is None else given

    def of(self, column: Float64) -> Float64:
        """Return a column of `Sensors` for these readings."""
        return column[self.sensor]

    def is_kind(self, code: int) -> Bools:
        """Return which readings' metrics are of a kind (KIND_CODES)."""
        found: Bools = self.known.kind[self.sensor] == code
        return found

    def chance(self, salt: str) -> Float64:
        """Return a number in [0, 1) for each episode."""
        return noise.uniform(self._salted(salt), self.number)

    def chance_each(self, salt: str) -> Float64:
        """Return a number in [0, 1) for each reading."""
        return noise.uniform(self._salted(salt), self.time)

    def _salted(self, salt: str) -> Keys:
        return noise.mix(self.keys, np.array([noise.key(0, salt)], np.uint64))

    def bounds(self) -> tuple[Float64, Float64]:
        """Return the plausible range, a little narrower."""
        low, high = self.of(self.known.low), self.of(self.known.high)
        width = high - low
        margin = np.where(np.isfinite(width), width * _MARGIN, 0.0)
        return low + margin, high - margin

    def clipped(self, value: Float64) -> Float64:
        """Round values, and clip them to the plausible range; a direction is turned into it."""
        low, high = self.bounds()
        turned = value - 360.0 * np.floor(value / 360.0)
        return steps(np.where(self.is_kind(_DIRECTION), turned, np.clip(value, low, high)), PARTS)


_Model = Callable[[_At], tuple[Float64, Bools]]


def _all(at: _At) -> Bools:
    return np.ones(len(at.series), np.bool_)


def _jump(at: _At, true: Float64, up: Bools) -> tuple[Float64, Bools]:
    """Return the size of a jump within the plausible range, and where there is room for it."""
    low, high = at.bounds()
    limit = at.of(at.known.limit)
    above, below = high - true, true - low
    need = LEAST * limit
    counter = at.is_kind(COUNTER)  # one that falls was reset
    up = np.where(up | counter, (above >= need) | counter, below < need)
    room = np.where(up, above, below)
    size = np.minimum(at.magnitude * limit, room)
    return np.where(up, size, -size), room >= need


def _spike(at: _At) -> tuple[Float64, Bools]:
    size, good = _jump(at, at.true, at.chance_each("up") < 0.5)
    return steps(at.true + size, PARTS), good


def _step(at: _At) -> tuple[Float64, Bools]:
    size, good = _jump(at, at.sample(at.series, at.onset), at.chance("up") < 0.5)
    return at.clipped(at.true + size), good


def _stuck(at: _At) -> tuple[Float64, Bools]:
    held = at.sample(at.series, at.onset)
    return held, ~(held[:, None] == at.known.may_repeat[at.sensor]).any(axis=1)


def _sign(at: _At) -> Float64:
    return np.where(at.chance("sign") < 0.5, 1.0, -1.0)


def _drift(at: _At) -> tuple[Float64, Bools]:
    hours = (at.time - at.onset).astype(np.float64) / _HOUR
    return at.clipped(at.true + _sign(at) * at.magnitude * at.of(at.known.scale) * hours), _all(at)


def _offset(at: _At) -> tuple[Float64, Bools]:
    return at.clipped(at.true + _sign(at) * at.magnitude * at.of(at.known.scale)), _all(at)


def _noise(at: _At) -> tuple[Float64, Bools]:
    return at.clipped(at.true + (2.0 * at.chance_each("noise") - 1.0) * at.magnitude * at.of(at.known.scale)), _all(at)


def _range(at: _At) -> tuple[Float64, Bools]:
    low, high = at.of(at.known.low), at.of(at.known.high)
    up = np.isfinite(high) & ((at.chance_each("up") < 0.5) | ~np.isfinite(low))
    bound = np.where(up, high, low)
    width = np.where(np.isfinite(high - low), high - low, np.maximum(np.abs(bound), 1.0))
    away = (0.05 + at.chance_each("away")) * width
    return steps(bound + np.where(up, away, -away), PARTS), _all(at)


def _sentinel(at: _At) -> tuple[Float64, Bools]:
    if at.fault.spec.code is not None:
        return np.full(len(at.series), at.fault.spec.code), _all(at)
    codes = np.sort(at.known.sentinels[at.sensor], axis=1)  # NaN goes to the end
    count = np.isfinite(codes).sum(axis=1)
    return codes[np.arange(len(codes)), np.floor(at.chance_each("code") * count).astype(np.int64)], _all(at)


def _unit(at: _At) -> tuple[Float64, Bools]:
    return at.true * at.of(at.known.unit_scale) + at.of(at.known.unit_offset), _all(at)


def _reset(at: _At) -> tuple[Float64, Bools]:
    since = at.true - at.sample(at.series, at.onset)
    return steps(np.where(since < 0, since + at.of(at.known.register), since), PARTS), _all(at)  # below 0: it ran over meanwhile


def _dropout(at: _At) -> tuple[Float64, Bools]:
    return np.full(len(at.series), np.nan), _all(at)


_MODELS: Final[dict[Fault, _Model]] = {
    Fault.STUCK: _stuck,
    Fault.SPIKE: _spike,
    Fault.STEP: _step,
    Fault.DRIFT: _drift,
    Fault.OFFSET: _offset,
    Fault.NOISE: _noise,
    Fault.RANGE: _range,
    Fault.SENTINEL: _sentinel,
    Fault.UNIT: _unit,
    Fault.RESET: _reset,
    Fault.DROPOUT: _dropout,
}
