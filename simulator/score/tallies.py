"""Inputs and counts of scores: properties of sensors, and counts that grow part by part. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from citybeat.devices.batch import Bools, Float64, Int32, Int64


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensors:
    """Properties of the sensors, by place in the truth's list of them."""

    memory: Int64  # us, how far back STEP and STUCK look
    interval: Int64  # us between readings, as expected
    stuck_after: Int64  # us; FOREVER: never
    may_repeat: Float64  # (sensors, k): values that are never stuck, padded with NaN
    metric: Int32  # place in `metrics`
    metrics: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Settings of ingest about times, us."""

    late_after: int
    future_after: int


@dataclass(kw_only=True, slots=True)
class Kind:
    """Counts of the detection of one kind of fault; they grow part by part."""

    of: int = 0  # readings, episodes or messages that are to be found
    found: int = 0
    left_out: int = 0  # could not be judged: see docs/scoring.md
    claims: int = 0  # how often the database says that there is such a fault
    right: int = 0  # of them
    seconds: list[Float64] = field(default_factory=list)  # delays of episodes that were found
    readings: list[Int64] = field(default_factory=list)  # the same, in readings of the episode
    by_metric: dict[str, tuple[int, int]] = field(default_factory=dict)  # of, found

    def count(self, found: Bools, metric: Int32, metrics: Sequence[str]) -> None:
        """Add what was to be found; `metric` is that of each."""
        self.of += len(found)
        self.found += int(found.sum())
        of = np.bincount(metric, minlength=len(metrics)) if len(found) else np.zeros(len(metrics), np.int64)
        hits = np.bincount(metric[found], minlength=len(metrics))
        for place in np.flatnonzero(of).tolist():
            a, b = self.by_metric.get(metrics[place], (0, 0))
            self.by_metric[metrics[place]] = (a + int(of[place]), b + int(hits[place]))


@dataclass(kw_only=True, slots=True)
class Raised:
    """Counts of one flag, by the readings that have it."""

    flagged: int = 0
    right: int = 0  # on faulty readings
    aftermath: int = 0  # on right readings that were judged by a faulty one
    wrong: int = 0


@dataclass(kw_only=True, slots=True)
class Clean:
    """Counts of readings without a fault, which were not judged by a faulty reading either."""

    readings: int = 0
    alarms: int = 0
    aftermath: int = 0  # right readings that are left out, because they are judged by a faulty one
