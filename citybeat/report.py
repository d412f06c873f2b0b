"""The final account of `citybeat up`: what was published against what the database has. Pure, but for what it is handed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from citybeat.devices.ledger import OUTCOMES, Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What one source says it sent, and what the database saw of it."""

    source: str
    numbered: int  # messages that got a number
    unconfirmed: int  # of them: refused by the broker, or without an answer; nobody promised anything for these
    messages: int  # acknowledged
    readings: int  # in acknowledged messages
    seen: int  # numbers that the database has

    @property
    def lost(self) -> int:
        """Numbered messages that never came and were never promised."""
        return min(self.numbered - self.seen, self.unconfirmed)

    @property
    def outstanding(self) -> int:
        """Acknowledged messages that the database has not seen."""
        return max(0, self.numbered - self.seen - self.unconfirmed)

    @property
    def in_flight(self) -> int:
        """Readings in outstanding messages, by the source's mean: nobody has read those messages yet."""
        return round(self.outstanding * self.readings / max(self.messages, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The account of a run, in readings of this run; `lost_before_broker` is messages."""

    published: int
    run: Counts  # of the ledger
    lost_before_broker: int
    in_flight: int
    balanced: bool
    rollups_match: bool
    findings: Sequence[str]  # what does not balance or match, in sentences

    @property
    def ok(self) -> bool:
        """Whether the run may end with exit status 0."""
        return self.balanced and self.rollups_match and self.run.stored > 0

    def as_dict(self) -> dict[str, Any]:
        """Give the account as JSON has it: of the ledger's counts received readings and their outcomes."""
        whole = asdict(self)
        run = whole.pop("run")
        return {"published": whole.pop("published"), **{name: run[name] for name in ("received", *OUTCOMES)}, **whole}


def build(*, sent: Sequence[Sent], run: Counts, discrepancies: Sequence[str], rollup_differences: Sequence[str]) -> Report:
    """Put the account together.

    Parameters
    ----------
    sent : sequence of Sent
        By source; empty without a simulator.
    run : Counts
        The ledger's totals of this run, over all sources.
    discrepancies, rollup_differences : sequence of str
        From `storage.accounts.ledger`, over the whole database.
    """
    outstanding = [f"source {s.source}: {s.outstanding} acknowledged messages have not come" for s in sent if s.outstanding]
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
    """What each source sent, from the simulator's report, beside what the database saw.

    Parameters
    ----------
    simulator : mapping
        `simulator.run.RunReport.as_dict`.
    seen : mapping
        (messages seen, holes) by (source, boot).
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
