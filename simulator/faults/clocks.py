"""Faults of clocks: the time that a device with a wrong clock reports, as a function of (seed, device, time, fault). Pure.

**No wrong time is ever a right one's.** Right clocks stamp whole milliseconds; wrong ones stamp microseconds that are none. So a
reading with a wrong time never meets one with a right time in the database, which would make an unforeseeable conflict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np

from citybeat.devices.batch import MICROSECOND, NEVER, Bools, Float64, Int64
from citybeat.devices.clock import to_us
from citybeat.simulator.city import noise
from citybeat.simulator.city.layout import City
from citybeat.simulator.city.noise import Keys
from citybeat.simulator.faults import choosing, episodes
from citybeat.simulator.faults.episodes import NO_END, Window
from citybeat.simulator.faults.kinds import DEVICES, Fault, FaultSpec

#: us since 1970 UTC. Start of a clock chip that lost its power: 2000-01-01.
RESTART: Final = to_us(datetime(2000, 1, 1, tzinfo=UTC))
#: Default of `every`: s between the jumps of a clock.
EVERY: Final = 600.0
_MS: Final = 1000  # us


@dataclass(frozen=True, kw_only=True, slots=True)
class ClockFault:
    """A specification, placed in a city."""

    number: int  # of the specification
    spec: FaultSpec
    keys: Keys  # (d,) by device
    where: Bools  # (d,)
    window: Window
    duration: int  # us


def place(specs: Sequence[FaultSpec], city: City, *, begin: int) -> list[ClockFault]:
    """Find the devices that each fault of a clock hits, and the times; `begin` is the run's start, in us since 1970 UTC."""
    return [_placed(i, spec, city, begin) for i, spec in enumerate(specs) if spec.kind in DEVICES]


def _placed(number: int, spec: FaultSpec, city: City, begin: int) -> ClockFault:
    keys = choosing.device_keys(number, city)
    window = episodes.window(begin, from_=spec.from_, until=spec.until, rate=spec.rate)
    return ClockFault(
        number=number,
        spec=spec,
        keys=keys,
        where=choosing.devices(spec.where, city) & choosing.drawn(keys, spec.where.share),
        window=window,
        duration=window.end - window.begin if spec.duration is None else round(spec.duration * MICROSECOND),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """Times that m reports claim."""

    claimed: Int64  # (m,) us since 1970 UTC; NEVER: nothing
    fault: Int64  # (m,) number of the specification that hit it; -1: none
    episode: Int64  # (m,) which of the device's episodes of that; the time, where each report is one


def said(faults: Sequence[ClockFault], device: Int64, time: Int64) -> Said:
    """Apply faults to m reports: devices, and times in us since 1970 UTC. The first fault that hits a report counts."""
    m = len(device)
    out = Said(claimed=time.copy(), fault=np.full(m, -1, np.int64), episode=np.full(m, -1, np.int64))
    for fault in faults:
        rows = np.flatnonzero(fault.where[device] & (out.fault < 0))
        at, keys = time[rows], fault.keys[device[rows]]
        if fault.spec.chance is not None:
            hit = (at >= fault.window.begin) & (at < fault.window.end) & episodes.chosen(keys, at, fault.spec.chance)
            number, onset = np.where(hit, at, -1), at
        else:
            found = episodes.current(keys, at, fault.window, np.array([fault.duration], np.int64))
            hit, number, onset = found.hit, found.number, found.onset
        rows, at, keys, number, onset = rows[hit], at[hit], keys[hit], number[hit], onset[hit]
        out.claimed[rows] = NEVER if fault.spec.kind is Fault.NO_TIME else _wrong(fault, keys, at, number, onset)
        out.fault[rows] = fault.number
        out.episode[rows] = number
    return out


def _wrong(fault: ClockFault, keys: Keys, time: Int64, number: Int64, onset: Int64) -> Int64:
    spec, since = fault.spec, (time - onset).astype(np.float64)
    if spec.mode == "restart":
        return RESTART + (time - onset)
    assert spec.offset is not None
    off = np.full(len(time), spec.offset * MICROSECOND)
    part = np.zeros(len(time), np.int64)
    if spec.mode == "drift":
        assert fault.duration < NO_END  # FaultSpec wants an end of it
        off *= since / fault.duration
    elif spec.mode == "jump":
        part = (since / ((EVERY if spec.every is None else spec.every) * MICROSECOND)).astype(np.int64)
        off *= 0.1 + 0.9 * _chance(keys, number, part)
    claimed = time + np.rint(off).astype(np.int64)
    # Times of two stretches of one clock may cross; each stretch has microseconds of its own.
    own = 1 + (fault.number * 101 + number * 13 + part) % (_MS - 1)
    stamped: Int64 = claimed // _MS * _MS + own
    return stamped


def _chance(keys: Keys, number: Int64, part: Int64) -> Float64:
    return noise.uniform(noise.mix(keys, number), part)
