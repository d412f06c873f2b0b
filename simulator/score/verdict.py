"""Score: the results of a `Scorer` and of the ledger as rates, and the bars that they miss. Pure; docs/scoring.md defines it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from citybeat.devices.flags import Flag
from citybeat.simulator.faults.kinds import Fault
from citybeat.simulator.score.books import COUNTS, Account
from citybeat.simulator.score.scorer import Scorer
from citybeat.simulator.score.tallies import Kind
from citybeat.simulator.score.telling import Finding


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """Bars of a kind."""

    recall: float
    precision: float | None = None


#: The kinds in the order in which they are shown, and what is counted of each.
UNITS: Final[Mapping[str, str]] = {
    Fault.RANGE: "readings",
    Fault.SENTINEL: "readings",
    Fault.SPIKE: "readings",
    Fault.STEP: "episodes",
    Fault.STUCK: "episodes",
    "stuck readings": "readings",
    Fault.DRIFT: "episodes",
    Fault.OFFSET: "episodes",
    Fault.NOISE: "episodes",
    Fault.UNIT: "episodes",
    Fault.RESET: "episodes",
    Fault.DROPOUT: "readings",
    Fault.LATE: "readings",
    Fault.CLOCK: "readings",
    Fault.NO_TIME: "readings",
    Fault.DUPLICATE: "readings",
    Fault.CONFLICT: "readings",
    Fault.MALFORMED: "readings",
    "malformed messages": "messages",
    Fault.LOST: "messages",
}
_ALL: Final = Bar(recall=1.0, precision=1.0)
BARS: Final[Mapping[str, Bar]] = {
    Fault.RANGE: _ALL,
    Fault.SENTINEL: _ALL,
    Fault.SPIKE: Bar(recall=0.95, precision=0.95),
    Fault.STEP: Bar(recall=0.95, precision=0.95),
    Fault.STUCK: Bar(recall=0.99),
    "stuck readings": Bar(recall=0.99),
    Fault.LATE: _ALL,
    Fault.CLOCK: _ALL,
    Fault.NO_TIME: _ALL,
    Fault.DUPLICATE: _ALL,
    Fault.CONFLICT: _ALL,
    Fault.MALFORMED: _ALL,
    "malformed messages": _ALL,
}
#: Of clean readings.
FALSE_ALARMS: Final = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A distribution of delays."""

    median: float
    p95: float
    max: float


@dataclass(frozen=True, kw_only=True, slots=True)
class KindScore:
    """Score of one kind of fault."""

    kind: str
    unit: str  # what is counted: readings, episodes, messages
    of: int
    found: int
    left_out: int
    claims: int  # how often the database says so
    right: int  # of them
    recall: float | None  # None: there was nothing to be found
    precision: float | None  # None: nothing was claimed, or there is no such claim
    delay_seconds: Spread | None  # from the first wrong reading to the first flag; None: no episode was found
    delay_readings: Spread | None
    by_metric: Mapping[str, tuple[int, int]]  # of, found


