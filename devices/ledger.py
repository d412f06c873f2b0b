"""The ledger's counters. Tables, statements, API models, metrics and commands take their columns from `Counts`.

A counter is a column of the tables `ledger` and `ledger_totals` under the same name. Adding one takes a field here and a migration.
"""

import enum
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields
from typing import Any, Final, Self


class Sort(enum.Enum):
    """Kinds of counters."""

    MESSAGES = enum.auto()
    RECEIVED = enum.auto()  # readings, before anything is decided about them
    OUTCOME = enum.auto()  # readings; each received reading ends as exactly one outcome
    PART = enum.auto()  # readings that another counter has as well


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerCounter:
    """One counter."""

    name: str
    sort: Sort
    meaning: str  # a sentence for metrics and for the API's documentation

    @property
    def metric(self) -> str:
        """The name of its metric behind `citybeat_ledger_` or `citybeat_ingest_`; outcomes share one metric with a label.

        Examples
        --------
        >>> [counter.metric for counter in COUNTERS[:4]]
        ['messages', 'undecodable_messages', 'redelivered_messages', 'received_readings']
        """
        unit = "messages" if self.sort is Sort.MESSAGES else "readings"
        return unit if self.name == unit else f"{self.name}_{unit}"


def _counter(sort: Sort, meaning: str) -> Any:
    return field(default=0, metadata={"sort": sort, "meaning": meaning})


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Values of all counters. The difference of two totals is what was counted between them."""

    messages: int = _counter(Sort.MESSAGES, "Messages that were committed.")
    undecodable: int = _counter(Sort.MESSAGES, "Messages in which nothing could be read.")
    redelivered: int = _counter(Sort.MESSAGES, "Messages that had come before, or that the broker marked as repeated.")
    received: int = _counter(Sort.RECEIVED, "Readings in the messages that were committed.")
    stored: int = _counter(Sort.OUTCOME, "Readings that were stored.")
    duplicate: int = _counter(Sort.OUTCOME, "Readings that had been stored before with the same value.")
    conflict: int = _counter(Sort.OUTCOME, "Readings for whose time another value had been stored before.")
    missing: int = _counter(Sort.OUTCOME, "Readings without a value.")
    quarantined: int = _counter(Sort.OUTCOME, "Readings that were refused.")
    overflow: int = _counter(Sort.PART, "Quarantined readings that were not kept: the source's quota is full.")

    @classmethod
    def of(cls, values: Sequence[int]) -> Self:
        """Counts from values in the order of `NAMES`."""
        return cls(**dict(zip(NAMES, values, strict=True)))

    def __sub__(self, earlier: "Counts") -> "Counts":
        return Counts.of([mine - theirs for mine, theirs in zip(astuple(self), astuple(earlier), strict=True)])

    @property
    def balanced(self) -> bool:
        """Return whether every received reading ended as exactly one outcome."""
        ended: int = sum(getattr(self, name) for name in OUTCOMES)
        return self.received == ended


COUNTERS: Final = tuple(LedgerCounter(name=each.name, **each.metadata) for each in fields(Counts))
NAMES: Final = tuple(counter.name for counter in COUNTERS)
OUTCOMES: Final = tuple(counter.name for counter in COUNTERS if counter.sort is Sort.OUTCOME)
