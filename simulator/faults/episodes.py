"""Times of a fault's episodes: a function of (key, time) like everything random here, so that any chunk finds the same ones. Pure.

Time is cut into slots of equal length, and each slot has one episode, which begins at a random moment and ends within its slot.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from citybeat.devices.batch import MICROSECOND, Bools, Float64, Int64
from citybeat.simulator.city import noise
from citybeat.simulator.city.noise import Keys

#: us since 1970 UTC. End of a window that has none: late enough, and far enough from int64's end to be added to.
NO_END: Final = 2**61
_CHANCE: Final = np.uint64(noise.key(0, "chance"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Time in which a fault happens, in us since 1970 UTC."""

    begin: int
    end: int  # exclusive; NO_END: none
    slot: int | None = None  # us: one episode in each; None: one that fills the window


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Episodes of n readings, reports or messages."""

    number: Int64  # (n,) which episode of its key, from 0; -1: none
    onset: Int64  # (n,) us, when it began; 0 where there is none

    @property
    def hit(self) -> Bools:
        """Readings, reports or messages that have an episode."""
        return self.number >= 0


def current(keys: Keys, time: Int64, window: Window, duration: Int64) -> Found:
    """Find the episode that is going on.

    Parameters
    ----------
    keys : (n,) uint64
        Keys of the series, device or gateway, and the fault.
    time : (n,) int64
        us since 1970 UTC.
    window : Window
    duration : (n,) or (1,) int64
        us; cut to the slot, and by the window's end.
    """
    inside = (time >= window.begin) & (time < window.end)
    if window.slot is None:
        return Found(number=np.where(inside, 0, -1), onset=np.where(inside, window.begin, 0))
    length = np.minimum(duration, window.slot)
    slot = (time - window.begin) // window.slot
    onset = window.begin + slot * window.slot + _start(keys, slot, window.slot - length)
    hit = inside & (time >= onset) & (time < onset + length)
    return Found(number=np.where(hit, slot, -1), onset=np.where(hit, onset, 0))


def latest(keys: Keys, time: Int64, window: Window, duration: Int64) -> Found:
    """Find the episode that began last, whether it is over or not. The arguments are `current`'s."""
    if window.slot is None:
        begun = time >= window.begin
        return Found(number=np.where(begun, 0, -1), onset=np.where(begun, window.begin, 0))
    length = np.minimum(duration, window.slot)
    # Nothing begins after the window, so its last moment says what began last for all that comes later.
    at = np.minimum(time, window.end - 1)
    slot = (at - window.begin) // window.slot
    room = window.slot - length
    begun = at >= window.begin + slot * window.slot + _start(keys, slot, room)
    slot = np.where(begun, slot, slot - 1)
    onset = window.begin + slot * window.slot + _start(keys, slot, room)
    found = (slot >= 0) & (time >= window.begin)
    return Found(number=np.where(found, slot, -1), onset=np.where(found, onset, 0))


def chosen(keys: Keys, step: Int64, chance: Float64 | float) -> Bools:
    """Choose which of n things are hit, each by itself, with a probability: a function of (key, step)."""
    return noise.uniform(keys ^ _CHANCE, step) < chance


def _start(keys: Keys, slot: Int64, room: Int64) -> Int64:
    """Return the time at which the episode begins in its slot."""
    started: Int64 = np.floor(noise.uniform(keys, slot) * (room + 1)).astype(np.int64)
    return started


def window(begin: int, *, from_: float, until: float | None, rate: float | None) -> Window:
    """Make the window of a fault from seconds after `begin` (us since 1970 UTC), and episodes an hour."""
    return Window(
        begin=begin + round(from_ * MICROSECOND),
        end=NO_END if until is None else begin + round(until * MICROSECOND),
        slot=None if rate is None else max(1, round(3600 * MICROSECOND / rate)),
    )
