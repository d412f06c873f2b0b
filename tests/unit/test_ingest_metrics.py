"""Ingest's metrics over several worker processes, killed and started again; and the endpoint that shows them."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from contextlib import closing

import numpy as np
import pytest
from prometheus_client import values
from prometheus_client.parser import text_string_to_metric_families

from devices.errors import Reason
from ingest import metrics as metrics_module
from ingest.commit import Written
from ingest.endpoint import Endpoint, EndpointError
from ingest.metrics import Board, Metrics, MetricsError

#: A worker that does what lines of standard input say, each `verb {arguments}`, and says when it is done.
WORKER = """
import json, sys
from collections import Counter
from pathlib import Path
import numpy as np
from ingest.commit import Written
from ingest.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]), worker=int(sys.argv[2]))
print("ready", flush=True)
for line in sys.stdin:
    metrics.connected(True)
    metrics.waiting(int(line))
    metrics.broker_dropped(7)
    counts = Counter(messages=1, received=int(line), stored=int(line))
    written = Written(counts=counts, stored=None, same_since=np.empty(0, np.int64))
    metrics.committed(written, lag=0.1, commit=0.05, to_commit=np.array([0.2, 0.3]))
    print("done", flush=True)
"""


@pytest.fixture
def board(tmp_path):
    with closing(Board(tmp_path)) as made:
        yield made


@pytest.fixture
def metrics(board):
    board.started(0)
    return Metrics(board.directory, worker=0)


class Worker:
    """A process that counts what it is told."""

    def __init__(self, board, number):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(board.directory), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def count(self, readings):
        print(readings, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def start(board):
    workers = []

    def do(number):
        workers.append(Worker(board, number))
        return workers[-1]

    yield do
    for worker in workers:
        worker.kill()


def shown(board):
    """{(name, label values…): value} of what a board shows."""
    media_type, text = board.exposition()
    assert media_type.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(board, name, **labels):
    return shown(board).get((f"citybeat_{name}", *sorted(labels.items())))


def written(reasons=(), **counts):
    return Written(counts=Counter(counts), stored=None, same_since=np.empty(0, np.int64), reasons=Counter(reasons))


NOTHING = np.empty(0)


def test_a_batch_is_counted(board, metrics):
    reasons = {"conflict": 1, "malformed": 1, "too_old": 2}
    counts = {"stored": 5, "duplicate": 4, "conflict": 1, "missing": 3, "quarantined": 2}
    metrics.committed(
        written(reasons, messages=4, undecodable=1, redelivered=2, received=15, overflow=1, **counts),
        lag=0.02,
        commit=0.01,
        to_commit=np.array([-5.0, 0.07, 100_000.0]),
    )
    for outcome, count in counts.items():
        assert value(board, "ingest_readings_total", worker="0", outcome=outcome) == count
    assert value(board, "ingest_received_readings_total", worker="0") == 15 == sum(counts.values())
    assert value(board, "ingest_messages_total", worker="0") == 4
    assert value(board, "ingest_undecodable_messages_total", worker="0") == 1
    assert value(board, "ingest_redelivered_messages_total", worker="0") == 2
    assert value(board, "ingest_overflow_readings_total", worker="0") == 1
    assert value(board, "ingest_batches_total", worker="0") == 1
    for reason in Reason:
        assert value(board, "ingest_quarantined_total", worker="0", reason=reason.value) == reasons.get(reason, 0)
    assert value(board, "ingest_lag_seconds_bucket", worker="0", le="0.01") == 0
    assert value(board, "ingest_lag_seconds_bucket", worker="0", le="0.025") == 1
    assert value(board, "ingest_commit_seconds_sum", worker="0") == 0.01
    # A clock ahead of ours counts as no time at all.
    assert value(board, "ingest_publish_to_commit_seconds_bucket", worker="0", le="0.05") == 1
    assert value(board, "ingest_publish_to_commit_seconds_bucket", worker="0", le="86400.0") == 2
    assert value(board, "ingest_publish_to_commit_seconds_count", worker="0") == 3
    assert value(board, "ingest_publish_to_commit_seconds_sum", worker="0") == pytest.approx(100_000.07)


@pytest.mark.parametrize("k", [0, 1, 63, 64, 65, 1000, 100_001])
def test_of_many_readings_some_are_timed_evenly(board, metrics, k):
    metrics.committed(written(), lag=0, commit=0, to_commit=np.linspace(0, 1, k))
    timed = value(board, "ingest_publish_to_commit_seconds_count", worker="0")
    assert min(k, 32) <= timed <= 64
    if k > 2:
        assert value(board, "ingest_publish_to_commit_seconds_sum", worker="0") / timed == pytest.approx(0.5, abs=0.02)


def test_gauges(board, metrics):
    metrics.waiting(3)
    metrics.waiting(2)
    metrics.unacknowledged(9)
    metrics.spooled(messages=4, bytes=4096, oldest_s=1.5)
    metrics.connected(True)
    metrics.database(False)
    metrics.broker_dropped(11)
    gauges = {
        "waiting_messages": 2,
        "unacknowledged_messages": 9,
        "spooled_messages": 4,
        "spooled_bytes": 4096,
        "spooled_oldest_seconds": 1.5,
        "broker_connected": 1,
        "database_up": 0,
    }
    for name, expected in gauges.items():
        assert value(board, f"ingest_{name}", worker="0") == expected, name
    assert value(board, "broker_dropped_messages") == 11


def test_everything_is_there_before_the_first_message(board, metrics):
    before = set(shown(board))
    metrics.committed(
        written(dict.fromkeys(Reason, 1), **dict.fromkeys(metrics._columns, 1)), lag=1, commit=1, to_commit=np.ones(9)
    )
    assert set(shown(board)) == before


def test_files_have_room_for_twice_what_is_counted(board, metrics):
    # What was written since is not on disk yet, but its place is.
    for file in board.directory.glob("*.db"):
        used = int.from_bytes(file.read_bytes()[:4], sys.byteorder)
        assert used < file.stat().st_size / 2, file
        assert file.stat().st_blocks * 512 >= file.stat().st_size


def test_the_rest_of_the_process_counts_as_before(board):
    before = values.ValueClass, os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    Metrics(board.directory, worker=0)
    assert (values.ValueClass, os.environ.get("PROMETHEUS_MULTIPROC_DIR")) == before


def test_workers_side_by_side(board, start):
    for number, readings in ((0, 10), (1, 20)):
        board.started(number)
        start(number).count(readings)
    for number, readings in (("0", 10), ("1", 20)):
        assert value(board, "ingest_readings_total", worker=number, outcome="stored") == readings
        assert value(board, "ingest_waiting_messages", worker=number) == readings
        assert value(board, "ingest_worker_up", worker=number) == 1
        assert value(board, "ingest_worker_restarts_total", worker=number) == 0
    assert value(board, "broker_dropped_messages") == 7


def test_a_killed_worker_loses_no_count_and_its_successor_goes_on(board, start):
    board.started(0)
    for round_ in range(1, 4):
        worker = start(0)
        worker.count(10)
        worker.kill()
        assert value(board, "ingest_readings_total", worker="0", outcome="stored") == 10 * round_
        board.died(0)
        assert value(board, "ingest_readings_total", worker="0", outcome="stored") == 10 * round_
        assert value(board, "ingest_lag_seconds_count", worker="0") == round_
        # What it said of the moment is not true any more.
        assert value(board, "ingest_broker_connected", worker="0") is None
        assert value(board, "ingest_worker_up", worker="0") == 0
        board.restarted(0)
        assert value(board, "ingest_worker_restarts_total", worker="0") == round_
        assert value(board, "ingest_worker_up", worker="0") == 1
    assert len(list(board.directory.glob("*.db"))) == 2  # counters and histograms of one worker, whatever the number of processes


HOLDER = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); sys.stdin.read()"


def test_directories_of_killed_parents_are_removed_and_of_others_not(tmp_path):
    for name in ("held", "left", "half-made", str(os.getpid())):
        (tmp_path / name).mkdir()
        if name != "half-made":
            (tmp_path / name / "lock").touch()
            (tmp_path / name / "counter_0.db").touch()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "held" / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    board = Board(tmp_path)
    try:
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(["held", board.directory.name])
        assert shown(board) == {}
    finally:
        holder.communicate()
        board.close()
        board.close()
    assert not board.directory.exists()


def test_no_room_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with closing(Board(tmp_path)) as board:
        monkeypatch.setattr(metrics_module.os, "posix_fallocate", full)
        with pytest.raises(MetricsError, match="No space left"):
            Metrics(board.directory, worker=0)
    with pytest.raises(MetricsError, match="Not a directory"):
        (tmp_path / "file").touch()
        Board(tmp_path / "file" / "below")


# --- the endpoint --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def complaints():
    return []


@pytest.fixture
def endpoint(board, complaints):
    with Endpoint("127.0.0.1", 0, metrics=board.exposition, ready=lambda: list(complaints)) as made:
        yield made


def ask(endpoint, path, **options):
    request = urllib.request.Request(f"http://127.0.0.1:{endpoint.port}{path}", **options)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.headers["content-type"], exc.read().decode()


def test_metrics_are_served(board, metrics, endpoint):
    metrics.waiting(5)
    status, media_type, text = ask(endpoint, "/metrics")
    assert (status, media_type.split(";")[0]) == (200, "text/plain")
    assert 'citybeat_ingest_waiting_messages{worker="0"} 5.0' in text
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


def test_a_failure_is_an_answer_and_not_the_end(board, caplog, capfd):
    def broken():
        raise RuntimeError("secret")

    with Endpoint("127.0.0.1", 0, metrics=board.exposition, ready=broken) as endpoint:
        status, _, text = ask(endpoint, "/readyz")
        assert status == 500
        assert "secret" not in text
        assert ask(endpoint, "/healthz")[0] == 200
    assert [(record.getMessage(), record.path) for record in caplog.records] == [("the endpoint cannot answer", "/readyz")]
    assert capfd.readouterr().err == ""  # requests are not logged


def test_a_port_that_is_taken_is_told_with_its_setting(board):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError, match=f"127.0.0.1:{port}.*CITYBEAT_INGEST_PORT"):
            Endpoint("127.0.0.1", port, metrics=board.exposition, ready=list).start()


def test_it_stops_while_a_client_is_connected_and_can_start_again(board):
    endpoint = Endpoint("127.0.0.1", 0, metrics=board.exposition, ready=list)
    endpoint.stop()
    endpoint.start()
    port = endpoint.port
    with socket.create_connection(("127.0.0.1", port)):
        endpoint.stop()
    endpoint.stop()
    again = Endpoint("127.0.0.1", port, metrics=board.exposition, ready=list)
    again.start()
    assert ask(again, "/healthz")[0] == 200
    again.stop()
