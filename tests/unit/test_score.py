"""Detection and accounts: by hand as docs/scoring.md has it, and against a slow twin on generated data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from citybeat.devices.batch import FOREVER, MICROSECOND, MINUTE, NEVER
from citybeat.devices.errors import Reason
from citybeat.devices.flags import Flag
from citybeat.simulator.faults.kinds import VALUES
from citybeat.simulator.faults.rows import FAULTS, OUTCOME_CODES, OUTCOMES, REASON_CODES, REASONS
from citybeat.simulator.score.labels import Names, labels
from citybeat.simulator.score.matching import STORED, match, overtaken
from citybeat.simulator.score.refusals import Refusals
from citybeat.simulator.score.scorer import Scorer
from citybeat.simulator.score.tallies import Kind, Limits, Sensors
from citybeat.simulator.score.verdict import verdict
from tests import oracles_score

START = 1_767_225_600 * MICROSECOND
LIMITS = Limits(late_after=300 * MICROSECOND, future_after=5 * MICROSECOND)
NAMES = Names(series=[("a", "t"), ("b", "t"), ("c", "t")], boots=[("gw", "b0"), ("gw", "b1")], sources=["gw"])
MEMORY, STUCK_AFTER = 10 * MINUTE, 5 * MINUTE


def sensors(stuck_after=STUCK_AFTER):
    return Sensors(
        memory=np.full(3, MEMORY),
        interval=np.full(3, MINUTE),
        stuck_after=np.full(3, stuck_after),
        may_repeat=np.array([[0.0, np.nan]] * 3),
        metric=np.zeros(3, np.int32),
        metrics=["t"],
    )


def nothing_refused():
    empty = np.empty(0, np.int64)
    return Refusals(empty, empty, empty, empty, [10**6, 10**6])


def kept(truth, flags=0, delay=MICROSECOND, **columns):
    """Rows that are stored if all goes well."""
    rows = np.zeros(len(truth), STORED)
    rows["series"], rows["value"], rows["flags"] = truth["series"], truth["value"], flags
    rows["time"] = np.where(truth["claimed"] == NEVER, truth["sent_at"] + delay, truth["claimed"])
    rows["received_at"] = truth["sent_at"] + delay
    for name, column in columns.items():
        rows[name] = column
    return rows


def minutes(n, **columns):
    """One sensor's readings, one a minute, of which the value is the number."""
    return labels(n, **({"time": START + np.arange(n) * MINUTE, "value": np.arange(n) % 7 + 1.0} | columns))


def scored(truth, stored, refusals=None, limits=LIMITS, **known):
    scorer = Scorer(sensors(**known), limits, refusals or nothing_refused(), NAMES)
    scorer.part(truth, stored)
    scorer.finish()
    return scorer


def code(*names):
    return [FAULTS.index(name) for name in names]


def bits(*flags):
    return np.array([int(flag) for flag in flags], np.int16)


def test_clean_readings_that_are_all_there():
    truth = minutes(20)
    scorer = scored(truth, kept(truth))
    assert not scorer.findings.all()
    assert (scorer.clean.readings, scorer.clean.alarms) == (20, 0)
    assert verdict(scorer, [], scenario="", seed=1, readings=20).ok


def test_a_false_alarm_misses_the_bar():
    truth = minutes(20)
    scorer = scored(truth, kept(truth, flags=bits(*[0] * 19, Flag.STEP)))
    score = verdict(scorer, [], scenario="", seed=1, readings=20)
    assert score.false_alarm_rate == 0.05
    assert score.missed == ["false alarms: 1 of 20 clean readings, 5.000%; at most 0.1%"]
    assert score.notes["STEP on a right reading"] == (1, ["a t 2026-01-01T00:19:00Z [gw b0 message 19, reading 0]: value 6.0"])


