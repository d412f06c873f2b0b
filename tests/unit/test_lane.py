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
from citybeat.ingest.transport.partition import LaneError, Partition, Timeouts
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

    def __init__(self, path, *, patience=QUICK, spool_bytes=10**6, adopted=(), gate=None):
        self.inbox, self.spool = Inbox(), Spool(path / "own.spool", max_bytes=spool_bytes)
        self.acknowledged, self.answered = [], []
        if gate is None:
            gate = threading.Event()
            if not adopted:
                gate.set()
        self.gate = gate
        self.lane = Partition(
            0,
            self.inbox,
            self.spool,
            size=SIZE,
            patience=patience,
            acknowledge=lambda messages: self.acknowledged.extend(numbers(messages)),
            committed=lambda answer, messages: self.answered.append((answer.counts["stored"], numbers(messages))),
            adopted=adopted,
            gate=gate,
        )
        self.line = None
        self.lane.start()

    def put(self, *which):
        for number in which:
            self.inbox.put([message(number)])

    def worker(self):
        """Attach a new worker."""
        ours, self.line = Pipe()
        self.lane.attach(ours)

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
        self.lane.stop(within)
        assert self.lane.join(PATIENCE)


@pytest.fixture
def bench(tmp_path):
    made = []

    def make(**arguments):
        made.append(Bench(tmp_path, **arguments))
        return made[-1]

    yield make
    for each in made:
        each.lane.stop(0.0)
        each.lane.join(PATIENCE)


def test_flowing_messages_are_acknowledged_when_they_are_committed_and_not_before(bench):
    lane = bench(patience=Timeouts())
    lane.worker()
    lane.put(1, 2, 3, 4)
    first = lane.request()
    assert numbers(first.messages) == [1, 2, 3]
    assert lane.acknowledged == []
    assert lane.lane.state().unacknowledged == 4
    lane.answer(first)
    assert lane.work(1) == [[4]]
    until(lambda: lane.acknowledged == [1, 2, 3, 4])
    until(lambda: len(lane.answered) == 2)
    assert lane.answered == [(3, [1, 2, 3]), (1, [4])]
    assert len(lane.spool) == 0
    lane.end()


def test_a_worker_that_does_not_answer_has_its_batch_spooled_under_its_id_and_all_others_queue_behind(bench):
    lane = bench()
    lane.worker()
    lane.put(1, 2)
    request = lane.request()
    lane.line.send(Trouble(why="the database is away"))
    until(lambda: lane.acknowledged == [1, 2])
    lane.put(3, 4, 5, 6)
    until(lambda: lane.acknowledged == [1, 2, 3, 4, 5, 6])
    state = lane.lane.state()
    assert (state.spooled, state.unacknowledged, state.trouble, state.ready) == (6, 0, "the database is away", False)
    assert lane.spool.first().id == request.id
    lane.answer(request)  # that try was committed after all
    assert lane.work(2) == [[3, 4, 5], [6]]
    until(lambda: lane.written == [1, 2, 3, 4, 5, 6])
    lane.worker()
    lane.put(7)
    assert lane.work(1) == [[7]]
    until(lambda: lane.acknowledged[-1] == 7)
    assert lane.lane.state().trouble == ""
    lane.end()


def test_a_new_worker_gets_what_the_one_before_had_not_answered_with_the_same_id(bench):
    lane = bench(patience=Timeouts())
    lane.worker()
    lane.put(1)
    request = lane.request()
    lane.line.close()
    lane.worker()
    again = lane.request()
    assert (again.id, numbers(again.messages)) == (request.id, [1])
    lane.answer(again)
    until(lambda: lane.acknowledged == [1])
    lane.end()


def test_without_any_worker_everything_goes_to_disk(bench):
    lane = bench()
    lane.put(*range(10))
    until(lambda: lane.acknowledged == list(range(10)))
    lane.end()
    assert lane.spool.messages == 10


def test_an_inbox_that_stays_full_is_spooled_although_the_worker_answers(bench):
    lane = bench()
    lane.worker()
    stop, append, spooled = threading.Event(), lane.spool.append, []
    lane.spool.append = lambda *batch: spooled.append(batch) or append(*batch)

    def slow():
        while not stop.is_set():
            if lane.line.poll(0.01):
                request = receive(lane.line)
                time.sleep(0.05)
                lane.answer(request)

    thread = threading.Thread(target=slow)
    thread.start()
    lane.put(*range(60))
    until(lambda: len(lane.written) >= 60)
    stop.set()
    thread.join(PATIENCE)
    assert spooled
    assert lane.written == list(range(60))
    assert lane.acknowledged == list(range(60))
    lane.end()


