"""GET /v1/stream, over TCP: what is stored is told once each, whatever clients do; and nobody waits for them."""

import json
import random
import socket
import threading
import time
from contextlib import ExitStack, closing
from datetime import timedelta

import httpx
import pytest
import uvicorn

from citybeat.api.app import create_app
from citybeat.api.http.gate import EVERYTHING
from citybeat.api.live import streaming
from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.ingest.http import HttpIngest
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.transport.inbox import BatchSize
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.storage.batches import outbox
from citybeat.storage.batches.outbox import Bounds
from citybeat.storage.db.connection import connect
from citybeat.storage.reads import states
from citybeat.storage.reads.cursors import Cursor, Position
from citybeat.storage.registry import keys, records
from citybeat.storage.registry.keys import Scope
from citybeat.storage.registry.selection import Restriction
from tests.sse import Reader, rows

T0 = 1_767_225_600


def device(name, *, source="gw", district="north", metrics=("temperature",), interval=None):
    sensors = tuple(Sensor(metric=metric, interval=interval) for metric in metrics)
    return Device(id=name, source=source, domain="environment", district=district, sensors=sensors)


class City:
    """A database with an ingest for each source."""

    def __init__(self, url, connection):
        self.url, self.connection = url, connection
        self.pipelines = {}
        self.sent = []

    def register(self, *devices):
        records.register(self.connection, list(devices))

    def send(self, device, at, *values, metric="temperature", source="gw"):
        """Readings a second apart, in one batch."""
        if source not in self.pipelines:
            self.pipelines[source] = Pipeline(
                self.url, catalogue=builtin(), limits=Limits(), max_bytes=10_000_000, quarantine_quota=1_000_000
            )
        told = [(device, metric, round((T0 + at + i) * 1000), float(value)) for i, value in enumerate(values)]
        body = [{"device": device, "ts": ts, "values": {metric: value}} for *_, ts, value in told]
        message = Message(
            f"city/v1/{source}/readings", json.dumps(body).encode(), round((T0 + at + len(values)) * 1_000_000), False, 1, 1, 1
        )
        assert self.pipelines[source].process([message], lambda: True) is not None
        self.sent += told

    def close(self):
        for pipeline in self.pipelines.values():
            pipeline.close()


@pytest.fixture
def city(database, connection):
    made = City(database, connection)
    made.register(device("d-1", metrics=("temperature", "pm25")), device("d-2", district="south"), device("e-1", source="gw-2"))
    yield made
    made.close()


def forget(connection):
    """Drop all that is kept for streams; whoever commits in this moment, in any database, may be in the way."""
    deadline = time.monotonic() + 20
    while connection.execute("SELECT FROM outbox").rowcount:
        assert time.monotonic() < deadline
        outbox.trim(connection, Bounds(keep=timedelta(0), bytes=0))


class Listener:
    """A client; `next` waits for its next event."""

    def __init__(self, response):
        self.response = response
        self.reader = Reader()
        self.events = self.reader.events(response.iter_lines())

    def next(self):
        return next(self.events)

    def readings(self, count):
        found = []
        while len(found) < count:
            event = self.next()
            assert event.name == "readings", event
            found += rows(event)
        return found

    def until(self, name):
        return next(event for event in self.events if event.name == name)


@pytest.fixture
def serve(database):
    """`serve(…)`: the API on a port; gives `listen(query, headers)`, whose connection ends with the test."""
    with ExitStack() as stack:

        def start(**options):
            app = create_app(database_url=database, catalogue=builtin(), **({"anonymous": EVERYTHING, "rate": 6_000} | options))
            config = uvicorn.Config(app, port=0, log_config=None, log_level="warning", timeout_graceful_shutdown=5)
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, name="api")
            thread.start()

            def stop():
                server.should_exit = True
                thread.join()

            stack.callback(stop)
            deadline = time.monotonic() + 20
            while not server.started:
                assert thread.is_alive()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port(server)}", timeout=15))

            def listen(query="", headers=None):
                response = stack.enter_context(client.stream("GET", f"/v1/stream{query}", headers=headers))
                assert response.status_code == 200, response.read()
                return Listener(response)

            listen.client = client
            listen.hub = app.state.service.hub
            listen.port = port(server)
            return listen

        yield start


