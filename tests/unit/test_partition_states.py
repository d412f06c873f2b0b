"""The states of a partition: the table of transitions, and a model of inbox, disk, worker and broker that any events may hit."""

from collections import Counter
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from citybeat.ingest.judging.message import Message
from citybeat.ingest.transport.ipc import Committed, Ready, Request, Trouble
from citybeat.ingest.transport.partition_states import (
    Acknowledge,
    Append,
    Appended,
    Attached,
    Listen,
    Load,
    Loaded,
    Lost,
    PartitionStates,
    Pop,
    Popped,
    PutBack,
    Remove,
    Report,
    Send,
    SpoolFailed,
    State,
    Take,
    Taken,
    Tick,
)

SPOOL_AFTER = 2.0
BATCH = 3  # messages


def request(number, *messages):
    return Request(
        id=UUID(int=number), messages=[Message("city/v1/gw/readings", b"%d" % m, m, False, 1, m, 1) for m in messages or (number,)]
    )


def committed(batch):
    return Committed(id=batch.id, counts=Counter(), took=0.1)


def tick(waiting=0, *, full=False, on_disk=False, stop_at=None):
    return Tick(waiting=waiting, full=full, on_disk=on_disk, stop_at=stop_at)


# --- the table -------------------------------------------------------------------------------------------------------------

A, B = request(1), request(2)
TAKEN, LOADED = Taken(batch=A, full=False), Loaded(batch=A)
#: Events that lead to a state, with monotonic s.
IDLE = [(0.0, tick())]
SENT = [*IDLE, (0.0, TAKEN)]
SPOOLING = [(0.0, tick(on_disk=True))]
REPLAYING = [*SPOOLING, (0.0, LOADED)]
BEHIND = [*IDLE, (0.0, Taken(batch=A, full=True)), (0.0, committed(A))]
POP, APPEND, ACK = Pop(), Append(batch=A), Acknowledge(messages=A.messages)
LISTEN, HEAR = Listen(timeout=0.05), Listen(timeout=0.0)
TAKE = Take(timeout=0.2)
FULL, DAMAGED = SpoolFailed(why="no room", full=True), SpoolFailed(why="damaged", full=False)

