"""Requests over a connection: complete and in order, however large."""

import threading
from multiprocessing import Pipe
from uuid import uuid4

import pytest

from citybeat.ingest.judging.message import Message
from citybeat.ingest.transport import ipc
from citybeat.ingest.transport.ipc import Request, receive, send


def message(number, size):
    return Message(f"city/v1/gw-{number % 3}/readings", bytes([number % 256]) * size, number, number % 2 == 1, 1, number, 7)


def exchanged(*requests):
    """The requests as they arrive at the other end; the connection buffers less than a large request."""
    ours, theirs = Pipe()
    with ours, theirs:
        thread = threading.Thread(target=lambda: [send(ours, request) for request in requests])
        thread.start()
        received = [receive(theirs) for _ in requests]
        thread.join(60)
        assert not theirs.poll(0)  # all of each was taken
    return received


@pytest.mark.parametrize("sizes", [[], [0], [5, 0, 3], [100] * 50, [10, 10_000, 10, 10], [30, 30, 39, 1, 99, 100]])
def test_a_request_comes_as_it_was_sent(sizes, monkeypatch):
    monkeypatch.setattr(ipc, "_PART", 100)
    requests = [Request(id=uuid4(), messages=[message(i, size) for i, size in enumerate(sizes)]) for _ in range(2)]
    assert exchanged(*requests) == requests


def test_no_part_is_much_larger_than_it_should_be(monkeypatch):
    monkeypatch.setattr(ipc, "_PART", 1_000)
    ours, theirs = Pipe()
    with ours, theirs:
        send(ours, Request(id=uuid4(), messages=[message(i, 300) for i in range(11)]))
        _, parts = theirs.recv()
        assert [len(theirs.recv()[0]) for _ in range(parts)] == [4, 4, 3]


def test_a_line_that_ends_within_a_request_is_no_request():
    ours, theirs = Pipe()
    with theirs:
        with ours:
            ours.send((uuid4(), 2))
            ours.send([[value] for value in ("city/v1/gw/readings", b"1", 1, False, 1, 1, 1)])
        with pytest.raises(EOFError):
            receive(theirs)
