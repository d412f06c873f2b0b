"""Metrics of ingest: counters of each batch, gauges at a scrape, and the endpoint that shows them."""

import json
import socket
import urllib.error
import urllib.request
from collections import Counter
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from citybeat.devices.errors import Reason
from citybeat.ingest.judging.message import Message
from citybeat.ingest.service import IngestConfig, IngestService
from citybeat.ingest.transport.endpoint import Endpoint, EndpointError
from citybeat.ingest.transport.gateway import Session
from citybeat.ingest.transport.inbox import BatchSize
from citybeat.ingest.transport.ipc import Committed
from citybeat.ingest.transport.partition import Timeouts


@pytest.fixture
def intake(tmp_path):
    """A service with two workers, not started."""
    layout = IngestConfig(workers=2, size=BatchSize(), timeouts=Timeouts(), spool=tmp_path)
    made = IngestService(Session(url="mqtt://127.0.0.1:1"), layout, lambda _: None)
    yield made
    for partition in made.partitions:
        partition._spool.close()


def shown(intake):
    """{(name, labels…): value} of what is shown."""
    media_type, text = intake.metrics.exposition()
    assert media_type.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(intake, name, **labels):
    return shown(intake).get((f"citybeat_{name}", *sorted(labels.items())))


def answer(reasons=(), delays=(), took=0.01, **counts):
    return Committed(id=uuid4(), counts=Counter(counts), reasons=Counter(reasons), took=took, delays=delays)


def test_a_batch_is_counted_once_under_its_worker(intake):
    reasons = {"conflict": 1, "malformed": 1, "too_old": 2}
    counts = {"stored": 5, "duplicate": 4, "conflict": 1, "missing": 3, "quarantined": 2}
    batch = answer(reasons, [-5.0, 0.07, 100_000.0], messages=4, undecodable=1, redelivered=2, received=15, overflow=1, **counts)
    intake.metrics.committed(1, batch, lag=0.02)
    for outcome, count in counts.items():
        assert value(intake, "ingest_readings_total", worker="1", outcome=outcome) == count
        assert value(intake, "ingest_readings_total", worker="0", outcome=outcome) == 0
    assert value(intake, "ingest_received_readings_total", worker="1") == 15 == sum(counts.values())
    assert value(intake, "ingest_messages_total", worker="1") == 4
    assert value(intake, "ingest_undecodable_messages_total", worker="1") == 1
    assert value(intake, "ingest_redelivered_messages_total", worker="1") == 2
    assert value(intake, "ingest_overflow_readings_total", worker="1") == 1
    assert value(intake, "ingest_batches_total", worker="1") == 1
    for reason in Reason:
        assert value(intake, "ingest_quarantined_total", worker="1", reason=reason.value) == reasons.get(reason, 0)
    assert value(intake, "ingest_lag_seconds_bucket", worker="1", le="0.01") == 0
    assert value(intake, "ingest_lag_seconds_bucket", worker="1", le="0.025") == 1
    assert value(intake, "ingest_commit_seconds_sum", worker="1") == 0.01
    # A clock ahead of ours counts as no time at all.
    assert value(intake, "ingest_publish_to_commit_seconds_bucket", worker="1", le="0.05") == 1
    assert value(intake, "ingest_publish_to_commit_seconds_bucket", worker="1", le="86400.0") == 2
    assert value(intake, "ingest_publish_to_commit_seconds_count", worker="1") == 3
    assert value(intake, "ingest_publish_to_commit_seconds_sum", worker="1") == pytest.approx(100_000.07)


def test_everything_is_there_before_the_first_message(intake):
    before = set(shown(intake))
    intake.metrics.committed(0, answer(dict.fromkeys(Reason, 1), [1.0], messages=1, stored=1, overflow=0), lag=1)
    assert set(shown(intake)) == before


def test_how_things_stand(intake):
    intake.inboxes.put([Message("city/v1/gw/readings", b"123", 1, False, 1, 1, 1)])
    (place,) = [number for number, inbox in enumerate(intake.inboxes.each) if len(inbox)]
    partition, worker = intake.partitions[place], str(place)
    partition._spool.append(uuid4(), [Message("t", b"12345", 1, False, 1, 1, 1)] * 2)
    intake.workers[place].restarts = 3
    intake.gateway.dropped, intake.gateway.lost = 11, 2
    expected = {
        "waiting_messages": 1,
        "unacknowledged_messages": 1,
        "spooled_messages": 2,
        "spooled_bytes": 10,
        "spool_full": 0,
        "database_up": 0,
        "worker_up": 0,
        "worker_restarts_total": 3,
    }
    for name, wanted in expected.items():
        assert value(intake, f"ingest_{name}", worker=worker) == wanted, name
    assert 0 <= value(intake, "ingest_spooled_oldest_seconds", worker=worker) < 60
    assert value(intake, "ingest_broker_connected") == value(intake, "ingest_spool_damaged_files") == 0
    assert value(intake, "ingest_lost_messages_total") == 2
    assert value(intake, "broker_dropped_messages") == 11


