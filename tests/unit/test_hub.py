"""Buffers of one stream, and the events written from them; without a database."""

import asyncio

import numpy as np
import pytest

from citybeat.api.http.gate import Caller
from citybeat.api.http.problems import Problem
from citybeat.api.http.requests import Requests
from citybeat.api.live import events, streaming
from citybeat.api.live.hub import Hub
from citybeat.api.live.subscriptions import Channel, StreamFilter, Subscription
from citybeat.storage.batches import outbox
from citybeat.storage.batches.outbox import OutboxRows
from citybeat.storage.reads import following
from citybeat.storage.reads.cursors import Cursor, Position
from citybeat.storage.reads.following import Names, Page, Row
from citybeat.storage.reads.series import Policy
from citybeat.storage.registry.selection import Selection
from tests.sse import Reader

NAMES = Names(
    version=1,
    device=np.array(["", "a", "b", "c"], object),
    metric=np.array(["", "temperature", "temperature", "pm25"], object),
)
NOWHERE = Cursor(generation="gen", position=Position(1, 1))


def row(xact, *series, kind=outbox.READINGS, value=1.5, code=0, number=1):
    n = len(series)
    told = OutboxRows(
        series=np.array(series, np.int32),
        time=np.full(n, 1_767_225_600_000_000),
        value=np.full(n, value),
        code=np.full(n, code, np.int16),
    )
    return Row(Position(xact, number), kind, told)


def feed(members=(1, 2, 3), *, kinds=("readings", "state"), flags=Policy.ALL):
    made = Channel(StreamFilter(selection=Selection(), events=frozenset(kinds), flags=flags))
    made.members = np.isin(np.arange(4), list(members))
    return made


def read(data):
    return list(Reader().events(data.decode().split("\n")))


@pytest.mark.parametrize("seed", range(20))
def test_a_feed_is_a_loop_over_readings(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 30))
    members = {int(s) for s in rng.integers(1, 4, 2)}
    told = OutboxRows(
        series=rng.integers(1, 6, n).astype(np.int32),  # some of which nobody knows
        time=rng.integers(0, 10**9, n) * 1000,
        value=rng.normal(size=n),
        code=rng.choice(np.array([0, 1, 8, 257], np.int16), n),
    )
    for policy, wanted in ((Policy.ALL, {0, 1, 8, 257}), (Policy.GOOD, {0, 8, 257}), (Policy.ONLY_BAD, {1})):
        block = feed(members, flags=policy).block(Row(Position(2, 1), outbox.READINGS, told), NAMES)
        expected = [
            (NAMES.device[s], NAMES.metric[s], t / 1000, v)
            for s, t, v, c in zip(told.series.tolist(), told.time.tolist(), told.value.tolist(), told.code.tolist(), strict=True)
            if s in members and c in wanted
        ]
        if not expected:
            assert block is None
            continue
        ((name, data, last),) = read(events.ended(block, "id-1"))
        assert (name, last) == ("readings", "id-1")
        assert list(zip(data["device"], data["metric"], data["time"], data["value"], strict=True)) == expected


def test_a_feed_tells_only_the_events_that_are_wished_for():
    assert feed(kinds=("state",)).block(row(2, 1), NAMES) is None
    assert feed(kinds=("readings",)).block(row(2, 1, kind=outbox.STATES_CHANGED), NAMES) is None


def test_the_id_of_many_states_comes_with_the_last():
    """Who is cut off between two of them gets both again, rather than none."""
    block = feed().block(row(2, 1, 3, kind=outbox.STATES_CHANGED, code=4, value=np.nan), NAMES)
    first, second = read(events.ended(block, "id-1"))
    assert (first.id, second.id) == ("", "id-1")
    assert second.data == {"device": "c", "metric": "pm25", "state": "silent", "since": 1_767_225_600_000, "value": None}


