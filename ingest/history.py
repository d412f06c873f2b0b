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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from devices.batch import NEVER, Batch, Bools, Float64, Int16, Int64
from devices.catalogue import Kind
from devices.flags import Flag, is_bad
from devices.registry import KIND_CODES, Registry

_COUNTER: Final = KIND_CODES[Kind.COUNTER]


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
    new = batch.time > history.time[batch.series]
    new[1:] &= (batch.series[1:] != batch.series[:-1]) | (batch.time[1:] != batch.time[:-1])
    rows = np.flatnonzero(new)
    if len(rows) == 0:
        return flags, same_since
    judged = batch if len(rows) == n else batch.take(rows)
    memory = registry.memory[judged.series]
    since = _same_since(judged, memory, history)
    stuck = judged.time - since > registry.stuck_after[judged.series]
    if stuck.any():
        stuck &= ~(judged.value[:, None] == registry.may_repeat[judged.series]).any(axis=1)
    stuck_flags = stuck * np.int16(Flag.STUCK)
    bad = is_bad(judged.flags | stuck_flags)
    step = _steps(judged, bad, memory, history, registry)
    flags[rows] = stuck_flags | step * np.int16(Flag.STEP)
    same_since[rows] = since
    return flags, same_since


def _heads(series: NDArray[np.int32]) -> Bools:
    """Which rows are the first of their series."""
    return np.append(True, series[1:] != series[:-1])


def _same_since(judged: Batch, memory: Int64, history: History) -> Int64:
    """Since when each value has been the same, as far as memory reaches."""
    head = _heads(judged.series)
    before_value = np.where(head, history.value[judged.series], np.append(0.0, judged.value[:-1]))
    before_time = np.where(head, history.time[judged.series], np.append(np.int64(0), judged.time[:-1]))
    same = (judged.value == before_value) & (before_time != NEVER)
    same &= judged.time - np.where(same, before_time, 0) <= memory
    # A row that is the same as the one before began when the run began: at the last row that was not, or in the past.
    starts = np.where(same & ~head, 0, np.arange(len(judged)))
    start = np.maximum.accumulate(starts)
    carried = same[start]  # the run began with a head that continues the past
    past = history.same_since[judged.series]
    return np.where(carried & (past != NEVER), past, judged.time[start])


def _steps(judged: Batch, bad: Bools, memory: Int64, history: History, registry: Registry) -> Bools:
    """Which readings differ too much from the last good one."""
    n = len(judged)
    numbers = np.arange(n)
    head = _heads(judged.series)
    # As if none were a step: the last good row before each, if it is of the same series; else the past.
    good = np.maximum.accumulate(np.where(bad, -1, numbers))
    before = np.append(-1, good[:-1])
    first = np.maximum.accumulate(np.where(head, numbers, 0))
    inside = before >= first
    value = np.where(inside, judged.value[before], history.good_value[judged.series])
    time = np.where(inside, judged.time[before], history.good_at[judged.series])
    step = ~bad & _exceeds(judged.value - value, judged.time, time, memory, judged.series, registry)
    if not step.any():
        return step
    # Each first step is one for certain; what follows it in its series must be judged from another reading. Seldom, so in a loop.
    offending = np.flatnonzero(np.isin(judged.series, judged.series[step]))
    step[offending] = _steps_one_by_one(judged.take(offending), bad[offending], history, registry)
    return step


def _exceeds(
    change: Float64, at: Int64, before: Int64, memory: Int64, series: NDArray[np.int32], registry: Registry
) -> NDArray[np.bool_]:
    known = before != NEVER
    dt = at - np.where(known, before, at)
    size = np.where(registry.kind[series] == _COUNTER, change, np.abs(change))
    too_large: Bools = known & (dt <= memory) & (size > registry.step_floor[series] + registry.step_rate[series] * dt)
    return too_large


def _steps_one_by_one(judged: Batch, bad: Bools, history: History, registry: Registry) -> Bools:
    """The same in plain order, for the few series that have a step."""
    out = np.zeros(len(judged), np.bool_)
    series = -1
    trusted = (judged.flags & np.int16(Flag.MANUAL_GOOD)) != 0
    for i, (number, at, value, skip, sure) in enumerate(
        zip(judged.series.tolist(), judged.time.tolist(), judged.value.tolist(), bad.tolist(), trusted.tolist(), strict=True)
    ):
        if number != series:
            series = number
            good_at, good_value = int(history.good_at[number]), float(history.good_value[number])
            floor, rate = float(registry.step_floor[number]), float(registry.step_rate[number])
            memory, counter = int(registry.memory[number]), registry.kind[number] == _COUNTER
        if skip:
            continue
        dt = at - good_at
        change = value - good_value if counter else abs(value - good_value)
        out[i] = good_at != NEVER and dt <= memory and change > floor + rate * dt
        if sure or not out[i]:
            good_at, good_value = at, value
    return out
