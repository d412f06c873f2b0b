"""Metrics of this process's requests, counted by a middleware.

Labels are routes, not paths, so that no client can create ever more time series.
"""

import asyncio
import time
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: s, from an answer out of memory to the longest that a statement may take.
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
#: A client may invent methods as well as paths.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER: Final = "other"

# A second time series for each counter would say when it began; rate() does not need it.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library types all but this


class Requests:
    """Metrics of requests and streams, in `registry`. One for each application."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        #: Held by a scrape while it reads from the database, so that only one does at a time.
        self.turn: Final = asyncio.Lock()
        self._count: Final = Counter(
            "citybeat_http_requests", "Requests that were answered.", ["method", "route", "status"], registry=self.registry
        )
        self._duration: Final = Histogram(
            "citybeat_http_request_duration_seconds",
            "From a request to the last byte of its answer.",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )

        self.streams: Final = Gauge("citybeat_http_streams", "Live streams that are open.", registry=self.registry)
        self.ended: Final = Counter(
            "citybeat_http_streams_ended", "Live streams that ended, by reason.", ["reason"], registry=self.registry
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer. `route` is a template such as /v1/devices/{device}."""
        method = method if method in _METHODS else _OTHER
        self._count.labels(method, route, str(status)).inc()
        self._duration.labels(method, route).observe(seconds)


class Counted:
    """ASGI middleware that counts each request when it is answered; one that failed before an answer began counts as status 500."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app: Final = app
        self._requests: Final = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        began = time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._requests.answered(scope["method"], _template(scope), status, time.perf_counter() - began)


def _template(scope: Scope) -> str:
    """The path of the route that took the request."""
    route = scope.get("route")
    return str(getattr(route, "path", _OTHER)) if isinstance(route, BaseRoute) else _OTHER
