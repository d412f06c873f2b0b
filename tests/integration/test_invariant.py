"""One invariant: whatever is done in whatever order, the books balance and rollups are what raw says.

Two processes that write for the same sources, duplicates, conflicts under both policies, late data, refused readings and their
replay, declarations, reflag, rebuilding, retention, restarts, and commits whose outcome nobody knew: drawn at random, on a real
database. At the end every minute and every quarter-hour is compared with a plain loop over the readings (tests/oracles.py), and
with the database's own account. And a second city, in which one process does all of it in the same order, must have the same
readings with the same flags: what one process remembers of a series' past must not hang on who wrote it.
"""

import json
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from citybeat.devices.catalogue import builtin
from citybeat.devices.device import ConflictPolicy, Device, Sensor
from citybeat.devices.flags import Flag, Verdict
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.writing import retry as replaying
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.ingest.writing.reflag import reflag
from citybeat.storage.accounts import ledger
from citybeat.storage.accounts.quarantine import Filter
from citybeat.storage.batches import flagging
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db.connection import connect
from citybeat.storage.db.source_locks import GoneError
from citybeat.storage.registry import records
from citybeat.storage.rollups import retention, rollup
from tests import oracles

T0 = 1_767_225_600
NOW = (T0 + 7200) * 1_000_000
QUOTA = 100_000_000
METRICS = ["temperature", "vehicleCount", "windDirection", "LAeq"]
SETTINGS = replaying.Settings(catalogue=builtin(), limits=Limits(), max_bytes=1_000_000, quarantine_quota=QUOTA)
TABLES = (
    "readings, readings_1m, readings_15m, marks_15m, latest, ledger, ledger_totals, quarantine, seqs, source_state, declarations, "
    "dropped_chunks, carried_counters"
)


def device(number, **changes):
    sensors = tuple(Sensor(metric=metric, **(changes if metric == "temperature" else {})) for metric in METRICS)
    return Device(id=f"d-{number}", source=f"gw-{number % 2}", domain="environment", sensors=sensors)


