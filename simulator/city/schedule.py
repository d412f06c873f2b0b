"""Schedule of a city's reports, and the course of simulated time. Pure: the clock's readings are arguments.

A device reports at the shortest of its sensors' intervals, on a grid of its own that is shifted by a phase, so that devices are
spread over the interval and no herd thunders. Grids are fixed to 1970, not to the start: two runs that overlap send equal
readings. A sensor with a longer interval takes part in every k-th report. With jitter a report comes later than its place on the
grid, by a part of the interval that depends on the seed, the device and the number of the report: never so late that the next one
overtakes it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from citybeat.devices.batch import MICROSECOND, Bools, Float64, Int64
from citybeat.devices.catalogue import Kind, builtin
from citybeat.simulator.city import noise
from citybeat.simulator.city.layout import City
from citybeat.simulator.city.noise import Keys
from citybeat.simulator.errors import TimelineError

#: us. Every device makes itself known within this time of the start, whatever its interval.
OPENING: Final = 1 * MICROSECOND
#: Devices of a city for which that holds; a larger city takes as many times as long.
AT_ONCE: Final = 20_000
_TICK: Final = 1000  # us: reports are stamped with whole milliseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Reporting grids of a city's d devices and s series."""

    period: Int64  # (d,) us between a device's reports
    phase: Int64  # (d,) us, below the period
    late: Int64  # (d,) us, below the period: how late a report is at most; 0: never
    keys: Keys  # (d,) of the lateness
    first: Int64  # (d + 1,) first series of each device
    every: Int64  # (s,) the series takes part in every such report
    opening: Bools  # (s,) whether it takes part in a report off the grid; amounts do not, they belong to their interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """Reports that are due, in the order of their times, and the readings in them, report by report."""

    device: Int64  # (m,)
    time: Int64  # (m,) us since 1970 UTC
    report: Int64  # (n,) which report a reading is in; ascending
    series: Int64  # (n,)


def plan(city: City) -> Schedule:
    """Lay out the times at which the devices of a city report."""
    kinds = builtin()
    seconds = city.series.interval
    first = city.first
    shortest = np.minimum.reduceat(seconds, first[:-1]) if len(city) else np.empty(0)
    period = np.maximum(np.rint(shortest * MICROSECOND / _TICK).astype(np.int64) * _TICK, _TICK)
    keys = noise.mix(city.series.site, np.array([noise.key(0, "phase")], np.uint64))
    phase = _part_of(noise.uniform(keys, np.zeros(1, np.int64)), period)
    jitter = np.array([make.jitter for make in city.types], np.float64)[city.type]
    per_series = np.repeat(period, np.diff(first))
    is_amount = np.array([kinds[metric].kind is Kind.AMOUNT for metric in city.series.metrics], np.bool_)
    return Schedule(
        period=period,
        phase=phase,
        late=_part_of(jitter, period),
        keys=noise.mix(keys, np.ones(1, np.int64)),
        first=first,
        every=np.maximum(np.rint(seconds * MICROSECOND / per_series).astype(np.int64), 1),
        opening=~is_amount[city.series.metric] if len(is_amount) else np.empty(0, np.bool_),
    )


