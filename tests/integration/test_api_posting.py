"""POST /v1/readings on a real database: every form, the accounts of a request, repeats, and what goes wrong."""

import asyncio
import gzip
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from uuid import UUID

import cbor2
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg import sql

from citybeat.api.files import uploads
from citybeat.api.http import models
from citybeat.api.http.openapi import ProblemDetails
from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.ingest.http import HttpIngest
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.transport.inbox import BatchSize
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.storage.accounts import ledger as accounts
from citybeat.storage.batches.ingest_requests import IngestRequest
from citybeat.storage.db.connection import DatabaseUnavailableError, connect
from citybeat.storage.registry import keys, records
from citybeat.storage.registry.keys import Scope
from citybeat.storage.registry.selection import Restriction

MS = 1_767_225_600_000
DEVICES = [
    Device(id="env-1", source="gw-1", domain="environment", district="north", sensors=(Sensor(metric="temperature"),)),
    Device(id="env-2", source="gw-1", domain="environment", district="north", sensors=(Sensor(metric="pm25"),)),
    Device(id="far-1", source="gw-2", domain="environment", district="south", sensors=(Sensor(metric="pm25"),)),
]
EXACT = "2026-01-01T00:00:00.000123Z"
JSON = {"content-type": "application/json"}


def pipeline(url):
    return Pipeline(url, catalogue=builtin(), limits=Limits(), max_bytes=1_000_000, quarantine_quota=10_000_000)


def direct(url, **options):
    size = BatchSize(messages=1000, bytes=1_000_000, linger=0.005)
    return HttpIngest(pipeline(url), **({"size": size, "max_bytes": 1_000_000, "room": 10_000_000} | options))


@pytest.fixture
def city(connection):
    records.register(connection, DEVICES)
    return connection


@pytest.fixture
def api(start_api, database, city):
    return start_api(database, intake=direct(database))


def post(api, body, *, kind="application/json", source="gw-1", **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return api.ask("POST", f"/v1/readings?source={source}", content=content, headers=headers)[0]


def good(answer):
    assert answer.status_code == 200, answer.text
    told = models.PostedModel.model_validate(answer.json()).model_dump()
    ends = ("stored", "duplicate", "conflict", "missing", "quarantined")
    assert told["ledger"]["received"] == sum(told["ledger"][name] for name in ends)
    return told


def bad(answer, status, slug):
    assert answer.status_code == status, answer.text
    problem = answer.json()
    ProblemDetails.model_validate(problem)
    assert problem["type"] == f"urn:citybeat:problem:{slug}"
    return problem


def count(connection, table="readings"):
    return connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()[0]


def ends(told):
    return {name: n for name, n in told["ledger"].items() if n and name != "messages"}


def test_every_end_of_a_reading(api, city):
    told = good(
        post(
            api,
            [
                {"device": "env-1", "ts": MS, "values": {"temperature": 20.0}},
                {"device": "env-1", "ts": MS, "values": {"temperature": 20.0}},
                {"device": "env-1", "ts": MS, "values": {"temperature": 21.0}},
                {"device": "env-1", "ts": MS + 1000, "values": {"temperature": None}},
                {"device": "env-2", "ts": "yesterday", "values": {"pm25": 1}},
                {"device": "nobody", "ts": MS, "values": {"pm25": 1}},
                {"device": "far-1", "ts": MS, "values": {"noise": 1}},
            ],
        )
    )
    assert ends(told) == {"received": 7, "stored": 1, "duplicate": 1, "conflict": 1, "missing": 1, "quarantined": 3}
    assert told["reasons"] == {"conflict": 1, "bad_time": 1, "unknown_device": 1, "source_mismatch": 1}
    assert [(entry["index"], entry["reason"]) for entry in told["refused"]] == [
        (2, "conflict"),
        (4, "bad_time"),
        (5, "unknown_device"),
        (6, "source_mismatch"),
    ]
    assert told["refused_left_out"] == 0
    assert accounts.discrepancies(city) == []
    ledger = api.get("/v1/ledger", source="gw-1").json()["totals"]
    assert {name: ledger[name] for name in told["ledger"]} == told["ledger"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", {"device": "env-1", "ts": MS, "values": {"temperature": 20}}),
        ("application/json; charset=utf-8", {"device": "env-1", "metric": "temperature", "ts": [MS], "value": [20]}),
        ("application/json", {"seq": 1, "boot": "a", "readings": [{"device": "env-1", "ts": MS, "values": {"temperature": 20}}]}),
        ("application/senml+json", [{"n": "env-1:temperature", "t": MS / 1000, "v": 20}]),
        ("application/senml+cbor", cbor2.dumps([{0: "env-1:temperature", 6: MS / 1000, 2: 20}])),
        ("text/csv", b"device,metric,ts,value\nenv-1,temperature,1767225600000,20\n"),
        ("text/csv; charset=utf-8", b"time,device,metric,value,flags\r\n2026-01-01T07:00:00+07:00,env-1,temperature,20,4\r\n"),
    ],
)
def test_every_form(api, city, kind, body):
    assert ends(good(post(api, body, kind=kind))) == {"received": 1, "stored": 1}
    assert city.execute("SELECT value, extract(epoch FROM time)::int8 * 1000 FROM readings").fetchall() == [(20.0, MS)]
    assert ends(good(post(api, body, kind=kind))) == {"received": 1, "duplicate": 1} | (
        {"redelivered": 1} if isinstance(body, dict) and "seq" in body else {}
    )
    squeezed = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = good(post(api, gzip.compress(squeezed), kind=kind, content_encoding="gzip"))
    assert told["ledger"]["duplicate"] == 1


