"""The shapes that signals are made of: the day's rush hours, load and sun, and what they add up to over a week.

The law of `simulator.noise` holds here too: only operations that are the same to the bit on every machine. All functions are
elementwise. An hour is the local hour of the day, 0 to 24; `weekend` is 1 on Saturday and Sunday, else 0.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from devices.batch import Float64, Int64


def bump(hour: Float64, centre: float, width: float) -> Float64:
    """1 at the centre, 0 from `width` hours away; smooth, and the same every day."""
    away = np.abs(hour - centre)
    away = np.minimum(away, 24.0 - away) / width
    rest = np.maximum(1.0 - away * away, 0.0)
    return rest * rest


def wave(time: Int64, period: int) -> Float64:
    """Two parabolas that look like a sine, in [-1, 1]."""
    x = 2.0 * ((time % period).astype(np.float64) / period) - 1.0
    return 4.0 * x * (1.0 - np.abs(x))


def steps(value: Float64, parts: float) -> Float64:
    """Round to 1/parts of the unit; dividing gives the float nearest to the decimal number."""
    return np.rint(value * parts) / parts


def traffic(hour: Float64, weekend: Float64) -> Float64:
    """How busy the streets are, about 0.05 to 1: rush hours on working days, a late and long evening at weekends."""
    working = 0.9 * bump(hour, 7.25, 3.0) + 0.95 * bump(hour, 17.25, 3.5)
    free = 0.25 * bump(hour, 9.0, 4.0) + 0.6 * bump(hour, 18.5, 4.5)
    return 0.05 + 0.35 * bump(hour, 12.5, 6.5) + working + (free - working) * weekend


def load(hour: Float64, weekend: Float64) -> Float64:
    """How much power is drawn, 0.3 to about 0.9 of the peak: offices in the day, homes in the evening."""
    return 0.3 + (0.35 - 0.15 * weekend) * bump(hour, 11.0, 6.0) + 0.5 * bump(hour, 19.25, 4.5)


def water(hour: Float64, weekend: Float64) -> Float64:
    return 0.1 + (0.9 - 0.2 * weekend) * bump(hour, 6.75, 3.0) + 0.8 * bump(hour, 18.75, 4.0)


def sun(hour: Float64) -> Float64:
    """Sunlight without clouds, 0 to 1: up at about 5:35, down at about 17:55, as in Quy Nhơn at the equinoxes."""
    away = (hour - 11.75) / 6.15
    return np.maximum(1.0 - away * away, 0.0)


BINS: Final = 7 * 288  # five minutes each


def integral(profile: Callable[[Float64, Float64], Float64]) -> Float64:
    """Hours of full flow from Monday 0:00 to the end of each bin of the week."""
    middle = (np.arange(BINS) + 0.5) * (168.0 / BINS)
    flow: Float64 = profile(np.mod(middle, 24.0).astype(np.float64), (middle >= 120.0).astype(np.float64))
    return np.concatenate([np.zeros(1), np.cumsum(flow * (168.0 / BINS))])


TRAFFIC_HOURS: Final = integral(traffic)
LOAD_HOURS: Final = integral(load)
WATER_HOURS: Final = integral(water)
