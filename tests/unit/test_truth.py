"""The file with the truth: its columns, that it is written in pieces and always whole, and that it has what was sent."""

import json
import threading
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from citybeat.devices.batch import NEVER
from citybeat.devices.wire import reports
from citybeat.simulator.city import layout as cities
from citybeat.simulator.errors import PublishError, PublishStoppedError, TruthError
from citybeat.simulator.faults import truth as truths
from citybeat.simulator.faults.kinds import Fault, FaultSpec, Where
from citybeat.simulator.faults.rows import FAULT_CODES, NO_RANK, OUTCOME_CODES, REASON_CODES, ROW, Outcome, again, deliver
from citybeat.simulator.faults.truth import SCHEMA, Truth
from citybeat.simulator.feed import Entry, Receipt
from citybeat.simulator.run import run
from tests.unit.test_simulator_run import Memory

GATEWAYS = ("gw-1", "gw-2")
PASSWORDS = dict.fromkeys(GATEWAYS)
CITY = cities.build(devices=30, gateways=GATEWAYS, seed=4)
EVERYTHING = (
    FaultSpec(kind=Fault.CLOCK, offset=-20.0, rate=2.0, duration=300.0),
    FaultSpec(kind=Fault.NO_TIME, chance=0.02),
    FaultSpec(kind=Fault.SPIKE, chance=0.02),
    FaultSpec(kind=Fault.DROPOUT, chance=0.02),
    FaultSpec(kind=Fault.DROPOUT, mode="silent", chance=0.02),
    FaultSpec(kind=Fault.LATE, rate=1.0, duration=300.0),
    FaultSpec(kind=Fault.REBOOT, rate=2.0),
    FaultSpec(kind=Fault.FLAP, rate=2.0),
    FaultSpec(kind=Fault.LOST, chance=0.05),
    FaultSpec(kind=Fault.DUPLICATE, chance=0.05),
    FaultSpec(kind=Fault.CONFLICT, chance=0.05),
    FaultSpec(kind=Fault.MALFORMED, chance=0.2),
)


class Link(Memory):
    """A broker that acknowledges at once, and whose connection may break."""

    def __init__(self):
        super().__init__()
        self.breaks = 0
        self.channels = []

    def publish(self, channel, payload, *, readings):
        self.channels.append(channel)
        return super().publish("readings", payload, readings=readings)

    def drop(self):
        self.breaks += 1


def rows(n, **columns):
    made = np.zeros(n, ROW)
    made["index"], made["event"], made["delivery_event"], made["rank"] = np.arange(n), -1, -1, NO_RANK
    for name, column in columns.items():
        made[name] = column
    return made


def entry(n=2, *, seq=0, receipt=None, **columns):
    return Entry(source="gw-1", boot="b", seq=seq, rows=rows(n, **columns), sent_at=1_000_000, receipt=receipt)


def settled(acknowledged=True):
    receipt = Receipt()
    receipt.acknowledged = acknowledged
    return receipt


def simulate(path, *, faults=EVERYTHING, transport=Link, stop=None, **options):
    links = {}

    def connect(source, _password):
        links[source] = transport()
        return links[source]

    options = {"speed": 7200.0, "duration": 1.0, **options}
    with Truth(path, CITY) as record:
        report = run(
            CITY,
            url="",
            passwords=PASSWORDS,
            stop=stop or threading.Event(),
            connect=connect,
            faults=faults,
            truth=record,
            scenario="test",
            **options,
        )
    return report, links, pq.read_table(path)


def test_a_row_as_it_is_read(tmp_path):
    path = tmp_path / "t.parquet"
    one = entry(
        3,
        seq=7,
        receipt=settled(),
        series=[0, 1, 5],
        time=5_000_000,
        claimed=[4_000_000, NEVER, 1],
        value=[1.5, np.nan, -999.0],
        true=[1.5, 2.0, 3.0],
        fault=[0, FAULT_CODES[Fault.DROPOUT], FAULT_CODES[Fault.SENTINEL]],
        event=[-1, 0, 1],
        delivery=[FAULT_CODES[Fault.CLOCK], FAULT_CODES[Fault.NO_TIME], 0],
        delivery_event=[3, 4, -1],
        outcome=[OUTCOME_CODES[Outcome.STORED], OUTCOME_CODES[Outcome.MISSING], OUTCOME_CODES[Outcome.QUARANTINED]],
        reason=[0, 0, next(iter(REASON_CODES.values()))],
    )
    gone = Entry(
        source="gw-2", boot="", seq=None, rows=rows(1, index=-1, outcome=OUTCOME_CODES[Outcome.LOST]), sent_at=None, receipt=None
    )
    with Truth(path, CITY) as truth:
        truth.add(one)
        truth.add(gone)
        truth.describe({"seed": 1})
        assert not path.exists()
    table = pq.read_table(path)
    assert table.schema.names == SCHEMA.names
    assert table.schema.field("time").type == pa.timestamp("us", tz="UTC")
    first, second, third, last = table.to_pylist()
    names = [(CITY.id(int(CITY.series.device[i])), CITY.series.metrics[CITY.series.metric[i]]) for i in (0, 1, 5)]
    assert [(row["device"], row["metric"]) for row in (first, second, third)] == names
    assert (first["source"], first["boot"], first["seq"], first["index"]) == ("gw-1", "b", 7, 0)
    assert (first["time"].timestamp(), first["claimed"].timestamp(), first["sent_at"].timestamp()) == (5, 4, 1)
    assert (first["fault"], first["event"], first["delivery"], first["delivery_event"]) == ("", -1, "clock", 3)
    assert (first["outcome"], first["reason"], first["acknowledged"]) == ("stored", "", True)
    assert second["claimed"] is None
    assert np.isnan(second["value"])
    assert (second["true_value"], second["fault"], second["outcome"]) == (2.0, "dropout", "missing")
    assert (third["value"], third["outcome"], third["reason"]) == (-999.0, "quarantined", "unknown_topic")
    assert [last[name] for name in ("source", "seq", "index", "sent_at", "outcome", "acknowledged")] == [
        "gw-2", None, -1, None, "lost", False
    ]  # fmt: skip
    assert json.loads(pq.ParquetFile(path).metadata.metadata[b"citybeat"]) == {"version": 1, "seed": 1}


