"""`citybeat ingest`: the ingest service in this process, and its workers as processes that the kernel ends with it."""

import logging
import os
import signal
from contextlib import closing
from multiprocessing.connection import Connection
from typing import Final

from citybeat import context, logs, stack
from citybeat.children import command
from citybeat.ingest import service, worker
from citybeat.ingest.transport.supervisor import Process
from citybeat.ingest.writing.housekeeping import Housekeeper
from citybeat.settings import Settings
from citybeat.storage.db import schema_version
from citybeat.storage.db.connection import DatabaseUnavailableError, connect
from citybeat.storage.rollups import chunks

_LOG: Final = logging.getLogger(__name__)


def run(settings: Settings, *, stats: bool) -> None:
    """Receive readings from MQTT and store them in the database, until SIGTERM or Ctrl-C.

    Raises
    ------
    SchemaError
        The schema is of another version. An unavailable database is no error: messages are spooled until it is back.
    GatewayError, PartitionError
        See `ingest.service.run`.
    """
    logs.to_stderr(settings.log_level, settings.log_format)
    stop = context.stop_on_signals()
    with context.servers(settings) as servers:
        try:
            with closing(connect(servers.database_url, application="ingest start")) as connection:
                schema_version.check(connection)
                chunks.make_ahead(connection, settings.sizing())  # before the first reading makes a chunk
        except DatabaseUnavailableError as exc:
            _LOG.warning("the database is unavailable; messages are spooled until it is back: %s", exc)
        environment = {**os.environ, "CITYBEAT_DATABASE_URL": servers.database_url}

        def spawn(line: int) -> Process:
            return stack.spawn(command("ingest-worker", str(line)), env=environment, pass_fds=[line])

        service.run(
            settings.session(servers.mqtt_url),
            settings.ingest_config(),
            spawn,
            stop,
            endpoint=(settings.ingest_host, settings.ingest_port),
            report=context.emit if stats else None,
        )


def work(settings: Settings, line: int) -> None:
    """Run a worker until its socket is closed. It ignores signals: the ingest service receives them and closes the socket."""
    logs.to_stderr(settings.log_level, settings.log_format)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    assert settings.database_url is not None
    with Connection(line) as connection:
        housekeeper = Housekeeper(settings.database_url, settings.retention(), settings.outbox(), settings.sizing())
        worker.serve(connection, settings.pipeline(settings.database_url), housekeeper)