def test_lines_of_a_file_that_are_refused_are_named(api, city):
    lines = [f"{MS + 1000 * i},env-1,temperature,{20 + i / 100000}" for i in range(uploads.PART_ROWS + 10)]
    lines[3] = f"{MS},env-1,temperature,warm"
    lines[7] = "2026-02-30T00:00:00Z,env-1,temperature,1"
    lines[8] = f"{MS + 8000},env-1,temperature,"
    lines[uploads.PART_ROWS + 2] = f"{MS},nobody,temperature,1"
    told = good(post(api, ("ts,device,metric,value\n" + "\n".join(lines)).encode(), kind="text/csv"))
    assert [(entry["index"], entry["line"], entry["reason"]) for entry in told["refused"]] == [
        (3, 5, "not_a_number"),
        (7, 9, "bad_time"),
        (uploads.PART_ROWS + 2, uploads.PART_ROWS + 4, "unknown_device"),
    ]
    assert told["ledger"] | {"messages": 0} == {
        "messages": 0,
        "redelivered": 0,
        "received": len(lines),
        "stored": len(lines) - 4,
        "duplicate": 0,
        "conflict": 0,
        "missing": 1,
        "quarantined": 3,
    }
    assert told["ledger"]["messages"] == 2
    assert accounts.discrepancies(city) == []
    assert city.execute("SELECT count(*) FROM quarantine WHERE topic = 'city/v1/gw-1/readings'").fetchone() == (2,)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_export_can_be_posted_as_it_is(api, start_api, city, other_database, form):
    with closing(connect(other_database, application="test")) as elsewhere:
        records.register(elsewhere, DEVICES)
        good(
            post(
                api,
                [
                    {"device": "env-1", "ts": ts, "values": {"temperature": value}}
                    for ts, value in [
                        (MS, 20.1),
                        (MS + 1, -0.0),
                        (MS + 2, 1e-7),
                        (EXACT, 99.0),
                        (MS + 3, 1 / 3),
                    ]
                ]
                + [{"device": "env-2", "ts": MS, "values": {"pm25": 7}}],
            )
        )
        kind = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}[form]
        query = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z", "format": form}
        file = api.get("/v1/export", **query)
        assert file.headers["content-type"].split(";")[0] == kind
        assert ends(good(post(api, file.content, kind=kind))) == {"received": 6, "duplicate": 6}
        other = start_api(other_database, intake=direct(other_database))
        assert ends(good(post(other, file.content, kind=kind))) == {"received": 6, "stored": 6}
        rows = "SELECT s.device_id, s.metric, r.time, r.value FROM readings r JOIN series s ON s.id = r.series_id ORDER BY 1, 2, 3"
        assert elsewhere.execute(rows).fetchall() == city.execute(rows).fetchall()


