"""The application: its routes, problems, documentation and middleware, and the lifetime of its parts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import metadata
from typing import Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.middleware.gzip import GZipMiddleware

from citybeat.api.console import files as console_files
from citybeat.api.console.settings import ConsoleSettings
from citybeat.api.files.download import DOWNLOADS, Downloads
from citybeat.api.http import openapi, problems
from citybeat.api.http.bodies import UPLOAD, BoundedBodies
from citybeat.api.http.gate import Gate
from citybeat.api.http.readings_writer import ReadingsWriter, Replay, Uploads
from citybeat.api.http.requests import Counted, Requests
from citybeat.api.live.hub import BUFFER, CONNECTIONS, STREAMS, STREAMS_EACH, Hub
from citybeat.api.routes import (
    accounts,
    catalogue,
    devices,
    export,
    ingest,
    latest,
    metrics,
    operations,
    overdue,
    quarantine,
    readings,
    registration,
    sources,
    states,
    stream,
    telemetry,
)
from citybeat.api.routes.export import MAX_SERIES
from citybeat.api.routes.service import Service
from citybeat.api.series.plan import MAX_POINTS
from citybeat.devices.catalogue import Catalogue
from citybeat.storage.db.pool import ReadPool, WritePool
from citybeat.storage.reads.export import STATEMENT
from citybeat.storage.registry.keys import Scope

#: Connections. A query of the largest allowed size takes a core of the server for some 0.1 s; with more, queries would queue there.
POOL_SIZE: Final = 10
#: Connections for changes. Each change is short, but one that waits for a source's lock must not keep the others waiting.
_WRITES: Final = 4
#: Bytes that a body may have, by path, where that is more than for a query.
_BODIES: Final = {"/v1/registry/import": UPLOAD, "/v1/readings": UPLOAD}
#: Bytes from which an answer is compressed, and the level (1-9).
_COMPRESS_FROM: Final = 16_384
_COMPRESS_LEVEL: Final = 1

#: All modules with routes, in the order of the documentation. A new module needs its import above and a line here.
_ROUTES: Final = (
    operations,
    metrics,
    catalogue,
    devices,
    registration,
    sources,
    latest,
    states,
    stream,
    telemetry,
    readings,
    ingest,
    export,
    accounts,
    quarantine,
    overdue,
)
_DESCRIPTION: Final = """\
Readings of a city's sensors, with their quality flags and the ledger of their outcomes.

* Times in queries are RFC 3339 with an offset. In answers a single time is RFC 3339, a column of times is epoch milliseconds.
* Errors are `application/problem+json` (RFC 9457), on every route, and say what to do.
* Unknown parameters are refused.
* A key is sent as `Authorization: Bearer cb_…` or `X-API-Key: cb_…`; `citybeat keys create` makes one. For a restricted key,
  everything outside its restriction is absent from lists, counts and errors.
"""


def create_app(
    *,
    database_url: str,
    catalogue: Catalogue,
    rate: int,
    pool_size: int = POOL_SIZE,
    pool_min_size: int = 1,
    max_points: int = MAX_POINTS,
    max_exports: int = DOWNLOADS,
    max_export_series: int = MAX_SERIES,
    max_streams: int = STREAMS,
    max_streams_each: int = STREAMS_EACH,
    stream_buffer: int = BUFFER,
    anonymous: frozenset[Scope] = frozenset(),
    intake: ReadingsWriter | None = None,
    replay: Replay | None = None,
    console: ConsoleSettings | None = None,
    version: str | None = None,
) -> FastAPI:
    """The API as an ASGI application. Without a database it starts too, and answers that it is not ready.

    Parameters
    ----------
    database_url : str
        postgresql://user:password@host:port/database, of the role that owns the tables.
    catalogue : Catalogue
        The city's metrics.
    rate : int
        Requests a minute of one key, or of one address without a key.
    pool_size, pool_min_size : int
        Most connections, and connections that are kept open.
    max_points : int
        Most points of one answer of /v1/series or /v1/query.
    max_exports, max_export_series : int
        Concurrent exports, each of which has a connection beside the pool's, and most series of one export.
    max_streams, max_streams_each : int
        Concurrent live streams of all keys, and of one key.
    stream_buffer : int
        Bytes that are buffered for one stream.
    anonymous : frozenset of Scope
        Scopes of a request without a key.
    intake : ReadingsWriter, optional
        Writes readings; started and stopped with the application. Without it readings are refused.
    replay : Replay, optional
        Retries quarantined messages.
    console : ConsoleSettings, optional
        Settings of the console.
    version : str, optional
        The version that /healthz and the documentation show; that of the installed distribution, unless given.
    """
    shown = version or _installed_version()
    pool = ReadPool(database_url, min_size=min(pool_min_size, pool_size), max_size=pool_size)
    export_pool = ReadPool(database_url, min_size=0, max_size=max_exports, statement_timeout=STATEMENT, name="citybeat export")

    stream_pool = ReadPool(database_url, min_size=0, max_size=CONNECTIONS, name="citybeat stream")
    writes = WritePool(database_url, max_size=_WRITES)
    requests = Requests()
    hub = Hub(stream_pool, requests, streams=max_streams, streams_each=max_streams_each, buffer=stream_buffer)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as opened:
            for each in (pool, export_pool, stream_pool, writes):
                await each.open()
                opened.push_async_callback(each.close)
            if intake is not None:
                intake.start()
                opened.push_async_callback(asyncio.to_thread, intake.stop)
            opened.push_async_callback(hub.close)
            yield

    app = FastAPIOffline(
        title="citybeat",
        version=shown,
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,  # a second documentation page would need files of its own, too
        swagger_ui_parameters={"validatorUrl": None},  # otherwise the page sends its address to a validator on the internet
    )
    app.state.service = Service(
        pool=pool,
        writes=writes,
        gate=Gate(pool, anonymous=anonymous, rate=rate),
        catalogue=catalogue,
        version=shown,
        max_points=max_points,
        requests=requests,
        export_pool=export_pool,
        downloads=Downloads(max_exports),
        max_export_series=max_export_series,
        intake=intake,
        replay=replay,
        uploads=Uploads(),
        hub=hub,
    )
    app.state.routes = _routes()
    problems.install(app)
    app.add_middleware(GZipMiddleware, minimum_size=_COMPRESS_FROM, compresslevel=_COMPRESS_LEVEL)
    app.add_middleware(BoundedBodies, limits=_BODIES)
    app.add_middleware(Counted, requests=requests)  # outermost, so that it counts what the client received, and when
    for module in _ROUTES:
        app.include_router(module.router)
    app.include_router(console_files.router(console or ConsoleSettings(), shown))
    openapi.complete(app, app.state.routes)
    return app


def end_streams(app: FastAPI) -> None:
    """End all streams: a server that waits for its answers before it stops would wait for them for ever."""
    app.state.service.hub.end_all()


def _routes() -> list[APIRoute]:
    return [route for module in _ROUTES for route in module.router.routes if isinstance(route, APIRoute)]


def _installed_version() -> str:
    try:
        return metadata.version("citybeat")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
