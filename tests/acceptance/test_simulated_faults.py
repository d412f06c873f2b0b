"""A city with every kind of fault, over a real broker to a real ingest: each reading becomes what the truth says that it must."""

import json
import threading
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from citybeat import stack
from citybeat.devices.flags import Flag
from citybeat.simulator.city import layout as cities
from citybeat.simulator.faults.kinds import Fault, FaultSpec, Where
from citybeat.simulator.faults.malformed import READINGS, REPORTS, WHOLE, Form
from citybeat.simulator.faults.rows import FAULTS
from citybeat.simulator.faults.truth import Truth
from citybeat.simulator.feed import Entry, Record
from citybeat.simulator.run import run
from citybeat.storage.accounts import ledger
from citybeat.storage.registry import records
from tests.acceptance.conftest import PATIENCE, _built, wait_for

SOURCES = ("sim-1", "sim-2", "sim-3")
EVERYTHING = (
    FaultSpec(kind=Fault.CLOCK, mode="fixed", offset=-250.0, where=Where(share=0.05)),
    FaultSpec(kind=Fault.CLOCK, mode="fixed", offset=86_400.0, rate=0.5, duration=1200, where=Where(share=0.3)),
    FaultSpec(kind=Fault.CLOCK, mode="drift", offset=-200.0, rate=0.5, duration=1200, where=Where(share=0.3)),
    FaultSpec(kind=Fault.CLOCK, mode="jump", offset=-3600.0, rate=0.5, duration=1200, every=120, where=Where(share=0.3)),
    FaultSpec(kind=Fault.CLOCK, mode="restart", rate=0.5, duration=600, where=Where(share=0.3)),
    FaultSpec(kind=Fault.NO_TIME, chance=0.02),
    FaultSpec(kind=Fault.SENTINEL, chance=0.02),
    FaultSpec(kind=Fault.DROPOUT, chance=0.02),
    FaultSpec(kind=Fault.DROPOUT, mode="silent", chance=0.02),
    FaultSpec(kind=Fault.RANGE, chance=0.02),
    FaultSpec(kind=Fault.SPIKE, chance=0.02),
    *(
        FaultSpec(kind=kind, rate=0.5, where=Where(share=0.2))
        for kind in (Fault.STUCK, Fault.STEP, Fault.DRIFT, Fault.OFFSET, Fault.NOISE, Fault.UNIT, Fault.RESET)
    ),
    FaultSpec(kind=Fault.LATE, rate=1, duration=400, where=Where(gateways=("sim-1",))),
    FaultSpec(kind=Fault.REBOOT, rate=1, duration=100, where=Where(gateways=("sim-2",))),
    FaultSpec(kind=Fault.REBOOT, rate=1),
    FaultSpec(kind=Fault.FLAP, rate=2),
    FaultSpec(kind=Fault.LOST, chance=0.03),
    FaultSpec(kind=Fault.REORDERED, chance=0.05),
    FaultSpec(kind=Fault.DUPLICATE, chance=0.05),
    FaultSpec(kind=Fault.MALFORMED, chance=0.1),
    FaultSpec(kind=Fault.DUPLICATE, mode="reading", chance=0.02),
    FaultSpec(kind=Fault.CONFLICT, chance=0.02),
)


@pytest.fixture(scope="module")
def town(tmp_path_factory, debian_root):
    """A town of their own: all simulated cities have the same devices, and other tests count theirs."""
    with _built(tmp_path_factory, debian_root) as made:
        yield made


@pytest.fixture(scope="module")
def ingest(town):
    process = town.start("ingest", "--stats")
    process.wait_ready()
    yield process
    assert process.stop() == 0, process.log.read_text("utf-8")


class Until:
    """A record that ends the run when each of some sources has sent a malformed message.

    The number of messages in a given time depends on the machine: in each turn a gateway sends what is due as one message, and
    there are ten turns a second on an idle machine and one on a busy machine.
    """

    def __init__(self, truth: Record, missing: Collection[str], stop: threading.Event) -> None:
        self._truth, self._missing, self._stop = truth, set(missing), stop

    def add(self, entry: Entry) -> None:
        self._truth.add(entry)
        if (entry.rows["delivery"] == FAULTS.index("malformed")).any():
            self._missing.discard(entry.source)
        if not self._missing:
            self._stop.set()

    def describe(self, about: Mapping[str, Any]) -> None:
        self._truth.describe(about)


