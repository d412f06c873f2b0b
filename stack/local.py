"""The servers from the private root: prepares everything that the supervisor needs to start them."""

import os
import shutil
import signal
from pathlib import Path

from citybeat.stack import mosquitto, postgres, root, sandbox
from citybeat.stack.errors import CredentialsError, PortTakenError
from citybeat.stack.model import MOSQUITTO, PORT_SETTINGS, TIMESCALEDB, Home, Say, StackSettings
from citybeat.stack.passwords import OWNER, Passwords
from citybeat.stack.plan import Plan, Report
from citybeat.stack.process import free_port, is_alive, port_is_free, send, wait_gone
from citybeat.stack.sandbox import Kind

CONFIG = Path(__file__).parent / "config"  # compose.yaml mounts the same files


def prepare(settings: StackSettings, home: Home, say: Say, force: Kind | None = None) -> tuple[Plan, str]:
    """Build the root, choose a sandbox, create the database cluster, and write all configuration.

    Parameters
    ----------
    force
        Use this kind of sandbox; for tests of the fallback.

    Returns
    -------
    plan, build
        The plan of the supervisor, and the build id of the root.

    Raises
    ------
    StackError
        Any subclass; the message says what to do.
    """
    passwords = load_passwords(home)
    ports = {name: check_port(name, settings.pg_port if name == TIMESCALEDB else settings.mqtt_port) for name in settings.wanted()}
    where = home.root(settings)
    if root.build_id(where) is None or os.geteuid() != 0:
        root.require_tools([*(["mmdebstrap"] if root.build_id(where) is None else []), *_runner()])
    build = root.ensure(where, say)
    box = sandbox.choose(where, home.servers, force)
    box.prepare()
    _copy_config(home)
    programs = []
    if TIMESCALEDB in ports:
        if postgres.make_cluster(home, box, passwords):
            say("made a database cluster")
        programs.append(postgres.program(home, box, ports[TIMESCALEDB]))
    if MOSQUITTO in ports:
        mosquitto.write_users(home, box, passwords)
        programs.append(mosquitto.program(home, box, ports[MOSQUITTO]))
    return Plan(kind="root", ports=ports, sandbox=box.to_json(), programs=programs), build


def load_passwords(home: Home) -> Passwords:
    """Read the home's passwords, and create those that the stack itself needs.

    Raises
    ------
    CredentialsError
        There is a database, but its passwords are missing.
    """
    passwords = Passwords(home.credentials)
    if OWNER not in passwords.database and (home.servers / postgres.DATA).exists():
        raise CredentialsError(
            f"{home.credentials} is missing, and with it the password of the database in {home.servers / postgres.DATA}: "
            "restore the file, or delete the data with `citybeat stack reset`"
        )
    passwords.add_own()
    return passwords


def check_port(name: str, port: int) -> int:
    """Return the port of a server: the requested one, or a free one for 0.

    Raises
    ------
    PortTakenError
        The port is taken; the message names the port and the setting.
    """
    if port == 0:
        return free_port()
    if not port_is_free(port):
        setting = PORT_SETTINGS[name]
        raise PortTakenError(
            f"port {port} on 127.0.0.1, configured for {name}, is taken by another program: stop that program, or set "
            f"{setting} to a free port (for example {setting}={free_port()})"
        )
    return port


def stop_leftovers(report: Report) -> None:
    """Stop servers left by a supervisor that was killed; usually there are none."""
    for server in report.servers.values():
        for number, seconds in ((signal.SIGINT, 20.0), (signal.SIGKILL, 5.0)):  # Mosquitto treats SIGINT as SIGTERM
            if send(server.process, number) and wait_gone(server.process, seconds):
                break


def stop_supervisor(report: Report) -> None:
    """Tell the supervisor to stop its servers, and wait until it has ended."""
    allowed = 120.0  # seconds: more than the supervisor gives its servers
    if send(report.supervisor, signal.SIGTERM) and not wait_gone(report.supervisor, allowed):
        send(report.supervisor, signal.SIGKILL)
        wait_gone(report.supervisor, 5.0)
    stop_leftovers(report)


def delete_data(home: Home) -> None:
    for path in (*postgres.data_directories(home), *mosquitto.data_directories(home)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def tail(log: Path, start: int = 0, lines: int = 12) -> str:
    """The last lines of a log, ignoring its first `start` bytes."""
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(start if start <= size else 0, size - 64 * 1024))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def trim_log(log: Path, limit: int = 10 * 1024 * 1024) -> None:
    """Rename a log of more than `limit` bytes, replacing the previous one; called when a server starts."""
    if log.exists() and log.stat().st_size > limit:
        log.replace(log.with_name(log.name + ".1"))


def still_runs(report: Report, name: str) -> bool:
    server = report.servers.get(name)
    return server is not None and server.state == "running" and is_alive(server.process)


def _runner() -> list[str]:
    return [] if os.geteuid() == 0 else ["bwrap"]


def _copy_config(home: Home) -> None:
    # Copied, not mounted: the chroot fallback cannot mount, and other users may not be able to read the package's folder.
    for old in home.config.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    for part in ("postgres", "mosquitto"):
        shutil.copytree(CONFIG / part, home.config / part, copy_function=shutil.copyfile)
    for directory, _, files in os.walk(home.servers / "config"):
        Path(directory).chmod(0o755)
        for name in files:
            Path(directory, name).chmod(0o644)
