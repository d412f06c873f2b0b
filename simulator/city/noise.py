"""Randomness that is a function of (key, step), so that any part of a signal can be made alone, in any order.

Law of this module and of `simulator.city.signals`: only operations that IEEE 754 rounds in one way (+, -, *, /, square root, floor,
rint, comparison) and integer arithmetic. No sin, exp or log: their last bit differs between machines and between vector lengths,
and a simulated city is the same to the byte everywhere. All functions are elementwise: arrays in, an array of their common shape
out.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Float64, Int64

Keys = NDArray[np.uint64]

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIX_1: Final = 0xBF58476D1CE4E5B9
_MIX_2: Final = 0x94D049BB133111EB
_MASK: Final = (1 << 64) - 1


def key(seed: int, *path: int | str) -> int:
    """Make a 64-bit key of a place in a tree of names: of the city, of a device in it, of a sensor of that.

    Parameters
    ----------
    seed : int
        Any integer; taken modulo 2^64.
    path : int or str
        Numbers and names that lead to the place; order matters.

    Returns
    -------
    int
        In [0, 2^64).
    """
    state = seed & _MASK
    for step in path:
        data = step.to_bytes(16, "little", signed=True) if isinstance(step, int) else step.encode()
        for start in range(0, len(data), 8):
            state = _mix(state, int.from_bytes(data[start : start + 8], "little"))
        state = _mix(state, len(data))
    return state


def _mix(key: int, step: int) -> int:
    """Apply `mix` to one key; Python's integers are faster than arrays of length 1."""
    z = (key + (step + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    z = ((z ^ (z >> 31)) + key * _MIX_1) & _MASK
    z = ((z ^ (z >> 30)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def mix(keys: Keys, step: Keys | Int64) -> Keys:
    """Hash keys with a number each.

    Parameters
    ----------
    keys : (n,) uint64
    step : (n,) or (1,) uint64 or int64
        Negative numbers are taken modulo 2^64.

    Returns
    -------
    (n,) uint64
        The finalizer of SplitMix64 (Steele, Lea, Flood 2014), applied to keys + (step + 1) * golden ratio, and mixed with the
        key once more.
    """
    z: Keys = (step.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN) + keys
    z ^= z >> np.uint64(30)
    z *= np.uint64(_MIX_1)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_MIX_2)
    z ^= z >> np.uint64(31)
    z += keys * np.uint64(_MIX_1)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_MIX_2)
    z ^= z >> np.uint64(31)
    return z


def uniform(keys: Keys, step: Keys | Int64) -> Float64:
    """A number in [0, 1) for each (key, step).

    Returns
    -------
    (n,) float64
        Multiples of 2^-53.
    """
    return (mix(keys, step) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def smooth(keys: Keys, time: Int64, period: int) -> Float64:
    """Compute value noise: random numbers at the multiples of a period, joined by smoothsteps.

    Parameters
    ----------
    keys : (n,) uint64
    time : (n,) int64
        us since 1970 UTC.
    period : int
        us between the random numbers.

    Returns
    -------
    (n,) float64
        In (-1, 1), continuous in time, with a slope of at most 3 / period.
    """
    knot = time // period
    x = (time - knot * period).astype(np.float64) / period
    salted = mix(keys, np.array([period], np.uint64))
    a, b = uniform(salted, np.stack([knot, knot + 1]))
    smoothed: Float64 = 2.0 * (a + (b - a) * (x * x * (3.0 - 2.0 * x))) - 1.0
    return smoothed


def line(keys: Keys, x: Float64, time: Int64, period: int) -> Float64:
    """Compute value noise along a line and in time: two places close to each other have nearly the same.

    Parameters
    ----------
    keys : (n,) uint64
        Keys of the line.
    x : (n,) float64
        Place, in lengths after which nothing is shared any more.
    time : (n,) int64
        us since 1970 UTC.
    period : int
        us between the random numbers.

    Returns
    -------
    (n,) float64
        In (-1, 1), continuous in both, with a slope in time of at most 3 / period.
    """
    return _lattice(keys, (x,), time, period)


def field(keys: Keys, x: Float64, y: Float64, time: Int64, period: int) -> Float64:
    """Compute the same as `line`, over a plane."""
    return _lattice(keys, (x, y), time, period)


#: Odd numbers that keep the coordinates of a lattice apart when they are added up to one step.
_AXES: Final = (0xD6E8FEB86659FD93, 0xA0761D6478BD642F)


def _lattice(keys: Keys, place: tuple[Float64, ...], time: Int64, period: int) -> Float64:
    knot = time // period
    t = (time - knot * period).astype(np.float64) / period
    steps, weights = [knot.astype(np.uint64), knot.astype(np.uint64) + np.uint64(1)], [1.0 - _ease(t), _ease(t)]
    for axis, x in zip(_AXES, place, strict=False):
        floor = np.floor(x)
        share = _ease(x - floor)
        low = floor.astype(np.int64).astype(np.uint64) * np.uint64(axis)
        high = low + np.uint64(axis)
        steps = [step + edge for step in steps for edge in (low, high)]
        weights = [weight * part for weight in weights for part in (1.0 - share, share)]
    # All corners are hashed at once: most arrays are short, and a call costs as much as a thousand numbers do.
    corners = uniform(mix(keys, np.array([period], np.uint64)), np.stack(steps))
    total: Float64 = corners[0] * weights[0]
    for corner, weight in zip(corners[1:], weights[1:], strict=True):
        total += corner * weight
    return 2.0 * total - 1.0


def _ease(x: Float64) -> Float64:
    return x * x * (3.0 - 2.0 * x)


def rough(keys: Keys, time: Int64) -> Float64:
    """Compute noise without memory: nearly normal, of mean 0 and standard deviation 1.

    Returns
    -------
    (n,) float64
        In (-3.47, 3.47): four numbers of 16 bits each, added up, so that one hash is enough.
    """
    z = mix(keys, time)
    low = np.uint64(0xFFFF)
    total = (z & low) + ((z >> np.uint64(16)) & low) + ((z >> np.uint64(32)) & low) + (z >> np.uint64(48))
    normal: Float64 = (total.astype(np.float64) / 65535.0 - 2.0) * 1.7320508075688772
    return normal