def port(server):
    return server.servers[0].sockets[0].getsockname()[1]


def test_how_a_stream_looks(city, serve):
    listen = serve()
    listener = listen(headers={"Accept-Encoding": "gzip"})
    headers = listener.response.headers
    assert headers["content-type"].startswith("text/event-stream")
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")
    assert "content-encoding" not in headers
    assert "content-length" not in headers
    city.send("d-1", 0, *range(500))  # more than is compressed elsewhere
    assert listener.readings(500) == city.sent
    assert listener.reader.retry == 2000


def test_filters_choose_and_events_say_what_readings_are(city, serve):
    listen = serve()
    everything, hot, states_only = (
        listen(query) for query in ("", "?metric=temperature&district=north&flags=only_bad", "?events=state")
    )
    city.send("d-1", 0, 20.5, 999.0)
    city.send("d-1", 5, 7.0, metric="pm25")
    city.send("d-2", 6, 888.0)
    event = everything.next()
    assert event.name == "readings"
    assert event.data == {
        "device": ["d-1", "d-1"],
        "metric": ["temperature", "temperature"],
        "time": [T0 * 1000, (T0 + 1) * 1000],
        "value": [20.5, 999.0],
        "flags": [[], ["range"]],
    }
    assert everything.readings(2) == city.sent[2:]
    assert hot.readings(1) == [city.sent[1]]
    states.watch(city.connection)
    seen = [states_only.next() for _ in range(4)]
    assert {(event.name, event.data["device"], event.data["metric"], event.data["state"]) for event in seen} == {
        ("state", "d-1", "temperature", "overdue"),
        ("state", "d-1", "pm25", "overdue"),
        ("state", "d-2", "temperature", "overdue"),
        ("state", "e-1", "temperature", "silent"),
    }


def test_a_client_resumes_behind_its_last_event(city, serve):
    listen = serve()
    first = listen()
    city.send("d-1", 0, 1, 2)
    first.readings(2)
    seen = first.reader.last_id
    city.send("d-1", 10, 3)
    city.send("d-2", 11, 4)
    for again in (listen(headers={"Last-Event-ID": seen}), listen(f"?last_event_id={seen}")):
        assert again.readings(2) == city.sent[2:]
    other = listen(f"?last_event_id={seen}&device=d-2", {"Last-Event-ID": ""})
    assert other.readings(1) == city.sent[3:]
    city.send("d-2", 12, 5)
    assert other.readings(1) == city.sent[4:]


def test_silence_moves_the_cursor_on(city, serve, monkeypatch):
    """Whoever wishes for little would otherwise be told, after a while, that he may have missed something."""
    monkeypatch.setattr(streaming, "HEARTBEAT", 0.2)
    listen = serve()
    lines = listen("?device=d-2").response.iter_lines()
    city.send("d-1", 0, 1)
    (place,) = city.connection.execute("SELECT xact, id FROM outbox").fetchall()
    last = ""
    while not last or Cursor.parse(last).misses(Position(*place)):
        line = next(lines)
        last = line.removeprefix("id: ") if line.startswith("id: ") else last
        assert not line.startswith("data")
    forget(city.connection)
    city.send("d-2", 1, 2)
    assert listen(f"?last_event_id={last}").readings(1) == city.sent[1:]


def test_beyond_what_is_kept_a_reset_says_so(city, serve):
    listen = serve()
    first = listen()
    city.send("d-1", 0, 1)
    seen = first.next().id
    city.send("d-1", 1, 2)
    first.next()
    forget(city.connection)
    again = listen(f"?last_event_id={seen}")
    event = again.next()
    assert (event.name, event.data) == ("reset", {"reason": "dropped", "resume_from": event.id})
    city.send("d-1", 2, 3)
    assert again.readings(1) == city.sent[2:]
    assert listen(f"?last_event_id={event.id}").readings(1) == city.sent[2:]
    assert first.readings(1) == city.sent[2:]  # and who listened all the time has missed nothing