def test_spikes_are_found_by_step_or_range():
    truth = minutes(6, fault=code("", "spike", "", "spike", "", "spike"), event=[-1, 0, -1, 1, -1, 2])
    scorer = scored(truth, kept(truth, flags=bits(0, Flag.STEP, 0, Flag.RANGE, 0, 0)))
    spike = scorer.kinds["spike"]
    assert (spike.of, spike.found, spike.left_out) == (3, 2, 0)
    assert scorer.notes.by_what()["spike not found"][0] == 1


def test_a_spike_that_nothing_could_judge_is_left_out():
    truth = minutes(4, fault=code("spike", "", "spike", ""), event=[0, -1, 1, -1])
    # The first has no past; the third came after the fourth.
    stored = kept(truth, received_at=START + np.array([1, 2, 400, 300]) * MICROSECOND)
    scorer = scored(truth, stored)
    assert (scorer.kinds["spike"].of, scorer.kinds["spike"].left_out) == (0, 2)
    assert verdict(scorer, [], scenario="", seed=1, readings=4).missed == ["spike: none of 2 readings could be judged"]


def test_a_step_is_found_if_its_first_reading_is_flagged():
    fault = code("", *["step"] * 3, *[""] * 3, *["step"] * 3)
    truth = minutes(10, fault=fault, event=[-1, 0, 0, 0, -1, -1, -1, 1, 1, 1])
    scorer = scored(truth, kept(truth, flags=bits(0, 2, 2, 0, 0, 0, 0, 0, 2, 2)))
    step = scorer.kinds["step"]
    assert (step.of, step.found) == (2, 1)
    assert np.concatenate(step.seconds).tolist() == [0, 60]
    assert np.concatenate(step.readings).tolist() == [0, 1]
    # What follows the first step is judged by its last reading, which was taken for good; nothing clean is left.
    assert (scorer.clean.readings, scorer.clean.aftermath) == (1, 3)


def test_what_was_judged_by_a_faulty_reading_is_aftermath():
    truth = minutes(15, fault=code("", "offset", *[""] * 13), event=[-1, 0, *[-1] * 13])
    scorer = scored(truth, kept(truth, flags=bits(0, 0, 2, *[0] * 9, 2, 0, 0)))
    step = scorer.flags[Flag.STEP]
    assert (step.flagged, step.right, step.aftermath, step.wrong) == (2, 0, 1, 1)
    assert (scorer.clean.readings, scorer.clean.alarms, scorer.clean.aftermath) == (4, 1, 10)
    # Had the offset been flagged, nothing would have been judged by it.
    scorer = scored(truth, kept(truth, flags=bits(0, 2, 2, *[0] * 12)))
    assert (scorer.flags[Flag.STEP].right, scorer.flags[Flag.STEP].wrong) == (1, 1)


@pytest.mark.parametrize(
    ("first", "found", "readings", "delay"),
    [
        (6, 1, (4, 4), 360.0),  # more than five minutes after it began
        (5, 1, (4, 4), 300.0),  # the reading before showed the value, too
        (7, 0, (4, 3), 420.0),
        (99, 0, (4, 0), None),
    ],
)
def test_stuck(first, found, readings, delay):
    """Ten readings of one value, from minute 2 on; with a threshold of five minutes those of minute 8 to 11 are due."""
    truth = minutes(14, fault=code("", "", *["stuck"] * 10, "", ""), event=[-1, -1, *[0] * 10, -1, -1])
    truth["value"][2:12] = 3.0
    flags = np.where((np.arange(14) >= 2 + first) & (np.arange(14) < 12), 4, 0)
    scorer = scored(truth, kept(truth, flags=flags))
    stuck, each = scorer.kinds["stuck"], scorer.kinds["stuck readings"]
    assert (stuck.of, stuck.found, each.of, each.found) == (1, found, *readings)
    assert np.concatenate(stuck.seconds).tolist() == ([] if delay is None else [delay])


@pytest.mark.parametrize(("first", "found"), [(18, 1), (19, 0)])
def test_a_busy_sensor_has_an_interval_as_well(first, found):
    """It reports every 20 s, and is expected once a minute: readings are due after 300 s, and a first flag at 360 s will do."""
    truth = labels(25, time=START + np.arange(25) * 20 * MICROSECOND, value=3.0, fault=FAULTS.index("stuck"), event=0)
    stuck = scored(truth, kept(truth, flags=np.where(np.arange(25) >= first, 4, 0))).kinds["stuck"]
    assert (stuck.of, stuck.found) == (1, found)