def test_a_row_is_told_once_and_moves_the_cursor_even_if_nothing_of_it_is_wished_for():
    async def run():
        made = Subscription(feed(), NOWHERE, 1000)
        for xact in (1, 2, 2, 3):
            made.tell(row(xact, 1), events.readings(row(xact, 1).told, NAMES))
        made.tell(row(4, 0), None)
        found = read(await made.next(0.0))
        assert [Cursor.parse(event.id).position for event in found] == [Position(2, 1), Position(3, 1)]
        assert made.cursor.position == Position(4, 1)
        assert await made.next(0.0) is None

    asyncio.run(run())


def test_who_does_not_take_what_is_held_is_ended_at_the_bound():
    async def run():
        made = Subscription(feed(), NOWHERE, 1000)
        block = events.event("readings", b"x" * 2000)
        made.tell(row(2, 1), block)  # who has taken everything gets an event of any size
        assert not made.over.done()
        made.tell(row(3, 1), block)
        assert made.over.result() == "slow"
        assert await made.next(0.0) is None
        made.tell(row(4, 1), block)
        made.end("shutdown")
        assert made.over.result() == "slow"

    asyncio.run(run())


def test_taking_makes_room():
    async def run():
        made = Subscription(feed(), NOWHERE, 1000)
        for xact in range(2, 20):
            made.tell(row(xact, 1), events.event("readings", b"x" * 300))
            assert await made.next(0.0)
        assert not made.over.done()

    asyncio.run(run())


def test_places():
    counts = Requests()
    hub = Hub(None, counts, streams=3, streams_each=2)
    hub.enter("a")
    hub.enter("a")
    with pytest.raises(Problem) as refused:
        hub.enter("a")
    assert (refused.value.status, refused.value.body["max_streams_per_key"]) == (429, 2)
    hub.enter("b")
    with pytest.raises(Problem) as refused:
        hub.enter("c")
    assert (refused.value.status, refused.value.body["max_streams"]) == (503, 3)
    hub.leave("a", "gone")
    hub.enter("c")
    hub.end_all()
    hub.leave("c", "slow")
    with pytest.raises(Problem) as refused:
        hub.enter("c")
    assert refused.value.body["type"].endswith("shutting-down")
    assert counts.registry.get_sample_value("citybeat_http_streams") == 2
    assert counts.registry.get_sample_value("citybeat_http_streams_ended_total", {"reason": "slow"}) == 1


class Client:
    """An ASGI client: `stalls` after so many bytes, or goes."""

    def __init__(self, stalls=None):
        self.body = b""
        self.ended = False
        self.goes = asyncio.Event()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._stalls = stalls

    async def send(self, message):
        if message["type"] == "http.response.body":
            if self._stalls is not None and len(self.body) > self._stalls:
                await asyncio.Event().wait()
            self.body += message["body"]
            self.ended = not message["more_body"]
            self._pieces.put_nowait(message["body"])

    async def sent(self, heartbeats):
        """Wait until so many were sent, from now on."""
        while not self._pieces.empty():
            self._pieces.get_nowait()
        while heartbeats:
            heartbeats -= (await self._pieces.get()).startswith(b": heartbeat\n")

    async def receive(self):
        await self.goes.wait()
        return {"type": "http.disconnect"}


class StandIn:
    """A hub that has nothing to catch up with."""

    def __init__(self, subscription):
        self.subscription = subscription
        self.left = 0

    def enter(self, _who):
        pass

    def leave(self, _who, reason):
        self.left += 1
        self.reason = reason

    async def subscribe(self, _wish, _cursor):
        return self.subscription

    def unsubscribe(self, _subscription):
        self.left += 1


class Keys:
    def __init__(self):
        self.hold = True

    async def still(self, _caller):
        return self.hold


async def attended(monkeypatch, client, do):
    """The state of a stream after something was done."""

    async def nothing(*_):
        pass

    monkeypatch.setattr(streaming.Stream, "_catch_up", nothing)
    monkeypatch.setattr(streaming, "_CHECK", 0.01)
    subscription = Subscription(feed(), NOWHERE, 1000)
    hub, keys = StandIn(subscription), Keys()
    caller = Caller(id="k", name="n", scopes=frozenset(), within=None)
    response = streaming.Stream(hub, keys, caller, "k", feed().wish, NOWHERE)
    task = asyncio.ensure_future(response({}, client.receive, client.send))
    await do(subscription, keys)
    await asyncio.wait_for(task, 10)
    assert hub.left == 2
    return hub.reason, read(client.body)


