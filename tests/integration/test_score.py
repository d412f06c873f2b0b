"""`citybeat simulate score` on a real database, which ingest's pipeline filled; the truth is made by hand."""

import json

import pytest
from typer.testing import CliRunner

from citybeat.cli import app
from citybeat.commands import scoring
from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.simulator.score.tallies import Limits as ScoreLimits
from citybeat.storage.registry import records
from tests import truths

T0 = 1_767_225_600_000_000
SECOND = 1_000_000
METRICS = ("temperature", "pm25")


class Sender:
    """One source with one device: what it sends goes through ingest, and what it meant into the truth."""

    def __init__(self, pipeline, source, device):
        self.pipeline, self.source, self.device = pipeline, source, device
        self.rows, self.seq = [], 0

    def send(self, minute, values, *, delay=1, again=False, payload=None, ts=True, shift=0, sent=True, acknowledged=True, **labels):
        """A message of one report. `labels`: by metric, what is wrong with the reading."""
        time = T0 + minute * 60 * SECOND
        report = {"device": self.device, "ts": time // 1000 + shift * 1000, "values": values}
        if not ts:
            del report["ts"]
        body = json.dumps({"seq": self.seq, "boot": "b", "readings": report}).encode() if payload is None else payload
        received_at = time + delay * SECOND
        copies = (2 if again else 1) if sent else 0
        for copy in range(copies):
            self.pipeline.process([self._message(body, received_at + copy)], lambda: True)
        for copy in range(max(copies, 1)):
            for index, (metric, value) in enumerate(values.items()):
                row = {
                    "source": self.source,
                    "boot": "b",
                    "seq": None if payload is not None else self.seq,
                    "index": index if sent else -1,
                    "device": self.device,
                    "metric": metric,
                    "time": time,
                    "claimed": time + shift * SECOND if ts else None,
                    "sent_at": received_at - 1000 if sent else None,
                    "value": value,
                    "outcome": "stored" if sent else "lost",
                    "event": -1,
                    "acknowledged": sent and acknowledged,
                } | labels.get(metric, {})
                self.rows.append(row | ({"outcome": "duplicate", "delivery": "duplicate"} if copy else {}))
        self.seq += 1

    def _message(self, body, received_at):
        return Message(f"city/v1/{self.source}/readings", body, received_at, False, 1, 1, 1)


@pytest.fixture
def pipeline(database, connection):
    devices = [
        Device(
            id=f"env-{source}",
            source=source,
            domain="environment",
            sensors=tuple(Sensor(metric=metric, interval=60, stuck_after=600) for metric in METRICS),
        )
        for source in ("gw-a", "gw-b")
    ]
    records.register(connection, devices)
    made = Pipeline(database, catalogue=builtin(), limits=Limits(), max_bytes=100_000, quarantine_quota=1_000_000)
    made.open()
    yield made
    made.close()


def bad_hour(sender):
    """Something of everything."""
    for minute in range(60):
        values = {"temperature": 20.0 + minute % 5 * 0.1, "pm25": 10.0 + minute % 7}
        more = {}
        if minute == 10:
            values["temperature"], more["temperature"] = 45.0, {"fault": "spike", "event": 0}
        if minute == 12:
            values["temperature"], more["temperature"] = 99.0, {"fault": "range", "event": 1}
        if minute == 14:
            values["pm25"], more["pm25"] = -999.0, {"fault": "sentinel", "event": 2, "outcome": "missing"}
        if 20 <= minute < 25:
            values["temperature"] += 20.0
            more["temperature"] = {"fault": "step", "event": 3}
        if 30 <= minute < 55:
            values["pm25"], more["pm25"] = 33.0, {"fault": "stuck", "event": 4}
        if minute == 5:
            sender.send(minute, values, delay=1000, temperature={"delivery": "late"}, pm25={"delivery": "late"})
        elif minute == 6:
            sender.send(minute, values, again=True)
        elif minute == 7:
            lost = {"delivery": "lost"}
            sender.send(minute, values, sent=False, temperature=lost, pm25=lost)
        elif minute == 8:
            bad = {"delivery": "malformed", "outcome": "undecodable"}
            sender.send(minute, values, payload=b'{"seq":', temperature=bad, pm25=bad)
        elif minute == 9:
            sender.send(minute, values)
            conflict = {"delivery": "conflict", "outcome": "conflict"}
            sender.send(minute, {"temperature": 21.5}, temperature=conflict)
        elif minute == 16:
            ahead = {"delivery": "clock", "outcome": "quarantined", "reason": "too_far_ahead"}
            sender.send(minute, values, shift=9000, temperature=ahead, pm25=ahead)
        elif minute == 57:
            sender.send(minute, values, shift=30, temperature={"delivery": "clock"}, pm25={"delivery": "clock"})
        elif minute == 59:
            sender.send(minute, values, ts=False, temperature={"delivery": "no_time"}, pm25={"delivery": "no_time"})
        else:
            sender.send(minute, values, **more)


@pytest.fixture
def senders(pipeline):
    made = [Sender(pipeline, source, f"env-{source}") for source in ("gw-a", "gw-b")]
    for sender in made:
        bad_hour(sender)
    return made


def truth(tmp_path, senders):
    sources = {(sender.source, "b"): sender.seq - 1 for sender in senders}
    rows = [row for pair in zip(*(sender.rows for sender in senders), strict=True) for row in pair]
    return truths.write(tmp_path / "truth.parquet", rows, sources=sources)


def scored(connection, path, **options):
    given = {
        "catalogue": builtin(),
        "limits": ScoreLimits(late_after=300 * SECOND, future_after=5 * SECOND),
        "max_bytes": 100_000,
        "patience": 0.0,
    }
    return scoring.score(path, connection, **(given | options))


def test_everything_is_found_and_the_books_agree(senders, connection, tmp_path):
    score = scored(connection, truth(tmp_path, senders))
    assert score.disagreements == []
    assert score.missed == []
    assert score.notes == {}
    found = {kind.kind: (kind.of, kind.found, kind.recall, kind.precision) for kind in score.kinds}
    assert found == {
        "range": (2, 2, 1, 1),
        "sentinel": (2, 2, 1, 1),
        "spike": (2, 2, 1, 1),
        "step": (2, 2, 1, 1),
        "stuck": (2, 2, 1, 1),
        "stuck readings": (28, 28, 1, None),
        "late": (4, 4, 1, 1),
        "clock": (8, 8, 1, 1),
        "no_time": (4, 4, 1, 1),
        "duplicate": (4, 4, 1, 1),
        "conflict": (2, 2, 1, 1),
        "malformed messages": (2, 2, 1, 1),
        "lost": (2, 2, 1, 1),
    }
    stuck = next(kind for kind in score.kinds if kind.kind == "stuck")
    assert (stuck.delay_seconds.median, stuck.delay_readings.max) == (660.0, 11)
    assert score.ok


@pytest.mark.parametrize("part", [50, 100])
def test_parts_add_up(senders, connection, tmp_path, part):
    path = truth(tmp_path, senders)
    assert scored(connection, path, part=part).as_dict() == scored(connection, path).as_dict()


def test_what_differs_is_named_to_the_reading(senders, connection, tmp_path):
    path = truth(tmp_path, senders)
    connection.execute("DELETE FROM readings WHERE time = '2026-01-01T00:03:00Z' AND series_id = 1")
    connection.execute("UPDATE readings SET value = 1 WHERE time = '2026-01-01T00:04:00Z' AND series_id = 1")
    connection.execute("UPDATE readings SET flags = 0 WHERE flags = 1 AND series_id = 1")
    connection.execute("UPDATE ledger SET stored = stored - 1, received = received - 1 WHERE minute = '2026-01-01T00:03:00Z'")
    connection.execute("UPDATE quarantine SET refused = '[[0, \"too_old\", \"\"]]' WHERE reasons = '{conflict}' AND source_id = 2")
    connection.execute("UPDATE seqs SET seen = seen - '{[3,4)}'::int8multirange WHERE source_id = 3")
    score = scored(connection, path)
    assert not score.ok
    told = {(finding.source, finding.what): finding.examples for finding in score.disagreements}
    names = {what: [source for source, each in told if each == what] for what in sorted({what for _, what in told})}
    assert names == {
        "in quarantine for another reason": ["gw-a"],
        "lost: the truth has 1, the database 2": ["gw-b"],
        "messages that should have come, and did not": ["gw-b"],
        "quarantined as too_old: the truth has 0, the database 1": ["gw-a"],
        "received: the truth has 119, the database 118": ["gw-a", "gw-b"],
        "should be stored, and is not": ["gw-a"],
        "stored with another value": ["gw-a"],
        "stored: the truth has 113, the database 112": ["gw-a", "gw-b"],
    }
    assert told["gw-a", "should be stored, and is not"] == (
        "env-gw-a temperature 2026-01-01T00:03:00Z [gw-a b message 3, reading 0]",
    )
    assert [sentence.split(":")[0] for sentence in score.missed] == ["range", "conflict"]


def test_what_was_stored_before_the_run_is_not_of_it(senders, connection, tmp_path):
    connection.execute("UPDATE readings SET received_at = received_at - interval '1 day' WHERE time = '2026-01-01T00:03:00Z'")
    score = scored(connection, truth(tmp_path, senders))
    assert {finding.what: finding.count for finding in score.disagreements} == {"should be stored, and is not": 2}


def test_another_start_of_the_source_is_told(senders, pipeline, connection, tmp_path):
    path = truth(tmp_path, senders)
    body = json.dumps({"seq": 0, "boot": "other", "readings": {"device": "env-gw-a", "ts": T0 // 1000 + 1, "values": {"pm25": 1}}})
    pipeline.process([Message("city/v1/gw-a/readings", body.encode(), T0 + SECOND, False, 1, 1, 1)], lambda: True)
    told = [finding.what for finding in scored(connection, path).disagreements]
    assert "messages of a start ('other') that the truth does not know: something else was sent meanwhile" in told
    assert "in the database, and not in the truth" in told


@pytest.fixture
def run(database, tmp_path):
    env = {"CITYBEAT_DATABASE_URL": database, "CITYBEAT_MQTT_URL": "mqtt://127.0.0.1:1", "CITYBEAT_HOME": str(tmp_path)}

    def do(*arguments):
        return CliRunner().invoke(app, ["simulate", "score", "--wait", "0", *arguments], env=env)

    return do


def test_the_command(senders, connection, tmp_path, run):
    path = str(truth(tmp_path, senders))
    done = run("--truth", path)
    assert done.exit_code == 0, done.output
    assert "every limit is met" in done.stdout
    assert "the ledger agrees to the reading" in done.stdout
    found = json.loads(run("--truth", path, "--json").stdout)
    assert (found["ok"], found["scenario"], found["seed"]) == (True, "by hand", 7)
    connection.execute("UPDATE readings SET flags = flags & ~4::int2 WHERE series_id = 2 AND flags & 4 <> 0")
    done = run("--truth", path)
    assert done.exit_code == 1
    assert "MISSED: stuck: 1 of 2 episodes found, 50.00%; at least 99%" in done.stdout
    assert "stuck readings not found: 14" in done.stdout
    assert run("--truth", path, "--no-bars").exit_code == 0


def test_files_that_are_no_truth(tmp_path, run):
    path = tmp_path / "truth.parquet"
    path.write_bytes(b"PAR1")
    assert run("--truth", str(path)).exit_code == 1
    truths.write(path, [], sources={}, version=2)
    done = run("--truth", str(path))
    assert "a truth file of version 2; this program reads version 1" in done.stderr
    truths.write(path, [{"fault": "moths"}], sources={})
    assert "'moths' is none of stuck, spike" in run("--truth", str(path)).stderr
    truths.write(path, [{"source": "gw-a", "outcome": "lost"}], sources={})
    assert "no reading was sent, so there is nothing to score" in run("--truth", str(path)).stderr
