"""Running totals of one ingest process, for display; the ledger in the database is authoritative."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Counters:
    """Totals since the start of the process."""

    totals: Counter[str] = field(default_factory=Counter)  # the ledger's columns
    batches: int = 0
    lag: float = 0.0  # s from receipt to commit of the last batch's oldest message
    commit: float = 0.0  # s that the last batch took in its worker

    def add(self, counts: Counter[str], *, lag: float, commit: float) -> None:
        """Count a committed batch."""
        self.totals.update(counts)
        self.batches += 1
        self.lag, self.commit = lag, commit

    def as_dict(self, *, waiting: int) -> dict[str, Any]:
        """The totals as a JSON object; `waiting` is the number of messages in the inboxes."""
        return {
            **self.totals,
            "batches": self.batches,
            "lag_s": round(self.lag, 4),
            "commit_s": round(self.commit, 4),
            "waiting": waiting,
        }
