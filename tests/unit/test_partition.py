"""The thread of a partition between its inbox, a real spool and its worker's end of the connection, which the test holds.

Its decisions are tested without a thread, in test_partition_states.py.
"""

import threading
import time
from collections import Counter
from multiprocessing import Pipe
from uuid import uuid4

import pytest

from citybeat.ingest.judging.message import Message
from citybeat.ingest.transport.inbox import BatchSize, Inbox, Inboxes
from citybeat.ingest.transport.ipc import Committed, Ready, Trouble, receive
from citybeat.ingest.transport.partition import Partition, PartitionError, Timeouts
from citybeat.ingest.transport.spool import Spool, SpoolFullError

SIZE = BatchSize(messages=3, linger=0.0)
QUICK = Timeouts(spool_after=0.15, hung_after=0.3)
#: s until a test fails: long, since only a test that fails waits for it.
PATIENCE = 60.0


def message(number, source="gw"):
    return Message(f"city/v1/{source}/readings", b"%d" % number, number, False, 1, number, 1)


def numbers(messages):
    return [int(m.payload) for m in messages]


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Bench:
    """A partition, and the messages that it acknowledged and reported."""

    def __init__(self, path, *, timeouts=QUICK, spool_bytes=10**6, adopted=(), gate=None):
        self.inbox, self.spool = Inbox(), Spool(path / "own.spool", max_bytes=spool_bytes)
        self.acknowledged, self.answered = [], []
        if gate is None:
            gate = threading.Event()
            if not adopted:
                gate.set()
        self.gate = gate
        self.partition = Partition(
            0,
            self.inbox,
            self.spool,
            size=SIZE,
            timeouts=timeouts,
            acknowledge=lambda messages: self.acknowledged.extend(numbers(messages)),
            committed=lambda answer, messages: self.answered.append((answer.counts["stored"], numbers(messages))),
            adopted=adopted,
            gate=gate,
        )
        self.line = None
        self.partition.start()

    def put(self, *which):
        for number in which:
            self.inbox.put([message(number)])

    def worker(self):
        """Attach a new worker."""
        ours, self.line = Pipe()
        self.partition.attach(ours)

    def request(self):
        assert self.line.poll(PATIENCE)
        return receive(self.line)

    def answer(self, request):
        self.line.send(Committed(id=request.id, counts=Counter(stored=len(request.messages)), took=0.1))

    def work(self, rounds):
        """Answer a number of requests; returns their messages."""
        seen = []
        for _ in range(rounds):
            request = self.request()
            seen.append(numbers(request.messages))
            self.answer(request)
        return seen

    @property
    def written(self):
        return [number for _, messages in self.answered for number in messages]

    def end(self, within=5.0):
        self.partition.stop(within)
        assert self.partition.join(PATIENCE)


@pytest.fixture
def bench(tmp_path):
    made = []

    def make(**arguments):
        made.append(Bench(tmp_path, **arguments))
        return made[-1]

    yield make
    for each in made:
        each.partition.stop(0.0)
        each.partition.join(PATIENCE)


def test_flowing_messages_are_acknowledged_when_they_are_committed_and_not_before(bench):
    partition = bench(timeouts=Timeouts())
    partition.worker()
    partition.put(1, 2, 3, 4)
    first = partition.request()
    assert numbers(first.messages) == [1, 2, 3]
    assert partition.acknowledged == []
    assert partition.partition.state().unacknowledged == 4
    partition.answer(first)
    assert partition.work(1) == [[4]]
    until(lambda: partition.acknowledged == [1, 2, 3, 4])
    until(lambda: len(partition.answered) == 2)
    assert partition.answered == [(3, [1, 2, 3]), (1, [4])]
    assert len(partition.spool) == 0
    partition.end()


def test_a_worker_that_does_not_answer_has_its_batch_spooled_under_its_id_and_all_others_queue_behind(bench):
    partition = bench()
    partition.worker()
    partition.put(1, 2)
    request = partition.request()
    partition.line.send(Trouble(why="the database is away"))
    until(lambda: partition.acknowledged == [1, 2])
    partition.put(3, 4, 5, 6)
    until(lambda: partition.acknowledged == [1, 2, 3, 4, 5, 6])
    state = partition.partition.state()
    assert (state.spooled, state.unacknowledged, state.trouble, state.ready) == (6, 0, "the database is away", False)
    assert partition.spool.first().id == request.id
    partition.answer(request)  # that try was committed after all
    assert partition.work(2) == [[3, 4, 5], [6]]
    until(lambda: partition.written == [1, 2, 3, 4, 5, 6])
    partition.worker()
    partition.put(7)
    assert partition.work(1) == [[7]]
    until(lambda: partition.acknowledged[-1] == 7)
    assert partition.partition.state().trouble == ""
    partition.end()