def test_an_answer_is_kept_as_it_was_given(api, city):
    """With all that was refused, up to what an answer lists."""
    body = [{"device": f"nobody-{i}", "ts": MS, "values": {"pm25": 1}} for i in range(120)] + [7, {"device": "env-2", "values": {}}]
    body.append({"device": "env-2", "ts": MS, "values": {"pm25": 1.5}})
    first = good(post(api, body, idempotency_key="with-refused"))
    assert first["reasons"] == {"unknown_device": 120, "bad_report": 2}
    assert len(first["refused"]) == 100
    assert first["refused_left_out"] == 22
    again = good(post(api, body, idempotency_key="with-refused"))
    assert again == first | {"repeated": True, "received_at": again["received_at"]}
    assert count(city, "quarantine") == 1


NO_TIME = {"device": "env-1", "values": {"temperature": 20}}


def test_a_key_makes_a_request_the_same_one(api, city):
    first = good(post(api, NO_TIME, idempotency_key="12345678"))
    again = good(post(api, NO_TIME, idempotency_key="12345678"))
    assert again == first | {"repeated": True, "received_at": again["received_at"]}
    assert count(city) == 1
    assert api.get("/v1/ledger").json()["totals"]["received"] == 1
    # With another key, or without one, it is another reading.
    good(post(api, NO_TIME, idempotency_key="12345679"))
    good(post(api, NO_TIME))
    assert count(city) == 3
    bad(post(api, NO_TIME | {"ts": MS}, idempotency_key="12345678"), 409, "idempotency-key-reused")
    bad(post(api, NO_TIME, idempotency_key="short"), 422, "invalid-parameter")
    assert accounts.discrepancies(city) == []


def test_the_same_request_at_once_in_two_processes(start_api, database, city):
    """Both tries run, as after a client's time-out; and several times each."""
    servers = [direct(database) for _ in range(2)]
    apis = [start_api(database, intake=each) for each in servers]
    url = "/v1/readings?source=gw-1"
    for round_ in range(5):
        headers = {**JSON, "idempotency-key": f"round-{round_:04}"}
        with ThreadPoolExecutor(1) as pool:
            # One runner serves both applications: the requests to each go out together, those of the second from its own thread.
            offered = pool.submit(_offer_twice, servers[1], round_)
            said = apis[0].ask("POST", *[url] * 3, content=json.dumps(NO_TIME).encode(), headers=headers)
            offered.result()
        assert {answer.json()["ledger"]["stored"] for answer in said} == {1}
    assert count(city) == 10  # five of the API, five of the other, which has ids of its own
    assert accounts.discrepancies(city) == []


def _offer_twice(server, round_):
    """The same offer, by two threads at once."""
    offer = IngestRequest(
        id=UUID(int=round_), digest=b"x", lasting=True, source="gw-1", channel="readings", payload=json.dumps(NO_TIME).encode()
    )
    with ThreadPoolExecutor(2) as pool:
        taken = [pool.submit(server.take, offer, 10.0) for _ in range(2)]
        assert {future.result().result(10).counts["stored"] for future in taken} == {1}


def test_a_key_that_another_process_is_storing(start_api, database, city, other_database):
    """The same id in two processes at the same moment: one stores it, and both say so."""
    servers = [direct(database) for _ in range(2)]
    for server in servers:
        server.start()
    try:
        for round_ in range(10):
            offer = IngestRequest(
                id=UUID(int=1000 + round_),
                digest=b"x",
                lasting=True,
                source="gw-1",
                channel="readings",
                payload=json.dumps(NO_TIME).encode(),
            )
            together = threading.Barrier(2)

            def offered(server, offer=offer, together=together):
                together.wait()
                return server.take(offer, 10.0).result(20)

            with ThreadPoolExecutor(2) as pool:
                said = list(pool.map(offered, servers))
            assert [answer.counts["stored"] for answer in said] == [1, 1]
            assert sorted(answer.repeated for answer in said) == [False, True]
    finally:
        for server in servers:
            server.stop()
    assert count(city) == 10
    assert accounts.discrepancies(city) == []