def test_what_may_repeat_or_ends_before_the_threshold_is_not_stuck():
    truth = minutes(20, fault=FAULTS.index("stuck"), event=[*[0] * 15, *[1] * 5])
    truth["value"][:15], truth["value"][15:] = 0.0, 3.0
    stuck = scored(truth, kept(truth)).kinds["stuck"]
    assert (stuck.of, stuck.left_out) == (0, 2)
    stuck = scored(truth, kept(truth), stuck_after=FOREVER).kinds["stuck"]
    assert (stuck.of, stuck.left_out) == (0, 2)


def test_late_is_arithmetic_of_what_is_stored():
    truth = minutes(4, delivery=FAULTS.index("late"))
    received_at = truth["time"] + np.array([299, 300, 301, 9999]) * MICROSECOND
    scorer = scored(truth, kept(truth, received_at=received_at, flags=bits(0, 0, 16, 16)))
    assert (scorer.kinds["late"].of, scorer.kinds["late"].found, scorer.kinds["late"].claims) == (2, 2, 2)
    scorer = scored(truth, kept(truth, received_at=received_at, flags=bits(16, 0, 0, 16)))
    score = verdict(scorer, [], scenario="", seed=1, readings=4)
    assert [sentence.split(":")[0] for sentence in score.missed] == ["late", "late"]


def test_clocks_and_readings_without_a_time():
    truth = minutes(4, delivery=[FAULTS.index("clock")] * 2 + [FAULTS.index("no_time")] * 2)
    truth["claimed"] = truth["time"] + 60 * MICROSECOND
    truth["claimed"][2:] = NEVER
    scorer = scored(truth, kept(truth, flags=bits(32, 0, 64, 64)))
    assert (scorer.kinds["clock"].of, scorer.kinds["clock"].found) == (2, 1)
    assert (scorer.kinds["no_time"].of, scorer.kinds["no_time"].found) == (2, 2)
    assert not scorer.findings.all()


def test_equal_readings_without_a_time_are_told_apart_by_order():
    truth = labels(3, time=START + np.arange(3), claimed=NEVER, value=1.0, sent_at=START + np.array([2, 0, 1]))
    stored = kept(truth, flags=64)[::-1]
    found = match(truth, stored)
    assert found.stored["received_at"][found.hit].tolist() == (truth["sent_at"] + MICROSECOND).tolist()
    assert match(truth, stored[:0]).hit.tolist() == [-1, -1, -1]


def test_books_name_what_differs():
    truth = minutes(7)
    truth["outcome"] = [OUTCOME_CODES[name] for name in ("stored", "stored", "stored", "missing", "lost", "duplicate", "stored")]
    truth["claimed"][5] = truth["time"][5] = truth["time"][0]
    truth["acknowledged"][6] = False
    stored = kept(truth)[[0, 1, 3]]
    stored["value"][1] = 99
    stray = kept(minutes(1, time=START + 1, value=5.0))
    scorer = scored(truth, np.concatenate([stored, stray]))
    assert {finding.what: finding.count for finding in scorer.findings.all()} == {
        "should be stored, and is not": 1,
        "should be stored, was not acknowledged, and is not there": 1,
        "stored with another value": 1,
        "stored all the same": 1,
        "in the database, and not in the truth": 1,
    }
    told = {finding.what: finding.examples for finding in scorer.findings.all()}
    assert told["stored with another value"] == (
        "a t 2026-01-01T00:01:00Z [gw b0 message 1, reading 0]: 99.0 is stored, 2.0 was sent",
    )
    assert told["stored all the same"][0].endswith("should be missing")
    assert told["in the database, and not in the truth"][0].startswith("a t 2026-01-01T00:00:00.000001Z")


