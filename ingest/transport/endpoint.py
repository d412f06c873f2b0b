"""Monitoring endpoint of ingest: `/metrics`, `/healthz`, `/readyz`, by the standard library's HTTP server in a thread.

Invariant: it only shows the results of two functions, and never ends or blocks the process. It has no access control, so by default
it listens on the loopback address.
"""

import json
import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

from citybeat.devices.errors import CitybeatError

_LOG: Final = logging.getLogger(__name__)
#: s that a client may keep a connection without sending a request.
_PATIENCE: Final = 10.0
#: s within which the server notices `stop`.
_POLL: Final = 0.1
_PLAIN: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"

#: Media type and text, for a header `Accept`: `ingest.transport.metrics.Metrics.exposition`.
Exposition = Callable[[str], tuple[str, bytes]]
#: Returns the reasons why ingest is not ready, each as a sentence; empty: it is ready.
Complaints = Callable[[], list[str]]


class EndpointError(CitybeatError):
    """The endpoint cannot listen."""


class Endpoint:
    """The server, which listens from `start` to `stop`.

    Parameters
    ----------
    host, port : str, int
        Address to listen on; port 0 chooses a free one.
    metrics : callable
    ready : callable
        Both are called in the server's threads, at each request.
    """

    def __init__(self, host: str, port: int, *, metrics: Exposition, ready: Complaints) -> None:
        self._place: Final = (host, port)
        self._metrics: Final = metrics
        self._ready: Final = ready
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start listening.

        Raises
        ------
        EndpointError
            The address or port is not available; the message names the setting.
        """
        host, port = self._place
        try:
            self._server = _Server(self._place, self._metrics, self._ready)
        except OSError as exc:
            raise EndpointError(f"ingest cannot listen on {host}:{port} ({exc.strerror or exc}); set CITYBEAT_INGEST_PORT") from exc
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL,), name="endpoint", daemon=True)
        self._thread.start()
        _LOG.info("the endpoint of metrics and health is listening", extra={"host": host, "port": self.port})

    def stop(self) -> None:
        """Stop listening; a second call does nothing."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
        self._server = self._thread = None

    @property
    def port(self) -> int:
        """Port that it listens on; to be read after `start`."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, place: tuple[str, int], metrics: Exposition, ready: Complaints) -> None:
        self.metrics: Final = metrics
        self.ready: Final = ready
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        super().__init__(place, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own method resolves the host's name, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, *_: Any) -> None:
        """Log at debug level: a client that disconnected is no error."""
        _LOG.debug("a request to the endpoint failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE
    server: _Server

    def do_GET(self) -> None:
        status, media_type, body = self._answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - http.server looks for this name

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        try:
            if path == "/metrics":
                return 200, *self.server.metrics(self.headers.get("Accept", ""))
            if path == "/healthz":
                return 200, _JSON, _json({"status": "ok"})
            if path == "/readyz":
                complaints = self.server.ready()
                if complaints:
                    return 503, _JSON, _json({"status": "not ready", "complaints": complaints})
                return 200, _JSON, _json({"status": "ok", "complaints": []})
        except Exception:
            # A failure here must not end the process.
            _LOG.exception("the endpoint cannot answer", extra={"path": path})
            return 500, _PLAIN, b"internal error; see the log of ingest\n"
        return 404, _PLAIN, b"not found; this server has /metrics, /healthz and /readyz\n"

    def log_message(self, *_: Any) -> None:
        """Log nothing: a probe every second would bury everything else."""

    def version_string(self) -> str:
        """The header `Server`."""
        return "citybeat"


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