class World:
    """The database, processes that write to it, and what an operator does."""

    def __init__(self, url, connection, writers):
        self.url, self.connection = url, connection
        self.pipelines = [self.pipeline() for _ in range(writers)]
        self.seq = 0
        self.dropped = []  # raw rows that retention took

    def pipeline(self):
        return Pipeline(self.url, catalogue=builtin(), limits=Limits(), max_bytes=1_000_000, quarantine_quota=QUOTA)

    def empty(self):
        for pipeline in self.pipelines:
            pipeline.close()
        self.connection.execute(f"TRUNCATE {TABLES}")
        self.connection.execute("UPDATE horizons SET since = '-infinity'")
        self.dropped = []
        self.connection.execute("DELETE FROM series WHERE device_id IN ('d-2', 'd-3')")
        self.connection.execute("DELETE FROM devices WHERE id IN ('d-2', 'd-3')")
        records.register(self.connection, [device(0), device(1)])
        for source in ("gw-0", "gw-1"):
            records.set_conflict_policy(self.connection, source, ConflictPolicy.KEEP)

    def messages(self, reports, numbered):
        """One message a source, as its gateway would send it."""
        out = []
        for source in (0, 1):
            mine = [
                {"device": f"d-{number}", "ts": (T0 + at) * 1000, "values": {metric: value}}
                for number, at, metric, value in reports
                if number % 2 == source
            ]
            if mine:
                self.seq += numbered
                body = {"seq": self.seq, "boot": "b", "readings": mine} if numbered else mine
                out.append(Message(f"city/v1/gw-{source}/readings", json.dumps(body).encode(), NOW, False, 1, 1, 1))
        return out

    def do(self, what, *arguments):
        getattr(self, what.replace(" ", "_"))(*arguments)

    def write(self, who, reports, numbered, times):
        """The same messages once, or again as after a lost acknowledgement."""
        messages = self.messages(reports, numbered)
        for _ in range(times):
            if messages:
                assert self.pipelines[who % len(self.pipelines)].process(messages, lambda: True) is not None

    def write_with_unknown_outcome(self, who, reports):
        """The commit took effect, but its answer was lost: the same batch is tried again, on a new connection."""
        pipeline, messages, batch_id = self.pipelines[who % len(self.pipelines)], self.messages(reports, numbered=False), uuid4()
        if not messages:
            return
        pipeline.open()
        pipeline._try(messages, batch_id)
        pipeline.open()
        assert pipeline._try(messages, batch_id).stored is None

    def restart(self, who):
        self.pipelines[who % len(self.pipelines)].close()

    def register(self, number):
        records.register(self.connection, [device(number)])

    def replay(self):
        with closing(BatchWriter(self.url, quarantine_quota=QUOTA)) as store:
            replaying.replay(store, self.connection, SETTINGS, Filter())

    def declare(self, metric, start, length, verdict):
        declared = flagging.Declaration(
            device="d-0", metric=metric, start=moment(start), end=moment(start + length), verdict=verdict, by="x", reason="y"
        )
        flagging.declare(self.connection, declared, self.snapshot().kind)

    def reflag(self, start, length, floor):
        records.register(self.connection, [device(0, step_floor=floor)])
        with suppress(GoneError):  # what it would look back on was dropped
            reflag(self.connection, self.snapshot(), moment(start), moment(start + length))

    def rebuild(self, start, length):
        rollup.rebuild(self.connection, moment(start), moment(start + length))

    def advance(self):
        rollup.advance(self.connection, limit=3)

    def retain(self, days):
        """Readings from so many days before T0 on are kept; minutes and quarter-hours for ever."""
        before = self.raw()
        age = self.connection.execute("SELECT now() - %s", [moment(-86_400 * days)]).fetchone()[0]
        retention.keep(self.connection, retention.Policy(raw=age))
        left = {row[:2] for row in self.raw()}
        self.dropped += [row for row in before if row[:2] not in left]

    def raw(self):
        query = "SELECT series_id, (extract(epoch FROM time) * 1000000)::int8, value, flags FROM readings"
        return self.connection.execute(query).fetchall()

    def flagged(self):
        """All stored readings, with names in place of the ids of series."""
        query = "SELECT s.device_id, s.metric, r.time, r.value, r.flags FROM readings r JOIN series s ON s.id = r.series_id"
        return sorted(self.connection.execute(query))

    def policy(self, source, policy):
        records.set_conflict_policy(self.connection, f"gw-{source}", policy)

    def snapshot(self):
        return records.load(self.connection, builtin())

    def check(self):
        assert ledger.discrepancies(self.connection) == []
        assert ledger.rollup_differences(self.connection) == []
        while rollup.advance(self.connection):
            pass
        assert ledger.rollup_differences(self.connection) == []
        us = "(extract(epoch FROM {}) * 1000000)::int8"
        raw = self.raw() + self.dropped  # history that was dropped is what it was
        kinds = dict(self.connection.execute("SELECT s.id, m.kind FROM series s JOIN metrics m ON m.name = s.metric"))
        for table, length in (("readings_1m", 60_000_000), ("readings_15m", 900_000_000)):
            expected = oracles.downsample(raw, kinds, length)
            query = f"SELECT series_id, {us.format('bucket')}, n, n_bad, vmin, vmax, vfirst, vlast, s1, s2 FROM {table}"
            found = {row[:2]: row[2:] for row in self.connection.execute(query)}
            assert found.keys() == expected.keys()
            for key, want in expected.items():
                exact = ("n", "n_bad", "vmin", "vmax", "vfirst", "vlast")
                assert found[key][:6] == tuple(want[column] for column in exact), (table, key)
                for sum_found, name in zip(found[key][6:], ("s1", "s2"), strict=True):
                    assert abs(sum_found - want[name]) <= 1e-9 * want["magnitude"], (table, key)
        newest = {row[0]: row for row in sorted(raw)}
        query = f"SELECT series_id, {us.format('time')}, value, flags FROM latest"
        assert {row[0]: row for row in self.connection.execute(query)} == newest


def moment(seconds):
    return datetime.fromtimestamp(T0, UTC) + timedelta(seconds=seconds)


@pytest.fixture
def worlds(database, other_database):
    """One with two writers, and one with one."""
    with closing(connect(database, application="test")) as first, closing(connect(other_database, application="test")) as second:
        made = World(database, first, 2), World(other_database, second, 1)
        for world in made:
            records.register(world.connection, [device(0), device(1)])
        yield made
        for world in made:
            for pipeline in world.pipelines:
                pipeline.close()


