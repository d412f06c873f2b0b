"""Validates readings: each is missing, refused, or stored with flags. Pure: the time of receipt serves as the clock."""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from citybeat.devices.batch import MICROSECOND, Batch, Bools, Float64, Int16, Int32, Int64
from citybeat.devices.clock import from_us
from citybeat.devices.errors import Reason
from citybeat.devices.flags import Flag
from citybeat.devices.registry.snapshot import Registry
from citybeat.devices.wire.decoded import Decoded, Refusal
from citybeat.devices.wire.senml_units import UCUM
from citybeat.ingest.judging.convert import convert, missing

#: No quantity of a city is larger in any unit, and sums of squares of a century of such values still fit a float64 (1.8e308).
MAX_MAGNITUDE: Final = 1e100


_YEAR_2001: Final = 978_307_200  # s
_YEAR_2100: Final = 4_102_444_800  # s


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of the times of readings."""

    #: us since 1970 UTC. Clocks that lost power restart at 1970 (Unix), 1980 (DOS, GPS) or 2000 (clock chips): before this a time
    #: is a fault, not history.
    oldest: int = _YEAR_2001 * MICROSECOND
    #: us. A reading that arrives later than this after its time is LATE: five minutes is a gateway's outage, not its buffering.
    late_after: int = 300 * MICROSECOND
    #: us. A synchronised clock is off by milliseconds; a reading whose time is further ahead of its receipt is FUTURE.
    future_after: int = 5 * MICROSECOND
    #: us. A time further ahead of its receipt is a fault: it would create chunks that no retention ever drops.
    future_limit: int = 600 * MICROSECOND


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidatedBatch:
    """Result for the readings of m messages."""

    batch: Batch  # to be stored, in order of arrival
    missing: Int32  # (m,) readings without a value
    refused: list[Refusal]


def validate(decoded: Decoded, series: Int32, received_at: Int64, registry: Registry, limits: Limits) -> ValidatedBatch:
    """Validate resolved readings.

    Parameters
    ----------
    decoded : Decoded, n readings of m messages
        As sent: sentinels, units and calibration are applied here (`ingest.judging.convert`). NaN is missing; an infinite value is
        refused.
    series : (n,) int32
        0: refused already, and left out here.
    received_at : (m,) int64
        Time of receipt of each message, us since 1970 UTC.
    registry : Registry
        Bounds and sentinels. A value on a bound is inside it.
    limits : Limits

    Returns
    -------
    ValidatedBatch
        A reading without a value is missing whatever its time is.
    """
    gone = missing(decoded, series, registry, UCUM)
    open_ = (series > 0) & ~gone
    value, rows, refused = convert(decoded, series, open_, registry, UCUM)
    open_[rows] = False
    decoded, time = replace(decoded, value=value), decoded.time
    receipt = received_at[decoded.message]
    for reason, wrong in (
        (Reason.TOO_OLD, time < max(limits.oldest, registry.horizon)),
        (Reason.TOO_FAR_AHEAD, time > receipt + limits.future_limit),
        (Reason.NOT_FINITE, np.abs(value) > MAX_MAGNITUDE),
    ):
        rows = np.flatnonzero(open_ & wrong)
        open_[rows] = False
        refused += [_refusal(decoded, int(row), reason, registry, limits) for row in rows]
    kept: Any = slice(None) if open_.all() else np.flatnonzero(open_)  # all: nothing is copied
    batch = Batch(
        time=time[kept],
        received_at=receipt[kept],
        series=series[kept],
        value=value[kept],
        flags=decoded.flags[kept],
        message=decoded.message[kept],
        index=decoded.index[kept],
    )
    batch = replace(batch, flags=batch.flags | _flags(batch, registry, limits))
    counts = np.bincount(decoded.message[gone], minlength=len(received_at)).astype(np.int32)
    return ValidatedBatch(batch=batch, missing=counts, refused=refused)


def bounds(value: Float64, series: Int32, registry: Registry) -> Int16:
    """RANGE and SUSPECT of values in their metrics' units: (n,) int16. A value on a bound is inside it."""
    of = series.astype(np.int64)  # NumPy looks up by its own integer at twice the speed
    implausible = (value < registry.low[of]) | (value > registry.high[of])
    suspect = ~implausible & ((value < registry.suspect_low[of]) | (value > registry.suspect_high[of]))
    return _bit(Flag.RANGE, implausible) | _bit(Flag.SUSPECT, suspect)


def _flags(batch: Batch, registry: Registry, limits: Limits) -> Int16:
    age = batch.received_at - batch.time
    return (
        bounds(batch.value, batch.series, registry)
        | _bit(Flag.LATE, age > limits.late_after)
        | _bit(Flag.FUTURE, -age > limits.future_after)
    )


def _bit(flag: Flag, rows: Bools) -> Int16:
    return rows.astype(np.int16) * np.int16(flag)


def _refusal(decoded: Decoded, row: int, reason: Reason, registry: Registry, limits: Limits) -> Refusal:
    message, index = int(decoded.message[row]), int(decoded.index[row])
    detail = (
        f"value {decoded.value[row]} is beyond ±{MAX_MAGNITUDE:g}"
        if reason is Reason.NOT_FINITE
        else f"time {from_us(int(decoded.time[row])).isoformat()}"
    )
    if reason is Reason.TOO_OLD and decoded.time[row] >= limits.oldest:
        detail += f", and readings before {from_us(registry.horizon).isoformat()} are not kept any more"
    if reason is Reason.TOO_OLD and decoded.time[row] >= 0:
        seconds = int(decoded.time[row]) // 1000  # what the time would be, had the sender meant seconds
        detail += (
            f"; {from_us(seconds * MICROSECOND).isoformat()} if these were seconds" if _YEAR_2001 < seconds < _YEAR_2100 else ""
        )
    return Refusal(message=message, index=index, reason=reason, detail=detail)
