"""Scores flags and ledger: rows of the truth against rows of the database. Pure.

Law: arrays in, numbers out; nothing here knows a file or a database, and nothing loops over readings. Rows come part by part, each
with all rows of its sensors (`simulator/score/parts.py`), in any order. docs/scoring.md defines every number, with examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from citybeat.devices.batch import FOREVER, MICROSECOND, NEVER, Bools, Float64, Int16, Int64
from citybeat.devices.errors import Reason
from citybeat.devices.flags import BAD, Flag
from citybeat.simulator.faults.kinds import VALUES, Fault
from citybeat.simulator.faults.rows import FAULT_CODES, OUTCOME_CODES, OUTCOMES, REASON_CODES, REASONS, Outcome
from citybeat.simulator.score.labels import Labels, Names, timed
from citybeat.simulator.score.matching import Matched, Rows, match, overtaken
from citybeat.simulator.score.refusals import Refusals
from citybeat.simulator.score.tallies import Clean, Kind, Limits, Raised, Sensors
from citybeat.simulator.score.telling import NAMED, Findings

#: Faults by which a value or a time differs from that of a working sensor. Missing values are never in a series' past.
_FAULTY: Final = [FAULT_CODES[fault] for fault in VALUES - {Fault.SENTINEL, Fault.DROPOUT}]
_CLOCKS: Final = [FAULT_CODES[Fault.CLOCK], FAULT_CODES[Fault.NO_TIME]]
#: Flags of a value that jumped: a value outside the range is RANGE, and not checked further.
_JUMP: Final = np.int16(Flag.STEP | Flag.RANGE)
#: Faults that are scored by episode, and the flags that detect them.
_EPISODES: Final[Mapping[Fault, np.int16]] = {
    Fault.DRIFT: np.int16(BAD),
    Fault.OFFSET: np.int16(BAD),
    Fault.NOISE: np.int16(BAD),
    Fault.UNIT: np.int16(BAD),
    Fault.RESET: np.int16(BAD),
}
#: Flags that are wrong on a clean reading. LATE is scored by itself.
_ALARMS: Final = np.int16(Flag.RANGE | Flag.SUSPECT | Flag.STEP | Flag.STUCK | Flag.FUTURE | Flag.CLOCK)
_VALUE_FLAGS: Final = (Flag.RANGE, Flag.SUSPECT, Flag.STEP, Flag.STUCK)
#: us. A reading received so long before it was sent is another reading: clocks of one machine agree better than that.
EARLY: Final = MICROSECOND


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    """n stored readings of the truth, by series, then stored time."""

    truth: Labels
    series: Int64  # place
    time: Int64  # us, as stored
    received_at: Int64  # us
    value: Float64  # as stored
    flags: Int16
    in_order: Bools  # none of a later time came before: STEP and STUCK look at it
    judged: Bools  # that, by a time that is right
    past: Bools  # there is a right reading within memory
    faulty: Bools
    accepted: Bools  # faulty, and not flagged: the next ones are judged by it
    aftermath: Bools  # not faulty, and judged by a faulty one
    memory: Int64  # us

    def of(self, fault: Fault) -> Int64:
        """Return rows with this fault, by series, episode and time."""
        rows = np.flatnonzero(self.truth["fault"] == FAULT_CODES[fault])
        return rows[np.lexsort((self.time[rows], self.truth["event"][rows], self.series[rows]))]

    def firsts(self, rows: Int64) -> Int64:
        """Return for each row, by series and episode, the row that began its episode."""
        series, event = self.series[rows], self.truth["event"][rows]
        begins = np.append(True, (series[1:] != series[:-1]) | (event[1:] != event[:-1]))[: len(rows)]
        out: Int64 = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
        return out

    def alone(self, rows: Int64, fault: Fault) -> Bools:
        """Return which rows can be detected: they were judged, and by a right reading, not by one with another fault."""
        others = self.accepted & (self.truth["fault"] != FAULT_CODES[fault])
        return self.judged[rows] & self.past[rows] & ~after(self.series, self.time, others, self.memory)[rows]


def after(series: Int64, time: Int64, accepted: Bools, memory: Int64) -> Bools:
    """Return which readings have one of `accepted` before them, of their series and within its memory.

    Parameters
    ----------
    series, time : (n,) int64
        Ascending by series, then time.
    accepted : (n,) bool
    memory : (n,) int64
        us.
    """
    n = len(time)
    last = np.append(-1, np.maximum.accumulate(np.where(accepted, np.arange(n), -1)))[:n]
    out: Bools = (last >= 0) & (series[last] == series) & (time - time[last] <= memory)
    return out


class Scorer:
    """Adds up the scores of parts.

    Parameters
    ----------
    sensors : Sensors
    limits : Limits
    refusals : Refusals
        Contents of the database's quarantine.
    names : Names
    """

    def __init__(self, sensors: Sensors, limits: Limits, refusals: Refusals, names: Names) -> None:
        self._sensors: Final = sensors
        self._limits: Final = limits
        self._refusals: Final = refusals
        self._names: Final = names
        self.kinds: Final[dict[str, Kind]] = {}
        self.flags: Final[dict[Flag, Raised]] = {flag: Raised() for flag in (*_VALUE_FLAGS, Flag.LATE, Flag.FUTURE, Flag.CLOCK)}
        self.clean: Final = Clean()
        self.findings: Final = Findings(names)  # where truth and database disagree
        self.notes: Final = Findings(names)  # what was not found, and what was found that is not there

    def part(self, truth: Labels, stored: Rows) -> None:
        """Add all rows of some sensors: n of the truth, k of the database (`simulator.score.matching.STORED`)."""
        if len(truth):
            matched = match(truth, stored)
            self._books(truth, matched)
            self._refused(truth)
            self._missing(truth, matched)
            hits = np.flatnonzero(matched.hit >= 0)
            hits = hits[np.argsort(matched.hit[hits], kind="stable")]
            _, first = np.unique(matched.hit[hits], return_index=True)  # by series, then time; each stored reading once
            self._judged(truth[hits[first]], matched, matched.hit[hits[first]])

    def finish(self) -> None:
        """Finish after the last part: find readings in quarantine that should not be there."""
        left = self._refusals.left()
        boots = self._refusals.boot[left]
        for boot in np.unique(boots).tolist():
            mine = left[boots == boot]
            source, name = self._names.boots[boot]
            words = [
                f"{source} {name} message {self._refusals.seq[i]}, reading {self._refusals.index[i]}:"
                f" {REASONS[self._refusals.reason[i]]}"
                for i in mine[:NAMED].tolist()
            ]
            self.findings.tell("in quarantine, and should not be", source, len(mine), words)

    # --- accounts, to the reading ---------------------------------------------------------------------------------------------

    def _books(self, truth: Labels, matched: Matched) -> None:
        wanted = truth["outcome"] == OUTCOME_CODES[Outcome.STORED]
        tell = self.findings.add
        absent = np.flatnonzero(wanted & (matched.hit < 0))
        acknowledged = truth["acknowledged"][absent]
        tell("should be stored, and is not", truth, absent[acknowledged])
        tell("should be stored, was not acknowledged, and is not there", truth, absent[~acknowledged])
        there = np.flatnonzero(wanted & (matched.hit >= 0))
        values = np.stack([matched.stored["value"][matched.hit[there]], truth["value"][there]], axis=1)
        other = values[:, 0] != values[:, 1]
        tell("stored with another value", truth, there[other], values[other], "{} is stored, {} was sent")
        twice = there[matched.uses[matched.hit[there]] > 1]
        tell("the truth has two that should be stored at one time", truth, twice)
        early = there[matched.stored["received_at"][matched.hit[there]] < truth["sent_at"][there] - EARLY]
        tell("received before it was sent", truth, early)
        unused = matched.uses == 0
        at = matched.at[~wanted & (matched.at >= 0)]
        rows = np.flatnonzero(~wanted & (matched.at >= 0))
        known = np.zeros(len(unused), np.bool_)
        known[at] = True
        rows = rows[unused[at]]
        tell("stored all the same", truth, rows, np.array(OUTCOMES)[truth["outcome"][rows]], "should be {}")
        self._unknown(truth, matched.stored[unused & ~known])

    def _unknown(self, truth: Labels, stored: Rows) -> None:
        """Find stored readings of the truth's sensors at times that the truth does not have."""
        if len(stored):
            series, first = np.unique(truth["series"], return_index=True)
            rows = truth[first[np.searchsorted(series, stored["series"])]]  # for the source
            rows["time"], rows["claimed"], rows["seq"], rows["index"] = stored["time"], stored["time"], -1, -1
            self.findings.add("in the database, and not in the truth", rows, np.arange(len(rows)), stored["value"], "value {}")

    def _refused(self, truth: Labels) -> None:
        """Compare the quarantine, reading by reading, for messages that have a number."""
        quarantined, conflict = (truth["outcome"] == OUTCOME_CODES[outcome] for outcome in (Outcome.QUARANTINED, Outcome.CONFLICT))
        rows = np.flatnonzero((quarantined | conflict) & (truth["seq"] >= 0))
        truth_reason = np.where(conflict[rows], REASON_CODES[Reason.CONFLICT], truth["reason"][rows])
        reason = self._refusals.take(truth["boot"][rows], truth["seq"][rows], truth["index"][rows])
        same = reason == truth_reason
        self.findings.add("should be in quarantine, and is not", truth, rows[reason < 0])
        other = (reason >= 0) & ~same
        words = np.array(REASONS)[np.stack([reason[other], truth_reason[other]], axis=1)]
        self.findings.add("in quarantine for another reason", truth, rows[other], words, "{}, and should be {}")
        metric = self._sensors.metric[truth["series"][rows]]
        for delivery in (Fault.CLOCK, Fault.NO_TIME, Fault.MALFORMED, Fault.CONFLICT):
            mine = conflict[rows]
            if delivery is not Fault.CONFLICT:
                mine = ~mine & (truth["delivery"][rows] == FAULT_CODES[delivery])
            kind = self._kind(delivery)
            kind.count(same[mine], metric[mine], self._sensors.metrics)
            kind.claims += int((reason[mine] >= 0).sum())
            kind.right += int(same[mine].sum())

    def _missing(self, truth: Labels, matched: Matched) -> None:
        for fault in (Fault.SENTINEL, Fault.DROPOUT):
            rows = np.flatnonzero((truth["fault"] == FAULT_CODES[fault]) & (truth["outcome"] == OUTCOME_CODES[Outcome.MISSING]))
            at = matched.at[rows]
            found = at < 0
            if len(matched.uses):
                found |= matched.uses[at] > 0  # another row of the truth is what is stored there
            self._kind(fault).count(found, self._sensors.metric[truth["series"][rows]], self._sensors.metrics)

    # --- flags ----------------------------------------------------------------------------------------------------------------

    def _judged(self, truth: Labels, matched: Matched, place: Int64) -> None:
        """Return rows that are stored, by series, then stored time."""
        of, here = truth["series"].astype(np.int64), matched.stored[place]
        time, memory = here["time"].copy(), self._sensors.memory[of]
        faulty = np.isin(truth["fault"], _FAULTY) | np.isin(truth["delivery"], _CLOCKS)
        accepted = faulty & ((here["flags"] & BAD) == 0)
        in_order = ~overtaken(matched.stored)[place]
        rows = _Judged(
            truth=truth,
            series=of,
            time=time,
            received_at=here["received_at"].copy(),
            value=here["value"].copy(),
            flags=here["flags"].copy(),
            in_order=in_order,
            judged=in_order & ~np.isin(truth["delivery"], _CLOCKS),
            past=after(of, time, in_order & ~faulty, memory),
            faulty=faulty,
            accepted=accepted,
            aftermath=~faulty & after(of, time, accepted, memory),
            memory=memory,
        )
        self._times(rows)
        self._values(rows)
        self._range(rows)
        self._spikes(rows)
        self._steps(rows)
        self._stuck(rows)
        for fault, flags in _EPISODES.items():
            self._episodes(rows, fault, flags)

    def _kind(self, name: str) -> Kind:
        return self.kinds.setdefault(str(name), Kind())

    def _times(self, rows: "_Judged") -> None:
        """Score LATE, FUTURE and CLOCK by the stored times; and readings with a wrong clock, or none."""
        own = timed(rows.truth)
        wanted = {
            Flag.LATE: rows.received_at - rows.time > self._limits.late_after,
            Flag.FUTURE: rows.time - rows.received_at > self._limits.future_after,
            Flag.CLOCK: ~own,
        }
        right = np.ones(len(rows.time), np.bool_)
        labelled = np.isin(rows.truth["delivery"], _CLOCKS)
        for flag, due in wanted.items():
            raised = (rows.flags & np.int16(flag)) != 0
            right &= raised == due
            count = self.flags[flag]
            count.flagged += int(raised.sum())
            count.right += int((raised & due).sum())
            count.wrong += int((raised & ~due).sum())
            self.notes.add(f"{flag.name} and should not be", rows.truth, np.flatnonzero(raised & ~due))
            self.notes.add(f"should be {flag.name}, and is not", rows.truth, np.flatnonzero(~raised & due))
            if flag is Flag.LATE:
                late = self._kind(Fault.LATE)
                late.count(raised[due], self._sensors.metric[rows.series[due]], self._sensors.metrics)
                late.claims += int(raised.sum())
                late.right += int((raised & due).sum())
        for delivery, flags in ((Fault.CLOCK, Flag.FUTURE), (Fault.NO_TIME, Flag.CLOCK)):
            mine = rows.truth["delivery"] == FAULT_CODES[delivery]
            kind = self._kind(delivery)
            kind.count(right[mine], self._sensors.metric[rows.series[mine]], self._sensors.metrics)
            raised = (rows.flags & np.int16(flags)) != 0
            kind.claims += int(raised.sum())
            kind.right += int((raised & labelled).sum())

    def _values(self, rows: "_Judged") -> None:
        """Score each flag about values by the readings that have it, and count false alarms."""
        for flag in _VALUE_FLAGS:
            raised = (rows.flags & np.int16(flag)) != 0
            count = self.flags[flag]
            count.flagged += int(raised.sum())
            count.right += int((raised & rows.faulty).sum())
            excused = raised & rows.aftermath if flag in {Flag.STEP, Flag.STUCK} else np.zeros(len(raised), np.bool_)
            count.aftermath += int(excused.sum())
            wrong = np.flatnonzero(raised & ~rows.faulty & ~excused)
            count.wrong += len(wrong)
            self.notes.add(f"{flag.name} on a right reading", rows.truth, wrong, rows.value[wrong], "value {}")
        unlabelled = ~rows.faulty & (rows.truth["fault"] == 0) & (rows.truth["delivery"] == 0)
        clean = unlabelled & ~rows.aftermath
        late = rows.received_at - rows.time > self._limits.late_after
        alarm = ((rows.flags & _ALARMS) != 0) | (((rows.flags & np.int16(Flag.LATE)) != 0) & ~late)
        self.clean.readings += int(clean.sum())
        self.clean.alarms += int((clean & alarm).sum())
        self.clean.aftermath += int((unlabelled & rows.aftermath).sum())

    def _range(self, rows: "_Judged") -> None:
        mine = rows.of(Fault.RANGE)
        found = (rows.flags[mine] & np.int16(Flag.RANGE)) != 0
        self._found(Fault.RANGE, rows, mine, found)

    def _spikes(self, rows: "_Judged") -> None:
        mine = rows.of(Fault.SPIKE)
        alone = rows.alone(mine, Fault.SPIKE)
        self._kind(Fault.SPIKE).left_out += int((~alone).sum())
        self._found(Fault.SPIKE, rows, mine[alone], (rows.flags[mine[alone]] & _JUMP) != 0)

    def _steps(self, rows: "_Judged") -> None:
        mine = rows.of(Fault.STEP)
        if not len(mine):
            return
        raised = (rows.flags[mine] & _JUMP) != 0
        first = rows.firsts(mine)
        heads = np.flatnonzero(first == np.arange(len(mine)))
        alone = rows.alone(mine[heads], Fault.STEP)
        self._kind(Fault.STEP).left_out += int((~alone).sum())
        self._found(Fault.STEP, rows, mine[heads[alone]], raised[heads[alone]])
        self._delays(Fault.STEP, rows, mine, first, raised)

    def _stuck(self, rows: "_Judged") -> None:
        mine = rows.of(Fault.STUCK)
        self._kind(Fault.STUCK).left_out += len(np.unique(rows.firsts(mine)))  # until the due ones are known
        mine = mine[rows.in_order[mine]]
        if not len(mine):
            return
        of, time = rows.series[mine], rows.time[mine]
        first = rows.firsts(mine)
        # A gap longer than memory begins the run anew, and so does a reading that is none of the episode.
        gap, apart = np.append(0, np.diff(time)), np.append(True, np.diff(np.cumsum(rows.in_order)[mine]) != 1)
        begins = (first == np.arange(len(mine))) | (gap > self._sensors.memory[of]) | apart
        since = time[np.maximum.accumulate(np.where(begins, np.arange(len(mine)), 0))]
        after = self._sensors.stuck_after[of]
        never = (after == FOREVER) | (rows.value[mine][:, None] == self._sensors.may_repeat[of]).any(axis=1)
        due = ~never & rows.judged[mine] & (time - since > np.where(never, 0, after))
        raised = (rows.flags[mine] & np.int16(Flag.STUCK)) != 0
        self._found("stuck readings", rows, mine[due], raised[due])
        # An episode: the first reading that is due, or one before it, is flagged.
        numbers = np.cumsum(first == np.arange(len(mine))) - 1
        which = numbers[due]
        opening = np.flatnonzero(due)[np.flatnonzero(np.append(True, which[1:] != which[:-1])[: len(which)])]  # first due of each
        limit = np.full(int(numbers[-1]) + 1, NEVER, np.int64)
        begun = time[first[opening]]
        limit[numbers[opening]] = np.maximum(begun + after[opening] + self._sensors.interval[of[opening]], time[opening])
        in_time = np.zeros(len(limit), np.bool_)
        in_time[numbers[raised & (time <= limit[numbers])]] = True
        self._found(Fault.STUCK, rows, mine[first[opening]], in_time[numbers[opening]])
        self._kind(Fault.STUCK).left_out -= len(opening)
        self._delays(Fault.STUCK, rows, mine, first, raised)

    def _episodes(self, rows: "_Judged", fault: Fault, flags: np.int16) -> None:
        mine = rows.of(fault)
        if not len(mine):
            return
        raised = (rows.flags[mine] & flags) != 0
        first = rows.firsts(mine)
        heads = np.flatnonzero(first == np.arange(len(mine)))
        found = np.add.reduceat(raised, heads) > 0
        self._found(fault, rows, mine[heads], found, name_missed=False)
        self._delays(fault, rows, mine, first, raised)

    def _found(self, fault: str, rows: "_Judged", which: Int64, found: Bools, *, name_missed: bool = True) -> None:
        self._kind(fault).count(found, self._sensors.metric[rows.series[which]], self._sensors.metrics)
        if name_missed:
            missed = which[~found]
            self.notes.add(f"{fault} not found", rows.truth, missed, rows.value[missed], "value {}")

    def _delays(self, fault: Fault, rows: "_Judged", mine: Int64, first: Int64, raised: Bools) -> None:
        """Return the delay from each episode's first reading to its first flag."""
        hits = np.flatnonzero(raised)
        hits = hits[np.append(True, first[hits][1:] != first[hits][:-1])[: len(hits)]]
        kind = self._kind(fault)
        kind.seconds.append((rows.time[mine[hits]] - rows.time[mine[first[hits]]]) / MICROSECOND)
        kind.readings.append(hits - first[hits])
