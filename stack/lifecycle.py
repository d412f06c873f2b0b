"""Starts, uses and stops the servers of one home, for all flavours.

Invariants: a process that changes a home holds its lock. Once started, only the supervisor starts and stops servers; the functions
here send it signals, and check that the servers answer.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from citybeat.stack import docker, local, lock, mosquitto, postgres
from citybeat.stack.errors import CredentialsError, ServerFailedError, SettingsConflictError
from citybeat.stack.model import MOSQUITTO, PORT_SETTINGS, TIMESCALEDB, Home, Say, Servers, ServerStatus, StackSettings
from citybeat.stack.passwords import Passwords, check_source_names
from citybeat.stack.plan import Plan, Report
from citybeat.stack.probe import Readiness
from citybeat.stack.process import LOOPBACK, identify, is_alive, send
from citybeat.stack.sandbox import Kind, Sandbox

# Seconds within which a server has to answer. After a crash PostgreSQL first replays at most max_wal_size (4 GB) of log.
START_TIMEOUT = 120.0
RELOAD_TIMEOUT = 10.0  # seconds for the broker to read new users; it does so within one turn of its loop
STEP = 0.02  # seconds between checks
WAITING = "waiting for another citybeat process that starts or stops the servers of this home"


def up(settings: StackSettings, say: Say = print) -> Servers:
    """Start the servers unless they are running, and leave them running when this process ends.

    Parameters
    ----------
    settings
        Servers to run, and their home.
    say
        Called with a line about each step that takes long.

    Raises
    ------
    StackError
        Any subclass: a port is taken, a tool is missing, a server did not start, the servers run with other settings.
    """
    if not settings.wanted():
        return _given(settings)
    home = _made(settings)
    with lock.exclusive(home.run / "lock", say, WAITING):
        servers = _ensure(settings, home, say)
        home.keep.touch()
        return servers


@contextlib.contextmanager
def running(settings: StackSettings, say: Say = print, *, force: Kind | None = None) -> Iterator[Servers]:
    """Run the servers until the block is left or this process ends.

    Servers that are running already are used, and left running while other processes use them or if `up` started them. Otherwise
    they are started, and the last user stops them. A user that is killed is noticed within a fraction of a second.

    Parameters
    ----------
    settings, say
        As for `up`.
    force
        Use this kind of sandbox; for tests of the fallback.

    Raises
    ------
    StackError
        As for `up`.
    """
    if not settings.wanted():
        yield _given(settings)
        return
    home = _made(settings)
    with lock.exclusive(home.run / "lock", say, WAITING):
        if _live(home) is None:
            home.keep.unlink(missing_ok=True)  # left by servers that a reboot ended
        lock.register_use(home.users)
        try:
            servers = _ensure(settings, home, say, force)
        except BaseException:
            lock.release_use(home.users)
            raise
    try:
        yield servers
    finally:
        with lock.exclusive(home.run / "lock"):
            if lock.release_use(home.users) and not home.keep.exists():
                _stop(home)


def down(settings: StackSettings) -> None:
    """Stop the servers gracefully, even while they are used; does nothing if they are not running."""
    home = Home.of(settings)
    if not home.run.exists():
        return
    with lock.exclusive(home.run / "lock"):
        home.keep.unlink(missing_ok=True)
        _stop(home)


def reset(settings: StackSettings) -> None:
    """Stop the servers and delete their data. The root and all passwords stay, so that gateways need no new ones."""
    home = Home.of(settings)
    down(settings)
    if not home.run.exists():
        return
    with lock.exclusive(home.run / "lock"):
        if _kind_of_data(home) == "docker":
            docker.delete_data(home)
        local.delete_data(home)
        home.plan.unlink(missing_ok=True)


def status(settings: StackSettings) -> list[ServerStatus]:
    """Return the state of each server. The ports in the settings need not be those that it runs with."""
    home = Home.of(settings)
    report = Report.load(home.state)
    return [_status_of(name, settings, home, report) for name in (TIMESCALEDB, MOSQUITTO)]


def credentials(settings: StackSettings, names: Sequence[str]) -> dict[str, str]:
    """Return the broker passwords of sources, and create missing ones.

    Parameters
    ----------
    settings
        The home's settings.
    names
        Names of sources.

    Returns
    -------
    dict
        Passwords by name. A running broker accepts them by the time this returns.

    Raises
    ------
    CredentialsError
        A name cannot be a source, or the broker is given by URL, so that its users are administered elsewhere.
    ServerFailedError
        The running broker does not accept the passwords.
    """
    check_source_names(names)
    if settings.mqtt_url is not None:
        raise CredentialsError("the broker at CITYBEAT_MQTT_URL is not run by citybeat: create its users where it is administered")
    home = _made(settings)
    with lock.exclusive(home.run / "lock"):
        passwords = local.load_passwords(home)
        added = passwords.add(broker=names)
        report = _live(home)
        if added and report is not None and MOSQUITTO in report.ports:
            _reload_broker(home, report, passwords, names)
        return {name: passwords.broker[name] for name in names}


def _given(settings: StackSettings) -> Servers:
    return Servers(database_url=settings.database_url or "", mqtt_url=settings.mqtt_url or "", kind="given")


def _made(settings: StackSettings) -> Home:
    home = Home.of(settings)
    home.make()
    return home


def _live(home: Home) -> Report | None:
    report = Report.load(home.state)
    return report if report is not None and is_alive(report.supervisor) else None


def _kind_of_data(home: Home) -> str | None:
    return Plan.load(home.plan).kind if home.plan.exists() else None


def _ensure(settings: StackSettings, home: Home, say: Say, force: Kind | None = None) -> Servers:
    report = _live(home)
    if report is not None:
        _check_same(settings, report)
        _revive(home, report)
        _await_servers(home, Passwords(home.credentials), report.ports)
    else:
        report = _start(settings, home, say, force)
    passwords = Passwords(home.credentials)
    return Servers(
        database_url=settings.database_url or postgres.url(passwords, report.ports[TIMESCALEDB]),
        mqtt_url=settings.mqtt_url or mosquitto.url(passwords, report.ports[MOSQUITTO]),
        kind=report.kind,
    )


def _start(settings: StackSettings, home: Home, say: Say, force: Kind | None) -> Report:
    left = Report.load(home.state)
    if left is not None:
        _clear(home, left)
    # A home keeps the flavour that its data were created with; otherwise they would seem to vanish.
    flavour = settings.flavour if settings.flavour != "auto" else _kind_of_data(home)
    if flavour == "docker" or (flavour is None and docker.engine_answers()):
        asked = {TIMESCALEDB: settings.pg_port, MOSQUITTO: settings.mqtt_port}
        ports = {name: local.check_port(name, asked[name]) for name in settings.wanted()}
        plan, build = docker.prepare(settings, home, local.load_passwords(home), ports), None
    else:
        plan, build = local.prepare(settings, home, say, force)
    plan.save(home.plan)
    for name in (*plan.ports, "supervisor"):
        local.trim_log(home.log(name))
    if plan.kind == "docker":
        say("starting the servers with Docker")
        docker.start(home, list(plan.ports))
    try:
        report = _await_report(home, _launch_supervisor(home))
        passwords = Passwords(home.credentials)
        _await_servers(home, passwords, plan.ports)
        if build is not None and plan.sandbox is not None and TIMESCALEDB in plan.ports:
            box = Sandbox(**plan.sandbox)  # type: ignore[arg-type]  # its kind was written by us
            postgres.set_up(home, box, passwords, plan.ports[TIMESCALEDB], build)
    except BaseException:
        _stop(home)
        raise
    return report


def _launch_supervisor(home: Home) -> int:
    # The supervisor ends when the servers have no users, but needs the home's lock for that, which the caller holds.
    # Its interpreter may not find this package by itself (`python3 -m citybeat.stack` in a checkout), so the package's folder is
    # named; -P keeps modules of the current folder out.
    folder = str(Path(__file__).parents[2])
    inherited = os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, inherited] if inherited else [folder])}
    with home.log("supervisor").open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "citybeat.stack.supervisor", str(home.path)],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            check=False,
        )
    if done.returncode != 0:
        raise ServerFailedError(f"the supervisor did not start:\n{local.tail(home.log('supervisor'))}")
    return int(done.stdout)


def _await_report(home: Home, supervisor: int) -> Report:
    while identify(supervisor) is not None:
        report = _live(home)
        if report is not None:
            return report
        time.sleep(STEP)
    raise ServerFailedError(f"the supervisor did not start:\n{local.tail(home.log('supervisor'))}")


def _await_servers(home: Home, passwords: Passwords, ports: dict[str, int]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    for name, port in ports.items():
        while True:
            ready = postgres.ready(port) if name == TIMESCALEDB else mosquitto.ready(passwords, port)
            report = _live(home)  # read after the answer, to be sure that the supervisor's server gave it
            if report is None:
                raise ServerFailedError(f"the supervisor ended:\n{local.tail(home.log('supervisor'))}")
            server = report.servers.get(name)
            if server is not None and not local.still_runs(report, name):
                log = home.log(name)
                raise ServerFailedError(f"{name} ended; the end of {log}:\n{local.tail(log, server.log_from)}")
            if ready is Readiness.READY:
                break
            if time.monotonic() > deadline:
                log = home.log(name)
                raise ServerFailedError(f"{name} did not answer within {START_TIMEOUT:.0f} s; the end of {log}:\n{local.tail(log)}")
            time.sleep(STEP)


def _check_same(settings: StackSettings, report: Report) -> None:
    asked = {TIMESCALEDB: settings.pg_port, MOSQUITTO: settings.mqtt_port}
    for name in settings.wanted():
        port = report.ports.get(name)
        if port is None:
            raise SettingsConflictError(
                f"the servers of this home run without {name}, because its URL was given: `citybeat stack down` first"
            )
        if asked[name] not in {0, port}:
            raise SettingsConflictError(
                f"the servers of this home already run with {name} on port {port}, not {asked[name]}: set "
                f"{PORT_SETTINGS[name]}={port}, or `citybeat stack down` first, or use another CITYBEAT_HOME"
            )


def _revive(home: Home, report: Report) -> None:
    crashed = [name for name in report.servers if not local.still_runs(report, name)]
    if not crashed:
        return
    for name in crashed:
        local.check_port(name, report.ports[name])
    send(report.supervisor, signal.SIGHUP)
    deadline = time.monotonic() + START_TIMEOUT
    old = {name: report.servers[name].process for name in crashed}
    while time.monotonic() < deadline:
        now = _live(home)
        if now is None or all(now.servers[name].process != old[name] for name in crashed):
            return  # the caller checks whether they answer
        time.sleep(STEP)


def _reload_broker(home: Home, report: Report, passwords: Passwords, names: Sequence[str]) -> None:
    plan = Plan.load(home.plan)
    box = Sandbox(**plan.sandbox) if plan.sandbox is not None else None  # type: ignore[arg-type]
    mosquitto.write_users(home, box, passwords)
    if report.kind == "docker":
        docker.reload_users(home)
    elif not send(report.servers[MOSQUITTO].process, signal.SIGHUP):
        return  # the broker has crashed, and reads the file when it starts again
    deadline = time.monotonic() + RELOAD_TIMEOUT
    for name in names:
        while mosquitto.ready(passwords, report.ports[MOSQUITTO], name) is not Readiness.READY:
            if time.monotonic() > deadline:
                raise ServerFailedError(
                    f"the broker does not accept {name}; the end of its log:\n{local.tail(home.log(MOSQUITTO))}"
                )
            time.sleep(STEP)


def _stop(home: Home) -> None:
    report = Report.load(home.state)
    if report is None:
        return
    if is_alive(report.supervisor):
        local.stop_supervisor(report)
    _clear(home, report)


def _clear(home: Home, report: Report) -> None:
    """Stop what a killed supervisor has left running."""
    local.stop_leftovers(report)
    if home.state.exists() and report.kind == "docker":
        docker.run(Plan.load(home.plan).on_stop)
    home.state.unlink(missing_ok=True)


def _status_of(name: str, settings: StackSettings, home: Home, report: Report | None) -> ServerStatus:
    if name not in settings.wanted():
        setting = "CITYBEAT_DATABASE_URL" if name == TIMESCALEDB else "CITYBEAT_MQTT_URL"
        return ServerStatus(name=name, state="given", pid=None, detail=f"by {setting}")
    if report is None or name not in report.ports:
        return ServerStatus(name=name, state="stopped", pid=None, detail="not started")
    port = report.ports[name]
    if report.kind == "docker":
        return docker.status(home, name, port)
    server = report.servers.get(name)
    if server is None:
        return ServerStatus(name=name, state="stopped", pid=None, detail="being started")
    if local.still_runs(report, name):
        return ServerStatus(name=name, state="running", pid=server.process.pid, detail=f"{LOOPBACK}:{port}")
    how = "" if server.exit_status is None else f"exit status {server.exit_status}; "
    detail = f"{how}the end of {home.log(name)}:\n{local.tail(home.log(name), server.log_from)}"
    return ServerStatus(name=name, state="crashed", pid=None, detail=detail)