def due(schedule: Schedule, after: int, until: int) -> Due:
    """Find the reports on the devices' grids with after < time <= until (us since 1970 UTC)."""
    # A report that was due on the grid before `after` may come late, and so be due now; one just before `until` may come after it.
    begin = (after - schedule.late - schedule.phase) // schedule.period + 1
    count = np.maximum((until - schedule.phase) // schedule.period - begin + 1, 0)
    device = np.repeat(np.arange(len(count)), count)
    tick = np.repeat(begin, count) + _ramp(count)
    time = _time(schedule, device, tick)
    if schedule.late.any():
        now = np.flatnonzero((time > after) & (time <= until))
        device, tick, time = device[now], tick[now], time[now]
    order = np.argsort(time, kind="stable")
    device, tick, time = device[order], tick[order], time[order]
    report, series = _readings(schedule, device)
    return _without_empty(device, time, report, series, tick[report] % schedule.every[series] == 0)


def _time(schedule: Schedule, device: Int64, tick: Int64) -> Int64:
    """Return the times of the devices' reports of these numbers."""
    time: Int64 = schedule.phase[device] + tick * schedule.period[device]
    if schedule.late.any():
        time += _part_of(noise.uniform(schedule.keys[device], tick), schedule.late[device])
    return time


def _part_of(share: Float64, whole: Int64) -> Int64:
    """Return a share of a length of time, in whole milliseconds."""
    return np.floor(share * (whole // _TICK)).astype(np.int64) * _TICK


def opening(schedule: Schedule, start: int) -> Due:
    """Return one report of every device within `OPENING` after the start (us since 1970 UTC), for operators to see it."""
    d = len(schedule.period)
    spread = np.floor(noise.uniform(np.array([1], np.uint64), np.arange(d)) * (OPENING // _TICK)).astype(np.int64)
    spread *= -(-d // AT_ONCE)
    time = (start // _TICK + 1 + spread) * _TICK
    device = np.arange(d)
    off_grid = np.flatnonzero(_time(schedule, device, (time - schedule.phase) // schedule.period) != time)  # there it comes anyway
    device = off_grid[np.argsort(time[off_grid], kind="stable")]
    report, series = _readings(schedule, device)
    return _without_empty(device, time[device], report, series, schedule.opening[series])


def merged(a: Due, b: Due) -> Due:
    """Merge two lists of reports in the order of their times."""
    device, time = np.concatenate([a.device, b.device]), np.concatenate([a.time, b.time])
    report, series = np.concatenate([a.report, b.report + len(a.device)]), np.concatenate([a.series, b.series])
    order = np.argsort(time, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    rows = np.argsort(place[report], kind="stable")
    return Due(device=device[order], time=time[order], report=place[report][rows], series=series[rows])


def part(whole: Due, after: int, until: int) -> Due:
    """Return the reports with after < time <= until (us since 1970 UTC)."""
    a, b = np.searchsorted(whole.time, [after, until], side="right")
    i, j = np.searchsorted(whole.report, [a, b])
    return Due(device=whole.device[a:b], time=whole.time[a:b], report=whole.report[i:j] - a, series=whole.series[i:j])


def _ramp(count: Int64) -> Int64:
    """Return 0, 1, … count[0] - 1, 0, 1, … count[1] - 1, …"""
    return np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)


def _readings(schedule: Schedule, device: Int64) -> tuple[Int64, Int64]:
    """Expand reports to all sensors of their devices: the report and the series of each reading."""
    count = schedule.first[device + 1] - schedule.first[device]
    report = np.repeat(np.arange(len(device)), count)
    return report, np.repeat(schedule.first[device], count) + _ramp(count)


def _without_empty(device: Int64, time: Int64, report: Int64, series: Int64, taken: Bools) -> Due:
    report, series = report[taken], series[taken]
    kept, report = np.unique(report, return_inverse=True)
    return Due(device=device[kept], time=time[kept], report=report.astype(np.int64), series=series)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """Course of simulated time: from `start`, `speed` times as fast as the clock, and never ahead of it."""

    start: int  # us since 1970 UTC, simulated
    begun: int  # us since 1970 UTC, what the clock said then
    speed: float  # simulated seconds a second

    def at(self, elapsed: float) -> int:
        """Return simulated time, in us since 1970 UTC, `elapsed` seconds after the start."""
        us = elapsed * MICROSECOND
        return min(self.start + int(us * self.speed), max(self.begun + int(us), self.start))


#: us. A run that is faster than the clock and has no end begins this long ago.
HISTORY: Final = 24 * 3600 * MICROSECOND


def timeline(*, now: int, speed: float, start: int | None, duration: float | None) -> Timeline:
    """Choose the start of simulated time.

    Parameters
    ----------
    now : int
        us since 1970 UTC.
    speed : float
        Simulated seconds a second.
    start : int, optional
        us since 1970 UTC. Unless given: now, at a speed of at most 1; else as long ago as lets simulated time reach the clock
        just when the run ends; without a duration, `HISTORY` ago, and once the clock is reached the run goes on in real time.
    duration : float, optional
        Seconds that the run takes.

    Raises
    ------
    TimelineError
        `speed` or `duration` is not above 0, or `start` is in the future.
    """
    if not speed > 0:
        raise TimelineError(f"speed must be above 0, not {speed}")
    if duration is not None and not duration > 0:
        raise TimelineError(f"duration must be above 0 seconds, not {duration}")
    if start is None:
        ahead = HISTORY if duration is None else round(duration * (speed - 1) * MICROSECOND)
        start = now - ahead if speed > 1 else now
    if start > now:
        raise TimelineError("simulated time cannot start in the future")
    return Timeline(start=start, begun=now, speed=speed)
