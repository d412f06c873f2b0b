"""Compares the ledger that the truth expects, source by source, with that of the database. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from citybeat.devices.batch import FOREVER, NEVER, Int64
from citybeat.devices.errors import Reason
from citybeat.devices.ledger import OUTCOMES as ENDS
from citybeat.devices.ledger import Counts
from citybeat.simulator.faults.rows import OUTCOME_CODES, OUTCOMES, REASON_CODES, REASONS, Outcome
from citybeat.simulator.score.labels import Labels, Names, delivered
from citybeat.simulator.score.telling import NAMED, Findings

#: Counts that are compared for each source, in readings except the last two.
COUNTS: Final = ("received", *ENDS, "undecodable", "lost")
_READ, _UNREAD, _LOST = 1, 2, 4  # outcome of a message


@dataclass(frozen=True, kw_only=True, slots=True)
class Actual:
    """Ledger of one source in the database, since the run began."""

    counts: Counts  # of the ledger
    reasons: Mapping[Reason, int]  # readings in quarantine; the reasons of those that `counts.overflow` counts are not known


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Comparison of one source's ledger."""

    source: str
    truth: Mapping[str, int]  # COUNTS
    database: Mapping[str, int]  # COUNTS
    redelivered: int  # messages, as the database has it


class Expected:
    """Ledger that the truth expects; it grows block by block.

    Parameters
    ----------
    last_seq : mapping
        The highest number sent, by (source, boot).
    """

    def __init__(self, last_seq: Mapping[tuple[str, str], int]) -> None:
        self._last: Final = last_seq
        self._outcomes: Final[dict[int, Int64]] = {}  # by source: readings by outcome
        self._reasons: Final[dict[int, Int64]] = {}  # by source: readings by reason
        self._unread: Final[dict[int, int]] = {}  # by source: messages
        self._messages: Final[dict[int, np.ndarray[tuple[int], np.dtype[np.uint8]]]] = {}  # by start: what became of each number
        #: us since 1970 UTC: when the first reading was handed to the broker; FOREVER: none was.
        self.begun = int(FOREVER)

    def add(self, rows: Labels, boots: Sequence[tuple[str, str]]) -> None:
        """Add rows, of these starts; every message's reading 0 is among the rows of one call or another."""
        sent_at = rows["sent_at"][rows["sent_at"] != NEVER]
        self.begun = min(self.begun, int(sent_at.min(initial=FOREVER)))
        quarantined = rows["outcome"] == OUTCOME_CODES[Outcome.QUARANTINED]
        unread = rows["outcome"] == OUTCOME_CODES[Outcome.UNDECODABLE]
        for source in np.unique(rows["source"]).tolist():
            mine = rows["source"] == source
            counts = np.bincount(rows["outcome"][mine], minlength=len(OUTCOMES))
            self._outcomes[source] = self._outcomes.get(source, np.int64(0)) + counts
            reasons = np.bincount(rows["reason"][mine & quarantined], minlength=len(REASONS))
            self._reasons[source] = self._reasons.get(source, np.int64(0)) + reasons
            self._unread[source] = self._unread.get(source, 0) + int((mine & unread & (rows["index"] == 0)).sum())
        became = np.where(delivered(rows), _READ, np.where(unread, _UNREAD, _LOST)).astype(np.uint8)
        numbered = rows["seq"] >= 0
        for boot in np.unique(rows["boot"][numbered]).tolist():
            mine = numbered & (rows["boot"] == boot)
            seqs = rows["seq"][mine]
            known = self._messages.get(boot)
            size = max(int(seqs.max()), self._last.get(boots[boot], -1)) + 1
            if known is None or len(known) < size:
                grown = np.zeros(size, np.uint8)
                if known is not None:
                    grown[: len(known)] = known
                known = self._messages[boot] = grown
            np.bitwise_or.at(known, seqs, became[mine])

    def received(self) -> int:
        """Readings of all sources that the ledger must have."""
        gone = [OUTCOME_CODES[Outcome.UNDECODABLE], OUTCOME_CODES[Outcome.LOST]]
        return sum(int(counts.sum() - counts[gone].sum()) for counts in self._outcomes.values())

    def settle(
        self,
        names: Names,
        actual: Mapping[str, Actual],
        seen: Mapping[tuple[str, str], Sequence[tuple[int, int]]],
        findings: Findings,
    ) -> list[Account]:
        """Compare, and add the differences to the findings.

        Parameters
        ----------
        names : Names
        actual : mapping
            By source.
        seen : mapping
            By (source, boot), the numbers that came: pairs of first and last, the last exclusive.
        findings : Findings
            Grows.
        """
        lost = self._numbers(names, seen, findings)
        accounts = []
        for place, source in enumerate(names.sources):
            outcomes = self._outcomes[place]
            truth = {name: int(outcomes[OUTCOME_CODES[Outcome(name)]]) for name in ENDS}
            truth = {"received": sum(truth.values()), **truth, "undecodable": self._unread[place], "lost": lost[source][0]}
            said = actual.get(source, Actual(counts=Counts(), reasons={}))
            database = {**{name: getattr(said.counts, name) for name in COUNTS[:-1]}, "lost": lost[source][1]}
            account = Account(source=source, truth=truth, database=database, redelivered=said.counts.redelivered)
            accounts.append(account)
            for name in COUNTS:
                if truth[name] != database[name]:
                    findings.tell(
                        f"{name}: the truth has {truth[name]:,}, the database {database[name]:,}",
                        source,
                        abs(truth[name] - database[name]),
                        [],
                    )
            self._reasons_of(place, source, said, findings)
        return accounts

    def _reasons_of(self, place: int, source: str, said: Actual, findings: Findings) -> None:
        wanted = self._reasons[place]
        for reason, code in REASON_CODES.items():
            have, want = said.reasons.get(reason, 0), int(wanted[code])
            # Readings that found no room in quarantine are counted, and their reasons are unknown.
            if reason is not Reason.CONFLICT and not want - said.counts.overflow <= have <= want:
                findings.tell(
                    f"quarantined as {reason}: the truth has {want:,}, the database {have:,}", source, abs(want - have), []
                )

    def _numbers(
        self, names: Names, seen: Mapping[tuple[str, str], Sequence[tuple[int, int]]], findings: Findings
    ) -> dict[str, list[int]]:
        """Return the lost messages by source: by the truth, and by the database."""
        lost = {source: [0, 0] for source in names.sources}
        for place, became in self._messages.items():
            source, boot = names.boots[place]
            came = np.zeros(len(became), np.bool_)
            for first, stop in seen.get((source, boot), ()):
                came[first:stop] = True
            known = became != 0  # a number without a row carried no reading: nothing is said of it
            read = (became & _READ) != 0
            # The number of a message that cannot be read is known only if its envelope could be.
            clear = known & ~((became & _UNREAD) != 0)
            lost[source][0] += int((clear & ~read).sum())
            lost[source][1] += int((clear & ~came).sum())
            for what, wrong in (
                ("messages that should have come, and did not", clear & read & ~came),
                ("messages that should be lost, and came", clear & ~read & came),
            ):
                numbers = np.flatnonzero(wrong)
                if len(numbers):
                    findings.tell(what, source, len(numbers), [f"{source} {boot} message {n}" for n in numbers[:NAMED].tolist()])
        for (source, boot), ranges in seen.items():
            if source in lost and (source, boot) not in names.boots and ranges:
                findings.tell(
                    f"messages of a start ({boot!r}) that the truth does not know: something else was sent meanwhile",
                    source,
                    sum(stop - first for first, stop in ranges),
                    [],
                )
        return lost
