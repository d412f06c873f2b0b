"""Buckets and raw readings of several series as the columns of an answer. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from citybeat.api.http.answers import flag_names, milliseconds
from citybeat.api.series import aggregates
from citybeat.api.series.aggregates import Aggregate
from citybeat.api.series.fill import FILLED, Fill, filled
from citybeat.devices.batch import Bools, Float64, Int64
from citybeat.devices.catalogue import Kind
from citybeat.storage.reads.series import Buckets, Readings
from citybeat.storage.registry.selection import Selected

Wanted = Mapping[str, Sequence[Aggregate]]  # by metric
_NOTHING: Final = -1


def columns(chosen: Selected, which: NDArray[np.int64], found: Buckets, wanted: Wanted) -> dict[str, Any]:
    """Times, a column for each aggregate (NaN where it is not wanted for the row's metric), `bad_count` and `coverage`.

    Parameters
    ----------
    chosen : Selected, s series
    which : (n,) int64
        Row of `chosen` that each bucket belongs to.
    found : Buckets, n rows
    wanted : mapping of str to sequence of Aggregate
        By metric.
    """
    out: dict[str, Any] = {"time": milliseconds(found.time)}
    kinds = np.array([list(Kind).index(kind) for kind in chosen.kind], np.int64)
    of_metric = {metric: np.array([each == metric for each in chosen.metric], np.bool_) for metric in wanted}
    for aggregate in dict.fromkeys(each for asked in wanted.values() for each in asked):
        asking = np.zeros(len(chosen), np.bool_)
        for metric, asked in wanted.items():
            if aggregate in asked:
                asking |= of_metric[metric]
        if aggregate is Aggregate.COUNT and asking.all():
            out[aggregate.value] = found.n
            continue
        column = np.full(len(found), np.nan)
        for code in np.unique(kinds[asking]).tolist():
            rows = np.flatnonzero(asking[which] & (kinds[which] == code))
            column[rows] = aggregates.compute(aggregate, list(Kind)[code], found.take(rows))
        out[aggregate.value] = column
    out["bad_count"] = found.n_bad
    out["coverage"] = aggregates.coverage(found, chosen.expected_every[which])
    return out


def columns_without_gaps(
    chosen: Selected, which: NDArray[np.int64], found: Buckets, wanted: Wanted, time: Int64, end: Int64, rule: Fill
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Every bucket of every series: the row of `chosen` of each, and the columns.

    Parameters
    ----------
    chosen, which, found, wanted
        As for `columns`.
    time, end : (g,) int64
        Where the buckets of the range begin and end, us since 1970 UTC.
    rule : Fill
    """
    shape = (len(chosen), len(time))
    # Buckets without readings take the row that is appended, which is all zeros.
    row = np.full(shape, _NOTHING)
    row[which, np.searchsorted(time, found.time)] = np.arange(len(found))
    dense = replace(_with_nothing(found).take(row.ravel()), time=np.tile(time, shape[0]), end=np.tile(end, shape[0]))
    whose = np.repeat(np.arange(shape[0]), shape[1])
    out = columns(chosen, whose, dense, wanted)
    known = (dense.n > 0).reshape(shape)
    directions: Bools = np.array([kind is Kind.DIRECTION for kind in chosen.kind], np.bool_)
    made = np.zeros(shape, np.bool_)
    for aggregate in FILLED & set(out):
        values: Float64 = out[aggregate].reshape(shape)
        column = filled(values, known, time, rule, directions=directions)
        made |= ~known & ~np.isnan(column)
        out[aggregate] = column.ravel()
    out["filled"] = made.ravel()
    return whose, out


def _with_nothing(found: Buckets) -> Buckets:
    zero = {name: np.append(getattr(found, name), 0).astype(getattr(found, name).dtype) for name in Buckets.__dataclass_fields__}
    return Buckets(**zero)


def reading_columns(chosen: Selected, found: Readings, rows: NDArray[np.int64]) -> dict[str, Any]:
    """These rows of raw readings, with the names and units of their series."""
    which = chosen.rows(found.series[rows])
    return {
        "device": _taken(chosen.device, which),
        "metric": _taken(chosen.metric, which),
        "unit": _taken(chosen.unit, which),
        "time": milliseconds(found.time[rows]),
        "value": found.value[rows],
        "flags": flag_names(found.flags[rows]),
    }


def _taken(texts: Any, which: NDArray[np.int64]) -> list[str]:
    names = np.empty(len(texts), object)
    names[:] = texts
    taken: list[str] = names[which].tolist()
    return taken
