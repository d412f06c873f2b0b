"""`citybeat api`: serves the API with uvicorn, and stops in bounded time even while clients are connected."""

import socket
from typing import Any, Final

import typer
import uvicorn

import citybeat.api.app
from citybeat import context, http_ingest, logs
from citybeat.context import failures
from citybeat.settings import Settings

app = typer.Typer(add_completion=False)

#: s for responses under way to finish when the server stops; an export may take hours.
_GRACE: Final = 10
#: s without a TCP acknowledgement from the client after which the kernel drops its connection: twice what an export waits.
#: uvicorn by itself closes a connection only when all data were acknowledged, however long that takes.
_USER_TIMEOUT: Final = 120.0


@app.command(name="api")
def serve_api() -> None:
    """Serve the HTTP API and the console, until SIGTERM or Ctrl-C."""
    with failures():
        settings = Settings()
        logs.to_stderr(settings.log_level, settings.log_format)
        context.check_port("the API", settings.api_host, settings.api_port, "CITYBEAT_API_PORT")
        with context.servers(settings) as servers:
            application = citybeat.api.app.create_app(
                database_url=servers.database_url,
                catalogue=settings.load_catalogue(),
                anonymous=settings.anonymous(),
                rate=settings.api_requests_per_minute,
                intake=http_ingest.intake(settings, servers.database_url),
                replay=http_ingest.Replays(settings, servers.database_url),
                console=settings.console(),
            )
            serve(application, settings.api_host, settings.api_port)


class Server(uvicorn.Server):
    """A uvicorn server that ends streams before it waits for other responses."""

    def __init__(self, application: Any, host: str, port: int) -> None:
        super().__init__(
            uvicorn.Config(
                application, host=host, port=port, log_level="warning", log_config=None, timeout_graceful_shutdown=_GRACE
            )
        )
        self._application: Final = application

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, end streams, and wait for responses under way."""
        citybeat.api.app.end_streams(self._application)
        await super().shutdown(sockets)


def serve(application: Any, host: str, port: int) -> None:
    """Serve an ASGI application until SIGTERM or Ctrl-C."""
    server = Server(application, host, port)
    listener = server.config.bind_socket()
    drop_stalled(listener, _USER_TIMEOUT)
    send_at_once(listener)
    server.run(sockets=[listener])


def drop_stalled(listener: socket.socket, seconds: float) -> None:
    """Have the kernel drop connections whose peer acknowledges nothing for `seconds`; they inherit it from the listener."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


def send_at_once(listener: socket.socket) -> None:
    """Turn Nagle's algorithm off for connections, which inherit it from the listener.

    asyncio does so only for sockets created with the protocol number of TCP, which uvicorn's is not: a response's body then waited
    40 ms for the client to acknowledge the headers.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
