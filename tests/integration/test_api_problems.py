"""One error shape on every route, whatever goes wrong; and the service comes back by itself."""

import time

import pytest
from psycopg import sql

from citybeat.api.http.openapi import ProblemDetails
from citybeat.storage.db.connection import connect

#: Each route with a request that would succeed, had the device a sensor; and one of its parameters with a value that is wrong.
ROUTES = {
    "/healthz": ("/healthz", None),
    "/readyz": ("/readyz", None),
    "/v1/catalogue": ("/v1/catalogue", "domain=weather"),
    "/v1/devices": ("/v1/devices", "limit=0"),
    "/v1/devices/{device}": ("/v1/devices/env-1", None),
    "/v1/devices/{device}/history": ("/v1/devices/env-1/history", "cursor=WyJhIl0"),
    "/v1/sources": ("/v1/sources", "limit=0"),
    "/v1/latest": ("/v1/latest", "cursor=bm9uc2Vuc2U"),
    "/v1/states": ("/v1/states", "limit=0"),
    "/v1/stream": ("/v1/stream", "last_event_id=nonsense"),
    "/v1/series": ("/v1/series?device=env-1&metric=temperature&from=2026-01-01T00:00:00Z", "bucket=2m"),
    "/v1/export": ("/v1/export?from=2026-01-01T00:00:00Z", "level=2m"),
    "/v1/readings": ("/v1/readings", "near=1,2"),
    "/v1/readings/nearest": ("/v1/readings/nearest?at=2026-01-01T00:00:00Z", "bbox=1,2,3,x"),
    "/v1/ledger": ("/v1/ledger", "from=2026-01-01T00:00:00"),
    "/v1/quarantine": ("/v1/quarantine", "reason=bad_luck"),
    "/v1/quarantine/{id}": ("/v1/quarantine/1", None),
    "/v1/liveness": ("/v1/liveness", "stale=perhaps"),
}
#: What is asked by POST, with a body that would succeed.
POSTS = {
    "/v1/query": {"devices": {}, "from": "2026-01-01T00:00:00Z"},
    "/v1/quarantine/replay": {"from": "2026-01-01T00:00:00Z"},
}
#: Changes of the registry, each with a body that would succeed, had the device a sensor; {}: none is needed.
CHANGES = {
    "POST /v1/devices": ("/v1/devices", {"id": "env-9", "source": "gw", "domain": "environment"}),
    "PATCH /v1/devices/{device}": ("/v1/devices/env-1", {"name": "x"}),
    "PUT /v1/devices/{device}/sensors/{metric}": ("/v1/devices/env-1/sensors/temperature", {"high": 50.0}),
    "POST /v1/devices/{device}/sensors/{metric}/calibrations": (
        "/v1/devices/env-1/sensors/temperature/calibrations",
        {"offset": 1.0},
    ),
    "PATCH /v1/sources/{source}": ("/v1/sources/gw-1", {"conflict_policy": "keep"}),
}
#: Methods of an address, where it has more than GET.
ALLOWED = {
    "/v1/devices": "GET, POST",
    "/v1/devices/env-1": "DELETE, GET, PATCH",
    "/v1/readings": "GET, POST",
}
#: Readings are posted to a route that is asked, too: tests/integration/test_api_posting.py has what can go wrong there.
DATA = [url for url, _ in ROUTES.values() if url.startswith("/v1") and url != "/v1/catalogue"]
#: Those of POSTS that ask the database themselves.
ASKED = {"/v1/query": POSTS["/v1/query"]}


