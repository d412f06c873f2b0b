"""Matches rows of the database with rows of the truth. Pure, and by arrays."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import Bools, Int64
from citybeat.devices.flags import Flag
from citybeat.simulator.faults.rows import OUTCOME_CODES, Outcome
from citybeat.simulator.score.labels import Labels, timed

#: One stored reading as the database has it.
STORED: Final = np.dtype([("series", "<i4"), ("time", "<i8"), ("received_at", "<i8"), ("value", "<f8"), ("flags", "<i2")])
Rows = NDArray[np.void]


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """n rows of the truth and k of the database, by series, then time."""

    stored: Rows  # (k,) sorted
    at: Int64  # (n,) the stored reading of the row's sensor and time, whatever must become of the row; -1: there is none
    hit: Int64  # (n,) the same, of rows that must be stored, those without a time too; -1: it is not there
    uses: Int64  # (k,) how many rows of the truth are this one: 1 is right


def match(truth: Labels, stored: Rows) -> Matched:
    """Find each row of the truth in the database.

    A row with a time of its own is the stored reading of its sensor and time. One without is any stored reading of its sensor and
    value that carries CLOCK; of several equal ones the first sent is the first received.
    """
    stored = stored[np.lexsort((stored["time"], stored["series"]))]
    own = timed(truth)
    at = np.full(len(truth), -1, np.int64)
    at[own] = _places(stored["series"], stored["time"], truth["series"][own], truth["claimed"][own])
    wanted = truth["outcome"] == OUTCOME_CODES[Outcome.STORED]
    hit = np.where(wanted, at, -1)
    without = np.flatnonzero(wanted & ~own)
    if len(without):
        clock = np.flatnonzero(stored["flags"] & np.int16(Flag.CLOCK))
        found = _in_turn(stored[clock], truth[without])
        hit[without] = np.where(found >= 0, clock[found], -1) if len(clock) else -1
    return Matched(stored=stored, at=at, hit=hit, uses=np.bincount(hit[hit >= 0], minlength=len(stored)))


def join(known: Int64, wanted: Int64) -> Int64:
    """Return the place of each wanted key among known ones, which are ascending and distinct; -1: it is not among them."""
    place = np.searchsorted(known, wanted)
    place[place == len(known)] = 0
    found = known[place] == wanted if len(known) else np.zeros(len(wanted), np.bool_)
    return np.where(found, place, -1)


def _places(series: Int64, time: Int64, wanted_series: Int64, wanted_time: Int64) -> Int64:
    """Return the places of pairs, sorted by series, then time."""
    first = min(int(time.min(initial=0)), int(wanted_time.min(initial=0)))
    span = max(int(time.max(initial=0)), int(wanted_time.max(initial=0))) - first + 1
    top = max(int(series.max(initial=0)), int(wanted_series.max(initial=0)))
    if (top + 1) * span < 2**63:
        return join(series.astype(np.int64) * span + (time - first), wanted_series.astype(np.int64) * span + (wanted_time - first))
    moments = np.unique(np.concatenate([time, wanted_time]))  # broken clocks are years apart: number the times instead
    n = len(moments)
    return join(
        series.astype(np.int64) * n + np.searchsorted(moments, time),
        wanted_series.astype(np.int64) * n + np.searchsorted(moments, wanted_time),
    )


def _in_turn(stored: Rows, truth: Labels) -> Int64:
    """Return for each row of the truth the stored row with its sensor and value, the k-th for the k-th; -1: there is none."""
    values = np.unique(np.concatenate([stored["value"], truth["value"]]))
    keys = []
    for rows, when in ((stored, "received_at"), (truth, "sent_at")):
        pair = rows["series"].astype(np.int64) * len(values) + np.searchsorted(values, rows["value"])
        order = np.lexsort((rows[when], pair))
        turn = np.empty(len(rows), np.int64)
        turn[order] = np.arange(len(rows)) - starts_of(pair[order])
        keys.append(pair * (len(stored) + len(truth) + 1) + turn)
    order = np.argsort(keys[0])
    place = join(keys[0][order], keys[1])
    return np.where(place >= 0, order[place], -1) if len(order) else place


def starts_of(keys: NDArray[Any]) -> Int64:
    """Return for each of sorted keys the place where its run of equal keys began."""
    begins = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    return np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0)) if len(keys) else np.empty(0, np.int64)


def overtaken(stored: Rows) -> Bools:
    """Return which stored readings (by series, then time) came after a later one of their sensor: STEP and STUCK skip them."""
    k = len(stored)
    if k == 0:
        return np.zeros(0, np.bool_)
    came = stored["received_at"] - stored["received_at"].min()
    span = int(came.max()) + 1
    # Going back from the last series to the first, every number of a series is below every number of the one before.
    ladder = came + stored["series"].astype(np.int64) * span
    earliest = np.minimum.accumulate(ladder[::-1])[::-1]  # of this row and all later ones of the series
    out: Bools = earliest < ladder
    return out