def test_a_new_worker_gets_what_the_one_before_had_not_answered_with_the_same_id(bench):
    partition = bench(timeouts=Timeouts())
    partition.worker()
    partition.put(1)
    request = partition.request()
    partition.line.close()
    partition.worker()
    again = partition.request()
    assert (again.id, numbers(again.messages)) == (request.id, [1])
    partition.answer(again)
    until(lambda: partition.acknowledged == [1])
    partition.end()


def test_without_any_worker_everything_goes_to_disk(bench):
    partition = bench()
    partition.put(*range(10))
    until(lambda: partition.acknowledged == list(range(10)))
    partition.end()
    assert partition.spool.messages == 10


def test_an_inbox_that_stays_full_is_spooled_although_the_worker_answers(bench):
    partition = bench()
    partition.worker()
    stop, append, spooled = threading.Event(), partition.spool.append, []
    partition.spool.append = lambda *batch: spooled.append(batch) or append(*batch)

    def slow():
        while not stop.is_set():
            if partition.line.poll(0.01):
                request = receive(partition.line)
                time.sleep(0.05)
                partition.answer(request)

    thread = threading.Thread(target=slow)
    thread.start()
    partition.put(*range(60))
    until(lambda: len(partition.written) >= 60)
    stop.set()
    thread.join(PATIENCE)
    assert spooled
    assert partition.written == list(range(60))
    assert partition.acknowledged == list(range(60))
    partition.end()


def test_a_full_spool_acknowledges_nothing_and_loses_nothing(bench):
    partition = bench(spool_bytes=4)
    partition.put(1, 2, 3, 4, 5)
    until(lambda: partition.partition.state().full)
    assert partition.acknowledged == [1, 2, 3]
    state = partition.partition.state()
    assert (state.spooled, state.waiting) == (3, 2)
    assert "CITYBEAT_SPOOL_BYTES" in state.trouble
    partition.worker()
    assert partition.work(1) == [[1, 2, 3]]
    assert partition.work(1) == [[4, 5]]
    until(lambda: partition.acknowledged == [1, 2, 3, 4, 5])
    assert not partition.partition.state().full
    partition.end()


def test_what_earlier_lanes_left_comes_first_and_other_lanes_spool_until_it_is_written(bench, tmp_path):
    left = Spool(tmp_path / "left.spool", max_bytes=1000)
    ids = [uuid4(), uuid4()]
    left.append(ids[0], [message(1), message(2)])
    left.append(ids[1], [message(3)])
    adopting = bench(adopted=[left])
    other = Bench(tmp_path / "other", gate=adopting.gate)
    other.worker()
    other.put(20)
    adopting.put(10)
    until(lambda: adopting.acknowledged == [10] and other.acknowledged == [20])
    assert not other.line.poll(0.1)
    adopting.worker()
    requests = [adopting.request()]
    adopting.answer(requests[0])
    requests.append(adopting.request())
    adopting.answer(requests[1])
    assert [request.id for request in requests] == ids
    assert [numbers(request.messages) for request in requests] == [[1, 2], [3]]
    last, first = adopting.request(), other.request()
    assert (numbers(last.messages), numbers(first.messages)) == ([10], [20])
    adopting.answer(last)
    other.answer(first)
    until(lambda: adopting.written == [1, 2, 3, 10] and other.written == [20])
    assert not left.path.exists()
    other.partition.stop(0.0)
    other.partition.join(PATIENCE)
    adopting.end()