def test_a_reader_that_is_overtaken_tells_everybody(city, serve):
    listen = serve()
    listener = listen()
    city.send("d-1", 0, 1)
    listener.next()
    with closing(connect(city.url, application="test")) as other:
        with other.transaction():
            other.execute("LOCK TABLE outbox_floor")
            city.send("d-1", 1, 2)
            city.send("d-1", 2, 3)
            forget(other)
    event = listener.next()
    assert (event.name, event.data["reason"]) == ("reset", "dropped")
    city.send("d-1", 3, 4)
    assert listener.readings(1) == city.sent[3:]


def test_the_registry_is_followed(city, serve):
    listen = serve()
    key = keys.create(city.connection, name="n", scopes=[Scope.READ], by="test", within=Restriction(districts=["north"]))
    north, everything = listen(headers={"X-API-Key": key}), listen()
    city.register(device("d-3"))
    city.send("d-3", 0, 1)
    assert north.readings(1) == city.sent
    city.register(device("d-3", district="south"), device("d-2", district="north"))
    city.send("d-3", 1, 2)
    city.send("d-2", 2, 3)
    assert north.readings(1) == city.sent[2:]
    records.retire(city.connection, "d-2")
    states.watch(city.connection)
    city.send("d-1", 4, 5)
    told = []
    while not told or told[-1].name != "readings":
        told.append(north.next())
    assert {event.data["device"] for event in told[:-1]} == {"d-1", "e-1"}
    assert rows(told[-1]) == city.sent[-1:]
    assert everything.readings(3) == city.sent[:3]


def test_a_key_that_is_revoked_ends_its_streams(city, serve):
    listen = serve()
    shown = keys.create(city.connection, name="n", scopes=[Scope.READ], by="test")
    mine, others = listen(headers={"Authorization": f"Bearer {shown}"}), listen()
    keys.revoke(city.connection, shown.split("_")[1])
    event = mine.next()
    assert (event.name, event.data) == ("end", {"reason": "key-revoked"})
    with pytest.raises(StopIteration):
        mine.next()
    city.send("d-1", 0, 1)
    assert others.readings(1) == city.sent


def test_places_are_limited(city, serve):
    listen = serve(max_streams=2, max_streams_each=1)
    shown = [keys.create(city.connection, name="n", scopes=[Scope.READ], by="test") for _ in range(3)]
    first = listen(headers={"X-API-Key": shown[0]})
    answer = listen.client.get("/v1/stream", headers={"X-API-Key": shown[0]})
    assert (answer.status_code, answer.json()["max_streams_per_key"]) == (429, 1)
    listen(headers={"X-API-Key": shown[1]})
    answer = listen.client.get("/v1/stream", headers={"X-API-Key": shown[2]})
    assert (answer.status_code, answer.json()["max_streams"]) == (503, 2)
    first.response.close()
    deadline = time.monotonic() + 10
    while listen.hub._open.total() > 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    listen(headers={"X-API-Key": shown[2]})


@pytest.mark.parametrize(
    "nonsense", ["x", "bm9uc2Vuc2U", "W10", "WyJhIiwxLCJ4Il0", "WyJhIiwtMSwxXQ", "WyJhIiwxLHRydWVd", "é", "[]"]
)
def test_cursors_that_are_none(city, serve, nonsense):
    listen = serve()
    answer = listen.client.get("/v1/stream", params={"last_event_id": nonsense})
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["query", "last_event_id"])
    if nonsense.isascii():
        answer = listen.client.get("/v1/stream", headers={"Last-Event-ID": nonsense})
        assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["header", "Last-Event-ID"])