TABLE = {
    "an idle partition takes messages": (IDLE, 1.0, tick(5), State.IDLE, [TAKE, HEAR]),
    "a stopping one does not wait for them": (IDLE, 1.0, tick(5, stop_at=9.0), State.IDLE, [Take(timeout=0.0), HEAR]),
    "what is taken is sent": (IDLE, 1.0, TAKEN, State.SENT, [Send(batch=A)]),
    "nothing taken, nothing sent": (IDLE, 1.0, Taken(batch=None, full=False), State.IDLE, []),
    "an answer is awaited": (SENT, SPOOL_AFTER, tick(9, full=True), State.SENT, [LISTEN]),
    "an answer that is late": (SENT, SPOOL_AFTER + 0.1, tick(), State.SENT, [APPEND, LISTEN]),
    "a batch that is on disk is acknowledged": ([*SENT, (3.0, tick())], 3.0, Appended(), State.REPLAYING, [ACK, POP]),
    "then what waits goes to disk": (
        [*REPLAYING, (0.0, tick(1, on_disk=True))],
        1.0,
        Popped(batch=B),
        State.REPLAYING,
        [Append(batch=B)],
    ),
    "a batch that is committed is acknowledged": (
        SENT,
        1.0,
        committed(A),
        State.IDLE,
        [ACK, Report(answer=committed(A), messages=A.messages), HEAR],
    ),
    "one on disk has been, and is removed": (
        REPLAYING,
        1.0,
        committed(A),
        State.SPOOLING,
        [Remove(), Report(answer=committed(A), messages=A.messages), HEAR],
    ),
    "an answer to an earlier batch is not one": (SENT, 1.0, committed(B), State.SENT, [HEAR]),
    "a full inbox for too long": (BEHIND, SPOOL_AFTER + 0.1, tick(9, full=True), State.IDLE, [POP, HEAR]),
    "a full inbox for a while": (BEHIND, SPOOL_AFTER, tick(9, full=True), State.IDLE, [TAKE, HEAR]),
    "what is on disk comes first": (IDLE, 1.0, tick(on_disk=True), State.SPOOLING, [POP, Load(), LISTEN]),
    "loaded and sent": (SPOOLING, 1.0, LOADED, State.REPLAYING, [Send(batch=A)]),
    "others' batches come first": (SPOOLING, 1.0, Loaded(batch=None), State.SPOOLING, []),
    "what arrives queues behind, after a while": (REPLAYING, 0.4, tick(1, on_disk=True), State.REPLAYING, [LISTEN]),
    "or when it is a batch": (REPLAYING, 0.4, tick(9, full=True, on_disk=True), State.REPLAYING, [POP, LISTEN]),
    "or when it is to end": (REPLAYING, 0.4, tick(1, on_disk=True, stop_at=9.0), State.REPLAYING, [POP, LISTEN]),
    "the disk is empty": (SPOOLING, 1.0, tick(1), State.IDLE, [TAKE, HEAR]),
    "no room for the batch at the worker": ([*SENT, (3.0, tick())], 3.0, FULL, State.SENT, []),
    "no room for another one": ([*REPLAYING, (0.0, Popped(batch=B))], 3.0, FULL, State.REPLAYING, [PutBack(batch=B)]),
    "no room is no reason to stop": (
        [*BEHIND, (3.0, tick(9, full=True)), (3.0, Popped(batch=B)), (3.0, FULL)],
        3.5,
        tick(9, full=True),
        State.IDLE,
        [TAKE, HEAR],
    ),
    "a damaged disk gets another try": ([*SENT, (3.0, tick()), (3.0, DAMAGED)], 3.1, tick(), State.SENT, [APPEND, LISTEN]),
    "a new worker gets the batch": (SENT, 1.0, Attached(), State.SENT, [Send(batch=A)]),
    "a new worker gets nothing": (SPOOLING, 1.0, Attached(), State.SPOOLING, []),
    "a lost worker": (REPLAYING, 1.0, Lost(), State.REPLAYING, []),
    "it ends when nothing is left": (IDLE, 1.0, tick(stop_at=9.0), State.ENDED, []),
    "it ends when the rest is on disk": (REPLAYING, 1.0, tick(on_disk=True, stop_at=9.0), State.ENDED, []),
    "it waits for an answer": (SENT, 1.0, tick(stop_at=9.0), State.SENT, [LISTEN]),
    "when the time is over": (SENT, 9.0, tick(stop_at=9.0), State.SENT, [APPEND]),
    "then it ends whatever came of that": (
        [*SENT, (9.0, tick(stop_at=9.0)), (9.0, FULL)],
        9.0,
        tick(9, stop_at=9.0),
        State.ENDED,
        [],
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_transitions(case):
    before, now, event, state, actions = TABLE[case]
    states = PartitionStates(spool_after=SPOOL_AFTER)
    for at, earlier in before:
        states.on(earlier, at)
    assert states.on(event, now) == actions
    assert states.state is state


def test_what_is_known_of_worker_and_disk():
    states = PartitionStates(spool_after=SPOOL_AFTER)

    def known():
        return states.connected, states.ready, states.trouble

    assert known() == (False, False, "")
    states.on(Attached(), 1.0)
    assert known() == (True, False, "")
    assert states.on(Trouble(why="away"), 2.0) == [HEAR]
    assert (known(), states.heard_at) == ((True, False, "away"), 2.0)
    assert states.on(Ready(), 3.0) == [HEAR]
    assert (known(), states.heard_at) == ((True, True, ""), 3.0)
    states.on(TAKEN, 4.0)
    assert states.heard_at == 4.0  # silence counts from when there is something to answer
    states.on(tick(), 7.0)
    states.on(FULL, 7.0)
    assert (states.full, states.trouble) == (True, "no room")
    assert states.on(tick(), 7.9) == [LISTEN]
    assert states.on(tick(), 8.1) == [APPEND, LISTEN]
    states.on(Appended(), 8.1)
    states.on(Popped(batch=None), 8.1)
    assert not states.full
    states.on(SpoolFailed(why="cannot be read", full=True), 9.0)
    assert (states.full, states.trouble) == (False, "cannot be read")
    states.on(Lost(), 9.0)
    assert not states.connected


# --- any events ------------------------------------------------------------------------------------------------------------


class Model(RuleBasedStateMachine):
    """Inbox, disk, worker and broker as lists of message numbers in order of arrival; `carry_out` does what a shell has to do."""

    def __init__(self):
        super().__init__()
        self.states = PartitionStates(spool_after=SPOOL_AFTER)
        self.now = 0.0
        self.sent = 0  # messages that arrived
        self.batches = 0
        self.inbox, self.popped = [], []
        self.disk = []  # batches
        self.earlier = False  # another partition has batches that come first
        self.damaged = set()  # messages in files that were set aside
        self.broken = None  # what comes of an access to the disk: None, "full", "damaged"
        self.line = None  # what the worker has been sent and has not read; None: there is no worker
        self.attached = False  # a new worker waits to be noticed
        self.answers = []
        self.database = []  # messages in order of commit
        self.known = set()  # ids of batches that are committed
        self.acknowledged = []
        self.reported = Counter()
        self.stop_at = None

    # --- what a shell does

    def feed(self, event):
        actions = self.states.on(event, self.now)
        while actions:
            result = self.carry_out(actions.pop(0))
            if result is not None:
                actions = self.states.on(result, self.now) + actions

    def carry_out(self, action):
        match action:
            case Take(timeout=timeout):
                assert not self.disk, "a message overtakes those on disk"
                assert not self.earlier, "a message overtakes those of earlier partitions"
                self.now += timeout * (not self.inbox)
                return Taken(batch=self.cut(), full=len(self.inbox) >= BATCH)
            case Pop():
                batch = self.cut()
                self.popped = [] if batch is None else batch.messages
                return Popped(batch=batch)
            case PutBack(batch=batch):
                self.inbox[:0] = [int(m.payload) for m in batch.messages]
                self.popped = []
            case Append(batch=batch):
                if (failure := self.failure()) is not None:
                    return failure
                self.disk.append(batch)
                self.popped = []
                return Appended()
            case Load():
                assert self.states.batch is None, "two batches in flight"
                if self.earlier:
                    return Loaded(batch=None)
                return self.failure() or Loaded(batch=self.disk[0] if self.disk else None)
            case Remove():
                if self.disk and self.disk[0].id in self.known:  # else it was set aside with its file
                    self.disk.pop(0)
                return self.failure()
            case Send(batch=batch):
                if self.line is not None:
                    assert not self.line or self.line[-1].id in self.known, "two batches in flight"
                    self.line.append(batch)
            case Listen(timeout=timeout):
                if self.attached:
                    self.attached, self.line, self.answers = False, [], []
                    return Attached()
                if self.answers:
                    return self.answers.pop(0)
                self.now += timeout
            case Acknowledge(messages=messages):
                numbers = [int(m.payload) for m in messages]
                safe = set(self.database) | self.on_disk() | self.damaged
                assert set(numbers) <= safe, "acknowledged, and neither committed nor on disk"
                self.acknowledged += numbers
            case Report(answer=answer):
                self.reported[answer.id] += 1
        return None

    def cut(self):
        numbers, self.inbox = self.inbox[:BATCH], self.inbox[BATCH:]
        if not numbers:
            return None
        self.batches += 1
        return request(self.batches, *numbers)

    def failure(self):
        if self.broken == "damaged":
            self.damaged |= self.on_disk()
            self.disk.clear()
            self.broken = None
            return SpoolFailed(why="damaged", full=False)
        return SpoolFailed(why="full", full=True) if self.broken == "full" else None

    def on_disk(self):
        return {int(m.payload) for batch in self.disk for m in batch.messages}

    def look(self):
        waiting = len(self.inbox)
        self.feed(Tick(waiting=waiting, full=waiting >= BATCH, on_disk=bool(self.disk or self.earlier), stop_at=self.stop_at))

    # --- what may happen

    @precondition(lambda self: not self.states.ended)
    @rule(seconds=st.sampled_from([0.0, 0.1, 0.6, 1.1, SPOOL_AFTER + 0.1]))
    def a_round(self, seconds):
        self.now += seconds
        self.look()

    @precondition(lambda self: not self.states.ended)
    @rule(count=st.integers(1, 8))
    def messages_arrive(self, count):
        self.inbox += range(self.sent, self.sent + count)
        self.sent += count

    @precondition(lambda self: self.line)
    @rule(heard=st.booleans())
    def the_worker_commits(self, heard):
        batch = self.line[-1]
        if batch.id not in self.known:
            self.known.add(batch.id)
            self.database += [int(m.payload) for m in batch.messages]
        if heard:
            self.answers.append(committed(batch))

    @precondition(lambda self: self.line is not None)
    @rule(answer=st.sampled_from([Ready(), Trouble(why="away"), committed(request(10**6))]))
    def the_worker_says_something(self, answer):
        self.answers.append(answer)

    @precondition(lambda self: self.line is not None and not self.states.ended)
    @rule()
    def the_worker_dies(self):
        self.line = None
        self.answers.clear()
        self.feed(Lost())

    @rule()
    def a_worker_is_attached(self):
        self.attached = True

    @rule(broken=st.sampled_from([None, "full", "damaged"]))
    def the_disk_changes(self, broken):
        self.broken = broken

    @rule(earlier=st.booleans())
    @precondition(lambda self: not self.sent)
    def another_partition_has_batches(self, earlier):
        self.earlier = earlier

    @rule()
    def the_other_partition_is_done(self):
        self.earlier = False

    @precondition(lambda self: self.stop_at is None and self.sent > 5)
    @rule(within=st.sampled_from([0.0, 1.0, 5.0]))
    def it_is_told_to_stop(self, within):
        self.stop_at = self.now + within

    # --- what always holds

    @invariant()
    def nothing_is_lost(self):
        assert not self.popped
        batch = self.states.batch
        held = set() if batch is None else {int(m.payload) for m in batch.messages}
        safe = set(self.database) | self.on_disk() | self.damaged
        assert set(self.inbox) | held | safe == set(range(self.sent))

    @invariant()
    def acknowledged_once_in_order_of_arrival_and_not_before_it_is_safe(self):
        assert self.acknowledged == list(range(len(self.acknowledged)))
        assert set(self.acknowledged) <= set(self.database) | self.on_disk() | self.damaged

    @invariant()
    def committed_in_order_of_arrival_and_once(self):
        assert self.database == sorted(set(self.database))

    @invariant()
    def a_batch_is_reported_at_most_once(self):
        assert max(self.reported.values(), default=0) <= 1
        assert set(self.reported) <= self.known

    def teardown(self):
        """In the end every message is stored and acknowledged; what is told to stop ends in time, and early if all is kept."""
        self.broken, self.earlier = None, False
        if self.stop_at is None:
            self.attached = True
            for _ in range(10 * (self.sent + 10)):
                self.look()
                if self.line and not self.answers:
                    self.the_worker_commits(heard=True)
                self.now += 0.1
            assert self.states.state is State.IDLE
            assert set(self.database) | self.damaged == set(range(self.sent)) == set(self.acknowledged)
        else:
            while not self.states.ended:
                self.now += 0.1
                self.look()
            assert self.now >= self.stop_at or len(self.acknowledged) == self.sent
        self.nothing_is_lost()
        self.acknowledged_once_in_order_of_arrival_and_not_before_it_is_safe()
        self.committed_in_order_of_arrival_and_once()


Model.TestCase.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnyEvents = Model.TestCase