def test_what_never_went_into_a_message_is_not_sent_with_it(tmp_path):
    with Truth(tmp_path / "t.parquet", CITY) as truth:
        truth.add(entry(2, seq=3, receipt=settled(), index=[0, -1]))
    first, second = pq.read_table(tmp_path / "t.parquet").select(["seq", "sent_at", "acknowledged"]).to_pylist()
    assert first["sent_at"] is not None
    assert (first["seq"], first["acknowledged"]) == (3, True)
    assert second == {"seq": None, "sent_at": None, "acknowledged": False}


def test_it_is_written_in_pieces_as_answers_come(tmp_path, monkeypatch):
    monkeypatch.setattr(truths, "GROUP", 10)
    path = tmp_path / "t.parquet"
    waiting = [Receipt() for _ in range(30)]
    with Truth(path, CITY) as truth:
        for seq in range(100):
            receipt = waiting[seq // 4] if seq % 4 == 0 and seq // 4 < 30 else settled()
            truth.add(entry(seq=seq, receipt=receipt))
            # What is settled is not kept much longer than a group; what waits stays.
            assert truth._waiting <= 2 * (seq // 4 + 1) + 2 * 10 + 2
        assert truth.rows > 100
        for number, receipt in enumerate(waiting):
            receipt.acknowledged = number % 2 == 0 if number % 3 else None
    table = pq.read_table(path)
    assert len(table) == 200
    assert pq.ParquetFile(path).metadata.num_row_groups > 5
    assert sorted(table["seq"].to_pylist()) == sorted([*range(100), *range(100)])
    said = {row["seq"]: row["acknowledged"] for row in table.to_pylist()}
    for number, receipt in enumerate(waiting[:25]):
        assert said[4 * number] == (receipt.acknowledged is True)
    assert all(said[seq] for seq in range(100) if seq % 4)


def test_it_is_whole_whatever_happens_and_has_its_name_only_then(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(b"of an earlier run")
    with pytest.raises(RuntimeError), Truth(path, CITY) as truth:
        truth.add(entry(receipt=settled()))
        assert path.read_bytes() == b"of an earlier run"
        assert (tmp_path / "t.parquet.part").exists()
        raise RuntimeError
    assert len(pq.read_table(path)) == 2
    assert not (tmp_path / "t.parquet.part").exists()
    truth.close()  # again, and nothing happens


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(TruthError, match="nowhere"):
        Truth(tmp_path / "nowhere" / "t.parquet", CITY)


def test_a_run_that_never_began_leaves_what_was_there(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(b"of an earlier run")

    def refuse(source, password):
        raise PublishError("nobody answers")

    with pytest.raises(PublishError), Truth(path, CITY) as truth:
        run(CITY, url="", passwords=PASSWORDS, stop=threading.Event(), connect=refuse, truth=truth)
    assert path.read_bytes() == b"of an earlier run"
    assert [each.name for each in tmp_path.iterdir()] == ["t.parquet"]


def test_an_empty_truth_can_be_read(tmp_path):
    with Truth(tmp_path / "t.parquet", CITY) as truth:
        truth.describe({"seed": 1})
    table = pq.read_table(tmp_path / "t.parquet")
    assert (len(table), table.schema.names) == (0, SCHEMA.names)


def test_the_truth_of_a_run_is_what_was_sent(tmp_path):
    report, links, table = simulate(tmp_path / "t.parquet")
    by_outcome = Counter(table["outcome"].to_pylist())
    readable = 0
    for source, link in links.items():
        read = reports.decode(link.payloads, [source] * len(link.payloads), np.zeros(len(link.payloads), np.int64))
        wrong = [i for i, channel in enumerate(link.channels) if channel != "readings"]
        readable += int(np.delete(read.received, wrong).sum())
        assert link.breaks > 0
    assert readable == len(table) - by_outcome["lost"] - by_outcome["undecodable"] == report.readings
    about = json.loads(pq.ParquetFile(tmp_path / "t.parquet").metadata.metadata[b"citybeat"])
    assert (about["seed"], about["scenario"], about["version"]) == (CITY.seed, "test", 1)
    assert about["started"] < about["ended"]
    assert (about["simulated_from"], about["simulated_to"]) == (report.simulated_from, report.simulated_to)
    assert about["messages"]["sent"] == sum(link.sent for link in links.values())
    assert [fault["kind"] for fault in about["faults"]] == [spec.kind.value for spec in EVERYTHING]
    rows_ = table.to_pylist()
    for source in report.sources:
        boots = about["sources"][source.source]
        assert tuple(zip(boots["boots"], boots["last_seq"], strict=True)) == source.boots
        assert len(source.boots) > 1
        for boot, last in source.boots:
            numbers = {row["seq"] for row in rows_ if (row["source"], row["boot"]) == (source.source, boot)} - {None}
            assert not numbers or max(numbers) <= last
    malformed = {row["delivery_event"] for row in rows_ if row["delivery"] == "malformed"}
    assert about["messages"]["malformed"] == len(malformed) > 0
    # An event is one thing: of one kind, and of one source.
    kinds = {}
    for row in rows_:
        for kind, event in ((row["fault"], row["event"]), (row["delivery"], row["delivery_event"])):
            assert (kind == "") == (event == -1)
            if kind:
                assert kinds.setdefault(event, (kind, row["source"])) == (kind, row["source"])


def test_the_truth_of_a_clean_run(tmp_path):
    report, _, table = simulate(tmp_path / "t.parquet", faults=())
    assert len(table) == report.readings > 1000
    assert table["value"].equals(table["true_value"])
    assert table["time"].equals(table["claimed"])
    for column, word in (("fault", ""), ("delivery", ""), ("outcome", "stored"), ("reason", ""), ("acknowledged", True)):
        assert set(table[column].to_pylist()) == {word}
    assert all(row["sent_at"] is not None for row in table.to_pylist())
    identity = table.select(["source", "boot", "seq", "index"]).to_pylist()
    assert len({tuple(row.values()) for row in identity}) == len(table)


def test_a_run_that_is_stopped_while_it_waits_tells_what_was_never_sent(tmp_path):
    stop = threading.Event()

    class Full(Link):
        def publish(self, channel, payload, *, readings):
            if self.sent == 5:
                stop.set()
                raise PublishStoppedError("full")
            return super().publish(channel, payload, readings=readings)

    late = FaultSpec(kind=Fault.LATE, where=Where(gateways=("gw-1",)))
    report, links, table = simulate(tmp_path / "t.parquet", faults=[late], transport=Full, stop=stop, duration=None)
    assert report.readings == sum(link.sent_readings for link in links.values())
    by_outcome = Counter((row["outcome"], row["index"] == -1, row["acknowledged"]) for row in table.to_pylist())
    assert set(by_outcome) == {("stored", False, True), ("lost", True, False)}
    assert by_outcome["stored", False, True] == report.readings


def test_a_run_that_fails_leaves_a_whole_file(tmp_path):
    class Broken(Link):
        def publish(self, channel, payload, *, readings):
            if self.sent == 5:
                raise PublishError("the connection is gone")
            return super().publish(channel, payload, readings=readings)

    with pytest.raises(PublishError, match="gone"):
        simulate(tmp_path / "t.parquet", transport=Broken)
    assert len(pq.read_table(tmp_path / "t.parquet")) > 0
    about = json.loads(pq.ParquetFile(tmp_path / "t.parquet").metadata.metadata[b"citybeat"])
    assert about["ended"] >= about["started"]


def test_what_a_repeated_message_becomes():
    outcomes = (Outcome.STORED, Outcome.MISSING, Outcome.QUARANTINED, Outcome.CONFLICT, Outcome.DUPLICATE)
    first = rows(5, outcome=[OUTCOME_CODES[outcome] for outcome in outcomes], reason=[0, 0, 3, 0, 0])
    codes = {code: outcome for outcome, code in OUTCOME_CODES.items()}
    found = [codes[code] for code in again(first)["outcome"].tolist()]
    assert found == [Outcome.DUPLICATE, Outcome.MISSING, Outcome.DUPLICATE, Outcome.DUPLICATE, Outcome.DUPLICATE]
    assert set(again(first)["reason"].tolist()) == {0}
    assert first["reason"].tolist() == [0, 0, 3, 0, 0]


def test_the_first_specification_is_told():
    made = rows(3)
    deliver(made[:2], Fault.LOST, 2, 10)
    deliver(made, Fault.LATE, 1, np.array([20, 21, 22]))
    deliver(made, Fault.CLOCK, 3, 30)
    assert made["delivery_event"].tolist() == [20, 21, 22]
    assert set(made["delivery"].tolist()) == {FAULT_CODES[Fault.LATE]}
