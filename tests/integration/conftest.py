"""`database`: a fresh, migrated database for each test, copied from a template in some 50 ms.

The template is made once for each schema, catalogue and TimescaleDB version, by whichever worker comes first (an advisory lock
keeps the others waiting), and stays in the server for the next run. Nobody may connect to it: CREATE DATABASE … TEMPLATE waits
5 s and fails while anybody is connected, and TimescaleDB's launcher leaves a database alone that is a template.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Any, LiteralString
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import httpx
import numpy as np
import psycopg
import pytest
from fastapi import FastAPI
from psycopg import sql

from citybeat import stack
from citybeat.api.app import create_app
from citybeat.api.http.gate import EVERYTHING
from citybeat.devices.batch import MINUTE, NEVER, Batch
from citybeat.devices.catalogue import builtin
from citybeat.storage import migrate
from citybeat.storage.batches.rows import NEW, Tally
from citybeat.storage.batches.writer import BatchWriter
from citybeat.storage.db import schema_version
from citybeat.storage.db.connection import Connection, connect
from citybeat.storage.registry import records

#: One reading for `fill`: device, metric, us since 1970 UTC, value, flags.
Row = tuple[str, str, int, float, int]
Fill = Callable[..., None]
FillInto = Callable[..., None]
#: Days a chunk, as citybeat's settings have them.
CHUNK_DAYS = {"readings": 7.0, "readings_1m": 30.0, "readings_15m": 365.0}
#: Key of the advisory lock on making the template: any fixed number.
_LOCK = 0x74656D70
#: s. A background worker that starts in the moment of copying is gone long before.
_PATIENCE = 20.0


@pytest.fixture(scope="session")
def template(servers: stack.Servers) -> str:
    """Name of a migrated database that is there to be copied."""
    with closing(connect(servers.database_url, application="test template")) as connection:
        name = f"citybeat_template_{_fingerprint(connection)}"
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        if not connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).rowcount:
            _make_template(connection, servers.database_url, name)
    return name


@pytest.fixture
def database(servers: stack.Servers, template: str) -> Iterator[str]:
    """URL of an empty, migrated database for one test; dropped afterwards, with any connections to it."""
    with _fresh(servers, template) as url:
        yield url


@pytest.fixture(scope="module")
def shared_database(servers: stack.Servers, template: str) -> Iterator[str]:
    """As `database`, for a whole module of tests that only read."""
    with _fresh(servers, template) as url:
        yield url


@pytest.fixture
def other_database(servers: stack.Servers, template: str) -> Iterator[str]:
    """As `database`, for tests that compare two."""
    with _fresh(servers, template) as url:
        yield url


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    """A connection to the test's database, in autocommit mode."""
    with closing(connect(database, application="test")) as made:
        yield made


@pytest.fixture
def fill(database: str, connection: Connection, fill_into: FillInto) -> Fill:
    """Store readings of registered devices as ingest does, in one batch: raw, rollup, latest and ledger.

    `fill(rows, received_at=us)`: one minute of receipt for all of them.
    """
    return partial(fill_into, database, connection)


@pytest.fixture(scope="session")
def fill_into() -> FillInto:
    """The same of any database, and a connection to it."""

    def do(database: str, connection: Connection, rows: Sequence[Row], *, received_at: int) -> None:
        known = records.load(connection, builtin())
        device, metric, times, values, flags = zip(*rows, strict=True)
        series = np.array([known.series[key] for key in zip(device, metric, strict=True)], np.int32)
        time = np.array(times, np.int64)
        order = np.lexsort((time, series))
        batch = Batch(
            time=time[order],
            received_at=np.full(len(rows), received_at, np.int64),
            series=series[order],
            value=np.array(values, np.float64)[order],
            flags=np.array(flags, np.int16)[order],
            message=np.zeros(len(rows), np.int32),
            index=np.arange(len(rows), dtype=np.int32)[order],
        )
        owner = known.owner[batch.series]
        with closing(BatchWriter(database, quarantine_quota=1_000_000)) as store:
            newest = store.history(int(series.max()) + 1)["time"]
            with store.batch(uuid4(), sorted(set(owner.tolist()))) as transaction:
                new = transaction.insert(batch, newest).outcome == NEW
                transaction.merge_rollups(batch.take(new), known.kind, newest)
                transaction.merge_latest(batch.take(new), np.full(int(new.sum()), NEVER, np.int64), newest)
                tallies = [
                    Tally(
                        minute=received_at // MINUTE * MINUTE,
                        source=source,
                        messages=1,
                        received=int((owner == source).sum()),
                        stored=int(((owner == source) & new).sum()),
                        duplicate=int(((owner == source) & ~new).sum()),
                    )
                    for source in sorted(set(owner.tolist()))
                ]
                transaction.add_ledger(tallies, {})

    return do