@dataclass(frozen=True, kw_only=True, slots=True)
class FlagScore:
    """Score of one flag."""

    flag: str
    flagged: int
    right: int
    aftermath: int
    wrong: int
    precision: float | None  # right, of right and wrong
    strict: float | None  # right, of all


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The whole score."""

    scenario: str
    seed: int
    readings: int  # rows of the truth
    kinds: Sequence[KindScore]
    flags: Sequence[FlagScore]
    clean: int  # readings with which nothing is wrong
    aftermath: int  # left out of them
    false_alarms: int
    accounts: Sequence[Account]
    disagreements: Sequence[Finding]
    notes: Mapping[str, tuple[int, Sequence[str]]]  # what was not found, and what was found that is not there: how often, and where
    missed: Sequence[str]  # bars, as sentences

    @property
    def false_alarm_rate(self) -> float:
        """Return the figures of clean readings."""
        return self.false_alarms / self.clean if self.clean else 0.0

    @property
    def ok(self) -> bool:
        """True if every bar is met, and the ledger agrees."""
        return not self.missed and not self.disagreements

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "false_alarm_rate": self.false_alarm_rate, "books_agree": not self.disagreements, "ok": self.ok}


def verdict(scorer: Scorer, accounts: Sequence[Account], *, scenario: str, seed: int, readings: int) -> Score:
    """Make the score from the counts.

    Parameters
    ----------
    scorer : Scorer
        With every part, and the ledger's findings among its own.
    accounts : sequence of Account
    scenario, seed, readings
        Values of the truth file, and its number of rows.
    """
    _claims(scorer, accounts)
    kinds = [_kind(name, scorer.kinds[name]) for name in UNITS if name in scorer.kinds and _any(scorer.kinds[name])]
    clean = scorer.clean
    missed = [sentence for kind in kinds for sentence in _missed(kind)]
    if clean.alarms > FALSE_ALARMS * clean.readings:
        missed.append(
            f"false alarms: {clean.alarms:,} of {clean.readings:,} clean readings, {clean.alarms / clean.readings:.3%};"
            f" at most {FALSE_ALARMS:.1%}"
        )
    return Score(
        scenario=scenario,
        seed=seed,
        readings=readings,
        kinds=kinds,
        flags=[
            FlagScore(
                flag=flag.name or "",
                flagged=raised.flagged,
                right=raised.right,
                aftermath=raised.aftermath,
                wrong=raised.wrong,
                precision=raised.right / (raised.right + raised.wrong) if raised.right + raised.wrong else None,
                strict=raised.right / raised.flagged if raised.flagged else None,
            )
            for flag, raised in scorer.flags.items()
        ],
        clean=clean.readings,
        aftermath=clean.aftermath,
        false_alarms=clean.alarms,
        accounts=accounts,
        disagreements=scorer.findings.all(),
        notes=scorer.notes.by_what(),
        missed=missed,
    )


def _claims(scorer: Scorer, accounts: Sequence[Account]) -> None:
    """Add the claims of the database by flags and ledger to the counts by reading."""
    for fault, flag in ((Fault.RANGE, Flag.RANGE), (Fault.SPIKE, Flag.STEP), (Fault.STEP, Flag.STEP), (Fault.STUCK, Flag.STUCK)):
        # Without such faults a flag has nothing to be precise about: what it stands on is a false alarm.
        if fault in scorer.kinds and (scorer.kinds[fault].of or scorer.kinds[fault].left_out):
            raised = scorer.flags[flag]
            scorer.kinds[fault].claims, scorer.kinds[fault].right = raised.right + raised.wrong, raised.right
    # A reading that came again, and a message that cannot be read, leave no row of their own: they are counted, source by source.
    leaving: tuple[tuple[str, str], ...] = (
        (Fault.DUPLICATE, "duplicate"),
        ("malformed messages", "undecodable"),
        (Fault.LOST, "lost"),
    )
    for name, count in leaving:
        kind = Kind()
        for account in accounts:
            kind.of += account.truth[count]
            kind.claims += account.database[count]
            kind.found += min(account.truth[count], account.database[count])
        kind.right = kind.found
        scorer.kinds[name] = kind
    counted: tuple[tuple[str, str], ...] = ((Fault.SENTINEL, "missing"), (Fault.CONFLICT, "conflict"))
    for name, count in counted:
        if name in scorer.kinds:
            kind = scorer.kinds[name]
            kind.claims = sum(account.database[count] for account in accounts)
            kind.right = sum(min(account.truth[count], account.database[count]) for account in accounts)


def _any(kind: Kind) -> bool:
    return bool(kind.of or kind.left_out or kind.claims > kind.right)


def _kind(name: str, kind: Kind) -> KindScore:
    return KindScore(
        kind=str(name),
        unit=UNITS[name],
        of=kind.of,
        found=kind.found,
        left_out=kind.left_out,
        claims=kind.claims,
        right=kind.right,
        recall=kind.found / kind.of if kind.of else None,
        precision=kind.right / kind.claims if kind.claims else None,
        delay_seconds=_spread(kind.seconds),
        delay_readings=_spread(kind.readings),
        by_metric=dict(sorted(kind.by_metric.items())),
    )


def _spread(parts: Sequence[np.ndarray[Any, Any]]) -> Spread | None:
    delays = np.concatenate(parts) if parts else np.empty(0)
    if not len(delays):
        return None
    median, p95 = np.percentile(delays, [50, 95])
    return Spread(median=float(median), p95=float(p95), max=float(delays.max()))


def _missed(kind: KindScore) -> list[str]:
    bar = BARS.get(kind.kind)
    if bar is None:
        return []
    out = []
    if kind.recall is None and kind.left_out:
        out.append(f"{kind.kind}: none of {kind.left_out:,} {kind.unit} could be judged")
    if kind.recall is not None and kind.recall < bar.recall:
        out.append(f"{kind.kind}: {kind.found:,} of {kind.of:,} {kind.unit} found, {kind.recall:.2%}; at least {bar.recall:.0%}")
    if bar.precision is not None and kind.precision is not None and kind.precision < bar.precision:
        out.append(
            f"{kind.kind}: of {kind.claims:,} that the database tells of {kind.right:,} are right, {kind.precision:.2%};"
            f" at least {bar.precision:.0%}"
        )
    return out


__all__ = ["BARS", "COUNTS", "FALSE_ALARMS", "UNITS", "Bar", "FlagScore", "KindScore", "Score", "Spread", "verdict"]