def test_what_keeps_it_from_being_ready(intake, tmp_path):
    complaints = intake.complaints()
    assert complaints[0] == "not connected to the broker"
    assert len(complaints) == 3
    intake.gateway._connected.set()
    for partition in intake.partitions:
        partition._states.ready = True
    assert intake.complaints() == []
    for name in ("x.spool.damaged-1", "x.spool.damaged-1-wal"):
        (tmp_path / name).touch()
    assert "x.spool.damaged-1 is damaged" in intake.complaints()[0]
    assert value(intake, "ingest_spool_damaged_files") == len(intake.complaints()) == 1
    (tmp_path / "x.spool.damaged-1").unlink()
    intake.partitions[1]._states.trouble = "the disk is full"
    assert intake.complaints() == ["worker 1: the disk is full"]
    intake.partitions[1]._states.full = True
    assert "nothing is acknowledged" in intake.complaints()[0]


# --- the endpoint --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def complaints():
    return []


@pytest.fixture
def endpoint(intake, complaints):
    with Endpoint("127.0.0.1", 0, metrics=intake.metrics.exposition, ready=lambda: list(complaints)) as made:
        yield made


def ask(endpoint, path, **options):
    request = urllib.request.Request(f"http://127.0.0.1:{endpoint.port}{path}", **options)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.headers["content-type"], exc.read().decode()


def test_metrics_are_served(intake, endpoint):
    for number in range(5):
        intake.inboxes.put([Message("city/v1/gw/readings", b"", number, False, 1, 1, 1)])
    status, media_type, text = ask(endpoint, "/metrics")
    assert (status, media_type.split(";")[0]) == (200, "text/plain")
    assert sum(shown(intake)["citybeat_ingest_waiting_messages", ("worker", str(worker))] for worker in (0, 1)) == 5
    assert "citybeat_ingest_waiting_messages" in text
    open_metrics = ask(endpoint, "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert open_metrics[1].startswith("application/openmetrics-text")
    assert open_metrics[2].endswith("# EOF\n")
    assert ask(endpoint, "/metrics", method="HEAD") == (200, media_type, "")


def test_whether_it_lives_and_is_ready(endpoint, complaints):
    assert ask(endpoint, "/healthz")[0] == 200
    assert ask(endpoint, "/readyz") == (200, "application/json", '{"status": "ok", "complaints": []}\n')
    complaints.append("worker 1 is not connected to the broker")
    status, _, text = ask(endpoint, "/readyz")
    assert (status, json.loads(text)["complaints"]) == (503, complaints)
    assert ask(endpoint, "/healthz?x=1")[0] == 200  # it lives all the same


def test_what_is_not_there(endpoint):
    assert ask(endpoint, "/")[0] == 404
    assert ask(endpoint, "/metrics", method="POST")[0] == 501


def test_a_failure_is_an_answer_and_not_the_end(intake, caplog, capfd):
    def broken():
        raise RuntimeError("secret")

    with Endpoint("127.0.0.1", 0, metrics=intake.metrics.exposition, ready=broken) as endpoint:
        status, _, text = ask(endpoint, "/readyz")
        assert status == 500
        assert "secret" not in text
        assert ask(endpoint, "/healthz")[0] == 200
    assert [(record.getMessage(), record.path) for record in caplog.records] == [("the endpoint cannot answer", "/readyz")]
    assert capfd.readouterr().err == ""  # requests are not logged


def test_a_port_that_is_taken_is_told_with_its_setting(intake):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError, match=f"127.0.0.1:{port}.*CITYBEAT_INGEST_PORT"):
            Endpoint("127.0.0.1", port, metrics=intake.metrics.exposition, ready=list).start()


def test_it_stops_while_a_client_is_connected_and_can_start_again(intake):
    endpoint = Endpoint("127.0.0.1", 0, metrics=intake.metrics.exposition, ready=list)
    endpoint.stop()
    endpoint.start()
    port = endpoint.port
    with socket.create_connection(("127.0.0.1", port)):
        endpoint.stop()
    endpoint.stop()
    again = Endpoint("127.0.0.1", port, metrics=intake.metrics.exposition, ready=list)
    again.start()
    assert ask(again, "/healthz")[0] == 200
    again.stop()