def test_newest_values_and_the_stream_behind_them_have_no_gap_and_no_repeat(city, serve):
    listen = serve()
    with closing(connect(city.url, application="test")) as early, early.transaction():
        # A writer that began before, and commits after: what it wrote has a lower number than what the answer shows.
        outbox.lock_writer(early)
        early.execute("SELECT pg_current_xact_id()")
        city.send("d-1", 0, 1)
        newest = listen.client.get("/v1/latest").json()
        known = listen.client.get("/v1/states").json()
    assert newest["columns"]["value"] == [1.0]
    listener, of_states = (listen(f"?last_event_id={answer['stream_cursor']}") for answer in (newest, known))
    city.send("d-1", 1, 2)
    assert listener.readings(1) == of_states.readings(1) == city.sent[1:]


def test_states_change_and_are_told(city, serve):
    listen = serve()
    now = time.time()
    city.register(device("d-1", metrics=("temperature", "pm25"), interval=2))

    def table(query=""):
        columns = listen.client.get(f"/v1/states{query}").json()["columns"]
        return dict(zip(zip(columns["device"], columns["metric"], strict=True), columns["state"], strict=True))

    assert table() == {}
    states.watch(city.connection)
    assert set(table().values()) == {"silent"}
    cursor = listen.client.get("/v1/states").json()["stream_cursor"]
    listener = listen(f"?last_event_id={cursor}&events=state&device=d-1&metric=temperature")
    city.send("d-1", now - T0, 20)
    states.watch(city.connection)
    event = listener.next()
    assert event.data["state"] == "ok"
    assert event.data["since"] == pytest.approx(now * 1000, abs=1)
    assert table("?state=ok") == {("d-1", "temperature"): "ok"}
    assert states.watch(city.connection) == 0
    deadline = time.monotonic() + 10
    while not states.watch(city.connection):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    event = listener.next()
    assert (event.data["state"], event.data["value"]) == ("overdue", 20.0)
    assert event.data["since"] == pytest.approx((now + 6) * 1000, abs=1)
    city.send("d-1", time.time() - T0, 999)
    states.watch(city.connection)
    assert listener.next().data["state"] == "bad"
    found = listen.client.get("/v1/states", params={"limit": 1}, headers={"Accept": "application/geo+json"}).json()
    assert found["features"][0]["id"] == "d-1/pm25"
    columns = listen.client.get("/v1/states", params={"cursor": found["next_cursor"], "limit": 1}).json()["columns"]
    assert columns == {
        "device": ["d-1"],
        "metric": ["temperature"],
        "state": ["bad"],
        "since": [pytest.approx(time.time() * 1000, abs=10_000)],
        "value": [999.0],
    }
    records.retire(city.connection, "d-1")
    states.watch(city.connection)
    assert set(table("?include_retired=true")) == {("d-2", "temperature"), ("e-1", "temperature")}


def test_a_connection_that_breaks_costs_nothing(city, serve):
    listen = serve()
    listener = listen()
    for at in range(5):
        city.send("d-1", at, at)
        ended = city.connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'citybeat stream' AND datname = current_database()"
        ).fetchone()[0]
        assert ended or at
    assert listener.readings(5) == city.sent


def test_a_client_that_does_not_read_is_ended_alone(city, serve):
    """Its buffers are filled by one batch after the other; none of them waits for it, and others get all."""
    listen = serve(stream_buffer=300_000)
    good = listen()
    with socket.socket() as bad:
        bad.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        bad.connect(("127.0.0.1", listen.port))
        bad.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert bad.recv(100).startswith(b"HTTP/1.1 200")
        got, at = [], 0
        deadline = time.monotonic() + 60
        while listen.hub._open.total() > 1:
            assert time.monotonic() < deadline
            city.send("d-1", at, *range(2_000))
            at += 2_000
            got += good.readings(2_000)
        assert got == city.sent
        bad.settimeout(10)
        received = b""
        while chunk := bad.recv(1 << 20):
            received += chunk
        # The connection was closed in the midst: without an end of the answer, since none could be written.
        assert 0 < received.count(b"event: readings") * 2_000 < at
        assert not received.endswith(b"0\r\n\r\n")