def send(town, path, faults, *, sources, devices, seed, start, speed, duration, until=None):
    """Let a city send with faults; the truth, as a table, and the ledger's counts when ingest has written what was acknowledged.

    `until`: sources; the run ends when each of them has sent a malformed message, and not before.
    """
    city = cities.build(devices=devices, gateways=sources, seed=seed)
    with town.database() as database:
        records.register(database, list(city.devices))
        before = ledger.totals(database, sources=sources)
    stop = threading.Event()
    with Truth(path, city) as truth:
        report = run(
            city,
            url=f"mqtt://127.0.0.1:{town.settings.mqtt_port}",
            passwords=stack.credentials(town.settings, list(sources)),
            stop=stop,
            speed=speed,
            start=start,
            duration=duration,
            faults=faults,
            truth=truth if until is None else Until(truth, until, stop),
        )
    assert until is None or stop.is_set()
    assert report.complete
    assert report.refused_messages == 0
    table = pq.read_table(path)
    unread = len(rows(table, "source", "delivery_event", outcome="undecodable"))
    with town.database() as database:

        def done():
            return ledger.totals(database, sources=sources) - before

        wait_for(lambda: (done().received, done().undecodable) == (report.readings, unread), done, progress=done)
        return table, done()


def rows(table, *columns, **wanted):
    """Rows of the truth as tuples, and how often each is there."""
    for column, value in wanted.items():
        table = table.filter(pc.equal(table[column].cast("string"), value))
    return Counter(zip(*(table[column].to_pylist() for column in columns), strict=True))


def check(town, truth, done, sources, *, since):
    """Everything that the database has of these sources since then, and nothing else, is what the truth says."""
    with town.database() as database:
        stored = database.execute(
            "SELECT d.id, s.metric, r.time, r.value, r.flags FROM readings r JOIN series s ON s.id = r.series_id"
            " JOIN devices d ON d.id = s.device_id JOIN sources o ON o.id = d.source_id"
            " WHERE o.name = ANY(%s) AND r.received_at >= %s",
            [list(sources), since],
        ).fetchall()
        kept = database.execute(
            "SELECT o.name, q.payload, q.refused FROM quarantine q JOIN sources o ON o.id = q.source_id WHERE o.name = ANY(%s)",
            [list(sources)],
        ).fetchall()
        seen = database.execute(
            "SELECT o.name, s.boot, lower(part), upper(part) FROM seqs s JOIN sources o ON o.id = s.source_id,"
            " unnest(s.seen) AS part WHERE o.name = ANY(%s)",
            [list(sources)],
        ).fetchall()
    wanted = rows(truth, "device", "metric", "claimed", "value", outcome="stored")
    timed = Counter((device, metric, time, value) for device, metric, time, value, flags in stored if not flags & Flag.CLOCK)
    expected = Counter({key: n for key, n in wanted.items() if key[2] is not None})
    assert sorted((timed - expected).items())[:5] == []
    assert sorted((expected - timed).items())[:5] == []
    untimed = Counter((device, metric, value) for device, metric, _, value, flags in stored if flags & Flag.CLOCK)
    assert untimed == Counter((device, metric, value) for device, metric, time, value in wanted.elements() if time is None)
    # What was refused, by the number of its message and its place in it; whole messages by their reason.
    refused, unread = Counter(), Counter()
    for source, payload, listed in kept:
        for index, reason, *_ in listed:
            if index is None:
                unread[source, reason] += 1
            else:
                body = json.loads(bytes(payload))
                refused[source, body["boot"], body["seq"], index, reason] += 1
    place = ("source", "boot", "seq", "index")
    conflicts = {(*key, "conflict"): n for key, n in rows(truth, *place, outcome="conflict").items()}
    assert refused == rows(truth, *place, "reason", outcome="quarantined") + Counter(conflicts)
    messages = rows(truth, "source", "delivery_event", "reason", outcome="undecodable")
    assert unread == Counter((source, reason) for source, _, reason in messages)
    assert done.undecodable == len(messages)
    # Numbers: what is not lost, and can be read.
    lost = pc.equal(truth["outcome"].cast("string"), "lost")
    arrived = truth.filter(pc.invert(lost))
    numbers = {(source, boot, seq) for source, boot, first, end in seen for seq in range(first, end)}
    assert numbers == {key for key in rows(arrived, "source", "boot", "seq") if key[2] is not None}
    assert set(arrived["acknowledged"].to_pylist()) == {True}
    by_outcome = Counter(truth["outcome"].to_pylist())
    counted = {outcome: getattr(done, outcome) for outcome in ("stored", "duplicate", "conflict", "missing", "quarantined")}
    assert counted == {outcome: by_outcome[outcome] for outcome in counted}
    assert done.balanced
    assert set(truth.filter(lost)["acknowledged"].to_pylist()) <= {False}