reports = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 1, 2, 3]),
        st.one_of(st.integers(0, 90).map(lambda i: i * 17), st.integers(1, 60).map(lambda day: -86_400 * day), st.just(99_999)),
        st.sampled_from([*METRICS, METRICS[0], METRICS[1]]),
        st.one_of(st.sampled_from([0.0, 20.0, 21.0, 30.0, 359.0, None, -999.0, "x"]), st.floats(0, 500)),
    ),
    min_size=1,
    max_size=12,
)
who = st.integers(0, 1)
seconds = st.integers(-100, 1600)
lengths = st.sampled_from([1, 60, 600, 5000])
operations = st.one_of(
    st.tuples(st.just("write"), who, reports, st.booleans(), st.sampled_from([1, 1, 2])),
    st.tuples(st.just("write"), who, reports, st.booleans(), st.sampled_from([1, 1, 2])),
    st.tuples(st.just("write"), who, reports, st.booleans(), st.sampled_from([1, 1, 2])),
    st.tuples(st.just("write with unknown outcome"), who, reports),
    st.tuples(st.just("restart"), who),
    st.tuples(st.just("register"), st.sampled_from([2, 3])),
    st.just(("replay",)),
    st.tuples(st.just("declare"), st.sampled_from(METRICS), seconds, lengths, st.sampled_from(Verdict)),
    st.tuples(st.just("reflag"), seconds, lengths, st.sampled_from([1.0, 3.0, 100.0])),
    st.tuples(st.just("rebuild"), seconds, lengths),
    st.just(("advance",)),
    st.tuples(st.just("retain"), st.sampled_from([1, 5, 20, 45])),
    st.tuples(st.just("policy"), st.integers(0, 1), st.sampled_from(ConflictPolicy)),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(operations, min_size=1, max_size=8))
def test_whatever_is_done_in_whatever_order(worlds, operations):
    for world in worlds:
        world.empty()
        for operation in operations:
            world.do(*operation)
    two, one = worlds
    two.check()
    assert two.flagged() == one.flagged()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(who, st.integers(-2, 9), st.sampled_from([20.0, 20.0, 22.0, 24.0, 26.0])), min_size=3, max_size=15))
def test_a_past_that_another_process_wrote(worlds, readings):
    """One series, mostly in order of time, whose readings come by either process: STEP and STUCK look back over both."""
    for world in worlds:
        world.empty()
        at = 0
        for who, later, value in readings:
            at += 10 * later
            world.write(who, [(0, at, "temperature", value)], False, 1)
    two, one = worlds
    assert two.flagged() == one.flagged()


def test_a_step_from_what_another_process_wrote(worlds):
    """The shortest case of it: the other one has seen the air warm up."""
    for world in worlds:
        world.empty()
        for who, at, value in [(0, 0, 20.0), (1, 60, 22.0), (0, 120, 24.0), (1, 180, 20.5), (0, 240, 24.5), (1, 300, 25.0)]:
            world.write(who, [(0, at, "temperature", value)], False, 1)
    two, one = worlds
    assert two.flagged() == one.flagged()
    found = [row[4] & Flag.STEP for row in one.flagged()]
    assert found == [0, 0, 0, Flag.STEP, 0, 0]


def test_a_past_that_was_judged_again(worlds):
    """A writer remembers a good reading, and after its flags were judged anew it is none: the registry had moved before."""
    for world in worlds:
        world.empty()
        for at, value in ((0, 20.0), (60, 22.5)):
            world.write(0, [(0, at, "temperature", value)], False, 1)
        records.register(world.connection, [device(0, step_floor=2.0)])
        for who, at in ((1, 120), (0, 180)):
            world.write(who, [(0, at, "temperature", 22.6)], False, 1)
        reflag(world.connection, world.snapshot(), moment(0), moment(200))
        world.write(0, [(0, 240, "temperature", 22.4)], False, 1)
        world.declare("temperature", 50, 30, Verdict.GOOD)
        world.write(1, [(0, 300, "temperature", 22.3)], False, 1)
    two, one = worlds
    assert two.flagged() == one.flagged()
    assert [bool(row[4] & Flag.STEP) for row in one.flagged()] == [False, True, True, True, True, False]