def test_a_full_spool_acknowledges_nothing_and_loses_nothing(bench):
    lane = bench(spool_bytes=4)
    lane.put(1, 2, 3, 4, 5)
    until(lambda: lane.lane.state().full)
    assert lane.acknowledged == [1, 2, 3]
    state = lane.lane.state()
    assert (state.spooled, state.waiting) == (3, 2)
    assert "CITYBEAT_SPOOL_BYTES" in state.trouble
    lane.worker()
    assert lane.work(1) == [[1, 2, 3]]
    assert lane.work(1) == [[4, 5]]
    until(lambda: lane.acknowledged == [1, 2, 3, 4, 5])
    assert not lane.lane.state().full
    lane.end()


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
    other.lane.stop(0.0)
    other.lane.join(PATIENCE)
    adopting.end()


def test_told_to_stop_it_ends_when_all_is_committed(bench):
    lane = bench(patience=Timeouts())
    lane.worker()
    lane.put(*range(7))
    lane.lane.stop(10.0)
    assert lane.work(3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert lane.lane.join(PATIENCE)
    assert lane.acknowledged == list(range(7))
    with pytest.raises(EOFError):  # the worker is told by the end of its line
        lane.line.recv()
    assert not lane.spool.path.exists()


def test_told_to_stop_without_a_database_it_spools_and_ends(bench):
    lane = bench(patience=Timeouts(spool_after=100.0))
    lane.worker()
    lane.put(*range(4))
    lane.request()
    lane.lane.stop(0.3)
    assert lane.lane.join(PATIENCE)
    assert lane.acknowledged == [0, 1, 2, 3]
    assert lane.spool.messages == 4


def test_told_to_stop_with_a_full_spool_it_ends_and_leaves_the_rest_to_the_broker(bench):
    lane = bench(spool_bytes=1)
    lane.put(1, 2, 3, 4)
    until(lambda: lane.lane.state().full)
    lane.lane.stop(0.3)
    assert lane.lane.join(PATIENCE)
    assert lane.acknowledged == []


def test_a_worker_that_says_nothing_hangs_and_one_that_complains_does_not(bench):
    lane = bench()
    lane.worker()
    assert not lane.lane.worker_hangs
    lane.put(1)
    request = lane.request()
    until(lambda: lane.lane.worker_hangs)
    until(lambda: lane.line.send(Trouble(why="again")) or not lane.lane.worker_hangs)
    lane.answer(request)
    until(lambda: lane.answered)
    time.sleep(0.4)
    assert not lane.lane.worker_hangs
    lane.line.send(Ready())
    until(lambda: lane.lane.state().ready)
    lane.end()


def test_an_idle_lane_knows_how_its_worker_is_and_leaves_nothing_unread(bench):
    lane = bench()
    lane.worker()
    lane.line.send(Ready())
    until(lambda: lane.lane.state().ready)
    for i in range(5000):  # more than the line holds
        lane.line.send(Trouble(why=f"away {i}"))
    until(lambda: lane.lane.state().trouble == "away 4999")
    assert not lane.lane.state().ready
    lane.line.send(Ready())
    until(lambda: lane.lane.state().ready)
    assert lane.lane.state().trouble == ""
    lane.line.close()
    until(lambda: not lane.lane.state().ready)
    lane.end()


def test_a_lane_that_dies_says_why(bench):
    lane = bench()
    lane.lane.check()
    lane.spool.append = lambda *_: 1 / 0
    lane.put(1)
    until(lambda: not lane.lane._thread.is_alive())
    with pytest.raises(LaneError, match="ZeroDivisionError"):
        lane.lane.check()


def test_a_lane_that_hangs_is_noticed(bench):
    lane = bench(patience=Timeouts(spool_after=0.05, dead_after=0.2))
    wait = threading.Event()
    lane.spool.append = lambda *_: wait.wait(PATIENCE) and None
    lane.put(1)
    with pytest.raises(LaneError, match="hung"):
        until(lane.lane.check)
    lane.spool.append = lambda *_: (_ for _ in ()).throw(SpoolFullError("over"))
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
