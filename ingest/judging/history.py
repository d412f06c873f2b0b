"""What a series' past says of its new readings: STEP and STUCK. Pure; the past is arrays by series id.

Both are judged in time order, and only for readings newer than everything known of their series: an older one would be judged by a
future that its sensor had not seen.

**Memory.** A past older than ten expected intervals says nothing: no step is judged from it, and a repeated value starts anew. So a
gap (a sensor that was off, values that were missing) makes no step and no stuck sensor, and a genuine new level is accepted, at
the latest, ten intervals after the last good reading.

**STEP.** The value differs from the series' last good reading by more than `step_floor + step_rate * dt`. For a counter only an
increase can be too large: a decrease is a reset. A reading that is bad already is not judged, and none that is bad is judged from.

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
#: Series whose readings are judged at once, one of each. A turn of a few series takes longer than a loop over their readings does.
_MANY: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What is known of each series: arrays by series id."""

    time: Int64  # us, of its newest reading; NEVER: none
    value: Float64  # of that reading
    same_since: Int64  # us, since when the value has been that; NEVER: none
    good_at: Int64  # us, of its last good reading; NEVER: none
    good_value: Float64

    @classmethod
    def empty(cls, size: int) -> Self:
        """Nothing known of `size` series."""
        never, zero = np.full(size, NEVER, np.int64), np.zeros(size)
        return cls(time=never, value=zero, same_since=never.copy(), good_at=never.copy(), good_value=zero.copy())

    @classmethod
    def loaded(cls, columns: Mapping[str, NDArray[Any]]) -> Self:
        """From arrays by series id, as the store has them."""
        return cls(**{name: columns[name] for name in cls.__slots__})

    def grown(self, size: int) -> Self:
        """With room for series up to `size`; itself where there is room."""
        more = size - len(self.time)
        if more <= 0:
            return self
        new = History.empty(more)
        return type(self)(**{name: np.concatenate([getattr(self, name), getattr(new, name)]) for name in self.__slots__})

    def put(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Know these series anew: ids in `series`, and what is known of each, as the store has it; in place."""
        ids = columns["series"]
        for name in self.__slots__:
            getattr(self, name)[ids] = columns[name]

    def advance(self, stored: Batch, same_since: Int64) -> None:
        """Take in what was stored and committed; in place, since the arrays are as long as the city.

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
    """Judge readings by their series' past.

    Parameters
    ----------
    batch : Batch, n readings
        Sorted by series, then time; of several of one series and time the first is judged. Its flags say what is bad already.
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
    """The value of the row before each; of a series' first row, the past's."""
    out = np.empty_like(column)
    out[1:] = column[:-1]
    out[heads] = past
    return out


def _same_since(judged: Batch, of: Int64, heads: Int64, memory: Int64, history: History) -> Int64:
    """Since when each value has been the same, as far as memory reaches."""
    value, time = (_before(getattr(judged, name), heads, getattr(history, name)[of[heads]]) for name in ("value", "time"))
    same = (judged.value == value) & (time != NEVER)
    same &= judged.time - np.where(same, time, 0) <= memory
    if not same.any():
        return judged.time
    # A row that is the same as the one before began when the run began: at the last row that was not, or in the past.
    begins = ~same
    begins[heads] = True
    runs = np.flatnonzero(begins)
    past = history.same_since[of[runs]]
    since = np.where(same[runs] & (past != NEVER), past, judged.time[runs])  # the same: a head that continues the past
    return np.repeat(since, np.diff(np.append(runs, len(judged))))


def _steps(judged: Batch, of: Int64, heads: Int64, bad: Bools, memory: Int64, history: History, registry: Registry) -> Bools:
    """Which readings differ too much from the last good one."""
    # As if none were a step: the last good row before each, if it is of the same series; else the past.
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
    # Each first step is one for certain; what follows it in its series must be judged from another reading.
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
    """The same for series that have a step, each reading after the one before: the first of every series, then the second, ..."""
    step = np.zeros(len(judged), np.bool_)
    starts = np.flatnonzero(np.append(True, of[1:] != of[:-1]))
    sizes = np.diff(np.append(starts, len(of)))
    good_at, good_value = history.good_at[of[starts]], history.good_value[of[starts]]
    trusted = (judged.flags & np.int16(Flag.MANUAL_GOOD)) != 0
    turn = 0
    left = np.arange(len(starts))  # series that have not had all their turns
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
    """The same for one series: time, value, whether it is bad already, and whether an operator declared it good."""
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
