"""Histogram of millions of durations in bounded memory: classes of at most 0.8 %, and an exact maximum."""

from typing import Final

import numpy as np

from citybeat.devices.batch import Int64

#: Classes for each doubling. With 128 a percentile is at most 1/128 too high, which is less than two runs differ by.
_STEPS: Final = 128
_BITS: Final = 64
PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


class Histogram:
    """Durations in nanoseconds; negative ones count as 0."""

    def __init__(self) -> None:
        self._counts = np.zeros(_STEPS * (_BITS + 1), np.int64)
        self.count = 0
        self.highest = 0  # ns

    def add(self, durations: Int64) -> None:
        """Count durations, (n,) int64 nanoseconds."""
        if not len(durations):
            return
        self.count += len(durations)
        self.highest = max(self.highest, int(durations.max()))
        mantissa, exponent = np.frexp(np.maximum(durations, 0).astype(np.float64))
        # The mantissa is 0, or from 0.5 up to 1.
        place = exponent.astype(np.int64) * _STEPS + ((mantissa - 0.5) * (2 * _STEPS)).astype(np.int64)
        self._counts += np.bincount(np.maximum(place, 0), minlength=len(self._counts))

    def at(self, share: float) -> int:
        """Return the duration, in ns, that this share of all do not exceed; 0 if there is none.

        Examples
        --------
        >>> histogram = Histogram()
        >>> histogram.add(np.arange(1, 1_000_001))
        >>> round(histogram.at(0.5) / 500_000, 2)
        1.0
        """
        if not self.count:
            return 0
        wanted = max(1, int(np.ceil(share * self.count)))
        place = int(np.searchsorted(np.cumsum(self._counts), wanted))
        exponent, step = divmod(place, _STEPS)
        upper = np.ldexp(0.5 + (step + 1) / (2 * _STEPS), exponent)
        return min(int(upper), self.highest)

    def milliseconds(self) -> dict[str, float]:
        """Return percentiles and maximum in ms, rounded to microseconds."""
        found = {name: self.at(share) for name, share in PERCENTILES.items()}
        return {name: round(ns / 1e6, 3) for name, ns in (*found.items(), ("max", max(self.highest, 0)))}
