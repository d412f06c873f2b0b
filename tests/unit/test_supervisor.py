"""Supervision of real worker processes: started with a connection, killed when they hang, started again with growing pauses."""

import subprocess
import sys
import time
from multiprocessing.connection import Connection

import pytest

from citybeat.ingest.transport import supervisor
from citybeat.ingest.transport.supervisor import Worker

ECHO = """
import sys
from multiprocessing.connection import Connection
line = Connection(int(sys.argv[1]))
line.send(line.recv() + 1)
line.poll(60)
"""
DEAD = "raise SystemExit(3)"


class Partition:
    """A partition, as far as its worker's supervisor uses it."""

    def __init__(self):
        self.lines = []
        self.worker_hangs = False

    def attach(self, line):
        self.lines.append(line)


class Spawner:
    def __init__(self, program):
        self.program, self.processes = program, []

    def __call__(self, line):
        command = [sys.executable, "-c", self.program, str(line)]
        self.processes.append(subprocess.Popen(command, pass_fds=[line]))
        return self.processes[-1]


@pytest.fixture
def partition():
    made = Partition()
    yield made
    for line in made.lines:
        line.close()


@pytest.fixture
def spawn():
    made = []

    def make(program):
        made.append(Spawner(program))
        return made[-1]

    yield make
    for spawner in made:
        for process in spawner.processes:
            process.kill()
            process.wait()


def test_it_is_started_once_and_answers_over_its_line(partition, spawn):
    starter = spawn(ECHO)
    worker = Worker(0, partition, starter)
    assert not worker.is_up
    for _ in range(3):
        worker.tend()
    assert len(starter.processes) == 1
    assert worker.is_up
    (line,) = partition.lines
    assert isinstance(line, Connection)
    line.send(41)
    assert line.recv() == 42
    line.close()
    worker.wait(10.0)
    assert not worker.is_up
    assert starter.processes[0].returncode == 0


def test_one_that_is_killed_is_started_again_at_once_and_one_that_keeps_dying_ever_later(partition, spawn, monkeypatch):
    monkeypatch.setattr(supervisor, "_BACK_OFF", (0.0, 0.05, 0.3))
    starter = spawn(DEAD)
    worker = Worker(0, partition, starter)
    began, starts = time.monotonic(), []
    while len(starter.processes) < 4:
        worker.tend()
        if len(starter.processes) > len(starts):
            starts.append(time.monotonic() - began)
            starter.processes[-1].wait()
        time.sleep(0.002)
    assert worker.restarts == 3
    assert starts[1] - starts[0] >= 0.05
    assert starts[3] - starts[2] >= 0.3
    monkeypatch.setattr(supervisor, "_ACCIDENT", 0.0)  # this one has lived long
    starter.processes[-1].wait()
    worker.tend()
    assert len(starter.processes) == 5


def test_one_that_hangs_is_killed_and_replaced(partition, spawn):
    starter = spawn(ECHO)
    worker = Worker(0, partition, starter)
    worker.tend()
    partition.worker_hangs = True
    worker.tend()
    partition.worker_hangs = False
    assert starter.processes[0].returncode == -9
    deadline = time.monotonic() + 10
    while len(starter.processes) < 2:
        worker.tend()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(partition.lines) == 2


def test_one_that_does_not_end_is_killed(partition, spawn):
    starter = spawn("import time; time.sleep(60)")
    worker = Worker(0, partition, starter)
    worker.wait(0.1)  # none was started
    worker.tend()
    worker.wait(0.1)
    assert starter.processes[0].returncode == -9