def test_every_reading_becomes_what_the_truth_says(town, ingest, tmp_path):
    since = datetime.now(UTC)
    start = since - timedelta(hours=2)
    city = {"sources": SOURCES, "devices": 60, "seed": 5, "start": start, "speed": 1800.0, "duration": 4.0}
    truth, done = send(town, tmp_path / "truth.parquet", EVERYTHING, **city)
    kinds = {spec.kind.value for spec in EVERYTHING}
    assert kinds == (set(truth["fault"].to_pylist()) | set(truth["delivery"].to_pylist())) - {""}
    assert {"too_far_ahead", "too_old"} <= set(truth["reason"].to_pylist())
    check(town, truth, done, SOURCES, since=since)


def test_each_form_of_a_malformed_message(town, ingest, tmp_path):
    sources = tuple(f"form-{form.replace('_', '-')}" for form in Form)
    faults = [
        FaultSpec(kind=Fault.MALFORMED, chance=0.5, forms=(form,), where=Where(gateways=(source,)))
        for form, source in zip(Form, sources, strict=True)
    ]
    since = datetime.now(UTC)
    start = since - timedelta(days=2)
    forms = sources
    # Devices are spread over a multiple of the twelve districts' gateways.
    sources += tuple(f"sound-{number}" for number in range(-len(sources) % 12))
    city = {"sources": sources, "devices": 400, "seed": 6, "start": start, "speed": 100.0, "duration": PATIENCE, "until": forms}
    truth, done = send(town, tmp_path / "truth.parquet", faults, **city)
    reasons = (WHOLE | REPORTS) | READINGS
    for form, source in zip(Form, sources, strict=False):
        found = rows(truth, "outcome", "reason", source=source, delivery="malformed")
        reason = reasons[form][0] if form in WHOLE else reasons[form]
        outcome = "undecodable" if form in WHOLE else "quarantined"
        assert found[outcome, reason], form
        assert {key for key in found if key != ("lost", "")} == {(outcome, reason)}
    check(town, truth, done, sources, since=since)


SCENARIO = """
name: A short day
seed: 8
speed: 600
city:
  devices: 30
  gateways: [cli-1, cli-2]
faults:
  - {kind: sentinel, chance: 0.05}
  - {kind: late, from: 10m, until: 20m, where: {gateways: cli-1}}
  - {kind: malformed, chance: 0.1}
"""


def test_a_scenario_by_the_command_leaves_a_whole_truth_however_it_ends(town, ingest, tmp_path):
    scenario, truth = tmp_path / "day.yaml", tmp_path / "truth.parquet"
    scenario.write_text(SCENARIO)
    arguments = ("simulate", "run", "--scenario", str(scenario), "--truth", str(truth), "--json")

    def sent(process):
        return max((line["readings"] for line in process.said() if "readings" in line), default=0)

    process = town.start(*arguments)
    wait_for(lambda: sent(process) > 1000, lambda: process.log.read_text("utf-8"))
    assert not truth.exists()
    assert process.stop() == 0, process.log.read_text("utf-8")
    report = next(line["report"] for line in process.said() if "report" in line)
    table = pq.read_table(truth)
    counts = rows(table, "outcome")
    assert report["readings"] == len(table) - counts[("undecodable",)] - counts[("lost",)]
    assert {"", "sentinel"} == set(table["fault"].to_pylist())
    about = json.loads(pq.ParquetFile(truth).metadata.metadata[b"citybeat"])
    assert (about["scenario"], about["seed"], len(about["faults"])) == ("A short day", 8, 3)
    # Killed, it leaves what was there.
    before = truth.read_bytes()
    process = town.start(*arguments)
    wait_for(lambda: sent(process) > 1000, lambda: process.log.read_text("utf-8"))
    process.kill()
    assert truth.read_bytes() == before
    assert (tmp_path / "truth.parquet.part").exists()


def test_a_scenario_that_cannot_be_is_named_by_its_line(town, tmp_path):
    scenario = tmp_path / "day.yaml"
    scenario.write_text("name: Wrong\nfaults:\n  - kind: spike\n    rate: 1\n    where: {districts: [Atlantis]}\n")
    done = town.run("simulate", "run", "--scenario", str(scenario), "--truth", str(tmp_path / "t.parquet"), check=False)
    assert done.returncode != 0
    assert "line 5: faults[0].where: districts: the city has no 'Atlantis'" in done.stderr
    assert not list(tmp_path.glob("t.parquet*"))
