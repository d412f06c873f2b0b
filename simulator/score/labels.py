"""Labels of readings in a truth file, as codes and arrays. Pure; `simulator/score/truthfile.py` reads the file.

A reading that was sent twice has two rows. Names of sensors and of starts (source, boot) are places in lists of their own, which
grow while the file is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import NEVER
from citybeat.simulator.faults.rows import OUTCOME_CODES, Outcome

#: One row of a truth file. Packed, not aligned: a day of a city goes through files of it.
LABELS: Final = np.dtype(
    [
        ("series", "<i4"),  # place in the list of sensors
        ("boot", "<i4"),  # place in the list of starts
        ("source", "<i4"),  # place in the list of sources
        ("seq", "<i8"),  # -1: not numbered
        ("index", "<i4"),  # place within its message; -1: it never went into one
        ("time", "<i8"),  # us since 1970 UTC, by a right clock
        ("claimed", "<i8"),  # us, what the payload says; NEVER: nothing
        ("sent_at", "<i8"),  # us; NEVER: never
        ("value", "<f8"),  # as sent; NaN: nothing numeric
        ("fault", "<i1"),  # code, as of `simulator.faults.rows`; as the three below
        ("event", "<i4"),  # which episode of the fault; -1: none
        ("delivery", "<i1"),
        ("outcome", "<i1"),
        ("reason", "<i1"),
        ("acknowledged", "?"),
    ]
)
Labels = NDArray[np.void]


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """Names of the places."""

    series: Sequence[tuple[str, str]]  # device, metric
    boots: Sequence[tuple[str, str]]  # source, boot
    sources: Sequence[str]


def labels(n: int, **columns: Any) -> Labels:
    """Make rows of a truth file by hand: stored, clean and on time unless columns say otherwise.

    Parameters
    ----------
    n : int
    **columns : scalar or (n,) array
        By name.

    Examples
    --------
    >>> labels(2, time=[1, 2])["claimed"].tolist()
    [1, 2]
    """
    rows = np.zeros(n, LABELS)
    rows["seq"], rows["event"], rows["acknowledged"] = np.arange(n), -1, True
    for name, column in columns.items():
        rows[name] = column
    for name in ("claimed", "sent_at"):
        if name not in columns:
            rows[name] = rows["time"]
    return rows


def delivered(rows: Labels) -> NDArray[np.bool_]:
    """Return which rows came in a message that could be read: the ledger counts them as received."""
    out: NDArray[np.bool_] = ~np.isin(rows["outcome"], [OUTCOME_CODES[Outcome.LOST], OUTCOME_CODES[Outcome.UNDECODABLE]])
    return out


def timed(rows: Labels) -> NDArray[np.bool_]:
    """Return which rows carry a time of their own."""
    out: NDArray[np.bool_] = rows["claimed"] != NEVER
    return out
