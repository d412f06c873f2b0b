"""Shapes of signals over a day: rush hours, load and sun, by kind of day.

The law of `simulator.city.noise` holds here too: only operations that are the same to the bit on every machine. All functions are
elementwise. An hour is the local hour of the day, 0 to 24; `kind` is what `holidays.DayKind` says of the day. At midnight all
kinds of days have the same value, so that none begins with a leap.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Float64, Int64

Kinds = NDArray[np.int8]


def bump(hour: Float64, centre: float, width: float) -> Float64:
    """Return 1 at the centre, 0 from `width` hours away; smooth, and the same every day."""
    away = np.abs(hour - centre)
    away = np.minimum(away, 24.0 - away) / width
    rest = np.maximum(1.0 - away * away, 0.0)
    return rest * rest


def wave(time: Int64, period: int) -> Float64:
    """Approximate a sine by two parabolas, in [-1, 1]."""
    x = 2.0 * ((time % period).astype(np.float64) / period) - 1.0
    return 4.0 * x * (1.0 - np.abs(x))


def steps(value: Float64, parts: float) -> Float64:
    """Round to 1/parts of the unit; dividing gives the float nearest to the decimal number."""
    return np.rint(value * parts) / parts


# How much of each bump a day has: working day, weekend, holiday, Tết.
_RUSH: Final = np.array([1.0, 0.0, 0.0, 0.0])
_NOON: Final = np.array([0.35, 0.35, 0.30, 0.15])
_OUTING: Final = np.array([0.0, 1.0, 1.15, 0.6])
_OFFICE: Final = np.array([0.35, 0.20, 0.14, 0.06])
_HOME: Final = np.array([0.5, 0.5, 0.5, 0.42])
_MORNING: Final = np.array([0.9, 0.7, 0.65, 0.6])
_STROLL: Final = np.array([0.5, 0.85, 1.2, 1.0])
_OUTING_OR_HOME: Final = np.array([1.0, 1.1, 1.2, 0.8])


def traffic(hour: Float64, kind: Kinds) -> Float64:
    """Return the traffic in the streets, about 0.05 to 1: rush hours on working days, a late and long evening on others."""
    rush = 0.9 * bump(hour, 7.25, 3.0) + 0.95 * bump(hour, 17.25, 3.5)
    outing = 0.25 * bump(hour, 9.0, 4.0) + 0.6 * bump(hour, 18.5, 4.5)
    return 0.05 + _NOON[kind] * bump(hour, 12.5, 6.5) + _RUSH[kind] * rush + _OUTING[kind] * outing


def load(hour: Float64, kind: Kinds) -> Float64:
    """Return the electric load, 0.3 to about 0.9 of the peak: offices in the day, homes in the evening."""
    return 0.3 + _OFFICE[kind] * bump(hour, 11.0, 6.0) + _HOME[kind] * bump(hour, 19.25, 4.5)


def water(hour: Float64, kind: Kinds) -> Float64:
    return 0.1 + _MORNING[kind] * bump(hour, 6.75, 3.0) + 0.8 * bump(hour, 18.75, 4.0)


def crowd(hour: Float64, kind: Kinds) -> Float64:
    """Return the number of people on foot, 0.03 to 1.2: early in the morning, and in the evening."""
    return 0.03 + 0.3 * bump(hour, 5.75, 2.5) + _STROLL[kind] * bump(hour, 19.25, 4.0)


def sun(hour: Float64) -> Float64:
    """Return sunlight without clouds, 0 to 1: sunrise at about 5:35, sunset at about 17:55, as in Quy Nhơn at the equinoxes."""
    away = (hour - 11.75) / 6.15
    return np.maximum(1.0 - away * away, 0.0)


def parked(hour: Float64, kind: Kinds) -> Float64:
    """Return the occupancy of car parks, 0.15 to about 0.85: offices in the day, restaurants in the evening."""
    return 0.15 + 1.85 * _OFFICE[kind] * bump(hour, 10.5, 5.5) + 0.6 * _OUTING_OR_HOME[kind] * bump(hour, 19.0, 4.0)