def test_a_commit_whose_answer_was_lost(start_api, database, city):
    """The connection breaks in the moment of the commit, which took effect; the request is answered with its own accounts."""
    intake = direct(database)
    real, lost = intake._pipeline._try, []

    def tried(*args, **options):
        written = real(*args, **options)
        if not lost:
            lost.append(written)
            raise DatabaseUnavailableError("the connection is lost")
        return written

    intake._pipeline._try = tried
    told = good(post(start_api(database, intake=intake), NO_TIME))
    assert lost
    assert ends(told) == {"received": 1, "stored": 1}
    assert count(city) == 1
    assert accounts.discrepancies(city) == []


def test_a_commit_of_which_nobody_knows(start_api, database, city, monkeypatch):
    """The database goes away in that moment, and does not come back in time: it may be there, and a second try tells."""
    intake = direct(database)
    real, away = intake._pipeline._try, [True]

    def tried(*args, **options):
        if away == ["long"]:
            raise DatabaseUnavailableError("there is no server")
        written = real(*args, **options)
        if away:
            away[:] = ["long"]
            raise DatabaseUnavailableError("the connection is lost")
        return written

    intake._pipeline._try = tried
    api = start_api(database, intake=intake)
    with monkeypatch.context() as patched:
        patched.setattr("citybeat.api.http.readings_writer.PATIENCE", 1.0)
        answer = post(api, NO_TIME, idempotency_key="the-first")
    bad(answer, 503, "outcome-unknown")
    assert answer.headers["retry-after"]
    away.clear()
    told = good(post(api, NO_TIME, idempotency_key="the-first"))
    assert told["repeated"]
    assert ends(told) == {"received": 1, "stored": 1}
    assert count(city) == 1
    assert accounts.discrepancies(city) == []


def test_what_the_database_refuses(api, city):
    """One reading of many requests that are stored together: it alone is kept out, and its own request is told."""
    city.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.value = 13 THEN RAISE 'not this one'; END IF; RETURN NEW; END $$"
    )
    city.execute("CREATE TRIGGER refuse BEFORE INSERT ON readings FOR EACH ROW EXECUTE FUNCTION refuse()")
    bodies = [
        json.dumps(
            [{"device": "env-1", "ts": MS + 10_000 * i + j, "values": {"temperature": value}} for j, value in enumerate(values)]
        )
        for i, values in enumerate([[1, 2], [3, 13, 4], [5]])
    ]

    async def all_at_once():
        transport = httpx.ASGITransport(app=api.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://citybeat.test", timeout=60) as client:
            url = "/v1/readings?source=gw-1"
            return await asyncio.gather(*(client.post(url, content=body, headers=JSON) for body in bodies))

    told = [good(answer) for answer in api._runner.run(all_at_once())]
    assert [each["ledger"]["stored"] for each in told] == [2, 2, 1]
    assert [(entry["index"], entry["reason"]) for each in told for entry in each["refused"]] == [(1, "refused_by_database")]
    assert accounts.discrepancies(city) == []


def test_what_is_refused_whole_leaves_no_trace(api, city):
    for body, kind in [
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"7", "application/json"),
        (b"", "application/json"),
        (b"\xff", "application/json"),
        (b"{}", "application/senml+json"),
        (b"\xff", "application/senml+cbor"),
        (b"", "text/csv"),
        (b"metric,value\n", "text/csv"),
        (b"metric,vlaue\na,1\n", "text/csv"),
        (b"metric,value,metric\na,1,a\n", "text/csv"),
        (b"metric,value\na,1\nb\n", "text/csv"),
        (b"time,ts,metric,value\n1,1,a,1\n", "text/csv"),
        (b"x", "application/vnd.apache.parquet"),
        (parquet(metric=["a"]), "application/vnd.apache.parquet"),
        (parquet(metric=["a"], value=[1.0], time=pa.array([0], pa.timestamp("us"))), "application/vnd.apache.parquet"),
        (parquet(metric=[1], value=[1.0]), "application/vnd.apache.parquet"),
        (parquet(metric=pa.array([], pa.string()), value=pa.array([], pa.float64())), "application/vnd.apache.parquet"),
    ]:
        bad(post(api, body, kind=kind), 422, "unreadable")
    problem = bad(post(api, b"metric,value\na,1\nb\nc,2,3\n", kind="text/csv"), 422, "unreadable")
    assert "lines do not have the header's 2 columns: 3, 4" in problem["detail"]
    for kind in ("", "application/xml", "text/plain"):
        bad(post(api, b"{}", kind=kind), 415, "unsupported-media-type")
    bad(post(api, b"{}", content_encoding="br"), 415, "unsupported-media-type")
    bad(post(api, b"{}", content_encoding="gzip"), 422, "unreadable")
    bad(post(api, gzip.compress(b"{}")[:-4], content_encoding="gzip"), 422, "unreadable")
    bad(post(api, b"[" + b" " * 1_000_001 + b"]"), 413, "content-too-large")
    bad(post(api, gzip.compress(bytes(65 * 1024 * 1024)), content_encoding="gzip", kind="text/csv"), 413, "content-too-large")
    assert [count(city, table) for table in ("readings", "quarantine", "ledger", "answers")] == [0] * 4