def test_a_client_that_reads_is_told_why_it_ends(monkeypatch):
    async def run():
        async def slow(subscription, _keys):
            subscription.tell(row(2, 1), feed().block(row(2, 1), NAMES))
            subscription.tell(row(3, 1), events.event("readings", b"x" * 2000))

        client = Client()
        reason, found = await attended(monkeypatch, client, slow)
        assert reason == "slow"
        assert (found[-1].name, found[-1].data) == ("end", {"reason": "slow"})
        assert client.ended

        async def revoked(_subscription, keys):
            keys.hold = False

        _, found = await attended(monkeypatch, Client(), revoked)
        assert (found[-1].name, found[-1].data) == ("end", {"reason": "key-revoked"})

    asyncio.run(run())


def test_a_client_that_takes_nothing_is_left_without_an_end(monkeypatch):
    monkeypatch.setattr(streaming, "STALL", 0.05)
    monkeypatch.setattr(streaming, "_PARTING", 0.05)

    async def run():
        async def tell(subscription, _keys):
            await asyncio.sleep(0)
            subscription.tell(row(2, 1), events.event("readings", b"{}"))

        client = Client(stalls=0)
        reason, _ = await attended(monkeypatch, client, tell)
        assert reason == "slow"
        assert b"event: end" not in client.body
        assert not client.ended

    asyncio.run(run())


def test_a_client_that_goes_ends_it_at_once(monkeypatch):
    async def run():
        client = Client()

        async def go(_subscription, _keys):
            client.goes.set()

        reason, _ = await attended(monkeypatch, client, go)
        assert reason == "gone"

    asyncio.run(run())


def test_silence_is_broken_by_heartbeats_with_the_place(monkeypatch):
    monkeypatch.setattr(streaming, "HEARTBEAT", 0.01)

    async def run():
        client = Client()

        async def wait(subscription, _keys):
            await client.sent(2)
            subscription.cursor = subscription.cursor.at(Position(9, 9))
            await client.sent(2)
            client.goes.set()

        await attended(monkeypatch, client, wait)
        reader = Reader()
        assert list(reader.events(client.body.decode().split("\n"))) == []
        assert Cursor.parse(reader.last_id).position == Position(9, 9)
        assert reader.retry == 2000

    asyncio.run(run())


def test_an_event_of_a_reset_names_where_it_goes_on():
    (event,) = read(events.reset("dropped", str(NOWHERE)))
    assert event == ("reset", {"reason": "dropped", "resume_from": str(NOWHERE)}, str(NOWHERE))


def test_who_comes_while_rows_are_told_does_not_join_in_their_midst(monkeypatch):
    """Those that were told already would be missing: it reads on for itself."""
    rows = [row(2, 1), row(3, 2)]

    async def names(_pool):
        return NAMES

    async def members(_pool, _selection, size):
        return np.ones(size, np.bool_)

    async def page(_pool, behind, **_):
        found = [each for each in rows if behind.misses(each.position)]
        end = behind.at(rows[-1].position) if found else behind
        return Page(cursor=end, lost=False, registry=1, rows=found, more=False)

    for function in (names, members, page):
        monkeypatch.setattr(following, function.__name__, function)

    async def run():
        hub = Hub(None, Requests())
        wish = feed().wish
        first, late = await hub.subscribe(wish, NOWHERE), await hub.subscribe(wish, NOWHERE)
        tries = []
        plain = first.feed.block

        def block(each, known):
            tries.append(hub.join(late))
            return plain(each, known)

        monkeypatch.setattr(first.feed, "block", block, raising=False)
        assert hub.join(first)
        told = []
        while len(told) < len(rows):
            told += read(await first.next(10.0))
        assert tries == [False, False]
        late.cursor = (await hub.read(late)).cursor
        assert hub.join(late)
        await hub.close()
        assert first.over.result() == late.over.result() == "shutdown"

    asyncio.run(run())
