"""Shared by all commands: the servers, a database connection, a stop signal, and one way to report failures."""

import getpass
import json
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import typer
from pydantic import ValidationError
from rich.console import Console

from citybeat import logs, stack
from citybeat.devices.device import Device
from citybeat.devices.errors import CitybeatError
from citybeat.settings import Settings
from citybeat.simulator.errors import SimulatorError
from citybeat.stack import Servers, StackError
from citybeat.storage.db import schema_version
from citybeat.storage.db.connection import Connection, connect
from citybeat.storage.registry import changes, records

#: Devices registered in one transaction, which holds the registry's lock and keeps its rows in memory.
SLICE: Final = 10_000
#: Format of times on the command line; typer takes a list.
MOMENT: Final = ["%Y-%m-%dT%H:%M:%S%z"]
#: Characters in a line of a wide table where standard output is no terminal: programs get unbroken words.
_WIDTH: Final = 200


def say(line: str) -> None:
    """Print a line for the operator on standard error; standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def wide_console() -> Console:
    """Standard output for wide tables."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH)


@contextmanager
def failures() -> Iterator[None]:
    """Turn expected errors into one line and exit status 1; any other exception is a bug and shows its traceback."""
    try:
        yield
    except ValidationError as exc:
        for error in exc.errors():
            name = "_".join(str(part) for part in error["loc"]).upper()
            say(f"citybeat: CITYBEAT_{name}={error['input']!r}: {error['msg']}")
        raise typer.Exit(1) from exc
    except (CitybeatError, StackError, SimulatorError) as exc:
        say(f"citybeat: {logs.redacted(str(exc))}")
        raise typer.Exit(1) from exc


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


@contextmanager
def servers(settings: Settings) -> Iterator[Servers]:
    """The servers that are given by URL or run already; otherwise local ones, started for as long as the command takes."""
    with stack.running(settings.for_stack(), say) as running:
        yield running


@contextmanager
def database(settings: Settings, *, application: str, migrated: bool = True) -> Iterator[Connection]:
    """A connection in autocommit mode; the schema version is checked unless `migrated` is False."""
    with servers(settings) as running, connect(running.database_url, application=application) as connection:
        if migrated:
            schema_version.check(connection)
        changes.act_as(connection, f"{getpass.getuser()} (citybeat {application})")
        yield connection


def passwords(settings: Settings, sources: Sequence[str]) -> Mapping[str, str | None]:
    """Broker passwords of sources: from CITYBEAT_CREDENTIALS if the broker is given by URL, otherwise local ones, made as needed.

    Raises
    ------
    StackError
        The local broker does not accept a new user.
    CitybeatError
        The file of credentials cannot be read, or lacks a source.
    """
    if settings.mqtt_url is None:
        return stack.credentials(settings.for_stack(), list(sources))
    if settings.credentials is None:
        return dict.fromkeys(sources)
    try:
        known = json.loads(settings.credentials.read_text("utf-8"))
        return {source: str(known[source]) for source in sources}
    except (OSError, ValueError, TypeError) as exc:
        raise CitybeatError(f"CITYBEAT_CREDENTIALS={settings.credentials}: {exc}") from exc
    except KeyError as exc:
        raise CitybeatError(f"CITYBEAT_CREDENTIALS={settings.credentials}: no password for source {exc.args[0]!r}") from exc


def register(database_url: str, devices: Sequence[Device]) -> None:
    """Register the simulator's devices on a connection of its own, in several transactions if they are many."""
    with connect(database_url, application="registration") as connection:
        changes.act_as(connection, "simulator")
        for start in range(0, len(devices), SLICE):
            records.register(connection, devices[start : start + SLICE])


def emit(progress: Mapping[str, Any]) -> None:
    """Print one JSON object on one line of standard output; `citybeat up` reads such lines of the commands it runs."""
    print(json.dumps(progress), flush=True)


def check_port(who: str, host: str, port: int, setting: str) -> None:
    """Check that a port can be listened on.

    Raises
    ------
    CitybeatError
        The port is taken or not permitted; the message names the setting.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise CitybeatError(f"{who} cannot listen on {host}:{port} ({exc.strerror}); set {setting}") from exc