def parquet(**columns):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_sources_that_there_are_not(api, city):
    problem = bad(post(api, NO_TIME, source="gw-3"), 404, "not-found")
    assert "'gw-3'" in problem["detail"]
    assert "registering" in problem["detail"]
    for name in ("%3F", "a%00", "admin", "a%2Fb"):
        bad(post(api, NO_TIME, source=name), 404, "not-found")
    problem = bad(api.ask("POST", "/v1/readings", json=NO_TIME)[0], 422, "invalid-parameter")
    assert problem["errors"][0]["loc"] == ["query", "source"]
    assert count(city, "sources") == 3


def test_what_a_restricted_key_may_post_and_learn(start_api, database, city):
    key = keys.create(city, name="north", scopes=[Scope.WRITE, Scope.READ], by="test", within=Restriction(districts=["north"]))
    api = start_api(database, intake=direct(database), anonymous=frozenset())
    bad(post(api, NO_TIME), 401, "unauthorized")
    reader = keys.create(city, name="reader", scopes=[Scope.READ], by="test")
    bad(post(api, NO_TIME, x_api_key=reader), 403, "forbidden")
    hidden, none = (bad(post(api, NO_TIME, source=name, x_api_key=key), 404, "not-found") for name in ("gw-2", "gw-9"))
    assert hidden["detail"].replace("gw-2", "gw-9") == none["detail"]
    body = [{"device": name, "ts": MS, "values": {"pm25": 1}} for name in ("far-1", "nobody")]
    told = good(post(api, body, x_api_key=key))
    assert told["reasons"] == {"unknown_device": 2}
    assert [entry["detail"] for entry in told["refused"]] == ["no device 'far-1' is registered", "no device 'nobody' is registered"]
    listed = api.ask("GET", "/v1/quarantine", headers={"x-api-key": key})[0].json()
    (row,) = listed["messages"]
    assert row["reasons"] == ["unknown_device"]
    assert [entry["detail"] for entry in row["refused"]] == [entry["detail"] for entry in told["refused"]]
    shown = api.ask("GET", f"/v1/quarantine/{row['id']}", headers={"x-api-key": key})[0]
    assert "another source" not in shown.text
    by_reason = partial(api.ask, "GET", headers={"x-api-key": key})
    assert by_reason("/v1/quarantine?reason=source_mismatch")[0].json()["count"] == 0
    assert by_reason("/v1/quarantine?reason=unknown_device")[0].json()["count"] == 1
    assert api.ask("POST", "/v1/quarantine/replay", json={}, headers={"x-api-key": key})[0].status_code == 403