def test_told_to_stop_it_ends_when_all_is_committed(bench):
    partition = bench(timeouts=Timeouts())
    partition.worker()
    partition.put(*range(7))
    partition.partition.stop(10.0)
    assert partition.work(3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert partition.partition.join(PATIENCE)
    assert partition.acknowledged == list(range(7))
    with pytest.raises(EOFError):  # the worker is told by the end of its line
        partition.line.recv()
    assert not partition.spool.path.exists()


def test_told_to_stop_without_a_database_it_spools_and_ends(bench):
    partition = bench(timeouts=Timeouts(spool_after=100.0))
    partition.worker()
    partition.put(*range(4))
    partition.request()
    partition.partition.stop(0.3)
    assert partition.partition.join(PATIENCE)
    assert partition.acknowledged == [0, 1, 2, 3]
    assert partition.spool.messages == 4


def test_told_to_stop_with_a_full_spool_it_ends_and_leaves_the_rest_to_the_broker(bench):
    partition = bench(spool_bytes=1)
    partition.put(1, 2, 3, 4)
    until(lambda: partition.partition.state().full)
    partition.partition.stop(0.3)
    assert partition.partition.join(PATIENCE)
    assert partition.acknowledged == []


def test_a_worker_that_says_nothing_hangs_and_one_that_complains_does_not(bench):
    partition = bench()
    partition.worker()
    assert not partition.partition.worker_hangs
    partition.put(1)
    request = partition.request()
    until(lambda: partition.partition.worker_hangs)
    until(lambda: partition.line.send(Trouble(why="again")) or not partition.partition.worker_hangs)
    partition.answer(request)
    until(lambda: partition.answered)
    time.sleep(0.4)
    assert not partition.partition.worker_hangs
    partition.line.send(Ready())
    until(lambda: partition.partition.state().ready)
    partition.end()


def test_an_idle_lane_knows_how_its_worker_is_and_leaves_nothing_unread(bench):
    partition = bench()
    partition.worker()
    partition.line.send(Ready())
    until(lambda: partition.partition.state().ready)
    for i in range(5000):  # more than the line holds
        partition.line.send(Trouble(why=f"away {i}"))
    until(lambda: partition.partition.state().trouble == "away 4999")
    assert not partition.partition.state().ready
    partition.line.send(Ready())
    until(lambda: partition.partition.state().ready)
    assert partition.partition.state().trouble == ""
    partition.line.close()
    until(lambda: not partition.partition.state().ready)
    partition.end()


def test_a_lane_that_dies_says_why(bench):
    partition = bench()
    partition.partition.check()
    partition.spool.append = lambda *_: 1 / 0
    partition.put(1)
    until(lambda: not partition.partition._thread.is_alive())
    with pytest.raises(PartitionError, match="ZeroDivisionError"):
        partition.partition.check()


def test_a_lane_that_hangs_is_noticed(bench):
    partition = bench(timeouts=Timeouts(spool_after=0.05, dead_after=0.2))
    wait = threading.Event()
    partition.spool.append = lambda *_: wait.wait(PATIENCE) and None
    partition.put(1)
    with pytest.raises(PartitionError, match="hung"):
        until(partition.partition.check)
    partition.spool.append = lambda *_: (_ for _ in ()).throw(SpoolFullError("over"))
    wait.set()


def test_a_source_always_has_the_same_inbox_and_room_is_shared():
    inboxes = Inboxes(3, max_bytes=100)
    for i in range(60):
        assert inboxes.put([message(i % 10, source=f"gw-{i % 20}")]) == 1
    homes = {}
    for place, inbox in enumerate(inboxes.each):
        for each in inbox.pop(BatchSize(messages=1000)):
            homes.setdefault(each.topic, set()).add(place)
    assert len(homes) == 20
    assert all(len(places) == 1 for places in homes.values())
    assert len({place for places in homes.values() for place in places}) == 3
    assert inboxes.bytes == 0
    large = Message("city/v1/gw/readings", b"x" * 500, 0, False, 1, 1, 1)
    assert inboxes.put([large]) == 1  # alone it may come
    assert inboxes.put([message(1)]) == 0
    assert sum(len(inbox.pop(BatchSize())) for inbox in inboxes.each) == 1
    assert inboxes.put([message(1), Message("somewhere", b"", 0, False, 1, 1, 1)]) == 2
    assert len(inboxes) == 2
    long = Message("city/v1/gw/readings", b"x" * 60, 0, False, 1, 1, 1)
    assert inboxes.put([long, long, message(3)]) == 1  # and nothing behind what finds no room