def test_what_is_in_quarantine_by_message_and_reading():
    quarantined, conflict = OUTCOME_CODES["quarantined"], OUTCOME_CODES["conflict"]
    bad_name, too_old = REASON_CODES[Reason.BAD_NAME], REASON_CODES[Reason.TOO_OLD]
    truth = minutes(4, outcome=[quarantined, quarantined, quarantined, conflict], reason=[bad_name, bad_name, bad_name, 0])
    truth["delivery"] = [FAULTS.index(name) for name in ("malformed", "malformed", "malformed", "conflict")]
    said = np.array([[0, 0, 0, bad_name], [0, 1, 0, too_old], [0, 3, 0, REASON_CODES[Reason.CONFLICT]], [0, 9, 2, too_old]])
    scorer = scored(truth, kept(truth)[:0], Refusals(*said.T, [100, 100]))
    assert {finding.what: (finding.count, finding.examples) for finding in scorer.findings.all()} == {
        "should be in quarantine, and is not": (1, ("a t 2026-01-01T00:02:00Z [gw b0 message 2, reading 0]",)),
        "in quarantine for another reason": (
            1,
            ("a t 2026-01-01T00:01:00Z [gw b0 message 1, reading 0]: too_old, and should be bad_name",),
        ),
        "in quarantine, and should not be": (1, ("gw b0 message 9, reading 2: too_old",)),
    }
    assert (scorer.kinds["malformed"].of, scorer.kinds["malformed"].found) == (3, 1)
    assert (scorer.kinds["conflict"].of, scorer.kinds["conflict"].found) == (1, 1)


def test_times_that_are_years_apart_are_matched():
    truth = labels(3, series=[2_000_000, 0, 2_000_000], claimed=[0, START, START], time=START, value=1.0)
    assert match(truth, kept(truth)).hit.tolist() == [1, 0, 2]


def test_overtaken():
    rows = np.zeros(6, STORED)
    rows["series"], rows["time"], rows["received_at"] = [0, 0, 0, 1, 1, 1], [1, 2, 3, 1, 2, 3], [5, 9, 6, 3, 3, 2]
    assert overtaken(rows).tolist() == [False, True, False, True, True, False]
    assert overtaken(rows[:0]).tolist() == []


# --- against the slow twin -------------------------------------------------------------------------------------------------------


