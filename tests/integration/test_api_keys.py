"""Keys: who comes in, for what, how often; and how they are made and ended."""

import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import sql

from citybeat.api.http.gate import EVERYTHING, Gate
from citybeat.api.http.problems import Problem
from citybeat.storage.db.connection import connect
from citybeat.storage.db.pool import ReadPool
from citybeat.storage.registry import keys
from citybeat.storage.registry.keys import ApiKeyError, Scope, Token
from citybeat.storage.registry.selection import Restriction

FORM = re.compile(r"cb_[a-z0-9]{10}_[A-Za-z0-9_-]{43}")
NOWHERE = "cb_0000000000_" + "x" * 43


@pytest.fixture
def make(connection):
    def made(*scopes, **options):
        return keys.create(connection, name="a test", scopes=scopes or [Scope.READ], by="somebody", **options)

    return made


@pytest.fixture
def closed(start_api, database):
    """The API, where nobody comes in without a key."""
    return start_api(database, anonymous=frozenset())


def ask(api, key=None, *, method="GET", url="/v1/latest", **headers):
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return api.ask(method, url, headers=headers)[0]


def test_a_key_is_shown_once_and_its_secret_is_nowhere(make, connection):
    made = make(Scope.READ)
    assert FORM.fullmatch(made)
    secret = made.split("_", 2)[2]
    (row,) = connection.execute("SELECT t::text, sha256 FROM api_keys t").fetchall()
    assert secret not in row[0]
    assert Token.parse(made).sha256 == bytes(row[1])
    (key,) = keys.listed(connection)
    assert secret not in repr(key)


def test_both_headers_are_taken(closed, make):
    made = make()
    assert ask(closed, made).status_code == 200
    assert ask(closed, **{"X-API-Key": made}).status_code == 200
    # What a proxy says of itself is not for us.
    assert ask(closed, **{"X-API-Key": made, "Authorization": "Basic dXNlcjpzZWNyZXQ="}).status_code == 200


@pytest.mark.parametrize("shown", ["", "x", NOWHERE, "cb_" + "0" * 10, "eyJhbGciOiJub25lIn0.e30."])
def test_what_is_no_key_is_refused(closed, make, shown):
    make()
    answer = ask(closed, shown)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    # A wrong secret is told as an id that does not exist.
    assert ask(closed, NOWHERE).json()["detail"] == ask(closed, make()[:-1] + "~").json()["detail"]


def test_the_secret_counts_not_only_the_id(closed, make):
    made = make()
    other = make()
    mixed = made.rsplit("_", 1)[0] if made.count("_") == 2 else "_".join(made.split("_")[:2])
    assert ask(closed, f"{mixed}_{Token.parse(other) and other.split('_', 2)[2]}").status_code == 401


def test_scopes(closed, make, connection):
    assert ask(closed).status_code == 401
    write, admin = make(Scope.WRITE), make(Scope.ADMIN)
    refused = ask(closed, write)
    assert refused.status_code == 403
    assert refused.json()["scope"] == "read"
    assert ask(closed, admin).status_code == 200


def test_open_routes_need_none(closed):
    for url in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert ask(closed, url=url).status_code == 200
    assert ask(closed, url="/metrics").status_code == 401


def test_without_a_key_as_much_as_is_set(start_api, database):
    reading = start_api(database, anonymous=frozenset({Scope.READ}))
    assert ask(reading).status_code == 200
    assert ask(reading, NOWHERE).status_code == 401  # a key that does not hold is a mistake, not nobody


def test_an_expired_key_says_so(closed, make):
    made = make(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert "expired" in ask(closed, made).json()["detail"]
    assert ask(closed, make(expires_at=datetime.now(UTC) + timedelta(hours=1))).status_code == 200


def test_a_revoked_key_is_refused_when_it_is_no_longer_believed(database, make, connection, api):
    made = make()
    now = 0.0

    async def go():
        nonlocal now
        pool = ReadPool(database, min_size=1, max_size=1)
        await pool.open()
        try:
            gate = Gate(pool, rate=6_000, clock=lambda: now)
            caller = await gate.caller(made)
            assert keys.revoke(connection, caller.id)
            assert not keys.revoke(connection, caller.id)
            now = 1.9
            assert await gate.still(caller)
            now = 2.1
            assert not await gate.still(caller)
            with pytest.raises(Problem, match="revoked"):
                await gate.caller(made)
        finally:
            await pool.close()

    api._runner.run(go())


def test_no_key_is_believed_while_the_database_is_away(start_api):
    api = start_api("postgresql://citybeat:s3cret@127.0.0.1:1/citybeat", anonymous=frozenset())
    answer = ask(api, NOWHERE)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


def test_a_scrape_comes_in_while_the_database_is_away(closed, make, servers, database):
    made = make()
    name = sql.Identifier(database.rsplit("/", 1)[1])
    assert b"citybeat_database_up 1" in ask(closed, made, url="/metrics").content
    with connect(servers.database_url, application="test") as server:
        server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'citybeat api' AND datname = %s",
            (name._obj[0],),
        )
        closed.app.state.service.gate._clock = lambda: time.monotonic() + 3600
        assert b"citybeat_database_up 0" in ask(closed, made, url="/metrics").content
        assert ask(closed, made).status_code == 503
        assert ask(closed, NOWHERE, url="/metrics").status_code == 503
        server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


def test_an_admin_key_is_not_restricted(make):
    with pytest.raises(ApiKeyError, match="cannot be restricted"):
        make(Scope.ADMIN, within=Restriction(districts=["north"]))
    with pytest.raises(ApiKeyError, match="needs a scope"):
        keys.create(None, name="", scopes=[], by="")


def test_a_restriction_comes_back_as_it_was(make, connection):
    within = Restriction(domains=["energy"], districts=None, tags=[("owner", "parks"), ("indoor", None)])
    make(within=within)
    assert keys.listed(connection)[0].within == within


def test_rates_are_by_key(start_api, database, make):
    api = start_api(database, anonymous=frozenset(EVERYTHING), rate=3)
    one, other = make(), make()
    assert [ask(api, one).status_code for _ in range(4)] == [200, 200, 200, 429]
    answer = ask(api, one)
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert answer.json()["requests_per_minute"] == 3
    assert ask(api, other).status_code == 200
    assert [ask(api).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert ask(api, url="/healthz").status_code == 200


def test_a_body_may_not_be_larger_than_its_route_takes(api):
    large = b'{"devices": {}, "from": "2026-01-01T00:00:00Z"}' + b" " * (1024 * 1024)
    json = {"content-type": "application/json"}

    async def chunks():
        for at in range(0, len(large), 65_536):
            yield large[at : at + 65_536]

    for content in (large, chunks()):
        answer = api.ask("POST", "/v1/query", content=content, headers=json)[0]
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["max_bytes"] == 1024 * 1024
    assert api.ask("POST", "/v1/query", content=large[: 1024 * 1024], headers=json)[0].status_code == 200
