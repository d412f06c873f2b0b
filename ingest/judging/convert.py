"""From values as sent to the metric's unit: which values mean "missing", conversion of units, and calibration. Pure.

The order is: sentinels (as sent), unit, calibration (in the metric's unit), bounds. `missing` does the first, `convert` the next
two, `ingest.judging.validate` the last. Nothing here loops over readings, and values that need no conversion are not even copied.

`names` maps senders' names of units to UCUM where they differ (SenML's `%` is 1 in UCUM); a name that it lacks is taken for UCUM.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from citybeat.devices.batch import Bools, Float64, Int32, Int64
from citybeat.devices.errors import Reason
from citybeat.devices.registry.snapshot import DEFAULT_SENTINELS, Registry
from citybeat.devices.timeline import in_force
from citybeat.devices.units import IDENTITY, UnitError, conversion
from citybeat.devices.wire.decoded import Decoded, Refusal

_UCUM: Final[Mapping[str, str]] = MappingProxyType({})


def missing(decoded: Decoded, series: Int32, registry: Registry, names: Mapping[str, str] = _UCUM) -> Bools:
    """Find readings without a value: NaN, and sentinels.

    Parameters
    ----------
    decoded : Decoded, n readings
        Values as sent. Where the sender named a unit, a default sentinel means "missing" if the value is implausible in that unit.
    series : (n,) int32
        0: the reading has no series; it is not missing.
    registry : Registry
    names : mapping

    Returns
    -------
    (n,) bool
    """
    value = decoded.value
    found: Bools = np.isnan(value)
    # Few readings have a value that means "missing" for any series at all; only these are compared by series.
    rows = np.flatnonzero(np.isin(value, registry.codes))
    if rows.size:
        of, code = series[rows], value[rows]
        found[rows] = (code[:, None] == registry.sentinels[of]).any(axis=1)
        if _named(decoded):
            own = np.fromiter((decoded.unit[row] != "" for row in rows.tolist()), np.bool_, len(rows))
            rows, of, code = rows[own], of[own], code[own]
            scale, offset = _linear(decoded, rows, of, registry, names)
            with np.errstate(over="ignore"):
                plain = code * scale + offset  # NaN where the unit cannot be converted: not missing, so that the reading is refused
            implausible = (plain < registry.low[of]) | (plain > registry.high[of])
            declared = (code[:, None] == registry.declared[of]).any(axis=1)
            found[rows] = declared | (implausible & np.isin(code, DEFAULT_SENTINELS))
    return found & (series > 0)


def convert(
    decoded: Decoded, series: Int32, wanted: Bools, registry: Registry, names: Mapping[str, str] = _UCUM
) -> tuple[Float64, Int64, list[Refusal]]:
    """Convert values to the units of their metrics, and calibrate them.

    Parameters
    ----------
    decoded : Decoded, n readings
        A unit that the sender named takes precedence over the registered one.
    series : (n,) int32
    wanted : (n,) bool
        Readings to convert; the others (without a series, or missing) stay as they are. Every wanted one has a series.
    registry : Registry
    names : mapping

    Returns
    -------
    value : (n,) float64
        `decoded.value` itself if nothing had to be done. Infinite where it was, or where a result is beyond float64.
    rows : (k,) int64
        Wanted readings whose unit cannot be converted; their values are as sent.
    refused : list of Refusal, k
        UNIT_MISMATCH for each of these rows, with both units.
    """
    if not _named(decoded) and not registry.converted.any():
        return decoded.value, np.empty(0, np.int64), []
    rows = np.flatnonzero(wanted if _named(decoded) else wanted & registry.converted[series])
    if not rows.size:
        return decoded.value, rows, []
    of = series[rows]
    scale, offset = _linear(decoded, rows, of, registry, names)
    bad = np.isnan(scale)
    refused = [_refusal(decoded, row, int(series[row]), registry, names) for row in rows[bad].tolist()]
    calibrated = ~bad & (registry.calibration_start[of + 1] > registry.calibration_start[of])
    other = ~bad & ((scale != 1.0) | (offset != 0.0))
    if not (calibrated | other).any():
        return decoded.value, rows[bad], refused
    value = decoded.value.copy()
    with np.errstate(over="ignore"):  # a result beyond float64 is infinite, and refused as such
        value[rows[other]] = value[rows[other]] * scale[other] + offset[other]
        _calibrate(value, decoded.time, rows[calibrated], of[calibrated], registry)
    return value, rows[bad], refused


def _named(decoded: Decoded) -> bool:
    """Return True if a sender named any unit."""
    return any(decoded.unit)


def _linear(decoded: Decoded, rows: Int64, of: Int32, registry: Registry, names: Mapping[str, str]) -> tuple[Float64, Float64]:
    """Scale and offset for these rows, of these series; NaN where the unit cannot be converted."""
    scale = np.where(registry.convertible[of], registry.scale[of], np.nan)
    offset = registry.offset[of]
    if not _named(decoded):
        return scale, offset
    # A batch has many readings, but few different pairs of units (as sent, of the metric).
    numbers = {name: i for i, name in enumerate(dict.fromkeys(decoded.unit))}
    sent = np.fromiter(map(numbers.__getitem__, decoded.unit), np.int64, len(decoded.unit))[rows]
    pair = sent * len(registry.units) + registry.unit[of]
    present = np.flatnonzero(np.bincount(pair))
    scales, offsets = np.full((2, int(present.max(initial=0)) + 1), np.nan)
    units = [names.get(name, name) for name in numbers]
    for each in present.tolist():
        which, wanted = divmod(each, len(registry.units))
        try:
            found = conversion(units[which], registry.units[wanted]) if units[which] else IDENTITY
        except UnitError:
            continue
        scales[each], offsets[each] = found.scale, found.offset
    named = sent != numbers.get("", -1)
    return np.where(named, scales[pair], scale), np.where(named, offsets[pair], offset)


def _calibrate(value: Float64, time: Int64, rows: Int64, of: Int32, registry: Registry) -> None:
    """Calibrate these rows in place, each by the calibration valid at its time. Every series here has at least one calibration."""
    which = in_force(registry.calibration_start, registry.calibration_from, of, time[rows])
    rows, which = rows[which >= 0], which[which >= 0]
    value[rows] = value[rows] * registry.calibration_scale[which] + registry.calibration_offset[which]


def _refusal(decoded: Decoded, row: int, of: int, registry: Registry, names: Mapping[str, str]) -> Refusal:
    named, wanted = decoded.unit[row] if decoded.unit else "", registry.units[registry.unit[of]]
    detail = ""
    try:
        conversion(names.get(named, named) or registry.sent[of], wanted)
    except UnitError as exc:
        detail = str(exc) if named else f"as registered, {exc}"
    if names.get(named, named) != named:
        detail += f" (sent as {named!r})"
    return Refusal(message=int(decoded.message[row]), index=int(decoded.index[row]), reason=Reason.UNIT_MISMATCH, detail=detail)
