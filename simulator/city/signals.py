"""Signals of a city's sensors: the value of any series at any time, as a function of (seed, series, time).

Nothing is carried from one reading to the next, so any part of the city's history can be made alone, in chunks of any size,
by any number of processes, and is the same to the byte (the law of `simulator.city.noise` holds here too). What is shared by whom
says `simulator.city.at`, what each metric shows `simulator.city.models`, what the days are like `simulator.city.almanac`.
"""

import numpy as np

from citybeat.devices.batch import Float64, Int64
from citybeat.simulator.city.at import At, SeriesTable
from citybeat.simulator.city.models import MODELS


def sample(table: SeriesTable, series: Int64, time: Int64) -> Float64:
    """Compute the values of series at given times.

    Parameters
    ----------
    table : SeriesTable
    series : (n,) int64
        Rows of the table; any order, repeats allowed.
    time : (n,) int64
        us since 1970 UTC.

    Returns
    -------
    (n,) float64
        In the unit of each series' metric; never NaN. Row i depends on (table, series[i], time[i]) alone.

    Raises
    ------
    ValueError
        The lengths differ, or a metric of the table has no model.
    """
    if series.shape != time.shape or series.ndim != 1:
        raise ValueError(f"series and time must be arrays of one length, not {series.shape} and {time.shape}")
    unknown = set(table.metrics) - MODELS.keys()
    if unknown:
        raise ValueError(f"no model for {', '.join(sorted(unknown))}")
    values = np.empty(len(time), np.float64)
    codes = table.metric[series]
    for code in np.unique(codes).tolist():
        here = np.flatnonzero(codes == code)
        values[here] = MODELS[table.metrics[code]].sense(At(table, code, series[here], time[here]))
    return values