class Api:
    """The API's application, its lifespan entered, asked over ASGI from a test that is not async."""

    def __init__(self, runner: asyncio.Runner, app: FastAPI) -> None:
        self.app = app
        self._runner = runner

    def ask(self, method: str, *urls: str, **options: Any) -> list[httpx.Response]:
        """Answers to these requests, sent at the same time."""

        async def send() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://citybeat.test", timeout=60) as client:
                return await asyncio.gather(*(client.request(method, url, **options) for url in urls))

        return self._runner.run(send())

    def get(self, url: str, **parameters: Any) -> httpx.Response:
        """The answer to one GET."""
        return self.ask("GET", url, params=parameters or None)[0]


@pytest.fixture
def start_api(database: str) -> Iterator[Callable[..., Api]]:
    """`start_api(url, max_points=…)`: an application for a database that need not be there.

    It asks for `database` only to be closed before that is dropped.
    """
    with asyncio.Runner() as runner, ExitStack() as stack:

        def start(url: str, **options: Any) -> Api:
            app = create_app(database_url=url, catalogue=builtin(), **({"anonymous": EVERYTHING, "rate": 6_000} | options))
            lifespan = app.router.lifespan_context(app)
            runner.run(lifespan.__aenter__())
            stack.callback(lambda: runner.run(lifespan.__aexit__(None, None, None)))
            return Api(runner, app)

        yield start


@pytest.fixture
def api(start_api: Callable[..., Api], database: str) -> Api:
    """The API on the test's database."""
    return start_api(database)


@contextmanager
def _fresh(servers: stack.Servers, template: str) -> Iterator[str]:
    name = f"citybeat_test_{uuid4().hex}"
    with closing(connect(servers.database_url, application="test")) as connection:
        _copy(connection, template, name)
    yield _url(servers.database_url, name)
    with closing(connect(servers.database_url, application="test")) as connection:
        _drop(connection, name)


def _make_template(connection: Connection, url: str, name: str) -> None:
    draft = f"{name}_draft"
    _execute(connection, "ALTER DATABASE {} IS_TEMPLATE false", draft, missing_ok=True)  # of a run that was killed here
    _drop(connection, draft)
    _execute(connection, "CREATE DATABASE {}", draft)
    with closing(connect(_url(url, draft), application="test template")) as made:
        migrate.migrate(made, builtin(), chunk_days=CHUNK_DAYS)
    _execute(connection, "ALTER DATABASE {} ALLOW_CONNECTIONS false", draft)
    _execute(connection, "ALTER DATABASE {} IS_TEMPLATE true", draft)
    # Last: TimescaleDB ends its workers in a database that is renamed (only a superuser can end them otherwise, and they do not
    # come back to a template), and no other worker finds a template that is not finished.
    connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(draft), sql.Identifier(name)))


def _copy(connection: Connection, template: str, name: str) -> None:
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute(statement)
        except psycopg.errors.ObjectInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _drop(connection: Connection, name: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            _execute(connection, "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
        except psycopg.errors.InsufficientPrivilege:
            # An autovacuum or TimescaleDB worker is there for a moment; only a superuser could end it.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _execute(connection: Connection, statement: LiteralString, name: str, *, missing_ok: bool = False) -> None:
    with suppress(*[psycopg.errors.InvalidCatalogName] if missing_ok else []):
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


def _fingerprint(connection: Connection) -> str:
    """Hash everything that the template's content depends on."""
    row = connection.execute("SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone()
    scripts = [*schema_version.migrations(), *schema_version.repeatables()]
    made_of = [row, sorted(CHUNK_DAYS.items()), [script.checksum for script in scripts], sorted(builtin().items())]
    return hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]


def _url(url: str, database: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{database}"))