def test_beside_an_ingest_of_the_same_source(api, database, city):
    """Each judges by what the other stored: a step is one whoever brought the reading before it."""
    ingest = pipeline(database)

    def arrive(at, value):
        body = json.dumps({"device": "env-1", "ts": MS + 1000 * at, "values": {"temperature": value}}).encode()
        assert ingest.process([Message("city/v1/gw-1/readings", body, MS * 1000, False, 1, 1, 1)], lambda: True) is not None

    try:
        for at, value in ((0, 20.0), (120, 24.0), (240, 28.0)):
            arrive(at, value)
            good(post(api, {"device": "env-1", "ts": MS + 1000 * (at + 60), "values": {"temperature": value + 2}}))
        arrive(360, 20.0)
        flags = [row[0] & 2 for row in city.execute("SELECT flags FROM readings ORDER BY time")]
        assert flags == [0] * 6 + [2]
    finally:
        ingest.close()
    assert accounts.discrepancies(city) == []


def test_a_database_that_is_away(start_api, database, city, servers):
    name = sql.Identifier(database.rsplit("/", 1)[1])
    api = start_api(database, intake=direct(database))
    good(post(api, NO_TIME))
    with connect(servers.database_url, application="test") as server:
        server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND application_name = ANY(%s)",
            (name._obj[0], ["citybeat ingest writer", "citybeat ingest registry"]),
        )
        answer = post(api, NO_TIME)
        problem = bad(answer, 503, "not-taken")
        assert "nothing was stored" in problem["detail"]
        assert answer.headers["retry-after"]
        server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    good(post(api, NO_TIME))
    assert count(city) == 2


def test_no_room(start_api, database, city):
    """Waiting readings are bounded: while a source is locked, others' readings are refused, not kept in memory."""
    api = start_api(database, intake=direct(database, room=200, size=BatchSize(messages=1, bytes=1, linger=0)))
    good(post(api, NO_TIME))
    source = records.ensure_sources(city, ["gw-1"])["gw-1"]
    with city.transaction():
        city.execute("SELECT pg_advisory_xact_lock(1, %s)", (source,))
        url = "/v1/readings?source=gw-1"

        async def crowd():
            transport = httpx.ASGITransport(app=api.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://citybeat.test", timeout=60) as client:
                asked = [asyncio.create_task(client.post(url, json=NO_TIME)) for _ in range(30)]
                done, rest = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                early = [task.result() for task in done]
                await asyncio.to_thread(city.execute, "SELECT pg_advisory_unlock_all()")
                await asyncio.to_thread(city.execute, "ROLLBACK")
                return early + [task.result() for task in (await asyncio.wait(rest))[0]]

        said = api._runner.run(crowd())
        city.execute("BEGIN")
    by_status = {status: [answer for answer in said if answer.status_code == status] for status in (200, 503)}
    assert len(by_status[200]) + len(by_status[503]) == 30
    assert by_status[200]
    assert by_status[503]
    assert {answer.json()["type"] for answer in by_status[503]} == {"urn:citybeat:problem:not-taken"}
    assert count(city) == 1 + len(by_status[200])


def test_a_thread_that_died_is_told(start_api, database, city, caplog):
    intake = direct(database)
    intake._pipeline.process = lambda *_, **__: 1 / 0
    api = start_api(database, intake=intake)
    assert api.get("/readyz").status_code == 200
    assert post(api, NO_TIME).status_code == 500
    problem = bad(api.get("/readyz"), 503, "intake-failed")
    assert "ZeroDivisionError" in problem["detail"]
    bad(post(api, NO_TIME), 503, "not-taken")


def test_without_an_intake(start_api, database, city):
    bad(post(start_api(database), NO_TIME), 503, "not-taken")
