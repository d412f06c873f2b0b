"""Readings in delivery, as rows: their contents, their faults, and the outcome that is expected of them. Pure.

What must become of a reading is what docs/mqtt.md promises: the constants here are ingest's own, and a test holds them to it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from citybeat.devices.batch import MICROSECOND, NEVER, Int64
from citybeat.devices.errors import Reason
from citybeat.simulator.faults.kinds import Fault

#: us since 1970 UTC. Older times are refused: they come from clocks that lost their power.
OLDEST: Final = 978_307_200 * MICROSECOND
#: us. Times farther ahead of the time of receipt are refused.
FUTURE_LIMIT: Final = 600 * MICROSECOND


class Outcome(StrEnum):
    """Expected outcome of a reading."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    MISSING = "missing"
    QUARANTINED = "quarantined"
    UNDECODABLE = "undecodable"  # its message could not be read
    LOST = "lost"  # never reached the broker


OUTCOMES: Final = tuple(Outcome)
OUTCOME_CODES: Final[Mapping[Outcome, int]] = {outcome: code for code, outcome in enumerate(OUTCOMES)}
REASONS: Final = ("", *(reason.value for reason in Reason))
REASON_CODES: Final[Mapping[Reason, int]] = {Reason(name): code for code, name in enumerate(REASONS) if name}
FAULTS: Final = ("", *(kind.value for kind in Fault))
FAULT_CODES: Final[Mapping[Fault, int]] = {Fault(name): code for code, name in enumerate(FAULTS) if name}
#: `rank` of a reading without a fault of delivery.
NO_RANK: Final = np.iinfo(np.int16).max

#: A reading in delivery.
ROW: Final = np.dtype(
    [
        ("series", np.int32),  # of the city's table
        ("time", np.int64),  # us since 1970 UTC, by a right clock
        ("claimed", np.int64),  # what the payload says; NEVER: nothing
        ("value", np.float64),  # as sent
        ("true", np.float64),
        ("fault", np.int8),  # FAULTS
        ("event", np.int32),  # -1: none
        ("delivery", np.int8),  # FAULTS
        ("delivery_event", np.int32),
        ("rank", np.int16),  # number of the specification of `delivery`; the smaller one counts
        ("outcome", np.int8),  # OUTCOMES
        ("reason", np.int8),  # REASONS
        ("index", np.int32),  # place in its message; -1: it never went into one
    ]
)
Rows = NDArray[np.void]


def expect(rows: Rows, sent_at: int) -> None:
    """Set the expected outcome of readings that are sent now and have no other yet (`outcome` STORED), by their times; in place.

    Parameters
    ----------
    rows : (n,) ROW
    sent_at : int
        us since 1970 UTC.
    """
    stored = rows["outcome"] == OUTCOME_CODES[Outcome.STORED]
    timed = stored & (rows["claimed"] != NEVER)
    for reason, wrong in (
        (Reason.TOO_OLD, rows["claimed"] < OLDEST),
        (Reason.TOO_FAR_AHEAD, rows["claimed"] > sent_at + FUTURE_LIMIT),
    ):
        refuse(rows, np.flatnonzero(timed & wrong), reason)


def refuse(rows: Rows, which: Int64, reason: Reason) -> None:
    """Expect readings to go to quarantine; in place."""
    rows["outcome"][which] = OUTCOME_CODES[Outcome.QUARANTINED]
    rows["reason"][which] = REASON_CODES[reason]


def again(rows: Rows) -> Rows:
    """Return the readings of a message that is repeated with its number: each that has a value is a duplicate."""
    copy = rows.copy()
    copy["outcome"] = np.where(rows["outcome"] == OUTCOME_CODES[Outcome.MISSING], rows["outcome"], OUTCOME_CODES[Outcome.DUPLICATE])
    copy["reason"] = 0
    return copy


def deliver(rows: Rows, kind: Fault, number: int, event: int | Int64) -> None:
    """Label readings with a fault of delivery, unless an earlier specification has; in place."""
    mine = rows["rank"] > number
    rows["delivery"] = np.where(mine, FAULT_CODES[kind], rows["delivery"])
    rows["delivery_event"] = np.where(mine, event, rows["delivery_event"])
    rows["rank"] = np.where(mine, number, rows["rank"])