def check(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    ProblemDetails.model_validate(problem)
    assert problem["status"] == status
    assert problem["type"].startswith("urn:citybeat:problem:")
    assert problem["title"]
    assert problem["detail"]
    assert ("errors" in problem) == (status == 422)
    return problem


def test_every_route_is_tested_here(api):
    changed = {path for _, path in (change.split() for change in CHANGES)}
    # A file of devices, and what takes no body: tests/integration/test_api_registration.py.
    assert set(api.app.openapi()["paths"]) == {*ROUTES, *POSTS, *changed, "/v1/registry/import"}


@pytest.mark.parametrize(("url", "wrong"), ROUTES.values())
def test_wrong_requests(api, url, wrong):
    answer = api.ask("OPTIONS", url)[0]
    check(answer, 405)
    assert answer.headers["allow"] == ALLOWED.get(url, "GET")
    check(api.get("/nothing" + url), 404)
    if wrong:
        name = wrong.split("=")[0]
        # For /v1/series the parameter stands there already, and for all others it is the only one.
        problem = check(api.ask("GET", f"{url}{'&' if '?' in url else '?'}{wrong}")[0], 422)
        assert problem["errors"][0]["loc"] == ["query", name]
        assert name in problem["detail"]
        problem = check(api.ask("GET", f"{url}{'&' if '?' in url else '?'}devcie=x")[0], 422)
        assert problem["errors"][0] == {"loc": ["query", "devcie"], "msg": "there is no such parameter", "type": "extra_forbidden"}


@pytest.mark.parametrize(("url", "body"), POSTS.items())
def test_wrong_bodies(api, url, body):
    answer = api.ask("GET", url)[0]
    check(answer, 405)
    assert answer.headers["allow"] == "POST"
    problem = check(api.ask("POST", url, json=body | {"devcies": 1})[0], 422)
    assert problem["errors"][0] == {"loc": ["body", "devcies"], "msg": "there is no such parameter", "type": "extra_forbidden"}
    for wrong in (b"", b"[]", b"{", b"null", b'{"from": 1}', b'{"devices": 7, "from": 1}'):
        check(api.ask("POST", url, content=wrong, headers={"content-type": "application/json"})[0], 422)
    check(api.ask("POST", url, content=b"\xff", headers={"content-type": "application/json"})[0], 400)


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_changes(api, change):
    method, _ = change.split()
    url, body = CHANGES[change]
    problem = check(api.ask(method, url, json=body | {"devcies": 1})[0], 422)
    assert problem["errors"][0] == {"loc": ["body", "devcies"], "msg": "there is no such parameter", "type": "extra_forbidden"}
    for wrong in (b"", b"[]", b"{", b"null", b'{"name": 1, "high": "1", "offset": "1", "id": "", "conflict_policy": "x"}'):
        check(api.ask(method, url, content=wrong, headers={"content-type": "application/json"})[0], 422)
    check(api.ask(method, url, content=b"\xff", headers={"content-type": "application/json"})[0], 400)


@pytest.mark.parametrize(
    "start", ["2026-01-01", "2026-01-01T00:00:00", "1767225600000", "2026-02-30T00:00:00Z", "2026-01-01T00:00:00+25:00"]
)
def test_times_that_are_none(api, start):
    problem = check(api.get("/v1/series", device="d", metric="temperature", **{"from": start}), 422)
    assert problem["errors"][0]["loc"] == ["query", "from"]


@pytest.mark.parametrize(
    ("url", "parameters", "status"),
    [
        ("/v1/devices/nobody", {}, 404),
        ("/v1/devices/a%00b", {}, 422),
        ("/v1/devices", {"district": "a\0b"}, 422),
        ("/v1/series", {"device": "nobody", "metric": "temperature", "from": "2026-01-01T00:00:00Z"}, 404),
        ("/v1/series", {"device": "d", "metric": "temperature"}, 422),
        ("/v1/series", {"device": "d", "metric": "t", "from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, 422),
        ("/v1/series", {"device": "d", "metric": "t", "from": "2026-01-02T00:00:00Z", "bucket": "raw", "aggregates": "mean"}, 422),
        ("/v1/series", {"device": "d", "metric": "t", "from": "2026-01-02T00:00:00Z", "aggregates": "median"}, 422),
        ("/v1/latest", {"metric": "temprature"}, 422),
        ("/v1/latest", {"cursor": "WzFd"}, 422),
        ("/v1/export", {}, 422),
        ("/v1/export", {"from": "2026-01-02T00:00:00Z", "to": "2026-01-02T00:00:00Z"}, 422),
        ("/v1/export", {"from": "2026-01-02T00:00:00Z", "metric": "temprature"}, 422),
        ("/v1/export", {"from": "2026-01-02T00:00:00Z", "format": "xlsx"}, 422),
        ("/v1/ledger", {"cursor": "WzkyMjMzNzIwMzY4NTQ3NzU4MDcsImEiXQ"}, 422),
        ("/v1/ledger", {"from": "2026-01-02T00:00:00Z", "to": "2026-01-02T00:00:00Z"}, 422),
    ],
)
def test_what_only_the_route_can_judge(api, url, parameters, status):
    check(api.get(url, **parameters), status)


def test_a_mistake_of_ours_tells_nothing_of_our_insides(api, connection, caplog):
    connection.execute("ALTER TABLE devices RENAME TO gone")
    connection.execute("DROP FUNCTION selected_devices, selected_series CASCADE")
    connection.execute("ALTER TABLE series RENAME TO gone_too")
    connection.execute("ALTER TABLE ledger RENAME TO gone_as_well")
    connection.execute("ALTER TABLE quarantine RENAME TO and_that")
    for answer in [*api.ask("GET", *DATA), *(api.ask("POST", url, json=body)[0] for url, body in ASKED.items())]:
        check(answer, 500)
        for inside in ("relation", "psycopg", "SELECT", "Traceback", "devices d"):
            assert inside not in answer.text


def test_without_a_database_it_starts_and_says_so(start_api, caplog):
    api = start_api("postgresql://citybeat:s3cret@127.0.0.1:1/citybeat")
    assert api.get("/healthz").status_code == 200
    assert api.get("/v1/catalogue").status_code == 200
    assert api.get("/docs").status_code == 200
    for answer in api.ask("GET", "/readyz", *DATA):
        problem = check(answer, 503)
        assert problem["type"] == "urn:citybeat:problem:database-unavailable"
        assert answer.headers["retry-after"]
        assert "127.0.0.1" not in answer.text
    assert "s3cret" not in caplog.text


def test_it_comes_back_with_the_database(start_api, servers, database):
    """New connections are refused and old ones cut, as when the server restarts."""
    name = sql.Identifier(database.rsplit("/", 1)[1])
    api = start_api(database)
    assert api.get("/v1/latest").status_code == 200
    with connect(servers.database_url, application="test") as server:
        server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'citybeat api' AND datname = %s",
            (name._obj[0],),
        )
        check(api.get("/v1/latest"), 503)
        check(api.get("/readyz"), 503)
        server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    deadline = time.monotonic() + 10
    while api.get("/v1/latest").status_code != 200:
        assert time.monotonic() < deadline
    assert api.get("/readyz").status_code == 200


def test_a_query_that_takes_too_long(api, database):
    from citybeat.storage.db.pool import QueryTimeoutError, ReadPool  # noqa: PLC0415

    async def slow():
        pool = ReadPool(database, min_size=1, max_size=1, statement_timeout=0.05)
        await pool.open()
        try:
            with pytest.raises(QueryTimeoutError):
                async with pool.cursor() as cursor:
                    await cursor.execute("SELECT pg_sleep(5)")
        finally:
            await pool.close()

    api._runner.run(slow())
