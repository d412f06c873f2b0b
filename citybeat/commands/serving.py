"""`citybeat api`: the application behind uvicorn, which stops when it is told to, whoever is still connected."""

import socket
from typing import Any, Final

import typer
import uvicorn

import citybeat.api.app
from citybeat import context, http_ingest
from citybeat.context import failures
from citybeat.settings import Settings

app = typer.Typer(add_completion=False)

#: s that answers under way have when the server stops; an export may take hours.
_GRACE: Final = 10
#: s that a client may take nothing of what was sent to it, after which the kernel drops the connection. uvicorn closes one only
#: when all was taken, however long that is; twice what an export waits for.
_USER_TIMEOUT: Final = 120.0


@app.command(name="api")
def serve_api() -> None:
    """Serve the HTTP API, until SIGTERM or Ctrl-C."""
    with failures():
        settings = Settings()
        context.logging_to_stderr(settings.log_level, settings.log_format)
        context.check_port("the API", settings.api_host, settings.api_port, "CITYBEAT_API_PORT")
        with context.servers(settings) as servers:
            application = citybeat.api.app.create_app(
                database_url=servers.database_url,
                catalogue=settings.load_catalogue(),
                anonymous=settings.anonymous(),
                rate=settings.api_requests_per_minute,
                intake=http_ingest.intake(settings, servers.database_url),
                replay=http_ingest.Replays(settings, servers.database_url),
                look=settings.look(),
            )
            serve(application, settings.api_host, settings.api_port)


class Server(uvicorn.Server):
    """Ends streams before it waits for answers."""

    def __init__(self, application: Any, host: str, port: int) -> None:
        super().__init__(
            uvicorn.Config(
                application, host=host, port=port, log_level="warning", log_config=None, timeout_graceful_shutdown=_GRACE
            )
        )
        self._application: Final = application

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to listen, and wait for answers under way."""
        citybeat.api.app.end_streams(self._application)
        await super().shutdown(sockets)


def serve(application: Any, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    server = Server(application, host, port)
    listener = server.config.bind_socket()
    drop_stalled(listener, _USER_TIMEOUT)
    send_at_once(listener)
    server.run(sockets=[listener])


def drop_stalled(listener: socket.socket, seconds: float) -> None:
    """Have the kernel drop connections of which the other side takes nothing for so long; they inherit it from the listener."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


def send_at_once(listener: socket.socket) -> None:
    """Have connections send what is written to them at once; they inherit it from the listener.

    asyncio does so itself only for sockets that were made for TCP by name, which uvicorn's is not: an answer's body then waited 40
    ms for the client to acknowledge its head.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