def test_ingest_waits_for_nobody(city, serve):
    """While the process that serves streams stands still altogether, and holds what it has read."""
    listen = serve()
    listener = listen()
    with closing(connect(city.url, application="test")) as other, other.transaction():
        other.execute("LOCK TABLE outbox_floor")  # every look waits here
        for at in range(3):
            city.send("d-1", at, at)
        assert other.execute("SELECT count(*) FROM readings").fetchone() == (3,)
    assert listener.readings(3) == city.sent


def test_what_is_posted_is_told_too(city, serve):
    pipeline = Pipeline(city.url, catalogue=builtin(), limits=Limits(), max_bytes=1_000_000, quarantine_quota=1_000_000)
    size = BatchSize(messages=100, bytes=1_000_000, linger=0.005)
    listen = serve(intake=HttpIngest(pipeline, size=size, max_bytes=1_000_000, room=10_000_000))
    listener = listen()
    body = [{"device": "d-1", "ts": T0 * 1000, "values": {"temperature": 20.5}}]
    for _ in range(2):  # the second time it is nothing new
        answer = listen.client.post("/v1/readings", json=body, params={"source": "gw"})
        assert answer.status_code == 200, answer.text
    city.send("d-1", 1, 21)
    assert listener.readings(2) == [("d-1", "temperature", T0 * 1000, 20.5), *city.sent]


def test_whoever_comes_and_goes_gets_everything_once(city, serve):
    """Two ingests at once, one of them with transactions that take their time; a client that goes away in the middle of events."""
    listen = serve()
    rng = random.Random(11)
    cursor = listen.client.get("/v1/latest").json()["stream_cursor"]
    stop = threading.Event()
    failures = []

    def write(name, source, seed):
        own = random.Random(seed)
        at = 0
        try:
            while not stop.is_set():
                n = own.choice([1, 1, 3, 40])
                city.send(name, at, *(own.randrange(30) for _ in range(n)), source=source)
                at += n
                if own.random() < 0.3:
                    with closing(connect(city.url, application="test writer")) as made, made.transaction():
                        outbox.lock_writer(made)  # in the way, with a number and without a row
                        made.execute("SELECT pg_current_xact_id()")
                        time.sleep(own.random() * 0.05)
        except Exception as exc:
            failures.append(exc)

    writers = [
        threading.Thread(target=write, args=arguments) for arguments in (("d-1", "gw", 1), ("d-2", "gw", 2), ("e-1", "gw-2", 3))
    ]
    city.pipelines = dict.fromkeys(())
    # A source has one ingest: two threads of one pipeline would be in each other's way.
    writers = [writers[0], writers[2]]
    for writer in writers:
        writer.start()
    got, last = [], cursor
    began = time.monotonic()
    try:
        while time.monotonic() - began < 6:
            with listen.client.stream("GET", "/v1/stream", headers={"Last-Event-ID": last}) as response:
                reader = Reader(last)
                events = reader.events(response.iter_lines())
                for _ in range(rng.choice([0, 1, 2, 5, 30])):
                    event = next(events)
                    assert event.name == "readings", event
                    got += rows(event)
                last = reader.last_id
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert not failures
    with listen.client.stream("GET", "/v1/stream", headers={"Last-Event-ID": last}) as response:
        events = Reader(last).events(response.iter_lines())
        while len(got) < len(city.sent):
            got += rows(next(events))
    assert len(city.sent) > 200
    assert sorted(got) == sorted(city.sent)
    us = "(extract(epoch FROM r.time) * 1000)::int8"
    stored = city.connection.execute(
        f"SELECT s.device_id, s.metric, {us}, r.value FROM readings r JOIN series s ON s.id = r.series_id"
    ).fetchall()
    assert sorted(got) == sorted(stored)
