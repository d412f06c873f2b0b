"""Flags that depend on a series' past: STEP and STUCK. Pure; the past is arrays by series id.

Both are judged in time order, and only for readings newer than all known ones of their series: an older one would be judged by
readings that came after it.

**Memory.** A past older than ten expected intervals is disregarded: no step is judged from it, and a repeated value begins a new
run. So a gap (a sensor that was off, values that were missing) causes neither STEP nor STUCK, and a genuine new level is accepted
at the latest ten intervals after the last good reading.

**STEP.** The value differs from the series' last good reading by more than `step_floor + step_rate * dt`. For a counter only an
increase can be too large: a decrease is a reset. A reading that is bad already is not judged, nor is any judged from it.

**STUCK.** The value has been the same for longer than `stuck_after`. Values that may repeat (`may_repeat`: no rain, an empty road)
are never stuck.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import NEVER, Batch, Bools, Float64, Int16, Int64
from citybeat.devices.catalogue import KIND_CODES, Kind
from citybeat.devices.flags import Flag, is_bad
from citybeat.devices.registry.snapshot import Registry

_COUNTER: Final = KIND_CODES[Kind.COUNTER]
#: Least number of series of which one reading each is judged at once: for fewer, a loop over their readings is faster.
_MANY: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Newest readings of each series: arrays by series id."""

    time: Int64  # us, of the newest reading; NEVER: there is none
    value: Float64  # of that reading
    same_since: Int64  # us, since when the value has been the same; NEVER: there is none
    good_at: Int64  # us, of the last good reading; NEVER: there is none
    good_value: Float64

    @classmethod
    def empty(cls, size: int) -> Self:
        """A history of `size` series without readings."""
        never, zero = np.full(size, NEVER, np.int64), np.zeros(size)
        return cls(time=never, value=zero, same_since=never.copy(), good_at=never.copy(), good_value=zero.copy())

    @classmethod
    def loaded(cls, columns: Mapping[str, NDArray[Any]]) -> Self:
        """A history from arrays by series id, as storage returns them."""
        return cls(**{name: columns[name] for name in cls.__slots__})

    def grown(self, size: int) -> Self:
        """A history with room for `size` series; itself if it has room."""
        more = size - len(self.time)
        if more <= 0:
            return self
        new = History.empty(more)
        return type(self)(**{name: np.concatenate([getattr(self, name), getattr(new, name)]) for name in self.__slots__})

    def put(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Replace the history of some series in place: their ids in `series`, the other columns as storage returns them."""
        ids = columns["series"]
        for name in self.__slots__:
            getattr(self, name)[ids] = columns[name]

    def advance(self, stored: Batch, same_since: Int64) -> None:
        """Take in readings that were committed; in place, since the arrays have an entry for every series of the city.

        Parameters
        ----------
        stored : Batch, n readings
            Sorted by series, then time.
        same_since : (n,) int64
            From `changes`; NEVER for a reading that was not judged.
        """
        if len(stored) == 0:
            return
        last = np.flatnonzero(np.append(stored.series[1:] != stored.series[:-1], True))
        last = last[stored.time[last] > self.time[stored.series[last]]]
        ids = stored.series[last]
        self.time[ids] = stored.time[last]
        self.value[ids] = stored.value[last]
        self.same_since[ids] = same_since[last]
        good = np.flatnonzero(~is_bad(stored.flags))
        good = good[np.append(stored.series[good][1:] != stored.series[good][:-1], True)] if len(good) else good
        good = good[stored.time[good] > self.good_at[stored.series[good]]]
        self.good_at[stored.series[good]] = stored.time[good]
        self.good_value[stored.series[good]] = stored.value[good]


def changes(batch: Batch, history: History, registry: Registry) -> tuple[Int16, Int64]:
    """Judge readings by the past of their series.

    Parameters
    ----------
    batch : Batch, n readings
        Sorted by series, then time; of several of one series and time the first is judged. Flags tell which are bad already.
    history : History
    registry : Registry
        Thresholds, by series id.

    Returns
    -------
    flags : (n,) int16
        STEP and STUCK.
    same_since : (n,) int64
        us, since when the value has been the same; NEVER for a reading that was not judged.
    """
    n = len(batch)
    flags, same_since = np.zeros(n, np.int16), np.full(n, NEVER, np.int64)
    if n == 0:
        return flags, same_since
    of = batch.series.astype(np.int64)  # NumPy looks up by its own integer at twice the speed
    new = batch.time > history.time[of]
    new[1:] &= (of[1:] != of[:-1]) | (batch.time[1:] != batch.time[:-1])
    rows = np.flatnonzero(new)
    if len(rows) == 0:
        return flags, same_since
    judged = batch
    if len(rows) < n:
        judged, of = batch.take(rows), of[rows]
    heads = np.flatnonzero(np.append(True, of[1:] != of[:-1]))  # the first row of each series
    memory = registry.memory[of]
    since = _same_since(judged, of, heads, memory, history)
    stuck = judged.time - since > registry.stuck_after[of]
    if stuck.any():
        stuck &= ~(judged.value[:, None] == registry.may_repeat[of]).any(axis=1)
    stuck_flags = stuck * np.int16(Flag.STUCK)
    bad = is_bad(judged.flags | stuck_flags)
    step = _steps(judged, of, heads, bad, memory, history, registry)
    flags[rows] = stuck_flags | step * np.int16(Flag.STEP)
    same_since[rows] = since
    return flags, same_since


def _before(column: NDArray[Any], heads: Int64, past: NDArray[Any]) -> NDArray[Any]:
    """The previous row's value for each row; for a series' first row, that of the past."""
    out = np.empty_like(column)
    out[1:] = column[:-1]
    out[heads] = past
    return out


def _same_since(judged: Batch, of: Int64, heads: Int64, memory: Int64, history: History) -> Int64:
    """Time since which each value has been the same, as far as memory reaches."""
    value, time = (_before(getattr(judged, name), heads, getattr(history, name)[of[heads]]) for name in ("value", "time"))
    same = (judged.value == value) & (time != NEVER)
    same &= judged.time - np.where(same, time, 0) <= memory
    if not same.any():
        return judged.time
    # A run of equal values begins at the last row that differs from the one before it, or in the past.
    begins = ~same
    begins[heads] = True
    runs = np.flatnonzero(begins)
    past = history.same_since[of[runs]]
    since = np.where(same[runs] & (past != NEVER), past, judged.time[runs])  # same[runs]: a first row that continues the past
    return np.repeat(since, np.diff(np.append(runs, len(judged))))


def _steps(judged: Batch, of: Int64, heads: Int64, bad: Bools, memory: Int64, history: History, registry: Registry) -> Bools:
    """Find readings that differ too much from the last good one."""
    # As if none were a step: the last good row before each one in its series, else the past.
    if not bad.any():
        value = _before(judged.value, heads, history.good_value[of[heads]])
        time = _before(judged.time, heads, history.good_at[of[heads]])
    else:
        numbers = np.arange(len(judged))
        before = np.append(-1, np.maximum.accumulate(np.where(bad, -1, numbers))[:-1])
        inside = before >= np.repeat(heads, np.diff(np.append(heads, len(judged))))
        value = np.where(inside, judged.value[before], history.good_value[of])
        time = np.where(inside, judged.time[before], history.good_at[of])
    step = ~bad & _exceeds(judged.value - value, judged.time, time, memory, of, registry)
    if not step.any():
        return step
    # The first step of a series is certain; readings after it have to be judged from another reading.
    stepping = np.zeros(len(history.time), np.bool_)
    stepping[of[step]] = True
    rows = np.flatnonzero(stepping[of])
    step[rows] = _steps_in_turn(judged.take(rows), of[rows], bad[rows], memory[rows], history, registry)
    return step


def _exceeds(change: Float64, at: Int64, before: Int64, memory: Int64, of: Int64, registry: Registry) -> Bools:
    known = before != NEVER
    dt = at - np.where(known, before, at)
    size = np.where(registry.kind[of] == _COUNTER, change, np.abs(change))
    too_large: Bools = known & (dt <= memory) & (size > registry.step_floor[of] + registry.step_rate[of] * dt)
    return too_large


def _steps_in_turn(judged: Batch, of: Int64, bad: Bools, memory: Int64, history: History, registry: Registry) -> Bools:
    """As `_steps`, reading after reading, for series that have a step: the first of every series, then the second, ..."""
    step = np.zeros(len(judged), np.bool_)
    starts = np.flatnonzero(np.append(True, of[1:] != of[:-1]))
    sizes = np.diff(np.append(starts, len(of)))
    good_at, good_value = history.good_at[of[starts]], history.good_value[of[starts]]
    trusted = (judged.flags & np.int16(Flag.MANUAL_GOOD)) != 0
    turn = 0
    left = np.arange(len(starts))  # series that have readings left
    while len(left) >= _MANY:
        rows = starts[left] + turn
        value, at = judged.value[rows], judged.time[rows]
        step[rows] = ~bad[rows] & _exceeds(value - good_value[left], at, good_at[left], memory[rows], of[rows], registry)
        good = ~bad[rows] & (trusted[rows] | ~step[rows])
        good_at[left[good]], good_value[left[good]] = at[good], value[good]
        turn += 1
        left = left[sizes[left] > turn]
    for i in left.tolist():
        rest, first = slice(int(starts[i]) + turn, int(starts[i] + sizes[i])), int(of[starts[i]])
        columns = (column[rest].tolist() for column in (judged.time, judged.value, bad, trusted))
        past = int(good_at[i]), float(good_value[i])
        step[rest] = _steps_of_one(zip(*columns, strict=True), *past, int(memory[starts[i]]), first, registry)
    return step


def _steps_of_one(
    readings: Iterable[tuple[int, float, bool, bool]],
    good_at: int,
    good_value: float,
    memory: int,
    number: int,
    registry: Registry,
) -> list[bool]:
    """As `_steps` for one series; a reading is its time, value, whether it is bad already, and whether it was declared good."""
    floor, rate, counter = float(registry.step_floor[number]), float(registry.step_rate[number]), registry.kind[number] == _COUNTER
    out = []
    for at, value, bad, sure in readings:
        dt = at - good_at
        change = value - good_value if counter else abs(value - good_value)
        step = not bad and good_at != NEVER and dt <= memory and change > floor + rate * dt
        out.append(step)
        if not bad and (sure or not step):
            good_at, good_value = at, value
    return out
