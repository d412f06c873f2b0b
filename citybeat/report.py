"""The final report of `citybeat up`: published readings compared with those in the database. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from citybeat.devices.ledger import OUTCOMES, Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """One source: messages and readings that it sent, and message numbers that the database has."""

    source: str
    numbered: int  # messages that got a number
    unconfirmed: int  # of them: refused by the broker or never acknowledged, so that nothing was promised for them
    messages: int  # acknowledged
    readings: int  # in acknowledged messages
    seen: int  # message numbers that the database has

    @property
    def lost(self) -> int:
        """Numbered messages that never came and were never acknowledged."""
        return min(self.numbered - self.seen, self.unconfirmed)

    @property
    def outstanding(self) -> int:
        """Acknowledged messages that the database does not have."""
        return max(0, self.numbered - self.seen - self.unconfirmed)

    @property
    def in_flight(self) -> int:
        """Readings in outstanding messages, estimated by the source's mean: those messages have not been decoded."""
        return round(self.outstanding * self.readings / max(self.messages, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The report of a run. Counts are readings of this run, except `lost_before_broker`, which counts messages."""

    published: int
    run: Counts  # of the ledger
    lost_before_broker: int
    in_flight: int
    balanced: bool
    rollups_match: bool
    findings: Sequence[str]  # one sentence for each mismatch

    @property
    def ok(self) -> bool:
        """True if the run ends with exit status 0."""
        return self.balanced and self.rollups_match and self.run.stored > 0

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON object; of the ledger it has received readings and their outcomes."""
        whole = asdict(self)
        run = whole.pop("run")
        return {"published": whole.pop("published"), **{name: run[name] for name in ("received", *OUTCOMES)}, **whole}


def build(*, sent: Sequence[Sent], run: Counts, discrepancies: Sequence[str], rollup_differences: Sequence[str]) -> Report:
    """Compare the totals of a run.

    Parameters
    ----------
    sent : sequence of Sent
        By source; empty without a simulator.
    run : Counts
        The ledger's totals of this run, over all sources.
    discrepancies, rollup_differences : sequence of str
        Differences in the whole database, from `storage.accounts.ledger`.
    """
    outstanding = [f"source {s.source}: {s.outstanding} acknowledged messages did not arrive" for s in sent if s.outstanding]
    return Report(
        published=sum(s.readings for s in sent),
        run=run,
        lost_before_broker=sum(s.lost for s in sent),
        in_flight=sum(s.in_flight for s in sent),
        balanced=not outstanding and not discrepancies,
        rollups_match=not rollup_differences,
        findings=[*outstanding, *discrepancies, *rollup_differences],
    )


def sent_by_source(simulator: Mapping[str, Any], seen: Mapping[tuple[str, str], tuple[int, int]]) -> list[Sent]:
    """Combine the simulator's report with the message numbers that the database has, by source.

    Parameters
    ----------
    simulator : mapping
        `simulator.run.RunReport.as_dict`.
    seen : mapping
        (numbers seen, numbers missing) by (source, boot).
    """
    return [
        Sent(
            source=source["source"],
            numbered=0 if source["last_seq"] is None else source["last_seq"] + 1,
            unconfirmed=source["refused_messages"] + source["unacknowledged_messages"],
            messages=source["messages"],
            readings=source["readings"],
            seen=seen.get((source["source"], source["boot"]), (0, 0))[0],
        )
        for source in simulator["sources"]
    ]