@st.composite
def runs(draw):
    """A truth of some sensors, and a database that is mostly, not always, what it should be."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(1, 120))
    wild = draw(st.booleans())
    time = START + np.cumsum(
        rng.choice([MINUTE // 2, MINUTE, MINUTE, MINUTE, MEMORY, MEMORY + 1], n, p=[0.2, 0.3, 0.2, 0.2, 0.05, 0.05])
    )
    truth = labels(n, series=np.sort(rng.integers(0, 3, n)), time=time, value=rng.integers(0, 4, n) * 1.0)
    kinds = rng.integers(0, 1 + len(VALUES), max(1, n // 4)) * (rng.random(max(1, n // 4)) < 0.5)
    truth["fault"] = np.repeat(kinds, 8)[:n] if n else kinds
    truth["event"] = np.where(truth["fault"] > 0, np.arange(n) // 8, -1)
    if not wild:
        truth["value"][truth["fault"] == FAULTS.index("stuck")] = 3.0
    truth["delivery"] = np.where(rng.random(n) < 0.3, rng.integers(1 + len(VALUES), len(FAULTS), n), 0)
    truth["outcome"] = np.where(rng.random(n) < 0.2, rng.integers(0, len(OUTCOMES), n), 0)
    missing = np.isin(truth["fault"], code("sentinel", "dropout")) & (rng.random(n) < 0.8)
    truth["outcome"][missing] = OUTCOME_CODES["missing"]
    truth["reason"] = np.where(truth["outcome"] == OUTCOME_CODES["quarantined"], rng.integers(1, len(REASONS), n), 0)
    truth["boot"], truth["seq"], truth["index"] = rng.integers(0, 2, n), np.arange(n) // 3, np.arange(n) % 3
    truth["seq"][rng.random(n) < 0.05] = -1
    truth["acknowledged"] = rng.random(n) < 0.9
    truth["claimed"][truth["delivery"] == FAULTS.index("no_time")] = NEVER
    skewed = truth["delivery"] == FAULTS.index("clock")
    truth["claimed"][skewed] += rng.integers(-20, 20, int(skewed.sum())) * MINUTE
    stored = kept(truth, flags=rng.choice([0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 2 | 16, 4 | 64], n))
    stored["received_at"] += rng.integers(0, 3, n) * rng.integers(0, 400, n) * MICROSECOND
    truth["sent_at"] += rng.integers(0, 3, n) * rng.integers(0, 4, n) * MICROSECOND
    stored["flags"][truth["claimed"] == NEVER] |= 64
    there = np.where(rng.random(n) < 0.95, truth["outcome"] == 0, rng.random(n) < 0.3)
    stored = rng.permutation(stored[there])
    changed = rng.random(len(stored)) < 0.05
    stored["value"][changed] += 1.0
    stored["time"][rng.random(len(stored)) < 0.03] += 1
    _, first = np.unique(stored[["series", "time"]], return_index=True)  # it has a key
    refused = {}
    for row in truth[np.isin(truth["outcome"], [OUTCOME_CODES["quarantined"], OUTCOME_CODES["conflict"]]) & (truth["seq"] >= 0)]:
        right = int(row["reason"]) if row["outcome"] == OUTCOME_CODES["quarantined"] else REASON_CODES[Reason.CONFLICT]
        if rng.random() < 0.8:
            refused[int(row["boot"]), int(row["seq"]), int(row["index"])] = right if rng.random() < 0.9 else 3
    if rng.random() < 0.3:
        refused[1, 999, 0] = 4
    return rng.permutation(truth), stored[first], refused


@settings(max_examples=300, deadline=None)
@given(runs(), st.sampled_from([STUCK_AFTER, int(FOREVER)]))
def test_as_the_slow_twin(run, stuck_after):
    truth, stored, refused = run
    entries = np.array([[*key, reason] for key, reason in refused.items()], np.int64).reshape(-1, 4)
    scorer = scored(truth, stored, Refusals(*entries.T, [10**6, 10**6]), stuck_after=stuck_after)
    slow = oracles_score.score(
        truth,
        stored,
        memory=MEMORY,
        interval=MINUTE,
        stuck_after=stuck_after,
        may_repeat=[0.0],
        late=LIMITS.late_after,
        future=LIMITS.future_after,
        refused=refused,
    )
    fast = {name: (kind.of, kind.found, kind.left_out) for name, kind in scorer.kinds.items() if kind.of or kind.left_out}
    assert fast == {name: (kind.of, kind.found, kind.left_out) for name, kind in slow.kinds.items() if kind.of or kind.left_out}
    assert {finding.what: finding.count for finding in scorer.findings.all()} == {k: v for k, v in slow.findings.items() if v}
    told = {what: count for what, (count, _) in scorer.notes.by_what().items() if "should" in what}
    assert told == {what: count for what, count in slow.notes.items() if count}
    for name in ("late", "clock", "no_time", "malformed", "conflict"):
        kind = scorer.kinds.get(name, Kind())
        assert (kind.claims, kind.right) == (slow.kinds[name].claims, slow.kinds[name].right)
    assert {
        flag.name: [raised.flagged, raised.right, raised.aftermath, raised.wrong]
        for flag, raised in scorer.flags.items()
        if raised.flagged
    } == {name: counts for name, counts in slow.flags.items() if counts[0]}
    assert (scorer.clean.readings, scorer.clean.alarms, scorer.clean.aftermath) == (slow.clean, slow.alarms, slow.aftermath)
    for name, kind in scorer.kinds.items():
        seconds = np.concatenate(kind.seconds).tolist() if kind.seconds else []
        readings = np.concatenate(kind.readings).tolist() if kind.readings else []
        assert sorted(zip(seconds, readings, strict=True)) == sorted(slow.kinds[name].delays)
